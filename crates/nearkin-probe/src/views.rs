//! The views of the protocols, derived from what the recipe says of image size and normalisation.

use nearkin_augment::{
    CenterCrop, HorizontalFlip, Interpolation, Normalize, RandomCrop, RandomResizedCrop, Resize,
    Transform, View, ViewError, ViewOptions,
};
use nearkin_recipe::Recipe;

/// What a protocol does to training images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Augmentation {
    /// A random square out of the image with borders of an eighth, and a flip: 4 pixels at 32.
    CropAndFlip,
    /// A random part of at least this share of the area, and a flip.
    ResizedCropAndFlip(f64),
}

/// What a protocol does to test images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TestView {
    /// The recipe's view of evaluation.
    Recipe,
    /// Resized to 8/7 of the side (256 for 224), then the central square.
    ResizeAndCrop,
}

impl Augmentation {
    pub(crate) fn view(self, recipe: &Recipe) -> Result<View, ViewError> {
        let size = recipe.evaluation_view()?.size_pixels();
        let flip = Transform::HorizontalFlip(HorizontalFlip { probability: 0.5 });
        let transforms = match self {
            // Images of another size are brought to it first.
            Self::CropAndFlip => vec![
                resize(size),
                Transform::RandomCrop(RandomCrop { size, padding: size / 8 }),
                flip,
            ],
            Self::ResizedCropAndFlip(smallest) => vec![
                Transform::RandomResizedCrop(RandomResizedCrop {
                    size,
                    scale: [smallest, 1.0],
                    ratio: [3.0 / 4.0, 4.0 / 3.0],
                    interpolation: Interpolation::default(),
                }),
                flip,
            ],
        };
        build("probe", transforms, recipe)
    }

    pub(crate) fn text(self) -> String {
        match self {
            Self::CropAndFlip => "random crop with borders of 1/8, flip".to_owned(),
            Self::ResizedCropAndFlip(smallest) => {
                format!("random resized crop of area {smallest} to 1, flip")
            }
        }
    }
}

impl TestView {
    pub(crate) fn view(self, recipe: &Recipe) -> Result<View, ViewError> {
        let view = recipe.evaluation_view()?;
        match self {
            Self::Recipe => Ok(view),
            Self::ResizeAndCrop => {
                let size = view.size_pixels();
                let crop = Transform::CenterCrop(CenterCrop { size });
                build("test", vec![resize(size * 8 / 7), crop], recipe)
            }
        }
    }

    pub(crate) fn text(self, view: &View) -> String {
        let size = view.size_pixels();
        match self {
            Self::Recipe => format!("the recipe's evaluation view of {size} pixels"),
            Self::ResizeAndCrop => format!("resized to {}, central {size} pixels", size * 8 / 7),
        }
    }
}

fn resize(size: usize) -> Transform {
    Transform::Resize(Resize { size, interpolation: Interpolation::default() })
}

fn build(name: &str, mut transforms: Vec<Transform>, recipe: &Recipe) -> Result<View, ViewError> {
    transforms.extend(normalisation(recipe).map(Transform::Normalize));
    View::new(ViewOptions { name: name.to_owned(), transforms })
}

/// As in the view of evaluation, so that the backbone meets what it knows.
fn normalisation(recipe: &Recipe) -> Option<Normalize> {
    let evaluation = recipe.evaluation.transforms.as_ref();
    let transforms = evaluation.or(recipe.views.first().map(|view| &view.transforms))?;
    match transforms.last() {
        Some(Transform::Normalize(normalize)) => Some(normalize.clone()),
        _ => None,
    }
}
