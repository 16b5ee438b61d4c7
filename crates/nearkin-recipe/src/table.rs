//! Reading, overriding, writing and comparing recipes as TOML.

use std::path::Path;

use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::{Recipe, RecipeError, error::with_suggestion};

/// A recipe as text, before its keys mean anything.
#[derive(Clone, Debug)]
pub struct Source {
    origin: String,
    table: Table,
    /// As read, as long as nothing was overridden: messages can then show the line.
    text: Option<String>,
}

/// `key.path=value` from the command line, the value in TOML (a bare word is a string).
#[derive(Clone, Debug)]
pub struct Override {
    given: String,
    path: Vec<String>,
    value: Value,
}

impl std::str::FromStr for Override {
    type Err = RecipeError;

    fn from_str(given: &str) -> Result<Self, RecipeError> {
        let refuse = |reason: &str| RecipeError::Override {
            given: given.to_owned(),
            reason: reason.to_owned(),
        };
        let (key, value) = given.split_once('=').ok_or_else(|| {
            refuse("write key.path=value, for example optimizer.learning_rate=0.03")
        })?;
        let path: Vec<String> = key.trim().split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(refuse("a part of the key is empty"));
        }
        let value = value.trim();
        let value = format!("value = {value}")
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| Value::String(value.to_owned()));
        Ok(Self { given: given.to_owned(), path, value })
    }
}

/// One key with different values in two recipes.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The key's path.
    pub key: String,
    /// Its value in the first recipe, if it is there.
    pub before: Option<String>,
    /// Its value in the second.
    pub after: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let absent = || "(absent)".to_owned();
        let (before, after) = (self.before.clone(), self.after.clone());
        write!(
            f,
            "{}: {} -> {}",
            self.key,
            before.unwrap_or_else(absent),
            after.unwrap_or_else(absent)
        )
    }
}

impl Source {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), text)
    }

    /// Parses text; `origin` is what messages call it.
    pub fn parse(origin: &str, text: String) -> Result<Self, RecipeError> {
        let table = text.parse().map_err(|error: toml::de::Error| RecipeError::Parse {
            origin: origin.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        Ok(Self { origin: origin.to_owned(), table, text: Some(text) })
    }

    /// Sets a key, making the tables on the way.
    pub fn set(&mut self, change: &Override) -> Result<(), RecipeError> {
        let Some((last, tables)) = change.path.split_last() else { return Ok(()) };
        let mut table = &mut self.table;
        for key in tables {
            let entry = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().ok_or_else(|| RecipeError::Override {
                given: change.given.clone(),
                reason: format!("{key} is not a table"),
            })?;
        }
        table.insert(last.clone(), change.value.clone());
        self.text = None;
        Ok(())
    }

    /// Makes the checked recipe.
    pub fn recipe(&self) -> Result<Recipe, RecipeError> {
        let parsed: Result<Recipe, toml::de::Error> = match &self.text {
            Some(text) => toml::from_str(text),
            None => self.table.clone().try_into(),
        };
        let recipe = parsed.map_err(|error| RecipeError::Parse {
            origin: self.origin.clone(),
            message: with_suggestion(&error.to_string()),
        })?;
        recipe.check(&self.origin)
    }
}

impl Recipe {
    /// The recipe with every default filled in.
    pub fn to_table(&self) -> Table {
        Table::try_from(self).unwrap_or_default()
    }

    /// The same as TOML text; reading it gives this recipe again.
    pub fn to_text(&self) -> String {
        toml::to_string(&self.to_table()).unwrap_or_default()
    }

    /// SHA-256 of the resolved text, in hexadecimal.
    pub fn digest(&self) -> String {
        Sha256::digest(self.to_text()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Keys in which another recipe differs from this one, in this one's order.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        flatten("", &Value::Table(self.to_table()), &mut before);
        flatten("", &Value::Table(other.to_table()), &mut after);
        let find = |all: &[(String, String)], key: &str| {
            all.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
        };
        let added = after.iter().filter(|(key, _)| find(&before, key).is_none());
        before
            .iter()
            .chain(added)
            .map(|(key, _)| Difference {
                key: key.clone(),
                before: find(&before, key),
                after: find(&after, key),
            })
            .filter(|difference| difference.before != difference.after)
            .collect()
    }
}

fn flatten(path: &str, value: &Value, out: &mut Vec<(String, String)>) {
    let under = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(key, value)| flatten(&under(key), value, out));
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), item, out);
            }
        }
        leaf => out.push((path.to_owned(), leaf.to_string())),
    }
}
