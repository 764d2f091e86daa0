//! The second chapter: GRAM-R² in miniature, on the shell game.
//!
//! ```text
//! labels alone         all labelled pairs                            -> judge that answers at once
//! self-training        written reasons -> prover -> proofs of the labelled pairs -> first judge
//!                      unlabelled pairs -> votes -> proofs           -> judge after each round
//! same steps           the first judge, trained on as long, no new pairs
//! the reasons, too     a judge given the written reasons besides, same steps, no new pairs
//! ```
//! The rounds are [`self_train`]'s, the other judges are ordinary training runs of the same settings. All are measured on the same
//! test pairs, in both orders, which nothing was chosen on.

pub mod files;
pub mod findings;
pub mod measure;
pub mod world;

use super::Phase;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::model::Model;
use crate::reward::selftrain::config::SelfTrain;
use crate::reward::selftrain::votes::Stats;
use crate::reward::selftrain::{Entry, self_train};
use crate::train::config::Run;
use crate::train::log::{Record, Sink};
use crate::train::run;
use files::Files;
use measure::{Examiner, Verdicts};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Instant;
use world::{Item, Set, World};

/// Sizes of the chapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cups {
    pub seed: u64,
    /// Fewest and most swaps of a question.
    pub swaps: [usize; 2],
    /// Labelled pairs with a written reason, and without.
    pub reasoned: usize,
    pub labelled: usize,
    /// Unlabelled pairs of one round.
    pub unlabelled: usize,
    pub rounds: usize,
    /// Test pairs, and as many validation pairs.
    pub held_out: usize,
    pub prover: Phase,
    pub judge: Phase,
    pub round: Phase,
    /// Weight decay of all judges and provers. Much of it is what makes a small model follow the ball instead of learning its few
    /// examples by heart.
    pub decay: f64,
    /// Share of the proofs that the prover learns without their context, too.
    pub empty_context: f64,
    /// Rates of the judge that learns labels alone; of several the best on the validation pairs is taken.
    pub label_rates: Vec<f64>,
    /// Proofs of each label, and whether the prover learns from each round.
    pub proofs: usize,
    pub refreshed: bool,
    /// Votes on each unlabelled pair in each order, and the share of them that must agree.
    pub votes: usize,
    pub agreement: f64,
    /// Votes of the last judge in each order, where it votes.
    pub ballots: usize,
}

impl Cups {
    /// What fits into a minute.
    pub fn short() -> Cups {
        Cups {
            seed: 1,
            swaps: [2, 6],
            reasoned: 200,
            labelled: 400,
            unlabelled: 2000,
            rounds: 2,
            held_out: 500,
            prover: Phase { steps: 400, batch: 32, lr: 6e-3 },
            judge: Phase { steps: 200, batch: 32, lr: 6e-3 },
            round: Phase { steps: 150, batch: 32, lr: 3e-3 },
            decay: 1.0,
            empty_context: 0.02,
            label_rates: vec![3e-3],
            proofs: 8,
            refreshed: true,
            votes: 1,
            agreement: 1.0,
            ballots: 4,
        }
    }

    /// The proper experiment, for each of its seeds.
    pub fn full() -> Cups {
        Cups { rounds: 3, held_out: 1000, label_rates: vec![1e-3, 3e-3, 6e-3], ballots: 8, ..Cups::short() }
    }

    /// Optimizer steps of every judge, all its rounds together.
    pub fn steps(&self) -> usize {
        self.judge.steps + self.rounds * self.round.steps
    }
}

/// One judge.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Optimizer steps, and different pairs that it learned from.
    pub steps: usize,
    pub pairs: usize,
    pub verdicts: Verdicts,
}

/// A learning rate, and the share of validation pairs that its judge got right; not a number where there was nothing to choose.
pub type Rated = (f64, f64);

/// What one seed came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub settings: Cups,
    pub parameters: usize,
    /// The judge of labels alone, its rate, and the share of validation pairs that each rate got right.
    pub labels: Arm,
    pub rate: f64,
    pub rates: Vec<Rated>,
    /// The first judge and those of the rounds; the same without new pairs; and with the written reasons besides.
    pub rounds: Vec<Arm>,
    pub same_steps: Vec<Arm>,
    pub with_reasons: Vec<Arm>,
    /// The last round's judge by several votes.
    pub voting: Arm,
    /// What became of the labelled pairs, and of each round's.
    pub stats: Vec<Stats>,
    pub example: Item,
    /// The last round's judge.
    pub model: PathBuf,
    pub seconds: f64,
}

impl Outcome {
    pub fn last(&self) -> &Arm {
        self.rounds.last().expect("there is a first judge")
    }
}

/// Hears training runs and tells one line of each.
struct Told<'s> {
    say: &'s mut dyn FnMut(&str),
}

impl Sink for Told<'_> {
    fn record(&mut self, record: &Record, _: &str) {
        if record.step == record.total_steps {
            let loss = record.loss.map_or(String::new(), |loss| format!("  loss {loss:.4}"));
            (self.say)(&format!("           step {:>4}/{}{loss}", record.step, record.total_steps));
        }
    }
    fn note(&mut self, line: &str) {
        // Other notes of a training have blanks in them: what was read, how many examples.
        if let Some(name) = line.strip_prefix("training: ").filter(|name| !name.contains(' ')) {
            (self.say)(&format!("cups       {name}"));
        } else if line.contains("have a label") || line.contains("are proved") {
            (self.say)(&format!("           {line}"));
        }
    }
}

/// Runs the chapter for one seed below `out`; `say` hears what happens. Started again after a stop it goes on.
///
/// # Errors
/// What the file system refuses; a set of pairs of which none is proved; [`Kind::Interrupted`] if `stop` said so.
pub fn run(
    dev: &Device,
    cups: &Cups,
    out: &Path,
    stop: &dyn Fn() -> bool,
    say: &mut dyn FnMut(&str),
) -> Result<Outcome> {
    let start = Instant::now();
    let files = Files::write(&out.join("world"), cups)?;
    let text = files.self_training(cups, &out.join("self-train"));
    crate::base::atomic::write_file(out.join("self-train.toml"), text.as_bytes())?;
    let file = SelfTrain::parse(&text, "self-train.toml", &[])?;
    let world = World::new(cups.seed, cups.swaps);
    let (test, validation) = (world.items(Set::Test, cups.held_out), world.items(Set::Validation, cups.held_out));
    let examiner = Examiner { dev, file: &file };

    let mut entries: Vec<Entry> = Vec::new();
    let mut told = |all: &[Entry]| {
        entries = all.to_vec();
        Ok(())
    };
    let finished = self_train(dev, &file, &mut Told { say }, stop, &mut told)?;
    let Some(model) = finished.model else { return Err(stopped()) };
    let mut lab = Lab { dev, cups, file: &file, files: &files, out, examiner, test: &test, stop, say };
    let rounds = lab.rounds(&entries)?;
    let seed_data = out.join("self-train/labelled/data.jsonl");
    let reasons = out.join("self-train/data/rationales.jsonl");
    let same_steps = lab.control("same-steps", &[&seed_data], Some((&entries[0].model, rounds[0].clone())))?;
    let with_reasons = lab.control("with-reasons", &[&reasons, &seed_data], None)?;
    let (labels, rate, rates) = lab.labels(&validation)?;
    let last = rounds.last().expect("there is a first judge");
    let voting = Arm { verdicts: lab.examiner.reasoning(&model, &test, cups.ballots)?, ..last.clone() };
    let parameters = Model::open(&model, |stored| stored)?.parameters();
    Ok(Outcome {
        settings: cups.clone(),
        parameters,
        labels,
        rate,
        rates,
        rounds,
        same_steps,
        with_reasons,
        voting,
        stats: entries.into_iter().filter_map(|entry| entry.stats).collect(),
        example: world.items(Set::Labelled, 1).remove(0),
        model,
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn stopped() -> Error {
    Error::new(Kind::Interrupted, "stopped; the same command goes on from here")
}

/// What all judges of a seed share.
struct Lab<'a> {
    dev: &'a Device,
    cups: &'a Cups,
    file: &'a SelfTrain,
    files: &'a Files,
    out: &'a Path,
    examiner: Examiner<'a>,
    test: &'a [Item],
    stop: &'a dyn Fn() -> bool,
    say: &'a mut dyn FnMut(&str),
}

impl Lab<'_> {
    /// The judges of the self-training on the test pairs.
    fn rounds(&mut self, entries: &[Entry]) -> Result<Vec<Arm>> {
        let arm = |(i, entry): (usize, &Entry)| {
            let verdicts = self.examiner.reasoning(&entry.model, self.test, 1)?;
            Ok(Arm { steps: self.steps_after(i), pairs: entry.learned, verdicts })
        };
        entries.iter().enumerate().map(arm).collect()
    }

    fn steps_after(&self, round: usize) -> usize {
        self.cups.judge.steps + round * self.cups.round.steps
    }

    /// A judge that is trained as often and as long as the rounds are, always on the same pairs. `first` is the first judge, where
    /// it is there already.
    fn control(&mut self, name: &str, data: &[&Path], first: Option<(&PathBuf, Arm)>) -> Result<Vec<Arm>> {
        let pairs = data.iter().map(|path| lines(path)).sum::<Result<usize>>()?;
        let mut arms = Vec::new();
        let mut model = match first {
            Some((model, arm)) => {
                arms.push(arm);
                model.clone()
            }
            None => self.train(&format!("{name}/0"), self.file.reward.clone(), data)?,
        };
        for i in arms.len()..=self.cups.rounds {
            if i > 0 {
                model = self.train(&format!("{name}/{i}"), self.file.rounds.clone().starting_from(&model), data)?;
            }
            let verdicts = self.examiner.reasoning(&model, self.test, 1)?;
            arms.push(Arm { steps: self.steps_after(i), pairs, verdicts });
        }
        Ok(arms)
    }

    fn train(&mut self, name: &str, mut run: Run, data: &[&Path]) -> Result<PathBuf> {
        run.data.train = data.iter().map(|path| path.display().to_string()).collect();
        run.checkpoint.dir = self.out.join(name);
        self.run(name, &run)
    }

    fn run(&mut self, name: &str, run: &Run) -> Result<PathBuf> {
        (self.say)(&format!("cups       {name}"));
        let finished = run::run(self.dev, run, &mut Told { say: self.say }, self.stop)?;
        if finished.stopped { Err(stopped()) } else { Ok(finished.checkpoint) }
    }

    /// The judge of labels alone, of the rate that is best on the validation pairs.
    fn labels(&mut self, validation: &[Item]) -> Result<(Arm, f64, Vec<Rated>)> {
        let (mut rates, mut best): (Vec<Rated>, Option<(Rated, PathBuf)>) = (Vec::new(), None);
        for (i, lr) in self.cups.label_rates.iter().enumerate() {
            let phase = Phase { steps: self.cups.steps(), lr: *lr, ..self.cups.judge };
            let name = format!("labels-{i}");
            let text = self.files.label_only(&phase, self.cups, &self.out.join(&name));
            let model = self.run(&name, &Run::parse(&text, "labels.toml", &[])?)?;
            let accuracy = match self.cups.label_rates.len() {
                1 => f64::NAN,
                _ => self.examiner.at_once(&model, &self.files.path("verdict.txt"), validation)?.accuracy(),
            };
            rates.push((*lr, accuracy));
            if best.as_ref().is_none_or(|((_, most), _)| accuracy > *most) {
                best = Some(((*lr, accuracy), model));
            }
        }
        let ((rate, _), model) = best.ok_or_else(|| Error::usage("label_rates is empty; give a rate"))?;
        let verdicts = self.examiner.at_once(&model, &self.files.path("verdict.txt"), self.test)?;
        let pairs = self.cups.reasoned + self.cups.labelled;
        Ok((Arm { steps: self.cups.steps(), pairs, verdicts }, rate, rates))
    }
}

fn lines(path: &Path) -> Result<usize> {
    Ok(std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?.lines().count())
}
