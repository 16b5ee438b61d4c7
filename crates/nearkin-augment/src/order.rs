//! Which images make up which batch, and which rows of it a process takes.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_data::Random;
use nearkin_data::random::Purpose;

/// The images of one batch to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The epoch, part of the key of the random numbers.
    pub epoch: u64,
    /// Indices into the image set.
    pub images: Vec<usize>,
    spares: Option<Spares>,
}

/// Where to look for images in place of those that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spares {
    /// The whole epoch.
    permutation: Arc<[usize]>,
    /// The place in it that is as far behind the plan's first image as the next batch is.
    first: usize,
}

impl Plan {
    /// A batch whose unreadable images are left out.
    pub fn new(epoch: u64, images: Vec<usize>) -> Self {
        Self { epoch, images, spares: None }
    }

    /// The images that may take the place of the one in `row`, the first readable one first; none in
    /// a plan that leaves images out.
    ///
    /// They are those of the epoch, beginning at the same row of the next batch and going around. So
    /// they depend on nothing but the order of the epoch, and rows of a batch get different ones as
    /// long as few images are damaged and the epoch has a second batch.
    pub(crate) fn spares(&self, row: usize) -> impl Iterator<Item = usize> {
        self.spares.iter().flat_map(move |Spares { permutation, first }| {
            let around = (first + row..).take(permutation.len());
            around.map(|place| permutation[place % permutation.len()])
        })
    }
}

/// The random order of training: another permutation of all images every epoch.
///
/// A batch is a function of seed, epoch and position, so training resumes anywhere. The
/// permutation of the epoch last asked for is kept: 8 bytes per image.
///
/// With several processes the order is one for all: each takes [its rows](Self::of_rank) of every
/// batch, and its rows of all of them, in the order of the ranks, are the batch that one process
/// alone would have.
#[derive(Clone, Debug)]
pub struct Order {
    images: usize,
    batch_size: NonZeroUsize,
    seed: u64,
    drop_last: bool,
    /// Rows of a whole batch that are taken, from where on and how many.
    rows: (usize, usize),
    current: Option<(u64, Arc<[usize]>)>,
}

impl Order {
    /// An order of the indices `0..images`, in batches of all processes together; with `drop_last`,
    /// without the short batch at the end.
    pub fn new(images: usize, batch_size: NonZeroUsize, seed: u64, drop_last: bool) -> Self {
        let rows = (0, batch_size.get());
        Self { images, batch_size, seed, drop_last, rows, current: None }
    }

    /// The same order for process `rank` of `ranks`: of each batch the rows `rank * b` to
    /// `(rank + 1) * b`, where `b` is the batch size divided by `ranks`. `None` if that leaves a
    /// remainder, or if `rank` is not below `ranks`.
    ///
    /// Of a short last batch the last ranks get fewer rows, or none.
    #[must_use]
    pub fn of_rank(self, rank: usize, ranks: NonZeroUsize) -> Option<Self> {
        let rows = self.batch_size.get() / ranks;
        let divides = self.batch_size.get().is_multiple_of(ranks.get());
        (divides && rank < ranks.get()).then(|| Self { rows: (rank * rows, rows), ..self })
    }

    /// Batches in an epoch, the same for every rank; 0 if there are too few images for one.
    pub fn batches_per_epoch(&self) -> usize {
        if self.drop_last {
            self.images / self.batch_size
        } else {
            self.images.div_ceil(self.batch_size.get())
        }
    }

    /// The images of batch `batch` of `epoch`; none at `batches_per_epoch` and beyond.
    ///
    /// An unreadable image is replaced by the next readable one of the epoch's order, counted from
    /// the same row of the next batch, whichever process or thread meets it. That one comes again
    /// where it stands itself, with the same pixels.
    pub fn plan(&mut self, epoch: u64, batch: usize) -> Plan {
        if batch >= self.batches_per_epoch() {
            return Plan::new(epoch, Vec::new());
        }
        let permutation = match self.current.take() {
            Some((kept, permutation)) if kept == epoch => permutation,
            _ => Random::new(Purpose::Order, self.seed, epoch, 0).permutation(self.images).into(),
        };
        let (first, rows) = self.rows;
        let start = (batch * self.batch_size.get() + first).min(self.images);
        let end = (start + rows).min(self.images);
        let images = permutation[start..end].to_vec();
        self.current = Some((epoch, Arc::clone(&permutation)));
        let spares = Spares { permutation, first: start + self.batch_size.get() };
        Plan { epoch, images, spares: Some(spares) }
    }
}

/// The order of evaluation: every image once, as the set has them, the last batch short; those
/// that cannot be read are left out. All plans are of epoch 0.
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
        (start < self.next).then(|| Plan::new(0, (start..self.next).collect()))
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
        let first = order.plan(0, 0).images;
        assert_ne!(first, order.plan(1, 0).images);
        assert_eq!(first, order.plan(0, 0).images);
        assert_ne!(first, Order::new(100, size(100), 4, true).plan(0, 0).images);
    }

    #[test]
    fn ranks_that_do_not_divide_the_batch_are_refused() {
        let order = || Order::new(100, size(12), 3, true);
        for (rank, ranks, works) in [(0, 5, false), (3, 3, false), (2, 3, true), (11, 12, true)] {
            assert_eq!(order().of_rank(rank, size(ranks)).is_some(), works, "{rank} of {ranks}");
        }
    }

    #[test]
    fn spares_begin_in_the_next_batch_and_go_around() {
        let mut order = Order::new(10, size(4), 3, true);
        let epoch: Vec<usize> = [order.plan(0, 0).images, order.plan(0, 1).images].concat();
        let spares: Vec<usize> = order.plan(0, 0).spares(1).collect();
        assert_eq!((spares.len(), &spares[..3]), (10, &epoch[5..8]));
        assert_eq!(spares[5..9], epoch[..4]);
        // Row 1 of the second of two processes is row 3 of the batch.
        let mut second = order.clone().of_rank(1, size(2)).expect("two ranks");
        assert_eq!(second.plan(0, 0).spares(1).next(), Some(epoch[7]));
        assert_eq!(Plan::new(0, vec![1]).spares(0).next(), None);
    }

    proptest! {
        #[test]
        fn rows_of_all_ranks_are_the_batch_of_one(
            images in 0_usize..200,
            rows in 1_usize..20,
            ranks in 1_usize..6,
            seed: u64,
            drop_last: bool,
        ) {
            let mut alone = Order::new(images, size(rows * ranks), seed, drop_last);
            let of_rank = |rank| alone.clone().of_rank(rank, size(ranks)).expect("it divides");
            let mut orders: Vec<Order> = (0..ranks).map(of_rank).collect();
            for batch in 0..=alone.batches_per_epoch() {
                let parts: Vec<Plan> =
                    orders.iter_mut().map(|order| order.plan(7, batch)).collect();
                let joint: Vec<usize> = parts.iter().flat_map(|plan| plan.images.clone()).collect();
                let expected = alone.plan(7, batch);
                if drop_last && batch < alone.batches_per_epoch() {
                    prop_assert!(parts.iter().all(|part| part.images.len() == rows));
                }
                prop_assert_eq!(joint, expected.images.clone());
                for (rank, part) in parts.iter().enumerate() {
                    for row in 0..part.images.len() {
                        prop_assert!(part.spares(row).eq(expected.spares(rank * rows + row)));
                    }
                }
            }
        }

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
                (0..order.batches_per_epoch()).map(|batch| order.plan(epoch, batch).images).collect();
            prop_assert!(order.plan(epoch, batches.len()).images.is_empty());
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
