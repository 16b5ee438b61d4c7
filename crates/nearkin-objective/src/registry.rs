//! From the recipe's `[method]` table to a method, by name.
//!
//! Methods register themselves at link time, so that adding one touches no list. A method of another
//! crate does the same with [`inventory::submit!`](crate::inventory::submit).

use serde::{Serialize, de::DeserializeOwned};

use crate::method::{Method, PairMethod, Pairs, ViewMethod, Views};
use crate::{Card, ParameterError};

/// What ties hyper-parameters to a method.
pub trait Define: Sized + Send + Sync + 'static {
    /// The recipe's `[method]` table without its name; defaults come from here. For most methods the
    /// method itself.
    type Settings: DeserializeOwned + Serialize + Default;
    /// The value of `name` in the recipe's `[method]` table.
    const NAME: &'static str;
    /// The method's card; see [`Card::parse`].
    const CARD: &'static str;
    /// Checks the settings; nothing checks them again.
    fn new(settings: Self::Settings) -> Result<Self, ParameterError>;
}

/// A method and the `[method]` table that describes it with every default filled in.
pub struct Configured {
    /// The method.
    pub method: Box<dyn Method>,
    /// Its table, the name first.
    pub table: toml::Table,
}

/// A registered method.
#[derive(Debug)]
pub struct Entry {
    /// The value of `name` in the recipe's `[method]` table.
    pub name: &'static str,
    card: &'static str,
    build: fn(toml::Table) -> Result<Configured, MethodError>,
}

inventory::collect!(Entry);

impl Entry {
    /// The entry of a method.
    pub const fn new<M: Define + Method>() -> Self {
        Self { name: M::NAME, card: M::CARD, build: |table| build::<M, _>(table, |method| method) }
    }

    /// The entry of a method that compares pairs of views.
    pub const fn pairs<M: Define + PairMethod>() -> Self {
        Self { name: M::NAME, card: M::CARD, build: |table| build::<M, _>(table, Pairs) }
    }

    /// The entry of a method that compares all views of the batch.
    pub const fn views<M: Define + ViewMethod>() -> Self {
        Self { name: M::NAME, card: M::CARD, build: |table| build::<M, _>(table, Views) }
    }

    /// What people read about the method.
    pub fn card(&self) -> Card {
        Card::parse(self.card)
    }

    /// A recipe's `method` with every default, as the only key of a table.
    pub fn defaults(&self) -> Result<toml::Table, MethodError> {
        let table = (self.build)(toml::Table::new())?.table;
        Ok(toml::Table::from_iter([("method".to_owned(), table.into())]))
    }
}

fn build<M: Define, T: Method + 'static>(
    table: toml::Table,
    complete: impl Fn(M) -> T,
) -> Result<Configured, MethodError> {
    let read = |message: String| MethodError::Read(message.trim_end().replace('\n', " "));
    let settings: M::Settings =
        table.try_into().map_err(|error: toml::de::Error| read(error.to_string()))?;
    let mut table = toml::Table::from_iter([("name".to_owned(), M::NAME.into())]);
    let complete_settings = toml::Table::try_from(&settings);
    table.extend(complete_settings.map_err(|error| read(error.to_string()))?);
    Ok(Configured { method: Box::new(complete(M::new(settings)?)), table })
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
    methods().iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
}

/// Every method, by name.
pub fn methods() -> Vec<&'static Entry> {
    let mut entries: Vec<_> = inventory::iter::<Entry>().collect();
    entries.sort_unstable_by_key(|entry| entry.name);
    entries
}

/// The method of that name.
pub fn find(name: &str) -> Result<&'static Entry, MethodError> {
    let found = methods().into_iter().find(|entry| entry.name == name);
    found.ok_or_else(|| MethodError::Unknown { name: name.to_owned() })
}

/// Makes the method that a recipe's `[method]` table describes.
pub fn from_table(table: &toml::Table) -> Result<Configured, MethodError> {
    let mut settings = table.clone();
    let Some(toml::Value::String(name)) = settings.remove("name") else {
        return Err(MethodError::Unnamed);
    };
    (find(&name)?.build)(settings)
}
