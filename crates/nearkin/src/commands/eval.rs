//! `nearkin eval`

mod all;
mod knn;
mod linear;
mod quality;
mod semi;
mod transfer;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use nearkin_data::{ImageSet, Split};
use nearkin_model::DeviceChoice;
use nearkin_probe::{Evaluation, Machine, Score, Subject};
use nearkin_recipe::Fraction;
use nearkin_report::table;

use super::{Trained, bad_input, hint_at_moved_data, note_changes, share, trained};
use crate::output::{print, say};

#[derive(Subcommand)]
pub(crate) enum Command {
    Knn(knn::Arguments),
    Linear(linear::Arguments),
    Semi(semi::Arguments),
    Transfer(transfer::Arguments),
    Quality(quality::Arguments),
    All(all::Arguments),
}

pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Knn(arguments) => knn::run(arguments),
        Command::Linear(arguments) => linear::run(arguments),
        Command::Semi(arguments) => semi::run(arguments),
        Command::Transfer(arguments) => transfer::run(arguments),
        Command::Quality(arguments) => quality::run(arguments),
        Command::All(arguments) => all::run(arguments),
    }
}

/// What every evaluation can be told.
#[derive(Args)]
struct Common {
    /// Where the images are, if not where the run found them.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// What a file of weights is: its model, images and view. A run has its own.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Threads that read images; no result depends on it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,
    /// Share of the images of a split that may be damaged; five always may, unless it is 0. If absent,
    /// that of the recipe. Damaged images count nowhere; the run's bad_images.jsonl lists them.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    bad_image_limit: Option<Fraction>,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

/// What evaluations that train something can be told.
#[derive(Args)]
struct Training {
    /// Passes over the images, if not those of the protocol; the result says so.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: Option<u64>,
    /// Images of a step, if not those of the protocol; the result says so.
    #[arg(long, value_name = "N")]
    batch_size: Option<NonZeroUsize>,
    /// Seed of everything that is drawn.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Common {
    fn machine(&self) -> anyhow::Result<Machine> {
        Ok(Machine { device: self.device.open()?, workers: self.workers })
    }

    /// The encoder in a run's folder, or in a safetensors file.
    fn subject(&self, path: &Path) -> anyhow::Result<Subject> {
        let mut subject = match trained(path, self.recipe.as_deref(), self.data.as_deref())? {
            Trained::Run(run, recipe) => Subject::from_run(&run, recipe)?,
            Trained::Weights(recipe) => Subject::from_weights(path, recipe)?,
        };
        if let Some(limit) = self.bad_image_limit {
            subject.recipe.bad_image_limit = Some(limit);
        }
        Ok(subject)
    }

    /// Prints the scores of one subject.
    fn show(&self, subject: &Subject, scores: Vec<Score>) -> anyhow::Result<ExitCode> {
        let evaluation = evaluation(subject, scores);
        let text = if self.json {
            serde_json::to_string_pretty(&evaluation)? + "\n"
        } else {
            heading(subject) + &scores_table(&evaluation.scores)
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What was evaluated, and how many images were not.
fn heading(subject: &Subject) -> String {
    let title = subject.title();
    match subject.bad_images().met() {
        0 => title + "\n",
        images => format!("{title}\n{images} image(s) left out that cannot be read\n"),
    }
}

/// Sums up an evaluation, and says on standard error what was changed about the weights and which images
/// had no part in it.
fn evaluation(subject: &Subject, scores: Vec<Score>) -> Evaluation {
    warn(subject);
    Evaluation {
        subject: subject.name().to_owned(),
        step: subject.step(),
        training_seed: subject.recipe.seed,
        images_left_out: subject.bad_images().met(),
        scores,
        ..Evaluation::default()
    }
}

fn warn(subject: &Subject) {
    subject.skipped_lines().iter().for_each(|line| say(line));
    note_changes(subject);
    if let Some(told) = subject.bad_images().told_at_end() {
        say(&format!("warning: {told}"));
    }
}

/// Protocol, measure and value, and below what each protocol did.
fn scores_table(scores: &[Score]) -> String {
    let row = |score: &Score| {
        let metric = match score.unit {
            nearkin_probe::Unit::Share => format!("{} %", score.metric),
            nearkin_probe::Unit::Number => score.metric.clone().into_owned(),
        };
        vec![score.protocol.clone(), metric, score.shown()]
    };
    let rows: Vec<Vec<String>> = scores.iter().map(row).collect();
    let mut text = table::render(&["protocol", "measure", "value"], &rows);
    let mut said: Vec<&str> = Vec::new();
    for score in scores {
        if !said.contains(&score.definition.as_str()) {
            said.push(&score.definition);
        }
    }
    for definition in said {
        text += "\n";
        text += definition;
        text += "\n";
    }
    text
}

/// The images of training and of the test split.
fn sets(subject: &Subject) -> anyhow::Result<[Arc<dyn ImageSet>; 2]> {
    let images =
        |split| subject.images(split).map_err(|error| hint_at_moved_data(error, &subject.recipe));
    Ok([images(Split::Train)?, images(Split::Test)?])
}
