//! What this machine and this binary can run, and what is in the way.

use crate::base::{par, simd};
use crate::device::Gpu;
use crate::device::cuda::{LEDGER, driver, images, images_present};
use serde::Serialize;
use std::collections::BTreeSet;

/// All there is to know.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    pub program: String,
    pub cpu: Cpu,
    /// The CUDA version that the driver supports, or why there is none.
    pub driver: Finding,
    pub devices: Vec<GpuFound>,
    pub images: Images,
    pub verdict: String,
}

/// Something that is there, or the reason why not.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    Found(String),
    Missing(String),
}

#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    /// The instruction set that is used.
    pub instructions: String,
    pub threads: usize,
}

/// One GPU that the driver sees.
#[derive(Clone, Debug, Serialize)]
pub struct GpuFound {
    /// As `--device` takes it.
    pub device: String,
    pub name: String,
    pub capability: String,
    pub multiprocessors: u32,
    pub memory_bytes: u64,
    /// Where it can be used: what is free now.
    pub free_bytes: Option<u64>,
    /// Why it cannot be used.
    pub fault: Option<String>,
}

/// The kernels that this binary carries.
#[derive(Clone, Debug, Serialize)]
pub struct Images {
    /// What was missing when it was built, and the command that cures it.
    pub missing: Option<String>,
    pub files: Vec<ImageFile>,
    pub kernels: usize,
    /// Machine code for these; other GPUs compile the portable form when they load it.
    pub architectures: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ImageFile {
    pub name: String,
    pub bytes: usize,
}

impl Findings {
    /// Looks at everything; opens each GPU.
    pub fn gather() -> Findings {
        let driver = match driver::init().and_then(|()| driver::version()) {
            Ok(v) => Finding::Found(format!("CUDA {}.{}", v / 1000, v % 1000 / 10)),
            Err(e) => Finding::Missing(e.to_string()),
        };
        let devices: Vec<GpuFound> = (0..driver::count().unwrap_or(0)).filter_map(gpu).collect();
        let images = carried();
        let threads = par::available();
        let usable: Vec<&str> = devices.iter().filter(|d| d.fault.is_none()).map(|d| d.device.as_str()).collect();
        let verdict = match (usable.as_slice(), &driver, devices.iter().find_map(|d| d.fault.as_ref())) {
            ([], Finding::Missing(why), _) | ([], _, Some(why)) => format!("runs on --device cpu; no GPU: {why}"),
            ([], _, None) => "runs on --device cpu; no GPU was found".into(),
            (some, _, _) => format!("runs on --device cpu and {}", some.join(", ")),
        };
        let program = format!("gramophone {}", env!("CARGO_PKG_VERSION"));
        let cpu = Cpu { instructions: format!("{:?}", simd::level()).to_lowercase(), threads };
        Findings { program, cpu, driver, devices, images, verdict }
    }

    /// A line for each finding.
    pub fn text(&self) -> String {
        let mut lines = vec![("program", self.program.clone())];
        lines.push(("cpu", format!("{}, {} threads", self.cpu.instructions, self.cpu.threads)));
        lines.push(match &self.driver {
            Finding::Found(version) => ("driver", version.clone()),
            Finding::Missing(why) => ("driver", format!("none: {why}")),
        });
        lines.extend(self.devices.iter().map(|d| ("device", d.line())));
        lines.push(("kernels", self.images.line()));
        lines.push(("verdict", self.verdict.clone()));
        lines.into_iter().map(|(name, value)| format!("{name:<8} {value}\n")).collect()
    }
}

impl GpuFound {
    fn line(&self) -> String {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let memory = match self.free_bytes {
            Some(free) => format!("{:.1} of {:.1} GB free", gb(free), gb(self.memory_bytes)),
            None => format!("{:.1} GB", gb(self.memory_bytes)),
        };
        let fault = self.fault.as_ref().map_or(String::new(), |why| format!("; cannot be used: {why}"));
        let GpuFound { device, name, capability, multiprocessors, .. } = self;
        format!("{device} {name}, capability {capability}, {multiprocessors} multiprocessors, {memory}{fault}")
    }
}

impl Images {
    fn line(&self) -> String {
        if let Some(why) = &self.missing {
            return format!("none: {why}");
        }
        let megabytes = self.files.iter().map(|f| f.bytes).sum::<usize>() as f64 / 1e6;
        let files: Vec<&str> = self.files.iter().map(|f| f.name.as_str()).collect();
        let code = self.architectures.join(", ");
        format!(
            "{} in {} files ({}), {megabytes:.1} MB, for {code} and newer",
            self.kernels,
            files.len(),
            files.join(", ")
        )
    }
}

fn gpu(ordinal: i32) -> Option<GpuFound> {
    let p = driver::properties(ordinal).ok()?;
    let opened = Gpu::open(ordinal);
    Some(GpuFound {
        device: format!("cuda:{ordinal}"),
        name: p.name,
        capability: format!("{}.{}", p.capability.0, p.capability.1),
        multiprocessors: p.multiprocessors,
        memory_bytes: p.memory,
        free_bytes: opened.as_ref().ok().and_then(|gpu| Some(gpu.memory().ok()?.0)),
        fault: opened.err().map(|e| e.to_string()),
    })
}

fn carried() -> Images {
    let lines: Vec<Vec<&str>> = LEDGER.lines().skip(1).map(|l| l.split('\t').collect()).collect();
    let column = |i: usize| lines.iter().filter_map(|l| l.get(i)).map(|s| s.to_string()).collect::<BTreeSet<String>>();
    Images {
        missing: images_present().err().map(|e| e.to_string()),
        files: images().iter().map(|(name, image)| ImageFile { name: name.to_string(), bytes: image.len() }).collect(),
        kernels: column(0).len(),
        architectures: column(1).into_iter().collect(),
    }
}
