//! The directory of a TIFF: what its tags say.

use super::TiffError;

pub(super) const WIDTH: u16 = 256;
pub(super) const HEIGHT: u16 = 257;
pub(super) const BITS: u16 = 258;
pub(super) const COMPRESSION: u16 = 259;
pub(super) const PHOTOMETRIC: u16 = 262;
pub(super) const FILL_ORDER: u16 = 266;
pub(super) const STRIP_OFFSETS: u16 = 273;
pub(super) const ORIENTATION: u16 = 274;
pub(super) const SAMPLES: u16 = 277;
pub(super) const ROWS_PER_STRIP: u16 = 278;
pub(super) const STRIP_LENGTHS: u16 = 279;
pub(super) const PLANAR: u16 = 284;
pub(super) const PREDICTOR: u16 = 317;
pub(super) const COLOR_MAP: u16 = 320;
pub(super) const TILE_WIDTH: u16 = 322;
pub(super) const TILE_HEIGHT: u16 = 323;
pub(super) const TILE_OFFSETS: u16 = 324;
pub(super) const TILE_LENGTHS: u16 = 325;
pub(super) const INK_SET: u16 = 332;
pub(super) const EXTRA_SAMPLES: u16 = 338;
pub(super) const SAMPLE_FORMAT: u16 = 339;
pub(super) const JPEG_TABLES: u16 = 347;
pub(super) const SUBSAMPLING: u16 = 530;
pub(super) const XMP: u16 = 700;

/// Which byte of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    pub(super) fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    /// A number of up to 8 bytes.
    fn number(self, bytes: &[u8]) -> u64 {
        let add = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        match self {
            Self::Little => bytes.iter().rev().fold(0, add),
            Self::Big => bytes.iter().fold(0, add),
        }
    }
}

/// The entries of the first directory, which describes the first page.
pub(super) struct Directory<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) order: ByteOrder,
    /// Whether it is a BigTIFF, in which lengths and offsets have 8 bytes.
    is_big: bool,
    entries: &'a [u8],
}

impl<'a> Directory<'a> {
    pub(super) fn read_first(bytes: &'a [u8]) -> Result<Self, TiffError> {
        let order = match bytes {
            [b'I', b'I', ..] => ByteOrder::Little,
            [b'M', b'M', ..] => ByteOrder::Big,
            _ => return Err(TiffError::Damaged("its first bytes are not those of a TIFF")),
        };
        let number = |from: usize, length: usize| {
            let bytes = from.checked_add(length).and_then(|end| bytes.get(from..end));
            bytes.map(|bytes| order.number(bytes)).ok_or(TiffError::Truncated)
        };
        let (is_big, offset) = match number(2, 2)? {
            42 => (false, number(4, 4)?),
            43 if number(4, 4)?
                == order.number(&match order {
                    ByteOrder::Little => [8, 0, 0, 0],
                    ByteOrder::Big => [0, 8, 0, 0],
                }) =>
            {
                (true, number(8, 8)?)
            }
            _ => return Err(TiffError::Damaged("its version is unknown")),
        };
        let offset = usize::try_from(offset).map_err(|_| TiffError::Truncated)?;
        let (count_bytes, entry_bytes) = if is_big { (8, 20) } else { (2, 12) };
        let count = number(offset, count_bytes)?;
        let entries = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(entry_bytes))
            .and_then(|length| bytes.get(offset + count_bytes..)?.get(..length))
            .ok_or(TiffError::Truncated)?;
        Ok(Self { bytes, order, is_big, entries })
    }

    /// The first number of a tag, if there is the tag.
    pub(super) fn number(&self, tag: u16) -> Result<Option<u64>, TiffError> {
        let Some((size, value)) = self.value(tag)? else { return Ok(None) };
        Ok(value.get(..size).map(|number| self.order.number(number)))
    }

    /// The numbers of a tag, none if there is no such tag.
    pub(super) fn numbers(&self, tag: u16) -> Result<Vec<u64>, TiffError> {
        let Some((size, value)) = self.value(tag)? else { return Ok(Vec::new()) };
        Ok(value.chunks_exact(size).map(|number| self.order.number(number)).collect())
    }

    /// The bytes of a tag.
    pub(super) fn value_bytes(&self, tag: u16) -> Result<Option<&'a [u8]>, TiffError> {
        Ok(self.value(tag)?.map(|(_, value)| value))
    }

    /// The size of a number and the numbers of a tag.
    fn value(&self, tag: u16) -> Result<Option<(usize, &'a [u8])>, TiffError> {
        let entry_bytes = if self.is_big { 20 } else { 12 };
        let inline_bytes = if self.is_big { 8 } else { 4 };
        let is_wanted = |entry: &&[u8]| self.order.number(&entry[..2]) == u64::from(tag);
        let Some(entry) = self.entries.chunks_exact(entry_bytes).find(is_wanted) else {
            return Ok(None);
        };
        let size = match self.order.number(&entry[2..4]) {
            // Bytes, texts and undefined bytes.
            1 | 2 | 7 => 1,
            3 => 2,
            4 | 13 => 4,
            16 | 18 => 8,
            _ => return Err(TiffError::Damaged("a tag is not of the type that it should have")),
        };
        let (count, place) = entry[4..].split_at(inline_bytes);
        let length = usize::try_from(self.order.number(count))
            .ok()
            .and_then(|count| count.checked_mul(size))
            .ok_or(TiffError::Truncated)?;
        let value = if length <= inline_bytes {
            &place[..length]
        } else {
            usize::try_from(self.order.number(place))
                .ok()
                .and_then(|offset| self.bytes.get(offset..)?.get(..length))
                .ok_or(TiffError::Truncated)?
        };
        Ok(Some((size, value)))
    }
}
