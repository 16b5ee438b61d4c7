//! `nearkin bench`

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use nearkin_dist::World;
use nearkin_model::DeviceChoice;
use nearkin_recipe::{Override, StepForm};
use nearkin_report::{flop_rate, memory, percent, table};
use nearkin_train::{BenchOptions, Benchmark, Interrupt, Machine, Phase, bench};

use super::pretrain::of_the_device;
use super::{Count, as_launched, read_setup};
use crate::output::print;
use crate::signals;

/// Measure where the time of training goes.
///
/// Trains as a recipe says for some steps, without evaluation and checkpoints, and leaves nothing
/// behind. A tenth as many steps come before and are not counted.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    nearkin bench recipes/demo.toml\n  \
    nearkin bench recipes/sce/cifar10-small.toml --data DIR --set training.batch_size=256 --json\n  \
    nearkin launch --nproc 2 -- bench recipes/demo.toml --threads 1")]
pub(crate) struct Arguments {
    /// The recipe, a TOML file.
    recipe: PathBuf,
    /// Where the images are.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Override a key of the recipe, for example training.batch_size=256. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    changes: Vec<Override>,
    /// Steps that are measured.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: u64,
    /// auto (the first CUDA device if there is one), cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Threads that read and augment images. auto: chosen with --threads, and 1 beside a given number
    /// of threads.
    #[arg(long, value_name = "N", default_value = "auto")]
    workers: Count<0>,
    /// Threads of libtorch. auto: the split of the cores between the two that is measured to be fastest.
    #[arg(long, value_name = "N", default_value = "auto")]
    threads: Count<1>,
    /// With several processes: how long each waits for the others before it gives up.
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_seconds: u64,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

/// One step to warm up for so many that are measured, and at least so many.
const STEPS_PER_WARM_UP: u64 = 10;
const LEAST_WARM_UP: u64 = 3;
/// Until a step is recorded as a graph, with those in between whose measures are written down.
const LEAST_BEFORE_GRAPHS: u64 = 10;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    signals::handle()?;
    as_launched(arguments.device, arguments.timeout_seconds, |device, here, world| {
        measure(arguments, device, here, world)
    })
}

fn measure(
    arguments: &Arguments,
    device: tch::Device,
    processes_here: NonZeroUsize,
    world: &Arc<dyn World>,
) -> anyhow::Result<ExitCode> {
    let mut setup = read_setup(&arguments.recipe, &arguments.changes, arguments.data.as_deref())?;
    // Test images are not even opened.
    setup.recipe.evaluation.every_epochs = 0;
    let graphs = setup.recipe.training.step == StepForm::CudaGraph;
    let first = world.rank() == 0;
    let (workers, threads) = (arguments.workers.0, arguments.threads.0);
    let machine = Machine { device, workers, threads, processes_here };
    let least = if graphs { LEAST_BEFORE_GRAPHS } else { LEAST_WARM_UP };
    let warm_up = (arguments.steps / STEPS_PER_WARM_UP).max(least);
    let options = BenchOptions { machine, warm_up_steps: warm_up, steps: arguments.steps };
    let interrupt = Interrupt::default();
    signals::stop_gently(&interrupt, None);
    let Some(benchmark) = bench(setup, &options, world, &interrupt)? else {
        let signal = interrupt.signal().unwrap_or_default();
        return Ok(ExitCode::from(signals::exit_code(signal)));
    };
    if first {
        print(&if arguments.json {
            format!("{:#}\n", to_json(&benchmark, device))
        } else {
            to_text(&benchmark, device, warm_up)
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn milliseconds_per_step(benchmark: &Benchmark, seconds: f64) -> f64 {
    1000.0 * seconds / benchmark.steps as f64
}

fn median_step(benchmark: &Benchmark) -> f64 {
    let mut seconds = benchmark.step_seconds.clone();
    seconds.sort_unstable_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or_default()
}

fn to_text(benchmark: &Benchmark, device: tch::Device, warm_up: u64) -> String {
    let Benchmark { steps, images_per_step, processes, threads, .. } = benchmark;
    let whole = benchmark.seconds();
    let row = |name: &str, seconds: f64| {
        let milliseconds = format!("{:.2}", milliseconds_per_step(benchmark, seconds));
        vec![name.to_owned(), milliseconds, percent(seconds / whole)]
    };
    let mut rows: Vec<Vec<String>> =
        benchmark.phases.iter().map(|&(phase, seconds)| row(phase.name(), seconds)).collect();
    rows.push(row("step", whole));
    let together = match processes {
        1 => String::new(),
        _ => format!(" in each of {processes} processes"),
    };
    let mut text = format!(
        "{steps} steps of {images_per_step} images on {device:?}, {} thread(s) and {} loader \
         worker(s){together}, after {warm_up} to warm up\n\n{}\n",
        threads.threads,
        threads.workers,
        table::render(&["part of a step", "ms", "share"], &rows),
    );
    let augmented = milliseconds_per_step(benchmark, benchmark.augment_cpu_seconds);
    let matmul = benchmark.matmul_flop_per_second;
    let model = of_the_device(benchmark.flop_per_second(), benchmark.flop_per_second() / matmul);
    let lines = [
        ("median step:", format!("{:.2} ms", 1000.0 * median_step(benchmark))),
        ("augment:", format!("{augmented:.2} ms of CPU time per step, by the loader")),
        ("images/s:", format!("{:.1}", benchmark.images_per_second())),
        (
            "model:",
            format!("{model} ({} in {} precision)", flop_rate(matmul), benchmark.matmul_precision),
        ),
    ];
    let peak = benchmark.peak_memory_bytes.map(|bytes| ("peak memory:", memory(bytes as f64)));
    text.extend(lines.into_iter().chain(peak).map(|(name, value)| format!("{name:<13}{value}\n")));
    text
}

fn to_json(benchmark: &Benchmark, device: tch::Device) -> serde_json::Value {
    let per_step = |seconds: f64| milliseconds_per_step(benchmark, seconds);
    let phases = benchmark.phases.iter();
    let phases: serde_json::Map<String, serde_json::Value> = phases
        .map(|&(phase, seconds)| (phase.name().to_owned(), per_step(seconds).into()))
        .collect();
    let waited = benchmark.phases.iter().find(|entry| entry.0 == Phase::Load);
    serde_json::json!({
        "steps": benchmark.steps,
        "images_per_step": benchmark.images_per_step,
        "device": format!("{device:?}"),
        "processes": benchmark.processes,
        "threads": benchmark.threads.threads,
        "workers": benchmark.threads.workers,
        "milliseconds_per_step": per_step(benchmark.seconds()),
        "median_milliseconds_per_step": 1000.0 * median_step(benchmark),
        "phases_milliseconds_per_step": phases,
        "augment_cpu_milliseconds_per_step": per_step(benchmark.augment_cpu_seconds),
        "data_wait_share": waited.map(|entry| entry.1 / benchmark.seconds()),
        "images_per_second": benchmark.images_per_second(),
        "flop_per_image": benchmark.flop_per_image,
        "model_flop_per_second": benchmark.flop_per_second(),
        "matmul_flop_per_second": benchmark.matmul_flop_per_second,
        "matmul_precision": benchmark.matmul_precision,
        "matmul_share": benchmark.flop_per_second() / benchmark.matmul_flop_per_second,
        "peak_memory_bytes": benchmark.peak_memory_bytes,
    })
}
