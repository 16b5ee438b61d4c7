//! MNIST and its kin: the idx format of its files.
//!
//! An idx file is one array. From <https://yann.lecun.org/exdb/mnist/>: two zero bytes, the type of
//! the elements, the number of dimensions, each dimension as a big-endian integer of 32 bits, and
//! then the elements by rows. Here images are `(N, H, W)` or `(N, H, W, 3)` and labels `(N)`, all
//! of unsigned bytes. The files may be gzipped, as they are published.
//!
//! A folder is one data set: the files whose names contain `images` and `labels` and end in `ubyte`
//! or `idx1`, `idx3` and so on (then perhaps `.gz`); `train` in the name makes the train split,
//! `t10k`, `test` or `val` the test split. The sets are small, so they are read into memory.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::{DataError, Image, ImageSet, Split};

/// Longer arrays are refused, packed or not: they do not belong into memory.
const MAX_BYTES: u64 = 1 << 32;
/// The longest header: four dimensions.
const MAX_HEADER_BYTES: u64 = 4 + 4 * 4;
/// Where torchvision puts the files it downloads.
const INNER_FOLDERS: [&str; 2] = ["raw", "MNIST/raw"];

/// An array of unsigned bytes, by rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array<'a> {
    /// The length of every dimension, of which there are 1 to 4.
    pub shape: Vec<usize>,
    /// As many as the product of the shape.
    pub elements: &'a [u8],
}

/// One split of a set of idx files, in memory.
pub struct Idx {
    path: PathBuf,
    /// `[images, height, width, channels]`.
    pixels: Vec<u8>,
    height: usize,
    width: usize,
    channels: usize,
    labels: Vec<u8>,
    classes: Vec<String>,
}

impl Idx {
    /// Reads a split from a folder of idx files.
    ///
    /// [`DataError::Request`] if the folder does not have the split, [`DataError::Empty`] if it
    /// holds no idx files, [`DataError::Malformed`] with the file that is none, has another shape
    /// or type, or does not fit the other.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        let found = Files::of(path)?;
        let Some((images, labels)) = found.pair(split)? else {
            let path = path.display();
            return Err(DataError::Request(format!(
                "{path} has no {split} split: no {split} images"
            )));
        };
        let (bytes, at, shape) = read(images)?;
        let (count, height, width, channels) = match *shape.as_slice() {
            [count, height, width] => (count, height, width, 1),
            [count, height, width, channels @ (1 | 3)] => (count, height, width, channels),
            _ => {
                let reason =
                    format!("has the shape {shape:?}; images are (N, H, W) or (N, H, W, 3)");
                return Err(DataError::malformed(images, reason));
            }
        };
        if bytes.len() == at {
            return Err(DataError::empty(images, format!("the array has the shape {shape:?}")));
        }
        let own = read_labels(labels)?;
        if own.len() != count {
            let reason = format!("has {} labels for {count} images", own.len());
            return Err(DataError::malformed(labels, reason));
        }
        // Both splits count the classes alike, even if one lacks the last.
        let other = match split {
            Split::Train => Split::Test,
            Split::Test => Split::Train,
        };
        let others = match found.pair(other)? {
            Some((_, labels)) => read_labels(labels)?,
            None => Vec::new(),
        };
        let classes = own.iter().chain(&others).max().map_or(0, |&label| usize::from(label) + 1);
        let mut pixels = bytes;
        pixels.drain(..at);
        Ok(Self {
            path: images.to_owned(),
            pixels,
            height,
            width,
            channels,
            labels: own,
            classes: (0..classes).map(|class| class.to_string()).collect(),
        })
    }

    /// Whether a folder holds idx files, or a file is one, told by names.
    pub(crate) fn is_at(path: &Path) -> bool {
        match path.is_dir() {
            true => {
                !matches!(Files::of(path), Err(DataError::Empty { .. } | DataError::Read { .. }))
            }
            false => path.file_name().is_some_and(|name| role(&name.to_string_lossy()).is_some()),
        }
    }

    /// Whether the folder has images of the split.
    pub fn has_split(path: &Path, split: Split) -> Result<bool, DataError> {
        Ok(Files::of(path)?.pair(split)?.is_some())
    }
}

impl ImageSet for Idx {
    fn len(&self) -> usize {
        self.labels.len()
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
        Some(usize::from(self.labels[index]))
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        format!("{} image {index}", self.path.display())
    }
}

/// The idx files of a folder: images and labels of the train split, then of the test split.
#[derive(Default)]
struct Files([[Option<PathBuf>; 2]; 2]);

impl Files {
    fn of(path: &Path) -> Result<Self, DataError> {
        if !fs::metadata(path).map_err(DataError::read(path))?.is_dir() {
            let reason = "is a file; give the folder of the idx files of images and labels";
            return Err(DataError::malformed(path, reason));
        }
        let inner = INNER_FOLDERS.iter().map(|inner| path.join(inner));
        for folder in [path.to_owned()].into_iter().chain(inner.filter(|inner| inner.is_dir())) {
            let files = Self::in_folder(&folder)?;
            if files.0.iter().flatten().any(Option::is_some) {
                return Ok(files);
            }
        }
        Err(DataError::empty(
            path,
            "looked for idx files such as train-images-idx3-ubyte and train-labels-idx1-ubyte, \
             perhaps with .gz",
        ))
    }

    fn in_folder(folder: &Path) -> Result<Self, DataError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(DataError::read(folder))? {
            names.push(entry.map_err(DataError::read(folder))?.file_name());
        }
        // A file comes before its gzipped twin.
        names.sort();
        let mut files = Self::default();
        for name in names {
            let Some([split, kind]) = role(&name.to_string_lossy()) else { continue };
            let path = folder.join(name);
            match &files.0[split][kind] {
                None => files.0[split][kind] = Some(path),
                Some(first) if stem(first) == stem(&path) => {}
                Some(first) => {
                    return Err(DataError::malformed(
                        &path,
                        format!(
                            "is there beside {}: give a folder with one set of idx files",
                            first.display()
                        ),
                    ));
                }
            }
        }
        Ok(files)
    }

    /// Images and labels of a split, or neither.
    fn pair(&self, split: Split) -> Result<Option<(&Path, &Path)>, DataError> {
        let [images, labels] = match split {
            Split::Train => &self.0[0],
            Split::Test => &self.0[1],
        };
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

/// The path without `.gz`.
fn stem(path: &Path) -> PathBuf {
    match path.extension() {
        Some(extension) if extension == "gz" => path.with_extension(""),
        _ => path.to_owned(),
    }
}

/// Which split a file belongs to (0 is train), and whether it holds images (0) or labels.
fn role(name: &str) -> Option<[usize; 2]> {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let is_idx =
        name.ends_with("ubyte") || name.trim_end_matches(char::is_numeric).ends_with("idx");
    let has = |word: &str| name.contains(word);
    let split = match (has("train"), has("t10k") || has("test") || has("val")) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => return None,
    };
    match (is_idx, has("images"), has("labels")) {
        (true, true, false) => Some([split, 0]),
        (true, false, true) => Some([split, 1]),
        _ => None,
    }
}

/// The bytes of a file, where its elements begin, and its shape.
fn read(path: &Path) -> Result<(Vec<u8>, usize, Vec<usize>), DataError> {
    let file = BufReader::new(File::open(path).map_err(DataError::read(path))?);
    let mut reader: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "gz" => Box::new(GzDecoder::new(file)),
        _ => Box::new(file),
    };
    let mut bytes = Vec::new();
    let mut read = |bytes: &mut Vec<u8>, limit| {
        (&mut reader).take(limit).read_to_end(bytes).map_err(DataError::read(path))
    };
    read(&mut bytes, MAX_HEADER_BYTES)?;
    // The header says how much may follow, so a small archive cannot fill the memory.
    let (shape, at) = header(&bytes, path)?;
    let length = shape.iter().try_fold(1_u64, |length, &side| length.checked_mul(side as u64));
    let Some(length) = length.filter(|&length| length <= MAX_BYTES) else {
        let reason = format!("has the shape {shape:?}; at most {MAX_BYTES} bytes are read");
        return Err(DataError::malformed(path, reason));
    };
    // One byte more tells whether anything follows, and has the checksum compared.
    let missing = (at as u64 + length + 1).saturating_sub(bytes.len() as u64);
    read(&mut bytes, missing)?;
    parse(&bytes, path)?;
    Ok((bytes, at, shape))
}

fn read_labels(path: &Path) -> Result<Vec<u8>, DataError> {
    let (mut bytes, at, shape) = read(path)?;
    if shape.len() != 1 {
        let reason = format!("has the shape {shape:?}; labels are (N)");
        return Err(DataError::malformed(path, reason));
    }
    Ok(bytes.split_off(at))
}

/// The shape, and where the elements begin.
fn header(bytes: &[u8], path: &Path) -> Result<(Vec<usize>, usize), DataError> {
    let &[0, 0, kind, dimensions, ..] = bytes else {
        let reason = "is not an idx file: it does not begin with two zero bytes and a type";
        return Err(DataError::malformed(path, reason));
    };
    let dimensions = usize::from(dimensions);
    if kind != 8 {
        let reason =
            format!("has elements of type 0x{kind:02x}; only 0x08, unsigned bytes, is read");
        return Err(DataError::malformed(path, reason));
    }
    if !(1..=4).contains(&dimensions) {
        let reason = format!("has {dimensions} dimensions; 1 to 4 are read");
        return Err(DataError::malformed(path, reason));
    }
    let at = 4 + 4 * dimensions;
    let sides = bytes.get(4..at).ok_or_else(|| {
        DataError::malformed(path, format!("ends within its header of {at} bytes"))
    })?;
    let (sides, _) = sides.as_chunks();
    Ok((sides.iter().map(|&side| u32::from_be_bytes(side) as usize).collect(), at))
}

/// Reads an idx file of unsigned bytes, unpacked.
pub fn parse<'a>(bytes: &'a [u8], path: &Path) -> Result<Array<'a>, DataError> {
    let (shape, at) = header(bytes, path)?;
    let elements = bytes.get(at..).unwrap_or_default();
    let expected = shape.iter().try_fold(1_usize, |length, &side| length.checked_mul(side));
    if expected != Some(elements.len()) {
        return Err(DataError::malformed(
            path,
            format!(
                "has the shape {shape:?} and {} {} bytes of elements; download it again",
                if expected.is_some_and(|expected| expected < elements.len()) {
                    "at least"
                } else {
                    "only"
                },
                elements.len()
            ),
        ));
    }
    Ok(Array { shape, elements })
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
        let labels = [idx(&[2], &[4, 0]), idx(&[1], &[7])];
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
            // Label 7 occurs in the test split alone.
            assert_eq!((train.classes().len(), train.classes()[7].as_str()), (8, "7"));
            let test = Idx::open(folder.path(), Split::Test).unwrap();
            let image = test.image(0).unwrap();
            assert_eq!((image.width(), image.height()), (1, 2));
            assert_eq!(image.rgb(), [1, 2, 3, 4, 5, 6]);
            assert_eq!((test.label(0), test.classes().len()), (Some(7), 8));
        }
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
                "has the shape [2, 1, 1]; labels are (N)",
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
        let sound = folder(&[(name, images), (labels_name, idx(&[2], &[0, 1]))]);
        assert!(failure(&sound, Split::Test).contains("has no test split"));
        assert!(!Idx::has_split(sound.path(), Split::Test).unwrap());
        let message = Idx::open(&sound.path().join(name), Split::Train).err().unwrap().to_string();
        assert!(message.contains("is a file; give the folder of the idx files"), "{message}");
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
            ("train-images-ubyte", other_type, "elements of type 0x0d; only 0x08"),
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
            kept in 0..5_usize, tail in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let bytes = [&[0, 0, 8, 3, 0][..kept], &tail].concat();
            if let Ok(array) = parse(&bytes, Path::new("some")) {
                prop_assert_eq!(array.shape.iter().product::<usize>(), array.elements.len());
            }
        }
    }
}
