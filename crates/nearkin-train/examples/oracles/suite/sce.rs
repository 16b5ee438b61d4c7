//! SCE on similarities, on embeddings in all its variants, and on several crops.

use nearkin_objective::{Encoded, Method};
use tch::Tensor;
use toml::Value;

use super::case::Failure;
use super::check::Check;
use super::through::{
    alone, gradients, leaves, loss, loss_of, method, of_similarities, per_anchor, queries_and_keys,
    rows, term,
};

/// Checks one case.
pub(crate) fn run(check: &mut Check<'_>) -> Result<(), Failure> {
    if !check.case.flag("mask_self_in_target", true) {
        let reason =
            "the target masks the anchor's own key: mask_self_in_target = false has no method";
        return Err(Failure::Unknown(reason.to_owned()));
    }
    if check.case.has_input("sim_qk") {
        similarities(check)
    } else if check.case.has_input("online_raw") {
        crops(check)
    } else {
        embeddings(check)
    }
}

/// SCE with the case's temperatures.
fn sce(
    check: &Check<'_>,
    coefficient: f64,
    variant: &str,
    more: &[(&'static str, Value)],
) -> Result<Box<dyn Method>, Failure> {
    let own = [
        ("temperature", check.case.parameter("tau")?.into()),
        ("temperature_momentum", check.case.parameter("tau_m")?.into()),
        ("coefficient", coefficient.into()),
        ("variant", variant.into()),
    ];
    method("sce", own.into_iter().chain(more.iter().cloned()))
}

/// What every form of the case may expect of the only term.
fn one_term(
    check: &mut Check<'_>,
    variant: &str,
    encoded: &Encoded,
    leaf: &Tensor,
    gradient: &str,
) -> Result<(), Failure> {
    let relations = sce(check, 0.0, variant, &[])?;
    check.close("s", &term(&*relations, encoded, 0)?.choice()?.target)?;
    let sce = sce(check, check.case.parameter("lam")?, variant, &[])?;
    let term = term(&*sce, encoded, 0)?;
    check.close("sim_q", &term.similarities()?)?;
    check.close("w", &term.choice()?.target)?;
    check.close("per_row", &per_anchor(&term)?)?;
    let loss = loss_of(term)?;
    check.close("loss", &loss)?;
    check.gradient(gradient, &loss, leaf)
}

fn similarities(check: &mut Check<'_>) -> Result<(), Failure> {
    let queries = check.leaf("sim_qk")?;
    let encoded = of_similarities(&queries, &check.input("sim_kk")?)?;
    one_term(check, "use_keys", &encoded, &queries, "grad_sim_qk")?;
    let with = |coefficient| loss(&*sce(check, coefficient, "use_keys", &[])?, &encoded);
    // SCE = lambda InfoNCE + (1 - lambda) (ReSSL + Ceil), the paper's decomposition.
    let (info_nce, without_positive) = (with(1.0)?, with(0.0)?);
    let (temperature, sharpened) = (check.case.parameter("tau")?, check.case.parameter("tau_m")?);
    let ressl = loss(&*relations_only(temperature, sharpened)?, &encoded)?;
    check.close("L_InfoNCE", &info_nce)?;
    check.close("L_ReSSL", &ressl)?;
    check.close("L_Ceil", &without_positive.f_sub(&ressl)?)
}

/// ReSSL among the keys of the batch, which no method has by name.
pub(crate) fn relations_only(temperature: f64, sharpened: f64) -> Result<Box<dyn Method>, Failure> {
    let relations: toml::Table =
        [("kind".to_owned(), "softmax".into()), ("temperature".to_owned(), sharpened.into())]
            .into_iter()
            .collect();
    let target: toml::Table =
        [("relations".to_owned(), relations.into()), ("coefficient".to_owned(), 0.0.into())]
            .into_iter()
            .collect();
    method(
        "combination",
        [
            ("temperature", temperature.into()),
            ("candidates", "keys_and_queue".into()),
            ("denominator", "negatives".into()),
            ("target", target.into()),
        ],
    )
}

fn embeddings(check: &mut Check<'_>) -> Result<(), Failure> {
    let raw = check.case.has_input("q_raw");
    let [of_queries, of_keys, of_queue] =
        if raw { ["q_raw", "k_raw", "queue_raw"] } else { ["q", "k", "queue"] };
    let normalise = check.case.flag("normalise", raw);
    let queries = check.leaf(of_queries)?;
    let keys = rows(&check.input(of_keys)?, normalise)?;
    let queue = if check.case.has_input(of_queue) {
        Some(rows(&check.input(of_queue)?, normalise)?)
    } else {
        None
    };
    let variant = variant(check, queue.as_ref())?;
    let encoded = queries_and_keys(rows(&queries, normalise)?, keys, queue);
    one_term(check, &variant, &encoded, &queries, &format!("grad_{of_queries}"))
}

/// Which variant a case is about: the one it names; without a queue, or with a target as wide as the
/// batch and the queue together, that of all keys; else the authors' code, whose similarities to own
/// key and queue are then stated.
fn variant(check: &Check<'_>, queue: Option<&Tensor>) -> Result<String, Failure> {
    if let Some(variant) = check.case.word("variant") {
        return Ok(variant.to_owned());
    }
    let Some(queue) = queue else { return Ok("use_keys".to_owned()) };
    let width = check.case.expected_width(&["sim_q", "w", "s"])?;
    let own_key = width.is_some_and(|width| width == 1 + queue.size()[0]);
    Ok(if own_key { "leaky" } else { "use_keys" }.to_owned())
}

fn crops(check: &mut Check<'_>) -> Result<(), Failure> {
    let raw = leaves(&check.input("online_raw")?)?;
    let momentum = check.input("momentum_unit")?.f_unbind(0)?;
    let more =
        [("symmetric", true.into()), ("global_views", Value::Integer(momentum.len() as i64))];
    let variant = check.case.word("variant").unwrap_or("leaky");
    let sce = sce(check, check.case.parameter("lam")?, variant, &more)?;
    let mut momentum = momentum.into_iter().map(|view| Some(alone(view)));
    let encoded = Encoded {
        keys: raw.iter().map(|_| momentum.next().flatten()).collect(),
        queue: Some(rows(&check.input("queue_raw")?, true)?),
        ..super::through::online(&raw)?
    };
    for (key, got) in
        [("crops", raw.len()), ("global_crops", encoded.keys.iter().flatten().count())]
    {
        if check.case.parameter_or_none(key)?.is_some_and(|stated| stated != got as f64) {
            return Err(Failure::Form { key: key.to_owned(), wanted: "the number of views given" });
        }
    }
    let loss = loss(&*sce, &encoded)?;
    check.close("loss", &loss)?;
    check.close("grad_online_raw", &gradients(&loss, &raw)?)
}
