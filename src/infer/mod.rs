//! Floor 4: running a trained model. [`scorer`] reads prompts once and returns the logits at their ends; [`generator`]
//! writes text with a paged key-value cache. [`trie`] is how prompts of a batch share what they have in common; [`engine`] does the same for
//! whoever comes when, in the order of the [`scheduler`], [`writer`] is continuous generation, and [`service`] both on a thread, with one
//! queue for everybody.

pub mod engine;
pub mod generator;
pub mod radix;
pub mod scheduler;
pub mod scorer;
pub mod service;
pub mod trie;
pub mod writer;
