//! Which image files lie under a folder: listed in parallel, remembered on disk.
//!
//! Asking a file system for the names of a million files takes seconds on a local disk and minutes on
//! a network one, and every run, evaluation and inspection of a set would ask again. So folders are
//! read by several threads, and the names of a large tree are kept in an index in the user's cache
//! folder. The next scan only asks each folder whether it changed since (its times of change, device
//! and inode) and reads those that did. Files need no check of their own: a file that is added,
//! removed or renamed changes its folder.
//!
//! The index is never needed and never believed without a check: one that is missing, damaged, of
//! another version or of another folder means that everything is read. It can be deleted at any
//! time.
//!
//! Names are held end to end in one piece of memory, since a million strings of their own would cost
//! as much again in bookkeeping.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::DataError;
use crate::decode::{EXTENSIONS, is_image};

/// Smaller trees are read again faster than a user would notice, and need no index.
const LEAST_INDEXED_FILES: usize = 10_000;

/// Folders that changed so shortly before they were read may change once more within the same tick
/// of the file system's clock (2 seconds on the coarsest), so they are not believed next time.
const SETTLING: Duration = Duration::from_secs(2);

/// Reading folders is mostly waiting, on network file systems above all.
const FEWEST_THREADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

const MAGIC: &[u8; 8] = b"nkindex1";
const DIGEST_BYTES: usize = 32;

/// The image files below a folder.
///
/// Files of one folder are sorted by name and come before those of the folders in it, which are
/// sorted likewise.
#[derive(Debug, Default)]
pub struct Listing {
    folders: Vec<ListedFolder>,
    /// The names of all files, each without its folder, end to end.
    names: Vec<u8>,
    /// Where each name ends.
    ends: Vec<usize>,
}

#[derive(Debug)]
struct ListedFolder {
    /// Relative to the folder that was scanned; empty for itself.
    path: PathBuf,
    /// Number of files in the folders before this one.
    first: usize,
}

impl Listing {
    /// Number of files.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether no file was found.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The path of a file relative to the folder that was scanned; `None` from `len()` on.
    pub fn path(&self, index: usize) -> Option<PathBuf> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let after = self.folders.partition_point(|folder| folder.first <= index);
        let folder = self.folders.get(after.checked_sub(1)?)?;
        Some(folder.path.join(OsStr::from_bytes(&self.names[start..end])))
    }

    /// The files that lie in the scanned folder itself come first; their number.
    pub(crate) fn files_at_top(&self) -> usize {
        self.folders.get(1).map_or(self.len(), |second| second.first)
    }

    /// The folders directly in the scanned one, by name, with the number of files anywhere below.
    pub(crate) fn top_folders(&self) -> Vec<(OsString, usize)> {
        let mut found: Vec<(OsString, usize)> = Vec::new();
        for (position, folder) in self.folders.iter().enumerate().skip(1) {
            let end = self.folders.get(position + 1).map_or(self.len(), |next| next.first);
            let files = end - folder.first;
            match found.last_mut() {
                Some((name, total)) if folder.path.starts_with(&*name) => *total += files,
                _ => found.push((folder.path.clone().into_os_string(), files)),
            }
        }
        found
    }

    fn push(&mut self, path: PathBuf, content: &Content) {
        self.folders.push(ListedFolder { path, first: self.ends.len() });
        for name in names(&content.images) {
            self.names.extend_from_slice(name);
            self.ends.push(self.names.len());
        }
    }
}

/// What a folder looked like when it was read. All of it is compared: unpacking an archive sets the
/// time of modification back, but nothing sets back the time of the last change (`ctime`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    const BYTES: usize = 48;

    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let Self { device, inode, modified, changed } = self;
        let times = [modified.0, modified.1, changed.0, changed.1].map(i64::cast_unsigned);
        let mut bytes = [0; Self::BYTES];
        let words = [device, inode].into_iter().chain(times);
        for (slot, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *slot = word.to_le_bytes();
        }
        bytes
    }

    /// Whether the folder had not changed for a while before `now`.
    fn settled(&self, now: SystemTime) -> bool {
        let limit = now - SETTLING;
        let limit = limit.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
        self.modified.0 < limit && self.changed.0 < limit
    }
}

/// What is visible in one folder: names in order, each with a zero byte behind it (which no name
/// can have).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    images: Vec<u8>,
    folders: Vec<u8>,
    /// Links to folders have to be followed anew each time, in search of circles.
    links_to_folders: bool,
}

fn names(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    block.split_inclusive(|&byte| byte == 0).map(|name| &name[..name.len() - 1])
}

fn block(mut found: Vec<OsString>) -> Vec<u8> {
    found.sort_unstable();
    let bytes = found.iter().map(|name| name.len() + 1).sum();
    let mut block = Vec::with_capacity(bytes);
    for name in found {
        block.extend_from_slice(name.as_bytes());
        block.push(0);
    }
    block
}

impl Content {
    fn of(path: &Path) -> Result<Self, DataError> {
        let (mut folders, mut images) = (Vec::new(), Vec::new());
        let mut links_to_folders = false;
        for entry in fs::read_dir(path).map_err(DataError::read(path))? {
            let entry = entry.map_err(DataError::read(path))?;
            let name = entry.file_name();
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            // Listing a million files must not cost a million more system calls: only links are
            // followed to see what they are.
            let mut kind = entry.file_type().map_err(DataError::read(&path.join(&name)))?;
            if kind.is_symlink() {
                let link = path.join(&name);
                kind = fs::metadata(&link).map_err(DataError::read(&link))?.file_type();
                if kind.is_dir() {
                    refuse_link_upwards(path, &link)?;
                    links_to_folders = true;
                }
            }
            if kind.is_dir() {
                folders.push(name);
            } else if is_image(Path::new(&name)) {
                // Reading a pipe or a device would wait for ever.
                if !kind.is_file() {
                    let reason = "is not a file; remove it";
                    return Err(DataError::malformed(&path.join(&name), reason));
                }
                images.push(name);
            }
        }
        Ok(Self { images: block(images), folders: block(folders), links_to_folders })
    }
}

/// A link to a folder that holds it would be followed without end.
fn refuse_link_upwards(folder: &Path, link: &Path) -> Result<(), DataError> {
    let inside = fs::canonicalize(folder).map_err(DataError::read(folder))?;
    let target = fs::canonicalize(link).map_err(DataError::read(link))?;
    if inside.starts_with(target) {
        return Err(DataError::malformed(link, "is a link to a folder that it lies in; remove it"));
    }
    Ok(())
}

/// The names of the folders directly in `path`, sorted.
pub(crate) fn folders_in(path: &Path) -> Result<Vec<OsString>, DataError> {
    let content = Content::of(path)?;
    Ok(names(&content.folders).map(|name| OsString::from_vec(name.to_vec())).collect())
}

/// Whether there is an image anywhere below `path`.
pub(crate) fn holds_images(path: &Path) -> Result<bool, DataError> {
    Ok(!scan(path, None)?.is_empty())
}

/// Where indexes are kept: `$XDG_CACHE_HOME/nearkin`, or `~/.cache/nearkin`; `None` if neither
/// variable holds an absolute path.
pub fn index_folder() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Some(cache?.join("nearkin"))
}

/// Lists the image files below `root`, with the help of the index in `index_folder` if one is given.
///
/// Errors name the folder that cannot be read, or the link that leads in a circle; of several, the
/// first in the order of the listing. Nothing that is wrong with the index is an error.
pub fn scan(root: &Path, index_folder: Option<&Path>) -> Result<Listing, DataError> {
    scan_indexed(root, index_folder, LEAST_INDEXED_FILES)
}

fn scan_indexed(
    root: &Path,
    index_folder: Option<&Path>,
    least_indexed: usize,
) -> Result<Listing, DataError> {
    let root = &fs::canonicalize(root).map_err(DataError::read(root)).map(|canonical| {
        // Messages speak of the path that was given.
        Root { given: root.to_owned(), canonical }
    })?;
    let file = index_folder.map(|folder| folder.join(index_name(&root.canonical)));
    let bytes = file.as_ref().and_then(|file| fs::read(file).ok()).unwrap_or_default();
    let known = parse(&bytes, &root.canonical).unwrap_or_default();
    let begun = SystemTime::now();
    let walk = Walk::new(&root.given, &known);
    let nodes = walk.run();
    let (listing, ordered) = assemble(nodes)?;
    if let Some(file) = file
        && listing.len() >= least_indexed
    {
        let kept = |node: &&Node| !node.content.links_to_folders && node.stamp.settled(begun);
        let kept: Vec<&Node> = ordered.iter().filter(kept).collect();
        if kept.len() != known.len() || kept.iter().any(|node| !node.was_known) {
            // Without room or rights for an index, the next scan takes longer; that is all.
            drop(store(&file, &root.canonical, &kept));
        }
    }
    Ok(listing)
}

struct Root {
    given: PathBuf,
    canonical: PathBuf,
}

/// The folders on the way down to one, as device and inode.
struct Way {
    here: (u64, u64),
    above: Option<Arc<Way>>,
}

impl Way {
    fn passes(&self, folder: (u64, u64)) -> bool {
        self.here == folder || self.above.as_ref().is_some_and(|above| above.passes(folder))
    }
}

/// A folder that was read, or taken from the index.
struct Node {
    path: PathBuf,
    stamp: Stamp,
    content: Content,
    was_known: bool,
    /// Places of the folders in it among all nodes, in their order.
    below: Vec<usize>,
}

struct Job {
    node: usize,
    path: PathBuf,
    way: Option<Arc<Way>>,
}

#[derive(Default)]
struct Progress {
    waiting: Vec<Job>,
    at_work: usize,
    nodes: Vec<Option<Result<Node, DataError>>>,
}

struct Walk<'a> {
    root: &'a Path,
    known: &'a Known<'a>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Path, known: &'a Known<'a>) -> Self {
        let first = Job { node: 0, path: PathBuf::new(), way: None };
        let progress = Progress { waiting: vec![first], at_work: 0, nodes: vec![None] };
        Self { root, known, progress: Mutex::new(progress), changed: Condvar::new() }
    }

    fn run(self) -> Vec<Option<Result<Node, DataError>>> {
        let cores = std::thread::available_parallelism().unwrap_or(FEWEST_THREADS);
        std::thread::scope(|scope| {
            for _ in 0..cores.max(FEWEST_THREADS).get() {
                scope.spawn(|| self.work());
            }
        });
        self.progress.into_inner().unwrap_or_else(PoisonError::into_inner).nodes
    }

    fn work(&self) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = progress.waiting.pop() {
                progress.at_work += 1;
                drop(progress);
                let number = job.node;
                let result = self.visit(job);
                progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
                progress.at_work -= 1;
                let node = result.map(|(mut node, way)| {
                    for name in names(&node.content.folders) {
                        let below = progress.nodes.len();
                        progress.nodes.push(None);
                        let path = node.path.join(OsStr::from_bytes(name));
                        let way = Some(Arc::clone(&way));
                        progress.waiting.push(Job { node: below, path, way });
                        node.below.push(below);
                    }
                    node
                });
                progress.nodes[number] = Some(node);
                self.changed.notify_all();
            } else if progress.at_work == 0 {
                return;
            } else {
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn visit(&self, job: Job) -> Result<(Node, Arc<Way>), DataError> {
        let Job { path, way, .. } = job;
        let full = self.root.join(&path);
        // Before its content, so that a change in between is seen next time.
        let stamp = Stamp::of(&fs::metadata(&full).map_err(DataError::read(&full))?);
        let here = (stamp.device, stamp.inode);
        if way.as_ref().is_some_and(|way| way.passes(here)) {
            let reason = "lies in itself, by a link that leads in a circle; remove the link";
            return Err(DataError::malformed(&full, reason));
        }
        let known = self.known.get(path.as_os_str().as_bytes()).filter(|(was, _)| *was == stamp);
        let was_known = known.is_some();
        let content = match known {
            Some((_, entry)) => entry.content(),
            None => Content::of(&full)?,
        };
        let node = Node { path, stamp, content, was_known, below: Vec::new() };
        Ok((node, Arc::new(Way { here, above: way })))
    }
}

/// The nodes in the order of the listing; the first error in that order, if there is one.
fn assemble(
    mut nodes: Vec<Option<Result<Node, DataError>>>,
) -> Result<(Listing, Vec<Node>), DataError> {
    let mut listing = Listing::default();
    let mut ordered = Vec::with_capacity(nodes.len());
    let mut next = vec![0];
    while let Some(number) = next.pop() {
        let Some(node) = nodes[number].take() else { continue };
        let node = node?;
        next.extend(node.below.iter().rev());
        listing.push(node.path.clone(), &node.content);
        ordered.push(node);
    }
    listing.names.shrink_to_fit();
    listing.ends.shrink_to_fit();
    Ok((listing, ordered))
}

/// The folders of an index by their relative path.
type Known<'a> = HashMap<&'a [u8], (Stamp, KnownContent<'a>)>;

struct KnownContent<'a> {
    images: &'a [u8],
    folders: &'a [u8],
}

impl KnownContent<'_> {
    fn content(&self) -> Content {
        Content {
            images: self.images.to_vec(),
            folders: self.folders.to_vec(),
            links_to_folders: false,
        }
    }
}

fn index_name(root: &Path) -> String {
    let digest = Sha256::digest(root.as_os_str().as_bytes());
    let hex = digest[..12].iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    format!("scan-{hex}.index")
}

/// Which names count as images is part of what an index says.
fn kinds() -> Vec<u8> {
    EXTENSIONS.join(",").into_bytes()
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

/// Writes the index under another name and moves it into place.
fn store(file: &Path, root: &Path, nodes: &[&Node]) -> io::Result<()> {
    let mut body = Vec::new();
    put(&mut body, root.as_os_str().as_bytes());
    put(&mut body, &kinds());
    for node in nodes {
        put(&mut body, node.path.as_os_str().as_bytes());
        body.extend(node.stamp.to_bytes());
        put(&mut body, &node.content.images);
        put(&mut body, &node.content.folders);
    }
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let partial = file.with_extension(format!("{}.partial", std::process::id()));
    let write = || {
        let mut out = fs::File::create(&partial)?;
        out.write_all(MAGIC)?;
        out.write_all(&Sha256::digest(&body))?;
        out.write_all(&body)?;
        drop(out);
        fs::rename(&partial, file)
    };
    write().inspect_err(|_| drop(fs::remove_file(&partial)))
}

/// The folders of an index; `None` if it is damaged, or not the index of `root`.
fn parse<'a>(bytes: &'a [u8], root: &Path) -> Option<Known<'a>> {
    let (digest, body) = bytes.strip_prefix(MAGIC)?.split_at_checked(DIGEST_BYTES)?;
    if Sha256::digest(body).as_slice() != digest {
        return None;
    }
    let mut rest = body;
    if take(&mut rest)? != root.as_os_str().as_bytes() || take(&mut rest)? != kinds() {
        return None;
    }
    let mut known = Known::new();
    while !rest.is_empty() {
        let path = take(&mut rest)?;
        let (stamp, after) = rest.split_at_checked(Stamp::BYTES)?;
        rest = after;
        let mut words = stamp.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut word = || words.next();
        let (device, inode) = (word()?, word()?);
        let mut time = || Some((word()?.cast_signed(), word()?.cast_signed()));
        let stamp = Stamp { device, inode, modified: time()?, changed: time()? };
        let (images, folders) = (take(&mut rest)?, take(&mut rest)?);
        if [images, folders].iter().any(|block| block.last().is_some_and(|&last| last != 0)) {
            return None;
        }
        known.insert(path, (stamp, KnownContent { images, folders }));
    }
    Some(known)
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (taken, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// A tree to scan and a place for indexes.
    fn tree(files: &[&str]) -> (TempDir, TempDir) {
        let root = tempfile::tempdir().unwrap();
        files.iter().for_each(|file| add(&root, file));
        (root, tempfile::tempdir().unwrap())
    }

    fn add(root: &TempDir, file: &str) {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }

    fn paths(listing: &Listing) -> Vec<String> {
        let path = |index| listing.path(index).unwrap().display().to_string();
        (0..listing.len()).map(path).collect()
    }

    fn list(root: &Path, cache: Option<&Path>) -> Vec<String> {
        paths(&scan_indexed(root, cache, 0).unwrap())
    }

    fn index_of(root: &TempDir, cache: &TempDir) -> PathBuf {
        cache.path().join(index_name(&root.path().canonicalize().unwrap()))
    }

    /// Writes the index as if everything had been read long after the last change.
    fn index(root: &TempDir, cache: &TempDir) {
        let canonical = root.path().canonicalize().unwrap();
        let nodes = Walk::new(&canonical, &Known::new()).run();
        let (_, nodes) = assemble(nodes).unwrap();
        let kept: Vec<&Node> = nodes.iter().filter(|node| !node.content.links_to_folders).collect();
        store(&index_of(root, cache), &canonical, &kept).unwrap();
    }

    const FILES: [&str; 7] =
        ["z.png", "a.JPG", "b/2.png", "b/1.png", "b/c/3.webp", "a/4.jpeg", "b/notes.txt"];
    const LISTED: [&str; 6] = ["a.JPG", "z.png", "a/4.jpeg", "b/1.png", "b/2.png", "b/c/3.webp"];

    #[test]
    fn files_come_before_the_folders_beside_them_all_sorted() {
        let (root, cache) = tree(&FILES);
        let listing = scan(root.path(), None).unwrap();
        assert_eq!(paths(&listing), LISTED);
        assert_eq!(listing.files_at_top(), 2);
        assert_eq!(listing.top_folders(), [("a".into(), 1), ("b".into(), 3)]);
        assert_eq!(listing.path(6), None);
        // A set this small leaves no index behind.
        assert_eq!(paths(&scan(root.path(), Some(cache.path())).unwrap()), LISTED);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }

    #[test]
    fn neighbours_of_a_similar_name_are_told_apart() {
        let (root, _cache) = tree(&["a/1.png", "a.b/2.png", "ab/3.png", "empty/notes.txt"]);
        let found = scan(root.path(), None).unwrap().top_folders();
        let expected = [("a", 1), ("a.b", 1), ("ab", 1), ("empty", 0)];
        assert_eq!(found, expected.map(|(name, files)| (name.into(), files)));
    }

    #[test]
    fn an_unchanged_folder_is_taken_from_the_index() {
        let (root, cache) = tree(&FILES);
        index(&root, &cache);
        let canonical = root.path().canonicalize().unwrap();
        let bytes = fs::read(index_of(&root, &cache)).unwrap();
        let known = parse(&bytes, &canonical).unwrap();
        assert_eq!(known.len(), 4);
        let (listing, nodes) = assemble(Walk::new(&canonical, &known).run()).unwrap();
        assert_eq!(paths(&listing), LISTED);
        assert!(nodes.iter().all(|node| node.was_known));
        assert_eq!(list(root.path(), Some(cache.path())), LISTED);
    }

    #[test]
    fn what_changed_since_is_seen() {
        let (root, cache) = tree(&FILES);
        index(&root, &cache);
        add(&root, "b/c/4.png");
        add(&root, "d/5.png");
        fs::remove_dir_all(root.path().join("a")).unwrap();
        fs::rename(root.path().join("z.png"), root.path().join("y.png")).unwrap();
        let expected =
            ["a.JPG", "y.png", "b/1.png", "b/2.png", "b/c/3.webp", "b/c/4.png", "d/5.png"];
        assert_eq!(list(root.path(), Some(cache.path())), expected);
    }

    #[test]
    fn a_time_of_modification_that_is_set_back_hides_nothing() {
        let (root, cache) = tree(&FILES);
        let folder = root.path().join("b");
        let before = fs::metadata(&folder).unwrap().modified().unwrap();
        index(&root, &cache);
        // The clock of the file system may be coarser than the test is fast.
        std::thread::sleep(Duration::from_millis(20));
        add(&root, "b/0.png");
        let times = FileTimes::new().set_modified(before);
        fs::File::open(&folder).unwrap().set_times(times).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().modified().unwrap(), before);
        assert!(list(root.path(), Some(cache.path())).contains(&"b/0.png".to_owned()));
    }

    #[test]
    fn what_changed_just_now_is_not_believed_next_time() {
        let (root, cache) = tree(&FILES);
        assert_eq!(list(root.path(), Some(cache.path())), LISTED);
        let file = index_of(&root, &cache);
        let count = || {
            let bytes = fs::read(&file).unwrap_or_default();
            parse(&bytes, &root.path().canonicalize().unwrap()).map_or(0, |known| known.len())
        };
        assert_eq!(count(), 0);
        let stamp = Stamp::of(&fs::metadata(root.path()).unwrap());
        assert!(!stamp.settled(SystemTime::now()));
        assert!(stamp.settled(SystemTime::now() + 3 * SETTLING));
    }

    #[test]
    fn a_damaged_index_or_that_of_another_folder_is_read_over() {
        let (root, cache) = tree(&FILES);
        index(&root, &cache);
        let file = index_of(&root, &cache);
        let sound = fs::read(&file).unwrap();
        let canonical = root.path().canonicalize().unwrap();
        assert!(parse(&sound, &canonical).is_some());
        assert!(parse(&sound, Path::new("/elsewhere")).is_none());
        for length in [0, 7, 8, 39, 40, sound.len() / 2, sound.len() - 1] {
            fs::write(&file, &sound[..length]).unwrap();
            assert_eq!(list(root.path(), Some(cache.path())), LISTED);
        }
        let mut flipped = sound.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&file, flipped).unwrap();
        assert_eq!(list(root.path(), Some(cache.path())), LISTED);
        // That of a program to which other files are images.
        let mut others = sound[MAGIC.len() + DIGEST_BYTES..].to_vec();
        let at = others.windows(4).position(|name| name == b"tiff").unwrap();
        others[at..at + 4].copy_from_slice(b"heic");
        fs::write(&file, [&MAGIC[..], &Sha256::digest(&others), &others].concat()).unwrap();
        assert!(parse(&fs::read(&file).unwrap(), &canonical).is_none());
        // No place for an index is no error either.
        fs::write(cache.path().join("file"), "").unwrap();
        assert_eq!(list(root.path(), Some(&cache.path().join("file/below"))), LISTED);
    }

    #[test]
    fn links_in_a_circle_are_refused() {
        let (root, _cache) = tree(&["a/1.png", "b/2.png"]);
        symlink(root.path().join("b"), root.path().join("a/b")).unwrap();
        assert_eq!(list(root.path(), None), ["a/1.png", "a/b/2.png", "b/2.png"]);
        symlink(root.path().join("a"), root.path().join("b/a")).unwrap();
        let message = scan(root.path(), None).unwrap_err().to_string();
        assert!(message.contains("a/b/a: lies in itself, by a link"), "{message}");
        let (root, _cache) = tree(&["1.png"]);
        symlink(root.path().parent().unwrap(), root.path().join("up")).unwrap();
        let message = scan(root.path(), None).unwrap_err().to_string();
        assert!(message.contains("up: is a link to a folder that it lies in"), "{message}");
    }

    #[test]
    fn links_to_folders_are_followed_anew_each_time() {
        let (elsewhere, cache) = tree(&["1.png"]);
        let (root, _) = tree(&["a/2.png"]);
        symlink(elsewhere.path(), root.path().join("link")).unwrap();
        index(&root, &cache);
        assert_eq!(list(root.path(), Some(cache.path())), ["a/2.png", "link/1.png"]);
        add(&elsewhere, "3.png");
        let expected = ["a/2.png", "link/1.png", "link/3.png"];
        assert_eq!(list(root.path(), Some(cache.path())), expected);
    }

    #[test]
    fn the_first_error_in_the_order_of_the_listing_is_told() {
        let (root, _cache) = tree(&["a/1.png", "b/1.png", "c/1.png"]);
        symlink("nowhere", root.path().join("c/2.png")).unwrap();
        symlink("nowhere", root.path().join("b/2.png")).unwrap();
        for _ in 0..20 {
            let message = scan(root.path(), None).unwrap_err().to_string();
            assert!(message.starts_with("cannot read "), "{message}");
            assert!(message.contains("b/2.png"), "{message}");
        }
    }

    #[test]
    fn many_folders_are_read_by_many_threads() {
        let names: Vec<String> =
            (0..40).flat_map(|i| (0..3).map(move |j| format!("{i:03}/{j}/x.png"))).collect();
        let (root, _cache) = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(list(root.path(), None), names);
    }

    proptest! {
        #[test]
        fn any_body_under_a_right_digest_is_read_or_refused(
            body in prop::collection::vec(any::<u8>(), 0..200), lengths in prop::collection::vec(0..40_u64, 0..6),
        ) {
            let mut whole = Vec::new();
            put(&mut whole, b"/root");
            put(&mut whole, &kinds());
            for length in lengths {
                whole.extend(length.to_le_bytes());
            }
            whole.extend(body);
            let mut bytes = MAGIC.to_vec();
            bytes.extend(Sha256::digest(&whole));
            bytes.extend(whole);
            for (_, content) in parse(&bytes, Path::new("/root")).unwrap_or_default().values() {
                names(content.images).chain(names(content.folders)).for_each(drop);
            }
        }
    }
}
