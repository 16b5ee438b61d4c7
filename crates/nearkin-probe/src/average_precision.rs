//! How well a classifier ranks images by a class that each may or may not show: the average precision
//! of PASCAL VOC.
//!
//! Accuracy has no meaning where an image shows several classes. Precision and recall along the
//! ranking have, and there are several ways to make one number of them that differ by points, so each
//! has a name here.

use std::fmt;
use std::str::FromStr;

use tch::{Device, Kind, TchError, Tensor};

/// A way to average precision over recall. Both take at each recall the best precision that is
/// reached there or at any higher recall. Of equal scores the first comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AveragePrecision {
    /// The mean of 11 values, at a recall of 0, 0.1 and so on to 1: that of VOC2007, which the
    /// protocols of transfer report (Everingham and others, IJCV 88, 2010).
    #[default]
    ElevenPoint,
    /// The area under the curve: that of VOC from 2010 on.
    Area,
}

impl fmt::Display for AveragePrecision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ElevenPoint => "11-point",
            Self::Area => "area",
        })
    }
}

impl FromStr for AveragePrecision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "11-point" => Ok(Self::ElevenPoint),
            "area" => Ok(Self::Area),
            _ => Err(format!("{text:?} is no average precision: write 11-point or area")),
        }
    }
}

/// A mean over classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Precision {
    /// Within 0 and 1.
    pub mean: f64,
    /// How many classes it is the mean over.
    pub classes: usize,
}

impl AveragePrecision {
    /// Of one class: the scores of some images, and whether they show it (above 0), do not (below 0) or
    /// count neither way (0). `None` if no image shows it.
    pub fn of(self, scores: &[f64], truth: &[f64]) -> Option<f64> {
        let images = scores.iter().zip(truth).filter(|&(_, &truth)| truth != 0.0);
        let mut ranked: Vec<(f64, bool)> =
            images.map(|(&score, &truth)| (score, truth > 0.0)).collect();
        ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        // Precision where recall rises: at each image that shows the class.
        let mut precisions: Vec<f64> = Vec::new();
        for (before, _) in ranked.iter().enumerate().filter(|(_, (_, shows))| *shows) {
            precisions.push((precisions.len() + 1) as f64 / (before + 1) as f64);
        }
        let mut best = 0.0_f64;
        for precision in precisions.iter_mut().rev() {
            best = best.max(*precision);
            *precision = best;
        }
        let shown = precisions.len();
        (shown > 0).then(|| match self {
            Self::ElevenPoint => {
                // In whole numbers: a recall of 3 in 10 is at least 0.3 whatever 0.1 rounds to.
                let first = |tenths: usize| (tenths * shown).div_ceil(10).max(1);
                (0..=10).map(|tenths| precisions[first(tenths) - 1]).sum::<f64>() / 11.0
            }
            Self::Area => precisions.iter().sum::<f64>() / shown as f64,
        })
    }

    /// The mean over the classes that an image shows, of scores and truth, both `[images, classes]`;
    /// `None` if there is no such class.
    pub fn mean(self, scores: &Tensor, truth: &Tensor) -> Result<Option<Precision>, TchError> {
        let column = |of: &Tensor, class| -> Result<Vec<f64>, TchError> {
            let column = of.f_select(1, class)?.f_to_kind(Kind::Double)?;
            Vec::try_from(column.f_to_device(Device::Cpu)?.f_contiguous()?)
        };
        let mut all = Vec::new();
        for class in 0..truth.size()[1] {
            all.extend(self.of(&column(scores, class)?, &column(truth, class)?));
        }
        let (sum, classes) = (all.iter().sum::<f64>(), all.len());
        Ok((classes > 0).then(|| Precision { mean: sum / classes as f64, classes }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn both(truth: &[f64]) -> [Option<f64>; 2] {
        let scores: Vec<f64> = (0..truth.len()).map(|place| -(place as f64)).collect();
        [AveragePrecision::ElevenPoint, AveragePrecision::Area].map(|way| way.of(&scores, truth))
    }

    fn close(got: [Option<f64>; 2], expected: [f64; 2]) {
        for (got, expected) in got.into_iter().zip(expected) {
            assert!((got.unwrap() - expected).abs() < 1e-12, "{got:?}, not {expected}");
        }
    }

    #[test]
    fn small_rankings_are_as_computed_by_hand() {
        // Precision 1 up to a recall of 1/2, then 2/3: at 6 and at 5 of the 11 values.
        let first = [(6.0 + 5.0 * 2.0 / 3.0) / 11.0, f64::midpoint(1.0, 2.0 / 3.0)];
        close(both(&[1.0, -1.0, 1.0, -1.0]), first);
        // What counts neither way might as well not be there.
        close(both(&[0.0, 1.0, -1.0, 0.0, 0.0, 1.0, -1.0]), first);
        // Precision rises from 1/2 to 2/3, which counts for the lower recall too.
        close(both(&[-1.0, 1.0, 1.0]), [2.0 / 3.0; 2]);
        close(both(&[1.0, 1.0]), [1.0; 2]);
        close(both(&[-1.0, -1.0, -1.0, 1.0]), [0.25; 2]);
        // Ten images: a recall of 3/10 is that of 0.3.
        let ten: Vec<f64> = [vec![1.0; 3], vec![-1.0; 7], vec![1.0; 7]].concat();
        close(both(&ten), [(4.0 + 7.0 * 10.0 / 17.0) / 11.0, (3.0 + 7.0 * 10.0 / 17.0) / 10.0]);
        assert_eq!(both(&[-1.0, 0.0]), [None, None]);
    }

    #[test]
    fn of_equal_scores_the_first_comes_first() {
        let of = |truth: [f64; 3]| AveragePrecision::Area.of(&[0.5; 3], &truth);
        assert_eq!([of([1.0, -1.0, -1.0]), of([-1.0, 1.0, -1.0])], [Some(1.0), Some(0.5)]);
    }

    #[test]
    fn classes_that_no_image_shows_do_not_count() {
        let scores = Tensor::from_slice2(&[[0.9, 0.1, 0.3], [0.2, 0.8, 0.3]]);
        let truth = Tensor::from_slice2(&[[-1.0, 1.0, -1.0], [1.0, 1.0, 0.0]]);
        let got = AveragePrecision::Area.mean(&scores, &truth).unwrap();
        assert_eq!(got, Some(Precision { mean: 0.75, classes: 2 }));
        let got = AveragePrecision::Area.mean(&scores, &Tensor::full_like(&truth, -1.0)).unwrap();
        assert_eq!(got, None);
    }

    #[test]
    fn ways_go_by_their_names() {
        for way in [AveragePrecision::ElevenPoint, AveragePrecision::Area] {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        assert!("voc".parse::<AveragePrecision>().unwrap_err().contains("11-point or area"));
    }

    proptest! {
        #[test]
        fn a_ranking_is_worth_at_most_1_and_turning_it_round_no_more(
            truth in prop::collection::vec(-1_i8..=1, 1..60),
        ) {
            let truth: Vec<f64> = truth.into_iter().map(f64::from).collect();
            let mut sorted = truth.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for (got, best) in both(&truth).into_iter().zip(both(&sorted)) {
                prop_assert_eq!(got.is_some(), truth.contains(&1.0));
                if let Some(got) = got {
                    prop_assert!(got > 0.0 && got <= 1.0);
                    prop_assert_eq!(best, Some(1.0));
                }
            }
        }
    }
}
