//! Times by the proleptic Gregorian calendar.
//!
//! Years begin in March in the arithmetic, so that the leap day is the last one (Hinnant, "chrono-Compatible Low-Level Date
//! Algorithms").

use super::node::Timestamp;

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// RFC 3339 in UTC to the second, e.g. `2026-11-25T14:57:00Z`.
pub fn utc(time: Timestamp) -> String {
    let (days, second) = (time.secs.div_euclid(DAY), time.secs.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month (1 to 12) and day (1 to 31) of a day counted from 1970-01-01.
pub fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// The reverse. The month and the day may be any: month 0 is December of the year before, day 0 the last of the month before.
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = (year + (month - 1).div_euclid(12), (month - 1).rem_euclid(12) + 1);
    let (year, from_march) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * from_march + 2) / 5;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year + day - 1 - 719_468
}

/// Year and number of the week by ISO 8601: weeks begin on Monday and belong to the year of their Thursday.
pub fn iso_week(day: i64) -> (i64, i64) {
    // 1970-01-01 was a Thursday.
    let thursday = day - (day + 3).rem_euclid(7) + 3;
    let (year, _, _) = civil(thursday);
    (year, (thursday - days(year, 1, 1)) / 7 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_rfc_3339() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_618_620, "2026-11-25T14:57:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(Timestamp { secs, nanos: 5 }), text);
        }
    }

    #[test]
    fn months_and_days_run_over() {
        for (day, same) in [
            ((2026, 0, 1), (2025, 12, 1)),
            ((2026, -11, 1), (2025, 1, 1)),
            ((2026, 9, 31), (2026, 10, 1)),
            ((2024, 3, 0), (2024, 2, 29)),
            ((2023, 2, 29), (2023, 3, 1)),
        ] {
            assert_eq!(civil(days(day.0, day.1, day.2)), same, "{day:?}");
        }
    }

    #[test]
    fn weeks_belong_to_the_year_of_their_thursday() {
        for (day, week) in [
            ((1970, 1, 1), (1970, 1)),
            ((2021, 1, 3), (2020, 53)),
            ((2021, 1, 4), (2021, 1)),
            ((2024, 12, 30), (2025, 1)),
            ((2026, 12, 31), (2026, 53)),
            ((2027, 1, 1), (2026, 53)),
        ] {
            assert_eq!(iso_week(days(day.0, day.1, day.2)), week, "{day:?}");
        }
    }

    proptest! {
        #[test]
        fn days_come_back(day in -100_000_000_i64..100_000_000) {
            let (year, month, of_month) = civil(day);
            prop_assert_eq!(days(year, month, of_month), day);
        }
    }
}
