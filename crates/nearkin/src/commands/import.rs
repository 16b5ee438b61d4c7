//! `nearkin import`

use std::path::PathBuf;
use std::process::ExitCode;

use nearkin_export::ImportOptions;
use nearkin_model::Report;

use crate::output::print;

/// Read a backbone that other tools trained.
///
/// FILE is a safetensors file or a checkpoint of PyTorch (.pth, .ckpt, .pth.tar) of torchvision, timm,
/// MoCo, MoCo v3, SimSiam, DINO, VICReg, SwAV, solo-learn, lightly, SCE or others that have a ResNet or
/// a vision transformer under the usual names. Checkpoints are read without running the code in them.
/// The result is for `nearkin pretrain --init`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nearkin import resnet50.safetensors --backbone resnet50 --out resnet50-nearkin.safetensors\n  \
    nearkin import moco_v2_800ep_pretrain.pth.tar --backbone resnet50 --out moco.safetensors")]
pub(crate) struct Arguments {
    /// The file.
    file: PathBuf,
    /// resnet18, resnet34, resnet50, vit-tiny, vit-small or vit-base; stem, width, patch and image size
    /// are read from the file.
    #[arg(long, value_name = "NAME")]
    backbone: String,
    /// The safetensors file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What stands before the names of the backbone, where the file has several.
    #[arg(long)]
    prefix: Option<String>,
    /// The momentum encoder (key encoder, teacher) rather than the trained one.
    #[arg(long)]
    momentum_encoder: bool,
    /// Heads of a vision transformer, if not the usual ones: weights do not tell.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    heads: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let options = ImportOptions {
        backbone: arguments.backbone.clone(),
        prefix: arguments.prefix.clone(),
        momentum_encoder: arguments.momentum_encoder,
        heads: arguments.heads,
    };
    let imported = nearkin_export::import(&arguments.file, &options, &arguments.out)?;
    let file = arguments.file.display();
    let below = imported.key.map_or_else(String::new, |key| format!(", `{key}`"));
    let mut lines = vec![
        format!("{file}{below}: {}", describe(&imported.report)),
        format!("the names are those of {}", imported.origin),
    ];
    if !imported.calls.is_empty() {
        lines.push(format!("not run, and not needed: {}", imported.calls.join(", ")));
    }
    let out = arguments.out.display();
    lines.push(format!("\nwrote {out}; a recipe to go with it has\n\n[model]"));
    let model = imported.model.lines().filter(|line| !line.starts_with("projector"));
    lines.extend(model.map(|line| line.replace("[vision", "[model.vision")));
    print(&(lines.join("\n") + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// What was loaded and what was not, in one line.
pub(crate) fn describe(report: &Report) -> String {
    const NAMED: usize = 6;
    let names = match report.prefix.as_str() {
        "" => "names as they are".to_owned(),
        prefix => format!("names begin with `{prefix}`"),
    };
    let mut text = format!("{} tensors of the backbone, {names}", report.loaded);
    if let Some([before, after]) = report.resampled {
        let more = format!(
            "; position embeddings resampled from {before} x {before} to {after} x {after} patches"
        );
        text.push_str(&more);
    }
    if !report.left_out.is_empty() {
        let named = report.left_out.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>();
        let more = if report.left_out.len() > NAMED { ", ..." } else { "" };
        let count = report.left_out.len();
        let left_out = format!("; left out {count}: {}{more}", named.join(", "));
        text.push_str(&left_out);
    }
    text
}
