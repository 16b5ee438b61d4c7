//! Published augmentations by name.
//!
//! A view of a paper is six to eight transforms with some twenty numbers, and one wrong number is a
//! different experiment that no check can notice. A recipe can therefore name a view
//! (`preset = "moco-v2"`, `size = 224`) instead of listing it. The name is only a way to write: it
//! becomes the explicit transforms as soon as the recipe is read, and those are what a run keeps.
//!
//! Parameters are those of the official code of each method; where papers and code differ, the code
//! has produced the published numbers.

use serde::Deserialize;

use crate::blur::GaussianBlur;
use crate::clsa_strong::ClsaStrong;
use crate::color::{ColorJitter, Grayscale};
use crate::crop::{CenterCrop, RandomCrop, RandomResizedCrop};
use crate::flip::HorizontalFlip;
use crate::normalize::Normalize;
use crate::rand_augment::RandAugment;
use crate::resample::Interpolation;
use crate::resize::Resize;
use crate::solarize::Solarize;
use crate::view::Transform;

/// A published view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Preset {
    /// SimCLR on ImageNet, strength 1; pixels are not normalised.
    Simclr,
    /// MoCo v2, both views; also SANE's and CLSA's weak view.
    MocoV2,
    /// BYOL's first view: always blurred.
    ByolA,
    /// BYOL's second view: rarely blurred, sometimes solarised.
    ByolB,
    /// SCE on small images, the view of the momentum encoder.
    SceWeak,
    /// SCE on small images, the view of the online encoder.
    SceStrong,
    /// SCE on ImageNet, first global view.
    SceAlpha,
    /// SCE on ImageNet, second global view.
    SceBeta,
    /// SCE on ImageNet, the local views (192, 160, 128 and 96 pixels).
    SceGamma,
    /// FNC: SimCLR's with RandAugment; pixels are not normalised.
    Fnc,
    /// MoCo v2's with CLSA's five random operations behind it.
    ClsaStrong,
    /// SwAV's multi-crop, the two large views (224 pixels).
    SwavGlobal,
    /// SwAV's multi-crop, the small views (96 pixels).
    SwavLocal,
    /// Evaluation: the shorter side to 8/7 of the size, then the centre (256 and 224 pixels).
    Evaluation,
    /// Training of a linear classifier: a random resized crop and a flip.
    LinearTraining,
    /// The same for small images: a crop with a border of an eighth (4 of 32 pixels) and a flip.
    LinearTrainingSmall,
}

/// A preset with what a recipe says beside its name.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) preset: Preset,
    pub(crate) size: usize,
    pub(crate) scale: Option<[f64; 2]>,
    pub(crate) normalize: Option<Normalize>,
}

const IMAGENET: Normalize =
    Normalize { mean_rgb: [0.485, 0.456, 0.406], std_rgb: [0.229, 0.224, 0.225] };

/// SwAV's code has 0.228 for the first standard deviation.
const IMAGENET_OF_SWAV: Normalize =
    Normalize { mean_rgb: IMAGENET.mean_rgb, std_rgb: [0.228, 0.224, 0.225] };

/// Pillow's Gaussian blur has no kernel; at the largest sigma of 2 nothing outside of this matters.
const KERNEL_LIKE_PILLOW: usize = 13;

/// The share of the area that the crops of multi-crop keep, by their size in pixels.
const LOCAL_SCALES: [(usize, [f64; 2]); 4] =
    [(192, [0.172, 0.86]), (160, [0.143, 0.715]), (128, [0.114, 0.571]), (96, [0.086, 0.429])];

fn local_scale(size: usize) -> Option<[f64; 2]> {
    LOCAL_SCALES.iter().find(|(known, _)| *known == size).map(|(_, scale)| *scale)
}

fn jitter(brightness: f64, contrast: f64, saturation: f64, hue: f64) -> Transform {
    let probability = 0.8;
    Transform::ColorJitter(ColorJitter { probability, brightness, contrast, saturation, hue })
}

fn gray() -> Transform {
    Transform::Grayscale(Grayscale { probability: 0.2 })
}

fn blur(probability: f64, kernel_size: usize) -> Transform {
    Transform::GaussianBlur(GaussianBlur { probability, kernel_size, sigma: [0.1, 2.0] })
}

fn solarize(probability: f64) -> Transform {
    Transform::Solarize(Solarize { probability, threshold: 0.5 })
}

fn flip() -> Transform {
    Transform::HorizontalFlip(HorizontalFlip { probability: 0.5 })
}

impl Preset {
    /// Share of the area that the random resized crop keeps; `Err` if it has to be given, `Ok(None)`
    /// if there is no such crop.
    fn scale(self, size: usize) -> Result<Option<[f64; 2]>, String> {
        Ok(Some(match self {
            Self::Simclr | Self::Fnc | Self::ByolA | Self::ByolB | Self::LinearTraining => {
                [0.08, 1.0]
            }
            Self::MocoV2 | Self::SceWeak | Self::SceStrong | Self::SceAlpha | Self::SceBeta => {
                [0.2, 1.0]
            }
            Self::ClsaStrong => local_scale(size).unwrap_or([0.2, 1.0]),
            Self::SceGamma => local_scale(size).ok_or_else(|| {
                format!(
                    "size = {size}: sce-gamma is published for 192, 160, 128 and 96 pixels; for \
                     another size give scale = [low, high] too"
                )
            })?,
            Self::SwavGlobal => [0.14, 1.0],
            Self::SwavLocal => [0.05, 0.14],
            Self::Evaluation | Self::LinearTrainingSmall => return Ok(None),
        }))
    }

    /// What comes behind the crop.
    fn changes(self, size: usize) -> Vec<Transform> {
        // The kernel of SimCLR's code: a tenth of the size to each side and the middle.
        let tenth = 2 * (size / 10 / 2) + 1;
        match self {
            Self::Simclr => {
                vec![flip(), jitter(0.8, 0.8, 0.8, 0.2), gray(), blur(0.5, tenth)]
            }
            Self::Fnc => vec![
                flip(),
                jitter(0.8, 0.8, 0.8, 0.2),
                // 7 of 10 in the code of FNC; the scale here ends at 30.
                Transform::RandAugment(RandAugment { operations: 2, magnitude: 21 }),
                gray(),
                blur(0.5, tenth),
            ],
            Self::ByolA => {
                vec![flip(), jitter(0.4, 0.4, 0.2, 0.1), gray(), blur(1.0, tenth)]
            }
            Self::ByolB => {
                vec![flip(), jitter(0.4, 0.4, 0.2, 0.1), gray(), blur(0.1, tenth), solarize(0.2)]
            }
            Self::MocoV2 | Self::SceStrong | Self::ClsaStrong => {
                let jitter = jitter(0.4, 0.4, 0.4, 0.1);
                let mut steps = vec![jitter, gray(), blur(0.5, KERNEL_LIKE_PILLOW), flip()];
                if self == Self::ClsaStrong {
                    let (repetitions, probability) = (5, 0.5);
                    steps.push(Transform::ClsaStrong(ClsaStrong { repetitions, probability }));
                }
                steps
            }
            Self::SceWeak | Self::LinearTraining | Self::LinearTrainingSmall => vec![flip()],
            Self::SceAlpha => {
                vec![jitter(0.4, 0.4, 0.2, 0.1), gray(), blur(1.0, 23), flip()]
            }
            Self::SceBeta => {
                vec![jitter(0.4, 0.4, 0.2, 0.1), gray(), blur(0.1, 23), solarize(0.2), flip()]
            }
            Self::SceGamma => {
                vec![jitter(0.4, 0.4, 0.2, 0.1), gray(), blur(0.5, 23), solarize(0.2), flip()]
            }
            Self::SwavGlobal | Self::SwavLocal => {
                vec![flip(), jitter(0.8, 0.8, 0.8, 0.2), gray(), blur(0.5, KERNEL_LIKE_PILLOW)]
            }
            Self::Evaluation => Vec::new(),
        }
    }

    fn normalize(self) -> Option<Normalize> {
        match self {
            Self::Simclr | Self::Fnc => None,
            Self::SwavGlobal | Self::SwavLocal => Some(IMAGENET_OF_SWAV),
            _ => Some(IMAGENET),
        }
    }
}

impl Wish {
    /// The explicit transforms. The error names the key at fault.
    pub(crate) fn transforms(self) -> Result<Vec<Transform>, String> {
        let Self { preset, size, scale: given, normalize } = self;
        let interpolation = match preset {
            Preset::Simclr | Preset::Fnc | Preset::ByolA | Preset::ByolB => Interpolation::Bicubic,
            _ => Interpolation::Bilinear,
        };
        let scale = match given {
            Some(scale) => preset.scale(size).map_or(Some(scale), |has| has.map(|_| scale)),
            None => preset.scale(size)?,
        };
        if scale.is_none() && given.is_some() {
            return Err("`scale`: this preset has no random resized crop; leave it out".into());
        }
        let mut transforms = match (scale, preset) {
            (Some(scale), _) => {
                let ratio = [3.0 / 4.0, 4.0 / 3.0];
                let crop = RandomResizedCrop { size, scale, ratio, interpolation };
                vec![Transform::RandomResizedCrop(crop)]
            }
            (None, Preset::LinearTrainingSmall) => {
                vec![Transform::RandomCrop(RandomCrop { size, padding: size / 8 })]
            }
            (None, _) => {
                let larger = size + size.div_ceil(7);
                vec![
                    Transform::Resize(Resize { size: larger, interpolation }),
                    Transform::CenterCrop(CenterCrop { size }),
                ]
            }
        };
        transforms.extend(preset.changes(size));
        transforms.extend(normalize.or_else(|| preset.normalize()).map(Transform::Normalize));
        Ok(transforms)
    }
}

#[cfg(test)]
mod tests {
    use nearkin_data::Random;

    use crate::parity::draw;
    use crate::{Scratch, View, ViewOptions};

    const NAMES: [(&str, usize); 16] = [
        ("simclr", 224),
        ("moco-v2", 224),
        ("byol-a", 224),
        ("byol-b", 224),
        ("sce-weak", 32),
        ("sce-strong", 32),
        ("sce-alpha", 224),
        ("sce-beta", 224),
        ("sce-gamma", 192),
        ("fnc", 224),
        ("clsa-strong", 96),
        ("swav-global", 224),
        ("swav-local", 96),
        ("evaluation", 224),
        ("linear-training", 224),
        ("linear-training-small", 32),
    ];

    fn read(keys: &str) -> Result<ViewOptions, String> {
        toml::from_str(&format!("name = \"test\"\n{keys}"))
            .map_err(|error: toml::de::Error| error.message().to_owned())
    }

    fn preset(name: &str, size: usize) -> ViewOptions {
        read(&format!("preset = \"{name}\"\nsize = {size}")).expect(name)
    }

    /// One transform per line, as in JSON.
    fn resolved(options: &ViewOptions) -> String {
        let lines = options
            .transforms
            .iter()
            .map(|transform| serde_json::to_string(transform).expect("serializable") + "\n");
        lines.collect()
    }

    #[test]
    fn presets_resolve_to_the_published_transforms() {
        let all = NAMES.iter().fold(String::new(), |text, &(name, size)| {
            text + &format!("{name} {size}\n{}\n", resolved(&preset(name, size)))
        });
        insta::assert_snapshot!(all);
    }

    #[test]
    fn every_preset_makes_views_at_several_sizes() {
        let image = draw(70, 50, 3);
        let mut scratch = Scratch::default();
        for (name, published) in NAMES {
            for size in [published, 32, 96] {
                if name == "sce-gamma" && size == 32 {
                    continue;
                }
                let options = preset(name, size);
                let again = toml::to_string(&options).expect("serializable");
                assert!(!again.contains("preset"), "{again}");
                assert_eq!(toml::from_str::<ViewOptions>(&again).expect("a view"), options);
                let view = View::new(options).expect(name);
                assert_eq!(view.size_pixels(), size);
                let mut out = vec![f32::NAN; view.values()];
                let mut random = Random::for_view(1, 2, 3, 4);
                view.apply(&image, &mut random, &mut scratch, &mut out);
                assert!(out.iter().all(|value| value.is_finite()), "{name}");
            }
        }
    }

    #[test]
    fn scale_and_normalisation_can_be_given() {
        let own = "preset = \"sce-gamma\"\nsize = 20\nscale = [0.1, 0.3]\n\
                   normalize = { mean_rgb = [0.5, 0.5, 0.5], std_rgb = [0.25, 0.25, 0.25] }";
        let text = resolved(&read(own).expect("a view"));
        assert!(text.contains("\"scale\":[0.1,0.3]"), "{text}");
        assert!(text.ends_with("\"std_rgb\":[0.25,0.25,0.25]}}\n"), "{text}");
        assert!(!resolved(&preset("simclr", 32)).contains("normalize"));
    }

    #[test]
    fn what_does_not_fit_a_preset_is_named() {
        for (keys, reason) in [
            ("preset = \"moco-v3\"\nsize = 9", "unknown variant `moco-v3`"),
            ("preset = \"moco-v2\"", "a preset needs `size`"),
            ("preset = \"moco-v2\"\nsize = 9\ntransforms = []", "`preset` and `transforms`"),
            ("transforms = []\nsize = 9", "`size` belongs to a preset"),
            ("transforms = []\nscale = [0.1, 1.0]", "`scale` belongs to a preset"),
            ("", "give `transforms`, or a `preset` with its `size`"),
            ("preset = \"sce-gamma\"\nsize = 32", "give scale = [low, high] too"),
            ("preset = \"evaluation\"\nsize = 9\nscale = [0.1, 1.0]", "no random resized crop"),
            ("preset = \"moco-v2\"\nsize = 9\nsise = 9", "unknown field `sise`"),
        ] {
            let message = read(keys).expect_err(keys);
            assert!(message.contains(reason), "{message}");
        }
        let error = View::new(preset("moco-v2", 0)).expect_err("no size");
        assert!(error.to_string().contains("size = 0"), "{error}");
    }
}
