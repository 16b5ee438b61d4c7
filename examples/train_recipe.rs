//! Trains as a recipe says, into a run folder, and reads what the run wrote down.
//!
//! `cargo run --release --example train_recipe -- recipes/demo.toml runs/example`

#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

use std::path::PathBuf;

use nearkin::report::{Kind, read_metrics};
use nearkin::{Interrupt, Outcome, Recipe, Resume, Run, RunOptions, Setup, SingleProcess};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(recipe), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("give a recipe and the folder to make".into());
    };
    let setup = Setup::new(Recipe::read(&recipe)?)?;
    let resume = Resume::New(folder);
    let mut run = Run::new(setup, &resume, RunOptions::default(), SingleProcess::shared())?;

    // Another thread, or a signal handler, may request a clone of it to stop the run with a checkpoint.
    let interrupt = Interrupt::default();
    let outcome = run.train(&interrupt)?;
    assert_eq!(outcome, Outcome::Finished);

    for record in read_metrics(&run.folder().metrics())? {
        if record.kind == Kind::Epoch {
            println!(
                "epoch {}: loss {:.3}",
                record.epoch,
                record.number("loss").unwrap_or(f64::NAN)
            );
        }
    }
    println!("report: {}", run.folder().report().display());
    Ok(())
}
