//! Which files of a folder hold which split, for sets that are files of one kind: tar shards and
//! parquet files.
//!
//! A file belongs to the part that its name speaks of (`valid-000.tar`, `cc3m-train-0.tar`; see
//! [`splits`](crate::splits)), or the folder that it is in, at any depth. Where no name speaks of a
//! part, all files are the train split. Where some do:
//!
//! - files that speak of none, or of several such as `trainval-0.tar`, are skipped and counted if there
//!   are files of the train part, and refused if there are none: they may hold anything;
//! - a file whose name and folder contradict each other about training is refused;
//! - the validation part is the test split. Files of a test part beside it are counted and not read.
//!
//! A file that is there twice is refused, as `shard-0 (1).tar` beside `shard-0.tar` tells: its images would
//! count twice. So are sets of which `-00000-of-00003` tells that files are missing. Gaps in numbers that
//! tell no total are noted.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::beside::Beside;
use crate::entry::{self, file_kind, skipped_folder};
use crate::scan::closed_folder;
use crate::splits::{Naming, Part, naming};
use crate::{DataError, Skipped, Split};

/// Files of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileKind {
    /// Without the dot, in lower case.
    pub(crate) extension: &'static str,
    /// What to call one, `shard`; some are that with an `s`.
    pub(crate) noun: &'static str,
}

impl FileKind {
    /// Whether a file is of the kind, told by its name.
    pub(crate) fn is(&self, path: &Path) -> bool {
        path.extension().is_some_and(|found| found.eq_ignore_ascii_case(self.extension))
    }
}

/// The files of both splits, each sorted by path.
#[derive(Debug, Default)]
pub(crate) struct SplitFiles {
    pub(crate) train: Vec<PathBuf>,
    pub(crate) test: Vec<PathBuf>,
    /// Files of no split.
    unclear: Skipped,
    /// Files of a test part beside a validation part.
    unused: Skipped,
    /// The files that are counted in these.
    left_out: Vec<PathBuf>,
}

impl SplitFiles {
    /// The files of a split.
    pub(crate) fn of(&self, split: Split) -> &[PathBuf] {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        }
    }

    /// What was left out, to be told once: with the train split what belongs to none, with the test
    /// split what else could have been that.
    pub(crate) fn skipped(&self, split: Split) -> &Skipped {
        match split {
            Split::Train => &self.unclear,
            Split::Test => &self.unused,
        }
    }

    /// The same for the set in a folder, with what lies beside its files; that is told once, too.
    pub(crate) fn skipped_in(&self, root: &Path, split: Split, kind: FileKind) -> Skipped {
        let mut skipped = self.skipped(split).clone();
        if root.is_dir() && (split == Split::Train || self.train.is_empty()) {
            let files = self.train.iter().chain(&self.test).chain(&self.left_out);
            let own: HashSet<&Path> = files.map(PathBuf::as_path).collect();
            let beside = Beside {
                is_own: &|path| own.contains(path),
                image_reason: &|_| format!("image(s) beside the {}s", kind.noun),
                kind: Some(kind),
            };
            skipped.merge(&beside.count(root));
        }
        if root.is_dir() {
            gaps(self.of(split), kind).into_iter().for_each(|gap| skipped.note(gap));
        }
        skipped
    }

    /// One file, which is the train split whatever it is called.
    pub(crate) fn alone(path: &Path) -> Self {
        Self { train: vec![path.to_owned()], ..Self::default() }
    }

    /// Sorts files that were named one by one. Those of one part only are the train split: a user who
    /// names them wants them.
    pub(crate) fn named(files: Vec<PathBuf>, kind: FileKind) -> Result<Self, DataError> {
        let files: Vec<(PathBuf, Naming)> =
            files.into_iter().map(|file| (file.clone(), naming_of_file(&file))).collect();
        if files.iter().all(|(_, naming)| part(*naming) == part(files[0].1)) {
            let train = files.into_iter().map(|(file, _)| file).collect();
            return Ok(Self { train, ..Self::default() });
        }
        sort(files, kind)
    }
}

/// Where the hub puts the files of a set that has one configuration.
const INNER_FOLDER: &str = "data";

/// Archives and caches put a set into folders within folders.
const DEEPEST: usize = 8;

/// More images directly in a folder are not only a preview.
pub(crate) const MOST_PREVIEWS: usize = 10;

/// The files of a set in a folder, or in the folder within it that has some: the one closest to it, and
/// `data` rather than its neighbors. Folders of images are not searched.
pub(crate) fn find(folder: &Path, kind: FileKind) -> Result<SplitFiles, DataError> {
    let content = entries(folder)?;
    if let Some(files) = sorted_entries(&content, kind)? {
        return Ok(files);
    }
    let mut level: Vec<PathBuf> = folders(content, true);
    for _ in 0..DEEPEST {
        let mut found: Vec<(PathBuf, SplitFiles)> = Vec::new();
        let mut next = Vec::new();
        for inner in level {
            // What may not be read is counted, and no reason to refuse what lies beside it.
            let content = match entries(&inner) {
                Err(error) if closed_folder(&error).is_some() => continue,
                content => content?,
            };
            if let Some(files) = sorted_entries(&content, kind)? {
                found.push((inner, files));
            } else if content.iter().filter(|entry| entry.is_image()).count() <= MOST_PREVIEWS {
                next.extend(folders(content, false));
            }
        }
        if !found.is_empty() {
            return only(folder, found, kind);
        }
        level = next;
    }
    let FileKind { noun, extension } = kind;
    Err(DataError::empty(folder, format!("looked for {noun}s, files that end in .{extension}")))
}

/// The folders in which a set may be.
fn folders(content: Vec<Entry>, follows_links: bool) -> Vec<PathBuf> {
    let may_hold = |entry: &Entry| {
        let name = entry.path.file_name().unwrap_or_default();
        entry.is_folder && (follows_links || !entry.is_link) && skipped_folder(name).is_none()
    };
    content.into_iter().filter(may_hold).map(|entry| entry.path).collect()
}

/// The files of the only folder of those that have some, or of `data`.
fn only(
    root: &Path,
    mut found: Vec<(PathBuf, SplitFiles)>,
    kind: FileKind,
) -> Result<SplitFiles, DataError> {
    let parent = found.first().and_then(|(folder, _)| folder.parent()).map(Path::to_owned);
    if found.iter().all(|(folder, _)| folder.parent() == parent.as_deref())
        && let Some(inner) = found.iter().position(|(folder, _)| folder.ends_with(INNER_FOLDER))
    {
        return Ok(found.swap_remove(inner).1);
    }
    if let [(first, _), (second, _), ..] = found.as_slice() {
        return Err(DataError::malformed(
            root,
            format!(
                "holds {}s in {} and in {}; give one of these folders",
                kind.noun,
                first.display(),
                second.display()
            ),
        ));
    }
    Ok(found.pop().map(|(_, files)| files).unwrap_or_default())
}

/// The files of a kind among what is in a folder, and in those of its folders that are called like a
/// part; `None` without any.
fn sorted_entries(content: &[Entry], kind: FileKind) -> Result<Option<SplitFiles>, DataError> {
    let (mut files, mut others, mut hidden) = (Vec::new(), Vec::new(), Vec::new());
    for entry in content {
        let (name, path) = (entry.name(), entry.path.clone());
        if entry.is_folder {
            match naming(&name) {
                _ if skipped_folder(OsStr::new(&name)).is_some() => {}
                Naming::Nothing => others.push(path),
                of_folder => {
                    for file in below(&path, kind)? {
                        let naming = joined(&file, of_folder)?;
                        files.push((file, naming));
                    }
                }
            }
        } else if kind.is(&path) {
            if name.starts_with('.') {
                hidden.push(path);
            } else {
                let naming = naming_of_file(&path);
                files.push((path, naming));
            }
        }
    }
    if files.is_empty() {
        return Ok(None);
    }
    let mut sorted = sort(files, kind)?;
    let other_files = others.iter().filter_map(|folder| entries(folder).ok()).flatten();
    let other_files = other_files.filter(|entry| !entry.is_folder && kind.is(&entry.path));
    let reason = format!("{}(s) in folders whose names tell no split", kind.noun);
    for Entry { path, .. } in other_files {
        sorted.unclear.add(reason.clone(), path.display().to_string());
        sorted.left_out.push(path);
    }
    for path in hidden {
        sorted.unclear.add(format!("hidden {}(s)", kind.noun), path.display().to_string());
        sorted.left_out.push(path);
    }
    Ok(Some(sorted))
}

/// Refuses files that are there twice, as browsers name copies, and files that belong to a set of which
/// some are missing, are there twice, or are mixed with another version of it: names that end in
/// `-00000-of-00003` tell.
pub(crate) fn refuse_incomplete(files: &[PathBuf]) -> Result<(), DataError> {
    let known: HashSet<&Path> = files.iter().map(PathBuf::as_path).collect();
    for file in files {
        if let Some(original) = original(file).filter(|original| known.contains(&**original)) {
            return Err(there_twice(file, &original));
        }
    }
    let mut sets: BTreeMap<String, Vec<(Numbered, &Path)>> = BTreeMap::new();
    for file in files {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        if let Some((set, numbered)) = numbered(&stem) {
            sets.entry(set).or_default().push((numbered, file));
        }
    }
    for members in sets.values_mut() {
        members.sort();
        let Some(&(Numbered { total, .. }, first)) = members.first() else { continue };
        if let Some((other, file)) = members.iter().find(|(other, _)| other.total != total) {
            let reason = format!(
                "is one of {} files, and {} beside it is one of {total}: these are two versions of \
                 the set; move one of them away",
                other.total,
                first.display(),
            );
            return Err(DataError::malformed(file, reason));
        }
        let twins = members.windows(2).find(|pair| pair[0].0.place == pair[1].0.place);
        if let Some([(_, one), (_, other)]) = twins {
            // A browser appends to the name of a copy.
            let name = |path: &Path| path.file_name().unwrap_or_default().len();
            let (kept, copy) = if name(one) <= name(other) { (one, other) } else { (other, one) };
            return Err(there_twice(copy, kept));
        }
        if members.len() != total {
            let reason = format!(
                "is one of {total} files, and {} of them are there; download them all",
                members.len()
            );
            return Err(DataError::malformed(first, reason));
        }
    }
    Ok(())
}

fn there_twice(copy: &Path, kept: &Path) -> DataError {
    let reason = format!("is there twice: remove the copy; the other one is {}", kept.display());
    DataError::malformed(copy, reason)
}

/// The file that one is a copy of, told by its name: `shard-0.tar` of `shard-0 (1).tar`, or of
/// `shard-0(1).tar` as Firefox writes it. Whether it is there is another question.
fn original(copy: &Path) -> Option<PathBuf> {
    let stem = copy.file_stem()?.to_str()?;
    let (original, number) = stem.strip_suffix(')')?.rsplit_once('(')?;
    let original = original.trim_end();
    let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    let extension = copy.extension()?.to_str()?;
    (is_number && !original.is_empty())
        .then(|| copy.with_file_name(format!("{original}.{extension}")))
}

/// A note for every set of files that are numbered with leading zeros and of which a few are missing
/// between others. Where more are missing than there, somebody chose these.
fn gaps(files: &[PathBuf], kind: FileKind) -> Vec<String> {
    let mut sets: BTreeMap<(PathBuf, usize), BTreeMap<u64, &Path>> = BTreeMap::new();
    for file in files {
        let Some(stem) = file.file_stem().and_then(OsStr::to_str) else { continue };
        let start = stem.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let digits = &stem[start.len()..];
        if let (Ok(number), None) = (digits.parse(), numbered(stem)) {
            let set = (file.with_file_name(start), digits.len());
            sets.entry(set).or_default().insert(number, file);
        }
    }
    let mut notes = Vec::new();
    for ((_, width), numbers) in sets {
        let (Some((&least, first)), Some((&most, last))) =
            (numbers.first_key_value(), numbers.last_key_value())
        else {
            continue;
        };
        let missing = (most - least).saturating_sub(numbers.len() as u64 - 1);
        let is_padded = width > 1 && least.to_string().len() < width;
        if missing == 0 || missing >= numbers.len() as u64 || !is_padded {
            continue;
        }
        let gap = (least..most).find(|number| !numbers.contains_key(number)).unwrap_or(least);
        notes.push(format!(
            "{missing} {}(s) may be missing between {} and {}: there is no number {gap:0width$}",
            kind.noun,
            first.display(),
            last.display()
        ));
    }
    notes
}

/// The place of a file among those that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Numbered {
    total: usize,
    place: usize,
}

/// The name of the set and the place in it: `train`, 0 and 3 of `train-00000-of-00003`, whatever follows.
fn numbered(stem: &str) -> Option<(String, Numbered)> {
    let (start, end) = stem.rsplit_once("-of-")?;
    let digits = end.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(end.len());
    let (set, place) = start.rsplit_once('-').unwrap_or(("", start));
    let numbered = Numbered { total: end[..digits].parse().ok()?, place: place.parse().ok()? };
    Some((set.to_owned(), numbered))
}

/// Opens a file of a set. Caches hold links to files, which may be gone.
pub(crate) fn open(path: &Path) -> Result<File, DataError> {
    File::open(path).map_err(|error| {
        if error.kind() == ErrorKind::NotFound && path.is_symlink() {
            DataError::malformed(path, "is a link that leads nowhere; download it again")
        } else {
            DataError::read(path)(error)
        }
    })
}

/// A file or a folder in a folder.
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    /// Whether it is a folder or a link to one.
    pub(crate) is_folder: bool,
    is_link: bool,
}

impl Entry {
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn is_image(&self) -> bool {
        let name = self.path.file_name().unwrap_or_default();
        !self.is_folder && file_kind(name) == entry::FileKind::Image
    }
}

/// What is in a folder, sorted by path. Only links cost a look at what they lead to.
pub(crate) fn entries(folder: &Path) -> Result<Vec<Entry>, DataError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::read(folder))? {
        let entry = entry.map_err(DataError::read(folder))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(DataError::read(&path))?;
        let is_link = kind.is_symlink();
        let is_folder = kind.is_dir() || is_link && path.is_dir();
        found.push(Entry { path, is_folder, is_link });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The files of a kind at any depth, sorted. Links to folders are not followed, so it ends.
fn below(folder: &Path, kind: FileKind) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in entries(&folder)? {
            match entry.is_folder {
                _ if entry.name().starts_with('.') => {}
                true if skipped_folder(OsStr::new(&entry.name())).is_some() => {}
                true if !entry.is_link => waiting.push(entry.path),
                false if kind.is(&entry.path) => files.push(entry.path),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

fn naming_of_file(path: &Path) -> Naming {
    naming(&path.file_stem().unwrap_or_default().to_string_lossy())
}

/// The part that a name speaks of, whatever else is in it: these files are no classes.
fn part(naming: Naming) -> Option<Part> {
    match naming {
        Naming::Names(part) | Naming::Mentions(part) => Some(part),
        Naming::Several | Naming::Nothing => None,
    }
}

/// What a file is by its folder and its name, which may be clearer than that of the folder.
fn joined(file: &Path, of_folder: Naming) -> Result<Naming, DataError> {
    let of_file = naming_of_file(file);
    let (Some(outer), Some(inner)) = (part(of_folder), part(of_file)) else {
        return Ok(if part(of_file).is_some() { of_file } else { of_folder });
    };
    if (outer == Part::Train) == (inner == Part::Train) {
        return Ok(of_folder);
    }
    let reason =
        format!("its name says {inner}, and its folder {outer}: move it, or rename one of the two");
    Err(DataError::malformed(file, reason))
}

fn sort(files: Vec<(PathBuf, Naming)>, kind: FileKind) -> Result<SplitFiles, DataError> {
    let FileKind { noun, .. } = kind;
    let mut present: Vec<Part> = files.iter().filter_map(|(_, naming)| part(*naming)).collect();
    present.sort_unstable();
    present.dedup();
    let mut sorted = SplitFiles::default();
    let mut unclear = Vec::new();
    for (file, naming) in files {
        let shown = file.display().to_string();
        match part(naming) {
            Some(part) => match part.split(&present) {
                Some(Split::Train) => sorted.train.push(file),
                Some(Split::Test) => sorted.test.push(file),
                None => {
                    let reason = format!(
                        "{noun}(s) of the test part, since the validation part is the test split"
                    );
                    sorted.unused.add(reason, shown);
                    sorted.left_out.push(file);
                }
            },
            None if naming == Naming::Nothing && present.is_empty() => sorted.train.push(file),
            None => unclear.push((file, naming)),
        }
    }
    // Nothing names a part, but some name several: what is theirs may be in the others too.
    if present.is_empty() && !unclear.is_empty() {
        unclear.extend(sorted.train.drain(..).map(|file| (file, Naming::Nothing)));
    }
    let has_train = !sorted.train.is_empty();
    for (file, naming) in unclear {
        let what = match naming {
            Naming::Several => "several splits",
            _ => "no split",
        };
        if !has_train {
            return Err(DataError::malformed(
                &file,
                format!(
                    "its name tells {what}: put train, val or test into the names of all {noun}s, \
                     or give the {noun}s to train on"
                ),
            ));
        }
        let reason = format!("{noun}(s) whose names tell {what}, beside others that tell one");
        sorted.unclear.add(reason, file.display().to_string());
        sorted.left_out.push(file);
    }
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_files::empty_files;

    const SHARDS: FileKind = FileKind { extension: "tar", noun: "shard" };

    /// `train | test | what was left out` or the error, with paths relative to the folder.
    fn sorted(names: &[&str]) -> String {
        let folder = empty_files(names);
        let relative = |text: String| text.replace(&format!("{}/", folder.path().display()), "");
        let files = match sorted_entries(&entries(folder.path()).unwrap(), SHARDS) {
            Ok(Some(files)) => files,
            Ok(None) => return "none".to_owned(),
            Err(error) => return relative(error.to_string()),
        };
        let paths = |split| -> Vec<String> {
            files.of(split).iter().map(|path| path.display().to_string()).collect()
        };
        let skipped = [Split::Train, Split::Test].map(|split| files.skipped(split).clone());
        let skipped: Vec<String> =
            skipped.iter().flat_map(Skipped::reasons).map(ToString::to_string).collect();
        let all = [paths(Split::Train), paths(Split::Test), skipped].map(|all| all.join(" "));
        relative(all.join(" | ")).trim_end_matches(" | ").to_owned()
    }

    #[test]
    fn every_word_of_a_part_is_known_in_names_of_files_and_folders() {
        for (train, test) in [
            ("train-000.tar", "valid-000.tar"),
            ("Training_0.tar", "Testing_0.tar"),
            ("cc3m-train-0.tar", "cc3m-dev-0.tar"),
            ("train0.TAR", "eval0.TAR"),
            ("train/0.tar", "validation/0.tar"),
            ("TRAIN/0.tar", "Evaluation/0.tar"),
            ("my_train/a/b/0.tar", "my_test/a/0.tar"),
            ("train/shard.tar", "val-0.tar"),
            ("train/set-train-0.tar", "val/set-test-0.tar"),
            ("trainval/train-0.tar", "trainval/val-0.tar"),
        ] {
            assert_eq!(sorted(&[train, test]), format!("{train} | {test}"));
        }
        assert_eq!(
            sorted(&["0.tar", "1.tar", "x.txt", "contest-2.tar"]),
            "0.tar 1.tar contest-2.tar"
        );
        assert_eq!(sorted(&["val-0.tar"]), " | val-0.tar");
        assert_eq!(sorted(&["a/0.tar", "x.png"]), "none");
    }

    /// The files of the train split as [`find`] sees them, or the error.
    fn found(names: &[&str]) -> Result<Vec<String>, String> {
        let root = empty_files(names);
        let relative = |text: String| text.replace(&format!("{}/", root.path().display()), "");
        let files = find(root.path(), SHARDS).map_err(|error| relative(error.to_string()))?;
        Ok(files.train.iter().map(|path| relative(path.display().to_string())).collect())
    }

    #[test]
    fn a_set_is_found_at_any_depth_and_the_closest_one_is_meant() {
        for (names, expected) in [
            (&["x/y/0.tar"][..], "x/y/0.tar"),
            (&["preview.png", "x/1.png", "x/y/data/0.tar", "z/README.md"], "x/y/data/0.tar"),
            (
                &["blobs/b", "refs/main", "snapshots/7f/data/train-0.tar"],
                "snapshots/7f/data/train-0.tar",
            ),
            (&["a/0.tar", "b/c/0.tar"], "a/0.tar"),
            (&["x/data/0.tar", "x/extra/0.tar"], "x/data/0.tar"),
        ] {
            assert_eq!(found(names), Ok(vec![expected.to_owned()]));
        }
        let message = found(&["x/a/0.tar", "y/b/0.tar"]).unwrap_err();
        assert!(message.contains("holds shards in x/a and in y/b; give one"), "{message}");
        // Versions in a cache are not mixed, though each is in a folder called data.
        assert!(found(&["x/data/0.tar", "y/data/0.tar"]).unwrap_err().contains("give one"));
        let mut names: Vec<String> = (0..11).map(|number| format!("cats/{number}.png")).collect();
        names.push("cats/inner/0.tar".into());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(found(&names).unwrap_err().contains("looked for shards"));
        for system in [".git", "@eaDir", "#snapshot"] {
            let names = [format!("{system}/0.tar"), format!("x/{system}/0.tar")];
            assert!(found(&[&names[0], &names[1]]).is_err(), "{system}");
        }
    }

    #[test]
    fn files_of_which_some_are_missing_or_twice_are_refused() {
        let check = |names: &[&str]| {
            let paths: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            refuse_incomplete(&paths).map_err(|error| error.to_string())
        };
        for names in [
            &["train-00000-of-00002.tar", "train-00001-of-00002.tar", "x.tar"][..],
            &["a-0-of-1.tar", "b-0-of-1.tar"],
            &["00000-of-00001.tar"],
            &["train-00000-of-00001-b43aecc5b8d0.tar"],
            &["one-of-many.tar", "out-of-3.tar"],
            &["a (1).tar", "a (2).tar"],
            &["a (b).tar", "a.tar", "(1).tar", "b/a (1).tar", "a ().tar"],
        ] {
            assert_eq!(check(names), Ok(()), "{names:?}");
        }
        for (names, expected) in [
            (
                &["t-00000-of-00004.tar", "t-00001-of-00004.tar", "t-00003-of-00004.tar"][..],
                "t-00000-of-00004.tar: is one of 4 files, and 3 of them are there; download them all",
            ),
            (
                &["t-0-of-2.tar", "t-0-of-2 (1).tar", "t-1-of-2.tar"],
                "t-0-of-2 (1).tar: is there twice: remove the copy; the other one is t-0-of-2.tar",
            ),
            (
                &["shard-000000 (1).tar", "shard-000000.tar"],
                "shard-000000 (1).tar: is there twice: remove the copy; the other one is \
                 shard-000000.tar",
            ),
            (
                &["x/train.tar", "x/train(12).tar"],
                "x/train(12).tar: is there twice: remove the copy; the other one is x/train.tar",
            ),
            (
                &["t-0-of-2.tar", "t-1-of-2.tar", "t-0-of-3.tar"],
                "t-0-of-3.tar: is one of 3 files, and t-0-of-2.tar beside it is one of 2: these are two \
                 versions of the set; move one of them away",
            ),
        ] {
            assert_eq!(check(names), Err(expected.to_owned()));
        }
    }

    #[test]
    fn a_few_numbers_that_are_missing_between_others_are_noted() {
        let noted = |names: &[&str]| {
            let paths: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            gaps(&paths, SHARDS).join(" | ")
        };
        assert_eq!(
            noted(&["s-000000.tar", "s-000002.tar"]),
            "1 shard(s) may be missing between s-000000.tar and s-000002.tar: there is no number 000001"
        );
        assert_eq!(
            noted(&["a/09.tar", "a/10.tar", "a/13.tar", "b/02.tar"]),
            "2 shard(s) may be missing between a/09.tar and a/13.tar: there is no number 11"
        );
        for names in [
            &["s-000000.tar", "s-000001.tar"][..],
            &["s-000000.tar", "s-000100.tar"],
            &["train-000.tar", "val-002.tar"],
            &["set2012.tar", "set2014.tar"],
            &["0.tar", "2.tar"],
            &["t-00000-of-00003.tar", "t-00002-of-00003.tar"],
            &["00000000000000000000000000.tar", "x.tar"],
        ] {
            assert_eq!(noted(names), "", "{names:?}");
        }
        let root = empty_files(&["train-000.tar", "train-002.tar", "val-000.tar"]);
        let files = find(root.path(), SHARDS).unwrap();
        let notes = |split| files.skipped_in(root.path(), split, SHARDS).notes().len();
        assert_eq!((notes(Split::Train), notes(Split::Test)), (1, 0));
    }

    #[test]
    fn a_link_that_leads_nowhere_is_told_as_one() {
        let folder = empty_files::<&str>(&[]);
        let link = folder.path().join("0.tar");
        std::os::unix::fs::symlink("gone", &link).unwrap();
        let message = open(&link).unwrap_err().to_string();
        assert!(message.ends_with("0.tar: is a link that leads nowhere; download it again"));
        assert!(
            open(&folder.path().join("1.tar")).unwrap_err().to_string().starts_with("cannot read")
        );
    }

    #[test]
    fn what_is_unclear_is_counted_or_refused() {
        let beside = "skipped 1 shard(s) whose names tell";
        for (names, expected) in [
            (
                &["train-0.tar", "extra-0.tar"][..],
                format!("train-0.tar |  | {beside} no split, beside others that tell one: extra-0.tar"),
            ),
            (
                &["train-0.tar", "trainval-0.tar", "val-0.tar"],
                format!(
                    "train-0.tar | val-0.tar | {beside} several splits, beside others that tell one: \
                     trainval-0.tar"
                ),
            ),
            (
                &["train/0.tar", "val/0.tar", "extra/0.tar", "other.tar"],
                format!(
                    "train/0.tar | val/0.tar | {beside} no split, beside others that tell one: \
                     other.tar skipped 1 shard(s) in folders whose names tell no split: extra/0.tar"
                ),
            ),
            (
                &["train.tar", "test.tar", "dev.tar", "._train.tar"],
                "train.tar | dev.tar | skipped 1 hidden shard(s): ._train.tar skipped 1 shard(s) of \
                 the test part, since the validation part is the test split: test.tar"
                    .to_owned(),
            ),
        ] {
            assert_eq!(sorted(names), expected);
        }
        for (names, expected) in [
            (&["images-0.tar", "val-0.tar"][..], "images-0.tar: its name tells no split"),
            (&["trainval-0.tar", "test-0.tar"], "trainval-0.tar: its name tells several splits"),
            (&["trainval-0.tar"], "trainval-0.tar: its name tells several splits"),
            (&["trainval/0.tar", "1.tar"], "trainval/0.tar: its name tells several splits"),
            (&["train/val-0.tar"], "train/val-0.tar: its name says val, and its folder train"),
            (&["test/train.tar", "train/0.tar"], "its name says train, and its folder test"),
        ] {
            let message = sorted(names);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn files_that_are_named_are_the_train_split_unless_they_name_several_parts() {
        let named = |names: &[&str]| {
            SplitFiles::named(names.iter().map(PathBuf::from).collect(), SHARDS)
                .map(|files| [files.train.len(), files.test.len()])
                .map_err(|error| error.to_string())
        };
        assert_eq!(named(&["val-0.tar", "val-1.tar"]), Ok([2, 0]));
        assert_eq!(named(&["0.tar", "1.tar"]), Ok([2, 0]));
        assert_eq!(named(&["train-0.tar", "train-1.tar", "val-0.tar"]), Ok([2, 1]));
        assert!(named(&["val-0.tar", "0.tar"]).unwrap_err().contains("its name tells no split"));
        assert_eq!(SplitFiles::alone(Path::new("val.tar")).train.len(), 1);
    }

    proptest! {
        #[test]
        fn no_file_of_another_part_is_ever_trained_on(
            names in prop::collection::btree_set(
                "((set-)?(train|val|valid|dev|test|extra|trainval)(-0|/[a-z]|)|[a-z]{1,4})\\.tar", 1..6,
            ),
        ) {
            let files: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            let count = files.len();
            let files = files.into_iter().map(|file| (file.clone(), naming_of_file(&file))).collect();
            if let Ok(sorted) = sort(files, SHARDS) {
                let left_out = [&sorted.unclear, &sorted.unused].into_iter().flat_map(Skipped::reasons);
                let left_out: usize = left_out.map(|reason| reason.count).sum();
                prop_assert_eq!(sorted.train.len() + sorted.test.len() + left_out, count);
                for file in &sorted.train {
                    let naming = naming_of_file(file);
                    prop_assert!(matches!(part(naming), None | Some(Part::Train)), "{:?}", file);
                    prop_assert!(naming != Naming::Several);
                }
            }
        }
    }
}
