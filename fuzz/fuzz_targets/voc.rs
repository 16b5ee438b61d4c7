//! The lists of PASCAL VOC.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nearkin_data::voc;

fuzz_target!(|bytes: &[u8]| {
    let _ = voc::parse(bytes, Path::new("fuzzed"));
});
