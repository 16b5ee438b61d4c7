//! STL-10, from the folder of its binary version.
//!
//! The set was made for learning from few labels: 5,000 labelled train images, 8,000 test images, and
//! 100,000 without labels, which nothing here may take for labelled ones. Like CIFAR's, its files
//! have neither header nor checksum, so this module insists on their exact size and on the range of
//! every label. The format, from <https://cs.stanford.edu/~acoates/stl10/>: an image is 96x96 pixels
//! as three planes, red, green, blue, each by columns (not rows); labels lie in a file of their own,
//! one byte from 1 to 10 per image. `fold_indices.txt`, ten small folds of the train images, is not
//! read.
//!
//! The unlabelled images take 2.8 GB. So pixels stay in their files, and an image is read when it is
//! asked for; the system keeps in memory what fits.
//!
//! Of the archive `stl10_binary.tar.gz` as it is published the labelled images are read into memory
//! (138 MB of the train split, 221 MB of the test split), which takes as long as unpacking what comes
//! before them. The unlabelled ones are not read from it: gzip has no way to one image but through all
//! before it. They need the archive unpacked; `nearkin data pack` then makes one file of it.

use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};

use crate::{DataError, Image, ImageSet, Split};

const SIDE_PIXELS: usize = 96;
const PLANE_BYTES: usize = SIDE_PIXELS * SIDE_PIXELS;
const IMAGE_BYTES: usize = 3 * PLANE_BYTES;

const FOLDER: &str = "stl10_binary";
const ARCHIVE: &str = "stl10_binary.tar.gz";
/// Members of an archive that may come before the first one that tells what it is.
const MEMBERS_BEFORE: usize = 16;
const NAMES_FILE: &str = "class_names.txt";
const KNOWN_NAMES: [&str; 10] =
    ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

/// Which images make the train split; in a recipe, `part = "train_and_unlabeled"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stl10Part {
    /// The 100,000 images without labels.
    Unlabeled,
    /// The 5,000 labelled ones.
    Train,
    /// Both, the labelled ones first.
    #[default]
    TrainAndUnlabeled,
}

/// Images in each file.
struct Layout {
    train: usize,
    test: usize,
    unlabeled: usize,
}

const PUBLISHED: Layout = Layout { train: 5_000, test: 8_000, unlabeled: 100_000 };

/// A file of pixels.
struct Pixels {
    path: PathBuf,
    place: Place,
    images: usize,
}

/// Where pixels are.
enum Place {
    File(File),
    Memory(Vec<u8>),
}

impl Place {
    fn read_exact_at(&self, planes: &mut [u8], at: usize) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(planes, at as u64),
            Self::Memory(bytes) => bytes.get(at..).unwrap_or_default().read_exact(planes),
        }
    }
}

/// One split of STL-10: 96x96 images, read from their files when asked for.
pub struct Stl10 {
    files: Vec<Pixels>,
    /// From 0, of the first images; the others have none.
    labels: Vec<u8>,
    classes: Vec<String>,
}

impl Stl10 {
    /// Opens a split of `stl10_binary`, of the folder that holds it or its archive, or of the archive;
    /// `part` says which images make the train split, of an archive [`Stl10Part::Train`] alone.
    ///
    /// Errors name the file that is absent, is not of the exact size, or holds a label out of range
    /// (with the record, counted from 0).
    pub fn open(path: &Path, split: Split, part: Stl10Part) -> Result<Self, DataError> {
        PUBLISHED.open(path, split, part)
    }

    /// Whether a file is the archive, told by the names in it.
    pub(crate) fn is_archive(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return false };
        let mut archive = tar::Archive::new(GzDecoder::new(BufReader::new(file)));
        let Ok(entries) = archive.entries() else { return false };
        entries.raw(true).take(MEMBERS_BEFORE).map_while(Result::ok).any(|entry| {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            name.split('/').any(|part| part == FOLDER)
        })
    }
}

impl Layout {
    fn open(&self, path: &Path, split: Split, part: Stl10Part) -> Result<Stl10, DataError> {
        let folder = locate(path)?;
        if !folder.is_dir() {
            return self.open_archive(&folder, split, part);
        }
        let labelled = match (split, part) {
            (Split::Test, _) => Some(("test", self.test)),
            (Split::Train, Stl10Part::Unlabeled) => None,
            (Split::Train, Stl10Part::Train | Stl10Part::TrainAndUnlabeled) => {
                Some(("train", self.train))
            }
        };
        let mut set = Stl10 { files: Vec::new(), labels: Vec::new(), classes: Vec::new() };
        if let Some((name, images)) = labelled {
            set.files.push(open_pixels(folder.join(format!("{name}_X.bin")), images)?);
            set.labels = read_labels(&folder.join(format!("{name}_y.bin")), images)?;
            set.classes = class_names(&folder)?;
        }
        if split == Split::Train && part != Stl10Part::Train {
            set.files.push(open_pixels(folder.join("unlabeled_X.bin"), self.unlabeled)?);
        }
        Ok(set)
    }
}

impl Layout {
    /// Reads the labelled images of a split out of the archive, up to where they end.
    fn open_archive(&self, path: &Path, split: Split, part: Stl10Part) -> Result<Stl10, DataError> {
        let (name, count) = match (split, part) {
            (Split::Test, _) => ("test", self.test),
            (Split::Train, Stl10Part::Train) => ("train", self.train),
            (Split::Train, Stl10Part::Unlabeled | Stl10Part::TrainAndUnlabeled) => {
                return Err(DataError::malformed(
                    path,
                    format!(
                        "is an archive, of which the unlabelled images cannot be read one by one: \
                         unpack it (tar -xzf {}) and give the folder {FOLDER}, or what nearkin data \
                         pack makes of that, or ask for the labelled images alone with part = \
                         \"train\"",
                        path.display()
                    ),
                ));
            }
        };
        let damaged = |error: io::Error| {
            let reason = format!("cannot unpack the archive: {error}; download it again");
            DataError::malformed(path, reason)
        };
        let files = [format!("{name}_X.bin"), format!("{name}_y.bin")];
        let lengths = [count * IMAGE_BYTES, count];
        let mut found = [None, None];
        let file = BufReader::new(File::open(path).map_err(DataError::read(path))?);
        let mut archive = tar::Archive::new(GzDecoder::new(file));
        // Raw entries, because long names and other extensions would be read whole into memory.
        for entry in archive.entries().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let file = name.rsplit('/').next().unwrap_or_default();
            let Some(which) = files.iter().position(|wanted| wanted == file) else { continue };
            let place = path.join(name.trim_start_matches(['/', '.']));
            let is_file = entry.header().entry_type().is_file();
            if !is_file || entry.size() != lengths[which] as u64 || found[which].is_some() {
                let reason = format!(
                    "is not the one file of {} bytes that STL-10 has; download it again",
                    lengths[which]
                );
                return Err(DataError::malformed(&place, reason));
            }
            let mut bytes = vec![0; lengths[which]];
            entry.read_exact(&mut bytes).map_err(damaged)?;
            found[which] = Some((place, bytes));
            if let [Some((path, pixels)), Some((label_path, labels))] = &mut found {
                return Ok(Stl10 {
                    labels: from_zero(std::mem::take(labels), label_path)?,
                    files: vec![Pixels {
                        path: path.clone(),
                        place: Place::Memory(std::mem::take(pixels)),
                        images: count,
                    }],
                    classes: KNOWN_NAMES.map(str::to_owned).to_vec(),
                });
            }
        }
        let reason = format!("the archive lacks {} or {}; download it again", files[0], files[1]);
        Err(DataError::empty(path, reason))
    }
}

/// The folder with the files, or the archive, given it or its parent.
fn locate(path: &Path) -> Result<PathBuf, DataError> {
    let metadata = fs::metadata(path).map_err(DataError::read(path))?;
    if !metadata.is_dir() {
        return Ok(path.to_owned());
    }
    let inner = path.join(FOLDER);
    if inner.is_dir() {
        return Ok(inner);
    }
    let files = ["train_X.bin", "test_X.bin", "unlabeled_X.bin"];
    if files.iter().any(|file| path.join(file).exists()) {
        return Ok(path.to_owned());
    }
    let archive = path.join(ARCHIVE);
    if archive.is_file() {
        return Ok(archive);
    }
    Err(DataError::empty(
        path,
        format!(
            "there is no folder {FOLDER} and no {} in it; unpack the binary version of STL-10 there",
            files[0]
        ),
    ))
}

fn class_names(folder: &Path) -> Result<Vec<String>, DataError> {
    let path = folder.join(NAMES_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(KNOWN_NAMES.map(str::to_owned).to_vec());
        }
        Err(error) => return Err(DataError::read(&path)(error)),
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let names: Vec<String> = lines.map(str::to_owned).collect();
    let (given, expected) = (names.len(), KNOWN_NAMES.len());
    if given == expected {
        Ok(names)
    } else {
        let reason = format!("names {given} classes; STL-10 has {expected}");
        Err(DataError::malformed(&path, reason))
    }
}

/// Checks the length of a file of `records` before anything of it is read.
fn open_exact(path: &Path, records: usize, record_bytes: usize) -> Result<File, DataError> {
    let file = File::open(path).map_err(DataError::read(path))?;
    let length = file.metadata().map_err(DataError::read(path))?.len();
    let expected = records * record_bytes;
    if length != expected as u64 {
        return Err(DataError::malformed(
            path,
            format!(
                "has {length} bytes; {records} records of {record_bytes} bytes make {expected}; \
                 download and unpack STL-10 again"
            ),
        ));
    }
    Ok(file)
}

fn open_pixels(path: PathBuf, images: usize) -> Result<Pixels, DataError> {
    let place = Place::File(open_exact(&path, images, IMAGE_BYTES)?);
    Ok(Pixels { path, place, images })
}

/// The labels of a file, from 0.
fn read_labels(path: &Path, images: usize) -> Result<Vec<u8>, DataError> {
    let mut labels = vec![0; images];
    let file = open_exact(path, images, 1)?;
    file.read_exact_at(&mut labels, 0).map_err(DataError::read(path))?;
    from_zero(labels, path)
}

/// Labels of 1 to 10 as 0 to 9.
fn from_zero(mut labels: Vec<u8>, path: &Path) -> Result<Vec<u8>, DataError> {
    let classes = KNOWN_NAMES.len();
    for (record, label) in labels.iter_mut().enumerate() {
        if !(1..=classes).contains(&usize::from(*label)) {
            return Err(DataError::malformed(
                path,
                format!(
                    "record {record} has label {label}; the labels are 1 to {classes}; download \
                     and unpack STL-10 again"
                ),
            ));
        }
        *label -= 1;
    }
    Ok(labels)
}

/// Planes by columns, as in the file, to interleaved pixels by rows.
fn interleave(planes: &[u8]) -> Vec<u8> {
    let mut rgb = vec![0; planes.len()];
    for (plane, columns) in planes.chunks_exact(PLANE_BYTES).enumerate() {
        for (column, rows) in columns.chunks_exact(SIDE_PIXELS).enumerate() {
            for (row, &byte) in rows.iter().enumerate() {
                rgb[3 * (row * SIDE_PIXELS + column) + plane] = byte;
            }
        }
    }
    rgb
}

impl Stl10 {
    /// The file of an image, and its place there.
    fn find(&self, index: usize) -> Option<(&Pixels, usize)> {
        let mut record = index;
        for pixels in &self.files {
            if record < pixels.images {
                return Some((pixels, record));
            }
            record -= pixels.images;
        }
        None
    }
}

impl ImageSet for Stl10 {
    fn len(&self) -> usize {
        self.files.iter().map(|pixels| pixels.images).sum()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        let missing = || DataError::Request(format!("there is no image {index}"));
        let (pixels, record) = self.find(index).ok_or_else(missing)?;
        let mut planes = vec![0; IMAGE_BYTES];
        pixels
            .place
            .read_exact_at(&mut planes, record * IMAGE_BYTES)
            .map_err(DataError::read(&pixels.path))?;
        Image::new(SIDE_PIXELS, SIDE_PIXELS, interleave(&planes)).ok_or_else(missing)
    }

    fn one_size(&self) -> Option<(usize, usize)> {
        Some((SIDE_PIXELS, SIDE_PIXELS))
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.labels.get(index).map(|&label| usize::from(label))
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        match self.find(index) {
            Some((pixels, record)) => format!("{} record {record}", pixels.path.display()),
            None => format!("image {index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::{Subset, labelled};

    const SMALL: Layout = Layout { train: 3, test: 2, unlabeled: 4 };

    /// The byte of a pixel in the image `seed`.
    fn byte(seed: usize, plane: usize, row: usize, column: usize) -> u8 {
        (31 * seed + 50 * plane + 3 * row + 7 * column) as u8
    }

    /// Images `first..first + count`, as their file has them.
    fn images(first: usize, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for seed in first..first + count {
            for plane in 0..3 {
                for column in 0..SIDE_PIXELS {
                    bytes.extend((0..SIDE_PIXELS).map(|row| byte(seed, plane, row, column)));
                }
            }
        }
        bytes
    }

    /// A parent folder with a sound small STL-10 in it, and the folder of the files: images 0 to 2
    /// are of train, 3 to 6 unlabelled, 7 and 8 of test.
    fn small() -> (TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        for (file, bytes) in [
            ("train_X.bin", images(0, 3)),
            ("train_y.bin", vec![10, 1, 4]),
            ("unlabeled_X.bin", images(3, 4)),
            ("test_X.bin", images(7, 2)),
            ("test_y.bin", vec![2, 9]),
        ] {
            fs::write(folder.join(file), bytes).unwrap();
        }
        (parent, folder)
    }

    fn seeds(set: &Stl10) -> Vec<usize> {
        let seed = |index| {
            let image = set.image(index).unwrap();
            (0..9).find(|&seed| image.rgb()[0] == byte(seed, 0, 0, 0)).unwrap()
        };
        (0..set.len()).map(seed).collect()
    }

    fn labels(set: &Stl10) -> Vec<Option<usize>> {
        (0..set.len()).map(|index| set.label(index)).collect()
    }

    fn failure(path: &Path, split: Split, part: Stl10Part) -> String {
        SMALL.open(path, split, part).err().expect("an error").to_string()
    }

    #[test]
    fn columns_become_rows_and_planes_pixels() {
        let (_parent, folder) = small();
        let set = SMALL.open(&folder, Split::Train, Stl10Part::Train).unwrap();
        let image = set.image(2).unwrap();
        assert_eq!((image.width(), image.height()), (96, 96));
        for (row, column) in [(0, 0), (0, 1), (1, 0), (5, 90), (95, 95)] {
            let pixel = &image.rgb()[3 * (96 * row + column)..][..3];
            assert_eq!(pixel, [0, 1, 2].map(|plane| byte(2, plane, row, column)));
        }
    }

    /// The archive of the small set, with these files left out.
    fn archive(folder: &Path, without: &[&str]) -> Vec<u8> {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut builder = tar::Builder::new(gzip);
        for file in ["test_X.bin", "test_y.bin", "train_X.bin", "train_y.bin", "unlabeled_X.bin"] {
            if !without.contains(&file) {
                let name = format!("{FOLDER}/{file}");
                builder.append_path_with_name(folder.join(file), name).unwrap();
            }
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn labelled_images_are_read_from_the_archive() {
        let (parent, folder) = small();
        let file = parent.path().join(ARCHIVE);
        fs::write(&file, archive(&folder, &[])).unwrap();
        assert!(Stl10::is_archive(&file) && !Stl10::is_archive(&folder.join("train_y.bin")));
        fs::remove_dir_all(&folder).unwrap();
        for path in [parent.path(), &file] {
            let train = SMALL.open(path, Split::Train, Stl10Part::Train).unwrap();
            assert_eq!(
                (seeds(&train), labels(&train)),
                (vec![0, 1, 2], vec![Some(9), Some(0), Some(3)])
            );
            let test = SMALL.open(path, Split::Test, Stl10Part::TrainAndUnlabeled).unwrap();
            assert_eq!((seeds(&test), labels(&test)), (vec![7, 8], vec![Some(1), Some(8)]));
            assert!(test.name(1).ends_with("stl10_binary.tar.gz/stl10_binary/test_X.bin record 1"));
            for part in [Stl10Part::Unlabeled, Stl10Part::TrainAndUnlabeled] {
                let message = failure(path, Split::Train, part);
                assert!(message.contains("unpack it (tar -xzf "), "{message}");
                assert!(message.contains("nearkin data pack"), "{message}");
            }
        }
    }

    #[test]
    fn damaged_archives_are_refused() {
        let (parent, folder) = small();
        let file = parent.path().join("some.tar.gz");
        let check = |bytes: &[u8], expected: &str| {
            fs::write(&file, bytes).unwrap();
            let message = failure(&file, Split::Train, Stl10Part::Train);
            assert!(message.contains(expected), "{message}");
        };
        let sound = archive(&folder, &[]);
        check(&sound[..sound.len() / 3], "cannot unpack the archive");
        check(b"no archive", "cannot unpack the archive");
        check(&archive(&folder, &["train_y.bin"]), "the archive lacks train_X.bin or train_y.bin");
        fs::write(folder.join("train_y.bin"), [0, 1, 2]).unwrap();
        check(&archive(&folder, &[]), "record 0 has label 0; the labels are 1 to 10");
        fs::write(folder.join("train_y.bin"), [1, 1]).unwrap();
        check(&archive(&folder, &[]), "is not the one file of 3 bytes that STL-10 has");
    }

    #[test]
    fn every_part_has_its_images_and_only_labelled_ones_a_label() {
        let (parent, folder) = small();
        for path in [parent.path(), &folder] {
            let open = |split, part| SMALL.open(path, split, part).unwrap();
            let train = open(Split::Train, Stl10Part::Train);
            assert_eq!(seeds(&train), [0, 1, 2]);
            assert_eq!(labels(&train), [Some(9), Some(0), Some(3)]);
            assert!(train.has_labels());

            let unlabeled = open(Split::Train, Stl10Part::Unlabeled);
            assert_eq!(seeds(&unlabeled), [3, 4, 5, 6]);
            assert_eq!(labels(&unlabeled), [None; 4]);
            assert!(!unlabeled.has_labels() && unlabeled.classes().is_empty());

            let both = open(Split::Train, Stl10Part::TrainAndUnlabeled);
            assert_eq!(seeds(&both), [0, 1, 2, 3, 4, 5, 6]);
            assert_eq!(labels(&both), [Some(9), Some(0), Some(3), None, None, None, None]);
            assert!(both.has_labels());
            assert!(both.name(4).ends_with("unlabeled_X.bin record 1"), "{}", both.name(4));

            for part in [Stl10Part::Train, Stl10Part::Unlabeled, Stl10Part::TrainAndUnlabeled] {
                let test = open(Split::Test, part);
                assert_eq!(seeds(&test), [7, 8]);
                assert_eq!(labels(&test), [Some(1), Some(8)]);
            }
        }
    }

    #[test]
    fn the_labelled_images_of_any_set_can_be_told_apart() {
        let (_parent, folder) = small();
        let open = |part| -> Arc<dyn ImageSet> {
            Arc::new(SMALL.open(&folder, Split::Train, part).unwrap())
        };
        let train = open(Stl10Part::Train);
        assert!(Arc::ptr_eq(&labelled(&train), &train));
        let some = labelled(&open(Stl10Part::TrainAndUnlabeled));
        assert_eq!(some.len(), 3);
        assert_eq!([0, 1, 2].map(|index| some.label(index)), [Some(9), Some(0), Some(3)]);
        assert_eq!(some.image(2).unwrap(), train.image(2).unwrap());
        assert!(labelled(&open(Stl10Part::Unlabeled)).is_empty());

        // Of 7 images, 3 with a label: some draws of one image have a label, others do not.
        for seed in 0..20 {
            let drawn = Subset::random(open(Stl10Part::TrainAndUnlabeled), 1, seed);
            assert_eq!(drawn.has_labels(), drawn.label(0).is_some());
        }
    }

    #[test]
    fn only_the_files_of_the_part_have_to_be_there() {
        let (_parent, folder) = small();
        fs::remove_file(folder.join("unlabeled_X.bin")).unwrap();
        assert!(SMALL.open(&folder, Split::Train, Stl10Part::Train).is_ok());
        for part in [Stl10Part::Unlabeled, Stl10Part::TrainAndUnlabeled] {
            let message = failure(&folder, Split::Train, part);
            assert!(message.starts_with("cannot read "), "{message}");
            assert!(message.contains("unlabeled_X.bin"), "{message}");
        }
        fs::remove_file(folder.join("test_y.bin")).unwrap();
        let message = failure(&folder, Split::Test, Stl10Part::Train);
        assert!(message.contains("test_y.bin"), "{message}");
    }

    #[test]
    fn names_come_from_their_file_which_must_name_every_class() {
        let (_parent, folder) = small();
        let classes = || SMALL.open(&folder, Split::Test, Stl10Part::Train).unwrap().classes;
        assert_eq!(classes(), KNOWN_NAMES);
        fs::write(folder.join(NAMES_FILE), "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n").unwrap();
        assert_eq!(classes().concat(), "abcdefghij");
        fs::write(folder.join(NAMES_FILE), "a\nb\n").unwrap();
        let message = failure(&folder, Split::Test, Stl10Part::Train);
        assert!(message.contains("class_names.txt: names 2 classes; STL-10 has 10"), "{message}");
    }

    #[test]
    fn damaged_files_are_named() {
        let (_parent, folder) = small();
        for (file, records, record_bytes) in [
            ("train_X.bin", 3, IMAGE_BYTES),
            ("train_y.bin", 3, 1),
            ("unlabeled_X.bin", 4, IMAGE_BYTES),
        ] {
            let path = folder.join(file);
            let sound = fs::read(&path).unwrap();
            for length in [0, sound.len() - 1, sound.len() + 1] {
                let mut bytes = sound.clone();
                bytes.resize(length, 1);
                fs::write(&path, bytes).unwrap();
                let message = failure(&folder, Split::Train, Stl10Part::TrainAndUnlabeled);
                let expected = format!(
                    "{file}: has {length} bytes; {records} records of {record_bytes} bytes make {}",
                    sound.len()
                );
                assert!(message.contains(&expected), "{message}");
            }
            fs::write(&path, sound).unwrap();
        }
        for label in [0, 11, 255] {
            fs::write(folder.join("train_y.bin"), [1, 10, label]).unwrap();
            let message = failure(&folder, Split::Train, Stl10Part::Train);
            let expected =
                format!("train_y.bin: record 2 has label {label}; the labels are 1 to 10");
            assert!(message.contains(&expected), "{message}");
        }
    }

    #[test]
    fn a_file_that_shrinks_while_in_use_is_named() {
        let (_parent, folder) = small();
        let set = SMALL.open(&folder, Split::Train, Stl10Part::Unlabeled).unwrap();
        let file = File::options().write(true).open(folder.join("unlabeled_X.bin")).unwrap();
        file.set_len(2 * IMAGE_BYTES as u64).unwrap();
        assert!(set.image(1).is_ok());
        let message = set.image(2).unwrap_err().to_string();
        assert!(message.contains("cannot read ") && message.contains("unlabeled_X.bin"));
    }

    #[test]
    fn a_path_without_the_set_says_what_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let message = failure(folder.path(), Split::Train, Stl10Part::Train);
        assert!(message.starts_with("no images in "), "{message}");
        for named in [FOLDER, "train_X.bin", "binary version of STL-10"] {
            assert!(message.contains(named), "{message}");
        }
        let message = failure(&folder.path().join("gone"), Split::Train, Stl10Part::Train);
        assert!(message.starts_with("cannot read ") && message.contains("gone"), "{message}");
        let archive = folder.path().join("stl10_binary.tar.gz");
        fs::write(&archive, "x").unwrap();
        let message = failure(&archive, Split::Train, Stl10Part::Train);
        assert!(message.contains("stl10_binary.tar.gz: cannot unpack the archive"), "{message}");
    }

    #[test]
    fn the_published_sizes_are_expected() {
        let folder = tempfile::tempdir().unwrap();
        // Empty space on disk: the files are as long as the published ones and hold nothing.
        for (file, bytes) in [
            ("train_X.bin", 138_240_000),
            ("unlabeled_X.bin", 2_764_800_000),
            ("test_X.bin", 221_184_000),
        ] {
            File::create(folder.path().join(file)).unwrap().set_len(bytes).unwrap();
        }
        fs::write(folder.path().join("train_y.bin"), [1; 5_000]).unwrap();
        fs::write(folder.path().join("test_y.bin"), [10; 8_000]).unwrap();
        let train = Stl10::open(folder.path(), Split::Train, Stl10Part::default()).unwrap();
        assert_eq!((train.len(), train.label(4_999), train.label(5_000)), (105_000, Some(0), None));
        assert_eq!(train.image(104_999).unwrap().rgb()[0], 0);
        let test = Stl10::open(folder.path(), Split::Test, Stl10Part::default()).unwrap();
        assert_eq!((test.len(), test.label(7_999)), (8_000, Some(9)));
    }

    proptest! {
        #[test]
        fn labels_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("train_y.bin");
            fs::write(&path, &bytes).unwrap();
            match read_labels(&path, bytes.len()) {
                Ok(labels) => {
                    let back: Vec<u8> = labels.iter().map(|label| label + 1).collect();
                    prop_assert_eq!(back, bytes);
                    prop_assert!(labels.iter().all(|&label| label < 10));
                }
                Err(error) => {
                    prop_assert!(bytes.iter().any(|&label| label == 0 || label > 10));
                    prop_assert!(error.to_string().contains("train_y.bin: record "));
                }
            }
        }
    }
}
