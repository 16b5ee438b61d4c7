//! The blocks of a scan.

use std::ops::Range;

use super::JpegError;
use super::entropy::{BitReader, HuffmanCode, PADDING};
use super::idct::{self, DctBlock, Quantization};
use super::markers::{CodingTables, Component, FrameHeader, HeaderReader, JpegBytes, ScanHeader};

/// Where the coefficients of a block lie, in the order of the file. A damaged run of zeros may reach
/// 15 places behind the last; that is noticed afterward.
const NATURAL: [usize; 64 + 16] = {
    let mut natural = [63; 64 + 16];
    let (mut place, mut row, mut column) = (0, 0_usize, 0_usize);
    while place < 64 {
        natural[place] = 8 * row + column;
        place += 1;
        // Diagonals go up to the right and down to the left in turn.
        let is_rising = (row + column).is_multiple_of(2);
        if is_rising && column < 7 {
            (row, column) = (row.saturating_sub(1), column + 1);
        } else if !is_rising && row < 7 {
            (row, column) = (row + 1, column.saturating_sub(1));
        } else if is_rising {
            row += 1;
        } else {
            column += 1;
        }
    }
    natural
};

const NO_SUCH_CODE: JpegError =
    JpegError::Damaged("its pixel data do not follow its Huffman codes");
const BAD_SCAN: JpegError = JpegError::Damaged("its scans do not follow one another");

/// The samples of a component, as rows of whole blocks.
pub(super) struct Plane {
    pub(super) samples: Vec<u8>,
    /// Samples from one row to the next.
    pub(super) stride: usize,
}

impl Plane {
    fn new(component: &Component) -> Self {
        let samples = vec![0; 64 * component.padded_blocks()];
        Self { samples, stride: 8 * component.padded_columns }
    }

    /// The samples from the first of a block on.
    #[inline]
    fn block(&mut self, row: usize, column: usize) -> &mut [u8] {
        &mut self.samples[8 * (row * self.stride + column)..]
    }
}

/// The components of a sequential file, scan by scan.
pub(super) struct Planes {
    planes: Vec<Option<Plane>>,
}

impl Planes {
    pub(super) fn new(frame: &FrameHeader) -> Self {
        Self { planes: frame.components.iter().map(|_| None).collect() }
    }

    /// All planes, once every component has been in a scan.
    pub(super) fn complete(&mut self) -> Option<Vec<Plane>> {
        self.planes.iter().all(Option::is_some).then(|| self.planes.drain(..).flatten().collect())
    }
}

/// A component of a sequential scan.
struct SequentialPart<'a> {
    plane: Plane,
    dc: &'a HuffmanCode,
    ac: &'a HuffmanCode,
    quantization: Quantization,
    /// Blocks of an MCU, across and down.
    across: usize,
    down: usize,
    /// The DC coefficient of the block before.
    before: i32,
}

/// Decodes a scan of a sequential file into the planes of its components.
pub(super) fn decode_sequential(
    reader: &mut HeaderReader,
    frame: &FrameHeader,
    scan: &ScanHeader,
    planes: &mut Planes,
) -> Result<(), JpegError> {
    reader.tables.add_standard_codes();
    let mut parts = Vec::with_capacity(scan.components.len());
    for part in &scan.components {
        let component = &frame.components[part.index];
        if planes.planes[part.index].is_some() {
            return Err(BAD_SCAN);
        }
        let (across, down) = mcu_blocks(scan, component);
        parts.push(SequentialPart {
            plane: Plane::new(component),
            dc: reader.tables.dc_code(part.dc_table)?,
            ac: reader.tables.ac_code(part.ac_table)?,
            quantization: natural_quantization(&reader.tables, component)?,
            across,
            down,
            before: 0,
        });
    }
    let mut mcus = Mcus::new(frame, scan, &reader.tables);
    while let Some(range) = mcus.next(&mut reader.source)? {
        sequential_mcus(&mcus.coded, range, mcus.across, &mut parts)?;
    }
    for (part, place) in parts.into_iter().zip(&scan.components) {
        planes.planes[place.index] = Some(part.plane);
    }
    Ok(())
}

fn sequential_mcus(
    coded: &[u8],
    mcus: Range<usize>,
    across: usize,
    parts: &mut [SequentialPart],
) -> Result<(), JpegError> {
    let mut bits = BitReader::new(coded);
    parts.iter_mut().for_each(|part| part.before = 0);
    for mcu in mcus {
        let (mcu_row, mcu_column) = (mcu / across, mcu % across);
        for part in &mut *parts {
            for row in mcu_row * part.down..(mcu_row + 1) * part.down {
                for column in mcu_column * part.across..(mcu_column + 1) * part.across {
                    let mut block = [0; 64];
                    let last = read_block(&mut bits, part, &mut block).ok_or(NO_SUCH_CODE)?;
                    let stride = part.plane.stride;
                    let samples = part.plane.block(row, column);
                    if last == 0 {
                        idct::flat_samples(block[0], &part.quantization, samples, stride);
                    } else {
                        idct::samples(&block, &part.quantization, samples, stride);
                    }
                }
            }
        }
        if bits.are_overdrawn() {
            return Err(JpegError::Truncated);
        }
    }
    Ok(())
}

/// Returns the place of the last coefficient that is not 0, and `None` where the data do not code a
/// block.
#[inline]
fn read_block(
    bits: &mut BitReader,
    part: &mut SequentialPart,
    block: &mut DctBlock,
) -> Option<usize> {
    part.before = part.before.wrapping_add(bits.dc_difference(part.dc)?);
    block[0] = part.before as i16;
    let (mut place, mut last) = (1, 0);
    while place < 64 {
        let (run, value) = bits.ac_coefficient(part.ac)?;
        place += run;
        if value == 0 {
            if run < 15 {
                break;
            }
        } else {
            block[NATURAL[place]] = value as i16;
            last = place;
        }
        place += 1;
    }
    (last < 64).then_some(last)
}

/// The MCUs of a scan in order, from restart to restart.
struct Mcus {
    across: usize,
    total: usize,
    restart_interval: usize,
    done: usize,
    /// The number of the next restart marker, from 0 to 7.
    restart: u8,
    /// The data up to the next marker, and the padding.
    coded: Vec<u8>,
}

impl Mcus {
    fn new(frame: &FrameHeader, scan: &ScanHeader, tables: &CodingTables) -> Self {
        let (across, down) = match &scan.components[..] {
            [part] => frame.components[part.index].blocks(),
            _ => (frame.mcus_across, frame.mcus_down),
        };
        let restart_interval = tables.restart_interval;
        Self { across, total: across * down, restart_interval, done: 0, restart: 0, coded: vec![] }
    }

    /// Reads the data up to the next marker, and returns which MCUs they hold; `None` after the last.
    fn next(&mut self, source: &mut JpegBytes) -> Result<Option<Range<usize>>, JpegError> {
        if self.done == self.total {
            return Ok(None);
        }
        if self.done > 0 {
            source.read_restart(self.restart)?;
            self.restart = (self.restart + 1) % 8;
        }
        source.read_coded(&mut self.coded);
        self.coded.extend_from_slice(&PADDING);
        let from = self.done;
        self.done = match self.restart_interval {
            0 => self.total,
            interval => self.total.min(from + interval),
        };
        Ok(Some(from..self.done))
    }
}

/// Blocks of a component in an MCU of the scan, across and down.
fn mcu_blocks(scan: &ScanHeader, component: &Component) -> (usize, usize) {
    if scan.components.len() == 1 { (1, 1) } else { (component.h, component.v) }
}

fn natural_quantization(
    tables: &CodingTables,
    component: &Component,
) -> Result<Quantization, JpegError> {
    let mut natural = [0; 64];
    for (value, place) in tables.quantization(component)?.iter().zip(NATURAL) {
        natural[place] = *value as i16;
    }
    Ok(natural)
}

/// The components of a progressive file, as far as its scans have come.
pub(super) struct Coefficients {
    parts: Vec<ProgressivePlane>,
}

struct ProgressivePlane {
    blocks: Vec<DctBlock>,
    /// Blocks from one row to the next.
    columns: usize,
    /// For each coefficient the position of the lowest bit that has been sent.
    low: [Option<u8>; 64],
    /// The table in force at the first scan of the component.
    quantization: Option<Quantization>,
}

impl Coefficients {
    pub(super) fn new(frame: &FrameHeader) -> Self {
        let part = |component: &Component| ProgressivePlane {
            blocks: vec![[0; 64]; component.padded_blocks()],
            columns: component.padded_columns,
            low: [None; 64],
            quantization: None,
        };
        Self { parts: frame.components.iter().map(part).collect() }
    }

    /// All planes, once every bit of every coefficient has been sent.
    pub(super) fn complete(&mut self, frame: &FrameHeader) -> Option<Vec<Plane>> {
        if self.parts.iter().any(|part| part.low != [Some(0); 64]) {
            return None;
        }
        let planes = self.parts.drain(..).zip(&frame.components).map(|(part, component)| {
            let mut plane = Plane::new(component);
            let quantization = part.quantization.unwrap_or([0; 64]);
            for (at, block) in part.blocks.iter().enumerate() {
                let (row, column) = (at / component.padded_columns, at % component.padded_columns);
                let stride = plane.stride;
                idct::samples(block, &quantization, plane.block(row, column), stride);
            }
            plane
        });
        Some(planes.collect())
    }

    /// Checks that the scan goes on where the scans before it ended.
    fn begin(&mut self, scan: &ScanHeader, index: usize) -> Result<(), JpegError> {
        let is_alone = scan.components.len() == 1;
        let is_range = match scan.first {
            0 => scan.last == 0,
            first => is_alone && first <= scan.last && scan.last < 64,
        };
        if !is_range || scan.low > 13 || (scan.high > 0 && scan.low + 1 != scan.high) {
            return Err(BAD_SCAN);
        }
        let before = (scan.high > 0).then_some(scan.high);
        for low in &mut self.parts[index].low[scan.first..=scan.last] {
            if *low != before {
                return Err(BAD_SCAN);
            }
            *low = Some(scan.low);
        }
        Ok(())
    }
}

/// What a scan of a progressive file codes of each block.
enum Pass<'a> {
    FirstDc(&'a HuffmanCode),
    RefineDc,
    FirstAc(&'a HuffmanCode),
    RefineAc(&'a HuffmanCode),
}

/// A component of a progressive scan.
struct ProgressivePart<'a> {
    index: usize,
    pass: Pass<'a>,
    /// Blocks of an MCU, across and down.
    across: usize,
    down: usize,
    /// The DC coefficient of the block before.
    before: i32,
}

/// Decodes a scan of a progressive file into the coefficients.
pub(super) fn decode_progressive(
    reader: &mut HeaderReader,
    frame: &FrameHeader,
    scan: &ScanHeader,
    coefficients: &mut Coefficients,
) -> Result<(), JpegError> {
    let mut parts = Vec::with_capacity(scan.components.len());
    for part in &scan.components {
        let component = &frame.components[part.index];
        coefficients.begin(scan, part.index)?;
        let quantization = &mut coefficients.parts[part.index].quantization;
        if quantization.is_none() {
            *quantization = Some(natural_quantization(&reader.tables, component)?);
        }
        let pass = match (scan.first, scan.high) {
            (0, 0) => Pass::FirstDc(reader.tables.dc_code(part.dc_table)?),
            (0, _) => Pass::RefineDc,
            (_, 0) => Pass::FirstAc(reader.tables.ac_code(part.ac_table)?),
            _ => Pass::RefineAc(reader.tables.ac_code(part.ac_table)?),
        };
        let (across, down) = mcu_blocks(scan, component);
        parts.push(ProgressivePart { index: part.index, pass, across, down, before: 0 });
    }
    let mut mcus = Mcus::new(frame, scan, &reader.tables);
    while let Some(range) = mcus.next(&mut reader.source)? {
        progressive_mcus(&mcus.coded, range, mcus.across, scan, &mut parts, coefficients)?;
    }
    Ok(())
}

fn progressive_mcus(
    coded: &[u8],
    mcus: Range<usize>,
    across: usize,
    scan: &ScanHeader,
    parts: &mut [ProgressivePart],
    coefficients: &mut Coefficients,
) -> Result<(), JpegError> {
    let mut bits = BitReader::new(coded);
    parts.iter_mut().for_each(|part| part.before = 0);
    // Blocks to come in which no coefficient begins.
    let mut skipped = 0;
    for mcu in mcus {
        let (mcu_row, mcu_column) = (mcu / across, mcu % across);
        for part in &mut *parts {
            let plane = &mut coefficients.parts[part.index];
            for row in mcu_row * part.down..(mcu_row + 1) * part.down {
                for column in mcu_column * part.across..(mcu_column + 1) * part.across {
                    let block = &mut plane.blocks[row * plane.columns + column];
                    part.read_block(&mut bits, scan, &mut skipped, block).ok_or(NO_SUCH_CODE)?;
                }
            }
        }
        if bits.are_overdrawn() {
            return Err(JpegError::Truncated);
        }
    }
    Ok(())
}

impl ProgressivePart<'_> {
    /// `None` where the data do not code a block.
    fn read_block(
        &mut self,
        bits: &mut BitReader,
        scan: &ScanHeader,
        skipped: &mut u32,
        block: &mut DctBlock,
    ) -> Option<()> {
        match self.pass {
            Pass::FirstDc(code) => {
                self.before = self.before.wrapping_add(bits.dc_difference(code)?);
                block[0] = (self.before << scan.low) as i16;
            }
            Pass::RefineDc => block[0] |= i16::from(bits.bit()) << scan.low,
            Pass::FirstAc(code) => first_ac(bits, code, scan, skipped, block)?,
            Pass::RefineAc(code) => refine_ac(bits, code, scan, skipped, block)?,
        }
        Some(())
    }
}

/// The first bits of the AC coefficients of a block.
fn first_ac(
    bits: &mut BitReader,
    code: &HuffmanCode,
    scan: &ScanHeader,
    skipped: &mut u32,
    block: &mut DctBlock,
) -> Option<()> {
    if *skipped > 0 {
        *skipped -= 1;
        return Some(());
    }
    let mut place = scan.first;
    while place <= scan.last {
        let (run, value) = bits.ac_coefficient(code)?;
        if value == 0 && run < 15 {
            *skipped = (1 << run) + bits.number(run as u32) - 1;
            break;
        }
        place += run;
        if value != 0 {
            if place > scan.last {
                return None;
            }
            block[NATURAL[place]] = (value << scan.low) as i16;
        }
        place += 1;
    }
    Some(())
}

/// One more bit of the AC coefficients of a block. A symbol makes 1 or -1 of a coefficient that is 0
/// so far. The others have their next bit between the symbols.
fn refine_ac(
    bits: &mut BitReader,
    code: &HuffmanCode,
    scan: &ScanHeader,
    skipped: &mut u32,
    block: &mut DctBlock,
) -> Option<()> {
    let one = 1 << scan.low;
    let mut places = NATURAL[scan.first..=scan.last].iter();
    let refine = |bits: &mut BitReader, value: &mut i16| {
        if bits.bit() && *value & one == 0 {
            *value = value.wrapping_add(if *value < 0 { -one } else { one });
        }
    };
    while *skipped == 0 && places.len() > 0 {
        let symbol = bits.symbol(code)?;
        let (mut zeros, size) = (u32::from(symbol >> 4), symbol & 15);
        let new = match size {
            0 if zeros < 15 => {
                *skipped = (1 << zeros) + bits.number(zeros);
                break;
            }
            0 => 0,
            1 if bits.bit() => one,
            1 => -one,
            _ => return None,
        };
        let place = loop {
            let Some(&place) = places.next() else { break None };
            if block[place] != 0 {
                refine(bits, &mut block[place]);
            } else if zeros == 0 {
                break Some(place);
            } else {
                zeros -= 1;
            }
        };
        match place {
            Some(place) => block[place] = new,
            None if new != 0 => return None,
            None => {}
        }
    }
    if *skipped > 0 {
        for &place in places {
            if block[place] != 0 {
                refine(bits, &mut block[place]);
            }
        }
        *skipped -= 1;
    }
    Some(())
}
