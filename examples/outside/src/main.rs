//! Trains with a method and on images that nearkin does not know.
//!
//! `cargo run --release -p outside`

#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

mod nearest_keys;
mod tiles;

use std::sync::Arc;

use nearkin::{Batches, Learner, Recipe, Setup, SingleProcess};

use crate::tiles::Tiles;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let recipe: Recipe = include_str!("../recipe.toml").parse()?;
    let images = Arc::new(Tiles::cut(256, 16));
    let setup = Setup::new(recipe)?;
    let mut learner =
        Learner::new(setup, images.count(), tch::Device::Cpu, SingleProcess::shared())?;
    let mut batches = Batches::new(&learner, images, 1)?;
    while learner.steps_done() < learner.total_steps() {
        let report = learner.step(&mut batches)?.read()?;
        println!("step {}: loss {:.3}", report.step, report.loss);
    }
    Ok(())
}
