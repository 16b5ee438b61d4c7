//! Text for a terminal, without the control characters that names of files may hold.

use std::fmt::{self, Display, Write};

/// Shows a value with its control characters as escapes: `\u{1b}[31m`, `\n`.
///
/// File names are untrusted input. Printed raw, one could color or clear the terminal, or fake a line of the
/// program's output.
///
/// ```
/// use nearkin_data::Escaped;
///
/// assert_eq!(Escaped("a\x1b[2J\n.png").to_string(), r"a\u{1b}[2J\n.png");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(formatter), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.char_indices().next_back().filter(|(_, last)| last.is_control()) {
                Some((end, control)) => {
                    write!(self.0, "{}{}", &part[..end], control.escape_default())?;
                }
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{DataError, Skipped, skipped_lines};

    #[test]
    fn only_control_characters_are_escaped() {
        for (text, expected) in [
            ("", ""),
            ("a b/é\\日\u{202f}.png", "a b/é\\日\u{202f}.png"),
            ("\x1b[31mred\x07", "\\u{1b}[31mred\\u{7}"),
            ("a\nb\r\tc\x7f", "a\\nb\\r\\tc\\u{7f}"),
            ("c1 \u{9b}31m", "c1 \\u{9b}31m"),
        ] {
            assert_eq!(Escaped(text).to_string(), expected);
            assert_eq!(Escaped(expected).to_string(), expected);
        }
    }

    #[test]
    fn names_in_errors_and_notes_cannot_control_a_terminal() {
        let name = "a/\x1b[31mred\n.png";
        let path = Path::new(name);
        let mut skipped = Skipped::new();
        skipped.add(format!("kind {name}"), name);
        skipped.add_many("other", 2, name);
        skipped.note(format!("see {name}"));
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let errors = [
            DataError::malformed(path, format!("not {name}")),
            DataError::empty(path, format!("not {name}")),
            DataError::read(path)(missing),
            DataError::Request(format!("not {name}")),
        ];
        let lines = skipped_lines([&skipped]).into_iter();
        let lines = lines.chain(errors.iter().map(ToString::to_string));
        let lines: Vec<String> = lines.chain(skipped.notes().iter().cloned()).collect();
        assert_eq!(lines.len(), 8);
        for line in lines {
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(line.contains("a/\\u{1b}[31mred\\n.png"), "{line}");
        }
    }
}
