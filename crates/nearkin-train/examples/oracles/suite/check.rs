//! Comparing computed with expected values, in one precision.

use tch::{Kind, Tensor};

use super::case::{Case, Failure};

/// The largest error that passes in a precision: absolute, relative where the expected value exceeds
/// 1 (some cases are not normalised and reach losses near 200).
pub(crate) fn bound(kind: Kind) -> f64 {
    if kind == Kind::Double { 1e-9 } else { 1e-5 }
}

/// A run over one case in one precision.
#[derive(Debug)]
pub(crate) struct Check<'a> {
    /// The case.
    pub(crate) case: &'a Case,
    /// In which precision.
    pub(crate) kind: Kind,
    /// Expected keys that were compared, in order.
    pub(crate) compared: Vec<String>,
    /// The largest error so far.
    pub(crate) worst: f64,
    /// What was off, with its error.
    pub(crate) wrong: Vec<String>,
}

impl<'a> Check<'a> {
    pub(crate) fn new(case: &'a Case, kind: Kind) -> Self {
        Self { case, kind, compared: Vec::new(), worst: 0.0, wrong: Vec::new() }
    }

    /// An input in this precision.
    pub(crate) fn input(&self, key: &str) -> Result<Tensor, Failure> {
        self.case.input(key, self.kind)
    }

    /// An input that gathers a gradient.
    pub(crate) fn leaf(&self, key: &str) -> Result<Tensor, Failure> {
        Ok(self.input(key)?.f_set_requires_grad(true)?)
    }

    /// Compares with the expected value of this name, if there is one.
    pub(crate) fn close(&mut self, key: &str, got: &Tensor) -> Result<(), Failure> {
        if !self.case.expects(key) {
            return Ok(());
        }
        self.near(key, got, &self.case.expected(key)?, bound(self.kind))?;
        self.note(key);
        Ok(())
    }

    /// The same for something that is always computed in single precision.
    pub(crate) fn close_in_single_precision(
        &mut self,
        key: &str,
        got: &Tensor,
    ) -> Result<(), Failure> {
        if self.case.expects(key) {
            self.near(key, got, &self.case.expected(key)?, bound(Kind::Float))?;
            self.note(key);
        }
        Ok(())
    }

    /// The same for a number.
    pub(crate) fn close_number(&mut self, key: &str, got: f64) -> Result<(), Failure> {
        self.close(key, &Tensor::from(got))
    }

    /// Compares two computed values.
    pub(crate) fn agree(
        &mut self,
        what: &str,
        one: &Tensor,
        other: &Tensor,
    ) -> Result<(), Failure> {
        self.near(what, one, &other.f_detach()?.f_to_kind(Kind::Double)?, bound(self.kind))
    }

    /// Compares the gradient of a loss by a leaf, if it is expected.
    pub(crate) fn gradient(
        &mut self,
        key: &str,
        loss: &Tensor,
        leaf: &Tensor,
    ) -> Result<(), Failure> {
        if self.case.expects(key) {
            self.close(key, &gradient(loss, leaf)?)?;
        }
        Ok(())
    }

    /// Remembers that an expected value was compared.
    pub(crate) fn note(&mut self, key: &str) {
        if !self.compared.iter().any(|compared| compared == key) {
            self.compared.push(key.to_owned());
        }
    }

    /// Compares with any value.
    pub(crate) fn near(
        &mut self,
        what: &str,
        got: &Tensor,
        expected: &Tensor,
        bound: f64,
    ) -> Result<(), Failure> {
        let got = got.f_detach()?.f_to_kind(Kind::Double)?;
        if got.size() != expected.size() {
            let shapes = format!("{what} is {:?} instead of {:?}", got.size(), expected.size());
            self.wrong.push(shapes);
            return Ok(());
        }
        if got.numel() == 0 {
            return Ok(());
        }
        let scale = expected.f_abs()?.f_clamp_min(1.0)?;
        let error = got.f_sub(expected)?.f_div(&scale)?.f_abs()?.f_max()?.f_double_value(&[])?;
        // What is no number compares with nothing, and must not pass for that.
        let fits = error <= bound;
        if !fits {
            self.wrong.push(format!("{what} is off by {error:.1e}"));
        }
        self.worst = if error.is_nan() { error } else { self.worst.max(error) };
        Ok(())
    }
}

/// The gradient of a loss by a leaf: zeros where it does not reach.
pub(crate) fn gradient(loss: &Tensor, leaf: &Tensor) -> Result<Tensor, Failure> {
    let mut gradients = Tensor::f_run_backward(&[loss], &[leaf], true, false)?;
    let gradient = gradients.swap_remove(0);
    Ok(if gradient.defined() { gradient } else { leaf.f_zeros_like()? })
}
