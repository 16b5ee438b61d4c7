//! Exports networks for `scripts/fixtures/export.py`, which loads them with torchvision, timm and
//! onnxruntime: `cargo run --release -p nearkin-export --example parity -- DIR [SIZE]`.
//!
//! Every network has a folder with its exports and `reference.safetensors`: 16 images and the features
//! that nearkin computes from them. Images are test images of CIFAR-10 where they are found, through
//! `NEARKIN_DATA` or in `../shared/data`, else drawn ones. SIZE is `small`, the networks of the tests,
//! or `full`, those that people use (the default).

#![allow(clippy::print_stdout, reason = "an example prints what it finds")]

use std::error::Error;
use std::path::{Path, PathBuf};

use nearkin_augment::Scratch;
use nearkin_data::{Random, Source, Split};
use nearkin_export::export;
use nearkin_model::images_to_tensor;
use nearkin_recipe::Recipe;
use tch::{Device, Kind, Tensor};

#[path = "../tests/networks/mod.rs"]
mod networks;

const IMAGES: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let root = PathBuf::from(arguments.next().ok_or("give a folder")?);
    let cases = match arguments.next().as_deref() {
        Some("small") => networks::SMALL,
        Some("full") | None => networks::FULL,
        Some(other) => return Err(format!("{other}: give small or full").into()),
    };
    let source = images()?;
    for case in cases {
        let folder = root.join(case.name);
        let recipe = case.recipe()?;
        let encoder = networks::encoder(&recipe)?;
        for &(name, format) in case.formats {
            export(&encoder, &recipe, format, &folder.join(name))?;
        }
        let images = prepared(&source, &recipe)?;
        let features = encoder.extract(&images)?;
        save(&folder.join("reference.safetensors"), &[("images", images), ("features", features)])?;
    }
    println!("{}", source.kind());
    Ok(())
}

/// CIFAR-10's files, or drawn images.
fn images() -> Result<Source, toml::de::Error> {
    let given = std::env::var_os("NEARKIN_DATA").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folders = given.into_iter().chain([beside]);
    let found = folders
        .flat_map(|folder| [folder.join("cifar-10-batches-bin"), folder])
        .find(|folder| folder.join("test_batch.bin").exists());
    let text = match found {
        Some(path) => format!("dataset = \"cifar10\"\npath = {:?}", path.display().to_string()),
        None => {
            "dataset = \"shapes\"\ntrain_images = 16\ntest_images = 16\nsize_pixels = 32".to_owned()
        }
    };
    toml::from_str(&text)
}

/// The first test images as the recipe evaluates them: `[16, 3, size, size]`.
fn prepared(source: &Source, recipe: &Recipe) -> Result<Tensor, Box<dyn Error>> {
    let (set, view) = (nearkin_data::open(source, Split::Test)?, recipe.evaluation_view()?);
    let mut pixels = vec![0.0; IMAGES * view.values()];
    let mut scratch = Scratch::default();
    for (index, out) in pixels.chunks_exact_mut(view.values()).enumerate() {
        let image = set.image(index)?;
        view.apply(&image, &mut Random::for_view(0, 0, index as u64, 0), &mut scratch, out);
    }
    Ok(images_to_tensor(&pixels, view.size_pixels(), Device::Cpu)?)
}

fn save(path: &Path, tensors: &[(&str, Tensor)]) -> Result<(), Box<dyn Error>> {
    let mut contents = Vec::new();
    for (name, tensor) in tensors {
        let flat = tensor.f_contiguous()?.f_reshape([-1])?.f_to_kind(Kind::Float)?;
        let values: Vec<f32> = Vec::try_from(&flat)?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape: Vec<usize> = tensor.size().iter().map(|&side| side as usize).collect();
        contents.push((*name, shape, bytes));
    }
    let views = contents.iter().map(|(name, shape, bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        view.map(|view| (*name, view))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    std::fs::write(path, safetensors::serialize(views, None)?)?;
    Ok(())
}
