//! The Exif block of a WebP, and whether the whole file is there.

/// `RIFF`, the size of what follows, and `WEBP`.
const HEADER_BYTES: usize = 12;

/// The decoder accepts a file that ends within its metadata, which may hold the orientation.
pub(crate) fn check_length(webp: &[u8]) -> Result<(), String> {
    let size = webp.get(4..).and_then(<[u8]>::first_chunk).map(|size| u32::from_le_bytes(*size));
    match size {
        Some(size) if webp.len() - 8 >= size as usize => Ok(()),
        _ => Err("the WebP is truncated: it is shorter than its header says".into()),
    }
}

/// The content of the EXIF chunk, if the whole of it is there.
///
/// The decoder would allocate whatever size the file claims.
pub(crate) fn exif(webp: &[u8]) -> Option<&[u8]> {
    let mut rest = webp.get(HEADER_BYTES..)?;
    loop {
        let ([a, b, c, d, size @ ..], content) = rest.split_first_chunk::<8>()?;
        let size = u32::from_le_bytes(*size) as usize;
        let chunk = content.get(..size)?;
        if [*a, *b, *c, *d] == *b"EXIF" {
            // Some writers put the mark of JPEG before it.
            return Some(chunk.strip_prefix(b"Exif\0\0").unwrap_or(chunk));
        }
        rest = content.get(size.next_multiple_of(2)..)?;
    }
}
