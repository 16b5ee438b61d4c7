//! What must hold for every input.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nearkin_objective::{
    Denominator, Embedding, Encoded, Method, evaluate, from_table, soft_cross_entropy, target,
    unit_rows,
};
use proptest::prelude::*;
use tch::{Kind, Tensor};

fn method(text: &str) -> Box<dyn Method> {
    from_table(&text.parse().unwrap()).unwrap()
}

/// One batch of random unit embeddings and a queue.
fn encoded(seed: i64, batch: i64, queue: i64) -> (Encoded, Tensor) {
    tch::manual_seed(seed);
    let random = |rows| Tensor::randn([rows, 6], tch::kind::DOUBLE_CPU);
    let raw = random(batch).set_requires_grad(true);
    let alone = |rows: Tensor| Embedding { everywhere: rows.shallow_clone(), local: rows };
    let encoded = Encoded {
        online: vec![None, Some(alone(unit_rows(&raw).unwrap()))],
        momentum: vec![Some(alone(unit_rows(&random(batch)).unwrap())), None],
        queue: Some(unit_rows(&random(queue)).unwrap()),
        offset: 0,
    };
    (encoded, raw)
}

fn loss(method: &dyn Method, encoded: &Encoded) -> f64 {
    let loss = evaluate(&method.terms(encoded).unwrap()).unwrap().loss;
    f64::try_from(loss).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn sce_with_coefficient_one_is_moco(seed: i64, batch in 1_i64..6, queue in 1_i64..9) {
        let (encoded, _) = encoded(seed, batch, queue);
        for (variant, candidates) in [("paper", "queue"), ("leaky", "queue"), ("use_keys", "keys_and_queue")] {
            let sce = method(&format!(
                "name = \"sce\"\ntemperature = 0.2\ncoefficient = 1.0\nvariant = \"{variant}\""
            ));
            let moco = method(&format!(
                "name = \"moco\"\ntemperature = 0.2\ncandidates = \"{candidates}\""
            ));
            prop_assert!((loss(&*sce, &encoded) - loss(&*moco, &encoded)).abs() < 1e-12);
        }
    }

    #[test]
    fn sce_targets_are_distributions_and_the_paper_keeps_the_positive_out_of_the_relations(
        seed: i64, batch in 1_i64..6, queue in 1_i64..9, coefficient in 0.0_f64..1.0,
    ) {
        let (encoded, _) = encoded(seed, batch, queue);
        for variant in ["paper", "leaky", "use_keys"] {
            let sce = method(&format!(
                "name = \"sce\"\ncoefficient = {coefficient}\nvariant = \"{variant}\""
            ));
            let target = sce.terms(&encoded).unwrap().remove(0).target;
            let sums = target.sum_dim_intlist([1].as_slice(), false, Kind::Double);
            prop_assert!(sums.allclose(&sums.ones_like(), 1e-12, 1e-12, false));
            let own = target.get(0).double_value(&[0]);
            if variant == "paper" {
                prop_assert!((own - coefficient).abs() < 1e-12);
            } else if variant == "leaky" {
                prop_assert!(own > coefficient);
            }
        }
    }

    #[test]
    fn gradient_rows_sum_to_zero_and_nothing_flows_to_the_excluded(seed: i64, columns in 3_i64..8) {
        tch::manual_seed(seed);
        let logits = Tensor::randn([4, columns], tch::kind::DOUBLE_CPU).set_requires_grad(true);
        let excluded = target::one_hot(&Tensor::from_slice(&[0_i64, 1, 2, 0]), columns, Kind::Bool).unwrap();
        let wanted = target::one_hot(&Tensor::from_slice(&[1_i64, 2, 0, 2]), columns, Kind::Double).unwrap();
        let rows = soft_cross_entropy(&logits, &wanted, &Denominator::Except(excluded.shallow_clone()));
        rows.unwrap().sum(Kind::Double).backward();
        let gradient = logits.grad();
        let sums = gradient.sum_dim_intlist([1].as_slice(), false, Kind::Double);
        prop_assert!(sums.abs().max().double_value(&[]) < 1e-12);
        prop_assert_eq!(gradient.masked_select(&excluded).abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn the_gradient_reaches_queries_only(seed: i64, batch in 2_i64..6) {
        let (encoded, raw) = encoded(seed, batch, 7);
        let terms = method("name = \"sce\"").terms(&encoded).unwrap();
        prop_assert!(!terms[0].target.requires_grad());
        evaluate(&terms).unwrap().loss.backward();
        prop_assert!(raw.grad().defined());
    }
}

#[test]
fn large_logits_neither_overflow_nor_vanish() {
    let logits = Tensor::from_slice2(&[[1000.0_f32, -1000.0, 990.0]]);
    let target = Tensor::from_slice2(&[[1.0_f32, 0.0, 0.0]]);
    let loss = soft_cross_entropy(&logits, &target, &Denominator::All).unwrap();
    assert!((loss.double_value(&[0]) - (1.0 + (-10.0_f64).exp()).ln()).abs() < 1e-4);
}
