//! `nearkin pretrain`

use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use nearkin_dist::{Alone, Launch, Processes, World};
use nearkin_model::{DeviceChoice, Encoder, load_backbone};
use nearkin_recipe::{Override, Recipe};
use nearkin_report::{Kind, RunFolder, names, read_metrics, table};
use nearkin_train::{
    Baselines, Interrupt, Outcome, Resume, RunOptions, Setup, Trainer, refuse_changes,
};
use sha2::{Digest, Sha256};

use super::{bad_input, read_setup, unused};
use crate::failure::{is_bad_input, message};

/// TOML has no larger integer.
const LARGEST_SEED: u64 = i64::MAX as u64;

/// Train an encoder as a recipe says, or continue a run.
#[derive(Args)]
#[command(
    after_help = "The run folder holds the resolved recipe (recipe.toml), metrics.jsonl, TensorBoard events,\n\
    checkpoints and report.html. Ctrl-C writes a checkpoint and stops.\n\n\
    Examples:\n  \
    nearkin pretrain recipes/demo.toml\n  \
    nearkin pretrain recipes/sce/cifar10-small.toml --data cifar-10-batches-bin --out runs/sce\n  \
    nearkin pretrain recipes/sce/cifar10.toml --data DIR --set method.coefficient=0.3 --seed 1\n  \
    nearkin pretrain --resume runs/sce\n  \
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
    /// Threads that read and augment images; no result depends on it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,
    /// Threads of libtorch; if absent, one per core, or what the resumed run began with.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// With several processes: how long each waits for the others before it gives up.
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_seconds: u64,
    /// Show no progress.
    #[arg(long)]
    quiet: bool,
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

    /// The run to continue, if one is. Only the first of several processes may tidy up its folder.
    fn resumed(&self, first: bool) -> anyhow::Result<Option<RunFolder>> {
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
        if auto && !RunFolder::of_others(path).recipe().exists() {
            return Ok(None);
        }
        Ok(Some(match first {
            true => RunFolder::open(path)?,
            false => RunFolder::of_others(path),
        }))
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let launch = Launch::from_environment(Duration::from_secs(arguments.timeout_seconds))?;
    let Some(launch) = launch else {
        let device = arguments.device.open()?;
        return train(arguments, device, NonZeroUsize::MIN, &(Arc::new(Alone) as Arc<dyn World>));
    };
    let (rank, size) = (launch.rank, launch.size);
    let device = arguments.device.open_for(launch.local_rank)?;
    let here = launch.local_size.and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
    let processes = Processes::join(launch, device);
    let result = processes.map_err(Into::into).and_then(|processes| {
        let world: Arc<dyn World> = Arc::new(processes);
        let result = train(arguments, device, here, &world);
        if let Err(error) = &result {
            // Of what the trainer met, the others know already.
            world.fail(&message(error));
            // The end of a world waits for the others, and may wait for one that is lost.
            std::mem::forget(world);
        }
        result
    });
    if let Err(error) = &result {
        eprintln!("error in process {rank} of {size}: {}", message(error));
        // Threads may still be inside of exchanges with processes that are no more.
        std::process::exit(if is_bad_input(error) { 2 } else { 1 });
    }
    result
}

fn train(
    arguments: &Arguments,
    device: tch::Device,
    processes_here: NonZeroUsize,
    world: &Arc<dyn World>,
) -> anyhow::Result<ExitCode> {
    let first = world.rank() == 0;
    let (setup, resume) = plan(arguments, world.as_ref())?;
    let options = RunOptions {
        device,
        workers: arguments.workers,
        threads: arguments.threads.map(usize::from),
        processes_here,
        quiet: arguments.quiet,
        environment: environment(arguments, device),
    };
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
    let interrupt = interrupt_on_signals(first)?;
    let mut trainer = Trainer::new(setup, &resume, options, Arc::clone(world))?;
    if let Some(weights) = &arguments.init {
        let report = trainer.start_from(weights)?;
        if first && !arguments.quiet {
            println!("{}: {}", weights.display(), super::import::describe(&report));
        }
    }
    let run = trainer.run_folder().clone();
    match trainer.run(&interrupt)? {
        Outcome::Finished if first => {
            summarise(&run, arguments.quiet)?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Finished => Ok(ExitCode::SUCCESS),
        Outcome::Interrupted { step } => {
            let so_far = match step {
                0 => "interrupted before the first step".to_owned(),
                step => format!("interrupted after step {step}; a checkpoint was written"),
            };
            if first {
                eprintln!(
                    "{so_far}. To continue:\n  nearkin pretrain --resume {}",
                    run.path().display()
                );
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

/// What to train, and where the run begins.
fn plan(arguments: &Arguments, world: &dyn World) -> anyhow::Result<(Setup, Resume)> {
    let (changes, data) = (arguments.overrides()?, arguments.data.as_deref());
    let Some(run) = arguments.resumed(world.rank() == 0)? else {
        let path = arguments.recipe.as_ref().ok_or_else(|| {
            bad_input("give a recipe (for example recipes/demo.toml), or --resume RUN")
        })?;
        let setup = read_setup(path, &changes, data)?;
        let out = arguments.out.clone().map_or_else(|| agreed_out(path, &setup, world), Ok)?;
        return Ok((setup, Resume::New(out)));
    };
    let mut begun = read_setup(&run.recipe(), &[], data)?;
    if arguments.recipe.is_none() && changes.is_empty() {
        return Ok((begun, Resume::From(run)));
    }
    let recipe = arguments.recipe.clone().unwrap_or_else(|| run.recipe());
    let asked = read_setup(&recipe, &changes, data)?;
    refuse_changes(&run, &begun.recipe, &asked.recipe)?;
    begun.recipe.bad_image_limit = asked.recipe.bad_image_limit;
    Ok((begun, Resume::From(run)))
}

/// `runs/<method>-<file name>`, numbered if it is taken.
fn default_out(recipe_path: &Path, recipe: &Recipe) -> PathBuf {
    let stem = recipe_path.file_stem().unwrap_or_default().to_string_lossy();
    let method = recipe.method.get("name").and_then(|name| name.as_str()).unwrap_or_default();
    unused(Path::new("runs").join(format!("{method}-{stem}")))
}

/// The folder that the first of several processes chooses: once it is made, the others would see
/// another name free.
fn agreed_out(recipe: &Path, setup: &Setup, world: &dyn World) -> anyhow::Result<PathBuf> {
    let out = default_out(recipe, &setup.recipe);
    let said = world.share("run folder", out.as_os_str().as_encoded_bytes())?;
    let first = said.into_iter().next().unwrap_or_default();
    Ok(PathBuf::from(std::ffi::OsString::from_vec(first)))
}

/// The first signal asks for a checkpoint, the second ends the process.
fn interrupt_on_signals(first: bool) -> anyhow::Result<Interrupt> {
    let interrupt = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupt);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        if first {
            eprintln!("\nwriting a checkpoint after this step; once more to stop at once");
        }
    })
    .context("cannot handle Ctrl-C")?;
    Ok(interrupt)
}

fn environment(arguments: &Arguments, device: tch::Device) -> serde_json::Value {
    let begun = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let processor = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    serde_json::json!({
        "nearkin": env!("CARGO_PKG_VERSION"),
        "command": std::env::args().collect::<Vec<_>>(),
        "begun_seconds_since_1970": begun.map_or(0, |begun| begun.as_secs()),
        "device": format!("{device:?}"),
        "processor": processor,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "workers": arguments.workers,
    })
}

/// What came of a finished run, on standard output.
fn summarise(run: &RunFolder, quiet: bool) -> anyhow::Result<()> {
    if quiet {
        return Ok(());
    }
    let percent =
        |share: Option<f64>| share.map_or("-".to_owned(), |x| format!("{:.2} %", 100.0 * x));
    let accuracies = Baselines::of(run)?;
    let has_knn = !accuracies.is_empty();
    if has_knn {
        let rows: Vec<Vec<String>> = accuracies
            .iter()
            .map(|row| {
                let vote = format!("{}, {}", row.k, row.temperature);
                vec![vote, percent(row.pixels), percent(row.untrained), percent(row.trained)]
            })
            .collect();
        println!("\nk-NN top-1 accuracy on the test images");
        let headers = ["k, temperature", "raw pixels", "untrained encoder", "trained encoder"];
        print!("{}", table::render(&headers, &rows));
    }
    let records = read_metrics(&run.metrics())?;
    let epochs: Vec<f64> = records
        .iter()
        .filter(|record| record.kind == Kind::Epoch)
        .filter_map(|record| record.number(names::IMAGES_PER_SECOND))
        .collect();
    if !epochs.is_empty() {
        let mean = epochs.iter().sum::<f64>() / epochs.len() as f64;
        println!("\ntrained at {mean:.0} images/s (mean over epochs, evaluation not counted)");
    }
    let path = run.path().display();
    println!("\nrun folder:  {path}");
    println!("report:      {}", run.report().display());
    if has_knn {
        println!("evaluate:    nearkin eval knn {path}");
    }
    println!("your images: nearkin pretrain RECIPE --data PATH   (recipes are under recipes/)");
    Ok(())
}
