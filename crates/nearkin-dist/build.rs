//! Compiles the bridge to c10d against the libtorch that everything else links.

#![allow(clippy::print_stdout, reason = "a build script talks to Cargo on standard output")]

use std::path::{Path, PathBuf};

#[path = "../../build/libtorch.rs"]
mod libtorch;

const BRIDGE: &str = "src/bridge";

fn main() {
    let libtorch = libtorch::link();
    let include = libtorch.join("include");
    let mut build = cxx_build::bridge(format!("{BRIDGE}.rs"));
    build
        .file(format!("{BRIDGE}/bridge.cpp"))
        .std("c++20")
        .include(BRIDGE)
        .include("../../build")
        .define("USE_C10D_GLOO", None)
        // torch's own headers do not answer for warnings here.
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .debug(false);
    if let Some(headers) = nccl_headers(&libtorch) {
        build.define("NEARKIN_NCCL", None).define("USE_C10D_NCCL", None);
        for folder in headers {
            build.flag("-isystem").flag(folder);
        }
        println!("cargo::rustc-link-search=native={}", libtorch.join("lib").display());
        println!("cargo::rustc-link-lib=torch_cuda");
    }
    build.compile("nearkin-c10d");
    println!("cargo::rerun-if-changed={BRIDGE}");
    println!("cargo::rerun-if-changed=../../build/errors.hpp");
}

/// Headers of CUDA and NCCL, as the wheels beside torch's bring them, where this libtorch has NCCL.
fn nccl_headers(libtorch: &Path) -> Option<[PathBuf; 2]> {
    let cuda = libtorch::cuda_headers(libtorch)?;
    let nccl = libtorch.canonicalize().ok()?.parent()?.join("nvidia/nccl/include");
    nccl.join("nccl.h").exists().then_some([cuda, nccl])
}
