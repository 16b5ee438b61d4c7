//! How far apart two groups of runs are, with a confidence interval.
//!
//! Runs with the same seed draw the same images, views and first weights as far as their recipes allow,
//! so their differences vary less than the runs do. Groups are therefore compared seed by seed.

use std::collections::BTreeMap;

use serde::Serialize;

/// The difference of a group's mean to that of the first group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Name of the first group.
    pub to: String,
    /// Mean of the differences of runs with the same seed; without such pairs, the difference of the
    /// groups' means.
    pub mean: f64,
    /// 95 % confidence interval of the mean by Student's t distribution, from at least two pairs.
    pub interval: Option<[f64; 2]>,
    /// Seeds that both groups have; 0 if the difference is not paired.
    pub pairs: usize,
}

impl Difference {
    /// Of the values of two groups, each with the seed of its run. Runs of one group with the same seed
    /// count as their mean.
    pub(crate) fn new(to: &str, first: &[(u64, f64)], other: &[(u64, f64)]) -> Self {
        let (first, other) = (by_seed(first), by_seed(other));
        let pairs: Vec<f64> =
            other.iter().filter_map(|(seed, value)| Some(value - first.get(seed)?)).collect();
        let mean_of_all = |of: &BTreeMap<u64, f64>| of.values().sum::<f64>() / of.len() as f64;
        let (mean, interval) = match pairs.len() {
            0 => (mean_of_all(&other) - mean_of_all(&first), None),
            _ => mean_and_interval(&pairs),
        };
        Self { to: to.to_owned(), mean, interval, pairs: pairs.len() }
    }
}

/// The mean value of each seed.
fn by_seed(values: &[(u64, f64)]) -> BTreeMap<u64, f64> {
    let mut all: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for &(seed, value) in values {
        all.entry(seed).or_default().push(value);
    }
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    all.into_iter().map(|(seed, values)| (seed, mean(values))).collect()
}

fn mean_and_interval(values: &[f64]) -> (f64, Option<[f64; 2]>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    if values.len() < 2 {
        return (mean, None);
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let error = (squares / (count - 1.0) / count).sqrt();
    let half = t_quantile(values.len() - 1) * error;
    (mean, Some([mean - half, mean + half]))
}

/// The probability that a variable of Student's t distribution is within `-t..t` (Abramowitz, Stegun,
/// Handbook of Mathematical Functions, 26.7.3 and 26.7.4).
fn within(t: f64, degrees: usize) -> f64 {
    let angle = (t / (degrees as f64).sqrt()).atan();
    let square = angle.cos().powi(2);
    let is_odd = degrees % 2 == 1;
    // The last term has the power degrees - 2 of the cosine.
    let mut term = if is_odd { angle.cos() } else { 1.0 };
    let mut sum = if degrees == 1 { 0.0 } else { term };
    let first = if is_odd { 2 } else { 1 };
    for factor in (first..degrees.saturating_sub(2)).step_by(2) {
        term *= square * factor as f64 / (factor + 1) as f64;
        sum += term;
    }
    if is_odd {
        std::f64::consts::FRAC_2_PI * (angle + angle.sin() * sum)
    } else {
        angle.sin() * sum
    }
}

/// The value that a variable of Student's t distribution exceeds in magnitude with probability 0.05.
fn t_quantile(degrees: usize) -> f64 {
    // At one degree of freedom it is 12.7, and it falls from there.
    let (mut low, mut high) = (0.0, 20.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if within(middle, degrees) < 0.95 { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.t.ppf(0.975, degrees)`.
    #[test]
    fn quantiles_are_those_of_scipy() {
        for (degrees, expected) in [
            (1, 12.706_204_736_174_694),
            (2, 4.302_652_729_749_462),
            (3, 3.182_446_305_283_708),
            (4, 2.776_445_105_197_793),
            (5, 2.570_581_835_636_315),
            (9, 2.262_157_162_798_205),
            (10, 2.228_138_851_986_274),
            (29, 2.045_229_642_132_703),
            (100, 1.983_971_518_523_552),
        ] {
            let got = t_quantile(degrees);
            assert!((got - expected).abs() < 1e-9, "{degrees}: {got}, not {expected}");
        }
    }

    /// Differences 0.02, 0.04 and 0.03: mean 0.03, deviation 0.01, error 0.01 / sqrt(3).
    #[test]
    fn runs_are_paired_by_their_seeds() {
        let first = [(0, 0.50), (1, 0.60), (2, 0.55), (7, 0.9)];
        let other = [(2, 0.58), (0, 0.52), (1, 0.64), (5, 0.1)];
        let difference = Difference::new("a", &first, &other);
        assert_eq!((difference.to.as_str(), difference.pairs), ("a", 3));
        assert!((difference.mean - 0.03).abs() < 1e-12);
        let half = 4.302_652_729_749_462 * 0.01 / 3.0_f64.sqrt();
        let [low, high] = difference.interval.unwrap();
        assert!((low - (0.03 - half)).abs() < 1e-9 && (high - (0.03 + half)).abs() < 1e-9);
    }

    #[test]
    fn without_two_pairs_there_is_no_interval() {
        let one = Difference::new("a", &[(0, 0.5), (1, 0.7)], &[(1, 0.6)]);
        assert_eq!((one.pairs, one.interval), (1, None));
        assert!((one.mean + 0.1).abs() < 1e-12);
        let none = Difference::new("a", &[(0, 0.5), (1, 0.7)], &[(2, 0.9), (3, 0.7)]);
        assert_eq!((none.pairs, none.interval), (0, None));
        assert!((none.mean - 0.2).abs() < 1e-12);
        // Two runs of a seed are one repetition.
        let twice = Difference::new("a", &[(0, 0.4), (0, 0.6)], &[(0, 0.7)]);
        assert_eq!((twice.pairs, twice.interval), (1, None));
        assert!((twice.mean - 0.2).abs() < 1e-12);
    }
}
