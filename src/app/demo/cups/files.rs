//! The shell game's files: what `gramophone self-train` and `gramophone train` read.

use super::Cups;
use super::world::{Item, Set, World};
use crate::base::atomic::{atomic_dir, write_file};
use crate::base::dtype::Dtype;
use crate::error::{Error, Result};
use crate::model::config::preset::Shape;
use crate::model::config::{Config, Family};
use crate::text::bpe::Recipe;
use crate::text::proof::{Form, Rule};
use crate::text::template::JudgeTemplate;
use crate::text::tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The judge's prompt when it answers at once, and when it is to reason first.
pub const VERDICT: &str = "{prompt}\nA {response_a}\nB {response_b}\n";
pub const REASONING: &str = "{prompt}\nA {response_a}\nB {response_b}\n<answer>\n";
/// The prover's prompt.
pub const PROVING: &str = "{prompt}\nA {response_a}\nB {response_b}\nprove {label}\n";
/// What a judge writes, and what a prover writes; see `text::proof`.
pub const RATIONALE: &str = "<think>\n{steps}\nso {comparison}\n</think>\n<answer>\n{label}\n</answer>\n";
pub const PROOF: &str = "first {steps} then {comparison} thus {label}\n";

/// What a sound proof holds: every swap, in order; the last cup is the answer that it calls right.
const QUOTE: &str = r"\b[a-e][a-e]\b";
const DEMANDS: [&str; 2] = [
    r" {response_a}\nso A {response_a} yes B {response_b} no\n",
    r" {response_b}\nso A {response_a} no B {response_b} yes\n",
];

/// The world's files in one directory.
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// Writes all of them.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn write(dir: &Path, cups: &Cups) -> Result<Files> {
        let world = World::new(cups.seed, cups.swaps);
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let files = Files { dir: dir.into() };
        for (name, text) in [
            ("verdict.txt", VERDICT),
            ("reasoning.txt", REASONING),
            ("proving.txt", PROVING),
            ("rationale.form", RATIONALE),
            ("proof.form", PROOF),
        ] {
            files.put(name, text)?;
        }
        let reasoned = world.items(Set::Reasoned, cups.reasoned);
        let labelled = world.items(Set::Labelled, cups.labelled);
        files.put("reasoned.jsonl", &rows(&reasoned, reasoned_row))?;
        files.put("labelled.jsonl", &rows(&labelled, Item::row))?;
        files.put("labels.jsonl", &rows(&[reasoned, labelled].concat(), Item::row))?;
        let unlabelled = world.items(Set::Unlabelled, cups.unlabelled * cups.rounds);
        for (i, pool) in unlabelled.chunks(cups.unlabelled.max(1)).enumerate() {
            // The label is there to be measured against; self-training reads it as the truth and learns nothing from it.
            files.put(&unlabelled_name(i), &rows(pool, Item::row))?;
        }
        for (name, set) in [("validation.jsonl", Set::Validation), ("test.jsonl", Set::Test)] {
            files.put(name, &rows(&world.items(set, cups.held_out), Item::row))?;
        }
        files.model(&unlabelled)?;
        Ok(files)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        write_file(self.path(name), text.as_bytes())
    }

    /// A tokenizer of the game's words, and the shape of a model.
    fn model(&self, items: &[Item]) -> Result<()> {
        let texts: Vec<String> = items.iter().take(2000).map(said).collect();
        let tokenizer = Tokenizer::train(texts.iter().map(String::as_str), &Recipe::new(VOCABULARY))?;
        let sizes = Shape {
            vocab: Some(tokenizer.vocab_size().next_multiple_of(16)),
            width: Some(64),
            layers: Some(2),
            heads: Some(4),
            kv_heads: Some(4),
            head_size: Some(16),
            ffn: Some(160),
            max_positions: Some(256),
            tied: Some(true),
            rope_theta: Some(1e4),
            init_std: Some(0.125),
            ..Shape::default()
        };
        let mut config = Config::family_shape(Family::Qwen3, &sizes)?;
        config.eos = tokenizer.stop().to_vec();
        config.pad = tokenizer.pad();
        let json = serde_json::to_string_pretty(&config.to_json(Dtype::F32)).expect("numbers and texts");
        self.put("config.json", &json)?;
        atomic_dir(self.path("tokenizer"), |dir| tokenizer.save(dir))
    }

    /// The self-training file, for everything of these settings.
    pub fn self_training(&self, cups: &Cups, out: &Path) -> String {
        let path = |name: &str| quoted(&self.path(name));
        let pools: Vec<String> = (0..cups.rounds).map(|i| path(&unlabelled_name(i))).collect();
        let train = |phase: &super::Phase| training(phase, cups);
        let logs = "tensorboard = false\ncsv = false\nreport = false\n";
        let model = self.model_section();
        format!(
            "[pipeline]\ndir = {out}\nseed = {seed}\nunit = 1000\nfine_tune = false\n\
             [data]\nrationales = {rationales}\nlabelled = {labelled}\nunlabelled = [{pools}]\n\
             [forms]\njudge = {judge}\nproving = {proving}\nrationale = {form}\nproof = {proof}\n\
             [rules]\nquotes = '{QUOTE}'\ndemand_a = '{}'\ndemand_b = '{}'\n\
             [prover]\nproofs = {proofs}\ntemperature = 1.0\nmax_tokens = {LONGEST}\ncontext = {CONTEXT}\nteacher = \"{teacher}\"\n\
             [prover.model]\n{model}[prover.train]\n{prover}empty_context = {empty}\n[prover.log]\n{logs}\
             [reward]\nvotes = {votes}\ntemperature = 1.0\nmax_tokens = {LONGEST}\ncontext = {CONTEXT}\nagreement = {agreement}\n\
             tau = 0.5\nbatch = 64\n\
             [reward.model]\n{model}[reward.train]\n{reward}[reward.log]\n{logs}\
             [rounds]\ncount = {rounds}\nstart = \"previous\"\n[rounds.train]\n{round}",
            DEMANDS[0],
            DEMANDS[1],
            out = quoted(out),
            seed = cups.seed,
            rationales = path("reasoned.jsonl"),
            labelled = path("labelled.jsonl"),
            pools = pools.join(", "),
            judge = path("reasoning.txt"),
            proving = path("proving.txt"),
            form = path("rationale.form"),
            proof = path("proof.form"),
            proofs = cups.proofs,
            empty = cups.empty_context,
            teacher = if cups.refreshed { "refreshed" } else { "fixed" },
            prover = train(&cups.prover),
            votes = cups.votes,
            agreement = cups.agreement,
            reward = train(&cups.judge),
            rounds = cups.rounds,
            round = train(&cups.round),
        )
    }

    /// The run file of a judge that learns the labels alone.
    pub fn label_only(&self, phase: &super::Phase, cups: &Cups, out: &Path) -> String {
        format!(
            "[model]\n{}[data]\ntrain = {}\ntemplate = {}\n[train]\nstage = \"finetune\"\n{}[checkpoint]\ndir = {}\n\
             [log]\ntensorboard = false\ncsv = false\nreport = false\n",
            self.model_section(),
            quoted(&self.path("labels.jsonl")),
            quoted(&self.path("verdict.txt")),
            training(phase, cups),
            quoted(out),
        )
    }

    fn model_section(&self) -> String {
        format!("config = {}\ntokenizer = {}\n", quoted(&self.path("config.json")), quoted(&self.path("tokenizer")))
    }
}

/// Tokens of the vocabulary: the bytes, the words of the game, and what stands around them.
const VOCABULARY: usize = 352;
/// Tokens of the longest reply, and of a prompt with it.
pub const LONGEST: usize = 96;
pub const CONTEXT: usize = 192;

fn training(phase: &super::Phase, cups: &Cups) -> String {
    let super::Phase { steps, batch, lr } = phase;
    format!(
        "steps = {steps}\nbatch = {batch}\nmicro_tokens = 4096\nlr = {lr:e}\nfinal_lr = 0.1\nwarmup = {}\nbeta2 = 0.98\n\
         weight_decay = {:?}\nseed = {}\n",
        20.min(steps / 4),
        cups.decay,
        cups.seed,
    )
}

fn unlabelled_name(i: usize) -> String {
    format!("unlabelled-{}.jsonl", i + 1)
}

fn rows(items: &[Item], row: impl Fn(&Item) -> serde_json::Value) -> String {
    items.iter().map(|item| row(item).to_string() + "\n").collect()
}

fn quoted(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

fn sections(item: &Item) -> BTreeMap<String, String> {
    [("steps", item.steps.clone()), ("comparison", item.comparison())].map(|(n, t)| (n.to_string(), t)).into()
}

/// The rule between rationales and proofs.
pub fn rule() -> Rule {
    let form = |name, text| Form::parse(name, text).expect("the form is ours");
    Rule::new(form("rationale", RATIONALE), form("proof", PROOF)).expect("both have the same sections")
}

/// What a judge writes about an item.
pub fn rationale(item: &Item) -> String {
    rule().rationale.print(&sections(item), item.better)
}

fn reasoned_row(item: &Item) -> serde_json::Value {
    let mut row = item.row();
    row["rationale"] = rationale(item).into();
    row
}

/// All that is ever said about an item, for the tokenizer.
fn said(item: &Item) -> String {
    let template = |text| JudgeTemplate::parse("shell game", text).expect("the template is ours");
    let asked = template(REASONING).fill(&item.prompt, &item.a.to_string(), &item.b.to_string());
    let proof = rule().proof.print(&sections(item), item.better);
    format!("user\n{asked}assistant\n{}\nprove A\nprove B\n{proof}", rationale(item))
}
