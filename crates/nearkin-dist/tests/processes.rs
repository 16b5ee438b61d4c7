//! Collective operations between real processes, and what they say when one is lost.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a process prints is what the test reads")]

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use nearkin_dist::testing::{free_port, join, place, together};
use nearkin_dist::{DistError, Processes, World};
use tch::{Device, Kind, Tensor};

/// Rows that differ between processes.
fn rows(rank: usize) -> Tensor {
    Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0]).reshape([2, 2]) * (rank + 1) as f64
}

fn in_two_and_three(test: &str, body: impl Fn(&Processes)) {
    for size in [2, 3] {
        if let Some(world) = together(test, size) {
            return body(&world);
        }
    }
}

#[test]
fn sums_rows_and_messages_are_everywhere() {
    in_two_and_three("sums_rows_and_messages_are_everywhere", |world| {
        let (rank, size) = (world.rank(), world.size());
        let all = Tensor::cat(&(0..size).map(rows).collect::<Vec<_>>(), 0);
        let total = (1..=size).sum::<usize>() as f64;
        for kind in [Kind::Double, Kind::Float, Kind::BFloat16, Kind::Int64] {
            let mut sum = rows(rank).to_kind(kind);
            world.sum(&mut sum).unwrap();
            assert_eq!(sum, (rows(0) * total).to_kind(kind));
            assert_eq!(world.gather(&rows(rank).to_kind(kind)).unwrap(), all.to_kind(kind));
        }
        // Not contiguous.
        let mut sum = rows(rank).tr();
        world.sum(&mut sum).unwrap();
        assert_eq!(sum, rows(0).tr() * total);
        let mut first = rows(rank);
        world.broadcast(&mut first).unwrap();
        assert_eq!(first, rows(0));
        for name in ["first", "second"] {
            let said = world.share(name, format!("{name} of {rank}").as_bytes()).unwrap();
            let expected: Vec<_> =
                (0..size).map(|rank| format!("{name} of {rank}").into_bytes()).collect();
            assert_eq!(said, expected);
        }
    });
}

/// A loss that needs every process's rows: the gradients are those of one process that has all rows.
#[test]
fn gradients_flow_between_processes() {
    in_two_and_three("gradients_flow_between_processes", |world| {
        let (rank, size) = (world.rank(), world.size());
        let loss = |mine: &Tensor, all: &Tensor, sum: &Tensor| {
            let similar = mine.matmul(&all.tr()).tanh().sum(Kind::Double);
            similar + (sum * mine.sum(Kind::Double)).sin().sum(Kind::Double)
        };
        let mine = (rows(rank) * 0.1).set_requires_grad(true);
        let column = |rows: &Tensor| rows.sum_dim_intlist([0].as_slice(), false, Kind::Double);
        let all = world.gather(&mine).unwrap();
        let sum = world.differentiable_sum(&column(&mine)).unwrap();
        loss(&mine, &all, &sum).backward();

        let everything = Tensor::cat(&(0..size).map(rows).collect::<Vec<_>>(), 0) * 0.1;
        let everything = everything.set_requires_grad(true);
        let sum = column(&everything);
        let parts = (0..size)
            .map(|rank| loss(&everything.narrow(0, 2 * rank as i64, 2), &everything, &sum));
        parts.reduce(|one, other| one + other).unwrap().backward();
        let expected = everything.grad().narrow(0, 2 * rank as i64, 2);
        assert!(mine.grad().allclose(&expected, 1e-12, 1e-12, false), "{}", mine.grad());
    });
}

#[test]
fn the_reducer_averages_what_was_accumulated() {
    in_two_and_three("the_reducer_averages_what_was_accumulated", |world| {
        let (rank, size) = (world.rank() as f64, world.size());
        let parameter = |length: i64| {
            Tensor::ones([length], (Kind::Double, Device::Cpu)).set_requires_grad(true)
        };
        // Several buckets, and a parameter that is used twice.
        let parameters = [parameter(3), parameter(200_000), parameter(150_000), parameter(2)];
        let reducer = world.reducer(&parameters).unwrap();
        for step in 0..3 {
            for batch in 0..2 {
                let weights = parameters.iter().enumerate();
                let loss = weights.map(|(index, parameter)| {
                    (parameter * (rank + index as f64 + f64::from(step))).sum(Kind::Double)
                        + parameter.square().sum(Kind::Double)
                });
                let loss = loss.reduce(|one, other| one + other).unwrap();
                if batch == 1 {
                    reducer.before_backward().unwrap();
                }
                loss.backward();
            }
            reducer.after_backward().unwrap();
            let mean_rank = (size - 1) as f64 / 2.0;
            for (index, parameter) in parameters.iter().enumerate() {
                let expected = 2.0 * (mean_rank + index as f64 + f64::from(step) + 2.0);
                let apart = (parameter.grad() - expected).abs().max().double_value(&[]);
                assert!(apart < 1e-12, "step {step}, parameter {index}: {apart}");
                let _ = parameter.grad().zero_();
            }
        }
    });
}

/// Its bucket would never be exchanged, and every process would train by itself.
#[test]
fn a_parameter_that_the_loss_does_not_reach_is_an_error() {
    if let Some(world) = together("a_parameter_that_the_loss_does_not_reach_is_an_error", 2) {
        let parameter = || Tensor::ones([3], tch::kind::DOUBLE_CPU).set_requires_grad(true);
        let (used, unused) = (parameter(), parameter());
        let both = [used.shallow_clone(), unused];
        let reducer = world.reducer(&both).unwrap();
        reducer.before_backward().unwrap();
        used.sum(Kind::Double).backward();
        let error = reducer.after_backward().unwrap_err().to_string();
        assert!(error.contains("does not reach every trained parameter"), "{error}");
    }
}

#[test]
fn a_number_that_is_taken_is_refused() {
    if let Some(world) = together("a_number_that_is_taken_is_refused", 2) {
        if world.rank() == 1 {
            let again = join(Duration::from_secs(20)).err().unwrap();
            assert!(matches!(again, DistError::Again { rank: 1, size: 2 }), "{again}");
        }
        // The store is there until then.
        world.share("done", b"").unwrap();
    }
}

#[test]
fn what_one_process_says_of_its_failure_is_the_error_of_the_others() {
    in_two_and_three("what_one_process_says_of_its_failure_is_the_error_of_the_others", |world| {
        if world.rank() == 1 {
            return world.fail("the disk is full");
        }
        let begun = Instant::now();
        let error = world.share("never said by all", b"").unwrap_err();
        assert!(matches!(&error, DistError::Elsewhere { .. }));
        let expected = format!("process 1 of {} failed: the disk is full", world.size());
        assert_eq!(error.to_string(), expected);
        assert!(begun.elapsed() < Duration::from_secs(30));
    });
}

#[test]
fn a_process_that_dies_is_named() {
    if let Some(world) = together("a_process_that_dies_is_named", 3) {
        world.report("step 7");
        // Everybody has given a sign of life from there.
        std::thread::sleep(Duration::from_millis(1500));
        let mut one = Tensor::ones([1], tch::kind::FLOAT_CPU);
        world.sum(&mut one).unwrap();
        if world.rank() == 1 {
            // Ends without a word, but well enough for the test.
            println!("test result: ok. 1 passed");
            std::process::exit(0);
        }
        let error = world.sum(&mut one).unwrap_err();
        let explained = world.explain(&error.to_string()).unwrap();
        assert!(explained.starts_with("lost process 1 (last step 7)"), "{explained}");
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// What process `rank` of two says that cannot join the other; `None` in that process.
fn refusal(test: &str, rank: usize, address: &str, port: u16) -> Option<String> {
    if std::env::var("NEARKIN_TEST").is_ok_and(|running| running == test) {
        let error = join(Duration::from_secs(2)).err().unwrap();
        println!("{error}");
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    place(&mut command, rank, 2, port);
    command.env("MASTER_ADDR", address);
    command.args([test, "--exact", "--nocapture"]).env("NEARKIN_TEST", test);
    let output = command.output().unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn an_unreachable_first_process_is_named_in_time() {
    let port = free_port();
    let test = "an_unreachable_first_process_is_named_in_time";
    if let Some(said) = refusal(test, 1, "127.0.0.1", port) {
        let expected =
            format!("process 1 of 2 cannot reach the first process at 127.0.0.1:{port} within 2 s");
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn a_host_that_cannot_be_resolved_is_named() {
    let test = "a_host_that_cannot_be_resolved_is_named";
    for rank in [0, 1] {
        let Some(said) = refusal(test, rank, "no-such-host.invalid", free_port()) else { return };
        let expected =
            "cannot resolve \"no-such-host.invalid\", the host of process 0 (MASTER_ADDR";
        assert!(said.contains(expected) && !said.contains("frame #"), "{said}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    if let Some(said) = refusal("a_port_in_use_is_named", 0, "127.0.0.1", port) {
        let expected =
            format!("process 0 cannot listen on 127.0.0.1, port {port}: Address already");
        assert!(said.contains(&expected), "{said}");
    }
}

/// Addresses, as the system writes them, at which this process waits for connections.
fn listening() -> Vec<String> {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let sockets: Vec<String> = links
        .filter_map(|link| {
            Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').into())
        })
        .collect();
    let mut found = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        for line in std::fs::read_to_string(table).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else { continue };
            if state == "0A" && sockets.iter().any(|socket| socket == inode) {
                found.push(local.to_owned());
            }
        }
    }
    found
}

/// Nobody outside of this host has a way in: neither the store nor Gloo asks who calls.
#[test]
fn on_a_loopback_address_nothing_listens_to_the_network() {
    if let Some(world) = together("on_a_loopback_address_nothing_listens_to_the_network", 2) {
        let listening = listening();
        assert!(!listening.is_empty());
        for address in listening {
            assert!(address.starts_with("0100007F:"), "process {}: {address}", world.rank());
        }
        world.share("both have looked", b"").unwrap();
    }
}

#[test]
fn processes_agree_on_the_largest_number() {
    in_two_and_three("processes_agree_on_the_largest_number", |world| {
        let rank = world.rank() as i64;
        assert_eq!(world.maximum(10 * rank).unwrap(), 10 * (world.size() as i64 - 1));
        assert_eq!(world.maximum(-rank).unwrap(), 0);
    });
}

#[test]
fn all_processes_hear_that_one_was_asked_to_stop() {
    in_two_and_three("all_processes_hear_that_one_was_asked_to_stop", |world| {
        assert_eq!(world.asked_to_stop(), None);
        world.share("nobody was asked yet", b"").unwrap();
        if world.rank() == 1 {
            world.ask_to_stop(15);
        }
        let begun = Instant::now();
        while world.asked_to_stop() != Some(15) {
            assert!(begun.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(10));
        }
        // The store is there until all have heard.
        world.share("all have heard", b"").unwrap();
    });
}
