//! The step from pixels to tensors.

use nearkin_device::send;
use tch::{Device, TchError, Tensor};

/// Interleaved pixels `[batch, side, side, 3]` as a tensor of logical shape
/// `[batch, 3, side, side]`. The bytes keep their order: that is what channels-last means.
pub fn images_to_tensor(
    pixels: &[f32],
    side_pixels: usize,
    device: Device,
) -> Result<Tensor, TchError> {
    let side = side_pixels as i64;
    let images = Tensor::f_from_slice(pixels)?.f_view([-1, side, side, 3])?;
    send(&images, device)?.f_permute([0, 3, 1, 2])
}

/// Images of one size, `[batch, height, width, 3]`, as they are.
pub fn bytes_to_tensor(
    bytes: &[u8],
    (width, height): (usize, usize),
    device: Device,
) -> Result<Tensor, TchError> {
    let images = Tensor::f_from_slice(bytes)?.f_view([-1, height as i64, width as i64, 3])?;
    send(&images, device)
}
