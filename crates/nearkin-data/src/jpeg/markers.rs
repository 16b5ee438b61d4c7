//! Headers: what comes between the scans.

use std::sync::Arc;

use memchr::memchr;

use super::entropy::HuffmanCode;
use super::{JpegError, standard};
use crate::exif::EXIF_MARK;

/// What marks a block as XMP.
const XMP_MARK: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

const BAD_LENGTH: JpegError = JpegError::Damaged("a header has a wrong length");
const NO_CODE: JpegError = JpegError::Damaged("a Huffman code is missing");

/// How the components give a color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JpegColor {
    Gray,
    YCbCr,
    Rgb,
    Cmyk,
    Ycck,
}

/// A channel as stored.
#[derive(Debug, Clone)]
pub(super) struct Component {
    id: u8,
    /// Sampling factors across and down, from 1 to 4.
    pub(super) h: usize,
    pub(super) v: usize,
    quantization: usize,
    /// Samples across and down that belong to the image.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Blocks across and down in whole MCUs, as an interleaved scan has them.
    pub(super) padded_columns: usize,
    pub(super) padded_rows: usize,
}

impl Component {
    /// Blocks across and down that hold samples of the image, as a scan of this component alone has
    /// them.
    pub(super) fn blocks(&self) -> (usize, usize) {
        (self.width.div_ceil(8), self.height.div_ceil(8))
    }

    pub(super) fn padded_blocks(&self) -> usize {
        self.padded_columns * self.padded_rows
    }
}

/// The image as the frame header describes it.
#[derive(Debug, Clone)]
pub(super) struct FrameHeader {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) is_progressive: bool,
    pub(super) components: Vec<Component>,
    /// The largest sampling factors.
    pub(super) h_max: usize,
    pub(super) v_max: usize,
    pub(super) mcus_across: usize,
    pub(super) mcus_down: usize,
}

impl FrameHeader {
    /// Bytes that decoding allocates, apart from tables and single rows.
    pub(super) fn memory(&self) -> u64 {
        let samples: usize = self.components.iter().map(|part| part.padded_blocks() * 64).sum();
        let coefficients = if self.is_progressive { 2 * samples } else { 0 };
        (self.width * self.height * 3 + samples).max(coefficients + samples) as u64
    }
}

/// One component of a scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScanComponent {
    /// Its place in the frame.
    pub(super) index: usize,
    pub(super) dc_table: usize,
    pub(super) ac_table: usize,
}

#[derive(Debug, Clone)]
pub(super) struct ScanHeader {
    pub(super) components: Vec<ScanComponent>,
    /// The first and the last coefficient, in zigzag order.
    pub(super) first: usize,
    pub(super) last: usize,
    /// The position of the lowest bit that earlier scans have sent, 0 for none.
    pub(super) high: u8,
    /// The position of the lowest bit that this scan sends.
    pub(super) low: u8,
}

/// The bytes of a file and how far they have been read.
pub(super) struct JpegBytes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> JpegBytes<'a> {
    /// The kind of the next marker. Bytes that belong to none are skipped.
    fn next_marker(&mut self) -> Result<u8, JpegError> {
        loop {
            let rest = &self.bytes[self.at..];
            self.at += memchr(0xff, rest).ok_or(JpegError::Truncated)?;
            while self.bytes.get(self.at) == Some(&0xff) {
                self.at += 1;
            }
            let kind = *self.bytes.get(self.at).ok_or(JpegError::Truncated)?;
            self.at += 1;
            if kind != 0 {
                return Ok(kind);
            }
        }
    }

    /// The content of the segment that follows its marker.
    fn segment(&mut self) -> Result<&'a [u8], JpegError> {
        let rest = &self.bytes[self.at..];
        let (length, _) = rest.split_first_chunk().ok_or(JpegError::Truncated)?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length < 2 {
            return Err(BAD_LENGTH);
        }
        let segment = rest.get(2..length).ok_or(JpegError::Truncated)?;
        self.at += length;
        Ok(segment)
    }

    /// Copies the coded data up to the next marker, without the bytes that only keep 0xff from
    /// looking like one.
    pub(super) fn read_coded(&mut self, coded: &mut Vec<u8>) {
        coded.clear();
        loop {
            let rest = &self.bytes[self.at..];
            let Some(found) = memchr(0xff, rest) else {
                coded.extend_from_slice(rest);
                self.at = self.bytes.len();
                return;
            };
            let after = rest[found..].iter().position(|&byte| byte != 0xff);
            if let Some(after) = after
                && rest[found + after] == 0
            {
                coded.extend_from_slice(&rest[..=found]);
                self.at += found + after + 1;
            } else {
                coded.extend_from_slice(&rest[..found]);
                self.at += found;
                return;
            }
        }
    }

    /// Reads the restart marker that has to come next, the one with number `expected` from 0 to 7.
    pub(super) fn read_restart(&mut self, expected: u8) -> Result<(), JpegError> {
        match self.next_marker()? {
            marker if marker == 0xd0 + expected => Ok(()),
            0xd0..=0xd7 => Err(JpegError::Damaged("its restart markers are out of order")),
            _ => Err(JpegError::Damaged("a restart marker is missing")),
        }
    }
}

/// Codes and numbers that headers set, and scans use.
pub(super) struct CodingTables {
    /// In zigzag order.
    quantization: [Option<[u16; 64]>; 4],
    dc_codes: [Option<Arc<HuffmanCode>>; 4],
    ac_codes: [Option<Arc<HuffmanCode>>; 4],
    /// MCUs between two restart markers, 0 for none.
    pub(super) restart_interval: usize,
}

impl CodingTables {
    /// The quantization table of a component, in zigzag order.
    pub(super) fn quantization(&self, component: &Component) -> Result<&[u16; 64], JpegError> {
        self.quantization[component.quantization]
            .as_ref()
            .ok_or(JpegError::Damaged("a quantization table is missing"))
    }

    pub(super) fn dc_code(&self, place: usize) -> Result<&HuffmanCode, JpegError> {
        let code = self.dc_codes.get(place).and_then(Option::as_deref).ok_or(NO_CODE)?;
        if !code.has_sizes_only {
            return Err(JpegError::Damaged("a Huffman code is not one of DC coefficients"));
        }
        Ok(code)
    }

    pub(super) fn ac_code(&self, place: usize) -> Result<&HuffmanCode, JpegError> {
        self.ac_codes.get(place).and_then(Option::as_deref).ok_or(NO_CODE)
    }

    /// Puts the codes of Annex K of the standard where a file has none: frames of a Motion JPEG
    /// leave them out.
    pub(super) fn add_standard_codes(&mut self) {
        for place in 0..2 {
            for (class, codes) in [&mut self.dc_codes, &mut self.ac_codes].into_iter().enumerate() {
                let given = codes[place].take();
                codes[place] = given.or_else(|| standard::code(class, place));
            }
        }
    }
}

/// Reads markers and their tables, from scan to scan.
pub(super) struct HeaderReader<'a> {
    pub(super) source: JpegBytes<'a>,
    pub(super) tables: CodingTables,
    frame: Option<FrameHeader>,
    has_jfif: bool,
    adobe_transform: Option<u8>,
    /// The color in place of the one that the file states.
    pub(super) given_color: Option<JpegColor>,
    pub(super) exif: Option<&'a [u8]>,
    pub(super) xmp: Option<&'a [u8]>,
}

impl<'a> HeaderReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, JpegError> {
        if !bytes.starts_with(&[0xff, 0xd8]) {
            return Err(JpegError::Damaged("its start marker is missing"));
        }
        Ok(Self {
            source: JpegBytes { bytes, at: 2 },
            tables: CodingTables {
                quantization: [None; 4],
                dc_codes: [const { None }; 4],
                ac_codes: [const { None }; 4],
                restart_interval: 0,
            },
            frame: None,
            has_jfif: false,
            adobe_transform: None,
            given_color: None,
            exif: None,
            xmp: None,
        })
    }

    /// Reads up to the data of the next scan; `None` at the end of the image.
    pub(super) fn next_scan(&mut self) -> Result<Option<ScanHeader>, JpegError> {
        loop {
            match self.source.next_marker()? {
                0xc0 | 0xc1 => self.read_frame(false)?,
                0xc2 => self.read_frame(true)?,
                0xc4 => self.read_huffman_codes()?,
                0xd9 => return Ok(None),
                0xda => return self.read_scan_header().map(Some),
                0xdb => self.read_quantization()?,
                0xdd => {
                    let [high, low] = *self.source.segment()? else { return Err(BAD_LENGTH) };
                    self.tables.restart_interval = u16::from_be_bytes([high, low]).into();
                }
                0xe0 => {
                    let segment = self.source.segment()?;
                    self.has_jfif |= segment.len() >= 14 && segment.starts_with(b"JFIF\0");
                }
                0xe1 => {
                    let segment = self.source.segment()?;
                    self.exif = self.exif.or(segment.strip_prefix(EXIF_MARK));
                    self.xmp = segment.strip_prefix(XMP_MARK).or(self.xmp);
                }
                0xee => {
                    let segment = self.source.segment()?;
                    if segment.len() >= 12 && segment.starts_with(b"Adobe") {
                        self.adobe_transform = Some(segment[11]);
                    }
                }
                // Parameters of arithmetic coding, the number of lines that the frame has told,
                // metadata and comments.
                0xcc | 0xdc | 0xe2..=0xed | 0xef | 0xfe => {
                    self.source.segment()?;
                }
                // Restart markers out of place, and one that is always without a segment.
                0xd0..=0xd7 | 0x01 => {}
                0xc3 | 0xc7 | 0xcb | 0xcf => {
                    return Err(JpegError::Unsupported("lossless compression"));
                }
                0xc9 | 0xca => return Err(JpegError::Unsupported("arithmetic coding")),
                0xc5 | 0xc6 | 0xcd | 0xce => {
                    return Err(JpegError::Unsupported("hierarchical compression"));
                }
                0xf7 => return Err(JpegError::Unsupported("JPEG-LS compression")),
                0xd8 => return Err(JpegError::Damaged("it starts twice")),
                _ => return Err(JpegError::Damaged("it has an unknown marker")),
            }
        }
    }

    pub(super) fn frame(&self) -> Result<FrameHeader, JpegError> {
        self.frame.clone().ok_or(JpegError::Damaged("a scan comes before the frame header"))
    }

    /// By the rules of libjpeg.
    pub(super) fn color(&self, frame: &FrameHeader) -> JpegColor {
        if let Some(color) = self.given_color {
            return color;
        }
        let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        match (ids.len(), self.adobe_transform) {
            (1, _) => JpegColor::Gray,
            (3, _) if self.has_jfif => JpegColor::YCbCr,
            (3, Some(0)) => JpegColor::Rgb,
            (3, None) if ids == *b"RGB" => JpegColor::Rgb,
            (3, _) => JpegColor::YCbCr,
            (_, None | Some(0)) => JpegColor::Cmyk,
            _ => JpegColor::Ycck,
        }
    }

    fn read_frame(&mut self, is_progressive: bool) -> Result<(), JpegError> {
        let segment = self.source.segment()?;
        let ([precision, y1, y0, x1, x0, count], entries) =
            segment.split_first_chunk().ok_or(BAD_LENGTH)?;
        if self.frame.is_some() {
            return Err(JpegError::Damaged("it has two frame headers"));
        }
        if *precision != 8 {
            return Err(JpegError::Unsupported("samples of more than 8 bits"));
        }
        let height = usize::from(u16::from_be_bytes([*y1, *y0]));
        let width = usize::from(u16::from_be_bytes([*x1, *x0]));
        if height == 0 {
            return Err(JpegError::Unsupported("a height that follows the pixels"));
        }
        if width == 0 {
            return Err(JpegError::Damaged("its width is 0"));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(JpegError::Unsupported("neither 1, 3 nor 4 components"));
        }
        let (entries, rest) = entries.as_chunks::<3>();
        if !rest.is_empty() || entries.len() != usize::from(*count) {
            return Err(BAD_LENGTH);
        }
        let factors = |entry: &[u8; 3]| (usize::from(entry[1] >> 4), usize::from(entry[1] & 15));
        if entries.iter().map(factors).any(|(h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v))
        {
            return Err(JpegError::Damaged("its sampling factors are not between 1 and 4"));
        }
        let h_max = entries.iter().map(|entry| factors(entry).0).max().unwrap_or(1);
        let v_max = entries.iter().map(|entry| factors(entry).1).max().unwrap_or(1);
        let mcus_across = width.div_ceil(8 * h_max);
        let mcus_down = height.div_ceil(8 * v_max);
        let mut components = Vec::with_capacity(entries.len());
        for entry in entries {
            let (h, v) = factors(entry);
            if !h_max.is_multiple_of(h) || !v_max.is_multiple_of(v) {
                return Err(JpegError::Unsupported("sampling factors in a ratio such as 3:2"));
            }
            if entry[2] > 3 {
                return Err(JpegError::Damaged("it has more than four quantization tables"));
            }
            components.push(Component {
                id: entry[0],
                h,
                v,
                quantization: entry[2].into(),
                width: (width * h).div_ceil(h_max),
                height: (height * v).div_ceil(v_max),
                padded_columns: mcus_across * h,
                padded_rows: mcus_down * v,
            });
        }
        self.frame = Some(FrameHeader {
            width,
            height,
            is_progressive,
            components,
            h_max,
            v_max,
            mcus_across,
            mcus_down,
        });
        Ok(())
    }

    fn read_huffman_codes(&mut self) -> Result<(), JpegError> {
        let mut rest = self.source.segment()?;
        while let Some((&place, after)) = rest.split_first() {
            let (counts, after) = after.split_first_chunk::<16>().ok_or(BAD_LENGTH)?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, after) = after.split_at_checked(total).ok_or(BAD_LENGTH)?;
            let class = usize::from(place >> 4);
            let codes = match class {
                0 => &mut self.tables.dc_codes,
                1 => &mut self.tables.ac_codes,
                _ => return Err(JpegError::Damaged("a Huffman code has an unknown class")),
            };
            let code = codes
                .get_mut(usize::from(place & 15))
                .ok_or(JpegError::Damaged("it has more than four Huffman codes of a class"))?;
            *code = Some(match standard::find(class, counts, symbols) {
                Some(standard) => standard,
                None => Arc::new(HuffmanCode::new(counts, symbols)?),
            });
            rest = after;
        }
        Ok(())
    }

    fn read_quantization(&mut self) -> Result<(), JpegError> {
        let mut rest = self.source.segment()?;
        while let Some((&place, after)) = rest.split_first() {
            let table = self
                .tables
                .quantization
                .get_mut(usize::from(place & 15))
                .ok_or(JpegError::Damaged("it has more than four quantization tables"))?;
            rest = if place >> 4 == 0 {
                let (values, after) = after.split_first_chunk::<64>().ok_or(BAD_LENGTH)?;
                *table = Some(values.map(u16::from));
                after
            } else {
                let (values, after) = after.split_first_chunk::<128>().ok_or(BAD_LENGTH)?;
                let (pairs, _) = values.as_chunks();
                *table = Some(std::array::from_fn(|place| u16::from_be_bytes(pairs[place])));
                after
            };
        }
        Ok(())
    }

    fn read_scan_header(&mut self) -> Result<ScanHeader, JpegError> {
        let segment = self.source.segment()?;
        let Some(frame) = &self.frame else {
            return Err(JpegError::Damaged("a scan comes before the frame header"));
        };
        let (&count, rest) = segment.split_first().ok_or(BAD_LENGTH)?;
        let (entries, parameters) =
            rest.split_at_checked(2 * usize::from(count)).ok_or(BAD_LENGTH)?;
        let [first, last, approximation] = *parameters else { return Err(BAD_LENGTH) };
        let mut components: Vec<ScanComponent> = Vec::new();
        for [id, tables] in entries.as_chunks().0 {
            // Files exist in which two components have the same id.
            let index = (0..frame.components.len())
                .find(|&index| {
                    frame.components[index].id == *id
                        && components.iter().all(|other| other.index != index)
                })
                .ok_or(JpegError::Damaged("a scan has an unknown component"))?;
            components.push(ScanComponent {
                index,
                dc_table: (tables >> 4).into(),
                ac_table: (tables & 15).into(),
            });
        }
        let blocks = |part: &ScanComponent| {
            let component = &frame.components[part.index];
            component.h * component.v
        };
        if components.is_empty() {
            return Err(JpegError::Damaged("a scan has no components"));
        }
        if components.len() > 1 && components.iter().map(blocks).sum::<usize>() > 10 {
            return Err(JpegError::Damaged("a scan interleaves more than ten blocks"));
        }
        Ok(ScanHeader {
            components,
            first: first.into(),
            last: last.into(),
            high: approximation >> 4,
            low: approximation & 15,
        })
    }
}
