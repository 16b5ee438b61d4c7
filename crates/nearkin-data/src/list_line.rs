//! Paths as lines of the lists that [`list`](crate::list) reads.
//!
//! The first line of a `.csv` or `.tsv` list should be [`HEADER`], since a path could look like a header
//! itself.

use std::borrow::Cow;
use std::path::Path;

/// The first line of a list whose fields are separated by commas or tabs.
pub const HEADER: &str = "path";

/// Whether lists at `path` are tables, which begin with [`HEADER`].
pub fn is_table(path: &Path) -> bool {
    separator(path).is_some()
}

/// The line that names an image file in a list at `list`, without the line break. `None` for a name with
/// a line break in it, which no list can hold.
///
/// ```
/// use nearkin_data::list_line::line;
/// use std::path::Path;
///
/// let list = Path::new("kept.txt");
/// assert_eq!(line("cats/a.jpg", list).as_deref(), Some("cats/a.jpg"));
/// assert_eq!(line("my cats/a.jpg", list).as_deref(), Some("\"my cats/a.jpg\""));
/// ```
pub fn line<'a>(file: &'a str, list: &Path) -> Option<Cow<'a, str>> {
    if file.is_empty() || file.contains('\n') {
        return None;
    }
    let separator = separator(list);
    // A table of lines without its own separator may be taken for one with semicolons.
    let has_meaning = |letter: char| {
        letter.is_whitespace()
            || letter == '"'
            || Some(letter) == separator
            || (letter == ';' && separator.is_some())
    };
    let is_plain = !file.contains(has_meaning) && !file.starts_with(['#', '\u{feff}']);
    Some(if is_plain { file.into() } else { format!("\"{}\"", file.replace('"', "\"\"")).into() })
}

/// What separates the fields of lists at `path`; white space if it is `None`.
fn separator(path: &Path) -> Option<char> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("csv") => Some(','),
        Some("tsv") => Some('\t'),
        _ => None,
    }
}

/// The file that a line with nothing else names: the inverse of [`line`]. A line in which quotes do not
/// enclose the whole name is the name itself.
pub fn file_of(line: &str) -> Cow<'_, str> {
    let quoted = line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match quoted {
        Some(quoted) if !quoted.replace("\"\"", "").contains('"') => {
            quoted.replace("\"\"", "\"").into()
        }
        _ => line.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::list::parse;

    proptest! {
        #[test]
        fn every_line_is_read_as_the_path_that_it_names(
            files in prop::collection::vec(
                // Without its extension, a first line could be the header of a list.
                "[ #\"'|\\\\,;\t\r\u{a0}\u{2028}\u{feff}é/a-z]{0,12}\\.jpg", 1..12,
            ),
        ) {
            for name in ["kept.txt", "kept.csv", "kept.TSV"] {
                let path = Path::new(name);
                let header = is_table(path).then_some(Cow::from(HEADER));
                let lines = files.iter().map(|file| line(file, path).unwrap());
                let lines: Vec<Cow<'_, str>> = header.into_iter().chain(lines).collect();
                let text = format!("{}\n", lines.join("\n"));
                let entries = parse(text.as_bytes(), path).unwrap();
                let read: Vec<&str> = entries.iter().map(|entry| &*entry.path).collect();
                prop_assert_eq!(read, &files[..], "{}", text);
                prop_assert!(entries.iter().all(|entry| entry.label.is_none()));
            }
            for file in &files {
                let written = line(file, Path::new("names.txt")).unwrap();
                prop_assert_eq!(file_of(&written), &**file);
            }
        }
    }

    #[test]
    fn names_with_line_breaks_have_no_line_and_odd_lines_are_names() {
        assert_eq!(line("a\nb.jpg", Path::new("a.txt")), None);
        assert_eq!(line("", Path::new("a.txt")), None);
        for odd in ["\"", "\"a\"b\"", "a\"", "\"a", "plain name.jpg"] {
            assert_eq!(file_of(odd), odd);
        }
    }
}
