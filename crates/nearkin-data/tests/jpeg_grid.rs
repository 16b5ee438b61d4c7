//! Compares the JPEG decoder with Pillow over a folder that `scripts/fixtures/jpeg_grid.py` writes:
//! beside each `x.jpg` the pixels that Pillow makes of it as `x.rgb`, none where it refuses the file.

use std::path::Path;
use std::{env, fs};

use nearkin_data::decode::decode;

/// The largest mean difference of a channel.
const ALLOWED: f64 = 4.0;

#[test]
fn jpegs_have_the_pixels_of_pillow_or_are_refused() {
    let Some(folder) = env::var_os("NEARKIN_JPEG_GRID") else {
        println!("skipped: NEARKIN_JPEG_GRID names no folder; `make parity` makes one");
        return;
    };
    let (mut equal, mut near, mut refused, mut refused_by_both) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jpg") {
            continue;
        }
        let expected = fs::read(path.with_extension("rgb")).ok();
        match (decode(&fs::read(&path).unwrap(), Path::new("some")), expected) {
            (Ok(image), Some(expected)) if image.rgb() == expected => equal += 1,
            (Ok(image), Some(expected)) => {
                let apart = mean_difference(image.rgb(), &expected);
                if apart <= ALLOWED {
                    near += 1;
                } else {
                    wrong.push(format!("{}: {apart}", path.display()));
                }
            }
            (Ok(_), None) => wrong.push(format!("{}: Pillow refuses it", path.display())),
            (Err(_), Some(_)) => refused += 1,
            (Err(_), None) => refused_by_both += 1,
        }
    }
    println!(
        "{equal} files equal, {near} nearly, {refused} refused, {refused_by_both} refused by Pillow too"
    );
    assert!(wrong.is_empty(), "{} of other pixels:\n{}", wrong.len(), wrong.join("\n"));
    assert!(equal > 0, "the folder has no files");
}

fn mean_difference(pixels: &[u8], expected: &[u8]) -> f64 {
    if pixels.len() != expected.len() {
        return f64::INFINITY;
    }
    let sum: u64 = pixels.iter().zip(expected).map(|(&a, &b)| u64::from(a.abs_diff(b))).sum();
    sum as f64 / pixels.len() as f64
}
