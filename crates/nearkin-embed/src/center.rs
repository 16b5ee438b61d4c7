//! The mean direction of a set, and rows without it.
//!
//! Features behind a ReLU and a mean over pixels have no negative values, so all of them point into one
//! corner and the cosine of any two images is close to 1. What tells images apart is how they deviate
//! from the mean of the set. A centered row is therefore a row divided by its length, minus the mean
//! of such rows, divided by its length again. It does not depend on the lengths of rows as they were
//! given, so files with and without `--normalize` agree.
//!
//! The mean is that of the set that is searched. Queries are centered by it too, or their cosines
//! with that set would mean nothing.

use crate::{EmbedError, Vectors};

/// What the mean is called in files of features.
pub(crate) const MEAN: &str = "mean_of_unit_rows";

/// The fewest rows whose mean says anything: of two rows, both deviate from their mean equally and in
/// opposite directions, however similar they are.
pub const FEWEST_CENTERED: usize = 3;

/// Rows that deviate less than this from the mean of unit rows have no direction but rounding.
const NO_DEVIATION: f64 = 1e-6;

/// The mean of the unit rows of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct Center(Vec<f64>);

impl Center {
    /// A mean that was computed before, as a file states it.
    pub(crate) fn from_values(values: Vec<f64>) -> Self {
        Self(values)
    }

    /// One value for each of a row.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// Whether it can be a mean of rows of `width` values.
    pub(crate) fn fits(&self, width: usize) -> bool {
        self.0.len() == width && self.0.iter().all(|value| value.is_finite())
    }
}

/// The sum of the unit rows seen so far.
#[derive(Clone, Debug)]
pub(crate) struct MeanDirection {
    sum: Vec<f64>,
    rows: u64,
}

impl MeanDirection {
    pub(crate) fn new(width: usize) -> Self {
        Self { sum: vec![0.0; width], rows: 0 }
    }

    /// Takes a row into account, unless it has no direction.
    pub(crate) fn add(&mut self, row: &[f32]) {
        let Some(scale) = unit_scale(row) else { return };
        self.rows += 1;
        for (sum, &value) in self.sum.iter_mut().zip(row) {
            *sum += f64::from(value) * scale;
        }
    }

    pub(crate) fn center(&self) -> Center {
        let rows = self.rows.max(1) as f64;
        Center(self.sum.iter().map(|sum| sum / rows).collect())
    }
}

/// What makes a unit row of a row; `None` for zeros and for values that are not finite.
pub(crate) fn unit_scale(row: &[f32]) -> Option<f64> {
    let square: f64 = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    (square > 0.0 && square.is_finite()).then(|| 1.0 / square.sqrt())
}

impl Vectors {
    /// The mean of the unit rows; rows of zeros are not counted.
    pub fn center(&self) -> Center {
        let mut mean = MeanDirection::new(self.width());
        (0..self.len()).for_each(|row| mean.add(self.row(row)));
        mean.center()
    }

    /// Every row as a unit row minus `center`, divided by its length; rows of zeros stay. A row at the
    /// center becomes the direction of the center itself, so that such rows are equal to each other.
    ///
    /// Refuses a center of another width.
    pub fn into_centered(mut self, center: &Center) -> Result<Self, EmbedError> {
        let width = self.width();
        if center.0.len() != width {
            return Err(other_width(width, center.0.len()));
        }
        let length = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let center_length = length(&center.0);
        let mut deviation = vec![0.0; width];
        for index in 0..self.len() {
            let row = self.row_mut(index);
            let Some(scale) = unit_scale(row) else { continue };
            for ((deviation, &value), center) in deviation.iter_mut().zip(&*row).zip(&center.0) {
                *deviation = f64::from(value) * scale - center;
            }
            let found = length(&deviation);
            let (source, length) =
                if found < NO_DEVIATION { (&center.0, center_length) } else { (&deviation, found) };
            for (value, source) in row.iter_mut().zip(source) {
                *value = (source / length) as f32;
            }
        }
        Ok(self)
    }
}

/// Queries of one width and a set of another.
pub(crate) fn other_width(queries: usize, set: usize) -> EmbedError {
    EmbedError::Request(format!(
        "the queries have {queries} values each and the features {set}: both have to come from the \
         same encoder"
    ))
}

#[cfg(test)]
mod tests {
    use nearkin_data::Random;
    use nearkin_data::random::Purpose;

    use super::*;

    fn centered(values: Vec<f32>, width: usize) -> Vectors {
        let vectors = Vectors::new(values, width).unwrap();
        let center = vectors.center();
        vectors.into_centered(&center).unwrap()
    }

    #[test]
    fn rows_deviate_from_the_mean_of_unit_rows_whatever_their_lengths() {
        // Unit rows (1, 0), (0, 1), (0, 1), (0, -1): the mean is (1/4, 1/4).
        let values = vec![9.0, 0.0, 0.0, 0.5, 0.0, 2.0, 0.0, -1.0];
        let center = Vectors::new(values.clone(), 2).unwrap().center();
        assert_eq!(center.values(), [0.25, 0.25]);
        let vectors = centered(values, 2);
        let length = 10.0_f32.sqrt();
        for (row, [x, y]) in [[3.0, -1.0], [-1.0, 3.0], [-1.0, 3.0]].into_iter().enumerate() {
            assert!((vectors.row(row)[0] - x / length).abs() < 1e-6, "{vectors:?}");
            assert!((vectors.row(row)[1] - y / length).abs() < 1e-6, "{vectors:?}");
        }
        let message = Vectors::new(vec![1.0; 3], 3).unwrap().into_centered(&center).unwrap_err();
        assert!(message.to_string().contains("the queries have 3 values each and the features 2"));
    }

    /// Without centering all of these have cosines above 0.99.
    #[test]
    fn rows_around_one_direction_are_told_apart() {
        let mut random = Random::new(Purpose::Drawing, 1, 0, 0);
        let mut values: Vec<f32> =
            (0..200 * 16).map(|_| 1.0 + 0.05 * random.normal() as f32).collect();
        // The last is nearly the first.
        let near: Vec<f32> = values[..16].iter().map(|value| 3.0 * value + 1e-3).collect();
        values.extend(near);
        let raw = Vectors::new(values.clone(), 16).unwrap().into_unit();
        assert!((0..200).all(|row| raw.similarity(200, row) > 0.98));
        let vectors = centered(values, 16);
        assert!(vectors.similarity(200, 0) > 0.99);
        assert!((1..200).all(|row| vectors.similarity(200, row) < 0.9));
    }

    #[test]
    fn equal_rows_stay_equal_and_zeros_stay_zero() {
        let vectors = centered([0.3, 0.5, 0.7].repeat(5), 3);
        assert!((1..5).all(|row| vectors.row(row) == vectors.row(0)));
        assert!((vectors.similarity(0, 1) - 1.0).abs() < 1e-6);
        let vectors = centered(vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0], 2);
        assert_eq!(vectors.row(1), [0.0, 0.0]);
    }
}
