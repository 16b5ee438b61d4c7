//! `nearkin eval semi`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nearkin_probe::{Labels, SemiOptions, SemiPreset, semi};

use super::{Common, Training, bad_input, sets};

/// Accuracy after fine-tuning the whole network with the labels of a few images.
///
/// Preset fnc: LARS, from the first layer of the projector; plain: SGD from the backbone.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The run's folder, or a safetensors file with --recipe.
    run: PathBuf,
    /// fnc or plain.
    #[arg(long, default_value_t = SemiPreset::Fnc)]
    preset: SemiPreset,
    /// Shares of the labels in percent, a list; drawn class by class with the seed.
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_values_t = [1.0, 10.0])]
    percent: Vec<f64>,
    /// The labelled images, one file name per line, as SimCLR's lists for ImageNet; instead of shares.
    #[arg(long, value_name = "FILE", conflicts_with = "percent")]
    list: Option<PathBuf>,
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    common: Common,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { run, preset, percent, list, training, common } = arguments;
    let labels: Vec<Labels> = match list {
        Some(list) => vec![Labels::List(list.clone())],
        None => percent
            .iter()
            .map(|&percent| {
                if percent > 0.0 && percent <= 100.0 {
                    Ok(Labels::Share(percent / 100.0))
                } else {
                    Err(bad_input(format!("--percent {percent}: give above 0, up to 100")))
                }
            })
            .collect::<anyhow::Result<_>>()?,
    };
    let machine = common.machine()?;
    let subject = common.subject(run)?;
    let [train, test] = sets(&subject)?;
    let mut scores = Vec::new();
    for labels in labels {
        let options = SemiOptions {
            preset: *preset,
            labels,
            epochs: training.epochs,
            batch_size: training.batch_size,
            seed: training.seed,
        };
        scores.extend(semi(&subject, [&train, &test], &options, machine)?);
    }
    common.show(&subject, scores)
}
