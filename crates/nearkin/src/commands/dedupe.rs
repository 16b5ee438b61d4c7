//! `nearkin dedupe`

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use nearkin_embed::{Duplicates, Features, Vectors, find_duplicates};
use nearkin_report::write_atomically;

use super::{cell, threads};
use crate::output::print;

/// Find images that are there twice, or nearly.
///
/// All images whose features have at least that cosine are joined, and with them whatever these are
/// joined to; the first of each group is the one to keep. No pair is missed: images are compared
/// within cells, and those near a border also across it. The features are read into memory, 4 bytes
/// per value.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    nearkin dedupe photos.npy --similarity 0.95 --out groups.csv --keep-list kept.txt")]
pub(crate) struct Arguments {
    /// What nearkin embed wrote: .npy, .safetensors or .parquet.
    features: PathBuf,
    /// The cosine from which on two images count as the same, above 0 and at most 1. The lower it is,
    /// the longer it takes.
    #[arg(long, value_name = "COSINE", default_value_t = 0.95)]
    similarity: f32,
    /// The table of groups to write: group, index, name, similarity (to the one to keep), keep.
    #[arg(long, value_name = "FILE.csv")]
    out: PathBuf,
    /// Write the names of the images that remain, one per line.
    #[arg(long, value_name = "FILE")]
    keep_list: Option<PathBuf>,
    /// Threads that compare; if absent, one per core.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let Features { vectors, names, .. } = Features::read(&arguments.features)?;
    let vectors = vectors.into_unit();
    let reading = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let similarity = arguments.similarity;
    let found = find_duplicates(&vectors, similarity, threads(arguments.threads))?;
    let seconds = begun.elapsed().as_secs_f64();
    write_atomically(&arguments.out, |file| write_csv(file, &names, &vectors, &found))?;
    if let Some(list) = &arguments.keep_list {
        write_atomically(list, |file| write_kept(file, &names, &found))?;
    }
    let images = vectors.len();
    let grouped: usize = found.groups.iter().map(Vec::len).sum();
    let remaining = found.remaining(images);
    let all_with_all = images as f64 * images as f64;
    let mut text = format!(
        "{}: {grouped} of {images} images are in {} groups of similarity {similarity} or more; \
         {remaining} would remain\n\
         exact, in {} cells; {:.2} % of the comparisons of all with all; {seconds:.1} s, reading \
         {reading:.1} s\n",
        arguments.features.display(),
        found.groups.len(),
        found.cells,
        100.0 * found.compared as f64 / all_with_all.max(1.0)
    );
    let written = [Some(&arguments.out), arguments.keep_list.as_ref()].into_iter().flatten();
    text.extend(written.map(|file| format!("wrote {}\n", file.display())));
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn write_csv(
    file: &mut impl Write,
    names: &[String],
    vectors: &Vectors,
    found: &Duplicates,
) -> io::Result<()> {
    writeln!(file, "group,index,name,similarity,keep")?;
    for (group, members) in found.groups.iter().enumerate() {
        for &index in members {
            let similarity = vectors.similarity(members[0], index);
            let keep = if index == members[0] { "yes" } else { "no" };
            writeln!(file, "{group},{index},{},{similarity:.6},{keep}", cell(&names[index]))?;
        }
    }
    Ok(())
}

fn write_kept(file: &mut impl Write, names: &[String], found: &Duplicates) -> io::Result<()> {
    let mut keep = vec![true; names.len()];
    for &index in found.groups.iter().flat_map(|members| &members[1..]) {
        keep[index] = false;
    }
    let kept = names.iter().zip(keep).filter(|(_, keep)| *keep);
    kept.map(|(name, _)| name).try_for_each(|name| writeln!(file, "{name}"))
}
