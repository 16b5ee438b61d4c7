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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_kept_or_refused_by_its_rule(value in any::<f64>()) {
            let finite = value.is_finite();
            for (kept, allowed) in [
                (Positive::try_from(value).map(Positive::get), finite && value > 0.0),
                (NonNegative::try_from(value).map(NonNegative::get), finite && value >= 0.0),
                (Fraction::try_from(value).map(Fraction::get), (0.0..=1.0).contains(&value)),
            ] {
                match kept {
                    Ok(kept) => prop_assert!(allowed && kept.to_bits() == value.to_bits()),
                    Err(message) => prop_assert!(!allowed && message.contains("it must be")),
                }
            }
        }
    }

    #[test]
    fn the_bounds_themselves_are_as_named() {
        assert!(Positive::try_from(0.0).is_err() && Positive::try_from(f64::MIN_POSITIVE).is_ok());
        assert!(NonNegative::try_from(0.0).is_ok() && NonNegative::try_from(-1e-300).is_err());
        assert!(Fraction::try_from(0.0).is_ok() && Fraction::try_from(1.0).is_ok());
        assert!(Fraction::try_from(1.0 + f64::EPSILON).is_err());
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(Positive::try_from(value).is_err(), "{value}");
            assert!(NonNegative::try_from(value).is_err(), "{value}");
            assert!(Fraction::try_from(value).is_err(), "{value}");
        }
    }
}
