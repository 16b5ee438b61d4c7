//! Compiles what calls libtorch in C++ against the libtorch that everything else links.

#![allow(clippy::print_stdout, reason = "a build script talks to Cargo on standard output")]

#[path = "../../build/libtorch.rs"]
mod libtorch;

const BRIDGE: &str = "src/bridge";

fn main() {
    let libtorch = libtorch::link();
    let include = libtorch.join("include");
    let files = ["batch_norm", "device", "lists", "rows", "stream"];
    let mut build = cxx_build::bridges(["src/bridge.rs", "src/kernels.rs"]);
    build
        .files(files.map(|name| format!("{BRIDGE}/{name}.cpp")))
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
        .debug(false);
    if let Some(headers) = libtorch::cuda_headers(&libtorch) {
        build.define("NEARKIN_CUDA", None).flag("-isystem").flag(headers);
        println!("cargo::rustc-link-search=native={}", libtorch.join("lib").display());
        println!("cargo::rustc-link-lib=torch_cuda");
        println!("cargo::rustc-link-lib=c10_cuda");
    }
    build.compile("nearkin-torch-bridge");
    println!("cargo::rerun-if-changed={BRIDGE}");
    println!("cargo::rerun-if-changed=../../build/errors.hpp");
}
