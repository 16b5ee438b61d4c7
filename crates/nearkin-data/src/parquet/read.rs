//! Columns, row groups and pages.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::parquet::basic::Type as Physical;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::{ParquetError, Result as Parsed};
use ::parquet::file::metadata::page_index::RowGroupPageIndex;
use ::parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader};
use ::parquet::file::properties::ReaderProperties;
use ::parquet::file::reader::{ChunkReader, Length, RowGroupReader};
use ::parquet::file::serialized_reader::SerializedRowGroupReader;
use bytes::Bytes;
use serde::Deserialize;

use super::files;
use crate::decode::{decode, guarded};
use crate::{DataError, Image, ImageSet, Split};

/// Unpacked row groups in memory, at most.
const CACHE_BYTES: u64 = 256 << 20;
/// Row groups of which it is remembered that an image was asked for.
const RECENT_GROUPS: usize = 16;
/// A larger class is no class but a mistake, and every one below it would need a name.
const MAX_CLASSES: u32 = 1 << 20;
/// Labels that are read at once.
const LABELS_AT_ONCE: usize = 4096;

/// The images of one split, read from their row groups when asked for.
#[derive(Debug)]
pub struct Parquet {
    files: Vec<Table>,
    groups: Vec<Group>,
    images: usize,
    /// Empty without a column of classes.
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
    cache: Mutex<Cache>,
}

/// A file, and which of its columns matter.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    metadata: Arc<ParquetMetaData>,
    images: usize,
    labels: Option<usize>,
    names: Option<Vec<String>>,
}

/// A row group and the number of its first image.
#[derive(Clone, Copy, Debug)]
struct Group {
    file: usize,
    number: usize,
    first: usize,
    rows: usize,
}

/// The image files of a row group; none for an empty cell.
type Unpacked = Arc<[Option<ByteArray>]>;

#[derive(Debug, Default)]
struct Cache {
    /// Groups asked for lately, the last one at the end.
    recent: Vec<usize>,
    /// Unpacked groups with their length, the last one used at the end.
    groups: Vec<(usize, u64, Unpacked)>,
}

impl Cache {
    fn get(&mut self, group: usize) -> Option<Unpacked> {
        let at = self.groups.iter().position(|(number, _, _)| *number == group)?;
        let entry = self.groups.remove(at);
        let unpacked = Arc::clone(&entry.2);
        self.groups.push(entry);
        Some(unpacked)
    }

    /// Notes that an image of the group was asked for, and whether one was before.
    fn touch(&mut self, group: usize) -> bool {
        let known = self.recent.iter().position(|&number| number == group);
        if let Some(at) = known {
            self.recent.remove(at);
        } else if self.recent.len() == RECENT_GROUPS {
            self.recent.remove(0);
        }
        self.recent.push(group);
        known.is_some()
    }

    fn insert(&mut self, group: usize, bytes: u64, unpacked: Unpacked) {
        self.groups.retain(|(number, _, _)| *number != group);
        let held = |cache: &Self| cache.groups.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        while !self.groups.is_empty() && held(self) + bytes > CACHE_BYTES {
            self.groups.remove(0);
        }
        self.groups.push((group, bytes, unpacked));
    }
}

/// Bytes at a position; what a file claims about itself never makes more of them than there are.
trait ReadAt: Send + Sync {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, at)
    }
}

/// A file as the parquet crate wants it. Its own way shares one position between all readers.
struct Chunks<R> {
    source: Arc<R>,
    length: u64,
}

struct ChunkRead<R> {
    source: Arc<R>,
    at: u64,
}

impl<R: ReadAt> Read for ChunkRead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read_at(buffer, self.at)?;
        // The parquet crate passes over what it does not know without looking whether there is any,
        // so a damaged page could keep it at the end of the file for minutes.
        if read == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

impl<R: ReadAt> Length for Chunks<R> {
    fn len(&self) -> u64 {
        self.length
    }
}

impl<R: ReadAt> ChunkReader for Chunks<R> {
    type T = BufReader<ChunkRead<R>>;

    fn get_read(&self, start: u64) -> Parsed<Self::T> {
        Ok(BufReader::new(ChunkRead { source: Arc::clone(&self.source), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Parsed<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF("a part lies behind the end of the file".into()));
        }
        let mut bytes = Vec::with_capacity(length);
        let read = ChunkRead { source: Arc::clone(&self.source), at: start };
        read.take(length as u64).read_to_end(&mut bytes)?;
        if bytes.len() == length {
            Ok(bytes.into())
        } else {
            Err(ParquetError::EOF("the file ends within a part".into()))
        }
    }
}

impl Chunks<File> {
    fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::read(path))?;
        let length = file.metadata().map_err(DataError::read(path))?.len();
        Ok(Self { source: Arc::new(file), length })
    }
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
    fn of(entries: Option<&Vec<KeyValue>>) -> Self {
        let mut entries = entries.into_iter().flatten();
        let entry = entries.find(|entry| entry.key == "huggingface");
        let text = entry.and_then(|entry| entry.value.as_deref());
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// The columns of a kind, the usual names first.
    fn columns(&self, kind: &str, usual: &[&str]) -> Vec<String> {
        let is_kind = |feature: &serde_json::Value| {
            feature.get("_type").and_then(serde_json::Value::as_str) == Some(kind)
        };
        let features = self.info.features.iter().filter(|(_, feature)| is_kind(feature));
        let mut names: Vec<String> = features.map(|(name, _)| name.clone()).collect();
        let rank = |name: &String| usual.iter().position(|usual| usual == name);
        names.sort_by_key(|name| rank(name).unwrap_or(usual.len()));
        names.extend(usual.iter().map(ToString::to_string));
        names
    }

    fn class_names(&self, column: &str) -> Option<Vec<String>> {
        let names = self.info.features.get(column)?.get("names")?.as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }
}

impl Table {
    /// Reads what the end of a file says; the error is the reason.
    fn parse(chunks: &Chunks<impl ReadAt + 'static>, path: &Path) -> Result<Self, String> {
        let metadata = guarded(|| {
            ParquetMetaDataReader::new().parse_and_finish(chunks).map_err(|error| error.to_string())
        })
        .map_err(|reason| format!("cannot read it as a parquet file: {reason}"))?;
        let schema = metadata.file_metadata().schema_descr();
        let described = Described::of(metadata.file_metadata().key_value_metadata());
        let find = |path: &[&str], kinds: &[Physical]| {
            schema.columns().iter().position(|column| {
                column.path().parts() == path
                    && column.max_rep_level() == 0
                    && kinds.contains(&column.physical_type())
            })
        };
        let images = described
            .columns("Image", &["image", "img"])
            .iter()
            .find_map(|name| find(&[name, "bytes"], &[Physical::BYTE_ARRAY]));
        let images = images.ok_or_else(|| {
            let columns = schema.columns().iter().map(|column| column.path().string());
            format!(
                "has no column of images, a struct called image with bytes in it; its columns are {}",
                columns.collect::<Vec<_>>().join(", ")
            )
        })?;
        let labels = described
            .columns("ClassLabel", &["label", "labels", "fine_label"])
            .into_iter()
            .find_map(|name| Some((find(&[&name], &[Physical::INT64, Physical::INT32])?, name)));
        let names = labels.as_ref().and_then(|(_, name)| described.class_names(name));
        let labels = labels.map(|(column, _)| column);
        Ok(Self { path: path.to_owned(), metadata: Arc::new(metadata), images, labels, names })
    }

    fn open(path: &Path) -> Result<Self, DataError> {
        let chunks = Chunks::open(path)?;
        Self::parse(&chunks, path).map_err(|reason| DataError::malformed(path, reason))
    }

    fn column<R: ReadAt + 'static>(
        &self,
        chunks: Chunks<R>,
        group: usize,
        column: usize,
    ) -> Parsed<ColumnReader> {
        let properties = Arc::new(ReaderProperties::builder().build());
        let group_metadata = self.metadata.row_group(group);
        let chunk = group_metadata.column(column);
        let start = chunk.dictionary_page_offset().unwrap_or(0).min(chunk.data_page_offset());
        if start < 0 || chunk.compressed_size() < 0 {
            return Err(ParquetError::General("a column lies before the file".into()));
        }
        let reader = SerializedRowGroupReader::new(
            Arc::new(chunks),
            group_metadata,
            RowGroupPageIndex::new(group, None),
            properties,
        )?;
        reader.get_column_reader(column)
    }

    fn malformed(&self, reason: &str) -> DataError {
        DataError::malformed(&self.path, reason)
    }

    fn read<T>(&self, group: usize, read: impl FnOnce() -> Parsed<T>) -> Result<T, DataError> {
        guarded(|| read().map_err(|error| error.to_string())).map_err(|reason| {
            self.malformed(&format!("row group {group} cannot be read: {reason}"))
        })
    }

    /// The rows of a row group from `skipped` on, up to `count`.
    fn images(
        &self,
        chunks: Chunks<impl ReadAt + 'static>,
        group: usize,
        skipped: usize,
        count: usize,
    ) -> Result<Vec<Option<ByteArray>>, DataError> {
        self.read(group, || match self.column(chunks, group, self.images)? {
            ColumnReader::ByteArrayColumnReader(mut reader) => {
                cells(&mut reader, self.levels(self.images), skipped, count)
            }
            _ => Err(ParquetError::General("its column of images holds no bytes".into())),
        })
    }

    /// The classes of a row group; none without a column of them.
    fn labels(
        &self,
        chunks: Chunks<impl ReadAt + 'static>,
        group: usize,
    ) -> Result<Vec<Option<i64>>, DataError> {
        let Some(column) = self.labels else { return Ok(Vec::new()) };
        let (levels, rows) = (self.levels(column), self.rows(group));
        let labels = self.read(group, || match self.column(chunks, group, column)? {
            ColumnReader::Int64ColumnReader(mut reader) => cells(&mut reader, levels, 0, rows),
            ColumnReader::Int32ColumnReader(mut reader) => {
                let cells = cells(&mut reader, levels, 0, rows)?;
                Ok(cells.into_iter().map(|cell| cell.map(i64::from)).collect())
            }
            _ => Err(ParquetError::General("its column of classes holds no integers".into())),
        })?;
        if labels.len() == rows {
            Ok(labels)
        } else {
            let reason = format!("row group {group} has {} classes for {rows} rows", labels.len());
            Err(self.malformed(&reason))
        }
    }

    /// The level at which a cell of the column is not empty.
    fn levels(&self, column: usize) -> i16 {
        self.metadata.file_metadata().schema_descr().column(column).max_def_level()
    }

    fn rows(&self, group: usize) -> usize {
        usize::try_from(self.metadata.row_group(group).num_rows()).unwrap_or(0)
    }
}

/// Some cells of a column, fewer if it ends before.
fn cells<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    levels: i16,
    skipped: usize,
    count: usize,
) -> Parsed<Vec<Option<T::T>>> {
    let mut cells = Vec::new();
    if reader.skip_records(skipped)? < skipped {
        return Ok(cells);
    }
    while cells.len() < count {
        let (mut values, mut defined) = (Vec::new(), Vec::new());
        let wanted = (count - cells.len()).min(LABELS_AT_ONCE);
        let (rows, _, _) = reader.read_records(wanted, Some(&mut defined), None, &mut values)?;
        if rows == 0 {
            break;
        }
        let mut values = values.into_iter();
        if levels == 0 {
            cells.extend(values.map(Some));
        } else {
            for level in defined {
                cells.push(if level == levels { values.next() } else { None });
            }
        }
    }
    Ok(cells)
}

impl Parquet {
    /// Reads the ends of a split's files and its column of classes.
    ///
    /// [`DataError::Request`] if there are no files of the split, [`DataError::Empty`] if they hold no
    /// rows, [`DataError::Malformed`] with the file that is damaged, has no column of images, or a
    /// class without a name.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        let [train, test] = files(path)?;
        let own = match split {
            Split::Train => &train,
            Split::Test => &test,
        };
        if own.is_empty() {
            let path = path.display();
            return Err(DataError::Request(format!(
                "{path} has no {split} split: give a folder of files named train-... and test-..."
            )));
        }
        let files = own.iter().map(|path| Table::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut set = Self::of(files, |table| Chunks::open(&table.path))?;
        if set.images == 0 {
            return Err(DataError::empty(path, "its parquet files have no rows"));
        }
        // Both splits must have the same classes.
        if split == Split::Test && !train.is_empty() && !set.has_names() {
            let files =
                train.iter().map(|path| Table::open(path)).collect::<Result<Vec<_>, _>>()?;
            let classes = Self::of(files, |table| Chunks::open(&table.path))?.classes;
            if classes.len() > set.classes.len() {
                set.classes = classes;
            }
        }
        Ok(set)
    }

    fn has_names(&self) -> bool {
        self.files.iter().any(|file| file.names.is_some())
    }

    fn of<R: ReadAt + 'static>(
        files: Vec<Table>,
        open: impl Fn(&Table) -> Result<Chunks<R>, DataError>,
    ) -> Result<Self, DataError> {
        let names = files.iter().find_map(|file| file.names.clone());
        let (mut groups, mut labels) = (Vec::new(), Vec::new());
        let mut images = 0_usize;
        let mut most = 0;
        for (file, table) in files.iter().enumerate() {
            if table.labels.is_some() != files[0].labels.is_some()
                || table.names.is_some() && table.names != names
            {
                return Err(table.malformed("has other classes than the first file"));
            }
            for number in 0..table.metadata.num_row_groups() {
                let rows = table.rows(number);
                let written = table.labels(open(table)?, number)?;
                for (row, label) in written.into_iter().enumerate() {
                    // The hub writes -1 where the class is not known.
                    let label = label.filter(|&label| label != -1);
                    let limit = names.as_ref().map_or(MAX_CLASSES, |names| names.len() as u32);
                    let known = label.map(|label| u32::try_from(label).ok().filter(|&l| l < limit));
                    if known == Some(None) {
                        let label = label.unwrap_or_default();
                        let reason = format!(
                            "row {row} of row group {number} has the class {label}; it must be 0 to \
                             {}, or -1 for none",
                            limit.saturating_sub(1)
                        );
                        return Err(table.malformed(&reason));
                    }
                    let known = known.flatten();
                    most = known.map_or(most, |label| most.max(label + 1));
                    labels.push(known);
                }
                groups.push(Group { file, number, first: images, rows });
                images = images
                    .checked_add(rows)
                    .ok_or_else(|| table.malformed("counts more rows than a file can have"))?;
            }
        }
        let classes = names.unwrap_or_else(|| (0..most).map(|number| number.to_string()).collect());
        Ok(Self { files, groups, images, labels, classes, cache: Mutex::default() })
    }

    /// The place of an image: its row group among all, and its row there.
    fn place(&self, index: usize) -> (usize, usize) {
        let after = self.groups.partition_point(|group| group.first <= index);
        let group = after.saturating_sub(1);
        (group, index - self.groups[group].first)
    }

    /// The file of an image as it lies in its cell.
    fn cell(&self, index: usize) -> Result<ByteArray, DataError> {
        let (place, row) = self.place(index);
        let group = self.groups[place];
        let table = &self.files[group.file];
        let missing = || {
            let name = PathBuf::from(self.name(index));
            DataError::malformed(&name, "its cell has no bytes: the set only names its image files")
        };
        let cut = || {
            let reason = format!("row group {} ends before row {row}", group.number);
            table.malformed(&reason)
        };
        let column = table.metadata.row_group(group.number).column(table.images);
        let bytes = u64::try_from(column.uncompressed_size()).unwrap_or(u64::MAX);
        let (found, again) = {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            let found = cache.get(place);
            let again = found.is_none() && cache.touch(place);
            (found, again)
        };
        if let Some(unpacked) = found {
            return unpacked.get(row).ok_or_else(cut)?.clone().ok_or_else(missing);
        }
        let chunks = Chunks::open(&table.path)?;
        if again && bytes <= CACHE_BYTES {
            let unpacked: Unpacked = table.images(chunks, group.number, 0, group.rows)?.into();
            let cell = unpacked.get(row).cloned();
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.insert(place, bytes, unpacked);
            return cell.ok_or_else(cut)?.ok_or_else(missing);
        }
        let mut cells = table.images(chunks, group.number, row, 1)?;
        cells.pop().ok_or_else(cut)?.ok_or_else(missing)
    }
}

impl ImageSet for Parquet {
    fn len(&self) -> usize {
        self.images
    }

    fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
        decode(self.cell(index)?.data(), Path::new(&self.name(index)))
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.labels.get(index).copied().flatten().map(|label| label as usize)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn name(&self, index: usize) -> String {
        let (place, row) = self.place(index);
        let group = self.groups[place];
        let in_file = |other: &&Group| other.file == group.file;
        let before: usize =
            self.groups[..place].iter().rev().take_while(in_file).map(|group| group.rows).sum();
        format!("{} row {}", self.files[group.file].path.display(), before + row)
    }
}

/// Reads any bytes as a file: its metadata, its classes and the first images of every row group.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    struct Memory(Vec<u8>);
    impl ReadAt for Memory {
        fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
            let rest = usize::try_from(at).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
            (&*rest).read(buffer)
        }
    }
    let source = Arc::new(Memory(bytes.to_vec()));
    let chunks = || Chunks { source: Arc::clone(&source), length: bytes.len() as u64 };
    let Ok(table) = Table::parse(&chunks(), Path::new("fuzzed")) else { return };
    let Ok(set) = Parquet::of(vec![table], |_| Ok(chunks())) else { return };
    for group in &set.groups {
        let _ = set.files[0].images(chunks(), group.number, 0, 3);
        let _ = set.files[0].images(chunks(), group.number, 1, 1);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ::parquet::basic::Compression;
    use ::parquet::data_type::{ByteArrayType, Int64Type};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;
    use image::{ImageFormat, Rgb, RgbImage};
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::Source;
    use crate::inspect::{detect, inspect};

    const SCHEMA: &str = "message schema {
        OPTIONAL GROUP image { OPTIONAL BINARY bytes; OPTIONAL BINARY path (STRING); }
        OPTIONAL INT64 label;
    }";
    const CLASSES: &str = r#"{"info": {"features": {"image": {"_type": "Image"},
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}"#;

    fn png(level: u8) -> Vec<u8> {
        let mut bytes = io::Cursor::new(Vec::new());
        RgbImage::from_pixel(3, 2, Rgb([level, 0, 9]))
            .write_to(&mut bytes, ImageFormat::Png)
            .unwrap();
        bytes.into_inner()
    }

    /// A cell of the column of images, and one of the column of classes.
    type Row = (Option<Vec<u8>>, Option<i64>);

    fn rows(levels: std::ops::Range<u8>) -> Vec<Row> {
        levels.map(|level| (Some(png(level)), Some(i64::from(level % 2)))).collect()
    }

    /// A file with these row groups.
    fn write(
        schema: &str,
        described: Option<&str>,
        compression: Compression,
        groups: &[Vec<Row>],
    ) -> Vec<u8> {
        let entry = |text: &str| KeyValue::new("huggingface".to_owned(), text.to_owned());
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_key_value_metadata(described.map(|text| vec![entry(text)]))
            // Pages end only between batches of rows.
            .set_write_batch_size(2)
            .set_data_page_row_count_limit(2)
            .set_dictionary_enabled(false)
            .build();
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut writer =
            SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
        for rows in groups {
            let mut group = writer.next_row_group().unwrap();
            while let Some(mut column) = group.next_column().unwrap() {
                match column.untyped() {
                    ::parquet::column::writer::ColumnWriter::ByteArrayColumnWriter(_) => {
                        let cells: Vec<_> = rows.iter().map(|(bytes, _)| bytes.clone()).collect();
                        let levels: Vec<i16> =
                            cells.iter().map(|cell| if cell.is_some() { 2 } else { 1 }).collect();
                        let values: Vec<ByteArray> =
                            cells.into_iter().flatten().map(ByteArray::from).collect();
                        let column = column.typed::<ByteArrayType>();
                        column.write_batch(&values, Some(&levels), None).unwrap();
                    }
                    ::parquet::column::writer::ColumnWriter::Int64ColumnWriter(_) => {
                        let levels: Vec<i16> =
                            rows.iter().map(|(_, label)| i16::from(label.is_some())).collect();
                        let values: Vec<i64> =
                            rows.iter().filter_map(|(_, label)| *label).collect();
                        let column = column.typed::<Int64Type>();
                        column.write_batch(&values, Some(&levels), None).unwrap();
                    }
                    _ => panic!("the schema of this test has no such column"),
                }
                column.close().unwrap();
            }
            group.close().unwrap();
        }
        writer.into_inner().unwrap()
    }

    fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    fn level(set: &Parquet, index: usize) -> u8 {
        set.image(index).unwrap().rgb()[0]
    }

    #[test]
    fn rows_of_all_groups_and_files_are_read_in_any_order() {
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
            let file = |groups: &[_]| write(SCHEMA, Some(CLASSES), compression, groups);
            let folder = folder(&[
                ("data/train-00000-of-00002.parquet", file(&[rows(0..7), rows(7..9)])),
                ("data/train-00001-of-00002.parquet", file(&[rows(9..12)])),
                ("data/test-00000-of-00001.parquet", file(&[rows(20..22)])),
            ]);
            let train = Parquet::open(folder.path(), Split::Train).unwrap();
            assert_eq!((train.len(), train.groups.len()), (12, 3));
            assert_eq!(train.classes(), ["cat", "dog"]);
            // Each image alone, and again when its group is in memory, and in order.
            let scattered = (0..12).map(|place| place * 5 % 12);
            for index in scattered.chain(0..12).chain([11, 0, 8, 3]) {
                assert_eq!(level(&train, index), index as u8);
                assert_eq!(train.label(index), Some(index % 2));
            }
            assert!(train.name(10).ends_with("train-00001-of-00002.parquet row 1"));
            assert!(train.name(8).ends_with("train-00000-of-00002.parquet row 8"));
            let test = Parquet::open(folder.path(), Split::Test).unwrap();
            assert_eq!((test.len(), level(&test, 1)), (2, 21));
        }
    }

    #[test]
    fn groups_are_kept_once_they_are_asked_for_again() {
        let groups: Vec<Vec<Row>> = (0..40).map(|group| rows(4 * group..4 * group + 4)).collect();
        let file = write(SCHEMA, None, Compression::UNCOMPRESSED, &groups);
        let folder = folder(&[("train.parquet", file)]);
        let set = Parquet::open(folder.path(), Split::Train).unwrap();
        let kept = || -> Vec<usize> {
            set.cache.lock().unwrap().groups.iter().map(|(number, _, _)| *number).collect()
        };
        // One image of every group leaves nothing behind, nor does coming back after many others.
        for group in (0..40).chain([0]) {
            level(&set, 4 * group);
        }
        assert!(kept().is_empty());
        level(&set, 1);
        assert_eq!(kept(), [0]);
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = Cache::default();
        let unpacked: Unpacked = Arc::from([None]);
        for group in 0..5 {
            cache.insert(group, CACHE_BYTES / 3, Arc::clone(&unpacked));
            assert!(cache.get(0).is_some());
        }
        let kept: Vec<usize> = cache.groups.iter().map(|(number, _, _)| *number).collect();
        assert_eq!(kept, [3, 4, 0]);
        cache.insert(9, CACHE_BYTES, unpacked);
        assert_eq!(cache.groups.len(), 1);
    }

    #[test]
    fn labels_are_numbers_without_names_and_may_be_absent() {
        let mut unlabelled = rows(0..4);
        unlabelled[1].1 = Some(-1);
        unlabelled[2].1 = None;
        unlabelled[3].1 = Some(5);
        let none = Compression::UNCOMPRESSED;
        let place = folder(&[
            ("train.parquet", write(SCHEMA, None, none, &[unlabelled])),
            ("test.parquet", write(SCHEMA, None, none, &[rows(0..1)])),
        ]);
        let train = Parquet::open(place.path(), Split::Train).unwrap();
        let labels: Vec<_> = (0..4).map(|index| train.label(index)).collect();
        assert_eq!(labels, [Some(0), None, None, Some(5)]);
        assert_eq!(train.classes().len(), 6);
        assert_eq!(Parquet::open(place.path(), Split::Test).unwrap().classes().len(), 6);

        let images = "message schema { OPTIONAL GROUP picture { OPTIONAL BINARY bytes; } }";
        let described = r#"{"info": {"features": {"picture": {"_type": "Image"}}}}"#;
        let bare = folder(&[("x.parquet", write(images, Some(described), none, &[rows(3..5)]))]);
        let set = Parquet::open(&bare.path().join("x.parquet"), Split::Train).unwrap();
        assert_eq!(
            (set.len(), level(&set, 1), set.label(1), set.has_labels()),
            (2, 4, None, false)
        );
    }

    #[test]
    fn what_is_no_set_of_images_is_refused() {
        let none = Compression::UNCOMPRESSED;
        let sound = write(SCHEMA, Some(CLASSES), none, &[rows(0..3)]);
        let mut other = rows(0..3);
        other[2].1 = Some(2);
        for (bytes, expected) in [
            (b"PAR1".to_vec(), "cannot read it as a parquet file"),
            (sound[..sound.len() - 9].to_vec(), "cannot read it as a parquet file"),
            (
                write("message schema { OPTIONAL INT64 label; }", None, none, &[rows(0..1)]),
                "has no column of images, a struct called image with bytes in it; its columns are \
                 label",
            ),
            (
                write(SCHEMA, Some(CLASSES), none, &[other]),
                "row 2 of row group 0 has the class 2; it must be 0 to 1, or -1 for none",
            ),
            (write(SCHEMA, None, none, &[]), "its parquet files have no rows"),
        ] {
            let folder = folder(&[("train.parquet", bytes)]);
            let message = Parquet::open(folder.path(), Split::Train).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let folder = folder(&[("train.parquet", sound)]);
        let message = Parquet::open(folder.path(), Split::Test).unwrap_err().to_string();
        assert!(message.contains("has no test split"), "{message}");
    }

    /// The file, which fuzzing found, has a page with a list of two thousand million unknown values.
    #[test]
    fn a_list_that_goes_on_behind_the_end_is_refused_at_once() {
        let bytes = include_bytes!("../../tests/fixtures/endless-list.parquet");
        let folder = folder(&[("train.parquet", bytes.to_vec())]);
        let begin = std::time::Instant::now();
        let message = Parquet::open(folder.path(), Split::Train).unwrap_err().to_string();
        assert!(message.contains("row group 0 cannot be read"), "{message}");
        assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
    }

    #[test]
    fn empty_cells_and_damaged_images_are_found_by_inspection() {
        let mut damaged = rows(0..4);
        damaged[1].0 = None;
        damaged[2].0 = Some(b"no image".to_vec());
        let file = write(SCHEMA, Some(CLASSES), Compression::SNAPPY, &[damaged]);
        let folder = folder(&[("train-00000-of-00001.parquet", file)]);
        let source = detect(folder.path()).unwrap();
        assert_eq!(source, Source::Parquet { path: Some(folder.path().to_owned()) });
        let found = inspect(&source, std::num::NonZeroUsize::MIN).unwrap();
        let reasons: Vec<&str> =
            found.splits[0].unreadable.iter().map(|image| image.reason.as_str()).collect();
        let [missing, text] = reasons[..] else { panic!("{reasons:?}") };
        assert!(missing.contains("row 1: its cell has no bytes"), "{missing}");
        assert!(text.contains("row 2: the content is not that of a JPEG"), "{text}");
    }

    proptest! {
        #[test]
        fn any_damage_is_read_or_refused(
            at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 0..400_usize,
        ) {
            let file = write(SCHEMA, Some(CLASSES), Compression::SNAPPY, &[rows(0..3), rows(3..4)]);
            let mut bytes = file[cut.saturating_sub(300)..].to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let folder = folder(&[("train.parquet", bytes)]);
            if let Ok(set) = Parquet::open(folder.path(), Split::Train) {
                for index in (0..set.len().min(10)).chain(0..set.len().min(10)) {
                    let _ = set.image(index);
                }
            }
        }
    }
}
