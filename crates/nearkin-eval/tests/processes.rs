//! Several processes find the neighbours that one finds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_augment::View;
use nearkin_data::{DataError, Image, ImageSet, Source, Split};
use nearkin_dist::testing::together;
use nearkin_eval::{FeatureOptions, FeatureSource, Votes, knn, knn_together};

/// Images with 64 red pixels on black, so that cosines are exact; few differ.
struct Tied {
    images: usize,
    classes: Vec<String>,
}

impl Tied {
    fn new(images: usize) -> Arc<dyn ImageSet> {
        let classes = (0..7).map(|class: u8| class.to_string()).collect();
        Arc::new(Self { images, classes })
    }
}

impl ImageSet for Tied {
    fn len(&self) -> usize {
        self.images
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        let red = |row: usize| if (row + index % 5) % 16 < 4 { 255 } else { 0 };
        let pixels = (0..16 * 16).flat_map(|pixel| [red(pixel / 16), 0, 0]);
        Ok(Image::new(16, 16, pixels.collect::<Vec<u8>>()).unwrap())
    }

    fn label(&self, index: usize) -> Option<usize> {
        Some(index * 5 % 7)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        index.to_string()
    }
}

/// Which of equally near images vote does not depend on how they are divided.
#[test]
fn serial_processes_break_ties_as_one_does() {
    for size in [2, 3] {
        let Some(world) = together("serial_processes_break_ties_as_one_does", size) else {
            continue;
        };
        let (train, test) = (Tied::new(41), Tied::new(23));
        let view = "name = \"v\"\ntransforms = [{ center_crop = { size = 16 } }]";
        let view = View::new(toml::from_str(view).unwrap()).unwrap();
        let votes = [1, 2, 3, 6, 20, 200].map(|k| Votes { k, temperature: 0.1 });
        let options =
            FeatureOptions { batch_size: NonZeroUsize::MIN.saturating_add(3), workers: 0 };
        let sets = [&train, &test];
        let pixels = FeatureSource::Pixels;
        let alone = knn(pixels, sets, &view, &votes, options).unwrap();
        let together =
            knn_together(pixels, sets, &view, &votes, options, &world, &|| false).unwrap();
        assert_eq!(alone, together);
        // The first of nine equal ones has the class of its place.
        let right = (0..23).filter(|&query| query * 5 % 7 == query % 5 * 5 % 7).count();
        assert_eq!(alone.results[0].top_1, right as f64 / 23.0);
        return;
    }
}

/// 37 and 11 images divide by neither two nor three, and one part of the bank is smaller than `k`.
#[test]
fn serial_processes_vote_as_one_does() {
    for size in [2, 3] {
        let Some(world) = together("serial_processes_vote_as_one_does", size) else { continue };
        let source = Source::Shapes { train_images: 37, test_images: 11, size_pixels: 16, seed: 0 };
        let open = |split| nearkin_data::open(&source, split).unwrap();
        let (train, test) = (open(Split::Train), open(Split::Test));
        let view = "name = \"v\"\ntransforms = [{ center_crop = { size = 16 } }]";
        let view = View::new(toml::from_str(view).unwrap()).unwrap();
        let votes = [1, 5, 20, 200].map(|k| Votes { k, temperature: 0.1 });
        let options =
            FeatureOptions { batch_size: NonZeroUsize::MIN.saturating_add(3), workers: 0 };
        let sets = [&train, &test];
        let pixels = FeatureSource::Pixels;
        let alone = knn(pixels, sets, &view, &votes, options).unwrap();
        let together =
            knn_together(pixels, sets, &view, &votes, options, &world, &|| false).unwrap();
        assert_eq!(alone, together);
        assert_eq!(together.images, [37, 11]);
        return;
    }
}
