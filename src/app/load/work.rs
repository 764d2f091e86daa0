//! What is sent: the presets, and the same texts on other wires.

use crate::base::rng::{Rng, Stream};
use crate::error::{Error, Result};
use crate::text::template::JudgeTemplate;
use serde_json::{Value, json};

/// A shape of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// A prompt of about 500 tokens and 16 responses of about 400, every pair in both orders.
    Grpo16,
    /// The best of 64 short responses, by a linear scan.
    Bon64,
    /// One response against a reference.
    RlhfRef,
    /// A rationale before the verdict.
    Rationale,
}

/// How it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// `/v1/rank`, `/get_reward`, `/v1/judge`: whichever suits the preset.
    Own,
    /// vLLM's `/generative_scoring`.
    GenerativeScoring,
    /// SGLang's `/v1/score`.
    Score,
    /// `/v1/chat/completions` with `logprobs`, a request for each pair and order.
    Chat,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Shot {
    pub route: &'static str,
    pub body: Value,
    /// Pairs (both orders) that its answer judges.
    pub judgments: f64,
}

/// Makes requests: the `n`-th is the same in every run with the same seed.
#[derive(Clone, Debug)]
pub struct Work {
    pub preset: Preset,
    pub wire: Wire,
    pub model: Option<String>,
    /// Token ids of A and B, for wires that need them.
    pub labels: Vec<i32>,
    pub seed: u64,
}

/// Longest rationale in tokens, and how freely it is drawn.
const RATIONALE: usize = 256;
const TEMPERATURE: f32 = 0.6;

const WORDS: [&str; 24] = [
    "the", "answer", "is", "because", "we", "add", "both", "numbers", "and", "then", "check", "that", "it", "holds",
    "for", "every", "case", "which", "follows", "from", "what", "was", "given", "above",
];

/// Some words: those of a part of the `n`-th request.
pub(super) fn words(seed: u64, n: u64, part: u64, length: u64) -> String {
    let rng = Rng::new(seed, Stream::World, n);
    let word = |i: u64| WORDS[rng.below(part << 20 | i, WORDS.len() as u64) as usize];
    (0..length).map(word).collect::<Vec<_>>().join(" ")
}

impl Work {
    /// # Errors
    /// A wire that cannot carry the preset.
    pub fn check(&self) -> Result<()> {
        match (self.preset, self.wire) {
            (_, Wire::Own) | (Preset::Rationale, Wire::Chat) => Ok(()),
            (Preset::Rationale, _) => Err(Error::usage("--preset rationale writes text: use --wire own or chat")),
            (Preset::Grpo16 | Preset::Bon64, Wire::Chat) => {
                Err(Error::usage("--wire chat carries one pair a request: use it with --preset rlhf-ref or rationale"))
            }
            (_, Wire::GenerativeScoring | Wire::Score) if self.labels.len() != 2 => Err(Error::usage(
                "--label-ids: this wire names the labels by token id; give those of A and B, such as --label-ids 32,33",
            )),
            _ => Ok(()),
        }
    }

    fn text(&self, n: u64, part: u64, length: u64) -> String {
        words(self.seed, n, part, length)
    }

    /// The `n`-th request.
    pub fn shot(&self, n: u64) -> Shot {
        let (prompt_words, responses, words) = match self.preset {
            Preset::Grpo16 => (400, 16, 320),
            Preset::Bon64 => (60, 64, 60),
            Preset::RlhfRef | Preset::Rationale => (120, 2, 160),
        };
        let prompt = self.text(n, 0, prompt_words);
        let responses: Vec<String> = (0..responses).map(|i| self.text(n, i + 1, words)).collect();
        let mut shot = match self.wire {
            Wire::Own => self.own(n, &prompt, &responses),
            Wire::Chat => self.chat(n, &prompt, &responses),
            Wire::GenerativeScoring | Wire::Score => self.scored(&prompt, &responses),
        };
        if let Some(model) = &self.model {
            shot.body["model"] = model.as_str().into();
        }
        shot
    }

    fn own(&self, number: u64, prompt: &str, responses: &[String]) -> Shot {
        let n = responses.len() as f64;
        let rank = |method: &str| json!({"prompt": prompt, "responses": responses, "method": method});
        match self.preset {
            Preset::Grpo16 => Shot { route: "/v1/rank", body: rank("round_robin"), judgments: n * (n - 1.0) / 2.0 },
            // How many pairs a scan meets depends on the answers; what is certain is that the best met them all.
            Preset::Bon64 => Shot { route: "/v1/rank", body: rank("linear"), judgments: n - 1.0 },
            Preset::Rationale => {
                let how = json!({"max_tokens": RATIONALE, "temperature": TEMPERATURE, "seed": number});
                let body = json!({"prompt": prompt, "a": responses[0], "b": responses[1], "rationale": how});
                Shot { route: "/v1/judge", body, judgments: 1.0 }
            }
            Preset::RlhfRef => {
                let query = format!("{prompt}{}", responses[0]);
                let body = json!({"query": [query], "prompts": [prompt], "labels": [responses[1]]});
                Shot { route: "/get_reward", body, judgments: 1.0 }
            }
        }
    }

    /// One order of a pair: two are a judgment.
    fn chat(&self, number: u64, prompt: &str, responses: &[String]) -> Shot {
        let reasons = self.preset == Preset::Rationale;
        let template = if reasons { JudgeTemplate::rationale() } else { JudgeTemplate::verdict() };
        let messages = json!([{"role": "user", "content": template.fill(prompt, &responses[0], &responses[1])}]);
        let body = match reasons {
            true => json!({"messages": messages, "max_tokens": RATIONALE, "temperature": TEMPERATURE, "seed": number,
                           "logprobs": true}),
            false => {
                json!({"messages": messages, "max_tokens": 1, "temperature": 0, "logprobs": true, "top_logprobs": 20})
            }
        };
        Shot { route: "/v1/chat/completions", body, judgments: 0.5 }
    }

    /// The judge prompts of all pairs in both orders (for the linear scan: of the first with each), as items.
    fn scored(&self, prompt: &str, responses: &[String]) -> Shot {
        let template = JudgeTemplate::verdict();
        let n = responses.len();
        let all = |i: usize| if self.preset == Preset::Grpo16 { i + 1..n } else { 1..n };
        let firsts = if self.preset == Preset::Grpo16 { n } else { 1 };
        let pairs = (0..firsts).flat_map(|i| all(i).map(move |j| (i, j)));
        let both = pairs.flat_map(|(i, j)| [(i, j), (j, i)]);
        let items: Vec<String> = both.map(|(i, j)| template.fill(prompt, &responses[i], &responses[j])).collect();
        let judgments = items.len() as f64 / 2.0;
        let body = json!({"query": "", "items": items, "label_token_ids": self.labels, "apply_softmax": true});
        let route = if self.wire == Wire::Score { "/v1/score" } else { "/generative_scoring" };
        Shot { route, body, judgments }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_depend_on_their_number_and_the_seed_alone() {
        let work = |wire| Work { preset: Preset::Grpo16, wire, model: None, labels: vec![1, 2], seed: 3 };
        let own = work(Wire::Own);
        assert_eq!(own.shot(4).body, own.shot(4).body);
        assert_ne!(own.shot(4).body, own.shot(5).body);
        assert_eq!(own.shot(4).judgments, 120.0);
        let peer = work(Wire::Score).shot(4);
        assert_eq!((peer.judgments, peer.body["items"].as_array().unwrap().len()), (120.0, 240));
        assert!(work(Wire::Chat).check().is_err() && own.check().is_ok());
        let reasons = |wire| Work { preset: Preset::Rationale, ..work(wire) };
        let (own, chat) = (reasons(Wire::Own).shot(4), reasons(Wire::Chat).shot(4));
        assert_eq!(
            (own.route, own.judgments, chat.route, chat.judgments),
            ("/v1/judge", 1.0, "/v1/chat/completions", 0.5)
        );
        assert_eq!((&own.body["rationale"]["seed"], &chat.body["seed"]), (&json!(4), &json!(4)));
    }
}
