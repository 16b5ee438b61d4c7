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
    /// The file is too large for a recipe.
    #[error("{} is larger than 1 MiB, which no recipe is: give a recipe, a TOML file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
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

/// The error of a recipe's text, with its line, or with its key where there is no line to show.
pub(crate) fn explain(error: &toml::de::Error) -> String {
    let shown = error.to_string();
    let shown = shown.trim_end();
    let message = clarify(error.message());
    if let Some((_, key)) = shown.rsplit_once("\nin `").filter(|(said, _)| *said == error.message())
    {
        return format!("{}: {message}", key.trim_end_matches('`'));
    }
    match shown.strip_suffix(error.message()) {
        // The first line has the place as numbers; those below it show the line of the file.
        Some(place) if place.lines().any(|line| line.len() > LONGEST_SHOWN) => {
            format!("{}: {message}", place.lines().next().unwrap_or_default())
        }
        Some(place) => format!("{place}{message}"),
        None => shown.to_owned(),
    }
}

/// Longer lines of a file are not shown, and for longer names no similar one is looked for.
const LONGEST_SHOWN: usize = 200;

/// Makes serde's message about a wrong value or key one for people: no names of Rust types, and
/// "did you mean" for an unknown key or name.
pub fn clarify(message: &str) -> String {
    let message = in_plain_words(message);
    // serde says: unknown field `a`, expected one of `b`, `c`.
    let Some(at) = message.find("unknown field `").or_else(|| message.find("unknown variant `"))
    else {
        return message;
    };
    let mut quoted = message[at..].split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next().filter(|unknown| unknown.len() <= LONGEST_SHOWN) else {
        return message;
    };
    let nearest = quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, known)) if distance <= known.len().max(unknown.len()) / 2 => {
            format!("{message}; did you mean `{known}`?")
        }
        _ => message,
    }
}

fn in_plain_words(message: &str) -> String {
    for (rust, words) in [
        ("a nonzero usize", "a whole number above 0"),
        ("a nonzero u64", "a whole number above 0"),
        ("usize", "a whole number of at least 0"),
        ("u64", "a whole number of at least 0"),
        ("f64", "a number"),
    ] {
        if let Some(start) = message.strip_suffix(rust).filter(|start| start.ends_with("expected "))
        {
            return format!("{start}{words}");
        }
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_near_name_is_suggested() {
        for (message, suggestion) in [
            ("unknown field `epoch`, expected one of `epochs`, `batch_size`", Some("epochs")),
            ("unknown field `sise`, expected `size`", Some("size")),
            ("unknown variant `cosin`, expected `cosine` or `constant`", Some("cosine")),
            (
                "unknown field `learningrate`, expected one of `a`, `learning_rate`, `b`",
                Some("learning_rate"),
            ),
            ("unknown field `banana`, expected one of `epochs`, `batch_size`", None),
            ("missing field `epochs`", None),
        ] {
            let expected =
                suggestion.map_or_else(String::new, |known| format!("; did you mean `{known}`?"));
            assert_eq!(clarify(message), format!("{message}{expected}"));
        }
    }

    #[test]
    fn a_long_line_is_not_shown() {
        let error = |text: &str| explain(&text.parse::<toml::Table>().unwrap_err());
        let short = error("a = 1\nb == 2");
        assert!(
            short.starts_with("TOML parse error at line 2, column 4\n  |\n2 | b == 2"),
            "{short}"
        );
        let long = error(&format!("a = 1\nb = \"{}\" c", "x".repeat(400_000)));
        assert!(long.starts_with("TOML parse error at line 2, column 400"), "{long}");
        assert_eq!(long.lines().count(), 1, "{long}");
    }

    #[test]
    fn types_of_rust_are_put_in_words() {
        for (message, expected) in [
            (
                "invalid value: integer `0`, expected a nonzero usize",
                "invalid value: integer `0`, expected a whole number above 0",
            ),
            (
                "invalid value: integer `-3`, expected usize",
                "invalid value: integer `-3`, expected a whole number of at least 0",
            ),
            (
                "invalid type: string \"u64\", expected f64",
                "invalid type: string \"u64\", expected a number",
            ),
            ("a message that ends in f64", "a message that ends in f64"),
        ] {
            assert_eq!(clarify(message), expected);
        }
    }
}
