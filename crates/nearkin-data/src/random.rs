//! Random numbers as a pure function of where they are used.
//!
//! Bit-exact resume and independence from the number of workers both follow from one rule: no
//! generator lives longer than the thing it was made for. A [`Random`] is made from a key such as
//! `(seed, epoch, image, view)` and thrown away; there is no state to save.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream of random numbers is used for, so that equal keys of different uses never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Parameters of the transforms of one view of one image.
    Augmentation = 1,
    /// The order of the images of an epoch.
    Order = 2,
    /// What the built-in image set draws.
    Drawing = 3,
    /// Which images of a set belong to a subset.
    Subset = 4,
    /// The permutation of a batch before the momentum encoder (shuffled batch norm).
    Shuffle = 5,
    /// Initial weights and the initial queue.
    Initialisation = 6,
    /// Partners and shares of mixed images.
    Mixup = 7,
}

/// A stream of random numbers that depends only on its key.
///
/// The generator is ChaCha with 8 rounds; the key takes the place of its 256-bit seed. The
/// conversions to floats and integers are written here, so that a stream never changes with a
/// library version.
#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream for `purpose` under `seed` with up to two further coordinates.
    pub fn new(purpose: Purpose, seed: u64, a: u64, b: u64) -> Self {
        let mut key = [0; 32];
        // The purpose takes the top byte of the last word: coordinates stay below 2^56.
        let last = b ^ ((purpose as u64) << 56);
        for (slot, word) in key.chunks_exact_mut(8).zip([seed, a, last, 0x6e65_6172_6b69_6e21]) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// The stream for one view of one image in one epoch.
    pub fn for_view(seed: u64, epoch: u64, image: u64, view: u64) -> Self {
        Self::new(Purpose::Augmentation, seed, image, (epoch << 16) | view)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, 1)` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0. (Multiply-shift; the bias is below 2^-32 for any
    /// set that fits in memory.)
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Beta-distributed, both parameters equal to `concentration` above 0: from two gamma variates
    /// (Marsaglia and Tsang, 2000), by their logarithms, since those of a small concentration are
    /// too small for a float.
    pub fn symmetric_beta(&mut self, concentration: f64) -> f64 {
        let (first, second) =
            (self.log_gamma_variate(concentration), self.log_gamma_variate(concentration));
        1.0 / (1.0 + (second - first).exp())
    }

    /// Logarithm of a gamma variate of that shape and scale 1.
    fn log_gamma_variate(&mut self, shape: f64) -> f64 {
        // Of a shape below 1: that of shape + 1 times a uniform number to the power 1 / shape.
        let boost = if shape < 1.0 { (1.0 - self.unit()).ln() / shape } else { 0.0 };
        let d = if shape < 1.0 { shape + 1.0 } else { shape } - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let normal = self.normal();
            let root = 1.0 + c * normal;
            if root <= 0.0 {
                continue;
            }
            let cube = root.powi(3);
            let log_uniform = (1.0 - self.unit()).ln();
            if log_uniform < 0.5 * normal * normal + d - d * cube + d * cube.ln() {
                return boost + (d * cube).ln();
            }
        }
    }

    /// A random order of the given items (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }

    /// A random permutation of `0..length`.
    pub fn permutation(&mut self, length: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..length).collect();
        self.shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_give_equal_streams_and_any_other_key_another() {
        let first = |mut random: Random| random.bits();
        let base = first(Random::for_view(1, 2, 3, 4));
        assert_eq!(base, first(Random::for_view(1, 2, 3, 4)));
        for other in [
            Random::for_view(0, 2, 3, 4),
            Random::for_view(1, 0, 3, 4),
            Random::for_view(1, 2, 0, 4),
            Random::for_view(1, 2, 3, 0),
            Random::new(Purpose::Order, 1, 3, (2 << 16) | 4),
        ] {
            assert_ne!(base, first(other));
        }
    }

    #[test]
    fn the_stream_is_part_of_the_contract() {
        let mut random = Random::for_view(7, 1, 2, 0);
        let drawn: Vec<usize> = (0..8).map(|_| random.below(1000)).collect();
        assert_eq!(drawn, [835, 219, 446, 872, 235, 673, 729, 437]);
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut random = Random::new(Purpose::Initialisation, 0, 0, 0);
        let count = 100_000;
        let uniform: Vec<f64> = (0..count).map(|_| random.uniform(-1.0, 3.0)).collect();
        let normal: Vec<f64> = (0..count).map(|_| random.normal()).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let square =
            |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
        assert!((mean(&uniform) - 1.0).abs() < 0.02);
        assert!(uniform.iter().all(|v| (-1.0..3.0).contains(v)));
        assert!(mean(&normal).abs() < 0.02);
        assert!((square(&normal) - 1.0).abs() < 0.02);
    }

    #[test]
    fn symmetric_beta_has_its_moments_and_stays_within_0_and_1() {
        let mut random = Random::new(Purpose::Mixup, 0, 0, 0);
        for concentration in [0.001, 0.1, 1.0, 2.0, 50.0] {
            let count = 50_000;
            let drawn: Vec<f64> =
                (0..count).map(|_| random.symmetric_beta(concentration)).collect();
            let mean = drawn.iter().sum::<f64>() / f64::from(count);
            let variance = drawn.iter().map(|x| (x - 0.5).powi(2)).sum::<f64>() / f64::from(count);
            let expected = 1.0 / (4.0 * (2.0 * concentration + 1.0));
            assert!(drawn.iter().all(|x| (0.0..=1.0).contains(x)), "{concentration}");
            assert!((mean - 0.5).abs() < 0.01, "{concentration}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.03, "{concentration}: {variance}");
        }
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Random::new(Purpose::Order, 5, 0, 0).permutation(1000);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }
}
