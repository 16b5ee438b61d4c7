//! Independent pieces of work on several threads, with results that do not depend on their number.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The results of `work(scratch, 0)`, `work(scratch, 1)` and so on in this order; each thread has a
/// scratch of its own.
pub(crate) fn map<S: Default, T: Send>(
    tasks: usize,
    threads: NonZeroUsize,
    work: impl Fn(&mut S, usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(tasks));
    std::thread::scope(|scope| {
        for _ in 0..threads.get().min(tasks) {
            scope.spawn(|| {
                let mut scratch = S::default();
                loop {
                    let task = next.fetch_add(1, Ordering::Relaxed);
                    if task >= tasks {
                        break;
                    }
                    let result = work(&mut scratch, task);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((task, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(task, _)| *task);
    done.into_iter().map(|(_, result)| result).collect()
}

/// `0..length` in pieces of at most `size`: how many, and the piece of a number.
pub(crate) fn pieces(
    length: usize,
    size: usize,
) -> (usize, impl Fn(usize) -> std::ops::Range<usize> + Copy) {
    (length.div_ceil(size), move |piece| piece * size..((piece + 1) * size).min(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_tasks() {
        for threads in [1, 3, 50] {
            let threads = NonZeroUsize::new(threads).unwrap();
            let (count, piece) = pieces(25, 4);
            let sums = map(count, threads, |(): &mut (), task| piece(task).sum::<usize>());
            assert_eq!(sums, [6, 22, 38, 54, 70, 86, 24]);
        }
    }
}
