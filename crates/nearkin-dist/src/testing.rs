//! For tests only: the same test in several processes.

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tch::Device;

use crate::{DistError, Launch, Processes};

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    listener.map_or(0, |address| address.port())
}

/// Sets the variables by which a launcher tells a process its place on this host.
pub fn place(command: &mut Command, rank: usize, size: usize, port: u16) {
    command
        .env("RANK", rank.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("WORLD_SIZE", size.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string());
}

/// Runs the test of this name once more in `size` processes, each of which gets its world here; in
/// the calling process the answer is none, once all have ended well.
///
/// # Panics
/// If a process fails; what it wrote is in the message.
#[allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]
pub fn together(test: &str, size: usize) -> Option<Processes> {
    if std::env::var("NEARKIN_TEST").is_ok_and(|running| running == format!("{test}/{size}")) {
        tch::set_num_threads(1);
        return Some(join(Duration::from_mins(1)).unwrap());
    }
    let port = free_port();
    let start = |rank| -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        place(&mut command, rank, size, port);
        command
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env("NEARKIN_TEST", format!("{test}/{size}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<Child> = (0..size).map(start).collect();
    let outputs: Vec<Output> =
        children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    for (rank, output) in outputs.iter().enumerate() {
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "process {rank} of {size}: {}\n{said}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    None
}

/// Joins the others as the environment says.
pub fn join(timeout: Duration) -> Result<Processes, DistError> {
    let launch = Launch::from_environment(timeout)?.ok_or_else(|| DistError::Variable {
        name: "RANK",
        value: String::new(),
        reason: "it is not set".into(),
    })?;
    Processes::join(launch, Device::Cpu)
}
