//! How fast the emulated GPU is, on one core: `cargo run --release -p gramophone-emu --example speed`.

use std::time::Instant;

#[path = "../tests/device/mod.rs"]
mod device;

use device::{Device, blocks, tensor_map};
use gramophone_emu::{Settings, statistics};

/// Seconds of the fastest of three runs.
fn fastest(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    const N: usize = 512;
    let flop = 2.0 * (N * N * N) as f64;
    for (flavour, settings) in [("fast", Settings::fast()), ("checked", Settings::checked(0))] {
        let d = Device::new(settings);
        let (a, b) = (d.put(&vec![0x3f80u16; N * N]), d.put(&vec![0x3f80u16; N * N]));
        let c = d.alloc(N * N * 4);
        let mma = d.function("legal_multiply_mma");
        let size = N as i32;
        let blocks64 = (N / 64) as u32;
        let t = fastest(|| {
            let arguments = args!(c, a, b, size, size, size);
            d.run_grid(mma, (blocks64, blocks64, 1), (128, 1, 1), 0, arguments).unwrap();
        });
        println!("{flavour}: mma.sync product {N}^3: {:.2} GFLOP/s", flop / t * 1e-9);

        let map = |p, rows: u32| tensor_map(p, N as u64, N as u64, rows, 64).unwrap();
        let wgmma = d.function("legal_multiply_nt");
        let maps = (map(c, 128), map(a, 128), map(b, 64));
        let t = fastest(|| {
            let arguments = args!(maps.0, maps.1, maps.2, size);
            d.run_grid(wgmma, (blocks64, blocks64 / 2, 1), (384, 1, 1), 112 << 10, arguments).unwrap();
        });
        println!("{flavour}: wgmma product {N}^3: {:.2} GFLOP/s", flop / t * 1e-9);

        let (rows, columns) = (1024, 1024);
        let x = d.put(&vec![1f32; rows * columns]);
        let y = d.alloc(rows * columns * 4);
        let t = fastest(|| d.run("legal_scale", blocks(rows as u32, 128), args!(y, x, columns as i32, 2f32)).unwrap());
        println!("{flavour}: elementwise: {:.1} million elements/s", (rows * columns) as f64 / t * 1e-6);

        let before = statistics(d.ordinal).switches;
        let t = fastest(|| d.run("legal_block_sum", blocks(rows as u32, 256), args!(y, x, columns as i32)).unwrap());
        let switches = (statistics(d.ordinal).switches - before) / 3;
        println!(
            "{flavour}: block sums: {:.1} million elements/s, {:.0} ns a switch",
            (rows * columns) as f64 / t * 1e-6,
            t / switches as f64 * 1e9
        );
        let t = fastest(|| {
            for _ in 0..1000 {
                d.run("legal_scale", blocks(1, 128), args!(y, x, 128i32, 2f32)).unwrap();
            }
        });
        println!("{flavour}: a launch of 128 threads: {:.1} us", t * 1e3);
    }
}
