//! A file of reference cases, and what one case holds.
//!
//! The numbers come from people who know nothing of this crate, so nothing is taken for granted but
//! the form: whatever a check asks for may be missing, and it then says what.

use std::path::Path;

use nearkin_objective::MethodError;
use serde::Deserialize;
use serde_json::{Map, Value};
use tch::{Kind, TchError, Tensor};

/// Why a file holds no cases.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is not of the form.
    #[error("it is no file of reference cases: {0}")]
    Form(#[from] serde_json::Error),
}

/// Why a case cannot be computed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// libtorch's message.
    #[error(transparent)]
    Torch(#[from] TchError),
    /// A method refuses the parameters.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// A recipe's table refuses the parameters.
    #[error("{0}")]
    Table(#[from] toml::de::Error),
    /// A key that the check needs.
    #[error("there is no {0}")]
    Missing(String),
    /// A value of the wrong form.
    #[error("{key} is not {wanted}")]
    Form {
        /// Which value.
        key: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// Nothing here knows what the case is about.
    #[error("{0}")]
    Unknown(String),
}

/// A file of cases.
#[derive(Debug, Deserialize)]
pub(crate) struct Document {
    /// What the cases are about, for people.
    #[serde(default)]
    pub(crate) title: String,
    /// The cases, not yet read: a file about something else may hold other things.
    pub(crate) cases: Vec<Value>,
}

impl Document {
    /// Reads a JSON file.
    pub(crate) fn read(path: &Path) -> Result<Self, FileError> {
        Ok(serde_json::from_str(&with_quoted_names(&std::fs::read_to_string(path)?))?)
    }
}

/// Puts what Python writes for numbers that are none (`NaN`, `Infinity`), and JSON does not know, in
/// quotes: only the case that holds them then fails, not its whole file.
fn with_quoted_names(text: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let mut parts = text.split_inclusive(|letter| {
        let ends = letter == '"' && !escaped;
        escaped = inside && letter == '\\' && !escaped;
        inside ^= ends;
        ends
    });
    let mut out = String::with_capacity(text.len());
    // Texts stand between the first and second quote, the third and fourth, and so on.
    while let Some(outside) = parts.next() {
        let names = outside.replace("-Infinity", "Infinity").replace("Infinity", "NaN");
        out += &names.replace("NaN", "\"NaN\"");
        out += parts.next().unwrap_or_default();
    }
    out
}

/// One case. Other keys (notes, formulas, errors of finite differences) are no expected values.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    inputs: Option<Map<String, Value>>,
    #[serde(default)]
    params: Option<Map<String, Value>>,
    #[serde(default)]
    pub(crate) expected: Map<String, Value>,
    /// Which candidates stand in which order, for people.
    #[serde(default)]
    pub(crate) candidate_order: String,
}

fn at<'a>(map: Option<&'a Map<String, Value>>, key: &str) -> Option<&'a Value> {
    map?.get(key).filter(|value| !value.is_null())
}

impl Case {
    /// Whether there is such an input.
    pub(crate) fn has_input(&self, key: &str) -> bool {
        at(self.inputs.as_ref(), key).is_some()
    }

    /// Whether there is such a parameter, other than null.
    pub(crate) fn has_parameter(&self, key: &str) -> bool {
        at(self.params.as_ref(), key).is_some()
    }

    /// Whether the case has any inputs or parameters.
    pub(crate) fn has_nothing_but_a_name(&self) -> bool {
        [&self.inputs, &self.params].into_iter().flatten().all(Map::is_empty)
    }

    /// Whether such a value is expected.
    pub(crate) fn expects(&self, key: &str) -> bool {
        self.expected.contains_key(key)
    }

    /// Names of the inputs.
    pub(crate) fn inputs(&self) -> Vec<&str> {
        self.inputs.iter().flat_map(Map::keys).map(String::as_str).collect()
    }

    /// Names of the parameters.
    pub(crate) fn parameters(&self) -> Vec<&str> {
        self.params.iter().flat_map(Map::keys).map(String::as_str).collect()
    }

    /// An input of numbers.
    pub(crate) fn input(&self, key: &str, kind: Kind) -> Result<Tensor, Failure> {
        let value = at(self.inputs.as_ref(), key)
            .ok_or_else(|| Failure::Missing(format!("input {key}")))?;
        tensor(key, value, kind)
    }

    /// A list of numbers, each of any form, among the inputs.
    pub(crate) fn list(&self, key: &str) -> Result<&[Value], Failure> {
        let value = at(self.inputs.as_ref(), key);
        let list = value.and_then(Value::as_array);
        Ok(list.ok_or_else(|| Failure::Missing(format!("list {key} among the inputs")))?)
    }

    /// A number among the parameters.
    pub(crate) fn parameter(&self, key: &str) -> Result<f64, Failure> {
        let value = self.parameter_or_none(key)?;
        value.ok_or_else(|| Failure::Missing(format!("parameter {key}")))
    }

    /// A number among the parameters, if it is there.
    pub(crate) fn parameter_or_none(&self, key: &str) -> Result<Option<f64>, Failure> {
        at(self.params.as_ref(), key).map(|value| number(key, value)).transpose()
    }

    /// A word among the parameters, if it is there.
    pub(crate) fn word(&self, key: &str) -> Option<&str> {
        at(self.params.as_ref(), key).and_then(Value::as_str)
    }

    /// A truth value among the parameters.
    pub(crate) fn flag(&self, key: &str, default: bool) -> bool {
        at(self.params.as_ref(), key).and_then(Value::as_bool).unwrap_or(default)
    }

    /// An expected value of numbers.
    pub(crate) fn expected(&self, key: &str) -> Result<Tensor, Failure> {
        let value = self.expected.get(key);
        let value = value.ok_or_else(|| Failure::Missing(format!("expected {key}")))?;
        tensor(key, value, Kind::Double)
    }

    /// The last dimension of the first of these expected values that is there.
    pub(crate) fn expected_width(&self, keys: &[&str]) -> Result<Option<i64>, Failure> {
        let key = keys.iter().find(|key| self.expects(key));
        let width = |key: &&str| Ok(self.expected(key)?.size().last().copied().unwrap_or(1));
        key.map(width).transpose()
    }

    /// The name in lower case, in words.
    pub(crate) fn words(&self) -> Vec<String> {
        words(&self.name)
    }
}

/// A text in lower case, in words of letters, figures, points and signs.
pub(crate) fn words(text: &str) -> Vec<String> {
    let inside = |letter: char| letter.is_alphanumeric() || ".-+".contains(letter);
    let text = text.to_lowercase();
    text.split(|letter| !inside(letter))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn number(key: &str, value: &Value) -> Result<f64, Failure> {
    let truth = || value.as_bool().map(|truth| f64::from(u8::from(truth)));
    let number = value.as_f64().or_else(truth);
    number.ok_or_else(|| Failure::Form { key: key.to_owned(), wanted: "a number" })
}

/// Nested lists of numbers as a tensor.
pub(crate) fn tensor(key: &str, value: &Value, kind: Kind) -> Result<Tensor, Failure> {
    let mut shape = Vec::new();
    let mut outermost = value;
    while let Value::Array(items) = outermost {
        shape.push(items.len() as i64);
        let Some(first) = items.first() else { break };
        outermost = first;
    }
    let mut numbers = Vec::new();
    flatten(key, value, &shape, &mut numbers)?;
    Ok(Tensor::f_from_slice(&numbers)?.f_reshape(&shape)?.f_to_kind(kind)?)
}

fn flatten(key: &str, value: &Value, shape: &[i64], out: &mut Vec<f64>) -> Result<(), Failure> {
    match (value, shape) {
        (Value::Array(items), [length, inner @ ..]) if items.len() as i64 == *length => {
            items.iter().try_for_each(|item| flatten(key, item, inner, out))
        }
        (value, []) => {
            out.push(number(key, value)?);
            Ok(())
        }
        _ => Err(Failure::Form { key: key.to_owned(), wanted: "a regular list of numbers" }),
    }
}
