//! Rows of equal width in one piece of memory.

use crate::center::unit_scale;

/// Vectors in row-major order: 4 bytes per value, nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    values: Vec<f32>,
    width: usize,
}

impl Vectors {
    /// Of values that are known to be whole rows.
    pub(crate) fn of_rows(values: Vec<f32>, width: usize) -> Self {
        Self { values, width }
    }

    /// `None` if the values are not whole rows of at least one value.
    pub fn new(values: Vec<f32>, width: usize) -> Option<Self> {
        (width > 0 && values.len().is_multiple_of(width)).then_some(Self { values, width })
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// One row.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// The inner product of two rows: of unit rows, their cosine.
    pub fn similarity(&self, a: usize, b: usize) -> f32 {
        dot(self.row(a), self.row(b))
    }

    pub(crate) fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.values[index * self.width..][..self.width]
    }

    /// All rows of a range, one after the other.
    pub fn rows(&self, range: std::ops::Range<usize>) -> &[f32] {
        &self.values[range.start * self.width..range.end * self.width]
    }

    /// The first row that has a value which is not finite.
    pub fn first_not_finite(&self) -> Option<usize> {
        let at = self.values.iter().position(|value| !value.is_finite())?;
        Some(at / self.width)
    }

    /// Every row divided by its Euclidean length; rows of zeros stay.
    #[must_use]
    pub fn into_unit(mut self) -> Self {
        for row in self.values.chunks_exact_mut(self.width) {
            if let Some(scale) = unit_scale(row) {
                row.iter_mut().for_each(|value| *value = (f64::from(*value) * scale) as f32);
            }
        }
        self
    }

    /// Copies of some rows, appended to `values`.
    pub(crate) fn gather(&self, indices: &[u32], values: &mut Vec<f32>) {
        values.clear();
        indices.iter().for_each(|&index| values.extend_from_slice(self.row(index as usize)));
    }
}

/// Sums that do not wait for each other: the compiler makes vector instructions of them.
const LANES: usize = 16;

/// The inner product of two rows.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a_lanes, b_lanes) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_lanes.remainder().iter().zip(b_lanes.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_lanes.zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The inner products of the rows of `a` with those of `b`: `out[i * rows of b + j]`.
pub(crate) fn products(a: &[f32], b: &[f32], width: usize, out: &mut Vec<f32>) {
    let (rows, columns) = (a.len() / width, b.len() / width);
    assert!(a.len() == rows * width && b.len() == columns * width, "whole rows");
    out.resize(rows * columns, 0.0);
    let (row_step, column_step) = (width as isize, columns as isize);
    // SAFETY: the slices hold `rows` and `columns` rows of `width` values each, as was just checked,
    // and `out` one value for each pair of them; the steps stay within these, and `out` is borrowed
    // mutably, so it overlaps neither.
    unsafe {
        matrixmultiply::sgemm(
            rows,
            width,
            columns,
            1.0,
            a.as_ptr(),
            row_step,
            1,
            b.as_ptr(),
            1,
            row_step,
            0.0,
            out.as_mut_ptr(),
            column_step,
            1,
        );
    }
}

/// Calls `each` with the place and value of every value that is at least `bound`. Almost none is, so
/// whole pieces are skipped at once.
pub(crate) fn at_least(values: &[f32], bound: f32, mut each: impl FnMut(usize, f32)) {
    for (piece, values) in values.chunks(LANES).enumerate() {
        if values.iter().filter(|&&value| value >= bound).count() > 0 {
            for (place, &value) in values.iter().enumerate() {
                if value >= bound {
                    each(piece * LANES + place, value);
                }
            }
        }
    }
}

/// Unit rows around random points, with noise of any size.
#[cfg(test)]
pub(crate) fn clustered(
    rows: usize,
    width: usize,
    clusters: usize,
    noise: f64,
    seed: u64,
) -> Vectors {
    use nearkin_data::Random;
    use nearkin_data::random::Purpose;

    let mut random = Random::new(Purpose::Drawing, seed, 0, 0);
    let mut draw =
        |scale: f64| -> Vec<f64> { (0..width).map(|_| scale * random.normal()).collect() };
    let points: Vec<Vec<f64>> = (0..clusters).map(|_| draw(1.0)).collect();
    let values = (0..rows).flat_map(|row| {
        let noise = draw(noise);
        let point = &points[row * 7 % clusters];
        point.iter().zip(noise).map(|(a, b)| (a + b) as f32).collect::<Vec<f32>>()
    });
    Vectors::of_rows(values.collect(), width).into_unit()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_become_unit_and_zeros_stay() {
        let vectors = Vectors::new(vec![3.0, 4.0, 0.0, 0.0], 2).unwrap().into_unit();
        assert_eq!((vectors.row(0), vectors.row(1)), (&[0.6, 0.8][..], &[0.0, 0.0][..]));
        assert_eq!(Vectors::new(vec![1.0; 3], 2), None);
        assert_eq!(Vectors::new(Vec::new(), 0), None);
        let broken = Vectors::new(vec![0.0, 1.0, 2.0, f32::NAN], 2).unwrap();
        assert_eq!(broken.first_not_finite(), Some(1));
    }

    proptest! {
        #[test]
        fn products_are_inner_products(
            width in 1_usize..40, rows in 0_usize..20, columns in 0_usize..20, seed: u64,
        ) {
            let a = random(rows, width, seed);
            let b = random(columns, width, seed ^ 1);
            let mut out = Vec::new();
            products(a.rows(0..rows), b.rows(0..columns), width, &mut out);
            for row in 0..rows {
                for column in 0..columns {
                    let sum: f32 = a.row(row).iter().zip(b.row(column)).map(|(a, b)| a * b).sum();
                    prop_assert!((out[row * columns + column] - sum).abs() < 1e-4);
                    prop_assert!((dot(a.row(row), b.row(column)) - sum).abs() < 1e-4);
                }
            }
        }

        #[test]
        fn no_value_above_the_bound_is_passed_over(
            values in prop::collection::vec(-1.0_f32..1.0, 0..60), bound in -1.0_f32..1.0,
        ) {
            let mut found = Vec::new();
            at_least(&values, bound, |place, value| found.push((place, value)));
            let all = values.iter().copied().enumerate();
            prop_assert_eq!(found, all.filter(|&(_, value)| value >= bound).collect::<Vec<_>>());
        }
    }

    fn random(rows: usize, width: usize, seed: u64) -> Vectors {
        let mut random =
            nearkin_data::Random::new(nearkin_data::random::Purpose::Drawing, seed, 0, 0);
        let values = (0..rows * width).map(|_| random.normal() as f32).collect();
        Vectors::new(values, width).unwrap()
    }
}
