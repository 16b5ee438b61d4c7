//! Reference cases: which check a case belongs to, and what came of it.
//!
//! A case says nothing of the code that it is for, and other people's files have other names,
//! shapes and numbers. So the check is chosen by a word of the file's name or title, else by the
//! keys of the case, and every expected value has to be compared: one that no check knows fails its
//! case, since a value that is passed over looks like one that agrees.

mod baselines;
mod case;
mod check;
mod fnc;
mod infonce;
mod infra;
mod relations;
mod ressl;
mod sane;
mod sce;
mod simclr;
mod through;

use std::fmt;
use std::path::Path;

use serde_json::Value;
use tch::Kind;

use self::case::{Case, Document, Failure, FileError, words};
use self::check::Check;

/// What the cases of a file are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    InfoNce,
    SimClr,
    Sce,
    ReSsl,
    Fnc,
    Sane,
    Baselines,
    Relations,
    Infrastructure,
    Theory,
}

impl Subject {
    /// By a word of a name or title; a theory's title names its method too.
    fn of_text(text: &str) -> Option<Self> {
        let words = words(text);
        let words: Vec<&str> = words
            .iter()
            .flat_map(|word| word.split(['.', '-', '+']))
            .map(|word| word.trim_end_matches(|letter: char| letter.is_ascii_digit()))
            .flat_map(|word| word.split('_'))
            .collect();
        let known = [
            (Self::Theory, &["theory"][..]),
            (Self::Relations, &["relations", "relation", "identities"]),
            (Self::Infrastructure, &["infra", "infrastructure", "optimiser", "optimizer"]),
            (Self::Baselines, &["baselines", "baseline"]),
            (Self::InfoNce, &["infonce"]),
            (Self::SimClr, &["simclr"]),
            (Self::Sce, &["sce"]),
            (Self::ReSsl, &["ressl"]),
            (Self::Fnc, &["fnc"]),
            (Self::Sane, &["sane"]),
        ];
        let found = known.iter().find(|(_, names)| names.iter().any(|name| words.contains(name)));
        found.map(|(subject, _)| *subject)
    }

    /// By what a case holds.
    fn of_case(case: &Case) -> Self {
        let (input, parameter) = (|key| case.has_input(key), |key| case.has_parameter(key));
        let views = input("view_a_raw") || input("views_raw");
        let named_loss = || case.expected.keys().any(|key| key.starts_with("loss_"));
        if case.has_nothing_but_a_name() && case.expects("value") {
            Self::Relations
        } else if infra::knows(case) {
            Self::Infrastructure
        } else if input("main_views_raw") || case.expects("F") {
            Self::Fnc
        } else if parameter("tau_m") {
            Self::Sce
        } else if parameter("tau_s") {
            Self::ReSsl
        } else if parameter("tau_prime") || parameter("m1") || input("x_query") {
            Self::Sane
        } else if views && named_loss() {
            Self::SimClr
        } else if (input("sim") && !input("partner"))
            || (input("q_raw") && input("k_raw") && parameter("tau"))
        {
            Self::InfoNce
        } else {
            Self::Baselines
        }
    }
}

/// Nothing is known that has such inputs.
fn unknown(case: &Case) -> Failure {
    let (inputs, parameters) = (case.inputs().join(", "), case.parameters().join(", "));
    Failure::Unknown(format!(
        "no check knows a case with inputs ({inputs}) and parameters ({parameters})"
    ))
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every expected value agrees.
    Ok,
    /// Why not.
    Failed(String),
    /// Why it was not compared.
    Skipped(String),
}

/// One case and what came of it.
#[derive(Debug)]
pub(crate) struct Report {
    file: String,
    case: String,
    /// Expected values that were compared.
    pub(crate) compared: Vec<String>,
    /// Largest error in double and in single precision.
    worst: [f64; 2],
    /// What came of it.
    pub(crate) outcome: Outcome,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, case, compared, worst: [double, single], outcome } = self;
        let (what, count) = (compared.join(", "), compared.len());
        write!(formatter, "{file:<16} {case:<44} {what} ({count})")?;
        write!(formatter, "  f64 {double:.1e}  f32 {single:.1e}  ")?;
        match outcome {
            Outcome::Ok => write!(formatter, "ok"),
            Outcome::Failed(reason) => write!(formatter, "FAILED ({reason})"),
            Outcome::Skipped(reason) => write!(formatter, "SKIPPED ({reason})"),
        }
    }
}

/// What a file holds.
#[derive(Debug)]
pub(crate) enum Contents {
    /// Cases, each computed in both precisions.
    Cases(Vec<Report>),
    /// Something else than objectives.
    NoObjective,
}

/// Computes all cases of a file.
pub(crate) fn run_file(path: &Path) -> Result<Contents, FileError> {
    let document = Document::read(path)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let subject = Subject::of_text(&stem).or_else(|| Subject::of_text(&document.title));
    if subject == Some(Subject::Theory) {
        return Ok(Contents::NoObjective);
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let cases = document.cases.into_iter();
    Ok(Contents::Cases(cases.map(|case| report(&file, case, subject)).collect()))
}

fn report(file: &str, case: Value, subject: Option<Subject>) -> Report {
    let name = case.get("name").and_then(Value::as_str).unwrap_or("(no name)").to_owned();
    let mut report = Report {
        file: file.to_owned(),
        case: name,
        compared: Vec::new(),
        worst: [0.0; 2],
        outcome: Outcome::Ok,
    };
    let case: Case = match serde_json::from_value(case) {
        Ok(case) => case,
        Err(error) => {
            report.outcome = Outcome::Skipped(format!("it is no case: {error}"));
            return report;
        }
    };
    let subject = subject.unwrap_or_else(|| Subject::of_case(&case));
    for (kind, worst) in [Kind::Double, Kind::Float].into_iter().zip(&mut report.worst) {
        let mut check = Check::new(&case, kind);
        let outcome = outcome(&mut check, subject);
        *worst = check.worst;
        report.compared = check.compared;
        if outcome != Outcome::Ok && report.outcome == Outcome::Ok {
            report.outcome = outcome;
        }
    }
    report
}

fn outcome(check: &mut Check<'_>, subject: Subject) -> Outcome {
    let run = match subject {
        Subject::InfoNce => infonce::run,
        Subject::SimClr => simclr::run,
        Subject::Sce => sce::run,
        Subject::ReSsl => ressl::run,
        Subject::Fnc => fnc::run,
        Subject::Sane => sane::run,
        Subject::Baselines => baselines::run,
        Subject::Relations => relations::run,
        Subject::Infrastructure => infra::run,
        Subject::Theory => |_: &mut Check<'_>| Ok(()),
    };
    match run(check) {
        Err(Failure::Unknown(reason)) => return Outcome::Skipped(reason),
        Err(error) => return Outcome::Failed(error.to_string()),
        Ok(()) => {}
    }
    let passed_over = check.case.expected.keys().filter(|key| !check.compared.contains(key));
    let passed_over = passed_over.map(|key| format!("expected key {key} is not checked"));
    let precision = if check.kind == Kind::Double { "f64" } else { "f32" };
    let wrong = check.wrong.iter().map(|wrong| format!("in {precision} {wrong}"));
    let reasons: Vec<String> = wrong.chain(passed_over).collect();
    if !reasons.is_empty() {
        return Outcome::Failed(reasons.join("; "));
    }
    if check.compared.is_empty() {
        Outcome::Skipped("it expects nothing".to_owned())
    } else {
        Outcome::Ok
    }
}
