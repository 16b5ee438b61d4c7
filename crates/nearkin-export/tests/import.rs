//! Checkpoints of other code bases, as torch wrote them and as nobody should.
//!
//! `scripts/fixtures/checkpoints.py` wrote the files under `fixtures/checkpoints` with torch, in the
//! layouts of the code bases that are named, and what their tensors are made of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use nearkin_export::{ImportError, ImportOptions, Imported, import};
use nearkin_model::{Encoder, Weights, load_backbone};
use tch::{Device, Kind, Tensor};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints").join(name)
}

fn options(backbone: &str) -> ImportOptions {
    ImportOptions { backbone: backbone.to_owned(), ..ImportOptions::default() }
}

/// The import with the tensors it wrote.
fn run(path: &Path, options: &ImportOptions) -> Result<(Imported, Weights), ImportError> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let result = import(path, options, &out);
    assert_eq!(out.exists(), result.is_ok(), "a failed import writes nothing");
    let imported = result?;
    let encoder =
        Encoder::new(&toml::from_str(&imported.model).unwrap(), 1, Device::Cpu, Kind::Float)
            .unwrap();
    let report = load_backbone(&out, &encoder).unwrap();
    assert_eq!((report.prefix.as_str(), report.left_out.len()), ("backbone.", 0));
    Ok((imported, Weights::read(&out).unwrap()))
}

fn failure(path: &Path, options: &ImportOptions) -> String {
    let message = run(path, options).unwrap_err().to_string();
    assert!(message.starts_with(&path.display().to_string()), "{message}");
    message
}

/// What the script filled a tensor with: `(index + 10 * shift) / count`, rounded.
fn check_values(weights: &Weights, name: &str, shift: f64) {
    let tensor = &weights.tensors[name];
    let count = tensor.numel() as i64;
    let expected =
        (Tensor::arange(count, (Kind::Double, Device::Cpu)) + 10.0 * shift) / count as f64;
    let expected = expected.to_kind(Kind::Float).reshape(tensor.size());
    assert_eq!(*tensor, expected, "{name}");
}

#[test]
fn checkpoints_of_many_code_bases_are_recognised() {
    for (file, prefix, key, origin, left_out) in [
        ("torchvision.pth", "", None, "torchvision", "fc.weight"),
        ("torchvision-legacy.pth", "", None, "torchvision", "fc.weight"),
        ("moco.pth.tar", "module.encoder_q.", Some("state_dict"), "MoCo", "module.queue"),
        (
            "simsiam.pth.tar",
            "module.encoder.",
            Some("state_dict"),
            "SimSiam",
            "module.predictor.0.weight",
        ),
        ("solo-learn.ckpt", "backbone.", Some("state_dict"), "solo-learn", "classifier.weight"),
        ("lightly.ckpt", "backbone.", Some("state_dict"), "lightly", "projection_head.0.weight"),
        ("vicreg.pth", "module.backbone.", Some("model"), "VICReg", "module.projector.0.weight"),
        ("sce.ckpt", "trunk.", Some("state_dict"), "SCE", "projector.0.weight"),
    ] {
        let (imported, weights) = run(&fixture(file), &options("resnet18")).unwrap();
        assert_eq!((imported.report.prefix.as_str(), imported.key), (prefix, key), "{file}");
        assert!(imported.origin.contains(origin), "{file}: {}", imported.origin);
        let named = imported.report.left_out.iter().any(|name| name == left_out);
        assert!(named, "{file}: {:?}", imported.report.left_out);
        assert!(imported.model.contains("base_width = 1"), "{}", imported.model);
        assert!(imported.model.contains("stem = \"imagenet\""), "{}", imported.model);
        check_values(&weights, "backbone.conv1.weight", 0.0);
        check_values(&weights, "backbone.layer4.1.bn2.running_var", 0.0);
        assert_eq!(weights.metadata["nearkin.source"], file);
        assert_eq!(weights.metadata["nearkin.source_sha256"].len(), 64);
    }
}

#[test]
fn transformers_have_the_sizes_of_the_file_and_the_heads_that_are_usual() {
    let (imported, weights) = run(&fixture("moco-v3-vit.pth.tar"), &options("vit-small")).unwrap();
    assert_eq!(imported.origin, "MoCo v3");
    let model = &imported.model;
    for line in ["image_size = 16", "patch_size = 8", "depth = 1", "width = 24", "heads = 12"] {
        assert!(model.contains(line), "{line}: {model}");
    }
    check_values(&weights, "backbone.blocks.0.attn.qkv.weight", 0.0);
    let other = ImportOptions { heads: Some(4), ..options("vit-small") };
    assert!(run(&fixture("moco-v3-vit.pth.tar"), &other).unwrap().0.model.contains("heads = 4"));
    let wrong = ImportOptions { heads: Some(5), ..options("vit-small") };
    let message = run(&fixture("moco-v3-vit.pth.tar"), &wrong).unwrap_err().to_string();
    assert!(message.contains("width = 24 does not divide into"), "{message}");
}

#[test]
fn the_momentum_encoder_is_taken_where_it_is_wanted() {
    let wanted = ImportOptions { momentum_encoder: true, ..options("resnet18") };
    let (imported, weights) = run(&fixture("moco.pth.tar"), &wanted).unwrap();
    assert_eq!(imported.report.prefix, "module.encoder_k.");
    check_values(&weights, "backbone.conv1.weight", 1.0);
    let by_prefix =
        ImportOptions { prefix: Some("module.encoder_k.".to_owned()), ..options("resnet18") };
    assert_eq!(
        run(&fixture("moco.pth.tar"), &by_prefix).unwrap().0.report.prefix,
        "module.encoder_k."
    );
    let message = failure(&fixture("simsiam.pth.tar"), &wanted);
    assert!(
        message.contains("no momentum encoder, but backbones below `module.encoder.`"),
        "{message}"
    );
    let wrong = ImportOptions { prefix: Some("module.".to_owned()), ..options("resnet18") };
    let message = failure(&fixture("moco.pth.tar"), &wrong);
    let both = "below `module.encoder_k.`, `module.encoder_q.`";
    assert!(message.contains(both), "{message}");
}

#[test]
fn objects_beside_the_tensors_are_named_and_never_made() {
    let (imported, _) = run(&fixture("vicreg.pth"), &options("resnet18")).unwrap();
    assert_eq!(imported.calls, ["argparse.Namespace"]);
}

#[test]
fn another_backbone_is_refused_with_the_tensors_that_differ() {
    for (backbone, expected) in [
        ("resnet34", "missing: layer1.2.conv1.weight"),
        ("resnet50", "conv1.weight is [1, 1, 3, 3] where the network has [1, 1, 1, 1]"),
        ("vit-tiny", "missing: cls_token, pos_embed"),
    ] {
        let message = failure(&fixture("torchvision.pth"), &options(backbone));
        assert!(message.contains(expected), "{message}");
    }
    let message = run(&fixture("torchvision.pth"), &options("resnet81")).unwrap_err().to_string();
    assert!(message.contains("did you mean `resnet18`?"), "{message}");
}

#[test]
fn code_on_the_way_to_the_tensors_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let proof = folder.path().join("proof");
    let write = |name: &str, pickle: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, zip(&[("archive/data.pkl", pickle)])).unwrap();
        path
    };
    let command = format!("touch {}", proof.display());
    let call = |end: &[u8]| {
        let mut pickle = b"cposix\nsystem\nX".to_vec();
        pickle.extend((command.len() as u32).to_le_bytes());
        pickle.extend(command.as_bytes());
        pickle.extend(b"\x85R");
        pickle.extend(end);
        pickle
    };
    let whole = [&b"\x80\x02"[..], &call(b".")].concat();
    let state = [&b"\x80\x02}X\x0a\x00\x00\x00state_dict"[..], &call(b"s.")].concat();
    let message = failure(&write("whole.pth", &whole), &options("resnet18"));
    assert!(
        message.contains("the whole checkpoint is made by calling `posix.system`"),
        "{message}"
    );
    assert!(message.contains("never run"), "{message}");
    let message = failure(&write("state.pth", &state), &options("resnet18"));
    assert!(message.contains("`state_dict` is made by calling `posix.system`"), "{message}");
    // Torch's own way to keep a whole module.
    let message = failure(&fixture("module.pth"), &options("resnet18"));
    assert!(message.contains("the whole checkpoint is made by calling `torch.nn"), "{message}");
    assert!(!proof.exists());
}

#[test]
fn damaged_files_are_refused_wherever_they_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["torchvision.pth", "torchvision-legacy.pth"] {
        let bytes = std::fs::read(fixture(file)).unwrap();
        let path = folder.path().join(file);
        for cut in (0..bytes.len()).step_by(bytes.len() / 40).chain([bytes.len() - 1]) {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            failure(&path, &options("resnet18"));
        }
    }
    // A changed number has another checksum.
    let mut bytes = std::fs::read(fixture("torchvision.pth")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0xab);
    let path = folder.path().join("changed.pth");
    std::fs::write(&path, bytes).unwrap();
    let message = failure(&path, &options("resnet18"));
    assert!(
        message.contains("not a whole file of torch.save") || message.contains("damaged"),
        "{message}"
    );
    let path = folder.path().join("short.safetensors");
    std::fs::write(&path, b"\x10\0\0\0\0\0\0\0{\"a\":").unwrap();
    assert!(failure(&path, &options("resnet18")).contains("cut short"));
    let path = folder.path().join("none.pth");
    assert!(failure(&path, &options("resnet18")).contains("No such file"));
}

#[test]
fn sizes_are_checked_against_the_file_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.pth");
    let pickle = |length: u32, shape: &[u8], stride: &[u8]| {
        let mut text =
            b"\x80\x02}X\x0c\x00\x00\x00conv1.weightctorch._utils\n_rebuild_tensor_v2\n(\
                         (X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000\
                         X\x03\x00\x00\x00cpuJ"
                .to_vec();
        text.extend(length.to_le_bytes());
        text.extend(b"tQK\x00");
        text.extend([shape, b"\x85", stride, b"\x85\x89Nt"].concat());
        text.extend(b"Rs.");
        text
    };
    let long = b"J\xff\xff\xff\x7f";
    for (pickle, expected) in [
        (pickle(2, b"K\x02", b"K\x01"), "no ResNet or vision transformer"),
        (pickle(1 << 30, b"K\x02", b"K\x01"), "8 bytes, but 1073741824 numbers"),
        (pickle(2, long, b"K\x00"), "does not fit its storage of 2 numbers"),
        (pickle(2, b"K\x02", long), "does not fit its storage of 2 numbers"),
    ] {
        let files = [("archive/data.pkl", &pickle[..]), ("archive/data/0", &[0; 8])];
        std::fs::write(&path, zip(&files)).unwrap();
        let message = failure(&path, &options("resnet18"));
        assert!(message.contains(expected), "{message}");
    }
    // A compressed entry, a size beyond the file, and a name that leaves its folder: a mere key.
    let whole = zip(&[("../../data.pkl", b"\x80\x02}.")]);
    std::fs::write(&path, &whole).unwrap();
    assert!(failure(&path, &options("resnet18")).contains("no dictionary of tensors"));
    let central = whole.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    for (at, value, expected) in [
        (10, 8, "it is compressed"),
        (8, 1, "it is encrypted"),
        (24, 200, "200 bytes, but 4 are stored"),
    ] {
        let mut changed = whole.clone();
        changed[central + at] = value;
        std::fs::write(&path, changed).unwrap();
        let message = failure(&path, &options("resnet18"));
        assert!(message.contains(expected), "{message}");
    }
    let mut changed = whole.clone();
    (changed[central + 20], changed[central + 24]) = (200, 200);
    std::fs::write(&path, changed).unwrap();
    assert!(failure(&path, &options("resnet18")).contains("outside of the file"));
}

/// A zip archive with stored entries.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut list) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let mut checksum = flate2::Crc::new();
        checksum.update(content);
        let offset = archive.len() as u32;
        // From the version needed to the length of the name.
        let mut common = vec![10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(checksum.sum().to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        archive.extend([&b"PK\x03\x04"[..], &common, &[0, 0], name.as_bytes(), content].concat());
        list.extend([&b"PK\x01\x02\x0a\x00"[..], &common, &[0; 12]].concat());
        list.extend(offset.to_le_bytes());
        list.extend(name.as_bytes());
    }
    let (at, length, count) = (archive.len() as u32, list.len() as u32, files.len() as u16);
    archive.extend(list);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    archive.extend([length.to_le_bytes(), at.to_le_bytes()].concat());
    archive.extend([0, 0]);
    archive
}
