//! Updates of lists against the same formula, one tensor after the other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nearkin_kernel::{Descent, move_towards};
use tch::{Kind, Tensor};

const SIZES: [&[i64]; 4] = [&[7], &[16, 3, 3, 3], &[40, 33], &[1]];

fn random(kind: Kind) -> Vec<Tensor> {
    let one = |size: &&[i64]| {
        let tensor = Tensor::randn(*size, tch::kind::DOUBLE_CPU).to_kind(kind);
        match size.len() {
            4 => tensor.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]),
            _ => tensor,
        }
    };
    SIZES.iter().map(one).collect()
}

fn all(tensors: &[Tensor]) -> Vec<&Tensor> {
    tensors.iter().collect()
}

#[test]
fn averages_move_by_their_weight() {
    tch::manual_seed(1);
    for (kind, tolerance) in [(Kind::Double, 1e-15), (Kind::Float, 1e-6)] {
        let (averages, values) = (random(kind), random(kind));
        let expected: Vec<Tensor> = averages
            .iter()
            .zip(&values)
            .map(|(mine, theirs)| mine * 0.97 + theirs * 0.03)
            .collect();
        move_towards(&all(&averages), &all(&values), 0.03).unwrap();
        for (got, expected) in averages.iter().zip(&expected) {
            assert!(got.allclose(expected, tolerance, tolerance, false));
        }
    }
}

#[test]
fn descent_is_the_published_step() {
    tch::manual_seed(2);
    for nesterov in [false, true] {
        let (parameters, velocities) = (random(Kind::Double), random(Kind::Double));
        // A leaf that records gradients changes all the same, and a gradient of another layout fits.
        let parameters: Vec<Tensor> =
            parameters.iter().map(|own| own.detach().set_requires_grad(true)).collect();
        let mut gradients = random(Kind::Double);
        gradients[1] = gradients[1].contiguous();
        let copies = |of: &[Tensor]| of.iter().map(|own| own.detach().copy()).collect::<Vec<_>>();
        let (before, speed_before) = (copies(&parameters), copies(&velocities));
        let descent = Descent { momentum: 0.9, nesterov };
        let lists = (all(&parameters), all(&gradients), all(&velocities));
        descent.step(&lists.0, &lists.1, &lists.2, 0.3, 0.01).unwrap();
        for index in 0..SIZES.len() {
            let gradient = &gradients[index] + &before[index] * 0.01;
            let velocity = &speed_before[index] * 0.9 + &gradient;
            let step = if nesterov { &gradient + &velocity * 0.9 } else { velocity.copy() };
            let expected = &before[index] - step * 0.3;
            assert!(velocities[index].allclose(&velocity, 1e-14, 1e-14, false));
            assert!(parameters[index].allclose(&expected, 1e-14, 1e-14, false));
        }
    }
}

#[test]
fn lists_that_do_not_match_are_errors() {
    let (long, mut short) = (random(Kind::Float), random(Kind::Float));
    let message = |result: Result<(), tch::TchError>| result.unwrap_err().to_string();
    let step = |gradients: &[Tensor], velocities: &[Tensor]| {
        let descent = Descent { momentum: 0.9, nesterov: false };
        descent.step(&all(&long), &all(gradients), &all(velocities), 0.1, 0.0)
    };
    short[1] = short[1].contiguous();
    assert!(message(step(&long, &short)).contains("does not lie in memory as its parameter"));
    short.pop();
    assert!(message(step(&short, &long)).contains("4 parameters, 3 gradients"));
    assert!(move_towards(&all(&long), &all(&short), 0.5).is_err());
}
