//! Image files of every format.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nearkin_data::decode::decode;

// Panics of other crates are caught, so only one that gets out is a finding.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |bytes: &[u8]| {
    if let Ok(image) = decode(bytes, Path::new("fuzzed")) {
        assert_eq!(image.rgb().len(), image.width() * image.height() * 3);
    }
});
