//! How good features look without labels.
//!
//! Contrastive training can fail quietly: the loss falls while all images move to one point or into
//! a few directions. What is measured here shows that before a probe is trained, and on data that
//! has no labels at all.

use std::sync::Arc;

use nearkin_augment::{Loader, LoaderOptions, Sequential, View};
use nearkin_data::ImageSet;
use tch::{Kind, TchError, Tensor};

use crate::features::{EvaluationError, FeatureOptions, FeatureSource, unit_rows};

/// Added to every share of the spectrum, as its authors do.
const RANK_ME_EPSILON: f64 = 1e-7;
/// Rows that are widened or compared at once.
const ROWS_AT_ONCE: i64 = 1024;
/// A standard deviation below this share of that of evenly spread features is a collapse.
const COLLAPSED_DEVIATION: f64 = 0.02;
/// A RankMe below this is a collapse to one direction.
const COLLAPSED_RANK: f64 = 1.5;
/// Fewer images than this may point in one direction because they look alike.
const LEAST_IMAGES_FOR_RANK: i64 = 8;

/// How unit features spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// See [`rank_me`].
    pub rank_me: Option<f64>,
    /// Standard deviation (n - 1) of a dimension over the images, mean over the dimensions; features
    /// that point anywhere alike have 1 / sqrt(length). `None` for a single image.
    pub deviation: Option<f64>,
    /// Length of a feature.
    pub length: i64,
    /// Number of features.
    pub images: i64,
}

impl Spread {
    /// What is wrong, if the features have collapsed. A few images are no proof of that.
    pub fn warning(&self) -> Option<String> {
        let even = 1.0 / (self.length as f64).sqrt();
        if let Some(deviation) = self.deviation.filter(|own| *own < COLLAPSED_DEVIATION * even) {
            return Some(format!(
                "the features have collapsed to a point: their standard deviation is \
                 {deviation:.2e}, where evenly spread ones have {even:.2e}"
            ));
        }
        let Some(rank_me) = self.rank_me else {
            return Some("RankMe is unknown: the eigenvalue solver failed".to_owned());
        };
        (rank_me < COLLAPSED_RANK && self.images >= LEAST_IMAGES_FOR_RANK).then(|| {
            format!(
                "the features have collapsed to one direction: RankMe is {rank_me:.2} of at most {}",
                self.length
            )
        })
    }
}

/// Quality of features without labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// How the features of un-augmented images spread.
    pub spread: Spread,
    /// See [`uniformity`]; `None` for a single image.
    pub uniformity: Option<f64>,
    /// See [`alignment`]; of the first two views of training.
    pub alignment: f64,
    /// Number of images measured.
    pub images: usize,
}

/// Measures the images of a set: un-augmented under `view`, and as the two `pair`ed views of training.
pub fn quality(
    source: FeatureSource<'_>,
    set: &Arc<dyn ImageSet>,
    view: &View,
    pair: [&View; 2],
    options: FeatureOptions,
) -> Result<Quality, EvaluationError> {
    // One loader for all: random numbers are keyed by the place of a view in its loader, so two
    // loaders would draw the same crop for both views.
    let views = Arc::from([view, pair[0], pair[1]].map(View::clone));
    let plan = Sequential::new(set.len(), options.batch_size);
    let loading = LoaderOptions { workers: options.workers, prefetch_batches: 2 };
    let mut rows = [Vec::new(), Vec::new(), Vec::new()];
    for batch in Loader::start(Arc::clone(set), views, 0, plan, loading)? {
        for (rows, view) in rows.iter_mut().zip(&batch?.views) {
            rows.push(unit_rows(&source.features(view)?)?);
        }
    }
    if rows[0].is_empty() {
        return Err(EvaluationError::NoneReadable { images: set.len(), which: "" });
    }
    let [plain, first, second] = rows.map(|rows| Tensor::f_cat(&rows, 0));
    let (plain, first, second) = (plain?, first?, second?);
    Ok(Quality {
        spread: spread(&plain)?,
        uniformity: (plain.size()[0] > 1).then(|| uniformity(&plain)).transpose()?,
        alignment: alignment(&first, &second)?,
        images: plain.size()[0] as usize,
    })
}

/// How unit rows `[images, length]` spread.
pub fn spread(rows: &Tensor) -> Result<Spread, TchError> {
    let (images, length) = rows.size2()?;
    let deviation = || {
        let of_dimensions = rows.f_std_dim([0].as_slice(), true, false)?;
        of_dimensions.f_mean(Kind::Double)?.f_double_value(&[])
    };
    let deviation = (images > 1).then(deviation).transpose()?;
    Ok(Spread { rank_me: rank_me(rows)?, deviation, length, images })
}

/// RankMe (Garrido, Balestriero, Najman, LeCun, ICML 2023, arXiv 2210.02885): the exponential of the
/// entropy of the singular values of the rows `[images, length]`, not centered. From 1 (all rows are
/// parallel) to the smaller side of the matrix. `None` where the eigenvalue solver fails.
pub fn rank_me(rows: &Tensor) -> Result<Option<f64>, TchError> {
    let (images, length) = rows.size2()?;
    // The singular values are the roots of the eigenvalues of the smaller product of the matrix with
    // itself; in double precision, summed over blocks, that never holds a second copy of the rows.
    let gram = if images < length {
        let rows = rows.f_to_kind(Kind::Double)?;
        rows.f_matmul(&rows.f_transpose(0, 1)?)?
    } else {
        let mut gram = Tensor::f_zeros([length, length], (Kind::Double, rows.device()))?;
        for start in (0..images).step_by(ROWS_AT_ONCE as usize) {
            let block = rows.f_narrow(0, start, ROWS_AT_ONCE.min(images - start))?;
            let block = block.f_to_kind(Kind::Double)?;
            gram = gram.f_addmm(&block.f_transpose(0, 1)?, &block)?;
        }
        gram
    };
    // It raises an error or gives NaN where it does not converge, depending on the device.
    let Ok(values) = gram.f_linalg_eigvalsh("L") else { return Ok(None) };
    let values = values.f_clamp_min(0.0)?.f_sqrt()?;
    let total = values.f_sum(Kind::Double)?.f_clamp_min(f64::MIN_POSITIVE)?;
    let shares = values.f_div(&total)?.f_add_scalar(RANK_ME_EPSILON)?;
    let entropy = shares.f_mul(&shares.f_log()?)?.f_sum(Kind::Double)?.f_neg()?;
    Ok(Some(entropy.f_exp()?.f_double_value(&[])?).filter(|rank| rank.is_finite()))
}

/// Uniformity (Wang, Isola, ICML 2020, arXiv 2005.10242): the logarithm of the mean over pairs of
/// different unit rows `[images, length]` of exp(-2 |x - y|^2). Lower is more even.
pub fn uniformity(rows: &Tensor) -> Result<f64, TchError> {
    let images = rows.size()[0];
    let columns = rows.f_transpose(0, 1)?;
    let mut sum = 0.0;
    for start in (0..images).step_by(ROWS_AT_ONCE as usize) {
        let block = rows.f_narrow(0, start, ROWS_AT_ONCE.min(images - start))?;
        // Of unit rows: |x - y|^2 = 2 - 2 x.y
        let kernel = block.f_matmul(&columns)?.f_mul_scalar_(4.0)?.f_sub_scalar_(4.0)?.f_exp_()?;
        sum += kernel.f_sum(Kind::Double)?.f_double_value(&[])?;
    }
    // Every row was compared with itself too, at distance 0.
    let pairs = images as f64 * (images as f64 - 1.0);
    Ok(((sum - images as f64) / pairs).ln())
}

/// Alignment (Wang, Isola, as above): the mean of |x - y|^2 over the unit rows of two views of the
/// same images, `[images, length]` each. Lower is closer.
pub fn alignment(first: &Tensor, second: &Tensor) -> Result<f64, TchError> {
    let squares = first.f_sub(second)?.f_square()?;
    let sums = squares.f_sum_dim_intlist([1].as_slice(), false, Kind::Double)?;
    sums.f_mean(Kind::Double)?.f_double_value(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-6 * expected.abs().max(1.0), "{got} is not {expected}");
    }

    /// By hand: singular values 3, 2 and 1 are the shares 1/2, 1/3 and 1/6.
    #[test]
    fn rank_me_is_the_exponential_of_the_entropy_of_the_spectrum() {
        let rows = Tensor::from_slice2(&[[0.0, 3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]);
        let entropy: f64 = [0.5_f64, 1.0 / 3.0, 1.0 / 6.0].iter().map(|p| -p * p.ln()).sum();
        let rank_me = |rows: &Tensor| rank_me(rows).unwrap().unwrap();
        close(rank_me(&rows), entropy.exp());
        // More rows than dimensions, and fewer: the same spectrum.
        let tall = Tensor::f_cat(&[rows.shallow_clone(), Tensor::zeros_like(&rows)], 0).unwrap();
        close(rank_me(&tall), entropy.exp());
        close(rank_me(&tall.tr()), entropy.exp());
        let parallel = Tensor::from_slice2(&[[1.0, 2.0], [2.0, 4.0], [-3.0, -6.0]]);
        assert!((rank_me(&parallel) - 1.0).abs() < 1e-4);
    }

    /// Rows at 0, 90 and 180 degrees: squared distances 2, 4 and 2.
    #[test]
    fn uniformity_and_alignment_are_those_by_hand() {
        let rows = Tensor::from_slice2(&[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]);
        let expected = ((2.0 * (-4.0_f64).exp() + (-8.0_f64).exp()) / 3.0).ln();
        close(uniformity(&rows).unwrap(), expected);
        let turned = Tensor::from_slice2(&[[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]);
        close(alignment(&rows, &turned).unwrap(), (2.0 + 0.0 + 4.0) / 3.0);
    }

    /// `numpy.std(rows, axis=0, ddof=1).mean()` of the rows above.
    #[test]
    fn the_deviation_is_that_of_numpy() {
        let rows = Tensor::from_slice2(&[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]);
        let spread = spread(&rows).unwrap();
        close(spread.deviation.unwrap(), f64::midpoint(1.0, (1.0_f64 / 3.0).sqrt()));
        assert_eq!(spread.length, 2);
        assert_eq!(spread.warning(), None);
    }

    #[test]
    fn collapse_is_said() {
        tch::manual_seed(0);
        let noise = Tensor::randn([200, 32], tch::kind::FLOAT_CPU);
        let even = unit_rows(&noise).unwrap();
        assert_eq!(spread(&even).unwrap().warning(), None);
        let point = unit_rows(&(noise.copy() * 1e-4 + 1.0)).unwrap();
        let said = spread(&point).unwrap().warning().unwrap();
        assert!(said.contains("collapsed to a point"), "{said}");
        // Two opposite points have a large deviation and one direction.
        let line =
            unit_rows(&(noise.narrow(1, 0, 1).sign().expand([200, 32], true) + 0.0)).unwrap();
        let said = spread(&line).unwrap().warning().unwrap();
        assert!(said.contains("one direction"), "{said}");
        let broken = spread(&(even * f64::NAN)).unwrap();
        assert_eq!(broken.rank_me, None);
        assert!(broken.warning().unwrap().starts_with("RankMe is unknown"));
    }

    #[test]
    fn a_few_images_are_no_proof_of_a_collapse() {
        tch::manual_seed(0);
        // As alike as images of one class are to an encoder that has learned little.
        let alike = |images: i64| {
            let noise = Tensor::randn([images, 32], tch::kind::DOUBLE_CPU);
            unit_rows(&(noise * 0.1 + 1.0)).unwrap()
        };
        let one = spread(&alike(1)).unwrap();
        assert_eq!((one.deviation, one.images, one.warning()), (None, 1, None));
        for images in [2, 3, 7, 8, 50] {
            let few = spread(&alike(images)).unwrap();
            assert_eq!(few.warning(), None, "{images}: {few:?}");
        }
        assert!(spread(&alike(2)).unwrap().rank_me.unwrap() < COLLAPSED_RANK);
        let same = alike(1).expand([8, 32], true);
        assert!(spread(&same).unwrap().warning().unwrap().contains("collapsed to a point"));
    }

    #[test]
    fn blocks_do_not_change_uniformity() {
        tch::manual_seed(1);
        let rows =
            unit_rows(&Tensor::randn([ROWS_AT_ONCE + 300, 6], tch::kind::DOUBLE_CPU)).unwrap();
        let squared = (rows.unsqueeze(0) - rows.unsqueeze(1)).square();
        let squared = squared.sum_dim_intlist([2].as_slice(), false, Kind::Double);
        let images = rows.size()[0] as f64;
        let sum = (squared * -2.0).exp().sum(Kind::Double).double_value(&[]) - images;
        close(uniformity(&rows).unwrap(), (sum / (images * (images - 1.0))).ln());
    }
}
