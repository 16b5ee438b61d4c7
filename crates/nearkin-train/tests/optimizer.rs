//! The optimisers against torch (`scripts/fixtures/optimizer.py` made the expected values) and LARS
//! against values that were computed independently; and what resuming needs of all of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nearkin_model::Parameters;
use nearkin_train::{Optimizer, load_tensors, save_tensors};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// The `[optimizer]` tables that are told apart by what they remember.
const TABLES: [&str; 5] = [
    "name = \"sgd\"\nweight_decay = 0.1",
    "name = \"sgd\"\nnesterov = true",
    "name = \"lars\"\nweight_decay = 0.1",
    "name = \"lars\"\nmomentum_form = \"learning_rate_inside\"",
    "name = \"adamw\"\nweight_decay = 0.1",
];

fn read(file: &str) -> Value {
    let path = format!("{}/tests/{file}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

/// Nested lists, all of one length within a level, as a tensor.
fn tensor(value: &Value) -> Tensor {
    let mut shape = Vec::new();
    let mut level = value;
    while let Value::Array(items) = level {
        shape.push(items.len() as i64);
        level = &items[0];
    }
    Tensor::from_slice(&numbers(value)).reshape(shape)
}

/// A matrix and a vector under an optimiser.
struct Pair {
    matrix: Tensor,
    vector: Tensor,
    optimizer: Optimizer,
}

impl Pair {
    fn new(matrix: &Tensor, vector: &Tensor, kind: Kind, table: &str) -> Self {
        let mut parameters = Parameters::default();
        let mut root = parameters.root(Device::Cpu, kind);
        let matrix = root.parameter("matrix", matrix).unwrap();
        let vector = root.parameter("vector", vector).unwrap();
        let options = toml::from_str(&format!("learning_rate = 0.1\n{table}")).unwrap();
        Self { matrix, vector, optimizer: Optimizer::new(&parameters, &options).unwrap() }
    }

    /// A step along given gradients.
    fn step(&mut self, matrix: &Tensor, vector: &Tensor, learning_rate: f64) {
        self.optimizer.zero_gradients();
        let loss = (&self.matrix * matrix).sum(Kind::Double);
        (loss + (&self.vector * vector).sum(Kind::Double)).backward();
        self.optimizer.step(learning_rate).unwrap();
    }

    #[track_caller]
    fn check(&self, expected: &Value, bound: f64, what: &str) {
        for (key, got) in [("matrix", &self.matrix), ("vector", &self.vector)] {
            let error = (got.detach() - tensor(&expected[key])).abs().max();
            let error = f64::try_from(error).unwrap();
            assert!(error < bound, "{what} {key}: off by {error:e}");
        }
    }
}

#[test]
fn sgd_and_adamw_make_the_steps_of_torch() {
    let fixture = read("fixtures/optimizer");
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let table: toml::Table = serde_json::from_value(case["optimizer"].clone()).unwrap();
        let (matrix, vector) = (tensor(&fixture["matrix"]), tensor(&fixture["vector"]));
        let mut pair = Pair::new(&matrix, &vector, Kind::Double, &table.to_string());
        let steps = fixture["steps"].as_array().unwrap();
        for (step, after) in steps.iter().zip(case["after"].as_array().unwrap()) {
            let rate = step["learning_rate"].as_f64().unwrap();
            pair.step(&tensor(&step["matrix"]), &tensor(&step["vector"]), rate);
            pair.check(after, 1e-12, &table.to_string());
        }
    }
}

#[test]
fn both_forms_of_lars_make_the_published_steps() {
    let oracle = read("oracles/lars");
    let cases = oracle["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let (inputs, form) = (&case["inputs"], &case["name"]);
        let mut table: toml::Table = serde_json::from_value(case["params"].clone()).unwrap();
        table.insert("name".to_owned(), "lars".into());
        table.insert("momentum_form".to_owned(), form.as_str().unwrap().into());
        let (matrix, vector) = (tensor(&inputs["matrix"]), tensor(&inputs["vector"]));
        let mut pair = Pair::new(&matrix, &vector, Kind::Double, &table.to_string());
        for step in 0..2 {
            let [matrix, vector] =
                ["matrix_gradients", "vector_gradients"].map(|key| tensor(&inputs[key][step]));
            pair.step(&matrix, &vector, inputs["learning_rates"][step].as_f64().unwrap());
        }
        pair.check(&case["expected"], 1e-12, &form.to_string());
    }
}

#[test]
fn lars_takes_the_gradient_as_it_is_where_a_norm_is_zero() {
    let (zeros, ones) = ([0.0, 0.0], [1.0, 1.0]);
    let unmoved = Tensor::zeros([1], tch::kind::DOUBLE_CPU);
    for form in ["outside", "inside"] {
        let table = format!("name = \"lars\"\nmomentum_form = \"learning_rate_{form}\"");
        for (weights, gradient, expected) in
            [(zeros, ones, [-0.5, -0.5]), (ones, zeros, ones), (zeros, zeros, zeros)]
        {
            let matrix = Tensor::from_slice2(&[weights]);
            let mut pair = Pair::new(&matrix, &unmoved, Kind::Double, &table);
            pair.step(&Tensor::from_slice2(&[gradient]), &unmoved, 0.5);
            assert_eq!(pair.matrix.detach(), Tensor::from_slice2(&[expected]), "{form}");
        }
    }
}

#[test]
fn lars_decays_vectors_only_if_told_to() {
    let zeros = |shape: &[i64]| Tensor::zeros(shape, tch::kind::DOUBLE_CPU);
    for (more, expected) in [("", 2.0), ("exclude_bias_and_norm = false", 2.0 - 0.5 * 0.1 * 2.0)] {
        let table = format!("name = \"lars\"\nweight_decay = 0.1\n{more}");
        let vector = Tensor::from_slice(&[2.0]);
        let mut pair = Pair::new(&zeros(&[1, 1]), &vector, Kind::Double, &table);
        pair.step(&zeros(&[1, 1]), &zeros(&[1]), 0.5);
        let got = pair.vector.double_value(&[0]);
        assert!((got - expected).abs() < 1e-15, "{got} is not {expected}");
    }
}

#[test]
fn a_restored_optimiser_goes_on_bit_by_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimizer.safetensors");
    for table in TABLES {
        tch::manual_seed(1);
        let random = || {
            let shapes = [vec![3, 4], vec![5]];
            shapes.map(|shape| Tensor::randn(shape, tch::kind::FLOAT_CPU))
        };
        let [matrix, vector] = random();
        let mut through = Pair::new(&matrix, &vector, Kind::Float, table);
        for rate in [0.1, 0.2, 0.3] {
            let [matrix, vector] = random();
            through.step(&matrix, &vector, rate);
        }
        save_tensors(&path, through.optimizer.state()).unwrap();

        let mut resumed = Pair::new(&through.matrix, &through.vector, Kind::Float, table);
        let mut fresh = Pair::new(&through.matrix, &through.vector, Kind::Float, table);
        let mut saved = load_tensors(&path).unwrap();
        for (name, mut tensor) in resumed.optimizer.state() {
            tensor.copy_(&saved.remove(&name).unwrap());
        }
        assert!(saved.is_empty(), "{saved:?}");
        for rate in [0.2, 0.1] {
            let [matrix, vector] = random();
            for pair in [&mut through, &mut resumed, &mut fresh] {
                pair.step(&matrix, &vector, rate);
            }
            for (through, resumed) in through.optimizer.state().zip(resumed.optimizer.state()) {
                assert_eq!(through, resumed, "{table}");
            }
            assert_eq!(through.matrix, resumed.matrix, "{table}");
            assert_eq!(through.vector, resumed.vector, "{table}");
        }
        assert_ne!(through.matrix, fresh.matrix, "{table}");
    }
}

#[test]
fn the_names_of_the_state_are_those_of_checkpoints() {
    let names = |table: &str| -> Vec<String> {
        let (matrix, vector) = (Tensor::from_slice2(&[[1.0]]), Tensor::from_slice(&[1.0]));
        let pair = Pair::new(&matrix, &vector, Kind::Float, table);
        pair.optimizer.state().map(|(name, _)| name).collect()
    };
    for name in ["sgd", "lars"] {
        assert_eq!(names(&format!("name = \"{name}\"")), ["matrix", "vector"]);
    }
    assert_eq!(
        names("name = \"adamw\""),
        [
            "matrix.mean",
            "matrix.mean_square",
            "matrix.steps",
            "vector.mean",
            "vector.mean_square",
            "vector.steps",
        ]
    );
}

#[test]
fn a_parameter_without_a_gradient_is_left_alone() {
    // Vectors treated as matrices are, and otherwise: then none of theirs has a gradient.
    let apart = TABLES.map(|table| format!("{table}\nexclude_bias_and_norm = true"));
    for table in TABLES.into_iter().chain(apart.iter().map(String::as_str)) {
        let (matrix, vector) = (Tensor::from_slice2(&[[1.0, 2.0]]), Tensor::from_slice(&[3.0]));
        let mut pair = Pair::new(&matrix, &vector, Kind::Double, table);
        pair.matrix.square().sum(Kind::Double).backward();
        pair.optimizer.step(0.1).unwrap();
        assert_eq!(
            pair.optimizer.gradients().map(|(name, _)| name).collect::<Vec<_>>(),
            ["matrix"]
        );
        assert_ne!(pair.matrix.detach(), matrix, "{table}");
        assert_eq!(pair.vector.detach(), vector, "{table}");
        let of_vector = pair.optimizer.state().filter(|(name, _)| name.starts_with("vector"));
        of_vector.for_each(|(name, state)| {
            assert_eq!(state.abs().sum(None).double_value(&[]), 0.0, "{name}");
        });
    }
}

#[test]
fn memory_layouts_of_convolutions_change_nothing() {
    for table in TABLES {
        tch::manual_seed(2);
        let weights = Tensor::randn([4, 3, 2, 2], tch::kind::DOUBLE_CPU);
        let gradient = Tensor::randn([4, 3, 2, 2], tch::kind::DOUBLE_CPU);
        let vector = Tensor::ones([2], tch::kind::DOUBLE_CPU);
        let last = weights.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        assert_ne!(last.stride(), weights.stride());
        let after = [weights, last].map(|weights| {
            let mut pair = Pair::new(&weights, &vector, Kind::Double, table);
            pair.step(&gradient, &vector, 0.1);
            pair.step(&gradient, &vector, 0.1);
            pair.matrix
        });
        assert!(after[0].allclose(&after[1], 1e-12, 0.0, false), "{table}");
    }
}
