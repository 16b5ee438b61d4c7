//! `nearkin select`

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use nearkin_embed::{FacilityOptions, Features, facility_location, k_center};
use nearkin_report::write_atomically;

use super::threads;
use crate::output::print;

/// Choose a few images that stand for all, to label them say.
///
/// k-center chooses so that no image is far from all chosen ones: the rare ones, outliers among them.
/// It is the greedy algorithm, computed exactly. facility-location chooses so that all images are
/// similar to a chosen one on average: the typical ones. It is stochastic greedy choice, approximate in
/// two ways: a sample stands for all images, and each step looks at some of them.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    nearkin select photos.npy --count 1000 --method k-center --out selected.txt")]
pub(crate) struct Arguments {
    /// What nearkin embed wrote: .npy, .safetensors or .parquet.
    features: PathBuf,
    /// How many images.
    #[arg(long, value_name = "N")]
    count: NonZeroUsize,
    /// How they are chosen.
    #[arg(long, value_enum)]
    method: Method,
    /// The names of the chosen images, one per line, in the order of choice.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Seed of what is drawn: the first image, or sample and candidates.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Images that stand for all in facility-location.
    #[arg(long, value_name = "N", default_value = "10000")]
    sample: NonZeroUsize,
    /// How much worse than looking at all images a step of facility-location may be, in expectation; 0
    /// looks at all.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    epsilon: f64,
    /// Threads that compare; if absent, one per core.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Method {
    KCenter,
    FacilityLocation,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let Features { vectors, names, .. } = Features::read(&arguments.features)?;
    let vectors = vectors.into_unit();
    let reading = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let (count, threads) = (arguments.count.get(), threads(arguments.threads));
    let images = vectors.len();
    let (selection, how) = match arguments.method {
        Method::KCenter => {
            let selection = k_center(&vectors, count, arguments.seed, threads)?;
            let similarity = selection.similarity;
            let how = format!(
                "k-center, exact: every image has a chosen one of similarity {similarity:.4} or more"
            );
            (selection, how)
        }
        Method::FacilityLocation => {
            let (sample, epsilon) = (arguments.sample.get(), arguments.epsilon);
            let options = FacilityOptions { sample, epsilon, seed: arguments.seed };
            let selection = facility_location(&vectors, count, options, threads)?;
            let how = format!(
                "facility-location, stochastic greedy with epsilon {epsilon} on {} of the images: \
                 these have a chosen one of similarity {:.4} on average",
                sample.min(images),
                selection.similarity
            );
            (selection, how)
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    write_atomically(&arguments.out, |file| {
        let names = selection.rows.iter().map(|&row| &names[row]);
        names.into_iter().try_for_each(|name| writeln!(file, "{name}"))
    })?;
    print(&format!(
        "{}: {count} of {images} images chosen\n{how}; {seconds:.1} s, reading {reading:.1} s\nwrote \
         {}\n",
        arguments.features.display(),
        arguments.out.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
