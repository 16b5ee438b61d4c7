//! Features out of a run, and what is done with them, as users ask for it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::expect_used, reason = "the shared helpers fail by panicking")]

#[allow(dead_code, reason = "other tests use the rest of it")]
mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt;

use insta::assert_snapshot;
use support::Place;

/// A place with a finished run called `run`.
fn trained() -> Place {
    let place = Place::new();
    place.pretrain("tiny.toml --out run --quiet --epochs 1").done();
    place
}

fn embed(place: &Place, arguments: &str) -> String {
    place.nearkin(&format!("embed {arguments} --device cpu")).done()
}

/// The values of an array that nearkin wrote, and its width.
fn array(place: &Place, file: &str) -> (Vec<f32>, usize) {
    let bytes = fs::read(place.path(file)).unwrap();
    let header = String::from_utf8_lossy(&bytes[10..128]).into_owned();
    let width = header.split(", ").nth(3).and_then(|part| part.trim_end_matches(')').parse().ok());
    let values = bytes[128..].as_chunks().0.iter().map(|&value| f32::from_le_bytes(value));
    (values.collect(), width.expect(&header))
}

/// Rows of two values as an array.
fn write_array(place: &Place, file: &str, rows: &[[f32; 2]]) {
    let shape = format!("({}, 2)", rows.len());
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{text:<117}\n").bytes());
    bytes.extend(rows.iter().flatten().flat_map(|value| value.to_le_bytes()));
    place.write(file, bytes);
}

/// Seconds depend on the machine.
fn without_seconds(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let is_unit = |word: &&str| word.trim_end_matches(',') == "s" || word.starts_with("s\n");
    let shown = words.iter().enumerate().map(|(at, &word)| {
        let is_seconds = word.parse::<f64>().is_ok() && words.get(at + 1).is_some_and(is_unit);
        if is_seconds { "N" } else { word }
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn help_of_the_commands() {
    for command in ["embed", "search", "dedupe", "select"] {
        let help = Place::new().nearkin(&format!("{command} --help")).done();
        assert_snapshot!(format!("help_{command}"), help);
    }
}

#[test]
fn features_are_written_in_every_format() {
    let place = trained();
    let said = embed(&place, "run --out train.npy");
    assert!(
        said.starts_with("train.npy: 64 images, 32 values each (backbone), 0 left out, "),
        "{said}"
    );
    assert!(said.ends_with("wrote train.npy\nwrote train.names.txt\nwrote train.labels.npy\n"));
    let (values, width) = array(&place, "train.npy");
    assert_eq!((values.len(), width), (64 * 32, 32));
    assert_eq!(place.read("train.names.txt").lines().count(), 64);

    // The formats hold the same: an image finds itself in each.
    let said = embed(&place, "run --out train.safetensors");
    assert!(said.ends_with(" s\nwrote train.safetensors\n"), "{said}");
    embed(&place, "run --out train.parquet");
    for file in ["train.safetensors", "train.parquet"] {
        place.nearkin(&format!("search train.npy --queries {file} --top-k 1 --out m.csv")).done();
        for (row, line) in place.read("m.csv").lines().skip(1).enumerate() {
            let cells: Vec<&str> = line.split(',').collect();
            assert!(cells[4].parse::<f32>().unwrap() > 0.99999, "{line}");
            assert!(cells[1] == "1" && row < 64, "{line}");
        }
    }

    let said = embed(&place, "run --split test --projector --normalize --out test.npy");
    let expected = "test.npy: 20 images, 8 values each (projector, normalized), 0 left out, ";
    assert!(said.starts_with(expected), "{said}");
    let (values, width) = array(&place, "test.npy");
    for row in values.chunks_exact(width) {
        let square: f32 = row.iter().map(|value| value * value).sum();
        assert!((square - 1.0).abs() < 1e-5);
    }
    embed(&place, "run --momentum-encoder --out teacher.npy");
    assert_ne!(array(&place, "teacher.npy"), array(&place, "train.npy"));

    // A file of weights with its recipe is the same encoder.
    let weights = "run/checkpoints/step-000000004/model.safetensors";
    embed(&place, &format!("{weights} --recipe tiny.toml --out again.npy"));
    assert_eq!(array(&place, "again.npy"), array(&place, "train.npy"));
    place.nearkin("export run --format torchvision --out out").done();
    for (arguments, said) in [
        (
            "out/model.safetensors --recipe tiny.toml --projector --out x.npy",
            "embed without --projector",
        ),
        ("out/model.safetensors --recipe tiny.toml --momentum-encoder --out x.npy", "leave out"),
        ("out/model.safetensors --out x.npy", "say with --recipe FILE"),
        ("run --out x.csv", "these end in .npy, .safetensors or .parquet"),
        ("run gone --out x.npy", "/gone: No such file"),
        ("run --split val --out x.npy", "expected train or test"),
        ("nowhere --out x.npy", "nowhere"),
    ] {
        let refused = place.nearkin(&format!("embed {arguments} --device cpu")).refused();
        assert!(refused.contains(said), "{arguments}: {refused}");
        assert!(!place.path("x.npy").exists() && !place.path("x.names.txt").exists());
    }
}

#[test]
fn damaged_images_are_left_out_and_listed() {
    let place = trained();
    place.images("photos/train/cats", 6);
    place.images("photos/val/cats", 2);
    place.write("photos/train/cats/03.png", "no image");
    let said = place.nearkin("embed run photos --out photos.npy --device cpu");
    assert!(said.stderr.contains("1 image(s) cannot be read"), "{}", said.stderr);
    let said = said.done();
    assert!(said.starts_with("photos.npy: 7 images, 32 values each (backbone), 1 left out, "));
    let names = place.read("photos.names.txt");
    assert!(!names.contains("train/cats/03.png"));
    assert!(names.ends_with(&format!("{}/photos/val/cats/01.png\n", place.folder())), "{names}");
    assert!(place.read("photos.bad_images.jsonl").contains("train/cats/03.png"));
    embed(&place, "run photos --split test --out photos.npy");
    assert_eq!(place.read("photos.names.txt").lines().count(), 2);
    assert!(!place.path("photos.bad_images.jsonl").exists());

    place.write("bad/0.png", "");
    let refused = place.nearkin("embed run bad --out bad.npy --device cpu");
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("none of 1 images can be read"), "{}", refused.stderr);
    let strict = "embed run bad --out bad.npy --device cpu --bad-image-limit 0";
    assert!(place.nearkin(strict).refused().contains("allows 0; bad.bad_images.jsonl lists them"));
}

/// Two near copies at 0 degrees, two at 90, one at 180.
fn five() -> Place {
    let place = Place::new();
    for name in ["a.png", "b.png", "c/a,2.png", "d.png", "e.png"] {
        place.write(name, "");
    }
    write_array(&place, "five.npy", &[[1.0, 0.0], [0.0, 2.0], [3.0, 0.1], [0.1, 1.0], [-1.0, 0.0]]);
    place.write("five.names.txt", "a.png\nb.png\nc/a,2.png\nd.png\ne.png\n");
    place
}

#[test]
fn neighbors_are_shown_and_written() {
    let place = five();
    let said = place.nearkin("search five.npy --query a.png --top-k 2").done();
    assert_snapshot!(without_seconds(&said), @r"
    rank  similarity  index  name
    ----  ----------  -----  ---------
       1      0.9994      2  c/a,2.png
       2     -0.6294      3  d.png
    1 queries among 5 images of 2 values, centered cosine, exact: N s, reading N s
    ");
    let number = place.nearkin("search five.npy --query 0 --top_k 2").done();
    assert_eq!(without_seconds(&number), without_seconds(&said));
    write_array(&place, "one.npy", &[[-5.0, 0.1]]);
    let said = place.nearkin("search five.npy --query one.npy --top-k 1").done();
    assert!(said.contains("e.png"), "{said}");
    place.nearkin("search five.npy --queries five.npy --top-k 2 --out m.csv").done();
    let table = place.read("m.csv");
    assert!(table.starts_with("query,rank,index,name,similarity\na.png,1,0,a.png,1.000000\n"));
    assert!(table.contains("a.png,2,2,\"c/a,2.png\",0.999"), "{table}");
    assert_eq!(table.lines().count(), 11);
}

#[test]
fn copies_are_grouped_and_the_rest_is_kept() {
    let place = five();
    let said = place.nearkin("dedupe five.npy --out g.csv --keep-list kept.txt").done();
    assert_snapshot!(without_seconds(&said), @r"
    five.npy: 2 group(s) of near-duplicates (centered cosine of 0.98 or more); 2 of 5 images are removed, 3 are kept

    similarity to the nearest other image (5 images)
      0.98 to 1.00        4 ########################################
      --------------------- --similarity 0.98
      0.96 to 0.98        0
      0.94 to 0.96        0
      0.92 to 0.94        0
      0.90 to 0.92        0
      0.88 to 0.90        0
      0.86 to 0.88        0
      0.84 to 0.86        0
      0.82 to 0.84        0
      0.80 to 0.82        0
      0.78 to 0.80        0
      0.76 to 0.78        0
      0.74 to 0.76        0
      0.72 to 0.74        0
      0.70 to 0.72        0
      0.68 to 0.70        0
      0.66 to 0.68        0
        below 0.66        1 ##########

    exact, in 1 cells; 100.00 % of the comparisons of all with all; N s, reading N s
    wrote g.csv
    wrote kept.txt
    ");
    assert_snapshot!(place.read("g.csv"), @r#"
    group,index,name,similarity,keep
    0,0,a.png,1.000000,yes
    0,2,"c/a,2.png",0.999425,no
    1,1,b.png,1.000000,yes
    1,3,d.png,0.988336,no
    "#);
    assert_eq!(
        place.read("kept.txt"),
        ["a", "b", "e"].map(|name| format!("{}/{name}.png\n", place.folder())).concat()
    );
}

/// Rows of 16 values near one direction, as those behind a ReLU: all cosines are above 0.97.
fn rectified(rows: usize) -> Vec<[f32; 16]> {
    // The digits of a sine behind the fourth are as good as random.
    let value = |row: usize, column: usize| {
        (((row * 31 + column * 17 + 7) as f64 * 12.9898).sin() * 43_758.545_3).fract() as f32
    };
    (0..rows).map(|row| std::array::from_fn(|column| 1.0 + 0.1 * value(row, column))).collect()
}

fn write_rows(place: &Place, file: &str, rows: &[[f32; 16]]) {
    let text =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, 16), }}", rows.len());
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{text:<117}\n").bytes());
    bytes.extend(rows.iter().flatten().flat_map(|value| value.to_le_bytes()));
    place.write(file, bytes);
}

#[test]
fn features_are_centered_unless_that_is_switched_off() {
    let place = Place::new();
    let mut rows = rectified(60);
    // Nearly the same, of another length.
    rows.push(rows[7].map(|value| 3.0 * value + 0.003));
    write_rows(&place, "rows.npy", &rows);
    let said = place.nearkin("dedupe rows.npy --out g.csv").done();
    let expected = "rows.npy: 1 group(s) of near-duplicates (centered cosine of 0.98 or more); 1 of 61 \
                    images are removed, 60 are kept\n";
    assert!(said.starts_with(expected), "{said}");
    let table = place.read("g.csv");
    assert!(table.contains("\n0,7,7,1.000000,yes\n0,60,60,1.000000"), "{table}");

    let raw = place.nearkin(
        "dedupe rows.npy --no-center --similarity 0.97 --out raw.csv --keep-list kept.txt",
    );
    assert_eq!(raw.code, Some(2));
    assert!(raw.stdout.contains(", 1 are kept\n"), "{}", raw.stdout);
    let warning =
        "warning: one group has 61 images, 100.0 % of all; near-duplicates are rarely that many";
    assert!(raw.stderr.contains(warning), "{}", raw.stderr);
    let refusal = "error: kept.txt was not written: it would keep 1 of 61 images, less than half";
    assert!(raw.stderr.contains(refusal), "{}", raw.stderr);
    assert!(place.path("raw.csv").exists() && !place.path("kept.txt").exists());
    let forced =
        "dedupe rows.npy --no-center --similarity 0.97 --out raw.csv --keep-list kept.txt --force";
    place.nearkin(forced).done();
    assert_eq!(place.read("kept.txt"), "0\n");

    // A query by name and the same one in a file have the same similarities.
    write_rows(&place, "query.npy", &[rows[3].map(|value| 5.0 * value)]);
    let similarities = |arguments: &str| -> Vec<String> {
        let said = place.nearkin(&format!("search rows.npy {arguments}")).done();
        let rows = said.lines().filter_map(|line| line.split_whitespace().nth(1));
        rows.filter(|cell| cell.parse::<f32>().is_ok()).map(str::to_owned).collect()
    };
    let (own, other) =
        (similarities("--query 3 --top-k 5"), similarities("--query query.npy --top-k 6"));
    assert_eq!((other[0].as_str(), &other[1..]), ("1.0000", &own[..]));
    let raw = similarities("--query 3 --top-k 5 --no-center");
    assert!(raw.iter().all(|cell| cell.starts_with("0.99")) && own[4].as_str() < "0.95", "{own:?}");

    for (options, measure) in [("", "(centered cosine)"), (" --no-center", "(cosine)")] {
        let select = format!("select rows.npy --count 9 --method k-center --out s.txt{options}");
        let said = place.nearkin(&select).done();
        assert!(said.contains(measure), "{said}");
    }
    write_rows(&place, "two.npy", &rows[..2]);
    let said = place.nearkin("dedupe two.npy --out g.csv");
    assert!(
        said.stderr.starts_with("note: 2 images are too few to be centered"),
        "{}",
        said.stderr
    );
    assert!(said.done().contains("(cosine of 0.98 or more)"));
}

#[test]
fn the_mean_is_that_of_the_searched_set_in_every_format() {
    let place = trained();
    for end in ["npy", "safetensors", "parquet"] {
        embed(&place, &format!("run --out train.{end}"));
        embed(&place, &format!("run --split test --normalize --out test.{end}"));
    }
    let found = |base: &str, queries: &str| {
        let arguments = format!("search {base} --queries {queries} --top-k 3 --out found.csv");
        place.nearkin(&arguments).done();
        place.read("found.csv")
    };
    let expected = found("train.npy", "test.npy");
    for end in ["safetensors", "parquet"] {
        assert_eq!(found(&format!("train.{end}"), "test.npy"), expected);
        assert_eq!(found("train.npy", &format!("test.{end}")), expected);
    }
    // The mean of the queries plays no part: one query alone has the same neighbors.
    let (values, width) = array(&place, "test.npy");
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (1, {width}), }}");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{text:<117}\n").bytes());
    bytes.extend(values[..width].iter().flat_map(|value| value.to_le_bytes()));
    place.write("one.npy", bytes);
    let neighbors = |table: &str| -> Vec<[String; 3]> {
        let cells = |line: &str| {
            let cells: Vec<&str> = line.split(',').collect();
            [1, 2, 4].map(|column: usize| cells[column].to_owned())
        };
        table.lines().skip(1).take(3).map(cells).collect()
    };
    assert_eq!(neighbors(&found("train.npy", "one.npy")), neighbors(&expected));
}

#[test]
fn the_histogram_shows_where_the_similarity_cuts() {
    let place = Place::new();
    let mut rows = rectified(30);
    rows.push(rows[2].map(|value| value + 0.001));
    rows.push(rows[5]);
    write_rows(&place, "rows.npy", &rows);
    let said = place.nearkin("dedupe rows.npy --similarity 0.9 --out g.csv").done();
    assert_snapshot!(without_seconds(&said), @r"
    rows.npy: 2 group(s) of near-duplicates (centered cosine of 0.9 or more); 2 of 32 images are removed, 30 are kept

    similarity to the nearest other image (32 images)
      0.95 to 1.00        4 ################
      0.90 to 0.95        0
      --------------------- --similarity 0.9
      0.85 to 0.90        6 ########################
      0.80 to 0.85        4 ################
      0.75 to 0.80       10 ########################################
      0.70 to 0.75        5 ####################
      0.65 to 0.70        2 ########
      0.60 to 0.65        1 ####

    exact, in 1 cells; 93.85 % of the comparisons of all with all; N s, reading N s
    wrote g.csv
    ");
}

#[test]
fn the_lists_of_dedupe_and_select_are_data_sets() {
    let place = trained();
    place.images("photos/my cats", 3);
    let image = fs::read(place.path("photos/my cats/00.png")).unwrap();
    for (number, name) in
        ["say \"hi\".png", "#first.png", "a,b.png", " lead.png", "tab\tbed.png", "é 'q'.png"]
            .iter()
            .enumerate()
    {
        // Other pixels, so that nothing is a duplicate.
        place.images(&format!("more/{number}"), 1);
        place.write(&format!("photos/odd/{name}"), &image);
    }
    for name in [&b"\xff\xfe.png"[..], b"line\nbreak.png"] {
        let path = place.path("photos/odd").join(std::ffi::OsStr::from_bytes(name));
        fs::write(path, &image).unwrap();
    }
    place.write("features/empty", "");
    embed(&place, "run photos --out features/photos.npy");
    embed(&place, "run photos --out photos.safetensors");
    embed(&place, "run photos --out photos.parquet");
    place.write("elsewhere/empty", "");
    for features in ["../features/photos.npy", "../photos.safetensors", "../photos.parquet"] {
        for end in ["txt", "csv", "tsv"] {
            // Neither the folder in which the list is written nor that in which it is read matters.
            let select =
                format!("select {features} --count 11 --method k-center --out ../lists/all.{end}");
            place.write("lists/empty", "");
            let said = place.nearkin_in("elsewhere", &select);
            let warning =
                "lacks 2 of 11 images: a list cannot hold names with line breaks or bytes";
            assert!(said.stderr.contains(warning), "{features}: {}", said.stderr);
            said.done();
            for folder in ["", "lists"] {
                let path = place.path(&format!("lists/all.{end}"));
                let inspect = format!("data inspect --json {}", path.display());
                let found = place.nearkin_in(folder, &inspect).done();
                let found: serde_json::Value = serde_json::from_str(&found).unwrap();
                let split = &found["splits"][0];
                assert_eq!(
                    (&split["images"], split["unreadable"].as_array().map(Vec::len)),
                    (&serde_json::json!(9), Some(0)),
                    "{found}"
                );
            }
        }
    }
    let dedupe =
        "dedupe features/photos.npy --similarity 0.99 --out g.csv --keep-list kept.txt --force";
    place.nearkin(dedupe).done();
    let recipe = support::tiny_on("list");
    place.write("list.toml", recipe);
    // The names beside an array are such a list too.
    let said = place.nearkin("data inspect features/photos.names.txt").done();
    assert!(
        said.contains("dataset = \"list\"")
            && said.contains("unreadable images of the train split: 2"),
        "{said}"
    );
}

#[test]
fn lists_of_records_are_said_not_to_be_data_sets() {
    let place = trained();
    embed(&place, "run --out train.npy");
    for command in [
        "select train.npy --count 5 --method k-center --out chosen.txt",
        "dedupe train.npy --similarity 0.99999 --out g.csv --keep-list chosen.txt --force",
    ] {
        let said = place.nearkin(command);
        let note = "note: chosen.txt cannot be given as dataset = \"list\": shapes train image ";
        assert!(said.stderr.contains(note), "{}", said.stderr);
        said.done();
        assert!(place.read("chosen.txt").starts_with("shapes train image "));
    }
}

#[test]
fn names_of_older_files_are_found_from_the_folder_or_beside_the_features() {
    let place = five();
    place.write("elsewhere/empty", "");
    let select = "select ../five.npy --count 5 --method k-center --out all.txt";
    let said = place.nearkin_in("elsewhere", select);
    assert_eq!(said.stderr, "");
    said.done();
    let listed = place.read("elsewhere/all.txt");
    assert!(listed.contains(&format!("{}/c/a,2.png\n", place.folder())), "{listed}");
    fs::remove_file(place.path("e.png")).unwrap();
    let said = place.nearkin_in("elsewhere", select);
    let warning = "warning: 1 of 5 images that were looked up do not exist, such as e.png";
    assert!(said.stderr.starts_with(warning), "{}", said.stderr);
}

#[test]
fn diverse_images_are_chosen() {
    let place = five();
    let said = place.nearkin("select five.npy --count 3 --method k-center --out s.txt").done();
    assert!(said.starts_with("five.npy: 3 of 5 images chosen\nk-center, exact: "), "{said}");
    // One of each direction.
    let chosen = place.read("s.txt");
    let has = |names: [&str; 2]| names.iter().filter(|name| chosen.contains(*name)).count();
    assert_eq!((has(["a.png", "a,2"]), has(["b.png", "d.png"]), has(["e.png", "-"])), (1, 1, 1));
    let facility = "select five.npy --count 5 --method facility-location --out f.txt";
    let said = place.nearkin(facility).done();
    assert!(
        said.contains("epsilon 0.1 on 5 of the images: these have a chosen one of similarity 1.0")
    );
    assert_eq!(place.read("f.txt").lines().count(), 5);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = five();
    place.write("wide.npy", {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }";
        let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        bytes.extend(format!("{text:<117}\n").bytes());
        bytes.extend([0; 12]);
        bytes
    });
    write_array(&place, "nan.npy", &[[1.0, 0.0], [f32::NAN, 1.0]]);
    write_array(&place, "empty.npy", &[]);
    place.write("text.npy", "no array");
    for (arguments, said) in [
        (
            "search five.npy --query e.pgn",
            "five.npy has no image called e.pgn; the nearest is e.png",
        ),
        ("search five.npy --query 5", "numbered from 0 to 4"),
        ("search five.npy --query wide.npy", "the queries have 3 values each and the features 2"),
        ("search five.npy --query five.npy", "five.npy has 5 vectors, and --query takes one"),
        ("search five.npy --queries five.npy", "--out"),
        ("search five.npy", "--queries"),
        ("search gone.npy --query 0", "cannot read gone.npy"),
        ("search nan.npy --query 0", "nan.npy: row 1 (1) has a value that is not finite"),
        ("search tiny.toml --query 0", "tiny.toml: is no file of features by its name"),
        ("dedupe empty.npy --out g.csv", "empty.npy: holds no images"),
        ("dedupe text.npy --out g.csv", "text.npy: is no .npy file, or cut short"),
        ("dedupe five.npy --similarity 2 --out g.csv", "is not a cosine above 0 and at most 1"),
        ("select five.npy --count 6 --method k-center --out s.txt", "6 images were asked for"),
        ("select five.npy --count 2 --method random --out s.txt", "facility-location"),
        (
            "select five.npy --count 2 --method facility-location --epsilon 1 --out s.txt",
            "an epsilon of at least 0 and below 1",
        ),
    ] {
        let refused = place.nearkin(arguments).refused();
        assert!(refused.contains(said), "{arguments}: {refused}");
    }
    place.write("five.names.txt", "a\n");
    let refused = place.nearkin("search five.npy --query 0").refused();
    assert!(refused.contains("five.names.txt: has 1 names, and five.npy has 5 rows"), "{refused}");
}
