//! A run that is killed again and again ends with the weights of the unbroken run, bit by bit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Stdio};
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

/// Starts the recipe in a new run, with two threads, so that sums in parallel are put to the test.
fn begin(recipe: &Path, out: &Path) -> Command {
    command(&[path(recipe), "--out", path(out), "--threads", "2"])
}

/// Continues a run; it has to find its number of threads by itself.
fn resume(run: &Path) -> Command {
    command(&["--resume", path(run)])
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("nearkin"));
    command
        .arg("pretrain")
        .args(arguments)
        .args(["--device", "cpu", "--quiet"])
        .env("OMP_WAIT_POLICY", "passive")
        .stdout(Stdio::null());
    command
}

fn succeeds(mut command: Command) {
    assert!(command.status().unwrap().success());
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The last step in the metrics so far; 0 before there are any.
fn last_step(run: &Path) -> u64 {
    let records = read_metrics(&run.join("metrics.jsonl")).unwrap_or_default();
    records.last().map_or(0, |record| record.step)
}

/// Step, kind, and loss or accuracy of every record but events.
fn measured(run: &Path) -> Vec<(u64, Kind, f64)> {
    read_metrics(&run.join("metrics.jsonl"))
        .unwrap()
        .iter()
        .filter(|record| record.kind != Kind::Event)
        .map(|record| {
            let value = record.number(names::LOSS).or(record.number(names::ACCURACY)).unwrap();
            (record.step, record.kind, value)
        })
        .collect()
}

fn same_end(whole: &Path, broken: &Path, steps: u64, said: &str) {
    let last = format!("checkpoints/step-{steps:09}");
    for file in ["model", "momentum_encoder", "queue", "optimizer"] {
        let read = |run: &Path| {
            std::fs::read(run.join(&last).join(format!("{file}.safetensors"))).unwrap()
        };
        assert!(read(whole) == read(broken), "{file} differs; {said}");
    }
    assert_eq!(measured(whole), measured(broken), "{said}");
    let recorded = measured(whole).iter().filter(|record| record.1 == Kind::Step).count();
    assert_eq!(recorded as u64, steps);
}

#[test]
fn serial_killed_at_random_steps_a_run_ends_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let recipe = folder.path().join("recipe.toml");
    std::fs::write(&recipe, RECIPE).unwrap();
    succeeds(begin(&recipe, &whole));

    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("kills are drawn with seed {seed}");
    let mut random = Random::new(Purpose::Order, seed, 0, 0);
    let mut killed_at = Vec::new();
    while (killed_at.len() as u64) < KILLS {
        // The first kill may come before the first checkpoint, or even before the run folder.
        // The last ones stay well before the end, so that no run ends before its kill.
        let reach = (STEPS - 60) * (killed_at.len() as u64 + 1) / KILLS;
        let goal = last_step(&broken).min(reach) + random.below(STEPS as usize / 10) as u64;
        let begun = Instant::now();
        let mut child = match RunFolder::open(&broken) {
            Ok(_) => resume(&broken),
            Err(_) => begin(&recipe, &broken),
        }
        .spawn()
        .unwrap();
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
    succeeds(resume(&broken));

    same_end(&whole, &broken, STEPS, &format!("killed at {killed_at:?}, seed {seed}"));
}

#[test]
fn serial_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let recipe = folder.path().join("recipe.toml");
    std::fs::write(&recipe, RECIPE.replace("epochs = 50", "epochs = 30")).unwrap();
    succeeds(begin(&recipe, &whole));

    let child = begin(&recipe, &broken).stderr(Stdio::piped()).spawn().unwrap();
    while last_step(&broken) < 5 {
        std::thread::sleep(Duration::from_millis(2));
    }
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("nearkin pretrain --resume {}", path(&broken))), "{said}");

    let lock = RunFolder::open(&broken).unwrap().lock().unwrap();
    let busy = resume(&broken).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(busy.status.code(), Some(2));
    let said = String::from_utf8(busy.stderr).unwrap();
    assert!(said.contains("is being trained by another process"), "{said}");
    drop(lock);
    succeeds(resume(&broken));
    same_end(&whole, &broken, 120, &said);
}
