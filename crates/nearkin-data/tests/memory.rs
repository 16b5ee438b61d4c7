//! Metadata and claimed sizes take no memory: decoding allocates what the image itself needs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use nearkin_data::Image;
use nearkin_data::decode::decode;

/// Counts the bytes that are allocated, and the most that were at a time.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let allocated = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(allocated, Ordering::Relaxed);
        // SAFETY: the caller keeps the rules.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the rules.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;

/// The most bytes that decoding allocates at a time, and the pixels or the reason that there are none.
fn decoded(bytes: &[u8]) -> (usize, Result<Vec<u8>, String>) {
    let before = ALLOCATED.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = decode(bytes, Path::new("some"));
    let most = MOST.load(Ordering::Relaxed) - before;
    (most, result.map(Image::into_rgb).map_err(|error| error.to_string()))
}

fn deflated(content: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn chunk(kind: &str, content: &[u8]) -> Vec<u8> {
    let checked = [kind.as_bytes(), content].concat();
    let mut sum = flate2::Crc::new();
    sum.update(&checked);
    let length = (content.len() as u32).to_be_bytes();
    [&length[..], &checked, &sum.sum().to_be_bytes()].concat()
}

/// A gray PNG of zeros; `pixels` are the bytes that it has.
fn png(width: u32, height: u32, pixels: usize, metadata: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    let data = deflated(&vec![0; pixels]);
    let signature = b"\x89PNG\r\n\x1a\n";
    [signature, &chunk("IHDR", &header)[..], metadata, &chunk("IDAT", &data), &chunk("IEND", &[])]
        .concat()
}

/// A TIFF of gray pixels with these tags of 32 bits, and `data` behind the directory.
fn tiff(tags: &[(u16, u32)], data: &[u8]) -> Vec<u8> {
    let mut bytes = b"II\x2a\0\x08\0\0\0".to_vec();
    bytes.extend((tags.len() as u16 + 1).to_le_bytes());
    let offset = 8 + 2 + 12 * (tags.len() as u32 + 1) + 4;
    for &(tag, value) in [(273, offset)].iter().chain(tags) {
        bytes.extend(tag.to_le_bytes());
        bytes.extend([4, 0, 1, 0, 0, 0]);
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes.extend(data);
    bytes
}

// One test, because the allocator counts for the whole process.
#[test]
fn metadata_and_claimed_sizes_take_no_memory() {
    let inflated = vec![b'x'; 64 * MIB];
    let profile = [b"name\0\0", &deflated(&inflated)[..]].concat();
    let text = [b"name\0\x01\0\0\0", &deflated(&inflated)[..]].concat();
    drop(inflated);
    for metadata in [chunk("iCCP", &profile), chunk("zTXt", &profile), chunk("iTXt", &text)] {
        let (most, pixels) = decoded(&png(4, 4, 20, &metadata));
        assert_eq!(pixels, Ok(vec![0; 48]));
        assert!(most < 2 * MIB, "{most} bytes");
    }

    // Of claims that the rest of the file does not keep, the size of the image is the limit.
    let (most, pixels) = decoded(&png(9_000, 9_000, 100, &[]));
    assert!(pixels.is_err());
    assert!(most < 81_000_000 * 4 + 2 * MIB, "{most} bytes");
    // A strip of an image of 4 x 4 pixels that inflates to 64 MiB.
    let strip = deflated(&vec![7; 64 * MIB]);
    let gray = [(256, 4), (257, 4), (258, 8), (262, 1)];
    let (most, pixels) = decoded(&tiff(&[&gray[..], &[(259, 8)]].concat(), &strip));
    assert_eq!(pixels, Ok(vec![7; 48]));
    assert!(most < 2 * MIB, "{most} bytes");
    // Tiles of 64 Gpixels, and strips that start behind the end.
    for tags in [&[(322, 1 << 18), (323, 1 << 18)][..], &[(278, u32::MAX), (279, u32::MAX)]] {
        let (most, pixels) = decoded(&tiff(&[&gray[..], tags].concat(), &[0; 9]));
        assert!(pixels.unwrap_err().contains("the TIFF is"));
        assert!(most < 2 * MIB, "{most} bytes");
    }

    // A WebP with Exif of 4 GB, which it has not.
    let mut webp = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(4, 4).write_to(&mut webp, image::ImageFormat::WebP).unwrap();
    let content = &webp.get_ref()[12..];
    let extended = b"VP8X\x0a\0\0\0\x08\0\0\0\x03\0\0\x03\0\0";
    let claim = b"EXIF\xf0\xff\xff\xff";
    let size = (4 + extended.len() + content.len() + claim.len()) as u32;
    let webp = [b"RIFF", &size.to_le_bytes()[..], b"WEBP", extended, content, claim].concat();
    let (most, pixels) = decoded(&webp);
    assert_eq!(pixels, Ok(vec![0; 48]));
    assert!(most < 2 * MIB, "{most} bytes");
}
