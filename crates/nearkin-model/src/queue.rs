//! The queue of past keys that momentum methods take their other candidates from.

use tch::{Device, Kind, TchError, Tensor};

/// A first-in-first-out queue of unit rows, in place; batches of any size fit.
#[derive(Debug)]
pub struct Queue {
    rows: Tensor,
    next: i64,
}

impl Queue {
    /// Full of random unit rows, as in MoCo: `[size, dimensions]`. They depend on the seed only.
    pub fn random(
        size: usize,
        dimensions: i64,
        seed: u64,
        device: Device,
        kind: Kind,
    ) -> Result<Self, TchError> {
        tch::manual_seed(seed as i64);
        let rows = Tensor::f_randn([size as i64, dimensions], tch::kind::FLOAT_CPU)?;
        let norms = rows.f_norm_scalaropt_dim(2.0, [1].as_slice(), true)?;
        let rows = rows.f_div(&norms)?.f_to_device(device)?.f_to_kind(kind)?;
        Ok(Self { rows, next: 0 })
    }

    /// From a checkpoint: the rows and the place of the oldest.
    pub fn restore(rows: Tensor, next: i64) -> Self {
        Self { rows, next }
    }

    /// The rows, `[size, dimensions]`; shares storage with the queue, so that a backward pass
    /// through it must come before [`enqueue`](Self::enqueue) (autograd notices if it does not).
    pub fn rows(&self) -> Tensor {
        self.rows.shallow_clone()
    }

    /// Where the next key goes: the place of the oldest.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Keys it holds.
    pub fn len(&self) -> i64 {
        self.rows.size()[0]
    }

    /// Whether it holds no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Replaces the oldest rows by `keys`, `[any, dimensions]`, in order; of more keys than the
    /// queue is long, the last ones stay.
    pub fn enqueue(&mut self, keys: &Tensor) -> Result<(), TchError> {
        let size = self.len();
        let count = keys.size()[0];
        let kept = count.min(size);
        let keys = keys.f_detach()?.f_narrow(0, count - kept, kept)?;
        let start = (self.next + count - kept) % size;
        let before_wrap = kept.min(size - start);
        self.rows.f_narrow(0, start, before_wrap)?.f_copy_(&keys.f_narrow(0, 0, before_wrap)?)?;
        let rest = kept - before_wrap;
        if rest > 0 {
            self.rows.f_narrow(0, 0, rest)?.f_copy_(&keys.f_narrow(0, before_wrap, rest)?)?;
        }
        self.next = (self.next + count) % size;
        Ok(())
    }
}
