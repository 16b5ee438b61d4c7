//! The kernel against the same formula in libtorch's single operations.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nearkin_torch::{Finish, Statistics, batch_norm, takes};
use proptest::prelude::*;
use tch::{Device, Kind, TchError, Tensor};

/// What goes into a batch norm; a leaf where a gradient is wanted.
struct Case {
    x: Tensor,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    shortcut: Option<Tensor>,
    running_mean: Tensor,
    running_variance: Tensor,
    groups: i64,
    relu: bool,
}

fn leaf(tensor: &Tensor) -> Tensor {
    tensor.detach().set_requires_grad(true)
}

fn case(size: &[i64], groups: i64, affine: bool, shortcut: bool, relu: bool, kind: Kind) -> Case {
    let channels = size[1];
    let random = |size: &[i64]| Tensor::randn(size, tch::kind::DOUBLE_CPU);
    // Means are some deviations from 0.
    let mut offset = vec![1; size.len()];
    offset[1] = channels;
    let x = random(size) * 1.5 + random(&[channels]).view(&offset[..]) * 3.0;
    Case {
        x: leaf(&x.to_kind(kind)),
        weight: affine.then(|| leaf(&random(&[channels]).to_kind(kind))),
        bias: affine.then(|| leaf(&random(&[channels]).to_kind(kind))),
        shortcut: shortcut.then(|| leaf(&random(size).to_kind(kind))),
        running_mean: random(&[channels]).to_kind(kind),
        running_variance: random(&[channels]).abs().to_kind(kind),
        groups,
        relu,
    }
}

impl Case {
    fn of_kind(&self, kind: Kind) -> Self {
        let leaf_of = |tensor: &Tensor| leaf(&tensor.to_kind(kind));
        Self {
            x: leaf_of(&self.x),
            weight: self.weight.as_ref().map(leaf_of),
            bias: self.bias.as_ref().map(leaf_of),
            shortcut: self.shortcut.as_ref().map(leaf_of),
            running_mean: self.running_mean.to_kind(kind).copy(),
            running_variance: self.running_variance.to_kind(kind).copy(),
            groups: self.groups,
            relu: self.relu,
        }
    }

    fn kernel(&self) -> Tensor {
        self.kernel_with(false).unwrap()
    }

    fn kernel_with(&self, overwrite: bool) -> Result<Tensor, TchError> {
        let statistics = Statistics {
            weight: self.weight.as_ref(),
            bias: self.bias.as_ref(),
            running_mean: &self.running_mean,
            running_variance: &self.running_variance,
        };
        let finish = Finish { shortcut: self.shortcut.as_ref(), relu: self.relu, overwrite };
        batch_norm(&self.x, self.groups, statistics, finish, 1, Ok)
    }

    /// By libtorch's operations, group by group.
    fn plain(&self) -> Tensor {
        let rows = self.x.size()[0] / self.groups;
        let means = self.running_mean.repeat([self.groups, 1]);
        let variances = self.running_variance.repeat([self.groups, 1]);
        let blocks: Vec<Tensor> = (0..self.groups)
            .map(|group| {
                self.x.narrow(0, group * rows, rows).batch_norm(
                    self.weight.as_ref(),
                    self.bias.as_ref(),
                    Some(&means.get(group)),
                    Some(&variances.get(group)),
                    true,
                    0.1,
                    1e-5,
                    false,
                )
            })
            .collect();
        let average = |of: &Tensor| of.mean_dim([0].as_slice(), false, None::<Kind>);
        self.running_mean.shallow_clone().copy_(&average(&means));
        self.running_variance.shallow_clone().copy_(&average(&variances));
        let mut y = Tensor::cat(&blocks, 0);
        if let Some(shortcut) = &self.shortcut {
            y += shortcut;
        }
        if self.relu { y.relu() } else { y }
    }

    /// Result, running statistics and all gradients of a loss that weighs every element, by numbers
    /// that every kind has.
    fn outcome(&self, y: &Tensor) -> Vec<Tensor> {
        let weights = Tensor::arange(y.numel() as i64, (Kind::Double, Device::Cpu)).cos();
        let weights = weights.to_kind(Kind::BFloat16).to_kind(Kind::Double);
        (y.to_kind(Kind::Double) * weights.view(&y.size()[..])).sum(Kind::Double).backward();
        let leaves =
            [Some(&self.x), self.weight.as_ref(), self.bias.as_ref(), self.shortcut.as_ref()];
        let gradients = leaves.into_iter().flatten().map(Tensor::grad);
        [y.detach(), self.running_mean.copy(), self.running_variance.copy()]
            .into_iter()
            .chain(gradients)
            .map(|tensor| tensor.to_kind(Kind::Double))
            .collect()
    }
}

/// The greatest distance, as a part of the greatest value.
fn distance(got: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(got.size(), expected.size());
    let scale = expected.abs().max().double_value(&[]).max(1e-3);
    (got - expected).abs().max().double_value(&[]) / scale
}

fn agrees(case: &Case, tolerance: f64) {
    let other = case.of_kind(Kind::Double);
    let expected = other.outcome(&other.plain());
    let got = case.outcome(&case.kernel());
    assert_eq!(got.len(), expected.len());
    for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let far = distance(got, expected);
        assert!(far <= tolerance, "tensor {index} of {:?} is off by {far}", case.x.size());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Widths around those at which the kernel changes its form (32, 64), odd ones, images and
    /// matrices.
    #[test]
    fn it_is_batch_norm_with_what_follows(
        seed in 0_i64..1000,
        rows in 3_i64..6,
        groups in 1_i64..4,
        channels in prop::sample::select(vec![1_i64, 3, 8, 16, 31, 32, 33, 64, 70, 128, 200]),
        side in prop::option::of(1_i64..6),
        affine: bool,
        shortcut: bool,
        relu: bool,
    ) {
        tch::manual_seed(seed);
        let size = match side {
            Some(side) => vec![rows * groups, channels, side, side + 1],
            None => vec![rows * groups, channels],
        };
        agrees(&case(&size, groups, affine, shortcut, relu, Kind::Double), 1e-8);
    }
}

/// Large enough for several blocks of rows and for every thread.
#[test]
fn large_batches_agree_in_both_precisions() {
    for channels in [16, 48, 256] {
        tch::manual_seed(channels);
        let size = [16, channels, 24, 24];
        for (shortcut, relu) in [(false, true), (true, true), (true, false)] {
            agrees(&case(&size, 2, true, shortcut, relu, Kind::Double), 1e-10);
        }
    }
}

/// Values near 0 change sides of the ReLU when they are rounded, so the distance is that of all
/// elements together.
#[test]
fn single_precision_is_as_exact_as_its_rounding() {
    tch::manual_seed(3);
    for (shortcut, relu) in [(false, false), (false, true), (true, true)] {
        let case = case(&[32, 24, 16, 16], 1, true, shortcut, relu, Kind::Float);
        let other = case.of_kind(Kind::Double);
        let expected = other.outcome(&other.plain());
        for (index, (got, expected)) in
            case.outcome(&case.kernel()).iter().zip(&expected).enumerate()
        {
            let far = ((got - expected).norm() / expected.norm()).double_value(&[]);
            assert!(far < 1e-5, "tensor {index} is off by {far}");
        }
    }
}

/// Beside images of bfloat16, parameters, statistics and their gradients are single precision.
#[test]
fn bfloat16_is_as_exact_as_its_rounding() {
    tch::manual_seed(6);
    for (shortcut, relu) in [(false, false), (false, true), (true, true)] {
        let single = case(&[32, 24, 16, 16], 2, true, shortcut, relu, Kind::Float);
        let mut half = single.of_kind(Kind::Float);
        half.x = leaf(&single.x.to_kind(Kind::BFloat16));
        half.shortcut =
            single.shortcut.as_ref().map(|tensor| leaf(&tensor.to_kind(Kind::BFloat16)));
        let mut exact = half.of_kind(Kind::Double);
        exact.groups = 2;
        let expected = exact.outcome(&exact.plain());
        let y = half.kernel();
        assert_eq!(y.kind(), Kind::BFloat16);
        for (index, (got, expected)) in half.outcome(&y).iter().zip(&expected).enumerate() {
            let far = ((got - expected).norm() / expected.norm()).double_value(&[]);
            // Running statistics (1 and 2) have the digits of single precision.
            let bound = if index == 1 || index == 2 { 1e-6 } else { 1e-2 };
            assert!(far < bound, "tensor {index} is off by {far}");
        }
    }
}

#[test]
fn channels_last_images_are_taken_as_they_are() {
    tch::manual_seed(1);
    let mut images = case(&[4, 16, 6, 6], 1, true, true, true, Kind::Double);
    let expected = images.of_kind(Kind::Double);
    let expected = expected.outcome(&expected.plain());
    let channels_last = |x: &Tensor| x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    images.x = leaf(&channels_last(&images.x));
    let y = images.kernel();
    assert_eq!(y.stride(), images.x.stride());
    for (got, expected) in images.outcome(&y).iter().zip(&expected) {
        assert!(distance(got, expected) < 1e-10);
    }
}

/// Two halves that exchange their moments are one batch.
#[test]
fn moments_that_are_exchanged_make_one_batch_of_two() {
    tch::manual_seed(2);
    let whole = case(&[8, 6, 3, 3], 1, true, false, true, Kind::Double);
    let half = |start: i64| {
        let mut half = whole.of_kind(Kind::Double);
        half.x = leaf(&whole.x.narrow(0, start, 4));
        half
    };
    let [first, second] = [half(0), half(4)];
    let expected = whole.kernel();
    // Means and mean squares of the other half are its own affair: only their values are needed.
    let moments = |x: &Tensor| {
        let dims = [0_i64, 2, 3];
        let mean = x.mean_dim(&dims[..], false, None::<Kind>);
        let square = x.square().mean_dim(&dims[..], false, None::<Kind>);
        Tensor::stack(&[mean, square], 0).unsqueeze(1)
    };
    for (own, other, start) in [(&first, &second, 0), (&second, &first, 4)] {
        let statistics = Statistics {
            weight: own.weight.as_ref(),
            bias: own.bias.as_ref(),
            running_mean: &own.running_mean,
            running_variance: &own.running_variance,
        };
        let theirs = moments(&other.x.detach());
        let finish = Finish { relu: true, ..Finish::default() };
        let y = batch_norm(&own.x, 1, statistics, finish, 2, |own| Ok((own + theirs) / 2.0));
        let y = y.unwrap();
        assert!(distance(&y, &expected.narrow(0, start, 4)) < 1e-12);
        assert!(distance(&own.running_variance, &whole.running_variance) < 1e-12);
    }
}

#[test]
fn without_gradients_the_input_may_be_overwritten_and_else_never_is() {
    let check = |case: &Case, overwrite, taken: bool| {
        let before = case.x.copy();
        let y = case.kernel_with(overwrite).unwrap();
        assert_eq!(y.data_ptr() == case.x.data_ptr(), taken);
        assert_eq!(before == case.x, !taken);
    };
    tch::manual_seed(4);
    let fresh = || case(&[6, 5], 1, true, false, true, Kind::Float);
    check(&fresh(), true, false);
    tch::no_grad(|| {
        check(&fresh(), false, false);
        check(&fresh(), true, true);
    });
}

#[test]
fn a_second_way_back_gives_the_same_gradient_again() {
    tch::manual_seed(5);
    let case = case(&[6, 5], 1, true, false, true, Kind::Double);
    let loss = case.kernel().square().sum(Kind::Double);
    let gradient = |keep| Tensor::run_backward(&[&loss], &[&case.x], keep, false).remove(0);
    assert_eq!(gradient(true), gradient(false));
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut wrong = case(&[6, 5], 4, true, false, true, Kind::Float);
    let message = |case: &Case| case.kernel_with(false).unwrap_err().to_string();
    assert!(message(&wrong).contains("does not make 4 equal groups"), "{}", message(&wrong));
    wrong.groups = 1;
    wrong.weight = Some(Tensor::zeros([4], tch::kind::FLOAT_CPU));
    assert!(message(&wrong).contains("[4]"), "{}", message(&wrong));
    for x in [
        Tensor::zeros([2, 3, 4], tch::kind::FLOAT_CPU),
        Tensor::zeros([2, 3], (Kind::Half, Device::Cpu)),
        Tensor::zeros([0, 3], tch::kind::FLOAT_CPU),
    ] {
        assert!(!takes(&x));
        wrong.x = x;
        assert!(message(&wrong).contains("batch norm was given"), "{}", message(&wrong));
    }
}
