//! Rows that are more similar than a bound, joined into groups.
//!
//! A million rows have 5e11 pairs, most of which are far apart. The rows are put into cells, each to
//! the nearest of some centres, and pairs are compared only within cells. That alone would miss
//! pairs across a border, so rows near a border are in the cell behind it too, and how near is not
//! guessed. Let `x` be in the cell of centre `a` and `y` in that of `b`. Their distances from the
//! border between the two centres, a plane across `a - b`, add up to the length of `x - y` along
//! `a - b`, which is at most `|x - y|`. So if the rows are no farther apart than `e`, one of them is
//! within `e / 2` of the border, and a copy of every such row in the other cell loses no pair.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::num::NonZeroUsize;

use nearkin_data::Random;
use nearkin_data::random::Purpose;

use crate::parallel::{map, pieces};
use crate::vectors::{at_least, products};
use crate::{EmbedError, Vectors};

/// Rows of a block of products.
const ROWS: usize = 1024;
const ANCHORS: usize = 256;
/// Cells whose visitors are in memory at once.
const CELLS_AT_ONCE: usize = 64;
/// A cell of fewer rows costs more to fill than it saves.
const FEWEST_ROWS: usize = 64;
/// Centres are means of a sample of so many rows for each, in so many rounds.
const SAMPLE: usize = 32;
const ROUNDS: usize = 3;
/// Larger than the rounding of an inner product of unit rows.
const MARGIN: f32 = 1e-4;
/// The same for the square of a distance.
const SQUARE_MARGIN: f32 = 1e-5;

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Duplicates {
    /// Connected components of two or more rows, each in rising order, by their first row.
    pub groups: Vec<Vec<usize>>,
    /// Cells that the rows were put into.
    pub cells: usize,
    /// Comparisons of two rows, those of a pair in both orders counted twice.
    pub compared: u64,
}

impl Duplicates {
    /// How many of `rows` rows remain if one of each group stays.
    pub fn remaining(&self, rows: usize) -> usize {
        rows - self.groups.iter().map(|group| group.len() - 1).sum::<usize>()
    }
}

/// Joins all unit rows whose cosine is at least `similarity`, and with them whatever they are joined
/// to. No pair is missed, but for rounding (1e-6) at the bound. Rows of zeros are similar to none.
///
/// Refuses a `similarity` that is not above 0 and at most 1.
pub fn find_duplicates(
    vectors: &Vectors,
    similarity: f32,
    threads: NonZeroUsize,
) -> Result<Duplicates, EmbedError> {
    if !(similarity > 0.0 && similarity <= 1.0) {
        return Err(EmbedError::Request(format!(
            "a similarity of {similarity} makes no sense: give a cosine above 0 and at most 1"
        )));
    }
    let mut sets = Sets::new(vectors.len());
    let rows = distinct(vectors, &mut sets);
    let wanted = (2.0 * (rows.len() as f64).sqrt()) as usize;
    let cells = Cells::new(vectors, rows, wanted, threads);
    let compared = cells.join(vectors, similarity, threads, &mut sets);
    Ok(Duplicates { groups: sets.groups(), cells: cells.centres.len(), compared })
}

/// One row of each value, without rows of zeros; the others are joined to it. A folder that was
/// copied would otherwise cost the square of its copies.
fn distinct(vectors: &Vectors, sets: &mut Sets) -> Vec<u32> {
    let mut first_of: HashMap<u64, u32> = HashMap::with_capacity(vectors.len());
    let mut rows = Vec::with_capacity(vectors.len());
    for index in 0..vectors.len() {
        let row = vectors.row(index);
        if row.iter().all(|&value| value == 0.0) {
            continue;
        }
        let mut hasher = DefaultHasher::new();
        row.iter().for_each(|value| hasher.write_u32(value.to_bits()));
        let first = *first_of.entry(hasher.finish()).or_insert(index as u32);
        // Other rows of the same hash are compared like any two.
        if first as usize != index && vectors.row(first as usize) == row {
            sets.join(first, index as u32);
        } else {
            rows.push(index as u32);
        }
    }
    rows
}

/// Rows by the nearest centre.
struct Cells {
    centres: Vectors,
    /// Every row, cell by cell.
    rows: Vec<u32>,
    /// Where in `rows` each cell begins, and the end.
    begins: Vec<usize>,
    /// Of each of `rows`, its cell and its inner product with the centre.
    places: Vec<(u32, f32)>,
    /// Distances between centres, `[cells, cells]`.
    gaps: Vec<f32>,
}

impl Cells {
    fn new(vectors: &Vectors, rows: Vec<u32>, wanted: usize, threads: NonZeroUsize) -> Self {
        let centres = centres(vectors, &rows, wanted.min(rows.len() / FEWEST_ROWS), threads);
        let cells = centres.len();
        let nearest = nearest(vectors, &rows, &centres, threads);
        let mut begins = vec![0; cells + 1];
        nearest.iter().for_each(|&(cell, _)| begins[cell as usize + 1] += 1);
        for cell in 0..cells {
            begins[cell + 1] += begins[cell];
        }
        let mut ordered: Vec<_> = rows.into_iter().zip(nearest).collect();
        ordered.sort_by_key(|&(_, (cell, _))| cell);
        let (rows, places) = ordered.into_iter().unzip();
        let gaps = map(cells, threads, |(): &mut (), a| {
            let gap = |b: usize| {
                let pairs = centres.row(a).iter().zip(centres.row(b));
                pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
            };
            (0..cells).map(gap).collect::<Vec<f32>>()
        });
        Self { centres, rows, begins, places, gaps: gaps.concat() }
    }

    fn of(&self, cell: usize) -> &[u32] {
        &self.rows[self.begins[cell]..self.begins[cell + 1]]
    }

    /// Joins similar rows; gives the number of pairs that were compared.
    fn join(
        &self,
        vectors: &Vectors,
        similarity: f32,
        threads: NonZeroUsize,
        sets: &mut Sets,
    ) -> u64 {
        let half = 0.5 * (2.0 - 2.0 * similarity + SQUARE_MARGIN).sqrt();
        let (batches, batch) = pieces(self.centres.len(), CELLS_AT_ONCE);
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
        cells: std::ops::Range<usize>,
        half: f32,
        threads: NonZeroUsize,
    ) -> Vec<Vec<u32>> {
        let (blocks, block) = pieces(self.rows.len(), ROWS);
        let found = map(blocks, threads, |scratch: &mut (Vec<f32>, Vec<f32>), number| {
            let (values, inner) = scratch;
            let block = block(number);
            vectors.gather(&self.rows[block.clone()], values);
            products(values, self.centres.rows(cells.clone()), vectors.width(), inner);
            let mut visitors = vec![Vec::new(); cells.len()];
            for (at, inner) in block.zip(inner.chunks_exact(cells.len())) {
                let (home, own) = self.places[at];
                let gaps = &self.gaps[home as usize * self.centres.len()..][cells.clone()];
                for (place, (inner, gap)) in inner.iter().zip(gaps).enumerate() {
                    if own - inner <= half * gap + MARGIN && cells.start + place != home as usize {
                        visitors[place].push(self.rows[at]);
                    }
                }
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
    /// Pairs that join what is similar: of the rows of a cell among themselves, and of these with
    /// its visitors; and how many were compared. Pairs that join nothing new are left out, so there
    /// are fewer than rows.
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

/// So many unit centres, at least one: means of a sample by k-means on the sphere. Which they are
/// decides about speed alone.
fn centres(vectors: &Vectors, rows: &[u32], count: usize, threads: NonZeroUsize) -> Vectors {
    let (count, width) = (count.max(1), vectors.width());
    let mut sample = rows.to_vec();
    Random::new(Purpose::Subset, 0, 2, 0).shuffle(&mut sample);
    sample.truncate(count * SAMPLE);
    let mut centres = vec![0.0; count * width];
    for (centre, &row) in centres.chunks_exact_mut(width).zip(&sample) {
        centre.copy_from_slice(vectors.row(row as usize));
    }
    let mut centres = Vectors::of_rows(centres, width);
    if count == 1 {
        return centres;
    }
    for _ in 0..ROUNDS {
        let mut sums = vec![0.0_f32; count * width];
        for (&row, (cell, _)) in sample.iter().zip(nearest(vectors, &sample, &centres, threads)) {
            let sum = &mut sums[cell as usize * width..][..width];
            sum.iter_mut().zip(vectors.row(row as usize)).for_each(|(sum, value)| *sum += value);
        }
        for (cell, sum) in sums.chunks_exact_mut(width).enumerate() {
            if sum.iter().all(|&value| value == 0.0) {
                sum.copy_from_slice(centres.row(cell));
            }
        }
        centres = Vectors::of_rows(sums, width).into_unit();
    }
    centres
}

/// Of each row the nearest centre and the inner product with it.
fn nearest(
    vectors: &Vectors,
    rows: &[u32],
    centres: &Vectors,
    threads: NonZeroUsize,
) -> Vec<(u32, f32)> {
    let (blocks, block) = pieces(rows.len(), ANCHORS);
    let found = map(blocks, threads, |scratch: &mut (Vec<f32>, Vec<f32>), number| {
        let (values, inner) = scratch;
        vectors.gather(&rows[block(number)], values);
        products(values, centres.rows(0..centres.len()), vectors.width(), inner);
        let best = |inner: &[f32]| {
            let best = inner.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            (inner.iter().position(|&value| value == best).unwrap_or(0) as u32, best)
        };
        inner.chunks_exact(centres.len()).map(best).collect::<Vec<_>>()
    });
    found.concat()
}

/// Disjoint sets, each known by its smallest member.
struct Sets(Vec<u32>);

impl Sets {
    fn new(count: usize) -> Self {
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
    fn join(&mut self, a: u32, b: u32) -> bool {
        let (a, b) = (self.first(a), self.first(b));
        self.0[a.max(b) as usize] = a.min(b);
        a != b
    }

    fn groups(mut self) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = vec![Vec::new(); self.0.len()];
        for member in 0..self.0.len() {
            let first = self.first(member as u32) as usize;
            groups[first].push(member);
        }
        groups.retain(|group| group.len() > 1);
        groups
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::dot;

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn similar_rows_are_joined_with_what_they_are_joined_to() {
        let degrees = [0.0_f32, 90.0, 10.0, 20.0, 180.0, 90.0, 200.0];
        let values = degrees.iter().flat_map(|degrees| {
            let (sine, cosine) = degrees.to_radians().sin_cos();
            [cosine, sine]
        });
        // Zeros are like nothing, not even like each other.
        let values: Vec<f32> = values.chain([0.0; 4]).collect();
        let vectors = Vectors::new(values, 2).unwrap();
        let found = |degrees: f32| {
            find_duplicates(&vectors, degrees.to_radians().cos(), threads(2)).unwrap()
        };
        assert_eq!(found(11.0).groups, [vec![0, 2, 3], vec![1, 5]]);
        assert_eq!(found(11.0).remaining(9), 6);
        assert_eq!(found(21.0).groups, [vec![0, 2, 3], vec![1, 5], vec![4, 6]]);
        assert_eq!(found(0.0).groups, [[1, 5]]);
        for wrong in [0.0, -0.5, 1.5, f32::NAN] {
            let message = find_duplicates(&vectors, wrong, threads(1)).unwrap_err().to_string();
            assert!(message.contains("give a cosine above 0 and at most 1"), "{message}");
        }
        let none = Vectors::new(Vec::new(), 2).unwrap();
        assert_eq!(find_duplicates(&none, 0.9, threads(2)).unwrap().groups, [[0; 0]; 0]);
    }

    /// Rows around so many points, with noise of any size.
    fn clustered(rows: usize, width: usize, clusters: usize, noise: f64, seed: u64) -> Vectors {
        let mut random = Random::new(Purpose::Drawing, seed, 0, 0);
        let mut draw =
            |scale: f64| -> Vec<f64> { (0..width).map(|_| scale * random.normal()).collect() };
        let points: Vec<Vec<f64>> = (0..clusters).map(|_| draw(1.0)).collect();
        let values = (0..rows).flat_map(|row| {
            let noise = draw(noise);
            let point = &points[row * 7 % clusters];
            point.iter().zip(noise).map(|(a, b)| (a + b) as f32).collect::<Vec<f32>>()
        });
        Vectors::new(values.collect(), width).unwrap().into_unit()
    }

    fn naive(vectors: &Vectors, similarity: f32) -> Vec<Vec<usize>> {
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

    #[test]
    fn far_cells_are_not_compared() {
        let vectors = clustered(4000, 24, 60, 0.05, 3);
        let found = find_duplicates(&vectors, 0.999, threads(2)).unwrap();
        assert_eq!(found.groups, naive(&vectors, 0.999));
        assert!(found.cells > 50 && found.compared < 4000 * 4000 / 10, "{found:?}");
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
            let mut sets = Sets::new(rows);
            let mut cells = Cells::new(&vectors, all, cells, threads(2));
            // More cells than such few rows would have.
            if cells.centres.len() < 2 {
                cells = Cells::new(&vectors, (0..rows as u32).collect(), usize::MAX, threads(2));
            }
            cells.join(&vectors, similarity, threads(2), &mut sets);
            let found = sets.groups();
            let at_bound = |step: f32| naive(&vectors, similarity + step);
            prop_assert!(found == naive(&vectors, similarity) || at_bound(1e-6) != at_bound(-1e-6));
        }
    }
}
