//! Signs of life, so that a lost process can be named.
//!
//! When a process dies or hangs, the others only see a collective operation fail, often at a
//! neighbour that is itself a victim. So every process writes a growing number to the store once a
//! second; after a failure, those whose number no longer grows are the lost ones. The store lives in
//! process 0: where the store itself does not answer, that is the one.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use cxx::UniquePtr;

use crate::bridge::ffi::Store;

/// Where the first process that fails says so.
pub(crate) const FAILED: &str = "failed";

/// Where a process that was asked to stop says by which signal.
const STOP: &str = "stop";

const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// A process that was silent for so long is lost.
const SILENCE: Duration = Duration::from_secs(4);

/// The store answers at once, or its process is lost.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// How often something that others write is looked for.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Gives signs of life, and knows those of others.
pub(crate) struct Watch {
    rank: usize,
    size: usize,
    store: Arc<UniquePtr<Store>>,
    at: Arc<Mutex<String>>,
    /// What the first process that failed said, once it was seen.
    news: Arc<Mutex<Option<String>>>,
    /// The signal by which some process was asked to stop, once this one knows; 0 before.
    asked_to_stop: Arc<AtomicI32>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    /// Begins to give signs of life on a thread of its own.
    pub(crate) fn start(
        rank: usize,
        size: usize,
        store: &UniquePtr<Store>,
    ) -> Result<Self, cxx::Exception> {
        let watch = Self {
            rank,
            size,
            store: Arc::new(store.another()?),
            at: Arc::new(Mutex::new("start".to_owned())),
            news: Arc::default(),
            asked_to_stop: Arc::default(),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let (at, news) = (Arc::clone(&watch.at), Arc::clone(&watch.news));
        let asked = Arc::clone(&watch.asked_to_stop);
        let (stop, store) = (Arc::clone(&watch.stop), store.another()?);
        // The thread is not joined: it may be inside a call to a store that never answers.
        thread::spawn(move || {
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let sign_of_life = format!("{count} {}", inner(&at));
                let told = store.set(&sign(rank), sign_of_life.as_bytes());
                let heard = told.and_then(|()| Ok((said(&store)?, stop_signal(&store)?)));
                let Ok((failure, signal)) = heard else { break };
                if failure.is_some() {
                    *inner(&news) = failure;
                }
                if let Some(signal) = signal {
                    asked.store(signal, Ordering::Relaxed);
                }
                count += 1;
                thread::sleep(SIGN_OF_LIFE);
            }
        });
        Ok(watch)
    }

    /// Whether a process of this number has given a sign of life here before.
    pub(crate) fn knows(rank: usize, store: &Store) -> Result<bool, cxx::Exception> {
        store.has(&sign(rank))
    }

    pub(crate) fn report(&self, at: &str) {
        at.clone_into(&mut inner(&self.at));
    }

    /// Says once that this process was asked to stop. A store that does not answer is no news here: the
    /// next collective operation fails by itself.
    pub(crate) fn ask_to_stop(&self, signal: i32) {
        if self.asked_to_stop.swap(signal, Ordering::Relaxed) == 0 {
            let _ = self.store.set(STOP, signal.to_string().as_bytes());
        }
    }

    pub(crate) fn asked_to_stop(&self) -> Option<i32> {
        Some(self.asked_to_stop.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
    }

    /// Says that this process failed, if no other did before. Comes back once the others have had
    /// the time to read it, should the store end with this process.
    pub(crate) fn fail(&self, error: &str) {
        let message = format!("process {} of {} failed: {error}", self.rank, self.size);
        self.ask(move |store| say(store, &message));
        if self.rank == 0 {
            thread::sleep(3 * SIGN_OF_LIFE);
        }
    }

    /// What became of the process because of which an operation failed.
    pub(crate) fn explain(&self, error: &str) -> Option<String> {
        if let Some(news) = inner(&self.news).clone() {
            return Some(news);
        }
        let (rank, size, error) = (self.rank, self.size, error.to_owned());
        let mine = inner(&self.at).clone();
        let answer = self.ask(move |store| {
            let begun = Instant::now();
            let before = signs(store, size)?;
            while begun.elapsed() < SILENCE {
                if let Some(said) = said(store)? {
                    return Ok(Some(said));
                }
                thread::sleep(LOOK);
            }
            let after = signs(store, size)?;
            let silent: Vec<usize> =
                (0..size).filter(|&other| other != rank && before[other] == after[other]).collect();
            let list = |ranks: &[usize]| {
                let place =
                    |&rank: &usize| format!("process {rank} (last {})", place(&after[rank]));
                let shown: Vec<String> = ranks.iter().take(SHOWN).map(place).collect();
                let more = ranks.len().saturating_sub(SHOWN);
                shown.join(", ")
                    + &if more > 0 { format!(" and {more} more") } else { String::new() }
            };
            let message = if silent.is_empty() {
                let elsewhere: Vec<usize> =
                    (0..size).filter(|&other| place(&after[other]) != mine).collect();
                let others = if elsewhere.is_empty() {
                    "all processes are alive and at the same place".to_owned()
                } else {
                    format!("all processes are alive, but elsewhere are {}", list(&elsewhere))
                };
                format!("process {rank} of {size} failed at {mine}: {error}; {others}")
            } else {
                format!(
                    "lost {} of {size} at {mine}: it gives no sign of life ({error})",
                    list(&silent)
                )
            };
            say(store, &message)?;
            Ok(Some(message))
        });
        // What was heard before the store fell silent is worth more than the silence.
        answer.unwrap_or_else(|| inner(&self.news).clone()).or_else(|| {
            Some(format!(
                "lost process 0 of {} at {}: the store that it keeps does not answer; it was killed, \
                 hangs or cannot be reached",
                self.size,
                inner(&self.at)
            ))
        })
    }

    /// Asks the store on another thread, since a lost one never answers.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Store) -> Result<T, cxx::Exception> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = mpsc::channel();
        let store = Arc::clone(&self.store);
        thread::spawn(move || sender.send(question(&store)));
        receiver.recv_timeout(SILENCE + STORE_ANSWERS_WITHIN).ok()?.ok()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What a lock guards, also after a panic elsewhere: it is only text.
fn inner<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Processes that a message lists.
const SHOWN: usize = 5;

fn sign(rank: usize) -> String {
    format!("alive/{rank}")
}

/// The place in a sign of life.
fn place(sign: &str) -> &str {
    sign.split_once(' ').map_or("start", |(_, place)| place)
}

fn signs(store: &Store, size: usize) -> Result<Vec<String>, cxx::Exception> {
    let read = |rank| {
        let key = sign(rank);
        if !store.has(&key)? {
            return Ok(String::new());
        }
        let value = store.get(&key, STORE_ANSWERS_WITHIN.as_millis() as u64)?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    };
    (0..size).map(read).collect()
}

/// What the first process that failed said.
pub(crate) fn said(store: &Store) -> Result<Option<String>, cxx::Exception> {
    if !store.has(FAILED)? {
        return Ok(None);
    }
    let value = store.get(FAILED, STORE_ANSWERS_WITHIN.as_millis() as u64)?;
    Ok(Some(String::from_utf8_lossy(&value).into_owned()))
}

/// The signal by which some process was asked to stop.
fn stop_signal(store: &Store) -> Result<Option<i32>, cxx::Exception> {
    if !store.has(STOP)? {
        return Ok(None);
    }
    let value = store.get(STOP, STORE_ANSWERS_WITHIN.as_millis() as u64)?;
    Ok(std::str::from_utf8(&value).ok().and_then(|signal| signal.parse().ok()))
}

fn say(store: &Store, message: &str) -> Result<(), cxx::Exception> {
    if store.has(FAILED)? { Ok(()) } else { store.set(FAILED, message.as_bytes()) }
}
