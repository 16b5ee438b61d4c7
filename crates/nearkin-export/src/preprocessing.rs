//! How images are prepared for a backbone: the fact that is lost most often when weights travel.

use nearkin_augment::{Interpolation, Transform};
use nearkin_recipe::Recipe;
use serde_json::json;

use crate::ExportError;

/// Resize, centre crop, normalise, as the recipe evaluates.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessing {
    /// Side of the images, in pixels.
    pub size_pixels: usize,
    /// Side of the crop as a share of the shorter side of the resized image.
    pub crop_share: f64,
    /// How images are resized.
    pub interpolation: Interpolation,
    /// Means of red, green and blue, of images scaled to `[0, 1]`.
    pub mean_rgb: [f64; 3],
    /// Standard deviations of the same.
    pub std_rgb: [f64; 3],
}

impl Preprocessing {
    /// That of a recipe's evaluation.
    pub fn of(recipe: &Recipe) -> Result<Self, ExportError> {
        let mut all = Self {
            size_pixels: recipe.evaluation_view()?.size_pixels(),
            crop_share: 1.0,
            interpolation: Interpolation::default(),
            mean_rgb: [0.0; 3],
            std_rgb: [1.0; 3],
        };
        for transform in recipe.evaluation_transforms()? {
            match transform {
                Transform::Resize(resize) => {
                    all.crop_share = all.size_pixels as f64 / resize.size as f64;
                    all.interpolation = resize.interpolation;
                }
                Transform::Normalize(normalize) => {
                    (all.mean_rgb, all.std_rgb) = (normalize.mean_rgb, normalize.std_rgb);
                }
                _ => {}
            }
        }
        Ok(all)
    }

    /// The name that torchvision and timm use.
    pub(crate) fn interpolation_name(&self) -> &'static str {
        match self.interpolation {
            Interpolation::Bilinear => "bilinear",
            Interpolation::Bicubic => "bicubic",
        }
    }

    /// As JSON, for the metadata of files.
    pub(crate) fn to_json(&self) -> String {
        json!({
            "input_size": [3, self.size_pixels, self.size_pixels],
            "crop_pct": self.crop_share,
            "interpolation": self.interpolation_name(),
            "mean": self.mean_rgb,
            "std": self.std_rgb,
        })
        .to_string()
    }
}
