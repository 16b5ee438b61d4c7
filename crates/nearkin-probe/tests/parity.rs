//! k-NN, logistic regression, average precision and the measures without labels against scikit-learn
//! and numpy: `scripts/fixtures/evaluation.py` made the expected values from features that both sides
//! can make.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nearkin_eval::{Search, Votes, alignment, spread, uniformity, unit_rows};
use nearkin_probe::{Accuracies, AveragePrecision, Logistic};
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

/// Unit rows of few values, so that cosines are exact and often equal, and their classes.
fn tied(count: i64, length: i64) -> (Tensor, Tensor) {
    let signs = noise(&[count, length], 40 + count).gt(0.0).to_kind(Kind::Double) * 2.0 - 1.0;
    let labels: Vec<i64> = (0..count).map(|index| (index * 5 + index / 4) % 7).collect();
    (signs / (length as f64).sqrt(), Tensor::from_slice(&labels))
}

/// `k` below and above the number of classes and of rows; cosines that are equal, and votes that are.
#[test]
fn votes_with_ties_agree_with_numpy() {
    let fixture = fixture();
    let cases = fixture["tied_votes"].as_array().unwrap();
    assert_eq!(cases.len(), 42);
    let mut without_vote = 0;
    for case in cases {
        let number = |key: &str| case[key].as_i64().unwrap();
        let votes =
            Votes { k: number("k") as usize, temperature: case["temperature"].as_f64().unwrap() };
        let (bank, of_bank) = tied(60, number("length"));
        let (rows, of_rows) = tied(40, number("length"));
        let mut search = Search::new(rows, of_rows, &[votes]).unwrap();
        for start in (0..60).step_by(25) {
            let count = 25.min(60 - start);
            search.add(bank.narrow(0, start, count), of_bank.narrow(0, start, count)).unwrap();
        }
        let got = search.finish(7).unwrap()[0];
        let hits = |share: f64| (40.0 * share).round() as i64;
        let expected: Vec<i64> =
            case["hits"].as_array().unwrap().iter().map(|hits| hits.as_i64().unwrap()).collect();
        assert_eq!([hits(got.top_1), hits(got.top_5)], *expected, "{case}");
        without_vote += i64::from(votes.k < 5) * (40 - expected[1]);
    }
    assert!(without_vote > 0, "fewer neighbors than five classes leave classes without a vote");
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

/// Three classes that an image may show (1) or not (-1), or that count neither way for it (0).
fn shown_classes(rows: &Tensor, seed: i64) -> Tensor {
    let values = rows.narrow(1, 0, 3) + noise(&[rows.size()[0], 3], seed) * 0.5;
    let shown = values.gt(0.3).to_kind(Kind::Double);
    let not = values.le(0.2).to_kind(Kind::Double);
    shown - not
}

fn column(of: &Tensor, class: i64) -> Vec<f64> {
    Vec::try_from(of.select(1, class).contiguous()).unwrap()
}

#[test]
fn average_precision_agrees_with_numpy() {
    for case in fixture()["average_precision"].as_array().unwrap() {
        let number = |key: &str| case[key].as_i64().unwrap();
        let scores = noise(&[number("images"), 3], number("seed"));
        let other = noise(&[number("images"), 3], number("seed") + 20);
        let truth = shown_classes(&(&scores * 0.3 + other * 0.7), number("seed") + 10);
        for (class, expected) in (0..).zip(case["of_classes"].as_array().unwrap()) {
            let (scores, truth) = (column(&scores, class), column(&truth, class));
            for (place, way) in
                [AveragePrecision::ElevenPoint, AveragePrecision::Area].into_iter().enumerate()
            {
                let got = way.of(&scores, &truth).unwrap();
                let expected = expected[place].as_f64().unwrap();
                assert!((got - expected).abs() < 1e-12, "{case}, {way}: {got}");
            }
        }
    }
}

#[test]
fn regression_against_the_rest_agrees_with_scikit_learn() {
    let (train, test) = (images(1000, 2).0, images(300, 3).0);
    let (known, wanted) = (shown_classes(&train, 20), shown_classes(&test, 21));
    let mut fits = Logistic::one_against_rest(&train, &known).unwrap();
    for case in fixture()["one_against_rest"].as_array().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let logits = fits.fit(number("l2")).unwrap().logits(&test).unwrap();
        for (key, way) in
            [("eleven_point", AveragePrecision::ElevenPoint), ("area", AveragePrecision::Area)]
        {
            let got = way.mean(&logits, &wanted).unwrap().unwrap();
            let difference = (got.mean - number(key)).abs();
            assert!(difference <= TOLERANCE && got.classes == 3, "{case}: {got:?}");
        }
        let probability = logits.sigmoid().mean(Kind::Double).double_value(&[]);
        assert!((probability - number("probability")).abs() < 1e-4, "{case}: {probability}");
    }
}

#[test]
fn measures_agree_with_numpy() {
    let rows = unit_rows(&images(300, 3).0).unwrap();
    let expected = &fixture()["measures"];
    let spread = spread(&rows).unwrap();
    for (name, got) in [
        ("rank_me", spread.rank_me.unwrap()),
        ("deviation", spread.deviation.unwrap()),
        ("uniformity", uniformity(&rows).unwrap()),
        ("alignment", alignment(&rows.narrow(0, 0, 150), &rows.narrow(0, 150, 150)).unwrap()),
    ] {
        let expected = expected[name].as_f64().unwrap();
        assert!((got - expected).abs() < 1e-9, "{name}: {got} is not {expected}");
    }
}
