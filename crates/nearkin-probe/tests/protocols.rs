//! Each protocol on drawn images with a tiny network, and sets that cannot be evaluated.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::num::NonZeroUsize;
use std::sync::Arc;

use common::{MACHINE, Weights, recipe};
use nearkin_data::{DataError, Image, ImageSet, Source, Split};
use nearkin_probe::{
    AveragePrecision, Labels, LinearOptions, LinearPreset, Score, SemiOptions, SemiPreset, Subject,
    Target, TransferOptions, linear, quality_of, quality_scores, semi, transfer,
};

/// A set with other labels.
struct Relabelled {
    set: Arc<dyn ImageSet>,
    classes: Vec<String>,
    label: fn(&dyn ImageSet, usize) -> Option<usize>,
}

impl ImageSet for Relabelled {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        self.set.image(index)
    }

    fn label(&self, index: usize) -> Option<usize> {
        (self.label)(&*self.set, index)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        self.set.name(index)
    }
}

fn sets() -> [Arc<dyn ImageSet>; 2] {
    [Split::Train, Split::Test].map(|split| nearkin_data::open(&recipe().data, split).unwrap())
}

fn probe(preset: LinearPreset, seed: u64) -> LinearOptions {
    LinearOptions { preset, epochs: Some(2), batch_size: NonZeroUsize::new(20), seed }
}

fn check(scores: &[Score], protocol: &str, parts: &[&str]) {
    assert!(scores.len() >= 2 && scores[0].protocol == protocol, "{scores:?}");
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(&score.value)), "{scores:?}");
    for part in parts {
        assert!(scores[0].definition.contains(part), "{part}: {}", scores[0].definition);
    }
}

#[test]
fn every_linear_preset_runs_and_states_what_was_changed() {
    let (weights, [train, test]) = (Weights::new(), sets());
    let subject = weights.whole();
    for (preset, parts) in [
        (
            LinearPreset::MocoCifar,
            ["SGD with momentum 0.9, learning rate 30", "the protocol has 100"],
        ),
        (LinearPreset::SceImagenet, ["cosine to 0", "the protocol has 1024"]),
        (LinearPreset::Fnc, ["Nesterov's momentum", "the protocol has 90"]),
        (LinearPreset::SaneCifar, ["Adam, learning rate 0.01", "the protocol has 200"]),
        (LinearPreset::Cached, ["among 40 settings on 10 held-out", "the protocol has 30"]),
    ] {
        let scores = linear(&subject, [&train, &test], probe(preset, 0), MACHINE).unwrap();
        check(&scores, &format!("linear {preset}"), &parts);
        assert!(scores[0].definition.contains("60 training and 40 test images"), "{scores:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let (weights, [train, test]) = (Weights::new(), sets());
    let subject = weights.whole();
    for preset in [LinearPreset::MocoCifar, LinearPreset::Cached] {
        let run = || linear(&subject, [&train, &test], probe(preset, 3), MACHINE).unwrap();
        assert_eq!(run(), run());
    }
}

/// Labels of the test images that the setting must not have been chosen by: with all of them turned
/// round, the choice, which the definition states, is the same.
#[test]
fn nothing_is_chosen_on_the_test_images() {
    let (weights, [train, test]) = (Weights::new(), sets());
    let subject = weights.whole();
    let turned: Arc<dyn ImageSet> = Arc::new(Relabelled {
        classes: test.classes().to_vec(),
        set: Arc::clone(&test),
        label: |set, index| Some((set.label(index)? + 1) % set.classes().len()),
    });
    let of = |test| linear(&subject, [&train, test], probe(LinearPreset::Cached, 0), MACHINE);
    let (plain, other) = (of(&test).unwrap(), of(&turned).unwrap());
    assert_eq!(plain[0].definition, other[0].definition);
}

#[test]
fn semi_supervised_evaluation_takes_a_share_or_a_list() {
    let (weights, [train, test]) = (Weights::new(), sets());
    let subject = weights.whole();
    let list = weights.path("some.txt");
    let names: Vec<String> = (0..6).map(|index| train.name(index)).collect();
    std::fs::write(&list, names.join("\n")).unwrap();
    for (preset, labels, protocol, parts) in [
        (SemiPreset::Fnc, Labels::Share(0.2), "semi fnc 20 %", ["first projector layer", "LARS"]),
        (SemiPreset::Plain, Labels::Share(0.2), "semi plain 20 %", ["from the backbone", "SGD"]),
        (SemiPreset::Plain, Labels::List(list), "semi plain some.txt", ["some.txt", "6 training"]),
    ] {
        let options = SemiOptions { preset, labels, epochs: Some(2), batch_size: None, seed: 0 };
        check(&semi(&subject, [&train, &test], &options, MACHINE).unwrap(), protocol, &parts);
    }
}

/// The first projector layer is trained as well, so a file without it is refused.
#[test]
fn fine_tuning_through_the_projector_needs_one() {
    let (mut weights, [train, test]) = (Weights::new(), sets());
    weights.tensors.retain(|(name, _)| name.starts_with("backbone."));
    let options = SemiOptions {
        preset: SemiPreset::Fnc,
        labels: Labels::Share(0.2),
        epochs: Some(1),
        batch_size: None,
        seed: 0,
    };
    let message = semi(&weights.whole(), [&train, &test], &options, MACHINE).unwrap_err();
    assert!(message.to_string().contains("--preset plain"), "{message}");
}

#[test]
fn transfer_goes_to_images_of_another_size_and_other_classes() {
    let weights = Weights::new();
    let source = Source::Shapes { train_images: 50, test_images: 30, size_pixels: 40, seed: 9 };
    let [train, test] = [Split::Train, Split::Test].map(|split| {
        let set = nearkin_data::open(&source, split).unwrap();
        let two: Arc<dyn ImageSet> = Arc::new(Relabelled {
            set,
            classes: vec!["even".to_owned(), "odd".to_owned()],
            label: |set, index| Some(set.label(index)? % 2),
        });
        two
    });
    let options = TransferOptions {
        fine_tune: true,
        epochs: Some(1),
        batch_size: None,
        seed: 0,
        average_precision: AveragePrecision::default(),
    };
    let run = |name: &str| {
        let target = Target::new(name.to_owned(), [&train, &test]).unwrap();
        transfer(&weights.whole(), &target, options, MACHINE).unwrap()
    };
    let scores = run("dtd");
    check(&scores, "transfer linear dtd", &["chosen among 45 on 6 held-out", "16 pixels"]);
    assert_eq!((scores.len(), scores[2].protocol.as_str()), (4, "transfer fine-tuned dtd"));
    assert_eq!(scores[0].metric, "top-1");
    assert_eq!(run("oxford-pets")[0].metric, "mean per class");
}

fn refused(subject: &Subject, train: &Arc<dyn ImageSet>, test: &Arc<dyn ImageSet>) -> String {
    let options = probe(LinearPreset::Cached, 0);
    linear(subject, [train, test], options, MACHINE).unwrap_err().to_string()
}

#[test]
fn sets_without_labels_or_with_other_classes_are_refused() {
    let (weights, [train, test]) = (Weights::new(), sets());
    let subject = weights.whole();
    let relabelled = |set: &Arc<dyn ImageSet>, classes: Vec<String>, label| {
        let set: Arc<dyn ImageSet> = Arc::new(Relabelled { set: Arc::clone(set), classes, label });
        set
    };
    let unlabelled = |set| relabelled(set, Vec::new(), |_, _| None);
    let message = refused(&subject, &unlabelled(&train), &test);
    assert!(message.contains("the training set has no labels"), "{message}");
    let message = refused(&subject, &train, &unlabelled(&test));
    assert!(message.contains("the test set has no labels"), "{message}");
    let two = relabelled(&test, vec!["a".to_owned(), "b".to_owned()], |set, index| {
        Some(set.label(index)? % 2)
    });
    let message = refused(&subject, &train, &two);
    assert!(message.contains("the test images 2 classes (a, b)"), "{message}");
}

#[test]
fn images_without_a_label_play_no_part() {
    let (weights, [train, test]) = (Weights::new(), sets());
    let partly: Arc<dyn ImageSet> = Arc::new(Relabelled {
        classes: train.classes().to_vec(),
        set: train,
        label: |set, index| (index < 30).then(|| set.label(index)).flatten(),
    });
    let options = probe(LinearPreset::Cached, 0);
    let scores = linear(&weights.whole(), [&partly, &test], options, MACHINE).unwrap();
    assert!(scores[0].definition.contains("30 training and 40 test"), "{scores:?}");
}

#[test]
fn quality_needs_no_labels() {
    let weights = Weights::new();
    let (quality, split) = quality_of(&weights.whole(), MACHINE).unwrap();
    assert_eq!((quality.images, split), (40, Split::Test));
    assert!(quality.spread.rank_me.unwrap() >= 1.0 && quality.alignment > 0.0, "{quality:?}");
    let scores = quality_scores(&quality, split);
    let metrics: Vec<&str> = scores.iter().map(|score| &*score.metric).collect();
    assert_eq!(metrics, ["RankMe", "standard deviation", "uniformity", "alignment"]);
}
