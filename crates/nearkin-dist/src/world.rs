//! What training and evaluation ask of the processes, and the answers where there is only one.

use std::sync::Arc;

use tch::{TchError, Tensor};

use crate::DistError;

/// A group of processes with collective operations. Every process calls them in the same order.
pub trait World: Send + Sync + std::fmt::Debug {
    /// This process's number, from 0.
    fn rank(&self) -> usize;

    /// How many processes there are.
    fn size(&self) -> usize;

    /// Sums a tensor over all processes, in place.
    fn sum(&self, tensor: &mut Tensor) -> Result<(), TchError>;

    /// The sum of a tensor over all processes. Every process's loss may depend on it: the gradient
    /// is that of the sum of all losses.
    fn differentiable_sum(&self, tensor: &Tensor) -> Result<Tensor, TchError>;

    /// The rows of all processes in rank order: `[rows, ...]` to `[rows * size, ...]`; every process
    /// has as many. The gradient flows back to the process that each row came from, and is that of
    /// the sum of all processes' losses.
    fn gather(&self, rows: &Tensor) -> Result<Tensor, TchError>;

    /// Makes a tensor that of process 0, in place.
    fn broadcast(&self, tensor: &mut Tensor) -> Result<(), TchError>;

    /// The largest number of all processes. It is exchanged between hosts: no GPU is waited for.
    fn maximum(&self, number: i64) -> Result<i64, TchError>;

    /// What every process has to say, in rank order; errors call it by `name`. If a process fails
    /// instead of saying it, this is its error.
    fn share(&self, name: &str, message: &[u8]) -> Result<Vec<Vec<u8>>, DistError>;

    /// What averages the gradients of these parameters over the processes in a backward pass.
    fn reducer(&self, parameters: &[Tensor]) -> Result<Box<dyn Reducer>, TchError>;

    /// Says how far this process is, for the others to tell should it be lost.
    fn report(&self, at: &str);

    /// Says to the others that this process was asked to stop, by a signal. They hear of it within
    /// about a second, at moments of their own: where to stop is agreed on with [`maximum`](Self::maximum).
    fn ask_to_stop(&self, signal: i32);

    /// The signal by which another process was asked to stop, once this one has heard of it.
    fn asked_to_stop(&self) -> Option<i32>;

    /// Says to the others that this process failed, and why.
    fn fail(&self, error: &str);

    /// After a collective operation failed: names the process that was lost and says what is known of
    /// it, to the others too.
    fn explain(&self, error: &str) -> Option<String>;
}

/// Averages gradients over the processes while a backward pass goes on.
pub trait Reducer: Send {
    /// The next backward pass averages, including what was accumulated so far; without this call it
    /// only accumulates.
    fn before_backward(&self) -> Result<(), TchError>;

    /// Ends what the backward pass began.
    fn after_backward(&self) -> Result<(), TchError>;
}

/// The world of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleProcess;

impl SingleProcess {
    /// For what takes a world that is shared.
    pub fn shared() -> Arc<dyn World> {
        Arc::new(Self)
    }
}

impl World for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn sum(&self, _: &mut Tensor) -> Result<(), TchError> {
        Ok(())
    }

    fn differentiable_sum(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        Ok(tensor.shallow_clone())
    }

    fn gather(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        Ok(rows.shallow_clone())
    }

    fn broadcast(&self, _: &mut Tensor) -> Result<(), TchError> {
        Ok(())
    }

    fn maximum(&self, number: i64) -> Result<i64, TchError> {
        Ok(number)
    }

    fn share(&self, _: &str, message: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        Ok(vec![message.to_vec()])
    }

    fn reducer(&self, _: &[Tensor]) -> Result<Box<dyn Reducer>, TchError> {
        Ok(Box::new(Self))
    }

    fn report(&self, _: &str) {}

    fn ask_to_stop(&self, _: i32) {}

    fn asked_to_stop(&self) -> Option<i32> {
        None
    }

    fn fail(&self, _: &str) {}

    fn explain(&self, _: &str) -> Option<String> {
        None
    }
}

impl Reducer for SingleProcess {
    fn before_backward(&self) -> Result<(), TchError> {
        Ok(())
    }

    fn after_backward(&self) -> Result<(), TchError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_everything_is_already_everywhere() {
        let rows = Tensor::from_slice(&[1.0, 2.0]).set_requires_grad(true);
        let mut sum = rows.shallow_clone();
        SingleProcess.sum(&mut sum).unwrap();
        assert_eq!(sum, rows);
        for same in [SingleProcess.gather(&rows), SingleProcess.differentiable_sum(&rows)] {
            let same = same.unwrap();
            assert!(same.requires_grad());
            assert_eq!(same, rows);
        }
        assert_eq!(SingleProcess.share("greeting", b"hello").unwrap(), [b"hello"]);
        assert_eq!(SingleProcess.maximum(7).unwrap(), 7);
        assert_eq!((SingleProcess.rank(), SingleProcess.size()), (0, 1));
    }
}
