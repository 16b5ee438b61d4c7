//! `nearkin bench`, what runs say about their cost, and how threads are chosen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::expect_used, reason = "a test fails by panicking, and so do its helpers")]
#![allow(dead_code, reason = "the helpers are those of all tests of the command line")]

mod support;

use insta::assert_snapshot;
use serde_json::Value;
use support::Place;

/// Numbers, and the widths that go with them.
const NUMBERS: [(&str, &str); 4] = [
    (r"part of a step +ms +share\n[- ]+\n", "part of a step, ms, share\n"),
    (r" +\d+\.\d+", " [number]"),
    (r"\(\d+(\.\d+)? [GT]FLOP", "([number] GFLOP"),
    (r"\d+ MiB", "[number] MiB"),
];

/// By hand, for ResNet-18 of width 4 with heads of width 8 at 16 pixels: two operations, three passes of
/// the trained view and one of the other.
const FLOP_PER_IMAGE: f64 = 8.0
    * (3.0 * 4.0 * 9.0 * 256.0
        + 4.0 * (4.0 * 4.0 * 9.0 * 256.0)
        + 3.0 * (4.0 * 8.0 * 9.0 * 64.0 + 3.0 * 8.0 * 8.0 * 9.0 * 64.0 + 4.0 * 8.0 * 64.0)
        + 32.0 * 8.0
        + 8.0 * 8.0);

#[test]
fn help_of_bench() {
    assert_snapshot!("help_bench", Place::new().nearkin("bench --help").done());
}

#[test]
fn bench_shows_where_a_step_goes_and_leaves_nothing_behind() {
    let place = Place::new();
    let said = place.nearkin("bench tiny.toml --steps 5 --device cpu --threads 1");
    insta::with_settings!({ filters => NUMBERS }, {
        assert_snapshot!("bench", said.done());
    });
    let left: Vec<_> = std::fs::read_dir(place.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, ["tiny.toml"]);
}

#[test]
fn bench_gives_the_same_as_json() {
    let place = Place::new();
    // More steps than the recipe has.
    let said =
        place.nearkin("bench tiny.toml --steps 12 --device cpu --threads 1 --workers 0 --json");
    let said: Value = serde_json::from_str(&said.done()).unwrap();
    let number = |key: &str| said[key].as_f64().unwrap_or_else(|| panic!("{key} in {said}"));
    assert_eq!((number("steps"), number("images_per_step")), (12.0, 16.0));
    assert_eq!((number("threads"), number("workers"), number("processes")), (1.0, 0.0, 1.0));

    let phases = said["phases_milliseconds_per_step"].as_object().unwrap();
    let sum: f64 = phases.values().filter_map(Value::as_f64).sum();
    let step = number("milliseconds_per_step");
    assert!((sum - step).abs() < 0.05 * step, "parts make {sum} of {step} ms");
    for phase in ["encode", "teacher", "loss", "backward", "optimiser", "queue", "wait for data"] {
        assert!(phases[phase].as_f64().unwrap() > 0.0, "{phase} takes time: {said}");
    }
    // Without loader threads, batches are made while the step waits.
    assert!(number("data_wait_share") > 0.0 && number("augment_cpu_milliseconds_per_step") > 0.0);

    let rate = number("images_per_second");
    assert!((rate * step / 16_000.0 - 1.0).abs() < 1e-6);
    assert_eq!(number("flop_per_image"), FLOP_PER_IMAGE);
    let flop_per_second = number("model_flop_per_second");
    assert!((flop_per_second / (rate * number("flop_per_image")) - 1.0).abs() < 1e-6);
    let share = number("matmul_share");
    assert!((share - flop_per_second / number("matmul_flop_per_second")).abs() < 1e-9);
    // libtorch alone has more than that.
    assert!(number("peak_memory_bytes") > 5e7);
}

#[test]
fn bench_runs_in_several_processes() {
    let place = Place::new();
    let said = place
        .nearkin("launch --nproc 2 -- bench tiny.toml --steps 3 --device cpu --threads 1 --json");
    let said: Value = serde_json::from_str(&said.done()).unwrap();
    assert_eq!((&said["processes"], &said["images_per_step"]), (&2.into(), &16.into()));
}

#[test]
fn bench_refuses_what_training_refuses() {
    let place = Place::new();
    let said = place.nearkin("bench tiny.toml --set training.batch_size=65").refused();
    assert!(said.starts_with("error: a step takes 65 images"), "{said}");
    let said = place.nearkin("bench tiny.toml --steps 0").refused();
    assert!(said.contains("0 is not in 1..=1000000"), "{said}");
}

#[test]
fn every_epoch_says_what_it_cost() {
    let place = Place::new();
    place.pretrain("tiny.toml --out run --set evaluation.every_epochs=0").done();
    let records = place.read("run/metrics.jsonl");
    let records = records.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let epochs: Vec<Value> = records.filter(|record| record["kind"] == "epoch").collect();
    assert_eq!(epochs.len(), 2);
    for epoch in epochs {
        let number = |key: &str| epoch[key].as_f64().unwrap_or_else(|| panic!("{key}: {epoch}"));
        let per_image = number("model_flop_per_second") / number("images_per_second");
        assert!((per_image / FLOP_PER_IMAGE - 1.0).abs() < 1e-6, "{per_image}");
        let share = number("model_flop_per_second") / number("matmul_flop_per_second");
        assert!((number("matmul_share") - share).abs() < 1e-9);
        assert!(number("peak_memory_bytes") > 5e7);
    }
    let events = std::fs::read_dir(place.path("run/events")).unwrap().next().unwrap().unwrap();
    let events = std::fs::read(events.path()).unwrap();
    let tag = b"epoch/model_flop_per_second";
    assert!(events.windows(tag.len()).any(|window| window == tag), "TensorBoard has it too");
    let report = place.read("run/report.html");
    for row in [">Model<", " of the measured matrix-multiply rate", ">Peak memory<"] {
        assert!(report.contains(row), "{row} is missing");
    }
}

/// The choice is the run's: it is written down, and a continued run takes it.
#[test]
fn threads_are_chosen_for_a_new_run_and_kept() {
    let place = Place::new();
    let once = "tiny.toml --out run --device cpu --quiet --set evaluation.every_epochs=0";
    assert_eq!(place.nearkin(&format!("pretrain {once} --epochs 1")).code, Some(0));
    let environment: Value = serde_json::from_str(&place.read("run/environment.json")).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    let chosen = |key: &str| environment[key].as_u64().unwrap();
    assert!((1..=cores).contains(&chosen("threads")), "{environment}");
    assert!((1..=cores).contains(&chosen("workers")), "{environment}");

    let other = format!("\"threads\": {}", chosen("threads"));
    let text = place.read("run/environment.json").replace(&other, "\"threads\": 4");
    place.write("run/environment.json", text);
    std::fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    std::fs::create_dir(place.path("run/checkpoints")).unwrap();
    let said = place.nearkin("pretrain --resume run --device cpu");
    assert!(said.stderr.contains("with 4 thread(s)"), "{}", said.stderr);
    assert_eq!(said.code, Some(0));
}

#[test]
fn threads_spin_briefly_unless_the_environment_says_otherwise() {
    let place = Place::new();
    let spins = |setting: Option<(&str, &str)>, out: &str| {
        let mut command = assert_cmd::cargo::cargo_bin_cmd!("nearkin");
        command
            .args(["pretrain", "tiny.toml", "--quiet", "--device", "cpu", "--threads", "1"])
            .args(["--set", "evaluation.every_epochs=0", "--epochs", "1", "--out", out])
            .current_dir(place.path("."));
        for name in ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"] {
            command.env_remove(name);
        }
        command.envs(setting);
        assert!(command.output().unwrap().status.success());
        let environment = place.read(&format!("{out}/environment.json"));
        serde_json::from_str::<Value>(&environment).unwrap()["gomp_spincount"].clone()
    };
    assert_eq!(spins(None, "as-it-is"), "10000");
    assert_eq!(spins(Some(("OMP_WAIT_POLICY", "passive")), "passive"), Value::Null);
    assert_eq!(spins(Some(("GOMP_SPINCOUNT", "7")), "seven"), "7");
}
