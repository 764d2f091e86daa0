//! The scorer inside another program: token ids in, margins out, no text floor at all.
//! `cargo run --release --example embed_scorer -- MODEL_DIR`

use gramophone::device::Device;
use gramophone::infer::scorer::{Scorer, Shape};
use gramophone::model::Model;
use std::path::PathBuf;

fn main() -> gramophone::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or("tests/golden/llama".into()));
    let dev = Device::cpu(2);
    let model = Model::open(&dir, |stored| stored)?;
    let mut scorer = Scorer::new(&dev, &model, Shape { context: 1024, pass: 4096 })?;
    // Prompts of any lengths share a pass; each one's score has the same bits as alone.
    let prompts: Vec<Vec<i32>> = [5, 17, 64].iter().map(|n| (1..=*n).collect()).collect();
    for verdict in scorer.verdicts(&prompts, [32, 33])? {
        println!("margin {:+.6}, label mass {:.3e}", verdict.margin(), verdict.label_mass());
    }
    Ok(())
}
