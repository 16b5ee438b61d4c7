//! `nearkin export`

use std::path::PathBuf;
use std::process::ExitCode;

use nearkin_export::Format;
use nearkin_model::{DeviceChoice, Encoder, load_backbone};
use nearkin_report::RunFolder;
use nearkin_train::Checkpoint;
use tch::Kind;

use super::{bad_input, read_setup};
use crate::output::print;

/// Write the backbone of a run for other tools.
///
/// The weights are those of the newest checkpoint. The formats are torchvision (model.safetensors with
/// torchvision's names, and model.py, which builds the network), timm (a folder for
/// `timm.create_model("local-dir:...", pretrained=True)`) and onnx (model.onnx, from normalised images
/// to features, for batches of any size).
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nearkin export runs/sce --format torchvision --out exported\n  \
    nearkin export runs/moco_v3 --format timm --momentum-encoder --out exported")]
pub(crate) struct Arguments {
    /// The run's folder.
    run: PathBuf,
    /// torchvision, timm or onnx.
    #[arg(long)]
    format: Format,
    /// The folder to write to; it is made if it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The momentum encoder rather than the trained one.
    #[arg(long)]
    momentum_encoder: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let run = RunFolder::open(&arguments.run)?;
    let setup = read_setup(&run.recipe(), &[], None)?;
    let shown = run.path().display();
    let checkpoint = Checkpoint::latest(&run)?
        .ok_or_else(|| bad_input(format!("{shown} has no checkpoint yet: nothing was trained")))?;
    let weights = if arguments.momentum_encoder {
        checkpoint.momentum_encoder()?.ok_or_else(|| {
            bad_input(format!("{shown} has no momentum encoder: leave out --momentum-encoder"))
        })?
    } else {
        checkpoint.model()?
    };
    let recipe = &setup.recipe;
    let device = DeviceChoice::Cpu.open()?;
    let encoder = Encoder::new(&recipe.model, 0, device, Kind::Float)?;
    load_backbone(&weights, &encoder)?;
    let exported = nearkin_export::export(&encoder, recipe, arguments.format, &arguments.out)?;
    let mut text = format!("exported {}\n", weights.display());
    text.extend(exported.files.iter().map(|file| format!("wrote {}\n", file.display())));
    print(&format!("{text}\nTo use it in Python:\n\n{}", exported.usage))?;
    Ok(ExitCode::SUCCESS)
}
