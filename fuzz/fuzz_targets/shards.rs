//! Tar shards of samples.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nearkin_data::webdataset;

fuzz_target!(|bytes: &[u8]| {
    for sample in webdataset::parse(bytes, Path::new("fuzzed")).unwrap_or_default() {
        let end = sample.offset + sample.bytes;
        assert!(end <= bytes.len() as u64, "{} ends outside of its shard", sample.key);
    }
});
