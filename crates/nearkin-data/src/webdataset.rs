//! WebDataset: samples in the order of tar files, the shards.
//!
//! Sets of millions of images are often kept as some hundred tar files, because file systems and
//! networks prefer few large files. The rules are those of the library of that name where it has one:
//!
//! - A member's key is its path up to the first dot of the file name, and its kind the last extension:
//!   `a.jpg` and `a.1.jpg` have the key `a` and are images. Members with the same key are a sample,
//!   wherever in the shard they are.
//! - A sample has one image. A plain one (`a.jpg`) goes before others (`a.mask.png`), and of several plain
//!   ones a JPEG before the other kinds. Several images of which none is plain are not read, since names
//!   with dots in them are joined that way too.
//! - Its label stands in `a.cls` (or `.label`, `.class`, `.cls.txt`), or in `a.json` under a usual name
//!   (`label`, `cls`, `class`, `category`, ...). Without these in the whole set, `a.txt` is the label if all
//!   of them are one short line, and either without spaces or with half as many different ones as samples:
//!   others are descriptions. Labels are read as [everywhere](crate).
//! - Whatever else is in a shard is counted by its kind, and so is each image or label that cannot be
//!   used. A label that cannot be read costs that label alone.
//! - A shard that is cut is read as far as it is whole, with a note.
//!
//! Other readers stream shards and shuffle within a buffer. Here the headers of all shards are read
//! once, which tells where every image lies; then any image can be read by its position, and a set
//! in shards shuffles as well as one in folders: no order of shards, threads or processes plays a part,
//! and each process takes its images from the plan of the epoch. This is why shards must not be
//! compressed.
//!
//! What is kept of a sample is 16 bytes and its key, so 25 bytes with the usual nine digits: 250 MB for
//! ten million samples, and 8 bytes each for the permutation of the epoch. While a shard is indexed, its
//! own samples take some 250 bytes each besides.
//!
//! A path is a shard, a pattern of shards such as `train-{000..012}.tar`, or a folder of shards. Their
//! split is told by their names and folders: `train-000.tar` and `valid-000.tar`, or `train/` and
//! `validation/`. Shards beside these whose names tell no split are counted and left out. The shards may
//! be in the folder itself, or in a folder within it at any depth: the one closest to it, and `data` rather
//! than its neighbors. Shards of which some are missing or there twice, as `-of-00002` tells, are refused.
//! Everything beside the shards is counted.

mod archive;
mod samples;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use self::archive::BLOCK_BYTES;
pub use self::samples::Sample;
use self::samples::{Samples, Text};
use crate::classes::{Fault, Labels, Scheme, Written};
use crate::content::GIT_LFS_POINTER;
use crate::decode::{EXTENSIONS, decode};
use crate::split_files::{self, FileKind, SplitFiles};
use crate::splits::{Naming, Part, SplitNames, means_images, naming, part_of_file};
use crate::{DataError, Image, ImageSet, Skipped, Split};

const SHARDS: FileKind = FileKind { extension: "tar", noun: "shard" };
/// A pattern of more shards is a mistake.
const MAX_SHARDS: usize = 100_000;
/// Samples after which texts are known to be descriptions.
const ENOUGH_TEXTS: usize = 1000;

/// What is kept of a sample, of which there may be millions.
struct Place {
    /// Where the image begins in its shard, in blocks of tar.
    block: u32,
    bytes: u32,
    /// Where the key ends among those of its shard; it begins where the one before ends.
    key_end: u32,
}

/// A shard and what its samples share.
struct Shard {
    path: PathBuf,
    /// The number of its first sample among all.
    first: usize,
    /// The keys of its samples, end to end.
    keys: String,
}

/// The images of one split, read from their shards when asked for.
pub struct WebDataset {
    shards: Vec<Shard>,
    places: Vec<Place>,
    labels: Labels,
    classes: Vec<String>,
    skipped: Skipped,
}

impl WebDataset {
    /// Reads the headers of a split's shards, and for the test split those of the train split too,
    /// whose classes count.
    ///
    /// [`DataError::Request`] if there are no shards of the split, [`DataError::Empty`] if they
    /// hold no images, [`DataError::Malformed`] with the shard that is not a tar archive, or whose split
    /// is not clear.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        let files = shards(path)?;
        let own = files.of(split);
        if own.is_empty() {
            let path = path.display();
            return Err(DataError::Request(format!(
                "{path} has no {split} split: give a folder of shards named train and val"
            )));
        }
        let mut set = Self {
            shards: Vec::new(),
            places: Vec::new(),
            labels: Labels::One(Vec::new()),
            classes: Vec::new(),
            skipped: files.skipped_in(path, split, SHARDS),
        };
        let (mut labels, mut remarks) = (Found::default(), Remarks::default());
        let (mut folders, mut names, mut keys) =
            (Folders::default(), Names::default(), BTreeSet::new());
        for path in own {
            let mut samples = index_file(path)?;
            labels.push(&samples.found);
            refuse_other_part(path, &samples, split)?;
            if samples.found.is_empty() {
                set.skipped.add("shard(s) without an image", path.display().to_string());
            }
            keys.append(&mut samples.keys);
            names.push(path, &samples.found);
            remarks.push(path, &mut samples);
            folders.push(&samples.found);
            set.push(path, samples.found)?;
        }
        if split == Split::Train && files.of(Split::Test).is_empty() {
            names.refuse_splits(path)?;
        }
        set.places.shrink_to_fit();
        folders.refuse_splits(path)?;
        let mut train = Found::default();
        if split == Split::Test {
            for path in &files.train {
                train.push(&index_file(path)?.found);
            }
        }
        let from = train.source().or_else(|| labels.source());
        remarks.tell(&mut set.skipped, from);
        if set.places.is_empty() {
            return Err(set.nothing(path));
        }
        let mut set = set.number(&labels.written(from), &train.written(from))?;
        if set.classes.is_empty() {
            let note_of_keys = (!keys.is_empty()).then(|| {
                let shown: Vec<String> = keys.into_iter().take(NAMED).collect();
                format!(
                    "no key of the .json members is known to hold labels; they have {}: write the label \
                     under the key label",
                    shown.join(", ")
                )
            });
            let notes = [folders.note(), names.note(), note_of_keys];
            notes.into_iter().flatten().for_each(|note| set.skipped.note(note));
        }
        Ok(set)
    }

    /// The error for shards without images.
    fn nothing(&self, path: &Path) -> DataError {
        let mut reason = format!("looked for members that end in {}", EXTENSIONS.join(", "));
        let skipped = self.skipped.reasons().iter().map(ToString::to_string);
        for line in skipped.chain(self.skipped.notes().iter().cloned()) {
            reason = format!("{reason}; {line}");
        }
        DataError::empty(path, reason)
    }

    /// Numbers the labels as those of the train split ask for.
    fn number(mut self, own: &Written, train: &Written) -> Result<Self, DataError> {
        let fault = |set: &Self, Fault { image, reason }| {
            DataError::malformed(&set.place_name(image), reason)
        };
        let scheme =
            Scheme::from_labels(own, Some(train), None).map_err(|error| fault(&self, error))?;
        self.labels = scheme.number(own).map_err(|error| fault(&self, error))?;
        self.classes = scheme.classes();
        if let Some(note) = scheme.note() {
            self.skipped.note(note);
        }
        Ok(self)
    }

    /// Appends the samples of a shard.
    fn push(&mut self, path: &Path, samples: Vec<Sample>) -> Result<(), DataError> {
        let first = self.places.len();
        let mut keys = String::with_capacity(samples.iter().map(|sample| sample.key.len()).sum());
        for Sample { key, offset, bytes, .. } in samples {
            keys.push_str(&key);
            let small = |number: u64| {
                u32::try_from(number).map_err(|_| {
                    DataError::malformed(path, "is larger than 2 TiB, or its names than 4 GiB")
                })
            };
            self.places.push(Place {
                block: small(offset / BLOCK_BYTES)?,
                bytes: small(bytes)?,
                key_end: small(keys.len() as u64)?,
            });
        }
        self.shards.push(Shard { path: path.to_owned(), first, keys });
        Ok(())
    }

    /// Whether a file is a shard, a folder holds some, or `path` is a pattern of some, told by names.
    pub(crate) fn is_at(path: &Path) -> bool {
        if path.is_dir() {
            // Opening a set whose splits are not clear says so.
            return matches!(shards(path), Ok(_) | Err(DataError::Malformed { .. }));
        }
        SHARDS.is(path) && (path.exists() || path.to_string_lossy().contains('{'))
    }

    /// Whether there are shards of the split.
    pub fn has_split(path: &Path, split: Split) -> Result<bool, DataError> {
        Ok(!shards(path)?.of(split).is_empty())
    }

    fn shard(&self, index: usize) -> &Shard {
        let after = self.shards.partition_point(|shard| shard.first <= index);
        &self.shards[after.saturating_sub(1)]
    }

    fn place_name(&self, index: usize) -> PathBuf {
        let shard = self.shard(index);
        let begin = if index == shard.first { 0 } else { self.places[index - 1].key_end as usize };
        shard.path.join(&shard.keys[begin..self.places[index].key_end as usize])
    }
}

impl ImageSet for WebDataset {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        let place = &self.places[index];
        let shard = &self.shard(index).path;
        // Opened anew each time: there may be more shards than a process may hold open.
        let file = File::open(shard).map_err(DataError::read(shard))?;
        let mut bytes = vec![0; place.bytes as usize];
        let offset = u64::from(place.block) * BLOCK_BYTES;
        file.read_exact_at(&mut bytes, offset).map_err(DataError::read(shard))?;
        decode(&bytes, &self.place_name(index))
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.labels.label(index)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        self.place_name(index).display().to_string()
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

/// Folders that a note names.
const NAMED: usize = 3;
/// More folders than this are not kept.
const MOST_FOLDERS: usize = 1000;

/// The folders in which members with an image lie.
#[derive(Debug, Default)]
struct Folders {
    /// The first folder that names each part.
    parts: BTreeMap<Part, String>,
    /// Those directly above images.
    parents: BTreeSet<String>,
}

impl Folders {
    fn push(&mut self, samples: &[Sample]) {
        let mut before = "";
        for Sample { key, .. } in samples {
            let Some((folder, _)) = key.rsplit_once('/').filter(|(folder, _)| *folder != before)
            else {
                continue;
            };
            before = folder;
            let mut names = folder.split('/');
            for name in names.clone() {
                if let Naming::Names(part) = naming(name) {
                    self.parts.entry(part).or_insert_with(|| name.to_owned());
                }
            }
            if self.parents.len() < MOST_FOLDERS {
                self.parents.extend(names.next_back().map(str::to_owned));
            }
        }
    }

    /// Refuses a packed folder of images: its held-out part would be trained on.
    fn refuse_splits(&self, path: &Path) -> Result<(), DataError> {
        let held_out = self.parts.iter().find(|(part, _)| **part != Part::Train);
        let (Some(train), Some((_, held_out))) = (self.parts.get(&Part::Train), held_out) else {
            return Ok(());
        };
        Err(DataError::malformed(
            path,
            format!(
                "members lie in folders {train}/ and {held_out}/: this is a packed image folder; unpack \
                 it and give the folder"
            ),
        ))
    }

    /// What to note where no member has a label, and folders may have been meant as classes.
    fn note(&self) -> Option<String> {
        let is_word = |name: &&String| {
            let is_piece = !name.contains(char::is_alphabetic) || means_images(name);
            !is_piece && naming(name) == Naming::Nothing
        };
        let words: Vec<&str> = self.parents.iter().filter(is_word).map(String::as_str).collect();
        let shown = words[..words.len().min(NAMED)].join(", ");
        let more = if words.len() > NAMED { ", ..." } else { "" };
        (words.len() > 1).then(|| {
            format!(
                "no member has a label, and members lie in several folders ({shown}{more}): if these \
                 are classes, unpack the shards and give the folder"
            )
        })
    }
}

/// What the names of members say that nothing else does.
#[derive(Debug, Default)]
struct Names {
    splits: SplitNames,
    shards: usize,
    /// Shards whose members are called like them, as where each holds a class.
    like_members: usize,
}

impl Names {
    fn push(&mut self, path: &Path, samples: &[Sample]) {
        /// Names of a shard that are looked at.
        const SAMPLE: usize = 64;
        let step = samples.len().div_ceil(SAMPLE).max(1);
        let names = || {
            let keys = samples.iter().step_by(step).map(|sample| &*sample.key);
            keys.map(|key| key.rsplit_once('/').map_or(key, |(_, name)| name))
        };
        names().for_each(|name| self.splits.push(name, part_of_file(name)));
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_word = stem.contains(char::is_alphabetic) && naming(&stem) == Naming::Nothing;
        let is_like =
            is_word && !samples.is_empty() && names().all(|name| name.starts_with(&*stem));
        self.shards += 1;
        self.like_members += usize::from(is_like);
    }

    /// Refuses members that tell splits by their names where no shard does.
    fn refuse_splits(&self, path: &Path) -> Result<(), DataError> {
        match self.splits.both() {
            None => Ok(()),
            Some([train, held_out]) => Err(DataError::malformed(
                path,
                format!(
                    "its members tell splits by their names ({train}, {held_out}), and no shard does: \
                     write shards for each split, called like train-000000.tar and test-000000.tar"
                ),
            )),
        }
    }

    /// What to note where no member has a label.
    fn note(&self) -> Option<String> {
        (self.shards > 1 && self.like_members == self.shards).then(|| {
            "no member has a label, and all are called like their shards: if each shard holds a class, \
             unpack each into a folder of its name and give the folder above them"
                .to_owned()
        })
    }
}

/// Where the labels of a set stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LabelSource {
    /// In files of labels and in JSON.
    Labels,
    /// In text files.
    Texts,
}

/// The labels that were found in the shards of a split.
#[derive(Debug, Default)]
struct Found {
    labels: Written,
    texts: Written,
    /// Text files of samples with an image.
    text_files: usize,
    /// Whether the texts are known to be no labels; they are then not kept.
    has_prose: bool,
}

impl Found {
    fn push(&mut self, samples: &[Sample]) {
        for sample in samples {
            self.labels.push(sample.label.as_deref());
            self.text_files += usize::from(sample.text != Text::None);
            match &sample.text {
                _ if self.has_prose => {}
                Text::None => self.texts.push(None),
                Text::Line(line) => self.texts.push(Some(line)),
                Text::Prose => self.has_prose = true,
            }
        }
        let is_enough = self.text_files >= ENOUGH_TEXTS && !self.are_words();
        if self.has_prose || self.labels.has_words() || is_enough {
            self.has_prose = self.text_files > 0;
            self.texts = Written::default();
        }
    }

    /// Whether texts are words or repeat, as labels do and descriptions do not.
    fn are_words(&self) -> bool {
        let has_spaces = |word: &str| word.contains(char::is_whitespace);
        !self.texts.words().any(has_spaces) || 2 * self.texts.words().count() <= self.text_files
    }

    /// Where the labels are; `None` if there is nothing to tell it by.
    fn source(&self) -> Option<LabelSource> {
        if self.labels.has_words() || self.has_prose {
            return Some(LabelSource::Labels);
        }
        match (self.texts.has_words(), self.are_words()) {
            (false, _) => None,
            (true, true) => Some(LabelSource::Texts),
            (true, false) => Some(LabelSource::Labels),
        }
    }

    fn written(self, from: Option<LabelSource>) -> Written {
        match from {
            Some(LabelSource::Texts) if !self.has_prose => self.texts,
            _ => self.labels,
        }
    }
}

/// What is to be told of the shards of a split together.
#[derive(Default)]
struct Remarks {
    skipped: Skipped,
    texts: Option<(usize, String)>,
    cut: Option<(usize, PathBuf)>,
    /// The first sample whose split is not a known word, with its value.
    unclear_part: Option<String>,
}

impl Remarks {
    fn push(&mut self, path: &Path, samples: &mut Samples) {
        self.skipped.merge(&samples.skipped);
        let (count, first) = std::mem::take(&mut samples.texts);
        if count > 0 {
            self.texts.get_or_insert((0, first)).0 += count;
        }
        if self.unclear_part.is_none() {
            self.unclear_part = samples.unclear_part.take();
        }
        if samples.is_cut {
            self.cut.get_or_insert((0, path.to_owned())).0 += 1;
        }
    }

    fn tell(self, skipped: &mut Skipped, from: Option<LabelSource>) {
        skipped.merge(&self.skipped);
        if let Some((count, first)) = self.texts.filter(|_| from != Some(LabelSource::Texts)) {
            skipped.add_many("text member(s) that are not read as labels (.txt)", count, first);
        }
        if let Some(unclear) = self.unclear_part {
            skipped.note(format!(
                "{unclear}, which is no word of splits such as train and val: samples are in the split that \
                 their shards are called like"
            ));
        }
        if let Some((count, first)) = self.cut {
            skipped.note(format!(
                "{count} shard(s) are cut: they end without the end mark of an archive, so samples may be \
                 missing; download or write them again; the first: {}",
                first.display()
            ));
        }
    }
}

/// Refuses a shard whose members say that they are of another split than the one it is read for.
fn refuse_other_part(path: &Path, samples: &Samples, split: Split) -> Result<(), DataError> {
    if samples.has_voc_lists {
        let reason = "holds lists of splits in ImageSets/Main: this is a packed PASCAL VOC set; unpack it and \
                      give the folder";
        return Err(DataError::malformed(path, reason));
    }
    match samples.parts.iter().find(|(part, _)| !part.fits(split)) {
        None => Ok(()),
        Some((part, member)) => {
            let reason = format!(
                "{member} says that its sample is of the {part} part, and the shard is read as the \
                 {split} split: write shards for each split, called like train-000000.tar and \
                 test-000000.tar"
            );
            Err(DataError::malformed(path, reason))
        }
    }
}

/// The shards of both splits.
fn shards(path: &Path) -> Result<SplitFiles, DataError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let found = split_files::find(path, SHARDS)?;
            for files in [&found.train, &found.test] {
                split_files::refuse_incomplete(files)?;
            }
            Ok(found)
        }
        Ok(_) => Ok(SplitFiles::alone(path)),
        Err(error) => {
            let pattern = path.to_str().filter(|path| path.contains('{'));
            let Some(pattern) = pattern.filter(|_| error.kind() == ErrorKind::NotFound) else {
                return Err(DataError::read(path)(error));
            };
            let shards = expand(pattern).map_err(|reason| DataError::malformed(path, reason))?;
            SplitFiles::named(shards.into_iter().map(PathBuf::from).collect(), SHARDS)
        }
    }
}

/// Every path that a pattern stands for: `{000..012}` for numbers, which keep their width, and
/// `{a,b}` for words.
fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let mut paths = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        let (braces, after) = after.split_once('}').ok_or("a { is not closed")?;
        let choices: Vec<String> = match braces.split_once("..") {
            Some((first, last)) => {
                let number = |text: &str| text.parse::<usize>();
                let (Ok(start), Ok(end)) = (number(first), number(last)) else {
                    return Err(format!("{{{braces}}} is not a range of numbers"));
                };
                if start > end || end - start >= MAX_SHARDS {
                    return Err(format!(
                        "{{{braces}}} is not a range of up to {MAX_SHARDS} numbers"
                    ));
                }
                let width = first.len();
                (start..=end).map(|number| format!("{number:0width$}")).collect()
            }
            None => braces.split(',').map(str::to_owned).collect(),
        };
        if paths.len().saturating_mul(choices.len()) > MAX_SHARDS {
            return Err(format!("the pattern stands for more than {MAX_SHARDS} shards"));
        }
        let join = |path: &String| -> Vec<String> {
            choices.iter().map(|choice| format!("{path}{before}{choice}")).collect()
        };
        paths = paths.iter().flat_map(join).collect();
        rest = after;
    }
    Ok(paths.into_iter().map(|path| path + rest).collect())
}

fn index_file(path: &Path) -> Result<Samples, DataError> {
    let mut file = split_files::open(path)?;
    let length = file.metadata().map_err(DataError::read(path))?.len();
    let mut start = Vec::new();
    (&mut file).take(BLOCK_BYTES).read_to_end(&mut start).map_err(DataError::read(path))?;
    let packed: [(&[u8], &str); 4] = [
        (&[0x1f, 0x8b], "gzipped"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd"),
        (&[0xfd, b'7', b'z', b'X', b'Z'], "compressed with xz"),
        (b"BZh", "compressed with bzip2"),
    ];
    if let Some((_, how)) = packed.iter().find(|(magic, _)| start.starts_with(magic)) {
        let reason = format!(
            "is {how}, so nothing in it can be read by its position; unpack it to a plain .tar"
        );
        return Err(DataError::malformed(path, reason));
    }
    if start.starts_with(GIT_LFS_POINTER) {
        let reason = "is a git-lfs pointer, not the shard: run git lfs pull";
        return Err(DataError::malformed(path, reason));
    }
    samples::find(&file, length, path)
}

/// Finds the samples of a shard that is in memory.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Sample>, DataError> {
    Ok(samples::find(bytes, bytes.len() as u64, path)?.found)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use ::tar::EntryType;
    use image::{ImageFormat, Rgb, RgbImage};
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn png(value: u8) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_pixel(2, 1, Rgb([value; 3])).write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    /// The name and the content of a member.
    pub(super) type Member<'a> = (&'a str, &'a [u8]);

    pub(super) fn tar(members: &[Member<'_>]) -> Vec<u8> {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// A member with a header of its own making.
    pub(super) fn member(name: &str, kind: EntryType, size: u64, content: &[u8]) -> Vec<u8> {
        let mut header = ::tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
        [header.as_bytes(), content, &padding].concat()
    }

    fn folder(shards: &[(&str, &[Member<'_>])]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, members) in shards {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, tar(members)).unwrap();
        }
        folder
    }

    /// Every image as `key: grey value, class`.
    fn content(path: &Path, split: Split) -> Vec<String> {
        let set = WebDataset::open(path, split).unwrap();
        let show = |index| {
            let class = set.label(index).map_or("-", |label| set.classes()[label].as_str());
            let grey = set.image(index).unwrap().rgb()[0];
            let name = set.name(index);
            format!("{}: {grey}, {class}", name.rsplit('/').next().unwrap())
        };
        (0..set.len()).map(show).collect()
    }

    fn failure(path: &Path, split: Split) -> String {
        WebDataset::open(path, split).err().expect("an error").to_string()
    }

    #[test]
    fn a_sample_takes_few_bytes_of_memory() {
        let names: Vec<String> = (0..1000).map(|number| format!("{number:09}.png")).collect();
        let members: Vec<Member<'_>> =
            names.iter().map(|name| (name.as_str(), &b"not opened"[..])).collect();
        let shards =
            folder(&[("a.tar", &members), ("b.tar", &[("1.txt", b"")]), ("c.tar", &members)]);
        let set = WebDataset::open(shards.path(), Split::Train).unwrap();
        assert_eq!((set.len(), set.shards.len()), (2000, 3));
        let keys: usize = set.shards.iter().map(|shard| shard.keys.capacity()).sum();
        let bytes = keys + set.places.capacity() * size_of::<Place>() + 4 * set.len();
        assert_eq!(bytes / set.len(), 25);
        for (index, end) in
            [(0, "a.tar/000000000"), (999, "a.tar/000000999"), (1000, "c.tar/000000000")]
        {
            assert!(set.name(index).ends_with(end), "{}", set.name(index));
        }
    }

    #[test]
    fn a_name_that_leads_out_of_the_shard_is_only_a_name() {
        let outside = tempfile::tempdir().unwrap();
        let place = outside.path().join("1.png");
        fs::write(&place, png(99)).unwrap();
        for name in ["../1.png", "/etc/1.png", "a/../../1.png", place.to_str().unwrap()] {
            let bytes = png(7);
            let mut header = ::tar::Header::new_gnu();
            // Written by hand, since the tar crate refuses to.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            let padding = vec![0; bytes.len().next_multiple_of(512) - bytes.len()];
            let shard = outside.path().join("set/train.tar");
            fs::create_dir_all(shard.parent().unwrap()).unwrap();
            fs::write(&shard, [header.as_bytes(), &bytes[..], &padding].concat()).unwrap();
            let set = WebDataset::open(&shard, Split::Train).unwrap();
            assert_eq!(set.image(0).unwrap().rgb()[0], 7, "{name}");
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2, "{name}");
        }
    }

    #[test]
    fn samples_are_joined_from_their_members_and_read_by_position() {
        let long = format!("{}/x.PNG", "deep/".repeat(30));
        let shards = folder(&[
            (
                "train-000.tar",
                &[
                    ("README.md", b"text"),
                    ("a/1.cls", b"dog\n"),
                    ("a/1.png", &png(10)),
                    ("a/1.seg.png", b"mask"),
                    ("a/2.json", br#"{"label": "cat", "id": 7}"#),
                    ("a/2.png", &png(20)),
                    ("a/3.json", br#"{"label": "cat"}"#),
                ],
            ),
            (
                "train-001.tar",
                &[("b.png", &png(30)), (&long, &png(40)), ("c.json", b"{}"), ("c.png", &png(50))],
            ),
            ("val-000.tar", &[("v.png", &png(60)), ("v.cls", b"dog")]),
        ]);
        let expected = ["1: 10, dog", "2: 20, cat", "b: 30, -", "x: 40, -", "c: 50, -"];
        assert_eq!(content(shards.path(), Split::Train), expected);
        assert_eq!(content(shards.path(), Split::Test), ["v: 60, dog"]);
        let test = WebDataset::open(shards.path(), Split::Test).unwrap();
        assert_eq!(test.classes(), ["cat", "dog"]);
        assert!(test.name(0).ends_with("val-000.tar/v"), "{}", test.name(0));
        for pattern in ["train-{000..001}.tar", "train-00{0,1}.tar"] {
            let path = shards.path().join(pattern);
            assert_eq!(content(&path, Split::Train), expected);
            assert!(!WebDataset::has_split(&path, Split::Test).unwrap());
            assert!(failure(&path, Split::Test).contains("has no test split"));
        }
        let shard = shards.path().join("train-001.tar");
        assert_eq!(content(&shard, Split::Train), expected[2..]);
    }

    #[test]
    fn names_in_extended_headers_are_read() {
        let image = png(1);
        let record = b"24 path=long/name/1.png\n";
        let end = [0; 1024];
        let bytes = [
            member("x", EntryType::XHeader, record.len() as u64, record),
            member("short.txt", EntryType::Regular, image.len() as u64, &image),
            member("2.png", EntryType::Regular, 3, b"abc"),
            end.to_vec(),
        ]
        .concat();
        let samples = parse(&bytes, Path::new("some.tar")).unwrap();
        let keys: Vec<&str> = samples.iter().map(|sample| &*sample.key).collect();
        assert_eq!(keys, ["long/name/1", "2"]);
        assert_eq!(&bytes[samples[1].offset as usize..][..samples[1].bytes as usize], b"abc");
    }

    #[test]
    fn the_splits_of_a_folder_are_folders_or_words_in_names() {
        let (one, two, three) = (png(1), png(2), png(3));
        for (train, test) in [
            ("train-000000.tar", "valid-000000.tar"),
            ("train-000000.tar", "dev-000000.tar"),
            ("Train_0.tar", "Eval_0.tar"),
            ("training-0.TAR", "testing-0.TAR"),
            ("train/0.tar", "valid/0.tar"),
            ("train/0.tar", "validation/0.tar"),
            ("data/train/a/0.tar", "data/test/a/0.tar"),
            ("shards/cc3m-train-0.tar", "shards/cc3m-val-0.tar"),
        ] {
            let shards = folder(&[(train, &[("1.png", &one)]), (test, &[("2.png", &two)])]);
            assert_eq!(content(shards.path(), Split::Train), ["1: 1, -"], "{train}");
            assert_eq!(content(shards.path(), Split::Test), ["2: 2, -"], "{test}");
            assert!(WebDataset::is_at(shards.path()));
        }
        let shards = folder(&[
            ("train-0.tar", &[("1.png", &one)]),
            ("val-0.tar", &[("2.png", &two)]),
            ("extra-0.tar", &[("3.png", &three)]),
        ]);
        assert_eq!(content(shards.path(), Split::Train), ["1: 1, -"]);
        let set = WebDataset::open(shards.path(), Split::Train).unwrap();
        let [skipped] = set.skipped().reasons() else { panic!("{:?}", set.skipped()) };
        assert!(skipped.to_string().contains("shard(s) whose names tell no split"), "{skipped}");
        let pattern = shards.path().join("{train,val}-{0..0}.tar");
        assert_eq!(content(&pattern, Split::Train), ["1: 1, -"]);
        assert_eq!(content(&pattern, Split::Test), ["2: 2, -"]);
        let shards = folder(&[("0.tar", &[("1.png", &one)]), ("test.tar", &[("2.png", &two)])]);
        assert!(failure(shards.path(), Split::Train).contains("0.tar: its name tells no split"));
        assert!(WebDataset::is_at(shards.path()));
        let empty = tempfile::tempdir().unwrap();
        let message = failure(empty.path(), Split::Train);
        assert!(message.contains("looked for shards, files that end in .tar"), "{message}");
        let gone = empty.path().join("gone.tar");
        assert!(failure(&gone, Split::Train).starts_with("cannot read "));
    }

    #[test]
    fn minus_one_and_what_is_empty_are_no_label() {
        let png = png(1);
        for labels in [["-1", "0", "10", "2", ""], ["-1.0", "0.0", "10.0", "2.0", "nan"]] {
            let members: Vec<(String, &[u8])> = (0..5)
                .flat_map(|number| {
                    let label = labels[number].as_bytes();
                    [(format!("{number}.png"), &png[..]), (format!("{number}.cls"), label)]
                })
                .collect();
            let members: Vec<Member<'_>> =
                members.iter().map(|(name, content)| (name.as_str(), *content)).collect();
            let shards = folder(&[("s.tar", &members)]);
            let expected = ["0: 1, -", "1: 1, 0", "2: 1, 10", "3: 1, 2", "4: 1, -"];
            assert_eq!(content(shards.path(), Split::Train), expected);
        }
    }

    #[test]
    fn texts_are_labels_if_they_repeat_or_are_words() {
        let png = png(1);
        let shown = |texts: &[&str], others: &[Member<'_>]| {
            let names: Vec<(String, String)> =
                (0..texts.len()).map(|n| (format!("{n}.png"), format!("{n}.txt"))).collect();
            let mut members = Vec::new();
            for ((image, text), content) in names.iter().zip(texts) {
                members.extend([(image.as_str(), &png[..]), (text.as_str(), content.as_bytes())]);
            }
            members.extend(others);
            let shards = folder(&[("s.tar", &members)]);
            let set = WebDataset::open(&shards.path().join("s.tar"), Split::Train).unwrap();
            let skipped = set.skipped().reasons().iter().map(|reason| reason.count).sum::<usize>();
            (content(shards.path(), Split::Train)[0].clone(), set.classes().len(), skipped)
        };
        assert_eq!(shown(&["cat", "dog"], &[]), ("0: 1, cat".to_owned(), 2, 0));
        let repeated = ["great dane", "sheep dog", "great dane", "sheep dog"];
        assert_eq!(shown(&repeated, &[]), ("0: 1, great dane".to_owned(), 2, 0));
        assert_eq!(shown(&["3", "1"], &[]), ("0: 1, 3".to_owned(), 4, 0));
        // Descriptions.
        assert_eq!(shown(&["a cat on a mat", "a dog"], &[]), ("0: 1, -".to_owned(), 0, 2));
        assert_eq!(shown(&["cat", "two\nlines"], &[]), ("0: 1, -".to_owned(), 0, 2));
        assert_eq!(shown(&["cat", &"word".repeat(40)], &[]), ("0: 1, -".to_owned(), 0, 2));
        // Beside labels, whatever they are.
        let label: &[Member<'_>] = &[("1.cls", b"7")];
        assert_eq!(shown(&["cat", "dog"], label), ("0: 1, -".to_owned(), 8, 2));
    }

    #[test]
    fn what_names_and_metadata_say_is_not_passed_over() {
        let image = png(1);
        let notes = |shards: &[(&str, &[Member<'_>])]| {
            let folder = folder(shards);
            let set = WebDataset::open(folder.path(), Split::Train).unwrap();
            let skipped = set.skipped();
            let lines = skipped.reasons().iter().map(|reason| reason.reason.clone());
            lines.chain(skipped.notes().iter().cloned()).collect::<Vec<_>>().join("; ")
        };
        let files = folder(&[("s.tar", &[("train_0.png", &image[..]), ("x/val_1.png", &image)])]);
        let message = failure(files.path(), Split::Train);
        assert!(message.contains("tell splits by their names (train_0, val_1)"), "{message}");
        let a: &[Member<'_>] = &[("n01_0.png", &image)];
        let b: &[Member<'_>] = &[("n02_0.png", &image), ("n02_1.png", &image)];
        let found = notes(&[("n01.tar", a), ("n02.tar", b)]);
        assert!(found.contains("all are called like their shards"), "{found}");
        assert_eq!(notes(&[("00000.tar", &[("000000001.png", &image)])]), "");
        let nested: &[Member<'_>] =
            &[("a.png", &image), ("a.json", br#"{"annotation": {"label": "x"}}"#)];
        let found = notes(&[("s.tar", nested)]);
        assert!(found.contains("known to hold labels; they have annotation: write"), "{found}");
        let found = notes(&[("s.tar", &[("0.png", &image)]), ("t.tar", &[])]);
        assert_eq!(found, "shard(s) without an image");
        let both = |cls: &'static [u8]| {
            notes(&[(
                "s.tar",
                &[("a.png", &image[..]), ("a.cls", cls), ("a.json", br#"{"label": "x"}"#)],
            )])
        };
        assert_eq!(both(b"cat"), "label(s) that contradict an earlier one of the same sample");
        assert_eq!(both(b"3"), "");
    }

    #[test]
    fn shards_that_say_they_are_of_another_split_are_refused() {
        let image = png(1);
        let shard = |part: &'static [u8]| [("a.png", &image[..]), ("a.split", part)];
        let (train, test) = (shard(b"train"), shard(b"test"));
        let held_out = "a.split says that its sample is of the test part, and the shard is read as the \
                        train split: write shards for each split";
        for shards in [&[("s-0.tar", &test[..])][..], &[("s-0.tar", &train), ("s-1.tar", &test)]] {
            let folder = folder(shards);
            let message = failure(folder.path(), Split::Train);
            assert!(message.contains(held_out), "{message}");
        }
        let both = folder(&[("train-0.tar", &train[..]), ("test-0.tar", &test[..])]);
        assert_eq!(content(both.path(), Split::Train), ["a: 1, -"]);
        assert_eq!(content(both.path(), Split::Test), ["a: 1, -"]);
        let wrong = folder(&[("train-0.tar", &train[..]), ("test-0.tar", &train[..])]);
        let message = failure(wrong.path(), Split::Test);
        assert!(
            message.contains("of the train part, and the shard is read as the test"),
            "{message}"
        );
    }

    #[test]
    fn the_train_split_says_where_the_labels_of_both_are() {
        let png = png(1);
        let shards = folder(&[
            ("train.tar", &[("1.png", &png), ("1.txt", b"a cat on a mat"), ("2.png", &png)]),
            ("val.tar", &[("3.png", &png), ("3.txt", b"dog")]),
        ]);
        assert_eq!(content(shards.path(), Split::Test), ["3: 1, -"]);
        let shards = folder(&[
            (
                "train.tar",
                &[("1.png", &png), ("1.txt", b"cat"), ("2.png", &png), ("2.txt", b"dog")],
            ),
            ("val.tar", &[("3.png", &png), ("3.txt", b"dog")]),
        ]);
        assert_eq!(content(shards.path(), Split::Test), ["3: 1, dog"]);
    }

    #[test]
    fn a_set_without_images_says_what_is_there_instead() {
        let png = png(1);
        let all = folder(&[("all.tar", &[("22.05.png", &png), ("22.06.png", &png)])]);
        let message = failure(&all.path().join("all.tar"), Split::Train);
        assert!(message.contains(
            "skipped 2 image(s) that share a key, which is the name up to the first dot"
        ));
        let heic = folder(&[("all.tar", &[("1.heic", b"x")])]);
        let message = failure(heic.path(), Split::Train);
        assert!(
            message.contains("skipped 1 member(s) of a kind that is not read (.heic)"),
            "{message}"
        );
        fs::write(heic.path().join("all.tar"), b"").unwrap();
        let message = failure(heic.path(), Split::Train);
        assert!(message.contains("1 shard(s) are cut"), "{message}");
    }

    #[test]
    fn a_cut_shard_is_noted() {
        let png = png(1);
        let whole = tar(&[("1.png", &png), ("2.png", &png)]);
        let shards = folder(&[]);
        fs::write(shards.path().join("a.tar"), &whole[..1540]).unwrap();
        fs::write(shards.path().join("b.tar"), &whole).unwrap();
        assert_eq!(content(shards.path(), Split::Train).len(), 3);
        let set = WebDataset::open(shards.path(), Split::Train).unwrap();
        let [note] = set.skipped().notes() else { panic!("{:?}", set.skipped()) };
        assert!(note.starts_with("1 shard(s) are cut") && note.ends_with("a.tar"), "{note}");
        let reason = set.skipped().reasons()[0].to_string();
        assert!(reason.contains("1 incomplete member(s)") && reason.ends_with("a.tar/2.png"));
    }

    #[test]
    fn parts_that_are_no_words_are_noted_and_a_packed_voc_set_is_refused() {
        let png = png(1);
        let numbers: &[Member<'_>] = &[("0.png", &png), ("0.json", b"{\"label\":0,\"split\":2}")];
        let shards = folder(&[("a.tar", numbers)]);
        let set = WebDataset::open(shards.path(), Split::Train).unwrap();
        let notes = set.skipped().notes().join("\n");
        assert!(
            notes.contains("a.tar/0.json: its split is 2, which is no word of splits"),
            "{notes}"
        );
        let voc: &[Member<'_>] =
            &[("VOC2007/JPEGImages/0.png", &png), ("VOC2007/ImageSets/Main/val.txt", b"0\n")];
        let message = failure(&folder(&[("voc.tar", voc)]).path().join("voc.tar"), Split::Train);
        assert!(message.contains("this is a packed PASCAL VOC set; unpack it"), "{message}");
    }

    #[test]
    fn a_packed_image_folder_is_refused_or_noted() {
        let png = png(1);
        let sorted = folder(&[("d.tar", &[("d/train/a/0.png", &png), ("d/val/a/0.png", &png)])]);
        let message = failure(&sorted.path().join("d.tar"), Split::Train);
        assert!(
            message.ends_with(
                "members lie in folders train/ and val/: this is a packed image folder; unpack it \
                 and give the folder"
            ),
            "{message}"
        );
        // Shards of one part, and folders that are only pieces, are as they should be.
        let members: &[Member<'_>] = &[("train/00/0.png", &png), ("train/01/1.png", &png)];
        let parts = folder(&[("train.tar", members), ("val.tar", &[("val/00/2.png", &png)])]);
        for split in [Split::Train, Split::Test] {
            assert!(WebDataset::open(parts.path(), split).unwrap().skipped().is_empty());
        }
        let classes = folder(&[("0.tar", &[("cats/0.png", &png), ("dogs/0.png", &png)])]);
        let set = WebDataset::open(classes.path(), Split::Train).unwrap();
        let [note] = set.skipped().notes() else { panic!("{:?}", set.skipped()) };
        assert!(note.contains("several folders (cats, dogs): if these are classes"), "{note}");
        let labelled = folder(&[(
            "0.tar",
            &[
                ("cats/0.png", &png),
                ("cats/0.cls", b"0"),
                ("dogs/0.png", &png),
                ("dogs/0.cls", b"1"),
            ],
        )]);
        assert!(WebDataset::open(labelled.path(), Split::Train).unwrap().skipped().is_empty());
    }

    #[test]
    fn incomplete_shards_are_refused_and_what_lies_beside_them_is_counted() {
        let png = png(1);
        let members: &[Member<'_>] = &[("0.png", &png)];
        let shards = folder(&[("x/y/t-00000-of-00002.tar", members)]);
        let message = failure(shards.path(), Split::Train);
        assert!(message.contains("is one of 2 files, and 1 of them are there"), "{message}");
        assert!(WebDataset::is_at(shards.path()));
        let place = |name: &str| shards.path().join(name);
        fs::write(place("x/y/t-00001-of-00002.tar"), tar(members)).unwrap();
        for name in ["preview.png", "x/README.md", "x/y/t-00002.tar.gz", "x/y/t.tar.part"] {
            fs::write(place(name), &png).unwrap();
        }
        let set = WebDataset::open(shards.path(), Split::Train).unwrap();
        let reasons = set.skipped().reasons().iter().map(|reason| reason.reason.as_str());
        assert_eq!(
            reasons.collect::<Vec<_>>(),
            [
                "image(s) beside the shards",
                "other file(s)",
                "compressed shard(s) (.tar.gz), which must be unpacked to .tar",
                "unfinished download(s) (.part)",
            ]
        );
        let alone = WebDataset::open(&place("x/y/t-00000-of-00002.tar"), Split::Train).unwrap();
        assert!(alone.skipped().is_empty());
        // A test split does not tell it again.
        fs::write(place("x/y/val.tar"), tar(members)).unwrap();
        fs::rename(place("x/y/t-00000-of-00002.tar"), place("x/y/train.tar")).unwrap();
        fs::remove_file(place("x/y/t-00001-of-00002.tar")).unwrap();
        assert!(WebDataset::open(shards.path(), Split::Test).unwrap().skipped().is_empty());
        assert!(!WebDataset::open(shards.path(), Split::Train).unwrap().skipped().is_empty());
    }

    #[test]
    fn patterns_are_expanded_in_order() {
        assert_eq!(expand("a{08..10}.tar").unwrap(), ["a08.tar", "a09.tar", "a10.tar"]);
        assert_eq!(expand("{x,y}{0..1}").unwrap(), ["x0", "x1", "y0", "y1"]);
        for (pattern, named) in [
            ("a{0..1", "a { is not closed"),
            ("a{0..b}", "{0..b} is not a range of numbers"),
            ("a{3..1}", "{3..1} is not a range of up to 100000 numbers"),
            ("a{0..99999999999}", "is not a range of up to 100000 numbers"),
            ("{0..999}{0..999}", "stands for more than 100000 shards"),
        ] {
            let message = expand(pattern).unwrap_err();
            assert!(message.contains(named), "{message}");
        }
        let message = failure(Path::new("nowhere/{0..x}.tar"), Split::Train);
        assert!(message.starts_with("nowhere/{0..x}.tar: "), "{message}");
        let message = failure(Path::new("nowhere/{0..1}.tar"), Split::Train);
        assert!(message.starts_with("cannot read nowhere/0.tar"), "{message}");
    }

    #[test]
    fn damaged_shards_are_refused() {
        let message = parse(&[b'x'; 600], Path::new("some.tar")).unwrap_err().to_string();
        assert!(message.starts_with("some.tar: cannot read it as a tar archive: "), "{message}");
        let page = parse(b"<html>not found</html>", Path::new("some.tar")).unwrap_err();
        assert!(page.to_string().contains(": it is no tar archive, since"), "{page}");
        let shards = folder(&[
            ("train.tar", &[("1.png", b"no image"), ("1.cls", b"0")]),
            ("val.tar", &[("2.png", b""), ("2.cls", b"1")]),
        ]);
        let set = WebDataset::open(shards.path(), Split::Train).unwrap();
        let message = set.image(0).unwrap_err().to_string();
        assert!(message.contains("train.tar/1: the content is not that of"), "{message}");
        let message = failure(shards.path(), Split::Test);
        assert!(message.contains("val.tar/2: \"1\" is a class that the train split"), "{message}");
        fs::write(shards.path().join("train.tar"), [0x1f, 0x8b, 8]).unwrap();
        assert!(failure(shards.path(), Split::Train).contains("train.tar: is gzipped"));
        fs::write(shards.path().join("train.tar"), tar(&[("1.txt", b"x")])).unwrap();
        let message = failure(shards.path(), Split::Train);
        assert!(message.contains("looked for members that end in bmp, jfif"), "{message}");
        for (start, expected) in [
            (&b"\x28\xb5\x2f\xfd"[..], "train.tar: is compressed with zstd"),
            (b"version https://git-lfs.github.com/spec/v1\n", "train.tar: is a git-lfs pointer"),
        ] {
            fs::write(shards.path().join("train.tar"), start).unwrap();
            let message = failure(shards.path(), Split::Train);
            assert!(message.contains(expected), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_shard_is_read_or_refused(
            at in 0..4_000_usize, byte in any::<u8>(), cut in 0..6_000_usize, sum in any::<bool>(),
        ) {
            let mut bytes = tar(&[("1.json", b"{\"cls\": 1}"), ("1.png", &png(1)), ("2.cls", b"0")]);
            let length = bytes.len();
            bytes[at % length] = byte;
            if sum {
                // With a right checksum, damage to a header gets further.
                let mut header = ::tar::Header::from_byte_slice(&bytes[..512]).clone();
                header.set_cksum();
                bytes[..512].copy_from_slice(header.as_bytes());
            }
            bytes.truncate(cut);
            if let Ok(samples) = parse(&bytes, Path::new("some.tar")) {
                let end = |sample: &Sample| sample.offset + sample.bytes;
                prop_assert!(samples.iter().all(|sample| end(sample) <= bytes.len() as u64));
            }
        }
    }
}
