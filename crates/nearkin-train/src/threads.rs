//! How many threads load and how many compute.
//!
//! Too few loader threads let training wait for data; too many threads in all take cores from each
//! other, and a sum that several threads share is finished by the slowest of them. What is right depends
//! on images, views, model and machine, so it is measured before a run begins: how long one thread takes
//! to make a batch, and how long a step takes with some numbers of threads. The choice becomes part of
//! the run, since the last bits of its sums depend on it.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nearkin_augment::{LoadError, Loader, LoaderOptions, Plan, Whole};
use nearkin_data::ImageSet;
use nearkin_model::{Encoder, MultiplyAdds};
use nearkin_recipe::Recipe;
use tch::{Kind, TchError, Tensor};

use crate::meter::wait_for;
use crate::{Machine, Setup, TrainError};

/// Threads of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// That read and augment images.
    pub workers: usize,
    /// Of libtorch.
    pub threads: usize,
}

/// Loading is taken to be so much slower than measured: batches differ, and caches are shared.
const LOADING_MARGIN: f64 = 1.25;
/// Steps that differ by less than this share are taken to be equally long: a measurement is no more
/// exact than that.
const SAME: f64 = 0.05;
/// Threads that take turns on a core finish so much later than their work would.
const TAKING_TURNS: f64 = 1.1;

/// Chooses how many of `cores` load, and how many compute.
///
/// `batch_seconds` is what one loader thread with a core of its own takes for the images of a step, and
/// `step_seconds` what a step takes with some numbers of libtorch's threads and nothing else to do;
/// `workers` are given or, if `None`, chosen too. Of the pairs, that with the shortest expected step is
/// taken; among equally good ones, that with the fewest loader threads, and then with the most others.
///
/// A step is expected to last as long as the longest of three: the computation, the loading (shared
/// among the loader's threads) and, where there are more threads than cores, all the work that those
/// cores have to share. For the last, a loader thread holds up the whole computation while it has the
/// core of one of libtorch's threads, because the others wait for that one.
pub fn choose(
    cores: usize,
    batch_seconds: f64,
    step_seconds: &[(usize, f64)],
    workers: Option<usize>,
) -> Threads {
    let cores = cores.max(1);
    let range = workers.map_or(1..=cores, |workers| workers..=workers);
    let pairs = range.flat_map(|workers| {
        step_seconds.iter().map(move |&(threads, seconds)| {
            (
                Threads { workers, threads },
                expected(cores, batch_seconds, seconds, workers, threads),
            )
        })
    });
    let pairs: Vec<(Threads, f64)> = pairs.collect();
    let shortest = pairs.iter().map(|pair| pair.1).fold(f64::INFINITY, f64::min);
    let good = pairs.iter().filter(|pair| pair.1 <= shortest * (1.0 + SAME));
    let best = good.map(|pair| pair.0).min_by_key(|pair| {
        let too_many = (pair.workers + pair.threads).saturating_sub(cores);
        (pair.workers, too_many, cores.saturating_sub(pair.threads))
    });
    best.unwrap_or(Threads { workers: workers.unwrap_or(1), threads: cores })
}

/// Seconds of a step.
fn expected(cores: usize, batch: f64, step: f64, workers: usize, threads: usize) -> f64 {
    let batch = LOADING_MARGIN * batch;
    if workers == 0 {
        return batch + step;
    }
    let alone = step.max(batch / workers as f64);
    let threads = threads.min(cores);
    let too_many = (workers + threads).saturating_sub(cores).min(threads);
    if too_many == 0 {
        return alone;
    }
    // In a step of T seconds the cores without libtorch load for (cores - threads) T of the batch's
    // seconds; the rest is taken from `too_many` cores of libtorch at once: T = step + rest / too_many.
    let (shared, free) = (too_many as f64, (cores - threads) as f64);
    alone.max(TAKING_TURNS * (shared * step + batch) / (shared + free))
}

/// The time that each of the two measurements is meant to take.
const BUDGET: Duration = Duration::from_millis(250);
/// Images that are loaded between two looks at the clock.
const IMAGES_AT_ONCE: usize = 4;
/// Operations of a forward and backward pass that is timed on a CPU: about a tenth of a second. Of fewer
/// images, what does not depend on the threads would be a large part.
const FLOP_OF_A_PASS: u64 = 10_000_000_000;
const TIMED_PASSES: usize = 3;

/// The choice for a run; `processes` train together. What cannot be measured (images that cannot be
/// read, say: training has its own way to deal with those) leaves the cores to libtorch.
pub(crate) fn measure(
    setup: &Setup,
    train: &Arc<dyn ImageSet>,
    machine: &Machine,
    processes: usize,
) -> Threads {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let cores = (cores / machine.processes_here).max(1);
    let images = (setup.recipe.images_per_step() / processes).max(1);
    let batch = encoded_at_once(&setup.recipe, processes);
    let measured = seconds_per_image_loaded(setup, train, machine)
        .and_then(|loaded| Ok((loaded, seconds_per_image_trained(setup, machine, cores, batch)?)));
    let Ok((loaded, trained)) = measured else {
        return Threads { workers: machine.workers.unwrap_or(1), threads: cores };
    };
    let of_a_step = |seconds: f64| seconds * images as f64;
    let steps: Vec<(usize, f64)> =
        trained.into_iter().map(|(threads, seconds)| (threads, of_a_step(seconds))).collect();
    choose(cores, of_a_step(loaded), &steps, machine.workers)
}

/// By one thread, all views.
fn seconds_per_image_loaded(
    setup: &Setup,
    train: &Arc<dyn ImageSet>,
    machine: &Machine,
) -> Result<f64, TrainError> {
    let recipe = &setup.recipe;
    // Evenly over the set: images of a class stand together, and may be alike in size.
    let (count, stride) = (train.len(), (train.len() / 64).max(1));
    let plan = (0..).map(move |batch: usize| {
        let places = (0..IMAGES_AT_ONCE).map(|place| batch * IMAGES_AT_ONCE + place);
        Plan::new(0, places.map(|place| place * stride % count).collect())
    });
    let loading = LoaderOptions { workers: 0, prefetch_batches: 0 };
    // Where the device may hold the images, they are not loaded.
    let held = train.one_size().map(|(width, height)| Whole { width, height, held: true });
    let views = recipe.augment.place(&setup.views, machine.device.is_cuda(), held)?.into();
    let mut loader = Loader::start(Arc::clone(train), views, recipe.seed, plan, loading)?;
    let mut next = || -> Result<usize, LoadError> {
        Ok(loader.next().transpose()?.map_or(0, |batch| batch.images.len()))
    };
    // The first takes memory from the system and has nothing in its caches.
    next()?;
    let begun = Instant::now();
    let mut images = 0;
    while images == 0 || begun.elapsed() < BUDGET {
        images += next()?;
        if images >= recipe.images_per_step() {
            break;
        }
    }
    Ok(begun.elapsed().as_secs_f64() / images as f64)
}

/// With some numbers of libtorch's threads: measured with the first view and an encoder of its own, and
/// scaled to all encodes of the method. On a GPU one number stands for all, since its own threads
/// compute.
fn seconds_per_image_trained(
    setup: &Setup,
    machine: &Machine,
    cores: usize,
    batch: usize,
) -> Result<Vec<(usize, f64)>, TrainError> {
    let (recipe, device) = (&setup.recipe, machine.device);
    let Some(view) = setup.views.first() else { return Ok(Vec::new()) };
    let size = view.size_pixels();
    let flop = 6 * MultiplyAdds::of(&recipe.model, size).online();
    let images = if device.is_cuda() {
        batch
    } else {
        (FLOP_OF_A_PASS / flop.max(1)).clamp(2, batch.max(2) as u64) as usize
    };
    let encoder = Encoder::new(&recipe.model, recipe.seed, device, Kind::Float)?;
    let side = size as i64;
    let pass = |pixels: &Tensor| -> Result<f64, TchError> {
        wait_for(device);
        let begun = Instant::now();
        encoder.embed(pixels)?.f_sum(Kind::Float)?.f_backward()?;
        wait_for(device);
        Ok(begun.elapsed().as_secs_f64())
    };
    let of_the_method = setup.flop_per_image as f64 / flop.max(1) as f64;
    let timed = |threads: usize| -> Result<f64, TchError> {
        tch::set_num_threads(threads as i32);
        let pixels = [images as i64, 3, side, side];
        let pixels = Tensor::f_zeros(pixels, (Kind::Float, device))?;
        // Threads are started and plans made in the first pass.
        pass(&pixels)?;
        let mut best = f64::INFINITY;
        for _ in 0..TIMED_PASSES {
            best = best.min(pass(&pixels)?);
        }
        Ok(best / images as f64 * of_the_method)
    };
    if device.is_cuda() {
        let seconds = timed(cores)?;
        return Ok((1..=cores).map(|threads| (threads, seconds)).collect());
    }
    tries(cores).into_iter().map(|threads| Ok((threads, timed(threads)?))).collect()
}

/// Images that the online encoder of one process sees at once.
fn encoded_at_once(recipe: &Recipe, processes: usize) -> usize {
    let batch = (recipe.training.batch_size.get() / processes).max(1);
    batch.min(recipe.training.micro_batch_size.map_or(batch, NonZeroUsize::get))
}

/// Numbers of threads that are tried: the most that can be, and some fewer.
fn tries(cores: usize) -> Vec<usize> {
    let wanted =
        [cores, cores.saturating_sub(1), cores.saturating_sub(2), cores * 3 / 4, cores / 2];
    let mut tries: Vec<usize> = wanted.into_iter().filter(|&threads| threads > 0).collect();
    tries.sort_unstable_by(|a, b| b.cmp(a));
    tries.dedup();
    tries
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps that get shorter in proportion to the threads, up to `limit` of them.
    fn scaling(cores: usize, one: f64, limit: usize) -> Vec<(usize, f64)> {
        let tries = tries(cores).into_iter();
        tries.map(|threads| (threads, one / threads.min(limit) as f64)).collect()
    }

    fn chosen(cores: usize, batch: f64, steps: &[(usize, f64)]) -> (usize, usize) {
        let Threads { workers, threads } = choose(cores, batch, steps, None);
        (workers, threads)
    }

    #[test]
    fn on_two_cores_cheap_batches_are_made_beside_two_threads() {
        // Small images: a hundredth of the step.
        assert_eq!(chosen(2, 0.003, &[(2, 0.055), (1, 0.1)]), (1, 2));
        // A batch that takes longer than the second thread saves.
        assert_eq!(chosen(2, 0.06, &[(2, 0.055), (1, 0.1)]), (1, 1));
        // A second thread that gains nothing.
        assert_eq!(chosen(2, 0.003, &[(2, 0.1), (1, 0.1)]), (1, 1));
    }

    #[test]
    fn data_never_waits_where_cores_are_left() {
        // A batch takes 8 cores' time of a step with 8 of 16 threads.
        let steps = scaling(16, 8.0, 8);
        let Threads { workers, threads } = choose(16, 5.0, &steps, None);
        assert!(5.0 * LOADING_MARGIN / workers as f64 <= 1.0 + SAME, "{workers} workers");
        assert!(workers + threads <= 16 && threads >= 8, "{workers} + {threads}");
    }

    #[test]
    fn loading_that_takes_most_of_the_time_gets_most_of_the_cores() {
        let (workers, threads) = chosen(4, 10.0, &scaling(4, 1.0, 4));
        assert!(workers >= 3 && threads <= 2, "{workers} + {threads}");
        assert_eq!(chosen(1, 10.0, &[(1, 1.0)]), (1, 1));
    }

    #[test]
    fn a_gpu_leaves_the_cores_to_the_loader_as_far_as_it_needs_them() {
        let steps: Vec<(usize, f64)> = (1..=8).map(|threads| (threads, 0.1)).collect();
        assert_eq!(chosen(8, 0.01, &steps), (1, 7));
        assert_eq!(chosen(8, 0.3, &steps), (4, 4));
        assert!(chosen(8, 4.0, &steps).0 >= 7);
    }

    #[test]
    fn given_workers_stay() {
        let steps = [(2, 0.055), (1, 0.1)];
        assert_eq!(choose(2, 0.003, &steps, Some(2)).workers, 2);
        assert_eq!(choose(2, 0.003, &steps, Some(0)), Threads { workers: 0, threads: 2 });
        assert_eq!(choose(4, 1.0, &[], None), Threads { workers: 1, threads: 4 });
    }

    #[test]
    fn a_few_numbers_of_threads_are_tried() {
        assert_eq!(tries(1), [1]);
        assert_eq!(tries(2), [2, 1]);
        assert_eq!(tries(16), [16, 15, 14, 12, 8]);
    }
}
