//! Which rows stay, so that every other row is similar to one that stays.
//!
//! Rows are looked at in their order. A row stays unless one that stays before it is similar to it,
//! and is removed for the first such row. That choice is made within each connected group of similar
//! rows on its own, since rows of different groups are not similar.

use std::num::NonZeroUsize;

use crate::Vectors;
use crate::cells::{Borders, ROWS, distance_of, largest};
use crate::parallel::{map, pieces};
use crate::vectors::{at_least, dot, products};

/// A row that does not stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Removal {
    /// The row that stays for it.
    pub(crate) kept: u32,
    pub(crate) row: u32,
    /// Their cosine.
    pub(crate) similarity: f32,
}

/// Connected groups of at most this many rows are compared all with all, several groups at a time.
const SMALL: usize = 2048;
/// Rows of a larger group that are compared at once with those that stay before them.
const BLOCK: usize = 4096;
/// Rows of a block that are compared at once with those of the block that stay before them.
const PART: usize = 256;

/// The removals in connected groups of rows, each rising.
pub(crate) fn removals(
    vectors: &Vectors,
    groups: &[Vec<u32>],
    similarity: f32,
    threads: NonZeroUsize,
) -> Vec<Removal> {
    let is_small = |group: &&Vec<u32>| group.len() <= SMALL;
    let small: Vec<_> = groups.iter().filter(is_small).collect();
    let found = map(small.len(), threads, |(): &mut (), number| {
        let mut kept = Vec::new();
        let mut found = Vec::new();
        for &row in small[number] {
            match first_similar(vectors, &kept, row, similarity) {
                Some(removal) => found.push(removal),
                None => kept.push(row),
            }
        }
        found
    });
    let mut found = found.concat();
    for large in groups.iter().filter(|group| !is_small(group)) {
        Large::new(vectors, large, similarity, threads).remove(large, &mut found);
    }
    found
}

/// The removal of `row` for the first of the `kept` rows that is similar to it.
fn first_similar(vectors: &Vectors, kept: &[u32], row: u32, similarity: f32) -> Option<Removal> {
    let values = vectors.row(row as usize);
    kept.iter().find_map(|&kept| {
        let found = dot(vectors.row(kept as usize), values);
        (found >= similarity).then_some(Removal { kept, row, similarity: found })
    })
}

/// The choice within a group that has too many rows for comparing all with all.
struct Large<'a> {
    vectors: &'a Vectors,
    similarity: f32,
    threads: NonZeroUsize,
    borders: Borders,
    /// The rows that stay, by cell, rising.
    kept: Vec<Vec<u32>>,
}

/// A row of a block, the cell it is in, and the cells in which similar rows may be.
struct Placed {
    home: u32,
    cells: Vec<u32>,
}

/// The memory of a thread.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    kept: Vec<f32>,
    inner: Vec<f32>,
}

impl<'a> Large<'a> {
    fn new(vectors: &'a Vectors, rows: &[u32], similarity: f32, threads: NonZeroUsize) -> Self {
        let borders = Borders::new(vectors, rows, threads);
        let kept = vec![Vec::new(); borders.cells()];
        Self { vectors, similarity, threads, borders, kept }
    }

    fn remove(mut self, rows: &[u32], removals: &mut Vec<Removal>) {
        for block in rows.chunks(BLOCK) {
            let placed = self.place(block);
            let before = self.first_before(block, &placed);
            let mut fresh: Vec<u32> = Vec::new();
            let mut rest: Vec<usize> = Vec::new();
            for (place, found) in before.into_iter().enumerate() {
                match found {
                    Some(removal) => removals.push(removal),
                    None => rest.push(place),
                }
            }
            for part in rest.chunks(PART) {
                let queries: Vec<u32> = part.iter().map(|&place| block[place]).collect();
                let (count, piece) = pieces(queries.len(), PART.div_ceil(self.threads.get()));
                let found = map(count, self.threads, |scratch: &mut Scratch, number| {
                    self.first_of(&queries[piece(number)], &fresh, scratch)
                });
                let begin = fresh.len();
                for ((&place, &row), found) in part.iter().zip(&queries).zip(found.concat()) {
                    let within =
                        || first_similar(self.vectors, &fresh[begin..], row, self.similarity);
                    if let Some(removal) = found.or_else(within) {
                        removals.push(removal);
                    } else {
                        fresh.push(row);
                        self.kept[placed[place].home as usize].push(row);
                    }
                }
            }
        }
    }

    /// The cells of the rows of a block.
    fn place(&self, block: &[u32]) -> Vec<Placed> {
        let distance = distance_of(self.similarity);
        let cells = self.borders.cells();
        let (count, piece) = pieces(block.len(), PART);
        let placed = map(count, self.threads, |scratch: &mut Scratch, number| {
            self.vectors.gather(&block[piece(number)], &mut scratch.queries);
            let centers = self.borders.centers.rows(0..cells);
            products(&scratch.queries, centers, self.vectors.width(), &mut scratch.inner);
            let rows = scratch.inner.chunks_exact(cells).map(|inner| {
                let home = largest(inner);
                let mut reached = vec![home.0];
                // A similar row may be on the other side of a border that is a whole distance away,
                // since rows that stay visit no cells.
                self.borders.within(distance, home, 0..cells, inner, |cell| {
                    reached.push(cell as u32);
                });
                Placed { home: home.0, cells: reached }
            });
            rows.collect::<Vec<_>>()
        });
        placed.into_iter().flatten().collect()
    }

    /// For each row of a block the removal for the first similar row that stays and is before the
    /// block.
    fn first_before(&self, block: &[u32], placed: &[Placed]) -> Vec<Option<Removal>> {
        let mut queries: Vec<Vec<u32>> = vec![Vec::new(); self.kept.len()];
        for (&row, placed) in block.iter().zip(placed) {
            placed.cells.iter().for_each(|&cell| queries[cell as usize].push(row));
        }
        let found = map(queries.len(), self.threads, |scratch: &mut Scratch, cell| {
            self.first_of(&queries[cell], &self.kept[cell], scratch)
        });
        let mut first: Vec<Option<Removal>> = vec![None; block.len()];
        for removal in found.into_iter().flatten().flatten() {
            let Ok(place) = block.binary_search(&removal.row) else { continue };
            if first[place].is_none_or(|other| removal.kept < other.kept) {
                first[place] = Some(removal);
            }
        }
        first
    }

    /// For each query the removal for the first of the `kept` rows that is similar to it.
    fn first_of(
        &self,
        queries: &[u32],
        kept: &[u32],
        scratch: &mut Scratch,
    ) -> Vec<Option<Removal>> {
        let mut first = vec![None; queries.len()];
        if queries.is_empty() {
            return first;
        }
        self.vectors.gather(queries, &mut scratch.queries);
        for kept in kept.chunks(ROWS) {
            self.vectors.gather(kept, &mut scratch.kept);
            let width = self.vectors.width();
            products(&scratch.queries, &scratch.kept, width, &mut scratch.inner);
            let inner = scratch.inner.chunks_exact(kept.len());
            for ((first, &row), inner) in first.iter_mut().zip(queries).zip(inner) {
                at_least(inner, self.similarity, |place, similarity| {
                    let removal = Removal { kept: kept[place], row, similarity };
                    first.get_or_insert(removal);
                });
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::clustered;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        /// The way of large groups comes to the same end as looking at one row after the other.
        #[test]
        fn large_groups_keep_what_small_ones_keep(
            rows in 2000_usize..9000, width in 2_usize..8, clusters in 1_usize..400,
            noise in 0.01_f64..1.0, similarity in 0.5_f32..0.99, seed: u64, workers in 1_usize..4,
        ) {
            let vectors = clustered(rows, width, clusters, noise, seed);
            let all: Vec<u32> = (0..rows as u32).collect();
            let threads = NonZeroUsize::new(workers).unwrap();
            let mut found = Vec::new();
            Large::new(&vectors, &all, similarity, threads).remove(&all, &mut found);
            found.sort_unstable_by_key(|removal| removal.row);
            let (mut kept, mut expected) = (Vec::new(), Vec::new());
            let mut at_bound = false;
            for &row in &all {
                at_bound |= kept.iter().any(|&kept: &u32| {
                    let found = vectors.similarity(kept as usize, row as usize);
                    (found - similarity).abs() < 1e-6
                });
                match first_similar(&vectors, &kept, row, similarity) {
                    Some(removal) => expected.push(removal),
                    None => kept.push(row),
                }
            }
            let rows = |removals: &[Removal]| -> Vec<(u32, u32)> {
                removals.iter().map(|removal| (removal.kept, removal.row)).collect()
            };
            prop_assert!(at_bound || rows(&found) == rows(&expected));
        }
    }
}
