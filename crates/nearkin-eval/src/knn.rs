//! Weighted k-nearest-neighbour classification (Wu, Xiong, Yu, Lin, CVPR 2018, arXiv 1805.01978),
//! the usual monitor of contrastive training.

use tch::{Kind, TchError, Tensor};

use crate::features::{EvaluationError, Features};

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
    /// Share of queries whose class got the largest vote, within 0 and 1.
    pub top_1: f64,
    /// Share of queries whose class is among the five largest votes.
    pub top_5: f64,
}

/// Queries that are compared with the whole bank at once: bounds the memory to this many rows of
/// `bank` similarities.
const QUERIES_AT_ONCE: i64 = 256;

/// Classifies every query by its nearest neighbours in the bank, by cosine. Exact; never more than
/// 256 rows of similarities are in memory.
pub fn knn(
    bank: &Features,
    queries: &Features,
    votes: &[Votes],
) -> Result<Vec<KnnResult>, EvaluationError> {
    if bank.classes == 0 {
        return Err(EvaluationError::NoLabels("the training set"));
    }
    if queries.classes == 0 {
        return Err(EvaluationError::NoLabels("the test set"));
    }
    let (images, size) = (queries.rows.size()[0], bank.rows.size()[0]);
    let most = votes.iter().map(|votes| votes.k as i64).max().unwrap_or(0).min(size);
    let bank_columns = bank.rows.f_transpose(0, 1)?;
    let mut hits = vec![(0_i64, 0_i64); votes.len()];
    for start in (0..images).step_by(QUERIES_AT_ONCE as usize) {
        let count = QUERIES_AT_ONCE.min(images - start);
        let similarities = queries.rows.f_narrow(0, start, count)?.f_matmul(&bank_columns)?;
        let (cosines, neighbours) = similarities.f_topk(most, 1, true, true)?;
        let classes =
            bank.labels.f_index_select(0, &neighbours.f_reshape([-1])?)?.f_view([count, most])?;
        let truth = queries.labels.f_narrow(0, start, count)?.f_unsqueeze(1)?;
        for (votes, hits) in votes.iter().zip(&mut hits) {
            let ranked = scores(&cosines, &classes, bank.classes, *votes)?
                .f_argsort_stable(true, 1, true)?;
            let right = ranked.f_eq_tensor(&truth)?;
            hits.0 += right.f_narrow(1, 0, 1)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
            hits.1 += right
                .f_narrow(1, 0, right.size()[1].min(5))?
                .f_sum(Kind::Int64)?
                .f_int64_value(&[])?;
        }
    }
    let share = |hits: i64| hits as f64 / images as f64;
    let result = |(votes, hits): (&Votes, (i64, i64))| KnnResult {
        votes: *votes,
        top_1: share(hits.0),
        top_5: share(hits.1),
    };
    Ok(votes.iter().zip(hits).map(result).collect())
}

/// The vote for every class, `[queries, classes]`, from cosines and classes of the nearest
/// neighbours, `[queries, most]`.
fn scores(cosines: &Tensor, of: &Tensor, classes: i64, votes: Votes) -> Result<Tensor, TchError> {
    let (queries, most) = cosines.size2()?;
    let k = (votes.k as i64).min(most);
    let weights = cosines.f_narrow(1, 0, k)?.f_div_scalar(votes.temperature)?.f_exp()?;
    Tensor::f_zeros([queries, classes], (weights.kind(), weights.device()))?.f_scatter_add(
        1,
        &of.f_narrow(1, 0, k)?,
        &weights,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(rows: &Tensor) -> Tensor {
        rows / rows.norm_scalaropt_dim(2.0, [1].as_slice(), true)
    }

    fn features(rows: &[[f64; 2]], labels: &[i64], classes: i64) -> Features {
        let rows = unit(&Tensor::from_slice2(rows));
        Features { rows, labels: Tensor::from_slice(labels), classes }
    }

    #[test]
    fn the_vote_is_weighted_and_k_is_capped_by_the_bank() {
        let bank = features(&[[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]], &[0, 1, 1], 2);
        let queries = features(&[[1.0, 0.3]], &[0], 2);
        let accuracy =
            |k, temperature| knn(&bank, &queries, &[Votes { k, temperature }]).unwrap()[0].top_1;
        assert_eq!(accuracy(1, 0.1), 1.0);
        // Two far neighbours outvote the near one only if the temperature lets them.
        assert_eq!(accuracy(3, 0.1), 1.0);
        assert_eq!(accuracy(100, 100.0), 0.0);
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
        assert!(scores.allclose(&expected, 1e-9, 0.0, false));
        assert_eq!(scores.argmax(1, false), Tensor::from_slice(&[0_i64, 1, 2, 1]));
    }

    #[test]
    fn streaming_does_not_change_the_result() {
        tch::manual_seed(3);
        let random = |images| Features {
            rows: unit(&Tensor::randn([images, 8], tch::kind::DOUBLE_CPU)),
            labels: Tensor::randint(7, [images], tch::kind::INT64_CPU),
            classes: 7,
        };
        let (bank, queries) = (random(900), random(QUERIES_AT_ONCE + 44));
        let votes = [Votes { k: 20, temperature: 0.07 }, Votes { k: 200, temperature: 0.1 }];
        let together = knn(&bank, &queries, &votes).unwrap();
        let mut apart = [0.0; 2];
        for index in 0..queries.rows.size()[0] {
            let one = Features {
                rows: queries.rows.narrow(0, index, 1),
                labels: queries.labels.narrow(0, index, 1),
                classes: 7,
            };
            for (sum, result) in apart.iter_mut().zip(knn(&bank, &one, &votes).unwrap()) {
                *sum += result.top_1;
            }
        }
        for (result, sum) in together.iter().zip(apart) {
            assert!((result.top_1 - sum / queries.rows.size()[0] as f64).abs() < 1e-12);
            assert!(result.top_1 <= result.top_5);
        }
    }

    #[test]
    fn sets_without_labels_are_refused() {
        let labelled = features(&[[1.0, 0.0]], &[0], 1);
        let unlabelled = features(&[[1.0, 0.0]], &[], 0);
        let message = |bank, queries| {
            knn(bank, queries, &[Votes { k: 1, temperature: 1.0 }]).unwrap_err().to_string()
        };
        assert!(message(&unlabelled, &labelled).contains("the training set has no labels"));
        assert!(message(&labelled, &unlabelled).contains("the test set has no labels"));
    }
}
