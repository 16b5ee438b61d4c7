//! `nearkin pretrain --dump-batches`: the files hold what the networks of a training run get.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the tests of the command line")]
mod support;

use std::collections::HashMap;
use std::fs;
use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_augment::{Loader, LoaderOptions, Order};
use nearkin_recipe::Source;
use safetensors::{Dtype, SafeTensors};

use crate::support::{Place, TINY, tiny_on, tiny_with};

/// A file of a batch, read.
struct Dumped {
    header: HashMap<String, String>,
    /// Shape and float32 values, or int64 values as they are.
    floats: HashMap<String, (Vec<usize>, Vec<f32>)>,
    integers: HashMap<String, Vec<i64>>,
}

impl Dumped {
    fn read(place: &Place, file: &str) -> Self {
        let bytes = fs::read(place.path(file)).expect(file);
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let header = header.metadata().clone().unwrap();
        let (mut floats, mut integers) = (HashMap::new(), HashMap::new());
        for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let data = tensor.data();
            match tensor.dtype() {
                Dtype::F32 => {
                    let values = data.chunks_exact(4);
                    let values = values.map(|four| f32::from_le_bytes(four.try_into().unwrap()));
                    floats.insert(name, (tensor.shape().to_vec(), values.collect()));
                }
                Dtype::I64 => {
                    let values = data.chunks_exact(8);
                    let values = values.map(|eight| i64::from_le_bytes(eight.try_into().unwrap()));
                    integers.insert(name, values.collect());
                }
                other => unreachable!("{name} is {other:?}"),
            }
        }
        Self { header, floats, integers }
    }

    fn view(&self, number: usize) -> &[f32] {
        &self.floats[&format!("view_{number}")].1
    }

    fn names(&self, key: &str) -> Vec<String> {
        serde_json::from_str(&self.header[key]).unwrap()
    }

    fn tensors(&self) -> Vec<&str> {
        let names = self.floats.keys().chain(self.integers.keys());
        let mut names: Vec<&str> = names.map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

/// `[images, side, side, 3]` as `[images, 3, side, side]`.
fn channels_first(pixels: &[f32], side: usize) -> Vec<f32> {
    let plane = side * side;
    let images = pixels.chunks_exact(3 * plane);
    images.flat_map(|image| (0..3 * plane).map(|at| image[at % plane * 3 + at / plane])).collect()
}

#[test]
fn the_files_hold_what_the_loader_gives() {
    let place = Place::new();
    let said = place.pretrain("tiny.toml --dump-batches 6 batches").done();
    assert_eq!(said, "wrote 6 batch(es) to batches; nothing was trained\n");
    assert!(!place.path("runs").exists());
    assert_eq!(fs::read_dir(place.path("batches")).unwrap().count(), 6);

    let recipe = Source::parse("tiny", TINY.to_owned()).unwrap().recipe().unwrap();
    let set = recipe.open_training_images().unwrap();
    let mut order = Order::new(64, NonZeroUsize::new(16).unwrap(), 0, true);
    let plan = (0..6).map(move |batch| order.plan(batch / 4, batch as usize % 4));
    let options = LoaderOptions { workers: 0, prefetch_batches: 0 };
    let views = recipe.training_views().unwrap().into();
    let loader = Loader::start(Arc::clone(&set), views, 0, plan, options).unwrap();
    for (number, batch) in (1..).zip(loader) {
        let batch = batch.unwrap();
        let dumped = Dumped::read(&place, &format!("batches/batch-{number:06}.safetensors"));
        assert_eq!(dumped.tensors(), ["indices", "labels", "view_0", "view_1"]);
        for (view, expected) in batch.views.iter().enumerate() {
            assert_eq!(dumped.floats[&format!("view_{view}")].0, [16, 3, 16, 16]);
            assert_eq!(dumped.view(view), channels_first(&expected.pixels, 16));
        }
        let labels: Vec<i64> =
            batch.images.iter().map(|&index| set.label(index).unwrap() as i64).collect();
        assert_eq!(dumped.integers["labels"], labels);
        let indices: Vec<i64> = batch.images.iter().map(|&index| index as i64).collect();
        assert_eq!(dumped.integers["indices"], indices);
        let names: Vec<String> = batch.images.iter().map(|&index| set.name(index)).collect();
        assert_eq!(dumped.names("images"), names);
        assert_eq!(dumped.names("views"), ["weak", "strong"]);
        let epoch = if number <= 4 { "1" } else { "2" };
        let header = |key: &str| dumped.header[key].as_str();
        assert_eq!((header("step"), header("epoch")), (number.to_string().as_str(), epoch));
        let rest = ["batch_of_step", "rank", "processes", "seed"].map(header);
        assert_eq!(rest, ["0", "0", "1", "0"]);
    }
}

/// A rate that breaks the weights in the first step makes training write down the inputs of the second.
#[test]
fn training_with_the_same_seed_gets_the_same_batches() {
    let place = Place::new();
    let broken = "tiny.toml --seed 7 --set optimizer.learning_rate=1e30";
    place.pretrain(&format!("{broken} --dump-batches 2 batches")).done();
    place.pretrain(&format!("{broken} --out run"));
    let trained = Dumped::read(&place, "run/non_finite/step-2.safetensors");
    let dumped = Dumped::read(&place, "batches/batch-000002.safetensors");
    for view in 0..2 {
        assert_eq!(trained.view(view), dumped.view(view));
    }
    place.pretrain("tiny.toml --seed 8 --dump-batches 1 others").done();
    let first = |folder: &str| Dumped::read(&place, &format!("{folder}/batch-000001.safetensors"));
    assert_ne!(first("batches").view(0), first("others").view(0));
}

#[test]
fn an_interrupted_run_gives_its_next_batches() {
    let place = Place::new();
    place.pretrain("tiny.toml --dump-batches 8 all").done();
    place.pretrain("tiny.toml --quiet --out run").done();
    // As if it had been killed in its second epoch.
    fs::remove_dir_all(place.path("run/checkpoints/step-000000008")).unwrap();
    let said = place.pretrain("--resume run --dump-batches 9 rest").done();
    assert_eq!(said, "wrote 4 batch(es) to rest, all that the run has; nothing was trained\n");
    for number in 1..=4 {
        let rest = Dumped::read(&place, &format!("rest/batch-{number:06}.safetensors"));
        let all = Dumped::read(&place, &format!("all/batch-{:06}.safetensors", number + 4));
        assert_eq!(rest.floats, all.floats);
        assert_eq!(rest.header, all.header);
    }
}

#[test]
fn every_batch_of_a_step_has_its_file_and_micro_batches_have_none() {
    let place = Place::new();
    let changes = "--set training.accumulate_batches=2 --set training.micro_batch_size=4 \
                   --set queue.size=32";
    place.pretrain(&format!("tiny.toml {changes} --dump-batches 5 batches")).done();
    let steps: Vec<String> = (1..=5)
        .map(|number| {
            let dumped = Dumped::read(&place, &format!("batches/batch-{number:06}.safetensors"));
            assert_eq!(dumped.floats["view_1"].0, [16, 3, 16, 16]);
            ["epoch", "step", "batch_of_step"].map(|key| dumped.header[key].clone()).join(".")
        })
        .collect();
    assert_eq!(steps, ["1.1.0", "1.1.1", "1.2.0", "1.2.1", "2.3.0"]);
}

#[test]
fn two_processes_write_the_batch_of_one_in_two_parts() {
    let place = Place::new();
    place.pretrain("tiny.toml --dump-batches 2 one").done();
    let said = place.nearkin(
        "launch --nproc 2 -- pretrain tiny.toml --device cpu --threads 1 --dump-batches 2 two",
    );
    assert_eq!(said.done(), "wrote 2 batch(es) to two; nothing was trained\n");
    for number in 1..=2 {
        let one = Dumped::read(&place, &format!("one/batch-{number:06}.safetensors"));
        let parts = [0, 1].map(|rank| {
            let file = format!("two/batch-{number:06}-rank-{rank}.safetensors");
            let part = Dumped::read(&place, &file);
            assert_eq!(
                (&*part.header["rank"], &*part.header["processes"]),
                (&*rank.to_string(), "2")
            );
            part
        });
        for view in 0..2 {
            assert_eq!([parts[0].view(view), parts[1].view(view)].concat(), one.view(view));
        }
        for name in ["indices", "labels"] {
            let joined = parts.each_ref().map(|part| part.integers[name].clone()).concat();
            assert_eq!(joined, one.integers[name]);
        }
    }
}

/// Views that the device makes differ from those of the host by 2 of 255 levels at most.
#[test]
fn the_place_of_the_transforms_changes_no_more_than_two_levels() {
    let place = Place::new();
    let jitter =
        "{ color_jitter = { brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1 } }";
    let normalize = "{ normalize = { mean_rgb = [0.5, 0.4, 0.3], std_rgb = [0.25, 0.2, 0.2] } }";
    let flip = "{ horizontal_flip = { probability = 0.5 } }";
    place.write("jitter.toml", tiny_with(flip, &format!("{flip}, {jitter}, {normalize}")));
    for where_ in ["host", "device"] {
        place
            .pretrain(&format!(
                "jitter.toml --set augment.place={where_} --dump-batches 2 {where_}"
            ))
            .done();
    }
    for number in 1..=2 {
        let [host, device] = ["host", "device"]
            .map(|folder| Dumped::read(&place, &format!("{folder}/batch-{number:06}.safetensors")));
        assert_eq!(host.integers, device.integers);
        for view in 0..2 {
            let pairs = host.view(view).iter().zip(device.view(view));
            let largest = pairs.map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
            assert!(largest <= 2.01 / 255.0 / 0.2, "view {view}: {largest}");
        }
    }
}

#[test]
fn mixed_images_come_with_partners_and_shares() {
    let place = Place::new();
    place.write("sane.toml", tiny_with("name = \"sce\"", "name = \"sane\""));
    place.pretrain("sane.toml --dump-batches 2 batches").done();
    for number in 1..=2 {
        let dumped = Dumped::read(&place, &format!("batches/batch-{number:06}.safetensors"));
        let (mixed, share) = (&dumped.floats["mixed_0"].1, &dumped.floats["mixed_0_share"].1);
        let image = 3 * 16 * 16;
        for (row, &partner) in dumped.integers["mixed_0_partner"].iter().enumerate() {
            let of = |pixels: &[f32], row: usize| pixels[row * image..][..image].to_vec();
            // View 1 leads, and the partner shows view 0.
            let pairs =
                of(dumped.view(1), row).into_iter().zip(of(dumped.view(0), partner as usize));
            let expected = pairs.map(|(own, other)| share[row] * own + (1.0 - share[row]) * other);
            for (got, expected) in of(mixed, row).iter().zip(expected) {
                assert!((got - expected).abs() < 1e-5, "{got} {expected}");
            }
        }
    }
}

#[test]
fn the_order_of_the_momentum_encoder_is_a_permutation() {
    let place = Place::new();
    let encoder = "momentum = 0.9\nbatch_norm_splits = 4\nshuffle = true";
    place.write("shuffle.toml", tiny_with("momentum = 0.9", encoder));
    place.pretrain("shuffle.toml --dump-batches 1 batches").done();
    let dumped = Dumped::read(&place, "batches/batch-000001.safetensors");
    // Only view 0 goes through the momentum encoder.
    assert_eq!(dumped.tensors(), ["indices", "labels", "shuffle_0", "view_0", "view_1"]);
    let mut order = dumped.integers["shuffle_0"].clone();
    assert_ne!(order, (0..16).collect::<Vec<i64>>());
    order.sort_unstable();
    assert_eq!(order, (0..16).collect::<Vec<i64>>());
}

#[test]
fn images_without_labels_have_minus_one() {
    let place = Place::new();
    place.images("photos", 20);
    place.write("folder.toml", tiny_on("folder"));
    place.pretrain("folder.toml --data photos --dump-batches 1 batches").done();
    let dumped = Dumped::read(&place, "batches/batch-000001.safetensors");
    assert_eq!(dumped.integers["labels"], [-1; 16]);
    let names = dumped.names("images");
    for (name, index) in names.iter().zip(&dumped.integers["indices"]) {
        assert!(name.ends_with(&format!("{index:02}.png")), "{name} is image {index}");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let place = Place::new();
    for wrong in ["0", "-1", "many", "2.5"] {
        let said = place.pretrain(&format!("tiny.toml --dump-batches {wrong} batches"));
        assert_eq!(said.code, Some(2), "{}", said.stderr);
    }
    assert!(!place.path("batches").exists());
    place.pretrain("tiny.toml --dump-batches 1 batches").done();
    let said = place.pretrain("tiny.toml --dump-batches 1 batches");
    let expected =
        "error: batches/batch-000001.safetensors exists: give --dump-batches another folder\n";
    assert_eq!((said.code, said.stderr.as_str()), (Some(2), expected));
    place.write("file", "");
    for folder in ["file", "file/folder"] {
        let said = place.pretrain(&format!("tiny.toml --dump-batches 1 {folder}"));
        let expected = format!("error: --dump-batches 1 {folder}: cannot make this folder: ");
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        assert!(said.stderr.starts_with(&expected), "{}", said.stderr);
    }
}
