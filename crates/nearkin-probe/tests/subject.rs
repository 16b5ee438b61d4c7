//! Files of weights: the names they may carry, and what is said of those that do not fit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{MACHINE, Weights, recipe};
use nearkin_probe::{ProbeError, Subject};
use tch::Tensor;

fn features(subject: &Subject) -> Tensor {
    tch::manual_seed(0);
    let images = Tensor::rand([3, 3, 16, 16], tch::kind::FLOAT_CPU);
    subject.encoder(MACHINE.device).unwrap().extract(&images).unwrap()
}

fn message(subject: &Subject) -> String {
    subject.encoder(MACHINE.device).unwrap_err().to_string()
}

#[test]
fn weights_go_by_nearkins_names_or_by_torchvisions() {
    let weights = Weights::new();
    let expected = features(&weights.whole());
    let bare: Vec<(String, Tensor)> = weights
        .tensors
        .iter()
        .filter_map(|(name, tensor)| {
            Some((name.strip_prefix("backbone.")?.to_owned(), tensor.shallow_clone()))
        })
        .collect();
    let ours: Vec<(String, Tensor)> = bare
        .iter()
        .map(|(name, tensor)| (format!("backbone.{name}"), tensor.shallow_clone()))
        .collect();
    assert!(features(&weights.subject(&ours)) == expected, "without a projector");

    let mut torchvision = bare;
    torchvision.push(("fc.weight".to_owned(), Tensor::zeros([10, 32], tch::kind::FLOAT_CPU)));
    torchvision.push(("fc.bias".to_owned(), Tensor::zeros([10], tch::kind::FLOAT_CPU)));
    let counter = Tensor::from(7_i64);
    torchvision.push(("bn1.num_batches_tracked".to_owned(), counter));
    assert!(features(&weights.subject(&torchvision)) == expected, "torchvision's names");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let mut weights = Weights::new();
    let zeros = |shape: &[i64]| Tensor::zeros(shape, tch::kind::FLOAT_CPU);
    weights.tensors.retain(|(name, _)| name != "backbone.layer1.0.bn1.bias");
    weights.tensors.retain(|(name, _)| name != "backbone.conv1.weight");
    weights.tensors.push(("backbone.conv1.weight".to_owned(), zeros(&[4, 3, 7, 7])));
    weights.tensors.push(("backbone.layer4.1.conv9.weight".to_owned(), zeros(&[1])));
    let said = message(&weights.whole());
    for part in [
        "weights.safetensors",
        "1 missing: layer1.0.bn1.bias",
        "conv1.weight is [4, 3, 7, 7] where the network has [4, 3, 3, 3]",
        "1 unexpected: layer4.1.conv9.weight",
        "\nhint: in the recipe's [model], set stem = \"imagenet\"",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // A file of something else is not listed to its end.
    let said = message(&weights.subject(&[("a".to_owned(), zeros(&[1]))]));
    assert!(said.contains(" and ") && said.contains(" more") && said.len() < 1000, "{said}");
}

#[test]
fn a_corrupted_file_is_said_to_be_one() {
    let weights = Weights::new();
    let subject = weights.whole();
    let path = weights.path("weights.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for (damaged, what) in
        [(&bytes[..bytes.len() / 2], "half"), (b"not this".as_slice(), "text"), (&[], "nothing")]
    {
        std::fs::write(&path, damaged).unwrap();
        let said = message(&subject);
        assert!(
            said.contains("cut short") && said.contains("weights.safetensors"),
            "{what}: {said}"
        );
    }
    let missing = Subject::from_weights(&weights.path("nowhere.safetensors"), recipe()).unwrap();
    assert!(matches!(missing.encoder(MACHINE.device), Err(ProbeError::Unfit(_))));
}
