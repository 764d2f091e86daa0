//! Gramophone trains and serves generative reward models: language models that say which of two responses is better.
//!
//! Read it from the bottom up, or start where you are curious:
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | 6 | [`app`] | the command line, the demo, reports |
//! | 5 | [`reward`] | judging pairs in both orders, ranking lists, rewards for reinforcement learning |
//! | 4 | [`train`], [`infer`] | objectives, trainer, runs and checkpoints; prompt scoring, batched generation |
//! | 3 | [`model`], [`text`] | one forward, one hand-derived backward, weights on disk; tokenizers, templates, datasets |
//! | 2 | [`ops`] | one file per operation: formula, contract, oracle, fast path, tests |
//! | 1 | [`device`] | where tensors live and where ops run |
//! | 0 | [`base`], [`error`] | element types, random bits, threads, vector code; the one error type |
//!
//! A file imports only from lower floors. To judge a pair from a program:
//!
//! ```no_run
//! use gramophone::{device::Device, infer::scorer::Shape, model::Model};
//! use gramophone::reward::judge::{Judge, Pair, Prompts};
//! use gramophone::text::{chat::Chat, message::Message, template::JudgeTemplate, tokenizer::Tokenizer};
//! # fn main() -> gramophone::Result<()> {
//! let dir = std::path::Path::new("path/to/model");
//! let (dev, model) = (Device::cpu(0), Model::open(dir, |stored| stored)?);
//! let chat = Chat::of(std::sync::Arc::new(Tokenizer::open(dir)?))?;
//! let prompts = Prompts::new(chat, JudgeTemplate::verdict())?;
//! let pair = Pair { prompt: vec![Message::user("1 + 1?")], a: "2".into(), b: "3".into() };
//! let encoded = prompts.pair(&pair)?;
//! let mut judge = Judge::new(&dev, &model, prompts, Shape { context: 4096, pass: 4096 })?;
//! println!("{}", judge.judge(&[encoded])?[0].p_a);
//! # Ok(())
//! # }
//! ```
//!
//! Determinism is part of the interface: the same inputs give the same bits, whatever the batch, the order, the number of
//! threads or the instruction set. `docs/numerics.md` says how.

pub mod app;
pub mod base;
pub mod device;
pub mod error;
pub mod infer;
pub mod model;
pub mod ops;
pub mod reward;
pub mod text;
pub mod train;

pub use error::{Error, Kind, Result};
