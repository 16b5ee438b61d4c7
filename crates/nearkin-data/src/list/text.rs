//! From the bytes of a list to its records and their fields.
//!
//! Tables of this kind are written by spreadsheets, by pandas and by hand, so their separator is
//! detected where the usual one does not fit, and what cannot be read is refused with the line.

use std::borrow::Cow;
use std::path::Path;

use crate::content::GIT_LFS_POINTER;
use crate::decode::is_image;

/// Records from which the separator and the columns are told.
pub(super) const SAMPLE: usize = 64;

/// What stands between the fields of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Separator {
    /// White space, as much as there is.
    Blank,
    /// One letter.
    Letter(char),
}

impl Separator {
    fn is(self, letter: char) -> bool {
        match self {
            Self::Blank => letter.is_whitespace(),
            Self::Letter(separator) => letter == separator,
        }
    }

    /// What may stand around a field without being part of it.
    fn is_blank(self, letter: char) -> bool {
        letter == ' ' || self == Self::Blank && letter.is_whitespace()
    }
}

/// A record, with the line that it begins in, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) line: usize,
    pub(super) fields: Vec<Cow<'a, str>>,
}

/// What is wrong, and in which line.
pub(super) type Fault = (usize, Cow<'static, str>);

/// The text of a list; the error is what is wrong with it, to follow its name.
pub(super) fn decode(bytes: &[u8]) -> Result<&str, String> {
    let known: [(&[u8], &str); 5] = [
        (&[0xff, 0xfe], "is UTF-16 text; save the list as UTF-8"),
        (&[0xfe, 0xff], "is UTF-16 text; save the list as UTF-8"),
        (b"PK\x03\x04", "is a zip archive or a spreadsheet; save the list as CSV"),
        (&[0x1f, 0x8b], "is gzipped; unpack the list"),
        (GIT_LFS_POINTER, "is a git-lfs pointer, not the list: run git lfs pull"),
    ];
    if let Some((_, reason)) = known.iter().find(|(start, _)| bytes.starts_with(start)) {
        return Err((*reason).to_owned());
    }
    let line = |at: usize| 1 + bytes.iter().take(at).filter(|&&byte| byte == b'\n').count();
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        // Every second byte of Latin letters is zero.
        let (pairs, _) = bytes[..bytes.len().min(64)].as_chunks::<2>();
        let zeros = pairs.iter().filter(|pair| pair.contains(&0)).count();
        return Err(if zeros * 4 > pairs.len() * 3 {
            "seems to be UTF-16 text; save the list as UTF-8".to_owned()
        } else {
            format!("line {}: has a zero byte: the file is no text, or damaged", line(at))
        });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        format!(
            "line {}: is not UTF-8 text (byte 0x{:02x}), perhaps Latin-1 or Windows-1252; save the \
             list as UTF-8",
            line(at),
            bytes.get(at).copied().unwrap_or_default()
        )
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The records of a text in its order.
pub(super) struct Records<'a> {
    rest: &'a str,
    line: usize,
    pub(super) separator: Separator,
    /// Line breaks of old systems are a lone carriage return.
    end: char,
    has_comments: bool,
    /// Comments so far, with the line of the first.
    pub(super) comments: Option<(usize, usize)>,
    is_over: bool,
}

impl<'a> Records<'a> {
    pub(super) fn new(text: &'a str, separator: Separator, has_comments: bool) -> Self {
        let end = if text.contains('\r') && !text.contains('\n') { '\r' } else { '\n' };
        Self { rest: text, line: 1, separator, end, has_comments, comments: None, is_over: false }
    }

    /// Moves behind the current line.
    fn skip_line(&mut self) {
        self.line += 1;
        self.rest = self.rest.split_once(self.end).map_or("", |(_, after)| after);
    }

    fn skip_blanks(&mut self) {
        let (end, separator) = (self.end, self.separator);
        self.rest = self.rest.trim_start_matches(|c| c != end && separator.is_blank(c));
    }

    /// Whether the record ends here; its line break is then skipped.
    fn ends(&mut self) -> bool {
        let rest = match self.end {
            '\n' => self.rest.strip_prefix('\r').unwrap_or(self.rest),
            _ => self.rest,
        };
        let after = match rest.strip_prefix(self.end) {
            None if rest.is_empty() => Some(rest),
            after => after,
        };
        if let Some(after) = after {
            self.rest = after;
            self.line += 1;
        }
        after.is_some()
    }

    fn record(&mut self) -> Result<Record<'a>, Cow<'static, str>> {
        let mut record = Record { line: self.line, fields: Vec::new() };
        loop {
            self.skip_blanks();
            // White space at the end of a line separates nothing.
            if self.separator == Separator::Blank && self.ends() {
                return Ok(record);
            }
            let field = if let Some(quoted) = self.rest.strip_prefix('"') {
                let (field, after) = unquote(quoted).ok_or("a quote is not closed")?;
                self.line += field.matches(self.end).count();
                self.rest = after;
                if self.separator != Separator::Blank {
                    self.skip_blanks();
                }
                field
            } else {
                let is_end = |letter| letter == self.end || self.separator.is(letter);
                let at = self.rest.find(is_end).unwrap_or(self.rest.len());
                let (field, after) = self.rest.split_at(at);
                self.rest = after;
                let ends = after.is_empty() || after.starts_with(self.end);
                let field = if ends { field.trim_end_matches('\r') } else { field };
                Cow::Borrowed(field.trim_end_matches(' '))
            };
            record.fields.push(field);
            if self.ends() {
                return Ok(record);
            }
            let mut letters = self.rest.chars();
            if !letters.next().is_some_and(|letter| self.separator.is(letter)) {
                return Err("text follows a closing quote".into());
            }
            self.rest = letters.as_str();
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over && !self.rest.is_empty() {
            let line = self.rest.split(self.end).next().unwrap_or_default();
            if line.trim().is_empty() {
                self.skip_line();
            } else if self.has_comments && line.trim_start().starts_with('#') {
                let (count, first) = self.comments.unwrap_or((0, self.line));
                self.comments = Some((count + 1, first));
                self.skip_line();
            } else {
                let line = self.line;
                match self.record() {
                    // Spreadsheets keep the separators of empty rows.
                    Ok(Record { fields, .. })
                        if fields.len() > 1 && fields.iter().all(|field| field.is_empty()) => {}
                    Ok(record) => return Some(Ok(record)),
                    Err(reason) => {
                        self.is_over = true;
                        return Some(Err((line, reason)));
                    }
                }
            }
        }
        None
    }
}

/// The field behind an opening quote, and what follows the closing one.
fn unquote(quoted: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut from = 0;
    loop {
        let end = from + quoted[from..].find('"')?;
        let after = &quoted[end + 1..];
        if !after.starts_with('"') {
            let field = &quoted[..end];
            let field = match from {
                0 => Cow::Borrowed(field),
                _ => Cow::Owned(field.replace("\"\"", "\"")),
            };
            return Some((field, after));
        }
        from = end + 2;
    }
}

/// The records of a list, with the separator that fits it. The usual one of its extension comes first;
/// another is taken where only that one gives fields that are image files, or more than one field.
pub(super) fn records<'a>(text: &'a str, extension: &str) -> Records<'a> {
    // What spreadsheets write in front of a table whose separator they choose.
    let stated = text.lines().next().and_then(|line| line.trim_end().strip_prefix("sep="));
    if let Some(separator) = stated.and_then(|stated| stated.parse().ok()) {
        let mut records = Records::new(text, Separator::Letter(separator), false);
        records.skip_line();
        return records;
    }
    let (candidates, usual, has_comments) = match extension {
        "csv" => {
            ([Separator::Letter(','), Separator::Letter(';'), Separator::Letter('\t')], 0, false)
        }
        "tsv" => {
            ([Separator::Letter('\t'), Separator::Letter(','), Separator::Letter(';')], 0, false)
        }
        // Tabs come first, since there may be spaces between them.
        _ => ([Separator::Letter('\t'), Separator::Blank, Separator::Letter(',')], 1, true),
    };
    let samples = candidates.map(|separator| sample(Records::new(text, separator, has_comments)));
    let is_table = |place: usize| {
        is_even(&samples[place]) && samples[place].iter().all(|record| record.fields.len() > 1)
    };
    let names_images = |place: usize| {
        let images = samples[place].iter().filter(|record| has_image(record)).count();
        is_even(&samples[place]) && images > 0 && images * 2 >= samples[place].len()
    };
    let places = || 0..candidates.len();
    let found = places()
        .find(|&place| names_images(place) && (place == usual || usual == 0 || is_table(place)))
        // Text of several words is no table.
        .or_else(|| places().find(|&place| usual == 0 && is_table(place)));
    Records::new(text, candidates[found.unwrap_or(usual)], has_comments)
}

/// The first records; none if one of them cannot be read.
fn sample(records: Records<'_>) -> Vec<Record<'_>> {
    records.take(SAMPLE).collect::<Result<_, _>>().unwrap_or_default()
}

/// Whether records have the same number of fields, where a second one may be missing.
fn is_even(sample: &[Record<'_>]) -> bool {
    let mut counts = sample.iter().map(|record| record.fields.len());
    let first = counts.next();
    counts.clone().all(|count| Some(count) == first) || counts.chain(first).all(|count| count <= 2)
}

fn has_image(record: &Record<'_>) -> bool {
    record.fields.iter().any(|field| is_image(Path::new(field.as_ref())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every record as `line: field|field`.
    fn shown(extension: &str, text: &str) -> Vec<String> {
        records(text, extension)
            .map(|record| match record {
                Ok(Record { line, fields }) => format!("{line}: {}", fields.join("|")),
                Err((line, reason)) => format!("{line}! {reason}"),
            })
            .collect()
    }

    #[test]
    fn records_are_told_apart_in_every_form_of_line() {
        let expected = ["1: a b.jpg|cat", "3: c.jpg|"];
        for text in [
            "a b.jpg,cat\n\nc.jpg,\n",
            "a b.jpg , cat\r\n\r\nc.jpg,\r\n",
            "a b.jpg,cat\r\rc.jpg,",
            "\"a b.jpg\",\"cat\"\n,\nc.jpg,\"\"",
            " \"a b.jpg\" , cat \n  \n \"c.jpg\",\n",
        ] {
            assert_eq!(shown("csv", text), expected, "{text:?}");
        }
        let expected = ["1: a.jpg|cat", "2: b \"c\".jpg", "5: d.jpg|two\nlines", "7: e.jpg"];
        let text = "a.jpg cat \n  \"b \"\"c\"\".jpg\"\n# x\n#\nd.jpg \"two\nlines\"\ne.jpg\t";
        assert_eq!(shown("txt", text), expected);
        assert_eq!(shown("csv", "#a.jpg,1\n"), ["1: #a.jpg|1"]);
        assert_eq!(shown("csv", ""), [""; 0]);
    }

    #[test]
    fn quotes_that_go_wrong_are_refused_with_their_line() {
        assert_eq!(
            shown("csv", "a.jpg,1\n\"b.jpg,2\nc.jpg,3\n"),
            ["1: a.jpg|1", "2! a quote is not closed"]
        );
        assert_eq!(shown("txt", "\"a.jpg\"x 1"), ["1! text follows a closing quote"]);
    }

    #[test]
    fn another_separator_is_found_where_the_usual_one_does_not_fit() {
        for (extension, text, expected) in [
            ("csv", "path;label\na.jpg;1,5\n", "a.jpg|1,5"),
            ("csv", "id;label\nx1;cat\n", "x1|cat"),
            ("csv", "path\tlabel\na b.jpg\tc\n", "a b.jpg|c"),
            ("csv", "path,label\na;b.jpg,c;d\n", "a;b.jpg|c;d"),
            ("csv", "a;b\na,b.jpg\n", "a|b.jpg"),
            ("csv", "sep=;\na.jpg;b\n", "a.jpg|b"),
            ("tsv", "path,label\na.jpg,1\n", "a.jpg|1"),
            ("tsv", "path\tlabel\na,b.jpg\t1\n", "a,b.jpg|1"),
            ("txt", "a b.jpg\tcat\nc d.jpg\tdog\n", "c d.jpg|dog"),
            ("txt", "a.jpg,cat\nb.jpg,dog\n", "b.jpg|dog"),
            ("txt", "my cat.jpg,3\nb.jpg,1\n", "b.jpg|1"),
            ("txt", "x y\nid1,cat\n", "id1,cat"),
        ] {
            let last = shown(extension, text).pop().unwrap();
            assert_eq!(last.split_once(": ").unwrap().1, expected, "{text:?}");
        }
    }

    #[test]
    fn other_encodings_are_named() {
        let utf16: Vec<u8> = "a.jpg,1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (bytes, expected) in [
            ([&[0xff, 0xfe], &utf16[..]].concat(), "is UTF-16 text; save the list as UTF-8"),
            (utf16, "seems to be UTF-16 text"),
            (
                b"a.jpg,1\ncaf\xe9.jpg,2\n".to_vec(),
                "line 2: is not UTF-8 text (byte 0xe9), perhaps",
            ),
            (b"a.jpg,1\nb.jpg\0,2\n".to_vec(), "line 2: has a zero byte"),
            (b"PK\x03\x04\0\0".to_vec(), "is a zip archive or a spreadsheet"),
            (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "is a git-lfs pointer"),
        ] {
            let reason = decode(&bytes).unwrap_err();
            assert!(reason.contains(expected), "{reason}");
        }
        assert_eq!(decode("\u{feff}a".as_bytes()), Ok("a"));
    }

    proptest! {
        #[test]
        fn any_text_gives_records_on_rising_lines_and_ends(
            text in "([a-c\" ,;\t\n\r#|.]|\\PC){0,60}", extension in "(csv|tsv|txt)",
        ) {
            let lines = 1 + text.matches(['\n', '\r']).count();
            let mut before = 0;
            for record in records(&text, &extension) {
                let line = record.map_or_else(|(line, _)| line, |record| record.line);
                prop_assert!(line > before && line <= lines + 1);
                before = line;
            }
        }
    }
}
