//! Looks at a whole set before hours are spent on it.
//!
//! A training run meets a damaged image when its turn comes, and never notices that half of the test
//! images are in the train split too. [`inspect`] decodes every image once and finds both.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use sha2::{Digest, Sha256};

pub use crate::detect::{detect, other_kind};
use crate::{DataError, ImageSet, Packed, Skipped, Source, Split, has_split, open};

/// All that was found at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The kind of set, as the `dataset` of a recipe names it.
    pub dataset: &'static str,
    /// Train before test; sets without held-back images have only one.
    pub splits: Vec<SplitInspection>,
    /// Groups of images with the same pixels, each of two or more, within and across splits.
    pub duplicates: Vec<Vec<Copy>>,
}

/// One split of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SplitInspection {
    /// `train` or `test`.
    pub split: &'static str,
    /// All images, readable or not.
    pub images: usize,
    /// Images without a label.
    pub unlabelled: usize,
    /// Every class in label order.
    pub classes: Vec<ClassCount>,
    /// Widths of the readable images; `None` if there are none.
    pub width: Option<Spread>,
    /// Heights of the same.
    pub height: Option<Spread>,
    /// Images that cannot be decoded.
    pub unreadable: Vec<Unreadable>,
    /// What was left out while the split was opened, by reason.
    pub skipped: Skipped,
    /// How the split was read, where that is not plain to see.
    pub notes: Vec<String>,
}

/// A class and how many images have it; an image may have several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The class.
    pub name: String,
    /// Its images.
    pub images: usize,
}

/// Numbers of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub minimum: usize,
    /// The middle one; of two, the smaller.
    pub median: usize,
    /// The largest.
    pub maximum: usize,
}

/// An image that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its path or record.
    pub image: String,
    /// Why, with the path again.
    pub reason: String,
}

/// One of several images with the same pixels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// `train` or `test`.
    pub split: &'static str,
    /// Its path or record.
    pub image: String,
}

/// The splits that a source has, train first.
///
/// If it has none, the error is that of [`open`], which says what a split would need.
pub fn splits(source: &Source) -> Result<Vec<Split>, DataError> {
    let mut found = Vec::new();
    for split in [Split::Train, Split::Test] {
        if has_split(source, split)? {
            found.push(split);
        }
    }
    if found.is_empty() {
        open(source, Split::Train)?;
    }
    Ok(found)
}

/// The first half of a SHA-256 of size and pixels.
type Fingerprint = [u8; 16];

/// What came of decoding one image: width, height and fingerprint, or why not.
type Decoded = Result<(usize, usize, Fingerprint), String>;

/// Decodes every image of a source, with so many threads.
///
/// An image that cannot be decoded is listed; errors are those of [`open`], and a wrong checksum of
/// a packed file.
pub fn inspect(source: &Source, threads: NonZeroUsize) -> Result<Inspection, DataError> {
    let mut inspections = Vec::new();
    let mut groups: HashMap<Fingerprint, Vec<Copy>> = HashMap::new();
    let mut order = Vec::new();
    for split in splits(source)? {
        if let Source::Packed { path: Some(path) } = source
            && inspections.is_empty()
        {
            Packed::open(path, split)?.verify()?;
        }
        let set = open(source, split)?;
        let decoded = decode_all(&*set, threads);
        let name = split_name(split);
        for (index, decoded) in decoded.iter().enumerate() {
            if let Ok((_, _, fingerprint)) = decoded {
                let copies = groups.entry(*fingerprint).or_default();
                if copies.is_empty() {
                    order.push(*fingerprint);
                }
                copies.push(Copy { split: name, image: set.name(index) });
            }
        }
        inspections.push(summarise(&*set, name, &decoded));
    }
    let duplicates = order
        .iter()
        .filter_map(|fingerprint| groups.remove(fingerprint))
        .filter(|copies| copies.len() > 1)
        .collect();
    Ok(Inspection { dataset: source.kind(), splits: inspections, duplicates })
}

fn split_name(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Test => "test",
    }
}

fn summarise(set: &dyn ImageSet, split: &'static str, decoded: &[Decoded]) -> SplitInspection {
    let mut counts = vec![0; set.classes().len()];
    let mut unlabelled = 0;
    for index in 0..set.len() {
        let several = set.labels(index);
        let present = several.into_iter().flat_map(|labels| labels.present);
        for label in present.map(|&label| label as usize).chain(set.label(index)) {
            if let Some(count) = counts.get_mut(label) {
                *count += 1;
            }
        }
        unlabelled += usize::from(several.is_none() && set.label(index).is_none());
    }
    let named = set.classes().iter().zip(counts);
    let failed = decoded.iter().enumerate().filter_map(|(index, decoded)| {
        let reason = decoded.as_ref().err()?.clone();
        Some(Unreadable { image: set.name(index), reason })
    });
    let sizes = || decoded.iter().filter_map(|decoded| decoded.as_ref().ok());
    SplitInspection {
        split,
        images: set.len(),
        unlabelled,
        classes: named.map(|(name, images)| ClassCount { name: name.clone(), images }).collect(),
        width: spread(sizes().map(|(width, _, _)| *width).collect()),
        height: spread(sizes().map(|(_, height, _)| *height).collect()),
        unreadable: failed.collect(),
        skipped: set.skipped().clone(),
        notes: set.skipped().notes().to_vec(),
    }
}

fn spread(mut values: Vec<usize>) -> Option<Spread> {
    values.sort_unstable();
    Some(Spread {
        minimum: *values.first()?,
        median: values[(values.len() - 1) / 2],
        maximum: *values.last()?,
    })
}

fn decode_all(set: &dyn ImageSet, threads: NonZeroUsize) -> Vec<Decoded> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::with_capacity(set.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.get() {
            scope.spawn(|| {
                let mut own = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= set.len() {
                        break;
                    }
                    own.push((index, decode(set, index)));
                }
                all.lock().unwrap_or_else(PoisonError::into_inner).extend(own);
            });
        }
    });
    let mut all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_unstable_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, decoded)| decoded).collect()
}

fn decode(set: &dyn ImageSet, index: usize) -> Decoded {
    let image = set.image(index).map_err(|error| error.to_string())?;
    let digest = Sha256::new()
        .chain_update(image.width().to_le_bytes())
        .chain_update(image.rgb())
        .finalize();
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&digest[..16]);
    Ok((image.width(), image.height(), fingerprint))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use image::{Rgb, RgbImage};
    use tempfile::TempDir;

    use super::*;
    use crate::{Image, PackWriter};

    fn save(root: &TempDir, file: &str, (width, height): (u32, u32), level: u8) -> PathBuf {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(width, height, Rgb([level, 0, 90])).save(&path).unwrap();
        path
    }

    /// Two classes, one damaged image, and a test image that is in the train split too.
    fn folder() -> TempDir {
        let root = tempfile::tempdir().unwrap();
        save(&root, "train/a/1.png", (4, 3), 1);
        save(&root, "train/a/2.png", (6, 6), 1);
        save(&root, "train/a/3.png", (40, 30), 7);
        save(&root, "train/b/4.png", (4, 4), 9);
        fs::write(root.path().join("train/b/5.png"), "not an image").unwrap();
        save(&root, "val/b/6.png", (4, 3), 1);
        // The same bytes in another shape are another image.
        save(&root, "val/b/7.png", (3, 4), 1);
        root
    }

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn classes_sizes_damage_and_copies_are_found() {
        let root = folder();
        let source = detect(root.path()).unwrap();
        let found = inspect(&source, threads(3)).unwrap();
        assert_eq!(found.dataset, "folder");
        let [train, test] = &found.splits[..] else { panic!("{found:?}") };
        assert_eq!((train.split, train.images, train.unlabelled), ("train", 5, 0));
        let counts: Vec<_> =
            train.classes.iter().map(|class| (class.name.as_str(), class.images)).collect();
        assert_eq!(counts, [("a", 3), ("b", 2)]);
        assert_eq!(train.width, Some(Spread { minimum: 4, median: 4, maximum: 40 }));
        assert_eq!(train.height, Some(Spread { minimum: 3, median: 4, maximum: 30 }));
        let [unreadable] = &train.unreadable[..] else { panic!("{train:?}") };
        assert!(unreadable.image.ends_with("b/5.png"), "{unreadable:?}");
        assert!(unreadable.reason.contains("not that of a JPEG"), "{unreadable:?}");
        assert_eq!((test.split, test.images), ("test", 2));
        assert_eq!(test.classes[0], ClassCount { name: "a".into(), images: 0 });
        let [copies] = &found.duplicates[..] else { panic!("{:?}", found.duplicates) };
        let splits: Vec<_> = copies.iter().map(|copy| copy.split).collect();
        assert_eq!(splits, ["train", "test"]);
        assert!(copies[1].image.ends_with("6.png"));
        assert_eq!(inspect(&source, threads(1)).unwrap(), found);
    }

    #[test]
    fn a_packed_file_is_checked_to_its_last_pixel() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("set.packed");
        let mut writer = PackWriter::create(&path, &[]).unwrap();
        for level in [1_u8, 1, 2] {
            let image = Image::new(2, 2, vec![level; 12]).unwrap();
            writer.push(Split::Train, &image, None).unwrap();
        }
        writer.finish().unwrap();
        let source = detect(&path).unwrap();
        let found = inspect(&source, threads(2)).unwrap();
        assert_eq!((found.dataset, found.splits.len()), ("packed", 1));
        assert_eq!(found.splits[0].unlabelled, 3);
        assert_eq!(found.duplicates.len(), 1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[130] ^= 1;
        fs::write(&path, bytes).unwrap();
        let message = inspect(&source, threads(2)).unwrap_err().to_string();
        assert!(message.contains("the checksum of its pixels is wrong"), "{message}");
    }

    #[test]
    fn what_lies_beside_folders_of_images_does_not_hide_them() {
        let root = tempfile::tempdir().unwrap();
        save(&root, "train/n01/images/n01_0.png", (4, 3), 1);
        save(&root, "val/images/val_0.png", (4, 3), 2);
        for (file, text) in [
            ("val/val_annotations.txt", "val_0.png\tn01\t0\t0\t3\t2\n"),
            ("words.txt", "n01\tgoldfish\n"),
            ("train.txt", "n01/images/n01_0.png\n"),
            ("train.tar", "no archive"),
            ("train/n01.tar", "no archive"),
        ] {
            fs::write(root.path().join(file), text).unwrap();
        }
        let source = detect(root.path()).unwrap();
        let found = inspect(&source, threads(2)).unwrap();
        assert_eq!(found.dataset, "folder");
        let goldfish = ClassCount { name: "goldfish".into(), images: 1 };
        for split in &found.splits {
            assert_eq!(split.classes, std::slice::from_ref(&goldfish));
        }
        assert_eq!(found.splits.len(), 2);
    }

    #[test]
    fn the_median_of_an_even_number_is_the_smaller() {
        assert_eq!(spread(vec![]), None);
        let expected = Spread { minimum: 1, median: 2, maximum: 9 };
        assert_eq!(spread(vec![9, 1, 2, 3]), Some(expected));
    }
}
