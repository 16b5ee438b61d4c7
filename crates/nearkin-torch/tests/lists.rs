//! Updates of lists against the same formula, one tensor after the other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nearkin_torch::{
    Adaptation, Descent, LayerwiseDescent, Rate, Remembered, move_towards, move_towards_by,
};
use tch::{Device, Kind, Tensor};

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
        descent.step(&lists.0, &lists.1, &lists.2, Rate::Number(0.3), 0.01).unwrap();
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
        descent.step(&all(&long), &all(gradients), &all(velocities), Rate::Number(0.1), 0.0)
    };
    short[1] = short[1].contiguous();
    assert!(message(step(&long, &short)).contains("does not lie in memory as its parameter"));
    short.pop();
    assert!(message(step(&short, &long)).contains("4 parameters, but 3 of"));
    assert!(move_towards(&all(&long), &all(&short), 0.5).is_err());
}

/// A step of one of the rules over parameters, gradients and two lists that it may remember.
type Step<'a> = &'a dyn Fn(&[Tensor], &[Tensor], &[Vec<Tensor>; 2], &[Tensor], Rate<'_>);

fn each_rule(check: impl Fn(&str, Step<'_>)) {
    for nesterov in [false, true] {
        let descent = Descent { momentum: 0.9, nesterov };
        check("sgd", &|own, gradients, [velocities, _], _, rate| {
            descent.step(&all(own), &all(gradients), &all(velocities), rate, 0.01).unwrap();
        });
    }
    check("adamw", &|own, gradients, [means, squares], counts, rate| {
        let adaptation = Adaptation { betas: [0.9, 0.99], epsilon: 1e-8 };
        let (means, mean_squares, counts) = (&all(means), &all(squares), &all(counts));
        let remembered = Remembered { means, mean_squares, counts };
        adaptation.step(&all(own), &all(gradients), remembered, rate, 0.01).unwrap();
    });
    for rate_inside in [false, true] {
        for trust_coefficient in [None, Some(0.01)] {
            let descent = LayerwiseDescent { momentum: 0.9, trust_coefficient, rate_inside };
            check("lars", &|own, gradients, [velocities, _], _, rate| {
                descent.step(&all(own), &all(gradients), &all(velocities), rate, 0.01).unwrap();
            });
        }
    }
}

/// Parameters, and all that a rule remembers of them.
fn state(kind: Kind) -> (Vec<Tensor>, [Vec<Tensor>; 2], Vec<Tensor>) {
    let counts = SIZES.iter().map(|_| Tensor::from(3.0_f32)).collect();
    let squares = random(kind).iter().map(Tensor::square).collect();
    (random(kind), [random(kind), squares], counts)
}

fn same(one: &[Tensor], other: &[Tensor], tolerance: f64) -> bool {
    one.iter().zip(other).all(|(a, b)| a.allclose(b, tolerance, tolerance, false))
}

#[test]
fn a_held_rate_is_as_good_as_its_number() {
    each_rule(|name, step| {
        let run = |rate: Rate<'_>| {
            tch::manual_seed(3);
            let (own, remembered, counts) = state(Kind::Double);
            step(&own, &random(Kind::Double), &remembered, &counts, rate);
            (own, remembered, counts)
        };
        let (learning_rate, unless) = (Tensor::from(0.3_f64), Tensor::from(0.0_f32));
        let held = run(Rate::Held { learning_rate: &learning_rate, unless: &unless });
        let known = run(Rate::Number(0.3));
        assert!(same(&held.0, &known.0, 1e-14), "{name}");
        assert!((0..2).all(|list| same(&held.1[list], &known.1[list], 1e-14)), "{name}");
        assert!(same(&held.2, &known.2, 0.0), "{name}");
    });
}

#[test]
fn nothing_changes_where_a_step_is_not_to_be_made() {
    each_rule(|name, step| {
        tch::manual_seed(4);
        let (own, remembered, counts) = state(Kind::Float);
        let copies = |list: &[Tensor]| list.iter().map(Tensor::copy).collect::<Vec<_>>();
        let before = (copies(&own), [copies(&remembered[0]), copies(&remembered[1])]);
        let mut gradients = random(Kind::Float);
        let _ = gradients[0].fill_(f64::NAN);
        let _ = gradients[2].fill_(f64::INFINITY);
        let (learning_rate, unless) = (Tensor::from(0.3_f32), Tensor::from(1.0_f32));
        let rate = Rate::Held { learning_rate: &learning_rate, unless: &unless };
        step(&own, &gradients, &remembered, &counts, rate);
        assert!(own == before.0 && remembered == before.1, "{name}");
        assert!(counts.iter().all(|count| count.double_value(&[]) == 3.0), "{name}");
    });
}

#[test]
fn averages_move_by_a_held_weight() {
    tch::manual_seed(5);
    let (averages, values) = (random(Kind::Double), random(Kind::Double));
    let mixed = |(a, v): (&Tensor, &Tensor)| a * 0.75 + v * 0.25;
    let expected: Vec<Tensor> = averages.iter().zip(&values).map(mixed).collect();
    let weight = Tensor::from(0.25_f64).to_device(Device::Cpu);
    move_towards_by(&all(&averages), &all(&values), &weight).unwrap();
    assert!(same(&averages, &expected, 1e-14));
    let before: Vec<Tensor> = averages.iter().map(Tensor::copy).collect();
    move_towards_by(&all(&averages), &all(&values), &weight.zeros_like()).unwrap();
    assert!(averages == before, "a weight of 0 changes no bit");
}
