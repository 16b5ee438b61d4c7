//! Which columns of a list hold paths, labels and splits.
//!
//! Lists come with and without a header, and headers call the same thing by many names. The rules stand
//! in the documentation of [`list`](crate::list).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use super::text::{Fault, Record};
use crate::classes::{BAR, is_coordinate, label_rank, meaning, plain};
use crate::decode::is_image;
use crate::splits::{Part, PartCandidate, PartValues, choose_part_column, part_values, truth};

/// The usual names of the column of paths, in lower case and letters alone; the clearest first.
const PATH_NAMES: [&str; 28] = [
    "imagepath",
    "imgpath",
    "filepath",
    "path",
    "imagefilepath",
    "fullpath",
    "relativepath",
    "imagefile",
    "imgfile",
    "filename",
    "imagefilename",
    "imgfilename",
    "fname",
    "imagename",
    "imgname",
    "file",
    "files",
    "image",
    "images",
    "img",
    "imgs",
    "photo",
    "imageid",
    "imgid",
    "imageindex",
    "idcode",
    "id",
    "name",
];

/// What is wrong with a label that is called like an image.
pub(super) const LABEL_IS_FILE: &str = "the label looks like a file: the path comes first, and one with \
                                        spaces goes into double quotes";

/// What the columns of a list are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// What the first record is.
    pub(super) header: Header,
    /// Fields of a record.
    pub(super) width: usize,
    pub(super) path: usize,
    pub(super) label: Option<usize>,
    pub(super) part: Option<PartColumn>,
    /// Without a label, the columns that say of one class each whether an image shows it, and its name.
    pub(super) flags: Vec<(usize, String)>,
    /// The names of the others.
    pub(super) ignored: Vec<String>,
}

impl Columns {
    /// The classes that a record shows, as a label. `None` if there are no flags, or none is known.
    pub(super) fn flagged(
        &self,
        fields: &[Cow<'_, str>],
    ) -> Result<Option<String>, Cow<'static, str>> {
        let mut shown: Vec<&str> = Vec::new();
        let mut is_known = false;
        for (column, name) in &self.flags {
            let value = fields.get(*column).map_or("", AsRef::as_ref);
            if value.is_empty() {
                continue;
            }
            let is_shown = truth(value).ok_or_else(|| {
                format!("its column {name} has the value {value}, where 0 or 1 was expected")
            })?;
            is_known = true;
            if is_shown {
                shown.push(name);
            }
        }
        let none = BAR.to_string();
        Ok(is_known.then(|| if shown.is_empty() { none.clone() } else { shown.join(&none) }))
    }
}

/// What the first record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// A record like the others.
    None,
    /// A header, by the names in it.
    Known,
    /// A header, since it names no file and the records after it do.
    Guessed,
}

/// A column that says which split a row belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartColumn {
    pub(super) column: usize,
    pub(super) name: String,
    values: PartValues,
}

impl PartColumn {
    /// The part of a row.
    pub(super) fn part(&self, value: &str) -> Option<Part> {
        self.values.part(value)
    }
}

/// What a name in a header speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Path(usize),
    Label(usize),
    Part,
}

fn role(name: &str) -> Option<Role> {
    let letters = plain(name);
    let rank = |names: &[&str]| names.iter().position(|known| *known == letters);
    rank(&PATH_NAMES)
        .map(Role::Path)
        .or_else(|| label_rank(name).map(Role::Label))
        .or_else(|| part_values(name).map(|_| Role::Part))
}

/// The roles of the names in a header. A name in brackets, as in `Bbox [x,y,w,h]` without quotes, is a piece
/// of another one.
fn roles(names: &[Cow<'_, str>]) -> Vec<Option<Role>> {
    let mut depth = 0_i32;
    let role = |name: &Cow<'_, str>| {
        let opened = name.matches(['[', '(', '{']).count() as i32;
        let closed = name.matches([']', ')', '}']).count() as i32;
        let is_piece = depth > 0 || opened != closed;
        depth = (depth + opened - closed).max(0);
        role(name).filter(|_| !is_piece)
    };
    names.iter().map(role).collect()
}

/// Reads the columns from the first records; `exists` tells whether a file is found by a path.
pub(super) fn choose(
    sample: &[Record<'_>],
    exists: &dyn Fn(&str) -> bool,
) -> Result<Columns, Fault> {
    let Some((first, rest)) = sample.split_first() else {
        return Err((1, "has no lines".into()));
    };
    refuse_pixels(&first.fields).map_err(|reason| (first.line, reason))?;
    refuse_bars(sample)?;
    refuse_later_header(rest)?;
    let sample = Sample { first: &first.fields, rest, exists };
    let header = sample.header();
    match header {
        Header::None => sample.without_header(first.line),
        _ => sample.with_header(header).map_err(|reason| (first.line, reason)),
    }
}

/// Refuses a header of pixels without a column of paths.
fn refuse_pixels(names: &[Cow<'_, str>]) -> Result<(), Cow<'static, str>> {
    let is_pixel = |name: &&Cow<'_, str>| {
        let name = plain(name);
        let place = name.strip_prefix("pixel");
        place == Some("s") || place.is_some_and(|n| !n.is_empty() && n.parse::<usize>().is_ok())
    };
    let has_paths = names.iter().any(|name| matches!(role(name), Some(Role::Path(_))));
    match names.iter().find(is_pixel).filter(|_| names.len() > 1 && !has_paths) {
        None => Ok(()),
        Some(pixel) => Err(format!(
            "its columns hold pixels ({pixel}), and images as numbers are not read: write image files \
             and a list of their paths"
        )
        .into()),
    }
}

/// Refuses lines of which `|` separates the fields, since that stands between the labels of an image.
fn refuse_bars(sample: &[Record<'_>]) -> Result<(), Fault> {
    let path = |record: &Record<'_>| match record.fields.as_slice() {
        [field] => field.split_once('|').map(|(path, _)| path.trim().to_owned()),
        _ => None,
    };
    let is_path =
        |path: &str| is_image(Path::new(path)) || matches!(role(path), Some(Role::Path(_)));
    let line = sample.first().map_or(1, |first| first.line);
    if sample.iter().all(|record| path(record).is_some_and(|path| is_path(&path))) {
        Err((line, "| does not separate columns: use commas, or tabs in a .tsv".into()))
    } else {
        Ok(())
    }
}

/// Refuses a header that other lines stand before: a comment, or the number of lines.
fn refuse_later_header(rest: &[Record<'_>]) -> Result<(), Fault> {
    /// More lines before a header are data.
    const LINES: usize = 8;
    let is_header = |record: &&Record<'_>| {
        let roles: Option<Vec<Role>> = record.fields.iter().map(|name| role(name)).collect();
        roles.is_some_and(|roles| {
            roles.len() > 1 && roles.iter().any(|role| matches!(role, Role::Path(_)))
        })
    };
    match rest.iter().take(LINES).find(is_header) {
        None => Ok(()),
        Some(Record { line, fields }) => {
            let names = fields.join(", ");
            let reason = format!("seems to be the header ({names}): remove the lines before it");
            Err((*line, reason.into()))
        }
    }
}

struct Sample<'a> {
    first: &'a [Cow<'a, str>],
    rest: &'a [Record<'a>],
    exists: &'a dyn Fn(&str) -> bool,
}

impl Sample<'_> {
    /// The values of a column in the records after the first.
    fn values(&self, column: usize) -> impl Iterator<Item = &str> {
        self.rest.iter().filter_map(move |record| record.fields.get(column).map(AsRef::as_ref))
    }

    fn exists(&self, value: &str) -> bool {
        !value.is_empty() && (self.exists)(value)
    }

    /// Whether the column may be that of paths: half of its values are names of image files, or a few
    /// of them are found.
    fn holds_paths(&self, column: usize) -> bool {
        let images = self.values(column).filter(|value| is_image(Path::new(value))).count();
        images > 0 && images * 2 >= self.rest.len()
            || self.values(column).take(3).any(|value| self.exists(value))
    }

    /// What the names in the first record speak of.
    fn roles(&self) -> Vec<Option<Role>> {
        let mut roles = roles(self.first);
        let names = || self.first.iter().map(AsRef::as_ref);
        // An x that holds paths is no half of a point.
        if let Some(y) = self.first.iter().position(|name| is_coordinate(name, names()))
            && !(0..roles.len()).any(|x| plain(&self.first[x]) == "x" && self.holds_paths(x))
        {
            roles[y] = None;
        }
        roles
    }

    fn header(&self) -> Header {
        let repeats = |column: usize| self.values(column).any(|value| value == self.first[column]);
        let columns = || 0..self.first.len();
        let roles = self.roles();
        if self.first.iter().any(|field| is_image(Path::new(field.as_ref()))) {
            return Header::None;
        }
        let path = columns().find(|&c| matches!(roles[c], Some(Role::Path(_))));
        if let Some(path) = path
            && !self.exists(&self.first[path])
        {
            let is_known = columns().any(|c| c != path && roles[c].is_some());
            let is_new = columns().all(|c| c == path || !repeats(c));
            if self.first.len() == 1 || is_known || is_new {
                return Header::Known;
            }
        }
        let label = columns().find(|&c| matches!(roles[c], Some(Role::Label(_))) && !repeats(c));
        if let Some(label) = label
            && columns().any(|c| c != label && self.holds_paths(c) && !self.exists(&self.first[c]))
        {
            return Header::Known;
        }
        match self.first.len() {
            1 | 2 if self.is_guessed() => Header::Guessed,
            _ => Header::None,
        }
    }

    /// Whether the first record of one or two fields names no file, while the next ones do and have
    /// labels of another kind.
    fn is_guessed(&self) -> bool {
        let next = || self.values(0).take(3);
        if self.exists(&self.first[0]) || next().next().is_none() || !next().all(|p| self.exists(p))
        {
            return false;
        }
        let is_number = |label: &str| label.trim().parse::<f64>().is_ok();
        let label = self.first.get(1).map_or("", AsRef::as_ref);
        let labels = || self.values(1).filter(|label| meaning(label).is_some());
        next().all(|path| is_image(Path::new(path)))
            || labels().next().is_some() && labels().all(is_number) && !is_number(label)
    }

    fn with_header(&self, header: Header) -> Result<Columns, Cow<'static, str>> {
        let names = self.first;
        let roles = self.roles();
        let columns = || 0..names.len();
        let ranked = |wanted: fn(Role) -> Option<usize>| {
            let mut found: Vec<(usize, usize)> =
                columns().filter_map(|column| Some((wanted(roles[column]?)?, column))).collect();
            found.sort_unstable();
            found.into_iter().map(|(_, column)| column).collect::<Vec<usize>>()
        };
        let paths = ranked(|role| if let Role::Path(rank) = role { Some(rank) } else { None });
        let labels = ranked(|role| if let Role::Label(rank) = role { Some(rank) } else { None });
        let path = paths
            .iter()
            .copied()
            .find(|&column| self.holds_paths(column))
            .or(paths.first().copied())
            .or_else(|| columns().find(|c| !labels.contains(c) && self.holds_paths(*c)))
            .or_else(|| columns().find(|c| names.len() <= 2 && !labels.contains(c)))
            .ok_or_else(|| {
                let names = names.join(", ");
                format!("none of the columns {names} is known to hold paths: call that one path")
            })?;
        // Tables of pandas begin with a column of row numbers that has no name.
        let is_index = |column: usize| {
            let name = plain(&names[column]);
            name.is_empty() || name.starts_with("unnamed")
        };
        let part = self.part_column(path, labels.first().copied(), &is_index);
        let label = labels.iter().copied().find(|&column| column != path).or_else(|| {
            let is_other = |&c: &usize| {
                c != path && !is_index(c) && part.as_ref().is_none_or(|part| part.column != c)
            };
            let mut others = columns().filter(is_other);
            match (others.next(), others.next()) {
                (Some(other), None) if !self.is_another_path(other, roles[other]) => Some(other),
                _ => None,
            }
        });
        let is_other = |&column: &usize| {
            column != path
                && Some(column) != label
                && part.as_ref().is_none_or(|part| part.column != column)
        };
        let is_class = |&column: &usize| is_other(&column) && !is_index(column);
        let flags = match label {
            None => self.flags(columns().filter(is_class)),
            Some(_) => Vec::new(),
        };
        let is_ignored =
            |column: &usize| is_other(column) && !flags.iter().any(|(known, _)| known == column);
        let name = |column: usize| {
            if names[column].is_empty() {
                "(unnamed)".to_owned()
            } else {
                names[column].to_string()
            }
        };
        let ignored = columns().filter(is_ignored).map(name).collect();
        Ok(Columns { header, width: names.len(), path, label, part, flags, ignored })
    }

    /// The columns with their names, if there are several and each holds only flags.
    fn flags(&self, columns: impl Iterator<Item = usize>) -> Vec<(usize, String)> {
        let is_flag = |&column: &usize| {
            let mut values = self.values(column).filter(|value| !value.is_empty()).peekable();
            let name = &self.first[column];
            !name.is_empty()
                && !name.contains(BAR)
                && values.peek().is_some()
                && values.all(|value| truth(value).is_some())
        };
        let columns: Vec<usize> = columns.collect();
        if columns.len() > 1 && columns.iter().all(is_flag) {
            columns.into_iter().map(|c| (c, self.first[c].to_string())).collect()
        } else {
            Vec::new()
        }
    }

    /// Whether a column that is called like one of paths is different in every record, and so no label.
    fn is_another_path(&self, column: usize, role: Option<Role>) -> bool {
        let mut values: Vec<&str> = self.values(column).collect();
        let count = values.len();
        values.sort_unstable();
        values.dedup();
        matches!(role, Some(Role::Path(_))) && values.len() == count
    }

    /// The column that says which split a row belongs to: one that is called so, or one whose values
    /// are words of splits.
    fn part_column(
        &self,
        path: usize,
        label: Option<usize>,
        is_index: &dyn Fn(usize) -> bool,
    ) -> Option<PartColumn> {
        let others =
            |column: &usize| *column != path && Some(*column) != label && !is_index(*column);
        let others: Vec<usize> = (0..self.first.len()).filter(others).collect();
        let candidates: Vec<PartCandidate<'_>> = others
            .iter()
            .map(|&column| PartCandidate {
                name: &self.first[column],
                values: self.values(column).map(Cow::from).collect(),
            })
            .collect();
        let (place, values) = choose_part_column(&candidates, label.is_none())?;
        let column = others[place];
        Some(PartColumn { column, name: self.first[column].to_string(), values })
    }

    fn without_header(&self, line: usize) -> Result<Columns, Fault> {
        let width = self.first.len();
        if width > 2 {
            let is_name = |field: &Cow<'_, str>| field.parse::<f64>().is_err();
            let has_image = self.first.iter().any(|field| is_image(Path::new(field.as_ref())));
            if !has_image && self.first.iter().all(is_name) {
                const SHOWN: usize = 8;
                let shown = &self.first[..width.min(SHOWN)];
                let more = if width > SHOWN { ", ..." } else { "" };
                let reason = format!(
                    "no column is known to hold paths among: {}{more}: call that one path",
                    shown.join(", ")
                );
                return Err((line, reason.into()));
            }
            let reason = format!(
                "{width} fields, where a path and a label were expected: what contains the separator \
                 goes into double quotes; a list of more columns needs a first line with their names, \
                 such as path and label"
            );
            return Err((line, reason.into()));
        }
        let are_images = |column: usize| {
            let first = self.first.get(column).map(AsRef::as_ref);
            first.into_iter().chain(self.values(column)).map(|value| is_image(Path::new(value)))
        };
        if width == 2 && are_images(1).all(|is| is) && !are_images(0).any(|is| is) {
            return Err((line, LABEL_IS_FILE.into()));
        }
        let part = self.second_tells_parts().then(|| PartColumn {
            column: 1,
            name: "2".to_owned(),
            values: PartValues::Words,
        });
        Ok(Columns {
            header: Header::None,
            width: 2,
            path: 0,
            label: if part.is_none() { Some(1) } else { None },
            part,
            flags: Vec::new(),
            ignored: Vec::new(),
        })
    }

    /// Whether the second field of every record is a word of splits, and of several: no classes are called
    /// like that.
    fn second_tells_parts(&self) -> bool {
        let first = self.first.get(1).map(AsRef::as_ref);
        let parts =
            first.into_iter().chain(self.values(1)).map(|value| Part::from_word(value.trim()));
        let parts: Option<BTreeSet<Part>> = parts.collect();
        parts.is_some_and(|parts| parts.len() > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::text::records;

    fn is_file(path: &str) -> bool {
        path.strip_prefix('f').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    }

    /// `path label part; ignored` by the names of the first record, `no header`, or what is wrong.
    fn chosen(text: &str) -> String {
        let sample: Vec<Record<'_>> = records(text, "csv").map(Result::unwrap).collect();
        let columns = match choose(&sample, &is_file) {
            Ok(columns) => columns,
            Err((line, reason)) => return format!("{line}: {reason}"),
        };
        let name = |column: usize| sample[0].fields[column].to_string();
        let optional = |column: Option<usize>| column.map_or("-".to_owned(), name);
        let (path, label) = (name(columns.path), optional(columns.label));
        let part = optional(columns.part.map(|part| part.column));
        match columns.header {
            Header::None => "no header".to_owned(),
            header => {
                let header = if header == Header::Guessed { "?" } else { "" };
                format!("{header}{path} {label} {part}; {}", columns.ignored.join(" "))
            }
        }
    }

    #[test]
    fn pieces_in_brackets_and_points_are_no_labels() {
        for (text, expected) in [
            (
                "Image Index,Finding Labels,Size[Width,Height],Spacing[x,y],\nf0.png,A|B,2,3,0.1,0.2,\n\
                 f1.png,C,2,3,0.1,0.2,\n",
                "Image Index Finding Labels -; Size[Width Height] Spacing[x y] (unnamed)",
            ),
            ("image,Bbox [x,y,w,h]\nf0.png,1,2,3,4\nf1.png,1,2,3,4\n", "image - -; Bbox [x y w h]"),
            ("filename,x,y\nf0.png,1.5,2.5\nf1.png,3.5,2.5\n", "filename - -; x y"),
            ("X,y\nf0.png,a\nf1.png,b\n", "X y -; "),
        ] {
            assert_eq!(chosen(text), expected, "{text}");
        }
    }

    #[test]
    fn a_second_field_of_words_of_splits_divides_a_list_without_a_header() {
        let columns = |text: &str| {
            let sample: Vec<Record<'_>> = records(text, "csv").map(Result::unwrap).collect();
            let columns = choose(&sample, &is_file).unwrap();
            (columns.label, columns.part.map(|part| part.column))
        };
        assert_eq!(columns("f0.png,train\nf1.png,Train\nf2.png,val\n"), (None, Some(1)));
        assert_eq!(columns("f0.png,train\nf1.png,train\n"), (Some(1), None));
        assert_eq!(columns("f0.png,train\nf1.png,plane\nf2.png,test\n"), (Some(1), None));
    }

    #[test]
    fn headers_are_known_by_their_usual_names() {
        for header in [
            "image_path,label",
            "img,label",
            "filename,category",
            "file,labels",
            "id_code,diagnosis",
            "PATH,Label",
            "File Name,Class Name",
            "image-id,y",
            "name,species",
            "filepath,target",
            "ID,Breed",
            "image,dx",
            "#path,label",
            "\u{fe}x,label",
        ] {
            let (path, label) = header.split_once(',').unwrap();
            if path.ends_with('x') {
                // No known name, and no path in the column.
                assert_eq!(chosen(&format!("{header}\n1,0\n2,1\n")), "no header");
                continue;
            }
            let text = format!("{header}\nx1,0\nx2,2\n");
            assert_eq!(chosen(&text), format!("{path} {label} -; "), "{header}");
        }
        for (text, expected) in [
            ("file\na.jpg\n", "file - -; "),
            ("id,has_cactus\na1,0\na2,1\n", "id has_cactus -; "),
            ("Image,Id\na.jpg,w1\nb.jpg,w1\n", "Image Id -; "),
            ("id,filename\n1,a.jpg\n2,b.jpg\n", "filename - -; id"),
            ("label,slide\n0,a.png\n1,b.png\n", "slide label -; "),
            ("image\nf1\nf2\n", "image - -; "),
        ] {
            assert_eq!(chosen(text), expected, "{text}");
        }
    }

    #[test]
    fn a_header_behind_other_lines_is_refused() {
        let expected = "2: seems to be the header (path, label): remove the lines before it";
        for text in ["# made by me\npath,label\na.jpg,1\n", "2\npath,label\na.jpg,1\n"] {
            assert_eq!(chosen(text), expected, "{text}");
        }
    }

    #[test]
    fn a_first_line_that_is_like_the_others_is_no_header() {
        for text in [
            "a.jpg,1\nb.jpg,2\n",
            "image.png,label\nb.png,label2\n",
            "f0,cat\nf1,cat\n",
            "image,cat\nb,cat\n",
            "f0,label\nf1,1\n",
            "gone.jpg,aardvark\nf1.jpg,bee\nf2.jpg,cow\n",
            "x1,3\nx2,4\n",
        ] {
            assert_eq!(chosen(text), "no header", "{text}");
        }
    }

    #[test]
    fn a_first_line_that_is_no_file_before_lines_that_are_is_a_header() {
        for (text, expected) in [
            ("slide,grade\nf1,3\nf2,2\n", "?slide grade -; "),
            ("slide,grade\nf1.png,low\nf2.png,high\n", "?slide grade -; "),
            ("slide\nf1.png\n", "?slide - -; "),
            // Words before words, and no images: this may well be a file that is not there.
            ("slide,grade\nf1,low\nf2,high\n", "no header"),
        ] {
            assert_eq!(chosen(text), expected, "{text}");
        }
    }

    #[test]
    fn the_best_of_several_columns_is_taken_and_the_others_are_named() {
        for (text, expected) in [
            ("id,label,extra\n1,0,x\n2,1,y\n", "id label -; extra"),
            (",image,label\n0,a.jpg,x\n1,b.jpg,y\n", "image label -; (unnamed)"),
            ("id,image,target,class\n1,a.jpg,0,x\n", "image class -; id target"),
            ("image,MEL,NV\na,1.0,0.0\nb,0.0,1.0\n", "image - -; "),
            ("lesion_id,image_id,dx,age\nH1,I1,mel,3\n", "image_id dx -; lesion_id age"),
            ("path,image,label\nx/1,f1,0\nx/2,f2,1\n", "image label -; path"),
            ("width,slide,label\n4,a.jpg,0\n5,b.jpg,1\n", "slide label -; width"),
        ] {
            assert_eq!(chosen(text), expected, "{text}");
        }
        assert_eq!(
            chosen("Image Index,Finding Labels,Age\nf1,Mass|Nodule,3\nf2,No Finding,4\n"),
            "Image Index Finding Labels -; Age"
        );
        for (text, expected) in [
            (
                "slide,stain,site\nx1,he,a\nx2,he,b\n",
                "1: no column is known to hold paths among: slide,",
            ),
            (
                "label,pixel0,pixel1\n3,0,255\n5,0,0\n",
                "1: its columns hold pixels (pixel0), and images",
            ),
            (
                "emotion,pixels,Usage\n3,0 255,Training\n",
                "1: its columns hold pixels (pixels), and images",
            ),
            ("path|label\na.jpg|1\nb.jpg|2\n", "1: | does not separate columns"),
            ("a.jpg|1\nb.jpg|2\n", "1: | does not separate columns"),
        ] {
            let message = chosen(text);
            assert!(message.starts_with(expected), "{message}");
        }
        let message = chosen("a.jpg,1,2\nb.jpg,1,3\n");
        assert!(message.starts_with("1: 3 fields, where a path and a label"), "{message}");
        assert_eq!(chosen("cat,a.jpg\ndog,b.jpg\n"), "1: ".to_owned() + LABEL_IS_FILE);
    }

    #[test]
    fn columns_that_tell_splits_are_found_by_name_or_by_value() {
        for (text, expected) in [
            ("path,label,split\na.jpg,0,train\nb.jpg,1,val\n", "path label split; "),
            ("path,label,Set\na.jpg,0,Training\nb.jpg,1,PublicTest\n", "path label Set; "),
            ("path,split\na.jpg,train\nb.jpg,test\n", "path - split; "),
            ("path,label,fold\na.jpg,0,1\nb.jpg,1,2\n", "path label fold; "),
            ("fname,labels,is_valid\na.jpg,0,True\nb.jpg,1,False\n", "fname labels is_valid; "),
            ("fname,labels,train\na.jpg,0,1\nb.jpg,1,0\n", "fname labels train; "),
            ("path,label,usage\na.jpg,0,train\nb.jpg,1,test\n", "path label usage; "),
            ("path,level,split\na.jpg,3,train\nb.jpg,1,test\n", "path level split; "),
            // The only other column: its name or its values say that it is no label.
            ("image_id,partition\na.jpg,0\nb.jpg,1\n", "image_id - partition; "),
            ("id,Usage\na.jpg,Training\nb.jpg,PublicTest\n", "id - Usage; "),
            ("path,set\na.jpg,train\nb.jpg,holdout\n", "path - set; "),
            ("path,is_test\na.jpg,0\nb.jpg,1\n", "path - is_test; "),
            // One flag says it all, the other only a part.
            (
                "path,label,is_valid,is_train\na.jpg,0,0,1\nb.jpg,1,0,0\n",
                "path label is_train; is_valid",
            ),
            ("path,label,data set\na.jpg,0,train\nb.jpg,1,extra\n", "path label data set; "),
            ("path,label,dataset\na.jpg,0,coco\nb.jpg,1,voc\n", "path label -; dataset"),
            // Here the column is that of the label.
            ("path,set\na.jpg,pirates\nb.jpg,city\n", "path set -; "),
            ("path,class\na.jpg,train\nb.jpg,test\n", "path class -; "),
            ("path,label,usage\na.jpg,0,free\nb.jpg,1,paid\n", "path label -; usage"),
        ] {
            assert_eq!(chosen(text), expected, "{text}");
        }
    }
}
