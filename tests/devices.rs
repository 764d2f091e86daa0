//! The devices that this run covers. `GRAMOPHONE_TEST_DEVICES` names them, separated by commas: `cpu`, `emulated` (both by
//! default), `cuda:N`. One that is named and missing fails.

use gramophone::device::Device;
use gramophone_emu::Settings;

/// Each with what to call it in messages.
pub fn devices() -> Vec<(String, Device)> {
    let names = std::env::var("GRAMOPHONE_TEST_DEVICES").unwrap_or_else(|_| "cpu,emulated".into());
    names.split(',').map(|name| (name.to_string(), open(name))).collect()
}

/// The GPUs among them.
pub fn gpus() -> Vec<(String, Device)> {
    devices().into_iter().filter(|(_, dev)| matches!(dev, Device::Cuda(_))).collect()
}

/// Whether this run covers the emulated GPU: some tests need a driver that fails when told to, which no real one does.
pub fn covers_emulated() -> bool {
    let covered = devices().iter().any(|(name, _)| name == "emulated");
    if !covered {
        println!("not on a real GPU: this test is about the emulated driver");
    }
    covered
}

fn open(name: &str) -> Device {
    match name {
        "cpu" => Device::cpu(2),
        "emulated" => emulated(Settings::fast()),
        name => Device::open(name, 0).unwrap_or_else(|e| panic!("GRAMOPHONE_TEST_DEVICES names {name}: {e}")),
    }
}

/// An emulated GPU of one's own.
pub fn emulated(settings: Settings) -> Device {
    Device::open(&format!("cuda:{}", gramophone_emu::open(settings)), 0).unwrap()
}
