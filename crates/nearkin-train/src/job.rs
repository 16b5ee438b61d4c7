//! What the processes of a run agree on before they train.
//!
//! A process with another program, recipe or data set would train on without a word and spoil the run of
//! all; so each says what it has, and the first says where the run begins.

use std::num::NonZeroUsize;

use nearkin_dist::{DistError, World};
use nearkin_eval::EvaluationError;
use nearkin_recipe::{Recipe, Source};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::TrainError;
use crate::checkpoint::{Progress, differences_that_matter};
use crate::images::ImagesDigest;

pub(crate) const BATCH_SIZE: &str = "training.batch_size";
pub(crate) const PROCESSES: &str = "the number of processes";

/// Whether batches divide among so many processes; the blocks within which images are mixed.
pub(crate) fn divide(recipe: &Recipe, processes: usize) -> Result<usize, TrainError> {
    let training = &recipe.training;
    let batch = training.batch_size.get();
    let divides = |what, number: usize, into, parts: usize| {
        if number.is_multiple_of(parts) {
            Ok(number / parts)
        } else {
            Err(TrainError::Division { what, number, into, parts })
        }
    };
    let here = divides(BATCH_SIZE, batch, PROCESSES, processes)?;
    if here < 2 && !training.synchronize_batch_norm {
        return Err(TrainError::Division {
            what: "half of training.batch_size",
            number: batch / 2,
            into: PROCESSES,
            parts: processes,
        });
    }
    let splits = recipe.momentum_encoder.map_or(1, |own| own.batch_norm_splits.get());
    if splits > 1 {
        divides("momentum_encoder.batch_norm_splits", splits, PROCESSES, processes)?;
    }
    if let Some(micro) = training.micro_batch_size {
        let what = "the share of training.batch_size of one process";
        divides(what, here, "training.micro_batch_size", micro.get())?;
    }
    let blocks = training.mixing_blocks.map_or(processes, NonZeroUsize::get);
    divides("training.mixing_blocks", blocks, PROCESSES, processes)?;
    Ok(blocks)
}

/// What all processes must have in common.
#[derive(Serialize, Deserialize)]
pub(crate) struct Job {
    program: String,
    recipe: String,
    images: String,
}

/// Refuses processes that were started with another program, recipe or data set.
pub(crate) fn same_job(
    world: &dyn World,
    recipe: &Recipe,
    training_images: usize,
    images: &ImagesDigest,
) -> Result<(), TrainError> {
    if world.size() == 1 {
        return Ok(());
    }
    let program = std::env::current_exe().and_then(std::fs::read).unwrap_or_default();
    let job = Job {
        program: format!("{} ({})", env!("CARGO_PKG_VERSION"), short(Sha256::digest(&program))),
        recipe: recipe.to_text(),
        images: format!("{training_images} images ({})", short(Sha256::digest(images.of_all()))),
    };
    let message = serde_json::to_vec(&job).unwrap_or_default();
    let jobs: Vec<Job> = world
        .share("job", &message)?
        .iter()
        .map(|text| serde_json::from_slice(text).map_err(|error| nonsense(&error)))
        .collect::<Result<_, _>>()?;
    let Some((first, others)) = jobs.split_first() else { return Ok(()) };
    for (rank, other) in (1..).zip(others) {
        let theirs = Source::parse("recipe", other.recipe.clone())?.recipe()?;
        let mine = Source::parse("recipe", first.recipe.clone())?.recipe()?;
        if let Some(differences) = differences_that_matter(&mine, &theirs) {
            return Err(TrainError::OtherRecipe { rank, differences });
        }
        let parts = [
            ("program", &first.program, &other.program),
            ("data set", &first.images, &other.images),
        ];
        for (what, first, theirs) in parts {
            if first != theirs {
                return Err(TrainError::Dist(DistError::Mismatch {
                    rank,
                    what: what.to_owned(),
                    theirs: theirs.clone(),
                    first: first.clone(),
                }));
            }
        }
    }
    Ok(())
}

/// Digits of a digest that a message shows.
pub(crate) const SHOWN_DIGITS: usize = 12;

pub(crate) fn short(digest: impl IntoIterator<Item = u8>) -> String {
    let digits = digest.into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.take(SHOWN_DIGITS).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

pub(crate) fn nonsense(error: &serde_json::Error) -> TrainError {
    TrainError::Dist(DistError::Engine(format!("another process sent nonsense: {error}")))
}

/// Where a run begins, as the first process knows it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) threads: usize,
    /// The name of the run's folder, which the first process may have numbered.
    pub(crate) folder: String,
    pub(crate) progress: Option<Progress>,
}

impl Start {
    pub(crate) fn of_first(world: &dyn World, own: &Self) -> Result<Self, TrainError> {
        let message = serde_json::to_vec(own).map_err(|error| nonsense(&error))?;
        let said = world.share("start", if world.rank() == 0 { &message } else { b"" })?;
        serde_json::from_slice(&said[0]).map_err(|error| nonsense(&error))
    }
}

/// What to say of an error of one of several processes: another one's, if that is where it comes
/// from; else the others are told of it.
pub(crate) fn attribute_error(world: &dyn World, error: TrainError) -> TrainError {
    // What may have failed because another process did not take part.
    let exchange = match &error {
        _ if world.size() == 1 => return error,
        TrainError::Lost { .. } | TrainError::Dist(DistError::Elsewhere { .. }) => return error,
        TrainError::Tensor(inner) | TrainError::Evaluation(EvaluationError::Tensor(inner)) => {
            Some(inner.to_string())
        }
        TrainError::Dist(DistError::Engine(reason)) => Some(reason.clone()),
        _ => None,
    };
    match exchange.map(|reason| world.explain(&reason)) {
        Some(Some(message)) => TrainError::Lost { message },
        Some(None) => error,
        None => {
            world.fail(&error.to_string());
            error
        }
    }
}
