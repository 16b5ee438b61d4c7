//! What k-NN costs: peak memory and time of the streamed search through a bank of features.
//!
//!     cargo run --release -p nearkin-eval --example knn_memory [QUERIES BANK LENGTH | FOLDER]
//!
//! With a folder, `scripts/bench_knn.py` has put features there that other programs search too:
//! `queries.f32` and `bank.f32` (rows of LENGTH numbers) with `queries.i64` and `bank.i64` (classes).

#![allow(clippy::print_stdout, reason = "an example prints what it finds")]

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use nearkin_eval::{Search, Votes, unit_rows};
use tch::{Device, Kind, Tensor};

type Failure = Box<dyn std::error::Error>;

const CLASSES: i64 = 10;
const VOTES: [Votes; 2] = [Votes { k: 200, temperature: 0.1 }, Votes { k: 20, temperature: 0.07 }];
/// Rows that arrive at once, as from a network.
const BATCH: i64 = 256;

/// A line of `/proc/self/status`, in MiB.
fn status(key: &str) -> Result<f64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()).unwrap_or("0").parse()?;
    Ok(kib / 1024.0)
}

fn drawn(rows: i64, length: i64) -> Result<(Tensor, Tensor), Failure> {
    let features = unit_rows(&Tensor::f_randn([rows, length], (Kind::Float, Device::Cpu))?)?;
    Ok((features, Tensor::f_randint(CLASSES, [rows], (Kind::Int64, Device::Cpu))?))
}

fn floats(bytes: &[u8], length: i64) -> Result<Tensor, Failure> {
    let rows = (bytes.len() / 4) as i64 / length;
    Ok(Tensor::f_from_data_size(bytes, &[rows, length], Kind::Float)?)
}

fn classes(path: &Path) -> Result<Tensor, Failure> {
    let bytes = std::fs::read(path)?;
    Ok(Tensor::f_from_data_size(&bytes, &[(bytes.len() / 8) as i64], Kind::Int64)?)
}

/// Searches and says what it took; `next` hands over the bank batch by batch.
fn measure(
    (queries, truth): (Tensor, Tensor),
    mut next: impl FnMut() -> Result<Option<(Tensor, Tensor)>, Failure>,
) -> Result<(), Failure> {
    std::fs::write("/proc/self/clear_refs", "5")?;
    let before = status("VmRSS")?;
    let begun = Instant::now();
    let mut search = Search::new(queries, truth, &VOTES)?;
    while let Some((rows, labels)) = next()? {
        search.add(rows, labels)?;
    }
    let results = search.finish(CLASSES)?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} {seconds} {}", status("VmHWM")? - before, results[0].top_1);
    Ok(())
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [folder] = &arguments[..] {
        let folder = Path::new(folder);
        let length: i64 = std::fs::read_to_string(folder.join("length"))?.trim().parse()?;
        let queries = floats(&std::fs::read(folder.join("queries.f32"))?, length)?;
        let truth = classes(&folder.join("queries.i64"))?;
        let of = classes(&folder.join("bank.i64"))?;
        let mut file = std::fs::File::open(folder.join("bank.f32"))?;
        let mut at = 0;
        return measure((queries, truth), || {
            let count = BATCH.min(of.size()[0] - at);
            if count == 0 {
                return Ok(None);
            }
            let mut bytes = vec![0; (4 * count * length) as usize];
            file.read_exact(&mut bytes)?;
            at += count;
            Ok(Some((floats(&bytes, length)?, of.f_narrow(0, at - count, count)?)))
        });
    }
    let mut sizes = [10_000, 50_000, 512];
    for (size, argument) in sizes.iter_mut().zip(&arguments) {
        *size = argument.parse()?;
    }
    let [queries, bank, length] = sizes;
    println!(
        "k-NN, {queries} queries, bank of {bank}, length {length}, {} votes, {} thread(s): peak MiB \
         beyond the queries, seconds, top-1",
        VOTES.len(),
        tch::get_num_threads()
    );
    let mut left = bank;
    measure(drawn(queries, length)?, || {
        let count = BATCH.min(left);
        left -= count;
        if count == 0 { Ok(None) } else { drawn(count, length).map(Some) }
    })
}
