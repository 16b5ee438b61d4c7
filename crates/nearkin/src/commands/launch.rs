//! `nearkin launch`: several processes of this program on one host.
//!
//! It gives them the variables that torchrun would, and sees to it that they end together: when one
//! fails, the others get a moment to say what they lost, and are then killed. Signals are passed on; if
//! the launcher itself is killed, the system tells the processes to stop.

use std::io::Error;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use nearkin_train::Interrupt;

use super::bad_input;
use crate::{failure, signals};

/// How long the others may take to end by themselves after one has failed.
const GRACE: Duration = Duration::from_secs(15);
/// How long they may take after a second request to stop.
const GRACE_AT_ONCE: Duration = Duration::from_secs(2);
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
    command: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.command.first().map(String::as_str) == Some("launch") {
        return Err(bad_input("launch starts other commands, not itself"));
    }
    let port = match arguments.port {
        Some(port) => port,
        None => free_port().context("cannot find a free port on 127.0.0.1")?,
    };
    let program = std::env::current_exe().context("cannot find this program")?;
    let interrupt = Interrupt::default();
    signals::pass_on(&interrupt)?;
    let launcher = std::process::id();

    let mut processes = Processes(Vec::new());
    let size = usize::from(arguments.nproc);
    for rank in 0..size {
        let mut command = Command::new(&program);
        command
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
            .process_group(0);
        // SAFETY: what runs between fork and exec allocates nothing and takes no lock.
        unsafe { command.pre_exec(move || stop_with_parent(launcher)) };
        let child =
            command.spawn().with_context(|| format!("cannot start process {rank} of {size}"))?;
        processes.0.push((rank, child, None));
    }
    processes.wait(&interrupt)
}

/// Lets the system send SIGTERM to this process once its parent, `launcher`, has died.
fn stop_with_parent(launcher: u32) -> std::io::Result<()> {
    // SAFETY: neither call touches memory of this process.
    let (result, parent) =
        unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM), libc::getppid()) };
    if result != 0 {
        return Err(Error::last_os_error());
    }
    // It may have died before the request, which then comes too late.
    if parent as u32 == launcher { Ok(()) } else { Err(Error::from_raw_os_error(libc::ESRCH)) }
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Rank, process, and how it ended.
struct Processes(Vec<(usize, Child, Option<ExitStatus>)>);

impl Processes {
    fn wait(&mut self, interrupt: &Interrupt) -> anyhow::Result<ExitCode> {
        // A signal is passed on once, and so is a second request.
        let (mut first, mut second) = (None::<i32>, None::<Instant>);
        let (mut failed, mut killed) = (None::<Instant>, false);
        // In the order of their ends.
        let mut codes = Vec::new();
        loop {
            for (rank, child, ended) in &mut self.0 {
                if ended.is_some() {
                    continue;
                }
                *ended = child.try_wait().with_context(|| format!("cannot wait for {rank}"))?;
                let Some(status) = *ended else { continue };
                codes.push(exit_code(*rank, status, first));
                if !status.success() {
                    failed.get_or_insert_with(Instant::now);
                }
            }
            if self.0.iter().all(|process| process.2.is_some()) {
                return Ok(ExitCode::from(code_of_all(&codes)));
            }
            if first.is_none()
                && let Some(signal) = interrupt.signal()
            {
                first = Some(signal);
                self.running().for_each(|child| send(child, signal));
            }
            if second.is_none()
                && let Some(signal) = signals::second()
            {
                second = Some(Instant::now());
                self.running().for_each(|child| send(child, signal));
            }
            let limit = match (first, second, failed) {
                (_, Some(since), _) => Some((since, GRACE_AT_ONCE)),
                // Who was asked to end may still write a checkpoint.
                (None, None, Some(since)) => Some((since, GRACE)),
                _ => None,
            };
            if !killed && limit.is_some_and(|(since, grace)| since.elapsed() > grace) {
                killed = true;
                self.kill();
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
            eprintln!("killing process {rank}, which did not end by itself");
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

/// The exit code of one process; a signal that was not `passed_on` to it is a failure.
fn exit_code(rank: usize, status: ExitStatus, passed_on: Option<i32>) -> u8 {
    match status.signal() {
        Some(signal) if Some(signal) == passed_on => signals::exit_code(signal),
        Some(signal) => {
            eprintln!("process {rank} was killed by signal {signal}");
            failure::FAILURE
        }
        None => status.code().map_or(failure::FAILURE, |code| code as u8),
    }
}

/// The exit code for all, of which the first to end come first. Others only report that they lost the
/// process whose error rules out another attempt.
fn code_of_all(codes: &[u8]) -> u8 {
    let decisive = [failure::FINAL, failure::INPUT].into_iter().find(|code| codes.contains(code));
    let first = || codes.iter().copied().find(|&code| code != 0);
    decisive.or_else(first).unwrap_or(0)
}

fn send(child: &mut Child, signal: i32) {
    // SAFETY: the process was started here and has not been waited for, so the number is still its.
    unsafe { libc::kill(child.id() as libc::pid_t, signal) };
}
