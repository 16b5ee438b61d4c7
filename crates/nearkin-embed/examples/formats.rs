//! Writes what `scripts/fixtures/embed.py` loads into Python: the same rows in every format, and
//! what is found among them.

use std::error::Error;
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::Path;

use nearkin_embed::{FeatureWriter, Features, Grouping, Row, find_duplicates, k_center, search};

const ROWS: usize = 3000;
const WIDTH: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("give the folder to write to")?;
    let folder = Path::new(&folder);
    let metadata = vec![("encoder".to_owned(), "a \"sine\"".to_owned())];
    for format in ["npy", "safetensors", "parquet"] {
        let path = folder.join(format!("some.{format}"));
        let mut writer = FeatureWriter::create(&path, WIDTH, &metadata)?;
        for row in 0..ROWS {
            let value = |column: usize| {
                (0.37 * row as f64 * (column + 1) as f64 + 0.1 * column as f64).sin() as f32
            };
            let embedding: Vec<f32> = (0..WIDTH).map(value).collect();
            let name = format!("folder/é, {row}.png");
            let label = (row % 5 > 0).then_some(row % 7);
            writer.push(Row { name: &name, label, embedding: &embedding })?;
        }
        writer.finish()?;
    }
    let features = Features::read(&folder.join("some.npy"))?;
    let centered = features.vectors.clone().into_centered(&features.center)?;
    let vectors = features.vectors.into_unit();
    let threads = NonZeroUsize::MIN;
    let mut text = String::new();
    for (query, found) in search(&vectors, &vectors, 5, threads)?.iter().enumerate() {
        for (rank, found) in found.iter().enumerate() {
            writeln!(text, "{query},{rank},{},{}", found.index, found.similarity)?;
        }
    }
    std::fs::write(folder.join("neighbours.csv"), text)?;
    for (bound, grouping, name) in [
        ("0.99", Grouping::Chains, "chains"),
        ("0.9", Grouping::Chains, "chains"),
        ("0.99", Grouping::ToKept, "kept"),
        ("0.9", Grouping::ToKept, "kept"),
    ] {
        let mut text = String::new();
        for group in find_duplicates(&centered, bound.parse()?, grouping, threads)?.groups {
            let removed = group.removed.iter().map(|(row, _)| *row);
            let rows: Vec<String> =
                std::iter::once(group.kept).chain(removed).map(|row| row.to_string()).collect();
            writeln!(text, "{}", rows.join(","))?;
        }
        std::fs::write(folder.join(format!("{name}-{bound}.csv")), text)?;
    }
    let chosen = k_center(&vectors, 200, 0, threads)?.rows;
    let chosen: Vec<String> = chosen.iter().map(ToString::to_string).collect();
    std::fs::write(folder.join("chosen.csv"), chosen.join("\n") + "\n")?;
    Ok(())
}
