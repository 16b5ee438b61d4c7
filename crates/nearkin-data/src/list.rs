//! Lists of image files: one path per line, with or without a label.
//!
//! Many sets come as files anywhere plus a list that says which of them belong to a split and what
//! they show. A list is a text file of lines `path` or `path label`:
//!
//! - In `.csv` and `.tsv` files a comma or a tab stands between the two, and a first line such as
//!   `path,label` is a header. In all others it is white space.
//! - What contains the separator, white space included, goes into double quotes; a quote within
//!   them is doubled.
//! - Empty lines and lines that begin with `#` are skipped.
//! - Labels that are all numbers from 0 count the classes; otherwise they are the names of the
//!   classes, which are then numbered in sorted order.
//! - Where some label of the train split has a `|` in it, images can show several classes at once,
//!   such as `cat|dog`; a lone `|` says that an image shows none of them, no label that nothing is known.
//!
//! Paths are relative to the folder of the list unless a root is given. A list is a train split; a
//! folder with lists `train` and `val` or `test` (each `.txt`, `.csv` or `.tsv`) has two, and the
//! classes of both are those of `train`.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use crate::classes::{self, BAR, Fault, Labels, Scheme, Written};
use crate::decode;
use crate::image_file::read_image;
use crate::{ClassLabels, DataError, Image, ImageSet, Split};

const EXTENSIONS: [&str; 3] = ["txt", "csv", "tsv"];

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is, from 1.
    pub line: usize,
    /// As written.
    pub path: Box<str>,
    /// As written.
    pub label: Option<Box<str>>,
}

/// The images of one list, decoded on request.
pub struct List {
    /// What paths are relative to.
    root: PathBuf,
    files: Vec<Box<str>>,
    labels: Labels,
    classes: Vec<String>,
}

fn written(entries: &[Entry]) -> Written {
    let mut written = Written::default();
    entries.iter().for_each(|entry| written.push(entry.label.as_deref()));
    written
}

/// Class names, and the labels of a split; images have several where those of the train split do.
fn number(own: &Written, train: Option<&Written>) -> Result<(Vec<String>, Labels), Fault> {
    let several = classes::are_several(train.unwrap_or(own)).then_some(BAR);
    let scheme = Scheme::from_labels(own, train, several)?;
    Ok((scheme.classes(), scheme.number(own)?))
}

impl List {
    /// Reads the list of a split, given it or the folder of the lists; no image is opened yet.
    ///
    /// [`DataError::Request`] if there is no list of the split, [`DataError::Empty`] if it names no
    /// images, [`DataError::Malformed`] with the line that is not a path and a label, or whose
    /// label the train split does not have.
    pub fn open(path: &Path, root: Option<&Path>, split: Split) -> Result<Self, DataError> {
        let [train, test] = lists(path)?;
        let wanted = match split {
            Split::Train => &train,
            Split::Test => &test,
        };
        let Some(list) = wanted else {
            let path = path.display();
            return Err(DataError::Request(format!(
                "{path} has no {split} split: give a folder with the lists train.txt and val.txt"
            )));
        };
        let entries = read(list)?;
        let own = written(&entries);
        let train = match train.as_deref().filter(|_| split == Split::Test) {
            Some(train) => Some(written(&read(train)?)),
            None => None,
        };
        let (classes, labels) =
            number(&own, train.as_ref()).map_err(|Fault { image, reason }| {
                let line = entries.get(image).map_or(0, |entry| entry.line);
                DataError::malformed(list, format!("line {line}: {reason}"))
            })?;
        Ok(Self {
            root: root.or(list.parent()).unwrap_or(Path::new("")).to_owned(),
            files: entries.into_iter().map(|entry| entry.path).collect(),
            labels,
            classes,
        })
    }

    /// Whether a file is a list, or a folder holds that of a train split, told by names.
    pub(crate) fn is_at(path: &Path) -> bool {
        if path.is_dir() {
            return !matches!(lists(path), Ok([None, _]) | Err(DataError::Empty { .. }));
        }
        let extension = path.extension().map(|extension| extension.to_string_lossy());
        extension.is_some_and(|found| EXTENSIONS.iter().any(|one| found.eq_ignore_ascii_case(one)))
    }

    /// Whether there is a list of the split.
    pub fn has_split(path: &Path, split: Split) -> Result<bool, DataError> {
        let [train, test] = lists(path)?;
        Ok(match split {
            Split::Train => train.is_some(),
            Split::Test => test.is_some(),
        })
    }
}

impl ImageSet for List {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        read_image(&self.root.join(&*self.files[index]))
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.labels.label(index)
    }

    fn labels(&self, index: usize) -> Option<ClassLabels<'_>> {
        self.labels.labels(index)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        self.root.join(&*self.files[index]).display().to_string()
    }
}

/// The lists of the train and the test split.
fn lists(path: &Path) -> Result<[Option<PathBuf>; 2], DataError> {
    if !fs::metadata(path).map_err(DataError::read(path))?.is_dir() {
        return Ok([Some(path.to_owned()), None]);
    }
    let find = |name: &str| {
        let lists = EXTENSIONS.iter().map(|extension| path.join(format!("{name}.{extension}")));
        let lists: Vec<PathBuf> = lists.filter(|list| list.is_file()).collect();
        match lists.as_slice() {
            [first, second, ..] => Err(DataError::malformed(
                second,
                format!("is there beside {}: move one of them away", first.display()),
            )),
            lists => Ok(lists.first().cloned()),
        }
    };
    let found = [find("train")?, find("val")?.or(find("test")?)];
    match found {
        [None, None] => Err(DataError::empty(
            path,
            "looked for lists named train, val or test, ending in txt, csv or tsv",
        )),
        found => Ok(found),
    }
}

fn read(list: &Path) -> Result<Vec<Entry>, DataError> {
    let bytes = fs::read(list).map_err(DataError::read(list))?;
    let entries = parse(&bytes, list)?;
    match entries.is_empty() {
        true => Err(DataError::empty(list, "the list names none")),
        false => Ok(entries),
    }
}

/// Reads the lines of a list, separated as the extension of `path` says.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Entry>, DataError> {
    let refuse =
        |line: usize, reason: &str| DataError::malformed(path, format!("line {line}: {reason}"));
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes.iter().take(error.valid_up_to()).filter(|&&b| b == b'\n').count();
        refuse(line, "is not UTF-8 text")
    })?;
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let separator = match extension.as_deref() {
        Some("csv") => Some(','),
        Some("tsv") => Some('\t'),
        _ => None,
    };
    let mut entries = Vec::new();
    for (index, text) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let line = index + 1;
        if text.trim().is_empty() || text.starts_with('#') {
            continue;
        }
        let fields = fields(text, separator).map_err(|reason| refuse(line, reason))?;
        let (file, label) = match fields.as_slice() {
            [file] => (file, None),
            [file, label] => (file, Some(label.as_ref()).filter(|label| !label.is_empty())),
            fields => {
                return Err(refuse(
                    line,
                    &format!(
                        "{} fields, where a path and a label were expected: what contains the \
                         separator goes into double quotes",
                        fields.len()
                    ),
                ));
            }
        };
        if separator.is_some() && entries.is_empty() && is_header(file, label) {
            continue;
        }
        if file.is_empty() {
            return Err(refuse(line, "has no path"));
        }
        if separator.is_none() && label.is_some_and(|label| decode::is_image(Path::new(label))) {
            let reason = "the label looks like a file: a path with spaces goes into double quotes";
            return Err(refuse(line, reason));
        }
        let file = file.as_ref().into();
        entries.push(Entry { line, path: file, label: label.map(Into::into) });
    }
    Ok(entries)
}

fn is_header(file: &str, label: Option<&str>) -> bool {
    let is = |text: &str, names: &[&str]| names.iter().any(|name| text.eq_ignore_ascii_case(name));
    is(file, &["path", "file", "filename", "file_name", "filepath", "image"])
        && label.is_none_or(|label| is(label, &["label", "class", "target", "label_name"]))
}

/// Splits a line; without a separator, at white space. Spaces around a field are no part of it.
fn fields(line: &str, separator: Option<char>) -> Result<Vec<Cow<'_, str>>, &'static str> {
    let is_separator = |letter: char| match separator {
        Some(separator) => letter == separator,
        None => letter.is_whitespace(),
    };
    let is_blank = |letter: char| letter == ' ' || separator.is_none() && letter.is_whitespace();
    let mut fields = Vec::new();
    let mut rest = line.trim_end_matches(is_blank);
    loop {
        rest = rest.trim_start_matches(is_blank);
        let after = if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = unquote(quoted)?;
            fields.push(field);
            match separator {
                Some(_) => after.trim_start_matches(' '),
                None => after,
            }
        } else {
            let (field, after) = rest.split_at(rest.find(is_separator).unwrap_or(rest.len()));
            fields.push(Cow::Borrowed(field.trim_end_matches(' ')));
            after
        };
        let mut letters = after.chars();
        match letters.next() {
            None => return Ok(fields),
            Some(letter) if is_separator(letter) => rest = letters.as_str(),
            Some(_) => return Err("text follows a closing quote"),
        }
    }
}

/// The field behind an opening quote, and what follows the closing one.
fn unquote(quoted: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    let mut from = 0;
    loop {
        let quote = quoted[from..].find('"').ok_or("a quote is not closed")?;
        let end = from + quote;
        let after = &quoted[end + 1..];
        if !after.starts_with('"') {
            let field = &quoted[..end];
            let field = match from {
                0 => Cow::Borrowed(field),
                _ => Cow::Owned(field.replace("\"\"", "\"")),
            };
            return Ok((field, after));
        }
        from = end + 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// Every entry as `line path=label`.
    fn entries(name: &str, text: &str) -> Vec<String> {
        let show = |entry: Entry| {
            format!("{} {}={}", entry.line, entry.path, entry.label.as_deref().unwrap_or("-"))
        };
        parse(text.as_bytes(), Path::new(name)).unwrap().into_iter().map(show).collect()
    }

    fn refusal(name: &str, text: impl AsRef<[u8]>) -> String {
        parse(text.as_ref(), Path::new(name)).unwrap_err().to_string()
    }

    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if decode::is_image(&path) {
                image::RgbImage::from_pixel(3, 2, image::Rgb([9, 8, 7])).save(path).unwrap();
            } else {
                fs::write(path, text).unwrap();
            }
        }
        folder
    }

    #[test]
    fn paths_and_labels_are_told_apart() {
        let text =
            "# images\n\na.jpg 3\n \"my cat.png\"\t 'x'\r\nb.jpg\n\"with \"\"quotes\"\".png\"\n";
        let expected = ["3 a.jpg=3", "4 my cat.png='x'", "5 b.jpg=-", "6 with \"quotes\".png=-"];
        assert_eq!(entries("some.txt", text), expected);
        let text =
            "\u{feff}Path,Label\na b.jpg,the label\n\"a,b.jpg\" , 2\nc.jpg,\n#d.jpg,1\ne.jpg\n";
        let expected = ["2 a b.jpg=the label", "3 a,b.jpg=2", "4 c.jpg=-", "6 e.jpg=-"];
        assert_eq!(entries("some.csv", text), expected);
        assert_eq!(entries("x.tsv", "image\ta\nb.jpg\tc,d\n"), ["1 image=a", "2 b.jpg=c,d"]);
        assert_eq!(entries("x.csv", "file\nb.jpg\n"), ["2 b.jpg=-"]);
        assert!(entries("x.txt", "").is_empty());
    }

    #[test]
    fn other_lines_are_refused_by_number() {
        for (name, text, expected) in [
            ("l.txt", "a.jpg 1\nb.jpg 1 2\n", "l.txt: line 2: 3 fields, where a path and a label"),
            (
                "l.txt",
                "my cat.jpg\n",
                "line 1: the label looks like a file: a path with spaces goes",
            ),
            ("l.txt", "\"a.jpg 1\n", "line 1: a quote is not closed"),
            ("l.txt", "\"a.jpg\"x 1\n", "line 1: text follows a closing quote"),
            ("l.txt", "\"\" 1\n", "line 1: has no path"),
            ("l.csv", "a.jpg,1\n,2\n", "line 2: has no path"),
            ("l.csv", "a.jpg,1,2\n", "line 1: 3 fields"),
        ] {
            let message = refusal(name, text);
            assert!(message.contains(expected), "{message}");
        }
        assert!(refusal("l.txt", b"a\nb\n\xff\n").contains("line 3: is not UTF-8 text"));
    }

    #[test]
    fn paths_are_relative_to_the_list_or_the_root() {
        let folder = folder(&[("lists/all.txt", "../a.png cat\nb/c.png\n"), ("a.png", "")]);
        let list = folder.path().join("lists/all.txt");
        let set = List::open(&list, None, Split::Train).unwrap();
        assert_eq!((set.len(), set.label(0), set.label(1)), (2, Some(0), None));
        assert_eq!(set.classes(), ["cat"]);
        assert_eq!(set.image(0).unwrap().rgb()[..3], [9, 8, 7]);
        let message = set.image(1).unwrap_err().to_string();
        assert!(message.starts_with("cannot read ") && message.contains("lists/b/c.png"));
        let set = List::open(&list, Some(Path::new("/else")), Split::Train).unwrap();
        assert_eq!(set.name(1), "/else/b/c.png");
        assert!(!List::has_split(&list, Split::Test).unwrap());
        let message = List::open(&list, None, Split::Test).err().unwrap().to_string();
        assert!(message.contains("all.txt has no test split: give a folder with"), "{message}");
    }

    #[test]
    fn images_of_a_list_may_show_several_classes() {
        let files = folder(&[
            ("train.csv", "path,label\na.png,dog|cat\nb.png,fox\nc.png,|\nd.png,\n"),
            ("test.csv", "e.png,fox | cat\nf.png,dog\n"),
        ]);
        let train = List::open(files.path(), None, Split::Train).unwrap();
        assert_eq!(train.classes(), ["cat", "dog", "fox"]);
        assert!(train.has_several_labels() && !train.has_labels());
        let present = |set: &List, index| set.labels(index).map(|labels| labels.present.to_vec());
        let expected = [Some(vec![0, 1]), Some(vec![2]), Some(vec![]), None];
        assert_eq!([0, 1, 2, 3].map(|index| present(&train, index)), expected);
        let test = List::open(files.path(), None, Split::Test).unwrap();
        assert_eq!([0, 1].map(|index| present(&test, index)), [Some(vec![0, 2]), Some(vec![1])]);
        fs::write(files.path().join("test.csv"), "e.png,fox\nf.png,cat|owl\n").unwrap();
        let message = List::open(files.path(), None, Split::Test).err().unwrap().to_string();
        assert!(message.contains("test.csv: line 2: \"owl\" is a class that"), "{message}");
    }

    #[test]
    fn a_folder_of_lists_has_both_splits_with_the_classes_of_train() {
        let files = folder(&[("train.csv", "a.png,b\nb.png,a\n"), ("val.txt", "c.png b\n")]);
        let open = |split| List::open(files.path(), None, split);
        assert_eq!(open(Split::Train).unwrap().classes(), ["a", "b"]);
        let test = open(Split::Test).unwrap();
        assert_eq!((test.label(0), test.classes().len()), (Some(1), 2));
        assert!(List::has_split(files.path(), Split::Test).unwrap());
        fs::write(files.path().join("val.txt"), "\nc.png c\n").unwrap();
        let message = open(Split::Test).err().unwrap().to_string();
        assert!(
            message.contains("val.txt: line 2: \"c\" is a class that the train split"),
            "{message}"
        );
        fs::write(files.path().join("train.txt"), "# nothing\n").unwrap();
        let message = open(Split::Train).err().unwrap().to_string();
        assert!(message.contains("train.csv: is there beside "), "{message}");
        fs::remove_file(files.path().join("train.csv")).unwrap();
        let message = open(Split::Train).err().unwrap().to_string();
        assert!(message.contains("train.txt: the list names none"), "{message}");
        let empty = folder(&[]);
        let message = List::open(empty.path(), None, Split::Train).err().unwrap().to_string();
        assert!(message.contains("looked for lists named train, val or test"), "{message}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for name in ["l.txt", "l.csv", "l.tsv"] {
                let _ = parse(&bytes, Path::new(name));
            }
        }

        #[test]
        fn quoted_fields_come_back(path in "[^\r\n]{1,20}", label in "[^\r\n]{1,20}") {
            let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            for (name, separator) in [("l.txt", " "), ("l.csv", ","), ("l.tsv", "\t")] {
                prop_assume!(!decode::is_image(Path::new(&label)));
                let text = format!("{}{separator}{}\n", quote(&path), quote(&label));
                let entries = parse(text.as_bytes(), Path::new(name)).unwrap();
                prop_assert_eq!(&*entries[0].path, path.as_str());
                prop_assert_eq!(entries[0].label.as_deref(), Some(label.as_str()));
            }
        }
    }
}
