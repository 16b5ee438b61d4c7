//! `nearkin dedupe`

use std::fmt::Write as _;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use nearkin_embed::{
    Bin, Distribution, Duplicates, Features, Grouping, find_duplicates, nearest_similarities,
};
use nearkin_report::write_atomically;

use super::centering::Centering;
use super::image_list::write_image_list;
use super::{bad_input, cell, threads};
use crate::output::{print, say};

/// Find duplicates and near-duplicates.
///
/// Images are compared by the cosine of their features after the mean of all features is taken out.
/// Images are looked at in the order of FEATURES: an image is kept unless a kept one before it is at
/// least as similar as --similarity says, and is removed for the first such image. No pair is missed.
/// The histogram shows how similar each image is to the one nearest to it: the similarity separates
/// near-duplicates from the rest where few images are near it. The features are read into memory, 4
/// bytes per value.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    nearkin dedupe photos.npy --out groups.csv --keep-list kept.txt")]
pub(crate) struct Arguments {
    /// What nearkin embed wrote: .npy, .safetensors or .parquet.
    features: PathBuf,
    /// The similarity from which on two images are near-duplicates, above 0 and at most 1. Lower values
    /// take longer.
    #[arg(long, value_name = "COSINE", default_value_t = SIMILARITY)]
    similarity: f32,
    /// Group all images that are connected by a chain of similar ones. Images of a group may then be
    /// less similar than --similarity to the one that is kept.
    #[arg(long)]
    chains: bool,
    /// The table of groups to write: group, index, name, similarity (to the one to keep), keep.
    #[arg(long, value_name = "FILE.csv")]
    out: PathBuf,
    /// Write the paths of the images that are kept, as a list for dataset = "list".
    #[arg(long, value_name = "FILE")]
    keep_list: Option<PathBuf>,
    /// Write --keep-list even if it keeps less than half of the images.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    centering: Centering,
    /// Threads that compare; if absent, one per core.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

/// Chosen on planted near-duplicates; docs/embeddings.md has the figures.
const SIMILARITY: f32 = 0.98;

/// A group with more images than both is more likely to be images that the encoder cannot tell apart.
const LARGE_GROUP: usize = 10;
const LARGE_SHARE: f64 = 0.01;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let features = Features::read(&arguments.features)?;
    let centering = arguments.centering.choose(&features);
    let Features { vectors, names, .. } = features;
    let vectors = centering.apply(vectors)?;
    let reading = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let (similarity, threads) = (arguments.similarity, threads(arguments.threads));
    let grouping = if arguments.chains { Grouping::Chains } else { Grouping::ToKept };
    let found = find_duplicates(&vectors, similarity, grouping, threads)?;
    let nearest = nearest_similarities(&vectors, threads)?;
    let seconds = begun.elapsed().as_secs_f64();
    write_atomically(&arguments.out, |file| write_csv(file, &names, &found))?;

    let images = vectors.len();
    let kept = images - found.removed();
    let all_with_all = images as f64 * images as f64;
    let mut text = format!(
        "{}: {} group(s) of near-duplicates ({} of {similarity} or more); {} of {images} images are \
         removed, {kept} are kept\n\n{}\n\
         exact, in {} cells; {:.2} % of the comparisons of all with all; {seconds:.1} s, reading \
         {reading:.1} s\n",
        arguments.features.display(),
        found.groups.len(),
        centering.measure(),
        found.removed(),
        histogram(&nearest, similarity),
        found.cells,
        100.0 * found.compared as f64 / all_with_all.max(1.0)
    );
    writeln!(text, "wrote {}", arguments.out.display())?;
    print(&text)?;
    warn_of_large_group(&found, images);
    let Some(list) = &arguments.keep_list else { return Ok(ExitCode::SUCCESS) };
    if 2 * kept < images && !arguments.force {
        return Err(bad_input(format!(
            "{} was not written: it would keep {kept} of {images} images, less than half; raise \
             --similarity, or give --force if {} shows near-duplicates only",
            list.display(),
            arguments.out.display()
        )));
    }
    write_image_list(list, &kept_names(&names, &found), &arguments.features)?;
    Ok(ExitCode::SUCCESS)
}

fn warn_of_large_group(found: &Duplicates, images: usize) {
    let Some(largest) = found.largest() else { return };
    let (rows, share) = (largest.rows(), largest.rows() as f64 / images as f64);
    if rows > LARGE_GROUP && share > LARGE_SHARE {
        say(&format!(
            "warning: one group has {rows} images, {:.1} % of all; near-duplicates are rarely that many, \
             so the encoder may not tell these images apart: look at the group of image {} and raise \
             --similarity",
            100.0 * share,
            largest.kept
        ));
    }
}

/// How similar images are to the image nearest to each, with a line at the bound.
fn histogram(nearest: &Distribution, bound: f32) -> String {
    const LONGEST: usize = 40;
    let images = nearest.similarities.len();
    let of = if nearest.is_whole { "images" } else { "sampled images" };
    let mut text = format!("similarity to the nearest other image ({images} {of})\n");
    let bins = nearest.histogram(bound);
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0).max(1);
    // Borders of bins have the digits of the bound.
    let digits = bound.to_string().split_once('.').map_or(0, |(_, digits)| digits.len());
    let decimals = digits.clamp(2, 6);
    let range = 2 * (decimals + 2) + 4;
    let mut is_above = true;
    for Bin { from, to, count } in bins {
        if is_above && from.is_none_or(|from| from < bound) {
            is_above = false;
            let _ = writeln!(text, "  {:-<1$} --similarity {bound}", "", range + 9);
        }
        let range_of = match from {
            Some(from) => format!("{from:.decimals$} to {to:.decimals$}"),
            None => format!("below {to:.decimals$}"),
        };
        // A single image is never invisible.
        let bar = "#".repeat((count * LONGEST).div_ceil(most));
        let line = format!("  {range_of:>range$} {count:>8} {bar}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn write_csv(file: &mut impl Write, names: &[String], found: &Duplicates) -> io::Result<()> {
    writeln!(file, "group,index,name,similarity,keep")?;
    for (number, group) in found.groups.iter().enumerate() {
        writeln!(file, "{number},{},{},1.000000,yes", group.kept, cell(&names[group.kept]))?;
        for &(index, similarity) in &group.removed {
            writeln!(file, "{number},{index},{},{similarity:.6},no", cell(&names[index]))?;
        }
    }
    Ok(())
}

fn kept_names<'a>(names: &'a [String], found: &Duplicates) -> Vec<&'a str> {
    let mut keep = vec![true; names.len()];
    for &(index, _) in found.groups.iter().flat_map(|group| &group.removed) {
        keep[index] = false;
    }
    names.iter().zip(keep).filter(|(_, keep)| *keep).map(|(name, _)| name.as_str()).collect()
}
