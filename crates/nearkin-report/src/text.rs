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

/// A share in `[0, 1]` as a percentage with one decimal.
pub(crate) fn percent(share: f64) -> String {
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
    fn rates_and_shares() {
        assert_eq!([9.95, 412.3].map(rate), ["9.9", "412"]);
        assert_eq!(percent(0.0123), "1.2 %");
    }
}
