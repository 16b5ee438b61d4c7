//! Lists of image files: one path per line, with or without a label.
//!
//! Many sets come as files anywhere plus a list that says which of them belong to a split and what
//! they show. A list is a text file of UTF-8:
//!
//! - In `.csv` and `.tsv` files a comma or a tab separates the fields, and what contains it goes into
//!   double quotes; a quote within them is doubled. Semicolons and tabs in a `.csv` are found out. In
//!   other files white space separates, or tabs or commas where only they do.
//! - Empty lines are skipped. Lines of a `.txt` that begin with `#` are comments, and are counted, as are
//!   lines without a path.
//! - Labels are read as [everywhere](crate): numbers count classes, names are ordered by name, and an empty
//!   one, -1, NaN or null is none.
//! - Where some label of the train split has a `|` in it, images can show several classes at once,
//!   such as `cat|dog`; a lone `|` says that an image shows none of them, no label that nothing is known.
//!
//! # Columns
//!
//! Without a header, a line is a path or a path and a label. The first line is a header if
//!
//! - it has a usual name of paths (`path`, `image_path`, `file_name`, `image`, `img`, `image_id`, `id`, ...,
//!   in any case), which is no file, and beside it a usual name of labels (`label`, `category`, `class`,
//!   `target`, `diagnosis`, `breed`, `y`, ...) or words that occur nowhere below them;
//! - it has a usual name of labels, and another column holds paths; or
//! - it is no file while the lines after it are, and these are named like images or have numbers as labels
//!   where the first has none. This is noted.
//!
//! A header may name more columns: the path and the label are read, and the others are named in a note.
//! Where no column is one of labels and all others hold only 0 and 1, each of them is a class (`img,cat,dog`),
//! and an image shows those with 1. A column `split`, `set`, `subset`, `fold`, `partition`, `is_valid` or one
//! whose values are words of splits says which rows are of which split; if its values are others, the list
//! is refused.
//!
//! # Files
//!
//! Paths are relative to the folder of the list unless a root is given. Where they do not lead to files,
//! one way is looked for that does, for the whole list: with the extension of an image, in a folder
//! beside the list such as `images` or `train_images`, with backslashes as slashes. A name that the
//! folders of two splits hold is refused unless the list is called like one of them. A file that is not
//! there is found out when its image is asked for; a list of which no file is there is refused. Where a
//! folder of lists is given, the images in it that no list names are counted.
//!
//! # Splits
//!
//! A list is the train split, unless a column says otherwise. A folder with lists named `train` and `val`
//! or `test` (or another [word of splits](crate), such as `Training.csv` and `valid_list.txt`) has two. The
//! classes of both are those of `train`.

mod columns;
mod place;
mod text;

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use self::columns::{Columns, Header, PartColumn};
use self::place::{Place, Places};
use self::text::{Record, SAMPLE, Separator};
use crate::beside::Beside;
use crate::classes::{self, BAR, Fault, Labels, Scheme, Written, meaning, plain};
use crate::decode;
use crate::image_file::read_image;
use crate::split_files::{self as files, entries};
use crate::splits::{
    Naming, Part, SplitNames, is_column_of_splits, means_split_file, naming, part_of_file, rest,
    unclear_values,
};
use crate::{ClassLabels, DataError, Image, ImageSet, Skipped, Split};

const EXTENSIONS: [&str; 3] = ["txt", "csv", "tsv"];
/// Words that may stand in the name of a list beside that of its split.
const LIST_WORDS: [&str; 18] = [
    "annotation",
    "annotations",
    "csv",
    "filenames",
    "ids",
    "idx",
    "index",
    "indices",
    "info",
    "instances",
    "label",
    "labels",
    "list",
    "lists",
    "meta",
    "metadata",
    "names",
    "paths",
];

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is, from 1.
    pub line: usize,
    /// As written.
    pub path: Box<str>,
    /// As written.
    pub label: Option<Box<str>>,
    part: Option<Part>,
}

/// The images of one list, decoded on request.
pub struct List {
    place: Place,
    files: Vec<Box<str>>,
    labels: Labels,
    classes: Vec<String>,
    skipped: Skipped,
}

impl List {
    /// Reads the list of a split, given it or the folder of the lists; no image is opened yet.
    ///
    /// [`DataError::Request`] if there is no list of the split, [`DataError::Empty`] if it names no
    /// images, [`DataError::Malformed`] with the line that is not a path and a label, or whose
    /// label the train split does not have, or if no image of the list is there.
    pub fn open(path: &Path, root: Option<&Path>, split: Split) -> Result<Self, DataError> {
        let Rows { list, part, entries, train, mut skipped } =
            Lists::find(path)?.rows(path, root, split)?;
        let root = root.or(list.parent()).unwrap_or(Path::new(""));
        let own = written(&entries);
        let known = train.as_deref().map(written);
        let (scheme, labels) =
            number(&own, known.as_ref()).map_err(|Fault { image, reason }| {
                let line = entries.get(image).map_or(0, |entry| entry.line);
                DataError::malformed(&list, format!("line {line}: {reason}"))
            })?;
        let Some(place) = choose_place(&list, root, part, &entries)? else {
            return Err(place::nothing_found(&list, &entries, root));
        };
        if place != Place::written(root)
            && let Some(first) = entries.first()
        {
            let example = place.path(&first.path);
            skipped.note(format!(
                "{}: paths are completed: {} is read from {}",
                list.display(),
                first.path,
                example.display()
            ));
        }
        if path.is_dir() && (split == Split::Train || train.is_none()) {
            // A list that is one of several was read whole.
            let known = part.map(|_| Known { list: &list, entries: &entries, place: &place });
            skipped.merge(&unlisted(path, root, known)?);
        }
        if let Some(note) = scheme.note() {
            skipped.note(format!("{}: {note}", list.display()));
        }
        note_repeated(&mut skipped, &list, &entries, &place);
        if let Some(train) = &train {
            // A list that divides itself is one, whatever it is called.
            let train_part = if part.is_some() { Some(Part::Train) } else { None };
            // Such a fault is one of the train split.
            let found = choose_place(&list, root, train_part, train).ok().flatten();
            let train_place = found.unwrap_or_else(|| Place::written(root));
            note_shared(&mut skipped, [(&entries, &place), (train, &train_place)]);
        }
        let files = entries.into_iter().map(|entry| entry.path).collect();
        Ok(Self { place, files, labels, classes: scheme.classes(), skipped })
    }

    /// Whether a file is a list, or a folder holds that of a train split, told by names.
    pub(crate) fn is_at(path: &Path) -> bool {
        if path.is_dir() {
            let found = Lists::find(path);
            return !matches!(
                found,
                Ok(Lists::Two { train: None, .. }) | Err(DataError::Empty { .. })
            );
        }
        is_list(path)
    }

    /// What a list says about the images in `folder`, told by its first lines. `None` if these do not lead
    /// to images there, or cannot be read.
    pub(crate) fn description(list: &Path, folder: &Path) -> Option<Description> {
        /// Lines whose files are looked for.
        const LINES: usize = 16;
        let places = Places::new(folder, own_part(list));
        let head = head(list).ok()?;
        let Ok(table) = parse_table(&head, list, &|path| places.have(path)) else {
            return description_of_lines(&head, &places);
        };
        let step = table.entries.len().div_ceil(LINES).max(1);
        let lines: Vec<&Entry> = table.entries.iter().step_by(step).collect();
        let found: Vec<(PathBuf, Option<Box<str>>)> = lines
            .iter()
            .filter_map(|entry| Some((places.find(&entry.path)?, entry.label.clone())))
            .collect();
        let labels: Vec<&str> =
            table.entries.iter().filter_map(|entry| entry.label.as_deref()).collect();
        let classes: HashSet<&str> = labels.iter().copied().collect();
        // A column of another name may hold captions.
        let has_labels =
            !labels.is_empty() && (table.is_label_known || classes.len() * 2 <= labels.len());
        let divides = table.parts.is_some();
        (!found.is_empty() && found.len() * 2 >= lines.len()).then_some(Description {
            has_labels,
            divides,
            found,
        })
    }

    /// Whether there is a list of the split, or a list has rows of it.
    pub fn has_split(path: &Path, split: Split) -> Result<bool, DataError> {
        Ok(match Lists::find(path)? {
            Lists::Two { train, test, .. } => match split {
                Split::Train => train.is_some(),
                Split::Test => test.is_some(),
            },
            Lists::One(list) => {
                if !may_have_parts(&list)? {
                    return Ok(split == Split::Train);
                }
                let root = list.parent().unwrap_or(Path::new(""));
                let present = read(&list, root, own_part(&list))?.parts();
                let in_split = |part: &Part| part.split(&present) == Some(split);
                // Opening a list whose column names no split says so.
                present.iter().any(in_split) || present.is_empty() && split == Split::Train
            }
        })
    }
}

impl ImageSet for List {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        read_image(&self.place.path(&self.files[index]))
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
        self.place.path(&self.files[index]).display().to_string()
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

/// What a list says about images beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) has_labels: bool,
    /// Whether a column says which split an image belongs to.
    pub(crate) divides: bool,
    /// Some of the images with their labels.
    pub(crate) found: Vec<(PathBuf, Option<Box<str>>)>,
}

/// What lines say that cannot be read as those of a list, such as `0.jpg Golden Retriever`: their first
/// words may be images all the same.
fn description_of_lines(head: &[u8], places: &Places) -> Option<Description> {
    const LINES: usize = 16;
    let is_end = |letter: char| letter.is_whitespace() || matches!(letter, ',' | ';');
    let lines: Vec<&str> = text::decode(head).ok()?.lines().take(LINES).collect();
    let first = lines.iter().filter_map(|line| line.split(is_end).next());
    let found: Vec<PathBuf> =
        first.filter(|word| !word.is_empty()).filter_map(|word| places.find(word)).collect();
    let is_list = !found.is_empty() && found.len() * 2 >= lines.len();
    is_list.then(|| Description {
        has_labels: lines.iter().any(|line| line.trim_end().contains(is_end)),
        divides: false,
        found: found.into_iter().map(|file| (file, None)).collect(),
    })
}

/// Whether a name says no more than that the file lists the images of some splits.
pub(crate) fn is_list_of_splits(stem: &str) -> bool {
    naming(stem) != Naming::Nothing
        && rest(stem).iter().all(|word| LIST_WORDS.contains(&word.as_str()))
}

/// Whether a file is a list, told by its name.
pub(crate) fn is_list(path: &Path) -> bool {
    let extension = path.extension().map(OsStr::to_string_lossy);
    extension.is_some_and(|found| EXTENSIONS.iter().any(|one| found.eq_ignore_ascii_case(one)))
}

/// The part that the name of a list speaks of, beside words such as `labels`.
pub(crate) fn part_of_list(list: &Path) -> Option<Part> {
    let stem = list.file_stem().filter(|_| is_list(list))?.to_string_lossy();
    match naming(&stem) {
        Naming::Names(part) => Some(part),
        Naming::Mentions(part)
            if rest(&stem).iter().all(|word| LIST_WORDS.contains(&word.as_str())) =>
        {
            Some(part)
        }
        _ => None,
    }
}

fn written(entries: &[Entry]) -> Written {
    let mut written = Written::default();
    entries.iter().for_each(|entry| written.push(entry.label.as_deref()));
    written
}

/// The classes and the labels of a split; images have several where those of the train split do.
fn number(own: &Written, train: Option<&Written>) -> Result<(Scheme, Labels), Fault> {
    let several = classes::are_several(train.unwrap_or(own)).then_some(BAR);
    let scheme = Scheme::from_labels(own, train, several)?;
    let labels = scheme.number(own)?;
    Ok((scheme, labels))
}

fn choose_place(
    list: &Path,
    root: &Path,
    part: Option<Part>,
    entries: &[Entry],
) -> Result<Option<Place>, DataError> {
    let paths: Vec<&str> = entries.iter().map(|entry| &*entry.path).collect();
    Places::new(root, part).choose(&paths).map_err(|[one, other]| {
        let reason = format!(
            "a file that it names is in the folders of two splits, {} and {}: put the folder into the \
             paths of the list, or call the list like its split",
            one.display(),
            other.display()
        );
        DataError::malformed(list, reason)
    })
}

/// The part that a list is called like, if it was given itself.
fn own_part(list: &Path) -> Option<Part> {
    part_of_file(&list.file_stem().unwrap_or_default().to_string_lossy())
}

/// The lists at a path.
enum Lists {
    /// A list that was given itself.
    One(PathBuf),
    /// Those of a folder.
    Two {
        train: Option<PathBuf>,
        test: Option<(Part, PathBuf)>,
        unclear: Vec<PathBuf>,
        /// The list of a test part that validation replaces.
        unused: Option<PathBuf>,
    },
}

/// The lines of a split, and what is known of them.
struct Rows {
    list: PathBuf,
    /// What the list is called like.
    part: Option<Part>,
    entries: Vec<Entry>,
    /// For the test split, the lines of the train split, if there are any.
    train: Option<Vec<Entry>>,
    skipped: Skipped,
}

impl Lists {
    fn find(path: &Path) -> Result<Self, DataError> {
        if !fs::metadata(path).map_err(DataError::read(path))?.is_dir() {
            return Ok(Self::One(path.to_owned()));
        }
        let mut unclear = Vec::new();
        let mut lists: [Option<PathBuf>; 3] = [None, None, None];
        let files = entries(path)?.into_iter().filter(|entry| !entry.is_folder);
        for list in files.map(|entry| entry.path).filter(|list| is_list(list)) {
            let stem = list.file_stem().unwrap_or_default().to_string_lossy();
            if naming(&stem) == Naming::Several {
                unclear.push(list);
                continue;
            }
            let Some(part) = part_of_list(&list) else { continue };
            if let Some(first) = &lists[part as usize] {
                let reason = format!("is there beside {}: move one of them away", first.display());
                return Err(DataError::malformed(&list, reason));
            }
            lists[part as usize] = Some(list);
        }
        let [train, validation, test] = lists;
        let (test, unused) = match validation {
            Some(list) => (Some((Part::Validation, list)), test),
            None => (test.map(|list| (Part::Test, list)), None),
        };
        if train.is_none() && test.is_none() {
            return Err(DataError::empty(
                path,
                "looked for lists named train, val or test, ending in txt, csv or tsv",
            ));
        }
        Ok(Self::Two { train, test, unclear, unused })
    }

    fn rows(self, path: &Path, root: Option<&Path>, split: Split) -> Result<Rows, DataError> {
        let missing = |hint: &str| {
            let path = path.display();
            Err(DataError::Request(format!("{path} has no {split} split: {hint}")))
        };
        let root_of = |list: &Path| root.or(list.parent()).unwrap_or(Path::new("")).to_owned();
        match self {
            Self::One(list) => {
                let table = read(&list, &root_of(&list), own_part(&list))?;
                if table.parts.is_none() && split == Split::Test {
                    return missing("give a folder with the lists train.txt and val.txt");
                }
                let rows = table.split(list, split)?;
                if rows.entries.is_empty() {
                    missing("no line of the list belongs to it")
                } else {
                    Ok(rows)
                }
            }
            Self::Two { train, test, unclear, unused } => {
                let chosen = match split {
                    Split::Train => train.clone().map(|list| (Part::Train, list)),
                    Split::Test => test,
                };
                let Some((part, list)) = chosen else {
                    return match unclear.first() {
                        Some(unclear) if split == Split::Train => missing(&format!(
                            "the name of {} tells several splits; give the list itself",
                            unclear.display()
                        )),
                        _ => missing("give a folder with the lists train.txt and val.txt"),
                    };
                };
                let read =
                    |list: &Path, part| read(list, &root_of(list), Some(part))?.named(list, part);
                let (entries, mut skipped) = read(&list, part)?;
                for list in unclear.iter().filter(|_| split == Split::Train) {
                    let reason = "list(s) whose names tell several splits";
                    skipped.add(reason, list.display().to_string());
                }
                if let (Some(unused), Split::Test) = (unused, split) {
                    let reason =
                        "list(s) of the test part, since the validation part is the test split";
                    skipped.add(reason, unused.display().to_string());
                }
                let train = match train.filter(|_| split == Split::Test) {
                    Some(train) => Some(read(&train, Part::Train)?.0),
                    None => None,
                };
                Ok(Rows { list, part: Some(part), entries, train, skipped })
            }
        }
    }
}

/// A list as it was read.
#[derive(Debug, Default)]
struct Table {
    entries: Vec<Entry>,
    parts: Option<Parts>,
    /// Lines without a path, and the first of them.
    pathless: Option<(usize, usize)>,
    /// Whether the column of labels has a usual name of them.
    is_label_known: bool,
    skipped: Skipped,
}

/// What a column said about splits.
#[derive(Debug)]
struct Parts {
    column: PartColumn,
    /// Lines whose value names no split.
    unclear: usize,
    /// The first of them.
    line: usize,
    /// Their values, as many as a message needs.
    values: Vec<String>,
}

/// Values that a message names.
const VALUES: usize = 5;

impl Table {
    /// The parts of its lines.
    fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = self.entries.iter().filter_map(|entry| entry.part).collect();
        parts.sort_unstable();
        parts.dedup();
        parts
    }

    /// The lines of a split of a list that has both, or is the train split.
    fn split(self, list: PathBuf, split: Split) -> Result<Rows, DataError> {
        let present = self.parts();
        let Self { entries, parts, mut skipped, .. } = self;
        let Some(Parts { column, unclear, line, values }) = parts else {
            let part = own_part(&list);
            if part.is_none() {
                refuse_split_paths(&list, &entries)?;
            }
            return Ok(Rows { list, part, entries, train: None, skipped });
        };
        let name = &column.name;
        if unclear > 0 && !present.contains(&Part::Train) {
            let reason = unclear_values(name, &values, "lines");
            return Err(DataError::malformed(&list, format!("line {line}: {reason}")));
        }
        let values = values.join(", ");
        let of = |wanted: Split| {
            let is_wanted =
                |entry: &&Entry| entry.part.and_then(|part| part.split(&present)) == Some(wanted);
            entries.iter().filter(is_wanted).cloned().collect::<Vec<Entry>>()
        };
        if split == Split::Train {
            let reason = format!("line(s) of no known split (column {name}: {values})");
            skipped.add_many(reason, unclear, format!("{} line {line}", list.display()));
        } else if present.contains(&Part::Validation) {
            let unused = entries.iter().filter(|entry| entry.part == Some(Part::Test));
            let first = unused.clone().next().map_or(0, |entry| entry.line);
            let reason = "line(s) of the test part, since the validation part is the test split";
            skipped.add_many(reason, unused.count(), format!("{} line {first}", list.display()));
        }
        let train =
            (split == Split::Test).then(|| of(Split::Train)).filter(|train| !train.is_empty());
        let part = own_part(&list);
        Ok(Rows { entries: of(split), list, part, train, skipped })
    }

    /// The lines of a list that is called like a part; a column may not contradict that.
    fn named(self, list: &Path, part: Part) -> Result<(Vec<Entry>, Skipped), DataError> {
        let is_other = |other: Part| (other == Part::Train) != (part == Part::Train);
        let other = self.entries.iter().find(|entry| entry.part.is_some_and(is_other));
        match other {
            Some(Entry { line, part: Some(other), .. }) => Err(DataError::malformed(
                list,
                format!("line {line}: its split is {other}, and the list is that of {part}"),
            )),
            _ => Ok((self.entries, self.skipped)),
        }
    }
}

/// Refuses a list whose paths speak of several splits, by folders or names of files, where nothing else
/// divides it.
fn refuse_split_paths(list: &Path, entries: &[Entry]) -> Result<(), DataError> {
    let mut names = SplitNames::default();
    for entry in entries {
        let mut parts = entry.path.rsplit(['/', '\\']);
        let file = Path::new(parts.next().unwrap_or_default()).file_stem().unwrap_or_default();
        let mut of_folder = parts.filter_map(|folder| match naming(folder) {
            Naming::Names(part) => Some(part),
            _ => None,
        });
        let part = of_folder.next_back().or_else(|| part_of_file(&file.to_string_lossy()));
        names.push(&entry.path, part);
    }
    match names.both() {
        None => Ok(()),
        Some([train, held_out]) => Err(DataError::malformed(
            list,
            format!(
                "its images are of several splits by their paths ({train}, {held_out}): write a list for \
                 each split, such as train.csv and test.csv, or add a column split"
            ),
        )),
    }
}

/// Whether a list has a column that tells splits, from its first lines.
fn may_have_parts(list: &Path) -> Result<bool, DataError> {
    // What is wrong with it is found when it is read.
    let table = parse_table(&head(list)?, list, &|_| false);
    Ok(table.is_ok_and(|table| table.parts.is_some()))
}

/// Whether the first line of a file is a header with a column of splits.
pub(crate) fn has_column_of_splits(list: &Path) -> bool {
    let Ok(head) = head(list) else { return false };
    let extension = list.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let Some(Ok(first)) =
        text::decode(&head).ok().and_then(|t| text::records(t, &extension).next())
    else {
        return false;
    };
    first.fields.len() > 1 && first.fields.iter().any(|name| is_column_of_splits(name))
}

/// The first lines of a list.
fn head(list: &Path) -> Result<Vec<u8>, DataError> {
    const HEAD_BYTES: u64 = 1 << 16;
    let mut head = Vec::new();
    let file = fs::File::open(list).map_err(DataError::read(list))?;
    file.take(HEAD_BYTES).read_to_end(&mut head).map_err(DataError::read(list))?;
    if head.len() as u64 == HEAD_BYTES {
        let end = head.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        head.truncate(end);
    }
    Ok(head)
}

fn read(list: &Path, root: &Path, part: Option<Part>) -> Result<Table, DataError> {
    let bytes = fs::read(list).map_err(DataError::read(list))?;
    let places = Places::new(root, part);
    let table = parse_table(&bytes, list, &|path| places.have(path))?;
    table.refuse_numbers_of_splits(list)?;
    if table.entries.is_empty() {
        Err(DataError::empty(list, "the list names none"))
    } else {
        Ok(table)
    }
}

/// Reads the lines of a list, separated as the extension of `path` and its content say.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Entry>, DataError> {
    Ok(parse_table(bytes, path, &|_| false)?.entries)
}

/// The same, where `exists` tells whether a path of the list leads to a file.
fn parse_table(
    bytes: &[u8],
    path: &Path,
    exists: &dyn Fn(&str) -> bool,
) -> Result<Table, DataError> {
    let refuse =
        |(line, reason): text::Fault| DataError::malformed(path, format!("line {line}: {reason}"));
    let text = text::decode(bytes).map_err(|reason| DataError::malformed(path, reason))?;
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let sample = text::records(text, &extension).take(SAMPLE);
    let sample = sample.collect::<Result<Vec<Record<'_>>, _>>().map_err(refuse)?;
    let mut records = text::records(text, &extension);
    let mut table = Table::default();
    if !sample.is_empty() {
        let columns = columns::choose(&sample, exists).map_err(refuse)?;
        table.parts = columns.part.clone().map(|column| Parts {
            column,
            unclear: 0,
            line: 0,
            values: Vec::new(),
        });
        let header = match columns.header {
            Header::None => None,
            _ => records.next().transpose().map_err(refuse)?,
        };
        let label = columns.label.and_then(|label| header.as_ref()?.fields.get(label));
        table.is_label_known = label.is_some_and(|name| classes::label_rank(name).is_some())
            || !columns.flags.is_empty();
        let is_blank = records.separator == Separator::Blank;
        for record in records.by_ref() {
            let record = record.map_err(refuse)?;
            table
                .push(&record, &columns, is_blank)
                .map_err(|reason| refuse((record.line, reason)))?;
        }
        table.note_columns(path, &columns, header.as_ref());
    }
    if let Some((count, first)) = table.pathless {
        let reason = "line(s) without a path";
        table.skipped.add_many(reason, count, format!("{} line {first}", path.display()));
    }
    if let Some((count, first)) = records.comments {
        let reason = "line(s) that begin with # and are comments";
        table.skipped.add_many(reason, count, format!("{} line {first}", path.display()));
    }
    Ok(table)
}

impl Table {
    /// Refuses a list without a header that is called like one of splits (`list_eval_partition.txt`), if its
    /// labels may be numbers of splits.
    fn refuse_numbers_of_splits(&self, list: &Path) -> Result<(), DataError> {
        let stem = list.file_stem().unwrap_or_default().to_string_lossy();
        let may_be_split = |entry: &Entry| matches!(entry.label.as_deref(), Some("0" | "1" | "2"));
        let is_of_splits = !self.is_label_known
            && means_split_file(&stem)
            && (part_of_file(&stem).is_none() || plain(&stem).contains("partition"))
            && !self.entries.is_empty()
            && self.entries.iter().all(may_be_split);
        if !is_of_splits {
            return Ok(());
        }
        let reason = "is called like a list that says which images belong to which split, and has 0, 1 or 2 \
                      behind every path: write train, val or test in their place, or call the list otherwise \
                      if these are classes";
        Err(DataError::malformed(list, reason))
    }

    fn push(
        &mut self,
        record: &Record<'_>,
        columns: &Columns,
        is_blank: bool,
    ) -> Result<(), Cow<'static, str>> {
        let Record { line, fields } = record;
        let (count, width) = (fields.len(), columns.width);
        if width > 2 && count != width {
            return Err(
                format!("{count} fields, where the first line names {width} columns").into()
            );
        }
        if count > width {
            let reason = format!(
                "{count} fields, where {} expected: what contains the separator goes into double quotes",
                if width == 1 { "a path was" } else { "a path and a label were" }
            );
            return Err(reason.into());
        }
        let field = |column: usize| fields.get(column).map_or("", AsRef::as_ref);
        let file = field(columns.path);
        if file.is_empty() {
            self.pathless.get_or_insert((0, *line)).0 += 1;
            return Ok(());
        }
        let flagged = columns.flagged(fields)?;
        let label = columns.label.map(field).or(flagged.as_deref());
        let label = label.filter(|label| meaning(label).is_some());
        if is_blank && label.is_some_and(|label| decode::is_image(Path::new(label))) {
            return Err(columns::LABEL_IS_FILE.into());
        }
        let mut part = None;
        if let Some(parts) = &mut self.parts {
            let value = field(parts.column.column);
            part = parts.column.part(value);
            if part.is_none() {
                parts.line = if parts.unclear == 0 { *line } else { parts.line };
                parts.unclear += 1;
                let value = if value.is_empty() { "(empty)" } else { value };
                if parts.values.len() < VALUES && !parts.values.iter().any(|known| known == value) {
                    parts.values.push(value.to_owned());
                }
            }
        }
        let (path, label) = (file.into(), label.map(Into::into));
        self.entries.push(Entry { line: *line, path, label, part });
        Ok(())
    }

    /// Notes how the columns were read, where that is not plain to see.
    fn note_columns(&mut self, path: &Path, columns: &Columns, header: Option<&Record<'_>>) {
        let list = path.display();
        if columns.header == Header::Guessed
            && let Some(Record { line, fields }) = header
        {
            self.skipped.note(format!(
                "{list}: line {line} ({}) is taken for a header, since it names no file and the lines \
                 after it do",
                fields.join(", ")
            ));
        }
        if let [first, .., last] = columns.flags.as_slice() {
            self.skipped.note(format!(
                "{list}: the columns {} to {} are read as {} classes, of which an image shows those with 1",
                first.1,
                last.1,
                columns.flags.len()
            ));
        }
        if !columns.ignored.is_empty() {
            let what = match columns.label {
                None if columns.flags.is_empty() => {
                    "no column is known to hold labels; ignored columns"
                }
                _ => "ignored columns",
            };
            self.skipped.note(format!("{list}: {what}: {}", columns.ignored.join(", ")));
        }
    }
}

/// What two paths that lead to the same file have in common. A set of ten million files has two that
/// differ and share it once in 400,000 sets, and no more than a note depends on it.
fn fingerprint(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let parts = path.components().filter(|part| *part != Component::CurDir);
    parts.for_each(|part| part.hash(&mut hasher));
    hasher.finish()
}

/// Notes the lines that name the image of an earlier line.
fn note_repeated(skipped: &mut Skipped, list: &Path, entries: &[Entry], place: &Place) {
    let mut known: Vec<(u64, usize)> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| (fingerprint(&place.path(&entry.path)), index))
        .collect();
    known.sort_unstable();
    let repeated = known.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    let (mut count, mut others, mut first) = (0, 0, usize::MAX);
    for pair in repeated {
        count += 1;
        others += usize::from(entries[pair[0].1].label != entries[pair[1].1].label);
        first = first.min(pair[1].1);
    }
    if let Some(entry) = entries.get(first) {
        skipped.note(format!(
            "{}: {count} line(s) name an image that an earlier line names, {others} of them with \
             another label; the first is line {} ({})",
            list.display(),
            entry.line,
            entry.path
        ));
    }
}

/// Why images of a folder of the other split are not read.
const HELD_OUT: &str = "image(s) of a held-out split, which has a folder and no list (give the folder a list, \
                        or give the folders train and val without lists)";

/// A list that was read already.
#[derive(Clone, Copy)]
struct Known<'a> {
    list: &'a Path,
    entries: &'a [Entry],
    place: &'a Place,
}

/// Counts the files in a folder of lists that are neither lists nor named by one. `known` is not read again.
fn unlisted(folder: &Path, root: &Path, known: Option<Known<'_>>) -> Result<Skipped, DataError> {
    let (mut lists, mut has_test) = (Vec::new(), false);
    let mut named = HashSet::new();
    let mut add = |entries: &[Entry], place: &Place| {
        named.extend(entries.iter().map(|entry| fingerprint(&place.path(&entry.path))));
    };
    for list in entries(folder)?.into_iter().filter(|entry| !entry.is_folder) {
        let Some(part) = part_of_list(&list.path) else { continue };
        let divides = if let Some(known) = known.filter(|known| known.list == list.path) {
            add(known.entries, known.place);
            known.entries.iter().any(|entry| entry.part.is_some())
        } else {
            // One that is not read, or not for this split, refuses nothing here.
            let Ok(table) = read(&list.path, root, Some(part)) else { continue };
            let place = choose_place(&list.path, root, Some(part), &table.entries);
            let Some(place) = place.ok().flatten() else { continue };
            add(&table.entries, &place);
            table.parts.is_some()
        };
        has_test |= part != Part::Train || divides;
        lists.push(list);
    }
    let names = lists.iter().map(files::Entry::name).collect::<Vec<String>>().join(", ");
    let tells_several = |path: &Path| {
        naming(&path.file_stem().unwrap_or_default().to_string_lossy()) == Naming::Several
    };
    let is_counted = |path: &Path| {
        lists.iter().any(|list| list.path == path)
            || path.parent() == Some(folder) && is_list(path) && tells_several(path)
    };
    let beside = Beside {
        is_own: &|path| named.contains(&fingerprint(path)) || is_counted(path),
        image_reason: &|path| {
            let Some(top) = path.iter().next().filter(|top| *top != path.as_os_str()) else {
                return format!("image(s) that are not named in {names}");
            };
            let top = top.to_string_lossy();
            if !has_test && part_of_file(&top).is_some_and(|part| part != Part::Train) {
                return HELD_OUT.to_owned();
            }
            format!("image(s) in {top} that are not named in {names}")
        },
        kind: None,
    };
    Ok(beside.count(folder))
}

/// Notes the images of the test split, given first, that are in the train split too.
fn note_shared(skipped: &mut Skipped, splits: [(&[Entry], &Place); 2]) {
    let [test, train] = splits.map(|(entries, place)| {
        let prints = entries.iter().map(|entry| fingerprint(&place.path(&entry.path)));
        prints.collect::<Vec<u64>>()
    });
    let train: HashSet<u64> = train.into_iter().collect();
    let shared = || test.iter().enumerate().filter(|(_, print)| train.contains(print));
    if let Some((index, _)) = shared().next() {
        skipped.note(format!(
            "{} of the {} test images are training images too, so measures on them mean little; the \
             first: {}",
            shared().count(),
            test.len(),
            splits[0].1.path(&splits[0].0[index].path).display()
        ));
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
    fn numbers_of_splits_are_not_trained_on_as_classes() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str, text: &str| {
            let list = folder.path().join(name);
            fs::write(&list, text).unwrap();
            let opened = List::open(&list, None, Split::Train).err();
            opened.map_or(String::new(), |error| error.to_string())
        };
        for index in 0..3 {
            fs::write(folder.path().join(format!("{index}.jpg")), "").unwrap();
        }
        let partition = "0.jpg 0\n1.jpg 1\n2.jpg 2\n";
        for name in ["list_eval_partition.txt", "splits.txt", "split_1.txt"] {
            assert!(open(name, partition).contains("which images belong to which split"), "{name}");
        }
        for (name, text) in [
            ("train_split.txt", partition),
            ("labels.txt", partition),
            ("splits.csv", "path,label\n0.jpg,0\n1.jpg,1\n2.jpg,2\n"),
            ("split_1.txt", "0.jpg 0\n1.jpg 7\n2.jpg 2\n"),
        ] {
            assert_eq!(open(name, text), "", "{name}");
        }
        let words = folder.path().join("split.csv");
        fs::write(&words, "0.jpg,train\n1.jpg,val\n2.jpg,train\n").unwrap();
        let [train, test] =
            [Split::Train, Split::Test].map(|split| List::open(&words, None, split).unwrap());
        assert_eq!((train.len(), test.len(), train.has_labels()), (2, 1, false));
    }

    #[test]
    fn paths_and_labels_are_told_apart() {
        let text =
            "# images\n\na.jpg 3\n \"my cat.png\"\t 'x'\r\nb.jpg\n\"with \"\"quotes\"\".png\"\n";
        let expected = ["3 a.jpg=3", "4 my cat.png='x'", "5 b.jpg=-", "6 with \"quotes\".png=-"];
        assert_eq!(entries("some.txt", text), expected);
        let text =
            "\u{feff}Path,Label\na b.jpg,the label\n\"a,b.jpg\" , 2\nc.jpg,\n#d.jpg,1\ne.jpg\n";
        let expected =
            ["2 a b.jpg=the label", "3 a,b.jpg=2", "4 c.jpg=-", "5 #d.jpg=1", "6 e.jpg=-"];
        assert_eq!(entries("some.csv", text), expected);
        assert_eq!(entries("x.tsv", "image\ta\nb.jpg\tc,d\n"), ["2 b.jpg=c,d"]);
        assert_eq!(entries("x.csv", "id,label,x\n1,-1,y\n2,,z\n"), ["2 1=-", "3 2=-"]);
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
                "line 1: the label looks like a file: the path comes first, and one with spaces goes",
            ),
            ("l.txt", "\"a.jpg 1\n", "line 1: a quote is not closed"),
            ("l.txt", "\"a.jpg\"x 1\n", "line 1: text follows a closing quote"),
            ("l.csv", "a.jpg,1,2\n", "line 1: 3 fields"),
        ] {
            let message = refusal(name, text);
            assert!(message.contains(expected), "{message}");
        }
        for (name, text, expected) in [
            (
                "l.csv",
                "path,label,x\na.jpg,1,2\nb.jpg,1\n",
                "line 3: 2 fields, where the first line",
            ),
            ("l.csv", "path\na.jpg,1\n", "line 2: 2 fields, where a path was expected"),
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
        let root = folder.path().join("lists/x");
        fs::create_dir(&root).unwrap();
        let message = List::open(&list, Some(&root), Split::Train).err().unwrap().to_string();
        assert!(
            message.contains("all.txt: none of its 2 images is there; line 1 names "),
            "{message}"
        );
        assert!(
            message.ends_with(
                "lists/x/../a.png: set root to the folder that the paths are relative to (data.root in a \
                 recipe, or pretrain --set data.root=FOLDER)"
            )
        );
        fs::create_dir(root.join("b")).unwrap();
        fs::copy(folder.path().join("a.png"), root.join("b/c.png")).unwrap();
        let set = List::open(&list, Some(&root), Split::Train).unwrap();
        assert!(set.name(1).ends_with("lists/x/b/c.png"), "{}", set.name(1));
        assert_eq!(set.image(1).unwrap().rgb()[..3], [9, 8, 7]);
        assert!(!List::has_split(&list, Split::Test).unwrap());
        let message = List::open(&list, None, Split::Test).err().unwrap().to_string();
        assert!(message.contains("all.txt has no test split: give a folder with"), "{message}");
    }

    #[test]
    fn images_of_a_list_may_show_several_classes() {
        let files = folder(&[
            ("train.csv", "path,label\na.png,dog|cat\nb.png,fox\nc.png,|\nd.png,\n"),
            ("test.csv", "e.png,fox | cat\nf.png,dog\n"),
            ("a.png", ""),
            ("e.png", ""),
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
        let files = folder(&[
            ("train.csv", "a.png,b\nb.png,a\n"),
            ("val.txt", "c.png b\n"),
            ("a.png", ""),
            ("c.png", ""),
        ]);
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
        assert!(message.contains("train.txt: is there beside "), "{message}");
        fs::remove_file(files.path().join("train.csv")).unwrap();
        let message = open(Split::Train).err().unwrap().to_string();
        assert!(message.contains("train.txt: the list names none"), "{message}");
        let empty = folder(&[]);
        let message = List::open(empty.path(), None, Split::Train).err().unwrap().to_string();
        assert!(message.contains("looked for lists named train, val or test"), "{message}");
    }

    /// The images of a split as `path=class`, relative to the folder.
    fn content(folder: &TempDir, list: &str, split: Split) -> Result<Vec<String>, String> {
        let set = List::open(&folder.path().join(list), None, split).map_err(|e| e.to_string())?;
        let show = |index: usize| {
            let name = set.name(index);
            let name = Path::new(&name).strip_prefix(folder.path()).unwrap().display().to_string();
            let class = set.label(index).map_or("-", |label| set.classes()[label].as_str());
            format!("{name}={class}")
        };
        Ok((0..set.len()).map(show).collect())
    }

    fn notes(folder: &TempDir, list: &str, split: Split) -> Vec<String> {
        let set = List::open(&folder.path().join(list), None, split).unwrap();
        let skipped = set.skipped();
        let lines = skipped.reasons().iter().map(ToString::to_string);
        let all = lines.chain(skipped.notes().iter().cloned());
        all.map(|line| line.replace(&format!("{}/", folder.path().display()), "")).collect()
    }

    #[test]
    fn a_list_whose_paths_tell_splits_is_refused() {
        let images = [("train/0.png", ""), ("test/0.png", "")];
        let text = "path,label\ntrain/0.png,a\ntest/0.png,a\n";
        let files = folder(&[&images[..], &[("all.csv", text), ("train.csv", text)]].concat());
        let error = content(&files, "all.csv", Split::Train).unwrap_err();
        let expected = "of several splits by their paths (train/0.png, test/0.png)";
        assert!(error.contains(expected), "{error}");
        let text = "filename,emotion\ntrain_1.png,2\ntest_1.png,0\n";
        let flat = folder(&[("train_1.png", ""), ("test_1.png", ""), ("labels.csv", text)]);
        let error = content(&flat, "labels.csv", Split::Train).unwrap_err();
        assert!(error.contains("(train_1.png, test_1.png)"), "{error}");
        let split = "path,split\ntrain/0.png,train\ntest/0.png,test\n";
        let files = folder(&[&images[..], &[("all.csv", split)]].concat());
        assert_eq!(content(&files, "all.csv", Split::Train).unwrap(), ["train/0.png=-"]);
    }

    #[test]
    fn a_header_is_no_image_and_labels_count_by_number() {
        let images: Vec<(&str, &str)> =
            ["img/0.png", "img/2.png", "img/10.png"].iter().map(|image| (*image, "")).collect();
        for header in
            ["image_path,label", "img,label", "filename,category", "id_code,diagnosis", "x,y"]
        {
            let text = format!("{header}\nimg/0.png,0\nimg/2.png,2\nimg/10.png,10\n");
            let files = folder(&[&images[..], &[("a.csv", text.as_str())]].concat());
            let found = content(&files, "a.csv", Split::Train).unwrap();
            assert_eq!(found, ["img/0.png=0", "img/2.png=2", "img/10.png=10"], "{header}");
            let set = List::open(&files.path().join("a.csv"), None, Split::Train).unwrap();
            assert_eq!(set.classes().len(), 11);
            let expected = "a.csv: whole numbers count the classes from 0, so there are 11 classes, and images \
                 show 3 of them: if the numbers are identifiers, number the classes without gaps, or \
                 name them, such as c10";
            assert_eq!(notes(&files, "a.csv", Split::Train), [expected], "{header}");
        }
        let flags = "filename, cat, dog, fox\na.png,1,0,0\nb.png,0,1.0,1\n0.png,0,0,0\n1.png,,,\n";
        let files = folder(&[("a.png", ""), ("_classes.csv", flags)]);
        let set = List::open(&files.path().join("_classes.csv"), None, Split::Train).unwrap();
        let present = |index| set.labels(index).map(|labels| labels.present.to_vec());
        assert_eq!(set.classes(), ["cat", "dog", "fox"]);
        let expected = [Some(vec![0]), Some(vec![1, 2]), Some(vec![]), None];
        assert_eq!([0, 1, 2, 3].map(present), expected);
        let expected = "_classes.csv: the columns cat to fox are read as 3 classes, of which an image shows \
                        those with 1";
        assert_eq!(notes(&files, "_classes.csv", Split::Train), [expected]);
        let one = "img,cat,dog\na.png,1,0\na.png,0,1\n";
        let files = folder(&[
            ("a.png", ""),
            ("b.png", ""),
            ("a.csv", one),
            ("b.csv", "img,x,z\na.png,2,1\n"),
        ]);
        assert_eq!(content(&files, "a.csv", Split::Train).unwrap(), ["a.png=cat", "a.png=dog"]);
        assert_eq!(content(&files, "b.csv", Split::Train).unwrap(), ["a.png=-"]);
        let files =
            folder(&[("a.png", ""), ("b.png", ""), ("a.csv", "slide,grade\na.png,lo\nb.png,hi\n")]);
        assert_eq!(content(&files, "a.csv", Split::Train).unwrap(), ["a.png=lo", "b.png=hi"]);
        let expected = "a.csv: line 1 (slide, grade) is taken for a header, since it names no file and the \
                        lines after it do";
        assert_eq!(notes(&files, "a.csv", Split::Train), [expected]);
    }

    #[test]
    fn minus_one_and_what_is_empty_are_no_label() {
        let images: Vec<(String, &str)> = (0..5).map(|n| (format!("{n}.png"), "")).collect();
        let images: Vec<(&str, &str)> =
            images.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        for text in [
            "path,label\n0.png,-1\n1.png,0\n2.png,10\n3.png,2\n4.png,\n",
            "path,label\n0.png,-1.0\n1.png,0.0\n2.png,10.0\n3.png,2.0\n4.png,NaN\n",
        ] {
            let files = folder(&[&images[..], &[("a.csv", text)]].concat());
            let found = content(&files, "a.csv", Split::Train).unwrap();
            assert_eq!(found, ["0.png=-", "1.png=0", "2.png=10", "3.png=2", "4.png=-"]);
        }
    }

    #[test]
    fn a_line_without_a_path_is_counted_and_the_others_are_read() {
        for (name, text) in
            [("t.csv", "a.jpg,1\n,2\nb.jpg,3\n"), ("t.txt", "a.jpg 1\n\"\" 2\nb.jpg 3\n")]
        {
            assert_eq!(entries(name, text), ["1 a.jpg=1", "3 b.jpg=3"]);
            let table = parse_table(text.as_bytes(), Path::new(name), &|_| false).unwrap();
            let reasons = table.skipped.reasons().iter().map(ToString::to_string);
            let expected = format!("skipped 1 line(s) without a path: {name} line 2");
            assert_eq!(reasons.collect::<Vec<_>>(), [expected]);
        }
        assert_eq!(entries("t.csv", "id,label\n1,a\n,b\n"), ["2 1=a"]);
        let files = folder(&[("train.txt", "\"\" 1\n"), ("0.png", "")]);
        assert!(List::open(files.path(), None, Split::Train).is_err());
    }

    #[test]
    fn a_comment_of_a_text_list_may_be_indented() {
        assert_eq!(entries("t.txt", "a.jpg 1\n  # b.jpg 2\n\t#c.jpg\n"), ["1 a.jpg=1"]);
        assert_eq!(entries("t.csv", " #a.jpg,1\n"), ["1 #a.jpg=1"]);
    }

    #[test]
    fn images_that_no_list_of_a_folder_names_are_counted() {
        let files = folder(&[
            ("train.csv", "id,label\n0,a\n1,b\n"),
            ("val.csv", "id,label\n2,a\n"),
            ("train_images/0.png", ""),
            ("train_images/1.png", ""),
            ("train_images/2.png", ""),
            ("train_images/3.png", ""),
            ("train_images/old/4.png", ""),
            ("train_images/x.heic", ""),
            ("lone.png", ""),
            ("README.md", ""),
        ]);
        let expected = [
            "skipped 1 other file(s): README.md",
            "skipped 1 image(s) that are not named in train.csv, val.csv: lone.png",
            "skipped 2 image(s) in train_images that are not named in train.csv, val.csv; the first: \
             train_images/3.png",
            "skipped 1 image(s) of a kind that is not read (.heic): train_images/x.heic",
        ];
        let skipped = |path: &Path, split| {
            let set = List::open(path, None, split).unwrap();
            let reasons = set.skipped().reasons().iter().map(ToString::to_string);
            let root = format!("{}/", files.path().display());
            reasons.map(|reason| reason.replace(&root, "")).collect::<Vec<String>>()
        };
        assert_eq!(skipped(files.path(), Split::Train), expected);
        assert_eq!(skipped(files.path(), Split::Test), [""; 0]);
        // A list that is given itself names what is wanted.
        assert_eq!(skipped(&files.path().join("train.csv"), Split::Train), [""; 0]);
    }

    #[test]
    fn tables_of_competitions_lead_to_their_images() {
        let files = folder(&[
            ("train.csv", "id,label,source\n7f,cat,web\n8e,dog,book\n"),
            ("test.csv", "id\n9d\n"),
            ("sample_submission.csv", "id,label\n9d,cat\n"),
            ("train_images/7f.png", ""),
            ("train_images/8e.png", ""),
            ("test_images/9d.png", ""),
        ]);
        let train = content(&files, "", Split::Train).unwrap();
        assert_eq!(train, ["train_images/7f.png=cat", "train_images/8e.png=dog"]);
        assert_eq!(content(&files, "", Split::Test).unwrap(), ["test_images/9d.png=-"]);
        assert_eq!(
            notes(&files, "", Split::Train),
            [
                "skipped 1 other file(s): sample_submission.csv",
                "train.csv: ignored columns: source",
                "train.csv: paths are completed: 7f is read from train_images/7f.png",
            ]
        );
    }

    #[test]
    fn a_list_is_completed_from_the_folder_of_its_own_split() {
        let files = folder(&[
            ("test.csv", "id\n0.png\n"),
            ("labels.csv", "id,label\n0.png,cat\n"),
            ("train/0.png", ""),
            ("test/0.png", ""),
        ]);
        let found = |list| content(&files, list, Split::Train);
        assert_eq!(found("test.csv").unwrap(), ["test/0.png=-"]);
        let message = found("labels.csv").unwrap_err();
        assert!(
            message.contains("labels.csv: a file that it names is in the folders of two splits, "),
            "{message}"
        );
        assert!(message.contains("train/0.png and ") && message.contains("test/0.png: put"));
    }

    #[test]
    fn images_of_a_held_out_folder_without_a_list_are_counted() {
        let files = folder(&[
            ("train.csv", "id,label\n0.png,a\n1.png,b\n"),
            ("train/0.png", ""),
            ("train/1.png", ""),
            ("val/a/2.png", ""),
            ("val/b/3.png", ""),
        ]);
        let notes = notes(&files, "", Split::Train);
        let expected = "skipped 2 image(s) of a held-out split, which has a folder and no list";
        assert!(notes[0].starts_with(expected), "{notes:?}");
    }

    #[test]
    fn a_list_of_which_nothing_is_there_is_refused() {
        for (text, hint) in [
            ("a.png,1\nb.png,2\n", "a.png: set root to the folder that the paths are relative to"),
            ("/data/a.png,1\n", "names /data/a.png: the list has paths of another machine"),
            ("C:\\x\\a.png,1\n", "C:\\x\\a.png: the list has paths of another machine"),
            ("https://x.org/a.png,1\n", "https://x.org/a.png: download the images"),
        ] {
            let files = folder(&[("a.csv", text)]);
            let message = content(&files, "a.csv", Split::Train).unwrap_err();
            assert!(message.contains("is there; line 1 names "), "{message}");
            assert!(message.contains(hint), "{message}");
        }
        let files = folder(&[
            ("a.csv", "id,label\n0,a\n1,b\n"),
            ("images/00000.png", ""),
            ("images/00001.png", ""),
        ]);
        let message = content(&files, "a.csv", Split::Train).unwrap_err();
        assert!(
            message.contains("images holds 00000.png: the list lost leading zeros"),
            "{message}"
        );
        // One that is missing among others is found out later.
        let files = folder(&[("a.csv", "a.png,1\nb.png,2\n"), ("b.png", "")]);
        let set = List::open(&files.path().join("a.csv"), None, Split::Train).unwrap();
        assert!(set.image(0).is_err() && set.image(1).is_ok());
    }

    #[test]
    fn lists_of_a_folder_are_known_by_every_word_of_splits() {
        for (train, test) in [
            ("train.txt", "val.txt"),
            ("Train.csv", "Valid.csv"),
            ("training.txt", "TESTING.csv"),
            ("train_list.txt", "val_list.txt"),
            ("trainLabels.csv", "devLabels.csv"),
            ("train_images.tsv", "evaluation-set.tsv"),
        ] {
            let files =
                folder(&[(train, "a.png\n"), (test, "b.png\n"), ("a.png", ""), ("b.png", "")]);
            fs::write(files.path().join("classes.txt"), "cat\n").unwrap();
            assert_eq!(content(&files, "", Split::Train).unwrap(), ["a.png=-"], "{train}");
            assert_eq!(content(&files, "", Split::Test).unwrap(), ["b.png=-"], "{test}");
            assert!(List::is_at(files.path()));
        }
        let images = [("a.png", ""), ("b.png", "")];
        let lists = [("trainval.txt", "a.png\nb.png\n"), ("test.txt", "b.png\n")];
        let files = folder(&[&images[..], &lists].concat());
        let message = content(&files, "", Split::Train).unwrap_err();
        assert!(
            message.contains("trainval.txt tells several splits; give the list itself"),
            "{message}"
        );
        assert!(!List::is_at(files.path()));
        fs::write(files.path().join("train.txt"), "a.png\n").unwrap();
        fs::write(files.path().join("val.txt"), "b.png\n").unwrap();
        let expected = "skipped 1 list(s) whose names tell several splits: trainval.txt";
        assert_eq!(notes(&files, "", Split::Train), [expected]);
        let expected = "skipped 1 list(s) of the test part, since the validation part is the test split: \
                        test.txt";
        assert_eq!(notes(&files, "", Split::Test)[0], expected);
        // Notes beside images are no lists.
        let files = folder(&[("a.png", ""), ("train_log.txt", "epoch 1\n")]);
        assert!(!List::is_at(files.path()));
    }

    #[test]
    fn a_column_divides_a_list_into_splits() {
        let images = [("a.png", ""), ("b.png", ""), ("c.png", ""), ("d.png", "")];
        let with = |text: &str| folder(&[&images[..], &[("a.csv", text)]].concat());
        for text in [
            "path,label,split\na.png,x,train\nb.png,y,val\nc.png,y,train\n",
            "path,label,Usage\na.png,x,Training\nb.png,y,PublicTest\nc.png,y,Training\n",
            "fname,label,is_valid\na.png,x,False\nb.png,y,True\nc.png,y,False\n",
            "fname,label,data set\na.png,x,train\nb.png,y,test\nc.png,y,train\n",
        ] {
            let files = with(text);
            assert_eq!(content(&files, "a.csv", Split::Train).unwrap(), ["a.png=x", "c.png=y"]);
            assert_eq!(content(&files, "a.csv", Split::Test).unwrap(), ["b.png=y"]);
            for split in [Split::Train, Split::Test] {
                assert!(List::has_split(&files.path().join("a.csv"), split).unwrap());
            }
        }
        let files = with("path,split\na.png,train\nb.png,val\nc.png,test\nd.png,extra\n");
        assert_eq!(content(&files, "a.csv", Split::Train).unwrap(), ["a.png=-"]);
        assert_eq!(content(&files, "a.csv", Split::Test).unwrap(), ["b.png=-"]);
        let expected = "skipped 1 line(s) of no known split (column split: extra): a.csv line 5";
        assert_eq!(notes(&files, "a.csv", Split::Train), [expected]);
        let expected = "skipped 1 line(s) of the test part, since the validation part is the test \
                        split: a.csv line 4";
        assert_eq!(notes(&files, "a.csv", Split::Test), [expected]);

        for text in [
            "path,label,fold\na.png,x,0\nb.png,y,1\n",
            "path,label,set\na.png,x,A\nb.png,y,B\n",
            "image_id,partition\na.png,0\nb.png,1\n",
        ] {
            let message = content(&with(text), "a.csv", Split::Train).unwrap_err();
            assert!(message.contains("a.csv: line 2: its column "), "{message}");
            assert!(
                message.contains("which are no words of splits such as train and val"),
                "{message}"
            );
        }
        let files = with("path,split\na.png,train\n");
        assert!(!List::has_split(&files.path().join("a.csv"), Split::Test).unwrap());
        let message = content(&files, "a.csv", Split::Test).unwrap_err();
        assert!(
            message.contains("has no test split: no line of the list belongs to it"),
            "{message}"
        );
        let files = folder(&[
            ("train.csv", "path,label,split\na.png,x,train\nb.png,y,val\n"),
            ("val.csv", "path,label\nb.png,y\n"),
            ("a.png", ""),
            ("b.png", ""),
        ]);
        let message = content(&files, "", Split::Train).unwrap_err();
        assert!(
            message.contains("train.csv: line 3: its split is val, and the list is that of train")
        );
    }

    #[test]
    fn images_that_are_listed_twice_are_noted() {
        let files = folder(&[
            ("train.csv", "a.png,x\nb.png,y\n./a.png,x\nb.png,x\n"),
            ("val.csv", "./b.png,y\nc.png,x\n"),
            ("a.png", ""),
            ("b.png", ""),
            ("c.png", ""),
        ]);
        let expected = "train.csv: 2 line(s) name an image that an earlier line names, 1 of them with \
                        another label; the first is line 3 (./a.png)";
        assert_eq!(notes(&files, "", Split::Train), [expected]);
        let [note] = &notes(&files, "", Split::Test)[..] else { panic!("one note") };
        assert!(note.starts_with("1 of the 2 test images are training images too"), "{note}");
        assert_eq!(List::open(files.path(), None, Split::Train).unwrap().len(), 4);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for name in ["l.txt", "l.csv", "l.tsv"] {
                let _ = parse(&bytes, Path::new(name));
            }
        }

        #[test]
        fn quoted_fields_come_back(path in "[^\0]{1,20}", label in "[^\0]{1,20}") {
            let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            for (name, separator) in [("l.txt", " "), ("l.csv", ","), ("l.tsv", "\t")] {
                prop_assume!(!decode::is_image(Path::new(&label)));
                // The first line could be taken for a header.
                let text =
                    format!("x.jpg{separator}c\n{}{separator}{}\n", quote(&path), quote(&label));
                let entries = parse(text.as_bytes(), Path::new(name)).unwrap();
                prop_assert_eq!(&*entries[1].path, path.as_str());
                let expected = Some(label.as_str()).filter(|label| meaning(label).is_some());
                prop_assert_eq!(entries[1].label.as_deref(), expected);
            }
        }
    }
}
