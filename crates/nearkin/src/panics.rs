//! What a user sees of a panic: one line, as of every other error.
//!
//! tch panics where libtorch has no memory left: a number that a call takes travels as a `Scalar`, which
//! is dropped between the call and the look at its error, and the drop takes that error for its own.
//! Copies of tensors and their drops panic in the same way. Such a panic is an error of libtorch. Scoped
//! threads of the standard library panic where the system gives no thread. Every other panic is a fault of
//! nearkin.
//!
//! Where even the standard libraries get no memory, they say so on standard error and abort. Libraries that
//! do not look whether they got memory end in an invalid access. Both end in an exit code, too, and not in a
//! signal.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::{Mutex, PoisonError};

use anyhow::anyhow;

/// The first panic of the process, on any thread: later ones follow from it.
static FIRST: Mutex<Option<String>> = Mutex::new(None);

/// Keeps panics from printing what only a developer can read; `RUST_BACKTRACE=full` brings it back.
pub(crate) fn quieten() {
    let shown = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value == "full");
    let standard = take_hook();
    set_hook(Box::new(move |panic| {
        if shown {
            standard(panic);
        }
        let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| describe(panic));
    }));
    if shown {
        return;
    }
    for signal in [libc::SIGABRT, libc::SIGSEGV] {
        // SAFETY: zeros are valid in the structure, which lives during the call; the handler only makes calls
        // that POSIX allows in one.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as extern "C" fn(libc::c_int) as libc::sighandler_t;
            // The stack may be what is full.
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

extern "C" fn on_fault(signal: libc::c_int) {
    let text: &[u8] = if signal == libc::SIGABRT {
        b"error: the process was aborted, most likely because the machine has no memory left\n"
    } else {
        b"error: invalid memory access, most likely because the machine has no memory left; please report it if it has\n"
    };
    // SAFETY: the text is as long as it says, and the second call does not return.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        libc::_exit(1)
    }
}

/// Does `work`; a panic in it becomes an error.
pub(crate) fn caught<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(anyhow!("{}", first().unwrap_or_else(|| "it stopped for an unknown reason".to_owned())))
    })
}

/// What the first panic said, if there was one.
pub(crate) fn first() -> Option<String> {
    FIRST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let message = panic.payload_as_str().unwrap_or("no message");
    if let Some(error) = error_of_libtorch(message) {
        return format!("libtorch: {error}");
    }
    if message.starts_with("failed to spawn thread") {
        return "cannot start a thread: the system has no memory left, or no more threads"
            .to_owned();
    }
    let place = panic.location().map_or_else(String::new, |place| format!(" ({place})"));
    format!("internal error: {message}{place}; please report this")
}

/// The error in the panic of tch's `unwrap`, which shows it in Rust's notation of a text.
fn error_of_libtorch(message: &str) -> Option<String> {
    let (_, error) = message.split_once("on an `Err` value: Torch(\"")?;
    let error = error.strip_suffix("\")").unwrap_or(error);
    let mut characters = error.chars();
    let mut text = String::with_capacity(error.len());
    while let Some(character) = characters.next() {
        text.extend(match character {
            '\\' => characters.next().map(|escaped| match escaped {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            other => Some(other),
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_libtorch_in_a_panic_is_read_as_it_was_written() {
        let failed: Result<(), tch::TchError> =
            Err(tch::TchError::Torch("no \"memory\" \\ left\nframe #0: \tx".to_owned()));
        let debug = format!("{:?}", failed.as_ref().unwrap_err());
        let message = format!("called `Result::unwrap()` on an `Err` value: {debug}");
        assert_eq!(
            error_of_libtorch(&message).as_deref(),
            Some("no \"memory\" \\ left\nframe #0: \tx")
        );
        assert_eq!(error_of_libtorch("index out of bounds"), None);
    }
}
