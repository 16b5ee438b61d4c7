//! The words that name the splits of a set.
//!
//! Folders, shards, parquet files and lists all say `train` or `val` in their names, each in a form
//! of its own: `Training`, `seg_train`, `train_images`, `valid-00000-of-00002.parquet`. A word that
//! one reader misses would put validation images into the training split without a word, so the
//! table stands here once and every reader asks it.
//!
//! A name is cut into words at everything that is not a letter, and where a lower-case letter meets
//! an upper-case one. It *names* a split if one of its words is in the table and the others say
//! nothing about content (`images`, `set`, `data`). It only *mentions* a split if other words stand
//! beside it: `bullet train` may well be a class.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::Split;
use crate::classes::plain;

/// A part of a published set. nearkin measures on the validation part where there is one, since the
/// labels of test parts are often withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// The images to learn from.
    Train,
    /// Held-back images whose labels are published.
    Validation,
    /// Held-back images of the final measurement.
    Test,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// Every word that names the part, in lower case; the usual one first.
    pub(crate) fn words(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train", "training"],
            Self::Validation => &["val", "valid", "validation", "dev"],
            Self::Test => &["test", "testing", "eval", "evaluation"],
        }
    }

    /// The part that a single word names, in any case.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let is = |known: &&str| known.eq_ignore_ascii_case(word);
        Self::ALL.into_iter().find(|part| part.words().iter().any(is))
    }

    /// Whether images of this part may be in `split`: those to learn from in the train split, held-back
    /// ones in the test split.
    pub(crate) fn fits(self, split: Split) -> bool {
        (self == Self::Train) == (split == Split::Train)
    }

    /// The split that the part is in where the set has the parts `present`: validation is the test
    /// split where there is both, and the test part is then in none.
    pub(crate) fn split(self, present: &[Self]) -> Option<Split> {
        match self {
            Self::Train => Some(Split::Train),
            Self::Test if present.contains(&Self::Validation) => None,
            Self::Validation | Self::Test => Some(Split::Test),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.words()[0])
    }
}

/// What a name of a file or folder says about splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// The name is that of a part: `train`, `Training`, `seg_train`, `train_images`, `val2017`.
    Names(Part),
    /// The word of a part stands beside words that mean something else: `bullet train`,
    /// `cats_train`. Only the neighbors of such a name can tell what it is.
    Mentions(Part),
    /// Words of several parts stand in the name: `trainval`, `train_val_images`.
    Several,
    /// No word of a part is in it.
    Nothing,
}

/// Words that may stand beside that of a part and change nothing.
const NEUTRAL: [&str; 24] = [
    "data", "dataset", "file", "files", "folder", "full", "image", "images", "img", "imgs", "jpeg",
    "jpegs", "jpg", "of", "part", "photo", "photos", "picture", "pictures", "png", "seg", "set",
    "shard", "split",
];

/// Reads a name without its extension.
pub(crate) fn naming(name: &str) -> Naming {
    let mut part = None;
    let mut is_plain = true;
    for word in words(name) {
        match parts_of_word(&word) {
            Parts::One(found) if part.is_none_or(|part| part == found) => part = Some(found),
            Parts::One(_) | Parts::Several => return Naming::Several,
            Parts::None => is_plain &= NEUTRAL.contains(&word.as_str()),
        }
    }
    match part {
        None => Naming::Nothing,
        Some(part) if is_plain => Naming::Names(part),
        Some(part) => Naming::Mentions(part),
    }
}

/// The part that a name speaks of, whatever else is in it: for files that cannot be classes, such
/// as shards. `None` without such a word or with several.
pub(crate) fn part_of_file(name: &str) -> Option<Part> {
    match naming(name) {
        Naming::Names(part) | Naming::Mentions(part) => Some(part),
        Naming::Several | Naming::Nothing => None,
    }
}

/// The words of a name that say neither a part nor nothing about content: `cats` of
/// `cats_train_images`. Folders with the same rest are parts of one set.
pub(crate) fn rest(name: &str) -> Vec<String> {
    let is_rest = |word: &String| {
        matches!(parts_of_word(word), Parts::None) && !NEUTRAL.contains(&word.as_str())
    };
    words(name).into_iter().filter(is_rest).collect()
}

/// Whether a name says no more than that images are inside: `images`, `JPEGImages`, `imgs_001`.
pub(crate) fn means_images(name: &str) -> bool {
    const WORDS: [&str; 11] = [
        "image",
        "images",
        "img",
        "imgs",
        "jpeg",
        "jpegimages",
        "jpegs",
        "jpg",
        "jpgs",
        "png",
        "pngs",
    ];
    // Such a word with a number counts pieces of one set.
    const PIECES: [&str; 4] = ["batch", "chunk", "part", "shard"];
    let is_counted = name.contains(|letter: char| letter.is_ascii_digit());
    let words = words(name);
    let is_image = |word: &String| WORDS.contains(&word.as_str());
    let is_piece = |word: &String| is_counted && PIECES.contains(&word.as_str());
    let is_known = |word: &String| is_image(word) || is_piece(word);
    // `HAM10000_images_part_1` is a piece of a set, whatever that is called.
    let is_piece_of_images = words.iter().any(is_image) && words.iter().any(is_piece);
    !words.is_empty() && (words.iter().all(is_known) || is_piece_of_images)
}

/// Whether a name is that of a folder of pictures that describe a set, not belong to it.
pub(crate) fn means_description(name: &str) -> bool {
    const WORDS: [&str; 12] = [
        "asset",
        "assets",
        "doc",
        "docs",
        "fig",
        "figs",
        "preview",
        "previews",
        "screenshots",
        "thumbnails",
        "thumbs",
        "static",
    ];
    matches!(words(name).as_slice(), [word] if WORDS.contains(&word.as_str()))
}

/// Whether a name is that of a fold of cross-validation: `fold1`, `Split_02`.
pub(crate) fn means_fold(name: &str) -> bool {
    const WORDS: [&str; 6] = ["cv", "fold", "folds", "k", "kfold", "split"];
    let words = words(name);
    name.contains(|letter: char| letter.is_ascii_digit())
        && words.iter().all(|word| WORDS.contains(&word.as_str()))
        && words.iter().any(|word| word.len() > 1)
}

/// Whether a file's name says that it assigns images to splits: `split_zhou1`, `folds`, `setid`.
pub(crate) fn means_split_file(name: &str) -> bool {
    const WORDS: [&str; 9] = [
        "fold",
        "folds",
        "kfold",
        "partition",
        "partitions",
        "setid",
        "split",
        "splits",
        "crossvalidation",
    ];
    words(name).iter().any(|word| WORDS.contains(&word.as_str()))
}

/// What names of images, or of their folders, say about splits where nothing else does.
#[derive(Debug, Default)]
pub(crate) struct SplitNames {
    looked_at: usize,
    telling: usize,
    /// The first image of each part.
    first: BTreeMap<Part, String>,
}

impl SplitNames {
    /// Looks at an image, and the part of which it is said to be.
    pub(crate) fn push(&mut self, image: &str, part: Option<Part>) {
        self.looked_at += 1;
        if let Some(part) = part {
            self.telling += 1;
            self.first.entry(part).or_insert_with(|| image.to_owned());
        }
    }

    /// An image of the train part and one of another, if half of the images tell parts.
    pub(crate) fn both(&self) -> Option<[&str; 2]> {
        let held_out = self.first.iter().find(|(part, _)| **part != Part::Train)?.1;
        let train = self.first.get(&Part::Train)?;
        (self.telling * 2 >= self.looked_at).then_some([train.as_str(), held_out.as_str()])
    }
}

/// Whether a text has a word of the train part and one of another.
pub(crate) fn has_words_of_splits(text: &str) -> bool {
    let tokens = text.split(|letter: char| !letter.is_alphabetic());
    let parts: BTreeSet<Part> = tokens.filter_map(Part::from_word).collect();
    parts.contains(&Part::Train) && parts.len() > 1
}

/// The usual names of columns and keys that say which part an entry belongs to, in lower case and
/// letters alone. Such a column is never one of labels, so one that cannot be read is no reason to train
/// on all rows.
const PART_COLUMNS: [&str; 12] = [
    "split",
    "splits",
    "datasplit",
    "traintestsplit",
    "fold",
    "folds",
    "kfold",
    "foldid",
    "cvfold",
    "partition",
    "partitions",
    "evalpartition",
];
/// The same for names that may also be those of labels, where there is no other column.
const LIKELY_PART_COLUMNS: [&str; 3] = ["set", "subset", "phase"];
/// Names of columns that tell parts only if the values do.
const POSSIBLE_PART_COLUMNS: [&str; 4] = ["usage", "dataset", "datatype", "settype"];

/// How a column or key says which part an entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartValues {
    /// By words: `train`, `PublicTest`.
    Words,
    /// By whether the entry is of this part: `is_valid`.
    Flag(Part),
}

impl PartValues {
    /// The part of an entry with this value.
    pub(crate) fn part(self, value: &str) -> Option<Part> {
        match self {
            Self::Words => part_of_file(value),
            Self::Flag(part) => Some(match (truth(value)?, part) {
                (true, part) => part,
                (false, Part::Train) => Part::Test,
                (false, _) => Part::Train,
            }),
        }
    }
}

/// The truth of a flag, as spreadsheets and programs write it.
pub(crate) fn truth(value: &str) -> Option<bool> {
    match value.trim().to_lowercase().as_str() {
        "1" | "1.0" | "true" | "t" | "yes" | "y" => Some(true),
        "0" | "0.0" | "false" | "f" | "no" | "n" => Some(false),
        _ => None,
    }
}

/// Whether a column of this name is always one of splits.
pub(crate) fn is_column_of_splits(name: &str) -> bool {
    PART_COLUMNS.contains(&plain(name).as_str()) || words(name).len() > 1 && flag(name).is_some()
}

/// What a column that is called like one of splits says by its name alone.
pub(crate) fn part_values(name: &str) -> Option<PartValues> {
    let letters = plain(name);
    let mut names = PART_COLUMNS.iter().chain(&LIKELY_PART_COLUMNS).chain(&POSSIBLE_PART_COLUMNS);
    if names.any(|known| *known == letters) {
        Some(PartValues::Words)
    } else {
        flag(name).map(PartValues::Flag)
    }
}

/// The part of a column such as `is_valid`.
fn flag(name: &str) -> Option<Part> {
    match naming(name) {
        Naming::Names(part) => Some(part),
        Naming::Mentions(part) if matches!(words(name)[0].as_str(), "is" | "in") => Some(part),
        _ => None,
    }
}

/// A column of a table that may tell parts.
pub(crate) struct PartCandidate<'a> {
    pub(crate) name: &'a str,
    /// The values of its first rows.
    pub(crate) values: Vec<Cow<'a, str>>,
}

/// Chooses the column that says which part a row belongs to, out of those that hold neither images nor
/// known labels: one that is called so, or one whose values are words of splits. `may_be_label` says that
/// the only candidate may be the label.
pub(crate) fn choose_part_column(
    candidates: &[PartCandidate<'_>],
    may_be_label: bool,
) -> Option<(usize, PartValues)> {
    let is_label = may_be_label && candidates.len() == 1;
    let is_named = |candidate: &PartCandidate<'_>, names: &[&str]| {
        let letters = plain(candidate.name);
        names.contains(&letters.as_str())
    };
    let filled = |candidate: &PartCandidate<'_>, is: &dyn Fn(&str) -> bool| {
        let mut values = candidate.values.iter().filter(|value| !value.is_empty()).peekable();
        values.peek().is_some() && values.all(|value| is(value))
    };
    let are_words =
        |candidate: &PartCandidate<'_>| filled(candidate, &|value| part_of_file(value).is_some());
    let has_word = |candidate: &PartCandidate<'_>| {
        let is_word = |value: &Cow<'_, str>| matches!(naming(value), Naming::Names(_));
        are_words(candidate) || candidate.values.iter().any(is_word)
    };
    let is_flag = |candidate: &PartCandidate<'_>, wanted: fn(Part) -> bool| {
        flag(candidate.name).is_some_and(wanted)
            && filled(candidate, &|value| truth(value).is_some())
    };
    let find = |is: &dyn Fn(&PartCandidate<'_>) -> bool| candidates.iter().position(is);
    find(&|column| is_named(column, &PART_COLUMNS) && has_word(column))
        .or_else(|| {
            let names = [&LIKELY_PART_COLUMNS[..], &POSSIBLE_PART_COLUMNS].concat();
            find(&|column| is_named(column, &names) && has_word(column))
        })
        .map(|place| (place, PartValues::Words))
        .or_else(|| {
            // Where a row is not of `is_valid`, it may still be of the test part; `is_train` says it all.
            let place = find(&|column| is_flag(column, |part| part == Part::Train))
                .or_else(|| find(&|column| is_flag(column, |_| true)))?;
            Some((place, PartValues::Flag(flag(candidates[place].name)?)))
        })
        .or_else(|| {
            let place = find(&|column| is_named(column, &PART_COLUMNS))
                .or_else(|| find(&|c| !is_label && is_named(c, &LIKELY_PART_COLUMNS)))
                .or_else(|| find(&|column| !is_label && are_words(column)))?;
            Some((place, PartValues::Words))
        })
}

/// What is wrong with a column of splits that has no row of the train part and these values.
pub(crate) fn unclear_values(name: &str, values: &[String], entries: &str) -> String {
    format!(
        "its column {name} has the values {}, which are no words of splits such as train and val; \
         rename the column to train on all {entries}, or keep the {entries} to train on",
        values.join(", ")
    )
}

enum Parts {
    None,
    One(Part),
    Several,
}

fn parts_of_word(word: &str) -> Parts {
    match (word, Part::from_word(word)) {
        ("trainval" | "traindev" | "traintest" | "devtest" | "valtest", _) => Parts::Several,
        ("trainset" | "trainingset" | "trainlist", _) => Parts::One(Part::Train),
        ("valset" | "validset" | "validationset" | "devset" | "vallist", _) => {
            Parts::One(Part::Validation)
        }
        ("testset" | "testingset" | "evalset" | "testlist" | "holdout" | "heldout", _) => {
            Parts::One(Part::Test)
        }
        (_, Some(part)) => Parts::One(part),
        (_, None) => Parts::None,
    }
}

/// The words of a name in lower case: runs of letters, cut where a lower-case letter meets an
/// upper-case one.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = None::<char>;
    for letter in name.chars() {
        let continues = before.is_some_and(|before| {
            before.is_alphabetic() && !(before.is_lowercase() && letter.is_uppercase())
        });
        if letter.is_alphabetic() {
            match words.last_mut() {
                Some(word) if continues => word.extend(letter.to_lowercase()),
                _ => words.push(letter.to_lowercase().collect()),
            }
        }
        before = Some(letter);
    }
    // `held_out` is one word.
    let held = words
        .windows(2)
        .position(|pair| matches!(pair[0].as_str(), "hold" | "held") && pair[1] == "out");
    if let Some(place) = held {
        words.remove(place + 1);
        words[place].push_str("out");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_table_names_its_part_in_any_form() {
        for part in Part::ALL {
            for word in part.words() {
                let upper = word.to_uppercase();
                let title = format!("{}{}", &upper[..1], &word[1..]);
                for name in [
                    (*word).to_owned(),
                    upper.clone(),
                    title.clone(),
                    format!("seg_{word}"),
                    format!("{word}_images"),
                    format!("{word}-00000-of-00001"),
                    format!("{word}2017"),
                    format!("{title} Set"),
                    format!("images{title}"),
                ] {
                    assert_eq!(naming(&name), Naming::Names(part), "{name}");
                    assert_eq!(part_of_file(&name), Some(part), "{name}");
                }
            }
        }
    }

    #[test]
    fn a_word_among_others_is_only_a_mention() {
        for (name, expected) in [
            ("bullet train", Naming::Mentions(Part::Train)),
            ("imagenet-train-000012", Naming::Mentions(Part::Train)),
            ("held_out", Naming::Names(Part::Test)),
            ("data_holdout", Naming::Names(Part::Test)),
            ("HoldOut-2", Naming::Names(Part::Test)),
            ("test tube", Naming::Mentions(Part::Test)),
            ("cats_valid", Naming::Mentions(Part::Validation)),
            ("trainval", Naming::Several),
            ("train_val", Naming::Several),
            ("trains", Naming::Nothing),
            ("strain", Naming::Nothing),
            ("contest", Naming::Nothing),
            ("device", Naming::Nothing),
            ("000012", Naming::Nothing),
            ("", Naming::Nothing),
        ] {
            assert_eq!(naming(name), expected, "{name}");
        }
        assert_eq!(part_of_file("imagenet-VALID-3"), Some(Part::Validation));
        assert_eq!(part_of_file("trainval-3"), None);
    }

    #[test]
    fn the_rest_of_a_name_tells_which_set_a_part_is_of() {
        for (name, expected) in [
            ("cats_train_images", "cats"),
            ("trainA", "a"),
            ("bounding_box_test", "bounding box"),
            ("train", ""),
            ("Test-Set 2", ""),
        ] {
            assert_eq!(rest(name).join(" "), expected, "{name}");
        }
    }

    #[test]
    fn some_names_say_only_that_images_or_folds_are_inside() {
        for name in [
            "images",
            "Images",
            "JPEGImages",
            "img",
            "images_001",
            "part2",
            "batch-07",
            "HAM10000_images_part_1",
        ] {
            assert!(means_images(name), "{name}");
        }
        for name in ["part", "photo", "images of cats", "data", "", "7", "train_images"] {
            assert!(!means_images(name), "{name}");
        }
        assert!(means_description("Assets") && !means_description("figures of cats"));
        for name in ["fold1", "Fold_02", "split-3", "cv5", "k-fold-1", "KFold1"] {
            assert!(means_fold(name), "{name}");
        }
        for name in ["fold", "1", "k2", "folding chairs 2", "train1"] {
            assert!(!means_fold(name), "{name}");
        }
        for name in ["split_zhou", "folds", "setid", "train_test_split", "kfold5"] {
            assert!(means_split_file(name), "{name}");
        }
        assert!(!means_split_file("splitting axes") && !means_split_file("test_log"));
        assert!(has_words_of_splits(r#"{"train": [0], "val": [1]}"#));
        assert!(!has_words_of_splits("training of strains") && !has_words_of_splits("val test"));
    }

    #[test]
    fn columns_of_splits_tell_parts_by_words_or_flags() {
        for (name, value, expected) in [
            ("split", "Training", Some(Part::Train)),
            ("Usage", "PrivateTest", Some(Part::Test)),
            ("data set", "trainval", None),
            ("partition", "0", None),
            ("is_valid", "True", Some(Part::Validation)),
            ("is_valid", "0", Some(Part::Train)),
            ("is_train", "false", Some(Part::Test)),
            ("in_holdout", "1", Some(Part::Test)),
            ("train", "", None),
        ] {
            let values = part_values(name).unwrap();
            assert_eq!(values.part(value), expected, "{name} {value}");
        }
        assert_eq!(part_values("label"), None);
    }

    #[test]
    fn validation_is_the_test_split_where_there_is_both() {
        let both = [Part::Train, Part::Validation, Part::Test];
        let splits = both.map(|part| part.split(&both));
        assert_eq!(splits, [Some(Split::Train), Some(Split::Test), None]);
        assert_eq!(Part::Test.split(&[Part::Train, Part::Test]), Some(Split::Test));
    }
}
