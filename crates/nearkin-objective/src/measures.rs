//! How well targets say who is kin, measured beside the loss and without any part in it.
//!
//! Whether a method finds kin is the question that this tool is about, and where images have labels
//! it can be answered: how much of the target lies on images of the anchor's class, whether the
//! picked false negatives are of that class, how many such images are still pushed away. The labels
//! come in here, after the targets were chosen.

use tch::{Kind, TchError, Tensor};

use crate::candidates::AnchorBlock;
use crate::choice::Choice;
use crate::formula::Denominator;
use crate::labels::Labels;
use crate::target;
use crate::term::Term;

/// The name under which the reference loss waits to be read.
const REFERENCE: &str = "reference_loss";

/// Means of measures over the anchors of a step; see [`Measures::means`] for what is measured.
#[derive(Debug, Default)]
pub struct Measures {
    labels: Option<Labels>,
    /// Sums and counts that are still on the device: reading each would make it wait.
    pending: Vec<(&'static str, Tensor, Tensor)>,
    sums: Vec<(&'static str, f64, f64)>,
    reference_loss: f64,
}

impl Measures {
    pub(crate) fn new(labels: Option<&Labels>) -> Self {
        Self { labels: labels.map(Labels::shallow_clone), ..Self::default() }
    }

    /// The loss of an encoder to which all candidates are equally similar (and, where there is no
    /// denominator, orthogonal).
    pub fn reference_loss(&self) -> f64 {
        self.reference_loss
    }

    /// The means by name, over the anchors for which each is defined:
    ///
    /// * `agreement`: share of anchors whose nearest candidate, of those that they are compared with,
    ///   has the largest target;
    /// * `positive_mass`: weight of the target on the known positives;
    /// * `info_nce`, `ressl`, `ceil`: the parts of SCE's decomposition, where every candidate stands
    ///   in the denominator: cross-entropy of the positives, that of the relations among the
    ///   negatives, and the log of one over the negatives' share of the denominator;
    /// * `selected`: candidates picked per anchor.
    ///
    /// Of mixed anchors only what depends on targets alone is measured, for the first of their
    /// images. With labels, where kin are the candidates of the anchor's class but its own views, for
    /// anchors whose class is known:
    ///
    /// * `kin_purity`: the share of kin in the weight that targets put on candidates other than own
    ///   views, sum over anchors of the weight on kin / sum over anchors of the weight on all of these.
    ///   For targets of mass 1 it is `kin_mass` / (1 - `positive_mass`). It is left out where there is
    ///   no such weight, and for targets with negative weights;
    /// * `kin_chance`: the share of kin in the number of candidates other than own views: what
    ///   `kin_purity`, and the `kin_precision` of picked candidates, are without any knowledge;
    /// * `kin_mass`: weight of the target on kin;
    /// * `kin_share`: kin / all candidates, own views included, as earlier versions recorded it;
    /// * `kin_precision`, `kin_recall`: kin among the picked, and picked among kin; of a neighbor that
    ///   takes the anchor's place, whether it is kin;
    /// * `kin_in_denominator`: share of kin that the anchor is still pushed away from: they stand in
    ///   its denominator and were not picked;
    /// * `label_distance`: the Euclidean distance between the target, scaled to a sum of 1, and the
    ///   uniform distribution over kin and positives; for targets without negative weights.
    pub fn means(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.sums.iter().filter(|sum| sum.2 > 0.0).map(|&(name, sum, count)| (name, sum / count))
    }

    /// Adds the anchors of another batch of the same step, which has this `share` of the loss.
    pub fn absorb(&mut self, other: &Self, share: f64) {
        self.reference_loss += share * other.reference_loss;
        other.sums.iter().for_each(|&(name, sum, count)| self.tally(name, sum, count));
    }

    /// All sums and counts as numbers, the reference loss first. For the same terms they stand in the
    /// same order in every process, and what is added up over processes can be
    /// [put back](Self::set_numbers).
    pub fn numbers(&self) -> Vec<f64> {
        let sums = self.sums.iter().flat_map(|&(_, sum, count)| [sum, count]);
        std::iter::once(self.reference_loss).chain(sums).collect()
    }

    /// Takes numbers in the order of [`numbers`](Self::numbers).
    pub fn set_numbers(&mut self, numbers: &[f64]) {
        let Some((&reference_loss, sums)) = numbers.split_first() else { return };
        self.reference_loss = reference_loss;
        for (entry, numbers) in self.sums.iter_mut().zip(sums.chunks_exact(2)) {
            (entry.1, entry.2) = (numbers[0], numbers[1]);
        }
    }

    fn tally(&mut self, name: &'static str, sum: f64, count: f64) {
        match self.sums.iter_mut().find(|entry| entry.0 == name) {
            Some(entry) => *entry = (name, entry.1 + sum, entry.2 + count),
            None => self.sums.push((name, sum, count)),
        }
    }

    /// Takes values, `[anchors, 1]`, of those anchors for which `defined`, `[anchors, 1]`, is true.
    fn put(
        &mut self,
        name: &'static str,
        values: &Tensor,
        defined: Option<&Tensor>,
    ) -> Result<(), TchError> {
        let values = values.f_to_kind(Kind::Double)?;
        let (values, count) = match defined {
            None => {
                let count = values.numel() as f64;
                let count = Tensor::f_full([], count, (Kind::Double, values.device()))?;
                (values, count)
            }
            Some(defined) => (
                values.f_masked_fill(&defined.f_logical_not()?, 0.0)?,
                defined.f_sum(Kind::Double)?,
            ),
        };
        self.pending.push((name, values.f_sum(Kind::Double)?, count));
        Ok(())
    }

    /// Reads what is pending, all at once.
    pub(crate) fn finish(&mut self) -> Result<(), TchError> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(());
        }
        let flat: Vec<&Tensor> = pending.iter().flat_map(|entry| [&entry.1, &entry.2]).collect();
        let numbers = Tensor::f_stack(&flat, 0)?;
        let numbers = Vec::<f64>::try_from(numbers.f_to_device(tch::Device::Cpu)?)?;
        for (entry, numbers) in pending.iter().zip(numbers.chunks_exact(2)) {
            match entry.0 {
                REFERENCE => self.reference_loss += numbers[0],
                name => self.tally(name, numbers[0], numbers[1]),
            }
        }
        Ok(())
    }

    /// Adds a block of a term: its logits and what the rule chose, both `[block, candidates]`.
    pub(crate) fn add(
        &mut self,
        term: &Term<'_>,
        block: &AnchorBlock<'_>,
        logits: &Tensor,
        choice: &Choice,
    ) -> Result<(), TchError> {
        if block.candidates() == 0 {
            return Ok(());
        }
        let target = choice.target.f_to_kind(logits.kind())?;
        self.refer(term, logits, &target, choice)?;
        if !term.measured {
            return Ok(());
        }
        let positives = block.mask(&block.positives()?)?;
        self.put("positive_mass", &sum(&target.f_mul(&positives)?)?, None)?;
        let itself = block.itself()?.map(|itself| block.mask(&itself)).transpose()?;
        if term.mixture.is_none() {
            self.agree(logits, &target, itself.as_ref(), &choice.denominator)?;
            if matches!(choice.denominator, Denominator::All) && itself.is_none() {
                self.decompose(block, logits, &target, &positives)?;
            }
        }
        if let Some(selected) = &choice.selected {
            self.put("selected", &sum(selected)?, None)?;
        }
        let Some(labels) = self.labels.as_ref().map(Labels::shallow_clone) else { return Ok(()) };
        if let (Some(neighbors), Some(queue)) = (&term.neighbors, &labels.queue) {
            let theirs = queue.f_index_select(0, &block.select(neighbors)?)?.f_unsqueeze(1)?;
            let own = labels.of_anchors(block)?;
            let known = own.f_ge(0)?.f_logical_and(&theirs.f_ge(0)?)?;
            self.put("kin_precision", &theirs.f_eq_tensor(&own)?, Some(&known))?;
        }
        let same = labels.same_class(block)?;
        let own_image = block.mask(&block.own_image()?)?;
        let kin = same.f_logical_and(&own_image.f_logical_not()?)?;
        let known = same.f_logical_and(&own_image)?.f_any_dim(1, true)?;
        self.purity(&target, &kin, &own_image, &known)?;
        self.against_labels(&target, &kin, &positives, &known, choice)
    }

    /// The term's value where all logits are 0: mass times the log of the denominator, and what is
    /// added.
    fn refer(
        &mut self,
        term: &Term<'_>,
        logits: &Tensor,
        target: &Tensor,
        choice: &Choice,
    ) -> Result<(), TchError> {
        let nothing = choice.denominator.of_equal_logits(logits)?;
        let nothing = nothing.f_masked_fill(&nothing.f_eq(f64::NEG_INFINITY)?, 0.0)?;
        let per_anchor = match &choice.chance {
            Some(chance) => chance.f_unsqueeze(1)?,
            None => sum(target)?.f_mul(&nothing)?,
        };
        let share = term.weight / term.anchors.size()[0].max(1) as f64;
        self.put(REFERENCE, &per_anchor.f_mul_scalar(share)?, None)
    }

    fn agree(
        &mut self,
        logits: &Tensor,
        target: &Tensor,
        itself: Option<&Tensor>,
        denominator: &Denominator,
    ) -> Result<(), TchError> {
        let mut compared = logits.shallow_clone();
        if let Some(excluded) = denominator.excluded() {
            let out = excluded.f_logical_and(&target.f_eq(0.0)?)?;
            compared = compared.f_masked_fill(&out, f64::NEG_INFINITY)?;
        }
        if let Some(itself) = itself {
            compared = compared.f_masked_fill(itself, f64::NEG_INFINITY)?;
        }
        let agrees = compared.f_argmax(1, true)?.f_eq_tensor(&target.f_argmax(1, true)?)?;
        self.put("agreement", &agrees, Some(&sum(target)?.f_gt(0.0)?))
    }

    fn decompose(
        &mut self,
        block: &AnchorBlock<'_>,
        logits: &Tensor,
        target: &Tensor,
        positives: &Tensor,
    ) -> Result<(), TchError> {
        let last = [1].as_slice();
        let places = block.positives()?;
        if places.size()[1] == 0 || places.size()[1] == block.candidates() {
            return Ok(());
        }
        let all = logits.f_logsumexp(last, true)?;
        let uniform = target::uniform(&places, block.candidates(), logits.kind())?;
        self.put("info_nce", &all.f_sub(&sum(&uniform.f_mul(logits)?)?)?, None)?;
        let negatives =
            logits.f_masked_fill(positives, f64::NEG_INFINITY)?.f_logsumexp(last, true)?;
        self.put("ceil", &all.f_sub(&negatives)?, None)?;
        let relations = target.f_masked_fill(positives, 0.0)?;
        let mass = sum(&relations)?;
        let ressl = negatives.f_sub(&sum(&relations.f_mul(logits)?)?.f_div(&mass)?)?;
        self.put("ressl", &ressl, Some(&mass.f_gt(1e-6)?))
    }

    /// How much of what a target says about other images is right, and how much a guess would be.
    fn purity(
        &mut self,
        target: &Tensor,
        kin: &Tensor,
        own_image: &Tensor,
        known: &Tensor,
    ) -> Result<(), TchError> {
        let others = own_image.f_logical_not()?;
        let beyond = sum(&target.f_mul(&others)?)?;
        let is_proper = target.f_amin([1].as_slice(), true)?.f_ge(0.0)?;
        let counted = beyond.f_gt(0.0)?.f_logical_and(&is_proper)?.f_logical_and(known)?;
        // Weights in place of anchors: their ratio is that of the sums, over blocks and processes.
        let of_counted = |weights: &Tensor| -> Result<Tensor, TchError> {
            let weights = weights.f_to_kind(Kind::Double)?;
            weights.f_masked_fill(&counted.f_logical_not()?, 0.0)?.f_sum(Kind::Double)
        };
        let on_kin = of_counted(&sum(&target.f_mul(kin)?)?)?;
        self.pending.push(("kin_purity", on_kin, of_counted(&beyond)?));
        let others = sum(&others)?;
        let chance = sum(kin)?.f_div(&others)?;
        self.put("kin_chance", &chance, Some(&others.f_gt(0)?.f_logical_and(known)?))
    }

    fn against_labels(
        &mut self,
        target: &Tensor,
        kin: &Tensor,
        positives: &Tensor,
        known: &Tensor,
        choice: &Choice,
    ) -> Result<(), TchError> {
        let candidates = target.size()[1] as f64;
        let count = sum(kin)?;
        self.put("kin_mass", &sum(&target.f_mul(kin)?)?, Some(known))?;
        self.put("kin_share", &count.f_div_scalar(candidates)?, Some(known))?;
        let has_kin = count.f_gt(0)?.f_logical_and(known)?;
        if let Some(selected) = &choice.selected {
            let right = sum(&selected.f_logical_and(kin)?)?;
            let picked = sum(selected)?;
            let any = picked.f_gt(0)?.f_logical_and(known)?;
            self.put("kin_precision", &right.f_div(&picked)?, Some(&any))?;
            self.put("kin_recall", &right.f_div(&count)?, Some(&has_kin))?;
        }
        let in_denominator = match &choice.denominator {
            Denominator::Constant { .. } => count.f_zeros_like()?,
            Denominator::Except(excluded) => {
                let left = kin.f_logical_and(&excluded.f_logical_not()?)?;
                sum(&not_picked(left, choice)?)?.f_div(&count)?
            }
            Denominator::All | Denominator::Estimated(_) => {
                sum(&not_picked(kin.shallow_clone(), choice)?)?.f_div(&count)?
            }
        };
        self.put("kin_in_denominator", &in_denominator, Some(&has_kin))?;
        let truth = target::uniform_on(&kin.f_logical_or(positives)?, target.kind())?;
        let normalised = target.f_div(&sum(target)?.f_clamp_min(1e-12)?)?;
        let distance = normalised.f_sub(&truth)?.f_norm_scalaropt_dim(2.0, [1].as_slice(), true)?;
        let proper = target.f_amin([1].as_slice(), true)?.f_ge(0.0)?.f_logical_and(known)?;
        self.put("label_distance", &distance, Some(&proper))
    }
}

/// The marked candidates that the method did not pick.
fn not_picked(marked: Tensor, choice: &Choice) -> Result<Tensor, TchError> {
    match &choice.selected {
        Some(selected) => marked.f_logical_and(&selected.f_logical_not()?),
        None => Ok(marked),
    }
}

/// Row sums, `[block, 1]`.
fn sum(matrix: &Tensor) -> Result<Tensor, TchError> {
    matrix.f_sum_dim_intlist([1].as_slice(), true, None::<Kind>)
}
