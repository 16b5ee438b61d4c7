//! Many linear classifiers trained in one pass over the same features.
//!
//! A learning rate has to be chosen for every encoder anew, and a probe is cheap beside the features
//! it needs. So all settings of a grid see the same batches, as one layer `[settings, classes,
//! length]`: two matrix products per step for all of them.

use tch::{Kind, TchError, Tensor};

use crate::ProbeError;
use crate::classifier::{Fall, Passes};

/// Momentum of the gradients.
const MOMENTUM: f64 = 0.9;

/// What one classifier is trained with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// At the first step; it falls to 0 along a cosine.
    pub learning_rate: f64,
    /// Times the weights, it is added to the gradient; biases are spared.
    pub weight_decay: f64,
}

/// The 40 settings of the cached protocol: 8 learning rates by 5 weight decays.
pub fn grid() -> Vec<Setting> {
    let rates = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
    let decays = [0.0, 1e-5, 1e-4, 1e-3, 1e-2];
    let with = |learning_rate| {
        decays.map(|weight_decay| Setting { learning_rate, weight_decay }).into_iter()
    };
    rates.into_iter().flat_map(with).collect()
}

/// Trained classifiers.
#[derive(Debug)]
pub struct SideBySide {
    /// `[settings, classes, length]`.
    weight: Tensor,
    /// `[settings, classes, 1]`.
    bias: Tensor,
}

/// Which setting did best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Best {
    pub(crate) place: usize,
    pub(crate) accuracy: f64,
}

impl SideBySide {
    /// Trains one classifier per setting on rows `[images, length]` of the classes `labels`,
    /// `[images]`, all from zeros, by SGD as torch has it.
    ///
    /// A setting whose learning rate is too large may diverge without harm to the others.
    pub fn train(
        rows: &Tensor,
        labels: &Tensor,
        classes: i64,
        settings: &[Setting],
        passes: Passes,
    ) -> Result<Self, ProbeError> {
        let (count, length) = (settings.len() as i64, rows.size()[1]);
        let options = (rows.kind(), rows.device());
        let column = |of: &dyn Fn(&Setting) -> f64| {
            let values: Vec<f64> = settings.iter().map(of).collect();
            let values = Tensor::f_from_slice(&values)?.f_to_kind(rows.kind())?;
            values.f_to_device(rows.device())?.f_view([count, 1, 1])
        };
        let rates = column(&|setting| setting.learning_rate)?;
        let decays = column(&|setting| setting.weight_decay)?;
        let mut probes = Self {
            weight: Tensor::f_zeros([count, classes, length], options)?,
            bias: Tensor::f_zeros([count, classes, 1], options)?,
        };
        let mut velocity =
            [Tensor::f_zeros_like(&probes.weight)?, Tensor::f_zeros_like(&probes.bias)?];
        let per_epoch = passes.steps_per_epoch(rows.size()[0] as usize);
        passes.over_rows(rows, labels, |step, rows, labels| {
            let factor = Fall::Cosine.factor(step, per_epoch, passes.epochs);
            let rates = rates.f_mul_scalar(-factor)?;
            let [mut weight, bias] = probes.gradients(&rows, &labels)?;
            let weight = weight.f_addcmul_(&probes.weight, &decays)?;
            for (own, (velocity, gradient)) in [&mut probes.weight, &mut probes.bias]
                .into_iter()
                .zip(velocity.iter_mut().zip([weight, bias]))
            {
                let velocity = velocity.f_mul_scalar_(MOMENTUM)?.f_add_(&gradient)?;
                let _ = own.f_addcmul_(&velocity, &rates)?;
            }
            Ok(())
        })?;
        Ok(probes)
    }

    /// `[settings, batch, classes]` of rows `[batch, length]`.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        self.by_image(rows)?.f_transpose(0, 1)
    }

    /// `[batch, settings, classes]`: as the product of the matrices leaves them in memory.
    fn by_image(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        let (settings, classes, length) = self.weight.size3()?;
        let weight = self.weight.f_view([settings * classes, length])?;
        rows.f_linear(&weight, Some(&self.bias.f_view([-1])?))?.f_view([-1, settings, classes])
    }

    /// Of the mean cross-entropy of every setting, with respect to weight and bias.
    fn gradients(&self, rows: &Tensor, labels: &Tensor) -> Result<[Tensor; 2], TchError> {
        let (settings, classes, length) = self.weight.size3()?;
        let images = rows.size()[0];
        let wanted = labels.f_one_hot(classes)?.f_to_kind(rows.kind())?.f_unsqueeze(1)?;
        let mut error = self.by_image(rows)?.f_softmax(2, None::<Kind>)?.f_sub_(&wanted)?;
        // What has diverged learns no more, and harms no other.
        let _ = error.f_div_scalar_(images as f64)?.f_nan_to_num_(0.0, None, None)?;
        let flat = error.f_view([images, settings * classes])?;
        let bias = flat.f_sum_dim_intlist([0].as_slice(), false, None::<Kind>)?;
        let weight = flat.f_transpose(0, 1)?.f_matmul(rows)?;
        Ok([weight.f_view([settings, classes, length])?, bias.f_view([settings, classes, 1])?])
    }

    /// The setting with most right on rows `[images, length]`; of equal ones the first.
    pub(crate) fn best(&self, rows: &Tensor, labels: &Tensor) -> Result<Best, TchError> {
        let settings = self.weight.size()[0];
        let mut right = Tensor::f_zeros([settings], (Kind::Int64, rows.device()))?;
        let images = rows.size()[0];
        for start in (0..images).step_by(1024) {
            let count = 1024.min(images - start);
            let (rows, labels) =
                (rows.f_narrow(0, start, count)?, labels.f_narrow(0, start, count)?);
            let hits = self.logits(&rows)?.f_argmax(2, false)?.f_eq_tensor(&labels)?;
            right = right.f_add(&hits.f_sum_dim_intlist([1].as_slice(), false, Kind::Int64)?)?;
        }
        let right: Vec<i64> = Vec::try_from(right)?;
        let most = right.iter().copied().max().unwrap_or(0);
        let place = right.iter().position(|&count| count == most).unwrap_or(0);
        Ok(Best { place, accuracy: most as f64 / images.max(1) as f64 })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use nearkin_recipe::LearningRateScaling;
    use nearkin_train::Optimizer;
    use tch::Device;

    use super::*;
    use crate::classifier::{Classifier, Start};
    use crate::linear::{optimizer, sgd};

    fn clusters(seed: i64, images: i64) -> (Tensor, Tensor) {
        tch::manual_seed(7);
        let centres = Tensor::randn([4, 6], tch::kind::FLOAT_CPU) * 2.0;
        tch::manual_seed(seed);
        let labels = Tensor::randint(4, [images], tch::kind::INT64_CPU);
        let rows =
            centres.index_select(0, &labels) + Tensor::randn([images, 6], tch::kind::FLOAT_CPU);
        (rows, labels)
    }

    const PASSES: Passes = Passes {
        epochs: 5,
        batch_size: const { NonZeroUsize::new(20).unwrap() },
        seed: 3,
        drop_last: false,
    };

    /// Each setting alone, by the optimiser of training and automatic differentiation.
    #[test]
    fn every_setting_learns_what_it_would_alone() {
        let (rows, labels) = clusters(0, 90);
        let settings =
            [0.01, 0.3].map(|learning_rate| Setting { learning_rate, weight_decay: 0.0 });
        let together = SideBySide::train(&rows, &labels, 4, &settings, PASSES).unwrap();
        for (place, setting) in settings.iter().enumerate() {
            let alone = Classifier::new([6, 4], Start::Zeros, 0, Device::Cpu).unwrap();
            let options = optimizer(
                sgd(false).unwrap(),
                setting.learning_rate,
                LearningRateScaling::None,
                0.0,
            );
            let mut optimizer = Optimizer::new(&alone.parameters, &options.unwrap()).unwrap();
            PASSES
                .over_rows(&rows, &labels, |step, rows, labels| {
                    optimizer.zero_gradients();
                    alone.forward(&rows)?.cross_entropy_for_logits(&labels).backward();
                    let factor = Fall::Cosine.factor(step, 5, 5);
                    Ok(optimizer.step(setting.learning_rate * factor)?)
                })
                .unwrap();
            let got = together.logits(&rows).unwrap().get(place as i64);
            assert!(got.allclose(&alone.forward(&rows).unwrap(), 1e-4, 1e-4, false), "{setting:?}");
        }
    }

    #[test]
    fn weight_decay_shrinks_weights_and_a_wild_setting_harms_no_other() {
        let (rows, labels) = clusters(0, 90);
        let setting = |learning_rate, weight_decay| Setting { learning_rate, weight_decay };
        let settings = [setting(0.1, 0.0), setting(0.1, 0.1), setting(1e30, 0.0)];
        let all = SideBySide::train(&rows, &labels, 4, &settings, PASSES).unwrap();
        let first = SideBySide::train(&rows, &labels, 4, &settings[..1], PASSES).unwrap();
        assert!(all.weight.get(0).allclose(&first.weight.get(0), 1e-5, 1e-6, false));
        let norm = |place| all.weight.get(place).norm().double_value(&[]);
        assert!(norm(1) < 0.9 * norm(0), "{} {}", norm(1), norm(0));
        let test = clusters(1, 200);
        let best = all.best(&test.0, &test.1).unwrap();
        assert!(best.place < 2 && best.accuracy > 0.7, "{best:?}");
    }

    #[test]
    fn of_equal_settings_the_first_is_chosen() {
        let (rows, labels) = clusters(0, 60);
        let setting = Setting { learning_rate: 0.1, weight_decay: 0.0 };
        let both = SideBySide::train(&rows, &labels, 4, &[setting; 2], PASSES).unwrap();
        assert_eq!(both.best(&rows, &labels).unwrap().place, 0);
        assert_eq!(grid().len(), 40);
    }
}
