//! SANE: the refinery, momentum mixup, and the schedule of the refinery's strength.

use nearkin_objective::refinery::{Predictions, refine};
use nearkin_objective::{
    Embedding, Encoded, Method, Mixed, Progress, Scheduled, Shape, Varying, evaluate, mix,
};
use tch::{Kind, Tensor};

use super::case::Failure;
use super::check::Check;
use super::through::{alone, loss_of, method, queries_and_keys, rows, term};

/// Checks one case.
pub(crate) fn run(check: &mut Check<'_>) -> Result<(), Failure> {
    let case = check.case;
    if case.has_parameter("m1") {
        schedule(check)
    } else if case.has_input("x_query") {
        pixels(check)
    } else if case.has_input("key_features_unit") {
        labels(check)
    } else {
        embeddings(check)
    }
}

/// SANE with the case's temperatures and strength.
fn sane(
    check: &Check<'_>,
    predictions: &str,
    mixup: &str,
    coefficient: f64,
) -> Result<Box<dyn Method>, Failure> {
    let parameters = [
        ("temperature", check.case.parameter("tau")?.into()),
        ("sharpening", check.case.parameter("tau_prime")?.into()),
        ("strength", check.case.parameter("mu")?.into()),
        ("predictions", predictions.into()),
        ("coefficient", coefficient.into()),
        ("mixup", mixup.into()),
    ];
    method("sane", parameters)
}

/// What the refinery makes of the teacher's similarities, `[anchors, candidates]`, with the positives
/// on the diagonal.
fn refined(check: &mut Check<'_>, similarities: &Tensor) -> Result<(), Failure> {
    let positives = nearkin_objective::target::diagonal(similarities.size()[0], 0, similarities)?;
    let temperature = check.case.parameter("tau")? * check.case.parameter("tau_prime")?;
    let strength = check.case.parameter("mu")?;
    let refined = refine(similarities, &positives, temperature, strength, Predictions::Both)?;
    check.close("p", &refined.p)?;
    check.close("q", &refined.q)?;
    check.close("alpha", &refined.alpha.f_squeeze_dim(1)?)?;
    check.close("beta", &refined.beta.f_squeeze_dim(1)?)
}

fn labels(check: &mut Check<'_>) -> Result<(), Failure> {
    let keys = check.input("key_features_unit")?;
    let gathered = check.input("candidates")?;
    let teacher = Embedding { local: keys.shallow_clone(), gathered };
    let encoded = Encoded {
        online: vec![None, Some(alone(keys))],
        keys: vec![Some(teacher), None],
        ..Encoded::default()
    };
    let method = sane(check, "both", "none", 0.5)?;
    let term = term(&*method, &encoded, 1)?;
    // The anchors are the keys themselves, so the term's similarities are the teacher's.
    refined(check, &term.similarities()?)?;
    check.close("y_bar", &term.choice()?.target)
}

fn embeddings(check: &mut Check<'_>) -> Result<(), Failure> {
    let queries = check.leaf("q_raw")?;
    let keys = rows(&check.input("k_raw")?, true)?;
    let queue = if check.case.has_input("queue_raw") {
        Some(rows(&check.input("queue_raw")?, true)?)
    } else {
        None
    };
    let by_teacher = queries_and_keys(
        keys.shallow_clone(),
        keys.shallow_clone(),
        queue.as_ref().map(Tensor::shallow_clone),
    );
    let unmixed = sane(check, "both", "none", 0.5)?;
    let teacher = term(&*unmixed, &by_teacher, 1)?;
    refined(check, &teacher.similarities()?)?;
    let mut encoded = queries_and_keys(rows(&queries, true)?, keys, queue);
    if !check.case.has_input("mixed_query_features_raw") {
        let unmixed = sane(check, predictions(check), "none", 0.5)?;
        let term = term(&*unmixed, &encoded, 1)?;
        check.close("y_bar", &term.choice()?.target)?;
        let loss = loss_of(term)?;
        check.close("loss_with_refined_label_on_unmixed_query", &loss)?;
        return check.gradient("grad_q_raw", &loss, &queries);
    }
    let raw = check.leaf("mixed_query_features_raw")?;
    let (partner, share) = (check.case.input("partner", Kind::Int64)?, check.input("theta")?);
    encoded.mixed = vec![Mixed {
        anchors: rows(&raw, true)?,
        partner: partner.shallow_clone(),
        share: share.shallow_clone(),
    }];
    let sane = sane(check, "both", "momentum", check.case.parameter("lam")?)?;
    let (vanilla, mixed) = (term(&*sane, &encoded, 0)?, term(&*sane, &encoded, 1)?);
    let labels = mixed.choice()?.target;
    check.close("y_bar", &labels)?;
    check.close("y_mixed", &mix(&labels, &labels, &partner, &share)?)?;
    check.close("loss_vanilla_onehot", &loss_of(vanilla)?)?;
    check.close("loss_momentum_mixup", &loss_of(mixed)?)?;
    let total = evaluate(&sane.terms(&encoded)?)?.loss;
    check.close("loss_total", &total)?;
    check.gradient("grad_q_raw", &total, &queries)?;
    check.gradient("grad_mixed_raw", &total, &raw)
}

/// Which predictions refine the labels: nothing but the name of the case says so.
fn predictions(check: &Check<'_>) -> &'static str {
    let words: Vec<String> = check
        .case
        .words()
        .iter()
        .flat_map(|word| word.split('_').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let without = |word: &str| words.iter().any(|other| other == word);
    match (without("p0"), without("q0")) {
        (false, false) => "both",
        (false, true) => "only_p",
        (true, false) => "only_q",
        (true, true) => "neither",
    }
}

fn pixels(check: &mut Check<'_>) -> Result<(), Failure> {
    let (queries, keys) = (check.input("x_query")?, check.input("x_key")?);
    let (partner, share) = (check.case.input("partner", Kind::Int64)?, check.input("theta")?);
    check.close("x_momentum_mixup", &mix(&queries, &keys, &partner, &share)?)?;
    check.close("x_vanilla_mixup", &mix(&queries, &queries, &partner, &share)?)
}

fn schedule(check: &mut Check<'_>) -> Result<(), Failure> {
    let (from, to) = (check.case.parameter("m1")?, check.case.parameter("m2")?);
    let strength = Scheduled::Varying(Varying { from, to, epochs: None, shape: Shape::Cosine });
    let total_steps = check.case.parameter("T")? as u64;
    let steps = check.case.expected("mu")?.numel() as u64;
    let at = |step| strength.at(&Progress::new(step, total_steps, 1));
    check.close("mu", &Tensor::f_from_slice(&(0..steps).map(at).collect::<Vec<f64>>())?)
}
