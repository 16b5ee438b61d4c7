//! Rows by the nearest of some centers, so that similar rows are found without comparing all pairs.
//!
//! A million rows have 5e11 pairs, most of which are far apart. Every row is put into the cell of its
//! nearest center, and pairs are compared within cells. That alone would miss pairs across a border,
//! so a row near a border visits the cell behind it, and how near follows from geometry. Let `x` be in
//! the cell of center `a` and `y` in the cell of center `b`. The border is a plane across `a - b`. The
//! distances of `x` and `y` from it add up to the length of `x - y` along `a - b`, which is at most
//! `|x - y|`. So of two rows at most `e` apart one is within `e / 2` of the border, and a copy of every
//! such row in the other cell misses no pair.

use std::num::NonZeroUsize;
use std::ops::Range;

use nearkin_data::Random;
use nearkin_data::random::Purpose;

use crate::Vectors;
use crate::parallel::{map, pieces};
use crate::vectors::{at_least, products};

/// Rows of a block of products.
pub(crate) const ROWS: usize = 1024;
const ANCHORS: usize = 256;
/// Cells whose visitors are in memory at once.
const CELLS_AT_ONCE: usize = 64;
/// A cell of fewer rows costs more to fill than it saves.
const FEWEST_ROWS: usize = 64;
/// Centers are means of this many sampled rows each, in this many rounds.
const SAMPLE: usize = 32;
const ROUNDS: usize = 3;
/// Larger than the rounding of an inner product of unit rows.
const MARGIN: f32 = 1e-4;
/// The same for the square of a distance.
const SQUARE_MARGIN: f32 = 1e-5;

/// The largest distance of unit rows whose cosine is at least `similarity`.
pub(crate) fn distance_of(similarity: f32) -> f32 {
    (2.0 - 2.0 * similarity + SQUARE_MARGIN).sqrt()
}

/// Centers and the borders between their cells.
pub(crate) struct Borders {
    pub(crate) centers: Vectors,
    /// Distances between centers, `[cells, cells]`.
    gaps: Vec<f32>,
}

impl Borders {
    /// About `2 sqrt(rows)` cells, which balances comparisons with centers and within cells.
    pub(crate) fn new(vectors: &Vectors, rows: &[u32], threads: NonZeroUsize) -> Self {
        let wanted = (2.0 * (rows.len() as f64).sqrt()) as usize;
        Self::with_cells(vectors, rows, wanted.min(rows.len() / FEWEST_ROWS), threads)
    }

    fn with_cells(vectors: &Vectors, rows: &[u32], cells: usize, threads: NonZeroUsize) -> Self {
        let centers = centers(vectors, rows, cells, threads);
        let cells = centers.len();
        let gaps = map(cells, threads, |(): &mut (), a| {
            let gap = |b: usize| {
                let pairs = centers.row(a).iter().zip(centers.row(b));
                pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
            };
            (0..cells).map(gap).collect::<Vec<f32>>()
        });
        Self { centers, gaps: gaps.concat() }
    }

    pub(crate) fn cells(&self) -> usize {
        self.centers.len()
    }

    /// Calls `each` for every cell of `cells`, other than `home`, whose border is at most `distance`
    /// from a row with these inner products with the centers of `cells`, and `own` with that of `home`.
    pub(crate) fn within(
        &self,
        distance: f32,
        (home, own): (u32, f32),
        cells: Range<usize>,
        inner: &[f32],
        mut each: impl FnMut(usize),
    ) {
        let gaps = &self.gaps[home as usize * self.cells()..][cells.clone()];
        for (cell, (inner, gap)) in cells.zip(inner.iter().zip(gaps)) {
            if own - inner <= distance * gap + MARGIN && cell != home as usize {
                each(cell);
            }
        }
    }
}

/// Rows by the nearest center.
pub(crate) struct Cells {
    borders: Borders,
    /// Every row, cell by cell.
    rows: Vec<u32>,
    /// Where in `rows` each cell begins, and the end.
    begins: Vec<usize>,
    /// Of each of `rows`, its cell and its inner product with the center.
    homes: Vec<(u32, f32)>,
}

impl Cells {
    pub(crate) fn new(
        vectors: &Vectors,
        rows: Vec<u32>,
        borders: Borders,
        threads: NonZeroUsize,
    ) -> Self {
        let cells = borders.cells();
        let nearest = nearest(vectors, &rows, &borders.centers, threads);
        let mut begins = vec![0; cells + 1];
        nearest.iter().for_each(|&(cell, _)| begins[cell as usize + 1] += 1);
        for cell in 0..cells {
            begins[cell + 1] += begins[cell];
        }
        let mut ordered: Vec<_> = rows.into_iter().zip(nearest).collect();
        ordered.sort_by_key(|&(_, (cell, _))| cell);
        let (rows, homes) = ordered.into_iter().unzip();
        Self { borders, rows, begins, homes }
    }

    fn of(&self, cell: usize) -> &[u32] {
        &self.rows[self.begins[cell]..self.begins[cell + 1]]
    }

    /// Joins similar rows. Returns the number of pairs that were compared.
    pub(crate) fn join(
        &self,
        vectors: &Vectors,
        similarity: f32,
        threads: NonZeroUsize,
        sets: &mut Sets,
    ) -> u64 {
        let half = 0.5 * distance_of(similarity);
        let (batches, batch) = pieces(self.borders.cells(), CELLS_AT_ONCE);
        let mut compared = 0;
        for number in 0..batches {
            let cells = batch(number);
            let visitors = self.visitors(vectors, cells.clone(), half, threads);
            let found = map(cells.len(), threads, |scratch: &mut Scratch, place| {
                let own = self.of(cells.start + place);
                scratch.similar(vectors, own, &visitors[place], similarity)
            });
            for (pairs, count) in found {
                for (a, b) in pairs {
                    sets.join(a, b);
                }
                compared += count;
            }
        }
        compared
    }

    /// For some cells, the rows of others that are within `half` of the border.
    fn visitors(
        &self,
        vectors: &Vectors,
        cells: Range<usize>,
        half: f32,
        threads: NonZeroUsize,
    ) -> Vec<Vec<u32>> {
        let (blocks, block) = pieces(self.rows.len(), ROWS);
        let found = map(blocks, threads, |scratch: &mut (Vec<f32>, Vec<f32>), number| {
            let (values, inner) = scratch;
            let block = block(number);
            vectors.gather(&self.rows[block.clone()], values);
            let centers = self.borders.centers.rows(cells.clone());
            products(values, centers, vectors.width(), inner);
            let mut visitors = vec![Vec::new(); cells.len()];
            for (at, inner) in block.zip(inner.chunks_exact(cells.len())) {
                self.borders.within(half, self.homes[at], cells.clone(), inner, |cell| {
                    visitors[cell - cells.start].push(self.rows[at]);
                });
            }
            visitors
        });
        let mut visitors = vec![Vec::new(); cells.len()];
        for mut part in found {
            visitors.iter_mut().zip(&mut part).for_each(|(all, part)| all.append(part));
        }
        visitors
    }
}

/// The memory of a thread.
#[derive(Default)]
struct Scratch {
    anchors: Vec<f32>,
    others: Vec<f32>,
    inner: Vec<f32>,
}

impl Scratch {
    /// Pairs that join what is similar, among the rows of a cell and between these and its visitors,
    /// and how many were compared. Pairs that join nothing new are left out, so there are fewer than
    /// rows.
    fn similar(
        &mut self,
        vectors: &Vectors,
        own: &[u32],
        visitors: &[u32],
        similarity: f32,
    ) -> (Vec<(u32, u32)>, u64) {
        let all: Vec<u32> = own.iter().chain(visitors).copied().collect();
        let (mut local, mut pairs) = (Sets::new(all.len()), Vec::new());
        let mut compared = 0;
        let (blocks, block) = pieces(own.len(), ANCHORS);
        for number in 0..blocks {
            let anchors = block(number);
            vectors.gather(&all[anchors.clone()], &mut self.anchors);
            // Rows before these were their partners already.
            let (others, other) = pieces(all.len() - anchors.start, ROWS);
            for number in 0..others {
                let begin = anchors.start + other(number).start;
                let others = begin..anchors.start + other(number).end;
                vectors.gather(&all[others.clone()], &mut self.others);
                products(&self.anchors, &self.others, vectors.width(), &mut self.inner);
                compared += self.inner.len() as u64;
                let rows = anchors.clone().zip(self.inner.chunks_exact(others.len()));
                for (anchor, inner) in rows {
                    at_least(inner, similarity, |place, _| {
                        let other = begin + place;
                        if local.join(anchor as u32, other as u32) {
                            pairs.push((all[anchor], all[other]));
                        }
                    });
                }
            }
        }
        (pairs, compared)
    }
}

/// `count` unit centers, at least one: means of a sample by k-means on the sphere. They decide about
/// speed alone.
fn centers(vectors: &Vectors, rows: &[u32], count: usize, threads: NonZeroUsize) -> Vectors {
    let (count, width) = (count.max(1), vectors.width());
    let mut sample = rows.to_vec();
    Random::new(Purpose::Subset, 0, 2, 0).shuffle(&mut sample);
    sample.truncate(count * SAMPLE);
    let mut centers = vec![0.0; count * width];
    for (center, &row) in centers.chunks_exact_mut(width).zip(&sample) {
        center.copy_from_slice(vectors.row(row as usize));
    }
    let mut centers = Vectors::of_rows(centers, width);
    if count == 1 {
        return centers;
    }
    for _ in 0..ROUNDS {
        let mut sums = vec![0.0_f32; count * width];
        for (&row, (cell, _)) in sample.iter().zip(nearest(vectors, &sample, &centers, threads)) {
            let sum = &mut sums[cell as usize * width..][..width];
            sum.iter_mut().zip(vectors.row(row as usize)).for_each(|(sum, value)| *sum += value);
        }
        for (cell, sum) in sums.chunks_exact_mut(width).enumerate() {
            if sum.iter().all(|&value| value == 0.0) {
                sum.copy_from_slice(centers.row(cell));
            }
        }
        centers = Vectors::of_rows(sums, width).into_unit();
    }
    centers
}

/// Of each row the nearest center and the inner product with it.
fn nearest(
    vectors: &Vectors,
    rows: &[u32],
    centers: &Vectors,
    threads: NonZeroUsize,
) -> Vec<(u32, f32)> {
    let (blocks, block) = pieces(rows.len(), ANCHORS);
    let found = map(blocks, threads, |scratch: &mut (Vec<f32>, Vec<f32>), number| {
        let (values, inner) = scratch;
        vectors.gather(&rows[block(number)], values);
        products(values, centers.rows(0..centers.len()), vectors.width(), inner);
        inner.chunks_exact(centers.len()).map(largest).collect::<Vec<_>>()
    });
    found.concat()
}

/// The place of the largest value, the first of equal ones, and the value.
pub(crate) fn largest(values: &[f32]) -> (u32, f32) {
    let best = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (values.iter().position(|&value| value == best).unwrap_or(0) as u32, best)
}

/// Disjoint sets, each known by its smallest member.
pub(crate) struct Sets(Vec<u32>);

impl Sets {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count as u32).collect())
    }

    fn first(&mut self, mut member: u32) -> u32 {
        while self.0[member as usize] != member {
            let above = self.0[self.0[member as usize] as usize];
            self.0[member as usize] = above;
            member = above;
        }
        member
    }

    /// Whether they were apart.
    pub(crate) fn join(&mut self, a: u32, b: u32) -> bool {
        let (a, b) = (self.first(a), self.first(b));
        self.0[a.max(b) as usize] = a.min(b);
        a != b
    }

    /// Sets of two or more members, each rising, by their first member.
    pub(crate) fn groups(mut self) -> Vec<Vec<u32>> {
        let members: Vec<u32> = (0..self.0.len() as u32).collect();
        let mut of_first: Vec<(u32, u32)> =
            members.into_iter().map(|member| (self.first(member), member)).collect();
        of_first.sort_unstable();
        let groups = of_first.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1);
        groups.map(|group| group.iter().map(|&(_, member)| member).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::{clustered, dot};

    fn naive(vectors: &Vectors, similarity: f32) -> Vec<Vec<u32>> {
        let mut sets = Sets::new(vectors.len());
        for a in 0..vectors.len() {
            for b in 0..a {
                if dot(vectors.row(a), vectors.row(b)) >= similarity {
                    sets.join(a as u32, b as u32);
                }
            }
        }
        sets.groups()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Groups of pairs that are not at the bound are those of all pairs.
        #[test]
        fn no_pair_is_missed(
            rows in 1_usize..1500, width in 2_usize..12, clusters in 1_usize..40,
            noise in 0.01_f64..2.0, similarity in 0.3_f32..0.999, seed: u64, cells in 1_usize..90,
        ) {
            let vectors = clustered(rows, width, clusters, noise, seed);
            let all: Vec<u32> = (0..rows as u32).collect();
            let threads = NonZeroUsize::new(2).unwrap();
            let mut sets = Sets::new(rows);
            // More cells than this few rows would have.
            let borders = Borders::with_cells(&vectors, &all, cells.min(rows), threads);
            Cells::new(&vectors, all, borders, threads)
                .join(&vectors, similarity, threads, &mut sets);
            let found = sets.groups();
            let at_bound = |step: f32| naive(&vectors, similarity + step);
            prop_assert!(found == naive(&vectors, similarity) || at_bound(1e-6) != at_bound(-1e-6));
        }
    }
}
