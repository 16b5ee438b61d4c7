//! From the recipe's `[method]` table to a method, by name.
//!
//! Methods register themselves at link time, so that adding one touches no list.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Method, ParameterError};

/// What ties a method's hyper-parameters to the method.
pub(crate) trait Define: Method + Sized + 'static {
    /// As in the recipe; defaults come from here.
    type Parameters: DeserializeOwned + Serialize + Default;
    /// How the method presents itself.
    const CARD: Card;
    /// Checks the parameters; nothing checks them again.
    fn check(parameters: Self::Parameters) -> Result<Self, ParameterError>;
}

/// What people read about a method.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// The value of `name` in the recipe's `[method]` table.
    pub name: &'static str,
    /// One line for people.
    pub title: &'static str,
    /// Authors, title, venue, arXiv number.
    pub paper: &'static str,
    /// The loss.
    pub equation: &'static str,
    /// The pieces of the common formula: candidates, positives, relations, coefficient, denominator
    /// and what else there is, each with what the method takes for it.
    pub pieces: &'static [(&'static str, &'static str)],
    /// The `[method]` table of the free combination that is the same as this method with its
    /// defaults, where there is one.
    pub combination: Option<&'static str>,
    /// Where the authors' code differs from this method with its defaults, and what to set to follow
    /// it or what is not offered. Differences that change no result are left out.
    pub official_code: &'static [&'static str],
}

/// A registered method.
#[derive(Debug)]
pub struct Entry {
    /// What people read about it.
    pub card: Card,
    build: fn(toml::Table) -> Result<Box<dyn Method>, MethodError>,
}

inventory::collect!(Entry);

impl Entry {
    pub(crate) const fn of<M: Define>() -> Self {
        Self { card: M::CARD, build: build::<M> }
    }

    /// A recipe's `method` with every default, as the only key of a table.
    pub fn defaults(&self) -> Result<toml::Table, MethodError> {
        let method = (self.build)(toml::Table::new())?.parameters();
        Ok(toml::Table::from_iter([("method".to_owned(), method.into())]))
    }
}

fn build<M: Define>(table: toml::Table) -> Result<Box<dyn Method>, MethodError> {
    let parameters = table.try_into().map_err(|error: toml::de::Error| {
        MethodError::Read(error.to_string().trim_end().replace('\n', " "))
    })?;
    Ok(Box::new(M::check(parameters)?))
}

/// Why a `[method]` table is no method.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MethodError {
    /// There is no `name`, or it is not a string.
    #[error("[method] needs a name: one of {}", known())]
    Unnamed,
    /// No method of that name.
    #[error("there is no method {name:?}; known are {}", known())]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A key is unknown or a value has the wrong type; serde's message.
    #[error("{0}")]
    Read(String),
    /// A value is out of range.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

fn known() -> String {
    methods().iter().map(|entry| entry.card.name).collect::<Vec<_>>().join(", ")
}

/// Every method, by name.
pub fn methods() -> Vec<&'static Entry> {
    let mut entries: Vec<_> = inventory::iter::<Entry>().collect();
    entries.sort_unstable_by_key(|entry| entry.card.name);
    entries
}

/// The method of that name.
pub fn find(name: &str) -> Result<&'static Entry, MethodError> {
    let found = methods().into_iter().find(|entry| entry.card.name == name);
    found.ok_or_else(|| MethodError::Unknown { name: name.to_owned() })
}

/// Makes the method that a recipe's `[method]` table describes.
pub fn from_table(table: &toml::Table) -> Result<Box<dyn Method>, MethodError> {
    let mut parameters = table.clone();
    let Some(toml::Value::String(name)) = parameters.remove("name") else {
        return Err(MethodError::Unnamed);
    };
    (find(&name)?.build)(parameters)
}

/// The parameters as a `[method]` table with its name in front.
pub(crate) fn table<M: Define>(parameters: &M::Parameters) -> toml::Table {
    let mut table = toml::Table::from_iter([("name".to_owned(), M::CARD.name.into())]);
    if let Ok(rest) = toml::Table::try_from(parameters) {
        table.extend(rest);
    }
    table
}
