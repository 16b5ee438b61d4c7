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
    assert_snapshot!(place.nearkin("data inspect tiny.toml").refused(), @"error: tiny.toml: is not a folder, and none of the files that hold a set: a packed file, a .tar.gz archive of CIFAR-10, CIFAR-100 or STL-10, a shard (.tar), a list (.txt, .csv or .tsv), a parquet file");
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
fn classes_in_another_order_are_the_same_classes_everywhere() {
    let place = Place::new();
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/swapped-classes");
    place.nearkin(&format!("data pack {fixtures} x.packed --workers 1")).done();
    for set in [fixtures, "x.packed"] {
        let text = place.nearkin(&format!("data inspect {set} --workers 1")).done();
        let table: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        for row in [["cat", "2", "1"], ["dog", "1", "1"]] {
            assert!(table.contains(&row.to_vec()), "{text}");
        }
        let json = place.nearkin(&format!("data inspect {set} --workers 1 --json")).done();
        let found: Value = serde_json::from_str(&json).unwrap();
        for (split, images) in [(0, 2), (1, 1)] {
            let cat = &found["splits"][split]["classes"][0];
            assert_eq!((&cat["name"], &cat["images"]), (&"cat".into(), &images.into()));
        }
    }
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
    assert_snapshot!(said.stderr, @r"
    left out: photos/train/dogs/bad.jpg: the content is not that of a JPEG, PNG, WebP, BMP or TIFF image
    error: at least 1 of the 6 train images cannot be read, and reading stopped there: bad_image_limit = 0 allows 0; the first: photos/train/dogs/bad.jpg: the content is not that of a JPEG, PNG, WebP, BMP or TIFF image: repair or remove them, or raise bad_image_limit
    ");
    let left = fs::read_dir(place.path(".")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["photos", "tiny.toml"]);
}

#[test]
fn packing_a_set_of_which_no_image_can_be_read_is_refused_and_leaves_nothing() {
    let place = Place::new();
    place.write("photos/bad.png", "no image");
    let said = place.nearkin("data pack photos photos.packed");
    assert_eq!(said.code, Some(2));
    let expected = "error: no images in photos that can be read: 1 left out";
    assert!(said.stderr.contains(expected), "{}", said.stderr);
    assert!(!place.path("photos.packed").exists());
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
fn splits_are_found_under_other_names() {
    let place = Place::new();
    for (folder, images) in [("Training/a", 3), ("Training/b", 2), ("Testing/a", 1)] {
        place.images(&format!("set/{folder}"), images);
    }
    place.images("set/Testing/b", 2);
    let said = place.nearkin("data inspect set --json").done();
    let found: Value = serde_json::from_str(&said).unwrap();
    let counts: Vec<(&Value, &Value, usize)> = found["splits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|split| {
            (&split["split"], &split["images"], split["classes"].as_array().unwrap().len())
        })
        .collect();
    assert_eq!(counts, [(&"train".into(), &5.into(), 2), (&"test".into(), &3.into(), 2)]);
    place.images("set/train", 2);
    assert_snapshot!(place.nearkin("data inspect set").refused(), @"error: set: has several folders for its train part (Training, train): keep one of them here, with all images of that part");
}

#[test]
fn the_kind_of_data_is_detected_where_the_recipe_names_none() {
    let place = Place::new();
    place.images("photos/train/cats", 20);
    place.images("photos/train/dogs", 12);
    let stated =
        "[data]\ndataset = \"shapes\"\ntrain_images = 64\ntest_images = 20\nsize_pixels = 16\n\n";
    place.write("any.toml", tiny_with(stated, ""));
    assert_snapshot!(place.pretrain("any.toml --out run").refused(), @"error: any.toml: no data set is named: give --data PATH, or dataset in [data]");
    place.pretrain("any.toml --data photos --out run --epochs 1 --quiet").done();
    let recipe = place.read("run/recipe.toml");
    assert!(recipe.contains("[data]\ndataset = \"folder\"\npath = \""), "{recipe}");
    place.nearkin("data pack photos photos.packed").done();
    place.pretrain("any.toml --data photos.packed --out packed --epochs 1 --quiet").done();
    assert!(place.read("packed/recipe.toml").contains("dataset = \"packed\""));
    assert_snapshot!(place.nearkin("recipe check any.toml").done(), @"any.toml: ok; the kind of data is detected at --data");
    assert_snapshot!(place.nearkin("recipe check any.toml --resolved").refused(), @"error: any.toml: no data set is named, so it cannot be resolved: give --set data.dataset=KIND");
}

#[test]
fn a_recipe_that_names_another_kind_of_data_is_refused() {
    let place = Place::new();
    place.images("photos/cats", 3);
    place.images("photos/dogs", 3);
    place.write("cifar.toml", tiny_on("cifar10"));
    assert_snapshot!(place.pretrain("cifar.toml --data photos --out run").refused(), @r#"
    error: cifar.toml: data.dataset is "cifar10", but [DIR]/photos holds data of the kind "folder"
    hint: write dataset = "folder" in [data], give --set data.dataset=folder, or leave dataset out to have it detected
    "#);
    place.nearkin("data pack photos photos.packed").done();
    place.write("folder.toml", tiny_on("folder"));
    let refused = place.pretrain("folder.toml --data photos.packed --out run").refused();
    assert!(refused.contains("photos.packed holds data of the kind \"packed\""), "{refused}");
    assert!(!place.path("run").exists());
}

#[test]
fn what_is_skipped_is_told_by_every_command() {
    let place = Place::new();
    place.images("photos/train/cats", 20);
    place.images("photos/train/dogs", 12);
    place.images("photos/val/cats", 2);
    place.images("photos/val/dogs", 2);
    place.images("photos/test/cats", 3);
    place.write("photos/train/cats/a.heic", "");
    place.write("photos/train/dogs/b.HEIC", "");
    std::os::unix::fs::symlink("gone.jpg", place.path("photos/val/dogs/x.jpg")).unwrap();
    place.write("tiny.toml", tiny_on("folder"));
    let train = "skipped 2 image(s) of a kind that is not read (.heic); the first: ";
    let test =
        ["skipped 1 link(s) that lead nowhere: ", "skipped 3 image(s) of the test part, since "];
    let check = |said: &str, what: &str| {
        for line in [train].iter().chain(&test) {
            assert!(said.contains(line), "{what}: {line}\n{said}");
        }
    };
    check(&place.nearkin("data inspect photos").done(), "inspect");
    let found: Value =
        serde_json::from_str(&place.nearkin("data inspect photos --json").done()).unwrap();
    assert_eq!(found["splits"][0]["skipped"][0]["count"], 2);
    assert_eq!(found["splits"][1]["skipped"].as_array().unwrap().len(), 2);
    check(&place.nearkin("data pack photos photos.packed").stderr, "pack");
    let said = place.pretrain("tiny.toml --data photos --out run --epochs 1");
    check(&said.stderr, "pretrain");
    said.done();
    check(&place.read("run/metrics.jsonl"), "metrics");
    let embed = place.nearkin("embed run photos --out photos.npy --device cpu");
    check(&embed.stderr, "embed");
    for command in ["eval knn run", "eval quality run", "eval all run --only knn"] {
        let said = place.nearkin(&format!("{command} --device cpu"));
        assert!(said.stderr.contains(test[0]), "{command}: {}", said.stderr);
        said.done();
    }
}

#[test]
fn images_that_moved_are_found_again() {
    let place = Place::new();
    place.images("photos/train/cats", 20);
    place.images("photos/train/dogs", 12);
    place.images("photos/val/cats", 2);
    place.images("photos/val/dogs", 2);
    place.write("tiny.toml", tiny_on("folder"));
    place.pretrain("tiny.toml --data photos --out run --epochs 1 --quiet").done();
    fs::rename(place.path("photos"), place.path("moved")).unwrap();
    let hint = "\nhint: if the images have moved, give their new place with --data PATH\n";
    for command in ["eval knn run", "eval all run --only knn", "embed run --out x.npy"] {
        let refused = place.nearkin(&format!("{command} --device cpu")).refused();
        assert!(refused.starts_with("error: cannot read [DIR]/photos"), "{refused}");
        assert!(refused.ends_with(hint), "{refused}");
    }
    let refused = place.pretrain("--resume run").refused();
    assert!(refused.ends_with(hint), "{refused}");
    // A place where a disk was mounted.
    fs::create_dir(place.path("photos")).unwrap();
    assert!(place.nearkin("eval knn run --device cpu").refused().ends_with(hint));

    let before = place.read("run/recipe.toml");
    place.nearkin("eval knn run --device cpu --data moved").done();
    assert_eq!(place.read("run/recipe.toml"), before);
    place.pretrain("--resume run --data moved --quiet").done();
    assert_eq!(place.read("run/recipe.toml"), before.replace("/photos\"", "/moved\""));
    place.nearkin("eval knn run --device cpu").done();
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
        "eval all run --only knn --device cpu --bad-image-limit LIMIT --out OUT-all",
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
        let expected = |split: &str| {
            let said = format!("at least 6 of the 26 {split} images cannot be read, and reading");
            refused.stderr.contains(&(said + " stopped there: bad_image_limit = 0.01 allows 5; "))
        };
        assert!(expected("train") || expected("test"), "{command}: {}", refused.stderr);
        said(command, "0.25", "allowed").done();
    }
}
