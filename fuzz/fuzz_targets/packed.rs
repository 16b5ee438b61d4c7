//! Packed files.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nearkin_data::fuzzing::packed(bytes));
