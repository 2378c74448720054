//! Sizes as people write and read them.

/// Powers of 1000, and with an `i` of 1024.
const PREFIXES: [char; 4] = ['K', 'M', 'G', 'T'];

/// Reads a positive number of bytes: `4096`, `500M`, `500MB`, `2GiB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let size =
        number.parse::<u64>().ok().zip(factor(unit)).and_then(|(number, factor)| number.checked_mul(factor));
    match size {
        None => Err("expected bytes, like 4096, 500M or 2GiB".into()),
        Some(0) => Err("must be at least 1 byte".into()),
        // A configuration file holds 64-bit signed integers.
        Some(size) if i64::try_from(size).is_err() => Err("is more than 8 EiB".into()),
        Some(size) => Ok(size),
    }
}

/// Like [`parse_size`]; 0 stands for nothing at all.
pub fn parse_size_or_none(text: &str) -> Result<u64, String> {
    if text.trim() == "0" { Ok(0) } else { parse_size(text) }
}

fn factor(unit: &str) -> Option<u64> {
    let unit = unit.trim().to_ascii_uppercase();
    let unit = unit.strip_suffix('B').unwrap_or(&unit);
    let (prefix, base) = match unit.strip_suffix('I') {
        Some(prefix) => (prefix, 1024u64),
        None => (unit, 1000),
    };
    if prefix.is_empty() {
        return (base == 1000).then_some(1);
    }
    let power = PREFIXES.iter().position(|known| prefix.chars().eq([*known]))? as u32 + 1;
    base.checked_pow(power)
}

/// Writes a number of bytes with three digits.
pub fn display_size(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut prefix = ' ';
    for next in PREFIXES {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        prefix = next;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {prefix}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in
            [("1", 1), ("500M", 500_000_000), ("2GiB", 2 << 30), ("3kb", 3000), ("10 MB", 10_000_000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        assert_eq!((parse_size_or_none("0"), parse_size_or_none("1K")), (Ok(0), Ok(1000)));
        for text in ["", "0", "-1", "1.5G", "12X", "1I", "99999999T", "18446744073709551615"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 KB"),
            (12_345_678, "12.3 MB"),
            (999_999, "1.00 MB"),
            (1 << 50, "1126 TB"),
        ] {
            assert_eq!(display_size(bytes), text);
        }
    }
}
