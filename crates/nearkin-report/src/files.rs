//! Files that are either whole or not there.
//!
//! A run can be killed at any moment, and what it wrote is read by its own continuation. So a file
//! is written beside its place and renamed into it once its bytes are on the disk.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process;

use crate::ReportError;

/// The extension of a file that is still being written.
const TEMPORARY: &str = "nearkin-tmp";

/// Writes the file at `path` so that a reader, or a crash, meets the old content or the new content
/// and nothing in between.
///
/// `write` fills a temporary file in the same folder; it is flushed, synchronised with the disk and
/// renamed to `path`, then the folder is synchronised too. If anything fails before the renaming,
/// `path` is as it was and the temporary file is removed; if the process is killed, the next
/// [`RunFolder::open`](crate::RunFolder::open) of its run removes it.
///
/// # Errors
///
/// [`ReportError::Write`] with `path` and whatever `write` or the file system reported.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), ReportError> {
    replace(path, write).map_err(ReportError::writing(path))
}

fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let (temporary, file) = create_temporary(path)?;
    let written = fill(file, write).and_then(|file| {
        fs::rename(&temporary, path)?;
        // Held until here: an unlocked temporary counts as abandoned.
        drop(file);
        synchronise_folder(folder_of(path))
    });
    if written.is_err() {
        // The error to report is the first one; a temporary that stays is cleaned up later.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn fill(
    file: File,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<File> {
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(file)
}

/// A new, locked file beside `path`.
fn create_temporary(path: &Path) -> io::Result<(PathBuf, File)> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"));
    };
    let mut attempt = 0_u64;
    loop {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}-{attempt}.{TEMPORARY}", process::id()));
        let temporary = folder_of(path).join(temporary);
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => {
                // Where the file system has no locks, nobody can take one to clean up either.
                let _ = file.lock();
                // A cleaner may have come between creation and lock; later it cannot.
                if fs::exists(&temporary)? {
                    return Ok((temporary, file));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        attempt += 1;
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes a rename in `folder` last through a power cut.
fn synchronise_folder(folder: &Path) -> io::Result<()> {
    // Only Unix lets a folder be opened like a file.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Removes the temporary files that killed writers left in `folder`, and below it when `recursive`.
///
/// A living writer holds a lock on its file, so opening a run that is still training takes nothing
/// away from it. This is housekeeping: what cannot be read or removed stays.
pub(crate) fn remove_abandoned_temporaries(folder: &Path, recursive: bool) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if recursive {
                remove_abandoned_temporaries(&path, true);
            }
        } else if kind.is_file()
            && path.extension().is_some_and(|extension| extension == TEMPORARY)
            && let Ok(file) = OpenOptions::new().write(true).open(&path)
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names_in(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_atomically(&path, |out| out.write_all(b"old")).unwrap();
        write_atomically(&path, |out| {
            out.write_all(b"new")?;
            out.flush()?;
            assert_eq!(fs::read(&path)?, b"old", "not visible before it is complete");
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names_in(folder.path()), ["a.txt"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_atomically(&path, |out| out.write_all(b"old")).unwrap();
        let error = write_atomically(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        })
        .unwrap_err();
        assert!(error.to_string().contains("a.txt: disk full"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names_in(folder.path()), ["a.txt"]);
    }

    #[test]
    fn errors_name_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("a.txt");
        let error = write_atomically(&path, |_| Ok(())).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot write {}", path.display())), "{error}");
    }

    #[test]
    fn cleaning_takes_abandoned_temporaries_and_spares_living_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let abandoned = folder.path().join(format!(".a.txt.{}-0.{TEMPORARY}", process::id()));
        fs::write(&abandoned, "half").unwrap();
        fs::write(folder.path().join("other.tmp"), "not ours").unwrap();
        write_atomically(&path, |out| {
            assert_eq!(names_in(folder.path()).len(), 3);
            remove_abandoned_temporaries(folder.path(), false);
            assert!(!fs::exists(&abandoned)?);
            assert_eq!(names_in(folder.path()).len(), 2, "the living one stays");
            out.write_all(b"whole")
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }
}
