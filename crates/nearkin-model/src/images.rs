//! The step from pixels to tensors.

use nearkin_torch::send;
use tch::{Device, TchError, Tensor};

/// Interleaved pixels `[batch, side, side, 3]` as a tensor of logical shape
/// `[batch, 3, side, side]`. The bytes keep their order: that is what channels-last means.
pub fn images_to_tensor(
    pixels: &[f32],
    side_pixels: usize,
    device: Device,
) -> Result<Tensor, TchError> {
    let images = interleaved(pixels.len(), (side_pixels, side_pixels));
    send(pixels, &images, device)?.f_permute([0, 3, 1, 2])
}

/// Images of one size, `[batch, height, width, 3]`, as they are.
pub fn bytes_to_tensor(
    bytes: &[u8],
    (width, height): (usize, usize),
    device: Device,
) -> Result<Tensor, TchError> {
    send(bytes, &interleaved(bytes.len(), (width, height)), device)
}

/// `[batch, height, width, 3]` for so many numbers.
fn interleaved(numbers: usize, (width, height): (usize, usize)) -> [i64; 4] {
    let of_an_image = (width * height * 3).max(1);
    [numbers / of_an_image, height, width, 3].map(|side| side as i64)
}
