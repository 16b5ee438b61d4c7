//! Reading an image that is a file of its own.
//!
//! Folders, lists and PASCAL VOC name files that anything may be behind: a pipe without a writer
//! blocks whoever opens it, and a sparse file of 200 GB fills the memory of whoever reads it. Both
//! are known before the file is opened.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::decode::decode;
use crate::{DataError, Image};

/// Larger files of images are refused.
pub(crate) const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// Reads and decodes the image in a file.
///
/// [`DataError::Read`] if the file cannot be read, [`DataError::Malformed`] if it is not a regular
/// file, is larger than [`MAX_IMAGE_BYTES`] or holds no sound image.
pub(crate) fn read_image(path: &Path) -> Result<Image<'static>, DataError> {
    let metadata = fs::metadata(path).map_err(DataError::read(path))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a folder" } else { "a pipe, socket or device" };
        return Err(DataError::malformed(path, format!("is {what}, not an image file")));
    }
    let length = metadata.len();
    if length > MAX_IMAGE_BYTES {
        return Err(too_large(path, length));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    let file = File::open(path).map_err(DataError::read(path))?;
    // It may have grown since.
    file.take(MAX_IMAGE_BYTES + 1).read_to_end(&mut bytes).map_err(DataError::read(path))?;
    if bytes.len() as u64 > MAX_IMAGE_BYTES {
        Err(too_large(path, bytes.len() as u64))
    } else {
        decode(&bytes, path)
    }
}

fn too_large(path: &Path, bytes: u64) -> DataError {
    let reason = format!("has {bytes} bytes; images of at most {MAX_IMAGE_BYTES} are read");
    DataError::malformed(path, reason)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_regular_files_of_a_sane_size_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let refusal = |name: &str| read_image(&place(name)).unwrap_err().to_string();

        image::RgbImage::from_pixel(3, 2, image::Rgb([9, 8, 7])).save(place("sound.png")).unwrap();
        assert_eq!(read_image(&place("sound.png")).unwrap().rgb()[..3], [9, 8, 7]);
        symlink(place("sound.png"), place("link.png")).unwrap();
        assert_eq!(read_image(&place("link.png")).unwrap().width(), 3);

        // Sparse: it takes no room on the disk, and would take 200 GB of memory.
        let sparse = File::create(place("sparse.jpg")).unwrap();
        sparse.set_len(200_000_000_000).unwrap();
        let message = refusal("sparse.jpg");
        let expected = "sparse.jpg: has 200000000000 bytes; images of at most 1073741824 are read";
        assert!(message.ends_with(expected), "{message}");
        sparse.set_len(MAX_IMAGE_BYTES + 1).unwrap();
        assert!(refusal("sparse.jpg").contains("has 1073741825 bytes"));

        fs::create_dir(place("folder.jpg")).unwrap();
        assert!(refusal("folder.jpg").ends_with("is a folder, not an image file"));
        let _socket = UnixListener::bind(place("socket.jpg")).unwrap();
        assert!(refusal("socket.jpg").ends_with("is a pipe, socket or device, not an image file"));
        symlink("/dev/zero", place("device.png")).unwrap();
        assert!(refusal("device.png").contains("is a pipe, socket or device"));
        symlink("nowhere", place("dangling.png")).unwrap();
        assert!(refusal("dangling.png").starts_with("cannot read "));
    }
}
