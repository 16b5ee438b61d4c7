//! Runs, recipes and a packed file that commit 8735799 wrote stay usable.
//!
//! `fixtures/run-8735799` holds two runs as that version left them: `sce` was interrupted by Ctrl-C after
//! step 17 of 24 (in the middle of an epoch), `fnc` was killed after step 10 of 12, with its checkpoint at
//! step 8. Beside them are their recipes as the user wrote them, the packed file that `fnc` was trained
//! on, and what the old version made of all this itself (`expected.json`). The files must not change:
//! a later version that cannot read them cannot read its users' runs.
//!
//! Numbers are compared to 1e-4 of their size, since sums round differently on another processor, and
//! steps of training carry that on. k-NN on features of such small networks may then choose another
//! neighbor for an image or two.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the tests of the command line")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use nearkin_data::{ImageSet, Split};
use nearkin_report::{Kind, Record, names, read_metrics};
use nearkin_train::load_tensors;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{Place, Said, TINY, tiny_with};

const TOLERANCE: f64 = 1e-4;
/// Share of test images that may have other neighbors: 2 of 40.
const ACCURACY_TOLERANCE: f64 = 0.051;

/// A run: its name, its last step, and how it finds its images.
const RUNS: [(&str, u64, &str); 2] = [("sce", 24, ""), ("fnc", 12, "--data set.packed")];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/run-8735799")
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(fixtures().join("expected.json")).unwrap()).unwrap()
}

/// A copy of the fixtures.
fn place() -> Place {
    let place = Place::new();
    copy(&fixtures(), &place.path(""));
    place
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: {got:?}, not {expected:?}");
    for (place, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs() / expected.abs().max(0.1);
        assert!(error <= tolerance, "{what} {place}: {got}, not {expected}");
    }
}

/// Values of records, row by row, against the expected rows.
fn same_records<'a>(
    what: &str,
    records: impl Iterator<Item = &'a Record>,
    row: impl Fn(&Record) -> Vec<f64>,
    expected: &Value,
    tolerance: f64,
) {
    let got: Vec<Vec<f64>> = records.map(row).collect();
    let expected: Vec<Vec<f64>> = expected.as_array().unwrap().iter().map(numbers).collect();
    assert_eq!(got.len(), expected.len(), "{what}: {got:?}");
    for (got, expected) in got.iter().zip(&expected) {
        close(what, got, expected, tolerance);
    }
}

/// That a run came to the end that the old version came to.
fn ends_as_expected(run: &Path, name: &str, last: u64) {
    let expected = &expected()[name]["resumed"];
    let records = read_metrics(&run.join("metrics.jsonl")).unwrap();
    let of = |kind| records.iter().filter(move |record| record.kind == kind);
    let loss = |record: &Record| record.number(names::LOSS).unwrap();
    let first = expected["steps"][0][0].as_u64().unwrap();
    same_records(
        "loss of a step",
        of(Kind::Step).filter(|record| record.step >= first),
        |record| vec![record.step as f64, loss(record)],
        &expected["steps"],
        TOLERANCE,
    );
    same_records(
        "loss of an epoch",
        of(Kind::Epoch),
        |record| vec![record.epoch as f64, loss(record)],
        &expected["epochs"],
        TOLERANCE,
    );
    let is_encoder = |record: &&Record| record.text("features") == Some("backbone");
    same_records(
        "accuracy",
        of(Kind::Knn).filter(|record| record.step == last).filter(is_encoder),
        |record| {
            let value = |name| record.number(name).unwrap();
            vec![record.step as f64, value("k"), value(names::ACCURACY)]
        },
        &expected["knn"],
        ACCURACY_TOLERANCE / 0.1,
    );
    for file in ["model", "momentum_encoder"] {
        let path = run.join(format!("checkpoints/step-{last:09}/{file}.safetensors"));
        let tensors = load_tensors(&path).unwrap();
        let floats = tensors.values().filter(|tensor| tensor.kind() == tch::Kind::Float);
        let norms: Vec<f64> = floats.map(|tensor| tensor.norm().double_value(&[])).collect();
        close(file, &norms, &numbers(&expected["norms"][file]), TOLERANCE);
    }
}

#[test]
fn an_old_run_is_resumed_to_the_end_that_the_old_version_came_to() {
    let place = place();
    for (name, last, data) in RUNS {
        place.pretrain(&format!("--resume {name} {data} --quiet")).done();
        ends_as_expected(&place.path(name), name, last);
        let report = place.read(&format!("{name}/report.html"));
        assert!(report.contains("k-NN"), "{name} has a report");
    }
}

/// The keys of a recipe of that time mean what they meant.
#[test]
fn an_old_run_is_resumed_with_the_recipe_as_it_was_written() {
    let place = place();
    for (name, last, data) in RUNS {
        let said =
            place.pretrain(&format!("{name}.toml {data} --resume auto --out {name} --quiet"));
        said.done();
        ends_as_expected(&place.path(name), name, last);
    }
}

/// Trained from the start, too: seeds give the numbers that they gave.
#[test]
fn an_old_recipe_trains_what_it_trained() {
    let place = place();
    for (name, last, data) in RUNS {
        place.pretrain(&format!("{name}.toml {data} --out new-{name} --quiet")).done();
        ends_as_expected(&place.path(&format!("new-{name}")), name, last);
    }
}

fn scores(said: Said) -> Vec<(String, f64)> {
    let result: Value = serde_json::from_str(&said.done()).unwrap();
    let score = |score: &Value| {
        let text = |key: &str| score[key].as_str().unwrap().to_owned();
        (format!("{} {}", text("protocol"), text("metric")), score["value"].as_f64().unwrap())
    };
    result["scores"].as_array().unwrap().iter().map(score).collect()
}

#[test]
fn an_old_run_is_evaluated() {
    let place = place();
    for (name, _, data) in RUNS {
        for (what, tolerance) in [("knn", ACCURACY_TOLERANCE / 0.1), ("quality", TOLERANCE)] {
            let pixels = if what == "knn" { "--pixels" } else { "" };
            let said =
                place.nearkin(&format!("eval {what} {name} {data} {pixels} --device cpu --json"));
            let scores = scores(said);
            for expected in expected()[name][what].as_array().unwrap() {
                let protocol = expected[0].as_str().unwrap();
                let found = scores.iter().find(|score| score.0 == protocol);
                let (_, value) = found.unwrap_or_else(|| panic!("no {protocol} in {scores:?}"));
                close(protocol, &[*value], &[expected[1].as_f64().unwrap()], tolerance);
            }
        }
    }
}

#[test]
fn images_are_embedded_with_an_old_run() {
    let place = place();
    for (name, _, data) in RUNS {
        for (features, flags) in [
            ("backbone", ""),
            ("momentum_projection", "--momentum-encoder --projector --normalize"),
        ] {
            let command = format!(
                "embed {name} {data} --split test {flags} --out x.safetensors --device cpu"
            );
            place.nearkin(&command).done();
            let rows = load_embeddings(&place.path("x.safetensors"));
            for (row, expected) in
                rows.iter().zip(expected()[name]["embedded"][features].as_array().unwrap())
            {
                close(&format!("{name} {features}"), row, &numbers(expected), TOLERANCE);
            }
        }
    }
}

/// Rows of the tensor `embeddings`.
fn load_embeddings(path: &Path) -> Vec<Vec<f64>> {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("embeddings").unwrap();
    let width = tensor.shape()[1];
    let value = |four: &[u8]| f64::from(f32::from_le_bytes(four.try_into().unwrap()));
    tensor
        .data()
        .chunks_exact(4 * width)
        .map(|row| row.chunks_exact(4).map(value).collect())
        .collect()
}

/// timm has no ResNet of such a width, torchvision no transformer.
#[test]
fn the_encoder_of_an_old_run_is_exported() {
    let place = place();
    for (name, format) in
        [("sce", "torchvision"), ("sce", "onnx"), ("fnc", "timm"), ("fnc", "onnx")]
    {
        let out = format!("{name}-{format}");
        place.nearkin(&format!("export {name} --format {format} --out {out}")).done();
        assert!(fs::read_dir(place.path(&out)).unwrap().count() > 0);
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

#[test]
fn an_old_packed_file_has_the_same_pixels_and_labels() {
    let recipe = nearkin_recipe::Source::read(&fixtures().join("fnc.toml")).unwrap();
    let mut source = recipe.recipe().unwrap().data;
    source.set_path(fixtures().join("set.packed")).unwrap();
    let expected = &expected()["packed"];
    for (split, name) in [(Split::Train, "train"), (Split::Test, "test")] {
        let set = nearkin_data::open(&source, split).unwrap();
        let classes = expected["classes"].as_array().unwrap();
        assert!(set.classes().iter().eq(classes.iter().map(|class| class.as_str().unwrap())));
        let labels = expected[name]["labels"].as_array().unwrap();
        let labels = labels.iter().map(|label| label.as_u64().map(|label| label as usize));
        assert!((0..set.len()).map(|index| set.label(index)).eq(labels));
        let mut pixels = Vec::new();
        for index in 0..set.len() {
            pixels.extend_from_slice(set.image(index).unwrap().rgb());
        }
        assert_eq!(sha256(&pixels), expected[name]["pixels"].as_str().unwrap());
    }
    let said = place().nearkin("data inspect set.packed").done();
    for word in ["32", "12", "disc", "stripes"] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
}

/// A stored recipe leaves out keys that are newer than it, and those that had their default. They mean
/// what they meant then: should a default change, recipes without the key must still be read so.
#[test]
fn keys_that_a_stored_recipe_leaves_out_mean_what_they_meant() {
    use nearkin_recipe::{Place, Precision, StepForm, WarmUp};

    let recipe = nearkin_recipe::Source::read(&fixtures().join("sce/recipe.toml")).unwrap();
    let recipe = recipe.recipe().unwrap();
    assert!(recipe.limit_images.is_none() && recipe.bad_image_limit.is_none());
    assert_eq!(nearkin_data::tolerant::DEFAULT_LIMIT, 0.01);
    let training = &recipe.training;
    assert!(training.micro_batch_size.is_none() && training.mixing_blocks.is_none());
    assert!(training.tf32);
    assert_eq!((training.step, training.precision), (StepForm::WaitedFor, Precision::Single));
    assert_eq!(recipe.schedule.warmup, WarmUp::PeakAtLastStep);
    assert_eq!(recipe.augment.place, Place::Auto);
    assert!(recipe.model.predictor.is_empty());
}

/// A method may get a key after a run was begun: it has its default there, and the run goes on.
#[test]
fn a_run_goes_on_although_its_method_has_a_newer_key() {
    const KEY: &str = "strong_temperature = \"query\"\n";
    let place = Place::new();
    let views = TINY.split("[[views]]").last().unwrap();
    let recipe = tiny_with("name = \"sce\"", "name = \"clsa\"");
    let recipe = format!("{recipe}\n[[views]]{}", views.replace("strong", "stronger"));
    place.write("clsa.toml", recipe);
    place.pretrain("clsa.toml --out whole --quiet").done();
    place.pretrain("clsa.toml --out run --quiet").done();
    // As if it had been begun before the key, killed in its second epoch.
    fs::remove_dir_all(place.path("run/checkpoints/step-000000008")).unwrap();
    let stored = place.read("run/recipe.toml");
    assert!(stored.contains(KEY), "{stored}");
    place.write("run/recipe.toml", stored.replace(KEY, ""));
    let state = "run/checkpoints/step-000000004/state.json";
    let mut content: Value = serde_json::from_str(&place.read(state)).unwrap();
    let recipe = content["recipe"].as_str().unwrap().replace(KEY, "");
    content["recipe_digest"] = sha256(recipe.as_bytes()).into();
    content["recipe"] = recipe.into();
    content.as_object_mut().unwrap().retain(|key, _| !["files", "images"].contains(&key.as_str()));
    place.write(state, content.to_string());
    fs::remove_file(place.path("run/checkpoints/step-000000004/state.sha256")).unwrap();

    place.pretrain("--resume run --quiet").done();
    let weights = |run: &str| {
        fs::read(place.path(&format!("{run}/checkpoints/step-000000008/model.safetensors")))
            .unwrap()
    };
    assert_eq!(weights("run"), weights("whole"));
}
