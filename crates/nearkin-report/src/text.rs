//! How quantities are written for people: the same in progress lines and in the report.

/// A duration in its two largest units: `45 s`, `12 min 3 s`, `3 h 4 min`, `2 d 5 h`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "unknown".to_owned();
    }
    let total = seconds.max(0.0).round() as u64;
    let (days, hours, minutes, seconds) =
        (total / 86_400, total / 3_600 % 24, total / 60 % 60, total % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A count with its thousands set apart by a narrow space that does not break.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A throughput without digits that mean nothing.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

/// Floating-point operations per second, with three significant digits: `38.2 GFLOP/s`.
pub fn flop_rate(per_second: f64) -> String {
    let (unit, scale) = match per_second {
        rate if rate >= 999.5e12 => ("PFLOP/s", 1e15),
        rate if rate >= 999.5e9 => ("TFLOP/s", 1e12),
        _ => ("GFLOP/s", 1e9),
    };
    let scaled = per_second / scale;
    let digits = if scaled < 9.995 { 2 } else { usize::from(scaled < 99.95) };
    format!("{scaled:.digits$} {unit}")
}

/// Bytes of memory: `312 MiB`, `1.4 GiB`.
pub fn memory(bytes: f64) -> String {
    let mebibytes = bytes / f64::from(1 << 20);
    if mebibytes < 1023.5 {
        format!("{mebibytes:.0} MiB")
    } else {
        format!("{:.1} GiB", mebibytes / 1024.0)
    }
}

/// A share in `[0, 1]` as a percentage with one decimal.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_their_two_largest_units() {
        let shown =
            [0.4, 59.4, 723.0, 59.6, 11_040.0, 190_800.0, -1.0, f64::INFINITY].map(duration);
        let expected =
            ["0 s", "59 s", "12 min 3 s", "1 min 0 s", "3 h 4 min", "2 d 5 h", "0 s", "unknown"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn thousands_are_set_apart() {
        let shown = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
    }

    #[test]
    fn operations_and_memory_have_their_units() {
        let shown = [4.2e6, 38.21e9, 412.6e9, 999.9e9, 12.34e12, 1.5e15].map(flop_rate);
        let expected = ["0.00 GFLOP/s", "38.2 GFLOP/s", "413 GFLOP/s", "1.00 TFLOP/s"];
        assert_eq!(shown[..4], expected);
        assert_eq!(shown[4..], ["12.3 TFLOP/s", "1.50 PFLOP/s"]);
        let shown = [327_155_712.0, 1_073_741_823.0, 1.5e9, 85e9].map(memory);
        assert_eq!(shown, ["312 MiB", "1.0 GiB", "1.4 GiB", "79.2 GiB"]);
    }

    #[test]
    fn rates_and_shares() {
        assert_eq!([9.95, 412.3].map(rate), ["9.9", "412"]);
        assert_eq!(percent(0.0123), "1.2 %");
    }
}
