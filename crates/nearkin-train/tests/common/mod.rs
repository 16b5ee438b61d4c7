//! Every recipe of the project, cut down to drawn images of at most 32 pixels and networks of a few
//! channels.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

const WIDEST_LAYER: i64 = 16;
const LONGEST_QUEUE: i64 = 32;
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes")
}

/// Paths relative to `recipes/`, in order, with the texts.
pub(crate) fn recipes() -> Vec<(PathBuf, String)> {
    let (mut folders, mut files) = (vec![root()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                files.push(path);
            }
        }
    }
    files.sort();
    let named = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().to_owned(), text)
    };
    files.into_iter().map(named).collect()
}

pub(crate) fn table_of<'a>(table: &'a mut Table, key: &str) -> &'a mut Table {
    let entry = table.entry(key).or_insert_with(|| Table::new().into());
    entry.as_table_mut().unwrap()
}

fn at_most(table: &mut Table, key: &str, largest: i64) {
    if let Some(Value::Integer(value)) = table.get_mut(key) {
        *value = largest.min(*value);
    }
}

/// From 224 pixels to 32 and from 32 to 16, so that views of different sizes stay different.
fn cut_size(size: &mut Value) {
    if let Value::Integer(size) = size
        && *size > 16
    {
        *size = (*size / 7).max(16);
    }
}

fn cut_sizes(transforms: &mut Value) {
    for transform in transforms.as_array_mut().unwrap() {
        for (_, options) in transform.as_table_mut().unwrap() {
            options.get_mut("size").into_iter().for_each(cut_size);
        }
    }
}

/// The recipe at a size that trains in a moment; what is not named here stays as it was.
pub(crate) fn shrink(table: &mut Table, batch: i64, epochs: i64) {
    table.remove("limit_images");
    let splits = table.get("momentum_encoder").and_then(|encoder| encoder.get("batch_norm_splits"));
    let batch = batch.max(2 * splits.and_then(Value::as_integer).unwrap_or(1));

    let data = Table::from_iter([
        ("dataset".to_owned(), "shapes".into()),
        ("train_images".to_owned(), batch.into()),
        ("size_pixels".to_owned(), 32.into()),
    ]);
    table.insert("data".to_owned(), data.into());

    let model = table_of(table, "model");
    if let Some(Value::Table(transformer)) = model.get_mut("vision_transformer") {
        transformer.get_mut("image_size").into_iter().for_each(cut_size);
        for (key, value) in [("depth", 2), ("width", 8), ("heads", 2)] {
            transformer.insert(key.to_owned(), value.into());
        }
    } else {
        model.insert("base_width".to_owned(), 4.into());
    }
    for part in ["projector", "predictor"] {
        for layer in model.get_mut(part).and_then(Value::as_array_mut).into_iter().flatten() {
            at_most(layer.as_table_mut().unwrap(), "width", WIDEST_LAYER);
        }
    }
    if let Some(queue) = table.get_mut("queue") {
        at_most(queue.as_table_mut().unwrap(), "size", LONGEST_QUEUE);
    }

    let training = table_of(table, "training");
    training.remove("accumulate_batches");
    training.insert("epochs".to_owned(), epochs.into());
    training.insert("batch_size".to_owned(), batch.into());
    training.insert("record_every_steps".to_owned(), 1.into());
    // Weights may change for what the loss says about them only.
    table_of(table, "optimizer").insert("weight_decay".to_owned(), 0.0.into());
    table_of(table, "schedule").insert("warmup_epochs".to_owned(), 0.into());
    let checkpoint = table_of(table, "checkpoint");
    checkpoint.insert("every_epochs".to_owned(), 1.into());
    checkpoint.insert("keep".to_owned(), epochs.into());

    let evaluation = table_of(table, "evaluation");
    evaluation.insert("every_epochs".to_owned(), 0.into());
    evaluation.get_mut("transforms").into_iter().for_each(cut_sizes);
    for view in table.get_mut("views").and_then(Value::as_array_mut).into_iter().flatten() {
        view.get_mut("transforms").into_iter().for_each(cut_sizes);
    }
}
