//! FNC: the paper's equations with any support, the labels as an oracle, and the authors' code
//! without and with a memory.

use nearkin_objective::selection::{Aggregation, scores};
use nearkin_objective::{Choice, Encoded, Labels, Method, Term, unit_rows};
use tch::{Kind, Tensor};
use toml::Value;

use super::case::Failure;
use super::check::Check;
use super::through::{alone, gradients, leaves, loss, method, online, per_anchors, target_by};

/// Checks one case.
pub(crate) fn run(check: &mut Check<'_>) -> Result<(), Failure> {
    if check.case.has_input("views_raw") { official(check) } else { paper(check) }
}

/// A threshold that the method takes for none.
const NO_THRESHOLD: f64 = -2.0;
/// A cosine that nothing exceeds.
const NOTHING_PASSES: f64 = 2.0;

/// `top_k` and `threshold` of the method for those of the case, which may leave either out.
fn selection(check: &Check<'_>, candidates: i64) -> Result<[(&'static str, Value); 2], Failure> {
    let top_k = check.case.parameter_or_none("topk")?.map(|top_k| top_k as i64);
    let threshold = check.case.parameter_or_none("threshold")?.unwrap_or(NO_THRESHOLD);
    let (top_k, threshold) = match (top_k, threshold < -1.0) {
        (Some(0), _) => (candidates, NOTHING_PASSES),
        (Some(top_k), _) => (top_k, threshold),
        (None, false) => (0, threshold),
        (None, true) => (candidates, NO_THRESHOLD),
    };
    Ok([("top_k", top_k.into()), ("threshold", threshold.into())])
}

fn aggregation(check: &Check<'_>) -> Result<(Aggregation, &'static str), Failure> {
    match check.case.word("agg") {
        Some("max") | None => Ok((Aggregation::Maximum, "maximum")),
        Some("mean") => Ok((Aggregation::Mean, "mean")),
        Some(_) => Err(Failure::Form { key: "agg".to_owned(), wanted: "max or mean" }),
    }
}

/// What the terms selected, one after the other: `[anchors, candidates]`.
fn selected(method: &dyn Method, encoded: &Encoded) -> Result<Vec<Tensor>, Failure> {
    let of = |term: &Term<'_>| {
        let selected = term.choice()?.selected;
        selected.ok_or_else(|| Failure::Missing("selection in the method's choice".to_owned()))
    };
    method.terms(encoded)?.iter().map(of).collect()
}

/// Scores of a term's candidates by these support embeddings, each `[anchors, dimensions]`.
fn scores_of(term: Term, support: Vec<Tensor>, how: Aggregation) -> Result<Tensor, Failure> {
    target_by(term, Box::new(move |rows| Ok(Choice::against_all(scores(rows, &support, how)?))))
}

fn paper(check: &mut Check<'_>) -> Result<(), Failure> {
    let case = check.case;
    let raw = leaves(&check.input("main_views_raw")?)?;
    let support = if case.has_input("support_views_unit") {
        check.input("support_views_unit")?.f_unbind(0)?
    } else {
        Vec::new()
    };
    let labelled = case.has_input("labels");
    let treatment = match case.word("mode") {
        Some("none") => "keep",
        Some("elim") => "eliminate",
        Some("attract") => "attract",
        Some("attract_elim_denominator") => "attract_and_eliminate",
        _ => {
            let wanted = "none, elim, attract or attract_elim_denominator";
            return Err(Failure::Form { key: "mode".to_owned(), wanted });
        }
    };
    let candidates: i64 = raw.iter().map(|view| view.size()[0]).sum();
    let (how, how_by_name) = aggregation(check)?;
    let [top_k, threshold] = selection(check, candidates)?;
    let fnc = |treatment: &str, support_views: usize| {
        method(
            "fnc",
            [
                ("temperature", case.parameter("tau")?.into()),
                ("false_negatives", treatment.into()),
                ("selection", if labelled { "labels" } else { "scores" }.into()),
                ("aggregation", how_by_name.into()),
                top_k.clone(),
                threshold.clone(),
                ("support_views", Value::Integer(support_views as i64)),
            ],
        )
    };
    let batch = |support: &[Tensor]| {
        let mut encoded = online(&raw)?;
        if labelled {
            let batch = case.input("labels", Kind::Int64)?;
            encoded.labels = Some(Labels { batch, queue: None, offset: 0 });
        }
        for view in support {
            encoded.online.push(None);
            encoded.keys.push(Some(alone(view.shallow_clone())));
        }
        Ok::<Encoded, Failure>(encoded)
    };
    let (attracting, encoded) = (fnc("attract", support.len())?, batch(&support)?);
    check.close("F", &Tensor::f_cat(&selected(&*attracting, &encoded)?, 0)?)?;
    if case.expects("score") {
        let of_term = |(view, term): (usize, Term)| {
            let support = if support.is_empty() {
                vec![unit_rows(&raw[view])?]
            } else {
                support.iter().map(Tensor::shallow_clone).collect()
            };
            scores_of(term, support, how)
        };
        let terms = attracting.terms(&encoded)?.into_iter().enumerate();
        let scores = terms.map(of_term).collect::<Result<Vec<_>, Failure>>()?;
        check.close("score", &Tensor::f_cat(&scores, 0)?)?;
    }
    // A method that keeps false negatives has no use for support, and takes none.
    let used = if treatment == "keep" { &[] } else { support.as_slice() };
    let (fnc, encoded) = (fnc(treatment, used.len())?, batch(used)?);
    check.close("per_anchor", &per_anchors(&*fnc, &encoded)?)?;
    let loss = loss(&*fnc, &encoded)?;
    check.close("loss", &loss)?;
    check.close("grad_main_raw", &gradients(&loss, &raw)?)
}

fn official(check: &mut Check<'_>) -> Result<(), Failure> {
    let raw = leaves(&check.input("views_raw")?)?;
    let mut encoded = online(&raw)?;
    let memory = check.case.has_input("ema_views_raw");
    let mut candidates: i64 = raw.iter().map(|view| view.size()[0]).sum();
    let mut support = raw.iter().map(unit_rows).collect::<Result<Vec<_>, _>>()?;
    if memory {
        support = check.input("ema_views_raw")?.f_unbind(0)?;
        for view in &mut support {
            *view = unit_rows(view)?;
        }
        encoded.keys = support.iter().map(|view| Some(alone(view.shallow_clone()))).collect();
        if check.case.has_input("memory_tail") {
            // Rows that are not filled yet are zeros and stay zeros.
            let tail = check.input("memory_tail")?;
            candidates += tail.size()[0];
            encoded.queue = Some(tail);
        }
    }
    let (how, how_by_name) = aggregation(check)?;
    let [top_k, threshold] = selection(check, candidates)?;
    let fnc = method(
        "fnc",
        [
            ("temperature", check.case.parameter("tau")?.into()),
            ("false_negatives", "attract".into()),
            ("aggregation", how_by_name.into()),
            top_k,
            threshold,
            ("support", "anchors_too".into()),
            ("support_views", 0.into()),
            ("memory", memory.into()),
            ("reduction", "sum_of_views".into()),
        ],
    )?;
    // Every view of an image has the same scores and false negatives.
    for selected in selected(&*fnc, &encoded)? {
        check.close("F", &selected)?;
    }
    for term in fnc.terms(&encoded)? {
        let support = support.iter().map(Tensor::shallow_clone).collect();
        check.close("score_unmasked", &scores_of(term, support, how)?)?;
    }
    let per_anchor = per_anchors(&*fnc, &encoded)?;
    check.close("per_anchor", &per_anchor.f_view([raw.len() as i64, -1])?)?;
    let loss = loss(&*fnc, &encoded)?;
    check.close("loss", &loss)?;
    check.close("grad_views_raw", &gradients(&loss, &raw)?)
}
