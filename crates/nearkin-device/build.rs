//! Compiles the bridge to libtorch's switches against the libtorch that everything else links.

#[path = "../../build/libtorch.rs"]
mod libtorch;

const BRIDGE: &str = "src/bridge";

fn main() {
    let include = libtorch::link().join("include");
    cxx_build::bridge(format!("{BRIDGE}.rs"))
        .file(format!("{BRIDGE}/bridge.cpp"))
        .std("c++20")
        .include(BRIDGE)
        .include("../../build")
        // torch's own headers do not answer for warnings here.
        .flag("-isystem")
        .flag(&include)
        .debug(false)
        .compile("nearkin-device-bridge");
    println!("cargo::rerun-if-changed={BRIDGE}");
    println!("cargo::rerun-if-changed=../../build/errors.hpp");
}
