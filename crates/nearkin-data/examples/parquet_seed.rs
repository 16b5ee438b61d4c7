//! Writes the seeds of the fuzz target `parquet` into a folder: files of four tiny images with classes,
//! plain and compressed in every way, and one whose labels are lists of words.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use image::{ImageFormat, Rgb, RgbImage};
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

const SCHEMA: &str = "message schema {
    OPTIONAL GROUP image { OPTIONAL BINARY bytes; }
    OPTIONAL INT64 label;
}";
const DESCRIBED: &str = r#"{"info": {"features": {"image": {"_type": "Image"},
    "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}"#;

type Error = Box<dyn std::error::Error>;

fn images() -> Result<Vec<ByteArray>, Error> {
    let mut images = Vec::new();
    for level in 0..2 {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_pixel(3, 2, Rgb([level, 0, 9])).write_to(&mut bytes, ImageFormat::Png)?;
        images.push(bytes.into_inner().into());
    }
    Ok(images)
}

fn file(compression: Compression) -> Result<Vec<u8>, Error> {
    let described = KeyValue::new("huggingface".to_owned(), DESCRIBED.to_owned());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_key_value_metadata(Some(vec![described]))
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    for _ in 0..2 {
        let mut group = writer.next_row_group()?;
        if let Some(mut column) = group.next_column()? {
            column.typed::<ByteArrayType>().write_batch(&images()?, Some(&[2, 2]), None)?;
            column.close()?;
        }
        if let Some(mut column) = group.next_column()? {
            column.typed::<Int64Type>().write_batch(&[1, 0], Some(&[1, 1]), None)?;
            column.close()?;
        }
        group.close()?;
    }
    Ok(writer.into_inner()?)
}

/// Two images: one with the labels `a` and `b`, one with none.
fn words() -> Result<Vec<u8>, Error> {
    let schema = "message schema {
        OPTIONAL BINARY image;
        OPTIONAL GROUP labels (LIST) { REPEATED GROUP list { OPTIONAL BINARY element (STRING); } }
    }";
    let schema = Arc::new(parse_message_type(schema)?);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default())?;
    let mut group = writer.next_row_group()?;
    if let Some(mut column) = group.next_column()? {
        column.typed::<ByteArrayType>().write_batch(&images()?, Some(&[1, 1]), None)?;
        column.close()?;
    }
    if let Some(mut column) = group.next_column()? {
        let words = ["a", "b"].map(ByteArray::from);
        let column_writer = column.typed::<ByteArrayType>();
        column_writer.write_batch(&words, Some(&[3, 3, 1]), Some(&[0, 1, 0]))?;
        column.close()?;
    }
    group.close()?;
    Ok(writer.into_inner()?)
}

fn main() -> Result<(), Error> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or("give a folder")?;
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("plain.parquet"), file(Compression::UNCOMPRESSED)?)?;
    for (name, compression) in [
        ("snappy", Compression::SNAPPY),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
        ("gzip", Compression::GZIP(GzipLevel::default())),
        ("lz4", Compression::LZ4_RAW),
        ("brotli", Compression::BROTLI(BrotliLevel::default())),
    ] {
        std::fs::write(folder.join(format!("{name}.parquet")), file(compression)?)?;
    }
    std::fs::write(folder.join("words.parquet"), words()?)?;
    Ok(())
}
