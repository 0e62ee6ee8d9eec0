//! Nothing that serves others waits for a disk: where the broker's crates may call what blocks, and on which thread.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The crates whose code runs on the runtimes of a broker or a coordinator.
const CRATES: &[&str] = &["broker", "network", "replica-manager", "coordinator", "coordinator-partition", "client"];

/// Calls that wait for a disk, or for the time to pass.
const BLOCKING: &[&str] = &[
    "std::fs",
    "fs::read",
    "fs::write",
    "File::open",
    "File::create",
    "sync_all(",
    "sync_data(",
    "thread::sleep",
    "statvfs",
    ".space()",
    "Log::create(",
    "log.read(",
    ".mark_deleted(",
    ".mark_stray(",
    ".write_checkpoint(",
    " write_checkpoints(",
    "closed.add(",
    "shutdown.leave(",
    ".write_clean_shutdown(",
    ".write_meta_properties(",
    ".remember_registration(",
    ".distrust_registration(",
    ".claim(",
    ".claim_replaced(",
    ".shutdown_clean(",
    "cold.run()",
    "finish_cold(",
    "finish_fetch(",
    "ottla_partition::read_own(",
    "search.run()",
    "work.run()",
    "files.remove(",
    "close_idle_files",
    ".open_log(",
    ".set_topic_id(",
    "records.read(",
    "log.close(",
    "Copy::create(",
    "copy.append(",
    "copy.flush(",
    "copy.flush_if_large(",
    "copy.catch_up(",
    "copy.cut_to(",
    "copy.start_at(",
    "copy.take_place(",
    "partition.flush(",
    ".truncate_to(",
    ".truncate_fully_and_start_at(",
    ".make_live(",
    // Until the replica's lock is free, which a write to its disk may hold.
    ".with_log(",
    ".look_in_passing(",
];

/// Where they are allowed: the file below `crates`, the call, and why nobody else waits there.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("broker/src/audit.rs", "std::fs", "the start, and the audit log's own thread"),
    ("broker/src/audit.rs", "thread::sleep", "the audit log's own thread"),
    ("broker/src/oauth.rs", "std::fs", "at the start, and on a blocking thread"),
    ("broker/src/oauth.rs", "fs::read", "at the start, and on a blocking thread"),
    ("broker/src/lifecycle/session.rs", ".claim(", "on blocking threads"),
    ("broker/src/lifecycle/mod.rs", ".write_meta_properties(", "on blocking threads"),
    ("broker/src/lifecycle/mod.rs", ".remember_registration(", "on blocking threads"),
    ("broker/src/lifecycle/mod.rs", ".shutdown_clean(", "on blocking threads"),
    ("replica-manager/src/log_dirs.rs", "statvfs", "the directory's own methods; their callers have rows here"),
    ("replica-manager/src/partition/leader_side.rs", ".space()", "by run_blocking, while the disk is full"),
    ("replica-manager/src/log_dirs.rs", ".mark_deleted(", "the directory's own methods; their callers have rows here"),
    ("replica-manager/src/log_dirs.rs", ".mark_stray(", "the directory's own methods; their callers have rows here"),
    ("replica-manager/src/log_dirs.rs", ".claim(", "the directory's own methods; their callers have rows here"),
    (
        "replica-manager/src/log_dirs.rs",
        ".claim_replaced(",
        "the directory's own methods; their callers have rows here",
    ),
    (
        "replica-manager/src/log_dirs.rs",
        ".distrust_registration(",
        "the directory's own methods; their callers have rows here",
    ),
    (
        "replica-manager/src/log_dirs.rs",
        ".remember_registration(",
        "the directory's own methods; their callers have rows here",
    ),
    ("replica-manager/src/log_dirs.rs", "std::fs", "the boot id in /proc, at the start"),
    ("replica-manager/src/log_dirs.rs", "fs::read", "the boot id in /proc, at the start"),
    ("replica-manager/src/log_dirs/opening.rs", "thread::sleep", "the opening threads, at the start"),
    ("replica-manager/src/log_cleaner/throttle.rs", "thread::sleep", "the cleaner's threads"),
    ("replica-manager/src/manager/moves.rs", "Copy::create(", "the thread of a move"),
    ("replica-manager/src/manager/moves.rs", "thread::sleep", "the thread of a move"),
    ("replica-manager/src/manager/moves.rs", ".mark_deleted(", "the thread of a move"),
    ("replica-manager/src/manager/moves.rs", "finish_cold(", "the thread of a move, without the partition's lock"),
    ("replica-manager/src/manager/hosting.rs", ".mark_deleted(", "jobs of the directory's I/O threads"),
    ("replica-manager/src/manager/hosting.rs", ".mark_stray(", "jobs of the directory's I/O threads"),
    ("replica-manager/src/manager/retention.rs", "files.remove(", "a job of the directory's I/O thread"),
    ("replica-manager/src/manager/mod.rs", ".remember_registration(", "called on blocking threads, by the lifecycle"),
    ("replica-manager/src/manager/mod.rs", ".claim(", "called on blocking threads, by the lifecycle"),
    ("replica-manager/src/manager/upkeep.rs", "close_idle_files", "jobs of the directory's I/O thread"),
    ("replica-manager/src/partition/mod.rs", "close_idle_files", "by the job of the directory's I/O thread"),
    ("replica-manager/src/manager/upkeep.rs", " write_checkpoints(", "jobs of the directory's I/O thread"),
    (
        "replica-manager/src/manager/directory_failures.rs",
        ".distrust_registration(",
        "on blocking threads, with a bounded wait",
    ),
    (
        "replica-manager/src/manager/directory_failures.rs",
        ".claim_replaced(",
        "on blocking threads, with a bounded wait",
    ),
    ("replica-manager/src/partition/leader_side.rs", "finish_fetch(", "without the lock, by run_blocking"),
    ("replica-manager/src/partition/leader_side.rs", "ottla_partition::read_own(", "without the lock, by run_blocking"),
    ("replica-manager/src/partition/leader_side.rs", "search.run()", "without the lock, by run_blocking"),
    ("replica-manager/src/partition/retention_side.rs", "search.run()", "without the lock, a job of the I/O thread"),
    ("replica-manager/src/partition/follower_side.rs", "work.run()", "the flush, a job of the directory's I/O thread"),
    ("broker/src/coordinators/partition_handle.rs", "records.read(", "the load of a state, on a blocking thread"),
    ("replica-manager/src/manager/moves.rs", "copy.append(", "the thread of a move, of its copy"),
    ("replica-manager/src/manager/moves.rs", "copy.flush(", "the thread of a move, without the partition's lock"),
    (
        "replica-manager/src/manager/moves.rs",
        "copy.flush_if_large(",
        "the thread of a move, without the partition's lock",
    ),
    ("replica-manager/src/manager/moves.rs", "copy.cut_to(", "the thread of a move, of its copy"),
    ("replica-manager/src/manager/moves.rs", "copy.start_at(", "the thread of a move, of its copy"),
    (
        "replica-manager/src/manager/moves.rs",
        "copy.catch_up(",
        "the thread of a move, with a lock that others do not wait for",
    ),
    (
        "replica-manager/src/manager/moves.rs",
        "copy.take_place(",
        "the thread of a move, with a lock that others do not wait for",
    ),
    (
        "replica-manager/src/manager/hosting.rs",
        ".open_log(",
        "jobs of the directory's I/O threads, and what needs no disk",
    ),
    ("replica-manager/src/manager/reopening.rs", ".open_log(", "a job of the directory's I/O thread"),
    ("replica-manager/src/manager/closing.rs", "closed.add(", "the threads of a shutdown"),
    ("replica-manager/src/manager/closing.rs", "shutdown.leave(", "the thread of a shutdown"),
    ("replica-manager/src/partition/follower_side.rs", "partition.flush(", "a job of the directory's I/O thread"),
    ("replica-manager/src/log_cleaner/mod.rs", ".look_in_passing(", "the cleaner's threads, for a moment"),
    ("replica-manager/src/log_cleaner/run.rs", ".with_log(", "the cleaner's threads"),
    ("replica-manager/src/manager/moves.rs", ".with_log(", "the thread of a move"),
    ("replica-manager/src/partition/follower_side.rs", ".with_log(", "the flush, a job of the directory's I/O thread"),
    ("replica-manager/src/partition/retention_side.rs", ".with_log(", "the cleaner's threads"),
    ("coordinator/src/four_letter_words.rs", "std::fs", "on a blocking thread, by the listener"),
    ("coordinator/src/four_letter_words.rs", "fs::read", "on a blocking thread, by the listener"),
    ("coordinator/src/quorums.rs", "std::fs", "at the start"),
    ("coordinator/src/quorums.rs", "fs::read", "at the start"),
    ("coordinator/src/member.rs", "std::fs", "at the start, or on the blocking thread that opens a chroot"),
    ("coordinator/src/member.rs", "fs::write", "at the start, or on the blocking thread that opens a chroot"),
    ("coordinator/src/member.rs", "thread::sleep", "the end of a member"),
    ("coordinator/src/offline/snapshot.rs", "std::fs", "commands that serve nobody"),
    ("coordinator/src/offline/snapshot.rs", "fs::read", "commands that serve nobody"),
    ("coordinator/src/offline/snapshot.rs", "File::create", "commands that serve nobody"),
    ("coordinator/src/offline/snapshot.rs", "sync_all(", "commands that serve nobody"),
    (
        "coordinator/src/rocksdb_store/write_ahead_log.rs",
        "std::fs",
        "before a database is opened: at the start, and on a blocking thread for a chroot",
    ),
    (
        "coordinator/src/rocksdb_store/write_ahead_log.rs",
        "fs::read",
        "before a database is opened: at the start, and on a blocking thread for a chroot",
    ),
    ("coordinator/src/rocksdb_store/log_store.rs", "log.read(", "the driver's thread"),
];

/// Locks whose holder may wait for a disk: the folder below `crates`, how the lock is waited for, and the lines that
/// may: the methods that step aside first, and threads that serve nobody else.
const HELD_LOCKS: &[(&str, &str, usize)] = &[
    // `lock` twice, and `lock_for` twice: without siblings, and on a blocking thread.
    ("replica-manager/src/partition", "state.lock()", 3),
    // What loads the state, on a blocking thread.
    ("broker/src/coordinators", "core.lock()", 1),
];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "data_path_tests" {
            sources(&path, into)?;
        } else if name.ends_with(".rs") && name != "tests.rs" {
            into.push(path);
        }
    }
    Ok(())
}

/// The blocking calls of a source, without those of its comments, its tests and its own definitions.
fn calls(source: &str) -> BTreeSet<&'static str> {
    let shipped = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = shipped.lines().map(|line| line.split("//").next().unwrap_or_default());
    let calling: Vec<&str> = lines.filter(|line| !line.contains("fn ")).collect();
    BLOCKING.iter().copied().filter(|call| calling.iter().any(|line| line.contains(call))).collect()
}

#[test]
fn what_blocks_is_called_only_where_nobody_else_waits() -> Result<()> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates");
    let mut found = BTreeSet::new();
    for name in CRATES {
        let mut files = Vec::new();
        sources(&crates.join(name).join("src"), &mut files)?;
        for path in files {
            let source = fs::read_to_string(&path)?;
            let file = path.strip_prefix(&crates)?.to_string_lossy().into_owned();
            found.extend(calls(&source).into_iter().map(|call| (file.clone(), call)));
        }
    }
    for (file, call) in &found {
        let is_allowed = ALLOWED.iter().any(|(allowed, known, _)| allowed == file && known == call);
        ensure!(is_allowed, "crates/{file} calls {call}: not on a runtime's thread, or say in ALLOWED why it may");
    }
    for (file, call, _) in ALLOWED {
        ensure!(found.contains(&((*file).to_owned(), *call)), "crates/{file} does not call {call} any more");
    }
    Ok(())
}

#[test]
fn calls_are_found_outside_of_comments_and_tests() {
    let source =
        "// std::fs\nfn f() {\n    thread::sleep(pause); // sync_all(\n}\n#[cfg(test)]\nmod tests {\n    cold.run()";
    assert_eq!(calls(source), BTreeSet::from(["thread::sleep"]));
}

/// F3: one place that waited for the lock of a group partition held the thread of all others.
#[test]
fn locks_that_are_held_while_a_disk_answers_are_waited_for_by_their_own_methods() -> Result<()> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates");
    for (folder, wait, lines) in HELD_LOCKS {
        let mut files = Vec::new();
        sources(&crates.join(folder), &mut files)?;
        let mut found = 0;
        for path in files {
            found += fs::read_to_string(&path)?.lines().filter(|line| line.contains(wait)).count();
        }
        ensure!(found == *lines, "crates/{folder}: {found} lines wait by {wait}, not {lines}: may each of them?");
    }
    Ok(())
}
