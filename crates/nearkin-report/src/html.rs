//! The report: one HTML page that says what a run did, readable without a network or scripts, and
//! years later.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

use crate::chart::{Chart, Series};
use crate::files::write_atomically;
use crate::metrics::{Kind, Record, names, read_metrics};
use crate::{ReportError, RunFolder, text};

const STYLE: &str = include_str!("report.css");

/// Writes `report.html` from the recipe, the metrics and the environment of a run.
///
/// A run that is still training, or died early, has a report too: what is missing (metrics,
/// environment) is left out of the page.
///
/// # Errors
///
/// [`ReportError::Read`] if the recipe cannot be read; [`ReportError::Malformed`] if metrics or
/// environment are not what they should be; [`ReportError::Write`].
pub fn write_report(run: &RunFolder) -> Result<(), ReportError> {
    let recipe_path = run.recipe();
    let recipe = fs::read(&recipe_path).map_err(ReportError::reading(&recipe_path))?;
    let records = if run.metrics().exists() { read_metrics(&run.metrics())? } else { Vec::new() };
    let page = Page {
        name: &run.name(),
        recipe: &String::from_utf8_lossy(&recipe),
        environment: read_environment(&run.environment())?,
        records: &records,
    };
    write_atomically(&run.report(), |out| page.write(out))
}

fn read_environment(path: &Path) -> Result<Value, ReportError> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Value::Null),
        Err(error) => return Err(ReportError::reading(path)(error)),
    };
    serde_json::from_slice(&content).map_err(|error| ReportError::Malformed {
        path: path.to_owned(),
        line: error.line(),
        reason: error.to_string(),
    })
}

/// Text as it may stand in HTML, in and out of quoted attributes.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            formatter.write_str(&rest[..at])?;
            formatter.write_str(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &rest[at + 1..];
        }
        formatter.write_str(rest)
    }
}

struct Page<'a> {
    name: &'a str,
    recipe: &'a str,
    /// Null if there is none.
    environment: Value,
    records: &'a [Record],
}

impl Page<'_> {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let name = Escaped(self.name);
        writeln!(
            out,
            r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{name} · nearkin</title>
<style>
{STYLE}</style>
</head>
<body>
<header>
<p>nearkin pretraining report</p>
<h1>{name}</h1>
</header>
<main>"#
        )?;

        writeln!(out, "<section>\n<h2>Summary</h2>")?;
        write_table(out, &summary(self.records))?;
        writeln!(out, "</section>")?;

        let charts = charts(self.records);
        if !charts.is_empty() {
            writeln!(out, "<section>\n<h2>Curves</h2>")?;
            let group = charts.iter().map(Chart::group).max().unwrap_or(1);
            if group > 1 {
                writeln!(
                    out,
                    "<p>Long curves: the line is the mean of {group} steps in a row, the band their range.</p>"
                )?;
            }
            writeln!(out, "<div class=\"charts\">")?;
            charts.iter().try_for_each(|chart| chart.write(out))?;
            writeln!(out, "</div>\n</section>")?;
        }

        let events = events(self.records);
        if !events.is_empty() {
            writeln!(out, "<section>\n<h2>Events</h2>")?;
            write_table(out, &events)?;
            writeln!(out, "</section>")?;
        }

        writeln!(
            out,
            "<section>\n<h2>Recipe</h2>\n<pre>{}</pre>\n</section>",
            Escaped(self.recipe.trim_end())
        )?;
        let environment = flatten(&self.environment);
        if !environment.is_empty() {
            writeln!(out, "<section>\n<h2>Environment</h2>")?;
            write_table(out, &environment)?;
            writeln!(out, "</section>")?;
        }
        writeln!(out, "</main>\n</body>\n</html>")
    }
}

/// A table of two columns, heading and text.
fn write_table(out: &mut impl Write, rows: &[(String, String)]) -> io::Result<()> {
    writeln!(out, "<table>")?;
    for (heading, text) in rows {
        writeln!(
            out,
            r#"<tr><th scope="row">{}</th><td>{}</td></tr>"#,
            Escaped(heading),
            Escaped(text)
        )?;
    }
    writeln!(out, "</table>")
}

fn of_kind(records: &[Record], kind: Kind) -> impl DoubleEndedIterator<Item = &Record> {
    records.iter().filter(move |record| record.kind == kind)
}

/// The latest value of that name.
fn last_number(records: &[Record], kind: Kind, name: &str) -> Option<f64> {
    of_kind(records, kind).rev().find_map(|record| record.number(name))
}

/// The results of a run, as heading and text.
fn summary(records: &[Record]) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut add = |heading: &str, text: String| rows.push((heading.to_owned(), text));

    let Some(last) = records.last() else {
        add("Metrics", "none yet: the run has not finished its first step".to_owned());
        return rows;
    };

    let of_epoch = of_kind(records, Kind::Epoch)
        .rev()
        .find_map(|record| Some((record.number(names::LOSS)?, record.epoch)));
    let loss =
        of_epoch.map(|(loss, epoch)| (loss, format!("mean of epoch {epoch}"))).or_else(|| {
            of_kind(records, Kind::Step).rev().find_map(|record| {
                Some((record.number(names::LOSS)?, format!("step {}", text::grouped(record.step))))
            })
        });
    if let Some((loss, when)) = loss {
        let chance =
            reference_loss(records).map_or_else(String::new, |loss| format!("; chance {loss:.3}"));
        add("Final loss", format!("{loss:.3} ({when}{chance})"));
    }

    for (definition, series) in knn_by_definition(records) {
        let heading = if definition.is_empty() { "k-NN accuracy" } else { definition };
        if let Some((record, _)) = series.last() {
            let after = |(record, accuracy): &(&Record, f64)| match (record.step, record.epoch) {
                (0, _) => format!("{} before training", text::percent(*accuracy)),
                (_, epoch) => format!("{} after epoch {epoch}", text::percent(*accuracy)),
            };
            let untrained = series.first().filter(|(first, _)| first.step == 0 && record.step > 0);
            let chance = record
                .number(names::CHANCE_ACCURACY)
                .map(|share| format!("chance {}", text::percent(share)));
            let parts: Vec<String> =
                series.last().into_iter().chain(untrained).map(after).chain(chance).collect();
            add(heading, parts.join("; "));
        }
    }

    if let Some(rate) = median(values(records, names::IMAGES_PER_SECOND)) {
        add("Throughput", format!("{} images/s (median over steps)", text::rate(rate)));
    }
    if let Some(share) = median(values(records, names::DATA_WAIT_SHARE)) {
        add(
            "Waiting for data",
            format!("{} of the time (median over steps)", text::percent(share)),
        );
    }
    let of_epochs = |name: &str| {
        median(of_kind(records, Kind::Epoch).filter_map(|record| record.number(name)).collect())
    };
    if let Some(rate) = of_epochs(names::MODEL_FLOP_PER_SECOND) {
        let share = of_epochs(names::MATMUL_SHARE).map_or_else(String::new, |share| {
            format!(", {} of what products of matrices reach", text::percent(share))
        });
        add("Model", format!("{}{share} (median over epochs)", text::flop_rate(rate)));
    }
    if let Some(bytes) = last_number(records, Kind::Epoch, names::PEAK_MEMORY_BYTES) {
        add("Peak memory", text::memory(bytes));
    }
    let steps = records.iter().map(|record| record.step).max().unwrap_or_default();
    let epochs = of_kind(records, Kind::Epoch).map(|record| record.epoch).max().unwrap_or_default();
    add("Steps", format!("{} ({epochs} finished epochs)", text::grouped(steps)));
    add("Training time", text::duration(last.seconds));
    rows
}

fn reference_loss(records: &[Record]) -> Option<f64> {
    last_number(records, Kind::Step, names::REFERENCE_LOSS)
        .or_else(|| last_number(records, Kind::Epoch, names::REFERENCE_LOSS))
}

/// The k-NN records with their accuracies, by definition, in order of appearance.
fn knn_by_definition(records: &[Record]) -> Vec<(&str, Vec<(&Record, f64)>)> {
    let mut groups: Vec<(&str, Vec<(&Record, f64)>)> = Vec::new();
    for record in of_kind(records, Kind::Knn) {
        let Some(accuracy) = record.number(names::ACCURACY) else { continue };
        let definition = record.text(names::DEFINITION).unwrap_or_default();
        match groups.iter_mut().find(|(known, _)| *known == definition) {
            Some((_, group)) => group.push((record, accuracy)),
            None => groups.push((definition, vec![(record, accuracy)])),
        }
    }
    groups
}

/// The finite values of that name over all steps.
fn values(records: &[Record], name: &str) -> Vec<f64> {
    of_kind(records, Kind::Step)
        .filter_map(|record| record.number(name))
        .filter(|value| value.is_finite())
        .collect()
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], upper)
    } else {
        upper
    })
}

/// Loss and k-NN first, then every other number of the steps.
fn charts(records: &[Record]) -> Vec<Chart> {
    let mut step_names: Vec<&str> = Vec::new();
    for (name, _) in of_kind(records, Kind::Step).flat_map(Record::numbers) {
        if !step_names.contains(&name) {
            step_names.push(name);
        }
    }
    let known =
        [names::LEARNING_RATE, names::MOMENTUM, names::IMAGES_PER_SECOND, names::DATA_WAIT_SHARE];
    step_names.sort_by_key(|name| known.iter().position(|known| known == name).unwrap_or(9));
    step_names.retain(|name| ![names::LOSS, names::REFERENCE_LOSS].contains(name));

    let mut charts = vec![loss_chart(records), knn_chart(records)];
    charts.extend([
        spread_chart(records, names::RANK_ME, "RankMe", "effective rank of the test features"),
        spread_chart(
            records,
            names::FEATURE_DEVIATION,
            "Standard deviation of the features",
            "per dimension, mean",
        ),
    ]);
    charts.extend(step_names.into_iter().map(|name| step_chart(records, name)));
    charts.retain(|chart| chart.series.iter().any(|series| !series.points.is_empty()));
    charts
}

fn step_series(records: &[Record], name: &str, scale: f64) -> Vec<Series> {
    let points = of_kind(records, Kind::Step)
        .filter_map(|record| Some((record.step as f64, scale * record.number(name)?)))
        .collect();
    vec![Series { name: name.to_owned(), points }]
}

fn loss_chart(records: &[Record]) -> Chart {
    let reference = reference_loss(records);
    Chart {
        title: "Loss".to_owned(),
        x_label: "step",
        // A chance value is the logarithm of a number of candidates: the loss is a cross-entropy.
        y_label: if reference.is_some() { "loss (nats)" } else { "loss" }.to_owned(),
        from_zero: false,
        series: step_series(records, names::LOSS, 1.0),
        reference: reference.map(|loss| (loss, format!("chance {loss:.3}"))),
    }
}

fn knn_chart(records: &[Record]) -> Chart {
    let series = knn_by_definition(records)
        .into_iter()
        .map(|(definition, group)| Series {
            name: definition.to_owned(),
            points: group
                .iter()
                .map(|(record, accuracy)| (record.epoch as f64, 100.0 * accuracy))
                .collect(),
        })
        .collect();
    let chance = last_number(records, Kind::Knn, names::CHANCE_ACCURACY);
    Chart {
        title: "k-NN accuracy".to_owned(),
        x_label: "epoch",
        y_label: "top-1 accuracy (%)".to_owned(),
        from_zero: true,
        series,
        reference: chance.map(|share| (100.0 * share, format!("chance {}", text::percent(share)))),
    }
}

/// How the features of the test images spread: both values fall to the ground where they collapse.
fn spread_chart(records: &[Record], name: &str, title: &str, y_label: &str) -> Chart {
    let mut points: Vec<(f64, f64)> = of_kind(records, Kind::Knn)
        .filter_map(|record| Some((record.epoch as f64, record.number(name)?)))
        .collect();
    // Each way to vote has a record of its own, with the same spread.
    points.dedup_by_key(|(epoch, _)| *epoch);
    Chart {
        title: title.to_owned(),
        x_label: "epoch",
        y_label: y_label.to_owned(),
        from_zero: true,
        series: vec![Series { name: title.to_owned(), points }],
        reference: None,
    }
}

fn step_chart(records: &[Record], name: &str) -> Chart {
    let (title, y_label, from_zero, scale) = match name {
        names::LEARNING_RATE => ("Learning rate", "learning rate", true, 1.0),
        names::MOMENTUM => ("Momentum encoder", "share kept per step", false, 1.0),
        names::IMAGES_PER_SECOND => ("Throughput", "images/s", true, 1.0),
        names::DATA_WAIT_SHARE => ("Waiting for data", "share of time (%)", true, 100.0),
        _ => (name, name, false, 1.0),
    };
    Chart {
        title: heading(title),
        x_label: "step",
        y_label: y_label.replace('_', " "),
        from_zero,
        series: step_series(records, name, scale),
        reference: None,
    }
}

/// The name of a value with spaces and a capital letter.
fn heading(name: &str) -> String {
    let mut characters = name.chars();
    let first = characters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(characters).map(|letter| if letter == '_' { ' ' } else { letter }).collect()
}

/// When and what, for each event that has a message.
fn events(records: &[Record]) -> Vec<(String, String)> {
    of_kind(records, Kind::Event)
        .filter_map(|record| {
            let when =
                format!("step {}, {}", text::grouped(record.step), text::duration(record.seconds));
            Some((when, record.text(names::MESSAGE)?.to_owned()))
        })
        .collect()
}

/// The leaves of a JSON value with their dotted paths.
fn flatten(value: &Value) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    collect_leaves("", value, &mut rows);
    rows
}

fn collect_leaves(path: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let text = match value {
        Value::Null => return,
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect_leaves(&path, field, rows);
            }
            return;
        }
        Value::Array(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect();
            items.join(", ")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    rows.push((path.to_owned(), text));
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFINITION: &str = "k-NN top-1, k = 20, cosine, temperature 0.07";

    /// Two epochs of three steps.
    fn records() -> Vec<Record> {
        let knn = |step, epoch, accuracy| {
            Record::new(Kind::Knn, step, epoch, 4.0 * step as f64)
                .with_text(names::DEFINITION, DEFINITION)
                .with(names::ACCURACY, accuracy)
                .with(names::CHANCE_ACCURACY, 0.1)
        };
        let mut records = vec![knn(0, 0, 0.25)];
        for step in 1..=6_u64 {
            let epoch = (step - 1) / 3 + 1;
            let seconds = 20.0 * step as f64;
            records.push(
                Record::new(Kind::Step, step, epoch, seconds)
                    .with(names::LOSS, 8.5 - 0.25 * step as f64)
                    .with(names::REFERENCE_LOSS, 8.318)
                    .with(names::LEARNING_RATE, 0.03)
                    .with(names::MOMENTUM, 0.99)
                    .with(names::IMAGES_PER_SECOND, 400.0 + step as f64)
                    .with(names::DATA_WAIT_SHARE, 0.012)
                    .with("positive_similarity", 0.5),
            );
            if step % 3 == 0 {
                let loss = 8.75 - 0.25 * step as f64;
                records.push(
                    Record::new(Kind::Epoch, step, epoch, seconds)
                        .with(names::LOSS, loss)
                        .with(names::MODEL_FLOP_PER_SECOND, 38.2e9)
                        .with(names::MATMUL_SHARE, 0.41)
                        .with(names::PEAK_MEMORY_BYTES, 3.0e8 + step as f64),
                );
                records.push(knn(step, epoch, 0.3 + 0.05 * epoch as f64));
            }
        }
        let resumed = Record::new(Kind::Event, 3, 1, 60.0);
        records.push(resumed.with_text(names::MESSAGE, "resumed from <step 3>"));
        records.push(Record::new(Kind::Event, 6, 2, 125.0).with_text(names::MESSAGE, "finished"));
        records
    }

    fn page(records: &[Record]) -> String {
        let page = Page {
            name: "a <run> & more",
            recipe: "[data]\nset = \"<shapes>\"\n",
            environment: serde_json::json!({
                "device": {"name": "CPU <x>", "threads": 2},
                "command": ["nearkin", "train"],
                "commit": null,
            }),
            records,
        };
        let mut out = Vec::new();
        page.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn shown(rows: &[(String, String)]) -> String {
        let lines: Vec<String> =
            rows.iter().map(|(heading, text)| format!("{heading}: {text}")).collect();
        lines.join("\n")
    }

    #[test]
    fn the_summary_says_what_came_of_the_run() {
        insta::assert_snapshot!(shown(&summary(&records())), @r"
        Final loss: 7.250 (mean of epoch 2; chance 8.318)
        k-NN top-1, k = 20, cosine, temperature 0.07: 40.0 % after epoch 2; 25.0 % before training; chance 10.0 %
        Throughput: 404 images/s (median over steps)
        Waiting for data: 1.2 % of the time (median over steps)
        Model: 38.2 GFLOP/s, 41.0 % of what products of matrices reach (median over epochs)
        Peak memory: 286 MiB
        Steps: 6 (2 finished epochs)
        Training time: 2 min 5 s
        ");
    }

    #[test]
    fn a_result_from_before_training_is_called_that() {
        let rows = summary(&records()[..1]);
        assert_eq!(
            rows[0],
            (DEFINITION.to_owned(), "25.0 % before training; chance 10.0 %".to_owned())
        );
    }

    #[test]
    fn text_from_the_run_is_escaped_everywhere() {
        let awkward = Record::new(Kind::Step, 7, 3, 1.0).with("<b>\"odd'", 1.0);
        let html = page(&[records(), vec![awkward]].concat());
        for raw in ["<run>", "<shapes>", "CPU <x>", "<step 3>", "<b>", "\"odd'"] {
            assert!(!html.contains(raw), "{raw} is not escaped");
        }
        for escaped in [
            "<h1>a &lt;run&gt; &amp; more</h1>",
            "set = &quot;&lt;shapes&gt;&quot;",
            "<th scope=\"row\">device.name</th><td>CPU &lt;x&gt;</td>",
            "resumed from &lt;step 3&gt;",
            "&lt;b&gt;&quot;odd&#39;",
        ] {
            assert!(html.contains(escaped), "{escaped} is missing");
        }
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let html = page(&records());
        for outside in ["<script", "<link", "src=", "url(", "http:", "https:", "@import"] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.contains("prefers-color-scheme"));
    }

    #[test]
    fn how_features_spread_is_drawn_once_per_epoch() {
        let mut records = Vec::new();
        for epoch in 0..3_u64 {
            for vote in ["k=20", "k=200"] {
                let knn = Record::new(Kind::Knn, 3 * epoch, epoch, 1.0);
                let knn = knn.with_text(names::DEFINITION, vote).with(names::ACCURACY, 0.5);
                // The pixels before training have no features.
                records.push(knn.clone());
                records.push(
                    knn.with(names::RANK_ME, 10.0 + epoch as f64)
                        .with(names::FEATURE_DEVIATION, 0.04),
                );
            }
        }
        let charts = charts(&records);
        let titles: Vec<&str> = charts.iter().map(|chart| chart.title.as_str()).collect();
        assert_eq!(titles, ["k-NN accuracy", "RankMe", "Standard deviation of the features"]);
        assert_eq!(charts[1].series[0].points, [(0.0, 10.0), (1.0, 11.0), (2.0, 12.0)]);
        assert_eq!(charts[2].series[0].points.len(), 3);
    }

    #[test]
    fn every_quantity_has_its_chart() {
        let titles: Vec<String> = charts(&records()).into_iter().map(|chart| chart.title).collect();
        assert_eq!(
            titles,
            [
                "Loss",
                "k-NN accuracy",
                "Learning rate",
                "Momentum encoder",
                "Throughput",
                "Waiting for data",
                "Positive similarity"
            ]
        );
        let html = page(&records());
        assert_eq!(html.matches("<figure>").count(), 7);
        assert_eq!(html.matches("class=\"reference\"").count(), 2);
    }

    #[test]
    fn k_nn_records_of_one_definition_form_one_curve() {
        let other = Record::new(Kind::Knn, 6, 2, 1.0)
            .with_text(names::DEFINITION, "k = 200")
            .with(names::ACCURACY, 0.5);
        let series = knn_chart(&[records(), vec![other]].concat()).series;
        assert_eq!(series.len(), 2);
        assert_eq!(series[0].points.len(), 3);
        assert_eq!(series[1], Series { name: "k = 200".to_owned(), points: vec![(2.0, 50.0)] });
    }

    #[test]
    fn a_report_without_k_nn_or_with_one_record_is_still_a_page() {
        let without: Vec<Record> =
            records().into_iter().filter(|record| record.kind != Kind::Knn).collect();
        let html = page(&without);
        assert!(html.contains("Final loss") && !html.contains("k-NN"));

        let one = &records()[1..2];
        let html = page(one);
        assert!(html.contains("8.250 (step 1; chance 8.318)"));
        assert_eq!(html.matches("<circle").count(), 6, "one marker in each chart");

        let html = page(&[]);
        assert!(html.contains("none yet") && !html.contains("<svg"));
        assert!(html.ends_with("</html>\n"));
    }

    #[test]
    fn the_page_says_when_curves_are_grouped() {
        let long: Vec<Record> = (1..=1000)
            .map(|step| Record::new(Kind::Step, step, 1, 1.0).with(names::LOSS, 1.0))
            .collect();
        assert!(page(&long).contains("mean of 4 steps in a row"));
        assert!(!page(&long[..300]).contains("steps in a row"));
    }

    #[test]
    fn a_run_that_diverged_says_so() {
        let diverged: Vec<Record> = (1..=5)
            .map(|step| {
                let loss = if step < 3 { 5.0 } else { f64::NAN };
                Record::new(Kind::Step, step, 1, f64::NAN)
                    .with(names::LOSS, loss)
                    .with(names::IMAGES_PER_SECOND, f64::INFINITY)
            })
            .collect();
        let html = page(&diverged);
        assert!(html.contains("<td>NaN (step 5)</td>"));
        assert!(html.contains("3 values that are not finite, the first at step 3"));
        let svg = &html[html.find("<svg").unwrap()..html.rfind("</svg>").unwrap()];
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn the_report_of_a_folder_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (run, _) = RunFolder::create(folder.path().join("my-run")).unwrap();
        fs::write(run.recipe(), "seed = 1\n").unwrap();
        write_report(&run).unwrap();
        assert!(fs::read_to_string(run.report()).unwrap().contains("none yet"));

        let mut metrics = crate::MetricsWriter::create(run.metrics()).unwrap();
        for record in records() {
            metrics.append(&record).unwrap();
        }
        run.write_environment(&serde_json::json!({"nearkin": "0.1.0"})).unwrap();
        write_report(&run).unwrap();
        let html = fs::read_to_string(run.report()).unwrap();
        for part in ["<h1>my-run</h1>", "seed = 1", "0.1.0", "7.250 (mean of epoch 2"] {
            assert!(html.contains(part), "{part} is missing");
        }

        fs::write(run.environment(), "{\n oops").unwrap();
        let error = write_report(&run).unwrap_err().to_string();
        assert!(error.contains("environment.json, line 2"), "{error}");
    }
}
