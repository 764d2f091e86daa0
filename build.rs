//! Compiles `kernels/*.cu` with nvcc where there is one, embeds the images, and writes the typed launchers.
//!
//! - `$OUT_DIR/launch.rs`: one Rust function for each `KERNEL(...)` line (`build/kernels.rs`).
//! - `$OUT_DIR/images.rs`: one image for each file; without nvcc a stub that names what is missing (`build/nvcc.rs`).
//! - `$OUT_DIR/ledger.tsv`: registers, shared memory and spills of each kernel, from ptxas.
//!
//! `GRAMOPHONE_CUDA=require` makes a missing nvcc an error, `=skip` does not look for one.

#[path = "build/kernels.rs"]
mod kernels;
#[path = "build/nvcc.rs"]
mod nvcc;

use std::path::{Path, PathBuf};
use std::{env, process};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(cuda_images)");
    for path in ["build.rs", "build", "kernels"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(message) = run(&root, &out) {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
        process::exit(1);
    }
}

fn run(root: &Path, out: &Path) -> Result<(), String> {
    let sources = kernels::sources(&root.join("kernels"))?;
    let launchers = kernels::launchers(&sources)?;
    nvcc::write(&out.join("launch.rs"), &launchers)?;
    nvcc::images(root, out, &sources, &|name| env::var_os(name))
}
