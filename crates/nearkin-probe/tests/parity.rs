//! k-NN, logistic regression and the measures without labels against scikit-learn and numpy:
//! `scripts/fixtures/evaluation.py` made the expected values from features that both sides can make.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nearkin_eval::{Search, Votes, alignment, spread, uniformity, unit_rows};
use nearkin_probe::{Accuracies, Logistic};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

const PRIME: i64 = 2147483647;
const CLASSES: i64 = 8;
const LENGTH: i64 = 12;
const SPREAD: f64 = 0.6;

/// Uniform within -1 and 1, by integer arithmetic.
fn noise(shape: &[i64], seed: i64) -> Tensor {
    let count: i64 = shape.iter().product();
    let index = Tensor::arange(count, (Kind::Int64, Device::Cpu));
    let x = (&index * 48271 + (seed * 69621 + 12345)).remainder(PRIME);
    let x = (x.square() + &index).remainder(PRIME);
    let x = (x.square() + seed).remainder(PRIME);
    (x.to_kind(Kind::Double) / PRIME as f64 * 2.0 - 1.0).reshape(shape)
}

fn images(count: i64, seed: i64) -> (Tensor, Tensor) {
    let labels: Vec<i64> = (0..count).map(|index| (index * 5 + index / 8) % CLASSES).collect();
    let labels = Tensor::from_slice(&labels);
    let centres = noise(&[CLASSES, LENGTH], 1).index_select(0, &labels);
    (centres * SPREAD + noise(&[count, LENGTH], seed), labels)
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/evaluation.json")).unwrap()
}

/// A tenth of a point.
const TOLERANCE: f64 = 0.001;

#[test]
fn knn_agrees_with_scikit_learn() {
    let (train, of_train) = images(1000, 2);
    let (test, of_test) = images(300, 3);
    let fixture = fixture();
    let cases = fixture["knn"].as_array().unwrap();
    let votes = |case: &Value| Votes {
        k: case["k"].as_u64().unwrap() as usize,
        temperature: case["temperature"].as_f64().unwrap(),
    };
    let votes: Vec<Votes> = cases.iter().map(votes).collect();
    assert_eq!(votes.len(), 20);
    let mut search = Search::new(unit_rows(&test).unwrap(), of_test, &votes).unwrap();
    let bank = unit_rows(&train).unwrap();
    for start in (0..1000).step_by(300) {
        let count = 300.min(1000 - start);
        search.add(bank.narrow(0, start, count), of_train.narrow(0, start, count)).unwrap();
    }
    for (got, case) in search.finish(CLASSES).unwrap().iter().zip(cases) {
        let expected = case["top_1"].as_f64().unwrap();
        assert!((got.top_1 - expected).abs() <= TOLERANCE, "{got:?}, not {expected}");
        assert!(got.top_5 >= got.top_1);
    }
}

#[test]
fn logistic_regression_agrees_with_scikit_learn() {
    let (train, of_train) = images(1000, 2);
    let (test, of_test) = images(300, 3);
    let mut fits = Logistic::new(&train, &of_train, CLASSES).unwrap();
    for case in fixture()["logistic"].as_array().unwrap() {
        let l2 = case["l2"].as_f64().unwrap();
        let logits = fits.fit(l2).unwrap().logits(&test).unwrap();
        let accuracy = Accuracies::of(&logits, &of_test).unwrap().top_1;
        let expected = case["top_1"].as_f64().unwrap();
        assert!((accuracy - expected).abs() <= TOLERANCE, "l2 {l2}: {accuracy}, not {expected}");
        let own = logits.softmax(1, Kind::Double).gather(1, &of_test.unsqueeze(1), false);
        let probability = own.mean(Kind::Double).double_value(&[]);
        let expected = case["probability"].as_f64().unwrap();
        assert!((probability - expected).abs() < 1e-4, "l2 {l2}: {probability}, not {expected}");
    }
}

#[test]
fn measures_agree_with_numpy() {
    let rows = unit_rows(&images(300, 3).0).unwrap();
    let expected = &fixture()["measures"];
    let spread = spread(&rows).unwrap();
    for (name, got) in [
        ("rank_me", spread.rank_me),
        ("deviation", spread.deviation),
        ("uniformity", uniformity(&rows).unwrap()),
        ("alignment", alignment(&rows.narrow(0, 0, 150), &rows.narrow(0, 150, 150)).unwrap()),
    ] {
        let expected = expected[name].as_f64().unwrap();
        assert!((got - expected).abs() < 1e-9, "{name}: {got} is not {expected}");
    }
}
