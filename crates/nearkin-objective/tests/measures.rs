//! Measures of targets whose values were computed by hand.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use nearkin_objective::{
    AnchorBlock, Candidates, Choice, Labels, Measures, Origin, Shared, Term, evaluate_and_measure,
    unit_rows,
};
use tch::{Kind, Tensor};

fn rows(count: i64) -> Tensor {
    tch::manual_seed(count);
    unit_rows(&Tensor::randn([count, 3], tch::kind::DOUBLE_CPU)).unwrap()
}

/// Anchors with these targets over their own key and a queue of four.
fn against_a_queue(targets: &'static [[f64; 5]]) -> Term<'static> {
    let anchors = targets.len() as i64;
    let shared = vec![Shared { rows: rows(4), origin: Origin::Queue }];
    let candidates = Candidates { own: Some(rows(anchors)), shared };
    let positives = Tensor::zeros([anchors, 1], (Kind::Int64, tch::Device::Cpu));
    let rule =
        Box::new(move |_: &AnchorBlock<'_>| Ok(Choice::against_all(Tensor::from_slice2(targets))));
    Term::new(rows(anchors), candidates, positives, 0.5, rule)
}

/// The queue has two keys of class 0, one of class 1 and one of which nothing is known.
fn labels(of_anchors: &[i64]) -> Labels {
    Labels {
        batch: Tensor::from_slice(of_anchors),
        queue: Some(Tensor::from_slice(&[0_i64, 1, 0, -1])),
        offset: 0,
    }
}

fn measured(term: Term, labels: &Labels) -> Measures {
    evaluate_and_measure(&[term], Some(labels)).unwrap().1
}

fn means(measures: &Measures) -> BTreeMap<&'static str, f64> {
    measures.means().collect()
}

fn close(means: &BTreeMap<&'static str, f64>, expected: &[(&str, f64)]) {
    for (name, expected) in expected {
        let got = means[name];
        assert!((got - expected).abs() < 1e-7, "{name}: {got}, not {expected}");
    }
}

/// Of class 0, with 0.3 of 0.5 on the two keys of its class; of class 1, with 0.05 of 0.1 on its key.
const SOFT: [[f64; 5]; 2] = [[0.5, 0.2, 0.1, 0.1, 0.1], [0.9, 0.02, 0.05, 0.02, 0.01]];

#[test]
fn purity_is_the_share_of_kin_in_what_is_not_on_own_views() {
    let means = means(&measured(against_a_queue(&SOFT), &labels(&[0, 1])));
    close(
        &means,
        &[
            ("positive_mass", 0.7),
            ("kin_mass", 0.175),
            ("kin_purity", 0.35 / 0.6),
            // Two and one of four keys.
            ("kin_chance", 0.375),
            // Of five candidates.
            ("kin_share", 0.3),
        ],
    );
    let formula = means["kin_mass"] / (1.0 - means["positive_mass"]);
    assert!((means["kin_purity"] - formula).abs() < 1e-12);
}

#[test]
fn a_uniform_target_is_as_pure_as_chance() {
    const UNIFORM: [[f64; 5]; 2] = [[0.2; 5]; 2];
    let means = means(&measured(against_a_queue(&UNIFORM), &labels(&[0, 1])));
    close(&means, &[("kin_purity", 0.375), ("kin_chance", 0.375), ("kin_mass", 0.3)]);
}

#[test]
fn a_target_with_nothing_beyond_the_positive_has_no_purity() {
    const ONE_HOT: [[f64; 5]; 2] = [[1.0, 0.0, 0.0, 0.0, 0.0]; 2];
    let means = means(&measured(against_a_queue(&ONE_HOT), &labels(&[0, 1])));
    assert!(!means.contains_key("kin_purity"), "{means:?}");
    close(&means, &[("kin_chance", 0.375), ("kin_mass", 0.0), ("positive_mass", 1.0)]);
}

/// One anchor of two has a target that goes beyond its positive.
#[test]
fn an_anchor_without_weight_beyond_its_positive_does_not_dilute_the_others() {
    const MIXED: [[f64; 5]; 2] = [[1.0, 0.0, 0.0, 0.0, 0.0], [0.5, 0.1, 0.4, 0.0, 0.0]];
    let means = means(&measured(against_a_queue(&MIXED), &labels(&[0, 1])));
    close(&means, &[("kin_purity", 0.8), ("kin_mass", 0.2), ("positive_mass", 0.75)]);
}

#[test]
fn anchors_without_a_label_and_negative_weights_have_no_purity() {
    const NEGATIVE: [[f64; 5]; 1] = [[1.0, 0.2, -0.2, 0.0, 0.0]];
    let half = means(&measured(against_a_queue(&SOFT), &labels(&[-1, 1])));
    close(&half, &[("kin_purity", 0.5), ("kin_chance", 0.25), ("positive_mass", 0.7)]);
    let none = means(&measured(against_a_queue(&SOFT), &labels(&[-1, -1])));
    assert!(!none.contains_key("kin_purity") && !none.contains_key("kin_chance"), "{none:?}");
    let negative = means(&measured(against_a_queue(&NEGATIVE), &labels(&[0])));
    assert!(!negative.contains_key("kin_purity") && negative.contains_key("kin_mass"));
}

/// The views of two images as candidates of each other: of the four, the anchor itself and its
/// positive are own views.
#[test]
fn own_views_are_no_chance() {
    const TARGETS: [[f64; 4]; 2] = [[0.0, 0.3, 0.6, 0.1], [0.2, 0.0, 0.2, 0.6]];
    let term = || {
        let shared = || Shared { rows: rows(2), origin: Origin::Batch };
        let candidates = Candidates { own: None, shared: vec![shared(), shared()] };
        let places = |of: [i64; 2]| Tensor::from_slice(&of).unsqueeze(1);
        let rule =
            Box::new(|_: &AnchorBlock<'_>| Ok(Choice::against_all(Tensor::from_slice2(&TARGETS))));
        let itself = Some(places([0, 1]));
        Term { itself, ..Term::new(rows(2), candidates, places([2, 3]), 0.5, rule) }
    };
    let of = |batch: &[i64]| {
        let labels = Labels { batch: Tensor::from_slice(batch), queue: None, offset: 0 };
        means(&measured(term(), &labels))
    };
    close(&of(&[5, 5]), &[("kin_purity", 1.0), ("kin_chance", 1.0), ("kin_share", 0.5)]);
    close(&of(&[5, 6]), &[("kin_purity", 0.0), ("kin_chance", 0.0), ("kin_share", 0.0)]);
}

/// Every process adds up its own anchors, and the sums are added over processes.
#[test]
fn sums_over_processes_are_those_of_one() {
    const FIRST: [[f64; 5]; 1] = [SOFT[0]];
    const SECOND: [[f64; 5]; 1] = [SOFT[1]];
    let whole = means(&measured(against_a_queue(&SOFT), &labels(&[0, 1])));
    let mut first = measured(against_a_queue(&FIRST), &labels(&[0]));
    let second = measured(against_a_queue(&SECOND), &labels(&[1]));
    let sums: Vec<f64> =
        first.numbers().iter().zip(second.numbers()).map(|(one, other)| one + other).collect();
    first.set_numbers(&sums);
    let together = means(&first);
    for name in ["kin_purity", "kin_chance", "kin_mass", "kin_share", "positive_mass"] {
        assert!((whole[name] - together[name]).abs() < 1e-9, "{name}");
    }
}
