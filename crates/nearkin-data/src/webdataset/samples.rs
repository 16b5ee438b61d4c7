//! From the members of a shard to its samples.
//!
//! The rules stand in the documentation of [`webdataset`](crate::webdataset).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::Path;

use super::archive::{Archive, End, Fault, Kind, MAX_TEXT_BYTES, Member};
use crate::classes::{is_coordinate, label_rank};
use crate::entry;
use crate::image_file::MAX_IMAGE_BYTES;
use crate::read_at::ReadAt;
use crate::splits::{Part, is_column_of_splits, part_of_file, part_values};
use crate::{DataError, Skipped};

/// The extensions of images in the order in which one of several is chosen: a photograph before what is
/// often a mask.
const IMAGE_ORDER: [&str; 9] = ["jpg", "jpeg", "jpe", "jfif", "webp", "png", "bmp", "tif", "tiff"];
/// The extensions of labels in the order in which one of several is chosen.
const LABEL_ORDER: [&str; 6] = ["cls", "label", "class", "cls.txt", "label.txt", "class.txt"];
/// The extensions of members that name the part of a sample.
const PART_ENDINGS: [&str; 4] = ["split", "set", "split.txt", "set.txt"];
/// Kinds of members that are counted one by one.
const KINDS: usize = 8;
/// Keys of JSON that a note needs.
const KEYS: usize = 8;
/// A longer line is a sentence.
const MAX_WORD_BYTES: usize = 80;

/// A sample with an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The path of its members up to the first dot of the file name.
    pub key: Box<str>,
    /// Where the image begins in the shard.
    pub offset: u64,
    /// The length of the image's file.
    pub bytes: u64,
    /// As written in its label file, or under the usual keys of its JSON.
    pub label: Option<Box<str>>,
    /// What stands in its text file.
    pub(super) text: Text,
}

/// The content of a text file, which may be a label or a description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Text {
    /// There is none, or an empty one.
    #[default]
    None,
    Line(Box<str>),
    /// More than a line, or a long one.
    Prose,
}

/// The samples of a shard, and what else is in it.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) found: Vec<Sample>,
    pub(super) skipped: Skipped,
    /// Text files, and the first of them: they are left out if they are no labels.
    pub(super) texts: (usize, String),
    /// The parts that samples are said to be of, each with the first member that says so.
    pub(super) parts: BTreeMap<Part, String>,
    /// The first sample whose split is not a known word, with its value.
    pub(super) unclear_part: Option<String>,
    /// Whether there are lists of PASCAL VOC.
    pub(super) has_voc_lists: bool,
    /// Keys of JSON members of which none is known to hold labels.
    pub(super) keys: BTreeSet<String>,
    /// Whether the end is missing.
    pub(super) is_cut: bool,
}

/// Finds the samples of a shard, in its order.
pub(super) fn find<R: ReadAt + ?Sized>(
    source: &R,
    length: u64,
    path: &Path,
) -> Result<Samples, DataError> {
    let mut samples = find_in(source, length, path, Hidden::Skipped)?;
    // An archive may have been made in a hidden folder, which then holds all of it.
    if samples.found.is_empty() {
        let whole = find_in(source, length, path, Hidden::Read)?;
        if !whole.found.is_empty() {
            samples = whole;
        }
    }
    Ok(samples)
}

/// What to do with members in folders whose names begin with a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hidden {
    Skipped,
    Read,
}

fn find_in<R: ReadAt + ?Sized>(
    source: &R,
    length: u64,
    path: &Path,
    hidden: Hidden,
) -> Result<Samples, DataError> {
    let mut archive = Archive::new(source, length);
    let mut join = Join::new(path, hidden);
    loop {
        let member = archive.next().map_err(|fault| refused(path, fault))?;
        let Some(member) = member else { break };
        let mut text = || archive.text(&member);
        join.member(&member, &mut text).map_err(|fault| refused(path, fault))?;
    }
    let mut samples = join.finish();
    match archive.end() {
        End::Marked => {}
        End::Cut(member) => {
            samples.is_cut = true;
            if let Some(member) = member {
                let reason = "incomplete member(s) at the end of shards that are cut";
                samples.skipped.add(reason, shown(path, member));
            }
        }
        End::GoesOn => {
            let reason = "part(s) of shards behind the end mark of their archive";
            samples.skipped.add(reason, path.display().to_string());
        }
    }
    Ok(samples)
}

/// What to call a member in a message.
fn shown(shard: &Path, member: &str) -> String {
    let mut name = member.trim_start_matches('/');
    while let Some(rest) = name.strip_prefix("./") {
        name = rest.trim_start_matches('/');
    }
    shard.join(name).display().to_string()
}

fn refused(path: &Path, fault: Fault) -> DataError {
    match fault {
        Fault::Read(error) => DataError::read(path)(error),
        Fault::Damaged(reason) => {
            DataError::malformed(path, format!("cannot read it as a tar archive: {reason}"))
        }
    }
}

/// A member of a sample, by what follows the key and the dot: `jpg`, or `left.jpg`.
#[derive(Debug)]
struct Field<T> {
    /// `left` of `left.jpg`; empty for a plain one.
    prefix: Box<str>,
    /// The place of its extension in the order of its kind.
    rank: usize,
    value: T,
}

/// The members of a sample that were met so far.
#[derive(Debug, Default)]
struct Partial {
    key: String,
    /// Where each image begins, and its length.
    images: Vec<Field<(u64, u64)>>,
    labels: Vec<Field<Box<str>>>,
    /// Labels in JSON.
    metadata: Vec<Field<Box<str>>>,
    text: Text,
    is_labelled: bool,
}

struct Join<'a> {
    shard: &'a Path,
    hidden: Hidden,
    /// Members with the same key that follow each other.
    runs: Vec<Partial>,
    samples: Samples,
    /// Members that are not read, by extension.
    unread: HashMap<String, (usize, String)>,
}

impl<'a> Join<'a> {
    fn new(shard: &'a Path, hidden: Hidden) -> Self {
        Self {
            shard,
            hidden,
            runs: Vec::new(),
            samples: Samples::default(),
            unread: HashMap::new(),
        }
    }

    fn skip(&mut self, reason: &str, member: &str) {
        let name = shown(self.shard, member);
        self.samples.skipped.add(reason, name);
    }

    fn run(&mut self, key: &str) -> &mut Partial {
        if self.runs.last().is_none_or(|run| run.key != key) {
            self.runs.push(Partial { key: key.to_owned(), ..Partial::default() });
        }
        let last = self.runs.len() - 1;
        &mut self.runs[last]
    }

    fn member(
        &mut self,
        member: &Member,
        text: &mut dyn FnMut() -> Result<Vec<u8>, Fault>,
    ) -> Result<(), Fault> {
        let name = member.name.as_str();
        match member.kind {
            Kind::File => {}
            Kind::Folder => return Ok(()),
            kind => {
                self.skip(reason_of_kind(kind), name);
                return Ok(());
            }
        }
        if let Some(reason) = reason_of_name(name, self.hidden) {
            self.skip(reason, name);
            return Ok(());
        }
        let Some((key, field)) = split_name(name) else {
            self.skip("member(s) without an extension", name);
            return Ok(());
        };
        let field = field.to_lowercase();
        let rank = |order: &[&str]| {
            let ends = |extension: &&str| {
                field.strip_suffix(*extension).is_some_and(|p| p.is_empty() || p.ends_with('.'))
            };
            order.iter().position(ends).map(|rank| {
                let prefix = field.strip_suffix(order[rank]).unwrap_or_default();
                (prefix.trim_end_matches('.').to_owned(), rank)
            })
        };
        if let Some((prefix, rank)) = rank(&IMAGE_ORDER) {
            if member.bytes > MAX_IMAGE_BYTES {
                self.skip("image(s) above 1 GiB", name);
                return Ok(());
            }
            let run = self.run(key);
            let value = (member.offset, member.bytes);
            run.images.push(Field { prefix: prefix.into(), rank, value });
        } else if let Some((prefix, rank)) = rank(&LABEL_ORDER) {
            let label = content(member, text)?.map_or(Reading::Unreadable, |c| text_label(&c));
            self.label(key, name, label, |run| &mut run.labels, prefix, rank);
        } else if let Some((prefix, rank)) = rank(&["json"]) {
            let content = content(member, text)?;
            let JsonPart { part, unclear } = content.as_deref().map(json_part).unwrap_or_default();
            self.part(part, name);
            if self.samples.unclear_part.is_none()
                && let Some((key, value)) = unclear
            {
                let member = shown(self.shard, name);
                self.samples.unclear_part = Some(format!("{member}: its {key} is {value}"));
            }
            let label = content.as_deref().map_or(Reading::Unreadable, json_label);
            if matches!(label, Reading::None) && self.samples.keys.len() < KEYS {
                self.samples.keys.extend(content.as_deref().map(json_keys).unwrap_or_default());
            }
            self.label(key, name, label, |run| &mut run.metadata, prefix, rank);
        } else if PART_ENDINGS.contains(&field.as_str()) {
            let content = content(member, text)?.unwrap_or_default();
            self.part(std::str::from_utf8(&content).ok().and_then(part_of_file), name);
        } else if field == "txt" {
            self.samples.has_voc_lists |= name.contains("ImageSets/Main/");
            let content = content(member, text)?;
            let first = shown(self.shard, name);
            let (count, known) = &mut self.samples.texts;
            *count += 1;
            if *count == 1 {
                *known = first;
            }
            self.run(key).text = content.map_or(Text::Prose, |content| word(&content));
        } else {
            let extension = field.rsplit('.').next().unwrap_or_default().to_owned();
            let first = shown(self.shard, name);
            self.unread.entry(extension).or_insert((0, first)).0 += 1;
        }
        Ok(())
    }

    /// Keeps what a member says about the part of its sample.
    fn part(&mut self, part: Option<Part>, member: &str) {
        if let Some(part) = part {
            let first = || shown(Path::new(""), member);
            self.samples.parts.entry(part).or_insert_with(first);
        }
    }

    /// Keeps a label that could be read, and counts one that could not.
    fn label(
        &mut self,
        key: &str,
        name: &str,
        label: Reading,
        fields: fn(&mut Partial) -> &mut Vec<Field<Box<str>>>,
        prefix: String,
        rank: usize,
    ) {
        let run = self.run(key);
        run.is_labelled = true;
        match label {
            Reading::Label(value) => {
                fields(run).push(Field { prefix: prefix.into(), rank, value });
            }
            Reading::None => {}
            Reading::Unreadable => {
                self.skip("label(s) that cannot be read as one name or number", name);
            }
        }
    }

    /// Joins runs with the same key, and makes samples of them.
    fn finish(mut self) -> Samples {
        let runs = joined(std::mem::take(&mut self.runs));
        self.samples.found.reserve_exact(runs.len());
        for run in runs {
            self.sample(run);
        }
        self.count_unread();
        self.samples
    }

    fn sample(&mut self, mut run: Partial) {
        run.images.sort_by_key(|image| (!image.prefix.is_empty(), image.rank));
        let plain = run.images.iter().filter(|image| image.prefix.is_empty()).count();
        let named = run.key.clone();
        let chosen = match (plain, run.images.len()) {
            (0, 0) => {
                if run.is_labelled {
                    self.skip("sample(s) without an image", &named);
                }
                return;
            }
            (0, 2..) => {
                let reason = "image(s) that share a key, which is the name up to the first dot \
                              (replace other dots, or call the one to read KEY.jpg)";
                let first = shown(self.shard, &named);
                self.samples.skipped.add_many(reason, run.images.len(), first);
                return;
            }
            (_, count) => {
                let reason = "further image(s) of samples, of which one is read";
                let first = shown(self.shard, &named);
                self.samples.skipped.add_many(reason, count - 1, first);
                &run.images[0]
            }
        };
        let (offset, bytes) = chosen.value;
        let (labels, metadata) = (&run.labels, &run.metadata);
        let in_metadata = pick(metadata, &chosen.prefix);
        let mut is_contradicted = contradicts(labels) || contradicts(metadata);
        let label = match pick(labels, &chosen.prefix) {
            Picked::None => in_metadata,
            picked => {
                if let (Picked::One(one), Picked::One(other)) = (&picked, &in_metadata) {
                    // The number of a class and its name say the same.
                    let is_number = |label: &str| label.trim().parse::<f64>().is_ok();
                    is_contradicted |= one != other && is_number(one) == is_number(other);
                }
                picked
            }
        };
        let label = match label {
            Picked::One(label) => Some(label.into()),
            Picked::None => None,
            Picked::Several => {
                self.skip("label(s) of samples with several, none of them plain", &named);
                None
            }
        };
        if is_contradicted {
            self.skip("label(s) that contradict an earlier one of the same sample", &named);
        }
        let (key, text) = (run.key.into(), run.text);
        self.samples.found.push(Sample { key, offset, bytes, label, text });
    }

    /// Counts members that are not read, each of the most frequent kinds on its own.
    fn count_unread(&mut self) {
        let mut unread: Vec<(String, (usize, String))> = self.unread.drain().collect();
        unread.sort_by(|(a, (few, _)), (b, (many, _))| many.cmp(few).then(a.cmp(b)));
        for (place, (extension, (count, first))) in unread.into_iter().enumerate() {
            let is_plain = extension.len() <= 8 && extension.chars().all(char::is_alphanumeric);
            let reason = if place < KINDS && is_plain {
                format!("member(s) of a kind that is not read (.{extension})")
            } else {
                "member(s) of other kinds that are not read".to_owned()
            };
            self.samples.skipped.add_many(reason, count, first);
        }
    }
}

/// Joins the runs of a key, in the order of the first of each. A shard whose keys rise has none.
fn joined(mut runs: Vec<Partial>) -> Vec<Partial> {
    if runs.is_sorted_by(|a, b| a.key < b.key) {
        return runs;
    }
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by(|&a, &b| runs[a].key.cmp(&runs[b].key).then(a.cmp(&b)));
    let mut first = None;
    for place in order {
        match first.filter(|&first: &usize| runs[first].key == runs[place].key) {
            None => first = Some(place),
            Some(first) => {
                let later = std::mem::take(&mut runs[place]);
                let run = &mut runs[first];
                run.images.extend(later.images);
                run.labels.extend(later.labels);
                run.metadata.extend(later.metadata);
                run.is_labelled |= later.is_labelled;
                if run.text == Text::None {
                    run.text = later.text;
                }
            }
        }
    }
    // What was taken has no key.
    runs.retain(|run| !run.key.is_empty());
    runs
}

/// Whether a sample that is there twice has another label the second time.
fn contradicts(labels: &[Field<Box<str>>]) -> bool {
    labels.iter().enumerate().any(|(place, label)| {
        let is_same =
            |other: &&Field<Box<str>>| other.rank == label.rank && other.prefix == label.prefix;
        labels[..place].iter().filter(is_same).any(|other| other.value != label.value)
    })
}

enum Picked<'a> {
    None,
    One(&'a str),
    Several,
}

/// The label of an image with this prefix: one with the same, a plain one, or the only one.
fn pick<'a>(labels: &'a [Field<Box<str>>], prefix: &str) -> Picked<'a> {
    for wanted in [prefix, ""] {
        let same = labels.iter().filter(|label| &*label.prefix == wanted);
        if let Some(label) = same.min_by_key(|label| label.rank) {
            return Picked::One(&label.value);
        }
    }
    match labels {
        [] => Picked::None,
        [label] => Picked::One(&label.value),
        _ => Picked::Several,
    }
}

fn reason_of_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Link => "link(s) in shards, which hold no image themselves",
        Kind::Sparse => "sparse file(s) in shards",
        _ => "member(s) that are not files",
    }
}

/// Why a member is left out whatever it is, by its name: the rule of folders of images.
fn reason_of_name(name: &str, hidden: Hidden) -> Option<&'static str> {
    let mut parts = name.split('/').rev();
    let file = parts.next().unwrap_or_default();
    for folder in parts.filter(|folder| !matches!(*folder, "" | "." | "..")) {
        let is_hidden = folder.starts_with('.');
        if entry::skipped_folder(OsStr::new(folder)).is_some() {
            match (is_hidden, hidden) {
                (true, Hidden::Read) => {}
                (true, Hidden::Skipped) => return Some("member(s) in hidden folders"),
                (false, _) => return Some("member(s) in folders of the operating system"),
            }
        }
        if folder.starts_with("PaxHeader") {
            return Some("extended header(s) that were unpacked as files (PaxHeader)");
        }
    }
    if file.starts_with("._") {
        return Some("AppleDouble file(s) (._*)");
    }
    file.starts_with('.').then_some("hidden file(s)")
}

/// The key and the field of a member: what comes before and after the first dot of its file name.
fn split_name(name: &str) -> Option<(&str, &str)> {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.')?;
    Some((&name[..dot], &name[dot + 1..]))
}

/// The content of a member that is short enough to be text.
fn content(
    member: &Member,
    text: &mut dyn FnMut() -> Result<Vec<u8>, Fault>,
) -> Result<Option<Vec<u8>>, Fault> {
    if member.bytes > MAX_TEXT_BYTES { Ok(None) } else { text().map(Some) }
}

/// What became of the content of a file of labels.
enum Reading {
    Label(Box<str>),
    /// There is none in it.
    None,
    Unreadable,
}

/// The line that is a label.
fn text_label(content: &[u8]) -> Reading {
    match std::str::from_utf8(without_mark(content)).map(str::trim) {
        Ok("") => Reading::None,
        Ok(label) if !label.contains(['\n', '\0']) => Reading::Label(label.into()),
        _ => Reading::Unreadable,
    }
}

/// Text without the byte order mark that Windows puts in front of it.
fn without_mark(content: &[u8]) -> &[u8] {
    content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content)
}

fn word(content: &[u8]) -> Text {
    match text_label(content) {
        Reading::None => Text::None,
        Reading::Label(line) if line.len() <= MAX_WORD_BYTES => Text::Line(line),
        _ => Text::Prose,
    }
}

/// What an object says about the part of its sample.
#[derive(Default)]
struct JsonPart {
    /// Under a usual key of columns of splits.
    part: Option<Part>,
    /// A key that is always one of splits, and its value, which is no word of splits.
    unclear: Option<(String, String)>,
}

fn json_part(content: &[u8]) -> JsonPart {
    let entries = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(content);
    let mut found = JsonPart::default();
    for (key, value) in entries.unwrap_or_default() {
        let Some(values) = part_values(&key) else { continue };
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match values.part(&text) {
            Some(part) => {
                found.part.get_or_insert(part);
            }
            None if !value.is_null() && is_column_of_splits(&key) => {
                found.unclear.get_or_insert((key, text));
            }
            None => {}
        }
    }
    found
}

/// The keys of an object that are no names of labels.
fn json_keys(content: &[u8]) -> Vec<String> {
    let entries = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(content);
    let keys = entries.unwrap_or_default().into_iter().map(|(key, _)| key);
    keys.filter(|key| label_rank(key).is_none() && part_values(key).is_none()).collect()
}

/// The label under the usual keys of an object, or a bare name or number.
fn json_label(content: &[u8]) -> Reading {
    use serde_json::Value;
    let content = without_mark(content);
    let parsed = serde_json::from_slice(content).ok().or_else(|| {
        // Python writes numbers that JSON does not have.
        let text = std::str::from_utf8(content).ok()?;
        let text = text.replace("-Infinity", "null").replace("Infinity", "null");
        serde_json::from_str(&text.replace("NaN", "null")).ok()
    });
    let label = match parsed {
        None => return Reading::Unreadable,
        Some(Value::Object(entries)) => {
            let is_label = |key: &str| !is_coordinate(key, entries.keys().map(String::as_str));
            let known = entries.iter().filter(|(key, value)| !value.is_null() && is_label(key));
            let known = known.filter_map(|(key, value)| Some((label_rank(key)?, value)));
            known.min_by_key(|(rank, _)| *rank).map_or(Value::Null, |(_, value)| value.clone())
        }
        // A list of objects, or the like, is no label.
        Some(Value::Array(_)) => Value::Null,
        Some(value) => value,
    };
    match label {
        Value::Null => Reading::None,
        Value::String(name) => Reading::Label(name.into()),
        Value::Number(number) => Reading::Label(number.to_string().into()),
        Value::Bool(truth) => Reading::Label(truth.to_string().into()),
        Value::Array(_) | Value::Object(_) => Reading::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::EXTENSIONS;
    use crate::webdataset::tests::{member, tar};

    /// The samples of a shard as `key label`, and what was skipped.
    fn found(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
        let found = find(bytes, bytes.len() as u64, Path::new("s.tar")).unwrap();
        let show = |sample: &Sample| {
            let content = &bytes[sample.offset as usize..][..sample.bytes as usize];
            let image = String::from_utf8_lossy(content);
            format!("{}={image} {}", sample.key, sample.label.as_deref().unwrap_or("-"))
        };
        let skipped = found.skipped.reasons().iter().map(ToString::to_string);
        (found.found.iter().map(show).collect(), skipped.collect())
    }

    fn of(members: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let members: Vec<(&str, &[u8])> =
            members.iter().map(|(name, content)| (*name, content.as_bytes())).collect();
        found(&tar(&members))
    }

    #[test]
    fn a_point_is_no_label() {
        let label = |text: &str| match json_label(text.as_bytes()) {
            Reading::Label(label) => Some(label.to_string()),
            _ => None,
        };
        assert_eq!(label(r#"{"x": 1.5, "y": 2.5}"#), None);
        assert_eq!(label(r#"{"x": 1.5, "y": 2.5, "label": "cat"}"#).as_deref(), Some("cat"));
        assert_eq!(label(r#"{"y": 2}"#).as_deref(), Some("2"));
    }

    #[test]
    fn the_key_ends_at_the_first_dot_and_the_kind_is_the_last_extension() {
        let (samples, skipped) = of(&[
            ("a.png", "A"),
            ("a.cls", "0"),
            ("b.1.png", "B"),
            ("b.1.cls", "1"),
            ("c.v2.final.JPG", "C"),
            ("c.cls", "2"),
            ("d/e.f.png", "D"),
            ("d/e.json", r#"{"label": 3}"#),
        ]);
        assert_eq!(samples, ["a=A 0", "b=B 1", "c=C 2", "d/e=D 3"]);
        assert_eq!(skipped, [""; 0]);
    }

    #[test]
    fn one_image_of_a_sample_is_read_and_the_others_are_counted() {
        let (samples, skipped) = of(&[
            ("a.mask.png", "M"),
            ("a.jpg", "A"),
            ("a.cls", "0"),
            ("b.png", "N"),
            ("b.jpg", "B"),
            ("c.left.jpg", "L"),
            ("c.right.jpg", "R"),
            ("c.cls", "1"),
            ("22.05.png", "X"),
            ("22.06.png", "Y"),
        ]);
        assert_eq!(samples, ["a=A 0", "b=B -"]);
        let share = "image(s) that share a key, which is the name up to the first dot (replace other \
                     dots, or call the one to read KEY.jpg)";
        assert_eq!(
            skipped,
            [
                "skipped 2 further image(s) of samples, of which one is read; the first: s.tar/a"
                    .to_owned(),
                format!("skipped 4 {share}; the first: s.tar/c"),
            ]
        );
    }

    #[test]
    fn the_parts_that_members_speak_of_are_known() {
        let parts = |members: &[(&str, &str)]| {
            let members: Vec<(&str, &[u8])> =
                members.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
            let bytes = tar(&members);
            let found = find(&bytes[..], bytes.len() as u64, Path::new("s.tar")).unwrap().parts;
            let shown = found.iter().map(|(part, member)| format!("{part} {member}"));
            shown.collect::<Vec<String>>().join(", ")
        };
        for (members, expected) in [
            (
                &[("a.json", r#"{"split": "train"}"#), ("b.json", r#"{"split": "test"}"#)][..],
                "train a.json, test b.json",
            ),
            (&[("a.json", r#"{"is_valid": true}"#), ("b.split", "val\n")], "val a.json"),
            (
                &[("x/a.split", "test"), ("x/b.set.txt", "Training")],
                "train x/b.set.txt, test x/a.split",
            ),
            (&[("a.json", r#"{"label": "train"}"#), ("b.split", "7")], ""),
        ] {
            assert_eq!(parts(members), expected, "{members:?}");
        }
    }

    #[test]
    fn members_of_a_key_are_joined_wherever_they_are() {
        let (samples, skipped) = of(&[
            ("b.png", "B"),
            ("a.png", "A"),
            ("c.png", "C"),
            ("a.cls", "0"),
            ("c.json", r#"{"cls": "2"}"#),
            ("b.cls", "1"),
        ]);
        assert_eq!(samples, ["b=B 1", "a=A 0", "c=C 2"]);
        assert!(skipped.is_empty());
        let (samples, skipped) =
            of(&[("a.png", "A"), ("b.png", "B"), ("a.png", "again"), ("a.cls", "7")]);
        assert_eq!(samples, ["a=A 7", "b=B -"]);
        assert_eq!(
            skipped,
            ["skipped 1 further image(s) of samples, of which one is read: s.tar/a"]
        );
    }

    #[test]
    fn labels_stand_in_files_and_in_json_under_their_usual_names() {
        for (name, content, expected) in [
            ("a.cls", " 3\n", "3"),
            ("a.cls", "-1", "-1"),
            ("a.class", "dog", "dog"),
            ("a.label", "dog", "dog"),
            ("a.cls.txt", "dog", "dog"),
            ("a.json", r#"{"id": 7, "label": "dog"}"#, "dog"),
            ("a.json", r#"{"Category": "dog", "y": 3}"#, "dog"),
            ("a.json", r#"{"class_name": "dog"}"#, "dog"),
            ("a.json", r#"{"label": null, "cls": 4}"#, "4"),
            ("a.json", r#"{"label": 4.0, "score": NaN}"#, "4.0"),
            ("a.json", r#"{"label": true}"#, "true"),
            ("a.meta.json", r#"{"target": 5}"#, "5"),
            ("a.json", "6", "6"),
            ("a.json", r#"{"caption": "a dog"}"#, "-"),
            ("a.json", "[1, 2]", "-"),
            ("a.cls", "", "-"),
            ("a.cls", "\n", "-"),
        ] {
            let (samples, skipped) = of(&[("a.png", "A"), (name, content)]);
            assert_eq!(samples, [format!("a=A {expected}")], "{name}: {content}");
            assert_eq!(skipped, [""; 0], "{name}: {content}");
        }
        // The clearest of several, and the one of the same name first.
        let (samples, skipped) = of(&[
            ("a.png", "A"),
            ("a.json", r#"{"label": 1}"#),
            ("a.cls", "0"),
            ("b.x.png", "B"),
            ("b.cls", "0"),
            ("b.x.cls", "1"),
            ("c.png", "C"),
            ("c.fine.cls", "0"),
            ("c.coarse.cls", "1"),
        ]);
        assert_eq!(samples, ["a=A 0", "b=B 1", "c=C -"]);
        let expected = [
            "skipped 1 label(s) that contradict an earlier one of the same sample: s.tar/a",
            "skipped 1 label(s) of samples with several, none of them plain: s.tar/c",
        ];
        assert_eq!(skipped, expected);
    }

    #[test]
    fn what_cannot_be_read_costs_no_more_than_itself() {
        let (samples, skipped) = of(&[
            ("1.png", "A"),
            ("1.cls", "two\nlines"),
            ("2.png", "B"),
            ("2.json", "{"),
            ("3.png", "C"),
            ("3.json", r#"{"label": [1, 2]}"#),
            ("4.png", "D"),
            ("4.json", r#"{"label": {"id": 1}}"#),
            ("5.cls", "0"),
            ("6.png", "E"),
            ("6.cls", "9"),
        ]);
        assert_eq!(samples, ["1=A -", "2=B -", "3=C -", "4=D -", "6=E 9"]);
        assert_eq!(
            skipped,
            [
                "skipped 4 label(s) that cannot be read as one name or number; the first: s.tar/1.cls",
                "skipped 1 sample(s) without an image: s.tar/5",
            ]
        );
    }

    #[test]
    fn what_is_no_image_is_counted_by_what_it_is() {
        let (samples, skipped) = of(&[
            ("1.png", "A"),
            ("._1.png", "x"),
            ("__MACOSX/1.png", "x"),
            ("a/__MACOSX/b/._1.png", "x"),
            ("PaxHeaders.7/1.png", "x"),
            ("a/.hidden.png", "x"),
            (".DS_Store", "x"),
            ("README", "x"),
            ("1.heic", "x"),
            ("2.heic", "x"),
            ("1.depth.npy", "x"),
            ("1.gif", "x"),
            ("1.this is no extension", "x"),
        ]);
        assert_eq!(samples, ["1=A -"]);
        assert_eq!(
            skipped,
            [
                "skipped 1 AppleDouble file(s) (._*): s.tar/._1.png",
                "skipped 2 member(s) in folders of the operating system; the first: \
                 s.tar/__MACOSX/1.png",
                "skipped 1 extended header(s) that were unpacked as files (PaxHeader): \
                 s.tar/PaxHeaders.7/1.png",
                "skipped 2 hidden file(s); the first: s.tar/a/.hidden.png",
                "skipped 1 member(s) without an extension: s.tar/README",
                "skipped 2 member(s) of a kind that is not read (.heic); the first: s.tar/1.heic",
                "skipped 1 member(s) of a kind that is not read (.gif): s.tar/1.gif",
                "skipped 1 member(s) of a kind that is not read (.npy): s.tar/1.depth.npy",
                "skipped 1 member(s) of other kinds that are not read: s.tar/1.this is no extension",
            ]
        );
    }

    #[test]
    fn members_in_hidden_folders_are_skipped_as_in_folders_of_images() {
        let (samples, skipped) = of(&[
            ("a/1.png", "A"),
            ("./b/2.png", "B"),
            ("a/.ipynb_checkpoints/1.png", "x"),
            (".thumbnails/1.png", "x"),
            ("@eaDir/1.png", "x"),
            ("a/@__thumb/1.png", "x"),
            ("#snapshot/a/1.png", "x"),
            ("FOUND.000/1.png", "x"),
        ]);
        assert_eq!(samples, ["a/1=A -", "b/2=B -"]);
        assert_eq!(
            skipped,
            [
                "skipped 2 member(s) in hidden folders; the first: s.tar/a/.ipynb_checkpoints/1.png",
                "skipped 4 member(s) in folders of the operating system; the first: \
                 s.tar/@eaDir/1.png",
            ]
        );
        // All of an archive that was made in a hidden folder.
        let (samples, skipped) = of(&[(".cache/a/1.png", "A"), (".cache/@eaDir/1.png", "x")]);
        assert_eq!((samples.len(), skipped.len()), (1, 1));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_label() {
        let (samples, _) = of(&[
            ("1.png", "A"),
            ("1.cls", "\u{feff}cat"),
            ("2.png", "B"),
            ("2.cls", "cat"),
            ("3.png", "C"),
            ("3.json", "\u{feff}{\"label\": \"cat\"}"),
            ("4.png", "D"),
            ("4.cls", "\u{feff}"),
        ]);
        assert_eq!(samples, ["1=A cat", "2=B cat", "3=C cat", "4=D -"]);
    }

    #[test]
    fn a_label_that_contradicts_another_of_its_sample_is_counted() {
        let (samples, skipped) = of(&[
            ("1.png", "A"),
            ("1.cls", "0"),
            ("2.png", "B"),
            ("2.cls", "1"),
            ("1.png", "C"),
            ("1.cls", "1"),
            ("2.png", "D"),
            ("2.cls", "1"),
        ]);
        assert_eq!(samples, ["1=A 0", "2=B 1"]);
        let reason = "skipped 1 label(s) that contradict an earlier one of the same sample: \
                      s.tar/1";
        assert!(skipped.contains(&reason.to_owned()), "{skipped:?}");
    }

    #[test]
    fn links_and_other_members_without_content_are_counted() {
        use ::tar::EntryType;
        let bytes = [
            member("1.png", EntryType::Regular, 1, b"A"),
            member("2.png", EntryType::Symlink, 0, b""),
            // A size that means nothing.
            member("3.png", EntryType::Link, 700, b""),
            member("d", EntryType::Directory, 700, b""),
            member("old/", EntryType::Regular, 0, b""),
            member("pipe.png", EntryType::Fifo, 0, b""),
            member("4.png", EntryType::Continuous, 1, b"B"),
            vec![0; 1024],
        ]
        .concat();
        let (samples, skipped) = found(&bytes);
        assert_eq!(samples, ["1=A -", "4=B -"]);
        assert_eq!(
            skipped,
            [
                "skipped 2 link(s) in shards, which hold no image themselves; the first: s.tar/2.png",
                "skipped 1 member(s) that are not files: s.tar/pipe.png",
            ]
        );
    }

    #[test]
    fn a_shard_that_is_cut_is_read_as_far_as_it_is_whole() {
        let whole = tar(&[("1.png", b"A"), ("1.cls", b"0"), ("2.png", b"BB")]);
        let cut =
            |length: usize| find(&whole[..length], length as u64, Path::new("s.tar")).unwrap();
        for (length, samples, incomplete) in [
            (whole.len(), 2, false),
            // One block of zeros is an end.
            (3 * 1024 + 512, 2, false),
            (3 * 1024, 2, true),
            (3 * 1024 - 400, 2, true),
            // In the middle of the second image.
            (2 * 1024 + 513, 1, true),
            (2 * 1024 + 100, 1, true),
            (2 * 1024, 1, true),
            (0, 0, true),
        ] {
            let found = cut(length);
            assert_eq!((found.found.len(), found.is_cut), (samples, incomplete), "{length}");
        }
        let reason = cut(2 * 1024 + 513).skipped.reasons()[0].to_string();
        assert_eq!(
            reason,
            "skipped 1 incomplete member(s) at the end of shards that are cut: s.tar/2.png"
        );
        // Archives that were written one behind the other.
        let (samples, skipped) = found(&[&whole[..], &whole].concat());
        assert_eq!(samples.len(), 2);
        let expected = "skipped 1 part(s) of shards behind the end mark of their archive: s.tar";
        assert_eq!(skipped, [expected]);
    }

    #[test]
    fn the_order_of_images_has_every_kind_that_is_read() {
        let mut order = IMAGE_ORDER;
        order.sort_unstable();
        assert_eq!(order, EXTENSIONS);
    }
}
