//! `nearkin recipe`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use nearkin_recipe::Override;

use super::read_setup;
use crate::output::print;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Check a recipe without training; names what is wrong.
    Check {
        /// The TOML file.
        file: PathBuf,
        /// Override a key first, for example training.epochs=20.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        changes: Vec<Override>,
        /// Print the recipe with every default filled in.
        #[arg(long)]
        resolved: bool,
    },
}

pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Check { file, changes, resolved } = command;
    let setup = read_setup(file, changes, None)?;
    print(&match resolved {
        true => setup.recipe.to_text(),
        false => format!("{}: ok\n", file.display()),
    })?;
    Ok(ExitCode::SUCCESS)
}
