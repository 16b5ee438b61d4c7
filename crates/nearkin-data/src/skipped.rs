//! What was left out while a set was opened, so that nothing vanishes without being counted.
//!
//! A folder holds more than images: `.heic` photos that are not read, `__MACOSX`, dangling links, a
//! stray picture beside the class folders. None of these is a reason to refuse a million images, and
//! none may disappear in silence. Readers count each with its reason; commands print one line a
//! reason.

use std::fmt;

use serde::Serialize;

use crate::Escaped;

/// Entries that were left out for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Why, in the plural and to follow the number: `files of a kind that is not read (.heic)`.
    pub reason: String,
    /// How many.
    pub count: usize,
    /// The first of them, as a path or a record of a file.
    pub first: String,
}

/// All that was left out while a set was opened, by reason, in the order they were met; and notes on
/// how the set was read where that is not plain to see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Skipped {
    reasons: Vec<Reason>,
    #[serde(skip)]
    notes: Vec<String>,
}

impl Skipped {
    /// Nothing so far.
    pub const fn new() -> Self {
        Self { reasons: Vec::new(), notes: Vec::new() }
    }

    /// Counts one entry. `reason` reads on from the number; the same text is the same reason.
    pub fn add(&mut self, reason: impl Into<String>, entry: impl Into<String>) {
        self.add_many(reason, 1, entry);
    }

    /// Counts `count` entries, of which `first` is the first.
    pub fn add_many(&mut self, reason: impl Into<String>, count: usize, first: impl Into<String>) {
        let reason = reason.into();
        if count == 0 {
            return;
        }
        match self.reasons.iter_mut().find(|known| known.reason == reason) {
            Some(known) => known.count += count,
            None => self.reasons.push(Reason { reason, count, first: first.into() }),
        }
    }

    /// Adds a note on how the set was read; the same one only once. Control characters of names in it
    /// are [escaped](Escaped).
    pub fn note(&mut self, note: impl Into<String>) {
        let note = Escaped(note.into()).to_string();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Adds what another part of the set left out.
    pub fn merge(&mut self, other: &Self) {
        for Reason { reason, count, first } in &other.reasons {
            self.add_many(reason.clone(), *count, first.clone());
        }
        other.notes.iter().for_each(|note| self.note(note.clone()));
    }

    /// Every reason with its count.
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }

    /// How the set was read, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether nothing was left out and there is nothing to note.
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty() && self.notes.is_empty()
    }
}

/// More reasons than these are summed up in a line.
const MOST_LINES: usize = 12;

/// What stands beside nearly every set: the first reasons to leave out where there are too many lines.
const HARMLESS: [&str; 7] = [
    "other ",
    "hidden ",
    "AppleDouble ",
    "file(s) ",
    "folder(s) of the operating system",
    "member(s) in folders of the operating system",
    "extended header(s) ",
];

/// What the splits of a set left out, and the notes on them: a line each, to be shown to a user.
pub fn skipped_lines<'a>(splits: impl IntoIterator<Item = &'a Skipped>) -> Vec<String> {
    let mut whole = Skipped::new();
    splits.into_iter().for_each(|skipped| whole.merge(skipped));
    let shown = whole.reasons.len().min(MOST_LINES);
    if shown < whole.reasons.len() {
        // Lost images come first.
        let is_harmless = |one: &Reason| HARMLESS.iter().any(|start| one.reason.starts_with(start));
        let is_image = |one: &Reason| one.reason.starts_with("image(s)");
        whole.reasons.sort_by_key(|one| (is_harmless(one), !is_image(one)));
    }
    let mut lines: Vec<String> = whole.reasons[..shown].iter().map(ToString::to_string).collect();
    let more = &whole.reasons[shown..];
    if !more.is_empty() {
        let entries: usize = more.iter().map(|reason| reason.count).sum();
        lines.push(format!("skipped {entries} more, for {} other reasons", more.len()));
    }
    lines.extend(whole.notes);
    lines
}

impl fmt::Display for Reason {
    /// One line: `skipped 12 files of a kind that is not read (.heic); the first: a/1.heic`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, count, first } = self;
        let (reason, first) = (Escaped(reason), Escaped(first));
        match count {
            1 => write!(formatter, "skipped 1 {reason}: {first}"),
            count => write!(formatter, "skipped {count} {reason}; the first: {first}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_counted_by_reason_and_the_first_is_named() {
        let mut skipped = Skipped::new();
        skipped.add("dangling link(s)", "a/1.png");
        skipped.add("dangling link(s)", "a/2.png");
        skipped.add("file(s) of a kind that is not read (.heic)", "b/1.heic");
        let mut whole = Skipped::new();
        whole.add("dangling link(s)", "first/0.png");
        whole.merge(&skipped);
        let lines: Vec<String> = whole.reasons().iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "skipped 3 dangling link(s); the first: first/0.png",
                "skipped 1 file(s) of a kind that is not read (.heic): b/1.heic",
            ]
        );
        assert!(Skipped::new().is_empty() && !whole.is_empty());
        let mut many = Skipped::new();
        (0..15).for_each(|kind| many.add(format!("file(s) of kind {kind}"), "x"));
        many.note("read from inner");
        let lines = skipped_lines([&skipped, &many, &whole]);
        assert_eq!(lines.len(), 14);
        assert_eq!(lines[0], "skipped 5 dangling link(s); the first: a/1.png");
        assert_eq!(lines[12..], ["skipped 5 more, for 5 other reasons", "read from inner"]);
        many.add("image(s) above 1 GiB", "y");
        many.add("link(s) that lead nowhere", "z");
        let lines = skipped_lines([&many]);
        assert_eq!(lines[0], "skipped 1 image(s) above 1 GiB: y");
        assert_eq!(lines[1], "skipped 1 link(s) that lead nowhere: z");
        assert_eq!(lines[12], "skipped 5 more, for 5 other reasons");
        let mut noted = Skipped::new();
        noted.note("read from inner");
        noted.merge(&noted.clone());
        assert_eq!((noted.notes(), noted.is_empty()), (&["read from inner".to_owned()][..], false));
    }
}
