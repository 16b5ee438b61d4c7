//! Writes a contact sheet of the built-in set, one class per row, to look at:
//! `cargo run -p nearkin-data --example shapes_sheet -- sheet.png [size in pixels]`.

use std::error::Error;

use image::{RgbImage, imageops};
use nearkin_data::{ImageSet, Shapes, ShapesOptions, Split};

const COLUMNS: usize = 12;
const GAP_PIXELS: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: shapes_sheet SHEET.png [SIZE_PIXELS]")?;
    let size_pixels = arguments.next().map_or(Ok(32), |size| size.parse())?;
    let options = ShapesOptions { seed: 0, split: Split::Train, images: 10 * COLUMNS, size_pixels };
    let shapes = Shapes::new(options)?;
    let step = size_pixels + GAP_PIXELS;
    let mut sheet = RgbImage::new((COLUMNS * step) as u32, (10 * step) as u32);
    for index in 0..shapes.len() {
        let side = size_pixels as u32;
        let image = RgbImage::from_raw(side, side, shapes.image(index)?.into_rgb())
            .ok_or("the image is not of its size")?;
        let (row, column) = (index % 10, index / 10);
        imageops::replace(&mut sheet, &image, (column * step) as i64, (row * step) as i64);
    }
    sheet.save(&path)?;
    Ok(())
}
