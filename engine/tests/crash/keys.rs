//! A change of keys whose process dies at any call of the store, with the call done or not: the owner gets in, everything comes
//! back, and the change has been made whole or not at all.

use std::sync::Arc;

use copal_engine::Result;
use copal_engine::crypto::kdf::RecoveryCode;
use copal_engine::crypto::rng::SystemRng;
use copal_engine::format::bundle::{Bundle, Role};
use copal_engine::id::WriterId;
use copal_engine::repo::key_admin::NewLock;
use copal_engine::repo::{Locked, Opener, Repository};
use copal_engine::store::Store;
use copal_engine::store::fault::{Effect, Rule};

use crate::bench::{Bench, Content, make_source, on_disk, same_content};

const EFFECTS: [Effect; 4] = [Effect::CrashBefore, Effect::CrashAfter, Effect::ErrorBefore, Effect::ErrorAfter];

/// One backup of the owner's and one of a writer's, and that writer.
fn bench() -> (Bench, WriterId, Content) {
    let bench = Bench::new();
    make_source(&bench.source(), false);
    bench.backup();
    let writer = bench.open().unwrap().enroll_new(Role::Writer, &mut SystemRng).unwrap();
    let options = crate::bench::options(&bench.source());
    bench.process_as(&writer, "writer", &options, &copal_engine::progress::Silent).unwrap();
    let content = on_disk(&bench.source());
    (bench, writer.identity.unwrap().id, content)
}

/// Runs `change` once for each call of the store that it makes and each effect on that call; then `judge` says whether the change
/// was made, given whether success was told. How often it was, and was not.
fn at_every_call(
    bench: &Bench,
    content: &Content,
    change: &dyn Fn(&mut Repository) -> Result<()>,
    judge: &dyn Fn(&Bench, &str) -> bool,
) -> [usize; 2] {
    let start = bench.memory.snapshot();
    let mut outcomes = [0, 0];
    for n in 0.. {
        let mut over = false;
        for effect in EFFECTS {
            let what = format!("{effect:?} at call {n}");
            bench.memory.restore(start.clone());
            let mut repo = bench.open().unwrap();
            let before = bench.fault.calls();
            bench.fault.add(Rule::any().skip(n).times(1).effect(effect));
            let done = change(&mut repo);
            over = bench.fault.calls() - before <= n;
            bench.fault.clear();
            bench.fault.revive();
            assert!(!over || done.is_ok(), "{what}: {done:?}");
            let made = judge(bench, &what);
            assert!(made || done.is_err(), "{what}: success was told of what was not done");
            outcomes[usize::from(!made)] += 1;
            for (_, restored) in bench.restore_all() {
                same_content(&restored, content, &what);
            }
            assert_eq!(bench.check().findings, [], "{what}");
        }
        if over {
            return outcomes;
        }
    }
    unreachable!("a change makes finitely many calls")
}

fn opens(bench: &Bench, opener: Opener) -> Result<Repository> {
    let store: Arc<dyn Store> = bench.memory.clone();
    let options = copal_engine::repo::Options::new(bench.dir.path().join("other"));
    Locked::find(store, bench.bridge.clone())?.unlock(opener, options)
}

#[test]
fn a_slot_is_there_whole_or_not() {
    let (bench, _, content) = bench();
    let code = RecoveryCode::generate(&mut SystemRng);
    let add = |repo: &mut Repository| {
        repo.add_slot(Role::Reader, NewLock::RecoveryCode(&code), b"", &mut SystemRng).map(drop)
    };
    let judge = |bench: &Bench, what: &str| {
        let slots = bench.open().unwrap().slots().unwrap().len();
        let opened = opens(bench, Opener::RecoveryCode(code.key()));
        assert_eq!(opened.is_ok(), slots > 0, "{what}");
        slots > 0
    };
    let [made, unmade] = at_every_call(&bench, &content, &add, &judge);
    assert!(made > 0 && unmade > 0, "{made} {unmade}");
}

#[test]
fn a_slot_is_removed_or_opens() {
    let (bench, _, content) = bench();
    let code = RecoveryCode::generate(&mut SystemRng);
    let slot = bench.open().unwrap().add_slot(Role::Owner, NewLock::RecoveryCode(&code), b"", &mut SystemRng).unwrap();
    let remove = |repo: &mut Repository| repo.remove_slot(slot);
    let judge = |bench: &Bench, what: &str| {
        let gone = bench.open().unwrap().slots().unwrap().is_empty();
        assert_eq!(opens(bench, Opener::RecoveryCode(code.key())).is_err(), gone, "{what}");
        gone
    };
    let [made, unmade] = at_every_call(&bench, &content, &remove, &judge);
    assert!(made > 0 && unmade > 0, "{made} {unmade}");
}

#[test]
fn a_writer_is_enrolled_or_not() {
    let (bench, _, content) = bench();
    let members = bench.open().unwrap().config().members.len();
    let enroll = |repo: &mut Repository| repo.enroll_new(Role::Writer, &mut SystemRng).map(drop);
    let judge = |bench: &Bench, _: &str| bench.open().unwrap().config().members.len() > members;
    let [made, unmade] = at_every_call(&bench, &content, &enroll, &judge);
    assert!(made > 0 && unmade > 0, "{made} {unmade}");
}

#[test]
fn a_writer_is_revoked_or_not_and_what_it_stored_stays() {
    let (bench, writer, content) = bench();
    let revoke = |repo: &mut Repository| repo.revoke(writer, None).map(drop);
    let judge = |bench: &Bench, what: &str| {
        assert_eq!(bench.restore_all().len(), 2, "{what}");
        bench.open().unwrap().config().member(writer).unwrap().revoked.is_some()
    };
    let [made, unmade] = at_every_call(&bench, &content, &revoke, &judge);
    assert!(made > 0 && unmade > 0, "{made} {unmade}");
}

/// The new bundle is kept first, as the program does; whatever becomes of the rotation, old and new open all there is.
#[test]
fn keys_are_rotated_or_not_and_a_repeat_ends_it() {
    let (bench, _, content) = bench();
    let next: Bundle = bench.open().unwrap().draw_rotation(&mut SystemRng).unwrap();
    let rotate = |repo: &mut Repository| repo.rotate_to(next.clone(), &mut SystemRng);
    let judge = |bench: &Bench, what: &str| {
        let made = bench.open().unwrap().config().recipients.len() == 2;
        assert_eq!(opens(bench, Opener::Bundle(Box::new(next.clone()))).is_ok(), made, "{what}");
        let start = bench.memory.snapshot();
        rotate(&mut bench.open().unwrap()).unwrap_or_else(|e| panic!("{what}: a repeat: {e}"));
        assert_eq!(bench.open().unwrap().config().recipients.len(), 2, "{what}: no third pair");
        opens(bench, Opener::Bundle(Box::new(next.clone()))).unwrap();
        bench.memory.restore(start);
        made
    };
    let [made, unmade] = at_every_call(&bench, &content, &rotate, &judge);
    assert!(made > 0 && unmade > 0, "{made} {unmade}");
}
