//! MNIST and sets in the same form: the idx format of its files.
//!
//! An idx file is one array. From <https://yann.lecun.org/exdb/mnist/>: two zero bytes, the type of
//! the elements, the number of dimensions, each dimension as a big-endian integer of 32 bits, and
//! then the elements by rows. Here images are `(N, H, W)` or `(N, H, W, 3)` of unsigned bytes, and labels
//! `(N)` of any integers, or `(N, 8)` as in QMNIST, where the first column is the class. The files may be
//! gzipped, as they are published.
//!
//! A folder is one data set: the files whose names contain `images` and `labels` and end in `ubyte`,
//! `idx3` and so on, or `idx2-int` (then perhaps `.gz`). Their split is told by a [word of splits](crate) or
//! `t10k`. A file may also be in a folder of its own name, as on Kaggle, and all of them in `raw` or
//! `MNIST/raw`, as torchvision puts them. The sets are small, so they are read into memory.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::beside::Beside;
use crate::classes::{Fault, Labels, Scheme, Written};
use crate::split_files::entries;
use crate::splits::{Part, part_of_file};
use crate::{DataError, Image, ImageSet, Skipped, Split};

/// Longer arrays are refused, packed or not: they do not belong into memory.
const MAX_BYTES: u64 = 1 << 32;
/// The longest header: four dimensions.
const MAX_HEADER_BYTES: u64 = 4 + 4 * 4;
/// Where torchvision puts the files it downloads: in `raw`, or in it in a folder of the set's name.
const INNER_FOLDER: &str = "raw";
/// The columns of QMNIST's labels.
const QMNIST_COLUMNS: usize = 8;

/// The type of the elements of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Unsigned bytes.
    Unsigned8,
    /// Signed bytes.
    Signed8,
    /// Signed integers of 16 bits.
    Signed16,
    /// Signed integers of 32 bits.
    Signed32,
}

impl Element {
    fn from_code(code: u8) -> Option<Self> {
        match code {
            0x08 => Some(Self::Unsigned8),
            0x09 => Some(Self::Signed8),
            0x0b => Some(Self::Signed16),
            0x0c => Some(Self::Signed32),
            _ => None,
        }
    }

    /// The length of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Unsigned8 | Self::Signed8 => 1,
            Self::Signed16 => 2,
            Self::Signed32 => 4,
        }
    }

    fn value(self, bytes: &[u8]) -> i64 {
        match (self, bytes) {
            (Self::Unsigned8, &[byte]) => i64::from(byte),
            (Self::Signed8, &[byte]) => i64::from(byte.cast_signed()),
            (Self::Signed16, &[a, b]) => i64::from(i16::from_be_bytes([a, b])),
            (Self::Signed32, &[a, b, c, d]) => i64::from(i32::from_be_bytes([a, b, c, d])),
            _ => 0,
        }
    }
}

/// An array of integers, by rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array<'a> {
    /// The type of its elements.
    pub element: Element,
    /// The length of every dimension, of which there are 1 to 4.
    pub shape: Vec<usize>,
    /// As many elements as the product of the shape, big-endian.
    pub elements: &'a [u8],
}

/// One split of a set of idx files, in memory.
pub struct Idx {
    path: PathBuf,
    /// `[images, height, width, channels]`.
    pixels: Vec<u8>,
    images: usize,
    height: usize,
    width: usize,
    channels: usize,
    labels: Labels,
    classes: Vec<String>,
    skipped: Skipped,
}

impl Idx {
    /// Reads a split from a folder of idx files.
    ///
    /// [`DataError::Request`] if the folder does not have the split, [`DataError::Empty`] if it
    /// holds no idx files, [`DataError::Malformed`] with the file that is none, has another shape
    /// or type, or does not fit the other, or a label that the train split does not have.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        let found = Files::find(path)?;
        // A set of which one split is not whole is refused by every command, whichever split it reads.
        found.pair(Split::Train)?;
        found.pair(Split::Test)?;
        let Some((images, labels)) = found.pair(split)? else {
            let path = path.display();
            return Err(DataError::Request(format!(
                "{path} has no {split} split: no {split} images"
            )));
        };
        let Stored { bytes: mut pixels, header: Header { element, shape, at } } = read(images)?;
        if element != Element::Unsigned8 {
            let reason = "its elements are not unsigned bytes, and images are";
            return Err(DataError::malformed(images, reason));
        }
        let (count, height, width, channels) = match *shape.as_slice() {
            [count, height, width] => (count, height, width, 1),
            [count, height, width, channels @ (1 | 3)] => (count, height, width, channels),
            _ => {
                let reason =
                    format!("has the shape {shape:?}; images are (N, H, W) or (N, H, W, 3)");
                return Err(DataError::malformed(images, reason));
            }
        };
        if pixels.len() == at {
            return Err(DataError::empty(images, format!("the array has the shape {shape:?}")));
        }
        pixels.drain(..at);
        let own = read_labels(labels)?;
        if own.len() != count {
            let reason = format!("has {} labels for {count} images", own.len());
            return Err(DataError::malformed(labels, reason));
        }
        let train = match found.pair(Split::Train)? {
            Some((_, train)) if split == Split::Test => Some(read_labels(train)?),
            _ => None,
        };
        let fault = |Fault { image, reason }: Fault| {
            DataError::malformed(labels, format!("label {image}: {reason}"))
        };
        let scheme = Scheme::from_labels(&own, train.as_ref(), None).map_err(fault)?;
        let numbered = scheme.number(&own).map_err(fault)?;
        let mut skipped = Skipped::new();
        if split == Split::Test && found.has_unused_test() {
            let reason = "file(s) of the test part, since the validation part is the test split";
            skipped.add_many(reason, 2, path.display().to_string());
        }
        if split == Split::Train || found.pair(Split::Train)?.is_none() {
            let name =
                |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let beside = Beside {
                is_own: &|path| role(&name(path)).is_some(),
                image_reason: &|_| "image(s) beside the idx files".into(),
                kind: None,
            };
            skipped.merge(&beside.count(path));
        }
        Ok(Self {
            path: images.to_owned(),
            pixels,
            images: count,
            height,
            width,
            channels,
            labels: numbered,
            classes: scheme.classes(),
            skipped,
        })
    }

    /// Whether a folder holds idx files, or a file is one, told by names.
    pub(crate) fn is_at(path: &Path) -> bool {
        if path.is_dir() {
            !matches!(Files::find(path), Err(DataError::Empty { .. } | DataError::Read { .. }))
        } else {
            path.file_name().is_some_and(|name| role(&name.to_string_lossy()).is_some())
        }
    }

    /// Whether the folder has images of the split.
    pub fn has_split(path: &Path, split: Split) -> Result<bool, DataError> {
        Ok(Files::find(path)?.pair(split)?.is_some())
    }
}

impl ImageSet for Idx {
    fn len(&self) -> usize {
        self.images
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        let size = self.height * self.width * self.channels;
        let pixels = &self.pixels[index * size..][..size];
        let image = if self.channels == 3 {
            Image::new(self.width, self.height, pixels)
        } else {
            let rgb: Vec<u8> = pixels.iter().flat_map(|&grey| [grey; 3]).collect();
            Image::new(self.width, self.height, rgb)
        };
        image.ok_or_else(|| DataError::Request(format!("{} has no pixels", self.name(index))))
    }

    fn one_size(&self) -> Option<(usize, usize)> {
        Some((self.width, self.height))
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.labels.label(index)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        format!("{} image {index}", self.path.display())
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Images,
    Labels,
}

/// The idx files of a folder: images and labels of each part, in the order of [`Part`].
#[derive(Debug, Default)]
struct Files([[Option<PathBuf>; 2]; 3]);

impl Files {
    fn find(path: &Path) -> Result<Self, DataError> {
        if !fs::metadata(path).map_err(DataError::read(path))?.is_dir() {
            let reason = "is a file; give the folder of the idx files of images and labels";
            return Err(DataError::malformed(path, reason));
        }
        let mut folders = vec![path.to_owned(), path.join(INNER_FOLDER)];
        for entry in entries(path)?.into_iter().filter(|entry| entry.is_folder) {
            folders.push(entry.path.join(INNER_FOLDER));
        }
        let mut found: Option<(PathBuf, Self)> = None;
        for folder in folders.into_iter().filter(|folder| folder.is_dir()) {
            let files = Self::in_folder(&folder)?;
            if files.0.iter().flatten().all(Option::is_none) {
                continue;
            }
            if let Some((first, _)) = found {
                let (first, second) = (first.display(), folder.display());
                let reason =
                    format!("holds idx files in {first} and in {second}; give one of them");
                return Err(DataError::malformed(path, reason));
            }
            if folder == path || folder == path.join(INNER_FOLDER) {
                return Ok(files);
            }
            found = Some((folder, files));
        }
        found.map(|(_, files)| files).ok_or_else(|| {
            DataError::empty(
                path,
                "looked for idx files such as train-images-idx3-ubyte and \
                 train-labels-idx1-ubyte, perhaps with .gz",
            )
        })
    }

    fn in_folder(folder: &Path) -> Result<Self, DataError> {
        let mut files = Self::default();
        let (folders, plain): (Vec<_>, Vec<_>) =
            entries(folder)?.into_iter().partition(|entry| entry.is_folder);
        for file in plain {
            files.add(&file.path)?;
        }
        for folder in folders.into_iter().filter(|folder| role(&folder.name()).is_some()) {
            for file in entries(&folder.path)?.into_iter().filter(|entry| !entry.is_folder) {
                files.add(&file.path)?;
            }
        }
        Ok(files)
    }

    /// Adds a file if it is one of a set. The first of twins counts: a file and the same gzipped, or in a
    /// folder of its name.
    fn add(&mut self, path: &Path) -> Result<(), DataError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((part, content)) = role(&name) else { return Ok(()) };
        let known = &mut self.0[part as usize][content as usize];
        match known {
            None => *known = Some(path.to_owned()),
            Some(first) if stem(first) == stem(path) => {}
            Some(first) => {
                let reason = format!(
                    "is there beside {}: give a folder with one set of idx files",
                    first.display()
                );
                return Err(DataError::malformed(path, reason));
            }
        }
        Ok(())
    }

    fn has_unused_test(&self) -> bool {
        let has = |part: Part| self.0[part as usize].iter().any(Option::is_some);
        has(Part::Validation) && has(Part::Test)
    }

    /// Images and labels of a split, or neither.
    fn pair(&self, split: Split) -> Result<Option<(&Path, &Path)>, DataError> {
        let part = match split {
            Split::Train => Part::Train,
            Split::Test if self.0[Part::Validation as usize].iter().any(Option::is_some) => {
                Part::Validation
            }
            Split::Test => Part::Test,
        };
        let [images, labels] = &self.0[part as usize];
        match (images, labels) {
            (Some(images), Some(labels)) => Ok(Some((images, labels))),
            (None, None) => Ok(None),
            (Some(file), None) => {
                Err(DataError::malformed(file, "has no file of labels beside it"))
            }
            (None, Some(file)) => {
                Err(DataError::malformed(file, "has no file of images beside it"))
            }
        }
    }
}

/// The name of a file without `.gz`; dots and dashes are one, as are cases.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name.strip_suffix(".gz").unwrap_or(&name).replace('.', "-")
}

/// Which part a file belongs to, and what it holds.
fn role(name: &str) -> Option<(Part, Content)> {
    let name = name.to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let words = || name.split(|letter: char| !letter.is_ascii_alphanumeric());
    let is_idx_word = |word: &str| {
        word.strip_prefix("idx")
            .is_some_and(|d| !d.is_empty() && d.bytes().all(|d| d.is_ascii_digit()))
    };
    if !(words().any(is_idx_word) || name.ends_with("ubyte")) {
        return None;
    }
    let has = |word: &str| name.contains(word);
    let part = part_of_file(name).or_else(|| match (has("train"), has("t10k") || has("test")) {
        (true, false) => Some(Part::Train),
        (false, true) => Some(Part::Test),
        _ => None,
    })?;
    match (has("images"), has("labels")) {
        (true, false) => Some((part, Content::Images)),
        (false, true) => Some((part, Content::Labels)),
        _ => None,
    }
}

/// What the start of a file says.
#[derive(Debug)]
struct Header {
    element: Element,
    shape: Vec<usize>,
    /// Where the elements begin.
    at: usize,
}

impl Header {
    /// The length of all elements, if it can be counted.
    fn bytes(&self) -> Option<u64> {
        let sides = self.shape.iter().map(|&side| side as u64);
        sides.chain([self.element.bytes() as u64]).try_fold(1_u64, u64::checked_mul)
    }
}

/// A file, unpacked.
struct Stored {
    bytes: Vec<u8>,
    header: Header,
}

fn read(path: &Path) -> Result<Stored, DataError> {
    let mut file = BufReader::new(File::open(path).map_err(DataError::read(path))?);
    // Names do not tell it: browsers and archives unpack files or leave the extension away.
    let start = std::io::BufRead::fill_buf(&mut file).map_err(DataError::read(path))?;
    let mut reader: Box<dyn Read> = if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(GzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut bytes = Vec::new();
    let mut read = |bytes: &mut Vec<u8>, limit| {
        (&mut reader).take(limit).read_to_end(bytes).map_err(DataError::read(path))
    };
    read(&mut bytes, MAX_HEADER_BYTES)?;
    // The header says how much may follow, so a small archive cannot fill the memory.
    let header = header(&bytes, path)?;
    let Some(length) = header.bytes().filter(|&length| length <= MAX_BYTES) else {
        let shape = &header.shape;
        let reason = format!("has the shape {shape:?}; at most {MAX_BYTES} bytes are read");
        return Err(DataError::malformed(path, reason));
    };
    // One byte more tells whether anything follows, and has the checksum compared.
    let missing = (header.at as u64 + length + 1).saturating_sub(bytes.len() as u64);
    read(&mut bytes, missing)?;
    parse(&bytes, path)?;
    Ok(Stored { bytes, header })
}

fn read_labels(path: &Path) -> Result<Written, DataError> {
    let Stored { bytes, header: Header { element, shape, at } } = read(path)?;
    let columns = match *shape.as_slice() {
        [_] => 1,
        [_, QMNIST_COLUMNS] => QMNIST_COLUMNS,
        _ => {
            let reason = format!("has the shape {shape:?}; labels are (N), or (N, 8) in QMNIST");
            return Err(DataError::malformed(path, reason));
        }
    };
    let mut written = Written::default();
    for row in bytes[at..].chunks_exact(columns * element.bytes()) {
        let label = element.value(&row[..element.bytes()]);
        written.push(Some(&label.to_string()));
    }
    Ok(written)
}

/// The shape, the type and where the elements begin.
fn header(bytes: &[u8], path: &Path) -> Result<Header, DataError> {
    let &[0, 0, code, dimensions, ..] = bytes else {
        let reason = "is not an idx file: it does not begin with two zero bytes and a type";
        return Err(DataError::malformed(path, reason));
    };
    let dimensions = usize::from(dimensions);
    let Some(element) = Element::from_code(code) else {
        let reason = format!(
            "has elements of type 0x{code:02x}; unsigned bytes (0x08) and signed integers are read"
        );
        return Err(DataError::malformed(path, reason));
    };
    if !(1..=4).contains(&dimensions) {
        let reason = format!("has {dimensions} dimensions; 1 to 4 are read");
        return Err(DataError::malformed(path, reason));
    }
    let at = 4 + 4 * dimensions;
    let sides = bytes.get(4..at).ok_or_else(|| {
        DataError::malformed(path, format!("ends within its header of {at} bytes"))
    })?;
    let (sides, _) = sides.as_chunks();
    let shape = sides.iter().map(|&side| u32::from_be_bytes(side) as usize).collect();
    Ok(Header { element, shape, at })
}

/// Reads an idx file of integers, unpacked.
pub fn parse<'a>(bytes: &'a [u8], path: &Path) -> Result<Array<'a>, DataError> {
    let header = header(bytes, path)?;
    let elements = bytes.get(header.at..).unwrap_or_default();
    let (expected, found) = (header.bytes(), elements.len() as u64);
    let Header { element, shape, .. } = header;
    if expected != Some(found) {
        let is_longer = expected.is_some_and(|expected| expected < found);
        let reason = format!(
            "has the shape {shape:?} and {} {found} bytes of elements; download it again",
            if is_longer { "at least" } else { "only" },
        );
        return Err(DataError::malformed(path, reason));
    }
    Ok(Array { element, shape, elements })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn idx(shape: &[u32], elements: &[u8]) -> Vec<u8> {
        let sides = shape.iter().flat_map(|side| side.to_be_bytes());
        [0, 0, 8, shape.len() as u8].into_iter().chain(sides).chain(elements.to_vec()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    fn failure(folder: &TempDir, split: Split) -> String {
        Idx::open(folder.path(), split).err().expect("an error").to_string()
    }

    #[test]
    fn grey_and_colour_images_are_read_plain_or_gzipped() {
        let grey = idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
        let colour = idx(&[1, 2, 1, 3], &[1, 2, 3, 4, 5, 6]);
        let labels = [idx(&[2], &[4, 0]), idx(&[1], &[3])];
        for folder in [
            folder(&[
                ("train-images-idx3-ubyte", grey.clone()),
                ("train-labels-idx1-ubyte", labels[0].clone()),
                ("t10k-images-idx3-ubyte", colour.clone()),
                ("t10k-labels-idx1-ubyte", labels[1].clone()),
                ("notes.txt", Vec::new()),
            ]),
            folder(&[
                ("MNIST/raw/my-train-images.idx3-ubyte.gz", gzip(&grey)),
                ("MNIST/raw/my-train-labels.idx1-ubyte.gz", gzip(&labels[0])),
                ("MNIST/raw/my-train-labels.idx1-ubyte", labels[0].clone()),
                ("MNIST/raw/my-test-images.idx4.gz", gzip(&colour)),
                ("MNIST/raw/my-test-labels.idx1.gz", gzip(&labels[1])),
            ]),
        ] {
            let train = Idx::open(folder.path(), Split::Train).unwrap();
            assert_eq!((train.len(), train.label(0), train.label(1)), (2, Some(4), Some(0)));
            let image = train.image(1).unwrap();
            assert_eq!((image.width(), image.height()), (3, 1));
            assert_eq!(image.rgb(), [4, 4, 4, 5, 5, 5, 6, 6, 6]);
            assert!(train.name(1).contains("train-images") && train.name(1).ends_with(" image 1"));
            assert_eq!((train.classes().len(), train.classes()[4].as_str()), (5, "4"));
            let test = Idx::open(folder.path(), Split::Test).unwrap();
            let image = test.image(0).unwrap();
            assert_eq!((image.width(), image.height()), (1, 2));
            assert_eq!(image.rgb(), [1, 2, 3, 4, 5, 6]);
            assert_eq!((test.label(0), test.classes().len()), (Some(3), 5));
        }
    }

    #[test]
    fn what_lies_beside_the_files_is_counted_once() {
        let (images, labels) = (idx(&[1, 1, 1], &[1]), idx(&[1], &[0]));
        let folder = folder(&[
            ("raw/train-images-idx3-ubyte", images.clone()),
            ("raw/train-images-idx3-ubyte.gz", gzip(&images)),
            ("raw/train-labels-idx1-ubyte", labels.clone()),
            ("raw/t10k-images-idx3-ubyte", images),
            ("raw/t10k-labels-idx1-ubyte", labels),
            ("preview.png", Vec::new()),
            ("raw/labels.csv", Vec::new()),
            ("x.heic", Vec::new()),
        ]);
        let train = Idx::open(folder.path(), Split::Train).unwrap();
        let reasons = train.skipped().reasons().iter().map(|reason| reason.reason.as_str());
        assert_eq!(
            reasons.collect::<Vec<_>>(),
            [
                "image(s) beside the idx files",
                "image(s) of a kind that is not read (.heic)",
                "other file(s)",
            ]
        );
        assert!(Idx::open(folder.path(), Split::Test).unwrap().skipped().is_empty());
    }

    #[test]
    fn sets_that_do_not_fit_are_refused() {
        let images = idx(&[2, 1, 1], &[1, 2]);
        let (name, labels_name) = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte");
        for (files, expected) in [
            (vec![], "looked for idx files such as train-images-idx3-ubyte"),
            (
                vec![(name, images.clone())],
                "train-images-idx3-ubyte: has no file of labels beside it",
            ),
            (vec![(labels_name, images.clone())], "has no file of images beside it"),
            (
                vec![(name, images.clone()), (labels_name, idx(&[1], &[0]))],
                "train-labels-idx1-ubyte: has 1 labels for 2 images",
            ),
            (
                vec![(name, images.clone()), (labels_name, images.clone())],
                "has the shape [2, 1, 1]; labels are (N), or (N, 8) in QMNIST",
            ),
            (
                vec![(name, idx(&[2], &[0, 1])), (labels_name, idx(&[2], &[0, 1]))],
                "has the shape [2]; images are (N, H, W) or (N, H, W, 3)",
            ),
            (vec![(name, idx(&[0, 28, 28], &[])), (labels_name, idx(&[0], &[]))], "no images in "),
            (
                vec![(name, images.clone()), ("b-train-images-idx3-ubyte", images.clone())],
                "is there beside ",
            ),
        ] {
            let message = failure(&folder(&files), Split::Train);
            assert!(message.contains(expected), "{message}");
        }
        // Of whichever split.
        let half = [
            (name, images.clone()),
            (labels_name, idx(&[2], &[0, 1])),
            ("t10k-images-idx3-ubyte", images.clone()),
        ];
        for split in [Split::Train, Split::Test] {
            let message = failure(&folder(&half), split);
            assert!(message.contains("t10k-images-idx3-ubyte: has no file of labels"), "{message}");
        }
        let sound = folder(&[(name, images), (labels_name, idx(&[2], &[0, 1]))]);
        assert!(failure(&sound, Split::Test).contains("has no test split"));
        assert!(!Idx::has_split(sound.path(), Split::Test).unwrap());
        let message = Idx::open(&sound.path().join(name), Split::Train).err().unwrap().to_string();
        assert!(message.contains("is a file; give the folder of the idx files"), "{message}");
    }

    #[test]
    fn sets_are_read_in_the_layouts_in_which_they_are_downloaded() {
        let (two, one) = (idx(&[2, 1, 1], &[10, 20]), idx(&[1, 1, 1], &[30]));
        let (labels, label) = (idx(&[2], &[1, 0]), idx(&[1], &[1]));
        let int = |rows: &[[i32; 8]]| {
            let mut bytes = vec![0, 0, 0x0c, 2];
            bytes.extend((rows.len() as u32).to_be_bytes());
            bytes.extend(8_u32.to_be_bytes());
            rows.iter().flatten().for_each(|value| bytes.extend(value.to_be_bytes()));
            bytes
        };
        let row = |class: i32| [class, 0, 2, 3, 4, 5, 6, 7];
        let plain = [&two, &labels, &one, &label].map(Clone::clone);
        let zipped = plain.clone().map(|bytes| gzip(&bytes));
        for (names, [a, b, c, d]) in [
            // Kaggle: each file in a folder of its name, and again beside it with a dot.
            (
                [
                    "train-images-idx3-ubyte/train-images-idx3-ubyte",
                    "train-labels-idx1-ubyte/train-labels-idx1-ubyte",
                    "t10k-images-idx3-ubyte/t10k-images-idx3-ubyte",
                    "t10k-labels-idx1-ubyte/t10k-labels-idx1-ubyte",
                ],
                plain.clone(),
            ),
            (
                [
                    "train-images.idx3-ubyte",
                    "train-labels.idx1-ubyte",
                    "t10k-images.idx3-ubyte",
                    "t10k-labels.idx1-ubyte",
                ],
                plain.clone(),
            ),
            (
                [
                    "emnist-letters-train-images-idx3-ubyte.gz",
                    "emnist-letters-train-labels-idx1-ubyte.gz",
                    "emnist-letters-test-images-idx3-ubyte.gz",
                    "emnist-letters-test-labels-idx1-ubyte.gz",
                ],
                zipped.clone(),
            ),
            // Unpacked with the extension left, and the other way round.
            (
                [
                    "FashionMNIST/raw/train-images-idx3-ubyte",
                    "FashionMNIST/raw/train-labels-idx1-ubyte.gz",
                    "FashionMNIST/raw/val-images-idx3-ubyte",
                    "FashionMNIST/raw/val-labels-idx1-ubyte",
                ],
                [zipped[0].clone(), plain[1].clone(), zipped[2].clone(), plain[3].clone()],
            ),
            (
                [
                    "qmnist-train-images-idx3-ubyte.gz",
                    "qmnist-train-labels-idx2-int.gz",
                    "qmnist-test-images-idx3-ubyte",
                    "qmnist-test-labels-idx2-int",
                ],
                [gzip(&two), gzip(&int(&[row(1), row(0)])), one.clone(), int(&[row(1)])],
            ),
        ] {
            let files: Vec<(&str, Vec<u8>)> = names.into_iter().zip([a, b, c, d]).collect();
            let folder = folder(&files);
            let train = Idx::open(folder.path(), Split::Train).unwrap();
            assert_eq!((train.len(), train.label(0), train.classes().len()), (2, Some(1), 2));
            assert_eq!(train.image(1).unwrap().rgb(), [20; 3]);
            let test = Idx::open(folder.path(), Split::Test).unwrap();
            assert_eq!(
                (test.len(), test.label(0), test.image(0).unwrap().rgb()[0]),
                (1, Some(1), 30)
            );
            assert!(Idx::is_at(folder.path()));
        }
        let twice = folder(&[
            ("train-images-idx3-ubyte/train-images-idx3-ubyte", two.clone()),
            ("train-images.idx3-ubyte", two.clone()),
            ("train-labels.idx1-ubyte", labels.clone()),
            ("train-labels-idx1-ubyte/train-labels-idx1-ubyte", labels),
        ]);
        assert_eq!(Idx::open(twice.path(), Split::Train).unwrap().len(), 2);
        let both = folder(&[
            ("A/raw/train-images-idx3-ubyte", two.clone()),
            ("B/raw/train-images-idx3-ubyte", two),
        ]);
        assert!(failure(&both, Split::Train).contains("; give one of them"));
    }

    #[test]
    fn labels_have_the_meaning_that_they_have_everywhere() {
        let (two, one) = (idx(&[2, 1, 1], &[10, 20]), idx(&[1, 1, 1], &[30]));
        let mut short = vec![0, 0, 0x0b, 1, 0, 0, 0, 2];
        [300_i16, -1].iter().for_each(|label| short.extend(label.to_be_bytes()));
        let folder = folder(&[
            ("train-images-idx3-ubyte", two),
            ("train-labels-idx1-short", short),
            ("test-images-idx3-ubyte", one),
            ("test-labels-idx1-ubyte", idx(&[1], &[7])),
        ]);
        let train = Idx::open(folder.path(), Split::Train).unwrap();
        assert_eq!((train.label(0), train.label(1), train.classes().len()), (Some(300), None, 301));
        assert_eq!(Idx::open(folder.path(), Split::Test).unwrap().label(0), Some(7));
        let small = idx(&[2], &[1, 0]);
        fs::remove_file(folder.path().join("train-labels-idx1-short")).unwrap();
        fs::write(folder.path().join("train-labels-idx1-ubyte"), small).unwrap();
        let message = failure(&folder, Split::Test);
        assert!(
            message.contains("label 0: \"7\" is a class that the train split does not have"),
            "{message}"
        );
    }

    #[test]
    fn damaged_files_are_refused() {
        let sound = idx(&[2, 1, 1], &[1, 2]);
        let labels = idx(&[2], &[0, 1]);
        let mut other_type = sound.clone();
        other_type[2] = 0x0d;
        let packed = gzip(&sound);
        let bomb = gzip(&idx(&[u32::MAX, u32::MAX, 1], &[0; 1000]));
        for (name, bytes, expected) in [
            ("train-images-ubyte", sound[..17].to_vec(), "[2, 1, 1] and only 1 bytes"),
            ("train-images-ubyte", [&sound[..], b"x"].concat(), "[2, 1, 1] and at least 3 bytes"),
            ("train-images-ubyte", sound[..9].to_vec(), "ends within its header of 16 bytes"),
            ("train-images-ubyte", b"<html>".to_vec(), "is not an idx file"),
            ("train-images-ubyte", other_type, "elements of type 0x0d; unsigned bytes (0x08)"),
            ("train-images-ubyte", idx(&[1; 5], &[1]), "has 5 dimensions; 1 to 4 are read"),
            ("train-images-ubyte.gz", packed[..packed.len() - 3].to_vec(), "cannot read "),
            ("train-images-ubyte.gz", bomb, "at most 4294967296 bytes are read"),
        ] {
            let folder = folder(&[(name, bytes), ("train-labels-ubyte", labels.clone())]);
            let message = failure(&folder, Split::Train);
            assert!(message.contains(name) && message.contains(expected), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_array_or_refused(
            kept in 0..5_usize, code in 7..14_u8, tail in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let bytes = [&[0, 0, code, 3, 0][..kept], &tail].concat();
            if let Ok(array) = parse(&bytes, Path::new("some")) {
                let elements = array.shape.iter().product::<usize>();
                prop_assert_eq!(elements * array.element.bytes(), array.elements.len());
            }
        }
    }
}
