//! The candidates of a term, and blocks of anchors looking at them.
//!
//! Similarities of a batch to a long queue are the largest matrices of a run, so nothing here makes
//! them for all anchors at once: rules see a block of anchors ([`AnchorBlock`]) and every candidate.

use tch::{Kind, TchError, Tensor};

use crate::target;

/// Where shared candidates come from, which says whose labels they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Embeddings of the batch of all processes, one row per image, in order.
    Batch,
    /// The queue as it was before this batch.
    Queue,
    /// Something that no image stands for.
    Other,
}

/// Candidates that every anchor of a term sees.
#[derive(Debug)]
pub struct Shared {
    /// Unit rows, `[some, dimensions]`; if they have a gradient, the loss flows back through them.
    pub rows: Tensor,
    /// Where they come from.
    pub origin: Origin,
}

/// The candidates of a term's anchors, in this order: one of the anchor's own, which no other anchor
/// sees, then all shared rows.
#[derive(Debug)]
pub struct Candidates {
    /// Row `i` is a candidate of anchor `i` only, `[anchors, dimensions]`; no gradient flows back.
    pub own: Option<Tensor>,
    /// Candidates of every anchor.
    pub shared: Vec<Shared>,
}

impl Candidates {
    /// How many an anchor has.
    pub fn count(&self) -> i64 {
        i64::from(self.own.is_some())
            + self.shared.iter().map(|shared| shared.rows.size()[0]).sum::<i64>()
    }

    fn kind(&self) -> Kind {
        let rows = self.own.as_ref().or_else(|| self.shared.first().map(|shared| &shared.rows));
        rows.map_or(Kind::Float, Tensor::kind)
    }

    /// The same candidates without gradient, in a kind in which exponentials can be added up.
    pub(crate) fn detached(&self) -> Result<Self, TchError> {
        let shared = |shared: &Shared| {
            Ok(Shared { rows: wide(&shared.rows.f_detach()?)?, origin: shared.origin })
        };
        Ok(Self {
            own: self.own.as_ref().map(|own| wide(&own.f_detach()?)).transpose()?,
            shared: self.shared.iter().map(shared).collect::<Result<_, TchError>>()?,
        })
    }

    /// Cosine similarities of unit rows, of which `own` are the own candidates: `[rows, candidates]`.
    /// Without gradient, so that blocks are written where they belong instead of being joined.
    fn similarities(&self, rows: &Tensor, own: Option<&Tensor>) -> Result<Tensor, TchError> {
        let shape = [rows.size()[0], self.count()];
        let out = Tensor::f_empty(shape, (rows.kind(), rows.device()))?;
        let mut next = 0;
        if let Some(own) = own {
            let mut column = out.f_narrow(1, 0, 1)?;
            column.f_copy_(&rows.f_mul(own)?.f_sum_dim_intlist(
                [1].as_slice(),
                true,
                None::<Kind>,
            )?)?;
            next = 1;
        }
        for shared in &self.shared {
            let width = shared.rows.size()[0];
            let columns = out.f_narrow(1, next, width)?;
            let _ = rows.f_mm_out(&columns, &shared.rows.f_transpose(0, 1)?)?;
            next += width;
        }
        Ok(out)
    }
}

/// Half precision cannot hold sums of exponentials; everything else stays as it is.
pub(crate) fn wide(rows: &Tensor) -> Result<Tensor, TchError> {
    match rows.kind() {
        Kind::Half | Kind::BFloat16 => rows.f_to_kind(Kind::Float),
        _ => Ok(rows.shallow_clone()),
    }
}

#[derive(Debug)]
enum Places {
    Range { start: i64, count: i64 },
    Index(Tensor),
}

/// A block of a term's anchors, as the rule that chooses their targets sees it.
#[derive(Debug)]
pub struct AnchorBlock<'a> {
    candidates: &'a Candidates,
    positives: &'a Tensor,
    itself: Option<&'a Tensor>,
    places: Places,
}

impl<'a> AnchorBlock<'a> {
    /// `count` anchors from `start` on.
    pub(crate) fn range(
        candidates: &'a Candidates,
        positives: &'a Tensor,
        itself: Option<&'a Tensor>,
        start: i64,
        count: i64,
    ) -> Self {
        Self { candidates, positives, itself, places: Places::Range { start, count } }
    }

    /// The anchors of these indices, in their order.
    pub(crate) fn at(&self, index: Tensor) -> Self {
        Self { places: Places::Index(index), ..*self }
    }

    /// How many anchors the block has.
    pub fn count(&self) -> i64 {
        match &self.places {
            Places::Range { count, .. } => *count,
            Places::Index(index) => index.size()[0],
        }
    }

    /// What the anchors are compared with.
    pub(crate) fn all_candidates(&self) -> &'a Candidates {
        self.candidates
    }

    /// How many candidates each of them has.
    pub fn candidates(&self) -> i64 {
        self.candidates.count()
    }

    /// The block's rows of something that has one row per anchor.
    pub fn select(&self, per_anchor: &Tensor) -> Result<Tensor, TchError> {
        match &self.places {
            Places::Range { start, count } => per_anchor.f_narrow(0, *start, *count),
            Places::Index(index) => per_anchor.f_index_select(0, index),
        }
    }

    /// Cosine similarities of a teacher's unit rows, `[anchors, dimensions]`, to the candidates:
    /// `[block, candidates]`, without gradient, in at least single precision.
    pub fn similarities(&self, teacher: &Tensor) -> Result<Tensor, TchError> {
        let rows = wide(&self.select(&teacher.f_detach()?)?)?;
        let own = self.candidates.own.as_ref().map(|own| self.select(own)).transpose()?;
        self.candidates.similarities(&rows, own.as_ref())
    }

    /// Places of the known positives among the candidates, `[block, positives]`.
    pub fn positives(&self) -> Result<Tensor, TchError> {
        self.select(self.positives)
    }

    /// Place of the anchor itself among the candidates, `[block, 1]`, if it is one.
    pub fn itself(&self) -> Result<Option<Tensor>, TchError> {
        self.itself.map(|itself| self.select(itself)).transpose()
    }

    /// Places of candidates that are views of the anchor's own image: itself and the positives.
    pub fn own_image(&self) -> Result<Tensor, TchError> {
        match self.itself()? {
            Some(itself) => Tensor::f_cat(&[itself, self.positives()?], 1),
            None => self.positives(),
        }
    }

    /// The kind of matrices for this block.
    pub fn kind(&self) -> Kind {
        self.candidates.kind()
    }

    /// Equal weights on the known positives: `[block, candidates]`.
    pub fn uniform_positives(&self) -> Result<Tensor, TchError> {
        target::uniform(&self.positives()?, self.candidates(), self.candidates.kind())
    }

    /// A mask that is true at these places, `[block, some]`: `[block, candidates]`.
    pub fn mask(&self, places: &Tensor) -> Result<Tensor, TchError> {
        let shape = [self.count(), self.candidates()];
        Tensor::f_zeros(shape, (Kind::Bool, places.device()))?.f_scatter_value_(1, places, 1)
    }
}
