//! Lists of images, and the text files beside folders.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nearkin_data::{folder, list};

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzzed");
    for list in ["fuzzed.txt", "fuzzed.csv", "fuzzed.tsv"] {
        let _ = list::parse(bytes, Path::new(list));
    }
    let _ = folder::parse_annotations(bytes, path);
    let _ = folder::parse_words(bytes, path);
});
