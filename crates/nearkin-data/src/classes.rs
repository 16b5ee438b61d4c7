//! From the labels that people write beside their images to numbered classes.
//!
//! Lists and shards name a class by a word or by a number. Both splits of a set must number alike,
//! or an evaluation would compare unlike things; so the train split decides, and a label it does
//! not have is an error.

use std::collections::BTreeSet;

/// A larger number is no class but a mistake, and every number below it would need a name.
const MAX_CLASSES: usize = 1 << 20;

/// The label of every image as it is written, if it has one.
pub(crate) type Written = Vec<Option<Box<str>>>;

/// Class names in label order, and the label of every image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) classes: Vec<String>,
    pub(crate) labels: Vec<Option<u32>>,
}

/// Numbers the labels of a split as those of `train` (which may be the same) ask for: by their
/// value where all of them are numbers, else in the order of their names.
///
/// An error is the image, by its place in `written`, and what is wrong with its label.
pub(crate) fn number(written: &Written, train: &Written) -> Result<Numbered, (usize, String)> {
    let known: BTreeSet<&str> = train.iter().flatten().map(AsRef::as_ref).collect();
    // Without labels in the train split, those of the test split can only be compared to each
    // other.
    let known = match known.is_empty() {
        true => written.iter().flatten().map(AsRef::as_ref).collect(),
        false => known,
    };
    let numbers: Option<BTreeSet<usize>> = known.iter().map(|label| label.parse().ok()).collect();
    let largest = numbers.as_ref().and_then(|numbers| numbers.last().copied());
    if let Some(largest) = largest.filter(|&largest| largest >= MAX_CLASSES) {
        let is_largest = |label: &Option<Box<str>>| {
            label.as_ref().is_some_and(|label| label.parse() == Ok(largest))
        };
        let place = written.iter().position(is_largest).unwrap_or(0);
        return Err((place, format!("the label {largest} is above {}", MAX_CLASSES - 1)));
    }
    let classes: Vec<String> = match largest {
        Some(largest) => (0..=largest).map(|number| number.to_string()).collect(),
        None => known.iter().map(ToString::to_string).collect(),
    };
    let find = |label: &str| match largest {
        Some(_) => label.parse().ok().filter(|&number: &usize| number < classes.len()),
        None => classes.binary_search_by(|class| class.as_str().cmp(label)).ok(),
    };
    let mut labels = Vec::with_capacity(written.len());
    for (place, label) in written.iter().enumerate() {
        labels.push(match label {
            None => None,
            Some(label) => Some(find(label).ok_or_else(|| {
                (place, format!("{label:?} is a class that the train split does not have"))
            })? as u32),
        });
    }
    Ok(Numbered { classes, labels })
}

/// What stands between the labels of one image.
const SEPARATOR: char = '|';

/// Whether some image has several labels, or says by a lone `|` that it has none of the classes.
pub(crate) fn are_several(written: &Written) -> bool {
    written.iter().flatten().any(|labels| labels.contains(SEPARATOR))
}

/// Class names in label order, and the labels of every image, rising.
pub(crate) type NumberedSeveral = (Vec<String>, Vec<Option<Box<[u32]>>>);

/// The same as [`number`] for images that can have several labels, with `|` between them.
pub(crate) fn number_several(
    written: &Written,
    train: &Written,
) -> Result<NumberedSeveral, (usize, String)> {
    let split = |written: &Written| -> (Vec<usize>, Written) {
        let images = written.iter().enumerate();
        images
            .filter_map(|(image, labels)| Some((image, labels.as_deref()?)))
            .flat_map(|(image, labels)| labels.split(SEPARATOR).map(move |one| (image, one.trim())))
            .filter(|(_, one)| !one.is_empty())
            .map(|(image, one)| (image, Some(one.into())))
            .unzip()
    };
    let (images, own) = split(written);
    let numbered = number(&own, &split(train).1)
        .map_err(|(place, reason)| (images.get(place).copied().unwrap_or(0), reason))?;
    let mut labels: Vec<Option<Vec<u32>>> =
        written.iter().map(|labels| labels.as_ref().map(|_| Vec::new())).collect();
    for (image, label) in images.into_iter().zip(numbered.labels) {
        if let Some(labels) = &mut labels[image] {
            labels.extend(label);
        }
    }
    let sorted = |mut labels: Vec<u32>| {
        labels.sort_unstable();
        labels.dedup();
        labels.into_boxed_slice()
    };
    Ok((numbered.classes, labels.into_iter().map(|labels| labels.map(sorted)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(labels: &[&str]) -> Written {
        let label = |label: &&str| Some(*label).filter(|label| !label.is_empty()).map(Into::into);
        labels.iter().map(label).collect()
    }

    fn numbered(own: &[&str], train: &[&str]) -> Result<(String, Vec<Option<u32>>), String> {
        number(&written(own), &written(train))
            .map(|numbered| (numbered.classes.join(" "), numbered.labels))
            .map_err(|(place, reason)| format!("{place}: {reason}"))
    }

    #[test]
    fn names_are_sorted_and_numbers_count() {
        let named = ["dog", "", "cat", "dog"];
        let expected = ("cat dog".to_owned(), vec![Some(1), None, Some(0), Some(1)]);
        assert_eq!(numbered(&named, &named), Ok(expected));
        let counted = ["2", "0", ""];
        let expected = ("0 1 2".to_owned(), vec![Some(2), Some(0), None]);
        assert_eq!(numbered(&counted, &counted), Ok(expected));
        // One word among them, and numbers are names.
        let mixed = ["10", "9", "x"];
        assert_eq!(numbered(&mixed, &mixed).unwrap().0, "10 9 x");
        assert_eq!(numbered(&["", ""], &["", ""]), Ok((String::new(), vec![None, None])));
    }

    #[test]
    fn an_image_may_have_several() {
        let train = written(&["dog | cat|dog", "", "|", "fox"]);
        assert!(are_several(&train) && !are_several(&written(&["dog", ""])));
        let (classes, labels) = number_several(&train, &train).unwrap();
        assert_eq!(classes, ["cat", "dog", "fox"]);
        let boxed = |labels: &[u32]| Some(labels.into());
        assert_eq!(labels, [boxed(&[0, 1]), None, boxed(&[]), boxed(&[2])]);
        let counted = written(&["2|0", "1"]);
        let (classes, labels) = number_several(&counted, &counted).unwrap();
        assert_eq!((classes.concat().as_str(), &labels[0]), ("012", &boxed(&[0, 2])));
    }

    #[test]
    fn the_train_split_decides() {
        let expected = ("a b c".to_owned(), vec![Some(2)]);
        assert_eq!(numbered(&["c"], &["c", "b", "a"]), Ok(expected));
        let expected = ("0 1 2 3".to_owned(), vec![Some(1)]);
        assert_eq!(numbered(&["1"], &["3"]), Ok(expected));
        assert_eq!(numbered(&["b"], &[""]), Ok(("b".to_owned(), vec![Some(0)])));
        for (own, train) in [("d", "a"), ("4", "3"), ("x", "3"), ("-1", "3")] {
            let message = numbered(&["", own], &[train]).unwrap_err();
            let expected = format!("1: {own:?} is a class that the train split does not have");
            assert_eq!(message, expected);
        }
        let message = number_several(&written(&["", "dog|fox"]), &written(&["dog|cat"]));
        assert_eq!(
            message,
            Err((1, "\"fox\" is a class that the train split does not have".to_owned()))
        );
        let message = numbered(&["1", "4000000000"], &["4000000000"]).unwrap_err();
        assert_eq!(message, "1: the label 4000000000 is above 1048575");
    }
}
