//! Where the splits of a folder of images are.
//!
//! Only the names of folders tell a split from a class, and to take one for the other is the worst
//! that can happen to a set: test images are trained on, or everything but one class is left out.
//! The rules, in this order; folders without images play no part:
//!
//! - **Wrapped.** If one folder holds all images and its name is not a split word, the data set is in
//!   that folder: archives often unpack to one folder. Not so if images are directly in it and there are
//!   other folders, which may be empty classes. A part may be wrapped too
//!   (`seg_train/seg_train/CLASS`), in a folder with the name of the part or of the outer folder, or
//!   in one that has at least two class folders and no images of its own.
//! - **Named.** Folders that name `train` and `val` or `test` (see [`splits`](crate::splits)) are
//!   the splits. All else beside them is skipped and counted. Where both `val` and `test` are
//!   there, `val` is the test split and the images of `test` are unused.
//! - **Suffixed.** The same for folders that share the rest of their names: `cats_train`,
//!   `cats_test`.
//! - **Alone.** A named folder without other folders of images is the only split.
//! - **Classes.** Folders of which none speaks of a part are classes. One whose name only mentions
//!   `train` (`bullet train`) is a class, with a note, if it shares no word with another folder or there
//!   are four others, and holds images as they do. One that mentions a held-out part (`test tube`) must
//!   share no word and have four others beside it, and one named `train` too. Beside twenty other
//!   folders, all of these are classes.
//!
//! Everything else looks like splits and is refused with the names of the folders: two folders for one
//! part (`train` and `Training`), a part without its counterpart beside other folders of images,
//! several sets (`trainA`, `testA`, `trainB`, `testB`), several parts in one name (`trainval`), folds
//! (`fold1`, `fold2`), splits inside of classes (`bottle/train`, `bottle/test`), and folders that hold the
//! same classes (`seen/cat`, `seen/dog`, `unseen/cat`, `unseen/dog`), if there are at most three of them or
//! all are called by numbers. More of these are classes, with a note. Where no folder tells splits, images
//! that do by their own names (`train_0.png`, `val_0.png`) are refused too.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use crate::folder::no_images;
use crate::scan::{self, Entries, Listing};
use crate::splits::{self, Naming, Part, SplitNames};
use crate::{DataError, Skipped, Split};

/// Archives in archives unpack to some depth; links could lead further without end.
const DEEPEST: usize = 8;

/// A class named `train`, or with a word of a held-out part in its name, needs this many other classes
/// beside it to be one beyond doubt.
const FEWEST_OTHER_CLASSES: usize = 4;

/// With this many other folders, a folder is not taken for a split.
const MANY_CLASSES: usize = 20;

/// So many folders a message names.
const NAMED: usize = 4;

/// The folders of the splits.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The folder in which the splits or classes are: the given one, or one wrapped in it.
    pub(crate) root: PathBuf,
    train: Option<PathBuf>,
    test: Option<PathBuf>,
    /// The folder of a test part that validation replaces.
    unused: Option<PathBuf>,
    /// What is beside the splits.
    skipped: Skipped,
}

/// A folder in the root of a set that holds images.
struct Candidate {
    name: OsString,
    naming: Naming,
    /// The words of its name that speak of no part.
    rest: Vec<String>,
}

/// What the folders of a root turn out to be.
enum Reading {
    /// All of it is the train split.
    Whole,
    /// The same, although these names speak of parts.
    Classes(String),
    /// It is wrapped in this folder.
    Wrapped(OsString),
    /// These folders are parts.
    Parts(BTreeMap<Part, OsString>),
}

impl Layout {
    /// Finds the splits of a folder.
    ///
    /// [`DataError::Malformed`] with the names of the folders if they look like splits and are not
    /// understood.
    pub(crate) fn read(path: &Path) -> Result<Self, DataError> {
        if !fs::metadata(path).map_err(DataError::read(path))?.is_dir() {
            return Err(DataError::malformed(path, "is a file; give a folder of images"));
        }
        let mut skipped = Skipped::new();
        let mut root = path.to_owned();
        for _ in 0..DEEPEST {
            let entries = scan::entries(&root)?;
            let candidates = candidates(&root, &entries)?;
            match read(&root, &entries, &candidates)? {
                Reading::Wrapped(inner) => {
                    skip_beside(&root, &entries, &candidates, &[&inner], &mut skipped);
                    root.push(inner);
                    skipped.note(format!("the images were found in {}", root.display()));
                }
                Reading::Whole => return Ok(Self::whole(root, skipped)),
                Reading::Classes(names) => {
                    skipped.note(format!(
                        "the folders of {} are read as classes, not as splits: {names}",
                        root.display()
                    ));
                    return Ok(Self::whole(root, skipped));
                }
                Reading::Parts(parts) => {
                    let names: Vec<&OsStr> = parts.values().map(OsString::as_os_str).collect();
                    skip_beside(&root, &entries, &candidates, &names, &mut skipped);
                    return Self::from_parts(root, &parts, skipped);
                }
            }
        }
        Err(DataError::malformed(path, "its images are too many folders deep; give their folder"))
    }

    fn whole(root: PathBuf, skipped: Skipped) -> Self {
        Self { train: Some(root.clone()), root, test: None, unused: None, skipped }
    }

    fn from_parts(
        root: PathBuf,
        parts: &BTreeMap<Part, OsString>,
        skipped: Skipped,
    ) -> Result<Self, DataError> {
        let present: Vec<Part> = parts.keys().copied().collect();
        let mut layout = Self { root, train: None, test: None, unused: None, skipped };
        for (part, name) in parts {
            let folder = layout.root.join(name);
            match part.split(&present) {
                Some(Split::Train) => layout.train = Some(folder),
                Some(Split::Test) => layout.test = Some(folder),
                None => layout.unused = Some(folder),
            }
        }
        if let Some(train) = layout.train.take() {
            layout.train = Some(unwrapped(train, None, &mut layout.skipped)?);
        }
        if let Some(test) = layout.test.take() {
            let train = layout.train.as_deref();
            layout.test = Some(unwrapped(test, train, &mut layout.skipped)?);
        }
        Ok(layout)
    }

    /// Refuses a set without folders of splits whose images tell splits by their names.
    pub(crate) fn refuse_split_names(&self, listing: &Listing) -> Result<(), DataError> {
        /// Names that are looked at, spread over all.
        const SAMPLE: usize = 4096;
        if self.train.as_ref() != Some(&self.root) {
            return Ok(());
        }
        let step = listing.len().div_ceil(SAMPLE).max(1);
        let sample = (0..listing.len()).step_by(step).filter_map(|index| listing.path(index));
        let mut names = SplitNames::default();
        for path in sample {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            names.push(&path.to_string_lossy(), splits::part_of_file(&stem));
        }
        match names.both() {
            None => Ok(()),
            Some([train, held_out]) => Err(DataError::malformed(
                &self.root,
                format!(
                    "its images tell splits by their names ({train}, {held_out}), and no folder does: \
                     move them into folders train and test"
                ),
            )),
        }
    }

    /// The folder of a split.
    pub(crate) fn folder(&self, split: Split) -> Option<&Path> {
        match split {
            Split::Train => self.train.as_deref(),
            Split::Test => self.test.as_deref(),
        }
    }

    /// What a split leaves out beside its own folder: the train split what is beside all splits, the
    /// test split a test part that is not used.
    pub(crate) fn skipped(&self, split: Split) -> Result<Skipped, DataError> {
        let mut skipped = Skipped::new();
        if split == Split::Train || self.train.is_none() {
            skipped.merge(&self.skipped);
        }
        if let (Split::Test, Some(unused)) = (split, &self.unused) {
            let listing = scan::scan(unused, scan::index_folder().as_deref())?;
            let first = listing.path(0).map(|first| unused.join(first).display().to_string());
            let reason = "image(s) of the test part, since the validation part is the test split";
            skipped.add_many(reason, listing.len(), first.unwrap_or_default());
        }
        Ok(skipped)
    }

    /// The error of a split that the folder does not have.
    pub(crate) fn missing(&self, split: Split) -> DataError {
        let names_it = |name: &&OsString| {
            let naming = splits::naming(&name.to_string_lossy());
            matches!(naming, Naming::Names(part) if part.split(&[]) == Some(split))
        };
        let folders =
            scan::entries(&self.root).map_or_else(|_| Vec::new(), |entries| entries.folders);
        if let Some(empty) = folders.iter().find(names_it) {
            let empty = self.root.join(empty);
            return match scan::scan(&empty, None) {
                Ok(listing) => no_images(&empty, listing.skipped()),
                Err(error) => error,
            };
        }
        let wanted = match split {
            Split::Train => "a folder train",
            Split::Test => "a folder val or test",
        };
        let path = self.root.display();
        let what = match archive(&self.root, split) {
            Some(archive) => format!("unpack {archive}"),
            None => "put it".to_owned(),
        };
        DataError::Request(format!("{path} has no {split} split: {what} into {wanted} there"))
    }
}

/// The first archive in a folder that is called like the part of a split: `train.tar`.
fn archive(root: &Path, split: Split) -> Option<String> {
    const EXTENSIONS: [&str; 8] = ["tar", "zip", "tgz", "gz", "7z", "rar", "xz", "bz2"];
    let mut names: Vec<String> = fs::read_dir(root)
        .ok()?
        .flatten()
        .filter_map(|file| file.file_name().into_string().ok())
        .collect();
    names.sort();
    names.into_iter().find(|name| {
        let Some((stem, extensions)) = name.split_once('.') else { return false };
        let last = extensions.rsplit('.').next().unwrap_or_default().to_lowercase();
        EXTENSIONS.contains(&&*last)
            && matches!(splits::naming(stem), Naming::Names(part) if part.split(&[]) == Some(split))
    })
}

/// Counts what is in `root` beside the folders `used`; those `found` hold images.
fn skip_beside(
    root: &Path,
    entries: &Entries,
    found: &[Candidate],
    used: &[&OsStr],
    skipped: &mut Skipped,
) {
    skipped.merge(&entries.skipped);
    let mut add = |reason: &str, names: Vec<&OsString>| {
        let first = names.first().map(|name| root.join(name).display().to_string());
        skipped.add_many(reason, names.len(), first.unwrap_or_default());
    };
    add("image(s) beside the folders of images", entries.images.iter().collect());
    let holds_images =
        |name: &&OsString| found.iter().any(|candidate| candidate.name == name.as_os_str());
    let others = entries.folders.iter().filter(|name| !used.contains(&name.as_os_str()));
    let (images, without): (Vec<&OsString>, Vec<&OsString>) = others.partition(holds_images);
    let is_closed = |name: &&OsString| scan::is_closed(&root.join(name));
    let (closed, without): (Vec<&OsString>, Vec<&OsString>) =
        without.into_iter().partition(is_closed);
    let is_part = |name: &&OsString| splits::naming(&name.to_string_lossy()) != Naming::Nothing;
    let (parts, without) = without.into_iter().partition(is_part);
    add("folder(s) of images beside the splits", images);
    add(scan::CLOSED, closed);
    add("folder(s) named like a split, without images that are read", parts);
    add("other folder(s) beside the images", without);
}

/// The folders of `root` that hold images, but for those of a description (`assets`). Where no name
/// speaks of a part, only the first two are looked for: more make no difference.
fn candidates(root: &Path, entries: &Entries) -> Result<Vec<Candidate>, DataError> {
    let naming = |name: &OsString| splits::naming(&name.to_string_lossy());
    let is_set = |name: &&OsString| !splits::means_description(&name.to_string_lossy());
    let speaks = entries.folders.iter().any(|name| naming(name) != Naming::Nothing);
    let mut found = Vec::new();
    for name in entries.folders.iter().filter(is_set) {
        let folder = root.join(name);
        if !scan::holds_images(&folder)? {
            if naming(name) == Naming::Names(Part::Train) && scan::is_closed(&folder) {
                // Everything else would be trained on instead.
                return Err(scan::entries(&folder)
                    .err()
                    .unwrap_or_else(|| DataError::malformed(&folder, "may not be read")));
            }
            continue;
        }
        found.push(Candidate {
            name: name.clone(),
            naming: naming(name),
            rest: splits::rest(&name.to_string_lossy()),
        });
        if !speaks && found.len() == 2 {
            break;
        }
    }
    Ok(found)
}

/// Whether images are directly in a folder of `root`.
fn is_flat(root: &Path, candidate: &Candidate) -> Result<bool, DataError> {
    scan::holds_images_directly(&root.join(&candidate.name))
}

/// Decides what the folders of a root are.
fn read(root: &Path, entries: &Entries, found: &[Candidate]) -> Result<Reading, DataError> {
    if let [only] = found
        && entries.images.is_empty()
        && let Some(reading) = read_single(root, entries, only)?
    {
        return Ok(reading);
    }
    let several: Vec<&Candidate> = with(found, |naming| naming == Naming::Several);
    if !several.is_empty() {
        return Err(refuse_several(root, &several));
    }
    let named = with(found, |naming| matches!(naming, Naming::Names(_)));
    if !named.is_empty() {
        return read_named(root, found, &named);
    }
    let mentions = with(found, |naming| matches!(naming, Naming::Mentions(_)));
    if mentions.is_empty() { Ok(Reading::Whole) } else { read_mentions(root, found, &mentions) }
}

fn with(found: &[Candidate], is: impl Fn(Naming) -> bool) -> Vec<&Candidate> {
    found.iter().filter(|candidate| is(candidate.naming)).collect()
}

/// A single folder of images: `None` if its name has to be read as among others.
fn read_single(
    root: &Path,
    entries: &Entries,
    only: &Candidate,
) -> Result<Option<Reading>, DataError> {
    let wrapped = || Ok(Some(Reading::Wrapped(only.name.clone())));
    // A class beside an empty one, or one whose images are of a kind that is not read.
    let is_class = entries.folders.len() > 1
        && !splits::means_images(&only.name.to_string_lossy())
        && is_flat(root, only)?;
    if is_class && only.naming == Naming::Nothing {
        return Ok(Some(Reading::Whole));
    }
    match only.naming {
        Naming::Names(_) => Ok(None),
        Naming::Nothing | Naming::Mentions(Part::Train) => wrapped(),
        // `train_test_split/train` and the like.
        Naming::Several | Naming::Mentions(_) => {
            let inner = root.join(&only.name);
            if Layout::read(&inner)?.folder(Split::Test).is_some() {
                wrapped()
            } else {
                Err(DataError::malformed(
                    root,
                    format!(
                        "{} does not say whether to train on it: give {} itself to train on all of \
                         it",
                        quoted(&[only]),
                        inner.display()
                    ),
                ))
            }
        }
    }
}

/// Folders of which some name a part.
fn read_named(
    root: &Path,
    found: &[Candidate],
    named: &[&Candidate],
) -> Result<Reading, DataError> {
    let parts = by_part(root, named)?;
    if parts.contains_key(&Part::Train) && parts.len() > 1 || found.len() == named.len() {
        return Ok(Reading::Parts(parts));
    }
    let others: Vec<&Candidate> = with(found, |naming| naming == Naming::Nothing);
    let mut is_class = parts.contains_key(&Part::Train)
        && others.len() + 1 == found.len()
        && others.len() >= FEWEST_OTHER_CLASSES
        && !others.iter().any(|other| splits::means_images(&other.name.to_string_lossy()));
    if others.len() < MANY_CLASSES {
        for candidate in found {
            is_class = is_class && is_flat(root, candidate)?;
        }
    }
    if is_class {
        return Ok(Reading::Classes(quoted(named)));
    }
    let beside: Vec<&Candidate> = with(found, |naming| !matches!(naming, Naming::Names(_)));
    let (part, named) = (quoted(named), quoted(&beside));
    Err(DataError::malformed(
        root,
        if parts.contains_key(&Part::Train) {
            format!(
                "has images in {part} and in {named}, and no val or test: if {part} is a split, give \
                 {} itself or move the others away; if it is a class, put all classes into a folder \
                 of their own named train",
                root.join(&parts[&Part::Train]).display()
            )
        } else {
            format!(
                "has images in {part} and in {named}, and no train: put what to train on into a \
                 folder named train, or move {part} away"
            )
        },
    ))
}

/// Folders of which some mention a part, and none names one.
fn read_mentions(
    root: &Path,
    found: &[Candidate],
    mentions: &[&Candidate],
) -> Result<Reading, DataError> {
    let mut sets: BTreeMap<&[String], Vec<&Candidate>> = BTreeMap::new();
    for candidate in mentions {
        sets.entry(&candidate.rest).or_default().push(candidate);
    }
    let mut whole = Vec::new();
    for members in sets.values().filter(|members| members.len() > 1) {
        let parts = by_part(root, members)?;
        if parts.contains_key(&Part::Train) {
            whole.push(parts);
        }
    }
    if whole.len() > 1 {
        return Err(DataError::malformed(
            root,
            format!(
                "holds several sets with splits of their own ({}): put each into a folder of its own, \
                 with its parts in train and test",
                quoted(mentions)
            ),
        ));
    }
    if let Some(parts) = whole.pop() {
        return Ok(Reading::Parts(parts));
    }
    let others: Vec<&Candidate> = with(found, |naming| naming == Naming::Nothing);
    let is_held_out = |candidate: &&&Candidate| candidate.naming != Naming::Mentions(Part::Train);
    let held_out = mentions.iter().filter(is_held_out).count();
    let shares_word = |one: &&&Candidate| {
        let words = |other: &&Candidate| one.rest.iter().any(|word| other.rest.contains(word));
        others.iter().any(words)
    };
    let is_apart = !mentions.iter().any(|mention| shares_word(&mention));
    let mut are_classes = match held_out {
        0 => is_apart || others.len() >= FEWEST_OTHER_CLASSES,
        _ => is_apart && others.len() >= FEWEST_OTHER_CLASSES.max(mentions.len() + 1),
    };
    if let (true, Some(other)) = (are_classes, others.first()) {
        let shape = is_flat(root, other)?;
        for mention in mentions {
            are_classes = are_classes && is_flat(root, mention)? == shape;
        }
    }
    are_classes = are_classes || others.len() >= MANY_CLASSES.max(mentions.len());
    if are_classes {
        return Ok(Reading::Classes(quoted(mentions)));
    }
    Err(DataError::malformed(
        root,
        format!(
            "has images in {}: if these are splits, name their folders train and test; if they are \
             classes, put all classes into a folder named train",
            quoted(&found.iter().collect::<Vec<_>>())
        ),
    ))
}

/// The folder of each part; refuses two of one.
fn by_part(root: &Path, named: &[&Candidate]) -> Result<BTreeMap<Part, OsString>, DataError> {
    let mut parts: BTreeMap<Part, Vec<&Candidate>> = BTreeMap::new();
    for candidate in named {
        if let Naming::Names(part) | Naming::Mentions(part) = candidate.naming {
            parts.entry(part).or_default().push(candidate);
        }
    }
    if let Some((part, folders)) = parts.iter().find(|(_, folders)| folders.len() > 1) {
        return Err(DataError::malformed(
            root,
            format!(
                "has several folders for its {part} part ({}): keep one of them here, with all images \
                 of that part",
                quoted(folders)
            ),
        ));
    }
    let single = |(part, folders): (Part, Vec<&Candidate>)| {
        folders.first().map(|folder| (part, folder.name.clone()))
    };
    Ok(parts.into_iter().filter_map(single).collect())
}

fn refuse_several(root: &Path, several: &[&Candidate]) -> DataError {
    DataError::malformed(
        root,
        format!(
            "{} has the words of several parts in its name: name it train if it is what to train on, \
             or give it itself",
            quoted(several)
        ),
    )
}

/// Names for a message, the first few of them.
fn quoted(candidates: &[&Candidate]) -> String {
    list_names(candidates.iter().map(|candidate| candidate.name.as_os_str()))
}

fn list_names<'a>(names: impl Iterator<Item = &'a OsStr>) -> String {
    let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    let shown = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The folder of a part, or the one that it is wrapped in. That of a test part that is called like a
/// class of `train` is that class.
fn unwrapped(
    mut folder: PathBuf,
    train: Option<&Path>,
    skipped: &mut Skipped,
) -> Result<PathBuf, DataError> {
    for _ in 0..DEEPEST {
        if scan::holds_images_directly(&folder)? {
            break;
        }
        let entries = scan::entries(&folder)?;
        let found = candidates(&folder, &entries)?;
        let [only] = found.as_slice() else { break };
        let outer = folder.file_name().unwrap_or_default();
        let is_same = only.name == outer
            || matches!((only.naming, splits::naming(&outer.to_string_lossy())),
                (Naming::Names(inner), Naming::Names(outer)) if inner == outer);
        let inner = folder.join(&only.name);
        let is_class = train.is_some_and(|train| train.join(&only.name).is_dir());
        if !is_same && (is_class || !wraps_classes(&inner)?) {
            break;
        }
        skip_beside(&folder, &entries, &found, &[only.name.as_os_str()], skipped);
        folder = inner;
    }
    Ok(folder)
}

/// Whether a folder holds at least two folders of images and no images of its own.
fn wraps_classes(folder: &Path) -> Result<bool, DataError> {
    if scan::holds_images_directly(folder)? {
        return Ok(false);
    }
    Ok(candidates(folder, &scan::entries(folder)?)?.len() > 1)
}

/// Refuses a listing whose folders are folds, hold the splits of each class, or hold the same classes.
/// Notes the last where it may be meant.
pub(crate) fn refuse_hidden_splits(
    root: &Path,
    listing: &Listing,
    skipped: &mut Skipped,
) -> Result<(), DataError> {
    refuse_folds(root, listing)?;
    refuse_splits_inside(root, listing)?;
    refuse_same_classes(root, listing, skipped)
}

fn refuse_folds(root: &Path, listing: &Listing) -> Result<(), DataError> {
    let folds: Vec<OsString> = listing
        .top_folders()
        .into_iter()
        .filter(|(name, images)| *images > 0 && splits::means_fold(&name.to_string_lossy()))
        .map(|(name, _)| name)
        .collect();
    if folds.len() > 1 {
        let names = list_names(folds.iter().map(OsString::as_os_str));
        return Err(DataError::malformed(
            root,
            format!(
                "holds folds ({names}), not classes: put those to train on into a folder named train, \
                 the other one into test"
            ),
        ));
    }
    Ok(())
}

/// A folder, and the rest of the names of parts in it.
type SetInside<'a> = (&'a Path, Vec<String>);

fn refuse_splits_inside(root: &Path, listing: &Listing) -> Result<(), DataError> {
    // Parts of one set share the rest of their names: `cats/train_cats`, `cats/test_cats`.
    let mut parts: BTreeMap<SetInside<'_>, Vec<(Part, &Path)>> = BTreeMap::new();
    let mut before: Option<&Path> = None;
    for (path, _) in listing.folders().filter(|(_, files)| !files.is_empty()) {
        // Every folder on the way down, once.
        for folder in path.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
            if before.is_some_and(|before| before.starts_with(folder)) {
                break;
            }
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            if let (Naming::Names(part) | Naming::Mentions(part), Some(parent)) =
                (splits::naming(&name), folder.parent())
            {
                parts.entry((parent, splits::rest(&name))).or_default().push((part, folder));
            }
        }
        before = Some(path);
    }
    // One class may hold a folder of that name; several classes do not by chance.
    let mut alone = Vec::new();
    for ((parent, rest), parts) in &parts {
        let has = |wanted: Part| parts.iter().find(|(part, _)| *part == wanted);
        let test = has(Part::Test).or(has(Part::Validation));
        if let (Some((_, train)), Some((_, test))) = (has(Part::Train), test) {
            return Err(splits_inside(root, [train, test]));
        }
        if !parent.as_os_str().is_empty() && rest.is_empty() {
            alone.extend(parts.first().map(|(_, folder)| *folder));
        }
    }
    match alone.as_slice() {
        [first, second, ..] => Err(splits_inside(root, [first, second])),
        _ => Ok(()),
    }
}

/// More folders that hold the same ones are classes whose folders are sorted alike.
const MOST_UNKNOWN_SPLITS: usize = 3;

fn refuse_same_classes(
    root: &Path,
    listing: &Listing,
    skipped: &mut Skipped,
) -> Result<(), DataError> {
    let mut tops: BTreeMap<&OsStr, BTreeSet<&OsStr>> = BTreeMap::new();
    for (path, _) in listing.folders().filter(|(_, files)| !files.is_empty()) {
        let mut parts = path.iter();
        match (parts.next(), parts.next()) {
            (Some(top), Some(inner)) => drop(tops.entry(top).or_default().insert(inner)),
            // Images outside of folders in folders.
            _ => return Ok(()),
        }
    }
    let mut classes = tops.values();
    let Some(first) = classes.next() else { return Ok(()) };
    let is_number = |name: &OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    if tops.len() < 2
        || first.iter().filter(|name| !is_number(name)).count() < 2
        || classes.any(|others| others != first)
    {
        return Ok(());
    }
    let (outer, inner) = (list_names(tops.keys().copied()), list_names(first.iter().copied()));
    if tops.len() > MOST_UNKNOWN_SPLITS && !tops.keys().all(|name| is_number(name)) {
        skipped.note(format!(
            "the classes ({outer}) hold folders of the same names ({inner}), which make no difference"
        ));
        return Ok(());
    }
    Err(DataError::malformed(
        root,
        format!(
            "has folders ({outer}) that hold the same ones ({inner}): if they are splits, name them train \
             and test; if they are kinds of the same images, give one of them; if they are classes, move \
             their images directly into them"
        ),
    ))
}

fn splits_inside(root: &Path, [first, second]: [&Path; 2]) -> DataError {
    let one = root.join(first.parent().unwrap_or(Path::new("")));
    DataError::malformed(
        root,
        format!(
            "has splits inside of its folders ({} and {}): give one set, such as {}, or sort the \
             images into train/CLASS and test/CLASS",
            first.display(),
            second.display(),
            one.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_files::empty_files;
    use crate::{Folder, ImageSet};

    /// The folders of train and test, relative to the root of the set.
    fn splits_of(files: &[&str]) -> Result<[Option<String>; 2], String> {
        let root = empty_files(files);
        let layout = Layout::read(root.path()).map_err(|error| error.to_string())?;
        Ok([Split::Train, Split::Test].map(|split| {
            let relative = |folder: &Path| folder.strip_prefix(root.path()).unwrap().to_owned();
            layout.folder(split).map(|folder| relative(folder).display().to_string())
        }))
    }

    #[test]
    fn splits_are_found_under_any_of_their_names() {
        for (files, train, test) in [
            (&["train/a/1.png", "val/a/1.png"][..], "train", "val"),
            (&["Train/a/1.png", "Test/a/1.png"], "Train", "Test"),
            (&["Training/a/1.png", "Testing/a/1.png"], "Training", "Testing"),
            (&["TRAIN/1.png", "VALID/1.png"], "TRAIN", "VALID"),
            (&["train/1.png", "valid/1.png", "test/1.png"], "train", "valid"),
            (&["training/1.png", "validation/1.png"], "training", "validation"),
            (&["train/1.png", "dev/1.png"], "train", "dev"),
            (&["train_images/1.png", "test_images/1.png"], "train_images", "test_images"),
            (&["train2017/1.png", "val2017/1.png", "test2017/1.png"], "train2017", "val2017"),
            (&["cats_train/1.png", "cats_test/1.png"], "cats_train", "cats_test"),
            (&["trainA/1.png", "testA/1.png"], "trainA", "testA"),
            (
                &["bounding_box_train/1.png", "bounding_box_test/1.png", "query/1.png"],
                "bounding_box_train",
                "bounding_box_test",
            ),
            // The part within the part, as archives unpack.
            (
                &[
                    "seg_train/seg_train/a/1.png",
                    "seg_test/seg_test/a/1.png",
                    "seg_pred/seg_pred/1.png",
                ],
                "seg_train/seg_train",
                "seg_test/seg_test",
            ),
            (
                &["training_set/training_set/a/1.png", "test_set/test_set/a/1.png"],
                "training_set/training_set",
                "test_set/test_set",
            ),
            (&["train/all/a/1.png", "train/all/b/1.png", "val/a/1.png"], "train/all", "val"),
            // One folder around them, with what macOS adds.
            (&["set/train/1.png", "set/val/1.png", "__MACOSX/set/._1.png"], "set/train", "set/val"),
            (&["a/b/Train/1.png", "a/b/Test/1.png", "a/readme.md"], "a/b/Train", "a/b/Test"),
            (
                &["images/train/1.png", "images/val/1.png", "labels/train/1.txt"],
                "images/train",
                "images/val",
            ),
            (
                &["train_test_split/train/1.png", "train_test_split/test/1.png"],
                "train_test_split/train",
                "train_test_split/test",
            ),
            // Other images, and a second word that is not needed.
            (&["train/1.png", "test/1.png", "unlabeled/1.png", "x.png"], "train", "test"),
            (&["train/1.png", "test/1.png", "train_masks/1.png"], "train", "test"),
            (&["train/1.png", "val/1.png", "Test/readme.md"], "train", "val"),
        ] {
            let expected = [train, test].map(|name| Some(name.to_owned()));
            assert_eq!(splits_of(files), Ok(expected), "{files:?}");
        }
    }

    #[test]
    fn a_part_without_images_is_told() {
        let root = empty_files(&["train/a/1.png", "train/b/2.png", "val/a/3.heic", "notes/x.txt"]);
        let skipped = Layout::read(root.path()).unwrap().skipped(Split::Train).unwrap();
        let reasons = skipped.reasons().iter().map(|one| format!("{} {}", one.count, one.reason));
        assert_eq!(
            reasons.collect::<Vec<_>>(),
            [
                "1 folder(s) named like a split, without images that are read",
                "1 other folder(s) beside the images",
            ]
        );
    }

    #[test]
    fn an_archive_of_a_missing_split_is_to_be_unpacked() {
        for (file, split, expected) in [
            ("train.tar", Split::Train, "unpack train.tar into a folder train there"),
            ("Train_images.TAR.GZ", Split::Train, "unpack Train_images.TAR.GZ into a folder train"),
            ("train.txt", Split::Train, "put it into a folder train there"),
            ("test.zip", Split::Train, "put it into a folder train there"),
        ] {
            let root = empty_files(&["val/a/1.png", "val/b/1.png", file]);
            let message = Layout::read(root.path()).unwrap().missing(split).to_string();
            assert!(message.contains(expected), "{message}");
        }
        let root = empty_files(&["train/a/1.png", "train/b/1.png", "test.zip"]);
        let message = Layout::read(root.path()).unwrap().missing(Split::Test).to_string();
        assert!(message.ends_with("unpack test.zip into a folder val or test there"), "{message}");
    }

    #[test]
    fn a_single_part_is_the_only_split() {
        let only = |files: &[&str]| splits_of(files).unwrap();
        assert_eq!(only(&["train/a/1.png"]), [Some("train".into()), None]);
        assert_eq!(only(&["Testing/a/1.png", "notes.txt"]), [None, Some("Testing".into())]);
        assert_eq!(only(&["val/1.png", "test/1.png"]), [None, Some("val".into())]);
        assert_eq!(only(&["imagenet_train/a/1.png", "imagenet_train/b/1.png"])[1], None);
    }

    #[test]
    fn classes_and_images_without_splits_are_one_split() {
        for (files, root) in [
            (&["a/1.png", "b/1.png"][..], ""),
            (&["1.png", "2.png"], ""),
            (&["set/a/1.png", "set/b/1.png"], "set"),
            (&["cats/1.png"], "cats"),
            (&["cats/1.png", "dogs/1.heic"], ""),
            (&["set/images/1.png", "set/labels/1.txt", "set/readme.md"], "set/images"),
            // A word among others is no split where nothing else looks like one.
            (&["bullet train/1.png", "bus/1.png"], ""),
            (&["bullet_train/1.png", "bus/1.png", "car/1.png"], ""),
            (&["test tube/1.png", "a/1.png", "b/1.png", "c/1.png", "d/1.png"], ""),
            (&["train_cats/1.png", "train_dogs/1.png"], ""),
            (&["train/1.png", "bus/1.png", "car/1.png", "ship/1.png", "plane/1.png"], ""),
            (&["contest/1.png", "strain/1.png"], ""),
            (&["train_interior/1.png", "bus_interior/1.png", "a/1.png", "b/1.png", "c/1.png"], ""),
            (&["set/a/1.png", "set/b/1.png", "assets/logo.png"], "set"),
        ] {
            assert_eq!(splits_of(files), Ok([Some(root.to_owned()), None]), "{files:?}");
        }
    }

    #[test]
    fn what_looks_like_splits_and_is_not_understood_is_refused() {
        for (files, named) in [
            (
                &["train/1.png", "training/1.png", "test/1.png"][..],
                "its train part (train, training)",
            ),
            (&["Train/1.png", "train/1.png", "test/1.png"], "its train part (Train, train)"),
            (&["train/1.png", "val/1.png", "valid/1.png"], "its val part (val, valid)"),
            (&["train2014/1.png", "train2017/1.png", "val2017/1.png"], "(train2014, train2017)"),
            (
                &["train1/1.png", "train2/1.png", "train3/1.png", "train4/1.png", "train5/1.png"],
                "(train1, train2, train3, train4 and 1 more)",
            ),
            (&["trainval/1.png", "test/1.png"], "trainval has the words of several parts"),
            (&["trainval/1.png"], "trainval does not say whether to train on it"),
            (&["train/1.png", "bus/1.png"], "has images in train and in bus, and no val or test"),
            (
                &["train/a/1.png", "b/1.png", "c/1.png", "d/1.png", "e/1.png"],
                "has images in train and",
            ),
            (&["train/1.png", "unlabeled/1.png"], "has images in train and in unlabeled"),
            (
                &["train/1.png", "test_easy/1.png", "test_hard/1.png"],
                "train and in test_easy, test_hard",
            ),
            (
                &["cats/1.png", "dogs/1.png", "test/1.png"],
                "in test and in cats, dogs, and no train",
            ),
            (
                &["test/1.png", "cats_train/1.png"],
                "has images in test and in cats_train, and no train",
            ),
            (
                &["cats_train/1.png", "dogs_test/1.png"],
                "has images in cats_train, dogs_test: if these",
            ),
            (&["cats_train/1.png", "cats_rest/1.png"], "has images in cats_rest, cats_train"),
            (&["cats_test/1.png", "dogs/1.png"], "has images in cats_test, dogs"),
            (
                &["test tube/1.png", "a/1.png", "b/1.png", "c/1.png"],
                "has images in a, b, c, test tube",
            ),
            (&["cats_test/1.png"], "cats_test does not say whether to train on it"),
            (
                &["trainA/1.png", "testA/1.png", "trainB/1.png", "testB/1.png"],
                "several sets with splits",
            ),
            (
                &["a_train/1.png", "a_test/1.png", "a_Train/1.png"],
                "its train part (a_Train, a_train)",
            ),
        ] {
            let message = splits_of(files).expect_err(&files.join(" "));
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn images_that_tell_splits_by_their_names_are_refused() {
        let open = |files: &[&str]| {
            let set = Folder::open(empty_files(files).path(), Split::Train);
            set.map(|set| set.len()).map_err(|error| error.to_string())
        };
        for (files, named) in [
            (&["train_0.png", "train_1.png", "val_0.png"][..], "(train_0.png, val_0.png)"),
            (
                &["set/a/COCO_train2014_0.jpg", "set/b/COCO_val2014_1.jpg"],
                "(a/COCO_train2014_0.jpg, b/",
            ),
            (
                &["images/test-1.png", "images/Training-1.png", "images/x.png"],
                "(Training-1.png, test-1",
            ),
        ] {
            let message = open(files).unwrap_err();
            let expected = format!("its images tell splits by their names {named}");
            assert!(message.contains(&expected), "{message}");
        }
        for files in [
            &["train_0.png", "train_1.png"][..],
            &["test_0.png", "test_1.png"],
            &["train/train_0.png", "train/val_0.png", "test/test_1.png"],
            &["a/train_0.png", "a/1.png", "a/2.png", "b/test_3.png", "b/4.png", "b/5.png"],
        ] {
            assert!(open(files).is_ok(), "{files:?}");
        }
    }

    #[test]
    fn folds_and_splits_inside_of_classes_are_refused() {
        for (files, named) in [
            (
                &["fold1/a/1.png", "fold2/a/1.png", "fold3/a/1.png"][..],
                "holds folds (fold1, fold2, fold3)",
            ),
            (
                &["bottle/train/good/1.png", "bottle/test/bad/1.png", "cable/train/good/1.png"],
                "(bottle/train and bottle/test): give one set, such as ",
            ),
            (&["a/1.png", "a/test/2.png", "b/1.png", "b/test/2.png"], "(a/test and b/test)"),
            (
                &["a/a_train/1.png", "a/a_val/1.png", "b/b_train/1.png", "b/b_val/1.png"],
                "(a/a_train and a/a_val)",
            ),
            (
                &["site1/train/a/1.png", "site1/train/b/1.png", "site2/train/a/1.png"],
                "(site1/train and site2/train)",
            ),
            (
                &["x/train/1.png", "x/val/1.png", "y/train/1.png", "y/val/1.png"],
                "x/train and x/val",
            ),
            (&["train/train/1.png", "train/test/1.png", "test/1.png"], "(train and test)"),
        ] {
            let root = empty_files(files);
            let message = Folder::open(root.path(), Split::Train).err().unwrap().to_string();
            assert!(message.contains(named), "{message}");
        }
        for (files, named) in [
            (
                ["seen/cat/1.png", "seen/dog/1.png", "unseen/cat/1.png", "unseen/dog/1.png"],
                "has folders (seen, unseen) that hold the same ones (cat, dog)",
            ),
            (
                ["set/color/a/1.png", "set/color/b/1.png", "set/gray/a/1.png", "set/gray/b/1.png"],
                "(color, gray) that hold the same ones (a, b)",
            ),
        ] {
            let root = empty_files(&files);
            let message = Folder::open(root.path(), Split::Train).err().unwrap().to_string();
            assert!(message.contains(named), "{message}");
        }
        let numbered =
            (1..6).flat_map(|fold| ["a", "b"].map(|class| format!("{fold}/{class}/1.png")));
        let root = empty_files(&numbered.collect::<Vec<_>>());
        let message = Folder::open(root.path(), Split::Train).err().unwrap().to_string();
        assert!(message.contains("has folders (1, 2, 3, 4 and 1 more) that hold"), "{message}");
        let domains = ["art", "photo", "sketch", "cartoon"]
            .map(|domain| ["dog", "elephant"].map(|class| format!("{domain}/{class}/1.png")));
        let set = Folder::open(empty_files(&domains.concat()).path(), Split::Train).unwrap();
        assert!(
            set.skipped().notes()[0].contains("hold folders of the same names (dog, elephant)")
        );
        // Classes whose images are sorted further, alike or not.
        for files in [
            ["a/1/1.png", "a/2/1.png", "b/1/1.png", "b/2/1.png"],
            ["a/left/1.png", "a/right/1.png", "b/left/1.png", "b/1.png"],
            ["a/x/1.png", "a/y/1.png", "b/x/1.png", "b/z/1.png"],
            ["a/images/1.png", "b/images/1.png", "c/images/1.png", "d/images/1.png"],
        ] {
            let root = empty_files(&files);
            assert!(Folder::open(root.path(), Split::Train).unwrap().classes().len() > 1);
        }
        // One class may have a folder of that name.
        let root =
            empty_files(&["transport/train/1.png", "transport/bus/2.png", "animals/cat/3.png"]);
        assert_eq!(Folder::open(root.path(), Split::Train).unwrap().len(), 3);
    }

    #[test]
    fn what_is_beside_the_splits_is_counted() {
        let root = empty_files(&[
            "set/train/1.png",
            "set/val/2.png",
            "set/test/3.png",
            "set/test/4.png",
            "set/extra/5.png",
            "set/notes/6.txt",
            "set/7.png",
            "readme.md",
            ".git/config",
        ]);
        let told = |split| {
            let skipped = Layout::read(root.path()).unwrap().skipped(split).unwrap();
            let at = format!("{}/", root.path().display());
            let lines = skipped.reasons().iter().map(ToString::to_string);
            lines.chain(skipped.notes().iter().cloned()).map(|line| line.replace(&at, "")).collect()
        };
        let train: Vec<String> = told(Split::Train);
        assert_eq!(
            train,
            [
                "skipped 1 hidden folder(s): .git",
                "skipped 1 other file(s): readme.md",
                "skipped 1 image(s) beside the folders of images: set/7.png",
                "skipped 1 folder(s) of images beside the splits: set/extra",
                "skipped 1 other folder(s) beside the images: set/notes",
                "the images were found in set",
            ]
        );
        let test: Vec<String> = told(Split::Test);
        let expected = "skipped 2 image(s) of the test part, since the validation part is the test split; \
                        the first: set/test/3.png";
        assert_eq!(test, [expected]);
    }

    #[test]
    fn links_around_a_set_do_not_hold_up_the_search() {
        let root = empty_files(&["a/b/c/d/e/f/g/h/i/1.png"]);
        let message = Layout::read(root.path()).err().unwrap().to_string();
        assert!(message.contains("too many folders deep"), "{message}");
        std::os::unix::fs::symlink(root.path(), root.path().join("a/up")).unwrap();
        assert!(Layout::read(&root.path().join("a/b")).is_ok());
    }

    const WORDS: [&str; 11] = [
        "train",
        "Test",
        "val",
        "cats",
        "dogs",
        "images",
        "set",
        "cats_train",
        "cats_test",
        "fold1",
        "fold2",
    ];

    proptest! {
        /// Whatever a tree looks like: no held-out image is trained on, and none is in two splits.
        #[test]
        fn held_out_images_are_never_trained_on(
            paths in prop::collection::vec(prop::collection::vec(0..WORDS.len(), 0..4), 1..9),
        ) {
            let file = |(number, path): (usize, &Vec<usize>)| {
                let folders = path.iter().map(|&word| WORDS[word].to_owned());
                let parts: Vec<String> = folders.chain([format!("{number}.png")]).collect();
                parts.join("/")
            };
            let files: Vec<String> = paths.iter().enumerate().map(file).collect();
            let root = empty_files(&files);
            let names = |split| match Folder::open(root.path(), split) {
                Ok(set) => (0..set.len()).map(|index| set.name(index)).collect(),
                Err(_) => Vec::new(),
            };
            let (train, test): (Vec<String>, Vec<String>) = (names(Split::Train), names(Split::Test));
            prop_assert!(!train.iter().any(|name| test.contains(name)), "{:?}", files);
            let whole = root.path().display().to_string() + "/";
            let is_wrapped = files.iter().all(|file| file.starts_with("set/"));
            let inner = if is_wrapped { whole.clone() + "set/" } else { whole };
            for name in &train {
                let first = name[inner.len()..].split('/').next().unwrap_or_default();
                prop_assert!(!["Test", "val"].contains(&first), "{} of {:?}", name, files);
            }
        }
    }
}
