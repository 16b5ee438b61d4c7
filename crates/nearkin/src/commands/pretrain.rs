//! `nearkin pretrain`

use std::ffi::OsString;
use std::fmt::Write;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use nearkin_dist::World;
use nearkin_model::{DeviceChoice, Encoder, load_backbone};
use nearkin_recipe::{Override, Recipe};
use nearkin_report::{
    Kind, Record, RunFolder, Verdict, flop_rate, memory, names, percent, read_metrics, table,
};
use nearkin_train::{
    Baselines, Interrupt, Machine, Outcome, Resume, Run, RunOptions, Setup, batch_file,
    refuse_changes, restore_recipe,
};
use sha2::{Digest, Sha256};

use super::{Count, as_launched, bad_input, hint_at_moved_data, read_setup};
use crate::output::{print, program, say};
use crate::signals;

/// TOML has no larger integer.
const LARGEST_SEED: u64 = i64::MAX as u64;

/// Train an encoder as a recipe says, or continue a run.
#[derive(Args)]
#[command(
    after_help = "The run folder holds the resolved recipe (recipe.toml), metrics.jsonl, TensorBoard events,\n\
    checkpoints and report.html. Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 stop the run with a\n\
    checkpoint; a second Ctrl-C or SIGTERM, more than a second later, stops it at once.\n\n\
    Examples:\n  \
    nearkin pretrain recipes/demo.toml\n  \
    nearkin pretrain recipes/sce/cifar10-small.toml --data cifar-10-batches-bin --out runs/sce\n  \
    nearkin pretrain recipes/sce/cifar10.toml --data DIR --set method.coefficient=0.3 --seed 1\n  \
    nearkin pretrain --resume runs/sce\n  \
    nearkin pretrain recipes/demo.toml --dump-batches 3 batches\n  \
    nearkin launch --nproc 2 -- pretrain RECIPE --data DIR --out runs/sce --resume auto"
)]
pub(crate) struct Arguments {
    /// The recipe, a TOML file. Not needed with --resume RUN.
    recipe: Option<PathBuf>,
    /// Where the images are.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// The run's folder; if absent, a new one under runs/.
    #[arg(long, value_name = "RUN")]
    out: Option<PathBuf>,
    /// Start with the backbone of this file, made by `nearkin import`, `nearkin export` or a run.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Override a key of the recipe, for example optimizer.learning_rate=0.03. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    changes: Vec<Override>,
    /// Continue the run in this folder (or in --out) from its newest checkpoint, bit by bit. With
    /// `auto`, continue the run in --out if it was begun, else begin it.
    #[arg(long, value_name = "RUN", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "clap's form of a flag with an optional value")]
    resume: Option<Option<PathBuf>>,
    /// auto (the first CUDA device if there is one), cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Seed of every random number (overrides the recipe's seed).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=LARGEST_SEED))]
    seed: Option<u64>,
    /// Train on this many images, drawn with the seed (overrides limit_images).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit_images: Option<u64>,
    /// Number of epochs (overrides training.epochs).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: Option<u64>,
    /// Threads that read and augment images; no result depends on it. auto: chosen with --threads,
    /// and 1 beside a given number of threads.
    #[arg(long, value_name = "N", default_value = "auto")]
    workers: Count<0>,
    /// Threads of libtorch. auto: what the resumed run began with; for a new run the split of the
    /// cores between the two that is measured to be fastest.
    #[arg(long, value_name = "N", default_value = "auto")]
    threads: Count<1>,
    /// With several processes: how long each waits for the others before it gives up.
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_seconds: u64,
    /// Write the first N batches of the run into DIR, as the networks get them, and train nothing: one
    /// safetensors file each, with pixels, indices and labels. With --resume, the next N batches.
    #[arg(long, value_names = ["N", "DIR"], num_args = 2, action = clap::ArgAction::Set)]
    dump_batches: Option<Vec<OsString>>,
    /// Show no progress.
    #[arg(long)]
    quiet: bool,
}

/// What --dump-batches asks for.
struct Dump {
    batches: NonZeroU64,
    folder: PathBuf,
}

/// The value of `--resume` that leaves it to the folder.
const AUTO: &str = "auto";

impl Arguments {
    fn overrides(&self) -> anyhow::Result<Vec<Override>> {
        let numbers = [
            ("seed", self.seed),
            ("limit_images", self.limit_images),
            ("training.epochs", self.epochs),
        ];
        let mut overrides = self.changes.clone();
        for (key, value) in numbers {
            if let Some(value) = value {
                overrides.push(format!("{key}={value}").parse()?);
            }
        }
        Ok(overrides)
    }

    fn dump(&self) -> anyhow::Result<Option<Dump>> {
        let Some([batches, folder]) = self.dump_batches.as_deref() else { return Ok(None) };
        let batches = batches.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
            let text = batches.display();
            bad_input(format!(
                "--dump-batches {text}: expected a whole number above 0, then a folder"
            ))
        })?;
        Ok(Some(Dump { batches, folder: folder.into() }))
    }

    /// The run to continue, if one is. Only the first of several processes may tidy up its folder, while
    /// the others wait.
    fn resumed(&self, world: &dyn World) -> anyhow::Result<Option<RunFolder>> {
        let Some(resume) = &self.resume else { return Ok(None) };
        let auto = resume.as_deref() == Some(Path::new(AUTO));
        if resume.is_some() && !auto && self.out.is_some() {
            return Err(bad_input("a run continues in its own folder: leave out --out"));
        }
        if auto && (self.out.is_none() || self.recipe.is_none()) {
            return Err(bad_input(
                "--resume auto needs the recipe and, as --out, the folder of the run to begin or \
                 continue",
            ));
        }
        let path = resume.as_ref().filter(|_| !auto).or(self.out.as_ref()).ok_or_else(|| {
            bad_input("--resume needs the folder of the run to continue: --resume RUN")
        })?;
        let run = RunFolder::of_others(path);
        let first = world.rank() == 0;
        if first && let Some(note) = restore_recipe(&run)? {
            say(&format!("warning: {note}"));
        }
        world.share("mended run", b"")?;
        if auto && !run.recipe().exists() {
            return Ok(None);
        }
        Ok(Some(if first { RunFolder::open(path)? } else { run }))
    }
}

/// Said when the first signal comes.
const NOTICE: &str = "\nstopping with a checkpoint; another signal stops at once\n";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let dump = arguments.dump()?;
    signals::handle()?;
    as_launched(arguments.device, arguments.timeout_seconds, |device, here, world| match &dump {
        Some(dump) => dump_batches(arguments, dump, device, here, world),
        None => train(arguments, device, here, world),
    })
}

/// Writes batches of the run that the arguments describe, whose folder is not made for it.
fn dump_batches(
    arguments: &Arguments,
    dump: &Dump,
    device: tch::Device,
    processes_here: NonZeroUsize,
    world: &Arc<dyn World>,
) -> anyhow::Result<ExitCode> {
    let (rank, processes) = (world.rank(), world.size());
    let (setup, mut resume) = plan(arguments, world.as_ref())?;
    let first_file = dump.folder.join(batch_file(1, rank, processes));
    if first_file.exists() {
        let path = first_file.display();
        return Err(bad_input(format!("{path} exists: give --dump-batches another folder")));
    }
    if let Err(error) = std::fs::create_dir_all(&dump.folder) {
        let (batches, folder) = (dump.batches, dump.folder.display());
        let message =
            format!("--dump-batches {batches} {folder}: cannot make this folder: {error}");
        return Err(bad_input(message));
    }
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    if matches!(resume, Resume::New(_) | Resume::NewNumbered(_)) {
        resume = Resume::New(scratch.path().join("run"));
    }
    let machine = Machine {
        device,
        workers: arguments.workers.0.or(Some(loader_threads(processes_here))),
        threads: arguments.threads.0.or(Some(1)),
        processes_here,
    };
    let options = RunOptions { machine, quiet: true, environment: environment(device) };
    let mut run = Run::new(setup, &resume, options, Arc::clone(world))?;
    let written = run.dump_batches(dump.batches, &dump.folder)?;
    if rank == 0 && !arguments.quiet {
        let folder = dump.folder.display();
        let end = if written < dump.batches.get() { ", all that the run has" } else { "" };
        print(&format!("wrote {written} batch(es) to {folder}{end}; nothing was trained\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One loader thread for each core of this process.
fn loader_threads(processes_here: NonZeroUsize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (cores / processes_here).max(1)
}

fn train(
    arguments: &Arguments,
    device: tch::Device,
    processes_here: NonZeroUsize,
    world: &Arc<dyn World>,
) -> anyhow::Result<ExitCode> {
    let first = world.rank() == 0;
    let (setup, resume) = plan(arguments, world.as_ref())?;
    let (workers, threads) = (arguments.workers.0, arguments.threads.0);
    let machine = Machine { device, workers, threads, processes_here };
    let options = RunOptions { machine, quiet: arguments.quiet, environment: environment(device) };
    let begins_with = match &arguments.init {
        // One that cannot be read is refused by name below.
        Some(weights) => Sha256::digest(std::fs::read(weights).unwrap_or_default()).to_vec(),
        None => Vec::new(),
    };
    if world.share("initial weights", &begins_with)?.iter().any(|other| *other != begins_with) {
        return Err(bad_input("the processes were given different files as --init"));
    }
    if let Some(weights) = &arguments.init {
        // Tried before there is a folder of the run: one that cannot start leaves nothing behind.
        let encoder = Encoder::new(&setup.recipe.model, 0, tch::Device::Cpu, tch::Kind::Float)?;
        load_backbone(weights, &encoder)?;
    }
    // A new run has no place of its own yet, only the one that was given.
    let stored = (arguments.data.is_none() && matches!(resume, Resume::From(_)))
        .then(|| setup.recipe.clone());
    let begun = Run::new(setup, &resume, options, Arc::clone(world));
    let mut run = begun.map_err(|error| match stored {
        Some(recipe) => hint_at_moved_data(error, &recipe),
        None => error.into(),
    })?;
    if let Some(weights) = &arguments.init {
        let report = run.start_from(weights)?;
        if first && !arguments.quiet {
            let described = super::import::describe(&report);
            print_or_warn(&format!("{}: {described}\n", weights.display()));
        }
    }
    let folder = run.folder().clone();
    let interrupt = Interrupt::default();
    signals::stop_gently(&interrupt, first.then_some(NOTICE));
    match run.train(&interrupt)? {
        Outcome::Finished if first => {
            if !arguments.quiet {
                print_or_warn(&summary(&folder, run.verdict()?.as_ref())?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Finished => Ok(ExitCode::SUCCESS),
        Outcome::Interrupted { step, signal } => {
            let so_far = match step {
                0 => "interrupted before the first step".to_owned(),
                step => format!("interrupted after step {step}; a checkpoint was written"),
            };
            if first {
                let (program, path) = (program(), folder.path().display());
                say(&format!("{so_far}. To continue:\n  {program} pretrain --resume {path}"));
            }
            Ok(ExitCode::from(signals::exit_code(signal)))
        }
    }
}

/// What to train, and where the run begins.
fn plan(arguments: &Arguments, world: &dyn World) -> anyhow::Result<(Setup, Resume)> {
    let (changes, data) = (arguments.overrides()?, arguments.data.as_deref());
    let Some(run) = arguments.resumed(world)? else {
        let path = arguments.recipe.as_ref().ok_or_else(|| {
            bad_input("give a recipe (for example recipes/demo.toml), or --resume RUN")
        })?;
        let setup = read_setup(path, &changes, data)?;
        let resume = match &arguments.out {
            Some(out) => Resume::New(out.clone()),
            None => Resume::NewNumbered(default_out(path, &setup.recipe)),
        };
        return Ok((setup, resume));
    };
    let mut begun = read_setup(&run.recipe(), &[], data)?;
    if arguments.recipe.is_none() && changes.is_empty() {
        return Ok((begun, Resume::From(run)));
    }
    let recipe = arguments.recipe.clone().unwrap_or_else(|| run.recipe());
    let asked = read_setup(&recipe, &changes, data)?;
    refuse_changes(&run, &begun.recipe, &asked.recipe)?;
    begun.recipe.bad_image_limit = asked.recipe.bad_image_limit;
    begun.recipe.training.step = asked.recipe.training.step;
    Ok((begun, Resume::From(run)))
}

/// `runs/<method>-<file name>`, which gets a number if it is taken.
fn default_out(recipe_path: &Path, recipe: &Recipe) -> PathBuf {
    let stem = recipe_path.file_stem().unwrap_or_default().to_string_lossy();
    let method = recipe.method.get("name").and_then(|name| name.as_str()).unwrap_or_default();
    Path::new("runs").join(format!("{method}-{stem}"))
}

fn environment(device: tch::Device) -> serde_json::Map<String, serde_json::Value> {
    let begun = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let processor = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let command = std::env::args_os().map(|part| part.to_string_lossy().into_owned());
    let command: Vec<String> = command.collect();
    let entries: [(&str, serde_json::Value); 7] = [
        ("nearkin", env!("CARGO_PKG_VERSION").into()),
        ("command", command.into()),
        ("begun_seconds_since_1970", begun.map_or(0, |begun| begun.as_secs()).into()),
        ("device", format!("{device:?}").into()),
        ("processor", processor.into()),
        ("cores", std::thread::available_parallelism().map_or(0, usize::from).into()),
        ("gomp_spincount", std::env::var("GOMP_SPINCOUNT").ok().into()),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Prints what is worth knowing of a run; where that fails, the run is no worse for it.
fn print_or_warn(text: &str) {
    if let Err(error) = print(text) {
        say(&format!("warning: {error:#}"));
    }
}

/// What a finished run reached, how fast it was, and what to do next.
fn summary(run: &RunFolder, verdict: Option<&Verdict>) -> anyhow::Result<String> {
    let mut text = String::new();
    let accuracy =
        |share: Option<f64>| share.map_or("-".to_owned(), |x| format!("{:.2} %", 100.0 * x));
    let accuracies = Baselines::of(run)?;
    let has_knn = !accuracies.is_empty();
    if has_knn {
        let rows: Vec<Vec<String>> = accuracies
            .iter()
            .map(|row| {
                let vote = format!("{}, {}", row.k, row.temperature);
                vec![vote, accuracy(row.pixels), accuracy(row.untrained), accuracy(row.trained)]
            })
            .collect();
        text += "\nk-NN top-1 accuracy on the test images\n";
        let headers = ["k, temperature", "raw pixels", "untrained encoder", "trained encoder"];
        text += &table::render(&headers, &rows);
    }
    if let Some(verdict) = verdict {
        writeln!(text, "\n{verdict}")?;
    }
    let records = read_metrics(&run.metrics())?;
    let epochs = || records.iter().filter(|record| record.kind == Kind::Epoch);
    let mean = |name: &str| {
        let values: Vec<f64> = epochs().filter_map(|record| record.number(name)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    if let Some(rate) = mean(names::IMAGES_PER_SECOND) {
        writeln!(
            text,
            "\ntrained at {rate:.0} images/s (mean over epochs, evaluation not counted)"
        )?;
    }
    if let (Some(rate), Some(share)) =
        (mean(names::MODEL_FLOP_PER_SECOND), mean(names::MATMUL_SHARE))
    {
        writeln!(text, "model:       {}", of_the_device(rate, share))?;
    }
    if let Some((purity, chance)) = epochs().filter_map(Record::kin_purity).next_back() {
        let (purity, chance) = (percent(purity), percent(chance));
        writeln!(text, "kin purity:  {purity} of the targets (chance {chance})")?;
    }
    if let Some(share) = mean(names::DATA_WAIT_SHARE) {
        writeln!(text, "data wait:   {} of the time", percent(share))?;
    }
    let peaks = epochs().filter_map(|record| record.number(names::PEAK_MEMORY_BYTES));
    if let Some(peak) = peaks.reduce(f64::max) {
        writeln!(text, "peak memory: {}", memory(peak))?;
    }
    let (program, path) = (program(), run.path().display());
    writeln!(text, "\nrun folder:  {path}")?;
    writeln!(text, "report:      {}", run.report().display())?;
    if has_knn {
        writeln!(text, "evaluate:    {program} eval knn {path}")?;
    }
    writeln!(
        text,
        "your images: {program} pretrain RECIPE --data PATH   (recipes are under recipes/)"
    )?;
    Ok(text)
}

/// The model's operations per second, and how much of the device that is.
pub(super) fn of_the_device(flop_per_second: f64, share: f64) -> String {
    let (rate, share) = (flop_rate(flop_per_second), percent(share));
    format!("{rate}, {share} of this machine's measured matrix-multiply rate")
}
