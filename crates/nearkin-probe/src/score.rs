//! A measured number with what it means.

use serde::Serialize;

/// How a value is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Within 0 and 1; shown in percent.
    Share,
    /// As it stands.
    Number,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Which evaluation, with what tells it from others of its kind: `linear moco-cifar`.
    pub protocol: String,
    /// What was counted: `top-1`.
    pub metric: &'static str,
    /// The number.
    pub value: f64,
    /// How to read it.
    pub unit: Unit,
    /// Everything it depends on: features, images, optimiser, epochs, seed.
    pub definition: String,
}

impl Score {
    /// The number as text, without the sign of the unit.
    pub fn shown(&self) -> String {
        self.unit.show(self.value)
    }
}

impl Unit {
    /// A value as text.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Share => format!("{:.2}", 100.0 * value),
            Self::Number => format!("{value:.4}"),
        }
    }
}
