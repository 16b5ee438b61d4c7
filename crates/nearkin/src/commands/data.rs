//! `nearkin data`

mod get;
mod inspect;
mod pack;
mod preview;

use std::process::ExitCode;

use clap::Subcommand;

use super::threads;

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
