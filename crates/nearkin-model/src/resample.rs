//! Crops and changes of size of a batch, each image by its own box.
//!
//! Every pixel of a resized row is a sum over the row, so an axis of one image is resized by a product
//! with a matrix, whose rows hold the weights that `nearkin-augment` computes (Pillow's, with 22
//! fraction bits). A batch is a product of stacks of matrices for each axis, and levels are rounded
//! between the two, as on the host.
//!
//! Single precision cannot hold a sum of such weights times bytes. So each weight is the sum of two, of
//! 11 bits each, whose products add up without any rounding in whatever order a device takes: the
//! pixels are those of the host to the bit.
//!
//! Images are levels `[images, height, width, 3]` in single precision.

use nearkin_augment::{Drawn, Interpolation, Part, Span, Transform};
use nearkin_torch::{ExactProducts, send};
use tch::{Device, Kind, TchError, Tensor};

/// One of the transforms that give images another size, by what it drew for each image.
pub(crate) fn resized<'a>(
    transform: &Transform,
    drawn: impl Iterator<Item = &'a Drawn>,
    images: &Tensor,
) -> Result<Tensor, TchError> {
    let parts: Vec<Part> = drawn
        .filter_map(|drawn| match drawn {
            Drawn::Part(part) => Some(*part),
            _ => None,
        })
        .collect();
    let (height, width) = (images.size()[1], images.size()[2]);
    let (columns, rows) = transform.size_after((width as usize, height as usize));
    let (columns, rows) = (columns as i64, rows as i64);
    let device = images.device();
    let spans_of = |axis: fn(&Part) -> Span| -> Result<Spans, TchError> {
        Spans::of(&parts.iter().map(axis).collect::<Vec<_>>(), device)
    };
    let (across, down) = (spans_of(|part| part.columns)?, spans_of(|part| part.rows)?);
    let interpolation = match transform {
        Transform::RandomResizedCrop(transform) => Some(transform.interpolation),
        Transform::Resize(transform) => Some(transform.interpolation),
        _ => None,
    };
    let matrices = |spans: &Spans, from: i64, to: i64| match interpolation {
        Some(interpolation) => spans.weights(from, to, interpolation),
        None => spans.copies(from, to),
    };
    let (across, down) = (matrices(&across, width, columns)?, matrices(&down, height, rows)?);

    // The sums decide which level a value becomes.
    let _exact = ExactProducts::begin()?;
    let rows_first: Vec<i64> =
        (0..).zip(&parts).filter(|(_, part)| !part.columns_first).map(|(row, _)| row).collect();
    let columns_first: Vec<i64> =
        (0..).zip(&parts).filter(|(_, part)| part.columns_first).map(|(row, _)| row).collect();
    if columns_first.is_empty() {
        return product_of_rows(&down, &product_along_rows(&across, images)?);
    }
    if rows_first.is_empty() {
        return product_along_rows(&across, &product_of_rows(&down, images)?);
    }
    let select = |tensor: &Tensor, rows: &Tensor| tensor.f_index_select(0, rows);
    let chosen = |rows: &[i64]| send(rows, &[rows.len() as i64], device);
    let (one, other) = (chosen(&rows_first)?, chosen(&columns_first)?);
    let one = {
        let along = product_along_rows(&across.select(&one)?, &select(images, &one)?)?;
        product_of_rows(&down.select(&one)?, &along)?
    };
    let other = {
        let of = product_of_rows(&down.select(&other)?, &select(images, &other)?)?;
        product_along_rows(&across.select(&other)?, &of)?
    };
    let mut place = vec![0; parts.len()];
    for (now, &before) in (0..).zip(rows_first.iter().chain(&columns_first)) {
        place[before as usize] = now;
    }
    select(&Tensor::f_cat(&[one, other], 0)?, &chosen(&place)?)
}

/// Every row becomes another: `[images, height, width, 3]` to `[images, height, to, 3]`.
fn product_along_rows(matrices: &Matrices, images: &Tensor) -> Result<Tensor, TchError> {
    product_of_rows(matrices, &images.f_transpose(1, 2)?)?.f_transpose(1, 2)
}

/// Every column becomes another: `[images, height, width, 3]` to `[images, to, width, 3]`.
fn product_of_rows(matrices: &Matrices, images: &Tensor) -> Result<Tensor, TchError> {
    let (count, height, width) = (images.size()[0], images.size()[1], images.size()[2]);
    let lines = images.f_reshape([count, height, width * 3])?;
    let mut sums = matrices.high.f_bmm(&lines)?;
    if let Some(low) = &matrices.low {
        // Whole levels and what is left of them, so that no bit of the smaller sum is lost.
        sums = sums.f_add_scalar_(0.5)?;
        let mut rest = sums.f_frac()?;
        let carry = rest.f_add_(&low.f_bmm(&lines)?)?.f_floor_()?;
        sums = sums.f_trunc_()?.f_add_(&carry)?.f_clamp_(0, 255)?;
    }
    sums.f_view([count, -1, width, 3])
}

/// What each image is multiplied by along one axis, `[images, to, from]`, as a sum of two parts; the
/// second one is missing where pixels are only moved.
struct Matrices {
    high: Tensor,
    low: Option<Tensor>,
}

impl Matrices {
    fn select(&self, rows: &Tensor) -> Result<Self, TchError> {
        let select = |tensor: &Tensor| tensor.f_index_select(0, rows);
        Ok(Self { high: select(&self.high)?, low: self.low.as_ref().map(select).transpose()? })
    }
}

/// Stretches of an axis, one for each image: starts and lengths `[images, 1, 1]` in double precision.
struct Spans {
    start: Tensor,
    length: Tensor,
}

impl Spans {
    fn of(spans: &[Span], device: Device) -> Result<Self, TchError> {
        let column = |of: fn(&Span) -> f64| {
            let numbers: Vec<f64> = spans.iter().map(of).collect();
            send(&numbers, &[numbers.len() as i64, 1, 1], device)
        };
        Ok(Self {
            start: column(|span| span.start as f64)?,
            length: column(|span| span.length as f64)?,
        })
    }

    /// `0, 1, ...` as a row or a column.
    fn count(&self, count: i64, shape: [i64; 3]) -> Result<Tensor, TchError> {
        Tensor::f_arange(count, (Kind::Double, self.start.device()))?.f_view(shape)
    }

    /// A one where an output pixel is an input pixel, and nothing beyond the image.
    fn copies(&self, from: i64, to: i64) -> Result<Matrices, TchError> {
        let source = self.count(to, [1, -1, 1])?.f_add(&self.start)?;
        let same = source.f_eq_tensor(&self.count(from, [1, 1, -1])?)?;
        Ok(Matrices { high: same.f_to_kind(Kind::Float)?, low: None })
    }

    /// The weights of each output pixel, antialiased, and nothing outside of the stretch.
    fn weights(
        &self,
        from: i64,
        to: i64,
        interpolation: Interpolation,
    ) -> Result<Matrices, TchError> {
        let scale = self.length.f_div_scalar(to as f64)?;
        let stretch = scale.f_clamp_min(1)?;
        let reach = stretch.f_mul_scalar(interpolation.radius())?;
        let center = self.count(to, [1, -1, 1])?.f_add_scalar(0.5)?.f_mul(&scale)?;
        let first = center.f_sub(&reach)?.f_add_scalar(0.5)?.f_clamp_min(0)?.f_floor()?;
        let end = center.f_add(&reach)?.f_add_scalar(0.5)?.f_floor()?.f_minimum(&self.length)?;
        let x = self.count(from, [1, 1, -1])?.f_sub(&self.start)?;
        let within = x.f_ge_tensor(&first)?.f_logical_and(&x.f_lt_tensor(&end)?)?;
        let distance = x.f_sub(&center)?.f_add_scalar(0.5)?;
        let distance = distance.f_mul(&stretch.f_reciprocal()?)?.f_abs()?;
        let weights = kernel(&distance, interpolation)?.f_mul(&within)?;
        let total = weights.f_sum_dim_intlist([2].as_slice(), true, Kind::Double)?;
        let scaled = weights.f_div(&total)?.f_mul_scalar(HALF_POINT * HALF_POINT)?;
        let whole = scaled.f_abs()?.f_add_scalar(0.5)?.f_floor()?.f_mul(&scaled.f_sign()?)?;
        // In units of the last bit of the upper part.
        let fixed = whole.f_div_scalar(HALF_POINT)?;
        let high = fixed.f_round()?;
        let part = |tensor: &Tensor| tensor.f_div_scalar(HALF_POINT)?.f_to_kind(Kind::Float);
        Ok(Matrices { low: Some(part(&fixed.f_sub(&high)?)?), high: part(&high)? })
    }
}

/// Weights have twice 11 fraction bits.
const HALF_POINT: f64 = 2048.0;

/// The weights of [`Interpolation`] at distances that are not negative.
fn kernel(distance: &Tensor, interpolation: Interpolation) -> Result<Tensor, TchError> {
    let polynomial = |coefficients: [f64; 4]| {
        let mut sum = distance.f_mul_scalar(coefficients[0])?.f_add_scalar_(coefficients[1])?;
        for coefficient in &coefficients[2..] {
            sum = sum.f_mul_(distance)?.f_add_scalar_(*coefficient)?;
        }
        Ok::<_, TchError>(sum)
    };
    match interpolation {
        Interpolation::Bilinear => distance.f_neg()?.f_add_scalar_(1)?.f_clamp_min_(0),
        Interpolation::Bicubic => {
            let near = polynomial([1.5, -2.5, 0.0, 1.0])?;
            let mut far = polynomial([-0.5, 2.5, -4.0, 2.0])?;
            far = far.f_mul_(&distance.f_lt(2)?)?;
            near.f_where_self(&distance.f_lt(1)?, &far)
        }
    }
}
