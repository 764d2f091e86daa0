//! What crosses the border.

use crate::border::{Refusal, list, text};
use engine::base::dtype::Dtype;
use engine::reward::judge;
use engine::reward::service::Judged;
use engine::text::message::Message;
use std::ffi::c_char;

/// How to open a judge. Zero and null stand for the usual: `GramophoneOptions options = {0};`
#[repr(C)]
pub struct Options {
    /// Where to compute: "cpu", "cuda" or "cuda:N"; the CPU if null.
    pub device: *const c_char,
    /// CPU threads; 0 for one per core.
    pub threads: u32,
    /// An adapter beside the model, a PEFT directory.
    pub adapter: *const c_char,
    /// A file with the judge prompt; ours if null.
    pub template_file: *const c_char,
    /// The date that a chat template may print, such as 2024-07-26.
    pub template_date: *const c_char,
    /// Type of the weights in memory: "auto" (as the checkpoint stores them, also if null), "f32" or "bf16".
    pub dtype: *const c_char,
    /// Longest text in tokens; 0 for what the model was made for, up to 8192.
    pub context: usize,
    /// Tokens that may wait in the queue; 0 for 1048576. A call waits for room.
    pub queue_tokens: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            device: std::ptr::null(),
            threads: 0,
            adapter: std::ptr::null(),
            template_file: std::ptr::null(),
            template_date: std::ptr::null(),
            dtype: std::ptr::null(),
            context: 0,
            queue_tokens: 0,
        }
    }
}

/// Two responses to a prompt.
#[repr(C)]
pub struct Pair {
    /// The prompt as a text, or null where `messages` is given.
    pub prompt: *const c_char,
    /// The prompt as a JSON list of messages {"role", "content"}, or null.
    pub messages: *const c_char,
    pub response_a: *const c_char,
    pub response_b: *const c_char,
}

impl Pair {
    pub fn read(&self, i: usize) -> Result<judge::Pair, Refusal> {
        let field = |name: &str| format!("pairs[{i}].{name}");
        Ok(judge::Pair {
            prompt: prompt(&field(""), self.prompt, self.messages)?,
            a: text(&field("response_a"), self.response_a)?.into(),
            b: text(&field("response_b"), self.response_b)?.into(),
        })
    }
}

/// A prompt as a text or as messages; `place` goes before their names.
pub fn prompt(place: &str, plain: *const c_char, messages: *const c_char) -> Result<Vec<Message>, Refusal> {
    let (prompt, name) = (format!("{place}prompt"), format!("{place}messages"));
    match (plain.is_null(), messages.is_null()) {
        (true, true) => Err(Refusal::usage(format!("{prompt} and {name} are null; give one of them"))),
        (false, false) => Err(Refusal::usage(format!("{prompt} and {name} are both given; one must be null"))),
        (false, true) => Ok(vec![Message::user(text(&prompt, plain)?)]),
        (true, false) => {
            let value: serde_json::Value = serde_json::from_str(text(&name, messages)?)
                .map_err(|e| Refusal::usage(format!("{name} is not JSON: {e}")))?;
            let read = Message::conversation(&value).map_err(|e| Refusal::from(e).at(&name))?;
            if read.is_empty() {
                return Err(Refusal::usage(format!("{name} is an empty list")));
            }
            Ok(read)
        }
    }
}

/// Prompts of token ids that lie end to end.
pub fn prompts<'a>(
    ids: *const i32,
    offsets: *const usize,
    n: usize,
) -> Result<impl Iterator<Item = Result<&'a [i32], Refusal>>, Refusal> {
    let ends = n.checked_add(1).ok_or_else(|| Refusal::usage("n: there are too many"))?;
    let offsets = list("offsets", offsets, ends)?;
    if let Some(i) = (0..n).find(|i| offsets[*i] > offsets[i + 1]) {
        let (a, b) = (offsets[i], offsets[i + 1]);
        return Err(Refusal::usage(format!("offsets[{}] is {b}, before offsets[{i}], which is {a}", i + 1)));
    }
    let ids = list("ids", ids, offsets[n])?;
    Ok(offsets.windows(2).map(move |ends| Ok(&ids[ends[0]..ends[1]])))
}

/// Which response is better.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    B = -1,
    /// Both orders cancel exactly.
    Tie = 0,
    A = 1,
}

impl From<judge::Side> for Side {
    fn from(side: judge::Side) -> Side {
        match side {
            judge::Side::A => Side::A,
            judge::Side::B => Side::B,
            judge::Side::Tie => Side::Tie,
        }
    }
}

/// What a judge says of a pair.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Judgment {
    /// Probability that response a is better, the mean over both orders; of a scalar model, Bradley and Terry's.
    pub p_a: f64,
    /// Probability that both labels have together in the whole vocabulary. NaN from a scalar model, as the margins.
    pub label_mass: f64,
    /// Logit A minus logit B with response a shown first, and with it shown second.
    pub margin_ab: f32,
    pub margin_ba: f32,
    /// The rewards of a scalar model; NaN from a judge.
    pub reward_a: f32,
    pub reward_b: f32,
    pub verdict: Side,
    /// Both orders agree.
    pub consistent: bool,
}

impl From<&Judged> for Judgment {
    fn from(judged: &Judged) -> Judgment {
        let (p_a, verdict) = (judged.p_a(), judged.verdict().into());
        match *judged {
            Judged::Judgment(j) => Judgment {
                p_a,
                label_mass: j.label_mass,
                margin_ab: j.margin_ab,
                margin_ba: j.margin_ba,
                reward_a: f32::NAN,
                reward_b: f32::NAN,
                verdict,
                consistent: j.consistent,
            },
            Judged::Rewards { a, b } => Judgment {
                p_a,
                label_mass: f64::NAN,
                margin_ab: f32::NAN,
                margin_ba: f32::NAN,
                reward_a: a,
                reward_b: b,
                verdict,
                consistent: true,
            },
        }
    }
}

/// A type by its name; none for "auto".
pub fn dtype(name: &str) -> Result<Option<Dtype>, Refusal> {
    match name {
        "auto" => Ok(None),
        "f32" => Ok(Some(Dtype::F32)),
        "bf16" => Ok(Some(Dtype::Bf16)),
        other => Err(Refusal::usage(format!("options.dtype is {other:?}; there are auto, f32 and bf16"))),
    }
}
