//! How libtorch's threads wait for each other.
//!
//! A thread of libgomp that waits for the others spins, for many milliseconds by default, before it
//! sleeps. Beside loader threads or other programs it then holds the core that the one it waits for
//! needs, and training all but stops. libgomp reads how long it may spin when it is loaded, before
//! `main`; so the program starts itself again with the setting. docs/performance.md has the measurement.

use std::os::unix::process::CommandExt;
use std::process::Command;

const SPINS: &str = "GOMP_SPINCOUNT";
/// Less than a millisecond: most waits in a step are shorter, and a core is not lost for long.
const FEW: &str = "10000";

/// Where one of these is set, the user has chosen.
const SETTINGS: [&str; 3] = [SPINS, "OMP_WAIT_POLICY", "KMP_BLOCKTIME"];

/// Starts the program again, in the same process, with threads that spin for a moment only; does
/// nothing where the environment says how they wait.
pub(crate) fn spin_briefly() {
    if SETTINGS.iter().any(|setting| std::env::var_os(setting).is_some()) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // It only returns if it failed, and then the program goes on as it is.
    let _ = again.args(arguments).env(SPINS, FEW).exec();
}
