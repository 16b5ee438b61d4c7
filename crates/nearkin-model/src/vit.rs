//! Vision transformers (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929) with timm's parameter names
//! and sizes, and the form in which MoCo v3 trains them (Chen, Xie, He, ICCV 2021, arXiv 2104.02057):
//! fixed position embeddings and a patch projection that stays as it was drawn.

use nearkin_recipe::{Initialization, PositionEmbedding, VisionTransformer as Options};
use tch::{Kind, TchError, Tensor};

use crate::Scope;

const EPSILON: f64 = 1e-6;

/// A vision transformer without its classifier; a feature is the class token behind the last norm.
#[derive(Debug)]
pub struct VisionTransformer {
    class_token: Tensor,
    positions: Tensor,
    projection: Linear,
    patch: i64,
    blocks: Vec<Block>,
    norm: LayerNorm,
    width: i64,
}

impl VisionTransformer {
    /// Builds the backbone with random weights from torch's generator, in the order of timm's
    /// parameters.
    pub fn new(mut scope: Scope<'_>, options: &Options) -> Result<Self, TchError> {
        let (width, patch) = (options.width.get() as i64, options.patch_size.get() as i64);
        let (grid, heads) = (options.grid() as i64, options.heads.get() as i64);
        let class_token = scope.parameter("cls_token", &normal(&[1, 1, width], 1e-6)?)?;
        let positions = match options.position_embedding {
            PositionEmbedding::Learned => {
                scope.parameter("pos_embed", &normal(&[1, 1 + grid * grid, width], 0.02)?)?
            }
            PositionEmbedding::SineCosine => {
                scope.buffer("pos_embed", &sine_cosine(grid, width)?)?
            }
        };
        let projection =
            Linear::of_patches(scope.enter("patch_embed").enter("proj"), [patch, width], options)?;
        let mut all = scope.enter("blocks");
        let blocks = (0..options.depth.get())
            .map(|index| Block::new(all.enter(index), width, heads, options.initialization))
            .collect::<Result<_, TchError>>()?;
        let norm = LayerNorm::new(scope.enter("norm"), width)?;
        Ok(Self { class_token, positions, projection, patch, blocks, norm, width })
    }

    /// Length of a feature vector.
    pub fn features(&self) -> i64 {
        self.width
    }

    /// Images `[batch, 3, height, width]`, each side a multiple of the patch, to features
    /// `[batch, features]`.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor, TchError> {
        let Linear { weight, bias } = &self.projection;
        let stride = [self.patch; 2];
        let patches = images.f_conv2d(weight, Some(bias), stride, [0, 0], [1, 1], 1)?;
        let (batch, grid) = (patches.size()[0], [patches.size()[2], patches.size()[3]]);
        let patches = patches.f_flatten(2, 3)?.f_transpose(1, 2)?;
        let first = self.class_token.f_expand([batch, -1, -1], false)?;
        let positions = resample_positions(&self.positions, grid)?;
        let mut x = Tensor::f_cat(&[first, patches], 1)?.f_add(&positions)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        self.norm.forward(&x.f_select(1, 0)?)
    }
}

/// Attention and a perceptron, each behind a norm and beside a shortcut.
#[derive(Debug)]
struct Block {
    norms: [LayerNorm; 2],
    queries_keys_values: Linear,
    projection: Linear,
    perceptron: [Linear; 2],
    heads: i64,
}

impl Block {
    fn new(
        mut scope: Scope<'_>,
        width: i64,
        heads: i64,
        drawn: Initialization,
    ) -> Result<Self, TchError> {
        let first = LayerNorm::new(scope.enter("norm1"), width)?;
        let mut attention = scope.enter("attn");
        let queries_keys_values = Linear::new(attention.enter("qkv"), width, [width; 3], drawn)?;
        let projection = Linear::new(attention.enter("proj"), width, [width], drawn)?;
        let second = LayerNorm::new(scope.enter("norm2"), width)?;
        let mut perceptron = scope.enter("mlp");
        let perceptron = [
            Linear::new(perceptron.enter("fc1"), width, [4 * width], drawn)?,
            Linear::new(perceptron.enter("fc2"), 4 * width, [width], drawn)?,
        ];
        let norms = [first, second];
        Ok(Self { norms, queries_keys_values, projection, perceptron, heads })
    }

    /// Tokens `[batch, tokens, width]` to tokens.
    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let x = x.f_add(&self.attend(&self.norms[0].forward(x)?)?)?;
        let [widen, narrow] = &self.perceptron;
        let hidden = widen.forward(&self.norms[1].forward(&x)?)?.f_gelu("none")?;
        x.f_add(&narrow.forward(&hidden)?)
    }

    fn attend(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (batch, tokens) = (x.size()[0], x.size()[1]);
        let all = self.queries_keys_values.forward(x)?;
        // [3, batch, heads, tokens, width / heads]
        let all = all.f_view([batch, tokens, 3, self.heads, -1])?.f_permute([2, 0, 3, 1, 4])?;
        let [q, k, v] = [all.f_select(0, 0)?, all.f_select(0, 1)?, all.f_select(0, 2)?];
        let seen = Tensor::f_scaled_dot_product_attention(
            &q,
            &k,
            &v,
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        )?;
        self.projection.forward(&seen.f_transpose(1, 2)?.f_reshape([batch, tokens, -1])?)
    }
}

/// A linear map with bias.
#[derive(Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// One map to outputs that lie side by side; each part is drawn as a map of its own.
    fn new<const PARTS: usize>(
        mut scope: Scope<'_>,
        inputs: i64,
        outputs: [i64; PARTS],
        drawn: Initialization,
    ) -> Result<Self, TchError> {
        let parts = outputs
            .iter()
            .map(|&outputs| match drawn {
                Initialization::Timm => normal(&[outputs, inputs], 0.02),
                Initialization::MocoV3 => xavier(&[outputs, inputs], inputs, outputs),
            })
            .collect::<Result<Vec<_>, TchError>>()?;
        Ok(Self {
            weight: scope.parameter("weight", &Tensor::f_cat(&parts, 0)?)?,
            bias: scope.parameter("bias", &zeros(outputs.iter().sum())?)?,
        })
    }

    /// The map of a patch of RGB pixels to a token, as a convolution.
    fn of_patches(
        mut scope: Scope<'_>,
        [patch, width]: [i64; 2],
        options: &Options,
    ) -> Result<Self, TchError> {
        let (shape, inputs) = ([width, 3, patch, patch], 3 * patch * patch);
        let (weight, bias) = match options.initialization {
            Initialization::Timm => {
                let bound = 1.0 / (inputs as f64).sqrt();
                (uniform(&shape, bound)?, uniform(&[width], bound)?)
            }
            Initialization::MocoV3 => (xavier(&shape, inputs, width)?, zeros(width)?),
        };
        Ok(if options.frozen_patch_projection {
            Self { weight: scope.buffer("weight", &weight)?, bias: scope.buffer("bias", &bias)? }
        } else {
            Self {
                weight: scope.parameter("weight", &weight)?,
                bias: scope.parameter("bias", &bias)?,
            }
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_linear(&self.weight, Some(&self.bias))
    }
}

#[derive(Debug)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    fn new(mut scope: Scope<'_>, width: i64) -> Result<Self, TchError> {
        Ok(Self {
            weight: scope.parameter("weight", &Tensor::f_ones([width], tch::kind::FLOAT_CPU)?)?,
            bias: scope.parameter("bias", &zeros(width)?)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let width = self.weight.size();
        x.f_layer_norm(width, Some(&self.weight), Some(&self.bias), EPSILON, true)
    }
}

/// timm cuts its normal numbers off at 2, which is 100 deviations away: not at all.
fn normal(shape: &[i64], deviation: f64) -> Result<Tensor, TchError> {
    Tensor::f_randn(shape, tch::kind::FLOAT_CPU)?.f_mul_scalar(deviation)
}

fn uniform(shape: &[i64], bound: f64) -> Result<Tensor, TchError> {
    Tensor::f_rand(shape, tch::kind::FLOAT_CPU)?.f_mul_scalar(2.0 * bound)?.f_sub_scalar(bound)
}

fn xavier(shape: &[i64], inputs: i64, outputs: i64) -> Result<Tensor, TchError> {
    uniform(shape, (6.0 / (inputs + outputs) as f64).sqrt())
}

fn zeros(length: i64) -> Result<Tensor, TchError> {
    Tensor::f_zeros([length], tch::kind::FLOAT_CPU)
}

/// Position embeddings `[1, 1 + grid^2, width]` of MoCo v3: 0 for the class token; for a patch sines
/// and cosines of its row, then of its column, at width / 4 frequencies from 1 down to 1 / 10000.
fn sine_cosine(grid: i64, width: i64) -> Result<Tensor, TchError> {
    let kind = tch::kind::FLOAT_CPU;
    let frequencies = width / 4;
    let exponents = Tensor::f_arange(frequencies, kind)?.f_div_scalar(-(frequencies as f64))?;
    let omega = Tensor::f_pow_scalar(10000.0, &exponents)?;
    let place = Tensor::f_arange(grid, kind)?;
    let angles = |place: &Tensor| place.f_reshape([-1, 1])?.f_mul(&omega);
    let row = angles(&place.f_repeat_interleave_self_int(grid, 0, None)?)?;
    let column = angles(&place.f_repeat([grid])?)?;
    let parts = [row.f_sin()?, row.f_cos()?, column.f_sin()?, column.f_cos()?];
    let patches = Tensor::f_cat(&parts, 1)?;
    let class = Tensor::f_zeros([1, width], kind)?;
    Tensor::f_cat(&[class, patches], 0)?.f_unsqueeze(0)
}

/// Position embeddings `[1, 1 + n^2, width]` for a grid of other sides, as timm does it: bicubic with
/// antialiasing, in single precision; the class token's stays.
pub(crate) fn resample_positions(positions: &Tensor, grid: [i64; 2]) -> Result<Tensor, TchError> {
    let (patches, width) = (positions.size()[1] - 1, positions.size()[2]);
    let side = patches.isqrt();
    if grid == [side, side] {
        return Ok(positions.shallow_clone());
    }
    let class = positions.f_narrow(1, 0, 1)?;
    let resampled = positions
        .f_narrow(1, 1, patches)?
        .f_to_kind(Kind::Float)?
        .f_reshape([1, side, side, width])?
        .f_permute([0, 3, 1, 2])?
        .f_internal_upsample_bicubic2d_aa(grid, false, None, None)?
        .f_permute([0, 2, 3, 1])?
        .f_reshape([1, -1, width])?
        .f_to_kind(positions.kind())?;
    Tensor::f_cat(&[class, resampled], 1)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::{Encoder, MomentumEncoder};

    fn model(keys: &str) -> nearkin_recipe::Model {
        toml::from_str(&format!(
            "backbone = \"vit-tiny\"
             projector = [{{ width = 8, batch_norm = \"affine\", relu = true }}, {{ width = 6 }}]
             vision_transformer = {{ image_size = 12, patch_size = 4, depth = 2, width = 8, \
             heads = 2 {keys} }}"
        ))
        .unwrap()
    }

    fn encoder(keys: &str) -> Encoder {
        Encoder::new(&model(keys), 3, Device::Cpu, Kind::Double).unwrap()
    }

    fn named(encoder: &Encoder, name: &str) -> Tensor {
        let entry = encoder.parameters().iter().find(|entry| entry.name == name).unwrap();
        entry.tensor.shallow_clone()
    }

    #[test]
    fn what_is_frozen_has_no_gradient_and_everything_else_has_one() {
        for (keys, frozen) in [
            ("", vec![]),
            (
                ", position_embedding = \"sine_cosine\", frozen_patch_projection = true, \
                 initialization = \"moco_v3\"",
                vec![
                    "backbone.pos_embed",
                    "backbone.patch_embed.proj.weight",
                    "backbone.patch_embed.proj.bias",
                ],
            ),
        ] {
            let encoder = encoder(keys);
            assert_eq!((encoder.features(), encoder.dimensions()), (8, 6));
            let images = Tensor::randn([4, 3, 12, 12], tch::kind::DOUBLE_CPU);
            let loss = encoder.embed(&images).unwrap().square().sum(Kind::Double);
            loss.backward();
            for entry in encoder.parameters() {
                let learns = entry.tensor.grad().defined();
                let expected =
                    !frozen.contains(&entry.name.as_str()) && !entry.name.contains("running");
                assert_eq!(learns, expected, "{}", entry.name);
                assert_eq!(entry.trainable, expected, "{}", entry.name);
            }
        }
    }

    #[test]
    fn a_momentum_encoder_has_the_frozen_tensors_too_and_does_not_average_them() {
        let keys = ", position_embedding = \"sine_cosine\", frozen_patch_projection = true";
        let online = encoder(keys);
        let options = toml::from_str("momentum = 0.5\nbatch_norm_splits = 2\nshuffle = true");
        let (device, kind) = (Device::Cpu, Kind::Double);
        let teacher =
            MomentumEncoder::copy_of(&online, &model(keys), options.unwrap(), device, kind);
        let mut teacher = teacher.unwrap();
        let before = named(&online, "backbone.pos_embed").copy();
        teacher.follow(&online, 0.5).unwrap();
        let names: Vec<_> = teacher.parameters().iter().map(|entry| &entry.name).collect();
        assert!(names.iter().any(|name| *name == "backbone.patch_embed.proj.weight"));
        assert_eq!(named(&online, "backbone.pos_embed"), before);
        let images = Tensor::randn([4, 3, 12, 12], tch::kind::DOUBLE_CPU);
        let shuffle = teacher.shuffle(&[2, 0, 3, 1]).unwrap();
        let keys = teacher.embed(&images, shuffle.as_ref()).unwrap();
        assert_eq!(keys.size(), [4, 6]);
    }

    /// Values worked out by hand: width 8 has the frequencies 1 and 1/100.
    #[test]
    fn fixed_positions_are_sines_and_cosines_of_row_and_column() {
        let positions = sine_cosine(3, 8).unwrap();
        assert_eq!(positions.size(), [1, 10, 8]);
        let token = |index: i64| Vec::<f32>::try_from(positions.get(0).get(index)).unwrap();
        assert_eq!(token(0), [0.0; 8]);
        assert_eq!(token(1), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        // Row 2, column 1.
        let expected = [2.0_f32, 0.02].map(f32::sin).into_iter().chain([2.0, 0.02].map(f32::cos));
        let expected = expected.chain([1.0_f32, 0.01].map(f32::sin));
        let expected = expected.chain([1.0_f32, 0.01].map(f32::cos));
        for (got, expected) in token(8).into_iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} is not {expected}");
        }
    }

    #[test]
    fn draws_have_the_spread_they_should() {
        let deviation = |tensor: &Tensor| f64::try_from(tensor.std(false)).unwrap();
        let wide = |keys: &str| {
            let text = format!(
                "backbone = \"vit-tiny\"\nprojector = [{{ width = 2 }}]
                 vision_transformer = {{ image_size = 64, depth = 1 {keys} }}"
            );
            let model = toml::from_str(&text).unwrap();
            Encoder::new(&model, 3, Device::Cpu, Kind::Float).unwrap()
        };
        let (timm, moco) = (wide(""), wide(", initialization = \"moco_v3\""));
        for (encoder, name, expected) in [
            (&timm, "backbone.blocks.0.attn.qkv.weight", 0.02),
            (&timm, "backbone.pos_embed", 0.02),
            (&timm, "backbone.patch_embed.proj.weight", (1.0_f64 / 768.0 / 3.0).sqrt()),
            (&moco, "backbone.blocks.0.attn.qkv.weight", (6.0_f64 / 384.0 / 3.0).sqrt()),
            (&moco, "backbone.blocks.0.mlp.fc1.weight", (6.0_f64 / 960.0 / 3.0).sqrt()),
            (&moco, "backbone.patch_embed.proj.weight", (6.0_f64 / 960.0 / 3.0).sqrt()),
        ] {
            let got = deviation(&named(encoder, name));
            assert!((got / expected - 1.0).abs() < 0.05, "{name}: {got} is not {expected}");
        }
    }

    #[test]
    fn images_of_another_size_are_taken_and_positions_keep_their_mean() {
        let encoder = encoder("");
        for side in [8, 12, 20] {
            let images = Tensor::randn([2, 3, side, side], tch::kind::DOUBLE_CPU);
            assert_eq!(encoder.extract(&images).unwrap().size(), [2, 8]);
        }
        let positions = Tensor::ones([1, 10, 4], tch::kind::DOUBLE_CPU);
        let larger = resample_positions(&positions, [5, 7]).unwrap();
        assert_eq!(larger.size(), [1, 36, 4]);
        assert!(larger.allclose(&larger.ones_like(), 1e-6, 1e-6, false));
    }
}
