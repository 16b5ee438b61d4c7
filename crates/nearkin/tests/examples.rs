//! The programs in the folder `examples`, run as a user runs them.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::path::PathBuf;
use std::process::Command;

use support::{Place, TINY};

/// Cargo builds examples with the tests, in a folder beside theirs.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test is a file");
    let folder = test.ancestors().nth(2).expect("a test lies in a folder of the build");
    let program = folder.join("examples").join(name);
    assert!(program.exists(), "{} is not built: cargo build --examples", program.display());
    program
}

/// What the example says when it runs in the place.
fn said(place: &Place, name: &str, arguments: &str) -> String {
    let output = Command::new(example(name))
        .args(arguments.split(' '))
        .current_dir(place.path(""))
        .env("OMP_NUM_THREADS", "1")
        .output()
        .expect("the program starts");
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {said}{errors}");
    said.into_owned()
}

#[test]
fn a_run_of_the_library_is_one_that_the_other_examples_and_commands_read() {
    let place = Place::new();
    let trained = said(&place, "train_recipe", "tiny.toml run");
    let epochs = trained.lines().filter(|line| line.starts_with("epoch ")).count();
    assert_eq!(epochs, 2, "{trained}");
    assert!(trained.contains("report: run/report.html"), "{trained}");

    let found = said(&place, "embed_and_search", "run");
    let similar = found.lines().filter(|line| line.starts_with("    "));
    let similar: Vec<&str> = similar.collect();
    assert_eq!((similar.len(), found.lines().count()), (12, 15), "{found}");

    let evaluated = place.nearkin("eval knn run --device cpu").done();
    assert!(evaluated.contains("top-1"), "{evaluated}");
}

#[test]
fn the_weights_of_a_loop_of_ones_own_are_evaluated() {
    let place = Place::new();
    place.write("longer.toml", TINY.replace("epochs = 2", "epochs = 4"));
    let trained = said(&place, "custom_loop", "longer.toml encoder.safetensors");
    assert!(trained.contains("step 10: loss "), "{trained}");
    let evaluated =
        place.nearkin("eval knn encoder.safetensors --recipe longer.toml --device cpu").done();
    assert!(evaluated.contains("top-1"), "{evaluated}");
}
