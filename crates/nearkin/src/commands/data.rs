//! `nearkin data`

mod get;
mod inspect;
mod pack;
mod preview;

use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Command {
    Inspect(inspect::Arguments),
    Preview(preview::Arguments),
    Pack(pack::Arguments),
    Get(get::Arguments),
}

pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Preview(arguments) => preview::run(arguments),
        Command::Pack(arguments) => pack::run(arguments),
        Command::Get(arguments) => get::run(arguments),
    }
}

/// As many threads as asked for; without a wish, one for each core.
fn threads(asked: Option<NonZeroUsize>) -> NonZeroUsize {
    asked.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
}
