//! The metadata of a WebP, and whether the whole file is there.

/// `RIFF`, the size of what follows, and `WEBP`.
const HEADER_BYTES: usize = 12;

/// The flags of the VP8X chunk.
const EXIF_FLAG: u8 = 0x08;
const XMP_FLAG: u8 = 0x04;

/// The decoder accepts a file that ends within its metadata, which may hold the orientation.
pub(crate) fn check_length(webp: &[u8]) -> Result<(), String> {
    let size = webp.get(4..).and_then(<[u8]>::first_chunk).map(|size| u32::from_le_bytes(*size));
    match size {
        Some(size) if webp.len() - 8 >= size as usize => Ok(()),
        _ => Err("the WebP is truncated: it is shorter than its header says".into()),
    }
}

/// The metadata that may hold the orientation.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct WebpMetadata<'a> {
    pub(crate) exif: Option<&'a [u8]>,
    pub(crate) xmp: Option<&'a [u8]>,
}

/// Finds the first whole EXIF and XMP chunks. As in libwebp, they count only if the header of the
/// extended format announces them.
///
/// The decoder would allocate whatever size the file claims.
pub(crate) fn metadata(webp: &[u8]) -> WebpMetadata<'_> {
    let mut metadata = WebpMetadata::default();
    let mut chunks = chunks(webp);
    let Some((b"VP8X", &[flags, ..])) = chunks.next() else { return metadata };
    for (kind, content) in chunks {
        match kind {
            b"EXIF" if flags & EXIF_FLAG != 0 => metadata.exif = metadata.exif.or(Some(content)),
            b"XMP " if flags & XMP_FLAG != 0 => metadata.xmp = metadata.xmp.or(Some(content)),
            _ => {}
        }
    }
    metadata
}

/// The whole chunks, each with its kind and its content.
fn chunks(webp: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = webp.get(HEADER_BYTES..);
    std::iter::from_fn(move || {
        let (kind, behind) = rest?.split_first_chunk()?;
        let (size, content) = behind.split_first_chunk()?;
        let size = u32::from_le_bytes(*size) as usize;
        rest = content.get(size.next_multiple_of(2)..);
        Some((kind, content.get(..size)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: &[u8], content: &[u8]) -> Vec<u8> {
        let padding = &[0][..content.len() % 2];
        [kind, &(content.len() as u32).to_le_bytes()[..], content, padding].concat()
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        [&b"RIFF\0\0\0\0WEBP"[..], &chunks.concat()].concat()
    }

    #[test]
    fn announced_metadata_are_found() {
        let chunks = |flags: u8| {
            [
                chunk(b"VP8X", &[flags, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                chunk(b"VP8 ", b"odd"),
                chunk(b"XMP ", b"first"),
                chunk(b"EXIF", b"exif"),
                chunk(b"XMP ", b"second"),
            ]
        };
        let (exif, xmp) = (Some(&b"exif"[..]), Some(&b"first"[..]));
        assert_eq!(metadata(&file(&chunks(0x0c))), WebpMetadata { exif, xmp });
        assert_eq!(metadata(&file(&chunks(0x08))), WebpMetadata { exif, xmp: None });
        assert_eq!(metadata(&file(&chunks(0x04))), WebpMetadata { exif: None, xmp });
        assert_eq!(metadata(&file(&chunks(0x0c)[1..])), WebpMetadata::default());
    }

    #[test]
    fn cut_metadata_are_none() {
        let whole = file(&[chunk(b"VP8X", &[0x04; 10]), chunk(b"XMP ", b"text")]);
        assert_eq!(metadata(&whole).xmp, Some(&b"text"[..]));
        for length in 0..whole.len() {
            assert_eq!(metadata(&whole[..length]), WebpMetadata::default(), "{length}");
        }
    }
}
