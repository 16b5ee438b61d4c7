//! ResNets (He, Zhang, Ren, Sun, CVPR 2016, arXiv 1512.03385) with torchvision's parameter names,
//! the stem for small images that contrastive papers use on CIFAR, and any width.

use nearkin_recipe::{BatchNorm as Placement, ResNet as Options, ResNetLayers, Stem};
use nearkin_torch::Finish;
use tch::{Kind, TchError, Tensor};

use crate::Scope;
use crate::layers::{ALONE, BatchNorm, Convolution, Mode};

/// A ResNet without its classifier.
#[derive(Debug)]
pub struct ResNet {
    convolution: Convolution,
    batch_norm: BatchNorm,
    pool: bool,
    blocks: Vec<Block>,
    features: i64,
}

/// Convolutions with their batch norms; ReLU between them and behind the sum.
#[derive(Debug)]
struct Block {
    path: Vec<(Convolution, BatchNorm)>,
    shortcut: Option<(Convolution, BatchNorm)>,
}

impl ResNet {
    /// Builds the backbone with random weights from torch's generator.
    pub fn new(mut scope: Scope<'_>, options: &Options) -> Result<Self, TchError> {
        let width = options.base_width.get() as i64;
        let (kernel, stride, padding) = match options.stem {
            Stem::Cifar => (3, 1, 1),
            Stem::ImageNet => (7, 2, 3),
        };
        let convolution =
            Convolution::new(scope.enter("conv1"), [3, width], kernel, stride, padding)?;
        let batch_norm = BatchNorm::new(scope.enter("bn1"), width, Placement::Affine, 1.0)?;
        let (depths, bottleneck) = match options.layers {
            ResNetLayers::Eighteen => ([2, 2, 2, 2], false),
            ResNetLayers::ThirtyFour => ([3, 4, 6, 3], false),
            ResNetLayers::Fifty => ([3, 4, 6, 3], true),
        };
        let last_scale = if options.zero_init_residual { 0.0 } else { 1.0 };
        let mut blocks = Vec::new();
        let mut inputs = width;
        for (stage, depth) in depths.into_iter().enumerate() {
            let mut scope = scope.enter(format_args!("layer{}", stage + 1));
            let width = width << stage;
            for index in 0..depth {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let shape = Shape { inputs, width, stride, bottleneck };
                blocks.push(Block::new(scope.enter(index), shape, last_scale)?);
                inputs = shape.outputs();
            }
        }
        Ok(Self {
            convolution,
            batch_norm,
            pool: options.stem == Stem::ImageNet,
            blocks,
            features: inputs,
        })
    }

    /// Length of a feature vector.
    pub fn features(&self) -> i64 {
        self.features
    }

    /// Images `[batch, 3, height, width]` to pooled features `[batch, features]`.
    pub fn forward(&self, images: &Tensor, mode: Mode<'_>) -> Result<Tensor, TchError> {
        let x = self.convolution.forward(images)?;
        let mut x = self.batch_norm.forward_and(&x, mode, Finish { relu: true, ..ALONE })?;
        if self.pool {
            x = x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?;
        }
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        x.f_mean_dim([2, 3].as_slice(), false, None::<Kind>)
    }
}

#[derive(Clone, Copy)]
struct Shape {
    inputs: i64,
    width: i64,
    stride: i64,
    bottleneck: bool,
}

impl Shape {
    fn outputs(self) -> i64 {
        if self.bottleneck { 4 * self.width } else { self.width }
    }
}

impl Block {
    /// Strides sit on the 3x3 convolution (torchvision's form of the bottleneck).
    fn new(mut scope: Scope<'_>, shape: Shape, last_scale: f64) -> Result<Self, TchError> {
        let Shape { inputs, width, stride, bottleneck } = shape;
        let outputs = shape.outputs();
        let plan = if bottleneck {
            vec![(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        } else {
            vec![(inputs, width, 3, stride), (width, width, 3, 1)]
        };
        let mut path = Vec::with_capacity(plan.len());
        for (index, &(from, to, kernel, stride)) in plan.iter().enumerate() {
            let scale = if index + 1 == plan.len() { last_scale } else { 1.0 };
            let (convolution, norm) = (format!("conv{}", index + 1), format!("bn{}", index + 1));
            path.push((
                Convolution::new(scope.enter(convolution), [from, to], kernel, stride, kernel / 2)?,
                BatchNorm::new(scope.enter(norm), to, Placement::Affine, scale)?,
            ));
        }
        let shortcut = if stride != 1 || inputs != outputs {
            let mut scope = scope.enter("downsample");
            Some((
                Convolution::new(scope.enter(0), [inputs, outputs], 1, stride, 0)?,
                BatchNorm::new(scope.enter(1), outputs, Placement::Affine, 1.0)?,
            ))
        } else {
            None
        };
        Ok(Self { path, shortcut })
    }

    fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<Tensor, TchError> {
        let shortcut = match &self.shortcut {
            Some((convolution, norm)) => norm.forward_and(&convolution.forward(x)?, mode, ALONE)?,
            None => x.shallow_clone(),
        };
        let mut y = x.shallow_clone();
        for (index, (convolution, norm)) in self.path.iter().enumerate() {
            let last = index + 1 == self.path.len();
            let shortcut = last.then_some(&shortcut);
            let finish = Finish { shortcut, relu: true, overwrite: true };
            y = norm.forward_and(&convolution.forward(&y)?, mode, finish)?;
        }
        Ok(y)
    }
}
