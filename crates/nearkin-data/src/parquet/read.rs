//! Columns, row groups and pages.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::parquet::basic::Compression;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::{ParquetError, Result as Parsed};
use ::parquet::file::metadata::page_index::RowGroupPageIndex;
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use ::parquet::file::properties::ReaderProperties;
use ::parquet::file::reader::{ChunkReader, Length, RowGroupReader};
use ::parquet::file::serialized_reader::SerializedRowGroupReader;
use bytes::Bytes;

use super::columns::{Columns, Form, ImageColumn, LabelColumn};
use super::labels::{Labels as LabelWriter, Levels, Row, rows};
use super::pages::SoundPages;
use super::{FILES, files};
use crate::classes::{Fault, Labels, Scheme, UNIT, Written};
use crate::content::GIT_LFS_POINTER;
use crate::decode::{decode, guarded};
use crate::read_at::ReadAt;
use crate::split_files;
use crate::splits::{Part, PartCandidate, choose_part_column, unclear_values};
use crate::{ClassLabels, DataError, Image, ImageSet, Skipped, Split};

/// Unpacked row groups in memory, at most.
const CACHE_BYTES: u64 = 256 << 20;
/// Row groups of which it is remembered that an image was asked for.
const RECENT_GROUPS: usize = 16;
/// Cells that are read at once.
const CELLS_AT_ONCE: usize = 4096;
/// Rows in which an image is looked for to tell a column of images from another.
const PROBED_ROWS: usize = 16;
/// Bytes of a row in a column without images: there are only marks that cells are empty.
const EMPTY_ROW_BYTES: u64 = 16;

/// The images of one split, read from their row groups when asked for.
#[derive(Debug)]
pub struct Parquet {
    files: Vec<Table>,
    groups: Vec<Group>,
    images: usize,
    labels: Labels,
    classes: Vec<String>,
    skipped: Skipped,
    cache: Mutex<Cache>,
}

/// A file, and which of its columns matter.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    metadata: Arc<ParquetMetaData>,
    /// The column of images.
    images: usize,
    columns: Columns,
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

/// A file as the parquet crate wants it. Its own way shares one position between all readers.
struct Chunks<R: ?Sized> {
    source: Arc<R>,
    length: u64,
}

struct ChunkRead<R: ?Sized> {
    source: Arc<R>,
    at: u64,
}

impl<R: ReadAt + ?Sized> Read for ChunkRead<R> {
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

impl<R: ReadAt + ?Sized> Length for Chunks<R> {
    fn len(&self) -> u64 {
        self.length
    }
}

impl<R: ReadAt + ?Sized> ChunkReader for Chunks<R> {
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
        let file = split_files::open(path)?;
        let length = file.metadata().map_err(DataError::read(path))?.len();
        Ok(Self { source: Arc::new(file), length })
    }
}

/// Opens a file; anything that can be read serves.
trait Open<R: ?Sized>: Fn(&Path) -> Result<Chunks<R>, DataError> {}

impl<R: ?Sized, F: Fn(&Path) -> Result<Chunks<R>, DataError>> Open<R> for F {}

impl Table {
    /// Reads what the end of a file says, and which column has the images.
    fn parse<R: ReadAt + ?Sized + 'static>(
        path: &Path,
        open: &impl Open<R>,
    ) -> Result<Self, DataError> {
        let chunks = open(path)?;
        let malformed = |reason: String| DataError::malformed(path, reason);
        let metadata = guarded(|| {
            let mut start = [0; GIT_LFS_POINTER.len()];
            if chunks.source.read_full_at(&mut start, 0).is_ok() && start == GIT_LFS_POINTER {
                return Err("it is a git-lfs pointer: run git lfs pull".into());
            }
            ParquetMetaDataReader::new()
                .parse_and_finish(&chunks)
                .map_err(|error| error.to_string())
        })
        .map_err(|reason| malformed(format!("cannot read it as a parquet file: {reason}")))?;
        let file = metadata.file_metadata();
        let columns = Columns::new(file.schema_descr(), file.key_value_metadata());
        let mut table =
            Self { path: path.to_owned(), metadata: Arc::new(metadata), images: 0, columns };
        let candidates = table.columns.images.clone();
        let holds = |column: &&ImageColumn| {
            column.is_named || table.holds_images(open, column.leaf).unwrap_or(false)
        };
        let images = candidates.iter().find(holds).map(|column| column.leaf);
        table.images = images.ok_or_else(|| malformed(table.columns.refusal()))?;
        let groups = table.metadata.row_groups().iter();
        if groups
            .map(|group| group.column(table.images))
            .any(|c| c.compression() == Compression::LZO)
        {
            let reason = "is compressed with LZO, which is not read; write it again with zstd";
            return Err(malformed(reason.to_owned()));
        }
        table.refuse_empty_cells(open)?;
        let labels =
            table.columns.labels.as_ref().filter(|labels| labels.is_binary && !labels.is_list);
        if let Some(column) = labels.map(|labels| labels.leaf) {
            let first = table.first_cell(open, column)?;
            // The masks of a segmented image, say.
            if first.is_some_and(|cell| std::str::from_utf8(cell.data()).is_err()) {
                table.columns.labels = None;
            }
        }
        Ok(table)
    }

    fn open(path: &Path) -> Result<Self, DataError> {
        Self::parse(path, &Chunks::open)
    }

    /// Whether the first cell of a column that is not empty is an image.
    fn holds_images<R: ReadAt + ?Sized + 'static>(
        &self,
        open: &impl Open<R>,
        column: usize,
    ) -> Result<bool, DataError> {
        let first = self.first_cell(open, column)?;
        Ok(first.is_some_and(|cell| ::image::guess_format(cell.data()).is_ok()))
    }

    /// The first of some cells of a column of bytes that is not empty.
    fn first_cell<R: ReadAt + ?Sized + 'static>(
        &self,
        open: &impl Open<R>,
        column: usize,
    ) -> Result<Option<ByteArray>, DataError> {
        for group in 0..self.metadata.num_row_groups().min(PROBED_ROWS) {
            let cells = self.cells_of(open(&self.path)?, group, column, 0, PROBED_ROWS)?;
            let mut filled = cells.into_iter().flatten().filter(|cell| !cell.data().is_empty());
            if let Some(cell) = filled.next() {
                return Ok(Some(cell));
            }
        }
        Ok(None)
    }

    /// Refuses a column of images that has bytes in no row, before training begins.
    fn refuse_empty_cells<R: ReadAt + ?Sized + 'static>(
        &self,
        open: &impl Open<R>,
    ) -> Result<(), DataError> {
        let groups = 0..self.metadata.num_row_groups();
        let is_small = |group: usize| {
            let column = self.metadata.row_group(group).column(self.images);
            let bytes = u64::try_from(column.uncompressed_size()).unwrap_or(u64::MAX);
            // A damaged file may claim any number of rows.
            bytes < EMPTY_ROW_BYTES.saturating_mul(self.rows(group) as u64).saturating_add(4096)
        };
        if groups.is_empty() || !groups.clone().all(is_small) {
            return Ok(());
        }
        let mut rows = 0;
        for group in groups {
            let cells = self.images(open(&self.path)?, group, 0, self.rows(group))?;
            rows += cells.len();
            if cells.iter().any(Option::is_some) {
                return Ok(());
            }
        }
        if rows == 0 {
            return Ok(());
        }
        let reason = "its column of images has no bytes in any row: the file only names the images. Give \
                      their folder, or write the file again with the images in it";
        Err(self.malformed(reason))
    }

    fn column<R: ReadAt + ?Sized + 'static>(
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
        let pages = SoundPages(reader.get_column_page_reader(column)?);
        let description = self.metadata.file_metadata().schema_descr().column(column);
        Ok(get_column_reader(description, Box::new(pages)))
    }

    fn malformed(&self, reason: &str) -> DataError {
        DataError::malformed(&self.path, reason)
    }

    fn read<T>(&self, group: usize, read: impl FnOnce() -> Parsed<T>) -> Result<T, DataError> {
        guarded(|| read().map_err(|error| error.to_string())).map_err(|reason| {
            self.malformed(&format!("row group {group} cannot be read: {reason}"))
        })
    }

    /// The images of a row group from row `skipped` on, up to `count`.
    fn images(
        &self,
        chunks: Chunks<impl ReadAt + ?Sized + 'static>,
        group: usize,
        skipped: usize,
        count: usize,
    ) -> Result<Vec<Option<ByteArray>>, DataError> {
        self.cells_of(chunks, group, self.images, skipped, count)
    }

    /// The same of another column of bytes.
    fn cells_of(
        &self,
        chunks: Chunks<impl ReadAt + ?Sized + 'static>,
        group: usize,
        column: usize,
        skipped: usize,
        count: usize,
    ) -> Result<Vec<Option<ByteArray>>, DataError> {
        let levels = self.levels(column).value;
        self.read(group, || match self.column(chunks, group, column)? {
            ColumnReader::ByteArrayColumnReader(mut reader) => {
                cells(&mut reader, levels, skipped, count)
            }
            _ => Err(ParquetError::General("its column of images holds no bytes".into())),
        })
    }

    /// The labels of a row group.
    fn labels(
        &self,
        chunks: Chunks<impl ReadAt + ?Sized + 'static>,
        group: usize,
        column: &LabelColumn,
    ) -> Result<Vec<Row>, DataError> {
        let (levels, count) = (self.levels(column.leaf), self.rows(group));
        let labels = self.read(group, || {
            rows(self.column(chunks, group, column.leaf)?, column, levels, count)
        })?;
        if labels.len() == count {
            Ok(labels)
        } else {
            let reason = format!("row group {group} has {} labels for {count} rows", labels.len());
            Err(self.malformed(&reason))
        }
    }

    /// What a column says about splits, if there is one.
    fn parts<R: ReadAt + ?Sized + 'static>(
        &self,
        open: &impl Open<R>,
    ) -> Result<Option<FoundParts>, DataError> {
        /// Rows that tell what a column is.
        const SAMPLE: usize = 64;
        let words = |group: usize, column: &LabelColumn, count: usize| {
            let (levels, chunks) = (self.levels(column.leaf), open(&self.path)?);
            let read = || rows(self.column(chunks, group, column.leaf)?, column, levels, count);
            let rows = self.read(group, read)?;
            Ok(rows.iter().map(|row| row.word(column.names.as_deref())).collect::<Vec<String>>())
        };
        let columns = &self.columns.parts;
        let mut candidates = Vec::new();
        for column in columns {
            let mut values = Vec::new();
            for group in 0..self.metadata.num_row_groups() {
                if values.len() < SAMPLE {
                    let count = (SAMPLE - values.len()).min(self.rows(group));
                    values.extend(words(group, column, count)?.into_iter().map(Cow::from));
                }
            }
            // In a struct, what it is called there counts.
            let name = column.name.rsplit('.').next().unwrap_or_default();
            candidates.push(PartCandidate { name, values });
        }
        let Some((place, values)) = choose_part_column(&candidates, false) else {
            return Ok(None);
        };
        let mut found = FoundParts { name: columns[place].name.clone(), ..FoundParts::default() };
        for group in 0..self.metadata.num_row_groups() {
            for word in words(group, &columns[place], self.rows(group))? {
                match values.part(&word) {
                    Some(part) => {
                        found.parts.insert(part);
                    }
                    None if found.unclear.len() < FoundParts::SHOWN => {
                        let word = if word.is_empty() { "(empty)".to_owned() } else { word };
                        found.unclear.insert(word);
                    }
                    None => {}
                }
            }
        }
        Ok(Some(found))
    }

    fn levels(&self, column: usize) -> Levels {
        let column = self.metadata.file_metadata().schema_descr().column(column);
        Levels { value: column.max_def_level(), element: column.repeated_ancestor_def_level() }
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
        let wanted = (count - cells.len()).min(CELLS_AT_ONCE);
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
    /// Reads the ends of a split's files and its column of labels; for the test split those of the train
    /// split too, whose classes count.
    ///
    /// [`DataError::Request`] if there are no files of the split, [`DataError::Empty`] if they hold no
    /// rows, [`DataError::Malformed`] with the file that is damaged, has no column of images, or a
    /// class that the first file, or the train split, does not have.
    pub fn open(path: &Path, split: Split) -> Result<Self, DataError> {
        let files = files(path)?;
        let own = files.of(split);
        if own.is_empty() {
            let path = path.display();
            return Err(DataError::Request(format!(
                "{path} has no {split} split: give a folder of files named train-... and test-..."
            )));
        }
        let tables = |paths: &[PathBuf]| {
            paths.iter().map(|path| Table::open(path)).collect::<Result<Vec<_>, _>>()
        };
        let mut train = Vec::new();
        if let (Split::Test, Some((first, others))) = (split, files.train.split_first()) {
            train.push(Table::open(first)?);
            // Names of classes in the first file are all that counts.
            if train.iter().all(|table| table.columns.class_names().is_none()) {
                train.extend(tables(others)?);
            }
        }
        let own = tables(own)?;
        for table in &own {
            refuse_other_parts(table, split, &Chunks::open)?;
        }
        let mut set = Self::new(own, &train, &Chunks::open)?;
        if set.images == 0 {
            return Err(match files.of(split) {
                [only] => DataError::empty(only, "it has no rows; remove it or download it again"),
                several => {
                    let first = several.first().map(|first| first.display().to_string());
                    let first = first.unwrap_or_default();
                    let reason = format!(
                        "its parquet files of the {split} split have no rows, such as {first}"
                    );
                    DataError::empty(path, reason)
                }
            });
        }
        set.skipped.merge(&files.skipped_in(path, split, FILES));
        Ok(set)
    }

    /// The set of these files, whose classes are those of `train` if it has any.
    fn new<R: ReadAt + ?Sized + 'static>(
        files: Vec<Table>,
        train: &[Table],
        open: &impl Open<R>,
    ) -> Result<Self, DataError> {
        let mut groups = Vec::new();
        let mut images = 0_usize;
        for (file, table) in files.iter().enumerate() {
            for number in 0..table.metadata.num_row_groups() {
                let rows = table.rows(number);
                groups.push(Group { file, number, first: images, rows });
                images = images
                    .checked_add(rows)
                    .ok_or_else(|| table.malformed("counts more rows than a file can have"))?;
            }
        }
        let mut set = Self {
            files,
            groups,
            images,
            labels: Labels::One(Vec::new()),
            classes: Vec::new(),
            skipped: Skipped::new(),
            cache: Mutex::default(),
        };
        set.number(train, open)?;
        set.note_columns();
        Ok(set)
    }

    /// Reads the labels, and numbers them as the train split does.
    fn number<R: ReadAt + ?Sized + 'static>(
        &mut self,
        train: &[Table],
        open: &impl Open<R>,
    ) -> Result<(), DataError> {
        let own = Labelled::new(&self.files)?;
        let train = Labelled::new(train)?;
        let Some(own) = own else { return Ok(()) };
        let reference = train.as_ref().unwrap_or(&own);
        let separator = own.is_list().then_some(UNIT);
        // The train split may count its classes without names, and then so does the test split.
        let counts = reference.names.is_none() && reference.is_counted();
        if counts && own.names.is_some() {
            self.skipped.note(
                "the classes of the train split have no names: those of the test split are not used",
            );
        }
        let names = if counts { None } else { reference.names.or(own.names) };
        if own.has_unnamed_files() && names.is_some() {
            self.skipped.note(format!(
                "classes without names in {} are counted by the names of {}",
                own.files.first().map(|table| table.path.display().to_string()).unwrap_or_default(),
                reference.path().display()
            ));
        }
        let written = own.written(names, counts, open)?;
        let scheme = match (reference.names.filter(|_| !counts), &train) {
            (Some(names), train) => {
                let holder = if train.is_some() { "the train split" } else { "the first file" };
                Ok(Scheme::named(names, separator, holder))
            }
            (None, Some(train)) => {
                let train = train.written(names, counts, open)?;
                Scheme::from_labels(&written, Some(&train), separator)
            }
            (None, None) => Scheme::from_labels(&written, None, separator),
        };
        let numbered = scheme.and_then(|scheme| Ok((scheme.number(&written)?, scheme)));
        let (labels, scheme) = numbered.map_err(|Fault { image, reason }| {
            DataError::malformed(Path::new(&self.name(image)), reason)
        })?;
        (self.classes, self.labels) = (scheme.classes(), labels);
        if let Some(note) = scheme.note() {
            self.skipped.note(note);
        }
        Ok(())
    }

    /// Notes the columns that are not read.
    fn note_columns(&mut self) {
        let Some(table) = self.files.first() else { return };
        let schema = table.metadata.file_metadata().schema_descr();
        let ignored = table.columns.ignored(schema, table.images);
        if ignored.is_empty() {
            return;
        }
        let what = match table.columns.labels {
            Some(_) => "ignored columns",
            None => "no column is known to hold labels; ignored columns",
        };
        self.skipped.note(format!("{what}: {}", ignored.join(", ")));
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
        self.labels.label(index)
    }

    fn labels(&self, index: usize) -> Option<ClassLabels<'_>> {
        self.labels.labels(index)
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
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

/// The files of a split that has labels.
struct Labelled<'a> {
    files: &'a [Table],
    /// The first names of classes, in the order of their numbers.
    names: Option<&'a [String]>,
}

impl<'a> Labelled<'a> {
    /// `None` if the files have no labels; all of them have, or none does.
    fn new(files: &'a [Table]) -> Result<Option<Self>, DataError> {
        let Some(first) = files.first() else { return Ok(None) };
        let is_list = |table: &Table| table.columns.labels.as_ref().map(|labels| labels.is_list);
        if let Some(other) = files.iter().find(|table| is_list(table) != is_list(first)) {
            let shown = first.path.display();
            let reason = format!("its labels are not of the kind of those in {shown}");
            return Err(other.malformed(&reason));
        }
        // Without names, words and numbers would be classes beside one another.
        let kind = |table: &Table| {
            let labels = table.columns.labels.as_ref().filter(|labels| labels.names.is_none())?;
            Some(match labels.form {
                Form::Text => "text",
                Form::Boolean => "true and false",
                _ => "numbers",
            })
        };
        let mut kinds = files.iter().filter_map(|table| Some((table, kind(table)?)));
        if let Some((one, known)) = kinds.next()
            && let Some((other, found)) = kinds.find(|(_, found)| *found != known)
        {
            let shown = one.path.display();
            let reason = format!("its labels are {found}, and those of {shown} are {known}");
            return Err(other.malformed(&reason));
        }
        let names = |table: &'a Table| table.columns.class_names();
        let labelled = Self { files, names: files.iter().find_map(names) };
        Ok(first.columns.labels.is_some().then_some(labelled))
    }

    fn columns(&self) -> impl Iterator<Item = (&'a Table, &'a LabelColumn)> {
        self.files.iter().filter_map(|table| Some((table, table.columns.labels.as_ref()?)))
    }

    fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), |table| &table.path)
    }

    fn is_list(&self) -> bool {
        self.columns().any(|(_, column)| column.is_list)
    }

    /// Whether labels are numbers.
    fn is_counted(&self) -> bool {
        self.columns().all(|(_, column)| !matches!(column.form, Form::Text | Form::Boolean))
    }

    /// Whether a file counts classes that other files name.
    fn has_unnamed_files(&self) -> bool {
        self.columns().any(|(_, column)| {
            column.names.is_none() && !matches!(column.form, Form::Text | Form::Boolean)
        })
    }

    /// The labels of all rows. A file's own names hold for its numbers, else `names`; none if classes are
    /// only counted.
    fn written<R: ReadAt + ?Sized + 'static>(
        &self,
        names: Option<&[String]>,
        counts: bool,
        open: &impl Open<R>,
    ) -> Result<Written, DataError> {
        let mut written = Written::default();
        for (table, column) in self.columns() {
            let names = column.names.as_deref().or(names).filter(|_| !counts);
            let mut labels = LabelWriter::new(&mut written, names);
            for group in 0..table.metadata.num_row_groups() {
                let rows = table.labels(open(&table.path)?, group, column)?;
                for (row, label) in rows.into_iter().enumerate() {
                    labels.push(label).map_err(|reason| {
                        table.malformed(&format!("row {row} of row group {group} {reason}"))
                    })?;
                }
            }
            if let Some(reason) = labels.refusal() {
                return Err(table.malformed(&format!("its column {} {reason}", column.name)));
            }
        }
        Ok(written)
    }
}

/// What a column says about splits.
#[derive(Default)]
struct FoundParts {
    name: String,
    parts: BTreeSet<Part>,
    /// Values that name no part, as many as a message needs.
    unclear: BTreeSet<String>,
}

impl FoundParts {
    const SHOWN: usize = 5;
}

/// Refuses a file whose column of splits speaks of several, of another than that of the file, or of
/// none that is known.
fn refuse_other_parts<R: ReadAt + ?Sized + 'static>(
    table: &Table,
    split: Split,
    open: &impl Open<R>,
) -> Result<(), DataError> {
    let Some(FoundParts { name, parts, unclear }) = table.parts(open)? else { return Ok(()) };
    let unclear: Vec<String> = unclear.into_iter().collect();
    let splits = |split: Split| parts.iter().any(|part| part.fits(split));
    let (train, test) = (splits(Split::Train), splits(Split::Test));
    let reason = match split {
        _ if train && test => {
            "has rows of the train split and of others: write a file for each split"
        }
        _ if !unclear.is_empty() && parts.is_empty() => {
            return Err(table.malformed(&unclear_values(&name, &unclear, "rows")));
        }
        _ if !unclear.is_empty() => {
            let values = unclear.join(", ");
            let reason = format!(
                "its column {name} has rows of no known split, with the values {values}: write a file \
                 without them"
            );
            return Err(table.malformed(&reason));
        }
        Split::Train if test => {
            "says that the rows are not of the train split: rename the column to train on them"
        }
        Split::Test if train => {
            "says that the rows are of the train split: call the file like that split"
        }
        _ => return Ok(()),
    };
    Err(table.malformed(&format!("its column {name} {reason}")))
}

/// Reads any bytes as a file: its metadata, its classes and the first images of every row group.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let source: Arc<[u8]> = bytes.into();
    let open = |_: &Path| Ok(Chunks { source: Arc::clone(&source), length: source.len() as u64 });
    let Ok(table) = Table::parse(Path::new("fuzzed"), &open) else { return };
    let _ = refuse_other_parts(&table, Split::Train, &open);
    let Ok(set) = Parquet::new(vec![table], &[], &open) else { return };
    for group in &set.groups {
        for skipped in [0, 1] {
            if let Ok(chunks) = open(Path::new("fuzzed")) {
                let _ = set.files[0].images(chunks, group.number, skipped, 3);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ::parquet::basic::{BrotliLevel, GzipLevel, ZstdLevel};
    use ::parquet::data_type::{
        BoolType, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType,
        Int32Type, Int64Type,
    };
    use ::parquet::file::metadata::KeyValue;
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
                "has no column of images, which is binary or a struct with bytes in it; its columns are \
                 label (int64)",
            ),
            (
                write(SCHEMA, Some(CLASSES), none, &[other]),
                "row 2 of row group 0 has the class 2; it must be 0 to 1, or -1 for none",
            ),
            (write(SCHEMA, None, none, &[]), "train.parquet: it has no rows; remove it"),
        ] {
            let folder = folder(&[("train.parquet", bytes)]);
            let message = Parquet::open(folder.path(), Split::Train).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let empty = write(SCHEMA, None, none, &[]);
        let split = folder(&[
            ("train.parquet", sound.clone()),
            ("test-0.parquet", empty.clone()),
            ("test-1.parquet", empty),
        ]);
        let message = Parquet::open(split.path(), Split::Test).unwrap_err().to_string();
        assert!(message.contains("of the test split have no rows, such as "), "{message}");
        assert!(message.ends_with("test-0.parquet"), "{message}");
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

    /// A null among the elements of [`Cells::Texts`].
    const NULL: &str = "\0";

    /// The cells of a column.
    enum Cells {
        Bytes(Vec<Option<Vec<u8>>>),
        /// At the only optional level of a column.
        Plain(Vec<Vec<u8>>),
        Int64(Vec<Option<i64>>),
        Int32(Vec<Option<i32>>),
        Double(Vec<Option<f64>>),
        Float(Vec<Option<f32>>),
        Boolean(Vec<Option<bool>>),
        Text(Vec<Option<&'static str>>),
        Fixed(Vec<Vec<u8>>),
        /// No list, or the elements of one, of which [`NULL`] is a null.
        Texts(Vec<Option<Vec<&'static str>>>),
        Int64s(Vec<Option<Vec<i64>>>),
    }

    fn split_cells<T: Clone, U>(
        cells: &[Option<T>],
        value: fn(&T) -> U,
        depth: i16,
    ) -> (Vec<U>, Vec<i16>) {
        let level = |cell: &Option<T>| if cell.is_some() { depth } else { depth - 1 };
        (cells.iter().flatten().map(value).collect(), cells.iter().map(level).collect())
    }

    fn split_lists<T, U>(
        lists: &[Option<Vec<T>>],
        value: impl Fn(&T) -> Option<U>,
    ) -> (Vec<U>, Vec<i16>, Vec<i16>) {
        let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        for list in lists {
            let elements = list.as_ref().map_or(0, Vec::len);
            if elements == 0 {
                defined.push(i16::from(list.is_some()));
                repeated.push(0);
            }
            for (place, element) in list.iter().flatten().enumerate() {
                let value = value(element);
                defined.push(if value.is_some() { 3 } else { 2 });
                values.extend(value);
                repeated.push(i16::from(place > 0));
            }
        }
        (values, defined, repeated)
    }

    /// A file of one row group with these columns.
    fn table(
        schema: &str,
        described: Option<&str>,
        compression: Compression,
        columns: &[Cells],
    ) -> Vec<u8> {
        let entry = |text: &str| KeyValue::new("huggingface".to_owned(), text.to_owned());
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_key_value_metadata(described.map(|text| vec![entry(text)]))
            .build();
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut writer =
            SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for cells in columns {
            let mut column = group.next_column().unwrap().unwrap();
            let text = |text: &&'static str| ByteArray::from(*text);
            match cells {
                Cells::Bytes(cells) => {
                    let (values, levels) = split_cells(cells, |c| ByteArray::from(c.clone()), 2);
                    column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)
                }
                Cells::Plain(cells) => {
                    let values: Vec<ByteArray> =
                        cells.iter().map(|cell| ByteArray::from(cell.clone())).collect();
                    let levels = vec![1; cells.len()];
                    column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)
                }
                Cells::Text(cells) => {
                    let (values, levels) = split_cells(cells, text, 1);
                    column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)
                }
                Cells::Int64(cells) => {
                    let (values, levels) = split_cells(cells, |c| *c, 1);
                    column.typed::<Int64Type>().write_batch(&values, Some(&levels), None)
                }
                Cells::Int32(cells) => {
                    let (values, levels) = split_cells(cells, |c| *c, 1);
                    column.typed::<Int32Type>().write_batch(&values, Some(&levels), None)
                }
                Cells::Double(cells) => {
                    let (values, levels) = split_cells(cells, |c| *c, 1);
                    column.typed::<DoubleType>().write_batch(&values, Some(&levels), None)
                }
                Cells::Float(cells) => {
                    let (values, levels) = split_cells(cells, |c| *c, 1);
                    column.typed::<FloatType>().write_batch(&values, Some(&levels), None)
                }
                Cells::Boolean(cells) => {
                    let (values, levels) = split_cells(cells, |c| *c, 1);
                    column.typed::<BoolType>().write_batch(&values, Some(&levels), None)
                }
                Cells::Fixed(cells) => {
                    let values: Vec<FixedLenByteArray> =
                        cells.iter().map(|cell| ByteArray::from(cell.clone()).into()).collect();
                    column.typed::<FixedLenByteArrayType>().write_batch(&values, None, None)
                }
                Cells::Texts(lists) => {
                    let value = |word: &&'static str| (*word != NULL).then(|| text(word));
                    let (values, defined, repeated) = split_lists(lists, value);
                    let column = column.typed::<ByteArrayType>();
                    column.write_batch(&values, Some(&defined), Some(&repeated))
                }
                Cells::Int64s(lists) => {
                    let (values, defined, repeated) = split_lists(lists, |value| Some(*value));
                    let column = column.typed::<Int64Type>();
                    column.write_batch(&values, Some(&defined), Some(&repeated))
                }
            }
            .unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.into_inner().unwrap()
    }

    const IMAGE: &str = "OPTIONAL GROUP image { OPTIONAL BINARY bytes; }";

    fn images(count: u8) -> Cells {
        Cells::Bytes((0..count).map(|level| Some(png(level))).collect())
    }

    /// A file of images and a column of labels, of this kind in the schema.
    fn labelled(column: &str, described: Option<&str>, cells: Cells) -> Vec<u8> {
        let count = match &cells {
            Cells::Fixed(cells) | Cells::Plain(cells) => cells.len(),
            Cells::Text(cells) => cells.len(),
            Cells::Texts(cells) => cells.len(),
            Cells::Int64s(cells) => cells.len(),
            Cells::Double(cells) => cells.len(),
            Cells::Float(cells) => cells.len(),
            Cells::Boolean(cells) => cells.len(),
            Cells::Int32(cells) => cells.len(),
            Cells::Int64(cells) => cells.len(),
            Cells::Bytes(cells) => cells.len(),
        };
        let schema = format!("message schema {{ {IMAGE} {column} }}");
        table(&schema, described, Compression::SNAPPY, &[images(count as u8), cells])
    }

    /// The class of every image, `-` for none, several with a `+` between them.
    fn classes(path: &Path, split: Split) -> String {
        let set = Parquet::open(path, split).unwrap();
        let show = |index: usize| match set.labels(index) {
            Some(labels) => {
                let names =
                    labels.present.iter().map(|&label| set.classes()[label as usize].as_str());
                format!("[{}]", names.collect::<Vec<_>>().join("+"))
            }
            None => set.label(index).map_or("-", |label| set.classes()[label].as_str()).to_owned(),
        };
        (0..set.len()).map(show).collect::<Vec<_>>().join(" ")
    }

    fn classes_of(file: Vec<u8>) -> String {
        let folder = folder(&[("x.parquet", file)]);
        classes(&folder.path().join("x.parquet"), Split::Train)
    }

    #[test]
    fn labels_of_every_type_are_read_with_one_meaning() {
        let word = |cells: &[Option<&'static str>]| Cells::Text(cells.to_vec());
        for (column, cells, expected) in [
            (
                "OPTIONAL INT64 label;",
                Cells::Int64(vec![Some(2), Some(-1), None, Some(0)]),
                "2 - - 0",
            ),
            ("OPTIONAL INT32 label (INT_8);", Cells::Int32(vec![Some(2), Some(-1)]), "2 -"),
            (
                "OPTIONAL INT32 label (INTEGER(16,false));",
                Cells::Int32(vec![Some(2), Some(1)]),
                "2 1",
            ),
            ("OPTIONAL INT32 target (UINT_8);", Cells::Int32(vec![Some(2), Some(1)]), "2 1"),
            (
                "OPTIONAL BINARY label (STRING);",
                word(&[Some("dog"), Some("cat"), Some(""), None, Some("-1")]),
                "dog cat - - -",
            ),
            (
                "OPTIONAL BINARY category (UTF8);",
                word(&[Some("3"), Some("10"), Some("-1.0")]),
                "3 10 -",
            ),
            ("OPTIONAL BINARY y (ENUM);", word(&[Some("dog"), Some("cat")]), "dog cat"),
            ("OPTIONAL BINARY Class;", word(&[Some("dog"), Some("cat")]), "dog cat"),
            (
                "OPTIONAL DOUBLE label;",
                Cells::Double(vec![Some(3.0), Some(-1.0), Some(f64::NAN), None, Some(0.0)]),
                "3 - - - 0",
            ),
            ("OPTIONAL FLOAT label;", Cells::Float(vec![Some(0.1), Some(-2.5)]), "0.1 -2.5"),
            (
                "OPTIONAL BOOLEAN label;",
                Cells::Boolean(vec![Some(true), None, Some(false)]),
                "true - false",
            ),
            (
                "OPTIONAL INT32 label (DECIMAL(5,2));",
                Cells::Int32(vec![Some(300), Some(-100)]),
                "3 -",
            ),
            (
                "REQUIRED FIXED_LEN_BYTE_ARRAY (3) label (DECIMAL(5,0));",
                Cells::Fixed(vec![vec![0, 1, 2], vec![0xff, 0xff, 0xff], vec![0, 0, 7]]),
                "258 - 7",
            ),
            (
                "REQUIRED FIXED_LEN_BYTE_ARRAY (2) label (FLOAT16);",
                Cells::Fixed(vec![vec![0, 0x42], vec![0, 0xbc], vec![0, 0x7e]]),
                "3 - -",
            ),
        ] {
            assert_eq!(classes_of(labelled(column, None, cells)), expected, "{column}");
        }
        let wide = |low: [u8; 2]| [vec![0; 20], low.to_vec()].concat();
        let column = "REQUIRED FIXED_LEN_BYTE_ARRAY (22) label (DECIMAL(50,0));";
        let cells = Cells::Fixed(vec![wide([1, 2]), vec![0xff; 22]]);
        assert_eq!(classes_of(labelled(column, None, cells)), "258 -");
        let file = labelled(column, None, Cells::Fixed(vec![[vec![1], vec![0; 21]].concat()]));
        let folder = folder(&[("x.parquet", file)]);
        let message = Parquet::open(folder.path(), Split::Train).unwrap_err().to_string();
        assert!(
            message.contains("row 0 of row group 0 has a number that is too large"),
            "{message}"
        );
    }

    #[test]
    fn labels_are_found_beside_images_in_a_struct() {
        let schema = "message schema { REQUIRED GROUP row {
            OPTIONAL GROUP image { REQUIRED BINARY bytes; OPTIONAL BINARY path (STRING); }
            OPTIONAL INT64 label; OPTIONAL INT64 id;
        } }";
        let levels = |count: usize| Cells::Int64((0..count as i64).map(Some).collect());
        let columns = [
            Cells::Plain(vec![png(0), png(1)]),
            Cells::Text(vec![None, None]),
            levels(2),
            levels(2),
        ];
        let file = table(schema, None, Compression::SNAPPY, &columns);
        let folder = folder(&[("x.parquet", file)]);
        assert_eq!(classes(folder.path(), Split::Train), "0 1");
        let set = Parquet::open(folder.path(), Split::Train).unwrap();
        let expected = "ignored columns: row.id (int64)";
        assert_eq!(set.skipped().notes(), [expected]);
    }

    #[test]
    fn a_column_of_masks_is_no_label() {
        let schema = format!("message schema {{ {IMAGE} OPTIONAL BINARY label; }}");
        let masks = Cells::Plain(vec![png(7), png(8)]);
        let file = table(&schema, None, Compression::SNAPPY, &[images(2), masks]);
        let folder = folder(&[("x.parquet", file)]);
        let set = Parquet::open(folder.path(), Split::Train).unwrap();
        assert_eq!((set.len(), set.has_labels()), (2, false));
        assert!(set.skipped().notes()[0].ends_with("ignored columns: label (binary)"));
    }

    #[test]
    fn lists_of_labels_are_several_classes() {
        let list = |element: &str| {
            format!(
                "OPTIONAL GROUP labels (LIST) {{ REPEATED GROUP list {{ OPTIONAL {element}; }} }}"
            )
        };
        let words =
            vec![Some(vec!["dog", "cat"]), None, Some(vec![]), Some(vec!["a|b", "-1", "dog"])];
        let file = labelled(&list("BINARY element (STRING)"), None, Cells::Texts(words));
        assert_eq!(classes_of(file), "[cat+dog] - [] [a|b+dog]");
        // Nothing is known of an image whose list has no label in it.
        let unknown = vec![Some(vec![0]), Some(vec![-1]), Some(vec![])];
        let file = labelled(&list("INT64 element"), None, Cells::Int64s(unknown));
        assert_eq!(classes_of(file), "[0] - []");
        let nulls = vec![Some(vec![NULL]), Some(vec!["dog", NULL]), Some(vec![NULL, NULL])];
        let file = labelled(&list("BINARY element (STRING)"), None, Cells::Texts(nulls));
        assert_eq!(classes_of(file), "- [dog] -");
        let numbers = vec![Some(vec![2, 0]), Some(vec![1])];
        let file = labelled(&list("INT64 element"), None, Cells::Int64s(numbers.clone()));
        assert_eq!(classes_of(file), "[0+2] [1]");
        let described = r#"{"info": {"features": {"labels": {"_type": "Sequence", "feature":
            {"_type": "ClassLabel", "names": ["x", "y", "z"]}}}}}"#;
        let file = labelled(&list("INT64 element"), Some(described), Cells::Int64s(numbers));
        assert_eq!(classes_of(file), "[x+z] [y]");
        let open = |lists| {
            let file = labelled(&list("INT64 element"), None, Cells::Int64s(lists));
            let folder = folder(&[("x.parquet", file)]);
            Parquet::open(folder.path(), Split::Train).err().map(|error| error.to_string())
        };
        let message = open(vec![Some(vec![0, 0, 1]), None, Some(vec![1, 0, 0])]).unwrap();
        assert!(message.contains("lists of one length with only 0 and 1, which seem"), "{message}");
        assert!(open(vec![Some(vec![1, 0]), Some(vec![0, 1])]).is_some());
        for lists in [vec![Some(vec![0, 1]); 2], vec![Some(vec![1, 0]), Some(vec![1])]] {
            assert_eq!(open(lists), None);
        }
    }

    fn named(names: &str) -> String {
        format!(
            r#"{{"info": {{"features": {{"image": {{"_type": "Image"}},
            "label": {{"names": [{names}], "_type": "ClassLabel"}}}}}}}}"#
        )
    }

    #[test]
    fn classes_are_numbered_by_the_names_of_the_first_file_of_the_train_split() {
        let column = "OPTIONAL INT64 label;";
        let file = |names: &str, labels: &[i64]| {
            let described = named(names);
            let described = (!names.is_empty()).then_some(described.as_str());
            labelled(column, described, Cells::Int64(labels.iter().copied().map(Some).collect()))
        };
        let cat_dog = r#""cat", "dog""#;
        let text = |words: &[&'static str]| {
            let cells = words.iter().copied().map(Some).collect();
            labelled("OPTIONAL BINARY label (STRING);", None, Cells::Text(cells))
        };
        for (train, test, expected) in [
            (file(cat_dog, &[0, 0, 1]), file(r#""dog", "cat""#, &[0, 1]), "dog cat; cat dog"),
            (file(r#""dog", "cat""#, &[0]), file(cat_dog, &[0, 1]), "cat dog; dog cat"),
            // Numbers without names are those of the train split.
            (file(cat_dog, &[0, 1]), file("", &[1, -1]), "dog -; cat dog"),
            (file("", &[0, 1]), file(cat_dog, &[1]), "1; 0 1"),
            // Words and names of numbers meet.
            (file(cat_dog, &[0, 1]), text(&["dog"]), "dog; cat dog"),
            (text(&["dog", "ant"]), file(r#""dog", "ant""#, &[1]), "ant; ant dog"),
            (
                file(r#""caf\u00e9", "tea""#, &[0]),
                text(&["cafe\u{301}"]),
                "caf\u{e9}; caf\u{e9} tea",
            ),
            (file(cat_dog, &[0, 1]), file(r#""fox", "dog""#, &[1]), "dog; cat dog"),
        ] {
            let folder = folder(&[("train-0.parquet", train), ("test-0.parquet", test)]);
            let sets = [Split::Train, Split::Test]
                .map(|split| Parquet::open(folder.path(), split).unwrap());
            assert_eq!(sets[0].classes(), sets[1].classes());
            let found =
                format!("{}; {}", classes(folder.path(), Split::Test), sets[0].classes().join(" "));
            assert_eq!(found, expected);
        }
        // Files of one split, too.
        let folder_of = |second: Vec<u8>| {
            folder(&[
                ("train-00000-of-00002.parquet", file(cat_dog, &[0, 1])),
                ("train-00001-of-00002.parquet", second),
            ])
        };
        let swapped = folder_of(file(r#""dog", "cat""#, &[0, 0, 1]));
        assert_eq!(classes(swapped.path(), Split::Train), "cat dog dog dog cat");
        for (second, expected) in [
            (
                file(r#""fox", "cat""#, &[1, 0]),
                "row 1: \"fox\" is a class that the first file does not have",
            ),
            (text(&["owl"]), "row 0: \"owl\" is a class that the first file does not have"),
        ] {
            let folder = folder_of(second);
            let message = Parquet::open(folder.path(), Split::Train).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        for (train, test, expected) in [
            (
                file(cat_dog, &[0]),
                file(r#""fox""#, &[0]),
                "\"fox\" is a class that the train split does",
            ),
            (file("", &[0, 3]), file("", &[4]), "\"4\" is a class that the train split does"),
            (file(cat_dog, &[0]), file("", &[2]), "has the class 2; it must be 0 to 1"),
            (file("", &[0, 3]), text(&["cat"]), "\"cat\" is a class that the train split does"),
        ] {
            let folder = folder(&[("train.parquet", train), ("test.parquet", test)]);
            let message = Parquet::open(folder.path(), Split::Test).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn every_usual_compression_is_read() {
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(ZstdLevel::default()),
            Compression::GZIP(GzipLevel::default()),
            Compression::LZ4,
            Compression::LZ4_RAW,
            Compression::BROTLI(BrotliLevel::default()),
        ] {
            let file = write(SCHEMA, Some(CLASSES), compression, &[rows(0..5)]);
            let folder = folder(&[("x.parquet", file)]);
            let set = Parquet::open(&folder.path().join("x.parquet"), Split::Train).unwrap();
            let levels: Vec<u8> = (0..5).map(|index| level(&set, index)).collect();
            assert_eq!(levels, [0, 1, 2, 3, 4], "{compression}");
            assert_eq!((set.label(1), set.classes().len()), (Some(1), 2));
        }
    }

    #[test]
    fn images_are_found_under_other_names() {
        let cells = || Cells::Text(vec![Some("a.png"), Some("b.png")]);
        let plain = |count: u8| Cells::Bytes((0..count).map(|level| Some(png(level))).collect());
        for (schema, columns, level_of_1) in [
            ("OPTIONAL GROUP img { OPTIONAL BINARY bytes; }", vec![images(2)], 1),
            ("OPTIONAL GROUP picture { OPTIONAL BINARY data; }", vec![images(2)], 1),
            ("OPTIONAL GROUP x { OPTIONAL BINARY bytes; }", vec![images(2)], 1),
            (
                "OPTIONAL GROUP row { OPTIONAL GROUP scan { REQUIRED BINARY bytes; } }",
                vec![plain(2)],
                1,
            ),
            (
                "OPTIONAL BINARY file_name (STRING); OPTIONAL GROUP scan { OPTIONAL BINARY tile; }",
                vec![cells(), images(2)],
                1,
            ),
        ] {
            let schema = format!("message schema {{ {schema} }}");
            let file = table(&schema, None, Compression::SNAPPY, &columns);
            let folder = folder(&[("x.parquet", file)]);
            let set = Parquet::open(&folder.path().join("x.parquet"), Split::Train).unwrap();
            assert_eq!((set.len(), level(&set, 1)), (2, level_of_1), "{schema}");
        }
    }

    #[test]
    fn columns_that_are_not_read_are_named() {
        let schema = format!(
            "message schema {{ {IMAGE} OPTIONAL BINARY mood (STRING); OPTIONAL GROUP label {{ OPTIONAL \
             INT64 id; OPTIONAL INT64 super; }} }}"
        );
        let numbers = || Cells::Int64(vec![Some(1)]);
        let columns = [images(1), Cells::Text(vec![Some("glad")]), numbers(), numbers()];
        // The level of an integer in a struct is 2.
        let file = table(
            &schema.replace("OPTIONAL GROUP label", "REQUIRED GROUP label"),
            None,
            Compression::SNAPPY,
            &columns,
        );
        let folder = folder(&[("x.parquet", file)]);
        let set = Parquet::open(folder.path(), Split::Train).unwrap();
        let expected =
            "no column is known to hold labels; ignored columns: mood (string), label (struct)";
        assert_eq!(set.skipped().notes(), [expected]);
        let coarse = labelled("OPTIONAL INT64 label;", None, Cells::Int64(vec![Some(1)]));
        let path = folder.path().join("x.parquet");
        fs::write(&path, coarse).unwrap();
        assert!(Parquet::open(&path, Split::Train).unwrap().skipped().is_empty());
    }

    #[test]
    fn images_that_are_only_named_are_told_at_once() {
        let only_paths = "message schema {
            OPTIONAL GROUP image { OPTIONAL BINARY bytes; OPTIONAL BINARY path (STRING); }
        }";
        let paths = Cells::Bytes(vec![Some(b"a.png".to_vec()), Some(b"b.png".to_vec())]);
        let none = Cells::Bytes(vec![None, None]);
        let text = "message schema { OPTIONAL BINARY image_path (STRING); OPTIONAL INT64 label; }";
        let names = Cells::Text(vec![Some("a.png")]);
        for (file, expected) in [
            (
                table(only_paths, None, Compression::SNAPPY, &[none, paths]),
                "its column of images has no bytes in any row: the file only names the images",
            ),
            (
                table(text, None, Compression::SNAPPY, &[names, Cells::Int64(vec![Some(0)])]),
                "its columns are image_path (string), label (int64); it only names images: write a list",
            ),
        ] {
            let folder = folder(&[("train.parquet", file)]);
            let message = Parquet::open(folder.path(), Split::Train).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_column_that_divides_a_file_is_refused() {
        let file = |values: Vec<Option<&'static str>>| {
            labelled("OPTIONAL BINARY split (STRING);", None, Cells::Text(values))
        };
        let mixed = file(vec![Some("train"), Some("val")]);
        let folder_of = |files: &[(&str, Vec<u8>)]| folder(files);
        let one = folder_of(&[("x.parquet", mixed)]);
        let message = Parquet::open(one.path(), Split::Train).unwrap_err().to_string();
        assert!(
            message.contains("its column split has rows of the train split and of others"),
            "{message}"
        );
        let both = folder_of(&[
            ("train.parquet", file(vec![Some("train"), Some("Training")])),
            ("test.parquet", file(vec![Some("train")])),
        ]);
        assert_eq!(Parquet::open(both.path(), Split::Train).unwrap().len(), 2);
        let message = Parquet::open(both.path(), Split::Test).unwrap_err().to_string();
        assert!(
            message.contains("its column split says that the rows are of the train split"),
            "{message}"
        );
    }

    #[test]
    fn columns_of_splits_are_known_as_in_lists() {
        let refusal = |column: &str, cells: Cells| {
            let folder = folder(&[("train.parquet", labelled(column, None, cells))]);
            Parquet::open(folder.path(), Split::Train).err().map(|error| error.to_string())
        };
        let text = |values: [Option<&'static str>; 2]| Cells::Text(values.to_vec());
        for (column, cells, expected) in [
            (
                "OPTIONAL BINARY Usage (STRING);",
                text([Some("Training"), Some("PublicTest")]),
                "its column Usage has rows of the train split and of others",
            ),
            (
                "OPTIONAL INT64 is_train;",
                Cells::Int64(vec![Some(1), Some(0)]),
                "its column is_train has rows of the train split and of others",
            ),
            (
                "OPTIONAL BINARY split (STRING);",
                text([Some("test"), Some("test")]),
                "its column split says that the rows are not of the train split: rename the column",
            ),
            (
                "OPTIONAL BINARY split (STRING);",
                text([None, Some("train")]),
                "its column split has rows of no known split, with the values (empty): write",
            ),
            (
                "OPTIONAL INT64 partition;",
                Cells::Int64(vec![Some(0), Some(2)]),
                "its column partition has the values 0, 2, which are no words of splits",
            ),
            (
                "REQUIRED GROUP metadata { OPTIONAL BINARY split (STRING); }",
                text([Some("train"), Some("test")]),
                "its column metadata.split has rows of the train split and of others",
            ),
            (
                "OPTIONAL BINARY part (STRING);",
                text([Some("train"), Some("late val")]),
                "its column part has rows of the train split and of others",
            ),
        ] {
            let message = refusal(column, cells).unwrap_or_default();
            assert!(message.contains(expected), "{column}: {message}");
        }
        let sources = text([Some("coco"), Some("voc")]);
        assert_eq!(refusal("OPTIONAL BINARY dataset (STRING);", sources), None);
        assert_eq!(refusal("OPTIONAL INT64 is_train;", Cells::Int64(vec![Some(1); 2])), None);
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
