//! Compiles the bridge to libtorch's switches against the libtorch that everything else links.

#![allow(clippy::print_stdout, reason = "a build script talks to Cargo on standard output")]

#[path = "../../build/libtorch.rs"]
mod libtorch;

const BRIDGE: &str = "src/bridge";

fn main() {
    let libtorch = libtorch::link();
    let mut build = cxx_build::bridge(format!("{BRIDGE}.rs"));
    build
        .file(format!("{BRIDGE}/bridge.cpp"))
        .file(format!("{BRIDGE}/stream.cpp"))
        .std("c++20")
        .include(BRIDGE)
        .include("../../build")
        // torch's own headers do not answer for warnings here.
        .flag("-isystem")
        .flag(libtorch.join("include"))
        .debug(false);
    if let Some(headers) = libtorch::cuda_headers(&libtorch) {
        build.define("NEARKIN_CUDA", None).flag("-isystem").flag(headers);
        println!("cargo::rustc-link-search=native={}", libtorch.join("lib").display());
        println!("cargo::rustc-link-lib=torch_cuda");
        println!("cargo::rustc-link-lib=c10_cuda");
    }
    build.compile("nearkin-device-bridge");
    println!("cargo::rerun-if-changed={BRIDGE}");
    println!("cargo::rerun-if-changed=../../build/errors.hpp");
}
