//! Class labels of anchors and candidates.

use tch::{Kind, TchError, Tensor};

use crate::candidates::{AnchorBlock, Origin};

/// Class labels of candidates; -1 where there is none.
#[derive(Debug)]
pub struct Labels {
    /// Of the images of all processes in rank order, `[batch * world]`, integers.
    pub batch: Tensor,
    /// Of the rows of the queue, `[length]`, if there is one.
    pub queue: Option<Tensor>,
    /// Row of `batch` at which this process's anchors begin.
    pub offset: i64,
}

impl Labels {
    /// The same labels; storage is shared.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self {
            batch: self.batch.shallow_clone(),
            queue: self.queue.as_ref().map(Tensor::shallow_clone),
            offset: self.offset,
        }
    }

    /// The labels of a block's anchors, `[block, 1]`.
    pub(crate) fn of_anchors(&self, block: &AnchorBlock<'_>) -> Result<Tensor, TchError> {
        let length = self.batch.size()[0] - self.offset;
        block.select(&self.batch.f_narrow(0, self.offset, length)?)?.f_unsqueeze(1)
    }

    /// Marks the candidates that are known to be of the anchor's class, its own views too:
    /// `[block, candidates]`.
    pub fn same_class(&self, block: &AnchorBlock<'_>) -> Result<Tensor, TchError> {
        let anchors = self.of_anchors(block)?;
        let known = anchors.f_ge(0)?;
        let candidates = block.all_candidates();
        let mut columns = Vec::new();
        if candidates.own.is_some() {
            columns.push(known.shallow_clone());
        }
        for shared in &candidates.shared {
            let labels = match (shared.origin, &self.queue) {
                (Origin::Batch, _) => self.batch.shallow_clone(),
                (Origin::Queue, Some(queue)) => queue.shallow_clone(),
                _ => {
                    Tensor::f_full([shared.rows.size()[0]], -1, (Kind::Int64, self.batch.device()))?
                }
            };
            columns.push(anchors.f_eq_tensor(&labels.f_unsqueeze(0)?)?.f_logical_and(&known)?);
        }
        Tensor::f_cat(&columns, 1)
    }

    /// The same without views of the anchor's own image.
    pub fn same_class_of_others(&self, block: &AnchorBlock<'_>) -> Result<Tensor, TchError> {
        self.same_class(block)?.f_scatter_value_(1, &block.own_image()?, 0)
    }
}
