//! The metrics of a run, one JSON object per line.
//!
//! A line is complete or it is the last one, so a file can be read while it grows and after a crash;
//! a continued run first drops what its checkpoint does not know about, so no step is ever counted
//! twice.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::ReportError;
use crate::files::write_atomically;

/// The names of values that the progress and the report know. Any other number of a step is
/// recorded, and charted under its own name.
pub mod names {
    /// Loss: of a step, or the mean over an epoch. In nats where the loss is a cross-entropy.
    pub const LOSS: &str = "loss";
    /// The loss of an encoder that knows nothing, for scale.
    pub const REFERENCE_LOSS: &str = "reference_loss";
    /// Learning rate of the step.
    pub const LEARNING_RATE: &str = "learning_rate";
    /// Share of itself that the momentum encoder keeps at the step.
    pub const MOMENTUM: &str = "momentum";
    /// Images (not views) trained on per second.
    pub const IMAGES_PER_SECOND: &str = "images_per_second";
    /// Share of time, in `[0, 1]`, that training waited for the loader.
    pub const DATA_WAIT_SHARE: &str = "data_wait_share";
    /// Floating-point operations of the model per second, forward and backward, as counted from its
    /// layers.
    pub const MODEL_FLOP_PER_SECOND: &str = "model_flop_per_second";
    /// The measured matrix-multiply rate of the device in the run's precision, in operations per
    /// second.
    pub const MATMUL_FLOP_PER_SECOND: &str = "matmul_flop_per_second";
    /// Text: the precision of that rate. Records of earlier versions have none; their rate is in single
    /// precision, or in double precision for runs in it.
    pub const MATMUL_PRECISION: &str = "matmul_precision";
    /// The model's rate as a share of the matrix-multiply rate.
    pub const MATMUL_SHARE: &str = "matmul_share";
    /// The most memory that the process has had so far, in bytes.
    pub const PEAK_MEMORY_BYTES: &str = "peak_memory_bytes";
    /// The share of kin in the weight that targets put beyond own views, in `[0, 1]`.
    pub const KIN_PURITY: &str = "kin_purity";
    /// The share of kin among the candidates other than own views: the purity of a guess.
    pub const KIN_CHANCE: &str = "kin_chance";
    /// Weight of the targets on kin.
    pub const KIN_MASS: &str = "kin_mass";
    /// The share of kin among all candidates.
    pub const KIN_SHARE: &str = "kin_share";
    /// Weight of the targets on the own positives.
    pub const POSITIVE_MASS: &str = "positive_mass";
    /// Top-1 accuracy of a k-NN record, in `[0, 1]`.
    pub const ACCURACY: &str = "accuracy";
    /// Accuracy of a guess, in `[0, 1]`.
    pub const CHANCE_ACCURACY: &str = "chance_accuracy";
    /// RankMe of the backbone's features of the test images, in a k-NN record.
    pub const RANK_ME: &str = "rank_me";
    /// Standard deviation of a dimension of the same, mean over the dimensions.
    pub const FEATURE_DEVIATION: &str = "feature_deviation";
    /// Text: what was measured for a k-NN record (k, distance, temperature, image sets). Records
    /// with the same definition form one curve.
    pub const DEFINITION: &str = "definition";
    /// Text: what happened, for an event.
    pub const MESSAGE: &str = "message";
}

const KIND: &str = "kind";
const STEP: &str = "step";
const EPOCH: &str = "epoch";
const SECONDS: &str = "seconds";

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One optimiser step.
    Step,
    /// One finished epoch.
    Epoch,
    /// One k-NN evaluation.
    Knn,
    /// Something worth a line: start, resume, warning.
    Event,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Step, Self::Epoch, Self::Knn, Self::Event];

    fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Epoch => "epoch",
            Self::Knn => "knn",
            Self::Event => "event",
        }
    }
}

/// One line of the metrics file: `{"kind":"step","step":7,"epoch":1,"seconds":3.2,"loss":5.8}`.
///
/// JSON has no numbers that are not finite; these are written as the strings `"NaN"`, `"inf"` and
/// `"-inf"`, and [`number`](Self::number) reads them back.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What the record is about.
    pub kind: Kind,
    /// Optimiser steps done, over the whole run.
    pub step: u64,
    /// Epoch of the step, counted from 1; 0 before training.
    pub epoch: u64,
    /// Seconds of training behind this record, over all parts of a run that was continued.
    pub seconds: f64,
    values: Map<String, Value>,
}

impl Record {
    /// A record without values.
    pub fn new(kind: Kind, step: u64, epoch: u64, seconds: f64) -> Self {
        Self { kind, step, epoch, seconds, values: Map::new() }
    }

    /// Adds a number. A value named like one of the four fixed fields is not written.
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.values.insert(name.to_owned(), number_to_json(value));
        self
    }

    /// Adds a text.
    #[must_use]
    pub fn with_text(mut self, name: &str, text: &str) -> Self {
        self.values.insert(name.to_owned(), Value::from(text));
        self
    }

    /// The number of that name; `None` if there is none or it is a text.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.values.get(name).and_then(number_from_json)
    }

    /// The text of that name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(Value::as_str)
    }

    /// The share of kin in the weight that targets put beyond own views, and what a guess would reach.
    /// Of records of earlier versions it is computed from what they have.
    pub fn kin_purity(&self) -> Option<(f64, f64)> {
        let number = |name| self.number(name);
        let computed = || {
            let beyond = 1.0 - number(names::POSITIVE_MASS)?;
            // Single precision has no better 1.
            (beyond > 1e-6).then_some(number(names::KIN_MASS)? / beyond)
        };
        let purity = number(names::KIN_PURITY).or_else(computed)?;
        Some((purity, number(names::KIN_CHANCE).or_else(|| number(names::KIN_SHARE))?))
    }

    /// All numbers, in the order they were added.
    pub fn numbers(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), number_from_json(value)?)))
    }

    fn parse(line: &[u8]) -> Result<Self, String> {
        let mut values: Map<String, Value> =
            serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let mut take = |name: &str, expected: &str| {
            values
                .shift_remove(name)
                .ok_or_else(|| format!("`{name}` is missing: {expected} expected"))
        };
        let kind = take(KIND, "a text")?;
        let count = |name: &str, value: &Value| {
            value.as_u64().ok_or_else(|| format!("`{name}` is {value}: a count expected"))
        };
        let step = count(STEP, &take(STEP, "a count")?)?;
        let epoch = count(EPOCH, &take(EPOCH, "a count")?)?;
        let seconds = take(SECONDS, "a number")?;
        let seconds = number_from_json(&seconds)
            .ok_or_else(|| format!("`{SECONDS}` is {seconds}: a number expected"))?;
        let kind = Kind::ALL
            .into_iter()
            .find(|known| kind == known.name())
            .ok_or_else(|| format!("`{KIND}` is {kind}: step, epoch, knn or event expected"))?;
        Ok(Self { kind, step, epoch, seconds, values })
    }
}

/// The JSON of the line, without a line break.
impl fmt::Display for Record {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Map::new();
        line.insert(KIND.to_owned(), Value::from(self.kind.name()));
        line.insert(STEP.to_owned(), Value::from(self.step));
        line.insert(EPOCH.to_owned(), Value::from(self.epoch));
        line.insert(SECONDS.to_owned(), number_to_json(self.seconds));
        for (name, value) in &self.values {
            line.entry(name.as_str()).or_insert_with(|| value.clone());
        }
        write!(formatter, "{}", Value::Object(line))
    }
}

fn number_to_json(number: f64) -> Value {
    // `Value::from` turns what JSON cannot hold into null; the text of a float tells them apart.
    if number.is_finite() { Value::from(number) } else { Value::from(number.to_string()) }
}

fn number_from_json(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "inf" => Some(f64::INFINITY),
            "-inf" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// Appends records to a metrics file; each is handed to the operating system at once, as one write.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
}

impl MetricsWriter {
    /// Starts a new file.
    ///
    /// # Errors
    ///
    /// [`ReportError::Write`], also if the file exists.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, ReportError> {
        let path = path.into();
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        Ok(Self { file: file.map_err(ReportError::writing(&path))?, path })
    }

    /// Continues a file after `step`: records of later steps and a torn last line are dropped, every
    /// other record stays as it is. Lines that are no records are dropped too, and counted: a power loss
    /// can leave zeros in place of what was written last. Without a file, a new one is started.
    ///
    /// # Errors
    ///
    /// [`ReportError::Read`] and [`ReportError::Write`].
    pub fn resume(path: impl Into<PathBuf>, step: u64) -> Result<(Self, usize), ReportError> {
        let path = path.into();
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self::create(path)?, 0));
            }
            Err(error) => return Err(ReportError::reading(&path)(error)),
        };
        let mut kept = Vec::with_capacity(content.len());
        let mut damaged = 0;
        for line in lines(&content) {
            match line.record {
                Ok(record) if record.step <= step => {
                    kept.extend_from_slice(line.bytes);
                    kept.push(b'\n');
                }
                Err(_) if line.is_whole => damaged += 1,
                _ => {}
            }
        }
        if kept != content {
            write_atomically(&path, |out| out.write_all(&kept))?;
        }
        let file = OpenOptions::new().append(true).open(&path);
        Ok((Self { file: file.map_err(ReportError::writing(&path))?, path }, damaged))
    }

    /// Waits until the records so far are on the disk.
    ///
    /// # Errors
    ///
    /// [`ReportError::Write`].
    pub fn sync(&self) -> Result<(), ReportError> {
        self.file.sync_data().map_err(ReportError::writing(&self.path))
    }

    /// Appends one record.
    ///
    /// # Errors
    ///
    /// [`ReportError::Write`].
    pub fn append(&mut self, record: &Record) -> Result<(), ReportError> {
        self.append_all(std::slice::from_ref(record))
    }

    /// Appends records that belong together in one write: a process that is killed has written all or
    /// none of them.
    ///
    /// # Errors
    ///
    /// [`ReportError::Write`].
    pub fn append_all(&mut self, records: &[Record]) -> Result<(), ReportError> {
        let mut lines = String::new();
        for record in records {
            lines.push_str(&record.to_string());
            lines.push('\n');
        }
        self.file.write_all(lines.as_bytes()).map_err(ReportError::writing(&self.path))
    }
}

/// Reads all records of a metrics file. A last line without its line break that is not a record was
/// torn by a crash, or is being written: it is left out.
///
/// # Errors
///
/// [`ReportError::Read`]; [`ReportError::Malformed`] for any other line that is not a record.
pub fn read_metrics(path: &Path) -> Result<Vec<Record>, ReportError> {
    let content = fs::read(path).map_err(ReportError::reading(path))?;
    let mut records = Vec::new();
    for (index, line) in lines(&content).enumerate() {
        match line.record {
            Ok(record) => records.push(record),
            Err(reason) if line.is_whole => {
                return Err(ReportError::Malformed {
                    path: path.to_owned(),
                    line: index + 1,
                    reason,
                });
            }
            Err(_) => {}
        }
    }
    Ok(records)
}

struct Line<'a> {
    /// Without the line break.
    bytes: &'a [u8],
    /// The line break is there.
    is_whole: bool,
    /// What it says, or why it is no record.
    record: Result<Record, String>,
}

fn lines(content: &[u8]) -> impl Iterator<Item = Line<'_>> {
    content.split_inclusive(|&byte| byte == b'\n').map(|line| {
        let without_break = line.strip_suffix(b"\n");
        let bytes = without_break.unwrap_or(line);
        Line { bytes, is_whole: without_break.is_some(), record: Record::parse(bytes) }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(step: u64) -> Record {
        Record::new(Kind::Step, step, 1, 0.5 * step as f64).with(names::LOSS, 5.75)
    }

    fn written(folder: &tempfile::TempDir, records: &[Record]) -> PathBuf {
        let path = folder.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        for record in records {
            writer.append(record).unwrap();
        }
        path
    }

    #[test]
    fn a_line_is_what_the_documentation_shows() {
        let record = Record::new(Kind::Step, 7, 1, 3.25)
            .with("loss", 5.8)
            .with("a", f64::NAN)
            .with("b", f64::INFINITY)
            .with("c", f64::NEG_INFINITY)
            .with_text("note", "a \"b\"")
            .with("step", 99.0);
        assert_eq!(
            record.to_string(),
            r#"{"kind":"step","step":7,"epoch":1,"seconds":3.25,"loss":5.8,"a":"NaN","b":"inf","c":"-inf","note":"a \"b\""}"#
        );
    }

    #[test]
    fn purity_is_read_or_computed_from_what_earlier_versions_recorded() {
        let record = |numbers: &[(&str, f64)]| {
            let empty = Record::new(Kind::Step, 1, 1, 1.0);
            numbers.iter().fold(empty, |record, &(name, value)| record.with(name, value))
        };
        let old = [("positive_mass", 0.5), ("kin_mass", 0.11), ("kin_share", 0.1)];
        assert_eq!(record(&old).kin_purity(), Some((0.22, 0.1)));
        let new = [old.as_slice(), &[("kin_purity", 0.3), ("kin_chance", 0.12)]].concat();
        assert_eq!(record(&new).kin_purity(), Some((0.3, 0.12)));
        let one_hot = [("positive_mass", 1.0), ("kin_mass", 0.0), ("kin_share", 0.1)];
        assert_eq!(record(&one_hot).kin_purity(), None);
        assert_eq!(record(&old[1..]).kin_purity(), None);
    }

    #[test]
    fn each_record_is_in_the_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut writer = MetricsWriter::create(&path).unwrap();
        for count in 1..4 {
            writer.append(&step(count)).unwrap();
            assert_eq!(read_metrics(&path).unwrap().len() as u64, count);
        }
        assert!(MetricsWriter::create(&path).is_err(), "an existing file is never cut");
    }

    #[test]
    fn a_resumed_run_has_each_record_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(&folder, &[step(1), step(2), step(3)]);
        fs::write(&path, [&fs::read(&path).unwrap(), &b"{\"kind\":\"st"[..]].concat()).unwrap();
        let (mut writer, damaged) = MetricsWriter::resume(&path, 2).unwrap();
        assert_eq!(damaged, 0);
        writer.append(&step(3)).unwrap();
        writer.append(&step(4)).unwrap();
        let steps: Vec<u64> =
            read_metrics(&path).unwrap().iter().map(|record| record.step).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
    }

    #[test]
    fn resuming_keeps_lines_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let first = r#"{"step": 1, "kind": "event", "epoch": 1, "seconds": 2, "list": [1, null]}"#;
        fs::write(&path, first).unwrap();
        MetricsWriter::resume(&path, 1).unwrap().0.append(&step(2)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{first}\n{}\n", step(2)));
    }

    #[test]
    fn resuming_drops_and_counts_what_a_power_loss_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let line = |number| format!("{}\n", step(number));
        let zeros = [&[0; 4096][..], b"\n"].concat();
        let garbage = [&[0, 255, 13][..], b"{\"kind\":\"step\"}\n"].concat();
        let (first, second) = (line(1), line(2));
        let parts = [first.as_bytes(), &zeros, second.as_bytes(), &garbage, b"\n", &zeros[..9]];
        fs::write(&path, parts.concat()).unwrap();
        let (writer, damaged) = MetricsWriter::resume(&path, 2).unwrap();
        writer.sync().unwrap();
        assert_eq!((damaged, fs::read_to_string(&path).unwrap()), (3, line(1) + &line(2)));
    }

    #[test]
    fn resuming_without_a_file_starts_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        MetricsWriter::resume(&path, 0).unwrap().0.append(&step(1)).unwrap();
        assert_eq!(read_metrics(&path).unwrap(), [step(1)]);
    }

    #[test]
    fn only_a_torn_last_line_is_forgiven() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let whole = step(1).to_string();
        for (bad, expected) in [
            ("{\"kind\":\"st", "line 2: EOF"),
            (r#"{"kind":"step","step":1,"epoch":1}"#, "line 2: `seconds` is missing"),
            (r#"{"kind":"x","step":1,"epoch":1,"seconds":0}"#, "line 2: `kind` is \"x\""),
            (r#"{"kind":"step","step":-1,"epoch":1,"seconds":0}"#, "line 2: `step` is -1"),
        ] {
            fs::write(&path, format!("{whole}\n{bad}\n{whole}\n")).unwrap();
            let error = read_metrics(&path).unwrap_err().to_string();
            assert!(error.contains("metrics.jsonl") && error.contains(expected), "{error}");
        }
        let line = format!("{}\n", step(2).with_text(names::MESSAGE, "é"));
        for cut in 0..line.len() {
            fs::write(&path, [format!("{whole}\n").as_bytes(), &line.as_bytes()[..cut]].concat())
                .unwrap();
            let complete = cut + 1 == line.len();
            assert_eq!(read_metrics(&path).unwrap().len(), 1 + usize::from(complete), "cut {cut}");
        }
    }

    proptest! {
        #[test]
        fn records_survive_the_file(
            numbers in prop::collection::vec(any::<f64>(), 0..5),
            seconds in any::<f64>(),
            text in any::<String>(),
            count in any::<u64>(),
        ) {
            let mut record =
                Record::new(Kind::Knn, count, 3, seconds).with_text(names::DEFINITION, &text);
            for (index, number) in numbers.iter().enumerate() {
                record = record.with(&format!("value {index}"), *number);
            }
            let read = Record::parse(record.to_string().as_bytes()).unwrap();
            // NaN is not equal to itself: compare what was written.
            prop_assert_eq!(read.to_string(), record.to_string());
            for (index, number) in numbers.iter().enumerate() {
                let back = read.number(&format!("value {index}")).unwrap();
                prop_assert!(back == *number || back.is_nan() && number.is_nan());
            }
            prop_assert_eq!(read.text(names::DEFINITION), Some(text.as_str()));
        }
    }
}
