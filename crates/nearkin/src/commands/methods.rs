//! `nearkin methods`

use std::process::ExitCode;

use anyhow::Context;
use nearkin_objective::Entry;
use nearkin_report::table;

use crate::output::print;

/// List the methods that a recipe can name, or explain one.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Show the equation, the paper, every piece and every default of this method.
    #[arg(long, value_name = "NAME")]
    explain: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(name) = &arguments.explain {
        let entry =
            nearkin_objective::find(name).map_err(|error| super::bad_input(error.to_string()))?;
        print(&explanation(entry)?)?;
    } else {
        let rows: Vec<Vec<String>> = nearkin_objective::methods()
            .iter()
            .map(|entry| (entry.name, entry.card()))
            .map(|(name, card)| vec![name.to_owned(), card.title.to_owned(), card.paper])
            .collect();
        print(&table::render(&["name", "what it does", "paper"], &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn explanation(entry: &Entry) -> anyhow::Result<String> {
    let card = entry.card();
    let pieces: Vec<Vec<String>> =
        card.pieces.iter().map(|(piece, is)| vec![(*piece).to_owned(), is.clone()]).collect();
    let defaults = entry.defaults().with_context(|| format!("defaults of {}", entry.name))?;
    let mut sections = vec![
        format!("{}\n{}\n", card.title, card.paper),
        format!("Equation\n{}", indented(card.equation)),
        format!(
            "Pieces of L_i = - sum_c t_ic ( a_ic - LSE_{{c in D_i}} a_ic )\n{}",
            table::render(&["piece", "is"], &pieces)
        ),
        format!("Defaults\n{}", indented(&defaults.to_string())),
    ];
    if !card.official_code.is_empty() {
        let lines = card.official_code.iter().map(|line| format!("    - {line}\n"));
        sections.push(format!("Where the authors' code differs\n{}", lines.collect::<String>()));
    }
    if let Some(combination) = card.combination {
        let table = format!("[method]\nname = \"combination\"\n{combination}");
        sections.push(format!("The same as a free combination\n{}", indented(&table)));
    }
    Ok(sections.join("\n"))
}

fn indented(text: &str) -> String {
    let mut indented = text.trim_end().replace('\n', "\n    ");
    indented.insert_str(0, "    ");
    indented.push('\n');
    indented.replace("\n    \n", "\n\n")
}
