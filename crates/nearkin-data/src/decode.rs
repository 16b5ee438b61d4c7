//! From the bytes of an image file to pixels.
//!
//! Folders, lists and archives all hold the same kinds of image files. This is the one place that
//! decodes them, so that limits and the treatment of odd files are the same for all.
//!
//! JPEG, PNG, WebP, BMP and TIFF are read. The content decides how a file is decoded, since data sets
//! do contain PNG files called `.JPEG`. Pixels become 8-bit RGB as in Pillow's `convert("RGB")`: gray
//! becomes three equal channels, palettes are looked up, and alpha is dropped, not blended. 16 bits
//! are scaled to 8, where Pillow clips some files. Of several pages or frames the first one counts.
//! Kinds whose pixels could be other than Pillow's are refused with a reason.
//!
//! The orientation in Exif or XMP metadata is applied: a photograph stands upright. torchvision's
//! `ImageFolder` does not do that unless asked to, so for such files its pixels are those of the
//! camera's sensor instead. The usual data sets have none.
//!
//! Metadata is skipped before a decoder sees it. Otherwise a compressed color profile of one megabyte
//! takes gigabytes.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Cursor;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use crate::content::{self, ImageKind};
use crate::exif::{self, Stated};
use crate::jpeg::JpegDecoder;
use crate::tiff::TiffDecoder;
use crate::{DataError, Image, png, webp};

/// An image is refused if one of its sides is longer than the other by more than this factor.
const MAX_ASPECT_RATIO: u32 = 100;

/// Larger images are refused: 400 MB of RGB are a mistake or an attack, not training data.
const MAX_PIXELS: u64 = 1 << 27;
/// What a decoder may allocate: the largest image at the largest pixel (RGBA of 16 bits).
const MAX_DECODER_BYTES: u64 = 8 * MAX_PIXELS;

/// How names of images end, in any case.
pub(crate) const EXTENSIONS: [&str; 9] =
    ["bmp", "jfif", "jpe", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// What a decoder says about a file may quote the file. Longer messages are cut.
const MAX_REASON_CHARS: usize = 200;

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
    let (rgb, orientation) = match content::detect(bytes)? {
        ImageKind::Jpeg => decode_jpeg(bytes)?,
        ImageKind::Tiff => decode_tiff(bytes)?,
        ImageKind::Png => {
            let needed = png::without_metadata(bytes)?;
            let (exif, xmp) = (needed.metadata.exif(), needed.metadata.xmp());
            let rgb = decode_plain(&needed.png, ImageFormat::Png)?;
            (rgb, orientation(exif.as_deref(), xmp.as_deref()))
        }
        ImageKind::WebP => {
            webp::check_length(bytes)?;
            let metadata = webp::metadata(bytes);
            let rgb = decode_plain(bytes, ImageFormat::WebP)?;
            (rgb, orientation(metadata.exif, metadata.xmp))
        }
        ImageKind::Bmp => (decode_plain(bytes, ImageFormat::Bmp)?, Orientation::NoTransforms),
    };
    let mut upright = DynamicImage::ImageRgb8(rgb);
    upright.apply_orientation(orientation);
    let rgb = upright.into_rgb8();
    Image::new(rgb.width() as usize, rgb.height() as usize, rgb.into_raw())
        .ok_or_else(|| "the image has no pixels".into())
}

fn decode_jpeg(bytes: &[u8]) -> Result<(RgbImage, Orientation), String> {
    let decoder = JpegDecoder::new(bytes).map_err(cannot_decode)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let orientation = orientation(decoder.exif(), decoder.xmp());
    let rgb = decoder.decode(MAX_DECODER_BYTES).map_err(cannot_decode)?;
    Ok((rgb_image(width, height, rgb)?, orientation))
}

fn decode_tiff(bytes: &[u8]) -> Result<(RgbImage, Orientation), String> {
    let decoder = TiffDecoder::new(bytes).map_err(cannot_decode)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let orientation =
        exif::orientation(decoder.orientation().map(Stated::from_number), decoder.xmp());
    let rgb = decoder.decode().map_err(cannot_decode)?;
    Ok((rgb_image(width, height, rgb)?, orientation))
}

/// Decodes with the `image` crate, without its metadata.
fn decode_plain(bytes: &[u8], format: ImageFormat) -> Result<RgbImage, String> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(cannot_decode)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    Ok(DynamicImage::from_decoder(decoder).map_err(cannot_decode)?.into_rgb8())
}

fn rgb_image(width: u32, height: u32, rgb: Vec<u8>) -> Result<RgbImage, String> {
    RgbImage::from_raw(width, height, rgb).ok_or_else(|| "the image has no pixels".into())
}

fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    exif::orientation(exif.and_then(exif::in_exif), xmp)
}

fn check_size(width: u32, height: u32) -> Result<(), String> {
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!("{width}x{height} pixels are more than the {MAX_PIXELS} allowed"));
    }
    // Resized to a given shorter side, a line of pixels would become an image of any length.
    if width.max(height) / width.min(height).max(1) > MAX_ASPECT_RATIO {
        return Err(format!(
            "{width}x{height}: one side is over {MAX_ASPECT_RATIO} times the other"
        ));
    }
    Ok(())
}

fn cannot_decode(reason: impl Display) -> String {
    clipped(&format!("cannot decode the image: {reason}"))
}

/// On one line, and of a sensible length.
fn clipped(reason: &str) -> String {
    let reason = reason.trim_end();
    let shown = |character: char| if character.is_control() { '?' } else { character };
    let mut clipped: String = reason.chars().take(MAX_REASON_CHARS).map(shown).collect();
    if clipped.len() < reason.len() {
        clipped.push_str(" ...");
    }
    clipped
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::LazyLock;

    use image::Rgb;
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
        pixels: usize,
    }

    static STORED: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut stored = Vec::new();
        let file: &[u8] = include_bytes!("../tests/fixtures/images.zlib");
        flate2::read::ZlibDecoder::new(file).read_to_end(&mut stored).unwrap();
        stored
    });

    fn cases() -> Vec<(Case, &'static [u8], &'static [u8])> {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../tests/fixtures/images.json")).unwrap();
        let part = |case: Case| {
            let file = &STORED[case.offset..][..case.bytes];
            let pixels = &STORED[case.pixels..][..case.width * case.height * 3];
            (case, file, pixels)
        };
        cases.into_iter().map(part).collect()
    }

    fn file(name: &str) -> &'static [u8] {
        cases().into_iter().find(|(case, _, _)| case.name == name).unwrap().1
    }

    fn refusal(bytes: &[u8]) -> String {
        decode(bytes, Path::new("some")).unwrap_err().to_string()
    }

    fn pixels(bytes: &[u8]) -> Vec<u8> {
        decode(bytes, Path::new("some")).unwrap().into_rgb()
    }

    fn place(bytes: &[u8], wanted: &[u8]) -> usize {
        bytes.windows(wanted.len()).position(|found| found == wanted).unwrap()
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
    fn a_jpeg_that_ends_early_is_refused_at_every_length() {
        for name in ["420.jpg", "420-alone.jpg", "420-progressive.jpg", "cmyk-split.jpg"] {
            let whole = file(name);
            for length in 3..whole.len() {
                let message = refusal(&whole[..length]);
                assert!(message.contains("the JPEG is truncated"), "{name}, {length}: {message}");
            }
            // The data of the last scan are lost, and the end marker is there.
            let scan = whole.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
            let data = scan + 2 + usize::from(whole[scan + 3]);
            let short = [&whole[..data], &[0xff, 0xd9]].concat();
            assert!(refusal(&short).contains("the JPEG is truncated"), "{name}");
        }
    }

    #[test]
    fn kinds_of_jpeg_that_are_not_read_are_named() {
        let sound = file("420.jpg");
        let frame = place(sound, &[0xff, 0xc0]);
        let patched = |at: usize, value: u8| {
            let mut bytes = sound.to_vec();
            bytes[frame + at] = value;
            refusal(&bytes)
        };
        for (at, value, kind) in [
            (1, 0xc3, "a JPEG with lossless compression is not read; convert it to PNG"),
            (1, 0xc9, "a JPEG with arithmetic coding is not read; convert it to PNG"),
            (1, 0xca, "arithmetic coding"),
            (1, 0xc5, "hierarchical compression"),
            (1, 0xf7, "JPEG-LS compression"),
            (4, 12, "samples of more than 8 bits"),
            (6, 0, "a height that follows the pixels"),
            (8, 0, "its width is 0"),
            (14, 0x31, "a ratio such as 3:2"),
            (11, 0x02, "its sampling factors are not between 1 and 4"),
            (9, 2, "neither 1, 3 nor 4 components"),
        ] {
            let message = patched(at, value);
            assert!(message.contains(kind), "{message}");
        }
    }

    #[test]
    fn what_surrounds_the_pixels_of_a_jpeg_is_no_harm() {
        let sound = file("420-alone.jpg");
        let expected = pixels(sound);
        let other = file("luma-halved.jpg");
        let (start, rest) = sound.split_at(place(sound, &[0xff, 0xdb]));
        let scan = place(sound, &[0xff, 0xda]);
        let thumbnail =
            [&[0xff, 0xe1], &(2 + other.len() as u16).to_be_bytes()[..], other].concat();
        let end = sound.len() - 2;
        for (what, bytes) in [
            ("bytes behind the end", [sound, &[0; 40]].concat()),
            ("a second image", [sound, other].concat()),
            ("a thumbnail", [start, &thumbnail, rest].concat()),
            ("fill bytes", [&sound[..scan], &[0xff; 3], &sound[scan..]].concat()),
            ("stray bytes", [start, &[1, 2, 3], rest].concat()),
            ("bytes before the end", [&sound[..end], &[0; 9], &sound[end..]].concat()),
        ] {
            assert_eq!(pixels(&bytes), expected, "{what}");
        }
        assert!(refusal(&[&[0], sound].concat()).contains("the content is not that of a JPEG"));
    }

    #[test]
    fn missing_and_repeated_parts_of_a_jpeg_are_noticed() {
        let sound = file("420-alone-restarts.jpg");
        let restart = place(sound, &[0xff, 0xd0]);
        let mut bytes = sound.to_vec();
        bytes[restart + 1] = 0xd3;
        assert!(refusal(&bytes).contains("its restart markers are out of order"));
        bytes.drain(restart..restart + 2);
        assert!(refusal(&bytes).contains("the JPEG is"));

        let sound = file("420-alone.jpg");
        let last = sound.windows(2).rposition(|pair| pair == [0xff, 0xc4]).unwrap();
        let bytes = [&sound[..last], &[0xff, 0xd9]].concat();
        assert!(refusal(&bytes).contains("some of its scans are missing"), "{}", refusal(&bytes));
        let bytes = [&sound[..sound.len() - 2], &sound[last..]].concat();
        assert!(refusal(&bytes).contains("it has more scans than it needs"));

        let sound = file("420-progressive.jpg");
        let last = sound.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
        let bytes = [&sound[..last], &[0xff, 0xd9]].concat();
        assert!(refusal(&bytes).contains("some of its scans are missing"));
    }

    #[test]
    fn long_reasons_are_cut_and_stay_on_a_line() {
        let reason = cannot_decode(format!("bad\n{}", "é".repeat(100_000)));
        assert!(reason.starts_with("cannot decode the image: bad?éé"), "{reason}");
        assert!(reason.ends_with("é ...") && reason.chars().count() < 210);
        assert_eq!(cannot_decode("short\n"), "cannot decode the image: short");
    }

    #[test]
    fn a_webp_without_its_end_is_refused() {
        // The end holds the orientation.
        let sound = file("turned-8.webp");
        assert_eq!(decode(sound, Path::new("some")).unwrap().width(), 6);
        assert!(refusal(&sound[..sound.len() - 1]).contains("the WebP is truncated"));
    }

    #[test]
    fn an_orientation_of_32_bits_or_with_more_numbers_turns_the_image() {
        let sound = file("420.jpg");
        let image = decode(sound, Path::new("some")).unwrap();
        for entry in [b"\x04\0\x01\0\0\0\x06\0\0\0", b"\x03\0\x02\0\0\0\x06\0\x01\0"] {
            let exif = [&b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01"[..], entry, &[0; 4]].concat();
            let segment =
                [&[0xff, 0xe1], &(2 + exif.len() as u16).to_be_bytes()[..], &exif].concat();
            let turned = decode(&[&sound[..2], &segment, &sound[2..]].concat(), Path::new("some"));
            let turned = turned.unwrap();
            assert_eq!((turned.width(), turned.height()), (image.height(), image.width()));
        }
    }

    #[test]
    fn an_orientation_in_xmp_or_in_a_text_turns_the_image() {
        const XMP: &[u8] = b"<x tiff:Orientation=\"8\"/>";
        let image = RgbImage::from_fn(3, 2, |x, y| Rgb([x as u8 * 99, y as u8 * 99, 7]));
        let plain = pixels(&encoded(&image, ImageFormat::Png));
        for (name, bytes) in [
            ("jpeg", jpeg_with_xmp(&encoded(&image, ImageFormat::Jpeg), XMP)),
            ("tiff", tiff_with_xmp(&encoded(&image, ImageFormat::Tiff), XMP)),
            ("webp", webp_with_xmp(&encoded(&image, ImageFormat::WebP), XMP)),
            ("png", png_with(&image, b"iTXt", &[b"XML:com.adobe.xmp\0\0\0\0\0", XMP])),
            ("marked", png_with(&image, b"eXIf", &[b"Exif\0\0", &exif(8)])),
            ("raw", png_with(&image, b"tEXt", &[b"Raw profile type exif\0", &raw_exif(8)])),
        ] {
            let turned = decode(&bytes, Path::new(name)).unwrap();
            assert_eq!((turned.width(), turned.height()), (2, 3), "{name}");
            if name != "jpeg" {
                // Turned to the left, the last column is the first row.
                assert_eq!(turned.rgb()[..3], plain[6..9], "{name}");
                assert_eq!(turned.rgb()[3..6], plain[15..], "{name}");
            }
        }
        // An orientation in Exif counts before that in XMP.
        let both = jpeg_with_xmp(&encoded(&image, ImageFormat::Jpeg), XMP);
        let both = jpeg_with(&both, &[b"Exif\0\0", &exif(1)]);
        assert_eq!(decode(&both, Path::new("both")).unwrap().width(), 3);
    }

    fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn exif(orientation: u8) -> Vec<u8> {
        let entry = [b"\x12\x01\x03\0\x01\0\0\0", &[orientation, 0, 0, 0][..]].concat();
        [b"II*\0\x08\0\0\0\x01\0", &entry[..], &[0; 4]].concat()
    }

    fn raw_exif(orientation: u8) -> Vec<u8> {
        let exif = exif(orientation);
        let mut text = format!("\nexif\n{:8}\n", exif.len()).into_bytes();
        exif.iter().for_each(|byte| text.extend(format!("{byte:02x}").bytes()));
        text
    }

    fn jpeg_with(jpeg: &[u8], content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        let length = (2 + content.len() as u16).to_be_bytes();
        [&jpeg[..2], &[0xff, 0xe1], &length, &content, &jpeg[2..]].concat()
    }

    fn jpeg_with_xmp(jpeg: &[u8], xmp: &[u8]) -> Vec<u8> {
        jpeg_with(jpeg, &[b"http://ns.adobe.com/xap/1.0/\0", xmp])
    }

    /// Puts a chunk before the pixels.
    fn png_with(image: &RgbImage, kind: &[u8], content: &[&[u8]]) -> Vec<u8> {
        let png = encoded(image, ImageFormat::Png);
        let chunk = [kind, &content.concat()[..]].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&chunk);
        let length = chunk.len() as u32 - 4;
        let (start, rest) = png.split_at(place(&png, b"IDAT") - 4);
        [start, &length.to_be_bytes(), &chunk, &crc.sum().to_be_bytes(), rest].concat()
    }

    /// Changes a WebP of 3 x 2 pixels to the extended format.
    fn webp_with_xmp(webp: &[u8], xmp: &[u8]) -> Vec<u8> {
        let header = b"VP8X\x0a\0\0\0\x04\0\0\0\x02\0\0\x01\0\0";
        let length = (xmp.len() as u32).to_le_bytes();
        let padding = &[0][..xmp.len() % 2];
        let chunks = [b"WEBP", &header[..], &webp[12..], b"XMP ", &length, xmp, padding].concat();
        [b"RIFF", &(chunks.len() as u32).to_le_bytes()[..], &chunks].concat()
    }

    /// Writes the directory again at the end, with an entry more.
    fn tiff_with_xmp(tiff: &[u8], xmp: &[u8]) -> Vec<u8> {
        let number = |at: usize| u32::from_le_bytes(*tiff[at..].first_chunk().unwrap()) as usize;
        let directory = number(4);
        let entries = u16::from_le_bytes([tiff[directory], tiff[directory + 1]]);
        let old = &tiff[directory + 2..][..12 * usize::from(entries)];
        let length = (xmp.len() as u32).to_le_bytes();
        let at = (tiff.len() as u32).to_le_bytes();
        let entry = [&700_u16.to_le_bytes()[..], &1_u16.to_le_bytes(), &length, &at].concat();
        let start = (tiff.len() + xmp.len()) as u32;
        let count = (entries + 1).to_le_bytes();
        [&tiff[..4], &start.to_le_bytes(), &tiff[8..], xmp, &count, old, &entry, &[0; 4]].concat()
    }

    #[test]
    fn a_palette_that_is_none_is_refused() {
        let sound = file("palette.png");
        let at = place(sound, b"PLTE");
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
        assert!(message.contains("its palette ends within a color"), "{message}");
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
            let is_jpeg = case.name.ends_with("jpg");
            let length = if is_jpeg { file.len() - 2 } else { file.len() / 3 };
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
