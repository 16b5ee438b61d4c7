//! The nearest rows by cosine.
//!
//! Every query is compared with every row, so nothing is missed, but similarities are made a block
//! at a time and only the best of each query are kept: a matrix of all pairs never exists.

use std::num::NonZeroUsize;

use crate::center::other_width;
use crate::parallel::{map, pieces};
use crate::vectors::{at_least, products};
use crate::{EmbedError, Vectors};

/// Queries and rows of a block: its similarities (1 MiB) stay in the cache of a core.
const QUERIES: usize = 256;
const ROWS: usize = 1024;

/// A row that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// Its place.
    pub index: usize,
    /// Its cosine with the query.
    pub similarity: f32,
}

/// The `top_k` most similar rows of `base` for every query, best first; of equal ones the first in
/// the file comes first. Exact. Both hold unit rows; `base` may have fewer than `top_k`.
pub fn search(
    base: &Vectors,
    queries: &Vectors,
    top_k: usize,
    threads: NonZeroUsize,
) -> Result<Vec<Vec<Match>>, EmbedError> {
    if base.width() != queries.width() {
        return Err(other_width(queries.width(), base.width()));
    }
    let (blocks, block) = pieces(queries.len(), QUERIES);
    // A few queries keep all threads busy only if the rows are divided too.
    let parts = if blocks < threads.get() { threads.get() } else { 1 };
    let (parts, part) = pieces(base.len(), base.len().div_ceil(parts).max(1));
    let mut found = map(blocks * parts, threads, |scratch: &mut Vec<f32>, task| {
        let queries = queries.rows(block(task / parts));
        best_of(base, part(task % parts), queries, top_k, scratch)
    })
    .into_iter();
    let mut all = Vec::with_capacity(queries.len());
    for _ in 0..blocks {
        let mut best = found.next().unwrap_or_default();
        for other in found.by_ref().take(parts.saturating_sub(1)) {
            for (mine, other) in best.iter_mut().zip(other) {
                mine.extend(other);
                // Stable: parts come in the order of the rows.
                mine.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
                mine.truncate(top_k);
            }
        }
        all.append(&mut best);
    }
    Ok(all)
}

/// The `top_k` rows most similar to row `index`, without itself.
pub fn similar_to(
    base: &Vectors,
    index: usize,
    top_k: usize,
    threads: NonZeroUsize,
) -> Result<Vec<Match>, EmbedError> {
    let query = Vectors::new(base.row(index).to_vec(), base.width());
    let query = query.ok_or_else(|| EmbedError::Request("the query is empty".to_owned()))?;
    let found = search(base, &query, top_k.saturating_add(1), threads)?;
    let others = found.into_iter().flatten().filter(|found| found.index != index);
    Ok(others.take(top_k).collect())
}

fn best_of(
    base: &Vectors,
    rows: std::ops::Range<usize>,
    queries: &[f32],
    top_k: usize,
    similarities: &mut Vec<f32>,
) -> Vec<Vec<Match>> {
    let count = queries.len() / base.width();
    let mut best: Vec<Vec<Match>> = vec![Vec::new(); count];
    if top_k == 0 {
        return best;
    }
    let (blocks, block) = pieces(rows.len(), ROWS);
    for number in 0..blocks {
        let block = block(number);
        let first = rows.start + block.start;
        products(queries, base.rows(first..rows.start + block.end), base.width(), similarities);
        for (best, similarities) in best.iter_mut().zip(similarities.chunks_exact(block.len())) {
            let bound =
                if best.len() < top_k { f32::NEG_INFINITY } else { best[top_k - 1].similarity };
            at_least(similarities, bound, |place, similarity| {
                let index = first + place;
                let at = best.partition_point(|found| found.similarity >= similarity);
                if at < top_k {
                    best.insert(at, Match { index, similarity });
                    best.truncate(top_k);
                }
            });
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use nearkin_data::Random;
    use nearkin_data::random::Purpose;
    use proptest::prelude::*;

    use super::*;

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    fn random(rows: usize, width: usize, seed: u64) -> Vectors {
        let mut random = Random::new(Purpose::Drawing, seed, 0, 0);
        let values = (0..rows * width).map(|_| random.normal() as f32).collect();
        Vectors::new(values, width).unwrap().into_unit()
    }

    #[test]
    fn the_nearest_come_first_and_equal_ones_in_order() {
        let base = vec![1.0, 0.0, 0.6, 0.8, 0.0, 1.0, 1.0, 0.0];
        let base = Vectors::new(base, 2).unwrap();
        let query = Vectors::new(vec![1.0, 0.0], 2).unwrap();
        for count in [1, 2, 9] {
            let found = search(&base, &query, 3, threads(count)).unwrap();
            let indices: Vec<usize> = found[0].iter().map(|found| found.index).collect();
            assert_eq!(indices, [0, 3, 1]);
            assert!((found[0][2].similarity - 0.6).abs() < 1e-6);
        }
        let others = similar_to(&base, 3, 9, threads(2)).unwrap();
        assert_eq!(others.iter().map(|found| found.index).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(search(&base, &query, 0, threads(1)).unwrap(), [[]]);
    }

    #[test]
    fn another_width_is_refused() {
        let message =
            search(&random(3, 4, 0), &random(3, 5, 0), 1, threads(1)).unwrap_err().to_string();
        assert!(message.contains("the queries have 5 values each and the features 4"), "{message}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn it_finds_what_sorting_all_similarities_finds(
            rows in 1_usize..2500, count in 1_usize..300, top_k in 1_usize..8, seed: u64,
            workers in 1_usize..4,
        ) {
            let (base, queries) = (random(rows, 5, seed), random(count, 5, seed ^ 1));
            let found = search(&base, &queries, top_k, threads(workers)).unwrap();
            prop_assert_eq!(found.len(), count);
            for (query, found) in found.iter().enumerate() {
                let similarity = |row: usize| -> f32 {
                    base.row(row).iter().zip(queries.row(query)).map(|(a, b)| a * b).sum()
                };
                let mut all: Vec<f32> = (0..rows).map(similarity).collect();
                all.sort_by(|a, b| b.total_cmp(a));
                prop_assert_eq!(found.len(), top_k.min(rows));
                for (found, expected) in found.iter().zip(&all) {
                    prop_assert!((found.similarity - expected).abs() < 1e-5);
                    prop_assert!((found.similarity - similarity(found.index)).abs() < 1e-5);
                }
            }
        }
    }
}
