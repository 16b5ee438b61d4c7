//! PASCAL VOC: photographs in which objects of several of 20 classes can be seen at once.
//!
//! The folder of a year, such as `VOC2007`, is read as it is published:
//!
//! - `JPEGImages/000005.jpg` and on, of all splits together;
//! - `ImageSets/Main/trainval.txt`, and the same for `train`, `val` and `test`: the names of the images of
//!   a split, one per line, without folder and extension;
//! - `ImageSets/Main/aeroplane_trainval.txt`, and so on for every class and split: behind each name a 1
//!   if the class is in the image, -1 if it is not, and 0 if all there is of it is marked as difficult,
//!   in which case the image counts for that class neither way.
//!
//! The classes are those that have such a file, in alphabetical order. The boxes in `Annotations` are
//! not needed. The test split is that of `test.txt`; a year whose test split has no file per class (all
//! but 2007) has no labels there.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::image_file::read_image;
use crate::set::KeptLabels;
use crate::{ClassLabels, DataError, Image, ImageSet, Split};

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
    names: Vec<Box<str>>,
    labels: Option<Vec<KeptLabels>>,
    classes: Vec<String>,
}

/// Where lists of images lie in the folder of a year.
const LISTS: &str = "ImageSets/Main";

impl Voc {
    /// Reads the lists of a split, given the folder of a year, of 2007 within it, or of
    /// `VOCdevkit/VOC2007` within it; no image is opened yet.
    ///
    /// [`DataError::Request`] if there is no such folder or no list of the split,
    /// [`DataError::Empty`] if it names no images, [`DataError::Malformed`] with the line that is
    /// no image and a 1, -1 or 0, or whose image the split does not have.
    pub fn open(path: &Path, split: Split, part: VocPart) -> Result<Self, DataError> {
        let year = year(path)?;
        let name = file_name(split, part);
        let lists = year.join(LISTS);
        let list = lists.join(format!("{name}.txt"));
        if !list.exists() {
            return Err(DataError::Request(format!(
                "{} has no {split} split: there is no {}",
                path.display(),
                list.display()
            )));
        }
        let names: Vec<Box<str>> = read(&list)?.into_iter().map(|entry| entry.image).collect();
        if names.is_empty() {
            return Err(DataError::empty(&list, "the list names none"));
        }
        let classes = classes(&lists, name)?;
        let labels = match classes.is_empty() {
            true => None,
            false => Some(labels(&names, &list, &lists, name, &classes)?),
        };
        Ok(Self { images: year.join("JPEGImages"), names, labels, classes })
    }

    /// Whether a folder is that of a year or holds that of 2007, told by names.
    pub(crate) fn is_at(path: &Path) -> bool {
        year(path).is_ok()
    }

    /// Whether there is a list of the split.
    pub fn has_split(path: &Path, split: Split, part: VocPart) -> Result<bool, DataError> {
        let list = format!("{LISTS}/{}.txt", file_name(split, part));
        Ok(year(path)?.join(list).exists())
    }
}

impl ImageSet for Voc {
    fn len(&self) -> usize {
        self.names.len()
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
}

impl Voc {
    fn path(&self, index: usize) -> PathBuf {
        self.images.join(format!("{}.jpg", self.names[index]))
    }
}

fn file_name(split: Split, part: VocPart) -> &'static str {
    match (split, part) {
        (Split::Test, _) => "test",
        (Split::Train, VocPart::Trainval) => "trainval",
        (Split::Train, VocPart::Train) => "train",
        (Split::Train, VocPart::Val) => "val",
    }
}

fn year(path: &Path) -> Result<PathBuf, DataError> {
    fs::metadata(path).map_err(DataError::read(path))?;
    let places = ["", "VOC2007", "VOCdevkit/VOC2007"].map(|below| path.join(below));
    let is_year = |place: &PathBuf| place.join(LISTS).is_dir() && place.join("JPEGImages").is_dir();
    places.into_iter().find(is_year).ok_or_else(|| {
        DataError::Request(format!(
            "{} is not PASCAL VOC: give the folder VOC2007, which holds JPEGImages and {LISTS}",
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
        assert!(message.contains("has no test split: there is no "), "{message}");
        let message = Voc::open(&list(&folder, ""), Split::Train, VocPart::Val).err().unwrap();
        assert!(message.to_string().contains("is not PASCAL VOC: give the folder VOC2007"));
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
