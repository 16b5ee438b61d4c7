//! Sets of which some images may be damaged.
//!
//! Among a million files a few are cut or empty, and a run of days must not end at the first of
//! them; nor may it go on quietly when a disk fails and every second image is missing. So damaged
//! images are counted and listed. A command ends when they are more than a share of all images of the
//! set (`bad_image_limit`) and more than [`ALWAYS_ALLOWED`]; training, packing, features and evaluations
//! all go by this rule. A share of 0 allows none.
//!
//! The count is kept in the order of the loader's plan, so a run ends at the same batch whatever the
//! number of its threads. It begins anew with every process; the list does not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::{ClassLabels, DataError, Image, ImageSet, Skipped, Split};

/// A few images may be damaged in a set of any size, unless the share is 0.
pub const ALWAYS_ALLOWED: usize = 5;

/// The share of images that may be damaged by default.
pub const DEFAULT_LIMIT: f64 = 0.01;

/// So many images a message names where no file lists them.
const NAMED: usize = 5;

/// A line of the list.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    split: Split,
    /// Its place in its set.
    index: usize,
    /// Its path or record.
    image: Box<str>,
    reason: String,
}

/// The file that lists damaged images, each once: a JSON object per line with `split`, `index`,
/// `image` (its path or record) and `reason`.
///
/// The file appears with the first image. What an earlier process listed stays and is not listed
/// again; a line that was cut off is ignored. Images of other sets may be in it, so they are told
/// apart by their names.
#[derive(Debug)]
pub struct BadImages {
    path: Option<PathBuf>,
    listed: Mutex<Listed>,
}

#[derive(Debug, Default)]
struct Listed {
    /// All of the file, and whether this process met them too.
    images: HashMap<(Split, Box<str>), bool>,
    /// Of the first that this process met.
    reasons: Vec<String>,
    told: usize,
}

impl Listed {
    fn met(&self) -> usize {
        self.images.values().filter(|&&met| met).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BadImages {
    /// The list at `path`, with what is there already.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(DataError::read(path)(error)),
        };
        let lines = bytes.split(|&byte| byte == b'\n');
        let lines = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        let images: HashMap<_, _> = lines.map(|line| ((line.split, line.image), false)).collect();
        let listed = Listed { told: images.len(), images, reasons: Vec::new() };
        Ok(Self { path: Some(path.to_owned()), listed: Mutex::new(listed) })
    }

    /// The list in the folder of a run: `bad_images.jsonl`, and of the processes beside the first
    /// `bad_images-RANK.jsonl`, since a file is not safely written by several machines.
    pub fn of_run(folder: &Path, rank: usize) -> Result<Self, DataError> {
        Self::open(&folder.join(match rank {
            0 => "bad_images.jsonl".to_owned(),
            rank => format!("bad_images-{rank}.jsonl"),
        }))
    }

    /// A list that no file keeps, for what has no folder of its own.
    pub fn unwritten() -> Self {
        Self { path: None, listed: Mutex::default() }
    }

    /// What to tell the user during training: how many images are listed; `None` if there are no more
    /// than at the last call.
    pub fn news(&self) -> Option<String> {
        let mut listed = lock(&self.listed);
        let images = listed.images.len();
        (images > listed.told).then(|| {
            listed.told = images;
            let which = self.which(&listed.reasons);
            format!("{images} image(s) cannot be read and are skipped; {which}")
        })
    }

    /// How many images this process could not read, each counted once.
    pub fn met(&self) -> usize {
        lock(&self.listed).met()
    }

    /// What to tell the user at the end: how many images this process could not read, and what lists
    /// them or, without a file, the reasons of the first; `None` if it could read all.
    pub fn told_at_end(&self) -> Option<String> {
        let listed = lock(&self.listed);
        let met = listed.met();
        let which = match &self.path {
            Some(_) => self.which(&listed.reasons),
            None => listed.reasons.join("; "),
        };
        let more = match met.saturating_sub(listed.reasons.len()) {
            more if more > 0 && self.path.is_none() => format!("; and {more} more"),
            _ => String::new(),
        };
        (met > 0).then(|| format!("{met} image(s) cannot be read and are left out; {which}{more}"))
    }

    fn which(&self, reasons: &[String]) -> String {
        match &self.path {
            Some(path) => format!("{} lists them", path.display()),
            None => format!("the first: {}", reasons.first().map_or("", String::as_str)),
        }
    }

    fn add(&self, line: &Line) -> Result<(), DataError> {
        {
            let mut listed = lock(&self.listed);
            let known = listed.images.insert((line.split, line.image.clone()), true);
            if known != Some(true) && listed.reasons.len() < NAMED {
                listed.reasons.push(line.reason.clone());
            }
            if known.is_some() {
                return Ok(());
            }
        }
        let Some(path) = &self.path else { return Ok(()) };
        let write = || {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            let mut text = serde_json::to_string(line)?;
            text.push('\n');
            if !ends_with_line(path)? {
                text.insert(0, '\n');
            }
            file.write_all(text.as_bytes())
        };
        write().map_err(|source| DataError::Write { path: path.clone(), source })
    }
}

/// Whether the next line may begin: the last one was not cut off.
fn ends_with_line(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path)?;
    let mut last = [b'\n'];
    if let Some(at) = file.metadata()?.len().checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    Ok(last == [b'\n'])
}

/// A set whose damaged images are skipped and listed, as long as they are few.
///
/// An image that was found to be damaged has no label any more, so evaluations do without it.
pub struct Tolerant<S> {
    set: S,
    split: Split,
    limit: f64,
    list: Arc<BadImages>,
    bad: Mutex<HashSet<usize>>,
}

impl<S: ImageSet> Tolerant<S> {
    /// A set that skips damaged images while they are at most the share `limit` of its images, or at
    /// most [`ALWAYS_ALLOWED`]. With a limit of 0 it tolerates none.
    pub fn new(set: S, split: Split, limit: f64, list: Arc<BadImages>) -> Self {
        Self { set, split, limit, list, bad: Mutex::default() }
    }

    /// How many images may be damaged.
    fn allowed(&self) -> usize {
        let share = (self.limit * self.set.len() as f64) as usize;
        if self.limit > 0.0 { share.max(ALWAYS_ALLOWED) } else { 0 }
    }
}

impl<S: ImageSet> ImageSet for Tolerant<S> {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        self.set.image(index)
    }

    fn label(&self, index: usize) -> Option<usize> {
        let is_bad = lock(&self.bad).contains(&index);
        if is_bad { None } else { self.set.label(index) }
    }

    fn labels(&self, index: usize) -> Option<ClassLabels<'_>> {
        let is_bad = lock(&self.bad).contains(&index);
        if is_bad { None } else { self.set.labels(index) }
    }

    fn classes(&self) -> &[String] {
        self.set.classes()
    }

    fn name(&self, index: usize) -> String {
        self.set.name(index)
    }

    fn one_size(&self) -> Option<(usize, usize)> {
        self.set.one_size()
    }

    fn skipped(&self) -> &Skipped {
        self.set.skipped()
    }

    fn tolerate(&self, unreadable: Vec<(usize, DataError)>) -> Result<(), DataError> {
        let mut bad = lock(&self.bad);
        // The loader may meet an image more than once in a batch.
        for (index, error) in BTreeMap::from_iter(unreadable) {
            let (image, reason) = (self.name(index).into_boxed_str(), error.to_string());
            self.list.add(&Line { split: self.split, index, image, reason })?;
            bad.insert(index);
        }
        let (bad, allowed) = (bad.len(), self.allowed());
        if bad <= allowed {
            return Ok(());
        }
        Err(DataError::TooManyBad {
            bad,
            images: self.set.len(),
            split: self.split,
            limit: self.limit,
            allowed,
            which: self.list.which(&lock(&self.list.listed).reasons),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Shapes, ShapesOptions, labelled};

    fn shapes(images: usize) -> Shapes {
        let split = Split::Train;
        Shapes::new(ShapesOptions { seed: 0, split, images, size_pixels: 16 }).unwrap()
    }

    fn damage(indices: impl IntoIterator<Item = usize>) -> Vec<(usize, DataError)> {
        let error = |index| DataError::malformed(Path::new("some.png"), format!("cut {index}"));
        indices.into_iter().map(|index| (index, error(index))).collect()
    }

    fn tolerant(images: usize, limit: f64) -> (tempfile::TempDir, Tolerant<Shapes>) {
        let folder = tempfile::tempdir().unwrap();
        let list = BadImages::open(&folder.path().join("bad.jsonl")).unwrap();
        (folder, Tolerant::new(shapes(images), Split::Train, limit, Arc::new(list)))
    }

    #[test]
    fn every_damaged_image_is_listed_once_even_by_another_process() {
        let (folder, set) = tolerant(50, 0.5);
        let path = folder.path().join("bad.jsonl");
        set.tolerate(Vec::new()).unwrap();
        assert!(!path.exists() && set.list.news().is_none());
        set.tolerate(damage([7, 3, 7])).unwrap();
        set.tolerate(damage([3])).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            format!(
                "{{\"split\":\"train\",\"index\":3,\"image\":{:?},\"reason\":\"some.png: cut 3\"}}\n\
                 {{\"split\":\"train\",\"index\":7,\"image\":{:?},\"reason\":\"some.png: cut 7\"}}\n",
                set.name(3),
                set.name(7),
            )
        );
        let news = set.list.news().unwrap();
        assert!(news.starts_with("2 image(s) cannot be read and are skipped; "), "{news}");
        assert_eq!(set.list.news(), None);

        let other = BadImages::of_run(folder.path(), 2).unwrap();
        Tolerant::new(shapes(9), Split::Train, 1.0, Arc::new(other)).tolerate(damage([0])).unwrap();
        assert!(folder.path().join("bad_images-2.jsonl").exists());

        // The process ends while it writes.
        std::fs::write(&path, text.clone() + "{\"split\":\"tr").unwrap();
        let list = Arc::new(BadImages::open(&path).unwrap());
        assert_eq!(list.news(), None);
        let of = |split| Tolerant::new(shapes(50), split, 0.5, Arc::clone(&list));
        of(Split::Train).tolerate(damage([3, 9])).unwrap();
        of(Split::Test).tolerate(damage([3])).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[3].starts_with("{\"split\":\"train\",\"index\":9,"), "{text}");
        assert!(lines[4].starts_with("{\"split\":\"test\",\"index\":3,"), "{text}");
    }

    #[test]
    fn too_many_damaged_images_are_an_error_that_names_list_and_key() {
        let (_folder, set) = tolerant(1_500, 0.01);
        set.tolerate(damage(0..10)).unwrap();
        // A second epoch meets the same images again.
        set.tolerate(damage(0..15)).unwrap();
        let message = set.tolerate(damage(15..16)).unwrap_err().to_string();
        assert!(
            message.starts_with(
                "at least 16 of the 1500 train images cannot be read, and reading stopped there: \
                 bad_image_limit = 0.01 allows 15; "
            ),
            "{message}"
        );
        assert!(message.contains("bad.jsonl"), "{message}");
    }

    #[test]
    fn a_few_damaged_images_are_allowed_in_a_set_of_any_size_unless_the_share_is_0() {
        for (images, limit, allowed) in [
            (26, 0.01, 5),
            (499, 0.01, 5),
            (600, 0.01, 6),
            (26, 0.5, 13),
            (7, 1.0, 7),
            (3, 0.001, 3),
            (1_500, 0.0, 0),
        ] {
            let (_folder, set) = tolerant(images, limit);
            set.tolerate(damage(0..allowed)).unwrap();
            let more = set.tolerate(damage(allowed..images.min(allowed + 1)));
            assert_eq!(more.is_err(), allowed < images, "{images} images, {limit}");
        }
    }

    #[test]
    fn damaged_images_lose_their_label() {
        let (_folder, set) = tolerant(30, 0.01);
        let set = Arc::new(set) as Arc<dyn ImageSet>;
        assert_eq!(labelled(&set).len(), 30);
        set.tolerate(damage([4, 5])).unwrap();
        let rest = labelled(&set);
        assert_eq!((set.label(4), rest.len(), rest.name(4)), (None, 28, set.name(6)));
        // What the rest cannot read is told by its place in the whole.
        rest.tolerate(damage([4])).unwrap();
        assert_eq!(set.label(6), None);
    }

    #[test]
    fn what_a_process_met_is_counted_and_named() {
        let (folder, set) = tolerant(50, 1.0);
        set.tolerate(damage([3, 5])).unwrap();
        let path = folder.path().join("bad.jsonl");
        // What an earlier process listed was not met by this one, and is not listed again.
        let list = Arc::new(BadImages::open(&path).unwrap());
        assert_eq!((list.met(), list.told_at_end()), (0, None));
        let set = |split| Tolerant::new(shapes(50), split, 1.0, Arc::clone(&list));
        // Two sets of the same images, as two evaluations of a run have them.
        set(Split::Train).tolerate(damage([5])).unwrap();
        set(Split::Train).tolerate(damage([5, 6])).unwrap();
        assert_eq!((list.met(), std::fs::read_to_string(&path).unwrap().lines().count()), (2, 3));
        let told = list.told_at_end().unwrap();
        assert!(told.starts_with("2 image(s) cannot be read and are left out; "), "{told}");
        assert!(told.ends_with("bad.jsonl lists them"), "{told}");

        let list = Arc::new(BadImages::unwritten());
        let set = Tolerant::new(shapes(50), Split::Test, 0.14, Arc::clone(&list));
        set.tolerate(damage(0..7)).unwrap();
        let told = list.told_at_end().unwrap();
        assert!(told.contains("7 image(s)") && told.contains("; some.png: cut 0; "), "{told}");
        assert!(told.ends_with("; some.png: cut 4; and 2 more"), "{told}");
        let message = set.tolerate(damage([8])).unwrap_err().to_string();
        assert!(message.contains("allows 7; the first: some.png: cut 0: repair"), "{message}");
    }

    #[test]
    fn a_size_is_that_of_the_images_behind_every_cover() {
        let set = Arc::new(crate::Subset::of(shapes(5), vec![3, 1])) as Arc<dyn ImageSet>;
        let image = set.image(0).unwrap();
        assert_eq!(set.one_size(), Some((image.width(), image.height())));
        let folder = tempfile::tempdir().unwrap();
        let list = Arc::new(BadImages::open(&folder.path().join("bad.jsonl")).unwrap());
        let size = set.one_size();
        assert_eq!(Tolerant::new(set, Split::Train, 0.5, list).one_size(), size);
    }

    #[test]
    fn a_set_as_it_is_tolerates_none() {
        let set = shapes(5);
        set.tolerate(Vec::new()).unwrap();
        let message = set.tolerate(damage([2, 3])).unwrap_err().to_string();
        assert_eq!(message, "some.png: cut 2");
    }
}
