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
//! - Everything else, such as notes, lists that repeat the folders and tables of other columns, is skipped.

use std::fs;
use std::path::{Path, PathBuf};

use crate::classes::{label_rank, plain};
use crate::folder::ANNOTATIONS;
use crate::list::{self, Description};
use crate::split_files::entries;
use crate::splits::{self, Naming, Part};
use crate::{DataError, Folder, ImageSet, List, Split};

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
    let lists = lists(path)?;
    if lists.is_empty() {
        return Ok(());
    }
    // Opening the folder again says what is wrong with it.
    let Ok(folder) = Folder::open(path, Split::Train) else { return Ok(()) };
    let has_test = Folder::has_split(path, Split::Test)?;
    let has_labels = folder.has_labels();
    if has_test && has_labels {
        return Ok(());
    }
    for list in &lists {
        let Some(description) = description(list, path) else { continue };
        if description.divides && !has_test {
            return Err(DataError::malformed(
                path,
                format!(
                    "{} says which images belong to which split, and the folders do not: give a list of \
                     the images to train on (paths and labels, relative to the list or to data.root), \
                     or sort the images into folders train and val; to train on all images, move the \
                     list away or set data.dataset to \"folder\"",
                    list.display()
                ),
            ));
        }
        if description.has_labels && !has_labels {
            let advice = match is_json(list) {
                true => "write it as a .csv with the columns path and label, and give that",
                false => "give the list itself",
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
    Ok(())
}

/// The files that may list images: in the folder, and in folders in it that are called like lists or
/// like splits.
fn lists(path: &Path) -> Result<Vec<PathBuf>, DataError> {
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
    found.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        // A sample of what a competition wants has labels that are made up.
        let is_other = name.starts_with('.') || name == ANNOTATIONS || name.contains("submission");
        !is_other && (list::is_list(file) || is_json(file))
    });
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
            Some(Description { has_labels: false, divides: true })
        }
        None => None,
        Some(Description { has_labels, divides }) => {
            let is_held_out = |part| part != Part::Train;
            let divides = divides
                || match naming {
                    Naming::Names(part) | Naming::Mentions(part) => is_held_out(part),
                    Naming::Several => true,
                    Naming::Nothing => false,
                };
            Some(Description { has_labels, divides })
        }
    }
}

/// The same for objects one by line, as the hub has them beside images.
fn json_description(list: &Path, folder: &Path) -> Option<Description> {
    let text = fs::read_to_string(list).ok()?;
    let line: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text.lines().next()?).ok()?;
    let file = line.iter().find(|(key, _)| plain(key) == "filename")?.1.as_str()?;
    let has_labels = line.keys().any(|key| label_rank(key).is_some());
    folder.join(file).is_file().then_some(Description { has_labels, divides: false })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

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
            (&CLASSES, &[("meta.csv", "path,split\na/0.png,train\na/1.png,test\n")], "meta.csv"),
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
