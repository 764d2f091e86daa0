//! Floor 4: running a trained model. [`scorer`] reads prompts once and returns the logits at their ends; [`generator`]
//! writes text with a paged key-value cache.

pub mod generator;
pub mod scorer;
pub mod trie;
