use super::*;
use crate::format::calendar::{DAY, days};
use crate::format::snapshot::SnapshotRef;
use crate::id::{SessionId, SnapshotId, WriterId};
use proptest::prelude::*;

const NOW: &str = "2030-01-01 00:00";

/// `2026-11-25 14:57`, in UTC.
fn at(text: &str) -> Timestamp {
    let numbers: Vec<i64> = text.split(['-', ' ', ':']).map(|n| n.parse().unwrap()).collect();
    let [year, month, day, hour, minute] = numbers[..] else { panic!("{text}") };
    Timestamp { secs: days(year, month, day) * DAY + hour * 3600 + minute * 60, nanos: 0 }
}

/// Numbered in the order in which they are given.
fn record(n: usize, time: &str, labels: &[&str]) -> Record {
    let (session, id) = (SessionId { n: n as u64, random: 0 }, SnapshotId::from_bytes([n as u8; 32]));
    Record {
        at: SnapshotRef { writer: WriterId::from_bytes([1; 16]), session, id },
        time: at(time),
        named: true,
        host: b"host".to_vec(),
        paths: vec![b"/home".to_vec()],
        labels: labels.iter().map(|l| l.as_bytes().to_vec()).collect(),
    }
}

fn records(times: &[&str]) -> Vec<Record> {
    times.iter().enumerate().map(|(n, time)| record(n, time, &[])).collect()
}

fn counts(of: &[(Period, &str)]) -> Policy {
    let mut policy = Policy::default();
    of.iter().for_each(|(period, n)| policy.counts[*period as usize] = n.parse().unwrap());
    policy
}

fn within(period: Period, span: &str) -> Policy {
    let mut policy = Policy::default();
    policy.within[period as usize] = span.parse().unwrap();
    policy
}

/// What is kept and why, newest first: `3 daily snapshot, oldest monthly snapshot`.
fn kept_by(records: &[Record], policy: &Policy, clock: Clock<'_>) -> Vec<String> {
    let groups = plan(records, GroupBy::default(), policy, at(NOW), clock);
    let [group] = &groups[..] else { panic!("{} groups", groups.len()) };
    assert_eq!(group.keep.len() + group.remove.len(), records.len());
    group.keep.iter().map(|(at, reasons)| format!("{at} {}", reasons.join(", "))).collect()
}

fn kept(records: &[Record], policy: &Policy) -> Vec<String> {
    kept_by(records, policy, &|_| 0)
}

const TIMES: [&str; 8] = [
    "2024-12-30 10:00", // 0: week 1 of 2025
    "2025-01-01 09:00", // 1
    "2025-01-01 09:30", // 2
    "2025-01-01 23:30", // 3
    "2025-01-02 00:30", // 4
    "2025-01-05 12:00", // 5: Sunday
    "2025-01-06 12:00", // 6: Monday
    "2025-02-01 00:00", // 7
];

#[test]
fn so_many_of_each_period_are_kept() {
    use Period::{Day, Hour, Last, Month, Week, Year};
    let all = records(&TIMES);
    for (policy, want) in [
        (&[(Last, "2")][..], &["7 last snapshot", "6 last snapshot"][..]),
        (
            &[(Hour, "6")],
            &[
                "7 hourly snapshot",
                "6 hourly snapshot",
                "5 hourly snapshot",
                "4 hourly snapshot",
                "3 hourly snapshot",
                "2 hourly snapshot",
            ],
        ),
        (&[(Day, "4")], &["7 daily snapshot", "6 daily snapshot", "5 daily snapshot", "4 daily snapshot"]),
        (&[(Week, "2")], &["7 weekly snapshot", "6 weekly snapshot"]),
        // Less than there might be: the oldest is kept for that.
        (&[(Week, "9")], &["7 weekly snapshot", "6 weekly snapshot", "5 weekly snapshot", "0 oldest weekly snapshot"]),
        (&[(Month, "2")], &["7 monthly snapshot", "6 monthly snapshot"]),
        (&[(Month, "-1")], &["7 monthly snapshot", "6 monthly snapshot", "0 monthly snapshot"]),
        (&[(Year, "unlimited")], &["7 yearly snapshot", "0 yearly snapshot"]),
        (&[(Last, "1"), (Year, "2")], &["7 last snapshot, yearly snapshot", "0 yearly snapshot"]),
        (&[(Last, "0"), (Day, "1")], &["7 daily snapshot"]),
    ] {
        assert_eq!(kept(&all, &counts(policy)), want, "{policy:?}");
    }
    let last = counts(&[(Last, "unlimited")]);
    assert_eq!(kept(&all, &last).len(), all.len());
    assert!(kept(&all, &Policy::default()).iter().all(|k| k.ends_with("policy is empty")));
}

#[test]
fn a_time_before_the_newest_is_kept() {
    let all = records(&TIMES);
    for (period, span, want) in [
        (Period::Last, "29d", &["7 within 29d", "6 within 29d", "5 within 29d"][..]),
        (
            Period::Last,
            "1m1d",
            &[
                "7 within 1m1d",
                "6 within 1m1d",
                "5 within 1m1d",
                "4 within 1m1d",
                "3 within 1m1d",
                "2 within 1m1d",
                "1 within 1m1d",
            ],
        ),
        (
            Period::Day,
            "1y",
            &[
                "7 daily within 1y",
                "6 daily within 1y",
                "5 daily within 1y",
                "4 daily within 1y",
                "3 daily within 1y",
                "0 daily within 1y",
            ],
        ),
        (Period::Week, "1m", &["7 weekly within 1m", "6 weekly within 1m", "5 weekly within 1m"]),
        (
            Period::Week,
            "2m",
            &["7 weekly within 2m", "6 weekly within 2m", "5 weekly within 2m", "0 oldest weekly within 2m"],
        ),
        (Period::Year, "1h", &["7 yearly within 1h"]),
    ] {
        assert_eq!(kept(&all, &within(period, span)), want, "{period:?} {span}");
    }
    // Not what is exactly as old.
    let edge = records(&["2025-01-01 00:00", "2025-01-01 00:01", "2025-02-01 00:00"]);
    assert_eq!(kept(&edge, &within(Period::Last, "1m")), ["2 within 1m", "1 within 1m"]);
    // One month before 31 October is 1 October.
    let edge = records(&["2025-10-01 00:00", "2025-10-01 00:01", "2025-10-31 00:00"]);
    assert_eq!(kept(&edge, &within(Period::Last, "1m")), ["2 within 1m", "1 within 1m"]);
}

#[test]
fn a_clock_says_which_day_it_is() {
    let times = ["2025-01-01 22:30", "2025-01-01 23:30", "2025-01-02 00:30"];
    let daily = counts(&[(Period::Day, "2")]);
    assert_eq!(kept(&records(&times), &daily), ["2 daily snapshot", "1 daily snapshot"]);
    // In Berlin the second and third are of one day, and in New York all three.
    assert_eq!(kept_by(&records(&times), &daily, &|_| 3600), ["2 daily snapshot", "0 daily snapshot"]);
    assert_eq!(kept_by(&records(&times), &daily, &|_| -5 * 3600), ["2 daily snapshot", "0 oldest daily snapshot"]);

    // Days are counted by the calendar: this one, when clocks went forward, has 23 hours.
    let spring = at("2025-03-30 01:00").secs;
    let berlin = |secs: i64| if secs < spring { 3600 } else { 7200 };
    let times = ["2025-03-29 09:59", "2025-03-29 11:01", "2025-03-30 10:00"];
    assert_eq!(kept_by(&records(&times), &within(Period::Last, "1d"), &berlin), ["2 within 1d", "1 within 1d"]);
    assert_eq!(kept(&records(&times), &within(Period::Last, "1d")), ["2 within 1d", "1 within 1d"]);
    let times = ["2025-03-29 10:30", "2025-03-30 10:00"];
    assert_eq!(kept_by(&records(&times), &within(Period::Last, "1d"), &berlin), ["1 within 1d"]);
}

#[test]
fn equal_times_go_by_session_and_future_ones_age_nobody() {
    let same = records(&["2025-01-01 00:00", "2025-01-01 00:00", "2025-01-01 00:00"]);
    assert_eq!(kept(&same, &counts(&[(Period::Last, "1")])), ["2 last snapshot"]);
    let mut reversed = same.clone();
    reversed.reverse();
    assert_eq!(kept(&reversed, &counts(&[(Period::Last, "1")])), ["0 last snapshot"], "not by where it stands");

    let future = records(&["2025-01-01 00:00", "2025-01-01 12:00", "2099-01-01 00:00"]);
    let day = within(Period::Last, "1d");
    assert_eq!(kept(&future, &day), ["2 within 1d", "1 within 1d", "0 within 1d"]);
    assert_eq!(kept(&records(&["2098-01-01 00:00", "2099-01-01 00:00"]), &day).len(), 2, "nothing is the newest");
    let mut broken = records(&["2025-01-01 00:00", "2025-01-01 12:00"]);
    (broken[0].time.secs, broken[1].time.secs) = (i64::MIN, i64::MAX);
    assert_eq!(kept(&broken, &counts(&[(Period::Year, "1")])), ["1 yearly snapshot"]);
}

#[test]
fn labels_keep() {
    let time = "2025-01-01 00:00";
    let all = [record(0, time, &[]), record(1, time, &["a"]), record(2, time, &["a", "b"]), record(3, time, &["c"])];
    let policy = |lists: &[&str]| Policy {
        tags: lists.iter().map(|l| l.split(',').map(|t| t.as_bytes().to_vec()).collect()).collect(),
        ..Policy::default()
    };
    assert_eq!(kept(&all, &policy(&["a,b", "c"])), ["3 has tags [c]", "2 has tags [a, b]"]);
    assert_eq!(kept(&all, &policy(&["a", "a,b"])), ["2 has tags [a], has tags [a, b]", "1 has tags [a]"]);
    assert_eq!(kept(&all, &policy(&[""])), ["0 has tags []"]);
    assert!(kept(&all, &policy(&["z"])).is_empty());
}

#[test]
fn groups_are_kept_apart() {
    let mut all = records(&["2025-01-01 00:00", "2025-01-02 00:00", "2025-01-03 00:00", "2025-01-04 00:00"]);
    all[1].host = b"other".to_vec();
    all[2].paths = vec![b"/etc".to_vec(), b"/home".to_vec()];
    all[3].labels = vec![b"t".to_vec()];
    let last = counts(&[(Period::Last, "1")]);
    let removed = |host, paths, tags| {
        let groups = plan(&all, GroupBy { host, paths, tags }, &last, at(NOW), &|_| 0);
        (groups.len(), groups.into_iter().flat_map(|g| g.remove).collect::<Vec<_>>())
    };
    assert_eq!(removed(false, false, false), (1, vec![2, 1, 0]));
    assert_eq!(removed(true, false, false), (2, vec![2, 0]));
    assert_eq!(removed(true, true, false), (3, vec![0]));
    assert_eq!(removed(true, true, true), (4, vec![]));
    assert_eq!(plan(&[], GroupBy::default(), &last, at(NOW), &|_| 0), []);

    // Of one host and paths, though only hashes are known of it.
    all.iter_mut().for_each(|r| (r.named, r.host) = (false, vec![7; 32]));
    assert_eq!(plan(&all, GroupBy { host: true, ..GroupBy::default() }, &last, at(NOW), &|_| 0).len(), 1);
}

#[test]
fn counts_and_spans_are_read() {
    assert_eq!(
        ["3", "unlimited", "-1"].map(|t| t.parse()),
        [Ok(Count::Most(3)), Ok(Count::Unlimited), Ok(Count::Unlimited)]
    );
    for bad in ["", "-2", "x", "1.5"] {
        assert!(bad.parse::<Count>().is_err(), "{bad}");
    }
    let span = Span { years: 2, months: 5, days: 7, hours: 3 };
    assert_eq!(("2y5m7d3h".parse(), "3h7d5m2y".parse(), span.to_string()), (Ok(span), Ok(span), "2y5m7d3h".into()));
    assert_eq!("0d".parse(), Ok(Span::default()));
    for bad in ["", "5", "d", "-1d", "1w", "1d2", "99999999999d", "\u{e9}d", "1\u{e9}"] {
        assert!(bad.parse::<Span>().is_err(), "{bad}");
    }
}

proptest! {
    /// A policy keeps what a smaller one keeps, and never everything's newest goes while anything is counted.
    #[test]
    fn more_keeps_more(
        times in proptest::collection::vec(0_i64..200_000_000, 1..40),
        small in proptest::array::uniform6(0_u64..4),
        more in proptest::array::uniform6(0_u64..4),
    ) {
        let mut all = records(&vec!["1970-01-01 00:00"; times.len()]);
        all.iter_mut().zip(&times).for_each(|(r, secs)| r.time.secs = *secs);
        let of = |counts: [u64; 6]| Policy { counts: counts.map(Count::Most), ..Policy::default() };
        let kept = |policy: &Policy| -> Vec<usize> {
            let group = plan(&all, GroupBy::default(), policy, at(NOW), &|_| 0).remove(0);
            group.keep.into_iter().map(|(at, _)| at).collect()
        };
        let large = of(std::array::from_fn(|n| small[n] + more[n]));
        let (small, large) = (of(small), large);
        prop_assume!(!small.is_empty());
        let (few, many) = (kept(&small), kept(&large));
        prop_assert_eq!(few[0], many[0]);
        prop_assert_eq!(times[few[0]], *times.iter().max().unwrap());
        // The oldest may be kept only because a count was not used up.
        let oldest = *many.last().unwrap();
        prop_assert!(few.iter().all(|at| many.contains(at) || *at == oldest));
    }
}
