//! The program as its users meet it: what it prints, which files it writes, how it refuses.

#![expect(clippy::expect_used, reason = "a test fails by panicking, and so do its helpers")]

mod support;

use std::fs;

use insta::assert_snapshot;
use serde_json::Value;
use support::{Place, TINY, tiny_on, tiny_with};

fn help(command: &str) -> String {
    Place::new().nearkin(&format!("{command} --help")).done()
}

#[test]
fn help_of_the_program() {
    assert_snapshot!(help(""), @r"
    Pretrain image encoders without labels

    Usage: nearkin <COMMAND>

    Commands:
      pretrain  Train an encoder as a recipe says, or continue a run
      bench     Measure where the time of training goes
      launch    Start several processes on this machine that train together
      eval      Evaluate the encoder of a run
      export    Write the backbone of a run for other tools
      import    Read a backbone that other tools trained
      embed     Write the features of images to a file
      search    Find the images that are most similar to one, or to each of many
      dedupe    Find duplicates and near-duplicates
      select    Select a representative subset, for example to label
      data      Look at images, pack them, fetch them
      methods   List the methods that a recipe can name, or explain one
      recipe    Work with recipes
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Exit codes:
      0      done
      1      failure; another attempt may succeed
      2      wrong usage or input
      3      the run would fail again in the same way, for example because it diverged
      128+N  ended by signal N (129 SIGHUP, 130 Ctrl-C, 138 SIGUSR1, 143 SIGTERM);
             training that had begun has written a checkpoint

    First steps:
      nearkin methods
      nearkin methods --explain sce
      nearkin recipe check recipes/sce/cifar10-small.toml
      nearkin pretrain recipes/sce/cifar10-small.toml --data cifar-10-batches-bin
    ");
}

#[test]
fn help_of_pretrain() {
    assert_snapshot!(help("pretrain"), @r"
    Train an encoder as a recipe says, or continue a run

    Usage: nearkin pretrain [OPTIONS] [RECIPE]

    Arguments:
      [RECIPE]  The recipe, a TOML file. Not needed with --resume RUN

    Options:
          --data <PATH>             Where the images are
          --out <RUN>               The run's folder; if absent, a new one under runs/
          --init <FILE>             Start with the backbone of this file, made by `nearkin import`,
                                    `nearkin export` or a run
          --set <KEY=VALUE>         Override a key of the recipe, for example
                                    optimizer.learning_rate=0.03. May be repeated
          --resume [<RUN>]          Continue the run in this folder (or in --out) from its newest
                                    checkpoint, bit by bit. With `auto`, continue the run in --out if it
                                    was begun, else begin it
          --device <DEVICE>         auto (the first CUDA device if there is one), cpu or cuda:N
                                    [default: auto]
          --seed <N>                Seed of every random number (overrides the recipe's seed)
          --limit-images <N>        Train on this many images, drawn with the seed (overrides
                                    limit_images)
          --epochs <N>              Number of epochs (overrides training.epochs)
          --workers <N>             Threads that read and augment images; no result depends on it. auto:
                                    chosen with --threads, and 1 beside a given number of threads
                                    [default: auto]
          --threads <N>             Threads of libtorch. auto: what the resumed run began with; for a
                                    new run the split of the cores between the two that is measured to
                                    be fastest [default: auto]
          --timeout-seconds <N>     With several processes: how long each waits for the others before it
                                    gives up [default: 600]
          --dump-batches <N> <DIR>  Write the first N batches of the run into DIR, as the networks get
                                    them, and train nothing: one safetensors file each, with pixels,
                                    indices and labels. With --resume, the next N batches
          --quiet                   Show no progress
      -h, --help                    Print help

    The run folder holds the resolved recipe (recipe.toml), metrics.jsonl, TensorBoard events,
    checkpoints and report.html. Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 stop the run with a
    checkpoint; a second Ctrl-C or SIGTERM, more than a second later, stops it at once.

    Examples:
      nearkin pretrain recipes/demo.toml
      nearkin pretrain recipes/sce/cifar10-small.toml --data cifar-10-batches-bin --out runs/sce
      nearkin pretrain recipes/sce/cifar10.toml --data DIR --set method.coefficient=0.3 --seed 1
      nearkin pretrain --resume runs/sce
      nearkin pretrain recipes/demo.toml --dump-batches 3 batches
      nearkin launch --nproc 2 -- pretrain RECIPE --data DIR --out runs/sce --resume auto
    ");
}

#[test]
fn help_of_eval() {
    assert_snapshot!(help("eval"), @r"
    Evaluate the encoder of a run

    Usage: nearkin eval <COMMAND>

    Commands:
      knn       k-NN accuracy of the newest checkpoint of a run
      linear    Accuracy of a linear classifier on the frozen backbone
      semi      Accuracy after fine-tuning the whole network with the labels of a few images
      transfer  Accuracy on other data sets: logistic regression on frozen features, and fine-tuning
      quality   Measures of the features that need no labels, and a warning where they have collapsed
      all       Run every applicable evaluation and print one table
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help
    ");
}

#[test]
fn help_of_eval_knn() {
    assert_snapshot!(help("eval knn"), @"
    k-NN accuracy of the newest checkpoint of a run.

    The neighbours are the training images of the run, the queries the images of its test split:
    backbone features in evaluation mode, without augmentation, L2-normalised, compared by cosine.

    Usage: nearkin eval knn [OPTIONS] <RUN>

    Arguments:
      <RUN>
              The run's folder, or a safetensors file with --recipe

    Options:
          --data <PATH>
              Where the images are, if not where the run found them

          --recipe <FILE>
              What a file of weights is: its model, images and view. A run has its own

          --device <DEVICE>
              auto, cpu or cuda:N

              [default: auto]

          --workers <N>
              Threads that read images; no result depends on it

              [default: 1]

          --bad-image-limit <SHARE>
              Share of the images of a split that may be damaged; five always may, unless it is 0. If
              absent, that of the recipe. Damaged images count nowhere; the run's bad_images.jsonl lists
              them

          --json
              Print everything as JSON

          --neighbors <K>
              How many neighbours vote, a list such as 20,200; with --temperature instead of the votes
              of the recipe. Every combination of the two lists is reported

          --temperature <T>
              What divides the cosine, a list such as 0.07,0.1

          --pixels
              Also the pixels themselves, for comparison

      -h, --help
              Print help (see a summary with '-h')
    ");
}

#[test]
fn help_of_methods() {
    assert_snapshot!(help("methods"), @"
    List the methods that a recipe can name, or explain one

    Usage: nearkin methods [OPTIONS]

    Options:
          --explain <NAME>  Show the equation, the paper, every piece and every default of this method
      -h, --help            Print help
    ");
}

#[test]
fn help_of_recipe() {
    assert_snapshot!(help("recipe"), @"
    Work with recipes

    Usage: nearkin recipe <COMMAND>

    Commands:
      check  Check a recipe without training; names what is wrong
      help   Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help
    ");
}

#[test]
fn help_of_recipe_check() {
    assert_snapshot!(help("recipe check"), @"
    Check a recipe without training; names what is wrong

    Usage: nearkin recipe check [OPTIONS] <FILE>

    Arguments:
      <FILE>  The TOML file

    Options:
          --set <KEY=VALUE>  Override a key first, for example training.epochs=20
          --resolved         Print the recipe with every default filled in
      -h, --help             Print help
    ");
}

#[test]
fn without_a_command_the_help_is_shown() {
    let said = Place::new().nearkin("");
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.starts_with("Pretrain image encoders without labels"), "{}", said.stderr);
}

#[test]
fn methods_are_listed_with_their_papers() {
    let said = Place::new().nearkin("methods").done();
    for (name, paper) in [("sce", "2111.14585"), ("moco", "2003.04297"), ("simclr", "2002.05709")] {
        let line = said.lines().find(|line| line.starts_with(&format!("{name} ")));
        assert!(line.is_some_and(|line| line.contains(paper)), "{said}");
    }
}

#[test]
fn a_method_is_explained() {
    let place = Place::new();
    assert_snapshot!(place.nearkin("methods --explain sce").done(), @r#"
    SCE: one-hot mixed with the teacher's sharpened similarities
    Denize, Rabarisoa, Orcesi, Herault, Canu: Similarity Contrastive Estimation for Self-Supervised Soft Contrastive Learning, WACV 2023, arXiv 2111.14585

    Equation
        s_ik = [k != i] exp(k_i.k_k / temperature_momentum) / sum_{j != i} exp(k_i.k_j / temperature_momentum)
        w_ik = coefficient [k = i] + (1 - coefficient) s_ik
        L_i = -sum_k w_ik log( exp(q_i.k_k / temperature) / sum_j exp(q_i.k_j / temperature) )

    Pieces of L_i = - sum_c t_ic ( a_ic - LSE_{c in D_i} a_ic )
    piece        is
    -----------  -----------------------------------------------------------------------------------------------------------------------------------------
    candidates   the anchor's own key, then the queue (variant = "use_keys": all keys of the batch, then the queue)
    positives    the own key, one-hot
    relations    softmax of the teacher's similarities over all others, temperature_momentum (variant = "leaky": the own key takes part with similarity 0)
    coefficient  constant or scheduled
    denominator  all candidates
    teacher      momentum encoder

    Defaults
        [method]
        name = "sce"
        temperature = 0.1
        temperature_momentum = 0.05
        coefficient = 0.5
        variant = "paper"
        symmetric = false
        global_views = 2

    Where the authors' code differs
        - the own key takes part in the relations with similarity 0: variant = "leaky"
        - its momentum encoder starts from random weights of its own, here from the online encoder's

    The same as a free combination
        [method]
        name = "combination"
        candidates = "queue"
        temperature = 0.1
        target = { relations = { kind = "softmax", temperature = 0.05 }, coefficient = 0.5 }
    "#);
    let said = place.nearkin("methods --explain scr");
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("there is no method \"scr\"; known are "), "{}", said.stderr);
}

#[test]
fn a_recipe_of_the_repository_is_ok() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/sce/cifar10.toml");
    let said = Place::new().nearkin(&format!("recipe check {file}")).done();
    assert_eq!(said, format!("{file}: ok\n"));
}

#[test]
fn a_resolved_recipe_has_every_default_and_resolves_to_itself() {
    let place = Place::new();
    let resolved = place.nearkin("recipe check tiny.toml --resolved --set seed=8").done();
    let method = resolved.split("\n\n").find(|table| table.starts_with("[method]"));
    assert_snapshot!(method.expect("a method"), @r#"
    [method]
    name = "sce"
    temperature = 0.1
    temperature_momentum = 0.05
    coefficient = 0.5
    variant = "paper"
    symmetric = false
    global_views = 2
    "#);
    assert!(resolved.starts_with("seed = 8\n"), "{resolved}");
    assert!(resolved.contains("\nweight_decay = 0.0\n"), "{resolved}");
    place.write("resolved.toml", &resolved);
    assert_eq!(place.nearkin("recipe check resolved.toml --resolved").done(), resolved);
}

#[test]
fn a_run_leaves_recipe_metrics_events_checkpoints_report_and_environment() {
    let place = Place::new();
    let said = place.pretrain("tiny.toml --out run").done();
    insta::with_settings!({ filters => [
        (r" +\d+\.\d\d %", "  [share]"),
        (r"trained at \d+ images", "trained at [number] images"),
        (r"\d+\.\d+ (GFLOP/s|%)", "[number] $1"),
        (r"\d+ MiB", "[number] MiB"),
        (r"/\S+/nearkin ", "[program] "),
    ] }, {
        assert_snapshot!(said.trim(), @r"
        k-NN top-1 accuracy on the test images
        k, temperature  raw pixels  untrained encoder  trained encoder
        --------------  ----------  -----------------  ---------------
                5, 0.1  [share]  [share]  [share]

        The trained encoder does not beat raw pixels (k = 5:  [share] against  [share]). Likely reasons:
        - the loss (2.997) is still near chance (2.833): optimizer.learning_rate may be far too small or too large
        - no view changes colors (color_jitter), so colors alone can tell which views belong together
        - 2 epoch(s) of 64 images are a short training: published runs on small images take 200 epochs or more
        - 64 training images are few: contrastive learning needs thousands

        trained at [number] images/s (mean over epochs, evaluation not counted)
        model:       [number] GFLOP/s, [number] % of this machine's measured matrix-multiply rate
        kin purity:  [number] % of the targets (chance [number] %)
        data wait:   [number] % of the time
        peak memory: [number] MiB

        run folder:  run
        report:      run/report.html
        evaluate:    [program] eval knn run
        your images: [program] pretrain RECIPE --data PATH   (recipes are under recipes/)
        ");
    });

    // What was trained can be trained again: the folder's recipe states everything.
    let resolved = place.nearkin("recipe check tiny.toml --resolved").done();
    assert_eq!(place.read("run/recipe.toml"), resolved);

    let records: Vec<Value> = place
        .read("run/metrics.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("one JSON object per line"))
        .collect();
    let of_kind = |kind: &str| records.iter().filter(|r| r["kind"] == kind).collect::<Vec<_>>();
    let steps = of_kind("step");
    let counted: Vec<_> = steps.iter().filter_map(|record| record["step"].as_u64()).collect();
    assert_eq!(counted, (1..=8).collect::<Vec<_>>());
    assert!(steps.iter().all(|record| record["loss"].as_f64().is_some_and(|loss| loss > 0.0)));
    assert_eq!(steps[0]["learning_rate"], 0.05);
    assert_eq!(of_kind("epoch").len(), 2);
    let measured: Vec<_> = of_kind("knn")
        .iter()
        .map(|record| format!("{} of {}", record["step"], record["features"]))
        .collect();
    let expected =
        ["0 of \"raw pixels\"", "0 of \"backbone\"", "4 of \"backbone\"", "8 of \"backbone\""];
    assert_eq!(measured, expected);

    let last = "run/checkpoints/step-000000008";
    for (file, tensor, shape) in [
        ("model", "backbone.conv1.weight", vec![4, 3, 3, 3]),
        ("momentum_encoder", "backbone.conv1.weight", vec![4, 3, 3, 3]),
        ("queue", "queue", vec![16, 8]),
    ] {
        let bytes = fs::read(place.path(&format!("{last}/{file}.safetensors"))).expect(file);
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect(file);
        assert_eq!(tensors.tensor(tensor).expect(tensor).shape(), shape, "{file}");
    }
    assert!(place.path(&format!("{last}/optimizer.safetensors")).is_file());
    let state: Value =
        serde_json::from_str(&place.read(&format!("{last}/state.json"))).expect("JSON");
    assert_eq!((&state["step"], &state["epoch"]), (&8.into(), &2.into()));
    assert_eq!(state["recipe"], resolved);
    // Two are kept, and the run made two.
    assert!(place.path("run/checkpoints/step-000000004").is_dir());

    let events: Vec<_> = fs::read_dir(place.path("run/events"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert!(matches!(&events[..], [one] if one.contains("tfevents")), "{events:?}");
    let report = place.read("run/report.html");
    assert!(report.contains("<svg") && report.contains("k-NN, pixels"), "no charts in the report");
    let environment: Value =
        serde_json::from_str(&place.read("run/environment.json")).expect("JSON");
    assert_eq!((&environment["device"], &environment["threads"]), (&"Cpu".into(), &1.into()));

    // The evaluation of the newest checkpoint finds what training measured last.
    let evaluated = place.nearkin("eval knn run --device cpu").done();
    let knn = of_kind("knn").pop().expect("a record");
    let percent = |name: &str| format!("{:.2}", 100.0 * knn[name].as_f64().expect("a number"));
    let row = evaluated.lines().find(|line| line.starts_with("encoder")).expect("a row");
    let columns: Vec<_> = row.split_whitespace().collect();
    assert_eq!(columns[1..3], [percent("accuracy"), percent("top_5_accuracy")], "{evaluated}");
    assert!(row.ends_with(knn["definition"].as_str().expect("a text")), "{evaluated}");

    // A finished run has nothing left to train, and a second run does not touch it.
    assert!(place.pretrain("--resume run").done().contains("run folder:  run\n"));
    assert_snapshot!(place.pretrain("tiny.toml --out run").refused(), @"error: run already holds a run: choose another folder with `--out`, or continue that run with `--resume`");
}

#[test]
fn quiet_runs_say_nothing_and_take_a_free_folder_under_runs() {
    let place = Place::new();
    place.write("runs/simclr-two/recipe.toml", "taken");
    let text = tiny_with("\"sce\"", "\"simclr\"")
        .replace("[momentum_encoder]\nmomentum = 0.9\n\n[queue]\nsize = 16\n\n", "");
    place.write("two.toml", text);
    let said = place.pretrain("two.toml --quiet --epochs 1 --limit-images 32 --seed 1");
    assert_eq!((said.code, &*said.stdout, &*said.stderr), (Some(0), "", ""));
    let recipe = place.read("runs/simclr-two-2/recipe.toml");
    assert!(recipe.starts_with("seed = 1\nlimit_images = 32\n"), "{recipe}");
    assert!(recipe.contains("\nepochs = 1\n"), "{recipe}");
    let state = place.read("runs/simclr-two-2/checkpoints/step-000000002/state.json");
    assert!(state.contains("\"training_images\": 32,"), "{state}");
}

#[test]
fn a_flat_folder_trains_without_evaluation_and_says_so() {
    let place = Place::new();
    place.images("flat", 16);
    place.write("flat.toml", tiny_on("folder"));
    let said = place.pretrain("flat.toml --data flat --out run");
    assert!(said.stderr.contains("no k-NN evaluation: the data has no labels"), "{}", said.stderr);
    let stdout = said.done();
    assert!(stdout.contains("run folder:  run\n"), "{stdout}");
    assert!(!stdout.contains("k-NN") && !stdout.contains("eval knn"), "{stdout}");
    let recipe = place.read("run/recipe.toml");
    assert!(recipe.contains("/flat\"\n"), "the run does not know where its images are: {recipe}");

    assert_snapshot!(place.nearkin("eval knn run --device cpu").refused(), @"error: [DIR]/flat has no test split: put it into a folder val or test there");
}

#[test]
fn a_queue_larger_than_the_data_is_a_warning() {
    let place = Place::new();
    let said = place.pretrain("tiny.toml --out run --epochs 1 --set queue.size=100");
    let warning = said.stderr.lines().find(|line| line.starts_with("warning: "));
    assert_snapshot!(warning.expect("a warning"), @"warning: queue.size = 100 is not smaller than the 64 training images, so an image meets its own old keys as negatives; a queue of 8 or less avoids that");
    said.done();
}

const CIFAR_BYTES: u64 = 10_000 * 3073;

/// A first file of CIFAR-10 of that length, all zero.
fn cifar(bytes: u64) -> Place {
    let place = Place::new();
    place.write("cifar.toml", tiny_on("cifar10"));
    place.write("cifar-10-batches-bin/data_batch_1.bin", "");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(place.path("cifar-10-batches-bin/data_batch_1.bin"));
    file.and_then(|file| file.set_len(bytes)).expect("a long file");
    place
}

#[test]
fn a_cifar_file_that_is_too_short_is_refused() {
    let message = cifar(CIFAR_BYTES - 1).pretrain("cifar.toml --data . --out run").refused();
    assert_snapshot!(message, @"error: [DIR]/cifar-10-batches-bin/data_batch_1.bin: has 30729999 bytes; 10000 records of 3073 bytes make 30730000; download and unpack CIFAR-10 again");
}

#[test]
fn a_cifar_file_that_is_too_long_is_refused() {
    let message = cifar(CIFAR_BYTES + 3073).pretrain("cifar.toml --data . --out run").refused();
    assert_snapshot!(message, @"error: [DIR]/cifar-10-batches-bin/data_batch_1.bin: has 30733073 bytes; 10000 records of 3073 bytes make 30730000; download and unpack CIFAR-10 again");
}

#[test]
fn a_cifar_label_out_of_range_is_refused() {
    use std::io::{Seek, SeekFrom, Write};
    let place = cifar(CIFAR_BYTES);
    // Labels are looked at once all files are there.
    for batch in 2..=5 {
        let path = place.path(&format!("cifar-10-batches-bin/data_batch_{batch}.bin"));
        fs::File::create(path).and_then(|file| file.set_len(CIFAR_BYTES)).expect("a file");
    }
    let path = place.path("cifar-10-batches-bin/data_batch_1.bin");
    let mut file = fs::OpenOptions::new().write(true).open(path).expect("the file");
    file.seek(SeekFrom::Start(7 * 3073)).and_then(|_| file.write_all(&[10])).expect("a byte");
    assert_snapshot!(place.pretrain("cifar.toml --data . --out run").refused(), @"error: [DIR]/cifar-10-batches-bin/data_batch_1.bin: record 7 has label 10; the labels are 0 to 9; download and unpack CIFAR-10 again");
    assert!(!place.path("run").exists(), "a run was begun without images");
}

#[test]
fn a_folder_without_cifar_is_refused() {
    let place = Place::new();
    place.write("cifar.toml", tiny_on("cifar10"));
    assert_snapshot!(place.pretrain("cifar.toml --data .").refused(), @"error: no images in [DIR]: there is no folder cifar-10-batches-bin or cifar-10-batches-py, no data_batch_1.bin and neither cifar-10-binary.tar.gz nor cifar-10-python.tar.gz in it; download CIFAR-10 in one of its forms");
}

/// Trains on a flat folder in which the image 05 is damaged.
fn with_damaged_image(damage: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let place = Place::new();
    place.write("flat.toml", tiny_on("folder"));
    place.images("flat", 16);
    let image = fs::read(place.path("flat/05.png")).expect("an image");
    place.write("flat/05.png", damage(image));
    let run = "flat.toml --data flat --out run --quiet --set bad_image_limit=0";
    let said = place.pretrain(run).refused();
    assert!(said.contains("run/bad_images.jsonl lists them"), "{said}");
    place.read("run/bad_images.jsonl").trim_end().replace(&place.folder(), "[DIR]")
}

#[test]
fn a_truncated_image_is_named() {
    let message = with_damaged_image(|mut bytes| {
        bytes.truncate(bytes.len() / 2);
        bytes
    });
    assert_snapshot!(message, @r#"{"split":"train","index":5,"image":"[DIR]/flat/05.png","reason":"[DIR]/flat/05.png: cannot decode the image: unexpected end of file"}"#);
}

#[test]
fn a_file_that_is_no_image_is_named() {
    assert_snapshot!(with_damaged_image(|_| b"hello".to_vec()), @r#"{"split":"train","index":5,"image":"[DIR]/flat/05.png","reason":"[DIR]/flat/05.png: the content is not that of a JPEG, PNG, WebP, BMP or TIFF image"}"#);
}

#[test]
fn an_empty_folder_is_refused() {
    let place = Place::new();
    place.write("flat.toml", tiny_on("folder"));
    place.images("empty", 0);
    assert_snapshot!(place.pretrain("flat.toml --data empty").refused(), @"error: no images in [DIR]/empty: looked for bmp, jfif, jpe, jpeg, jpg, png, tif, tiff, webp files and for class folders of them");
}

#[test]
fn a_folder_with_one_image_is_refused() {
    let place = Place::new();
    place.write("flat.toml", tiny_on("folder"));
    place.images("one", 1);
    assert_snapshot!(place.pretrain("flat.toml --data one").refused(), @"error: a step takes 16 images (training.batch_size x training.accumulate_batches), but the training set has 1; make the batch smaller or give more images");
}

#[test]
fn a_batch_larger_than_the_data_is_refused() {
    let said = Place::new().pretrain("tiny.toml --set training.batch_size=65");
    assert_snapshot!(said.refused(), @"error: a step takes 65 images (training.batch_size x training.accumulate_batches), but the training set has 64; make the batch smaller or give more images");
}

#[test]
fn missing_needless_and_wrong_data_are_told_apart() {
    let place = Place::new();
    place.write("flat.toml", tiny_on("folder"));
    assert_snapshot!(place.pretrain("flat.toml").refused(), @"error: dataset folder needs a path: give --data PATH");
    assert_snapshot!(place.pretrain("flat.toml --data nowhere").refused(), @"error: cannot read [DIR]/nowhere: No such file or directory (os error 2)");
    assert_snapshot!(place.pretrain("tiny.toml --data .").refused(), @"error: dataset shapes draws its own images and takes no path: leave out --data");
}

#[test]
fn a_learning_rate_that_is_no_number_is_refused() {
    let place = Place::new();
    place.write("nan.toml", tiny_with("learning_rate = 0.05", "learning_rate = nan"));
    assert_snapshot!(place.pretrain("nan.toml").refused(), @"
    error: nan.toml: TOML parse error at line 31, column 17
       |
    31 | learning_rate = nan
       |                 ^^^
    NaN is not allowed: it must be a finite number above 0
    ");
    let said = place.pretrain("tiny.toml --set optimizer.learning_rate=nan");
    assert_snapshot!(said.refused(), @"error: tiny.toml: optimizer.learning_rate: NaN is not allowed: it must be a finite number above 0");
}

#[test]
fn an_unknown_key_is_refused_with_a_suggestion() {
    let place = Place::new();
    place.write("key.toml", tiny_with("batch_size = 16", "batchsize = 16"));
    assert_snapshot!(place.nearkin("recipe check key.toml").refused(), @"
    error: key.toml: TOML parse error at line 26, column 1
       |
    26 | batchsize = 16
       | ^^^^^^^^^
    unknown field `batchsize`, expected one of `epochs`, `batch_size`, `accumulate_batches`, `micro_batch_size`, `synchronize_batch_norm`, `mixing_blocks`, `precision`, `tf32`, `step`, `maximum_skipped_steps`, `record_every_steps`; did you mean `batch_size`?
    ");
}

#[test]
fn an_unknown_or_wrong_key_of_a_method_is_refused() {
    let place = Place::new();
    let check = |set: &str| place.nearkin(&format!("recipe check tiny.toml --set {set}")).refused();
    assert_snapshot!(check("method.temprature=0.1"), @"error: tiny.toml: [method]: unknown field `temprature`, expected one of `temperature`, `temperature_momentum`, `coefficient`, `variant`, `symmetric`, `global_views`; did you mean `temperature`?");
    assert_snapshot!(check("method.temperature=-0.1"), @"error: tiny.toml: method.temperature = -0.1: a temperature is a number from 1e-6 to 1e6");
}

#[test]
fn an_unknown_method_is_refused() {
    let said = Place::new().nearkin("recipe check tiny.toml --set method.name=scee").refused();
    let (problem, known) = said.split_once("; known are ").expect("a list");
    assert_snapshot!(problem, @r#"error: tiny.toml: there is no method "scee""#);
    let known: Vec<&str> = known.trim().split(", ").collect();
    assert!(["moco", "sce", "simclr"].iter().all(|name| known.contains(name)), "{known:?}");
}

#[test]
fn a_method_without_its_tables_is_refused() {
    let place = Place::new();
    place.write("queue.toml", tiny_with("[queue]\nsize = 16\n", ""));
    assert_snapshot!(place.nearkin("recipe check queue.toml").refused(), @"error: queue.toml: method sce needs a [queue] table");
    place.write("momentum.toml", tiny_with("[momentum_encoder]\nmomentum = 0.9\n", ""));
    assert_snapshot!(place.nearkin("recipe check momentum.toml").refused(), @"error: momentum.toml: method sce needs a [momentum_encoder] table");
    let said = place.nearkin("recipe check tiny.toml --set method.name=simclr");
    assert_snapshot!(said.refused(), @"error: tiny.toml: method simclr has no momentum encoder: remove [momentum_encoder]");
}

#[test]
fn a_recipe_that_is_not_there_is_refused() {
    assert_snapshot!(Place::new().pretrain("nowhere.toml").refused(), @"error: cannot read the recipe nowhere.toml: No such file or directory (os error 2)");
}

#[test]
fn a_run_needs_a_recipe() {
    assert_snapshot!(Place::new().pretrain("").refused(), @"error: give a recipe (for example recipes/demo.toml), or --resume RUN");
}

#[test]
fn numbers_out_of_range_are_refused() {
    let place = Place::new();
    for (arguments, allowed) in [
        ("--epochs 0", "0 is not in 1.."),
        ("--limit-images 0", "0 is not in 1.."),
        ("--threads 0", "write auto or a number from 1 to 65535"),
        ("--workers many", "write auto or a number from 0 to 65535"),
        ("--seed 9223372036854775808", "9223372036854775808 is not in 0..=9223372036854775807"),
    ] {
        let message = place.nearkin(&format!("pretrain tiny.toml {arguments}")).refused();
        assert!(message.contains(allowed), "{message}");
    }
}

#[test]
fn resuming_needs_a_run() {
    let place = Place::new();
    place.images("folder", 1);
    assert_snapshot!(place.pretrain("--resume folder").refused(), @"error: folder holds no run (it has no recipe.toml): give the folder that a run was told to write with `--out`");
    assert_snapshot!(place.pretrain("--resume").refused(), @"error: --resume needs the folder of the run to continue: --resume RUN");
}

#[test]
fn resuming_with_a_changed_recipe_shows_the_difference() {
    let place = Place::new();
    place.write("run/recipe.toml", TINY);
    let said = place.pretrain("--resume run --seed 4 --set schedule.warmup_epochs=1");
    assert_snapshot!(said.refused(), @r"
    error: run was begun with another recipe; a run continues only as it began:
      seed: 0 -> 4
      schedule.warmup_epochs: 0 -> 1
    Leave the changes out, or start a new run with another --out. If recipe.toml in the run folder was changed, delete it: --resume restores it from the newest checkpoint
    ");
    place.write(
        "other.toml",
        tiny_with("[{ random_resized_crop = { size = 16 } }]", "[{ center_crop = { size = 16 } }]"),
    );
    let said = place.pretrain("other.toml --out run --resume");
    assert_snapshot!(said.refused(), @r#"
    error: run was begun with another recipe; a run continues only as it began:
      views[0].transforms[0].random_resized_crop.size: 16 -> (absent)
      views[0].transforms[0].random_resized_crop.scale: [0.08, 1.0] -> (absent)
      views[0].transforms[0].random_resized_crop.ratio: [0.75, 1.3333333333333333] -> (absent)
      views[0].transforms[0].random_resized_crop.interpolation: "bilinear" -> (absent)
      views[0].transforms[0].center_crop.size: (absent) -> 16
    Leave the changes out, or start a new run with another --out. If recipe.toml in the run folder was changed, delete it: --resume restores it from the newest checkpoint
    "#);
}

#[test]
fn evaluating_needs_a_run_with_a_checkpoint() {
    let place = Place::new();
    assert_snapshot!(place.nearkin("eval knn nowhere").refused(), @"error: nowhere holds no run (it has no recipe.toml): give the folder that a run was told to write with `--out`");
    place.write("run/recipe.toml", TINY);
    assert_snapshot!(place.nearkin("eval knn run").refused(), @"error: run has no checkpoint yet");
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    let message = Place::new().nearkin("pretrain tiny.toml --device cuda:99").refused();
    // With a CUDA build of libtorch it counts devices, without one it says how to get it.
    let expected =
        ["cuda was asked for, but the libtorch", "cuda:99 was asked for, but this machine"];
    assert!(expected.iter().any(|words| message.contains(words)), "{message}");
}

#[test]
fn a_device_that_is_nonsense_is_refused() {
    let message = Place::new().nearkin("pretrain tiny.toml --device gpu").refused();
    assert_snapshot!(message, @r#"
    error: invalid value 'gpu' for '--device <DEVICE>': "gpu" is no device: write auto, cpu, cuda or cuda:N

    For more information, try '--help'.
    "#);
}

#[test]
fn a_folder_that_cannot_be_written_is_a_failure() {
    let said = Place::new().pretrain("tiny.toml --out tiny.toml");
    assert_eq!(said.code, Some(1));
    assert_snapshot!(said.stderr, @"error: cannot write tiny.toml: File exists (os error 17)");
}
