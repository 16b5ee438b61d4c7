//! Checks of hyper-parameters, made once when a recipe is read.

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

/// A temperature: finite and above zero.
pub(crate) fn temperature(key: &'static str, value: f64) -> Result<f64, ParameterError> {
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err(ParameterError::new(key, &value, "a temperature is a finite number above 0"))
    }
}

/// A weight of a mixture: within 0 and 1.
pub(crate) fn fraction(key: &'static str, value: f64) -> Result<f64, ParameterError> {
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(ParameterError::new(key, &value, "it must lie within 0 and 1"))
    }
}
