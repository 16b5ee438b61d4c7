//! Batches of a run as files, to compare nearkin with other programs on the same inputs.
//!
//! What is written is what the networks get: it comes from the loader of the run and goes through the
//! same preparation, so that seed, augmentation, placement and the share of a process are those of
//! training.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::Path;

use nearkin_objective::mix;
use nearkin_report::ReportError;
use tch::Tensor;

use super::Run;
use crate::TrainError;
use crate::batches::TrainingBatch;
use crate::job::attribute_error;
use crate::learner::encode::Prepared;
use crate::tensors::save_with_metadata;

/// The name of the file for a batch, counted from 1; several processes write one each.
pub fn batch_file(number: u64, rank: usize, processes: usize) -> String {
    match processes {
        1 => format!("batch-{number:06}.safetensors"),
        _ => format!("batch-{number:06}-rank-{rank}.safetensors"),
    }
}

impl Run {
    /// Writes the next `count` batches of the run into `folder`, one safetensors file each (see
    /// [`batch_file`]), and trains nothing. Returns the number of batches, which is smaller than
    /// `count` if the run ends before. Each process writes its own part of every batch.
    ///
    /// The file of a batch holds, with `B` images of this process:
    ///
    /// | tensor | |
    /// |---|---|
    /// | `view_0`, `view_1`, ... | `[B, 3, height, width]`, float32 (float64 with `precision = "double"`), augmented and normalized |
    /// | `indices` | `[B]`, int64, places in the training images (after `limit_images`) |
    /// | `labels` | `[B]`, int64, -1 for none |
    /// | `mixed_0`, ... | `[B, 3, height, width]`, for methods that mix images; with `mixed_0_partner` (`[B]`, int64, rows of the file) and `mixed_0_share` (`[B]`) |
    /// | `shuffle_0`, ... | `[B]`, int64, where the momentum encoder sees a view in another order: its rows as rows of the whole batch |
    ///
    /// The header has `step` and `epoch` (as in `metrics.jsonl`), `batch_of_step` (from 0), `rank`,
    /// `processes`, `seed`, and as JSON the names of the `views` and of the `images`.
    pub fn dump_batches(&mut self, count: NonZeroU64, folder: &Path) -> Result<u64, TrainError> {
        let result = self.write_batches(count, folder);
        result.map_err(|error| attribute_error(self.learner.world.as_ref(), error))
    }

    fn write_batches(&mut self, count: NonZeroU64, folder: &Path) -> Result<u64, TrainError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| ReportError::Write { path: folder.to_owned(), source })?;
        let per_step = self.learner.setup.recipe.training.accumulate_batches.get();
        let mut batches = self.batches()?;
        let mut written = 0;
        while written < count.get()
            && let Some(batch) = batches.next().transpose()?
        {
            let batch_of_step = (written % per_step as u64) as usize;
            let TrainingBatch { views, labels, images } = batch;
            let prepared = self.learner.prepare(views, &labels, batch_of_step)?;
            written += 1;
            let path = folder.join(batch_file(
                written,
                self.learner.world.rank(),
                self.learner.world.size(),
            ));
            self.write_batch(&path, &images, &prepared, batch_of_step)?;
            if batch_of_step + 1 == per_step {
                self.learner.step += 1;
            }
        }
        // Launchers end all processes once the first has gone.
        let _ = self.learner.world.share("end of the batches", b"")?;
        Ok(written)
    }

    fn write_batch(
        &self,
        path: &Path,
        images: &[usize],
        prepared: &Prepared,
        batch_of_step: usize,
    ) -> Result<(), TrainError> {
        let Prepared { views, labels, drawn, shuffles } = prepared;
        let rows = images.len() as i64;
        let indices: Vec<i64> = images.iter().map(|&index| index as i64).collect();
        let mut tensors: Vec<(String, Tensor)> = vec![
            ("indices".to_owned(), Tensor::f_from_slice(&indices)?),
            ("labels".to_owned(), labels.batch.f_narrow(0, labels.offset, rows)?),
        ];
        for (number, view) in views.iter().enumerate() {
            tensors.push((format!("view_{number}"), view.shallow_clone()));
        }
        for (number, (input, drawn)) in
            self.learner.setup.requirements.mixed_inputs.iter().zip(drawn).enumerate()
        {
            let (partner, share) = (&drawn.partner, &drawn.share);
            let mixed = mix(&views[input.base], &views[input.other], partner, share)?;
            tensors.push((format!("mixed_{number}"), mixed));
            tensors.push((format!("mixed_{number}_partner"), partner.shallow_clone()));
            tensors.push((format!("mixed_{number}_share"), share.shallow_clone()));
        }
        for (number, shuffle) in shuffles.iter().enumerate() {
            if let Some(shuffle) = shuffle {
                tensors.push((format!("shuffle_{number}"), shuffle.chosen.shallow_clone()));
            }
        }
        let recipe = &self.learner.setup.recipe;
        let view_names: Vec<&str> = recipe.views.iter().map(|view| view.name.as_str()).collect();
        let image_names: Vec<String> =
            images.iter().map(|&index| self.feed.train.name(index)).collect();
        let metadata = [
            ("step", (self.learner.step + 1).to_string()),
            ("epoch", (self.learner.step / self.learner.steps_per_epoch + 1).to_string()),
            ("batch_of_step", batch_of_step.to_string()),
            ("rank", self.learner.world.rank().to_string()),
            ("processes", self.learner.world.size().to_string()),
            ("seed", recipe.seed.to_string()),
            ("views", serde_json::json!(view_names).to_string()),
            ("images", serde_json::json!(image_names).to_string()),
        ];
        let metadata = metadata.map(|(name, value)| (name.to_owned(), value));
        save_with_metadata(path, tensors, HashMap::from(metadata))?;
        Ok(())
    }
}
