//! Whole tiny runs on drawn images.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use nearkin_dist::SingleProcess;
use nearkin_recipe::Source;
use nearkin_report::{Kind, RunFolder, names, read_metrics};
use nearkin_train::{
    Checkpoint, Interrupt, Machine, Outcome, Resume, Run, RunOptions, Setup, TrainError,
    load_tensors,
};
use tch::Tensor;

const VIEWS: &str = "
[[views]]
name = \"first\"
transforms = [{ random_resized_crop = { size = 16 } }, { horizontal_flip = {} }]
[[views]]
name = \"second\"
transforms = [{ random_resized_crop = { size = 16 } }, { color_jitter = { brightness = 0.4, hue = 0.2 } }]
";

const SCE: &str = "
[method]
name = \"sce\"
[momentum_encoder]
momentum = 0.9
batch_norm_splits = 2
shuffle = true
[queue]
size = 20
";

/// A recipe of 64 images in batches of 16; `method` and `rest` are tables, `changes` overrides.
fn setup(method: &str, changes: &[&str]) -> Setup {
    let text = format!(
        "seed = 3
        [data]
        dataset = \"shapes\"
        train_images = 64
        test_images = 32
        size_pixels = 16
        [model]
        backbone = \"resnet18\"
        stem = \"cifar\"
        base_width = 4
        projector = [{{ width = 16, batch_norm = \"affine\", relu = true }}, {{ width = 8 }}]
        [training]
        epochs = 2
        batch_size = 16
        record_every_steps = 1
        [optimizer]
        name = \"sgd\"
        learning_rate = 0.1
        [evaluation]
        every_epochs = 0
        {method}
        {VIEWS}"
    );
    let mut source = Source::parse("test", text).unwrap();
    for change in changes {
        source.set(&change.parse().unwrap()).unwrap();
    }
    Setup::new(source.recipe().unwrap()).unwrap()
}

fn training(setup: Setup, run: &Path, workers: usize) -> Run {
    let resume = Resume::New(run.to_owned());
    Run::new(setup, &resume, options(workers, Some(1)), SingleProcess::shared()).unwrap()
}

fn train(setup: Setup, run: &Path, workers: usize) -> Result<Outcome, TrainError> {
    training(setup, run, workers).train(&Interrupt::default())
}

fn weights(run: &Path) -> Vec<(String, Tensor)> {
    let checkpoint = Checkpoint::latest(&RunFolder::open(run).unwrap()).unwrap().unwrap();
    load_tensors(&checkpoint.model().unwrap()).unwrap().into_iter().collect()
}

#[test]
fn weights_depend_on_the_seed_and_not_on_the_workers() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, changes: &[&str], workers| {
        let path = folder.path().join(name);
        assert_eq!(train(setup(SCE, changes), &path, workers).unwrap(), Outcome::Finished);
        weights(&path)
    };
    let first = run("first", &[], 0);
    assert_eq!(first, run("second", &[], 3));
    assert_ne!(first, run("other", &["seed=4"], 0));
}

/// Crops, flips, brightness and hue are the same to the bit, whether the device holds the images or
/// makes the end of a view only: images of a folder have no size in common.
#[test]
fn views_that_are_made_on_the_device_train_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    std::fs::create_dir(&images).unwrap();
    for index in 0..64 {
        write_grey_png(std::fs::File::create(images.join(format!("{index:02}.png"))).unwrap());
    }
    let read = format!("dataset = \"folder\"\npath = {:?}", images.display().to_string());
    let drawn = "dataset = \"shapes\"\ntrain_images = 64\nsize_pixels = 16";
    for (name, data, held_by_device) in [("drawn", drawn, 1), ("read", &read, 0)] {
        let run = |place: &str, expected: usize| {
            let path = folder.path().join(format!("{name}-{place}"));
            let mut recipe = setup(SCE, &[&format!("augment.place={place}")]).recipe;
            recipe.data = toml::from_str(data).unwrap();
            train(Setup::new(recipe).unwrap(), &path, 1).unwrap();
            let records = read_metrics(&RunFolder::open(&path).unwrap().metrics()).unwrap();
            let messages = records.iter().filter_map(|record| record.text(names::MESSAGE));
            let held = messages.filter(|message| message.contains("are held by Cpu"));
            assert_eq!(held.count(), expected, "{name} {place}");
            weights(&path)
        };
        assert_eq!(run("host", 0), run("device", held_by_device), "{name}");
    }
}

/// Methods that use what SCE does not: mixed inputs, projections in the queue, views that only the
/// momentum encoder sees, a queue that starts with zeros, schedules.
const OTHERS: [(&str, &str); 4] = [
    ("sane", "[method]\nname = \"sane\"\n[momentum_encoder]\nmomentum = 0.9\n[queue]\nsize = 20"),
    ("nnclr", "[method]\nname = \"nnclr\"\n[queue]\nsize = 20"),
    (
        "fnc",
        "[method]\nname = \"fnc\"\nsupport_views = 1\nmemory = true\nthreshold = 0.0
        [momentum_encoder]\nmomentum = 0.9\n[queue]\nsize = 40\nstart = \"zeros\"
        [[views]]\nname = \"third\"\ntransforms = [{ random_resized_crop = { size = 16 } }]",
    ),
    (
        "scheduled",
        "[method]\nname = \"sce\"
        coefficient = { from = 1.0, to = 0.5, epochs = 1, shape = \"linear\" }
        [momentum_encoder]\nmomentum = 0.9\n[queue]\nsize = 20",
    ),
];

#[test]
fn targets_are_measured_against_labels() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(setup(SCE, &[]), &run, 1).unwrap();
    let records = read_metrics(&RunFolder::open(&run).unwrap().metrics()).unwrap();
    for record in records.iter().filter(|record| matches!(record.kind, Kind::Step | Kind::Epoch)) {
        let number = |name: &str| record.number(name).unwrap_or(f64::NAN);
        let parts = 0.5 * number("info_nce") + 0.5 * (number("ressl") + number("ceil"));
        assert!((number(names::LOSS) - parts).abs() < 1e-4, "{parts} is not the loss");
        assert!((number("positive_mass") - 0.5).abs() < 1e-6);
        assert!((0.0..=0.5).contains(&number("kin_mass")));
        assert_eq!(number("kin_in_denominator").is_nan(), number("kin_share") == 0.0);
    }
    // Of 64 images of ten classes, some of the last 20 keys are of an anchor's class.
    let last = records.iter().rfind(|record| record.kind == Kind::Epoch).unwrap();
    assert!(last.number("kin_share").unwrap() > 0.0);
}

#[test]
fn a_supervised_method_says_so_and_needs_labels() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(setup("[method]\nname = \"supcon\"", &[]), &run, 1).unwrap();
    let records = read_metrics(&RunFolder::open(&run).unwrap().metrics()).unwrap();
    let mut messages = records.iter().filter_map(|record| record.text(names::MESSAGE));
    assert!(messages.any(|message| message.contains("supcon is supervised")));

    let flat = folder.path().join("flat");
    std::fs::create_dir(&flat).unwrap();
    for index in 0..16 {
        let file = std::fs::File::create(flat.join(format!("{index}.png"))).unwrap();
        write_grey_png(file);
    }
    let mut recipe = setup("[method]\nname = \"supcon\"", &[]).recipe;
    recipe.data =
        toml::from_str(&format!("dataset = \"folder\"\npath = {:?}", flat.display().to_string()))
            .unwrap();
    let run = Resume::New(folder.path().join("unlabelled"));
    let setup = Setup::new(recipe).unwrap();
    let error = Run::new(setup, &run, options(1, Some(1)), SingleProcess::shared()).err().unwrap();
    assert!(error.to_string().contains("supcon is supervised, but"), "{error}");
}

/// The smallest PNG: one grey pixel.
fn write_grey_png(mut file: std::fs::File) {
    use std::io::Write;
    let bytes: &[u8] = &[
        0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, 0x49, 0x48, 0x44, 0x52, 0, 0,
        0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0, 0x3a, 0x7e, 0x9b, 0x55, 0, 0, 0, 10, 0x49, 0x44, 0x41,
        0x54, 0x78, 0x9c, 0x63, 0x68, 0, 0, 0, 0x82, 0, 0x81, 0x77, 0xcd, 0x72, 0xb6, 0, 0, 0, 0,
        0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82,
    ];
    file.write_all(bytes).unwrap();
}

#[test]
fn every_method_trains_and_leaves_finite_records() {
    let folder = tempfile::tempdir().unwrap();
    let symmetric = SCE.replace("\"sce\"", "\"sce\"\nsymmetric = true");
    let moco = SCE.replace("\"sce\"", "\"moco\"");
    for (name, method) in
        [("sce", symmetric.as_str()), ("moco", &moco), ("simclr", "[method]\nname = \"simclr\"")]
    {
        let run = folder.path().join(name);
        train(setup(method, &[]), &run, 1).unwrap();
        let records = read_metrics(&RunFolder::open(&run).unwrap().metrics()).unwrap();
        let steps: Vec<_> = records.iter().filter(|record| record.kind == Kind::Step).collect();
        assert_eq!(
            steps.iter().map(|record| record.step).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5, 6, 7, 8]
        );
        for record in steps {
            let loss = record.number(names::LOSS).unwrap();
            let chance = record.number(names::REFERENCE_LOSS).unwrap();
            let candidates: f64 = if name == "simclr" { 31.0 } else { 21.0 };
            assert!((chance - candidates.ln()).abs() < 1e-6, "{name}: {chance}");
            assert!(loss.is_finite() && loss > 0.0, "{name}: {loss}");
        }
    }
}

fn losses(run: &Path) -> Vec<f64> {
    let records = read_metrics(&RunFolder::open(run).unwrap().metrics()).unwrap();
    let steps = records.iter().filter(|record| record.kind == Kind::Step);
    steps.map(|record| record.number(names::LOSS).unwrap()).collect()
}

/// Eight bits of a factor are off by up to 0.4 %, and batch norms of 16 images that look alike make
/// several percent of that, of either sign. Before anything is trained the loss is within 1 % of that
/// of single precision; after that it is within 25 % at every step, and within 3 % in the mean of 30.
#[test]
fn bfloat16_follows_single_precision_and_keeps_its_weights_in_32_bits() {
    let folder = tempfile::tempdir().unwrap();
    let run = |precision: &str| {
        let path = folder.path().join(precision);
        let precision = format!("training.precision={precision}");
        let changes = [
            &precision,
            "training.epochs=8",
            "optimizer.learning_rate=0.01",
            "model.base_width=8",
            "method.temperature=0.5",
        ];
        train(setup("[method]\nname = \"simclr\"", &changes), &path, 1).unwrap();
        path
    };
    let (single, rounded) = (run("single"), run("bfloat16"));
    let pairs: Vec<_> = losses(&single).into_iter().zip(losses(&rounded)).take(30).collect();
    assert_eq!(pairs.len(), 30);
    let apart = |(single, rounded): (f64, f64)| (rounded / single - 1.0).abs();
    assert!((1e-9..0.01).contains(&apart(pairs[0])), "{:?}", pairs[0]);
    for &pair in &pairs {
        assert!(apart(pair) < 0.25, "{pair:?}");
    }
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / 30.0;
    let means = (mean(|pair| pair.0), mean(|pair| pair.1));
    assert!(apart(means) < 0.03, "{means:?}");
    for (name, tensor) in weights(&rounded) {
        assert_eq!(tensor.kind(), tch::Kind::Float, "{name}");
    }
}

/// Weights that the pass without activations converted must not serve the one with them.
#[test]
fn bfloat16_trains_the_same_by_micro_batches() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, changes: &[&str]| {
        let path = folder.path().join(name);
        let changes = [changes, &["training.precision=bfloat16"]].concat();
        train(setup("[method]\nname = \"simclr\"", &changes), &path, 1).unwrap();
        weights(&path)
    };
    // One micro-batch is the whole batch here, so batch norms see the same images.
    let (whole, micro) = (run("whole", &[]), run("micro", &["training.micro_batch_size=16"]));
    for ((name, whole), (_, micro)) in whole.iter().zip(&micro) {
        assert!(whole.allclose(micro, 1e-3, 1e-3, false), "{name}");
    }
}

#[test]
fn accumulated_batches_make_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(setup(SCE, &["training.accumulate_batches=2", "queue.size=50"]), &run, 1).unwrap();
    let run = RunFolder::open(&run).unwrap();
    let progress = Checkpoint::latest(&run).unwrap().unwrap().progress;
    assert_eq!((progress.step, progress.steps_per_epoch), (4, 2));
    // 4 steps of 2 batches of 16 keys each, in a queue of 50.
    assert_eq!(progress.queue_next, Some(4 * 2 * 16 % 50));
}

#[test]
fn a_diverged_run_stops_and_says_what_made_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let changes =
        ["optimizer.learning_rate=1e38", "training.maximum_skipped_steps=1", "training.epochs=9"];
    let error = train(setup(SCE, &changes), &run, 1).unwrap_err();
    let TrainError::NotFinite { in_a_row: 1, step, dump, .. } = &error else {
        unreachable!("{error}");
    };
    assert!(error.to_string().contains("learning_rate"), "{error}");
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(dump).unwrap()).unwrap();
    assert_eq!(told["step"], *step);
    assert_eq!(told["images"].as_array().unwrap().len(), 16);
    let views = load_tensors(&dump.with_extension("safetensors")).unwrap();
    assert_eq!(views["view_1"].size(), [16, 3, 16, 16]);
    let records = read_metrics(&RunFolder::open(&run).unwrap().metrics()).unwrap();
    let skipped = records
        .iter()
        .filter_map(|record| record.text(names::MESSAGE))
        .filter(|message| message.contains("was skipped"));
    assert_eq!(skipped.count(), 1);
}

/// The device decides what the host decides otherwise: the same steps are made, or not.
#[test]
fn steps_that_are_read_late_train_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let sane = "[method]\nname = \"sane\"\n[momentum_encoder]\nmomentum = 0.9\n[queue]\nsize = 20";
    let recipes = [
        ("sce", SCE, "optimizer.nesterov=true"),
        ("sane", sane, "optimizer={ name = \"adamw\", learning_rate = 0.01, weight_decay = 0.1 }"),
        (
            "simclr",
            "[method]\nname = \"simclr\"",
            "optimizer={ name = \"lars\", learning_rate = 0.1 }",
        ),
    ];
    for (name, method, optimizer) in recipes {
        let run = |form: &str| {
            let path = folder.path().join(format!("{name}-{form}"));
            let form = format!("training.step={form}");
            let changes =
                ["training.precision=double", "training.record_every_steps=3", optimizer, &form];
            train(setup(method, &changes), &path, 1).unwrap();
            let losses = read_metrics(&RunFolder::open(&path).unwrap().metrics()).unwrap();
            let losses: Vec<f64> = losses
                .iter()
                .filter(|record| matches!(record.kind, Kind::Step | Kind::Epoch))
                .map(|record| record.number(names::LOSS).unwrap())
                .collect();
            // Two recorded steps of eight, and two epochs of which every step counts.
            assert_eq!(losses.len(), 4);
            let checkpoint = Checkpoint::latest(&RunFolder::open(&path).unwrap()).unwrap().unwrap();
            (losses, weights(&path), checkpoint.progress.queue_next)
        };
        let (losses, expected, next) = run("waited_for");
        for late in ["read_late", "cuda_graph"] {
            let found = run(late);
            assert_eq!(found.2, next, "{name} {late}");
            for (got, loss) in found.0.iter().zip(&losses) {
                assert!((got - loss).abs() < 1e-9, "{name} {late}: {got} is not {loss}");
            }
            for ((key, got), (_, weight)) in found.1.iter().zip(&expected) {
                assert!(got.allclose(weight, 1e-8, 1e-8, false), "{name} {late}: {key}");
            }
        }
    }
}

#[test]
fn a_diverged_run_that_is_read_late_stops_at_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let run = |late: &str| {
        let changes = [
            "optimizer.learning_rate=1e38",
            "training.maximum_skipped_steps=1",
            "training.epochs=9",
            "training.record_every_steps=100",
            late,
        ];
        let path = folder.path().join(late);
        let error = train(setup(SCE, &changes), &path, 1).unwrap_err();
        let TrainError::NotFinite { in_a_row: 1, step, dump, .. } = error else {
            unreachable!("{error}");
        };
        let told: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&dump).unwrap()).unwrap();
        let views = load_tensors(&dump.with_extension("safetensors")).unwrap();
        (step, told, views)
    };
    let waited = run("training.step=waited_for");
    let late = run("training.step=read_late");
    assert_eq!(late.0, waited.0);
    assert_eq!(late.1["images"], waited.1["images"]);
    assert!(late.2 == waited.2, "the views are those of the step, not of the next one");
    assert!(waited.1["gradients_not_finite"].is_array());
    assert!(late.1["gradients_not_finite"].is_null(), "the next step has overwritten them");
}

#[test]
fn what_stands_against_reading_late_is_said() {
    let folder = tempfile::tempdir().unwrap();
    for (change, expected) in [
        ("training.micro_batch_size=4", "every step is waited for, since batches are divided"),
        (
            "training.accumulate_batches=2",
            "every step is waited for, since batches are accumulated",
        ),
        (
            "training.record_every_steps=1",
            "every step is waited for, since the measures of every step are written down",
        ),
        ("training.step=cuda_graph", "no CUDA graphs on Cpu: the step is started kernel by kernel"),
    ] {
        let run = folder.path().join(change);
        let method = "[method]\nname = \"simclr\"";
        let changes = [
            "training.record_every_steps=4",
            "training.step=read_late",
            "training.epochs=1",
            change,
        ];
        train(setup(method, &changes), &run, 1).unwrap();
        let records = read_metrics(&RunFolder::open(&run).unwrap().metrics()).unwrap();
        let mut messages = records.iter().filter_map(|record| record.text(names::MESSAGE));
        assert!(messages.any(|message| message == format!("warning: {expected}")), "{change}");
    }
}

fn options(workers: usize, threads: Option<usize>) -> RunOptions {
    let machine = Machine { workers: Some(workers), threads, ..Machine::default() };
    RunOptions { machine, quiet: true, ..RunOptions::default() }
}

const SIGTERM: i32 = 15;

/// Trains as many steps as there are, stopping and starting again after every one or two.
fn train_in_pieces(setup: impl Fn() -> Setup, run: &Path) {
    let mut resume = Resume::New(run.to_owned());
    loop {
        let mut training =
            Run::new(setup(), &resume, options(2, Some(1)), SingleProcess::shared()).unwrap();
        let interrupt = Interrupt::default();
        let later = interrupt.clone();
        let metrics = training.folder().metrics();
        let before = steps_recorded(&metrics);
        // Asks for an end as soon as a step was made.
        let watcher = std::thread::spawn(move || {
            while steps_recorded(&metrics) <= before && later.signal().is_none() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            later.request(SIGTERM);
        });
        let outcome = training.train(&interrupt).unwrap();
        interrupt.request(SIGTERM);
        watcher.join().unwrap();
        if outcome == Outcome::Finished {
            return;
        }
        resume = Resume::From(RunFolder::open(run).unwrap());
    }
}

fn steps_recorded(metrics: &Path) -> usize {
    let records = read_metrics(metrics).unwrap_or_default();
    records.iter().filter(|record| record.kind == Kind::Step).count()
}

#[test]
fn interrupted_all_the_time_a_run_comes_to_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    let symmetric = SCE.replace("\"sce\"", "\"sce\"\nsymmetric = true");
    for (name, method, changes) in [
        ("accumulated", SCE, &["training.accumulate_batches=2", "training.epochs=4"] as &[&str]),
        ("symmetric", &symmetric, &[]),
        ("simclr", "[method]\nname = \"simclr\"", &[]),
        ("bfloat16", SCE, &["training.precision=bfloat16"]),
        ("late", SCE, &["training.step=read_late", "training.record_every_steps=3"]),
    ]
    .into_iter()
    .chain(OTHERS.map(|(name, method)| (name, method, &[] as &[&str])))
    {
        let (whole, broken) =
            (folder.path().join(name), folder.path().join(format!("{name}-broken")));
        train(setup(method, changes), &whole, 1).unwrap();
        train_in_pieces(|| setup(method, changes), &broken);
        assert!(weights(&whole) == weights(&broken), "{name}");
    }
}

/// Between two machines, say, of which one has a GPU.
#[test]
fn a_run_goes_on_with_another_form_of_its_steps() {
    let folder = tempfile::tempdir().unwrap();
    let of_form = |form: &str| {
        let form = format!("training.step={form}");
        let double = ["training.precision=double", "training.record_every_steps=3", &form];
        setup(SCE, &[&double[..], &["checkpoint.every_epochs=1", "checkpoint.keep=2"]].concat())
    };
    for (first, second) in [("waited_for", "read_late"), ("read_late", "waited_for")] {
        let path = folder.path().join(first);
        train(of_form(first), &path, 1).unwrap();
        let whole = weights(&path);
        // As if it had been killed in its second epoch.
        let run = RunFolder::open(&path).unwrap();
        let last = run.checkpoints().join("step-000000008");
        std::fs::remove_dir_all(&last).unwrap();
        let resume = Resume::From(run);
        let mut training =
            Run::new(of_form(second), &resume, options(1, Some(1)), SingleProcess::shared())
                .unwrap();
        training.train(&Interrupt::default()).unwrap();
        assert!(last.exists());
        for ((name, expected), (_, got)) in whole.iter().zip(weights(&path)) {
            assert!(got.allclose(expected, 1e-8, 1e-8, false), "{first}, {second}: {name}");
        }
    }
}

#[test]
fn a_changed_recipe_is_refused_with_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    train(setup(SCE, &[]), &run, 1).unwrap();
    let resume = Resume::From(RunFolder::open(&run).unwrap());
    let changed = setup(SCE, &["method.coefficient=0.3"]);
    let message = Run::new(changed, &resume, options(1, None), SingleProcess::shared())
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("method.coefficient: 0.5 -> 0.3"), "{message}");
}

#[test]
fn too_few_images_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let options = options(1, Some(1));
    let setup = setup(SCE, &["training.batch_size=128"]);
    let error =
        Run::new(setup, &Resume::New(run.clone()), options, SingleProcess::shared()).err().unwrap();
    assert!(
        error.to_string().contains("128 images") && error.to_string().contains("has 64"),
        "{error}"
    );
    assert!(!run.exists());
}

#[test]
fn methods_and_tables_must_fit() {
    let message = |method: &str| {
        let text = format!(
            "[data]\ndataset = \"shapes\"\n[model]\nbackbone = \"resnet18\"\nstem = \"cifar\"
            projector = [{{ width = 8 }}]\n[training]\nepochs = 1\nbatch_size = 4
            [optimizer]\nname = \"sgd\"\nlearning_rate = 0.1\n{method}\n{}",
            if method.contains("[[views]]") { "" } else { VIEWS }
        );
        let recipe = Source::parse("test", text).unwrap().recipe().unwrap();
        Setup::new(recipe).err().unwrap().to_string()
    };
    let momentum = "[momentum_encoder]\nmomentum = 0.9";
    for (method, part) in [
        ("[method]\nname = \"sce\"".to_owned(), "method sce needs a [momentum_encoder] table"),
        (format!("[method]\nname = \"moco\"\n{momentum}"), "method moco needs a [queue] table"),
        (format!("[method]\nname = \"simclr\"\n{momentum}"), "remove [momentum_encoder]"),
        ("[method]\nname = \"simclr\"\n[queue]\nsize = 4".to_owned(), "remove [queue]"),
        ("[method]\nname = \"simcle\"".to_owned(), "there is no method \"simcle\"; known are"),
        ("[method]\ntemperature = 1.0".to_owned(), "[method] needs a name"),
        ("[method]\nname = \"simclr\"\ntemperature = -1.0".to_owned(), "method.temperature = -1"),
        ("[method]\nname = \"sce\"\ncoefficient = 1.5".to_owned(), "method.coefficient = 1.5"),
        ("[method]\nname = \"simclr\"\ntau = 1.0".to_owned(), "unknown field `tau`"),
        (
            format!("[method]\nname = \"simclr\"\n{}", VIEWS.replacen("size = 16", "size = 24", 1)),
            "give them one size",
        ),
        ("[method]\nname = \"simclr\"\ntemperature = \"x\"".to_owned(), "in `temperature`"),
        (
            format!(
                "[method]\nname = \"sane\"\n{momentum}\n{}",
                VIEWS.replacen("size = 16", "size = 24", 1)
            ),
            "mixes views pixel by pixel",
        ),
        ("[method]\nname = \"nnclr\"".to_owned(), "method nnclr needs a [queue] table"),
    ] {
        let message = message(&method);
        assert!(message.contains(part), "{message}");
    }
}
