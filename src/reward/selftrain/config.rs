//! The self-training file: what `gramophone self-train run.toml [key=value ...]` is told.
//!
//! Its own keys are in the table below. Four of its sections are training runs besides, with a run file's keys one level
//! deeper (`[prover.model]`, `[prover.train]`, `[reward.train]`, ...): `prover`, `reward`, `rounds` and `final`. `rounds` and `final` have
//! what `reward` was given unless they are given something else. What the pipeline itself decides (data files, stage, templates,
//! directories) is refused there by name.

use crate::error::{Error, Result};
use crate::text::proof::{Checks, Leaks, Loops};
use crate::train::config::given::{Given, Sections};
use crate::train::config::key::{Effect::*, Key, Origin, run_file};
use crate::train::config::setting::{Range::*, Setting, choices};
use crate::train::config::{self, KEYS as RUN_KEYS, Row, Run, Stage, digest, write};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Value;

#[cfg(test)]
mod tests;

choices! {
    /// Which prover writes the rationales of a round.
    Teacher {
        /// That of the beginning.
        Fixed = "fixed",
        /// One trained again before each round after the first, on all rationales accepted so far.
        Refreshed = "refreshed",
    }
    /// What a round's judge starts from.
    Start {
        /// The backbone.
        Backbone = "backbone",
        /// The judge before it.
        Previous = "previous",
    }
    /// What a round's judge learns from.
    Keep {
        /// All data accepted so far.
        All = "all",
        /// The proved labelled data and the round's own.
        Latest = "latest",
    }
}

run_file! {
    /// A self-training file with its overrides: every value, checked, and where it came from.
    Table;
    /// The whole.
    pipeline: Pipeline, Learned {
        /// Where everything is written.
        dir: PathBuf = "self-train".into(); Inert;
        /// Seed of labels, proofs and orders; each training run has its own in its `train.seed`.
        seed: u64 = 42;
        /// Rows of a unit of work: what is lost at most when the program is killed while it writes.
        unit: u64 = 256, AtLeast(1.0); Inert;
        /// End with a fine-tuning on the human rationales.
        fine_tune: bool = true;
    }
    /// What is read: files or globs in any format that training reads.
    data: Data, Learned {
        /// Labelled pairs with human rationales: HelpSteer3 rows, or pairs with `rationale`.
        rationales: Vec<String> = Vec::new();
        /// Labelled pairs without a rationale.
        labelled: Vec<String> = Vec::new();
        /// Unlabelled pairs: one entry for each round, or any other number, shared out among the rounds. Labels are only measured against.
        unlabelled: Vec<String> = Vec::new();
        /// Labelled pairs that every judge is measured on.
        held_out: Vec<String> = Vec::new(); Inert;
    }
    /// The texts around the data; ours where not set.
    forms: Forms, Learned {
        /// Judge template that asks for a rationale.
        judge: Option<PathBuf> = None;
        /// Proving template.
        proving: Option<PathBuf> = None;
        /// Layout of rationales.
        rationale: Option<PathBuf> = None;
        /// Layout of proofs.
        proof: Option<PathBuf> = None;
        /// The date that a chat template may write.
        template_date: Option<String> = None;
    }
    /// What a proof must keep to be taken.
    rules: Rules, Learned {
        /// Longest rationale in the prover's tokens.
        max_tokens: u64 = 1024, AtLeast(1.0);
        /// A run of so many words is a loop where it stands more than `loop_times` times; 0 for no such rule.
        loop_words: u64 = 8;
        /// How often such a run may stand.
        loop_times: u64 = 3, AtLeast(1.0);
        /// Further phrases that betray the label.
        leaks: Vec<String> = Vec::new();
        /// Patterns: what matches in the question must stand in the proof, all of it and in order.
        quotes: Vec<String> = Vec::new();
        /// What a rationale must match if A is better; `{prompt}`, `{response_a}` and `{response_b}` are the pair's own texts.
        demand_a: Option<String> = None;
        /// The same if B is better.
        demand_b: Option<String> = None;
    }
    /// The proving model.
    prover: Prover, Learned {
        /// Proofs of each pair, of which the best is kept.
        proofs: u64 = 4, Within(1.0, 64.0);
        /// Temperature of proofs.
        temperature: f64 = 0.75, AtLeast(0.0);
        /// Nucleus of proofs.
        top_p: f64 = 1.0, Within(0.0, 1.0);
        /// Longest proof.
        max_tokens: u64 = 2048, AtLeast(1.0);
        /// Longest proving prompt and proof; longer prompts are left out.
        context: u64 = 8192, AtLeast(1.0);
        /// Whether it learns from the rounds.
        teacher: Teacher = Teacher::Fixed;
    }
    /// The judge.
    reward: Reward, Learned {
        /// Votes on each unlabelled pair in each of both orders.
        votes: u64 = 3, Within(1.0, 64.0);
        /// Temperature of votes.
        temperature: f64 = 0.75, AtLeast(0.0);
        /// Nucleus of votes.
        top_p: f64 = 1.0, Within(0.0, 1.0);
        /// Longest rationale of a vote; longer ones are invalid.
        max_tokens: u64 = 1024, AtLeast(1.0);
        /// Longest judge prompt and rationale; longer prompts are left out.
        context: u64 = 8192, AtLeast(1.0);
        /// Share of all votes, invalid ones too, that the majority needs.
        agreement: f64 = 0.8, Within(0.0, 1.0);
        /// Least mean probability of the label over the valid votes.
        tau: f64 = 0.8, Within(0.0, 1.0);
        /// The first judge learns from the human rationales, too.
        with_rationales: bool = false;
        /// Sequences that are written together.
        batch: u64 = 16, Within(1.0, 1024.0); Inert;
    }
    /// The rounds on unlabelled pairs.
    rounds: Rounds, Learned {
        /// How many.
        count: u64 = 3, Within(0.0, 100.0);
        /// What each round's judge starts from.
        start: Start = Start::Backbone;
        /// What each round's judge learns from.
        keep: Keep = Keep::All;
    }
}

/// Sections that are training runs besides.
const TRAININGS: [(&str, &str); 4] =
    [("prover", "prover."), ("reward", "reward."), ("rounds", "rounds."), ("final", "final.")];

/// Keys of a training run that the pipeline decides.
const OWN: [&str; 13] = [
    "data.train",
    "data.eval",
    "data.format",
    "data.columns",
    "data.dataset_info",
    "data.on_error",
    "data.template",
    "data.template_date",
    "data.rationale_form",
    "data.proof_form",
    "train.stage",
    "checkpoint.dir",
    "checkpoint.resume",
];

/// The file, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct SelfTrain {
    pub table: Table,
    pub prover: Run,
    /// The first judge, that of the rounds, and the last.
    pub reward: Run,
    pub rounds: Run,
    pub last: Run,
}

impl SelfTrain {
    /// Reads a self-training file and applies `key=value` overrides, the later ones last.
    ///
    /// # Errors
    /// The file cannot be read; or the first thing wrong in it, with file and line.
    pub fn load(path: &Path, overrides: &[String]) -> Result<SelfTrain> {
        SelfTrain::parse(&config::text_of(path)?, &path.display().to_string(), overrides)
    }

    /// [`SelfTrain::load`] of a text; `name` stands for the file in messages.
    ///
    /// # Errors
    /// As [`SelfTrain::load`].
    pub fn parse(text: &str, name: &str, overrides: &[String]) -> Result<SelfTrain> {
        let mut given = Whole::new();
        given.file(text, name)?;
        for argument in overrides {
            given.argument(argument)?;
        }
        given.settle()
    }

    /// Every value and where it came from, as a file that means the same: what `--print-config` prints.
    pub fn explain(&self) -> String {
        let mut text = format!("# Config hash {}.\n{}", self.hash(), write(self.rows(), ""));
        for (prefix, run) in self.runs() {
            text += &write(run.rows().filter(|row| is_free(prefix, row.key.full)), prefix);
        }
        text
    }

    /// Sixteen hexadecimal digits that are the same for files that learn the same from the same files.
    pub fn hash(&self) -> String {
        let own = KEYS.iter().zip(self.table.values()).filter(|(key, _)| key.effect == Learned);
        let own = own.map(|(key, value)| (key.full.to_string(), value));
        let runs = self.runs().into_iter().flat_map(|(prefix, run)| {
            let learned: Vec<_> = run.learned().filter(|(key, _)| is_free(prefix, key.full)).collect();
            learned.into_iter().map(move |(key, value)| (format!("{prefix}{}", key.full), value))
        });
        digest(own.chain(runs))
    }

    /// The rules of the proofs.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn checks(&self) -> Result<Checks> {
        let rules = &self.table.rules;
        let mut leaks = Leaks::standard();
        leaks.0.extend(rules.leaks.clone());
        let loops = Loops { words: rules.loop_words as usize, times: rules.loop_times as usize };
        let checks = Checks { max_tokens: rules.max_tokens as usize, loops, leaks, ..Checks::default() };
        checks.with_patterns(&rules.quotes, [rules.demand_a.clone(), rules.demand_b.clone()])
    }

    fn runs(&self) -> [(&'static str, &Run); 4] {
        let runs = [&self.prover, &self.reward, &self.rounds, &self.last];
        std::array::from_fn(|i| (TRAININGS[i].1, runs[i]))
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        let values = KEYS.iter().zip(self.table.values());
        values.map(|(key, value)| Row::new(key, value, self.table.origin(key.full)))
    }
}

/// Whether a person may set this key of a training run.
fn is_free(prefix: &str, key: &str) -> bool {
    let judge = prefix == "rounds." || prefix == "final.";
    !(OWN.contains(&key) || judge && key.starts_with("model."))
}

/// What a person gave: to the pipeline, and to each training run.
struct Whole {
    own: Given,
    runs: [Given; 4],
}

impl Whole {
    fn new() -> Whole {
        Whole { own: Given::of(KEYS, ""), runs: TRAININGS.map(|(_, prefix)| Given::of(RUN_KEYS, prefix)) }
    }

    /// The training run that `section` is, if `inner` is a section of it.
    fn run(&mut self, section: &str, inner: &str) -> Option<&mut Given> {
        let at = TRAININGS.iter().position(|(name, _)| *name == section)?;
        Some(&mut self.runs[at]).filter(|run| run.has_section(inner))
    }

    fn file(&mut self, text: &str, name: &str) -> Result<()> {
        let sections = Sections::parse(text, name)?;
        for (section, inner) in &sections.places {
            let (name, origin) = (section.get_ref().as_ref(), sections.place(section.span().start));
            let (Some(table), Some(inner)) = (sections.values[name].as_table(), inner.get_ref().as_table()) else {
                return Err(self.own.no_table(name).at(origin));
            };
            for (key, deeper) in inner {
                let (key, origin) = (key.get_ref().as_ref(), sections.place(key.span().start));
                let value = &table[key];
                match (self.run(name, key), value.as_table(), deeper.get_ref().as_table()) {
                    (Some(run), Some(values), Some(places)) => {
                        for (last, _) in places {
                            let origin = sections.place(last.span().start);
                            let last = last.get_ref().as_ref();
                            run.take(&format!("{key}.{last}"), values[last].clone(), origin)?;
                        }
                    }
                    (Some(run), ..) => return Err(run.no_table(key).at(origin)),
                    (None, ..) => self.own.take(&format!("{name}.{key}"), value.clone(), origin)?,
                }
            }
            let known = self.own.has_section(name) || TRAININGS.iter().any(|(training, _)| *training == name);
            if inner.is_empty() && !known {
                return Err(self.own.unknown(name).at(origin));
            }
        }
        Ok(())
    }

    fn argument(&mut self, argument: &str) -> Result<()> {
        let key = argument.split('=').next().unwrap_or_default().trim();
        let parts: Vec<&str> = key.split('.').collect();
        if let [section, inner, _, ..] = parts[..]
            && let Some(run) = self.run(section, inner)
        {
            return run.argument(&argument.trim_start()[section.len() + 1..]);
        }
        self.own.argument(argument)
    }

    /// Checks everything and gives the pipeline's own keys of each run their values.
    fn settle(mut self) -> Result<SelfTrain> {
        let table = Table::read(&self.own, Stage::Finetune)?;
        check(&table)?;
        for (run, (_, prefix)) in self.runs.iter().zip(TRAININGS) {
            if let Some((key, at)) = run.given().find(|(key, _)| !is_free(prefix, key)) {
                let instead = match key.starts_with("model.") {
                    true => "the judge's model is set in [reward.model]",
                    false => "the pipeline sets it",
                };
                return Err(Error::usage(format!("{prefix}{key}: {instead}")).at(at));
            }
        }
        let [prover, reward, rounds, last] = &mut self.runs;
        for judge in [&mut *rounds, &mut *last] {
            // A length of its own, of either kind, replaces the inherited one.
            let own_length = judge.has("train.steps") || judge.has("train.epochs");
            judge.inherit(reward, |key| !own_length || !matches!(key, "train.steps" | "train.epochs"));
        }
        let epochs = |run: &mut Given, epochs: f64| {
            if !run.has("train.epochs") && !run.has("train.steps") {
                run.set("train.epochs", Value::Float(epochs), Origin::Default);
            }
        };
        epochs(reward, 1.0);
        epochs(rounds, 1.0);
        let forms = &table.forms;
        for (run, name, stage, template) in [
            (prover, "prover", "prove", &forms.proving),
            (reward, "reward", "sft", &forms.judge),
            (rounds, "rounds", "sft", &forms.judge),
            (last, "final", "sft", &forms.judge),
        ] {
            let mut own = |key: &str, value: Option<String>| {
                if let Some(value) = value {
                    run.set(key, Value::String(value), Origin::Default);
                }
            };
            let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
            own("train.stage", Some(stage.into()));
            own("data.train", Some("data.jsonl".into()));
            own("checkpoint.dir", path(&Some(table.pipeline.dir.join(name))));
            own("data.template", path(template));
            own("data.rationale_form", path(&forms.rationale));
            own("data.proof_form", path(&forms.proof));
            own("data.template_date", forms.template_date.clone());
        }
        let run = |i: usize| Run::of(&self.runs[i]).map_err(|e| e.at(format!("[{}]", TRAININGS[i].0)));
        let file = SelfTrain { prover: run(0)?, reward: run(1)?, rounds: run(2)?, last: run(3)?, table };
        file.checks()?;
        Ok(file)
    }
}

/// Checks all that involves more than one key, or what a range cannot say.
fn check(table: &Table) -> Result<()> {
    let wrong = |key: &str, message: String| match table.origin(key) {
        Origin::Default => Error::usage(message),
        origin => Error::usage(message).at(origin),
    };
    let data = &table.data;
    for (key, files, what) in [
        ("data.rationales", &data.rationales, "the prover learns from labelled pairs with human rationales"),
        ("data.labelled", &data.labelled, "the first judge learns from labelled pairs that the prover proves"),
    ] {
        if files.is_empty() {
            return Err(wrong(key, format!("{key} names no file: {what}")));
        }
    }
    if data.unlabelled.is_empty() && table.rounds.count > 0 {
        let message = format!("data.unlabelled names no file for rounds.count = {}", table.rounds.count);
        return Err(wrong("data.unlabelled", message));
    }
    for (key, files) in [
        ("data.rationales", &data.rationales),
        ("data.labelled", &data.labelled),
        ("data.unlabelled", &data.unlabelled),
        ("data.held_out", &data.held_out),
    ] {
        if files.iter().any(|name| name == "-") {
            return Err(wrong(
                key,
                format!("{key}: standard input (-) cannot be read again after a stop; name a file"),
            ));
        }
    }
    for (key, top_p) in [("prover.top_p", table.prover.top_p), ("reward.top_p", table.reward.top_p)] {
        if top_p == 0.0 {
            return Err(wrong(key, format!("{key} = 0: must be above 0")));
        }
    }
    if let (votes @ 2.., 0.0) = (table.reward.votes, table.reward.temperature) {
        let message =
            format!("reward.temperature = 0 makes all {votes} votes of an order the same: raise it, or vote once");
        return Err(wrong("reward.temperature", message));
    }
    Ok(())
}

/// The reference of the pipeline's own keys as Markdown.
pub fn reference() -> String {
    config::reference_of(KEYS)
}
