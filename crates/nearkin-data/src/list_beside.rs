//! Lists beside the images of a folder.
//!
//! A folder of images is read by the names of its folders alone. Where a list beside them says more,
//! which images are held out or what they show, and nobody looks at it, test images are trained on
//! and labels are lost without a word. So the lists are looked at before a folder is taken for one of
//! images:
//!
//! - Lists named for both splits are used if the folders do not divide the images, or the folder of the
//!   test split has no labels and its list has some.
//! - Other lists that lead to these images are refused if they tell splits, by their names or in a column,
//!   and the folders do not; or if they have labels and the folders do not. The message says what to give.
//! - Files of other kinds that are called like one of splits (`split_zhou.json`, `setid.mat`) are refused if
//!   they are text with words of both splits, and the folders do not divide; else a note names them.
//! - Where folders are the classes, a list with other labels of these images gets a note.
//! - Everything else, such as notes, lists that repeat the folders and tables of other columns, is skipped.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::classes::{label_rank, plain};
use crate::folder::ANNOTATIONS;
use crate::list::{self, Description};
use crate::split_files::entries;
use crate::splits::{self, Naming, Part};
use crate::{DataError, Folder, ImageSet, List, Skipped, Split};

/// Whether the lists of a folder divide its images, or label those of its test split, and its folders do
/// not.
pub(crate) fn lists_say_more(path: &Path) -> bool {
    let has_labels = |set: &dyn ImageSet| set.has_labels() || set.has_several_labels();
    let open = |split| List::open(path, None, split);
    let (Ok(_), Ok(test)) = (open(Split::Train), open(Split::Test)) else { return false };
    match Folder::has_split(path, Split::Test) {
        Ok(true) => {
            let folder = Folder::open(path, Split::Test);
            has_labels(&test) && folder.is_ok_and(|folder| !has_labels(&folder))
        }
        Ok(false) => true,
        // Opening the folder says what is wrong with it.
        Err(_) => false,
    }
}

/// Refuses a folder of images with a list that says what its folders do not.
///
/// [`DataError::Malformed`] with the list and what to give instead.
pub(crate) fn refuse_lists(path: &Path) -> Result<(), DataError> {
    let files = candidates(path)?;
    if !files.iter().any(|file| may_list_images(file) || is_split_file(file)) {
        return Ok(());
    }
    // Opening the folder again says what is wrong with it.
    let Ok(folder) = Folder::open(path, Split::Train) else { return Ok(()) };
    let has_test = Folder::has_split(path, Split::Test)?;
    let has_labels = folder.has_labels();
    if has_test && has_labels {
        return Ok(());
    }
    let Found { lists, others } = Found::describe(files, path);
    for (list, description) in &lists {
        let Some(description) = description else { continue };
        if description.divides && !has_test {
            // What hinders the lists from being used is what is wrong.
            return Err(match List::open(path, None, Split::Train) {
                Err(error @ DataError::Malformed { .. }) if list::part_of_list(list).is_some() => {
                    error
                }
                _ => divided(path, list),
            });
        }
        if description.has_labels && !has_labels {
            let advice = if is_json(list) {
                "write it as a .csv with the columns path and label, and give that"
            } else {
                "give the list itself"
            };
            return Err(DataError::malformed(
                path,
                format!(
                    "{} has labels of these images, and the folders have none: {advice}; to train \
                     without them, move the list away or set data.dataset to \"folder\"",
                    list.display()
                ),
            ));
        }
    }
    if has_test {
        return Ok(());
    }
    if let Some(file) = others.iter().find(|file| speaks_of_splits(file)) {
        return Err(divided(path, file));
    }
    let part = |file: &&PathBuf| {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        splits::part_of_file(&stem).filter(|_| list::is_list_of_splits(&stem))
    };
    let files = || lists.iter().map(|(list, _)| list).chain(&others);
    let has_train = files().any(|file| part(&file) == Some(Part::Train));
    match files().find(|file| has_train && part(file).is_some_and(|part| part != Part::Train)) {
        None => Ok(()),
        // That a list leads nowhere is what is wrong.
        Some(file) if list::is_list(file) => Err(match List::open(path, None, Split::Train) {
            Err(error @ DataError::Malformed { .. }) => error,
            _ => divided(path, file),
        }),
        Some(file) => Err(divided(path, file)),
    }
}

/// The error for images that only a file divides into splits.
fn divided(path: &Path, file: &Path) -> DataError {
    DataError::malformed(
        path,
        format!(
            "{} says which images belong to which split, and the folders do not: give a list of the images \
             to train on (paths and labels, relative to the list or to data.root), or sort the images into \
             folders train and val; to train on all images, move the file away or set data.dataset to \
             \"folder\"",
            file.display()
        ),
    )
}

/// Notes what lists say about a folder of images beside what its folders say, which are used. `class` gives
/// the class of an image of the train split by its path, and `has_test` says whether the folders divide.
pub(crate) fn note_lists(
    path: &Path,
    class: &dyn Fn(&Path) -> Option<String>,
    has_test: bool,
    skipped: &mut Skipped,
) -> Result<(), DataError> {
    let Found { lists, others } = Found::describe(candidates(path)?, path);
    let is_table_of_splits = |(file, description): &&(PathBuf, Option<Description>)| {
        description.is_none() && !is_split_file(file) && list::has_column_of_splits(file)
    };
    let tables: Vec<PathBuf> = if has_test {
        Vec::new()
    } else {
        lists.iter().filter(is_table_of_splits).map(|(file, _)| file.clone()).collect()
    };
    for (list, description) in lists {
        let description = description.unwrap_or_default();
        let labelled = description
            .found
            .iter()
            .filter_map(|(file, label)| Some((label.as_deref()?, class(file)?)));
        let note = if differ(labelled) {
            "has other labels of these images than their folders, which are used: give the list itself to \
             use its labels"
        } else if description.found.is_empty() && list::part_of_list(&list).is_some() {
            "is called like the list of a split, and the folders are used: give the list itself to use it"
        } else {
            continue;
        };
        skipped.note(format!("{} {note}", list.display()));
    }
    for file in tables {
        skipped.note(format!(
            "{} has a column of splits but none of paths to these images, and is not read: all images are in \
             the train split",
            file.display()
        ));
    }
    for file in others.into_iter().filter(|_| !has_test) {
        skipped.note(format!(
            "{} is called like a file of splits and is not read: all images are in the train split",
            file.display()
        ));
    }
    Ok(())
}

/// Whether labels tell images apart in another way than classes do.
fn differ<'a>(pairs: impl Iterator<Item = (&'a str, String)>) -> bool {
    let (mut classes, mut labels) = (BTreeMap::new(), BTreeMap::new());
    pairs.into_iter().any(|(label, class)| {
        let known = classes.entry(label).or_insert_with(|| class.clone());
        let is_other_class = *known != class;
        let known = labels.entry(class).or_insert(label);
        is_other_class || *known != label
    })
}

/// Files beside images that may say something about them.
struct Found {
    /// Those that may list images, with what they say about those in the folder.
    lists: Vec<(PathBuf, Option<Description>)>,
    /// Those that are called like files that divide images into splits, and list none.
    others: Vec<PathBuf>,
}

impl Found {
    /// Looks into the candidates in the folder `path`.
    fn describe(files: Vec<PathBuf>, path: &Path) -> Self {
        let mut found = Self { lists: Vec::new(), others: Vec::new() };
        for file in files {
            let (may_list, is_split) = (may_list_images(&file), is_split_file(&file));
            let is_read = (may_list || is_split) && (list::is_list(&file) || is_json(&file));
            let description = if is_read { description(&file, path) } else { None };
            if is_split && description.is_none() {
                found.others.push(file.clone());
            }
            if may_list {
                found.lists.push((file, description));
            }
        }
        found
    }
}

/// Whether a file is called like one that divides images into splits.
fn is_split_file(file: &Path) -> bool {
    const EXTENSIONS: [&str; 20] = [
        "csv", "h5", "hdf5", "json", "jsonl", "list", "lst", "mat", "npy", "npz", "ods", "pkl",
        "pt", "pth", "tsv", "txt", "xls", "xlsx", "yaml", "yml",
    ];
    let extension = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let is_named =
        splits::means_split_file(&stem) || !list::is_list(file) && list::is_list_of_splits(&stem);
    let is_other = stem.starts_with('.') || splits::means_fold(&stem);
    EXTENSIONS.contains(&extension.as_str()) && is_named && !is_other
}

/// Whether a file is text that speaks of several splits.
fn speaks_of_splits(file: &Path) -> bool {
    const HEAD_BYTES: u64 = 1 << 16;
    let mut head = Vec::new();
    let read = fs::File::open(file).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    read.is_ok() && splits::has_words_of_splits(&String::from_utf8_lossy(&head))
}

/// Whether a file may list images, told by its name.
fn may_list_images(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    // A sample of what a competition wants has labels that are made up.
    let is_other = name.starts_with('.') || name == ANNOTATIONS || name.contains("submission");
    !is_other && (list::is_list(file) || is_json(file))
}

/// The files in a folder, and in folders in it that are called like lists or like splits.
fn candidates(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    const FOLDERS: [&str; 11] = [
        "annotation",
        "annotations",
        "csv",
        "label",
        "labels",
        "list",
        "lists",
        "meta",
        "metadata",
        "split",
        "splits",
    ];
    let mut found = Vec::new();
    for entry in entries(path)? {
        let name = entry.name();
        if !entry.is_folder {
            found.push(entry.path);
        } else if FOLDERS.contains(&plain(&name).as_str())
            || splits::naming(&name) != Naming::Nothing
        {
            // One that may not be read has nothing to show.
            let inner = entries(&entry.path).unwrap_or_default();
            found.extend(inner.into_iter().filter(|file| !file.is_folder).map(|file| file.path));
        }
    }
    Ok(found)
}

fn is_json(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"))
}

/// What a file says about the images of a folder, if it lists them.
fn description(list: &Path, folder: &Path) -> Option<Description> {
    let beside = list.parent().unwrap_or(folder);
    if is_json(list) {
        return json_description(list, beside);
    }
    let stem = list.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let naming = splits::naming(&stem);
    let by_content = List::description(list, folder).or_else(|| List::description(list, beside));
    match by_content {
        // Whatever is in a list of several splits, it is about them.
        None if naming == Naming::Several && list::is_list_of_splits(&stem) => {
            Some(Description { divides: true, ..Description::default() })
        }
        None => None,
        Some(Description { has_labels, divides, found }) => {
            let is_held_out = |part| part != Part::Train;
            let divides = divides
                || match naming {
                    Naming::Names(part) | Naming::Mentions(part) => is_held_out(part),
                    Naming::Several => true,
                    Naming::Nothing => false,
                };
            Some(Description { has_labels, divides, found })
        }
    }
}

/// The same for objects one by line, as the hub has them beside images.
fn json_description(list: &Path, folder: &Path) -> Option<Description> {
    let text = fs::read_to_string(list).ok()?;
    let line: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text.lines().next()?).ok()?;
    let file = folder.join(line.iter().find(|(key, _)| plain(key) == "filename")?.1.as_str()?);
    let has_labels = line.keys().any(|key| label_rank(key).is_some());
    file.is_file().then(|| Description { has_labels, divides: false, found: vec![(file, None)] })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::detect::detect;

    /// Empty images, and lists with these texts.
    fn folder(images: &[&str], lists: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in
            images.iter().map(|image| (image, &"")).chain(lists.iter().map(|(a, b)| (a, b)))
        {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    /// The kind of set, or what is wrong with it.
    fn kind(images: &[&str], lists: &[(&str, &str)]) -> String {
        let root = folder(images, lists);
        match detect(root.path()) {
            Ok(source) => source.kind().to_owned(),
            Err(error) => error.to_string().replace(&format!("{}/", root.path().display()), ""),
        }
    }

    const CLASSES: [&str; 4] = ["a/0.png", "a/1.png", "b/2.png", "b/3.png"];
    const FLAT: [&str; 4] = ["images/0.png", "images/1.png", "images/2.png", "images/3.png"];

    /// The notes on a folder of images.
    fn notes(images: &[&str], lists: &[(&str, &str)]) -> Vec<String> {
        let root = folder(images, lists);
        let set = Folder::open(root.path(), Split::Train).unwrap();
        let shown = format!("{}/", root.path().display());
        set.skipped().notes().iter().map(|note| note.replace(&shown, "")).collect()
    }

    #[test]
    fn files_of_splits_that_are_no_lists_are_refused_or_noted() {
        for (name, text) in [
            ("split_zhou.json", r#"{"train": [[0, "a"]], "test": [[1, "b"]]}"#),
            ("splits/folds.yaml", "train: [0]\nval: [1]\n"),
            ("val.json", r#"{"training": [], "val": []}"#),
            ("trainval.lst", "0 train 1 val"),
            ("folds.csv", "image,kfold\n0,1\n1,2\n"),
            ("held_out.txt", "0.png\n"),
            ("data_holdout.csv", "image\n1\n"),
        ] {
            let message = kind(&FLAT, &[(name, text)]);
            let expected =
                format!(": {name} says which images belong to which split, and the folders");
            assert!(message.contains(&expected), "{name}: {message}");
        }
        for (train, test) in [
            ("train.lst", "val.lst"),
            ("train.xlsx", "test.xlsx"),
            ("train_idx.npy", "test_idx.npy"),
            ("instances_train2017.json", "instances_val2017.json"),
        ] {
            let message = kind(&CLASSES, &[(train, "x"), (test, "x")]);
            assert!(message.contains(&format!(": {test} says which images belong")), "{message}");
        }
        let dead = [("train.txt", "/home/me/0.png\n"), ("val.txt", "/home/me/1.png\n")];
        let message = kind(&FLAT, &dead);
        assert!(message.starts_with("train.txt: none of its 1 images is there"), "{message}");
        assert_eq!(notes(&FLAT, &dead[..1]).len(), 2);
        for (name, text) in [("setid.mat", "MATLAB"), ("split.npz", "PK"), ("split.json", "{}")] {
            assert_eq!(kind(&FLAT, &[(name, text)]), "folder");
            let expected = format!(
                "{name} is called like a file of splits and is not read: all images are in the train split"
            );
            assert!(notes(&CLASSES, &[(name, text)]).contains(&expected), "{name}");
            let divided = ["train/a/0.png", "train/b/1.png", "val/a/2.png", "val/b/3.png"];
            assert_eq!(notes(&divided, &[(name, text)]), [""; 0]);
        }
        let table = ("metadata.csv", ",patient,slide,split\n0,4,0,0\n1,17,1,2\n");
        let flags = ("meta.csv", "slide,is_test\n0,0\n1,1\n");
        assert_eq!(notes(&CLASSES, &[flags]).len(), 1);
        let expected = "metadata.csv has a column of splits but none of paths to these images, and is not \
                        read: all images are in the train split";
        assert_eq!(notes(&CLASSES, &[table]), [expected]);
        assert_eq!(
            notes(&CLASSES, &[("package.json", "{}"), ("config.yaml", "split: 1")]),
            [""; 0]
        );
    }

    #[test]
    fn labels_that_differ_from_the_folders_are_noted() {
        let other = "has other labels of these images than their folders, which are used: give the list \
                     itself to use its labels";
        let labels = "path,label\na/0.png,sick\na/1.png,well\nb/2.png,sick\n";
        assert_eq!(notes(&CLASSES, &[("labels.csv", labels)]), [format!("labels.csv {other}")]);
        let coarse = "path,label\na/0.png,x\na/1.png,x\nb/2.png,x\n";
        assert_eq!(notes(&CLASSES, &[("train.csv", coarse)]), [format!("train.csv {other}")]);
        let elsewhere = "Path,Age,Edema\nset/a/0.png,3,1\n";
        let expected = "train.csv is called like the list of a split, and the folders are used: give the \
                        list itself to use it";
        assert_eq!(notes(&CLASSES, &[("train.csv", elsewhere)]), [expected]);
        let same = "path,label\na/0.png,0\na/1.png,0\nb/2.png,1\n";
        assert_eq!(notes(&CLASSES, &[("labels.csv", same), ("train.csv", same)]), [""; 0]);
    }

    #[test]
    fn two_lists_of_a_split_are_named_rather_than_the_third() {
        let train = "path,label\nimages/0.png,a\n";
        let message = kind(
            &FLAT,
            &[("train.csv", train), ("train.txt", "images/1.png a\n"), ("test.csv", train)],
        );
        assert!(message.contains("train.txt: is there beside"), "{message}");
    }

    #[test]
    fn lists_of_both_splits_are_used_where_folders_do_not_divide() {
        let train = "path,label\na/0.png,a\nb/2.png,b\n";
        let test = "path,label\na/1.png,a\nb/3.png,b\n";
        assert_eq!(kind(&CLASSES, &[("train.csv", train), ("test.csv", test)]), "list");
        let lists =
            [("trainlist01.txt", "images/0.png 0\n"), ("testlist01.txt", "images/1.png 0\n")];
        assert_eq!(kind(&FLAT, &lists), "list");
        let images = ["Train/0/0.png", "Train/2/1.png", "Test/0.png"];
        let lists = [
            ("Train.csv", "ClassId,Path\n0,Train/0/0.png\n2,Train/2/1.png\n"),
            ("Test.csv", "ClassId,Path\n2,Test/0.png\n"),
        ];
        assert_eq!(kind(&images, &lists), "list");
        // These repeat the folders.
        let images = ["train/a/0.png", "train/b/1.png", "test/a/2.png", "test/b/3.png"];
        let lists = [
            ("train.csv", "path,label\ntrain/a/0.png,a\ntrain/b/1.png,b\n"),
            ("test.csv", "path,label\ntest/a/2.png,a\n"),
        ];
        assert_eq!(kind(&images, &lists), "folder");
    }

    #[test]
    fn other_lists_that_tell_splits_are_refused() {
        for (images, lists, named) in [
            (
                &CLASSES[..],
                &[("train_fold0.csv", "a/0.png,a\n"), ("val_fold0.csv", "a/1.png,a\n")][..],
                "val_fold0.csv",
            ),
            (
                &FLAT,
                &[("trainval.txt", "images/0.png\n"), ("test.txt", "images/1.png\n")],
                "test.txt",
            ),
            (
                &["images/p/0.jpg", "images/q/1.jpg"],
                &[("meta/train.txt", "p/0\n"), ("meta/test.txt", "q/1\n")],
                "meta/test.txt",
            ),
            (&CLASSES, &[("train_test_split.txt", "1 1\n2 0\n")], "train_test_split.txt"),
            (
                &FLAT,
                &[
                    ("images_variant_train.txt", "0 Boeing 707\n1 A330\n"),
                    ("images_variant_test.txt", "2 Boeing 707\n3 A330-200\n"),
                ],
                "images_variant_test.txt",
            ),
            (
                &CLASSES,
                &[("metadata.csv", "img_id,img_filename,y,split\n1,a/0.png,0,0\n2,b/2.png,1,2\n")],
                "metadata.csv",
            ),
            (&CLASSES, &[("meta.csv", "path,split\na/0.png,train\na/1.png,test\n")], "meta.csv"),
            (
                &["all/0.png", "all/1.png"],
                &[("splits.txt", "0.png train\n1.png val\n")],
                "splits.txt",
            ),
            (
                &["all/0.png", "all/1.png"],
                &[("split.csv", "0.png,train\n1.png,test\n")],
                "split.csv",
            ),
            (
                &["images_1/images/0.png", "images_2/images/1.png"],
                &[("train_val_list.txt", "0.png\n"), ("test_list.txt", "1.png\n")],
                "test_list.txt",
            ),
        ] {
            let message = kind(images, lists);
            let expected =
                format!(": {named} says which images belong to which split, and the folders");
            assert!(message.contains(&expected), "{named}: {message}");
        }
    }

    #[test]
    fn labels_that_folders_do_not_have_are_not_dropped() {
        for (images, list, text) in [
            (&["0.png", "1.png"][..], "metadata.csv", "file_name,label\n0.png,x\n1.png,y\n"),
            (&["train/7f.jpg", "test/8e.jpg"], "labels.csv", "id,breed\n7f,husky\n"),
            (&["train-jpg/t_0.jpg"], "train_v2.csv", "image_name,tags\nt_0,haze primary\n"),
            (&["train/0.png", "val/1.png"], "train/metadata.csv", "file_name,label\n0.png,x\n"),
            (&["0.png"], "metadata.jsonl", "{\"file_name\": \"0.png\", \"label\": 0}\n"),
            (&["0.png", "1.png"], "_classes.csv", "filename,cat,dog\n0.png,1,0\n1.png,1,1\n"),
            (
                &["H_images_part_1/i0.jpg", "H_images_part_2/i1.jpg"],
                "H_metadata.csv",
                "image_id,dx\ni0,nv\ni1,mel\n",
            ),
        ] {
            let message = kind(images, &[(list, text)]);
            let expected =
                format!("{list} has labels of these images, and the folders have none: ");
            assert!(message.contains(&expected), "{list}: {message}");
        }
    }

    #[test]
    fn lists_that_say_no_more_than_the_folders_are_skipped() {
        for (images, list, text) in [
            (&CLASSES[..], "notes.csv", "date,what\n2020,begun\n"),
            (&CLASSES, "metadata.csv", "path,label\na/0.png,a\na/1.png,a\n"),
            (&CLASSES, "train.csv", "path,label\na/0.png,a\nb/2.png,b\n"),
            (&CLASSES, "test_log.txt", "epoch 1\n"),
            (&["0.png", "1.png"], "captions.csv", "file,caption\n0.png,a cat\n1.png,a dog\n"),
            (&["0.png", "1.png"], "sizes.csv", "file,width,height\n0.png,3,2\n1.png,3,4\n"),
            (&["0.png"], "metadata.jsonl", "{\"file_name\": \"0.png\", \"text\": \"a cat\"}\n"),
            (&["train/0.png", "test/0.png"], "sample_submission.csv", "id,label\n0,cat\n"),
        ] {
            assert_eq!(kind(images, &[(list, text)]), "folder", "{list}");
        }
    }
}
