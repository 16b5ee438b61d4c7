//! `nearkin eval quality`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nearkin_probe::{quality_of, quality_scores};

use super::Common;
use crate::output::say;

/// Measures of the features that need no labels, and a warning where they have collapsed.
///
/// RankMe, standard deviation per dimension, uniformity and alignment of up to 10,000 test images (of
/// training images where there is no test split).
#[derive(Args)]
pub(crate) struct Arguments {
    /// The run's folder, or a safetensors file with --recipe.
    run: PathBuf,
    #[command(flatten)]
    common: Common,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { run, common } = arguments;
    let machine = common.machine()?;
    let subject = common.subject(run)?;
    let (quality, split) = quality_of(&subject, machine)?;
    if let Some(warning) = quality.spread.warning() {
        say(&format!("warning: {warning}"));
    }
    common.show(&subject, quality_scores(&quality, split))
}
