//! Which images make up which batch.

use std::num::NonZeroUsize;

use nearkin_data::Random;
use nearkin_data::random::Purpose;

/// The images of one batch to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The epoch, part of the key of the random numbers.
    pub epoch: u64,
    /// Indices into the image set.
    pub images: Vec<usize>,
}

/// The random order of training: another permutation of all images every epoch.
///
/// A batch is a function of seed, epoch and position, so training resumes anywhere. The
/// permutation of the epoch last asked for is kept: 8 bytes per image.
#[derive(Clone, Debug)]
pub struct Order {
    images: usize,
    batch_size: NonZeroUsize,
    seed: u64,
    drop_last: bool,
    current: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// An order of the indices `0..images`; with `drop_last`, without the short batch at the end.
    pub fn new(images: usize, batch_size: NonZeroUsize, seed: u64, drop_last: bool) -> Self {
        Self { images, batch_size, seed, drop_last, current: None }
    }

    /// Batches in an epoch; 0 if there are too few images for one.
    pub fn batches_per_epoch(&self) -> usize {
        if self.drop_last {
            self.images / self.batch_size
        } else {
            self.images.div_ceil(self.batch_size.get())
        }
    }

    /// The images of batch `batch` of `epoch`; none at `batches_per_epoch` and beyond.
    pub fn batch(&mut self, epoch: u64, batch: usize) -> Vec<usize> {
        if batch >= self.batches_per_epoch() {
            return Vec::new();
        }
        let permutation = match self.current.take() {
            Some((kept, permutation)) if kept == epoch => permutation,
            _ => Random::new(Purpose::Order, self.seed, epoch, 0).permutation(self.images),
        };
        let start = batch * self.batch_size.get();
        let end = (start + self.batch_size.get()).min(self.images);
        let images = permutation[start..end].to_vec();
        self.current = Some((epoch, permutation));
        images
    }
}

/// The order of evaluation: every image once, as the set has them, the last batch short. All plans
/// are of epoch 0.
#[derive(Clone, Debug)]
pub struct Sequential {
    next: usize,
    images: usize,
    batch_size: NonZeroUsize,
}

impl Sequential {
    /// Batches over the indices `0..images`.
    pub fn new(images: usize, batch_size: NonZeroUsize) -> Self {
        Self { next: 0, images, batch_size }
    }
}

impl Iterator for Sequential {
    type Item = Plan;

    fn next(&mut self) -> Option<Plan> {
        let start = self.next;
        self.next = start.saturating_add(self.batch_size.get()).min(self.images);
        (start < self.next).then(|| Plan { epoch: 0, images: (start..self.next).collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(batch_size: usize) -> NonZeroUsize {
        NonZeroUsize::new(batch_size).expect("above zero")
    }

    #[test]
    fn epochs_differ_and_come_back() {
        let mut order = Order::new(100, size(100), 3, true);
        let first = order.batch(0, 0);
        assert_ne!(first, order.batch(1, 0));
        assert_eq!(first, order.batch(0, 0));
        assert_ne!(first, Order::new(100, size(100), 4, true).batch(0, 0));
    }

    proptest! {
        #[test]
        fn an_epoch_holds_every_image_once(
            images in 0_usize..200,
            batch_size in 1_usize..70,
            seed: u64,
            epoch in 0_u64..1000,
            drop_last: bool,
        ) {
            let mut order = Order::new(images, size(batch_size), seed, drop_last);
            let batches: Vec<_> =
                (0..order.batches_per_epoch()).map(|batch| order.batch(epoch, batch)).collect();
            prop_assert!(order.batch(epoch, batches.len()).is_empty());
            if drop_last {
                prop_assert!(batches.iter().all(|batch| batch.len() == batch_size));
            }
            let mut seen = batches.concat();
            let kept = if drop_last { images / batch_size * batch_size } else { images };
            prop_assert_eq!(seen.len(), kept);
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), kept);
            prop_assert!(seen.iter().all(|&image| image < images));
        }

        #[test]
        fn sequential_is_in_order_and_complete(images in 0_usize..200, batch_size in 1_usize..70) {
            let plans: Vec<_> = Sequential::new(images, size(batch_size)).collect();
            prop_assert!(plans.iter().rev().skip(1).all(|plan| plan.images.len() == batch_size));
            let seen: Vec<_> = plans.into_iter().flat_map(|plan| plan.images).collect();
            prop_assert_eq!(seen, (0..images).collect::<Vec<_>>());
        }
    }
}
