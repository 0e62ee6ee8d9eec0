//! Family `raft_state`: a few small values under fixed names.
//!
//! | key | value |
//! |---|---|
//! | `hard_state`, `conf_state` | Raft's own protobuf forms |
//! | `compacted`, `applied` | index and term, 8 bytes each, big-endian |
//! | `identity` | who this disk is, see [`Identity`] |

use std::collections::BTreeMap;

use ottla_consensus::log_store::{ConfState, HardState};
use ottla_model::{CoordinatorId, IncarnationId};
use ottla_quorum_node::Voter;
use prost::Message as _;
use protobuf::Message as _;
use rocksdb::WriteBatch;

use super::{Disk, DiskError};

pub(super) const FAMILY: &str = "raft_state";

const HARD_STATE: &[u8] = b"hard_state";
const CONF_STATE: &[u8] = b"conf_state";
const COMPACTED: &[u8] = b"compacted";
const APPLIED: &[u8] = b"applied";
const IDENTITY: &[u8] = b"identity";

/// The identity of this disk. Written before the coordinator sends its first message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub id: CoordinatorId,
    /// New with every empty disk.
    pub disk: IncarnationId,
    /// The quorum of this disk: the address and, if it was seen, the disk of every voter. Empty: not formed.
    pub voters: BTreeMap<CoordinatorId, Voter>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct IdentityRecord {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "vec", tag = "2")]
    disk: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    voters: Vec<VoterRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VoterRecord {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(bytes = "vec", tag = "3")]
    disk: Vec<u8>,
}

impl Identity {
    fn encode(&self) -> Vec<u8> {
        let voters = self.voters.iter().map(|(id, voter)| VoterRecord {
            id: id.0,
            address: voter.address.clone(),
            disk: voter.disk.map(|disk| disk.0.to_vec()).unwrap_or_default(),
        });
        IdentityRecord { id: self.id.0, disk: self.disk.0.to_vec(), voters: voters.collect() }.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, DiskError> {
        const WHAT: &str = "the disk's identity";
        let record = IdentityRecord::decode(bytes).map_err(|error| DiskError::corrupt(WHAT, error))?;
        let disk = IncarnationId::from_slice(&record.disk).ok_or_else(|| DiskError::corrupt(WHAT, "no disk id"))?;
        let voters = record
            .voters
            .into_iter()
            .map(|voter| {
                let disk = IncarnationId::from_slice(&voter.disk);
                (CoordinatorId(voter.id), Voter { address: voter.address, disk })
            })
            .collect();
        Ok(Self { id: CoordinatorId(record.id), disk, voters })
    }
}

impl Disk {
    pub fn identity(&self) -> Result<Option<Identity>, DiskError> {
        self.get(FAMILY, IDENTITY)?.map(|bytes| Identity::decode(&bytes)).transpose()
    }

    /// On the disk when this returns.
    pub fn write_identity(&self, identity: &Identity) -> Result<(), DiskError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(&self.family(FAMILY), IDENTITY, identity.encode());
        self.write(batch, true)
    }

    pub(super) fn hard_state(&self) -> Result<HardState, DiskError> {
        let Some(bytes) = self.get(FAMILY, HARD_STATE)? else { return Ok(HardState::default()) };
        HardState::parse_from_bytes(&bytes).map_err(|error| DiskError::corrupt("raft's hard state", error))
    }

    pub(super) fn conf_state(&self) -> Result<ConfState, DiskError> {
        members(self.get(FAMILY, CONF_STATE)?)
    }

    /// Index and term; zero on an empty disk.
    pub(super) fn compacted(&self) -> Result<(u64, u64), DiskError> {
        place("the log's beginning", self.get(FAMILY, COMPACTED)?)
    }

    /// Index and term of the last entry that the tree on the disk holds.
    pub fn applied(&self) -> Result<(u64, u64), DiskError> {
        place("the applied revision", self.get(FAMILY, APPLIED)?)
    }

    pub(super) fn put_hard_state(&self, batch: &mut WriteBatch, state: &HardState) -> Result<(), DiskError> {
        let bytes = state.write_to_bytes().map_err(|error| DiskError::corrupt("raft's hard state", error))?;
        batch.put_cf(&self.family(FAMILY), HARD_STATE, bytes);
        Ok(())
    }

    pub(super) fn put_conf_state(&self, batch: &mut WriteBatch, state: &ConfState) -> Result<(), DiskError> {
        let bytes = state.write_to_bytes().map_err(|error| DiskError::corrupt("the membership", error))?;
        batch.put_cf(&self.family(FAMILY), CONF_STATE, bytes);
        Ok(())
    }

    pub(super) fn put_compacted(&self, batch: &mut WriteBatch, place: (u64, u64)) {
        batch.put_cf(&self.family(FAMILY), COMPACTED, encode_place(place));
    }

    pub(super) fn put_applied(&self, batch: &mut WriteBatch, place: (u64, u64)) {
        batch.put_cf(&self.family(FAMILY), APPLIED, encode_place(place));
    }

    /// The membership within a RocksDB snapshot.
    pub(super) fn conf_state_key() -> &'static [u8] {
        CONF_STATE
    }

    /// The applied revision within a RocksDB snapshot.
    pub(super) fn applied_key() -> &'static [u8] {
        APPLIED
    }
}

/// Without members on an empty disk.
pub(super) fn members(bytes: Option<Vec<u8>>) -> Result<ConfState, DiskError> {
    let Some(bytes) = bytes else { return Ok(ConfState::default()) };
    ConfState::parse_from_bytes(&bytes).map_err(|error| DiskError::corrupt("the membership", error))
}

fn encode_place((index, term): (u64, u64)) -> [u8; 16] {
    (u128::from(index) << 64 | u128::from(term)).to_be_bytes()
}

pub(super) fn place(what: &'static str, bytes: Option<Vec<u8>>) -> Result<(u64, u64), DiskError> {
    let Some(bytes) = bytes else { return Ok((0, 0)) };
    let both = <[u8; 16]>::try_from(&bytes[..]).map(u128::from_be_bytes);
    let both = both.map_err(|_| DiskError::corrupt(what, format!("{} bytes instead of 16", bytes.len())))?;
    Ok(((both >> 64) as u64, both as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives() {
        let directory = tempfile::tempdir().expect("a directory");
        let seen = Voter { address: "coordinator-2:2888".into(), disk: Some(IncarnationId([2; 16])) };
        let unseen = Voter { address: "coordinator-3:2888".into(), disk: None };
        let identity = Identity {
            id: CoordinatorId(1),
            disk: IncarnationId([1; 16]),
            voters: BTreeMap::from([(CoordinatorId(2), seen), (CoordinatorId(3), unseen)]),
        };
        {
            let disk = Disk::open(directory.path()).expect("opens");
            assert_eq!(disk.identity().expect("readable"), None);
            disk.write_identity(&identity).expect("written");
            assert!(matches!(Disk::open(directory.path()), Err(super::super::OpenError::InUse { .. })));
        }
        let disk = Disk::open(directory.path()).expect("opens again");
        assert_eq!(disk.identity().expect("readable"), Some(identity));
    }
}
