//! The processes that train together.
//!
//! The training loop and the evaluation speak to a [`World`], never to a rank count: what has to be
//! shared between processes (gradients, keys, metrics) goes through it. A single process is the
//! world of size 1, in which everything is already everywhere.

use tch::{TchError, Tensor};

/// A group of processes with collective operations. Every process calls them in the same order.
pub trait World: Send {
    /// This process's number, from 0.
    fn rank(&self) -> usize;

    /// How many processes there are.
    fn size(&self) -> usize;

    /// Sums a tensor over all processes, in place.
    fn sum(&self, tensor: &mut Tensor) -> Result<(), TchError>;

    /// The rows of all processes in rank order: `[rows, ...]` to `[rows * size, ...]`. The gradient
    /// flows back to the process that each row came from.
    fn gather(&self, rows: &Tensor) -> Result<Tensor, TchError>;
}

/// The world of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl World for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn sum(&self, _: &mut Tensor) -> Result<(), TchError> {
        Ok(())
    }

    fn gather(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        Ok(rows.shallow_clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alone_everything_is_already_everywhere() {
        let rows = Tensor::from_slice(&[1.0, 2.0]).set_requires_grad(true);
        let mut sum = rows.shallow_clone();
        Alone.sum(&mut sum).unwrap();
        assert_eq!(sum, rows);
        let gathered = Alone.gather(&rows).unwrap();
        assert!(gathered.requires_grad());
        assert_eq!(gathered, rows);
        assert_eq!((Alone.rank(), Alone.size()), (0, 1));
    }
}
