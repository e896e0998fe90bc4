//! restic's policies: how many snapshots of each hour, day, week, month and year are kept, and how long
//! (restic 0.18, `internal/data/snapshot_policy.go`). The words of the reasons are its own.

use std::fmt;
use std::str::FromStr;

use crate::format::calendar::{DAY, civil, days, iso_week};
use crate::format::node::Timestamp;

use super::group::Record;

/// The offset of local time from UTC at a moment, in seconds: given seconds since 1970, east is positive.
///
/// Snapshots know no zone. Which day one belongs to is told by the clock of whoever applies the policy.
pub type Clock<'a> = &'a dyn Fn(i64) -> i32;

/// How many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// The newest so many.
    Most(u64),
    /// All of them.
    Unlimited,
}

impl Default for Count {
    fn default() -> Self {
        Self::Most(0)
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unlimited" | "-1" => Ok(Self::Unlimited),
            _ => text.parse().map(Self::Most).map_err(|_| format!("{text:?} is neither a number nor unlimited")),
        }
    }
}

/// A length of time by the calendar, back from the newest snapshot: `2y5m7d3h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// Years.
    pub years: u32,
    /// Months.
    pub months: u32,
    /// Days.
    pub days: u32,
    /// Hours.
    pub hours: u32,
}

impl Span {
    /// The moment so long before `time`. A day that the month does not have runs over into the next, as restic has it: one
    /// month before 31 October is 1 October.
    fn before(self, time: Timestamp, clock: Clock<'_>) -> Timestamp {
        let local = local(time, clock);
        let (year, month, day) = civil(local.div_euclid(DAY));
        let day = days(year - i64::from(self.years), month - i64::from(self.months), day - i64::from(self.days));
        let local = day.saturating_mul(DAY).saturating_add(local.rem_euclid(DAY));
        // The offset there may be another one than here; next to a change of it the first guess may be off.
        let guess = local.saturating_sub(clock(time.secs).into());
        let secs = local.saturating_sub(clock(guess).into());
        Timestamp { secs: secs.saturating_sub(i64::from(self.hours) * 3600), nanos: time.nanos }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')];
        parts.iter().filter(|(n, _)| *n != 0).try_for_each(|(n, unit)| write!(f, "{n}{unit}"))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no length of time; write numbers with y, m, d or h, such as 2y5m7d3h");
        let (mut span, mut rest) = (Self::default(), text.trim());
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number = rest[..digits].parse().ok().filter(|n| *n <= 1_000_000).ok_or_else(wrong)?;
            match rest.as_bytes()[digits] {
                b'y' => span.years = number,
                b'm' => span.months = number,
                b'd' => span.days = number,
                b'h' => span.hours = number,
                _ => return Err(wrong()),
            }
            rest = &rest[digits + 1..];
        }
        Ok(span)
    }
}

/// What one snapshot is kept of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Every snapshot is one of its own.
    Last,
    /// The last of an hour.
    Hour,
    /// The last of a day.
    Day,
    /// The last of a week (ISO 8601).
    Week,
    /// The last of a month.
    Month,
    /// The last of a year.
    Year,
}

impl Period {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Last, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    fn word(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }

    /// Names the one that the local time `secs` lies in; `nr` is the snapshot's number in its group.
    fn name(self, secs: i64, nr: usize) -> (i64, i64, i64) {
        let day = secs.div_euclid(DAY);
        let (year, month, _) = civil(day);
        match self {
            Self::Last => (nr as i64, 0, 0),
            Self::Hour => (day, secs.rem_euclid(DAY) / 3600, 0),
            Self::Day => (day, 0, 0),
            Self::Week => {
                let (year, week) = iso_week(day);
                (year, week, 0)
            }
            Self::Month => (year, month, 0),
            Self::Year => (year, 0, 0),
        }
    }
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// How many of each [`Period`].
    pub counts: [Count; 6],
    /// One of each [`Period`] in so long a time before the newest snapshot; [`Span::default`]: none for that reason.
    pub within: [Span; 6],
    /// Those that have all labels of one of these lists. A list that begins with an empty label: those that have none, too.
    pub tags: Vec<Vec<Vec<u8>>>,
}

impl Policy {
    /// Whether it says nothing: then all is kept.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is left of one rule while a group is gone through, newest first.
struct Rule {
    period: Period,
    left: Count,
    /// Only what is younger.
    after: Option<(Timestamp, Span)>,
    last: Option<(i64, i64, i64)>,
}

impl Rule {
    /// Why it keeps this snapshot, if it does. The oldest of a group is kept while something is left to be kept: so history
    /// reaches as far back as it may.
    fn keeps(&mut self, time: Timestamp, secs: i64, nr: usize, oldest: bool) -> Option<String> {
        if self.left == Count::Most(0) || self.after.is_some_and(|(after, _)| time <= after) {
            return None;
        }
        let name = self.period.name(secs, nr);
        let again = self.last == Some(name);
        if again && !oldest {
            return None;
        }
        self.last = Some(name);
        if let Count::Most(left) = &mut self.left {
            *left -= 1;
        }
        let what = self.period.word();
        let what = if again { format!("oldest {what}") } else { what.to_owned() };
        Some(match self.after {
            None => format!("{what} snapshot"),
            Some((_, span)) if self.period == Period::Last => format!("within {span}"),
            Some((_, span)) => format!("{what} within {span}"),
        })
    }
}

/// Why each snapshot of one group is kept; one without a reason is not. `group` is sorted, newest first.
pub(super) fn apply(group: &[&Record], policy: &Policy, now: Timestamp, clock: Clock<'_>) -> Vec<Vec<String>> {
    if policy.is_empty() {
        return vec![vec!["policy is empty".to_owned()]; group.len()];
    }
    let mut rules = rules(policy, newest(group, now), clock);
    let reasons = |(nr, record): (usize, &&Record)| {
        let secs = local(record.time, clock);
        let labelled = policy.tags.iter().filter(|list| has_all(&record.labels, list)).map(|list| has_tags(list));
        let oldest = nr + 1 == group.len();
        let mut reasons: Vec<String> = labelled.collect();
        reasons.extend(rules.iter_mut().filter_map(|rule| rule.keeps(record.time, secs, nr, oldest)));
        reasons
    };
    group.iter().enumerate().map(reasons).collect()
}

/// In the order in which restic gives its reasons.
fn rules(policy: &Policy, newest: Option<Timestamp>, clock: Clock<'_>) -> Vec<Rule> {
    let [within, within_each @ ..] = &policy.within;
    let rule_within = |(period, span): (Period, Span)| {
        // Where all snapshots lie in the future, all of them are within any time.
        let after = newest.map_or(Timestamp { secs: i64::MIN, nanos: 0 }, |newest| span.before(newest, clock));
        Rule { period, left: Count::Unlimited, after: Some((after, span)), last: None }
    };
    let is_set = |(_, span): &(Period, Span)| *span != Span::default();
    let counts = Period::ALL.into_iter().zip(policy.counts);
    let mut rules: Vec<Rule> = [(Period::Last, *within)].into_iter().filter(is_set).map(rule_within).collect();
    rules.extend(counts.map(|(period, left)| Rule { period, left, after: None, last: None }));
    rules.extend(Period::ALL[1..].iter().copied().zip(within_each.iter().copied()).filter(is_set).map(rule_within));
    rules
}

/// The time of the newest snapshot that does not lie in the future: a wrong clock must not let everything grow old.
fn newest(group: &[&Record], now: Timestamp) -> Option<Timestamp> {
    group.iter().map(|record| record.time).find(|time| *time < now)
}

fn local(time: Timestamp, clock: Clock<'_>) -> i64 {
    // No calendar is asked for what lies before or after all of them.
    let secs = time.secs.clamp(-(1 << 45), 1 << 45);
    secs + i64::from(clock(secs))
}

fn has_all(labels: &[Vec<u8>], list: &[Vec<u8>]) -> bool {
    let none = labels.is_empty() && list.first().is_some_and(|first| first.is_empty());
    none || list.iter().all(|label| labels.contains(label))
}

fn has_tags(list: &[Vec<u8>]) -> String {
    let list: Vec<_> = list.iter().map(|label| String::from_utf8_lossy(label)).collect();
    format!("has tags [{}]", list.join(", "))
}
