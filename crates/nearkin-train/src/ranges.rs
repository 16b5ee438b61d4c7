//! Whether the numbers of a checkpoint can be those of a run.
//!
//! Checkpoints of older versions have no digests, and a file can be edited. A number that no run can have
//! must be refused by its name before libtorch, or the loop, goes wrong with it.

use std::fmt::Display;
use std::ops::RangeInclusive;

use nearkin_recipe::{Recipe, Source};

use crate::checkpoint::Progress;
use crate::tensors::sha256;

/// More threads than any machine has room for the stacks of.
pub const MOST_THREADS: usize = 65_535;

impl Progress {
    /// The first thing that is wrong with the numbers, if anything is.
    pub(crate) fn flaw(&self) -> Option<String> {
        self.check().err()
    }

    fn check(&self) -> Result<(), String> {
        let recipe = Source::parse("recipe", self.recipe.clone())
            .and_then(|source| source.recipe())
            .map_err(|error| error.to_string())?;
        if self.recipe_digest != sha256(self.recipe.as_bytes()) {
            return Err("recipe_digest is not that of recipe".to_owned());
        }
        self.check_counts(&recipe)?;
        within("threads", &self.threads, &(1..=MOST_THREADS))?;
        within("world_size", &self.world_size, &(1..=MOST_THREADS))?;
        within("seconds", &self.seconds, &(0.0..=1e10))?;
        within("skipped_in_a_row", &self.skipped_in_a_row, &(0..=self.step))?;
        within("epoch_sums.steps", &self.epoch_sums.steps(), &(0..=self.steps_per_epoch))?;
        equal("seed", self.seed, recipe.seed)?;
        match (self.queue_next, recipe.queue) {
            (Some(next), Some(queue)) => {
                within("queue_next", &next, &(0..=queue.size.get() as i64 - 1))
            }
            (None, None) => Ok(()),
            (Some(next), None) => Err(format!("queue_next = {next}, but the recipe has no queue")),
            (None, Some(_)) => Err("queue_next is missing, but the recipe has a queue".to_owned()),
        }
    }

    fn check_counts(&self, recipe: &Recipe) -> Result<(), String> {
        let steps = (self.training_images / recipe.images_per_step()) as u64;
        within("training_images", &self.training_images, &(recipe.images_per_step()..=usize::MAX))?;
        equal("steps_per_epoch", self.steps_per_epoch, steps)?;
        let all = steps.saturating_mul(recipe.training.epochs.get());
        within("step", &self.step, &(0..=all))?;
        equal("epoch", self.epoch, self.step / steps)?;
        equal("step_in_epoch", self.step_in_epoch, self.step % steps)
    }
}

fn within<T: PartialOrd + Display>(
    name: &str,
    value: &T,
    range: &RangeInclusive<T>,
) -> Result<(), String> {
    if range.contains(value) {
        return Ok(());
    }
    Err(format!("{name} = {value} must be between {} and {}", range.start(), range.end()))
}

fn equal(name: &str, value: u64, expected: u64) -> Result<(), String> {
    if value == expected { Ok(()) } else { Err(format!("{name} = {value} must be {expected}")) }
}
