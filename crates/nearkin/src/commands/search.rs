//! `nearkin search`

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use nearkin_embed::{Features, Match, search, similar_to};
use nearkin_report::{table, write_atomically};

use super::{bad_input, cell, threads};
use crate::output::print;

/// Find the images that are most similar to one, or to each of many.
///
/// Similarity is the cosine. The search is exact: every query is compared with every image, block by
/// block. The features are read into memory, 4 bytes per value.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    nearkin search photos.npy --query cats/01.png\n  \
    nearkin search photos.parquet --queries new.npy --top-k 5 --out matches.csv")]
pub(crate) struct Arguments {
    /// What nearkin embed wrote: .npy, .safetensors or .parquet.
    features: PathBuf,
    /// An image in FEATURES, by its name, the end of its path or its number from 0, which is left out
    /// of the result; or an .npy file with one vector.
    #[arg(long, value_name = "NAME|INDEX|FILE.npy", conflicts_with = "queries")]
    query: Option<String>,
    /// Features of which each image is a query; needs --out.
    #[arg(long, value_name = "FEATURES2", requires = "out", required_unless_present = "query")]
    queries: Option<PathBuf>,
    /// How many to find.
    #[arg(long, alias = "top_k", value_name = "K", default_value = "10")]
    top_k: NonZeroUsize,
    /// The table to write: query, rank, index, name, similarity.
    #[arg(long, value_name = "FILE.csv")]
    out: Option<PathBuf>,
    /// Threads that compare; if absent, one per core.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let features = Features::read(&arguments.features)?;
    let own = match &arguments.query {
        Some(query) if !is_file(query) => Some(features.find(query)?),
        _ => None,
    };
    let queries = match (&arguments.query, &arguments.queries) {
        (Some(query), _) if own.is_none() => Some(one_vector(Path::new(query))?),
        (_, Some(queries)) => Some(Features::read(queries)?),
        _ => None,
    };
    let Features { vectors, names, .. } = features;
    let base = vectors.into_unit();
    let reading = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let (threads, top_k) = (threads(arguments.threads), arguments.top_k.get());
    let (asked, found) = match (own, queries) {
        (Some(row), _) => {
            let found = similar_to(&base, row, top_k, threads)?;
            (vec![names[row].clone()], vec![found])
        }
        (None, Some(queries)) => {
            let found = search(&base, &queries.vectors.into_unit(), top_k, threads)?;
            (queries.names, found)
        }
        (None, None) => return Err(bad_input("give --query or --queries")),
    };
    let seconds = begun.elapsed().as_secs_f64();
    let mut text = String::new();
    if let Some(out) = &arguments.out {
        write_atomically(out, |file| write_csv(file, &names, &asked, &found))?;
        writeln!(text, "wrote {}", out.display())?;
    } else {
        text += &shown(&names, &found);
    }
    let (images, width, queries) = (base.len(), base.width(), found.len());
    writeln!(
        text,
        "{queries} queries among {images} images of {width} values, exact: {seconds:.1} s, reading \
         {reading:.1} s"
    )?;
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn is_file(query: &str) -> bool {
    Path::new(query).extension().is_some_and(|end| end == "npy")
}

fn one_vector(path: &Path) -> anyhow::Result<Features> {
    let features = Features::read(path)?;
    match features.vectors.len() {
        1 => Ok(features),
        rows => Err(bad_input(format!(
            "{} has {rows} vectors, and --query takes one: give it as --queries with --out",
            path.display()
        ))),
    }
}

fn shown(names: &[String], found: &[Vec<Match>]) -> String {
    let rows = found.iter().flatten().enumerate().map(|(rank, found)| {
        let (similarity, index) = (format!("{:.4}", found.similarity), found.index.to_string());
        vec![(rank + 1).to_string(), similarity, index, names[found.index].clone()]
    });
    table::render(&["rank", "similarity", "index", "name"], &rows.collect::<Vec<_>>())
}

fn write_csv(
    file: &mut impl std::io::Write,
    names: &[String],
    queries: &[String],
    found: &[Vec<Match>],
) -> std::io::Result<()> {
    writeln!(file, "query,rank,index,name,similarity")?;
    for (query, found) in queries.iter().zip(found) {
        for (rank, &Match { index, similarity }) in found.iter().enumerate() {
            let (query, rank, name) = (cell(query), rank + 1, cell(&names[index]));
            writeln!(file, "{query},{rank},{index},{name},{similarity:.6}")?;
        }
    }
    Ok(())
}
