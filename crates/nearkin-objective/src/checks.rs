//! Checks of hyper-parameters, made once when a recipe is read.

use crate::Scheduled;

/// A hyper-parameter with a value that its method cannot work with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("method.{key} = {value}: {reason}")]
pub struct ParameterError {
    /// The key in the recipe's `[method]` table.
    pub key: &'static str,
    /// What was given.
    pub value: String,
    /// What is allowed.
    pub reason: &'static str,
}

impl ParameterError {
    pub(crate) fn new(key: &'static str, value: &impl ToString, reason: &'static str) -> Self {
        Self { key, value: value.to_string(), reason }
    }
}

/// Lies in a range at both ends of its schedule.
fn within(
    key: &'static str,
    value: impl Into<Scheduled>,
    fits: impl Fn(f64) -> bool,
    reason: &'static str,
) -> Result<(), ParameterError> {
    match value.into().ends().into_iter().find(|&end| !fits(end)) {
        Some(end) => Err(ParameterError::new(key, &end, reason)),
        None => Ok(()),
    }
}

/// A temperature. The bounds keep a cosine divided by it, and sums of exponentials of that, finite
/// in single precision.
pub(crate) fn temperature(
    key: &'static str,
    value: impl Into<Scheduled>,
) -> Result<(), ParameterError> {
    let reason = "a temperature is a number from 1e-6 to 1e6";
    within(key, value, |value| (1e-6..=1e6).contains(&value), reason)
}

/// A weight of a mixture: within 0 and 1.
pub(crate) fn fraction(
    key: &'static str,
    value: impl Into<Scheduled>,
) -> Result<(), ParameterError> {
    within(key, value, |value| (0.0..=1.0).contains(&value), "it must lie within 0 and 1")
}

/// A weight: finite and at least 0.
pub(crate) fn weight(key: &'static str, value: impl Into<Scheduled>) -> Result<(), ParameterError> {
    let reason = "it must be a finite number of at least 0";
    within(key, value, |value| value.is_finite() && value >= 0.0, reason)
}

/// The concentration of a distribution: finite and above 0.
pub(crate) fn concentration(key: &'static str, value: f64) -> Result<(), ParameterError> {
    let reason = "it must be a finite number above 0";
    within(key, value, |value| value.is_finite() && value > 0.0, reason)
}

/// A probability that a negative is of the anchor's class.
pub(crate) fn class_prior(key: &'static str, value: f64) -> Result<(), ParameterError> {
    let reason = "it must be at least 0 and below 1";
    within(key, value, |value| (0.0..1.0).contains(&value), reason)
}

/// For methods that are defined for one positive.
pub(crate) fn two_views(views: usize) -> Result<(), ParameterError> {
    match views {
        2 => Ok(()),
        _ => Err(ParameterError::new("views", &views, "this method takes exactly two [[views]]")),
    }
}
