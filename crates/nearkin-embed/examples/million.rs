//! How long search, near-duplicates and selection take among many vectors:
//!
//! ```text
//! cargo run --release -p nearkin-embed --example million -- [ROWS] [THREADS]
//! ```
//!
//! The vectors have 128 values and lie in 2000 clusters of unequal size and width, 5 % of them close to
//! another one: cosines within a cluster are mostly between 0.3 and 0.8, between clusters around 0.

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
    let vectors = drawn(rows, 0)?;
    println!("{rows} rows of {WIDTH} values, {threads} threads");

    let queries = drawn(rows / 100, 1)?;
    let begun = Instant::now();
    search(&vectors, &queries, 10, threads)?;
    println!("search, {} queries: {:.1} s", queries.len(), begun.elapsed().as_secs_f64());
    for similarity in [0.95, 0.9, 0.8] {
        let begun = Instant::now();
        let found = find_duplicates(&vectors, similarity, threads)?;
        let seconds = begun.elapsed().as_secs_f64();
        let share = 200.0 * found.compared as f64 / (rows as f64 * rows as f64);
        println!(
            "dedupe {similarity}: {seconds:.1} s, {} groups, comparisons for {share:.2} % of all pairs",
            found.groups.len()
        );
    }
    let begun = Instant::now();
    k_center(&vectors, 1000, 0, threads)?;
    println!("k-center, 1000 rows: {:.1} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let options = FacilityOptions { sample: 10_000, epsilon: 0.1, seed: 0 };
    facility_location(&vectors, 1000, options, threads)?;
    println!("facility-location, 1000 rows: {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
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
