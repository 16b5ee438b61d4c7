//! Hyper-parameters that may change while a run goes on.

use std::f64::consts::PI;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

/// How far a run is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    step: u64,
    total_steps: u64,
    steps_per_epoch: u64,
    /// Of all its clones.
    moving: Arc<AtomicBool>,
}

impl Progress {
    /// After `step` steps of `total_steps`, with so many in an epoch.
    pub fn new(step: u64, total_steps: u64, steps_per_epoch: u64) -> Self {
        Self { step, total_steps, steps_per_epoch, moving: Arc::default() }
    }

    /// Whether a number was asked for, of this or a clone, that will be another one in a later step:
    /// what was computed with it cannot be repeated.
    pub fn has_moving_numbers(&self) -> bool {
        self.moving.load(Ordering::Relaxed)
    }
}

/// A number, or `{ from, to, epochs, shape }`: in a recipe `0.5`, or for example
/// `{ from = 1.0, to = 0.5, epochs = 10 }`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scheduled {
    /// It stays.
    Constant(f64),
    /// It changes.
    Varying(Varying),
}

/// A number that moves from one value to another and stays there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Varying {
    /// At the first step.
    pub from: f64,
    /// At the end.
    pub to: f64,
    /// After so many epochs it is there; the whole run if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// On which way.
    #[serde(default)]
    pub shape: Shape,
}

/// The way from one value to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Half a cosine: `to - (to - from) (cos(pi t / T) + 1) / 2` (SANE's mu).
    #[default]
    Cosine,
    /// A straight line.
    Linear,
}

impl Scheduled {
    /// The value at a step.
    pub fn at(&self, progress: &Progress) -> f64 {
        let varying = match self {
            Self::Constant(value) => return *value,
            Self::Varying(varying) => varying,
        };
        let steps = match varying.epochs {
            Some(epochs) => epochs.saturating_mul(progress.steps_per_epoch),
            None => progress.total_steps,
        };
        if progress.step >= steps {
            return varying.to;
        }
        progress.moving.store(true, Ordering::Relaxed);
        let share = progress.step as f64 / steps as f64;
        let left = match varying.shape {
            Shape::Cosine => 0.5 * ((PI * share).cos() + 1.0),
            Shape::Linear => 1.0 - share,
        };
        varying.to - (varying.to - varying.from) * left
    }

    /// Both ends, for checks.
    pub(crate) fn ends(&self) -> [f64; 2] {
        match self {
            Self::Constant(value) => [*value; 2],
            Self::Varying(varying) => [varying.from, varying.to],
        }
    }
}

impl From<f64> for Scheduled {
    fn from(value: f64) -> Self {
        Self::Constant(value)
    }
}

impl Serialize for Scheduled {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Constant(value) => value.serialize(serializer),
            Self::Varying(varying) => varying.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Scheduled {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let error = <D::Error as serde::de::Error>::custom::<String>;
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Float(value) => Ok(Self::Constant(value)),
            toml::Value::Integer(value) => Ok(Self::Constant(value as f64)),
            toml::Value::Table(table) => table
                .try_into()
                .map(Self::Varying)
                .map_err(|reason: toml::de::Error| error(reason.message().to_owned())),
            other => Err(error(format!(
                "a {} is neither a number nor {{ from, to, epochs, shape }}",
                other.type_str()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Scheduled, String> {
        let table: toml::Table = format!("value = {text}").parse().unwrap();
        table["value"].clone().try_into().map_err(|error: toml::de::Error| error.to_string())
    }

    fn at(scheduled: &Scheduled, step: u64) -> f64 {
        scheduled.at(&Progress::new(step, 20, 5))
    }

    #[test]
    fn numbers_stay_and_tables_move() {
        let constant = parsed("1").unwrap();
        assert_eq!([at(&constant, 0), at(&constant, 19)], [1.0, 1.0]);
        let line = parsed("{ from = 1.0, to = 0.5, epochs = 2, shape = \"linear\" }").unwrap();
        assert_eq!([0, 5, 10, 19].map(|step| at(&line, step)), [1.0, 0.75, 0.5, 0.5]);
        let cosine = parsed("{ from = 0.0, to = 1.0 }").unwrap();
        assert!((at(&cosine, 10) - 0.5).abs() < 1e-15 && at(&cosine, 0) == 0.0);
        assert_eq!(at(&parsed("{ from = 1.0, to = 0.5, epochs = 0 }").unwrap(), 0), 0.5);
    }

    #[test]
    fn a_number_that_still_moves_leaves_its_trace() {
        let line = parsed("{ from = 1.0, to = 0.5, epochs = 2, shape = \"linear\" }").unwrap();
        for (scheduled, step, expected) in
            [(&line, 9, true), (&line, 10, false), (&Scheduled::Constant(1.0), 0, false)]
        {
            let progress = Progress::new(step, 20, 5);
            scheduled.at(&progress.clone());
            assert_eq!(progress.has_moving_numbers(), expected, "{scheduled:?} at {step}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for (text, reason) in [
            ("\"0.5\"", "neither a number"),
            ("{ from = 1.0 }", "missing field `to`"),
            ("{ from = 1.0, to = 0.5, epoch = 2 }", "unknown field `epoch`"),
        ] {
            let message = parsed(text).unwrap_err();
            assert!(message.contains(reason), "{message}");
        }
    }
}
