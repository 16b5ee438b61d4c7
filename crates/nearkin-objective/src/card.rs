//! A method's card: the Markdown file beside its code, which is the only copy of its equation.
//!
//! The card is read by rustdoc (as the documentation of the method's module), by `nearkin methods
//! --explain` and by the documentation. [`Card::parse`] finds its parts:
//!
//! ````text
//! # TITLE
//!
//! PAPER
//!
//! ```text
//! EQUATION
//! ```
//!
//! - PIECE: what the method takes for it
//!
//! NOTES
//!
//! ## Where the authors' code differs
//!
//! - what to set to follow it, or what is not offered
//!
//! ## As a free combination
//!
//! ```toml
//! the [method] table of the combination that equals the method with its defaults
//! ```
//! ````

/// What people read about a method; all parts are slices of the Markdown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// One line.
    pub title: &'static str,
    /// Authors, title, venue, arXiv number.
    pub paper: String,
    /// The loss.
    pub equation: &'static str,
    /// The pieces of the common formula (candidates, positives, relations, coefficient,
    /// denominator, ...), each with what the method takes for it.
    pub pieces: Vec<(&'static str, String)>,
    /// What else there is to say, one entry per paragraph.
    pub notes: Vec<String>,
    /// Where the authors' code differs from this method with its defaults, and what to set to follow
    /// it or what is not offered. Differences that change no result are left out.
    pub official_code: Vec<String>,
    /// The settings of the free combination that equals the method with its defaults, if one does.
    pub combination: Option<&'static str>,
}

/// The heading above the differences.
const OFFICIAL_CODE: &str = "## Where the authors' code differs";
/// The heading above the settings of the combination.
const COMBINATION: &str = "## As a free combination";

impl Card {
    /// Reads a card.
    pub fn parse(markdown: &'static str) -> Self {
        let mut card = Self::default();
        let (text, combination) = match markdown.split_once(COMBINATION) {
            Some((text, rest)) => (text, fenced(rest).map(|(_, code, _)| code.trim())),
            None => (markdown, None),
        };
        card.combination = combination;
        let (text, differences) = text.split_once(OFFICIAL_CODE).unwrap_or((text, ""));
        card.official_code = paragraphs(differences).flat_map(items).map(joined).collect();
        let (before, equation, after) = fenced(text).unwrap_or((text, "", ""));
        card.equation = equation.trim_end();
        for (number, paragraph) in paragraphs(before).enumerate() {
            match paragraph.strip_prefix("# ") {
                Some(title) if number == 0 => card.title = title.trim(),
                _ => card.paper = joined(paragraph),
            }
        }
        for paragraph in paragraphs(after) {
            if !paragraph.starts_with("- ") {
                card.notes.push(joined(paragraph));
                continue;
            }
            for item in items(paragraph) {
                if let Some((piece, choice)) = item.split_once(": ") {
                    card.pieces.push((piece, joined(choice)));
                }
            }
        }
        card
    }
}

/// What stands before the first fenced block, in it, and behind it.
fn fenced(text: &'static str) -> Option<(&'static str, &'static str, &'static str)> {
    let (before, rest) = text.split_once("```")?;
    let (_, rest) = rest.split_once('\n')?;
    let (code, after) = rest.split_once("```")?;
    Some((before, code, after))
}

fn paragraphs(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty())
}

/// The items of a list, without their dashes.
fn items(list: &'static str) -> impl Iterator<Item = &'static str> {
    list.split("\n- ").map(|item| item.trim_start_matches("- "))
}

/// Text that was wrapped, on one line.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_card_is_found() {
        let card = Card::parse(
            "# Some: a method\n\nA. Author: A title, a venue,\narXiv 1\n\n```text\nL = a\n    + b\n```\n\n\
             - candidates: the queue\n- target.relations: none,\n  or some\n\nA note\nof two lines.\n\n\
             ## Where the authors' code differs\n\n- in one,\n  thing\n- in another\n\n\
             ## As a free combination\n\n```toml\ncandidates = \"queue\"\ntemperature = 0.1\n```\n",
        );
        let expected = Card {
            title: "Some: a method",
            paper: "A. Author: A title, a venue, arXiv 1".into(),
            equation: "L = a\n    + b",
            pieces: vec![
                ("candidates", "the queue".into()),
                ("target.relations", "none, or some".into()),
            ],
            notes: vec!["A note of two lines.".into()],
            official_code: vec!["in one, thing".into(), "in another".into()],
            combination: Some("candidates = \"queue\"\ntemperature = 0.1"),
        };
        assert_eq!(card, expected);
        assert_eq!(Card::parse(""), Card::default());
    }
}
