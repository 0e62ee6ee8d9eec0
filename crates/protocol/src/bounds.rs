//! Checks how much a decoder would allocate for a request body, before it runs.
//!
//! `kafka_protocol` passes array lengths from the wire to `Vec::with_capacity`: four bytes can request 144 GiB. So each
//! body is first walked here by a description of its schema, without allocating: every array must fit into the
//! remaining bytes, all arrays together must be below [`elements_max`], all tagged fields below
//! [`TAGGED_FIELDS_TOTAL_MAX`]. Decoding a body that passes adds less than 64 MiB. Produce, Fetch, OffsetCommit,
//! OffsetFetch and WriteTxnMarkers have their own parsers ([`crate::messages`]) with the same bounds.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};

use crate::api::Api;
use crate::wire::{self, Reader, WireError};

/// The most array elements in one request, nested ones counted. A decoded element takes 24 to 150 bytes, so that a
/// quarter of a million stays below 40 MiB; a list of all partitions of the largest cluster has 100,000.
pub const ELEMENTS_MAX: u32 = 250_000;

/// The ceiling of this process: [`ELEMENTS_MAX`], or less where its memory is small.
static ELEMENTS: AtomicU32 = AtomicU32::new(ELEMENTS_MAX);

/// Lowers the ceiling of elements in one request for this process.
pub fn set_elements_max(elements: u32) {
    ELEMENTS.store(elements.min(ELEMENTS_MAX), Ordering::Relaxed);
}

/// The most array elements in one request that this process accepts.
pub fn elements_max() -> u32 {
    ELEMENTS.load(Ordering::Relaxed)
}

/// The most tagged fields in one request. Each unknown one costs a map node of half a KiB.
pub const TAGGED_FIELDS_TOTAL_MAX: u32 = 10_000;

/// A body that is not given to a decoder.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BoundsError {
    #[error("API key {0} is not served")]
    UnknownApi(i16),
    #[error("version {version} of {api} is not served")]
    UnsupportedVersion { api: Api, version: i16 },
    #[error("{api} with a body of {size} bytes: at most {max} are accepted")]
    TooLarge { api: Api, size: usize, max: usize },
    #[error("{api} version {version}: {error}")]
    Malformed { api: Api, version: i16, error: WireError },
}

/// A field of a schema, as far as lengths are concerned.
enum Field {
    /// This many bytes, with these versions.
    Fixed(usize, Since),
    Text(Since),
    NullableText(Since),
    /// A byte string.
    Bytes(Since),
    /// An array of structs that end in tagged fields where the version is flexible.
    Structs(&'static [Field], Since),
    /// An array of numbers of this many bytes.
    Numbers(usize, Since),
    Texts(Since),
    /// A struct after a byte that says whether it is there.
    OptionalStruct(&'static [Field]),
}

/// The versions that have a field, both ends included.
type Since = std::ops::RangeInclusive<i16>;

const ALL: Since = 0..=i16::MAX;

const fn since(version: i16) -> Since {
    version..=i16::MAX
}

/// The fields of an API's request in wire order; none for the APIs with parsers of their own.
fn schema(api: Api) -> Option<&'static [Field]> {
    use Field::{Bytes, Fixed, NullableText, Numbers, OptionalStruct, Structs, Text, Texts};
    Some(match api {
        Api::Produce | Api::Fetch | Api::OffsetCommit | Api::OffsetFetch | Api::WriteTxnMarkers => return None,
        Api::ListOffsets => {
            const {
                &[
                    Fixed(4, ALL),
                    Fixed(1, since(2)),
                    Structs(&[Text(ALL), Structs(&[Fixed(4, ALL), Fixed(4, since(4)), Fixed(8, ALL)], ALL)], ALL),
                    Fixed(4, since(10)),
                ]
            }
        }
        Api::Metadata => {
            const {
                &[
                    Structs(&[Fixed(16, since(10)), NullableText(ALL)], ALL),
                    Fixed(1, since(4)),
                    Fixed(1, 8..=10),
                    Fixed(1, since(8)),
                ]
            }
        }
        Api::FindCoordinator => const { &[Text(0..=3), Fixed(1, since(1)), Texts(since(4))] },
        Api::JoinGroup => {
            const {
                &[
                    Text(ALL),
                    Fixed(4, ALL),
                    Fixed(4, since(1)),
                    Text(ALL),
                    NullableText(since(5)),
                    Text(ALL),
                    Structs(&[Text(ALL), Bytes(ALL)], ALL),
                    NullableText(since(8)),
                ]
            }
        }
        Api::Heartbeat => const { &[Text(ALL), Fixed(4, ALL), Text(ALL), NullableText(since(3))] },
        Api::LeaveGroup => {
            const {
                const MEMBER: &[Field] = &[Text(ALL), NullableText(ALL), NullableText(since(5))];
                &[Text(ALL), Text(0..=2), Structs(MEMBER, since(3))]
            }
        }
        Api::SyncGroup => {
            const {
                &[
                    Text(ALL),
                    Fixed(4, ALL),
                    Text(ALL),
                    NullableText(since(3)),
                    NullableText(since(5)),
                    NullableText(since(5)),
                    Structs(&[Text(ALL), Bytes(ALL)], ALL),
                ]
            }
        }
        Api::DescribeGroups => const { &[Texts(ALL), Fixed(1, since(3))] },
        Api::ListGroups => const { &[Texts(since(4)), Texts(since(5))] },
        Api::DeleteGroups => const { &[Texts(ALL)] },
        Api::OffsetDelete => const { &[Text(ALL), Structs(&[Text(ALL), Structs(&[Fixed(4, ALL)], ALL)], ALL)] },
        Api::ConsumerGroupHeartbeat => {
            const {
                &[
                    Text(ALL),
                    Text(ALL),
                    Fixed(4, ALL),
                    NullableText(ALL),
                    NullableText(ALL),
                    Fixed(4, ALL),
                    Texts(ALL),
                    NullableText(since(1)),
                    NullableText(ALL),
                    Structs(&[Fixed(16, ALL), Numbers(4, ALL)], ALL),
                ]
            }
        }
        Api::ConsumerGroupDescribe => const { &[Texts(ALL), Fixed(1, ALL)] },
        Api::ApiVersions => const { &[Text(since(3)), Text(since(3))] },
        Api::CreateTopics => {
            const {
                &[
                    Structs(
                        &[
                            Text(ALL),
                            Fixed(4, ALL),
                            Fixed(2, ALL),
                            Structs(&[Fixed(4, ALL), Numbers(4, ALL)], ALL),
                            Structs(&[Text(ALL), NullableText(ALL)], ALL),
                        ],
                        ALL,
                    ),
                    Fixed(4, ALL),
                    Fixed(1, ALL),
                ]
            }
        }
        Api::DeleteTopics => {
            const { &[Structs(&[NullableText(ALL), Fixed(16, ALL)], since(6)), Texts(0..=5), Fixed(4, ALL)] }
        }
        Api::DeleteRecords => const { &[Structs(&[Text(ALL), Structs(&[Fixed(12, ALL)], ALL)], ALL), Fixed(4, ALL)] },
        Api::InitProducerId => const { &[NullableText(ALL), Fixed(4, ALL), Fixed(8, since(3)), Fixed(2, since(3))] },
        Api::OffsetForLeaderEpoch => {
            const { &[Fixed(4, since(3)), Structs(&[Text(ALL), Structs(&[Fixed(12, ALL)], ALL)], ALL)] }
        }
        Api::DescribeConfigs => {
            const { &[Structs(&[Fixed(1, ALL), Text(ALL), Texts(ALL)], ALL), Fixed(1, ALL), Fixed(1, since(3))] }
        }
        Api::AlterConfigs => {
            const {
                &[
                    Structs(&[Fixed(1, ALL), Text(ALL), Structs(&[Text(ALL), NullableText(ALL)], ALL)], ALL),
                    Fixed(1, ALL),
                ]
            }
        }
        Api::IncrementalAlterConfigs => {
            const {
                &[
                    Structs(
                        &[Fixed(1, ALL), Text(ALL), Structs(&[Text(ALL), Fixed(1, ALL), NullableText(ALL)], ALL)],
                        ALL,
                    ),
                    Fixed(1, ALL),
                ]
            }
        }
        Api::GetTelemetrySubscriptions => const { &[Fixed(16, ALL)] },
        Api::PushTelemetry => const { &[Fixed(16, ALL), Fixed(4, ALL), Fixed(1, ALL), Fixed(1, ALL), Bytes(ALL)] },
        Api::ListConfigResources => const { &[Numbers(1, since(1))] },
        Api::DescribeLogDirs => const { &[Structs(&[Text(ALL), Numbers(4, ALL)], ALL)] },
        Api::AlterReplicaLogDirs => {
            const { &[Structs(&[Text(ALL), Structs(&[Text(ALL), Numbers(4, ALL)], ALL)], ALL)] }
        }
        Api::ElectLeaders => {
            const { &[Fixed(1, since(1)), Structs(&[Text(ALL), Numbers(4, ALL)], ALL), Fixed(4, ALL)] }
        }
        Api::CreatePartitions => {
            const {
                &[
                    Structs(&[Text(ALL), Fixed(4, ALL), Structs(&[Numbers(4, ALL)], ALL)], ALL),
                    Fixed(4, ALL),
                    Fixed(1, ALL),
                ]
            }
        }
        Api::SaslHandshake => const { &[Text(ALL)] },
        Api::SaslAuthenticate => const { &[Bytes(ALL)] },
        Api::DescribeAcls => {
            const {
                const NAME: Field = NullableText(ALL);
                &[Fixed(1, ALL), NAME, Fixed(1, ALL), NAME, NAME, Fixed(2, ALL)]
            }
        }
        Api::CreateAcls => {
            const { &[Structs(&[Fixed(1, ALL), Text(ALL), Fixed(1, ALL), Text(ALL), Text(ALL), Fixed(2, ALL)], ALL)] }
        }
        Api::DeleteAcls => {
            const {
                &[Structs(
                    &[
                        Fixed(1, ALL),
                        NullableText(ALL),
                        Fixed(1, ALL),
                        NullableText(ALL),
                        NullableText(ALL),
                        Fixed(2, ALL),
                    ],
                    ALL,
                )]
            }
        }
        Api::AlterPartitionReassignments => {
            const {
                const PARTITION: &[Field] = &[Fixed(4, ALL), Numbers(4, ALL)];
                &[Fixed(4, ALL), Fixed(1, since(1)), Structs(&[Text(ALL), Structs(PARTITION, ALL)], ALL)]
            }
        }
        Api::ListPartitionReassignments => const { &[Fixed(4, ALL), Structs(&[Text(ALL), Numbers(4, ALL)], ALL)] },
        Api::CreateDelegationToken => {
            const {
                const PRINCIPAL: &[Field] = &[Text(ALL), Text(ALL)];
                &[NullableText(since(3)), NullableText(since(3)), Structs(PRINCIPAL, ALL), Fixed(8, ALL)]
            }
        }
        Api::RenewDelegationToken | Api::ExpireDelegationToken => const { &[Bytes(ALL), Fixed(8, ALL)] },
        Api::DescribeDelegationToken => const { &[Structs(&[Text(ALL), Text(ALL)], ALL)] },
        Api::DescribeClientQuotas => {
            const { &[Structs(&[Text(ALL), Fixed(1, ALL), NullableText(ALL)], ALL), Fixed(1, ALL)] }
        }
        Api::DescribeUserScramCredentials => const { &[Structs(&[Text(ALL)], ALL)] },
        Api::AlterUserScramCredentials => {
            const {
                const UPSERTION: &[Field] = &[Text(ALL), Fixed(1, ALL), Fixed(4, ALL), Bytes(ALL), Bytes(ALL)];
                &[Structs(&[Text(ALL), Fixed(1, ALL)], ALL), Structs(UPSERTION, ALL)]
            }
        }
        Api::AlterClientQuotas => {
            const {
                &[
                    Structs(
                        &[
                            Structs(&[Text(ALL), NullableText(ALL)], ALL),
                            Structs(&[Text(ALL), Fixed(8, ALL), Fixed(1, ALL)], ALL),
                        ],
                        ALL,
                    ),
                    Fixed(1, ALL),
                ]
            }
        }
        Api::UpdateFeatures => {
            const {
                &[
                    Fixed(4, ALL),
                    Structs(&[Text(ALL), Fixed(2, ALL), Fixed(1, 0..=0), Fixed(1, since(1))], ALL),
                    Fixed(1, since(1)),
                ]
            }
        }
        Api::DescribeQuorum => const { &[Structs(&[Text(ALL), Structs(&[Fixed(4, ALL)], ALL)], ALL)] },
        Api::DescribeProducers => const { &[Structs(&[Text(ALL), Numbers(4, ALL)], ALL)] },
        Api::AddPartitionsToTxn => {
            const {
                const TOPICS: &[Field] = &[Text(ALL), Numbers(4, ALL)];
                const TRANSACTION: &[Field] =
                    &[Text(ALL), Fixed(8, ALL), Fixed(2, ALL), Fixed(1, ALL), Structs(TOPICS, ALL)];
                &[Structs(TRANSACTION, since(4)), Text(0..=3), Fixed(8, 0..=3), Fixed(2, 0..=3), Structs(TOPICS, 0..=3)]
            }
        }
        Api::AddOffsetsToTxn => const { &[Text(ALL), Fixed(8, ALL), Fixed(2, ALL), Text(ALL)] },
        Api::EndTxn => const { &[Text(ALL), Fixed(8, ALL), Fixed(2, ALL), Fixed(1, ALL)] },
        Api::TxnOffsetCommit => {
            const {
                const PARTITION: &[Field] = &[Fixed(4, ALL), Fixed(8, ALL), Fixed(4, since(2)), NullableText(ALL)];
                &[
                    Text(ALL),
                    Text(ALL),
                    Fixed(8, ALL),
                    Fixed(2, ALL),
                    Fixed(4, since(3)),
                    Text(since(3)),
                    NullableText(since(3)),
                    Structs(&[Text(ALL), Structs(PARTITION, ALL)], ALL),
                ]
            }
        }
        Api::DescribeTransactions => const { &[Texts(ALL)] },
        Api::ListTransactions => const { &[Texts(ALL), Numbers(8, ALL), Fixed(8, since(1)), NullableText(since(2))] },
        Api::UnregisterBroker => const { &[Fixed(4, ALL)] },
        Api::AddRaftVoter => {
            const {
                const LISTENER: &[Field] = &[Text(ALL), Text(ALL), Fixed(2, ALL)];
                &[NullableText(ALL), Fixed(4, ALL), Fixed(4, ALL), Fixed(16, ALL), Structs(LISTENER, ALL)]
            }
        }
        Api::RemoveRaftVoter => const { &[NullableText(ALL), Fixed(4, ALL), Fixed(16, ALL)] },
        Api::DescribeCluster => const { &[Fixed(1, ALL), Fixed(1, since(1)), Fixed(1, since(2))] },
        Api::DescribeTopicPartitions => {
            const { &[Structs(&[Text(ALL)], ALL), Fixed(4, ALL), OptionalStruct(&[Text(ALL), Fixed(4, ALL)])] }
        }
    })
}

/// Checks the body of a request before a decoder sees it. Bytes after the last field are accepted, as Kafka does.
pub fn check(api_key: i16, version: i16, body: &[u8]) -> Result<(), BoundsError> {
    walk(api_key, version, body).map(|_| ())
}

/// As [`check`]; returns the body with invalid UTF-8 in its strings replaced (see [`wire::text`]), because the schema's
/// decoders refuse such strings. A body with valid strings, the usual case, is returned unchanged.
pub fn check_and_repair(api_key: i16, version: i16, body: Bytes) -> Result<Bytes, BoundsError> {
    let not_utf8 = walk(api_key, version, &body)?;
    if not_utf8.is_empty() {
        return Ok(body);
    }
    let mut repaired = BytesMut::from(&body[..]);
    for range in not_utf8 {
        wire::replace_not_utf8(&mut repaired[range]);
    }
    Ok(repaired.freeze())
}

/// Checks the version and the size of a body, without reading it: [`check_and_repair`] and the parsers of
/// [`crate::messages`] check the rest, once.
pub fn check_size(api: Api, version: i16, size: usize) -> Result<(), BoundsError> {
    if !api.served().contains(version) {
        return Err(BoundsError::UnsupportedVersion { api, version });
    }
    let max = api.body_max_bytes();
    if size > max {
        return Err(BoundsError::TooLarge { api, size, max });
    }
    Ok(())
}

/// Where the body has strings that are not UTF-8.
fn walk(api_key: i16, version: i16, body: &[u8]) -> Result<Vec<Range<usize>>, BoundsError> {
    let api = Api::from_key(api_key).ok_or(BoundsError::UnknownApi(api_key))?;
    check_size(api, version, body.len())?;
    let Some(fields) = schema(api) else { return Ok(Vec::new()) };
    let elements_max = elements_max();
    let mut walk = Walk {
        reader: Reader::new(body, 0),
        version,
        flexible: api.is_flexible(version),
        elements: elements_max,
        elements_max,
        tagged_fields: TAGGED_FIELDS_TOTAL_MAX,
        not_utf8: Vec::new(),
    };
    walk.structure(fields).map_err(|error| BoundsError::Malformed { api, version, error })?;
    Ok(walk.not_utf8)
}

struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
    /// How many elements and tagged fields may still come.
    elements: u32,
    elements_max: u32,
    tagged_fields: u32,
    not_utf8: Vec<Range<usize>>,
}

impl Walk<'_> {
    /// The depth of the recursion is that of the schema, not of the input.
    fn structure(&mut self, fields: &[Field]) -> Result<(), WireError> {
        for field in fields {
            self.field(field)?;
        }
        if self.flexible {
            let count = self.reader.skip_tagged_fields()?;
            self.tagged_fields = self.tagged_fields.checked_sub(count).ok_or(WireError::TooManyTaggedFields {
                count: u64::from(TAGGED_FIELDS_TOTAL_MAX - self.tagged_fields) + u64::from(count),
                max: u64::from(TAGGED_FIELDS_TOTAL_MAX),
            })?;
        }
        Ok(())
    }

    fn field(&mut self, field: &Field) -> Result<(), WireError> {
        let here = |versions: &Since| versions.contains(&self.version);
        match field {
            Field::Fixed(bytes, versions) if here(versions) => {
                self.reader.take(*bytes)?;
            }
            Field::Text(versions) if here(versions) => {
                self.text()?.ok_or(WireError::InvalidLength(-1))?;
            }
            Field::NullableText(versions) if here(versions) => {
                self.text()?;
            }
            Field::Bytes(versions) if here(versions) => {
                self.reader.nullable_bytes(self.flexible)?.ok_or(WireError::InvalidLength(-1))?;
            }
            Field::Texts(versions) if here(versions) => {
                for _ in 0..self.array(1)? {
                    self.text()?.ok_or(WireError::InvalidLength(-1))?;
                }
            }
            Field::Numbers(bytes, versions) if here(versions) => {
                let count = self.array(*bytes)?;
                self.reader.take(count.saturating_mul(*bytes))?;
            }
            Field::Structs(fields, versions) if here(versions) => {
                for _ in 0..self.array(1)? {
                    self.structure(fields)?;
                }
            }
            Field::OptionalStruct(fields) => self.optional_structure(fields)?,
            _ => {}
        }
        Ok(())
    }

    /// A string's length; none for null.
    fn text(&mut self) -> Result<Option<usize>, WireError> {
        let Some(bytes) = self.reader.nullable_string_bytes(self.flexible)? else { return Ok(None) };
        if std::str::from_utf8(bytes).is_err() {
            let end = self.reader.position();
            self.not_utf8.push(end - bytes.len()..end);
        }
        Ok(Some(bytes.len()))
    }

    fn optional_structure(&mut self, fields: &[Field]) -> Result<(), WireError> {
        if self.reader.i8()? < 0 {
            return Ok(());
        }
        self.structure(fields)
    }

    /// The number of elements of an array, 0 for null, subtracted from the remaining allowance.
    fn array(&mut self, element_min_bytes: usize) -> Result<usize, WireError> {
        let count = self.reader.nullable_array(self.flexible, element_min_bytes, usize::MAX)?.unwrap_or(0);
        let left = u32::try_from(count).ok().and_then(|count| self.elements.checked_sub(count));
        self.elements = left.ok_or(WireError::TooManyElements {
            count: count as u64 + u64::from(self.elements_max - self.elements),
            max: u64::from(self.elements_max),
        })?;
        Ok(count)
    }
}
