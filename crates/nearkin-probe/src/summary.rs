//! Evaluations of one or several runs as one table.

use nearkin_report::table;
use serde::Serialize;

use crate::{Score, Unit};

/// The scores of one subject.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Run folder or file.
    pub subject: String,
    /// Steps of training, if known.
    pub step: Option<u64>,
    /// Seed of the training.
    pub training_seed: u64,
    /// Images that could not be read and count nowhere, of all sets together.
    pub images_left_out: usize,
    /// What was measured.
    pub scores: Vec<Score>,
}

/// One score over several subjects.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Of the scores.
    pub protocol: String,
    /// Of the scores.
    pub metric: &'static str,
    /// Of the scores.
    pub unit: Unit,
    /// One per subject that has the score, in their order.
    pub values: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation (n - 1), of at least two.
    pub standard_deviation: Option<f64>,
}

/// Scores of the same protocol and metric together, in the order of their first appearance.
pub fn summarise(evaluations: &[Evaluation]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for score in evaluations.iter().flat_map(|evaluation| &evaluation.scores) {
        let same =
            |line: &&mut Line| (&line.protocol, line.metric) == (&score.protocol, score.metric);
        match lines.iter_mut().find(same) {
            Some(line) => line.values.push(score.value),
            None => lines.push(Line {
                protocol: score.protocol.clone(),
                metric: score.metric,
                unit: score.unit,
                values: vec![score.value],
                mean: 0.0,
                standard_deviation: None,
            }),
        }
    }
    for line in &mut lines {
        let count = line.values.len() as f64;
        let mean = line.values.iter().sum::<f64>() / count;
        line.mean = mean;
        line.standard_deviation = (line.values.len() > 1).then(|| {
            let squares = line.values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
            (squares / (count - 1.0)).sqrt()
        });
    }
    lines
}

impl Line {
    fn cells(&self, several: bool) -> Vec<String> {
        let metric = match self.unit {
            Unit::Share => format!("{} %", self.metric),
            Unit::Number => self.metric.to_owned(),
        };
        let mut cells = vec![self.protocol.clone(), metric, self.unit.show(self.mean)];
        if several {
            let deviation = self.standard_deviation.map(|deviation| self.unit.show(deviation));
            cells.push(deviation.unwrap_or_else(|| "-".to_owned()));
            cells.push(self.values.len().to_string());
        }
        cells
    }
}

fn headers(several: bool) -> &'static [&'static str] {
    match several {
        true => &["protocol", "measure", "mean", "sd (n-1)", "n"],
        false => &["protocol", "measure", "value"],
    }
}

/// The lines as a table for a terminal.
pub fn summary_table(evaluations: &[Evaluation]) -> String {
    let several = evaluations.len() > 1;
    let rows: Vec<Vec<String>> =
        summarise(evaluations).iter().map(|line| line.cells(several)).collect();
    table::render(headers(several), &rows)
}

/// The table and the definitions of the first subject's scores, as Markdown.
pub fn to_markdown(evaluations: &[Evaluation]) -> String {
    let several = evaluations.len() > 1;
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
    let headers = headers(several);
    text += "\n";
    text += &row(&headers.iter().map(ToString::to_string).collect::<Vec<_>>());
    text += &row(&vec!["---".to_owned(); headers.len()]);
    for line in summarise(evaluations) {
        text += &row(&line.cells(several));
    }
    text += "\nWhat was measured, of the first run:\n\n";
    for score in evaluations.first().into_iter().flat_map(|evaluation| &evaluation.scores) {
        text +=
            &["- ", &score.protocol, ", ", score.metric, ": ", &score.definition, "\n"].concat();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(values: &[(&str, f64)]) -> Evaluation {
        let score = |&(protocol, value): &(&str, f64)| Score {
            protocol: protocol.to_owned(),
            metric: "top-1",
            value,
            unit: Unit::Share,
            definition: format!("how {protocol} was measured"),
        };
        Evaluation {
            subject: "runs/a".to_owned(),
            step: Some(8),
            training_seed: 0,
            images_left_out: 0,
            scores: values.iter().map(score).collect(),
        }
    }

    /// The sample standard deviation of 0.5, 0.6 and 0.7 is 0.1.
    #[test]
    fn means_and_deviations_are_those_of_the_sample() {
        let all = [
            evaluation(&[("linear", 0.5), ("k-NN", 0.4)]),
            evaluation(&[("linear", 0.6)]),
            evaluation(&[("linear", 0.7)]),
        ];
        let lines = summarise(&all);
        assert_eq!(lines.len(), 2);
        assert!((lines[0].mean - 0.6).abs() < 1e-12);
        assert!((lines[0].standard_deviation.unwrap() - 0.1).abs() < 1e-12);
        assert_eq!((lines[1].values.len(), lines[1].standard_deviation), (1, None));
        let text = summary_table(&all);
        let cells: Vec<Vec<&str>> =
            text.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(cells[0], ["linear", "top-1", "%", "60.00", "10.00", "3"]);
        assert_eq!(cells[1], ["k-NN", "top-1", "%", "40.00", "-", "1"]);
        assert!(to_markdown(&all).contains("| linear | top-1 % | 60.00 | 10.00 | 3 |"));
    }

    #[test]
    fn one_run_has_no_deviation() {
        let one = [evaluation(&[("linear", 0.5)])];
        assert!(!summary_table(&one).contains("sd"));
        let text = to_markdown(&one);
        assert!(text.contains("- linear, top-1: how linear was measured"), "{text}");
        assert!(text.contains("`runs/a`, step 8, seed 0\n"), "{text}");
        let text = to_markdown(&[Evaluation { images_left_out: 3, ..evaluation(&[]) }]);
        assert!(text.contains("seed 0, 3 image(s) left out that cannot be read\n"), "{text}");
    }
}
