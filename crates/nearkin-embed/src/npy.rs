//! The `.npy` format: a header in the syntax of Python, then the values.

use std::path::Path;

use crate::{EmbedError, Vectors};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Long enough for any shape, so that the number of rows can be filled in last.
pub(crate) const HEADER: usize = 128;

/// The header of an array of `shape`, written as Python writes a tuple, of `kind` such as `<f4`.
pub(crate) fn header(kind: &str, shape: &str) -> [u8; HEADER] {
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    let mut header = [b' '; HEADER];
    header[..6].copy_from_slice(MAGIC);
    header[6..8].copy_from_slice(&[1, 0]);
    header[8..10].copy_from_slice(&((HEADER - 10) as u16).to_le_bytes());
    header[10..10 + text.len()].copy_from_slice(text.as_bytes());
    header[HEADER - 1] = b'\n';
    header
}

/// The rows of a file of float32 or float64; a single vector is one row.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Vectors, EmbedError> {
    let wrong = |reason: String| EmbedError::malformed(path, reason);
    let cut = || wrong("is no .npy file, or cut short".to_owned());
    let version = bytes.strip_prefix(MAGIC).and_then(|rest| rest.first()).ok_or_else(cut)?;
    let (begin, length) = match version {
        1 => (10, u16::from_le_bytes(bytes.get(8..10).and_then(array).ok_or_else(cut)?) as usize),
        _ => (12, u32::from_le_bytes(bytes.get(8..12).and_then(array).ok_or_else(cut)?) as usize),
    };
    let end = begin + length;
    let header = bytes.get(begin..end).ok_or_else(cut)?;
    let header = String::from_utf8_lossy(header).replace('"', "'");
    let after = |key: &str| {
        let (_, rest) = header.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let kind = after("descr").and_then(|rest| rest.split('\'').nth(1)).unwrap_or("of records");
    let bytes_each = match kind {
        "<f4" => 4,
        "<f8" => 8,
        other => {
            return Err(wrong(format!(
                "holds values of type {other}, and features are float32 or float64: convert them \
                 with numpy's astype(\"float32\")"
            )));
        }
    };
    if after("fortran_order").is_some_and(|rest| rest.starts_with("True")) {
        return Err(wrong(
            "holds columns one after the other: save numpy.ascontiguousarray of it".to_owned(),
        ));
    }
    let shape = after("shape").and_then(|rest| rest.strip_prefix('(')).unwrap_or_default();
    let shape = shape.split(')').next().unwrap_or_default();
    let sides = shape.split(',').map(str::trim).filter(|side| !side.is_empty());
    let sides: Option<Vec<usize>> = sides.map(|side| side.parse().ok()).collect();
    let (rows, width) = match sides.as_deref() {
        Some(&[width]) if width > 0 => (1, width),
        Some(&[rows, width]) if width > 0 => (rows, width),
        _ => {
            return Err(wrong(format!(
                "has the shape ({shape}), and features are rows of equal width, (images, width)"
            )));
        }
    };
    let needed = rows.checked_mul(width).and_then(|values| values.checked_mul(bytes_each));
    let values = &bytes[end..];
    if needed != Some(values.len()) {
        return Err(wrong(format!(
            "has {} bytes of values where ({rows}, {width}) needs {}: it was cut short or is still \
             being written",
            values.len(),
            needed.map_or_else(|| "more than there can be".to_owned(), |needed| needed.to_string())
        )));
    }
    let values = floats(values, bytes_each);
    Ok(Vectors::of_rows(values, width))
}

/// Little-endian numbers of 4 or 8 bytes as float32.
pub(crate) fn floats(bytes: &[u8], bytes_each: usize) -> Vec<f32> {
    match bytes_each {
        4 => bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        _ => bytes.as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32).collect(),
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(kind: &str, shape: &str, values: &[u8]) -> Result<Vectors, String> {
        let bytes = [&header(kind, shape)[..], values].concat();
        parse(&bytes, Path::new("a.npy")).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_are_read_in_both_precisions() {
        let single: Vec<u8> =
            [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let vectors = file("<f4", "(2, 2)", &single).unwrap();
        assert_eq!((vectors.len(), vectors.row(1)), (2, &[3.0, 4.0][..]));
        let double: Vec<u8> = [1.5_f64, 2.5].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(file("<f8", "(2,)", &double).unwrap().row(0), [1.5, 2.5]);
        assert_eq!(file("<f4", "(0, 3)", &[]).unwrap().len(), 0);
    }

    #[test]
    fn other_arrays_are_refused() {
        for (kind, shape, part) in [
            ("<i8", "(1, 2)", "astype"),
            ("<f4", "(2, 2, 2)", "rows of equal width"),
            ("<f4", "()", "rows of equal width"),
            ("<f4", "(1, 0)", "rows of equal width"),
            ("<f4", "(9, 9)", "cut short"),
            ("<f4", "(18446744073709551615, 4)", "cut short"),
        ] {
            let message = file(kind, shape, &[0; 8]).unwrap_err();
            assert!(message.starts_with("a.npy: ") && message.contains(part), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, shape in "[(),0-9 ]{0,30}") {
            let _ = parse(&bytes, Path::new("a.npy"));
            let _ = parse(&[MAGIC, &bytes].concat(), Path::new("a.npy"));
            let _ = file("<f4", &shape, &bytes);
        }
    }
}
