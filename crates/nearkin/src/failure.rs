//! How errors are shown, and which are the user's to mend (exit code 2) or failures (exit code 1).

use std::process::ExitCode;

use nearkin_augment::LoadError;
use nearkin_data::DataError;
use nearkin_eval::EvaluationError;
use nearkin_export::{ExportError, ImportError};
use nearkin_model::{DeviceError, WeightsError};
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
    ExitCode::from(if error.chain().any(is_input) { 2 } else { 1 })
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
                | TrainError::Weights(_)
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
    if let Some(error) = error.downcast_ref::<ExportError>() {
        return matches!(error, ExportError::Unsupported { .. } | ExportError::View(_));
    }
    if let Some(error) = error.downcast_ref::<ImportError>() {
        return !matches!(error, ImportError::Write(_) | ImportError::Tensor(_));
    }
    error.is::<BadInput>()
        || error.is::<WeightsError>()
        || error.is::<RecipeError>()
        || error.is::<DataError>()
        || error.is::<DeviceError>()
}
