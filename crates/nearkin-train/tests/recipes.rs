//! Every recipe of the project, whole and at a tiny size.
//!
//! A recipe is a promise: that it can be started as it stands, and that it trains what it says. With
//! some hundred of them nobody would notice one that a renamed key or a new check has broken. So all
//! files under `recipes/` are read here, whichever they are, and trained for two steps after their
//! table was cut down to drawn images of at most 32 pixels and networks of a few channels.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nearkin_dist::Alone;
use nearkin_recipe::Source;
use nearkin_report::{Kind, Record, RunFolder, names, read_metrics};
use nearkin_train::{Outcome, Resume, RunOptions, Setup, Trainer, load_tensors};
use tch::{Device, Tensor};
use toml::{Table, Value};

const WIDEST_LAYER: i64 = 16;
const LONGEST_QUEUE: i64 = 32;
const BATCH: i64 = 8;
const EPOCHS: i64 = 2;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes")
}

/// Paths relative to `recipes/`, in order, with the texts.
fn recipes() -> Vec<(PathBuf, String)> {
    let (mut folders, mut files) = (vec![root()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                files.push(path);
            }
        }
    }
    files.sort();
    let named = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().to_owned(), text)
    };
    files.into_iter().map(named).collect()
}

fn setup(name: &Path, text: String) -> Setup {
    let recipe = Source::parse(&name.display().to_string(), text).unwrap().recipe().unwrap();
    let setup = Setup::new(recipe);
    assert!(setup.is_ok(), "{}: {}", name.display(), setup.err().unwrap());
    setup.unwrap()
}

#[test]
fn every_recipe_says_what_it_is_and_fits_its_method() {
    for (name, text) in recipes() {
        let shown = name.display();
        let header: String = text.lines().take_while(|line| line.starts_with("# ")).collect();
        assert!(header.len() > 80, "{shown} begins with no comment that says what it is");
        let method = setup(&name, text).method_name().to_owned();
        let folder = name.parent().unwrap();
        let elsewhere = folder != Path::new("") && folder != Path::new(&method);
        assert!(!elsewhere, "{shown} trains {method}: its folder should be recipes/{method}");
    }
}

#[test]
fn every_method_has_a_recipe() {
    let folders: Vec<PathBuf> =
        recipes().iter().map(|(name, _)| name.parent().unwrap().to_owned()).collect();
    for entry in nearkin_objective::methods() {
        let method = Path::new(entry.card.name);
        assert!(folders.iter().any(|folder| folder == method), "{} has none", entry.card.name);
    }
}

fn table_of<'a>(table: &'a mut Table, key: &str) -> &'a mut Table {
    let entry = table.entry(key).or_insert_with(|| Table::new().into());
    entry.as_table_mut().unwrap()
}

fn at_most(table: &mut Table, key: &str, largest: i64) {
    if let Some(Value::Integer(value)) = table.get_mut(key) {
        *value = largest.min(*value);
    }
}

/// From 224 pixels to 32 and from 32 to 16, so that views of different sizes stay different.
fn cut_size(size: &mut Value) {
    if let Value::Integer(size) = size
        && *size > 16
    {
        *size = (*size / 7).max(16);
    }
}

fn cut_sizes(transforms: &mut Value) {
    for transform in transforms.as_array_mut().unwrap() {
        for (_, options) in transform.as_table_mut().unwrap() {
            options.get_mut("size").into_iter().for_each(cut_size);
        }
    }
}

/// The recipe at a size that trains in a moment; what is not named here stays as it was.
fn shrink(table: &mut Table) {
    table.remove("limit_images");
    let splits = table.get("momentum_encoder").and_then(|encoder| encoder.get("batch_norm_splits"));
    let batch = BATCH.max(2 * splits.and_then(Value::as_integer).unwrap_or(1));

    let data = Table::from_iter([
        ("dataset".to_owned(), "shapes".into()),
        ("train_images".to_owned(), batch.into()),
        ("size_pixels".to_owned(), 32.into()),
    ]);
    table.insert("data".to_owned(), data.into());

    let model = table_of(table, "model");
    if let Some(Value::Table(transformer)) = model.get_mut("vision_transformer") {
        transformer.get_mut("image_size").into_iter().for_each(cut_size);
        for (key, value) in [("depth", 2), ("width", 8), ("heads", 2)] {
            transformer.insert(key.to_owned(), value.into());
        }
    } else {
        model.insert("base_width".to_owned(), 4.into());
    }
    for part in ["projector", "predictor"] {
        for layer in model.get_mut(part).and_then(Value::as_array_mut).into_iter().flatten() {
            at_most(layer.as_table_mut().unwrap(), "width", WIDEST_LAYER);
        }
    }
    if let Some(queue) = table.get_mut("queue") {
        at_most(queue.as_table_mut().unwrap(), "size", LONGEST_QUEUE);
    }

    let training = table_of(table, "training");
    training.remove("accumulate_batches");
    training.insert("epochs".to_owned(), EPOCHS.into());
    training.insert("batch_size".to_owned(), batch.into());
    training.insert("record_every_steps".to_owned(), 1.into());
    // Weights may change for what the loss says about them only.
    table_of(table, "optimizer").insert("weight_decay".to_owned(), 0.0.into());
    table_of(table, "schedule").insert("warmup_epochs".to_owned(), 0.into());
    let checkpoint = table_of(table, "checkpoint");
    checkpoint.insert("every_epochs".to_owned(), 1.into());
    checkpoint.insert("keep".to_owned(), EPOCHS.into());

    let evaluation = table_of(table, "evaluation");
    evaluation.insert("every_epochs".to_owned(), 0.into());
    evaluation.get_mut("transforms").into_iter().for_each(cut_sizes);
    for view in table.get_mut("views").and_then(Value::as_array_mut).into_iter().flatten() {
        view.get_mut("transforms").into_iter().for_each(cut_sizes);
    }
}

/// MoCo v3 keeps the patch projection of its transformers as it was drawn.
fn is_frozen(table: &Table, name: &str) -> bool {
    let transformer = table["model"].get("vision_transformer");
    let frozen = transformer.and_then(|keys| keys.get("frozen_patch_projection"));
    frozen.and_then(Value::as_bool) == Some(true) && name == "backbone.patch_embed.proj.weight"
}

/// The online encoder after each step.
fn weights_by_step(run: &RunFolder) -> Vec<Vec<(String, Tensor)>> {
    let mut checkpoints: Vec<PathBuf> = std::fs::read_dir(run.checkpoints())
        .unwrap()
        .map(|entry| entry.unwrap().path().join("model.safetensors"))
        .filter(|model| model.exists())
        .collect();
    checkpoints.sort();
    checkpoints.iter().map(|model| load_tensors(model).unwrap().into_iter().collect()).collect()
}

#[test]
fn every_recipe_learns_with_all_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (name, text)) in recipes().into_iter().enumerate() {
        let shown = name.display();
        let mut table: Table = text.parse().unwrap();
        shrink(&mut table);
        let setup = setup(&name, toml::to_string(&table).unwrap());
        let resume = Resume::New(folder.path().join(number.to_string()));
        let options = RunOptions {
            device: Device::Cpu,
            workers: 0,
            threads: Some(1),
            quiet: true,
            environment: serde_json::json!({}),
        };
        let trainer = Trainer::new(setup, &resume, options, Box::new(Alone));
        assert!(trainer.is_ok(), "{shown}: {}", trainer.err().unwrap());
        let mut trainer = trainer.unwrap();
        let outcome = trainer.run(&Arc::new(AtomicBool::new(false)));
        assert_eq!(outcome.unwrap(), Outcome::Finished, "{shown}");

        let run = trainer.run_folder();
        let records = read_metrics(&run.metrics()).unwrap();
        let losses: Vec<f64> = records
            .iter()
            .filter(|record| record.kind == Kind::Step)
            .map(|record: &Record| record.number(names::LOSS).unwrap())
            .collect();
        assert_eq!(losses.len(), EPOCHS as usize, "{shown}");
        assert!(losses.iter().all(|loss| loss.is_finite()), "{shown}: {losses:?}");

        // Not from the start: where residual blocks start as the identity, a first step moves no more
        // than what lets them be something else. Nor biases: the batch norm of a predictor takes that
        // of the projector away.
        let weights = weights_by_step(run);
        let [first, second] = weights.as_slice() else {
            panic!("{shown}: {} checkpoints", weights.len());
        };
        for (before, after) in first.iter().zip(second) {
            let learns =
                before != after || !before.0.ends_with(".weight") || is_frozen(&table, &before.0);
            assert!(learns, "{shown}: {} does not learn", before.0);
        }
        std::fs::remove_dir_all(run.path()).unwrap();
    }
}
