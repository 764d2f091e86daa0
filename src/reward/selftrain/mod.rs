//! Self-training (GRAM-R², section 3): the whole of it as one program that can be stopped anywhere and goes on.
//!
//! ```text
//! R0  human rationales             -> prover
//! R1  labelled pairs  -> prover    -> data 0
//! R2  data 0                       -> judge 0
//! R3  for i in 1..=rounds:
//!        unlabelled pairs i -> judge i-1 votes, both orders -> labels that are agreed on and sure
//!        labels             -> prover writes k proofs       -> data i: the best that keeps the rules
//!        data 0 .. i        -> judge i, from the backbone or from judge i-1
//! R4  human rationales             -> the last judge, fine-tuned
//! ```
//! Rationales to learn from are always the prover's; the judge only says which response is better. Everything between two steps
//! is text in JSON rows, so prover and judge may have different tokenizers: each encodes the text with its own.
//!
//! A step is one or more units of work (see [`store`]): an imported file, some hundred pairs voted on or proved, the merged
//! data of a round, a training run. A training run has checkpoints of its own and resumes within the unit. All random
//! bits are keyed by seeds and texts, so a run that was killed ends in the bytes of one that was not.

pub mod config;
mod models;
mod rows;
pub mod store;
pub mod votes;

use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::reward::rationale;
use crate::reward::vote::Rule as VoteRule;
use crate::text::example::Side;
use crate::train::config::Run;
use crate::train::log::Sink;
use crate::train::run;
use config::{Keep, SelfTrain, Start, Teacher};
use models::Work;
use rows::{Imported, Pooled, Voted, push};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use store::Store;
use votes::{Right, Stats};

/// How a judge did on the held-out pairs: one greedy vote in each order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub pairs: usize,
    /// Right in the mean over both orders; pairs without a valid vote are wrong.
    pub right: usize,
    /// Both votes valid and for the same response.
    pub consistent: usize,
    /// Invalid votes, of two for each pair.
    pub invalid: usize,
}

/// One judge, and the data that made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `labelled`, `round 1`, ..., `final`.
    pub name: String,
    /// What became of its pairs; the last judge has none of its own.
    pub stats: Option<Stats>,
    /// Pairs its judge learned from.
    pub learned: usize,
    /// `None` without held-out pairs.
    pub measured: Option<Measured>,
    /// The judge's directory.
    pub model: PathBuf,
}

/// How a self-training ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The last judge's directory; `None` if it was told to stop before.
    pub model: Option<PathBuf>,
    pub entries: Vec<Entry>,
}

/// Runs to the end, or until `stop` says so: it is asked before each unit of work, in training before each step, and in voting and
/// proving before each token. `told` hears all entries so far whenever there is a new one.
///
/// # Errors
/// What is wrong with the file, the data or the models; a set of pairs of which nothing is accepted, with its histograms.
pub fn self_train(
    dev: &Device,
    file: &SelfTrain,
    sink: &mut dyn Sink,
    stop: &dyn Fn() -> bool,
    told: &mut dyn FnMut(&[Entry]) -> Result<()>,
) -> Result<Finished> {
    let rule = models::check(file)?;
    let store = Store::open(&file.table.pipeline.dir, file.hash(), &file.explain(), stop)?;
    let mut pipeline = Pipeline { dev, file, store, sink, stop, told, entries: Vec::new() };
    match pipeline.run(&rule) {
        Ok(model) => Ok(Finished { model: Some(model), entries: pipeline.entries }),
        Err(e) if e.kind() == Kind::Interrupted => {
            pipeline.sink.note("stopped; the same command goes on from here");
            Ok(Finished { model: None, entries: pipeline.entries })
        }
        Err(e) => Err(e),
    }
}

struct Pipeline<'a> {
    dev: &'a Device,
    file: &'a SelfTrain,
    store: Store<'a>,
    sink: &'a mut dyn Sink,
    stop: &'a dyn Fn() -> bool,
    told: &'a mut dyn FnMut(&[Entry]) -> Result<()>,
    entries: Vec<Entry>,
}

/// The imported pairs.
struct Pairs {
    rationales: PathBuf,
    labelled: Vec<Pooled>,
    pools: Vec<Vec<Pooled>>,
    held_out: Vec<Pooled>,
}

impl Pipeline<'_> {
    fn run(&mut self, rule: &crate::text::proof::Rule) -> Result<PathBuf> {
        let table = &self.file.table;
        let pairs = self.import(rule)?;
        let mut prover = self.train("prover", &self.file.prover, &[&pairs.rationales], None)?;
        let first = self.prove("labelled", &prover, &pairs.labelled, Stats::default())?;
        let mut all = vec![first];
        let own = |data: &[PathBuf]| match table.reward.with_rationales {
            true => [std::slice::from_ref(&pairs.rationales), data].concat(),
            false => data.to_vec(),
        };
        let mut judge = self.train("reward", &self.file.reward, &own(&all), None)?;
        self.tell("labelled", "reward", &judge, &own(&all), &pairs.held_out)?;
        for (i, pool) in pairs.pools.iter().enumerate() {
            let round = format!("round-{}", i + 1);
            if table.prover.teacher == Teacher::Refreshed && i > 0 {
                let data = [std::slice::from_ref(&pairs.rationales), &all[..]].concat();
                prover = self.train(&format!("{round}/prover"), &self.file.prover, &data, None)?;
            }
            let (labels, stats) = self.label(&round, &judge, pool)?;
            let data = self.prove(&round, &prover, &labels, stats)?;
            all.push(data.clone());
            let learned = match table.rounds.keep {
                Keep::All => own(&all),
                Keep::Latest => own(&[all[0].clone(), data]),
            };
            let from = Some(judge.as_path()).filter(|_| table.rounds.start == Start::Previous);
            let next = self.train(&format!("{round}/reward"), &self.file.rounds, &learned, from)?;
            judge = next;
            self.tell(&format!("round {}", i + 1), &round, &judge, &learned, &pairs.held_out)?;
        }
        if table.pipeline.fine_tune {
            let data = [pairs.rationales.clone()];
            judge = self.train("final", &self.file.last, &data, Some(&judge))?;
            self.tell("final", "final", &judge, &data, &pairs.held_out)?;
        }
        Ok(judge)
    }

    /// All files that are named, as rows of ours: what is read later is what was read first.
    fn import(&mut self, rule: &crate::text::proof::Rule) -> Result<Pairs> {
        let file = self.file;
        let (data, seed, count) = (&file.table.data, file.table.pipeline.seed, file.table.rounds.count as usize);
        let rationales = self.unit("data/rationales.jsonl", || rows::rationales(&data.rationales, rule, seed))?;
        let labelled = self.unit("data/labelled.jsonl", || rows::labelled(&data.labelled, "labelled", seed))?;
        let mut pools = Vec::new();
        for i in 0..count {
            let what = format!("unlabelled, round {}", i + 1);
            let path =
                self.unit(&format!("data/unlabelled-{}.jsonl", i + 1), || match data.unlabelled.len() == count {
                    true => rows::pool(&data.unlabelled[i..=i], &what, seed, None),
                    false => rows::pool(&data.unlabelled, &what, seed, Some((i, count))),
                })?;
            pools.push(rows::pooled(&path)?);
        }
        let held_out = match data.held_out.is_empty() {
            true => Vec::new(),
            false => {
                let path = self.unit("data/held-out.jsonl", || rows::labelled(&data.held_out, "held out", seed))?;
                rows::pooled(&path)?
            }
        };
        Ok(Pairs { labelled: rows::pooled(&labelled)?, rationales, pools, held_out })
    }

    /// A unit that is an imported file.
    fn unit(&mut self, name: &str, import: impl FnOnce() -> Result<Imported>) -> Result<PathBuf> {
        let Pipeline { store, sink, .. } = self;
        store.file(name, || {
            let Imported { bytes, note } = import()?;
            sink.note(&note);
            Ok(bytes)
        })
    }

    /// A training run, from the model of its own section or from another one. Its directory is `name`.
    fn train<P: AsRef<Path>>(&mut self, name: &str, run: &Run, data: &[P], from: Option<&Path>) -> Result<PathBuf> {
        let mut run = from.map_or(run.clone(), |dir| run.clone().starting_from(dir));
        run.data.train = data.iter().map(|path| path.as_ref().display().to_string()).collect();
        run.checkpoint.dir = self.store.path(name);
        let Pipeline { dev, store, sink, stop, .. } = self;
        store.model(name, || {
            sink.note(&format!("training: {name}"));
            let finished = run::run(dev, &run, *sink, stop).map_err(|e| e.at(name))?;
            match finished.stopped {
                true => Err(Error::new(Kind::Interrupted, "stopped; the same command goes on from here")),
                false => Ok(finished.checkpoint),
            }
        })
    }

    /// Pseudo-labels for a pool: those that the votes agree on and are sure of.
    fn label(&mut self, round: &str, judge: &Path, pool: &[Pooled]) -> Result<(Vec<Pooled>, Stats)> {
        let reward = &self.file.table.reward;
        let settings = rationale::Settings {
            votes: reward.votes as usize,
            rule: VoteRule::Majority,
            adaptive: None,
            temperature: reward.temperature as f32,
            top_p: reward.top_p as f32,
            max_tokens: reward.max_tokens as usize,
            seed: self.file.table.pipeline.seed,
        };
        let voted = self.votes(&format!("{round}/votes"), judge, pool, settings)?;
        let (mut labels, mut stats) = (Vec::new(), Stats { pairs: pool.len(), ..Stats::default() });
        for (pooled, voted) in pool.iter().zip(voted) {
            let decided = match voted {
                Voted::TooLong => Err(rows::PROMPT_TOO_LONG),
                Voted::Ballot(ballot) => {
                    stats.agreement.add(ballot.agreement());
                    stats.confidence.add(ballot.confidence());
                    if let Some(label) = ballot.label() {
                        stats.voted.add(label, pooled.truth);
                    }
                    ballot.decide(reward.agreement, reward.tau).map_err(|doubt| doubt.name())
                }
            };
            match decided {
                Err(reason) => *stats.reasons.entry(reason.into()).or_default() += 1,
                Ok(label) => {
                    stats.kept.add(label, pooled.truth);
                    let mut labelled = pooled.clone();
                    labelled.claim.label = label;
                    labels.push(labelled);
                }
            }
        }
        stats.labelled = labels.len();
        self.sink.note(&format!("{round}: {} of {} pairs have a label", labels.len(), pool.len()));
        Ok((labels, stats))
    }

    /// What a judge says of each pair, in order.
    fn votes(
        &mut self,
        name: &str,
        judge: &Path,
        pairs: &[Pooled],
        settings: rationale::Settings,
    ) -> Result<Vec<Voted>> {
        let work = Work { dev: self.dev, file: self.file, model: judge, name, stop: self.stop };
        let mut voted = Vec::with_capacity(pairs.len());
        for path in work.vote(&mut self.store, pairs, settings)? {
            for row in rows::read(&path)? {
                voted.push(rows::ballot(&row)?);
            }
        }
        Ok(voted)
    }

    /// Training data of labelled pairs: `data.jsonl`, beside what was rejected and `stats.json`. `stats` knows how they got
    /// their labels.
    fn prove(&mut self, name: &str, prover: &Path, labels: &[Pooled], mut stats: Stats) -> Result<PathBuf> {
        if stats.pairs == 0 {
            (stats.pairs, stats.labelled) = (labels.len(), labels.len());
        }
        let proofs = format!("{name}/proofs");
        let work = Work { dev: self.dev, file: self.file, model: prover, name: &proofs, stop: self.stop };
        let (mut data, mut rejects) = (Vec::new(), Vec::new());
        for path in work.prove(&mut self.store, labels)? {
            for row in rows::read(&path)? {
                count(&mut stats, &row.value);
                push(if row.value.contains_key("reason") { &mut rejects } else { &mut data }, &row.value);
            }
        }
        self.store.file(&format!("{name}/rejects.jsonl"), || Ok(rejects))?;
        let json = serde_json::to_vec_pretty(&stats).expect("numbers and texts");
        self.store.file(&format!("{name}/stats.json"), || Ok(json))?;
        let data = self.store.file(&format!("{name}/data.jsonl"), || Ok(data))?;
        if stats.accepted == 0 {
            return Err(Error::data(stats.nothing(&name.replace('-', " "))));
        }
        self.sink.note(&format!("{name}: {} of {} labels are proved", stats.accepted, stats.labelled));
        Ok(data)
    }

    /// Measures a judge and tells about it. `name` is for people, `dir` is where its data lies.
    fn tell<P: AsRef<Path>>(
        &mut self,
        name: &str,
        dir: &str,
        judge: &Path,
        data: &[P],
        held_out: &[Pooled],
    ) -> Result<()> {
        let measured = match held_out.is_empty() {
            true => None,
            false => Some(self.measure(dir, judge, held_out)?),
        };
        let stats = self.store.path(if dir == "reward" { "labelled" } else { dir }).join("stats.json");
        let stats = match std::fs::read(&stats) {
            Ok(bytes) => {
                Some(serde_json::from_slice(&bytes).map_err(|e| Error::data(e.to_string()).at(stats.display()))?)
            }
            // The last judge learns from the human rationales alone.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("read", &stats, e)),
        };
        let mut learned = 0;
        for path in data {
            learned += rows::read(path.as_ref())?.len();
        }
        self.entries.push(Entry { name: name.into(), stats, learned, measured, model: judge.into() });
        (self.told)(&self.entries)
    }

    fn measure(&mut self, dir: &str, judge: &Path, held_out: &[Pooled]) -> Result<Measured> {
        let greedy = rationale::Settings {
            max_tokens: self.file.table.reward.max_tokens as usize,
            rule: VoteRule::Soft,
            ..rationale::Settings::default()
        };
        let mut measured = Measured { pairs: held_out.len(), ..Measured::default() };
        let voted = self.votes(&format!("{dir}/held-out"), judge, held_out, greedy)?;
        for (pooled, voted) in held_out.iter().zip(voted) {
            let Voted::Ballot(ballot) = voted else { continue };
            let truth_is_a = pooled.claim.label == Side::A;
            let valid = ballot.a + ballot.b > 0;
            measured.right += usize::from(valid && ballot.p_a != 0.5 && (ballot.p_a > 0.5) == truth_is_a);
            measured.consistent += usize::from(ballot.a == 2 || ballot.b == 2);
            measured.invalid += ballot.invalid;
        }
        if let Some(share) = (Right { right: measured.right, known: measured.pairs }).share() {
            self.sink.note(&format!("{dir}: {:.1}% of the held-out pairs are judged right", 100.0 * share));
        }
        Ok(measured)
    }
}

/// Adds what became of one label.
fn count(stats: &mut Stats, row: &serde_json::Map<String, Value>) {
    let number = |name: &str| row.get(name).and_then(Value::as_u64).unwrap_or(0) as usize;
    let text = |name: &str| row.get(name).and_then(Value::as_str);
    stats.sound += number("sound");
    stats.proofs += number("sound");
    if let Some(flaws) = row.get("flaws").and_then(Value::as_object) {
        for (flaw, n) in flaws {
            let n = n.as_u64().unwrap_or(0) as usize;
            *stats.flaws.entry(flaw.clone()).or_default() += n;
            stats.proofs += n;
        }
    }
    match text("reason") {
        Some(reason) => *stats.reasons.entry(reason.into()).or_default() += 1,
        None => {
            stats.accepted += 1;
            if let Some(label) = text("label").and_then(rows::side) {
                stats.learned.add(label, text("truth").and_then(rows::side));
            }
        }
    }
}
