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
//! Whatever is not an image is counted by its reason ([`Skipped`]): files of other kinds, links that
//! lead nowhere or in a circle, pipes, folders without permission. None of them is an error, except at
//! the folder that was asked for. A disk that fails is one: half of a folder must not pass for all of
//! it.
//!
//! Names are held end to end in one piece of memory, since a million strings of their own would cost
//! as much again in bookkeeping.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, FileType, Metadata};
use std::io::{self, ErrorKind, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::decode::EXTENSIONS;
use crate::entry::{self, FileKind, file_kind};
use crate::{DataError, Skipped};

/// Smaller trees are read again faster than a user would notice, and need no index.
const LEAST_INDEXED_FILES: usize = 10_000;

/// Folders that changed so shortly before they were read may change once more within the same tick
/// of the file system's clock (2 seconds on the coarsest), so they are not believed next time.
const SETTLING: Duration = Duration::from_secs(2);

/// Reading folders is mostly waiting, on network file systems above all.
const FEWEST_THREADS: NonZeroUsize = const { NonZeroUsize::new(4).unwrap() };

const MAGIC: &[u8; 8] = b"nkindex2";
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
    skipped: Skipped,
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
        if index >= self.len() {
            return None;
        }
        let after = self.folders.partition_point(|folder| folder.first <= index);
        let folder = self.folders.get(after.checked_sub(1)?)?;
        Some(folder.path.join(OsStr::from_bytes(self.name(index))))
    }

    /// What was found beside the images, by reason.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// Every folder, relative to the scanned one, with the places of the files directly in it.
    pub(crate) fn folders(&self) -> impl Iterator<Item = (&Path, Range<usize>)> {
        self.folders.iter().enumerate().map(|(position, folder)| {
            let end = self.folders.get(position + 1).map_or(self.len(), |next| next.first);
            (folder.path.as_path(), folder.first..end)
        })
    }

    /// Leaves out the files of all folders but those that `keep` names by their relative path.
    pub(crate) fn retain_folders(&mut self, keep: impl Fn(&Path) -> bool) {
        let mut kept = Self { skipped: std::mem::take(&mut self.skipped), ..Self::default() };
        for (path, files) in self.folders().filter(|(path, _)| keep(path)) {
            kept.folders.push(ListedFolder { path: path.to_owned(), first: kept.len() });
            for file in files {
                kept.names.extend_from_slice(self.name(file));
                kept.ends.push(kept.names.len());
            }
        }
        *self = kept;
    }

    /// The name of a file, without its folder.
    pub(crate) fn name(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.names[start..self.ends[index]]
    }

    /// The folders directly in the scanned one, by name, with the number of files anywhere below.
    pub(crate) fn top_folders(&self) -> Vec<(OsString, usize)> {
        let mut found: Vec<(OsString, usize)> = Vec::new();
        for (path, files) in self.folders().skip(1) {
            match found.last_mut() {
                Some((name, total)) if path.starts_with(&*name) => *total += files.len(),
                _ => found.push((path.as_os_str().to_owned(), files.len())),
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

/// Why entries of a folder are skipped: how many, and the name of the first in order.
type Reasons = BTreeMap<Cow<'static, str>, (usize, OsString)>;

/// What is in one folder: names in order, each with a zero byte behind it (which no name can have).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    images: Vec<u8>,
    folders: Vec<u8>,
    skipped: Reasons,
    /// Whether it may change without a trace in its stamp: links to folders are followed anew each
    /// time, in search of circles, and those that lead nowhere may lead somewhere next time.
    is_unsettled: bool,
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
    /// Reads a folder. Links are followed.
    fn read(path: &Path) -> Result<Self, DataError> {
        let (mut folders, mut images) = (Vec::new(), Vec::new());
        let mut content = Self::default();
        for entry in fs::read_dir(path).map_err(DataError::read(path))? {
            let found = Found::read(path, entry)?;
            content.is_unsettled |= found.is_unsettled;
            match found.what {
                What::Image => images.push(found.name),
                What::Folder => folders.push(found.name),
                What::Skipped(reason) => content.skip(reason, found.name),
            }
        }
        Ok(Self { images: block(images), folders: block(folders), ..content })
    }

    fn skip(&mut self, reason: Cow<'static, str>, name: OsString) {
        match self.skipped.entry(reason) {
            Entry::Vacant(free) => drop(free.insert((1, name))),
            Entry::Occupied(mut known) => {
                let (count, first) = known.get_mut();
                *count += 1;
                if name < *first {
                    *first = name;
                }
            }
        }
    }

    /// Adds what is skipped in the folder at `path`, as messages call it, to a whole.
    fn add_skipped(&self, path: &Path, whole: &mut Skipped) {
        for (reason, (count, first)) in &self.skipped {
            whole.add_many(reason.as_ref(), *count, path.join(first).display().to_string());
        }
    }
}

/// An entry of a folder.
pub(crate) struct Found {
    pub(crate) name: OsString,
    pub(crate) what: What,
    /// See [`Content::is_unsettled`].
    is_unsettled: bool,
}

pub(crate) enum What {
    Image,
    Folder,
    /// With the reason.
    Skipped(Cow<'static, str>),
}

impl Found {
    pub(crate) fn read(folder: &Path, entry: io::Result<DirEntry>) -> Result<Self, DataError> {
        let entry = entry.map_err(DataError::read(folder))?;
        let name = entry.file_name();
        // Listing a million files must not cost a million more system calls: only links are
        // followed to see what they are.
        let mut kind = entry.file_type().map_err(DataError::read(&folder.join(&name)))?;
        let mut is_unsettled = false;
        if kind.is_symlink() && !name.as_bytes().starts_with(b".") {
            match follow(folder, &folder.join(&name))? {
                Link::To(found) => {
                    is_unsettled = found.is_dir();
                    kind = found;
                }
                Link::Nowhere(reason) => {
                    let what = What::Skipped(reason.into());
                    return Ok(Self { name, what, is_unsettled: true });
                }
            }
        }
        let what = if kind.is_dir() {
            entry::skipped_folder(&name).map_or(What::Folder, |reason| What::Skipped(reason.into()))
        } else {
            match file_kind(&name) {
                // Reading a pipe or a device would wait for ever.
                FileKind::Image if !kind.is_file() => {
                    What::Skipped("pipe(s), socket(s) or device(s)".into())
                }
                FileKind::Image => What::Image,
                FileKind::Skipped(reason) => What::Skipped(reason),
            }
        };
        Ok(Self { name, what, is_unsettled })
    }
}

/// What is at the end of a link.
enum Link {
    To(FileType),
    /// Nothing to list, with the reason.
    Nowhere(&'static str),
}

/// Follows a link in `folder`. One to a folder that holds it would be followed without end.
fn follow(folder: &Path, link: &Path) -> Result<Link, DataError> {
    let kind = match fs::metadata(link) {
        Ok(target) => target.file_type(),
        Err(error) => match broken_link(&error) {
            Some(reason) => return Ok(Link::Nowhere(reason)),
            None => return Err(DataError::read(link)(error)),
        },
    };
    if kind.is_dir() {
        let inside = fs::canonicalize(folder).map_err(DataError::read(folder))?;
        let target = fs::canonicalize(link).map_err(DataError::read(link))?;
        if inside.starts_with(target) {
            return Ok(Link::Nowhere(CIRCLE));
        }
    }
    Ok(Link::To(kind))
}

const CIRCLE: &str = "link(s) in a circle";

/// Why a link cannot be followed, unless the disk is to blame.
fn broken_link(error: &io::Error) -> Option<&'static str> {
    /// `ELOOP` on Linux and on macOS; the standard library has no stable name for it.
    const TOO_MANY_LINKS: [i32; 2] = [40, 62];
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Some("link(s) that lead nowhere"),
        ErrorKind::PermissionDenied => Some("link(s) that may not be followed"),
        _ if error.raw_os_error().is_some_and(|code| TOO_MANY_LINKS.contains(&code)) => {
            Some(CIRCLE)
        }
        _ => None,
    }
}

pub(crate) const CLOSED: &str = "folder(s) without permission to read them";

/// Whether a folder may not be read.
pub(crate) fn is_closed(folder: &Path) -> bool {
    fs::read_dir(folder).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Why a folder cannot be listed, unless the disk is to blame.
pub(crate) fn closed_folder(error: &DataError) -> Option<&'static str> {
    let DataError::Read { source, .. } = error else { return None };
    match source.kind() {
        ErrorKind::PermissionDenied => Some(CLOSED),
        // It was there a moment ago.
        ErrorKind::NotFound | ErrorKind::NotADirectory => Some("folder(s) that were removed"),
        _ => None,
    }
}

/// What is directly in a folder.
pub(crate) struct Entries {
    /// Names of images, sorted.
    pub(crate) images: Vec<OsString>,
    /// Names of folders, sorted.
    pub(crate) folders: Vec<OsString>,
    /// Everything else.
    pub(crate) skipped: Skipped,
}

/// Lists what is directly in `path`.
pub(crate) fn entries(path: &Path) -> Result<Entries, DataError> {
    let content = Content::read(path)?;
    let own = |block| names(block).map(|name| OsString::from_vec(name.to_vec())).collect();
    let mut skipped = Skipped::new();
    content.add_skipped(path, &mut skipped);
    Ok(Entries { images: own(&content.images), folders: own(&content.folders), skipped })
}

/// Whether there is an image directly in `path`.
pub(crate) fn holds_images_directly(path: &Path) -> Result<bool, DataError> {
    Ok(first_image_or_folders(path)?.is_none())
}

/// Whether there is an image anywhere below `path`. Looks no further than to the first one.
pub(crate) fn holds_images(path: &Path) -> Result<bool, DataError> {
    let mut waiting = vec![path.to_owned()];
    let mut seen = HashSet::new();
    while let Some(folder) = waiting.pop() {
        let looked = fs::metadata(&folder)
            .map_err(DataError::read(&folder))
            .and_then(|metadata| Ok((metadata, first_image_or_folders(&folder)?)));
        match looked {
            Ok((_, None)) => return Ok(true),
            Ok((metadata, Some(folders))) => {
                if seen.insert((metadata.dev(), metadata.ino())) {
                    waiting.extend(folders.into_iter().map(|name| folder.join(name)));
                }
            }
            Err(error) if closed_folder(&error).is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// `None` as soon as an image is found in a folder; without one, the names of its folders.
fn first_image_or_folders(path: &Path) -> Result<Option<Vec<OsString>>, DataError> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(path).map_err(DataError::read(path))? {
        let found = Found::read(path, entry)?;
        match found.what {
            What::Image => return Ok(None),
            What::Folder => folders.push(found.name),
            What::Skipped(_) => {}
        }
    }
    Ok(Some(folders))
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
/// An error if `root` cannot be read or the disk fails; of several, the first in the order of the
/// listing. Folders that may not be read and links in a circle are counted among what is skipped.
/// Nothing that is wrong with the index is an error.
pub fn scan(root: &Path, index_folder: Option<&Path>) -> Result<Listing, DataError> {
    scan_indexed(root, index_folder, LEAST_INDEXED_FILES)
}

fn scan_indexed(
    root: &Path,
    index_folder: Option<&Path>,
    least_indexed: usize,
) -> Result<Listing, DataError> {
    let canonical = fs::canonicalize(root).map_err(DataError::read(root))?;
    let file = index_folder.map(|folder| folder.join(index_name(&canonical)));
    let bytes = file.as_ref().and_then(|file| fs::read(file).ok()).unwrap_or_default();
    let known = parse(&bytes, &canonical).unwrap_or_default();
    let begun = SystemTime::now();
    // Messages speak of the path that was given.
    let nodes = Walk::new(root, &known).run();
    let (listing, ordered) = assemble(root, nodes)?;
    if let Some(file) = file
        && listing.len() >= least_indexed
    {
        let kept = |node: &&Node| !node.content.is_unsettled && node.stamp.settled(begun);
        let kept: Vec<&Node> = ordered.iter().filter(kept).collect();
        if kept.len() != known.len() || kept.iter().any(|node| !node.was_known) {
            // Without room or rights for an index, the next scan takes longer; that is all.
            drop(store(&file, &canonical, &kept));
        }
    }
    Ok(listing)
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

/// A folder of a walk: read, or the reason why it is skipped.
enum Visit {
    Read(Node, Arc<Way>),
    Skip(&'static str, PathBuf),
}

/// What is known of a folder of a walk, once it was its turn.
enum Outcome {
    Read(Node),
    Skip(&'static str, PathBuf),
    Failed(DataError),
}

#[derive(Default)]
struct Progress {
    waiting: Vec<Job>,
    at_work: usize,
    nodes: Vec<Option<Outcome>>,
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

    fn run(self) -> Vec<Option<Outcome>> {
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
                progress.nodes[number] = Some(match result {
                    Ok(Visit::Read(mut node, way)) => {
                        for name in names(&node.content.folders) {
                            let below = progress.nodes.len();
                            progress.nodes.push(None);
                            let path = node.path.join(OsStr::from_bytes(name));
                            let way = Some(Arc::clone(&way));
                            progress.waiting.push(Job { node: below, path, way });
                            node.below.push(below);
                        }
                        Outcome::Read(node)
                    }
                    Ok(Visit::Skip(reason, path)) => Outcome::Skip(reason, path),
                    Err(error) => Outcome::Failed(error),
                });
                self.changed.notify_all();
            } else if progress.at_work == 0 {
                return;
            } else {
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Reads a folder; the one that was asked for must be readable.
    fn visit(&self, job: Job) -> Result<Visit, DataError> {
        let Job { node: number, path, way } = job;
        let full = self.root.join(&path);
        match self.read(&path, &full, way) {
            Err(error) if number > 0 => match closed_folder(&error) {
                Some(reason) => Ok(Visit::Skip(reason, full)),
                None => Err(error),
            },
            result => result,
        }
    }

    fn read(&self, path: &Path, full: &Path, way: Option<Arc<Way>>) -> Result<Visit, DataError> {
        // Before its content, so that a change in between is seen next time.
        let stamp = Stamp::of(&fs::metadata(full).map_err(DataError::read(full))?);
        let here = (stamp.device, stamp.inode);
        if way.as_ref().is_some_and(|way| way.passes(here)) {
            return Ok(Visit::Skip(CIRCLE, full.to_owned()));
        }
        let known = self.known.get(path.as_os_str().as_bytes()).filter(|(was, _)| *was == stamp);
        let was_known = known.is_some();
        let content = match known {
            Some((_, content)) => content.clone(),
            None => Content::read(full)?,
        };
        let node = Node { path: path.to_owned(), stamp, content, was_known, below: Vec::new() };
        Ok(Visit::Read(node, Arc::new(Way { here, above: way })))
    }
}

/// The nodes below `root` in the order of the listing; the first error in that order, if there is
/// one.
fn assemble(
    root: &Path,
    mut nodes: Vec<Option<Outcome>>,
) -> Result<(Listing, Vec<Node>), DataError> {
    let mut listing = Listing::default();
    let mut ordered = Vec::with_capacity(nodes.len());
    let mut next = vec![0];
    while let Some(number) = next.pop() {
        let node = match nodes[number].take() {
            Some(Outcome::Read(node)) => node,
            Some(Outcome::Skip(reason, path)) => {
                listing.skipped.add(reason, path.display().to_string());
                continue;
            }
            Some(Outcome::Failed(error)) => return Err(error),
            None => continue,
        };
        next.extend(node.below.iter().rev());
        listing.push(node.path.clone(), &node.content);
        node.content.add_skipped(&root.join(&node.path), &mut listing.skipped);
        ordered.push(node);
    }
    listing.names.shrink_to_fit();
    listing.ends.shrink_to_fit();
    Ok((listing, ordered))
}

/// The folders of an index by their relative path.
type Known<'a> = HashMap<&'a [u8], (Stamp, Content)>;

fn index_name(root: &Path) -> String {
    let digest = Sha256::digest(root.as_os_str().as_bytes());
    let hex = digest[..12].iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    format!("scan-{hex}.index")
}

/// Which names count as images, and which program counted the others, is part of what an index says.
fn kinds() -> Vec<u8> {
    format!("{} {}", env!("CARGO_PKG_VERSION"), EXTENSIONS.join(",")).into_bytes()
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
        body.extend((node.content.skipped.len() as u64).to_le_bytes());
        for (reason, (count, first)) in &node.content.skipped {
            put(&mut body, reason.as_bytes());
            body.extend((*count as u64).to_le_bytes());
            put(&mut body, first.as_bytes());
        }
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
        let mut skipped = Reasons::new();
        for _ in 0..take_number(&mut rest)? {
            let reason = String::from_utf8(take(&mut rest)?.to_vec()).ok()?;
            let count = take_number(&mut rest)?;
            let first = OsStr::from_bytes(take(&mut rest)?).to_owned();
            skipped.insert(reason.into(), (count, first));
        }
        let (images, folders) = (images.to_vec(), folders.to_vec());
        known.insert(path, (stamp, Content { images, folders, skipped, is_unsettled: false }));
    }
    Some(known)
}

fn take_number(rest: &mut &[u8]) -> Option<usize> {
    let (number, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    usize::try_from(u64::from_le_bytes(*number)).ok()
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_number(rest)?;
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

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

    fn told(listing: &Listing) -> Vec<String> {
        listing.skipped().reasons().iter().map(ToString::to_string).collect()
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
        let (_, nodes) = assemble(&canonical, nodes).unwrap();
        let kept: Vec<&Node> = nodes.iter().filter(|node| !node.content.is_unsettled).collect();
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
        let (listing, nodes) = assemble(&canonical, Walk::new(&canonical, &known).run()).unwrap();
        assert_eq!(paths(&listing), LISTED);
        let notes = format!("skipped 1 other file(s): {}/b/notes.txt", canonical.display());
        assert_eq!(told(&listing), [notes]);
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
    fn links_in_a_circle_are_counted() {
        let (root, _cache) = tree(&["a/1.png", "b/2.png"]);
        symlink(root.path().join("b"), root.path().join("a/b")).unwrap();
        assert_eq!(list(root.path(), None), ["a/1.png", "a/b/2.png", "b/2.png"]);
        symlink(root.path().join("a"), root.path().join("b/a")).unwrap();
        let listing = scan(root.path(), None).unwrap();
        assert_eq!(paths(&listing), ["a/1.png", "a/b/2.png", "b/2.png", "b/a/1.png"]);
        let first = root.path().join("a/b/a");
        let line = format!("skipped 2 link(s) in a circle; the first: {}", first.display());
        assert_eq!(told(&listing), [line]);
        let (root, _cache) = tree(&["1.png"]);
        symlink(root.path().parent().unwrap(), root.path().join("up")).unwrap();
        symlink("self.png", root.path().join("self.png")).unwrap();
        symlink("ping.png", root.path().join("pong.png")).unwrap();
        symlink("pong.png", root.path().join("ping.png")).unwrap();
        let listing = scan(root.path(), None).unwrap();
        assert_eq!(paths(&listing), ["1.png"]);
        assert_eq!(listing.skipped().reasons()[0].count, 4);
    }

    #[test]
    fn what_is_no_image_is_counted_by_its_reason() {
        let (root, cache) = tree(&[
            "a/1.png",
            "a/2.heic",
            "a/3.HEIC",
            "a/4.txt",
            "a/._1.png",
            "a/.DS_Store",
            "b/Thumbs.db",
            "b/5.mp4",
            "b/6",
            "b/.ipynb_checkpoints/7.png",
            "__MACOSX/a/._1.png",
            "b/@eaDir/1.png/x.jpg",
        ]);
        let _socket = UnixListener::bind(root.path().join("b/socket.png")).unwrap();
        symlink("gone.png", root.path().join("b/8.png")).unwrap();
        let expected = [
            "1 folder(s) of the operating system",
            "1 AppleDouble file(s) (._*)",
            "1 hidden file(s)",
            "2 image(s) of a kind that is not read (.heic)",
            "1 other file(s)",
            "1 file(s) of the operating system",
            "1 file(s) that are not images (.mp4)",
            "1 file(s) without an extension",
            "1 hidden folder(s)",
            "1 link(s) that lead nowhere",
            "1 pipe(s), socket(s) or device(s)",
        ];
        let count = |cache: Option<&Path>| {
            let listing = scan_indexed(root.path(), cache, 0).unwrap();
            assert_eq!(paths(&listing), ["a/1.png"]);
            let reasons = listing.skipped().reasons().iter();
            let mut lines: Vec<String> =
                reasons.map(|one| format!("{} {}", one.count, one.reason)).collect();
            lines.sort_unstable();
            lines
        };
        let mut sorted: Vec<String> = expected.map(str::to_owned).to_vec();
        sorted[0] = "2 folder(s) of the operating system".into();
        sorted.sort_unstable();
        assert_eq!(count(None), sorted);
        index(&root, &cache);
        assert_eq!(count(Some(cache.path())), sorted);
        // A link that leads nowhere is asked again each time.
        add(&root, "b/gone.png");
        let listing = scan_indexed(root.path(), Some(cache.path()), 0).unwrap();
        assert_eq!(paths(&listing), ["a/1.png", "b/8.png", "b/gone.png"]);
    }

    #[test]
    fn the_search_for_an_image_ends_at_the_first() {
        let (root, _cache) = tree(&["a/x.txt", "b/c/1.png", "d/._1.png"]);
        symlink(root.path().join("a"), root.path().join("a/self")).unwrap();
        for (folder, expected) in [("", true), ("a", false), ("b", true), ("d", false)] {
            assert_eq!(holds_images(&root.path().join(folder)).unwrap(), expected, "{folder}");
        }
        assert!(holds_images_directly(&root.path().join("b/c")).unwrap());
        assert!(!holds_images_directly(&root.path().join("b")).unwrap());
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
    fn folders_without_permission_are_counted() {
        let closed = |kind: ErrorKind| {
            let source = io::Error::from(kind);
            closed_folder(&DataError::Read { path: PathBuf::from("some"), source })
        };
        // Tests may run as a user to whom every folder is open.
        let expected = "folder(s) without permission to read them";
        assert_eq!(closed(ErrorKind::PermissionDenied), Some(expected));
        assert_eq!(closed(ErrorKind::NotFound), Some("folder(s) that were removed"));
        // A disk that fails is an error: half of a set must not pass for all of it.
        assert_eq!(closed(ErrorKind::Other), None);
        let (root, _cache) = tree(&["a/1.png", "b/1.png"]);
        let permissions = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(root.path().join("a"), permissions(0)).unwrap();
        let listing = scan(root.path(), None).unwrap();
        let is_open = fs::read_dir(root.path().join("a")).is_ok();
        fs::set_permissions(root.path().join("a"), permissions(0o700)).unwrap();
        if is_open {
            assert_eq!(paths(&listing), ["a/1.png", "b/1.png"]);
        } else {
            assert_eq!(paths(&listing), ["b/1.png"]);
            assert_eq!(listing.skipped().reasons()[0].reason, expected);
        }
        assert!(scan(&root.path().join("gone"), None).is_err());
    }

    #[test]
    fn folders_can_be_taken_out_of_a_listing() {
        let (root, _cache) = tree(&FILES);
        let mut listing = scan(root.path(), None).unwrap();
        listing.retain_folders(|path| path.starts_with("b"));
        assert_eq!(paths(&listing), ["b/1.png", "b/2.png", "b/c/3.webp"]);
        assert_eq!((listing.len(), told(&listing).len()), (3, 1));
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
                names(&content.images).chain(names(&content.folders)).for_each(drop);
            }
        }
    }
}
