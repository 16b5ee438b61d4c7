//! Buffers that live as long as a thread, so that no view allocates.

use nearkin_data::Image;

use crate::blur::BlurBuffers;
use crate::resample::Resampler;

/// Borrowed pixels: a whole picture, or a window into one.
#[derive(Clone, Copy)]
pub(crate) struct Pixels<'a> {
    pub(crate) width: usize,
    pub(crate) height: usize,
    stride: usize,
    rgb: &'a [[u8; 3]],
}

impl<'a> Pixels<'a> {
    pub(crate) fn row(self, y: usize) -> &'a [[u8; 3]] {
        &self.rgb[y * self.stride..][..self.width]
    }

    /// The window of the given size whose top left corner is at (`left`, `top`).
    pub(crate) fn window(self, left: usize, top: usize, width: usize, height: usize) -> Self {
        Self { width, height, rgb: &self.rgb[top * self.stride + left..], ..self }
    }
}

impl<'a> From<&'a Image<'_>> for Pixels<'a> {
    fn from(image: &'a Image<'_>) -> Self {
        let (rgb, _) = image.rgb().as_chunks();
        Self { width: image.width(), height: image.height(), stride: image.width(), rgb }
    }
}

/// A picture whose buffer is used again for the next one.
#[derive(Default)]
pub(crate) struct Canvas {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rgb: Vec<[u8; 3]>,
}

impl Canvas {
    /// Takes a size; the pixels are left over from the picture before, to be overwritten.
    pub(crate) fn reshape(&mut self, width: usize, height: usize) {
        (self.width, self.height) = (width, height);
        self.rgb.resize(width * height, [0; 3]);
    }

    pub(crate) fn copy_from(&mut self, source: Pixels<'_>) {
        self.reshape(source.width, source.height);
        for (y, row) in self.rgb.chunks_exact_mut(source.width).enumerate() {
            row.copy_from_slice(source.row(y));
        }
    }

    pub(crate) fn pixels(&self) -> Pixels<'_> {
        Pixels { width: self.width, height: self.height, stride: self.width, rgb: &self.rgb }
    }
}

/// Buffers for [`View::apply`](crate::View::apply), to be made once per thread.
///
/// They grow to the largest picture seen: about 6 bytes per pixel of what a transform gives, and 24
/// where a view blurs.
#[derive(Default)]
pub struct Scratch {
    pub(crate) front: Canvas,
    pub(crate) back: Canvas,
    pub(crate) resampler: Resampler,
    pub(crate) blur: BlurBuffers,
}
