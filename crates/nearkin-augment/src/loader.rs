//! Batches made ahead of time on other threads.
//!
//! The consumer hands out jobs and keeps, for each, the channel on which its batch will come back;
//! reading these channels in the order of the jobs gives batches in the order of the plan whatever
//! thread was faster. A thread that dies drops its end of the channel, which the consumer sees.
//!
//! An image that cannot be read is replaced while the batch is made, as its [`Plan`] says, or left
//! out. The set learns of it when the batch is handed over, in the order of the plan, and decides
//! whether to go on: [`ImageSet::tolerate`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use nearkin_data::{DataError, ImageSet, Random};

use crate::canvas::Scratch;
use crate::cpu_time::of_this_thread;
use crate::drawn::Unfinished;
use crate::order::Plan;
use crate::view::View;

/// How often the caller is asked whether it still waits for a batch.
const LOOK: Duration = Duration::from_millis(50);

/// How far, and by how many, batches are made ahead.
///
/// At most `workers + prefetch_batches` batches exist in the loader at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Threads; with 0, [`Loader::next`] makes the batch itself.
    pub workers: usize,
    /// Batches kept ready beyond those that the threads are making.
    pub prefetch_batches: usize,
}

/// One view of every image of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewBatch {
    /// Side of the square images, in pixels.
    pub size_pixels: usize,
    /// `[images, size, size, 3]`; empty if the view is unfinished.
    pub pixels: Vec<f32>,
    /// In place of `pixels`, for a view that is finished on the device.
    pub unfinished: Option<Unfinished>,
    spares: Buffers,
}

impl Drop for ViewBatch {
    fn drop(&mut self) {
        self.spares.give(std::mem::take(&mut self.pixels));
    }
}

/// Memory of batches that are no longer needed, for those to come: a batch of large images fresh from
/// the system costs as much time as a blur of them.
#[derive(Debug, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<f32>>>>);

impl Buffers {
    /// With that length; what it holds is left over, to be overwritten.
    fn take(&self, length: usize) -> Vec<f32> {
        let spare = self.0.lock().ok().and_then(|mut spares| spares.pop());
        let mut buffer = spare.unwrap_or_else(|| vec![0.0; length]);
        buffer.resize(length, 0.0);
        buffer
    }

    fn give(&self, buffer: Vec<f32>) {
        if let Ok(mut spares) = self.0.lock() {
            spares.push(buffer);
        }
    }
}

impl Clone for Buffers {
    /// Memory of a copied batch is the copy's own: the loader did not hand it out.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Buffers {
    /// Where its memory goes is no property of a batch.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The views of some images.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The epoch from the plan.
    pub epoch: u64,
    /// The images, as indices into the set: those of the plan, but for the unreadable ones, which
    /// are replaced or left out.
    pub images: Vec<usize>,
    /// In the order of the views.
    pub views: Vec<ViewBatch>,
    /// The images as they are in the set, `[images, height, width, 3]`, where a view begins with
    /// them on the device and the device does not hold them; else empty.
    pub whole: Vec<u8>,
}

/// Why the loader ended before its plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// An image could not be read, or too many; the message names the file.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No readable image was found in place of another.
    #[error(
        "{name} and the next {MAX_SPARES} images of the epoch cannot be read; nearkin data inspect \
         says why"
    )]
    NoSpare {
        /// The image.
        name: String,
    },
    /// The system gave no thread.
    #[error("cannot start loader thread {index} of {workers}: {source}; ask for fewer workers")]
    Thread {
        /// Which thread, from 1.
        index: usize,
        /// How many were asked for.
        workers: usize,
        /// Why.
        source: std::io::Error,
    },
    /// A thread panicked; what it said is on standard error.
    #[error("a loader thread panicked while it made the batch of images {images:?}")]
    Panic {
        /// The images of the batch.
        images: Vec<usize>,
    },
}

/// So many images are tried in place of one that cannot be read, or all of the epoch if it has less.
const MAX_SPARES: usize = 1_000;

/// A batch, and what it took to make it.
struct Made {
    batch: Batch,
    asked: usize,
    unreadable: Vec<(usize, DataError)>,
    /// The image that nothing was found to replace; the batch ends before it.
    unreplaced: Option<usize>,
}

/// What every thread needs.
struct Source {
    set: Arc<dyn ImageSet>,
    views: Arc<[View]>,
    /// For each view.
    spares: Vec<Buffers>,
    seed: u64,
    stopping: AtomicBool,
    /// Nanoseconds of CPU time that went into batches.
    worked: AtomicU64,
}

impl Source {
    /// Makes a batch, and keeps count of the time it takes.
    fn batch(&self, plan: &Plan, scratch: &mut Scratch) -> Made {
        let before = of_this_thread();
        let made = self.make(plan, scratch);
        let taken = of_this_thread().saturating_sub(before).as_nanos() as u64;
        self.worked.fetch_add(taken, Ordering::Relaxed);
        made
    }

    /// Each image is decoded once for all its views.
    fn make(&self, plan: &Plan, scratch: &mut Scratch) -> Made {
        let mut views: Vec<ViewBatch> = self
            .views
            .iter()
            .zip(&self.spares)
            .map(|(view, spares)| {
                let unfinished = view.unfinished(plan.images.len());
                let images = if unfinished.is_some() { 0 } else { plan.images.len() };
                let pixels = spares.take(images * view.values());
                let spares = Buffers(Arc::clone(&spares.0));
                ViewBatch { size_pixels: view.size_pixels(), pixels, unfinished, spares }
            })
            .collect();
        // Of what the device holds, not even the bytes are looked at.
        let held = |view: &View| view.whole().is_some_and(|whole| whole.held);
        let pixels_wanted = !self.views.iter().all(held);
        let whole_wanted = self.views.iter().any(|view| view.whole().is_some() && !held(view));
        let mut whole = Vec::new();
        let (mut images, mut unreadable) = (Vec::with_capacity(plan.images.len()), Vec::new());
        let mut unreplaced = None;
        for (row, &planned) in plan.images.iter().enumerate() {
            // Nobody waits for the batch of a loader that was dropped.
            if self.stopping.load(Ordering::Relaxed) {
                break;
            }
            let mut read = |index| match pixels_wanted.then(|| self.set.image(index)).transpose() {
                Ok(image) => Some((index, image)),
                Err(error) => {
                    unreadable.push((index, error));
                    None
                }
            };
            let mut spares = plan.spares(row).take(MAX_SPARES).peekable();
            let may_leave_out = spares.peek().is_none();
            let Some((index, image)) = read(planned).or_else(|| spares.find_map(&mut read)) else {
                if may_leave_out {
                    continue;
                }
                unreplaced = Some(planned);
                break;
            };
            if let Some(image) = image.as_ref().filter(|_| whole_wanted) {
                whole.extend_from_slice(image.rgb());
            }
            for (number, (view, made)) in self.views.iter().zip(&mut views).enumerate() {
                let mut random =
                    Random::for_view(self.seed, plan.epoch, index as u64, number as u64);
                if let Some(batch) = &mut made.unfinished {
                    view.begin(image.as_ref(), &mut random, scratch, batch);
                } else if let Some(image) = &image {
                    let out = &mut made.pixels[images.len() * view.values()..][..view.values()];
                    view.apply(image, &mut random, scratch, out);
                }
            }
            images.push(index);
        }
        for (view, made) in self.views.iter().zip(&mut views) {
            made.pixels.truncate(images.len() * view.values());
        }
        let batch = Batch { epoch: plan.epoch, images, views, whole };
        Made { batch, asked: plan.images.len(), unreadable, unreplaced }
    }

    /// The batch, if the set tolerates what could not be read.
    fn accept(&self, made: Made) -> Result<Batch, LoadError> {
        self.set.tolerate(made.unreadable)?;
        match made.unreplaced {
            Some(index) => Err(LoadError::NoSpare { name: self.set.name(index) }),
            None => Ok(made.batch),
        }
    }
}

struct Job {
    plan: Plan,
    reply: Sender<Made>,
}

struct Pending {
    images: Vec<usize>,
    reply: Receiver<Made>,
}

/// The threads and the jobs they have been given.
struct Pool {
    jobs: Sender<Job>,
    pending: VecDeque<Pending>,
    threads: Vec<JoinHandle<()>>,
    limit: usize,
}

impl Pool {
    fn start(source: &Arc<Source>, options: LoaderOptions) -> Result<Self, LoadError> {
        let LoaderOptions { workers, prefetch_batches } = options;
        let limit = workers.saturating_add(prefetch_batches);
        let (jobs, receiver) = unbounded::<Job>();
        let mut pool = Self { jobs, pending: VecDeque::new(), threads: Vec::new(), limit };
        for index in 1..=workers {
            let (shared, receiver) = (Arc::clone(source), receiver.clone());
            let thread = thread::Builder::new().name(format!("loader-{index}")).spawn(move || {
                let mut scratch = Scratch::default();
                for Job { plan, reply } in receiver {
                    let made = shared.batch(&plan, &mut scratch);
                    if reply.send(made).is_err() || shared.stopping.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            match thread {
                Ok(thread) => pool.threads.push(thread),
                Err(error) => {
                    pool.stop(source);
                    return Err(LoadError::Thread { index, workers, source: error });
                }
            }
        }
        Ok(pool)
    }

    /// Gives jobs until the limit is reached, which is what bounds the channel.
    fn fill(&mut self, plan: &mut dyn Iterator<Item = Plan>) {
        while self.pending.len() < self.limit
            && let Some(plan) = plan.next()
        {
            let (sender, reply) = bounded(1);
            self.pending.push_back(Pending { images: plan.images.clone(), reply });
            if self.jobs.send(Job { plan, reply: sender }).is_err() {
                // All threads are gone; the reply channel of this job says so.
                break;
            }
        }
    }

    /// Waits for the next batch; `None` if there is none, or once `stop` says so.
    fn receive(&mut self, stop: &dyn Fn() -> bool) -> Option<Result<Made, LoadError>> {
        let Pending { images, reply } = self.pending.pop_front()?;
        loop {
            match reply.recv_timeout(LOOK) {
                Ok(made) => return Some(Ok(made)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Some(Err(LoadError::Panic { images }));
                }
                Err(RecvTimeoutError::Timeout) if stop() => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Waits for the threads, each of which stops after the image that it is at.
    fn stop(self, source: &Source) {
        source.stopping.store(true, Ordering::Relaxed);
        let Self { jobs, pending, threads, .. } = self;
        drop((jobs, pending));
        for thread in threads {
            // A panic has been reported by the batch that it cost.
            let _ = thread.join();
        }
    }
}

enum Work {
    Here(Box<Scratch>),
    Threads(Pool),
    Ended,
}

/// An iterator over batches, in the order of its plan, made by background threads.
///
/// Pixels depend on seed, epoch, image and view only, never on the number of threads. After an
/// error the iterator ends. Dropping it stops the threads, each after the image that it is at.
pub struct Loader {
    source: Arc<Source>,
    plan: Box<dyn Iterator<Item = Plan> + Send>,
    work: Work,
    waited: Duration,
}

impl Loader {
    /// Starts to make the batches of `plan`, whose indices must lie inside `set`.
    ///
    /// Fails if the system gives no threads.
    pub fn start(
        set: Arc<dyn ImageSet>,
        views: Arc<[View]>,
        seed: u64,
        plan: impl Iterator<Item = Plan> + Send + 'static,
        options: LoaderOptions,
    ) -> Result<Self, LoadError> {
        let spares = views.iter().map(|_| Buffers::default()).collect();
        let (stopping, worked) = (AtomicBool::new(false), AtomicU64::new(0));
        let source = Arc::new(Source { set, views, spares, seed, stopping, worked });
        let mut plan = Box::new(plan.fuse());
        let work = if options.workers == 0 {
            Work::Here(Box::default())
        } else {
            let mut pool = Pool::start(&source, options)?;
            pool.fill(&mut plan);
            Work::Threads(pool)
        };
        Ok(Self { source, plan, work, waited: Duration::ZERO })
    }

    /// Time that the caller has spent in [`next`](Self::next) so far, which is waiting for batches.
    pub fn wait(&self) -> Duration {
        self.waited
    }

    /// CPU time that went into batches so far, of all threads together; those that nobody has taken
    /// yet count too.
    pub fn worked(&self) -> Duration {
        Duration::from_nanos(self.source.worked.load(Ordering::Relaxed))
    }

    /// The next batch; `None` at the end, and once `stop` says so. It is asked before and, with worker
    /// threads, while the batch is waited for; after it said so, the loader has no more batches.
    pub fn next_unless(&mut self, stop: &dyn Fn() -> bool) -> Option<Result<Batch, LoadError>> {
        if stop() {
            self.stop();
            return None;
        }
        let start = Instant::now();
        let result = loop {
            let made = match &mut self.work {
                Work::Here(scratch) => Ok(self.source.batch(&self.plan.next()?, scratch)),
                Work::Threads(pool) => {
                    let Some(made) = pool.receive(stop) else {
                        self.stop();
                        return None;
                    };
                    pool.fill(&mut self.plan);
                    made
                }
                Work::Ended => return None,
            };
            let result = made.and_then(|made| {
                let asked = made.asked;
                self.source.accept(made).map(|batch| (asked, batch))
            });
            match result {
                // All of its images were left out.
                Ok((asked, batch)) if asked > 0 && batch.images.is_empty() => {}
                result => break result.map(|(_, batch)| batch),
            }
        };
        self.waited += start.elapsed();
        if result.is_err() {
            self.stop();
        }
        Some(result)
    }

    fn stop(&mut self) {
        if let Work::Threads(pool) = std::mem::replace(&mut self.work, Work::Ended) {
            pool.stop(&self.source);
        }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_unless(&|| false)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::atomic::AtomicUsize;

    use nearkin_data::{BadImages, Image, Split, Tolerant};
    use proptest::prelude::*;

    use super::*;
    use crate::drawn::Whole;
    use crate::order::{Order, Sequential};
    use crate::parity::draw;
    use crate::view::ViewOptions;

    /// Drawn images that take a while, and may fail.
    #[derive(Default)]
    struct Drawn {
        images: usize,
        delay: Duration,
        unreadable: Vec<usize>,
        fatal: Option<usize>,
        reads: AtomicUsize,
    }

    impl ImageSet for Drawn {
        fn len(&self) -> usize {
            self.images
        }

        fn image(&self, index: usize) -> Result<Image<'_>, DataError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            thread::sleep(self.delay * (index % 3) as u32);
            assert_ne!(Some(index), self.fatal, "this test wants a panic");
            if self.unreadable.contains(&index) {
                let path = format!("images/{index}.png").into();
                return Err(DataError::Malformed { path, reason: "truncated".into() });
            }
            Ok(draw(20 + index % 5, 24, index as u64))
        }

        fn label(&self, _: usize) -> Option<usize> {
            None
        }

        fn classes(&self) -> &[String] {
            &[]
        }

        fn name(&self, index: usize) -> String {
            index.to_string()
        }
    }

    fn views() -> Arc<[View]> {
        let view = |size| {
            let text = format!(
                "name = \"v\"\ntransforms = [{{ random_resized_crop = {{ size = {size} }} }},
                 {{ horizontal_flip = {{}} }}, {{ color_jitter = {{ brightness = 0.4 }} }}]"
            );
            let options: ViewOptions = toml::from_str(&text).expect("valid TOML");
            View::new(options).expect("a valid view")
        };
        Arc::new([view(8), view(12)])
    }

    fn options(workers: usize) -> LoaderOptions {
        LoaderOptions { workers, prefetch_batches: 2 }
    }

    fn size(batch_size: usize) -> NonZeroUsize {
        NonZeroUsize::new(batch_size).expect("above zero")
    }

    fn plans(images: usize, epochs: u64) -> impl Iterator<Item = Plan> + Send {
        let mut order = Order::new(images, size(4), 9, false);
        let batches = order.batches_per_epoch();
        (0..epochs)
            .flat_map(move |epoch| (0..batches).map(move |batch| (epoch, batch)))
            .map(move |(epoch, batch)| order.plan(epoch, batch))
    }

    fn start(set: Arc<Drawn>, workers: usize) -> Loader {
        let plans = plans(set.len(), 2);
        Loader::start(set, views(), 5, plans, options(workers)).expect("threads")
    }

    #[test]
    fn memory_of_a_dropped_batch_is_used_again() {
        let mut loader = start(Arc::new(Drawn { images: 16, ..Drawn::default() }), 0);
        let memory = |batch: &Batch| -> Vec<*const f32> {
            batch.views.iter().map(|view| view.pixels.as_ptr()).collect()
        };
        let first = loader.next().expect("a batch").expect("readable");
        let before = memory(&first);
        let second = loader.next().expect("a batch").expect("readable");
        assert_ne!(memory(&second), before);
        drop(first);
        let third = loader.next().expect("a batch").expect("readable");
        assert_eq!(memory(&third), before);
    }

    #[test]
    fn batches_do_not_depend_on_the_number_of_workers() {
        let expected: Vec<Plan> = plans(19, 2).collect();
        let load = |workers| -> Vec<Batch> {
            let set = Drawn { images: 19, delay: Duration::from_millis(1), ..Drawn::default() };
            let set = Arc::new(set);
            let batches = start(Arc::clone(&set), workers).map(|batch| batch.expect("batch"));
            let batches = batches.collect();
            // One decode per image and epoch, although there are two views.
            assert_eq!(set.reads.load(Ordering::Relaxed), 2 * 19);
            batches
        };
        let here = load(0);
        let found = here.iter().map(|batch| (batch.epoch, &batch.images));
        assert!(found.eq(expected.iter().map(|plan| (plan.epoch, &plan.images))));
        assert_eq!(here[0].views[0].pixels.len(), 4 * 8 * 8 * 3);
        assert_eq!(here[4].views[1].pixels.len(), 3 * 12 * 12 * 3);
        for workers in [1, 2, 7] {
            assert!(load(workers) == here, "{workers} workers gave other batches");
        }
    }

    #[test]
    fn epochs_and_views_get_numbers_of_their_own() {
        let set = Arc::new(Drawn { images: 1, ..Drawn::default() });
        let view = Arc::clone(&views());
        let same: Arc<[View]> = Arc::new([view[0].clone(), view[0].clone()]);
        let batches: Vec<Batch> = Loader::start(set, same, 5, plans(1, 2), options(0))
            .expect("threads")
            .map(|batch| batch.expect("batch"))
            .collect();
        assert_ne!(batches[0].views[0], batches[0].views[1]);
        assert_ne!(batches[0].views[0], batches[1].views[0]);
    }

    #[test]
    fn whole_images_travel_once_for_all_views_or_not_at_all() {
        // The images of this test are of several sizes; what is left of one must be its own.
        let whole = Whole { width: 20, height: 24, held: false };
        let start = |whole: Whole, [first, second]: [bool; 2], images| {
            let set = Arc::new(Drawn { images, ..Drawn::default() });
            let place = |view: &View, whole: Option<Whole>| {
                view.clone().for_device(whole).expect("a form on the device")
            };
            let views = Arc::clone(&views());
            let views = [(&views[0], first), (&views[1], second)]
                .map(|(view, all)| if all { place(view, Some(whole)) } else { place(view, None) });
            let plans = plans(images, 1);
            let set_of_loader = Arc::clone(&set) as Arc<dyn ImageSet>;
            let loader = Loader::start(set_of_loader, Arc::new(views), 5, plans, options(0));
            let batch = loader.expect("threads").next().expect("a batch").expect("readable");
            (batch, set.reads.load(Ordering::Relaxed))
        };
        let (travelling, reads) = start(whole, [true, true], 1);
        let image = draw(20, 24, 0);
        assert_eq!((travelling.whole.as_slice(), reads), (image.rgb(), 1));
        let held = Whole { held: true, ..whole };
        let (resident, reads) = start(held, [true, true], 1);
        assert_eq!((resident.whole.len(), reads), (0, 0));
        let (mixed, reads) = start(held, [true, false], 1);
        assert_eq!((mixed.whole.len(), reads), (0, 1));
        let drawn = |batch: &Batch, view: usize| {
            let unfinished = batch.views[view].unfinished.as_ref().expect("it is for the device");
            unfinished.drawn.clone()
        };
        assert_eq!(drawn(&travelling, 0).len(), 3);
        assert_eq!(drawn(&travelling, 0), drawn(&resident, 0));
        assert_eq!(drawn(&travelling, 0), drawn(&mixed, 0));
        // The crop of the second view was made on the host, and drew its numbers there.
        assert_eq!(drawn(&travelling, 1)[1..], drawn(&mixed, 1));
    }

    #[test]
    fn a_caller_that_was_asked_to_stop_does_not_wait_for_a_batch() {
        // The images of a batch take a second together.
        let delay = Duration::from_millis(250);
        for workers in [0, 2] {
            let set = Arc::new(Drawn { images: 16, delay, ..Drawn::default() });
            let mut loader = start(set, workers);
            let asked = std::cell::Cell::new(0);
            let stop = || {
                asked.set(asked.get() + 1);
                asked.get() > 2
            };
            let mut batches = 0;
            while loader.next_unless(&stop).is_some() {
                batches += 1;
            }
            // Without threads it is asked before each batch, with threads also on the way.
            assert_eq!(batches, if workers == 0 { 2 } else { 0 });
            assert!(loader.next().is_none());
        }
    }

    #[test]
    fn an_unreadable_image_ends_the_loader_with_its_name() {
        for workers in [0, 1, 3] {
            let set = Drawn { images: 40, unreadable: vec![13], ..Drawn::default() };
            let plan = Sequential::new(40, size(4));
            let loader = Loader::start(Arc::new(set), views(), 0, plan, options(workers));
            let mut loader = loader.expect("threads");
            for batch in loader.by_ref().take(3) {
                assert!(batch.is_ok());
            }
            let error = loader.next().expect("an answer").expect_err("image 13 is unreadable");
            assert!(matches!(error, LoadError::Data(_)));
            assert_eq!(error.to_string(), "images/13.png: truncated");
            assert!(loader.next().is_none());
        }
    }

    /// The set behind a list of damaged images, of which any number is allowed.
    fn tolerant(set: Drawn) -> (tempfile::TempDir, Arc<dyn ImageSet>) {
        let folder = tempfile::tempdir().expect("a folder");
        let list = BadImages::open(&folder.path().join("bad.jsonl")).expect("no list yet");
        (folder, Arc::new(Tolerant::new(set, Split::Train, 1.0, Arc::new(list))))
    }

    #[test]
    fn damaged_images_are_replaced_by_those_of_the_next_batch() {
        let sound: Vec<usize> = plans(19, 1).flat_map(|plan| plan.images).collect();
        // The second row of the first batch, and the image that would replace it.
        let unreadable = vec![sound[1], sound[5]];
        let load = |workers| -> Vec<Batch> {
            let set = Drawn { images: 19, unreadable: unreadable.clone(), ..Drawn::default() };
            let (folder, set) = tolerant(set);
            let loader = Loader::start(set, views(), 5, plans(19, 2), options(workers));
            let batches = loader.expect("threads").map(|batch| batch.expect("batch")).collect();
            let list = std::fs::read_to_string(folder.path().join("bad.jsonl")).expect("a list");
            assert_eq!(list.lines().count(), 2);
            assert!(list.contains(&format!("images/{}.png: truncated", sound[5])), "{list}");
            batches
        };
        let here = load(0);
        assert_eq!(here[0].images, [sound[0], sound[6], sound[2], sound[3]]);
        assert_eq!(here[1].images, [sound[4], sound[9], sound[6], sound[7]]);
        assert!(here.iter().all(|batch| !batch.images.iter().any(|i| unreadable.contains(i))));
        // The same image has the same pixels in both places.
        let pixels = |batch: &Batch, row: usize| {
            let view = &batch.views[0];
            let length = view.pixels.len() / batch.images.len();
            view.pixels[row * length..][..length].to_vec()
        };
        assert_eq!(pixels(&here[0], 1), pixels(&here[1], 2));
        for workers in [1, 3] {
            assert!(load(workers) == here, "{workers} workers gave other batches");
        }
    }

    #[test]
    fn an_evaluation_leaves_damaged_images_out() {
        for workers in [0, 2] {
            let unreadable = vec![1, 4, 5, 6, 7];
            let (_folder, set) = tolerant(Drawn { images: 10, unreadable, ..Drawn::default() });
            let plan = Sequential::new(10, size(4));
            let loader = Loader::start(set, views(), 0, plan, options(workers)).expect("threads");
            let batches: Vec<Batch> = loader.map(|batch| batch.expect("batch")).collect();
            let images: Vec<_> = batches.iter().map(|batch| batch.images.clone()).collect();
            assert_eq!(images, [vec![0, 2, 3], vec![8, 9]]);
            assert_eq!(batches[0].views[1].pixels.len(), 3 * 12 * 12 * 3);
        }
    }

    #[test]
    fn a_set_of_damaged_images_alone_is_an_error() {
        let unreadable = (0..10).collect();
        let (_folder, set) = tolerant(Drawn { images: 10, unreadable, ..Drawn::default() });
        let mut loader = Loader::start(set, views(), 0, plans(10, 1), options(1)).expect("threads");
        let error = loader.next().expect("an answer").expect_err("no image can be read");
        assert!(error.to_string().contains("the next 1000 images of the epoch"), "{error}");
        assert!(loader.next().is_none());
    }

    #[test]
    fn a_panic_in_a_worker_is_an_error_and_not_a_hang() {
        for workers in [1, 2] {
            let set = Arc::new(Drawn { images: 40, fatal: Some(6), ..Drawn::default() });
            let plan = Sequential::new(40, size(4));
            let loader = Loader::start(set, views(), 0, plan, options(workers));
            let mut loader = loader.expect("threads");
            assert!(loader.next().expect("an answer").is_ok());
            let error = loader.next().expect("an answer").expect_err("image 6 panics");
            assert!(matches!(&error, LoadError::Panic { images } if images == &[4, 5, 6, 7]));
            assert!(loader.next().is_none());
        }
    }

    #[test]
    fn dropping_a_busy_loader_stops_it() {
        let delay = Duration::from_millis(20);
        let set = Arc::new(Drawn { images: 3000, delay, ..Drawn::default() });
        let plan = Sequential::new(3000, size(1000));
        let loader =
            Loader::start(Arc::clone(&set) as Arc<dyn ImageSet>, views(), 0, plan, options(2));
        let mut loader = loader.expect("threads");
        // The threads are inside batches that would take 20 seconds each.
        thread::sleep(delay);
        let begin = Instant::now();
        loader.stop();
        assert!(begin.elapsed() < Duration::from_secs(2));
        drop(loader);
        assert_eq!(Arc::strong_count(&set), 1, "a thread still holds the set");
    }

    #[test]
    fn no_more_batches_are_made_than_the_bound_allows() {
        let set = Arc::new(Drawn { images: 100, ..Drawn::default() });
        let plan = Sequential::new(100, size(1));
        let loader =
            Loader::start(Arc::clone(&set) as Arc<dyn ImageSet>, views(), 0, plan, options(2));
        let mut loader = loader.expect("threads");
        let wait_for = |reads: usize| {
            while set.reads.load(Ordering::Relaxed) < reads {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(20));
            assert_eq!(set.reads.load(Ordering::Relaxed), reads);
        };
        wait_for(4);
        loader.next().expect("an answer").expect("batch");
        wait_for(5);
    }

    #[test]
    fn waiting_is_counted() {
        let delay = Duration::from_millis(5);
        let set = Drawn { images: 6, delay, ..Drawn::default() };
        // Without threads all of the making is waiting.
        let mut loader = start(Arc::new(set), 0);
        assert_eq!(loader.wait(), Duration::ZERO);
        loader.by_ref().for_each(|batch| assert!(batch.is_ok()));
        // Two epochs of images that sleep 0, 1, 2, 0, 1 and 2 times.
        assert!(loader.wait() > delay * 6, "{:?}", loader.wait());
    }

    #[test]
    fn work_is_the_time_of_the_thread_that_did_it_and_not_its_waiting() {
        for workers in [0, 2] {
            let delay = Duration::from_millis(10);
            let set = Arc::new(Drawn { images: 12, delay, ..Drawn::default() });
            let mut loader = start(set, workers);
            assert!(loader.by_ref().all(|batch| batch.is_ok()));
            let worked = loader.worked();
            // 24 images, of which 16 wait for 10 or 20 milliseconds each.
            assert!(worked > Duration::ZERO && worked < delay * 12, "{worked:?}");
        }
    }

    /// Process `rank` of `ranks`, from a batch on, over two epochs.
    fn load(
        set: &Arc<dyn ImageSet>,
        order: &Order,
        (rank, ranks): (usize, usize),
        from: usize,
        workers: usize,
    ) -> Vec<Batch> {
        let mut order = order.clone().of_rank(rank, size(ranks)).expect("it divides");
        let batches = order.batches_per_epoch();
        let plan = (from..2 * batches)
            .map(move |batch| order.plan((batch / batches) as u64, batch % batches));
        Loader::start(Arc::clone(set), views(), 5, plan, options(workers))
            .expect("threads")
            .map(|batch| batch.expect("batch"))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// What one process without threads loads is what any number of processes load together,
        /// with any number of threads, from the beginning or after an interruption.
        #[test]
        fn ranks_workers_and_resume_change_nothing(
            images in 6_usize..40,
            rows in 1_usize..3,
            seed in 0_u64..100,
            drop_last: bool,
            unreadable in prop::collection::vec(0_usize..40, 0..3),
            from in 0_usize..20,
        ) {
            let set = Drawn { images, unreadable: unreadable.clone(), ..Drawn::default() };
            let (_folder, set) = tolerant(set);
            let order = Order::new(images, size(3 * rows), seed, drop_last);
            let expected = load(&set, &order, (0, 1), 0, 0);
            let batches = order.batches_per_epoch();
            prop_assert_eq!(expected.len(), 2 * batches);

            // Without damage, every epoch is its permutation.
            if !unreadable.iter().any(|&index| index < images) {
                for epoch in expected.chunks(batches) {
                    let mut seen: Vec<usize> =
                        epoch.iter().flat_map(|batch| batch.images.clone()).collect();
                    seen.sort_unstable();
                    seen.dedup();
                    let whole = if drop_last { images / (3 * rows) * (3 * rows) } else { images };
                    prop_assert_eq!(seen.len(), whole);
                }
            }
            let from = from % (2 * batches);
            for workers in 1..=4 {
                prop_assert!(load(&set, &order, (0, 1), 0, workers) == expected);
                prop_assert!(load(&set, &order, (0, 1), from, workers) == expected[from..]);
                let ranks: Vec<Vec<Batch>> =
                    (0..3).map(|rank| load(&set, &order, (rank, 3), from, workers)).collect();
                for (number, whole) in expected[from..].iter().enumerate() {
                    let parts = || ranks.iter().map(|rank| &rank[number]);
                    let images: Vec<usize> =
                        parts().flat_map(|batch| batch.images.clone()).collect();
                    prop_assert_eq!(&images, &whole.images);
                    for (view, joint) in whole.views.iter().enumerate() {
                        let pixels: Vec<f32> =
                            parts().flat_map(|batch| batch.views[view].pixels.clone()).collect();
                        prop_assert!(pixels == joint.pixels);
                    }
                }
            }
        }
    }
}
