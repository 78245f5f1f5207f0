//! Parses durations in Go's syntax: one or more numbers, each with a unit, such as `1m30s`. A sign is not
//! allowed.

use std::time::Duration;

/// Parses a duration. Returns `None` if it is malformed or zero. A duration above Go's limit of 2^63 - 1 ns
/// (292 years) becomes `Duration::MAX`.
pub(super) fn parse(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    const LIMIT: u64 = i64::MAX as u64;
    let mut rest = text;
    let mut sum = 0_u64;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let (_, nanoseconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        sum = sum.saturating_add(decimal(number, nanoseconds)?);
        rest = after;
    }
    match sum {
        0 => None,
        1..=LIMIT => Some(Duration::from_nanos(sum)),
        _ => Some(Duration::MAX),
    }
}

/// Returns `number` times `unit`, rounded down. The number may be `1`, `1.5`, `1.` or `.5`. A product that is
/// too large becomes the largest `u64`.
fn decimal(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return None;
    }
    // A number that needs more than 64 bits is too large with any unit.
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().unwrap_or(u64::MAX) };
    // Digits after the twentieth are dropped. The error is far below a nanosecond, and the product of 20
    // digits and the unit fits into 128 bits.
    let digits = &fraction[..fraction.len().min(20)];
    let part = digits.bytes().fold(0_u128, |part, digit| part * 10 + u128::from(digit - b'0'));
    let part = part * u128::from(unit) / 10_u128.pow(digits.len() as u32);
    Some(whole.saturating_mul(unit).saturating_add(u64::try_from(part).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed() {
        let second = 1_000_000_000;
        let cases = [
            ("500ms", 500_000_000),
            ("1s", second),
            ("1.5s", 1_500_000_000),
            ("1m30s", 90 * second),
            ("1h", 3_600 * second),
            ("1h1m1s1ms1us1ns", 3_661_001_001_001),
            ("3\u{b5}s", 3_000),
            ("3\u{3bc}s", 3_000),
            (".5s", 500_000_000),
            ("1.s", second),
            ("0h1s", second),
            ("1s1s", 2 * second),
            ("1.9ns", 1),
            ("0.3333333333333333333333333333h", 1_199_999_999_999),
            ("9223372036854775807ns", i64::MAX as u64),
        ];
        for (text, nanoseconds) in cases {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanoseconds)), "{text}");
        }
        let refused = [
            "",
            "0",
            "1",
            "0s",
            "0.9ns",
            "-1s",
            "+1s",
            "s",
            ".s",
            "1.2.3s",
            "1 s",
            "1s ",
            "1S",
            "1d",
            "1e3s",
            "1,5s",
            "1s30",
            "abc",
            "999999999999999999999",
            "999999999999999999999d",
        ];
        for text in refused {
            assert_eq!(parse(text), None, "{text}");
        }
        for text in [
            "9223372036854775808ns",
            "18446744073709551616ns",
            "2562048h",
            "999999999999999999999h",
            "5000000000s5000000000s",
        ] {
            assert_eq!(parse(text), Some(Duration::MAX), "{text}");
        }
    }
}
