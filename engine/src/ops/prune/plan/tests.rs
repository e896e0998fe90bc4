//! Plans as tables, and what holds of every plan.

use proptest::prelude::*;

use super::*;
use crate::id::{PackId, SessionId, WriterId};

fn pack(n: u8, used: u64, unused: u64) -> PackUse {
    let at = PackRef {
        id: PackId::from_bytes([n; 32]),
        writer: WriterId::from_bytes([1; 16]),
        session: SessionId { n: 1, random: 1 },
        seq: n.into(),
        size: used + unused + 5000,
    };
    PackUse { at, data: true, used, unused, unexplained: unused / 2 }
}

fn facts(packs: &[PackUse]) -> Facts {
    Facts { packs: packs.to_vec(), ..Facts::default() }
}

fn numbers(packs: &[PackRef]) -> Vec<u64> {
    packs.iter().map(|p| p.seq).collect()
}

const MIB: u64 = 1 << 20;

#[test]
fn what_nobody_needs_is_dropped_whole_and_the_emptiest_are_copied_first() {
    let facts = facts(&[
        pack(1, 16 * MIB, 0),
        pack(2, 0, 16 * MIB),
        pack(3, 4 * MIB, 12 * MIB),
        pack(4, 15 * MIB, MIB),
        pack(5, 8 * MIB, 8 * MIB),
    ]);
    let with = |max_unused, max_repack| plan_prune(&facts, &Policy { max_unused, max_repack });
    let plan = with(Limit::Percent(5.0), None);
    assert_eq!((numbers(&plan.drop), numbers(&plan.repack)), (vec![2], vec![3, 5]));
    assert_eq!((plan.counts.unused, plan.counts.unused_after), (37 * MIB, MIB));
    assert_eq!((plan.counts.copied, plan.counts.unexplained), (12 * MIB, 18 * MIB));
    assert_eq!(numbers(&with(Limit::Percent(0.0), None).repack), [3, 4, 5]);
    assert_eq!(numbers(&with(Limit::Bytes(9 * MIB), None).repack), [3]);
    assert_eq!(numbers(&with(Limit::Unlimited, None).repack), Vec::<u64>::new());
    assert_eq!(numbers(&with(Limit::Percent(0.0), Some(5 * MIB)).repack), [3], "the next would be too much");
    assert_eq!(numbers(&with(Limit::Percent(0.0), Some(0)).drop), [2]);
}

#[test]
fn many_small_packs_become_few() {
    let small: Vec<PackUse> = (1..=16).map(|n| pack(n, 100_000, 0)).collect();
    assert_eq!(plan_prune(&facts(&small), &Policy::default()).repack.len(), 16);
    assert!(plan_prune(&facts(&small[1..]), &Policy::default()).is_empty(), "so few stay as they are");
    let large: Vec<PackUse> = (1..=16).map(|n| pack(n, 8 * MIB, 0)).collect();
    assert!(plan_prune(&facts(&large), &Policy::default()).is_empty());
}

#[test]
fn limits_are_read_as_people_write_them() {
    for (text, limit) in [
        ("5%", Limit::Percent(5.0)),
        ("0%", Limit::Percent(0.0)),
        ("unlimited", Limit::Unlimited),
        ("200M", Limit::Bytes(200 << 20)),
        ("1t", Limit::Bytes(1 << 40)),
        ("17", Limit::Bytes(17)),
    ] {
        assert_eq!(text.parse(), Ok(limit));
    }
    for wrong in ["", "%", "-1%", "NaN%", "5x", "M", "1.5G", "99999999999999999999", "99999999T", "5é"] {
        assert!(wrong.parse::<Limit>().unwrap_err().contains("limit"), "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_plan_drops_what_is_needed_and_each_keeps_its_limit(
        packs in proptest::collection::vec((0u64..20, 0u64..20), 0..40),
        percent in 0u32..50,
        cap in proptest::option::of(0u64..200),
    ) {
        let packs: Vec<PackUse> =
            packs.iter().enumerate().map(|(n, (used, unused))| pack(n as u8, used * MIB, unused * MIB)).collect();
        let facts = facts(&packs);
        let policy = Policy { max_unused: Limit::Percent(percent.into()), max_repack: cap.map(|cap| cap * MIB) };
        let plan = plan_prune(&facts, &policy);
        let of = |p: &PackRef| packs.iter().find(|known| known.at == *p).unwrap();
        prop_assert!(plan.drop.iter().all(|p| of(p).used == 0) && plan.repack.iter().all(|p| of(p).used > 0));
        prop_assert!(packs.iter().filter(|p| p.used == 0).all(|p| plan.drop.contains(&p.at)));
        let gone: u64 = plan.drop.iter().chain(&plan.repack).map(|p| of(p).unused).sum();
        prop_assert_eq!(plan.counts.unused_after, plan.counts.unused - gone);
        match policy.max_repack {
            None => prop_assert!(plan.counts.unused_after <= policy.max_unused.bytes(plan.counts.used)),
            Some(cap) => prop_assert!(plan.counts.copied <= cap),
        }
        prop_assert_eq!(plan_prune(&facts, &policy), plan);
    }
}
