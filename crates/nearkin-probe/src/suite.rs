//! Everything that the data allows, in one go.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_data::{ImageSet, Split, Subset, has_split};
use nearkin_dist::Alone;
use nearkin_eval::{FeatureSource, Quality, quality};
use nearkin_recipe::Neighbours;
use nearkin_train::{KnnAccuracy, evaluate_knn};

use crate::{
    AveragePrecision, Labels, LinearOptions, LinearPreset, Machine, ProbeError, Score, SemiOptions,
    SemiPreset, Subject, Target, TransferOptions, Unit, linear, semi, transfer,
};

/// What belongs to the suite, and what of it is not as published.
pub struct SuiteOptions {
    /// k-NN by the recipe's votes, or by these.
    pub votes: Option<Vec<Neighbours>>,
    /// Leave out k-NN.
    pub without_knn: bool,
    /// Leave out the measures that need no labels.
    pub without_quality: bool,
    /// Linear probes.
    pub linear: Vec<LinearPreset>,
    /// Semi-supervised evaluations, and the shares of labels of each.
    pub semi: Vec<(SemiPreset, f64)>,
    /// Data sets to transfer to.
    pub targets: Vec<Target>,
    /// Fine-tune on them too.
    pub fine_tune: bool,
    /// Epochs of everything that is trained.
    pub epochs: Option<u64>,
    /// Images of a step of everything that is trained.
    pub batch_size: Option<NonZeroUsize>,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

/// Images whose features are measured at most: the kernel of uniformity grows with their square.
const MEASURED_IMAGES: usize = 10_000;

/// Evaluates one subject; `say` hears of each part before it begins, and of what the data does not
/// allow.
pub fn suite(
    subject: &Subject,
    options: &SuiteOptions,
    machine: Machine,
    say: &dyn Fn(&str),
) -> Result<Vec<Score>, ProbeError> {
    let mut scores = Vec::new();
    if !options.without_quality {
        say("quality without labels");
        let (quality, set) = quality_of(subject, machine)?;
        if let Some(warning) = quality.spread.warning() {
            say(&format!("warning: {warning}"));
        }
        scores.extend(quality_scores(&quality, set));
    }
    let train = subject.images(Split::Train)?;
    let test = match has_split(&subject.recipe.data, Split::Test)? {
        true => Some(subject.images(Split::Test)?),
        false => None,
    };
    match test {
        Some(test) if train.has_labels() && test.has_labels() => {
            with_labels(subject, [&train, &test], options, machine, say, &mut scores)?;
        }
        _ if train.has_several_labels() => {
            say(
                "the images have several labels each: nothing else is measured on them but by transfer \
                 (--to)",
            );
        }
        _ => {
            say(
                "the data has no labelled training and test images: nothing else is measured on it",
            );
        }
    }
    for target in &options.targets {
        let transfer_options = TransferOptions {
            fine_tune: options.fine_tune,
            epochs: options.epochs,
            batch_size: options.batch_size,
            seed: options.seed,
            average_precision: AveragePrecision::default(),
        };
        say("transfer");
        scores.extend(transfer(subject, target, transfer_options, machine)?);
    }
    Ok(scores)
}

fn with_labels(
    subject: &Subject,
    sets: [&Arc<dyn ImageSet>; 2],
    options: &SuiteOptions,
    machine: Machine,
    say: &dyn Fn(&str),
    scores: &mut Vec<Score>,
) -> Result<(), ProbeError> {
    if !options.without_knn {
        say("k-NN");
        let votes = options.votes.as_ref().unwrap_or(&subject.recipe.evaluation.neighbours);
        let encoder = subject.encoder(machine.device)?;
        let view = subject.recipe.evaluation_view()?;
        let source = FeatureSource::Backbone(&encoder);
        let accuracies = evaluate_knn(source, sets, &view, votes, machine.features(), &Alone)?;
        scores.extend(knn_scores("k-NN", &accuracies));
    }
    let SuiteOptions { epochs, batch_size, seed, .. } = *options;
    for &preset in &options.linear {
        say(&format!("linear {preset}"));
        let options = LinearOptions { preset, epochs, batch_size, seed };
        scores.extend(linear(subject, sets, options, machine)?);
    }
    for &(preset, share) in &options.semi {
        say(&format!("semi-supervised {preset}, {} % of the labels", 100.0 * share));
        let labels = Labels::Share(share);
        let options = SemiOptions { preset, labels, epochs, batch_size, seed };
        scores.extend(semi(subject, sets, &options, machine)?);
    }
    Ok(())
}

/// k-NN accuracies as scores.
pub fn knn_scores(what: &str, accuracies: &[KnnAccuracy]) -> Vec<Score> {
    let score = |accuracy: &KnnAccuracy| {
        let votes = accuracy.result.votes;
        let score = |metric, value| Score {
            protocol: format!("{what} k={} temperature={}", votes.k, votes.temperature),
            metric,
            value,
            unit: Unit::Share,
            definition: accuracy.definition.clone(),
        };
        [score("top-1", accuracy.result.top_1), score("top-5", accuracy.result.top_5)]
    };
    accuracies.iter().flat_map(score).collect()
}

/// Measures the test images of the subject's data, or its training images where there are no others;
/// and which of the two.
pub fn quality_of(subject: &Subject, machine: Machine) -> Result<(Quality, Split), ProbeError> {
    let split = match has_split(&subject.recipe.data, Split::Test)? {
        true => Split::Test,
        false => Split::Train,
    };
    let set = subject.images(split)?;
    // Spread over the set, which may lie in the order of its classes.
    let every = set.len().div_ceil(MEASURED_IMAGES);
    let few = (0..set.len()).step_by(every.max(1)).collect();
    let set: Arc<dyn ImageSet> = Arc::new(Subset::of(set, few));
    let encoder = subject.encoder(machine.device)?;
    let view = subject.recipe.evaluation_view()?;
    let views = subject.recipe.training_views()?;
    let pair = [&views[0], views.get(1).unwrap_or(&views[0])];
    let source = FeatureSource::Backbone(&encoder);
    Ok((quality(source, &set, &view, pair, machine.features())?, split))
}

/// Measures without labels, as scores.
pub fn quality_scores(quality: &Quality, split: Split) -> Vec<Score> {
    let of = format!(
        "backbone features in evaluation mode, L2-normalised, {} {split} images",
        quality.images
    );
    let score = |metric, value, definition: &str| Score {
        protocol: "quality".to_owned(),
        metric,
        value,
        unit: Unit::Number,
        definition: format!("{definition}; {of}"),
    };
    let spread = quality.spread;
    let even = 1.0 / (spread.length as f64).sqrt();
    vec![
        score("RankMe", spread.rank_me, &format!("effective rank, from 1 to {}", spread.length)),
        score(
            "standard deviation",
            spread.deviation,
            &format!("per dimension, mean; evenly spread features have {even:.4}"),
        ),
        score("uniformity", quality.uniformity, "log mean exp(-2 |x - y|^2), lower is more even"),
        score(
            "alignment",
            quality.alignment,
            "mean |x - y|^2 of the first two views of training, lower is closer",
        ),
    ]
}
