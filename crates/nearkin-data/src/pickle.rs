//! Python pickles, as far as data sets need them.
//!
//! A pickle is a program: Python runs it, and a hostile one runs whatever it likes. CIFAR is
//! published as pickles all the same. This module reads them without running anything: it knows the
//! opcodes that make numbers, strings, byte strings, lists, tuples, dictionaries and numpy arrays
//! of `uint8`, and takes the few names by which numpy rebuilds an array as data. Every other opcode
//! or name is an error that says which.
//!
//! Values lie in one flat table and refer to each other by [`Id`], so neither deep nesting nor a
//! list that contains itself leads to recursion. Strings are lent from the input. Memory stays
//! within a small multiple of the input's length: every value, every entry of the memo and every
//! reference takes at least one byte of input, and the first two are limited besides.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use crate::DataError;

/// More values than these are refused; the largest batch of CIFAR has some 150,000.
const MAX_VALUES: usize = 1 << 20;
/// More dimensions than these are refused, as numpy does.
const MAX_DIMENSIONS: usize = 32;

/// A value of a [`Pickle`], by its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u32);

/// What a pickle can hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// A float.
    Float(f64),
    /// A string of Python 3, or a `unicode` of Python 2.
    Str(Cow<'a, str>),
    /// `bytes`, `bytearray`, or a `str` of Python 2.
    Bytes(Cow<'a, [u8]>),
    /// A list.
    List(Vec<Id>),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A dictionary: keys with their values, in the order they were set; of equal keys the last
    /// counts.
    Dict(Vec<(Id, Id)>),
    /// A numpy array of `uint8`; `None` while it is still to be filled.
    Array(Option<Array>),
    /// The numpy type `uint8`.
    Uint8,
    /// One of the known names.
    Global(Global),
}

impl Value<'_> {
    /// The bytes of a string or byte string.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Value::Str(text) => Some(text.as_bytes()),
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// A numpy array of `uint8`, by rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// The length of every dimension; their product is the number of bytes.
    shape: Box<[usize]>,
    /// A [`Value::Bytes`].
    data: Id,
}

/// The names that may occur; nothing behind them is ever called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// `numpy.core.multiarray._reconstruct`: makes an empty array.
    Reconstruct,
    /// `numpy.core.numeric._frombuffer`: makes an array of bytes (protocol 5).
    FromBuffer,
    /// `numpy.ndarray`.
    Ndarray,
    /// `numpy.dtype`.
    Dtype,
    /// `_codecs.encode`: how Python 3 writes bytes in protocols 0 to 2.
    Encode,
}

impl Global {
    fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                Self::Reconstruct
            }
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Self::FromBuffer,
            ("numpy", "ndarray") => Self::Ndarray,
            ("numpy", "dtype") => Self::Dtype,
            ("_codecs", "encode") => Self::Encode,
            _ => return None,
        })
    }
}

/// A pickle that was read.
#[derive(Clone, Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// The value that Python's `load` would return.
    pub fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    /// The value behind an id of this pickle; of another one it may be any, or `None`.
    pub fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id.0 as usize).unwrap_or(&Value::None)
    }

    /// What a dictionary holds under a name, be it a string or a byte string.
    pub fn entry(&self, dict: &Value<'a>, name: &str) -> Option<&Value<'a>> {
        let Value::Dict(entries) = dict else { return None };
        let named = |id: Id| self.get(id).text() == Some(name.as_bytes());
        entries.iter().rev().find(|(key, _)| named(*key)).map(|(_, value)| self.get(*value))
    }

    /// The elements of a list or tuple.
    pub fn elements(&self, value: &Value<'a>) -> Option<impl ExactSizeIterator<Item = &Value<'a>>> {
        match value {
            Value::List(ids) | Value::Tuple(ids) => Some(ids.iter().map(|&id| self.get(id))),
            _ => None,
        }
    }

    /// The shape of an array and its bytes, by rows.
    pub fn array<'v>(&'v self, value: &'v Value<'a>) -> Option<(&'v [usize], &'v [u8])> {
        let Value::Array(Some(array)) = value else { return None };
        let Value::Bytes(bytes) = self.get(array.data) else { return None };
        Some((&array.shape, bytes))
    }
}

/// Reads a pickle of protocol 0 to 5; errors name `path`, the position in it and the opcode or name
/// that is not read.
pub fn parse<'a>(bytes: &'a [u8], path: &Path) -> Result<Pickle<'a>, DataError> {
    let mut machine = Machine {
        input: Input { bytes, at: 0 },
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        encoded: 0,
    };
    machine.run().map_err(|(at, reason)| {
        DataError::malformed(path, format!("not a pickle of image data: byte {at}: {reason}"))
    })
}

/// What is left to read, from `at` on.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let taken = taken.ok_or_else(|| {
            format!("{count} more bytes were announced, but the file has {}", rest.len())
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn number<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], String> {
        let mut number = [0; BYTES];
        number.copy_from_slice(self.take(BYTES as u64)?);
        Ok(number)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.number().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.number().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.number().map(u64::from_le_bytes)
    }

    /// Up to the next line feed, which is taken too.
    fn line(&mut self) -> Result<&'a [u8], String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = end.and_then(|end| rest.get(..end)).ok_or("a line without an end")?;
        self.at += line.len() + 1;
        Ok(line)
    }

    fn text_line(&mut self) -> Result<&'a str, String> {
        self.line().and_then(utf8).map(str::trim_ascii)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "text that is not UTF-8".to_owned())
}

/// The stack machine that every pickle is written for.
struct Machine<'a> {
    input: Input<'a>,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks that are open.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Bytes that were decoded from strings, which may be the same string each time.
    encoded: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Pickle<'a>, (usize, String)> {
        loop {
            let at = self.input.at;
            let opcode = self.input.byte().map_err(|_| (at, "the end is missing".to_owned()))?;
            if opcode == b'.' {
                let root = self.pop().map_err(|reason| (at, reason))?;
                let rest = self.input.bytes.len() - self.input.at;
                if rest > 0 {
                    return Err((self.input.at, format!("{rest} bytes follow the end")));
                }
                return Ok(Pickle { values: std::mem::take(&mut self.values), root });
            }
            self.step(opcode).map_err(|reason| (at, reason))?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            0x80 => {
                let protocol = self.input.byte()?;
                match protocol {
                    0..=5 => Ok(()),
                    _ => Err(format!("protocol {protocol}; only 0 to 5 are read")),
                }
            }
            // The length of a frame says nothing that the opcodes in it do not.
            0x95 => self.input.u64().map(|_| ()),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(|_| ()),
            b'1' => self.pop_mark().map(|_| ()),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }

            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'I' => match self.input.text_line()? {
                "00" => self.push(Value::Bool(false)),
                "01" => self.push(Value::Bool(true)),
                text => self.push_integer(text),
            },
            b'L' => {
                let text = self.input.text_line()?;
                self.push_integer(text.strip_suffix('L').unwrap_or(text))
            }
            b'J' => {
                let number = i32::from_le_bytes(self.input.number()?);
                self.push(Value::Int(i64::from(number)))
            }
            b'K' => {
                let number = self.input.byte()?;
                self.push(Value::Int(i64::from(number)))
            }
            b'M' => {
                let number = u16::from_le_bytes(self.input.number()?);
                self.push(Value::Int(i64::from(number)))
            }
            0x8a => {
                let length = u64::from(self.input.byte()?);
                self.push_long(length)
            }
            0x8b => {
                let length = u64::from(self.input.u32()?);
                self.push_long(length)
            }
            b'F' => {
                let text = self.input.text_line()?;
                let number = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
                self.push(Value::Float(number))
            }
            b'G' => {
                let number = f64::from_be_bytes(self.input.number()?);
                self.push(Value::Float(number))
            }

            b'S' => {
                let line = self.input.line()?;
                self.push(Value::Bytes(unquote(line)?))
            }
            b'V' => {
                let line = self.input.line()?;
                self.push(Value::Str(raw_unicode(line)?.into()))
            }
            // Strings of Python 2, bytes, and byte arrays, with lengths of one, four or eight
            // bytes.
            b'U' | b'C' => {
                let length = u64::from(self.input.byte()?);
                self.push_bytes(length)
            }
            b'T' | b'B' => {
                let length = u64::from(self.input.u32()?);
                self.push_bytes(length)
            }
            0x8e | 0x96 => {
                let length = self.input.u64()?;
                self.push_bytes(length)
            }
            0x8c => {
                let length = u64::from(self.input.byte()?);
                self.push_text(length)
            }
            b'X' => {
                let length = u64::from(self.input.u32()?);
                self.push_text(length)
            }
            0x8d => {
                let length = self.input.u64()?;
                self.push_text(length)
            }

            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b')' => self.push(Value::Tuple(Vec::new())),
            b'l' => {
                let elements = self.pop_mark()?;
                self.push(Value::List(elements))
            }
            b't' => {
                let elements = self.pop_mark()?;
                self.push(Value::Tuple(elements))
            }
            0x85..=0x87 => {
                let mut elements = Vec::with_capacity(3);
                for _ in 0..opcode - 0x84 {
                    elements.insert(0, self.pop()?);
                }
                self.push(Value::Tuple(elements))
            }
            b'd' => {
                let entries = pairs(&self.pop_mark()?)?;
                self.push(Value::Dict(entries))
            }
            b'a' => {
                let element = self.pop()?;
                self.append(&[element])
            }
            b'e' => {
                let elements = self.pop_mark()?;
                self.append(&elements)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)
            }

            b'p' => {
                let text = self.input.text_line()?;
                let place = text.parse().map_err(|_| format!("memo {text:?} is not a number"))?;
                self.memorise(place)
            }
            b'q' => {
                let place = u32::from(self.input.byte()?);
                self.memorise(place)
            }
            b'r' => {
                let place = self.input.u32()?;
                self.memorise(place)
            }
            0x94 => self.memorise(self.memo.len() as u32),
            b'g' => {
                let text = self.input.text_line()?;
                let place = text.parse().map_err(|_| format!("memo {text:?} is not a number"))?;
                self.recall(place)
            }
            b'h' => {
                let place = u32::from(self.input.byte()?);
                self.recall(place)
            }
            b'j' => {
                let place = self.input.u32()?;
                self.recall(place)
            }

            b'c' => {
                let module = self.input.text_line()?;
                let name = self.input.text_line()?;
                self.push_global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.get(module)?.clone(), self.get(name)?.clone()) {
                    (Value::Str(module), Value::Str(name)) => self.push_global(&module, &name),
                    _ => Err("a global whose name is not a string".into()),
                }
            }
            b'R' => self.reduce(),
            b'b' => self.build(),
            _ => Err(refusal(opcode)),
        }
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        if self.values.len() >= MAX_VALUES {
            return Err(format!("more than the {MAX_VALUES} values allowed"));
        }
        self.stack.push(Id(self.values.len() as u32));
        self.values.push(value);
        Ok(())
    }

    fn push_integer(&mut self, text: &str) -> Result<(), String> {
        let number = text.parse().map_err(|_| format!("{text:?} is not an integer of 64 bits"))?;
        self.push(Value::Int(number))
    }

    /// An integer in as few little-endian bytes as its sign allows.
    fn push_long(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.input.take(length)?;
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut number = [if negative { 0xff } else { 0 }; 8];
        let low = number
            .get_mut(..bytes.len())
            .ok_or_else(|| format!("an integer of {} bytes; at most 8 are read", bytes.len()))?;
        low.copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(number)))
    }

    fn push_bytes(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.input.take(length)?;
        self.push(Value::Bytes(bytes.into()))
    }

    fn push_text(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.input.take(length)?;
        self.push(Value::Str(utf8(bytes)?.into()))
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let global = Global::of(module, name).ok_or_else(|| {
            format!("asks for {module}.{name}; only arrays of numpy are read, and nothing is run")
        })?;
        self.push(Value::Global(global))
    }

    /// The height below which nothing may be taken while a mark is open.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self) -> Result<Id, String> {
        let above = self.stack.get(self.floor()..).unwrap_or_default();
        above.last().copied().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("no mark was set")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn get(&self, id: Id) -> Result<&Value<'a>, String> {
        self.values.get(id.0 as usize).ok_or_else(|| "a value that does not exist".into())
    }

    fn get_mut(&mut self, id: Id) -> Result<&mut Value<'a>, String> {
        self.values.get_mut(id.0 as usize).ok_or_else(|| "a value that does not exist".into())
    }

    fn append(&mut self, elements: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        match self.get_mut(top)? {
            Value::List(list) => {
                list.extend(elements);
                Ok(())
            }
            _ => Err("appends to what is not a list".into()),
        }
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        match self.get_mut(top)? {
            Value::Dict(entries) => {
                entries.extend(pairs(items)?);
                Ok(())
            }
            _ => Err("sets an item of what is not a dict".into()),
        }
    }

    fn memorise(&mut self, place: u32) -> Result<(), String> {
        if self.memo.len() >= MAX_VALUES {
            return Err(format!("more than the {MAX_VALUES} memo entries allowed"));
        }
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), String> {
        let id = self.memo.get(&place).ok_or_else(|| format!("nothing is in memo {place}"))?;
        self.stack.push(*id);
        Ok(())
    }

    /// `function(*arguments)`, for the functions that mean an array.
    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let &Value::Global(function) = self.get(function)? else {
            return Err("calls what is not a global".into());
        };
        let arguments = match self.get(arguments)? {
            Value::Tuple(ids) if ids.len() <= 4 => ids.as_slice(),
            _ => return Err(format!("{function:?} with other arguments than numpy gives it")),
        };
        let values = arguments.iter().map(|&id| self.get(id)).collect::<Result<Vec<_>, _>>()?;
        let made = match (function, values.as_slice()) {
            (Global::Reconstruct, [Value::Global(Global::Ndarray), Value::Tuple(_), _]) => {
                Value::Array(None)
            }
            (Global::FromBuffer, [Value::Bytes(_), Value::Uint8, Value::Tuple(shape), order]) => {
                if **order != Value::Str("C".into()) {
                    return Err("an array that is not stored by rows".into());
                }
                self.array(shape, arguments[0])?
            }
            (Global::Dtype, [Value::Str(name), ..]) => element_type(name.as_bytes())?,
            (Global::Dtype, [Value::Bytes(name), ..]) => element_type(name)?,
            (Global::Encode, [Value::Str(text), Value::Str(_)]) => {
                if self.encoded + text.chars().count() > self.input.bytes.len() {
                    return Err("encodes the same string again and again".into());
                }
                let bytes = text.chars().map(|letter| u8::try_from(letter).ok());
                let bytes: Option<Vec<u8>> = bytes.collect();
                Value::Bytes(bytes.ok_or("bytes above 255")?.into())
            }
            _ => return Err(format!("{function:?} with other arguments than numpy gives it")),
        };
        if let (Global::Encode, Value::Bytes(bytes)) = (function, &made) {
            self.encoded += bytes.len();
        }
        self.push(made)
    }

    /// `object.__setstate__(state)`, which fills an array; the state of a type says nothing new.
    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        let target = self.top()?;
        let made = match (self.get(target)?, self.get(state)?) {
            (Value::Uint8, Value::Tuple(_)) => return Ok(()),
            (Value::Array(None), Value::Tuple(state)) => {
                let &[version, shape, kind, by_columns, data] = state.as_slice() else {
                    return Err(format!("an array's state of {} parts instead of 5", state.len()));
                };
                match (self.get(version)?, self.get(shape)?, self.get(kind)?) {
                    (Value::Int(_), Value::Tuple(shape), Value::Uint8) => {
                        match self.get(by_columns)? {
                            Value::Bool(false) | Value::Int(0) => self.array(shape, data)?,
                            _ => return Err("an array that is not stored by rows".into()),
                        }
                    }
                    _ => return Err("an array whose state is not that of uint8".into()),
                }
            }
            _ => return Err("fills what is not a new array".into()),
        };
        *self.get_mut(target)? = made;
        Ok(())
    }

    fn array(&self, shape: &[Id], data: Id) -> Result<Value<'a>, String> {
        if shape.len() > MAX_DIMENSIONS {
            return Err(format!("an array of {} dimensions", shape.len()));
        }
        let side = |&id: &Id| match self.get(id)? {
            &Value::Int(side) => usize::try_from(side).map_err(|_| "a negative side".to_owned()),
            _ => Err("an array whose shape is not of integers".to_owned()),
        };
        let shape: Box<[usize]> = shape.iter().map(side).collect::<Result<_, _>>()?;
        let Value::Bytes(bytes) = self.get(data)? else {
            return Err("an array whose content is not bytes".into());
        };
        let expected = shape.iter().try_fold(1_usize, |product, &side| product.checked_mul(side));
        if expected != Some(bytes.len()) {
            return Err(format!("an array of shape {shape:?} with {} bytes", bytes.len()));
        }
        Ok(Value::Array(Some(Array { shape, data })))
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    match items.as_chunks() {
        (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        _ => Err("a key without a value".into()),
    }
}

fn element_type(name: &[u8]) -> Result<Value<'static>, String> {
    match name {
        b"u1" | b"|u1" | b"B" | b"uint8" => Ok(Value::Uint8),
        _ => Err(format!(
            "an array of numpy type {:?}; only u1 (uint8) is read",
            String::from_utf8_lossy(name)
        )),
    }
}

/// The string behind its representation in Python 2.
fn unquote(line: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let ([b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"']) = line.trim_ascii() else {
        return Err("a string without quotes".into());
    };
    if !inner.contains(&b'\\') {
        return Ok(inner.into());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    loop {
        (rest, bytes) = match rest {
            [] => return Ok(bytes.into()),
            [b'\\', b'x', high, low, after @ ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) =
                    digit(*high).zip(digit(*low)).ok_or("a \\x without two digits")?;
                bytes.push((16 * high + low) as u8);
                (after, bytes)
            }
            [b'\\', letter, after @ ..] => {
                bytes.push(match letter {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'\\' | b'\'' | b'"' => *letter,
                    _ => return Err(format!("an escape \\{}", letter.escape_ascii())),
                });
                (after, bytes)
            }
            [byte, after @ ..] => {
                bytes.push(*byte);
                (after, bytes)
            }
        };
    }
}

/// Latin-1, except that `\uXXXX` and `\UXXXXXXXX` stand for any character.
fn raw_unicode(line: &[u8]) -> Result<String, String> {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    loop {
        let digits = match rest {
            [] => return Ok(text),
            [b'\\', b'u', ..] => 4,
            [b'\\', b'U', ..] => 8,
            [byte, after @ ..] => {
                text.push(char::from(*byte));
                rest = after;
                continue;
            }
        };
        let code = rest.get(2..2 + digits).and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u32::from_str_radix(code, 16).ok());
        text.push(code.and_then(char::from_u32).ok_or("a \\u that is no character")?);
        rest = rest.get(2 + digits..).unwrap_or_default();
    }
}

fn refusal(opcode: u8) -> String {
    let name = match opcode {
        b'P' => "PERSID",
        b'Q' => "BINPERSID",
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x92 => "NEWOBJ_EX",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => return format!("0x{opcode:02x} is no opcode of a pickle"),
    };
    format!("opcode {name} is not read: it makes objects other than plain data")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Pickle<'_>, String> {
        parse(bytes, Path::new("some.pkl")).map_err(|error| error.to_string())
    }

    /// What a pickle holds, written as Python would.
    fn shown(bytes: &[u8]) -> String {
        fn show(pickle: &Pickle<'_>, value: &Value<'_>) -> String {
            let all = |ids: &[Id]| -> Vec<String> {
                ids.iter().map(|&id| show(pickle, pickle.get(id))).collect()
            };
            match value {
                Value::None => "None".into(),
                Value::Bool(true) => "True".into(),
                Value::Bool(false) => "False".into(),
                Value::Int(number) => number.to_string(),
                Value::Float(number) => format!("{number:?}"),
                Value::Str(text) => format!("'{text}'"),
                Value::Bytes(bytes) => format!("b'{}'", bytes.escape_ascii()),
                Value::List(ids) => format!("[{}]", all(ids).join(", ")),
                Value::Tuple(ids) => format!("({})", all(ids).join(", ")),
                Value::Dict(entries) => {
                    let entries = entries.iter().map(|&(key, value)| all(&[key, value]).join(": "));
                    format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
                }
                Value::Array(_) => format!("{:?}", pickle.array(value)),
                Value::Uint8 | Value::Global(_) => format!("{value:?}"),
            }
        }
        match read(bytes) {
            Ok(pickle) => show(&pickle, pickle.root()),
            Err(error) => error,
        }
    }

    #[test]
    fn every_protocol_gives_what_python_wrote() {
        let written = [
            &include_bytes!("../tests/fixtures/pickle-0.pkl")[..],
            include_bytes!("../tests/fixtures/pickle-1.pkl"),
            include_bytes!("../tests/fixtures/pickle-2.pkl"),
            include_bytes!("../tests/fixtures/pickle-3.pkl"),
            include_bytes!("../tests/fixtures/pickle-4.pkl"),
            include_bytes!("../tests/fixtures/pickle-5.pkl"),
        ];
        let expected = [
            "{'numbers': [1, -2, 300, 70000, 1099511627776, -1], ",
            "'others': (None, True, False, 1.5, 'é\n\\x', b'\\x00\\xff'), ",
            "'tuples': ((), (1), (1, 2), (1, 2, 3), (1, 2, 3, 4)), ",
            "'array': Some(([1, 3], [1, 2, 200]))}",
        ]
        .concat();
        for (protocol, bytes) in written.iter().enumerate() {
            assert_eq!(shown(bytes), expected, "protocol {protocol}");
            // A cut pickle is never taken for a whole one.
            for length in 0..bytes.len() {
                assert!(read(&bytes[..length]).is_err(), "{length} bytes of protocol {protocol}");
            }
        }
    }

    #[test]
    fn strings_of_python_2_are_bytes_and_found_by_name() {
        let bytes = b"(dp0\nS'data'\np1\nS'it\\'s\\\\ \\xff\\n'\nsS\"labels\"\n(lp2\nI3\naI-1\nas.";
        let pickle = read(bytes).unwrap();
        let data = pickle.entry(pickle.root(), "data").unwrap();
        assert_eq!(data.text().unwrap(), b"it's\\ \xff\n");
        let labels = pickle.elements(pickle.entry(pickle.root(), "labels").unwrap()).unwrap();
        assert_eq!(labels.collect::<Vec<_>>(), [&Value::Int(3), &Value::Int(-1)]);
        assert_eq!(pickle.entry(pickle.root(), "names"), None);
        assert_eq!(shown(b"\x80\x02}q\x01(U\x01aK\x01U\x01aK\x02u."), "{b'a': 1, b'a': 2}");
        let pickle = read(b"\x80\x02}q\x01(U\x01aK\x01U\x01aK\x02u.").unwrap();
        assert_eq!(pickle.entry(pickle.root(), "a"), Some(&Value::Int(2)));
        assert_eq!(shown(b"(K\x01N200(N1l."), "[1]");
    }

    #[test]
    fn what_would_run_code_is_refused_by_name() {
        for (bytes, named) in [
            (&b"cos\nsystem\n(S'id'\ntR."[..], "byte 0: asks for os.system; only arrays of numpy"),
            (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "byte 18: asks for builtins.eval"),
            (b"cnumpy\nload\n.", "asks for numpy.load"),
            (b"(S'id'\nios\nsystem\n.", "opcode INST"),
            (b"(K\x01o.", "opcode OBJ"),
            (b"))\x81.", "opcode NEWOBJ"),
            (b"))}\x92.", "opcode NEWOBJ_EX"),
            (b"K\x01Q.", "opcode BINPERSID"),
            (b"Pid\n.", "opcode PERSID"),
            (b"\x82\x01.", "opcode EXT1"),
            (b"\x8f.", "opcode EMPTY_SET"),
            (b"\x97.", "opcode NEXT_BUFFER"),
            (b"\xff", "0xff is no opcode of a pickle"),
            (b"\x80\x06N.", "protocol 6; only 0 to 5"),
            (b"cnumpy\ndtype\n(S'i8'\nK\x00K\x01tR.", "numpy type \"i8\"; only u1 (uint8) is read"),
            (b"cnumpy\ndtype\n(S'O'\nK\x00K\x01tR.", "numpy type \"O\""),
            (b"cnumpy\nndarray\n)R.", "Ndarray with other arguments than numpy gives it"),
            (b"K\x01)R.", "calls what is not a global"),
            (b"K\x01)b.", "fills what is not a new array"),
        ] {
            let message = read(bytes).unwrap_err();
            assert!(
                message.starts_with("some.pkl: not a pickle of image data: byte "),
                "{message}"
            );
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn damaged_pickles_are_refused_with_the_place() {
        for (bytes, named) in [
            (&b""[..], "byte 0: the end is missing"),
            (b"K\x01", "byte 2: the end is missing"),
            (b".", "byte 0: the stack is empty"),
            (b"(.", "byte 1: the stack is empty"),
            (b"K\x01(0.", "byte 3: the stack is empty"),
            (b"t.", "no mark was set"),
            (b"N.N", "byte 2: 1 bytes follow the end"),
            (b"T\xff\xff\xff\xff.", "4294967295 more bytes were announced, but the file has 1"),
            (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "18446744073709551615 more bytes"),
            (b"\x8a\x09123456789.", "an integer of 9 bytes; at most 8 are read"),
            (b"I12345678901234567890\n.", "is not an integer of 64 bits"),
            (b"X\x01\0\0\0\xff.", "text that is not UTF-8"),
            (b"h\x07.", "nothing is in memo 7"),
            (b"NK\x01K\x01s.", "sets an item of what is not a dict"),
            (b"}(K\x01u.", "a key without a value"),
            (b"NNa.", "appends to what is not a list"),
            (b"S'x\n.", "a string without quotes"),
            (b"V\\ud800\n.", "a \\u that is no character"),
            (b"F1.x\n.", "\"1.x\" is not a number"),
            (b"N0", "byte 2: the end is missing"),
        ] {
            let message = read(bytes).unwrap_err();
            assert!(message.contains(named), "{message}");
        }
    }

    /// `numpy.ndarray` of a shape, with content and type given as pickle code.
    fn array(shape: &[u8], data: &[u8]) -> Vec<u8> {
        [
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tS'b'\ntR(K\x01(",
            shape,
            b"tcnumpy\ndtype\n(S'u1'\nK\0K\x01tR(K\x03S'|'\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tbI00\n",
            data,
            b"tb.",
        ]
        .concat()
    }

    #[test]
    fn an_array_must_hold_as_many_bytes_as_its_shape_says() {
        assert_eq!(shown(&array(b"K\x02K\x01", b"S'ab'\n")), "Some(([2, 1], [97, 98]))");
        for (bytes, named) in [
            (array(b"K\x02K\x02", b"S'abc'\n"), "an array of shape [2, 2] with 3 bytes"),
            (array(b"J\xff\xff\xff\xff", b"S''\n"), "a negative side"),
            (array(b"N", b"S''\n"), "shape is not of integers"),
            (array(&b"J\xff\xff\xff\x7f".repeat(9), b"S''\n"), "with 0 bytes"),
            (array(&b"K\x01".repeat(33), b"S'x'\n"), "an array of 33 dimensions"),
            (array(b"K\x01", b"N"), "content is not bytes"),
        ] {
            let message = read(&bytes).unwrap_err();
            assert!(message.contains(named), "{message}");
        }
        let by_columns = String::from_utf8_lossy(&array(b"K\x01", b"S'x'\n")).replace("I00", "I01");
        assert!(read(by_columns.as_bytes()).is_err());
    }

    #[test]
    fn hostile_pickles_take_neither_stack_nor_memory() {
        // Nested a million deep, and a list within itself.
        let deep = [&b"]".repeat(MAX_VALUES)[..], &b"a".repeat(MAX_VALUES - 1), b"."].concat();
        let pickle = read(&deep).unwrap();
        assert!(matches!(pickle.root(), Value::List(elements) if elements.len() == 1));
        drop(pickle);
        let within_itself = read(b"]q\x00h\x00a.").unwrap();
        let element = within_itself.elements(within_itself.root()).unwrap().next().unwrap();
        assert_eq!(element, within_itself.root());

        let many = [&b"N".repeat(MAX_VALUES + 1)[..], b"."].concat();
        assert!(read(&many).unwrap_err().contains("more than the 1048576 values allowed"));
        let memo = [&b"N"[..], &b"\x94".repeat(MAX_VALUES + 1), b"."].concat();
        assert!(read(&memo).unwrap_err().contains("more than the 1048576 memo entries allowed"));
        let call = b"c_codecs\nencode\n(h\x00Vlatin1\ntR0";
        let again = [&b"Vabcdefghijklmnopqrstuvwxyz\np0\n"[..], &call.repeat(1000), b"."].concat();
        assert!(read(&again).is_ok());
        let long = format!("V{}\np0\n", "x".repeat(100_000));
        let again = [long.as_bytes(), &call.repeat(1000), b"."].concat();
        assert!(read(&again).unwrap_err().contains("encodes the same string again and again"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            if let Err(message) = read(&bytes) {
                prop_assert!(message.starts_with("some.pkl: not a pickle of image data: byte "));
            }
        }

        /// Random opcodes get further than random bytes.
        #[test]
        fn any_program_is_read_or_refused(
            parts in prop::collection::vec(prop::sample::select(vec![
                &b"("[..], b".", b"0", b"1", b"2", b"N", b"K\x01", b"K\0", b"U\x01a", b"U\x02u1",
                b"X\x06\0\0\0latin1", b"]", b"}", b")", b"l", b"t", b"\x85", b"\x87", b"d", b"a",
                b"e", b"s", b"u", b"q\0", b"h\0", b"\x94", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n",
                b"c_codecs\nencode\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"R", b"b",
                b"cnumpy.core.numeric\n_frombuffer\n", b"\x8c\x01C", b"\x93", b"I01\n",
            ]), 0..60),
        ) {
            let _ = read(&parts.concat());
        }

        #[test]
        fn a_damaged_array_is_read_or_refused(
            at in 0..200_usize, byte in any::<u8>(), cut in 0..250_usize,
        ) {
            let mut bytes = array(b"K\x02K\x02", b"S'abcd'\n");
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(cut);
            let _ = read(&bytes);
        }
    }
}
