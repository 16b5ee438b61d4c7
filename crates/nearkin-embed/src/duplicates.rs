//! Rows that are at least as similar as a bound, in groups of which one row stays.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::num::NonZeroUsize;

use crate::cells::{Borders, Cells, Sets};
use crate::kept::{Removal, removals};
use crate::vectors::dot;
use crate::{EmbedError, Vectors};

/// What a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// A row that stays and the rows that are removed for it, each of them at least as similar to it
    /// as the bound. In their order, a row stays unless one that stays before it is similar to it; it
    /// is removed for the first such row.
    ToKept,
    /// Rows that are connected by a chain of similar rows. The first stays. The ends of a chain may be
    /// less similar than the bound.
    Chains,
}

/// A row that stays and those that are removed for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The row that stays, which is before the others.
    pub kept: usize,
    /// The other rows, rising, each with its cosine with the row that stays.
    pub removed: Vec<(usize, f32)>,
}

impl Group {
    /// Rows of the group, with the one that stays.
    pub fn rows(&self) -> usize {
        1 + self.removed.len()
    }
}

/// Groups of similar rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Duplicates {
    /// In the order of the rows that stay.
    pub groups: Vec<Group>,
    /// Cells that the rows were put into.
    pub cells: usize,
    /// Comparisons of two rows, those of a pair in both orders counted twice.
    pub compared: u64,
}

impl Duplicates {
    /// How many rows are removed if one of each group stays.
    pub fn removed(&self) -> usize {
        self.groups.iter().map(|group| group.removed.len()).sum()
    }

    /// The group with the most rows, the first of equal ones.
    pub fn largest(&self) -> Option<&Group> {
        self.groups.iter().rev().max_by_key(|group| group.rows())
    }
}

/// Groups unit rows whose cosine is at least `similarity`. No pair is missed, but for rounding (1e-6)
/// at the bound. Rows of zeros are similar to none.
///
/// Refuses a `similarity` that is not above 0 and at most 1.
pub fn find_duplicates(
    vectors: &Vectors,
    similarity: f32,
    grouping: Grouping,
    threads: NonZeroUsize,
) -> Result<Duplicates, EmbedError> {
    if !(similarity > 0.0 && similarity <= 1.0) {
        return Err(EmbedError::Request(format!(
            "the similarity {similarity} is not a cosine above 0 and at most 1"
        )));
    }
    let mut sets = Sets::new(vectors.len());
    let (rows, copies) = distinct(vectors);
    let borders = Borders::new(vectors, &rows, threads);
    let count = borders.cells();
    let cells = Cells::new(vectors, rows, borders, threads);
    let compared = cells.join(vectors, similarity, threads, &mut sets);
    let removals = match grouping {
        Grouping::ToKept => {
            let mut found = removals(vectors, &sets.groups(), similarity, threads);
            add_copies(&copies, &mut found);
            found
        }
        Grouping::Chains => {
            for &(first, copy) in &copies {
                sets.join(first, copy);
            }
            to_first(vectors, &sets.groups())
        }
    };
    Ok(Duplicates { groups: grouped(removals), cells: count, compared })
}

/// One row of each value, without rows of zeros, and the other rows with the first of their value. A
/// folder that was copied would otherwise cost the square of its copies.
fn distinct(vectors: &Vectors) -> (Vec<u32>, Vec<(u32, u32)>) {
    let mut first_of: HashMap<u64, u32> = HashMap::with_capacity(vectors.len());
    let (mut rows, mut copies) = (Vec::with_capacity(vectors.len()), Vec::new());
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
            copies.push((first, index as u32));
        } else {
            rows.push(index as u32);
        }
    }
    (rows, copies)
}

/// Removes every copy for the row for which the first of its value is removed, or for that one.
fn add_copies(copies: &[(u32, u32)], removals: &mut Vec<Removal>) {
    let of_row: HashMap<u32, Removal> =
        removals.iter().map(|&removal| (removal.row, removal)).collect();
    removals.extend(copies.iter().map(|&(first, copy)| match of_row.get(&first) {
        Some(&removal) => Removal { row: copy, ..removal },
        None => Removal { kept: first, row: copy, similarity: 1.0 },
    }));
}

/// Removes all rows of connected groups for the first.
fn to_first(vectors: &Vectors, groups: &[Vec<u32>]) -> Vec<Removal> {
    let rows = groups.iter().flat_map(|group| group[1..].iter().map(|&row| (group[0], row)));
    rows.map(|(kept, row)| {
        let similarity = dot(vectors.row(kept as usize), vectors.row(row as usize));
        Removal { kept, row, similarity }
    })
    .collect()
}

fn grouped(mut removals: Vec<Removal>) -> Vec<Group> {
    removals.sort_unstable_by_key(|removal| (removal.kept, removal.row));
    let groups = removals.chunk_by(|a, b| a.kept == b.kept).map(|group| Group {
        kept: group[0].kept as usize,
        removed: group.iter().map(|removal| (removal.row as usize, removal.similarity)).collect(),
    });
    groups.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::clustered;

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    /// The rows of each group, the one that stays first.
    fn rows(found: &Duplicates) -> Vec<Vec<usize>> {
        let rows = |group: &Group| {
            let removed = group.removed.iter().map(|&(row, _)| row);
            std::iter::once(group.kept).chain(removed).collect()
        };
        found.groups.iter().map(rows).collect()
    }

    fn circle(degrees: &[f32]) -> Vectors {
        let values = degrees.iter().flat_map(|degrees| {
            let (sine, cosine) = degrees.to_radians().sin_cos();
            [cosine, sine]
        });
        Vectors::new(values.collect(), 2).unwrap()
    }

    fn within(vectors: &Vectors, degrees: f32, grouping: Grouping) -> Duplicates {
        let similarity = degrees.to_radians().cos();
        find_duplicates(vectors, similarity, grouping, threads(2)).unwrap()
    }

    #[test]
    fn a_chain_is_one_group_only_where_chains_are_wanted() {
        let vectors = circle(&[0.0, 10.0, 20.0, 30.0, 40.0, 200.0]);
        let found = within(&vectors, 11.0, Grouping::Chains);
        assert_eq!(rows(&found), [[0, 1, 2, 3, 4]]);
        // 20 degrees stay, since 10 degrees did not; the last of the chain has nothing to be removed for.
        let found = within(&vectors, 11.0, Grouping::ToKept);
        assert_eq!(rows(&found), [[0, 1], [2, 3]]);
        assert_eq!((found.removed(), found.largest().map(|group| group.kept)), (2, Some(0)));
        assert!((found.groups[1].removed[0].1 - 10.0_f32.to_radians().cos()).abs() < 1e-6);
    }

    #[test]
    fn similar_rows_are_grouped_and_zeros_are_like_nothing() {
        let degrees = [0.0_f32, 90.0, 10.0, 20.0, 180.0, 90.0, 200.0];
        let circle = circle(&degrees);
        let values = circle.rows(0..7).iter().copied().chain([0.0; 4]).collect();
        let vectors = Vectors::new(values, 2).unwrap();
        let found = |degrees: f32| rows(&within(&vectors, degrees, Grouping::Chains));
        assert_eq!(found(11.0), [vec![0, 2, 3], vec![1, 5]]);
        assert_eq!(found(21.0), [vec![0, 2, 3], vec![1, 5], vec![4, 6]]);
        assert_eq!(found(0.0), [[1, 5]]);
        assert_eq!(rows(&within(&vectors, 11.0, Grouping::ToKept)), [[0, 2], [1, 5]]);
        for wrong in [0.0, -0.5, 1.5, f32::NAN] {
            let refused = find_duplicates(&vectors, wrong, Grouping::ToKept, threads(1));
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("is not a cosine above 0 and at most 1"), "{message}");
        }
        let none = Vectors::new(Vec::new(), 2).unwrap();
        let found = find_duplicates(&none, 0.9, Grouping::ToKept, threads(2)).unwrap();
        assert_eq!((found.groups.len(), found.largest()), (0, None));
    }

    #[test]
    fn far_cells_are_not_compared() {
        let vectors = clustered(4000, 24, 60, 0.05, 3);
        let found = find_duplicates(&vectors, 0.999, Grouping::ToKept, threads(2)).unwrap();
        assert!(found.cells > 50 && found.compared < 4000 * 4000 / 10, "{found:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_removed_is_similar_to_what_stays_and_what_stays_is_not(
            rows in 1_usize..1200, width in 2_usize..12, clusters in 1_usize..300,
            noise in 0.01_f64..1.0, similarity in 0.5_f32..0.999, seed: u64, copies in 0_usize..40,
        ) {
            let vectors = clustered(rows, width, clusters, noise, seed);
            // Copies of rows, some of which are removed themselves.
            let copied = (0..copies).flat_map(|copy| vectors.row(copy * 31 % rows).to_vec());
            let values = vectors.rows(0..rows).iter().copied().chain(copied).collect();
            let vectors = Vectors::new(values, width).unwrap();
            let found = find_duplicates(&vectors, similarity, Grouping::ToKept, threads(2)).unwrap();
            let mut stays = vec![true; vectors.len()];
            for group in &found.groups {
                for &(row, cosine) in &group.removed {
                    stays[row] = false;
                    prop_assert!(group.kept < row && cosine > similarity - 1e-6);
                    prop_assert!((vectors.similarity(group.kept, row) - cosine).abs() < 1e-6);
                }
            }
            prop_assert!(found.groups.iter().all(|group| stays[group.kept]));
            let kept: Vec<usize> = (0..vectors.len()).filter(|&row| stays[row]).collect();
            prop_assert_eq!(kept.len() + found.removed(), vectors.len());
            for (place, &a) in kept.iter().enumerate() {
                for &b in &kept[..place] {
                    prop_assert!(vectors.similarity(a, b) < similarity + 1e-6);
                }
            }
        }
    }
}
