//! Where a container's data and its mounted configuration are: where the image that it replaces has them.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use ottla_config::{Host, Node, NodeDefaults, Service};

/// (volume of another image, where data goes on it). The first that is mounted counts.
const LOG_DIRS: &[(&str, &str)] = &[
    ("/bitnami/kafka/data", "/bitnami/kafka/data"),
    ("/bitnami/kafka", "/bitnami/kafka/data"),
    ("/bitnami", "/bitnami/kafka/data"),
    ("/kafka/data", "/kafka/data/1"),
    ("/kafka", SHARED_LOG_DIR),
    ("/opt/kafka/data", "/opt/kafka/data"),
    ("/tmp/kraft-combined-logs", "/tmp/kraft-combined-logs"),
    ("/tmp/kafka-logs", "/tmp/kafka-logs"),
];
const LOG_DIR: &str = "/var/lib/kafka/data";
/// wurstmeister's containers share this volume: each has a directory of its own, named after it.
const SHARED_LOG_DIR: &str = "/kafka/kafka-logs";

const COORDINATOR_DIRS: &[(&str, &str)] = &[
    ("/bitnami/zookeeper/data", "/bitnami/zookeeper/data"),
    ("/bitnami/zookeeper", "/bitnami/zookeeper/data"),
    ("/bitnami", "/bitnami/zookeeper/data"),
    ("/zookeeper/data", "/zookeeper/data"),
    ("/opt/zookeeper-3.4.13/data", "/opt/zookeeper-3.4.13/data"),
    ("/tmp/zookeeper", "/tmp/zookeeper"),
    ("/data", "/data"),
];
const COORDINATOR_DIR: &str = "/var/lib/zookeeper/data";

/// Where other images read a mounted file. The first that holds a setting counts; those that this image brings hold
/// none.
const BROKER_FILES: &[&str] = &[
    "/mnt/shared/config/server.properties",
    "/bitnami/kafka/config/server.properties",
    "/opt/bitnami/kafka/config/server.properties",
    "/opt/bitnami/kafka/config/kraft/server.properties",
    "/etc/kafka/server.properties",
    "/etc/kafka/kafka.properties",
    "/opt/kafka/config/server.properties",
    "/opt/kafka/config/kraft/server.properties",
];
const COORDINATOR_FILES: &[&str] = &[
    "/mnt/shared/config/zoo.cfg",
    "/conf/zoo.cfg",
    "/bitnami/zookeeper/conf/zoo.cfg",
    "/opt/bitnami/zookeeper/conf/zoo.cfg",
    "/etc/kafka/zookeeper.properties",
    "/opt/kafka/config/zookeeper.properties",
];

pub fn defaults() -> NodeDefaults {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mount_points(&mounts);
    let log_dir = chosen(LOG_DIRS, &mounts, LOG_DIR);
    NodeDefaults {
        log_dir: if log_dir == Path::new(SHARED_LOG_DIR) {
            own_directory(&log_dir, Host::this().name())
        } else {
            log_dir
        },
        coordinator_dir: chosen(COORDINATOR_DIRS, &mounts, COORDINATOR_DIR),
    }
}

/// The fifth field of each line of `/proc/self/mountinfo`.
fn mount_points(mountinfo: &str) -> Vec<&str> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).collect()
}

fn chosen(places: &[(&str, &str)], mounts: &[&str], otherwise: &str) -> PathBuf {
    let place = places.iter().find(|(volume, _)| mounts.contains(volume)).map_or(otherwise, |(_, directory)| directory);
    PathBuf::from(place)
}

/// `kafka-logs-HOST`; but `kafka-logs` itself, which images before this rule used, while it holds the data of a broker
/// and no running broker has locked it.
fn own_directory(shared: &Path, host: &str) -> PathBuf {
    let own = PathBuf::from(format!("{}-{host}", shared.display()));
    let has_data = |directory: &Path| directory.join("meta.properties").exists();
    if has_data(&own) || !has_data(shared) {
        return own;
    }
    let lock = File::options().write(true).open(shared.join(".lock"));
    let is_used = lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
    if is_used { own } else { shared.to_owned() }
}

/// A configuration that somebody put where the replaced image reads it.
pub fn mounted_file(service: Service) -> Option<PathBuf> {
    let places = match service {
        Service::Broker => BROKER_FILES,
        Service::Coordinator => COORDINATOR_FILES,
    };
    places.iter().map(PathBuf::from).find(|path| has_settings(path))
}

fn has_settings(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with(['#', '!']))
}

/// Every directory that a node writes to.
pub fn of(node: &Node) -> Vec<PathBuf> {
    let broker = node.broker.iter().flat_map(|loaded| loaded.config.log_dirs.iter().cloned());
    let coordinator = node.coordinator.iter().map(|loaded| loaded.config.data_dir.clone());
    broker.chain(coordinator).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_goes_where_a_volume_is_mounted() {
        let mounts = "22 1 0:21 / / rw - overlay overlay rw\n\
                      30 22 8:1 /v /bitnami/kafka rw shared:1 - ext4 /dev/sda rw\n\
                      31 22 8:1 /w /var/lib/kafka/data rw - ext4 /dev/sda rw\n";
        let mounts = mount_points(mounts);
        assert_eq!(chosen(LOG_DIRS, &mounts, LOG_DIR), PathBuf::from("/bitnami/kafka/data"));
        assert_eq!(chosen(COORDINATOR_DIRS, &mounts, COORDINATOR_DIR), PathBuf::from(COORDINATOR_DIR));
    }

    #[test]
    fn containers_that_share_a_volume_have_a_directory_each() {
        let volume = tempfile::tempdir().expect("a temporary directory");
        let shared = volume.path().join("kafka-logs");
        let own = volume.path().join("kafka-logs-a1b2");
        assert_eq!(own_directory(&shared, "a1b2"), own);
        std::fs::create_dir(&shared).expect("made");
        std::fs::write(shared.join("meta.properties"), "broker.id=1\n").expect("written");
        assert_eq!(own_directory(&shared, "a1b2"), shared, "data of an image before");
        let lock = File::create(shared.join(".lock")).expect("made");
        assert_eq!(own_directory(&shared, "a1b2"), shared);
        lock.try_lock().expect("free");
        assert_eq!(own_directory(&shared, "a1b2"), own, "another broker has it");
        drop(lock);
        std::fs::create_dir(&own).expect("made");
        std::fs::write(own.join("meta.properties"), "broker.id=2\n").expect("written");
        assert_eq!(own_directory(&shared, "a1b2"), own, "it has begun");
    }

    #[test]
    fn a_file_of_comments_is_no_configuration() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("server.properties");
        std::fs::write(&path, "# nothing\n\n").expect("written");
        assert!(!has_settings(&path));
        std::fs::write(&path, "# something\na=b\n").expect("written");
        assert!(has_settings(&path));
    }
}
