//! Everything that the data allows, in one go.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_data::{ImageSet, Split, Subset, has_split};
use nearkin_dist::SingleProcess;
use nearkin_eval::{FeatureSource, Quality, quality};
use nearkin_recipe::Neighbours;
use nearkin_train::{KnnAccuracy, evaluate_knn};
use sha2::{Digest, Sha256};

use crate::sets::add_to_digest;
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

impl SuiteOptions {
    fn needs_labels(&self) -> bool {
        !self.without_knn || !self.linear.is_empty() || !self.semi.is_empty()
    }

    /// The options of what is trained that are not the defaults, as they stand in
    /// [`Score::settings`].
    fn of_training(&self) -> String {
        let epochs = self.epochs.map(|epochs| format!(", epochs={epochs}"));
        let batch_size = self.batch_size.map(|images| format!(", batch_size={images}"));
        epochs.unwrap_or_default() + &batch_size.unwrap_or_default() + &self.of_drawing()
    }

    fn of_drawing(&self) -> String {
        if self.seed == 0 { String::new() } else { format!(", seed={}", self.seed) }
    }
}

/// Who follows a suite.
pub struct Listener<'a> {
    /// Hears of each part before it begins, and of what the data does not allow.
    pub say: &'a dyn Fn(&str),
    /// Gets the scores of each part that was computed, as soon as they are there.
    pub done: &'a mut dyn FnMut(&[Score]) -> Result<(), ProbeError>,
}

/// Images whose features are measured at most: the kernel of uniformity grows with their square.
const MEASURED_IMAGES: usize = 10_000;

/// Raise it where a protocol measures something else than before: what an earlier version measured is
/// then computed again.
const REVISION: u32 = 1;

/// One evaluation of a suite.
struct Part<'a> {
    what: What<'a>,
    /// Said before it begins.
    title: String,
    /// [`Score::settings`] of everything it measures.
    settings: Vec<String>,
    /// [`Score::inputs`].
    inputs: String,
}

enum What<'a> {
    Quality(Arc<dyn ImageSet>, Split),
    Knn([Arc<dyn ImageSet>; 2], &'a [Neighbours]),
    Linear([Arc<dyn ImageSet>; 2], LinearPreset),
    Semi([Arc<dyn ImageSet>; 2], SemiPreset, f64),
    Transfer(&'a Target),
}

/// Evaluates one subject. Parts whose scores are among the `known` ones, measured with the same
/// settings on the same images, are not computed again.
pub fn suite(
    subject: &Subject,
    options: &SuiteOptions,
    machine: Machine,
    known: &[Score],
    listener: &mut Listener<'_>,
) -> Result<Vec<Score>, ProbeError> {
    let mut scores = Vec::new();
    for part in parts(subject, options, listener.say)? {
        let found = part.known(known);
        if !found.is_empty() {
            (listener.say)(&format!("{}: known", part.title));
            scores.extend(found);
            continue;
        }
        (listener.say)(&part.title);
        let mut new = part.measure(subject, options, machine, listener.say)?;
        for score in &mut new {
            part.sign(score);
        }
        (listener.done)(&new)?;
        scores.extend(new);
    }
    Ok(scores)
}

/// What the data allows of what was asked for.
fn parts<'a>(
    subject: &'a Subject,
    options: &'a SuiteOptions,
    say: &dyn Fn(&str),
) -> Result<Vec<Part<'a>>, ProbeError> {
    let mut parts = Vec::new();
    let has_test = has_split(&subject.recipe.data, Split::Test)?;
    let open = |split| subject.open(split);
    let tolerate = |set, split| subject.tolerate(set, split);
    if !options.without_quality {
        let split = if has_test { Split::Test } else { Split::Train };
        let set = open(split)?;
        parts.push(Part {
            inputs: inputs(subject, [&set]),
            what: What::Quality(tolerate(set, split), split),
            title: "quality without labels".to_owned(),
            settings: vec![QUALITY.to_owned()],
        });
    }
    if options.needs_labels() {
        let train = open(Split::Train)?;
        let test = has_test.then(|| open(Split::Test)).transpose()?;
        match test {
            Some(test) if train.has_labels() && test.has_labels() => {
                let inputs = inputs(subject, [&train, &test]);
                let sets = [tolerate(train, Split::Train), tolerate(test, Split::Test)];
                parts.extend(with_labels(subject, options, &sets, &inputs));
            }
            _ if train.has_several_labels() => {
                say(
                    "the images have several labels each: nothing else is measured on them but by \
                 transfer (--to)",
                );
            }
            _ => say(
                "the data has no labelled training and test images: nothing else is measured on it",
            ),
        }
    }
    for target in &options.targets {
        let name = target.name();
        let mut settings = vec![format!("transfer linear {name}{}", options.of_drawing())];
        if options.fine_tune {
            settings.push(format!("transfer fine-tuned {name}{}", options.of_training()));
        }
        parts.push(Part {
            what: What::Transfer(target),
            title: format!("transfer to {name}"),
            settings,
            inputs: inputs(subject, target.sets()),
        });
    }
    Ok(parts)
}

fn with_labels<'a>(
    subject: &'a Subject,
    options: &'a SuiteOptions,
    sets: &[Arc<dyn ImageSet>; 2],
    inputs: &str,
) -> Vec<Part<'a>> {
    let sets = || sets.each_ref().map(Arc::clone);
    let part = |what, title, settings| Part { what, title, settings, inputs: inputs.to_owned() };
    let mut parts = Vec::new();
    if !options.without_knn {
        let votes = options.votes.as_ref().unwrap_or(&subject.recipe.evaluation.neighbours);
        let settings =
            votes.iter().map(|vote| knn_protocol("k-NN", vote.k.get(), vote.temperature.get()));
        let settings = settings.collect();
        parts.push(part(What::Knn(sets(), votes), "k-NN".to_owned(), settings));
    }
    for &preset in &options.linear {
        let title = format!("linear {preset}");
        let settings = vec![title.clone() + &options.of_training()];
        parts.push(part(What::Linear(sets(), preset), title, settings));
    }
    for &(preset, share) in &options.semi {
        let percent = 100.0 * share;
        let title = format!("semi-supervised {preset}, {percent} % of the labels");
        let settings = vec![format!("semi {preset} {percent} %{}", options.of_training())];
        parts.push(part(What::Semi(sets(), preset, share), title, settings));
    }
    parts
}

/// [`Score::inputs`] of an evaluation on these sets.
fn inputs<'s>(subject: &Subject, sets: impl IntoIterator<Item = &'s Arc<dyn ImageSet>>) -> String {
    let mut digest = Sha256::new();
    digest.update(REVISION.to_le_bytes());
    // Data is named by its images, wherever it is.
    for (key, value) in subject.recipe.keys_of_training() {
        digest.update(format!("{key} = {value}\n"));
    }
    for set in sets {
        add_to_digest(&mut digest, &**set);
    }
    let bytes = digest.finalize();
    bytes.iter().take(16).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

impl Part<'_> {
    /// The scores of this part among those that are known; none if some are missing.
    fn known(&self, known: &[Score]) -> Vec<Score> {
        let found: Vec<Score> = known
            .iter()
            .filter(|score| score.inputs == self.inputs && self.settings.contains(&score.settings))
            .cloned()
            .collect();
        let is_found = |settings: &String| found.iter().any(|score| score.settings == *settings);
        if self.settings.iter().all(is_found) { found } else { Vec::new() }
    }

    /// Notes with a score how it was measured.
    fn sign(&self, score: &mut Score) {
        let rest = |settings: &&String| {
            let rest = settings.strip_prefix(&score.protocol);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(", "))
        };
        score.settings = self.settings.iter().find(rest).cloned().unwrap_or_default();
        score.inputs.clone_from(&self.inputs);
    }

    fn measure(
        &self,
        subject: &Subject,
        options: &SuiteOptions,
        machine: Machine,
        say: &dyn Fn(&str),
    ) -> Result<Vec<Score>, ProbeError> {
        let SuiteOptions { epochs, batch_size, seed, .. } = *options;
        match &self.what {
            What::Quality(set, split) => {
                let quality = quality_of_set(subject, set, machine)?;
                if let Some(warning) = quality.spread.warning() {
                    say(&format!("warning: {warning}"));
                }
                Ok(quality_scores(&quality, *split))
            }
            What::Knn([train, test], votes) => {
                Ok(knn_scores("k-NN", &knn(subject, [train, test], votes, machine)?))
            }
            What::Linear([train, test], preset) => {
                let options = LinearOptions { preset: *preset, epochs, batch_size, seed };
                linear(subject, [train, test], options, machine)
            }
            What::Semi([train, test], preset, share) => {
                let labels = Labels::Share(*share);
                let options = SemiOptions { preset: *preset, labels, epochs, batch_size, seed };
                semi(subject, [train, test], &options, machine)
            }
            What::Transfer(target) => {
                let options = TransferOptions {
                    fine_tune: options.fine_tune,
                    epochs,
                    batch_size,
                    seed,
                    average_precision: AveragePrecision::default(),
                };
                transfer(subject, target, options, machine)
            }
        }
    }
}

/// k-NN accuracies of the backbone's features of a subject.
pub fn knn(
    subject: &Subject,
    sets: [&Arc<dyn ImageSet>; 2],
    votes: &[Neighbours],
    machine: Machine,
) -> Result<Vec<KnnAccuracy>, ProbeError> {
    let encoder = subject.encoder(machine.device)?;
    let source = FeatureSource::Backbone(&encoder);
    evaluate_knn(source, sets, &subject.evaluation_view, votes, machine.features(), &SingleProcess)
        .map_err(|error| subject.blame(error.into()))
}

fn knn_protocol(what: &str, k: usize, temperature: f64) -> String {
    format!("{what} k={k} temperature={temperature}")
}

/// k-NN accuracies as scores.
pub fn knn_scores(what: &str, accuracies: &[KnnAccuracy]) -> Vec<Score> {
    let score = |accuracy: &KnnAccuracy| {
        let result = &accuracy.result;
        let protocol = knn_protocol(what, result.votes.k, result.votes.temperature);
        [("top-1", result.top_1), ("top-5", result.top_5)].map(|(metric, value)| {
            Score::new(&protocol, metric, (value, Unit::Share), &accuracy.definition)
        })
    };
    accuracies.iter().flat_map(score).collect()
}

/// The protocol of the measures without labels.
const QUALITY: &str = "quality";

/// Measures the test images of the subject's data, or its training images where there are no others;
/// and which of the two.
pub fn quality_of(subject: &Subject, machine: Machine) -> Result<(Quality, Split), ProbeError> {
    let split =
        if has_split(&subject.recipe.data, Split::Test)? { Split::Test } else { Split::Train };
    let set = subject.images(split)?;
    Ok((quality_of_set(subject, &set, machine)?, split))
}

fn quality_of_set(
    subject: &Subject,
    set: &Arc<dyn ImageSet>,
    machine: Machine,
) -> Result<Quality, ProbeError> {
    // Spread over the set, which may be in the order of its classes.
    let every = set.len().div_ceil(MEASURED_IMAGES);
    let few = (0..set.len()).step_by(every.max(1)).collect();
    let set: Arc<dyn ImageSet> = Arc::new(Subset::of(Arc::clone(set), few));
    let encoder = subject.encoder(machine.device)?;
    let views = subject.recipe.training_views()?;
    let pair = [&views[0], views.get(1).unwrap_or(&views[0])];
    let source = FeatureSource::Backbone(&encoder);
    quality(source, &set, &subject.evaluation_view, pair, machine.features())
        .map_err(|error| subject.blame(error.into()))
}

/// Measures without labels, as scores; those that are not defined for a single image are left out.
pub fn quality_scores(quality: &Quality, split: Split) -> Vec<Score> {
    let of = format!(
        "backbone features in evaluation mode, L2-normalised, {} {split} images",
        quality.images
    );
    let spread = quality.spread;
    let even = 1.0 / (spread.length as f64).sqrt();
    let scores = [
        ("RankMe", spread.rank_me, format!("effective rank, from 1 to {}", spread.length)),
        (
            "standard deviation",
            spread.deviation,
            format!("per dimension, mean; evenly spread features have {even:.4}"),
        ),
        (
            "uniformity",
            quality.uniformity,
            "log mean exp(-2 |x - y|^2), lower is more even".to_owned(),
        ),
        (
            "alignment",
            Some(quality.alignment),
            "mean |x - y|^2 of the first two views of training, lower is closer".to_owned(),
        ),
    ];
    let score = |(metric, value, definition): (&'static str, Option<f64>, String)| {
        let value = (value?, Unit::Number);
        Some(Score::new(QUALITY, metric, value, &format!("{definition}; {of}")))
    };
    scores.into_iter().filter_map(score).collect()
}
