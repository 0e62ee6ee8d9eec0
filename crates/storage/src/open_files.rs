//! The files that a log keeps open between its operations, each in a place of its own.
//!
//! They are shared with reads that run without the partition's lock, and with the bound of the process's open files
//! ([`Env::opened`](crate::Env::opened)): a file may be closed at any time, and its next use opens it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ottla_model::Offset;
use parking_lot::Mutex;

/// Which of a log's files. At most three are open: `docs/adr/0009-at-most-three-open-files-a-partition.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// The active segment's log file.
    Active,
    /// The log file of the older segment that was read last: a consumer that catches up reads it many times.
    Older,
    /// The offset index that was read last.
    Index,
}

impl Kept {
    pub const ALL: [Self; 3] = [Self::Active, Self::Older, Self::Index];
}

struct Place<F> {
    /// The segment's base offset and the file.
    file: Mutex<Option<(Offset, Arc<F>)>>,
    /// It was used since the last check.
    used: AtomicBool,
}

impl<F> Default for Place<F> {
    fn default() -> Self {
        Self { file: Mutex::new(None), used: AtomicBool::new(false) }
    }
}

/// The open files of one log.
pub struct OpenFiles<F>([Place<F>; 3]);

impl<F> Default for OpenFiles<F> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Place::default()))
    }
}

impl<F> OpenFiles<F> {
    fn place(&self, kept: Kept) -> &Place<F> {
        let [active, older, index] = &self.0;
        match kept {
            Kept::Active => active,
            Kept::Older => older,
            Kept::Index => index,
        }
    }

    /// The file of the segment at `base`, if it is open.
    pub fn get(&self, kept: Kept, base: Offset) -> Option<Arc<F>> {
        let place = self.place(kept);
        let file = place.file.lock();
        let (of, file) = file.as_ref()?;
        if *of != base {
            return None;
        }
        // A load first: on a busy log the flag is set already.
        if !place.used.load(Ordering::Relaxed) {
            place.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(file))
    }

    /// Keeps a file open, in the place of another one, if `still` holds while the place is locked. Says whether it
    /// does.
    pub fn keep_if(&self, kept: Kept, base: Offset, file: &Arc<F>, still: impl FnOnce() -> bool) -> bool {
        let place = self.place(kept);
        let mut known = place.file.lock();
        let keeps = still();
        if keeps {
            *known = Some((base, Arc::clone(file)));
            place.used.store(true, Ordering::Relaxed);
        }
        keeps
    }

    /// Closes the file in this place; reads in progress keep it.
    pub fn close(&self, kept: Kept) {
        *self.place(kept).file.lock() = None;
    }

    /// Closes this very file, if it has the place.
    pub fn close_if(&self, kept: Kept, file: &Arc<F>) {
        let mut known = self.place(kept).file.lock();
        if known.as_ref().is_some_and(|(_, known)| Arc::ptr_eq(known, file)) {
            *known = None;
        }
    }

    pub fn close_all(&self) {
        Kept::ALL.into_iter().for_each(|kept| self.close(kept));
    }

    /// Closes the open files of the segment at `base`.
    pub fn close_of(&self, base: Offset) {
        for kept in Kept::ALL {
            let mut file = self.place(kept).file.lock();
            if file.as_ref().is_some_and(|(of, _)| *of == base) {
                *file = None;
            }
        }
    }

    /// Whether the file was used since the last call.
    pub fn take_used(&self, kept: Kept) -> bool {
        self.place(kept).used.swap(false, Ordering::Relaxed)
    }

    /// The number of open files.
    pub fn len(&self) -> usize {
        self.0.iter().filter(|place| place.file.lock().is_some()).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
