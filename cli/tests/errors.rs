//! Exit codes and messages of the contract.

mod common;

use std::process::Stdio;

use common::{Place, ran};

#[test]
fn exit_codes() {
    let place = Place::new();
    place.ok(&["backup", "src", "-q"]);
    for (words, code, says) in [
        (&["snapshots"][..], 0, ""),
        (&["-r", "nowhere", "snapshots"], 10, "no repository"),
        (&["-r", "src", "snapshots"], 10, "no repository"),
        (&["snapshots", "--colour"], 2, "unexpected argument"),
        (&["-r", "sftp:host:/x", "snapshots"], 2, "not understood"),
        (&["backup"], 2, "nothing to back up"),
        (&["restore", "latest"], 2, "--target"),
        (&["ls", "0123456789"], 1, "no snapshot"),
        (&["ls", "latest", "/not/there"], 1, "not in the snapshot"),
        (&["backup", "/not/there"], 1, "/not/there"),
        (&["init"], 1, "not replaced"),
        (&["-r", "nowhere", "policy", "s3", "--role", "reader"], 1, "no bucket"),
        (&["--limit-upload", "0", "snapshots"], 2, "rate of 0"),
        (&["--memory", "lots", "snapshots"], 2, "no unit"),
        (&["--memory", "1M", "snapshots"], 2, "least cap"),
        (&["snapshots", "--group-by", "colour"], 2, "grouped by"),
    ] {
        let ran = place.run(words);
        assert_eq!(ran.code, code, "{words:?}: {ran:?}");
        assert!(ran.err.contains(says), "{words:?}: {ran:?}");
        assert!(!ran.err.contains("panicked"), "{words:?}: {ran:?}");
    }
}

#[test]
fn restic_variables_are_named_with_ours() {
    let place = Place::new();
    for (theirs, ours, words) in [
        ("RESTIC_REPOSITORY", "COPAL_REPOSITORY", &["snapshots"][..]),
        ("RESTIC_PASSWORD_FILE", "COPAL_PASSWORD_FILE", &["-r", "repo", "snapshots"]),
    ] {
        if words.len() > 1 {
            place.ok(&["-r", "repo", "init", "--key-out", "key"]);
        }
        let ran = ran(place.command(words).env(theirs, "x"));
        assert_ne!(ran.code, 0);
        assert!(ran.err.contains(theirs) && ran.err.contains(ours), "{ran:?}");
    }
}

#[test]
fn errors_are_json_on_stderr_when_asked_for() {
    let place = Place::new();
    let ran = place.run(&["-r", "nowhere", "snapshots", "--json"]);
    assert_eq!((ran.code, ran.out.as_str()), (10, ""));
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((&error["message_type"], &error["code"]), (&"exit_error".into(), &10.into()));
}

#[test]
fn locks_are_accepted_and_do_nothing() {
    let place = Place::new();
    place.ok(&["backup", "src", "-q"]);
    assert!(place.ok(&["unlock"]).err.contains("no locks"));
    assert!(place.ok(&["snapshots", "--no-lock", "--retry-lock", "5m"]).err.contains("no locks"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new();
    place.ok(&["backup", "src", "-q"]);
    let mut child = place
        .command(&["dump", "latest", &place.text("src/big")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert_eq!((done.status.code(), done.stderr), (Some(0), Vec::new()));
}

#[test]
fn what_cannot_be_read_is_told_listed_and_changes_the_code() {
    let place = Place::new();
    std::fs::set_permissions(place.path("src/a.txt"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let ran = place.run_as_user(&["backup", "src", "--json", "--no-progress"]);
    let summary: serde_json::Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    assert_eq!(ran.code, 3, "{ran:?}");
    let item = place.text("src/a.txt");
    assert!(
        summary["errors"].as_array().unwrap().iter().any(|e| e["item"] == *item && e["kind"] == "unreadable"),
        "{summary}"
    );
    assert!(summary["skipped"].as_u64().unwrap() >= 1, "{summary}");
    let error: serde_json::Value = serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
    assert_eq!((&error["message_type"], &error["during"]), (&"error".into(), &"archival".into()));
    let listed = place.run_as_user(&["cat", "snapshot", "latest"]);
    assert!(listed.out.contains(&item), "the snapshot lists it, too: {listed:?}");
}

#[test]
fn profiles_are_used() {
    let place = Place::new();
    place.write(
        "home/.config/copal/copal.toml",
        b"[default]\nrepo = \"elsewhere\"\nkey-file = \"k\"\n[default.backup]\nexclude = [\"*.c\"]\n",
    );
    place.ok(&["init", "--key-out", "k"]);
    place.ok(&["backup", "src", "-q"]);
    assert!(place.path("elsewhere/cfg").exists());
    assert!(!place.ok(&["ls", "latest"]).out.contains("deep.c"));
}

#[test]
fn interrupts_end_a_backup_with_130() {
    let place = Place::new();
    place.ok(&["backup", "src", "-q"]);
    // The pipe is never closed, so only the signal can end it.
    let mut child = place.command(&["backup", "--stdin"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let interrupt = |child: &std::process::Child| {
        assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    };
    interrupt(&child);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let _ = std::io::Write::write_all(&mut pipe, &common::noise(32 << 20));
    drop(pipe);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(place.json(&["snapshots"]).as_array().unwrap().len(), 1);
}
