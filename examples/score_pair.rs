//! Judges one pair: `cargo run --release --example score_pair -- MODEL_DIR`.

use gramophone::device::Device;
use gramophone::infer::scorer::Shape;
use gramophone::model::Model;
use gramophone::reward::judge::{Judge, Pair, Prompts};
use gramophone::text::chat::Chat;
use gramophone::text::message::Message;
use gramophone::text::template::JudgeTemplate;
use gramophone::text::tokenizer::Tokenizer;
use std::path::PathBuf;
use std::sync::Arc;

fn main() -> gramophone::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or("tests/golden/qwen3".into()));
    let dev = Device::cpu(0);
    let model = Model::open(&dir, |stored| stored)?;
    let chat = Chat::of(Arc::new(Tokenizer::open(&dir)?))?;
    let prompts = Prompts::new(chat, JudgeTemplate::verdict())?;
    let pair = Pair {
        prompt: vec![Message::user("What is the capital of France?")],
        a: "Paris.".into(),
        b: "Lyon, I think.".into(),
    };
    let encoded = prompts.pair(&pair)?;
    let mut judge = Judge::new(&dev, &model, prompts, Shape { context: 4096, pass: 4096 })?;
    let judgment = judge.judge(&[encoded])?[0];
    println!("P(a is better) = {:.4}, consistent in both orders: {}", judgment.p_a, judgment.consistent);
    Ok(())
}
