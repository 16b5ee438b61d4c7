//! What libtorch can do and tch has no words for.
//!
//! Three things: what libtorch can be told of a [device](CudaSettings) and its [order of work](Moment),
//! [batch norm](batch_norm) with what follows it in one pass over memory, and updates of many tensors in
//! one call ([`move_towards`], [`Descent`] and its like): on a GPU, a kernel for each tensor is a step's
//! worth of waiting.
//!
//! They are C++ (`bridge/`), since tch binds none of it, and since a function with a gradient of its own
//! is one to libtorch's autograd only there.

mod batch_norm;
mod bridge;
mod device;
mod kernels;
mod lists;
mod stream;

use tch::{TchError, Tensor};

pub use batch_norm::{Finish, Statistics, batch_norm, takes};
pub use device::{Autocast, CudaSettings, ExactProducts, free_bytes, send};
pub use lists::{
    Adaptation, Descent, LayerwiseDescent, Rate, Remembered, move_towards, move_towards_by,
};
pub use stream::{Graph, Moment, leave_default_stream};

fn pointer(tensor: &Tensor) -> *const kernels::ffi::Tensor {
    tensor.as_ptr().cast()
}

#[allow(clippy::needless_pass_by_value, reason = "the form in which map_err has it")]
fn failed(error: cxx::Exception) -> TchError {
    TchError::Torch(error.what().to_owned())
}
