//! The last offset of every key in the dirty part of a log, within a bound of memory.
//!
//! A slot takes 24 bytes: 128 bits of the key's hash and the offset. Two keys with the same hash would count as one,
//! and the older record would be lost; both halves are keyed with random numbers, so that a client cannot construct
//! such keys.

use std::hash::{BuildHasher, RandomState};

use ottla_model::Offset;

/// Hash and offset + 1; an offset of 0 marks a free slot.
type Slot = [u64; 3];

pub(crate) const SLOT_BYTES: usize = size_of::<Slot>();

/// The largest initial number of slots (96 KiB); a map with more keys grows.
const FIRST_SLOTS_MAX: usize = 4096;

/// The map has as many keys as its memory allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

pub(crate) struct OffsetMap {
    slots: Vec<Slot>,
    used: usize,
    slots_max: usize,
    load_factor: f64,
    hashers: [RandomState; 2],
    /// Everything up to here is in the map.
    latest: Offset,
}

impl OffsetMap {
    /// A map of at most `max_bytes`, of which `load_factor` is used. It allocates as needed, not all of it at once.
    pub fn new(max_bytes: usize, load_factor: f64) -> Self {
        let slots_max = (max_bytes / SLOT_BYTES).max(2);
        // Three quarters, and a third of that again and again: a table and the one that it grows to are the bound
        // together.
        let mut first = slots_max;
        if slots_max > FIRST_SLOTS_MAX {
            first = slots_max / 4 * 3;
            while first > FIRST_SLOTS_MAX {
                first /= 3;
            }
        }
        Self {
            slots: vec![[0; 3]; first],
            used: 0,
            slots_max,
            load_factor: load_factor.clamp(0.01, 0.99),
            hashers: [RandomState::new(), RandomState::new()],
            latest: Offset::UNKNOWN,
        }
    }

    /// The last offset of the part that the map covers.
    pub fn latest(&self) -> Offset {
        self.latest
    }

    pub fn cover_up_to(&mut self, offset: Offset) {
        self.latest = self.latest.max(offset);
    }

    pub fn len(&self) -> usize {
        self.used
    }

    pub fn put(&mut self, key: &[u8], offset: Offset) -> Result<(), Full> {
        let hash = self.hash(key);
        let mut number = self.find(hash);
        if self.slots.get(number).is_some_and(|slot| slot[2] == 0) {
            if self.is_at(self.slots.len()) {
                self.grow()?;
                number = self.find(hash);
            }
            self.used += 1;
        }
        if let Some(slot) = self.slots.get_mut(number) {
            *slot = [hash[0], hash[1], u64::try_from(offset.0).unwrap_or(0) + 1];
        }
        Ok(())
    }

    /// The last offset of a key, if it is in the map.
    pub fn get(&self, key: &[u8]) -> Option<Offset> {
        let slot = self.slots.get(self.find(self.hash(key)))?;
        let offset = slot[2].checked_sub(1)?;
        i64::try_from(offset).ok().map(Offset)
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        [self.hashers[0].hash_one(key), self.hashers[1].hash_one(key)]
    }

    /// The slot of a hash, or the free one where it would go. There always is one: the load factor is below 1.
    fn find(&self, hash: [u64; 2]) -> usize {
        let count = self.slots.len();
        let mut number = usize::try_from(hash[0] % (count as u64)).unwrap_or(0);
        loop {
            match self.slots.get(number) {
                Some(slot) if slot[2] != 0 && slot[..2] != hash => number = (number + 1) % count,
                _ => return number,
            }
        }
    }

    /// Whether as many keys are in the map as `slots` slots are to hold.
    fn is_at(&self, slots: usize) -> bool {
        self.used + 1 >= slots || self.used as f64 >= slots as f64 * self.load_factor
    }

    /// Moves to a larger table; both together stay within the bound.
    fn grow(&mut self) -> Result<(), Full> {
        let slots = self.slots.len().saturating_mul(3).min(self.slots_max.saturating_sub(self.slots.len()));
        if slots <= self.slots.len() || self.is_at(slots) {
            return Err(Full);
        }
        let old = std::mem::replace(&mut self.slots, vec![[0; 3]; slots]);
        for slot in old.into_iter().filter(|slot| slot[2] != 0) {
            let number = self.find([slot[0], slot[1]]);
            if let Some(free) = self.slots.get_mut(number) {
                *free = slot;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_offset_of_every_key() {
        let mut map = OffsetMap::new(8 << 20, 0.9);
        for offset in 0..100_000_i64 {
            map.put(format!("key {}", offset % 30_000).as_bytes(), Offset(offset)).unwrap();
        }
        assert_eq!(map.len(), 30_000);
        for key in 0..30_000_i64 {
            let expected = if key < 10_000 { 90_000 + key } else { 60_000 + key };
            assert_eq!(map.get(format!("key {key}").as_bytes()), Some(Offset(expected)));
        }
        assert_eq!(map.get(b"another"), None);
        assert_eq!(map.get(b""), None);
        map.put(b"", Offset(0)).unwrap();
        assert_eq!(map.get(b""), Some(Offset(0)));
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_forgotten() {
        for max_bytes in [0, 100, 1_000, 500_000, 3_000_000] {
            let mut map = OffsetMap::new(max_bytes, 0.75);
            let mut count = 0_i64;
            while map.put(&count.to_be_bytes(), Offset(count)).is_ok() {
                count += 1;
                assert!(map.slots.len() * SLOT_BYTES <= max_bytes.max(2 * SLOT_BYTES));
            }
            assert!(max_bytes < 500_000 || count as usize * SLOT_BYTES > max_bytes / 2, "{count} of {max_bytes}");
            assert!(count > 0);
            for key in 0..count {
                assert_eq!(map.get(&key.to_be_bytes()), Some(Offset(key)));
                map.put(&key.to_be_bytes(), Offset(key + 1)).expect("no new key");
            }
        }
    }
}
