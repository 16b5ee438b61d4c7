//! Numbers that are checked where they are read, so that NaN never reaches a training step.

use serde::{Deserialize, Serialize};

macro_rules! checked_number {
    ($(#[$doc:meta])* $name:ident, $value:ident => $accept:expr, $must:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(f64);

        impl $name {
            /// The number.
            pub const fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = String;

            fn try_from($value: f64) -> Result<Self, String> {
                if $accept { Ok(Self($value)) } else { Err(format!(concat!("{} is not allowed: it must be ", $must), $value)) }
            }
        }

        impl From<$name> for f64 {
            fn from(number: $name) -> f64 {
                number.0
            }
        }
    };
}

checked_number!(
    /// A finite number above 0.
    Positive, value => value.is_finite() && value > 0.0, "a finite number above 0"
);
checked_number!(
    /// A finite number of at least 0.
    NonNegative, value => value.is_finite() && value >= 0.0, "a finite number of at least 0"
);
checked_number!(
    /// A number within 0 and 1.
    Fraction, value => (0.0..=1.0).contains(&value), "within 0 and 1"
);

impl Positive {
    /// For defaults; the caller sees to it that the number is finite and above 0.
    pub(crate) const fn literal(value: f64) -> Self {
        Self(value)
    }
}

impl NonNegative {
    pub(crate) const fn literal(value: f64) -> Self {
        Self(value)
    }
}

impl Fraction {
    pub(crate) const fn literal(value: f64) -> Self {
        Self(value)
    }
}
