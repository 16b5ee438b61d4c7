//! Arrays as those of MNIST.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nearkin_data::idx;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(array) = idx::parse(bytes, Path::new("fuzzed")) {
        let elements = array.shape.iter().product::<usize>();
        assert_eq!(elements * array.element.bytes(), array.elements.len());
    }
});
