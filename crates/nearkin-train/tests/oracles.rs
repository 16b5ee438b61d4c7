//! Every objective, and what surrounds them, against expected losses, targets, gradients and masks
//! that were computed independently in float64 (see `tests/oracles/`; each loss there was derived
//! twice, and gradients checked by central differences). What does the comparing is the example
//! `oracles`, which takes such files from any folder.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../examples/oracles/suite/mod.rs"]
mod suite;

use std::path::Path;

use suite::{Contents, Outcome, Report, run_file};

fn reports(file: &Path) -> Vec<Report> {
    match run_file(file).unwrap() {
        Contents::Cases(reports) => reports,
        Contents::NoObjective => Vec::new(),
    }
}

/// Every case passes, and as many cases and values were compared as there are: a case that were
/// dropped would pass in silence.
fn all_pass(file: &str, cases: usize, values: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles");
    let reports = reports(&folder.join(file));
    for report in &reports {
        assert_eq!(report.outcome, Outcome::Ok, "{report}");
    }
    let compared: usize = reports.iter().map(|report| report.compared.len()).sum();
    assert_eq!((reports.len(), compared), (cases, values));
}

#[test]
fn infonce() {
    all_pass("infonce.json", 10, 38);
}

#[test]
fn simclr() {
    all_pass("simclr.json", 3, 13);
}

#[test]
fn sce() {
    all_pass("sce.json", 42, 258);
}

#[test]
fn ressl() {
    all_pass("ressl.json", 4, 12);
}

#[test]
fn fnc() {
    all_pass("fnc.json", 41, 203);
}

#[test]
fn sane() {
    all_pass("sane.json", 15, 79);
}

#[test]
fn baselines() {
    all_pass("baselines.json", 16, 40);
}

#[test]
fn official() {
    all_pass("official.json", 7, 25);
}

#[test]
fn relations() {
    all_pass("relations.json", 13, 14);
}

#[test]
fn infra() {
    all_pass("infra.json", 8, 20);
}

/// A check that cannot fail shows nothing.
mod what_does_not_agree {
    use super::*;

    /// The first case of SCE with a change, in a file of any name and title.
    fn changed(change: impl Fn(&mut serde_json::Value)) -> Report {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/sce.json");
        let text = std::fs::read_to_string(file).unwrap();
        let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut case = document["cases"][0].take();
        change(&mut case);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("any.json");
        let document = serde_json::json!({ "title": "", "cases": [case] });
        std::fs::write(&path, document.to_string()).unwrap();
        reports(&path).remove(0)
    }

    #[test]
    fn neither_the_name_of_the_file_nor_that_of_the_case_is_needed() {
        let report = changed(|case| case["name"] = "any".into());
        assert_eq!(report.outcome, Outcome::Ok, "{report}");
    }

    #[test]
    fn a_wrong_value_is_reported_with_its_error() {
        let report = changed(|case| {
            let loss = case["expected"]["loss"].as_f64().unwrap();
            case["expected"]["loss"] = (loss + 1e-3).into();
        });
        let line = report.to_string();
        assert!(line.contains("FAILED (in f64 loss is off by 5.7e-4)"), "{line}");
    }

    #[test]
    fn a_wrong_shape_is_reported() {
        let report = changed(|case| case["expected"]["s"] = serde_json::json!([0.5, 0.5]));
        let line = report.to_string();
        assert!(line.contains("FAILED (in f64 s is [4, 4] instead of [2])"), "{line}");
    }

    #[test]
    fn an_expected_value_that_no_check_knows_is_not_passed_over() {
        let report = changed(|case| case["expected"]["surprise"] = 1.0.into());
        let line = report.to_string();
        assert!(line.contains("FAILED (expected key surprise is not checked)"), "{line}");
    }

    #[test]
    fn a_case_that_no_check_knows_is_named() {
        let report = changed(|case| case["inputs"] = serde_json::json!({ "riddle": 1 }));
        let line = report.to_string();
        assert!(line.contains("FAILED (there is no input q)"), "{line}");
        let report = changed(|case| {
            case["inputs"] = serde_json::json!({ "riddle": 1 });
            case["params"].take();
        });
        let line = report.to_string();
        assert!(line.contains("SKIPPED (no check knows a case with inputs (riddle)"), "{line}");
    }

    #[test]
    fn a_number_that_is_none_fails_its_case_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sce.json");
        let case = |loss: &str| {
            format!(
                "{{\"name\": \"\\\"NaN\\\" in a name\", \"inputs\": {{\"sim_qk\": [[1, 0], [0, 1]], \
                 \"sim_kk\": [[1, 0], [0, 1]]}}, \"params\": {{\"tau\": 1, \"tau_m\": 1, \"lam\": 1}}, \
                 \"expected\": {{\"loss\": {loss}}}}}"
            )
        };
        // The log of 1 + 1 / e.
        let cases = [case("NaN"), case("0.31326168751822286"), case("-Infinity")].join(", ");
        std::fs::write(&path, format!("{{\"cases\": [{cases}]}}")).unwrap();
        let reports = reports(&path);
        assert_eq!(reports[1].outcome, Outcome::Ok, "{}", reports[1]);
        for number in [0, 2] {
            let line = reports[number].to_string();
            assert!(line.contains("FAILED (loss is not a number)"), "{line}");
        }
    }

    #[test]
    fn a_refused_parameter_is_named() {
        let report = changed(|case| case["params"]["tau"] = 0.into());
        let line = report.to_string();
        assert!(line.contains("FAILED (method.temperature = 0:"), "{line}");
    }
}
