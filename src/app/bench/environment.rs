//! Where figures come from.

use crate::base::simd;
use crate::device::Device;
use crate::device::cuda::driver;
use serde::{Deserialize, Serialize};

/// The machine, the program and the command of a run. Files of other programs may leave fields out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// What computed: the GPU's or the processor's name.
    pub device: String,
    /// Threads of a CPU device.
    pub threads: usize,
    /// The CUDA version that the driver supports, for a GPU.
    pub driver: String,
    /// Clocks as the system tells them; empty where it does not.
    pub clocks: String,
    pub processor: String,
    pub system: String,
    /// The program and its version.
    pub program: String,
    pub command: String,
}

impl Environment {
    pub fn of(dev: &Device) -> Environment {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo");
        let processor =
            processor.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':')).map(|(_, n)| n.trim());
        let processor = processor.unwrap_or(std::env::consts::ARCH).to_string();
        let megahertz = read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").trim().parse::<f64>();
        let (device, threads, driver, clocks) = match dev {
            Device::Cpu(pool) => (
                format!("{processor} ({:?})", simd::level()).to_lowercase(),
                pool.threads(),
                String::new(),
                megahertz.map_or(String::new(), |khz| format!("{:.0} MHz at most", khz / 1e3)),
            ),
            Device::Cuda(gpu) => {
                let driver =
                    driver::version().map_or(String::new(), |v| format!("CUDA {}.{}", v / 1000, v % 1000 / 10));
                let clocks = match gpu.properties().clocks {
                    (0, _) | (_, 0) => String::new(),
                    (core, memory) => format!("{} MHz, memory {} MHz at most", core / 1000, memory / 1000),
                };
                (gpu.properties().name.clone(), 0, driver, clocks)
            }
        };
        let release = read("/proc/sys/kernel/osrelease");
        Environment {
            device,
            threads,
            driver,
            clocks,
            processor,
            system: format!("{} {} {}", std::env::consts::OS, std::env::consts::ARCH, release.trim()),
            program: format!("gramophone {}", env!("CARGO_PKG_VERSION")),
            command: std::env::args().collect::<Vec<_>>().join(" "),
        }
    }

    /// The fields that say something, with their names.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let threads = if self.threads == 0 { String::new() } else { self.threads.to_string() };
        let all = [
            ("device", self.device.clone()),
            ("threads", threads),
            ("driver", self.driver.clone()),
            ("clocks", self.clocks.clone()),
            ("processor", self.processor.clone()),
            ("system", self.system.clone()),
            ("program", self.program.clone()),
            ("command", self.command.clone()),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}
