//! `nearkin launch`: several processes of this program on one host.
//!
//! It gives them the variables that torchrun would, and sees to it that they end together: when one
//! fails, the others get a moment to say what they lost, and are then killed.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use super::bad_input;
use crate::output::say;

/// How long the others may take to end by themselves after one has failed.
const GRACE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(50);

/// Start several processes on this machine that train together.
#[derive(Args)]
#[command(
    after_help = "torchrun --no-python, srun and mpirun start nearkin as well; they are for several machines.\n\n\
    Example:\n  \
    nearkin launch --nproc 2 -- pretrain recipes/sce/cifar10-small.toml --data DIR --out runs/sce"
)]
pub(crate) struct Arguments {
    /// How many processes; with GPUs, one for each.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    nproc: u16,
    /// The port on which they meet; a free one if absent.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The command of each, as after `nearkin`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.command.first().is_some_and(|command| command == "launch") {
        return Err(bad_input("launch starts other commands, not itself"));
    }
    let port = match arguments.port {
        Some(port) => port,
        None => free_port().context("cannot find a free port on 127.0.0.1")?,
    };
    let program = std::env::current_exe().context("cannot find this program")?;
    let signals = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&signals);
    ctrlc::set_handler(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    })
    .context("cannot handle Ctrl-C")?;

    let mut processes = Processes(Vec::new());
    let size = usize::from(arguments.nproc);
    for rank in 0..size {
        let child = Command::new(&program)
            .args(&arguments.command)
            .env("RANK", rank.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("WORLD_SIZE", size.to_string())
            .env("LOCAL_WORLD_SIZE", size.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            // What the first one says stands for all; errors come from each.
            .stdout(if rank == 0 { Stdio::inherit() } else { Stdio::null() })
            // A signal from the terminal reaches them once, through this process.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start process {rank} of {size}"))?;
        processes.0.push((rank, child, None));
    }
    processes.wait(&signals)
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Rank, process, and how it ended.
struct Processes(Vec<(usize, Child, Option<ExitStatus>)>);

impl Processes {
    fn wait(&mut self, signals: &AtomicUsize) -> anyhow::Result<ExitCode> {
        let (mut forwarded, mut failed) = (0, None::<(Instant, ExitStatus)>);
        loop {
            for (rank, child, ended) in &mut self.0 {
                if ended.is_some() {
                    continue;
                }
                *ended = child.try_wait().with_context(|| format!("cannot wait for {rank}"))?;
                let Some(status) = ended.filter(|status| !status.success()) else { continue };
                if failed.is_none() {
                    failed = Some((Instant::now(), status));
                }
                if let Some(signal) = status.signal() {
                    say(&format!("process {rank} was killed by signal {signal}"));
                }
            }
            if self.0.iter().all(|process| process.2.is_some()) {
                let code = failed.map_or(0, |(_, status)| status.code().unwrap_or(1));
                return Ok(ExitCode::from(code as u8));
            }
            // Who was asked to end may still write a checkpoint.
            if forwarded == 0 && failed.is_some_and(|(since, _)| since.elapsed() > GRACE) {
                self.kill();
            }
            let received = signals.load(Ordering::Relaxed);
            while forwarded < received {
                forwarded += 1;
                self.running().for_each(terminate);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn running(&mut self) -> impl Iterator<Item = &mut Child> {
        self.0.iter_mut().filter(|process| process.2.is_none()).map(|process| &mut process.1)
    }

    /// Ends what still runs; it may be stopped or hang.
    fn kill(&mut self) {
        for (rank, child, _) in self.0.iter_mut().filter(|process| process.2.is_none()) {
            say(&format!("process {rank} did not end after another had failed: killing it"));
            // It may have ended in this moment.
            let _ = child.kill();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.running() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn terminate(child: &mut Child) {
    // SAFETY: the process was started here and has not been waited for, so the number is still its.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
}
