//! `nearkin eval all`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use nearkin_probe::{
    Evaluation, LinearPreset, SemiPreset, SuiteOptions, Target, suite, summarise, summary_table,
    to_markdown,
};
use nearkin_report::write_atomically;

use super::{Common, Training, bad_input, evaluation};
use crate::output::{print, say};

/// Everything that the data allows, as one table; of several runs mean and standard deviation.
///
/// Each run's folder gets evaluation.json and evaluation.md; with several runs, or a file of weights,
/// --out says where those of all go. Only the newest checkpoint counts, and nothing is chosen on the
/// test images.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Run folders, or a safetensors file with --recipe.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The folder for evaluation.json and evaluation.md of all runs together.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only these parts, a list.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
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
    let Arguments { runs, out, only, linear, to, fine_tune, training, common } = arguments;
    let single_run = match &runs[..] {
        [run] if run.is_dir() => Some(run.clone()),
        _ => None,
    };
    let Some(out) = out.clone().or(single_run) else {
        return Err(bad_input("say with --out DIR where the evaluation of all goes"));
    };
    let has = |part| only.is_empty() || only.contains(&part);
    let machine = common.machine()?;
    let subjects =
        runs.iter().map(|run| common.subject(run)).collect::<anyhow::Result<Vec<_>>>()?;
    let targets = match has(Part::Transfer) {
        true => to.iter().map(|path| Target::open(path)).collect::<Result<Vec<_>, _>>()?,
        false => Vec::new(),
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
        let progress = |what: &str| say(&format!("{}: {what}", subject.name()));
        let scores = suite(subject, &options, machine, &progress)?;
        let evaluation = evaluation(subject, scores);
        if run.is_dir() {
            write(run, std::slice::from_ref(&evaluation))?;
        }
        evaluations.push(evaluation);
    }
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    if single(&out, runs).is_none() {
        write(&out, &evaluations)?;
    }
    let text = match common.json {
        true => json(&evaluations)?,
        false => summary_table(&evaluations),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The only run, where its own folder is the one to write to.
fn single<'a>(out: &Path, runs: &'a [PathBuf]) -> Option<&'a PathBuf> {
    match runs {
        [run] if run == out => Some(run),
        _ => None,
    }
}

fn json(evaluations: &[Evaluation]) -> anyhow::Result<String> {
    let all = serde_json::json!({
        "evaluations": evaluations,
        "summary": summarise(evaluations),
    });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

fn write(folder: &Path, evaluations: &[Evaluation]) -> anyhow::Result<()> {
    let files = [("json", json(evaluations)?), ("md", to_markdown(evaluations))];
    for (end, text) in files {
        let path = folder.join(format!("evaluation.{end}"));
        write_atomically(&path, |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}
