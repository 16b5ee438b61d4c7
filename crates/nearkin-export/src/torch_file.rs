//! Files of `torch.save`: a pickle that says which tensors there are, and their numbers beside it.
//!
//! Since torch 1.6 the two lie in a zip archive; before, one behind the other in a plain file (the
//! published weights of MoCo, SimSiam and SwAV are such). Both are read here. Every size that the
//! pickle states is checked against the bytes that are there before memory is taken for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use tch::{Kind, Tensor};

use crate::ImportError;
use crate::pickle::{self, Pickle, Storage, TensorPart, Value};
use crate::zip::Archive;

/// Where a dictionary of tensors may stand in a checkpoint, the likeliest first. DINO's teacher is
/// what DINO is evaluated with.
const STATE_KEYS: [&str; 8] =
    ["state_dict", "model_state_dict", "model", "teacher", "student", "network", "encoder", "net"];

/// Begins a file of torch before 1.6: protocol 2 and an integer of ten bytes.
const LEGACY: [u8; 14] =
    [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The tensors of a checkpoint.
#[derive(Debug)]
pub(crate) struct TorchFile {
    /// By name, on the CPU.
    pub(crate) tensors: BTreeMap<String, Tensor>,
    /// Where in the checkpoint they were; `None` for at its top.
    pub(crate) key: Option<&'static str>,
    /// What was not read because it would have had to be called.
    pub(crate) calls: Vec<String>,
}

/// Whether bytes begin as a file of `torch.save` does: as a zip archive or a pickle.
pub(crate) fn is_torch_file(bytes: &[u8]) -> bool {
    // A safetensors file begins with the length of its header, whose first byte may be that of a pickle.
    let has_header = bytes.get(8) == Some(&b'{');
    bytes.starts_with(b"PK\x03\x04") || (bytes.starts_with(&[0x80]) && !has_header)
}

/// Reads a file of `torch.save`; errors name `path`.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<TorchFile, ImportError> {
    let malformed = |reason: String| ImportError::Malformed {
        path: path.to_owned(),
        reason: format!("not a whole file of torch.save: {reason}"),
    };
    if bytes.starts_with(b"PK") {
        let archive = Archive::parse(bytes).map_err(malformed)?;
        let file = ZipFile::open(archive).map_err(malformed)?;
        let pickle = pickle::parse(file.pickle).map_err(malformed)?;
        return collect(&pickle, |storage| file.storage(storage), path);
    }
    if !bytes.starts_with(&LEGACY) {
        return Err(malformed("it begins with a pickle, but not with torch's".to_owned()));
    }
    let (pickle, storages) = legacy(bytes).map_err(malformed)?;
    let find = |storage: &Storage<'_>| {
        let found = storages.get(storage.key).copied();
        found.ok_or_else(|| format!("storage {} is missing", storage.key))
    };
    collect(&pickle, find, path)
}

/// A file since torch 1.6: all entries are below one folder.
struct ZipFile<'a> {
    archive: Archive<'a>,
    folder: &'a str,
    pickle: &'a [u8],
}

impl<'a> ZipFile<'a> {
    fn open(archive: Archive<'a>) -> Result<Self, String> {
        let folder = archive.names().find_map(|name| name.strip_suffix("data.pkl"));
        let folder = folder.ok_or("the archive has no data.pkl")?;
        if let Ok(order) = archive.get(&format!("{folder}byteorder"))
            && order != b"little"
        {
            return Err("its numbers are in big-endian order".to_owned());
        }
        let pickle = archive.get(&format!("{folder}data.pkl"))?;
        Ok(Self { archive, folder, pickle })
    }

    fn storage(&self, storage: &Storage<'_>) -> Result<&'a [u8], String> {
        self.archive.get(&format!("{}data/{}", self.folder, storage.key))
    }
}

/// A file before torch 1.6: magic number, protocol, machine, checkpoint and keys, each a pickle, then
/// the storages in the order of the keys, each behind its length.
fn legacy(bytes: &[u8]) -> Result<(Pickle<'_>, HashMap<&str, &[u8]>), String> {
    let mut at = 0;
    let mut next = || {
        let rest = bytes.get(at..).unwrap_or_default();
        let pickle =
            pickle::parse(rest).map_err(|reason| format!("from byte {at} on: {reason}"))?;
        at += pickle.length;
        Ok::<_, String>(pickle)
    };
    for _ in 0..3 {
        next()?;
    }
    let (pickle, keys) = (next()?, next()?);
    let kinds: HashMap<&str, Kind> = pickle
        .values()
        .iter()
        .filter_map(|value| match value {
            Value::Storage(storage) => Some((storage.key, storage.kind)),
            _ => None,
        })
        .collect();
    let Value::List(ids) = keys.root() else {
        return Err("the list of storages is missing".to_owned());
    };
    let mut storages = HashMap::new();
    for &id in ids {
        let &Value::Str(key) = keys.get(id) else {
            return Err("a storage without a name".to_owned());
        };
        let Some(&kind) = kinds.get(key) else {
            return Err(format!("storage {key} is of a type that is not read"));
        };
        let cut = || format!("storage {key} is cut short");
        let rest = bytes.get(at..).unwrap_or_default();
        let (length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let length = u64::from_le_bytes(*length).checked_mul(kind.elt_size_in_bytes() as u64);
        let length = length.and_then(|length| usize::try_from(length).ok()).ok_or_else(cut)?;
        storages.insert(key, rest.get(..length).ok_or_else(cut)?);
        at += 8 + length;
    }
    Ok((pickle, storages))
}

/// The tensors of a checkpoint whose numbers `storage` finds.
fn collect<'a>(
    pickle: &Pickle<'_>,
    storage: impl Fn(&Storage<'_>) -> Result<&'a [u8], String>,
    path: &Path,
) -> Result<TorchFile, ImportError> {
    let code = |at: String, global: String| ImportError::Code { path: path.to_owned(), at, global };
    let malformed = |reason: String| ImportError::Malformed { path: path.to_owned(), reason };
    let root = pickle.root();
    if let Value::Opaque(global) = root {
        return Err(code("the whole checkpoint".to_owned(), global.to_string()));
    }
    let entries = pickle.entries(root);
    let has_tensors = |value: &Value<'_>| {
        let entries = pickle.entries(value);
        entries.iter().any(|(_, value)| matches!(value, Value::Tensor(_)))
    };
    let mut state = has_tensors(root).then_some((None, root));
    for key in STATE_KEYS {
        match entries.iter().find(|(name, _)| *name == key) {
            Some((_, Value::Opaque(global))) if state.is_none() => {
                return Err(code(format!("`{key}`"), global.to_string()));
            }
            Some((_, value)) if has_tensors(value) => {
                state = Some((Some(key), value));
                break;
            }
            _ => {}
        }
    }
    let Some((key, state)) = state else {
        let names: Vec<&str> = entries.iter().map(|(name, _)| *name).take(12).collect();
        let reason = match names.as_slice() {
            [] => "it holds no dictionary of tensors".to_owned(),
            names => format!("no tensors below its keys {}", names.join(", ")),
        };
        return Err(ImportError::Unrecognised { path: path.to_owned(), reason });
    };
    let mut tensors = BTreeMap::new();
    // Tensors may share a storage, and its checksum takes as long as all of them.
    let mut read: HashMap<&str, &[u8]> = HashMap::new();
    for (name, value) in pickle.entries(state) {
        let part = match value {
            Value::Tensor(part) => part,
            Value::Opaque(global) => return Err(code(format!("`{name}`"), global.to_string())),
            _ => continue,
        };
        let Value::Storage(of) = pickle.get(part.storage) else { continue };
        let in_tensor = |reason: String| malformed(format!("tensor {name}: {reason}"));
        let bytes = match read.get(of.key) {
            Some(bytes) => bytes,
            None => *read.entry(of.key).or_insert(storage(of).map_err(in_tensor)?),
        };
        tensors.insert(name.to_owned(), materialise(part, of, bytes).map_err(in_tensor)?);
    }
    let calls: BTreeSet<String> = pickle
        .values()
        .iter()
        .filter_map(|value| match value {
            Value::Opaque(global) => Some(global.to_string()),
            _ => None,
        })
        .collect();
    Ok(TorchFile { tensors, key, calls: calls.into_iter().collect() })
}

/// Copies a tensor out of the bytes of its storage.
fn materialise(part: &TensorPart, of: &Storage<'_>, bytes: &[u8]) -> Result<Tensor, String> {
    let size = of.kind.elt_size_in_bytes();
    if of.length.checked_mul(size as u64) != Some(bytes.len() as u64) {
        return Err(format!(
            "its storage has {} bytes, but {} numbers of {size} bytes were announced",
            bytes.len(),
            of.length
        ));
    }
    let outside = || {
        format!(
            "shape {:?} with strides {:?} from {} on does not fit its storage of {} numbers",
            part.shape, part.strides, part.offset, of.length
        )
    };
    let count = part.shape.iter().try_fold(1_i64, |product, &side| product.checked_mul(side));
    // An expanded tensor would take more memory than the file has.
    let count = count.filter(|&count| count as u64 <= of.length).ok_or_else(outside)?;
    let failed = |error: tch::TchError| error.to_string();
    if count == 0 {
        return Tensor::f_zeros(part.shape.as_slice(), (of.kind, tch::Device::Cpu)).map_err(failed);
    }
    let last =
        part.shape.iter().zip(&part.strides).try_fold(0_i64, |last, (&side, &stride)| {
            last.checked_add(stride.checked_mul(side - 1)?)
        });
    let reach =
        last.and_then(|last| usize::try_from(last.checked_add(1)?).ok()).ok_or_else(outside)?;
    let start = usize::try_from(part.offset).ok().and_then(|offset| offset.checked_mul(size));
    let own = start.and_then(|start| bytes.get(start..)?.get(..reach.checked_mul(size)?));
    Tensor::f_from_data_size(own.ok_or_else(outside)?, &[reach as i64], of.kind)
        .and_then(|own| own.f_as_strided(&part.shape, &part.strides, Some(0)))
        .and_then(|own| own.f_contiguous())
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZIP: &[u8] = include_bytes!("../tests/fixtures/checkpoints/torchvision.pth");
    const PLAIN: &[u8] = include_bytes!("../tests/fixtures/checkpoints/torchvision-legacy.pth");

    #[test]
    fn a_header_of_safetensors_is_no_pickle() {
        assert!(is_torch_file(ZIP) && is_torch_file(PLAIN));
        for first in 0..=u8::MAX {
            assert!(
                !is_torch_file(&[&[first, 2, 0, 0, 0, 0, 0, 0], &b"{\"a\":"[..]].concat()),
                "{first}"
            );
        }
    }

    #[test]
    fn both_containers_hold_the_same_tensors() {
        let path = Path::new("x.pth");
        let (zip, plain) = (parse(ZIP, path).unwrap(), parse(PLAIN, path).unwrap());
        assert_eq!(zip.tensors, plain.tensors);
        assert_eq!(zip.tensors["fc.weight"].size(), [3, 8]);
    }

    proptest! {
        /// Pickle and list of entries are at the ends of the file, so most changes are made there.
        #[test]
        fn a_changed_file_is_read_or_refused(
            zipped in any::<bool>(),
            changes in proptest::collection::vec((0_usize..30_000, any::<u8>(), any::<bool>()), 1..8),
        ) {
            let mut bytes = if zipped { ZIP } else { PLAIN }.to_vec();
            for (at, value, from_end) in changes {
                let at = at % bytes.len();
                let at = if from_end { bytes.len() - 1 - at } else { at };
                bytes[at] = value;
            }
            if let Ok(file) = parse(&bytes, Path::new("x.pth")) {
                prop_assert!(file.tensors.values().all(|tensor| tensor.numel() < bytes.len()));
            }
        }
    }
}
