//! Logistic regression by L-BFGS, the classifier of transfer evaluation: multinomial where an image
//! has one class, one class against the rest where it can show several.
//!
//! It has one optimum and no learning rate, so the only choice left is the penalty.

use std::cell::RefCell;

use argmin::core::{CostFunction, Error as SolverError, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use tch::{Kind, TchError, Tensor};

use crate::ProbeError;

/// Pairs of steps and gradients that the solver remembers, as scikit-learn's.
const MEMORY: usize = 10;
/// Iterations at most.
const ITERATIONS: u64 = 1000;
/// It ends where the gradient of the mean loss is no longer than this.
const GRADIENT: f64 = 1e-5;

/// The penalties of the published protocol: 45 from 1e-6 to 1e5, evenly in the logarithm.
pub fn l2_grid() -> Vec<f64> {
    (0..45).map(|place| 10_f64.powf(-6.0 + 11.0 * f64::from(place) / 44.0)).collect()
}

/// A trained classifier.
#[derive(Debug)]
pub struct Regression {
    /// `[classes, length]`.
    weight: Tensor,
    /// `[classes]`.
    bias: Tensor,
}

impl Regression {
    /// `[batch, classes]` of rows `[batch, length]`.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        rows.f_to_kind(Kind::Double)?.f_linear(&self.weight, Some(&self.bias))
    }
}

/// Features to fit; each fit begins where the last one ended.
#[derive(Debug)]
pub struct Logistic {
    problem: Problem,
    start: Vec<f64>,
}

impl Logistic {
    /// For rows `[images, length]` of the classes `labels`, `[images]`.
    pub fn new(rows: &Tensor, labels: &Tensor, classes: i64) -> Result<Self, TchError> {
        let rows = rows.f_to_kind(Kind::Double)?;
        let length = rows.size()[1];
        Ok(Self {
            start: vec![0.0; (classes * (length + 1)) as usize],
            problem: Problem {
                wanted: labels.f_one_hot(classes)?.f_to_kind(Kind::Double)?,
                counted: None,
                rows,
                classes,
                l2: 0.0,
                last: RefCell::new(None),
            },
        })
    }

    /// For rows `[images, length]` that show a class where `truth`, `[images, classes]`, is above 0,
    /// do not where it is below, and count neither way where it is 0.
    ///
    /// Each class is a problem of its own; all are solved at once, since a product with all weights
    /// costs little more than one with those of a class.
    pub fn one_against_rest(rows: &Tensor, truth: &Tensor) -> Result<Self, TchError> {
        let rows = rows.f_to_kind(Kind::Double)?;
        let (length, classes) = (rows.size()[1], truth.size()[1]);
        Ok(Self {
            start: vec![0.0; (classes * (length + 1)) as usize],
            problem: Problem {
                wanted: truth.f_gt(0.0)?.f_to_kind(Kind::Double)?,
                counted: Some(truth.f_ne(0.0)?.f_to_kind(Kind::Double)?),
                rows,
                classes,
                l2: 0.0,
                last: RefCell::new(None),
            },
        })
    }

    /// Minimises the sum of cross-entropies plus `l2 / 2` times the squared weights; biases are
    /// free. This is scikit-learn's with `C = 1 / l2`.
    pub fn fit(&mut self, l2: f64) -> Result<Regression, ProbeError> {
        let failed = |error: SolverError| ProbeError::Optimise { l2, reason: error.to_string() };
        self.problem.l2 = l2;
        *self.problem.last.borrow_mut() = None;
        // At the optimum already: the line search would find no way down.
        let norm = self.problem.evaluate(&self.start)?.1.iter().fold(0.0, |sum, g| sum + g * g);
        if norm.sqrt() > GRADIENT {
            let search = MoreThuenteLineSearch::new();
            let solver = LBFGS::new(search, MEMORY)
                .with_tolerance_grad(GRADIENT)
                .and_then(|solver| solver.with_tolerance_cost(1e-12))
                .map_err(failed)?;
            let done = Executor::new(&self.problem, solver)
                .configure(|state| state.param(self.start.clone()).max_iters(ITERATIONS))
                .run()
                .map_err(failed)?;
            if let Some(best) = done.state().get_best_param() {
                self.start.clone_from(best);
            }
        }
        let (weight, bias) = self.problem.parts(&self.start)?;
        Ok(Regression { weight, bias })
    }
}

/// A point, and the value and gradient there.
type Point = (Vec<f64>, f64, Vec<f64>);

/// The mean loss and its gradient, which the solver asks for one after the other at the same point.
#[derive(Debug)]
struct Problem {
    rows: Tensor,
    wanted: Tensor,
    /// 1 where a class counts for an image, else 0: each class against the rest. `None`: all classes
    /// against each other.
    counted: Option<Tensor>,
    classes: i64,
    l2: f64,
    last: RefCell<Option<Point>>,
}

impl Problem {
    fn parts(&self, point: &[f64]) -> Result<(Tensor, Tensor), TchError> {
        let length = self.rows.size()[1];
        let all = Tensor::f_from_slice(point)?.f_to_device(self.rows.device())?;
        let weight = all.f_narrow(0, 0, self.classes * length)?.f_view([self.classes, length])?;
        let bias = all.f_narrow(0, self.classes * length, self.classes)?;
        Ok((weight, bias))
    }

    /// Value and gradient over the number of images, so that tolerances mean the same for any.
    fn evaluate(&self, point: &[f64]) -> Result<(f64, Vec<f64>), TchError> {
        if let Some((known, value, gradient)) = &*self.last.borrow()
            && known == point
        {
            return Ok((*value, gradient.clone()));
        }
        let (weight, bias) = self.parts(point)?;
        let images = self.rows.size()[0] as f64;
        let logits = self.rows.f_linear(&weight, Some(&bias))?;
        let (log_likelihood, error) = match &self.counted {
            None => {
                let logits = logits.f_log_softmax(1, None::<Kind>)?;
                (logits.f_mul(&self.wanted)?, logits.f_exp()?.f_sub(&self.wanted)?)
            }
            Some(counted) => {
                // log sigmoid(-z) + z is log sigmoid(z).
                let of_none = logits.f_neg()?.f_log_sigmoid()?;
                let likelihood = of_none.f_add(&logits.f_mul(&self.wanted)?)?;
                let error = logits.f_sigmoid()?.f_sub(&self.wanted)?;
                (likelihood.f_mul(counted)?, error.f_mul(counted)?)
            }
        };
        let likelihood = log_likelihood.f_sum(Kind::Double)?.f_double_value(&[])?;
        let squares = weight.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        let value = (0.5 * self.l2 * squares - likelihood) / images;
        let of_weight = error.f_transpose(0, 1)?.f_matmul(&self.rows)?;
        let of_weight = of_weight.f_add(&weight.f_mul_scalar(self.l2)?)?;
        let of_bias = error.f_sum_dim_intlist([0].as_slice(), false, Kind::Double)?;
        let gradient = Tensor::f_cat(&[of_weight.f_view([-1])?, of_bias], 0)?;
        let gradient = Vec::try_from(gradient.f_div_scalar(images)?)?;
        *self.last.borrow_mut() = Some((point.to_vec(), value, Vec::clone(&gradient)));
        Ok((value, gradient))
    }
}

impl CostFunction for &Problem {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, point: &Vec<f64>) -> Result<f64, SolverError> {
        Ok(self.evaluate(point)?.0)
    }
}

impl Gradient for &Problem {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, point: &Vec<f64>) -> Result<Vec<f64>, SolverError> {
        Ok(self.evaluate(point)?.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_that_of_the_protocol() {
        let grid = l2_grid();
        assert_eq!(grid.len(), 45);
        assert!((grid[0] - 1e-6).abs() < 1e-18 && (grid[44] - 1e5).abs() < 1e-6);
        assert!((grid[24] - 1.0).abs() < 1e-12);
    }

    /// Two classes on a line: the optimum of log(1 + exp(-2 w)) + l2 w^2 is where w (2 l2) equals
    /// 2 / (1 + exp(2 w)) with weights w and -w and l2 / 2 (w^2 + w^2) over the two images.
    #[test]
    fn the_optimum_is_where_the_gradient_vanishes() {
        let rows = Tensor::from_slice2(&[[1.0], [-1.0]]);
        let labels = Tensor::from_slice(&[0_i64, 1]);
        let l2 = 0.3;
        let fit = Logistic::new(&rows, &labels, 2).unwrap().fit(l2).unwrap();
        let weight: Vec<f64> = Vec::try_from(fit.weight.view(-1)).unwrap();
        assert!((weight[0] + weight[1]).abs() < 1e-5, "{weight:?}");
        let slope = l2 * weight[0] - 2.0 / (1.0 + (2.0 * weight[0]).exp());
        assert!(slope.abs() < 1e-4, "{slope}");
    }

    /// The slope of log(1 + exp(-w)) for each of the two images, which show the class and do not,
    /// is that of the penalty; a third, which counts neither way, changes nothing.
    #[test]
    fn a_class_against_the_rest_is_a_problem_of_its_own() {
        let rows = Tensor::from_slice2(&[[1.0], [-1.0], [9.0]]);
        let truth = Tensor::from_slice2(&[[1.0, -1.0], [-1.0, 1.0], [0.0, 0.0]]);
        let l2 = 0.3;
        let fit = Logistic::one_against_rest(&rows, &truth).unwrap().fit(l2).unwrap();
        let weights: Vec<f64> = Vec::try_from(fit.weight.view(-1)).unwrap();
        for weight in [weights[0], -weights[1]] {
            let slope = l2 * weight - 2.0 / (1.0 + weight.exp());
            assert!(slope.abs() < 1e-4, "{slope}: {weights:?}");
        }
        // SingleProcess, the first class gets the same weight.
        let alone = truth.narrow(1, 0, 1);
        let alone = Logistic::one_against_rest(&rows, &alone).unwrap().fit(l2).unwrap();
        let difference = alone.weight.double_value(&[0, 0]) - weights[0];
        assert!(difference.abs() < 1e-4, "{difference}");
    }

    #[test]
    fn where_a_fit_begins_does_not_matter() {
        tch::manual_seed(2);
        let rows = Tensor::randn([60, 5], tch::kind::DOUBLE_CPU);
        let labels = Tensor::randint(3, [60], tch::kind::INT64_CPU);
        let mut warm = Logistic::new(&rows, &labels, 3).unwrap();
        warm.fit(100.0).unwrap();
        let warm = warm.fit(1.0).unwrap();
        let cold = Logistic::new(&rows, &labels, 3).unwrap().fit(1.0).unwrap();
        assert!(warm.weight.allclose(&cold.weight, 1e-3, 1e-3, false));
    }
}
