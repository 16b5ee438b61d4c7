//! NT-Xent among any number of views.

use tch::Tensor;

use super::case::Failure;
use super::check::Check;
use super::through::{gradients, leaves, loss, method, online, per_anchors};

/// Checks one case.
pub(crate) fn run(check: &mut Check<'_>) -> Result<(), Failure> {
    let temperature = check.case.parameter("tau")?;
    let (names, views) = views(check)?;
    let encoded = online(&views)?;
    let simclr = |reduction: &str| {
        method("simclr", [("temperature", temperature.into()), ("reduction", reduction.into())])
    };
    let mean = simclr("mean")?;
    check.close("per_anchor", &per_anchors(&*mean, &encoded)?)?;
    let doubled = loss(&*simclr("sum_of_views")?, &encoded)?;
    check.close("loss_google_scale_sum_of_two_means", &doubled)?;
    let loss = loss(&*mean, &encoded)?;
    for key in ["loss", "loss_mean", "loss_mean_over_2N"] {
        check.close(key, &loss)?;
    }
    check.close("grad_raw", &gradients(&loss, &views)?)?;
    for (name, view) in names.iter().zip(&views) {
        check.gradient(&format!("grad_{name}"), &loss, view)?;
    }
    Ok(())
}

/// The views of a case, together or one by one, and their names if they have any.
pub(crate) fn views(check: &Check<'_>) -> Result<(Vec<String>, Vec<Tensor>), Failure> {
    if check.case.has_input("views_raw") {
        return Ok((Vec::new(), leaves(&check.input("views_raw")?)?));
    }
    let is_view = |name: &&str| name.starts_with("view_") && name.ends_with("_raw");
    let mut names: Vec<_> =
        check.case.inputs().into_iter().filter(is_view).map(str::to_owned).collect();
    names.sort();
    let views = names.iter().map(|name| check.leaf(name)).collect::<Result<Vec<_>, _>>()?;
    match views.len() {
        0 => Err(Failure::Missing("input views_raw, or view_a_raw and so on".to_owned())),
        _ => Ok((names, views)),
    }
}
