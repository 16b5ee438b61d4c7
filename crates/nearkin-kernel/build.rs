//! Compiles the kernels against the libtorch that everything else links.

#![allow(clippy::print_stdout, reason = "a build script talks to Cargo on standard output")]

#[path = "../../build/libtorch.rs"]
mod libtorch;

const BRIDGE: &str = "src/bridge";

fn main() {
    let include = libtorch::link().join("include");
    cxx_build::bridge(format!("{BRIDGE}.rs"))
        .file(format!("{BRIDGE}/batch_norm.cpp"))
        .file(format!("{BRIDGE}/lists.cpp"))
        .file(format!("{BRIDGE}/rows.cpp"))
        .std("c++20")
        .include(BRIDGE)
        .include("../../build")
        .opt_level(3)
        // Neither traps nor errno are read: with them loops with a condition would not be vectors.
        .flag("-fno-trapping-math")
        .flag("-fno-math-errno")
        // torch's own headers do not answer for warnings here.
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        // Seen in torch's own small vector once it is inlined here.
        .flag_if_supported("-Wno-maybe-uninitialized")
        .debug(false)
        .compile("nearkin-kernel-bridge");
    println!("cargo::rerun-if-changed={BRIDGE}");
    println!("cargo::rerun-if-changed=../../build/errors.hpp");
}
