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

/// The program as the user calls it, for a command that can be copied: `target/release/nearkin` is on no
/// search path.
pub(crate) fn program() -> String {
    let typed = std::env::args_os().next().filter(|typed| !typed.is_empty());
    typed.map_or("nearkin".to_owned(), |typed| typed.to_string_lossy().into_owned())
}

/// Prints a line on standard error: a warning, an error, or where the work stands.
pub(crate) fn say(line: &str) {
    // There is nowhere left to report a failure to.
    let _ = writeln!(io::stderr(), "{line}");
}
