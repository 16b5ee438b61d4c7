//! Loss and gradient of the terms of a step, without the matrices that the definition would keep.
//!
//! A batch of 4096 against a queue of 65536 makes matrices of 1 GiB, and automatic differentiation
//! keeps several of them. The gradient of the formula is known, so a block of anchors is finished
//! (logits, target, value, gradient) before the next one is begun, and what stays is as large as the
//! embeddings. Blocks are over anchors rather than candidates: a row is then normalised in one pass.

use tch::{Device, Kind, TchError, Tensor};

use crate::candidates::{AnchorBlock, Candidates, wide};
use crate::choice::Choice;
use crate::formula::{Denominator, value_and_gradient};
use crate::labels::Labels;
use crate::measures::Measures;
use crate::term::Term;

/// Size of one matrix of a block. Large enough for a matrix product to run at full speed.
const BLOCK_BYTES: usize = 32 << 20;

/// What the terms of one step amount to.
#[derive(Debug)]
pub struct Evaluated {
    /// The loss, a scalar with gradient.
    pub loss: Tensor,
}

/// Adds up the terms: the weighted sum of each term's mean over its anchors.
pub fn evaluate(terms: &[Term<'_>]) -> Result<Evaluated, TchError> {
    add_up(terms, None, BLOCK_BYTES)
}

/// The same, and what can be measured of the targets on the way; with `labels`, also how true the
/// targets are. Labels have no part in the loss.
pub fn evaluate_and_measure(
    terms: &[Term<'_>],
    labels: Option<&Labels>,
) -> Result<(Evaluated, Measures), TchError> {
    let mut measures = Measures::new(labels);
    let evaluated = add_up(terms, Some(&mut measures), BLOCK_BYTES)?;
    measures.finish()?;
    Ok((evaluated, measures))
}

fn add_up(
    terms: &[Term<'_>],
    mut measures: Option<&mut Measures>,
    block_bytes: usize,
) -> Result<Evaluated, TchError> {
    let mut losses = Vec::with_capacity(terms.len());
    for term in terms {
        losses.push(term_loss(term, measures.as_deref_mut(), block_bytes)?);
    }
    let loss = if losses.is_empty() {
        Tensor::f_zeros([], (Kind::Float, Device::Cpu))?
    } else {
        Tensor::f_stack(&losses, 0)?.f_sum(None::<Kind>)?
    };
    Ok(Evaluated { loss })
}

/// One term's part of the loss.
fn term_loss(
    term: &Term<'_>,
    mut measures: Option<&mut Measures>,
    block_bytes: usize,
) -> Result<Tensor, TchError> {
    let candidates = term.candidates.detached()?;
    let anchors = wide(&term.anchors.f_detach()?)?;
    let scaled = anchors.f_div_scalar(term.temperature)?;
    let count = anchors.size()[0];
    let mut gradients = Gradients::new(term, &anchors, &candidates)?;
    let mut total = Tensor::f_zeros([], (anchors.kind(), anchors.device()))?;
    let block = block_rows(&candidates, anchors.kind(), block_bytes).min(count).max(1);
    for start in (0..count).step_by(block as usize) {
        let length = block.min(count - start);
        let itself = term.itself.as_ref();
        let rows = AnchorBlock::range(&candidates, &term.positives, itself, start, length);
        let logits = rows.similarities(&scaled)?;
        let choice = (term.rule)(&rows)?;
        if let Some(measures) = measures.as_deref_mut() {
            measures.add(term, &rows, &logits, &choice)?;
        }
        let (loss, gradient) = match &term.mixture {
            None => block_loss(logits, &choice)?,
            Some(mixture) => {
                let partner = (term.rule)(&rows.at(rows.select(&mixture.partner)?))?;
                let share = rows.select(&mixture.share)?.f_to_kind(logits.kind())?;
                mixed_loss(logits, &choice, &partner, &share)?
            }
        };
        let _ = total.f_add_(&loss.f_sum(None::<Kind>)?)?;
        gradients.add(&gradient, &anchors, start)?;
    }
    let weight = term.weight / count.max(1) as f64;
    gradients.attach(&total.f_mul_scalar(weight)?, weight, term)
}

/// Anchors of which one matrix fits into so many bytes.
fn block_rows(candidates: &Candidates, kind: Kind, block_bytes: usize) -> i64 {
    let row = candidates.count().max(1) as usize * kind.elt_size_in_bytes();
    (block_bytes / row).max(1) as i64
}

/// Loss per anchor and its derivative by the logits.
fn block_loss(logits: Tensor, choice: &Choice) -> Result<(Tensor, Tensor), TchError> {
    let target = choice.target.f_to_kind(logits.kind())?;
    let (loss, gradient) = value_and_gradient(logits, &target, &choice.denominator)?;
    let loss = match &choice.value {
        Some(value) => value.f_to_kind(loss.kind())?,
        None => loss,
    };
    Ok((loss, gradient))
}

/// The same for mixtures. Where nothing but the targets differs, one pass with the mixed target is
/// enough.
fn mixed_loss(
    logits: Tensor,
    first: &Choice,
    second: &Choice,
    share: &Tensor,
) -> Result<(Tensor, Tensor), TchError> {
    let share_of_row = share.f_unsqueeze(1)?;
    if let (Denominator::All, Denominator::All) = (&first.denominator, &second.denominator)
        && first.value.is_none()
        && second.value.is_none()
    {
        let target = second.target.f_lerp_tensor(&first.target, &share_of_row)?;
        return block_loss(logits, &Choice::against_all(target));
    }
    let (loss_1, mut gradient_1) = block_loss(logits.f_alias_copy()?, first)?;
    let (loss_2, gradient_2) = block_loss(logits, second)?;
    let loss = loss_2.f_lerp_tensor(&loss_1, share)?;
    let other = share_of_row.f_neg()?.f_add_scalar(1.0)?;
    let gradient = gradient_1.f_mul_(&share_of_row)?.f_add_(&gradient_2.f_mul(&other)?)?;
    Ok((loss, gradient))
}

/// Derivatives of a term's sum over anchors by embeddings, each as large as what it belongs to.
struct Gradients<'a> {
    candidates: &'a Candidates,
    anchors: Option<Tensor>,
    shared: Vec<Option<Tensor>>,
    temperature: f64,
}

impl<'a> Gradients<'a> {
    fn new(
        term: &Term<'_>,
        anchors: &Tensor,
        candidates: &'a Candidates,
    ) -> Result<Self, TchError> {
        let wanted = |original: &Tensor, like: &Tensor| {
            original.requires_grad().then(|| like.f_zeros_like()).transpose()
        };
        let pairs = term.candidates.shared.iter().zip(&candidates.shared);
        Ok(Self {
            candidates,
            anchors: wanted(&term.anchors, anchors)?,
            shared: pairs
                .map(|(original, wide)| wanted(&original.rows, &wide.rows))
                .collect::<Result<_, TchError>>()?,
            temperature: term.temperature,
        })
    }

    /// Adds a block's derivative by its logits, `[block, candidates]`.
    fn add(&mut self, by_logits: &Tensor, anchors: &Tensor, start: i64) -> Result<(), TchError> {
        let length = by_logits.size()[0];
        let mut next = 0;
        if let Some(own) = &self.candidates.own {
            if let Some(total) = &self.anchors {
                let column = by_logits.f_narrow(1, 0, 1)?;
                let own = own.f_narrow(0, start, length)?;
                let _ = total.f_narrow(0, start, length)?.f_addcmul_(&own, &column)?;
            }
            next = 1;
        }
        for (candidates, total_of_candidates) in self.candidates.shared.iter().zip(&self.shared) {
            let width = candidates.rows.size()[0];
            let columns = by_logits.f_narrow(1, next, width)?;
            if let Some(total) = &self.anchors {
                let _ = total.f_narrow(0, start, length)?.f_addmm_(&columns, &candidates.rows)?;
            }
            if let Some(total) = total_of_candidates {
                let anchors = anchors.f_narrow(0, start, length)?;
                let _ = total.shallow_clone().f_addmm_(&columns.f_transpose(0, 1)?, &anchors)?;
            }
            next += width;
        }
        Ok(())
    }

    /// The value as a tensor through which `weight` times these derivatives flow back.
    fn attach(self, value: &Tensor, weight: f64, term: &Term<'_>) -> Result<Tensor, TchError> {
        let originals = std::iter::once(&term.anchors)
            .chain(term.candidates.shared.iter().map(|shared| &shared.rows));
        let mut carrier: Option<Tensor> = None;
        for (original, total) in originals.zip(std::iter::once(self.anchors).chain(self.shared)) {
            let Some(total) = total else { continue };
            let total = total.f_mul_scalar(weight / self.temperature)?;
            let part = original.f_mul(&total.f_to_kind(original.kind())?)?.f_sum(value.kind())?;
            carrier = Some(match carrier {
                Some(carrier) => carrier.f_add(&part)?,
                None => part,
            });
        }
        match carrier {
            Some(carrier) => carrier.f_sub(&carrier.f_detach()?)?.f_add(value),
            None => Ok(value.shallow_clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Embedding, Encoded, Mixed, Progress, from_table, unit_rows};

    /// Two online views, both in the momentum encoder too, a queue and a mixture.
    fn encoded(leaves: &[Tensor; 3]) -> Encoded {
        let rows =
            |count: i64| unit_rows(&Tensor::randn([count, 5], tch::kind::DOUBLE_CPU)).unwrap();
        let online = |leaf: &Tensor| Some(Embedding::single(unit_rows(leaf).unwrap()));
        Encoded {
            online: vec![online(&leaves[0]), online(&leaves[1])],
            keys: vec![Some(Embedding::single(rows(7))), Some(Embedding::single(rows(7)))],
            mixed: vec![Mixed {
                anchors: unit_rows(&leaves[2]).unwrap(),
                partner: Tensor::from_slice(&[3_i64, 0, 6, 3, 5, 1, 4]),
                share: Tensor::rand([7], tch::kind::DOUBLE_CPU),
            }],
            queue: Some(rows(11)),
            labels: Some(labels()),
            progress: Progress::new(5, 9, 3),
            ..Encoded::default()
        }
    }

    fn labels() -> Labels {
        Labels {
            batch: Tensor::from_slice(&[0_i64, 1, 2, 0, -1, 1, 0]),
            queue: Some(Tensor::from_slice(&[0_i64, 1, 2, 3, 0, -1, 1, 2, 3, 0, 1])),
            offset: 0,
        }
    }

    #[test]
    fn the_size_of_blocks_changes_neither_loss_nor_gradient_nor_measures() {
        for recipe in [
            "name = \"sane\"",
            "name = \"sce\"",
            "name = \"co2\"",
            "name = \"hcl\"",
            "name = \"supcon\"\npositives = \"inside_mean\"",
            "name = \"fnc\"\nsupport_views = 0\nthreshold = 0.3\nfalse_negatives = \"eliminate\"",
        ] {
            tch::manual_seed(3);
            let leaf = || Tensor::randn([7, 5], tch::kind::DOUBLE_CPU).set_requires_grad(true);
            let leaves = [leaf(), leaf(), leaf()];
            let method = from_table(&recipe.parse().unwrap()).unwrap().method;
            let encoded = encoded(&leaves);
            let terms = method.terms(&encoded).unwrap();
            let labels = labels();
            // One, two and all anchors at once.
            let row = terms[0].candidates.count() as usize * 8;
            let runs = [1, 2 * row, BLOCK_BYTES].map(|block_bytes| {
                let mut measures = Measures::new(Some(&labels));
                let evaluated = add_up(&terms, Some(&mut measures), block_bytes).unwrap();
                measures.finish().unwrap();
                let loss = evaluated.loss;
                let gradients = Tensor::run_backward(&[&loss], &leaves, true, false);
                let parts = gradients.iter().filter(|part| part.defined());
                let flat: Vec<Tensor> =
                    parts.map(|part| part.flatten(0, -1)).chain([loss.reshape(1)]).collect();
                let means: Vec<_> = measures.means().collect();
                (Tensor::cat(&flat, 0), means)
            });
            assert!(runs[2].1.len() >= 5, "{recipe}: {:?}", runs[2].1);
            for run in &runs[..2] {
                assert!(run.0.allclose(&runs[2].0, 1e-12, 1e-12, false), "{recipe}");
                for (one, all) in run.1.iter().zip(&runs[2].1) {
                    let same = one.0 == all.0 && (one.1 - all.1).abs() < 1e-9;
                    assert!(same, "{recipe}: {one:?} {all:?}");
                }
            }
        }
    }
}
