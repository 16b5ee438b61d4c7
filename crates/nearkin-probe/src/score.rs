//! A measured number with what it means.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// How a value is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Between 0 and 1; shown in percent.
    Share,
    /// Shown unchanged.
    Number,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Which evaluation, with what tells it from others of its kind: `linear moco-cifar`.
    pub protocol: String,
    /// What was counted: `top-1`.
    pub metric: Cow<'static, str>,
    /// The number.
    pub value: f64,
    /// How to read it.
    pub unit: Unit,
    /// Everything it depends on: features, images, optimizer, epochs, seed.
    pub definition: String,
    /// The protocol with every option that is not its default, `linear cached, epochs=1`; the same for
    /// runs that can be compared. Empty where it was not recorded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub settings: String,
    /// Digest of the images, their labels and the recipe. Empty where it was not recorded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub inputs: String,
}

impl Score {
    /// A score that was not asked for by a [`suite`](crate::suite()).
    pub(crate) fn new(
        protocol: &str,
        metric: impl Into<Cow<'static, str>>,
        (value, unit): (f64, Unit),
        definition: &str,
    ) -> Self {
        Self {
            protocol: protocol.to_owned(),
            metric: metric.into(),
            value,
            unit,
            definition: definition.to_owned(),
            settings: String::new(),
            inputs: String::new(),
        }
    }

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
