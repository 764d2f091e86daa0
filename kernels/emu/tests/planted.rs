//! Every planted bug is found, at its line, with kernel, block and thread; and the device says so from then on.

mod device;

use std::ptr::null_mut;

use cudarc::driver::{result, sys};
use device::{Arguments, Device, Launch, blocks, tensor_map};
use gramophone_emu::{Settings, last_error};

/// The report for a bug in kernel `name`: it must name the kernel, a block and a thread, contain `text`, and point at the line that
/// the source marks with `FOUND name`; of a race, either end may be marked, since the schedule says which one comes last.
fn assert_report(report: &str, file: &str, name: &str, text: &str) {
    let source = std::fs::read_to_string(format!("{}/tests/kernels/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mark = format!("// FOUND {name}");
    let marked = |(i, line): (usize, &str)| line.trim_end().ends_with(&mark).then_some(format!("{file}:{}:", i + 1));
    let places: Vec<String> = source.lines().enumerate().filter_map(marked).collect();
    assert!(!places.is_empty(), "{file} marks nothing for {name}");
    assert!(places.iter().any(|place| report.contains(place)), "{name}: none of {places:?} in\n{report}");
    assert!(report.contains(text), "{name}: no {text:?} in\n{report}");
    assert!(report.contains(&format!("kernel {name}")) && report.contains("block ("), "{name}: where? {report}");
    // A deadlock is of all threads; it lists who waits for what.
    assert!(report.contains("DEADLOCK") || report.contains("thread ("), "{name}: which thread? {report}");
}

/// Launches on a device and requires the report.
fn find(d: &Device, file: &str, name: &str, shape: Launch, arguments: Arguments, text: &str) {
    let report = d.run(name, shape, arguments).expect_err(name);
    assert_report(&report, file, name, text);
    assert_eq!(report, last_error(d.ordinal), "{name}");
    assert_eq!(d.synchronize().expect_err(name), report, "{name}: the error is sticky");
}

/// Seeds under which every bug must be found by the checker: it does not depend on the schedule.
const SEEDS: [u64; 3] = [0, 2, 5];

#[test]
fn portable_bugs_are_found() {
    let one = |threads| blocks(1, threads);
    for seed in SEEDS {
        let find = |name: &str, shape: Launch, arguments: &dyn Fn(&Device) -> Arguments, text: &str| {
            let d = Device::new(Settings::checked(seed));
            let arguments = arguments(&d);
            find(&d, "planted.cu", name, shape, arguments, text);
        };
        let floats = |d: &Device| d.put(&[1f32; 512]);
        let y_x = |d: &Device| args!(floats(d), floats(d));
        let y = |d: &Device| args!(floats(d));
        find("planted_missing_barrier", one(128), &y_x, "RACE");
        find("planted_lockstep", one(32), &y_x, "RACE");
        find("planted_missing_second_barrier", one(128), &y_x, "RACE");
        find("planted_early_wait", one(32), &y_x, "by a cp.async of thread");
        find("planted_foreign_copy", one(64), &y_x, "RACE");
        find("planted_unwaited_copy", one(32), &y_x, "never waited for");
        find("planted_global_overrun", one(32), &|d| args!(floats(d), floats(d), 512i32), "OUT OF BOUNDS");
        find("planted_far_overrun", one(32), &|d| args!(floats(d), floats(d), 512i32), "OUT OF BOUNDS");
        find("planted_null", one(32), &|d| args!(floats(d), 0u64), "illegal address");
        find("planted_shared_overrun", one(32), &y_x, "past the end of shared array s");
        find("planted_dynamic_overrun", Launch { grid: 1, threads: 32, dynamic: 64 }, &y_x, "dynamic shared memory");
        find("planted_misaligned", one(32), &y_x, "MISALIGNED");
        find("planted_misaligned_copy", one(32), &y_x, "MISALIGNED");
        find("planted_misaligned_rows", one(32), &y_x, "MISALIGNED ldmatrix");
        find("planted_uninitialised_shared", one(32), &y, "UNINITIALISED");
        find("planted_uninitialised_global", one(32), &|d| args!(floats(d), d.alloc(128)), "UNINITIALISED");
        find("planted_divergent_barrier", one(64), &y, "DIVERGENT BARRIER");
        find("planted_barrier_after_exit", one(64), &y, "left the kernel");
        find("planted_deadlock", one(64), &y, "DEADLOCK");
        find("planted_divergent_warp", one(32), &y, "WARP DIVERGENCE");
        find("planted_shuffle_outside", one(32), &y, "not in the mask");
        find("planted_block_race", blocks(2, 32), &y, "of the same launch");
        let sum = |d: &Device| args!(floats(d), floats(d), d.zeros(4));
        find("planted_unfenced_sum", blocks(3, 32), &sum, "RACE");
        find("planted_atomic_race", one(64), &y, "RACE");
        find("planted_byte_race", one(32), &y, "RACE");
        find("planted_local_overrun", one(32), &|d| args!(floats(d), 4i32), "array index 4");
        find("planted_assertion", one(32), &|d| args!(floats(d), 40i32), "n > 40");
    }
}

#[test]
fn hopper_bugs_are_found() {
    for seed in SEEDS {
        let find = |name: &str, threads: u32, arguments: &dyn Fn(&Device) -> Arguments, text: &str| {
            let d = Device::new(Settings::checked(seed));
            let arguments = arguments(&d);
            find(&d, "planted_sm90.cu", name, Launch { grid: 1, threads, dynamic: 16 << 10 }, arguments, text);
        };
        let map = |d: &Device| tensor_map(d.zeros(64 * 64 * 2), 64, 64, 64, 64).unwrap();
        let y_x = |d: &Device| args!(d.zeros(128), map(d));
        let y = |d: &Device| args!(d.zeros(128 * 32 * 4));
        // With an odd seed the box arrives at once, and what the wait does not say cannot matter; the checker still sees it.
        find("planted_wrong_parity", 32, &y_x, "dynamic shared memory");
        find("planted_wrong_bytes", 32, &y_x, "bytes missing");
        find("planted_no_init_fence", 32, &y_x, "fence_mbarrier_init");
        find("planted_init_not_ordered", 32, &y, "mbarrier");
        find("planted_double_arrival", 32, &y_x, "more arrivals");
        find("planted_no_proxy_fence", 128, &|d| args!(map(d)), "PROXY");
        find("planted_store_reuse", 32, &|d| args!(map(d)), "a TMA store");
        find("planted_misaligned_box", 32, &y_x, "MISALIGNED");
        find("planted_early_accumulators", 128, &y, "touched while a wgmma was in flight");
        find("planted_no_wgmma_fence", 128, &y, "wgmma_fence");
        find("planted_operand_reuse", 128, &y, "wgmma of warp");
        find("planted_operand_overrun", 128, &y, "OUT OF BOUNDS");
        find("planted_release_by_one_warp", 128, &y, "wgmma of warp");
    }
}

#[test]
fn endless_loops_end() {
    let by_steps = Device::new(Settings { steps: 1_000_000, ..Settings::checked(0) });
    let arguments = args!(by_steps.zeros(128), 0i32);
    find(&by_steps, "planted.cu", "planted_endless", blocks(1, 32), arguments, "BUDGET");
    for settings in [Settings::fast(), Settings::checked(0)] {
        let d = Device::new(Settings { seconds: 0.2, ..settings });
        let arguments = args!(d.zeros(128), 0i32);
        find(&d, "planted.cu", "planted_endless", blocks(1, 32), arguments, "TIME LIMIT");
    }
}

#[test]
fn waiting_for_another_block_ends() {
    for settings in [Settings::fast(), Settings::checked(0)] {
        let d = Device::new(Settings { seconds: 0.2, ..settings });
        let y = d.zeros(128);
        let report = d.run("planted_spin", blocks(2, 32), args!(y)).unwrap_err();
        assert!(report.contains("TIME LIMIT") && report.contains("kernel planted_spin"), "{report}");
        assert!(report.contains("thread ("), "{report}");
    }
}

#[test]
fn a_deep_stack_is_an_error() {
    for settings in [Settings::fast(), Settings::checked(0)] {
        let d = Device::new(settings);
        let y = d.zeros(128);
        let report = d.run("planted_deep_stack", blocks(1, 32), args!(y, 7i32)).unwrap_err();
        assert!(report.contains("stack overflow") && report.contains("kernel planted_deep_stack"), "{report}");
        assert!(report.contains("planted.cu:") && report.contains("thread ("), "{report}");
    }
}

#[test]
fn a_missing_stream_wait_is_found() {
    for wait in [false, true] {
        let d = Device::new(Settings::checked(0));
        let x: Vec<f32> = (0..128).map(|i| i as f32).collect();
        let (y, x_device) = (d.alloc(512), d.alloc(512));
        let (a, b) = (d.stream(), d.stream());
        // SAFETY: buffers and host memory outlive the synchronisation below.
        unsafe {
            result::memcpy_htod_async(x_device, &x, a).unwrap();
            if wait {
                let event = result::event::create(sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING).unwrap();
                result::event::record(event, a).unwrap();
                let flags = sys::CUevent_wait_flags_enum::CU_EVENT_WAIT_DEFAULT;
                result::stream::wait_event(b, event, flags).unwrap();
            }
        }
        d.queue(b, "legal_scale", blocks(1, 128), args!(y, x_device, 128i32, 2f32)).unwrap();
        // SAFETY: a stream of this device.
        let done = unsafe { result::stream::synchronize(b) };
        match wait {
            true => {
                done.unwrap();
                assert_eq!(d.get::<f32>(y, 128).unwrap()[100], 200.0);
            }
            false => {
                let report = d.text(done.unwrap_err());
                assert!(report.contains("UNINITIALISED") && report.contains("kernel legal_scale"), "{report}");
                assert!(report.contains("legal.cu:") && report.contains("thread ("), "{report}");
            }
        }
    }
}

#[test]
fn a_missing_wait_for_a_result_is_seen() {
    let d = Device::new(Settings::fast());
    let x = d.put(&[3f32; 4]);
    let mut host = [0f32; 4];
    let stream = d.stream();
    // SAFETY: the slice outlives the synchronisation.
    unsafe { result::memcpy_dtoh_async(&mut host, x, stream).unwrap() };
    assert!(host.iter().all(|v| v.is_nan()), "not yet there: {host:?}");
    // SAFETY: a stream of this device.
    unsafe { result::stream::synchronize(stream).unwrap() };
    assert_eq!(host, [3f32; 4]);
}

#[test]
fn use_after_free_is_found() {
    for settings in [Settings::fast(), Settings::checked(0)] {
        let d = Device::new(settings);
        let (y, x) = (d.zeros(512), d.zeros(512));
        d.free(x);
        let report = d.run("legal_scale", blocks(1, 128), args!(y, x, 128i32, 2f32)).unwrap_err();
        assert!(report.contains("use after free of a device buffer of 512 bytes"), "{report}");
        assert!(report.contains("legal.cu:") && report.contains("thread ("), "{report}");
    }
}

#[test]
fn memory_of_another_device_is_refused() {
    let other = Device::new(Settings::checked(0));
    let x = other.zeros(512);
    let d = Device::new(Settings::checked(0));
    let y = d.zeros(512);
    let report = d.run("legal_scale", blocks(1, 128), args!(y, x, 128i32, 2f32)).unwrap_err();
    assert!(report.contains(&format!("belongs to device {}", other.ordinal)), "{report}");
}

#[test]
fn wrong_launches_are_refused() {
    let d = Device::new(Settings::fast());
    let y = d.zeros(512);
    let launch = |threads, dynamic| {
        let function = d.function("legal_scale");
        let (mut y, mut x, mut n, mut f) = (y, y, 128i32, 2f32);
        let mut pointers =
            [(&raw mut y).cast(), (&raw mut x).cast(), (&raw mut n).cast(), (&raw mut f).cast::<std::ffi::c_void>()];
        // SAFETY: the arguments are those of the kernel.
        unsafe { result::launch_kernel(function, (1, 1, 1), (threads, 1, 1), dynamic, null_mut(), &mut pointers) }
            .map_err(|e| e.0)
    };
    use sys::cudaError_enum as Code;
    assert_eq!(launch(64, 0), Err(Code::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch(256, 0), Err(Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES));
    assert_eq!(launch(128, 49 << 10), Err(Code::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch(128, 48 << 10), Ok(()));
    d.synchronize().unwrap();
}
