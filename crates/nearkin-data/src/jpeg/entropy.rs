//! Huffman codes and the bits that they code.

use super::JpegError;

/// Bits that one look at the table resolves.
const LOOK: u32 = 10;

/// A Huffman code of a header, and the table that decodes it.
pub(super) struct HuffmanCode {
    /// By the next `LOOK` bits. The lowest byte has the length of the code, and the next byte its
    /// symbol. A length of 0 marks a longer code.
    short: Box<[u16; 1 << LOOK]>,
    /// As `short` for a symbol that holds a run of zeros and the size of a value, where the value
    /// fits in the same bits: length of code and value together, run, value. 0 elsewhere.
    valued: Box<[u32; 1 << LOOK]>,
    /// By length: the first code behind those of this length, aligned to 16 bits.
    ends: [u32; 17],
    /// By length: what to add to a code for the place of its symbol.
    offsets: [i32; 17],
    symbols: [u8; 256],
    /// Whether every symbol is the size of a DC coefficient.
    pub(super) has_sizes_only: bool,
}

impl HuffmanCode {
    /// From the number of codes of each length from 1 to 16, and their symbols in order.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, JpegError> {
        const BAD: JpegError = JpegError::Damaged("a Huffman code is not one");
        if symbols.len() > 256 {
            return Err(BAD);
        }
        let mut code = Self {
            short: Box::new([0; 1 << LOOK]),
            valued: Box::new([0; 1 << LOOK]),
            ends: [0; 17],
            offsets: [0; 17],
            symbols: [0; 256],
            has_sizes_only: symbols.iter().all(|&symbol| symbol < 16),
        };
        code.symbols[..symbols.len()].copy_from_slice(symbols);
        let (mut next, mut place) = (0_u32, 0);
        for length in 1..=16_u32 {
            let count = u32::from(counts[length as usize - 1]);
            code.offsets[length as usize] = place as i32 - next as i32;
            for &symbol in &symbols[place..place + count as usize] {
                if length <= LOOK {
                    code.add_short(next, length, symbol).ok_or(BAD)?;
                }
                next += 1;
            }
            place += count as usize;
            // No code is all ones.
            if count > 0 && next >= 1 << length {
                return Err(BAD);
            }
            code.ends[length as usize] = next << (16 - length);
            next <<= 1;
        }
        Ok(code)
    }

    /// Enters a code of at most `LOOK` bits. `None` if there is no such code.
    fn add_short(&mut self, code: u32, length: u32, symbol: u8) -> Option<()> {
        let range = |code: u32, length: u32| {
            let from = (code as usize) << (LOOK - length);
            from..from + (1 << (LOOK - length))
        };
        self.short.get_mut(range(code, length))?.fill(u16::from(symbol) << 8 | length as u16);
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        let length = length + size;
        if size > 0 && length <= LOOK {
            for bits in 0..1 << size {
                let entry = (extend(bits, size) as u32) << 16 | run << 8 | length;
                self.valued.get_mut(range(code << size | bits, length))?.fill(entry);
            }
        }
        Some(())
    }
}

/// The value that `size` bits stand for: with a first bit of 0 they are negative.
#[inline]
fn extend(bits: u32, size: u32) -> i32 {
    let bits = bits as i32;
    if bits < 1 << (size - 1) { bits - (1 << size) + 1 } else { bits }
}

/// Zeros that follow the coded data, so that reading needs no check of each symbol.
pub(super) const PADDING: [u8; 8] = [0; 8];

/// Takes bits from coded data, the highest bit of a byte first.
///
/// Behind the data come zeros; [`BitReader::are_overdrawn`] tells whether any were taken.
pub(super) struct BitReader<'a> {
    /// With the padding.
    data: &'a [u8],
    at: usize,
    /// The next bits, from the highest down. `count` of them count; the others are 0 or right.
    next: u64,
    count: u32,
}

impl<'a> BitReader<'a> {
    /// `data` ends with [`PADDING`].
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, next: 0, count: 0 }
    }

    /// Makes sure of at least 32 bits.
    #[inline]
    fn refill(&mut self) {
        if self.count >= 32 {
            return;
        }
        let bytes = self.data.get(self.at..).and_then(<[u8]>::first_chunk);
        self.next |= bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes)) >> self.count;
        let taken = (63 - self.count) / 8;
        self.at += taken as usize;
        self.count += 8 * taken;
    }

    /// The next bits, at most 32; there have to be as many.
    #[inline]
    fn peek(&self, bits: u32) -> u32 {
        (self.next >> 1 >> (63 - bits)) as u32
    }

    #[inline]
    fn skip(&mut self, bits: u32) {
        self.next <<= bits;
        self.count -= bits;
    }

    #[inline]
    pub(super) fn bit(&mut self) -> bool {
        self.refill();
        let bit = self.next >> 63 == 1;
        self.skip(1);
        bit
    }

    /// The next bits as a number, at most 16 of them.
    pub(super) fn number(&mut self, bits: u32) -> u32 {
        self.refill();
        let number = self.peek(bits);
        self.skip(bits);
        number
    }

    /// The next bits as a signed value, at most 15 of them; there have to be as many.
    #[inline]
    fn value(&mut self, size: u32) -> i32 {
        if size == 0 {
            return 0;
        }
        let value = extend(self.peek(size), size);
        self.skip(size);
        value
    }

    /// The next symbol, and `None` where there is no such code. At least 16 bits are left.
    #[inline]
    pub(super) fn symbol(&mut self, code: &HuffmanCode) -> Option<u8> {
        self.refill();
        let short = code.short[self.peek(LOOK) as usize];
        if short != 0 {
            self.skip(u32::from(short & 0xff));
            return Some((short >> 8) as u8);
        }
        self.long_symbol(code)
    }

    #[inline(never)]
    fn long_symbol(&mut self, code: &HuffmanCode) -> Option<u8> {
        let bits = self.peek(16);
        let length = (LOOK + 1..=16).find(|&length| bits < code.ends[length as usize])?;
        self.skip(length);
        let place = (bits >> (16 - length)) as i32 + code.offsets[length as usize];
        Some(code.symbols[place as usize & 0xff])
    }

    /// The difference to the DC coefficient before. The code has sizes only.
    #[inline]
    pub(super) fn dc_difference(&mut self, code: &HuffmanCode) -> Option<i32> {
        self.refill();
        let valued = code.valued[self.peek(LOOK) as usize];
        if valued != 0 {
            self.skip(valued & 0xff);
            return Some(valued as i32 >> 16);
        }
        let size = self.symbol(code)?;
        Some(self.value(size.into()))
    }

    /// A run of zeros and the AC coefficient behind it. A value of 0 stands for a run of 16 zeros
    /// where the run is 15, otherwise for the end of the block or of several.
    #[inline]
    pub(super) fn ac_coefficient(&mut self, code: &HuffmanCode) -> Option<(usize, i32)> {
        self.refill();
        let valued = code.valued[self.peek(LOOK) as usize];
        if valued != 0 {
            self.skip(valued & 0xff);
            return Some(((valued >> 8 & 0xff) as usize, valued as i32 >> 16));
        }
        let symbol = self.symbol(code)?;
        let value = self.value((symbol & 15).into());
        Some(((symbol >> 4).into(), value))
    }

    /// Whether more bits were taken than the data have.
    #[inline]
    pub(super) fn are_overdrawn(&self) -> bool {
        8 * self.at - self.count as usize > 8 * (self.data.len() - PADDING.len())
    }
}
