//! Weighted k-nearest-neighbour classification (Wu, Xiong, Yu, Lin, CVPR 2018, arXiv 1805.01978),
//! the usual monitor of contrastive training.

use std::num::NonZeroUsize;
use std::sync::Arc;

use nearkin_augment::View;
use nearkin_data::{ImageSet, Subset};
use nearkin_dist::{SingleProcess, World};
use tch::{Device, Kind, TchError, Tensor};

use crate::features::{
    EvaluationError, FeatureOptions, FeatureSource, Stop, check_labels, stream_until,
};
use crate::quality::{Spread, spread};

/// One way to vote: `k` neighbours, each with weight exp(cosine / temperature).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Votes {
    /// How many neighbours vote; all of the bank if it is smaller.
    pub k: usize,
    /// Divides the cosine.
    pub temperature: f64,
}

/// Accuracy of one way to vote.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnnResult {
    /// The way to vote.
    pub votes: Votes,
    /// Share of queries whose class got the largest vote, within 0 and 1. Of equal votes the class with
    /// the lower number wins.
    pub top_1: f64,
    /// Share of queries whose class is among the five largest votes. A class that none of the `k`
    /// neighbors belongs to has no vote and is never among them.
    pub top_5: f64,
}

/// What came of a k-NN evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Knn {
    /// One for each way to vote.
    pub results: Vec<KnnResult>,
    /// How the backbone's features of the test images spread; `None` for pixels.
    pub spread: Option<Spread>,
    /// Training and test images that were compared: those with a label that can be read, of all
    /// processes.
    pub images: [usize; 2],
}

/// Queries that are compared at once.
const QUERIES_AT_ONCE: i64 = 256;
/// Rows of the bank that are compared at once: as many as make libtorch pick the nearest 200 with a
/// heap, which beats its other way by far.
const BANK_AT_ONCE: i64 = 16_384;

/// Queries whose votes are counted at once: each takes a number per class.
const VOTERS_AT_ONCE: i64 = 1024;

/// An exact search for nearest neighbours by cosine, through a bank that is handed over in parts. Of
/// rows that are equally near, those that were handed over first count as nearer.
///
/// In memory are the queries, the neighbours found so far, and 256 x 16,384 similarities: the bank may
/// be of any size.
#[derive(Debug)]
pub struct Search {
    queries: Tensor,
    truth: Tensor,
    votes: Vec<Votes>,
    most: i64,
    /// `[queries, found]`, falling.
    cosines: Tensor,
    /// Their classes.
    classes: Tensor,
    waiting: Vec<(Tensor, Tensor)>,
}

impl Search {
    /// For unit rows `queries`, `[queries, length]`, of the classes `truth`, `[queries]`.
    pub fn new(queries: Tensor, truth: Tensor, votes: &[Votes]) -> Result<Self, TchError> {
        let none = [queries.size()[0], 0];
        Ok(Self {
            cosines: Tensor::f_zeros(none, (queries.kind(), queries.device()))?,
            classes: Tensor::f_zeros(none, (Kind::Int64, queries.device()))?,
            most: votes.iter().map(|votes| votes.k as i64).max().unwrap_or(0),
            votes: votes.to_vec(),
            queries,
            truth,
            waiting: Vec::new(),
        })
    }

    /// Adds unit rows, `[some, length]`, of the classes `labels`, `[some]`, to the bank.
    pub fn add(&mut self, rows: Tensor, labels: Tensor) -> Result<(), EvaluationError> {
        self.add_until(rows, labels, &|| false)
    }

    /// [`add`](Self::add), which ends with [`EvaluationError::Interrupted`] where `stop` says so; then
    /// the search has no result.
    fn add_until(
        &mut self,
        rows: Tensor,
        labels: Tensor,
        stop: Stop<'_>,
    ) -> Result<(), EvaluationError> {
        self.waiting.push((rows, labels));
        let waiting: i64 = self.waiting.iter().map(|(rows, _)| rows.size()[0]).sum();
        if waiting < BANK_AT_ONCE { Ok(()) } else { self.merge(stop) }
    }

    /// Compares the queries with the rows that wait and keeps the nearest.
    fn merge(&mut self, stop: Stop<'_>) -> Result<(), EvaluationError> {
        let (rows, labels): (Vec<_>, Vec<_>) = self.waiting.drain(..).unzip();
        if rows.is_empty() {
            return Ok(());
        }
        let columns = Tensor::f_cat(&rows, 0)?.f_transpose(0, 1)?;
        let labels = Tensor::f_cat(&labels, 0)?;
        let (mut cosines, mut classes) = (Vec::new(), Vec::new());
        let images = self.queries.size()[0];
        for start in (0..images).step_by(QUERIES_AT_ONCE as usize) {
            if stop() {
                return Err(EvaluationError::Interrupted);
            }
            let count = QUERIES_AT_ONCE.min(images - start);
            let part = |of: &Tensor| of.f_narrow(0, start, count);
            let all = part(&self.queries)?.f_matmul(&columns)?;
            let (new, places) = nearest(&all, self.most)?;
            let of = labels.f_index_select(0, &places.f_reshape([-1])?)?.f_view_as(&places)?;
            let near = Tensor::f_cat(&[part(&self.cosines)?, new], 1)?;
            let of = Tensor::f_cat(&[part(&self.classes)?, of], 1)?;
            let (near, places) = nearest(&near, self.most)?;
            cosines.push(near);
            classes.push(of.f_gather(1, &places, false)?);
        }
        self.cosines = Tensor::f_cat(&cosines, 0)?;
        self.classes = Tensor::f_cat(&classes, 0)?;
        Ok(())
    }

    /// Every process has searched its part of a bank of `bank` rows for the same queries: the nearest of
    /// all parts. Parts follow each other in rank order, which keeps the order of equal ones.
    fn join(&mut self, world: &dyn World, bank: i64) -> Result<(), TchError> {
        let (queries, found) = self.cosines.size2()?;
        // A part may be smaller than the number of neighbors; what fills it up is infinitely far.
        let kind = (self.cosines.kind(), self.cosines.device());
        let far = Tensor::f_full([queries, self.most - found], f64::NEG_INFINITY, kind)?;
        let none = Tensor::f_zeros([queries, self.most - found], (Kind::Int64, kind.1))?;
        let of_all = |own: &Tensor, rest: &Tensor| {
            let rows = world.gather(&Tensor::f_cat(&[own, rest], 1)?)?;
            Tensor::f_cat(&rows.f_split(queries.max(1), 0)?, 1)
        };
        let cosines = of_all(&self.cosines, &far)?;
        let classes = of_all(&self.classes, &none)?;
        let (near, places) = nearest(&cosines, self.most.min(bank))?;
        self.classes = classes.f_gather(1, &places, false)?;
        self.cosines = near;
        Ok(())
    }

    /// Lets the neighbors vote; `classes` is the number of classes.
    pub fn finish(mut self, classes: i64) -> Result<Vec<KnnResult>, EvaluationError> {
        self.merge(&|| false)?;
        let images = self.truth.size()[0];
        let share = |hits: i64| hits as f64 / images as f64;
        let result = |votes: &Votes| {
            let mut hits = [0, 0];
            for start in (0..images).step_by(VOTERS_AT_ONCE as usize) {
                let part = |of: &Tensor| of.f_narrow(0, start, VOTERS_AT_ONCE.min(images - start));
                let (cosines, of) = (part(&self.cosines)?, part(&self.classes)?);
                let of_part = hits_among(&cosines, &of, &part(&self.truth)?, classes, *votes)?;
                hits = [hits[0] + of_part[0], hits[1] + of_part[1]];
            }
            Ok(KnnResult { votes: *votes, top_1: share(hits[0]), top_5: share(hits[1]) })
        };
        self.votes.iter().map(result).collect()
    }
}

/// The `count` largest of each row of `cosines`, or all if there are fewer, falling, and their columns:
/// `[rows, count]` each. Of equal ones the first columns come first, and are those that are taken.
fn nearest(cosines: &Tensor, count: i64) -> Result<(Tensor, Tensor), TchError> {
    let columns = cosines.size()[1];
    let count = count.min(columns);
    // One more shows whether the last of them has an equal that is left out.
    let (values, places) = cosines.f_topk((count + 1).min(columns), 1, true, true)?;
    let pairs = values.size()[1] - 1;
    let equal = values.f_narrow(1, 1, pairs)?.f_eq_tensor(&values.f_narrow(1, 0, pairs)?)?;
    let (values, places) = (values.f_narrow(1, 0, count)?, places.f_narrow(1, 0, count)?);
    let rows = equal.f_any_dim(1, false)?.f_nonzero()?.f_view([-1])?;
    if rows.numel() == 0 {
        return Ok((values, places));
    }
    // libtorch leaves open which of equal ones it takes, and in which order.
    let all = cosines.f_index_select(0, &rows)?;
    let least = values.f_index_select(0, &rows)?.f_narrow(1, count - 1, 1)?;
    let (above, level) = (all.f_gt_tensor(&least)?, all.f_eq_tensor(&least)?);
    let left = above.f_sum_dim_intlist([1].as_slice(), true, Kind::Int64)?.f_neg()?;
    let first = level.f_cumsum(1, Kind::Int64)?.f_le_tensor(&left.f_add_scalar(count)?)?;
    let taken = above.f_logical_or(&level.f_logical_and(&first)?)?;
    let taken = taken.f_nonzero()?.f_select(1, 1)?.f_reshape([-1, count])?;
    let (sorted, order) = all.f_gather(1, &taken, false)?.f_sort_stable(true, 1, true)?;
    let taken = taken.f_gather(1, &order, false)?;
    Ok((values.f_index_copy(0, &rows, &sorted)?, places.f_index_copy(0, &rows, &taken)?))
}

/// Classifies the images of `test` by their nearest neighbours in `train`, see [`Search`]; images
/// without a label, or that cannot be read, play no part.
pub fn knn(
    source: FeatureSource<'_>,
    sets: [&Arc<dyn ImageSet>; 2],
    view: &View,
    votes: &[Votes],
    options: FeatureOptions,
) -> Result<Knn, EvaluationError> {
    knn_together(source, sets, view, votes, options, &SingleProcess, &|| false)
}

/// The same by several processes, all of which get the result: each computes the features of its part
/// of both sets, and searches its part of the bank. Once `stop` says so in one of them, all end with
/// [`EvaluationError::Interrupted`]: that one after the batch under way, the others where they would
/// exchange something next.
pub fn knn_together(
    source: FeatureSource<'_>,
    [train, test]: [&Arc<dyn ImageSet>; 2],
    view: &View,
    votes: &[Votes],
    options: FeatureOptions,
    world: &dyn World,
    stop: Stop<'_>,
) -> Result<Knn, EvaluationError> {
    check_labels(train, test)?;
    let parts = NonZeroUsize::new(world.size()).unwrap_or(NonZeroUsize::MIN);
    let part = |set: &Arc<dyn ImageSet>| -> Arc<dyn ImageSet> {
        // Of all images, since which of them are readable is not known everywhere.
        Arc::new(Subset::part(Arc::clone(set), world.rank(), parts))
    };
    let (mut queries, mut truth) = (Vec::new(), Vec::new());
    let streamed = stream_until(source, &part(test), view, options, stop, |rows, labels| {
        queries.push(rows);
        truth.push(labels);
        Ok(())
    });
    ended_everywhere(streamed, world)?;
    if queries.is_empty() {
        return Err(match world.size() {
            1 => EvaluationError::NoneReadable { images: test.len(), which: "test " },
            processes => EvaluationError::TooFew { test: test.len(), processes },
        });
    }
    let rows = Tensor::f_cat(&queries, 0)?;
    drop(queries);
    let (rows, truth) = everywhere(rows, Tensor::f_cat(&truth, 0)?, world)?;
    let of_backbone = matches!(source, FeatureSource::Backbone(_));
    let spread = of_backbone.then(|| spread(&rows)).transpose()?;
    let tested = truth.size()[0] as usize;
    let device = rows.device();
    let mut search = Search::new(rows, truth, votes)?;
    let mut bank = 0;
    let streamed = stream_until(source, &part(train), view, options, stop, |rows, labels| {
        bank += rows.size()[0];
        search.add_until(rows, labels, stop)
    });
    ended_everywhere(streamed.and_then(|()| search.merge(stop)), world)?;
    if world.size() > 1 {
        let parts = world.gather(&Tensor::f_from_slice(&[bank])?.f_to_device(device)?)?;
        bank = parts.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    }
    if bank == 0 {
        return Err(EvaluationError::NoneReadable { images: train.len(), which: "training " });
    }
    if world.size() > 1 {
        search.join(world, bank)?;
    }
    let results = search.finish(train.classes().len() as i64)?;
    Ok(Knn { results, spread, images: [bank as usize, tested] })
}

/// Passes on what came of a part of the work, unless it was interrupted in another process.
fn ended_everywhere(
    result: Result<(), EvaluationError>,
    world: &dyn World,
) -> Result<(), EvaluationError> {
    let interrupted = matches!(result, Err(EvaluationError::Interrupted));
    if !interrupted {
        result?;
    }
    match world.maximum(i64::from(interrupted))? {
        0 => Ok(()),
        _ => Err(EvaluationError::Interrupted),
    }
}

/// The rows and labels of all processes in rank order; each may have another number.
fn everywhere(
    rows: Tensor,
    labels: Tensor,
    world: &dyn World,
) -> Result<(Tensor, Tensor), TchError> {
    if world.size() == 1 {
        return Ok((rows, labels));
    }
    let own = rows.size()[0];
    let counts = world.gather(&Tensor::f_from_slice(&[own])?.f_to_device(rows.device())?)?;
    let counts = Vec::<i64>::try_from(counts.f_to_device(Device::Cpu)?)?;
    let most = counts.iter().copied().max().unwrap_or(0);
    let of_all = |own_rows: &Tensor| {
        let mut shape = own_rows.size();
        shape[0] = most - own;
        let filled = Tensor::f_zeros(&shape[..], (own_rows.kind(), own_rows.device()))?;
        let all = world.gather(&Tensor::f_cat(&[own_rows, &filled], 0)?)?;
        let parts = counts.iter().zip((0..).step_by(most.max(1) as usize));
        let parts = parts.map(|(&count, start)| all.f_narrow(0, start, count));
        Tensor::f_cat(&parts.collect::<Result<Vec<_>, TchError>>()?, 0)
    };
    Ok((of_all(&rows)?, of_all(&labels)?))
}

/// The vote for every class, `[queries, classes]`, in double precision, from cosines and classes of the
/// nearest neighbors, `[queries, most]`, falling.
///
/// Weights are taken relative to the nearest neighbor's, which changes no ranking and keeps a small
/// temperature from overflowing.
pub fn scores(
    cosines: &Tensor,
    of: &Tensor,
    classes: i64,
    votes: Votes,
) -> Result<Tensor, TchError> {
    let (queries, most) = cosines.size2()?;
    let k = (votes.k as i64).min(most);
    let cosines = cosines.f_narrow(1, 0, k)?.f_to_kind(Kind::Double)?;
    let distances = cosines.f_sub(&cosines.f_narrow(1, 0, 1)?)?;
    let weights = distances.f_div_scalar(votes.temperature)?.f_exp()?;
    Tensor::f_zeros([queries, classes], (Kind::Double, weights.device()))?.f_scatter_add(
        1,
        &of.f_narrow(1, 0, k)?,
        &weights,
    )
}

/// How many of the queries have their class, `truth`, `[queries]`, at the first place of the vote, and
/// how many among the first five.
fn hits_among(
    cosines: &Tensor,
    of: &Tensor,
    truth: &Tensor,
    classes: i64,
    votes: Votes,
) -> Result<[i64; 2], TchError> {
    let scores = scores(cosines, of, classes, votes)?;
    // A vote may be too small for its number, and is a vote all the same.
    let k = (votes.k as i64).min(of.size()[1]);
    let has_vote = Tensor::f_zeros(scores.size(), (Kind::Bool, scores.device()))?;
    let has_vote = has_vote.f_scatter_value(1, &of.f_narrow(1, 0, k)?, 1)?;
    let truth = truth.f_unsqueeze(1)?;
    let own = scores.f_gather(1, &truth, false)?;
    let lower = Tensor::f_arange(classes, (Kind::Int64, scores.device()))?.f_lt_tensor(&truth)?;
    let level = scores.f_eq_tensor(&own)?.f_logical_and(&lower)?;
    let before = scores.f_gt_tensor(&own)?.f_logical_or(&level)?.f_logical_and(&has_vote)?;
    let rank = before.f_sum_dim_intlist([1].as_slice(), true, Kind::Int64)?;
    let voted = has_vote.f_gather(1, &truth, false)?;
    let hits = |first: i64| {
        let among = rank.f_lt(first)?.f_logical_and(&voted)?;
        among.f_sum(Kind::Int64)?.f_int64_value(&[])
    };
    Ok([hits(1)?, hits(5)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(rows: &Tensor) -> Tensor {
        rows / rows.norm_scalaropt_dim(2.0, [1].as_slice(), true)
    }

    /// Top-1 accuracy when the bank is handed over in parts of so many rows.
    fn accuracy(
        bank: (&Tensor, &Tensor),
        queries: (&Tensor, &Tensor),
        votes: Votes,
        part: i64,
    ) -> KnnResult {
        let mut search =
            Search::new(queries.0.shallow_clone(), queries.1.shallow_clone(), &[votes]).unwrap();
        for start in (0..bank.0.size()[0]).step_by(part as usize) {
            let count = part.min(bank.0.size()[0] - start);
            search.add(bank.0.narrow(0, start, count), bank.1.narrow(0, start, count)).unwrap();
        }
        search.finish(7).unwrap()[0]
    }

    #[test]
    fn the_vote_is_weighted_and_k_is_capped_by_the_bank() {
        let bank = unit(&Tensor::from_slice2(&[[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]]));
        let labels = Tensor::from_slice(&[0_i64, 1, 1]);
        let query = unit(&Tensor::from_slice2(&[[1.0, 0.3]]));
        let truth = Tensor::from_slice(&[0_i64]);
        let top_1 = |k, temperature| {
            accuracy((&bank, &labels), (&query, &truth), Votes { k, temperature }, 3).top_1
        };
        assert_eq!(top_1(1, 0.1), 1.0);
        // Two far neighbours outvote the near one only if the temperature lets them.
        assert_eq!(top_1(3, 0.1), 1.0);
        assert_eq!(top_1(100, 100.0), 0.0);
        // A temperature that would overflow exp(cosine / temperature) in single precision.
        assert_eq!(top_1(3, 1e-3), 1.0);
    }

    /// Expected scores were computed independently: k = 4, temperature 0.1.
    #[test]
    fn scores_and_predictions_are_the_expected_ones() {
        let bank = unit(&Tensor::from_slice2(&[
            [0.9, 0.6, -0.1],
            [-0.4, 0.8, 1.0],
            [0.5, -0.9, 0.2],
            [0.6, 0.1, 1.1],
            [1.0, 0.0, 0.0],
            [0.0, 1.0, 0.0],
            [0.0, 0.0, 1.0],
            [-1.0, 1.0, 0.0],
            [0.5, 0.5, -1.0],
        ]));
        let labels = Tensor::from_slice(&[0_i64, 1, 2, 1, 0, 1, 2, 1, 0]);
        let queries = unit(&Tensor::from_slice2(&[
            [1.0, 0.5, -0.25],
            [-0.5, 1.0, 0.75],
            [0.25, -1.0, 0.5],
            [0.8, 0.3, 1.2],
        ]));
        let (cosines, neighbours) = queries.matmul(&bank.tr()).topk(4, 1, true, true);
        let of = labels.index_select(0, &neighbours.reshape([-1])).view([4, 4]);
        let scores = scores(&cosines, &of, 3, Votes { k: 4, temperature: 0.1 }).unwrap();
        let expected = Tensor::from_slice2(&[
            [26256.65026031417, 78.5989078829637, 0.0],
            [0.0, 20455.011407760816, 262.6599278091018],
            [8.86560251099516, 64.49037389673042, 11725.74850154588],
            [228.32130432476816, 19885.310563958512, 3450.004449123426],
        ]);
        // Ours are relative to the nearest neighbour.
        let expected = expected / (cosines.narrow(1, 0, 1) / 0.1).exp();
        assert!(scores.allclose(&expected, 1e-9, 0.0, false));
        assert_eq!(scores.argmax(1, false), Tensor::from_slice(&[0_i64, 1, 2, 1]));
    }

    #[test]
    fn parts_of_the_bank_do_not_change_the_result() {
        tch::manual_seed(3);
        let random = |images| {
            let rows = unit(&Tensor::randn([images, 8], tch::kind::DOUBLE_CPU));
            (rows, Tensor::randint(7, [images], tch::kind::INT64_CPU))
        };
        let (bank, queries) = (random(2 * BANK_AT_ONCE + 900), random(QUERIES_AT_ONCE + 44));
        for votes in [Votes { k: 20, temperature: 0.07 }, Votes { k: 200, temperature: 0.1 }] {
            let result = |part| accuracy((&bank.0, &bank.1), (&queries.0, &queries.1), votes, part);
            let whole = result(bank.0.size()[0]);
            assert_eq!(whole, result(256));
            assert_eq!(whole, result(1000));
            assert!(whole.top_1 > 0.0 && whole.top_1 <= whole.top_5);
        }
    }

    /// Each query has an equal in the bank that is of another class.
    #[test]
    fn a_class_without_a_vote_is_not_among_the_first_five() {
        let rows = Tensor::eye(6, tch::kind::FLOAT_CPU);
        let of_bank = Tensor::from_slice(&[1_i64, 2, 3, 4, 5, 0]);
        let truth = Tensor::from_slice(&[0_i64, 1, 2, 3, 4, 5]);
        let shares = |k, temperature| {
            let result = accuracy((&rows, &of_bank), (&rows, &truth), Votes { k, temperature }, 6);
            (result.top_1, result.top_5)
        };
        for temperature in [0.01, 0.1, 10.0] {
            assert_eq!(shares(1, temperature), (0.0, 0.0));
        }
        // The second neighbor is row 0, of class 1, and of row 0 it is row 1, of class 2.
        assert_eq!(shares(2, 0.1), (0.0, 1.0 / 6.0));
        // All six classes have a vote, and exp(-1 / 0.001) is 0 in any precision.
        assert_eq!(shares(6, 0.001), (0.0, 4.0 / 6.0));
        assert_eq!(shares(600, 0.1), (0.0, 4.0 / 6.0));
    }

    #[test]
    fn of_equally_near_rows_the_first_vote_and_of_equal_votes_the_lower_class_wins() {
        let point = |images: i64| Tensor::ones([images, 1], tch::kind::FLOAT_CPU);
        let labels = [4_i64, 2, 2, 0, 1, 1, 6];
        let of_bank = Tensor::from_slice(&labels);
        let truth = Tensor::from_slice(&[4_i64, 2, 0, 6]);
        for (k, top_1, top_5) in [
            (1, 1, 1), // Class 4.
            (2, 1, 2), // A vote for 2 and one for 4.
            (3, 1, 2), // Two for 2.
            (7, 0, 4), // Two for 1 and for 2; then 0, 4 and 6.
        ] {
            let votes = Votes { k, temperature: 0.1 };
            for part in [1, 3, 7] {
                let result = accuracy((&point(7), &of_bank), (&point(4), &truth), votes, part);
                let expected = [top_1, top_5].map(|hits| f64::from(hits) / 4.0);
                assert_eq!([result.top_1, result.top_5], expected, "k = {k}");
            }
        }
    }

    /// Against a stable sort, with values that are often equal.
    #[test]
    fn the_nearest_are_the_first_of_a_stable_sort() {
        tch::manual_seed(5);
        for (columns, values) in [(1, 3), (9, 2), (40, 5), (300, 4), (300, 1)] {
            let cosines = Tensor::randint(values, [20, columns], tch::kind::FLOAT_CPU);
            let (sorted, order) = cosines.sort_stable(true, 1, true);
            for count in [1, 2, 7, 39, 300, 500] {
                let (near, places) = nearest(&cosines, count).unwrap();
                let count = count.min(columns);
                assert_eq!(near, sorted.narrow(1, 0, count), "{columns} {values} {count}");
                assert_eq!(places, order.narrow(1, 0, count), "{columns} {values} {count}");
            }
        }
    }

    /// Rows that are equally near, in parts that are compared one after the other.
    #[test]
    fn parts_do_not_change_which_of_equally_near_rows_vote() {
        tch::manual_seed(9);
        let draw = |images: i64| {
            let rows = Tensor::randint(2, [images, 4], tch::kind::DOUBLE_CPU) - 0.5;
            (rows, Tensor::randint(7, [images], tch::kind::INT64_CPU))
        };
        let (bank, queries) = (draw(90), draw(50));
        let votes = [1, 2, 5, 30, 200].map(|k| Votes { k, temperature: 0.07 });
        let results = |part: i64| {
            let (rows, truth) = (queries.0.shallow_clone(), queries.1.shallow_clone());
            let mut search = Search::new(rows, truth, &votes).unwrap();
            for start in (0..90).step_by(part as usize) {
                let count = part.min(90 - start);
                search.add(bank.0.narrow(0, start, count), bank.1.narrow(0, start, count)).unwrap();
                search.merge(&|| false).unwrap();
            }
            search.finish(7).unwrap()
        };
        let whole = results(90);
        for part in [1, 7, 33] {
            assert_eq!(results(part), whole, "{part}");
        }
    }

    /// The images of one set, and behind them those of another without their labels.
    struct Joined([Arc<dyn ImageSet>; 2]);

    impl ImageSet for Joined {
        fn len(&self) -> usize {
            self.0.iter().map(ImageSet::len).sum()
        }

        fn image(&self, index: usize) -> Result<nearkin_data::Image<'_>, nearkin_data::DataError> {
            let labelled = self.0[0].len();
            if index < labelled {
                self.0[0].image(index)
            } else {
                self.0[1].image(index - labelled)
            }
        }

        fn label(&self, index: usize) -> Option<usize> {
            (index < self.0[0].len()).then(|| self.0[0].label(index)).flatten()
        }

        fn classes(&self) -> &[String] {
            self.0[0].classes()
        }

        fn name(&self, index: usize) -> String {
            index.to_string()
        }
    }

    #[test]
    fn images_without_a_label_play_no_part() {
        let shapes = |split| {
            let (train_images, test_images) = (40, 20);
            let source = nearkin_data::Source::Shapes {
                train_images,
                test_images,
                size_pixels: 16,
                seed: 0,
            };
            nearkin_data::open(&source, split).unwrap()
        };
        let train = shapes(nearkin_data::Split::Train);
        let test = shapes(nearkin_data::Split::Test);
        // The queries themselves are among the images without a label: nothing could be nearer.
        let joined = |first: &Arc<dyn ImageSet>, second: &Arc<dyn ImageSet>| -> Arc<dyn ImageSet> {
            Arc::new(Joined([Arc::clone(first), Arc::clone(second)]))
        };
        let partly = joined(&train, &test);
        assert!(partly.has_labels() && partly.len() == 60);
        let view = "name = \"v\"\ntransforms = [{ center_crop = { size = 16 } }]";
        let view = View::new(toml::from_str(view).unwrap()).unwrap();
        let batch_size = const { NonZeroUsize::new(7).unwrap() };
        let options = FeatureOptions { batch_size, workers: 0 };
        let votes = [Votes { k: 1, temperature: 0.1 }, Votes { k: 9, temperature: 0.1 }];
        let results = |bank, queries| {
            knn(FeatureSource::Pixels, [bank, queries], &view, &votes, options).unwrap().results
        };
        let expected = results(&train, &test);
        assert!(expected[0].top_1 < 1.0, "{expected:?}");
        assert_eq!(results(&partly, &test), expected);
        assert_eq!(results(&partly, &joined(&test, &train)), expected);
    }

    /// A set whose images from `first` on are cut.
    struct Cut(Arc<dyn ImageSet>, usize);

    impl ImageSet for Cut {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn image(&self, index: usize) -> Result<nearkin_data::Image<'_>, nearkin_data::DataError> {
            let cut = || nearkin_data::DataError::Request(format!("{index} is cut"));
            if index < self.1 { self.0.image(index) } else { Err(cut()) }
        }

        fn label(&self, index: usize) -> Option<usize> {
            self.0.label(index)
        }

        fn classes(&self) -> &[String] {
            self.0.classes()
        }

        fn name(&self, index: usize) -> String {
            self.0.name(index)
        }
    }

    #[test]
    fn images_that_cannot_be_read_are_counted_nowhere() {
        use nearkin_data::{BadImages, Split, Tolerant};
        let (train_images, test_images) = (40, 20);
        let source =
            nearkin_data::Source::Shapes { train_images, test_images, size_pixels: 16, seed: 0 };
        let [train, test] =
            [Split::Train, Split::Test].map(|split| nearkin_data::open(&source, split).unwrap());
        let cut = |set: &Arc<dyn ImageSet>, first, split| -> Arc<dyn ImageSet> {
            let list = Arc::new(BadImages::unwritten());
            Arc::new(Tolerant::new(Cut(Arc::clone(set), first), split, 1.0, list))
        };
        let view = "name = \"v\"\ntransforms = [{ center_crop = { size = 16 } }]";
        let view = View::new(toml::from_str(view).unwrap()).unwrap();
        let batch_size = const { NonZeroUsize::new(7).unwrap() };
        let options = FeatureOptions { batch_size, workers: 0 };
        let votes = [Votes { k: 3, temperature: 0.1 }];
        let knn = |train: Arc<dyn ImageSet>, test: Arc<dyn ImageSet>| {
            knn(FeatureSource::Pixels, [&train, &test], &view, &votes, options)
        };
        let of = |train_first, test_first| {
            knn(cut(&train, train_first, Split::Train), cut(&test, test_first, Split::Test))
        };
        // The same as of sets that never had these images.
        let first = |set: &Arc<dyn ImageSet>, count: usize| -> Arc<dyn ImageSet> {
            Arc::new(Subset::of(Arc::clone(set), (0..count).collect()))
        };
        let expected = knn(first(&train, 33), first(&test, 15)).unwrap();
        assert_eq!(of(33, 15).unwrap(), expected);
        assert_eq!(expected.images, [33, 15]);
        let message = of(0, 15).unwrap_err().to_string();
        assert!(message.starts_with("none of the 40 training images can be read"), "{message}");
        let message = of(33, 0).unwrap_err().to_string();
        assert!(message.starts_with("none of the 20 test images can be read"), "{message}");
        let all_cut = cut(&test, 0, Split::Test);
        let message = crate::Features::of(FeatureSource::Pixels, &all_cut, &view, options);
        assert!(message.unwrap_err().to_string().contains("none of the 20 images can be read"));
    }

    #[test]
    fn sets_without_labels_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        image::RgbImage::new(20, 20).save(&path).unwrap();
        let source = nearkin_data::Source::Folder { path: Some(folder.path().to_owned()) };
        let unlabelled = nearkin_data::open(&source, nearkin_data::Split::Train).unwrap();
        let source = nearkin_data::Source::Shapes {
            train_images: 10,
            test_images: 10,
            size_pixels: 16,
            seed: 0,
        };
        let labelled = nearkin_data::open(&source, nearkin_data::Split::Train).unwrap();
        let view = "name = \"v\"\ntransforms = [{ center_crop = { size = 16 } }]";
        let view = View::new(toml::from_str(view).unwrap()).unwrap();
        let options = FeatureOptions { batch_size: NonZeroUsize::MIN, workers: 0 };
        let message =
            |sets| knn(FeatureSource::Pixels, sets, &view, &[], options).unwrap_err().to_string();
        assert!(message([&unlabelled, &labelled]).contains("the training set has no labels"));
        assert!(message([&labelled, &unlabelled]).contains("the test set has no labels"));
    }
}
