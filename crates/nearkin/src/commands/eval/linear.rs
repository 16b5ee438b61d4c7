//! `nearkin eval linear`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nearkin_probe::{LinearOptions, LinearPreset, linear};

use super::{Common, Training, sets};

/// Accuracy of a linear classifier on the frozen backbone.
///
/// Presets are protocols of the papers: moco-cifar (SCE on CIFAR), sce-imagenet, fnc, sane-cifar; and
/// cached, which trains 40 settings side by side on features that are computed once and chooses on a
/// held-out tenth of the training images. The classifier of the last epoch is tested once. That the
/// backbone did not change, its running statistics included, is proven, or the command fails.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The run's folder, or a safetensors file with --recipe.
    run: PathBuf,
    /// moco-cifar, sce-imagenet, fnc, sane-cifar or cached.
    #[arg(long, default_value_t = LinearPreset::Cached)]
    preset: LinearPreset,
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    common: Common,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { run, preset, training, common } = arguments;
    let machine = common.machine()?;
    let subject = common.subject(run)?;
    let [train, test] = sets(&subject)?;
    let options = LinearOptions {
        preset: *preset,
        epochs: training.epochs,
        batch_size: training.batch_size,
        seed: training.seed,
    };
    common.show(&subject, linear(&subject, [&train, &test], options, machine)?)
}
