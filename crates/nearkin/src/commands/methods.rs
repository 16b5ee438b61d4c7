//! `nearkin methods`

use std::process::ExitCode;

use nearkin_report::table;

pub(crate) fn run() -> ExitCode {
    let rows: Vec<Vec<String>> = nearkin_objective::methods()
        .iter()
        .map(|entry| [entry.name, entry.title, entry.paper].map(str::to_owned).to_vec())
        .collect();
    print!("{}", table::render(&["name", "what it does", "paper"], &rows));
    ExitCode::SUCCESS
}
