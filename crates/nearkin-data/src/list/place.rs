//! Where the files of a list are.
//!
//! A list rarely says it all: competitions give an id without an extension, whose image lies in a folder
//! beside the list; a list written on Windows has backslashes. What completes the paths is found on some
//! of them and then holds for all, so that no image is taken from one folder and its neighbor from
//! another. Only folders that are pieces of one, such as `images_part_1` and `images_part_2`, are looked
//! into one after the other.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use super::Entry;
use crate::DataError;
use crate::decode::{EXTENSIONS, is_image};
use crate::splits::{Naming, Part, means_images, naming, part_of_file};

/// Paths on which the rule is chosen.
const SAMPLE: usize = 64;
/// More folders beside a list are classes or something else.
const MAX_FOLDERS: usize = 32;

/// How the path of an image comes from what a list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// What paths are relative to.
    pub(super) folder: PathBuf,
    /// Further pieces of the folder, in which files are that it does not hold.
    pieces: Vec<PathBuf>,
    /// What follows them.
    suffix: Box<str>,
    /// Whether backslashes separate folders.
    has_backslashes: bool,
}

impl Place {
    /// Paths as they are written, relative to `root`.
    pub(super) fn written(root: &Path) -> Self {
        Self {
            folder: root.to_owned(),
            pieces: Vec::new(),
            suffix: Box::default(),
            has_backslashes: false,
        }
    }

    /// The file that a list means.
    pub(super) fn path(&self, written: &str) -> PathBuf {
        let slashed;
        let written = if self.has_backslashes {
            slashed = written.replace('\\', "/");
            &slashed
        } else {
            written
        };
        let file = if self.suffix.is_empty() {
            Cow::Borrowed(written)
        } else {
            Cow::Owned(format!("{written}{}", self.suffix))
        };
        let path = self.folder.join(&*file);
        if self.pieces.is_empty() && file.is_ascii() || path.exists() {
            return path;
        }
        let forms = other_forms(&file);
        let files = std::iter::once(&*file).chain(forms.iter().map(String::as_str));
        let folders = || std::iter::once(&self.folder).chain(&self.pieces);
        let mut elsewhere = files.flat_map(|file| folders().map(move |folder| folder.join(file)));
        elsewhere.find(|path| path.exists()).unwrap_or(path)
    }

    fn has(&self, written: &str) -> bool {
        // A path that ends like an image gets no second extension.
        let is_meant = self.suffix.is_empty() || !is_image(Path::new(written));
        is_meant && fs::metadata(self.path(written)).is_ok_and(|metadata| metadata.is_file())
    }
}

/// A name in the normalization forms C and D of Unicode. Systems differ in how they write an accented
/// letter, so the file of a list from another one may be called in the other form.
fn other_forms(file: &str) -> Vec<String> {
    if file.is_ascii() {
        return Vec::new();
    }
    vec![file.nfc().collect(), file.nfd().collect()]
}

/// Every way in which the paths of a list may be meant.
pub(super) struct Places {
    written: Place,
    /// What the list is called like, if it is.
    part: Option<Part>,
    /// The others, the likeliest first. The folder may hold a million files, so it is only listed when
    /// paths do not lead to files as they are written.
    others: OnceCell<Vec<Place>>,
}

impl Places {
    /// The ways for a list of `part`, if its name tells one, whose paths are relative to `root`.
    pub(super) fn new(root: &Path, part: Option<Part>) -> Self {
        Self { written: Place::written(root), part, others: OnceCell::new() }
    }

    fn others(&self) -> &[Place] {
        self.others.get_or_init(|| {
            let lower = EXTENSIONS.iter().map(|extension| format!(".{extension}"));
            let upper = EXTENSIONS.iter().map(|extension| format!(".{}", extension.to_uppercase()));
            let suffixes: Vec<String> =
                std::iter::once(String::new()).chain(lower).chain(upper).collect();
            let mut places = Vec::new();
            let root = &self.written.folder;
            let folders = folders(root, self.part);
            for folder in &folders {
                let pieces = pieces(root, &folders, folder);
                for suffix in &suffixes {
                    for has_backslashes in [false, true] {
                        let (folder, suffix) = (folder.clone(), suffix.as_str().into());
                        let pieces = pieces.clone();
                        places.push(Place { folder, pieces, suffix, has_backslashes });
                    }
                }
            }
            places
        })
    }

    /// The file to which a path leads in one of the ways.
    pub(super) fn find(&self, written: &str) -> Option<PathBuf> {
        let mut places = std::iter::once(&self.written).filter(|place| place.has(written));
        let place = places.next().or_else(|| self.others().iter().find(|place| place.has(written)));
        place.map(|place| place.path(written))
    }

    /// Whether a path leads to a file in one of the ways.
    pub(super) fn have(&self, written: &str) -> bool {
        self.find(written).is_some()
    }

    /// The way that leads to most files of a sample. `None` if none leads to a file, and none of all
    /// paths does as it is written.
    ///
    /// The error is two files of different splits that a path may mean.
    pub(super) fn choose(&self, paths: &[&str]) -> Result<Option<Place>, [PathBuf; 2]> {
        let step = paths.len().div_ceil(SAMPLE).max(1);
        let sample: Vec<&str> = paths.iter().step_by(step).copied().collect();
        let found = |place: &Place| sample.iter().filter(|written| place.has(written)).count();
        let mut best = (found(&self.written), &self.written);
        if best.0 < sample.len() {
            for place in self.others() {
                let found = found(place);
                if found > best.0 {
                    best = (found, place);
                }
            }
        }
        let is_found = best.0 > 0 || paths.iter().any(|written| self.written.has(written));
        if !is_found {
            return Ok(None);
        }
        self.refuse_other_split(best.1, &sample)?;
        Ok(Some(best.1.clone()))
    }

    /// Refuses a file in the folder of a split if the folder of another split has one of the same name,
    /// and the name of the list does not say which split is meant.
    fn refuse_other_split(&self, chosen: &Place, sample: &[&str]) -> Result<(), [PathBuf; 2]> {
        let Some(own) = self.part_of_folder(&chosen.folder).filter(|own| Some(*own) != self.part)
        else {
            return Ok(());
        };
        let is_other =
            |place: &&Place| self.part_of_folder(&place.folder).is_some_and(|other| other != own);
        for place in self.others().iter().filter(is_other) {
            let both = sample.iter().find(|written| chosen.has(written) && place.has(written));
            if let Some(written) = both {
                return Err([chosen.path(written), place.path(written)]);
            }
        }
        Ok(())
    }

    /// The part that a folder beside the list is called like.
    fn part_of_folder(&self, folder: &Path) -> Option<Part> {
        let below = folder.strip_prefix(&self.written.folder).ok()?;
        part_of_file(&below.iter().next()?.to_string_lossy())
    }
}

/// Those of `folders` in `root` whose names differ from that of `folder` only in a number.
fn pieces(root: &Path, folders: &[PathBuf], folder: &Path) -> Vec<PathBuf> {
    let letters = |folder: &Path| {
        let name = folder.strip_prefix(root).ok()?.to_string_lossy();
        let is_counted = name.contains(|letter: char| letter.is_ascii_digit());
        is_counted.then(|| name.replace(|letter: char| letter.is_ascii_digit(), ""))
    };
    let Some(own) = letters(folder) else { return Vec::new() };
    let is_piece = |other: &&PathBuf| *other != folder && letters(other).as_ref() == Some(&own);
    folders.iter().filter(is_piece).cloned().collect()
}

/// The root, and the folders in it that may hold the images of a list: those called like its part,
/// like images or like another part, and the folder of the same name, or `images`, in such a folder
/// (archives are often unpacked into one).
fn folders(root: &Path, part: Option<Part>) -> Vec<PathBuf> {
    let part = part.unwrap_or(Part::Train);
    let mut ranked = Vec::new();
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rank = match naming(&name) {
            Naming::Names(other) | Naming::Mentions(other) if other == part => 0,
            Naming::Nothing if holds_images(&name) => 1,
            Naming::Nothing => continue,
            _ => 2,
        };
        let kind = entry.file_type();
        let is_folder =
            kind.is_ok_and(|kind| kind.is_dir() || kind.is_symlink() && entry.path().is_dir());
        if is_folder {
            ranked.push((rank, name));
        }
    }
    ranked.sort();
    ranked.truncate(MAX_FOLDERS);
    let mut folders = vec![root.to_owned()];
    for (_, name) in ranked {
        let folder = root.join(&name);
        let inner = [&name, "images"].map(|inner| folder.join(inner));
        folders.push(folder);
        folders.extend(inner.into_iter().find(|inner| inner.is_dir()));
    }
    folders
}

/// Whether a folder is called like images.
fn holds_images(name: &str) -> bool {
    if means_images(name) {
        return true;
    }
    let name = name.to_lowercase();
    ["image", "img", "photo", "picture", "jpeg", "jpg", "png", "data"]
        .iter()
        .any(|word| name.contains(word))
}

/// The folder beside a list that was looked into, with a file in it: ids may have lost leading zeros.
fn looked_into(root: &Path, written: &str) -> String {
    let images = |folder: &Path| {
        let mut found: Vec<PathBuf> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_image(path))
            .collect();
        found.sort();
        found
    };
    let folders = folders(root, None).into_iter().map(|folder| (images(&folder), folder));
    let Some((found, folder)) = folders.into_iter().find(|(found, _)| !found.is_empty()) else {
        return String::new();
    };
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let short = |text: &str| {
        let digits = text.trim_start_matches('0');
        if digits.is_empty() { "0".to_owned() } else { digits.to_owned() }
    };
    let written = stem(Path::new(written));
    let is_number = !written.is_empty() && written.bytes().all(|byte| byte.is_ascii_digit());
    let padded = found.iter().find(|file| {
        let name = stem(file);
        is_number && name != written && short(&name) == short(&written)
    });
    let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = folder.display();
    match padded {
        Some(file) => format!(
            ", and {folder} holds {}: the list lost leading zeros, so write its ids as text",
            name(file)
        ),
        None => format!("; {folder}, which was looked into, holds {}", name(&found[0])),
    }
}

/// The error for a list of which no file is there.
pub(super) fn nothing_found(list: &Path, entries: &[Entry], root: &Path) -> DataError {
    let (line, written) = entries.first().map_or((0, ""), |entry| (entry.line, &*entry.path));
    let hint = if written.contains("://") {
        "download the images, and list their files"
    } else if Path::new(written).is_absolute() || written.get(1..3) == Some(":\\") {
        "the list has paths of another machine: make them relative, and set root to their folder"
    } else {
        "set root to the folder that the paths are relative to (data.root in a recipe, or pretrain --set \
         data.root=FOLDER)"
    };
    let looked = looked_into(root, written);
    let reason = format!(
        "none of its {} images is there; line {line} names {}{looked}: {hint}",
        entries.len(),
        Place::written(root).path(written).display()
    );
    DataError::malformed(list, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_files::empty_files;

    /// Where the first of these paths is found.
    fn found(files: &[&str], part: Part, paths: &[&str]) -> Option<String> {
        let folder = empty_files(files);
        let places = Places::new(folder.path(), Some(part));
        let path = places.choose(paths).unwrap()?.path(paths[0]);
        Some(path.strip_prefix(folder.path()).unwrap().display().to_string())
    }

    #[test]
    fn one_way_is_found_for_all_paths() {
        let train = Part::Train;
        for (files, part, paths, expected) in [
            (&["a.png", "images/a.png"][..], train, &["a.png"][..], Some("a.png")),
            (&["train_images/7f.png"], train, &["7f"], Some("train_images/7f.png")),
            (&["train/7f.tif", "test/7f.tif"], train, &["7f"], Some("train/7f.tif")),
            (&["train/7f.tif", "test/7f.tif"], Part::Test, &["7f"], Some("test/7f.tif")),
            (&["train/1.jpg"], Part::Validation, &["1.jpg"], Some("train/1.jpg")),
            (&["train/train/1.JPG"], train, &["1"], Some("train/train/1.JPG")),
            (&["JPEGImages/1.jpg"], train, &["1"], Some("JPEGImages/1.jpg")),
            (&["img/cat/1.png"], train, &["img\\cat\\1.png"], Some("img/cat/1.png")),
            (&["images/cat/1.png"], train, &["cat\\1.png"], Some("images/cat/1.png")),
            (&["a\\b.png"], train, &["a\\b.png"], Some("a\\b.png")),
            // The place where more of them are.
            (&["1.jpg", "images/1.jpg", "images/2.jpg"], train, &["1", "2"], Some("images/1.jpg")),
            (&["a.b.jpg"], train, &["a.b"], Some("a.b.jpg")),
            // The other form of an accented letter.
            (&["cafe\u{301}.png"], train, &["caf\u{e9}.png"], Some("cafe\u{301}.png")),
            (&["images/caf\u{e9}.png"], train, &["cafe\u{301}"], Some("images/caf\u{e9}.png")),
            // Nothing is made up.
            (&["cats/1.png"], train, &["1.png"], None),
            (&["images/1.png.jpg"], train, &["1.png"], None),
            (&[], train, &["1.png"], None),
        ] {
            assert_eq!(found(files, part, paths).as_deref(), expected, "{files:?} {paths:?}");
        }
        // A sample misses the only file that is there.
        let many: Vec<String> = (0..500).map(|number| format!("{number}.png")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(found(&["7.png"], train, &many).as_deref(), Some("0.png"));
    }

    #[test]
    fn a_name_in_the_folders_of_two_splits_needs_the_name_of_the_list() {
        let folder = empty_files(&["train/0.png", "test/0.png", "train/1.png"]);
        let shown = |part: Option<Part>, path: &str| {
            let relative = |path: &Path| {
                path.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned()
            };
            let chosen = Places::new(folder.path(), part).choose(&[path]);
            chosen
                .map(|place| relative(&place.unwrap().path(path)))
                .map_err(|both| both.map(|path| relative(&path)).join(" "))
        };
        assert_eq!(shown(Some(Part::Test), "0.png"), Ok("test/0.png".to_owned()));
        assert_eq!(shown(Some(Part::Train), "0"), Ok("train/0.png".to_owned()));
        assert_eq!(shown(None, "0.png"), Err("train/0.png test/0.png".to_owned()));
        assert_eq!(shown(None, "1.png"), Ok("train/1.png".to_owned()));
    }

    #[test]
    fn pieces_of_one_folder_are_all_looked_into() {
        for files in [
            ["x_images_part_1/a.jpg", "x_images_part_2/b.jpg"],
            ["images_001/images/a.jpg", "images_002/images/b.jpg"],
            ["part_1/a.jpg", "part_2/b.jpg"],
        ] {
            let folder = empty_files(&[&files[..], &["pictures/c.jpg"]].concat());
            let places = Places::new(folder.path(), None);
            let place = places.choose(&["a", "b", "c"]).unwrap().unwrap();
            let path = |file: &str| place.path(file);
            assert_eq!(path("a"), folder.path().join(files[0]));
            assert_eq!(path("b"), folder.path().join(files[1]));
            assert!(!path("c").exists());
        }
    }
}
