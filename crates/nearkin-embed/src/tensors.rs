//! Features in a safetensors file: `embeddings`, `[images, width]`, `labels`, `[images]`,
//! and `names`, the bytes of a text with a line for each image.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::npy::floats;
use crate::{EmbedError, Vectors};

const EMBEDDINGS: &str = "embeddings";
const LABELS: &str = "labels";
const NAMES: &str = "names";

/// The header of a file of so many rows, `bytes` long: its length, JSON, spaces. `None` if it does
/// not fit. The labels stand behind the embeddings, and the names behind these.
pub(crate) fn header(
    rows: u64,
    width: u64,
    names_bytes: u64,
    metadata: &[(String, String)],
    bytes: usize,
) -> Option<Vec<u8>> {
    let values = 4 * rows * width;
    let labels = values + 8 * rows;
    let names = labels + names_bytes;
    let metadata: serde_json::Map<_, _> =
        metadata.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    let text = json!({
        "__metadata__": metadata,
        EMBEDDINGS: { "dtype": "F32", "shape": [rows, width], "data_offsets": [0, values] },
        LABELS: { "dtype": "I64", "shape": [rows], "data_offsets": [values, labels] },
        NAMES: { "dtype": "U8", "shape": [names_bytes], "data_offsets": [labels, names] },
    });
    let mut header = ((bytes - 8) as u64).to_le_bytes().to_vec();
    header.extend(text.to_string().bytes());
    (header.len() <= bytes).then(|| {
        header.resize(bytes, b' ');
        header
    })
}

/// A label for each row, if it has one.
type Labels = Vec<Option<i64>>;

/// Vectors, names and labels; the last two where the file has them.
type Parsed = (Vectors, Option<Vec<String>>, Option<Labels>);

/// What a file holds; the label -1 stands for none.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Parsed, EmbedError> {
    let wrong = |reason: String| EmbedError::malformed(path, reason);
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| wrong(format!("is no safetensors file, or cut short: {error}")))?;
    let embeddings = file.tensor(EMBEDDINGS).map_err(|_| {
        let mut names = file.names();
        names.sort_unstable();
        names.truncate(5);
        wrong(format!(
            "has no tensor called {EMBEDDINGS}, as files of nearkin embed have, but {}: is it a file \
             of weights? Give what nearkin embed wrote",
            names.join(", ")
        ))
    })?;
    let bytes_each = match embeddings.dtype() {
        Dtype::F32 => 4,
        Dtype::F64 => 8,
        other => return Err(wrong(format!("{EMBEDDINGS} is {other:?}, not F32 or F64"))),
    };
    let &[rows, width] = embeddings.shape() else {
        return Err(wrong(format!(
            "{EMBEDDINGS} has the shape {:?}, and features are (images, width)",
            embeddings.shape()
        )));
    };
    let vectors = Vectors::new(floats(embeddings.data(), bytes_each), width)
        .ok_or_else(|| wrong(format!("{EMBEDDINGS} has rows of width 0")))?;
    let labels = match file.tensor(LABELS) {
        Ok(labels) if labels.dtype() == Dtype::I64 && labels.shape() == [rows] => {
            let labels = labels.data().as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes));
            Some(labels.map(|label| (label >= 0).then_some(label)).collect())
        }
        _ => None,
    };
    let names = match file.tensor(NAMES) {
        Ok(names) if names.dtype() == Dtype::U8 => {
            let text = String::from_utf8_lossy(names.data());
            let names: Vec<String> = text.lines().map(str::to_owned).collect();
            if names.len() != rows {
                return Err(wrong(format!("has {} names and {rows} rows", names.len())));
            }
            Some(names)
        }
        _ => None,
    };
    Ok((vectors, names, labels))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_is_read_and_others_are_refused() {
        let path = Path::new("a.safetensors");
        let mut bytes = header(2, 1, 4, &[("a".to_owned(), "b".to_owned())], 512).unwrap();
        bytes.extend([1.0_f32, 2.0].iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend([-1_i64, 7].iter().flat_map(|value| value.to_le_bytes()));
        bytes.extend(b"x\ny\n");
        let (vectors, names, labels) = parse(&bytes, path).unwrap();
        assert_eq!((vectors.row(1), labels.unwrap()), (&[2.0][..], vec![None, Some(7)]));
        assert_eq!(names.unwrap(), ["x", "y"]);
        let message = parse(&bytes[..520], path).unwrap_err().to_string();
        assert!(message.contains("cut short"), "{message}");
        assert_eq!(header(2, 1, 0, &[], 40), None);
        let view = safetensors::tensor::TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
        let weights = safetensors::serialize([("conv1.weight", view)], None).unwrap();
        let message = parse(&weights, path).unwrap_err().to_string();
        assert!(message.contains("conv1.weight: is it a file of weights?"), "{message}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes, Path::new("a.safetensors"));
        }
    }
}
