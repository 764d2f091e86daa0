//! Floor 3: text. Strings in, token ids out; nothing here knows a device or a model.
//!
//! The way of an example: [`source`] reads rows out of files, [`dataset`] turns rows of any known [format](mod@format) into examples,
//! [`template`] writes a judge prompt, [`chat`] renders it the way the model expects and encodes it with a [`tokenizer`],
//! [`proof`] and [`proving`] turn rationales into proofs and back, [`encode`] says what is to be learned, [`corpus`] holds the examples of a run and [`pack`] lays them end to end.

mod added;
pub mod answer;
pub mod bpe;
pub mod chat;
pub mod corpus;
pub mod dataset;
pub mod encode;
pub mod example;
mod fields;
pub mod files;
#[cfg(test)]
mod fixture;
pub mod format;
pub mod inspect;
pub mod jinja;
mod jsonl;
pub mod labels;
pub mod message;
pub mod pack;
mod parquet;
pub mod policy;
pub mod proof;
mod provenance;
pub mod proving;
pub mod registry;
mod rows;
pub mod source;
pub mod template;
pub mod tokenizer;
