//! CIFAR-10 and CIFAR-100, in every form in which they are published.
//!
//! Both come as a binary version and as Python pickles, each in a `.tar.gz` archive; all four are
//! read as they are, and give the same images. Nothing is unpacked to disk, and of the pickles
//! nothing is run (see [`pickle`]).
//!
//! The binary version is a plain concatenation of fixed-size records without header or checksum, so
//! a damaged download looks like data. This module therefore insists on the exact size of every
//! file and on the range of every label. The format, from
//! <https://www.cs.toronto.edu/~kriz/cifar.html>: a record is the label (one byte; two in
//! CIFAR-100, coarse before fine) and then 32x32 pixels as three planes, red, green, blue, each by
//! rows. A pickle holds a dictionary with the same planes as the array `data`, `[records, 3072]`,
//! and the labels as the list `labels`, or `coarse_labels` and `fine_labels`.
//!
//! Both sets fit in memory (150 MB for the train split), so they are read once and their pixels are
//! lent, interleaved, to whoever asks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::pickle::{self, Pickle, Value};
use crate::{DataError, Image, ImageSet, Split};

const SIDE_PIXELS: usize = 32;
const PLANE_BYTES: usize = SIDE_PIXELS * SIDE_PIXELS;
const IMAGE_BYTES: usize = 3 * PLANE_BYTES;

/// Longer pickles are refused; the longest that is published has 155 MB.
const MAX_PICKLE_BYTES: u64 = 1 << 28;
/// Archives of more than this are refused, packed or not; those that are published have 190 MB.
const MAX_ARCHIVE_BYTES: u64 = 1 << 30;

/// Which of the two sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CifarVersion {
    /// 10 classes; 50,000 train and 10,000 test images.
    Cifar10,
    /// 100 (fine) classes; 50,000 train and 10,000 test images.
    Cifar100,
}

/// Members of an archive that may come before the first one that tells the version.
const MEMBERS_BEFORE: usize = 16;

impl CifarVersion {
    /// The version that a folder, its parent or an archive holds, told by the names of files.
    pub(crate) fn recognise(path: &Path) -> Option<Self> {
        let versions = [Self::Cifar10, Self::Cifar100];
        if path.is_dir() {
            return versions.into_iter().find(|version| version.layout().is_in(path));
        }
        let file = File::open(path).ok()?;
        let unpacked = GzDecoder::new(BufReader::new(file)).take(MAX_ARCHIVE_BYTES);
        let mut archive = tar::Archive::new(unpacked);
        for entry in archive.entries().ok()?.raw(true).take(MEMBERS_BEFORE) {
            let entry = entry.ok()?;
            let mut name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if entry.header().entry_type().is_dir() {
                name.push('/');
            }
            let names = |version: &Self| version.layout().names(&name);
            if let Some(version) = versions.into_iter().find(names) {
                return Some(version);
            }
        }
        None
    }

    fn layout(self) -> &'static Layout {
        match self {
            Self::Cifar10 => &CIFAR_10,
            Self::Cifar100 => &CIFAR_100,
        }
    }
}

/// A file and the number of records it must hold.
type RecordFile = (&'static str, usize);

/// What a version looks like.
struct Layout {
    title: &'static str,
    binary: Form,
    python: Form,
    /// Classes told apart by each label byte; the last one is the label that is used.
    label_counts: &'static [usize],
    /// The labels of a pickle, in the same order.
    label_keys: &'static [&'static str],
    /// The class names in the names file of the pickles.
    names_key: &'static str,
    /// Class names when the names file is missing; numbers if empty.
    known_names: &'static [&'static str],
}

/// One of the two ways to write a version, as a folder or as an archive of it.
struct Form {
    encoding: Encoding,
    folder: &'static str,
    archive: &'static str,
    train: &'static [RecordFile],
    test: &'static [RecordFile],
    names_file: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Binary,
    Pickle,
}

const CIFAR_10: Layout = Layout {
    title: "CIFAR-10",
    binary: Form {
        encoding: Encoding::Binary,
        folder: "cifar-10-batches-bin",
        archive: "cifar-10-binary.tar.gz",
        train: &[
            ("data_batch_1.bin", 10_000),
            ("data_batch_2.bin", 10_000),
            ("data_batch_3.bin", 10_000),
            ("data_batch_4.bin", 10_000),
            ("data_batch_5.bin", 10_000),
        ],
        test: &[("test_batch.bin", 10_000)],
        names_file: "batches.meta.txt",
    },
    python: Form {
        encoding: Encoding::Pickle,
        folder: "cifar-10-batches-py",
        archive: "cifar-10-python.tar.gz",
        train: &[
            ("data_batch_1", 10_000),
            ("data_batch_2", 10_000),
            ("data_batch_3", 10_000),
            ("data_batch_4", 10_000),
            ("data_batch_5", 10_000),
        ],
        test: &[("test_batch", 10_000)],
        names_file: "batches.meta",
    },
    label_counts: &[10],
    label_keys: &["labels"],
    names_key: "label_names",
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
    binary: Form {
        encoding: Encoding::Binary,
        folder: "cifar-100-binary",
        archive: "cifar-100-binary.tar.gz",
        train: &[("train.bin", 50_000)],
        test: &[("test.bin", 10_000)],
        names_file: "fine_label_names.txt",
    },
    python: Form {
        encoding: Encoding::Pickle,
        folder: "cifar-100-python",
        archive: "cifar-100-python.tar.gz",
        train: &[("train", 50_000)],
        test: &[("test", 10_000)],
        names_file: "meta",
    },
    label_counts: &[20, 100],
    label_keys: &["coarse_labels", "fine_labels"],
    names_key: "fine_label_names",
    known_names: &[],
};

impl Form {
    fn files(&self, split: Split) -> &'static [RecordFile] {
        match split {
            Split::Train => self.train,
            Split::Test => self.test,
        }
    }

    /// Whether a folder holds any file of images of this form.
    fn is_in(&self, folder: &Path) -> bool {
        self.train.iter().chain(self.test).any(|(file, _)| folder.join(file).is_file())
    }
}

/// The bytes of a split's files and of the names file, with the path of each for messages.
struct Found<'a> {
    form: &'a Form,
    /// In the order of the form.
    files: Vec<(PathBuf, Vec<u8>)>,
    names: Option<(PathBuf, Vec<u8>)>,
}

/// The planes and labels of a file's records, still to be joined.
#[derive(Default)]
struct Records {
    /// `[records, 32, 32, 3]`.
    pixels: Vec<u8>,
    /// The last label of every record.
    labels: Vec<u8>,
}

impl Records {
    /// Appends an image given as its three planes.
    fn push(&mut self, planes: &[u8]) {
        let (red, rest) = planes.split_at(PLANE_BYTES);
        let (green, blue) = rest.split_at(PLANE_BYTES);
        for ((&red, &green), &blue) in red.iter().zip(green).zip(blue) {
            self.pixels.extend([red, green, blue]);
        }
    }
}

impl Layout {
    /// Whether a folder holds the set in any form. Files called `train` and `test`, as those of
    /// CIFAR-100 are, tell something only together.
    fn is_in(&self, path: &Path) -> bool {
        [&self.binary, &self.python].into_iter().any(|form| {
            let mut files = form.train.iter().chain(form.test);
            let is_file = |(file, _): &RecordFile| path.join(file).is_file();
            path.join(form.folder).is_dir()
                || path.join(form.archive).is_file()
                || match form.train {
                    [_] => files.all(is_file),
                    _ => files.any(is_file),
                }
        })
    }

    /// Whether a member of an archive has a name that this set has.
    fn names(&self, member: &str) -> bool {
        [&self.binary, &self.python].into_iter().any(|form| {
            let mut files = form.train.iter().chain(form.test);
            member.split('/').any(|part| part == form.folder)
                || files.any(|(file, _)| member.rsplit('/').next() == Some(*file))
        })
    }

    fn classes(&self) -> usize {
        self.label_counts.last().copied().unwrap_or_default()
    }

    fn record_bytes(&self) -> usize {
        self.label_counts.len() + IMAGE_BYTES
    }

    /// Finds the form that the path holds, and reads its files.
    fn find(&self, path: &Path, split: Split) -> Result<Found<'_>, DataError> {
        let forms = [&self.binary, &self.python];
        if !fs::metadata(path).map_err(DataError::read(path))?.is_dir() {
            return self.read_archive(path, split);
        }
        for form in forms {
            let inner = path.join(form.folder);
            if inner.is_dir() {
                return self.read_folder(form, &inner, split);
            }
        }
        for form in forms {
            if form.is_in(path) {
                return self.read_folder(form, path, split);
            }
        }
        for form in forms {
            let archive = path.join(form.archive);
            if archive.is_file() {
                return self.read_archive(&archive, split);
            }
        }
        Err(DataError::empty(
            path,
            format!(
                "there is no folder {} or {}, no {} and neither {} nor {} in it; download {} in one \
                 of its forms",
                self.binary.folder,
                self.python.folder,
                self.binary.train[0].0,
                self.binary.archive,
                self.python.archive,
                self.title
            ),
        ))
    }

    fn read_folder<'a>(
        &self,
        form: &'a Form,
        folder: &Path,
        split: Split,
    ) -> Result<Found<'a>, DataError> {
        let read = |path: PathBuf, records| {
            let mut file = File::open(&path).map_err(DataError::read(&path))?;
            let length = file.metadata().map_err(DataError::read(&path))?.len();
            let bytes = self.read(form, &path, length, records, &mut file)?;
            Ok((path, bytes))
        };
        let names = match read(folder.join(form.names_file), None) {
            Ok(names) => Some(names),
            Err(DataError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let files = form.files(split).iter();
        let files = files.map(|&(file, records)| read(folder.join(file), Some(records)));
        Ok(Found { form, files: files.collect::<Result<_, _>>()?, names })
    }

    /// Reads the files out of an archive, wherever in it they are. All of it is read, because only
    /// its end tells whether the download is sound.
    fn read_archive(&self, path: &Path, split: Split) -> Result<Found<'_>, DataError> {
        let mut file = BufReader::new(File::open(path).map_err(DataError::read(path))?);
        let mut magic = [0; 2];
        let is_gzip = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
        if !is_gzip {
            return Err(DataError::malformed(
                path,
                format!(
                    "is a file that is not a .tar.gz archive; give {} or {}, or the folder {} or {} \
                     or its parent",
                    self.binary.archive,
                    self.python.archive,
                    self.binary.folder,
                    self.python.folder
                ),
            ));
        }
        let unpacked = GzDecoder::new(magic.chain(file)).take(MAX_ARCHIVE_BYTES);
        self.read_tar(path, split, unpacked)
    }

    /// Reads the files of a tar archive.
    fn read_tar(
        &self,
        path: &Path,
        split: Split,
        unpacked: impl Read,
    ) -> Result<Found<'_>, DataError> {
        let damaged = |error: io::Error| {
            let reason = format!("cannot unpack the archive: {error}; download it again");
            DataError::malformed(path, reason)
        };
        let forms = [&self.binary, &self.python];
        let mut archive = tar::Archive::new(unpacked);
        let mut members = BTreeMap::new();
        // Raw entries, because long names and other extensions would be read whole into memory.
        for entry in archive.entries().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let place = path.join(name.trim_start_matches(['/', '.']));
            let (kind, length) = (entry.header().entry_type(), entry.size());
            if kind.is_symlink() || kind.is_hard_link() {
                return Err(DataError::malformed(
                    &place,
                    format!("is a link; an archive of {} has only files", self.title),
                ));
            }
            if length > MAX_ARCHIVE_BYTES {
                let reason = format!("has {length} bytes; {} has less in all", self.title);
                return Err(DataError::malformed(&place, reason));
            }
            if !kind.is_file() && !kind.is_contiguous() {
                continue;
            }
            let file = name.rsplit('/').next().unwrap_or_default();
            for form in forms {
                let mut records = form.files(split).iter();
                let records =
                    records.find(|(other, _)| *other == file).map(|(_, records)| *records);
                if records.is_some() || file == form.names_file {
                    let bytes = self.read(form, &place, length, records, &mut entry)?;
                    if members.insert(file.to_owned(), (place.clone(), bytes)).is_some() {
                        return Err(DataError::malformed(&place, "is in the archive twice"));
                    }
                }
            }
        }
        // The checksum is behind the last entry.
        let mut unpacked = archive.into_inner();
        io::copy(&mut unpacked, &mut io::sink()).map_err(damaged)?;

        for form in forms {
            let files = form.files(split).iter();
            let files: Option<Vec<_>> = files.map(|(file, _)| members.remove(*file)).collect();
            if let Some(files) = files {
                return Ok(Found { form, files, names: members.remove(form.names_file) });
            }
        }
        Err(DataError::empty(
            path,
            format!(
                "the archive lacks {} of {}: neither all of {} nor of {} are in it; download it \
                 again",
                match split {
                    Split::Train => "train images",
                    Split::Test => "test images",
                },
                self.title,
                list(self.binary.files(split)),
                list(self.python.files(split)),
            ),
        ))
    }

    /// Reads a file of a form, a names file if it has no records. Checks the length first: another
    /// file of that name may be huge.
    fn read(
        &self,
        form: &Form,
        path: &Path,
        length: u64,
        records: Option<usize>,
        reader: &mut impl Read,
    ) -> Result<Vec<u8>, DataError> {
        match (form.encoding, records) {
            (Encoding::Binary, Some(records)) => {
                let expected = records * self.record_bytes();
                if length != expected as u64 {
                    return Err(DataError::malformed(
                        path,
                        format!(
                            "has {length} bytes; {records} records of {} bytes make {expected}; \
                             download and unpack {} again",
                            self.record_bytes(),
                            self.title
                        ),
                    ));
                }
            }
            (Encoding::Pickle, _) | (Encoding::Binary, None) => {
                if length > MAX_PICKLE_BYTES {
                    let reason = format!("has {length} bytes; at most {MAX_PICKLE_BYTES} are read");
                    return Err(DataError::malformed(path, reason));
                }
            }
        }
        let mut bytes = Vec::new();
        let read = reader.take(length).read_to_end(&mut bytes).map_err(DataError::read(path))?;
        if read as u64 != length {
            let reason = format!("ends after {read} of its {length} bytes; download it again");
            return Err(DataError::malformed(path, reason));
        }
        Ok(bytes)
    }

    fn class_names(&self, found: &Found<'_>) -> Result<Vec<String>, DataError> {
        let Some((path, bytes)) = &found.names else {
            let known = self.known_names.iter().map(ToString::to_string);
            let numbers = (known.len()..self.classes()).map(|number| number.to_string());
            return Ok(known.chain(numbers).collect());
        };
        let names = match found.form.encoding {
            Encoding::Binary => {
                let text = std::str::from_utf8(bytes)
                    .map_err(|error| DataError::malformed(path, error.to_string()))?;
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                lines.map(str::to_owned).collect::<Vec<_>>()
            }
            Encoding::Pickle => {
                let pickle = pickle::parse(bytes, path)?;
                let names = pickle.entry(pickle.root(), self.names_key);
                let names = names.and_then(|names| pickle.elements(names)).ok_or_else(|| {
                    DataError::malformed(path, format!("has no list named {}", self.names_key))
                })?;
                let text = |name: &Value<'_>| {
                    name.text().map(String::from_utf8_lossy).unwrap_or_default().into_owned()
                };
                names.map(text).collect()
            }
        };
        if names.len() == self.classes() {
            Ok(names)
        } else {
            let reason =
                format!("names {} classes; {} has {}", names.len(), self.title, self.classes());
            Err(DataError::malformed(path, reason))
        }
    }

    /// The error for a label out of range, if it is.
    fn check_label(
        &self,
        path: &Path,
        record: usize,
        label: i64,
        count: usize,
    ) -> Result<u8, DataError> {
        match u8::try_from(label) {
            Ok(byte) if usize::from(byte) < count => Ok(byte),
            _ => Err(DataError::malformed(
                path,
                format!(
                    "record {record} has label {label}; the labels are 0 to {}; download and unpack \
                     {} again",
                    count - 1,
                    self.title
                ),
            )),
        }
    }

    /// Appends the records of a file of the binary version; a trailing part of a record is an
    /// error.
    fn parse_binary(
        &self,
        path: &Path,
        bytes: &[u8],
        records: &mut Records,
    ) -> Result<(), DataError> {
        let chunks = bytes.chunks_exact(self.record_bytes());
        if !chunks.remainder().is_empty() {
            return Err(DataError::malformed(
                path,
                format!(
                    "ends within record {}, after {} of its {} bytes",
                    chunks.len(),
                    chunks.remainder().len(),
                    self.record_bytes()
                ),
            ));
        }
        for (record, bytes) in chunks.enumerate() {
            let (record_labels, planes) = bytes.split_at(self.label_counts.len());
            for (&label, &count) in record_labels.iter().zip(self.label_counts) {
                self.check_label(path, record, i64::from(label), count)?;
            }
            records.labels.extend(record_labels.last());
            records.push(planes);
        }
        Ok(())
    }

    /// Appends the records of a pickle.
    fn parse_pickle(
        &self,
        path: &Path,
        bytes: &[u8],
        expected: usize,
        records: &mut Records,
    ) -> Result<(), DataError> {
        let pickle = pickle::parse(bytes, path)?;
        let mut last = Vec::new();
        for (key, &count) in self.label_keys.iter().zip(self.label_counts) {
            last = self.labels(path, &pickle, key, count)?;
            if last.len() != expected {
                return Err(DataError::malformed(
                    path,
                    format!("has {} {key}; {expected} records were expected", last.len()),
                ));
            }
        }
        let data = pickle.entry(pickle.root(), "data").and_then(|data| pickle.array(data));
        let (shape, planes) = data.ok_or_else(|| {
            DataError::malformed(path, "has no uint8 array named data: this is no batch of images")
        })?;
        if shape != [expected, IMAGE_BYTES] {
            return Err(DataError::malformed(
                path,
                format!("data has the shape {shape:?}; [{expected}, {IMAGE_BYTES}] was expected"),
            ));
        }
        planes.chunks_exact(IMAGE_BYTES).for_each(|planes| records.push(planes));
        records.labels.extend(last);
        Ok(())
    }

    fn labels(
        &self,
        path: &Path,
        pickle: &Pickle<'_>,
        key: &str,
        count: usize,
    ) -> Result<Vec<u8>, DataError> {
        let labels = pickle.entry(pickle.root(), key).and_then(|labels| pickle.elements(labels));
        let labels = labels.ok_or_else(|| {
            let reason = format!("has no list named {key}: this is no batch of {}", self.title);
            DataError::malformed(path, reason)
        })?;
        let label = |(record, label): (usize, &Value<'_>)| match label {
            &Value::Int(label) => self.check_label(path, record, label, count),
            _ => Err(DataError::malformed(path, format!("{key}[{record}] is not an integer"))),
        };
        labels.enumerate().map(label).collect()
    }

    fn open(&self, path: &Path, split: Split) -> Result<Cifar, DataError> {
        let mut found = self.find(path, split)?;
        let classes = self.class_names(&found)?;
        let form = found.form;
        let images = form.files(split).iter().map(|(_, records)| records).sum();
        let mut records = Records {
            pixels: Vec::with_capacity(images * IMAGE_BYTES),
            labels: Vec::with_capacity(images),
        };
        let mut origins = Vec::new();
        for ((path, bytes), &(_, count)) in found.files.drain(..).zip(form.files(split)) {
            match form.encoding {
                Encoding::Binary => self.parse_binary(&path, &bytes, &mut records)?,
                Encoding::Pickle => self.parse_pickle(&path, &bytes, count, &mut records)?,
            }
            origins.push((path, count));
        }
        Ok(Cifar { pixels: records.pixels, labels: records.labels, classes, origins })
    }
}

fn list(files: &[RecordFile]) -> String {
    files.iter().map(|(file, _)| *file).collect::<Vec<_>>().join(", ")
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
    /// Reads a split from the folder of either form, from its `.tar.gz` archive, or from the folder
    /// that holds one of these. Where there are several, folders come before archives and the
    /// binary version before pickles.
    ///
    /// Errors name the file that is absent, is not of the exact size, is no pickle of images, or
    /// holds a label out of range (with the record, counted from 0). Archives of more than 1 GiB
    /// and pickles of more than 256 MiB are refused.
    pub fn open(version: CifarVersion, path: &Path, split: Split) -> Result<Self, DataError> {
        version.layout().open(path, split)
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

    fn one_size(&self) -> Option<(usize, usize)> {
        Some((SIDE_PIXELS, SIDE_PIXELS))
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

/// CIFAR-10 with fewer records: the code only sees the numbers.
#[cfg(any(test, feature = "fuzzing"))]
const SMALL_10: Layout = Layout {
    binary: Form {
        train: &[("data_batch_1.bin", 3), ("data_batch_2.bin", 3)],
        test: &[("test_batch.bin", 2)],
        ..CIFAR_10.binary
    },
    python: Form {
        train: &[("data_batch_1", 3), ("data_batch_2", 3)],
        test: &[("test_batch", 2)],
        ..CIFAR_10.python
    },
    ..CIFAR_10
};

/// Reads any bytes as a file of either version, as a batch in a pickle and as an archive of a small
/// CIFAR-10.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let path = Path::new("fuzzed");
    for layout in [&CIFAR_10, &CIFAR_100] {
        let mut records = Records::default();
        if layout.parse_binary(path, bytes, &mut records).is_ok() {
            assert_eq!(records.labels.len() * layout.record_bytes(), bytes.len());
            assert_eq!(records.pixels.len(), records.labels.len() * IMAGE_BYTES);
        }
    }
    let _ = SMALL_10.parse_pickle(path, bytes, 2, &mut Records::default());
    if let Ok(found) = SMALL_10.read_tar(path, Split::Test, bytes) {
        let _ = SMALL_10.class_names(&found);
        assert_eq!(found.files.len(), found.form.test.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// CIFAR-100 likewise.
    const SMALL_100: Layout = Layout {
        binary: Form { train: &[("train.bin", 3)], test: &[("test.bin", 2)], ..CIFAR_100.binary },
        python: Form { train: &[("train", 3)], test: &[("test", 2)], ..CIFAR_100.python },
        ..CIFAR_100
    };

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
        for named in ["cifar-10-batches-bin", "cifar-10-batches-py", "cifar-10-python.tar.gz"] {
            assert!(message.contains(named), "{message}");
        }
        let message = failure(&CIFAR_100, &folder.path().join("gone"), Split::Train);
        assert!(message.starts_with("cannot read ") && message.contains("gone"), "{message}");
        let archive = folder.path().join("cifar-10-binary.tar.gz");
        fs::write(&archive, "x").unwrap();
        let message = failure(&CIFAR_10, &archive, Split::Train);
        assert!(
            message.contains("cifar-10-binary.tar.gz: is a file that is not a .tar.gz"),
            "{message}"
        );
    }

    #[test]
    fn the_published_sizes_are_expected() {
        let total = |files: &[RecordFile]| files.iter().map(|(_, records)| records).sum::<usize>();
        for layout in [&CIFAR_10, &CIFAR_100] {
            assert_eq!((total(layout.binary.train), total(layout.binary.test)), (50_000, 10_000));
            assert_eq!((total(layout.python.train), total(layout.python.test)), (50_000, 10_000));
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
        let path = Path::new(&path);
        for (split, images) in [(Split::Train, 50_000), (Split::Test, 10_000)] {
            let set = Cifar::open(CifarVersion::Cifar10, path, split).unwrap();
            for form in ["cifar-10-batches-py", CIFAR_10.binary.archive, CIFAR_10.python.archive] {
                if path.join(form).exists() {
                    let other = CIFAR_10.open(&path.join(form), split).unwrap();
                    assert!(other.pixels == set.pixels && other.labels == set.labels, "{form}");
                } else {
                    eprintln!("skipped: {form} is not in {}", path.display());
                }
            }
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

    /// A pickle of protocol 2, as Python 2 wrote the official ones: `labels` by their keys, and
    /// planes.
    fn batch(labels: &[(&str, &[u8])], planes: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x80\x02}q\x01(".to_vec();
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend([b'U', text.len() as u8]);
            bytes.extend(text.as_bytes());
        };
        for (key, labels) in labels {
            text(&mut bytes, key);
            bytes.extend(b"](");
            labels.iter().for_each(|&label| bytes.extend([b'K', label]));
            bytes.push(b'e');
        }
        text(&mut bytes, "data");
        bytes.extend(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R");
        bytes.extend(b"(K\x01K");
        bytes.push((planes.len() / IMAGE_BYTES) as u8);
        bytes.extend(b"M\0\x0c\x86cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNN");
        bytes.extend(b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T");
        bytes.extend((planes.len() as u32).to_le_bytes());
        bytes.extend(planes);
        bytes.extend(b"tbu.");
        bytes
    }

    /// The planes of records that follow their labels.
    fn planes(layout: &Layout, records: &[u8]) -> Vec<u8> {
        let records = records.chunks(layout.record_bytes());
        records.flat_map(|record| &record[layout.label_counts.len()..]).copied().collect()
    }

    /// The small CIFAR-10 of [`small_10`] as pickles, in `parent`.
    fn pickles_10(parent: &Path) -> PathBuf {
        let folder = parent.join("cifar-10-batches-py");
        fs::create_dir(&folder).unwrap();
        for (file, labels) in [
            ("data_batch_1", &[3, 0, 9][..]),
            ("data_batch_2", &[1, 1, 2]),
            ("test_batch", &[5, 6]),
        ] {
            let single: Vec<&[u8]> = labels.chunks(1).collect();
            let planes = planes(&SMALL_10, &records(&single));
            fs::write(folder.join(file), batch(&[("labels", labels)], &planes)).unwrap();
        }
        folder
    }

    /// A gzipped tar archive of the files of a folder, in a folder of the same name.
    fn pack(folder: &Path, archive: &Path) {
        let file = File::create(archive).unwrap();
        let compressed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        let mut builder = tar::Builder::new(compressed);
        builder.append_dir_all(folder.file_name().unwrap(), folder).unwrap();
        builder.into_inner().unwrap().finish().unwrap();
    }

    /// Labels, pixels and classes: all that forms must agree on.
    fn content(layout: &Layout, path: &Path, split: Split) -> (Vec<u8>, Vec<u8>, Vec<String>) {
        let set = layout.open(path, split).unwrap();
        (set.labels, set.pixels, set.classes)
    }

    #[test]
    fn all_forms_of_cifar_10_hold_the_same_images() {
        let (parent, binary) = small_10();
        let names = "plane\ncar\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\nlorry\n";
        fs::write(binary.join("batches.meta.txt"), names).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let python = pickles_10(elsewhere.path());
        let list = names.lines().map(|name| format!("S'{name}'\na")).collect::<Vec<_>>().concat();
        fs::write(python.join("batches.meta"), format!("(dS'label_names'\n(l{list}s.")).unwrap();
        let archives = tempfile::tempdir().unwrap();
        let of_binary = archives.path().join("cifar-10-binary.tar.gz");
        let of_python = archives.path().join("renamed.tgz");
        pack(&binary, &of_binary);
        pack(&python, &of_python);
        for split in [Split::Train, Split::Test] {
            let expected = content(&SMALL_10, parent.path(), split);
            assert_eq!(expected.2[9], "lorry");
            for path in [elsewhere.path(), &python, &of_binary, &of_python, archives.path()] {
                let found = content(&SMALL_10, path, split);
                assert!(found == expected, "{}", path.display());
            }
        }
        let set = SMALL_10.open(&of_python, Split::Train).unwrap();
        let expected = "renamed.tgz/cifar-10-batches-py/data_batch_2 record 1";
        assert!(set.name(4).ends_with(expected), "{}", set.name(4));
    }

    #[test]
    fn all_forms_of_cifar_100_hold_the_same_images() {
        let parent = tempfile::tempdir().unwrap();
        let binary = parent.path().join("cifar-100-binary");
        let python = parent.path().join("cifar-100-python");
        fs::create_dir(&binary).unwrap();
        fs::create_dir(&python).unwrap();
        let records = records(&[&[19, 99], &[0, 42], &[3, 0]]);
        fs::write(binary.join("train.bin"), &records).unwrap();
        let labels = [("coarse_labels", &[19, 0, 3][..]), ("fine_labels", &[99, 42, 0])];
        fs::write(python.join("train"), batch(&labels, &planes(&SMALL_100, &records))).unwrap();
        let expected = content(&SMALL_100, &binary, Split::Train);
        assert_eq!(expected.0, [99, 42, 0]);
        assert!(content(&SMALL_100, &python, Split::Train) == expected);
        for folder in [&binary, &python] {
            let archive = parent.path().join("some.tar.gz");
            pack(folder, &archive);
            assert!(content(&SMALL_100, &archive, Split::Train) == expected);
        }
        // An image folder is no CIFAR-100, though it has folders train and test.
        let images = tempfile::tempdir().unwrap();
        fs::create_dir(images.path().join("train")).unwrap();
        assert!(failure(&SMALL_100, images.path(), Split::Train).starts_with("no images in "));
    }

    #[test]
    fn every_form_is_recognised() {
        let (parent, binary) = small_10();
        let other = tempfile::tempdir().unwrap();
        let python = pickles_10(other.path());
        // The name of the archive does not matter, and neither does that of the folder in it.
        let archive = parent.path().join("download");
        pack(&python, &archive);
        let renamed = other.path().join("renamed");
        fs::rename(&python, &renamed).unwrap();
        let second = parent.path().join("second");
        pack(&renamed, &second);
        for path in [parent.path(), &binary, &renamed, &archive, &second] {
            assert_eq!(CifarVersion::recognise(path), Some(CifarVersion::Cifar10), "{path:?}");
        }
        let parent = tempfile::tempdir().unwrap();
        let python = parent.path().join("batches");
        fs::create_dir(&python).unwrap();
        fs::write(python.join("train"), "").unwrap();
        assert_eq!(CifarVersion::recognise(&python), None);
        fs::write(python.join("test"), "").unwrap();
        let archive = parent.path().join("cifar-100-python.tar.gz");
        pack(&python, &archive);
        for path in [&python, &archive, parent.path()] {
            assert_eq!(CifarVersion::recognise(path), Some(CifarVersion::Cifar100), "{path:?}");
        }
        let photos = parent.path().join("photos");
        fs::create_dir_all(photos.join("train")).unwrap();
        fs::write(photos.join("train/1.png"), "").unwrap();
        pack(&photos, &archive);
        fs::write(photos.join("text"), "text").unwrap();
        for path in [&archive, &photos, &photos.join("text"), &photos.join("gone")] {
            assert_eq!(CifarVersion::recognise(path), None, "{path:?}");
        }
    }

    #[test]
    fn pickles_of_something_else_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folder = pickles_10(parent.path());
        let planes = [7; 3 * IMAGE_BYTES];
        for (bytes, named) in [
            (batch(&[("labels", &[1, 10, 1])], &planes), "record 1 has label 10; the labels are 0"),
            (batch(&[("labels", &[1, 1])], &planes), "has 2 labels; 3 records were expected"),
            (batch(&[("fine_labels", &[1, 1, 1])], &planes), "has no list named labels"),
            (
                batch(&[("labels", &[1, 1, 1])], &planes[IMAGE_BYTES..]),
                "data has the shape [2, 3072]; [3, 3072] was expected",
            ),
            (b"}(U\x06labels](K\x01K\x01K\x01eu.".to_vec(), "has no uint8 array named data"),
            (b"}(U\x06labels](K\x01NK\x01eu.".to_vec(), "labels[1] is not an integer"),
            (b"cos\nsystem\n.".to_vec(), "asks for os.system"),
        ] {
            fs::write(folder.join("data_batch_1"), bytes).unwrap();
            let message = failure(&SMALL_10, parent.path(), Split::Train);
            assert!(message.contains("data_batch_1: ") && message.contains(named), "{message}");
        }
        fs::write(folder.join("batches.meta"), b"(dS'label_names'\n(lS'a'\nas.").unwrap();
        let message = failure(&SMALL_10, parent.path(), Split::Test);
        assert!(message.contains("batches.meta: names 1 classes; CIFAR-10 has 10"), "{message}");
        fs::write(folder.join("batches.meta"), b"N.").unwrap();
        let message = failure(&SMALL_10, parent.path(), Split::Test);
        assert!(message.contains("batches.meta: has no list named label_names"), "{message}");
        let file = File::create(folder.join("test_batch")).unwrap();
        file.set_len(MAX_PICKLE_BYTES + 1).unwrap();
        fs::remove_file(folder.join("batches.meta")).unwrap();
        let message = failure(&SMALL_10, parent.path(), Split::Test);
        assert!(
            message.contains("test_batch: has 268435457 bytes; at most 268435456"),
            "{message}"
        );
    }

    #[test]
    fn damaged_archives_are_refused() {
        let (parent, folder) = small_10();
        let archive = parent.path().join("some.tar.gz");
        pack(&folder, &archive);
        let sound = fs::read(&archive).unwrap();
        let message = |bytes: &[u8]| {
            fs::write(&archive, bytes).unwrap();
            let message = failure(&SMALL_10, &archive, Split::Train);
            assert!(message.contains("some.tar.gz"), "{message}");
            message
        };
        for length in [3, 20, sound.len() / 2, sound.len() - 1] {
            message(&sound[..length]);
        }
        let mut checksum = sound.clone();
        let at = sound.len() - 8;
        checksum[at] ^= 1;
        assert!(message(&checksum).contains("cannot unpack the archive: corrupt gzip stream"));

        fs::write(folder.join("data_batch_2.bin"), "short").unwrap();
        pack(&folder, &archive);
        let bytes = fs::read(&archive).unwrap();
        assert!(message(&bytes).contains("data_batch_2.bin: has 5 bytes; 3 records of 3073"));
        fs::remove_file(folder.join("data_batch_2.bin")).unwrap();
        pack(&folder, &archive);
        let bytes = fs::read(&archive).unwrap();
        assert!(message(&bytes).contains("neither all of data_batch_1.bin, data_batch_2.bin nor"));
    }

    #[test]
    fn links_twins_and_giants_in_an_archive_are_refused() {
        let entry = |name: &str, kind, size, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_path(name).unwrap();
            header.set_entry_type(kind);
            header.set_size(size);
            header.set_cksum();
            let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
            [header.as_bytes(), content, &padding].concat()
        };
        let message = |bytes: &[u8]| {
            let path = Path::new("some.tar.gz");
            SMALL_10.read_tar(path, Split::Test, bytes).err().expect("an error").to_string()
        };
        let link = entry("a/test_batch.bin", tar::EntryType::Symlink, 0, b"");
        assert!(message(&link).contains("some.tar.gz/a/test_batch.bin: is a link; an archive of"));
        let giant = entry("a/other", tar::EntryType::Regular, 1 << 31, b"");
        assert!(
            message(&giant).contains("a/other: has 2147483648 bytes; CIFAR-10 has less in all")
        );
        let file = entry("test_batch.bin", tar::EntryType::Regular, 6146, &[0; 6146]);
        // Nothing is unpacked, so a name can lead nowhere.
        let mut outside = file.clone();
        outside[..100].fill(0);
        outside[..21].copy_from_slice(b"../../test_batch.bin\0");
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&outside[..512]);
        header.set_cksum();
        outside[..512].copy_from_slice(header.as_bytes());
        let found = SMALL_10.read_tar(Path::new("a/b.tar.gz"), Split::Test, &outside[..]).unwrap();
        assert_eq!(found.files[0].0, Path::new("a/b.tar.gz/test_batch.bin"));
        assert!(message(&file.repeat(2)).contains("test_batch.bin: is in the archive twice"));
        let cut = message(&file[..5000]);
        assert!(cut.contains("test_batch.bin: ends after 4488 of its 6146 bytes"), "{cut}");
        // A long name is no reason to read gigabytes of it.
        let name = entry("long", tar::EntryType::GNULongName, 1 << 29, b"");
        assert!(message(&name).contains("cannot unpack the archive"));
    }

    proptest! {
        #[test]
        fn any_archive_is_read_or_refused(
            at in 0..4_000_usize, byte in any::<u8>(), cut in 0..12_000_usize,
        ) {
            let mut header = tar::Header::new_gnu();
            header.set_path("test_batch.bin").unwrap();
            header.set_size(6146);
            header.set_cksum();
            let mut bytes = [&header.as_bytes()[..], &[0; 6656]].concat();
            bytes[at] = byte;
            bytes.truncate(cut);
            let _ = SMALL_10.read_tar(Path::new("some.tar.gz"), Split::Test, &bytes[..]);
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..10_000)) {
            for layout in [&CIFAR_10, &CIFAR_100] {
                let mut records = Records::default();
                match layout.parse_binary(Path::new("some.bin"), &bytes, &mut records) {
                    Ok(()) => {
                        let images = records.labels.len();
                        prop_assert_eq!(images * layout.record_bytes(), bytes.len());
                        prop_assert_eq!(records.pixels.len(), images * IMAGE_BYTES);
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
            let mut records = Records::default();
            CIFAR_100.parse_binary(Path::new("some.bin"), &bytes, &mut records).unwrap();
            let Records { pixels, labels } = records;
            prop_assert_eq!(labels, images.iter().map(|&(label, _)| label).collect::<Vec<_>>());
            for (image, record) in pixels.chunks(IMAGE_BYTES).zip(bytes.chunks(2 + IMAGE_BYTES)) {
                for (index, byte) in image.iter().enumerate() {
                    prop_assert_eq!(*byte, record[2 + index % 3 * PLANE_BYTES + index / 3]);
                }
            }
        }
    }
}
