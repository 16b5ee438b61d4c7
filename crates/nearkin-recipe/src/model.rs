//! `[model]`: which networks are trained. What a key means depends on the backbone, so the table as
//! it is written becomes one type per family, and no network has to ask for keys it may not have.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::Layer;

/// `[model]`: backbone, projector and predictor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "ModelTable", into = "ModelTable")]
pub struct Model {
    /// Which network, with the keys of its family.
    pub backbone: Backbone,
    /// Layers between backbone and embedding, online and momentum.
    pub projector: Vec<Layer>,
    /// Layers behind the projector, online only.
    pub predictor: Vec<Layer>,
}

/// A backbone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backbone {
    /// `resnet18`, `resnet34`, `resnet50`.
    ResNet(ResNet),
    /// `vit-tiny`, `vit-small`, `vit-base`.
    VisionTransformer(VisionTransformer),
}

impl Backbone {
    /// The name in the recipe.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ResNet(ResNet { layers: ResNetLayers::Eighteen, .. }) => "resnet18",
            Self::ResNet(ResNet { layers: ResNetLayers::ThirtyFour, .. }) => "resnet34",
            Self::ResNet(ResNet { layers: ResNetLayers::Fifty, .. }) => "resnet50",
            Self::VisionTransformer(options) => match options.size {
                TransformerSize::Tiny => "vit-tiny",
                TransformerSize::Small => "vit-small",
                TransformerSize::Base => "vit-base",
            },
        }
    }
}

/// A residual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResNet {
    /// Which of them.
    pub layers: ResNetLayers,
    /// How images enter it (`stem`).
    pub stem: Stem,
    /// Channels of the first stage; the others follow (`base_width`, 64 in the papers).
    pub base_width: NonZeroU64,
    /// Start with each residual block as the identity: gamma of its last batch norm is 0.
    pub zero_init_residual: bool,
}

/// A residual network by its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResNetLayers {
    /// Basic blocks 2-2-2-2.
    Eighteen,
    /// Basic blocks 3-4-6-3.
    ThirtyFour,
    /// Bottlenecks 3-4-6-3.
    Fifty,
}

/// How images enter a residual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 3x3 convolution of stride 1, no max-pool: for images of about 32 pixels.
    Cifar,
    /// 7x7 convolution of stride 2 and 3x3 max-pool of stride 2: for about 224 pixels.
    ImageNet,
}

/// A vision transformer; `[model.vision_transformer]` has its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisionTransformer {
    /// Which of them: the defaults of width and heads.
    pub size: TransformerSize,
    /// Side of the images in pixels, for which position embeddings are made (default 224). Images of
    /// other sizes are taken too, with embeddings in between.
    pub image_size: NonZeroU64,
    /// Side of a patch in pixels (default 16); it divides the image.
    pub patch_size: NonZeroU64,
    /// Blocks (default 12).
    pub depth: NonZeroU64,
    /// Length of a token and of a feature (default 192, 384 or 768).
    pub width: NonZeroU64,
    /// Heads of an attention (default 3, 6 or 12); they divide the width.
    pub heads: NonZeroU64,
    /// Where a patch is.
    pub position_embedding: PositionEmbedding,
    /// Keep the projection of patches as it was drawn (MoCo v3, against unstable training).
    pub frozen_patch_projection: bool,
    /// How weights are drawn.
    pub initialization: Initialization,
}

impl VisionTransformer {
    /// Patches along one side of an image.
    pub fn grid(&self) -> u64 {
        self.image_size.get() / self.patch_size.get()
    }
}

/// A vision transformer by its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransformerSize {
    /// Width 192, 3 heads.
    Tiny,
    /// Width 384, 6 heads (MoCo v3 has 12).
    Small,
    /// Width 768, 12 heads.
    Base,
}

/// What tells a vision transformer where a patch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionEmbedding {
    /// Learned with the rest (ViT, DeiT, DINO).
    #[default]
    Learned,
    /// Sines and cosines of row and column, fixed (MoCo v3).
    SineCosine,
}

/// How the weights of a vision transformer are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initialization {
    /// Normal with deviation 0.02.
    #[default]
    Timm,
    /// Uniform by inputs and outputs (Xavier), queries, keys and values each for itself.
    MocoV3,
}

/// `[model]` as it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelTable {
    backbone: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    stem: Option<Stem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_width: Option<NonZeroU64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zero_init_residual: Option<bool>,
    projector: Vec<Layer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    predictor: Vec<Layer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vision_transformer: Option<TransformerTable>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Name {
    #[serde(rename = "resnet18")]
    ResNet18,
    #[serde(rename = "resnet34")]
    ResNet34,
    #[serde(rename = "resnet50")]
    ResNet50,
    #[serde(rename = "vit-tiny")]
    VitTiny,
    #[serde(rename = "vit-small")]
    VitSmall,
    #[serde(rename = "vit-base")]
    VitBase,
}

/// `[model.vision_transformer]` as it is written.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TransformerTable {
    image_size: Option<NonZeroU64>,
    patch_size: Option<NonZeroU64>,
    depth: Option<NonZeroU64>,
    width: Option<NonZeroU64>,
    heads: Option<NonZeroU64>,
    position_embedding: PositionEmbedding,
    frozen_patch_projection: bool,
    initialization: Initialization,
}

const fn nonzero(number: u64) -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(number - 1)
}

impl ModelTable {
    fn backbone(&self) -> Result<Backbone, String> {
        Ok(match self.backbone {
            Name::ResNet18 => Backbone::ResNet(self.resnet(ResNetLayers::Eighteen)?),
            Name::ResNet34 => Backbone::ResNet(self.resnet(ResNetLayers::ThirtyFour)?),
            Name::ResNet50 => Backbone::ResNet(self.resnet(ResNetLayers::Fifty)?),
            Name::VitTiny => Backbone::VisionTransformer(self.transformer(TransformerSize::Tiny)?),
            Name::VitSmall => {
                Backbone::VisionTransformer(self.transformer(TransformerSize::Small)?)
            }
            Name::VitBase => Backbone::VisionTransformer(self.transformer(TransformerSize::Base)?),
        })
    }

    fn resnet(&self, layers: ResNetLayers) -> Result<ResNet, String> {
        if self.vision_transformer.is_some() {
            return Err(
                "`vision_transformer` is a table of vit-*, not of a ResNet: remove it".into()
            );
        }
        let stem = self.stem.ok_or("missing field `stem`: \"cifar\" or \"imagenet\"")?;
        Ok(ResNet {
            layers,
            stem,
            base_width: self.base_width.unwrap_or(nonzero(64)),
            zero_init_residual: self.zero_init_residual.unwrap_or_default(),
        })
    }

    fn transformer(&self, size: TransformerSize) -> Result<VisionTransformer, String> {
        for (key, given) in [
            ("stem", self.stem.is_some()),
            ("base_width", self.base_width.is_some()),
            ("zero_init_residual", self.zero_init_residual.is_some()),
        ] {
            if given {
                return Err(format!(
                    "`{key}` is a key of ResNets, not of a vision transformer: remove it"
                ));
            }
        }
        let table = self.vision_transformer.unwrap_or_default();
        let (width, heads) = match size {
            TransformerSize::Tiny => (192, 3),
            TransformerSize::Small => (384, 6),
            TransformerSize::Base => (768, 12),
        };
        let options = VisionTransformer {
            size,
            image_size: table.image_size.unwrap_or(nonzero(224)),
            patch_size: table.patch_size.unwrap_or(nonzero(16)),
            depth: table.depth.unwrap_or(nonzero(12)),
            width: table.width.unwrap_or(nonzero(width)),
            heads: table.heads.unwrap_or(nonzero(heads)),
            position_embedding: table.position_embedding,
            frozen_patch_projection: table.frozen_patch_projection,
            initialization: table.initialization,
        };
        let VisionTransformer { image_size, patch_size, width, heads, .. } = options;
        if !image_size.get().is_multiple_of(patch_size.get()) {
            return Err(format!(
                "vision_transformer.image_size = {image_size} does not divide into \
                 vision_transformer.patch_size = {patch_size}"
            ));
        }
        if !width.get().is_multiple_of(heads.get()) {
            return Err(format!(
                "vision_transformer.width = {width} does not divide into \
                 vision_transformer.heads = {heads}"
            ));
        }
        if options.position_embedding == PositionEmbedding::SineCosine
            && !width.get().is_multiple_of(4)
        {
            return Err(format!(
                "vision_transformer.width = {width}: position_embedding = \"sine_cosine\" needs a \
                 multiple of 4"
            ));
        }
        Ok(options)
    }
}

impl TryFrom<ModelTable> for Model {
    type Error = String;

    fn try_from(table: ModelTable) -> Result<Self, String> {
        let backbone = table.backbone()?;
        Ok(Self { backbone, projector: table.projector, predictor: table.predictor })
    }
}

impl From<Model> for ModelTable {
    fn from(model: Model) -> Self {
        let mut table = Self {
            backbone: Name::ResNet18,
            stem: None,
            base_width: None,
            zero_init_residual: None,
            projector: model.projector,
            predictor: model.predictor,
            vision_transformer: None,
        };
        match model.backbone {
            Backbone::ResNet(options) => {
                table.backbone = match options.layers {
                    ResNetLayers::Eighteen => Name::ResNet18,
                    ResNetLayers::ThirtyFour => Name::ResNet34,
                    ResNetLayers::Fifty => Name::ResNet50,
                };
                table.stem = Some(options.stem);
                table.base_width = Some(options.base_width);
                table.zero_init_residual = Some(options.zero_init_residual);
            }
            Backbone::VisionTransformer(options) => {
                table.backbone = match options.size {
                    TransformerSize::Tiny => Name::VitTiny,
                    TransformerSize::Small => Name::VitSmall,
                    TransformerSize::Base => Name::VitBase,
                };
                table.vision_transformer = Some(TransformerTable {
                    image_size: Some(options.image_size),
                    patch_size: Some(options.patch_size),
                    depth: Some(options.depth),
                    width: Some(options.width),
                    heads: Some(options.heads),
                    position_embedding: options.position_embedding,
                    frozen_patch_projection: options.frozen_patch_projection,
                    initialization: options.initialization,
                });
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::{parse, with};

    const RESNET: &str = "backbone = \"resnet18\"\nstem = \"cifar\"\nbase_width = 4";

    fn transformer(size: &str, keys: &str) -> Result<VisionTransformer, String> {
        let table = match keys {
            "" => String::new(),
            keys => format!("\nvision_transformer = {{ {keys} }}"),
        };
        let text = format!("backbone = \"{size}\"{table}\nprojector = [{{ width = 8 }}]");
        let model: Model = toml::from_str(&text).map_err(|error| error.message().to_owned())?;
        match model.backbone {
            Backbone::VisionTransformer(options) => {
                assert_eq!(model.backbone.name(), size);
                Ok(options)
            }
            Backbone::ResNet(_) => Err("a ResNet".to_owned()),
        }
    }

    #[test]
    fn sizes_have_the_figures_of_the_papers() {
        for (size, width, heads) in
            [("vit-tiny", 192, 3), ("vit-small", 384, 6), ("vit-base", 768, 12)]
        {
            let options = transformer(size, "").expect(size);
            let figures = [options.image_size, options.patch_size, options.depth, options.width];
            assert_eq!(figures.map(NonZeroU64::get), [224, 16, 12, width]);
            assert_eq!((options.heads.get(), options.grid()), (heads, 14));
        }
    }

    #[test]
    fn keys_that_do_not_fit_are_named() {
        for (keys, expected) in [
            ("patch_size = 15", "image_size = 224 does not divide into"),
            ("width = 190", "width = 190 does not divide into vision_transformer.heads = 3"),
            (
                "width = 6, position_embedding = \"sine_cosine\"",
                "width = 6: position_embedding = \"sine_cosine\" needs a multiple of 4",
            ),
            ("patch = 16", "unknown field `patch`"),
        ] {
            let message = transformer("vit-tiny", keys).expect_err(keys);
            assert!(message.contains(expected), "{message}");
        }
        for (model, expected) in [
            ("backbone = \"resnet18\"", "missing field `stem`"),
            ("backbone = \"vit-tiny\"\nstem = \"cifar\"", "`stem` is a key of ResNets"),
            ("backbone = \"vit-tiny\"\nbase_width = 4", "`base_width` is a key of ResNets"),
            (
                "backbone = \"resnet18\"\nstem = \"cifar\"\nvision_transformer = { depth = 2 }",
                "`vision_transformer` is a table of vit-*",
            ),
        ] {
            let message = with(RESNET, model).expect_err(model);
            assert!(message.starts_with("example.toml: "), "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn the_views_must_fit_the_patches() {
        let vit = |keys: &str| {
            with(RESNET, &format!("backbone = \"vit-tiny\"\nvision_transformer = {{ {keys} }}"))
        };
        vit("image_size = 16, patch_size = 4").expect("views have 16 pixels");
        for (keys, expected) in [
            ("patch_size = 16", "image_size = 224, but view `weak` has images of 16 pixels"),
            ("image_size = 32", "image_size = 32, but view `weak` has images of 16 pixels"),
        ] {
            let message = vit(keys).expect_err(keys);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_vision_transformer_is_stated_whole_and_read_again() {
        let given = "backbone = \"vit-small\"\nvision_transformer = { image_size = 16, patch_size = 4, \
                     depth = 2, heads = 12, position_embedding = \"sine_cosine\", \
                     frozen_patch_projection = true, initialization = \"moco_v3\" }";
        let text = with(RESNET, given).expect("a recipe").to_text();
        let expected = "[model.vision_transformer]\n\
            image_size = 16\n\
            patch_size = 4\n\
            depth = 2\n\
            width = 384\n\
            heads = 12\n\
            position_embedding = \"sine_cosine\"\n\
            frozen_patch_projection = true\n\
            initialization = \"moco_v3\"\n";
        assert!(text.contains(expected), "{text}");
        assert_eq!(parse(&text).expect("the resolved recipe is a recipe").to_text(), text);
    }
}
