//! The queue of past keys that momentum methods take their other candidates from.
//!
//! It remembers the class labels of the keys' images too, where there are any: they have no part in
//! training, but show whether the targets that a method makes are true.

use tch::{Device, Kind, TchError, Tensor};

fn unlabelled(size: usize, device: Device) -> Result<Tensor, TchError> {
    Tensor::f_full([size as i64], NO_LABEL, (Kind::Int64, device))
}

/// A first-in-first-out queue of unit rows, in place; batches of any size fit.
#[derive(Debug)]
pub struct Queue {
    rows: Tensor,
    labels: Tensor,
    next: i64,
}

/// The label of a row that has none.
pub const NO_LABEL: i64 = -1;

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
        let labels = unlabelled(size, device)?;
        Ok(Self { rows, labels, next: 0 })
    }

    /// Full of zeros, as in FNC: a row that no key has taken yet has similarity 0 to everything.
    pub fn zeros(
        size: usize,
        dimensions: i64,
        device: Device,
        kind: Kind,
    ) -> Result<Self, TchError> {
        let rows = Tensor::f_zeros([size as i64, dimensions], (kind, device))?;
        Ok(Self { rows, labels: unlabelled(size, device)?, next: 0 })
    }

    /// From a checkpoint that was read into [`rows`](Self::rows) and [`labels`](Self::labels): the
    /// place of the oldest.
    pub fn continue_at(&mut self, next: i64) {
        self.next = next;
    }

    /// The rows, `[size, dimensions]`; shares storage with the queue, so that a backward pass
    /// through it must come before [`enqueue`](Self::enqueue) (autograd notices if it does not).
    pub fn rows(&self) -> Tensor {
        self.rows.shallow_clone()
    }

    /// The labels of the rows, `[size]`, integers; [`NO_LABEL`] where there is none. Storage is
    /// shared as with [`rows`](Self::rows).
    pub fn labels(&self) -> Tensor {
        self.labels.shallow_clone()
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

    /// Replaces the oldest rows by `keys`, `[any, dimensions]`, of images with these `labels`,
    /// `[any]`, in order; of more keys than the queue is long, the last ones stay.
    pub fn enqueue(&mut self, keys: &Tensor, labels: &Tensor) -> Result<(), TchError> {
        let size = self.len();
        let count = keys.size()[0];
        let kept = count.min(size);
        let start = (self.next + count - kept) % size;
        let before_wrap = kept.min(size - start);
        let rest = kept - before_wrap;
        for (all, new) in [(&self.rows, keys), (&self.labels, labels)] {
            let new = new.f_detach()?.f_narrow(0, count - kept, kept)?;
            all.f_narrow(0, start, before_wrap)?.f_copy_(&new.f_narrow(0, 0, before_wrap)?)?;
            if rest > 0 {
                all.f_narrow(0, 0, rest)?.f_copy_(&new.f_narrow(0, before_wrap, rest)?)?;
            }
        }
        self.next = (self.next + count) % size;
        Ok(())
    }
}

impl Queue {
    /// [`enqueue`](Self::enqueue) where the host knows neither whether the keys are any good nor,
    /// therefore, where they go. The device holds both: `cursor`, an integer without dimensions, is
    /// the place and moves on; if `bad`, a truth value without dimensions, nothing changes.
    /// [`next`](Self::next) does not follow until [`continue_at`](Self::continue_at) says so.
    pub fn enqueue_unless(
        &mut self,
        bad: &Tensor,
        cursor: &mut Tensor,
        keys: &Tensor,
        labels: &Tensor,
    ) -> Result<(), TchError> {
        let size = self.len();
        let count = keys.size()[0];
        let kept = count.min(size);
        let places = Tensor::f_arange_start(count - kept, count, (Kind::Int64, keys.device()))?
            .f_add(cursor)?
            .f_remainder(size)?;
        for (all, new) in [(&mut self.rows, keys), (&mut self.labels, labels)] {
            let new = new.f_detach()?.f_narrow(0, count - kept, kept)?;
            let old = all.f_index_select(0, &places)?;
            let _ = all.f_index_copy_(0, &places, &old.f_where_self(bad, &new)?)?;
        }
        let moved = cursor.f_add_scalar(count)?.f_remainder(size)?;
        let next = cursor.f_where_self(bad, &moved)?;
        cursor.f_copy_(&next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn rows(values: impl IntoIterator<Item = i64>) -> Tensor {
        let values: Vec<f64> = values.into_iter().map(|value| value as f64).collect();
        Tensor::from_slice(&values).view([-1, 1])
    }

    fn contents(queue: &Queue) -> Vec<i64> {
        Vec::<f64>::try_from(queue.rows().view([-1])).unwrap().iter().map(|&x| x as i64).collect()
    }

    fn labels(queue: &Queue) -> Vec<i64> {
        Vec::try_from(queue.labels()).unwrap()
    }

    /// Keys with these numbers, of images whose labels are a hundred more.
    fn enqueue(queue: &mut Queue, keys: impl IntoIterator<Item = i64>) {
        let keys: Vec<i64> = keys.into_iter().collect();
        let labels: Vec<i64> = keys.iter().map(|key| key + 100).collect();
        queue.enqueue(&rows(keys), &Tensor::from_slice(&labels)).unwrap();
    }

    #[test]
    fn keys_replace_the_oldest_in_place() {
        let mut queue = Queue::zeros(6, 1, Device::Cpu, Kind::Double).unwrap();
        assert_eq!(labels(&queue), [NO_LABEL; 6]);
        let steps = [
            ([1, 2], [1, 2, 0, 0, 0, 0], 2),
            ([3, 4], [1, 2, 3, 4, 0, 0], 4),
            ([5, 6], [1, 2, 3, 4, 5, 6], 0),
            ([7, 8], [7, 8, 3, 4, 5, 6], 2),
        ];
        for (keys, after, next) in steps {
            enqueue(&mut queue, keys);
            assert_eq!((contents(&queue), queue.next()), (after.to_vec(), next));
        }
        // Labels lie beside their keys (the test's are a hundred more).
        assert_eq!(labels(&queue), [107, 108, 103, 104, 105, 106]);
    }

    #[test]
    fn it_starts_with_unit_rows_that_depend_on_the_seed() {
        let queue = |seed| Queue::random(50, 8, seed, Device::Cpu, Kind::Float).unwrap();
        let norms = queue(3).rows().norm_scalaropt_dim(2.0, [1].as_slice(), false);
        assert!(norms.allclose(&norms.ones_like(), 1e-5, 1e-5, false));
        assert_eq!(queue(3).rows(), queue(3).rows());
        assert_ne!(queue(3).rows(), queue(4).rows());
    }

    #[test]
    fn enqueueing_before_the_backward_pass_is_noticed() {
        let mut queue = Queue::random(4, 3, 0, Device::Cpu, Kind::Float).unwrap();
        let anchors = Tensor::randn([2, 3], tch::kind::FLOAT_CPU).set_requires_grad(true);
        let loss = anchors.matmul(&queue.rows().tr()).square().sum(Kind::Float);
        let keys = Tensor::zeros([2, 3], tch::kind::FLOAT_CPU);
        queue.enqueue(&keys, &Tensor::zeros([2], tch::kind::INT64_CPU)).unwrap();
        assert!(loss.f_backward().unwrap_err().to_string().contains("inplace"));
    }

    proptest! {
        #[test]
        fn any_batch_sizes_keep_the_newest_keys(
            size in 1_i64..12,
            batches in prop::collection::vec(0_i64..30, 0..8),
        ) {
            let mut queue = Queue::zeros(size as usize, 1, Device::Cpu, Kind::Double).unwrap();
            let mut model: VecDeque<i64> = std::iter::repeat_n(0, size as usize).collect();
            let mut key = 1;
            for batch in batches {
                enqueue(&mut queue, key..key + batch);
                for _ in 0..batch {
                    model.pop_front();
                    model.push_back(key);
                    key += 1;
                }
            }
            // From the oldest on, the queue reads as the model does.
            let mut oldest_first = contents(&queue);
            oldest_first.rotate_left(queue.next() as usize);
            prop_assert_eq!(oldest_first, Vec::from(model));
        }

        #[test]
        fn a_cursor_does_what_the_host_does_but_for_bad_batches(
            size in 1_i64..12,
            batches in prop::collection::vec((0_i64..30, prop::bool::weighted(0.3)), 0..8),
        ) {
            let zeros = || Queue::zeros(size as usize, 1, Device::Cpu, Kind::Double).unwrap();
            let (mut known, mut held, mut cursor) = (zeros(), zeros(), Tensor::from(0_i64));
            let mut key = 1;
            for (batch, bad) in batches {
                let keys: Vec<i64> = (key..key + batch).collect();
                let labels = Tensor::from_slice(&keys);
                let mut new = rows(keys.iter().copied());
                if bad {
                    let _ = new.fill_(f64::NAN);
                } else {
                    known.enqueue(&new, &labels).unwrap();
                }
                held.enqueue_unless(&Tensor::from(bad), &mut cursor, &new, &labels).unwrap();
                key += batch;
            }
            prop_assert_eq!(cursor.int64_value(&[]), known.next());
            prop_assert_eq!(contents(&held), contents(&known));
            prop_assert_eq!(labels(&held), labels(&known));
        }
    }
}
