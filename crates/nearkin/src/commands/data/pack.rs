//! `nearkin data pack`

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use nearkin_augment::{Interpolation, Resize, Scratch};
use nearkin_data::inspect::{detect, splits};
use nearkin_data::{
    BadImages, DataError, Image, ImageSet, PackWriter, Tolerant, open, shared_classes,
    skipped_lines, tolerant,
};

use super::super::{bad_input, limit};
use crate::output::{print, say};

/// Images of each thread between two writes; what is decoded at once bounds the memory.
const CHUNK: usize = 16;

/// Decode a set once and for all, into one file.
///
/// The file holds both splits, classes and labels; a recipe reads it with dataset = "packed". It
/// takes 3 bytes per pixel. Images that cannot be read are left out and named, up to --bad-image-limit.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    nearkin data pack imagenet/ imagenet-256.packed --size 256\n  \
    nearkin pretrain RECIPE --set data.dataset=packed --data imagenet-256.packed")]
pub(crate) struct Arguments {
    /// The images: anything that `nearkin data inspect` understands.
    path: PathBuf,
    /// The file to write; an existing one is replaced once all is written.
    out: PathBuf,
    /// Resize images whose shorter side is longer than this many pixels to it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: Option<u16>,
    /// Share of the images of a split that may be damaged; five always may, unless it is 0.
    #[arg(long, value_name = "SHARE", default_value_t = tolerant::DEFAULT_LIMIT, value_parser = limit)]
    bad_image_limit: f64,
    /// Threads that decode; if absent, one per core.
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let source = detect(&arguments.path)?;
    let splits = splits(&source)?;
    let sets = splits.iter().map(|split| open(&source, *split)).collect::<Result<Vec<_>, _>>()?;
    for line in skipped_lines(sets.iter().map(ImageSet::skipped)) {
        say(&line);
    }
    if sets.iter().any(ImageSet::has_several_labels) {
        say("warning: the images have several labels each, which a packed file does not keep");
    }
    let classes = shared_classes(&sets)?;
    let mut writer = PackWriter::create(&arguments.out, classes)?;
    let threads = super::threads(arguments.workers).get();
    let resize = arguments
        .size
        .map(|size| Resize { size: usize::from(size), interpolation: Interpolation::Bilinear });
    let list = Arc::new(BadImages::unwritten());
    let (mut packed, mut left_out) = (0, 0);
    for (split, set) in splits.iter().zip(sets) {
        let set = Tolerant::new(set, *split, arguments.bad_image_limit, Arc::clone(&list));
        for first in (0..set.len()).step_by(threads * CHUNK) {
            let end = set.len().min(first + threads * CHUNK);
            let decoded = decode(&set, first..end, threads, resize.as_ref());
            let mut unreadable = Vec::new();
            for (index, image) in (first..end).zip(decoded) {
                match image {
                    Ok(image) => {
                        writer.push(*split, &image, set.label(index))?;
                        packed += 1;
                    }
                    Err(error) => {
                        say(&format!("left out: {error}"));
                        unreadable.push((index, error));
                    }
                }
            }
            left_out += unreadable.len();
            set.tolerate(unreadable)?;
        }
    }
    if packed == 0 {
        let path = arguments.path.display();
        return Err(bad_input(match left_out {
            0 => format!("no images in {path}: nothing to pack"),
            _ => format!("no images in {path} that can be read: {left_out} left out"),
        }));
    }
    let bytes = writer.finish()?;
    print(&format!(
        "{}: {packed} images, {left_out} left out, {:.1} MB, {:.0} images/s\n",
        arguments.out.display(),
        bytes as f64 / 1e6,
        packed as f64 / begun.elapsed().as_secs_f64()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The images of a range in its order, decoded and resized side by side.
fn decode<'a>(
    set: &'a dyn ImageSet,
    range: std::ops::Range<usize>,
    threads: usize,
    resize: Option<&Resize>,
) -> Vec<Result<Image<'a>, DataError>> {
    let begin = range.start;
    let mut images: Vec<_> = range.map(|_| None).collect();
    let share = images.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (part, places) in images.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                let mut scratch = Scratch::default();
                for (offset, place) in places.iter_mut().enumerate() {
                    let image = set.image(begin + part * share + offset);
                    *place = Some(image.map(|image| shrink(image, resize, &mut scratch)));
                }
            });
        }
    });
    images.into_iter().flatten().collect()
}

fn shrink<'a>(image: Image<'a>, resize: Option<&Resize>, scratch: &mut Scratch) -> Image<'a> {
    let shorter = image.width().min(image.height());
    match resize.filter(|resize| resize.size < shorter) {
        Some(resize) => resize.image(&image, scratch).unwrap_or(image),
        None => image,
    }
}
