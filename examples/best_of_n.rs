//! Writes several answers to one prompt and ranks them: `cargo run --release --example best_of_n -- MODEL_DIR`.

use gramophone::device::Device;
use gramophone::infer::generator::{Generator, Request, Settings, Shape};
use gramophone::infer::scorer;
use gramophone::model::Model;
use gramophone::reward::judge::{Judge, Prompts};
use gramophone::reward::rank::Method;
use gramophone::text::chat::{Chat, Ending};
use gramophone::text::message::Message;
use gramophone::text::template::JudgeTemplate;
use gramophone::text::tokenizer::Tokenizer;
use std::path::PathBuf;
use std::sync::Arc;

fn main() -> gramophone::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or("tests/golden/qwen3".into()));
    let dev = Device::cpu(0);
    let model = Model::open(&dir, |stored| stored)?;
    let tokenizer = Arc::new(Tokenizer::open(&dir)?);
    let chat = Chat::of(tokenizer.clone())?;
    let prompt = [Message::user("Tell me something.")];
    let ids = chat.render(&prompt, Ending::Open)?.ids;
    let sampled = |seed| Settings { temperature: 0.8, max_tokens: 16, seed, ..Settings::default() };
    let requests: Vec<Request> = (0..4).map(|s| Request { prompt: ids.clone(), settings: sampled(s) }).collect();
    let shape = Shape { sequences: 4, context: 1024 };
    let made = Generator::new(&dev, &model, shape, tokenizer.stop())?.generate(&requests, |_, _| ())?;
    let answers = made.iter().map(|g| tokenizer.decode(&g.tokens)).collect::<gramophone::Result<Vec<_>>>()?;
    let prompts = Prompts::new(chat, JudgeTemplate::verdict())?;
    let mut judge = Judge::new(&dev, &model, prompts, scorer::Shape { context: 4096, pass: 4096 })?;
    let ranking = judge.rank(&prompt, &answers, Method::RoundRobin)?;
    for i in ranking.order {
        println!("{:.3}  {:?}", ranking.scores[i], answers[i]);
    }
    Ok(())
}
