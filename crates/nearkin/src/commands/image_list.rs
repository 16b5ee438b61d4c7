//! Lists of images that were chosen by their features, to be given as `dataset = "list"`.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use nearkin_data::list_line;
use nearkin_report::write_atomically;

use crate::output::{print, say};

/// Names that are looked up on disk to find out whether they are image files.
const LOOKED_UP: usize = 100;

/// Replaces bytes of a name that are not UTF-8, and line breaks.
const REPLACEMENT: char = '\u{fffd}';

/// Writes the images that were chosen, in their order, by absolute paths, so that the list can be read
/// from any folder. Prints what it wrote, and what a user has to know about it.
///
/// Records of other files (of a shard, a parquet file, CIFAR) have no paths: their list has one name a
/// line, and a note says that it cannot be given as a data set. `features` is the file that the names
/// are from.
pub(super) fn write_image_list(
    list: &Path,
    chosen: &[&str],
    features: &Path,
) -> anyhow::Result<()> {
    let shown = list.display();
    let here = std::env::current_dir().context("cannot find the current folder")?;
    // Names of older files are relative to the folder in which nearkin embed ran.
    let beside = here.join(features.parent().unwrap_or(Path::new("")));
    let beside = std::fs::canonicalize(&beside).unwrap_or(beside);
    let [in_here, in_beside] = [&here, &beside].map(|base| missing(base, chosen));
    let (base, missing) =
        if in_beside.len() < in_here.len() { (beside, in_beside) } else { (here, in_here) };
    let looked_up = sample(chosen).count();
    if missing.len() == looked_up {
        write_atomically(list, |file| {
            chosen.iter().try_for_each(|name| writeln!(file, "{}", name.replace('\n', " ")))
        })?;
        print(&format!("wrote {shown}\n"))?;
        if let Some(name) = missing.first() {
            say(&format!(
                "note: {shown} cannot be given as dataset = \"list\": {name} is a record or a file \
                 that does not exist"
            ));
        }
        return Ok(());
    }
    let (mut lines, mut left_out) = (Vec::with_capacity(chosen.len()), Vec::new());
    for &name in chosen {
        let path = base.join(name);
        let is_lost = name.contains(REPLACEMENT) && !path.exists();
        let text = path.to_str().filter(|_| !is_lost);
        match text.and_then(|text| list_line::line(text, list)) {
            Some(line) => lines.push(line.into_owned()),
            None => left_out.push(name),
        }
    }
    write_atomically(list, |file| {
        if list_line::is_table(list) {
            writeln!(file, "{}", list_line::HEADER)?;
        }
        lines.iter().try_for_each(|line| writeln!(file, "{line}"))
    })?;
    print(&format!("wrote {shown}\n"))?;
    if let Some(first) = left_out.first() {
        say(&format!(
            "warning: {shown} lacks {} of {} images: a list cannot hold names with line breaks or bytes \
             that are not UTF-8, such as {first:?}; rename them and run nearkin embed again",
            left_out.len(),
            chosen.len()
        ));
    }
    if let Some(first) = missing.first() {
        say(&format!(
            "warning: {} of {looked_up} images that were looked up do not exist, such as {first}; if \
             files were moved, run nearkin embed again",
            missing.len()
        ));
    }
    Ok(())
}

/// Some of the images, evenly spread.
fn sample<'a>(chosen: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    chosen.iter().step_by(chosen.len().div_ceil(LOOKED_UP).max(1)).copied()
}

/// Those of the sample that are not files below `base`, though their names are whole.
fn missing<'a>(base: &Path, chosen: &'a [&'a str]) -> Vec<&'a str> {
    let is_whole = |name: &&str| !name.contains(['\n', REPLACEMENT]);
    sample(chosen).filter(is_whole).filter(|name| !base.join(name).is_file()).collect()
}
