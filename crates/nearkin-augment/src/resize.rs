//! Resizing of whole images, for evaluation.

use nearkin_data::Image;
use serde::{Deserialize, Serialize};

use crate::canvas::{Canvas, Pixels, Scratch};
use crate::resample::{Interpolation, Resampler};
use crate::view::check;

/// Resizes so that the shorter side has `size` pixels (torchvision's `Resize`). Draws nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Shorter side of the result, in pixels.
    pub size: usize,
    /// How the image is resized.
    #[serde(default)]
    pub interpolation: Interpolation,
}

impl Resize {
    pub(crate) fn check(&self) -> Result<(), String> {
        check::size("size", self.size)
    }

    /// The resized image by itself, outside of a view; `None` for a `size` of 0.
    pub fn image(&self, image: &Image<'_>, scratch: &mut Scratch) -> Option<Image<'static>> {
        if self.size == 0 {
            return None;
        }
        self.apply(Pixels::from(image), &mut scratch.resampler, &mut scratch.back);
        let Canvas { width, height, rgb } = &scratch.back;
        Image::new(*width, *height, rgb.as_flattened().to_vec())
    }

    /// Width and height of the result.
    pub(crate) fn target(&self, width: usize, height: usize) -> (usize, usize) {
        let long = self.size * width.max(height) / width.min(height);
        if width <= height { (self.size, long) } else { (long, self.size) }
    }

    pub(crate) fn apply(&self, source: Pixels<'_>, resampler: &mut Resampler, target: &mut Canvas) {
        let size = self.target(source.width, source.height);
        resampler.resize(source, size, self.interpolation, target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::draw;
    use crate::{Transform, View, ViewOptions};

    #[test]
    fn by_itself_it_gives_the_pixels_that_a_view_sees() {
        let resize = Resize { size: 9, interpolation: Interpolation::Bilinear };
        let image = draw(12, 20, 5);
        let mut scratch = Scratch::default();
        let alone = resize.image(&image, &mut scratch).expect("an image");
        assert_eq!((alone.width(), alone.height()), (9, 15));
        let transforms =
            [Transform::Resize(resize), Transform::CenterCrop(crate::CenterCrop { size: 9 })];
        let options = ViewOptions { name: "test".into(), transforms: transforms.into() };
        let view = View::new(options).expect("a view");
        let mut out = vec![0.0; view.values()];
        let mut random = nearkin_data::Random::for_view(0, 0, 0, 0);
        view.apply(&image, &mut random, &mut scratch, &mut out);
        let bytes: Vec<u8> = out.iter().map(|value| (value * 255.0).round() as u8).collect();
        assert_eq!(bytes, &alone.rgb()[3 * 9 * 3..][..bytes.len()]);
        let none = Resize { size: 0, interpolation: Interpolation::Bilinear };
        assert!(none.image(&image, &mut scratch).is_none());
    }
}
