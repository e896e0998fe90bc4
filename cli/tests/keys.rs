//! Keys: passwords, roles, rotation; and that none of them is ever shown.

mod common;

use std::fs;

use common::{Place, Ran, ran};

fn with_password(place: &Place, password: &str, words: &[&str]) -> Ran {
    ran(place.command(&[&["-r", "repo"], words].concat()).env("COPAL_PASSWORD", password))
}

fn place_with_password() -> Place {
    let place = Place::new();
    let init = with_password(&place, "correct horse", &["init"]);
    assert_eq!(init.code, 0, "{init:?}");
    assert_eq!(with_password(&place, "correct horse", &["backup", "src", "-q"]).code, 0);
    place
}

#[test]
fn passwords_open_from_wherever_they_come_and_wrong_ones_do_not() {
    let place = place_with_password();
    place.write("pw", b"correct horse\n");
    for words in [&["-p", "pw"][..], &["--password-command", "cat pw"]] {
        place.ok(&[words, &["-r", "repo", "snapshots"]].concat());
    }
    let wrong = with_password(&place, "battery staple", &["snapshots"]);
    assert_eq!(wrong.code, 12, "{wrong:?}");
    assert!(wrong.err.contains("wrong password") && !wrong.err.contains("battery staple"), "{wrong:?}");
    let none = place.run(&["-r", "repo", "snapshots"]);
    assert_eq!(none.code, 12, "{none:?}");
    assert!(none.err.contains("--password-file"), "{none:?}");
    // What is typed goes before what the environment says.
    let typed = ran(place.command(&["-r", "repo", "-p", "pw", "snapshots"]).env("COPAL_PASSWORD", "battery staple"));
    assert_eq!(typed.code, 0, "{typed:?}");
}

#[test]
fn roles_may_what_they_may() {
    let place = place_with_password();
    for role in ["writer", "reader", "maintainer"] {
        let out = format!("{role}.key");
        let made = with_password(&place, "correct horse", &["key", "export", "--role", role, "--out", &out]);
        assert_eq!(made.code, 0, "{made:?}");
    }
    let run = |role: &str, words: &[&str]| {
        place.run(&[&["-r", "repo", "--key-file", &format!("{role}.key")], words].concat())
    };
    assert_eq!(run("writer", &["backup", "src", "-q"]).code, 0);
    let refused = run("writer", &["ls", "latest"]);
    assert_eq!(refused.code, 12, "{refused:?}");
    assert_eq!(run("reader", &["ls", "latest"]).code, 0);
    assert_eq!(run("reader", &["backup", "src"]).code, 12);
    assert_eq!(run("maintainer", &["backup", "src"]).code, 12);
    assert_eq!(run("maintainer", &["snapshots"]).code, 0);
    assert_eq!(run("writer", &["key", "export", "--role", "owner", "--out", "stolen"]).code, 12);
    assert!(!place.path("stolen").exists());

    let list = with_password(&place, "correct horse", &["key", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list.out).unwrap();
    let writers = list["members"].as_array().unwrap().iter().filter(|m| m["role"] == "writer").count();
    assert_eq!(writers, 2, "the owner's own on this machine, and the exported one: {list}");
}

#[test]
fn a_revoked_writer_is_refused() {
    let place = place_with_password();
    let made = with_password(&place, "correct horse", &["key", "enroll-writer", "--out", "w.key", "--json"]);
    let id = serde_json::from_str::<serde_json::Value>(&made.out).unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(place.run(&["-r", "repo", "--key-file", "w.key", "backup", "src", "-q"]).code, 0);
    assert_eq!(with_password(&place, "correct horse", &["key", "revoke", &id]).code, 0);
    let refused = place.run(&["-r", "repo", "--key-file", "w.key", "backup", "src"]);
    assert_eq!(refused.code, 12, "{refused:?}");
    let left = with_password(&place, "correct horse", &["snapshots", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&left.out).unwrap().as_array().unwrap().len(), 2);
}

#[test]
fn rotation_keeps_the_password_and_shuts_older_keys_out_of_later_backups() {
    let place = place_with_password();
    place.write("second", b"another\n");
    let add = &["key", "add", "--new-password-file", "second", "--label", "laptop"];
    assert_eq!(with_password(&place, "correct horse", add).code, 0);
    let rotated = with_password(&place, "correct horse", &["key", "rotate"]);
    assert_eq!(rotated.code, 0, "{rotated:?}");
    assert_eq!(with_password(&place, "correct horse", &["backup", "src", "-q"]).code, 0);
    let new = with_password(&place, "correct horse", &["snapshots", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&new.out).unwrap().as_array().unwrap().len(), 2);
    let old = with_password(&place, "another", &["snapshots", "--json"]);
    assert_eq!(old.code, 3, "{old:?}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&old.out).unwrap().as_array().unwrap().len(), 1);
}

#[test]
fn a_recovery_code_opens_and_the_last_slot_goes_with_a_warning() {
    let place = Place::new();
    let init = place.ok(&["-r", "repo", "init", "--key-out", "owner.key", "--recovery-code"]);
    let code = init.err.lines().find_map(|l| l.split("write it down: ").nth(1)).expect("it is shown").to_owned();
    assert!(!init.out.contains(&code));
    assert_eq!(with_password(&place, &code, &["snapshots"]).code, 0);
    let owner = |words: &[&str]| place.run(&[&["-r", "repo", "--key-file", "owner.key"], words].concat());
    let list: serde_json::Value = serde_json::from_str(&owner(&["key", "list", "--json"]).out).unwrap();
    let slot = list["slots"][0]["id"].as_str().unwrap().to_owned();
    let removed = owner(&["key", "remove", &slot[..8]]);
    assert_eq!(removed.code, 0, "{removed:?}");
    assert!(removed.err.contains("last key slot"), "{removed:?}");
    assert_eq!(with_password(&place, &code, &["snapshots"]).code, 12);
    assert_eq!(owner(&["snapshots"]).code, 0);
}

#[test]
fn secrets_are_in_no_output() {
    let place = Place::new();
    place.ok(&["backup", "src"]);
    let key = fs::read_to_string(place.path("home/.config/copal/key")).unwrap();
    let digits: Vec<&str> = key.lines().skip(1).filter(|line| line.len() == 64).collect();
    assert!(digits.len() > 2);
    for words in [
        &["backup", "src", "-vv"][..],
        &["cat", "config"],
        &["cat", "keys"],
        &["key", "list", "--json"],
        &["key", "export", "--role", "owner", "--out", "copy", "--json"],
        &["key", "rotate", "--json", "-vv"],
        &["snapshots", "-vv"],
    ] {
        let ran = place.ok(words);
        for line in &digits {
            assert!(!ran.out.contains(line) && !ran.err.contains(line), "{words:?}");
        }
    }
}

/// A rotation that was cut off has left its key beside the one in use: not yet written, not yet in effect, or in effect.
#[test]
fn a_rotation_that_was_cut_off_goes_on() {
    let place = Place::new();
    place.ok(&["backup", "src"]);
    let (key, new) = (place.path("home/.config/copal/key"), place.path("home/.config/copal/key.new"));
    fs::write(&new, "").unwrap();
    place.ok(&["key", "rotate"]);
    let rotated = fs::read(&key).unwrap();
    assert!(!new.exists());
    // In effect, and not in place of the older one.
    place.ok(&["key", "rotate", "--key-out", "home/.config/copal/key.new"]);
    let next = fs::read(&new).unwrap();
    place.ok(&["backup", "src", "--key-file", "home/.config/copal/key.new"]);
    let goes_on = place.ok(&["key", "rotate"]);
    assert!(goes_on.err.contains("an earlier rotation was cut off"), "{goes_on:?}");
    assert!(fs::read(&key).unwrap() == next && next != rotated && !new.exists());
    let listed = place.json(&["snapshots"]);
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    // What is in use, or was once, is no key to go on with.
    for other in [next, rotated] {
        fs::write(&new, other).unwrap();
        let refused = place.run(&["key", "rotate"]);
        assert!(refused.code == 1 && refused.err.contains("is not replaced"), "{refused:?}");
    }
}

/// Runs a command on a terminal of its own and answers its questions; prints its exit code and all that it showed.
const ON_A_TERMINAL: &str = "
import os, pty, select, sys
answers = [a.encode().decode('unicode_escape').encode() for a in sys.argv[1].split('|')]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
shown = b''
while select.select([terminal], [], [], 60)[0]:
    try:
        got = os.read(terminal, 4096)
    except OSError:
        break
    if not got:
        break
    shown += got
    if answers and shown.endswith(b': '):
        os.write(terminal, answers.pop(0))
else:
    os.kill(pid, 9)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode())
";

#[test]
fn passwords_are_asked_for_on_a_terminal_and_not_shown() {
    let place = Place::new();
    let on_terminal = |answers: &str, words: &[&str]| {
        let mut python = std::process::Command::new("python3");
        let binary = env!("CARGO_BIN_EXE_copal");
        python.args(["-c", ON_A_TERMINAL, answers, binary, "-r", "repo"]).args(words).current_dir(place.dir.path());
        let ran =
            ran(python.env_clear().env("HOME", place.path("home")).env("PATH", std::env::var_os("PATH").unwrap()));
        assert!(!ran.out.contains("hunter"), "{ran:?}");
        ran.out
    };
    assert!(on_terminal("hunter1\\n|hunter2\\n", &["init"]).starts_with("1 "), "two different ones are none");
    assert!(!place.path("repo").exists());
    let made = on_terminal("huntxx\\x7f\\x7fer2\\n|hunter2\\n", &["init"]);
    assert!(made.starts_with("0 "), "{made}");
    assert!(on_terminal("hunter2\\n", &["snapshots"]).starts_with("0 "));
    assert!(on_terminal("hunter3\\n", &["snapshots"]).starts_with("12 "));
    assert!(on_terminal("hunt\\x03", &["snapshots"]).starts_with("130 "));
}
