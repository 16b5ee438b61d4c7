//! From the cells of a column to labels as they are written.

use std::collections::HashMap;

use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{AsBytes, DataType};
use ::parquet::errors::{ParquetError, Result as Parsed};

use super::columns::{Form, LabelColumn};
use crate::classes::{UNIT, Written, meaning, normalized};

/// Rows that are read at once.
const ROWS_AT_ONCE: usize = 4096;

/// A value as the label it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Float(f64),
    /// What it is instead of a label, to follow "has".
    Unreadable(&'static str),
}

/// The values of a row: one or none, or those of a list.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Row {
    One(Option<Value>),
    List(Option<Vec<Value>>),
}

impl Row {
    /// The text of a single value, and of the integers that count `names`; empty without one.
    pub(super) fn word(&self, names: Option<&[String]>) -> String {
        match self {
            Self::One(Some(Value::Text(text))) => text.clone(),
            Self::One(Some(Value::Integer(integer))) => {
                let place = usize::try_from(*integer).ok();
                let name = place.zip(names).and_then(|(place, names)| names.get(place));
                name.cloned().unwrap_or_else(|| integer.to_string())
            }
            Self::One(Some(Value::Float(float))) => float.to_string(),
            _ => String::new(),
        }
    }
}

/// Levels of a column, as its file counts them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Levels {
    /// At which a value is there.
    pub(super) value: i16,
    /// At which an element of a list is there, null or not.
    pub(super) element: i16,
}

/// Reads up to `count` rows of a column.
pub(super) fn rows(
    reader: ColumnReader,
    column: &LabelColumn,
    levels: Levels,
    count: usize,
) -> Parsed<Vec<Row>> {
    let form = column.form;
    let is_list = column.is_list;
    let mismatch = || ParquetError::General(format!("its column {} has another type", column.name));
    match (reader, form) {
        (ColumnReader::BoolColumnReader(mut reader), Form::Boolean) => {
            read(&mut reader, is_list, levels, count, |value| Value::Text(value.to_string()))
        }
        (ColumnReader::Int32ColumnReader(mut reader), form) => {
            read(&mut reader, is_list, levels, count, |value| match form {
                Form::Unsigned => Value::Integer(i128::from(value.cast_unsigned())),
                form => integer(i128::from(*value), form),
            })
        }
        (ColumnReader::Int64ColumnReader(mut reader), form) => {
            read(&mut reader, is_list, levels, count, |value| match form {
                Form::Unsigned => Value::Integer(i128::from(value.cast_unsigned())),
                form => integer(i128::from(*value), form),
            })
        }
        (ColumnReader::FloatColumnReader(mut reader), Form::Float) => {
            // By its digits, so that 0.1 stays 0.1.
            read(&mut reader, is_list, levels, count, |value| {
                Value::Float(value.to_string().parse().unwrap_or(f64::NAN))
            })
        }
        (ColumnReader::DoubleColumnReader(mut reader), Form::Float) => {
            read(&mut reader, is_list, levels, count, |value| Value::Float(*value))
        }
        (ColumnReader::ByteArrayColumnReader(mut reader), form) => {
            read(&mut reader, is_list, levels, count, |value| bytes(value.as_bytes(), form))
        }
        (ColumnReader::FixedLenByteArrayColumnReader(mut reader), form) => {
            read(&mut reader, is_list, levels, count, |value| bytes(value.as_bytes(), form))
        }
        _ => Err(mismatch()),
    }
}

fn integer(value: i128, form: Form) -> Value {
    match form {
        Form::Decimal(digits) if digits > 0 => {
            Value::Float(value as f64 / 10_f64.powi(digits.try_into().unwrap_or(i32::MAX)))
        }
        _ => Value::Integer(value),
    }
}

fn bytes(value: &[u8], form: Form) -> Value {
    match form {
        Form::Text => match std::str::from_utf8(value) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => Value::Unreadable("bytes that are not text"),
        },
        Form::Half => match *value {
            [low, high] => Value::Float(half(u16::from_le_bytes([low, high]))),
            _ => Value::Unreadable("a float of another size"),
        },
        _ => big_endian(value)
            .map_or(Value::Unreadable("a number that is too large"), |value| integer(value, form)),
    }
}

/// The value of an integer of any length, if it is not too large.
fn big_endian(value: &[u8]) -> Option<i128> {
    let sign = if value.first().is_some_and(|&first| first >= 0x80) { 0xff } else { 0 };
    let mut whole = [sign; size_of::<i128>()];
    let (over, low) = value.split_at(value.len().saturating_sub(whole.len()));
    let at = whole.len() - low.len();
    whole[at..].copy_from_slice(low);
    let fits =
        over.iter().all(|&byte| byte == sign) && (over.is_empty() || whole[0] >> 7 == sign >> 7);
    fits.then(|| i128::from_be_bytes(whole))
}

/// The value of a float of 16 bits.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    }
}

fn read<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    is_list: bool,
    levels: Levels,
    count: usize,
    value: impl Fn(&T::T) -> Value,
) -> Parsed<Vec<Row>> {
    let mut rows = Vec::new();
    while rows.len() < count {
        let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        let wanted = (count - rows.len()).min(ROWS_AT_ONCE);
        let (found, _, _) = reader.read_records(
            wanted,
            Some(&mut defined),
            is_list.then_some(&mut repeated),
            &mut values,
        )?;
        if found == 0 {
            break;
        }
        let mut values = values.iter();
        // Without optional levels, all values are there and none is written down.
        let count = if levels.value == 0 { values.len() } else { defined.len() };
        for place in 0..count {
            let level = defined.get(place).copied().unwrap_or(levels.value);
            let next = (level == levels.value).then(|| values.next()).flatten();
            // A null in a list is as unknown as an empty text.
            let is_null = is_list && next.is_none() && level >= levels.element;
            let next = next.map(&value).or(is_null.then(|| Value::Text(String::new())));
            if !is_list {
                rows.push(Row::One(next));
                continue;
            }
            let begins = repeated.get(place).copied().unwrap_or(0) == 0;
            match rows.last_mut() {
                Some(Row::List(Some(list))) if !begins => list.extend(next),
                _ if level >= levels.element => {
                    rows.push(Row::List(Some(next.into_iter().collect())));
                }
                _ if level + 1 == levels.element => rows.push(Row::List(Some(Vec::new()))),
                _ => rows.push(Row::List(None)),
            }
        }
    }
    Ok(rows)
}

/// Writes the labels of rows down, one file after the other.
pub(super) struct Labels<'a> {
    written: &'a mut Written,
    /// The names that integers count, if they have any.
    names: Option<&'a [String]>,
    /// Places of the integers that were met.
    integers: HashMap<i128, Option<u32>>,
    flags: Flags,
}

/// Whether all lists may hold a 0 or 1 for each class, not the numbers of classes.
#[derive(Default)]
struct Flags {
    /// The length of the lists so far.
    length: Option<usize>,
    /// Whether another list was met: of another length, or with other values.
    have_others: bool,
    /// Whether some list is not one of rising numbers.
    have_falling: bool,
}

impl Flags {
    fn push(&mut self, values: &[Value]) {
        let bits = values.iter().map(|value| match value {
            Value::Integer(0) => Some(false),
            Value::Integer(1) => Some(true),
            Value::Float(float) if *float == 0.0 => Some(false),
            Value::Float(float) if *float == 1.0 => Some(true),
            _ => None,
        });
        let bits = bits.collect::<Option<Vec<bool>>>().filter(|bits| bits.len() > 1);
        let Some(bits) = bits.filter(|bits| *self.length.get_or_insert(bits.len()) == bits.len())
        else {
            self.have_others = true;
            return;
        };
        self.have_falling |= bits.windows(2).any(|pair| pair[0] >= pair[1]);
    }
}

impl<'a> Labels<'a> {
    pub(super) fn new(written: &'a mut Written, names: Option<&'a [String]>) -> Self {
        Self { written, names, integers: HashMap::new(), flags: Flags::default() }
    }

    /// Appends a row; the error is what is wrong with its label.
    pub(super) fn push(&mut self, row: Row) -> Result<(), String> {
        let place = match row {
            Row::One(None) | Row::List(None) => None,
            Row::One(Some(Value::Integer(integer))) => {
                if !self.integers.contains_key(&integer) {
                    let word = self.word(Value::Integer(integer))?;
                    let place = word.map(|word| self.written.place(&word));
                    self.integers.insert(integer, place);
                }
                self.integers.get(&integer).copied().flatten()
            }
            Row::One(Some(value)) => self.word(value)?.map(|word| self.written.place(&word)),
            Row::List(Some(values)) => {
                self.flags.push(&values);
                // Such a text is a list, if an empty one.
                let mut words = UNIT.to_string();
                let is_empty = values.is_empty();
                for value in values {
                    if let Some(word) = self.word(value)? {
                        words.push_str(&word);
                        words.push(UNIT);
                    }
                }
                // A list of nothing but -1 or null says as little as one of them alone.
                let is_known = is_empty || words.len() > UNIT.len_utf8();
                is_known.then(|| self.written.place(&words))
            }
        };
        self.written.push_place(place);
        Ok(())
    }

    /// What is wrong with all lists together: they would put every image into the classes 0 and 1.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        let Flags { have_others, have_falling, .. } = self.flags;
        (have_falling && !have_others).then_some(
            "holds lists of one length with only 0 and 1, which seem to be one value for each class: \
             write the numbers or the names of the classes that an image shows",
        )
    }

    /// The name or number of a class, if the value is one.
    fn word(&self, value: Value) -> Result<Option<String>, String> {
        // Tools that have no integer for an empty cell make floats of the column.
        let value = match value {
            Value::Float(float) if self.names.is_some() && float.fract() == 0.0 => {
                Value::Integer(float as i128)
            }
            value => value,
        };
        let word = match (value, self.names) {
            (Value::Unreadable(what), _) => return Err(format!("has {what} as its label")),
            // The hub writes -1 where the class is not known.
            (Value::Integer(-1), _) => return Ok(None),
            (Value::Integer(integer), Some(names)) => {
                let name = usize::try_from(integer).ok().and_then(|place| names.get(place));
                let last = names.len().saturating_sub(1);
                let name = name.ok_or_else(|| {
                    format!("has the class {integer}; it must be 0 to {last}, or -1 for none")
                })?;
                // A name is one whatever it says.
                return Ok(Some(normalized(name).into_owned()));
            }
            (Value::Integer(integer), None) => integer.to_string(),
            (Value::Float(float), _) => float.to_string(),
            (Value::Text(text), _) => text,
        };
        Ok(meaning(&word).map(std::borrow::Cow::into_owned))
    }
}
