//! What the encoders made of a batch, and the ways in which methods compare it.

use tch::{TchError, Tensor};

use crate::candidates::{Candidates, Origin, Shared};
use crate::labels::Labels;
use crate::term::{Mixture, Rule, Term};
use crate::{Progress, target};

/// Unit embeddings of one view by one encoder.
#[derive(Debug)]
pub struct Embedding {
    /// Of this process's images, `[batch, dimensions]`.
    pub local: Tensor,
    /// Of the images of all processes in rank order, `[batch * world, dimensions]`; the same tensor
    /// as `local` where there is one process.
    pub gathered: Tensor,
}

impl Embedding {
    /// The embedding in a run of one process: `[batch, dimensions]`.
    pub fn single(rows: Tensor) -> Self {
        Self { gathered: rows.shallow_clone(), local: rows }
    }
}

/// The online encoder's embedding of a [`MixedInput`](crate::MixedInput).
#[derive(Debug)]
pub struct Mixed {
    /// Unit rows, `[batch, dimensions]`.
    pub anchors: Tensor,
    /// Index of each row's partner within this process's batch, `[batch]`.
    pub partner: Tensor,
    /// Each row's share, `[batch]`.
    pub share: Tensor,
}

/// What the encoders made of a batch.
#[derive(Debug, Default)]
pub struct Encoded {
    /// By the online encoder, one slot per view; `None` for a view without that role.
    pub online: Vec<Option<Embedding>>,
    /// Keys, without gradient, one slot per view; `None` for a view that makes none.
    pub keys: Vec<Option<Embedding>>,
    /// The method's [mixed inputs](crate::Requirements::mixed_inputs).
    pub mixed: Vec<Mixed>,
    /// The queue as it was before this batch, `[length, dimensions]`, if there is one with any rows.
    pub queue: Option<Tensor>,
    /// Class labels, for a method that [needs them](crate::Requirements::labels).
    pub labels: Option<Labels>,
    /// Row of `gathered` at which this process's rows begin.
    pub offset: i64,
    /// How far the run is.
    pub progress: Progress,
}

impl Encoded {
    /// The online embedding of a view; an error names the view if its role has none.
    pub fn online(&self, view: usize) -> Result<&Embedding, TchError> {
        promised(&self.online, view, "no online embedding")
    }

    /// The key of a view; an error names the view if its role has none.
    pub fn key(&self, view: usize) -> Result<&Embedding, TchError> {
        promised(&self.keys, view, "no key")
    }

    /// The labels of a method that needs them.
    pub fn labels(&self) -> Result<&Labels, TchError> {
        self.labels.as_ref().ok_or_else(|| TchError::Shape("there are no labels".into()))
    }

    fn shared_queue(&self) -> Result<Option<Shared>, TchError> {
        let shared = |rows: &Tensor| Ok(Shared { rows: rows.f_detach()?, origin: Origin::Queue });
        self.queue.as_ref().map(shared).transpose()
    }

    /// Anchors, one for each image of the batch in order, each against its own key of `key_view`
    /// and the queue.
    pub fn against_own_key(&self, anchors: &Tensor, key_view: usize) -> Result<Frame, TchError> {
        let keys = self.key(key_view)?;
        let own = Some(keys.local.shallow_clone());
        let shared = self.shared_queue()?.into_iter().collect();
        let positives = target::diagonal(keys.local.size()[0], 0, &keys.local)?.f_zeros_like()?;
        Ok(Frame::new(anchors, Candidates { own, shared }, positives))
    }

    /// The same anchors against the keys of the whole batch and the queue.
    pub fn against_all_keys(&self, anchors: &Tensor, key_view: usize) -> Result<Frame, TchError> {
        let keys = self.key(key_view)?;
        let batch = Shared { rows: keys.gathered.f_detach()?, origin: Origin::Batch };
        let shared = std::iter::once(batch).chain(self.shared_queue()?).collect();
        let positives = target::diagonal(keys.local.size()[0], self.offset, &keys.local)?;
        Ok(Frame::new(anchors, Candidates { own: None, shared }, positives))
    }

    /// Anchors against several embeddings of the batch, of which number `itself` shows what the
    /// anchors show: that one is the anchor itself, the others of its image are its positives.
    pub fn against_views(
        &self,
        anchors: &Tensor,
        views: &[&Embedding],
        itself: usize,
    ) -> Result<Frame, TchError> {
        let rows = anchors.size()[0];
        let (mut shared, mut positives, mut own_place) = (Vec::new(), Vec::new(), None);
        let mut begin = self.offset;
        for (number, view) in views.iter().enumerate() {
            let place = target::diagonal(rows, begin, anchors)?;
            if number == itself {
                own_place = Some(place);
            } else {
                positives.push(place);
            }
            begin += view.gathered.size()[0];
            shared.push(Shared { rows: view.gathered.shallow_clone(), origin: Origin::Batch });
        }
        let candidates = Candidates { own: None, shared };
        let frame = Frame::new(anchors, candidates, Tensor::f_cat(&positives, 1)?);
        Ok(Frame { itself: own_place, ..frame })
    }

    /// For each online view, its anchors against all online views of the batch.
    pub fn among_online_views(&self) -> Result<Vec<Frame>, TchError> {
        let views: Vec<&Embedding> = self.online.iter().flatten().collect();
        let numbered = views.iter().enumerate();
        numbered.map(|(itself, view)| self.against_views(&view.local, &views, itself)).collect()
    }

    /// For each of the first `count` views, its online anchors against the keys of all of them and
    /// the queue.
    pub fn among_key_views(&self, count: usize) -> Result<Vec<Frame>, TchError> {
        let detached = |view| {
            let Embedding { local, gathered } = self.key(view)?;
            Ok(Embedding { local: local.f_detach()?, gathered: gathered.f_detach()? })
        };
        let keys = (0..count).map(detached).collect::<Result<Vec<_>, TchError>>()?;
        let keys: Vec<&Embedding> = keys.iter().collect();
        let frame = |view| {
            let mut frame = self.against_views(&self.online(view)?.local, &keys, view)?;
            frame.candidates.shared.extend(self.shared_queue()?);
            Ok(frame)
        };
        (0..count).map(frame).collect()
    }
}

fn promised<'a>(
    embeddings: &'a [Option<Embedding>],
    view: usize,
    missing: &str,
) -> Result<&'a Embedding, TchError> {
    embeddings
        .get(view)
        .and_then(Option::as_ref)
        .ok_or_else(|| TchError::Shape(format!("view {view} has {missing}")))
}

/// Anchors and what they are compared with: a [`Term`] without its rule.
#[derive(Debug)]
pub struct Frame {
    /// Unit rows, `[anchors, dimensions]`.
    pub anchors: Tensor,
    /// What each anchor is compared with.
    pub candidates: Candidates,
    /// Places of each anchor's known positives among the candidates, `[anchors, positives]`.
    pub positives: Tensor,
    /// Place of each anchor itself among the candidates, `[anchors, 1]`, if it is one of them.
    pub itself: Option<Tensor>,
}

impl Frame {
    /// Anchors that are not among their own candidates.
    pub fn new(anchors: &Tensor, candidates: Candidates, positives: Tensor) -> Self {
        Self { anchors: anchors.shallow_clone(), candidates, positives, itself: None }
    }

    /// The term with this rule, of weight 1.
    pub fn term(self, temperature: f64, rule: Rule<'_>) -> Term<'_> {
        let Self { anchors, candidates, positives, itself } = self;
        Term { itself, ..Term::new(anchors, candidates, positives, temperature, rule) }
    }

    /// The term of anchors that are these mixtures.
    pub fn mixed_term<'a>(self, mixed: &Mixed, temperature: f64, rule: Rule<'a>) -> Term<'a> {
        let mixture =
            Mixture { partner: mixed.partner.shallow_clone(), share: mixed.share.shallow_clone() };
        Term { mixture: Some(mixture), ..self.term(temperature, rule) }
    }
}
