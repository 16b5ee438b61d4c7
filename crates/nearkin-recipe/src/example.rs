//! A small recipe for the tests of this crate.

use crate::{Recipe, Source};

/// Has one of everything that can be wrong.
pub(crate) const TEXT: &str = r#"
seed = 3

[data]
dataset = "shapes"
train_images = 64
test_images = 20
size_pixels = 16

[method]
name = "sce"
temperature = 0.1

[model]
backbone = "resnet18"
stem = "cifar"
base_width = 4
projector = [
    { width = 8, batch_norm = "affine", relu = true },
    { width = 8, bias = true },
]

[momentum_encoder]
momentum = 0.9
batch_norm_splits = 2

[queue]
size = 32

[training]
epochs = 2
batch_size = 16

[optimizer]
name = "sgd"
learning_rate = 0.05
weight_decay = 5e-4

[evaluation]
neighbours = [{ k = 20, temperature = 0.07 }]

[[views]]
name = "weak"
transforms = [{ random_resized_crop = { size = 16 } }]

[[views]]
name = "strong"
transforms = [
    { random_resized_crop = { size = 16, scale = [0.2, 1.0] } },
    { horizontal_flip = { probability = 0.5 } },
]
"#;

pub(crate) fn parse(text: &str) -> Result<Recipe, String> {
    Source::parse("example.toml", text.to_owned())
        .and_then(|source| source.recipe())
        .map_err(|error| error.to_string())
}

/// The example with one passage replaced by another.
pub(crate) fn with(passage: &str, other: &str) -> Result<Recipe, String> {
    assert_eq!(TEXT.matches(passage).count(), 1, "{passage} is not a passage of the example");
    parse(&TEXT.replace(passage, other))
}

/// The example with overrides as on the command line.
pub(crate) fn set(overrides: &[&str]) -> Result<Recipe, String> {
    let recipe = || {
        let mut source = Source::parse("example.toml", TEXT.to_owned())?;
        for change in overrides {
            source.set(&change.parse()?)?;
        }
        source.recipe()
    };
    recipe().map_err(|error: crate::RecipeError| error.to_string())
}
