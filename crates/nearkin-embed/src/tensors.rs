//! Features in a safetensors file: `embeddings`, `[images, width]`, `labels`, `[images]`,
//! `mean_of_unit_rows`, `[width]`, and `names`, the bytes of a text with a line for each image.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::center::MEAN;
use crate::features::Contents;
use crate::npy::floats;
use crate::{Center, EmbedError, Vectors};

const EMBEDDINGS: &str = "embeddings";
const LABELS: &str = "labels";
const NAMES: &str = "names";

/// The header of a file of that many rows, `bytes` long: its length, JSON, spaces. `None` if it does
/// not fit. Embeddings, labels, mean and names follow in this order.
pub(crate) fn header(
    rows: u64,
    width: u64,
    names_bytes: u64,
    metadata: &[(String, String)],
    bytes: usize,
) -> Option<Vec<u8>> {
    let values = 4 * rows * width;
    let labels = values + 8 * rows;
    let mean = labels + 8 * width;
    let names = mean + names_bytes;
    let metadata: serde_json::Map<_, _> =
        metadata.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
    let text = json!({
        "__metadata__": metadata,
        EMBEDDINGS: { "dtype": "F32", "shape": [rows, width], "data_offsets": [0, values] },
        LABELS: { "dtype": "I64", "shape": [rows], "data_offsets": [values, labels] },
        MEAN: { "dtype": "F64", "shape": [width], "data_offsets": [labels, mean] },
        NAMES: { "dtype": "U8", "shape": [names_bytes], "data_offsets": [mean, names] },
    });
    let mut header = ((bytes - 8) as u64).to_le_bytes().to_vec();
    header.extend(text.to_string().bytes());
    (header.len() <= bytes).then(|| {
        header.resize(bytes, b' ');
        header
    })
}

/// Reads a file. The label -1 means that an image has none.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Contents, EmbedError> {
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
    let center = match file.tensor(MEAN) {
        Ok(mean) if mean.dtype() == Dtype::F64 => {
            let values = mean.data().as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes));
            Some(Center::from_values(values.collect()))
        }
        _ => None,
    };
    Ok(Contents { vectors, names, labels, center })
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
        bytes.extend(0.5_f64.to_le_bytes());
        bytes.extend(b"x\ny\n");
        let Contents { vectors, names, labels, center } = parse(&bytes, path).unwrap();
        assert_eq!((vectors.row(1), labels.unwrap()), (&[2.0][..], vec![None, Some(7)]));
        assert_eq!(
            (names.unwrap(), center.unwrap().values()),
            (vec!["x".to_owned(), "y".to_owned()], &[0.5][..])
        );
        let message = parse(&bytes[..520], path).err().unwrap().to_string();
        assert!(message.contains("cut short"), "{message}");
        assert_eq!(header(2, 1, 0, &[], 40), None);
        let view = safetensors::tensor::TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
        let weights = safetensors::serialize([("conv1.weight", view)], None).unwrap();
        let message = parse(&weights, path).err().unwrap().to_string();
        assert!(message.contains("conv1.weight: is it a file of weights?"), "{message}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes, Path::new("a.safetensors"));
        }
    }
}
