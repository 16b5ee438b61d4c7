//! ReSSL against a queue, and among the keys of a batch.

use super::case::Failure;
use super::check::Check;
use super::sce::relations_only;
use super::through::{loss_of, method, of_similarities, per_anchor, queries_and_keys, rows, term};

/// Checks one case.
pub(crate) fn run(check: &mut Check<'_>) -> Result<(), Failure> {
    let (temperature, sharpened) = (check.case.parameter("tau_s")?, check.case.parameter("tau_t")?);
    let (leaf, gradient, term) = if check.case.has_input("sim_qk") {
        let queries = check.leaf("sim_qk")?;
        let encoded = of_similarities(&queries, &check.input("sim_kk")?)?;
        let term = term(&*relations_only(temperature, sharpened)?, &encoded, 0)?;
        check.close("target", &term.choice()?.target)?;
        (queries, "grad_sim_qk", term)
    } else {
        let queries = check.leaf("q_raw")?;
        let keys = rows(&check.input("k_raw")?, true)?;
        let queue = rows(&check.input("queue_raw")?, true)?;
        let width = queue.size()[0];
        let encoded = queries_and_keys(rows(&queries, true)?, keys, Some(queue));
        let parameters =
            [("temperature", temperature.into()), ("temperature_momentum", sharpened.into())];
        let term = term(&*method("ressl", parameters)?, &encoded, 0)?;
        // The own key stands before the queue, without any weight.
        check.close("target", &term.choice()?.target.f_narrow(1, 1, width)?)?;
        (queries, "grad_q_raw", term)
    };
    check.close("per_row", &per_anchor(&term)?)?;
    let loss = loss_of(term)?;
    check.close("loss", &loss)?;
    check.gradient(gradient, &loss, &leaf)
}
