//! The orientation in Exif and XMP metadata.
//!
//! Exif metadata is the start of a TIFF file, without the image. The standard stores the orientation as one
//! number of 16 bits; editors and phones also write 32 bits, several numbers, or fractions. As in Pillow's
//! `exif_transpose`, any type of number counts, the first number of several, and the first of repeated
//! entries. Texts and single unsigned bytes don't.
//!
//! XMP metadata is XML, which editors write beside Exif or instead of it. As in Pillow, it counts
//! only where Exif has no orientation, not even an invalid one.

use image::metadata::Orientation;
use memchr::memmem;

const ORIENTATION: u16 = 0x0112;
const XMP_ORIENTATION: &[u8] = b"tiff:Orientation";

/// What marks a block as Exif in a JPEG. Some writers put it into other formats, or repeat it.
pub(crate) const EXIF_MARK: &[u8] = b"Exif\0\0";

/// The metadata with its byte order.
struct Exif<'a> {
    bytes: &'a [u8],
    is_big_endian: bool,
}

impl Exif<'_> {
    /// The number at `from` of `length` bytes, at most 8; `None` behind the end.
    fn number(&self, from: usize, length: usize) -> Option<u64> {
        let bytes = self.bytes.get(from..from.checked_add(length)?)?;
        let add = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        Some(if self.is_big_endian {
            bytes.iter().fold(0, add)
        } else {
            bytes.iter().rev().fold(0, add)
        })
    }

    fn place(&self, from: usize) -> Option<usize> {
        usize::try_from(self.number(from, 4)?).ok()
    }

    /// What the directory entry at `at` states; `None` if it is damaged, empty or of no known type.
    fn statement(&self, at: usize) -> Option<Stated> {
        let kind = self.number(at + 2, 2)?;
        let size = match kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 => 8,
            _ => return None,
        };
        let length = self.place(at + 4)?.checked_mul(size).filter(|&length| length > 0)?;
        let values = if length <= 4 { at + 8 } else { self.place(at + 8)? };
        // An entry that ends behind the file is damaged, its first number too.
        self.bytes.get(values..values.checked_add(length)?)?;
        Some(match kind {
            1 | 2 | 7 => Stated::Invalid,
            5 | 10 => {
                let part = |from| {
                    let number = self.number(from, 4)? as u32;
                    Some(if kind == 5 { f64::from(number) } else { f64::from(number as i32) })
                };
                Stated::from_float(part(values)? / part(values + 4)?)
            }
            11 => Stated::from_float(f64::from(f32::from_bits(self.number(values, 4)? as u32))),
            12 => Stated::from_float(f64::from_bits(self.number(values, 8)?)),
            // Signed numbers are read as unsigned ones: neither is an orientation if it is negative.
            _ => Stated::from_number(self.number(values, size)?),
        })
    }
}

/// What the orientation tag of Exif metadata says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stated {
    Orientation(Orientation),
    /// There is the tag, but its value is no orientation.
    Invalid,
}

impl Stated {
    fn from_float(number: f64) -> Self {
        let is_whole = number.fract() == 0.0 && number >= 0.0;
        if is_whole { Self::from_number(number as u64) } else { Self::Invalid }
    }

    pub(crate) fn from_number(number: u64) -> Self {
        let orientation = u8::try_from(number).ok().and_then(Orientation::from_exif);
        orientation.map_or(Self::Invalid, Self::Orientation)
    }
}

/// How an image is to be turned, by its Exif orientation, or without one by its XMP metadata.
///
/// Damaged metadata is no reason to refuse the pixels.
pub(crate) fn orientation(exif: Option<Stated>, xmp: Option<&[u8]>) -> Orientation {
    let stated = exif.or_else(|| xmp.and_then(in_xmp));
    match stated {
        Some(Stated::Orientation(orientation)) => orientation,
        Some(Stated::Invalid) | None => Orientation::NoTransforms,
    }
}

/// The first orientation in XMP metadata, an attribute or an element.
fn in_xmp(xmp: &[u8]) -> Option<Stated> {
    memmem::find_iter(xmp, XMP_ORIENTATION).find_map(|at| {
        let behind = &xmp[at + XMP_ORIENTATION.len()..];
        match behind.strip_prefix(b"=\"").or_else(|| behind.strip_prefix(b">"))? {
            [digit @ b'0'..=b'9', ..] => Some(Stated::from_number(u64::from(digit - b'0'))),
            _ => None,
        }
    })
}

/// What Exif metadata states; `None` without the tag, and where it is damaged.
///
/// `bytes` are those of a TIFF file. The mark of Exif may precede them.
pub(crate) fn in_exif(bytes: &[u8]) -> Option<Stated> {
    let bytes = bytes.strip_prefix(EXIF_MARK).unwrap_or(bytes);
    let bytes = bytes.strip_prefix(EXIF_MARK).unwrap_or(bytes);
    let is_big_endian = match bytes {
        // Pillow reads the number 42 in either order.
        [b'I', b'I', 42, 0, ..] | [b'I', b'I', 0, 42, ..] => false,
        [b'M', b'M', 0, 42, ..] | [b'M', b'M', 42, 0, ..] => true,
        _ => return None,
    };
    let exif = Exif { bytes, is_big_endian };
    let directory = exif.place(4)?;
    let entries = usize::try_from(exif.number(directory, 2)?).ok()?;
    for entry in 0..entries {
        let at = directory.checked_add(2 + 12 * entry)?;
        // The entries before the end of cut metadata are sound.
        let tag = exif.number(at, 12).and_then(|_| exif.number(at, 2))?;
        if tag == u64::from(ORIENTATION)
            && let Some(stated) = exif.statement(at)
        {
            return Some(stated);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROTATED: Option<Stated> = Some(Stated::Orientation(Orientation::Rotate90));

    /// Metadata of one entry of `count` numbers; more than 4 bytes of them follow the directory.
    fn exif(kind: u16, count: u32, values: &[u8]) -> Vec<u8> {
        let mut bytes = b"II*\0\x08\0\0\0\x01\0".to_vec();
        bytes.extend(ORIENTATION.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        if values.len() <= 4 {
            bytes.extend(values);
            bytes.resize(22, 0);
        } else {
            bytes.extend(26_u32.to_le_bytes());
        }
        bytes.extend([0; 4]);
        if values.len() > 4 {
            bytes.extend(values);
        }
        bytes
    }

    #[test]
    fn the_first_number_of_any_type_is_the_orientation() {
        for (kind, count, values) in [
            (3, 1, &[6, 0][..]),
            (3, 2, &[6, 0, 1, 0]),
            (3, 3, &[6, 0, 1, 0, 1, 0]),
            (4, 1, &[6, 0, 0, 0]),
            (4, 2, &[6, 0, 0, 0, 1, 0, 0, 0]),
            (6, 1, &[6]),
            (8, 1, &[6, 0]),
            (9, 1, &[6, 0, 0, 0]),
            (13, 1, &[6, 0, 0, 0]),
            (16, 1, &[6, 0, 0, 0, 0, 0, 0, 0]),
            (5, 1, &[6, 0, 0, 0, 1, 0, 0, 0]),
            (5, 2, &[12, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]),
            (10, 1, &[0xfa, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            (11, 1, &6_f32.to_le_bytes()),
            (12, 1, &6_f64.to_le_bytes()),
        ] {
            assert_eq!(in_exif(&exif(kind, count, values)), ROTATED, "type {kind}, {count}");
        }
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x06\0\0\0\0";
        assert_eq!(in_exif(big), ROTATED);
        for marks in 1..3 {
            let marked = [&EXIF_MARK.repeat(marks)[..], big].concat();
            assert_eq!(in_exif(&marked), ROTATED, "{marks}");
        }
    }

    #[test]
    fn the_first_of_repeated_entries_counts_and_the_mark_of_tiff_in_either_order() {
        let twice = |first: &[u8], second: &[u8]| {
            let [mut one, other] = [first, second].map(|value| exif(3, 1, value));
            one[8] = 2;
            one.truncate(22);
            [&one[..], &other[10..]].concat()
        };
        assert_eq!(in_exif(&twice(&[6, 0], &[1, 0])), ROTATED);
        assert_eq!(in_exif(&twice(&[9, 0], &[6, 0])), Some(Stated::Invalid));
        let mut bytes = exif(3, 1, &[6, 0]);
        bytes.swap(2, 3);
        assert_eq!(in_exif(&bytes), ROTATED);
        let big = b"MM*\0\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0";
        assert_eq!(in_exif(big), ROTATED);
    }

    #[test]
    fn what_pillow_reads_no_orientation_from_has_none() {
        for (kind, count, values, expected) in [
            (1, 1, &[6][..], Some(Stated::Invalid)),
            (2, 2, b"6\0", Some(Stated::Invalid)),
            (7, 1, &[6], Some(Stated::Invalid)),
            (5, 1, &[13, 0, 0, 0, 2, 0, 0, 0], Some(Stated::Invalid)),
            (5, 1, &[6, 0, 0, 0, 0, 0, 0, 0], Some(Stated::Invalid)),
            (12, 1, &(-6_f64).to_le_bytes(), Some(Stated::Invalid)),
            (3, 1, &[9, 0], Some(Stated::Invalid)),
            (3, 1, &[6, 1], Some(Stated::Invalid)),
            (8, 1, &[0xff, 0xff], Some(Stated::Invalid)),
            (99, 1, &[6], None),
            (3, 0, &[6, 0], None),
            (3, 200, &[6, 0, 1, 0, 1, 0], None),
            (3, u32::MAX, &[6, 0], None),
        ] {
            assert_eq!(in_exif(&exif(kind, count, values)), expected, "type {kind}, {count}");
        }
        assert_eq!(in_exif(b"II*\0\xff\xff\xff\xff"), None);
        assert_eq!(in_exif(b"Exif"), None);
    }

    #[test]
    fn xmp_counts_where_exif_has_no_orientation() {
        let xmp = Some(&b"<x tiff:Orientation=\"8\"/>"[..]);
        assert_eq!(orientation(None, xmp), Orientation::Rotate270);
        assert_eq!(orientation(ROTATED, xmp), Orientation::Rotate90);
        assert_eq!(orientation(Some(Stated::Invalid), xmp), Orientation::NoTransforms);
        assert_eq!(orientation(None, None), Orientation::NoTransforms);
    }

    #[test]
    fn xmp_has_its_orientation_in_an_attribute_or_an_element() {
        for (xmp, expected) in [
            ("<x tiff:Orientation=\"6\">", ROTATED),
            ("<x><tiff:Orientation>6</tiff:Orientation></x>", ROTATED),
            ("tiff:Orientation tiff:Orientation=\"a tiff:Orientation>6", ROTATED),
            ("tiff:Orientation>6<tiff:Orientation>8<", ROTATED),
            ("tiff:Orientation=\"9\" tiff:Orientation=\"6\"", Some(Stated::Invalid)),
            ("tiff:Orientation='6'", None),
            ("exif:Orientation=\"6\"", None),
            ("tiff:Orientation>", None),
            ("tiff:Orientation", None),
            ("", None),
        ] {
            assert_eq!(in_xmp(xmp.as_bytes()), expected, "{xmp}");
        }
    }

    #[test]
    fn cut_metadata_keep_the_entries_before_the_cut() {
        let mut bytes = exif(3, 1, &[6, 0]);
        bytes[8] = 40;
        assert_eq!(in_exif(&bytes), ROTATED);
        bytes.truncate(21);
        assert_eq!(in_exif(&bytes), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(start in 0..3_usize, bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let start: &[u8] = [&b"II*\0\x08\0\0\0"[..], b"MM\0*\0\0\0\x08", b""][start];
            let _ = in_exif(&[start, &bytes].concat());
            let _ = in_xmp(&[XMP_ORIENTATION, &bytes].concat());
        }
    }
}
