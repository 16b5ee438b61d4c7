//! What an exchange between two processes on this machine takes, by size: the numbers behind
//! docs/scaling.md.
//!
//!     cargo run --release -p nearkin-dist --example exchange

#![allow(clippy::print_stdout, reason = "an example prints what it finds")]
#![allow(clippy::unwrap_used, reason = "a measurement ends where it fails")]

use std::process::Command;
use std::time::{Duration, Instant};

use nearkin_dist::testing::{free_port, join, place};
use nearkin_dist::{Processes, World};
use tch::{Device, Kind, Tensor};

/// Of tensors, in KiB: statistics of a batch norm, embeddings of a batch, and gradients.
const SIZES_KIB: [i64; 6] = [1, 16, 256, 4096, 25 * 1024, 100 * 1024];
const ROUNDS: usize = 15;

fn main() {
    if std::env::var_os("RANK").is_some() {
        let world = join(Duration::from_mins(1)).unwrap();
        return measure(&world);
    }
    let port = free_port();
    let start = |rank| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        place(&mut command, rank, 2, port);
        command.spawn().unwrap()
    };
    for mut process in [start(0), start(1)] {
        assert!(process.wait().unwrap().success());
    }
}

fn measure(world: &Processes) {
    tch::set_num_threads(1);
    let first = world.rank() == 0;
    if first {
        println!("two processes, medians of {ROUNDS} rounds");
        println!("{:>10} {:>14} {:>14}", "KiB", "sum, ms", "gather, ms");
    }
    for size in SIZES_KIB {
        let mut tensor = Tensor::zeros([size * 256, 1], (Kind::Float, Device::Cpu));
        let sum = median(|| world.sum(&mut tensor).unwrap());
        let gather = median(|| drop(world.gather(&tensor).unwrap()));
        if first {
            println!("{size:>10} {sum:>14.3} {gather:>14.3}");
        }
    }
}

fn median(mut operation: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            operation();
            1e3 * begun.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}
