//! The zip archives that `torch.save` writes, read without unpacking.
//!
//! PyTorch stores its entries uncompressed, so an entry is a range of the file: nothing can unfold to
//! more than the file has, and names are keys, never paths. Whatever is compressed or encrypted is
//! refused, and so is what lies outside of the file or does not have its checksum.

use std::collections::HashMap;
use std::ops::Range;

/// An archive in memory.
#[derive(Debug)]
pub(crate) struct Archive<'a> {
    bytes: &'a [u8],
    entries: HashMap<&'a str, Entry>,
}

#[derive(Debug)]
struct Entry {
    place: Range<usize>,
    checksum: u32,
}

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const END_64_LOCATOR: &[u8] = b"PK\x06\x07";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
/// A comment of up to 65,535 bytes may follow the 22 of the end record.
const LONGEST_END: usize = 22 + 0xffff;

impl<'a> Archive<'a> {
    /// Reads the list of entries.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let reader = Reader { bytes };
        let tail = bytes.len().saturating_sub(LONGEST_END);
        let end = bytes.get(tail..).unwrap_or_default();
        let end = end.windows(END.len()).rposition(|window| window == END);
        let end = tail + end.ok_or("its end record is missing: the file was cut short")?;
        if end + 22 + usize::from(reader.u16(end + 20)?) != bytes.len() {
            return Err("its end record is not at the end: the file was cut short".to_owned());
        }
        let mut count = u64::from(reader.u16(end + 10)?);
        let mut at = u64::from(reader.u32(end + 16)?);
        if let Some(locator) = end.checked_sub(20)
            && reader.take(locator, 4)? == END_64_LOCATOR
        {
            let end = usize::try_from(reader.u64(locator + 8)?).map_err(|_| OUTSIDE)?;
            reader.expect(end, END_64)?;
            (count, at) = (reader.u64(end + 32)?, reader.u64(end + 48)?);
        }
        let mut at = usize::try_from(at).map_err(|_| OUTSIDE)?;
        let mut entries = HashMap::new();
        for _ in 0..count {
            reader.expect(at, CENTRAL)?;
            let lengths = [28, 30, 32].map(|field| reader.u16(at + field).map(usize::from));
            let [name, extra, comment] = lengths;
            let (name_length, extra_length, comment) = (name?, extra?, comment?);
            let name = reader.take(at + 46, name_length)?;
            let name = std::str::from_utf8(name).map_err(|_| "an entry's name is not UTF-8")?;
            let extra = reader.take(at + 46 + name_length, extra_length)?;
            let entry =
                reader.entry(at, extra).map_err(|reason| format!("entry {name}: {reason}"))?;
            if entries.insert(name, entry).is_some() {
                return Err(format!("entry {name} is there twice"));
            }
            at += 46 + name_length + extra_length + comment;
        }
        Ok(Self { bytes, entries })
    }

    /// Names, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    /// The content of an entry, if it is there and has its checksum.
    pub(crate) fn get(&self, name: &str) -> Result<&'a [u8], String> {
        let entry = self.entries.get(name).ok_or_else(|| format!("entry {name} is missing"))?;
        let content = self.bytes.get(entry.place.clone()).ok_or(OUTSIDE)?;
        let mut checksum = flate2::Crc::new();
        checksum.update(content);
        if checksum.sum() == entry.checksum {
            Ok(content)
        } else {
            Err(format!("entry {name} is damaged: its checksum is another"))
        }
    }
}

const OUTSIDE: &str = "it points outside of the file: the file was cut short or changed";

#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(self, at: usize, count: usize) -> Result<&'a [u8], String> {
        let rest = self.bytes.get(at..).and_then(|rest| rest.get(..count));
        rest.ok_or_else(|| OUTSIDE.to_owned())
    }

    fn array<const BYTES: usize>(self, at: usize) -> Result<[u8; BYTES], String> {
        self.take(at, BYTES)?.try_into().map_err(|_| OUTSIDE.to_owned())
    }

    fn u16(self, at: usize) -> Result<u16, String> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(self, at: usize) -> Result<u32, String> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(self, at: usize) -> Result<u64, String> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn expect(self, at: usize, signature: &[u8]) -> Result<(), String> {
        if self.take(at, signature.len())? == signature {
            Ok(())
        } else {
            Err("a record is not where it should be".to_owned())
        }
    }

    /// The entry whose central header is at `at`.
    fn entry(self, at: usize, extra: &[u8]) -> Result<Entry, String> {
        let (flags, method) = (self.u16(at + 8)?, self.u16(at + 10)?);
        if flags & 1 != 0 {
            return Err("it is encrypted".to_owned());
        }
        if method != 0 {
            return Err(
                "it is compressed, and PyTorch compresses nothing: this is no file of torch.save"
                    .to_owned(),
            );
        }
        let mut sizes = [24, 20, 42].map(|field| self.u32(at + field).map(u64::from));
        large_sizes(extra, &mut sizes)?;
        let [size, stored, local] = sizes;
        let (size, stored) = (size?, stored?);
        if size != stored {
            return Err(format!("it has {size} bytes, but {stored} are stored"));
        }
        let local = usize::try_from(local?).map_err(|_| OUTSIDE)?;
        self.expect(local, LOCAL)?;
        let skipped = usize::from(self.u16(local + 26)?) + usize::from(self.u16(local + 28)?);
        let start = local + 30 + skipped;
        let size = usize::try_from(size).map_err(|_| OUTSIDE)?;
        self.take(start, size)?;
        Ok(Entry { place: start..start + size, checksum: self.u32(at + 16)? })
    }
}

/// Sizes of 4 GiB and more stand in an extra field, those that need it one after the other.
fn large_sizes(extra: &[u8], sizes: &mut [Result<u64, String>; 3]) -> Result<(), String> {
    const LARGE: u16 = 1;
    let reader = Reader { bytes: extra };
    let mut at = 0;
    while at + 4 <= extra.len() {
        let length = usize::from(reader.u16(at + 2)?);
        if reader.u16(at)? == LARGE {
            let mut field = Reader { bytes: reader.take(at + 4, length)? };
            for size in sizes.iter_mut() {
                if *size == Ok(u64::from(u32::MAX)) {
                    *size = Ok(field.u64(0)?);
                    field = Reader { bytes: field.bytes.get(8..).unwrap_or_default() };
                }
            }
        }
        at += 4 + length;
    }
    Ok(())
}
