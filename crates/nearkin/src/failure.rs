//! How errors are shown, and with which exit code the program ends because of them.

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

/// Another attempt may succeed: a process was lost, a disk was full.
pub(crate) const FAILURE: u8 = 1;
/// Arguments, recipe or data have to change.
pub(crate) const INPUT: u8 = 2;
/// Another attempt with the same recipe and data would end in the same way.
pub(crate) const FINAL: u8 = 3;

/// The program's exit code after this error. Jobs that start again by themselves rely on it.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.chain().any(is_input) {
        INPUT
    } else if error.chain().any(is_final) {
        FINAL
    } else {
        FAILURE
    }
}

/// Whether an attempt that goes on from the same checkpoint comes to the same error.
fn is_final(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref(),
        Some(
            TrainError::NotFinite { .. }
                | TrainError::Diverged { .. }
                | TrainError::Checkpoint { .. }
        )
    )
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
            | ProbeError::Names { .. } => true,
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
        return matches!(error, DistError::Variable { .. } | DistError::Resolve { .. });
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
