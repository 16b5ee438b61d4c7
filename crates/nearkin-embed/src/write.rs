//! Features into a file, a batch at a time.
//!
//! The number of rows is known only when the last image was read, since some cannot be. So the header
//! has room for any number and is filled in last; until then the file is a temporary one beside its
//! place, which a crash leaves nothing of.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nearkin_data::list_line;
use tempfile::NamedTempFile;

use crate::center::MeanDirection;
use crate::features::names_beside;
use crate::{EmbedError, npy, tensors};

/// The kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureFormat {
    /// An array of float32, `(images, width)`; names and labels are files beside it.
    Npy,
    /// The tensors `embeddings`, `labels` (-1 for none) and `names` (lines of text, as bytes).
    Safetensors,
    /// The columns `name`, `label` (nullable) and `embedding` (a list of float32).
    Parquet,
}

impl FeatureFormat {
    /// By the end of the name.
    pub fn of(path: &Path) -> Result<Self, EmbedError> {
        let end = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match end.as_str() {
            "npy" => Ok(Self::Npy),
            "safetensors" => Ok(Self::Safetensors),
            "parquet" => Ok(Self::Parquet),
            _ => Err(EmbedError::malformed(
                path,
                "is no file of features by its name: these end in .npy, .safetensors or .parquet",
            )),
        }
    }
}

/// An image and its features.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Its path or record.
    pub name: &'a str,
    /// Its class.
    pub label: Option<usize>,
    /// As many values as every other row has.
    pub embedding: &'a [f32],
}

/// A file that is being written.
///
/// In memory are a buffer and the labels (8 bytes per image); a parquet file also keeps the rows of a
/// group, at most 16 MiB of values.
pub struct FeatureWriter {
    path: PathBuf,
    width: usize,
    rows: u64,
    labels: Vec<i64>,
    mean: MeanDirection,
    body: Body,
}

enum Body {
    /// Values behind a header of so many bytes, and the names.
    Flat { values: Temporary, names: Temporary, header: usize, metadata: Option<Metadata> },
    #[cfg(feature = "parquet")]
    Parquet(Box<crate::parquet::Writer<BufWriter<NamedTempFile>>>),
}

type Metadata = Vec<(String, String)>;
type Temporary = BufWriter<NamedTempFile>;

impl FeatureWriter {
    /// A file of rows of `width` values. `metadata` says what they are; `.npy` has no room for it.
    pub fn create(path: &Path, width: usize, metadata: &Metadata) -> Result<Self, EmbedError> {
        let format = FeatureFormat::of(path)?;
        let body = match format {
            FeatureFormat::Parquet => Self::parquet(path, metadata)?,
            FeatureFormat::Npy | FeatureFormat::Safetensors => {
                let metadata = (format == FeatureFormat::Safetensors).then(|| metadata.clone());
                let header = match &metadata {
                    None => npy::HEADER,
                    // A multiple of 8, so that the values are aligned; numbers have room to grow.
                    Some(metadata) => {
                        let length =
                            |(key, value): &(String, String)| 6 * (key.len() + value.len());
                        (640 + metadata.iter().map(length).sum::<usize>()).next_multiple_of(64)
                    }
                };
                let mut values = temporary(path)?;
                values.write_all(&vec![0; header]).map_err(EmbedError::write(path))?;
                let names = temporary(path)?;
                Body::Flat { values, names, header, metadata }
            }
        };
        let mean = MeanDirection::new(width);
        Ok(Self { path: path.to_owned(), width, rows: 0, labels: Vec::new(), mean, body })
    }

    #[cfg(feature = "parquet")]
    fn parquet(path: &Path, metadata: &Metadata) -> Result<Body, EmbedError> {
        let writer = crate::parquet::Writer::new(temporary(path)?, metadata);
        Ok(Body::Parquet(Box::new(writer.map_err(EmbedError::write(path))?)))
    }

    #[cfg(not(feature = "parquet"))]
    fn parquet(path: &Path, _: &Metadata) -> Result<Body, EmbedError> {
        Err(no_parquet(path))
    }

    /// Appends a row. Refuses one of another width.
    pub fn push(&mut self, row: Row<'_>) -> Result<(), EmbedError> {
        if row.embedding.len() != self.width {
            return Err(EmbedError::Request(format!(
                "{} has {} values where the file has {}",
                row.name,
                row.embedding.len(),
                self.width
            )));
        }
        self.rows += 1;
        self.mean.add(row.embedding);
        match &mut self.body {
            Body::Flat { values, names, metadata, .. } => {
                self.labels.push(row.label.map_or(-1, |label| label as i64));
                let mut write = || {
                    for value in row.embedding {
                        values.write_all(&value.to_le_bytes())?;
                    }
                    // One name is one line, whatever is in it.
                    let name = row.name.replace(['\n', '\r'], "\u{fffd}");
                    let name = match metadata {
                        Some(_) => name.into(),
                        None => list_line::line(&name, Path::new("names.txt")).unwrap_or_default(),
                    };
                    writeln!(names, "{name}")
                };
                write().map_err(EmbedError::write(&self.path))
            }
            #[cfg(feature = "parquet")]
            Body::Parquet(writer) => writer.push(row).map_err(EmbedError::write(&self.path)),
        }
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Puts the file in its place, and what belongs beside it; gives their paths.
    pub fn finish(self) -> Result<Vec<PathBuf>, EmbedError> {
        let Self { path, width, rows, labels, mean, body } = self;
        let center = mean.center();
        let (mut values, names, header, metadata) = match body {
            Body::Flat { values, names, header, metadata } => (values, names, header, metadata),
            #[cfg(feature = "parquet")]
            Body::Parquet(writer) => {
                place(writer.finish(&center).map_err(EmbedError::write(&path))?, &path)?;
                return Ok(vec![path]);
            }
        };
        let labels_bytes: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        let mut written = vec![path.clone()];
        let head = if let Some(metadata) = &metadata {
            let mean = center.values().iter().flat_map(|value| value.to_le_bytes());
            let behind: Vec<u8> = labels_bytes.into_iter().chain(mean).collect();
            values.write_all(&behind).map_err(EmbedError::write(&path))?;
            let names_bytes = append(&mut values, names).map_err(EmbedError::write(&path))?;
            let head = tensors::header(rows, width as u64, names_bytes, metadata, header);
            head.ok_or_else(|| {
                let long = io::Error::other("what is said about the file is too long");
                EmbedError::write(&path)(long)
            })?
        } else {
            written.push(names_beside(&path));
            let labels_path = path.with_extension("labels.npy");
            if labels.iter().any(|&label| label >= 0) {
                let mut file = temporary(&labels_path)?;
                let head = npy::header("<i8", &format!("({rows},)"));
                let bytes = [&head[..], &labels_bytes].concat();
                file.write_all(&bytes).map_err(EmbedError::write(&labels_path))?;
                place(file, &labels_path)?;
                written.push(labels_path);
            } else if labels_path.exists() {
                // Those of an earlier file would be taken for these.
                std::fs::remove_file(&labels_path).map_err(EmbedError::write(&labels_path))?;
            }
            place(names, &written[1])?;
            npy::header("<f4", &format!("({rows}, {width})")).to_vec()
        };
        let fill = values.rewind().and_then(|()| values.write_all(&head));
        fill.map_err(EmbedError::write(&path))?;
        place(values, &path)?;
        Ok(written)
    }
}

/// Copies a whole file to the end of another; gives its length.
fn append(to: &mut Temporary, from: Temporary) -> io::Result<u64> {
    let mut from = from.into_inner().map_err(io::IntoInnerError::into_error)?;
    from.rewind()?;
    io::copy(&mut from, to)
}

/// A file beside `path` that is removed unless it is [`place`]d.
fn temporary(path: &Path) -> Result<Temporary, EmbedError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    // As any other new file: what the user's mask leaves of it.
    let file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")));
    Ok(BufWriter::with_capacity(1 << 20, file.map_err(EmbedError::write(path))?))
}

fn place(file: Temporary, path: &Path) -> Result<(), EmbedError> {
    let file = file.into_inner().map_err(|error| EmbedError::write(path)(error.into_error()))?;
    File::sync_all(file.as_file()).map_err(EmbedError::write(path))?;
    file.persist(path).map_err(|error| EmbedError::write(path)(error.error))?;
    Ok(())
}

/// The error of a program that was compiled without parquet.
#[cfg(not(feature = "parquet"))]
pub(crate) fn no_parquet(path: &Path) -> EmbedError {
    EmbedError::Request(format!(
        "{} is a parquet file, which this program was built without: take .npy or .safetensors, or \
         build it with cargo build --release -p nearkin --features parquet",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Features;

    fn write(path: &Path, rows: &[(String, Option<usize>, Vec<f32>)]) -> Vec<PathBuf> {
        let metadata = vec![("source".to_owned(), "a \"run\"".to_owned())];
        let mut writer = FeatureWriter::create(path, rows[0].2.len(), &metadata).unwrap();
        for (name, label, embedding) in rows {
            writer.push(Row { name, label: *label, embedding }).unwrap();
        }
        writer.finish().unwrap()
    }

    const FORMATS: &[&str] = if cfg!(feature = "parquet") {
        &["npy", "safetensors", "parquet"]
    } else {
        &["npy", "safetensors"]
    };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_is_written_is_read(
            rows in prop::collection::vec(
                ("[a-z/é \"#,]{1,9}", prop::option::of(0_usize..9), prop::collection::vec(-9.0_f32..9.0, 3)),
                1..40,
            ),
        ) {
            let folder = tempfile::tempdir().unwrap();
            for format in FORMATS {
                let path = folder.path().join(format!("some.{format}"));
                write(&path, &rows);
                let features = Features::read(&path).unwrap();
                for (index, (name, label, embedding)) in rows.iter().enumerate() {
                    prop_assert_eq!(features.vectors.row(index), &embedding[..]);
                    // Stated or computed, the mean is the same.
                    prop_assert_eq!(&features.center, &features.vectors.center());
                    prop_assert_eq!(&features.names[index], name);
                    if let Some(labels) = &features.labels {
                        prop_assert_eq!(labels[index], label.map(|label| label as i64));
                    }
                }
                prop_assert_eq!(features.names.len(), rows.len());
            }
        }
    }

    #[test]
    fn nothing_is_left_of_a_file_that_is_not_finished() {
        let folder = tempfile::tempdir().unwrap();
        for format in FORMATS {
            let path = folder.path().join(format!("some.{format}"));
            let mut writer = FeatureWriter::create(&path, 2, &Vec::new()).unwrap();
            let row = Row { name: "a", label: None, embedding: &[1.0, 2.0] };
            writer.push(row).unwrap();
            let wider = Row { embedding: &[1.0, 2.0, 3.0], ..row };
            assert!(writer.push(wider).unwrap_err().to_string().contains("a has 3 values"));
            drop(writer);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn labels_of_an_earlier_file_do_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.npy");
        let row = |label| [("a".to_owned(), label, vec![1.0])];
        assert_eq!(write(&path, &row(Some(3))).len(), 3);
        let labels = folder.path().join("some.labels.npy");
        assert_eq!(std::fs::read(&labels).unwrap()[npy::HEADER..], 3_i64.to_le_bytes());
        assert_eq!(write(&path, &row(None)).len(), 2);
        assert!(!labels.exists());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o600, 0o600);
    }
}
