//! The interface of an image set, and the subset that recipes ask for.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Escaped, Image, Random, Skipped, random::Purpose};

/// What can go wrong while opening or reading an image set. Every message names the file, with control
/// characters [escaped](Escaped).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file or folder could not be opened or read.
    #[error("cannot read {}: {source}", Escaped(path.display()))]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The file could not be written.
    #[error("cannot write {}: {source}", Escaped(path.display()))]
    Write {
        /// What was written.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The file was read, but its content is not what its format asks for.
    #[error("{}: {}", Escaped(path.display()), Escaped(reason))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// The folder holds nothing to read.
    #[error("no images in {}: {}", Escaped(path.display()), Escaped(reason))]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
    /// More images are damaged than the recipe allows.
    #[error(
        "at least {bad} of the {images} {split} images cannot be read, and reading stopped there: \
         bad_image_limit = {limit} allows {allowed}; {}: repair or remove them, or raise bad_image_limit",
        Escaped(which)
    )]
    TooManyBad {
        /// Images that were found to be damaged; there may be more, since none is read after them.
        bad: usize,
        /// All images.
        images: usize,
        /// Of which split.
        split: Split,
        /// The share that is allowed.
        limit: f64,
        /// The number that follows from it.
        allowed: usize,
        /// What lists them, or what is wrong with the first.
        which: String,
    },
    /// The request itself makes no sense for this set.
    #[error("{}", Escaped(.0))]
    Request(String),
}

impl DataError {
    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn empty(path: &Path, reason: impl Into<String>) -> Self {
        Self::Empty { path: path.to_owned(), reason: reason.into() }
    }

    /// For `map_err` on whatever reads `path`.
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }
}

/// Which part of a data set: the images to learn from, or those held back to measure with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The images to learn from.
    Train,
    /// The images held back; called `val` in some folders.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

/// What is known of an image of a set whose images can show several classes at once. Classes that
/// are in neither list are not in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassLabels<'a> {
    /// Classes that are in the image, rising.
    pub present: &'a [u32],
    /// Classes for which the image is neither an example nor a counterexample, rising: what it shows
    /// of them is hard to recognise.
    pub unclear: &'a [u32],
}

/// The same, as sets keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptLabels {
    pub(crate) present: Box<[u32]>,
    pub(crate) unclear: Box<[u32]>,
}

impl KeptLabels {
    pub(crate) fn lend(&self) -> ClassLabels<'_> {
        ClassLabels { present: &self.present, unclear: &self.unclear }
    }
}

/// A set of images with random access, shared between loader threads.
pub trait ImageSet: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The image at `index < len()`, decoded.
    fn image(&self, index: usize) -> Result<Image<'_>, DataError>;

    /// The class of the image, as an index into [`classes`](Self::classes); `None` without a label.
    fn label(&self, index: usize) -> Option<usize>;

    /// What is known of the classes of an image, as indices into [`classes`](Self::classes), in a set
    /// whose images can show several at once; such a set has no [`label`](Self::label). `None` in all
    /// other sets, and for an image of which nothing is known.
    fn labels(&self, index: usize) -> Option<ClassLabels<'_>> {
        let _ = index;
        None
    }

    /// Class names in label order; empty without labels.
    fn classes(&self) -> &[String];

    /// What to call the image in a message: a path, or a record of a file.
    fn name(&self, index: usize) -> String;

    /// Width and height of every image, in pixels, where all have one size and it is known without
    /// reading them.
    fn one_size(&self) -> Option<(usize, usize)> {
        None
    }

    /// What was left out while the set was opened, with the reasons.
    fn skipped(&self) -> &Skipped {
        static NOTHING: Skipped = Skipped::new();
        &NOTHING
    }

    /// Whether there are labels, though not every image need have one: see [`labelled`].
    fn has_labels(&self) -> bool {
        (0..self.len()).any(|index| self.label(index).is_some())
    }

    /// Whether images can show several classes at once: see [`labels`](Self::labels).
    fn has_several_labels(&self) -> bool {
        (0..self.len()).any(|index| self.labels(index).is_some())
    }

    /// Is told by a loader, batch by batch in the order of its plan, which images it could not read.
    /// The loader goes on without these, or ends with the error that is returned: here the first of
    /// them, but see [`Tolerant`](crate::Tolerant).
    fn tolerate(&self, unreadable: Vec<(usize, DataError)>) -> Result<(), DataError> {
        unreadable.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// Some images of another set, in a fixed order.
pub struct Subset<S> {
    set: S,
    indices: Vec<usize>,
}

impl<S: ImageSet> Subset<S> {
    /// `count` images drawn without replacement, the same ones for the same seed; all of them when
    /// the set has no more than that. Labels play no part in the choice.
    pub fn random(set: S, count: usize, seed: u64) -> Self {
        let mut indices = Random::new(Purpose::Subset, seed, 0, 0).permutation(set.len());
        indices.truncate(count);
        indices.sort_unstable();
        Self { set, indices }
    }

    /// The images at these places, each below the length of the set.
    pub fn of(set: S, indices: Vec<usize>) -> Self {
        Self { set, indices }
    }

    /// Part `part` of `parts`, from 0: neighbouring images, about as many as in the other parts.
    pub fn part(set: S, part: usize, parts: NonZeroUsize) -> Self {
        let begin = |part: usize| part * set.len() / parts;
        let indices = (begin(part)..begin(part + 1)).collect();
        Self { set, indices }
    }
}

impl<S: ImageSet> ImageSet for Subset<S> {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        self.set.image(self.indices[index])
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.set.label(self.indices[index])
    }

    fn labels(&self, index: usize) -> Option<ClassLabels<'_>> {
        self.set.labels(self.indices[index])
    }

    fn classes(&self) -> &[String] {
        self.set.classes()
    }

    fn name(&self, index: usize) -> String {
        self.set.name(self.indices[index])
    }

    fn one_size(&self) -> Option<(usize, usize)> {
        self.set.one_size()
    }

    fn skipped(&self) -> &Skipped {
        self.set.skipped()
    }

    fn tolerate(&self, unreadable: Vec<(usize, DataError)>) -> Result<(), DataError> {
        let place = |(index, error): (usize, DataError)| (self.indices[index], error);
        self.set.tolerate(unreadable.into_iter().map(place).collect())
    }
}

/// The images of a set that have a label, or several, in its order; the set itself where all of them
/// do.
pub fn labelled(set: &Arc<dyn ImageSet>) -> Arc<dyn ImageSet> {
    let has_label = |&index: &usize| set.label(index).is_some() || set.labels(index).is_some();
    let indices: Vec<usize> = (0..set.len()).filter(has_label).collect();
    if indices.len() == set.len() {
        Arc::clone(set)
    } else {
        Arc::new(Subset { set: Arc::clone(set), indices })
    }
}

/// The classes of the splits of a set. Splits without any do not count; others must agree on the classes
/// and their order, since a label means nothing without them.
pub fn shared_classes(splits: &[Arc<dyn ImageSet>]) -> Result<&[String], DataError> {
    let mut classes: &[String] = &[];
    for split in splits.iter().map(ImageSet::classes).filter(|classes| !classes.is_empty()) {
        if !classes.is_empty() && classes != split {
            let differ = classes.iter().zip(split).position(|(one, other)| one != other);
            let reason = match differ {
                Some(place) => format!(
                    "class {place} is {:?} in one and {:?} in another",
                    classes[place], split[place]
                ),
                None => format!("one has {} and another {}", classes.len(), split.len()),
            };
            return Err(DataError::Request(format!(
                "the splits do not have the same classes: {reason}"
            )));
        }
        classes = split;
    }
    Ok(classes)
}

impl<S: ImageSet + ?Sized> ImageSet for Arc<S> {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        (**self).image(index)
    }

    fn label(&self, index: usize) -> Option<usize> {
        (**self).label(index)
    }

    fn labels(&self, index: usize) -> Option<ClassLabels<'_>> {
        (**self).labels(index)
    }

    fn classes(&self) -> &[String] {
        (**self).classes()
    }

    fn name(&self, index: usize) -> String {
        (**self).name(index)
    }

    fn one_size(&self) -> Option<(usize, usize)> {
        (**self).one_size()
    }

    fn skipped(&self) -> &Skipped {
        (**self).skipped()
    }

    fn tolerate(&self, unreadable: Vec<(usize, DataError)>) -> Result<(), DataError> {
        (**self).tolerate(unreadable)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    struct Numbered(usize);

    struct Classed(Vec<String>);

    impl ImageSet for Classed {
        fn len(&self) -> usize {
            0
        }

        fn image(&self, _: usize) -> Result<Image<'_>, DataError> {
            Err(DataError::Request("there are no images".into()))
        }

        fn label(&self, _: usize) -> Option<usize> {
            None
        }

        fn classes(&self) -> &[String] {
            &self.0
        }

        fn name(&self, index: usize) -> String {
            index.to_string()
        }
    }

    #[test]
    fn splits_share_their_classes_or_are_refused() {
        let shared = |splits: &[&[&str]]| {
            let split = |names: &&[&str]| -> Arc<dyn ImageSet> {
                Arc::new(Classed(names.iter().map(ToString::to_string).collect()))
            };
            let splits: Vec<_> = splits.iter().map(split).collect();
            shared_classes(&splits).map(|classes| classes.join(" ")).map_err(|e| e.to_string())
        };
        assert_eq!(shared(&[&["a", "b"], &["a", "b"]]), Ok("a b".to_owned()));
        assert_eq!(shared(&[&[], &["a", "b"]]), Ok("a b".to_owned()));
        assert_eq!(shared(&[&["a"], &[]]), Ok("a".to_owned()));
        assert_eq!(shared(&[&[], &[]]), Ok(String::new()));
        for (splits, expected) in [
            (&[&["a", "b"][..], &["b", "a"]], "class 0 is \"a\" in one and \"b\" in another"),
            (&[&["a", "b"][..], &["a"]], "one has 2 and another 1"),
        ] {
            let message = shared(splits).unwrap_err();
            assert!(message.ends_with(expected), "{message}");
        }
    }

    impl ImageSet for Numbered {
        fn len(&self) -> usize {
            self.0
        }

        fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
            Err(DataError::malformed(Path::new(&self.name(index)), "it is only a number"))
        }

        fn label(&self, _: usize) -> Option<usize> {
            None
        }

        fn classes(&self) -> &[String] {
            &[]
        }

        fn name(&self, index: usize) -> String {
            index.to_string()
        }
    }

    #[test]
    fn parts_are_the_whole_in_order() {
        for (images, parts) in [(10, 3), (2, 3), (0, 2), (7, 1)] {
            let parts = NonZeroUsize::new(parts).unwrap();
            let names: Vec<String> = (0..parts.get())
                .map(|part| Subset::part(Numbered(images), part, parts))
                .flat_map(|part| (0..part.len()).map(move |index| part.name(index)))
                .collect();
            let whole: Vec<String> = (0..images).map(|index| index.to_string()).collect();
            assert_eq!(names, whole);
        }
    }
}
