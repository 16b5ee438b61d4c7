//! A view: the list of transforms that turns one image into one input of the network.

use std::sync::Arc;

use nearkin_data::{Image, Random};
use serde::{Deserialize, Serialize};

use crate::blur::GaussianBlur;
use crate::canvas::{Pixels, Scratch};
use crate::clsa_strong::ClsaStrong;
use crate::color::{ColorJitter, Grayscale};
use crate::crop::{CenterCrop, RandomCrop, RandomResizedCrop};
use crate::drawn::{Begun, Unfinished, Whole};
use crate::flip::HorizontalFlip;
use crate::normalize::{self, Levels, Normalize};
use crate::preset::{Preset, Wish};
use crate::rand_augment::RandAugment;
use crate::resize::Resize;
use crate::solarize::Solarize;

/// One step of a view. In a recipe: `{ horizontal_flip = { probability = 0.5 } }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// A random part, resized to a square.
    RandomResizedCrop(RandomResizedCrop),
    /// A random square, with black borders.
    RandomCrop(RandomCrop),
    /// Mirrors at random.
    HorizontalFlip(HorizontalFlip),
    /// Random changes of brightness, contrast, saturation and hue.
    ColorJitter(ColorJitter),
    /// Removes the colour at random.
    Grayscale(Grayscale),
    /// Blurs at random.
    GaussianBlur(GaussianBlur),
    /// Inverts bright values at random.
    Solarize(Solarize),
    /// Operations drawn from a list, at one strength.
    RandAugment(RandAugment),
    /// Operations drawn from a list, at random strengths: the strong view of CLSA.
    ClsaStrong(ClsaStrong),
    /// Resizes to a given shorter side.
    Resize(Resize),
    /// The central square.
    CenterCrop(CenterCrop),
    /// Subtracts means and divides by standard deviations; the last step.
    Normalize(Normalize),
}

impl Transform {
    /// The name as a recipe writes it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RandomResizedCrop(_) => "random_resized_crop",
            Self::RandomCrop(_) => "random_crop",
            Self::HorizontalFlip(_) => "horizontal_flip",
            Self::ColorJitter(_) => "color_jitter",
            Self::Grayscale(_) => "grayscale",
            Self::GaussianBlur(_) => "gaussian_blur",
            Self::Solarize(_) => "solarize",
            Self::RandAugment(_) => "rand_augment",
            Self::ClsaStrong(_) => "clsa_strong",
            Self::Resize(_) => "resize",
            Self::CenterCrop(_) => "center_crop",
            Self::Normalize(_) => "normalize",
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::RandomResizedCrop(transform) => transform.check(),
            Self::RandomCrop(transform) => transform.check(),
            Self::HorizontalFlip(transform) => transform.check(),
            Self::ColorJitter(transform) => transform.check(),
            Self::Grayscale(transform) => transform.check(),
            Self::GaussianBlur(transform) => transform.check(),
            Self::Solarize(transform) => transform.check(),
            Self::RandAugment(transform) => transform.check(),
            Self::ClsaStrong(transform) => transform.check(),
            Self::Resize(transform) => transform.check(),
            Self::CenterCrop(transform) => transform.check(),
            Self::Normalize(transform) => transform.check(),
        }
    }

    /// Side of the square that comes out, if it is known, given that of what goes in.
    fn size_pixels(&self, input: Option<usize>) -> Option<usize> {
        match self {
            Self::RandomResizedCrop(transform) => Some(transform.size),
            Self::RandomCrop(transform) => Some(transform.size),
            Self::CenterCrop(transform) => Some(transform.size),
            Self::Resize(transform) => input.map(|_| transform.size),
            _ => input,
        }
    }
}

/// A view as a recipe states it.
///
/// Instead of `transforms` a recipe may give `preset`, the name of a published view, with `size` in
/// pixels and, if they are not to be those of the preset, `scale` of the crop and `normalize`. It is
/// written as `transforms` again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ViewTable")]
pub struct ViewOptions {
    /// What messages and reports call the view.
    pub name: String,
    /// The steps, in the order in which they apply.
    pub transforms: Vec<Transform>,
}

/// A view with all keys that it can have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ViewTable {
    name: String,
    transforms: Option<Vec<Transform>>,
    preset: Option<Preset>,
    size: Option<usize>,
    scale: Option<[f64; 2]>,
    normalize: Option<Normalize>,
}

impl TryFrom<ViewTable> for ViewOptions {
    type Error = String;

    fn try_from(table: ViewTable) -> Result<Self, String> {
        let ViewTable { name, transforms, preset, size, scale, normalize } = table;
        let transforms = match (transforms, preset) {
            (Some(_), Some(_)) => {
                return Err("`preset` and `transforms` exclude each other: give one".into());
            }
            (Some(transforms), None) => {
                let given = [
                    ("size", size.is_some()),
                    ("scale", scale.is_some()),
                    ("normalize", normalize.is_some()),
                ];
                if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
                    return Err(format!(
                        "`{key}` belongs to a preset; with transforms it is part of one of them"
                    ));
                }
                transforms
            }
            (None, Some(preset)) => {
                let size = size.ok_or("a preset needs `size`, the side of its images in pixels")?;
                Wish { preset, size, scale, normalize }.transforms()?
            }
            (None, None) => return Err("give `transforms`, or a `preset` with its `size`".into()),
        };
        Ok(Self { name, transforms })
    }
}

/// Why a list of transforms is not a view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// A transform has a value that makes no sense, or stands in the wrong place.
    #[error("view `{view}`, transform {position} ({transform}): {reason}")]
    Transform {
        /// Name of the view.
        view: String,
        /// Position in the list, from 1.
        position: usize,
        /// Name of the transform.
        transform: &'static str,
        /// The key, its value, and what to give instead.
        reason: String,
    },
    /// A transform that has no form on the device is to run there.
    #[error(
        "view `{view}`: {transform} has no form on the device: remove it, or leave the place of \
         augmentation to `auto`"
    )]
    NoDeviceForm {
        /// Name of the view.
        view: String,
        /// Name of the transform.
        transform: &'static str,
    },
    /// Images of different sizes would come out at different sizes.
    #[error(
        "view `{view}`: the size of its images is not fixed: \
         add random_resized_crop, random_crop or center_crop"
    )]
    Size {
        /// Name of the view.
        view: String,
    },
}

/// A checked view, ready to be applied.
#[derive(Clone, Debug)]
pub struct View {
    name: String,
    /// All but `normalize`, which is in `levels`.
    steps: Vec<Transform>,
    levels: Box<Levels>,
    normalize: Normalize,
    size_pixels: usize,
    for_device: Option<ForDevice>,
}

/// What of a view is left to the device.
#[derive(Clone, Debug)]
struct ForDevice {
    /// The end of the view's steps.
    transforms: Arc<[Transform]>,
    /// If it is all of them: the images that they begin with.
    whole: Option<Whole>,
}

impl View {
    /// Checks the options. The error names the view, the transform and the key.
    pub fn new(options: ViewOptions) -> Result<Self, ViewError> {
        let ViewOptions { name, transforms: mut steps } = options;
        let mut size_pixels = None;
        for (index, transform) in steps.iter().enumerate() {
            let mut result = transform.check();
            if matches!(transform, Transform::Normalize(_)) && index + 1 < steps.len() {
                result = Err("must be the last transform, and the only one of its kind".into());
            }
            result.map_err(|reason| ViewError::Transform {
                view: name.clone(),
                position: index + 1,
                transform: transform.name(),
                reason,
            })?;
            size_pixels = transform.size_pixels(size_pixels);
        }
        let Some(size_pixels) = size_pixels else {
            return Err(ViewError::Size { view: name });
        };
        let last = steps.pop_if(|step| matches!(step, Transform::Normalize(_)));
        let normalize = match last {
            Some(Transform::Normalize(normalize)) => normalize,
            _ => Normalize::IDENTITY,
        };
        let levels = normalize.levels();
        Ok(Self { name, steps, levels, normalize, size_pixels, for_device: None })
    }

    /// The same view, of which a [`Loader`](crate::Loader) leaves a part to the device: see
    /// [`Unfinished`]. Of `whole` images that is all of it, if all of it can run there; else what
    /// comes behind the last transform that changes the size.
    ///
    /// [`ViewError::NoDeviceForm`] names the first transform behind that which has to run on the
    /// host.
    pub fn for_device(mut self, whole: Option<Whole>) -> Result<Self, ViewError> {
        if whole.is_some() && self.steps.iter().all(Transform::has_device_form) {
            self.for_device = Some(ForDevice { transforms: self.steps.as_slice().into(), whole });
            return Ok(self);
        }
        let last = self.steps.iter().rposition(Transform::gives_size);
        let rest = &self.steps[last.map_or(0, |last| last + 1)..];
        if let Some(transform) = rest.iter().find(|transform| !transform.has_device_form()) {
            let transform = transform.name();
            return Err(ViewError::NoDeviceForm { view: self.name, transform });
        }
        self.for_device = Some(ForDevice { transforms: rest.into(), whole: None });
        Ok(self)
    }

    /// Whether a part of the view is left to the device.
    pub fn is_for_device(&self) -> bool {
        self.for_device.is_some()
    }

    /// The images that the device begins with, if all of the view is left to it.
    pub fn whole(&self) -> Option<Whole> {
        self.for_device.as_ref()?.whole
    }

    /// What to fill for a batch of so many images, if a part of the view is left to the device.
    pub(crate) fn unfinished(&self, images: usize) -> Option<Unfinished> {
        self.for_device.as_ref().map(|ForDevice { transforms, whole }| Unfinished {
            begun: match whole {
                Some(whole) => Begun::Whole(*whole),
                None => Begun::Here(Vec::with_capacity(images * self.values())),
            },
            transforms: Arc::clone(transforms),
            drawn: Vec::with_capacity(images * transforms.len()),
            normalize: self.normalize.clone(),
        })
    }

    /// Adds an image to a batch that is finished on the device. Of whole images only numbers are
    /// drawn, and `image` may be missing.
    pub(crate) fn begin(
        &self,
        image: Option<&Image<'_>>,
        random: &mut Random,
        scratch: &mut Scratch,
        batch: &mut Unfinished,
    ) {
        let mut size = (self.size_pixels, self.size_pixels);
        match (&mut batch.begun, image) {
            (Begun::Whole(whole), _) => size = (whole.width, whole.height),
            (Begun::Here(bytes), Some(image)) => {
                let rest = batch.transforms.len();
                Self::run(&self.steps[..self.steps.len() - rest], image, random, scratch);
                bytes.extend_from_slice(scratch.front.rgb.as_flattened());
            }
            (Begun::Here(_), None) => {}
        }
        for step in batch.transforms.iter() {
            batch.drawn.extend(step.draw(random, size));
            size = step.size_after(size);
        }
    }

    /// The name from the recipe.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Side of the square images that come out, in pixels.
    pub fn size_pixels(&self) -> usize {
        self.size_pixels
    }

    /// Number of floats of one image: `size * size * 3`.
    pub fn values(&self) -> usize {
        self.size_pixels * self.size_pixels * 3
    }

    /// Makes one view of `image` and writes it to `out` as `[size, size, 3]`, normalized, or as
    /// `byte / 255` where the view does not normalize.
    ///
    /// The transforms draw their numbers from `random` one after the other; how many is stated at
    /// each of them.
    ///
    /// # Panics
    ///
    /// If `out` does not have [`values`](Self::values) elements.
    pub fn apply(
        &self,
        image: &Image<'_>,
        random: &mut Random,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        assert_eq!(out.len(), self.values(), "view `{}` writes another number", self.name);
        Self::run(&self.steps, image, random, scratch);
        normalize::write(&self.levels, &scratch.front.rgb, out);
    }

    /// Leaves the result in `scratch.front`.
    fn run(steps: &[Transform], image: &Image<'_>, random: &mut Random, scratch: &mut Scratch) {
        let Scratch { front, back, resampler, blur } = scratch;
        // Steps that give another size read the image where it lies; the others need a copy.
        let mut untouched = true;
        for step in steps {
            let source = if untouched { Pixels::from(image) } else { front.pixels() };
            let resized = match step {
                Transform::RandomResizedCrop(transform) => {
                    let crop = transform.sample(random, source.width, source.height);
                    transform.apply(crop, source, resampler, back);
                    true
                }
                Transform::RandomCrop(transform) => {
                    let position = transform.sample(random, source.width, source.height);
                    transform.apply(position, source, back);
                    true
                }
                Transform::Resize(transform) => {
                    transform.apply(source, resampler, back);
                    true
                }
                Transform::CenterCrop(transform) => {
                    transform.apply(source, back);
                    true
                }
                _ => false,
            };
            if resized {
                std::mem::swap(front, back);
            } else if untouched {
                front.copy_from(Pixels::from(image));
            }
            untouched = false;
            match step {
                Transform::HorizontalFlip(transform) => {
                    HorizontalFlip::apply(transform.sample(random), front);
                }
                Transform::ColorJitter(transform) => {
                    ColorJitter::apply(transform.sample(random), front);
                }
                Transform::Grayscale(transform) => {
                    Grayscale::apply(transform.sample(random), front);
                }
                Transform::GaussianBlur(transform) => {
                    transform.apply(transform.sample(random), front, blur);
                }
                Transform::Solarize(transform) => {
                    transform.apply(transform.sample(random), front);
                }
                Transform::RandAugment(transform) => transform.apply(random, front, back),
                Transform::ClsaStrong(transform) => transform.apply(random, front, back),
                _ => {}
            }
        }
    }
}

impl TryFrom<ViewOptions> for View {
    type Error = ViewError;

    fn try_from(options: ViewOptions) -> Result<Self, ViewError> {
        Self::new(options)
    }
}

/// The checks that transforms share; each message states the key, its value and what to give.
pub(crate) mod check {
    /// Larger images would only be a slip of the pen that exhausts the memory.
    const LARGEST_SIZE_PIXELS: usize = 4096;

    pub(crate) fn size(key: &str, pixels: usize) -> Result<(), String> {
        if (1..=LARGEST_SIZE_PIXELS).contains(&pixels) {
            return Ok(());
        }
        Err(format!("{key} = {pixels}: give a number of pixels from 1 to {LARGEST_SIZE_PIXELS}"))
    }

    pub(crate) fn whole(key: &str, value: usize, low: usize, high: usize) -> Result<(), String> {
        if (low..=high).contains(&value) {
            return Ok(());
        }
        Err(format!("{key} = {value}: give a whole number from {low} to {high}"))
    }

    pub(crate) fn probability(value: f64) -> Result<(), String> {
        within("probability", value, 0.0, 1.0)
    }

    pub(crate) fn within(key: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
        if (low..=high).contains(&value) {
            return Ok(());
        }
        Err(match (low == f64::MIN, high == f64::MAX) {
            (true, _) => format!("{key} = {value}: give a finite number"),
            (false, true) if low > 0.0 => format!("{key} = {value}: give a number above 0"),
            (false, true) => format!("{key} = {value}: give a finite number not below {low}"),
            (false, false) => format!("{key} = {value}: give a number from {low} to {high}"),
        })
    }

    /// A pair `[low, high]` with `0 < low <= high <= limit`.
    pub(crate) fn range(key: &str, [low, high]: [f64; 2], limit: f64) -> Result<(), String> {
        if 0.0 < low && low <= high && high <= limit {
            return Ok(());
        }
        let bound = if limit == f64::MAX { String::new() } else { format!(" <= {limit}") };
        Err(format!("{key} = [{low}, {high}]: give [low, high] with 0 < low <= high{bound}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::parity::draw;

    fn options(transforms: &str) -> ViewOptions {
        let text = format!("name = \"test\"\ntransforms = [{transforms}]");
        toml::from_str(&text).expect("valid TOML")
    }

    fn view(transforms: &str) -> View {
        View::new(options(transforms)).expect("a valid view")
    }

    const MOCO: &str = "{ random_resized_crop = { size = 32, scale = [0.2, 1.0] } },
        { horizontal_flip = {} },
        { color_jitter = { probability = 0.8, brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1 } },
        { grayscale = { probability = 0.2 } },
        { gaussian_blur = { probability = 0.5, kernel_size = 3 } },
        { normalize = { mean_rgb = [0.5, 0.5, 0.5], std_rgb = [0.25, 0.25, 0.25] } }";

    const STRONG: &str = "{ random_crop = { size = 32, padding = 4 } },
        { solarize = { probability = 0.5 } },
        { rand_augment = {} },
        { clsa_strong = {} },
        { random_crop = { size = 32, padding = 31 } },
        { rand_augment = { operations = 5, magnitude = 30 } },
        { normalize = { mean_rgb = [0.5, 0.5, 0.5], std_rgb = [0.25, 0.25, 0.25] } }";

    #[test]
    fn options_come_back_with_their_defaults() {
        let parsed = options(MOCO);
        let written = serde_json::to_value(&parsed).expect("serializable");
        assert_eq!(
            written["transforms"][0],
            serde_json::json!({ "random_resized_crop": {
                "size": 32, "scale": [0.2, 1.0], "ratio": [0.75, 4.0 / 3.0], "interpolation": "bilinear"
            }})
        );
        let step = |index: usize| &written["transforms"][index];
        assert_eq!(step(1)["horizontal_flip"]["probability"], 0.5);
        assert_eq!(step(4)["gaussian_blur"]["sigma"], serde_json::json!([0.1, 2.0]));
        for parsed in [parsed, options(STRONG)] {
            let text = toml::to_string(&parsed).expect("serializable");
            assert_eq!(toml::from_str::<ViewOptions>(&text).expect("valid TOML"), parsed);
        }
    }

    #[test]
    fn random_policies_have_the_defaults_of_their_references() {
        let parsed = options(&format!("{STRONG}, {{ random_crop = {{ size = 8 }} }}"));
        let written = serde_json::to_value(&parsed).expect("serializable");
        let step = |index: usize| &written["transforms"][index];
        assert_eq!(step(1)["solarize"]["threshold"], 0.5);
        let expected = serde_json::json!({ "operations": 2, "magnitude": 9 });
        assert_eq!(step(2)["rand_augment"], expected);
        let expected = serde_json::json!({ "repetitions": 5, "probability": 0.5 });
        assert_eq!(step(3)["clsa_strong"], expected);
        assert_eq!(step(7)["random_crop"]["padding"], 0);
    }

    #[test]
    fn unknown_keys_and_transforms_are_refused() {
        for (transform, word) in [
            ("{ horizontal_flip = { p = 0.5 } }", "unknown field `p`"),
            ("{ rand_augment = { num_ops = 2 } }", "unknown field `num_ops`"),
            ("{ clsa_strong = { magnitude = 2 } }", "unknown field `magnitude`"),
            ("{ random_crop = { size = 8, fill = 1 } }", "unknown field `fill`"),
            ("{ solarize = { probability = 1, level = 1 } }", "unknown field `level`"),
            ("{ vertical_flip = {} }", "unknown variant `vertical_flip`"),
            ("{ resize = { size = 8, interpolation = \"nearest\" } }", "unknown variant `nearest`"),
        ] {
            let text = format!("name = \"x\"\ntransforms = [{transform}]");
            let message = toml::from_str::<ViewOptions>(&text).expect_err("refused").to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn errors_name_the_view_the_transform_and_the_key() {
        let crop = "{ center_crop = { size = 8 } }";
        let normalize = "{ normalize = { mean_rgb = [0, 0, 0], std_rgb = [1, 1, 1] } }";
        for (transforms, expected) in [
            (
                "{ horizontal_flip = { probability = 1.5 } }",
                "transform 1 (horizontal_flip): probability = 1.5: give a number from 0 to 1",
            ),
            ("{ grayscale = { probability = nan } }", "(grayscale): probability = NaN"),
            (
                "{ random_resized_crop = { size = 0 } }",
                "(random_resized_crop): size = 0: give a number of pixels from 1 to 4096",
            ),
            (
                "{ random_resized_crop = { size = 8, scale = [0.5, 0.2] } }",
                "scale = [0.5, 0.2]: give [low, high] with 0 < low <= high <= 1",
            ),
            ("{ random_resized_crop = { size = 8, scale = [0.5, 1.2] } }", "scale = [0.5, 1.2]"),
            (
                "{ random_resized_crop = { size = 8, ratio = [0.0, 1.0] } }",
                "ratio = [0, 1]: give [low, high] with 0 < low <= high",
            ),
            ("{ color_jitter = { hue = 0.6 } }", "hue = 0.6: give a number from 0 to 0.5"),
            (
                "{ color_jitter = { contrast = -1.0 } }",
                "contrast = -1: give a finite number not below 0",
            ),
            ("{ color_jitter = { saturation = inf } }", "saturation = inf"),
            (
                "{ gaussian_blur = { probability = 1, kernel_size = 4 } }",
                "kernel_size = 4: give an odd number",
            ),
            (
                "{ gaussian_blur = { probability = 1, kernel_size = 3, sigma = [0.0, 1.0] } }",
                "sigma = [0, 1]",
            ),
            ("{ resize = { size = 0 } }", "(resize): size = 0"),
            ("{ random_crop = { size = 0 } }", "(random_crop): size = 0: give a number of pixels"),
            (
                "{ random_crop = { size = 32, padding = 32 } }",
                "(random_crop): padding = 32: give a whole number from 0 to 31",
            ),
            ("{ solarize = { probability = -1 } }", "(solarize): probability = -1"),
            (
                "{ solarize = { probability = 1, threshold = 128 } }",
                "(solarize): threshold = 128: give a number from 0 to 1",
            ),
            (
                "{ rand_augment = { operations = 0 } }",
                "(rand_augment): operations = 0: give a whole number from 1 to 100",
            ),
            (
                "{ rand_augment = { magnitude = 31 } }",
                "(rand_augment): magnitude = 31: give a whole number from 0 to 30",
            ),
            (
                "{ clsa_strong = { repetitions = 101 } }",
                "(clsa_strong): repetitions = 101: give a whole number from 1 to 100",
            ),
            ("{ clsa_strong = { probability = 2 } }", "(clsa_strong): probability = 2"),
            (
                "{ normalize = { mean_rgb = [0, 0, 0], std_rgb = [1, 0, 1] } }",
                "std_rgb = 0: give a number above 0",
            ),
            (
                "{ normalize = { mean_rgb = [0, inf, 0], std_rgb = [1, 1, 1] } }",
                "mean_rgb = inf: give a finite number",
            ),
            (&format!("{normalize}, {crop}"), "transform 1 (normalize): must be the last"),
            (
                &format!("{crop}, {normalize}, {normalize}"),
                "transform 2 (normalize): must be the last",
            ),
            ("{ resize = { size = 8 } }", "the size of its images is not fixed"),
            ("", "the size of its images is not fixed"),
        ] {
            let message = View::new(options(transforms)).expect_err(transforms).to_string();
            assert!(message.starts_with("view `test`"), "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn the_last_transform_that_fixes_the_size_decides_it() {
        assert_eq!(
            view("{ resize = { size = 40 } }, { center_crop = { size = 32 } }").size_pixels(),
            32
        );
        assert_eq!(
            view("{ center_crop = { size = 32 } }, { resize = { size = 40 } }").size_pixels(),
            40
        );
        assert_eq!(view(STRONG).size_pixels(), 32);
    }

    #[test]
    fn without_normalize_values_are_bytes_over_255() {
        let view =
            view("{ horizontal_flip = { probability = 1.0 } }, { center_crop = { size = 2 } }");
        let image = Image::new(2, 2, vec![0, 51, 255, 1, 2, 3, 4, 5, 6, 7, 8, 9]).expect("2 x 2");
        let mut out = [0.0; 12];
        view.apply(&image, &mut Random::for_view(0, 0, 0, 0), &mut Scratch::default(), &mut out);
        let expected = [1, 2, 3, 0, 51, 255, 7, 8, 9, 4, 5, 6].map(|byte| byte as f32 / 255.0);
        assert_eq!(out, expected);
    }

    #[test]
    fn a_used_scratch_changes_nothing() {
        let mut used = Scratch::default();
        let sizes = [(80, 3), (5, 70), (32, 32), (1, 1), (40, 40), (31, 33)];
        for (seed, (width, height)) in sizes.into_iter().enumerate() {
            for view in [view(MOCO), view(STRONG)] {
                let image = draw(width, height, seed as u64);
                let mut random = Random::for_view(seed as u64, 0, 0, 0);
                let (mut first, mut second) = (vec![0.0; view.values()], vec![1.0; view.values()]);
                view.apply(&image, &mut random.clone(), &mut used, &mut first);
                view.apply(&image, &mut random, &mut Scratch::default(), &mut second);
                assert_eq!(first, second);
            }
        }
    }

    proptest! {
        #[test]
        fn any_image_gives_finite_values_in_range(
            seed: u64,
            (width, height) in (1_usize..80, 1_usize..80),
            which in 0_usize..5,
        ) {
            let transforms = [
                MOCO,
                STRONG,
                "{ rand_augment = { operations = 9, magnitude = 30 } },
                 { clsa_strong = { repetitions = 9, probability = 1.0 } },
                 { random_crop = { size = 13, padding = 3 } }",
                "{ resize = { size = 20, interpolation = \"bicubic\" } },
                 { gaussian_blur = { probability = 1.0, kernel_size = 23 } },
                 { color_jitter = { brightness = 5, contrast = 5, saturation = 5, hue = 0.5 } },
                 { center_crop = { size = 17 } }",
                "{ center_crop = { size = 50 } }, { random_resized_crop = { size = 9, ratio = [0.1, 0.2] } }",
            ];
            let view = view(transforms[which]);
            let mut out = vec![f32::NAN; view.values()];
            let image = draw(width, height, seed % 1000);
            let mut random = Random::for_view(seed, 0, 0, 0);
            view.apply(&image, &mut random, &mut Scratch::default(), &mut out);
            prop_assert!(out.iter().all(|value| (-2.0..=2.0).contains(value)));
        }
    }
}
