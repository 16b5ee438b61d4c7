//! Every recipe of the project, whole and at a tiny size.
//!
//! A recipe is a promise: that it can be started as it stands, and that it trains what it says. With
//! some hundred of them nobody would notice one that a renamed key or a new check has broken. So all
//! files under `recipes/` are read here, whichever they are, and trained for two steps after their
//! table was cut down to drawn images of at most 32 pixels and networks of a few channels.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};

use nearkin_dist::SingleProcess;
use nearkin_recipe::Source;
use nearkin_report::{Kind, Record, RunFolder, names, read_metrics};
use nearkin_train::{Interrupt, Machine, Outcome, Resume, Run, RunOptions, Setup, load_tensors};
use tch::Tensor;
use toml::{Table, Value};

use crate::common::{recipes, shrink};

const EPOCHS: i64 = 2;
const BATCH: i64 = 8;

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
        let method = Path::new(entry.name);
        assert!(folders.iter().any(|folder| folder == method), "{} has none", entry.name);
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
        shrink(&mut table, BATCH, EPOCHS);
        let setup = setup(&name, toml::to_string(&table).unwrap());
        let resume = Resume::New(folder.path().join(number.to_string()));
        let machine = Machine { workers: Some(0), threads: Some(1), ..Machine::default() };
        let options = RunOptions { machine, quiet: true, ..RunOptions::default() };
        let training = Run::new(setup, &resume, options, SingleProcess::shared());
        assert!(training.is_ok(), "{shown}: {}", training.err().unwrap());
        let mut training = training.unwrap();
        let outcome = training.train(&Interrupt::default());
        assert_eq!(outcome.unwrap(), Outcome::Finished, "{shown}");

        let run = training.folder();
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
