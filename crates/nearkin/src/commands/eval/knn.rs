//! `nearkin eval knn`

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nearkin_dist::SingleProcess;
use nearkin_eval::FeatureSource;
use nearkin_probe::{knn, knn_scores};
use nearkin_recipe::{Neighbours, Positive};
use nearkin_report::table;
use nearkin_train::evaluate_knn;

use super::{Common, heading, sets, warn};
use crate::output::print;

/// k-NN accuracy of the newest checkpoint of a run.
///
/// The neighbours are the training images of the run, the queries the images of its test split:
/// backbone features in evaluation mode, without augmentation, L2-normalised, compared by cosine.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The run's folder, or a safetensors file with --recipe.
    run: PathBuf,
    #[command(flatten)]
    common: Common,
    /// How many neighbours vote, a list such as 20,200; with --temperature instead of the votes of the
    /// recipe. Every combination of the two lists is reported.
    #[arg(long, alias = "neighbours", value_name = "K", value_delimiter = ',')]
    neighbors: Vec<NonZeroUsize>,
    /// What divides the cosine, a list such as 0.07,0.1.
    #[arg(long, value_name = "T", value_delimiter = ',', value_parser = temperature)]
    temperature: Vec<Positive>,
    /// Also the pixels themselves, for comparison.
    #[arg(long)]
    pixels: bool,
}

fn temperature(text: &str) -> Result<Positive, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    Positive::try_from(number)
}

/// Every combination of the two lists, or the votes of the recipe; what one list leaves open the
/// recipe's votes say.
pub(super) fn votes(
    neighbors: &[NonZeroUsize],
    temperatures: &[Positive],
    recipe: &[Neighbours],
) -> Vec<Neighbours> {
    if neighbors.is_empty() && temperatures.is_empty() {
        return recipe.to_vec();
    }
    let mut votes: Vec<Neighbours> = Vec::new();
    let counts: Vec<_> = match neighbors {
        [] => recipe.iter().map(|vote| vote.k).collect(),
        given => given.to_vec(),
    };
    let temperatures: Vec<_> = match temperatures {
        [] => recipe.iter().map(|vote| vote.temperature).collect(),
        given => given.to_vec(),
    };
    for k in counts {
        for &temperature in &temperatures {
            let vote = Neighbours { k, temperature };
            if !votes.contains(&vote) {
                votes.push(vote);
            }
        }
    }
    votes
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let common = &arguments.common;
    let machine = common.machine()?;
    let subject = common.subject(&arguments.run)?;
    let recipe = &subject.recipe;
    let [train, test] = sets(&subject)?;
    let votes = votes(&arguments.neighbors, &arguments.temperature, &recipe.evaluation.neighbours);
    let mut results = vec![("encoder", "k-NN", knn(&subject, [&train, &test], &votes, machine)?)];
    if arguments.pixels {
        let (source, view) = (FeatureSource::Pixels, recipe.pixel_view()?);
        let options = machine.features();
        let pixels = evaluate_knn(source, [&train, &test], &view, &votes, options, &SingleProcess)?;
        results.push(("raw pixels", "k-NN of raw pixels", pixels));
    }
    if common.json {
        let scores = results.iter().flat_map(|(_, what, results)| knn_scores(what, results));
        return common.show(&subject, scores.collect());
    }
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let rows: Vec<Vec<String>> = results
        .iter()
        .flat_map(|(name, _, accuracies)| accuracies.iter().map(move |accuracy| (name, accuracy)))
        .map(|(name, accuracy)| {
            let result = &accuracy.result;
            let (top_1, top_5) = (percent(result.top_1), percent(result.top_5));
            vec![(*name).to_owned(), top_1, top_5, accuracy.definition.clone()]
        })
        .collect();
    let headers = ["features", "top-1 %", "top-5 %", "definition"];
    warn(&subject);
    print(&(heading(&subject) + &table::render(&headers, &rows)))?;
    Ok(ExitCode::SUCCESS)
}
