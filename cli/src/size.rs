//! Sizes and rates as people write and read them.

/// A size: bytes, or a number with `K`, `M`, `G` or `T` (1024 each time; `KiB`, `KB` and `k` mean the same).
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    parse_with(text, 1)
}

/// A rate a second: KiB where no unit is given, as in restic.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    parse_with(text.strip_suffix("/s").unwrap_or(text), 1024)
}

/// Least cap on memory: opening a repository with a password takes 64 MiB.
const MEMORY_MIN: u64 = 64 << 20;

/// A cap on memory that can be kept.
pub(crate) fn parse_memory(text: &str) -> Result<u64, String> {
    match parse(text)? {
        bytes if bytes < MEMORY_MIN => Err(format!("the least cap that can be kept is {}", show(MEMORY_MIN))),
        bytes => Ok(bytes),
    }
}

fn parse_with(text: &str, bare: u64) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" => bare,
        "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(format!("{unit:?} is no unit of size; write K, M, G or T")),
    };
    let wrong = || format!("{text:?} is no size; write a number and perhaps K, M, G or T");
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    let value = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
    if value.is_finite() && value < 1e18 { Ok(value as u64) } else { Err(wrong()) }
}

/// In binary units, three digits or so: `1.234 GiB`, `17 B`.
pub(crate) fn show(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.3} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("1k", 1024), ("1.5M", 3 << 19), ("2GiB", 2 << 30), ("3 t", 3 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in ["", "x", "-1", "1x", "1e9", "99999999999T", "."] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse_memory("1M").is_err() && parse_memory("64M").is_ok());
        assert_eq!(parse_rate("500"), Ok(500 << 10));
        assert_eq!(parse_rate("1M/s"), Ok(1 << 20));
        assert_eq!(parse_rate("7b"), Ok(7));
        assert_eq!((show(0), show(1023), show(1536)), ("0 B".into(), "1023 B".into(), "1.500 KiB".into()));
    }
}
