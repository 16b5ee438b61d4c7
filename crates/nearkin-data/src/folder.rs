//! Folders of image files, with or without classes, with or without splits.
//!
//! - `ROOT/CLASS/*.jpg`: every folder is a class, named and ordered by the folder's name; folders
//!   inside it belong to it.
//! - `ROOT/*.jpg` and `ROOT/images/*.jpg`: images without labels.
//! - `ROOT/train/...` and `ROOT/val/...` or `ROOT/test/...`, by any of the usual names: one of the two
//!   above for each split. The module `layout` has the rules.
//!
//! Classes are numbered in the order of their names. Both splits have those of the train split: its
//! folders with images, and its empty ones that have images in the test split. Names that differ only
//! in how Unicode spells them are one class; names that differ in case are two, with a note.
//!
//! Tiny-ImageNet is read in its published layout: `val/val_annotations.txt` gives the classes of images
//! that are not in class folders. Images in class folders belong to these classes. An image without a
//! line has no label; lines without an image are counted. Where a file `words.txt` beside `train` describes every class folder, classes are called by
//! these words.
//!
//! Images are files whose names end as those of images do (see [`decode`](mod@crate::decode)), and are
//! decoded when asked for. Everything else is skipped and counted. A few images beside class folders,
//! or a few in folders beside images without a class, are skipped too: one, or at most a quarter of the
//! others. More than that is refused, since nobody can tell which of them are meant. Folders called like
//! those of a README (`screenshots`) are classes, with a note, if they hold as many images as the smallest
//! class beside them, or more than a README has.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::classes::normalized;
use crate::decode::EXTENSIONS;
use crate::image_file::read_image;
use crate::layout::{Layout, refuse_hidden_splits};
use crate::list_beside::note_lists;
use crate::scan::{self, Listing};
use crate::splits::{means_description, means_images};
use crate::{DataError, Image, ImageSet, Skipped, Split};

pub(crate) const ANNOTATIONS: &str = "val_annotations.txt";
const WORDS: &str = "words.txt";

/// The images of one split of a folder, decoded on request.
pub struct Folder {
    /// The folder of the split.
    root: PathBuf,
    files: Listing,
    /// One for each file; empty without classes.
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
    skipped: Skipped,
}

impl Folder {
    /// Lists the images of a split; none is opened yet.
    ///
    /// [`DataError::Request`] if the folder does not have the split, [`DataError::Empty`] if there
    /// are no images in it, [`DataError::Malformed`] if it is a file, looks like splits in a way that
    /// is not understood, mixes images and class folders, or has a class in the test split that the
    /// train split lacks.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        let layout = Layout::read(path)?;
        let root = layout.folder(split).ok_or_else(|| layout.missing(split))?;
        let mut sorted = Sorted::read(root)?;
        layout.refuse_split_names(&sorted.files)?;
        let known = match split {
            Split::Train => known_classes(&sorted, layout.folder(Split::Test))?,
            Split::Test => match layout.folder(Split::Train) {
                Some(train) => sorted.adopt(train)?,
                None => sorted.classes.clone(),
            },
        };
        let mut folder = sorted.number(known);
        folder.skipped.merge(&layout.skipped(split)?);
        if split == Split::Train {
            let has_classes = !folder.classes.is_empty();
            let class = |file: &Path| {
                let inner = file.strip_prefix(root).ok().filter(|_| has_classes)?;
                class_folder(inner).map(class_name)
            };
            let has_test = layout.folder(Split::Test).is_some();
            note_lists(&layout.root, &class, has_test, &mut folder.skipped)?;
            // Lists often stand beside the folder that holds the images.
            if layout.root != path {
                note_lists(path, &class, has_test, &mut folder.skipped)?;
            }
            folder.note_masks();
            folder.note_backslashes();
        }
        if split == Split::Train || layout.folder(Split::Train).is_none() {
            note_classes(&folder.classes, &mut folder.skipped);
        }
        folder.describe_classes(&layout.root.join(WORDS))?;
        Ok(folder)
    }

    /// Whether `open` has something to open. A folder without splits in it is a train split and
    /// nothing else.
    pub fn has_split(path: &Path, split: Split) -> Result<bool, DataError> {
        Ok(Layout::read(path)?.folder(split).is_some())
    }

    fn path(&self, index: usize) -> PathBuf {
        self.root.join(self.files.path(index).unwrap_or_default())
    }

    /// Notes images without classes whose names have folders in them, as archives of Windows unpack elsewhere.
    fn note_backslashes(&mut self) {
        let has_folder = |index: &usize| self.files.name(*index).contains(&b'\\');
        let mut found = (0..self.len()).filter(has_folder);
        if self.classes.is_empty()
            && let Some(first) = found.next()
        {
            let note = format!(
                "{} image(s) have backslashes in their names ({}): if these are folders, unpack the \
                 archive again with a program that makes them",
                1 + found.count(),
                self.path(first).display()
            );
            self.skipped.note(note);
        }
    }

    /// Notes images that are called like masks of others: they are trained on like the others.
    fn note_masks(&mut self) {
        const ENDINGS: [&str; 6] = ["_mask", "-mask", "_masks", "_seg", "_segmentation", "_gt"];
        /// Masks whose image is looked for.
        const SAMPLE: usize = 8;
        let image_of = |index: usize| {
            let (stem, _) = std::str::from_utf8(self.files.name(index)).ok()?.rsplit_once('.')?;
            Some((index, ENDINGS.iter().find_map(|ending| stem.strip_suffix(ending))?))
        };
        let masks: Vec<(usize, &str)> = (0..self.len()).filter_map(image_of).collect();
        let has_image = |(index, base): &&(usize, &str)| {
            let mask = self.path(*index);
            let is_there = |extension| mask.with_file_name(format!("{base}.{extension}")).exists();
            EXTENSIONS.iter().any(is_there)
        };
        if let Some((first, _)) = masks.iter().take(SAMPLE).find(has_image) {
            let note = format!(
                "{} image(s) are called like masks of others and are read as images; the first: {}",
                masks.len(),
                self.path(*first).display()
            );
            self.skipped.note(note);
        }
    }

    /// Calls the classes by their words, if there is a file that has some for all of them. Classes
    /// with the same words keep their own name behind them.
    fn describe_classes(&mut self, words: &Path) -> Result<(), DataError> {
        if self.classes.is_empty() || !words.is_file() {
            return Ok(());
        }
        let bytes = fs::read(words).map_err(DataError::read(words))?;
        let known = parse_words(&bytes, words)?;
        let found = self.classes.iter().map(|class| known.get(class.as_str()).copied());
        let Some(found) = found.collect::<Option<Vec<&str>>>() else { return Ok(()) };
        let mut uses = BTreeMap::new();
        found.iter().for_each(|words| *uses.entry(*words).or_insert(0) += 1);
        let describe = |(class, words): (&String, &&str)| match uses.get(words) {
            Some(1) => (*words).to_owned(),
            _ => format!("{words} ({class})"),
        };
        self.classes = self.classes.iter().zip(&found).map(describe).collect();
        Ok(())
    }
}

/// Says what is easily overlooked about the names of classes.
fn note_classes(classes: &[String], skipped: &mut Skipped) {
    if let [only] = classes {
        skipped.note(format!("there is only one class, {only}"));
    }
    let mut by_letters: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for class in classes {
        by_letters.entry(class.to_lowercase()).or_default().push(class);
    }
    let alike = by_letters.values().filter(|alike| alike.len() > 1);
    let alike: Vec<String> = alike.map(|alike| alike.join(" and ")).collect();
    if !alike.is_empty() {
        let shown = alike.join("; ");
        skipped.note(format!("classes whose names differ only in case are kept apart: {shown}"));
    }
}

/// The classes of a set, given its train split: those with images in it, and those that have a folder
/// there and images in the test split.
fn known_classes(train: &Sorted, test: Option<&Path>) -> Result<Vec<String>, DataError> {
    let mut known: BTreeSet<String> = train.classes.iter().cloned().collect();
    if let Some(test) = test.filter(|_| !train.empty.is_empty() && !train.classes.is_empty()) {
        let tested = Sorted::read(test)?.classes;
        known.extend(train.empty.iter().filter(|class| tested.contains(class)).cloned());
    }
    Ok(known.into_iter().collect())
}

/// The images of a folder with the classes that its own folders and annotations give them.
struct Sorted {
    root: PathBuf,
    files: Listing,
    /// Into `classes`, one for each file; empty without classes.
    labels: Vec<Option<u32>>,
    /// Those with images, in order.
    classes: Vec<String>,
    /// Those of folders without images.
    empty: Vec<String>,
    skipped: Skipped,
}

impl Sorted {
    fn read(root: &Path) -> Result<Self, DataError> {
        let mut files = scan::scan(root, scan::index_folder().as_deref())?;
        let mut skipped = files.skipped().clone();
        refuse_hidden_splits(root, &files, &mut skipped)?;
        let mut empty = BTreeSet::new();
        for (name, _) in files.top_folders().iter().filter(|(_, images)| *images == 0) {
            skipped.add("folder(s) without images", root.join(name).display().to_string());
            empty.extend(class_folder(Path::new(name)).map(class_name));
        }
        for folder in empty_inside(&files) {
            skipped.add("folder(s) without images", root.join(folder).display().to_string());
        }
        let described = described_classes(&files);
        let mut annotations = Annotations::read(root, &mut skipped)?;
        let has_classes = match annotations {
            Some(_) => !files.is_empty(),
            None => keep_one_kind(root, &mut files, &described, &mut skipped)?,
        };
        if files.is_empty() {
            return Err(no_images(root, &skipped));
        }
        let mut names = Names::default();
        let mut labels = Vec::new();
        if has_classes {
            labels.reserve_exact(files.len());
            for (path, places) in files.folders().filter(|(_, places)| !places.is_empty()) {
                let own = class_folder(path)
                    .or_else(|| path.iter().next().filter(|top| described.contains(*top)));
                let own = own.map(|name| names.number(class_name(name)));
                for place in places {
                    let annotated = annotations
                        .as_mut()
                        .and_then(|annotations| annotations.take(&files, place));
                    labels.push(own.or_else(|| annotated.map(|class| names.number(class))));
                }
            }
        }
        if let Some(annotations) = annotations {
            annotations.account(root, &files, &labels, &mut skipped)?;
        }
        let classes = names.sort(&mut labels);
        empty.retain(|name| !classes.contains(name));
        let (root, empty) = (root.to_owned(), empty.into_iter().collect());
        Ok(Self { root, files, labels, classes, empty, skipped })
    }

    /// The classes of the set whose train split is at `train`, where this is the test split. A single
    /// class that `train` does not have is none (`test/unknown`).
    fn adopt(&mut self, train: &Path) -> Result<Vec<String>, DataError> {
        let mut train = Self::read(train)?;
        if train.classes.is_empty() {
            return Ok(self.classes.clone());
        }
        train.classes.extend(train.empty.into_iter().filter(|class| self.classes.contains(class)));
        train.classes.sort_unstable();
        let known = train.classes;
        let is_unknown = |class: &&String| known.binary_search(class).is_err();
        let Some(unknown) = self.classes.iter().find(is_unknown) else { return Ok(known) };
        let place = self.root.join(unknown);
        if self.classes.len() == 1 {
            self.skipped.note(format!(
                "{} is no class of the train split: its images have no label",
                place.display()
            ));
            self.labels.clear();
            self.classes.clear();
            return Ok(known);
        }
        let plain = |name: &String| name.trim().to_lowercase();
        let alike = known.iter().find(|known| plain(known) == plain(unknown));
        let but = alike.map(|known| {
            if known.trim() == unknown.trim() {
                format!(" ({known:?} differs in spaces around it)")
            } else {
                format!(" ({known} differs in case)")
            }
        });
        let but = but.unwrap_or_default();
        Err(DataError::malformed(
            &place,
            format!(
                "is a class that {} does not have{but}: rename it, remove it or add it there",
                train.root.display()
            ),
        ))
    }

    /// Numbers the classes by their places in `known`, which has them all.
    fn number(self, known: Vec<String>) -> Folder {
        let Self { root, files, mut labels, classes, skipped, .. } = self;
        if classes.is_empty() {
            return Folder { root, files, labels: Vec::new(), classes, skipped };
        }
        let numbers: Vec<Option<u32>> = classes
            .iter()
            .map(|class| known.binary_search(class).ok().map(|number| number as u32))
            .collect();
        for label in &mut labels {
            *label = label.and_then(|own| numbers.get(own as usize).copied().flatten());
        }
        Folder { root, files, labels, classes: known, skipped }
    }
}

/// Class names as they are met.
#[derive(Default)]
struct Names(BTreeMap<String, u32>);

impl Names {
    fn number(&mut self, name: String) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(name).or_insert(next)
    }

    /// The names in order; labels become places in it.
    fn sort(self, labels: &mut [Option<u32>]) -> Vec<String> {
        let mut places = vec![0; self.0.len()];
        for (place, met) in self.0.values().enumerate() {
            places[*met as usize] = place as u32;
        }
        labels.iter_mut().flatten().for_each(|label| *label = places[*label as usize]);
        self.0.into_keys().collect()
    }
}

/// The folder at the top of a relative path that names a class, if one does.
fn class_folder(path: &Path) -> Option<&OsStr> {
    let top = path.iter().next()?;
    let name = top.to_string_lossy();
    (!means_images(&name) && !means_description(&name)).then_some(top)
}

/// The folders inside of others that hold no image at any depth, while what they are in does; those
/// directly in the scanned folder are counted on their own.
fn empty_inside(files: &Listing) -> Vec<PathBuf> {
    let mut filled: BTreeSet<&Path> = BTreeSet::new();
    for (path, _) in files.folders().filter(|(_, places)| !places.is_empty()) {
        // What is above one that is known is known.
        for folder in path.ancestors() {
            if !filled.insert(folder) {
                break;
            }
        }
    }
    let is_top_of_empty = |path: &&Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        !filled.contains(path) && parent.is_some_and(|parent| filled.contains(parent))
    };
    files.folders().map(|(path, _)| path).filter(is_top_of_empty).map(Path::to_owned).collect()
}

/// More pictures than these describe no set.
const MOST_DESCRIBING: usize = 10;

/// The folders called like those of a description (`screenshots`) that are classes all the same: they
/// hold as many images as the classes beside them, or more than a description has.
fn described_classes(files: &Listing) -> BTreeSet<OsString> {
    let folders = files.top_folders().into_iter().filter(|(_, images)| *images > 0);
    let (described, others): (Vec<_>, Vec<_>) =
        folders.partition(|(name, _)| means_description(&name.to_string_lossy()));
    let classes = others.iter().filter(|(name, _)| class_folder(Path::new(name)).is_some());
    let Some(smallest) = classes.map(|(_, images)| *images).min() else { return BTreeSet::new() };
    let is_class = |images: usize| images > MOST_DESCRIBING || images >= smallest.max(2);
    described.into_iter().filter(|(_, images)| is_class(*images)).map(|(name, _)| name).collect()
}

/// The name of a class, in one spelling. Bytes that are no text are written as escapes, so that
/// different folders stay different.
fn class_name(folder: &OsStr) -> String {
    match folder.to_str() {
        Some(text) => normalized(text).into_owned(),
        None => folder.as_bytes().utf8_chunks().fold(String::new(), |name, chunk| {
            let escaped = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
            escaped.fold(name + chunk.valid(), |name, byte| name + &byte)
        }),
    }
}

/// Leaves the images in class folders, or those in none: the few of the other kind are skipped. Says
/// whether classes are left.
fn keep_one_kind(
    root: &Path,
    files: &mut Listing,
    described: &BTreeSet<OsString>,
    skipped: &mut Skipped,
) -> Result<bool, DataError> {
    let is_in_class = |path: &Path| {
        class_folder(path).is_some()
            || path.iter().next().is_some_and(|top| described.contains(top))
    };
    for name in described {
        let name = name.to_string_lossy();
        skipped.note(format!("the folder {name} is read as a class, not as pictures of a README"));
    }
    let first = |wanted: bool| {
        let mut folders = files.folders();
        let found = folders.find(|(path, files)| is_in_class(path) == wanted && !files.is_empty());
        let path = found.and_then(|(_, places)| files.path(places.start));
        path.map(|path| root.join(path).display().to_string()).unwrap_or_default()
    };
    let in_classes: usize =
        files.folders().filter(|(path, _)| is_in_class(path)).map(|(_, places)| places.len()).sum();
    let loose = files.len() - in_classes;
    let is_stray =
        |few: usize, many: usize| few < many && (few == 1 || few.saturating_mul(4) <= many);
    if loose == 0 || in_classes == 0 {
        return Ok(in_classes > 0);
    }
    if is_stray(loose, in_classes) {
        for (folder, places) in files.folders().filter(|(path, _)| !is_in_class(path)) {
            let first = files.path(places.start).unwrap_or_default();
            let first = root.join(first).display().to_string();
            let top = folder.iter().next().unwrap_or_default().to_string_lossy();
            let reason: Cow<'static, str> = if means_description(&top) {
                format!(
                    "image(s) in a folder called {top}, taken for pictures of a README (rename it if it \
                     is a class)"
                )
                .into()
            } else {
                "image(s) beside class folders".into()
            };
            skipped.add_many(reason, places.len(), first);
        }
        files.retain_folders(is_in_class);
        return Ok(true);
    }
    if is_stray(in_classes, loose) {
        let reason = "image(s) in folders beside images without a class";
        skipped.add_many(reason, in_classes, first(true));
        files.retain_folders(|path| !is_in_class(path));
        return Ok(false);
    }
    Err(DataError::malformed(
        root,
        format!(
            "holds {loose} image(s) outside of class folders ({}) and {in_classes} in class folders \
             ({}): give one of these folders, or move the images into class folders",
            first(false),
            first(true)
        ),
    ))
}

/// The error for a folder without images, with what is there instead.
pub(crate) fn no_images(root: &Path, skipped: &Skipped) -> DataError {
    let mut reason =
        format!("looked for {} files and for class folders of them", EXTENSIONS.join(", "));
    let found: Vec<String> = skipped
        .reasons()
        .iter()
        .take(4)
        .map(|one| format!("{} {}", one.count, one.reason))
        .collect();
    if !found.is_empty() {
        reason += "; found ";
        reason += &found.join(", ");
    }
    if skipped.reasons().iter().any(|one| one.reason.starts_with("compressed archive(s) (.t")) {
        reason += "; unpack these archives, or if they are compressed shards, unpack them to .tar";
    }
    DataError::empty(root, reason)
}

/// The classes that a file gives to images outside of class folders.
struct Annotations {
    path: PathBuf,
    /// By the name of the image's file.
    classes: BTreeMap<String, String>,
}

impl Annotations {
    /// Those of a folder, if it has some.
    fn read(root: &Path, skipped: &mut Skipped) -> Result<Option<Self>, DataError> {
        let path = root.join(ANNOTATIONS);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = fs::read(&path).map_err(DataError::read(&path))?;
        let parsed = parse_annotations(&bytes, &path)?;
        for (line, reason) in &parsed.refused {
            skipped.add(
                format!("line(s) of {ANNOTATIONS} {reason}"),
                format!("{}, line {line}", path.display()),
            );
        }
        let own = |(file, class): (&str, &str)| (file.to_owned(), class.to_owned());
        let classes = parsed.classes.into_iter().map(own).collect();
        Ok(Some(Self { path, classes }))
    }

    /// The class of a file, which has no line any more.
    fn take(&mut self, files: &Listing, place: usize) -> Option<String> {
        self.classes.remove(files.path(place)?.file_name()?.to_str()?)
    }

    /// Counts lines without an image and notes images without a line. [`DataError::Malformed`] if the
    /// file is about none of the images and nothing else says their classes.
    fn account(
        self,
        root: &Path,
        files: &Listing,
        labels: &[Option<u32>],
        skipped: &mut Skipped,
    ) -> Result<(), DataError> {
        let place = |place: usize| root.join(files.path(place).unwrap_or_default());
        let unlabeled = labels.iter().filter(|label| label.is_none()).count();
        if let Some(first) = labels.iter().position(Option::is_none) {
            let first = place(first);
            if unlabeled == labels.len() {
                return Err(DataError::malformed(
                    &self.path,
                    format!("names none of the images, such as {}", first.display()),
                ));
            }
            skipped.note(format!(
                "{unlabeled} image(s) have no label, since {ANNOTATIONS} does not name them; the first: \
                 {}",
                first.display()
            ));
        }
        if let Some((first, _)) = self.classes.first_key_value() {
            let reason = format!("line(s) of {ANNOTATIONS} without an image");
            skipped.add_many(reason, self.classes.len(), first.as_str());
        }
        Ok(())
    }
}

impl ImageSet for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        read_image(&self.path(index))
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.labels.get(index).copied().flatten().map(|label| label as usize)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        self.path(index).display().to_string()
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

/// The annotations of Tiny-ImageNet.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ParsedAnnotations<'a> {
    /// The class of every file name.
    pub classes: BTreeMap<&'a str, &'a str>,
    /// The numbers of lines that say no class, from 1, with the reason.
    pub refused: Vec<(usize, &'static str)>,
}

/// Reads the annotations of Tiny-ImageNet: lines of a file name and its class, with a tab between
/// them; a box follows.
///
/// [`DataError::Malformed`] if the bytes are not text. A line without a class is refused alone, and
/// so are lines that give one file another class than the line before: that file has none then.
pub fn parse_annotations<'a>(
    bytes: &'a [u8],
    path: &Path,
) -> Result<ParsedAnnotations<'a>, DataError> {
    let mut parsed = ParsedAnnotations::default();
    let mut unclear = BTreeSet::new();
    for (index, line) in text_lines(bytes, path)? {
        let mut fields = line.split('\t').map(str::trim);
        let (Some(file), Some(class)) = (
            fields.next().filter(|file| !file.is_empty()),
            fields.next().filter(|class| !class.is_empty()),
        ) else {
            parsed.refused.push((index, "without a file name, a tab and a class"));
            continue;
        };
        let known = parsed.classes.entry(file).or_insert(class);
        if *known != class {
            parsed.refused.push((index, "that contradict another line"));
            unclear.insert(file);
        }
    }
    parsed.classes.retain(|file, _| !unclear.contains(file));
    Ok(parsed)
}

/// Reads the words of ImageNet's classes: lines of a class, a tab and words.
pub fn parse_words<'a>(
    bytes: &'a [u8],
    path: &Path,
) -> Result<BTreeMap<&'a str, &'a str>, DataError> {
    let lines = text_lines(bytes, path)?;
    Ok(lines.filter_map(|(_, line)| line.split_once('\t')).collect())
}

/// The lines that are not empty, numbered from 1.
fn text_lines<'a>(
    bytes: &'a [u8],
    path: &Path,
) -> Result<impl Iterator<Item = (usize, &'a str)>, DataError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| DataError::malformed(path, format!("is not text: {error}")))?;
    let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate();
    let lines = lines.map(|(index, line)| (index + 1, line));
    Ok(lines.filter(|(_, line)| !line.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{
        DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage,
    };
    use tempfile::TempDir;

    use super::*;
    use crate::decode::decode;
    use crate::test_files::empty_files;

    fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn png(width: u32, height: u32) -> Vec<u8> {
        let gradient = |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, 90]);
        encode(RgbImage::from_fn(width, height, gradient), ImageFormat::Png)
    }

    fn jpeg() -> Vec<u8> {
        let texture = |x: u32, y: u32| Rgb([(x * y) as u8, (x * 31) as u8, (y * 17) as u8]);
        encode(RgbImage::from_fn(64, 48, texture), ImageFormat::Jpeg)
    }

    /// A folder with the given files, each a PNG unless it brings its bytes.
    fn tree(files: &[&str]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            write(&root, file, png(4, 3));
        }
        root
    }

    fn write(root: &TempDir, file: &str, bytes: impl AsRef<[u8]>) {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Every file with its class, as `class: file`.
    fn listing(root: &TempDir, split: Split) -> Vec<String> {
        let set = Folder::open(root.path(), split).unwrap();
        let entry = |index| {
            let name = set.name(index);
            let name = Path::new(&name).strip_prefix(root.path()).unwrap().display().to_string();
            match set.label(index) {
                Some(label) => format!("{}: {name}", set.classes()[label]),
                None => name,
            }
        };
        (0..set.len()).map(entry).collect()
    }

    /// What was skipped and noted, a line each.
    fn told(root: &TempDir, split: Split) -> Vec<String> {
        let set = Folder::open(root.path(), split).unwrap();
        let skipped = set.skipped();
        let reasons = skipped.reasons().iter().map(ToString::to_string);
        reasons.chain(skipped.notes().iter().cloned()).collect()
    }

    fn failure(root: &Path, split: Split) -> String {
        Folder::open(root, split).err().expect("an error").to_string()
    }

    /// The message for a folder with one image of these bytes.
    fn damage(file: &str, bytes: &[u8]) -> String {
        let root = tempfile::tempdir().unwrap();
        write(&root, file, bytes);
        let set = Folder::open(root.path(), Split::Train).unwrap();
        let message = set.image(0).unwrap_err().to_string();
        assert!(message.contains(file), "{message}");
        message
    }

    #[test]
    fn masks_beside_images_are_noted() {
        let notes = |files: &[&str]| {
            let root = empty_files(files);
            let set = Folder::open(root.path(), Split::Train).unwrap();
            let shown = format!("{}/", root.path().display());
            set.skipped().notes().iter().map(|note| note.replace(&shown, "")).collect::<Vec<_>>()
        };
        let expected = "2 image(s) are called like masks of others and are read as images; the first: \
                        a/0_mask.png";
        assert_eq!(notes(&["a/0.png", "a/0_mask.png", "b/1.jpg", "b/1_mask.png"]), [expected]);
        assert_eq!(notes(&["a/party_mask.png", "b/1.png"]), [""; 0]);
        let found = notes(&["cats\\0.png", "dogs\\1.png"]);
        assert!(found[0].starts_with("2 image(s) have backslashes in their names (cats\\0.png)"));
    }

    #[test]
    fn class_folders_are_sorted_and_hold_what_is_nested_in_them() {
        let root = tree(&[
            "b/2.PNG",
            "b/1.jpeg",
            "a/deep/er/x.webp",
            "a/z.JPG",
            "a/.hidden.png",
            ".git/x.png",
            "b/notes.txt",
            "readme.md",
        ]);
        let expected = ["a: a/z.JPG", "a: a/deep/er/x.webp", "b: b/1.jpeg", "b: b/2.PNG"];
        assert_eq!(listing(&root, Split::Train), expected);
        assert!(!Folder::has_split(root.path(), Split::Test).unwrap());
        let message = failure(root.path(), Split::Test);
        assert!(message.contains("has no test split: put it into a folder val or test"));
    }

    #[test]
    fn a_flat_folder_has_no_labels() {
        let root = tree(&["b.png", "a.jpg", "labels/table.csv"]);
        let set = Folder::open(root.path(), Split::Train).unwrap();
        assert_eq!(listing(&root, Split::Train), ["a.jpg", "b.png"]);
        assert!(!set.has_labels());
    }

    #[test]
    fn the_test_split_is_val_or_test() {
        let root = tree(&["train/1.png", "test/2.png", "stray/3.png"]);
        assert_eq!(listing(&root, Split::Train), ["train/1.png"]);
        assert_eq!(listing(&root, Split::Test), ["test/2.png"]);
        write(&root, "val/4.png", png(4, 3));
        assert_eq!(listing(&root, Split::Test), ["val/4.png"]);
        assert!(Folder::has_split(root.path(), Split::Test).unwrap());
        let only_test = tree(&["test/2.png"]);
        let message = failure(only_test.path(), Split::Train);
        assert!(message.contains("has no train split: put it into a folder train"), "{message}");
    }

    #[test]
    fn a_class_named_train_is_not_taken_for_a_split() {
        let root = tree(&["train/1.png", "bus/2.png"]);
        let message = failure(root.path(), Split::Train);
        assert!(message.contains("has images in train and in bus"), "{message}");
        let nested = tree(&["train/train/1.png", "train/bus/2.png", "labels/table.csv"]);
        let set = Folder::open(nested.path(), Split::Train).unwrap();
        assert_eq!(set.classes(), ["bus", "train"]);
    }

    #[test]
    fn tiny_imagenet_is_read_as_it_is_published() {
        let root = tree(&[
            "train/n02/images/n02_0.JPEG",
            "train/n01/images/n01_0.JPEG",
            "train/n01/images/n01_1.JPEG",
            "train/n03/images/n03_0.JPEG",
            "val/images/val_0.JPEG",
            "val/images/val_1.JPEG",
            "test/images/test_0.JPEG",
        ]);
        write(&root, "train/n01/n01_boxes.txt", "n01_0.JPEG\t0\t10\t63\t58\n");
        write(&root, "wnids.txt", "n02\nn01\nn03\n");
        let lines = "val_1.JPEG\tn03\t0\t32\t44\t62\nval_0.JPEG\tn01\t52\t55\t57\t59\n";
        write(&root, "val/val_annotations.txt", lines);
        let train = [
            "n01: n01/images/n01_0.JPEG",
            "n01: n01/images/n01_1.JPEG",
            "n02: n02/images/n02_0.JPEG",
            "n03: n03/images/n03_0.JPEG",
        ];
        assert_eq!(listing(&root, Split::Train), train.map(|line| line.replace(": ", ": train/")));
        let test = ["n01: val/images/val_0.JPEG", "n03: val/images/val_1.JPEG"];
        assert_eq!(listing(&root, Split::Test), test);

        // The words of more classes than are here, two of them alike.
        let words = "n00\tentity\nn01\tcrane\nn02\tgoldfish, Carassius auratus\nn03\tcrane\n";
        write(&root, "words.txt", words);
        let expected = ["crane (n01)", "goldfish, Carassius auratus", "crane (n03)"];
        for split in [Split::Train, Split::Test] {
            assert_eq!(Folder::open(root.path(), split).unwrap().classes(), expected);
        }
        write(&root, "words.txt", "n01\tcrane\n");
        assert_eq!(Folder::open(root.path(), Split::Test).unwrap().classes()[0], "n01");

        for (lines, named) in [
            ("val_0.JPEG\tn01\nval_1.JPEG\tn09\n", "val/n09: is a class that "),
            ("other.JPEG\tn01\n", "val_annotations.txt: names none of the images, such as "),
        ] {
            write(&root, "val/val_annotations.txt", lines);
            let message = failure(root.path(), Split::Test);
            assert!(message.contains(named), "{message}");
        }
        write(&root, "val/val_annotations.txt", b"\xff");
        assert!(failure(root.path(), Split::Test).contains("val_annotations.txt: is not text"));
    }

    #[test]
    fn lines_of_annotations_that_do_not_fit_are_counted_one_by_one() {
        let root = tree(&[
            "train/n01/images/n01_0.JPEG",
            "train/n02/images/n02_0.JPEG",
            "val/images/val_0.JPEG",
            "val/images/val_1.JPEG",
            "val/images/val_2.JPEG",
        ]);
        let lines = "\u{feff}val_0.JPEG\tn02\r\nval_1.JPEG n01\r\nval_2.JPEG\tn01\nval_2.JPEG\tn02\n\
                     val_8.JPEG\tn01\nval_9.JPEG\tn01\nval_0.JPEG\tn02\t0\n";
        write(&root, "val/val_annotations.txt", lines);
        let expected =
            ["n02: val/images/val_0.JPEG", "val/images/val_1.JPEG", "val/images/val_2.JPEG"];
        assert_eq!(listing(&root, Split::Test), expected);
        let at = root.path().display();
        assert_eq!(
            told(&root, Split::Test),
            [
                format!("skipped 1 other file(s): {at}/val/val_annotations.txt"),
                format!(
                    "skipped 1 line(s) of val_annotations.txt without a file name, a tab and a class: \
                     {at}/val/val_annotations.txt, line 2"
                ),
                format!(
                    "skipped 1 line(s) of val_annotations.txt that contradict another line: \
                     {at}/val/val_annotations.txt, line 4"
                ),
                "skipped 2 line(s) of val_annotations.txt without an image; the first: val_8.JPEG"
                    .into(),
                format!(
                    "2 image(s) have no label, since val_annotations.txt does not name them; the first: \
                     {at}/val/images/val_1.JPEG"
                ),
            ]
        );
    }

    #[test]
    fn a_validation_split_that_was_sorted_into_class_folders_is_read_by_them() {
        // All of it, with the empty folder left over.
        let root =
            tree(&["train/n01/1.JPEG", "train/n02/2.JPEG", "val/n01/3.JPEG", "val/n02/4.JPEG"]);
        write(&root, "val/val_annotations.txt", "3.JPEG\tn01\t0\n4.JPEG\tn02\t0\n");
        fs::create_dir(root.path().join("val/images")).unwrap();
        assert_eq!(listing(&root, Split::Test), ["n01: val/n01/3.JPEG", "n02: val/n02/4.JPEG"]);
        assert!(told(&root, Split::Test).iter().any(|line| line.contains("without images")));

        // Only some of it.
        write(&root, "val/images/5.JPEG", png(4, 3));
        write(&root, "val/val_annotations.txt", "3.JPEG\tn01\t0\n4.JPEG\tn02\t0\n5.JPEG\tn02\t0\n");
        let expected = ["n02: val/images/5.JPEG", "n01: val/n01/3.JPEG", "n02: val/n02/4.JPEG"];
        assert_eq!(listing(&root, Split::Test), expected);

        // Images directly in the folder.
        let root = tree(&["train/n01/1.JPEG", "train/n02/2.JPEG", "val/3.JPEG", "val/4.JPEG"]);
        write(&root, "val/val_annotations.txt", "4.JPEG\tn01\n3.JPEG\tn02\n");
        assert_eq!(listing(&root, Split::Test), ["n02: val/3.JPEG", "n01: val/4.JPEG"]);
    }

    #[test]
    fn the_real_tiny_imagenet_is_read() {
        let folder = std::env::var_os("NEARKIN_DATA").map(PathBuf::from);
        let Some(path) =
            folder.map(|path| path.join("tiny-imagenet-200")).filter(|path| path.is_dir())
        else {
            eprintln!("skipped: set NEARKIN_DATA to the folder that holds tiny-imagenet-200");
            return;
        };
        for (split, per_class) in [(Split::Train, 500), (Split::Test, 50)] {
            let set = Folder::open(&path, split).unwrap();
            let mut counts = vec![0; set.classes().len()];
            (0..set.len()).for_each(|index| counts[set.label(index).unwrap()] += 1);
            assert_eq!(counts, vec![per_class; counts.len()]);
            for index in (0..set.len()).step_by(7) {
                let image = set.image(index).unwrap();
                assert_eq!((image.width(), image.height()), (64, 64), "{}", set.name(index));
            }
        }
    }

    #[test]
    fn the_test_split_numbers_classes_as_the_train_split_does() {
        let root = tree(&["train/a/1.png", "train/b/1.png", "train/c/1.png", "val/c/1.png"]);
        let test = Folder::open(root.path(), Split::Test).unwrap();
        assert_eq!((test.label(0), test.classes().concat().as_str()), (Some(2), "abc"));
        write(&root, "val/d/1.png", png(4, 3));
        let message = failure(root.path(), Split::Test);
        assert!(message.contains("val/d: is a class that "), "{message}");
    }

    #[test]
    fn folders_without_usable_content_are_named() {
        let root = tempfile::tempdir().unwrap();
        let message = failure(root.path(), Split::Train);
        assert!(message.starts_with("no images in "), "{message}");
        assert!(
            message.contains("looked for bmp, jfif, jpe, jpeg, jpg, png, tif, tiff, webp files"),
            "{message}"
        );
        let message = failure(&root.path().join("gone"), Split::Train);
        assert!(message.starts_with("cannot read ") && message.contains("gone"), "{message}");
        write(&root, "file.png", png(4, 3));
        let message = failure(&root.path().join("file.png"), Split::Train);
        assert!(message.contains("file.png: is a file; give a folder"), "{message}");
        write(&root, "cats/1.png", png(4, 3));
        let message = failure(root.path(), Split::Train);
        assert!(message.contains("holds 1 image(s) outside of class folders ("), "{message}");
        assert!(message.contains("file.png) and 1 in class folders ("), "{message}");

        let root = tree(&[]);
        write(&root, "cats/1.heic", "");
        write(&root, "cats/2.heic", "");
        write(&root, "train/3.mp4", "");
        let message = failure(root.path(), Split::Train);
        assert!(
            message.contains("; found 2 image(s) of a kind that is not read (.heic), 1 file(s)")
        );
        write(&root, "val/4.png", png(4, 3));
        let message = failure(root.path(), Split::Train);
        assert!(message.contains("/train: looked for "), "{message}");
        assert!(message.ends_with("found 1 file(s) that are not images (.mp4)"), "{message}");
    }

    #[test]
    fn a_few_images_of_the_other_kind_are_skipped() {
        let mut root = tree(&["a/1.png", "b/2.png", "preview.png"]);
        assert_eq!(listing(&root, Split::Train), ["a: a/1.png", "b: b/2.png"]);
        let line = format!(
            "skipped 1 image(s) beside class folders: {}/preview.png",
            root.path().display()
        );
        assert_eq!(told(&root, Split::Train), [line]);
        write(&root, "another.png", png(4, 3));
        assert!(failure(root.path(), Split::Train).contains("holds 2 image(s) outside of class"));
        for index in 0..6 {
            write(&root, &format!("a/more{index}.png"), png(4, 3));
        }
        assert_eq!(Folder::open(root.path(), Split::Train).unwrap().len(), 8);

        root = tree(&["a/1.png", "a/2.png", "b/3.png", "assets/logo.png", "images/left.png"]);
        assert!(failure(root.path(), Split::Train).contains("holds 2 image(s) outside of class"));
        fs::remove_file(root.path().join("images/left.png")).unwrap();
        assert_eq!(listing(&root, Split::Train), ["a: a/1.png", "a: a/2.png", "b: b/3.png"]);
        let is_told = |line: &String| line.ends_with("/assets/logo.png");
        assert!(told(&root, Split::Train).iter().any(is_told));

        root = tree(&["1.png", "2.png", "3.png", "4.png", "extra/1.png"]);
        assert_eq!(listing(&root, Split::Train), ["1.png", "2.png", "3.png", "4.png"]);
        assert!(
            told(&root, Split::Train)[0].contains("1 image(s) in folders beside images without")
        );

        // Masks in the same number as images are no class, and nothing to train on unasked.
        root = tree(&["images/1.png", "images/2.png", "masks/1.png", "masks/2.png"]);
        assert!(failure(root.path(), Split::Train).contains("2 in class folders"));
    }

    #[test]
    fn a_class_called_like_a_description_is_a_class_or_told() {
        let mut root = tree(&["cats/1.png", "cats/2.png", "docs/3.png", "docs/4.png"]);
        let expected =
            ["cats: cats/1.png", "cats: cats/2.png", "docs: docs/3.png", "docs: docs/4.png"];
        assert_eq!(listing(&root, Split::Train), expected);
        let note = "the folder docs is read as a class, not as pictures of a README";
        assert!(told(&root, Split::Train).contains(&note.to_owned()));
        root = tree(&["cats/1.png", "cats/2.png", "dogs/3.png", "dogs/4.png", "screenshots/5.png"]);
        assert_eq!(Folder::open(root.path(), Split::Train).unwrap().len(), 4);
        let reason = "skipped 1 image(s) in a folder called screenshots, taken for pictures of a README \
                      (rename it if it is a class): ";
        assert!(
            told(&root, Split::Train)[0].starts_with(reason),
            "{:?}",
            told(&root, Split::Train)
        );
    }

    #[test]
    fn folders_of_systems_hold_no_classes_and_no_images() {
        let root = tree(&[
            "cats/1.png",
            "cats/@__thumb/1.png",
            "dogs/2.png",
            "#snapshot/cats/1.png",
            "@Recently-Snapshot/cats/1.png",
            "FOUND.000/x.png",
        ]);
        assert_eq!(listing(&root, Split::Train), ["cats: cats/1.png", "dogs: dogs/2.png"]);
        let line = "skipped 4 folder(s) of the operating system; the first: ";
        assert!(told(&root, Split::Train)[0].starts_with(line));
    }

    #[test]
    fn compressed_shards_and_unreadable_splits_say_what_to_do() {
        use std::os::unix::fs::PermissionsExt;
        let root = tree(&[]);
        write(&root, "train-000000.tar.gz", "");
        let message = failure(root.path(), Split::Train);
        assert!(message.contains("found 1 compressed archive(s) (.tar.gz)"), "{message}");
        assert!(
            message.ends_with("if they are compressed shards, unpack them to .tar"),
            "{message}"
        );

        let close = |root: &TempDir, folder: &str| {
            let path = root.path().join(folder);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
            path
        };
        let root = tree(&["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png"]);
        let val = close(&root, "val");
        // Nothing is closed to root.
        if fs::read_dir(&val).is_ok() {
            return;
        }
        let line =
            format!("skipped 1 folder(s) without permission to read them: {}", val.display());
        assert_eq!(told(&root, Split::Train), [line]);
        fs::set_permissions(&val, fs::Permissions::from_mode(0o755)).unwrap();
        let train = close(&root, "train");
        let message = failure(root.path(), Split::Train);
        fs::set_permissions(&train, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(message.starts_with("cannot read ") && message.contains("/train: "), "{message}");
    }

    #[test]
    fn empty_folders_inside_of_classes_are_counted() {
        let root = tree(&["a/1.png", "a/x/2.png", "b/3.png"]);
        for empty in ["a/y/z", "a/x/w", "c/v"] {
            fs::create_dir_all(root.path().join(empty)).unwrap();
        }
        let line =
            format!("skipped 3 folder(s) without images; the first: {}/c", root.path().display());
        assert_eq!(told(&root, Split::Train), [line]);
    }

    #[test]
    fn empty_class_folders_are_counted_and_number_nothing() {
        let root = tree(&["cats/1.png", "dogs/notes.txt", "foxes/2.png"]);
        assert_eq!(Folder::open(root.path(), Split::Train).unwrap().classes(), ["cats", "foxes"]);
        let is_told = |line: &String| line.starts_with("skipped 1 folder(s) without images: ");
        assert!(told(&root, Split::Train).iter().any(is_told));

        // One that has images in the test split is a class of both.
        let root = tree(&[
            "train/a/1.png",
            "train/b/x.txt",
            "train/c/1.png",
            "train/d/x.txt",
            "val/b/1.png",
            "val/c/1.png",
        ]);
        for (split, labels) in [(Split::Train, vec![0, 2]), (Split::Test, vec![1, 2])] {
            let set = Folder::open(root.path(), split).unwrap();
            assert_eq!(set.classes(), ["a", "b", "c"]);
            let found: Vec<usize> = (0..set.len()).filter_map(|index| set.label(index)).collect();
            assert_eq!(found, labels);
        }
    }

    #[test]
    fn spellings_of_a_class_meet_and_cases_are_kept_apart() {
        let (composed, apart) = ("caf\u{e9}", "cafe\u{301}");
        let root = tree(&[
            &format!("train/{composed}/1.png"),
            "train/Tea/2.png",
            "train/tea/3.png",
            &format!("val/{apart}/4.png"),
            "val/tea/5.png",
        ]);
        let test = Folder::open(root.path(), Split::Test).unwrap();
        assert_eq!(test.classes(), ["Tea", composed, "tea"]);
        assert_eq!([0, 1].map(|index| test.label(index)), [Some(1), Some(2)]);
        let note = "classes whose names differ only in case are kept apart: Tea and tea";
        assert!(told(&root, Split::Train).contains(&note.to_owned()));
        // Both spellings in one split.
        let root = tree(&[&format!("{composed}/1.png"), &format!("{apart}/2.png"), "b/3.png"]);
        let set = Folder::open(root.path(), Split::Train).unwrap();
        assert_eq!((set.classes(), set.len()), (&["b".to_owned(), composed.to_owned()][..], 3));

        let root = tree(&["train/Cat/1.png", "train/b/1.png", "val/cat/1.png", "val/b/1.png"]);
        let message = failure(root.path(), Split::Test);
        assert!(
            message.contains("val/cat: is a class that ")
                && message.contains("(Cat differs in case)")
        );
        let root = tree(&["train/cat /1.png", "train/b/1.png", "val/cat/1.png", "val/b/1.png"]);
        let message = failure(root.path(), Split::Test);
        assert!(message.contains("(\"cat \" differs in spaces around it)"), "{message}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn class_folders_whose_names_are_no_text_stay_apart() {
        let root = tree(&["c/1.png"]);
        for name in [b"caf\xe9", b"caf\xe8"] {
            let folder = root.path().join(OsStr::from_bytes(name));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("1.png"), png(4, 3)).unwrap();
        }
        let set = Folder::open(root.path(), Split::Train).unwrap();
        assert_eq!(set.classes(), ["c", "caf\\xe8", "caf\\xe9"]);
        assert_eq!(set.image(1).unwrap().width(), 4);
    }

    #[test]
    fn a_test_split_of_one_unknown_class_has_no_labels() {
        let root = tree(&["train/a/1.png", "train/b/2.png", "test/unknown/3.png"]);
        let test = Folder::open(root.path(), Split::Test).unwrap();
        assert_eq!((test.len(), test.label(0), test.classes().len()), (1, None, 0));
        assert!(
            told(&root, Split::Test).iter().any(|line| line.contains("unknown is no class of"))
        );
    }

    #[test]
    fn links_are_followed_and_those_that_lead_nowhere_are_counted() {
        use std::os::unix::fs::symlink;
        let elsewhere = tree(&["1.png"]);
        let root = tree(&["a/1.png"]);
        symlink(elsewhere.path(), root.path().join("b")).unwrap();
        symlink(root.path(), root.path().join("a/loop")).unwrap();
        symlink("nowhere", root.path().join("a/2.png")).unwrap();
        symlink("3.png", root.path().join("a/3.png")).unwrap();
        assert_eq!(listing(&root, Split::Train), ["a: a/1.png", "b: b/1.png"]);
        let at = root.path().display();
        let lines = [
            format!("skipped 2 link(s) in a circle; the first: {at}/a/3.png"),
            format!("skipped 1 link(s) that lead nowhere: {at}/a/2.png"),
        ];
        assert_eq!(told(&root, Split::Train), lines);
    }

    #[test]
    fn every_kind_of_pixel_becomes_rgb() {
        let root = tempfile::tempdir().unwrap();
        let grey = GrayImage::from_pixel(2, 1, Luma([77]));
        let deep = ImageBuffer::from_pixel(2, 1, Rgb([0xffff_u16, 0x8000, 0]));
        let transparent = RgbaImage::from_pixel(2, 1, Rgba([10, 20, 30, 0]));
        write(&root, "a.png", encode(grey, ImageFormat::Png));
        write(&root, "b.png", encode(deep, ImageFormat::Png));
        write(&root, "c.png", encode(transparent.clone(), ImageFormat::Png));
        write(&root, "d.webp", encode(transparent, ImageFormat::WebP));
        // The name is wrong; the content decides.
        write(&root, "e.jpg", png(2, 1));
        write(&root, "f.png", palette_png());
        let set = Folder::open(root.path(), Split::Train).unwrap();
        let expected = [
            [77, 77, 77, 77, 77, 77],
            [255, 128, 0, 255, 128, 0],
            [10, 20, 30, 10, 20, 30],
            [10, 20, 30, 10, 20, 30],
            [0, 0, 90, 7, 0, 90],
            [200, 100, 50, 1, 2, 3],
        ];
        for (index, expected) in expected.iter().enumerate() {
            let image = set.image(index).unwrap();
            assert_eq!((image.width(), image.height()), (2, 1));
            assert_eq!(image.rgb(), expected, "{}", set.name(index));
        }
    }

    /// A 2x1 PNG of two palette colours, put together here because the encoder writes none.
    fn palette_png() -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        for (kind, data) in [
            (b"IHDR", &[0, 0, 0, 2, 0, 0, 0, 1, 8, 3, 0, 0, 0][..]),
            (b"PLTE", &[1, 2, 3, 200, 100, 50]),
            // Zlib with one stored block: no filter, entries 1 and 0, then Adler-32.
            (b"IDAT", &[0x78, 1, 1, 3, 0, 0xfc, 0xff, 0, 1, 0, 0, 5, 0, 2]),
            (b"IEND", &[]),
        ] {
            bytes.extend((data.len() as u32).to_be_bytes());
            let start = bytes.len();
            bytes.extend(kind);
            bytes.extend(data);
            let mut remainder = u32::MAX;
            for byte in &bytes[start..] {
                remainder ^= u32::from(*byte);
                for _ in 0..8 {
                    remainder = (remainder >> 1) ^ (0xedb8_8320 & (remainder & 1).wrapping_neg());
                }
            }
            bytes.extend((!remainder).to_be_bytes());
        }
        bytes
    }

    #[test]
    fn damaged_images_are_named_when_asked_for() {
        assert!(damage("empty.jpg", b"").contains("the file is empty"));
        assert!(damage("page.png", b"<html>not found</html>").contains("is an HTML page"));
        assert!(damage("start.jpg", &[0xff, 0xd8, 0xff]).contains("cannot decode"));
        let webp = encode(RgbImage::new(20, 20), ImageFormat::WebP);
        for (file, sound) in [("cut.png", png(40, 30)), ("cut.jpg", jpeg()), ("cut.webp", webp)] {
            damage(file, &sound[..sound.len() / 2]);
            damage(file, &sound[..sound.len() - sound.len() / 10]);
        }
    }

    #[test]
    fn a_truncated_jpeg_is_refused_in_spite_of_a_whole_thumbnail() {
        let sound = jpeg();
        let mut bytes = sound[..2].to_vec();
        bytes.extend([0xff, 0xe1]);
        bytes.extend((2 + sound.len() as u16).to_be_bytes());
        bytes.extend(&sound);
        bytes.extend(&sound[2..]);
        assert!(decode(&bytes, Path::new("some.jpg")).is_ok());
        let message = damage("cut.jpg", &bytes[..bytes.len() - 20]);
        assert!(message.contains("the JPEG is truncated"), "{message}");
        // Bytes after the end are common and harmless.
        bytes.extend([0; 40]);
        assert!(decode(&bytes, Path::new("some.jpg")).is_ok());
    }

    #[test]
    fn a_decompression_bomb_is_refused_before_it_is_decoded() {
        let mut bytes = jpeg();
        let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        bytes[frame + 5..frame + 9].fill(0xff);
        let message = damage("bomb.jpg", &bytes);
        assert!(message.contains("65535x65535 pixels are more than the 134217728"), "{message}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_annotations_or_refused(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            let _ = parse_annotations(&bytes, Path::new("some.txt"));
            let _ = parse_words(&bytes, Path::new("some.txt"));
        }

        #[test]
        fn any_bytes_after_a_sound_start_are_decoded_or_refused(
            kept in 0..200_usize, tail in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        ) {
            for sound in [png(20, 20), jpeg()] {
                let bytes = [&sound[..kept.min(sound.len())], &tail].concat();
                if let Ok(image) = decode(&bytes, Path::new("some")) {
                    proptest::prop_assert_eq!(image.rgb().len(), image.width() * image.height() * 3);
                }
            }
        }
    }
}
