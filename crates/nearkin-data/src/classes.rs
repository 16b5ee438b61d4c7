//! From the labels that people write beside their images to numbered classes.
//!
//! Lists, shards and parquet files name a class by a word or by a number, and each of them could read
//! the same text in a way of its own. So one meaning stands here:
//!
//! - An empty label, -1 (`-1.0` too), NaN and null say that an image has no label. Where all other labels
//!   are numbers, so do `None`, `NA`, `N/A`, `<NA>`, `#N/A` and `NaT`, which Python, R and spreadsheets write
//!   for null; among names they may be classes.
//! - `True` and `TRUE` are `true`, and the same for false, as tools differ in how they write them.
//! - Where all labels are whole numbers from 0, they count the classes: `3` and `3.0` are class 3.
//! - Other numbers, such as 0.5 and -2, are classes in the order of their values.
//! - Anything else is the name of a class. Classes are ordered by the bytes of their names, in Unicode
//!   normalization form C, so that `é` is one class however it was typed.
//!
//! Both splits of a set must number alike, or an evaluation would compare unlike things; so the train
//! split decides ([`Scheme`]), and a label that it does not have is an error.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::ClassLabels;
use crate::set::KeptLabels;

/// A larger number is no class but a mistake, and every number below it would need a name.
const MAX_CLASSES: usize = 1 << 20;

/// What stands between the labels of one image in a text.
pub(crate) const BAR: char = '|';
/// The same where labels come one by one, so that a `|` is part of a name.
#[cfg(feature = "parquet")]
pub(crate) const UNIT: char = '\u{1f}';

/// The usual names of columns and keys that hold labels, in lower case and letters alone; the clearest
/// first.
const LABEL_NAMES: [&str; 29] = [
    "label",
    "labels",
    "finelabel",
    "class",
    "classes",
    "classname",
    "classlabel",
    "classid",
    "labelname",
    "labelid",
    "category",
    "categories",
    "categoryname",
    "categoryid",
    "target",
    "targets",
    "cls",
    "groundtruth",
    "species",
    "breed",
    "diagnosis",
    "dx",
    "labelgroup",
    "y",
    "tag",
    "tags",
    "gt",
    "findinglabels",
    "findinglabel",
];

/// The letters and digits of a name, in lower case, so that `Image_Path` and `image path` are one.
pub(crate) fn plain(name: &str) -> String {
    name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The place of a name among those that columns and keys of labels usually have.
pub(crate) fn label_rank(name: &str) -> Option<usize> {
    let name = plain(name);
    LABEL_NAMES.iter().position(|known| *known == name)
}

/// Whether a column or key is one half of a point, `x` and `y`, and so no label.
pub(crate) fn is_coordinate<'a>(name: &str, mut others: impl Iterator<Item = &'a str>) -> bool {
    plain(name) == "y" && others.any(|other| plain(other) == "x")
}

/// All ones: an image without a label.
const NONE: u32 = u32::MAX;

/// A name in Unicode normalization form C. Systems differ in how they write an accented letter, and a
/// class must not become two by that.
pub(crate) fn normalized(name: &str) -> Cow<'_, str> {
    if is_nfc(name) { Cow::Borrowed(name) } else { Cow::Owned(name.nfc().collect()) }
}

/// What tools write for null. Among names, `None` may well be a class.
const NULLS: [&str; 6] = ["None", "NA", "N/A", "<NA>", "#N/A", "NaT"];

fn is_null(word: &str) -> bool {
    NULLS.iter().any(|null| word.eq_ignore_ascii_case(null))
}

/// White space, and letters that take no place on a screen: what is copied from web pages ends in them.
fn is_unseen(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}

/// The class that a label names, if it does not say that there is none.
pub(crate) fn meaning(label: &str) -> Option<Cow<'_, str>> {
    let label = label.trim_matches(is_unseen);
    let is_none = label.is_empty()
        || label.eq_ignore_ascii_case("null")
        || label.parse::<f64>().is_ok_and(|value| value.is_nan() || value == -1.0);
    let truth = ["true", "false"].into_iter().find(|truth| label.eq_ignore_ascii_case(truth));
    (!is_none).then(|| truth.map_or_else(|| normalized(label), Cow::Borrowed))
}

/// The labels of the images of a split as they are written, each different one kept once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    words: Vec<Box<str>>,
    places: HashMap<Box<str>, u32>,
    /// The place of its label among the words, for each image.
    images: Vec<u32>,
}

impl Written {
    /// Appends an image, with the text that is its label.
    pub(crate) fn push(&mut self, label: Option<&str>) {
        let place = label.and_then(meaning).map(|word| self.place(&word));
        self.push_place(place);
    }

    /// Appends an image whose label has a [`place`](Self::place).
    pub(crate) fn push_place(&mut self, place: Option<u32>) {
        self.images.push(place.unwrap_or(NONE));
    }

    /// The place of a word, which is added if it is new. It is the name of a class whatever it says.
    pub(crate) fn place(&mut self, word: &str) -> u32 {
        if let Some(&place) = self.places.get(word) {
            return place;
        }
        let place = self.words.len() as u32;
        self.words.push(word.into());
        self.places.insert(word.into(), place);
        place
    }

    /// Every different label.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(AsRef::as_ref)
    }

    /// Number of images.
    pub(crate) fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether some image has a label.
    pub(crate) fn has_words(&self) -> bool {
        !self.words.is_empty()
    }

    /// The first image with this label.
    fn first(&self, place: usize) -> usize {
        self.images.iter().position(|&other| other as usize == place).unwrap_or(0)
    }
}

/// What is wrong with the label of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The image, by its place in its split.
    pub(crate) image: usize,
    pub(crate) reason: String,
}

/// How the labels of a set are numbered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scheme {
    order: Order,
    /// What separates the labels of one image, where images can have several.
    separator: Option<char>,
    /// Who has these classes, for messages.
    holder: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
enum Order {
    /// Classes from 0, called by their numbers; some image shows `used` of them.
    Counted { count: usize, used: usize },
    /// Classes with the values of numbers, rising.
    Values(Vec<f64>),
    /// Classes with names, in label order.
    Named(Vec<String>),
}

impl Scheme {
    /// The scheme of a set whose class names are known, in label order; `holder` has them.
    #[cfg(feature = "parquet")]
    pub(crate) fn named(names: &[String], separator: Option<char>, holder: &'static str) -> Self {
        let names: Vec<String> = names.iter().map(|name| normalized(name).into_owned()).collect();
        Self { order: Order::Named(names), separator, holder }
    }

    /// The scheme of a set whose labels are those of `own` and, for the test split, `train`. Without
    /// labels in the train split, those of the test split can only be compared with each other.
    ///
    /// The error is the label that is too large.
    pub(crate) fn from_labels(
        own: &Written,
        train: Option<&Written>,
        separator: Option<char>,
    ) -> Result<Self, Fault> {
        let known = train.filter(|train| !train.words.is_empty()).unwrap_or(own);
        let words: BTreeSet<&str> = known.words().flat_map(|word| parts(word, separator)).collect();
        let numbers = words.iter().filter(|word| !is_null(word)).map(|word| number(word));
        let numbers = numbers.collect::<Option<Vec<f64>>>().map(|mut numbers| {
            numbers.sort_by(f64::total_cmp);
            numbers.dedup();
            numbers
        });
        let order = match numbers.filter(|numbers| !numbers.is_empty()) {
            None => Order::Named(words.into_iter().map(str::to_owned).collect()),
            Some(numbers) if numbers.iter().all(|&number| is_count(number)) => {
                let largest = numbers.iter().copied().fold(0.0, f64::max);
                if largest >= MAX_CLASSES as f64 {
                    let is_largest = |part: &&str| number(part) == Some(largest);
                    let has_largest =
                        |word: &str| parts(word, separator).any(|part| is_largest(&part));
                    let image = own.words().position(has_largest);
                    let mut all = known.words().flat_map(|word| parts(word, separator));
                    let written = all.find(is_largest).unwrap_or_default();
                    let reason = format!(
                        "the label {written} is above {}, and whole numbers count the classes from 0: \
                         number the classes from 0, or name them, such as c{written}",
                        MAX_CLASSES - 1
                    );
                    return Err(Fault { image: image.map_or(0, |place| own.first(place)), reason });
                }
                Order::Counted { count: largest as usize + 1, used: numbers.len() }
            }
            Some(numbers) => Order::Values(numbers),
        };
        Ok(Self { order, separator, holder: "the train split" })
    }

    /// What is easily overlooked about the labels: numbers that count far more classes than images show may
    /// be identifiers, and names may be several labels.
    pub(crate) fn note(&self) -> Option<String> {
        /// So few classes are not worth a note.
        const FEW: usize = 4;
        let (count, used) = match &self.order {
            Order::Counted { count, used } => (*count, *used),
            Order::Values(_) => return None,
            Order::Named(names) => return note_of_names(names),
        };
        (count > FEW && count > 2 * used).then(|| {
            format!(
                "whole numbers count the classes from 0, so there are {count} classes, and images show \
                 {used} of them: if the numbers are identifiers, number the classes without gaps, or \
                 name them, such as c{}",
                count - 1
            )
        })
    }

    /// Class names in label order.
    pub(crate) fn classes(&self) -> Vec<String> {
        match &self.order {
            Order::Counted { count, .. } => (0..*count).map(|number| number.to_string()).collect(),
            Order::Values(values) => values.iter().map(ToString::to_string).collect(),
            Order::Named(names) => names.clone(),
        }
    }

    /// Numbers the labels of a split.
    pub(crate) fn number(&self, written: &Written) -> Result<Labels, Fault> {
        let names: HashMap<&str, u32> = match &self.order {
            Order::Named(names) => {
                names.iter().zip(0..).map(|(name, label)| (name.as_str(), label)).collect()
            }
            _ => HashMap::new(),
        };
        let find = |word: &str| match &self.order {
            Order::Named(_) => names.get(word).copied(),
            Order::Counted { count, .. } => {
                number(word).filter(|&n| is_count(n) && n < *count as f64).map(|n| n as u32)
            }
            Order::Values(values) => {
                let number = number(word)?;
                values.binary_search_by(|v| v.total_cmp(&number)).ok().map(|place| place as u32)
            }
        };
        let fault = |place: usize, word: &str| Fault {
            image: written.first(place),
            reason: format!("{word:?} is a class that {} does not have", self.holder),
        };
        let mut found = Vec::with_capacity(written.words.len());
        let are_numbers = !matches!(self.order, Order::Named(_));
        for (place, word) in written.words.iter().enumerate() {
            if are_numbers && parts(word, self.separator).any(is_null) {
                found.push(None);
                continue;
            }
            let labels: Result<Vec<u32>, Fault> = parts(word, self.separator)
                .map(|part| find(part).ok_or_else(|| fault(place, part)))
                .collect();
            found.push(Some(labels?));
        }
        let of_image = |place: &u32| found.get(*place as usize).and_then(Option::as_ref);
        if self.separator.is_none() {
            let label = |place| of_image(place).and_then(|labels| labels.first().copied());
            let labels = written.images.iter().map(|place| label(place).unwrap_or(NONE));
            return Ok(Labels::One(labels.collect()));
        }
        let kept = |labels: &Vec<u32>| {
            let mut present = labels.clone();
            present.sort_unstable();
            present.dedup();
            KeptLabels { present: present.into(), unclear: Box::default() }
        };
        let labels = written.images.iter().map(|place| of_image(place).map(kept));
        Ok(Labels::Several(labels.collect()))
    }
}

/// What is easily overlooked about the names of classes.
fn note_of_names(names: &[String]) -> Option<String> {
    const SEPARATORS: [char; 4] = [',', ';', '/', ' '];
    let (numbers, words): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| number(name).is_some());
    if let ([_, _, ..], [word]) = (numbers.as_slice(), words.as_slice()) {
        return Some(format!(
            "labels are read as names, since {word:?} among the numbers is none: leave it empty if it means \
             that there is no label"
        ));
    }
    let is_joined = |name: &&String| {
        let has_brackets = name.starts_with('[') && name.ends_with(']');
        let mut parts = name.split(SEPARATORS).map(str::trim).filter(|part| !part.is_empty());
        let is_name = |part: &str| names.binary_search_by(|name| name.as_str().cmp(part)).is_ok();
        has_brackets || name.contains(SEPARATORS) && parts.all(is_name)
    };
    names.iter().find(is_joined).map(|name| {
        format!(
            "{name:?} is read as a class of its own: if it is several labels, write them with | between them"
        )
    })
}

/// The labels of the images of a split.
#[derive(Debug)]
pub(crate) enum Labels {
    /// At most one each.
    One(Vec<u32>),
    /// Any number each; nothing is known of some images.
    Several(Vec<Option<KeptLabels>>),
}

impl Labels {
    /// The label of an image that has one.
    pub(crate) fn label(&self, index: usize) -> Option<usize> {
        match self {
            Self::One(labels) => {
                labels.get(index).filter(|&&label| label != NONE).map(|&label| label as usize)
            }
            Self::Several(_) => None,
        }
    }

    /// What is known of an image that can have several.
    pub(crate) fn labels(&self, index: usize) -> Option<ClassLabels<'_>> {
        match self {
            Self::One(_) => None,
            Self::Several(labels) => labels.get(index)?.as_ref().map(KeptLabels::lend),
        }
    }
}

/// Whether some image has several labels, or says by a lone `|` that it has none of the classes.
pub(crate) fn are_several(written: &Written) -> bool {
    written.words().any(|labels| labels.contains(BAR))
}

/// The labels in a text: those of one image, or the only one.
fn parts(word: &str, separator: Option<char>) -> impl Iterator<Item = &str> {
    let is_separator = move |letter: char| Some(letter) == separator;
    word.split(is_separator).filter_map(move |part| match separator {
        None => Some(part),
        Some(BAR) => meaning(part).is_some().then(|| part.trim()),
        Some(_) => Some(part).filter(|part| !part.is_empty()),
    })
}

/// The value of a label that is a finite number.
fn number(word: &str) -> Option<f64> {
    word.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Whether a number can count classes.
fn is_count(number: f64) -> bool {
    number >= 0.0 && number.fract() == 0.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(labels: &[&str]) -> Written {
        let mut written = Written::default();
        labels.iter().for_each(|label| written.push(Some(label)));
        written
    }

    /// The classes and the labels of images, each as its number or `-`.
    fn numbered(own: &[&str], train: &[&str]) -> Result<(String, String), String> {
        let (own, train) = (written(own), written(train));
        let scheme = Scheme::from_labels(&own, Some(&train), None);
        let labels = scheme.and_then(|scheme| Ok((scheme.classes(), scheme.number(&own)?)));
        let (classes, labels) =
            labels.map_err(|Fault { image, reason }| format!("{image}: {reason}"))?;
        let show = |index| labels.label(index).map_or("-".to_owned(), |label| label.to_string());
        let shown: Vec<String> = (0..own.len()).map(show).collect();
        Ok((classes.join(" "), shown.join(" ")))
    }

    fn alone(labels: &[&str]) -> (String, String) {
        numbered(labels, labels).unwrap()
    }

    fn pair(classes: &str, labels: &str) -> (String, String) {
        (classes.to_owned(), labels.to_owned())
    }

    #[test]
    fn names_are_sorted_by_bytes_and_numbers_count() {
        assert_eq!(alone(&["dog", "", "cat", "dog"]), pair("cat dog", "1 - 0 1"));
        assert_eq!(alone(&["b", "a", "B", "é"]), pair("B a b é", "2 1 0 3"));
        assert_eq!(alone(&["2", "0", ""]), pair("0 1 2", "2 0 -"));
        assert_eq!(alone(&["10", "9"]), pair("0 1 2 3 4 5 6 7 8 9 10", "10 9"));
        // One word among them, and numbers are names.
        assert_eq!(alone(&["10", "9", "x"]), pair("10 9 x", "0 1 2"));
        assert_eq!(alone(&["", ""]), pair("", "- -"));
    }

    #[test]
    fn minus_one_nan_null_and_nothing_are_no_label() {
        assert_eq!(alone(&["cat", "\u{feff}cat\u{200b} "]), pair("cat", "0 0"));
        for none in ["", "  ", "-1", "-1.0", " -1 ", "-1.000e+00", "nan", "NaN", "null", "NULL"] {
            assert_eq!(alone(&["1", none, "0"]), pair("0 1", "1 - 0"), "{none:?}");
            assert_eq!(alone(&["b", none, "a"]), pair("a b", "1 - 0"), "{none:?}");
        }
        // These are names.
        for name in ["None", "-1x", "1-", "--1", "nana", "nullable", "n/a"] {
            assert!(meaning(name).is_some(), "{name}");
        }
    }

    #[test]
    fn whole_floats_count_and_other_numbers_are_ordered_by_value() {
        assert_eq!(alone(&["2.0", "0.0", "1"]), pair("0 1 2", "2 0 1"));
        assert_eq!(alone(&["3.000000000000000000e+00", "03"]), pair("0 1 2 3", "3 3"));
        assert_eq!(alone(&["10.5", "2.5", "2.50"]), pair("2.5 10.5", "1 0 0"));
        assert_eq!(alone(&["-2", "10", "2"]), pair("-2 2 10", "0 2 1"));
        assert_eq!(alone(&["2.0", "x"]), pair("2.0 x", "0 1"));
        assert_eq!(numbered(&["1.0"], &["1", "0"]), Ok(pair("0 1", "1")));
        let message = numbered(&["0.5"], &["1", "0"]).unwrap_err();
        assert_eq!(message, "0: \"0.5\" is a class that the train split does not have");
    }

    #[test]
    fn numbers_that_are_identifiers_are_noted() {
        let note =
            |labels: &[&str]| Scheme::from_labels(&written(labels), None, None).unwrap().note();
        let found = note(&["7", "100", "205000", "7.0"]).unwrap();
        assert!(found.contains("there are 205001 classes, and images show 3 of them"), "{found}");
        assert!(found.ends_with("such as c205000"), "{found}");
        for labels in [&["0", "1", "5", "3"][..], &["3"], &["0.5", "100"], &["a", "100"], &[]] {
            assert_eq!(note(labels), None, "{labels:?}");
        }
        let found = note(&["0", "-", "1"]).unwrap();
        assert!(found.contains("since \"-\" among the numbers is none"), "{found}");
        for joined in ["cat,dog", "dog; cat", "dog cat", "['cat']"] {
            let found = note(&["cat", joined, "dog"]).unwrap();
            assert!(
                found.starts_with(&format!("{joined:?} is read as a class of its own")),
                "{found}"
            );
        }
        assert_eq!(note(&["cat", "sea lion", "sea cow", "cow"]), None);
    }

    #[test]
    fn one_name_in_two_spellings_is_one_class() {
        let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}");
        assert_ne!(composed, decomposed);
        let expected = pair(&format!("{composed} tea"), "0 0 1");
        assert_eq!(alone(&[composed, decomposed, "tea"]), expected);
        assert_eq!(numbered(&[decomposed], &[composed, "tea"]).unwrap().1, "0");
        assert!(matches!(normalized("plain"), Cow::Borrowed("plain")));
    }

    #[test]
    fn an_image_may_have_several() {
        let train = written(&["dog | cat|dog", "", "|", "fox", "cat|-1"]);
        assert!(are_several(&train) && !are_several(&written(&["dog", ""])));
        let scheme = Scheme::from_labels(&train, None, Some(BAR)).unwrap();
        assert_eq!(scheme.classes(), ["cat", "dog", "fox"]);
        let labels = scheme.number(&train).unwrap();
        let present = |index| labels.labels(index).map(|labels| labels.present.to_vec());
        let expected = [Some(vec![0, 1]), None, Some(vec![]), Some(vec![2]), Some(vec![0])];
        assert_eq!([0, 1, 2, 3, 4].map(present), expected);
        assert_eq!(labels.label(0), None);
        let counted = written(&["2|0", "1"]);
        let scheme = Scheme::from_labels(&counted, None, Some(BAR)).unwrap();
        assert_eq!(scheme.classes(), ["0", "1", "2"]);
        let labels = scheme.number(&counted).unwrap();
        assert_eq!(labels.labels(0).unwrap().present, [0, 2]);
        let fault = Scheme::from_labels(&train, None, Some(BAR)).unwrap();
        assert_eq!(
            fault.number(&written(&["", "dog|owl"])).unwrap_err(),
            Fault {
                image: 1,
                reason: "\"owl\" is a class that the train split does not have".to_owned()
            }
        );
    }

    #[test]
    fn the_train_split_decides() {
        assert_eq!(numbered(&["c"], &["c", "b", "a"]), Ok(pair("a b c", "2")));
        assert_eq!(numbered(&["1"], &["3"]), Ok(pair("0 1 2 3", "1")));
        assert_eq!(numbered(&["b"], &[""]), Ok(pair("b", "0")));
        for (own, train) in [("d", "a"), ("4", "3"), ("x", "3"), ("-2", "3")] {
            let message = numbered(&["", own], &[train]).unwrap_err();
            let expected = format!("1: {own:?} is a class that the train split does not have");
            assert_eq!(message, expected);
        }
        let message = numbered(&["1", "4000000000"], &["4000000000"]).unwrap_err();
        assert!(message.starts_with("1: the label 4000000000 is above 1048575, and"), "{message}");
        let message = numbered(&["12345678901234567890"], &[]).unwrap_err();
        assert!(message.contains("the label 12345678901234567890 is above"), "{message}");
    }

    #[test]
    fn what_tools_write_for_null_is_no_label_and_truth_has_one_form() {
        for null in NULLS {
            assert_eq!(alone(&["0", null, "2"]), pair("0 1 2", "0 - 2"), "{null}");
        }
        assert_eq!(alone(&["None", "a"]), pair("None a", "0 1"));
        assert_eq!(alone(&["True", "true", "FALSE", "False"]), pair("false true", "1 1 0 0"));
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn known_names_keep_their_order_whatever_they_say() {
        let names = ["dog", "-1", "cafe\u{301}"].map(str::to_owned);
        let scheme = Scheme::named(&names, None, "the first file");
        assert_eq!(scheme.classes(), ["dog", "-1", "caf\u{e9}"]);
        let mut own = Written::default();
        for name in ["caf\u{e9}", "-1", "dog"] {
            let place = own.place(name);
            own.push_place(Some(place));
        }
        own.push_place(None);
        let labels = scheme.number(&own).unwrap();
        assert_eq!(
            [0, 1, 2, 3].map(|index| labels.label(index)),
            [Some(2), Some(1), Some(0), None]
        );
    }

    proptest! {
        #[test]
        fn any_labels_are_numbered_alike_or_refused(
            labels in prop::collection::vec("(-?[0-9]{1,3}(\\.[05])?|[a-zé|]{0,3}|\\PC{0,4})", 1..20),
        ) {
            let texts: Vec<&str> = labels.iter().map(String::as_str).collect();
            let own = written(&texts);
            let separator = are_several(&own).then_some(BAR);
            let scheme = Scheme::from_labels(&own, None, separator).unwrap();
            let (classes, found) = (scheme.classes(), scheme.number(&own).unwrap());
            for (index, text) in texts.iter().enumerate() {
                let several = found.labels(index);
                prop_assert_eq!(
                    meaning(text).is_some(), found.label(index).is_some() || several.is_some()
                );
                let present = several.into_iter().flat_map(|labels| labels.present.to_vec());
                for label in present.map(|label| label as usize).chain(found.label(index)) {
                    prop_assert!(label < classes.len());
                }
            }
        }
    }
}
