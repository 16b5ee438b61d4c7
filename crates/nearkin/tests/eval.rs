//! `nearkin eval` on a tiny run: what each command prints, and what it refuses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::expect_used, reason = "the shared helpers fail by panicking")]

mod support;

use serde_json::Value;
use support::{Place, tiny_on, tiny_with};

/// A place with a finished run called `run`.
fn trained() -> Place {
    let place = Place::new();
    place.pretrain("tiny.toml --out run --quiet --epochs 1").done();
    place
}

fn eval(place: &Place, arguments: &str) -> String {
    place.nearkin(&format!("eval {arguments} --device cpu")).done()
}

fn json(place: &Place, arguments: &str) -> Value {
    serde_json::from_str(&eval(place, &format!("{arguments} --json"))).unwrap()
}

/// Protocols and measures, in order.
fn measured(evaluation: &Value) -> Vec<String> {
    let text = |score: &Value, key: &str| score[key].as_str().unwrap().to_owned();
    let scores = evaluation["scores"].as_array().unwrap();
    scores.iter().map(|score| text(score, "protocol") + ", " + &text(score, "metric")).collect()
}

/// A folder of so many 20 x 20 images of two classes in `train`, and as many in `val`.
fn two_classes(place: &Place, folder: &str) {
    for split in ["train", "val"] {
        for class in ["cat", "dog"] {
            place.images(&format!("{folder}/{split}/{class}"), 10);
        }
    }
}

#[test]
fn knn_takes_lists_of_neighbours_and_temperatures() {
    let place = trained();
    let evaluation = json(&place, "knn run --neighbors 3,9 --temperature 0.07,0.5");
    let expected = [(3, "0.07"), (3, "0.5"), (9, "0.07"), (9, "0.5")].map(|(k, temperature)| {
        let protocol = format!("k-NN k={k} temperature={temperature}");
        [format!("{protocol}, top-1"), format!("{protocol}, top-5")]
    });
    assert_eq!(measured(&evaluation), expected.concat());
    assert_eq!((&evaluation["subject"], &evaluation["step"]), (&"run".into(), &4.into()));
    // One list is combined with what the recipe says, and none is the recipe.
    let one = measured(&json(&place, "knn run --neighbors 2"));
    assert_eq!(one[0], "k-NN k=2 temperature=0.1, top-1");
    assert_eq!(measured(&json(&place, "knn run"))[0], "k-NN k=5 temperature=0.1, top-1");
    let refused = place.nearkin("eval knn run --temperature 0").refused();
    assert!(refused.contains("it must be a finite number above 0"), "{refused}");
}

/// Every test image equals a training image of another class, which alone has a vote of one neighbor.
#[test]
fn knn_counts_no_class_without_a_vote() {
    let place = Place::new();
    place.write("folder.toml", tiny_on("folder").replace("batch_size = 16", "batch_size = 6"));
    place.images("all", 6);
    for class in 0..6 {
        let image = |index: u32| std::fs::read(place.path(&format!("all/{index:02}.png"))).unwrap();
        place.write(&format!("set/train/{class}/a.png"), image(class));
        place.write(&format!("set/val/{class}/a.png"), image((class + 1) % 6));
    }
    place.pretrain("folder.toml --data set --out run --quiet --epochs 1").done();
    let shares = |neighbors: &str| -> Vec<f64> {
        let arguments = format!("knn run --pixels --temperature 0.1 --neighbors {neighbors}");
        let scores = json(&place, &arguments);
        let scores = scores["scores"].as_array().unwrap().iter();
        scores.map(|score| score["value"].as_f64().unwrap()).collect()
    };
    // Top-1 and top-5 of the encoder and of the pixels.
    assert_eq!(shares("1"), [0.0; 4]);
    let all = shares("6");
    assert!(
        all[0] == 0.0 && all[1] >= 4.0 / 6.0 && all[2] == 0.0 && all[3] >= 4.0 / 6.0,
        "{all:?}"
    );
}

/// A file of weights with one value of a tensor replaced.
fn with_value(weights: &[u8], tensor: &str, value: f32) -> Vec<u8> {
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&weights[8..8 + header]).unwrap();
    let begin = tensors[tensor]["data_offsets"][0].as_u64().expect(tensor) as usize + 8 + header;
    let mut changed = weights.to_vec();
    changed[begin..begin + 4].copy_from_slice(&value.to_le_bytes());
    changed
}

#[test]
fn features_that_are_not_finite_end_every_evaluation() {
    let place = trained();
    two_classes(&place, "pets");
    let weights = std::fs::read(place.path("run/checkpoints/step-000000004/model.safetensors"));
    let weights = weights.unwrap();
    for (name, tensor, value) in [
        ("nan", "backbone.conv1.weight", f32::NAN),
        ("infinite", "backbone.bn1.bias", f32::INFINITY),
        ("huge", "backbone.layer4.1.bn2.bias", 1e38),
        ("statistics", "backbone.layer1.0.bn1.running_var", f32::NAN),
    ] {
        place.write(&format!("{name}.safetensors"), with_value(&weights, tensor, value));
        for command in [
            "eval knn WEIGHTS",
            "eval linear WEIGHTS",
            "eval linear WEIGHTS --preset moco-cifar --epochs 1",
            "eval linear WEIGHTS --preset sane-cifar --epochs 1",
            "eval semi WEIGHTS --percent 50 --epochs 1",
            "eval semi WEIGHTS --preset plain --percent 50 --epochs 1",
            "eval transfer WEIGHTS --to pets",
            "eval quality WEIGHTS",
            "eval all WEIGHTS --out all --only quality",
            "eval all WEIGHTS --out all --only knn",
            "embed WEIGHTS --out features.npy",
        ] {
            let command = command.replace("WEIGHTS", &format!("{name}.safetensors"));
            let said = place.nearkin(&format!("{command} --recipe tiny.toml --device cpu"));
            let message = said.stderr.lines().last().unwrap_or_default();
            let begins = message.starts_with(&format!("error: {name}.safetensors: "));
            let reason = "the encoder's features are not finite: it has diverged";
            assert!(begins && message.contains(reason), "{command}: {}", said.stderr);
            assert!(!said.stderr.contains("frame #"), "{command}: {}", said.stderr);
            assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{command}");
            assert!(!place.path("features.npy").exists());
        }
    }
}

/// Weights that no feature depends on may be anything.
#[test]
fn a_projector_that_is_not_finite_harms_no_evaluation_of_the_backbone() {
    let place = trained();
    let weights = place.path("run/checkpoints/step-000000004/model.safetensors");
    let weights = std::fs::read(weights).unwrap();
    let broken = with_value(&weights, "projector.0.weight", f32::NAN);
    place.write("broken.safetensors", broken);
    let evaluation = json(&place, "linear broken.safetensors --recipe tiny.toml --epochs 1");
    assert_eq!(evaluation["scores"], json(&place, "linear run --epochs 1")["scores"]);
    let said = place.nearkin("embed broken.safetensors --recipe tiny.toml --projector --out x.npy");
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("the encoder's features are not finite"), "{}", said.stderr);
}

/// One image has no standard deviation, and cannot be evenly spread.
#[test]
fn a_single_test_image_is_no_collapse() {
    let place = Place::new();
    place.write("one.toml", tiny_with("test_images = 20", "test_images = 1"));
    let said = place.pretrain("one.toml --out run --epochs 1");
    assert!(!said.stderr.contains("collapsed"), "{}", said.stderr);
    let metrics = place.read("run/metrics.jsonl");
    assert!(metrics.contains("\"rank_me\"") && !metrics.contains("feature_deviation"), "{metrics}");
    let said = place.nearkin("eval quality run --json --device cpu");
    assert_eq!(said.stderr, "");
    let quality: Value = serde_json::from_str(&said.done()).unwrap();
    assert_eq!(measured(&quality), ["quality, RankMe", "quality, alignment"]);
    let said = place.nearkin("eval all run --only quality --device cpu");
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
}

/// Training records of the features what `eval quality` finds in the last checkpoint.
#[test]
fn training_records_how_the_features_spread() {
    let place = trained();
    let metrics = place.read("run/metrics.jsonl");
    let records = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let knn: Vec<Value> = records.filter(|record| record["kind"] == "knn").collect();
    assert!(knn.iter().any(|record| record["features"] == "raw pixels"));
    for record in &knn {
        let has = record["rank_me"].is_number() && record["feature_deviation"].is_number();
        assert_eq!(has, record["features"] == "backbone", "{record}");
    }
    let quality = json(&place, "quality run");
    for (place, name) in ["rank_me", "feature_deviation"].into_iter().enumerate() {
        let (now, then) = (&quality["scores"][place]["value"], &knn[knn.len() - 1][name]);
        assert!((now.as_f64().unwrap() - then.as_f64().unwrap()).abs() < 1e-4, "{now} {then}");
    }
}

#[test]
fn linear_and_quality_say_what_they_did() {
    let place = trained();
    let said = eval(&place, "linear run --preset moco-cifar --epochs 1 --seed 3");
    for part in [
        "run, step 4",
        "linear moco-cifar  top-1 %",
        "SGD with momentum 0.9, learning rate 30",
        "1 (the protocol has 100) epochs",
        "seed 3, 64 training and 20 test images",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let cached = json(&place, "linear run --epochs 2");
    assert_eq!(measured(&cached), ["linear cached, top-1", "linear cached, top-5"]);
    let said = eval(&place, "quality run");
    for part in ["RankMe", "standard deviation", "uniformity", "alignment", "20 test images"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let refused = place.nearkin("eval linear run --preset moco").refused();
    assert!(refused.contains("moco-cifar, sce-imagenet, fnc, sane-cifar, cached"), "{refused}");
}

#[test]
fn semi_and_transfer_train_further() {
    let place = trained();
    let said = eval(&place, "semi run --percent 30 --epochs 1");
    assert!(said.contains("semi fnc 30 %") && said.contains("LARS"), "{said}");
    let plain = json(&place, "semi run --preset plain --percent 20,50 --epochs 1");
    assert_eq!(measured(&plain)[2], "semi plain 50 %, top-1");
    two_classes(&place, "pets");
    let said = eval(&place, "transfer run --to pets --fine-tune --epochs 1");
    for part in ["transfer linear pets", "transfer fine-tuned pets", "mean per class %", "L-BFGS"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    place.write("names.txt", "nobody.png\n");
    let refused = place.nearkin("eval semi run --list names.txt --device cpu").refused();
    assert!(refused.contains("names.txt: no training image is called nobody.png"), "{refused}");
    let refused = place.nearkin("eval semi run --percent 0 --device cpu").refused();
    assert!(refused.contains("--percent 0"), "{refused}");
}

#[test]
fn all_of_several_runs_is_one_table() {
    let place = trained();
    place.pretrain("tiny.toml --out other --quiet --epochs 1 --seed 1").done();
    let refused = place.nearkin("eval all run other --device cpu").refused();
    assert!(refused.contains("--out DIR"), "{refused}");
    let said = eval(&place, "all run other --out both --epochs 1 --only quality,knn,linear");
    assert!(said.contains("sd (n-1)") && said.contains("linear cached"), "{said}");
    let both: Value = serde_json::from_str(&place.read("both/evaluation.json")).unwrap();
    let seeds: Vec<&Value> =
        both["evaluations"].as_array().unwrap().iter().map(|one| &one["training_seed"]).collect();
    assert_eq!(seeds, [0, 1]);
    let lines = both["summary"].as_array().unwrap();
    let knn = lines.iter().find(|line| line["protocol"] == "k-NN k=5 temperature=0.1").unwrap();
    let values: Vec<f64> =
        knn["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    let mean = f64::midpoint(values[0], values[1]);
    let deviation = (values[0] - values[1]).abs() / std::f64::consts::SQRT_2;
    assert!((knn["mean"].as_f64().unwrap() - mean).abs() < 1e-9);
    assert!((knn["standard_deviation"].as_f64().unwrap() - deviation).abs() < 1e-9);
    assert!(place.read("both/evaluation.md").contains("| linear cached | top-1 % |"));
    // Each run keeps its own.
    let own: Value = serde_json::from_str(&place.read("other/evaluation.json")).unwrap();
    assert_eq!(own["evaluations"].as_array().unwrap().len(), 1);

    let said = eval(&place, "all run --epochs 1");
    for part in ["semi fnc 1 %", "semi plain 10 %", "RankMe"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(place.read("run/evaluation.md").contains("whole network fine-tuned"));
}

/// The lines of a summary with this protocol and measure.
fn lines<'a>(all: &'a Value, protocol: &str, metric: &str) -> Vec<&'a Value> {
    let lines = all["summary"].as_array().unwrap().iter();
    lines.filter(|line| line["protocol"] == protocol && line["metric"] == metric).collect()
}

#[test]
fn runs_of_different_recipes_are_rows_of_their_own() {
    let place = Place::new();
    for seed in 0..3 {
        let run = |name: &str, change: &str| {
            let folder = format!("{name}{seed}");
            place
                .pretrain(&format!(
                    "tiny.toml --out {folder} --quiet --epochs 1 --seed {seed} {change}"
                ))
                .done();
        };
        run("slow", "");
        // What is recorded and saved makes no other recipe.
        let fast = "--set optimizer.learning_rate=0.5 --set training.record_every_steps=2";
        run("fast", fast);
    }
    place.pretrain("tiny.toml --out warm --quiet --epochs 1 --set method.temperature=0.5").done();
    let runs = "slow0 slow1 slow2 fast0 fast1 fast2 warm";
    let all = json(&place, &format!("all {runs} --out both --only knn"));
    let groups = all["groups"].as_array().unwrap();
    let names: Vec<&str> = groups.iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "method.temperature=0.1, optimizer.learning_rate=0.05",
            "method.temperature=0.1, optimizer.learning_rate=0.5",
            "method.temperature=0.5, optimizer.learning_rate=0.05",
        ]
    );
    assert_eq!(groups[1]["runs"], serde_json::json!(["fast0", "fast1", "fast2"]));
    assert_eq!(groups[1]["seeds"], serde_json::json!([0, 1, 2]));
    assert_eq!(all["evaluations"].as_array().unwrap().len(), 7, "runs are kept");

    let protocol = "k-NN k=5 temperature=0.1";
    let lines = lines(&all, protocol, "top-1");
    let value_of = |run: &str| {
        let own = json(&place, &format!("knn {run}"));
        own["scores"][0]["value"].as_f64().unwrap()
    };
    let values = |name: &str| [0, 1, 2].map(|seed| value_of(&format!("{name}{seed}")));
    let (slow, fast, warm) = (values("slow"), values("fast"), value_of("warm"));
    let mean = |of: [f64; 3]| of.iter().sum::<f64>() / 3.0;
    let number = |value: &Value| value.as_f64().unwrap();
    for (line, expected) in lines.iter().zip([mean(slow), mean(fast), warm]) {
        assert!((number(&line["mean"]) - expected).abs() < 1e-12, "{line}");
    }
    let differences: [f64; 3] = std::array::from_fn(|seed| fast[seed] - slow[seed]);
    let middle = mean(differences);
    let squares: f64 = differences.iter().map(|value| (value - middle).powi(2)).sum();
    // The quantile of Student's t for two degrees of freedom.
    let half = 4.302_652_73 * (squares / 2.0 / 3.0).sqrt();
    let difference = &lines[1]["difference"];
    assert_eq!((&difference["to"], &difference["pairs"]), (&names[0].into(), &3.into()));
    assert!((number(&difference["mean"]) - middle).abs() < 1e-12, "{difference}");
    for (bound, expected) in [(0, middle - half), (1, middle + half)] {
        let got = number(&difference["interval"][bound]);
        assert!((got - expected).abs() < 1e-6, "{difference}: {expected}");
    }
    assert!(lines[0]["difference"].is_null());
    // One pair has a difference and no interval.
    let one = &lines[2]["difference"];
    assert!((number(&one["mean"]) - (warm - slow[0])).abs() < 1e-12, "{one}");
    assert!(one["pairs"] == 1 && one["interval"].is_null(), "{one}");

    let table = eval(&place, &format!("all {runs} --out both --only knn"));
    for part in ["group", "95 % interval", "pairs", names[1], "to method.temperature=0.1, optim"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let page = place.read("both/evaluation.md");
    assert!(page.contains("optimizer.learning_rate 0.05 -> 0.5"), "{page}");
    let refused = place.nearkin("eval all slow0 fast0 ./slow0 --out both").refused();
    assert!(refused.contains("./slow0 is given twice"), "{refused}");
    let refused = place.nearkin("eval all slow0 fast0 --out slow0").refused();
    assert!(refused.contains("--out slow0 is the folder of a run"), "{refused}");
}

#[test]
fn evaluations_add_to_what_is_there() {
    let place = trained();
    let measured_in = |file: &str| -> Vec<(u64, String)> {
        let all: Value = serde_json::from_str(&place.read(file)).unwrap();
        let evaluations = all["evaluations"].as_array().unwrap().iter();
        let own = |one: &Value| {
            let step = one["step"].as_u64().unwrap();
            measured(one).into_iter().map(|name| (step, name)).collect::<Vec<_>>()
        };
        evaluations.flat_map(own).collect()
    };
    let said = |arguments: &str| {
        let said = place.nearkin(&format!("eval all {arguments} --device cpu"));
        let stderr = said.stderr.clone();
        (said.done(), stderr)
    };
    let knn = ["top-1", "top-5"].map(|metric| format!("k-NN k=5 temperature=0.1, {metric}"));
    let at = |step: u64, names: &[String]| -> Vec<(u64, String)> {
        names.iter().map(|name| (step, name.clone())).collect()
    };
    let (first, progress) = said("run --only knn");
    assert_eq!(progress, "run: k-NN\n");
    assert_eq!(measured_in("run/evaluation.json"), at(4, &knn));

    // Another part leaves it in place.
    said("run --only quality");
    let quality = ["RankMe", "standard deviation", "uniformity", "alignment"]
        .map(|metric| format!("quality, {metric}"));
    let both = [at(4, &knn), at(4, &quality)].concat();
    assert_eq!(measured_in("run/evaluation.json"), both);
    assert!(place.read("run/evaluation.md").contains("| k-NN k=5 temperature=0.1 | top-1 % |"));

    // What is known is not computed again, and the table has what was asked for.
    let (again, progress) = said("run --only knn");
    assert_eq!((again, progress.as_str()), (first.clone(), "run: k-NN: known\n"));
    let (again, progress) = said("run --only knn --again");
    assert_eq!((again, progress.as_str()), (first.clone(), "run: k-NN\n"));
    assert_eq!(measured_in("run/evaluation.json"), both);
    // A folder for several runs gets what the run's own folder has.
    let (other, progress) = said("run --only knn --out together");
    assert_eq!((other, progress.as_str()), (first, "run: k-NN: known\n"));
    assert_eq!(measured_in("together/evaluation.json"), at(4, &knn));

    // The same protocol with other options stands beside it.
    let (short, _) = said("run --only linear --epochs 1");
    said("run --only linear --epochs 2");
    let (known, progress) = said("run --only linear --epochs 1");
    assert_eq!((known, progress.as_str()), (short, "run: linear cached: known\n"));
    let linear = measured_in("run/evaluation.json").split_off(both.len());
    assert_eq!(linear.len(), 4, "{linear:?}");
    let page = place.read("run/evaluation.md");
    for settings in ["linear cached, epochs=1", "linear cached, epochs=2"] {
        assert!(page.contains(&format!("| {settings} | top-1 % |")), "{page}");
    }

    // A later checkpoint has results of its own, and none is averaged with those of an earlier one.
    place.pretrain("tiny.toml --out long --quiet").done();
    let text = place.read("run/evaluation.json").replace("\"step\": 4", "\"step\": 2");
    place.write("long/evaluation.json", text);
    let (_, progress) = said("long --only knn");
    assert_eq!(progress, "long: k-NN\n");
    let all: Value = serde_json::from_str(&place.read("long/evaluation.json")).unwrap();
    let steps: Vec<&Value> =
        all["evaluations"].as_array().unwrap().iter().map(|one| &one["step"]).collect();
    assert_eq!(steps, [2, 8]);
    let knn = lines(&all, "k-NN k=5 temperature=0.1", "top-1");
    assert!(knn.len() == 2 && knn.iter().all(|line| line["values"].as_array().unwrap().len() == 1));

    place.write("run/evaluation.json", "{\"evaluations\": 7}");
    let refused = place.nearkin("eval all run --only knn --device cpu").refused();
    assert!(refused.contains("run/evaluation.json: ") && refused.contains("move the file away"));
}

/// The images of the data, or their labels, are others than those that were measured.
#[test]
fn results_on_other_images_are_computed_again() {
    let place = Place::new();
    two_classes(&place, "set");
    place.write("folder.toml", tiny_on("folder"));
    place.pretrain("folder.toml --data set --out run --quiet --epochs 1").done();
    let progress = |arguments: &str| {
        let said = place.nearkin(&format!("eval all run --only knn --device cpu {arguments}"));
        let stderr = said.stderr.clone();
        said.done();
        stderr
    };
    assert_eq!(progress(""), "run: k-NN\n");
    // The same images at another place are the same.
    std::fs::rename(place.path("set"), place.path("moved")).unwrap();
    assert_eq!(progress("--data moved"), "run: k-NN: known\n");
    std::fs::rename(place.path("moved/val/cat/00.png"), place.path("moved/val/dog/cat.png"))
        .unwrap();
    assert_eq!(progress("--data moved"), "run: k-NN\n");
    let all: Value = serde_json::from_str(&place.read("run/evaluation.json")).unwrap();
    assert_eq!(measured(&all["evaluations"][0]).len(), 2, "the new ones take the place of the old");
}

/// What earlier versions wrote: no digests, no settings, a NaN as null.
#[test]
fn results_of_earlier_versions_are_kept() {
    let place = trained();
    let of_now = json(&place, "all run --only knn,quality");
    let scores = of_now["evaluations"][0]["scores"].as_array().unwrap();
    let mut old: Vec<Value> = scores.clone();
    for score in &mut old {
        let score = score.as_object_mut().unwrap();
        score.remove("settings");
        score.remove("inputs");
        score.insert("value".to_owned(), 0.125.into());
    }
    let old = |more: Value| {
        let scores: Vec<Value> = old.iter().cloned().chain([more]).collect();
        let evaluation =
            serde_json::json!({ "subject": "x", "step": 4, "training_seed": 0, "scores": scores });
        serde_json::json!({ "evaluations": [evaluation], "summary": [] }).to_string()
    };
    let linear = serde_json::json!({
        "protocol": "linear cached", "metric": "top-1", "value": 0.5, "unit": "share",
        "definition": "in words of another time",
    });
    place.write("run/evaluation.json", old(linear));
    let said = place.nearkin("eval all run --only knn --device cpu");
    assert_eq!(said.stderr, "run: k-NN\n", "how it was measured is not known");
    said.done();
    let all: Value = serde_json::from_str(&place.read("run/evaluation.json")).unwrap();
    let evaluations = all["evaluations"].as_array().unwrap();
    let kept = evaluations[0]["scores"].as_array().unwrap();
    assert_eq!((evaluations.len(), kept.len()), (1, scores.len() + 1));
    let value = |protocol: &str| {
        let found = kept.iter().find(|score| score["protocol"] == protocol);
        found.unwrap()["value"].as_f64().unwrap()
    };
    // The same definition was measured anew, the others stand.
    assert_eq!((value("quality"), value("linear cached")), (0.125, 0.5));
    let of_knn = |scores: &[Value]| -> Vec<Value> {
        let is_knn = |score: &&Value| score["protocol"].as_str().unwrap().contains('k');
        scores.iter().filter(is_knn).map(|score| score["value"].clone()).collect()
    };
    assert_eq!(of_knn(kept), of_knn(scores));

    let nothing = serde_json::json!({
        "protocol": "quality", "metric": "uniformity", "value": null, "unit": "number",
        "definition": "of a single image",
    });
    place.write("run/evaluation.json", old(nothing));
    eval(&place, "all run --only knn");
    assert!(!place.read("run/evaluation.json").contains("of a single image"));

    let committed = include_str!("../../../results/evaluation-cifar10-small/run/evaluation.json");
    place.write("run/evaluation.json", committed);
    eval(&place, "all run --only knn");
    let all: Value = serde_json::from_str(&place.read("run/evaluation.json")).unwrap();
    assert_eq!(all["evaluations"].as_array().unwrap().len(), 2);
}

#[test]
fn a_file_of_weights_needs_a_recipe_that_fits_it() {
    let place = trained();
    let weights = "run/checkpoints/step-000000004/model.safetensors";
    let refused = place.nearkin(&format!("eval knn {weights}")).refused();
    assert!(refused.contains("say with --recipe FILE"), "{refused}");
    let of_run = json(&place, "knn run");
    let of_file = json(&place, &format!("knn {weights} --recipe tiny.toml"));
    assert_eq!(of_file["scores"], of_run["scores"]);

    place.write("wide.toml", tiny_with("base_width = 4", "base_width = 8"));
    let refused =
        place.nearkin(&format!("eval linear {weights} --recipe wide.toml --device cpu")).refused();
    let expected = "conv1.weight is [4, 3, 3, 3] where the network has [8, 3, 3, 3]";
    assert!(refused.contains(expected), "{refused}");
    assert!(refused.contains("hint: in the recipe's [model], set base_width = 4"), "{refused}");
    place.write("cut.safetensors", &std::fs::read(place.path(weights)).unwrap()[..1000]);
    let refused =
        place.nearkin("eval knn cut.safetensors --recipe tiny.toml --device cpu").refused();
    assert!(refused.contains("cut.safetensors: not a safetensors file, or cut short"), "{refused}");
    let refused = place.nearkin("eval knn run --recipe tiny.toml").refused();
    assert!(refused.contains("leave out --recipe"), "{refused}");
}

/// Every evaluation does without a damaged training image and a damaged test image, which are
/// counted, and listed once.
#[test]
fn damaged_images_count_nowhere() {
    let place = Place::new();
    two_classes(&place, "set");
    place.write("folder.toml", tiny_on("folder"));
    place.pretrain("folder.toml --data set --out run --quiet --epochs 1").done();
    place.write("set/train/cat/03.png", "no image");
    place.write("set/val/dog/05.png", "");
    for (arguments, counts) in [
        ("knn run", "19 training and 19 test images"),
        ("knn run --pixels", "19 training and 19 test images"),
        ("linear run --epochs 2", "19 training and 19 test images"),
        ("linear run --preset moco-cifar --epochs 2", "19 training and 19 test images"),
        ("linear run --preset sane-cifar --epochs 2", "19 training and 19 test images"),
        ("semi run --preset plain --percent 100 --epochs 2", "19 training and 19 test images"),
        ("quality run", "19 test images"),
    ] {
        let evaluation = json(&place, arguments);
        for score in evaluation["scores"].as_array().unwrap() {
            let definition = score["definition"].as_str().unwrap();
            assert!(definition.contains(counts), "{arguments}: {definition}");
        }
        let left_out = if arguments.starts_with("quality") { 1 } else { 2 };
        assert_eq!(evaluation["images_left_out"], left_out, "{arguments}");
    }
    let list = place.read("run/bad_images.jsonl");
    let lines: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{list}");
    let line = |split| lines.iter().find(|line| line["split"] == split).unwrap();
    assert!(line("train")["reason"].as_str().unwrap().contains("train/cat/03.png: "), "{list}");
    assert!(line("test")["image"].as_str().unwrap().ends_with("val/dog/05.png"), "{list}");

    let said = place.nearkin("eval knn run --device cpu");
    let warning = "2 image(s) cannot be read and are left out; run/bad_images.jsonl lists them";
    assert!(said.stderr.contains(warning), "{}", said.stderr);
    assert!(said.done().starts_with("run, step 1\n2 image(s) left out that cannot be read\n"));
    let said = eval(&place, "all run --epochs 1 --only knn,linear,transfer --to set --fine-tune");
    assert!(said.contains("transfer fine-tuned set"), "{said}");
    let page = place.read("run/evaluation.md");
    // The images to transfer to were given by another path.
    assert!(page.contains("seed 0, 4 image(s) left out that cannot be read"), "{page}");
    assert_eq!(page.matches("19 training and 19 test images").count(), 8, "{page}");

    // Without a run there is no folder to list them in.
    let weights =
        "run/checkpoints/step-000000001/model.safetensors --recipe folder.toml --data set";
    let said = place.nearkin(&format!("eval linear {weights} --epochs 1 --device cpu"));
    assert!(
        said.stderr.contains("2 image(s) cannot be read and are left out; "),
        "{}",
        said.stderr
    );
    for image in ["train/cat/03.png: ", "val/dog/05.png: "] {
        assert!(said.stderr.contains(image), "{}", said.stderr);
    }
    assert!(said.done().contains("2 image(s) left out that cannot be read\n"));
    assert!(!place.path("bad_images.jsonl").exists());

    for command in ["knn run", "linear run --epochs 1", "semi run --percent 100", "quality run"] {
        let strict = format!("eval {command} --bad-image-limit 0 --device cpu");
        let refused = place.nearkin(&strict).refused();
        assert!(
            refused.contains("bad_image_limit = 0 allows 0; run/bad_images.jsonl"),
            "{refused}"
        );
    }
    let refused = place.nearkin(&format!("eval knn {weights} --bad-image-limit 0")).refused();
    assert!(refused.contains("allows 0; the first: "), "{refused}");
}

/// A small VOC2007: a red disc is a sun, a blue one a lake, and some images show both.
fn voc(place: &Place, folder: &str) {
    let lists = format!("{folder}/ImageSets/Main");
    std::fs::create_dir_all(place.path(&format!("{folder}/JPEGImages"))).unwrap();
    let mut trainval = [String::new(), String::new(), String::new()];
    for (split, images) in [("train", 0..12), ("val", 12..24), ("test", 24..40)] {
        let mut all = [String::new(), String::new(), String::new()];
        for number in images {
            let (sun, lake) = (number % 2 == 0, number % 3 == 0);
            let image = image::RgbImage::from_fn(24, 24, |x, y| {
                let near = |a: u32, b: u32| a.abs_diff(x).pow(2) + b.abs_diff(y).pow(2) < 30;
                match (sun && near(6, 6 + number % 5), lake && near(16, 15 - number % 4)) {
                    (true, _) => image::Rgb([250, 20, 10]),
                    (_, true) => image::Rgb([10, 20, 250]),
                    _ => image::Rgb([120, 130 + number as u8, 110]),
                }
            });
            image.save(place.path(&format!("{folder}/JPEGImages/{number:06}.jpg"))).unwrap();
            // One sun is hard to recognise, and one is said to be where none is: nobody finds that
            // before all others, so no average precision is 1.
            let sun = match number {
                25 => 1,
                30 => 0,
                _ => i32::from(sun) * 2 - 1,
            };
            let said =
                [String::new(), format!(" {sun:2}"), format!(" {:2}", i32::from(lake) * 2 - 1)];
            for (text, said) in all.iter_mut().zip(said) {
                text.extend([format!("{number:06}"), said, "\n".to_owned()]);
            }
        }
        for ((name, text), both) in ["", "sun_", "lake_"].into_iter().zip(all).zip(&mut trainval) {
            place.write(&format!("{lists}/{name}{split}.txt"), &text);
            if split != "test" {
                *both += &text;
            }
        }
    }
    for (name, text) in ["", "sun_", "lake_"].into_iter().zip(trainval) {
        place.write(&format!("{lists}/{name}trainval.txt"), text);
    }
}

#[test]
fn transfer_to_voc_is_mean_average_precision() {
    let place = trained();
    voc(&place, "VOCdevkit/VOC2007");
    let evaluation = json(&place, "transfer run --to VOCdevkit/VOC2007");
    assert_eq!(measured(&evaluation), ["transfer linear VOC2007, mAP, 11-point"]);
    let score = &evaluation["scores"][0];
    let definition = score["definition"].as_str().unwrap();
    for part in [
        "each class against the rest",
        "11-point average precision, mean over 2 classes",
        "chosen among 45 on 12 images of the validation part",
        "24 training and 16 test images",
    ] {
        assert!(definition.contains(part), "{part}: {definition}");
    }
    // Colours are told apart even by a tiny network; by chance a class has its share of the images.
    assert!(score["value"].as_f64().unwrap() > 0.7, "{score}");
    let area = json(&place, "transfer run --to VOCdevkit --average-precision area");
    assert_eq!(measured(&area), ["transfer linear VOCdevkit, mAP, area"]);
    assert_ne!(area["scores"][0]["value"], score["value"]);

    // The same images from a list, where nothing says what to choose on.
    let line = |number: u32| {
        let present = [(number.is_multiple_of(2), "sun"), (number.is_multiple_of(3), "lake")];
        let present: Vec<&str> = present.into_iter().filter(|one| one.0).map(|one| one.1).collect();
        let shown = if present.is_empty() { "|".to_owned() } else { present.join("|") };
        format!("../VOCdevkit/VOC2007/JPEGImages/{number:06}.jpg,{shown}\n")
    };
    place.write("lists/train.csv", (0..24).map(line).collect::<String>());
    place.write("lists/test.csv", (24..40).map(line).collect::<String>());
    let said = eval(&place, "transfer run --to lists");
    assert!(said.contains("on 2 held-out training images"), "{said}");
    assert!(said.contains("transfer linear lists  mAP, 11-point %"), "{said}");

    // A damaged image counts for no class.
    place.write("VOCdevkit/VOC2007/JPEGImages/000031.jpg", "no image");
    let evaluation = json(&place, "transfer run --to VOCdevkit/VOC2007");
    assert_eq!(evaluation["images_left_out"], 1);
    let definition = evaluation["scores"][0]["definition"].as_str().unwrap();
    assert!(definition.contains("24 training and 15 test images"), "{definition}");
    assert!(place.read("run/bad_images.jsonl").contains("000031.jpg"));

    let refused = place.nearkin("eval transfer run --to lists --fine-tune --device cpu").refused();
    assert!(refused.contains("lists has several labels per image"), "{refused}");
    assert!(refused.contains("leave out --fine-tune"), "{refused}");
    let refused = place.nearkin("eval transfer run --to lists --average-precision voc").refused();
    assert!(refused.contains("write 11-point or area"), "{refused}");
}

#[test]
fn several_labels_per_image_are_refused_where_one_is_compared() {
    let place = Place::new();
    voc(&place, "VOC2007");
    place.write("voc.toml", tiny_on("voc"));
    place.pretrain("voc.toml --data VOC2007 --out run --quiet --epochs 1").done();
    for command in ["knn run", "linear run", "linear run --preset moco-cifar", "semi run"] {
        let refused = place.nearkin(&format!("eval {command} --device cpu")).refused();
        for part in ["the training set has several labels per image", "nearkin eval transfer --to"]
        {
            assert!(refused.contains(part), "{command}: {refused}");
        }
    }
    let said = place.nearkin("eval all run --to VOC2007 --epochs 1 --device cpu");
    assert!(said.stderr.contains("several labels each"), "{}", said.stderr);
    let table = said.done();
    assert!(table.contains("RankMe") && table.contains("mAP, 11-point %"), "{table}");
    assert!(!table.contains("k-NN"), "{table}");
    let said = place.nearkin("data pack VOC2007 all.packed");
    assert!(said.stderr.contains("which a packed file does not keep"), "{}", said.stderr);
}

#[test]
fn data_that_does_not_fit_is_refused() {
    let place = trained();
    place.images("flat", 4);
    let refused = place.nearkin("eval transfer run --to flat --device cpu").refused();
    assert!(refused.contains("has no test split"), "{refused}");
    two_classes(&place, "uneven");
    place.images("uneven/val/fox", 2);
    let refused = place.nearkin("eval transfer run --to uneven --device cpu").refused();
    assert!(refused.contains("fox: is a class that uneven/train does not have"), "{refused}");
    place.images("unlabelled/train", 8);
    place.images("unlabelled/val", 8);
    let refused = place.nearkin("eval transfer run --to unlabelled --device cpu").refused();
    assert!(refused.contains("the training set has no labels"), "{refused}");
    // Without labels the measures that need none are left.
    place.write("folder.toml", tiny_on("folder"));
    let said = place.nearkin(
        "eval all run/checkpoints/step-000000004/model.safetensors --recipe folder.toml \
         --data unlabelled --out alone --device cpu",
    );
    assert!(said.stderr.contains("nothing else is measured"), "{}", said.stderr);
    let table = said.done();
    assert!(table.contains("RankMe") && !table.contains("k-NN"), "{table}");
}
