//! ARCHITECTURE.md must name what is there: a map with streets that are gone costs more than none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every file of Rust code, relative to the root, with its text.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("examples"), root.join("fuzz")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_output = path.file_name().is_some_and(|name| name == "target");
            if path.is_dir() && !is_output {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// What stands between backquotes, with the choices in braces written out.
fn quoted(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for word in text.split('`').skip(1).step_by(2) {
        match word.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            Some((before, (choices, after))) if !word.contains(' ') => {
                let choices = choices.split(',').filter(|choice| *choice != "...");
                found.extend(choices.map(|choice| format!("{before}{choice}{after}")));
            }
            _ => found.push(word.to_owned()),
        }
    }
    found
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// Whether a type or a function of this name is declared.
fn is_declared(name: &str, sources: &[(String, String)]) -> bool {
    let kinds = ["struct", "enum", "trait", "type", "fn"];
    let is_end =
        |rest: &str| !rest.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_');
    sources.iter().any(|(_, text)| {
        kinds.iter().any(|kind| {
            let declared = format!("{kind} {name}");
            text.match_indices(&declared).any(|(at, _)| is_end(&text[at + declared.len()..]))
        })
    })
}

/// A path or a name of [`quoted`] that leads nowhere.
fn is_lost(word: &str, sources: &[(String, String)]) -> bool {
    let is_code = |word: &str| Path::new(word).extension().is_some_and(|end| end == "rs");
    let is_path = |word: &str| is_code(word) || word.ends_with('/');
    if is_path(word) && !word.contains(['<', ' ']) {
        let as_file = format!("/{word}");
        return !sources.iter().any(|(path, _)| format!("/{path}").contains(&as_file))
            && !root().join(word).exists();
    }
    let mut parts = word.split("::");
    let (first, last) = (parts.next().unwrap_or_default(), parts.next());
    let is_type = first.starts_with(|letter: char| letter.is_ascii_uppercase())
        && first.chars().any(|letter| letter.is_ascii_lowercase());
    is_type
        && is_name(first)
        && last.is_none_or(is_name)
        && !(is_declared(first, sources) && last.is_none_or(|last| is_declared(last, sources)))
}

#[test]
fn every_path_and_type_that_the_architecture_names_exists() {
    let sources = sources();
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let words = quoted(&text);
    let lost: Vec<&String> = words.iter().filter(|word| is_lost(word, &sources)).collect();
    assert!(lost.is_empty(), "ARCHITECTURE.md names what is not there: {lost:?}");
    assert!(words.iter().any(|word| word == "Learner::learn"), "nothing was looked at");
}

#[test]
fn what_is_gone_is_found() {
    let sources = [("crates/a/src/b.rs".to_owned(), "pub struct Known; fn step() {}".to_owned())];
    for word in ["gone.rs", "a/src/gone.rs", "Gone", "Known::gone", "Know"] {
        assert!(is_lost(word, &sources), "{word}");
    }
    for word in
        ["b.rs", "a/src/b.rs", "Known", "Known::step", "make test", "TOML", "recipes/<method>/"]
    {
        assert!(!is_lost(word, &sources), "{word}");
    }
    assert_eq!(quoted("`a/{b,c,...}.rs` and `D`"), ["a/b.rs", "a/c.rs", "D"]);
}
