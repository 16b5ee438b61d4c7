//! Which kind of set is at a path, told by the names of files.
//!
//! Every command that is given only a path asks here, so that all of them see the same set.
//!
//! Some folders hold two kinds: a preview beside shards, the archives that images were unpacked from, a
//! table of metadata beside images. The rules where images are beside shards or parquet files:
//!
//! - At most ten pictures are previews, not a data set. They may be in the folder itself, in folders such as
//!   `assets`, `docs` and `images`, beside the shards or parquet files, or in one other folder. They are
//!   counted.
//! - If two folders hold images, these are sorted into classes or splits, and are a set however few there
//!   are. Folders within `images` count, and so does a folder with shards or parquet files in it if another
//!   folder has images and none: a stray archive in a class folder does not hide the classes.
//! - Archives are what images were unpacked from if they are not numbered like shards, or are called
//!   like a folder beside them. A parquet file holds metadata if its name speaks of no part and is not
//!   numbered, or it is called like a folder of images or like a shard beside it, as `img2dataset` writes
//!   them.
//! - If there are more pictures, shards and parquet files more than one folder deep are ignored.
//! - Otherwise both are sets, and the user is asked which one is meant.
//!
//! Where a list is beside images, the folders decide if they sort the images into classes; else the
//! list has the labels. Lists that divide such images into splits, which the folders do not, are used or
//! refused, as the module `list_beside` says.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::scan::{self, Listing};
use crate::split_files::{self, FileKind, MOST_PREVIEWS};
use crate::splits::{self, Naming};
use crate::{
    CifarVersion, DataError, Folder, Idx, ImageSet, List, Packed, Source, Split, Stl10, Stl10Part,
    Voc, VocPart, WebDataset, decode, list_beside, parquet,
};

/// Archives often unpack to one folder; links could lead further without end.
const DEEPEST: usize = 8;

/// Recognizes the kind of set at `path`, an archive of CIFAR by the names of the files in it.
///
/// Whatever is not known otherwise is a folder of images. [`DataError::Malformed`] for a file of no
/// known kind, and for a folder that holds two sets.
pub fn detect(path: &Path) -> Result<Source, DataError> {
    if path.is_dir() { detect_folder(path, 0) } else { detect_file(path) }
}

fn detect_file(path: &Path) -> Result<Source, DataError> {
    let place = Some(path.to_owned());
    // Before anything is asked of the file: a pattern of shards is none.
    if WebDataset::is_at(path) {
        return Ok(Source::Webdataset { path: place });
    }
    fs::metadata(path).map_err(DataError::read(path))?;
    if Packed::is_packed(path) {
        return Ok(Source::Packed { path: place });
    }
    if let Some(version) = CifarVersion::recognise(path) {
        return Ok(cifar(version, place));
    }
    if Stl10::is_archive(path) {
        return Ok(Source::Stl10 { path: place, part: Stl10Part::Train });
    }
    if List::is_at(path) {
        return Ok(Source::List { path: place, root: None });
    }
    if parquet::is_at(path) {
        return Ok(Source::Parquet { path: place });
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let is_archive = [".zip", ".7z", ".rar", ".tgz", ".gz", ".bz2", ".xz", ".zst"];
    let reason = if Idx::is_at(path) {
        "is one of several idx files; give their folder"
    } else if decode::is_image(path) {
        "is a single image; give its folder"
    } else if is_archive.iter().any(|extension| name.ends_with(extension)) {
        "is a compressed archive; unpack it and give the folder"
    } else {
        "is not a folder, and none of the files that hold a set: a packed file, a .tar.gz archive of \
         CIFAR-10, CIFAR-100 or STL-10, a shard (.tar), a list (.txt, .csv or .tsv), a parquet file"
    };
    Err(DataError::malformed(path, reason))
}

fn detect_folder(path: &Path, depth: usize) -> Result<Source, DataError> {
    let place = Some(path.to_owned());
    if let Some(version) = CifarVersion::recognise(path) {
        return Ok(cifar(version, place));
    }
    if is_stl10_folder(path) {
        let unlabeled = ["stl10_binary/unlabeled_X.bin", "unlabeled_X.bin"];
        let unlabeled = unlabeled.iter().any(|name| path.join(name).exists());
        let part = if unlabeled { Stl10Part::TrainAndUnlabeled } else { Stl10Part::Train };
        return Ok(Source::Stl10 { path: place, part });
    }
    if Idx::is_at(path) {
        return Ok(Source::Idx { path: place });
    }
    if Voc::is_at(path) {
        return Ok(Source::Voc { path: place, part: VocPart::default() });
    }
    let shards = WebDataset::is_at(path).then(|| Files::below(path, "tar"));
    let tables = parquet::is_at(path).then(|| Files::below(path, "parquet"));
    if shards.is_some() || tables.is_some() {
        let files = shards.iter().chain(&tables).flat_map(|files| &files.paths);
        let used = files.filter_map(|file| file.parent()).map(Path::to_owned).collect();
        let pictures = Pictures::below(path, &used)?;
        let shards = shards.filter(|shards| shards.are_a_set_beside(&pictures));
        let tables = tables.filter(|tables| tables.are_a_set_beside(&pictures));
        let (shards, tables) = match (shards, tables) {
            (Some(shards), Some(tables)) if shards.paths.is_empty() && tables.paths.is_empty() => {
                (Some(shards.searched(path)), Some(tables.searched(path)))
            }
            either => either,
        };
        let tables = tables.filter(|tables| {
            !shards.as_ref().is_some_and(|shards| tables.are_all_called_like(shards))
        });
        match (shards, tables, pictures.are_a_set()) {
            (Some(_), None, false) => return Ok(Source::Webdataset { path: place }),
            (None, Some(_), false) => return Ok(Source::Parquet { path: place }),
            (Some(shards), Some(tables), _) => {
                return Err(ask(path, [&shards.shown("shard"), &tables.shown("parquet file")]));
            }
            (Some(shards), None, true) => {
                return Err(ask(path, [&shards.shown("shard"), &pictures.shown]));
            }
            (None, Some(tables), true) => {
                return Err(ask(path, [&tables.shown("parquet file"), &pictures.shown]));
            }
            (None, None, _) => {}
        }
    }
    if List::is_at(path) && !folders_are_classes(path) {
        return Ok(Source::List { path: place, root: None });
    }
    if let Some(error) = packed_inside(path)? {
        return Err(error);
    }
    if depth < DEEPEST
        && let Some(inner) = wrapped(path)?
    {
        let found = detect_folder(&inner, depth + 1)?;
        if !matches!(found, Source::Folder { .. }) {
            return Ok(found);
        }
    }
    list_beside::refuse_lists(path)?;
    Ok(Source::Folder { path: place })
}

fn cifar(version: CifarVersion, path: Option<PathBuf>) -> Source {
    match version {
        CifarVersion::Cifar10 => Source::Cifar10 { path },
        CifarVersion::Cifar100 => Source::Cifar100 { path },
    }
}

/// Whether the folders at `path` sort images into classes: a list then only repeats them, or cannot be
/// read as a list of images at all.
fn folders_are_classes(path: &Path) -> bool {
    if list_beside::lists_say_more(path) {
        return false;
    }
    let sorted = Folder::open(path, Split::Train).is_ok_and(|set| set.has_labels());
    sorted
        || List::open(path, None, Split::Train).is_err()
            && scan::holds_images(path).is_ok_and(|holds| holds)
}

/// The error for a folder of which all that can be read is a packed file.
fn packed_inside(path: &Path) -> Result<Option<DataError>, DataError> {
    let entries = scan::entries(path)?;
    if entries.images.len() > MOST_PREVIEWS {
        return Ok(None);
    }
    let mut files: Vec<PathBuf> = fs::read_dir(path)
        .map_err(DataError::read(path))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|file| file.extension().is_some_and(|end| end.eq_ignore_ascii_case("packed")))
        .filter(|file| file.is_file())
        .collect();
    files.sort();
    let Some(file) = files.first() else { return Ok(None) };
    for folder in &entries.folders {
        if scan::holds_images(&path.join(folder))? {
            return Ok(None);
        }
    }
    let reason = format!("holds a packed file: give the packed file itself, {}", file.display());
    Ok(Some(DataError::malformed(path, reason)))
}

/// The only folder in a folder without images; not one that is called like a part.
fn wrapped(path: &Path) -> Result<Option<PathBuf>, DataError> {
    let entries = scan::entries(path)?;
    Ok(match entries.folders.as_slice() {
        [only] if entries.images.is_empty() => {
            let is_part = splits::naming(&only.to_string_lossy()) != Naming::Nothing;
            (!is_part).then(|| path.join(only))
        }
        _ => None,
    })
}

fn ask(path: &Path, [one, other]: [&str; 2]) -> DataError {
    DataError::malformed(
        path,
        format!(
            "holds {one} and {other}, and may mean either: give the folder of one of them, or move the \
             other away; a recipe can say data.dataset"
        ),
    )
}

/// Shards or parquet files in a folder and one level below.
struct Files {
    extension: &'static str,
    /// Relative to the folder, sorted.
    paths: Vec<PathBuf>,
}

impl Files {
    fn below(path: &Path, extension: &'static str) -> Self {
        let is_one =
            |name: &Path| name.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
        let mut paths = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            // One that may not be read has nothing to show.
            let Ok(entries) = fs::read_dir(path.join(&folder)) else { continue };
            for entry in entries.flatten() {
                let name = PathBuf::from(entry.file_name());
                if is_one(&name) {
                    paths.push(folder.join(name));
                } else if folder.as_os_str().is_empty() && entry.path().is_dir() {
                    folders.push(name);
                }
            }
        }
        paths.sort();
        Self { extension, paths }
    }

    /// The same at any depth.
    fn searched(self, path: &Path) -> Self {
        let kind = FileKind { extension: self.extension, noun: "file" };
        // Opening the set says what is wrong with it.
        let found = split_files::find(path, kind).unwrap_or_default();
        let files = found.train.iter().chain(&found.test);
        let mut paths: Vec<PathBuf> =
            files.filter_map(|file| Some(file.strip_prefix(path).ok()?.to_owned())).collect();
        paths.sort();
        Self { paths, ..self }
    }

    /// Whether they are a set of their own, not what pictures came from or a table about them.
    fn are_a_set_beside(&self, pictures: &Pictures) -> bool {
        let is_called_like_folder =
            |file: &PathBuf| pictures.folders.contains(&file.with_extension(""));
        if !pictures.are_a_set() {
            return self.paths.is_empty() || !self.paths.iter().all(is_called_like_folder);
        }
        self.paths.iter().any(|file| {
            let stem = file.file_stem().unwrap_or_default();
            let text = stem.to_string_lossy();
            let is_numbered = text.ends_with(|letter: char| letter.is_ascii_digit());
            let is_named = self.extension != "tar" && splits::naming(&text) != Naming::Nothing;
            (is_numbered || is_named) && !is_called_like_folder(file)
        })
    }

    /// Whether each is called like one of the others: what describes shards has their names.
    fn are_all_called_like(&self, others: &Self) -> bool {
        let stem = |file: &PathBuf| file.with_extension("");
        let others: BTreeSet<PathBuf> = others.paths.iter().map(stem).collect();
        !self.paths.is_empty() && self.paths.iter().all(|file| others.contains(&stem(file)))
    }

    fn shown(&self, noun: &str) -> String {
        let first = self.paths.first().map(|path| path.display().to_string());
        format!("{} {noun}(s) ({}, ...)", self.paths.len(), first.unwrap_or_default())
    }
}

/// The images in a folder beside shards or parquet files.
struct Pictures {
    images: usize,
    /// Folders whose images are no preview or part of a description by their names and places.
    others: usize,
    /// The folders that hold some, at any depth.
    folders: BTreeSet<PathBuf>,
    shown: String,
}

impl Pictures {
    /// `used` are the folders that hold the shards or parquet files, relative to `path`.
    fn below(path: &Path, used: &BTreeSet<PathBuf>) -> Result<Self, DataError> {
        let listing: Listing = scan::scan(path, scan::index_folder().as_deref())?;
        let mut pictures = Self {
            images: listing.len(),
            others: 0,
            folders: BTreeSet::new(),
            shown: String::new(),
        };
        let mut beside_files = 0;
        for (folder, _) in listing.folders().filter(|(_, files)| !files.is_empty()) {
            let top: OsString = folder.iter().next().unwrap_or_default().to_owned();
            let name = top.to_string_lossy();
            let is_sorted = folder.components().nth(1).is_some();
            let is_preview = top.is_empty()
                || splits::means_images(&name) && !is_sorted
                || splits::means_description(&name);
            if !is_preview && used.contains(folder) {
                beside_files += 1;
            } else if !is_preview {
                pictures.others += 1;
            }
            pictures.folders.extend(folder.ancestors().map(Path::to_owned));
        }
        if pictures.others > 0 {
            pictures.others += beside_files;
        }
        let first = listing.path(0).map(|path| path.display().to_string());
        pictures.shown = format!("{} image(s) ({}, ...)", listing.len(), first.unwrap_or_default());
        Ok(pictures)
    }

    /// A few in one folder are examples of what the files hold; in several, they are sorted.
    fn are_a_set(&self) -> bool {
        self.others > 1 || self.images > MOST_PREVIEWS
    }
}

/// Whether a reader of the kind of a source finds its files at a path, told by names.
fn is_kind_at(source: &Source, path: &Path) -> bool {
    match source {
        Source::Cifar10 { .. } | Source::Cifar100 { .. } => CifarVersion::recognise(path)
            .is_some_and(|version| cifar(version, None).kind() == source.kind()),
        Source::Stl10 { .. } => Stl10::is_archive(path) || is_stl10_folder(path),
        Source::Idx { .. } => Idx::is_at(path),
        Source::List { .. } => List::is_at(path),
        Source::Packed { .. } => Packed::is_packed(path),
        Source::Parquet { .. } => parquet::is_at(path),
        Source::Webdataset { .. } => WebDataset::is_at(path),
        Source::Voc { .. } => Voc::is_at(path),
        Source::Folder { .. } | Source::Shapes { .. } => true,
    }
}

/// The source with the folder within its own in which [`detect`] finds the set: archives often unpack
/// to a folder, and a recipe keeps the path that the user gave.
pub(crate) fn located(source: &Source) -> Cow<'_, Source> {
    let Some(path) = source.path().filter(|path| path.is_dir()) else {
        return Cow::Borrowed(source);
    };
    let mut inner = path.to_owned();
    for _ in 0..DEEPEST {
        if is_kind_at(source, &inner) {
            break;
        }
        // What cannot be read is told by the reader, with the path that was given.
        let Ok(Some(next)) = wrapped(&inner) else { return Cow::Borrowed(source) };
        inner = next;
    }
    if inner == path || !is_kind_at(source, &inner) {
        return Cow::Borrowed(source);
    }
    let mut found = source.clone();
    match found.set_path(inner) {
        Ok(()) => Cow::Owned(found),
        Err(_) => Cow::Borrowed(source),
    }
}

fn is_stl10_folder(path: &Path) -> bool {
    STL10_FILES.iter().any(|name| path.join(name).exists())
}

const STL10_FILES: [&str; 4] = ["stl10_binary", "train_X.bin", "unlabeled_X.bin", "test_X.bin"];

/// The kind of set at the path of a source, if that is clearly another one than the source says.
///
/// `None` if the kinds agree, if the path can be read as either, or if nobody can tell.
pub fn other_kind(source: &Source) -> Option<&'static str> {
    let path = source.path()?;
    let found = detect(path).ok().filter(|found| found.kind() != source.kind())?;
    let can_be = match (source, &found) {
        // The images are there, whatever lists them.
        (Source::Folder { .. }, Source::List { .. } | Source::Voc { .. }) => path.is_dir(),
        // A few images in a folder of their own may be meant, if a recipe says so.
        (Source::Folder { .. }, Source::Parquet { .. } | Source::Webdataset { .. }) => {
            let pictures = Pictures::below(path, &BTreeSet::new());
            path.is_dir() && pictures.is_ok_and(|pictures| pictures.others > 0)
        }
        (Source::Folder { .. }, _) => false,
        _ => is_kind_at(source, path),
    };
    // A folder is what is left if nothing else is known.
    let is_there =
        !matches!(found, Source::Folder { .. }) || scan::holds_images(path).unwrap_or(false);
    (!can_be && is_there).then_some(found.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_files::empty_files;

    fn kind(files: &[&str]) -> Result<&'static str, String> {
        let root = empty_files(files);
        detect(root.path()).map(|source| source.kind()).map_err(|error| error.to_string())
    }

    fn refusal(path: &Path) -> String {
        detect(path).unwrap_err().to_string()
    }

    #[test]
    fn kinds_are_told_by_the_names_of_files() {
        for (file, kind) in [
            ("cifar-10-batches-bin/x", "cifar10"),
            ("data_batch_1.bin", "cifar10"),
            ("cifar-10-batches-py/x", "cifar10"),
            ("data_batch_3", "cifar10"),
            ("cifar-10-python.tar.gz", "cifar10"),
            ("cifar-100-binary/x", "cifar100"),
            ("cifar-100-python/x", "cifar100"),
            ("cifar-100-binary.tar.gz", "cifar100"),
            ("stl10_binary/x", "stl10"),
            ("unlabeled_X.bin", "stl10"),
            ("train-images-idx3-ubyte.gz", "idx"),
            ("MNIST/raw/t10k-labels-idx1-ubyte", "idx"),
            ("part-0001.tar", "webdataset"),
            ("train/0.TAR", "webdataset"),
            ("data/train-00000-of-00001.parquet", "parquet"),
            ("train/0000.parquet", "parquet"),
            ("train.csv", "list"),
            ("val.txt", "folder"),
            ("train/train.txt", "folder"),
            ("train.bin", "folder"),
            ("train", "folder"),
            ("x.png", "folder"),
        ] {
            let root = empty_files(&[file]);
            assert_eq!(detect(root.path()).unwrap().kind(), kind, "{file}");
        }
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("train_X.bin"), "").unwrap();
        let Source::Stl10 { part, .. } = detect(root.path()).unwrap() else { panic!("STL-10") };
        assert_eq!(part, Stl10Part::Train);
        let place = |file: &str| root.path().join(file);
        let message = detect(&place("train_X.bin")).unwrap_err().to_string();
        assert!(message.contains("is not a folder, and none of the files that hold"), "{message}");
        for gone in ["gone", "gone.tar"] {
            let message = detect(&place(gone)).unwrap_err().to_string();
            assert!(message.starts_with("cannot read "), "{message}");
        }
        for file in ["some.tar", "some.Csv", "train-images-idx3-ubyte"] {
            fs::write(place(file), "").unwrap();
        }
        assert_eq!(detect(&place("some.tar")).unwrap().kind(), "webdataset");
        assert_eq!(detect(&place("part-{0..3}.tar")).unwrap().kind(), "webdataset");
        assert_eq!(detect(&place("some.Csv")).unwrap().kind(), "list");
        let message = detect(&place("train-images-idx3-ubyte")).unwrap_err().to_string();
        assert!(message.contains("is one of several idx files; give their folder"), "{message}");
    }

    #[test]
    fn pictures_beside_shards_and_parquet_files_do_not_hide_them() {
        for (files, expected) in [
            (&["preview.png", "data/train-00000-of-00001.parquet"][..], "parquet"),
            (&["sample.jpg", "train-0.tar"], "webdataset"),
            (
                &["assets/a.png", "assets/b.png", "docs/c.png", "train-00.tar", "val-00.tar"],
                "webdataset",
            ),
            (&["images/figure.png", "README.md", "0000.parquet"], "parquet"),
            (&["set/logo.png", "set/data/test-00000-of-00001.parquet", "__MACOSX/x"], "parquet"),
            // An incomplete set is one all the same; opening it says what is missing.
            (&["preview.png", "data/train-00000-of-00003.parquet"], "parquet"),
            (&["train-00000-of-00003.parquet", "a/1.png", "b/1.png"], "ask"),
            (&["a/1.png", "b/2.png", "train-000.tar"], "ask"),
            (&["1/1.png", "2/1.png", "data/train-00000-of-00001.parquet"], "ask"),
            (&["train-000.tar", "data.parquet"], "ask"),
            // A few in the folder of the files, or in one folder of any name, are examples.
            (&["data/0.png", "data/train-00000-of-00001.parquet"], "parquet"),
            (&["examples/0.png", "examples/1.png", "data/train.parquet"], "parquet"),
            (&["train/0.png", "train-000.tar"], "webdataset"),
            (&["train/0.png", "train/000.tar", "val/0.png", "val/000.tar"], "webdataset"),
            // Deeper than a folder.
            (&["x/y/train-00000-of-00002.parquet"], "parquet"),
            (&["preview.png", "x/y/train-00000-of-00002.parquet"], "parquet"),
            (&["a.png", "blobs/x", "snapshots/7/0.png", "snapshots/7/data/t.parquet"], "parquet"),
            (&["preview.png", "x/y/z/train-0.tar", "x/README.md"], "webdataset"),
            (&["a/1.png", "b/1.png", "old/set/train-0.tar"], "folder"),
            // What img2dataset writes beside shards, or beside folders of images.
            (&["00000.tar", "00000.parquet", "00000_stats.json", "00001.tar"], "webdataset"),
            (&["data/shards/00000.tar", "data/shards/00000.parquet"], "webdataset"),
            (&["00000/0.jpg", "00000.parquet", "00000_stats.json"], "folder"),
            (&["00000/0.jpg", "00000.parquet", "00001/0.jpg", "00001.parquet"], "folder"),
            // What images were unpacked from, and tables about them.
            (&["train/a/1.png", "val/a/1.png", "train.tar", "train/a.tar"], "folder"),
            (&["train/n01/1.png", "train/n02/1.png", "train/n01.tar", "train/n02.tar"], "folder"),
            (&["a/1.png", "b/1.png", "dataset.tar"], "folder"),
            // In one of several class folders, too.
            (&["a/1.png", "b/1.png", "a/x.tar"], "folder"),
            (&["a/1.png", "b/1.png", "a/copy.parquet"], "folder"),
            (&["train/a/1.png", "train/b/1.png", "train/a/x.tar"], "folder"),
            (&["a/1.png", "b/1.png", "a/train-000.tar"], "ask"),
            (&["data/0.png", "other/1.png", "data/train.parquet"], "ask"),
            // What is sorted in a folder of images is no preview.
            (&["images/a/1.png", "images/b/1.png", "train.parquet"], "ask"),
            (&["images/a/1.png", "images/b/1.png", "metadata.parquet"], "folder"),
            (&["images/a/1.png", "images/2.png", "train.parquet"], "parquet"),
            (&["docs/a/1.png", "docs/b/1.png", "train.parquet"], "parquet"),
            (&["a/1.png", "b/1.png", "metadata.parquet"], "folder"),
        ] {
            match (kind(files), expected) {
                (Err(message), "ask") => {
                    assert!(message.contains("and may mean either: give the folder"), "{message}");
                }
                (found, expected) => assert_eq!(found, Ok(expected), "{files:?}"),
            }
        }
        let many: Vec<String> = (0..11).map(|index| format!("{index:02}.png")).collect();
        let mut files: Vec<&str> = many.iter().map(String::as_str).collect();
        files.push("train-0.tar");
        let message = kind(&files).unwrap_err();
        assert!(
            message.contains("holds 1 shard(s) (train-0.tar, ...) and 11 image(s) (00.png, ...)"),
            "{message}"
        );
        *files.last_mut().unwrap() = "images.tar";
        assert_eq!(kind(&files), Ok("folder"));
    }

    #[test]
    fn a_set_in_a_single_folder_is_found() {
        for (files, expected) in [
            (&["archive/cifar-10-batches-bin/data_batch_1.bin"][..], "cifar10"),
            (&["a/b/train-0.tar", "a/readme.md"], "webdataset"),
            (&["a/MNIST/raw/train-images-idx3-ubyte", "__MACOSX/a/._x"], "idx"),
            (&["a/cats/1.png", "a/dogs/1.png"], "folder"),
            (&["a/1.png"], "folder"),
        ] {
            assert_eq!(kind(files), Ok(expected), "{files:?}");
        }
    }

    #[test]
    fn what_detection_finds_is_opened_at_the_path_that_was_given() {
        for files in [
            &["a/archive/cifar-10-batches-bin/data_batch_1.bin"][..],
            &["a/b/MNIST/raw/train-images-idx3-ubyte", "a/b/MNIST/raw/train-labels-idx1-ubyte"],
            &["a/b/stl10_binary/train_X.bin"],
            &["a/b/train.csv"],
            &["preview.png", "a/b/train-0.tar"],
            &["preview.png", "a/b/0.parquet"],
        ] {
            let root = empty_files(files);
            let found = detect(root.path()).unwrap();
            let mut given = found.clone();
            given.set_path(root.path()).unwrap();
            // Readers of shards and parquet files look for them at any depth themselves.
            let expected = if found.kind() == "idx" {
                root.path().join("a/b")
            } else {
                found.path().unwrap().to_owned()
            };
            assert_eq!(located(&given).path(), Some(&*expected), "{files:?}");
            assert!(crate::has_split(&given, Split::Train).unwrap(), "{files:?}");
        }
        let empty = empty_files(&["a/x.txt"]);
        let source = Source::Idx { path: Some(empty.path().to_owned()) };
        assert_eq!(located(&source).path(), Some(empty.path()));
    }

    #[test]
    fn a_folder_of_a_packed_file_says_to_give_the_file() {
        for files in [&["s.packed"][..], &["s.packed", "preview.png"]] {
            let root = empty_files(files);
            let file = root.path().join("s.packed");
            let expected = format!("give the packed file itself, {}", file.display());
            assert!(refusal(root.path()).ends_with(&expected), "{files:?}");
        }
        assert_eq!(kind(&["s.packed", "a/1.png"]), Ok("folder"));
    }

    #[test]
    fn a_list_beside_images_has_the_labels_unless_folders_do() {
        let root = empty_files(&["train/1.png", "train/2.png"]);
        fs::write(root.path().join("train.csv"), "train/1.png,a\ntrain/2.png,b\n").unwrap();
        assert_eq!(detect(root.path()).unwrap().kind(), "list");
        let root = empty_files(&["train/a/1.png", "train/b/2.png"]);
        fs::write(root.path().join("train.csv"), "train/a/1.png,a\ntrain/b/2.png,b\n").unwrap();
        assert_eq!(detect(root.path()).unwrap().kind(), "folder");
        fs::write(root.path().join("train.csv"), b"\xff").unwrap();
        assert_eq!(detect(root.path()).unwrap().kind(), "folder");
    }

    #[test]
    fn files_of_other_kinds_are_told_what_to_do() {
        let root = empty_files(&["a.png", "set.zip", "set.TAR.GZ"]);
        assert!(
            refusal(&root.path().join("a.png")).ends_with("is a single image; give its folder")
        );
        for file in ["set.zip", "set.TAR.GZ"] {
            assert!(refusal(&root.path().join(file)).contains("compressed archive; unpack it"));
        }
    }

    #[test]
    fn a_source_that_is_another_kind_is_told() {
        let other = |files: &[&str], text: &str| {
            let root = empty_files(files);
            let mut source: Source = toml::from_str(text).unwrap();
            source.set_path(root.path()).unwrap();
            other_kind(&source)
        };
        let is = |kind: &str| format!("dataset = {kind:?}");
        for (files, said, expected) in [
            (&["a/1.png", "b/1.png"][..], "cifar10", Some("folder")),
            (&["a/1.png"], "webdataset", Some("folder")),
            (&["a/1.png"], "list", Some("folder")),
            (&["preview.png", "train.parquet"], "folder", Some("parquet")),
            (&["train-0.tar"], "folder", Some("webdataset")),
            (&["data_batch_1.bin"], "folder", Some("cifar10")),
            (&["data_batch_1.bin"], "cifar100", Some("cifar10")),
            (&["data_batch_1.bin"], "cifar10", None),
            (&["train-0.tar"], "parquet", Some("webdataset")),
            // Nobody can tell, or both are right.
            (&["train-0.tar", "a/1.png"], "folder", None),
            (&["train-0.tar", "a/1.png"], "webdataset", None),
            (&["train-0.tar", "a/1.png", "b/1.png"], "folder", None),
            (&["train-0.tar", "a/1.png", "b/1.png"], "webdataset", None),
            (&["train.csv", "images/1.png"], "folder", None),
            (&["notes.txt"], "cifar10", None),
            (&[], "packed", None),
        ] {
            assert_eq!(other(files, &is(said)), expected, "{files:?} as {said}");
        }
        let missing: Source = toml::from_str("dataset = \"folder\"\npath = \"/no/where\"").unwrap();
        assert_eq!(other_kind(&missing), None);
    }
}
