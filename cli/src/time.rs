//! Times as people write and read them: RFC 3339 with the zone of this machine.

use std::time::Duration;

use copal_engine::format::node::Timestamp;
use jiff::tz::TimeZone;

/// RFC 3339 with zone, with as many digits of a second as are not zero.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    show(time, "%Y-%m-%dT%H:%M:%S%.f%:z")
}

/// To the second, for tables: `2026-01-31 07:05:09+01:00`.
pub(crate) fn short(time: Timestamp) -> String {
    show(time, "%Y-%m-%d %H:%M:%S%:z")
}

/// To the second, as the name of a directory: `2026-01-31T07:05:09+01:00`.
pub(crate) fn name(time: Timestamp) -> String {
    show(time, "%Y-%m-%dT%H:%M:%S%:z")
}

fn show(time: Timestamp, format: &str) -> String {
    match jiff::Timestamp::new(time.secs, time.nanos as i32) {
        Ok(at) => at.to_zoned_datetime(TimeZone::system()).strftime(format).to_string(),
        // Before or after all calendars: somebody's broken mtime.
        Err(_) => format!("@{}", time.secs),
    }
}

/// How far local time is ahead of UTC at a moment, in seconds; 0 outside of all calendars.
pub(crate) fn offset(secs: i64) -> i32 {
    jiff::Timestamp::from_second(secs).map_or(0, |at| TimeZone::system().to_offset(at).seconds())
}

/// `--time`, `--newer` and the like: RFC 3339, or a date with or without a time of day in local time.
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    let local = || {
        let civil: jiff::civil::DateTime = text.trim().parse().ok()?;
        Some(civil.to_zoned_datetime(TimeZone::system()).ok()?.timestamp())
    };
    let at = text.trim().parse::<jiff::Timestamp>().ok().or_else(local).ok_or_else(|| {
        format!("{text:?} is no time; write 2006-01-02T15:04:05+01:00, 2006-01-02 15:04:05 or 2006-01-02")
    })?;
    let nanos = at.as_nanosecond();
    let (secs, nanos) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
    Ok(Timestamp { secs: secs as i64, nanos: nanos as u32 })
}

/// A span in milliseconds: `1:02:03`, `4:05`, `0.3 s`.
pub(crate) fn span(millis: u64) -> String {
    let secs = millis / 1000;
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, s) if s < 10 => format!("{:.1} s", millis as f64 / 1000.0),
        (0, m, s) => format!("{m}:{s:02}"),
        (h, m, s) => format!("{h}:{m:02}:{s:02}"),
    }
}

/// A length of time: numbers with units from weeks down to seconds, such as `1w2d` or `90m`; `y` is 365 days.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is no length of time; write numbers with y, w, d, h, m or s, such as 30d or 1h30m");
    let (mut rest, mut secs) = (text.trim(), 0u64);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = rest.split_at(digits);
        let factor = match unit.chars().next() {
            Some('y') => 365 * 86_400,
            Some('w') => 7 * 86_400,
            Some('d') => 86_400,
            Some('h') => 3600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(wrong()),
        };
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
        secs = part.and_then(|part| secs.checked_add(part)).ok_or_else(wrong)?;
        rest = &unit[1..];
    }
    Ok(Duration::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        for (text, secs) in
            [("30d", 30 * 86_400), ("1h30m", 5400), ("0s", 0), ("1w2d", 9 * 86_400), ("1y", 365 * 86_400)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(secs)), "{text}");
        }
        for bad in ["", "5", "d", "5x", "1h30", "-1d", "99999999999999999999d", "9999999999999999y"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read() {
        let at = |text| parse(text).map(|t| (t.secs, t.nanos));
        assert_eq!(at("1970-01-01T00:00:01Z"), Ok((1, 0)));
        assert_eq!(at("1970-01-01T01:00:01.5+01:00"), Ok((1, 500_000_000)));
        assert_eq!(at("1969-12-31T23:59:59.25Z"), Ok((-1, 250_000_000)));
        assert!(at("2006-01-02 15:04:05.123").is_ok_and(|(_, nanos)| nanos == 123_000_000));
        assert!(at("2006-01-02").is_ok());
        for bad in ["", "yesterday", "2006-13-01", "15:04"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for (secs, nanos) in [(0, 0), (1_700_000_000, 123_456_789), (-5, 1)] {
            let time = Timestamp { secs, nanos };
            assert_eq!(parse(&rfc3339(time)), Ok(time));
        }
        assert_eq!(rfc3339(Timestamp { secs: i64::MAX, nanos: 0 }), format!("@{}", i64::MAX));
        assert_eq!((span(300), span(65_000), span(3_723_000)), ("0.3 s".into(), "1:05".into(), "1:02:03".into()));
    }
}
