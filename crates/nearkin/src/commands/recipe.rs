//! `nearkin recipe`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use nearkin_recipe::{Override, Source};

use super::{bad_input, read_setup};
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
    let mut source = Source::read(file)?;
    for change in changes {
        source.set(change)?;
    }
    if source.dataset().is_none() && source.data_path().is_none() {
        if *resolved {
            return Err(bad_input(format!(
                "{}: no data set is named, so it cannot be resolved: give --set data.dataset=KIND",
                file.display()
            )));
        }
        // Any kind will do to check the rest.
        let kind: Override = "data.dataset=folder".parse()?;
        read_setup(file, &[&changes[..], &[kind]].concat(), None)?;
        print(&format!("{}: ok; the kind of data is detected at --data\n", file.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let setup = read_setup(file, changes, None)?;
    print(&match resolved {
        true => setup.recipe.to_text(),
        false => format!("{}: ok\n", file.display()),
    })?;
    Ok(ExitCode::SUCCESS)
}
