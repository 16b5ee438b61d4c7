//! Checks of hyper-parameters, made once when a recipe is read.

use crate::Scheduled;

/// A hyper-parameter with a value that its method cannot work with, or views that do not fit it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterError {
    /// A key of the recipe's `[method]` table.
    #[error("method.{key} = {value}: {reason}")]
    Value {
        /// The key.
        key: String,
        /// What was given.
        value: String,
        /// What is allowed.
        reason: String,
    },
    /// The number of `[[views]]`.
    #[error("{views} [[views]]: {reason}")]
    Views {
        /// How many there are.
        views: usize,
        /// What is needed.
        reason: String,
    },
}

impl ParameterError {
    /// Of a `key` of the `[method]` table whose `value` cannot be used, for this `reason`.
    pub fn new(key: impl Into<String>, value: &impl ToString, reason: impl Into<String>) -> Self {
        Self::Value { key: key.into(), value: value.to_string(), reason: reason.into() }
    }

    pub(crate) fn views(views: usize, reason: impl Into<String>) -> Self {
        Self::Views { views, reason: reason.into() }
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

/// A weight of a mixture of which something is left: above 0 and at most 1.
pub(crate) fn positive_fraction(key: &'static str, value: f64) -> Result<(), ParameterError> {
    let reason = "it must be above 0 (the method would do nothing) and at most 1";
    within(key, value, |value| value > 0.0 && value <= 1.0, reason)
}

/// A weight that single precision can work with.
pub(crate) fn weight(key: &'static str, value: impl Into<Scheduled>) -> Result<(), ParameterError> {
    within(key, value, |value| (0.0..=1e6).contains(&value), "it must be from 0 to 1e6")
}

/// The concentration of a distribution.
pub(crate) fn concentration(key: &'static str, value: f64) -> Result<(), ParameterError> {
    within(key, value, |value| (1e-3..=1e6).contains(&value), "it must be from 1e-3 to 1e6")
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
        _ => Err(ParameterError::views(views, "the method takes exactly two")),
    }
}
