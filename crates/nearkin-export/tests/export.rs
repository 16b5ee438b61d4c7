//! Exports of small networks, byte by byte what `scripts/fixtures/export.py` loaded into torchvision,
//! timm and onnxruntime, and what cannot be exported.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use nearkin_export::{Format, export};
use nearkin_model::load_backbone;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

mod networks;

fn digest(path: &Path) -> String {
    let bytes = Sha256::digest(std::fs::read(path).unwrap());
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[test]
fn exports_are_the_files_that_other_libraries_have_loaded() {
    let expected: BTreeMap<String, String> =
        serde_json::from_str(include_str!("fixtures/export.json")).unwrap();
    let root = tempfile::tempdir().unwrap();
    let mut got = BTreeMap::new();
    for case in networks::SMALL {
        let recipe = case.recipe().unwrap();
        let encoder = networks::encoder(&recipe).unwrap();
        for &(name, format) in case.formats {
            let folder = root.path().join(case.name).join(name);
            for file in export(&encoder, &recipe, format, &folder).unwrap().files {
                let relative = file.strip_prefix(root.path()).unwrap().to_str().unwrap();
                got.insert(relative.to_owned(), digest(&file));
            }
        }
    }
    assert_eq!(got, expected, "run scripts/fixtures/export.py");
}

#[test]
fn what_was_exported_is_loaded_again_and_computes_the_same() {
    let root = tempfile::tempdir().unwrap();
    for case in networks::SMALL {
        let recipe = case.recipe().unwrap();
        let encoder = networks::encoder(&recipe).unwrap();
        let folder = root.path().join(case.name);
        for &(_, format) in case.formats.iter().filter(|(_, format)| *format != Format::Onnx) {
            export(&encoder, &recipe, format, &folder).unwrap();
            let other =
                nearkin_model::Encoder::new(&recipe.model, 7, Device::Cpu, Kind::Float).unwrap();
            let report = load_backbone(&folder.join("model.safetensors"), &other).unwrap();
            assert_eq!((report.prefix.as_str(), report.left_out), ("", Vec::new()));
            let images = Tensor::randn([2, 3, 32, 32], tch::kind::FLOAT_CPU);
            assert_eq!(other.extract(&images).unwrap(), encoder.extract(&images).unwrap());
        }
    }
}

#[test]
fn what_another_tool_does_not_have_is_refused_with_what_to_take_instead() {
    let folder = tempfile::tempdir().unwrap();
    for (case, format, expected) in [
        (&networks::SMALL[0], Format::Timm, "take --format torchvision"),
        (&networks::SMALL[2], Format::Torchvision, "take --format timm"),
    ] {
        let recipe = case.recipe().unwrap();
        let encoder = networks::encoder(&recipe).unwrap();
        let out = folder.path().join("out");
        let message = export(&encoder, &recipe, format, &out).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(!out.exists());
    }
    let message = "tensorflow".parse::<Format>().unwrap_err();
    assert_eq!(message, "give torchvision, timm or onnx");
}
