//! `nearkin embed`

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use nearkin_augment::{Loader, LoaderOptions, Sequential, View};
use nearkin_data::inspect::{detect, splits};
use nearkin_data::{BadImages, ImageSet, Split, Tolerant, open, skipped_lines, tolerant};
use nearkin_embed::{FeatureFormat, FeatureWriter, Row};
use nearkin_eval::{EvaluationError, check_finite, extract, unit_rows};
use nearkin_model::{DeviceChoice, Encoder, images_to_tensor};
use nearkin_probe::{Machine, Subject};
use nearkin_recipe::Recipe;
use nearkin_train::Checkpoint;
use tch::{Device, Kind, Tensor};

use super::{Trained, bad_input, hint_at_moved_data, limit, note_changes, trained};
use crate::output::{print, say};

/// Write the features of images to a file.
///
/// The file is an array of float32 (.npy, with the names of the images beside it, photos.names.txt for
/// photos.npy), a safetensors file (tensors embeddings, labels, mean_of_unit_rows and names) or a table
/// (.parquet: name, label, embedding). Image files are named by their absolute paths, and
/// photos.names.txt can be given as dataset = "list". Images are read by the evaluation view of the
/// recipe, without augmentation. The file is written while it is computed, so memory does not grow with
/// the number of images. Images that cannot be read are left out, counted and listed, in
/// photos.bad_images.jsonl.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    nearkin embed runs/sce photos/ --out photos.npy\n  \
    nearkin embed runs/sce --split test --projector --normalize --out test.parquet\n  \
    nearkin embed moco.safetensors photos/ --recipe mine.toml --out photos.safetensors")]
pub(crate) struct Arguments {
    /// The run's folder, or a safetensors file with --recipe.
    run: PathBuf,
    /// Any data set that nearkin data inspect understands; if absent, the images of the run.
    images: Option<PathBuf>,
    /// The file to write: .npy, .safetensors or .parquet.
    #[arg(long, value_name = "FEATURES")]
    out: PathBuf,
    /// train or test; if absent, all of IMAGES, or the training images of the run.
    #[arg(long, value_parser = split)]
    split: Option<Split>,
    /// Projections, the output of the projector, rather than the backbone's features.
    #[arg(long)]
    projector: bool,
    /// The momentum encoder of the run rather than the trained one.
    #[arg(long)]
    momentum_encoder: bool,
    /// Divide every row by its Euclidean length.
    #[arg(long)]
    normalize: bool,
    /// Where the images of the run are, if not where the run found them.
    #[arg(long, value_name = "PATH", conflicts_with = "images")]
    data: Option<PathBuf>,
    /// What a file of weights is: its model and view. A run has its own.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Share of the images of a split that may be damaged; five always may, unless it is 0.
    #[arg(long, value_name = "SHARE", default_value_t = tolerant::DEFAULT_LIMIT, value_parser = limit)]
    bad_image_limit: f64,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Threads that read images; no result depends on it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: usize,
}

fn split(text: &str) -> Result<Split, String> {
    match text {
        "train" => Ok(Split::Train),
        "test" => Ok(Split::Test),
        _ => Err("expected train or test".to_owned()),
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let out = &arguments.out;
    // Before anything is computed.
    FeatureFormat::of(out)?;
    let machine = Machine { device: arguments.device.open()?, workers: arguments.workers };
    let (weights, recipe) = weights(arguments)?;
    let subject = Subject::from_weights(&weights, recipe)?;
    let network = Network::open(arguments, &subject, machine.device)?;
    note_changes(&subject);
    let list = out.with_extension("bad_images.jsonl");
    match std::fs::remove_file(&list) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", list.display()));
        }
        _ => {}
    }
    let bad_images = Arc::new(BadImages::open(&list)?);
    let sets = sets(arguments, &subject.recipe)?;
    for line in skipped_lines(sets.iter().map(|(_, set)| set.skipped())) {
        say(&line);
    }
    let metadata = [
        ("format", "pt".to_owned()),
        ("encoder", weights.display().to_string()),
        ("features", network.what().to_owned()),
        ("normalized", arguments.normalize.to_string()),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).to_vec();
    let mut writer = FeatureWriter::create(out, network.width(), &metadata)?;
    let view = &subject.evaluation_view;
    let mut images = 0;
    for (split, set) in sets {
        images += set.len();
        let limit = arguments.bad_image_limit;
        let set: Arc<dyn ImageSet> =
            Arc::new(Tolerant::new(set, split, limit, Arc::clone(&bad_images)));
        embed(&network, &set, view, machine, &mut writer)
            .map_err(|error| diverged(&weights, error))?;
    }
    let rows = writer.rows();
    if rows == 0 {
        return Err(bad_input(format!(
            "none of {images} images can be read: see what nearkin data inspect says of them"
        )));
    }
    let written = writer.finish()?;
    if let Some(news) = bad_images.news() {
        say(&format!("warning: {news}"));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut text = format!(
        "{}: {rows} images, {} values each ({}{}), {} left out, {seconds:.1} s\n",
        out.display(),
        network.width(),
        network.what(),
        if arguments.normalize { ", normalized" } else { "" },
        images as u64 - rows,
    );
    text.extend(written.iter().map(|file| format!("wrote {}\n", file.display())));
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Names the weights in an error about features that are not finite.
fn diverged(weights: &Path, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<EvaluationError>() {
        Some(EvaluationError::NotFinite) => error.context(weights.display().to_string()),
        _ => error,
    }
}

/// The file of weights, and the recipe that goes with it.
fn weights(arguments: &Arguments) -> anyhow::Result<(PathBuf, Recipe)> {
    let path = &arguments.run;
    let shown = path.display();
    let (run, recipe) = match trained(path, arguments.recipe.as_deref(), arguments.data.as_deref())?
    {
        Trained::Run(run, recipe) => (run, recipe),
        Trained::Weights(_) if arguments.momentum_encoder => {
            return Err(bad_input(format!(
                "{shown} is one file of weights: leave out --momentum-encoder, and give the file \
                     of the momentum encoder"
            )));
        }
        Trained::Weights(recipe) => return Ok((path.clone(), recipe)),
    };
    let checkpoint = Checkpoint::latest(&run)?
        .ok_or_else(|| bad_input(format!("{shown} has no checkpoint yet: nothing was trained")))?;
    let weights = if arguments.momentum_encoder {
        checkpoint.momentum_encoder()?.ok_or_else(|| {
            bad_input(format!("{shown} has no momentum encoder: leave out --momentum-encoder"))
        })?
    } else {
        checkpoint.model()?
    };
    Ok((weights, recipe))
}

/// The images that were asked for.
fn sets(arguments: &Arguments, recipe: &Recipe) -> anyhow::Result<Vec<(Split, Arc<dyn ImageSet>)>> {
    let Some(path) = &arguments.images else {
        let split = arguments.split.unwrap_or(Split::Train);
        let set = match split {
            Split::Train => recipe.open_training_images(),
            Split::Test => open(&recipe.data, split),
        };
        // Where the place was given, it is not the run that knows an old one.
        let set = set.map_err(|error| match arguments.data {
            Some(_) => error.into(),
            None => hint_at_moved_data(error, recipe),
        })?;
        return Ok(vec![(split, set)]);
    };
    // The names of the features lead to the images from any folder.
    let path = std::path::absolute(path).with_context(|| format!("{}", path.display()))?;
    let source = detect(&path)?;
    let splits = match arguments.split {
        Some(split) => vec![split],
        None => splits(&source)?,
    };
    let mut sets = Vec::with_capacity(splits.len());
    for split in splits {
        sets.push((split, open(&source, split)?));
    }
    Ok(sets)
}

/// What makes the features.
struct Network {
    encoder: Encoder,
    is_projecting: bool,
    normalize: bool,
}

impl Network {
    fn open(arguments: &Arguments, subject: &Subject, device: Device) -> anyhow::Result<Self> {
        let encoder = if arguments.projector {
            subject.encoder_with_projector(device)?
        } else {
            subject.encoder(device)?
        };
        Ok(Self { encoder, is_projecting: arguments.projector, normalize: arguments.normalize })
    }

    fn what(&self) -> &'static str {
        if self.is_projecting { "projector" } else { "backbone" }
    }

    fn width(&self) -> usize {
        let width =
            if self.is_projecting { self.encoder.projections() } else { self.encoder.features() };
        width as usize
    }

    /// `[batch, 3, height, width]` to `[batch, width]` in evaluation mode.
    fn features(&self, images: &Tensor) -> Result<Tensor, EvaluationError> {
        let mut rows = extract(&self.encoder, images)?;
        if self.is_projecting {
            rows = self.encoder.project(&rows)?;
            check_finite(&rows)?;
        }
        if self.normalize {
            rows = unit_rows(&rows)?;
        }
        Ok(rows.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?)
    }
}

/// Appends the features of a set.
fn embed(
    network: &Network,
    set: &Arc<dyn ImageSet>,
    view: &View,
    machine: Machine,
    writer: &mut FeatureWriter,
) -> anyhow::Result<()> {
    let options = machine.features();
    let plan = Sequential::new(set.len(), options.batch_size);
    let loading = LoaderOptions { workers: options.workers, prefetch_batches: 2 };
    let mut values = Vec::new();
    let views = Arc::from([view.clone()]);
    let batches = Loader::start(Arc::clone(set), views, 0, plan, loading);
    for batch in batches.map_err(EvaluationError::from)? {
        let batch = batch.map_err(EvaluationError::from)?;
        let pixels = &batch.views[0];
        if batch.images.is_empty() {
            continue;
        }
        let images =
            images_to_tensor(&pixels.pixels, pixels.size_pixels, network.encoder.device())?;
        let rows = network.features(&images)?;
        values.resize(rows.numel(), 0.0_f32);
        rows.f_copy_data(&mut values, rows.numel())?;
        for (&image, embedding) in batch.images.iter().zip(values.chunks_exact(network.width())) {
            let name = set.name(image);
            writer.push(Row { name: &name, label: set.label(image), embedding })?;
        }
    }
    Ok(())
}
