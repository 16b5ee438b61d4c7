//! A view, or the end of it, for a whole batch at once on the device.
//!
//! Images of one size can be left to the device as they are; of others the loader's threads crop and
//! resize, and leave colours, blur and the rest. The device makes either of all images in a few
//! operations and takes bytes from the host in place of floats, or indices of images that it holds. The
//! numbers were drawn on the host, and every step rounds to whole levels as its form on the host does
//! (`nearkin-augment`): both give the same pixels, but for a level where a sum next to a half rounds
//! the other way.
//!
//! Values are levels from 0 to 255 in single precision, `[images, height, width, 3]`, until they are
//! normalised.

use nearkin_augment::{Adjustment, Begun, Drawn, GaussianBlur, Normalize, Transform, Unfinished};
use nearkin_torch::{ExactProducts, send};
use tch::{Device, Kind, TchError, Tensor};

use crate::images::bytes_to_tensor;
use crate::resample::resized;

/// Red, green and blue are the last dimension.
const CHANNELS: i64 = -1;

/// Makes what is left of a view and gives its images as [`images_to_tensor`] does: of logical shape
/// `[images, 3, size, size]`, channels last, on `device`.
///
/// `whole` are the images of the batch as they are in the set, on `device`; a view that the host
/// began does not need them.
///
/// [`images_to_tensor`]: crate::images_to_tensor
pub fn finish_views(
    unfinished: &Unfinished,
    size_pixels: usize,
    whole: Option<&Tensor>,
    device: Device,
) -> Result<Tensor, TchError> {
    let bytes = match (&unfinished.begun, whole) {
        (Begun::Here(bytes), _) => bytes_to_tensor(bytes, (size_pixels, size_pixels), device)?,
        (Begun::Whole(_), Some(images)) => images.shallow_clone(),
        (Begun::Whole(_), None) => {
            return Err(TchError::Torch("a view was begun without its images".to_owned()));
        }
    };
    let mut values = bytes.f_to_kind(Kind::Float)?;
    let steps = unfinished.transforms.len();
    for (number, transform) in unfinished.transforms.iter().enumerate() {
        let drawn = unfinished.drawn.iter().skip(number).step_by(steps);
        values = apply(transform, drawn, &values)?;
    }
    normalize(&values.f_contiguous()?, &unfinished.normalize)?.f_permute([0, 3, 1, 2])
}

/// One transform on all images, for each of which there is what it drew.
fn apply<'a>(
    transform: &Transform,
    drawn: impl Iterator<Item = &'a Drawn> + Clone,
    values: &Tensor,
) -> Result<Tensor, TchError> {
    let chosen = |applies: &dyn Fn(&Drawn) -> bool| -> Vec<i64> {
        (0..).zip(drawn.clone()).filter(|(_, drawn)| applies(drawn)).map(|(row, _)| row).collect()
    };
    let applies = || chosen(&|drawn| *drawn == Drawn::Applies(true));
    match transform {
        Transform::RandomResizedCrop(_)
        | Transform::RandomCrop(_)
        | Transform::Resize(_)
        | Transform::CenterCrop(_) => resized(transform, drawn, values),
        Transform::HorizontalFlip(_) => on_rows(values, &applies(), |part| part.f_flip([2])),
        Transform::Grayscale(_) => {
            on_rows(values, &applies(), |part| luma(part)?.f_expand_as(part))
        }
        Transform::Solarize(solarize) => on_rows(values, &applies(), |part| {
            let inverted = part.f_neg()?.f_add_scalar(255)?;
            inverted.f_where_self(&part.f_ge(i64::from(solarize.first_inverted()))?, part)
        }),
        Transform::GaussianBlur(blur) => {
            let rows = chosen(&|drawn| matches!(drawn, Drawn::Sigma(Some(_))));
            let sigmas = drawn.filter_map(|drawn| match drawn {
                Drawn::Sigma(sigma) => *sigma,
                _ => None,
            });
            let kernels: Vec<f32> = sigmas.flat_map(|sigma| blur.weights(sigma)).collect();
            on_rows(values, &rows, |part| blurred(part, blur, &kernels))
        }
        Transform::ColorJitter(_) => {
            let changes: Vec<[Option<Adjustment>; 4]> = drawn
                .map(|drawn| match drawn {
                    Drawn::Changes(changes) => *changes,
                    _ => [None; 4],
                })
                .collect();
            jittered(values, &changes)
        }
        _ => Err(TchError::Torch(format!("{} has no form on the device", transform.name()))),
    }
}

/// Changes some images of a batch.
fn on_rows(
    values: &Tensor,
    rows: &[i64],
    change: impl FnOnce(&Tensor) -> Result<Tensor, TchError>,
) -> Result<Tensor, TchError> {
    if rows.is_empty() {
        return Ok(values.shallow_clone());
    }
    if rows.len() as i64 == values.size()[0] {
        return change(values);
    }
    let rows = send(rows, &[rows.len() as i64], values.device())?;
    values.f_index_copy(0, &rows, &change(&values.f_index_select(0, &rows)?)?)
}

/// A number for each image, to be combined with `[images, size, size, n]`.
fn per_image(numbers: &[f32], values: &Tensor) -> Result<Tensor, TchError> {
    send(numbers, &[numbers.len() as i64, 1, 1, 1], values.device())
}

/// `[images, size, size, 1]`; the weights are those of the host with their 16 fraction bits, which
/// leave the sum exact.
fn luma(values: &Tensor) -> Result<Tensor, TchError> {
    let weights = send(&[19595.0_f32, 38470.0, 7471.0], &[3], values.device())?;
    let products = values.f_mul(&weights)?;
    let sums = products.f_sum_dim_intlist([CHANNELS].as_slice(), true, Kind::Float)?;
    sums.f_add_scalar(32768)?.f_mul_scalar(1.0 / 65536.0)?.f_floor()
}

/// Brightness, contrast, saturation and hue of every image in its own order.
fn jittered(values: &Tensor, changes: &[[Option<Adjustment>; 4]]) -> Result<Tensor, TchError> {
    let mut values = values.shallow_clone();
    for turn in 0..4 {
        values = blended(&values, changes.iter().map(|changes| changes[turn]))?;
        let hue = |change: Option<Adjustment>| match change {
            Some(Adjustment::Hue(turn)) => Some(turn),
            _ => None,
        };
        let turns =
            (0..).zip(changes).filter_map(|(row, changes)| Some((row, hue(changes[turn])?)));
        let (rows, turns): (Vec<i64>, Vec<f64>) = turns.unzip();
        values = on_rows(&values, &rows, |part| hue_turned(part, &turns))?;
    }
    Ok(values)
}

/// Brightness, contrast and saturation move every value away from a base: black, the mean luma, or
/// the luma of its pixel. With a factor of 1 it stays where it is.
fn blended(
    values: &Tensor,
    changes: impl Iterator<Item = Option<Adjustment>>,
) -> Result<Tensor, TchError> {
    let (mut by_mean, mut by_luma, mut factors) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        let (mean, luma, factor) = match change {
            Some(Adjustment::Brightness(factor)) => (0.0, 0.0, factor),
            Some(Adjustment::Contrast(factor)) => (1.0, 0.0, factor),
            Some(Adjustment::Saturation(factor)) => (0.0, 1.0, factor),
            Some(Adjustment::Hue(_)) | None => (0.0, 0.0, 1.0),
        };
        by_mean.push(mean);
        by_luma.push(luma);
        factors.push(factor as f32);
    }
    if factors.iter().all(|&factor| factor == 1.0) {
        return Ok(values.shallow_clone());
    }
    let luma = luma(values)?;
    let mean = luma.f_mean_dim([1_i64, 2].as_slice(), true, Kind::Double)?;
    let mean = mean.f_add_scalar(0.5)?.f_floor()?.f_to_kind(Kind::Float)?;
    let base = mean.f_mul(&per_image(&by_mean, values)?)?;
    let base = base.f_add(&luma.f_mul(&per_image(&by_luma, values)?)?)?;
    let away = values.f_sub(&base)?.f_mul(&per_image(&factors, values)?)?;
    // What is cut off of a negative number does not matter, since it becomes 0.
    base.f_add(&away)?.f_floor()?.f_clamp(0, 255)
}

/// Turns the hue by shares of the circle through Pillow's HSV of bytes, as the host does.
fn hue_turned(values: &Tensor, turns: &[f64]) -> Result<Tensor, TchError> {
    let channels = values.f_split(1, CHANNELS)?;
    let [red, green, blue] = &channels[..] else {
        return Err(TchError::Shape("images of 3 channels were expected".into()));
    };
    let value = values.f_amax([CHANNELS].as_slice(), true)?;
    let lowest = values.f_amin([CHANNELS].as_slice(), true)?;
    let chroma = value.f_sub(&lowest)?;
    let middle = red.f_add(green)?.f_add(blue)?.f_sub(&value)?.f_sub(&lowest)?;
    let quotient = value.f_sub(&middle)?.f_div(&chroma.f_clamp_min(1)?)?;
    let (of_red, of_green) = (red.f_eq_tensor(&value)?, green.f_eq_tensor(&value)?);
    let choose = |red: &Tensor, green: &Tensor, blue: &Tensor| {
        red.f_where_self(&of_red, &green.f_where_self(&of_green, blue)?)
    };
    let number = |number: f64| Tensor::f_full([1], number, (Kind::Double, values.device()));
    let start = choose(&number(0.0)?, &number(2.0)?, &number(4.0)?)?;
    let above = choose(green, blue, red)?;
    let below = choose(blue, red, green)?;
    let sign = number(1.0)?.f_where_self(&above.f_ge_tensor(&below)?, &number(-1.0)?)?;
    // Double precision as on the host: a hue that is a level off moves colours by several.
    let distance = quotient.f_to_kind(Kind::Double)?.f_neg()?.f_add_scalar(1)?;
    let single = |tensor: Tensor| tensor.f_to_kind(Kind::Float)?.f_to_kind(Kind::Double);
    let sixths = single(start.f_add(&sign.f_mul(&distance)?)?)?;
    let whole = sixths.f_lt(0.0)?.f_to_kind(Kind::Double)?;
    let circle = single(sixths.f_mul_scalar(1.0 / 6.0)?.f_add(&whole)?)?;
    let hue = circle.f_mul_scalar(255)?.f_floor()?.f_to_kind(Kind::Float)?;
    let saturation = chroma.f_mul_scalar(255)?.f_div(&value.f_clamp_min(1)?)?.f_floor()?;

    let shifts: Vec<f32> = turns.iter().map(|turn| (turn * 255.0).trunc() as f32).collect();
    let hue = hue.f_add(&per_image(&shifts, values)?)?.f_remainder(256)?;
    let sixths = hue.f_mul_scalar(6)?;
    let sector = sixths.f_div_scalar(255)?.f_floor()?;
    let fraction = sixths.f_sub(&sector.f_mul_scalar(255)?)?.f_div_scalar(255)?;
    let even = sector.f_remainder(2)?.f_eq(0)?;
    // How much of the saturation the middle channel loses.
    let loss = fraction.f_neg()?.f_add_scalar(1)?.f_where_self(&even, &fraction)?;
    let share = saturation.f_div_scalar(255)?;
    let level =
        |lost: &Tensor| value.f_mul(&lost.f_neg()?.f_add_scalar(1)?)?.f_add_scalar(0.5)?.f_floor();
    let (middle, lowest) = (level(&share.f_mul(&loss)?)?, level(&share)?);
    let sector = sector.f_remainder(6)?;
    let pick = |first: [i64; 2], second: [i64; 2]| {
        let is = |[one, other]: [i64; 2]| sector.f_eq(one)?.f_logical_or(&sector.f_eq(other)?);
        value.f_where_self(&is(first)?, &middle.f_where_self(&is(second)?, &lowest)?)
    };
    Tensor::f_cat(&[pick([0, 5], [1, 4])?, pick([1, 2], [0, 3])?, pick([3, 4], [2, 5])?], CHANNELS)
}

/// Blurs each image with its own kernel, by two products with a band matrix per image; the band is
/// folded back at the borders, which mirrors the image there.
fn blurred(values: &Tensor, blur: &GaussianBlur, kernels: &[f32]) -> Result<Tensor, TchError> {
    let images = values.size()[0];
    let (half, device) = (blur.kernel_size as i64 / 2, values.device());
    let kernels = send(kernels, &[images, 1, blur.kernel_size as i64], device)?;
    let _exact = ExactProducts::begin()?;
    let along = |values: &Tensor| {
        let (side, other) = (values.size()[1], values.size()[2]);
        let lines = values.f_reshape([images, side, other * 3])?;
        let blurred = band(side, half, &kernels)?.f_bmm(&lines)?;
        blurred.f_view([images, side, other, 3])?.f_transpose(1, 2)
    };
    along(&along(values)?)?.f_round()?.f_contiguous()
}

/// A kernel `[images, 1, 2 half + 1]` at every position of an axis of length `side`:
/// `[images, side, side]`.
fn band(side: i64, half: i64, kernels: &Tensor) -> Result<Tensor, TchError> {
    let last = (side - 1).max(1);
    // A position beyond the border is mirrored about the outermost pixel.
    let mirrored = |position: i64| match position.rem_euclid(2 * last) {
        _ if side == 1 => 0,
        folded => folded.min(2 * last - folded),
    };
    let places: Vec<i64> = (0..side).flat_map(|x| (x - half..=x + half).map(mirrored)).collect();
    let (images, device) = (kernels.size()[0], kernels.device());
    let places = send(&places, &[1, side, 2 * half + 1], device)?;
    let places = places.f_expand([images, -1, -1], false)?;
    let kernels = kernels.f_expand([-1, side, -1], false)?;
    let band = Tensor::f_zeros([images, side, side], (Kind::Float, device))?;
    band.f_scatter_add(2, &places, &kernels)
}

fn normalize(values: &Tensor, normalize: &Normalize) -> Result<Tensor, TchError> {
    let device = values.device();
    let row = |numbers: [f64; 3]| send(&numbers.map(|number| number as f32), &[3], device);
    let (mean, std) = (row(normalize.mean_rgb)?, row(normalize.std_rgb)?);
    values.f_div_scalar(255)?.f_sub(&mean)?.f_div(&std)
}
