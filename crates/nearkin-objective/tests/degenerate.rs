//! Inputs at the edge of sense: every registered method has to give a finite loss and gradient for
//! them, since a run meets them in its first steps, on its last small batch or after a collapse.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Images, Needs, Place, Sizes, all, difference, kept, loss, method, views};
use nearkin_objective::selection::Selection;
use nearkin_objective::{
    Denominator, Method, Origin, QueueUse, Term, evaluate_and_measure, from_table, methods,
};
use tch::{Kind, Tensor};

const KINDS: [Kind; 3] = [Kind::Double, Kind::Float, Kind::BFloat16];

/// Checks loss, gradient and measures of a method on a batch, and gives the terms; `None` for a
/// method that says that it cannot do without a queue.
fn finite<'a>(what: &str, method: &'a dyn Method, sizes: Sizes) -> Option<(Images, Vec<Term<'a>>)> {
    let views = views(method)[0];
    let images = Images::draw(7, sizes);
    let encoded = kept(images.encoded(&Needs::of(&[method], views), images.whole));
    let terms = match method.terms(encoded) {
        Ok(terms) => terms,
        Err(error) => {
            let excused =
                sizes.queue == 0 && method.requirements(views).unwrap().queue == QueueUse::Required;
            assert!(excused && error.to_string().contains("queue"), "{what}: {error}");
            return None;
        }
    };
    let labels = images.labels(images.whole);
    let (evaluated, measures) = evaluate_and_measure(&terms, Some(&labels)).unwrap();
    let value = evaluated.loss.double_value(&[]);
    assert!(value.is_finite(), "{what} {sizes:?}: {value}");
    assert!(measures.reference_loss().is_finite(), "{what} {sizes:?}");
    for (name, mean) in measures.means() {
        assert!(mean.is_finite(), "{what} {sizes:?}: {name} = {mean}");
    }
    let gradient = images.gradient(&evaluated.loss);
    assert!(gradient.isfinite().all().int64_value(&[]) == 1, "{what} {sizes:?}: {gradient:?}");
    let stray = images.stray_gradient(&evaluated.loss);
    assert_eq!(stray.abs().max().double_value(&[]), 0.0, "{what} {sizes:?}");
    Some((images, terms))
}

/// Checks a method on few images and on one, with a queue, with none and with an unfilled one, with
/// random and with equal embeddings.
fn finite_everywhere(what: &str, method: &dyn Method, kind: Kind) {
    for (batch, queue, unfilled) in
        [(1, 0, false), (1, 1, false), (2, 0, false), (3, 4, false), (3, 4, true)]
    {
        for equal in [false, true] {
            let sizes = Sizes { kind, equal, unfilled, ..Sizes::new(batch, queue) };
            finite(what, method, sizes);
        }
    }
}

/// The method of this table with every temperature set to this.
fn at_temperature(table: &str, temperature: f64) -> Box<dyn Method> {
    fn set(table: &mut toml::Table, temperature: f64) {
        for (key, value) in table {
            match value {
                _ if key.starts_with("temperature") => *value = temperature.into(),
                toml::Value::Table(table) => set(table, temperature),
                _ => {}
            }
        }
    }
    let mut table = from_table(&table.parse().unwrap()).unwrap().table;
    set(&mut table, temperature);
    from_table(&table).unwrap().method
}

#[test]
fn every_registered_method_meets_these_tests() {
    for entry in methods() {
        let name = format!("name = \"{}\"", entry.name);
        let (_, method) = all().into_iter().find(|(table, _)| *table == name).unwrap();
        assert!(!views(&*method).is_empty(), "{name} takes none of the numbers of views");
    }
}

#[test]
fn few_images_no_queue_and_equal_embeddings_are_no_trouble() {
    for (table, method) in all() {
        for kind in KINDS {
            finite_everywhere(&table, &*method, kind);
        }
    }
}

#[test]
fn the_coldest_and_the_hottest_temperature_are_no_trouble() {
    for (table, _) in all() {
        for temperature in [1e-6, 1e6] {
            let extreme = at_temperature(&table, temperature);
            for kind in [Kind::Float, Kind::BFloat16] {
                finite_everywhere(&format!("{table} at {temperature}"), &*extreme, kind);
            }
        }
    }
}

#[test]
fn one_candidate_leaves_nothing_to_learn() {
    let mut met = 0;
    for (table, method) in all() {
        let Some((images, terms)) = finite(&table, &*method, Sizes::new(1, 0)) else { continue };
        let alone = |term: &Term<'_>| {
            let told_apart = matches!(
                term.choice().unwrap().denominator,
                Denominator::All | Denominator::Except(_)
            );
            term.candidates.count() == 1 && told_apart
        };
        if terms.iter().all(alone) {
            let loss = loss(&terms);
            assert!(loss.double_value(&[]).abs() < 1e-12, "{table}: {loss:?}");
            let largest = images.gradient(&loss).abs().max().double_value(&[]);
            assert!(largest < 1e-12, "{table}: {largest}");
            met += 1;
        }
    }
    assert!(met > 10, "{met}");
}

#[test]
fn everything_and_nothing_can_be_selected() {
    let tables = [
        "name = \"fnc\"\nfalse_negatives = \"eliminate\"",
        "name = \"fnc\"\nfalse_negatives = \"attract\"",
        "name = \"fnc\"\nfalse_negatives = \"attract_and_eliminate\"",
    ];
    // Each with how many of the other images' views it selects.
    for (selection, share) in [
        ("top_k = 0\nthreshold = 1.5", 0.0),
        ("top_k = 3\nthreshold = 1.5", 0.0),
        ("top_k = 0\nthreshold = -1.0", 1.0),
        ("top_k = 1000\nthreshold = -2.0", 1.0),
        ("top_k = 8\nthreshold = -2.0", 1.0),
    ] {
        for table in tables {
            let table = format!("{table}\n{selection}");
            for kind in KINDS {
                let sizes = Sizes { kind, ..Sizes::new(4, 0) };
                let method = method(&table);
                let (_, terms) = finite(&table, &*method, sizes).unwrap();
                for term in &terms {
                    let selected = term.choice().unwrap().selected.unwrap();
                    // Of eight views two are the image's own.
                    let count = selected.sum(Kind::Int64).double_value(&[]);
                    assert_eq!(count, share * 4.0 * 6.0, "{table}");
                }
                // The positive alone in its denominator is as near as it can be.
                if share == 1.0 && table.contains("\"eliminate\"") {
                    let value = loss(&terms).double_value(&[]);
                    assert!(value.abs() < 1e-6, "{table}: {value}");
                }
                finite_everywhere(&table, &*method, kind);
            }
        }
        for denominator in ["all", "without_selected", "negatives", "nothing"] {
            for candidates in ["queue", "keys_and_queue", "views"] {
                let rule = match selection.split_once("top_k = 0\n") {
                    Some((_, threshold)) => threshold.to_owned(),
                    None => selection.to_owned(),
                };
                let rule = rule.replace('\n', ", ");
                let table = format!(
                    "name = \"combination\"\ndenominator = \"{denominator}\"\n\
                     candidates = \"{candidates}\"\nselection = {{ {rule} }}\n\
                     target = {{ relations = {{ kind = \"selected\" }}, coefficient = 0.5 }}"
                );
                finite_everywhere(&table, &*method(&table), Kind::Float);
            }
        }
    }
}

#[test]
fn of_equal_embeddings_the_first_of_other_images_is_selected() {
    let table = "name = \"fnc\"\ntop_k = 3\nthreshold = 0.5\nsupport_views = 0";
    let images = Images::draw(1, Sizes { equal: true, ..Sizes::new(3, 0) });
    let method = method(table);
    let terms = images.terms(&*method, 2);
    // Candidates are view 0 of the three images, then view 1.
    let expected = [[[1, 2, 4], [0, 2, 3], [0, 1, 3]], [[1, 2, 4], [0, 2, 3], [0, 1, 3]]];
    for (term, expected) in terms.iter().zip(expected) {
        let selected = term.choice().unwrap().selected.unwrap();
        for (row, expected) in expected.into_iter().enumerate() {
            let places = selected.get(row as i64).nonzero().flatten(0, -1);
            assert_eq!(Vec::<i64>::try_from(places).unwrap(), expected);
        }
    }
    // Where the threshold lies at the equal scores, it lies above none of them.
    let scores = Tensor::full([2, 4], 0.5, tch::kind::FLOAT_CPU);
    let never = Tensor::from_slice(&[0_i64, 1]).unsqueeze(1);
    let selection = Selection { top_k: Some(2), threshold: Some(0.5) };
    let selected = selection.select(&scores, &never).unwrap();
    assert_eq!(selected.sum(Kind::Int64).int64_value(&[]), 0);
}

/// A term of its first anchor alone, with other rows for the shared candidates.
fn first_anchor(term: Term<'_>, shared: impl Fn(usize, &Tensor) -> Tensor) -> Term<'_> {
    let first = |tensor: &Tensor| tensor.narrow(0, 0, 1);
    let Term { mut candidates, .. } = term;
    for (number, group) in candidates.shared.iter_mut().enumerate() {
        group.rows = shared(number, &group.rows).detach().set_requires_grad(true);
    }
    Term {
        anchors: first(&term.anchors).detach().set_requires_grad(true),
        positives: first(&term.positives),
        itself: term.itself.as_ref().map(first),
        candidates,
        rule: term.rule,
        mixture: term.mixture,
        ..Term::new(
            term.anchors.shallow_clone(),
            nearkin_objective::Candidates { own: None, shared: Vec::new() },
            term.positives.shallow_clone(),
            term.temperature,
            Box::new(|_| Err(tch::TchError::Shape(String::new()))),
        )
    }
}

#[test]
fn no_gradient_flows_between_an_anchor_and_itself() {
    let mut met = 0;
    for (table, method) in all() {
        let images = Images::draw(3, Sizes::new(4, 5));
        let views = views(&*method)[0];
        for number in 0..images.terms(&*method, views).len() {
            let term = || images.terms(&*method, views).swap_remove(number);
            let Some(itself) = &term().itself else { continue };
            let place = itself.int64_value(&[0, 0]);
            // The same batch twice: once the anchor's own row is something else altogether.
            let runs = [false, true].map(|perturbed| {
                let mut begin = 0;
                let mut places = Vec::new();
                for shared in &term().candidates.shared {
                    assert!(shared.origin != Origin::Other, "{table}");
                    places.push(place - begin);
                    begin += shared.rows.size()[0];
                }
                let term = first_anchor(term(), |group, rows| {
                    let rows = rows.copy();
                    let place = places[group];
                    if perturbed && (0..rows.size()[0]).contains(&place) {
                        let _ = rows.get(place).neg_();
                    }
                    rows
                });
                let terms = [term];
                let loss = loss(&terms);
                let rows = terms[0].candidates.shared.iter().map(|shared| &shared.rows);
                let leaves: Vec<&Tensor> = std::iter::once(&terms[0].anchors).chain(rows).collect();
                let gradients = Tensor::run_backward(&[&loss], &leaves, false, false);
                let by_candidates = Tensor::cat(&gradients[1..], 0);
                let by_itself = by_candidates.get(place).abs().max().double_value(&[]);
                assert_eq!(by_itself, 0.0, "{table}");
                (loss.detach(), gradients[0].copy(), by_candidates)
            });
            assert_eq!(difference(&runs[0].0, &runs[1].0), 0.0, "{table}");
            assert_eq!(difference(&runs[0].1, &runs[1].1), 0.0, "{table}");
            assert_eq!(difference(&runs[0].2, &runs[1].2), 0.0, "{table}");
            met += 1;
        }
    }
    assert!(met > 20, "{met}");
}

#[test]
fn a_process_at_the_end_of_the_batch_may_have_one_image() {
    for (table, method) in all() {
        let images = Images::draw(5, Sizes::new(3, 2));
        let needs = Needs::of(&[&*method], views(&*method)[0]);
        let encoded = images.encoded(&needs, Place { offset: 2, count: 1 });
        let loss = loss(&method.terms(&encoded).unwrap());
        let gradient = images.gradient(&loss);
        assert!(loss.double_value(&[]).is_finite(), "{table}");
        assert!(gradient.isfinite().all().int64_value(&[]) == 1, "{table}");
    }
}

#[test]
fn half_precision_is_widened_before_anything_is_added_up() {
    for (table, method) in all() {
        let images = Images::draw(9, Sizes { kind: Kind::BFloat16, ..Sizes::new(4, 9) });
        let narrow = images.terms(&*method, views(&*method)[0]);
        let mut wide = images.terms(&*method, views(&*method)[0]);
        for term in &mut wide {
            let single = |tensor: &Tensor| tensor.to_kind(Kind::Float);
            term.anchors = single(&term.anchors);
            term.candidates.own = term.candidates.own.as_ref().map(single);
            for shared in &mut term.candidates.shared {
                shared.rows = single(&shared.rows);
            }
        }
        let apart = difference(&loss(&narrow), &loss(&wide));
        assert!(apart < 1e-6, "{table}: {apart}");
    }
}
