//! `nearkin eval`

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use nearkin_data::Split;
use nearkin_eval::{FeatureOptions, FeatureSource};
use nearkin_model::{DeviceChoice, Encoder};
use nearkin_report::{RunFolder, table};
use nearkin_train::{Checkpoint, evaluate_knn};

use super::{bad_input, read_setup};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// k-NN accuracy of the newest checkpoint of a run.
    ///
    /// The neighbours are the training images of the run, the queries the images of its test split:
    /// backbone features in evaluation mode, without augmentation, L2-normalised, compared by cosine.
    Knn {
        /// The run's folder.
        run: PathBuf,
        /// Where the images are, if not where the run found them.
        #[arg(long, value_name = "PATH")]
        data: Option<PathBuf>,
        /// auto, cpu or cuda:N.
        #[arg(long, default_value = "auto")]
        device: DeviceChoice,
        /// Threads that read images; no result depends on it.
        #[arg(long, value_name = "N", default_value_t = 1)]
        workers: usize,
        /// Also the pixels themselves, for comparison.
        #[arg(long)]
        pixels: bool,
    },
}

pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Knn { run, data, device, workers, pixels } = command;
    let device = device.open()?;
    let run = RunFolder::open(run)?;
    let setup = read_setup(&run.recipe(), &[], data.as_deref())?;
    let recipe = &setup.recipe;
    let checkpoint = Checkpoint::latest(&run)?
        .ok_or_else(|| bad_input(format!("{} has no checkpoint yet", run.path().display())))?;
    let encoder = Encoder::new(&recipe.model, 0, device, tch::Kind::Float)?;
    checkpoint.restore_encoder(&encoder)?;

    let train = recipe.open_training_images()?;
    let test = nearkin_data::open(&recipe.data, Split::Test)?;
    let options =
        FeatureOptions { batch_size: NonZeroUsize::MIN.saturating_add(255), workers: *workers };
    let knn = |source, view: &nearkin_augment::View| {
        let votes = &recipe.evaluation.neighbours;
        evaluate_knn(source, [&train, &test], view, votes, options)
    };
    let backbone = FeatureSource::Backbone(&encoder);
    let mut results = vec![("encoder", knn(backbone, &recipe.evaluation_view()?)?)];
    if *pixels {
        results.push(("raw pixels", knn(FeatureSource::Pixels, &recipe.pixel_view()?)?));
    }
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let rows: Vec<Vec<String>> = results
        .iter()
        .flat_map(|(name, accuracies)| accuracies.iter().map(move |accuracy| (name, accuracy)))
        .map(|(name, accuracy)| {
            let result = &accuracy.result;
            let (top_1, top_5) = (percent(result.top_1), percent(result.top_5));
            vec![(*name).to_owned(), top_1, top_5, accuracy.definition.clone()]
        })
        .collect();
    println!("{}, step {}", run.path().display(), checkpoint.progress.step);
    print!("{}", table::render(&["features", "top-1 %", "top-5 %", "definition"], &rows));
    Ok(ExitCode::SUCCESS)
}
