//! The chunks of a PNG that its pixels need.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::ZlibDecoder;

const SIGNATURE_BYTES: usize = 8;

/// Texts are inflated up to this length. Pillow refuses files with longer ones.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// The parts of a PNG that are read.
pub(crate) struct PngParts<'a> {
    /// The PNG without metadata, and of an animation only the default image.
    pub(crate) png: Cow<'a, [u8]>,
    pub(crate) metadata: PngMetadata<'a>,
}

/// The metadata that may hold the orientation. As in Pillow, the last chunk of a kind counts.
#[derive(Default)]
pub(crate) struct PngMetadata<'a> {
    exif: Option<&'a [u8]>,
    /// Exif as ImageMagick writes it: a text with its bytes as hexadecimal digits.
    raw_exif: Option<PngText<'a>>,
    xmp: Option<PngText<'a>>,
}

impl<'a> PngMetadata<'a> {
    fn read_text(&mut self, kind: &[u8], content: &'a [u8]) {
        let Some((keyword, text)) = PngText::read(kind, content) else { return };
        match keyword {
            b"Raw profile type exif" => self.raw_exif = Some(text),
            b"XML:com.adobe.xmp" => self.xmp = Some(text),
            _ => {}
        }
    }

    pub(crate) fn exif(&self) -> Option<Cow<'a, [u8]>> {
        let raw = || Some(Cow::Owned(raw_profile(&self.raw_exif?.bytes()?)));
        self.exif.map(Cow::Borrowed).or_else(raw)
    }

    pub(crate) fn xmp(&self) -> Option<Cow<'a, [u8]>> {
        self.xmp?.bytes()
    }
}

/// The text of a chunk as stored.
#[derive(Clone, Copy)]
struct PngText<'a> {
    stored: &'a [u8],
    is_compressed: bool,
}

impl<'a> PngText<'a> {
    /// The keyword and the text of a chunk; `None` if it is damaged.
    fn read(kind: &[u8], content: &'a [u8]) -> Option<(&'a [u8], Self)> {
        let (keyword, rest) = until_zero(content)?;
        let (is_compressed, stored) = match (kind, rest) {
            (b"tEXt", stored) => (false, stored),
            // Zero is deflate, the only method.
            (b"zTXt", [0, stored @ ..]) => (true, stored),
            (b"iTXt", [is_compressed, method, rest @ ..]) => {
                let (_language, rest) = until_zero(rest)?;
                let (_translated_keyword, stored) = until_zero(rest)?;
                if *is_compressed != 0 && *method != 0 {
                    return None;
                }
                (*is_compressed != 0, stored)
            }
            _ => return None,
        };
        Some((keyword, Self { stored, is_compressed }))
    }

    /// The text, inflated up to [`MAX_TEXT_BYTES`]; `None` if it cannot be inflated.
    fn bytes(self) -> Option<Cow<'a, [u8]>> {
        if !self.is_compressed {
            return Some(Cow::Borrowed(self.stored));
        }
        let mut inflated = Vec::new();
        ZlibDecoder::new(self.stored)
            .take(MAX_TEXT_BYTES as u64)
            .read_to_end(&mut inflated)
            .ok()?;
        Some(Cow::Owned(inflated))
    }
}

/// What precedes the first zero byte, and what follows it.
fn until_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(0, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The bytes of a raw profile: after an empty line, its name and its length come the digits.
fn raw_profile(text: &[u8]) -> Vec<u8> {
    let text = &text[..text.len().min(MAX_TEXT_BYTES)];
    let digits = text.splitn(4, |&byte| byte == b'\n').nth(3).unwrap_or_default();
    let digits: Vec<u8> = digits
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map_while(|&byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect();
    digits.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect()
}

/// Leaves out what the decoder would spend memory on: it inflates color profiles and texts without a
/// limit. It also panics at a palette that ends within a color, so that is an error here.
pub(crate) fn without_metadata(png: &[u8]) -> Result<PngParts<'_>, String> {
    let mut metadata = PngMetadata::default();
    // The chunks up to here are all needed, or the needed ones have been copied.
    let (mut at, mut needed) = (SIGNATURE_BYTES.min(png.len()), None);
    while let Some(header) = png[at..].first_chunk::<8>() {
        let [a, b, c, d, kind @ ..] = header;
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        // The checksum follows the content. The decoder has the word where a chunk is cut.
        let end = at.saturating_add(12).saturating_add(length).min(png.len());
        let content = png.get(at + 8..at.saturating_add(8).saturating_add(length));
        match kind {
            b"PLTE" if !length.is_multiple_of(3) => {
                return Err("cannot decode the image: its palette ends within a color".into());
            }
            b"eXIf" => metadata.exif = content.or(metadata.exif),
            b"tEXt" | b"zTXt" | b"iTXt" => metadata.read_text(kind, content.unwrap_or_default()),
            _ => {}
        }
        if matches!(kind, b"IHDR" | b"PLTE" | b"tRNS" | b"IDAT" | b"IEND") {
            if let Some(needed) = &mut needed {
                Vec::extend_from_slice(needed, &png[at..end]);
            }
        } else if needed.is_none() {
            needed = Some(png[..at].to_vec());
        }
        at = end;
    }
    Ok(PngParts { png: needed.map_or(Cow::Borrowed(png), Cow::Owned), metadata })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    const XMP_KEYWORD: &[u8] = b"XML:com.adobe.xmp\0";
    const RAW_KEYWORD: &[u8] = b"Raw profile type exif\0";

    /// The checksums are not read here.
    fn file(chunks: &[(&[u8; 4], &[&[u8]])]) -> Vec<u8> {
        let mut png = vec![0; SIGNATURE_BYTES];
        for (kind, content) in chunks {
            let content = content.concat();
            png.extend((content.len() as u32).to_be_bytes());
            png.extend(&kind[..]);
            png.extend(content);
            png.extend([0; 4]);
        }
        png
    }

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn exif(png: &[u8]) -> Option<Vec<u8>> {
        without_metadata(png).unwrap().metadata.exif().map(Cow::into_owned)
    }

    fn xmp(png: &[u8]) -> Option<Vec<u8>> {
        without_metadata(png).unwrap().metadata.xmp().map(Cow::into_owned)
    }

    #[test]
    fn a_raw_profile_is_exif() {
        let profile = b"\nexif\n       6\n45786966\n0A ff\n";
        let expected = Some(b"Exif\x0a\xff".to_vec());
        let compressed = deflated(profile);
        assert_eq!(exif(&file(&[(b"tEXt", &[RAW_KEYWORD, profile])])), expected);
        assert_eq!(exif(&file(&[(b"zTXt", &[RAW_KEYWORD, b"\0", &compressed])])), expected);
        let international: &[&[u8]] = &[RAW_KEYWORD, b"\x01\0\0\0", &compressed];
        assert_eq!(exif(&file(&[(b"iTXt", international)])), expected);
        // Pillow applies no other raw profile.
        let app1: &[&[u8]] = &[b"Raw profile type APP1\0", profile];
        assert_eq!(exif(&file(&[(b"tEXt", app1)])), None);
    }

    #[test]
    fn an_exif_chunk_counts_before_a_raw_profile() {
        let raw: (&[u8; 4], &[&[u8]]) = (b"tEXt", &[RAW_KEYWORD, b"\nexif\n1\n42"]);
        let png = file(&[(b"eXIf", &[b"first"]), raw, (b"eXIf", &[b"last"]), (b"IDAT", &[])]);
        assert_eq!(exif(&png), Some(b"last".to_vec()));
    }

    #[test]
    fn damaged_raw_profiles_are_read_as_far_as_they_go() {
        for (profile, expected) in [
            (&b"\nexif\n1\n4"[..], &b""[..]),
            (b"\nexif\n1\n424x42", b"B"),
            (b"\nexif\n1", b""),
            (b"42", b""),
            (b"", b""),
        ] {
            assert_eq!(raw_profile(profile), expected);
        }
    }

    #[test]
    fn any_text_may_hold_the_xmp() {
        let expected = Some(b"<x/>".to_vec());
        let compressed = deflated(b"<x/>");
        for (kind, content) in [
            (b"tEXt", &[XMP_KEYWORD, b"<x/>"][..]),
            (b"zTXt", &[XMP_KEYWORD, b"\0", &compressed]),
            (b"iTXt", &[XMP_KEYWORD, b"\0\0en\0name\0<x/>"]),
            (b"iTXt", &[XMP_KEYWORD, b"\x01\0\0\0", &compressed]),
        ] {
            let last = (kind, content);
            let png = file(&[(b"tEXt", &[XMP_KEYWORD, b"before"]), last, (b"IDAT", &[])]);
            assert_eq!(xmp(&png), expected, "{content:?}");
        }
    }

    #[test]
    fn damaged_texts_are_none() {
        let compressed = deflated(&[b'x'; 100]);
        for (kind, content) in [
            (b"tEXt", &[&b"XML:com.adobe.xmp"[..]][..]),
            (b"zTXt", &[XMP_KEYWORD]),
            (b"zTXt", &[XMP_KEYWORD, b"\x01", &compressed]),
            (b"zTXt", &[XMP_KEYWORD, b"\0", &compressed[..compressed.len() - 5]]),
            (b"zTXt", &[XMP_KEYWORD, b"\0no zlib"]),
            (b"iTXt", &[XMP_KEYWORD, b"\0\0en\0<x/>"]),
            (b"iTXt", &[XMP_KEYWORD, b"\x01\x01\0\0", &compressed]),
            (b"tIME", &[XMP_KEYWORD, b"<x/>"]),
        ] {
            assert_eq!(xmp(&file(&[(kind, content)])), None, "{content:?}");
        }
        let png = file(&[(b"tEXt", &[XMP_KEYWORD, b"<x/>"])]);
        assert_eq!(xmp(&png[..png.len() - 5]), None);
    }

    #[test]
    fn a_text_is_inflated_up_to_a_limit() {
        let compressed = deflated(&vec![b'4'; 64 << 20]);
        for keyword in [XMP_KEYWORD, RAW_KEYWORD] {
            let png = file(&[(b"zTXt", &[keyword, b"\0", &compressed])]);
            let metadata = without_metadata(&png).unwrap().metadata;
            let text = metadata.xmp.or(metadata.raw_exif).unwrap().bytes().unwrap();
            assert_eq!(text.len(), MAX_TEXT_BYTES);
        }
    }
}
