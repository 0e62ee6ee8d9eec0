//! Spoilt record batches of every codec, through validation and reading, with and without a true CRC.
#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use ottla_fuzz::allocation::{Counting, GROWTH_MAX_BYTES, measure};
use ottla_fuzz::corpus;
use ottla_fuzz::mutation::{Random, mutate};
use ottla_model::TimestampMs;
use ottla_protocol::record_batch::{
    BatchBuilder, Batches, Compression, HEADER_BYTES, LOG_OVERHEAD_BYTES, Limits, Records, crc_of, recompress, validate,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn limits() -> Limits {
    Limits::new(TimestampMs(1_700_000_000_000))
}

/// Repairs length, magic and CRC, so that the checks behind them are reached.
fn repaired(mut batch: Vec<u8>) -> Vec<u8> {
    if batch.len() >= HEADER_BYTES {
        let length = (batch.len() - LOG_OVERHEAD_BYTES) as u32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[16] = 2;
        let crc = crc_of(&batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    batch
}

/// Processes a batch as a broker and then as a consumer. A batch that passes validation must be readable as a whole.
fn run(batch: &Bytes, name: &str) {
    let (judged, growth) = measure(|| validate(batch, &limits()));
    // A block of snappy is the most that is held at once.
    assert!(growth < GROWTH_MAX_BYTES * 3 / 4, "{name}: {growth} bytes");
    for found in Batches::new(batch).flatten() {
        let (read, growth) = measure(|| match Records::new(&batch.slice_ref(found.bytes), 1 << 20) {
            Ok(records) => {
                records.map(|record| record.is_ok()).fold((0, true), |(count, all), ok| (count + 1, all && ok))
            }
            Err(_) => (0, false),
        });
        assert!(growth < GROWTH_MAX_BYTES, "{name}: {growth} bytes to read");
        if let Ok(valid) = &judged {
            assert_eq!(read, (valid.header.record_count, true), "{name}: accepted, and does not read back");
        }
    }
}

#[test]
fn spoilt_batches_neither_panic_nor_grow() {
    let valid: Vec<_> = Compression::ALL.iter().map(|&codec| (codec, corpus::batch(codec))).collect();
    assert!(valid.iter().all(|(_, batch)| validate(batch, &limits()).is_ok()));
    ottla_test_support::each_seed(0..6_000, |seed| {
        for (codec, valid) in &valid {
            let random = &mut Random::new(seed);
            let keep = if seed % 4 == 0 { 0 } else { HEADER_BYTES };
            let spoilt = mutate(random, valid, keep);
            let spoilt = if seed % 5 == 0 { spoilt } else { repaired(spoilt) };
            run(&Bytes::from(spoilt), &format!("{} seed {seed}", codec.name()));
        }
    });
}

#[test]
fn records_spoilt_before_they_are_packed_neither_panic_nor_grow() {
    let plain = corpus::batch(Compression::None);
    ottla_test_support::each_seed(0..3_000, |seed| {
        let random = &mut Random::new(seed);
        let spoilt = repaired(mutate(random, &plain, HEADER_BYTES));
        for &codec in Compression::ALL {
            if let Ok(packed) = recompress(&spoilt, codec, 1 << 20, 1 << 20) {
                run(&packed.freeze(), &format!("{} seed {seed}", codec.name()));
            }
        }
    });
}

#[test]
fn bombs_of_every_codec_end_early() {
    let mut builder = BatchBuilder::new();
    builder.push(TimestampMs(1_700_000_000_000), None, Some(&vec![0; 200 * 1024 * 1024]), &[]);
    let bomb = builder.build().unwrap();
    for &codec in &Compression::ALL[1..] {
        let packed: BytesMut = recompress(&bomb, codec, u64::MAX, usize::MAX).unwrap();
        let limits = Limits { max_message_bytes: packed.len(), ..limits() };
        let (result, growth) = measure(|| validate(&packed, &limits));
        assert!(result.is_err(), "{}", codec.name());
        assert!(growth < GROWTH_MAX_BYTES / 4, "{}: {growth} bytes", codec.name());
    }
}
