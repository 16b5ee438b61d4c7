//! Features in a parquet file, for tools that work on tables.

use std::fs::File;
use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use ::parquet::basic::{Compression, Encoding, Type as Physical};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{
    ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type,
};
use ::parquet::errors::{ParquetError, Result as Parsed};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;
use ::parquet::schema::types::{ColumnDescriptor, ColumnPath};
use bytes::Bytes;

use crate::center::MEAN;
use crate::features::Contents;
use crate::{Center, EmbedError, Row, Vectors};

const SCHEMA: &str = "message features {
    REQUIRED BYTE_ARRAY name (STRING);
    OPTIONAL INT64 label;
    REQUIRED GROUP embedding (LIST) { REPEATED GROUP list { REQUIRED FLOAT element; } }
}";
/// Values of a row group: 16 MiB.
const GROUP_VALUES: usize = 1 << 22;

/// A table that is being written, a row group at a time.
pub(crate) struct Writer<W: Write + Send> {
    file: SerializedFileWriter<W>,
    names: Vec<ByteArray>,
    labels: Vec<Option<i64>>,
    values: Vec<f32>,
}

impl<W: Write + Send> Writer<W> {
    pub(crate) fn new(file: W, metadata: &[(String, String)]) -> io::Result<Self> {
        let said = metadata.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        let embedding =
            || ColumnPath::from(vec!["embedding".into(), "list".into(), "element".into()]);
        // Floats that are all different only grow by compression and dictionaries.
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_column_compression(embedding(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(embedding(), false)
            .set_column_encoding(embedding(), Encoding::PLAIN)
            .set_key_value_metadata(Some(said.collect()));
        let schema = parse_message_type(SCHEMA).map_err(io::Error::other)?;
        let file = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build()))
            .map_err(io::Error::other)?;
        Ok(Self { file, names: Vec::new(), labels: Vec::new(), values: Vec::new() })
    }

    pub(crate) fn push(&mut self, row: Row<'_>) -> io::Result<()> {
        self.names.push(row.name.into());
        self.labels.push(row.label.map(|label| label as i64));
        self.values.extend_from_slice(row.embedding);
        if self.values.len() >= GROUP_VALUES {
            self.write_group().map_err(io::Error::other)
        } else {
            Ok(())
        }
    }

    pub(crate) fn finish(mut self, center: &Center) -> io::Result<W> {
        if !self.names.is_empty() {
            self.write_group().map_err(io::Error::other)?;
        }
        let mean = serde_json::to_string(center.values()).map_err(io::Error::other)?;
        self.file.append_key_value_metadata(KeyValue::new(MEAN.to_owned(), mean));
        self.file.into_inner().map_err(io::Error::other)
    }

    fn write_group(&mut self) -> Parsed<()> {
        let mut group = self.file.next_row_group()?;
        write_column::<ByteArrayType, _>(&mut group, &self.names, None, None)?;
        let labels: Vec<i64> = self.labels.iter().copied().flatten().collect();
        let is_there: Vec<i16> =
            self.labels.iter().map(|label| i16::from(label.is_some())).collect();
        write_column::<Int64Type, _>(&mut group, &labels, Some(&is_there), None)?;
        // A list begins where the repetition level is 0.
        let width = self.values.len() / self.names.len();
        let levels: Vec<i16> =
            (0..self.values.len()).map(|place| i16::from(!place.is_multiple_of(width))).collect();
        let there = vec![1; levels.len()];
        write_column::<FloatType, _>(&mut group, &self.values, Some(&there), Some(&levels))?;
        group.close()?;
        self.names.clear();
        self.labels.clear();
        self.values.clear();
        Ok(())
    }
}

fn write_column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    definition: Option<&[i16]>,
    repetition: Option<&[i16]>,
) -> Parsed<()> {
    let column = group.next_column()?;
    let mut column =
        column.ok_or_else(|| ParquetError::General("the table has no such column".into()))?;
    column.typed::<T>().write_batch(values, definition, repetition)?;
    column.close()
}

/// Reads the columns `embedding` (lists of float or double of one length), `name` and `label`, of
/// which the last two may be absent: images then have numbers, and no labels.
pub(crate) fn read(path: &Path) -> Result<Contents, EmbedError> {
    let file = File::open(path).map_err(EmbedError::read(path))?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut &file, &mut bytes).map_err(EmbedError::read(path))?;
    parse(bytes.into()).map_err(|reason| EmbedError::malformed(path, reason))
}

fn parse(bytes: Bytes) -> Result<Contents, String> {
    let read = || {
        let unreadable = |error| format!("cannot read it as a parquet file: {error}");
        let file = SerializedFileReader::new(bytes).map_err(unreadable)?;
        columns(&file)
    };
    // The crate panics on some damaged files.
    std::panic::catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("it is damaged in a way that its reader does not foresee".into()))
}

fn columns(file: &SerializedFileReader<Bytes>) -> Result<Contents, String> {
    let schema = file.metadata().file_metadata().schema_descr_ptr();
    let find = |name: &str, repeated: i16, kinds: &[Physical]| {
        schema.columns().iter().position(|column| {
            column.path().parts().first().is_some_and(|part| part == name)
                && column.max_rep_level() == repeated
                && kinds.contains(&column.physical_type())
        })
    };
    let embedding = find("embedding", 1, &[Physical::FLOAT, Physical::DOUBLE]).ok_or_else(|| {
        let names = schema.columns().iter().map(|column| column.path().string());
        format!(
            "has no column called embedding with lists of floats, as files of nearkin embed have; its \
             columns are {}",
            names.collect::<Vec<_>>().join(", ")
        )
    })?;
    let name = find("name", 0, &[Physical::BYTE_ARRAY]);
    let label = find("label", 0, &[Physical::INT64, Physical::INT32]);
    let (mut values, mut names, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    let (mut rows, mut width) = (0, None);
    for group in 0..file.num_row_groups() {
        let part = file.get_row_group(group).map_err(|error| error.to_string())?;
        let expected = usize::try_from(part.metadata().num_rows()).map_err(|_| "has no rows")?;
        let read = |column: usize| {
            let reader = part.get_column_reader(column).map_err(|error| error.to_string())?;
            Ok::<_, String>((reader, schema.column(column)))
        };
        let (reader, column) = read(embedding)?;
        let lists = match reader {
            ColumnReader::FloatColumnReader(reader) => {
                lists::<FloatType>(reader, &column, expected, |value| value, &mut values)
            }
            ColumnReader::DoubleColumnReader(reader) => {
                lists::<DoubleType>(reader, &column, expected, |value| value as f32, &mut values)
            }
            _ => Err("has embeddings of another type".to_owned()),
        }?;
        for length in lists {
            if length == 0 || *width.get_or_insert(length) != length {
                let first = width.unwrap_or(0);
                return Err(format!(
                    "image {rows} has {length} values and the first {first}: all need as many"
                ));
            }
            rows += 1;
        }
        if let Some(column) = name {
            let (ColumnReader::ByteArrayColumnReader(reader), column) = read(column)? else {
                return Err("has names of another type".to_owned());
            };
            for name in cells::<ByteArrayType>(reader, &column, expected)? {
                let name = name.as_ref().map_or(&[][..], ByteArray::data);
                names.push(String::from_utf8_lossy(name).into_owned());
            }
        }
        if let Some(column) = label {
            match read(column)? {
                (ColumnReader::Int64ColumnReader(reader), column) => {
                    labels.extend(cells::<Int64Type>(reader, &column, expected)?);
                }
                (ColumnReader::Int32ColumnReader(reader), column) => {
                    let cells = cells::<Int32Type>(reader, &column, expected)?;
                    labels.extend(cells.into_iter().map(|cell| cell.map(i64::from)));
                }
                _ => return Err("has labels of another type".to_owned()),
            }
        }
    }
    if name.is_none() {
        names.extend((0..rows).map(|row: usize| row.to_string()));
    }
    labels.resize(rows, None);
    if names.len() != rows {
        return Err(format!("has {rows} embeddings and {} names", names.len()));
    }
    let vectors = Vectors::new(values, width.unwrap_or(1)).ok_or("has rows of unequal width")?;
    let stated = file.metadata().file_metadata().key_value_metadata();
    let stated = stated.and_then(|entries| entries.iter().find(|entry| entry.key == MEAN));
    let center = match stated.and_then(|entry| entry.value.as_deref()) {
        Some(text) => {
            let values = serde_json::from_str(text);
            let values = values.map_err(|_| format!("{MEAN} is not a list of numbers"))?;
            Some(Center::from_values(values))
        }
        None => None,
    };
    Ok(Contents { vectors, names: Some(names), labels: Some(labels), center })
}

/// Appends the values of a row group; gives the length of each list.
fn lists<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    column: &ColumnDescriptor,
    rows: usize,
    convert: impl Fn(T::T) -> f32,
    values: &mut Vec<f32>,
) -> Result<Vec<usize>, String> {
    let (mut definition, mut repetition, mut read) = (Vec::new(), Vec::new(), Vec::new());
    while reader
        .read_records(rows, Some(&mut definition), Some(&mut repetition), &mut read)
        .map_err(|error| error.to_string())?
        .0
        > 0
    {}
    if definition.iter().any(|&level| level < column.max_def_level()) {
        return Err("has an empty embedding, or one with an empty value".to_owned());
    }
    values.extend(read.into_iter().map(convert));
    let mut lengths = Vec::with_capacity(rows);
    for level in repetition {
        match lengths.last_mut() {
            Some(length) if level > 0 => *length += 1,
            _ => lengths.push(1),
        }
    }
    Ok(lengths)
}

/// The cells of a column of a row group.
fn cells<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    column: &ColumnDescriptor,
    rows: usize,
) -> Result<Vec<Option<T::T>>, String> {
    let (mut definition, mut values) = (Vec::new(), Vec::new());
    while reader
        .read_records(rows, Some(&mut definition), None, &mut values)
        .map_err(|error| error.to_string())?
        .0
        > 0
    {}
    if column.max_def_level() == 0 {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    Ok(definition
        .into_iter()
        .map(|level| if level == column.max_def_level() { values.next() } else { None })
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Several row groups, one of them cut anywhere.
    fn file() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &[("a".to_owned(), "b".to_owned())]).unwrap();
        for index in 0..7_usize {
            let embedding = [index as f32, 0.5];
            let row =
                Row { name: "é", label: (index > 2).then_some(index), embedding: &embedding };
            writer.push(row).unwrap();
            if index == 4 {
                writer.write_group().unwrap();
            }
        }
        writer.finish(&Center::from_values(vec![0.1, 0.2])).unwrap()
    }

    #[test]
    fn row_groups_are_joined() {
        let Contents { vectors, names, labels, center } = parse(file().into()).unwrap();
        assert_eq!((vectors.len(), vectors.row(6)), (7, &[6.0, 0.5][..]));
        let labels = labels.unwrap();
        assert_eq!((names.unwrap().len(), labels[2], labels[6]), (7, None, Some(6)));
        assert_eq!(center.unwrap().values(), [0.1, 0.2]);
        let message = parse(Bytes::new()).err().unwrap();
        assert!(message.contains("cannot read it as a parquet file"), "{message}");
    }

    proptest! {
        #[test]
        fn damaged_files_are_read_or_refused(place in 0_usize..600, byte: u8) {
            let mut bytes = file();
            let place = place % bytes.len();
            bytes[place] = byte;
            let _ = parse(bytes.clone().into());
            bytes.truncate(place);
            prop_assert!(parse(bytes.into()).is_err());
        }
    }
}
