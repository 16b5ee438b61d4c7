//! ReSSL against a queue, and among the keys of a batch.

use super::case::Failure;
use super::check::Check;
use super::sce::relations_only;
use super::through::{loss_of, method, of_similarities, per_anchor, queries_and_keys, rows, term};

/// Checks one case.
pub(crate) fn run(check: &mut Check<'_>) -> Result<(), Failure> {
    let (temperature, sharpened) = (check.case.parameter("tau_s")?, check.case.parameter("tau_t")?);
    let is_of_similarities = check.case.has_input("sim_qk");
    let (leaf, gradient, encoded) = if is_of_similarities {
        let queries = check.leaf("sim_qk")?;
        let encoded = of_similarities(&queries, &check.input("sim_kk")?)?;
        (queries, "grad_sim_qk", encoded)
    } else {
        let queries = check.leaf("q_raw")?;
        let keys = rows(&check.input("k_raw")?, true)?;
        let queue = rows(&check.input("queue_raw")?, true)?;
        let encoded = queries_and_keys(rows(&queries, true)?, keys, Some(queue));
        (queries, "grad_q_raw", encoded)
    };
    let method = if is_of_similarities {
        relations_only(temperature, sharpened)?
    } else {
        let parameters =
            [("temperature", temperature.into()), ("temperature_momentum", sharpened.into())];
        method("ressl", parameters)?
    };
    let term = term(&*method, &encoded, 0)?;
    let mut target = term.choice()?.target;
    if let (false, Some(queue)) = (is_of_similarities, &encoded.queue) {
        // The own key stands before the queue, without any weight.
        target = target.f_narrow(1, 1, queue.size()[0])?;
    }
    check.close("target", &target)?;
    check.close("per_row", &per_anchor(&term)?)?;
    let loss = loss_of(term)?;
    check.close("loss", &loss)?;
    check.gradient(gradient, &loss, &leaf)
}
