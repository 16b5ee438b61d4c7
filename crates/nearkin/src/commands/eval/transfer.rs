//! `nearkin eval transfer`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nearkin_probe::{AveragePrecision, Target, TransferOptions, transfer};

use super::{Common, Training};

/// Accuracy on other data sets: logistic regression on frozen features, and fine-tuning.
///
/// The penalty is chosen among 45 on a held-out tenth of the training images, the regression then
/// fitted to all of them and tested once. Images of another size are resized by the view of
/// evaluation. Where images show several classes (PASCAL VOC, lists with | between labels) each class
/// is told from the rest, and the mean average precision reported; the penalty of VOC is chosen on
/// its part val.
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
    /// Of sets whose images show several classes: 11-point (that of VOC2007) or area (under the curve).
    #[arg(long, value_name = "WAY", default_value_t = AveragePrecision::default())]
    average_precision: AveragePrecision,
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    common: Common,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { run, to, fine_tune, average_precision, training, common } = arguments;
    let machine = common.machine()?;
    let subject = common.subject(run)?;
    let targets = to.iter().map(|path| Target::open(path)).collect::<Result<Vec<_>, _>>()?;
    let options = TransferOptions {
        fine_tune: *fine_tune,
        epochs: training.epochs,
        batch_size: training.batch_size,
        seed: training.seed,
        average_precision: *average_precision,
    };
    let mut scores = Vec::new();
    for target in &targets {
        scores.extend(transfer(&subject, target, options, machine)?);
    }
    common.show(&subject, scores)
}
