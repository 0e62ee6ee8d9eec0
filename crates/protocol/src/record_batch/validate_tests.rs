//! Batches that must pass and batches that must be refused, by the name of the error.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::{ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

use super::*;
use crate::test_random::Random;
use crate::wire;

const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

fn limits() -> Limits {
    Limits::new(NOW)
}

fn plain() -> BatchBuilder {
    BatchBuilder::new().record(NOW, Some(b"k1"), Some(b"v1")).record(TimestampMs(NOW.0 + 5), None, Some(b"v2")).record(
        TimestampMs(NOW.0 - 5),
        Some(b"k3"),
        None,
    )
}

/// Writes bytes at `at` and repairs the CRC.
fn patched(mut batch: BytesMut, at: usize, bytes: &[u8]) -> BytesMut {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc_of(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// A batch of these record bytes with a true CRC.
fn with_body(record_count: i32, compression: Compression, body: &[u8]) -> BytesMut {
    let mut batch = BytesMut::from(&plain().build().unwrap()[..HEADER_BYTES]);
    batch.put_slice(body);
    let length = (batch.len() - LOG_OVERHEAD_BYTES) as i32;
    let batch = patched(batch, 8, &length.to_be_bytes());
    let batch = patched(batch, 21, &compression.id().to_be_bytes());
    let batch = patched(batch, 23, &(record_count - 1).to_be_bytes());
    patched(batch, 57, &record_count.to_be_bytes())
}

fn code(batch: &[u8]) -> ErrorCode {
    validate(batch, &limits()).unwrap_err().error_code()
}

#[test]
fn every_codec_passes_and_reads_back() {
    for &codec in Compression::ALL {
        let mut builder = plain().compression(codec).producer(ProducerId(9), ProducerEpoch(1), 40);
        let headers = [
            Header { key: "trace".into(), value: Some(Bytes::from_static(b"1")) },
            Header { key: "trace".into(), value: None },
        ];
        let large = vec![7; 200_000];
        builder.push(NOW, Some(b"large"), Some(&large), &headers);
        let batch = builder.build().unwrap();
        let valid = validate(&batch, &limits()).unwrap();
        assert_eq!(valid.header.compression(), Ok(codec));
        assert_eq!(valid.header.record_count, 4);
        assert_eq!(valid.header.size_bytes(), batch.len());
        assert_eq!((valid.max_timestamp, valid.offset_delta_of_max_timestamp), (TimestampMs(NOW.0 + 5), 1));
        assert_eq!(valid.header.last_sequence(), 43);
        let records: Vec<Record> =
            Records::new(&batch.clone().freeze(), u64::MAX).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(records.len(), 4);
        assert_eq!(records[1].timestamp, TimestampMs(NOW.0 + 5));
        assert_eq!((records[2].key.as_deref(), records[2].value.as_deref()), (Some(&b"k3"[..]), None));
        assert_eq!((records[3].offset, records[3].value.as_deref()), (Offset(3), Some(&large[..])));
        assert_eq!(records[3].headers, headers);
        for &target in Compression::ALL {
            let other = recompress(&batch, target, u64::MAX, usize::MAX).unwrap();
            let again = validate(&other, &limits()).unwrap();
            assert_eq!(again.header.compression(), Ok(target));
            assert_eq!((again.records_bytes, again.header.base_sequence), (valid.records_bytes, 40));
        }
    }
}

#[test]
fn a_higher_level_packs_tighter_and_unpacks_the_same() {
    let text: String = (0..20_000).map(|number| format!("{} ", number * number % 7_919)).collect();
    let batch = BatchBuilder::new().record(NOW, None, Some(text.as_bytes())).build().unwrap();
    for (compression, low, high) in [(Compression::Gzip, 1, 9), (Compression::Zstd, -5, 19)] {
        let packed =
            |level| recompress(&batch, Packing { compression, level: Some(level) }, u64::MAX, usize::MAX).unwrap();
        let (loose, tight) = (packed(low), packed(high));
        assert!(tight.len() < loose.len(), "{compression:?}: {} and {} bytes", tight.len(), loose.len());
        for packed in [loose, tight] {
            assert_eq!(recompress(&packed, Compression::None, u64::MAX, usize::MAX).unwrap(), batch);
        }
    }
}

#[test]
fn kafkas_own_encoder_writes_what_passes_here() {
    use kafka_protocol::records::{
        Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
    };
    let record = |offset: i64| Record {
        transactional: false,
        control: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: offset as i32,
        timestamp: NOW.0 + offset,
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::from_static(b"value")),
        headers: Default::default(),
        delete_horizon: false,
    };
    let records: Vec<Record> = (0..3).map(record).collect();
    let mut theirs = BytesMut::new();
    RecordBatchEncoder::encode(
        &mut theirs,
        &records,
        &RecordEncodeOptions { version: 2, compression: Compression::None },
    )
    .unwrap();
    let mut ours = BatchBuilder::new();
    for offset in 0..3 {
        ours.push(TimestampMs(NOW.0 + offset), Some(b"key"), Some(b"value"), &[]);
    }
    assert_eq!(validate(&theirs, &limits()).unwrap().max_timestamp, TimestampMs(NOW.0 + 2));
    let ours = ours.build().unwrap();
    let back = RecordBatchDecoder::decode(&mut ours.clone().freeze()).unwrap().records;
    assert_eq!(back.len(), 3);
    assert_eq!(back[2].timestamp, NOW.0 + 2);
    assert_eq!(&back[1].value, &Some(Bytes::from_static(b"value")));
}

#[test]
fn the_header_round_trips_and_is_patched_in_place() {
    let mut batch = plain().producer(ProducerId(5), ProducerEpoch(2), i32::MAX - 1).transactional().build().unwrap();
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!(&header.encode()[..], &batch[..HEADER_BYTES]);
    assert!(header.is_transactional() && !header.is_control() && header.has_producer_id());
    assert_eq!(header.last_sequence(), 0, "sequence numbers go on at 0");
    patch_offset_and_epoch(&mut batch, Offset(1_000), LeaderEpoch(7));
    let patched = BatchHeader::parse(&batch).unwrap();
    assert_eq!((patched.base_offset, patched.partition_leader_epoch), (Offset(1_000), LeaderEpoch(7)));
    assert_eq!((patched.last_offset(), patched.next_offset()), (Offset(1_002), Offset(1_003)));
    assert!(verify_crc(&batch));
    prepare_for_append(&mut batch, Offset(5), LeaderEpoch(8), patched.max_timestamp, Some(TimestampMs(42)));
    let stamped = BatchHeader::parse(&batch).unwrap();
    assert_eq!((stamped.timestamp_type(), stamped.max_timestamp), (TimestampType::LogAppendTime, TimestampMs(42)));
    assert!(verify_crc(&batch) && stamped.is_transactional());
    let record = Records::new(&batch.freeze(), 0).unwrap().next().unwrap().unwrap();
    assert_eq!((record.timestamp, record.offset), (TimestampMs(42), Offset(5)));
}

/// The header that validation returned is enough to stamp a batch: its bytes are not parsed again.
#[test]
fn a_batch_is_stamped_by_its_known_header() {
    const MAGIC_AT: usize = 16;
    let mut batch = plain().build().unwrap();
    let mut header = validate(&batch, &limits()).unwrap().header;
    batch[MAGIC_AT] = 9;
    assert!(BatchHeader::parse(&batch).is_err());
    set_max_timestamp_of(&mut header, &mut batch, TimestampType::LogAppendTime, TimestampMs(42));
    batch[MAGIC_AT] = MAGIC as u8;
    assert_eq!(BatchHeader::parse(&batch).unwrap(), header, "the header follows the bytes");
    assert_eq!((header.timestamp_type(), header.max_timestamp), (TimestampType::LogAppendTime, TimestampMs(42)));
    assert!(verify_crc(&batch));
}

#[test]
fn batches_walk_and_stop_at_a_cut() {
    let one = plain().build().unwrap();
    let two = plain().placed_at(Offset(3), LeaderEpoch(1)).build().unwrap();
    let row = [&one[..], &two[..]].concat();
    let found: Vec<_> = Batches::new(&row).map(|batch| batch.unwrap()).collect();
    assert_eq!(found.len(), 2);
    assert_eq!((found[1].position, found[1].header.base_offset, found[1].bytes), (one.len(), Offset(3), &two[..]));
    for end in one.len()..row.len() {
        let mut batches = Batches::new(&row[..end]);
        assert_eq!(batches.by_ref().filter(Result::is_ok).count(), 1);
        assert_eq!(batches.position(), one.len());
    }
    let mut bad = row.clone();
    bad[one.len() + 16] = 9;
    let mut batches = Batches::new(&bad);
    assert!(batches.next().unwrap().is_ok());
    assert_eq!(batches.next(), Some(Err(HeaderError::UnsupportedMagic(9))));
    assert!(batches.next().is_none());
}

#[test]
fn a_wrong_crc_is_corrupt() {
    let mut batch = plain().build().unwrap();
    let last = batch.len() - 1;
    batch[last] ^= 1;
    assert!(!verify_crc(&batch));
    assert_eq!(code(&batch), ErrorCode::CorruptMessage);
}

#[test]
fn magic_0_1_and_3_are_refused() {
    for (magic, expected) in [
        (0, ErrorCode::InvalidRecord),
        (1, ErrorCode::InvalidRecord),
        (3, ErrorCode::CorruptMessage),
        (-1, ErrorCode::CorruptMessage),
    ] {
        let mut batch = plain().build().unwrap();
        batch[16] = magic as u8;
        assert_eq!(code(&batch), expected, "magic {magic}");
    }
}

#[test]
fn the_batch_length_is_that_of_the_bytes() {
    let batch = plain().build().unwrap();
    let true_length = (batch.len() - LOG_OVERHEAD_BYTES) as i32;
    let with_length = |length: i32| {
        let mut batch = batch.clone();
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        code(&batch)
    };
    assert_eq!(with_length(true_length + 1), ErrorCode::InvalidRecord);
    assert_eq!(with_length(i32::MAX), ErrorCode::InvalidRecord);
    assert_eq!(with_length(true_length - 1), ErrorCode::InvalidRecord);
    assert_eq!(with_length(20), ErrorCode::CorruptMessage);
    assert_eq!(with_length(0), ErrorCode::CorruptMessage);
    assert_eq!(with_length(-1), ErrorCode::CorruptMessage);
    assert_eq!(with_length(i32::MIN), ErrorCode::CorruptMessage);
    for end in 0..batch.len() {
        assert_eq!(code(&batch[..end]), ErrorCode::InvalidRecord, "cut at {end}");
    }
}

#[test]
fn exactly_one_batch() {
    let batch = plain().build().unwrap();
    assert_eq!(validate(&[], &limits()), Err(InvalidBatch::NoBatch(13)));
    assert_eq!(validate(&[&batch[..], &batch[..]].concat(), &limits()), Err(InvalidBatch::SeveralBatches(13)));
    assert_eq!(validate(&[&batch[..], b"x"].concat(), &limits()), Err(InvalidBatch::SeveralBatches(13)));
}

#[test]
fn the_base_offset_is_0() {
    let batch = plain().placed_at(Offset(1), LeaderEpoch::NONE).build().unwrap();
    assert_eq!(validate(&batch, &limits()), Err(InvalidBatch::BaseOffset(1)));
}

#[test]
fn counts_and_offsets_agree() {
    let with = |delta: i32, count: i32, codec| {
        let batch = plain().compression(codec).build().unwrap();
        code(&patched(patched(batch, 23, &delta.to_be_bytes()), 57, &count.to_be_bytes()))
    };
    for &codec in Compression::ALL {
        for (delta, count) in [
            (3, 3),
            (1, 3),
            (-1, 0),
            (0, 0),
            (0, -1),
            (-5, -4),
            (i32::MAX, i32::MIN),
            (i32::MAX - 1, i32::MAX),
            (1, 2),
            (3, 4),
        ] {
            assert_eq!(with(delta, count, codec), ErrorCode::InvalidRecord, "{codec:?} {delta} {count}");
        }
    }
}

#[test]
fn offset_deltas_are_consecutive() {
    let mut builder = plain();
    builder.push_at(5, NOW, None, None, &[]);
    let batch = patched(builder.build().unwrap(), 23, &3_i32.to_be_bytes());
    assert!(matches!(validate(&batch, &limits()), Err(InvalidBatch::Structure(_))));
}

#[test]
fn control_batches_are_refused() {
    let batch = plain().producer(ProducerId(1), ProducerEpoch(0), 0).transactional().control().build().unwrap();
    assert_eq!(validate(&batch, &limits()), Err(InvalidBatch::Control));
}

#[test]
fn producer_fields_agree() {
    let with = |id, epoch, sequence| plain().producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    assert!(validate(&with(1, 0, 0).build().unwrap(), &limits()).is_ok());
    assert_eq!(code(&with(1, 0, -1).build().unwrap()), ErrorCode::InvalidRecord);
    assert_eq!(code(&with(1, -1, 0).build().unwrap()), ErrorCode::InvalidRecord);
    assert_eq!(code(&plain().transactional().build().unwrap()), ErrorCode::InvalidRecord);
}

#[test]
fn sizes_above_max_message_bytes_are_refused() {
    let batch = plain().build().unwrap();
    let limits = Limits { max_message_bytes: batch.len() - 1, ..limits() };
    let error = validate(&batch, &limits).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::MessageTooLarge);
    assert!(validate(&batch, &Limits { max_message_bytes: batch.len(), ..limits }).is_ok());
}

#[test]
fn zstd_needs_produce_7_and_unknown_codecs_are_refused() {
    let batch = plain().compression(Compression::Zstd).build().unwrap();
    let error = validate(&batch, &Limits { produce_version: 6, ..limits() }).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::UnsupportedCompressionType);
    assert!(validate(&batch, &Limits { produce_version: 7, ..limits() }).is_ok());
    for id in 5_i16..=7 {
        assert_eq!(
            code(&patched(plain().build().unwrap(), 21, &id.to_be_bytes())),
            ErrorCode::UnsupportedCompressionType
        );
    }
}

#[test]
fn timestamps_far_away_are_refused_with_their_records() {
    for &codec in Compression::ALL {
        let batch = plain()
            .compression(codec)
            .record(TimestampMs(NOW.0 + 3_600_001), None, None)
            .record(TimestampMs::NONE, None, None)
            .record(TimestampMs(NOW.0 + 3_600_000), None, None)
            .build()
            .unwrap();
        let error = validate(&batch, &limits()).unwrap_err();
        assert_eq!(error.error_code(), ErrorCode::InvalidTimestamp);
        assert_eq!(error.record_faults().iter().map(|fault| fault.batch_index).collect::<Vec<_>>(), [3]);
        assert!(error.record_faults()[0].message("t-0").contains("of message with offset 3 is out of range"));
        assert!(validate(&batch, &Limits { timestamp_type: TimestampType::LogAppendTime, ..limits() }).is_ok());
    }
    let old = BatchBuilder::new().record(TimestampMs(0), None, None).build().unwrap();
    assert!(validate(&old, &limits()).is_ok());
    assert_eq!(
        validate(&old, &Limits { timestamp_before_max_ms: 1_000, ..limits() }).unwrap_err().error_code(),
        ErrorCode::InvalidTimestamp
    );
    for extreme in [i64::MAX, i64::MIN] {
        let batch = BatchBuilder::new().record(TimestampMs(extreme), None, None).record(NOW, None, None);
        assert!(validate(&batch.build().unwrap(), &Limits { timestamp_before_max_ms: 1, ..limits() }).is_err());
    }
    let stamped = plain().timestamp_type(TimestampType::LogAppendTime).build().unwrap();
    assert_eq!(code(&stamped), ErrorCode::InvalidTimestamp);
}

#[test]
fn compacted_topics_need_keys() {
    let error = validate(&plain().build().unwrap(), &Limits { is_compacted: true, ..limits() }).unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::InvalidRecord);
    assert_eq!(error.record_faults().iter().map(|fault| fault.batch_index).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_refusal_names_the_partition_and_the_first_three_records() {
    let mut builder = BatchBuilder::new();
    (0..5).for_each(|_| builder.push(NOW, None, None, &[]));
    let error = validate(&builder.build().unwrap(), &Limits { is_compacted: true, ..limits() }).unwrap_err();
    let fault = |index| {
        format!(
            "RecordError(batchIndex={index}, message='Compacted topic cannot accept message without key in topic \
             partition t-0')"
        )
    };
    let expected = format!(
        "One or more records have been rejected due to 5 record errors in total, and only showing the first three \
         errors at most: [{}, {}, {}]",
        fault(0),
        fault(1),
        fault(2)
    );
    assert_eq!(error.message("t-0"), expected);
    assert!(InvalidBatch::Control.message("t-0").ends_with(" in topic partition t-0"));
    assert_eq!(InvalidBatch::LogAppendTime.message("t-0"), InvalidBatch::LogAppendTime.to_string());
}

#[test]
fn record_faults_are_bounded() {
    let mut builder = BatchBuilder::new();
    for _ in 0..RECORD_ERRORS_MAX + 500 {
        builder.push(TimestampMs(i64::MAX / 2), None, None, &[]);
    }
    let error = validate(&builder.build().unwrap(), &limits()).unwrap_err();
    assert_eq!(error.record_faults().len(), RECORD_ERRORS_MAX);
}

/// One record from its fields, its size declared as given or truly.
fn record(size: Option<i64>, fields: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_varlong(&mut out, size.unwrap_or(fields.len() as i64));
    out.extend_from_slice(fields);
    out
}

#[test]
fn malformed_records_are_refused_compressed_or_not() {
    // attributes, timestamp delta, offset delta, key −1, value −1, no headers
    const GOOD: [u8; 6] = [0, 0, 0, 1, 1, 0];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("declared size too large", record(Some(7), &GOOD)),
        ("declared size too small", record(Some(5), &GOOD)),
        ("negative size", record(Some(-1), &GOOD)),
        ("huge size", record(Some(i64::from(i32::MAX)), &GOOD)),
        ("size beyond 32 bits", record(Some(1 << 40), &GOOD)),
        ("empty record", record(None, &[])),
        ("key longer than the record", record(None, &[0, 0, 0, 20, 1, 0])),
        ("key length −2", record(None, &[0, 0, 0, 3, 1, 0])),
        ("value longer than the record", record(None, &[0, 0, 0, 1, 100, 0])),
        ("negative header count", record(None, &[0, 0, 0, 1, 1, 1])),
        ("header count beyond the record", record(None, &[0, 0, 0, 1, 1, 20])),
        ("null header key", record(None, &[0, 0, 0, 1, 1, 2, 1, 1])),
        ("header value too long", record(None, &[0, 0, 0, 1, 1, 2, 0, 60])),
        ("bytes after the headers", record(None, &[0, 0, 0, 1, 1, 0, 0])),
        ("endless varint", vec![0xff; 20]),
        ("endless varlong inside", record(None, &[0xff; 20])),
        ("nothing", Vec::new()),
        ("bytes after the last record", [record(None, &GOOD), vec![0]].concat()),
        ("one record more than declared", [record(None, &GOOD), record(None, &GOOD)].concat()),
    ];
    for &codec in Compression::ALL {
        let pack = |body: &[u8]| {
            let mut packed = Vec::new();
            compress(codec.into(), body, &mut packed).unwrap();
            with_body(1, codec, &packed)
        };
        let good = pack(&record(None, &GOOD));
        assert!(validate(&good, &limits()).is_ok(), "{codec:?}");
        for (name, body) in &cases {
            assert_eq!(code(&pack(body)), ErrorCode::InvalidRecord, "{codec:?}: {name}");
        }
    }
}

#[test]
fn packed_records_that_do_not_unpack_are_refused() {
    for &codec in &Compression::ALL[1..] {
        assert_eq!(code(&with_body(1, codec, b"")), ErrorCode::InvalidRecord, "{codec:?}: nothing");
        assert_eq!(code(&with_body(1, codec, b"no frame at all")), ErrorCode::InvalidRecord, "{codec:?}: text");
        let batch = plain().compression(codec).build().unwrap();
        let body = &batch[HEADER_BYTES..];
        for end in 0..body.len() / 2 {
            assert_eq!(code(&with_body(3, codec, &body[..end])), ErrorCode::InvalidRecord, "{codec:?} cut at {end}");
        }
    }
}

#[test]
fn snappy_blocks_with_impossible_lengths_are_refused() {
    for length in [u32::MAX, 0x7fff_ffff, 1_000_000] {
        let mut body = vec![0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(&[1, 2, 3]);
        assert_eq!(code(&with_body(1, Compression::Snappy, &body)), ErrorCode::InvalidRecord);
    }
    // A raw block that declares 2 GiB, and one that declares 16 MiB in five bytes.
    for size in [&[0xff, 0xff, 0xff, 0xff, 0x07][..], &[0x80, 0x80, 0x80, 0x08, 0]] {
        let error = validate(&with_body(1, Compression::Snappy, size), &limits());
        assert!(error.is_err());
    }
}

#[test]
fn raw_snappy_as_librdkafka_writes_it_passes() {
    let plain_batch = plain().build().unwrap();
    let packed = snap::raw::Encoder::new().compress_vec(&plain_batch[HEADER_BYTES..]).unwrap();
    let batch = with_body(3, Compression::Snappy, &packed);
    assert!(validate(&batch, &limits()).is_ok());
}

#[test]
fn bombs_end_in_an_error() {
    // One record with a value of 64 MiB of zeros, in a few kilobytes.
    let mut builder = BatchBuilder::new();
    builder.push(NOW, None, Some(&vec![0; 64 * 1024 * 1024]), &[]);
    let bomb = builder.build().unwrap();
    for &codec in &Compression::ALL[1..] {
        let packed = recompress(&bomb, codec, u64::MAX, usize::MAX).unwrap();
        let limits = Limits { max_message_bytes: packed.len(), ..limits() };
        let error = validate(&packed, &limits).unwrap_err();
        assert_eq!(error.error_code(), ErrorCode::MessageTooLarge, "{codec:?}: {error}");
        for &target in Compression::ALL.iter().filter(|target| **target != codec) {
            let bounded = recompress(&packed, target, 1_000_000, usize::MAX);
            let error = RecompressError::Unpack(DecompressError::TooLarge { max: 1_000_000 });
            assert_eq!(bounded, Err(error), "{codec:?} to {target:?}");
        }
        let grown = recompress(&packed, Compression::None, u64::MAX, 1 << 20);
        assert_eq!(grown, Err(RecompressError::TooLarge { max: 1 << 20 }), "{codec:?}");
        assert!(Records::new(&packed.freeze(), 1_000_000).is_err());
    }
}

/// 30 KB of gzip once took two gigabytes and three seconds, for a topic that allows batches of 2 GiB.
#[test]
fn however_large_a_batch_may_be_what_it_unpacks_to_has_a_ceiling() {
    assert_eq!(Limits::unpacked_max_bytes_for(1_000), 32 << 20);
    assert_eq!(Limits::unpacked_max_bytes_for(2 << 20), 64 << 20);
    assert_eq!(Limits::unpacked_max_bytes_for(i32::MAX as usize), 256 << 20);
    // A process with little memory.
    for (max_message_bytes, unpacked) in [(1_000, 16 << 20), (i32::MAX as usize, 16 << 20)] {
        assert_eq!(validate::unpacked_max_bytes_within(max_message_bytes, 16 << 20), unpacked);
    }
}

#[test]
fn mutated_batches_are_judged_without_a_panic() {
    // With a repaired CRC, so that the records are parsed: the parser may accept them, but must not panic or run
    // without end.
    for &codec in Compression::ALL {
        let valid = plain().compression(codec).build().unwrap();
        ottla_test_support::each_seed(0..2_000, |seed| {
            let random = &mut Random::new(seed);
            let mut batch = valid.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(batch.len() as u64) as usize;
                batch[at] = random.next() as u8;
            }
            let batch = patched(batch, 16, &[2]);
            if let Ok(valid) = validate(&batch, &limits()) {
                assert_eq!(valid.header.last_offset_delta, valid.header.record_count - 1);
                assert_eq!(valid.header.size_bytes(), batch.len());
            }
        });
    }
}
