//! What the memory accesses of the product's kernels would cost a real GPU, line by line, counted by the emulated one:
//! `GRAMOPHONE_EMU=costs=costs.txt cargo run --release --example kernel_costs [-- parts of names of cases]`.
//!
//! The cases are those of `gramophone bench kernels`, on the smallest shapes that exercise every main loop as large ones would: rows
//! of whole vectors, several tiles each way, several turns of each ring.

use gramophone::app::bench::Effort;
use gramophone::app::bench::kernels::{Plan, Sizes, once};
use gramophone::base::dtype::Dtype;
use gramophone::device::Device;
use gramophone::ops::Heads;
use gramophone_emu::Settings;

fn sizes(head: usize) -> Sizes {
    Sizes {
        tokens: 384,
        width: 384,
        ffn: 512,
        heads: Heads { query: 4, kv: 2, size: head },
        vocab: 1024,
        sequences: vec![vec![256, 128]],
        decode: [2, 640],
        samples: [16, 512, 40],
        parameters: 1 << 14,
        matrix: [128, 192],
        copied: 1 << 16,
        square: 128,
    }
}

fn main() {
    let only: Vec<String> = std::env::args().skip(1).collect();
    for capability in [(8, 0), (9, 0)] {
        for dtype in [Dtype::Bf16, Dtype::F32] {
            for head in [64, 128] {
                let settings = Settings { capability, ..Settings::checked(0) };
                let dev =
                    Device::open(&format!("cuda:{}", gramophone_emu::open(settings)), 0).expect("an emulated GPU");
                let effort = Effort { samples: 0, flushed: 0, rotated: 0 }; // nothing is timed
                let plan = Plan { sizes: sizes(head), dtype, only: only.clone(), effort };
                println!("capability {}.{}, {dtype}, heads of {head}", capability.0, capability.1);
                let cases = once(&dev, &plan).unwrap_or_else(|e| panic!("{e}"));
                cases.iter().for_each(|case| println!("  {case}"));
            }
        }
    }
}
