//! The one form in which pixels travel between crates.

use std::borrow::Cow;

/// An 8-bit RGB image, rows from top to bottom, `[height, width, 3]` interleaved.
///
/// Sets that hold decoded images in memory lend their bytes; the others hand over what they decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    width: usize,
    height: usize,
    rgb: Cow<'a, [u8]>,
}

impl<'a> Image<'a> {
    /// Wraps `height * width * 3` bytes; `None` if the length does not match or a side is zero.
    pub fn new(width: usize, height: usize, rgb: impl Into<Cow<'a, [u8]>>) -> Option<Self> {
        let rgb = rgb.into();
        let expected = width.checked_mul(height)?.checked_mul(3)?;
        (expected > 0 && rgb.len() == expected).then_some(Self { width, height, rgb })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The bytes, copied only if they were borrowed.
    pub fn into_rgb(self) -> Vec<u8> {
        self.rgb.into_owned()
    }

    /// An image that owns its bytes.
    pub fn into_owned(self) -> Image<'static> {
        Image { width: self.width, height: self.height, rgb: Cow::Owned(self.rgb.into_owned()) }
    }
}
