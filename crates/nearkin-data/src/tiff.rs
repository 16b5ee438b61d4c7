//! Decodes TIFF files to the pixels of Pillow.
//!
//! TIFF is a family of formats. What people have as photographs is read: gray, color tables, RGB,
//! CMYK and YCbCr of up to 16 bits, in strips or tiles, compressed in the usual ways. Everything else
//! is refused by name, because a reader that guesses returns other pixels without an error. Rows are
//! decompressed one at a time, so a claimed size alone takes no memory.
//!
//! Only the first page counts.

mod compression;
mod tags;

use thiserror::Error;

use self::compression::{Compression, CompressionMethod};
use self::tags::Directory;
use crate::jpeg::{JpegColor, JpegDecoder, JpegError};

/// Why a TIFF is not read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum TiffError {
    #[error("the TIFF is truncated: its data end early")]
    Truncated,
    #[error("the TIFF is damaged: {0}")]
    Damaged(&'static str),
    #[error("a TIFF with {0} is not read; convert it to PNG")]
    Unsupported(String),
    #[error(transparent)]
    Jpeg(#[from] JpegError),
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, TiffError> {
    Err(TiffError::Unsupported(what.into()))
}

/// What the samples of a pixel say.
enum TiffColor {
    Gray {
        is_white_zero: bool,
    },
    /// The red, green and blue of each index.
    Palette(Vec<[u8; 3]>),
    Rgb,
    Cmyk,
    YCbCr,
}

impl TiffColor {
    fn channels(&self) -> usize {
        match self {
            Self::Gray { .. } | Self::Palette(_) => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk => 4,
        }
    }
}

/// A rectangle of the image that is stored in one piece: a strip or a tile.
#[derive(Clone, Copy)]
struct ChunkSize {
    width: usize,
    height: usize,
}

/// A TIFF whose first directory has been read and is of a kind that can be decoded.
pub(crate) struct TiffDecoder<'a> {
    directory: Directory<'a>,
    width: usize,
    height: usize,
    color: TiffColor,
    /// Samples of a pixel as stored, with those that are not used.
    samples: usize,
    /// Bits of a sample.
    bits: usize,
    /// Whether the color channels have been multiplied by the alpha that follows them.
    is_premultiplied: bool,
    /// Whether each channel is stored on its own.
    is_planar: bool,
    is_differenced: bool,
    compression: Compression,
    chunk: ChunkSize,
}

impl<'a> TiffDecoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, TiffError> {
        let directory = Directory::read_first(bytes)?;
        let side = |tag| {
            let side = directory.number(tag)?.ok_or(TiffError::Damaged("it has no size"))?;
            match u32::try_from(side) {
                Ok(side) if side > 0 => Ok(side as usize),
                _ => Err(TiffError::Damaged("its width or height is 0 or too large")),
            }
        };
        let (width, height) = (side(tags::WIDTH)?, side(tags::HEIGHT)?);
        let samples = directory.number(tags::SAMPLES)?.unwrap_or(1);
        let bits = sample_bits(&directory)?;
        let compression = Compression::new(&directory)?;
        let color = color(&directory, bits, &compression)?;
        let is_premultiplied = check_extra_samples(&directory, &color, samples)?;
        let is_planar = match directory.number(tags::PLANAR)?.unwrap_or(1) {
            1 => false,
            2 => samples > 1,
            _ => return Err(TiffError::Damaged("its planar configuration is unknown")),
        };
        let is_differenced = match directory.number(tags::PREDICTOR)?.unwrap_or(1) {
            1 => false,
            2 if bits >= 8 => compression.has_predictor(),
            _ => return unsupported("a predictor for floating-point or packed samples"),
        };
        if is_planar && compression.is_jpeg() {
            return unsupported("JPEG compression of single channels");
        }
        if compression.is_jpeg() && samples != color.channels() as u64 {
            return unsupported(format!("JPEG compression of {samples} channels"));
        }
        let chunk = chunk_size(&directory, width, height)?;
        let samples = samples as usize;
        Ok(Self {
            directory,
            width,
            height,
            color,
            samples,
            bits,
            is_premultiplied,
            is_planar,
            is_differenced,
            compression,
            chunk,
        })
    }

    /// Width and height in pixels, neither of them 0.
    pub(crate) fn dimensions(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// The number of the Exif orientation.
    pub(crate) fn orientation(&self) -> Option<u64> {
        self.directory.number(tags::ORIENTATION).ok().flatten()
    }

    /// The XMP metadata, unless they are damaged.
    pub(crate) fn xmp(&self) -> Option<&'a [u8]> {
        self.directory.value_bytes(tags::XMP).ok().flatten()
    }

    /// Decodes to 8-bit RGB, row by row.
    pub(crate) fn decode(&self) -> Result<Vec<u8>, TiffError> {
        let used = if self.compression.is_jpeg() {
            3
        } else {
            self.color.channels() + usize::from(self.is_premultiplied)
        };
        let mut pixels = vec![0; self.width * self.height * used];
        let chunks = TiffChunks::new(self)?;
        let planes = if self.is_planar { used } else { 1 };
        for plane in 0..planes {
            for place in 0..chunks.per_plane() {
                let data = self.compression.in_order(chunks.data(plane, place)?);
                let area = chunks.area(place);
                if let CompressionMethod::Jpeg { tables } = &self.compression.method {
                    self.decode_jpeg(&data, tables, area, &mut pixels)?;
                } else {
                    self.decode_rows(&data, plane, area, used, &mut pixels)?;
                }
            }
        }
        Ok(if self.compression.is_jpeg() { pixels } else { self.to_rgb(&pixels, used) })
    }

    fn decode_rows(
        &self,
        data: &[u8],
        plane: usize,
        area: Area,
        used: usize,
        pixels: &mut [u8],
    ) -> Result<(), TiffError> {
        let stored = if self.is_planar { 1 } else { self.samples };
        let mut rows = self.compression.rows(data, self.chunk.width)?;
        let mut row = vec![0; (self.chunk.width * stored * self.bits).div_ceil(8)];
        let mut samples = vec![0; self.chunk.width * stored];
        for y in area.y..area.y + area.height {
            rows.read(&mut row)?;
            if self.bits == 16 {
                self.unpack_16(&mut row, stored, &mut samples);
            } else {
                self.unpack(&mut row, stored, &mut samples);
            }
            let from = (y * self.width + area.x) * used;
            let into = pixels[from..from + area.width * used].chunks_exact_mut(used);
            for (pixel, samples) in into.zip(samples.chunks_exact(stored)) {
                if self.is_planar {
                    pixel[plane] = samples[0];
                } else {
                    pixel.copy_from_slice(&samples[..used]);
                }
            }
        }
        Ok(())
    }

    /// Samples of up to 8 bits. Those of gray pixels are brought to the whole range; the others are
    /// indices, or have 8 bits.
    fn unpack(&self, row: &mut [u8], stored: usize, samples: &mut [u8]) {
        if self.is_differenced {
            for at in stored..row.len() {
                row[at] = row[at].wrapping_add(row[at - stored]);
            }
        }
        if self.bits == 8 {
            samples.copy_from_slice(row);
            return;
        }
        let largest = (1_u8 << self.bits) - 1;
        let scale = if matches!(self.color, TiffColor::Gray { .. }) { 255 / largest } else { 1 };
        for (at, sample) in samples.iter_mut().enumerate() {
            let bit = at * self.bits;
            *sample = (row[bit / 8] >> (8 - self.bits - bit % 8) & largest) * scale;
        }
    }

    /// Samples of 16 bits, of which 8 are kept.
    fn unpack_16(&self, row: &mut [u8], stored: usize, samples: &mut [u8]) {
        let order = self.directory.order;
        let mut before = vec![0_u16; stored];
        for (at, (bytes, sample)) in row.as_chunks().0.iter().zip(samples).enumerate() {
            let mut value = order.u16(*bytes);
            if self.is_differenced {
                value = value.wrapping_add(before[at % stored]);
                before[at % stored] = value;
            }
            *sample = ((u32::from(value) + 128) / 257) as u8;
        }
    }

    fn decode_jpeg(
        &self,
        data: &[u8],
        tables: &[u8],
        area: Area,
        pixels: &mut [u8],
    ) -> Result<(), TiffError> {
        let allowed = 16 * (self.width * self.height).max(1 << 20) as u64;
        // The tables are a JPEG without an image, the strips and tiles JPEGs without tables.
        let (Some(tables), Some(data)) =
            (tables.get(..tables.len().saturating_sub(2)), data.get(2..))
        else {
            return Err(TiffError::Truncated);
        };
        let whole = if tables.is_empty() {
            [&[0xff, 0xd8], data].concat()
        } else {
            [tables, data].concat()
        };
        let mut decoder = JpegDecoder::new(&whole)?;
        if decoder.channels() != self.samples {
            return Err(TiffError::Damaged("a JPEG in it has other channels than its pixels"));
        }
        decoder.set_color(match self.color {
            TiffColor::Rgb => JpegColor::Rgb,
            TiffColor::YCbCr => JpegColor::YCbCr,
            _ => JpegColor::Gray,
        });
        let (width, height) = decoder.dimensions();
        if (width as usize) < area.width || (height as usize) < area.height {
            return Err(TiffError::Damaged("a JPEG in it is smaller than its place"));
        }
        let rgb = decoder.decode(allowed)?;
        let rows = rgb.chunks_exact(3 * width as usize).take(area.height);
        for (y, row) in (area.y..).zip(rows) {
            let from = (y * self.width + area.x) * 3;
            pixels[from..from + 3 * area.width].copy_from_slice(&row[..3 * area.width]);
        }
        Ok(())
    }

    fn to_rgb(&self, pixels: &[u8], used: usize) -> Vec<u8> {
        let mut rgb = Vec::with_capacity(3 * self.width * self.height);
        for pixel in pixels.chunks_exact(used) {
            let mut color = match (&self.color, pixel) {
                (TiffColor::Gray { is_white_zero: false }, &[value, ..]) => [value; 3],
                (TiffColor::Gray { is_white_zero: true }, &[value, ..]) => [255 - value; 3],
                (TiffColor::Palette(colors), &[index, ..]) => {
                    colors.get(usize::from(index)).copied().unwrap_or_default()
                }
                (TiffColor::YCbCr, &[y, cb, cr, ..]) => crate::jpeg::ycc_to_rgb([y, cb, cr]),
                (TiffColor::Cmyk, &[c, m, y, k, ..]) => crate::jpeg::cmyk_to_rgb([c, m, y, k]),
                (_, &[red, green, blue, ..]) => [red, green, blue],
                _ => [0; 3],
            };
            if self.is_premultiplied {
                // Nothing is left of a color without alpha.
                let alpha = u32::from(pixel[used - 1]);
                color = color.map(|value| {
                    let product = u32::from(value) * 255;
                    product.checked_div(alpha).unwrap_or(0).min(255) as u8
                });
            }
            rgb.extend_from_slice(&color);
        }
        rgb
    }
}

/// The bits of a sample, the same for all.
fn sample_bits(directory: &Directory) -> Result<usize, TiffError> {
    let formats = directory.numbers(tags::SAMPLE_FORMAT)?;
    match formats.iter().find(|&&format| format != 1 && format != 4) {
        None => {}
        Some(2) => return unsupported("signed samples"),
        Some(3) => return unsupported("floating-point samples"),
        Some(_) => return unsupported("complex samples"),
    }
    let bits = directory.numbers(tags::BITS)?;
    let first = bits.first().copied().unwrap_or(1);
    if bits.iter().any(|&other| other != first) {
        return unsupported("samples of different sizes");
    }
    match first {
        1 | 2 | 4 | 8 | 16 => Ok(first as usize),
        _ => unsupported(format!("samples of {first} bits")),
    }
}

fn color(
    directory: &Directory,
    bits: usize,
    compression: &Compression,
) -> Result<TiffColor, TiffError> {
    let is_jpeg = compression.is_jpeg();
    let Some(photometric) = directory.number(tags::PHOTOMETRIC)? else {
        return unsupported("no statement of its colors");
    };
    let color = match photometric {
        number @ (0 | 1) => TiffColor::Gray { is_white_zero: number == 0 },
        2 => TiffColor::Rgb,
        3 => TiffColor::Palette(palette(directory, bits)?),
        5 => match directory.number(tags::INK_SET)?.unwrap_or(1) {
            1 => TiffColor::Cmyk,
            _ => return unsupported("inks other than CMYK"),
        },
        6 => {
            let subsampling = directory.numbers(tags::SUBSAMPLING)?;
            if !is_jpeg && subsampling != [1, 1] {
                return unsupported("subsampled colors");
            }
            TiffColor::YCbCr
        }
        8..=10 => return unsupported("CIE L*a*b* colors"),
        32803 => return unsupported("raw sensor data"),
        _ => return unsupported(format!("colors of kind {photometric}")),
    };
    let is_size_of_kind = match color {
        // Readers do not agree on whether 16 bits are inverted.
        TiffColor::Gray { is_white_zero: true } => bits < 16,
        TiffColor::Gray { .. } => true,
        TiffColor::Palette(_) => bits <= 8,
        TiffColor::Rgb | TiffColor::Cmyk => bits >= 8,
        TiffColor::YCbCr => bits == 8,
    };
    if !is_size_of_kind {
        let kind = match color {
            TiffColor::Gray { .. } => "white as 0",
            TiffColor::Palette(_) => "a color table",
            TiffColor::Rgb => "RGB colors",
            TiffColor::Cmyk => "CMYK colors",
            TiffColor::YCbCr => "YCbCr colors",
        };
        return unsupported(format!("{kind} and samples of {bits} bits"));
    }
    if is_jpeg && (bits != 8 || matches!(color, TiffColor::Cmyk | TiffColor::Palette(_))) {
        return unsupported("JPEG compression of other than gray, RGB and YCbCr pixels");
    }
    if is_jpeg && matches!(color, TiffColor::Gray { is_white_zero: true }) {
        return unsupported("JPEG compression and white as 0");
    }
    Ok(color)
}

/// The colors of a table, stored as all reds, then all greens, then all blues, of 16 bits each.
fn palette(directory: &Directory, bits: usize) -> Result<Vec<[u8; 3]>, TiffError> {
    let map = directory.numbers(tags::COLOR_MAP)?;
    let count = 1 << bits.min(8);
    if map.len() != 3 * count {
        return Err(TiffError::Damaged("its color table is of another size than its samples"));
    }
    // The upper byte counts, as in Pillow.
    let value = |channel: usize, index: usize| (map[channel * count + index] >> 8) as u8;
    Ok((0..count).map(|index| std::array::from_fn(|channel| value(channel, index))).collect())
}

/// Whether the sample behind the colors is an alpha that they have been multiplied by.
fn check_extra_samples(
    directory: &Directory,
    color: &TiffColor,
    samples: u64,
) -> Result<bool, TiffError> {
    let allowed = match color {
        TiffColor::Gray { .. } | TiffColor::Palette(_) => 1,
        TiffColor::Rgb => 3,
        TiffColor::Cmyk => 2,
        TiffColor::YCbCr => 0,
    };
    let channels = color.channels() as u64;
    if samples < channels {
        return Err(TiffError::Damaged("it has fewer channels than its colors need"));
    }
    // Satellite images have channels that are not colors; to pick some of them would be a guess.
    if samples > channels + allowed {
        return unsupported(format!("{samples} channels"));
    }
    let is_premultiplied = directory.numbers(tags::EXTRA_SAMPLES)?.first() == Some(&1);
    let is_premultiplied = is_premultiplied && samples > channels;
    if is_premultiplied
        && !matches!(color, TiffColor::Gray { is_white_zero: false } | TiffColor::Rgb)
    {
        return unsupported("these colors multiplied by alpha");
    }
    Ok(is_premultiplied)
}

fn chunk_size(directory: &Directory, width: usize, height: usize) -> Result<ChunkSize, TiffError> {
    /// Longer sides would only take memory.
    const MAX_SIDE: u64 = 1 << 16;

    let tile = (directory.number(tags::TILE_WIDTH)?, directory.number(tags::TILE_HEIGHT)?);
    match tile {
        (Some(1..=MAX_SIDE), Some(1..=MAX_SIDE)) => Ok(ChunkSize {
            width: tile.0.unwrap_or(1) as usize,
            height: tile.1.unwrap_or(1) as usize,
        }),
        (None, None) => {
            let rows = directory.number(tags::ROWS_PER_STRIP)?.unwrap_or(u64::MAX);
            let rows = usize::try_from(rows).unwrap_or(usize::MAX).min(height);
            if rows == 0 {
                return Err(TiffError::Damaged("its strips have no rows"));
            }
            Ok(ChunkSize { width, height: rows })
        }
        _ => Err(TiffError::Damaged("its tiles have no size or a too large one")),
    }
}

/// The part of a chunk that lies within the image, in pixels.
#[derive(Clone, Copy)]
struct Area {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

/// Where the chunks are stored.
struct TiffChunks<'a, 'b> {
    decoder: &'b TiffDecoder<'a>,
    offsets: Vec<u64>,
    lengths: Vec<u64>,
    across: usize,
    down: usize,
}

impl<'a, 'b> TiffChunks<'a, 'b> {
    fn new(decoder: &'b TiffDecoder<'a>) -> Result<Self, TiffError> {
        let directory = &decoder.directory;
        let mut offsets = directory.numbers(tags::TILE_OFFSETS)?;
        let mut lengths = directory.numbers(tags::TILE_LENGTHS)?;
        if offsets.is_empty() {
            offsets = directory.numbers(tags::STRIP_OFFSETS)?;
            lengths = directory.numbers(tags::STRIP_LENGTHS)?;
        }
        let across = decoder.width.div_ceil(decoder.chunk.width);
        let down = decoder.height.div_ceil(decoder.chunk.height);
        let planes = if decoder.is_planar { decoder.samples } else { 1 };
        if offsets.len() < across * down * planes {
            return Err(TiffError::Damaged("some of its strips or tiles are missing"));
        }
        Ok(Self { decoder, offsets, lengths, across, down })
    }

    fn per_plane(&self) -> usize {
        self.across * self.down
    }

    /// The bytes of a chunk; up to the end of the file where their number is not told.
    fn data(&self, plane: usize, place: usize) -> Result<&'a [u8], TiffError> {
        let index = plane * self.per_plane() + place;
        let bytes = self.decoder.directory.bytes;
        let offset = usize::try_from(self.offsets[index]).map_err(|_| TiffError::Truncated)?;
        let rest = bytes.get(offset..).ok_or(TiffError::Truncated)?;
        match self.lengths.get(index) {
            None | Some(0) => Ok(rest),
            Some(&length) => {
                let length = usize::try_from(length).map_err(|_| TiffError::Truncated)?;
                rest.get(..length).ok_or(TiffError::Truncated)
            }
        }
    }

    fn area(&self, place: usize) -> Area {
        let decoder = self.decoder;
        let x = place % self.across * decoder.chunk.width;
        let y = place / self.across * decoder.chunk.height;
        let width = decoder.chunk.width.min(decoder.width - x);
        let height = decoder.chunk.height.min(decoder.height - y);
        Area { x, y, width, height }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAY: [(u16, &[u32]); 4] =
        [(tags::WIDTH, &[5]), (tags::HEIGHT, &[3]), (tags::BITS, &[8]), (tags::PHOTOMETRIC, &[1])];
    const RGB: [(u16, &[u32]); 5] = [
        (tags::WIDTH, &[5]),
        (tags::HEIGHT, &[3]),
        (tags::BITS, &[8, 8, 8]),
        (tags::PHOTOMETRIC, &[2]),
        (tags::SAMPLES, &[3]),
    ];

    /// A file in which the tags come first and then the strips or tiles.
    fn tiff(tags: &[(u16, &[u32])], chunks: &[&[u8]]) -> Vec<u8> {
        let is_tiled = tags.iter().any(|(tag, _)| *tag == tags::TILE_WIDTH);
        let offsets = if is_tiled { tags::TILE_OFFSETS } else { tags::STRIP_OFFSETS };
        let longer: usize =
            tags.iter().map(|(_, values)| values.len()).filter(|&len| len > 1).sum();
        let several = if chunks.len() > 1 { chunks.len() } else { 0 };
        let behind = 8 + 2 + 12 * (tags.len() + 1) + 4;
        let mut at = (behind + 4 * (longer + several)) as u32;
        let mut starts = Vec::new();
        for chunk in chunks {
            starts.push(at);
            at += chunk.len() as u32;
        }
        let mut bytes = b"II\x2a\0\x08\0\0\0".to_vec();
        bytes.extend((tags.len() as u16 + 1).to_le_bytes());
        let mut values_behind = Vec::new();
        for (tag, values) in tags.iter().copied().chain([(offsets, &starts[..])]) {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(4_u16.to_le_bytes());
            bytes.extend((values.len() as u32).to_le_bytes());
            let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            if values.len() == 4 {
                bytes.extend(values);
            } else {
                bytes.extend(((behind + values_behind.len()) as u32).to_le_bytes());
                values_behind.extend(values);
            }
        }
        bytes.extend([0; 4]);
        bytes.extend(values_behind);
        bytes.extend(chunks.concat());
        bytes
    }

    fn with<'a>(tags: &[(u16, &'a [u32])], others: &[(u16, &'a [u32])]) -> Vec<(u16, &'a [u32])> {
        let is_same = |tag: u16| others.iter().any(|(other, _)| *other == tag);
        tags.iter().filter(|(tag, _)| !is_same(*tag)).chain(others).copied().collect()
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let decode = || TiffDecoder::new(bytes)?.decode();
        decode().map_err(|error: TiffError| error.to_string())
    }

    fn gray(values: &[u8]) -> Vec<u8> {
        values.iter().flat_map(|&value| [value; 3]).collect()
    }

    #[test]
    fn strips_and_tiles_are_put_together() {
        let values: Vec<u8> = (10..25).collect();
        assert_eq!(decoded(&tiff(&GRAY, &[&values])), Ok(gray(&values)));
        let strips = with(&GRAY, &[(tags::ROWS_PER_STRIP, &[2])]);
        assert_eq!(decoded(&tiff(&strips, &[&values[..10], &values[10..]])), Ok(gray(&values)));
        let missing = decoded(&tiff(&strips, &[&values]));
        assert!(missing.unwrap_err().contains("some of its strips or tiles are missing"));

        // Of 4 x 2, so that the last ones reach over the sides.
        let tiles = with(&GRAY, &[(tags::TILE_WIDTH, &[4]), (tags::TILE_HEIGHT, &[2])]);
        let chunks: [&[u8]; 4] = [
            &[10, 11, 12, 13, 15, 16, 17, 18],
            &[14, 0, 0, 0, 19, 0, 0, 0],
            &[20, 21, 22, 23, 0, 0, 0, 0],
            &[24, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(decoded(&tiff(&tiles, &chunks)), Ok(gray(&values)));
    }

    #[test]
    fn channels_that_are_stored_on_their_own_are_joined() {
        let planes: [Vec<u8>; 3] =
            std::array::from_fn(|plane| (0..15).map(|at| (50 * plane + at) as u8).collect());
        let expected = (0..15).flat_map(|at| [at, 50 + at, 100 + at]).collect();
        let tags = with(&RGB, &[(tags::PLANAR, &[2])]);
        let chunks = planes.each_ref().map(Vec::as_slice);
        assert_eq!(decoded(&tiff(&tags, &chunks)), Ok(expected));
        // With 16 bits, too, which Pillow reads wrongly.
        let deep =
            planes.map(|plane| plane.iter().flat_map(|&value| [value; 2]).collect::<Vec<_>>());
        let tags = with(&tags, &[(tags::BITS, &[16, 16, 16])]);
        let expected = (0..15).flat_map(|at| [at, 50 + at, 100 + at]).collect();
        assert_eq!(decoded(&tiff(&tags, &deep.each_ref().map(Vec::as_slice))), Ok(expected));
    }

    #[test]
    fn differences_are_summed_up() {
        use std::io::Write;

        let deflated = |values: &[u8]| {
            let mut encoder =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(values).unwrap();
            encoder.finish().unwrap()
        };
        let differences = [10, 1, 1, 1, 1, 20, 255, 255, 255, 255, 0, 0, 0, 0, 9];
        let expected = [10, 11, 12, 13, 14, 20, 19, 18, 17, 16, 0, 0, 0, 0, 9];
        let tags = with(&GRAY, &[(tags::PREDICTOR, &[2]), (tags::COMPRESSION, &[8])]);
        assert_eq!(decoded(&tiff(&tags, &[&deflated(&differences)])), Ok(gray(&expected)));

        let deep = differences.map(|value: u8| 257 * i16::from(value.cast_signed()));
        let deep: Vec<u8> = deep.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tags = with(&tags, &[(tags::BITS, &[16])]);
        assert_eq!(decoded(&tiff(&tags, &[&deflated(&deep)])), Ok(gray(&expected)));
    }

    #[test]
    fn a_jpeg_in_a_tiff_has_the_colors_of_the_tags() {
        let color = [200, 90, 30];
        let mut jpeg = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 100)
            .encode(&color.repeat(15), 5, 3, image::ExtendedColorType::Rgb8)
            .unwrap();
        // Says that its components are RGB, in place of the JFIF header with YCbCr.
        let adobe = b"\xff\xd8\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0";
        let jpeg = [&adobe[..], &jpeg[20..]].concat();
        let read = |tags: &[(u16, &'static [u32])]| {
            let tags = with(&with(&RGB, &[(tags::COMPRESSION, &[7])]), tags);
            decoded(&tiff(&tags, &[&jpeg])).map(|pixels| [pixels[0], pixels[1], pixels[2]])
        };
        let is_near = |found: [u8; 3], expected: [u8; 3]| {
            found.iter().zip(expected).all(|(found, expected)| found.abs_diff(expected) <= 2)
        };
        assert!(is_near(read(&[(tags::PHOTOMETRIC, &[6])]).unwrap(), color));
        let ycc = [116, 79, 188];
        assert!(is_near(read(&[]).unwrap(), ycc), "{:?}", read(&[]));
        let gray: [(u16, &[u32]); 3] =
            [(tags::PHOTOMETRIC, &[1]), (tags::SAMPLES, &[1]), (tags::BITS, &[8])];
        assert!(read(&gray).unwrap_err().contains("other channels than its pixels"));
        let with_alpha: [(u16, &[u32]); 2] = [(tags::SAMPLES, &[4]), (tags::BITS, &[8, 8, 8, 8])];
        assert!(read(&with_alpha).unwrap_err().contains("JPEG compression of 4 channels"));
    }

    #[test]
    fn cut_files_are_refused_at_every_length() {
        let whole = tiff(&RGB, &[&[7; 45]]);
        assert_eq!(decoded(&whole), Ok(vec![7; 45]));
        for length in 0..whole.len() {
            assert!(decoded(&whole[..length]).unwrap_err().contains("the TIFF is"), "{length}");
        }
    }

    #[test]
    fn kinds_that_are_not_read_are_named() {
        let rgb = |tags: &[(u16, &'static [u32])], reason: &str| {
            let message = decoded(&tiff(&with(&RGB, tags), &[&[0; 999]])).unwrap_err();
            assert!(message.contains(reason), "{message}");
        };
        rgb(
            &[(tags::SAMPLE_FORMAT, &[3, 3, 3]), (tags::BITS, &[32, 32, 32])],
            "a TIFF with floating-point samples is not read; convert it to PNG",
        );
        rgb(&[(tags::SAMPLE_FORMAT, &[2, 2, 2])], "signed samples");
        rgb(&[(tags::BITS, &[32, 32, 32])], "samples of 32 bits");
        rgb(&[(tags::BITS, &[5, 6, 5])], "samples of different sizes");
        rgb(&[(tags::BITS, &[4, 4, 4])], "RGB colors and samples of 4 bits");
        rgb(&[(tags::COMPRESSION, &[3])], "CCITT Group 3 compression");
        rgb(&[(tags::COMPRESSION, &[6])], "JPEG compression of the old style");
        rgb(&[(tags::COMPRESSION, &[50000])], "Zstandard compression");
        rgb(&[(tags::COMPRESSION, &[34925])], "LZMA compression");
        rgb(&[(tags::COMPRESSION, &[12345])], "compression 12345");
        rgb(&[(tags::PHOTOMETRIC, &[8])], "CIE L*a*b* colors");
        rgb(&[(tags::PHOTOMETRIC, &[32803])], "raw sensor data");
        rgb(&[(tags::PHOTOMETRIC, &[6])], "subsampled colors");
        rgb(&[(tags::SAMPLES, &[13])], "13 channels");
        rgb(&[(tags::PREDICTOR, &[3])], "a predictor for floating-point");
        rgb(&[(tags::PHOTOMETRIC, &[0]), (tags::SAMPLES, &[1]), (tags::BITS, &[16])], "white as 0");
        rgb(&[(tags::WIDTH, &[0])], "its width or height is 0");
        rgb(&[(tags::SAMPLES, &[2])], "fewer channels than its colors need");
    }
}
