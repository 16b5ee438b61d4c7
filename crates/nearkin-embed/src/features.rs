//! A file of features in memory: vectors, and what their images are called.

use std::fs;
use std::path::{Path, PathBuf};

use nearkin_data::list_line;

use crate::center::MEAN;
use crate::{Center, EmbedError, FeatureFormat, Vectors, npy, tensors};

/// The features of some images.
#[derive(Clone, Debug)]
pub struct Features {
    /// Where they are from; messages name it.
    pub path: PathBuf,
    /// One row per image, as in the file.
    pub vectors: Vectors,
    /// One name per image: what the file or the list beside it says, else its number from 0.
    pub names: Vec<String>,
    /// One label per image, where the file has them.
    pub labels: Option<Vec<Option<i64>>>,
    /// The mean of the unit rows, as the file states it or computed.
    pub center: Center,
}

/// What a file holds. What is `None` is not in it.
pub(crate) struct Contents {
    pub(crate) vectors: Vectors,
    pub(crate) names: Option<Vec<String>>,
    pub(crate) labels: Option<Vec<Option<i64>>>,
    pub(crate) center: Option<Center>,
}

/// The names beside `features.npy`: `features.names.txt`, a list as
/// [`list_line`] writes it.
pub(crate) fn names_beside(path: &Path) -> PathBuf {
    path.with_extension("names.txt")
}

impl Features {
    /// Reads an `.npy`, `.safetensors` or `.parquet` file, all of it into memory: 4 bytes per value
    /// and the names.
    ///
    /// An [`EmbedError::Malformed`] tells what is not a file of features, has no rows, a value that
    /// is not finite, or another number of names than rows.
    pub fn read(path: &Path) -> Result<Self, EmbedError> {
        let format = FeatureFormat::of(path)?;
        let Contents { vectors, names, labels, center } = match format {
            FeatureFormat::Npy => {
                let vectors = npy::parse(&bytes(path)?, path)?;
                Contents { vectors, names: None, labels: None, center: None }
            }
            FeatureFormat::Safetensors => tensors::parse(&bytes(path)?, path)?,
            FeatureFormat::Parquet => read_parquet(path)?,
        };
        if vectors.is_empty() {
            return Err(EmbedError::malformed(path, "holds no images; see how it was written"));
        }
        let names = match names {
            Some(names) => names,
            None if format == FeatureFormat::Npy => names_of(path, vectors.len())?,
            None => numbers(vectors.len()),
        };
        if let Some(row) = vectors.first_not_finite() {
            return Err(EmbedError::malformed(
                path,
                format!(
                    "row {row} ({}) has a value that is not finite (NaN or infinite), so nothing can \
                     be compared with it: look at that image and at the encoder, and write the \
                     features again",
                    names[row]
                ),
            ));
        }
        let center = match center {
            Some(center) if !center.fits(vectors.width()) => {
                let reason = format!(
                    "{MEAN} is not {} finite values: write the features again",
                    vectors.width()
                );
                return Err(EmbedError::malformed(path, reason));
            }
            Some(center) => center,
            None => vectors.center(),
        };
        Ok(Self { path: path.to_owned(), vectors, names, labels, center })
    }

    /// The row that a wish names: an image of that name, or one whose path ends with it, or a number
    /// from 0. The error suggests the name that is nearest.
    pub fn find(&self, wanted: &str) -> Result<usize, EmbedError> {
        let path = self.path.display();
        if let Some(row) = self.names.iter().position(|name| name == wanted) {
            return Ok(row);
        }
        let ends = |name: &str| name.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('/'));
        let mut rows = (0..self.names.len()).filter(|&row| ends(&self.names[row]));
        match (rows.next(), rows.next()) {
            (Some(row), None) => return Ok(row),
            (Some(first), Some(second)) => {
                return Err(EmbedError::Request(format!(
                    "{wanted} could be {} or {} of {path}: give more of the path",
                    self.names[first], self.names[second]
                )));
            }
            _ => {}
        }
        let count = self.names.len();
        if let Ok(row) = wanted.parse::<usize>() {
            if row < count {
                return Ok(row);
            }
            return Err(EmbedError::Request(format!(
                "{path} has no image {row}: its {count} images are numbered from 0 to {}",
                count - 1
            )));
        }
        let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
        let distance = |name: &String| {
            let whole = strsim::levenshtein(wanted, name);
            whole.min(strsim::levenshtein(&last(wanted), &last(name)))
        };
        let nearest = self.names.iter().min_by_key(|name| distance(name));
        let nearest = nearest.map_or_else(String::new, |name| format!("; the nearest is {name}"));
        Err(EmbedError::Request(format!("{path} has no image called {wanted}{nearest}")))
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, EmbedError> {
    fs::read(path).map_err(EmbedError::read(path))
}

fn names_of(path: &Path, rows: usize) -> Result<Vec<String>, EmbedError> {
    let list = names_beside(path);
    if !list.exists() {
        return Ok(numbers(rows));
    }
    let text = fs::read_to_string(&list).map_err(EmbedError::read(&list))?;
    let names: Vec<String> =
        text.lines().map(|line| list_line::file_of(line).into_owned()).collect();
    if names.len() == rows {
        return Ok(names);
    }
    Err(EmbedError::malformed(
        &list,
        format!(
            "has {} names, and {} has {rows} rows: write both again, or remove the names",
            names.len(),
            path.display()
        ),
    ))
}

fn numbers(rows: usize) -> Vec<String> {
    (0..rows).map(|row| row.to_string()).collect()
}

#[cfg(feature = "parquet")]
fn read_parquet(path: &Path) -> Result<Contents, EmbedError> {
    crate::parquet::read(path)
}

#[cfg(not(feature = "parquet"))]
fn read_parquet(path: &Path) -> Result<Contents, EmbedError> {
    Err(crate::write::no_parquet(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::npy::header;

    fn saved(folder: &tempfile::TempDir, shape: &str, values: &[f32]) -> PathBuf {
        let path = folder.path().join("features.npy");
        let values = values.iter().flat_map(|value| value.to_le_bytes());
        fs::write(&path, header("<f4", shape).into_iter().chain(values).collect::<Vec<u8>>())
            .unwrap();
        path
    }

    #[test]
    fn images_are_found_by_name_end_of_path_and_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(&folder, "(4, 1)", &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(Features::read(&path).unwrap().names, ["0", "1", "2", "3"]);
        fs::write(names_beside(&path), "a/x.png\nb/x.png\nb/2\nb/y.png\n").unwrap();
        let features = Features::read(&path).unwrap();
        for (wanted, row) in [("b/x.png", 1), ("y.png", 3), ("2", 2), ("3", 3), ("0", 0)] {
            assert_eq!(features.find(wanted).unwrap(), row, "{wanted}");
        }
        for (wanted, said) in [
            ("x.png", "x.png could be a/x.png or b/x.png of "),
            ("9", "has no image 9: its 4 images are numbered from 0 to 3"),
            ("yy.png", "has no image called yy.png; the nearest is b/y.png"),
        ] {
            let message = features.find(wanted).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| Features::read(path).unwrap_err().to_string();
        let path = saved(&folder, "(2, 2)", &[1.0, 2.0, f32::NAN, 4.0]);
        fs::write(names_beside(&path), "a\nb\n").unwrap();
        assert!(refused(&path).contains("row 1 (b) has a value that is not finite"));
        fs::write(names_beside(&path), "a\n").unwrap();
        let message = refused(&path);
        assert!(message.contains("features.names.txt: has 1 names, and "), "{message}");
        assert!(refused(&saved(&folder, "(0, 2)", &[])).contains("holds no images"));
        let text = folder.path().join("features.csv");
        assert!(refused(&text).contains(".npy, .safetensors or .parquet"));
        assert!(refused(&folder.path().join("gone.npy")).starts_with("cannot read "));
    }
}
