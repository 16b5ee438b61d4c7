//! `nearkin eval transfer`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nearkin_probe::{Target, TransferOptions, transfer};

use super::{Common, Training};

/// Accuracy on other data sets: logistic regression on frozen features, and fine-tuning.
///
/// The penalty is chosen among 45 on a held-out tenth of the training images, the regression then
/// fitted to all of them and tested once. Images of another size are resized by the view of
/// evaluation.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The run's folder, or a safetensors file with --recipe.
    run: PathBuf,
    /// Data sets with labels and a test split, of any kind that nearkin data inspect knows.
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    to: Vec<PathBuf>,
    /// Also fine-tune the whole network.
    #[arg(long)]
    fine_tune: bool,
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    common: Common,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { run, to, fine_tune, training, common } = arguments;
    let machine = common.machine()?;
    let subject = common.subject(run)?;
    let targets = to.iter().map(|path| Target::open(path)).collect::<Result<Vec<_>, _>>()?;
    let options = TransferOptions {
        fine_tune: *fine_tune,
        epochs: training.epochs,
        batch_size: training.batch_size,
        seed: training.seed,
    };
    let mut scores = Vec::new();
    for target in &targets {
        scores.extend(transfer(&subject, target, options, machine)?);
    }
    common.show(&subject, scores)
}
