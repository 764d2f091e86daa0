//! The files of `tests/golden/`: what transformers computed, as `tests/golden/README.md` describes it.

use crate::architecture::root;
use gramophone::base::dtype::Dtype;
use gramophone::device::Device;
use gramophone::model::Model;
use gramophone::model::adapter::Start;
use gramophone::model::adapter::peft::Peft;
use gramophone::text::chat::Chat;
use gramophone::text::jinja::Date;
use gramophone::text::message::Message;
use gramophone::text::tokenizer::Tokenizer;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// Cases with a language-model head; the first three are the full ones, with renderings.
pub const LANGUAGE: [&str; 6] = ["llama", "qwen2", "qwen3", "llama_tied", "llama_bias", "qwen3_odd"];
/// Cases with a scalar head.
pub const SCALAR: [&str; 2] = ["llama_scalar", "qwen3_scalar"];

/// A model directory and what is expected of it.
pub struct Case<E> {
    pub name: &'static str,
    pub dir: PathBuf,
    pub expected: E,
    arrays: BTreeMap<String, Vec<f32>>,
}

/// What is expected of a language model.
#[derive(Deserialize)]
pub struct Language {
    pub date: String,
    pub labels: LabelIds,
    pub sequences: Vec<Sequence>,
    pub logits: Vec<LogitRows>,
    pub lm: LanguageLoss,
    pub gram: GramLoss,
    pub vocabulary: Option<Gradients>,
    pub gram_compat: Option<CompatLoss>,
    pub adamw: Run,
    pub greedy: Vec<Greedy>,
    pub judge_prompt: String,
    pub verdicts: Vec<Verdict>,
    #[serde(default)]
    pub rendered: Vec<Rendering>,
}

/// What is expected of a scalar reward model.
#[derive(Deserialize)]
pub struct Scalar {
    pub date: String,
    pub pad_token_id: i32,
    pub rewards: Vec<Reward>,
    pub bradley_terry: BradleyTerry,
    pub adamw: Run,
}

#[derive(Deserialize)]
pub struct LabelIds {
    #[serde(rename = "A")]
    pub a: i32,
    #[serde(rename = "B")]
    pub b: i32,
}

#[derive(Deserialize)]
pub struct Sequence {
    pub ids: Vec<i32>,
    /// Half-open ranges of target positions.
    pub spans: Vec<[usize; 2]>,
}

#[derive(Deserialize)]
pub struct LogitRows {
    pub sequence: usize,
    pub positions: Vec<usize>,
}

/// What is expected of an adapter, by the kind of its base.
#[derive(Deserialize)]
pub struct Adapted {
    pub gram: Option<Gradients>,
    pub lm: Option<LanguageLoss>,
    pub bradley_terry: Option<LanguageLoss>,
    #[serde(default)]
    pub rewards: Vec<f64>,
    pub adamw: Run,
}

/// The norm of a tensor and the stride at which its elements were kept, by parameter.
pub type Digests = BTreeMap<String, Digest>;

#[derive(Deserialize)]
pub struct Digest {
    pub norm: f64,
    pub stride: usize,
}

/// A loss over a batch and its gradient.
#[derive(Deserialize)]
pub struct Gradients {
    pub loss: f64,
    pub grad_norm: f64,
    pub gradients: Digests,
}

#[derive(Deserialize)]
pub struct LanguageLoss {
    pub batch: Vec<usize>,
    #[serde(flatten)]
    pub of: Gradients,
}

#[derive(Deserialize)]
pub struct GramLoss {
    pub epsilon: f32,
    pub rows: Vec<GramRow>,
    #[serde(flatten)]
    pub of: Gradients,
}

#[derive(Deserialize)]
pub struct GramRow {
    pub verdict: usize,
    pub order: String,
    pub label: String,
}

/// The sum of the means of micro-batches.
#[derive(Deserialize)]
pub struct CompatLoss {
    /// Indices of `gram.rows`.
    pub micro_batches: Vec<Vec<usize>>,
    pub loss: f64,
    pub grad_norm: f64,
}

#[derive(Deserialize)]
pub struct BradleyTerry {
    /// (chosen, rejected) as indices of the rewards.
    pub pairs: Vec<[usize; 2]>,
    pub batch: Vec<usize>,
    #[serde(flatten)]
    pub of: Gradients,
}

/// A run of AdamW.
#[derive(Deserialize)]
pub struct Run {
    pub lr: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    pub clip: f64,
    pub total: u64,
    pub warmup: u64,
    pub steps: Vec<Step>,
    pub parameters: Digests,
}

#[derive(Deserialize)]
pub struct Step {
    pub batch: Vec<usize>,
    pub lr: f64,
    pub loss: f64,
    pub grad_norm: f64,
}

#[derive(Deserialize)]
pub struct Greedy {
    pub prompt: Vec<i32>,
    pub new: Vec<i32>,
}

#[derive(Deserialize)]
pub struct Verdict {
    pub prompt: String,
    pub a: String,
    pub b: String,
    pub ab: Judged,
    pub ba: Judged,
}

#[derive(Deserialize)]
pub struct Judged {
    pub text: String,
    pub ids: Vec<i32>,
    pub margin: f64,
}

#[derive(Deserialize)]
pub struct Reward {
    pub conversation: String,
    pub text: String,
    pub ids: Vec<i32>,
    pub scored_position: usize,
    pub reward: f64,
    pub reward_at_last: f64,
}

#[derive(Deserialize)]
pub struct Rendering {
    pub conversation: String,
    pub options: Map<String, Value>,
    pub text: Option<String>,
    pub ids: Option<Vec<i32>>,
    pub error: Option<String>,
}

/// All language-model cases.
pub fn language() -> Vec<Case<Language>> {
    LANGUAGE.into_iter().map(Case::open).collect()
}

/// All scalar cases.
pub fn scalar() -> Vec<Case<Scalar>> {
    SCALAR.into_iter().map(Case::open).collect()
}

/// The message lists that renderings and rewards name.
pub fn conversations() -> BTreeMap<String, Vec<Message>> {
    let text = fs::read_to_string(root().join("tests/golden/conversations.json")).expect("conversations.json");
    let all: BTreeMap<String, Value> = serde_json::from_str(&text).expect("conversations.json");
    all.into_iter().map(|(name, messages)| (name, Message::conversation(&messages).unwrap())).collect()
}

impl<E: for<'de> Deserialize<'de>> Case<E> {
    pub fn open(name: &'static str) -> Case<E> {
        let dir = root().join("tests/golden").join(name);
        let text = fs::read_to_string(dir.join("expected.json")).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let expected = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}/expected.json: {e}"));
        let bytes = fs::read(dir.join("expected.safetensors")).expect("expected.safetensors");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("expected.safetensors");
        let floats = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let arrays = file.iter().map(|(name, t)| (name.to_string(), floats(t.data()))).collect();
        Case { name, dir, expected, arrays }
    }
}

impl<E> Case<E> {
    /// An array of `expected.safetensors`.
    pub fn array(&self, name: &str) -> &[f32] {
        self.arrays.get(name).unwrap_or_else(|| panic!("{}/expected.safetensors has no {name}", self.name))
    }

    /// The model in f32, mapped where it is stored so; of an adapter, the adapter beside its base.
    pub fn model(&self) -> Model {
        if !self.dir.join("adapter_config.json").exists() {
            return Model::open(&self.dir, |_| Dtype::F32).unwrap();
        }
        let (base, peft) = (self.base(), Peft::open(&self.dir).unwrap());
        let (base, _) = Model::open_base(&base, |_| Dtype::F32, peft.head, 0).unwrap();
        base.adapted(&Device::cpu(1), peft, Start::From(&self.dir)).unwrap()
    }

    /// The base of the adapter `lora/NAME`: the case `NAME`.
    pub fn base(&self) -> PathBuf {
        root().join("tests/golden").join(self.dir.file_name().unwrap())
    }

    /// The model in f32 as a trainer owns it.
    pub fn model_to_train(&self) -> Model {
        let model = self.model();
        if model.adapter.is_some() {
            return model;
        }
        let head = model.config.head;
        let (model, drawn) = Model::open_to_train(&self.dir, |_| Dtype::F32, head, 0).unwrap();
        assert!(drawn.is_empty(), "{}: {drawn:?} were drawn", self.name);
        model
    }

    /// The chat template on the day of the golden files.
    pub fn chat(&self, date: &str) -> Chat {
        let tokenizer = Arc::new(Tokenizer::open(&self.dir).unwrap());
        Chat::of(tokenizer).unwrap().with_date(Date::parse(date).unwrap()).unwrap()
    }
}

impl Case<Language> {
    /// The prompt of a verdict in one of its orders.
    pub fn prompt(&self, verdict: usize, order: &str) -> &Judged {
        let verdict = &self.expected.verdicts[verdict];
        match order {
            "ab" => &verdict.ab,
            "ba" => &verdict.ba,
            other => panic!("{}: no order {other}", self.name),
        }
    }
}
