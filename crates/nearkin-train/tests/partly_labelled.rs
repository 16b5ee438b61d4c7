//! Evaluation on a training set of which only some images have a label, such as STL-10's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_augment::View;
use nearkin_data::{DataError, Image, ImageSet, Source, Split};
use nearkin_dist::SingleProcess;
use nearkin_eval::{FeatureOptions, FeatureSource};
use nearkin_recipe::Neighbours;
use nearkin_train::evaluate_knn;

/// A set whose images from this index on have no label.
struct Partly(Arc<dyn ImageSet>, usize);

impl ImageSet for Partly {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        self.0.image(index)
    }

    fn label(&self, index: usize) -> Option<usize> {
        if index < self.1 { self.0.label(index) } else { None }
    }

    fn classes(&self) -> &[String] {
        self.0.classes()
    }

    fn name(&self, index: usize) -> String {
        self.0.name(index)
    }
}

#[test]
fn the_definition_counts_the_images_that_were_compared() {
    let source = Source::Shapes { train_images: 30, test_images: 12, size_pixels: 16, seed: 0 };
    let test = nearkin_data::open(&source, Split::Test).unwrap();
    let train = nearkin_data::open(&source, Split::Train).unwrap();
    let train: Arc<dyn ImageSet> = Arc::new(Partly(train, 17));
    let view = "name = \"v\"\ntransforms = [{ center_crop = { size = 16 } }]";
    let view = View::new(toml::from_str(view).unwrap()).unwrap();
    let votes: Neighbours = toml::from_str("k = 3\ntemperature = 0.1").unwrap();
    let options =
        FeatureOptions { batch_size: const { NonZeroUsize::new(8).unwrap() }, workers: 0 };
    let results = evaluate_knn(
        FeatureSource::Pixels,
        [&train, &test],
        &view,
        &[votes],
        options,
        &SingleProcess,
    )
    .unwrap();
    let definition = &results[0].definition;
    assert!(definition.ends_with("17 training and 12 test images"), "{definition}");
}
