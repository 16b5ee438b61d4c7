//! WebDataset: samples in the order of tar files, the shards.
//!
//! Sets of millions of images are often kept as some hundred tar files, because file systems and
//! networks prefer few large files. A sample is the run of members that share their path up to the
//! first dot of the file name: `0001.jpg` is its image, `0001.cls` its label as text, and
//! `0001.json` may hold the label under the key `label` or `cls`. Other members are skipped, and so
//! are samples without an image.
//!
//! Other readers stream shards and shuffle within a buffer. Here the headers of all shards are read
//! once, which tells where every image lies; then any image can be read by its position, and a set
//! in shards shuffles as well as one in folders: no order of shards, threads or processes plays a part,
//! and each process takes its images from the plan of the epoch. This is why shards must not be
//! compressed.
//!
//! What is kept of a sample is 16 bytes and its key, so 25 bytes with the usual nine digits: 250 MB for
//! ten million samples, and 8 bytes each for the permutation of the epoch. While a set with labels is
//! opened they are held as text besides, some 32 bytes each.
//!
//! A path is a shard, a pattern of shards such as `train-{000..012}.tar`, or a folder. In a folder
//! with `train` and `val` or `test` in it these are the splits; otherwise shards with the word
//! `val`, `validation` or `test` in their names are the test split (`val` where there is both) and
//! all others the train split.

use std::fs::{self, File};
use std::io::{self, Cursor, ErrorKind, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tar::EntryType;

use crate::classes::{Fault, Labels, Scheme, Written};
use crate::decode::{EXTENSIONS, decode};
use crate::image_file::MAX_IMAGE_BYTES;
use crate::{DataError, Image, ImageSet, Split};

/// Longer labels and names of members are refused.
const MAX_TEXT_BYTES: u64 = 1 << 20;
/// A pattern of more shards is a mistake.
const MAX_SHARDS: usize = 100_000;

/// A sample with an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The path of its members up to the extension.
    pub key: Box<str>,
    /// Where the image begins in the shard.
    pub offset: u64,
    /// The length of the image's file.
    pub bytes: u64,
    /// As written.
    pub label: Option<Box<str>>,
}

/// What is kept of a sample, of which there may be millions.
struct Place {
    /// Where the image begins in its shard, in blocks of tar.
    block: u32,
    bytes: u32,
    /// Where the key ends among those of its shard; it begins where the one before ends.
    key_end: u32,
}

const BLOCK_BYTES: u64 = 512;

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
}

impl WebDataset {
    /// Reads the headers of a split's shards, and for the test split those of the train split too,
    /// whose classes count.
    ///
    /// [`DataError::Request`] if there are no shards of the split, [`DataError::Empty`] if they
    /// hold no images, [`DataError::Malformed`] with the shard that is no tar archive or the member
    /// at fault.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        let [train, test] = shards(path)?;
        let own = match split {
            Split::Train => &train,
            Split::Test => &test,
        };
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
        };
        let mut written = Written::default();
        for path in own {
            set.push(path, index_file(path)?, &mut written)?;
        }
        set.places.shrink_to_fit();
        if set.places.is_empty() {
            let reason = format!("the shards hold no {} files", EXTENSIONS.join(", "));
            return Err(DataError::empty(path, reason));
        }
        let mut known = None;
        if split == Split::Test && !train.is_empty() {
            let known = known.insert(Written::default());
            for path in &train {
                for sample in index_file(path)? {
                    known.push(sample.label.as_deref());
                }
            }
        }
        let fault = |set: &Self, Fault { image, reason }| {
            DataError::malformed(&set.place_name(image), reason)
        };
        let scheme = Scheme::from_labels(&written, known.as_ref(), None)
            .map_err(|error| fault(&set, error))?;
        set.labels = scheme.number(&written).map_err(|error| fault(&set, error))?;
        set.classes = scheme.classes();
        Ok(set)
    }

    /// Appends the samples of a shard, and their labels as written.
    fn push(
        &mut self,
        path: &Path,
        samples: Vec<Sample>,
        written: &mut Written,
    ) -> Result<(), DataError> {
        let first = self.places.len();
        let mut keys = String::with_capacity(samples.iter().map(|sample| sample.key.len()).sum());
        for Sample { key, offset, bytes, label } in samples {
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
            written.push(label.as_deref());
        }
        self.shards.push(Shard { path: path.to_owned(), first, keys });
        Ok(())
    }

    /// Whether a file is a shard, a folder holds some, or `path` is a pattern of some, told by names.
    pub(crate) fn is_at(path: &Path) -> bool {
        if path.is_dir() {
            // Opening a set that is not whole says what is missing.
            return matches!(shards(path), Ok(_) | Err(DataError::Malformed { .. }));
        }
        is_tar(path) && (path.exists() || path.to_string_lossy().contains('{'))
    }

    /// Whether there are shards of the split.
    pub fn has_split(path: &Path, split: Split) -> Result<bool, DataError> {
        let [train, test] = shards(path)?;
        Ok(match split {
            Split::Train => !train.is_empty(),
            Split::Test => !test.is_empty(),
        })
    }

    fn shard(&self, index: usize) -> &Shard {
        let after = self.shards.partition_point(|shard| shard.first <= index);
        &self.shards[after.saturating_sub(1)]
    }

    fn place_name(&self, index: usize) -> PathBuf {
        let shard = self.shard(index);
        let begin = match index == shard.first {
            true => 0,
            false => self.places[index - 1].key_end as usize,
        };
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
}

/// The shards of the train and of the test split.
fn shards(path: &Path) -> Result<[Vec<PathBuf>; 2], DataError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Ok([vec![path.to_owned()], Vec::new()]),
        Err(error) => {
            let pattern = path.to_str().filter(|path| path.contains('{'));
            let Some(pattern) = pattern.filter(|_| error.kind() == ErrorKind::NotFound) else {
                return Err(DataError::read(path)(error));
            };
            let shards = expand(pattern).map_err(|reason| DataError::malformed(path, reason))?;
            return Ok([shards.into_iter().map(PathBuf::from).collect(), Vec::new()]);
        }
    }
    let folder = |name: &str| {
        let folder = path.join(name);
        match folder.is_dir() {
            true => list(&folder),
            false => Ok(Vec::new()),
        }
    };
    let (train, mut test) = (folder("train")?, folder("val")?);
    if test.is_empty() {
        test = folder("test")?;
    }
    if !train.is_empty() || !test.is_empty() {
        return Ok([train, test]);
    }
    let has_word = |shard: &Path, words: &[&str]| {
        let name = shard.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        name.split(|letter: char| !letter.is_alphabetic()).any(|word| words.contains(&word))
    };
    let (val, others): (Vec<_>, Vec<_>) =
        list(path)?.into_iter().partition(|shard| has_word(shard, &["val", "validation"]));
    let (test, train): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|shard| has_word(shard, &["test"]));
    let test = if val.is_empty() { test } else { val };
    if train.is_empty() && test.is_empty() {
        return Err(DataError::empty(path, "looked for shards, files that end in .tar"));
    }
    Ok([train, test])
}

fn is_tar(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar"))
}

/// The shards in a folder, sorted.
fn list(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut shards = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::read(folder))? {
        let path = entry.map_err(DataError::read(folder))?.path();
        if is_tar(&path) && path.is_file() {
            shards.push(path);
        }
    }
    shards.sort();
    Ok(shards)
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

fn index_file(path: &Path) -> Result<Vec<Sample>, DataError> {
    let mut file = File::open(path).map_err(DataError::read(path))?;
    let length = file.metadata().map_err(DataError::read(path))?.len();
    let mut magic = [0; 2];
    if file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b] {
        let reason = "is gzipped, so nothing in it can be read by its position; gunzip the shards";
        return Err(DataError::malformed(path, reason));
    }
    file.rewind().map_err(DataError::read(path))?;
    index(file, length, path)
}

/// Finds the samples of a shard that is in memory.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Sample>, DataError> {
    index(Cursor::new(bytes), bytes.len() as u64, path)
}

/// Finds the samples of a shard, in its order.
fn index(shard: impl Read + Seek, length: u64, path: &Path) -> Result<Vec<Sample>, DataError> {
    let damaged = |error: io::Error| {
        DataError::malformed(path, format!("cannot read it as a tar archive: {error}"))
    };
    let mut archive = tar::Archive::new(shard);
    let mut samples = Samples::default();
    let mut long_name = None;
    // Raw entries, because the names of others would be read whole, however long, into memory.
    for entry in archive.entries_with_seek().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        let (offset, bytes) = (entry.raw_file_position(), entry.size());
        let name = match long_name.take() {
            Some(name) => name,
            None => String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
        };
        let member = path.join(name.trim_start_matches(['.', '/']));
        if offset.checked_add(bytes).is_none_or(|end| end > length) {
            let reason = format!("ends after the shard does, which has {length} bytes");
            return Err(DataError::malformed(&member, reason));
        }
        let mut content = || {
            let mut content = Vec::new();
            if bytes > MAX_TEXT_BYTES {
                let reason = format!("has {bytes} bytes; at most {MAX_TEXT_BYTES} are read");
                return Err(DataError::malformed(&member, reason));
            }
            entry.read_to_end(&mut content).map_err(damaged)?;
            Ok(content)
        };
        match kind {
            EntryType::GNULongName => {
                let content = content()?;
                let name = content.split(|&byte| byte == 0).next().unwrap_or_default();
                long_name = Some(String::from_utf8_lossy(name).into_owned());
            }
            EntryType::XHeader => {
                let content = content()?;
                let path = tar::PaxExtensions::new(&content)
                    .filter_map(Result::ok)
                    .find(|extension| extension.key_bytes() == b"path");
                long_name =
                    path.map(|path| String::from_utf8_lossy(path.value_bytes()).into_owned());
            }
            EntryType::Link | EntryType::Symlink => {
                let reason = "is a link; a shard holds its files themselves";
                return Err(DataError::malformed(&member, reason));
            }
            EntryType::Regular | EntryType::Continuous => {
                let (key, extension) = split_name(&name);
                let extension = extension.to_lowercase();
                samples.begin(key);
                match extension.as_str() {
                    "cls" => samples.current.label = Some(text_label(&content()?, &member)?),
                    "json" => {
                        let label = json_label(&content()?, &member)?;
                        samples.current.label = samples.current.label.take().or(label);
                    }
                    extension if EXTENSIONS.contains(&extension) => {
                        if bytes > MAX_IMAGE_BYTES {
                            let reason =
                                format!("has {bytes} bytes; at most {MAX_IMAGE_BYTES} are read");
                            return Err(DataError::malformed(&member, reason));
                        }
                        if samples.current.image.replace((offset, bytes)).is_some() {
                            let reason = "is the second image of its sample; it may have one";
                            return Err(DataError::malformed(&member, reason));
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    samples.begin("");
    Ok(samples.complete)
}

/// Members that are being joined to samples.
#[derive(Default)]
struct Samples {
    complete: Vec<Sample>,
    current: Partial,
}

/// A sample of which more members may follow.
#[derive(Default)]
struct Partial {
    key: String,
    image: Option<(u64, u64)>,
    label: Option<Box<str>>,
}

impl Samples {
    /// Completes the current sample unless it is that of `key`.
    fn begin(&mut self, key: &str) {
        if self.current.key == key && !key.is_empty() {
            return;
        }
        let next = Partial { key: key.to_owned(), ..Partial::default() };
        let Partial { key, image, label } = std::mem::replace(&mut self.current, next);
        if let Some((offset, bytes)) = image {
            self.complete.push(Sample { key: key.into(), offset, bytes, label });
        }
    }
}

/// The key and the extension of a member: what comes before and after the first dot of its file
/// name.
fn split_name(name: &str) -> (&str, &str) {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        Some(dot) => (&name[..file + dot], &name[file + dot + 1..]),
        None => (name, ""),
    }
}

fn text_label(content: &[u8], member: &Path) -> Result<Box<str>, DataError> {
    match std::str::from_utf8(content).map(str::trim) {
        Ok(label) if !label.is_empty() => Ok(label.into()),
        _ => Err(DataError::malformed(member, "is not a label: the name or number of a class")),
    }
}

fn json_label(content: &[u8], member: &Path) -> Result<Option<Box<str>>, DataError> {
    let value: serde_json::Value = serde_json::from_slice(content)
        .map_err(|error| DataError::malformed(member, format!("is not JSON: {error}")))?;
    match value.get("label").or(value.get("cls")) {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(name)) => Ok(Some(name.as_str().into())),
        Some(serde_json::Value::Number(number)) => Ok(Some(number.to_string().into())),
        Some(other) => Err(DataError::malformed(
            member,
            format!("has the label {other}; the name or number of a class was expected"),
        )),
    }
}

#[cfg(test)]
mod tests {
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
    type Member<'a> = (&'a str, &'a [u8]);

    fn tar(members: &[Member<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// A member with a header of its own making.
    fn member(name: &str, kind: EntryType, size: u64, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
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
            let mut header = tar::Header::new_gnu();
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
        let shards = folder(&[
            ("train/0.tar", &[("1.png", &png(1))]),
            ("test/0.tar", &[("2.png", &png(2))]),
            ("other.tar", &[("3.png", &png(3))]),
        ]);
        assert_eq!(content(shards.path(), Split::Train), ["1: 1, -"]);
        assert_eq!(content(shards.path(), Split::Test), ["2: 2, -"]);
        let shards = folder(&[
            ("set-train-0.tar", &[("1.png", &png(1))]),
            ("set-validation-0.tar", &[("2.png", &png(2))]),
            ("set-test-0.tar", &[("3.png", &png(3))]),
            ("latest.TAR", &[("4.png", &png(4))]),
        ]);
        assert_eq!(content(shards.path(), Split::Train), ["4: 4, -", "1: 1, -"]);
        assert_eq!(content(shards.path(), Split::Test), ["2: 2, -"]);
        let empty = tempfile::tempdir().unwrap();
        let message = failure(empty.path(), Split::Train);
        assert!(message.contains("looked for shards, files that end in .tar"), "{message}");
        let gone = empty.path().join("gone.tar");
        assert!(failure(&gone, Split::Train).starts_with("cannot read "));
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
        let refusal = |bytes: &[u8]| {
            let message = parse(bytes, Path::new("some.tar")).unwrap_err().to_string();
            assert!(message.starts_with("some.tar"), "{message}");
            message
        };
        let sound = tar(&[("1.png", &png(1)), ("1.cls", b"3")]);
        let cut = refusal(&sound[..530]);
        assert!(cut.contains("some.tar/1.png: ends after the shard does, which has 530"), "{cut}");
        assert!(refusal(&[b'x'; 600]).contains("cannot read it as a tar archive"));
        for (bytes, named) in [
            (tar(&[("1.cls", b" \n")]), "1.cls: is not a label"),
            (tar(&[("1.json", b"{")]), "1.json: is not JSON"),
            (tar(&[("1.json", br#"{"cls": [1]}"#)]), "1.json: has the label [1]; the name or"),
            (tar(&[("1.png", b"a"), ("1.jpg", b"b")]), "1.jpg: is the second image of its sample"),
            (member("1.png", EntryType::Symlink, 0, b""), "1.png: is a link"),
            (member("1.png", EntryType::Regular, 1 << 32, b""), "1.png: ends after the shard does"),
            (
                member("1.cls", EntryType::Regular, 1 << 21, &vec![b'x'; 1 << 21]),
                "1.cls: has 2097152 bytes; at most 1048576 are read",
            ),
        ] {
            let message = refusal(&bytes);
            assert!(message.contains(named), "{message}");
        }

        let shards = folder(&[
            ("a.tar", &[("1.png", b"no image"), ("1.cls", b"0")]),
            ("val.tar", &[("2.png", b""), ("2.cls", b"1")]),
        ]);
        let set = WebDataset::open(shards.path(), Split::Train).unwrap();
        let message = set.image(0).unwrap_err().to_string();
        assert!(message.contains("a.tar/1: the content is not that of"), "{message}");
        let message = failure(shards.path(), Split::Test);
        assert!(message.contains("val.tar/2: \"1\" is a class that the train split"), "{message}");
        fs::write(shards.path().join("a.tar"), [0x1f, 0x8b, 8]).unwrap();
        assert!(failure(shards.path(), Split::Train).contains("a.tar: is gzipped"));
        fs::write(shards.path().join("a.tar"), tar(&[("1.txt", b"x")])).unwrap();
        assert!(failure(shards.path(), Split::Train).contains("the shards hold no bmp, jfif"));
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
                let mut header = tar::Header::from_byte_slice(&bytes[..512]).clone();
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
