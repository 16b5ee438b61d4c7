//! The networks against torchvision and timm: `scripts/fixtures/model.py` made the expected values.
//! Weights and images are noise that both sides can make.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nearkin_model::{Encoder, Parameters};
use nearkin_recipe::Model;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

const PRIME: i64 = 2147483647;

/// Uniform within -1 and 1, by integer arithmetic.
fn noise(shape: &[i64], seed: i64) -> Tensor {
    let count: i64 = shape.iter().product();
    let index = Tensor::arange(count, (Kind::Int64, Device::Cpu));
    let x = (&index * 48271 + (seed * 69621 + 12345)).remainder(PRIME);
    let x = (x.square() + &index).remainder(PRIME);
    let x = (x.square() + seed).remainder(PRIME);
    (x.to_kind(Kind::Double) / PRIME as f64 * 2.0 - 1.0).reshape(shape)
}

fn project(tensor: &Tensor) -> f64 {
    let flat = tensor.detach().contiguous().reshape([-1]).to_kind(Kind::Double);
    let count = flat.numel() as f64;
    f64::try_from((&flat * noise(&flat.size(), 1003)).sum(Kind::Double)).unwrap() / count.sqrt()
}

/// The backbone of a case with its noise; the projector only has to be there.
fn encoder(case: &Value, kind: Kind) -> Encoder {
    let (backbone, stem) = (&case["backbone"], &case["stem"]);
    let keys = if is_transformer(case) {
        "vision_transformer = { image_size = 32, patch_size = 8, depth = 2, width = 24 }"
    } else {
        &format!("stem = {stem}")
    };
    let text = format!("backbone = {backbone}\n{keys}\nprojector = [{{ width = 8 }}]");
    let model: Model = toml::from_str(&text).unwrap();
    let encoder = Encoder::new(&model, 0, Device::Cpu, kind).unwrap();
    tch::no_grad(|| {
        for (index, (name, tensor)) in of_backbone(encoder.parameters()).enumerate() {
            let shape = tensor.size();
            let value = noise(&shape, index as i64);
            let is_scale = if is_transformer(case) {
                name.contains("norm") && name.ends_with("weight")
            } else {
                index % 3 == 1
            };
            let value = match shape.as_slice() {
                [_, inputs @ ..] if shape.len() % 2 == 0 => {
                    value * (6.0 / inputs.iter().product::<i64>() as f64).sqrt()
                }
                [_] => value * 0.1 + f64::from(u8::from(is_scale)),
                _ => value,
            };
            tensor.shallow_clone().copy_(&value);
        }
    });
    encoder
}

fn is_transformer(case: &Value) -> bool {
    case["stem"].is_null()
}

/// Trained tensors of the backbone under torchvision's or timm's names.
fn of_backbone(parameters: &Parameters) -> impl Iterator<Item = (String, &Tensor)> {
    parameters.trainable().filter_map(|entry| {
        entry.name.strip_prefix("backbone.").map(|name| (name.to_owned(), &entry.tensor))
    })
}

struct Comparison {
    what: String,
    bound: f64,
}

impl Comparison {
    fn close(&self, key: &str, got: f64, expected: &Value) {
        let expected = expected.as_f64().unwrap();
        let error = (got - expected).abs() / expected.abs().max(1.0);
        assert!(error < self.bound, "{} {key}: {got} is not {expected}", self.what);
    }

    fn rows(&self, key: &str, got: &Tensor, expected: &Value) {
        let expected = expected.as_array().unwrap();
        assert_eq!(got.size()[0] as usize, expected.len());
        for (row, expected) in expected.iter().enumerate() {
            self.close(key, project(&got.get(row as i64)), expected);
        }
    }
}

/// The test runs one step of SGD by hand: with velocities of 0 it is `p -= lr (g + decay p)`.
fn check(case: &Value, kind: Kind, bound: f64) {
    let what = format!("{} {} {} {kind:?}", case["backbone"], case["stem"], case["side"]);
    let comparison = Comparison { what, bound };
    let encoder = encoder(case, kind);
    let names: Vec<String> = of_backbone(encoder.parameters()).map(|(name, _)| name).collect();
    let expected: Vec<&str> =
        case["parameters"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names, expected, "the library's names in its order");

    let side = case["side"].as_i64().unwrap();
    let images = noise(&[4, 3, side, side], 1005).to_kind(kind);
    let channels_last = images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    let features = encoder.train_features(&channels_last).unwrap();
    let loss = (&features * noise(&features.size(), 1001).to_kind(kind)).mean(kind);
    loss.backward();
    comparison.rows("features", &features, &case["features"]);
    comparison.close("loss", f64::try_from(&loss).unwrap(), &case["loss"]);
    tch::no_grad(|| {
        for (name, tensor) in of_backbone(encoder.parameters()) {
            let gradient = tensor.grad();
            comparison.close(&name, project(&gradient), &case["gradients"][&name]);
            let _ = tensor.shallow_clone().g_sub_(&((gradient + tensor * 5e-4) * 0.05));
            comparison.close(&name, project(tensor), &case["stepped"][&name]);
        }
    });
    for entry in encoder.parameters().iter().filter(|entry| !entry.trainable) {
        if let Some(name) = entry.name.strip_prefix("backbone.") {
            comparison.close(name, project(&entry.tensor), &case["running"][name]);
        }
    }
    comparison.rows("evaluated", &encoder.extract(&channels_last).unwrap(), &case["evaluated"]);
}

fn cases(transformers: bool) -> Vec<Value> {
    let cases: Vec<Value> = serde_json::from_str(include_str!("fixtures/model.json")).unwrap();
    cases.into_iter().filter(|case| is_transformer(case) == transformers).collect()
}

/// With position embeddings as they are, and resampled for smaller and larger images.
#[test]
fn vision_transformers_compute_what_timm_computes() {
    let cases = cases(true);
    assert_eq!(cases.len(), 3);
    for case in &cases {
        check(case, Kind::Double, 1e-9);
        check(case, Kind::Float, 1e-4);
    }
}

#[test]
fn resnets_compute_what_torchvision_computes() {
    let cases = cases(false);
    assert_eq!(cases.len(), 4);
    for case in &cases {
        check(case, Kind::Double, 1e-9);
        // Batch norms over 16 values amplify the rounding of float32, more so behind a step, so the
        // deep ones say little.
        if case["backbone"] == "resnet18" {
            check(case, Kind::Float, 5e-4);
        }
    }
}
