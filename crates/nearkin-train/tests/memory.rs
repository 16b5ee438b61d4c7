//! A long run takes no more memory than a short one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nearkin_dist::SingleProcess;
use nearkin_recipe::Source;
use nearkin_report::read_metrics;
use nearkin_train::{Interrupt, Machine, Outcome, Resume, Run, RunOptions, Setup};

const RECIPE: &str = "
[data]
dataset = \"shapes\"
train_images = 64
test_images = 32
size_pixels = 16
[method]
name = \"sce\"
[model]
backbone = \"resnet18\"
stem = \"cifar\"
base_width = 4
projector = [{ width = 16, batch_norm = \"affine\", relu = true }, { width = 8 }]
[momentum_encoder]
momentum = 0.9
[queue]
size = 64
[training]
epochs = 100
batch_size = 16
[optimizer]
name = \"sgd\"
learning_rate = 0.05
[checkpoint]
every_epochs = 10
[evaluation]
every_epochs = 10
neighbours = [{ k = 5, temperature = 0.1 }]
[[views]]
name = \"first\"
transforms = [{ random_resized_crop = { size = 16 } }]
[[views]]
name = \"second\"
transforms = [{ random_resized_crop = { size = 16 } }, { horizontal_flip = {} }]
";
const STEPS: u64 = 400;
/// By then every buffer was used, and there were two evaluations and two checkpoints.
const WARM: u64 = 100;
/// The views of a batch take 96 KiB, and the weights 170 KiB: if either were kept, the 300 steps between
/// would take more. The C library's allocator holds a few MiB more or less by chance.
const BOUND: u64 = 24 << 20;

/// Resident memory, in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    4096 * pages
}

fn step(run: &Path) -> u64 {
    let records = read_metrics(&run.join("metrics.jsonl")).unwrap_or_default();
    records.last().map_or(0, |record| record.step)
}

#[test]
fn resident_memory_does_not_grow_with_the_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let recipe = Source::parse("test", RECIPE.to_owned()).unwrap().recipe().unwrap();
    let machine = Machine { workers: Some(1), threads: Some(1), ..Machine::default() };
    let options = RunOptions { machine, quiet: true, ..RunOptions::default() };
    let resume = Resume::New(run.clone());
    let setup = Setup::new(recipe).unwrap();
    let mut training = Run::new(setup, &resume, options, SingleProcess::shared()).unwrap();

    let done = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (done, run) = (Arc::clone(&done), run.clone());
        move || {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                seen.push((step(&run), resident()));
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        }
    });
    let outcome = training.train(&Interrupt::default());
    let at_the_end = resident();
    done.store(true, Ordering::Relaxed);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert_eq!(step(&run), STEPS);
    let seen = watcher.join().unwrap();
    let warm = seen.iter().find(|(step, _)| *step >= WARM).unwrap().1;
    let most = seen.iter().map(|entry| entry.1).max().unwrap().max(at_the_end);
    let grown = most.saturating_sub(warm);
    assert!(grown < BOUND, "{grown} bytes more than after {WARM} steps ({warm} bytes)");
}
