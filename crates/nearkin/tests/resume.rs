//! A run that is killed again and again ends with the weights of the unbroken run, bit by bit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nearkin_data::Random;
use nearkin_data::random::Purpose;
use nearkin_report::{Kind, RunFolder, names, read_metrics};

const RECIPE: &str = "
seed = 1
[data]
dataset = \"shapes\"
train_images = 64
test_images = 20
size_pixels = 16
[method]
name = \"sce\"
[model]
backbone = \"resnet18\"
stem = \"cifar\"
base_width = 4
projector = [{ width = 16, batch_norm = \"affine\", relu = true }, { width = 8 }]
[momentum_encoder]
momentum = 0.95
schedule = \"cosine\"
batch_norm_splits = 4
shuffle = true
[queue]
size = 50
[training]
epochs = 50
batch_size = 16
record_every_steps = 1
[optimizer]
name = \"sgd\"
learning_rate = 0.1
weight_decay = 5e-4
[schedule]
warmup_epochs = 3
[checkpoint]
every_epochs = 1
every_minutes = 0.002
[evaluation]
every_epochs = 20
[[views]]
name = \"first\"
transforms = [{ random_resized_crop = { size = 16 } }, { horizontal_flip = {} }]
[[views]]
name = \"second\"
transforms = [{ random_resized_crop = { size = 16 } }, { color_jitter = { brightness = 0.4, hue = 0.2 } }]
";
const STEPS: u64 = 200;
const KILLS: u64 = 12;

fn pretrain(arguments: &[&str]) -> Child {
    Command::new(assert_cmd::cargo::cargo_bin!("nearkin"))
        .arg("pretrain")
        .args(arguments)
        // Two threads, so that sums in parallel are put to the test too.
        .args(["--device", "cpu", "--threads", "2", "--quiet"])
        .env("OMP_WAIT_POLICY", "passive")
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The last step in the metrics so far; 0 before there are any.
fn last_step(run: &Path) -> u64 {
    let records = read_metrics(&run.join("metrics.jsonl")).unwrap_or_default();
    records.last().map_or(0, |record| record.step)
}

fn steps_and_losses(run: &Path) -> Vec<(u64, f64)> {
    read_metrics(&run.join("metrics.jsonl"))
        .unwrap()
        .iter()
        .filter(|record| record.kind == Kind::Step)
        .map(|record| (record.step, record.number(names::LOSS).unwrap()))
        .collect()
}

#[test]
fn serial_killed_at_random_steps_a_run_ends_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let recipe = folder.path().join("recipe.toml");
    std::fs::write(&recipe, RECIPE).unwrap();
    assert!(pretrain(&[path(&recipe), "--out", path(&whole)]).wait().unwrap().success());

    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("kills are drawn with seed {seed}");
    let mut random = Random::new(Purpose::Order, seed, 0, 0);
    let mut killed_at = Vec::new();
    while (killed_at.len() as u64) < KILLS {
        // The first kill may come before the first checkpoint, or even before the run folder.
        let reach = (STEPS - 10) * (killed_at.len() as u64 + 1) / KILLS;
        let goal = last_step(&broken).min(reach) + random.below(STEPS as usize / 10) as u64;
        let begun = Instant::now();
        let mut child = match RunFolder::open(&broken) {
            Ok(_) => pretrain(&["--resume", path(&broken)]),
            Err(_) => pretrain(&[path(&recipe), "--out", path(&broken)]),
        };
        // Records of steps after the checkpoint disappear when the run goes on, then come again.
        let before =
            std::fs::metadata(broken.join("metrics.jsonl")).and_then(|m| m.modified()).ok();
        loop {
            let now =
                std::fs::metadata(broken.join("metrics.jsonl")).and_then(|m| m.modified()).ok();
            if now != before && last_step(&broken) >= goal {
                break;
            }
            assert!(child.try_wait().unwrap().is_none(), "the run ended before step {goal}");
            assert!(begun.elapsed() < Duration::from_mins(5), "no step {goal} in 5 minutes");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "it ended before it could be killed");
        killed_at.push(last_step(&broken));
    }
    println!("killed at {killed_at:?}");
    assert!(pretrain(&["--resume", path(&broken)]).wait().unwrap().success());

    let last = format!("checkpoints/step-{STEPS:09}");
    for file in ["model", "momentum_encoder", "queue", "optimizer"] {
        let read = |run: &Path| {
            std::fs::read(run.join(&last).join(format!("{file}.safetensors"))).unwrap()
        };
        assert!(
            read(&whole) == read(&broken),
            "{file} differs; killed at {killed_at:?}, seed {seed}"
        );
    }
    assert_eq!(steps_and_losses(&whole), steps_and_losses(&broken), "seed {seed}");
    assert_eq!(steps_and_losses(&whole).len() as u64, STEPS);
}
