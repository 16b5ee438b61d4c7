//! `nearkin data` as its users meet it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::expect_used, reason = "the shared helpers fail by panicking")]

mod support;

use std::fs;

use insta::assert_snapshot;
use serde_json::Value;
use support::{Place, tiny_on, tiny_with};

fn help(command: &str) -> String {
    Place::new().nearkin(&format!("{command} --help")).done()
}

/// Two classes of equal images under `photos`, one of them damaged, and one test image.
fn photos() -> Place {
    let place = Place::new();
    place.images("photos/train/cats", 3);
    place.images("photos/train/dogs", 2);
    place.images("photos/val/cats", 1);
    place.write("photos/train/dogs/bad.jpg", "no image");
    place
}

#[test]
fn help_of_data() {
    assert_snapshot!(help("data"));
}

#[test]
fn help_of_the_commands() {
    for command in ["inspect", "preview", "pack", "get"] {
        assert_snapshot!(format!("help_{command}"), help(&format!("data {command}")));
    }
}

#[test]
fn inspect_tells_classes_sizes_damage_and_copies() {
    assert_snapshot!(photos().nearkin("data inspect photos").done());
}

#[test]
fn inspect_as_json_lists_everything() {
    let found: Value =
        serde_json::from_str(&photos().nearkin("data inspect photos --json").done()).unwrap();
    assert_eq!(found["dataset"], "folder");
    assert_eq!(found["splits"][0]["classes"][1]["name"], "dogs");
    assert_eq!(found["splits"][0]["unreadable"][0]["image"], "photos/train/dogs/bad.jpg");
    assert_eq!(found["splits"][1]["width"]["median"], 20);
    assert_eq!(found["duplicates"][0].as_array().unwrap().len(), 3);
}

#[test]
fn inspect_refuses_what_it_does_not_know() {
    let place = Place::new();
    assert_snapshot!(place.nearkin("data inspect tiny.toml").refused(), @"error: tiny.toml: is no folder and none of the files that hold a set: a packed file, a .tar.gz archive of CIFAR-10, CIFAR-100 or STL-10, a shard (.tar), a list (.txt, .csv or .tsv), a parquet file");
    assert!(place.nearkin("data inspect gone").refused().starts_with("error: cannot read gone: "));
}

#[test]
fn a_run_skips_damaged_images_and_lists_them() {
    let place = Place::new();
    place.images("photos/train/cats", 20);
    place.images("photos/train/dogs", 12);
    place.images("photos/val/cats", 4);
    place.write("photos/train/dogs/bad.jpg", "no image");
    place.write("photos/val/cats/bad.png", "");
    place.write("tiny.toml", tiny_on("folder"));
    let run = "tiny.toml --data photos --epochs 2 --quiet";
    place.pretrain(&format!("{run} --out run")).done();
    let list = place.read("run/bad_images.jsonl");
    let lines: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let image = |split: &str| {
        let line = lines.iter().find(|line| line["split"] == split).expect("a line of the split");
        let path = place.path("").canonicalize().unwrap().join("");
        let image = line["image"].as_str().unwrap();
        image.strip_prefix(path.to_str().unwrap()).unwrap_or(image).to_owned()
    };
    assert_eq!(lines.len(), 2, "{list}");
    assert_eq!(image("train"), "photos/train/dogs/bad.jpg");
    assert_eq!(image("test"), "photos/val/cats/bad.png");
    assert!(place.read("run/metrics.jsonl").contains("image(s) cannot be read"));
    assert!(place.read("run/metrics.jsonl").contains("32 training and 4 test images"));

    let strict = format!("{run} --out strict");
    let said = place.pretrain(&format!("{strict} --set bad_image_limit=0")).refused();
    assert!(said.contains("bad_image_limit = 0 allows 0; strict/bad_images.jsonl lists"), "{said}");
    // The limit is the one key that a continued run may change.
    place.pretrain("--resume strict --data photos --quiet --set bad_image_limit=0.1").done();
}

#[test]
fn a_packed_set_trains_as_its_folder_does() {
    let place = Place::new();
    place.images("photos/train/cats", 20);
    place.images("photos/train/dogs", 12);
    place.images("photos/val/dogs", 4);
    let said = place.nearkin("data pack photos photos.packed").done();
    assert!(said.starts_with("photos.packed: 36 images, 0 left out, 0.0 MB, "), "{said}");
    place.write("folder.toml", tiny_on("folder"));
    place.write("packed.toml", tiny_on("packed"));
    let epochs = "--epochs 1 --quiet";
    place.pretrain(&format!("folder.toml --data photos --out folder {epochs}")).done();
    place.pretrain(&format!("packed.toml --data photos.packed --out packed {epochs}")).done();
    let losses = |run: &str| -> Vec<Value> {
        let metrics = place.read(&format!("{run}/metrics.jsonl"));
        let records = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.map(|record| record["loss"].clone()).filter(|loss| !loss.is_null()).collect()
    };
    assert!(!losses("folder").is_empty());
    assert_eq!(losses("folder"), losses("packed"));
}

#[test]
fn a_list_is_inspected_and_packed() {
    let place = Place::new();
    place.images("photos", 3);
    place.write("some.txt", "photos/00.png dog\nphotos/01.png cat\nphotos/02.png\n");
    let found: Value =
        serde_json::from_str(&place.nearkin("data inspect some.txt --json").done()).unwrap();
    assert_eq!((&found["dataset"], &found["splits"][0]["unlabelled"]), (&"list".into(), &1.into()));
    place.nearkin("data pack some.txt some.packed").done();
    let packed: Value =
        serde_json::from_str(&place.nearkin("data inspect some.packed --json").done()).unwrap();
    assert_eq!(packed["splits"][0]["classes"], found["splits"][0]["classes"]);
}

#[test]
fn packing_shrinks_and_leaves_out_a_few_damaged_images() {
    let place = Place::new();
    place.images("photos", 120);
    place.write("photos/bad.png", "no image");
    let said = place.nearkin("data pack photos small.packed --size 10");
    assert!(said.stderr.starts_with("left out: photos/bad.png: the content is not"));
    let stdout = said.done();
    assert!(stdout.starts_with("small.packed: 120 images, 1 left out, "), "{stdout}");
    let found: Value =
        serde_json::from_str(&place.nearkin("data inspect small.packed --json").done()).unwrap();
    assert_eq!(found["splits"][0]["height"]["maximum"], 10);
    assert_eq!(found["splits"][0]["unlabelled"], 120);
}

#[test]
fn packing_a_damaged_set_is_refused_and_leaves_nothing() {
    let place = photos();
    let said = place.nearkin("data pack photos photos.packed --bad-image-limit 0");
    assert_eq!(said.code, Some(2));
    assert_snapshot!(said.stderr, @"
    left out: photos/train/dogs/bad.jpg: the content is not that of a JPEG, PNG, WebP, BMP or TIFF image
    error: 1 of the 7 train images cannot be read, and bad_image_limit = 0 allows 0; the first: photos/train/dogs/bad.jpg: the content is not that of a JPEG, PNG, WebP, BMP or TIFF image: repair or remove them, or raise bad_image_limit
    ");
    let left = fs::read_dir(place.path(".")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["photos", "tiny.toml"]);
}

#[test]
fn a_preview_has_a_row_for_each_image_and_a_column_for_each_view() {
    let place = Place::new();
    let said = place.nearkin("data preview tiny.toml --out sheet.png --images 3").done();
    assert_snapshot!(said, @"sheet.png: 3 images; columns: image, weak, strong");
    let sheet = image::open(place.path("sheet.png")).unwrap().into_rgb8();
    assert_eq!(sheet.dimensions(), (3 * 100 + 4, 3 * 100 + 4));
    // The margin is white, and every cell has something in it.
    assert_eq!(sheet.get_pixel(0, 0).0, [255; 3]);
    for (column, row) in [(0, 0), (1, 1), (2, 2)] {
        let cell = image::imageops::crop_imm(&sheet, 4 + 100 * column, 4 + 100 * row, 96, 96);
        assert!(cell.to_image().pixels().any(|pixel| pixel.0 != [255; 3]));
    }
    let twice = place.nearkin("data preview tiny.toml --out again.png --images 3");
    twice.done();
    assert_eq!(
        fs::read(place.path("sheet.png")).unwrap(),
        fs::read(place.path("again.png")).unwrap()
    );
}

#[test]
fn a_preset_becomes_explicit_transforms() {
    let place = Place::new();
    let weak = "transforms = [{ random_resized_crop = { size = 16 } }]";
    place.write("preset.toml", tiny_with(weak, "preset = \"sce-weak\"\nsize = 16"));
    let resolved = place.nearkin("recipe check preset.toml --resolved").done();
    let view = resolved.split("[[views]]").nth(1).unwrap();
    assert!(!view.contains("preset"), "{view}");
    assert!(view.contains("random_resized_crop") && view.contains("0.485"), "{view}");
    place.write("wrong.toml", tiny_with(weak, "preset = \"sce-week\"\nsize = 16"));
    let message = place.nearkin("recipe check wrong.toml").refused();
    assert!(message.contains("did you mean `sce-weak`?"), "{message}");
}

#[test]
fn without_a_network_get_names_the_page() {
    let place = Place::new();
    let said = place.nearkin("data get cifar10 --to data --from http://127.0.0.1:1/x");
    assert_eq!(said.code, Some(1));
    let message = said.stderr;
    assert!(message.starts_with("error: cannot fetch http://127.0.0.1:1/x (curl: "), "{message}");
    assert!(
        message.ends_with(
            "without a network here, download cifar-10-binary.tar.gz from \
             https://www.cs.toronto.edu/~kriz/cifar.html on another machine and put it into data\n"
        ),
        "{message}"
    );
    assert!(place.nearkin("data get mnist").refused().contains("possible values: cifar10"));
}

#[test]
fn get_refuses_another_file_than_the_official_one() {
    let place = Place::new();
    place.write("stl10_binary.tar.gz", "not it");
    let message = place.nearkin("data get stl10").refused();
    assert!(message.contains("stl10_binary.tar.gz is not the official file: it has 6 bytes"));
    assert!(message.contains("see https://cs.stanford.edu/~acoates/stl10/"), "{message}");
}

#[test]
fn one_rule_for_all_commands_says_how_many_images_may_be_damaged() {
    let place = Place::new();
    place.images("photos/train/cats", 20);
    place.images("photos/val/cats", 20);
    place.write("tiny.toml", tiny_on("folder"));
    let damage = |number: usize| {
        for split in ["train", "val"] {
            place.write(&format!("photos/{split}/dogs/{number}.png"), "no image");
        }
    };
    (1..=5).for_each(damage);
    place.pretrain("tiny.toml --data photos --epochs 1 --quiet --out run").done();
    let commands = [
        "pretrain tiny.toml --data photos --epochs 1 --quiet --device cpu --set bad_image_limit=LIMIT --out OUT",
        "embed run photos --device cpu --bad-image-limit LIMIT --out OUT.npy",
        "data pack photos OUT.packed --bad-image-limit LIMIT",
        "eval knn run --device cpu --bad-image-limit LIMIT",
        "eval all run --only knn --device cpu --bad-image-limit LIMIT --out OUT",
    ];
    let said = |command: &str, limit: &str, out: &str| {
        place.nearkin(&command.replace("LIMIT", limit).replace("OUT", out))
    };
    for command in commands {
        said(command, "0.01", "five").done();
    }
    damage(6);
    for command in commands {
        let refused = said(command, "0.01", "six");
        assert_eq!(refused.code, Some(2), "{command}: {}", refused.stderr);
        let expected =
            "6 of the 26 train images cannot be read, and bad_image_limit = 0.01 allows 5; ";
        assert!(refused.stderr.contains(expected), "{command}: {}", refused.stderr);
        said(command, "0.25", "allowed").done();
    }
}
