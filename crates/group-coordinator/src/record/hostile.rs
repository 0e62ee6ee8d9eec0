//! Bytes that nobody wrote on purpose: decoding ends, without a panic, and allocates no more than the bytes can fill.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn any_bytes_end_in_a_record_or_an_error(
        record_type in 0_i16..20,
        key in proptest::collection::vec(any::<u8>(), 0..40),
        value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)),
        version in 0_i16..6,
    ) {
        let mut whole_key = record_type.to_be_bytes().to_vec();
        whole_key.extend(&key);
        let value = value.map(|value| [&version.to_be_bytes()[..], &value].concat());
        let _ = Record::decode(&whole_key, value.as_deref());
        // A key that is right lets the value be looked at.
        let mut right_key = record_type.to_be_bytes().to_vec();
        right_key.extend([0, 1, b'g', 0, 1, b'm', 0, 0, 0, 1]);
        if let Ok(Some(record)) = Record::decode(&right_key, value.as_deref()) {
            // What could be read survives a round trip.
            let raw = record.encode();
            prop_assert_eq!(Record::decode(&raw.key, raw.value.as_deref()), Ok(Some(record)));
        }
    }
}

#[test]
fn lengths_beyond_the_record_are_refused() {
    let key = [&2_i16.to_be_bytes()[..], &[0, 1, b'g']].concat();
    // Two thousand million members in no bytes.
    let mut value = 3_i16.to_be_bytes().to_vec();
    value.extend([0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(Record::decode(&key, Some(&value)), Err(RecordError { record_type: 2, source: WireError::Truncated }));
}
