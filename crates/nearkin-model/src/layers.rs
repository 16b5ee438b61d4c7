//! The layers of the networks, as thin as libtorch allows.

use nearkin_dist::World;
use nearkin_recipe::{BatchNorm as Placement, Layer};
use nearkin_torch::{Finish, Statistics, batch_norm, takes};
use tch::{Device, Kind, TchError, Tensor};

use crate::Scope;

/// How batch norms treat a batch.
#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// With the batch's own statistics, in this many equal blocks that know nothing of each other.
    Train {
        /// Blocks; 1 for ordinary batch norm.
        groups: i64,
    },
    /// With the statistics of the batches of all processes, each of which has as many images.
    Together(&'a dyn World),
    /// With the running statistics.
    Evaluate,
}

/// A convolution without bias.
#[derive(Debug)]
pub(crate) struct Convolution {
    weight: Tensor,
    stride: i64,
    padding: i64,
}

impl Convolution {
    /// Kaiming normal (fan out, ReLU), as torchvision's ResNets; the weight is stored channels-last.
    pub(crate) fn new(
        mut scope: Scope<'_>,
        [inputs, outputs]: [i64; 2],
        kernel: i64,
        stride: i64,
        padding: i64,
    ) -> Result<Self, TchError> {
        let deviation = (2.0 / (outputs * kernel * kernel) as f64).sqrt();
        let weight = Tensor::f_randn([outputs, inputs, kernel, kernel], tch::kind::FLOAT_CPU)?
            .f_mul_scalar(deviation)?
            .f_permute([0, 2, 3, 1])?
            .f_contiguous()?
            .f_permute([0, 3, 1, 2])?;
        Ok(Self { weight: scope.parameter("weight", &weight)?, stride, padding })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        if self.skips_pixels() && x.device() == Device::Cpu {
            // In the backward pass of such a convolution with few channels oneDNN, as libtorch 2.11 has
            // it, writes beyond its memory if the threads do not share the batch evenly. Without the
            // pixels that it skips it is one of stride 1, which takes no longer.
            let kept = x.f_avg_pool2d([1, 1], stride, [0, 0], false, true, None)?;
            return kept.f_conv2d(&self.weight, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1);
        }
        x.f_conv2d(&self.weight, None::<&Tensor>, stride, padding, [1, 1], 1)
    }

    /// Whether some pixels have no part in the result.
    fn skips_pixels(&self) -> bool {
        self.stride > 1 && self.padding == 0 && self.weight.size()[2..] == [1, 1]
    }
}

/// Batch norm over `[batch, channels]` or `[batch, channels, height, width]`; momentum 0.1 and
/// epsilon 1e-5 as in torch.
#[derive(Debug)]
pub struct BatchNorm {
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    running_mean: Tensor,
    running_variance: Tensor,
}

/// What a batch norm makes of a tensor that nobody else reads.
pub(crate) const ALONE: Finish<'_> = Finish { shortcut: None, relu: false, overwrite: true };

const MOMENTUM: f64 = 0.1;
const EPSILON: f64 = 1e-5;

impl BatchNorm {
    /// Scale 1 (or `scale`) and shift 0 where the placement has them.
    pub fn new(
        mut scope: Scope<'_>,
        channels: i64,
        placement: Placement,
        scale: f64,
    ) -> Result<Self, TchError> {
        let full = |value| Tensor::f_full([channels], value, tch::kind::FLOAT_CPU);
        let scaled = matches!(placement, Placement::Affine | Placement::Scale);
        let shifted = placement == Placement::Affine;
        Ok(Self {
            weight: scaled.then(|| scope.parameter("weight", &full(scale)?)).transpose()?,
            bias: shifted.then(|| scope.parameter("bias", &full(0.0)?)).transpose()?,
            running_mean: scope.buffer("running_mean", &full(0.0)?)?,
            running_variance: scope.buffer("running_var", &full(1.0)?)?,
        })
    }

    /// Normalises; in training the running statistics move towards the batch's, towards the mean of
    /// the groups' if there are several.
    pub fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<Tensor, TchError> {
        self.forward_and(x, mode, Finish::default())
    }

    /// The same, and what follows it.
    pub(crate) fn forward_and(
        &self,
        x: &Tensor,
        mode: Mode<'_>,
        finish: Finish<'_>,
    ) -> Result<Tensor, TchError> {
        if matches!(mode, Mode::Evaluate) || !takes(x) {
            let mut y = self.forward_in_passes(x, mode)?;
            if let Some(shortcut) = finish.shortcut {
                y = y.f_add_(shortcut)?;
            }
            return if finish.relu { y.f_relu_() } else { Ok(y) };
        }
        let (groups, world) = match mode {
            Mode::Train { groups } => (groups, None),
            Mode::Together(world) => (1, Some(world)),
            Mode::Evaluate => (1, None),
        };
        let statistics = Statistics {
            weight: self.weight.as_ref(),
            bias: self.bias.as_ref(),
            running_mean: &self.running_mean,
            running_variance: &self.running_variance,
        };
        let processes = world.map_or(1, World::size);
        batch_norm(x, groups, statistics, finish, processes, |moments| match world {
            Some(world) => world.differentiable_sum(&moments)?.f_div_scalar(processes as f64),
            None => Ok(moments),
        })
    }

    /// By libtorch's own operations, for what the kernel does not take: other devices and kinds.
    fn forward_in_passes(&self, x: &Tensor, mode: Mode<'_>) -> Result<Tensor, TchError> {
        match mode {
            Mode::Evaluate => self.normalise(x, &self.running_mean, &self.running_variance, false),
            Mode::Train { groups: 1 } => {
                self.normalise(x, &self.running_mean, &self.running_variance, true)
            }
            // Sums over a batch need more than 16 bits.
            Mode::Together(world) if x.kind() == Kind::BFloat16 => self
                .normalise_together(&x.f_to_kind(Kind::Float)?, world)?
                .f_to_kind(Kind::BFloat16),
            Mode::Together(world) => self.normalise_together(x, world),
            Mode::Train { groups } => {
                let means = self.running_mean.f_repeat([groups, 1])?;
                let variances = self.running_variance.f_repeat([groups, 1])?;
                let rows = x.size()[0] / groups;
                let mut blocks = Vec::with_capacity(groups as usize);
                for group in 0..groups {
                    let block = x.f_narrow(0, group * rows, rows)?;
                    blocks.push(self.normalise(
                        &block,
                        &means.get(group),
                        &variances.get(group),
                        true,
                    )?);
                }
                let average = |of: &Tensor| of.f_mean_dim([0].as_slice(), false, None::<Kind>);
                self.running_mean.shallow_clone().f_copy_(&average(&means)?)?;
                self.running_variance.shallow_clone().f_copy_(&average(&variances)?)?;
                Tensor::f_cat(&blocks, 0)
            }
        }
    }

    /// The processes exchange each channel's mean and its mean square around a number that all of
    /// them have, the running mean: around 0 the variance would be lost in the digits of the mean.
    fn normalise_together(&self, x: &Tensor, world: &dyn World) -> Result<Tensor, TchError> {
        let size = x.size();
        let all_but_channels: Vec<i64> = (0..size.len() as i64).filter(|&axis| axis != 1).collect();
        let (variance, mean) = x.f_var_mean_correction(&all_but_channels[..], 0, false)?;
        let origin = self.running_mean.copy();
        let square = mean.f_sub(&origin)?.f_square()?.f_add(&variance)?;
        let moments = world
            .differentiable_sum(&Tensor::f_stack(&[mean, square], 0)?)?
            .f_div_scalar(world.size() as f64)?;
        let mean = moments.f_select(0, 0)?;
        let variance = moments.f_select(0, 1)?.f_sub(&mean.f_sub(&origin)?.f_square()?)?;

        let count = (x.numel() / size[1] as usize * world.size()) as f64;
        let unbiased = variance.f_detach()?.f_mul_scalar(count / (count - 1.0).max(1.0))?;
        tch::no_grad(|| {
            let _ = self.running_mean.shallow_clone().f_lerp_(&mean.f_detach()?, MOMENTUM)?;
            let _ = self.running_variance.shallow_clone().f_lerp_(&unbiased, MOMENTUM)?;
            Ok::<_, TchError>(())
        })?;

        let scale = variance.f_add_scalar(EPSILON)?.f_rsqrt()?;
        let scale = match &self.weight {
            Some(weight) => scale.f_mul(weight)?,
            None => scale,
        };
        let shift = mean.f_mul(&scale)?.f_neg()?;
        let shift = match &self.bias {
            Some(bias) => shift.f_add(bias)?,
            None => shift,
        };
        let mut shape = vec![1; size.len()];
        shape[1] = size[1];
        shift.f_view(&shape[..])?.f_addcmul(x, &scale.f_view(&shape[..])?)
    }

    fn normalise(
        &self,
        x: &Tensor,
        running_mean: &Tensor,
        running_variance: &Tensor,
        train: bool,
    ) -> Result<Tensor, TchError> {
        x.f_batch_norm(
            self.weight.as_ref(),
            self.bias.as_ref(),
            Some(running_mean),
            Some(running_variance),
            train,
            MOMENTUM,
            EPSILON,
            true,
        )
    }
}

/// Reorders a batch so that the strided groups of split batch norm (image `i` belongs to group
/// `i mod groups`) become contiguous blocks, the form in which [`Mode::Train`] takes them.
pub fn to_blocks(x: &Tensor, groups: i64) -> Result<Tensor, TchError> {
    x.f_index_select(0, &block_order(x, groups)?)
}

/// Undoes [`to_blocks`].
pub fn from_blocks(x: &Tensor, groups: i64) -> Result<Tensor, TchError> {
    x.f_index_select(0, &block_order(x, groups)?.f_argsort(0, false)?)
}

fn block_order(x: &Tensor, groups: i64) -> Result<Tensor, TchError> {
    let indices = Tensor::f_arange(x.size()[0], (Kind::Int64, x.device()))?;
    indices.f_view([-1, groups])?.f_t_()?.f_reshape([-1])
}

/// Fully connected layers with batch norms and ReLUs where the recipe puts them.
#[derive(Debug)]
pub struct Mlp {
    layers: Vec<(Tensor, Option<Tensor>, Option<BatchNorm>, bool)>,
    outputs: i64,
}

impl Mlp {
    /// Weights and biases uniform within 1 / sqrt(inputs), as `torch.nn.Linear`. Names are
    /// `0.weight`, `0.bias`, `0.batch_norm.weight` and so on.
    pub fn new(mut scope: Scope<'_>, inputs: i64, layers: &[Layer]) -> Result<Self, TchError> {
        let mut width = inputs;
        let mut built = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            let mut scope = scope.enter(index);
            let (outputs, bound) = (layer.width.get() as i64, 1.0 / (width as f64).sqrt());
            let uniform = |shape: &[i64]| {
                Tensor::f_rand(shape, tch::kind::FLOAT_CPU)?
                    .f_mul_scalar(2.0 * bound)?
                    .f_sub_scalar(bound)
            };
            let weight = scope.parameter("weight", &uniform(&[outputs, width])?)?;
            let bias = if layer.bias {
                Some(scope.parameter("bias", &uniform(&[outputs])?)?)
            } else {
                None
            };
            let batch_norm = match layer.batch_norm {
                Placement::None => None,
                placement => {
                    Some(BatchNorm::new(scope.enter("batch_norm"), outputs, placement, 1.0)?)
                }
            };
            built.push((weight, bias, batch_norm, layer.relu));
            width = outputs;
        }
        Ok(Self { layers: built, outputs: width })
    }

    /// Width of the last layer.
    pub fn outputs(&self) -> i64 {
        self.outputs
    }

    /// `[batch, inputs]` to `[batch, outputs]`.
    pub fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<Tensor, TchError> {
        let mut x = x.shallow_clone();
        for (weight, bias, batch_norm, relu) in &self.layers {
            x = x.f_linear(weight, bias.as_ref())?;
            x = match batch_norm {
                Some(norm) => norm.forward_and(&x, mode, Finish { relu: *relu, ..ALONE })?,
                None if *relu => x.f_relu_()?,
                None => x,
            };
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::Parameters;

    fn batch_norm(channels: i64) -> BatchNorm {
        let mut parameters = Parameters::default();
        let root = parameters.root(Device::Cpu, Kind::Double);
        BatchNorm::new(root, channels, Placement::Affine, 1.0).unwrap()
    }

    fn close(got: &Tensor, expected: &[f64]) {
        let got = Vec::<f64>::try_from(got.detach().reshape([-1])).unwrap();
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-9, "{got} is not {expected}");
        }
    }

    #[test]
    fn a_convolution_that_skips_pixels_is_libtorchs() {
        tch::manual_seed(4);
        for (side, stride) in [(8, 2), (7, 2), (7, 3), (1, 2)] {
            let mut parameters = Parameters::default();
            let root = parameters.root(Device::Cpu, Kind::Double);
            let convolution = Convolution::new(root, [3, 5], 1, stride, 0).unwrap();
            let leaf = || {
                let x = Tensor::randn([2, 3, side, side], tch::kind::DOUBLE_CPU);
                x.set_requires_grad(true)
            };
            let x = leaf();
            let weight = convolution.weight.detach().copy().set_requires_grad(true);
            let same_x = x.detach().copy().set_requires_grad(true);
            let expected = same_x.conv2d(&weight, None::<&Tensor>, [stride; 2], [0, 0], [1, 1], 1);
            let got = convolution.forward(&x).unwrap();
            assert!(got.allclose(&expected, 1e-12, 1e-12, false));
            for y in [&expected, &got] {
                (y * y).sum(Kind::Double).backward();
            }
            for (got, expected) in [(&x, &same_x), (&convolution.weight, &weight)] {
                assert!(got.grad().allclose(&expected.grad(), 1e-12, 1e-12, false));
            }
        }
    }

    /// It corrupted memory when oneDNN skipped the pixels itself, and crashed sooner or later.
    #[test]
    fn few_channels_survive_threads_that_do_not_share_the_batch_evenly() {
        let mut parameters = Parameters::default();
        let root = parameters.root(Device::Cpu, Kind::Float);
        let convolution = Convolution::new(root, [8, 16], 1, 2, 0).unwrap();
        let x = Tensor::randn([15, 32, 32, 8], tch::kind::FLOAT_CPU).permute([0, 3, 1, 2]);
        let x = x.detach().set_requires_grad(true);
        let before = tch::get_num_threads();
        tch::set_num_threads(2);
        for _ in 0..50 {
            convolution.forward(&x).unwrap().sum(Kind::Float).backward();
        }
        tch::set_num_threads(before);
        assert!(x.grad().isfinite().all().double_value(&[]) == 1.0);
    }

    /// Expected values computed independently; groups are strided, not contiguous.
    #[test]
    fn split_batch_norm_has_strided_groups_and_averages_running_statistics() {
        let x = Tensor::from_slice2(&[
            [1.0, -2.0],
            [3.0, 0.5],
            [5.0, 4.0],
            [2.0, 1.0],
            [0.0, 3.0],
            [4.0, -1.0],
        ]);
        let norm = batch_norm(2);
        let blocks = norm.forward(&to_blocks(&x, 2).unwrap(), Mode::Train { groups: 2 }).unwrap();
        close(
            &from_blocks(&blocks, 2).unwrap(),
            &[
                -0.4629095539120194,
                -1.3970003830505726,
                0.0,
                0.3922295548503879,
                1.3887286617360581,
                0.8890002437594552,
                -1.2247356859083902,
                0.9805738871259697,
                -0.9258191078240388,
                0.5080001392911173,
                1.2247356859083902,
                -1.3728034419763575,
            ],
        );
        close(&norm.running_mean, &[0.25, 0.09166666666666667]);
        close(&norm.running_variance, &[1.3, 1.4708333333333334]);
    }

    #[test]
    fn groups_know_nothing_of_each_other_in_images_too() {
        tch::manual_seed(1);
        let x = Tensor::randn([8, 3, 4, 4], tch::kind::DOUBLE_CPU);
        let split = batch_norm(3).forward(&x, Mode::Train { groups: 4 }).unwrap();
        for group in 0..4 {
            let alone = x.narrow(0, 2 * group, 2);
            let alone = batch_norm(3).forward(&alone, Mode::Train { groups: 1 }).unwrap();
            assert!(alone.allclose(&split.narrow(0, 2 * group, 2), 1e-12, 1e-12, false));
        }
        let whole = batch_norm(3).forward(&x, Mode::Train { groups: 1 }).unwrap();
        assert!(!whole.allclose(&split, 1e-2, 1e-2, false));
    }

    /// The form for other devices, held to the kernel's: values, running statistics, gradients.
    #[test]
    fn the_form_in_passes_is_the_kernels() {
        let alone = nearkin_dist::SingleProcess;
        for mode in [Mode::Train { groups: 1 }, Mode::Train { groups: 4 }, Mode::Together(&alone)] {
            let outcome = |in_passes: bool| {
                tch::manual_seed(7);
                let x = Tensor::randn([8, 3, 4, 4], tch::kind::DOUBLE_CPU).set_requires_grad(true);
                let norm = batch_norm(3);
                let y = if in_passes {
                    norm.forward_in_passes(&x, mode).unwrap()
                } else {
                    norm.forward(&x, mode).unwrap()
                };
                (&y * y.cos().detach()).sum(Kind::Double).backward();
                let leaves = [Some(&x), norm.weight.as_ref(), norm.bias.as_ref()];
                let gradients = leaves.into_iter().flatten().map(Tensor::grad);
                let statistics = [y.detach(), norm.running_mean, norm.running_variance];
                statistics.into_iter().chain(gradients).collect::<Vec<Tensor>>()
            };
            let (expected, got) = (outcome(false), outcome(true));
            assert_eq!((expected.len(), got.len()), (6, 6));
            for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert!(got.allclose(expected, 1e-10, 1e-10, false), "tensor {index}");
            }
        }
    }

    #[test]
    fn blocks_are_undone() {
        let x = Tensor::arange(12, (Kind::Int64, Device::Cpu));
        let blocks = to_blocks(&x, 3).unwrap();
        assert_eq!(Vec::<i64>::try_from(&blocks).unwrap(), [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
        assert_eq!(from_blocks(&blocks, 3).unwrap(), x);
    }

    #[test]
    fn layers_have_what_the_recipe_says() {
        let layer = |width: u64, bias, batch_norm, relu| Layer {
            width: std::num::NonZeroU64::new(width).unwrap(),
            bias,
            batch_norm,
            relu,
        };
        let layers = [
            layer(5, false, Placement::Affine, true),
            layer(4, false, Placement::Scale, true),
            layer(3, true, Placement::Plain, false),
            layer(2, true, Placement::None, false),
        ];
        let mut parameters = Parameters::default();
        let mlp = Mlp::new(parameters.root(Device::Cpu, Kind::Float), 6, &layers).unwrap();
        let names: Vec<&str> = parameters.trainable().map(|entry| entry.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "0.weight",
                "0.batch_norm.weight",
                "0.batch_norm.bias",
                "1.weight",
                "1.batch_norm.weight",
                "2.weight",
                "2.bias",
                "3.weight",
                "3.bias",
            ]
        );
        let out =
            mlp.forward(&Tensor::randn([7, 6], tch::kind::FLOAT_CPU), Mode::Train { groups: 1 });
        assert_eq!((out.unwrap().size(), mlp.outputs()), (vec![7, 2], 2));
    }
}
