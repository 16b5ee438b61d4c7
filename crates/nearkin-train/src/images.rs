//! The images of a run, and what it remembers of them, so that it is not continued on others.
//!
//! A run continues bit by bit only on the same images in the same order. Their number alone does not tell:
//! renamed files come in another order, and moved ones get other labels. So a checkpoint keeps digests of
//! all names and labels, and of the pixels of a few images.

use std::path::Path;
use std::sync::Arc;

use nearkin_data::random::Purpose;
use nearkin_data::{ImageSet, Random, Split};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::tensors::hexadecimal;
use crate::{Setup, TrainError};

/// Images whose pixels are compared.
const SAMPLE: usize = 32;
/// Digits kept of the digest of an image: enough to tell 32 images from others.
const PIXEL_DIGITS: usize = 16;

/// The images of a run.
pub(crate) struct Images {
    pub(crate) train: Arc<dyn ImageSet>,
    /// To evaluate on.
    pub(crate) test: Option<Arc<dyn ImageSet>>,
    pub(crate) digest: ImagesDigest,
}

impl Images {
    /// Opens the sets that a recipe names, if there are enough images and the labels that it needs.
    pub(crate) fn open(setup: &Setup) -> Result<Self, TrainError> {
        let recipe = &setup.recipe;
        let train = recipe.open_training_images()?;
        let has_test = nearkin_data::has_split(&recipe.data, Split::Test)?;
        let is_evaluated = recipe.evaluation.every_epochs > 0 && train.has_labels();
        let test = if has_test && is_evaluated {
            Some(nearkin_data::open(&recipe.data, Split::Test)?).filter(ImageSet::has_labels)
        } else {
            None
        };
        if setup.requirements.labels && !train.has_labels() {
            return Err(TrainError::NeedsLabels { method: setup.method_name().to_owned() });
        }
        setup.steps_per_epoch(train.len())?;
        let digest = ImagesDigest::of_names(recipe.data.path(), train.as_ref(), test.as_deref());
        Ok(Self { train, test, digest })
    }
}

/// Digests of the images of a run, in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagesDigest {
    /// SHA-256 of the names of the training images, in order. Where the set is does not count.
    names: String,
    /// SHA-256 of their labels.
    labels: String,
    /// The same of names and labels of the test images, if there are any.
    test: Option<String>,
    /// Digests of the pixels of some training images, which the seed chooses; `None` for an image that
    /// cannot be read.
    pixels: Vec<Option<String>>,
}

impl ImagesDigest {
    /// Digests of names and labels, of sets that were opened at `path`.
    pub(crate) fn of_names(
        path: Option<&Path>,
        train: &dyn ImageSet,
        test: Option<&dyn ImageSet>,
    ) -> Self {
        let [names, labels] = names_and_labels(path, train);
        let test = test.map(|test| names_and_labels(path, test).join(" "));
        Self { names, labels, test, pixels: Vec::new() }
    }

    /// Adds those of the pixels of a few training images.
    pub(crate) fn with_pixels(mut self, train: &dyn ImageSet, seed: u64) -> Self {
        let digest = |index| {
            let image = train.image(index).ok()?;
            let mut digest = Sha256::new();
            digest.update((image.width() as u64).to_le_bytes());
            digest.update(image.rgb());
            Some(hexadecimal(&digest.finalize())[..PIXEL_DIGITS].to_owned())
        };
        self.pixels = sample(train.len(), seed).map(digest).collect();
        self
    }

    /// In what training images differ from those `before`, which had the same number; empty if in
    /// nothing.
    pub(crate) fn differences(
        &self,
        before: &Self,
        train: &dyn ImageSet,
        seed: u64,
    ) -> Vec<String> {
        let mut differences = Vec::new();
        if self.names != before.names {
            differences.push("other names, or the same in another order".to_owned());
        }
        if self.labels != before.labels {
            differences.push("other labels".to_owned());
        }
        let pairs = self.pixels.iter().zip(&before.pixels).zip(sample(train.len(), seed));
        // What could not be read then or now says nothing.
        let known = pairs
            .filter_map(|((now, before), index)| Some((now.as_ref()? != before.as_ref()?, index)));
        let known: Vec<(bool, usize)> = known.collect();
        let others: Vec<usize> =
            known.iter().filter(|(differs, _)| *differs).map(|&(_, index)| index).collect();
        if let Some(&first) = others.first() {
            differences.push(format!(
                "other pixels in {} of {} images that were compared, for example {}",
                others.len(),
                known.len(),
                train.name(first)
            ));
        }
        differences
    }

    /// Whether the test images have other names or labels than `before`.
    pub(crate) fn has_other_test_images(&self, before: &Self) -> bool {
        self.test != before.test
    }

    /// One text for names and labels, to compare processes with each other.
    pub(crate) fn of_all(&self) -> String {
        format!("{} {} {}", self.names, self.labels, self.test.as_deref().unwrap_or_default())
    }
}

/// Which images are compared by their pixels.
fn sample(images: usize, seed: u64) -> impl Iterator<Item = usize> {
    let mut random = Random::new(Purpose::Subset, seed, 5, 0);
    (0..SAMPLE.min(images)).map(move |_| random.below(images))
}

fn names_and_labels(path: Option<&Path>, set: &dyn ImageSet) -> [String; 2] {
    let path = path.map(|path| path.display().to_string());
    let (mut names, mut labels) = (Sha256::new(), Sha256::new());
    for index in 0..set.len() {
        let name = set.name(index);
        names.update(own_part(&name, path.as_deref()));
        names.update([0]);
        labels.update(set.label(index).map_or(-1, |label| label as i64).to_le_bytes());
        if let Some(several) = set.labels(index) {
            for classes in [several.present, several.unclear] {
                labels.update((classes.len() as u64).to_le_bytes());
                classes.iter().for_each(|class| labels.update(class.to_le_bytes()));
            }
        }
    }
    [names, labels].map(|digest| hexadecimal(&digest.finalize()))
}

/// What an image is called wherever its set is: the name of its file, or its record in the one file of
/// the set, which may be renamed.
fn own_part<'a>(name: &'a str, path: Option<&str>) -> &'a str {
    let inside = path.and_then(|path| name.strip_prefix(path)).unwrap_or(name);
    inside.rsplit('/').next().unwrap_or(inside)
}

#[cfg(test)]
mod tests {
    use nearkin_data::{DataError, Image};

    use super::*;

    struct Images(Vec<(String, Option<usize>, u8)>);

    impl ImageSet for Images {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
            match self.0[index].2 {
                0 => Err(DataError::Request("damaged".to_owned())),
                value => Ok(Image::new(1, 1, vec![value; 3]).unwrap()),
            }
        }

        fn label(&self, index: usize) -> Option<usize> {
            self.0[index].1
        }

        fn classes(&self) -> &[String] {
            &[]
        }

        fn name(&self, index: usize) -> String {
            self.0[index].0.clone()
        }
    }

    fn images(root: &str) -> Images {
        let image = |index: usize| (format!("{root}/{index}.png"), Some(index % 3), 9);
        Images((0..50).map(image).collect())
    }

    fn digest(images: &Images) -> ImagesDigest {
        ImagesDigest::of_names(Some(Path::new("/there")), images, None).with_pixels(images, 7)
    }

    fn differences(change: impl Fn(usize, &mut (String, Option<usize>, u8))) -> Vec<String> {
        let before = digest(&images("/there"));
        let mut now = images("/there");
        now.0.iter_mut().enumerate().for_each(|(index, image)| change(index, image));
        digest(&now).differences(&before, &now, 7)
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        assert!(differences(|_, _| {}).is_empty());
        let renamed = differences(|index, image| image.0 = format!("/there/x{index}.png"));
        assert_eq!(renamed, ["other names, or the same in another order"]);
        assert_eq!(differences(|_, image| image.1 = Some(0)), ["other labels"]);
        assert_eq!(differences(|_, image| image.1 = None), ["other labels"]);
        let other = differences(|_, image| image.2 = 10);
        assert!(other[0].starts_with("other pixels in 32 of 32 images"), "{other:?}");
        assert!(other[0].contains("/there/"), "{other:?}");
    }

    #[test]
    fn moved_and_damaged_images_are_the_same_images() {
        let (before, moved) = (digest(&images("/there")), images("/elsewhere/deep"));
        assert!(digest(&moved).differences(&before, &moved, 7).is_empty());
        assert!(differences(|index, image| image.2 = [9, 0][index % 2]).is_empty());
        assert_eq!(own_part("/d/x.packed record 3", Some("/d/x.packed")), " record 3");
        assert_eq!(own_part("/d/train/cat/3.png", Some("/d")), "3.png");
        assert_eq!(own_part("/e/3.png", Some("/d")), "3.png");
        assert_eq!(own_part("shapes train image 3", None), "shapes train image 3");
    }
}
