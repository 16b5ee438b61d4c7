//! Batch norm, the sum with a shortcut and ReLU, fused into one pass over memory on the CPU.
//!
//! On a CPU a small network's convolutions run near the processor's peak, and half of a step is
//! spent on reading and writing memory around them: libtorch's batch norm reads its input three
//! times, the ReLU behind it and the sum with a shortcut are passes of their own, and so are all of
//! them on the way back. [`batch_norm`] does that in two passes forward and two back. Sums are double,
//! so that single precision loses nothing to the batch's size, and moments can be exchanged between
//! processes on the way.

use tch::{Device, Kind, TchError, Tensor};

use crate::kernels::ffi;
use crate::{failed, pointer};

/// Whether [`batch_norm`] can work on this tensor: `[rows, channels]` or
/// `[batch, channels, height, width]`, bfloat16, single or double precision, on the CPU, not empty.
pub fn takes(x: &Tensor) -> bool {
    x.device() == Device::Cpu
        && matches!(x.kind(), Kind::BFloat16 | Kind::Float | Kind::Double)
        && matches!(x.dim(), 2 | 4)
        && x.numel() > 0
}

/// The parameters and running statistics of a batch norm over `channels`, each `[channels]` and of
/// the input's kind, or of single precision beside an input of bfloat16.
#[derive(Clone, Copy, Debug)]
pub struct Statistics<'a> {
    /// Scale; 1 if absent.
    pub weight: Option<&'a Tensor>,
    /// Shift; 0 if absent.
    pub bias: Option<&'a Tensor>,
    /// Moves towards the batch's mean by a tenth.
    pub running_mean: &'a Tensor,
    /// Moves towards the batch's unbiased variance by a tenth.
    pub running_variance: &'a Tensor,
}

/// What follows a batch norm in the same pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish<'a> {
    /// Added to the normalised values; of their shape.
    pub shortcut: Option<&'a Tensor>,
    /// Values below 0 become 0, after the sum.
    pub relu: bool,
    /// The input is of no further use: without gradients, the result may take its memory.
    pub overwrite: bool,
}

/// Batch norm in training (Ioffe and Szegedy, ICML 2015, arXiv 1502.03167; epsilon 1e-5, running
/// statistics' momentum 0.1, as in torch): each of `groups` equal blocks of rows is normalised by its
/// own moments, and running statistics move towards the mean of the blocks'.
///
/// `exchange` gets the moments (`[2, groups, channels]`: means and mean squares, double precision)
/// and gives those to use, with a gradient through both: the average over processes, or the moments
/// themselves. `processes` says over how many of them.
///
/// The result has the input's shape, channels last. Fails if the batch does not divide into groups,
/// or shapes do not match.
pub fn batch_norm(
    x: &Tensor,
    groups: i64,
    statistics: Statistics<'_>,
    finish: Finish<'_>,
    processes: usize,
    exchange: impl FnOnce(Tensor) -> Result<Tensor, TchError>,
) -> Result<Tensor, TchError> {
    if !takes(x) {
        return Err(TchError::Shape(format!(
            "batch norm was given {:?} of {:?} on {:?}",
            x.size(),
            x.kind(),
            x.device()
        )));
    }
    check(x, statistics, finish)?;
    let pass = ffi::begin_pass();
    // SAFETY: tensors of tch live through the call, and cxx makes exceptions errors.
    let moments = returned(unsafe { pass.moments(pointer(x), groups) })?;
    let moments = exchange(moments)?;
    let count = (x.numel() as i64 / x.size()[1] / groups * processes as i64) as f64;
    let Statistics { weight, bias, running_mean, running_variance } = statistics;
    // SAFETY: as above; absent tensors are null, which the function knows.
    returned(unsafe {
        pass.normalise(
            pointer(x),
            pointer(&moments),
            weight.map_or(std::ptr::null(), pointer),
            bias.map_or(std::ptr::null(), pointer),
            finish.shortcut.map_or(std::ptr::null(), pointer),
            finish.relu,
            pointer(running_mean),
            pointer(running_variance),
            count,
            finish.overwrite,
        )
    })
}

/// The kernels trust what they are given.
fn check(x: &Tensor, statistics: Statistics<'_>, finish: Finish<'_>) -> Result<(), TchError> {
    let size = x.size();
    let per_channel = if x.kind() == Kind::BFloat16 { Kind::Float } else { x.kind() };
    let fits = |tensor: &Tensor, shape: &[i64], kind: Kind| {
        tensor.size() == shape && tensor.kind() == kind && tensor.device() == x.device()
    };
    let Statistics { weight, bias, running_mean, running_variance } = statistics;
    let channels = [weight, bias, Some(running_mean), Some(running_variance)];
    let mut channels = channels.into_iter().flatten();
    let wrong = channels
        .find(|tensor| !fits(tensor, &size[1..2], per_channel))
        .or(finish.shortcut.filter(|shortcut| !fits(shortcut, &size, x.kind())));
    match wrong {
        Some(wrong) => Err(TchError::Shape(format!(
            "batch norm of {size:?} {:?} was given {:?} {:?} beside it",
            x.kind(),
            wrong.size(),
            wrong.kind()
        ))),
        None => Ok(()),
    }
}

fn returned(result: Result<*mut ffi::Tensor, cxx::Exception>) -> Result<Tensor, TchError> {
    let pointer = result.map_err(failed)?;
    // SAFETY: the bridge gives a tensor that is the caller's to free, as tch's own functions do.
    Ok(unsafe { Tensor::from_ptr(pointer.cast()) })
}
