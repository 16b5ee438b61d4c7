//! `nearkin data preview`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use image::imageops::{self, FilterType};
use image::{ImageFormat, Rgb, RgbImage};
use nearkin_augment::{Scratch, Transform, View, ViewOptions};
use nearkin_data::{Image, Random};

use super::super::{bad_input, read_setup};
use crate::output::print;

/// White space around every picture, in pixels of the sheet.
const MARGIN: u32 = 4;

/// Small pictures are shown larger, by a whole factor, until their side is this many pixels.
const LEAST_SIDE: u32 = 96;

/// A larger sheet is no use to anyone, and could not be drawn.
const LARGEST_SHEET_PIXELS: u64 = 1 << 28;

/// Draw the views of a few images, as training would see them.
///
/// Each row has an image, then its views in the order of the recipe, without normalisation. The
/// random numbers are those of the first epoch, so these are the pixels of the run.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The recipe, a TOML file.
    recipe: PathBuf,
    /// Where the images are.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// The PNG file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How many images, spread evenly over the set.
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(1..=100))]
    images: u16,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let recipe = read_setup(&arguments.recipe, &[], arguments.data.as_deref())?.recipe;
    let set = recipe.open_training_images()?;
    let views = recipe.views.iter().map(without_normalisation).collect::<Result<Vec<_>, _>>()?;
    let rows = set.len().min(usize::from(arguments.images));
    let side = views.iter().map(View::size_pixels).max().unwrap_or(1) as u32;
    let scale = LEAST_SIDE.div_ceil(side);
    let cell = side * scale + MARGIN;
    let (columns, rows_drawn) = (views.len() as u32 + 1, rows as u32);
    let (width, height) = (columns * cell + MARGIN, rows_drawn * cell + MARGIN);
    if u64::from(width) * u64::from(height) > LARGEST_SHEET_PIXELS {
        return Err(bad_input(format!(
            "a sheet of {width}x{height} pixels is too large: ask for fewer --images"
        )));
    }
    let mut sheet = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    let mut scratch = Scratch::default();
    for row in 0..rows {
        let index = row * set.len() / rows;
        let image = set.image(index)?;
        let mut place = |column: u32, picture: &RgbImage| {
            let center = |position: u32, length: u32| {
                i64::from(position * cell + MARGIN + (side * scale - length) / 2)
            };
            let (x, y) = (center(column, picture.width()), center(row as u32, picture.height()));
            imageops::replace(&mut sheet, picture, x, y);
        };
        place(0, &whole(&image, side * scale)?);
        for (number, view) in views.iter().enumerate() {
            let mut random = Random::for_view(recipe.seed, 0, index as u64, number as u64);
            let mut values = vec![0.0; view.values()];
            view.apply(&image, &mut random, &mut scratch, &mut values);
            let bytes = values.iter().map(|value| (value * 255.0).round() as u8).collect();
            let drawn = picture(view.size_pixels(), view.size_pixels(), bytes)?;
            let shown = view.size_pixels() as u32 * scale;
            let drawn = imageops::resize(&drawn, shown, shown, FilterType::Nearest);
            place(number as u32 + 1, &drawn);
        }
    }
    let out = &arguments.out;
    sheet
        .save_with_format(out, ImageFormat::Png)
        .with_context(|| format!("cannot write {}", out.display()))?;
    let names: Vec<&str> = views.iter().map(View::name).collect();
    let (file, names) = (out.display(), names.join(", "));
    print(&format!("{file}: {rows} images; columns: image, {names}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The view with `byte / 255` as its values.
fn without_normalisation(options: &ViewOptions) -> anyhow::Result<View> {
    let mut options = options.clone();
    options.transforms.retain(|transform| !matches!(transform, Transform::Normalize(_)));
    Ok(View::new(options)?)
}

/// The whole image at a longer side of `side` pixels; small ones are magnified without smoothing.
fn whole(image: &Image<'_>, side: u32) -> anyhow::Result<RgbImage> {
    let (width, height) = (image.width() as u32, image.height() as u32);
    let longer = width.max(height);
    let scaled = |length: u32| {
        let length = u64::from(length) * u64::from(side) / u64::from(longer);
        (length as u32).max(1)
    };
    let filter = if longer < side { FilterType::Nearest } else { FilterType::Triangle };
    let drawn = picture(image.width(), image.height(), image.rgb().to_vec())?;
    Ok(imageops::resize(&drawn, scaled(width), scaled(height), filter))
}

fn picture(width: usize, height: usize, rgb: Vec<u8>) -> anyhow::Result<RgbImage> {
    RgbImage::from_raw(width as u32, height as u32, rgb).context("a picture lacks pixels")
}
