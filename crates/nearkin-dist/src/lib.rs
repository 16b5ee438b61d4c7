//! The processes that train together.
//!
//! The training loop and the evaluation speak to a [`World`], never to a rank count: what has to be
//! shared between processes (gradients, keys, metrics) goes through it. A single process is the
//! world of size 1, in which everything is already everywhere; [`Processes`] are joined by PyTorch's
//! own engine, c10d, as [`Launch`] tells them.

mod bridge;
mod error;
mod launch;
mod processes;
#[doc(hidden)]
pub mod testing;
mod watch;
mod world;

pub use error::DistError;
pub use launch::Launch;
pub use processes::Processes;
pub use world::{Reducer, SingleProcess, World};
