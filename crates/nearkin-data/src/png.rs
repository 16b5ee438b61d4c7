//! The chunks of a PNG that its pixels need.

use std::borrow::Cow;

const SIGNATURE_BYTES: usize = 8;

/// The parts of a PNG that are read.
pub(crate) struct PngParts<'a> {
    /// The PNG without metadata, and of an animation only the default image.
    pub(crate) png: Cow<'a, [u8]>,
    pub(crate) exif: Option<&'a [u8]>,
}

/// Leaves out what the decoder would spend memory on: it inflates color profiles and texts without a
/// limit. It also panics at a palette that ends within a color, so that is an error here.
pub(crate) fn without_metadata(png: &[u8]) -> Result<PngParts<'_>, String> {
    let mut exif = None;
    // The chunks up to here are all needed, or the needed ones have been copied.
    let (mut at, mut needed) = (SIGNATURE_BYTES.min(png.len()), None);
    while let Some(header) = png[at..].first_chunk::<8>() {
        let [a, b, c, d, kind @ ..] = header;
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        // The checksum follows the content. The decoder has the word where a chunk is cut.
        let end = at.saturating_add(12).saturating_add(length).min(png.len());
        match kind {
            b"PLTE" if !length.is_multiple_of(3) => {
                return Err("cannot decode the image: its palette ends within a color".into());
            }
            b"eXIf" => exif = exif.or(png.get(at + 8..at.saturating_add(8).saturating_add(length))),
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
    Ok(PngParts { png: needed.map_or(Cow::Borrowed(png), Cow::Owned), exif })
}
