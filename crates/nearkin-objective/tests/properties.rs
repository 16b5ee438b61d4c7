//! What must hold for every input: the formula against its definition, methods against one another
//! and against their papers' equations written as loops.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{Draws, Images, Needs, Place, Sizes, all, difference, kept, loss, method, views};
use nearkin_objective::refinery::{Predictions, refine};
use nearkin_objective::selection::Selection;
use nearkin_objective::{
    Choice, Denominator, Estimated, Labels, Method, Origin, Term, evaluate_and_measure, methods,
    soft_cross_entropy, target,
};
use proptest::prelude::*;
use tch::{Kind, Tensor};

/// One of the numbers of views that a method takes.
fn any_views(method: &dyn Method, seed: u64) -> usize {
    let views = views(method);
    views[(seed % views.len() as u64) as usize]
}

/// Sums over the last dimension, without it.
fn sums(matrix: &Tensor) -> Tensor {
    matrix.sum_dim_intlist([-1].as_slice(), false, Kind::Double)
}

fn matrix(tensor: &Tensor) -> Vec<Vec<f64>> {
    Vec::try_from(tensor.to_kind(Kind::Double)).unwrap()
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

/// A term's logits as one matrix, with gradient.
fn logits(term: &Term<'_>) -> Tensor {
    let own = term.candidates.own.iter().map(|own| sums(&(&term.anchors * own)).unsqueeze(1));
    let shared = term.candidates.shared.iter().map(|shared| term.anchors.mm(&shared.rows.tr()));
    Tensor::cat(&own.chain(shared).collect::<Vec<_>>(), 1) / term.temperature
}

/// What is chosen for the anchors of these indices.
fn at(choice: &Choice, index: &Tensor) -> Choice {
    let of = |tensor: &Tensor| tensor.index_select(0, index);
    let denominator = match &choice.denominator {
        Denominator::All => Denominator::All,
        Denominator::Except(excluded) => Denominator::Except(of(excluded)),
        Denominator::Constant { logarithm } => Denominator::Constant { logarithm: *logarithm },
        Denominator::Estimated(estimated) => Denominator::Estimated(Estimated {
            no_negatives: of(&estimated.no_negatives),
            positive: of(&estimated.positive),
            ..*estimated
        }),
    };
    let value = choice.value.as_ref().map(of);
    Choice { value, ..Choice::new(of(&choice.target), denominator) }
}

/// The loss of the terms by the definition and automatic differentiation.
fn defined(terms: &[Term<'_>]) -> Tensor {
    let mut total = Tensor::zeros([], tch::kind::DOUBLE_CPU);
    for term in terms {
        let (logits, choice) = (logits(term), term.choice().unwrap());
        let of = |choice: &Choice| {
            let rows = soft_cross_entropy(&logits, &choice.target, &choice.denominator).unwrap();
            match &choice.value {
                Some(value) => &rows + (value - &rows).detach(),
                None => rows,
            }
        };
        let rows = match &term.mixture {
            None => of(&choice),
            Some(mixture) => {
                let partner = of(&at(&choice, &mixture.partner));
                &mixture.share * of(&choice) + (1.0 - &mixture.share) * partner
            }
        };
        total += rows.mean(Kind::Double) * term.weight;
    }
    total
}

/// How far two losses and their gradients are from one another.
fn apart(images: &Images, one: &Tensor, other: &Tensor) -> f64 {
    let loss = difference(one, other);
    loss.max(difference(&images.gradient(one), &images.gradient(other)))
}

/// The same for two methods of the same views.
fn methods_apart(images: &Images, one: &dyn Method, other: &dyn Method, views: usize) -> f64 {
    let needs = Needs::of(&[one, other], views);
    let loss_of = |method: &dyn Method| {
        loss(&method.terms(kept(images.encoded(&needs, images.whole))).unwrap())
    };
    apart(images, &loss_of(one), &loss_of(other))
}

/// Mean loss of InfoNCE with one-hot targets on the first candidate.
fn info_nce(logits: &Tensor) -> Tensor {
    -logits.log_softmax(1, None::<Kind>).narrow(1, 0, 1).mean(Kind::Double)
}

/// Tables of methods of two views that are the same, each to be completed.
const SAME: &[(&str, &str)] = &[
    ("name = \"sce\"\ncoefficient = 1.0", "name = \"moco\""),
    (
        "name = \"sce\"\ncoefficient = 1.0\nvariant = \"leaky\"\nsymmetric = true",
        "name = \"moco\"\nsymmetric = true",
    ),
    (
        "name = \"sce\"\ncoefficient = 1.0\nvariant = \"use_keys\"",
        "name = \"moco\"\ncandidates = \"keys_and_queue\"",
    ),
    (
        "name = \"sane\"\nmixup = \"none\"\nstrength = 0.0\ncoefficient = COEFFICIENT",
        "name = \"moco\"\ncandidates = \"keys_and_queue\"",
    ),
    (
        "name = \"sane\"\nmixup = \"none\"\npredictions = \"neither\"\nstrength = 4.0",
        "name = \"moco\"\ncandidates = \"keys_and_queue\"",
    ),
    (
        "name = \"sane\"\nmixup = \"vanilla\"\nstrength = 0.0\ncoefficient = COEFFICIENT",
        "name = \"imix\"\ntemperature_mixed = TEMPERATURE\ncoefficient = COEFFICIENT",
    ),
    ("name = \"imix\"\ncoefficient = 0.0", "name = \"moco\"\ncandidates = \"keys_and_queue\""),
    ("name = \"ascl\"\nstrength = 0.0", "name = \"moco\""),
    ("name = \"co2\"\nweight = 0.0", "name = \"moco\""),
    ("name = \"debiased\"\nclass_prior = 0.0", "name = \"simclr\""),
    (
        "name = \"hcl\"\nclass_prior = PRIOR\nconcentration = 0.0",
        "name = \"debiased\"\nclass_prior = PRIOR",
    ),
    (
        "name = \"fnc\"\nsupport_views = 0\nfalse_negatives = \"attract\"\nthreshold = 1.5",
        "name = \"simclr\"",
    ),
    (
        "name = \"fnc\"\nsupport_views = 0\nfalse_negatives = \"eliminate\"\nthreshold = 1.5",
        "name = \"simclr\"",
    ),
    (
        "name = \"fnc\"\nsupport_views = 0\nfalse_negatives = \"attract_and_eliminate\"\nthreshold = 1.5",
        "name = \"simclr\"",
    ),
    ("name = \"fnc\"\nsupport_views = 0\nfalse_negatives = \"keep\"", "name = \"simclr\""),
    ("name = \"fnc\"\nsupport_views = 0\nselection = \"labels\"", "name = \"supcon\""),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn evaluation_gives_the_definition_and_its_gradient(
        seed: u64, batch in 1_i64..6, queue in 1_i64..9, offset in 0_i64..6,
    ) {
        let images = Images::draw(seed, Sizes::new(batch, queue));
        let offset = offset % batch;
        let place = if seed % 2 == 0 { images.whole } else { Place { offset, count: 1 } };
        for (table, method) in all() {
            let views = any_views(&*method, seed);
            let mut encoded = images.encoded(&Needs::of(&[&*method], views), place);
            if place.count == 1 {
                for mixed in &mut encoded.mixed {
                    mixed.partner = mixed.partner.zeros_like();
                }
            }
            let terms = method.terms(&encoded).unwrap();
            let apart = apart(&images, &loss(&terms), &defined(&terms));
            prop_assert!(apart < 1e-9, "{table} {views}: {apart}");
        }
    }

    #[test]
    fn two_processes_make_the_step_of_one(seed: u64, half in 1_i64..4, queue in 1_i64..9) {
        let images = Images::draw(seed, Sizes::new(2 * half, queue));
        for (table, method) in all() {
            let views = any_views(&*method, seed);
            let needs = Needs::of(&[&*method], views);
            let whole = loss(&images.terms(&*method, views));
            let parts = [0, half].map(|offset| {
                let encoded = images.encoded(&needs, Place { offset, count: half });
                loss(&method.terms(&encoded).unwrap())
            });
            let apart = apart(&images, &whole, &((&parts[0] + &parts[1]) / 2.0));
            prop_assert!(apart < 1e-9, "{table} {views}: {apart}");
        }
    }

    #[test]
    fn a_method_is_the_combination_that_its_card_shows(
        seed: u64, batch in 2_i64..6, queue in 1_i64..9,
    ) {
        let images = Images::draw(seed, Sizes::new(batch, queue));
        for entry in methods() {
            let Some(combination) = entry.card().combination else { continue };
            let name = entry.name;
            let named = method(&format!("name = \"{name}\""));
            let combination = method(&format!("name = \"combination\"\n{combination}"));
            // Of further views a method may make further mixtures, which a combination does not.
            let possible = views(&*named);
            let alike: Vec<usize> = possible.iter().copied().filter(|&views| {
                let (named, other) = (named.requirements(views), combination.requirements(views));
                named.is_ok_and(|named| Ok(named) == other)
            }).collect();
            prop_assert_eq!(alike.first(), possible.first(), "{}", name);
            let views = alike[(seed % alike.len() as u64) as usize];
            let apart = methods_apart(&images, &*named, &*combination, views);
            prop_assert!(apart < 1e-12, "{name} {views}: {apart}");
        }
    }

    #[test]
    fn targets_are_distributions(seed: u64, batch in 2_i64..6, queue in 1_i64..9) {
        let images = Images::draw(seed, Sizes::new(batch, queue));
        for (table, method) in all() {
            // The target of KL(P || R) is P log(R / P), which no distribution is.
            if table == "name = \"co2\"" {
                continue;
            }
            for term in images.terms(&*method, views(&*method)[0]) {
                let target = term.choice().unwrap().target;
                prop_assert!(!target.requires_grad(), "{table}");
                prop_assert!(target.min().double_value(&[]) >= 0.0, "{table}");
                let sums = sums(&target);
                prop_assert!(difference(&sums, &sums.ones_like()) < 1e-12, "{table}: {sums:?}");
            }
        }
    }

    #[test]
    fn the_gradient_reaches_neither_the_momentum_encoder_nor_the_queue(
        seed: u64, batch in 2_i64..5, queue in 2_i64..6,
    ) {
        let images = Images::draw(seed, Sizes::new(batch, queue));
        for (table, method) in all() {
            let loss = loss(&images.terms(&*method, views(&*method)[0]));
            // Where all other images leave the denominator, there is nothing to learn.
            let largest = images.gradient(&loss).abs().max().double_value(&[]);
            prop_assert!(largest > 0.0 || loss.double_value(&[]).abs() < 1e-12, "{table}");
            let stray = images.stray_gradient(&loss);
            prop_assert_eq!(stray.abs().max().double_value(&[]), 0.0, "{}", table);
        }
    }

    #[test]
    fn the_gradient_adds_up_to_nothing_and_leaves_the_excluded_alone(
        seed: u64, batch in 2_i64..6, queue in 1_i64..9,
    ) {
        let images = Images::draw(seed, Sizes::new(batch, queue));
        for (table, method) in all() {
            for term in images.terms(&*method, views(&*method)[0]) {
                let choice = term.choice().unwrap();
                let excluded = match &choice.denominator {
                    Denominator::All => choice.target.zeros_like().to_kind(Kind::Bool),
                    Denominator::Except(excluded) => excluded.shallow_clone(),
                    Denominator::Constant { .. } | Denominator::Estimated(_) => continue,
                };
                let leaf = logits(&term).detach().set_requires_grad(true);
                let rows = soft_cross_entropy(&leaf, &choice.target, &choice.denominator).unwrap();
                rows.sum(Kind::Double).backward();
                let (gradient, size) = (leaf.grad(), choice.target.abs().max().double_value(&[]));
                let most = sums(&gradient).abs().max().double_value(&[]);
                prop_assert!(most < 1e-12 * size.max(1.0), "{table}: {most}");
                // An excluded candidate feels its own weight, as in decoupled learning, no more.
                let outside = (gradient + &choice.target).masked_select(&excluded).abs();
                prop_assert_eq!(outside.sum(Kind::Double).double_value(&[]), 0.0, "{}", table);
            }
        }
    }

    #[test]
    fn sce_is_info_nce_and_ressl_and_ceil(
        seed: u64, batch in 2_i64..6, queue in 2_i64..9, coefficient in 0.0_f64..0.99,
        temperature in 0.05_f64..2.0, sharpened in 0.02_f64..1.0, symmetric: bool,
    ) {
        let images = Images::draw(seed, Sizes::new(batch, queue));
        for variant in ["paper", "use_keys"] {
            let sce = method(&format!(
                "name = \"sce\"\nvariant = \"{variant}\"\ncoefficient = {coefficient}\n\
                 temperature = {temperature}\ntemperature_momentum = {sharpened}\n\
                 symmetric = {symmetric}"
            ));
            let terms = images.terms(&*sce, 2);
            let (evaluated, measures) = evaluate_and_measure(&terms, None).unwrap();
            let parts: BTreeMap<_, _> = measures.means().collect();
            let sum = coefficient * parts["info_nce"]
                + (1.0 - coefficient) * (parts["ressl"] + parts["ceil"]);
            prop_assert!((evaluated.loss.double_value(&[]) - sum).abs() < 1e-10, "{variant}");

            // The same parts from their own methods and from the definition.
            let moco = method(&format!(
                "name = \"moco\"\ncandidates = \"{}\"\ntemperature = {temperature}\n\
                 symmetric = {symmetric}",
                if variant == "paper" { "queue" } else { "keys_and_queue" },
            ));
            let info_nce = loss(&images.terms(&*moco, 2)).double_value(&[]);
            prop_assert!((info_nce - parts["info_nce"]).abs() < 1e-10, "{variant}");
            if variant == "paper" {
                let ressl = method(&format!(
                    "name = \"ressl\"\ntemperature = {temperature}\n\
                     temperature_momentum = {sharpened}\nsymmetric = {symmetric}"
                ));
                let ressl = loss(&images.terms(&*ressl, 2)).double_value(&[]);
                prop_assert!((ressl - parts["ressl"]).abs() < 1e-10);
            }
        }
    }

    #[test]
    fn a_refined_label_is_equation_5_and_the_target_of_sce_with_its_own_coefficient(
        seed: u64, anchors in 1_i64..5, candidates in 2_i64..8,
        temperature in 0.05_f64..2.0, strength in 0.0_f64..9.0,
    ) {
        let mut draws = Draws(seed);
        let rows: Vec<Vec<f64>> =
            (0..anchors).map(|_| (0..candidates).map(|_| draws.number()).collect()).collect();
        let places: Vec<i64> =
            (0..anchors).map(|_| (draws.bits() % candidates as u64) as i64).collect();
        let similarities = Tensor::from_slice2(&rows);
        let own = Tensor::from_slice(&places).unsqueeze(1);
        for predictions in
            [Predictions::Both, Predictions::OnlyP, Predictions::OnlyQ, Predictions::Neither]
        {
            let refined = refine(&similarities, &own, temperature, strength, predictions).unwrap();
            let of_own = refined.p.gather(1, &own, false);
            let coefficient = 1.0 - &refined.beta - &refined.alpha * (1.0 - of_own);
            let one_hot = target::uniform(&own, candidates, Kind::Double).unwrap();
            let relations = target::softmax_except(&similarities, &own, temperature).unwrap();
            let sce = target::mix_each(&one_hot, &relations, &coefficient).unwrap();
            prop_assert!(difference(&sce, &refined.labels) < 1e-12, "{predictions:?}");

            let labels = matrix(&refined.labels);
            for ((row, &place), label) in rows.iter().zip(&places).zip(labels) {
                let place = place as usize;
                let weights: Vec<f64> =
                    row.iter().map(|cosine| (cosine / temperature).exp()).collect();
                let all: f64 = weights.iter().sum();
                let p: Vec<f64> = weights.iter().map(|weight| weight / all).collect();
                let others: f64 =
                    (0..weights.len()).filter(|&k| k != place).map(|k| weights[k]).sum();
                let q: Vec<f64> = (0..weights.len())
                    .map(|k| if k == place { 0.0 } else { weights[k] / others })
                    .collect();
                let largest = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
                let uses_p = matches!(predictions, Predictions::Both | Predictions::OnlyP);
                let uses_q = matches!(predictions, Predictions::Both | Predictions::OnlyQ);
                let of_p = if uses_p { strength * largest(&p) } else { 0.0 };
                let of_q = if uses_q { strength * largest(&q) } else { 0.0 };
                let z = 1.0 + of_p + of_q;
                for k in 0..weights.len() {
                    let one = if k == place { 1.0 } else { 0.0 };
                    let expected = one / z + of_p / z * p[k] + of_q / z * q[k];
                    prop_assert!((label[k] - expected).abs() < 1e-9, "{predictions:?}");
                }
            }
        }
    }

    #[test]
    fn fnc_is_equations_2_and_3(
        seed: u64, batch in 1_usize..6, support_views in 1_usize..4, top_k in 0_usize..5,
        threshold in -1.0_f64..1.0, temperature in 0.1_f64..1.0,
    ) {
        let images = Images::draw(seed, Sizes::new(batch as i64, 0));
        // Without a top_k there has to be a threshold.
        let threshold = if seed % 3 == 0 && top_k > 0 { -2.0 } else { threshold };
        for (treatment, aggregation) in [
            ("eliminate", "maximum"), ("eliminate", "mean"), ("attract", "maximum"),
            ("attract", "mean"), ("attract_and_eliminate", "maximum"),
        ] {
            let fnc = method(&format!(
                "name = \"fnc\"\nfalse_negatives = \"{treatment}\"\n\
                 aggregation = \"{aggregation}\"\nsupport_views = {support_views}\n\
                 top_k = {top_k}\nthreshold = {threshold}\n\
                 temperature = {temperature}"
            ));
            let encoded = images.encoded(&Needs::of(&[&*fnc], 2 + support_views), images.whole);
            let of = |view: &Option<nearkin_objective::Embedding>| {
                view.as_ref().map(|embedding| matrix(&embedding.local))
            };
            let z: Vec<Vec<Vec<f64>>> = encoded.online.iter().filter_map(of).collect();
            let support: Vec<Vec<Vec<f64>>> = encoded.keys.iter().filter_map(of).collect();
            prop_assert_eq!((z.len(), support.len()), (2, support_views));
            let mut total = 0.0;
            for view in 0..2 {
                for image in 0..batch {
                    let mut scored = Vec::new();
                    for (other_view, rows) in z.iter().enumerate() {
                        let others = rows.iter().enumerate().filter(|(other, _)| *other != image);
                        for (other, row) in others {
                            let scores = support.iter().map(|rows| dot(row, &rows[image]));
                            let score = match aggregation {
                                "mean" => scores.sum::<f64>() / support_views as f64,
                                _ => scores.fold(f64::NEG_INFINITY, f64::max),
                            };
                            scored.push((score, other_view, other));
                        }
                    }
                    scored.sort_by(|one, other| other.0.total_cmp(&one.0));
                    scored.truncate(if top_k > 0 { top_k } else { scored.len() });
                    let false_negatives: Vec<(usize, usize)> = scored.into_iter()
                        .filter(|scored| scored.0 > threshold)
                        .map(|(_, other_view, other)| (other_view, other))
                        .collect();
                    let logit = |candidate: (usize, usize)| {
                        dot(&z[view][image], &z[candidate.0][candidate.1]) / temperature
                    };
                    let denominator: f64 = (0..2).flat_map(|w| (0..batch).map(move |m| (w, m)))
                        .filter(|&candidate| candidate != (view, image))
                        .filter(|candidate| {
                            treatment == "attract" || !false_negatives.contains(candidate)
                        })
                        .map(|candidate| logit(candidate).exp())
                        .sum();
                    let mut positives = vec![(1 - view, image)];
                    if treatment != "eliminate" {
                        positives.extend(&false_negatives);
                    }
                    let count = positives.len() as f64;
                    total += positives.into_iter()
                        .map(|positive| denominator.ln() - logit(positive))
                        .sum::<f64>() / count;
                }
            }
            let expected = total / (2 * batch) as f64;
            let loss = loss(&fnc.terms(&encoded).unwrap()).double_value(&[]);
            let apart = (loss - expected).abs();
            prop_assert!(apart < 1e-10, "{treatment} {aggregation}: {loss} {expected}");
        }
    }

    #[test]
    fn at_the_ends_of_their_parameters_methods_are_one_another(
        seed: u64, batch in 1_i64..6, queue in 1_i64..9, temperature in 0.05_f64..2.0,
        coefficient in 0.0_f64..1.0, prior in 0.0_f64..0.9,
    ) {
        let images = Images::draw(seed, Sizes::new(batch, queue));
        for (one, other) in SAME {
            let complete = |table: &str| {
                let table = table
                    .replace("COEFFICIENT", &coefficient.to_string())
                    .replace("TEMPERATURE", &temperature.to_string())
                    .replace("PRIOR", &prior.to_string());
                method(&format!("{table}\ntemperature = {temperature}"))
            };
            let apart = methods_apart(&images, &*complete(one), &*complete(other), 2);
            prop_assert!(apart < 1e-11 / temperature, "{one} is not {other}: {apart}");
        }
    }

    #[test]
    fn co2_is_info_nce_and_both_divergences(
        seed: u64, batch in 1_i64..6, queue in 1_i64..9, temperature in 0.05_f64..1.0,
        consistency in 0.05_f64..1.0, weight in 0.0_f64..9.0,
    ) {
        let images = Images::draw(seed, Sizes::new(batch, queue));
        let co2 = method(&format!(
            "name = \"co2\"\ntemperature = {temperature}\n\
             temperature_consistency = {consistency}\nweight = {weight}"
        ));
        let encoded = images.encoded(&Needs::of(&[&*co2], 2), images.whole);
        let queries = encoded.online[1].as_ref().unwrap().local.shallow_clone();
        let keys = encoded.keys[0].as_ref().unwrap().local.detach();
        let queue = encoded.queue.as_ref().unwrap().detach();
        let positive = sums(&(&queries * &keys)).unsqueeze(1);
        let discrimination = Tensor::cat(&[positive, queries.mm(&queue.tr())], 1) / temperature;
        let log_softmax =
            |of: &Tensor| (of.mm(&queue.tr()) / consistency).log_softmax(1, None::<Kind>);
        let (log_p, log_r) = (log_softmax(&queries), log_softmax(&keys));
        let divergence =
            |of: &Tensor, to: &Tensor| sums(&(of.exp() * (of - to))).mean(Kind::Double);
        let both = divergence(&log_r, &log_p) + divergence(&log_p, &log_r);
        let expected = info_nce(&discrimination) + both * (weight / 2.0);
        let apart = apart(&images, &loss(&co2.terms(&encoded).unwrap()), &expected);
        prop_assert!(apart < 1e-9, "{apart}");

        // The target of KL(R || P) is R; that of KL(P || R) has its negative as mass.
        let terms = co2.terms(&encoded).unwrap();
        let mass = |term: usize| sums(&terms[term].choice().unwrap().target);
        prop_assert!(difference(&mass(1), &log_r.exp().sum_dim_intlist([1].as_slice(), false, Kind::Double)) < 1e-9);
        let expected = -sums(&(log_p.exp() * (&log_p - &log_r)));
        prop_assert!(difference(&mass(2), &expected) < 1e-9);
    }

    #[test]
    fn of_equal_scores_the_first_are_selected(
        seed: u64, anchors in 1_usize..5, candidates in 2_usize..9, top_k in 0_usize..11,
        threshold in 0_usize..5,
    ) {
        // Scores of four values, so that ties are the rule; thresholds meet them exactly.
        let values = [-0.5, 0.0, 0.25, 0.75];
        let mut draws = Draws(seed);
        let rows: Vec<Vec<f64>> = (0..anchors)
            .map(|_| (0..candidates).map(|_| values[(draws.bits() % 4) as usize]).collect())
            .collect();
        let never: Vec<i64> =
            (0..anchors).map(|_| (draws.bits() % candidates as u64) as i64).collect();
        let selection = Selection {
            top_k: (top_k > 0).then_some(top_k),
            threshold: values.get(threshold).copied(),
        };
        let selected = selection.select(
            &Tensor::from_slice2(&rows),
            &Tensor::from_slice(&never).unsqueeze(1),
        );
        let selected = matrix(&selected.unwrap());
        for ((row, &never), selected) in rows.iter().zip(&never).zip(selected) {
            let mut order: Vec<usize> =
                (0..candidates).filter(|&candidate| candidate as i64 != never).collect();
            // A stable sort leaves equal scores in their order.
            order.sort_by(|&one, &other| row[other].total_cmp(&row[one]));
            order.truncate(if top_k > 0 { top_k } else { candidates });
            order.retain(|&candidate| {
                selection.threshold.is_none_or(|threshold| row[candidate] > threshold)
            });
            let expected: Vec<f64> = (0..candidates)
                .map(|candidate| if order.contains(&candidate) { 1.0 } else { 0.0 })
                .collect();
            prop_assert_eq!(selected, expected, "{:?} {:?}", selection, row);
        }
    }

    #[test]
    fn measures_against_labels_count_kin_one_by_one(
        seed: u64, half in 1_i64..4, queue in 1_i64..9, second: bool,
    ) {
        let images = Images::draw(seed, Sizes::new(2 * half, queue));
        let offset = if second { half } else { 0 };
        let place = Place { offset, count: half };
        for (table, method) in all() {
            let encoded = images.encoded(&Needs::of(&[&*method], views(&*method)[0]), place);
            let terms = method.terms(&encoded).unwrap();
            let labels = images.labels(place);
            let (_, measures) = evaluate_and_measure(&terms, Some(&labels)).unwrap();
            let measured: BTreeMap<&str, f64> = measures
                .means()
                .filter(|(name, _)| !["agreement", "info_nce", "ressl", "ceil"].contains(name))
                .collect();
            let expected = counted(&terms, &labels);
            prop_assert!(measured.keys().eq(expected.keys()), "{table}: {measured:?} {expected:?}");
            for (name, value) in expected {
                let measured = measured[name];
                // Shares of counts are divided in single precision.
                prop_assert!((measured - value).abs() < 1e-6, "{table} {name}: {measured} {value}");
            }
        }
    }
}

/// The measures of terms by loops over anchors and candidates.
fn counted(terms: &[Term<'_>], labels: &Labels) -> BTreeMap<&'static str, f64> {
    let mut values: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    let (mut on_kin, mut beyond) = (0.0, 0.0);
    let list = |tensor: &Tensor| Vec::<i64>::try_from(tensor).unwrap();
    let of_batch = list(&labels.batch);
    for term in terms.iter().filter(|term| term.measured) {
        let choice = term.choice().unwrap();
        let (targets, selected) = (matrix(&choice.target), choice.selected.as_ref().map(matrix));
        let positives = Vec::<Vec<i64>>::try_from(&term.positives).unwrap();
        let itself = term.itself.as_ref().map(|itself| list(&itself.flatten(0, -1)));
        for (anchor, target) in targets.iter().enumerate() {
            let label = of_batch[labels.offset as usize + anchor];
            let mut of_candidates = Vec::new();
            of_candidates.extend(term.candidates.own.as_ref().map(|_| label));
            for shared in &term.candidates.shared {
                of_candidates.extend(match (shared.origin, &labels.queue) {
                    (Origin::Batch, _) => of_batch.clone(),
                    (Origin::Queue, Some(queue)) => list(queue),
                    _ => vec![-1; shared.rows.size()[0] as usize],
                });
            }
            let candidates = 0..of_candidates.len();
            let is_positive = |candidate: usize| positives[anchor].contains(&(candidate as i64));
            let is_own = |candidate: usize| {
                let itself = itself.as_ref().map(|itself| itself[anchor]);
                is_positive(candidate) || itself == Some(candidate as i64)
            };
            let is_same = |candidate: usize| label >= 0 && of_candidates[candidate] == label;
            let is_kin = |candidate: usize| is_same(candidate) && !is_own(candidate);
            let mut put = |name, value| values.entry(name).or_default().push(value);
            let sum_where = |weights: &[f64], of: &dyn Fn(usize) -> bool| -> f64 {
                candidates.clone().filter(|&candidate| of(candidate)).map(|c| weights[c]).sum()
            };
            put("positive_mass", sum_where(target, &is_positive));
            let picked = selected.as_ref().map(|selected| selected[anchor].as_slice());
            if let Some(picked) = picked {
                put("selected", picked.iter().sum());
            }
            if let (Some(neighbors), Some(queue)) = (&term.neighbors, &labels.queue) {
                let theirs = list(queue)[list(neighbors)[anchor] as usize];
                if label >= 0 && theirs >= 0 {
                    put("kin_precision", if theirs == label { 1.0 } else { 0.0 });
                }
            }
            if !candidates.clone().any(|candidate| is_own(candidate) && is_same(candidate)) {
                continue;
            }
            let kin = candidates.clone().filter(|&candidate| is_kin(candidate)).count() as f64;
            put("kin_share", kin / of_candidates.len() as f64);
            put("kin_mass", sum_where(target, &is_kin));
            let others = candidates.clone().filter(|&candidate| !is_own(candidate)).count();
            if others > 0 {
                put("kin_chance", kin / others as f64);
            }
            if target.iter().all(|&weight| weight >= 0.0) {
                on_kin += sum_where(target, &is_kin);
                beyond += sum_where(target, &|candidate| !is_own(candidate));
            }
            if let Some(picked) = picked {
                let (right, count) = (sum_where(picked, &is_kin), picked.iter().sum::<f64>());
                if count > 0.0 {
                    put("kin_precision", right / count);
                }
                if kin > 0.0 {
                    put("kin_recall", right / kin);
                }
            }
            if kin > 0.0 {
                let excluded = match &choice.denominator {
                    Denominator::Except(excluded) => {
                        matrix(&excluded.get(anchor as i64).unsqueeze(0)).remove(0)
                    }
                    Denominator::Constant { .. } => vec![1.0; of_candidates.len()],
                    Denominator::All | Denominator::Estimated(_) => vec![0.0; of_candidates.len()],
                };
                let is_pushed = |candidate: usize| {
                    let is_picked = picked.is_some_and(|picked| picked[candidate] > 0.0);
                    is_kin(candidate) && excluded[candidate] == 0.0 && !is_picked
                };
                let pushed = candidates.clone().filter(|&candidate| is_pushed(candidate)).count();
                put("kin_in_denominator", pushed as f64 / kin);
            }
            let mass: f64 = target.iter().sum();
            let is_true = |candidate: usize| is_kin(candidate) || is_positive(candidate);
            let truths = candidates.clone().filter(|&candidate| is_true(candidate)).count() as f64;
            let squares = candidates.clone().map(|candidate| {
                let truth = if is_true(candidate) { 1.0 / truths } else { 0.0 };
                (target[candidate] / mass.max(1e-12) - truth).powi(2)
            });
            if target.iter().all(|&weight| weight >= 0.0) {
                put("label_distance", squares.sum::<f64>().sqrt());
            }
        }
    }
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let mut means: BTreeMap<_, _> =
        values.into_iter().map(|(name, values)| (name, mean(values))).collect();
    if beyond > 0.0 {
        means.insert("kin_purity", on_kin / beyond);
    }
    means
}
