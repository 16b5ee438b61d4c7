//! PASCAL VOC: photographs in which objects of several of 20 classes can be seen at once.
//!
//! The folder of a year, such as `VOC2007`, is read as it is published:
//!
//! - `JPEGImages/000005.jpg` and on, of all splits together; other tools put PNG files there, or any other
//!   kind of [image that is decoded](crate::decode);
//! - `ImageSets/Main/trainval.txt`, and the same for `train`, `val` and `test`: the names of the images of
//!   a split, one per line, without folder and extension;
//! - `ImageSets/Main/aeroplane_trainval.txt`, and so on for every class and split: behind each name a 1
//!   if the class is in the image, -1 if it is not, and 0 if all there is of it is marked as difficult,
//!   in which case the image counts for that class neither way.
//!
//! The classes are those that have such a file, in alphabetical order. The boxes in `Annotations` are
//! not needed. The test split is that of `test.txt`; a year whose test split has no file per class (all
//! but 2007) has no labels there.
//!
//! Sets in the same form need not have all lists. Without `trainval.txt`, `train.txt` and `val.txt` are read
//! in its place; if there is no `test.txt` either, `val.txt` is the test split and not trained on. A note
//! says so.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::image_file::read_image;
use crate::set::KeptLabels;
use crate::split_files::{Entry as Listed, entries};
use crate::{ClassLabels, DataError, Image, ImageSet, Skipped, Split, decode};

/// Which images make the train split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VocPart {
    /// Those of `train.txt` and `val.txt` together, as they are published.
    #[default]
    Trainval,
    /// What settings are learned from before they are chosen.
    Train,
    /// What settings are chosen on.
    Val,
}

/// One split of a year, decoded on request.
pub struct Voc {
    images: PathBuf,
    /// The names of the image files.
    files: Vec<Box<str>>,
    labels: Option<Vec<KeptLabels>>,
    classes: Vec<String>,
    skipped: Skipped,
}

/// Where lists of images lie in the folder of a year.
const LISTS: &str = "ImageSets/Main";

/// Where the images lie.
const IMAGES: &str = "JPEGImages";

impl Voc {
    /// Reads the lists of a split, given the folder of a year, of 2007 within it, or of
    /// `VOCdevkit/VOC2007` within it; no image is opened yet.
    ///
    /// [`DataError::Request`] if there is no such folder or no list of the split,
    /// [`DataError::Empty`] if it names no images, [`DataError::Malformed`] with the line that is
    /// no image and a 1, -1 or 0, or whose image the split does not have, and for two lists that name one
    /// image or have different classes.
    pub fn open(path: &Path, split: Split, part: VocPart) -> Result<Self, DataError> {
        let year = year(path)?;
        let lists = Lists::read(&year.join(LISTS))?;
        let used = lists.of(split, part);
        let Some((first, others)) = used.split_first() else {
            return Err(lists.missing(path, split, part));
        };
        let mut whole = List::read(&lists.folder, first)?;
        for other in others {
            whole.append(List::read(&lists.folder, other)?)?;
        }
        if whole.names.is_empty() {
            return Err(DataError::empty(&whole.path, "the list names none"));
        }
        let mut skipped = Skipped::new();
        if split == Split::Train {
            lists.note(part, &mut skipped);
        }
        let List { names, labels, classes, .. } = whole;
        let images = year.join(IMAGES);
        let listing = entries(&images)?;
        if split == Split::Train {
            lists.count_unnamed(&listing, &mut skipped);
            count_others(path, &year, &mut skipped)?;
        }
        Ok(Self { files: image_files(listing, names), images, labels, classes, skipped })
    }

    /// Whether a folder is that of a year or holds that of 2007, told by names.
    pub(crate) fn is_at(path: &Path) -> bool {
        year(path).is_ok()
    }

    /// Whether there is a list of the split.
    pub fn has_split(path: &Path, split: Split, part: VocPart) -> Result<bool, DataError> {
        Ok(!Lists::read(&year(path)?.join(LISTS))?.of(split, part).is_empty())
    }
}

impl ImageSet for Voc {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        read_image(&self.path(index))
    }

    fn label(&self, _: usize) -> Option<usize> {
        None
    }

    fn labels(&self, index: usize) -> Option<ClassLabels<'_>> {
        self.labels.as_ref().map(|labels| labels[index].lend())
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        self.path(index).display().to_string()
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

impl Voc {
    fn path(&self, index: usize) -> PathBuf {
        self.images.join(&*self.files[index])
    }
}

/// The lists of a year, by name.
struct Lists {
    folder: PathBuf,
    /// Names without the extension.
    names: BTreeSet<String>,
}

impl Lists {
    fn read(folder: &Path) -> Result<Self, DataError> {
        let name =
            |path: PathBuf| path.file_name()?.to_str()?.strip_suffix(".txt").map(str::to_owned);
        let files = entries(folder)?.into_iter().filter(|entry| !entry.is_folder);
        let names = files.filter_map(|entry| name(entry.path)).collect();
        Ok(Self { folder: folder.to_owned(), names })
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether `val.txt` takes the place of `test.txt`. Not where `trainval.txt` has its images, too.
    fn tests_on_val(&self) -> bool {
        self.has("val") && !self.has("test") && !self.has("trainval")
    }

    /// The lists that make a split.
    fn of(&self, split: Split, part: VocPart) -> Vec<&'static str> {
        let wanted: &[&str] = match (split, part) {
            (Split::Train, VocPart::Trainval) if self.has("trainval") => &["trainval"],
            (Split::Train, VocPart::Trainval) if !self.tests_on_val() => &["train", "val"],
            (Split::Train, VocPart::Trainval | VocPart::Train) => &["train"],
            (Split::Train, VocPart::Val) => &["val"],
            (Split::Test, VocPart::Trainval | VocPart::Train) if self.tests_on_val() => &["val"],
            (Split::Test, _) => &["test"],
        };
        wanted.iter().copied().filter(|name| self.has(name)).collect()
    }

    /// The error of a split without a list.
    fn missing(&self, path: &Path, split: Split, part: VocPart) -> DataError {
        let looked_for = match (split, part) {
            (Split::Train, VocPart::Trainval) => "trainval.txt or train.txt",
            (Split::Train, VocPart::Train) => "train.txt",
            (Split::Train, VocPart::Val) => "val.txt",
            (Split::Test, VocPart::Val) => "test.txt",
            (Split::Test, _) if self.has("trainval") => "test.txt",
            (Split::Test, _) => "test.txt or val.txt",
        };
        let is_of_class = |name: &str| {
            ["_trainval", "_train", "_val", "_test"].iter().any(|split| name.ends_with(split))
        };
        let found = self.names.iter().filter(|name| !is_of_class(name));
        let mut found: Vec<String> = found.map(|name| format!("{name}.txt")).collect();
        let more = found.len().saturating_sub(NAMED);
        found.truncate(NAMED);
        let found = match (found.is_empty(), more) {
            (true, _) => "no list".to_owned(),
            (false, 0) => found.join(", "),
            (false, _) => format!("{} and {more} more", found.join(", ")),
        };
        DataError::Request(format!(
            "{} has no {split} split: looked for {looked_for} in {}, which holds {found}; give the list \
             of its images such a name",
            path.display(),
            self.folder.display(),
        ))
    }

    /// Counts the images that no list names.
    fn count_unnamed(&self, images: &[Listed], skipped: &mut Skipped) {
        let mut named = HashSet::new();
        for list in ["trainval", "train", "val", "test"] {
            if self.has(list) {
                // A line that cannot be read is refused with the split that it belongs to.
                let entries = read(&self.folder.join(format!("{list}.txt"))).unwrap_or_default();
                named.extend(entries.into_iter().map(|entry| entry.image));
            }
        }
        for entry in images.iter().filter(|entry| !entry.is_folder) {
            let stem = entry.path.file_stem().unwrap_or_default().to_string_lossy();
            if decode::is_image(&entry.path) && !named.contains(&*stem) {
                let reason = format!("image(s) that no list in {LISTS} names");
                skipped.add(reason, entry.path.display().to_string());
            }
        }
    }

    /// Says which lists are read in place of those that are not there.
    fn note(&self, part: VocPart, skipped: &mut Skipped) {
        let folder = self.folder.display();
        let train = self.of(Split::Train, part);
        if part == VocPart::Trainval && train != ["trainval"] {
            let train: Vec<String> = train.iter().map(|name| format!("{name}.txt")).collect();
            let train = train.join(" and ");
            skipped.note(format!("{folder} has no trainval.txt: the train split is {train}"));
        }
        if self.of(Split::Test, part) == ["val"] {
            skipped.note(format!("{folder} has no test.txt: the test split is val.txt"));
        }
    }
}

/// The most lists that a message names.
const NAMED: usize = 6;

/// A list of images with what the lists of classes say about them.
struct List {
    path: PathBuf,
    names: Vec<Box<str>>,
    labels: Option<Vec<KeptLabels>>,
    classes: Vec<String>,
}

impl List {
    fn read(folder: &Path, name: &str) -> Result<Self, DataError> {
        let path = folder.join(format!("{name}.txt"));
        let names: Vec<Box<str>> = read(&path)?.into_iter().map(|entry| entry.image).collect();
        let classes = classes(folder, name)?;
        let labels = if classes.is_empty() || names.is_empty() {
            None
        } else {
            Some(labels(&names, &path, folder, name, &classes)?)
        };
        Ok(Self { path, names, labels, classes })
    }

    fn append(&mut self, other: Self) -> Result<(), DataError> {
        if self.names.is_empty() || other.names.is_empty() {
            if self.names.is_empty() {
                *self = other;
            }
            return Ok(());
        }
        let own: BTreeSet<&str> = self.names.iter().map(AsRef::as_ref).collect();
        let first = self.path.display();
        if let Some(name) = other.names.iter().find(|name| own.contains(&***name)) {
            let reason = format!("names {name}, and so does {first}: remove it from one of them");
            return Err(DataError::malformed(&other.path, reason));
        }
        if self.classes != other.classes {
            let reason = format!(
                "there are {} lists of classes for it, and for {first} there are {} or others: give both \
                 the same",
                other.classes.len(),
                self.classes.len()
            );
            return Err(DataError::malformed(&other.path, reason));
        }
        self.names.extend(other.names);
        self.labels =
            self.labels.take().zip(other.labels).map(|(own, other)| [own, other].concat());
        Ok(())
    }
}

/// The image files of these names. One that has none is called as in the published sets.
fn image_files(listing: Vec<Listed>, names: Vec<Box<str>>) -> Vec<Box<str>> {
    let mut files: HashMap<String, String> = HashMap::new();
    for entry in listing.into_iter().filter(|entry| !entry.is_folder) {
        let (file, path) = (entry.name(), Path::new(&entry.path));
        let Some(name) = path.file_stem().filter(|_| decode::is_image(path)) else { continue };
        let is_usual = path.extension().is_some_and(|extension| extension == "jpg");
        let known =
            files.entry(name.to_string_lossy().into_owned()).or_insert_with(|| file.clone());
        if is_usual {
            *known = file;
        }
    }
    let file = |name: Box<str>| match files.get(&*name) {
        Some(file) => file.as_str().into(),
        None => format!("{name}.jpg").into(),
    };
    names.into_iter().map(file).collect()
}

/// Counts the folders that belong to no year, and the years beside that which is read.
fn count_others(path: &Path, year: &Path, skipped: &mut Skipped) -> Result<(), DataError> {
    const OWN: [&str; 5] =
        [IMAGES, "Annotations", "ImageSets", "SegmentationClass", "SegmentationObject"];
    for entry in entries(year)?.into_iter().filter(|entry| entry.is_folder) {
        if !OWN.contains(&entry.name().as_str()) {
            let path = entry.path.display().to_string();
            skipped.add("folder(s) that PASCAL VOC does not have", path);
        }
    }
    let Some(folder) = year.parent().filter(|_| year != path) else { return Ok(()) };
    for other in entries(folder)? {
        let is_year = other.path.join(LISTS).is_dir() && other.path.join(IMAGES).is_dir();
        if other.is_folder && other.path != year && is_year {
            let reason =
                format!("year(s) of PASCAL VOC beside {}: give one itself", year.display());
            skipped.add(reason, other.path.display().to_string());
        }
    }
    Ok(())
}

fn year(path: &Path) -> Result<PathBuf, DataError> {
    fs::metadata(path).map_err(DataError::read(path))?;
    let places = ["", "VOC2007", "VOCdevkit/VOC2007"].map(|below| path.join(below));
    let is_year = |place: &PathBuf| place.join(LISTS).is_dir() && place.join(IMAGES).is_dir();
    places.into_iter().find(is_year).ok_or_else(|| {
        DataError::Request(format!(
            "{} is not PASCAL VOC: give the folder VOC2007, which holds {IMAGES} and {LISTS}",
            path.display()
        ))
    })
}

/// The classes that have a file for the split, in order.
fn classes(lists: &Path, split: &str) -> Result<Vec<String>, DataError> {
    let mut classes = Vec::new();
    for entry in fs::read_dir(lists).map_err(DataError::read(lists))? {
        let name = entry.map_err(DataError::read(lists))?.file_name();
        let class = name.to_str().and_then(|name| name.strip_suffix(".txt"));
        let class = class.and_then(|name| name.strip_suffix(split)?.strip_suffix('_'));
        classes.extend(class.filter(|class| !class.is_empty()).map(str::to_owned));
    }
    classes.sort_unstable();
    Ok(classes)
}

fn labels(
    names: &[Box<str>],
    list: &Path,
    lists: &Path,
    split: &str,
    classes: &[String],
) -> Result<Vec<KeptLabels>, DataError> {
    let places: HashMap<&str, usize> =
        names.iter().enumerate().map(|(place, name)| (name.as_ref(), place)).collect();
    let mut all = vec![(Vec::new(), Vec::new()); names.len()];
    for (class, name) in (0_u32..).zip(classes) {
        let path = lists.join(format!("{name}_{split}.txt"));
        let entries = read(&path)?;
        let mut said = vec![false; names.len()];
        for Entry { line, image, shown } in entries {
            let refuse = |reason: String| {
                Err(DataError::malformed(&path, format!("line {line}: {image} {reason}")))
            };
            let Some(&place) = places.get(&*image) else {
                return refuse(format!("is not in {}", list.display()));
            };
            if std::mem::replace(&mut said[place], true) {
                return refuse("is there twice".to_owned());
            }
            let (present, unclear) = &mut all[place];
            match shown {
                Some(Shown::Yes) => present.push(class),
                Some(Shown::Unclear) => unclear.push(class),
                Some(Shown::No) => {}
                None => return refuse("has no 1, -1 or 0 behind it".to_owned()),
            }
        }
        if let Some(place) = said.iter().position(|said| !said) {
            let reason =
                format!("says nothing of {}, which {} names", names[place], list.display());
            return Err(DataError::malformed(&path, reason));
        }
    }
    let keep = |(present, unclear): (Vec<u32>, Vec<u32>)| KeptLabels {
        present: present.into(),
        unclear: unclear.into(),
    };
    Ok(all.into_iter().map(keep).collect())
}

fn read(path: &Path) -> Result<Vec<Entry>, DataError> {
    parse(&fs::read(path).map_err(DataError::read(path))?, path)
}

/// Whether an image shows a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// 1: yes.
    Yes,
    /// -1: no.
    No,
    /// 0: only in a way that is difficult to recognise.
    Unclear,
}

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is, from 1.
    pub line: usize,
    /// The name of the image.
    pub image: Box<str>,
    /// Of the class that the list is about, if it is about one.
    pub shown: Option<Shown>,
}

/// Reads the lines of a list of images, each with or without a 1, -1 or 0.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Entry>, DataError> {
    let mut entries = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let number = index + 1;
        let refuse = |reason: &str| DataError::malformed(path, format!("line {number}: {reason}"));
        let text = std::str::from_utf8(line).map_err(|_| refuse("is not UTF-8 text"))?;
        let mut fields = text.split_whitespace();
        let Some(image) = fields.next() else { continue };
        let shown = match fields.next() {
            None => None,
            Some("1") => Some(Shown::Yes),
            Some("-1") => Some(Shown::No),
            Some("0") => Some(Shown::Unclear),
            Some(_) => return Err(refuse("expected an image, and 1, -1 or 0 behind it")),
        };
        if fields.next().is_some() {
            return Err(refuse("more than an image and a number"));
        }
        entries.push(Entry { line: number, image: image.into(), shown });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::inspect::{detect, inspect};
    use crate::{Source, has_split, open};

    /// Four images, two of them for training, and the classes cat and dog.
    fn drawn() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let year = folder.path().join("VOCdevkit/VOC2007");
        fs::create_dir_all(year.join(LISTS)).unwrap();
        fs::create_dir_all(year.join("JPEGImages")).unwrap();
        for (name, level) in [("000001", 10), ("000002", 90), ("000005", 160), ("000009", 240)] {
            let image = image::RgbImage::from_pixel(6, 5, image::Rgb([level; 3]));
            let mut bytes = std::io::Cursor::new(Vec::new());
            image.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
            fs::write(year.join(format!("JPEGImages/{name}.jpg")), bytes.into_inner()).unwrap();
        }
        for (list, text) in [
            ("train", "000001\n"),
            ("val", "000005\n"),
            ("trainval", "000001\n000005\n"),
            ("test", "000002\n000009\n"),
            ("cat_train", "000001  1\n"),
            ("dog_train", "000001 -1\n"),
            ("cat_val", "000005 -1\n"),
            ("dog_val", "000005  0\n"),
            ("cat_trainval", "000001  1\n000005 -1\n"),
            ("dog_trainval", "000001 -1\r\n000005  0\r\n"),
            ("cat_test", "000002  1\n000009  0\n"),
            ("dog_test", "000009 -1\n000002  1\n\n"),
        ] {
            fs::write(year.join(format!("{LISTS}/{list}.txt")), text).unwrap();
        }
        folder
    }

    fn list(folder: &TempDir, name: &str) -> PathBuf {
        folder.path().join("VOCdevkit/VOC2007").join(LISTS).join(name)
    }

    /// Images as `name present unclear`.
    fn shown(set: &dyn ImageSet) -> Vec<String> {
        let show = |index| {
            let labels = set.labels(index).unwrap();
            let name = set.name(index);
            let name = name.rsplit('/').next().unwrap().to_owned();
            format!("{name} {:?} {:?}", labels.present, labels.unclear)
        };
        (0..set.len()).map(show).collect()
    }

    #[test]
    fn splits_have_their_images_and_classes() {
        let folder = drawn();
        for below in ["", "VOCdevkit", "VOCdevkit/VOC2007"] {
            let path = folder.path().join(below);
            let source = detect(&path).unwrap();
            assert_eq!(source, Source::Voc { path: Some(path), part: VocPart::Trainval });
            let train = open(&source, Split::Train).unwrap();
            assert_eq!(train.classes(), ["cat", "dog"]);
            assert_eq!(shown(&*train), ["000001.jpg [0] []", "000005.jpg [] [1]"]);
            assert!(!train.has_labels() && train.has_several_labels());
            assert!((150..170).contains(&train.image(1).unwrap().rgb()[0]));
            let test = open(&source, Split::Test).unwrap();
            assert_eq!(shown(&*test), ["000002.jpg [0, 1] []", "000009.jpg [] [0]"]);
        }
        let part = |part| Voc::open(folder.path(), Split::Train, part).unwrap();
        assert_eq!(shown(&part(VocPart::Train)), ["000001.jpg [0] []"]);
        assert_eq!(shown(&part(VocPart::Val)), ["000005.jpg [] [1]"]);
        let source = detect(folder.path()).unwrap();
        let found = inspect(&source, std::num::NonZeroUsize::MIN).unwrap();
        let counts: Vec<usize> = found.splits[1].classes.iter().map(|class| class.images).collect();
        assert_eq!((found.dataset, counts, found.splits[1].unlabelled), ("voc", vec![1, 1], 0));
    }

    #[test]
    fn a_split_without_class_files_has_no_labels() {
        let folder = drawn();
        for class in ["cat", "dog"] {
            fs::remove_file(list(&folder, &format!("{class}_test.txt"))).unwrap();
        }
        let test = Voc::open(folder.path(), Split::Test, VocPart::default()).unwrap();
        assert_eq!((test.len(), test.classes().len(), test.labels(0)), (2, 0, None));
        fs::remove_file(list(&folder, "test.txt")).unwrap();
        let source = detect(folder.path()).unwrap();
        assert!(!has_split(&source, Split::Test).unwrap());
        let message = open(&source, Split::Test).err().unwrap().to_string();
        assert!(message.contains("has no test split: looked for test.txt in "), "{message}");
        let expected =
            "ImageSets/Main, which holds train.txt, trainval.txt, val.txt; give the list of its";
        assert!(message.contains(expected), "{message}");
        let message = Voc::open(&list(&folder, ""), Split::Train, VocPart::Val).err().unwrap();
        assert!(message.to_string().contains("is not PASCAL VOC: give the folder VOC2007"));
    }

    /// The same with only these lists.
    fn drawn_with(lists: &[&str]) -> TempDir {
        let folder = drawn();
        for entry in entries(&list(&folder, "")).unwrap() {
            let name = entry.name();
            let split = name.trim_end_matches(".txt").rsplit('_').next().unwrap().to_owned();
            if !lists.contains(&&*split) {
                fs::remove_file(entry.path).unwrap();
            }
        }
        folder
    }

    #[test]
    fn lists_that_are_not_there_are_made_of_the_others() {
        let [all, first, held_out] = [
            &["000001.jpg [0] []", "000005.jpg [] [1]"][..],
            &["000001.jpg [0] []"],
            &["000005.jpg [] [1]"],
        ];
        let test = &["000002.jpg [0, 1] []", "000009.jpg [] [0]"][..];
        for (lists, part, splits, notes) in [
            (&["trainval", "train", "val"][..], VocPart::Trainval, [Some(all), None], 0),
            (&["train", "val"], VocPart::Trainval, [Some(first), Some(held_out)], 2),
            (&["train", "val", "test"], VocPart::Trainval, [Some(all), Some(test)], 1),
            (&["train", "test"], VocPart::Trainval, [Some(first), Some(test)], 1),
            (&["train"], VocPart::Trainval, [Some(first), None], 1),
            (&["val"], VocPart::Trainval, [None, Some(held_out)], 0),
            (&["train", "val"], VocPart::Train, [Some(first), Some(held_out)], 1),
            (&["train", "val"], VocPart::Val, [Some(held_out), None], 0),
            (&["trainval", "train", "val"], VocPart::Train, [Some(first), None], 0),
        ] {
            let folder = drawn_with(lists);
            for (split, expected) in [Split::Train, Split::Test].into_iter().zip(splits) {
                let found = Voc::open(folder.path(), split, part).ok();
                let has_split = Voc::has_split(folder.path(), split, part).unwrap();
                assert_eq!(has_split, expected.is_some(), "{lists:?}, {part:?}, {split}");
                let names = found.as_ref().map(|set| shown(set));
                let expected =
                    expected.map(|names| names.iter().map(ToString::to_string).collect());
                assert_eq!(names, expected, "{lists:?}, {part:?}, {split}");
                if let Some(set) = found.filter(|_| split == Split::Train) {
                    assert_eq!(set.skipped().notes().len(), notes, "{lists:?}, {part:?}");
                }
            }
        }
        let folder = drawn_with(&["train", "val", "test"]);
        let opened = || Voc::open(folder.path(), Split::Train, VocPart::Trainval);
        let refusal = || opened().err().unwrap().to_string();
        fs::write(list(&folder, "val.txt"), "").unwrap();
        for class in ["cat", "dog"] {
            fs::write(list(&folder, &format!("{class}_val.txt")), "").unwrap();
        }
        assert_eq!(shown(&opened().unwrap()), first);
        fs::write(list(&folder, "val.txt"), "000005\n").unwrap();
        for class in ["cat", "dog"] {
            fs::remove_file(list(&folder, &format!("{class}_val.txt"))).unwrap();
        }
        assert!(
            refusal().contains("val.txt: there are 0 lists of classes for it"),
            "{}",
            refusal()
        );
        fs::write(list(&folder, "val.txt"), "000001\n").unwrap();
        assert!(refusal().contains("val.txt: names 000001, and so does "), "{}", refusal());
    }

    #[test]
    fn a_set_without_a_list_that_is_known_is_refused() {
        let folder = drawn_with(&[]);
        fs::write(list(&folder, "default.txt"), "000001\n").unwrap();
        let source = detect(folder.path()).unwrap();
        assert_eq!(source.kind(), "voc");
        let message = inspect(&source, std::num::NonZeroUsize::MIN).unwrap_err().to_string();
        assert!(message.contains("looked for trainval.txt or train.txt in "), "{message}");
        assert!(message.contains("which holds default.txt; "), "{message}");
    }

    #[test]
    fn images_that_no_list_names_are_counted() {
        let folder = drawn();
        let skipped = |split| {
            let set = Voc::open(folder.path(), split, VocPart::default()).unwrap();
            crate::skipped_lines([set.skipped()])
        };
        assert!(skipped(Split::Train).iter().all(|line| !line.contains("no list")));
        let images = folder.path().join("VOCdevkit/VOC2007").join(IMAGES);
        fs::copy(images.join("000009.jpg"), images.join("000011.jpg")).unwrap();
        let lines = skipped(Split::Train).join("\n");
        assert!(lines.contains("1 image(s) that no list in ImageSets/Main names: "), "{lines}");
        assert!(lines.ends_with("000011.jpg"), "{lines}");
        let other = folder.path().join("VOCdevkit/VOC2012");
        fs::create_dir_all(other.join(LISTS)).unwrap();
        fs::create_dir_all(other.join(IMAGES)).unwrap();
        fs::create_dir_all(images.with_file_name("extra")).unwrap();
        let lines = skipped(Split::Train).join("\n");
        assert!(lines.contains("1 folder(s) that PASCAL VOC does not have: "), "{lines}");
        assert!(lines.contains("1 year(s) of PASCAL VOC beside "), "{lines}");
        assert!(!skipped(Split::Test).join("\n").contains("no list"));
    }

    #[test]
    fn images_of_any_kind_that_is_decoded_are_found() {
        let folder = drawn();
        let images = folder.path().join("VOCdevkit/VOC2007").join(IMAGES);
        image::RgbImage::from_pixel(3, 2, image::Rgb([7; 3]))
            .save(images.join("000001.png"))
            .unwrap();
        fs::rename(images.join("000005.jpg"), images.join("000005.JPEG")).unwrap();
        fs::write(images.join("000005.txt"), "").unwrap();
        let names = || {
            let set = Voc::open(folder.path(), Split::Train, VocPart::Trainval).unwrap();
            let widths = [0, 1].map(|index| set.image(index).map(|image| image.width()).ok());
            (shown(&set), widths)
        };
        // One that is there as published is meant.
        let expected = ["000001.jpg [0] []", "000005.JPEG [] [1]"].map(str::to_owned);
        assert_eq!(names(), (expected.to_vec(), [Some(6), Some(6)]));
        fs::remove_file(images.join("000001.jpg")).unwrap();
        fs::remove_file(images.join("000005.JPEG")).unwrap();
        let expected = ["000001.png [0] []", "000005.jpg [] [1]"].map(str::to_owned);
        assert_eq!(names(), (expected.to_vec(), [Some(3), None]));
    }

    #[test]
    fn lists_that_do_not_fit_are_refused_by_file_and_line() {
        for (text, expected) in [
            ("000001 1\n000003 -1\n", "cat_trainval.txt: line 2: 000003 is not in "),
            ("000001 1\n000001 1\n", "line 2: 000001 is there twice"),
            ("000001 1\n", "cat_trainval.txt: says nothing of 000005, which "),
            ("000001 1\n000005\n", "line 2: 000005 has no 1, -1 or 0 behind it"),
            ("000001 2\n", "line 1: expected an image, and 1, -1 or 0 behind it"),
            ("000001 1 1\n", "line 1: more than an image and a number"),
        ] {
            let folder = drawn();
            fs::write(list(&folder, "cat_trainval.txt"), text).unwrap();
            let message = Voc::open(folder.path(), Split::Train, VocPart::default()).err().unwrap();
            assert!(message.to_string().contains(expected), "{message}");
        }
        let folder = drawn();
        fs::write(list(&folder, "val.txt"), "\n").unwrap();
        let message = Voc::open(folder.path(), Split::Train, VocPart::Val).err().unwrap();
        assert!(message.to_string().contains("the list names none"), "{message}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, Path::new("cat_test.txt"));
        }
    }
}
