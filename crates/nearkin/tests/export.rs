//! Weights out of a run and into one, as users ask for them.

#![expect(clippy::expect_used, reason = "a test fails by panicking, and so do its helpers")]

#[allow(dead_code, reason = "other tests use the rest of it")]
mod support;

use std::fs;

use insta::assert_snapshot;
use support::{Place, tiny_with};

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
                    shape: conv1.weight is [4, 3, 3, 3] where the backbone has [5, 3, 3, 3]";
    assert!(message.contains(expected), "{message}");
    assert!(!place.path("second").exists());

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
