#![doc = include_str!("nnclr.md")]

use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use crate::method::at_least;
use crate::{
    Candidates, Choice, Define, Encoded, Entry, Frame, KeyEncoder, Method, Origin, ParameterError,
    QueueUse, Requirements, Role, Shared, Term, checks, target,
};

inventory::submit! { Entry::new::<Nnclr>() }

/// Hyper-parameters of NNCLR.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nnclr {
    /// Divides the cosine similarities.
    pub temperature: f64,
    /// Whose similarities make a row of the softmax.
    pub anchors: NnclrAnchors,
}

/// Whose similarities make a row of the softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NnclrAnchors {
    /// A neighbor against all predictions (the paper).
    #[serde(rename = "neighbours")]
    Neighbors,
    /// A prediction against all neighbors.
    Predictions,
}

impl Default for Nnclr {
    fn default() -> Self {
        Self { temperature: 0.1, anchors: NnclrAnchors::Neighbors }
    }
}

impl Define for Nnclr {
    type Settings = Self;
    const NAME: &'static str = "nnclr";
    const CARD: &'static str = include_str!("nnclr.md");

    fn new(settings: Self) -> Result<Self, ParameterError> {
        checks::temperature("temperature", settings.temperature)?;
        Ok(settings)
    }
}

impl Method for Nnclr {
    fn requirements(&self, views: usize) -> Result<Requirements, ParameterError> {
        at_least(views, 2, "")?;
        let role = Role { online: true, key: Some(KeyEncoder::Projector) };
        Ok(Requirements {
            queue: QueueUse::Required,
            enqueued: vec![0],
            ..Requirements::new(vec![role; views])
        })
    }

    fn terms<'a>(&'a self, encoded: &'a Encoded) -> Result<Vec<Term<'a>>, TchError> {
        let queue = encoded.queue.as_ref();
        let queue =
            queue.ok_or_else(|| TchError::Shape("nnclr needs a queue".into()))?.f_detach()?;
        let views = encoded.online.len();
        let weight = 1.0 / (views * (views - 1)) as f64;
        let mut terms = Vec::new();
        for from in 0..views {
            let neighbors = nearest(&encoded.key(from)?.gathered, &queue)?;
            for to in (0..views).filter(|&to| to != from) {
                let term = self.term(encoded, &queue, &neighbors, to)?;
                terms.push(term.weighing(weight));
            }
        }
        Ok(terms)
    }
}

impl Nnclr {
    /// Neighbors of one view, as rows of the queue for the images of all processes, and predictions
    /// of another.
    fn term<'a>(
        &self,
        encoded: &Encoded,
        queue: &Tensor,
        neighbors: &Tensor,
        to: usize,
    ) -> Result<Term<'a>, TchError> {
        let predictions = encoded.online(to)?;
        let rows_here = predictions.local.size()[0];
        let neighbors_here = neighbors.f_narrow(0, encoded.offset, rows_here)?;
        let (anchors, rows, origin) = match self.anchors {
            NnclrAnchors::Neighbors => (
                queue.f_index_select(0, &neighbors_here)?,
                predictions.gathered.shallow_clone(),
                Origin::Batch,
            ),
            NnclrAnchors::Predictions => (
                predictions.local.shallow_clone(),
                queue.f_index_select(0, neighbors)?,
                Origin::Other,
            ),
        };
        let positives = target::diagonal(rows_here, encoded.offset, &anchors)?;
        let candidates = Candidates { own: None, shared: vec![Shared { rows, origin }] };
        let frame = Frame::new(&anchors, candidates, positives);
        let term = frame.term(self.temperature, Box::new(Choice::discriminate));
        Ok(Term { neighbors: Some(neighbors_here), ..term })
    }
}

/// Index of the nearest row of the queue for each of these rows, `[rows]`, in blocks of rows, so that
/// no matrix of a batch against the queue exists.
fn nearest(rows: &Tensor, queue: &Tensor) -> Result<Tensor, TchError> {
    let (rows, queue) = (rows.f_detach()?, queue.f_transpose(0, 1)?);
    let block = (NEAREST_BLOCK_ELEMENTS / queue.size()[1].max(1)).max(1);
    let blocks = rows.f_split(block, 0)?;
    let blocks = blocks.iter().map(|rows| rows.f_mm(&queue)?.f_argmax(1, false));
    Tensor::f_cat(&blocks.collect::<Result<Vec<_>, TchError>>()?, 0)
}

const NEAREST_BLOCK_ELEMENTS: i64 = 8 << 20;
