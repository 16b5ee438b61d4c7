//! The build script of every crate that links libtorch: it writes libtorch's folder into the
//! binaries, so that they start without `LD_LIBRARY_PATH`. RUNPATH (not RPATH) is asked for, so that
//! `LD_LIBRARY_PATH` still wins and the same binary can run on another libtorch, one with CUDA say.

#![allow(clippy::print_stdout, reason = "a build script talks to Cargo on standard output")]

use std::path::PathBuf;

#[allow(dead_code, reason = "a module of the build script that compiles C++ as well")]
fn main() {
    link();
}

/// Gives libtorch's folder.
pub(crate) fn link() -> PathBuf {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let Some(libtorch) = std::env::var_os("LIBTORCH").map(PathBuf::from) else {
        fail("LIBTORCH is not set");
    };
    // A link's own time counts: pointing `.libtorch` elsewhere links the binaries anew.
    println!("cargo::rerun-if-changed={}", libtorch.display());
    let Ok(libraries) = libtorch.join("lib").canonicalize() else {
        fail(&format!("there is no {}/lib", libtorch.display()));
    };
    println!("cargo::rustc-link-arg=-Wl,--enable-new-dtags,-rpath,{}", libraries.display());
    libtorch
}

/// The headers of CUDA's runtime, as the wheel beside torch's brings them, if this libtorch has CUDA.
#[allow(dead_code, reason = "most crates have no C++ that knows of CUDA")]
pub(crate) fn cuda_headers(libtorch: &std::path::Path) -> Option<PathBuf> {
    if !libtorch.join("lib/libtorch_cuda.so").exists() {
        return None;
    }
    let headers = libtorch.canonicalize().ok()?.parent()?.join("nvidia/cu13/include");
    headers.join("cuda_runtime.h").exists().then_some(headers)
}

fn fail(reason: &str) -> ! {
    println!("cargo::error=libtorch was not found ({reason}); run scripts/setup first");
    std::process::exit(1)
}
