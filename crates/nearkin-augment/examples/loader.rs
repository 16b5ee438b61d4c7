//! How fast batches of two MoCo v2 views are made of images on disk.
//!
//! `cargo run --release -p nearkin-augment --example loader -- PATH SIZE WORKERS IMAGES` reads a set
//! of any kind that nearkin knows, as training does, and prints images per second. With 0 workers
//! the one thread that takes the batches also makes them. `scripts/bench_augment.py` compares this
//! with Python.

#![allow(clippy::print_stdout, reason = "an example prints what it finds")]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nearkin_augment::{Loader, LoaderOptions, Order, View, ViewOptions};
use nearkin_data::{Split, inspect};

const BATCH_SIZE: NonZeroUsize = const { NonZeroUsize::new(32).unwrap() };

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, size, workers, images] = &arguments[..] else {
        return Err("usage: loader PATH SIZE WORKERS IMAGES".into());
    };
    let (workers, images) = (workers.parse()?, images.parse::<usize>()?);
    let text = format!("name = \"view\"\npreset = \"moco-v2\"\nsize = {}", size.parse::<usize>()?);
    let view = View::new(toml::from_str::<ViewOptions>(&text)?)?;
    let set = nearkin_data::open(&inspect::detect(Path::new(path))?, Split::Train)?;
    let mut order = Order::new(set.len(), BATCH_SIZE, 0, false);
    let plans = (0..).flat_map(move |epoch| {
        let plans: Vec<_> =
            (0..order.batches_per_epoch()).map(|batch| order.plan(epoch, batch)).collect();
        plans
    });
    let options = LoaderOptions { workers, prefetch_batches: 2 };
    let views = Arc::new([view.clone(), view]);
    let mut loader = Loader::start(set, views, 0, plans, options)?;
    let (begun, mut made) = (Instant::now(), 0);
    while made < images {
        let batch = loader.next().ok_or("the order of training has no end")??;
        made += black_box(&batch).images.len();
    }
    println!("{:.1}", made as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}
