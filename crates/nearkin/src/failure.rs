//! How errors are shown, and which are the user's to mend (exit code 2) or failures (exit code 1).

use std::process::ExitCode;

use nearkin_augment::LoadError;
use nearkin_data::DataError;
use nearkin_dist::DistError;
use nearkin_embed::EmbedError;
use nearkin_eval::EvaluationError;
use nearkin_export::{ExportError, ImportError};
use nearkin_model::{DeviceError, WeightsError};
use nearkin_probe::ProbeError;
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
    if let Some(error) = error.downcast_ref::<ProbeError>() {
        return match error {
            // A file that was given to be evaluated is input, unlike the checkpoint of a run that
            // trains.
            ProbeError::Train(TrainError::Checkpoint { .. })
            | ProbeError::Data(_)
            | ProbeError::View(_)
            | ProbeError::Load(LoadError::Data(_))
            | ProbeError::NoCheckpoint(_)
            | ProbeError::Weights { .. }
            | ProbeError::Request(_)
            | ProbeError::Names { .. }
            | ProbeError::Results { .. } => true,
            ProbeError::Train(error) => of_training(error),
            ProbeError::Evaluation(error) => of_evaluation(error),
            ProbeError::Report(error) => of_report(error),
            _ => false,
        };
    }
    if let Some(error) = error.downcast_ref::<TrainError>() {
        return of_training(error);
    }
    if let Some(error) = error.downcast_ref::<EvaluationError>() {
        return of_evaluation(error);
    }
    if let Some(error) = error.downcast_ref::<ReportError>() {
        return of_report(error);
    }
    if let Some(error) = error.downcast_ref::<DistError>() {
        return matches!(error, DistError::Variable { .. });
    }
    if let Some(error) = error.downcast_ref::<ExportError>() {
        return matches!(error, ExportError::Unsupported { .. } | ExportError::View(_));
    }
    if let Some(error) = error.downcast_ref::<ImportError>() {
        return !matches!(error, ImportError::Write(_) | ImportError::Tensor(_));
    }
    if let Some(error) = error.downcast_ref::<EmbedError>() {
        return !matches!(error, EmbedError::Write { .. });
    }
    error.is::<BadInput>()
        || error.is::<WeightsError>()
        || error.is::<RecipeError>()
        || error.is::<DataError>()
        || error.is::<DeviceError>()
}

fn of_training(error: &TrainError) -> bool {
    match error {
        TrainError::Setup(_)
        | TrainError::View(_)
        | TrainError::Data(_)
        | TrainError::Load(LoadError::Data(_))
        | TrainError::TooFewImages { .. }
        | TrainError::Division { .. }
        | TrainError::OtherRecipe { .. }
        | TrainError::Weights(_)
        | TrainError::Dist(DistError::Variable { .. } | DistError::Mismatch { .. })
        | TrainError::ChangedRecipe { .. }
        | TrainError::ChangedData { .. } => true,
        TrainError::Evaluation(error) => of_evaluation(error),
        TrainError::Report(error) => of_report(error),
        _ => false,
    }
}

fn of_evaluation(error: &EvaluationError) -> bool {
    matches!(
        error,
        EvaluationError::Load(LoadError::Data(_))
            | EvaluationError::NoLabels(_)
            | EvaluationError::SeveralLabels(_)
            | EvaluationError::NoneReadable { .. }
            | EvaluationError::Classes { .. }
    )
}

fn of_report(error: &ReportError) -> bool {
    matches!(
        error,
        ReportError::RunExists { .. } | ReportError::NoRun { .. } | ReportError::Busy { .. }
    )
}
