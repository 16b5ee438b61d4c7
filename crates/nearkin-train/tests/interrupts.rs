//! Interrupted at any point, a run ends as if it had not been.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nearkin_dist::testing::together;
use nearkin_dist::{DistError, Reducer, SingleProcess, World};
use nearkin_recipe::Source;
use nearkin_report::{Kind, RunFolder, names, read_metrics};
use nearkin_train::{Interrupt, Machine, Outcome, Resume, Run, RunOptions, Setup};
use tch::{TchError, Tensor};

const SIGTERM: i32 = 15;

const RECIPE: &str = r#"
seed = 3
[data]
dataset = "shapes"
train_images = 64
test_images = 40
size_pixels = 16
[method]
name = "sce"
[momentum_encoder]
momentum = 0.9
[queue]
size = 20
[model]
backbone = "resnet18"
stem = "cifar"
base_width = 4
projector = [{ width = 16, batch_norm = "affine", relu = true }, { width = 8 }]
[training]
epochs = 3
batch_size = 16
record_every_steps = 1
[optimizer]
name = "sgd"
learning_rate = 0.1
[checkpoint]
every_epochs = 3
[evaluation]
every_epochs = 2
[[views]]
name = "first"
transforms = [{ random_resized_crop = { size = 16 } }, { horizontal_flip = {} }]
[[views]]
name = "second"
transforms = [{ random_resized_crop = { size = 16 } }, { color_jitter = { brightness = 0.4 } }]
"#;

fn setup(changes: &[&str]) -> Setup {
    let mut source = Source::parse("test", RECIPE.to_owned()).unwrap();
    for change in changes {
        source.set(&change.parse().unwrap()).unwrap();
    }
    Setup::new(source.recipe().unwrap()).unwrap()
}

/// A world whose process is asked to stop when all processes look for such a request for the n-th time,
/// counted from the first step: whatever is before, a continued run does anew. How often a process looks by
/// itself depends on how long it waits for a batch.
#[derive(Debug)]
struct Interrupting {
    world: Arc<dyn World>,
    interrupt: Interrupt,
    counts: AtomicBool,
    looks: AtomicUsize,
    interrupted_at: usize,
}

impl Interrupting {
    fn look(&self) {
        if !self.counts.load(Ordering::Relaxed) {
            return;
        }
        if self.looks.fetch_add(1, Ordering::Relaxed) + 1 == self.interrupted_at {
            self.interrupt.request(SIGTERM);
        }
    }
}

impl World for Interrupting {
    fn maximum(&self, number: i64) -> Result<i64, TchError> {
        self.look();
        self.world.maximum(number)
    }

    /// What is asked stays in the store, which serves all pieces here: the others learn of it where they agree.
    fn asked_to_stop(&self) -> Option<i32> {
        None
    }

    fn rank(&self) -> usize {
        self.world.rank()
    }

    fn size(&self) -> usize {
        self.world.size()
    }

    fn sum(&self, tensor: &mut Tensor) -> Result<(), TchError> {
        self.world.sum(tensor)
    }

    fn differentiable_sum(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        self.world.differentiable_sum(tensor)
    }

    fn gather(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        self.world.gather(rows)
    }

    fn broadcast(&self, tensor: &mut Tensor) -> Result<(), TchError> {
        self.world.broadcast(tensor)
    }

    fn share(&self, name: &str, message: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        self.world.share(name, message)
    }

    fn reducer(&self, parameters: &[Tensor]) -> Result<Box<dyn Reducer>, TchError> {
        self.world.reducer(parameters)
    }

    fn report(&self, at: &str) {
        self.counts.fetch_or(at.starts_with("step "), Ordering::Relaxed);
        self.world.report(at);
    }

    fn ask_to_stop(&self, _signal: i32) {}

    fn fail(&self, error: &str) {
        self.world.fail(error);
    }

    fn explain(&self, error: &str) -> Option<String> {
        self.world.explain(error)
    }
}

/// Trains until the end, or until the n-th look of the process of this rank; returns how often the
/// process looked.
fn piece(
    setup: Setup,
    run: &Path,
    world: &Arc<dyn World>,
    interrupted: (usize, usize),
) -> (Outcome, usize) {
    let (rank, interrupted_at) = interrupted;
    let interrupt = Interrupt::default();
    let world = Arc::new(Interrupting {
        world: Arc::clone(world),
        interrupt: interrupt.clone(),
        counts: AtomicBool::new(false),
        looks: AtomicUsize::new(0),
        interrupted_at: if world.rank() == rank { interrupted_at } else { 0 },
    });
    let resume = if run.join("recipe.toml").exists() {
        Resume::From(RunFolder::open(run).unwrap())
    } else {
        Resume::New(run.to_owned())
    };
    // Every process has to see the same folder.
    world.share("resume", b"").unwrap();
    let machine = Machine { workers: Some(1), threads: Some(1), ..Machine::default() };
    let options = RunOptions { machine, quiet: true, ..RunOptions::default() };
    let mut training = Run::new(setup, &resume, options, Arc::clone(&world) as _).unwrap();
    let outcome = training.train(&interrupt).unwrap();
    (outcome, world.looks.load(Ordering::Relaxed))
}

/// Trains a whole run, then others that stop after so many looks again and again.
fn in_pieces(
    folder: &Path,
    world: &Arc<dyn World>,
    rank: usize,
    changes: &[&str],
    sizes: &[usize],
) {
    let whole = folder.join("whole");
    let (outcome, looks) = piece(setup(changes), &whole, world, (rank, 0));
    assert_eq!(outcome, Outcome::Finished);
    for &size in sizes {
        let broken = folder.join(format!("every-{size}"));
        let mut pieces = 1;
        while let (Outcome::Interrupted { signal, .. }, _) =
            piece(setup(changes), &broken, world, (rank, size))
        {
            assert_eq!(signal, SIGTERM, "every process knows the signal");
            pieces += 1;
            assert!(pieces <= looks, "pieces of {size} looks do not come to an end");
        }
        assert!(pieces > 2, "{looks} looks make {pieces} pieces of {size}");
        if world.rank() == 0 {
            assert_same_end(&whole, &broken, &format!("{changes:?}, pieces of {size} looks"));
        }
    }
}

/// All files of the last checkpoint but its state, and what was measured on the way.
fn assert_same_end(whole: &Path, broken: &Path, what: &str) {
    let files = |run: &Path| -> Vec<(String, Vec<u8>)> {
        let mut checkpoints: Vec<PathBuf> = run
            .join("checkpoints")
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        checkpoints.sort();
        let entries = checkpoints.last().unwrap().read_dir().unwrap();
        let files = entries.map(|entry| entry.unwrap().path());
        let tensors = files.filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut files: Vec<_> =
            tensors.map(|path| (name(&path), std::fs::read(path).unwrap())).collect();
        files.sort();
        files
    };
    for (one, other) in files(whole).iter().zip(files(broken)) {
        assert_eq!(one.0, other.0, "{what}");
        assert!(one.1 == other.1, "{what}: {} differs", one.0);
    }
    assert_eq!(measured(whole), measured(broken), "{what}");
}

/// Step, kind and loss or accuracy of every record but events.
fn measured(run: &Path) -> Vec<(u64, Kind, f64)> {
    let records = read_metrics(&run.join("metrics.jsonl")).unwrap();
    let records = records.iter().filter(|record| record.kind != Kind::Event);
    let value = |record: &nearkin_report::Record| {
        record.number(names::LOSS).or(record.number(names::ACCURACY)).unwrap()
    };
    records.map(|record| (record.step, record.kind, value(record))).collect()
}

#[test]
fn a_run_that_stops_at_any_stop_point_ends_as_the_unbroken_one() {
    let alone: Arc<dyn World> = SingleProcess::shared();
    for (name, changes, sizes) in [
        ("plain", &[] as &[&str], [15, 22]),
        ("divided", &["training.accumulate_batches=2", "training.micro_batch_size=4"], [67, 88]),
        ("late", &["training.step=read_late", "training.record_every_steps=3"], [15, 22]),
        ("symmetric", &["method.symmetric=true"], [19, 25]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        println!("{name}");
        in_pieces(folder.path(), &alone, 0, changes, &sizes);
    }
}

/// Only the second process is asked to stop.
fn two_processes(test: &str, changes: &[&str], sizes: &[usize]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    // What a test that failed left behind, unless this is one of the processes themselves.
    if std::env::var_os("RANK").is_none() && folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    if let Some(world) = together(test, 2) {
        let world: Arc<dyn World> = Arc::new(world);
        in_pieces(&folder, &world, 1, changes, sizes);
        return;
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn serial_two_processes_of_which_one_is_asked_stop_at_the_same_point() {
    let test = "serial_two_processes_of_which_one_is_asked_stop_at_the_same_point";
    two_processes(test, &[], &[19, 26]);
}

#[test]
fn serial_two_processes_stop_at_the_same_micro_batch() {
    let test = "serial_two_processes_stop_at_the_same_micro_batch";
    let divided = ["training.accumulate_batches=2", "training.micro_batch_size=4"];
    two_processes(test, &divided, &[53]);
}
