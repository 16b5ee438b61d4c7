//! Every objective against expected losses, targets and gradients that were computed independently
//! in float64 (see `tests/oracles/`; each case there was derived twice and its gradient checked by
//! central differences). Float64 must agree to 1e-9, float32 to 1e-5, both relative where the expected
//! value exceeds 1 (some cases are not normalised and reach losses near 200).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nearkin_objective::{
    Denominator, Embedding, Encoded, evaluate, from_table, soft_cross_entropy, target, unit_rows,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/oracles/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["cases"].as_array_mut().unwrap().drain(..).collect()
}

/// Nested lists of numbers as a tensor.
fn tensor(value: &Value, kind: Kind) -> Tensor {
    fn flatten(value: &Value, shape: &mut Vec<i64>, depth: usize, out: &mut Vec<f64>) {
        match value {
            Value::Array(items) => {
                if shape.len() == depth {
                    shape.push(items.len() as i64);
                }
                items.iter().for_each(|item| flatten(item, shape, depth + 1, out));
            }
            number => out.push(number.as_f64().unwrap()),
        }
    }
    let (mut shape, mut numbers) = (Vec::new(), Vec::new());
    flatten(value, &mut shape, 0, &mut numbers);
    Tensor::from_slice(&numbers).reshape(&shape).to_kind(kind)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// One run over a file's cases in one precision, counting what it compared.
struct Check {
    kind: Kind,
    compared: usize,
}

impl Check {
    fn close(&mut self, case: &Value, key: &str, got: &Tensor) {
        let expected = tensor(&case["expected"][key], Kind::Double);
        let got = got.detach().to_kind(Kind::Double);
        assert_eq!(got.size(), expected.size(), "{} {key}", case["name"]);
        let scale = expected.abs().clamp_min(1.0);
        let error = f64::try_from(((got - expected) / scale).abs().max()).unwrap();
        let bound = if self.kind == Kind::Double { 1e-9 } else { 1e-5 };
        assert!(error < bound, "{} {key} in {:?}: off by {error:e}", case["name"], self.kind);
        self.compared += 1;
    }

    fn close_if_there(&mut self, case: &Value, key: &str, got: &Tensor) {
        if case["expected"].get(key).is_some() {
            self.close(case, key, got);
        }
    }

    /// Loss and gradient of similarities with a given target; all candidates in the denominator.
    fn similarities(
        &mut self,
        case: &Value,
        of: &str,
        gradient: &str,
        temperature: f64,
        target: &Tensor,
    ) {
        let similarities = tensor(&case["inputs"][of], self.kind).set_requires_grad(true);
        let logits = &similarities / temperature;
        let rows = soft_cross_entropy(&logits, target, &Denominator::All).unwrap();
        let loss = rows.mean(None);
        loss.backward();
        self.close(case, "loss", &loss);
        self.close_if_there(case, "per_row", &rows);
        self.close(case, gradient, &similarities.grad());
    }
}

fn in_both_precisions(expected_comparisons: usize, run: impl Fn(&mut Check)) {
    for kind in [Kind::Double, Kind::Float] {
        let mut check = Check { kind, compared: 0 };
        run(&mut check);
        assert_eq!(check.compared, expected_comparisons, "a case was added or skipped");
    }
}

fn alone(tensor: Tensor) -> Embedding {
    Embedding { everywhere: tensor.shallow_clone(), local: tensor }
}

fn method(text: &str) -> Box<dyn nearkin_objective::Method> {
    from_table(&text.parse().unwrap()).unwrap()
}

/// A momentum method on raw queries, keys and queue of a case: its only term, and the queries.
fn with_queue(
    case: &Value,
    kind: Kind,
    method: &dyn nearkin_objective::Method,
    names: [&str; 3],
    normalise: bool,
) -> (nearkin_objective::Term, Tensor) {
    let read = |name: &str| tensor(&case["inputs"][name], kind);
    let unit = |x: &Tensor| if normalise { unit_rows(x).unwrap() } else { x.shallow_clone() };
    let queries = read(names[0]).set_requires_grad(true);
    let encoded = Encoded {
        online: vec![None, Some(alone(unit(&queries)))],
        momentum: vec![Some(alone(unit(&read(names[1])))), None],
        queue: case["inputs"].get(names[2]).map(|_| unit(&read(names[2]))),
        offset: 0,
    };
    (method.terms(&encoded).unwrap().remove(0), queries)
}

#[test]
fn infonce() {
    in_both_precisions(38, |check| {
        for case in &cases("infonce") {
            let tau = number(&case["params"]["tau"]);
            if case["inputs"].get("sim").is_some() {
                let eye = Tensor::eye(4, (check.kind, Device::Cpu));
                check.similarities(case, "sim", "grad_sim", tau, &eye);
                if case["expected"].get("loss_symmetric_mean_of_rows_and_cols").is_some() {
                    let sim = tensor(&case["inputs"]["sim"], check.kind).set_requires_grad(true);
                    let side = |sim: &Tensor| {
                        let logits = sim / tau;
                        soft_cross_entropy(&logits, &eye, &Denominator::All).unwrap().mean(None)
                    };
                    let loss = (side(&sim) + side(&sim.tr())) / 2.0;
                    loss.backward();
                    check.close(case, "loss_symmetric_mean_of_rows_and_cols", &loss);
                    check.close(case, "grad_sim_symmetric", &sim.grad());
                }
                continue;
            }
            let own_key = case["name"].as_str().unwrap().starts_with("moco");
            let candidates = if own_key { "queue" } else { "keys_and_queue" };
            let moco = method(&format!(
                "name = \"moco\"\ntemperature = {tau}\ncandidates = \"{candidates}\""
            ));
            let names = ["q_raw", "k_raw", "queue_raw"];
            let (term, queries) = with_queue(case, check.kind, &*moco, names, true);
            check.close_if_there(case, "sim", &term.similarities().unwrap());
            check.close_if_there(case, "logits", &(term.similarities().unwrap() / tau));
            let evaluated = evaluate(&[term]).unwrap();
            evaluated.loss.backward();
            check.close(case, "loss", &evaluated.loss);
            check.close(case, "grad_q_raw", &queries.grad());
        }
    });
}

#[test]
fn simclr() {
    in_both_precisions(13, |check| {
        for case in &cases("simclr") {
            let tau = number(&case["params"]["tau"]);
            let inputs = &case["inputs"];
            let raw: Vec<Tensor> = match inputs.get("views_raw") {
                Some(views) => views.as_array().unwrap().iter().collect(),
                None => vec![&inputs["view_a_raw"], &inputs["view_b_raw"]],
            }
            .into_iter()
            .map(|view| tensor(view, check.kind).set_requires_grad(true))
            .collect();
            let encoded = Encoded {
                online: raw.iter().map(|view| Some(alone(unit_rows(view).unwrap()))).collect(),
                momentum: raw.iter().map(|_| None).collect(),
                queue: None,
                offset: 0,
            };
            let terms = |reduction: &str| {
                let simclr = method(&format!(
                    "name = \"simclr\"\ntemperature = {tau}\nreduction = \"{reduction}\""
                ));
                simclr.terms(&encoded).unwrap()
            };
            let per_anchor: Vec<Tensor> = terms("mean")
                .iter()
                .map(|term| {
                    let logits = term.similarities().unwrap() / term.temperature;
                    soft_cross_entropy(&logits, &term.target, &term.denominator).unwrap()
                })
                .collect();
            check.close(case, "per_anchor", &Tensor::cat(&per_anchor, 0));
            let doubled = evaluate(&terms("sum_of_views")).unwrap().loss;
            check.close_if_there(case, "loss_google_scale_sum_of_two_means", &doubled);
            let loss = evaluate(&terms("mean")).unwrap().loss;
            loss.backward();
            check.close_if_there(case, "loss_mean_over_2N", &loss);
            check.close_if_there(case, "loss_mean", &loss);
            let gradients: Vec<Tensor> = raw.iter().map(Tensor::grad).collect();
            check.close_if_there(case, "grad_view_a_raw", &gradients[0]);
            check.close_if_there(case, "grad_view_b_raw", &gradients[1]);
            check.close_if_there(case, "grad_raw", &Tensor::stack(&gradients, 0));
        }
    });
}

#[test]
fn sce() {
    in_both_precisions(258, |check| {
        for case in &cases("sce") {
            let parameter = |key: &str| number(&case["params"][key]);
            let (tau, tau_m, lam) = (parameter("tau"), parameter("tau_m"), parameter("lam"));
            if case["inputs"].get("sim_kk").is_some() {
                sce_on_similarities(check, case, tau, tau_m, lam);
                continue;
            }
            let name = case["name"].as_str().unwrap();
            let table = |variant: &str, coefficient: f64, rest: &str| {
                method(&format!(
                    "name = \"sce\"\ntemperature = {tau}\ntemperature_momentum = {tau_m}\n\
                     coefficient = {coefficient}\nvariant = \"{variant}\"\n{rest}"
                ))
            };
            if case["params"].get("crops").is_some() {
                let sce = table("leaky", lam, "symmetric = true");
                let read = |key: &str| tensor(&case["inputs"][key], check.kind);
                let (online, momentum) = (read("online_raw"), read("momentum_unit"));
                let views = online.size()[0];
                let encoded = Encoded {
                    online: (0..views)
                        .map(|v| Some(alone(unit_rows(&online.get(v)).unwrap())))
                        .collect(),
                    momentum: (0..views)
                        .map(|v| (v < momentum.size()[0]).then(|| momentum.get(v)).map(alone))
                        .collect(),
                    queue: Some(unit_rows(&read("queue_raw")).unwrap()),
                    offset: 0,
                };
                check.close(case, "loss", &evaluate(&sce.terms(&encoded).unwrap()).unwrap().loss);
                continue;
            }
            let variant = match name {
                "raw_queue_paper" => "paper",
                "raw_queue_leaky" | "eztorch_test_without_key" => "leaky",
                _ => "use_keys",
            };
            let normalise = !name.starts_with("eztorch");
            let names = match normalise {
                true => ["q_raw", "k_raw", "queue_raw"],
                false => ["q", "k", "queue"],
            };
            let relations =
                with_queue(case, check.kind, &*table(variant, 0.0, ""), names, normalise);
            check.close_if_there(case, "s", &relations.0.target);
            let sce = table(variant, lam, "");
            let (term, queries) = with_queue(case, check.kind, &*sce, names, normalise);
            check.close_if_there(case, "sim_q", &term.similarities().unwrap());
            check.close_if_there(case, "w", &term.target);
            let logits = term.similarities().unwrap() / tau;
            let rows = soft_cross_entropy(&logits, &term.target, &term.denominator).unwrap();
            check.close_if_there(case, "per_row", &rows);
            let evaluated = evaluate(&[term]).unwrap();
            evaluated.loss.backward();
            check.close(case, "loss", &evaluated.loss);
            check.close_if_there(case, "grad_q_raw", &queries.grad());
        }
    });
}

fn sce_on_similarities(check: &mut Check, case: &Value, tau: f64, tau_m: f64, lam: f64) {
    let eye = Tensor::eye(4, (check.kind, Device::Cpu));
    let own = eye.to_kind(Kind::Bool);
    let teacher = tensor(&case["inputs"]["sim_kk"], check.kind);
    let relations = target::relations(&teacher, &own, tau_m).unwrap();
    let mixture = target::mixture(&eye, &relations, lam).unwrap();
    check.close(case, "s", &relations);
    check.close(case, "w", &mixture);
    check.similarities(case, "sim_qk", "grad_sim_qk", tau, &mixture);
    if case["expected"].get("L_InfoNCE").is_none() {
        return;
    }
    // SCE = lambda InfoNCE + (1 - lambda) (ReSSL + Ceil), the paper's decomposition.
    let logits = tensor(&case["inputs"]["sim_qk"], check.kind) / tau;
    let loss = |target: &Tensor, denominator: &Denominator| {
        soft_cross_entropy(&logits, target, denominator).unwrap().mean(None)
    };
    let negatives = Denominator::Except(own);
    let ressl = loss(&relations, &negatives);
    check.close(case, "L_InfoNCE", &loss(&eye, &Denominator::All));
    check.close(case, "L_ReSSL", &ressl);
    check.close(case, "L_Ceil", &(loss(&relations, &Denominator::All) - &ressl));
}
