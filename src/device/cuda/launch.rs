//! Typed launchers, one for each `KERNEL` line of `kernels/*.cu`, written by `build.rs`. Only `ops` calls them.

// A kernel's operands are its arguments.
#![allow(clippy::too_many_arguments, dead_code)]

#[allow(unused_imports)] // Only kernels of TMA take a map.
use super::{Gpu, TensorMap};
use crate::base::dtype::Dtype;
use crate::device::View;
use std::ffi::c_void;

/// How many blocks a launch has, and how much dynamic shared memory each gets. The block size is the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub x: u32,
    pub y: u32,
    pub z: u32,
    pub shared: u32,
}

impl Grid {
    pub fn new(x: usize, y: usize, z: usize) -> Grid {
        let fit = |n: usize, limit: u32, axis: &str| {
            let n = u32::try_from(n).unwrap_or(u32::MAX);
            assert!(n <= limit, "a grid of {n} blocks along {axis}");
            n
        };
        Grid { x: fit(x, i32::MAX as u32, "x"), y: fit(y, 65535, "y"), z: fit(z, 65535, "z"), shared: 0 }
    }
    /// One block for each of `n` rows.
    pub fn rows(n: usize) -> Grid {
        Grid::new(n, 1, 1)
    }
    /// Blocks of `each` items that cover `n`.
    pub fn cover(n: usize, each: usize) -> Grid {
        Grid::new(n.div_ceil(each), 1, 1)
    }
    /// With so many bytes of dynamic shared memory.
    pub fn shared(self, bytes: usize) -> Grid {
        Grid { shared: u32::try_from(bytes).unwrap_or(u32::MAX), ..self }
    }
}

/// A kernel as `build.rs` found it.
pub struct Kernel {
    pub name: &'static str,
    /// Index of its file among the images.
    pub image: usize,
    /// Threads of a block.
    pub threads: u32,
}

fn pointer<T>(value: &T) -> *mut c_void {
    (value as *const T).cast_mut().cast()
}

fn start(gpu: &Gpu, number: usize, grid: Grid, arguments: &mut [*mut c_void]) {
    #[cfg(test)]
    launched::note(KERNELS[number].name, grid);
    gpu.launch(number, grid, arguments);
}

include!(concat!(env!("OUT_DIR"), "/launch.rs"));

/// Which kernels the tests of the ops launch: a kernel without a case must not pass unseen (`.ci/run` compares).
#[cfg(test)]
mod launched {
    use super::Grid;
    use std::collections::BTreeSet;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::Mutex;

    static NAMES: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

    /// Adds a kernel's name to the file that `GRAMOPHONE_LAUNCHED` names when a test of the ops launches it first.
    pub fn note(kernel: &'static str, grid: Grid) {
        let Some(path) = std::env::var_os("GRAMOPHONE_LAUNCHED") else { return };
        // A test's thread has its name; a run on one thread alone has them all in `main`.
        let thread = std::thread::current();
        let of_ops = thread.name().is_some_and(|name| name.starts_with("ops::") || name == "main");
        let empty = grid.x == 0 || grid.y == 0 || grid.z == 0;
        if !of_ops || empty || !NAMES.lock().unwrap().insert(kernel) {
            return;
        }
        let mut file =
            OpenOptions::new().create(true).append(true).open(&path).expect("the file of GRAMOPHONE_LAUNCHED");
        file.write_all(format!("{kernel}\n").as_bytes()).expect("a name");
    }
}
