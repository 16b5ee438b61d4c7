//! Standard output and standard error, either of which may be closed or full.
//!
//! The standard library's macros panic there. A program that reads a table may stop reading, which is no
//! failure; a full device is one. A message that nobody can see must not end the work it is about. So
//! everything is printed here, and clippy refuses the macros elsewhere.

use std::io::{self, ErrorKind, Write};

use anyhow::Context;

/// Prints a result on standard output, all of it.
///
/// Succeeds if the reader has gone, and fails if the text cannot be written for another reason.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write standard output")
        }
        _ => Ok(()),
    }
}

/// Prints a line on standard error: a warning, an error, or where the work stands.
pub(crate) fn say(line: &str) {
    // There is nowhere left to report a failure to.
    let _ = writeln!(io::stderr(), "{line}");
}
