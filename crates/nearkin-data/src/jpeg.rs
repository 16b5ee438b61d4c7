//! Decodes JPEG files to the pixels of libjpeg-turbo, bit for bit.
//!
//! Pillow and torchvision read JPEG with libjpeg-turbo. Its crates need CMake, and lose its speed
//! without NASM; neither is required to build nearkin. The pure Rust decoders return wrong pixels
//! without an error for files with one scan per component or with luma sampled below chroma, and fill
//! what is missing with gray. This decoder has neither fault and takes about as much time as that of
//! the `image` crate, or less; docs/performance.md has the numbers. It reads what libjpeg reads,
//! except arithmetic coding and lossless files, and refuses data that end early or do not follow the
//! standard.
//!
//! A *component* is a channel as stored: luma, chroma, cyan and so on. Its samples are coded in
//! *blocks* of 8 x 8, and its *sampling factors* say how many blocks it has, across and down, in the
//! unit that repeats over the image, the *MCU*. A component with smaller factors than another has
//! fewer samples, which are interpolated to the size of the image. A *scan* holds the coded blocks
//! of one component or of several, interleaved by MCU. A *sequential* file holds each block once; a
//! *progressive* file refines all blocks from scan to scan.

mod entropy;
mod idct;
mod markers;
mod pixels;
mod scan;
mod standard;

use thiserror::Error;

pub(crate) use self::markers::JpegColor;
use self::markers::{FrameHeader, HeaderReader, ScanHeader};
pub(crate) use self::pixels::{cmyk_to_rgb, ycc_to_rgb};
use self::scan::{Coefficients, Plane, Planes};

/// Why a JPEG is not read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum JpegError {
    #[error("the JPEG is truncated: its pixel data end early")]
    Truncated,
    #[error("the JPEG is truncated: its end marker is missing")]
    NoEnd,
    #[error("the JPEG is damaged: {0}")]
    Damaged(&'static str),
    /// The standard allows files that never send all bits. Others have lost their end.
    #[error("the JPEG is incomplete: some of its scans are missing")]
    Incomplete,
    #[error("a JPEG with {0} is not read; convert it to PNG")]
    Unsupported(&'static str),
    #[error("the JPEG would need {needed} bytes of memory, more than the {allowed} allowed")]
    TooLarge { needed: u64, allowed: u64 },
}

/// A JPEG whose headers have been read, up to its first scan.
pub(crate) struct JpegDecoder<'a> {
    reader: HeaderReader<'a>,
    frame: FrameHeader,
    first_scan: ScanHeader,
}

impl<'a> JpegDecoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, JpegError> {
        let mut reader = HeaderReader::new(bytes)?;
        let first_scan =
            reader.next_scan()?.ok_or(JpegError::Damaged("it ends before its pixels"))?;
        let frame = reader.frame()?;
        Ok(Self { reader, frame, first_scan })
    }

    /// Width and height in pixels, neither of them 0.
    pub(crate) fn dimensions(&self) -> (u32, u32) {
        (self.frame.width as u32, self.frame.height as u32)
    }

    /// The Exif block, a TIFF file, before the first scan.
    pub(crate) fn exif(&self) -> Option<&'a [u8]> {
        self.reader.exif
    }

    /// The XMP metadata, the last of several, before the first scan.
    pub(crate) fn xmp(&self) -> Option<&'a [u8]> {
        self.reader.xmp
    }

    /// The number of components.
    pub(crate) fn channels(&self) -> usize {
        self.frame.components.len()
    }

    /// Takes the components as this color, whatever the file says.
    pub(crate) fn set_color(&mut self, color: JpegColor) {
        self.reader.given_color = Some(color);
    }

    /// Decodes to 8-bit RGB, row by row, within `allowed` bytes of memory.
    pub(crate) fn decode(mut self, allowed: u64) -> Result<Vec<u8>, JpegError> {
        let needed = self.frame.memory();
        if needed > allowed {
            return Err(JpegError::TooLarge { needed, allowed });
        }
        let planes = if self.frame.is_progressive {
            self.decode_progressive()?
        } else {
            self.decode_sequential()?
        };
        Ok(pixels::to_rgb(&self.frame, &planes, self.reader.color(&self.frame)))
    }

    fn decode_sequential(&mut self) -> Result<Vec<Plane>, JpegError> {
        let mut planes = Planes::new(&self.frame);
        let mut scan = self.first_scan.clone();
        loop {
            scan::decode_sequential(&mut self.reader, &self.frame, &scan, &mut planes)?;
            if let Some(planes) = planes.complete() {
                self.read_end()?;
                return Ok(planes);
            }
            scan = self.next_scan()?;
        }
    }

    fn decode_progressive(&mut self) -> Result<Vec<Plane>, JpegError> {
        let mut coefficients = Coefficients::new(&self.frame);
        let mut scan = self.first_scan.clone();
        loop {
            scan::decode_progressive(&mut self.reader, &self.frame, &scan, &mut coefficients)?;
            if let Some(planes) = coefficients.complete(&self.frame) {
                self.read_end()?;
                return Ok(planes);
            }
            scan = self.next_scan()?;
        }
    }

    fn next_scan(&mut self) -> Result<ScanHeader, JpegError> {
        self.reader.next_scan()?.ok_or(JpegError::Incomplete)
    }

    /// The pixels are known by now, but Pillow refuses files without an end marker, too.
    fn read_end(&mut self) -> Result<(), JpegError> {
        match self.reader.next_scan() {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(JpegError::Damaged("it has more scans than it needs")),
            Err(JpegError::Truncated) => Err(JpegError::NoEnd),
            Err(error) => Err(error),
        }
    }
}
