//! `nearkin eval all`

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use nearkin_probe::{
    Evaluation, LinearPreset, Listener, Machine, ResultsFolder, Score, SemiPreset, Subject,
    SuiteOptions, Target, results_json, suite, summary_table,
};
use nearkin_report::RunFolder;

use super::{Common, Training, bad_input, hint_at_moved_data, warn};
use crate::output::{print, say};

/// Run every applicable evaluation and print one table.
///
/// Runs whose recipes differ in the seed only are one group, with mean and standard deviation; other
/// groups are compared with the first, seed by seed. Results are added to evaluation.json and
/// evaluation.md in each run's folder and in --out DIR; what is there of the newest checkpoint is not
/// computed again. Nothing is selected on the test images.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Run folders, or a safetensors file with --recipe.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The folder for evaluation.json and evaluation.md of all runs together; needed with several runs
    /// and with files of weights.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only these parts, a list.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Compute everything again, also what evaluation.json has.
    #[arg(long)]
    again: bool,
    /// Linear protocols, a list.
    #[arg(long, value_name = "PRESET", value_delimiter = ',', default_values_t = [LinearPreset::Cached])]
    linear: Vec<LinearPreset>,
    /// Data sets to transfer to.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    to: Vec<PathBuf>,
    /// Fine-tune on them too.
    #[arg(long)]
    fine_tune: bool,
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Quality,
    Knn,
    Linear,
    Semi,
    Transfer,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { runs, out, only, linear, to, fine_tune, training, common, .. } = arguments;
    refuse_repetitions(runs)?;
    let out = combined(runs, out.as_deref())?;
    let has = |part| only.is_empty() || only.contains(&part);
    let machine = common.machine()?;
    let subjects =
        runs.iter().map(|run| common.subject(run)).collect::<anyhow::Result<Vec<_>>>()?;
    let targets = if has(Part::Transfer) {
        to.iter().map(|path| Target::open(path)).collect::<Result<Vec<_>, _>>()?
    } else {
        Vec::new()
    };
    let semi = [
        (SemiPreset::Fnc, 0.01),
        (SemiPreset::Fnc, 0.1),
        (SemiPreset::Plain, 0.01),
        (SemiPreset::Plain, 0.1),
    ];
    let options = SuiteOptions {
        votes: None,
        without_knn: !has(Part::Knn),
        without_quality: !has(Part::Quality),
        linear: if has(Part::Linear) { linear.clone() } else { Vec::new() },
        semi: if has(Part::Semi) { semi.to_vec() } else { Vec::new() },
        targets,
        fine_tune: *fine_tune,
        epochs: training.epochs,
        batch_size: training.batch_size,
        seed: training.seed,
    };
    let mut evaluations = Vec::new();
    for (subject, run) in subjects.iter().zip(runs) {
        let own = run.is_dir().then(|| ResultsFolder::of_run(run));
        let folders: Vec<&ResultsFolder> = own.iter().chain(&out).collect();
        evaluations.push(measure(subject, &options, machine, &folders, arguments.again)?);
    }
    print(&if common.json { results_json(&evaluations) } else { summary_table(&evaluations) })?;
    Ok(ExitCode::SUCCESS)
}

/// A run that is given twice would count as two repetitions.
fn refuse_repetitions(runs: &[PathBuf]) -> anyhow::Result<()> {
    let mut seen = HashSet::new();
    for run in runs {
        if !seen.insert(std::fs::canonicalize(run).unwrap_or_else(|_| run.clone())) {
            return Err(bad_input(format!("{} is given twice", run.display())));
        }
    }
    Ok(())
}

/// The folder for the results of all runs together; none where the only run's own folder is enough.
fn combined(runs: &[PathBuf], out: Option<&Path>) -> anyhow::Result<Option<ResultsFolder>> {
    let is_only_run = |path: &Path| matches!(runs, [run] if run.is_dir() && run == path);
    let Some(out) = out else {
        return match runs {
            [run] if run.is_dir() => Ok(None),
            _ => Err(bad_input("give a folder for the results of all together: --out DIR")),
        };
    };
    if is_only_run(out) {
        return Ok(None);
    }
    if RunFolder::of_others(out).recipe().exists() {
        let out = out.display();
        return Err(bad_input(format!(
            "--out {out} is the folder of a run, which keeps its own results there; give another"
        )));
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    Ok(Some(ResultsFolder::of_several(out)))
}

/// Evaluates one subject and adds to the results in `folders` as it goes; gives what was asked for.
fn measure(
    subject: &Subject,
    options: &SuiteOptions,
    machine: Machine,
    folders: &[&ResultsFolder],
    again: bool,
) -> anyhow::Result<Evaluation> {
    let header = subject.evaluation()?;
    let mut known = header.clone();
    for folder in folders {
        // Read in any case: a file that cannot be added to is refused before the work.
        let found = folder.known(&header)?;
        if !again {
            known.add(&found);
        }
    }
    let with = |scores: &[Score]| Evaluation {
        images_left_out: subject.bad_images().met(),
        scores: scores.to_vec(),
        ..header.clone()
    };
    let add = |scores: &[Score]| folders.iter().try_for_each(|folder| folder.add(&with(scores)));
    let progress = |what: &str| say(&format!("{}: {what}", subject.name()));
    let mut listener = Listener { say: &progress, done: &mut |scores| add(scores) };
    let scores = suite(subject, options, machine, &known.scores, &mut listener)
        .map_err(|error| hint_at_moved_data(error, &subject.recipe))?;
    // What was known in one folder may be new in the other.
    add(&scores)?;
    warn(subject);
    Ok(with(&scores))
}
