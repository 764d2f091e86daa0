//! Floor 3: text. Strings in, token ids out; nothing here knows a device or a model.
//!
//! The way of an example: [`source`] reads rows out of files, [`dataset`] turns rows of any known format into examples,
//! [`template`] writes a judge prompt, [`chat`] renders it the way the model expects and encodes it with a [`tokenizer`],
//! and [`pack`] makes token sequences with their targets.

pub mod bpe;
pub mod chat;
pub mod files;
pub mod jinja;
mod jsonl;
pub mod labels;
pub mod message;
mod parquet;
pub mod provenance;
pub mod source;
pub mod template;
pub mod tokenizer;
