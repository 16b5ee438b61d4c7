//! The pickles inside of PyTorch's checkpoints, read without running anything.
//!
//! A pickle is a program that Python runs. This machine knows the opcodes that `torch.save` writes
//! and takes the calls that rebuild tensors, parameters and dictionaries as data. Every other call
//! (of `argparse.Namespace`, of a Lightning object, of `os.system`) becomes an opaque value that has
//! only the name of what would have been called: harmless beside the tensors, and an error where the
//! way to the tensors leads through it.
//!
//! Values lie in one flat table and refer to each other by [`Id`], so neither deep nesting nor a list
//! that contains itself leads to recursion, and text is lent from the input.

use std::collections::HashMap;

use tch::Kind;

/// More values than these are refused; a checkpoint with its optimiser has some 100,000.
const MAX_VALUES: usize = 1 << 22;
/// More dimensions than these are refused.
const MAX_DIMENSIONS: usize = 16;

/// A value of a [`Pickle`], by its place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(u32);

/// What a pickle can hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    None,
    Bool,
    Int(i64),
    /// An integer of more than 64 bits, little-endian.
    Long(&'a [u8]),
    Float,
    Str(&'a str),
    Bytes,
    /// A list, tuple or set.
    List(Vec<Id>),
    /// Keys with their values, in the order they were set; of equal keys the last counts.
    Dict(Vec<(Id, Id)>),
    /// The name of a class or function.
    Global(Global<'a>),
    Storage(Storage<'a>),
    Tensor(TensorPart),
    /// What a call of this name would have made.
    Opaque(Global<'a>),
}

/// A module and a name in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Global<'a> {
    module: &'a str,
    name: &'a str,
}

impl std::fmt::Display for Global<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.module, self.name)
    }
}

/// Numbers that are kept elsewhere in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Storage<'a> {
    pub(crate) kind: Kind,
    pub(crate) key: &'a str,
    /// How many numbers.
    pub(crate) length: u64,
}

/// A part of a storage, seen as a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorPart {
    pub(crate) storage: Id,
    pub(crate) offset: u64,
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

/// A pickle that was read.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
    /// Bytes of input that it took.
    pub(crate) length: usize,
}

impl<'a> Pickle<'a> {
    pub(crate) fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    pub(crate) fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id.0 as usize).unwrap_or(&Value::None)
    }

    /// All values.
    pub(crate) fn values(&self) -> &[Value<'a>] {
        &self.values
    }

    /// The entries of a dictionary whose keys are text; of equal keys the last counts.
    pub(crate) fn entries(&self, value: &Value<'a>) -> Vec<(&'a str, &Value<'a>)> {
        let Value::Dict(entries) = value else { return Vec::new() };
        let mut places = HashMap::new();
        let mut named: Vec<(&str, &Value<'_>)> = Vec::new();
        for &(key, value) in entries {
            let &Value::Str(key) = self.get(key) else { continue };
            let place = *places.entry(key).or_insert(named.len());
            match named.get_mut(place) {
                Some(entry) => entry.1 = self.get(value),
                None => named.push((key, self.get(value))),
            }
        }
        named
    }
}

/// Reads the pickle at the beginning of `bytes`, of protocol 2 to 5.
pub(crate) fn parse(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    let mut machine = Machine {
        input: Input { bytes, at: 0 },
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let at = machine.input.at;
        let in_place = |reason: String| format!("byte {at} of the pickle: {reason}");
        let opcode = machine.input.byte().map_err(|_| in_place("the end is missing".to_owned()))?;
        if opcode == b'.' {
            let root = machine.pop().map_err(in_place)?;
            return Ok(Pickle { values: machine.values, root, length: machine.input.at });
        }
        machine.step(opcode).map_err(in_place)?;
    }
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
            format!("{count} more bytes were announced, but there are {}", rest.len())
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

    fn text(&mut self, length: u64) -> Result<&'a str, String> {
        self.take(length).and_then(utf8)
    }

    /// Up to the next line feed, which is taken too.
    fn line(&mut self) -> Result<&'a str, String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or("a line without an end")?;
        let line = self.take(end as u64)?;
        self.at += 1;
        utf8(line)
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
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            0x80 => match self.input.byte()? {
                2..=5 => Ok(()),
                protocol => Err(format!("protocol {protocol}; 2 to 5 are read")),
            },
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
            0x88 | 0x89 => self.push(Value::Bool),
            b'J' => {
                let number = i32::from_le_bytes(self.input.number()?);
                self.push(Value::Int(number.into()))
            }
            b'K' => {
                let number = self.input.byte()?;
                self.push(Value::Int(number.into()))
            }
            b'M' => {
                let number = u16::from_le_bytes(self.input.number()?);
                self.push(Value::Int(number.into()))
            }
            0x8a => {
                let length = self.input.byte()?;
                self.push_long(length.into())
            }
            0x8b => {
                let length = self.input.u32()?;
                self.push_long(length.into())
            }
            b'G' => {
                self.input.take(8)?;
                self.push(Value::Float)
            }

            // Text and bytes, with lengths of one, four or eight bytes.
            b'U' | b'C' => {
                let length = self.input.byte()?;
                self.push_bytes(opcode, length.into())
            }
            b'T' | b'B' => {
                let length = self.input.u32()?;
                self.push_bytes(opcode, length.into())
            }
            0x8e | 0x96 => {
                let length = self.input.u64()?;
                self.push_bytes(opcode, length)
            }
            0x8c => {
                let length = self.input.byte()?;
                let text = self.input.text(length.into())?;
                self.push(Value::Str(text))
            }
            b'X' => {
                let length = self.input.u32()?;
                let text = self.input.text(length.into())?;
                self.push(Value::Str(text))
            }
            0x8d => {
                let length = self.input.u64()?;
                let text = self.input.text(length)?;
                self.push(Value::Str(text))
            }

            b']' | b')' | 0x8f => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b'l' | b't' | 0x91 => {
                let elements = self.pop_mark()?;
                self.push(Value::List(elements))
            }
            0x85..=0x87 => {
                let mut elements = Vec::with_capacity(3);
                for _ in 0..opcode - 0x84 {
                    elements.insert(0, self.pop()?);
                }
                self.push(Value::List(elements))
            }
            b'd' => {
                let entries = pairs(&self.pop_mark()?)?;
                self.push(Value::Dict(entries))
            }
            b'a' => {
                let element = self.pop()?;
                self.append(&[element])
            }
            b'e' | 0x90 => {
                let elements = self.pop_mark()?;
                self.append(&elements)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)
            }

            b'q' => {
                let place = self.input.byte()?;
                self.memorise(place.into())
            }
            b'r' => {
                let place = self.input.u32()?;
                self.memorise(place)
            }
            0x94 => self.memorise(self.memo.len() as u32),
            b'h' => {
                let place = self.input.byte()?;
                self.recall(place.into())
            }
            b'j' => {
                let place = self.input.u32()?;
                self.recall(place)
            }

            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.push(Value::Global(Global { module, name }))
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.get(module), self.get(name)) {
                    (&Value::Str(module), &Value::Str(name)) => {
                        self.push(Value::Global(Global { module, name }))
                    }
                    _ => Err("a global whose name is not text".to_owned()),
                }
            }
            b'Q' => self.storage(),
            // Calls, in all the forms that pickles have had for them.
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)
            }
            0x92 => {
                let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(class, arguments)
            }
            b'i' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.pop_mark()?;
                self.push(Value::Opaque(Global { module, name }))
            }
            b'o' => match self.pop_mark()?.first().map(|&class| self.get(class)) {
                Some(&(Value::Global(global) | Value::Opaque(global))) => {
                    self.push(Value::Opaque(global))
                }
                _ => Err("makes an object of what is not a class".to_owned()),
            },
            b'b' => self.build(),
            _ => Err(format!("opcode {opcode:#04x}, which torch.save does not write")),
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

    /// An integer in as few little-endian bytes as its sign allows.
    fn push_long(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.input.take(length)?;
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut number = [if negative { 0xff } else { 0 }; 8];
        match number.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                self.push(Value::Int(i64::from_le_bytes(number)))
            }
            None => self.push(Value::Long(bytes)),
        }
    }

    /// Strings of Python 2 are text where they can be: names of tensors in old checkpoints.
    fn push_bytes(&mut self, opcode: u8, length: u64) -> Result<(), String> {
        let bytes = self.input.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) if matches!(opcode, b'U' | b'T') => self.push(Value::Str(text)),
            _ => self.push(Value::Bytes),
        }
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

    fn get(&self, id: Id) -> &Value<'a> {
        self.values.get(id.0 as usize).unwrap_or(&Value::None)
    }

    fn top_value(&mut self) -> Result<&mut Value<'a>, String> {
        let top = self.top()?;
        self.values.get_mut(top.0 as usize).ok_or_else(|| "a value that does not exist".to_owned())
    }

    fn append(&mut self, elements: &[Id]) -> Result<(), String> {
        match self.top_value()? {
            Value::List(list) => {
                list.extend(elements);
                Ok(())
            }
            Value::Opaque(_) => Ok(()),
            _ => Err("appends to what is not a list".to_owned()),
        }
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let items = pairs(items)?;
        match self.top_value()? {
            Value::Dict(entries) => {
                entries.extend(items);
                Ok(())
            }
            Value::Opaque(_) => Ok(()),
            _ => Err("sets an item of what is not a dict".to_owned()),
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

    /// `("storage", type, key, device, length)`, by which torch refers to numbers outside.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Value::List(parts) = self.get(id) else {
            return Err("a reference that is not torch's".to_owned());
        };
        let parts: Vec<&Value<'a>> = parts.iter().take(7).map(|&part| self.get(part)).collect();
        let (class, key, length) = match parts.as_slice() {
            [
                Value::Str("storage"),
                Value::Global(class),
                Value::Str(key),
                _,
                Value::Int(length),
            ]
            | [
                Value::Str("storage"),
                Value::Global(class),
                Value::Str(key),
                _,
                Value::Int(length),
                Value::None,
            ] => (*class, *key, *length),
            _ => return Err("a reference that is not torch's".to_owned()),
        };
        let length = u64::try_from(length).map_err(|_| "a storage of negative length")?;
        match storage_kind(class) {
            Some(kind) => self.push(Value::Storage(Storage { kind, key, length })),
            None => self.push(Value::Opaque(class)),
        }
    }

    /// `function(*arguments)`: taken as data where it rebuilds what weights consist of.
    fn call(&mut self, function: Id, arguments: Id) -> Result<(), String> {
        let global = match self.get(function) {
            Value::Global(global) | Value::Opaque(global) => *global,
            _ => return Err("calls what is not a global".to_owned()),
        };
        let opaque = matches!(self.get(function), Value::Opaque(_));
        let Value::List(arguments) = self.get(arguments) else {
            return Err(format!("calls {global} without a tuple of arguments"));
        };
        let wrong = || format!("calls {global} with other arguments than torch gives it");
        let made = match (global.module, global.name) {
            _ if opaque => Value::Opaque(global),
            ("collections", "OrderedDict") => match arguments.as_slice() {
                [] => Value::Dict(Vec::new()),
                &[items] => Value::Dict(self.listed_pairs(items).ok_or_else(wrong)?),
                _ => return Err(wrong()),
            },
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
                match arguments.as_slice() {
                    &[storage, offset, shape, strides, ..] => {
                        self.tensor(storage, offset, shape, strides).ok_or_else(wrong)?
                    }
                    _ => return Err(wrong()),
                }
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                match arguments.first().map(|&tensor| self.get(tensor)) {
                    Some(value @ (Value::Tensor(_) | Value::Opaque(_))) => value.clone(),
                    _ => return Err(wrong()),
                }
            }
            _ => Value::Opaque(global),
        };
        self.push(made)
    }

    fn listed_pairs(&self, items: Id) -> Option<Vec<(Id, Id)>> {
        let Value::List(items) = self.get(items) else { return None };
        let pair = |&item: &Id| match self.get(item) {
            Value::List(pair) => match pair.as_slice() {
                &[key, value] => Some((key, value)),
                _ => None,
            },
            _ => None,
        };
        items.iter().map(pair).collect()
    }

    fn integers(&self, id: Id) -> Option<Vec<i64>> {
        let Value::List(ids) = self.get(id) else { return None };
        if ids.len() > MAX_DIMENSIONS {
            return None;
        }
        let number = |&id: &Id| match self.get(id) {
            &Value::Int(number) if number >= 0 => Some(number),
            _ => None,
        };
        ids.iter().map(number).collect()
    }

    fn tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Option<Value<'a>> {
        let (shape, strides) = (self.integers(shape)?, self.integers(strides)?);
        match (self.get(storage), self.get(offset)) {
            (Value::Storage(_), &Value::Int(offset)) if shape.len() == strides.len() => {
                let offset = u64::try_from(offset).ok()?;
                Some(Value::Tensor(TensorPart { storage, offset, shape, strides }))
            }
            (&Value::Opaque(global), _) => Some(Value::Opaque(global)),
            _ => None,
        }
    }

    /// `object.__setstate__(state)`: nothing that weights consist of needs it.
    fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        match self.top_value()? {
            Value::Dict(_) | Value::Opaque(_) | Value::Tensor(_) => Ok(()),
            _ => Err("fills what is not an object".to_owned()),
        }
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    match items.as_chunks() {
        (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        _ => Err("a key without a value".to_owned()),
    }
}

fn storage_kind(class: Global<'_>) -> Option<Kind> {
    if class.module != "torch" {
        return None;
    }
    Some(match class.name {
        "FloatStorage" => Kind::Float,
        "DoubleStorage" => Kind::Double,
        "HalfStorage" => Kind::Half,
        "BFloat16Storage" => Kind::BFloat16,
        "LongStorage" => Kind::Int64,
        "IntStorage" => Kind::Int,
        "ShortStorage" => Kind::Int16,
        "CharStorage" => Kind::Int8,
        "ByteStorage" => Kind::Uint8,
        "BoolStorage" => Kind::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_is_never_made_and_keeps_its_name() {
        let text = b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.";
        let pickle = parse(text).unwrap();
        let &Value::Opaque(global) = pickle.root() else { panic!("{:?}", pickle.root()) };
        assert_eq!((global.to_string(), pickle.length), ("posix.system".to_owned(), text.len()));
        // A call of what a call would have made, an object, and an instance.
        for text in [
            &b"\x80\x02cbuiltins\ngetattr\n)R)R."[..],
            b"\x80\x02cbuiltins\ngetattr\n)\x81}b.",
            b"\x80\x02(cbuiltins\ngetattr\no.",
            b"\x80\x02(ibuiltins\ngetattr\n.",
            b"\x80\x02cbuiltins\ngetattr\n)}\x92.",
        ] {
            let pickle = parse(text).unwrap();
            let &Value::Opaque(global) = pickle.root() else { panic!("{:?}", pickle.root()) };
            assert_eq!(global.to_string(), "builtins.getattr");
        }
    }

    #[test]
    fn of_equal_keys_the_last_counts_and_metadata_of_a_dict_is_passed_over() {
        let text =
            b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00bK\x02\
                     X\x01\x00\x00\x00aK\x03u}X\x09\x00\x00\x00_metadataNsb.";
        let pickle = parse(text).unwrap();
        let entries = pickle.entries(pickle.root());
        assert_eq!(entries, [("a", &Value::Int(3)), ("b", &Value::Int(2))]);
    }

    #[test]
    fn what_torch_does_not_write_is_an_error_with_its_place() {
        for (text, expected) in [
            (&b"\x80\x02"[..], "byte 2 of the pickle: the end is missing"),
            (b"\x80\x01.", "protocol 1"),
            (b"\x80\x02Pabc\n.", "opcode 0x50"),
            (b"\x80\x02X\xff\x00\x00\x00a.", "255 more bytes were announced, but there are 2"),
            (b"\x80\x02R.", "the stack is empty"),
            (b"\x80\x02K\x01)R.", "calls what is not a global"),
            (b"\x80\x02h\x05.", "nothing is in memo 5"),
            (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "with other arguments"),
            (b"\x80\x02)Q.", "a reference that is not torch's"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(
                prop_oneof![
                    any::<u8>(),
                    proptest::sample::select(b"(.02NJKMUX])}tdaesuqhcQRbio\x80\x85\x88\x93\x94".to_vec()),
                ],
                0..200,
            ),
        ) {
            let _ = parse(&bytes);
        }
    }
}
