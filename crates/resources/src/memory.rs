//! How much memory the process may take: the smallest of the machine's memory and the limits of its cgroups.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroups are mounted, in version 2 and (by controller) in version 1.
const CGROUPS: &str = "/sys/fs/cgroup";
/// A machine that does not say how much it has.
const UNKNOWN_BYTES: u64 = 4 << 30;

/// The memory that the system gives to this process at most.
pub fn available_bytes() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = cgroup_limit(Path::new(CGROUPS), &groups);
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text));
    [limit, machine].into_iter().flatten().min().unwrap_or(UNKNOWN_BYTES)
}

/// The memory that this process has now.
pub fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// The smallest limit of the cgroup and those above it; none where nothing is limited. Within a container its own
/// cgroup is the root of what is mounted, whatever `/proc/self/cgroup` calls it: the root is read as well.
fn cgroup_limit(mounted: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (root, file) = match controllers {
            "" => (mounted.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (mounted.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let own = root.join(path.trim_start_matches('/'));
        let chain = own.ancestors().map(PathBuf::from).take_while(|level| level.starts_with(&root));
        chain.chain([root.clone()]).filter_map(|level| limit_in(&level.join(file))).min()
    });
    limits.min()
}

/// "max", and numbers near 2^63 (version 1), mean no limit.
fn limit_in(file: &Path) -> Option<u64> {
    const NO_LIMIT_FROM: u64 = 1 << 60;
    let bytes: u64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (bytes < NO_LIMIT_FROM).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_of_the_cgroups_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            fs::write(path, text).expect("written");
        };
        assert_eq!(cgroup_limit(folder.path(), "0::/a/b\n"), None);
        write("a/memory.max", "3000\n");
        write("a/b/memory.max", "max\n");
        assert_eq!(cgroup_limit(folder.path(), "0::/a/b\n"), Some(3000));
        // A container: the path is the host's.
        write("memory.max", "2000\n");
        assert_eq!(cgroup_limit(folder.path(), "0::/docker/1234\n"), Some(2000));
        write("memory/x/memory.limit_in_bytes", "1000\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(cgroup_limit(folder.path(), "4:cpu,memory:/x\n1:cpu:/x\n0::/\n"), Some(1000));
    }

    #[test]
    fn this_machine_has_some() {
        assert_eq!(total_of("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 << 20));
        assert!(available_bytes() > 1 << 20);
        assert!(resident_bytes() > 1 << 10 && resident_bytes() <= 1 << 40);
    }
}
