//! `nearkin data inspect`

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nearkin_data::inspect::{Inspection, SplitInspection, Spread, detect, inspect};
use nearkin_report::table;

use crate::output::print;

/// Longer lists are cut in the text; the JSON has them whole.
const SHOWN: usize = 20;

/// Decode every image and say what is there.
///
/// Names the kind of set, its classes with their counts, image sizes, images that cannot be read and
/// images with the same pixels. Understands CIFAR-10 and CIFAR-100 in every form, STL-10 (binary
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
    let said = match arguments.json {
        true => serde_json::to_string_pretty(&found)? + "\n",
        false => text(&arguments.path.display().to_string(), &found),
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
        let reasons = split.unreadable.iter().map(|image| image.reason.clone());
        let title = format!("unreadable images of the {} split", split.split);
        text += &list(&title, &reasons.collect::<Vec<_>>());
    }
    let groups = found.duplicates.iter().map(|copies| {
        let names: Vec<String> =
            copies.iter().map(|copy| format!("{} ({})", copy.image, copy.split)).collect();
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

/// A row for each class, with its images in each split.
fn classes(splits: &[SplitInspection]) -> String {
    let Some(longest) = splits.iter().max_by_key(|split| split.classes.len()) else {
        return String::new();
    };
    if longest.classes.is_empty() {
        return String::new();
    }
    let row = |label: usize| {
        let count = |split: &SplitInspection| {
            split
                .classes
                .get(label)
                .map_or_else(|| "-".to_owned(), |class| class.images.to_string())
        };
        let name = longest.classes[label].name.clone();
        std::iter::once(name).chain(splits.iter().map(count)).collect()
    };
    let shown = longest.classes.len().min(SHOWN);
    let rows: Vec<Vec<String>> = (0..shown).map(row).collect();
    let headers: Vec<&str> =
        std::iter::once("class").chain(splits.iter().map(|split| split.split)).collect();
    let more = more(longest.classes.len() - shown);
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
