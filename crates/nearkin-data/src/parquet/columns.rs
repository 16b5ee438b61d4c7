//! Which columns of a file hold images, labels and splits.
//!
//! The rules stand in the documentation of [`parquet`](crate::parquet).

use ::parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use ::parquet::file::metadata::KeyValue;
use ::parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type};
use serde::Deserialize;

use crate::classes::{is_coordinate, label_rank, plain};
use crate::splits::part_values;

/// The usual names of columns of images, in lower case and letters alone; the clearest first.
const IMAGE_NAMES: [&str; 17] = [
    "image",
    "img",
    "images",
    "imagebytes",
    "imgbytes",
    "imagedata",
    "imgdata",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "picture",
    "photo",
    "bytes",
    "binary",
    "content",
    "data",
];

/// What the columns of a file are, by their places among the leaves of its schema.
#[derive(Debug)]
pub(super) struct Columns {
    /// Columns that may hold images, the likeliest first.
    pub(super) images: Vec<ImageColumn>,
    pub(super) labels: Option<LabelColumn>,
    /// Columns that may tell splits, by their names or, if they are text, by their values.
    pub(super) parts: Vec<LabelColumn>,
    /// The root of each leaf.
    roots: Vec<usize>,
    /// The name and the type of each root.
    described: Vec<(String, String)>,
}

/// A column that may hold images.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImageColumn {
    pub(super) leaf: usize,
    /// Whether its name says so; if not, its content has to.
    pub(super) is_named: bool,
}

/// A column of labels.
#[derive(Clone, Debug)]
pub(super) struct LabelColumn {
    pub(super) leaf: usize,
    pub(super) name: String,
    pub(super) form: Form,
    pub(super) is_list: bool,
    /// Whether its text is not said to be one, so that it may be anything.
    pub(super) is_binary: bool,
    /// The names of its classes, if it counts them.
    pub(super) names: Option<Vec<String>>,
}

/// How the values of a column are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Boolean,
    Integer,
    Unsigned,
    Float,
    /// A float of 16 bits.
    Half,
    /// An integer with as many digits behind the point.
    Decimal(u32),
}

/// What the `datasets` library says about the columns.
#[derive(Default, Deserialize)]
struct Described {
    info: Info,
}

#[derive(Default, Deserialize)]
struct Info {
    features: serde_json::Map<String, serde_json::Value>,
}

impl Described {
    fn new(entries: Option<&Vec<KeyValue>>) -> Self {
        let mut entries = entries.into_iter().flatten();
        let entry = entries.find(|entry| entry.key == "huggingface");
        let text = entry.and_then(|entry| entry.value.as_deref());
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    fn is(feature: &serde_json::Value, kind: &str) -> bool {
        feature.get("_type").and_then(serde_json::Value::as_str) == Some(kind)
    }

    fn is_image(&self, column: &str) -> bool {
        self.info.features.get(column).is_some_and(|feature| Self::is(feature, "Image"))
    }

    /// The class column of this name, or the one whose lists hold classes.
    fn classes(&self, column: &str) -> Option<&serde_json::Value> {
        let feature = self.info.features.get(column)?;
        let inner = feature.get("feature").unwrap_or(feature);
        Self::is(inner, "ClassLabel").then_some(inner)
    }

    fn class_names(&self, column: &str) -> Option<Vec<String>> {
        let names = self.classes(column)?.get("names")?.as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }
}

impl Columns {
    /// Reads the schema of a file.
    pub(super) fn new(schema: &SchemaDescriptor, entries: Option<&Vec<KeyValue>>) -> Self {
        let described = Described::new(entries);
        let roots = schema.root_schema().get_fields();
        let root_of = |leaf: usize| schema.get_column_root_idx(leaf);
        let mut columns = Self {
            images: Vec::new(),
            labels: None,
            parts: Vec::new(),
            roots: (0..schema.num_columns()).map(root_of).collect(),
            described: roots.iter().map(|r| (r.name().to_owned(), type_name(r))).collect(),
        };
        columns.images = columns.find_images(schema, &described);
        columns.labels = columns.find_labels(schema, &described);
        columns.parts = columns.find_parts(schema, &described);
        columns
    }

    /// The names of the classes that labels count, if they have any.
    pub(super) fn class_names(&self) -> Option<&[String]> {
        self.labels.as_ref().and_then(|labels| labels.names.as_deref())
    }

    fn find_images(&self, schema: &SchemaDescriptor, described: &Described) -> Vec<ImageColumn> {
        let mut ranked = Vec::new();
        for (leaf, column) in schema.columns().iter().enumerate() {
            if column.physical_type() != Physical::BYTE_ARRAY
                || column.max_rep_level() > 0
                || column.logical_type_ref().is_some()
                || column.converted_type() != ConvertedType::NONE
            {
                continue;
            }
            let (name, _) = &self.described[self.roots[leaf]];
            let is_struct = column.path().parts().len() > 1;
            let is_bytes = !is_struct || matches!(column.name(), "bytes" | "data");
            let known = plain(name);
            let usual = IMAGE_NAMES.iter().position(|usual| *usual == known);
            let rank = match usual {
                _ if described.is_image(name) => (0, usual.unwrap_or(IMAGE_NAMES.len())),
                Some(place) if is_bytes => (1, place),
                _ if is_struct && is_bytes => (2, 0),
                _ => (3, 0),
            };
            ranked.push((rank, leaf));
        }
        ranked.sort_unstable();
        let column = |((rank, _), leaf)| ImageColumn { leaf, is_named: rank < 2 };
        ranked.into_iter().map(column).collect()
    }

    fn find_labels(&self, schema: &SchemaDescriptor, described: &Described) -> Option<LabelColumn> {
        let mut ranked = Vec::new();
        for (leaf, column) in schema.columns().iter().enumerate() {
            let (name, kind) = &self.described[self.roots[leaf]];
            // A list is called by its root, whatever its elements are called.
            let is_root = column.path().parts().len() == 1 || kind == "list";
            let name = if is_root { name } else { column.name() };
            let is_described = is_root && described.classes(name).is_some();
            let others = self.described.iter().map(|(other, _)| other.as_str());
            let rank = label_rank(name).filter(|_| !is_coordinate(name, others));
            if is_described || rank.is_some() {
                ranked.push((!is_described, !is_root, rank.unwrap_or(usize::MAX), leaf));
            }
        }
        ranked.sort_unstable();
        ranked.into_iter().find_map(|(_, is_nested, _, leaf)| {
            let column = schema.column(leaf);
            let is_list = column.max_rep_level() == 1;
            let is_flat = column.max_rep_level() == 0 || is_list && !is_nested;
            let leaves = self.roots.iter().filter(|&&root| root == self.roots[leaf]).count();
            let (name, _) = &self.described[self.roots[leaf]];
            Some(LabelColumn {
                leaf,
                name: column.path().string(),
                form: form(&column).filter(|_| is_flat && (!is_list || leaves == 1))?,
                is_list,
                is_binary: type_name(column.self_type()) == "binary",
                names: described.class_names(name).filter(|_| !is_nested),
            })
        })
    }

    fn find_parts(&self, schema: &SchemaDescriptor, described: &Described) -> Vec<LabelColumn> {
        let roots = schema.root_schema().get_fields();
        let label = self.labels.as_ref().map(|label| label.leaf);
        let others = (0..schema.num_columns()).filter(|&leaf| Some(leaf) != label);
        let candidate = |leaf: usize| {
            let column = schema.column(leaf);
            let form = form(&column).filter(|_| column.max_rep_level() == 0)?;
            let is_text =
                roots[self.roots[leaf]].is_primitive() && type_name(column.self_type()) == "string";
            (is_text || part_values(column.name()).is_some()).then(|| LabelColumn {
                leaf,
                name: column.path().string(),
                form,
                is_list: false,
                is_binary: false,
                names: described.class_names(column.name()),
            })
        };
        others.filter_map(candidate).collect()
    }

    /// The columns that are not read, with their types. What is beside the bytes of an image, its path, is
    /// part of it.
    pub(super) fn ignored(&self, schema: &SchemaDescriptor, image: usize) -> Vec<String> {
        let parent = |leaf: usize| {
            let column = schema.column(leaf);
            let parts = column.path().parts();
            parts[..parts.len() - 1].to_vec()
        };
        let is_used = |leaf: usize| {
            let is_label = self.labels.as_ref().is_some_and(|labels| labels.leaf == leaf);
            let is_image = leaf == image;
            let is_path = !parent(leaf).is_empty()
                && parent(leaf) == parent(image)
                && schema.column(leaf).name() == "path";
            is_label || is_image || is_path
        };
        let mut ignored = Vec::new();
        for (root, (name, kind)) in self.described.iter().enumerate() {
            let leaves = || (0..self.roots.len()).filter(|&leaf| self.roots[leaf] == root);
            if !leaves().any(is_used) {
                ignored.push(format!("{name} ({kind})"));
                continue;
            }
            for leaf in leaves().filter(|&leaf| !is_used(leaf)) {
                let column = schema.column(leaf);
                let kind = type_name(column.self_type());
                ignored.push(format!("{} ({kind})", column.path().string()));
            }
        }
        ignored
    }

    /// The error for a file without images.
    pub(super) fn refusal(&self) -> String {
        let columns: Vec<String> =
            self.described.iter().map(|(name, kind)| format!("{name} ({kind})")).collect();
        let names_images = self.described.iter().any(|(name, kind)| {
            kind == "string"
                && (IMAGE_NAMES.contains(&plain(name).as_str()) || {
                    let name = plain(name);
                    name.contains("path") || name.contains("filename") || name.contains("url")
                })
        });
        let hint = if names_images {
            "; it only names images: write a list (dataset = \"list\") of the files"
        } else {
            ""
        };
        format!(
            "has no column of images, which is binary or a struct with bytes in it; its columns are \
             {}{hint}",
            columns.join(", ")
        )
    }
}

/// How the values of a column are written, if they can be labels.
fn form(column: &ColumnDescriptor) -> Option<Form> {
    let (logical, converted) = (column.logical_type_ref(), column.converted_type());
    let decimal = || {
        let is_decimal =
            matches!(logical, Some(LogicalType::Decimal(_))) || converted == ConvertedType::DECIMAL;
        is_decimal.then(|| Form::Decimal(u32::try_from(column.type_scale()).unwrap_or(0)))
    };
    let is_plain = logical.is_none() && converted == ConvertedType::NONE;
    match column.physical_type() {
        Physical::BOOLEAN => Some(Form::Boolean),
        Physical::FLOAT | Physical::DOUBLE => Some(Form::Float),
        Physical::INT32 | Physical::INT64 => match (logical, converted) {
            (Some(LogicalType::Integer(kind)), _) => {
                Some(if kind.is_signed { Form::Integer } else { Form::Unsigned })
            }
            (
                None,
                ConvertedType::UINT_8
                | ConvertedType::UINT_16
                | ConvertedType::UINT_32
                | ConvertedType::UINT_64,
            ) => Some(Form::Unsigned),
            (
                None,
                ConvertedType::NONE
                | ConvertedType::INT_8
                | ConvertedType::INT_16
                | ConvertedType::INT_32
                | ConvertedType::INT_64,
            ) => Some(Form::Integer),
            _ => decimal(),
        },
        Physical::BYTE_ARRAY => match (logical, converted) {
            (Some(LogicalType::String | LogicalType::Enum | LogicalType::Json), _)
            | (None, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON) => {
                Some(Form::Text)
            }
            _ if is_plain => Some(Form::Text),
            _ => decimal(),
        },
        Physical::FIXED_LEN_BYTE_ARRAY if logical == Some(&LogicalType::Float16) => {
            Some(Form::Half)
        }
        Physical::FIXED_LEN_BYTE_ARRAY => decimal(),
        Physical::INT96 => None,
    }
}

/// What to call a type in a message.
fn type_name(root: &Type) -> String {
    let info = root.get_basic_info();
    let (logical, converted) = (info.logical_type_ref(), info.converted_type());
    if root.is_group() {
        let is_list = logical == Some(&LogicalType::List) || converted == ConvertedType::LIST;
        let is_map = logical == Some(&LogicalType::Map) || converted == ConvertedType::MAP;
        return (if is_list {
            "list"
        } else if is_map {
            "map"
        } else {
            "struct"
        })
        .to_owned();
    }
    let name = match (logical, converted) {
        (Some(LogicalType::String), _) | (None, ConvertedType::UTF8) => "string",
        (Some(LogicalType::Enum), _) | (None, ConvertedType::ENUM) => "enum",
        (Some(LogicalType::Json), _) | (None, ConvertedType::JSON) => "JSON",
        (Some(LogicalType::Decimal(_)), _) | (None, ConvertedType::DECIMAL) => "decimal",
        (Some(LogicalType::Date), _) | (None, ConvertedType::DATE) => "date",
        (Some(LogicalType::Time(_)), _) => "time",
        (Some(LogicalType::Timestamp(_)), _) => "timestamp",
        (Some(LogicalType::Uuid), _) => "UUID",
        (Some(LogicalType::Float16), _) => "float16",
        (Some(LogicalType::Unknown), _) => "null",
        _ => match root.get_physical_type() {
            Physical::BOOLEAN => "boolean",
            Physical::INT32 => "int32",
            Physical::INT64 => "int64",
            Physical::INT96 => "timestamp",
            Physical::FLOAT => "float",
            Physical::DOUBLE => "double",
            Physical::BYTE_ARRAY => "binary",
            Physical::FIXED_LEN_BYTE_ARRAY => "fixed binary",
        },
    };
    name.to_owned()
}
