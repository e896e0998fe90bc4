//! Excludes that look into directories.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;
use crate::source::exclude::{CACHEDIR_SIGNATURE, Exclude, ExcludeOptions, Reason};

fn exclude(options: ExcludeOptions) -> Exclude {
    Exclude::new(&options).unwrap()
}

#[test]
fn cache_directories_need_the_signature() {
    let exclude = exclude(ExcludeOptions { caches: true, ..Default::default() });
    let verdict = |make: &dyn Fn(&Path)| {
        let tmp = tempfile::tempdir().unwrap();
        make(&tmp.path().join("CACHEDIR.TAG"));
        let dir = open(tmp.path());
        let (reason, notes) = exclude.dir_is_excluded(&dir);
        (reason.is_some(), notes.len())
    };
    let more = [CACHEDIR_SIGNATURE, b"\n# by hand\n"].concat();
    assert_eq!(verdict(&|_| {}), (false, 0));
    assert_eq!(verdict(&|tag| fs::write(tag, &more).unwrap()), (true, 0));
    assert_eq!(verdict(&|tag| fs::write(tag, CACHEDIR_SIGNATURE).unwrap()), (true, 0));
    assert_eq!(verdict(&|tag| fs::write(tag, &CACHEDIR_SIGNATURE[..42]).unwrap()), (false, 1), "too short");
    assert_eq!(
        verdict(&|tag| fs::write(tag, b"Signature: none of these bytes are the right ones").unwrap()),
        (false, 1)
    );
    assert_eq!(verdict(&|tag| fs::create_dir(tag).unwrap()), (false, 1));
    assert_eq!(verdict(&|tag| mknodat(CWD, tag, FileType::Fifo, Mode::from(0o600), 0).unwrap()), (false, 1));
    let link = |tag: &Path| {
        fs::write(tag.with_extension("real"), &more).unwrap();
        symlink("CACHEDIR.real", tag).unwrap();
    };
    assert_eq!(verdict(&link), (false, 1), "the standard asks for a regular file");
}

#[test]
fn marked_directories() {
    let tmp = tempfile::tempdir().unwrap();
    symlink("nowhere", tmp.path().join(".nobackup")).unwrap();
    fs::write(tmp.path().join("head"), b"skip: yes").unwrap();
    let dir = open(tmp.path());
    let reason = |spec: &str| {
        let exclude = exclude(ExcludeOptions { if_present: vec![spec.into()], ..Default::default() });
        exclude.dir_is_excluded(&dir).0.map(|reason| reason.to_string())
    };
    assert_eq!(reason(".nobackup").unwrap(), "contents excluded because of .nobackup");
    assert!(reason("head").is_some() && reason("head:skip: ").is_some());
    assert!(reason("head:skip: no").is_none() && reason("other").is_none());
}

#[test]
fn paths_and_sizes() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("big.TXT"), [0; 11]).unwrap();
    fs::write(tmp.path().join("ok"), [0; 10]).unwrap();
    let dir = open(tmp.path());
    let exclude = exclude(ExcludeOptions {
        patterns: vec![b"/skip".to_vec(), b"!/skip/but".to_vec()],
        patterns_any_case: vec![b"*.Tmp".to_vec(), b"\xc3\x84*".to_vec()],
        larger_than: Some(10),
        ..Default::default()
    });
    let (big, ok) = (dir.stat(b"big.TXT").unwrap(), dir.stat(b"ok").unwrap());
    assert_eq!(exclude.excluded(b"/x/big.TXT", &big), Some(Reason::LargerThan(10)));
    assert_eq!(exclude.excluded(b"/x/ok", &ok), None);
    assert_eq!(exclude.excluded(b"/skip/x", &ok), Some(Reason::Pattern));
    assert_eq!(exclude.excluded(b"/skip/but", &ok), None);
    assert_eq!(exclude.excluded(b"/x/a.TMP", &ok), Some(Reason::Pattern));
    assert_eq!(exclude.excluded_by_path("/x/\u{e4}b".as_bytes()), Some(Reason::Pattern));
    let own = dir.stat_self().unwrap();
    assert!(own.size > 10 || own.blocks == 0);
    assert_eq!(exclude.excluded(b"/x", &own), None, "directories have no size");
    assert_eq!(Exclude::default().excluded(b"/x", &big), None);
}
