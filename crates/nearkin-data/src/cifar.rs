//! CIFAR-10 and CIFAR-100, from the folders of their binary versions.
//!
//! The binary version is a plain concatenation of fixed-size records without header or checksum, so
//! a damaged download looks like data. This module therefore insists on the exact size of every
//! file and on the range of every label. The format, from
//! <https://www.cs.toronto.edu/~kriz/cifar.html>: a record is the label (one byte; two in CIFAR-100,
//! coarse before fine) and then 32x32 pixels as three planes, red, green, blue, each by rows.
//!
//! Both sets fit in memory (150 MB for the train split), so they are read once and their pixels are
//! lent, interleaved, to whoever asks.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::{DataError, Image, ImageSet, Split};

const SIDE_PIXELS: usize = 32;
const PLANE_BYTES: usize = SIDE_PIXELS * SIDE_PIXELS;
const IMAGE_BYTES: usize = 3 * PLANE_BYTES;

/// Which of the two sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CifarVersion {
    /// 10 classes; 50,000 train and 10,000 test images.
    Cifar10,
    /// 100 (fine) classes; 50,000 train and 10,000 test images.
    Cifar100,
}

/// A file and the number of records it must hold.
type RecordFile = (&'static str, usize);

/// What the folder of a version holds.
struct Layout {
    title: &'static str,
    folder: &'static str,
    train: &'static [RecordFile],
    test: &'static [RecordFile],
    /// Classes told apart by each label byte; the last one is the label that is used.
    label_counts: &'static [usize],
    names_file: &'static str,
    /// Class names when the names file is missing; numbers if empty.
    known_names: &'static [&'static str],
}

const CIFAR_10: Layout = Layout {
    title: "CIFAR-10",
    folder: "cifar-10-batches-bin",
    train: &[
        ("data_batch_1.bin", 10_000),
        ("data_batch_2.bin", 10_000),
        ("data_batch_3.bin", 10_000),
        ("data_batch_4.bin", 10_000),
        ("data_batch_5.bin", 10_000),
    ],
    test: &[("test_batch.bin", 10_000)],
    label_counts: &[10],
    names_file: "batches.meta.txt",
    known_names: &[
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ],
};

const CIFAR_100: Layout = Layout {
    title: "CIFAR-100",
    folder: "cifar-100-binary",
    train: &[("train.bin", 50_000)],
    test: &[("test.bin", 10_000)],
    label_counts: &[20, 100],
    names_file: "fine_label_names.txt",
    known_names: &[],
};

impl Layout {
    fn classes(&self) -> usize {
        self.label_counts.last().copied().unwrap_or_default()
    }

    fn record_bytes(&self) -> usize {
        self.label_counts.len() + IMAGE_BYTES
    }

    /// The folder with the files, given it or its parent.
    fn locate(&self, path: &Path) -> Result<PathBuf, DataError> {
        let metadata = fs::metadata(path).map_err(DataError::read(path))?;
        if !metadata.is_dir() {
            return Err(DataError::malformed(
                path,
                format!("is a file; give the unpacked folder {} or its parent", self.folder),
            ));
        }
        let inner = path.join(self.folder);
        if inner.is_dir() {
            return Ok(inner);
        }
        if self.train.iter().chain(self.test).any(|(file, _)| path.join(file).exists()) {
            return Ok(path.to_owned());
        }
        Err(DataError::empty(
            path,
            format!(
                "there is no folder {} and no {} in it; unpack the binary version of {} there",
                self.folder, self.train[0].0, self.title
            ),
        ))
    }

    fn class_names(&self, folder: &Path) -> Result<Vec<String>, DataError> {
        let path = folder.join(self.names_file);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let known = self.known_names.iter().map(ToString::to_string);
                let numbers = (known.len()..self.classes()).map(|number| number.to_string());
                return Ok(known.chain(numbers).collect());
            }
            Err(error) => return Err(DataError::read(&path)(error)),
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let names: Vec<String> = lines.map(str::to_owned).collect();
        if names.len() == self.classes() {
            Ok(names)
        } else {
            let reason =
                format!("names {} classes; {} has {}", names.len(), self.title, self.classes());
            Err(DataError::malformed(&path, reason))
        }
    }

    /// Checks the length of the file before reading it: another file of that name may be huge.
    fn read(&self, path: &Path, records: usize) -> Result<Vec<u8>, DataError> {
        let mut file = File::open(path).map_err(DataError::read(path))?;
        let length = file.metadata().map_err(DataError::read(path))?.len();
        let expected = records * self.record_bytes();
        if length != expected as u64 {
            return Err(DataError::malformed(
                path,
                format!(
                    "has {length} bytes; {records} records of {} bytes make {expected}; download \
                     and unpack {} again",
                    self.record_bytes(),
                    self.title
                ),
            ));
        }
        let mut bytes = Vec::with_capacity(expected);
        file.read_to_end(&mut bytes).map_err(DataError::read(path))?;
        Ok(bytes)
    }

    /// Appends the records of one file; a trailing part of a record is an error.
    fn parse(
        &self,
        path: &Path,
        bytes: &[u8],
        pixels: &mut Vec<u8>,
        labels: &mut Vec<u8>,
    ) -> Result<(), DataError> {
        let records = bytes.chunks_exact(self.record_bytes());
        if !records.remainder().is_empty() {
            return Err(DataError::malformed(
                path,
                format!(
                    "ends within record {}, after {} of its {} bytes",
                    records.len(),
                    records.remainder().len(),
                    self.record_bytes()
                ),
            ));
        }
        for (record, bytes) in records.enumerate() {
            let (record_labels, planes) = bytes.split_at(self.label_counts.len());
            for (&label, &count) in record_labels.iter().zip(self.label_counts) {
                if usize::from(label) >= count {
                    return Err(DataError::malformed(
                        path,
                        format!(
                            "record {record} has label {label}; the labels are 0 to {}; download \
                             and unpack {} again",
                            count - 1,
                            self.title
                        ),
                    ));
                }
            }
            labels.extend(record_labels.last());
            let (red, rest) = planes.split_at(PLANE_BYTES);
            let (green, blue) = rest.split_at(PLANE_BYTES);
            for ((&red, &green), &blue) in red.iter().zip(green).zip(blue) {
                pixels.extend([red, green, blue]);
            }
        }
        Ok(())
    }

    fn open(&self, path: &Path, split: Split) -> Result<Cifar, DataError> {
        let folder = self.locate(path)?;
        let classes = self.class_names(&folder)?;
        let files = match split {
            Split::Train => self.train,
            Split::Test => self.test,
        };
        let images = files.iter().map(|(_, records)| records).sum();
        let mut pixels = Vec::with_capacity(images * IMAGE_BYTES);
        let mut labels = Vec::with_capacity(images);
        let mut origins = Vec::new();
        for &(file, records) in files {
            let path = folder.join(file);
            let bytes = self.read(&path, records)?;
            self.parse(&path, &bytes, &mut pixels, &mut labels)?;
            origins.push((path, records));
        }
        Ok(Cifar { pixels, labels, classes, origins })
    }
}

/// One split of CIFAR-10 or CIFAR-100, in memory: 32x32 images.
pub struct Cifar {
    /// `[images, 32, 32, 3]`.
    pixels: Vec<u8>,
    labels: Vec<u8>,
    classes: Vec<String>,
    /// The files in order, with the records of each.
    origins: Vec<(PathBuf, usize)>,
}

impl Cifar {
    /// Reads a split from `cifar-10-batches-bin` or `cifar-100-binary`, or the folder that holds it.
    ///
    /// Errors name the file that is absent, is not of the exact size, or holds a label out of range
    /// (with the record, counted from 0).
    pub fn open(version: CifarVersion, path: &Path, split: Split) -> Result<Self, DataError> {
        match version {
            CifarVersion::Cifar10 => CIFAR_10.open(path, split),
            CifarVersion::Cifar100 => CIFAR_100.open(path, split),
        }
    }
}

impl ImageSet for Cifar {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        let rgb = &self.pixels[index * IMAGE_BYTES..][..IMAGE_BYTES];
        Image::new(SIDE_PIXELS, SIDE_PIXELS, rgb)
            .ok_or_else(|| DataError::Request(format!("image {index} has no pixels")))
    }

    fn label(&self, index: usize) -> Option<usize> {
        Some(usize::from(self.labels[index]))
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        let mut record = index;
        for (path, records) in &self.origins {
            if record < *records {
                return format!("{} record {record}", path.display());
            }
            record -= records;
        }
        format!("image {index}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// CIFAR-10 and CIFAR-100 with fewer records: the code only sees the numbers.
    const SMALL_10: Layout = Layout {
        train: &[("data_batch_1.bin", 3), ("data_batch_2.bin", 3)],
        test: &[("test_batch.bin", 2)],
        ..CIFAR_10
    };
    const SMALL_100: Layout =
        Layout { train: &[("train.bin", 3)], test: &[("test.bin", 2)], ..CIFAR_100 };

    /// A record whose pixel `i` of plane `p` is `seed + 7 * i + 50 * p`, modulo 256.
    fn record(labels: &[u8], seed: usize) -> Vec<u8> {
        let planes = (0..3).flat_map(|plane| {
            (0..PLANE_BYTES).map(move |pixel| (seed + 7 * pixel + 50 * plane) as u8)
        });
        labels.iter().copied().chain(planes).collect()
    }

    fn records(labels: &[&[u8]]) -> Vec<u8> {
        labels.iter().enumerate().flat_map(|(seed, labels)| record(labels, seed)).collect()
    }

    /// A parent folder with a sound small CIFAR-10 in it, and the folder of the files.
    fn small_10() -> (TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("cifar-10-batches-bin");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("data_batch_1.bin"), records(&[&[3], &[0], &[9]])).unwrap();
        fs::write(folder.join("data_batch_2.bin"), records(&[&[1], &[1], &[2]])).unwrap();
        fs::write(folder.join("test_batch.bin"), records(&[&[5], &[6]])).unwrap();
        (parent, folder)
    }

    fn failure(layout: &Layout, path: &Path, split: Split) -> String {
        layout.open(path, split).err().expect("an error").to_string()
    }

    #[test]
    fn batches_are_joined_in_order_and_planes_interleaved() {
        let (parent, folder) = small_10();
        for path in [parent.path(), &folder] {
            let train = SMALL_10.open(path, Split::Train).unwrap();
            let labels: Vec<_> = (0..6).map(|index| train.label(index).unwrap()).collect();
            assert_eq!(labels, [3, 0, 9, 1, 1, 2]);
            assert_eq!(train.len(), 6);
            let image = train.image(4).unwrap();
            assert_eq!((image.width(), image.height()), (32, 32));
            let pixel = 35; // Row 1, column 3.
            let expected = [0, 50, 100].map(|plane| (1 + 7 * pixel + plane) as u8);
            assert_eq!(image.rgb()[3 * pixel..][..3], expected);
            assert!(train.name(4).ends_with("data_batch_2.bin record 1"), "{}", train.name(4));
            assert_eq!(train.classes()[3], "cat");
            let test = SMALL_10.open(path, Split::Test).unwrap();
            assert_eq!((test.len(), test.label(1)), (2, Some(6)));
        }
    }

    #[test]
    fn the_fine_label_of_cifar_100_is_used_and_numbers_stand_in_for_names() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("cifar-100-binary");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("train.bin"), records(&[&[19, 99], &[0, 42], &[3, 0]])).unwrap();
        let train = SMALL_100.open(parent.path(), Split::Train).unwrap();
        assert_eq!((train.label(0), train.label(1), train.label(2)), (Some(99), Some(42), Some(0)));
        assert_eq!((train.classes().len(), train.classes()[42].as_str()), (100, "42"));

        let names: Vec<_> = (0..100).map(|number| format!("name{number}")).collect();
        fs::write(folder.join("fine_label_names.txt"), names.join("\n")).unwrap();
        assert_eq!(SMALL_100.open(&folder, Split::Train).unwrap().classes(), names);

        fs::write(folder.join("train.bin"), records(&[&[0, 0], &[20, 0], &[0, 0]])).unwrap();
        let message = failure(&SMALL_100, &folder, Split::Train);
        assert!(message.contains("train.bin: record 1 has label 20; the labels are 0 to 19"));
        fs::write(folder.join("train.bin"), records(&[&[0, 0], &[0, 0], &[1, 100]])).unwrap();
        let message = failure(&SMALL_100, &folder, Split::Train);
        assert!(message.contains("train.bin: record 2 has label 100; the labels are 0 to 99"));
    }

    #[test]
    fn names_come_from_the_meta_file_which_must_name_every_class() {
        let (_parent, folder) = small_10();
        let meta = folder.join("batches.meta.txt");
        fs::write(&meta, "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n").unwrap();
        let classes = SMALL_10.open(&folder, Split::Test).unwrap().classes().concat();
        assert_eq!(classes, "abcdefghij");
        fs::write(&meta, "a\nb\n").unwrap();
        let message = failure(&SMALL_10, &folder, Split::Test);
        assert!(
            message.contains("batches.meta.txt: names 2 classes; CIFAR-10 has 10"),
            "{message}"
        );
    }

    #[test]
    fn damaged_files_are_named() {
        let (_parent, folder) = small_10();
        let batch = folder.join("data_batch_2.bin");
        let sound = fs::read(&batch).unwrap();
        for length in [0, sound.len() - 1, sound.len() - 3073, sound.len() + 1] {
            let mut bytes = sound.clone();
            bytes.resize(length, 0);
            fs::write(&batch, bytes).unwrap();
            let message = failure(&SMALL_10, &folder, Split::Train);
            let expected = format!(
                "data_batch_2.bin: has {length} bytes; 3 records of 3073 bytes make 9219; download"
            );
            assert!(message.contains(&expected), "{message}");
        }
        let mut bytes = sound;
        bytes[2 * 3073] = 10;
        fs::write(&batch, bytes).unwrap();
        let message = failure(&SMALL_10, &folder, Split::Train);
        let expected = "data_batch_2.bin: record 2 has label 10; the labels are 0 to 9; download";
        assert!(message.contains(expected), "{message}");
        fs::remove_file(&batch).unwrap();
        let message = failure(&SMALL_10, &folder, Split::Train);
        assert!(message.starts_with("cannot read "), "{message}");
        assert!(message.contains("data_batch_2.bin"), "{message}");
        assert!(SMALL_10.open(&folder, Split::Test).is_ok());
    }

    #[test]
    fn a_path_without_the_set_says_what_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let message = failure(&CIFAR_10, folder.path(), Split::Train);
        assert!(message.starts_with("no images in "), "{message}");
        for named in ["cifar-10-batches-bin", "data_batch_1.bin", "binary version of CIFAR-10"] {
            assert!(message.contains(named), "{message}");
        }
        let message = failure(&CIFAR_100, &folder.path().join("gone"), Split::Train);
        assert!(message.starts_with("cannot read ") && message.contains("gone"), "{message}");
        let archive = folder.path().join("cifar-10-binary.tar.gz");
        fs::write(&archive, "x").unwrap();
        let message = failure(&CIFAR_10, &archive, Split::Train);
        assert!(message.contains("cifar-10-binary.tar.gz: is a file"), "{message}");
    }

    #[test]
    fn the_published_sizes_are_expected() {
        let total = |files: &[RecordFile]| files.iter().map(|(_, records)| records).sum::<usize>();
        for layout in [&CIFAR_10, &CIFAR_100] {
            assert_eq!((total(layout.train), total(layout.test)), (50_000, 10_000));
        }
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("test_batch.bin")).unwrap();
        file.set_len(30_730_000).unwrap();
        let test = Cifar::open(CifarVersion::Cifar10, folder.path(), Split::Test).unwrap();
        assert_eq!((test.len(), test.label(9_999)), (10_000, Some(0)));
        let file = File::create(folder.path().join("test.bin")).unwrap();
        file.set_len(30_740_000).unwrap();
        let test = Cifar::open(CifarVersion::Cifar100, folder.path(), Split::Test).unwrap();
        assert_eq!((test.len(), test.label(9_999)), (10_000, Some(0)));
    }

    #[test]
    fn the_real_cifar_10_is_read() {
        let Some(path) = std::env::var_os("NEARKIN_DATA") else {
            eprintln!("skipped: set NEARKIN_DATA to the folder that holds cifar-10-batches-bin");
            return;
        };
        for (split, images) in [(Split::Train, 50_000), (Split::Test, 10_000)] {
            let set = Cifar::open(CifarVersion::Cifar10, Path::new(&path), split).unwrap();
            assert_eq!(set.len(), images);
            let mut counts = [0; 10];
            (0..images).for_each(|index| counts[set.label(index).unwrap()] += 1);
            assert_eq!(counts, [images / 10; 10]);
            // Natural images: neighbouring pixels are alike, which a wrong plane order destroys.
            let (mut along, mut across) = (0_u64, 0_u64);
            for index in 0..100 {
                let image = set.image(index).unwrap();
                for pair in image.rgb().chunks_exact(6) {
                    along += u64::from(pair[0].abs_diff(pair[3]));
                    across += u64::from(pair[0].abs_diff(128));
                }
            }
            assert!(2 * along < across, "{along} {across}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..10_000)) {
            for layout in [&CIFAR_10, &CIFAR_100] {
                let (mut pixels, mut labels) = (Vec::new(), Vec::new());
                match layout.parse(Path::new("some.bin"), &bytes, &mut pixels, &mut labels) {
                    Ok(()) => {
                        prop_assert_eq!(labels.len() * layout.record_bytes(), bytes.len());
                        prop_assert_eq!(pixels.len(), labels.len() * IMAGE_BYTES);
                    }
                    Err(error) => prop_assert!(error.to_string().starts_with("some.bin: ")),
                }
            }
        }

        #[test]
        fn sound_records_come_back(images in prop::collection::vec((0..100_u8, any::<u8>()), 0..5)) {
            let bytes: Vec<u8> = images
                .iter()
                .flat_map(|&(label, seed)| record(&[label % 20, label], usize::from(seed)))
                .collect();
            let (mut pixels, mut labels) = (Vec::new(), Vec::new());
            CIFAR_100.parse(Path::new("some.bin"), &bytes, &mut pixels, &mut labels).unwrap();
            prop_assert_eq!(labels, images.iter().map(|&(label, _)| label).collect::<Vec<_>>());
            for (image, record) in pixels.chunks(IMAGE_BYTES).zip(bytes.chunks(2 + IMAGE_BYTES)) {
                for (index, byte) in image.iter().enumerate() {
                    prop_assert_eq!(*byte, record[2 + index % 3 * PLANE_BYTES + index / 3]);
                }
            }
        }
    }
}
