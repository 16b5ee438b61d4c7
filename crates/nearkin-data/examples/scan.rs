//! How long it takes to list a large tree of files, without and with an index.
//!
//! `cargo run --release -p nearkin-data --example scan -- [FILES] [FOLDERS]` makes that many empty
//! files (1,000,000 in 1,000 folders) in a temporary folder and removes them afterwards.

#![allow(clippy::print_stdout, reason = "an example prints what it finds")]

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use nearkin_data::scan;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let files = numbers.next().transpose()?.unwrap_or(1_000_000);
    let folders = numbers.next().transpose()?.unwrap_or(1_000).max(1);
    let place = std::env::temp_dir().join(format!("nearkin-scan-{}", std::process::id()));
    let result = measure(&place, files, folders);
    fs::remove_dir_all(&place)?;
    result
}

fn measure(place: &Path, files: usize, folders: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (images, index) = (place.join("images"), place.join("index"));
    for folder in 0..folders {
        let class = images.join(format!("n{folder:08}"));
        fs::create_dir_all(&class)?;
        for file in (folder..files).step_by(folders) {
            File::create(class.join(format!("n{folder:08}_{file}.JPEG")))?;
        }
    }
    // Folders that have only just changed are not indexed.
    std::thread::sleep(Duration::from_secs(4));
    for name in ["no index", "cold: index is made", "warm", "warm again"] {
        let begun = Instant::now();
        let listing = scan::scan(&images, (name != "no index").then_some(&index))?;
        let seconds = begun.elapsed().as_secs_f64();
        println!("{:>9} files in {folders} folders, {name}: {seconds:.3} s", listing.len());
    }
    let bytes: u64 = fs::read_dir(&index)?
        .map(|entry| entry.and_then(|entry| entry.metadata()).map(|file| file.len()))
        .sum::<Result<_, _>>()?;
    println!("index: {bytes} bytes");
    Ok(())
}
