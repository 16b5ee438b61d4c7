//! Folders for tests of what names of files mean.

use std::fs;

use tempfile::TempDir;

/// A temporary folder with these files, all of them empty.
pub(crate) fn empty_files<S: AsRef<str>>(files: &[S]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file.as_ref());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    root
}
