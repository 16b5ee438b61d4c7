//! What a run says about itself: metrics, TensorBoard, progress, and k-NN accuracy on the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use nearkin_augment::View;
use nearkin_data::ImageSet;
use nearkin_dist::World;
use nearkin_eval::{
    EvaluationError, FeatureOptions, FeatureSource, Knn, KnnResult, Spread, Stop, Votes,
    knn_together,
};
use nearkin_recipe::Neighbours;
use nearkin_report::{
    EventWriter, Kind, MetricsWriter, Progress, ProgressState, Record, ReportError, RunFolder,
    names, read_metrics,
};
use serde::{Deserialize, Serialize};

use crate::meter::{Meter, peak_memory};

/// The value of [`FEATURES`] for pixels.
pub(crate) const PIXELS: &str = "raw pixels";
/// The value of [`FEATURES`] for the backbone.
pub(crate) const BACKBONE: &str = "backbone";
/// Text of a k-NN record: what was compared.
const FEATURES: &str = "features";
const NEIGHBOURS: &str = "k";
const TEMPERATURE: &str = "temperature";
const TOP_5: &str = "top_5_accuracy";

/// A k-NN accuracy with what it means.
#[derive(Clone, Debug)]
pub struct KnnAccuracy {
    /// The result.
    pub result: KnnResult,
    /// Which features of which images, how compared.
    pub definition: String,
    /// How the backbone's features of the test images spread.
    pub spread: Option<Spread>,
}

/// k-NN accuracy of the backbone's features, or of the pixels, with its definition; the processes
/// share the work.
pub fn evaluate_knn(
    source: FeatureSource<'_>,
    [train, test]: [&Arc<dyn ImageSet>; 2],
    view: &View,
    neighbours: &[Neighbours],
    options: FeatureOptions,
    world: &dyn World,
) -> Result<Vec<KnnAccuracy>, EvaluationError> {
    evaluate_knn_until(source, [train, test], view, neighbours, options, world, &|| false)
}

/// [`evaluate_knn`], which ends with [`EvaluationError::Interrupted`] in all processes once `stop` says
/// so in one.
pub(crate) fn evaluate_knn_until(
    source: FeatureSource<'_>,
    [train, test]: [&Arc<dyn ImageSet>; 2],
    view: &View,
    neighbours: &[Neighbours],
    options: FeatureOptions,
    world: &dyn World,
    stop: Stop<'_>,
) -> Result<Vec<KnnAccuracy>, EvaluationError> {
    let votes: Vec<Votes> = neighbours
        .iter()
        .map(|votes| Votes { k: votes.k.get(), temperature: votes.temperature.get() })
        .collect();
    let what = match source {
        FeatureSource::Backbone(_) => "backbone features in evaluation mode",
        FeatureSource::Pixels => "pixels",
    };
    let Knn { results, spread, images } =
        knn_together(source, [train, test], view, &votes, options, world, stop)?;
    let define = |result: KnnResult| KnnAccuracy {
        spread,
        definition: format!(
            "k-NN, {what} of un-augmented images ({} pixels), L2-normalised, cosine, k={}, \
             temperature={}, {} training and {} test images",
            view.size_pixels(),
            result.votes.k,
            result.votes.temperature,
            images[0],
            images[1]
        ),
        result,
    };
    Ok(results.into_iter().map(define).collect())
}

/// Whether a run has a record of the backbone's k-NN accuracy after this step.
pub(crate) fn has_knn(run: &RunFolder, step: u64) -> Result<bool, ReportError> {
    let path = run.metrics();
    if !path.exists() {
        return Ok(false);
    }
    let is_it = |record: &Record| {
        record.kind == Kind::Knn && record.step == step && record.text(FEATURES) == Some(BACKBONE)
    };
    Ok(read_metrics(&path)?.iter().any(is_it))
}

/// k-NN accuracies of a run, by way to vote.
#[derive(Clone, Debug, PartialEq)]
pub struct Baselines {
    /// Neighbours that vote.
    pub k: f64,
    /// Divides the cosine.
    pub temperature: f64,
    /// Of the pixels.
    pub pixels: Option<f64>,
    /// Of the encoder before training.
    pub untrained: Option<f64>,
    /// Of the encoder at the last evaluation.
    pub trained: Option<f64>,
}

impl Baselines {
    /// Read from the records of a run.
    pub fn of(run: &RunFolder) -> Result<Vec<Self>, ReportError> {
        Ok(Self::from_records(&read_metrics(&run.metrics())?))
    }

    pub(crate) fn from_records(records: &[Record]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for record in records.iter().filter(|record| record.kind == Kind::Knn) {
            let (Some(k), Some(temperature)) =
                (record.number(NEIGHBOURS), record.number(TEMPERATURE))
            else {
                continue;
            };
            let known = all.iter().position(|row| (row.k, row.temperature) == (k, temperature));
            let at = known.unwrap_or_else(|| {
                all.push(Self { k, temperature, pixels: None, untrained: None, trained: None });
                all.len() - 1
            });
            let accuracy = record.number(names::ACCURACY);
            match (record.text(FEATURES), record.step) {
                (Some(PIXELS), _) => all[at].pixels = accuracy,
                (_, 0) => all[at].untrained = accuracy,
                _ => all[at].trained = accuracy,
            }
        }
        all
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) step: u64,
    /// From 1.
    pub(crate) epoch: u64,
    pub(crate) seconds: f64,
}

impl Position {
    fn record(self, kind: Kind) -> Record {
        Record::new(kind, self.step, self.epoch, self.seconds)
    }
}

/// What one step measured.
#[derive(Clone, Debug)]
pub(crate) struct StepMetrics {
    pub(crate) loss: f64,
    /// The loss of an encoder that knows nothing, in a step that is recorded.
    pub(crate) reference_loss: Option<f64>,
    /// What was measured of the targets, in a step that is recorded.
    pub(crate) measures: Vec<(&'static str, f64)>,
    pub(crate) learning_rate: f64,
    pub(crate) momentum: Option<f64>,
    /// The step changed nothing, because its loss or a gradient was not finite.
    pub(crate) skipped: bool,
}

/// The losses of the epoch under way, and the measures of its recorded steps; part of a checkpoint, so
/// that the epoch's means survive it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct EpochSums {
    /// Steps that were not skipped.
    steps: u64,
    loss: f64,
    /// Sum and count by name.
    measures: BTreeMap<String, (f64, u64)>,
}

impl EpochSums {
    /// Steps that they sum up.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }
}

/// Images and waiting since the last record or the begin of the epoch.
#[derive(Debug)]
struct Interval {
    images: usize,
    begun: Instant,
    waited: f64,
}

impl Interval {
    fn new() -> Self {
        Self { images: 0, begun: Instant::now(), waited: 0.0 }
    }

    fn add(&mut self, images: usize, waited: f64) {
        self.images += images;
        self.waited += waited;
    }

    /// Images per second, and the share of time that training waited for images.
    fn rates(&self) -> (f64, f64) {
        let seconds = self.begun.elapsed().as_secs_f64().max(1e-9);
        (self.images as f64 / seconds, (self.waited / seconds).min(1.0))
    }
}

/// The files that records go to.
struct Records {
    metrics: MetricsWriter,
    events: EventWriter,
}

/// Writes records and shows progress.
pub(crate) struct Monitor {
    /// None in all processes but the first, whose records stand for all.
    records: Option<Records>,
    progress: Progress,
    recent: Interval,
    epoch: Interval,
    sums: EpochSums,
    every_steps: u64,
    meter: Meter,
    /// Of the last recorded step.
    reference_loss: Option<f64>,
    /// Of the last recorded step that has it, with its chance.
    kin_purity: Option<(f64, f64)>,
}

impl Monitor {
    /// Of a process without a `run` nothing is written.
    pub(crate) fn new(
        run: Option<&RunFolder>,
        begun_at_step: u64,
        every_steps: u64,
        progress: Progress,
        epoch: EpochSums,
        meter: Meter,
    ) -> Result<Self, ReportError> {
        let open = |run: &RunFolder| -> Result<Records, ReportError> {
            if begun_at_step == 0 {
                // A run that was killed before its first checkpoint begins again.
                run.clear_records()?;
                let metrics = MetricsWriter::create(run.metrics())?;
                return Ok(Records { metrics, events: EventWriter::create(&run.events())? });
            }
            let (metrics, _) = MetricsWriter::resume(run.metrics(), begun_at_step)?;
            Ok(Records { metrics, events: EventWriter::resume(&run.events(), begun_at_step)? })
        };
        Ok(Self {
            records: run.map(open).transpose()?,
            progress,
            recent: Interval::new(),
            epoch: Interval::new(),
            sums: epoch,
            every_steps,
            meter,
            reference_loss: None,
            kin_purity: None,
        })
    }

    /// Makes sure that what was recorded so far survives a power loss.
    pub(crate) fn sync(&self) -> Result<(), ReportError> {
        let Some(records) = &self.records else { return Ok(()) };
        records.metrics.sync()?;
        records.events.sync()
    }

    /// Warns, even where no progress is shown, and keeps it.
    pub(crate) fn warn(&mut self, at: Position, message: &str) -> Result<(), ReportError> {
        let Some(records) = &mut self.records else { return Ok(()) };
        let message = format!("warning: {message}");
        self.progress.warning(&message);
        records.metrics.append(&at.record(Kind::Event).with_text(names::MESSAGE, &message))
    }

    /// Says something now and keeps it.
    pub(crate) fn event(&mut self, at: Position, message: &str) -> Result<(), ReportError> {
        self.progress.message(message);
        let Some(records) = &mut self.records else { return Ok(()) };
        records.metrics.append(&at.record(Kind::Event).with_text(names::MESSAGE, message))
    }

    pub(crate) fn step(
        &mut self,
        at: Position,
        metrics: &StepMetrics,
        images: usize,
        waited: f64,
    ) -> Result<(), ReportError> {
        self.recent.add(images, waited);
        self.epoch.add(images, waited);
        if !metrics.skipped {
            self.sums.steps += 1;
            self.sums.loss += metrics.loss;
            for &(name, value) in &metrics.measures {
                let sum = self.sums.measures.entry(name.to_owned()).or_default();
                *sum = (sum.0 + value, sum.1 + 1);
            }
        }
        self.reference_loss = metrics.reference_loss.or(self.reference_loss);
        let measured = |name| {
            let measure = metrics.measures.iter().find(|measure| measure.0 == name);
            measure.map(|measure| measure.1)
        };
        let kin = measured(names::KIN_PURITY).zip(measured(names::KIN_CHANCE));
        self.kin_purity = kin.or(self.kin_purity);
        let (images_per_second, data_wait_share) = self.recent.rates();
        self.progress.update(&ProgressState {
            step: at.step,
            epoch: at.epoch,
            loss: metrics.loss,
            reference_loss: self.reference_loss,
            kin_purity: self.kin_purity,
            images_per_second,
            data_wait_share,
        });
        if !at.step.is_multiple_of(self.every_steps) {
            return Ok(());
        }
        self.recent = Interval::new();
        let mut values = vec![(names::LOSS, metrics.loss)];
        values.extend(metrics.reference_loss.map(|loss| (names::REFERENCE_LOSS, loss)));
        values.push((names::LEARNING_RATE, metrics.learning_rate));
        values.extend(&metrics.measures);
        values.extend(metrics.momentum.map(|momentum| (names::MOMENTUM, momentum)));
        values.push((names::IMAGES_PER_SECOND, images_per_second));
        values.push((names::DATA_WAIT_SHARE, data_wait_share));
        self.write("train", at.record(Kind::Step), &values)
    }

    /// The end of an epoch.
    pub(crate) fn epoch(&mut self, at: Position) -> Result<(), ReportError> {
        let (images_per_second, data_wait_share) = self.epoch.rates();
        let sums = std::mem::take(&mut self.sums);
        let mut values = vec![(names::LOSS, sums.loss / sums.steps.max(1) as f64)];
        let measures = sums.measures.iter();
        let means = measures.map(|(name, &(sum, count))| (name.as_str(), sum / count as f64));
        let (kin, others): (Vec<_>, Vec<_>) =
            means.partition(|(name, _)| [names::KIN_PURITY, names::KIN_CHANCE].contains(name));
        values.extend(kin.into_iter().rev().chain(others));
        values.push((names::IMAGES_PER_SECOND, images_per_second));
        values.push((names::DATA_WAIT_SHARE, data_wait_share));
        let Meter { flop_per_image, matmul_flop_per_second, matmul_precision } = self.meter;
        let flop_per_second = images_per_second * flop_per_image as f64;
        values.push((names::MODEL_FLOP_PER_SECOND, flop_per_second));
        values.push((names::MATMUL_FLOP_PER_SECOND, matmul_flop_per_second));
        values.push((names::MATMUL_SHARE, flop_per_second / matmul_flop_per_second));
        values.extend(peak_memory().map(|bytes| (names::PEAK_MEMORY_BYTES, bytes as f64)));
        let record = at.record(Kind::Epoch).with_text(names::MATMUL_PRECISION, matmul_precision);
        self.write("epoch", record, &values)
    }
    /// What a checkpoint has to know of the epoch under way.
    pub(crate) fn epoch_sums(&self) -> EpochSums {
        self.sums.clone()
    }

    /// Time that is not training (evaluation, checkpoints) does not count towards images/s.
    pub(crate) fn restart_clocks(&mut self, new_epoch: bool) {
        self.recent = Interval::new();
        if new_epoch {
            self.epoch = Interval::new();
        }
    }

    pub(crate) fn knn(
        &mut self,
        at: Position,
        features: &str,
        accuracies: &[KnnAccuracy],
        classes: usize,
    ) -> Result<(), ReportError> {
        let Some(records) = &mut self.records else { return Ok(()) };
        let record = |accuracy: &KnnAccuracy| {
            let KnnResult { votes, top_1, top_5 } = accuracy.result;
            let record = at
                .record(Kind::Knn)
                .with_text(names::DEFINITION, &accuracy.definition)
                .with_text(FEATURES, features)
                .with(NEIGHBOURS, votes.k as f64)
                .with(TEMPERATURE, votes.temperature)
                .with(names::ACCURACY, top_1)
                .with(TOP_5, top_5)
                .with(names::CHANCE_ACCURACY, 1.0 / classes.max(1) as f64);
            let spread = accuracy.spread;
            let spread = [
                (names::RANK_ME, spread.and_then(|spread| spread.rank_me)),
                (names::FEATURE_DEVIATION, spread.and_then(|spread| spread.deviation)),
            ];
            spread.into_iter().fold(record, |record, (name, value)| {
                value.into_iter().fold(record, |record, value| record.with(name, value))
            })
        };
        // Together: a continued run takes one record as a sign that the evaluation is done.
        records.metrics.append_all(&accuracies.iter().map(record).collect::<Vec<_>>())?;
        for KnnAccuracy { result, definition, .. } in accuracies {
            let KnnResult { votes, top_1, top_5 } = result;
            let tag = format!("knn/{features} k={} temperature={}", votes.k, votes.temperature);
            records.events.scalars(at.step, &[(&tag, *top_1)])?;
            self.progress.message(&format!(
                "epoch {}  top-1 {:.2} %  top-5 {:.2} %  ({definition})",
                at.epoch,
                100.0 * top_1,
                100.0 * top_5,
            ));
        }
        if let Some(warning) = accuracies.iter().find_map(|accuracy| accuracy.spread?.warning()) {
            self.event(at, &format!("warning: {warning}"))?;
        }
        Ok(())
    }

    pub(crate) fn finish(self) {
        self.progress.finish();
    }

    /// Writes numbers as part of a record, and as curves of this group.
    fn write(
        &mut self,
        group: &str,
        record: Record,
        values: &[(&str, f64)],
    ) -> Result<(), ReportError> {
        let Some(records) = &mut self.records else { return Ok(()) };
        let step = record.step;
        let record = values.iter().fold(record, |record, &(name, value)| record.with(name, value));
        records.metrics.append(&record)?;
        let tags: Vec<_> = values.iter().map(|(name, _)| format!("{group}/{name}")).collect();
        let tagged: Vec<_> =
            tags.iter().zip(values).map(|(tag, &(_, value))| (tag.as_str(), value)).collect();
        records.events.scalars(step, &tagged)
    }
}
