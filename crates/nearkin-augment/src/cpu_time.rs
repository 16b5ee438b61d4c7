//! The CPU time of one thread: what a batch costs, however many other threads wanted the core.

use std::time::Duration;

/// Of the calling thread since it began; zero where the system does not tell.
pub(crate) fn of_this_thread() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of the type that the call fills in.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    match result {
        0 => Duration::new(time.tv_sec as u64, time.tv_nsec as u32),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_counts_and_sleep_does_not() {
        let before = of_this_thread();
        let since = || of_this_thread().saturating_sub(before);
        std::thread::sleep(Duration::from_millis(60));
        assert!(since() < Duration::from_millis(30), "{:?} of CPU time asleep", since());

        let begun = Instant::now();
        while since() < Duration::from_millis(30) {
            assert!(begun.elapsed() < Duration::from_mins(1), "no CPU time passes at work");
        }
    }
}
