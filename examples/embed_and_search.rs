//! Embeds images with the encoder of a run, and finds the most similar ones to each of the first three.
//!
//! `cargo run --release --example embed_and_search -- runs/example`

#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

use std::num::NonZeroUsize;
use std::path::PathBuf;

use nearkin::data::Split;
use nearkin::embed::{Vectors, similar_to};
use nearkin::eval::{FeatureOptions, FeatureSource, Features, unit_rows};
use nearkin::probe::Subject;
use nearkin::{Recipe, RunFolder};
use tch::Device;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or("give the folder of a run")?;
    let run = RunFolder::open(&folder)?;
    let subject = Subject::from_run(&run, Recipe::read(&run.recipe())?)?;
    let encoder = subject.encoder(Device::Cpu)?;
    let (images, view) = (subject.images(Split::Train)?, &subject.evaluation_view);

    let source = FeatureSource::Backbone(&encoder);
    let features = Features::of(source, &images, view, FeatureOptions::default())?;
    // Features after ReLU and pooling all point one way: only what differs from their mean tells
    // images apart.
    let center = features.rows.f_mean_dim(0, true, None)?;
    let rows = unit_rows(&features.rows.f_sub(&center)?)?;
    let width = rows.size()[1] as usize;
    let values = Vec::<f32>::try_from(rows.flatten(0, -1))?;
    let vectors = Vectors::new(values, width).ok_or("an encoder without features")?;

    let threads = NonZeroUsize::MIN;
    for query in 0..3 {
        println!("{}", images.name(features.images[query]));
        for found in similar_to(&vectors, query, 4, threads)? {
            println!("    {:.3} {}", found.similarity, images.name(features.images[found.index]));
        }
    }
    Ok(())
}
