//! A model on a suite.

use super::super::progress::Progress;
use super::super::rationale::{RationaleFlags, Totals};
use super::super::runtime::{JudgeFlags, Opened, Runtime};
use super::unfinished::Unfinished;
use super::{Answered, Wanted, finish};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::infer::scorer::Scorer;
use crate::model::config::HeadKind;
use crate::reward::eval::comparison::{Answer, Choice, Comparison, Opinion};
use crate::reward::eval::item::Item;
use crate::reward::eval::judged::{Ask, Candidate, Rated, Respondent, answers};
use crate::reward::eval::output::Subject;
use crate::reward::eval::suite::{Loaded, Suite};
use crate::reward::judge::{EncodedPair, Judge, Pair, Prompts, conversation};
use crate::reward::rationale::Settings;
use crate::text::message::Message;
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::{Instant, UNIX_EPOCH};

/// Judges the rows of a suite. Models with a scalar head are asked for rewards. With --rationale the model thinks first, in both
/// orders, and the rows add {"rationale", "votes", "invalid", "written"}.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    judge: JudgeFlags,
    #[command(flatten)]
    rationale: RationaleFlags,
    /// What a comparison that does not fit into the context does; nothing is ever cut
    #[arg(long, value_enum, default_value_t = TooLong::Fail)]
    too_long: TooLong,
    /// PPE: also scan all samples of the correctness sets, for the curve of best of n
    #[arg(long)]
    best_of_n: bool,
    /// Only the I-th of N equal parts of the rows; `eval score` puts the rows.jsonl of all parts together
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    #[command(flatten)]
    runtime: Runtime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TooLong {
    /// Stop there
    Fail,
    /// Count as a comparison without a verdict, which is wrong
    Invalid,
}

/// `--shard`: part `i` of `n`, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shard {
    i: usize,
    n: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Shard, String> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((i, n)) if (1..=n).contains(&i) => Ok(Shard { i, n }),
            _ => Err("it must be I/N with I from 1 to N, such as 2/8".into()),
        }
    }
}

impl Shard {
    /// Rows stay in order, so that parts follow each other as the whole does.
    fn part(self, loaded: Loaded) -> Result<Loaded> {
        let Shard { i, n } = self;
        let Loaded { mut items, mut notes } = loaded;
        let all = items.len();
        let (from, to) = (all * (i - 1) / n, all * i / n);
        if from == to {
            return Err(Error::usage(format!("--shard {i}/{n}: {all} rows are too few for it")));
        }
        items.truncate(to);
        items.drain(..from);
        notes.push(format!("Only rows {} to {to} of {all}: part {i} of {n}.", from + 1));
        Ok(Loaded { items, notes })
    }
}

/// What an evaluation is of.
struct Task<'a> {
    args: &'a Args,
    dev: &'a Device,
    opened: &'a Opened,
    items: &'a [Item],
}

pub fn run(suite: Suite, args: Args) -> Result<()> {
    args.wanted.check(suite)?;
    if args.best_of_n && suite != Suite::Ppe {
        return Err(Error::usage("--best-of-n is for ppe, whose correctness sets hold many samples of each prompt"));
    }
    let reasoning = args.rationale.rationale.then(|| args.rationale.settings(args.wanted.seed)).transpose()?;
    let loaded = suite.load(&args.wanted.data, args.wanted.limit())?;
    let loaded = match args.shard {
        Some(shard) => shard.part(loaded)?,
        None => loaded,
    };
    let dev = args.runtime.place.open()?;
    let opened = args.judge.model.open(&dev, &args.runtime)?;
    let scalar = opened.model.config.head == HeadKind::Scalar;
    let task = Task { args: &args, dev: &dev, opened: &opened, items: &loaded.items };
    let mut kept = Unfinished::open(args.wanted.out.as_deref(), &task.settings(suite, reasoning)?)?;
    let found = match reasoning {
        Some(settings) => task.reasoned(settings, &mut kept)?,
        None if scalar => task.rated(&mut kept)?,
        None => task.judged(&mut kept)?,
    };
    let dir = args.judge.model.model.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let subject = Subject {
        model: args.wanted.name.clone().unwrap_or(dir),
        model_type: if scalar { "Seq. Classifier" } else { "Generative RM" }.into(),
        chat_template: "tokenizer".into(),
    };
    let (items, notes) = (&loaded.items, loaded.notes);
    finish(&args.wanted, Answered { suite, items, answers: &found, notes, subject, device: dev.name() })?;
    kept.done()
}

/// Questions whose answers are kept together: what is lost at most when the program is killed.
const STEP: usize = 256;
/// The same of a judge that reasons.
const STEP_REASONED: usize = 32;

impl Task<'_> {
    /// By one pass over both orders.
    fn judged(&self, kept: &mut Unfinished) -> Result<Vec<Answer>> {
        let prompts = self.args.judge.prompts(self.opened)?;
        let mut judge = Judge::new(self.dev, &self.opened.model, prompts.clone(), self.opened.scorer())?;
        let context = judge.context();
        self.compared(kept, STEP, &prompts, context, |pairs| {
            let said = judge.judge(pairs).map_err(|e| self.opened.place(e))?;
            let comparison = |(pair, said)| {
                let EncodedPair { ab, ba }: &EncodedPair = pair;
                Comparison { tokens: (ab.len() + ba.len()) as u64, ..Comparison::of_judgment((0, 1), said) }
            };
            Ok(pairs.iter().zip(&said).map(comparison).collect())
        })
    }

    /// By rationales and votes.
    fn reasoned(&self, settings: Settings, kept: &mut Unfinished) -> Result<Vec<Answer>> {
        let mut judge = self.args.rationale.judge(self.dev, &self.args.judge, self.opened, settings)?;
        // One token at least is to be written.
        let (prompts, context, mut totals) = (judge.prompts.clone(), judge.context() - 1, Totals::default());
        let found = self.compared(kept, STEP_REASONED, &prompts, context, |pairs| {
            let said = judge.judge(pairs).map_err(|e| self.opened.place(e))?;
            said.iter().for_each(|r| totals.add(r));
            Ok(said.iter().map(|r| Comparison::of_reasoned((0, 1), r)).collect())
        })?;
        totals.report(&judge);
        Ok(found)
    }

    /// By comparisons; how one is answered is `judge`: the pairs' own responses are the first and the second.
    fn compared(
        &self,
        kept: &mut Unfinished,
        step: usize,
        prompts: &Prompts,
        context: usize,
        mut judge: impl FnMut(&[EncodedPair]) -> Result<Vec<Comparison>>,
    ) -> Result<Vec<Answer>> {
        let mut bar = Progress::new("comparisons");
        let mut some = |asks: &[Ask<'_>]| {
            let start = Instant::now();
            let encoded = asks.iter().map(|ask| self.encode(prompts, context, ask)).collect::<Result<Vec<_>>>()?;
            let fitting: Vec<EncodedPair> = encoded.iter().flatten().cloned().collect();
            let said = judge(&fitting)?;
            let all: u64 = said.iter().map(|c| c.tokens).sum();
            let per_token = start.elapsed().as_secs_f64() * 1e3 / all.max(1) as f64;
            let mut said = said.into_iter();
            bar.add(asks.len() as u64);
            let comparison = |(ask, encoded): (&Ask<'_>, &Option<EncodedPair>)| match encoded {
                None => Comparison::of_orders(ask.pair, [Some(Opinion::of_choice(Choice::Invalid)); 2]),
                Some(_) => {
                    let said = said.next().expect("one for each that fits");
                    Comparison { pair: ask.pair, ms: per_token * said.tokens as f64, ..said }
                }
            };
            Ok(asks.iter().zip(&encoded).map(comparison).collect())
        };
        let mut compare = |asks: &[Ask<'_>]| kept.answer(asks, step, &mut some);
        let found = answers(self.items, Respondent::Judge(&mut compare), self.args.best_of_n)?;
        bar.finish();
        Ok(found)
    }

    /// Both orders of a comparison; `None` if they do not fit and may be left out.
    fn encode(&self, prompts: &Prompts, context: usize, ask: &Ask<'_>) -> Result<Option<EncodedPair>> {
        let (item, (a, b)) = (ask.item, ask.pair);
        let pair = Pair { prompt: item.prompt.clone(), a: item.responses[a].clone(), b: item.responses[b].clone() };
        let encoded = prompts.pair(&pair).map_err(|e| e.at(&item.place))?;
        match self.args.judge.fits(encoded.longest(), context) {
            Ok(()) => Ok(Some(encoded)),
            Err(e) if e.kind() == Kind::Data && self.args.too_long == TooLong::Invalid => Ok(None),
            Err(e) => Err(e.at(&item.place)),
        }
    }

    /// By the rewards of a scalar head.
    fn rated(&self, kept: &mut Unfinished) -> Result<Vec<Answer>> {
        let Task { args, opened, .. } = self;
        if args.too_long == TooLong::Invalid {
            return Err(Error::usage("--too-long invalid: a scalar model has no way to give no verdict; leave it out"));
        }
        let mut scorer = Scorer::new(self.dev, &opened.model, opened.scorer())?;
        let (chat, context) = (opened.chat()?, scorer.context());
        let mut bar = Progress::new("responses");
        let mut some = |all: &[Candidate<'_>]| {
            let start = Instant::now();
            let encode = |c: &Candidate<'_>| {
                let ids = conversation(&chat, &c.item.prompt, &c.item.responses[c.response])?;
                args.judge.fits(ids.len(), context)?;
                Ok::<Vec<i32>, Error>(ids)
            };
            let ids =
                all.iter().map(|q| encode(q).map_err(|e| e.at(&q.item.place))).collect::<Result<Vec<Vec<i32>>>>()?;
            let rewards = scorer.rewards(&ids).map_err(|e| opened.place(e))?;
            if rewards.iter().any(|r| !r.is_finite()) {
                return Err(opened.place(Error::model("its rewards are not finite; its weights are damaged")));
            }
            let total: usize = ids.iter().map(Vec::len).sum();
            let per_token = start.elapsed().as_secs_f64() * 1e3 / total.max(1) as f64;
            bar.add(all.len() as u64);
            let rated = |(reward, ids): (f32, &Vec<i32>)| {
                let tokens = ids.len();
                Rated { reward: f64::from(reward), tokens: tokens as u64, ms: per_token * tokens as f64 }
            };
            Ok(rewards.into_iter().zip(&ids).map(rated).collect())
        };
        let mut rate = |all: &[Candidate<'_>]| kept.answer(all, STEP, &mut some);
        let found = answers(self.items, Respondent::Scalar(&mut rate), args.best_of_n)?;
        bar.finish();
        Ok(found)
    }

    /// All that the answers depend on.
    fn settings(&self, suite: Suite, reasoning: Option<Settings>) -> Result<Map<String, Value>> {
        let Args { judge, runtime, best_of_n, too_long, .. } = self.args;
        let mut rows = Sha256::new();
        for item in self.items {
            let prompt: Vec<Value> = item.prompt.iter().map(Message::to_json).collect();
            rows.update(json!([item.id, item.subset, prompt, item.responses, item.pairs]).to_string());
        }
        let rows: String = rows.finalize().iter().map(|b| format!("{b:02x}")).collect();
        let adapters = judge.model.adapters.iter().map(|flag| Ok(json!([flag.name, weights(&flag.dir)?])));
        let template = judge.template.as_deref().map(|path| {
            let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
            Ok::<Value, Error>(Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect())
        });
        let settings = json!({
            "format": 1,
            "suite": suite.name(),
            "rows": rows,
            "model": weights(&judge.model.model)?,
            "adapter": adapters.collect::<Result<Vec<Value>>>()?,
            "dtype": format!("{:?}", runtime.dtype),
            "context": self.opened.context,
            "template": template.transpose()?,
            "template_date": judge.model.template_date,
            // Threads change no bit.
            "device": runtime.place.device.split(':').next(),
            "gemm": format!("{:?}", runtime.place.gemm),
            "rationale": reasoning.map(|s| format!("{s:?}")),
            "too_long": *too_long == TooLong::Invalid,
            "best_of_n": best_of_n,
        });
        let Value::Object(settings) = settings else { unreachable!("it is written as one") };
        Ok(settings)
    }
}

/// The files of a model or an adapter: names, sizes, when they were written.
fn weights(dir: &Path) -> Result<Value> {
    let failed = |e| Error::io("read", dir, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let data = entry.metadata().map_err(failed)?;
        let written = data.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let written = written.map_or(0, |at| at.as_millis() as u64);
        files.push((entry.file_name().to_string_lossy().into_owned(), data.len(), written));
    }
    files.sort();
    Ok(json!([dir.to_string_lossy(), files]))
}
