//! What it costs to train 40 linear classifiers side by side instead of one.
//!
//!     cargo run --release -p nearkin-probe --example side_by_side [IMAGES LENGTH CLASSES EPOCHS]

#![allow(clippy::print_stdout, reason = "an example prints what it finds")]

use std::num::NonZeroUsize;
use std::time::Instant;

use nearkin_probe::{Passes, SideBySide, grid};
use tch::{Device, Kind, Tensor};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut numbers = [50_000, 512, 10, 10];
    for (number, argument) in numbers.iter_mut().zip(std::env::args().skip(1)) {
        *number = argument.parse()?;
    }
    let [images, length, classes, epochs] = numbers;
    let rows = Tensor::f_randn([images, length], (Kind::Float, Device::Cpu))?;
    let labels = Tensor::f_randint(classes, [images], (Kind::Int64, Device::Cpu))?;
    let passes = Passes {
        epochs: epochs as u64,
        batch_size: const { NonZeroUsize::new(1024).unwrap() },
        seed: 0,
        drop_last: false,
    };
    let grid = grid();
    println!(
        "{images} images, length {length}, {classes} classes, {epochs} epochs, {} thread(s)",
        tch::get_num_threads()
    );
    for _ in 0..3 {
        for settings in [&grid[..1], &grid] {
            let begun = Instant::now();
            SideBySide::train(&rows, &labels, classes, settings, passes)?;
            println!("{:3} settings: {:.2} s", settings.len(), begun.elapsed().as_secs_f64());
        }
    }
    Ok(())
}
