//! The orientation in Exif metadata.
//!
//! Exif metadata is the start of a TIFF file, without the image. The standard stores the orientation as one
//! number of 16 bits; editors and phones also write 32 bits, or several numbers. As in Pillow's
//! `exif_transpose`, any integer type counts, the first number of several, and the last of repeated
//! entries. Texts, single unsigned bytes and fractions don't.

use image::metadata::Orientation;

const ORIENTATION: u16 = 0x0112;

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
        Some(match self.is_big_endian {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        })
    }

    fn place(&self, from: usize) -> Option<usize> {
        usize::try_from(self.number(from, 4)?).ok()
    }

    /// The first number of the directory entry at `at`, if it has some and they are integers.
    fn first_integer(&self, at: usize) -> Option<u64> {
        // Signed numbers are read as unsigned ones: neither is an orientation if it is negative.
        let size = match self.number(at + 2, 2)? {
            6 => 1,
            3 | 8 => 2,
            4 | 9 | 13 => 4,
            16 => 8,
            _ => return None,
        };
        let length = self.place(at + 4)?.checked_mul(size).filter(|&length| length > 0)?;
        let values = if length <= 4 { at + 8 } else { self.place(at + 8)? };
        // An entry that ends behind the file is damaged, its first number too.
        self.bytes.get(values..values.checked_add(length)?)?;
        self.number(values, size)
    }
}

/// The orientation that the metadata states; `None` without one, and where it is damaged.
///
/// `bytes` start with the header of a TIFF file, behind what marks them as Exif.
pub(crate) fn orientation(bytes: &[u8]) -> Option<Orientation> {
    let is_big_endian = match bytes {
        [b'I', b'I', 42, 0, ..] => false,
        [b'M', b'M', 0, 42, ..] => true,
        _ => return None,
    };
    let exif = Exif { bytes, is_big_endian };
    let directory = exif.place(4)?;
    let entries = usize::try_from(exif.number(directory, 2)?).ok()?;
    let mut found = None;
    for entry in 0..entries {
        let at = directory.checked_add(2 + 12 * entry)?;
        // The entries before the end of cut metadata are sound.
        let Some(tag) = exif.number(at, 12).and_then(|_| exif.number(at, 2)) else { break };
        if tag == u64::from(ORIENTATION) {
            found = exif.first_integer(at).or(found);
        }
    }
    Orientation::from_exif(u8::try_from(found?).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROTATED: Option<Orientation> = Some(Orientation::Rotate90);

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
    fn the_first_integer_of_any_type_is_the_orientation() {
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
        ] {
            assert_eq!(orientation(&exif(kind, count, values)), ROTATED, "type {kind}, {count}");
        }
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x06\0\0\0\0";
        assert_eq!(orientation(big), ROTATED);
    }

    #[test]
    fn what_pillow_reads_no_orientation_from_has_none() {
        for (kind, count, values) in [
            (1, 1, &[6][..]),
            (2, 2, b"6\0"),
            (7, 1, &[6]),
            (99, 1, &[6]),
            (3, 0, &[6, 0]),
            (3, 1, &[9, 0]),
            (3, 1, &[6, 1]),
            (8, 1, &[0xff, 0xff]),
            (3, 200, &[6, 0, 1, 0, 1, 0]),
            (3, u32::MAX, &[6, 0]),
        ] {
            assert_eq!(orientation(&exif(kind, count, values)), None, "type {kind}, {count}");
        }
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), None);
        assert_eq!(orientation(b"Exif"), None);
    }

    #[test]
    fn cut_metadata_keep_the_entries_before_the_cut() {
        let mut bytes = exif(3, 1, &[6, 0]);
        bytes[8] = 40;
        assert_eq!(orientation(&bytes), ROTATED);
        bytes.truncate(21);
        assert_eq!(orientation(&bytes), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(start in 0..3_usize, bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let start: &[u8] = [&b"II*\0\x08\0\0\0"[..], b"MM\0*\0\0\0\x08", b""][start];
            let _ = orientation(&[start, &bytes].concat());
        }
    }
}
