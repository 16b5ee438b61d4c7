//! How similar images are to the image nearest to each: what tells whether a bound on similarity
//! separates near-duplicates from the rest.

use std::num::NonZeroUsize;

use nearkin_data::Random;
use nearkin_data::random::Purpose;

use crate::{EmbedError, Vectors, search};

/// Products of two values that a distribution may cost: a few seconds of a core.
const BUDGET: usize = 100_000_000_000;
/// The fewest images of a distribution, if there are so many.
const FEWEST: usize = 1000;
/// The widest and the narrowest bin but the highest, and how many bins there are at most below the bound.
const WIDEST_BIN: f32 = 0.05;
const NARROWEST_BIN: f32 = 0.01;
const BINS_BELOW: usize = 16;

/// Cosines of images with the image nearest to each.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// One cosine for each image that was looked at, rising.
    pub similarities: Vec<f32>,
    /// Whether these are all images, or a sample of them.
    pub is_whole: bool,
}

/// A bin of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// Its lower end, which belongs to the bin; the lowest bin has none.
    pub from: Option<f32>,
    /// Its upper end, which belongs to the next bin.
    pub to: f32,
    /// How many values are in it.
    pub count: usize,
}

/// The cosine of every unit row with the nearest other row, or of a sample of rows where all of them
/// would take long. The sample is the same each time.
pub fn nearest_similarities(
    vectors: &Vectors,
    threads: NonZeroUsize,
) -> Result<Distribution, EmbedError> {
    within_budget(vectors, BUDGET, threads)
}

fn within_budget(
    vectors: &Vectors,
    budget: usize,
    threads: NonZeroUsize,
) -> Result<Distribution, EmbedError> {
    let (rows, width) = (vectors.len(), vectors.width());
    if rows < 2 {
        return Ok(Distribution { similarities: Vec::new(), is_whole: true });
    }
    let affordable = (budget / rows.saturating_mul(width)).max(FEWEST);
    let is_whole = affordable >= rows;
    let mut sample: Vec<u32> = (0..rows as u32).collect();
    if !is_whole {
        Random::new(Purpose::Subset, 0, 5, 0).shuffle(&mut sample);
        sample.truncate(affordable);
    }
    let mut values = Vec::new();
    vectors.gather(&sample, &mut values);
    let found = search(vectors, &Vectors::of_rows(values, width), 2, threads)?;
    let nearest = found.iter().zip(&sample).filter_map(|(found, &row)| {
        let other = found.iter().find(|found| found.index != row as usize)?;
        Some(other.similarity.min(1.0))
    });
    let mut similarities: Vec<f32> = nearest.collect();
    similarities.sort_unstable_by(f32::total_cmp);
    Ok(Distribution { similarities, is_whole })
}

impl Distribution {
    /// A histogram with a border at `bound`, from the highest bin to the lowest. The highest bin ends at 1;
    /// what is below a number of bins is one bin.
    pub fn histogram(&self, bound: f32) -> Vec<Bin> {
        let width = (1.0 - bound).clamp(NARROWEST_BIN, WIDEST_BIN);
        let lowest = self.similarities.first().copied().unwrap_or(bound);
        let count = |span: f32| (span / width - 1e-3).ceil().max(0.0) as i64;
        let bins_above = count(1.0 - bound).max(1);
        let bins_below = count(bound - lowest).min(BINS_BELOW as i64);
        let edge = |bin: i64| if bin == bins_above { 1.0 } else { bound + bin as f32 * width };
        let below = |edge: f32| self.similarities.partition_point(|&value| value < edge);
        let bins = (-bins_below..bins_above).rev().map(|bin| {
            let (from, to) = (edge(bin), edge(bin + 1));
            // A cosine of 1 is in the highest bin.
            let until = if bin + 1 == bins_above { self.similarities.len() } else { below(to) };
            Bin { from: Some(from), to, count: until - below(from) }
        });
        let mut bins: Vec<Bin> = bins.collect();
        let end = edge(-bins_below);
        let lower = below(end);
        if lower > 0 {
            bins.push(Bin { from: None, to: end, count: lower });
        }
        bins
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::clustered;

    #[test]
    fn the_nearest_other_row_counts_and_bins_meet_at_the_bound() {
        let values = vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.6, 0.8];
        let vectors = Vectors::new(values, 2).unwrap();
        let found = nearest_similarities(&vectors, NonZeroUsize::MIN).unwrap();
        assert!(found.is_whole);
        // Rows 0 and 2 are equal; row 3 has 0.8 with row 1.
        assert_eq!(found.similarities, [0.8, 0.8, 1.0, 1.0]);
        let bins = found.histogram(0.9);
        let counts: Vec<usize> = bins.iter().map(|bin| bin.count).collect();
        assert_eq!(counts, [2, 0, 0, 2], "{bins:?}");
        assert!(bins.iter().any(|bin| bin.from == Some(0.9)));
        let one = Vectors::new(vec![1.0, 0.0], 2).unwrap();
        assert!(nearest_similarities(&one, NonZeroUsize::MIN).unwrap().similarities.is_empty());
    }

    proptest! {
        #[test]
        fn every_value_is_in_one_bin(
            mut similarities in prop::collection::vec(-1.0_f32..=1.0, 0..60), bound in 0.01_f32..=1.0,
        ) {
            similarities.sort_unstable_by(f32::total_cmp);
            let found = Distribution { similarities, is_whole: true };
            let bins = found.histogram(bound);
            let total: usize = bins.iter().map(|bin| bin.count).sum();
            prop_assert_eq!(total, found.similarities.len());
            prop_assert!(bins.windows(2).all(|pair| pair[0].from == Some(pair[1].to)));
            let above = bins.iter().filter(|bin| bin.from.is_some_and(|from| from >= bound));
            let expected = found.similarities.iter().filter(|&&value| value >= bound).count();
            prop_assert_eq!(above.map(|bin| bin.count).sum::<usize>(), expected);
        }
    }

    #[test]
    fn a_large_set_is_sampled() {
        let vectors = clustered(1500, 4, 10, 0.5, 1);
        for (budget, count) in [(0, 1000), (6000 * 1200, 1200), (6000 * 1500, 1500)] {
            let found = within_budget(&vectors, budget, NonZeroUsize::MIN).unwrap();
            assert_eq!((found.is_whole, found.similarities.len()), (count == 1500, count));
        }
    }
}
