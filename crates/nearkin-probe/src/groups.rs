//! Which runs are repetitions of each other, and what the others are called.
//!
//! Runs whose recipes differ in nothing but the seed, with as many steps behind them, form a group: only
//! they have a common mean. A group is named by the keys in which it differs from the other groups.

use serde::Serialize;
use serde_json::Value;

use crate::Evaluation;

/// The key that names a group first: other keys mostly follow from the method.
const METHOD: &str = "method.name";
/// Keys that a name has at most, unless more are needed to tell groups apart.
const NAMED: usize = 3;
/// What is not a key of the recipe.
const STEP: &str = "step";
const IMAGES: &str = "training images";
const DATA: &str = "training data";

/// Runs that are repetitions of each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// What tells it from the other groups; empty if there is no other.
    pub name: String,
    /// Run folders or files.
    pub runs: Vec<String>,
    /// The seeds of their training, in the same order.
    pub seeds: Vec<u64>,
    /// Every key in which it differs from the first group.
    pub differences: Vec<KeyDifference>,
}

/// A key of the recipe with different values in two groups.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyDifference {
    /// Its path.
    pub key: String,
    /// Its value in the first group; `None` if the key is absent.
    pub first: Option<String>,
    /// Its value in this group.
    pub own: Option<String>,
}

/// Digits of a digest that tell data sets apart.
const DIGITS_SHOWN: usize = 12;

/// The keys of a group with their values.
type Keys = Vec<(String, String)>;

/// The groups, and for each evaluation its place among them.
pub(crate) fn groups(evaluations: &[Evaluation]) -> (Vec<Group>, Vec<usize>) {
    let mut groups: Vec<Group> = Vec::new();
    let mut identities: Vec<(Option<Keys>, &str)> = Vec::new();
    let mut places = Vec::with_capacity(evaluations.len());
    let all: Vec<Option<Keys>> = evaluations.iter().map(keys).collect();
    for (evaluation, own) in evaluations.iter().zip(&all) {
        let mut keys = own.clone();
        // Earlier versions did not record it: then the number of images has to do.
        let mut alike = evaluations.iter().zip(&all).filter(|(_, other)| *other == own);
        if let (Some(keys), Some(data)) = (&mut keys, &evaluation.training_data)
            && alike.all(|(other, _)| other.training_data.is_some())
        {
            keys.push((DATA.to_owned(), data.chars().take(DIGITS_SHOWN).collect()));
        }
        // Files of weights, and runs of which nothing is known, are groups of their own.
        let subject = if keys.is_some() { "" } else { evaluation.subject.as_str() };
        let identity = (keys, subject);
        let place = identities.iter().position(|known| *known == identity).unwrap_or_else(|| {
            identities.push(identity);
            groups.push(Group {
                name: String::new(),
                runs: Vec::new(),
                seeds: Vec::new(),
                differences: Vec::new(),
            });
            groups.len() - 1
        });
        groups[place].runs.push(evaluation.subject.clone());
        groups[place].seeds.push(evaluation.training_seed);
        places.push(place);
    }
    if groups.len() > 1 {
        let keys: Vec<&Keys> = identities.iter().filter_map(|(keys, _)| keys.as_ref()).collect();
        let mut names = names(&keys).into_iter();
        for (group, (keys, subject)) in groups.iter_mut().zip(&identities) {
            let name = if keys.is_some() { names.next() } else { Some((*subject).to_owned()) };
            group.name =
                name.filter(|name| !name.is_empty()).unwrap_or_else(|| group.runs.join(" "));
        }
        if let Some((Some(first), _)) = identities.first() {
            for (group, (keys, _)) in groups.iter_mut().zip(&identities).skip(1) {
                group.differences =
                    keys.as_ref().map_or_else(Vec::new, |own| differences(first, own));
            }
        }
    }
    (groups, places)
}

/// Everything in which repetitions agree; `None` if the recipe is not known.
fn keys(evaluation: &Evaluation) -> Option<Keys> {
    if evaluation.recipe.is_empty() {
        return None;
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let keys = evaluation.recipe.iter().map(|(key, value)| (key.clone(), text(value)));
    let step = evaluation.step.map(|step| (STEP.to_owned(), step.to_string()));
    let images = evaluation.training_images.map(|images| (IMAGES.to_owned(), images.to_string()));
    Some(keys.chain(step).chain(images).collect())
}

fn value<'a>(keys: &'a Keys, key: &str) -> Option<&'a str> {
    keys.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// The keys that have different values, in the order of their first appearance.
fn differing(all: &[&Keys]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (key, _) in all.iter().copied().flatten() {
        let differs = all.iter().any(|keys| value(keys, key) != value(all[0], key));
        if differs && !found.contains(key) {
            found.push(key.clone());
        }
    }
    found
}

fn differences(first: &Keys, own: &Keys) -> Vec<KeyDifference> {
    let of = |keys: &Keys, key: &str| value(keys, key).map(|value| unquoted(value).to_owned());
    let differing = differing(&[first, own]).into_iter();
    let difference =
        |key: String| KeyDifference { first: of(first, &key), own: of(own, &key), key };
    differing.map(difference).collect()
}

/// TOML's quotation marks tell a reader nothing.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

fn names(all: &[&Keys]) -> Vec<String> {
    let by_method = differing(all).iter().any(|key| key == METHOD);
    let name = |own: &&Keys| {
        let method = value(own, METHOD);
        let alike: Vec<&Keys> =
            all.iter().copied().filter(|keys| value(keys, METHOD) == method).collect();
        let mut shown = Vec::new();
        if by_method {
            shown.push(METHOD.to_owned());
        }
        shown.extend(telling(&alike));
        let pair = |key: &String| format!("{key}={}", value(own, key).map_or("-", unquoted));
        shown.iter().map(pair).collect::<Vec<_>>().join(", ")
    };
    all.iter().map(name).collect()
}

/// Keys that tell all of these groups apart: the first that differ, and as many more as it takes.
fn telling(all: &[&Keys]) -> Vec<String> {
    // What the number of steps and of images follow from says more than they do.
    let (mut keys, rest): (Vec<String>, Vec<String>) =
        differing(all).into_iter().partition(|key| ![STEP, IMAGES, DATA].contains(&key.as_str()));
    let own = keys.len();
    keys.extend(rest);
    let is_enough = |count: usize| {
        let seen = |keys_of: &&Keys| -> Vec<Option<String>> {
            keys[..count].iter().map(|key| value(keys_of, key).map(str::to_owned)).collect()
        };
        let mut seen: Vec<_> = all.iter().map(seen).collect();
        seen.sort();
        seen.windows(2).all(|pair| pair[0] != pair[1])
    };
    let least = own.min(NAMED);
    let count = (least..keys.len()).find(|&count| is_enough(count)).unwrap_or(keys.len());
    keys.truncate(count);
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, seed: u64, keys: &[(&str, &str)]) -> Evaluation {
        let keys = keys.iter().map(|&(key, value)| (key.to_owned(), value.into()));
        Evaluation {
            subject: name.to_owned(),
            step: Some(8),
            training_seed: seed,
            training_images: Some(64),
            recipe: keys.collect(),
            ..Evaluation::default()
        }
    }

    fn named(evaluations: &[Evaluation]) -> Vec<String> {
        groups(evaluations).0.into_iter().map(|group| group.name).collect()
    }

    const SCE: [(&str, &str); 3] = [
        ("method.name", "\"sce\""),
        ("optimizer.learning_rate", "0.1"),
        ("method.coefficient", "0.5"),
    ];

    fn sce_with(key: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        SCE.iter().map(|&(own, old)| (own, if own == key { value } else { old })).collect()
    }

    #[test]
    fn repetitions_are_one_group_without_a_name() {
        let all = [run("a", 0, &SCE), run("b", 1, &SCE), run("c", 2, &SCE)];
        let (groups, places) = groups(&all);
        assert_eq!(places, [0, 0, 0]);
        assert_eq!(groups.len(), 1);
        assert_eq!((groups[0].name.as_str(), &*groups[0].seeds), ("", &[0, 1, 2][..]));
    }

    #[test]
    fn a_group_is_named_by_what_differs() {
        let simclr = [("method.name", "\"simclr\""), ("optimizer.learning_rate", "0.4")];
        let all = [run("a", 0, &SCE), run("b", 0, &simclr), run("c", 1, &SCE)];
        assert_eq!(named(&all), ["method.name=sce", "method.name=simclr"]);
        let (groups, places) = groups(&all);
        assert_eq!(places, [0, 1, 0]);
        let keys: Vec<&str> =
            groups[1].differences.iter().map(|difference| difference.key.as_str()).collect();
        assert_eq!(keys, ["method.name", "optimizer.learning_rate", "method.coefficient"]);
        let coefficient = &groups[1].differences[2];
        assert_eq!((coefficient.first.as_deref(), coefficient.own.as_deref()), (Some("0.5"), None));

        let fast = sce_with("optimizer.learning_rate", "0.2");
        let all = [run("a", 0, &SCE), run("b", 0, &fast), run("c", 0, &simclr)];
        assert_eq!(
            named(&all),
            [
                "method.name=sce, optimizer.learning_rate=0.1",
                "method.name=sce, optimizer.learning_rate=0.2",
                "method.name=simclr",
            ]
        );
        assert_eq!(
            named(&all[..2]),
            ["optimizer.learning_rate=0.1", "optimizer.learning_rate=0.2"]
        );
    }

    #[test]
    fn runs_that_are_trained_for_longer_or_on_more_images_are_another_group() {
        let longer = Evaluation { step: Some(16), ..run("b", 1, &SCE) };
        assert_eq!(named(&[run("a", 0, &SCE), longer]), ["step=8", "step=16"]);
        let more = Evaluation { training_images: Some(640), ..run("b", 1, &SCE) };
        let expected = ["training images=64", "training images=640"];
        assert_eq!(named(&[run("a", 0, &SCE), more]), expected);
        // The number of epochs says it already.
        let short = [SCE.as_slice(), &[("training.epochs", "1")]].concat();
        let long = [SCE.as_slice(), &[("training.epochs", "2")]].concat();
        let long = Evaluation { step: Some(16), ..run("b", 1, &long) };
        assert_eq!(named(&[run("a", 0, &short), long]), ["training.epochs=1", "training.epochs=2"]);
    }

    #[test]
    fn runs_on_other_images_are_another_group_where_that_is_known() {
        let on = |data: Option<&str>, seed| {
            let training_data = data.map(str::to_owned);
            Evaluation { training_data, ..run("a", seed, &SCE) }
        };
        let [one, other, old] = [on(Some("abc"), 0), on(Some("def"), 1), on(None, 2)];
        assert_eq!(
            named(&[one.clone(), other.clone()]),
            ["training data=abc", "training data=def"]
        );
        assert_eq!(named(&[one.clone(), one.clone(), old]), [""]);
        assert_eq!(named(&[one.clone(), one]), [""]);
    }

    /// More keys than a name has room for, the last of which is the only one that differs between two.
    #[test]
    fn as_many_keys_are_named_as_it_takes() {
        let keys = |values: [&'static str; 5]| {
            ["a", "b", "c", "d", "e"].into_iter().zip(values).collect::<Vec<_>>()
        };
        let all = [
            run("one", 0, &keys(["1", "1", "1", "1", "1"])),
            run("two", 0, &keys(["2", "2", "2", "2", "1"])),
            run("three", 0, &keys(["2", "2", "2", "2", "2"])),
        ];
        assert_eq!(named(&all[..2]), ["a=1, b=1, c=1", "a=2, b=2, c=2"]);
        assert_eq!(named(&all)[2], "a=2, b=2, c=2, d=2, e=2");
        assert_eq!(groups(&all).0[1].differences.len(), 4);
    }

    #[test]
    fn weights_of_which_no_recipe_is_known_are_groups_of_their_own() {
        let all = [run("a.safetensors", 0, &[]), run("b.safetensors", 0, &[]), run("c", 0, &SCE)];
        assert_eq!(named(&all), ["a.safetensors", "b.safetensors", "c"]);
    }
}
