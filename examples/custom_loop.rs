//! Trains in a loop of its own: no run folder, no checkpoints, only steps.
//!
//! `cargo run --release --example custom_loop -- recipes/demo.toml encoder.safetensors`

#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

use std::path::PathBuf;

use nearkin::train::save_tensors;
use nearkin::{Batches, DeviceChoice, Learner, Recipe, Setup, SingleProcess};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(recipe), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("give a recipe and the file of weights to write".into());
    };
    let recipe = Recipe::read(&recipe)?;
    let images = recipe.open_training_images()?;
    let device = DeviceChoice::Auto.open()?;
    let mut learner =
        Learner::new(Setup::new(recipe)?, images.len(), device, SingleProcess::shared())?;
    let mut batches = Batches::new(&learner, images, 1)?;

    while learner.steps_done() < learner.total_steps() {
        let report = learner.step(&mut batches)?.read()?;
        if !report.finite {
            println!("step {} was skipped: its loss or a gradient is not finite", report.step);
        }
        if report.step.is_multiple_of(10) {
            let rate = report.learning_rate;
            println!("step {}: loss {:.3}, learning rate {rate:.4}", report.step, report.loss);
        }
    }
    // `nearkin eval` and `nearkin embed` take this file, with the recipe as `--recipe`.
    save_tensors(&file, learner.encoder().parameters().named())?;
    println!("wrote {}", file.display());
    Ok(())
}
