//! What the targets in `fuzz/` call: the readers whose parsing is private, each given bytes alone.
//!
//! Whatever the bytes are, a reader returns; a panic, a hang or unbounded memory is a finding.

/// Records, batches in pickles and archives of CIFAR.
pub fn cifar(bytes: &[u8]) {
    crate::cifar::fuzz(bytes);
}

/// A packed file.
pub fn packed(bytes: &[u8]) {
    crate::packed::fuzz(bytes);
}

/// A parquet file.
#[cfg(feature = "parquet")]
pub fn parquet(bytes: &[u8]) {
    crate::parquet::fuzz(bytes);
}
