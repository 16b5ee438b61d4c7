//! `nearkin data inspect`

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nearkin_data::Escaped;
use nearkin_data::inspect::{Inspection, SplitInspection, Spread, detect, inspect};
use nearkin_report::table;

use crate::output::print;

/// Longer lists are cut in the text; the JSON has them whole.
const SHOWN: usize = 20;

/// Decode every image and say what is there.
///
/// Names the kind of set, its classes with their counts, image sizes, what was skipped and why, images
/// that cannot be read and images with the same pixels. Understands CIFAR-10 and CIFAR-100 in every form, STL-10 (binary
/// version), PASCAL VOC, idx files, folders of images, lists, tar shards, parquet files and packed files,
/// whose checksum is verified.
#[derive(Args)]
pub(crate) struct Arguments {
    /// A folder, an archive of CIFAR or STL-10, a list, a shard, a parquet file or a packed file.
    path: PathBuf,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    /// Threads that decode; if absent, one per core.
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let source = detect(&arguments.path)?;
    let found = inspect(&source, super::threads(arguments.workers))?;
    let said = if arguments.json {
        serde_json::to_string_pretty(&found)? + "\n"
    } else {
        text(&arguments.path.display().to_string(), &found)
    };
    print(&said)?;
    Ok(ExitCode::SUCCESS)
}

fn text(path: &str, found: &Inspection) -> String {
    let rows: Vec<Vec<String>> = found.splits.iter().map(split_row).collect();
    let headers = ["split", "images", "classes", "unlabelled", "unreadable", "width", "height"];
    let splits = table::render(&headers, &rows);
    let mut text = format!("{path}: dataset = \"{}\"\n\n{splits}", found.dataset);
    if found.splits.iter().any(|split| split.width.is_some()) {
        text += "width and height in pixels: smallest / median / largest\n";
    }
    text += &classes(&found.splits);
    for split in &found.splits {
        let reasons = split.skipped.reasons().iter().map(ToString::to_string);
        let lines: Vec<String> = reasons.chain(split.notes.iter().cloned()).collect();
        text += &list(&format!("notes on the {} split", split.split), &lines);
    }
    for split in &found.splits {
        let reasons = split.unreadable.iter().map(|image| image.reason.clone());
        let title = format!("unreadable images of the {} split", split.split);
        text += &list(&title, &reasons.collect::<Vec<_>>());
    }
    let groups = found.duplicates.iter().map(|copies| {
        let names: Vec<String> = copies
            .iter()
            .map(|copy| format!("{} ({})", Escaped(&copy.image), copy.split))
            .collect();
        names.join(" = ")
    });
    text + &list("images with the same pixels", &groups.collect::<Vec<_>>())
}

fn split_row(split: &SplitInspection) -> Vec<String> {
    let spread = |spread: Option<Spread>| {
        spread.map_or_else(
            || "-".to_owned(),
            |Spread { minimum, median, maximum }| format!("{minimum} / {median} / {maximum}"),
        )
    };
    vec![
        split.split.to_owned(),
        split.images.to_string(),
        split.classes.len().to_string(),
        split.unlabelled.to_string(),
        split.unreadable.len().to_string(),
        spread(split.width),
        spread(split.height),
    ]
}

/// A row for each class, with its images in each split. Splits are joined by the names of classes, in
/// the order of the first split that has them.
fn classes(splits: &[SplitInspection]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut counts: HashMap<(&str, usize), usize> = HashMap::new();
    for (place, split) in splits.iter().enumerate() {
        for class in &split.classes {
            let is_new = (0..=place).all(|split| !counts.contains_key(&(&class.name, split)));
            if is_new {
                names.push(&class.name);
            }
            *counts.entry((&class.name, place)).or_default() += class.images;
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let row = |name: &&str| {
        let count = |split: usize| {
            counts.get(&(*name, split)).map_or_else(|| "-".to_owned(), ToString::to_string)
        };
        std::iter::once(Escaped(name).to_string()).chain((0..splits.len()).map(count)).collect()
    };
    let rows: Vec<Vec<String>> = names.iter().take(SHOWN).map(row).collect();
    let headers: Vec<&str> =
        std::iter::once("class").chain(splits.iter().map(|split| split.split)).collect();
    let more = more(names.len().saturating_sub(SHOWN));
    format!("\n{}{more}", table::render(&headers, &rows))
}

fn list(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let count = lines.len();
    let title = format!("\n{title}: {count}\n");
    let shown = lines.iter().take(SHOWN);
    let text = shown.fold(title, |text, line| text + &format!("  {line}\n"));
    text + &more(count.saturating_sub(SHOWN))
}

fn more(hidden: usize) -> String {
    match hidden {
        0 => String::new(),
        hidden => format!("  and {hidden} more (--json lists all)\n"),
    }
}

#[cfg(test)]
mod tests {
    use nearkin_data::inspect::ClassCount;

    use super::*;

    #[test]
    fn names_of_classes_cannot_control_a_terminal() {
        let class = ClassCount { name: "\x1b[31mred".into(), images: 1 };
        let split = SplitInspection {
            split: "train",
            images: 1,
            unlabelled: 0,
            classes: vec![class],
            width: None,
            height: None,
            unreadable: Vec::new(),
            notes: Vec::new(),
            skipped: nearkin_data::Skipped::default(),
        };
        let text = classes(&[split]);
        assert!(text.contains("\\u{1b}[31mred") && !text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn splits_are_joined_by_the_names_of_classes() {
        let split = |split, counts: &[(&str, usize)]| {
            let class = |(name, images): &(&str, usize)| ClassCount {
                name: (*name).into(),
                images: *images,
            };
            SplitInspection {
                split,
                images: 0,
                unlabelled: 0,
                classes: counts.iter().map(class).collect(),
                width: None,
                height: None,
                unreadable: Vec::new(),
                notes: Vec::new(),
                skipped: nearkin_data::Skipped::default(),
            }
        };
        let text = classes(&[
            split("train", &[("cat", 2), ("dog", 1)]),
            split("test", &[("dog", 5), ("cat", 4), ("fox", 3)]),
        ]);
        let rows: Vec<Vec<&str>> =
            text.lines().skip(3).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows, [["cat", "2", "4"], ["dog", "1", "5"], ["fox", "-", "3"]]);
    }
}
