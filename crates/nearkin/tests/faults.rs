//! A campaign of faults: signals, full disks and damaged files, drawn at random, strike a run of one or
//! two processes at a moment drawn at random. Once the fault is gone, the run is resumed, and one thing has
//! to hold: it ends as the unbroken run does, bit by bit, or a message names the file that is in the way
//! and says what to do.
//!
//! `make faults ROUNDS=200 SEED=1` runs many rounds; the test does a few. A seed gives the same faults
//! again, though not at the same microsecond.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use nearkin_data::Random;
use nearkin_data::random::Purpose;
use nearkin_report::{Kind, RunFolder, names, read_metrics};

/// 8 epochs of 4 steps; a step has two batches of two micro-batches.
const RECIPE: &str = "
seed = 5
[data]
dataset = \"shapes\"
train_images = 128
test_images = 200
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
[queue]
size = 50
[training]
epochs = 8
batch_size = 16
micro_batch_size = 4
accumulate_batches = 2
record_every_steps = 1
[optimizer]
name = \"sgd\"
learning_rate = 0.1
weight_decay = 5e-4
[checkpoint]
every_epochs = 1
keep = 3
[evaluation]
every_epochs = 2
[[views]]
name = \"first\"
transforms = [{ random_resized_crop = { size = 16 } }, { horizontal_flip = {} }]
[[views]]
name = \"second\"
transforms = [{ random_resized_crop = { size = 16 } }, { color_jitter = { brightness = 0.4, hue = 0.2 } }]
";
const STEPS: u64 = 32;
const STEPS_PER_EPOCH: u64 = 4;

/// Processes wait so long for each other.
const TIMEOUT_SECONDS: u64 = 20;
/// Nothing may take longer than this, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(3);

const ROUNDS_OF_THE_TEST: u64 = 8;

/// Numbers of one round.
struct Draw(Random);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn milliseconds(&mut self, most: usize) -> Duration {
        Duration::from_micros(1000 * self.below(most + 1) as u64)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Signal {
    Term,
    Int,
    Hup,
    Usr1,
    Kill,
    /// The process stops, and is killed later.
    StopKill,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    Only,
    Launcher,
    Rank(usize),
    All,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    Start,
    Step,
    MicroBatch,
    Evaluation,
    Checkpoint,
    End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    BitFlip,
    Cut,
    Zeros,
    Deleted,
}

/// What a run folder can lose beside checkpoints.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Recipe,
    Events,
    Checkpoints,
    /// Zeros at the end, with and without a line break.
    MetricsZeroed,
    Environment,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Signal {
        signal: Signal,
        target: Target,
        moment: Moment,
    },
    /// No file may become longer than this many bytes.
    DiskFull {
        bytes: u64,
    },
    /// Of a file of the newest checkpoint.
    File {
        file: &'static str,
        damage: Damage,
    },
    Lost(Loss),
}

impl Fault {
    fn draw(draw: &mut Draw, processes: usize) -> Self {
        match draw.below(10) {
            0..5 => {
                use Moment::{Checkpoint, End, Evaluation, MicroBatch, Start, Step};
                use Signal::{Hup, Int, Kill, StopKill, Term, Usr1};
                let signal = draw.one(&[Term, Int, Hup, Usr1, Kill, StopKill]);
                let moment = draw.one(&[Start, Step, MicroBatch, Evaluation, Checkpoint, End]);
                let target = match processes {
                    1 => Target::Only,
                    _ => {
                        draw.one(&[Target::Launcher, Target::Rank(0), Target::Rank(1), Target::All])
                    }
                };
                Self::Signal { signal, target, moment }
            }
            // The smallest files have a few bytes, the largest tens of thousands.
            5 | 6 => Self::DiskFull { bytes: 1 << draw.below(18) },
            7 | 8 => {
                use Damage::{BitFlip, Cut, Deleted, Zeros};
                let file = draw.one(&[
                    "model.safetensors",
                    "momentum_encoder.safetensors",
                    "optimizer.safetensors",
                    "queue.safetensors",
                    "state.json",
                    "state.sha256",
                ]);
                Self::File { file, damage: draw.one(&[BitFlip, Cut, Zeros, Deleted]) }
            }
            _ => {
                use Loss::{Checkpoints, Environment, Events, MetricsZeroed, Recipe};
                Self::Lost(draw.one(&[Recipe, Events, Checkpoints, MetricsZeroed, Environment]))
            }
        }
    }

    /// For the counts.
    fn kind(self) -> String {
        match self {
            Self::Signal { signal, target, moment } => {
                let target = match target {
                    Target::Rank(_) => "one rank".to_owned(),
                    other => format!("{other:?}").to_lowercase(),
                };
                format!("{signal:?} / {target} / {moment:?}")
            }
            Self::DiskFull { .. } => "disk full".to_owned(),
            Self::File { file, damage } => format!("{damage:?} in {file}"),
            Self::Lost(loss) => format!("lost {loss:?}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskFull { bytes } => write!(formatter, "disk full at {bytes} bytes"),
            Self::Signal { target: Target::Rank(rank), .. } => {
                write!(formatter, "{} (rank {rank})", self.kind())
            }
            _ => formatter.write_str(&self.kind()),
        }
    }
}

/// A run of one round.
struct Run {
    folder: PathBuf,
    recipe: PathBuf,
    processes: usize,
}

impl Run {
    fn command(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("nearkin"));
        if self.processes > 1 {
            command.args(["launch", "--nproc", &self.processes.to_string(), "--"]);
        }
        let [recipe, folder] = [&self.recipe, &self.folder].map(|path| path.to_str().unwrap());
        command
            .args(["pretrain", recipe, "--out", folder, "--resume", "auto", "--quiet"])
            .args(["--device", "cpu", "--threads", "1", "--workers", "1"])
            .args(["--timeout-seconds", &TIMEOUT_SECONDS.to_string()])
            .env("OMP_NUM_THREADS", "1")
            .env("OMP_WAIT_POLICY", "passive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn last_step(&self) -> u64 {
        let records = read_metrics(&self.folder.join("metrics.jsonl")).unwrap_or_default();
        records.last().map_or(0, |record| record.step)
    }

    /// Complete checkpoints, oldest first.
    fn checkpoints(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.join("checkpoints")).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> =
            paths.filter(|path| file_name(path).starts_with("step-")).collect();
        paths.sort();
        paths
    }

    fn writes_checkpoint(&self) -> bool {
        let entries = fs::read_dir(self.folder.join("checkpoints")).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| file_name(&entry.path()).ends_with(".partial"))
    }

    /// Whether the record of an epoch that is evaluated is there, but not that of the evaluation.
    fn evaluates(&self) -> bool {
        let records = read_metrics(&self.folder.join("metrics.jsonl")).unwrap_or_default();
        records.last().is_some_and(|last| {
            last.kind == Kind::Epoch && last.step.is_multiple_of(2 * STEPS_PER_EPOCH)
        })
    }

    /// Bytes of the last checkpoint; losses and accuracies.
    fn end(&self) -> Result<End, String> {
        let last = self.folder.join(format!("checkpoints/step-{STEPS:09}"));
        let mut files = BTreeMap::new();
        for file in ["model", "momentum_encoder", "queue", "optimizer"] {
            let path = last.join(format!("{file}.safetensors"));
            files.insert(
                file,
                fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?,
            );
        }
        let records = read_metrics(&self.folder.join("metrics.jsonl"));
        let records = records.map_err(|error| error.to_string())?;
        let measured = records.iter().filter(|record| record.kind != Kind::Event);
        let measured = measured.map(|record| {
            let value = record.number(names::LOSS).or(record.number(names::ACCURACY));
            (record.step, record.kind, value.unwrap().to_bits())
        });
        Ok(End { files, measured: measured.collect() })
    }

    /// Until no process holds the run any more: those that a killed launcher left take a moment to end.
    fn wait_until_free(&self) -> Result<(), String> {
        if !self.folder.exists() {
            return Ok(());
        }
        let begun = Instant::now();
        while RunFolder::of_others(&self.folder).lock().is_err() {
            if begun.elapsed() > PATIENCE {
                return Err("processes still hold the run".to_owned());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

#[derive(PartialEq)]
struct End {
    files: BTreeMap<&'static str, Vec<u8>>,
    measured: Vec<(u64, Kind, u64)>,
}

impl End {
    fn differences(&self, other: &Self) -> Vec<String> {
        let files = self.files.iter().filter(|(name, bytes)| other.files[*name] != **bytes);
        let mut differences: Vec<String> =
            files.map(|(name, _)| format!("{name} differs")).collect();
        if self.measured != other.measured {
            let pairs = self.measured.iter().zip(&other.measured);
            let first = pairs.into_iter().find(|(one, other)| one != other);
            let counts = (self.measured.len(), other.measured.len());
            differences.push(format!("records differ: {counts:?}, first {first:?}"));
        }
        differences
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn ended(mut child: Child) -> Result<Output, String> {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            return Err(format!("it did not end: {}", String::from_utf8_lossy(&output.stderr)));
        }
        sleep(Duration::from_millis(5));
    }
    Ok(child.wait_with_output().unwrap())
}

fn finishes(run: &Run) -> Result<(), String> {
    let output = ended(run.command().spawn().unwrap())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

fn send(process: i32, signal: i32) {
    // SAFETY: a process that this test started, or one of its children; it may have ended.
    unsafe { libc::kill(process, signal) };
}

/// The processes that a launcher has started so far.
fn children(launcher: &Child) -> Vec<i32> {
    let list = format!("/proc/{0}/task/{0}/children", launcher.id());
    let text = fs::read_to_string(list).unwrap_or_default();
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// Waits for the moment, or for the end of the process.
fn wait_for(moment: Moment, run: &Run, child: &mut Child, draw: &mut Draw) {
    let after = draw.below(STEPS as usize - 4) as u64;
    let is_reached: Box<dyn Fn() -> bool> = match moment {
        Moment::Start => Box::new(|| true),
        Moment::Step | Moment::MicroBatch => Box::new(move || run.last_step() > after),
        Moment::Evaluation => Box::new(move || run.last_step() > after && run.evaluates()),
        Moment::Checkpoint => Box::new(move || run.last_step() > after && run.writes_checkpoint()),
        Moment::End => Box::new(|| run.last_step() >= STEPS),
    };
    let begun = Instant::now();
    while !is_reached() && child.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE {
        sleep(Duration::from_micros(200));
    }
    sleep(match moment {
        Moment::Start => draw.milliseconds(1500),
        Moment::MicroBatch => draw.milliseconds(40),
        Moment::Evaluation | Moment::Checkpoint => draw.milliseconds(3),
        Moment::Step | Moment::End => Duration::ZERO,
    });
}

fn strike(signal: Signal, target: Target, child: &Child) {
    let own = child.id() as i32;
    let ranks = children(child);
    let struck: Vec<i32> = match target {
        Target::Only | Target::Launcher => vec![own],
        Target::Rank(rank) => ranks.get(rank).copied().into_iter().collect(),
        Target::All => [own].into_iter().chain(ranks).collect(),
    };
    let all = |number| struck.iter().for_each(|&process| send(process, number));
    match signal {
        Signal::Term => all(libc::SIGTERM),
        Signal::Int => all(libc::SIGINT),
        Signal::Hup => all(libc::SIGHUP),
        Signal::Usr1 => all(libc::SIGUSR1),
        Signal::Kill => all(libc::SIGKILL),
        Signal::StopKill => {
            all(libc::SIGSTOP);
            sleep(Duration::from_millis(300));
            all(libc::SIGKILL);
        }
    }
}

fn damage(path: &Path, damage: Damage, draw: &mut Draw) {
    let length = fs::metadata(path).unwrap().len() as usize;
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    match damage {
        Damage::BitFlip => {
            let (at, mut byte) = (draw.below(length) as u64, [0]);
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << draw.below(8))], at).unwrap();
        }
        Damage::Cut => file.set_len(draw.below(length) as u64).unwrap(),
        Damage::Zeros => {
            let at = draw.below(length);
            file.write_all_at(&vec![0; (length - at).min(4096)], at as u64).unwrap();
        }
        Damage::Deleted => fs::remove_file(path).unwrap(),
    }
}

fn lose(run: &Run, loss: Loss, draw: &mut Draw) {
    let folder = RunFolder::of_others(&run.folder);
    match loss {
        Loss::Recipe => fs::remove_file(folder.recipe()).unwrap(),
        Loss::Events => fs::remove_dir_all(folder.events()).unwrap(),
        Loss::Checkpoints => fs::remove_dir_all(folder.checkpoints()).unwrap(),
        Loss::Environment => fs::write(folder.environment(), [0; 100]).unwrap(),
        Loss::MetricsZeroed => {
            let mut metrics = OpenOptions::new().append(true).open(folder.metrics()).unwrap();
            metrics.write_all(&vec![0; 1 + draw.below(4096)]).unwrap();
            metrics.write_all(draw.one(&[b"\n".as_slice(), b"".as_slice()])).unwrap();
        }
    }
}

/// Lets the fault strike; says whether it left a damaged file, which the resumed run has to name.
fn break_run(run: &Run, fault: Fault, draw: &mut Draw) -> Result<bool, String> {
    match fault {
        Fault::Signal { signal, target, moment } => {
            let mut child = run.command().spawn().unwrap();
            wait_for(moment, run, &mut child, draw);
            strike(signal, target, &child);
            let output = ended(child)?;
            let said = String::from_utf8_lossy(&output.stderr);
            if said.contains("panicked") || said.contains("internal error") {
                return Err(format!("it panicked: {said}"));
            }
            run.wait_until_free()?;
            Ok(false)
        }
        Fault::DiskFull { bytes } => {
            let mut command = run.command();
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            // SAFETY: both calls are safe between fork and exec, and change the child only.
            unsafe {
                command.pre_exec(move || {
                    // Without it, the limit is a signal and not an error of the call, as a full disk is.
                    libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                    match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
                        0 => Ok(()),
                        _ => Err(std::io::Error::last_os_error()),
                    }
                });
            }
            let output = ended(command.spawn().unwrap())?;
            let said = String::from_utf8_lossy(&output.stderr);
            if !output.status.success() && !said.contains("cannot write") {
                return Err(format!("no file is named: {said}"));
            }
            Ok(false)
        }
        Fault::File { .. } | Fault::Lost(_) => {
            let mut child = run.command().spawn().unwrap();
            // Sometimes there is one checkpoint only, sometimes all is trained.
            wait_for(
                draw.one(&[Moment::Step, Moment::Checkpoint, Moment::End]),
                run,
                &mut child,
                draw,
            );
            strike(Signal::Kill, Target::All, &child);
            ended(child)?;
            run.wait_until_free()?;
            // Without a checkpoint there is nothing to damage, and a run begins again.
            let Some(newest) = run.checkpoints().pop() else { return Ok(false) };
            match fault {
                Fault::File { file, damage: how } => {
                    let before = fs::read(newest.join(file)).unwrap();
                    damage(&newest.join(file), how, draw);
                    // Zeros may have been there before, and the name in state.sha256 means nothing.
                    let is_same = fs::read(newest.join(file)).is_ok_and(|after| {
                        after == before
                            || (file == "state.sha256" && after.get(..64) == before.get(..64))
                    });
                    return Ok(!is_same);
                }
                Fault::Lost(loss) => lose(run, loss, draw),
                Fault::Signal { .. } | Fault::DiskFull { .. } => {}
            }
            Ok(false)
        }
    }
}

/// Resumes the run to its end; where that is refused by name, with what the message says to do.
fn mend(run: &Run, is_damaged: bool, fault: Fault) -> Result<&'static str, String> {
    let output = ended(run.command().spawn().unwrap())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if let Fault::File { file, .. } = fault
        && is_damaged
    {
        // A damaged digest of state.json makes state.json the suspect.
        let file = if file == "state.sha256" { "state." } else { file };
        if !said.contains(file) {
            return Err(format!("{file} is not named: {said}"));
        }
    }
    if output.status.success() {
        return Ok(if is_damaged { "resumed from an older checkpoint" } else { "resumed" });
    }
    let remedy = format!("delete {}", run.folder.join("checkpoints").display());
    if !is_damaged || !said.contains(&remedy) {
        return Err(format!("it cannot be resumed: {}: {said}", output.status));
    }
    fs::remove_dir_all(run.folder.join("checkpoints")).unwrap();
    finishes(run)?;
    Ok("named, and begun again")
}

/// The number of that name in the environment.
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

#[test]
fn serial_a_run_survives_faults() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = asked("NEARKIN_FAULTS_SEED").unwrap_or(now.as_secs());
    let rounds = asked("NEARKIN_FAULTS").unwrap_or(ROUNDS_OF_THE_TEST);
    println!("{rounds} rounds of faults with seed {seed}");
    let place = tempfile::tempdir().unwrap();
    let recipe = place.path().join("recipe.toml");
    fs::write(&recipe, RECIPE).unwrap();
    let run = |name: &str, processes| Run {
        folder: place.path().join(name),
        recipe: recipe.clone(),
        processes,
    };
    let whole = [1, 2].map(|processes| {
        let run = run(&format!("whole-{processes}"), processes);
        finishes(&run).unwrap();
        run.end().unwrap()
    });
    let (mut counts, mut violations) = (BTreeMap::<String, usize>::new(), Vec::new());
    for round in 0..rounds {
        let mut draw = Draw(Random::new(Purpose::Order, seed, round, 0));
        let processes = 1 + draw.below(2);
        let fault = Fault::draw(&mut draw, processes);
        let run = run(&format!("round-{round}"), processes);
        let result = break_run(&run, fault, &mut draw).and_then(|is_damaged| {
            let step = run.last_step();
            let how = mend(&run, is_damaged, fault)?;
            let differences = run.end()?.differences(&whole[processes - 1]);
            if differences.is_empty() {
                Ok(format!("{how} after step {step}"))
            } else {
                Err(format!("{how} after step {step}, but {}", differences.join(", ")))
            }
        });
        let shown = match &result {
            Ok(how) => how.clone(),
            Err(violation) => format!("VIOLATION: {violation}"),
        };
        println!("round {round}: {fault}, {processes} process(es): {shown}");
        *counts.entry(fault.kind()).or_default() += 1;
        match result {
            Ok(_) => fs::remove_dir_all(&run.folder).unwrap(),
            Err(_) => violations.push(round),
        }
    }
    for (kind, count) in counts {
        println!("{count:5}  {kind}");
    }
    if !violations.is_empty() {
        let kept = place.keep();
        panic!("rounds {violations:?} of seed {seed}; their folders are in {}", kept.display());
    }
}
