//! Folders of image files, with or without classes, with or without splits.
//!
//! The layout is recognised from what is there:
//!
//! - `ROOT/CLASS/*.jpg`: every folder is a class, named and ordered by the folder's name; folders
//!   inside it belong to it.
//! - `ROOT/*.jpg`: images without labels.
//! - `ROOT/train/...` and `ROOT/val/...` or `ROOT/test/...`: one of the two above for each split.
//!   The test split is `val` where both exist, as in ImageNet, whose `test` has no labels. Its
//!   classes are those of `train`, so that labels mean the same in both.
//!
//! Tiny-ImageNet as it is published is read too: where `val` holds a folder `images` and the file
//! `val_annotations.txt`, that file says which class of `train` an image belongs to. Where a file
//! `words.txt` beside `train` describes every class folder, classes are called by these words.
//!
//! Images are files whose names end as those of images do (see [`decode`](mod@crate::decode));
//! others and hidden ones are ignored. They are decoded when asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::decode::EXTENSIONS;
use crate::image_file::read_image;
use crate::scan::{self, Listing};
use crate::{DataError, Image, ImageSet, Split};

/// Beside [`ANNOTATIONS`], the images of Tiny-ImageNet's validation split.
const ANNOTATED: &str = "images";
const ANNOTATIONS: &str = "val_annotations.txt";
const WORDS: &str = "words.txt";

/// The images of one split of a folder, decoded on request.
pub struct Folder {
    /// The folder that was listed: that of the split, or the annotated one in it.
    root: PathBuf,
    files: Listing,
    /// One for each file; empty without classes.
    labels: Vec<u32>,
    classes: Vec<String>,
}

impl Folder {
    /// Lists the images of a split; none is opened yet.
    ///
    /// [`DataError::Request`] if the folder does not have the split, [`DataError::Empty`] if there
    /// are no images in it or in one of its class folders, [`DataError::Malformed`] if it is a
    /// file, mixes images and class folders, or has a class in the test split that `train` lacks.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        let layout = Layout::of(path)?;
        let Some(root) = layout.folder(split) else {
            return Err(missing(path, split));
        };
        let annotations = root.join(ANNOTATIONS);
        let mut folder = match annotations.is_file() && root.join(ANNOTATED).is_dir() {
            true => Self::annotated(root, &annotations)?,
            false => Self::list(root)?,
        };
        if split == Split::Test
            && !folder.classes.is_empty()
            && let Some(train) = layout.folder(Split::Train)
        {
            folder.adopt_classes(root, train)?;
        }
        folder.describe_classes(&path.join(WORDS))?;
        Ok(folder)
    }

    /// Whether `open` has something to open. A folder without `train`, `val` or `test` in it is a
    /// train split and nothing else.
    pub fn has_split(path: &Path, split: Split) -> Result<bool, DataError> {
        Ok(Layout::of(path)?.folder(split).is_some())
    }

    fn list(root: &Path) -> Result<Self, DataError> {
        let files = scan::scan(root, scan::index_folder().as_deref())?;
        let (mut classes, mut labels, mut without_images) = (Vec::new(), Vec::new(), None);
        for (name, images) in files.top_folders() {
            if images == 0 {
                without_images = without_images.or(Some(name));
                continue;
            }
            labels.resize(labels.len() + images, classes.len() as u32);
            classes.push(name.to_string_lossy().into_owned());
        }
        match (labels.is_empty(), files.files_at_top() == 0) {
            (true, true) => Err(DataError::empty(
                root,
                format!("looked for {} files and for class folders of them", EXTENSIONS.join(", ")),
            )),
            (true, false) => Ok(Self { root: root.to_owned(), files, labels, classes }),
            (false, false) => Err(DataError::malformed(
                root,
                format!(
                    "holds both images ({}) and folders with images ({}); move the images into \
                     class folders, or the folders away",
                    files.path(0).unwrap_or_default().display(),
                    classes[0]
                ),
            )),
            (false, true) => match without_images {
                Some(class) => Err(DataError::empty(
                    &root.join(class),
                    "it is a class folder like its neighbours; fill it or remove it",
                )),
                None => Ok(Self { root: root.to_owned(), files, labels, classes }),
            },
        }
    }

    fn path(&self, index: usize) -> PathBuf {
        self.root.join(self.files.path(index).unwrap_or_default())
    }

    /// The images of `root/images`, each with the class that the annotations give it.
    fn annotated(root: &Path, annotations: &Path) -> Result<Self, DataError> {
        let bytes = fs::read(annotations).map_err(DataError::read(annotations))?;
        let mut annotated = parse_annotations(&bytes, annotations)?;
        let distinct: BTreeSet<&str> = annotated.values().copied().collect();
        let classes: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
        let folder = root.join(ANNOTATED);
        let files = scan::scan(&folder, scan::index_folder().as_deref())?;
        let mut labels = Vec::with_capacity(files.len());
        for name in (0..files.len()).filter_map(|index| files.path(index)) {
            let Some(class) = name.to_str().and_then(|name| annotated.remove(name)) else {
                return Err(DataError::malformed(
                    &folder.join(&name),
                    format!("has no line in {}", annotations.display()),
                ));
            };
            labels.push(classes.partition_point(|other| other.as_str() < class) as u32);
        }
        match annotated.first_key_value() {
            Some((name, _)) => Err(DataError::malformed(
                annotations,
                format!("names {name}, which is not in {}; unpack it again", folder.display()),
            )),
            None if files.is_empty() => Err(DataError::empty(&folder, "the annotations name none")),
            None => Ok(Self { root: folder, files, labels, classes }),
        }
    }

    /// Calls the classes by their words, if there is a file that has some for all of them. Classes
    /// with the same words keep their own name behind them.
    fn describe_classes(&mut self, words: &Path) -> Result<(), DataError> {
        if self.classes.is_empty() || !words.is_file() {
            return Ok(());
        }
        let bytes = fs::read(words).map_err(DataError::read(words))?;
        let known = parse_words(&bytes, words)?;
        let found = self.classes.iter().map(|class| known.get(class.as_str()).copied());
        let Some(found) = found.collect::<Option<Vec<&str>>>() else { return Ok(()) };
        let mut uses = BTreeMap::new();
        found.iter().for_each(|words| *uses.entry(*words).or_insert(0) += 1);
        let describe = |(class, words): (&String, &&str)| match uses.get(words) {
            Some(1) => (*words).to_owned(),
            _ => format!("{words} ({class})"),
        };
        self.classes = self.classes.iter().zip(&found).map(describe).collect();
        Ok(())
    }

    /// Numbers the classes as the train split does.
    fn adopt_classes(&mut self, root: &Path, train: &Path) -> Result<(), DataError> {
        let folders = scan::folders_in(train)?;
        if folders.is_empty() {
            return Ok(());
        }
        let classes: Vec<String> =
            folders.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let mut numbers = Vec::with_capacity(self.classes.len());
        for class in &self.classes {
            let Some(number) = classes.iter().position(|other| other == class) else {
                return Err(DataError::malformed(
                    &root.join(class),
                    format!("is a class that {} does not have", train.display()),
                ));
            };
            numbers.push(number as u32);
        }
        for label in &mut self.labels {
            *label = numbers[*label as usize];
        }
        self.classes = classes;
        Ok(())
    }
}

impl ImageSet for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        read_image(&self.path(index))
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.labels.get(index).map(|&label| label as usize)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        self.path(index).display().to_string()
    }
}

/// Reads the annotations of Tiny-ImageNet: the class of every file name. Of the fields of a line,
/// which tabs separate, these are the second and the first; a box follows.
pub fn parse_annotations<'a>(
    bytes: &'a [u8],
    path: &Path,
) -> Result<BTreeMap<&'a str, &'a str>, DataError> {
    let mut classes = BTreeMap::new();
    for (index, line) in text_lines(bytes, path)? {
        let refuse = |reason: String| DataError::malformed(path, format!("line {index}: {reason}"));
        let mut fields = line.split('\t');
        let (Some(file), Some(class)) = (fields.next(), fields.next()) else {
            return Err(refuse("a file name, a tab and a class were expected".into()));
        };
        if classes.insert(file, class).is_some() {
            return Err(refuse(format!("{file} has a line already")));
        }
    }
    Ok(classes)
}

/// Reads the words of ImageNet's classes: lines of a class, a tab and words.
pub fn parse_words<'a>(
    bytes: &'a [u8],
    path: &Path,
) -> Result<BTreeMap<&'a str, &'a str>, DataError> {
    let lines = text_lines(bytes, path)?;
    Ok(lines.filter_map(|(_, line)| line.split_once('\t')).collect())
}

/// The lines that are not empty, numbered from 1.
fn text_lines<'a>(
    bytes: &'a [u8],
    path: &Path,
) -> Result<impl Iterator<Item = (usize, &'a str)>, DataError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| DataError::malformed(path, format!("is not text: {error}")))?;
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    Ok(lines.filter(|(_, line)| !line.trim().is_empty()))
}

/// Where the splits of a folder are.
struct Layout {
    train: Option<PathBuf>,
    test: Option<PathBuf>,
}

impl Layout {
    fn of(path: &Path) -> Result<Self, DataError> {
        if !fs::metadata(path).map_err(DataError::read(path))?.is_dir() {
            return Err(DataError::malformed(path, "is a file; give a folder of images"));
        }
        let folder = |name| Some(path.join(name)).filter(|folder| folder.is_dir());
        let layout = Self { train: folder("train"), test: folder("val").or(folder("test")) };
        if layout.train.is_none() && layout.test.is_none() {
            return Ok(Self { train: Some(path.to_owned()), test: None });
        }
        if layout.test.is_none() {
            refuse_class_named_train(path)?;
        }
        Ok(layout)
    }

    fn folder(&self, split: Split) -> Option<&Path> {
        match split {
            Split::Train => self.train.as_deref(),
            Split::Test => self.test.as_deref(),
        }
    }
}

/// `train` beside other folders of images, and no test split, may well be a class (of vehicles,
/// say); to take it for a split would leave out everything else without a word.
fn refuse_class_named_train(path: &Path) -> Result<(), DataError> {
    for name in scan::folders_in(path)?.iter().filter(|name| *name != "train") {
        if scan::holds_images(&path.join(name))? {
            return Err(DataError::malformed(
                path,
                format!(
                    "has images in train and in {}: if train is a split, move the others away; if \
                     it is a class, put all classes into a folder of their own named train",
                    name.to_string_lossy()
                ),
            ));
        }
    }
    Ok(())
}

fn missing(path: &Path, split: Split) -> DataError {
    let wanted = match split {
        Split::Train => "a folder train",
        Split::Test => "a folder val or test",
    };
    let path = path.display();
    DataError::Request(format!("{path} has no {split} split: put it into {wanted} there"))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{
        DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage,
    };
    use tempfile::TempDir;

    use super::*;
    use crate::decode::decode;

    fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn png(width: u32, height: u32) -> Vec<u8> {
        let gradient = |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, 90]);
        encode(RgbImage::from_fn(width, height, gradient), ImageFormat::Png)
    }

    fn jpeg() -> Vec<u8> {
        let texture = |x: u32, y: u32| Rgb([(x * y) as u8, (x * 31) as u8, (y * 17) as u8]);
        encode(RgbImage::from_fn(64, 48, texture), ImageFormat::Jpeg)
    }

    /// A folder with the given files, each a PNG unless it brings its bytes.
    fn tree(files: &[&str]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            write(&root, file, png(4, 3));
        }
        root
    }

    fn write(root: &TempDir, file: &str, bytes: impl AsRef<[u8]>) {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Every file with its class, as `class: file`.
    fn listing(root: &TempDir, split: Split) -> Vec<String> {
        let set = Folder::open(root.path(), split).unwrap();
        let entry = |index| {
            let name = set.name(index);
            let name = Path::new(&name).strip_prefix(root.path()).unwrap().display().to_string();
            match set.label(index) {
                Some(label) => format!("{}: {name}", set.classes()[label]),
                None => name,
            }
        };
        (0..set.len()).map(entry).collect()
    }

    fn failure(root: &Path, split: Split) -> String {
        Folder::open(root, split).err().expect("an error").to_string()
    }

    /// The message for a folder with one image of these bytes.
    fn damage(file: &str, bytes: &[u8]) -> String {
        let root = tempfile::tempdir().unwrap();
        write(&root, file, bytes);
        let set = Folder::open(root.path(), Split::Train).unwrap();
        let message = set.image(0).unwrap_err().to_string();
        assert!(message.contains(file), "{message}");
        message
    }

    #[test]
    fn class_folders_are_sorted_and_hold_what_is_nested_in_them() {
        let root = tree(&[
            "b/2.PNG",
            "b/1.jpeg",
            "a/deep/er/x.webp",
            "a/z.JPG",
            "a/.hidden.png",
            ".git/x.png",
            "b/notes.txt",
            "readme.md",
        ]);
        let expected = ["a: a/z.JPG", "a: a/deep/er/x.webp", "b: b/1.jpeg", "b: b/2.PNG"];
        assert_eq!(listing(&root, Split::Train), expected);
        assert!(!Folder::has_split(root.path(), Split::Test).unwrap());
        let message = failure(root.path(), Split::Test);
        assert!(message.contains("has no test split: put it into a folder val or test"));
    }

    #[test]
    fn a_flat_folder_has_no_labels() {
        let root = tree(&["b.png", "a.jpg", "labels/table.csv"]);
        let set = Folder::open(root.path(), Split::Train).unwrap();
        assert_eq!(listing(&root, Split::Train), ["a.jpg", "b.png"]);
        assert!(!set.has_labels());
    }

    #[test]
    fn the_test_split_is_val_or_test() {
        let root = tree(&["train/1.png", "test/2.png", "stray/3.png"]);
        assert_eq!(listing(&root, Split::Train), ["train/1.png"]);
        assert_eq!(listing(&root, Split::Test), ["test/2.png"]);
        write(&root, "val/4.png", png(4, 3));
        assert_eq!(listing(&root, Split::Test), ["val/4.png"]);
        assert!(Folder::has_split(root.path(), Split::Test).unwrap());
        let only_test = tree(&["test/2.png"]);
        let message = failure(only_test.path(), Split::Train);
        assert!(message.contains("has no train split: put it into a folder train"), "{message}");
    }

    #[test]
    fn a_class_named_train_is_not_taken_for_a_split() {
        let root = tree(&["train/1.png", "bus/2.png"]);
        let message = failure(root.path(), Split::Train);
        assert!(message.contains("has images in train and in bus"), "{message}");
        let nested = tree(&["train/train/1.png", "train/bus/2.png", "labels/table.csv"]);
        let set = Folder::open(nested.path(), Split::Train).unwrap();
        assert_eq!(set.classes(), ["bus", "train"]);
    }

    #[test]
    fn tiny_imagenet_is_read_as_it_is_published() {
        let root = tree(&[
            "train/n02/images/n02_0.JPEG",
            "train/n01/images/n01_0.JPEG",
            "train/n01/images/n01_1.JPEG",
            "train/n03/images/n03_0.JPEG",
            "val/images/val_0.JPEG",
            "val/images/val_1.JPEG",
            "test/images/test_0.JPEG",
        ]);
        write(&root, "train/n01/n01_boxes.txt", "n01_0.JPEG\t0\t10\t63\t58\n");
        write(&root, "wnids.txt", "n02\nn01\nn03\n");
        let lines = "val_1.JPEG\tn03\t0\t32\t44\t62\nval_0.JPEG\tn01\t52\t55\t57\t59\n";
        write(&root, "val/val_annotations.txt", lines);
        let train = [
            "n01: n01/images/n01_0.JPEG",
            "n01: n01/images/n01_1.JPEG",
            "n02: n02/images/n02_0.JPEG",
            "n03: n03/images/n03_0.JPEG",
        ];
        assert_eq!(listing(&root, Split::Train), train.map(|line| line.replace(": ", ": train/")));
        let test = ["n01: val/images/val_0.JPEG", "n03: val/images/val_1.JPEG"];
        assert_eq!(listing(&root, Split::Test), test);

        // The words of more classes than are here, two of them alike.
        let words = "n00\tentity\nn01\tcrane\nn02\tgoldfish, Carassius auratus\nn03\tcrane\n";
        write(&root, "words.txt", words);
        let expected = ["crane (n01)", "goldfish, Carassius auratus", "crane (n03)"];
        for split in [Split::Train, Split::Test] {
            assert_eq!(Folder::open(root.path(), split).unwrap().classes(), expected);
        }
        write(&root, "words.txt", "n01\tcrane\n");
        assert_eq!(Folder::open(root.path(), Split::Test).unwrap().classes()[0], "n01");

        for (lines, named) in [
            ("val_0.JPEG\tn01\n", "val_1.JPEG: has no line in "),
            ("val_0.JPEG\tn01\nval_1.JPEG\tn01\nval_2.JPEG\tn01\n", "names val_2.JPEG, which is"),
            ("val_0.JPEG\tn01\nval_0.JPEG\tn01\n", "line 2: val_0.JPEG has a line already"),
            ("\nval_0.JPEG n01\n", "line 2: a file name, a tab and a class were expected"),
            ("val_0.JPEG\tn01\nval_1.JPEG\tn09\n", "val/n09: is a class that "),
        ] {
            write(&root, "val/val_annotations.txt", lines);
            let message = failure(root.path(), Split::Test);
            assert!(message.contains(named), "{message}");
        }
        write(&root, "val/val_annotations.txt", b"\xff");
        assert!(failure(root.path(), Split::Test).contains("val_annotations.txt: is not text"));
    }

    #[test]
    fn the_real_tiny_imagenet_is_read() {
        let folder = std::env::var_os("NEARKIN_DATA").map(PathBuf::from);
        let Some(path) =
            folder.map(|path| path.join("tiny-imagenet-200")).filter(|path| path.is_dir())
        else {
            eprintln!("skipped: set NEARKIN_DATA to the folder that holds tiny-imagenet-200");
            return;
        };
        for (split, per_class) in [(Split::Train, 500), (Split::Test, 50)] {
            let set = Folder::open(&path, split).unwrap();
            let mut counts = vec![0; set.classes().len()];
            (0..set.len()).for_each(|index| counts[set.label(index).unwrap()] += 1);
            assert_eq!(counts, vec![per_class; counts.len()]);
            for index in (0..set.len()).step_by(7) {
                let image = set.image(index).unwrap();
                assert_eq!((image.width(), image.height()), (64, 64), "{}", set.name(index));
            }
        }
    }

    #[test]
    fn the_test_split_numbers_classes_as_the_train_split_does() {
        let root = tree(&["train/a/1.png", "train/b/1.png", "train/c/1.png", "val/c/1.png"]);
        let test = Folder::open(root.path(), Split::Test).unwrap();
        assert_eq!((test.label(0), test.classes().concat().as_str()), (Some(2), "abc"));
        write(&root, "val/d/1.png", png(4, 3));
        let message = failure(root.path(), Split::Test);
        assert!(message.contains("val/d: is a class that "), "{message}");
    }

    #[test]
    fn folders_without_usable_content_are_named() {
        let root = tempfile::tempdir().unwrap();
        let message = failure(root.path(), Split::Train);
        assert!(message.starts_with("no images in "), "{message}");
        assert!(
            message.contains("looked for bmp, jfif, jpe, jpeg, jpg, png, tif, tiff, webp files"),
            "{message}"
        );
        let message = failure(&root.path().join("gone"), Split::Train);
        assert!(message.starts_with("cannot read ") && message.contains("gone"), "{message}");
        write(&root, "file.png", png(4, 3));
        let message = failure(&root.path().join("file.png"), Split::Train);
        assert!(message.contains("file.png: is a file; give a folder"), "{message}");
        write(&root, "cats/1.png", png(4, 3));
        let message = failure(root.path(), Split::Train);
        assert!(message.contains("both images (file.png) and folders with images (cats)"));

        let root = tree(&["cats/1.png", "dogs/notes.txt"]);
        let message = failure(root.path(), Split::Train);
        assert!(message.starts_with("no images in ") && message.contains("dogs"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_but_not_in_circles() {
        use std::os::unix::fs::symlink;
        let elsewhere = tree(&["1.png"]);
        let root = tree(&["a/1.png"]);
        symlink(elsewhere.path(), root.path().join("b")).unwrap();
        assert_eq!(listing(&root, Split::Train), ["a: a/1.png", "b: b/1.png"]);
        symlink(root.path(), root.path().join("a/loop")).unwrap();
        let message = failure(root.path(), Split::Train);
        assert!(message.contains("a/loop: is a link to a folder that it lies in"), "{message}");
        fs::remove_file(root.path().join("a/loop")).unwrap();
        symlink("nowhere", root.path().join("a/2.png")).unwrap();
        let message = failure(root.path(), Split::Train);
        assert!(message.starts_with("cannot read ") && message.contains("a/2.png"), "{message}");
    }

    #[test]
    fn every_kind_of_pixel_becomes_rgb() {
        let root = tempfile::tempdir().unwrap();
        let grey = GrayImage::from_pixel(2, 1, Luma([77]));
        let deep = ImageBuffer::from_pixel(2, 1, Rgb([0xffff_u16, 0x8000, 0]));
        let transparent = RgbaImage::from_pixel(2, 1, Rgba([10, 20, 30, 0]));
        write(&root, "a.png", encode(grey, ImageFormat::Png));
        write(&root, "b.png", encode(deep, ImageFormat::Png));
        write(&root, "c.png", encode(transparent.clone(), ImageFormat::Png));
        write(&root, "d.webp", encode(transparent, ImageFormat::WebP));
        // The name is wrong; the content decides.
        write(&root, "e.jpg", png(2, 1));
        write(&root, "f.png", palette_png());
        let set = Folder::open(root.path(), Split::Train).unwrap();
        let expected = [
            [77, 77, 77, 77, 77, 77],
            [255, 128, 0, 255, 128, 0],
            [10, 20, 30, 10, 20, 30],
            [10, 20, 30, 10, 20, 30],
            [0, 0, 90, 7, 0, 90],
            [200, 100, 50, 1, 2, 3],
        ];
        for (index, expected) in expected.iter().enumerate() {
            let image = set.image(index).unwrap();
            assert_eq!((image.width(), image.height()), (2, 1));
            assert_eq!(image.rgb(), expected, "{}", set.name(index));
        }
    }

    /// A 2x1 PNG of two palette colours, put together here because the encoder writes none.
    fn palette_png() -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        for (kind, data) in [
            (b"IHDR", &[0, 0, 0, 2, 0, 0, 0, 1, 8, 3, 0, 0, 0][..]),
            (b"PLTE", &[1, 2, 3, 200, 100, 50]),
            // Zlib with one stored block: no filter, entries 1 and 0, then Adler-32.
            (b"IDAT", &[0x78, 1, 1, 3, 0, 0xfc, 0xff, 0, 1, 0, 0, 5, 0, 2]),
            (b"IEND", &[]),
        ] {
            bytes.extend((data.len() as u32).to_be_bytes());
            let start = bytes.len();
            bytes.extend(kind);
            bytes.extend(data);
            let mut remainder = u32::MAX;
            for byte in &bytes[start..] {
                remainder ^= u32::from(*byte);
                for _ in 0..8 {
                    remainder = (remainder >> 1) ^ (0xedb8_8320 & (remainder & 1).wrapping_neg());
                }
            }
            bytes.extend((!remainder).to_be_bytes());
        }
        bytes
    }

    #[test]
    fn damaged_images_are_named_when_asked_for() {
        assert!(damage("empty.jpg", b"").contains("the file is empty"));
        assert!(damage("page.png", b"<html>not found</html>").contains("is an HTML page"));
        assert!(damage("start.jpg", &[0xff, 0xd8, 0xff]).contains("cannot decode"));
        let webp = encode(RgbImage::new(20, 20), ImageFormat::WebP);
        for (file, sound) in [("cut.png", png(40, 30)), ("cut.jpg", jpeg()), ("cut.webp", webp)] {
            damage(file, &sound[..sound.len() / 2]);
            damage(file, &sound[..sound.len() - sound.len() / 10]);
        }
    }

    #[test]
    fn a_truncated_jpeg_is_refused_in_spite_of_a_whole_thumbnail() {
        let sound = jpeg();
        let mut bytes = sound[..2].to_vec();
        bytes.extend([0xff, 0xe1]);
        bytes.extend((2 + sound.len() as u16).to_be_bytes());
        bytes.extend(&sound);
        bytes.extend(&sound[2..]);
        assert!(decode(&bytes, Path::new("some.jpg")).is_ok());
        let message = damage("cut.jpg", &bytes[..bytes.len() - 20]);
        assert!(message.contains("the JPEG is truncated"), "{message}");
        // Bytes after the end are common and harmless.
        bytes.extend([0; 40]);
        assert!(decode(&bytes, Path::new("some.jpg")).is_ok());
    }

    #[test]
    fn a_decompression_bomb_is_refused_before_it_is_decoded() {
        let mut bytes = jpeg();
        let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        bytes[frame + 5..frame + 9].fill(0xff);
        let message = damage("bomb.jpg", &bytes);
        assert!(message.contains("65535x65535 pixels are more than the 134217728"), "{message}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_annotations_or_refused(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            let _ = parse_annotations(&bytes, Path::new("some.txt"));
            let _ = parse_words(&bytes, Path::new("some.txt"));
        }

        #[test]
        fn any_bytes_after_a_sound_start_are_decoded_or_refused(
            kept in 0..200_usize, tail in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        ) {
            for sound in [png(20, 20), jpeg()] {
                let bytes = [&sound[..kept.min(sound.len())], &tail].concat();
                if let Ok(image) = decode(&bytes, Path::new("some")) {
                    proptest::prop_assert_eq!(image.rgb().len(), image.width() * image.height() * 3);
                }
            }
        }
    }
}
