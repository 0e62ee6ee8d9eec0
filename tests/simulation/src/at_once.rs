//! Reads from disks in memory: nothing waits for them.

use ottla_partition::MayWait;

pub struct AtOnce;

impl MayWait for AtOnce {
    fn wait_for<T>(&self, read: impl FnOnce() -> T) -> T {
        read()
    }
}
