//! `gramophone doctor`: what this machine can run, and what is in the way.

use super::console::print;
use crate::app::doctor::Findings;
use crate::device::Device;
use crate::error::Result;

/// Looks for a driver, GPUs and kernels; with --device, fails where that device cannot be used.
#[derive(clap::Args)]
pub struct Args {
    /// A device that must work, such as cuda or cuda:1
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let findings = Findings::gather();
    match args.json {
        true => print(serde_json::to_string_pretty(&findings).expect("numbers and texts") + "\n")?,
        false => print(findings.text())?,
    }
    match &args.device {
        Some(name) => Device::open(name, 0).map(|_| ()),
        None => Ok(()),
    }
}
