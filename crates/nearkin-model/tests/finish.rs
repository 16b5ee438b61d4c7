//! Views that are finished on tensors against those that the host makes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nearkin_augment::{Batch, Loader, LoaderOptions, Order, View, ViewOptions, Whole};
use nearkin_data::{Cifar, CifarVersion, DataError, Image, ImageSet, Split, Subset};
use nearkin_model::{DeviceChoice, HeldImages, bytes_to_tensor, finish_views, images_to_tensor};
use tch::{Device, Kind, Tensor};

/// Slopes, edges, noise and grey, of several sizes.
struct Pictures {
    sizes: Vec<(usize, usize)>,
}

impl ImageSet for Pictures {
    fn len(&self) -> usize {
        24
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        let (width, height) = self.sizes[index % self.sizes.len()];
        let mut rgb = Vec::with_capacity(width * height * 3);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            for channel in 0..3 {
                let grey = index.is_multiple_of(5) && y < height / 3;
                let c = if grey { 0 } else { channel };
                let noise = (x * 7919 + y * 104_729 + c * 1_299_709 + index * 15_485_863) % 23;
                let slope = (x * (3 + c) + y * (5 - c) + 60 * c + 31 * index) % 512;
                let edge = if (x / 9 + y / 7).is_multiple_of(4) { 90 } else { 0 };
                rgb.push((slope.min(511 - slope) + noise + edge).min(255) as u8);
            }
        }
        Ok(Image::new(width, height, rgb).unwrap())
    }

    fn label(&self, _: usize) -> Option<usize> {
        None
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn name(&self, index: usize) -> String {
        index.to_string()
    }
}

fn view(text: &str) -> View {
    View::new(toml::from_str::<ViewOptions>(&format!("name = \"test\"\n{text}")).unwrap()).unwrap()
}

fn batches(views: [View; 2], set: &Arc<dyn ImageSet>) -> Vec<Batch> {
    let mut order = Order::new(set.len(), NonZeroUsize::new(12).unwrap(), 3, true);
    let plans = (0..2).flat_map(move |epoch| [order.plan(epoch, 0), order.plan(epoch, 1)]);
    let options = LoaderOptions { workers: 2, prefetch_batches: 1 };
    let loader = Loader::start(Arc::clone(set), Arc::new(views), 5, plans, options).unwrap();
    loader.collect::<Result<_, _>>().unwrap()
}

/// The largest difference in levels between host and tensors, and the share of values that differ.
/// Neither view may normalise.
fn apart(transforms: &str, sizes: &[(usize, usize)], device: Device) -> (f64, f64) {
    let set = Arc::new(Pictures { sizes: sizes.to_vec() }) as Arc<dyn ImageSet>;
    apart_in(transforms, &set, None, device)
}

/// The same where the device makes all of a view.
fn apart_whole(transforms: &str, set: &Arc<dyn ImageSet>, device: Device) -> (f64, f64) {
    let image = set.image(0).unwrap();
    let (width, height) = (image.width(), image.height());
    let travelling = Whole { width, height, held: false };
    let found = apart_in(transforms, set, Some(travelling), device);
    let held = Whole { held: true, ..travelling };
    assert_eq!(apart_in(transforms, set, Some(held), device), found);
    found
}

fn apart_in(
    transforms: &str,
    set: &Arc<dyn ImageSet>,
    whole: Option<Whole>,
    device: Device,
) -> (f64, f64) {
    let host = view(transforms);
    // The second view draws other numbers.
    let tensors = [(); 2].map(|()| host.clone().for_device(whole).unwrap());
    assert_eq!(tensors[0].whole(), whole);
    let (mut worst, mut differing) = (0.0_f64, Vec::new());
    for (made, begun) in batches([host.clone(), host], set).iter().zip(&batches(tensors, set)) {
        assert_eq!(made.images, begun.images);
        let images = whole.map(|Whole { width, height, held }| {
            if held {
                let threads = NonZeroUsize::new(2).unwrap();
                let held = HeldImages::read(set.as_ref(), (width, height), device, threads);
                held.unwrap().select(&begun.images).unwrap()
            } else {
                bytes_to_tensor(&begun.whole, (width, height), device).unwrap()
            }
        });
        for (made, begun) in made.views.iter().zip(&begun.views) {
            assert!(begun.pixels.is_empty() && made.unfinished.is_none());
            let expected = images_to_tensor(&made.pixels, made.size_pixels, device).unwrap();
            let unfinished = begun.unfinished.as_ref().unwrap();
            let found = finish_views(unfinished, begun.size_pixels, images.as_ref(), device);
            let found = found.unwrap();
            assert_eq!(found.size(), expected.size());
            assert_eq!((found.stride(), found.kind()), (expected.stride(), Kind::Float));
            let levels = ((found - expected) * 255.0).abs();
            worst = worst.max(levels.max().double_value(&[]));
            differing.push(levels.gt(0.5).to_kind(Kind::Double).mean(Kind::Double));
        }
    }
    (worst, Tensor::stack(&differing, 0).mean(Kind::Double).double_value(&[]))
}

const CROP: &str = "{ random_resized_crop = { size = 32, scale = [0.2, 1.0] } }";
const SIZES: [(usize, usize); 3] = [(32, 32), (57, 41), (30, 64)];

#[test]
fn exact_transforms_give_the_pixels_of_the_host() {
    for step in [
        "{ horizontal_flip = {} }",
        "{ grayscale = { probability = 0.5 } }",
        "{ solarize = { probability = 0.5 } }",
        "{ solarize = { probability = 1.0, threshold = 0.0 } }",
        "{ color_jitter = { brightness = 0.8 } }",
        "{ color_jitter = { contrast = 0.8 } }",
        "{ color_jitter = { saturation = 0.8 } }",
        "{ color_jitter = { hue = 0.5 } }",
        "{ color_jitter = { probability = 0.8, brightness = 0.8, contrast = 0.8, saturation = 0.8, \
         hue = 0.2 } }",
    ] {
        let transforms = format!("transforms = [{CROP}, {step}]");
        let (worst, _) = apart(&transforms, &SIZES, Device::Cpu);
        assert!(worst < 1e-3, "{step}: {worst} levels");
    }
}

#[test]
fn a_blur_differs_by_a_level_where_a_sum_is_next_to_a_half() {
    for blur in ["kernel_size = 3", "kernel_size = 13", "kernel_size = 13, sigma = [2.0, 9.0]"] {
        // A kernel that is wider than the image is mirrored more than once.
        for size in [32, 5, 1] {
            let transforms = format!(
                "transforms = [{{ random_resized_crop = {{ size = {size} }} }}, \
                 {{ gaussian_blur = {{ probability = 0.7, {blur} }} }}]"
            );
            let (worst, share) = apart(&transforms, &SIZES, Device::Cpu);
            assert!(worst < 1.001 && share < 1e-3, "{blur}: {worst} levels, {share}");
        }
    }
}

#[test]
fn presets_give_the_pixels_of_the_host_to_two_levels() {
    let device = DeviceChoice::Auto.open().unwrap();
    for preset in [
        "simclr",
        "moco-v2",
        "byol-a",
        "byol-b",
        "sce-weak",
        "sce-strong",
        "sce-alpha",
        "sce-beta",
        "swav-global",
        "evaluation",
        "linear-training",
        "linear-training-small",
    ] {
        let plain = "normalize = { mean_rgb = [0.0, 0.0, 0.0], std_rgb = [1.0, 1.0, 1.0] }";
        let view = format!("preset = \"{preset}\"\nsize = 32\n{plain}");
        let (worst, share) = apart(&view, &SIZES, device);
        assert!(worst < 2.001 && share < 5e-3, "{preset}: {worst} levels, {share}");
    }
}

#[test]
fn normalisation_is_that_of_the_host_to_the_bit() {
    let transforms = format!(
        "transforms = [{CROP}, {{ normalize = {{ mean_rgb = [0.485, 0.456, 0.406], \
         std_rgb = [0.229, 0.224, 0.225] }} }}]"
    );
    let (worst, _) = apart(&transforms, &SIZES, Device::Cpu);
    assert!(worst == 0.0, "{worst}");
}

#[test]
fn a_transform_without_a_form_on_the_device_is_named() {
    let fnc = view("preset = \"fnc\"\nsize = 32");
    let message = fnc.for_device(None).unwrap_err().to_string();
    assert!(
        message.starts_with("view `test`: rand_augment has no form on the device"),
        "{message}"
    );
    // In front of a crop it runs on the host.
    let before =
        format!("transforms = [{{ rand_augment = {{}} }}, {CROP}, {{ horizontal_flip = {{}} }}]");
    let (worst, _) = apart(&before, &SIZES, Device::Cpu);
    assert!(worst < 1e-3, "{worst}");
}

/// Of one size each, in which rows and columns shrink and grow, and either is resized first.
const ONE_SIZES: [(usize, usize); 5] = [(32, 32), (57, 41), (30, 64), (9, 90), (96, 96)];

fn pictures(size: (usize, usize)) -> Arc<dyn ImageSet> {
    Arc::new(Pictures { sizes: vec![size] })
}

#[test]
fn crops_and_sizes_made_on_the_device_give_the_pixels_of_the_host_to_the_bit() {
    let device = DeviceChoice::Auto.open().unwrap();
    for size in ONE_SIZES {
        for transforms in [
            "{ random_resized_crop = { size = 32, scale = [0.08, 1.0] } }",
            "{ random_resized_crop = { size = 24, interpolation = \"bicubic\" } }",
            "{ random_resized_crop = { size = 7, ratio = [0.1, 9.0] } }",
            "{ random_resized_crop = { size = 32, ratio = [0.1, 9.0], interpolation = \"bicubic\" } }",
            "{ resize = { size = 20 } }, { center_crop = { size = 20 } }",
            "{ resize = { size = 40, interpolation = \"bicubic\" } }, { center_crop = { size = 33 } }",
            "{ center_crop = { size = 17 } }, { random_resized_crop = { size = 16 } }",
        ] {
            let view = format!("transforms = [{transforms}]");
            let (worst, _) = apart_whole(&view, &pictures(size), device);
            assert!(worst < 1e-3, "{size:?}, {transforms}: {worst} levels");
        }
    }
}

#[test]
fn what_only_moves_pixels_is_the_same_on_the_device() {
    for size in ONE_SIZES {
        for transforms in [
            "{ random_crop = { size = 16 } }",
            "{ random_crop = { size = 32, padding = 4 } }, { horizontal_flip = {} }",
            "{ random_crop = { size = 40, padding = 39 } }",
            "{ center_crop = { size = 21 } }",
            "{ center_crop = { size = 50 } }, { horizontal_flip = {} }",
        ] {
            let view = format!("transforms = [{transforms}]");
            let (worst, _) = apart_whole(&view, &pictures(size), Device::Cpu);
            assert!(worst < 1e-3, "{size:?}, {transforms}: {worst} levels");
        }
    }
}

/// In front of a crop, images need not be square.
#[test]
fn what_comes_before_a_crop_runs_on_the_device_too() {
    let steps = "{ gaussian_blur = { probability = 0.7, kernel_size = 13 } }, \
                 { color_jitter = { brightness = 0.4, contrast = 0.4, hue = 0.1 } }";
    let view = format!("transforms = [{steps}, {CROP}]");
    for size in ONE_SIZES {
        let (worst, share) = apart_whole(&view, &pictures(size), Device::Cpu);
        assert!(worst < 3.001 && share < 5e-3, "{size:?}: {worst} levels, {share}");
    }
}

/// The folder with data sets, if there is one: `NEARKIN_DATA`, or `../shared/data`.
fn data() -> Option<PathBuf> {
    let given = std::env::var_os("NEARKIN_DATA").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    given.or(Some(beside)).filter(|folder| folder.join("cifar-10-batches-bin").exists())
}

const PRESETS: [&str; 6] =
    ["simclr", "moco-v2", "byol-b", "sce-strong", "evaluation", "linear-training-small"];

fn assert_presets_agree(set: &Arc<dyn ImageSet>) {
    let device = DeviceChoice::Auto.open().unwrap();
    for preset in PRESETS {
        let plain = "normalize = { mean_rgb = [0.0, 0.0, 0.0], std_rgb = [1.0, 1.0, 1.0] }";
        let view = format!("preset = \"{preset}\"\nsize = 32\n{plain}");
        let (worst, share) = apart_whole(&view, set, device);
        assert!(worst < 2.001 && share < 5e-3, "{preset}: {worst} levels, {share}");
    }
}

#[test]
fn presets_made_on_the_device_give_the_pixels_of_the_host_to_two_levels() {
    for size in [(32, 32), (48, 40)] {
        assert_presets_agree(&pictures(size));
    }
}

#[test]
fn presets_made_on_the_device_of_real_images_give_the_pixels_of_the_host_to_two_levels() {
    let Some(folder) = data() else {
        eprintln!("skipped: set NEARKIN_DATA to the folder that holds cifar-10-batches-bin");
        return;
    };
    let folder = folder.join("cifar-10-batches-bin");
    let all = Cifar::open(CifarVersion::Cifar10, &folder, Split::Test).unwrap();
    assert_presets_agree(&(Arc::new(Subset::random(all, 24, 1)) as Arc<dyn ImageSet>));
}
