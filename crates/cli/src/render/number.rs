//! Numbers for people.

/// A count with its thousands parted: `12,345`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and its noun: `1 row`, `2 rows`.
pub(crate) fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// A rate, as a count.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second.is_finite() { count(per_second.round().max(0.0) as u64) } else { "?".to_owned() }
}

/// The value of a metric: four decimals where it is small, fewer where it is large.
pub(crate) fn value(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "not finite".to_owned(),
        size if size < 100.0 => format!("{value:.4}"),
        size if size < 10_000.0 => format!("{value:.1}"),
        _ => format!("{value:.3e}"),
    }
}

/// A learning rate: three digits that count.
pub(crate) fn learning_rate(value: f64) -> String {
    format!("{value:.2e}")
}

/// A share in per cent.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let share = 100.0 * part as f64 / whole.max(1) as f64;
    if part == 0 || share >= 0.1 { format!("{share:.1} %") } else { format!("{share:.3} %") }
}

/// Seconds in the units that a person would use: `4.2 s`, `3 min 05 s`, `2 h 10 min`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Bytes in binary units.
pub(crate) fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// Operations, or other large numbers, in decimal units.
pub(crate) fn operations(n: u64) -> String {
    scaled(n as f64, 1000.0, &["", "k", "M", "G", "T", "P"]).trim_end().to_owned()
}

fn scaled(mut value: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= base && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && value < 99.95);
    format!("{value:.decimals$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        assert_eq!([0, 999, 1000, 22_713_216].map(count), ["0", "999", "1,000", "22,713,216"]);
        assert_eq!([1, 2000].map(|n| counted(n, "row")), ["1 row", "2,000 rows"]);
        assert_eq!([0.04, 9.94, 9.96, 59.4, 59.6].map(duration), ["0.0 s", "9.9 s", "10 s", "59 s", "1 min 00 s"]);
        assert_eq!([185.0, 7800.0, f64::NAN].map(duration), ["3 min 05 s", "2 h 10 min", "?"]);
        assert_eq!([512, 1536, 734_003_200].map(bytes), ["512 B", "1.5 KiB", "700 MiB"]);
        assert_eq!([12, 3_400_000_000].map(operations), ["12", "3.4 G"]);
        assert_eq!([0.92346, 123.456, 1e9].map(value), ["0.9235", "123.5", "1.000e9"]);
        assert_eq!(value(f64::INFINITY), "not finite");
        assert_eq!([(0, 5), (1, 8), (7, 10_000)].map(|(a, b)| percent(a, b)), ["0.0 %", "12.5 %", "0.070 %"]);
        assert_eq!((rate(12_345.6), rate(f64::NAN)), ("12,346".to_owned(), "?".to_owned()));
        assert_eq!(learning_rate(0.0005), "5.00e-4");
    }
}
