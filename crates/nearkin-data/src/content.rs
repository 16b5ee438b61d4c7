//! What the first bytes of a file say about its content.

/// Kinds of images that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageKind {
    Bmp,
    Jpeg,
    Png,
    Tiff,
    WebP,
}

/// Kinds of images that are not read, by what they start with.
const OTHER_IMAGES: [(&[u8], &str); 16] = [
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\x01\0", "an ICO image"),
    (b"8BPS", "a Photoshop file"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"qoif", "a QOI image"),
    (b"DDS ", "a DDS image"),
    (b"P4\n", "a PBM image"),
    (b"P5\n", "a PGM image"),
    (b"P6\n", "a PPM image"),
    (b"SIMPLE  =", "a FITS file"),
];

/// What stands in a file that git-lfs has not fetched yet.
pub(crate) const GIT_LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Content that is not an image, by what it starts with.
const NO_IMAGES: [(&[u8], &str); 8] = [
    (GIT_LFS_POINTER, "is a git-lfs pointer, not the image: run git lfs pull"),
    (b"%PDF", "is a PDF document, not an image"),
    (b"PK\x03\x04", "is a zip archive, not an image"),
    (b"\x1f\x8b", "is gzip-compressed, not an image"),
    (b"Rar!", "is a RAR archive, not an image"),
    (b"\x89HDF", "is an HDF5 file, not an image"),
    (b"\x93NUMPY", "is a NumPy array, not an image"),
    (b"PAR1", "is a parquet file, not an image"),
];

/// The error is the reason why the content is not read, to follow the name of the file.
pub(crate) fn detect(bytes: &[u8]) -> Result<ImageKind, String> {
    match bytes {
        [] => Err("the file is empty (0 bytes)".into()),
        [0xff, 0xd8, 0xff, ..] => Ok(ImageKind::Jpeg),
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Ok(ImageKind::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(ImageKind::WebP),
        [b'B', b'M', ..] => Ok(ImageKind::Bmp),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Ok(ImageKind::Tiff),
        _ => Err(other_content(bytes)),
    }
}

fn other_content(bytes: &[u8]) -> String {
    let starts_so = |(start, _): &&(&[u8], &str)| bytes.starts_with(start);
    if let Some((_, reason)) = NO_IMAGES.iter().find(starts_so) {
        return (*reason).into();
    }
    let known = OTHER_IMAGES.iter().find(starts_so).map(|(_, kind)| *kind);
    if let Some(kind) = known.or_else(|| media_kind(bytes)) {
        return format!("{kind}, a kind that is not read; convert it to JPEG or PNG");
    }
    match text_kind(bytes) {
        Some("svg") => "an SVG drawing, a kind that is not read; convert it to PNG".into(),
        Some(_) => "is an HTML page, not an image; the download may have failed".into(),
        None => "the content is not that of a JPEG, PNG, WebP, BMP or TIFF image".into(),
    }
}

/// The kind of a file in the container that MP4 uses, too. Its brands tell.
fn media_kind(bytes: &[u8]) -> Option<&'static str> {
    let brands = bytes.get(4..64.min(bytes.len()))?.strip_prefix(b"ftyp")?;
    let has = |names: &[&[u8; 4]]| brands.as_chunks().0.iter().any(|brand| names.contains(&brand));
    if has(&[b"avif", b"avis"]) {
        Some("an AVIF image")
    } else if has(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        Some("a HEIC image")
    } else if has(&[b"crx "]) {
        Some("a raw photograph (CR3)")
    } else {
        Some("a video")
    }
}

/// Whether the content starts as a text of markup, and of which.
fn text_kind(bytes: &[u8]) -> Option<&'static str> {
    const SEARCHED_BYTES: usize = 1024;
    let start = bytes[..bytes.len().min(SEARCHED_BYTES)].to_ascii_lowercase();
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start).trim_ascii_start();
    let has = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
    if !text.starts_with(b"<") {
        None
    } else if has(b"<svg") {
        Some("svg")
    } else if has(b"<html") || has(b"<!doctype html") {
        Some("html")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_that_are_read_are_told_apart() {
        assert_eq!(detect(&[0xff, 0xd8, 0xff, 0xe0]), Ok(ImageKind::Jpeg));
        assert_eq!(detect(b"RIFF1234WEBPVP8 "), Ok(ImageKind::WebP));
        assert_eq!(detect(b"II\x2b\0\x08\0"), Ok(ImageKind::Tiff));
        assert_eq!(detect(b"MM\0\x2a"), Ok(ImageKind::Tiff));
    }

    #[test]
    fn other_content_is_named() {
        let reason = |bytes: &[u8]| detect(bytes).unwrap_err();
        let kinds: [(&[u8], &str); 9] = [
            (
                b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
                "a HEIC image, a kind that is not read; convert it to JPEG or PNG",
            ),
            (b"\0\0\0\x1cftypmif1\0\0\0\0avifmiaf", "an AVIF image, a kind"),
            (b"\0\0\0\x18ftypisom\0\0\x02\0mp41", "a video, a kind"),
            (b"GIF89a\x01\0", "a GIF image, a kind"),
            (b"\xff\x0a\x12", "a JPEG XL image, a kind"),
            (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 image, a kind"),
            (
                b"<?xml version=\"1.0\"?>\n<svg xmlns=\"\">",
                "an SVG drawing, a kind that is not read; convert it to PNG",
            ),
            (b"\n<!DOCTYPE HTML><html>", "is an HTML page, not an image"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "is a git-lfs pointer"),
        ];
        for (bytes, expected) in kinds {
            let reason = reason(bytes);
            assert!(reason.starts_with(expected), "{reason}");
        }
        for bytes in [&b"some text"[..], b"<note>", b"\0\0\0\x18ft", b"II\x01", b"\xff\xd8"] {
            assert!(
                reason(bytes).contains("the content is not that of a JPEG"),
                "{}",
                reason(bytes)
            );
        }
    }
}
