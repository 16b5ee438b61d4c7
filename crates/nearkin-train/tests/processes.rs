//! Several processes train what one process trains.
//!
//! Losses that are scaled wrongly, gathers without gradients and statistics of half a batch all train
//! without an error, and badly. So every method is trained for ten steps by one process and by two
//! and three, in double precision: losses, the first gradient, and everything that a checkpoint
//! holds must agree.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nearkin_dist::testing::together;
use nearkin_dist::{SingleProcess, World};
use nearkin_recipe::Source;
use nearkin_report::{Kind, RunFolder, names, read_metrics};
use nearkin_train::{
    Interrupt, Machine, Outcome, Resume, Run, RunOptions, Setup, TrainError, load_tensors,
};
use tch::Tensor;
use toml::{Table, Value};

use crate::common::{recipes, shrink, table_of};

/// Divides by two and three processes, with at least two images left for a group of batch norm.
const BATCH: i64 = 12;
const STEPS: i64 = 10;

/// One recipe of every method, and all free combinations, tiny, with one step to an epoch.
fn tables() -> Vec<(String, Table)> {
    let mut seen = Vec::new();
    let mut tables = Vec::new();
    for (path, text) in recipes() {
        let mut table: Table = text.parse().unwrap();
        let method = table["method"]["name"].as_str().unwrap().to_owned();
        let vision_transformer =
            table["model"]["backbone"].as_str().is_some_and(|name| name.starts_with("vit"));
        let combination = method == "combination";
        if path.parent() == Some(Path::new("")) || vision_transformer {
            continue;
        }
        if seen.contains(&method) && !combination {
            continue;
        }
        shrink(&mut table, BATCH, STEPS);
        let training = table_of(&mut table, "training");
        training.insert("batch_size".into(), BATCH.into());
        training.insert("precision".into(), "double".into());
        training.insert("mixing_blocks".into(), 6.into());
        table_of(&mut table, "data").insert("train_images".into(), BATCH.into());
        // Other optimisers divide by what may be rounding errors only.
        let sgd = [("name", Value::from("sgd")), ("learning_rate", 0.001.into())];
        let sgd = Table::from_iter(sgd.map(|(key, value)| (key.to_owned(), value)));
        table.insert("optimizer".into(), sgd.into());
        if let Some(encoder) = table.get_mut("momentum_encoder").and_then(Value::as_table_mut)
            && encoder.contains_key("batch_norm_splits")
        {
            encoder.insert("batch_norm_splits".into(), 6.into());
            encoder.insert("shuffle".into(), true.into());
        }
        let name = path.with_extension("").display().to_string().replace('/', "-");
        if method == "simclr" {
            let mut accumulated = table.clone();
            table_of(&mut accumulated, "training").insert("accumulate_batches".into(), 2.into());
            let images = (2 * BATCH).into();
            table_of(&mut accumulated, "data").insert("train_images".into(), images);
            tables.push((format!("{name}-accumulated"), accumulated));
        }
        seen.push(method);
        tables.push((name, table));
    }
    tables
}

fn setup(table: &Table) -> Setup {
    let text = toml::to_string(table).unwrap();
    Setup::new(Source::parse("test", text).unwrap().recipe().unwrap()).unwrap()
}

fn options() -> RunOptions {
    let machine = Machine { workers: Some(0), threads: Some(1), ..Machine::default() };
    RunOptions { machine, quiet: true, ..RunOptions::default() }
}

fn train(table: &Table, run: &Path, world: Arc<dyn World>) -> Result<Outcome, TrainError> {
    let mut training = Run::new(setup(table), &Resume::New(run.to_owned()), options(), world)?;
    training.train(&Interrupt::default())
}

/// What a run wrote of its steps, and every tensor of its first and last checkpoint.
struct Written {
    losses: Vec<(f64, Vec<(String, f64)>)>,
    tensors: Vec<(String, Tensor)>,
}

fn written(run: &Path) -> Written {
    let run = RunFolder::open(run).unwrap();
    let records = read_metrics(&run.metrics()).unwrap();
    let steps = records.iter().filter(|record| record.kind == Kind::Step);
    let measures =
        ["reference_loss", "agreement", "positive_mass", "kin_mass", "kin_share", "label_distance"];
    let losses = steps
        .map(|record| {
            let measured = measures
                .iter()
                .filter_map(|&name| record.number(name).map(|value| (name.to_owned(), value)));
            (record.number(names::LOSS).unwrap(), measured.collect())
        })
        .collect();
    let mut tensors = Vec::new();
    for step in [1, STEPS] {
        let folder = run.checkpoints().join(format!("step-{step:09}"));
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().unwrap() == "safetensors") {
            let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
            for (name, tensor) in load_tensors(file).unwrap() {
                tensors.push((format!("step {step}: {stem} {name}"), tensor));
            }
        }
    }
    Written { losses, tensors }
}

fn assert_same(name: &str, one: &Written, other: &Written) {
    assert_eq!(one.losses.len(), STEPS as usize, "{name}");
    for (step, (one, other)) in one.losses.iter().zip(&other.losses).enumerate() {
        assert!((one.0 - other.0).abs() < 1e-8, "{name}, step {step}: {one:?} {other:?}");
        assert_eq!(one.1.len(), other.1.len(), "{name}, step {step}");
        for (one, other) in one.1.iter().zip(&other.1) {
            assert!((one.1 - other.1).abs() < 1e-8, "{name}, step {step}: {one:?} {other:?}");
        }
    }
    assert_eq!(one.tensors.len(), other.tensors.len(), "{name}");
    for (one, other) in one.tensors.iter().zip(&other.tensors) {
        assert_eq!(one.0, other.0, "{name}");
        // Rounding errors grow by about ten with every step through batch norms of twelve images.
        let tolerance = if one.0.starts_with("step 1:") { 1e-8 } else { 1e-6 };
        let apart = (&one.1 - &other.1).abs().max().double_value(&[]);
        let close = one.1.allclose(&other.1, tolerance, tolerance, false);
        assert!(close, "{name}: {} by {apart:e}", one.0);
    }
}

/// The folder in which the processes of a test find each other's runs.
fn place(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    // What a test that failed left behind, unless this is one of the processes themselves.
    if std::env::var_os("RANK").is_none() && folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    folder
}

/// Trains `by_many` by so many processes and `by_one` by this one, and compares each with the other of
/// its name.
fn every_method(
    test: &str,
    processes: usize,
    by_many: impl Fn() -> Vec<(String, Table)>,
    by_one: impl Fn() -> Vec<(String, Table)>,
) {
    let folder = place(test);
    if processes == 1 {
        for (name, table) in by_many() {
            train(&table, &folder.join(&name), SingleProcess::shared()).unwrap();
        }
    } else if let Some(world) = together(test, processes) {
        let world: Arc<dyn World> = Arc::new(world);
        for (name, table) in by_many() {
            let outcome = train(&table, &folder.join(&name), Arc::clone(&world));
            assert_eq!(outcome.unwrap(), Outcome::Finished, "{name}");
        }
        return;
    }
    let alone = tempfile::tempdir().unwrap();
    for (name, table) in by_one() {
        let run = alone.path().join(&name);
        train(&table, &run, SingleProcess::shared()).unwrap();
        assert_same(&name, &written(&run), &written(&folder.join(&name)));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn serial_two_processes_train_every_method_as_one_does() {
    every_method("serial_two_processes_train_every_method_as_one_does", 2, tables, tables);
}

#[test]
fn serial_three_processes_train_every_method_as_one_does() {
    every_method("serial_three_processes_train_every_method_as_one_does", 3, tables, tables);
}

/// The tables with networks in which no image knows of another, so that any micro-batches do.
fn without_batch_norm() -> Vec<(String, Table)> {
    let mut tables = tables();
    for (_, table) in &mut tables {
        let first = &table["views"].as_array().unwrap()[0];
        let transforms = first["transforms"].as_array().unwrap().iter();
        let mut sizes = transforms.filter_map(|transform| {
            transform.as_table().unwrap().values().find_map(|options| options.get("size"))
        });
        let size = sizes.next().unwrap().clone();
        let keys = [("image_size", size), ("patch_size", 8.into())];
        let small = [("depth", 2.into()), ("width", 8.into()), ("heads", 2.into())];
        let keys = keys.into_iter().chain(small).map(|(key, value)| (key.to_owned(), value));
        let model = table_of(table, "model");
        let mut heads: Table = model.clone();
        heads.retain(|key, _| key == "projector" || key == "predictor");
        for (_, layers) in &mut heads {
            for layer in layers.as_array_mut().unwrap() {
                layer.as_table_mut().unwrap().remove("batch_norm");
            }
        }
        *model = heads;
        model.insert("backbone".into(), "vit-tiny".into());
        model.insert("vision_transformer".into(), keys.collect::<Table>().into());
        if let Some(encoder) = table.get_mut("momentum_encoder").and_then(Value::as_table_mut) {
            encoder.retain(|key, _| !key.starts_with("batch_norm") && key != "shuffle");
            encoder.remove("split_projector");
        }
    }
    tables
}

/// The same in micro-batches of two images, whose activations are not kept.
fn with_gradient_caching() -> Vec<(String, Table)> {
    let mut tables = without_batch_norm();
    for (_, table) in &mut tables {
        table_of(table, "training").insert("micro_batch_size".into(), 2.into());
    }
    tables
}

#[test]
fn gradient_caching_trains_every_method_as_whole_batches_do() {
    let test = "gradient_caching_trains_every_method_as_whole_batches_do";
    every_method(test, 1, with_gradient_caching, without_batch_norm);
}

#[test]
fn serial_two_processes_with_gradient_caching_train_every_method_as_one_does() {
    let test = "serial_two_processes_with_gradient_caching_train_every_method_as_one_does";
    every_method(test, 2, with_gradient_caching, without_batch_norm);
}

#[test]
fn serial_three_processes_with_gradient_caching_train_every_method_as_one_does() {
    let test = "serial_three_processes_with_gradient_caching_train_every_method_as_one_does";
    every_method(test, 3, with_gradient_caching, without_batch_norm);
}

/// BYOL, whose loss knows of no image but its own, so that only batch norm joins the images of a
/// batch: in one step, of so many batches.
fn byol(batches: i64, synchronize: bool) -> Table {
    let (_, mut table) = tables()
        .into_iter()
        .find(|(_, table)| table["method"]["name"].as_str() == Some("byol"))
        .unwrap();
    let training = table_of(&mut table, "training");
    training.insert("batch_size".into(), (BATCH / batches).into());
    training.insert("accumulate_batches".into(), batches.into());
    training.insert("synchronize_batch_norm".into(), synchronize.into());
    table
}

/// Two processes, each with statistics of its own images, train what one process does that takes the
/// two halves of the batch one after the other. Running statistics are not compared: those of the
/// processes are averaged, those of the halves follow each other.
#[test]
fn serial_processes_with_statistics_of_their_own_train_as_halves_in_turn_do() {
    let test = "serial_processes_with_statistics_of_their_own_train_as_halves_in_turn_do";
    let folder = place(test);
    if let Some(world) = together(test, 2) {
        let outcome = train(&byol(1, false), &folder.join("run"), Arc::new(world));
        assert_eq!(outcome.unwrap(), Outcome::Finished);
        return;
    }
    let alone = tempfile::tempdir().unwrap();
    let by_one = |name: &str, table: &Table| {
        train(table, &alone.path().join(name), SingleProcess::shared()).unwrap();
        written(&alone.path().join(name))
    };
    let (mut halves, mut two) = (by_one("halves", &byol(2, true)), written(&folder.join("run")));
    for run in [&mut halves, &mut two] {
        run.tensors.retain(|(name, _)| !name.contains(".running_"));
    }
    assert_same("byol", &halves, &two);
    // Statistics of the whole batch are another training.
    let whole = by_one("whole", &byol(1, true));
    assert!((whole.losses[0].0 - two.losses[0].0).abs() > 1e-4, "{:?}", two.losses[0]);
    std::fs::remove_dir_all(folder).unwrap();
}

/// Eight bits of every factor differ by where they are cut off, not by more: statistics of batch norm
/// are exchanged with all digits. Batch norms of groups of two images soon make several percent of it.
#[test]
fn serial_two_processes_train_in_bfloat16_as_one_does() {
    let test = "serial_two_processes_train_in_bfloat16_as_one_does";
    let folder = place(test);
    let mut tables = tables().into_iter();
    let (_, mut table) = tables.find(|(name, _)| name.starts_with("sce")).unwrap();
    table_of(&mut table, "training").insert("precision".into(), "bfloat16".into());
    if let Some(world) = together(test, 2) {
        train(&table, &folder, Arc::new(world)).unwrap();
        return;
    }
    let alone = tempfile::tempdir().unwrap();
    train(&table, &alone.path().join("run"), SingleProcess::shared()).unwrap();
    let (one, two) = (written(&alone.path().join("run")), written(&folder));
    assert_eq!((one.losses.len(), two.losses.len()), (STEPS as usize, STEPS as usize));
    let losses = |run: &Written| -> Vec<f64> { run.losses.iter().map(|(loss, _)| *loss).collect() };
    let (one, two) = (losses(&one), losses(&two));
    for (one, two) in one.iter().zip(&two).take(3) {
        assert!((one - two).abs() < 0.02 * one, "{one} {two}");
    }
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!((mean(&one) - mean(&two)).abs() < 0.08 * mean(&one), "{one:?} {two:?}");
    std::fs::remove_dir_all(folder).unwrap();
}
