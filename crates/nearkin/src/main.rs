//! The command line: it reads arguments, calls the library crates, and reports the result.
//!
//! `failure` and `signals` define the exit codes.

mod commands;
mod failure;
mod openmp;
mod output;
mod panics;
mod signals;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A step of training asks for the same large tensors again and again. The C library's allocator gives
/// them back to the system in between, which then clears every page anew: up to a third of a step.
/// This one keeps them, in large pages, and libtorch's C++ takes its memory from it too
/// (`.cargo/config.toml` has the settings, and the environment's `MALLOC_CONF` overrides them).
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Pretrain image encoders without labels.
#[derive(Parser)]
#[command(name = "nearkin", version, arg_required_else_help = true)]
#[command(after_help = "Exit codes:\n  \
    0      done\n  \
    1      failure; another attempt may succeed\n  \
    2      wrong usage or input\n  \
    3      the run would fail again in the same way, for example because it diverged\n  \
    128+N  ended by signal N (129 SIGHUP, 130 Ctrl-C, 138 SIGUSR1, 143 SIGTERM);\n  \
\x20      training that had begun has written a checkpoint\n\n\
    First steps:\n  \
    nearkin methods\n  \
    nearkin methods --explain sce\n  \
    nearkin recipe check recipes/sce/cifar10-small.toml\n  \
    nearkin pretrain recipes/sce/cifar10-small.toml --data cifar-10-batches-bin")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Pretrain(commands::pretrain::Arguments),
    Bench(commands::bench::Arguments),
    Launch(commands::launch::Arguments),
    /// Evaluate the encoder of a run.
    #[command(subcommand)]
    Eval(commands::eval::Command),
    Export(commands::export::Arguments),
    Import(commands::import::Arguments),
    Embed(commands::embed::Arguments),
    Search(commands::search::Arguments),
    Dedupe(commands::dedupe::Arguments),
    Select(commands::select::Arguments),
    /// Look at images, pack them, fetch them.
    #[command(subcommand)]
    Data(commands::data::Command),
    Methods(commands::methods::Arguments),
    /// Work with recipes.
    #[command(subcommand)]
    Recipe(commands::recipe::Command),
}

/// The arguments, or the end. All processes that a launcher starts on a host have the same ones, so the
/// first says for all what is wrong with them.
fn parse() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|error| {
        let is_another = std::env::var("LOCAL_RANK").is_ok_and(|rank| rank != "0");
        if error.use_stderr() && is_another {
            std::process::exit(error.exit_code());
        }
        // Help was asked for, and may not get through; there is no way to report a lost error.
        let shown = error.print().and_then(|()| std::io::stdout().flush());
        match shown {
            Err(failed) if !error.use_stderr() && failed.kind() != ErrorKind::BrokenPipe => {
                output::say(&format!("error: cannot write standard output: {failed}"));
                std::process::exit(1);
            }
            _ => std::process::exit(error.exit_code()),
        }
    })
}

fn main() -> ExitCode {
    panics::quieten();
    let command = parse().command;
    if matches!(command, Command::Pretrain(_) | Command::Bench(_) | Command::Launch(_)) {
        openmp::spin_briefly();
    }
    let result = panics::caught(|| match command {
        Command::Pretrain(arguments) => commands::pretrain::run(&arguments),
        Command::Bench(arguments) => commands::bench::run(&arguments),
        Command::Launch(arguments) => commands::launch::run(&arguments),
        Command::Eval(command) => commands::eval::run(&command),
        Command::Export(arguments) => commands::export::run(&arguments),
        Command::Import(arguments) => commands::import::run(&arguments),
        Command::Embed(arguments) => commands::embed::run(&arguments),
        Command::Search(arguments) => commands::search::run(&arguments),
        Command::Dedupe(arguments) => commands::dedupe::run(&arguments),
        Command::Select(arguments) => commands::select::run(&arguments),
        Command::Data(command) => commands::data::run(&command),
        Command::Methods(arguments) => commands::methods::run(&arguments),
        Command::Recipe(command) => commands::recipe::run(&command),
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            output::say(&format!("error: {}", failure::message(&error)));
            ExitCode::from(failure::exit_code(&error))
        }
    }
}
