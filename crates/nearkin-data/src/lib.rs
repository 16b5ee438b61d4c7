//! Image sets: where pixels and labels come from.
//!
//! This crate exists so that everything behind it (augmentation, the loader, evaluation) sees one
//! interface, [`ImageSet`], whether images are drawn by code ([`shapes`]), sit in memory
//! ([`cifar`], [`idx`]) or are read from files ([`stl10`], [`folder`], [`list`], [`packed`],
//! [`parquet`], [`voc`], [`webdataset`]). It knows nothing of tensors and builds without libtorch.
//!
//! - A recipe names its data as a [`Source`]; [`open`] turns that and a [`Split`] into a set.
//! - A set hands out [`Image`]s: 8-bit RGB, each of its own size, safe to ask for from any thread.
//! - Whatever is wrong with a file is a [`DataError`] that names it. What can be known without
//!   decoding pixels is reported by `open`; a damaged image when it is asked for. Runs pass over a few
//!   of these ([`tolerant`]).
//! - Random numbers come from [`random`], as a pure function of where they are used.
//!
//! # Labels and splits
//!
//! Readers of what users put together share two rules.
//!
//! - **Labels.** An empty label, -1 (as text, integer or float), NaN and null mean that an image has no
//!   label, and so do `None`, `NA`, `N/A`, `<NA>`, `#N/A` and `NaT` among numbers; the name of a folder is
//!   always a class. Where all labels are whole numbers from 0, they count the classes, whether written `3` or
//!   `3.0`. Other numbers are classes in the order of their values, and anything else is the name of a
//!   class. Names are compared in Unicode normalization form C and ordered by their bytes. The classes of
//!   both splits are those of the train split, and a label that it does not have is an error.
//! - **Splits.** `train` and `training` name the train part; `val`, `valid`, `validation` and `dev` the
//!   validation part; `test`, `testing`, `eval`, `evaluation` and `holdout` the test part, in any case and
//!   among other words (`seg_train`, `ValSet`). The validation part is the test split where there are both. What
//!   names no part beside others that do is skipped and counted, or refused; it is never trained on.
//!
//! What is left out while a set is opened is counted by its reason: [`ImageSet::skipped`].
//!
//! ```
//! use nearkin_data::{ImageSet, Source, Split, open};
//!
//! let source = Source::Shapes { train_images: 100, test_images: 20, size_pixels: 32, seed: 0 };
//! let train = open(&source, Split::Train)?;
//! let image = train.image(3)?;
//! assert_eq!((train.len(), image.width(), image.height()), (100, 32, 32));
//! assert_eq!(train.label(3).map(|label| train.classes()[label].as_str()), Some("triangle"));
//! # Ok::<(), nearkin_data::DataError>(())
//! ```

mod beside;
pub mod cifar;
mod classes;
mod content;
pub mod decode;
mod detect;
mod entry;
mod escaped;
mod exif;
pub mod folder;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod idx;
mod image;
mod image_file;
pub mod inspect;
mod jpeg;
mod layout;
pub mod list;
mod list_beside;
pub mod list_line;
pub mod packed;
pub mod parquet;
pub mod pickle;
mod png;
pub mod random;
mod read_at;
pub mod scan;
mod set;
pub mod shapes;
mod skipped;
mod source;
mod split_files;
mod splits;
pub mod stl10;
#[cfg(test)]
mod test_files;
mod tiff;
pub mod tolerant;
pub mod voc;
pub mod webdataset;
mod webp;

pub use cifar::{Cifar, CifarVersion};
pub use escaped::Escaped;
pub use folder::Folder;
pub use idx::Idx;
pub use image::Image;
pub use list::List;
pub use packed::{PackWriter, Packed};
#[cfg(feature = "parquet")]
pub use parquet::Parquet;
pub use random::Random;
pub use set::{ClassLabels, DataError, ImageSet, Split, Subset, labelled, shared_classes};
pub use shapes::{Shapes, ShapesOptions};
pub use skipped::{Reason, Skipped, skipped_lines};
pub use source::{Source, has_split, open};
pub use stl10::{Stl10, Stl10Part};
pub use tolerant::{BadImages, Tolerant};
pub use voc::{Voc, VocPart};
pub use webdataset::WebDataset;
