//! Pixels against torchvision 0.26 and Pillow: `scripts/fixtures/augment.py` made the fixtures.

use nearkin_data::Image;
use serde::Deserialize;

use crate::blur::GaussianBlur;
use crate::canvas::{Canvas, Pixels, Scratch};
use crate::clsa_strong;
use crate::color::{Adjustment, Grayscale};
use crate::crop::{CenterCrop, CropBox, RandomCrop, RandomResizedCrop};
use crate::flip::HorizontalFlip;
use crate::normalize::{self, Normalize};
use crate::operation::{Kind, Operation};
use crate::rand_augment::RandAugment;
use crate::resample::Interpolation;
use crate::resize::Resize;
use crate::solarize::Solarize;

/// The image that the script draws: gradients, noise, a disc, saturated bars and a grey band.
pub(crate) fn draw(width: usize, height: usize, seed: u64) -> Image<'static> {
    let mut rgb = Vec::with_capacity(width * height * 3);
    let (width_wide, height_wide) = (width as i64, height as i64);
    for (x, y) in (0..height_wide).flat_map(|y| (0..width_wide).map(move |x| (x, y))) {
        for channel in 0..3 {
            let c = if y >= height_wide * 3 / 4 { 0 } else { channel };
            let ramp = (x * (7 + 2 * c) + y * (5 - c) + seed as i64 * 40 + c * 60) % 510;
            let ramp = if ramp > 255 { 510 - ramp } else { ramp };
            let noise = (x * 73_856_093) ^ (y * 19_349_663) ^ (c * 83_492_791);
            let noise = (noise ^ (seed as i64 * 2_654_435_761)) as u32;
            let noise = (noise ^ (noise >> 15)).wrapping_mul(2_246_822_519);
            let noise = i64::from((noise ^ (noise >> 13)) % 33) - 16;
            let mut value = (ramp + noise).clamp(0, 255);
            let radius = width_wide.min(height_wide) / 4;
            if (x - width_wide / 3).pow(2) + (y - height_wide / 2).pow(2) < radius * radius {
                value = 255 - value;
            }
            if y < height_wide / 4 && x / 8 % 2 == 1 {
                value = if x / 8 % 3 == channel { 255 } else { 0 };
            }
            rgb.push(value as u8);
        }
    }
    Image::new(width, height, rgb).expect("sides above zero")
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    ResizedCrop(ResizedCrop),
    Resize(Resize),
    CenterCrop(usize),
    RandomCrop { left: usize, top: usize, size: usize, padding: usize },
    HorizontalFlip,
    Brightness(f64),
    Contrast(f64),
    Saturation(f64),
    Hue(f64),
    Grayscale,
    GaussianBlur { kernel_size: usize, sigma: f64 },
    Solarize(f64),
    Operation(Operation),
    RandAugment { operation: Kind, magnitude: usize, negative: bool },
    ClsaStrong { operation: Kind, level: usize, negative: bool },
    Normalize(Normalize),
}

#[derive(Debug, Deserialize)]
struct ResizedCrop {
    #[serde(flatten)]
    crop: CropBox,
    size: usize,
    interpolation: Interpolation,
}

#[derive(Debug, Deserialize)]
struct Case {
    image: (usize, usize, u64),
    steps: Vec<Step>,
    width: usize,
    height: usize,
    offset: usize,
    bytes: usize,
}

#[derive(Deserialize)]
struct HueDigest {
    turn: f64,
    digest: String,
}

#[derive(Deserialize)]
struct Shifts {
    side: usize,
    rand_augment: Vec<isize>,
    clsa_strong: Vec<isize>,
}

#[derive(Deserialize)]
struct Fixtures {
    hue_digests: Vec<HueDigest>,
    shifts: Vec<Shifts>,
    cases: Vec<Case>,
}

fn fixtures() -> Fixtures {
    serde_json::from_str(include_str!("../tests/fixtures/augment.json")).expect("valid fixtures")
}

fn apply(step: &Step, scratch: &mut Scratch) {
    let Scratch { front, back, resampler, blur } = scratch;
    match step {
        Step::ResizedCrop(ResizedCrop { crop, size, interpolation }) => {
            let transform = RandomResizedCrop {
                size: *size,
                scale: [1.0; 2],
                ratio: [1.0; 2],
                interpolation: *interpolation,
            };
            transform.apply(*crop, front.pixels(), resampler, back);
            std::mem::swap(front, back);
        }
        Step::Resize(transform) => {
            transform.apply(front.pixels(), resampler, back);
            std::mem::swap(front, back);
        }
        Step::CenterCrop(size) => {
            CenterCrop { size: *size }.apply(front.pixels(), back);
            std::mem::swap(front, back);
        }
        Step::RandomCrop { left, top, size, padding } => {
            let transform = RandomCrop { size: *size, padding: *padding };
            transform.apply((*left, *top), front.pixels(), back);
            std::mem::swap(front, back);
        }
        Step::HorizontalFlip => HorizontalFlip::apply(true, front),
        Step::Brightness(factor) => Adjustment::Brightness(*factor).apply(front),
        Step::Contrast(factor) => Adjustment::Contrast(*factor).apply(front),
        Step::Saturation(factor) => Adjustment::Saturation(*factor).apply(front),
        Step::Hue(turn) => Adjustment::Hue(*turn).apply(front),
        Step::Grayscale => Grayscale::apply(true, front),
        Step::GaussianBlur { kernel_size, sigma } => {
            let transform =
                GaussianBlur { probability: 1.0, kernel_size: *kernel_size, sigma: [1.0; 2] };
            transform.apply(Some(*sigma), front, blur);
        }
        Step::Solarize(threshold) => {
            Solarize { probability: 1.0, threshold: *threshold }.apply(true, front);
        }
        Step::Operation(operation) => operation.apply(front, back),
        Step::RandAugment { operation, magnitude, negative } => {
            let transform = RandAugment { operations: 1, magnitude: *magnitude };
            let (width, height) = (front.width, front.height);
            transform.operation(*operation, *negative, width, height).apply(front, back);
        }
        Step::ClsaStrong { operation, level, negative } => {
            let (width, height) = (front.width, front.height);
            clsa_strong::operation(*operation, *level, *negative, width, height).apply(front, back);
        }
        Step::Normalize(_) => {}
    }
}

#[test]
fn every_operation_gives_the_pixels_of_torchvision() {
    let Fixtures { cases, .. } = fixtures();
    let stored = include_bytes!("../tests/fixtures/augment.bin");
    assert!(cases.len() > 100);
    let mut scratch = Scratch::default();
    for case in &cases {
        let (width, height, seed) = case.image;
        scratch.front.copy_from(Pixels::from(&draw(width, height, seed)));
        for step in &case.steps {
            apply(step, &mut scratch);
        }
        let expected = &stored[case.offset..][..case.bytes];
        let found = scratch.front.rgb.as_flattened();
        assert_eq!(
            (scratch.front.width, scratch.front.height),
            (case.width, case.height),
            "{case:?}"
        );
        if let Some(Step::Normalize(transform)) = case.steps.last() {
            let mut values = vec![0.0; found.len()];
            normalize::write(&transform.levels(), &scratch.front.rgb, &mut values);
            let expected = expected.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            assert!(values.into_iter().eq(expected), "{case:?}");
            continue;
        }
        let differences = || found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
        // Torch adds the products of a blur in another order: a sum next to a half may round away.
        let blurred = case.steps.iter().any(|step| matches!(step, Step::GaussianBlur { .. }));
        let (allowed, share) = if blurred { (1, 1e-3) } else { (0, 0.0) };
        let worst = differences().max().expect("pixels");
        let count = differences().filter(|&difference| difference > 0).count();
        assert!(worst <= allowed, "differs by {worst}, {count} values: {case:?}");
        assert!(count as f64 <= share * found.len() as f64, "{count} values: {case:?}");
    }
}

#[test]
fn hues_of_colours_all_over_the_cube_turn_as_in_pillow() {
    let levels = || (0..=255_u8).step_by(5);
    let colors: Vec<[u8; 3]> = levels()
        .flat_map(|red| {
            levels().flat_map(move |green| levels().map(move |blue| [red, green, blue]))
        })
        .collect();
    let digests = fixtures().hue_digests;
    assert!(!digests.is_empty());
    for HueDigest { turn, digest } in digests {
        let mut canvas = Canvas { width: colors.len(), height: 1, rgb: colors.clone() };
        Adjustment::Hue(turn).apply(&mut canvas);
        let found =
            canvas.rgb.as_flattened().iter().zip(0_u64..).fold(0_u64, |sum, (&byte, index)| {
                let weight = index.wrapping_mul(2_654_435_761).wrapping_add(1);
                sum.wrapping_add(u64::from(byte).wrapping_mul(weight))
            });
        assert_eq!(found.to_string(), digest, "turn {turn}");
    }
}

#[test]
fn translations_are_cut_off_to_the_pixels_of_the_references() {
    let fixtures = fixtures();
    assert!(fixtures.shifts.len() > 10);
    for Shifts { side, rand_augment, clsa_strong } in fixtures.shifts {
        let along_x = |operation| match operation {
            Operation::TranslateX(pixels) => pixels,
            other => panic!("{other:?}"),
        };
        let found: Vec<isize> = (0..rand_augment.len())
            .map(|magnitude| {
                let transform = RandAugment { operations: 1, magnitude };
                along_x(transform.operation(Kind::TranslateX, false, side, 1))
            })
            .collect();
        assert_eq!(found, rand_augment, "side {side}");
        let found: Vec<isize> = (1..=clsa_strong.len())
            .map(|level| along_x(clsa_strong::operation(Kind::TranslateX, level, true, side, 1)))
            .collect();
        assert_eq!(found, clsa_strong, "side {side}");
    }
}
