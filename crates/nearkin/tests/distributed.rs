//! Jobs of several processes: how they start, how they end when one of them is lost, and that they go
//! on from there as if nothing had happened.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the tests of the command line")]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nearkin_data::Random;
use nearkin_data::random::Purpose;
use nearkin_dist::testing::{free_port, place};
use nearkin_report::{Kind, RunFolder, names, read_metrics};

use crate::support::{Place, TINY, tiny_on};

/// Processes wait so long for each other.
const TIMEOUT_SECONDS: u64 = 5;

/// To find out who was lost takes so much longer, on a busy machine.
const SLACK: Duration = Duration::from_secs(45);

/// The tiny recipe, longer and with a checkpoint after every epoch of four steps.
fn recipe(folder: &Path) -> PathBuf {
    let path = folder.join("recipe.toml");
    let long = TINY
        .replace("epochs = 2\n", "epochs = 40\n")
        .replace("neighbours", "# no evaluation on the way\nneighbours")
        .replace("[evaluation]\nevery_epochs = 1", "[evaluation]\nevery_epochs = 0");
    std::fs::write(&path, long).unwrap();
    path
}
const STEPS: u64 = 160;

fn nearkin() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("nearkin"));
    command.env("OMP_NUM_THREADS", "1").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn launch(processes: usize, recipe: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = nearkin();
    command
        .args(["launch", "--nproc", &processes.to_string(), "--", "pretrain"])
        .args([recipe.to_str().unwrap(), "--out", out.to_str().unwrap(), "--resume", "auto"])
        .args(["--device", "cpu", "--threads", "1", "--quiet"])
        .args(["--timeout-seconds", &TIMEOUT_SECONDS.to_string()])
        .args(more);
    command
}

fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn last_step(run: &Path) -> u64 {
    let records = read_metrics(&run.join("metrics.jsonl")).unwrap_or_default();
    records.last().map_or(0, |record| record.step)
}

fn losses(run: &Path) -> Vec<(u64, f64)> {
    let records = read_metrics(&run.join("metrics.jsonl")).unwrap();
    let steps = records.iter().filter(|record| record.kind == Kind::Step);
    steps.map(|record| (record.step, record.number(names::LOSS).unwrap())).collect()
}

fn end(run: &Path) -> Vec<Vec<u8>> {
    let last = run.join(format!("checkpoints/step-{STEPS:09}"));
    ["model", "momentum_encoder", "queue", "optimizer"]
        .iter()
        .map(|file| std::fs::read(last.join(format!("{file}.safetensors"))).unwrap())
        .collect()
}

/// The processes that a launcher started, in order.
fn children(launcher: &Child, expected: usize) -> Vec<i32> {
    let list = format!("/proc/{0}/task/{0}/children", launcher.id());
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(&list).unwrap();
        let children: Vec<i32> =
            text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        if children.len() == expected {
            return children;
        }
        assert!(begun.elapsed() < SLACK, "the launcher started {children:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ends_within(mut child: Child, limit: Duration) -> Output {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < limit, "still running after {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

/// Kills and stops one of two processes at random steps. `NEARKIN_LOSSES` says how often.
#[test]
fn serial_a_job_that_loses_processes_ends_and_goes_on_as_if_it_had_not() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path());
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    succeeds(launch(2, &recipe, &whole, &[]));

    let rounds: u64 = std::env::var("NEARKIN_LOSSES").map_or(4, |rounds| rounds.parse().unwrap());
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("losses are drawn with seed {seed}");
    let mut random = Random::new(Purpose::Order, seed, 0, 0);
    for round in 0..rounds {
        let reach = (STEPS - 40) * (round + 1) / rounds;
        let goal = last_step(&broken).min(reach) + 1 + random.below(12) as u64;
        let child = launch(2, &recipe, &broken, &[]).spawn().unwrap();
        let processes = children(&child, 2);
        let begun = Instant::now();
        while last_step(&broken) < goal {
            assert!(begun.elapsed() < 2 * SLACK, "round {round}: no step {goal}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let lost = random.below(2);
        let (signal, how) = match round % 2 {
            0 => (libc::SIGKILL, "killed"),
            _ => (libc::SIGSTOP, "stopped"),
        };
        // SAFETY: a process of this test's, which the launcher has not waited for while it runs.
        assert_eq!(unsafe { libc::kill(processes[lost], signal) }, 0);
        let output = ends_within(child, Duration::from_secs(TIMEOUT_SECONDS) + SLACK);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("round {round}: {how} process {lost} after step {goal}:\n{said}");
        assert!(!output.status.success());
        assert!(said.contains(&format!("lost process {lost}")), "{said}");
    }
    succeeds(launch(2, &recipe, &broken, &[]));
    assert!(end(&whole) == end(&broken), "the run ended otherwise");
    assert_eq!(losses(&whole), losses(&broken));
}

#[test]
fn a_job_goes_on_with_another_number_of_processes() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, run) = (recipe(folder.path()), folder.path().join("run"));
    let one = folder.path().join("one");
    // In single precision, so small a network soon differs by more than the last digits.
    let short = ["--epochs", "3", "--set", "training.precision=double"];
    succeeds(launch(1, &recipe, &one, &short));
    let child = launch(2, &recipe, &run, &short).spawn().unwrap();
    let begun = Instant::now();
    while last_step(&run) < 5 {
        assert!(begun.elapsed() < 2 * SLACK);
        std::thread::sleep(Duration::from_millis(2));
    }
    // SAFETY: the launcher is a child of this test, and has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let output = ends_within(child, SLACK);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("a checkpoint was written"), "{said}");
    succeeds(launch(1, &recipe, &run, &short));
    for (one, broken) in losses(&one).iter().zip(losses(&run)) {
        assert_eq!(one.0, broken.0);
        assert!((one.1 - broken.1).abs() < 1e-6, "{one:?} {broken:?}");
    }
    let records = read_metrics(&RunFolder::open(&run).unwrap().metrics()).unwrap();
    let events: Vec<&str> =
        records.iter().filter_map(|record| record.text(names::MESSAGE)).collect();
    let expected = "trained by 1 process(es), before by 2: order, views and batches stay the same";
    assert!(events.iter().any(|event| event.starts_with(expected)), "{events:?}");
}

/// Starts process `rank` of two by itself.
fn process(rank: usize, port: u16, arguments: &[&str]) -> Child {
    let mut command = nearkin();
    place(&mut command, rank, 2, port);
    command.args(arguments).args(["--device", "cpu", "--threads", "1", "--quiet"]);
    command.args(["--timeout-seconds", "20"]).spawn().unwrap()
}

/// What two processes with these arguments say when they refuse to train together.
fn refused(first: &[&str], second: &[&str]) -> String {
    let port = free_port();
    let processes = [process(0, port, first), process(1, port, second)];
    let mut said = String::new();
    for child in processes {
        let output = ends_within(child, SLACK);
        assert!(!output.status.success());
        said += &String::from_utf8_lossy(&output.stderr);
    }
    said
}

#[test]
fn processes_with_different_jobs_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path());
    let recipe = recipe.to_str().unwrap();
    let out = folder.path().join("run");
    let same = ["pretrain", recipe, "--out", out.to_str().unwrap()];
    let with = |more: &[&'static str]| [&same[..], more].concat();

    let said = refused(&same, &with(&["--set", "optimizer.learning_rate=0.2"]));
    assert!(said.contains("process 1 has another recipe than process 0"), "{said}");
    assert!(said.contains("optimizer.learning_rate: 0.05 -> 0.2"), "{said}");
    let said = refused(
        &with(&["--set", "training.batch_size=15"]),
        &with(&["--set", "training.batch_size=15"]),
    );
    assert!(said.contains("training.batch_size = 15 does not divide"), "{said}");
    let groups =
        with(&["--set", "training.batch_size=12", "--set", "momentum_encoder.batch_norm_splits=3"]);
    let said = refused(&groups, &groups);
    assert!(said.contains("momentum_encoder.batch_norm_splits = 3 does not divide"), "{said}");
    let said = refused(&with(&["--init", "no-such-file"]), &same);
    assert!(said.contains("different files as --init"), "{said}");
    // The error of one is the error of both.
    let said = refused(&same, &["pretrain", "no-such-recipe.toml", "--out", "x"]);
    assert_eq!(said.matches("no-such-recipe.toml").count(), 2, "{said}");
    assert!(said.contains("process 1 of 2 failed"), "{said}");
    assert!(!out.exists(), "a refused job leaves no run");
}

#[test]
fn wrong_usage_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = launch(3, &recipe(folder.path()), &folder.path().join("run"), &["--no-such"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.matches("unexpected argument '--no-such'").count(), 1, "{said}");
    assert_eq!(output.status.code(), Some(2), "{said}");
}

#[test]
fn processes_with_different_images_are_refused_at_the_start() {
    let place = Place::new();
    place.write("folder.toml", tiny_on("folder"));
    for (folder, images) in [("one", 32), ("other", 33)] {
        place.images(&format!("{folder}/cats"), images);
    }
    let [recipe, one, other, out] = ["folder.toml", "one", "other", "run"]
        .map(|name| place.path(name).to_str().unwrap().to_owned());
    let with = |data: &str| {
        ["pretrain", &recipe, "--data", data, "--out", &out].map(str::to_owned).to_vec()
    };
    let (first, second) = (with(&one), with(&other));
    let both = [&first, &second].map(|all| all.iter().map(String::as_str).collect::<Vec<_>>());
    let said = refused(&both[0], &both[1]);
    assert!(said.contains("process 1 has another data set than process 0: 33 images"), "{said}");
}

#[test]
fn a_job_whose_first_process_is_missing_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path());
    let mut command = nearkin();
    let port = free_port();
    place(&mut command, 1, 2, port);
    let output =
        command.args(["pretrain", recipe.to_str().unwrap(), "--timeout-seconds", "1"]).output();
    let said = String::from_utf8_lossy(&output.unwrap().stderr).into_owned();
    let expected = format!("cannot reach the first process at 127.0.0.1:{port} within 1 s");
    assert!(said.contains(&expected), "{said}");
}

/// A network namespace with an address, as a host of its own; removed at the end.
struct Host {
    name: String,
    link: String,
    address: String,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .map_err(|error| format!("ip {arguments}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Host {
    fn new(number: usize) -> Result<Self, String> {
        let id = std::process::id();
        let host = Self {
            name: format!("nearkin-{id}-{number}"),
            link: format!("nk{}-{number}", id % 100_000),
            address: format!("10.231.77.{}", number + 1),
        };
        ip(&format!("netns add {}", host.name))?;
        Ok(host)
    }

    fn pair() -> Result<[Self; 2], String> {
        let hosts = [Self::new(0)?, Self::new(1)?];
        ip(&format!("link add {} type veth peer name {}", hosts[0].link, hosts[1].link))?;
        for host in &hosts {
            let Self { name, link, address } = host;
            ip(&format!("link set {link} netns {name}"))?;
            ip(&format!("-n {name} addr add {address}/24 dev {link}"))?;
            ip(&format!("-n {name} link set {link} up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(hosts)
    }

    /// Process `rank` of two on this host.
    fn process(&self, rank: usize, master: &str, arguments: &[&str]) -> Child {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(assert_cmd::cargo::cargo_bin!("nearkin"))
            .args(arguments)
            .args(["--device", "cpu", "--threads", "1", "--quiet"])
            .args(["--timeout-seconds", &TIMEOUT_SECONDS.to_string()])
            .env("OMP_NUM_THREADS", "1")
            .env("RANK", rank.to_string())
            .env("LOCAL_RANK", "0")
            .env("WORLD_SIZE", "2")
            .env("MASTER_ADDR", master)
            .env("MASTER_PORT", "29511")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A leftover namespace has no part in anything.
        let _ = ip(&format!("netns del {}", self.name));
    }
}

#[test]
fn serial_two_hosts_train_together_until_the_link_between_them_is_cut() {
    let hosts = match Host::pair() {
        Ok(hosts) => hosts,
        Err(reason) => return println!("skipped: no network namespaces here ({reason})"),
    };
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path());
    let run = folder.path().join("run");
    let (recipe, out) = (recipe.to_str().unwrap(), run.to_str().unwrap());
    let arguments = ["pretrain", recipe, "--out", out, "--resume", "auto"];
    let start = |arguments: &[&str]| {
        [0, 1].map(|rank| hosts[rank].process(rank, &hosts[0].address, arguments))
    };
    let processes = start(&[&arguments[..], &["--epochs", "1000"]].concat());
    let begun = Instant::now();
    while last_step(&run) < 10 {
        assert!(begun.elapsed() < 2 * SLACK, "the hosts do not train");
        std::thread::sleep(Duration::from_millis(5));
    }
    ip(&format!("-n {} link set {} down", hosts[0].name, hosts[0].link)).unwrap();
    for (rank, process) in processes.into_iter().enumerate() {
        let output = ends_within(process, Duration::from_secs(TIMEOUT_SECONDS) + SLACK);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("host {rank}: {said}");
        assert!(!output.status.success());
        assert!(said.contains(&format!("lost process {}", 1 - rank)), "{said}");
    }
    let reached = last_step(&run);
    ip(&format!("-n {} link set {} up", hosts[0].name, hosts[0].link)).unwrap();
    for process in start(&[&arguments[..], &["--epochs", "1000"]].concat()) {
        // The second start goes on from a checkpoint; it need not run to the end.
        let mut process = process;
        let begun = Instant::now();
        while last_step(&run) < reached + 5 {
            assert!(begun.elapsed() < 2 * SLACK, "the hosts do not go on");
            std::thread::sleep(Duration::from_millis(5));
        }
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
