//! Core dumps: files with the memory of a process that crashed, and so with the passwords and keys that it knows.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// From now on this process leaves none. Without `core.dump.enable`.
///
/// The limit alone is not enough: the system does not ask for it where it pipes dumps into a program
/// (`kernel.core_pattern`). A process that is not dumpable also keeps other processes of its user, those of root aside,
/// from reading its memory, environment and descriptors (`ptrace`, `/proc/PID/mem`, `environ`, `fd`).
pub fn forbid() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "the limit of core dumps (RLIMIT_CORE) cannot be set: a crash may write secrets to a file");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps cannot be turned off (PR_SET_DUMPABLE): a crash may write secrets to a file");
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn a_process_that_forbids_them_leaves_none() {
        forbid();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
    }
}
