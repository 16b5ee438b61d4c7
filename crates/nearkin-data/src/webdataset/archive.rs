//! The members of a tar archive and where each begins.
//!
//! Only headers are read, one after the other. Unlike a program that unpacks, this reader wants to know
//! how an archive ends: one that was cut while it was copied has lost samples, and says so only by the
//! zero blocks that are not there.

use std::io;

use tar::{EntryType, GnuHeader, Header};

use crate::read_at::ReadAt;

pub(super) const BLOCK_BYTES: u64 = 512;
/// Longer names, and contents that are read as text, are refused.
pub(super) const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Headers lie close together where labels are, so several are read at once.
const WINDOW_BYTES: usize = 4096;

const NO_HEADER: &str = "it is no tar archive, since it does not begin with the header of a member";

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// A link to another member or file.
    Link,
    /// A file whose zeros are left out, so that it does not lie in one piece.
    Sparse,
    /// A device, a pipe or something that only one program knows.
    Special,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Bytes that are no UTF-8 are escaped, as in `caf\xe9.jpg`.
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Where its content begins.
    pub(super) offset: u64,
    /// The length of its content.
    pub(super) bytes: u64,
}

/// How an archive ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a block of zeros, as it should.
    Marked,
    /// Without one, perhaps within this member.
    Cut(Option<String>),
    /// With a block of zeros, and something behind.
    GoesOn,
}

#[derive(Debug)]
pub(super) enum Fault {
    Read(io::Error),
    /// What is wrong, to follow "cannot read it as a tar archive: ".
    Damaged(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

pub(super) struct Archive<'a, R: ?Sized> {
    source: &'a R,
    length: u64,
    /// Where the next header is.
    at: u64,
    window: Vec<u8>,
    window_at: u64,
    /// How it ends, once that is known.
    end: Option<End>,
}

/// What extended headers say of the next member.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    bytes: Option<u64>,
    is_sparse: bool,
}

impl<'a, R: ReadAt + ?Sized> Archive<'a, R> {
    pub(super) fn new(source: &'a R, length: u64) -> Self {
        Self { source, length, at: 0, window: Vec::new(), window_at: 0, end: None }
    }

    /// The next member whose content is whole; `None` at the [end](Self::end).
    pub(super) fn next(&mut self) -> Result<Option<Member>, Fault> {
        let mut extended = Extended::default();
        while self.end.is_none() {
            let header_at = self.at;
            let Some(header) = self.header()? else { continue };
            let kind = header.entry_type();
            let name = extended.name.take().unwrap_or_else(|| header.path_bytes().into_owned());
            let mut member = Member {
                kind: member_kind(kind, &name, extended.is_sparse),
                name: escaped(&name),
                offset: self.at,
                bytes: 0,
            };
            // Others have no content, whatever their header says.
            if has_content(kind) {
                let size = header.entry_size().map_err(|_| {
                    Fault::Damaged(format!("the header at byte {header_at} has no size"))
                })?;
                member.bytes = extended.bytes.unwrap_or(size);
            }
            if kind == EntryType::GNUSparse && header.as_gnu().is_some_and(GnuHeader::is_extended) {
                self.skip_sparse_headers()?;
                member.offset = self.at;
            }
            let end = member.offset.checked_add(member.bytes).filter(|&end| end <= self.length);
            let Some(end) = end else {
                self.end = Some(End::Cut(Some(member.name)));
                continue;
            };
            self.at = end.next_multiple_of(BLOCK_BYTES);
            match kind {
                EntryType::GNULongName => {
                    let mut name = self.text(&member)?;
                    name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
                    extended.name = Some(name);
                }
                EntryType::XHeader => extended.read(&self.text(&member)?),
                EntryType::GNULongLink | EntryType::XGlobalHeader => {}
                _ => return Ok(Some(member)),
            }
        }
        Ok(None)
    }

    /// How the archive ends, when there is no next member.
    pub(super) fn end(&self) -> &End {
        self.end.as_ref().unwrap_or(&End::Marked)
    }

    /// The content of a member, which is refused if it is too long to be text.
    pub(super) fn text(&self, member: &Member) -> Result<Vec<u8>, Fault> {
        if member.bytes > MAX_TEXT_BYTES {
            return Err(Fault::Damaged(format!(
                "the name of a member has {} bytes; at most {MAX_TEXT_BYTES} are read",
                member.bytes
            )));
        }
        let mut content = vec![0; member.bytes as usize];
        let window = member
            .offset
            .checked_sub(self.window_at)
            .and_then(|from| self.window.get(usize::try_from(from).ok()?..)?.get(..content.len()));
        if let Some(window) = window {
            content.copy_from_slice(window);
        } else if self.source.read_full_at(&mut content, member.offset)? < content.len() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(content)
    }

    /// The header at the current place, behind which it moves; `None` if the archive ends here.
    fn header(&mut self) -> Result<Option<Header>, Fault> {
        let at = self.at;
        let block = self.block()?;
        if block.len() < BLOCK_BYTES as usize {
            // Too short for a header: a page that says why a download failed, say.
            if at == 0 && !block.is_empty() {
                return Err(Fault::Damaged(NO_HEADER.to_owned()));
            }
            self.end = Some(End::Cut(None));
            return Ok(None);
        }
        if block.iter().all(|&byte| byte == 0) {
            self.end = Some(self.ending(at + BLOCK_BYTES)?);
            return Ok(None);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        let sum = header.cksum().ok();
        if sum != Some(checksum(&header)) {
            return Err(Fault::Damaged(match at {
                0 => NO_HEADER.to_owned(),
                at => format!("the header at byte {at} is damaged"),
            }));
        }
        self.at += BLOCK_BYTES;
        Ok(Some(header))
    }

    /// Up to 512 bytes from the current place on.
    fn block(&mut self) -> io::Result<&[u8]> {
        let covers = |window: &[u8], from: Option<u64>| {
            from.is_some_and(|from| from + BLOCK_BYTES <= window.len() as u64)
        };
        if !covers(&self.window, self.at.checked_sub(self.window_at)) {
            self.window.resize(WINDOW_BYTES, 0);
            let filled = self.source.read_full_at(&mut self.window, self.at)?;
            self.window.truncate(filled);
            self.window_at = self.at;
        }
        let from = (self.at - self.window_at) as usize;
        let rest = self.window.get(from..).unwrap_or_default();
        Ok(&rest[..rest.len().min(BLOCK_BYTES as usize)])
    }

    /// A block of zeros ends an archive; `tar` writes more of them to fill a record.
    fn ending(&self, mut at: u64) -> io::Result<End> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let filled = self.source.read_full_at(&mut buffer, at)?;
            if buffer[..filled].iter().any(|&byte| byte != 0) {
                return Ok(End::GoesOn);
            }
            if filled < buffer.len() {
                return Ok(End::Marked);
            }
            at += filled as u64;
        }
    }

    fn skip_sparse_headers(&mut self) -> Result<(), Fault> {
        const IS_EXTENDED: usize = 504;
        loop {
            let goes_on = self.block()?.get(IS_EXTENDED).is_some_and(|&byte| byte != 0);
            self.at += BLOCK_BYTES;
            if !goes_on {
                return Ok(());
            }
        }
    }
}

impl Extended {
    /// Reads records `LENGTH KEY=VALUE\n`, whose length counts all of it.
    fn read(&mut self, mut records: &[u8]) {
        while let Some(space) = records.iter().position(|&byte| byte == b' ') {
            let length = std::str::from_utf8(&records[..space]).ok().and_then(|l| l.parse().ok());
            let record = length
                .filter(|&length: &usize| length > space + 1)
                .and_then(|length| records.split_at_checked(length));
            let Some((record, after)) = record else { return };
            records = after;
            let record = &record[space + 1..record.len() - 1];
            let Some(equals) = record.iter().position(|&byte| byte == b'=') else { continue };
            let value = &record[equals + 1..];
            match &record[..equals] {
                b"path" if !self.is_sparse => self.name = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok();
                    self.bytes = size.and_then(|size| size.parse().ok()).or(self.bytes);
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    self.is_sparse = true;
                    if key == b"GNU.sparse.name" {
                        self.name = Some(value.to_vec());
                    }
                }
                _ => {}
            }
        }
    }
}

/// Kinds whose header is followed by as much as it says.
fn has_content(kind: EntryType) -> bool {
    !matches!(
        kind,
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo
    )
}

fn member_kind(kind: EntryType, name: &[u8], is_sparse: bool) -> Kind {
    match kind {
        EntryType::Link | EntryType::Symlink => Kind::Link,
        EntryType::Directory => Kind::Folder,
        EntryType::GNUSparse => Kind::Sparse,
        // Old programs knew folders by the end of their names.
        EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => Kind::Folder,
        EntryType::Regular | EntryType::Continuous if is_sparse => Kind::Sparse,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        _ => Kind::Special,
    }
}

/// The sum of the bytes of a header, of which those of the sum count as spaces.
fn checksum(header: &Header) -> u32 {
    const SUM: std::ops::Range<usize> = 148..156;
    let byte = |(at, &byte): (usize, &u8)| u32::from(if SUM.contains(&at) { b' ' } else { byte });
    header.as_bytes().iter().enumerate().map(byte).sum()
}

/// A name of any bytes as text, in which bytes that are no UTF-8 can be told apart.
fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webdataset::tests::member;

    /// The members as `name kind offset+bytes`, and the end.
    fn members(bytes: &[u8]) -> (Vec<String>, End) {
        let mut archive = Archive::new(bytes, bytes.len() as u64);
        let mut found = Vec::new();
        while let Some(Member { name, kind, offset, bytes }) = archive.next().unwrap() {
            found.push(format!("{name} {kind:?} {offset}+{bytes}"));
        }
        (found, archive.end().clone())
    }

    /// A member with its extended header.
    fn extended(records: &[u8], name: &str, size: u64, content: &[u8]) -> Vec<u8> {
        let header = member("x", EntryType::XHeader, records.len() as u64, records);
        [header, member(name, EntryType::Regular, size, content)].concat()
    }

    #[test]
    fn extended_headers_give_names_and_sizes() {
        let long = "deep/".repeat(40) + "1.png";
        let bytes = [
            member("././@LongLink", EntryType::GNULongName, 206, format!("{long}\0").as_bytes()),
            member("short", EntryType::Regular, 3, b"abc"),
            extended(b"24 path=long/name/1.png\n", "s.txt", 3, b"abc"),
            // A size that the header has no room for, and a value with a line break before the path.
            extended(b"8 size=3\n".as_slice(), "2.png", 0, b""),
        ];
        let (found, end) = members(&bytes[..3].concat());
        assert_eq!(found[0], format!("{long} File 1536+3"));
        assert_eq!(found[1], "long/name/1.png File 3584+3");
        assert_eq!(end, End::Cut(None));

        let records = b"26 SCHILY.xattr.a=one\ntwo\n16 path=b/1.png\n9 size=3\n";
        let records = [&records[..26], &records[26..]].concat();
        let header = member("x", EntryType::XHeader, records.len() as u64, &records);
        let mut image = member("cut.png", EntryType::Regular, 0, b"");
        image.extend(b"abc");
        image.resize(1024, 0);
        let (found, end) = members(&[header, image, vec![0; 512]].concat());
        assert_eq!(found, ["b/1.png File 1536+3"]);
        assert_eq!(end, End::Marked);
    }

    #[test]
    fn names_of_other_encodings_stay_apart() {
        let mut bytes = Vec::new();
        for name in [&b"caf\xe9.png"[..], b"caf\xe8.png", "caf\u{e9}.png".as_bytes()] {
            let mut header = Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name);
            header.set_size(0);
            header.set_cksum();
            bytes.extend(header.as_bytes());
        }
        let (found, _) = members(&bytes);
        let names: Vec<&str> = found.iter().map(|found| found.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["caf\\xe9.png", "caf\\xe8.png", "caf\u{e9}.png"]);
    }

    #[test]
    fn sparse_files_are_known() {
        let mut old = member("1.png", EntryType::GNUSparse, 1, b"a");
        let gnu = Header::new_gnu();
        old[257..265].copy_from_slice(&gnu.as_bytes()[257..265]);
        // Two more blocks of its map.
        old[482] = 1;
        let mut map = [[0; 512]; 2];
        map[0][504] = 1;
        let sum = checksum(Header::from_byte_slice(&old[..512]));
        old[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        old.splice(512..512, map.concat());
        let new =
            extended(b"22 GNU.sparse.major=1\n25 GNU.sparse.name=2.png\n", "x/2.png", 1, b"b");
        let (found, end) = members(&[&old[..], &new, &[0; 1024]].concat());
        assert_eq!(found, ["1.png Sparse 1536+1", "2.png Sparse 3584+1"]);
        assert_eq!(end, End::Marked);
    }

    #[test]
    fn damage_is_told_with_its_place() {
        let refused = |bytes: &[u8]| {
            let mut archive = Archive::new(bytes, bytes.len() as u64);
            loop {
                match archive.next() {
                    Ok(member) => assert!(member.is_some(), "an error"),
                    Err(Fault::Damaged(reason)) => return reason,
                    Err(Fault::Read(error)) => panic!("{error}"),
                }
            }
        };
        assert_eq!(refused(&[b'x'; 600]), NO_HEADER);
        assert_eq!(refused(b"<html>not found</html>"), NO_HEADER);
        let sound = member("1.png", EntryType::Regular, 1, b"a");
        let damaged = [&sound[..], &[b'x'; 512]].concat();
        assert_eq!(refused(&damaged), "the header at byte 1024 is damaged");
        let name = member("x", EntryType::GNULongName, 1 << 21, &vec![b'x'; 1 << 21]);
        assert!(refused(&name).contains("the name of a member has 2097152 bytes"));
        let mut size = sound.clone();
        size[124..136].fill(b'z');
        let sum = checksum(Header::from_byte_slice(&size[..512]));
        size[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(refused(&size), "the header at byte 0 has no size");
    }
}
