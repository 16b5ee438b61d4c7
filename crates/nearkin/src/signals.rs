//! What signals do to a command that trains.
//!
//! Before there is anything to save, a signal ends the process at once. Afterwards the first one asks for
//! an end with a checkpoint. Managers of processes often deliver one request twice (to a launcher and to
//! its children, or by `timeout` to a child and to its group), so whatever comes within a second of the
//! first signal belongs to it. A later SIGINT or SIGTERM ends the process at once.
//!
//! A signal that was ignored when the program started stays ignored, for example SIGHUP under `nohup`. Shells
//! without job control ignore SIGINT in background jobs, so that Ctrl-C does not reach them; there a SIGINT of
//! the terminal is ignored, and one that a process sends is not.
//!
//! A thread of its own runs the handlers: of signals that arrive together, several threads could handle a later
//! one first. Handlers only use atomics and functions that POSIX allows there.

use std::io::Error;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use anyhow::Context;
use libc::{c_int, c_void};
use nearkin_train::Interrupt;

/// Ctrl-C, managers of processes, a closed terminal, and what Lightning and submitit send before a
/// preemption.
const HANDLED: [c_int; 5] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

/// Signals that come sooner after the first one repeat it.
const REPEATED_WITHIN_MILLISECONDS: u64 = 1000;

/// What the first signal asks for; before it is set, every signal ends the process.
static INTERRUPT: OnceLock<Interrupt> = OnceLock::new();
/// What to say on standard error when the first signal comes.
static NOTICE: OnceLock<&'static str> = OnceLock::new();
/// When the first signal came, in milliseconds of the system's clock; 0 before.
static FIRST_AT: AtomicU64 = AtomicU64::new(0);
/// A second request: passed on by a launcher, where another process ends.
static SECOND: AtomicI32 = AtomicI32::new(0);
static IS_LAUNCHER: AtomicBool = AtomicBool::new(false);
/// Whether SIGINT was ignored when the program started.
static IGNORES_TERMINAL: AtomicBool = AtomicBool::new(false);

/// The exit code of a process that ends because of a signal, as shells show it.
pub(crate) fn exit_code(signal: i32) -> u8 {
    128_u8.saturating_add(signal as u8)
}

/// Begins to handle signals: until [`stop_gently`] each ends the process at once. (Without a handler, the
/// first process of a container would ignore them.)
pub(crate) fn handle() -> anyhow::Result<()> {
    HANDLED.into_iter().try_for_each(|signal| {
        install(signal).with_context(|| format!("cannot handle signal {signal}"))
    })?;
    set_mask(libc::SIG_BLOCK);
    let wait = || {
        set_mask(libc::SIG_UNBLOCK);
        loop {
            // SAFETY: the call only waits for a signal.
            unsafe { libc::pause() };
        }
    };
    let thread = std::thread::Builder::new().name("signals".to_owned()).stack_size(STACK_BYTES);
    if thread.spawn(wait).is_err() {
        // Without memory for a thread, this one handles them.
        set_mask(libc::SIG_UNBLOCK);
    }
    Ok(())
}

/// Of the thread that runs the handlers.
const STACK_BYTES: usize = 128 << 10;

/// Blocks or unblocks what is handled, in this thread and those that it starts.
fn set_mask(how: c_int) {
    // SAFETY: zeros are a valid set, which lives during the calls; they do not fail for these signals.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in HANDLED {
            libc::sigaddset(&raw mut signals, signal);
        }
        libc::pthread_sigmask(how, &raw const signals, std::ptr::null_mut());
    }
}

/// From now on the first signal sets `interrupt` and says `notice`; without one, nothing is said.
pub(crate) fn stop_gently(interrupt: &Interrupt, notice: Option<&'static str>) {
    if let Some(notice) = notice {
        NOTICE.get_or_init(|| notice);
    }
    INTERRUPT.get_or_init(|| interrupt.clone());
}

/// As [`handle`] and [`stop_gently`] for a launcher, which ends when its processes do.
pub(crate) fn pass_on(interrupt: &Interrupt) -> anyhow::Result<()> {
    IS_LAUNCHER.store(true, Ordering::Relaxed);
    stop_gently(interrupt, None);
    handle()
}

/// The signal of a second request that a launcher got.
pub(crate) fn second() -> Option<i32> {
    Some(SECOND.load(Ordering::Relaxed)).filter(|&signal| signal != 0)
}

/// Ends the process with this code. Threads may still compute, or wait for processes that are gone, so
/// nothing is taken down: neither libtorch's statics nor anything else that they use.
pub(crate) fn leave(code: u8) -> ! {
    use std::io::Write;
    // There is nobody left to tell of a failure.
    let _ = std::io::stdout().flush();
    // SAFETY: the call does not return.
    unsafe { libc::_exit(code.into()) }
}

fn install(signal: c_int) -> std::io::Result<()> {
    // SAFETY: both structures are plain data, for which zeros are valid, and live during the calls; the
    // handler is safe in a signal's context.
    unsafe {
        let mut inherited: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &raw mut inherited) != 0 {
            return Err(Error::last_os_error());
        }
        if inherited.sa_sigaction == libc::SIG_IGN {
            if signal != libc::SIGINT {
                return Ok(());
            }
            IGNORES_TERMINAL.store(true, Ordering::Relaxed);
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(c_int, *const libc::siginfo_t, *const c_void) = on_signal;
        action.sa_sigaction = handler as libc::sighandler_t;
        // One after another: the handler of the first to arrive runs first.
        libc::sigfillset(&raw mut action.sa_mask);
        // System calls of libraries that do not expect an interruption go on.
        action.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO;
        if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn on_signal(signal: c_int, information: *const libc::siginfo_t, _: *const c_void) {
    // SAFETY: the kernel passes a valid structure to handlers that ask for it. Codes above 0 are the kernel's.
    let is_of_terminal = unsafe { (*information).si_code > 0 };
    if signal == libc::SIGINT && is_of_terminal && IGNORES_TERMINAL.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: the location is that of this thread's own variable, which the interrupted code may read next.
    let error_number = unsafe { *libc::__errno_location() };
    react(signal);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = error_number };
}

fn react(signal: c_int) {
    let end_at_once = || -> ! {
        // SAFETY: the call is allowed in a signal handler and does not return.
        unsafe { libc::_exit(exit_code(signal).into()) }
    };
    let Some(interrupt) = INTERRUPT.get() else { end_at_once() };
    let now = milliseconds().max(1);
    match FIRST_AT.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {
            interrupt.request(signal);
            if let Some(notice) = NOTICE.get() {
                say(notice);
            }
        }
        Err(first) => {
            let is_repeated = now.saturating_sub(first) <= REPEATED_WITHIN_MILLISECONDS;
            if is_repeated || !matches!(signal, libc::SIGINT | libc::SIGTERM) {
                return;
            }
            if IS_LAUNCHER.load(Ordering::Relaxed) {
                SECOND.store(signal, Ordering::Relaxed);
            } else {
                end_at_once()
            }
        }
    }
}

/// A clock that nobody sets.
fn milliseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives during the call, which a signal handler may make.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Writes to standard error, unless whoever reads it does not keep up: then the handler would wait.
fn say(text: &str) {
    let mut error_stream =
        libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: structure and text live during the calls, which a signal handler may make.
    unsafe {
        let ready = libc::poll(&raw mut error_stream, 1, 0);
        if ready == 1 && error_stream.revents & libc::POLLOUT != 0 {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        }
    }
}
