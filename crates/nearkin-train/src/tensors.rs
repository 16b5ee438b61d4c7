//! Named tensors in safetensors files.

use std::collections::BTreeMap;
use std::path::Path;

use nearkin_report::write_atomically;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::TrainError;

/// Writes tensors (float32, float64 or int64, any device) under their names, atomically.
pub fn save_tensors(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Tensor)>,
) -> Result<(), TrainError> {
    save_with_digest(path, tensors).map(|_| ())
}

/// The same; returns the file's SHA-256.
pub(crate) fn save_with_digest(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Tensor)>,
) -> Result<String, TrainError> {
    let mut contents = Vec::new();
    for (name, tensor) in tensors {
        let (dtype, width) = match tensor.kind() {
            Kind::Float => (Dtype::F32, 4),
            Kind::Double => (Dtype::F64, 8),
            Kind::Int64 => (Dtype::I64, 8),
            other => return Err(damaged(path, format!("{name}: {other:?} cannot be saved"))),
        };
        // Files hold the logical order of elements, whatever the order in memory.
        let tensor = tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
        let mut bytes = vec![0; tensor.numel() * width];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        let shape = tensor.size().iter().map(|&side| side as usize).collect();
        contents.push((name, dtype, shape, bytes));
    }
    let mut views = Vec::with_capacity(contents.len());
    for (name, dtype, shape, bytes) in &contents {
        let view = TensorView::new(*dtype, Clone::clone(shape), bytes)
            .map_err(|error| damaged(path, format!("{name}: {error}")))?;
        views.push((name.as_str(), view));
    }
    let format = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(format))
        .map_err(|error| damaged(path, error.to_string()))?;
    write_atomically(path, |file| std::io::Write::write_all(file, &bytes))?;
    Ok(sha256(&bytes))
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// Reads all tensors of a file, on the CPU.
pub fn load_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>, TrainError> {
    let bytes = std::fs::read(path).map_err(|error| damaged(path, error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| damaged(path, format!("not a safetensors file, or cut short: {error}")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F64 => Kind::Double,
            Dtype::I64 => Kind::Int64,
            other => {
                let reason = format!("{name} is {other:?}, not F32, F64 or I64");
                return Err(damaged(path, reason));
            }
        };
        let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
        tensors.insert(name.to_owned(), Tensor::f_from_data_size(view.data(), &shape, kind)?);
    }
    Ok(tensors)
}

/// Copies the tensors of a file into those of the same names. Every one must be there, with its
/// shape, and none may be left over; the message names those that do not fit.
pub(crate) fn restore_tensors(
    path: &Path,
    targets: impl IntoIterator<Item = (String, Tensor)>,
) -> Result<(), TrainError> {
    let mut saved = load_tensors(path)?;
    let mut problems = Vec::new();
    for (name, mut target) in targets {
        match saved.remove(&name) {
            None => problems.push(format!("{name} is missing")),
            Some(value) if value.size() != target.size() => problems.push(format!(
                "{name} has shape {:?} where {:?} is expected",
                value.size(),
                target.size()
            )),
            Some(value) => tch::no_grad(|| target.f_copy_(&value))?,
        }
    }
    problems.extend(saved.keys().map(|name| format!("{name} is not expected")));
    if problems.is_empty() { Ok(()) } else { Err(damaged(path, problems.join("; "))) }
}

pub(crate) fn damaged(path: &Path, reason: String) -> TrainError {
    TrainError::Checkpoint { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_comes_back_whatever_its_memory_layout() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let weight = Tensor::randn([4, 3, 2, 2], tch::kind::FLOAT_CPU)
            .permute([0, 2, 3, 1])
            .contiguous()
            .permute([0, 3, 1, 2]);
        let vector = Tensor::randn([5], tch::kind::DOUBLE_CPU);
        let all =
            [("w".to_owned(), weight.shallow_clone()), ("v".to_owned(), vector.shallow_clone())];
        save_tensors(&path, all).unwrap();
        let targets =
            [("w".to_owned(), weight.zeros_like()), ("v".to_owned(), vector.zeros_like())];
        let copies = [targets[0].1.shallow_clone(), targets[1].1.shallow_clone()];
        assert_eq!(copies[0].stride(), weight.stride());
        restore_tensors(&path, targets).unwrap();
        assert_eq!(copies[0], weight);
        assert_eq!(copies[1], vector);
    }

    #[test]
    fn tensors_that_do_not_fit_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let zeros = |size: i64| Tensor::zeros([size], tch::kind::FLOAT_CPU);
        save_tensors(&path, [("a".to_owned(), zeros(3)), ("b".to_owned(), zeros(2))]).unwrap();
        let targets = [("a".to_owned(), zeros(4)), ("c".to_owned(), zeros(1))];
        let message = restore_tensors(&path, targets).unwrap_err().to_string();
        for part in
            ["a.safetensors", "a has shape [3] where [4]", "c is missing", "b is not expected"]
        {
            assert!(message.contains(part), "{message}");
        }
        std::fs::write(&path, b"short").unwrap();
        assert!(load_tensors(&path).unwrap_err().to_string().contains("cut short"));
    }
}
