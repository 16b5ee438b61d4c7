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

use crate::panics;

/// Bad input that no library error stands for.
#[derive(Debug)]
pub(crate) struct BadInput(pub(crate) String);

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// The error with its causes, but for those that it already quotes, at a length that can be read. If a
/// thread panicked, that is the last cause.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let causes = error.chain().map(ToString::to_string).chain(panics::first());
    let text = causes.fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    });
    readable(&text)
}

/// A message of more lines loses some in the middle.
const MOST_LINES: usize = 60;
/// A longer line loses its middle. Paths of files can be long, and the reason may come last.
const MOST_CHARACTERS: usize = 1_000;

/// The text without what libtorch adds for its own developers (its name for errors, and the C++ frames
/// in which it failed), and without the middle of what is too long to be read.
fn readable(text: &str) -> String {
    let is_of_libtorch = |line: &str| {
        let line = line.trim_start();
        line.starts_with("frame #")
            || line.starts_with("Exception raised from ")
            || line.starts_with("C++ CapturedTraceback:")
    };
    let text = text.replace("Internal torch error: ", "");
    let lines = text.lines().filter(|line| !is_of_libtorch(line)).map(str::trim_end);
    let mut lines: Vec<String> = lines.map(shortened).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    if lines.len() > MOST_LINES {
        let left_out = lines.len() - MOST_LINES;
        lines.splice(
            MOST_LINES / 2..MOST_LINES / 2 + left_out,
            [format!("[{left_out} more lines]")],
        );
    }
    lines.join("\n")
}

fn shortened(line: &str) -> String {
    let Some(left_out) = line.chars().count().checked_sub(MOST_CHARACTERS).filter(|&n| n > 0)
    else {
        return line.to_owned();
    };
    let begin: String = line.chars().take(MOST_CHARACTERS / 2).collect();
    let end: String = line.chars().skip(MOST_CHARACTERS / 2 + left_out).collect();
    format!("{begin} [{left_out} more characters] {end}")
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
                | TrainError::Damaged { .. }
        )
    )
}

fn is_input(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<ProbeError>() {
        return match error {
            // A file that was given to be evaluated is input, unlike the checkpoint of a run that
            // trains.
            ProbeError::Train(TrainError::Checkpoint { .. } | TrainError::Damaged { .. })
            | ProbeError::Data(_)
            | ProbeError::View(_)
            | ProbeError::Load(LoadError::Data(_))
            | ProbeError::NoCheckpoint(_)
            | ProbeError::NoProjector { .. }
            | ProbeError::Request(_)
            | ProbeError::Names { .. }
            | ProbeError::Results { .. } => true,
            ProbeError::Unfit(error) => of_weights(error),
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
    if let Some(error) = error.downcast_ref::<WeightsError>() {
        return of_weights(error);
    }
    if let Some(ImportError::Weights(error)) = error.downcast_ref::<ImportError>() {
        return of_weights(error);
    }
    if let Some(error) = error.downcast_ref::<ImportError>() {
        return !matches!(error, ImportError::Write(_) | ImportError::Tensor(_));
    }
    if let Some(error) = error.downcast_ref::<EmbedError>() {
        return !matches!(error, EmbedError::Write { .. });
    }
    error.is::<BadInput>()
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
        | TrainError::Dist(DistError::Variable { .. } | DistError::Mismatch { .. })
        | TrainError::ChangedRecipe { .. }
        | TrainError::OtherImages { .. }
        | TrainError::Format { .. }
        | TrainError::ChangedData { .. } => true,
        TrainError::Weights(error) => of_weights(error),
        TrainError::Evaluation(error) => of_evaluation(error),
        TrainError::Report(error) => of_report(error),
        _ => false,
    }
}

/// Weights that are not finite are of a network that has diverged.
fn of_weights(error: &WeightsError) -> bool {
    !matches!(error, WeightsError::NotFinite { .. } | WeightsError::Torch(_))
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
        ReportError::RunExists { .. }
            | ReportError::NoRun { .. }
            | ReportError::NoRecipe { .. }
            | ReportError::Busy { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_libtorch_are_left_out_of_messages() {
        let said = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate \
                    memory: you tried to allocate 2359296 bytes. Error code 12 (Cannot allocate memory)\n\
                    Exception raised from alloc_cpu at ../c10/core/impl/alloc_cpu.cpp:121 (most recent \
                    call first):\nframe #0: c10::Error::Error(c10::SourceLocation, std::string) + 0xa9 \
                    (0x7f in libc10.so)\nframe #1: <unknown function> + 0x2f (0x7f in nearkin)\n\n";
        let error = TrainError::from(tch::TchError::Torch(said.to_owned()));
        let error = anyhow::Error::from(error).context("the step");
        assert_eq!(
            message(&error),
            "the step: libtorch: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: \
             can't allocate memory: you tried to allocate 2359296 bytes. Error code 12 (Cannot allocate \
             memory)"
        );
    }

    #[test]
    fn long_messages_keep_their_begin_and_their_end() {
        let cut =
            message(&anyhow::anyhow!("{}: {}: no such key", "a".repeat(300), "é".repeat(400_000)));
        assert!(cut.starts_with("aaa") && cut.ends_with("é: no such key"), "{cut}");
        assert!(cut.contains("[399315 more characters]"), "{cut}");
        assert!(cut.chars().count() < MOST_CHARACTERS + 40, "{cut}");
        let lines: Vec<String> = (0..1000).map(|line| line.to_string()).collect();
        let cut = message(&anyhow::anyhow!("{}", lines.join("\n")));
        assert!(cut.starts_with("0\n1\n") && cut.ends_with("998\n999"), "{cut}");
        assert!(cut.contains("\n[940 more lines]\n"), "{cut}");
        assert_eq!(cut.lines().count(), MOST_LINES + 1);
        let short = "x".repeat(MOST_CHARACTERS);
        assert_eq!(message(&anyhow::anyhow!("{short}")), short);
    }
}
