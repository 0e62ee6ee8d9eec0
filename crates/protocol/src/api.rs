//! The table of APIs: keys, names, the versions that are served and advertised, where flexible versions begin, and how
//! large a body may be.
//!
//! The table contains only implemented versions: every advertised version is answered.

use std::fmt;

/// The APIs that are served, by Kafka's names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(i16)]
pub enum Api {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    LeaveGroup = 13,
    SyncGroup = 14,
    DescribeGroups = 15,
    ListGroups = 16,
    SaslHandshake = 17,
    ApiVersions = 18,
    CreateTopics = 19,
    DeleteTopics = 20,
    DeleteRecords = 21,
    InitProducerId = 22,
    OffsetForLeaderEpoch = 23,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    WriteTxnMarkers = 27,
    TxnOffsetCommit = 28,
    DescribeAcls = 29,
    CreateAcls = 30,
    DeleteAcls = 31,
    DescribeConfigs = 32,
    AlterConfigs = 33,
    AlterReplicaLogDirs = 34,
    DescribeLogDirs = 35,
    SaslAuthenticate = 36,
    CreatePartitions = 37,
    CreateDelegationToken = 38,
    RenewDelegationToken = 39,
    ExpireDelegationToken = 40,
    DescribeDelegationToken = 41,
    DeleteGroups = 42,
    ElectLeaders = 43,
    IncrementalAlterConfigs = 44,
    AlterPartitionReassignments = 45,
    ListPartitionReassignments = 46,
    OffsetDelete = 47,
    DescribeClientQuotas = 48,
    AlterClientQuotas = 49,
    DescribeUserScramCredentials = 50,
    AlterUserScramCredentials = 51,
    DescribeQuorum = 55,
    UpdateFeatures = 57,
    DescribeCluster = 60,
    DescribeProducers = 61,
    UnregisterBroker = 64,
    DescribeTransactions = 65,
    ListTransactions = 66,
    ConsumerGroupHeartbeat = 68,
    ConsumerGroupDescribe = 69,
    GetTelemetrySubscriptions = 71,
    PushTelemetry = 72,
    ListConfigResources = 74,
    DescribeTopicPartitions = 75,
    AddRaftVoter = 80,
    RemoveRaftVoter = 81,
}

/// Versions from `min` to `max`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VersionRange {
    pub min: i16,
    pub max: i16,
}

impl VersionRange {
    pub fn contains(self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// The intersection of both ranges; none if it is empty.
    pub fn intersect(self, other: Self) -> Option<Self> {
        let (min, max) = (self.min.max(other.min), self.max.min(other.max));
        (min <= max).then_some(Self { min, max })
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

#[derive(Clone, Copy)]
struct Spec {
    name: &'static str,
    served: (i16, i16),
    flexible_from: i16,
    body_max_bytes: usize,
    effect: Effect,
}

/// What a request changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    Read,
    /// Something that a later request of the same connection must see: Kafka handles them one after another.
    Write,
    /// The caller's membership of a group. The answer may wait for other members, and tells all that the caller needs.
    Member,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The largest key of the table, and one.
const KEYS: usize = Api::RemoveRaftVoter as usize + 1;

/// The APIs by their keys: every request is looked up here.
const BY_KEY: [Option<Api>; KEYS] = {
    let mut by_key = [None; KEYS];
    let mut at = 0;
    while at < Api::ALL.len() {
        by_key[Api::ALL[at] as usize] = Some(Api::ALL[at]);
        at += 1;
    }
    by_key
};

/// The properties of each API, by its key: every request looks some of them up. Those of keys that are not served are
/// never read.
static SPECS: [Spec; KEYS] = {
    let mut specs = [Api::Produce.described(); KEYS];
    let mut at = 0;
    while at < Api::ALL.len() {
        specs[Api::ALL[at] as usize] = Api::ALL[at].described();
        at += 1;
    }
    specs
};

const fn spec(
    name: &'static str,
    served: (i16, i16),
    flexible_from: i16,
    body_max_bytes: usize,
    effect: Effect,
) -> Spec {
    Spec { name, served, flexible_from, body_max_bytes, effect }
}

impl Api {
    /// Every API of the table, ascending by key.
    pub const ALL: &'static [Self] = &[
        Self::Produce,
        Self::Fetch,
        Self::ListOffsets,
        Self::Metadata,
        Self::OffsetCommit,
        Self::OffsetFetch,
        Self::FindCoordinator,
        Self::JoinGroup,
        Self::Heartbeat,
        Self::LeaveGroup,
        Self::SyncGroup,
        Self::DescribeGroups,
        Self::ListGroups,
        Self::SaslHandshake,
        Self::ApiVersions,
        Self::CreateTopics,
        Self::DeleteTopics,
        Self::DeleteRecords,
        Self::InitProducerId,
        Self::OffsetForLeaderEpoch,
        Self::AddPartitionsToTxn,
        Self::AddOffsetsToTxn,
        Self::EndTxn,
        Self::WriteTxnMarkers,
        Self::TxnOffsetCommit,
        Self::DescribeAcls,
        Self::CreateAcls,
        Self::DeleteAcls,
        Self::DescribeConfigs,
        Self::AlterConfigs,
        Self::AlterReplicaLogDirs,
        Self::DescribeLogDirs,
        Self::SaslAuthenticate,
        Self::CreatePartitions,
        Self::CreateDelegationToken,
        Self::RenewDelegationToken,
        Self::ExpireDelegationToken,
        Self::DescribeDelegationToken,
        Self::DeleteGroups,
        Self::ElectLeaders,
        Self::IncrementalAlterConfigs,
        Self::AlterPartitionReassignments,
        Self::ListPartitionReassignments,
        Self::OffsetDelete,
        Self::DescribeClientQuotas,
        Self::AlterClientQuotas,
        Self::DescribeUserScramCredentials,
        Self::AlterUserScramCredentials,
        Self::DescribeQuorum,
        Self::UpdateFeatures,
        Self::DescribeCluster,
        Self::DescribeProducers,
        Self::UnregisterBroker,
        Self::DescribeTransactions,
        Self::ListTransactions,
        Self::ConsumerGroupHeartbeat,
        Self::ConsumerGroupDescribe,
        Self::GetTelemetrySubscriptions,
        Self::PushTelemetry,
        Self::ListConfigResources,
        Self::DescribeTopicPartitions,
        Self::AddRaftVoter,
        Self::RemoveRaftVoter,
    ];

    /// Versions are those of Kafka 4.3. Body sizes: a Produce is bounded by `socket.request.max.bytes` alone; lists of
    /// topics and partitions get room for about 100,000 entries; data of group members ends in records of at most 1
    /// MiB, and a SyncGroup has the data of many members; a PushTelemetry has twice the most of `telemetry.max.bytes`;
    /// the others contain one or two names.
    const fn described(self) -> Spec {
        use Effect::{Member, Read, Write};
        match self {
            Self::Produce => spec("Produce", (3, 13), 9, usize::MAX, Write),
            Self::Fetch => spec("Fetch", (4, 18), 12, 16 * MIB, Read),
            Self::ListOffsets => spec("ListOffsets", (1, 11), 6, 8 * MIB, Read),
            Self::Metadata => spec("Metadata", (0, 13), 9, 4 * MIB, Read),
            Self::OffsetCommit => spec("OffsetCommit", (2, 10), 8, 8 * MIB, Write),
            Self::OffsetFetch => spec("OffsetFetch", (1, 10), 6, 8 * MIB, Read),
            Self::FindCoordinator => spec("FindCoordinator", (0, 6), 3, MIB, Read),
            Self::JoinGroup => spec("JoinGroup", (0, 9), 6, 4 * MIB, Member),
            Self::Heartbeat => spec("Heartbeat", (0, 4), 4, 256 * KIB, Member),
            Self::LeaveGroup => spec("LeaveGroup", (0, 5), 4, 4 * MIB, Write),
            Self::SyncGroup => spec("SyncGroup", (0, 5), 4, 16 * MIB, Member),
            Self::DescribeGroups => spec("DescribeGroups", (0, 6), 5, 4 * MIB, Read),
            Self::ListGroups => spec("ListGroups", (0, 5), 3, MIB, Read),
            Self::ApiVersions => spec("ApiVersions", (0, 4), 3, 64 * KIB, Read),
            Self::CreateTopics => spec("CreateTopics", (2, 7), 5, 4 * MIB, Write),
            Self::DeleteTopics => spec("DeleteTopics", (1, 6), 4, 4 * MIB, Write),
            Self::DeleteRecords => spec("DeleteRecords", (0, 2), 2, 4 * MIB, Write),
            Self::InitProducerId => spec("InitProducerId", (0, 5), 2, 64 * KIB, Write),
            Self::AddPartitionsToTxn => spec("AddPartitionsToTxn", (0, 5), 3, 8 * MIB, Write),
            Self::AddOffsetsToTxn => spec("AddOffsetsToTxn", (0, 4), 3, 256 * KIB, Write),
            Self::EndTxn => spec("EndTxn", (0, 5), 3, 256 * KIB, Write),
            Self::WriteTxnMarkers => spec("WriteTxnMarkers", (1, 2), 1, 16 * MIB, Write),
            Self::TxnOffsetCommit => spec("TxnOffsetCommit", (0, 5), 3, 8 * MIB, Write),
            Self::DescribeTransactions => spec("DescribeTransactions", (0, 0), 0, 4 * MIB, Read),
            Self::ListTransactions => spec("ListTransactions", (0, 2), 0, MIB, Read),
            Self::OffsetForLeaderEpoch => spec("OffsetForLeaderEpoch", (2, 4), 4, 8 * MIB, Read),
            Self::DescribeConfigs => spec("DescribeConfigs", (1, 4), 4, 4 * MIB, Read),
            Self::AlterConfigs => spec("AlterConfigs", (0, 2), 2, 4 * MIB, Write),
            Self::AlterReplicaLogDirs => spec("AlterReplicaLogDirs", (1, 2), 2, 8 * MIB, Write),
            Self::DescribeLogDirs => spec("DescribeLogDirs", (1, 5), 2, 8 * MIB, Read),
            Self::CreatePartitions => spec("CreatePartitions", (0, 3), 2, 4 * MIB, Write),
            Self::CreateDelegationToken => spec("CreateDelegationToken", (1, 3), 2, 64 * KIB, Write),
            Self::RenewDelegationToken => spec("RenewDelegationToken", (1, 2), 2, 64 * KIB, Write),
            Self::ExpireDelegationToken => spec("ExpireDelegationToken", (1, 2), 2, 64 * KIB, Write),
            Self::DescribeDelegationToken => spec("DescribeDelegationToken", (1, 3), 2, 64 * KIB, Read),
            Self::DeleteGroups => spec("DeleteGroups", (0, 2), 2, 4 * MIB, Write),
            Self::ElectLeaders => spec("ElectLeaders", (0, 2), 2, 4 * MIB, Write),
            Self::OffsetDelete => spec("OffsetDelete", (0, 0), i16::MAX, 4 * MIB, Write),
            Self::IncrementalAlterConfigs => spec("IncrementalAlterConfigs", (0, 1), 1, 4 * MIB, Write),
            Self::SaslHandshake => spec("SaslHandshake", (0, 1), i16::MAX, 64 * KIB, Read),
            Self::SaslAuthenticate => spec("SaslAuthenticate", (0, 2), 2, 512 * KIB, Read),
            Self::DescribeAcls => spec("DescribeAcls", (1, 3), 2, 64 * KIB, Read),
            Self::CreateAcls => spec("CreateAcls", (1, 3), 2, 4 * MIB, Write),
            Self::DeleteAcls => spec("DeleteAcls", (1, 3), 2, 4 * MIB, Write),
            Self::AlterPartitionReassignments => spec("AlterPartitionReassignments", (0, 1), 0, 4 * MIB, Write),
            Self::ListPartitionReassignments => spec("ListPartitionReassignments", (0, 0), 0, 4 * MIB, Read),
            Self::DescribeClientQuotas => spec("DescribeClientQuotas", (0, 1), 1, 64 * KIB, Read),
            Self::AlterClientQuotas => spec("AlterClientQuotas", (0, 1), 1, 4 * MIB, Write),
            Self::DescribeUserScramCredentials => spec("DescribeUserScramCredentials", (0, 0), 0, 4 * MIB, Read),
            Self::AlterUserScramCredentials => spec("AlterUserScramCredentials", (0, 0), 0, 4 * MIB, Write),
            Self::DescribeQuorum => spec("DescribeQuorum", (0, 2), 0, 64 * KIB, Read),
            Self::UpdateFeatures => spec("UpdateFeatures", (0, 2), 0, 64 * KIB, Write),
            Self::DescribeProducers => spec("DescribeProducers", (0, 0), 0, 4 * MIB, Read),
            Self::UnregisterBroker => spec("UnregisterBroker", (0, 0), 0, 64 * KIB, Write),
            Self::AddRaftVoter => spec("AddRaftVoter", (0, 0), 0, 64 * KIB, Write),
            Self::RemoveRaftVoter => spec("RemoveRaftVoter", (0, 0), 0, 64 * KIB, Write),
            Self::DescribeCluster => spec("DescribeCluster", (0, 2), 0, 64 * KIB, Read),
            Self::ConsumerGroupHeartbeat => spec("ConsumerGroupHeartbeat", (0, 1), 0, 4 * MIB, Member),
            Self::ConsumerGroupDescribe => spec("ConsumerGroupDescribe", (0, 1), 0, 4 * MIB, Read),
            Self::GetTelemetrySubscriptions => spec("GetTelemetrySubscriptions", (0, 0), 0, 64 * KIB, Read),
            Self::PushTelemetry => spec("PushTelemetry", (0, 0), 0, 8 * MIB, Read),
            Self::ListConfigResources => spec("ListConfigResources", (0, 1), 0, 64 * KIB, Read),
            Self::DescribeTopicPartitions => spec("DescribeTopicPartitions", (0, 0), 0, 4 * MIB, Read),
        }
    }

    #[inline]
    fn spec(self) -> &'static Spec {
        // No key is beyond the table, whose length follows from the largest one.
        &SPECS[self as usize]
    }

    #[inline]
    pub fn key(self) -> i16 {
        self as i16
    }

    /// The API with this key; none if it is not served.
    #[inline]
    pub fn from_key(key: i16) -> Option<Self> {
        BY_KEY.get(usize::try_from(key).ok()?).copied().flatten()
    }

    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// The versions that are answered.
    #[inline]
    pub fn served(self) -> VersionRange {
        let (min, max) = self.spec().served;
        VersionRange { min, max }
    }

    /// The versions that ApiVersions names. Produce starts at 0 though 0 to 2 are refused: librdkafka takes a higher
    /// minimum for a broker that knows no compression (KAFKA-18659).
    pub fn advertised(self) -> VersionRange {
        match self {
            Self::Produce => VersionRange { min: 0, max: self.served().max },
            _ => self.served(),
        }
    }

    /// Whether this version has compact lengths and tagged fields (KIP-482).
    #[inline]
    pub fn is_flexible(self, version: i16) -> bool {
        version >= self.spec().flexible_from
    }

    /// 2 (with tagged fields) or 1.
    #[inline]
    pub fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// 1 (with tagged fields) or 0. ApiVersions always uses 0: its client does not know the broker's versions yet.
    #[inline]
    pub fn response_header_version(self, version: i16) -> i16 {
        i16::from(self != Self::ApiVersions && self.is_flexible(version))
    }

    /// The version of the schema that the codec knows for a served version: ListOffsets 11 added a special timestamp
    /// and no field (KIP-1023); DescribeLogDirs 5 added a field to the response, see [`crate::messages`];
    /// WriteTxnMarkers has a parser of its own.
    pub fn schema_version(self, version: i16) -> i16 {
        match self {
            Self::ListOffsets => version.min(10),
            Self::DescribeLogDirs => version.min(4),
            Self::WriteTxnMarkers => 1,
            _ => version,
        }
    }

    /// Whether later requests of the same connection must see what this one changes.
    #[inline]
    pub fn is_write(self) -> bool {
        self.spec().effect == Effect::Write
    }

    /// The largest body that is accepted, in bytes.
    #[inline]
    pub fn body_max_bytes(self) -> usize {
        self.spec().body_max_bytes
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;

    use super::*;

    #[test]
    fn header_versions_and_ranges_agree_with_the_schemas() {
        assert!(Api::ALL.is_sorted());
        for &api in Api::ALL {
            assert_eq!(Api::from_key(api.key()), Some(api));
            let key = ApiKey::try_from(api.key()).unwrap();
            assert_eq!(format!("{key:?}").trim_end_matches("Key"), api.name());
            for version in api.served().min..=api.served().max {
                let schema = api.schema_version(version);
                assert!(key.valid_versions().min <= schema && schema <= key.valid_versions().max, "{api} {version}");
                assert_eq!(api.request_header_version(version), key.request_header_version(schema), "{api} {version}");
                assert_eq!(
                    api.response_header_version(version),
                    key.response_header_version(schema),
                    "{api} {version}"
                );
            }
        }
        for key in [4, -1, i16::MIN, i16::MAX, KEYS as i16] {
            assert_eq!(Api::from_key(key), None);
        }
        assert_eq!(Api::Produce.advertised(), VersionRange { min: 0, max: 13 });
    }
}
