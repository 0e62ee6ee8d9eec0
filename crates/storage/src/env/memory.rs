//! A file system in memory, which tracks the changes that would survive a power loss.
//!
//! Every file holds its content as processes see it and, for the faulty environment, the content as the disk has it
//! with the changes since then in order; likewise every directory its names. Without that tracking nothing but the
//! visible content is kept.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{DirectoryEntry, Env, File, OpenMode};

/// Names a node of one file system; never used twice.
type NodeId = u64;

const ROOT: NodeId = 0;

/// A deterministic file system without faults.
#[derive(Clone, Default)]
pub struct MemoryEnv {
    pub(super) disk: Arc<Mutex<Disk>>,
}

/// An open file of a [`MemoryEnv`].
pub struct MemoryFile {
    disk: Arc<Mutex<Disk>>,
    node: NodeId,
    /// A handle of a life before a crash must not reach the files of the next.
    life: u64,
}

/// A lock of a [`MemoryEnv`].
pub struct MemoryLock {
    disk: Arc<Mutex<Disk>>,
    node: NodeId,
    life: u64,
}

pub(super) struct Disk {
    nodes: BTreeMap<NodeId, Node>,
    next_node: NodeId,
    life: u64,
    /// Whether to track durability.
    tracked: bool,
    locked: Vec<NodeId>,
}

enum Node {
    File(FileNode),
    Directory(DirectoryNode),
}

#[derive(Default)]
struct FileNode {
    content: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<FileChange>,
    open_handles: usize,
    links: usize,
}

enum FileChange {
    Write { position: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Default)]
struct DirectoryNode {
    names: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
    unsynced: Vec<NameChange>,
}

enum NameChange {
    Link(String, NodeId),
    Unlink(String),
    Rename(String, String),
}

impl FileChange {
    fn apply(&self, content: &mut Vec<u8>, at_most: Option<usize>) {
        match self {
            Self::Write { position, bytes } => {
                let bytes = &bytes[..at_most.unwrap_or(bytes.len()).min(bytes.len())];
                if content.len() < position + bytes.len() {
                    content.resize(position + bytes.len(), 0);
                }
                content[*position..position + bytes.len()].copy_from_slice(bytes);
            }
            Self::SetLen(len) => content.resize(*len, 0),
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, NodeId>) {
        match self {
            Self::Link(name, node) => {
                names.insert(name.clone(), *node);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new(false)
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file or directory", path.display()))
}

fn stale_handle() -> io::Error {
    io::Error::other("the file was opened before the crash")
}

impl Disk {
    pub(super) fn new(tracked: bool) -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::Directory(DirectoryNode::default()))]);
        Self { nodes, next_node: ROOT + 1, life: 0, tracked, locked: Vec::new() }
    }

    fn names(path: &Path) -> impl Iterator<Item = &str> {
        path.components().filter_map(|component| match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
    }

    fn directory(&mut self, node: NodeId, path: &Path) -> io::Result<&mut DirectoryNode> {
        match self.nodes.get_mut(&node) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => {
                Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{}: not a directory", path.display())))
            }
            None => Err(not_found(path)),
        }
    }

    fn find(&mut self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in Self::names(path) {
            node = *self.directory(node, path)?.names.get(name).ok_or_else(|| not_found(path))?;
        }
        Ok(node)
    }

    fn find_parent<'p>(&mut self, path: &'p Path) -> io::Result<(NodeId, &'p str)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| not_found(path))?;
        let parent = self.find(path.parent().unwrap_or(Path::new("")))?;
        self.directory(parent, path)?;
        Ok((parent, name))
    }

    fn change_name(&mut self, directory: NodeId, path: &Path, change: NameChange) -> io::Result<()> {
        let tracked = self.tracked;
        let directory = self.directory(directory, path)?;
        change.apply(&mut directory.names);
        if tracked {
            directory.unsynced.push(change);
        }
        Ok(())
    }

    fn add(&mut self, node: Node) -> NodeId {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        id
    }

    fn file(&mut self, node: NodeId, life: u64) -> io::Result<&mut FileNode> {
        if life != self.life {
            return Err(stale_handle());
        }
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(stale_handle()),
        }
    }

    fn change_file(&mut self, node: NodeId, life: u64, change: FileChange) -> io::Result<()> {
        let tracked = self.tracked;
        let file = self.file(node, life)?;
        change.apply(&mut file.content, None);
        if tracked {
            file.unsynced.push(change);
        }
        Ok(())
    }

    /// A file without a name, a handle and (when tracked) a durable name is gone.
    fn forget_if_unused(&mut self, node: NodeId) {
        if self.tracked {
            return;
        }
        if let Some(Node::File(file)) = self.nodes.get(&node)
            && file.links == 0
            && file.open_handles == 0
        {
            self.nodes.remove(&node);
        }
    }

    fn unlink(&mut self, node: NodeId) {
        if let Some(Node::File(file)) = self.nodes.get_mut(&node) {
            file.links = file.links.saturating_sub(1);
        }
        self.forget_if_unused(node);
    }

    /// The disk returns wrong data: the bits of `mask` are inverted at `position`.
    pub(super) fn flip(&mut self, path: &Path, position: usize, mask: u8) -> io::Result<()> {
        let node = self.find(path)?;
        let Some(Node::File(file)) = self.nodes.get_mut(&node) else { return Err(not_found(path)) };
        for bytes in [&mut file.content, &mut file.durable] {
            if let Some(byte) = bytes.get_mut(position) {
                *byte ^= mask;
            }
        }
        Ok(())
    }

    /// The end of every process: handles and locks are void, the page cache stays.
    pub(super) fn restart(&mut self) {
        self.life += 1;
        self.locked.clear();
    }

    /// The loss of power. Of each file's and directory's unsynced changes a prefix survives, whose length
    /// `choose(changes + 1)` picks; of the first write that does not, `choose(bytes + 1)` bytes do.
    pub(super) fn lose_power(&mut self, mut choose: impl FnMut(usize) -> usize) {
        self.restart();
        for node in self.nodes.values_mut() {
            match node {
                Node::File(file) => {
                    let kept = choose(file.unsynced.len() + 1);
                    for (index, change) in file.unsynced.iter().enumerate() {
                        if index < kept {
                            change.apply(&mut file.durable, None);
                        } else if let FileChange::Write { bytes, .. } = change {
                            change.apply(&mut file.durable, Some(choose(bytes.len() + 1)));
                            break;
                        } else {
                            break;
                        }
                    }
                    file.unsynced.clear();
                    file.open_handles = 0;
                    file.content.clone_from(&file.durable);
                }
                Node::Directory(directory) => {
                    let kept = choose(directory.unsynced.len() + 1);
                    for change in directory.unsynced.iter().take(kept) {
                        change.apply(&mut directory.durable);
                    }
                    directory.unsynced.clear();
                    directory.names.clone_from(&directory.durable);
                }
            }
        }
        self.sweep();
    }

    /// Drops files without a name.
    fn sweep(&mut self) {
        let mut reached = BTreeMap::from([(ROOT, 1_usize)]);
        let mut waiting = vec![ROOT];
        while let Some(id) = waiting.pop() {
            if let Some(Node::Directory(directory)) = self.nodes.get(&id) {
                for child in directory.names.values() {
                    *reached.entry(*child).or_default() += 1;
                    waiting.push(*child);
                }
            }
        }
        self.nodes.retain(|id, _| reached.contains_key(id));
        for (id, links) in reached {
            if let Some(Node::File(file)) = self.nodes.get_mut(&id) {
                file.links = links;
            }
        }
    }
}

impl MemoryEnv {
    pub fn new() -> Self {
        Self::default()
    }

    /// A file system that tracks durability.
    pub(super) fn tracked() -> Self {
        Self { disk: Arc::new(Mutex::new(Disk::new(true))) }
    }

    /// Ends every process that uses the file system: old handles fail from now on, locks are free, all content stays.
    pub fn restart(&self) {
        self.disk.lock().restart();
    }
}

impl Env for MemoryEnv {
    type File = MemoryFile;
    type Lock = MemoryLock;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<MemoryFile> {
        let mut disk = self.disk.lock();
        let node = match disk.find(path) {
            Ok(node) => node,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && matches!(mode, OpenMode::Create | OpenMode::Truncate) =>
            {
                let (parent, name) = disk.find_parent(path)?;
                let node = disk.add(Node::File(FileNode { links: 1, ..FileNode::default() }));
                disk.change_name(parent, path, NameChange::Link(name.to_owned(), node))?;
                node
            }
            Err(error) => return Err(error),
        };
        let life = disk.life;
        if matches!(disk.nodes.get(&node), Some(Node::Directory(_))) {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, format!("{}: is a directory", path.display())));
        }
        disk.file(node, life)?.open_handles += 1;
        if mode == OpenMode::Truncate {
            disk.change_file(node, life, FileChange::SetLen(0))?;
        }
        Ok(MemoryFile { disk: Arc::clone(&self.disk), node, life })
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let mut disk = self.disk.lock();
        let node = disk.find(directory)?;
        let names = disk.directory(node, directory)?.names.clone();
        Ok(names
            .into_iter()
            .map(|(name, node)| match disk.nodes.get(&node) {
                Some(Node::File(file)) => {
                    DirectoryEntry { name, is_directory: false, size_bytes: file.content.len() as u64 }
                }
                _ => DirectoryEntry { name, is_directory: true, size_bytes: 0 },
            })
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.disk.lock().find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let node = disk.find(from)?;
        let (from_parent, from_name) = disk.find_parent(from)?;
        let (to_parent, to_name) = disk.find_parent(to)?;
        let replaced = disk.directory(to_parent, to)?.names.get(to_name).copied();
        if from_parent == to_parent {
            let change = NameChange::Rename(from_name.to_owned(), to_name.to_owned());
            disk.change_name(from_parent, from, change)?;
        } else {
            disk.change_name(to_parent, to, NameChange::Link(to_name.to_owned(), node))?;
            disk.change_name(from_parent, from, NameChange::Unlink(from_name.to_owned()))?;
        }
        if let Some(replaced) = replaced.filter(|replaced| *replaced != node) {
            disk.unlink(replaced);
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let node = disk.find(path)?;
        if matches!(disk.nodes.get(&node), Some(Node::Directory(_))) {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, format!("{}: is a directory", path.display())));
        }
        let (parent, name) = disk.find_parent(path)?;
        disk.change_name(parent, path, NameChange::Unlink(name.to_owned()))?;
        disk.unlink(node);
        Ok(())
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let mut node = ROOT;
        for name in Disk::names(path) {
            node = match disk.directory(node, path)?.names.get(name) {
                Some(child) => *child,
                None => {
                    let child = disk.add(Node::Directory(DirectoryNode::default()));
                    disk.change_name(node, path, NameChange::Link(name.to_owned(), child))?;
                    child
                }
            };
        }
        disk.directory(node, path).map(|_| ())
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let node = disk.find(path)?;
        let (parent, name) = disk.find_parent(path)?;
        let mut waiting = vec![node];
        while let Some(id) = waiting.pop() {
            if let Some(Node::Directory(directory)) = disk.nodes.get(&id) {
                let children: Vec<_> = directory.names.values().copied().collect();
                for child in children {
                    disk.unlink(child);
                    waiting.push(child);
                }
            }
        }
        disk.change_name(parent, path, NameChange::Unlink(name.to_owned()))
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let node = disk.find(directory)?;
        let tracked = disk.tracked;
        let directory = disk.directory(node, directory)?;
        if tracked {
            directory.durable.clone_from(&directory.names);
            directory.unsynced.clear();
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<MemoryLock> {
        let file = self.open(path, OpenMode::Create)?;
        let mut disk = self.disk.lock();
        if disk.locked.contains(&file.node) {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        disk.locked.push(file.node);
        drop(disk);
        Ok(MemoryLock { disk: Arc::clone(&self.disk), node: file.node, life: file.life })
    }
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if disk.life == self.life {
            disk.locked.retain(|node| *node != self.node);
        }
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if let Ok(file) = disk.file(self.node, self.life) {
            file.open_handles = file.open_handles.saturating_sub(1);
            disk.forget_if_unused(self.node);
        }
    }
}

impl MemoryFile {
    /// Writes only the first `len` bytes: how a short write ends.
    pub(super) fn write_part_at(&self, bytes: &[u8], len: usize, position: u64) -> io::Result<()> {
        self.write_all_at(&bytes[..len.min(bytes.len())], position)
    }
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut disk = self.disk.lock();
        let content = &disk.file(self.node, self.life)?.content;
        let position = usize::try_from(position).map_err(io::Error::other)?;
        let rest = content.get(position..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let position = usize::try_from(position).map_err(io::Error::other)?;
        let mut disk = self.disk.lock();
        if disk.tracked {
            let change = FileChange::Write { position, bytes: bytes.to_vec() };
            return disk.change_file(self.node, self.life, change);
        }
        let content = &mut disk.file(self.node, self.life)?.content;
        let end = position + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[position..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, size_bytes: u64) -> io::Result<()> {
        let len = usize::try_from(size_bytes).map_err(io::Error::other)?;
        self.disk.lock().change_file(self.node, self.life, FileChange::SetLen(len))
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.disk.lock().file(self.node, self.life)?.content.len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let tracked = disk.tracked;
        let file = disk.file(self.node, self.life)?;
        if tracked {
            for change in std::mem::take(&mut file.unsynced) {
                change.apply(&mut file.durable, None);
            }
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}
