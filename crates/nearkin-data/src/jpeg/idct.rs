//! From the coefficients of a block to its samples: the inverse cosine transform.
//!
//! It has to round as libjpeg does, which computes with whole numbers: the algorithm of Loeffler,
//! Ligtenberg and Moschytz ("Practical fast 1-D DCT algorithms with 11 multiplications", ICASSP
//! 1989), first down the columns, then along the rows, with constants of 13 bits and two more bits
//! kept between the passes.

/// The coefficients of a block, row by row.
pub(super) type DctBlock = [i16; 64];

/// What each coefficient is multiplied by, row by row.
pub(super) type Quantization = [i16; 64];

const CONSTANT_BITS: u32 = 13;
const KEPT_BITS: u32 = 2;
/// The samples are 8 times too large behind both passes.
const SCALE_BITS: u32 = 3;

// Cosines and their sums, times 2^13.
const C0_298: i32 = 2446;
const C0_390: i32 = 3196;
const C0_541: i32 = 4433;
const C0_765: i32 = 6270;
const C0_899: i32 = 7373;
const C1_175: i32 = 9633;
const C1_501: i32 = 12299;
const C1_847: i32 = 15137;
const C1_961: i32 = 16069;
const C2_053: i32 = 16819;
const C2_562: i32 = 20995;
const C3_072: i32 = 25172;

/// Writes the samples of a block into the eight rows of 8 that start at `stride` steps in `samples`.
#[inline]
pub(super) fn samples(
    block: &DctBlock,
    quantization: &Quantization,
    samples: &mut [u8],
    stride: usize,
) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: all x86-64 processors have SSE2.
    let rows = unsafe { x86::transform(block, quantization) };
    #[cfg(not(target_arch = "x86_64"))]
    let rows = transform(block, quantization);
    for (row, values) in samples.chunks_mut(stride).zip(rows) {
        row[..8].copy_from_slice(&values);
    }
}

/// As [`samples`] of a block that has no coefficient but the first.
#[inline]
pub(super) fn flat_samples(
    first: i16,
    quantization: &Quantization,
    samples: &mut [u8],
    stride: usize,
) {
    let sum = i32::from(first.wrapping_mul(quantization[0])) + (1 << (SCALE_BITS - 1));
    let value = ((sum >> SCALE_BITS) + 128).clamp(0, 255) as u8;
    for row in samples.chunks_mut(stride).take(8) {
        row[..8].fill(value);
    }
}

/// The plain form, for other processors and as a reference.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn transform(block: &DctBlock, quantization: &Quantization) -> [[u8; 8]; 8] {
    let mut columns = [[0; 8]; 8];
    for (at, column) in columns.iter_mut().enumerate() {
        let input = std::array::from_fn(|row| {
            i32::from(block[8 * row + at].wrapping_mul(quantization[8 * row + at]))
        });
        *column = pass(input, CONSTANT_BITS - KEPT_BITS);
    }
    std::array::from_fn(|row| {
        let values =
            pass(columns.map(|column| column[row]), CONSTANT_BITS + KEPT_BITS + SCALE_BITS);
        values.map(|value| (value + 128).clamp(0, 255) as u8)
    })
}

/// Transforms eight values, and drops `bits` bits of the results.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn pass(input: [i32; 8], bits: u32) -> [i32; 8] {
    let shared = (input[2] + input[6]) * C0_541;
    let low = (input[0] + input[4]) << CONSTANT_BITS;
    let high = (input[0] - input[4]) << CONSTANT_BITS;
    let outer = shared + input[2] * C0_765;
    let inner = shared - input[6] * C1_847;
    let even = [low + outer, high + inner, high - inner, low - outer];

    let shared = (input[7] + input[3] + input[5] + input[1]) * C1_175;
    let z1 = (input[7] + input[1]) * -C0_899;
    let z2 = (input[5] + input[3]) * -C2_562;
    let z3 = (input[7] + input[3]) * -C1_961 + shared;
    let z4 = (input[5] + input[1]) * -C0_390 + shared;
    let odd = [
        input[1] * C1_501 + z1 + z4,
        input[3] * C3_072 + z2 + z3,
        input[5] * C2_053 + z2 + z4,
        input[7] * C0_298 + z1 + z3,
    ];
    std::array::from_fn(|place| {
        let sum =
            if place < 4 { even[place] + odd[place] } else { even[7 - place] - odd[7 - place] };
        (sum + (1 << (bits - 1))) >> bits
    })
}

/// The same with eight columns, then eight rows, side by side. It takes SSE2, which all processors
/// of this kind have.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi16, _mm_add_epi32, _mm_cvtsi128_si64, _mm_madd_epi16, _mm_mullo_epi16,
        _mm_packs_epi16, _mm_packs_epi32, _mm_set_epi16, _mm_set1_epi8, _mm_set1_epi32,
        _mm_srai_epi32, _mm_sub_epi32, _mm_unpackhi_epi16, _mm_unpackhi_epi32, _mm_unpackhi_epi64,
        _mm_unpacklo_epi16, _mm_unpacklo_epi32, _mm_unpacklo_epi64, _mm_xor_si128,
    };

    use super::{
        C0_298, C0_390, C0_541, C0_765, C0_899, C1_175, C1_501, C1_847, C1_961, C2_053, C2_562,
        C3_072, CONSTANT_BITS, DctBlock, KEPT_BITS, Quantization, SCALE_BITS,
    };

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn transform(block: &DctBlock, quantization: &Quantization) -> [[u8; 8]; 8] {
        let rows = std::array::from_fn(|row| {
            _mm_mullo_epi16(load(&block[8 * row..]), load(&quantization[8 * row..]))
        });
        let columns = transpose(pass::<{ (CONSTANT_BITS - KEPT_BITS) as i32 }>(rows));
        let rows = transpose(pass::<{ (CONSTANT_BITS + KEPT_BITS + SCALE_BITS) as i32 }>(columns));
        let mut samples = [[0; 8]; 8];
        for (pair, rows) in samples.as_chunks_mut::<2>().0.iter_mut().zip(rows.as_chunks::<2>().0) {
            let middle = _mm_set1_epi8(-128);
            let bytes = _mm_xor_si128(_mm_packs_epi16(rows[0], rows[1]), middle);
            pair[0] = _mm_cvtsi128_si64(bytes).to_le_bytes();
            pair[1] = _mm_cvtsi128_si64(_mm_unpackhi_epi64(bytes, bytes)).to_le_bytes();
        }
        samples
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(values: &[i16]) -> __m128i {
        let v = |at: usize| values[at];
        _mm_set_epi16(v(7), v(6), v(5), v(4), v(3), v(2), v(1), v(0))
    }

    /// `a * x + b * y` of eight pairs of values, as two halves.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn weighted(pairs: [__m128i; 2], x: i32, y: i32) -> [__m128i; 2] {
        let weights = _mm_set1_epi32(y << 16 | (x & 0xffff));
        pairs.map(|pair| _mm_madd_epi16(pair, weights))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn paired(a: __m128i, b: __m128i) -> [__m128i; 2] {
        [_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b)]
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn sum(a: [__m128i; 2], b: [__m128i; 2]) -> [__m128i; 2] {
        [_mm_add_epi32(a[0], b[0]), _mm_add_epi32(a[1], b[1])]
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn difference(a: [__m128i; 2], b: [__m128i; 2]) -> [__m128i; 2] {
        [_mm_sub_epi32(a[0], b[0]), _mm_sub_epi32(a[1], b[1])]
    }

    /// Drops bits, and packs two halves into 16 bits each.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn rounded<const BITS: i32>(values: [__m128i; 2]) -> __m128i {
        let half = _mm_set1_epi32(1 << (BITS - 1));
        let [low, high] = values.map(|part| _mm_srai_epi32::<BITS>(_mm_add_epi32(part, half)));
        _mm_packs_epi32(low, high)
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn pass<const BITS: i32>(input: [__m128i; 8]) -> [__m128i; 8] {
        let pairs = paired(input[2], input[6]);
        let outer = weighted(pairs, C0_541 + C0_765, C0_541);
        let inner = weighted(pairs, C0_541, C0_541 - C1_847);
        let pairs = paired(input[0], input[4]);
        let low = weighted(pairs, 1 << CONSTANT_BITS, 1 << CONSTANT_BITS);
        let high = weighted(pairs, 1 << CONSTANT_BITS, -(1 << CONSTANT_BITS));
        let even =
            [sum(low, outer), sum(high, inner), difference(high, inner), difference(low, outer)];

        let pairs = paired(_mm_add_epi16(input[7], input[3]), _mm_add_epi16(input[5], input[1]));
        let z3 = weighted(pairs, C1_175 - C1_961, C1_175);
        let z4 = weighted(pairs, C1_175, C1_175 - C0_390);
        let outer = paired(input[1], input[7]);
        let inner = paired(input[3], input[5]);
        let odd = [
            sum(weighted(outer, C1_501 - C0_899, -C0_899), z4),
            sum(weighted(inner, C3_072 - C2_562, -C2_562), z3),
            sum(weighted(inner, -C2_562, C2_053 - C2_562), z4),
            sum(weighted(outer, -C0_899, C0_298 - C0_899), z3),
        ];
        [
            rounded::<BITS>(sum(even[0], odd[0])),
            rounded::<BITS>(sum(even[1], odd[1])),
            rounded::<BITS>(sum(even[2], odd[2])),
            rounded::<BITS>(sum(even[3], odd[3])),
            rounded::<BITS>(difference(even[3], odd[3])),
            rounded::<BITS>(difference(even[2], odd[2])),
            rounded::<BITS>(difference(even[1], odd[1])),
            rounded::<BITS>(difference(even[0], odd[0])),
        ]
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn transpose(r: [__m128i; 8]) -> [__m128i; 8] {
        let a = [
            _mm_unpacklo_epi16(r[0], r[1]),
            _mm_unpacklo_epi16(r[2], r[3]),
            _mm_unpacklo_epi16(r[4], r[5]),
            _mm_unpacklo_epi16(r[6], r[7]),
            _mm_unpackhi_epi16(r[0], r[1]),
            _mm_unpackhi_epi16(r[2], r[3]),
            _mm_unpackhi_epi16(r[4], r[5]),
            _mm_unpackhi_epi16(r[6], r[7]),
        ];
        let b = [
            _mm_unpacklo_epi32(a[0], a[1]),
            _mm_unpackhi_epi32(a[0], a[1]),
            _mm_unpacklo_epi32(a[4], a[5]),
            _mm_unpackhi_epi32(a[4], a[5]),
            _mm_unpacklo_epi32(a[2], a[3]),
            _mm_unpackhi_epi32(a[2], a[3]),
            _mm_unpacklo_epi32(a[6], a[7]),
            _mm_unpackhi_epi32(a[6], a[7]),
        ];
        [
            _mm_unpacklo_epi64(b[0], b[4]),
            _mm_unpackhi_epi64(b[0], b[4]),
            _mm_unpacklo_epi64(b[1], b[5]),
            _mm_unpackhi_epi64(b[1], b[5]),
            _mm_unpacklo_epi64(b[2], b[6]),
            _mm_unpackhi_epi64(b[2], b[6]),
            _mm_unpacklo_epi64(b[3], b[7]),
            _mm_unpackhi_epi64(b[3], b[7]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of every density. The coefficients together are as large as those of 8-bit samples can
    /// be; larger ones saturate in the form that has only 16 bits between the passes.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn both_forms_agree() {
        let mut state = 1_u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for _ in 0..20_000 {
            let mut quantization = [0; 64];
            quantization.fill_with(|| 1 + random(30) as i16);
            let mut block = [0; 64];
            for _ in 0..random(12) {
                let place = random(64) as usize;
                let largest = 2047 / 12 / u32::from(quantization[place].unsigned_abs());
                block[place] = random(2 * largest + 1) as i16 - largest as i16;
            }
            // SAFETY: all x86-64 processors have SSE2.
            let samples = unsafe { x86::transform(&block, &quantization) };
            assert_eq!(samples, transform(&block, &quantization));
        }
    }

    #[test]
    fn a_flat_block_is_the_transform_of_its_first_coefficient() {
        for first in -1100..=1100 {
            let mut block = [0; 64];
            block[0] = first;
            let mut samples = [0; 64];
            flat_samples(first, &[2; 64], &mut samples, 8);
            assert_eq!(samples.as_chunks::<8>().0, transform(&block, &[2; 64]));
        }
    }
}
