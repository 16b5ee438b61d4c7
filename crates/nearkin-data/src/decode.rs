//! From the bytes of an image file to pixels.
//!
//! Folders, lists and archives all hold the same kinds of image files; here is the one place that
//! decodes them, so that limits and the treatment of odd files are the same for all.
//!
//! JPEG (grey, YCbCr, RGB, CMYK and YCCK; baseline and progressive), PNG, WebP, BMP and TIFF are
//! read. The content decides how a file is decoded, since data sets do contain PNG files called
//! `.JPEG`. Pixels become 8-bit RGB: grey becomes three equal channels, 16 bits are reduced to 8,
//! palettes are looked up, and alpha is dropped, not blended. Of several pages or frames the first
//! one counts.
//!
//! An Exif orientation is applied: a photograph stands upright. torchvision's `ImageFolder` does
//! not do that unless asked to, so for such files its pixels are those of the camera's sensor
//! instead. The usual data sets have none.

use std::ffi::OsStr;
use std::io::Cursor;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::{DataError, Image};

/// Images that are longer than so many times their width, or the other way round, are refused.
const MAX_ASPECT_RATIO: u32 = 100;

/// Larger images are refused: 400 MB of RGB are a mistake or an attack, not training data.
const MAX_PIXELS: u64 = 1 << 27;
/// What a decoder may allocate: the largest image at the largest pixel (RGBA of 16 bits).
const MAX_DECODER_BYTES: u64 = 8 * MAX_PIXELS;

/// How names of images end, in any case.
pub(crate) const EXTENSIONS: [&str; 9] =
    ["bmp", "jfif", "jpe", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// What stands in a file that git-lfs has not fetched yet.
pub(crate) const GIT_LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

pub(crate) fn is_image(name: &Path) -> bool {
    let extension = name.extension().and_then(OsStr::to_str);
    extension.is_some_and(|found| EXTENSIONS.iter().any(|known| found.eq_ignore_ascii_case(known)))
}

/// Decodes an image of any of the formats, upright, to 8-bit RGB.
///
/// [`DataError::Malformed`] with `path` if the content is not that of an image, is damaged or cut,
/// or has more pixels or a longer side than any picture.
pub fn decode(bytes: &[u8], path: &Path) -> Result<Image<'static>, DataError> {
    guarded(|| try_decode(bytes)).map_err(|reason| DataError::malformed(path, reason))
}

/// Readers of other crates are large, and not all of them return from every damaged file. One that
/// panics must not end a run, so its panic becomes a reason; what it held is dropped.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    std::panic::catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("it is damaged in a way that its reader does not foresee".into()))
}

/// The error is the reason, to follow the name of the file.
fn try_decode(bytes: &[u8]) -> Result<Image<'static>, String> {
    if bytes.is_empty() {
        return Err("the file is empty (0 bytes)".into());
    }
    if bytes.starts_with(GIT_LFS_POINTER) {
        return Err("is a git-lfs pointer, not the image: run git lfs pull".into());
    }
    let cannot_decode = |error: &dyn std::error::Error| format!("cannot decode the image: {error}");
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| cannot_decode(&error))?;
    let Some(format) = reader.format() else {
        return Err("the content is not that of a JPEG, PNG, WebP, BMP or TIFF image".into());
    };
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| cannot_decode(&error))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("{width}x{height} pixels are more than the {MAX_PIXELS} allowed"));
    }
    // Resized to a given shorter side, a line of pixels would become an image of any length.
    if width.max(height) / width.min(height).max(1) > MAX_ASPECT_RATIO {
        return Err(format!(
            "{width}x{height}: one side is over {MAX_ASPECT_RATIO} times the other"
        ));
    }
    if format == image::ImageFormat::Png && png_palette_is_damaged(bytes) {
        return Err("cannot decode the image: its palette is not one of whole colours".into());
    }
    if format == image::ImageFormat::Jpeg && jpeg_is_truncated(bytes) {
        return Err("the JPEG is truncated: its end marker is missing".into());
    }
    // Damaged metadata are no reason to refuse the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(|error| cannot_decode(&error))?;
    decoded.apply_orientation(orientation);
    let rgb = decoded.into_rgb8();
    Image::new(rgb.width() as usize, rgb.height() as usize, rgb.into_raw())
        .ok_or_else(|| format!("the image has no pixels ({width}x{height})"))
}

/// Whether a palette ends within a colour, at which the decoder panics.
fn png_palette_is_damaged(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let [a, b, c, d, kind @ ..] = rest
        && !kind.starts_with(b"IDAT")
    {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if kind.starts_with(b"PLTE") {
            return !length.is_multiple_of(3);
        }
        // Its kind before the content, its checksum behind.
        rest = length.checked_add(8).and_then(|end| kind.get(end..)).unwrap_or_default();
    }
    false
}

/// Whether no end marker follows the start of the pixel data.
///
/// The decoder fills what is missing with grey and reports success, which would silently train on
/// grey images. Headers are skipped by their lengths, because an embedded thumbnail is a whole JPEG
/// with an end marker of its own.
fn jpeg_is_truncated(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        match rest {
            [0xff, START_OF_SCAN, scan @ ..] => {
                // Searched from the end, where the marker nearly always is.
                return !scan.windows(2).rev().any(|pair| pair == [0xff, 0xd9]);
            }
            // Markers without content, and the fill bytes that may precede a marker.
            [0xff, 0x01 | 0xd0..=0xd7, after @ ..] => rest = after,
            [0xff, 0xff, ..] => rest = &rest[1..],
            [0xff, _, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest = rest.get(2 + length..).unwrap_or_default();
            }
            // The decoder tolerates stray bytes between headers.
            [_, after @ ..] => rest = after,
            [] => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb, RgbImage};
    use serde::Deserialize;

    use super::*;

    /// An image of many formats, with what Pillow makes of it; `scripts/fixtures/data.py` wrote
    /// them.
    #[derive(Deserialize)]
    struct Case {
        name: String,
        width: usize,
        height: usize,
        /// By how much a channel may differ.
        allowed: u8,
        offset: usize,
        bytes: usize,
    }

    fn cases() -> Vec<(Case, &'static [u8], &'static [u8])> {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../tests/fixtures/images.json")).unwrap();
        let stored: &[u8] = include_bytes!("../tests/fixtures/images.bin");
        let part = |case: Case| {
            let (file, rest) = stored[case.offset..].split_at(case.bytes);
            let pixels = &rest[..case.width * case.height * 3];
            (case, file, pixels)
        };
        cases.into_iter().map(part).collect()
    }

    #[test]
    fn every_format_has_the_pixels_of_pillow() {
        let mut differing = Vec::new();
        for (case, file, expected) in cases() {
            let image = decode(file, Path::new(&case.name)).unwrap();
            assert_eq!((image.width(), image.height()), (case.width, case.height), "{}", case.name);
            let apart = image.rgb().iter().zip(expected).map(|(&a, &b)| a.abs_diff(b)).max();
            if apart > Some(case.allowed) {
                differing.push((case.name, apart));
            }
        }
        assert_eq!(differing, []);
    }

    #[test]
    fn a_palette_that_is_none_is_refused() {
        let (_, sound, _) =
            cases().into_iter().find(|(case, _, _)| case.name == "palette.png").unwrap();
        let at = sound.windows(4).position(|kind| kind == b"PLTE").unwrap();
        let length = usize::from(sound[at - 1]);
        let chunk = [b"PLTE", &sound[at + 4..][..length - 2]].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&chunk);
        let damaged = [
            &sound[..at - 4],
            &(length as u32 - 2).to_be_bytes(),
            &chunk,
            &crc.sum().to_be_bytes(),
            &sound[at + 8 + length..],
        ]
        .concat();
        let message = decode(&damaged, Path::new("some.png")).unwrap_err().to_string();
        assert!(message.contains("its palette is not one of whole colours"), "{message}");
    }

    #[test]
    fn a_git_lfs_pointer_is_named() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        let message = decode(pointer.as_bytes(), Path::new("a.jpg")).unwrap_err().to_string();
        assert_eq!(message, "a.jpg: is a git-lfs pointer, not the image: run git lfs pull");
    }

    #[test]
    fn a_reader_that_panics_is_a_reason() {
        let read = |bytes: &[u8]| guarded(|| Ok(bytes[9]));
        assert_eq!(read(&[0; 10]), Ok(0));
        assert!(read(&[]).unwrap_err().contains("damaged in a way that its reader"));
    }

    #[test]
    fn cut_images_are_refused() {
        for (case, file, _) in cases() {
            // Only a JPEG has an end mark; what follows the pixels of the others may be metadata.
            let length = match case.name.ends_with("jpg") {
                true => file.len() - 2,
                false => file.len() / 3,
            };
            let message = decode(&file[..length], Path::new(&case.name)).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{}: ", case.name)), "{message}");
        }
    }

    #[test]
    fn bombs_of_the_plain_formats_are_refused_before_they_are_decoded() {
        let encode = |format| {
            let mut bytes = Cursor::new(Vec::new());
            RgbImage::from_pixel(4, 4, Rgb([1, 2, 3])).write_to(&mut bytes, format).unwrap();
            bytes.into_inner()
        };
        let mut bmp = encode(ImageFormat::Bmp);
        bmp[18..26].copy_from_slice(&[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]);
        let message = decode(&bmp, Path::new("bomb.bmp")).unwrap_err().to_string();
        assert!(message.contains("65535x65535 pixels are more than the 134217728"), "{message}");
        let mut tiff = encode(ImageFormat::Tiff);
        // Width and height are the entries 256 and 257, the value of which follows eight bytes
        // later.
        for tag in [[0, 1], [1, 1]] {
            let at = (0..tiff.len()).find(|&at| tiff[at..].starts_with(&tag) && tiff[at + 4] == 1);
            tiff[at.unwrap() + 8..][..4].copy_from_slice(&[0xff, 0xff, 0, 0]);
        }
        let message = decode(&tiff, Path::new("bomb.tif")).unwrap_err().to_string();
        assert!(message.starts_with("bomb.tif: "), "{message}");
    }

    proptest::proptest! {
        #[test]
        fn damaged_images_are_decoded_or_refused(
            which in 0..100_usize, at in 0..1_000_usize, byte in proptest::num::u8::ANY,
            cut in 0..1_500_usize,
        ) {
            let cases = cases();
            let mut bytes = cases[which % cases.len()].1.to_vec();
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(cut);
            if let Ok(image) = decode(&bytes, Path::new("some")) {
                proptest::prop_assert_eq!(image.rgb().len(), image.width() * image.height() * 3);
            }
        }
    }
}
