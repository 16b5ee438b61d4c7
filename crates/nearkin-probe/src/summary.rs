//! Evaluations of one or several runs as one table.

use std::fmt::Write;

use nearkin_report::table;
use serde::Serialize;

use crate::groups::{Group, KeyDifference, groups};
use crate::paired::Difference;
use crate::{Evaluation, Score, Unit};

/// One score of a group of runs that differ in their seeds only.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Of the scores.
    pub protocol: String,
    /// Of the scores.
    pub metric: String,
    /// Of the scores.
    pub settings: String,
    /// Of the scores.
    pub unit: Unit,
    /// Name of the group; empty if there is no other.
    pub group: String,
    /// One per run that has the score, in their order.
    pub values: Vec<f64>,
    /// The seeds of these runs.
    pub seeds: Vec<u64>,
    /// The mean of the values.
    pub mean: f64,
    /// Their sample standard deviation (n - 1), of at least two.
    pub standard_deviation: Option<f64>,
    /// To the first group, if it has the score too.
    pub difference: Option<Difference>,
}

/// Scores of several runs.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Runs that are repetitions of each other, in the order of their first appearance.
    pub groups: Vec<Group>,
    /// For each score that some run has one line per group.
    pub lines: Vec<Line>,
}

impl Summary {
    /// Puts scores of the same protocol, settings and metric together, in the order of their first
    /// appearance.
    pub fn new(evaluations: &[Evaluation]) -> Self {
        let (groups, places) = groups(evaluations);
        let mut seen: Vec<&Score> = Vec::new();
        for score in evaluations.iter().flat_map(|evaluation| &evaluation.scores) {
            if !seen.iter().any(|known| is_same(known, score)) {
                seen.push(score);
            }
        }
        let mut lines = Vec::new();
        for score in seen {
            let values = |group: usize| -> Vec<(u64, f64)> {
                let own = evaluations.iter().zip(&places).filter(|(_, place)| **place == group);
                let value = |evaluation: &Evaluation| {
                    let found = evaluation.scores.iter().find(|own| is_same(own, score))?;
                    Some((evaluation.training_seed, found.value))
                };
                own.filter_map(|(evaluation, _)| value(evaluation)).collect()
            };
            let first = values(0);
            for (place, group) in groups.iter().enumerate() {
                let values = if place == 0 { first.clone() } else { values(place) };
                if values.is_empty() {
                    continue;
                }
                let has_difference = place > 0 && !first.is_empty();
                let difference =
                    has_difference.then(|| Difference::new(&groups[0].name, &first, &values));
                lines.push(Line::new(score, &group.name, &values, difference));
            }
        }
        Self { groups, lines }
    }

    fn has_several_groups(&self) -> bool {
        self.groups.len() > 1
    }

    fn has_several_runs(&self) -> bool {
        self.groups.iter().any(|group| group.runs.len() > 1) || self.has_several_groups()
    }

    fn headers(&self) -> Vec<&'static str> {
        let mut headers = vec!["protocol", "measure"];
        if self.has_several_groups() {
            headers.push("group");
        }
        if self.has_several_runs() {
            headers.extend(["mean", "sd (n-1)", "n"]);
        } else {
            headers.push("value");
        }
        if self.has_several_groups() {
            headers.extend(["difference", "95 % interval", "pairs"]);
        }
        headers
    }

    fn cells(&self, line: &Line) -> Vec<String> {
        let is_alone = |other: &Line| {
            (&other.protocol, &other.metric) != (&line.protocol, &line.metric)
                || other.settings == line.settings
        };
        let protocol = if self.lines.iter().all(is_alone) || line.settings.is_empty() {
            &line.protocol
        } else {
            &line.settings
        };
        let metric = match line.unit {
            Unit::Share => format!("{} %", line.metric),
            Unit::Number => line.metric.clone(),
        };
        let mut cells = vec![protocol.clone(), metric];
        if self.has_several_groups() {
            cells.push(line.group.clone());
        }
        cells.push(line.unit.show(line.mean));
        let absent = || "-".to_owned();
        if self.has_several_runs() {
            let deviation = line.standard_deviation.map(|deviation| line.unit.show(deviation));
            cells.push(deviation.unwrap_or_else(absent));
            cells.push(line.values.len().to_string());
        }
        if self.has_several_groups() {
            let signed = |value: f64| {
                let sign = if value >= 0.0 { "+" } else { "" };
                sign.to_owned() + &line.unit.show(value)
            };
            let difference = line.difference.as_ref();
            let interval = difference.and_then(|difference| difference.interval);
            let pairs = difference.map(|difference| match difference.pairs {
                0 => "unpaired".to_owned(),
                pairs => pairs.to_string(),
            });
            cells.extend([
                difference.map_or_else(absent, |difference| signed(difference.mean)),
                interval.map_or_else(absent, |[low, high]| {
                    format!("{} to {}", signed(low), signed(high))
                }),
                pairs.unwrap_or_else(absent),
            ]);
        }
        cells
    }

    /// What the groups are, and what the columns about them mean.
    fn notes(&self) -> Vec<String> {
        let Some((first, others)) = self.groups.split_first().filter(|(_, rest)| !rest.is_empty())
        else {
            return Vec::new();
        };
        let mut notes = vec![format!(
            "difference: to {}, mean over pairs of runs with the same seed; interval: 95 % confidence \
             by Student's t",
            first.name
        )];
        notes.extend(others.iter().filter(|group| !group.differences.is_empty()).map(|group| {
            let shown = group.differences.iter().take(KEYS_SHOWN).map(shown_difference);
            let shown = shown.collect::<Vec<_>>().join(", ");
            let more = match group.differences.len().saturating_sub(KEYS_SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more (evaluation.json has all)"),
            };
            format!("{}: {shown}{more}", group.name)
        }));
        notes
    }
}

/// Keys of a group that a table lists.
const KEYS_SHOWN: usize = 8;

fn shown_difference(difference: &KeyDifference) -> String {
    let or_absent = |value: &Option<String>| value.clone().unwrap_or_else(|| "(absent)".to_owned());
    let KeyDifference { key, first, own } = difference;
    format!("{key} {} -> {}", or_absent(first), or_absent(own))
}

fn is_same(one: &Score, other: &Score) -> bool {
    (&one.protocol, &one.metric, &one.settings) == (&other.protocol, &other.metric, &other.settings)
}

impl Line {
    fn new(
        score: &Score,
        group: &str,
        values: &[(u64, f64)],
        difference: Option<Difference>,
    ) -> Self {
        let (seeds, values): (Vec<u64>, Vec<f64>) = values.iter().copied().unzip();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let standard_deviation = (values.len() > 1).then(|| {
            let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
            (squares / (count - 1.0)).sqrt()
        });
        Self {
            protocol: score.protocol.clone(),
            metric: score.metric.clone().into_owned(),
            settings: score.settings.clone(),
            unit: score.unit,
            group: group.to_owned(),
            values,
            seeds,
            mean,
            standard_deviation,
            difference,
        }
    }
}

/// The lines as a table for a terminal.
pub fn summary_table(evaluations: &[Evaluation]) -> String {
    let summary = Summary::new(evaluations);
    let rows: Vec<Vec<String>> = summary.lines.iter().map(|line| summary.cells(line)).collect();
    let mut text = table::render(&summary.headers(), &rows);
    for note in summary.notes() {
        text += "\n";
        text += &note;
        text += "\n";
    }
    text
}

/// The table and the definitions of the first subject's scores, as Markdown.
pub(crate) fn to_markdown(evaluations: &[Evaluation]) -> String {
    let summary = Summary::new(evaluations);
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = String::from("# Evaluation\n\n");
    for evaluation in evaluations {
        let step = evaluation.step.map_or(String::new(), |step| format!(", step {step}"));
        let (subject, seed) = (&evaluation.subject, evaluation.training_seed.to_string());
        let left_out = match evaluation.images_left_out {
            0 => String::new(),
            images => format!(", {images} image(s) left out that cannot be read"),
        };
        text += &["- `", subject, "`", &step, ", seed ", &seed, &left_out, "\n"].concat();
    }
    let headers: Vec<String> = summary.headers().iter().map(ToString::to_string).collect();
    text += "\n";
    text += &row(&headers);
    text += &row(&vec!["---".to_owned(); headers.len()]);
    for line in &summary.lines {
        text += &row(&summary.cells(line));
    }
    for note in summary.notes() {
        // Formatting into a string cannot fail.
        let _ = write!(text, "\n{note}\n");
    }
    text += "\nWhat was measured, of the first run:\n\n";
    for score in evaluations.first().into_iter().flat_map(|evaluation| &evaluation.scores) {
        text +=
            &["- ", &score.protocol, ", ", &score.metric, ": ", &score.definition, "\n"].concat();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(seed: u64, method: &str, values: &[(&str, f64)]) -> Evaluation {
        let score = |&(protocol, value): &(&str, f64)| {
            let definition = format!("how {protocol} was measured");
            Score::new(protocol, "top-1", (value, Unit::Share), &definition)
        };
        Evaluation {
            subject: format!("runs/{method}-{seed}"),
            step: Some(8),
            training_seed: seed,
            recipe: [("method.name".to_owned(), method.into())].into_iter().collect(),
            scores: values.iter().map(score).collect(),
            ..Evaluation::default()
        }
    }

    fn rows(table: &str) -> Vec<Vec<&str>> {
        table.lines().skip(2).map(|line| line.split_whitespace().collect()).collect()
    }

    /// The sample standard deviation of 0.5, 0.6 and 0.7 is 0.1.
    #[test]
    fn means_and_deviations_are_those_of_the_sample() {
        let all = [
            evaluation(0, "sce", &[("linear", 0.5), ("k-NN", 0.4)]),
            evaluation(1, "sce", &[("linear", 0.6)]),
            evaluation(2, "sce", &[("linear", 0.7)]),
        ];
        let lines = Summary::new(&all).lines;
        assert_eq!(lines.len(), 2);
        assert!((lines[0].mean - 0.6).abs() < 1e-12);
        assert!((lines[0].standard_deviation.unwrap() - 0.1).abs() < 1e-12);
        assert_eq!((lines[1].values.len(), lines[1].standard_deviation), (1, None));
        let text = summary_table(&all);
        let cells = rows(&text);
        assert_eq!(cells[0], ["linear", "top-1", "%", "60.00", "10.00", "3"]);
        assert_eq!(cells[1], ["k-NN", "top-1", "%", "40.00", "-", "1"]);
        assert!(to_markdown(&all).contains("| linear | top-1 % | 60.00 | 10.00 | 3 |"));
    }

    #[test]
    fn runs_of_different_recipes_are_never_averaged() {
        let all = [
            evaluation(0, "sce", &[("linear", 0.50)]),
            evaluation(0, "moco", &[("linear", 0.40)]),
            evaluation(1, "sce", &[("linear", 0.60)]),
            evaluation(1, "moco", &[("linear", 0.54)]),
            evaluation(5, "byol", &[("linear", 0.45)]),
        ];
        let summary = Summary::new(&all);
        let means: Vec<f64> = summary.lines.iter().map(|line| line.mean).collect();
        for (mean, expected) in means.iter().zip([0.55, 0.47, 0.45]) {
            assert!((mean - expected).abs() < 1e-12, "{means:?}");
        }
        let difference = summary.lines[1].difference.as_ref().unwrap();
        assert!((difference.mean + 0.08).abs() < 1e-12 && difference.pairs == 2);
        // Differences -0.10 and -0.06: deviation 0.02 sqrt(2), error 0.02.
        let [low, high] = difference.interval.unwrap();
        let half = 12.706_204_736 * 0.02;
        assert!((low + 0.08 + half).abs() < 1e-9 && (high + 0.08 - half).abs() < 1e-9);
        assert_eq!(summary.lines[0].difference, None);
        assert_eq!(summary.lines[2].difference.as_ref().unwrap().pairs, 0);

        let text = summary_table(&all);
        let cells = rows(&text);
        assert_eq!(
            cells[1][..7],
            ["linear", "top-1", "%", "method.name=moco", "47.00", "9.90", "2"]
        );
        assert_eq!(cells[1][7..], ["-8.00", "-33.41", "to", "+17.41", "2"]);
        assert_eq!(
            cells[2][3..],
            ["method.name=byol", "45.00", "-", "1", "-10.00", "-", "unpaired"]
        );
        assert!(text.contains("method.name=moco: method.name sce -> moco"), "{text}");
        let page = to_markdown(&all);
        assert!(page.contains("| -33.41 to +17.41 | 2 |"), "{page}");
        let headers = "| protocol | measure | group | mean | sd (n-1) | n | difference |";
        assert!(page.contains(headers), "{page}");
    }

    /// The same protocol with other options is another line, and says so.
    #[test]
    fn other_settings_are_another_line() {
        let mut one = evaluation(0, "sce", &[("linear cached", 0.5)]);
        let mut short = one.scores[0].clone();
        one.scores[0].settings = "linear cached".to_owned();
        short.settings = "linear cached, epochs=1".to_owned();
        short.definition = "another".to_owned();
        one.add(&[short]);
        let text = summary_table(&[one]);
        assert!(text.contains("\nlinear cached            top-1 %"), "{text}");
        assert!(text.contains("\nlinear cached, epochs=1  top-1 %"), "{text}");
    }

    #[test]
    fn one_run_has_no_deviation() {
        let one = [evaluation(0, "sce", &[("linear", 0.5)])];
        let table = summary_table(&one);
        assert!(!table.contains("sd") && !table.contains("group"), "{table}");
        let text = to_markdown(&one);
        assert!(text.contains("- linear, top-1: how linear was measured"), "{text}");
        assert!(text.contains("`runs/sce-0`, step 8, seed 0\n"), "{text}");
        let text = to_markdown(&[Evaluation { images_left_out: 3, ..evaluation(0, "sce", &[]) }]);
        assert!(text.contains("seed 0, 3 image(s) left out that cannot be read\n"), "{text}");
    }
}
