//! Whether a run beat its baselines, and what it knows of the usual reasons if it did not.

use nearkin_eval::Spread;
use nearkin_recipe::{Recipe, UpdateRule};
use nearkin_report::{Kind, Record, Verdict, names};

use crate::monitor::Baselines;

/// Reasons that are given at most.
const MOST_REASONS: usize = 4;
/// A loss above this share of the chance level has hardly fallen.
const NEAR_CHANCE: f64 = 0.97;
/// Below this number of epochs, and of images seen, a training is short.
const FEW_EPOCHS: u64 = 100;
const FEW_IMAGES_SEEN: u64 = 20_000_000;
/// Below this number of training images there is little to learn from.
const FEW_IMAGES: usize = 5_000;
/// Temperatures that methods are published with, with some room.
const USUAL_TEMPERATURES: std::ops::RangeInclusive<f64> = 0.03..=0.5;
/// Views of more anchors than this share are told from all other candidates.
const TOO_EASY: f64 = 0.95;
/// Transforms that change colors.
const COLOR_TRANSFORMS: [&str; 4] = ["color_jitter", "grayscale", "rand_augment", "clsa_strong"];

/// What a run knows about itself.
pub(crate) struct Facts<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) records: &'a [Record],
    pub(crate) training_images: usize,
    /// Length of a backbone feature.
    pub(crate) features: i64,
}

/// What to say of a finished run whose encoder does not beat raw pixels, or the untrained encoder, by
/// some vote; nothing if it beats both, or was not evaluated.
pub(crate) fn verdict(facts: &Facts<'_>) -> Option<Verdict> {
    let rows = Baselines::from_records(facts.records);
    let pixels = not_beaten(&rows, "raw pixels", |row| row.pixels);
    let untrained = not_beaten(&rows, "the untrained encoder", |row| row.untrained);
    let baselines: Vec<String> = pixels.into_iter().chain(untrained).collect();
    if baselines.is_empty() {
        return None;
    }
    let finding = format!("The trained encoder does not beat {}", baselines.join(" or "));
    Some(Verdict { finding, reasons: facts.reasons() })
}

/// The baseline with the votes by which it is as good as the trained encoder, or better.
fn not_beaten(
    rows: &[Baselines],
    name: &str,
    baseline: impl Fn(&Baselines) -> Option<f64>,
) -> Option<String> {
    let vote = |row: &Baselines| {
        let is_same = |other: &&Baselines| other.k == row.k;
        match rows.iter().filter(is_same).count() {
            1 => format!("k = {}", row.k),
            _ => format!("k = {}, temperature {}", row.k, row.temperature),
        }
    };
    let votes: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let (trained, baseline) = row.trained.zip(baseline(row))?;
            let (own, other) = (100.0 * trained, 100.0 * baseline);
            (trained <= baseline).then(|| format!("{}: {own:.2} % against {other:.2} %", vote(row)))
        })
        .collect();
    (!votes.is_empty()).then(|| format!("{name} ({})", votes.join("; ")))
}

impl Facts<'_> {
    fn reasons(&self) -> Vec<String> {
        let known = [
            self.collapse(),
            self.loss_near_chance(),
            self.learning_rate(),
            self.temperature(),
            self.queue(),
            self.easy_task(),
            self.colors(),
            self.short_training(),
            self.few_images(),
        ];
        let mut reasons: Vec<String> = known.into_iter().flatten().take(MOST_REASONS).collect();
        if reasons.is_empty() {
            reasons.push(
                "none is evident; the usual ones are a learning rate or temperature that does not fit \
                 the data, and augmentation that is too weak or too strong"
                    .to_owned(),
            );
        }
        reasons
    }

    /// The last number of that name in records of a kind.
    fn last(&self, kind: Kind, name: &str) -> Option<f64> {
        let mut records = self.records.iter().rev().filter(|record| record.kind == kind);
        records.find_map(|record| record.number(name))
    }

    fn collapse(&self) -> Option<String> {
        let spread = Spread {
            rank_me: self.last(Kind::Knn, names::RANK_ME),
            deviation: self.last(Kind::Knn, names::FEATURE_DEVIATION),
            length: self.features,
            images: i64::MAX,
        };
        spread.rank_me?;
        spread.warning().map(|warning| {
            format!("{warning}; a smaller optimizer.learning_rate usually prevents that")
        })
    }

    fn loss_near_chance(&self) -> Option<String> {
        let loss = self.last(Kind::Epoch, names::LOSS)?;
        let chance = self.last(Kind::Step, names::REFERENCE_LOSS)?;
        (chance > 0.0 && loss > NEAR_CHANCE * chance).then(|| {
            format!(
                "the loss ({loss:.3}) is still near chance ({chance:.3}): optimizer.learning_rate may be \
                 far too small or too large"
            )
        })
    }

    /// Peak learning rates far from those of published recipes.
    fn learning_rate(&self) -> Option<String> {
        let optimizer = &self.recipe.optimizer;
        let (name, usual) = match optimizer.rule {
            UpdateRule::Sgd { .. } => ("SGD", 0.003..=2.0),
            UpdateRule::Lars { .. } => ("LARS", 0.02..=20.0),
            UpdateRule::AdamW { .. } => ("AdamW", 2e-5..=1e-2),
        };
        let rate = optimizer.scaled_learning_rate(self.recipe.images_per_step());
        (!usual.contains(&rate)).then(|| {
            format!(
                "a peak learning rate of {rate} is unusual for {name}: {} to {} are common",
                usual.start(),
                usual.end()
            )
        })
    }

    fn temperature(&self) -> Option<String> {
        let value = self.recipe.method.get("temperature")?;
        let value = value.as_float().or_else(|| value.as_integer().map(|value| value as f64))?;
        (!USUAL_TEMPERATURES.contains(&value))
            .then(|| format!("method.temperature = {value} is unusual: 0.07 to 0.5 are common"))
    }

    fn queue(&self) -> Option<String> {
        let (size, images) = (self.recipe.queue?.size.get(), self.training_images);
        (size >= images).then(|| {
            format!(
                "queue.size = {size} is not smaller than the {images} training images: an image meets \
                 its own old keys as negatives"
            )
        })
    }

    fn easy_task(&self) -> Option<String> {
        let agreement = self.last(Kind::Epoch, "agreement")?;
        // Two candidates, or only the own key, say nothing about the task.
        let has_candidates = self.last(Kind::Step, names::REFERENCE_LOSS)? > 2.0;
        (has_candidates && agreement > TOO_EASY).then(|| {
            format!(
                "the own view is the nearest candidate of {:.0} % of the anchors: stronger \
                 augmentation makes the task harder",
                100.0 * agreement
            )
        })
    }

    fn colors(&self) -> Option<String> {
        let text = self.recipe.to_text();
        (!COLOR_TRANSFORMS.iter().any(|transform| text.contains(transform))).then(|| {
            "no view changes colors (color_jitter), so colors alone can tell which views belong together"
                .to_owned()
        })
    }

    fn short_training(&self) -> Option<String> {
        let (epochs, images) = (self.recipe.training.epochs.get(), self.training_images);
        let is_short =
            epochs < FEW_EPOCHS && epochs.saturating_mul(images as u64) < FEW_IMAGES_SEEN;
        is_short.then(|| {
            format!(
                "{epochs} epoch(s) of {images} images are a short training: published runs on small \
                 images take 200 epochs or more"
            )
        })
    }

    fn few_images(&self) -> Option<String> {
        let images = self.training_images;
        (images < FEW_IMAGES).then(|| {
            format!("{images} training images are few: contrastive learning needs thousands")
        })
    }
}

#[cfg(test)]
mod tests {
    use nearkin_recipe::Source;

    use super::*;

    fn recipe(changes: &[&str]) -> Recipe {
        let text = "
            [data]
            dataset = \"shapes\"
            [method]
            name = \"moco\"
            temperature = 0.2
            [model]
            backbone = \"resnet18\"
            stem = \"cifar\"
            projector = [{ width = 8 }]
            [momentum_encoder]
            momentum = 0.99
            [queue]
            size = 4096
            [training]
            epochs = 200
            batch_size = 256
            [optimizer]
            name = \"sgd\"
            learning_rate = 0.03
            [[views]]
            name = \"first\"
            transforms = [{ random_resized_crop = { size = 32 } }, { color_jitter = { hue = 0.1 } }]
            [[views]]
            name = \"second\"
            transforms = [{ random_resized_crop = { size = 32 } }, { color_jitter = { hue = 0.1 } }]";
        let mut source = Source::parse("test", text.to_owned()).unwrap();
        for change in changes {
            source.set(&change.parse().unwrap()).unwrap();
        }
        source.recipe().unwrap()
    }

    /// k-NN at k = 20 of raw pixels, the untrained and the trained encoder, and what else is recorded.
    fn records(accuracies: [f64; 3], rank_me: f64, loss: f64, agreement: f64) -> Vec<Record> {
        let knn = |step, features: &str, accuracy| {
            Record::new(Kind::Knn, step, step, 1.0)
                .with_text("features", features)
                .with("k", 20.0)
                .with("temperature", 0.07)
                .with(names::ACCURACY, accuracy)
        };
        vec![
            knn(0, "raw pixels", accuracies[0]),
            knn(0, "backbone", accuracies[1]).with(names::RANK_ME, 30.0),
            Record::new(Kind::Step, 10, 1, 1.0).with(names::REFERENCE_LOSS, 8.318),
            Record::new(Kind::Epoch, 10, 1, 1.0)
                .with(names::LOSS, loss)
                .with("agreement", agreement),
            knn(10, "backbone", accuracies[2])
                .with(names::RANK_ME, rank_me)
                .with(names::FEATURE_DEVIATION, 0.03),
        ]
    }

    fn judged(recipe: &Recipe, records: &[Record], training_images: usize) -> Option<Verdict> {
        verdict(&Facts { recipe, records, training_images, features: 512 })
    }

    #[test]
    fn an_encoder_that_beats_its_baselines_is_not_commented() {
        let records = records([0.39, 0.29, 0.60], 50.0, 6.0, 0.7);
        assert_eq!(judged(&recipe(&[]), &records, 50_000), None);
        // Nor is one that was never evaluated.
        assert_eq!(judged(&recipe(&[]), &records[..4], 50_000), None);
    }

    #[test]
    fn the_baseline_is_named_with_both_accuracies() {
        let finding = |accuracies| {
            let records = records(accuracies, 50.0, 6.0, 0.7);
            judged(&recipe(&[]), &records, 50_000).unwrap().finding
        };
        assert_eq!(
            finding([0.3966, 0.2897, 0.3774]),
            "The trained encoder does not beat raw pixels (k = 20: 37.74 % against 39.66 %)"
        );
        // As good is not better.
        assert_eq!(
            finding([0.1, 0.3, 0.3]),
            "The trained encoder does not beat the untrained encoder (k = 20: 30.00 % against 30.00 %)"
        );
        let both = finding([0.4, 0.3, 0.1]);
        assert!(
            both.ends_with("or the untrained encoder (k = 20: 10.00 % against 30.00 %)"),
            "{both}"
        );
    }

    #[test]
    fn reasons_are_what_the_run_shows() {
        let reasons = |changes: &[&str], (rank_me, loss, agreement), images| {
            let records = records([0.4, 0.3, 0.2], rank_me, loss, agreement);
            judged(&recipe(changes), &records, images).unwrap().reasons
        };
        let healthy = (50.0, 6.0, 0.7);
        let only = |reasons: Vec<String>, part: &str| {
            assert!(reasons.len() == 1 && reasons[0].contains(part), "{part}: {reasons:?}");
        };
        only(reasons(&[], healthy, 50_000), "none is evident");
        only(reasons(&[], (1.2, 6.0, 0.7), 50_000), "RankMe is 1.20 of at most 512");
        only(
            reasons(&[], (50.0, 8.3, 0.7), 50_000),
            "the loss (8.300) is still near chance (8.318)",
        );
        only(reasons(&[], (50.0, 6.0, 0.99), 50_000), "nearest candidate of 99 % of the anchors");
        let slow = ["optimizer.learning_rate=1e-5"];
        only(reasons(&slow, healthy, 50_000), "learning rate of 0.00001 is unusual for SGD");
        only(reasons(&["method.temperature=2"], healthy, 50_000), "method.temperature = 2");
        only(reasons(&["queue.size=60000"], healthy, 50_000), "queue.size = 60000");
        only(reasons(&["training.epochs=15"], healthy, 50_000), "15 epoch(s) of 50000 images");
        only(reasons(&[], healthy, 4_999), "4999 training images are few");
        let many = ["training.epochs=1", "method.temperature=5", "optimizer.learning_rate=9"];
        let all = reasons(&many, (1.0, 8.4, 1.0), 64);
        assert_eq!(all.len(), MOST_REASONS);
        assert!(all[0].contains("collapsed") && all[1].contains("near chance"), "{all:?}");
    }

    #[test]
    fn views_that_leave_colors_alone_are_a_reason() {
        let mut plain = recipe(&[]);
        for view in &mut plain.views {
            view.transforms.truncate(1);
        }
        let records = records([0.4, 0.3, 0.2], 50.0, 6.0, 0.7);
        let verdict = judged(&plain, &records, 50_000).unwrap();
        assert!(verdict.reasons[0].contains("no view changes colors"), "{verdict}");
        assert!(verdict.to_string().starts_with("The trained encoder does not beat raw pixels"));
        assert!(verdict.to_string().contains(". Likely reasons:\n- no view"), "{verdict}");
    }
}
