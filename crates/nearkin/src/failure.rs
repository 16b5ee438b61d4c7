//! How errors are shown, and which are the user's to mend (exit code 2) or failures (exit code 1).

use std::process::ExitCode;

use nearkin_augment::LoadError;
use nearkin_data::DataError;
use nearkin_dist::DistError;
use nearkin_eval::EvaluationError;
use nearkin_model::DeviceError;
use nearkin_recipe::RecipeError;
use nearkin_report::ReportError;
use nearkin_train::TrainError;

/// Bad input that no library error stands for.
#[derive(Debug)]
pub(crate) struct BadInput(pub(crate) String);

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// The error with its causes, but for those that it already quotes.
pub(crate) fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if is_bad_input(error) { 2 } else { 1 })
}

/// Whether the user's input is what has to change.
pub(crate) fn is_bad_input(error: &anyhow::Error) -> bool {
    error.chain().any(is_input)
}

fn is_input(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<TrainError>() {
        return matches!(
            error,
            TrainError::Setup(_)
                | TrainError::View(_)
                | TrainError::Data(_)
                | TrainError::Load(LoadError::Data(_))
                | TrainError::Evaluation(
                    EvaluationError::Load(LoadError::Data(_)) | EvaluationError::NoLabels(_)
                )
                | TrainError::TooFewImages { .. }
                | TrainError::Division { .. }
                | TrainError::Dist(DistError::Variable { .. } | DistError::Mismatch { .. })
                | TrainError::ChangedRecipe { .. }
                | TrainError::ChangedData { .. }
                | TrainError::Report(
                    ReportError::RunExists { .. }
                        | ReportError::NoRun { .. }
                        | ReportError::Busy { .. }
                )
        );
    }
    if let Some(error) = error.downcast_ref::<EvaluationError>() {
        return matches!(
            error,
            EvaluationError::Load(LoadError::Data(_)) | EvaluationError::NoLabels(_)
        );
    }
    if let Some(error) = error.downcast_ref::<ReportError>() {
        return matches!(
            error,
            ReportError::RunExists { .. } | ReportError::NoRun { .. } | ReportError::Busy { .. }
        );
    }
    if let Some(error) = error.downcast_ref::<DistError>() {
        return matches!(error, DistError::Variable { .. });
    }
    error.is::<BadInput>()
        || error.is::<RecipeError>()
        || error.is::<DataError>()
        || error.is::<DeviceError>()
}
