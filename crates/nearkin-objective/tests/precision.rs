//! Losses in single precision against the same in double precision.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nearkin_objective::{Embedding, Encoded, Labels, evaluate, from_table, unit_rows};
use tch::{Kind, Tensor};

const IMAGES: i64 = 256;
const CLASSES: i64 = 10;

fn alone(rows: &Tensor) -> Embedding {
    Embedding { local: rows.shallow_clone(), gathered: rows.shallow_clone() }
}

/// Two views of every image around the center of its class, and a queue, in double precision; the
/// smaller `spread`, the better the classes are told apart.
fn embeddings(spread: f64) -> ([Tensor; 3], Tensor) {
    tch::manual_seed(5);
    let options = tch::kind::DOUBLE_CPU;
    let labels = Tensor::arange(IMAGES, tch::kind::INT64_CPU).remainder(CLASSES);
    let centers = Tensor::randn([CLASSES, 128], options);
    let view = || {
        let noise = Tensor::randn([IMAGES, 128], options) * spread;
        unit_rows(&(centers.index_select(0, &labels) + noise)).unwrap()
    };
    ([view(), view(), view()], labels)
}

/// The loss of a method whose embeddings have this precision.
fn loss(recipe: &str, ([first, second, queue], labels): &([Tensor; 3], Tensor), kind: Kind) -> f64 {
    let of = |rows: &Tensor| Some(alone(&rows.to_kind(kind)));
    let encoded = Encoded {
        online: vec![of(first), of(second)],
        keys: vec![of(first), of(second)],
        queue: Some(queue.to_kind(kind)),
        labels: Some(Labels { batch: labels.shallow_clone(), queue: None, offset: 0 }),
        ..Encoded::default()
    };
    let method = from_table(&recipe.parse().unwrap()).unwrap().method;
    evaluate(&method.terms(&encoded).unwrap()).unwrap().loss.double_value(&[])
}

/// The largest error over how well classes are told apart, relative where the loss exceeds 1.
fn worst(recipe: &str) -> f64 {
    let error = |spread: f64| {
        let embeddings = embeddings(spread);
        let exact = loss(recipe, &embeddings, Kind::Double);
        (loss(recipe, &embeddings, Kind::Float) - exact).abs() / exact.abs().max(1.0)
    };
    [3.0, 1.0, 0.3, 0.03].into_iter().map(error).fold(0.0, f64::max)
}

/// Values that are a cross-entropy minus an entropy, both large, keep their digits.
#[test]
fn losses_with_an_entropy_keep_their_digits_in_single_precision() {
    for recipe in [
        "name = \"supcon\"\npositives = \"inside_sum\"\ntemperature = 0.07",
        "name = \"supcon\"\npositives = \"inside_mean\"\ntemperature = 0.07",
        "name = \"supcon\"\npositives = \"inside_sum\"\ntemperature = 0.01",
        "name = \"co2\"",
    ] {
        let worst = worst(recipe);
        println!("{recipe}: {worst:.1e}");
        assert!(worst < 1e-6, "{recipe}: {worst:.1e}");
    }
}
