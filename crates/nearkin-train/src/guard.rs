//! The guard against non-finite steps.
//!
//! One bad batch must not ruin weeks of training, and a run that has diverged must not go on for
//! hours. So a step whose loss or gradient is not finite changes nothing, leaves behind what made
//! it, and after several in a row the run stops.

use std::path::{Path, PathBuf};

use nearkin_model::Parameters;
use nearkin_report::write_atomically;
use tch::{Device, Kind, TchError, Tensor};

use crate::{Optimizer, TrainError, save_tensors};

/// Copies of the running statistics, which a forward pass changes before anybody knows that the
/// step is bad.
#[derive(Debug)]
pub(crate) struct Buffers(Vec<(Tensor, Tensor)>);

impl Buffers {
    /// Of all given networks.
    pub(crate) fn of<'a>(networks: impl IntoIterator<Item = &'a Parameters>) -> Self {
        let buffers = networks
            .into_iter()
            .flat_map(Parameters::iter)
            .filter(|entry| !entry.trainable && entry.name.contains("running_"))
            .map(|entry| (entry.tensor.shallow_clone(), entry.tensor.zeros_like()));
        Self(buffers.collect())
    }

    /// The statistics themselves.
    pub(crate) fn live(&self) -> Vec<Tensor> {
        self.0.iter().map(|(live, _)| live.shallow_clone()).collect()
    }

    pub(crate) fn save(&mut self) -> Result<(), TchError> {
        self.0.iter_mut().try_for_each(|(live, copy)| copy.f_copy_(live))
    }

    pub(crate) fn restore(&mut self) -> Result<(), TchError> {
        self.0.iter_mut().try_for_each(|(live, copy)| live.f_copy_(copy))
    }

    /// [`restore`](Self::restore) if `bad`, a truth value that the device holds.
    pub(crate) fn restore_if(&mut self, bad: &Tensor) -> Result<(), TchError> {
        self.0.iter_mut().try_for_each(|(live, copy)| {
            let _ = copy.f_where_self_out(live, bad, live)?;
            Ok(())
        })
    }
}

/// The sum of the norms of all gradients, which is finite if they are; nothing without gradients.
pub(crate) fn sum_of_norms(optimizer: &Optimizer) -> Result<Option<Tensor>, TchError> {
    let norms = optimizer
        .gradients()
        .map(|(_, gradient)| gradient.f_norm())
        .collect::<Result<Vec<_>, TchError>>()?;
    if norms.is_empty() {
        return Ok(None);
    }
    Tensor::f_stack(&norms, 0)?.f_sum(Kind::Double).map(Some)
}

/// The values of two numbers of one device, for which the host waits once; 0 for one that is missing.
pub(crate) fn read_together(numbers: [Option<Tensor>; 2]) -> Result<[f64; 2], TchError> {
    let given = numbers.iter().flatten().map(|number| number.f_to_kind(Kind::Double));
    let given = given.collect::<Result<Vec<_>, TchError>>()?;
    if given.is_empty() {
        return Ok([0.0; 2]);
    }
    let read = Tensor::f_stack(&given, 0)?.f_to_device(Device::Cpu)?;
    let mut read = Vec::<f64>::try_from(read)?.into_iter();
    Ok(numbers.map(|number| number.and_then(|_| read.next()).unwrap_or_default()))
}

/// The largest weight or running statistic of a network that still trains. The square of a larger one
/// overflows single precision, and with it every norm and variance.
const LARGEST: f64 = 1.8e19;

/// Numbers that show whether a run has diverged.
pub(crate) enum Checked {
    /// Of a network: below [`LARGEST`].
    Weights(Tensor),
    /// Anything else: finite.
    Other(Tensor),
}

/// Whether none of these numbers shows that the run has diverged. The host waits once for `device`, where
/// the tensors are.
pub(crate) fn are_sound(
    tensors: impl IntoIterator<Item = Checked>,
    device: Device,
) -> Result<bool, TchError> {
    let is_sound = |checked| {
        let each = match checked {
            // Nothing compares with a NaN.
            Checked::Weights(tensor) => tensor.f_abs()?.f_le(LARGEST)?,
            Checked::Other(tensor) => tensor.f_isfinite()?,
        };
        each.f_all()?.f_to_device(device)
    };
    let sound = tensors.into_iter().map(is_sound).collect::<Result<Vec<_>, TchError>>()?;
    if sound.is_empty() {
        return Ok(true);
    }
    Ok(Tensor::f_stack(&sound, 0)?.f_all()?.f_double_value(&[])? == 1.0)
}

/// Dumps that are kept of a run.
const DUMPS_KEPT: usize = 10;

/// What is known of a bad step.
pub(crate) struct BadStep<'a> {
    /// With its gradients, if they are still those of the step.
    pub(crate) optimizer: Option<&'a Optimizer>,
    pub(crate) step: u64,
    pub(crate) epoch: u64,
    pub(crate) loss: f64,
    pub(crate) learning_rate: f64,
    /// Names of the images.
    pub(crate) images: Vec<String>,
    /// Inputs of the step's first batch with a non-finite loss, else of its last; one per view.
    pub(crate) views: &'a [Tensor],
}

fn gradients_not_finite(optimizer: &Optimizer) -> Result<Vec<String>, TchError> {
    let mut names = Vec::new();
    for (name, gradient) in optimizer.gradients() {
        if !gradient.f_isfinite()?.f_all()?.f_double_value(&[])?.eq(&1.0) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Writes `step-N.json` and `step-N.safetensors` (the views) into `folder`, and returns the first.
pub(crate) fn dump(folder: &Path, bad: &BadStep<'_>) -> Result<PathBuf, TrainError> {
    std::fs::create_dir_all(folder)
        .map_err(|error| crate::tensors::damaged(folder, error.to_string()))?;
    let not_finite = bad.optimizer.map(gradients_not_finite).transpose()?;
    let path = folder.join(format!("step-{}.json", bad.step));
    let content = serde_json::json!({
        "step": bad.step,
        "epoch": bad.epoch,
        "loss": bad.loss.to_string(),
        "learning_rate": bad.learning_rate,
        "gradients_not_finite": not_finite,
        "images": bad.images,
    });
    write_atomically(&path, |file| {
        serde_json::to_writer_pretty(file, &content).map_err(Into::into)
    })?;
    let views = bad.views.iter().enumerate();
    save_tensors(
        &path.with_extension("safetensors"),
        views.map(|(index, view)| (format!("view_{index}"), view.shallow_clone())),
    )?;
    forget_old(folder)?;
    Ok(path)
}

/// Removes all but the newest dumps.
fn forget_old(folder: &Path) -> Result<(), TrainError> {
    let failed = |error: std::io::Error| crate::tensors::damaged(folder, error.to_string());
    let mut steps = std::collections::BTreeMap::<u64, Vec<PathBuf>>::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(step) = stem.and_then(|stem| stem.strip_prefix("step-")?.parse().ok()) {
            steps.entry(step).or_default().push(path);
        }
    }
    for path in steps.into_values().rev().skip(DUMPS_KEPT).flatten() {
        std::fs::remove_file(path).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_diverged_run_are_found_one_by_one() {
        let sound = |of: fn(Tensor) -> Checked, numbers: &[f32]| {
            let tensors = [Tensor::from_slice(&[-1_i64, 2]), Tensor::from_slice(numbers)];
            are_sound(tensors.map(of), Device::Cpu).unwrap()
        };
        assert!(are_sound([], Device::Cpu).unwrap());
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!sound(Checked::Weights, &[1.0, number]), "{number}");
            assert!(!sound(Checked::Other, &[1.0, number]), "{number}");
        }
        // The norm of these overflows, no number does.
        assert!(sound(Checked::Weights, &[1.5e19; 100]));
        assert!(!sound(Checked::Weights, &[0.0, -1e20]));
        assert!(sound(Checked::Other, &[1e38, -f32::MAX]));
        assert!(sound(Checked::Weights, &[]));
    }
}
