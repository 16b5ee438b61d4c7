//! What surrounds the objectives: batch norm, LARS, schedules, queue, k-NN and blur.

use nearkin_augment::GaussianBlur;
use nearkin_eval::{Votes, scores};
use nearkin_model::{BatchNorm, Mode, NO_LABEL, Parameters, Queue, from_blocks, to_blocks};
use nearkin_recipe::{
    BatchNorm as Placement, Decay, MomentumSchedule, Optimizer as Options, Schedule, WarmUp,
};
use nearkin_train::{LearningRate, Momentum, Optimizer};
use tch::{Device, Kind, Tensor};
use toml::{Table, Value};

use super::case::{Case, Failure, tensor};
use super::check::{Check, bound};
use super::through::rows;

type Run = fn(&mut Check<'_>) -> Result<(), Failure>;

/// Whether a case is one of these.
pub(crate) fn knows(case: &Case) -> bool {
    subject(case).is_some()
}

/// Checks one case.
pub(crate) fn run(check: &mut Check<'_>) -> Result<(), Failure> {
    let subject = subject(check.case).ok_or_else(|| super::unknown(check.case))?;
    subject(check)
}

fn subject(case: &Case) -> Option<Run> {
    Some(if case.has_parameter("num_splits") {
        split_batch_norm
    } else if case.has_input("grad_w") {
        lars
    } else if case.has_parameter("warmup") {
        learning_rates
    } else if case.has_parameter("m0") {
        momentum
    } else if case.has_input("bank_raw") && case.has_input("labels") {
        nearest_neighbours
    } else if case.has_input("batches") {
        queue
    } else if case.expects("taps") {
        blur
    } else if case.expected.keys().any(|key| rate_in(key).is_some()) {
        scaled_learning_rates
    } else {
        return None;
    })
}

/// The layer's own constants.
const BATCH_NORM: [(&str, f64); 2] = [("eps", 1e-5), ("momentum", 0.1)];

fn split_batch_norm(check: &mut Check<'_>) -> Result<(), Failure> {
    for (key, own) in BATCH_NORM {
        if check.case.parameter_or_none(key)?.is_some_and(|asked| asked != own) {
            return Err(Failure::Unknown(format!("batch norm has {key} = {own}, always")));
        }
    }
    let x = check.input("x")?;
    let groups = check.case.parameter("num_splits")? as i64;
    let mut parameters = Parameters::default();
    let scope = parameters.root(Device::Cpu, check.kind);
    let norm = BatchNorm::new(scope, x.size2()?.1, Placement::Plain, 1.0)?;
    let statistics = parameters.named();
    for (name, mut tensor) in parameters.named() {
        if check.case.has_input(&name) {
            tensor.f_copy_(&check.input(&name)?)?;
        }
    }
    let blocks = norm.forward(&to_blocks(&x, groups)?, Mode::Train { groups })?;
    check.close("out", &from_blocks(&blocks, groups)?)?;
    for (name, tensor) in statistics {
        check.close(&format!("new_{name}"), &tensor)?;
    }
    Ok(())
}

fn lars(check: &mut Check<'_>) -> Result<(), Failure> {
    for (key, expected) in &check.case.expected {
        let form = match (key.contains("outside"), key.contains("inside")) {
            (true, false) => "learning_rate_outside",
            (false, true) => "learning_rate_inside",
            _ => continue,
        };
        let found = lars_steps(check, form)?;
        let expected = expected.as_object().into_iter().flatten();
        for (name, expected) in expected {
            let own = found.iter().find(|(own, _)| own == name);
            let (_, own) = own.ok_or_else(|| Failure::Missing(format!("parameter {name}")))?;
            let what = format!("{key}.{name}");
            let expected = tensor(&what, expected, Kind::Double)?;
            check.near(&what, own, &expected, bound(check.kind))?;
        }
        check.note(key);
    }
    Ok(())
}

/// The parameters after a step with every gradient.
fn lars_steps(check: &Check<'_>, form: &str) -> Result<Vec<(String, Tensor)>, Failure> {
    let options: Options = Value::Table(Table::from_iter(
        [
            ("name", Value::from("lars")),
            ("learning_rate", 1.0.into()),
            ("momentum", check.case.parameter("momentum")?.into()),
            ("trust_coefficient", check.case.parameter("eta")?.into()),
            ("momentum_form", form.into()),
            ("weight_decay", check.case.parameter("weight_decay")?.into()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    ))
    .try_into()?;
    let mut parameters = Parameters::default();
    let mut scope = parameters.root(Device::Cpu, check.kind);
    let mut gradients = Vec::new();
    for name in ["w", "b"] {
        let parameter = scope.parameter(name, &check.input(&format!("{name}0"))?)?;
        gradients.push((parameter, check.input(&format!("grad_{name}"))?));
    }
    let mut optimizer = Optimizer::new(&parameters, &options)?;
    let rates = Vec::<f64>::try_from(check.case.input("lrs", Kind::Double)?)?;
    for (step, rate) in rates.into_iter().enumerate() {
        optimizer.zero_gradients();
        for (parameter, all) in &gradients {
            // A sum whose gradient is the one that is given.
            let gradient = all.f_get(step as i64)?;
            parameter.f_mul(&gradient)?.f_sum(None::<Kind>)?.f_backward()?;
        }
        optimizer.step(rate)?;
    }
    Ok(parameters.named())
}

fn learning_rates(check: &mut Check<'_>) -> Result<(), Failure> {
    let case = check.case;
    let peak = case.parameter("base")?;
    let [warm_up, total] = [case.parameter("warmup")? as u64, case.parameter("total")? as u64];
    for key in case.expected.keys() {
        let expected = Vec::<f64>::try_from(case.expected(key)?)?;
        let rates = if key.contains("no_warmup") {
            // Without warm-up the first rate is the peak; some files state shares of it.
            let first = expected.first().copied().unwrap_or(peak);
            let peak = if first == 1.0 { 1.0 } else { peak };
            LearningRate::new(peak, 0, total, cosine(WarmUp::default()))
        } else if key.contains("sce") {
            LearningRate::new(peak, warm_up, total, cosine(WarmUp::PeakAtLastStep))
        } else if key.contains("fnc") || key.contains("simclr") {
            LearningRate::new(peak, warm_up, total, cosine(WarmUp::PeakAfterLastStep))
        } else {
            continue;
        };
        let rates: Vec<f64> = (0..expected.len() as u64).map(|step| rates.at(step)).collect();
        check.close(key, &Tensor::f_from_slice(&rates)?)?;
    }
    Ok(())
}

fn cosine(warmup: WarmUp) -> Schedule {
    Schedule { warmup, decay: Decay::Cosine, ..Schedule::default() }
}

/// Images of a step where a name does not state them: those of its neighbours.
const IMAGES: usize = 4096;

/// The learning rate that a name such as `fnc_lr0p1_bs4096_sqrt` states.
fn rate_in(key: &str) -> Option<f64> {
    let of = |word: &str| word.strip_prefix("lr")?.replace('p', ".").parse().ok();
    key.split('_').find_map(of)
}

/// These cases have no inputs: the names state rate, images and rule.
fn scaled_learning_rates(check: &mut Check<'_>) -> Result<(), Failure> {
    for key in check.case.expected.keys() {
        let Some(rate) = rate_in(key) else { continue };
        let of = |word: &str| word.strip_prefix("bs")?.parse().ok();
        let images = key.split('_').find_map(of).unwrap_or(IMAGES);
        let scaling = if key.ends_with("_sqrt") { "square_root" } else { "linear" };
        let table = [
            ("name", Value::from("sgd")),
            ("learning_rate", rate.into()),
            ("learning_rate_scaling", scaling.into()),
        ];
        let table = table.map(|(key, value)| (key.to_owned(), value));
        let options: Options = Value::Table(Table::from_iter(table)).try_into()?;
        check.close_number(key, options.scaled_learning_rate(images))?;
    }
    Ok(())
}

fn momentum(check: &mut Check<'_>) -> Result<(), Failure> {
    let (start, total) = (check.case.parameter("m0")?, check.case.parameter("total_steps")? as u64);
    let momentum = Momentum::new(start, total, MomentumSchedule::Cosine);
    let steps = check.case.expected("m")?.numel() as u64;
    let values: Vec<f64> = (0..steps).map(|step| momentum.at(step)).collect();
    check.close("m", &Tensor::f_from_slice(&values)?)
}

fn nearest_neighbours(check: &mut Check<'_>) -> Result<(), Failure> {
    let case = check.case;
    let votes = Votes { k: case.parameter("k")? as usize, temperature: case.parameter("t")? };
    let classes = case.parameter("classes")? as i64;
    let bank = rows(&check.input("bank_raw")?, true)?;
    let cosines = rows(&check.input("feature_raw")?, true)?.f_mm(&bank.f_transpose(0, 1)?)?;
    let most = (votes.k as i64).min(bank.size()[0]);
    let (nearest, places) = cosines.f_topk(most, 1, true, true)?;
    let of = case.input("labels", Kind::Int64)?.f_take(&places)?;
    let scores = scores(&nearest, &of, classes, votes)?;
    check.close("pred", &scores.f_argmax(1, false)?)?;
    // Ours are relative to the nearest neighbour's, which single precision may not hold.
    let largest = nearest.f_narrow(1, 0, 1)?.f_to_kind(Kind::Double)?;
    let largest = largest.f_div_scalar(votes.temperature)?.f_exp()?;
    check.close("scores", &scores.f_mul(&largest)?)
}

fn queue(check: &mut Check<'_>) -> Result<(), Failure> {
    let sizes = check.case.input("size", Kind::Int64)?.f_int64_value(&[])?;
    let mut queue = Queue::zeros(sizes as usize, 1, Device::Cpu, check.kind)?;
    let (mut contents, mut places) = (Vec::new(), Vec::new());
    for keys in check.case.list("batches")? {
        let keys = tensor("batches", keys, check.kind)?.f_view([-1, 1])?;
        let labels = Tensor::f_full([keys.size()[0]], NO_LABEL, tch::kind::INT64_CPU)?;
        queue.enqueue(&keys, &labels)?;
        contents.push(queue.rows().f_flatten(0, -1)?.f_alias_copy()?);
        places.push(queue.next());
    }
    check.close("after_each", &Tensor::f_stack(&contents, 0)?)?;
    check.close("ptr", &Tensor::f_from_slice(&places)?)
}

/// The standard deviation is stated, or stands in the name; the size is that of what is expected.
fn blur(check: &mut Check<'_>) -> Result<(), Failure> {
    let in_name = || check.case.name.split("sigma").nth(1)?.trim_start_matches('_').parse().ok();
    let sigma = check.case.parameter_or_none("sigma")?.or_else(in_name);
    let sigma = sigma.ok_or_else(|| Failure::Missing("parameter sigma".to_owned()))?;
    let kernel_size = check.case.expected("taps")?.numel();
    let blur = GaussianBlur { probability: 1.0, kernel_size, sigma: [sigma; 2] };
    // Images are blurred in single precision, as torchvision does.
    check.close_in_single_precision("taps", &Tensor::f_from_slice(&blur.weights(sigma))?)
}
