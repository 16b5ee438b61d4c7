//! Every command where something is missing that programs take for granted: a reader of the output, space
//! on the device, names in UTF-8, a home folder, a temporary folder, memory. None may panic.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with the tests of the command line")]
mod support;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use support::{Place, tiny_with};

/// A command line; every word with a `/` is a path below the folder of the test.
const COMMANDS: [&str; 22] = [
    "pretrain ./tiny.toml --out ./new --epochs 1 --device cpu --threads 1 --workers 0",
    "bench ./tiny.toml --steps 1 --device cpu --threads 1 --workers 0",
    "launch --nproc 2 -- pretrain ./tiny.toml --out ./new-of-two --epochs 1 --device cpu --threads 1",
    "eval knn ./run --device cpu",
    "eval linear ./run --device cpu --epochs 1",
    "eval semi ./run --device cpu --epochs 1 --preset plain --percent 50",
    "eval transfer ./run --device cpu --to ./photos",
    "eval quality ./run --device cpu",
    "eval all ./run --device cpu --only quality",
    "export ./run --format torchvision --out ./exported",
    "import ./weights.safetensors --backbone resnet18 --out ./imported.safetensors",
    "embed ./run ./photos --out ./embedded.npy --device cpu",
    "search ./features.npy --query 0",
    "dedupe ./features.npy --out ./groups.csv --keep-list ./kept.txt --force",
    "select ./features.npy --count 3 --method k-center --out ./selected.txt",
    "data inspect ./photos",
    "data preview ./tiny.toml --out ./sheet.png --images 2",
    "data pack ./photos ./photos.packed",
    "data get cifar10 --to ./downloads --from file:///no/such/archive",
    "methods",
    "recipe check ./tiny.toml",
    "recipe check ./tiny.toml --resolved",
];
/// It downloads, which it cannot do here.
const ALWAYS_FAILS: &str = "data get";
/// Its work is done before it prints.
const TRAINS: [&str; 2] = ["pretrain", "launch"];

/// A run of one step, images of two classes, features and weights.
fn place() -> Place {
    let place = Place::new();
    let images =
        tiny_with("train_images = 64\ntest_images = 20", "train_images = 16\ntest_images = 16");
    place.write("tiny.toml", images);
    for split in ["train", "test"] {
        place.images(&format!("photos/{split}/cats"), 6);
        place.images(&format!("photos/{split}/dogs"), 6);
    }
    place.pretrain("tiny.toml --out run --epochs 1 --quiet --workers 0").done();
    place.nearkin("embed run photos --out features.npy --device cpu").done();
    place.nearkin("export run --format torchvision --out weights").done();
    std::fs::rename(place.path("weights/model.safetensors"), place.path("weights.safetensors"))
        .unwrap();
    place
}

fn nearkin(place: &Place, words: impl IntoIterator<Item = OsString>) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("nearkin"));
    command
        .args(words)
        .current_dir(place.path("."))
        .env("OMP_NUM_THREADS", "1")
        .env("OMP_WAIT_POLICY", "passive")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null());
    command
}

fn words(line: &str) -> impl Iterator<Item = OsString> {
    line.split_whitespace().map(OsString::from)
}

/// Runs each command in a way of its own, and hands over how it ended, with what it said.
fn each(place: &Place, way: impl Fn(&str, &mut Command), check: impl Fn(&str, &Output, &str)) {
    for line in COMMANDS {
        for made in ["new", "new-of-two"] {
            let _ = std::fs::remove_dir_all(place.path(made));
        }
        let mut command = nearkin(place, words(line));
        way(line, &mut command);
        let output = command.output().unwrap();
        check(line, &output, &unpanicked(line, &output));
    }
}

/// What was said on standard error, which is no panic.
fn unpanicked(line: &str, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked") && !said.contains("internal error"), "{line}: {said}");
    assert!(!said.contains("frame #"), "{line}: {said}");
    assert!(output.status.code().is_some(), "{line}: {}: {said}", output.status);
    said
}

fn succeeds(line: &str, output: &Output, said: &str) {
    let fails = line.starts_with(ALWAYS_FAILS);
    assert_eq!(output.status.success(), !fails, "{line}: {}: {said}", output.status);
}

fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full_device() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn every_command_is_tried() {
    let place = Place::new();
    let listed = |words: &str| -> Vec<String> {
        let help = place.nearkin(&format!("{words} --help")).done();
        let commands = help.split("Commands:\n").nth(1).unwrap_or_default();
        let lines = commands.lines().take_while(|line| !line.is_empty());
        // Further lines of a description are indented more.
        let lines = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names = lines.filter_map(|line| line.split_whitespace().next());
        names.filter(|name| *name != "help").map(|name| format!("{words} {name}")).collect()
    };
    let mut missing = listed("");
    assert!(missing.len() > 10, "{missing:?}");
    for group in ["eval", "data", "recipe"] {
        missing.retain(|name| name.trim() != group);
        missing.extend(listed(group));
    }
    missing.retain(|name| !COMMANDS.iter().any(|line| line.starts_with(name.trim())));
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_reader_that_stops_reading_is_no_failure() {
    let place = place();
    each(
        &place,
        |_, command| {
            command.stdout(closed_pipe());
        },
        succeeds,
    );
    for line in ["--help", "pretrain --help", "--version"] {
        let output = nearkin(&place, words(line)).stdout(closed_pipe()).output().unwrap();
        succeeds(line, &output, &unpanicked(line, &output));
    }
}

#[test]
fn a_full_device_is_a_failure_but_for_a_run_that_is_trained() {
    let place = place();
    let check = |line: &str, output: &Output| {
        let said = unpanicked(line, output);
        let trains =
            TRAINS.iter().any(|begin| line.starts_with(begin)) && !line.ends_with("--help");
        if !line.starts_with(ALWAYS_FAILS) {
            assert!(said.contains("cannot write standard output: No space left"), "{line}: {said}");
            assert_eq!(output.status.code(), Some(i32::from(!trains)), "{line}: {said}");
        }
    };
    let full = |_: &str, command: &mut Command| {
        command.stdout(full_device());
    };
    each(&place, full, |line, output, _| check(line, output));
    for line in ["--help", "pretrain --help", "--version"] {
        check(line, &nearkin(&place, words(line)).stdout(full_device()).output().unwrap());
    }
}

#[test]
fn what_cannot_be_said_on_standard_error_stops_nothing() {
    let place = place();
    for stream in [closed_pipe, full_device] {
        each(
            &place,
            |_, command| {
                command.stderr(stream());
            },
            succeeds,
        );
        let refused =
            nearkin(&place, words("recipe check none")).stderr(stream()).output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
    }
}

#[test]
fn paths_that_are_not_utf_8_are_taken_or_refused() {
    let place = place();
    let odd = OsString::from_vec(b"od\xffd".to_vec());
    std::os::unix::fs::symlink(".", place.path(".").join(&odd)).unwrap();
    let inside = |word: OsString| match word.to_str() {
        Some(path) if path.starts_with("./") => {
            let mut inside = odd.clone();
            inside.push(&path[1..]);
            inside
        }
        _ => word,
    };
    for line in COMMANDS {
        // All paths of the command, then one after the other.
        let paths = words(line).filter(|word| word.to_str().unwrap().starts_with("./")).count();
        for chosen in [None].into_iter().chain((0..paths).map(Some)) {
            let _ = std::fs::remove_dir_all(place.path("new"));
            let _ = std::fs::remove_dir_all(place.path("new-of-two"));
            let mut number = 0;
            let changed = words(line).map(|word| {
                let is_path = word.to_str().unwrap().starts_with("./");
                number += usize::from(is_path);
                if is_path && chosen.is_none_or(|chosen| chosen + 1 == number) {
                    inside(word)
                } else {
                    word
                }
            });
            let output = nearkin(&place, changed).output().unwrap();
            let said = unpanicked(line, &output);
            succeeds(line, &output, &said);
        }
    }
    // A recipe keeps the place of its images as text.
    let mut words: Vec<OsString> = words("pretrain tiny.toml --out new --data").collect();
    words.push(inside("./photos".into()));
    let folder = Place::new();
    folder.write("tiny.toml", support::tiny_on("folder"));
    let output = nearkin(&folder, words).output().unwrap();
    let said = unpanicked("pretrain --data", &output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("UTF-8"), "{said}");
}

#[test]
fn no_home_and_no_temporary_folder_are_needed() {
    let place = place();
    each(
        &place,
        |_, command| {
            command.env_remove("HOME").env_remove("USER").env_remove("XDG_CACHE_HOME");
            command.env("TMPDIR", "/no/such/folder");
        },
        succeeds,
    );
}

/// Lets the program have no more than this of address space.
fn limit_memory(command: &mut Command, mebibytes: u64) {
    let limit = libc::rlimit { rlim_cur: mebibytes << 20, rlim_max: mebibytes << 20 };
    // SAFETY: the call is safe between fork and exec, and changes the child only.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_AS, &raw const limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// With less than this of address space, in MiB, libtorch cannot be loaded: that is said before the program
/// begins.
fn least_memory(place: &Place) -> u64 {
    let is_enough = |mebibytes: &u64| {
        let mut command = nearkin(place, words("methods"));
        limit_memory(&mut command, *mebibytes);
        command.output().unwrap().status.success()
    };
    (300..).step_by(20).find(is_enough).unwrap()
}

#[test]
fn too_little_memory_ends_in_an_error() {
    let place = place();
    let least = least_memory(&place);
    for mebibytes in [least, least + 10, least + 40, least + 100] {
        each(
            &place,
            |_, command| limit_memory(command, mebibytes),
            |line, output, said| {
                let code = output.status.code();
                assert!(matches!(code, Some(0..=2)), "{line}, {mebibytes} MiB: {code:?} {said}");
                let has_failed = code != Some(0);
                assert_eq!(has_failed, said.contains("error"), "{line}, {mebibytes} MiB: {said}");
            },
        );
    }
}

/// The numbers that its tensors are multiplied with must not hide what failed.
#[test]
fn a_step_that_gets_no_memory_ends_in_one_line() {
    let place = Place::new();
    let least = least_memory(&place);
    let line = "pretrain ./tiny.toml --out ./new --device cpu --threads 1 --workers 0 --quiet \
                --set model.base_width=192 --set evaluation.every_epochs=0";
    let mut failures = 0;
    for part in 0..12 {
        let _ = std::fs::remove_dir_all(place.path("new"));
        let mut command = nearkin(&place, words(line));
        limit_memory(&mut command, least + 60 * part);
        let output = command.output().unwrap();
        let said = unpanicked(line, &output);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}: {said}", output.status);
        if !output.status.success() {
            let is_said = said.contains("can't allocate memory") || said.contains("no memory left");
            assert!(is_said, "{said}");
            assert!(said.lines().count() <= 2 && said.len() < 1000, "{said}");
            failures += 1;
        }
    }
    assert!(failures > 3, "{failures}");
}
