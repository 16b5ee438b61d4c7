//! InfoNCE: similarities, and embeddings against the keys of the batch, a queue, or both.

use nearkin_objective::evaluate;

use super::case::Failure;
use super::check::Check;
use super::through::{
    logits, loss_of, method, of_similarities, per_anchor, queries_and_keys, rows, term,
    unit_vectors,
};

/// Checks one case.
pub(crate) fn run(check: &mut Check<'_>) -> Result<(), Failure> {
    if check.case.has_input("sim") { similarities(check) } else { embeddings(check) }
}

fn moco(
    check: &Check<'_>,
    candidates: &str,
) -> Result<Box<dyn nearkin_objective::Method>, Failure> {
    let temperature = check.case.parameter("tau")?;
    method("moco", [("temperature", temperature.into()), ("candidates", candidates.into())])
}

fn similarities(check: &mut Check<'_>) -> Result<(), Failure> {
    let moco = moco(check, "keys_and_queue")?;
    let similarities = check.leaf("sim")?;
    let rows = of_similarities(&similarities, &unit_vectors(&similarities)?)?;
    let transposed = similarities.f_transpose(0, 1)?;
    let columns = of_similarities(&transposed, &unit_vectors(&transposed)?)?;
    let of_rows = term(&*moco, &rows, 0)?;
    check.close("sim", &of_rows.similarities()?)?;
    check.close("logits", &logits(&of_rows)?)?;
    check.close("per_row", &per_anchor(&of_rows)?)?;
    let loss = loss_of(of_rows)?;
    check.close("loss", &loss)?;
    check.gradient("grad_sim", &loss, &similarities)?;
    let halves = [term(&*moco, &rows, 0)?.weighing(0.5), term(&*moco, &columns, 0)?.weighing(0.5)];
    let symmetric = evaluate(&halves)?.loss;
    check.close("loss_symmetric_mean_of_rows_and_cols", &symmetric)?;
    check.gradient("grad_sim_symmetric", &symmetric, &similarities)
}

fn embeddings(check: &mut Check<'_>) -> Result<(), Failure> {
    let normalise = check.case.flag("normalise", true);
    let queries = check.leaf("q_raw")?;
    let keys = rows(&check.input("k_raw")?, normalise)?;
    let queue = if check.case.has_input("queue_raw") {
        Some(rows(&check.input("queue_raw")?, normalise)?)
    } else {
        None
    };
    let in_batch = match &queue {
        None => true,
        Some(queue) => has_keys_of_the_batch(check, keys.size()[0], queue.size()[0])?,
    };
    let moco = moco(check, if in_batch { "keys_and_queue" } else { "queue" })?;
    let encoded = queries_and_keys(rows(&queries, normalise)?, keys, queue);
    let term = term(&*moco, &encoded, 0)?;
    check.close("sim", &term.similarities()?)?;
    check.close("logits", &logits(&term)?)?;
    check.close("per_row", &per_anchor(&term)?)?;
    let loss = loss_of(term)?;
    check.close("loss", &loss)?;
    check.gradient("grad_q_raw", &loss, &queries)
}

/// Whether all keys of the batch stand before the queue, or the own key only: by the number of
/// expected logits, the order that the case states, or its name.
fn has_keys_of_the_batch(check: &Check<'_>, batch: i64, queue: i64) -> Result<bool, Failure> {
    let case = check.case;
    if let Some(width) = case.expected_width(&["logits", "sim"])? {
        return Ok(width == batch + queue);
    }
    let told = [case.candidate_order.to_lowercase(), case.name.to_lowercase()];
    let says =
        |words: &[&str]| told.iter().any(|text| words.iter().any(|word| text.contains(word)));
    match (says(&["k_1", "inbatch", "in_batch", "in-batch"]), says(&["pos", "moco"])) {
        (true, _) => Ok(true),
        (false, true) => Ok(false),
        (false, false) => Err(Failure::Unknown(
            "nothing says whether the batch's keys are candidates: expect logits, or state candidate_order"
                .to_owned(),
        )),
    }
}
