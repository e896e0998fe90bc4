//! What a user does: back up into the default repository, look around, get everything back.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use common::{Place, assert_same_tree, ran};

#[test]
fn the_first_backup_makes_a_repository_and_its_key() {
    let place = Place::new();
    let first = place.ok(&["backup", "src", "--tag", "one,two"]);
    let key = place.path("home/.config/copal/key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(first.err.lines().count(), 1, "{first:?}");
    assert!(
        first.err.contains(key.to_str().unwrap()) && first.err.contains("without it nothing can be read"),
        "{first:?}"
    );
    assert!(first.out.contains("saved"), "{first:?}");

    let second = place.ok(&["backup", "src"]);
    assert_eq!(second.err, "", "the second says nothing of keys");
    let snapshots = place.json(&["snapshots"]);
    assert_eq!(snapshots.as_array().unwrap().len(), 2);
    assert_eq!(snapshots[0]["tags"], serde_json::json!(["one", "two"]));
    assert_eq!(snapshots[1]["parent"], snapshots[0]["id"]);
    assert_eq!(place.json(&["snapshots", "--tag", "one"]).as_array().unwrap().len(), 1);
    assert_eq!(place.json(&["snapshots", "--latest", "1"])[0]["id"], snapshots[1]["id"]);
}

#[test]
fn a_key_file_without_its_repository_is_never_replaced() {
    let place = Place::new();
    place.ok(&["backup", "src", "-q"]);
    let key = fs::read(place.path("home/.config/copal/key")).unwrap();
    fs::remove_dir_all(place.path("home/.local")).unwrap();
    let again = place.run(&["backup", "src"]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.err.contains("not replaced"), "{again:?}");
    assert_eq!(fs::read(place.path("home/.config/copal/key")).unwrap(), key);
}

#[test]
fn everything_comes_back() {
    let place = Place::new();
    place.ok(&["backup", "src"]);
    let source = place.text("src");
    let summary = place.json(&["restore", &format!("latest:{source}"), "--target", "out"]);
    assert_eq!(summary["files_failed"], 0);
    assert_same_tree(&place.path("src"), &place.path("out"));
    let [a, hard] = ["a.txt", "hard"].map(|name| fs::metadata(place.path("out").join(name)).unwrap().ino());
    assert_eq!(a, hard);
    let sparse = fs::metadata(place.path("out/sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "holes stay holes: {} blocks", sparse.blocks());

    let picked = place.ok(&["restore", "latest", "-t", "picked", "--include", "*.c"]);
    assert_eq!(picked.code, 0);
    assert!(place.path("picked").join(&source[1..]).join("sub/deep.c").exists());
    assert!(!place.path("picked").join(&source[1..]).join("a.txt").exists());
}

#[test]
fn archives_hold_what_the_directory_held() {
    let place = Place::new();
    place.ok(&["backup", "src", "-q"]);
    let source = place.text("src");
    assert_eq!(place.ok(&["dump", "latest", &format!("{source}/a.txt")]).out, "hello\n");
    for (format, unpack) in [("tar", vec!["tar", "xf", "archive", "-C", "out"]), ("zip", vec!["python3", "-c", UNZIP])]
    {
        let _ = fs::remove_dir_all(place.path("out"));
        fs::create_dir(place.path("out")).unwrap();
        let file = fs::File::create(place.path("archive")).unwrap();
        let status = place.command(&["dump", "latest", &source, "--archive", format]).stdout(file).status().unwrap();
        assert!(status.success(), "{format}");
        let unpacked = ran(Command::new(unpack[0]).args(&unpack[1..]).current_dir(place.dir.path()));
        assert_eq!((unpacked.code, unpacked.err.as_str()), (0, ""), "{format}");
        assert_same_tree(&place.path("src"), &place.path("out"));
    }
}

/// Python's zipfile makes no symlinks by itself.
const UNZIP: &str = "
import os, zipfile
for i in zipfile.ZipFile('archive').infolist():
    if i.external_attr >> 28 == 0o12:
        os.symlink(zipfile.ZipFile('archive').read(i), os.path.join('out', i.filename))
    else:
        zipfile.ZipFile('archive').extract(i, 'out')
";

#[test]
fn looking_around() {
    let place = Place::new();
    place.ok(&["backup", "src", "-q"]);
    place.write("src/sub/deep.c", b"int main(void);\n");
    place.write("src/new", b"new");
    fs::remove_file(place.path("src/big")).unwrap();
    place.ok(&["backup", "src", "-q"]);
    let source = place.text("src");

    let names =
        |ran: common::Ran| ran.out.lines().map(|l| l.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(place.ok(&["ls", "latest", &source])), ["a.txt", "hard", "link", "new", "sparse", "sub"]);
    assert_eq!(names(place.ok(&["ls", "latest", &source, "--recursive", "--reverse"]))[0], "deep.c");
    let by_size = place.ok(&["ls", "latest", &source, "--sort", "size"]);
    assert_eq!(names(by_size)[0], "sparse");

    let found = place.json(&["find", "*.c"]);
    assert_eq!(found.as_array().unwrap().len(), 2);
    assert_eq!(found[0]["matches"][0]["path"], format!("{source}/sub/deep.c"));
    assert_eq!(place.json(&["find", "*.c", "--newer", "2999-01-01"]).as_array().unwrap().len(), 0);

    let diff = place.ok(&["diff", "latest~1", "latest"]);
    let changes: Vec<&str> = diff.out.lines().take_while(|l| !l.is_empty()).collect();
    let expected = [format!("-    {source}/big"), format!("+    {source}/new"), format!("M    {source}/sub/deep.c")];
    assert_eq!(changes, expected);
    let statistics = place.json(&["diff", "latest~1", "latest"]);
    assert_eq!((&statistics["changed_files"], &statistics["added"]["files"]), (&1.into(), &1.into()));

    let size = place.json(&["stats", "latest"]);
    assert_eq!(size["total_size"], (8 << 20) + 6 + 16 + 3, "hard links count once");
    let all = place.json(&["stats", "--mode", "raw-data"]);
    assert!(all["total_size"].as_u64().unwrap() > 3 << 20 && all["missing_blob_count"] == 0, "{all}");
    let tree = place.json(&["cat", "tree", &format!("latest:{source}")]);
    let blob = tree["nodes"][0]["children"][0].as_str().unwrap();
    assert_eq!(place.ok(&["cat", "blob", blob]).out, "hello\n");
    assert!(place.ok(&["find", "--blob", blob]).out.contains("/src/a.txt"));
}

#[test]
fn pipes_are_backed_up_only_when_their_command_succeeds() {
    let place = Place::new();
    let mut child = place
        .command(&["backup", "--stdin", "--stdin-filename", "dump.sql", "-q"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"select 1;\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(place.ok(&["dump", "latest", "dump.sql"]).out, "select 1;\n");

    place.ok(&["backup", "--stdin-from-command", "--stdin-filename", "x", "--", "echo", "fine"]);
    assert_eq!(place.ok(&["dump", "latest", "/x"]).out, "fine\n");
    let failed =
        place.run(&["backup", "--stdin-from-command", "--stdin-filename", "x", "--", "sh", "-c", "echo half; exit 4"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.err.contains("exit status: 4"), "{failed:?}");
    assert_eq!(place.json(&["snapshots"]).as_array().unwrap().len(), 2);
}

#[test]
fn a_dry_run_stores_nothing_and_an_unchanged_source_can_be_skipped() {
    // Not in /tmp: the attributes of directories above belong to the snapshot, and other tests change those of /tmp.
    let place = Place::in_dir(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
    let dry = place.json(&["backup", "src", "--dry-run"]);
    assert_eq!((&dry["snapshot_id"], &dry["dry_run"], &dry["files_new"]), (&"".into(), &true.into(), &5.into()));
    assert_eq!(place.json(&["snapshots"]).as_array().unwrap().len(), 0);
    // Files that changed less than two seconds ago are never taken for unchanged.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    place.ok(&["backup", "src", "-q"]);
    let skipped = place.json(&["backup", "src", "--skip-if-unchanged"]);
    assert_eq!((&skipped["snapshot_id"], &skipped["files_unmodified"]), (&"".into(), &5.into()), "{skipped}");
    assert_eq!(place.json(&["snapshots"]).as_array().unwrap().len(), 1);
}

#[test]
fn excludes_and_lists() {
    let place = Place::new();
    place.write("list", format!("{}/*.txt\n", place.text("src")).as_bytes());
    place.ok(&["backup", "--files-from", "list", "-q"]);
    assert!(place.ok(&["ls", "latest"]).out.ends_with("/src/a.txt\n"));
    place.ok(&["backup", "src", "-q", "--exclude", "*.c", "--exclude-larger-than", "1M"]);
    let listed = place.ok(&["ls", "latest"]).out;
    assert!(listed.contains("/src/a.txt") && listed.contains("/src/sub\n"), "{listed}");
    assert!(!listed.contains("deep.c") && !listed.contains("big"), "{listed}");
}

#[test]
fn a_path_through_a_symlink_is_the_file_behind_it() {
    let place = Place::new();
    std::os::unix::fs::symlink("src", place.path("way")).unwrap();
    place.ok(&["backup", "way/a.txt", "-q"]);
    assert_eq!(place.ok(&["dump", "latest", &place.text("src/a.txt")]).out, "hello\n");
    place.ok(&["backup", "way/", "-q"]);
    assert!(place.ok(&["ls", "latest"]).out.contains("/src/sub/deep.c"));
    place.ok(&["backup", "way", "-q"]);
    assert!(place.ok(&["ls", "latest", "-l"]).out.contains("/way -> src\n"));
}
