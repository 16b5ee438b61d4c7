//! Checks the objectives, and what surrounds them, against files of expected values.
//!
//! ```sh
//! cargo run --release -p nearkin-train --example oracles -- DIR
//! ```
//!
//! Every `*.json` of the folder is read in the form of `tests/oracles/`: cases with inputs, parameters
//! and expected losses, targets, gradients and masks. Each is computed in double precision (to 1e-9)
//! and in single precision (to 1e-5; relative where the expected value exceeds 1), through the methods
//! that training uses wherever there is one. The exit status is 1 when anything fails or is skipped,
//! a file cannot be read, or there is no case.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it finds")]

mod suite;

use std::path::PathBuf;
use std::process::ExitCode;

use suite::{Contents, Outcome, run_file};

fn files(folder: &str) -> Result<Vec<PathBuf>, std::io::Error> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder] = &arguments[..] else {
        eprintln!("usage: oracles DIR (a folder of *.json files with reference cases)");
        return ExitCode::FAILURE;
    };
    let files = match files(folder) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("{folder} cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (mut passed, mut failed, mut skipped, mut compared, mut unreadable) = (0, 0, 0, 0, 0);
    for path in files {
        let reports = match run_file(&path) {
            Ok(Contents::Cases(reports)) => reports,
            Ok(Contents::NoObjective) => {
                println!("{}: not an objective, not read", path.display());
                continue;
            }
            Err(error) => {
                unreadable += 1;
                println!("{}: {error}", path.display());
                continue;
            }
        };
        for report in reports {
            println!("{report}");
            compared += report.compared.len();
            match report.outcome {
                Outcome::Ok => passed += 1,
                Outcome::Failed(_) => failed += 1,
                Outcome::Skipped(_) => skipped += 1,
            }
        }
    }
    println!(
        "{} cases, {compared} expected values in both precisions: {passed} ok, {failed} failed, \
         {skipped} skipped; {unreadable} files could not be read",
        passed + failed + skipped,
    );
    if passed > 0 && failed + skipped + unreadable == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
