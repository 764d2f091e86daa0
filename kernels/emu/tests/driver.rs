//! The driver's side: memory accounting, streams and events, graphs, attributes, failures on demand, child processes.

mod device;

use std::process::Command;
use std::ptr::null_mut;

use cudarc::driver::{result, sys};
use device::{Device, blocks};
use gramophone_emu::{Failure, Settings, statistics};
use sys::cudaError_enum as Code;

const RELAXED: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
const GLOBAL: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_GLOBAL;

fn event() -> sys::CUevent {
    result::event::create(sys::CUevent_flags_enum::CU_EVENT_DEFAULT).unwrap()
}
fn wait(stream: sys::CUstream, event: sys::CUevent) -> Result<(), result::DriverError> {
    // SAFETY: handles of the current device.
    unsafe { result::stream::wait_event(stream, event, sys::CUevent_wait_flags_enum::CU_EVENT_WAIT_DEFAULT) }
}

#[test]
fn memory_is_counted_and_limited() {
    let d = Device::new(Settings { memory: 1 << 20, ..Settings::fast() });
    assert_eq!(result::mem_get_info().unwrap(), (1 << 20, 1 << 20));
    let p = d.alloc(900 << 10);
    // SAFETY: nothing is done with the memory.
    let refused = unsafe { result::malloc_sync(200 << 10) };
    assert_eq!(refused.unwrap_err().0, Code::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(result::mem_get_info().unwrap().0, 124 << 10);
    d.free(p);
    let s = statistics(d.ordinal);
    assert_eq!((s.allocated_bytes, s.allocations, s.peak_bytes), (0, 0, 900 << 10));
    // SAFETY: freed already, which the driver must notice.
    assert_eq!(unsafe { result::free_sync(p) }.unwrap_err().0, Code::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn memory_that_others_hold_is_not_free() {
    let d = Device::new(Settings { memory: 1 << 20, taken: 1 << 19, ..Settings::fast() });
    assert_eq!(result::mem_get_info().unwrap(), (1 << 19, 1 << 20));
    // SAFETY: nothing is done with the memory.
    let refused = unsafe { result::malloc_sync((1 << 19) + 1) };
    assert_eq!(refused.unwrap_err().0, Code::CUDA_ERROR_OUT_OF_MEMORY);
    d.free(d.alloc(1 << 19));
}

#[test]
fn the_end_of_a_context_frees_and_counts_what_leaked() {
    let d = Device::new(Settings::fast());
    let (kept, freed) = (d.zeros(100), d.zeros(50));
    d.free(freed);
    // SAFETY: the context is not used afterwards.
    unsafe { result::primary_ctx::release(result::device::get(d.ordinal).unwrap()).unwrap() };
    let s = statistics(d.ordinal);
    assert_eq!((s.allocated_bytes, s.leaked_bytes), (0, 100));
    // SAFETY: the driver must refuse: there is no context.
    assert_eq!(unsafe { result::free_sync(kept) }.unwrap_err().0, Code::CUDA_ERROR_INVALID_CONTEXT);
}

#[test]
fn copies_beyond_a_buffer_are_refused() {
    let d = Device::new(Settings::fast());
    let p = d.zeros(16);
    // SAFETY: the driver checks the range.
    let status = unsafe { result::memcpy_htod_sync(p + 8, &[0u8; 16]) };
    assert_eq!(status.unwrap_err().0, Code::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn host_memory_is_read_late() {
    let d = Device::new(Settings::fast());
    let (stream, p) = (d.stream(), d.alloc(4));
    let mut host = vec![1u32];
    // SAFETY: the buffers outlive the synchronisation.
    unsafe { result::memcpy_htod_async(p, &host, stream).unwrap() };
    host[0] = 2; // too early: the copy has not been waited for
    // SAFETY: a stream of this device.
    unsafe { result::stream::synchronize(stream).unwrap() };
    assert_eq!(d.get::<u32>(p, 1).unwrap(), [2]);
}

#[test]
fn polling_comes_to_an_end() {
    let d = Device::new(Settings::fast());
    let (stream, p) = (d.stream(), d.alloc(4));
    let recorded = event();
    // SAFETY: handles of this device.
    unsafe {
        for value in 0..3 {
            result::memset_d8_async(p, value, 4, stream).unwrap();
        }
        result::event::record(recorded, stream).unwrap();
        let mut polls = 0;
        while result::event::query(recorded).is_err() {
            polls += 1;
        }
        assert!(polls > 1, "an operation runs only when somebody asks");
    }
    assert_eq!(d.get::<u8>(p, 4).unwrap(), [2; 4]);
}

#[test]
fn events_measure_time() {
    let d = Device::new(Settings::fast());
    let (stream, from, to) = (d.stream(), event(), event());
    let y = d.zeros(512);
    // SAFETY: handles of this device.
    unsafe {
        result::event::record(from, stream).unwrap();
        d.queue(stream, "legal_scale", blocks(1, 128), args!(y, y, 128i32, 2f32)).unwrap();
        result::event::record(to, stream).unwrap();
        assert_eq!(result::event::elapsed(from, to).unwrap_err().0, Code::CUDA_ERROR_NOT_READY);
        result::stream::synchronize(stream).unwrap();
        assert!(result::event::elapsed(from, to).unwrap() > 0.0);
    }
}

/// Records x *= 2 on one stream, and z = x * 3 on another that is forked from it and joined again.
fn record_fork_and_join(d: &Device, x: u64, z: u64, join: bool) -> Result<sys::CUgraph, result::DriverError> {
    let (a, b, forked, joined) = (d.stream(), d.stream(), event(), event());
    // SAFETY: handles of this device.
    unsafe {
        result::stream::begin_capture(a, RELAXED)?;
        d.queue(a, "legal_scale", blocks(1, 128), args!(x, x, 128i32, 2f32)).unwrap();
        result::event::record(forked, a)?;
        wait(b, forked)?;
        d.queue(b, "legal_scale", blocks(1, 128), args!(z, x, 128i32, 3f32)).unwrap();
        result::event::record(joined, b)?;
        if join {
            wait(a, joined)?;
        }
        result::stream::end_capture(a)
    }
}

#[test]
fn graphs_replay_what_was_recorded() {
    for settings in [Settings::fast(), Settings::checked(0), Settings::checked(3)] {
        let d = Device::new(settings);
        let (x, z) = (d.put(&[1f32; 128]), d.alloc(512));
        let graph = record_fork_and_join(&d, x, z, true).unwrap();
        assert_eq!(d.get::<f32>(x, 1).unwrap(), [1.0], "recording runs nothing");
        let stream = d.stream();
        // SAFETY: handles of this device; flags are plain numbers.
        unsafe {
            let mut executable = null_mut();
            sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0).result().unwrap();
            sys::cuGraphDestroy(graph).result().unwrap();
            for _ in 0..3 {
                sys::cuGraphLaunch(executable, stream).result().unwrap();
            }
            result::stream::synchronize(stream).unwrap();
            sys::cuGraphExecDestroy(executable).result().unwrap();
        }
        assert_eq!(d.get::<f32>(x, 128).unwrap(), [8.0; 128]);
        assert_eq!(d.get::<f32>(z, 128).unwrap(), [24.0; 128]);
    }
}

#[test]
fn captures_refuse_what_a_gpu_refuses() {
    let d = Device::new(Settings::fast());
    let (x, z) = (d.put(&[1f32; 128]), d.alloc(512));
    let unjoined = record_fork_and_join(&d, x, z, false).unwrap_err();
    assert_eq!(unjoined.0, Code::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    let (stream, other, foreign) = (d.stream(), d.stream(), event());
    // SAFETY: handles of this device.
    unsafe {
        result::stream::begin_capture(stream, GLOBAL).unwrap();
        let waited = result::stream::synchronize(stream);
        assert_eq!(waited.unwrap_err().0, Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        let ended = result::stream::end_capture(stream);
        assert_eq!(ended.unwrap_err().0, Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        result::stream::begin_capture(stream, GLOBAL).unwrap();
        let allocated = result::malloc_sync(16);
        assert_eq!(allocated.unwrap_err().0, Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        assert!(result::stream::end_capture(stream).is_err());

        result::event::record(foreign, other).unwrap();
        result::stream::begin_capture(stream, GLOBAL).unwrap();
        assert_eq!(wait(stream, foreign).unwrap_err().0, Code::CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
        assert!(result::stream::end_capture(stream).is_err());
    }
}

#[test]
fn a_call_fails_on_demand() {
    let fail = |call: &str, nth, code| Some(Failure { call: call.into(), nth, code });
    let d = Device::new(Settings { fail: fail("cuMemAlloc", 2, 2), ..Settings::fast() });
    let y = d.alloc(512);
    // SAFETY: nothing is done with the memory.
    let refused = unsafe { result::malloc_sync(512) };
    assert_eq!(refused.unwrap_err().0, Code::CUDA_ERROR_OUT_OF_MEMORY);
    d.free(y);

    let d = Device::new(Settings { fail: fail("cuLaunchKernel", 2, 719), ..Settings::fast() });
    let y = d.zeros(512);
    d.run("legal_scale", blocks(1, 128), args!(y, y, 128i32, 2f32)).unwrap();
    let report = d.run("legal_scale", blocks(1, 128), args!(y, y, 128i32, 2f32)).unwrap_err();
    assert!(report.contains("cuLaunchKernel"), "{report}");
    assert_eq!(d.get::<f32>(y, 1).unwrap_err(), report, "the device is gone");
}

#[test]
fn capability_decides_which_kernels_exist() {
    let find = |capability| {
        Device::new(Settings { capability, ..Settings::fast() });
        // SAFETY: the context of the new device is current.
        unsafe {
            let module = result::module::load_data(c"x".as_ptr().cast()).unwrap();
            result::module::get_function(module, c"legal_multiply_nt".into()).map(|_| ()).map_err(|e| e.0)
        }
    };
    assert_eq!(find((9, 0)), Ok(()));
    assert_eq!(find((8, 0)), Err(Code::CUDA_ERROR_NOT_FOUND));
    assert_eq!(find((10, 0)), Err(Code::CUDA_ERROR_NOT_FOUND));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let d = Device::new(Settings::checked(seed));
        let y = d.alloc(96 * 4);
        d.run("legal_collectives", blocks(4, 96), args!(y)).unwrap_err(); // all blocks write the same place
        (gramophone_emu::last_error(d.ordinal), statistics(d.ordinal))
    };
    assert_eq!(run(2), run(2));
    assert_ne!(run(2).1.switches, run(4).1.switches);
}

/// Runs this very test binary's `child` under LD_PRELOAD.
fn child(environment: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_of_another_test", "--nocapture"])
        .env("LD_PRELOAD", gramophone_emu::library())
        .env("GRAMOPHONE_EMU", environment)
        .env("EMU_TEST_CHILD", "1")
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What a child process sees on device 0; does nothing when it runs as a test of its own.
#[test]
fn child_of_another_test() {
    if std::env::var_os("EMU_TEST_CHILD").is_none() {
        return;
    }
    match result::init() {
        Err(e) => println!("init: {:?}", e.0),
        Ok(()) => {
            let device = result::device::get(0).unwrap();
            // SAFETY: the device exists.
            let memory = unsafe { result::device::total_mem(device) }.unwrap();
            println!(
                "{} memory {memory} devices {}",
                result::device::get_name(device).unwrap(),
                result::device::get_count().unwrap()
            );
        }
    }
}

#[test]
fn the_environment_configures_a_child() {
    let seen = child("checked,seed=3,memory=1000,devices=2");
    assert!(seen.contains("Emulated GPU (checked, seed 3) memory 1000 devices 2"), "{seen}");
    let seen = child("devices=0");
    assert!(seen.contains("CUDA_ERROR_NO_DEVICE"), "{seen}");
    let seen = child("cheked");
    assert!(seen.contains("GRAMOPHONE_EMU has \"cheked\""), "{seen}");
}
