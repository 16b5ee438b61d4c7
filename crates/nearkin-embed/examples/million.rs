//! How long search, near-duplicates and selection take among many vectors:
//!
//! ```text
//! cargo run --release -p nearkin-embed --example million -- [ROWS] [THREADS] [PART...]
//! ```
//!
//! Parts are search, dedupe-0.95, dedupe-0.9, dedupe-0.8, k-center and facility-location; all of them if
//! none is named.
//!
//! The vectors have 128 values and lie in 2000 clusters of unequal size and width, 5 % of them close to
//! another one: cosines within a cluster are mostly between 0.3 and 0.8, between clusters around 0.

#![allow(clippy::print_stdout, reason = "an example prints what it finds")]

use std::error::Error;
use std::num::NonZeroUsize;
use std::time::Instant;

use nearkin_data::Random;
use nearkin_data::random::Purpose;
use nearkin_embed::{
    FacilityOptions, Vectors, facility_location, find_duplicates, k_center, search,
};

const WIDTH: usize = 128;
const CLUSTERS: usize = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |absent: usize| arguments.next().map_or(Ok(absent), |text| text.parse());
    let (rows, threads) = (number(1_000_000)?, number(2)?);
    let threads = NonZeroUsize::new(threads).ok_or("at least one thread")?;
    let parts: Vec<String> = arguments.collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|one| one == part);
    let vectors = drawn(rows, 0)?;
    println!("{rows} rows of {WIDTH} values, {threads} threads");

    if wanted("search") {
        let queries = drawn(rows / 100, 1)?;
        let clock = Clock::start()?;
        search(&vectors, &queries, 10, threads)?;
        println!("search, {} queries: {}", queries.len(), clock.read()?);
    }
    for similarity in [0.95, 0.9, 0.8] {
        if !wanted(&format!("dedupe-{similarity}")) {
            continue;
        }
        let clock = Clock::start()?;
        let found = find_duplicates(&vectors, similarity, threads)?;
        let took = clock.read()?;
        let share = 200.0 * found.compared as f64 / (rows as f64 * rows as f64);
        println!(
            "dedupe {similarity}: {took}, {} groups, comparisons for {share:.2} % of all pairs",
            found.groups.len()
        );
    }
    if wanted("k-center") {
        let clock = Clock::start()?;
        let chosen = k_center(&vectors, 1000, 0, threads)?;
        let took = clock.read()?;
        println!("k-center, 1000 rows: {took}, lowest cosine {:.4}", chosen.similarity);
    }
    if wanted("facility-location") {
        let clock = Clock::start()?;
        let options = FacilityOptions { sample: 10_000, epsilon: 0.1, seed: 0 };
        let chosen = facility_location(&vectors, 1000, options, threads)?;
        let took = clock.read()?;
        println!("facility-location, 1000 rows: {took}, mean cosine {:.4}", chosen.similarity);
    }
    Ok(())
}

/// Time that passed, and time that processors worked for this program: only the second says much on
/// a machine that others use too.
struct Clock {
    begun: Instant,
    processor: f64,
}

impl Clock {
    fn start() -> Result<Self, Box<dyn Error>> {
        Ok(Self { begun: Instant::now(), processor: processor_seconds()? })
    }

    fn read(&self) -> Result<String, Box<dyn Error>> {
        let processor = processor_seconds()? - self.processor;
        Ok(format!("{processor:.1} s of processors, {:.1} s", self.begun.elapsed().as_secs_f64()))
    }
}

/// User time of this process; Linux counts it in hundredths of a second.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Before them is the program's name in brackets, which may hold spaces.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let user = fields.and_then(|fields| fields.split_whitespace().nth(11));
    Ok(user.ok_or("/proc/self/stat has no time")?.parse::<f64>()? / 100.0)
}

fn drawn(rows: usize, stream: u64) -> Result<Vectors, Box<dyn Error>> {
    let mut random = Random::new(Purpose::Drawing, 0, 0, 0);
    let mut centres: Vec<f32> = Vec::with_capacity(CLUSTERS * WIDTH);
    let kinds: Vec<f32> = (0..100 * WIDTH).map(|_| random.normal() as f32).collect();
    for _ in 0..CLUSTERS {
        let kind = random.below(100) * WIDTH;
        let centre: Vec<f32> =
            kinds[kind..kind + WIDTH].iter().map(|kind| kind + random.normal() as f32).collect();
        let length = centre.iter().map(|value| value * value).sum::<f32>().sqrt();
        centres.extend(centre.iter().map(|value| value / length));
    }
    let mut random = Random::new(Purpose::Drawing, 0, 1, stream);
    let mut values: Vec<f32> = Vec::with_capacity(rows * WIDTH);
    for row in 0..rows {
        let near_copy = row > 0 && random.chance(0.05);
        let (begin, noise) = if near_copy {
            (random.below(row) * WIDTH, 0.15)
        } else {
            // The first clusters get more.
            let cluster = (random.unit() * random.unit() * CLUSTERS as f64) as usize;
            (cluster * WIDTH, random.uniform(0.5, 1.3))
        };
        for place in begin..begin + WIDTH {
            let centre = if near_copy { values[place] } else { centres[place] };
            let noise = noise * random.normal() / (WIDTH as f64).sqrt();
            values.push(centre + noise as f32);
        }
    }
    Ok(Vectors::new(values, WIDTH).ok_or("no rows")?.into_unit())
}
