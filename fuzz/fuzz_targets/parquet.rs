//! Parquet files.

#![no_main]

use libfuzzer_sys::fuzz_target;

// Panics of other crates are caught, so only one that gets out is a finding.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |bytes: &[u8]| nearkin_data::fuzzing::parquet(bytes));
