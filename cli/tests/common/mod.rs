//! A place to run the binary in: a home directory of its own, and nothing of the caller's environment.
#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Temporary directories, and the binary.
pub(crate) struct Place {
    /// Holds everything; removed at the end.
    pub(crate) dir: tempfile::TempDir,
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code.
    pub(crate) code: i32,
    /// What was written to stdout.
    pub(crate) out: String,
    /// What was written to stderr.
    pub(crate) err: String,
}

impl Place {
    /// With some files in `src`.
    pub(crate) fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap())
    }

    /// The same, in a directory that is given.
    pub(crate) fn in_dir(dir: tempfile::TempDir) -> Self {
        let place = Self { dir };
        fs::create_dir(place.path("home")).unwrap();
        place.write("src/a.txt", b"hello\n");
        place.write("src/sub/deep.c", b"int main;\n");
        place.write("src/big", &noise(3 << 20));
        fs::hard_link(place.path("src/a.txt"), place.path("src/hard")).unwrap();
        std::os::unix::fs::symlink("a.txt", place.path("src/link")).unwrap();
        let sparse = fs::File::create(place.path("src/sparse")).unwrap();
        sparse.set_len(8 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 4 << 20).unwrap();
        place
    }

    /// A path below it.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The same as text.
    pub(crate) fn text(&self, below: &str) -> String {
        self.path(below).to_str().unwrap().to_owned()
    }

    /// Writes a file and the directories above it.
    pub(crate) fn write(&self, below: &str, bytes: &[u8]) {
        let path = self.path(below);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// The binary with `words` behind it, in `dir`, with nothing in its environment but HOME and PATH.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_copal"));
        command.args(words).current_dir(self.dir.path()).env_clear().stdin(Stdio::null());
        command.env("HOME", self.path("home")).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// Runs it.
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        ran(&mut self.command(words))
    }

    /// Runs it as somebody who may not read everything: root becomes nobody.
    pub(crate) fn run_as_user(&self, words: &[&str]) -> Ran {
        let mut command = self.command(words);
        if fs::metadata(self.dir.path()).unwrap().uid() == 0 {
            let given = Command::new("chown").args(["-R", "65534:65534"]).arg(self.dir.path()).status().unwrap();
            assert!(given.success());
            command.uid(65534).gid(65534);
        }
        ran(&mut command)
    }

    /// Runs it, and it must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> Ran {
        let ran = self.run(words);
        assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
        ran
    }

    /// The files of all packs of the default repository, sorted.
    pub(crate) fn packs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.path("home/.local/share/copal/repository/pack")];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { open.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }

    /// Runs it with `--json`; the last line of stdout.
    #[track_caller]
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let ran = self.ok(&[words, &["--json"]].concat());
        serde_json::from_str(ran.out.lines().last().unwrap_or_else(|| panic!("{words:?} printed nothing"))).unwrap()
    }
}

/// Runs a command to its end.
pub(crate) fn ran(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

/// Bytes that do not compress, the same each time.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(next).collect()
}

/// Whether two trees have the same files with the same bytes and link targets.
#[track_caller]
pub(crate) fn assert_same_tree(a: &Path, b: &Path) {
    let listing = |root: &Path| {
        let mut all = Vec::new();
        list(root, root, &mut all);
        all.sort();
        all
    };
    assert_eq!(listing(a), listing(b));
}

fn list(root: &Path, dir: &Path, all: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        let content = if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if kind.is_dir() {
            list(root, &path, all);
            "dir".into()
        } else {
            let bytes = fs::read(&path).unwrap();
            let sum = bytes.iter().fold(7_u64, |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into()));
            format!("{} {sum:x}", bytes.len())
        };
        all.push((path.strip_prefix(root).unwrap().to_owned(), content));
    }
}
