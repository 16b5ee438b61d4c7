//! Parts of a training set: what is held out to choose on, and the few labelled images of
//! semi-supervised evaluation. All are drawn class by class, so that no class is left out.

use std::collections::HashMap;
use std::path::Path;

use nearkin_data::random::Purpose;
use nearkin_data::{ImageSet, Random};
use nearkin_eval::Features;
use sha2::{Digest, Sha256};
use tch::TchError;

use crate::ProbeError;

/// Places in `labels`, drawn with the seed: of every class the `share` of its images, rounded, but at
/// least one; in rising order.
pub fn balanced_share(labels: &[usize], share: f64, seed: u64) -> Vec<usize> {
    draw(labels, seed, |images| ((share * images as f64).round() as usize).clamp(1, images))
}

/// Splits the places of `labels` into those to learn from and those held out to choose on: a tenth of
/// every class, rounded, but one where a class has more than one image.
///
/// Where every class has but one image nothing can be held out, which is a [`ProbeError::Request`].
pub fn hold_out(labels: &[usize], seed: u64) -> Result<[Vec<usize>; 2], ProbeError> {
    let tenth = |images: usize| ((images as f64 / 10.0).round() as usize).clamp(1, images - 1);
    let held = draw(labels, seed, |images| if images > 1 { tenth(images) } else { 0 });
    if held.is_empty() {
        return Err(ProbeError::Request(
            "no class has two training images, so there is nothing to choose a setting on: give more \
             images, or take a protocol that chooses nothing"
                .to_owned(),
        ));
    }
    let mut learn: Vec<usize> = (0..labels.len()).collect();
    learn.retain(|place| held.binary_search(place).is_err());
    Ok([learn, held])
}

fn draw(labels: &[usize], seed: u64, count: impl Fn(usize) -> usize) -> Vec<usize> {
    let classes = labels.iter().max().map_or(0, |last| last + 1);
    let mut by_class = vec![Vec::new(); classes];
    for (place, &label) in labels.iter().enumerate() {
        by_class[label].push(place);
    }
    let mut drawn = Vec::new();
    for (class, mut places) in by_class.into_iter().enumerate().filter(|(_, all)| !all.is_empty()) {
        let images = places.len();
        // Coordinates apart from those of `limit_images`, which are 0.
        Random::new(Purpose::Subset, seed, 1, class as u64).shuffle(&mut places);
        drawn.extend(&places[..count(images).min(images)]);
    }
    drawn.sort_unstable();
    drawn
}

/// The labels of a set whose images all have one.
pub(crate) fn labels(set: &dyn ImageSet) -> Vec<usize> {
    (0..set.len()).filter_map(|index| set.label(index)).collect()
}

/// The labels of features that all have one.
pub(crate) fn labels_in(features: &Features) -> Result<Vec<usize>, TchError> {
    let labels: Vec<i64> = Vec::try_from(&features.labels)?;
    Ok(labels.into_iter().map(|label| label as usize).collect())
}

/// Adds what an evaluation sees of a set: the names of its classes, and of every image the name of its
/// file and its labels.
pub(crate) fn add_to_digest(digest: &mut Sha256, set: &dyn ImageSet) {
    digest.update((set.len() as u64).to_le_bytes());
    for class in set.classes() {
        digest.update(format!("{class}\n"));
    }
    for index in 0..set.len() {
        let name = set.name(index);
        // The folder that the images are in may have moved.
        digest.update(name.rsplit('/').next().unwrap_or(&name));
        digest.update([b'\n']);
        digest.update(set.label(index).map_or(-1, |label| label as i64).to_le_bytes());
        if let Some(labels) = set.labels(index) {
            for &class in labels.present.iter().chain([&u32::MAX]).chain(labels.unclear) {
                digest.update(class.to_le_bytes());
            }
        }
    }
}

/// Places of the images that a file names, one file name per line, in the order of the set.
///
/// A name may have folders before it; images are found by the last part alone.
pub fn named(set: &dyn ImageSet, list: &Path) -> Result<Vec<usize>, ProbeError> {
    let wrong = |problem: String| ProbeError::Names { path: list.to_owned(), problem };
    let text = std::fs::read_to_string(list).map_err(|error| wrong(error.to_string()))?;
    let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    let mut places = HashMap::with_capacity(set.len());
    for index in 0..set.len() {
        let name = last(&set.name(index));
        if places.insert(name.clone(), index).is_some() {
            return Err(wrong(format!(
                "two training images are called {name}, so a list of names does not tell them apart"
            )));
        }
    }
    let mut chosen = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let place = places.get(&last(line));
        chosen.push(*place.ok_or_else(|| wrong(format!("no training image is called {line}")))?);
    }
    chosen.sort_unstable();
    chosen.dedup();
    if chosen.is_empty() { Err(wrong("names no images".to_owned())) } else { Ok(chosen) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// 40 images of class 0, 20 of class 2, one of class 3.
    fn classes() -> Vec<usize> {
        (0..61).map(|place| [0, 2, 0][place % 3]).take(60).chain([3]).collect()
    }

    fn count(labels: &[usize], places: &[usize], class: usize) -> usize {
        places.iter().filter(|&&place| labels[place] == class).count()
    }

    #[test]
    fn a_share_is_drawn_from_every_class() {
        let labels = classes();
        let drawn = balanced_share(&labels, 0.1, 0);
        assert_eq!([0, 1, 2, 3].map(|class| count(&labels, &drawn, class)), [4, 0, 2, 1]);
        assert_eq!(drawn, balanced_share(&labels, 0.1, 0));
        assert_ne!(drawn, balanced_share(&labels, 0.1, 1));
        assert_eq!(balanced_share(&labels, 0.001, 0).len(), 3, "one of each class");
        assert_eq!(balanced_share(&labels, 1.0, 0).len(), labels.len());
    }

    #[test]
    fn a_tenth_of_every_class_is_held_out_if_it_can_be() {
        let labels = classes();
        let [learn, held] = hold_out(&labels, 5).unwrap();
        assert_eq!([0, 2, 3].map(|class| count(&labels, &held, class)), [4, 2, 0]);
        assert_eq!(count(&labels, &learn, 3), 1, "the only image of a class is learned from");
        let message = hold_out(&[0, 1, 2], 0).unwrap_err().to_string();
        assert!(message.contains("no class has two training images"), "{message}");
    }

    proptest! {
        #[test]
        fn parts_hold_every_image_once_and_no_class_is_left_out(
            labels in prop::collection::vec(0_usize..6, 2..80),
            share in 0.0_f64..1.0,
            seed: u64,
        ) {
            let classes_of = |places: &[usize]| {
                places.iter().map(|&place| labels[place]).collect::<BTreeSet<usize>>()
            };
            let all: Vec<usize> = (0..labels.len()).collect();
            let drawn = balanced_share(&labels, share, seed);
            prop_assert!(drawn.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(classes_of(&drawn), classes_of(&all));
            if let Ok([learn, held]) = hold_out(&labels, seed) {
                prop_assert_eq!(classes_of(&learn), classes_of(&all));
                let mut both = [learn, held].concat();
                both.sort_unstable();
                prop_assert_eq!(both, all);
            }
        }
    }

    #[test]
    fn images_are_found_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("1percent.txt");
        let source = nearkin_data::Source::Shapes {
            train_images: 20,
            test_images: 10,
            size_pixels: 16,
            seed: 0,
        };
        let set = nearkin_data::open(&source, nearkin_data::Split::Train).unwrap();
        let (third, first) = (set.name(3), set.name(1));
        std::fs::write(&list, format!("{third}\n\nsome/folder/{first}\n{third}\n")).unwrap();
        assert_eq!(named(&*set, &list).unwrap(), [1, 3]);
        std::fs::write(&list, "n01440764_10026.JPEG\n").unwrap();
        let message = named(&*set, &list).unwrap_err().to_string();
        assert!(message.contains("no training image is called n01440764_10026.JPEG"), "{message}");
        std::fs::write(&list, "").unwrap();
        assert!(named(&*set, &list).unwrap_err().to_string().contains("names no images"));
    }
}
