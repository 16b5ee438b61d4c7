//! Images that are cut from one large image, as from an aerial survey.

use nearkin::data::DataError;
use nearkin::{Image, ImageSet};

/// The tiles of a square image, row by row.
pub(crate) struct Tiles {
    rgb: Vec<u8>,
    per_row: usize,
    tile_pixels: usize,
}

impl Tiles {
    /// Cuts an image of `side` pixels, a multiple of `tile_pixels`. It is drawn here; a real set would read
    /// it from somewhere.
    pub(crate) fn cut(side: usize, tile_pixels: usize) -> Self {
        let color = |place: usize| {
            let (x, y) = (place % side, place / side);
            [x * y / 64, x + y, x ^ y].map(|value| value as u8)
        };
        let rgb = (0..side * side).flat_map(color).collect();
        Self { rgb, per_row: side / tile_pixels, tile_pixels }
    }

    pub(crate) fn count(&self) -> usize {
        self.per_row * self.per_row
    }
}

impl ImageSet for Tiles {
    fn len(&self) -> usize {
        self.count()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        let (row, column) = (index / self.per_row, index % self.per_row);
        let bytes_per_row = self.per_row * self.tile_pixels * 3;
        let bytes = self.tile_pixels * 3;
        let lines = (0..self.tile_pixels).flat_map(|line| {
            let begin = (row * self.tile_pixels + line) * bytes_per_row + column * bytes;
            &self.rgb[begin..begin + bytes]
        });
        let rgb: Vec<u8> = lines.copied().collect();
        Image::new(self.tile_pixels, self.tile_pixels, rgb)
            .ok_or_else(|| DataError::Request(format!("{} has no pixels", self.name(index))))
    }

    fn label(&self, _: usize) -> Option<usize> {
        None
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn name(&self, index: usize) -> String {
        format!("tile {index}")
    }
}
