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
    let expected = "backbone.conv1.weight has shape [4, 3, 3, 3] where [8, 3, 3, 3] is expected";
    assert!(refused.contains(expected), "{refused}");
    place.write("cut.safetensors", &std::fs::read(place.path(weights)).unwrap()[..1000]);
    let refused =
        place.nearkin("eval knn cut.safetensors --recipe tiny.toml --device cpu").refused();
    assert!(refused.contains("cut.safetensors: not a safetensors file, or cut short"), "{refused}");
    let refused = place.nearkin("eval knn run --recipe tiny.toml").refused();
    assert!(refused.contains("leave out --recipe"), "{refused}");
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
