//! Widths of wgmma, swizzles of tiles and boxes: right numbers under every setting; and what is not emulated says so by name.

mod device;

use std::io::Write;
use std::process::{Command, Stdio};

use cudarc::driver::sys;
use device::{Device, Launch, swizzled_map};
use gramophone_emu::Settings;
use sys::CUtensorMapSwizzle_enum as Swizzle;

fn all_settings() -> impl Iterator<Item = Settings> {
    let fast = (0..4).map(|seed| Settings { seed, ..Settings::fast() });
    fast.chain((0..4).map(Settings::checked))
}

/// Small whole numbers in bf16: their products and sums are exact.
fn whole(n: usize, salt: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7 + i / 13 + salt) % 9) as f32 - 4.0).collect()
}
fn bf16(x: &[f32]) -> Vec<u16> {
    x.iter().map(|x| (x.to_bits() >> 16) as u16).collect()
}

#[test]
fn every_width_and_every_layout_of_operands() {
    for settings in all_settings() {
        let d = Device::new(settings.clone());
        for (n, width) in
            [(32, 128), (64, 128), (96, 128), (128, 128), (192, 128), (256, 128), (96, 64), (96, 32), (96, 0)]
        {
            let k = if width == 0 { 32 } else { width / 2 };
            let (a, b) = (whole(64 * k, 1), whole(n * k, 2));
            let (y, a_there, b_there) = (d.alloc(64 * n * 4), d.put(&bf16(&a)), d.put(&bf16(&b)));
            let dynamic = ((64 + n) * k * 2) as u32;
            let name = format!("legal_wgmma_{n}_{width}");
            d.run(&name, Launch { grid: 1, threads: 128, dynamic }, args!(y, a_there, b_there)).unwrap();
            let dot = |e: usize| (0..k).map(|l| a[e / n * k + l] * b[e % n * k + l]).sum::<f32>();
            let want: Vec<f32> = (0..64 * n).map(dot).collect();
            assert!(d.get::<f32>(y, 64 * n).unwrap() == want, "{name} {settings:?}");
        }
    }
}

#[test]
fn boxes_of_every_swizzle() {
    for settings in all_settings() {
        let d = Device::new(settings);
        let x: Vec<u16> = (0..16 * 64).collect();
        let x_there = d.put(&x);
        for (width, swizzle) in [
            (128usize, Swizzle::CU_TENSOR_MAP_SWIZZLE_128B),
            (64, Swizzle::CU_TENSOR_MAP_SWIZZLE_64B),
            (32, Swizzle::CU_TENSOR_MAP_SWIZZLE_32B),
        ] {
            let map = swizzled_map(x_there, 16, 64, 16, width as u32 / 2, swizzle).unwrap();
            let y = d.alloc(16 * width);
            let shape = Launch { grid: 1, threads: 32, dynamic: 16 * width as u32 };
            d.run(&format!("legal_box_{width}"), shape, args!(y, map)).unwrap();
            let want: Vec<u16> = x.chunks(64).flat_map(|row| &row[..width / 2]).copied().collect();
            assert_eq!(d.get::<u16>(y, 8 * width).unwrap(), want, "{width} bytes");
        }
        // A row that is longer than its swizzle.
        assert!(swizzled_map(x_there, 16, 64, 16, 64, Swizzle::CU_TENSOR_MAP_SWIZZLE_64B).is_err());
    }
}

#[test]
fn what_is_not_emulated_is_refused_by_name() {
    for settings in [Settings::fast(), Settings::checked(0)] {
        let run = |name: &str, threads: u32, arguments: &dyn Fn(&Device) -> device::Arguments, words: &[&str]| {
            let d = Device::new(settings.clone());
            let report = d.run(name, Launch { grid: 1, threads, dynamic: 16 << 10 }, arguments(&d)).expect_err(name);
            let source = include_str!("kernels/layouts_sm90.cu");
            let line = source.lines().position(|l| l.ends_with(&format!("// FOUND {name}"))).unwrap() + 1;
            for word in words.iter().map(|w| w.to_string()).chain([format!("layouts_sm90.cu:{line}:")]) {
                assert!(report.contains(&word), "{name}: no {word:?} in {report}");
            }
        };
        let map = |d: &Device| {
            swizzled_map(d.zeros(16 * 64 * 2), 16, 64, 16, 32, Swizzle::CU_TENSOR_MAP_SWIZZLE_64B).unwrap()
        };
        run(
            "planted_misaligned_swizzle",
            32,
            &|d| args!(d.zeros(128), map(d)),
            &["MISALIGNED", "64-byte", "512 bytes"],
        );
        run("planted_other_width", 128, &|d| args!(d.zeros(512)), &["n is 40", "wgmma.cuh"]);
        run("planted_copy_of_eight", 32, &|d| args!(d.zeros(128), d.zeros(256)), &["4 or 16 bytes, not 8"]);
    }
}

/// Clusters: a launch with attributes.
#[test]
fn a_launch_of_clusters_is_refused() {
    let d = Device::new(Settings::fast());
    // SAFETY: plain data; a cluster of two blocks.
    let (mut attribute, mut launch): (sys::CUlaunchAttribute, sys::CUlaunchConfig) = unsafe { std::mem::zeroed() };
    attribute.id = sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    (launch.gridDimX, launch.gridDimY, launch.gridDimZ) = (2, 1, 1);
    (launch.blockDimX, launch.blockDimY, launch.blockDimZ) = (32, 1, 1);
    (launch.attrs, launch.numAttrs) = (&mut attribute, 1);
    // SAFETY: the configuration lives through the call, which must refuse it.
    let status = unsafe {
        sys::cuLaunchKernelEx(&launch, d.function("legal_box_32"), std::ptr::null_mut(), std::ptr::null_mut())
    };
    assert_eq!(status, sys::CUresult::CUDA_ERROR_NOT_SUPPORTED);
}

/// Words of CUDA that kernels cannot use here do not compile, and the compiler's message says why.
#[test]
fn words_that_are_not_emulated_do_not_compile() {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let includes = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
    for (code, why) in [
        ("void f(__nv_fp8_e4m3 x) {}", "has_no_8_bit_floats"),
        ("__nv_fp8_e5m2 x;", "has_no_8_bit_floats"),
        ("__cluster_dims__(2, 1, 1) void f() {}", "has_no_clusters"),
        ("void f() { __shared__ float x[3]; }", "shared_memory_is_declared_with_SHARED"),
    ] {
        let mut command = Command::new(&compiler);
        command.args(["-std=c++20", "-fsyntax-only", "-I", includes, "-x", "c++", "-"]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let text = format!("#include \"emulated.h\"\n{code}\n");
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains(why), "{code}: {said}");
    }
}
