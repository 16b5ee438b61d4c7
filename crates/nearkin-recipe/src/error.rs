//! What can be wrong with a recipe, in words that name the key.

use std::path::PathBuf;

use nearkin_augment::ViewError;

/// Why a recipe is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("cannot read the recipe {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a wrong type, or a value out of range.
    #[error("{origin}: {message}")]
    Parse {
        /// The file, or where else the text came from.
        origin: String,
        /// What is wrong where, with the nearest known key if one is unknown.
        message: String,
    },
    /// An override is not of the form `key.path=value`.
    #[error("--set {given}: {reason}")]
    Override {
        /// As typed.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A view's transforms do not fit together.
    #[error("{origin}: {source}")]
    View {
        /// The file.
        origin: String,
        /// Which view and transform.
        source: ViewError,
    },
    /// Two settings contradict each other.
    #[error("{origin}: {message}")]
    Conflict {
        /// The file.
        origin: String,
        /// Which keys, and what to change.
        message: String,
    },
}

/// Adds "did you mean" to serde's message about an unknown key or name.
///
/// serde says: unknown field `a`, expected one of `b`, `c`.
pub(crate) fn with_suggestion(message: &str) -> String {
    let message = message.trim_end();
    let Some(at) = message.find("unknown field `").or_else(|| message.find("unknown variant `"))
    else {
        return message.to_owned();
    };
    let mut quoted = message[at..].split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next() else { return message.to_owned() };
    let nearest = quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, known)) if distance <= known.len().max(unknown.len()) / 2 => {
            format!("{message}; did you mean `{known}`?")
        }
        _ => message.to_owned(),
    }
}
