//! How the strips and tiles are compressed.

use std::borrow::Cow;
use std::io::{self, Read};

use fax::decoder::{DecodeStatus, Group4Decoder};
use weezl::{BitOrder, LzwStatus};

use super::tags::{self, Directory};
use super::{TiffError, unsupported};

pub(super) struct Compression {
    pub(super) method: CompressionMethod,
    /// Whether the bits of a byte are stored from the lowest up.
    is_reversed: bool,
}

pub(super) enum CompressionMethod {
    None,
    Lzw,
    Deflate,
    PackBits,
    Group4,
    Jpeg { tables: Vec<u8> },
}

impl Compression {
    pub(super) fn new(directory: &Directory) -> Result<Self, TiffError> {
        let method = match directory.number(tags::COMPRESSION)?.unwrap_or(1) {
            1 => CompressionMethod::None,
            2 | 3 | 32771 => return unsupported("CCITT Group 3 compression"),
            4 => CompressionMethod::Group4,
            5 => CompressionMethod::Lzw,
            6 => return unsupported("JPEG compression of the old style"),
            7 => {
                let tables = directory.value_bytes(tags::JPEG_TABLES)?.unwrap_or_default();
                CompressionMethod::Jpeg { tables: tables.to_vec() }
            }
            8 | 32946 => CompressionMethod::Deflate,
            32773 => CompressionMethod::PackBits,
            33003..=33005 | 34712 => return unsupported("JPEG 2000 compression"),
            34887 => return unsupported("LERC compression"),
            34925 => return unsupported("LZMA compression"),
            50000 => return unsupported("Zstandard compression"),
            50001 => return unsupported("WebP compression"),
            50002 | 52546 => return unsupported("JPEG XL compression"),
            other => return unsupported(format!("compression {other}")),
        };
        let is_reversed = match directory.number(tags::FILL_ORDER)?.unwrap_or(1) {
            1 => false,
            2 => true,
            _ => return Err(TiffError::Damaged("its fill order is unknown")),
        };
        Ok(Self { method, is_reversed })
    }
}

impl Compression {
    pub(super) fn is_jpeg(&self) -> bool {
        matches!(self.method, CompressionMethod::Jpeg { .. })
    }

    /// Whether a predictor, where the file names one, counts.
    pub(super) fn has_predictor(&self) -> bool {
        matches!(self.method, CompressionMethod::Lzw | CompressionMethod::Deflate)
    }

    /// The data of a strip or tile with the bits of each byte in the usual order.
    pub(super) fn in_order<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        if self.is_reversed && !self.is_jpeg() {
            Cow::Owned(data.iter().map(|byte| byte.reverse_bits()).collect())
        } else {
            Cow::Borrowed(data)
        }
    }

    /// The rows of a strip or tile of `width` pixels.
    pub(super) fn rows<'a>(
        &self,
        data: &'a [u8],
        width: usize,
    ) -> Result<RowReader<'a>, TiffError> {
        Ok(match self.method {
            CompressionMethod::None | CompressionMethod::Jpeg { .. } => {
                RowReader::Bytes(Box::new(data))
            }
            CompressionMethod::Lzw if matches!(data, [0, odd, ..] if odd & 1 == 1) => {
                return unsupported("LZW compression of the old style");
            }
            CompressionMethod::Lzw => RowReader::Bytes(Box::new(LzwReader {
                decoder: weezl::decode::Decoder::with_tiff_size_switch(BitOrder::Msb, 8),
                data,
            })),
            CompressionMethod::Deflate => {
                RowReader::Bytes(Box::new(flate2::bufread::ZlibDecoder::new(data)))
            }
            CompressionMethod::PackBits => {
                RowReader::Bytes(Box::new(PackBits { data, run: 0, value: None }))
            }
            CompressionMethod::Group4 => {
                let Ok(width) = u16::try_from(width) else {
                    return unsupported("CCITT compression and more than 65535 pixels across");
                };
                let decoder =
                    Group4Decoder::new(data.bytes(), width).map_err(|_| TiffError::Truncated)?;
                RowReader::Bilevel { decoder, width: width.into() }
            }
        })
    }
}

/// Decompresses one row after the other.
pub(super) enum RowReader<'a> {
    Bytes(Box<dyn Read + 'a>),
    Bilevel { decoder: Group4Decoder<io::Bytes<&'a [u8]>>, width: usize },
}

impl RowReader<'_> {
    pub(super) fn read(&mut self, row: &mut [u8]) -> Result<(), TiffError> {
        match self {
            Self::Bytes(reader) => reader.read_exact(row).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => TiffError::Truncated,
                _ => TiffError::Damaged("its compressed data are wrong"),
            }),
            Self::Bilevel { decoder, width } => {
                let status = decoder
                    .advance()
                    .map_err(|_| TiffError::Damaged("its compressed data are wrong"))?;
                if status == DecodeStatus::End {
                    return Err(TiffError::Truncated);
                }
                draw_runs(decoder.transition(), *width, row);
                Ok(())
            }
        }
    }
}

/// Sets the bits of the black runs, which start and end at the transitions.
fn draw_runs(transitions: &[u16], width: usize, row: &mut [u8]) {
    row.fill(0);
    for run in transitions.chunks(2) {
        let end = run.get(1).map_or(width, |&end| usize::from(end).min(width));
        for pixel in usize::from(run[0])..end {
            row[pixel / 8] |= 0x80 >> (pixel % 8);
        }
    }
}

struct LzwReader<'a> {
    decoder: weezl::decode::Decoder,
    data: &'a [u8],
}

impl Read for LzwReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = self.decoder.decode_bytes(self.data, buffer);
            self.data = &self.data[result.consumed_in..];
            if result.consumed_out > 0 {
                return Ok(result.consumed_out);
            }
            match result.status {
                Ok(LzwStatus::Ok) if result.consumed_in > 0 => {}
                Ok(_) => return Ok(0),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }
}

/// Runs of equal bytes, and of bytes as they are, of up to 128.
struct PackBits<'a> {
    data: &'a [u8],
    /// What is left of the run.
    run: usize,
    /// The byte that it repeats.
    value: Option<u8>,
}

impl Read for PackBits<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.run == 0 {
            let Some((&header, rest)) = self.data.split_first() else { return Ok(0) };
            self.data = rest;
            (self.run, self.value) = match header {
                0..=127 => (usize::from(header) + 1, None),
                128 => (0, None),
                129..=255 => {
                    let Some((&value, rest)) = rest.split_first() else { return Ok(0) };
                    self.data = rest;
                    (257 - usize::from(header), Some(value))
                }
            };
        }
        let length = self.run.min(buffer.len());
        let length = match self.value {
            Some(value) => {
                buffer[..length].fill(value);
                length
            }
            None => self.data.read(&mut buffer[..length])?,
        };
        self.run -= length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packbits_are_unpacked() {
        let unpack = |data: &[u8]| {
            let mut unpacked = Vec::new();
            PackBits { data, run: 0, value: None }.read_to_end(&mut unpacked).unwrap();
            unpacked
        };
        assert_eq!(unpack(&[2, 1, 2, 3, 128, 254, 9, 0, 4]), [1, 2, 3, 9, 9, 9, 4]);
        assert_eq!(unpack(&[129, 7]), [7; 128]);
        assert_eq!(unpack(&[3, 1]), [1]);
        assert!(unpack(&[200]).is_empty());
    }

    #[test]
    fn runs_are_drawn() {
        let draw = |transitions: &[u16]| {
            let mut row = [0xff; 2];
            draw_runs(transitions, 10, &mut row);
            row
        };
        assert_eq!(draw(&[]), [0, 0]);
        assert_eq!(draw(&[0]), [0xff, 0b1100_0000]);
        assert_eq!(draw(&[1, 3, 9]), [0b0110_0000, 0b0100_0000]);
    }
}
