//! Python pickles.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nearkin_data::pickle;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(pickle) = pickle::parse(bytes, Path::new("fuzzed")) {
        let _ = pickle.entry(pickle.root(), "data").and_then(|data| pickle.array(data));
        let _ = pickle.elements(pickle.root()).map(Iterator::count);
    }
});
