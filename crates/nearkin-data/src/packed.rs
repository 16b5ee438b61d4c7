//! A whole image set as one file of decoded pixels.
//!
//! Decoding a JPEG costs more than augmenting it, and every epoch pays again. A packed file holds the
//! bytes as the network's transforms want them, is mapped into memory instead of read, and lends its
//! pixels without a copy; several processes share one copy of it in the system's page cache.
//!
//! The file, all numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `nkpacked` |
//! | 4, 4 | version (1), number of classes |
//! | 8, 8 | images of the train split, of the test split |
//! | 4, 4 | width and height of every image; both 0 if sizes differ |
//! | 8, 8 | bytes of pixels, bytes of the table |
//! | 32, 32 | SHA-256 of the pixels; of the table behind the header up to here |
//! | | pixels: images one after the other, train before test, each `[height, width, 3]` |
//! | | table: class names (length in 4 bytes, then UTF-8), labels (4 bytes each, all ones for none) and, where sizes differ, for each image where it begins (8 bytes), width and height (4 each) |
//!
//! Opening checks the header, the table with its digest and that every record lies within the pixels,
//! so nothing that a header says can lead outside of the file. The digest of the pixels costs a pass
//! over all of them and is checked on demand: [`Packed::verify`].

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::{DataError, Image, ImageSet, Split};

const MAGIC: &[u8; 8] = b"nkpacked";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 120;
/// Where the digest of the table stands; it covers the header before it.
const TABLE_DIGEST: usize = 88;
const NO_LABEL: u32 = u32::MAX;
const PLACE_BYTES: usize = 16;

/// One split of a packed file.
pub struct Packed {
    path: PathBuf,
    map: Mmap,
    header: Header,
    classes: Vec<String>,
    /// Where labels begin in the file, and after them the places if sizes differ.
    labels: usize,
    /// The first image of the split among all.
    first: usize,
    images: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    classes: u32,
    train: u64,
    test: u64,
    width: u32,
    height: u32,
    pixel_bytes: u64,
    table_bytes: u64,
    pixel_digest: [u8; 32],
}

/// Where an image lies among the pixels.
#[derive(Clone, Copy, Debug)]
struct Place {
    begin: u64,
    width: u32,
    height: u32,
}

impl Place {
    /// Bytes of an image; `None` if there are none, or more than can be counted.
    fn bytes(self) -> Option<u64> {
        let pixels = u64::from(self.width) * u64::from(self.height);
        pixels.checked_mul(3).filter(|&bytes| bytes > 0)
    }
}

impl Header {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.classes.to_le_bytes());
        bytes.extend(self.train.to_le_bytes());
        bytes.extend(self.test.to_le_bytes());
        bytes.extend(self.width.to_le_bytes());
        bytes.extend(self.height.to_le_bytes());
        bytes.extend(self.pixel_bytes.to_le_bytes());
        bytes.extend(self.table_bytes.to_le_bytes());
        bytes.extend(self.pixel_digest);
        bytes
    }

    /// The error is the reason, to follow the name of the file.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(format!("has {} bytes; the header alone has {HEADER_BYTES}", bytes.len()));
        };
        let small = |at: usize| le_u32(header, at);
        let large = |at: usize| le_u64(header, at);
        if header.first_chunk() != Some(MAGIC) {
            return Err("is not a packed file: make one with nearkin data pack".into());
        }
        let version = small(8);
        if version != VERSION {
            return Err(format!(
                "is of version {version}, and this program reads version {VERSION}: pack the \
                 images again"
            ));
        }
        let mut pixel_digest = [0; 32];
        pixel_digest.copy_from_slice(&header[TABLE_DIGEST - 32..TABLE_DIGEST]);
        Ok(Self {
            classes: small(12),
            train: large(16),
            test: large(24),
            width: small(32),
            height: small(36),
            pixel_bytes: large(40),
            table_bytes: large(48),
            pixel_digest,
        })
    }

    fn images(&self) -> Option<usize> {
        usize::try_from(self.train.checked_add(self.test)?).ok()
    }

    fn fixed(&self) -> bool {
        (self.width, self.height) != (0, 0)
    }
}

/// The number at `at`; 0 behind the end, which no caller goes beyond.
fn le_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn le_u64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// What a sound file holds beside its pixels.
#[derive(Debug)]
struct Contents {
    header: Header,
    classes: Vec<String>,
    labels: usize,
}

/// Checks everything but the pixels themselves. What is allocated is no larger than the file.
fn check(bytes: &[u8]) -> Result<Contents, String> {
    let header = Header::parse(bytes)?;
    let whole = header
        .pixel_bytes
        .checked_add(header.table_bytes)
        .and_then(|bytes| bytes.checked_add(HEADER_BYTES as u64));
    if whole != Some(bytes.len() as u64) {
        return Err(format!(
            "has {} bytes, and its header speaks of another number: it is damaged; pack the \
             images again",
            bytes.len()
        ));
    }
    let table_at = HEADER_BYTES + header.pixel_bytes as usize;
    let digest =
        Sha256::new().chain_update(&bytes[..TABLE_DIGEST]).chain_update(&bytes[table_at..]);
    if digest.finalize().as_slice() != &bytes[TABLE_DIGEST..HEADER_BYTES] {
        return Err("the checksum of its table is wrong: pack the images again".into());
    }
    let (classes, labels) = classes(bytes, table_at, header.classes)
        .ok_or("its class names do not fit into its table: pack the images again")?;
    let entry = if header.fixed() { 4 } else { 4 + PLACE_BYTES };
    let expected = header.images().and_then(|images| images.checked_mul(entry));
    let (Some(images), Some(expected)) = (header.images(), expected) else {
        return Err("its header counts more images than a file can hold".into());
    };
    if bytes.len() - labels != expected {
        return Err(format!(
            "its table has {} bytes for labels and sizes; {images} images need {expected}",
            bytes.len() - labels
        ));
    }
    let contents = Contents { header, classes, labels };
    for index in 0..images {
        let label = contents.label(bytes, index);
        if label != NO_LABEL && label >= header.classes {
            return Err(format!("record {index} has label {label} of {} classes", header.classes));
        }
        let place = contents.place(bytes, index);
        let end = place.bytes().and_then(|bytes| place.begin.checked_add(bytes));
        if end.is_none_or(|end| end > header.pixel_bytes) {
            return Err(format!("record {index} lies outside of the pixels, or has none"));
        }
    }
    Ok(contents)
}

/// The class names that begin at `at`, and where they end.
fn classes(bytes: &[u8], mut at: usize, count: u32) -> Option<(Vec<String>, usize)> {
    let mut names = Vec::new();
    for _ in 0..count {
        let length = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize;
        let name = bytes.get(at + 4..)?.get(..length)?;
        names.push(std::str::from_utf8(name).ok()?.to_owned());
        at += 4 + length;
    }
    Some((names, at))
}

impl Contents {
    fn label(&self, bytes: &[u8], index: usize) -> u32 {
        le_u32(bytes, self.labels + 4 * index)
    }

    fn place(&self, bytes: &[u8], index: usize) -> Place {
        place(&self.header, self.labels, bytes, index)
    }
}

fn place(header: &Header, labels: usize, bytes: &[u8], index: usize) -> Place {
    let Header { width, height, .. } = *header;
    if header.fixed() {
        let begin = u64::from(width)
            .saturating_mul(u64::from(height))
            .saturating_mul(3)
            .saturating_mul(index as u64);
        return Place { begin, width, height };
    }
    let at = labels + 4 * header.images().unwrap_or_default() + PLACE_BYTES * index;
    Place { begin: le_u64(bytes, at), width: le_u32(bytes, at + 8), height: le_u32(bytes, at + 12) }
}

fn map(path: &Path) -> Result<Mmap, DataError> {
    let file = File::open(path).map_err(DataError::read(path))?;
    let metadata = file.metadata().map_err(DataError::read(path))?;
    if !metadata.is_file() {
        return Err(DataError::malformed(path, "is not a packed file: give the file itself"));
    }
    // SAFETY: the map is only read, as bytes, for which every value is valid. A packed file appears
    // by one rename and is never written in place; who changes or cuts it while it is in use gets
    // other pixels or the end of the process, as with any mapped file.
    unsafe { Mmap::map(&file) }.map_err(DataError::read(path))
}

impl Packed {
    /// Maps a file and checks all of it but the pixels.
    ///
    /// [`DataError::Request`] if it does not have the split, [`DataError::Malformed`] with what is
    /// wrong if it is no packed file or a damaged one.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        let map = map(path)?;
        let Contents { header, classes, labels } =
            check(&map).map_err(|reason| DataError::malformed(path, reason))?;
        let (first, images) = match split {
            Split::Train => (0, header.train as usize),
            Split::Test => (header.train as usize, header.test as usize),
        };
        if images == 0 {
            let path = path.display();
            return Err(DataError::Request(format!("{path} has no {split} split")));
        }
        Ok(Self { path: path.to_owned(), map, header, classes, labels, first, images })
    }

    /// Whether `open` has something to open.
    pub fn has_split(path: &Path, split: Split) -> Result<bool, DataError> {
        let map = map(path)?;
        let header = Header::parse(&map).map_err(|reason| DataError::malformed(path, reason))?;
        Ok(match split {
            Split::Train => header.train > 0,
            Split::Test => header.test > 0,
        })
    }

    /// Whether a file begins as a packed one does; nothing else of it is checked.
    pub fn is_packed(path: &Path) -> bool {
        let mut start = [0; MAGIC.len()];
        let read =
            File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
        read.is_ok() && start == *MAGIC
    }

    /// Reads the pixels of both splits and compares them with their checksum.
    pub fn verify(&self) -> Result<(), DataError> {
        let end = HEADER_BYTES + self.header.pixel_bytes as usize;
        let digest = Sha256::digest(&self.map[HEADER_BYTES..end]);
        if digest.as_slice() == self.header.pixel_digest {
            return Ok(());
        }
        let reason = "the checksum of its pixels is wrong: pack the images again";
        Err(DataError::malformed(&self.path, reason))
    }
}

impl ImageSet for Packed {
    fn len(&self) -> usize {
        self.images
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        let missing = || DataError::Request(format!("there is no image {index}"));
        if index >= self.images {
            return Err(missing());
        }
        let place = place(&self.header, self.labels, &self.map, self.first + index);
        let begin = HEADER_BYTES + place.begin as usize;
        let length = place.bytes().ok_or_else(missing)? as usize;
        let rgb = self.map.get(begin..).and_then(|rest| rest.get(..length)).ok_or_else(missing)?;
        Image::new(place.width as usize, place.height as usize, rgb).ok_or_else(missing)
    }

    fn one_size(&self) -> Option<(usize, usize)> {
        let (width, height) = (self.header.width as usize, self.header.height as usize);
        (width > 0 && height > 0).then_some((width, height))
    }

    fn label(&self, index: usize) -> Option<usize> {
        let label = le_u32(&self.map, self.labels + 4 * (self.first + index));
        (index < self.images && label != NO_LABEL).then_some(label as usize)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        format!("{} record {}", self.path.display(), self.first + index)
    }
}

/// Writes a packed file, image by image; it appears under its name when it is complete.
///
/// In memory are only labels and sizes, 20 bytes for each image.
pub struct PackWriter {
    path: PathBuf,
    partial: PathBuf,
    file: Option<BufWriter<File>>,
    digest: Sha256,
    header: Header,
    classes: Vec<String>,
    labels: Vec<u32>,
    places: Vec<Place>,
}

impl PackWriter {
    /// Begins a file with these class names, in label order. An existing file is replaced at the end.
    pub fn create(path: &Path, classes: &[String]) -> Result<Self, DataError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(name);
        let file = File::create(&partial).map_err(write_error(&partial))?;
        let mut writer = Self {
            path: path.to_owned(),
            partial,
            file: None,
            digest: Sha256::new(),
            header: Header { classes: classes.len() as u32, ..Header::default() },
            classes: classes.to_vec(),
            labels: Vec::new(),
            places: Vec::new(),
        };
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&[0; HEADER_BYTES]).map_err(write_error(&writer.partial))?;
        writer.file = Some(file);
        Ok(writer)
    }

    /// Appends an image with its label, below the number of classes. All images of the train split
    /// come before those of the test split; a [`DataError::Request`] if not.
    pub fn push(
        &mut self,
        split: Split,
        image: &Image<'_>,
        label: Option<usize>,
    ) -> Result<(), DataError> {
        if split == Split::Train && self.header.test > 0 {
            return Err(DataError::Request("a packed file has its train images first".into()));
        }
        let label = match label {
            Some(label) if label >= self.classes.len() => {
                return Err(DataError::Request(format!(
                    "label {label} does not belong to one of {} classes",
                    self.classes.len()
                )));
            }
            label => label.map_or(NO_LABEL, |label| label as u32),
        };
        let side = |pixels: usize| {
            u32::try_from(pixels).map_err(|_| {
                DataError::Request(format!("an image of {pixels} pixels is too wide to be packed"))
            })
        };
        let place = Place {
            begin: self.header.pixel_bytes,
            width: side(image.width())?,
            height: side(image.height())?,
        };
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(image.rgb()).map_err(write_error(&self.partial))?;
        self.digest.update(image.rgb());
        self.header.pixel_bytes += image.rgb().len() as u64;
        self.labels.push(label);
        self.places.push(place);
        match split {
            Split::Train => self.header.train += 1,
            Split::Test => self.header.test += 1,
        }
        Ok(())
    }

    /// Writes table and header, waits until all is on disk, and gives the file its name. Returns
    /// its length in bytes.
    pub fn finish(mut self) -> Result<u64, DataError> {
        let Some(mut file) = self.file.take() else { return Ok(0) };
        let mut table = Vec::new();
        for class in &self.classes {
            table.extend((class.len() as u32).to_le_bytes());
            table.extend(class.as_bytes());
        }
        self.labels.iter().for_each(|label| table.extend(label.to_le_bytes()));
        let size = |place: &Place| (place.width, place.height);
        match self.places.first().map(size) {
            Some(first) if self.places.iter().all(|place| size(place) == first) => {
                (self.header.width, self.header.height) = first;
            }
            _ => {
                for place in &self.places {
                    table.extend(place.begin.to_le_bytes());
                    table.extend(place.width.to_le_bytes());
                    table.extend(place.height.to_le_bytes());
                }
            }
        }
        self.header.table_bytes = table.len() as u64;
        self.header.pixel_digest.copy_from_slice(&std::mem::take(&mut self.digest).finalize());
        let header = self.header.to_bytes();
        let digest = Sha256::new().chain_update(&header).chain_update(&table).finalize();
        let bytes = HEADER_BYTES as u64 + self.header.pixel_bytes + self.header.table_bytes;
        let mut write = || {
            file.write_all(&table)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header)?;
            file.write_all(&digest)?;
            file.flush()?;
            file.get_ref().sync_all()
        };
        write().map_err(write_error(&self.partial))?;
        drop(file);
        fs::rename(&self.partial, &self.path).map_err(write_error(&self.path))?;
        Ok(bytes)
    }
}

impl Drop for PackWriter {
    /// What was not finished leaves nothing behind.
    fn drop(&mut self) {
        // After `finish` the partial file is gone already.
        drop(fs::remove_file(&self.partial));
    }
}

fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> DataError {
    move |source| DataError::Write { path: path.to_owned(), source }
}

/// Checks any bytes as a packed file, after giving its table the right digest, which no random change
/// would hit.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if let Ok(header) = Header::parse(&bytes)
        && let Some(table) = usize::try_from(header.pixel_bytes)
            .ok()
            .and_then(|pixels| pixels.checked_add(HEADER_BYTES))
            .and_then(|at| bytes.get(at..))
    {
        let digest = Sha256::new().chain_update(&bytes[..TABLE_DIGEST]).chain_update(table);
        let digest = digest.finalize();
        bytes[TABLE_DIGEST..HEADER_BYTES].copy_from_slice(&digest);
    }
    let Ok(contents) = check(&bytes) else { return };
    for index in 0..contents.header.images().unwrap_or_default() {
        let place = contents.place(&bytes, index);
        let end = place.begin + place.bytes().unwrap_or_default();
        assert!(end <= contents.header.pixel_bytes, "record {index} lies outside of the pixels");
        let label = contents.label(&bytes, index);
        assert!(label == NO_LABEL || (label as usize) < contents.classes.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn image(seed: usize, width: usize, height: usize) -> Image<'static> {
        let rgb: Vec<u8> = (0..3 * width * height).map(|at| (seed * 31 + at * 7) as u8).collect();
        Image::new(width, height, rgb).unwrap()
    }

    /// A file of three train images and one test image, of the given sizes.
    fn packed(sizes: [(usize, usize); 4]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.packed");
        let mut writer = PackWriter::create(&path, &["cat".into(), "dög".into()]).unwrap();
        let labels = [Some(1), None, Some(0), Some(1)];
        for (seed, ((width, height), label)) in sizes.into_iter().zip(labels).enumerate() {
            let split = if seed < 3 { Split::Train } else { Split::Test };
            writer.push(split, &image(seed, width, height), label).unwrap();
        }
        let bytes = writer.finish().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), bytes);
        (folder, path)
    }

    const EQUAL: [(usize, usize); 4] = [(4, 3); 4];
    const DIFFERENT: [(usize, usize); 4] = [(4, 3), (1, 1), (5, 2), (2, 7)];

    /// Writes bytes under digests that are right for them.
    fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
        let end = HEADER_BYTES.saturating_add(le_u64(&bytes, 40) as usize).min(bytes.len());
        let digest = Sha256::new()
            .chain_update(&bytes[..TABLE_DIGEST])
            .chain_update(&bytes[end..])
            .finalize();
        bytes[TABLE_DIGEST..HEADER_BYTES].copy_from_slice(&digest);
        bytes
    }

    fn failure(path: &Path) -> String {
        Packed::open(path, Split::Train).err().expect("an error").to_string()
    }

    #[test]
    fn images_come_back_without_a_copy_in_fixed_and_in_different_sizes() {
        for sizes in [EQUAL, DIFFERENT] {
            let (_folder, path) = packed(sizes);
            let train = Packed::open(&path, Split::Train).unwrap();
            assert_eq!((train.len(), train.classes()), (3, &["cat".into(), "dög".into()][..]));
            assert_eq!(train.one_size(), (sizes == EQUAL).then_some(sizes[0]));
            for (seed, (width, height)) in sizes.into_iter().take(3).enumerate() {
                let found = train.image(seed).unwrap();
                assert_eq!(found, image(seed, width, height));
                assert!(train.map.as_ptr_range().contains(&found.rgb().as_ptr()));
            }
            assert_eq!([0, 1, 2].map(|index| train.label(index)), [Some(1), None, Some(0)]);
            let test = Packed::open(&path, Split::Test).unwrap();
            assert_eq!((test.len(), test.label(0), test.label(1)), (1, Some(1), None));
            assert_eq!(test.image(0).unwrap(), image(3, sizes[3].0, sizes[3].1));
            assert!(test.name(0).ends_with("set.packed record 3"), "{}", test.name(0));
            assert!(train.image(3).is_err() && test.image(1).is_err());
            train.verify().unwrap();
        }
        let (fixed, different) = (packed(EQUAL), packed(DIFFERENT));
        let table = |path: &Path| le_u64(&fs::read(path).unwrap(), 48);
        assert_eq!(table(&different.1) - table(&fixed.1), 4 * PLACE_BYTES as u64);
    }

    #[test]
    fn damaged_pixels_are_found_on_demand_and_everything_else_at_once() {
        let (_folder, path) = packed(DIFFERENT);
        let sound = fs::read(&path).unwrap();
        for at in (0..sound.len()).step_by(3) {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x40;
            fs::write(&path, &bytes).unwrap();
            let pixels = HEADER_BYTES..HEADER_BYTES + le_u64(&sound, 40) as usize;
            match Packed::open(&path, Split::Train) {
                Ok(set) => {
                    assert!(pixels.contains(&at), "byte {at} is not checked");
                    let message = set.verify().unwrap_err().to_string();
                    assert!(message.contains("checksum of its pixels is wrong"), "{message}");
                }
                Err(error) => {
                    assert!(!pixels.contains(&at), "byte {at}: {error}");
                    assert!(error.to_string().contains("set.packed: "), "{error}");
                }
            }
        }
        for length in [0, 5, HEADER_BYTES - 1, HEADER_BYTES, sound.len() - 1] {
            fs::write(&path, &sound[..length]).unwrap();
            assert!(failure(&path).contains("set.packed: has "), "{}", failure(&path));
        }
    }

    #[test]
    fn headers_that_lie_are_refused_although_their_checksum_is_right() {
        let (_folder, path) = packed(DIFFERENT);
        let sound = fs::read(&path).unwrap();
        let refused = |at: usize, value: &[u8], reason: &str| {
            let mut bytes = sound.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            fs::write(&path, seal(bytes)).unwrap();
            assert!(failure(&path).contains(reason), "{}", failure(&path));
        };
        refused(8, &2_u32.to_le_bytes(), "is of version 2, and this program reads version 1");
        refused(0, b"PK\x03\x04", "is not a packed file: make one with nearkin data pack");
        refused(12, &u32::MAX.to_le_bytes(), "class names do not fit");
        refused(12, &1_u32.to_le_bytes(), "bytes for labels and sizes; 4 images need 80");
        refused(16, &u64::MAX.to_le_bytes(), "more images than a file can hold");
        refused(16, &(1_u64 << 40).to_le_bytes(), "its table has 80 bytes");
        refused(16, &5_u64.to_le_bytes(), "6 images need 120");
        refused(40, &u64::MAX.to_le_bytes(), "its header speaks of another number");
        refused(48, &1_u64.to_le_bytes(), "its header speaks of another number");
        let labels = sound.len() - 80;
        refused(labels, &2_u32.to_le_bytes(), "record 0 has label 2 of 2 classes");
        let place = sound.len() - 4 * PLACE_BYTES;
        refused(place, &u64::MAX.to_le_bytes(), "record 0 lies outside of the pixels");
        refused(place + 8, &0_u32.to_le_bytes(), "record 0 lies outside of the pixels, or has");
        refused(place + 8, &[0xff; 8], "record 0 lies outside");
        refused(32, &[0xff; 8], "its table has 80 bytes for labels and sizes; 4 images need 16");
    }

    #[test]
    fn a_split_that_is_not_there_is_a_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.packed");
        let mut writer = PackWriter::create(&path, &[]).unwrap();
        writer.push(Split::Train, &image(0, 2, 2), None).unwrap();
        writer.finish().unwrap();
        assert!(Packed::has_split(&path, Split::Train).unwrap());
        assert!(!Packed::has_split(&path, Split::Test).unwrap());
        let message = Packed::open(&path, Split::Test).err().unwrap().to_string();
        assert!(message.ends_with("train.packed has no test split"), "{message}");
        assert!(Packed::is_packed(&path) && !Packed::is_packed(folder.path()));
        let message = Packed::open(folder.path(), Split::Train).err().unwrap().to_string();
        assert!(message.contains("is not a packed file: give the file itself"), "{message}");
        let message = failure(&folder.path().join("gone"));
        assert!(message.starts_with("cannot read ") && message.contains("gone"), "{message}");
    }

    #[test]
    fn an_unfinished_file_leaves_what_was_there() {
        let (folder, path) = packed(EQUAL);
        let before = fs::read(&path).unwrap();
        let mut writer = PackWriter::create(&path, &[]).unwrap();
        writer.push(Split::Test, &image(0, 2, 2), None).unwrap();
        let message = writer.push(Split::Train, &image(0, 2, 2), None).unwrap_err().to_string();
        assert_eq!(message, "a packed file has its train images first");
        let message = writer.push(Split::Test, &image(0, 2, 2), Some(0)).unwrap_err().to_string();
        assert_eq!(message, "label 0 does not belong to one of 0 classes");
        drop(writer);
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let message = PackWriter::create(&folder.path().join("no/where"), &[]).err().unwrap();
        assert!(message.to_string().starts_with("cannot write "), "{message}");
    }

    proptest! {
        #[test]
        fn any_header_over_any_bytes_is_read_within_bounds_or_refused(
            changes in prop::collection::vec((0..HEADER_BYTES + 110, any::<u8>()), 0..6),
            small in prop::collection::vec((2..14_usize, 0..9_u32), 0..3),
            cut in 0..60_usize,
            fixed: bool,
        ) {
            let (_folder, path) = packed(if fixed { EQUAL } else { DIFFERENT });
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(bytes.len() - cut);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            for (word, value) in small {
                bytes[4 * word..4 * word + 4].copy_from_slice(&value.to_le_bytes());
            }
            fs::write(&path, seal(bytes)).unwrap();
            for split in [Split::Train, Split::Test] {
                if let Ok(set) = Packed::open(&path, split) {
                    for index in 0..set.len() {
                        let image = set.image(index).unwrap();
                        prop_assert_eq!(image.rgb().len(), 3 * image.width() * image.height());
                        prop_assert!(set.label(index).is_none_or(|label| label < set.classes().len()));
                    }
                }
                let _ = Packed::has_split(&path, split);
            }
        }
    }
}
