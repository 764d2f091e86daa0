//! `gramophone generate`: continue prompts.

use super::judge::into_map;
use super::rows::{self, answer_by_adapter, number};
use super::runtime::{Files, ModelFlags, Runtime};
use crate::error::{Error, Result};
use crate::infer::generator::{Generator, Request, Settings, Shape};
use crate::text::chat::Ending;
use crate::text::source::Row;
use serde_json::{Map, Value, json};

/// Reads rows {"id", "prompt" | "messages"} and writes {"id", "text", "token_ids", "finish_reason"}. A prompt is one user
/// turn of the model's chat template; with --raw it is the text to continue. A row may carry its own temperature,
/// top_k, top_p, min_p, max_tokens and seed.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Sample among the k likeliest tokens; 0 for all
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    /// Sample among the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Sample among tokens at least this likely relative to the likeliest
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Longest answer
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// The same seed gives the same text, whatever else is in the batch
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Take prompts as they are, without the chat template
    #[arg(long)]
    raw: bool,
    /// Sequences that are written together
    #[arg(long, default_value_t = 16)]
    batch: usize,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    runtime: Runtime,
}

pub fn run(args: Args) -> Result<()> {
    let dev = args.runtime.place.open()?;
    let opened = args.model.open(&dev, &args.runtime)?;
    let settings = Settings {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        max_tokens: args.max_tokens,
        seed: args.seed,
    };
    settings.check()?;
    let tokenizer = &opened.tokenizer;
    let shape = Shape { sequences: args.batch, context: opened.context };
    let mut generator = Generator::over(&dev, &opened.models(), shape, &opened.stop())?;
    let chat = if args.raw { None } else { Some(opened.chat()?) };
    let context = generator.context();
    let parse = |row: &Row| {
        let prompt = match &chat {
            None => tokenizer.encode(rows::text(row, "prompt")?)?,
            Some(chat) => chat.render(&rows::prompt(row, &["messages", "prompt"])?, Ending::Open)?.ids,
        };
        if prompt.is_empty() {
            return Err(Error::data("the prompt is empty: there is no token to go on from"));
        }
        if prompt.len() >= context {
            return Err(Error::data(format!(
                "the prompt has {} tokens and leaves no room for an answer in a context of {context}; \
                 shorten it or raise --context",
                prompt.len()
            )));
        }
        let tokens = prompt.len();
        Ok((Request { prompt, settings: row_settings(row, settings)? }, tokens))
    };
    answer_by_adapter(&args.files, "answers", &opened, parse, |model, batch| {
        generator.switch(model);
        let requests: Vec<Request> = batch.iter().map(|request| (*request).clone()).collect();
        let made = generator.generate(&requests, |_, _| ())?;
        made.iter()
            .map(|g| {
                let logprob: f32 = g.logprobs.iter().sum();
                Ok(into_map(json!({
                    "text": tokenizer.decode(&g.tokens)?,
                    "token_ids": g.tokens,
                    "finish_reason": g.finish.name(),
                    "logprob": number(logprob),
                })))
            })
            .collect::<Result<Vec<Map<String, Value>>>>()
    })
}

/// The settings of a row: the command line's, and what the row says itself.
fn row_settings(row: &Row, base: Settings) -> Result<Settings> {
    let get = |name: &str| row.value.get(name).filter(|v| !v.is_null());
    let real = |name: &str, base: f32| match get(name) {
        None => Ok(base),
        Some(v) => v.as_f64().map(|x| x as f32).ok_or_else(|| wrong(name, v, "a number")),
    };
    let whole = |name: &str, base: u64| match get(name) {
        None => Ok(base),
        Some(v) => v.as_u64().ok_or_else(|| wrong(name, v, "a whole number")),
    };
    let settings = Settings {
        temperature: real("temperature", base.temperature)?,
        // More than any vocabulary has: all.
        top_k: u32::try_from(whole("top_k", base.top_k as u64)?).unwrap_or(0),
        top_p: real("top_p", base.top_p)?,
        min_p: real("min_p", base.min_p)?,
        max_tokens: whole("max_tokens", base.max_tokens as u64)? as usize,
        seed: whole("seed", base.seed)?,
    };
    settings.check().map_err(|e| Error::data(e.to_string()))?;
    Ok(settings)
}

fn wrong(name: &str, value: &Value, what: &str) -> Error {
    Error::data(format!("the field {name:?} is {value}; it must be {what}"))
}
