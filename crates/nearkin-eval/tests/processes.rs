//! Several processes find the neighbours that one finds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroUsize;

use nearkin_augment::View;
use nearkin_data::{Source, Split};
use nearkin_dist::testing::together;
use nearkin_eval::{FeatureOptions, FeatureSource, Votes, knn, knn_together};

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
            FeatureOptions { batch_size: const { NonZeroUsize::new(4).unwrap() }, workers: 0 };
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
