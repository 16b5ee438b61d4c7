//! The data of a recipe, as written in its file, and the one place that opens it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::detect::located;
use crate::{
    Cifar, CifarVersion, DataError, Folder, Idx, ImageSet, List, Packed, Shapes, ShapesOptions,
    Split, Stl10, Stl10Part, Voc, VocPart, WebDataset,
};

/// Where images come from; in a recipe, `dataset = "cifar10"` with the keys of that variant.
///
/// Sets that are read from files have a `path` that recipes leave out, so that a recipe fits any
/// machine; [`set_path`](Self::set_path) fills it in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "dataset", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// CIFAR-10 in any of its forms; see [`cifar`](crate::cifar).
    Cifar10 {
        /// `cifar-10-batches-bin`, `cifar-10-batches-py`, an archive of one, or the folder that
        /// holds it.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// CIFAR-100 with its 100 fine labels, in any of its forms; see [`cifar`](crate::cifar).
    Cifar100 {
        /// `cifar-100-binary`, `cifar-100-python`, an archive of one, or the folder that holds it.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// STL-10, binary version.
    Stl10 {
        /// `stl10_binary`, its archive, or the folder that holds it.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
        /// Which images make the train split.
        #[serde(default)]
        part: Stl10Part,
    },
    /// A folder of image files; see [`folder`](crate::folder) for the layouts.
    Folder {
        /// The folder.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// Files of arrays as those of MNIST; see [`idx`](crate::idx).
    Idx {
        /// The folder of the files.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// The image files that a text file lists; see [`list`](crate::list).
    List {
        /// The list, or the folder of the lists of both splits.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
        /// What the listed paths are relative to, if not to the folder of the list.
        #[serde(skip_serializing_if = "Option::is_none")]
        root: Option<PathBuf>,
    },
    /// A file that `nearkin data pack` wrote; see [`packed`](crate::packed).
    Packed {
        /// The file.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// Parquet files as on the Hugging Face hub; see [`parquet`](crate::parquet).
    Parquet {
        /// A file, or the folder of the files.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// Shards of samples in tar files; see [`webdataset`](crate::webdataset).
    Webdataset {
        /// A shard, a pattern of shards, or the folder of the shards.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// PASCAL VOC, whose images show several classes at once; see [`voc`](crate::voc).
    Voc {
        /// The folder of a year, such as `VOC2007`, or the folder that holds it or `VOCdevkit`.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
        /// Which images make the train split.
        #[serde(default)]
        part: VocPart,
    },
    /// The built-in set, drawn by code; see [`shapes`](crate::shapes).
    Shapes {
        /// Images of the train split.
        #[serde(default = "default_train_images")]
        train_images: usize,
        /// Images of the test split.
        #[serde(default = "default_test_images")]
        test_images: usize,
        /// Width and height of every image.
        #[serde(default = "default_size_pixels")]
        size_pixels: usize,
        /// Another seed draws other images.
        #[serde(default)]
        seed: u64,
    },
}

fn default_train_images() -> usize {
    10_000
}

fn default_test_images() -> usize {
    2_000
}

fn default_size_pixels() -> usize {
    32
}

impl Source {
    /// The value of the `dataset` key.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cifar10 { .. } => "cifar10",
            Self::Cifar100 { .. } => "cifar100",
            Self::Stl10 { .. } => "stl10",
            Self::Folder { .. } => "folder",
            Self::Idx { .. } => "idx",
            Self::List { .. } => "list",
            Self::Packed { .. } => "packed",
            Self::Parquet { .. } => "parquet",
            Self::Webdataset { .. } => "webdataset",
            Self::Voc { .. } => "voc",
            Self::Shapes { .. } => "shapes",
        }
    }

    /// Where the files are, if that was said.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Cifar10 { path }
            | Self::Cifar100 { path }
            | Self::Stl10 { path, .. }
            | Self::Folder { path }
            | Self::Idx { path }
            | Self::List { path, .. }
            | Self::Packed { path }
            | Self::Parquet { path }
            | Self::Webdataset { path }
            | Self::Voc { path, .. } => path.as_deref(),
            Self::Shapes { .. } => None,
        }
    }

    /// Says where the files are; a [`DataError::Request`] for a set that has none.
    pub fn set_path(&mut self, new: impl Into<PathBuf>) -> Result<(), DataError> {
        match self {
            Self::Cifar10 { path }
            | Self::Cifar100 { path }
            | Self::Stl10 { path, .. }
            | Self::Folder { path }
            | Self::Idx { path }
            | Self::List { path, .. }
            | Self::Packed { path }
            | Self::Parquet { path }
            | Self::Webdataset { path }
            | Self::Voc { path, .. } => {
                *path = Some(new.into());
                Ok(())
            }
            Self::Shapes { .. } => Err(DataError::Request(
                "dataset shapes draws its own images and takes no path: leave out --data".into(),
            )),
        }
    }

    fn require_path<'a>(&self, path: Option<&'a PathBuf>) -> Result<&'a Path, DataError> {
        path.map(PathBuf::as_path).ok_or_else(|| {
            DataError::Request(format!("dataset {} needs a path: give --data PATH", self.kind()))
        })
    }
}

/// Opens one split of a source.
///
/// A missing path, or a split that the folder does not have, is a [`DataError::Request`]; the other
/// variants name the file at fault.
pub fn open(source: &Source, split: Split) -> Result<Arc<dyn ImageSet>, DataError> {
    Ok(match &*located(source) {
        Source::Cifar10 { path } => {
            let path = source.require_path(path.as_ref())?;
            Arc::new(Cifar::open(CifarVersion::Cifar10, path, split)?)
        }
        Source::Cifar100 { path } => {
            let path = source.require_path(path.as_ref())?;
            Arc::new(Cifar::open(CifarVersion::Cifar100, path, split)?)
        }
        Source::Stl10 { path, part } => {
            Arc::new(Stl10::open(source.require_path(path.as_ref())?, split, *part)?)
        }
        Source::Folder { path } => {
            Arc::new(Folder::open(source.require_path(path.as_ref())?, split)?)
        }
        Source::Idx { path } => Arc::new(Idx::open(source.require_path(path.as_ref())?, split)?),
        Source::List { path, root } => {
            let path = source.require_path(path.as_ref())?;
            Arc::new(List::open(path, root.as_deref(), split)?)
        }
        Source::Packed { path } => {
            Arc::new(Packed::open(source.require_path(path.as_ref())?, split)?)
        }
        Source::Parquet { path } => open_parquet(source.require_path(path.as_ref())?, split)?,
        Source::Webdataset { path } => {
            Arc::new(WebDataset::open(source.require_path(path.as_ref())?, split)?)
        }
        Source::Voc { path, part } => {
            Arc::new(Voc::open(source.require_path(path.as_ref())?, split, *part)?)
        }
        &Source::Shapes { train_images, test_images, size_pixels, seed } => {
            let images = match split {
                Split::Train => train_images,
                Split::Test => test_images,
            };
            Arc::new(Shapes::new(ShapesOptions { seed, split, images, size_pixels })?)
        }
    })
}

#[cfg(feature = "parquet")]
fn open_parquet(path: &Path, split: Split) -> Result<Arc<dyn ImageSet>, DataError> {
    Ok(Arc::new(crate::Parquet::open(path, split)?))
}

/// A path that is not there is told first, as for every other set.
#[cfg(not(feature = "parquet"))]
fn open_parquet(path: &Path, split: Split) -> Result<Arc<dyn ImageSet>, DataError> {
    crate::parquet::has_split(path, split).and(Err(crate::parquet::refuse(path)))
}

/// Whether the source has the split, without opening it: what a user put together may lack one.
pub fn has_split(source: &Source, split: Split) -> Result<bool, DataError> {
    match &*located(source) {
        Source::Folder { path } => Folder::has_split(source.require_path(path.as_ref())?, split),
        Source::Idx { path } => Idx::has_split(source.require_path(path.as_ref())?, split),
        Source::List { path, .. } => List::has_split(source.require_path(path.as_ref())?, split),
        Source::Packed { path } => Packed::has_split(source.require_path(path.as_ref())?, split),
        Source::Parquet { path } => {
            crate::parquet::has_split(source.require_path(path.as_ref())?, split)
        }
        Source::Webdataset { path } => {
            WebDataset::has_split(source.require_path(path.as_ref())?, split)
        }
        Source::Voc { path, part } => {
            Voc::has_split(source.require_path(path.as_ref())?, split, *part)
        }
        Source::Cifar10 { .. }
        | Source::Cifar100 { .. }
        | Source::Stl10 { .. }
        | Source::Shapes { .. } => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_from_toml_with_defaults_and_written_back() {
        let shapes: Source = toml::from_str("dataset = \"shapes\"\nsize_pixels = 48").unwrap();
        assert_eq!(
            shapes,
            Source::Shapes { train_images: 10_000, test_images: 2_000, size_pixels: 48, seed: 0 }
        );
        for (kind, bare) in [
            ("cifar10", Source::Cifar10 { path: None }),
            ("cifar100", Source::Cifar100 { path: None }),
            ("folder", Source::Folder { path: None }),
            ("idx", Source::Idx { path: None }),
            ("list", Source::List { path: None, root: None }),
            ("packed", Source::Packed { path: None }),
            ("parquet", Source::Parquet { path: None }),
            ("webdataset", Source::Webdataset { path: None }),
        ] {
            let text = format!("dataset = \"{kind}\"\n");
            assert_eq!(toml::from_str::<Source>(&text).unwrap(), bare);
            assert_eq!(toml::to_string(&bare).unwrap(), text);
            assert_eq!(bare.kind(), kind);
            let mut full = bare;
            full.set_path("some/where").unwrap();
            let text = toml::to_string(&full).unwrap();
            assert!(text.contains("path = \"some/where\""), "{text}");
            assert_eq!(toml::from_str::<Source>(&text).unwrap(), full);
        }
        assert_eq!(toml::from_str::<Source>(&toml::to_string(&shapes).unwrap()).unwrap(), shapes);
        assert_eq!(shapes.kind(), "shapes");
    }

    #[test]
    fn the_part_of_stl10_is_read_and_stated() {
        for (text, part) in [
            ("", Stl10Part::TrainAndUnlabeled),
            ("part = \"train_and_unlabeled\"", Stl10Part::TrainAndUnlabeled),
            ("part = \"train\"", Stl10Part::Train),
            ("part = \"unlabeled\"", Stl10Part::Unlabeled),
        ] {
            let source: Source = toml::from_str(&format!("dataset = \"stl10\"\n{text}")).unwrap();
            assert_eq!(source, Source::Stl10 { path: None, part });
            assert_eq!(source.kind(), "stl10");
            let written = toml::to_string(&source).unwrap();
            assert!(written.contains("\npart = \""), "{written}");
            assert_eq!(toml::from_str::<Source>(&written).unwrap(), source);
        }
        let mut source: Source = toml::from_str("dataset = \"stl10\"").unwrap();
        source.set_path("some/where").unwrap();
        assert_eq!(source.path(), Some(Path::new("some/where")));
        assert!(has_split(&source, Split::Test).unwrap());
    }

    #[test]
    fn the_part_of_voc_is_read_and_stated() {
        for (text, part) in [
            ("", VocPart::Trainval),
            ("part = \"train\"", VocPart::Train),
            ("part = \"val\"", VocPart::Val),
        ] {
            let source: Source = toml::from_str(&format!("dataset = \"voc\"\n{text}")).unwrap();
            assert_eq!((source.kind(), &source), ("voc", &Source::Voc { path: None, part }));
            let written = toml::to_string(&source).unwrap();
            assert_eq!(toml::from_str::<Source>(&written).unwrap(), source);
        }
    }

    #[test]
    fn a_list_is_opened_with_its_root_and_an_idx_folder_by_its_splits() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("some.txt");
        std::fs::write(&list, "a.png cat\n").unwrap();
        let root = folder.path().join("other");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("a.png"), "").unwrap();
        let text = format!("dataset = \"list\"\npath = {list:?}\nroot = {root:?}\n");
        let source: Source = toml::from_str(&text).unwrap();
        assert_eq!(toml::to_string(&source).unwrap(), text);
        let set = open(&source, Split::Train).unwrap();
        assert_eq!(
            (set.name(0), set.label(0)),
            (root.join("a.png").display().to_string(), Some(0))
        );
        assert!(!has_split(&source, Split::Test).unwrap());

        for (file, bytes) in [
            ("t10k-images-idx3-ubyte", &[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 77][..]),
            ("t10k-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 1, 2]),
        ] {
            std::fs::write(folder.path().join(file), bytes).unwrap();
        }
        let source = Source::Idx { path: Some(folder.path().to_owned()) };
        assert!(has_split(&source, Split::Test).unwrap());
        assert!(!has_split(&source, Split::Train).unwrap());
        let set = open(&source, Split::Test).unwrap();
        assert_eq!((set.image(0).unwrap().rgb(), set.label(0)), (&[77; 3][..], Some(2)));
    }

    #[test]
    fn unknown_keys_and_data_sets_are_named() {
        for (text, named) in [
            ("dataset = \"shapes\"\nsize = 3", "size"),
            ("dataset = \"cifar10\"\nsize_pixels = 3", "size_pixels"),
            ("dataset = \"stl10\"\npart = \"test\"", "unknown variant `test`"),
            ("dataset = \"mnist\"", "mnist"),
            ("path = \"x\"", "dataset"),
        ] {
            let message = toml::from_str::<Source>(text).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn opening_draws_as_many_shapes_as_the_split_asks_for() {
        let source = Source::Shapes { train_images: 30, test_images: 7, size_pixels: 16, seed: 1 };
        for (split, images) in [(Split::Train, 30), (Split::Test, 7)] {
            let set = open(&source, split).unwrap();
            assert_eq!(set.len(), images);
            assert_eq!(set.image(images - 1).unwrap().width(), 16);
            assert!(has_split(&source, split).unwrap());
        }
    }

    #[test]
    fn a_missing_or_needless_path_is_a_request_error() {
        for source in [
            Source::Cifar10 { path: None },
            Source::Cifar100 { path: None },
            Source::Stl10 { path: None, part: Stl10Part::default() },
            Source::Folder { path: None },
            Source::Idx { path: None },
            Source::List { path: None, root: None },
            Source::Packed { path: None },
            Source::Parquet { path: None },
            Source::Webdataset { path: None },
            Source::Voc { path: None, part: VocPart::default() },
        ] {
            let message = open(&source, Split::Train).err().unwrap().to_string();
            let expected = format!("dataset {} needs a path: give --data PATH", source.kind());
            assert_eq!(message, expected);
        }
        let mut shapes: Source = toml::from_str("dataset = \"shapes\"").unwrap();
        let message = shapes.set_path("x").unwrap_err().to_string();
        assert!(message.contains("draws its own images"), "{message}");
    }

    #[test]
    fn a_file_based_source_opens_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("nowhere");
        for mut source in [
            Source::Cifar10 { path: None },
            Source::Cifar100 { path: None },
            Source::Stl10 { path: None, part: Stl10Part::default() },
            Source::Folder { path: None },
            Source::Idx { path: None },
            Source::List { path: None, root: None },
            Source::Packed { path: None },
            Source::Parquet { path: None },
            Source::Webdataset { path: None },
            Source::Voc { path: None, part: VocPart::default() },
        ] {
            source.set_path(&missing).unwrap();
            let message = open(&source, Split::Train).err().unwrap().to_string();
            assert!(message.contains("nowhere"), "{message}");
        }
        let source = Source::Folder { path: Some(folder.path().to_owned()) };
        assert!(!has_split(&source, Split::Test).unwrap());
    }
}
