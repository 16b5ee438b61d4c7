//! What signals do to a run, to a launcher and to its processes, and with which codes they end.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the tests of the command line")]
mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use libc::c_int;
use nearkin_report::{Kind, RunFolder, names, read_metrics};

use crate::support::{Place, tiny_on, tiny_with};

/// Nothing here takes as long, even on a busy machine.
const LIMIT: Duration = Duration::from_mins(4);

/// Sleeps until something is true.
fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < LIMIT, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn command(place: &Place, arguments: &str) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("nearkin"));
    command
        .args(arguments.split_whitespace())
        .current_dir(place.path(""))
        .env("OMP_NUM_THREADS", "1")
        // Said by the environment, it does not make the program start itself again.
        .env("OMP_WAIT_POLICY", "passive")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

const PRETRAIN: &str = "pretrain tiny.toml --device cpu --threads 1 --workers 1 --out run";
const LAUNCH: &str = "launch --nproc 2 -- pretrain tiny.toml --device cpu --threads 1 --workers 1 \
                      --out run --resume auto";

fn send(process: u32, signal: i32) {
    // SAFETY: a process of this test's; if it has ended, nothing happens.
    unsafe { libc::kill(process as libc::pid_t, signal) };
}

/// The processes that another has started.
fn children(process: u32) -> Vec<u32> {
    let list = format!("/proc/{process}/task/{process}/children");
    let text = std::fs::read_to_string(list).unwrap_or_default();
    text.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn ends(child: Child) -> Output {
    let mut child = child;
    wait_until("the process has ended", || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

fn last_step(run: &Path) -> u64 {
    let records = read_metrics(&run.join("metrics.jsonl")).unwrap_or_default();
    records.last().map_or(0, |record| record.step)
}

fn steps_of_checkpoints(run: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(run.join("checkpoints")).into_iter().flatten();
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut steps: Vec<u64> = entries
        .filter_map(|entry| name(entry.unwrap()).strip_prefix("step-")?.parse().ok())
        .collect();
    steps.sort_unstable();
    steps
}

/// Step, kind and loss or accuracy of every record but events.
fn measured(run: &Path) -> Vec<(u64, Kind, f64)> {
    let records = read_metrics(&run.join("metrics.jsonl")).unwrap();
    let value = |record: &nearkin_report::Record| {
        record.number(names::LOSS).or(record.number(names::ACCURACY)).unwrap()
    };
    let records = records.iter().filter(|record| record.kind != Kind::Event);
    records.map(|record| (record.step, record.kind, value(record))).collect()
}

fn assert_same_end(whole: &Path, broken: &Path) {
    let last = *steps_of_checkpoints(whole).last().unwrap();
    for file in ["model", "momentum_encoder", "queue", "optimizer"] {
        let file = format!("checkpoints/step-{last:09}/{file}.safetensors");
        let read = |run: &Path| std::fs::read(run.join(&file)).unwrap();
        assert!(read(whole) == read(broken), "{file} differs");
    }
    assert_eq!(measured(whole), measured(broken));
}

/// Signals, as a line of `/proc/PID/status` has them.
struct Signals(u64);

impl Signals {
    fn contains(&self, signal: i32) -> bool {
        self.0 & (1 << (signal - 1)) != 0
    }
}

/// Those that the line called `name` has of a process; none once it has ended.
fn signals_of(child: &Child, name: &str) -> Signals {
    let status = format!("/proc/{}/status", child.id());
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let mask = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Signals(u64::from_str_radix(mask.unwrap_or("0").trim(), 16).unwrap())
}

#[test]
fn each_signal_stops_a_run_with_a_checkpoint_and_its_own_exit_code() {
    let signals = [
        (libc::SIGHUP, 129),
        (libc::SIGINT, 130),
        (libc::SIGUSR1, 138),
        (libc::SIGUSR2, 140),
        (libc::SIGTERM, 143),
    ];
    for (signal, code) in signals {
        let place = Place::new();
        let run = place.path("run");
        let child = command(&place, &format!("{PRETRAIN} --epochs 4000 --quiet")).spawn().unwrap();
        wait_until("five steps are made", || last_step(&run) >= 5);
        send(child.id(), signal);
        // Of signals that wait together, any may come first: each is given to a thread of its own.
        wait_until("the signal has arrived", || !signals_of(&child, "ShdPnd").contains(signal));
        // What `timeout` and managers of processes do: the same request arrives again, or as another
        // signal.
        send(child.id(), signal);
        send(child.id(), libc::SIGTERM);
        let output = ends(child);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "signal {signal}: {said}");
        let step = last_step(&run);
        assert!(said.contains(&format!("after step {step}; a checkpoint was written")), "{said}");
        assert_eq!(steps_of_checkpoints(&run).last(), Some(&step), "signal {signal}");
    }
}

#[test]
fn before_training_begins_a_signal_ends_the_process_at_once() {
    let place = Place::new();
    // Nobody reads the other end, so the program waits for its recipe.
    let recipe = place.path("pipe.toml");
    let name = std::ffi::CString::new(recipe.to_str().unwrap()).unwrap();
    // SAFETY: the name is a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let arguments = PRETRAIN.replace("tiny.toml", "pipe.toml");
    let child = command(&place, &arguments).spawn().unwrap();
    let catches_term = || signals_of(&child, "SigCgt").contains(libc::SIGTERM);
    wait_until("signals are handled", catches_term);
    send(child.id(), libc::SIGTERM);
    let output = ends(child);
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    assert_eq!(said(&output), "");
}

#[test]
fn a_second_signal_later_ends_a_run_at_once() {
    let place = Place::new();
    let mut child = command(&place, &format!("{PRETRAIN} --epochs 4000")).spawn().unwrap();
    // A run whose messages nobody reads waits for a reader, so the first signal stays without effect.
    let messages = child.stderr.take().unwrap();
    // SAFETY: the descriptor is open; a pipe is at least a page.
    assert!(unsafe { libc::fcntl(messages.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) } >= 0);
    let steps = || last_step(&place.path("run"));
    let (mut before, mut since) = (0, Instant::now());
    wait_until("the run waits for a reader", || {
        let now = steps();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_secs(3)
    });
    send(child.id(), libc::SIGTERM);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none(), "the first signal does not end it at once");
    send(child.id(), libc::SIGHUP);
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "SIGHUP does not end it at once");
    send(child.id(), libc::SIGINT);
    let output = ends(child);
    assert_eq!(output.status.code(), Some(130));
    let mut said = String::new();
    let mut messages = messages;
    messages.read_to_string(&mut said).unwrap();
    assert!(!said.contains("error") && !said.contains("terminate"), "{said}");
}

/// As under `nohup`, and in the background of a shell; with a terminal of its own.
fn ignoring(mut command: Command, terminal: c_int) -> Command {
    let ignore = move || {
        // SAFETY: allowed between fork and exec.
        unsafe {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            libc::signal(libc::SIGINT, libc::SIG_IGN);
            if libc::setsid() < 0 || libc::ioctl(terminal, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the function only makes system calls.
    unsafe { command.pre_exec(ignore) };
    command
}

/// Both ends of a terminal: what a keyboard writes to, and what a program runs in.
fn terminal() -> [OwnedFd; 2] {
    let (mut keyboard, mut program) = (-1, -1);
    // SAFETY: the first two arguments live during the call, the others are optional; the descriptors it gives
    // are open and owned by nobody else.
    unsafe {
        let result = libc::openpty(&raw mut keyboard, &raw mut program, null_mut(), null(), null());
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        [OwnedFd::from_raw_fd(keyboard), OwnedFd::from_raw_fd(program)]
    }
}

#[test]
fn serial_signals_that_were_ignored_at_the_start_stay_ignored() {
    for arguments in [PRETRAIN, LAUNCH] {
        let place = Place::new();
        let run = place.path("run");
        let [keyboard, program] = terminal();
        let command = command(&place, &format!("{arguments} --epochs 4000 --quiet"));
        let child = ignoring(command, program.as_raw_fd()).spawn().unwrap();
        wait_until("a step is made", || last_step(&run) >= 1);
        for process in [&[child.id()][..], &children(child.id())].concat() {
            send(process, libc::SIGHUP);
        }
        // Ctrl-C.
        File::from(keyboard.try_clone().unwrap()).write_all(b"\x03").unwrap();
        let before = last_step(&run);
        wait_until("the run has gone on", || last_step(&run) >= before + 20);
        // What a process sends is meant, also in the background of a shell.
        send(child.id(), libc::SIGINT);
        let output = ends(child);
        assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    }
}

#[test]
fn an_interrupted_evaluation_is_made_when_the_run_continues() {
    let place = Place::new();
    let recipe = tiny_with("test_images = 20", "test_images = 8000");
    place.write("tiny.toml", recipe.replace("epochs = 2\n", "epochs = 1\n"));
    let whole = PRETRAIN.replace("--out run", "--out whole --quiet");
    succeeds(command(&place, &whole));

    let run = place.path("run");
    let child = command(&place, &format!("{PRETRAIN} --quiet")).spawn().unwrap();
    let has = |kind: Kind, step: u64| {
        let records = read_metrics(&run.join("metrics.jsonl")).unwrap_or_default();
        records.iter().any(|record| (record.kind, record.step) == (kind, step))
    };
    wait_until("the epoch ends", || has(Kind::Epoch, 4));
    send(child.id(), libc::SIGTERM);
    let output = ends(child);
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    assert_eq!(steps_of_checkpoints(&run), [4]);
    assert!(!has(Kind::Knn, 4), "the evaluation was not interrupted");
    succeeds(command(&place, "pretrain --resume run --device cpu --quiet"));
    assert!(has(Kind::Knn, 4));
    assert_same_end(&place.path("whole"), &run);
    // Once more, and there is nothing left to do.
    succeeds(command(&place, "pretrain --resume run --device cpu --quiet"));
    assert_same_end(&place.path("whole"), &run);
}

#[test]
fn serial_a_launcher_and_its_processes_signaled_together_write_one_checkpoint() {
    let place = Place::new();
    let whole = LAUNCH.replace("--out run", "--out whole --quiet --epochs 60");
    succeeds(command(&place, &whole));
    let (run, launch) = (place.path("run"), format!("{LAUNCH} --epochs 60 --quiet"));
    // All at once; the processes before the launcher; one process only.
    for (round, reached) in [8, 60, 120].into_iter().enumerate() {
        let child = command(&place, &launch).spawn().unwrap();
        wait_until("both processes run", || children(child.id()).len() == 2);
        wait_until("steps are made", || last_step(&run) >= reached);
        let processes = children(child.id());
        let order = match round {
            0 => vec![child.id(), processes[0], processes[1]],
            1 => vec![processes[1], processes[0], child.id()],
            _ => vec![processes[1]],
        };
        order.iter().for_each(|&process| send(process, libc::SIGTERM));
        let output = ends(child);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(143), "round {round}: {said}");
        assert_eq!(said.matches("a checkpoint was written").count(), 1, "round {round}: {said}");
        assert!(!said.contains("error") && !said.contains("killed"), "round {round}: {said}");
        assert_eq!(steps_of_checkpoints(&run).last(), Some(&last_step(&run)), "round {round}");
    }
    succeeds(command(&place, &launch));
    assert_same_end(&place.path("whole"), &run);
}

#[test]
fn serial_processes_stop_when_their_launcher_is_killed() {
    let place = Place::new();
    let run = place.path("run");
    let mut child = command(&place, &format!("{LAUNCH} --epochs 4000 --quiet")).spawn().unwrap();
    wait_until("steps are made", || last_step(&run) >= 8);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the run folder is free", || RunFolder::open(&run).unwrap().lock().is_ok());
    assert_eq!(steps_of_checkpoints(&run).last(), Some(&last_step(&run)));
    let again = command(&place, &format!("{LAUNCH} --epochs 4000 --quiet")).spawn().unwrap();
    let before = last_step(&run);
    wait_until("the run goes on", || last_step(&run) > before);
    send(again.id(), libc::SIGTERM);
    assert_eq!(ends(again).status.code(), Some(143));
}

/// Runs `deploy/slurm.sh` with commands of Slurm that are scripts: exit code, and whether it requeued.
fn slurm(place: &Place, srun: &str, restarts: u32) -> (Option<i32>, bool) {
    let bin = place.path("bin");
    let script = |name: &str, text: &str| {
        place.write(&format!("bin/{name}"), format!("#!/bin/sh\n{text}\n"));
        let made = Command::new("chmod").arg("+x").arg(bin.join(name)).status().unwrap();
        assert!(made.success());
    };
    let requeued = place.path("requeued");
    let _ = std::fs::remove_file(&requeued);
    script("srun", srun);
    script("scontrol", &format!("echo \"$@\" > {}", requeued.display()));
    let program = assert_cmd::cargo::cargo_bin!("nearkin");
    script("nearkin", &format!("exec {} \"$@\" --device cpu --threads 1", program.display()));
    let path = std::env::join_paths(
        std::iter::once(bin).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let job = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/slurm.sh");
    let status = Command::new("bash")
        .arg(job)
        .current_dir(place.path(""))
        .env("PATH", path.unwrap())
        .env("SLURM_JOB_ID", "77")
        .env("SLURM_RESTART_COUNT", restarts.to_string())
        .env("RECIPE", "folder.toml")
        .env("DATA", "images")
        .env("OUT", "run")
        .env("OMP_NUM_THREADS", "1")
        .env("OMP_WAIT_POLICY", "passive")
        .stderr(Stdio::null())
        .status()
        .unwrap();
    (status.code(), requeued.exists())
}

#[test]
fn slurm_requeues_what_another_attempt_can_mend_and_not_for_ever() {
    let place = Place::new();
    for (code, requeues) in [
        (0, false),
        (1, true),
        (2, false),
        (3, false),
        (101, false),
        (129, true),
        (130, true),
        (134, false),
        (137, true),
        (138, true),
        (139, false),
        (140, true),
        (143, true),
    ] {
        let srun = format!("exit {code}");
        assert_eq!(slurm(&place, &srun, 0), (Some(code), requeues), "exit code {code}");
        assert_eq!(slurm(&place, &srun, 20), (Some(code), false), "exit code {code}, late");
    }
}

#[test]
fn slurm_does_not_requeue_a_run_that_diverges() {
    let place = Place::new();
    let diverging = tiny_on("folder").replace("learning_rate = 0.05", "learning_rate = 1e30");
    place.write("folder.toml", diverging);
    place.images("images/cats", 64);
    let srun = "shift; exec \"$@\"";
    assert_eq!(slurm(&place, srun, 0), (Some(3), false));
    // As it is after a requeue by hand.
    assert_eq!(slurm(&place, srun, 1), (Some(3), false));
}
