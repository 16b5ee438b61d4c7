//! NNCLR (Dwibedi, Aytar, Tompson, Sermanet, Zisserman, ICCV 2021, arXiv 2104.14548): the nearest
//! neighbour in a queue stands for the anchor.
//!
//! ```text
//! n_i = the row of the queue nearest to z1_i
//! L_i = -log exp(n_i.p2_i / temperature) / sum_k exp(n_i.p2_k / temperature)      and with views exchanged
//! ```
//!
//! `z` is the online projection, `p` comes through the predictor; the queue holds past `z`.

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::candidates::{Candidates, Origin, Shared};
use crate::method::{Frame, at_least};
use crate::registry::{Define, table};
use crate::term::discriminate;
use crate::{
    Card, Embedding, Encoded, Entry, Method, ParameterError, QueueUse, Role, Term,
    checks, target,
};

inventory::submit! { Entry::of::<Nnclr>() }

/// Whose similarities make a row of the softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Anchors {
    /// A neighbour against all predictions (the paper).
    Neighbours,
    /// A prediction against all neighbours.
    Predictions,
}

/// Hyper-parameters of [`Nnclr`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Parameters {
    /// Divides the cosine similarities.
    temperature: f64,
    anchors: Anchors,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { temperature: 0.1, anchors: Anchors::Neighbours }
    }
}

/// NNCLR.
#[derive(Debug)]
pub(crate) struct Nnclr(Parameters);

impl Define for Nnclr {
    type Parameters = Parameters;
    const CARD: Card = Card {
        name: "nnclr",
        title: "NNCLR: the nearest neighbour in a queue as the positive",
        paper: "Dwibedi, Aytar, Tompson, Sermanet, Zisserman: With a Little Help from My Friends, ICCV 2021, arXiv 2104.14548",
        equation: "n_i = argmax over the queue of z1_i.c\nL_i = -log exp(n_i.p2_i / temperature) / sum_k exp(n_i.p2_k / temperature)      and with views exchanged",
        pieces: &[
            ("anchors", "the neighbours (anchors = \"predictions\": the predictions)"),
            ("candidates", "the batch's predictions of the other view, with gradient (or the neighbours)"),
            ("positives", "that of the same image, one-hot"),
            ("relations", "none"),
            ("denominator", "all candidates"),
            ("teacher", "none; the queue holds projections of the first view; give the online encoder a predictor ([model] predictor)"),
        ],
        combination: None,
        official_code: &[],
    };

    fn check(parameters: Parameters) -> Result<Self, ParameterError> {
        checks::temperature("temperature", parameters.temperature)?;
        Ok(Self(parameters))
    }
}

/// Index of the nearest row of the queue for each of these rows, `[rows]`, in blocks of rows, so that
/// no matrix of a batch against the queue exists.
fn nearest(rows: &Tensor, queue: &Tensor) -> Result<Tensor, TchError> {
    let (rows, queue) = (rows.f_detach()?, queue.f_detach()?.f_transpose(0, 1)?);
    let block = (NEAREST_BLOCK_ELEMENTS / queue.size()[1].max(1)).max(1);
    let blocks = rows.f_split(block, 0)?;
    let blocks = blocks.iter().map(|rows| rows.f_mm(&queue)?.f_argmax(1, false));
    Tensor::f_cat(&blocks.collect::<Result<Vec<_>, TchError>>()?, 0)
}

const NEAREST_BLOCK_ELEMENTS: i64 = 8 << 20;

impl Method for Nnclr {
    fn roles(&self, views: usize) -> Result<Vec<Role>, ParameterError> {
        at_least(views, 2, "")?;
        Ok(vec![Role { online: true, momentum: false }; views])
    }

    fn queue_use(&self) -> QueueUse {
        QueueUse::Required
    }

    fn needs_projections(&self) -> bool {
        true
    }

    fn terms(&self, encoded: &Encoded) -> Result<Vec<Term>, TchError> {
        let queue = encoded.queue.as_ref();
        let queue = queue.ok_or_else(|| TchError::Shape("nnclr needs a queue".into()))?;
        let queue = &queue.f_detach()?;
        let views = encoded.online.len();
        let mut terms = Vec::new();
        let pairs = (0..views).flat_map(|from| (0..views).map(move |to| (from, to)));
        let mut found = None;
        for (from, to) in pairs.filter(|(from, to)| from != to) {
            let (projected, predicted) = (encoded.projected(from)?, encoded.online(to)?);
            let everywhere = match found {
                Some((view, ref nearest)) if view == from => Tensor::shallow_clone(nearest),
                _ => nearest(&projected.everywhere, queue)?,
            };
            found = Some((from, everywhere.shallow_clone()));
            let rows = predicted.local.size()[0];
            let local = everywhere.f_narrow(0, encoded.offset, rows)?;
            let (anchors, rows, origin) = match self.0.anchors {
                Anchors::Neighbours => (
                    queue.f_index_select(0, &local)?,
                    predicted.everywhere.shallow_clone(),
                    Origin::Batch,
                ),
                Anchors::Predictions => (
                    predicted.local.shallow_clone(),
                    queue.f_index_select(0, &everywhere)?,
                    Origin::Other,
                ),
            };
            let positives = target::diagonal(anchors.size()[0], encoded.offset, &anchors)?;
            let candidates = Candidates { own: None, shared: vec![Shared { rows, origin }] };
            let frame = Frame { anchors, candidates, positives, itself: None };
            let weight = 1.0 / (views * (views - 1)) as f64;
            let term = frame.term(self.0.temperature, Box::new(discriminate)).weighing(weight);
            terms.push(Term { neighbours: Some(local), ..term });
        }
        Ok(terms)
    }

    fn keys<'a>(&self, encoded: &'a Encoded) -> Vec<&'a Embedding> {
        encoded.projected.iter().flatten().take(1).collect()
    }

    fn parameters(&self) -> toml::Table {
        table::<Self>(&self.0)
    }
}
