//! Plain-text tables for results on a terminal or in a log.

/// Renders a header, a rule and one line per row; columns are two spaces apart.
///
/// A column whose cells all begin like numbers is aligned to the right, any other to the left.
/// A row may be shorter or longer than the header: what is missing is blank.
pub fn render(headers: &[&str], rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).chain([headers.len()]).max().unwrap_or(0);
    let cell = |row: usize, column: usize| rows[row].get(column).map_or("", String::as_str);
    let header = |column: usize| headers.get(column).copied().unwrap_or("");

    let layout: Vec<(usize, bool)> = (0..columns)
        .map(|column| {
            let cells = || (0..rows.len()).map(|row| cell(row, column));
            let width = cells().chain([header(column)]).map(|text| text.chars().count()).max();
            let numeric = cells().any(|text| !text.is_empty())
                && cells().all(|text| text.is_empty() || looks_numeric(text));
            (width.unwrap_or(0), numeric)
        })
        .collect();

    let line = |texts: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = texts
            .zip(&layout)
            .map(
                |(text, &(width, numeric))| {
                    if numeric { format!("{text:>width$}") } else { format!("{text:<width$}") }
                },
            )
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };

    let rules: Vec<String> = layout.iter().map(|&(width, _)| "-".repeat(width)).collect();
    let mut text = line(&mut (0..columns).map(header));
    text += &line(&mut rules.iter().map(String::as_str));
    for row in 0..rows.len() {
        text += &line(&mut (0..columns).map(|column| cell(row, column)));
    }
    text
}

fn looks_numeric(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+', '−']).unwrap_or(text);
    unsigned.starts_with(|first: char| first.is_ascii_digit())
        || ["NaN", "inf", "-"].contains(&text)
        || unsigned == "inf"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owned(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect()
    }

    #[test]
    fn words_go_left_and_numbers_right() {
        let rows =
            owned(&[&["SCE", "80.5 %", "-1.25"], &["MoCo v2 é", "9.0 %", "NaN"], &["SimCLR"]]);
        insta::assert_snapshot!(render(&["method", "k-NN", "gain"], &rows), @r"
        method       k-NN   gain
        ---------  ------  -----
        SCE        80.5 %  -1.25
        MoCo v2 é   9.0 %    NaN
        SimCLR
        ");
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(render(&["a", "bc"], &[]), "a  bc\n-  --\n");
    }

    proptest! {
        #[test]
        fn every_cell_is_shown_on_its_own_line(
            rows in prop::collection::vec(prop::collection::vec("[a-z0-9.]{0,8}", 0..4), 0..5),
        ) {
            let text = render(&["one", "two"], &rows);
            let lines: Vec<&str> = text.lines().collect();
            prop_assert_eq!(lines.len(), rows.len() + 2);
            for (row, line) in rows.iter().zip(&lines[2..]) {
                let shown: Vec<&str> = line.split_whitespace().collect();
                let given: Vec<&str> =
                    row.iter().map(String::as_str).filter(|cell| !cell.is_empty()).collect();
                prop_assert_eq!(shown, given);
            }
        }
    }
}
