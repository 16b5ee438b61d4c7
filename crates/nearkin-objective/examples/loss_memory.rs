//! What the blockwise loss costs in memory and time, beside the same loss by automatic
//! differentiation of whole matrices: SCE for N anchors against a queue of M keys of D dimensions.
//!
//! ```sh
//! cargo run --release -p nearkin-objective --example loss_memory -- [N M D [ROUNDS]]
//! ```
//!
//! Each measurement is a process of its own, since a peak cannot be taken back; the two take turns,
//! since a machine is not equally fast at all times.

#![allow(clippy::print_stdout, reason = "an example prints what it finds")]

use std::process::Command;
use std::time::Instant;

use nearkin_objective::{
    Embedding, Encoded, Method, Progress, evaluate, from_table, target, unit_rows,
};
use tch::{Device, Kind, TchError, Tensor};

type Failure = Box<dyn std::error::Error>;

const TEMPERATURE: f64 = 0.1;
const TEMPERATURE_MOMENTUM: f64 = 0.05;
const COEFFICIENT: f64 = 0.5;

struct Inputs {
    raw: Tensor,
    keys: Tensor,
    queue: Tensor,
}

fn inputs([n, m, d]: [i64; 3]) -> Result<Inputs, TchError> {
    tch::manual_seed(0);
    let random = |rows| Tensor::f_randn([rows, d], (Kind::Float, Device::Cpu));
    Ok(Inputs {
        raw: random(n)?.f_set_requires_grad(true)?,
        keys: unit_rows(&random(n)?)?,
        queue: unit_rows(&random(m)?)?,
    })
}

/// The loss as one would write it in a few lines.
fn whole(inputs: &Inputs) -> Result<Tensor, TchError> {
    let queries = unit_rows(&inputs.raw)?;
    let queue = inputs.queue.f_transpose(0, 1)?;
    let own = queries.f_mul(&inputs.keys)?.f_sum_dim_intlist([1].as_slice(), true, Kind::Float)?;
    let logits = Tensor::f_cat(&[own, queries.f_matmul(&queue)?], 1)?.f_div_scalar(TEMPERATURE)?;
    let wanted = tch::no_grad(|| -> Result<Tensor, TchError> {
        let first = Tensor::f_zeros([inputs.keys.size()[0], 1], (Kind::Int64, Device::Cpu))?;
        let teacher = Tensor::f_cat(
            &[Tensor::f_ones_like(&first)?.f_to_kind(Kind::Float)?, inputs.keys.f_matmul(&queue)?],
            1,
        )?;
        let candidates = teacher.size()[1];
        let relations = target::softmax_except(&teacher, &first, TEMPERATURE_MOMENTUM)?;
        let positives = target::uniform(&first, candidates, Kind::Float)?;
        target::mix(&positives, &relations, COEFFICIENT)
    })?;
    let per_anchor = logits.f_log_softmax(1, Kind::Float)?.f_mul(&wanted)?.f_sum_dim_intlist(
        [1].as_slice(),
        false,
        Kind::Float,
    )?;
    per_anchor.f_mean(Kind::Float)?.f_neg()
}

fn blockwise(inputs: &Inputs, method: &dyn Method) -> Result<Tensor, TchError> {
    let encoded = Encoded {
        online: vec![None, Some(Embedding::single(unit_rows(&inputs.raw)?))],
        keys: vec![Some(Embedding::single(inputs.keys.shallow_clone())), None],
        queue: Some(inputs.queue.shallow_clone()),
        progress: Progress::default(),
        ..Encoded::default()
    };
    Ok(evaluate(&method.terms(&encoded)?)?.loss)
}

/// A line of `/proc/self/status`, in MiB.
fn status(key: &str) -> Result<f64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()).unwrap_or("0").parse()?;
    Ok(kib / 1024.0)
}

/// Runs one way in this process and prints peak above the inputs (MiB), seconds and the loss.
fn measure(way: &str, sizes: [i64; 3]) -> Result<(), Failure> {
    let method = from_table(&toml::Table::from_iter([("name".to_owned(), "sce".into())]))?.method;
    // The first call of anything pays for threads and libraries.
    let small = inputs([64, 256, sizes[2]])?;
    let run = |inputs: &Inputs| -> Result<f64, Failure> {
        let loss = if way == "whole" { whole(inputs)? } else { blockwise(inputs, &*method)? };
        loss.f_backward()?;
        Ok(loss.f_double_value(&[])?)
    };
    run(&small)?;
    let inputs = inputs(sizes)?;
    std::fs::write("/proc/self/clear_refs", "5")?;
    let before = status("VmRSS")?;
    let begun = Instant::now();
    let loss = run(&inputs)?;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} {seconds} {loss} {}",
        status("VmHWM")? - before,
        inputs.raw.grad().f_norm()?.f_double_value(&[])?
    );
    Ok(())
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [way, n, m, d] = &arguments[..]
        && ["whole", "blocks"].contains(&way.as_str())
    {
        return measure(way, [n.parse()?, m.parse()?, d.parse()?]);
    }
    let mut numbers = [4096, 65_536, 256, 3];
    for (number, argument) in numbers.iter_mut().zip(&arguments) {
        *number = argument.parse()?;
    }
    let [n, m, d, rounds] = numbers;
    println!("SCE, N = {n}, M = {m}, D = {d}, f32, {} thread(s)", tch::get_num_threads());
    println!("{:8} {:>10} {:>9} {:>12} {:>14}", "way", "peak MiB", "seconds", "loss", "|gradient|");
    for _ in 0..rounds {
        for way in ["whole", "blocks"] {
            let sizes = [n, m, d].map(|size| size.to_string());
            let output = Command::new(std::env::current_exe()?).arg(way).args(sizes).output()?;
            if !output.status.success() {
                return Err(format!("{way}: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
            let text = String::from_utf8(output.stdout)?;
            let cells: Vec<f64> =
                text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            if let [peak, seconds, loss, gradient] = cells[..] {
                println!("{way:8} {peak:10.0} {seconds:9.2} {loss:12.6} {gradient:14.6e}");
            }
        }
    }
    Ok(())
}
