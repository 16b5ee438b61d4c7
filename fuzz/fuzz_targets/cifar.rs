//! CIFAR: binary records, pickled batches and archives.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nearkin_data::fuzzing::cifar(bytes));
