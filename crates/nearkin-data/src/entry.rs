//! What the name of a file or folder says it is.
//!
//! Folders of images hold more than images: photos of kinds that are not read, tables, archives,
//! what operating systems leave behind. Each is counted by what it is, so that a thousand `.heic`
//! photos do not vanish without a word and one `Thumbs.db` does not worry anyone.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::Path;

use crate::decode::{EXTENSIONS, is_image};

/// How names of image files end that are not decoded, in lower case.
const UNREAD_IMAGES: &[&str] = &[
    "3fr", "ai", "arw", "avif", "bpg", "cr2", "cr3", "crw", "cur", "dcm", "dcr", "dds", "dng",
    "eps", "erf", "exr", "fits", "flif", "gif", "hdr", "heic", "heics", "heif", "hif", "icns",
    "ico", "j2c", "j2k", "jp2", "jpf", "jpx", "jxl", "jxr", "kdc", "mrw", "nef", "nrw", "orf",
    "pbm", "pcx", "pef", "pgm", "pnm", "ppm", "psd", "raf", "rw2", "sr2", "srw", "svg", "tga",
    "wdp", "xcf",
];

/// Text and tables that stand beside the images of nearly every set, in lower case.
const ORDINARY: &[&str] = &[
    "bib", "cfg", "csv", "htm", "html", "ini", "json", "jsonl", "log", "md", "pdf", "rst", "toml",
    "tsv", "txt", "xml", "yaml", "yml",
];

/// Names of ordinary files without an extension, in lower case.
const ORDINARY_NAMES: &[&str] = &["authors", "copying", "license", "makefile", "readme"];

/// Files that operating systems write into folders of images, in lower case.
const SYSTEM_FILES: &[&str] =
    &["desktop.ini", "ehthumbs.db", "icon\r", "thumbs.db", "zbthumbnail.info"];

/// Folders that operating systems, archives and servers make, in lower case.
const SYSTEM_FOLDERS: &[&str] = &[
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "@__thumb",
    "@downloadstation",
    "@eadir",
    "@recently-snapshot",
    "@recycle",
    "@sharebin",
    "@tmp",
    "__macosx",
    "__pycache__",
    "lost+found",
    "lost.dir",
    "network trash folder",
    "recycler",
    "system volume information",
    "temporary items",
    "thevolumesettingsfolder",
    "~snapshot",
];

/// How names of compressed tar archives end, in lower case.
const COMPRESSED_TAR: &[&str] =
    &[".tar.bz2", ".tar.gz", ".tar.lz4", ".tar.xz", ".tar.zst", ".tbz2", ".tgz", ".txz", ".tzst"];

/// How browsers and download programs call a file that is not whole yet, in lower case.
const UNFINISHED: &[&str] = &[
    "!ut",
    "aria2",
    "crdownload",
    "download",
    "filepart",
    "incomplete",
    "opdownload",
    "part",
    "partial",
];

/// What a file is, by its name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// An image that is read.
    Image,
    /// Anything else, with the reason for which it is skipped.
    Skipped(Cow<'static, str>),
}

/// Reads the name of a file.
pub(crate) fn file_kind(name: &OsStr) -> FileKind {
    let text = name.to_string_lossy();
    if text.starts_with("._") {
        return FileKind::Skipped("AppleDouble file(s) (._*)".into());
    }
    if text.starts_with('.') {
        return FileKind::Skipped("hidden file(s)".into());
    }
    let lower = text.to_lowercase();
    if SYSTEM_FILES.contains(&lower.as_str()) {
        return FileKind::Skipped("file(s) of the operating system".into());
    }
    if is_image(Path::new(name)) {
        return FileKind::Image;
    }
    if let Some(ending) = compressed_tar(name) {
        return FileKind::Skipped(format!("compressed archive(s) ({ending})").into());
    }
    let extension = Path::new(&lower).extension().and_then(OsStr::to_str);
    FileKind::Skipped(match extension {
        Some(kind) if UNFINISHED.contains(&kind) => {
            format!("unfinished download(s) (.{kind})").into()
        }
        Some(kind) if UNREAD_IMAGES.contains(&kind) => {
            format!("image(s) of a kind that is not read (.{kind})").into()
        }
        Some("cls") => {
            "label file(s) of an unpacked shard (.cls), which are only read in shards (pack them \
                        and the images into a .tar)"
                .into()
        }
        Some(kind) if ORDINARY.contains(&kind) => OTHER.into(),
        Some(kind) if is_plain(kind) => format!("file(s) that are not images (.{kind})").into(),
        Some(_) if has_inner_extension(&lower) => {
            "image(s) whose names go on behind the extension (rename them)".into()
        }
        Some(_) => OTHER.into(),
        None if ORDINARY_NAMES.contains(&lower.as_str()) => OTHER.into(),
        None => "file(s) without an extension".into(),
    })
}

const OTHER: &str = "other file(s)";

/// Whether the extension of an image stands in a name with something behind it: `0.jpg_large`, `0.jpg.1`.
fn has_inner_extension(lower: &str) -> bool {
    EXTENSIONS.iter().any(|extension| {
        let dotted = format!(".{extension}");
        let mut ends = lower.match_indices(&dotted).map(|(at, _)| &lower[at + dotted.len()..]);
        ends.any(|rest| rest.starts_with(|letter: char| !letter.is_alphanumeric()))
    })
}

/// The ending of the name of a compressed tar archive.
pub(crate) fn compressed_tar(name: &OsStr) -> Option<&'static str> {
    let lower = name.to_string_lossy().to_lowercase();
    COMPRESSED_TAR.iter().find(|ending| lower.ends_with(*ending)).copied()
}

/// Whether an extension says something: not a number or a sentence.
fn is_plain(extension: &str) -> bool {
    let letters = extension.chars();
    extension.len() <= 8
        && letters.clone().all(|letter| letter.is_ascii_alphanumeric())
        && letters.clone().any(|letter| letter.is_ascii_alphabetic())
}

/// Why a folder of this name is not listed, if it is not.
pub(crate) fn skipped_folder(name: &OsStr) -> Option<&'static str> {
    let text = name.to_string_lossy();
    if is_system_folder(&text.to_lowercase()) {
        return Some("folder(s) of the operating system");
    }
    text.starts_with('.').then_some("hidden folder(s)")
}

fn is_system_folder(lower: &str) -> bool {
    // `FOUND.000` and on: what Windows found while it repaired a disk.
    let is_repaired = lower.strip_prefix("found.").is_some_and(|number| {
        number.len() == 3 && number.bytes().all(|digit| digit.is_ascii_digit())
    });
    is_repaired || lower.ends_with(".lrdata") || SYSTEM_FOLDERS.contains(&lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_files_are() {
        for name in ["a.jpg", "a.JPE", "b.Jfif", "c.tar.png", "x.WEBP", "e.tif"] {
            assert_eq!(file_kind(OsStr::new(name)), FileKind::Image, "{name}");
        }
        for (name, reason) in [
            ("a.HEIC", "image(s) of a kind that is not read (.heic)"),
            ("a.avif", "image(s) of a kind that is not read (.avif)"),
            ("a.ppm", "image(s) of a kind that is not read (.ppm)"),
            ("._a.jpg", "AppleDouble file(s) (._*)"),
            (".DS_Store", "hidden file(s)"),
            (".a.jpg", "hidden file(s)"),
            ("Thumbs.db", "file(s) of the operating system"),
            ("desktop.ini", "file(s) of the operating system"),
            ("labels.csv", "other file(s)"),
            ("README", "other file(s)"),
            ("a.2019-11", "other file(s)"),
            ("a.v 2 final", "other file(s)"),
            ("a.mp4", "file(s) that are not images (.mp4)"),
            ("a.jpg.part", "unfinished download(s) (.part)"),
            ("0.tar.crdownload", "unfinished download(s) (.crdownload)"),
            ("0.tar.GZ", "compressed archive(s) (.tar.gz)"),
            ("0.tgz", "compressed archive(s) (.tgz)"),
            ("a.jpg~", "image(s) whose names go on behind the extension (rename them)"),
            ("a.JPG_large", "image(s) whose names go on behind the extension (rename them)"),
            ("x.png.1", "image(s) whose names go on behind the extension (rename them)"),
            ("a.jpg.txt", "other file(s)"),
            ("00012", "file(s) without an extension"),
        ] {
            let found = file_kind(OsStr::new(name));
            assert_eq!(found, FileKind::Skipped(reason.into()), "{name}");
        }
    }

    #[test]
    fn folders_of_systems_and_hidden_ones_are_not_listed() {
        for name in [
            "__MACOSX",
            "@eaDir",
            "lost+found",
            "$RECYCLE.BIN",
            "@__thumb",
            "#snapshot",
            "@Recently-Snapshot",
            "FOUND.000",
            "found.012",
        ] {
            let reason = skipped_folder(OsStr::new(name));
            assert_eq!(reason, Some("folder(s) of the operating system"), "{name}");
        }
        for name in [".git", ".ipynb_checkpoints", ".cache"] {
            assert_eq!(skipped_folder(OsStr::new(name)), Some("hidden folder(s)"), "{name}");
        }
        for name in ["cats", "macosx", "system", "found", "found.cats", "snapshot"] {
            assert_eq!(skipped_folder(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn tables_are_sorted_and_hold_no_image_that_is_read() {
        for table in [
            UNREAD_IMAGES,
            ORDINARY,
            ORDINARY_NAMES,
            SYSTEM_FILES,
            SYSTEM_FOLDERS,
            COMPRESSED_TAR,
            UNFINISHED,
        ] {
            assert!(table.is_sorted_by(|a, b| a < b), "{table:?}");
        }
        let read = UNREAD_IMAGES.iter().chain(ORDINARY);
        let read = read.filter(|kind| EXTENSIONS.contains(kind));
        assert_eq!(read.count(), 0);
    }
}
