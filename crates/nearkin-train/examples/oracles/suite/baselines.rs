//! The other methods, told apart by the inputs and parameters that only they have.

use nearkin_objective::{
    Denominator, Encoded, Labels, Method, Mixed, evaluate, soft_cross_entropy, target, unit_rows,
};
use tch::{Kind, Tensor};

use super::case::Failure;
use super::check::Check;
use super::simclr::views;
use super::through::{
    alone, logits, loss, loss_of, mean, method, of_similarities, online, per_anchor, per_anchors,
    queries_and_keys, rows, term, unit_vectors,
};

/// Checks one case.
pub(crate) fn run(check: &mut Check<'_>) -> Result<(), Failure> {
    let case = check.case;
    if case.has_input("labels") {
        supcon(check)
    } else if case.has_parameter("tau_plus") {
        estimated(check)
    } else if case.has_input("view_a_raw") || case.has_input("views_raw") {
        decoupled(check)
    } else if case.has_input("bank_raw") {
        nnclr(check)
    } else if case.has_input("p_raw") {
        byol(check)
    } else if case.has_input("q_strong_raw") {
        clsa(check)
    } else if case.has_parameter("tau_con") {
        co2(check)
    } else if case.has_parameter("K") {
        ascl(check)
    } else if case.has_input("partner") {
        imix(check)
    } else if case.has_input("prototypes_unit") {
        swav(check)
    } else {
        Err(super::unknown(case))
    }
}

fn unit(check: &Check<'_>, key: &str) -> Result<Tensor, Failure> {
    rows(&check.input(key)?, true)
}

fn supcon(check: &mut Check<'_>) -> Result<(), Failure> {
    let mut encoded = online(&views(check)?.1)?;
    let batch = check.case.input("labels", Kind::Int64)?;
    encoded.labels = Some(Labels { batch, queue: None, offset: 0 });
    for (key, positives) in [
        ("L_out", "outside"),
        ("L_in_mean", "inside_mean"),
        ("solo_learn_sum_inside_log", "inside_sum"),
    ] {
        let temperature = check.case.parameter("tau")?;
        let parameters = [("temperature", temperature.into()), ("positives", positives.into())];
        let base = check.case.parameter_or_none("base_temperature")?;
        let base = base.map(|base| ("base_temperature", base.into()));
        let supcon = method("supcon", parameters.into_iter().chain(base))?;
        check.close(key, &loss(&*supcon, &encoded)?)?;
    }
    Ok(())
}

/// Debiased contrastive learning, or with a `beta` hard negatives.
fn estimated(check: &mut Check<'_>) -> Result<(), Failure> {
    let case = check.case;
    let (names, views) = views(check)?;
    let encoded = online(&views)?;
    let of_both = [
        ("temperature", case.parameter("t")?.into()),
        ("class_prior", case.parameter("tau_plus")?.into()),
    ];
    let method = match case.parameter_or_none("beta")? {
        None => method("debiased", of_both),
        Some(beta) => method("hcl", of_both.into_iter().chain([("concentration", beta.into())])),
    }?;
    let mut estimates = Vec::new();
    for term in method.terms(&encoded)? {
        let Denominator::Estimated(estimated) = term.choice()?.denominator else {
            return Err(Failure::Missing("estimate in the method's denominator".to_owned()));
        };
        estimates.push(estimated.estimate(&logits(&term)?)?.f_squeeze_dim(1)?);
    }
    check.close("Ng_clamped", &Tensor::f_cat(&estimates, 0)?)?;
    of_views(check, &*method, &encoded, &names, &views)
}

fn decoupled(check: &mut Check<'_>) -> Result<(), Failure> {
    let (names, views) = views(check)?;
    let decoupled = method("decoupled", [("temperature", check.case.parameter("tau")?.into())])?;
    of_views(check, &*decoupled, &online(&views)?, &names, &views)
}

/// What a method among views may be expected to give.
fn of_views(
    check: &mut Check<'_>,
    method: &dyn Method,
    encoded: &Encoded,
    names: &[String],
    views: &[Tensor],
) -> Result<(), Failure> {
    check.close("per_anchor", &per_anchors(method, encoded)?)?;
    let loss = loss(method, encoded)?;
    check.close("loss", &loss)?;
    for (name, view) in names.iter().zip(views) {
        check.gradient(&format!("grad_{name}"), &loss, view)?;
    }
    Ok(())
}

fn nnclr(check: &mut Check<'_>) -> Result<(), Failure> {
    let predicted = check.leaf("p2_raw")?;
    let (projections, predictions) = (unit(check, "z1_raw")?, rows(&predicted, true)?);
    let bank = unit(check, "bank_raw")?;
    // The first term takes projections of view 0 and predictions of view 1.
    let both = |of: &Tensor| (0..2).map(|_| Some(alone(of.shallow_clone()))).collect();
    let encoded = Encoded {
        online: both(&predictions),
        keys: both(&projections),
        queue: Some(bank.shallow_clone()),
        ..Encoded::default()
    };
    let temperature = check.case.parameter("tau")?;
    let nnclr = |anchors: &str| {
        let parameters = [("temperature", temperature.into()), ("anchors", anchors.into())];
        method("nnclr", parameters)
    };
    let (by_neighbors, by_predictions) = (nnclr("neighbours")?, nnclr("predictions")?);
    let neighbors = term(&*by_neighbors, &encoded, 0)?;
    let found = neighbors.anchors.f_mm(&bank.f_transpose(0, 1)?)?.f_argmax(1, false)?;
    check.close("nn_index", &found)?;
    let loss = loss_of(neighbors)?;
    check.close("loss_nn_rows", &loss)?;
    check.gradient("grad_p2_raw", &loss, &predicted)?;
    check.close("loss_pred_rows", &loss_of(term(&*by_predictions, &encoded, 0)?)?)
}

fn byol(check: &mut Check<'_>) -> Result<(), Failure> {
    let predicted = check.leaf("p_raw")?;
    let encoded = queries_and_keys(rows(&predicted, true)?, unit(check, "z_raw")?, None);
    // One direction only.
    let byol = method("byol", [("reduction", "mean".into()), ("global_views", 1.into())])?;
    let loss = loss(&*byol, &encoded)?;
    check.close("loss", &loss)?;
    check.gradient("grad_p_raw", &loss, &predicted)
}

fn clsa(check: &mut Check<'_>) -> Result<(), Failure> {
    let strong = check.leaf("q_strong_raw")?;
    let encoded = Encoded {
        online: vec![
            None,
            Some(alone(unit(check, "q_weak_raw")?)),
            Some(alone(rows(&strong, true)?)),
        ],
        keys: vec![Some(alone(unit(check, "k_raw")?)), None, None],
        queue: if check.case.has_input("queue_raw") {
            Some(unit(check, "queue_raw")?)
        } else {
            None
        },
        ..Encoded::default()
    };
    // The authors' clsa_t divides the strong query too; the target's own temperature does not.
    let (target, divides_strong) = match check.case.parameter_or_none("tau_target")? {
        Some(target) => (target, "query"),
        None => (check.case.parameter("clsa_t")?, "target"),
    };
    let clsa = method(
        "clsa",
        [
            ("temperature", check.case.parameter("tau")?.into()),
            ("temperature_target", target.into()),
            ("strong_temperature", divides_strong.into()),
        ],
    )?;
    // The first term is InfoNCE of the weak query.
    let term = term(&*clsa, &encoded, 1)?;
    check.close("target", &term.choice()?.target)?;
    check.close("per_row", &per_anchor(&term)?)?;
    let loss = loss_of(term)?;
    check.close("ddm", &loss)?;
    check.gradient("grad_q_strong_raw", &loss, &strong)
}

fn co2(check: &mut Check<'_>) -> Result<(), Failure> {
    let queries = check.leaf("q_raw")?;
    let queue = Some(unit(check, "queue_raw")?);
    let encoded = queries_and_keys(rows(&queries, true)?, unit(check, "k_raw")?, queue);
    let consistency = check.case.parameter("tau_con")?;
    let co2 = method("co2", [("temperature_consistency", consistency.into())])?;
    // The first term is InfoNCE; the others are the divergences, each with half of weight 1.
    let divergences = co2.terms(&encoded)?.split_off(1);
    let half = evaluate(&divergences)?.loss;
    check.close("half_sym_kl", &half)?;
    check.gradient("grad_q_raw", &half, &queries)
}

fn ascl(check: &mut Check<'_>) -> Result<(), Failure> {
    let queries = check.leaf("q_raw")?;
    let queue = Some(unit(check, "queue_raw")?);
    let encoded = queries_and_keys(rows(&queries, true)?, unit(check, "k_raw")?, queue);
    let ascl = method(
        "ascl",
        [
            ("temperature", check.case.parameter("t1")?.into()),
            ("temperature_momentum", check.case.parameter("t2")?.into()),
            ("strength", check.case.parameter("K")?.into()),
        ],
    )?;
    let term = term(&*ascl, &encoded, 0)?;
    check.close("target", &term.choice()?.target)?;
    check.close("per_row", &per_anchor(&term)?)?;
    let loss = loss_of(term)?;
    check.close("loss", &loss)?;
    check.gradient("grad_q_raw", &loss, &queries)
}

fn imix(check: &mut Check<'_>) -> Result<(), Failure> {
    let similarities = check.leaf("sim")?;
    let mixed = Mixed {
        anchors: similarities.shallow_clone(),
        partner: check.case.input("partner", Kind::Int64)?,
        share: check.input("lam")?,
    };
    let batch = of_similarities(&similarities, &unit_vectors(&similarities)?)?;
    let encoded = Encoded { mixed: vec![mixed], ..batch };
    let temperature = check.case.parameter("tau")?;
    let imix =
        method("imix", [("temperature_mixed", temperature.into()), ("coefficient", 1.0.into())])?;
    let loss = loss(&*imix, &encoded)?;
    check.close("loss", &loss)?;
    check.gradient("grad_sim", &loss, &similarities)
}

/// Not a method here, but its assignment is one of the shared target rules.
fn swav(check: &mut Check<'_>) -> Result<(), Failure> {
    let case = check.case;
    let prototypes = check.input("prototypes_unit")?.f_transpose(0, 1)?;
    let (epsilon, iterations) = (case.parameter("eps")?, case.parameter("iters")? as usize);
    let mut assignments = Vec::new();
    let mut predictions = Vec::new();
    for (key, expected) in [("z1_raw", "q1"), ("z2_raw", "q2")] {
        let scores = unit_rows(&check.input(key)?)?.f_mm(&prototypes)?;
        let assignment = target::sinkhorn(&scores, epsilon, iterations)?;
        check.close(expected, &assignment)?;
        predictions.push(scores.f_div_scalar(case.parameter("tau")?)?);
        assignments.push(assignment);
    }
    // Each view predicts the assignment of the other one.
    assignments.reverse();
    let mut total = Tensor::f_zeros([], (check.kind, tch::Device::Cpu))?;
    for (prediction, assignment) in predictions.iter().zip(&assignments) {
        let loss = soft_cross_entropy(prediction, assignment, &Denominator::All)?;
        total = total.f_add(&mean(&loss)?)?;
    }
    check.close("loss", &total.f_mul_scalar(0.5)?)
}
