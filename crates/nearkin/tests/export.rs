//! Weights out of a run and into one, as users ask for them.

#![expect(clippy::expect_used, reason = "a test fails by panicking, and so do its helpers")]

#[allow(dead_code, reason = "other tests use the rest of it")]
mod support;

use std::fs;

use insta::assert_snapshot;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use support::{Place, tiny_with};
use tch::Tensor;

#[test]
fn a_run_is_exported_imported_and_started_from() {
    let place = Place::new();
    place.pretrain("tiny.toml --out run --quiet").done();
    assert_snapshot!(place.nearkin("export run --format torchvision --out out").done(), @r#"
    exported run/checkpoints/step-000000008/model.safetensors
    wrote out/model.safetensors
    wrote out/model.py

    To use it in Python:

    # out/model.py
    def build():
        network = resnet.ResNet(resnet.BasicBlock, [2, 2, 2, 2])
        network.fc = nn.Identity()
        network.inplanes = 4
        network.conv1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False)
        network.bn1 = nn.BatchNorm2d(4)
        network.layer1 = network._make_layer(resnet.BasicBlock, 4, 2, stride=1)
        network.layer2 = network._make_layer(resnet.BasicBlock, 8, 2, stride=2)
        network.layer3 = network._make_layer(resnet.BasicBlock, 16, 2, stride=2)
        network.layer4 = network._make_layer(resnet.BasicBlock, 32, 2, stride=2)
        network.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        network.maxpool = nn.Identity()
        return network
    "#);
    let import = "import out/model.safetensors --backbone resnet18 --out x.safetensors";
    assert_snapshot!(place.nearkin(import).done(), @r#"
    out/model.safetensors: 100 tensors of the backbone, names as they are
    the names are those of torchvision or timm

    wrote x.safetensors; a recipe to go with it has

    [model]
    backbone = "resnet18"
    stem = "cifar"
    base_width = 4
    zero_init_residual = false
    "#);
    let said = place.pretrain("tiny.toml --out second --init x.safetensors --seed 5").done();
    let loaded = "x.safetensors: 100 tensors of the backbone, names begin with `backbone.`\n";
    assert!(said.starts_with(loaded), "{said}");

    // Begun again without a checkpoint, a run begins with the same weights; from others it ends otherwise.
    let finished = |run: &str| {
        fs::read(place.path(&format!("{run}/checkpoints/step-000000008/model.safetensors")))
            .expect("a checkpoint")
    };
    let once = finished("second");
    let checkpoints = place.path("second/checkpoints");
    fs::remove_dir_all(&checkpoints).and_then(|()| fs::create_dir(&checkpoints)).expect("a folder");
    fs::remove_file(place.path("x.safetensors")).expect("weights");
    place.pretrain("--resume second --quiet").done();
    assert!(finished("second") == once);
    place.pretrain("tiny.toml --out third --seed 5 --quiet").done();
    assert!(finished("third") != once);
}

#[test]
fn the_momentum_encoder_is_another_file() {
    let place = Place::new();
    place.pretrain("tiny.toml --out run --quiet").done();
    place.nearkin("export run --format onnx --out online").done();
    place.nearkin("export run --format onnx --out momentum --momentum-encoder").done();
    let read =
        |folder: &str| fs::read(place.path(&format!("{folder}/model.onnx"))).expect("a file");
    assert!(read("online") != read("momentum"));
}

#[test]
fn wrong_weights_are_refused_and_leave_nothing_behind() {
    let place = Place::new();
    place.pretrain("tiny.toml --out run --quiet").done();
    place.nearkin("export run --format torchvision --out out").done();
    place.write("wider.toml", tiny_with("base_width = 4", "base_width = 5"));
    let message = place.pretrain("wider.toml --out second --init out/model.safetensors").refused();
    let expected = "out/model.safetensors: these are not the weights of this backbone: 100 of another \
                    shape or type: conv1.weight is [4, 3, 3, 3] where the network has [5, 3, 3, 3]";
    assert!(message.contains(expected), "{message}");
    assert!(message.contains("\nhint: in the recipe's [model], set base_width = 4\n"), "{message}");
    assert!(!place.path("second").exists());

    let message =
        place.nearkin("import out/model.safetensors --backbone resnet34 --out y.safetensors");
    let message = message.refused();
    assert!(message.ends_with("\nhint: give --backbone resnet18\n"), "{message}");
    for command in
        ["pretrain tiny.toml --out second --init", "embed --recipe tiny.toml --out x.npy"]
    {
        place.write("weights.pth", b"PK\x03\x04");
        let message = place.nearkin(&format!("{command} weights.pth")).refused();
        assert!(message.contains("hint: convert it with nearkin import FILE"), "{message}");
        assert!(!place.path("second").exists());
    }

    place.write("call.pth", b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.");
    let message =
        place.nearkin("import call.pth --backbone resnet18 --out y.safetensors").refused();
    assert!(message.contains("it begins with a pickle, but not with torch's"), "{message}");
    assert!(!place.path("y.safetensors").exists());
    let message = place.nearkin("export run --format timm --out timm").refused();
    assert!(message.contains("take --format torchvision"), "{message}");
    let message = place.nearkin("export nowhere --format timm --out timm").refused();
    assert!(message.contains("nowhere"), "{message}");
}

/// The weights of a run with every tensor changed, as a file.
fn changed(place: &Place, file: &str, change: impl Fn(&str, Tensor) -> Tensor) {
    let weights = place.path("run/checkpoints/step-000000008/model.safetensors");
    let weights = nearkin_model::Weights::read(&weights).expect("weights");
    let contents: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = weights
        .tensors
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = change(&name, tensor).contiguous();
            let (dtype, width) = match tensor.kind() {
                tch::Kind::Half => (Dtype::F16, 2),
                tch::Kind::BFloat16 => (Dtype::BF16, 2),
                tch::Kind::Double => (Dtype::F64, 8),
                _ => (Dtype::F32, 4),
            };
            let mut bytes = vec![0; tensor.numel() * width];
            tensor.copy_data_u8(&mut bytes, tensor.numel());
            let shape = tensor.size().iter().map(|&side| side as usize).collect();
            (name, dtype, shape, bytes)
        })
        .collect();
    let views = contents.iter().map(|(name, dtype, shape, bytes)| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).expect("a tensor"))
    });
    place.write(file, safetensors::serialize(views, None).expect("a file"));
}

/// What every command that reads weights says about a file; all of them accept it.
fn notes_of_all(place: &Place, file: &str, recipe: &str, backbone: &str) -> [String; 4] {
    let given = format!("{file} --recipe {recipe}");
    let embed = place.nearkin(&format!("embed {given} --device cpu --out {file}.npy"));
    let eval = place.nearkin(&format!("eval knn {given} --device cpu"));
    let begin = format!("{recipe} --out {file}-run --init {file}");
    let import = format!("import {file} --backbone {backbone} --out {file}-imported.safetensors");
    assert_eq!((embed.code, eval.code), (Some(0), Some(0)), "{}{}", embed.stderr, eval.stderr);
    let pretrain = place.pretrain(&begin).done();
    [embed.stderr, eval.stderr, pretrain, place.nearkin(&import).done()]
}

#[test]
fn weights_of_any_precision_are_read_by_every_command() {
    let place = Place::new();
    place.pretrain("tiny.toml --out run --quiet").done();
    place.nearkin("embed run --device cpu --out expected.npy").done();
    for (kind, name) in [
        (tch::Kind::Half, "float16"),
        (tch::Kind::BFloat16, "bfloat16"),
        (tch::Kind::Double, "float64"),
    ] {
        let file = format!("{name}.safetensors");
        changed(&place, &file, |_, tensor| tensor.to_kind(kind));
        for said in notes_of_all(&place, &file, "tiny.toml", "resnet18") {
            assert!(
                said.contains(&format!("100 tensors converted from {name} to float32")),
                "{said}"
            );
        }
        let found = format!(
            "search expected.npy --queries {file}.npy --top-k 1 --no-center --out found.csv"
        );
        place.nearkin(&found).done();
        for line in place.read("found.csv").lines().skip(1) {
            let similarity = line.rsplit(',').next().and_then(|cell| cell.parse::<f32>().ok());
            assert!(similarity > Some(0.99), "{line}");
        }
    }
    changed(&place, "nan.safetensors", |name, tensor| match name {
        "backbone.layer2.0.bn1.bias" => tensor.full_like(f64::NAN),
        _ => tensor,
    });
    for command in [
        "embed nan.safetensors --recipe tiny.toml --device cpu --out nan.npy",
        "eval knn nan.safetensors --recipe tiny.toml --device cpu",
        "pretrain tiny.toml --device cpu --init nan.safetensors --out second",
        "import nan.safetensors --backbone resnet18 --out nan-imported.safetensors",
    ] {
        let said = place.nearkin(command);
        let expected = "error: nan.safetensors: layer2.0.bn1.bias has values that are not finite (NaN \
                        or infinite), so the encoder's features are not finite: it has diverged";
        assert!(said.stderr.starts_with(expected), "{command}: {}", said.stderr);
        assert_eq!(said.code, Some(1), "{command}");
    }
    for left in ["nan.npy", "second", "nan-imported.safetensors"] {
        assert!(!place.path(left).exists(), "{left}");
    }
}

#[test]
fn transformers_for_another_image_size_are_read_by_every_command() {
    let place = Place::new();
    let transformer = |image: u32, patch: u32, depth: u32| {
        let table = format!(
            "\"vit-tiny\"\nvision_transformer = {{ image_size = {image}, patch_size = {patch}, \
             depth = {depth}, width = 12, heads = 3 }}\n"
        );
        tiny_with("\"resnet18\"\nstem = \"cifar\"\nbase_width = 4\n", &table)
            .replace("{ size = 16 }", &format!("{{ size = {image} }}"))
    };
    place.write("large.toml", transformer(32, 4, 1));
    place.write("small.toml", transformer(16, 4, 1));
    place.pretrain("large.toml --out run --quiet").done();
    changed(&place, "large.safetensors", |_, tensor| tensor);
    changed(&place, "half.safetensors", |_, tensor| tensor.to_kind(tch::Kind::Half));
    let resampled = "position embeddings resampled from 8 x 8 to 4 x 4 patches";
    for file in ["large.safetensors", "half.safetensors"] {
        let [embed, eval, pretrain, imported] =
            notes_of_all(&place, file, "small.toml", "vit-tiny");
        for said in [embed, eval, pretrain] {
            assert!(said.contains(resampled), "{said}");
        }
        // Import keeps the size of the file.
        assert!(imported.contains("image_size = 32"), "{imported}");
    }
    place.write("other.toml", transformer(16, 8, 2));
    let refused =
        place.nearkin("embed large.safetensors --recipe other.toml --out x.npy").refused();
    let hint = "\nhint: in the recipe's [model], set vision_transformer.patch_size = 4, \
                vision_transformer.depth = 1\n";
    assert!(refused.ends_with(hint), "{refused}");
    changed(&place, "wide.safetensors", |name, tensor| match name {
        "backbone.pos_embed" => tensor.narrow(1, 0, 1 + 8 * 4),
        _ => tensor,
    });
    for command in [
        "embed wide.safetensors --recipe small.toml --out x.npy",
        "eval knn wide.safetensors --recipe small.toml",
        "pretrain small.toml --init wide.safetensors --out second",
    ] {
        let refused = place.nearkin(command).refused();
        assert!(refused.contains("which are not the patches of a square image"), "{refused}");
    }
}
