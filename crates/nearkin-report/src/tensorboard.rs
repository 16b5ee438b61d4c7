//! TensorBoard event files.
//!
//! The format is small: a file is a sequence of records, each a little-endian length, a checksum of
//! the length, a protobuf `Event` and a checksum of it (TensorFlow's `record_writer.h`,
//! `event.proto` and `summary.proto`). Writing it here keeps TensorFlow and protobuf out of the
//! build.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::ReportError;

/// TensorBoard recognises event files by this part of their name.
const PREFIX: &str = "events.out.tfevents.";

/// Writes scalars to an event file; each event is handed to the operating system at once.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Starts an event file in `folder`.
    ///
    /// # Errors
    ///
    /// [`ReportError::Read`] or [`ReportError::Write`] for the folder or the file.
    pub fn create(folder: &Path) -> Result<Self, ReportError> {
        // TensorBoard reads the files of a folder in the order of their names.
        let begun = latest(folder)?.map_or(0, |seconds| seconds + 1).max(wall_time() as u64);
        let path = folder.join(format!("{PREFIX}{begun:010}.nearkin"));
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.map_err(ReportError::writing(&path))?;
        let mut writer = Self { path, file };
        writer.write(&event(wall_time(), None, &Content::FileVersion))?;
        Ok(writer)
    }

    /// Starts a further event file for a run that continues after `step`: TensorBoard forgets what
    /// earlier files hold of later steps.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create).
    pub fn resume(folder: &Path, step: u64) -> Result<Self, ReportError> {
        let mut writer = Self::create(folder)?;
        // A start at a step makes that step and all later ones invalid; `step` itself was done.
        writer.write(&event(wall_time(), Some(step + 1), &Content::SessionStart))?;
        Ok(writer)
    }

    /// Writes the values of one step, as `(tag, value)`; a `/` in the tag groups charts. TensorBoard
    /// keeps single precision.
    ///
    /// # Errors
    ///
    /// [`ReportError::Write`].
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), ReportError> {
        self.write(&event(wall_time(), Some(step), &Content::Scalars(values)))
    }

    /// Waits until the values so far are on the disk.
    ///
    /// # Errors
    ///
    /// [`ReportError::Write`].
    pub fn sync(&self) -> Result<(), ReportError> {
        self.file.sync_data().map_err(ReportError::writing(&self.path))
    }

    fn write(&mut self, event: &[u8]) -> Result<(), ReportError> {
        self.file.write_all(&record(event)).map_err(ReportError::writing(&self.path))
    }
}

/// The latest start, in seconds since 1970, in the names of the event files in `folder`.
fn latest(folder: &Path) -> Result<Option<u64>, ReportError> {
    let mut latest = None;
    for entry in fs::read_dir(folder).map_err(ReportError::reading(folder))? {
        let name = entry.map_err(ReportError::reading(folder))?.file_name();
        let begun = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok());
        latest = latest.max(begun);
    }
    Ok(latest)
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// What an event carries.
enum Content<'a> {
    FileVersion,
    SessionStart,
    Scalars(&'a [(&'a str, f64)]),
}

/// The protobuf message `Event`.
fn event(wall_time: f64, step: Option<u64>, content: &Content<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    key(&mut message, 1, WIRE_64_BIT);
    message.extend(wall_time.to_le_bytes());
    if let Some(step) = step {
        key(&mut message, 2, WIRE_VARINT);
        varint(&mut message, step);
    }
    match content {
        Content::FileVersion => bytes(&mut message, 3, b"brain.Event:2"),
        Content::Scalars(values) => {
            let mut summary = Vec::new();
            for &(tag, value) in *values {
                let mut scalar = Vec::new();
                bytes(&mut scalar, 1, tag.as_bytes());
                key(&mut scalar, 2, WIRE_32_BIT);
                scalar.extend((value as f32).to_le_bytes());
                bytes(&mut summary, 1, &scalar);
            }
            bytes(&mut message, 5, &summary);
        }
        Content::SessionStart => {
            // The message `SessionLog` with `status = START`.
            let mut session_log = Vec::new();
            key(&mut session_log, 1, WIRE_VARINT);
            varint(&mut session_log, 1);
            bytes(&mut message, 7, &session_log);
        }
    }
    message
}

const WIRE_VARINT: u64 = 0;
const WIRE_64_BIT: u64 = 1;
const WIRE_BYTES: u64 = 2;
const WIRE_32_BIT: u64 = 5;

fn key(message: &mut Vec<u8>, field: u64, wire: u64) {
    varint(message, field << 3 | wire);
}

fn bytes(message: &mut Vec<u8>, field: u64, content: &[u8]) {
    key(message, field, WIRE_BYTES);
    varint(message, content.len() as u64);
    message.extend(content);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// Frames a message: length, checksum of the length, message, checksum of the message.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(message.len() + 16);
    record.extend(length);
    record.extend(masked_crc32c(&length).to_le_bytes());
    record.extend(message);
    record.extend(masked_crc32c(message).to_le_bytes());
    record
}

/// The checksum as records store it, rotated and shifted so that a record within a record does not
/// check out by itself.
fn masked_crc32c(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected.
fn crc32c(data: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut remainder = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                remainder = remainder >> 1 ^ if remainder & 1 == 1 { POLYNOMIAL } else { 0 };
                bit += 1;
            }
            table[byte] = remainder;
            byte += 1;
        }
        table
    };
    !data
        .iter()
        .fold(!0, |crc: u32, &byte| crc >> 8 ^ TABLE[((crc ^ u32::from(byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of a file whose framing and checksums are right.
    fn messages(path: &Path) -> Vec<Vec<u8>> {
        let content = fs::read(path).unwrap();
        let mut rest = content.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let message = &rest[12..12 + length];
            assert_eq!(rest[8..12], masked_crc32c(&rest[..8]).to_le_bytes());
            assert_eq!(rest[12 + length..16 + length], masked_crc32c(message).to_le_bytes());
            messages.push(message.to_vec());
            rest = &rest[16 + length..];
        }
        messages
    }

    #[test]
    fn checksums_match_published_vectors() {
        // RFC 3720, B.4, and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&std::array::from_fn::<u8, 32, _>(|index| index as u8)), 0x46dd_794e);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn a_scalar_has_the_documented_bytes() {
        let message = event(1.5, Some(300), &Content::Scalars(&[("a/b", 0.5), ("c", -2.0)]));
        #[rustfmt::skip]
        let expected = [
            0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, // 1: wall_time, double
            0x10, 0xac, 0x02,                   // 2: step, varint
            0x2a, 22,                           // 5: summary
            0x0a, 10,                           //   1: value
            0x0a, 3, b'a', b'/', b'b',          //     1: tag
            0x15, 0, 0, 0, 0x3f,                //     2: simple_value, float
            0x0a, 8,
            0x0a, 1, b'c',
            0x15, 0, 0, 0, 0xc0,
        ];
        assert_eq!(message, expected);
    }

    #[test]
    fn a_file_begins_with_its_version() {
        let folder = tempfile::tempdir().unwrap();
        let writer = EventWriter::create(folder.path()).unwrap();
        let message = &messages(&writer.path)[0];
        assert_eq!(message[..1], [0x09]);
        assert_eq!(message[9..], *b"\x1a\x0dbrain.Event:2");
        // The length 24 and its checksum, known from files that TensorFlow wrote.
        assert_eq!(
            fs::read(&writer.path).unwrap()[..12],
            [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]
        );
    }

    #[test]
    fn a_resumed_run_writes_a_later_file_that_ends_the_steps_after_its_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = EventWriter::create(folder.path()).unwrap();
        first.scalars(9, &[("loss", 1.0)]).unwrap();
        let mut second = EventWriter::resume(folder.path(), 5).unwrap();
        second.scalars(6, &[("loss", 1.0)]).unwrap();
        assert!(second.path.file_name() > first.path.file_name());
        let messages = messages(&second.path);
        assert_eq!(messages.len(), 3);
        assert_eq!(messages[1][9..], [0x10, 6, 0x3a, 2, 0x08, 1]);
        assert_eq!(messages[2][9..11], [0x10, 6]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = EventWriter::create(Path::new("no/such/folder")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read no/such/folder"), "{error}");
    }
}
