//! Which paths are backed up, as the tree that a snapshot holds: each asked-for path with all directories above it.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::format::node::{Metadata, NodeKind, Timestamp};
use crate::id::BlobId;
use crate::source::{self, Dir, Note, Root, Stat, Target};

use super::dir::synthetic;

/// A node of the tree of paths.
pub(super) enum Plan {
    /// A directory above asked-for paths: only what leads to them is stored of it.
    Above {
        /// By name.
        children: BTreeMap<Vec<u8>, Plan>,
        /// Whose attributes it gets: its own, or the source's under another path.
        like: Arc<Root>,
    },
    /// An asked-for path, with all below it.
    Whole(Arc<Root>),
    /// A file that comes from a pipe.
    Stream(Stream),
    /// The directory of what the parts of a run hold, each below its name.
    Parts {
        /// Roots, by name: directories of one entry of that name.
        roots: BTreeMap<Vec<u8>, BlobId>,
        /// Whose attributes it gets.
        like: Arc<Root>,
    },
}

/// Bytes from a pipe, stored as a file.
pub struct Stream {
    /// Gives the bytes.
    pub reader: Mutex<Box<dyn Read + Send>>,
    /// Owner and group to record.
    pub owner: (u32, u32),
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream of {:?}", self.owner)
    }
}

impl Stream {
    pub(super) fn metadata(&self, now: Timestamp) -> Metadata {
        synthetic(NodeKind::File { size: 0 }, 0o600, self.owner, now)
    }
}

impl Plan {
    fn root(&self) -> &Root {
        match self {
            Self::Above { like, .. } | Self::Whole(like) | Self::Parts { like, .. } => like,
            Self::Stream(_) => unreachable!("a stream has no root"),
        }
    }

    /// What it was when it was opened.
    pub(super) fn stat(&self) -> &Stat {
        match self.root().target() {
            Target::Dir { stat, .. } | Target::Entry { stat, .. } => stat,
        }
    }

    /// The directory that an asked-for file stands in.
    pub(super) fn parent(&self) -> &Dir {
        match self.root().target() {
            Target::Dir { dir, .. } => dir,
            Target::Entry { parent, .. } => parent,
        }
    }

    /// Its attributes.
    pub(super) fn metadata(&self, _name: &[u8], stat: &Stat) -> io::Result<(Metadata, Vec<Note>)> {
        match self.root().target() {
            Target::Dir { dir, .. } => dir.metadata_of(dir, stat),
            Target::Entry { parent, name, .. } => parent.metadata(name, stat),
        }
    }

    /// Puts what parts hold beside what stands in the top directory, which was planned from `path` if it is a directory as a whole.
    pub(super) fn beside(
        mut self,
        path: &Path,
        name: &[u8],
        roots: BTreeMap<Vec<u8>, BlobId>,
        options: &source::Options,
    ) -> Result<Self> {
        if let Self::Whole(root) = self {
            self = spread(path, root, options)?;
        }
        let Self::Above { children, like } = &mut self else {
            return Err(Error::Invalid("a run takes no stream".into()));
        };
        if children.contains_key(name) {
            let name = String::from_utf8_lossy(name);
            return Err(Error::Invalid(format!(
                "{name} is the name of the directory of the parts: call yours otherwise"
            )));
        }
        if !roots.is_empty() {
            children.insert(name.to_vec(), Self::Parts { roots, like: Arc::clone(like) });
        }
        Ok(self)
    }

    /// How many other mounts were left out.
    pub(super) fn mounts_skipped(&self) -> u64 {
        match self {
            Self::Above { children, .. } => children.values().map(Self::mounts_skipped).sum(),
            Self::Whole(root) => root.mounts_skipped(),
            Self::Stream(_) | Self::Parts { .. } => 0,
        }
    }
}

/// Absolute, without `.`, `..` and symlinks on the way: the directories above a path are stored as directories, so the path
/// must lead through such. A symlink at its end is kept, for it is an entry to back up itself, unless a `/` follows it.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    let fail = |e| Error::io("find", path, e);
    let bytes = path.as_os_str().as_bytes();
    let is_dir = [b"/".as_slice(), b"/.", b"/.."].iter().any(|end| bytes.ends_with(end));
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !is_dir => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize().map_err(fail)?.join(name))
        }
        _ => path.canonicalize().map_err(fail),
    }
}

/// The tree of `paths` (absolute). Paths that lie below others are part of them.
pub(super) fn plan(paths: &[PathBuf], options: &source::Options) -> Result<Plan> {
    let mut top = Plan::Above { children: BTreeMap::new(), like: open(Path::new("/"), options)? };
    for path in paths {
        add(&mut top, path, Arc::clone(&open(path, options)?), None, options)?;
    }
    Ok(top)
}

/// The tree that holds `path` as `as_path`.
pub(super) fn plan_as(path: &Path, as_path: &Path, options: &source::Options) -> Result<Plan> {
    let root = open(path, options)?;
    let like = match root.target() {
        Target::Dir { .. } => Arc::clone(&root),
        Target::Entry { .. } => open(path.parent().unwrap_or(Path::new("/")), options)?,
    };
    if as_path == Path::new("/") && matches!(root.target(), Target::Entry { .. }) {
        return Err(Error::Invalid("only a directory can be stored as /".into()));
    }
    let mut top = Plan::Above { children: BTreeMap::new(), like: Arc::clone(&like) };
    add(&mut top, as_path, root, Some(&like), options)?;
    Ok(top)
}

/// The tree that holds one file from a pipe, at `path` (absolute).
pub(super) fn plan_stream(path: &Path, stream: Stream, options: &source::Options) -> Result<Plan> {
    let like = open(Path::new("/"), options)?;
    let mut at = Plan::Stream(stream);
    let names: Vec<Vec<u8>> = names(path);
    if names.is_empty() {
        return Err(Error::Invalid("a stream needs the name of a file".into()));
    }
    for name in names.into_iter().rev() {
        at = Plan::Above { children: BTreeMap::from([(name, at)]), like: Arc::clone(&like) };
    }
    Ok(at)
}

/// The entries of a directory as children of their own.
fn spread(path: &Path, root: Arc<Root>, options: &source::Options) -> Result<Plan> {
    let fail = |e| Error::io("list", path, e);
    let mut children = BTreeMap::new();
    for entry in std::fs::read_dir(path).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let root = open(&path.join(&name), options)?;
        children.insert(name.into_encoded_bytes(), Plan::Whole(root));
    }
    Ok(Plan::Above { children, like: root })
}

fn open(path: &Path, options: &source::Options) -> Result<Arc<Root>> {
    let root = Root::open(path, options).map_err(|e| Error::io("open", e.path, e.source))?;
    Ok(Arc::new(root))
}

fn names(path: &Path) -> Vec<Vec<u8>> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.as_bytes().to_vec()),
            _ => None,
        })
        .collect()
}

fn add(
    top: &mut Plan,
    path: &Path,
    root: Arc<Root>,
    like: Option<&Arc<Root>>,
    options: &source::Options,
) -> Result<()> {
    let names = names(path);
    let Some((last, above)) = names.split_last() else {
        *top = Plan::Whole(root);
        return Ok(());
    };
    let mut at = top;
    let mut so_far = PathBuf::from("/");
    for name in above {
        so_far.push(std::ffi::OsStr::from_bytes(name));
        let Plan::Above { children, .. } = at else { return Ok(()) };
        if !children.contains_key(name) {
            let like = like.map_or_else(|| open(&so_far, options), |like| Ok(Arc::clone(like)))?;
            children.insert(name.clone(), Plan::Above { children: BTreeMap::new(), like });
        }
        at = children.get_mut(name).expect("just put in");
    }
    if let Plan::Above { children, .. } = at {
        children.insert(last.clone(), Plan::Whole(root));
    }
    Ok(())
}
