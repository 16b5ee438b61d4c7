//! The step from pixels to tensors.

use tch::{Device, TchError, Tensor};

/// Interleaved pixels `[batch, side, side, 3]` as a tensor of logical shape
/// `[batch, 3, side, side]`. The bytes keep their order: that is what channels-last means.
pub fn images_to_tensor(
    pixels: &[f32],
    side_pixels: usize,
    device: Device,
) -> Result<Tensor, TchError> {
    let side = side_pixels as i64;
    Tensor::f_from_slice(pixels)?
        .f_view([-1, side, side, 3])?
        .f_permute([0, 3, 1, 2])?
        .f_to_device(device)
}
