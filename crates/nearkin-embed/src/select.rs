//! A few rows that stand for many.
//!
//! Two notions of that, each by its greedy algorithm: rows so that none is far from all of them
//! (k-centre), or rows to which all are similar on average (facility location). The first finds what
//! is rare, outliers among it; the second what is typical.

use std::num::NonZeroUsize;

use nearkin_data::Random;
use nearkin_data::random::Purpose;

use crate::parallel::{map, pieces};
use crate::vectors::{dot, products};
use crate::{EmbedError, Vectors};

/// Rows of a piece of work of k-centre, and candidates of one of facility location.
const ROWS: usize = 1 << 14;
const CANDIDATES: usize = 64;
/// Larger than the rounding of inner products in the test whether a row can be nearer.
const MARGIN: f32 = 1e-4;

/// The rows that were chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// In the order in which they were chosen.
    pub rows: Vec<usize>,
    /// Cosine of every row with the chosen one nearest to it: the lowest for k-centre, the mean over
    /// the sample for facility location (a negative one counts as 0).
    pub similarity: f64,
}

fn check(vectors: &Vectors, count: usize) -> Result<(), EmbedError> {
    match vectors.len() {
        0 => Err(EmbedError::Request("there are no features to choose from".to_owned())),
        rows if count > rows => Err(EmbedError::Request(format!(
            "{count} images were asked for, and there are {rows}: ask for no more than these"
        ))),
        _ => Ok(()),
    }
}

/// The greedy algorithm of Gonzalez (1985): the first row is drawn with the seed, each further one is
/// the row farthest from all chosen so far (of equal ones the first). No choice has less than half
/// of its largest distance. Exact, in time of rows times `count`, less what the triangle inequality
/// saves: a row is not looked at if its nearest chosen row is at least twice as far from the new one.
pub fn k_center(
    vectors: &Vectors,
    count: usize,
    seed: u64,
    threads: NonZeroUsize,
) -> Result<Selection, EmbedError> {
    check(vectors, count)?;
    let mut chosen: Vec<usize> = Vec::with_capacity(count);
    let mut next = Random::new(Purpose::Subset, seed, 3, 0).below(vectors.len());
    // Cosine with the nearest chosen row, and which that is.
    let mut states = vec![(f32::NEG_INFINITY, 0_u32); vectors.len()];
    let mut lowest = 1.0;
    while chosen.len() < count {
        let new = vectors.row(next);
        let to_chosen: Vec<f32> =
            chosen.iter().map(|&chosen| dot(vectors.row(chosen), new)).collect();
        let number = chosen.len() as u32;
        chosen.push(next);
        let (piece_of, shares) = (states.chunks_mut(ROWS), vectors.len().div_ceil(ROWS));
        let mut pieces: Vec<_> = piece_of.enumerate().collect();
        let workers = threads.get().min(shares);
        let mut farthest = (f32::INFINITY, usize::MAX);
        std::thread::scope(|scope| {
            let share = pieces.len().div_ceil(workers);
            let running: Vec<_> = pieces
                .chunks_mut(share)
                .map(|pieces| {
                    let to_chosen = &to_chosen;
                    scope.spawn(move || {
                        let mut farthest = (f32::INFINITY, usize::MAX);
                        for (piece, states) in pieces {
                            let first = *piece * ROWS;
                            let found = update(vectors, first, states, next, number, to_chosen);
                            if found.0 < farthest.0 {
                                farthest = found;
                            }
                        }
                        farthest
                    })
                })
                .collect();
            for running in running {
                let found = running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                if found.0 < farthest.0 {
                    farthest = found;
                }
            }
        });
        // All rows are chosen.
        if farthest.1 == usize::MAX {
            lowest = 1.0;
            break;
        }
        (lowest, next) = farthest;
    }
    Ok(Selection { rows: chosen, similarity: f64::from(lowest.min(1.0)) })
}

/// Takes a newly chosen row into account; gives the row that is now the farthest.
fn update(
    vectors: &Vectors,
    first: usize,
    states: &mut [(f32, u32)],
    new: usize,
    number: u32,
    to_chosen: &[f32],
) -> (f32, usize) {
    let mut farthest = (f32::INFINITY, usize::MAX);
    for (place, (similarity, nearest)) in states.iter_mut().enumerate() {
        let index = first + place;
        // Squares of distances of unit rows are 2 - 2 cosine.
        let is_far = to_chosen
            .get(*nearest as usize)
            .is_some_and(|between| 1.0 - between >= 4.0 * (1.0 - *similarity) + MARGIN);
        if index == new {
            // A chosen row is not chosen again, whatever equals it.
            *similarity = f32::INFINITY;
        } else if !is_far {
            let found = dot(vectors.row(index), vectors.row(new));
            if found > *similarity {
                (*similarity, *nearest) = (found, number);
            }
        }
        if *similarity < farthest.0 {
            farthest = (*similarity, index);
        }
    }
    farthest
}

/// How facility location is approximated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FacilityOptions {
    /// So many rows, drawn, stand for all in the mean that is made large; all of them if there are no
    /// more.
    pub sample: usize,
    /// Each step looks at as many drawn rows as make the choice, in expectation, at worst this much
    /// worse than looking at all; 0 looks at all.
    pub epsilon: f64,
    /// Seed of what is drawn.
    pub seed: u64,
}

/// Makes the mean cosine of all rows with the nearest chosen one large, by stochastic greedy choice
/// (Mirzasoleiman and others, AAAI 2015): of `rows / count * ln(1 / epsilon)` drawn rows the one that
/// adds most. The mean over the sample is then at least `1 - 1 / e - epsilon` of the best possible,
/// in expectation.
pub fn facility_location(
    vectors: &Vectors,
    count: usize,
    options: FacilityOptions,
    threads: NonZeroUsize,
) -> Result<Selection, EmbedError> {
    check(vectors, count)?;
    if !(0.0..1.0).contains(&options.epsilon) || options.sample == 0 {
        return Err(EmbedError::Request(format!(
            "a sample of {} and an epsilon of {} make no sense: give a sample above 0, and an epsilon \
             of at least 0 and below 1",
            options.sample, options.epsilon
        )));
    }
    let width = vectors.width();
    let mut random = Random::new(Purpose::Subset, options.seed, 4, 0);
    let mut remaining: Vec<u32> = (0..vectors.len() as u32).collect();
    let mut sample = Vec::new();
    if options.sample < vectors.len() {
        move_to_front(&mut remaining, options.sample, &mut random);
        vectors.gather(&remaining[..options.sample], &mut sample);
    } else {
        sample.extend_from_slice(vectors.rows(0..vectors.len()));
    }
    let places = sample.len() / width;
    let looked_at = match options.epsilon {
        0.0 => vectors.len(),
        epsilon => (vectors.len() as f64 / count.max(1) as f64 * -epsilon.ln()).ceil() as usize,
    };
    let mut best = vec![0.0_f32; places];
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let looked_at = looked_at.clamp(1, remaining.len());
        if looked_at < remaining.len() {
            move_to_front(&mut remaining, looked_at, &mut random);
        }
        let candidates = &remaining[..looked_at];
        let (blocks, block) = pieces(looked_at, CANDIDATES);
        let gains = map(blocks, threads, |scratch: &mut (Vec<f32>, Vec<f32>), number| {
            let (values, inner) = scratch;
            vectors.gather(&candidates[block(number)], values);
            products(values, &sample, width, inner);
            inner.chunks_exact(places).map(|inner| gain(inner, &best)).collect::<Vec<f64>>()
        });
        let mut most = (f64::NEG_INFINITY, u32::MAX, 0);
        for (place, (&row, gain)) in candidates.iter().zip(gains.into_iter().flatten()).enumerate()
        {
            // Which of equal ones must not depend on the order in which they were drawn.
            if gain > most.0 || (gain == most.0 && row < most.1) {
                most = (gain, row, place);
            }
        }
        let (_, row, place) = most;
        remaining.swap_remove(place);
        chosen.push(row as usize);
        let row = vectors.row(row as usize);
        for (best, sample) in best.iter_mut().zip(sample.chunks_exact(width)) {
            *best = best.max(dot(row, sample));
        }
    }
    let total: f64 = best.iter().map(|&similarity| f64::from(similarity)).sum();
    Ok(Selection { rows: chosen, similarity: total / places as f64 })
}

/// The first steps of a shuffle: the front is drawn without replacement.
fn move_to_front(rows: &mut [u32], count: usize, random: &mut Random) {
    for place in 0..count {
        let other = place + random.below(rows.len() - place);
        rows.swap(place, other);
    }
}

/// What similarities add to the best so far. Sums of 16 in single precision, then in double.
fn gain(inner: &[f32], best: &[f32]) -> f64 {
    let pieces = inner.chunks(16).zip(best.chunks(16));
    let sum = |(inner, best): (&[f32], &[f32])| {
        let gains = inner.iter().zip(best).map(|(inner, best)| (inner - best).max(0.0));
        f64::from(gains.sum::<f32>())
    };
    pieces.map(sum).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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

    fn circle(degrees: &[f32]) -> Vectors {
        let values = degrees.iter().flat_map(|degrees| {
            let (sine, cosine) = degrees.to_radians().sin_cos();
            [cosine, sine]
        });
        Vectors::new(values.collect(), 2).unwrap()
    }

    const ALL: FacilityOptions = FacilityOptions { sample: 1000, epsilon: 0.0, seed: 0 };

    #[test]
    fn k_center_takes_the_rare_and_facility_location_the_typical() {
        let vectors = circle(&[0.0, 5.0, 10.0, 15.0, 20.0, 180.0]);
        let far = k_center(&vectors, 2, 1, threads(2)).unwrap();
        assert!(far.rows.contains(&5), "{far:?}");
        let near = facility_location(&vectors, 2, ALL, threads(2)).unwrap();
        assert_eq!(near.rows, [2, 5]);
        let degrees = |degrees: f64| degrees.to_radians().cos();
        let mean = (2.0 + 2.0 * degrees(10.0) + 2.0 * degrees(5.0)) / 6.0;
        assert!((near.similarity - mean).abs() < 1e-6, "{near:?}");
    }

    #[test]
    fn more_than_there_are_and_nonsense_are_refused() {
        let vectors = circle(&[0.0, 0.0, 0.0]);
        for selected in
            [k_center(&vectors, 4, 0, threads(1)), facility_location(&vectors, 4, ALL, threads(1))]
        {
            let message = selected.unwrap_err().to_string();
            assert!(message.contains("4 images were asked for, and there are 3"), "{message}");
        }
        let options = FacilityOptions { epsilon: 1.0, ..ALL };
        assert!(facility_location(&vectors, 1, options, threads(1)).is_err());
        let none = Vectors::new(Vec::new(), 2).unwrap();
        assert!(k_center(&none, 0, 0, threads(1)).is_err());
        // Equal rows are chosen once each.
        let mut all = k_center(&vectors, 3, 0, threads(2)).unwrap().rows;
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn k_center_is_farthest_point_choice(
            rows in 1_usize..200, width in 2_usize..6, share in 0.0_f64..1.0, seed: u64,
        ) {
            let vectors = random(rows, width, seed);
            let count = ((rows as f64 * share) as usize).max(1);
            let found = k_center(&vectors, count, seed, threads(2)).unwrap();
            prop_assert_eq!(found.rows.iter().collect::<BTreeSet<_>>().len(), count);
            let to = |chosen: &[usize], row: usize| -> f32 {
                let all = chosen.iter().map(|&chosen| dot(vectors.row(chosen), vectors.row(row)));
                all.fold(f32::NEG_INFINITY, f32::max)
            };
            for step in 1..count {
                let (before, new) = (&found.rows[..step], found.rows[step]);
                let rest = (0..rows).filter(|row| !before.contains(row));
                let lowest = rest.map(|row| to(before, row)).fold(f32::INFINITY, f32::min);
                prop_assert!(to(before, new) <= lowest + 1e-5);
            }
        }

        #[test]
        fn without_drawing_facility_location_is_greedy(
            rows in 1_usize..60, width in 2_usize..6, count in 1_usize..6, seed: u64,
        ) {
            let vectors = random(rows, width, seed);
            let count = count.min(rows);
            let found = facility_location(&vectors, count, ALL, threads(2)).unwrap();
            let value = |chosen: &[usize]| -> f64 {
                let best = |row: usize| {
                    let all = chosen.iter().map(|&one| dot(vectors.row(one), vectors.row(row)));
                    f64::from(all.fold(0.0, f32::max))
                };
                (0..rows).map(best).sum::<f64>() / rows as f64
            };
            for step in 1..=count {
                let mut with = found.rows[..step].to_vec();
                let got = value(&with);
                for other in 0..rows {
                    with[step - 1] = other;
                    prop_assert!(value(&with) <= got + 1e-5);
                }
            }
            prop_assert!((found.similarity - value(&found.rows)).abs() < 1e-5);
        }

        #[test]
        fn drawn_candidates_give_other_rows_of_no_less_than_half_the_gain(seed: u64) {
            let vectors = random(400, 8, seed);
            let options = FacilityOptions { sample: 300, epsilon: 0.1, seed };
            let drawn = facility_location(&vectors, 20, options, threads(2)).unwrap();
            let again = facility_location(&vectors, 20, options, threads(1)).unwrap();
            prop_assert_eq!(&drawn, &again);
            prop_assert_eq!(drawn.rows.iter().collect::<BTreeSet<_>>().len(), 20);
            let all = facility_location(&vectors, 20, ALL, threads(2)).unwrap();
            prop_assert!(drawn.similarity > 0.8 * all.similarity);
        }
    }
}
