//! The data of a run: its files read, its examples encoded for the run's stage, and what was left out, by reason.

use super::config::{OnError as OnErrorKey, Run, Stage as StageKey};
use crate::base::rng::{Rng, Stream};
use crate::error::{Error, Result};
use crate::text::chat::{Chat, Ending};
use crate::text::corpus::{Corpus, Limits, Orders};
use crate::text::dataset::{Dataset, Options, Purpose};
use crate::text::encode::{Encoder, Stage};
use crate::text::example::{Drops, Record};
use crate::text::format::Format;
use crate::text::jinja::Date;
use crate::text::labels::Labels;
use crate::text::proof::Rule;
use crate::text::proving::{Lesson, ProvingTemplate};
use crate::text::registry::Columns;
use crate::text::source::OnError;
use crate::text::template::JudgeTemplate;
use crate::text::tokenizer::Tokenizer;
use std::sync::Arc;

/// What the training files are called in notes.
const TRAINING: &str = "training";

/// The examples of a run.
pub struct Data {
    pub train: Corpus,
    /// Evaluation examples; pairs in both orders, one after the other.
    pub eval: Option<Corpus>,
    /// The label tokens; zeros in stages that have none.
    pub labels: [i32; 2],
    /// What was read and what was left out, one line each.
    pub notes: Vec<String>,
}

/// What an encoder needs: the chat template of the tokenizer at the run's date, and the judge template.
///
/// # Errors
/// A tokenizer without a chat template; a date or template that does not parse.
pub fn encoder(run: &Run, tokenizer: Arc<Tokenizer>) -> Result<Encoder> {
    let mut chat = Chat::of(tokenizer)?;
    if let Some(date) = &run.data.template_date {
        chat = chat.with_date(Date::parse(date)?)?;
    }
    let template = match (&run.data.template, run.train.stage) {
        (_, StageKey::Prove) | (None, StageKey::Sft) => JudgeTemplate::rationale(),
        (Some(path), _) => JudgeTemplate::open(path)?,
        (None, _) => JudgeTemplate::verdict(),
    };
    Ok(Encoder { chat, template, stage: stage(run.train.stage) })
}

/// What the run makes of labelled pairs with a rationale; `None` in stages that learn from the pairs themselves.
///
/// # Errors
/// A template or form that cannot be read or lacks a field.
pub fn lesson(run: &Run, template: &JudgeTemplate) -> Result<Option<Lesson>> {
    let rule = || Rule::open(run.data.rationale_form.as_deref(), run.data.proof_form.as_deref());
    Ok(match run.train.stage {
        StageKey::Prove => Some(Lesson::Prover(ProvingTemplate::open(run.data.template.as_deref())?, rule()?)),
        StageKey::Sft => Some(Lesson::Judge(template.clone(), rule()?)),
        StageKey::Pretrain | StageKey::Finetune | StageKey::Scalar => None,
    })
}

/// Labelled pairs become the completions of the lesson. With a `share` above 0, that part of the prover's, drawn by
/// (seed, number of the example), is followed by the same proof in isolation.
fn learn(lesson: &Lesson, records: Vec<Record>, share: f64, seed: u64, drops: &mut Drops) -> Vec<Record> {
    let (drawn, mut out) = (Rng::new(seed, Stream::Context, 0), Vec::with_capacity(records.len()));
    for (i, record) in records.into_iter().enumerate() {
        let Record { id, place, example } = record;
        match lesson.of(example) {
            Err(reason) => drops.add(reason),
            Ok(example) => {
                let alone = lesson.alone(&example).filter(|_| drawn.uniform(i as u64) < share);
                out.push(Record { id: id.clone(), place: place.clone(), example });
                out.extend(alone.map(|example| Record { id, place, example }));
            }
        }
    }
    out
}

impl Data {
    /// Reads and encodes everything the run names. Runs on the current thread pool.
    ///
    /// # Errors
    /// Files that are missing or malformed, labels that are not one token each, or nothing left to train on.
    pub fn open(run: &Run, tokenizer: Arc<Tokenizer>) -> Result<Data> {
        let encoder = encoder(run, tokenizer)?;
        let labels = match run.train.stage {
            StageKey::Finetune => labels(run, &encoder)?,
            _ => [0, 0],
        };
        let mut notes = Vec::new();
        let orders = if run.train.both_orders { Orders::Both } else { Orders::Drawn };
        let limit = (run.data.limit.map(|n| n as usize), run.data.limit_seed);
        let train = corpus(run, TRAINING, &run.data.train, limit, orders, encoder.clone(), &mut notes)?;
        let eval = match run.data.eval.is_empty() {
            true => None,
            false => Some(evaluation(run, encoder, &mut notes)?),
        };
        Ok(Data { train, eval, labels, notes })
    }
}

/// What a run is measured on, without what it is trained on.
pub struct Evaluation {
    pub examples: Corpus,
    pub labels: [i32; 2],
    pub notes: Vec<String>,
}

impl Evaluation {
    /// # Errors
    /// As [`Data::open`]; a run without `data.eval`.
    pub fn open(run: &Run, tokenizer: Arc<Tokenizer>) -> Result<Evaluation> {
        let (encoder, mut notes) = (encoder(run, tokenizer)?, Vec::new());
        let labels = match run.train.stage {
            StageKey::Finetune => labels(run, &encoder)?,
            _ => [0, 0],
        };
        if run.data.eval.is_empty() {
            return Err(Error::usage("nothing to measure: set data.eval"));
        }
        Ok(Evaluation { examples: evaluation(run, encoder, &mut notes)?, labels, notes })
    }
}

fn evaluation(run: &Run, encoder: Encoder, notes: &mut Vec<String>) -> Result<Corpus> {
    let limit = (run.eval.rows.map(|n| n as usize), None);
    corpus(run, "evaluation", &run.data.eval, limit, Orders::Both, encoder, notes)
}

/// How many examples the run's training files hold, over-long ones included.
///
/// # Errors
/// Files that are missing or malformed.
pub fn available(run: &Run) -> Result<usize> {
    Ok(Dataset::read(&names(run, &run.data.train), &options(run)?)?.records.len())
}

/// All records in an order drawn with a seed.
fn drawn(records: Vec<Record>, seed: u64) -> Vec<Record> {
    let mut records: Vec<Option<Record>> = records.into_iter().map(Some).collect();
    let order = Rng::new(seed, Stream::Subset, 0).permutation(records.len());
    order.into_iter().filter_map(|i| records[i as usize].take()).collect()
}

/// Names as a dataset takes them.
fn names(run: &Run, files: &[String]) -> Vec<String> {
    match &run.data.dataset_info {
        Some(info) => files.iter().map(|name| format!("{}:{name}", info.display())).collect(),
        None => files.to_vec(),
    }
}

fn corpus(
    run: &Run,
    what: &str,
    files: &[String],
    (limit, draw): (Option<usize>, Option<u64>),
    orders: Orders,
    encoder: Encoder,
    notes: &mut Vec<String>,
) -> Result<Corpus> {
    let mut dataset = Dataset::read(&names(run, files), &options(run)?)?;
    for (file, format) in &dataset.formats {
        notes.push(format!("{what}: {file} read as {}", format.name()));
    }
    if let Some(first) = &dataset.first_malformed {
        notes.push(format!("{what}: skipped malformed rows, the first: {first}"));
    }
    if let Some(seed) = draw {
        dataset.records = drawn(dataset.records, seed);
    }
    dataset.records.truncate(limit.unwrap_or(usize::MAX));
    if let Some(lesson) = lesson(run, &encoder.template)? {
        let share = if what == TRAINING { run.train.empty_context } else { 0.0 };
        dataset.records = learn(&lesson, dataset.records, share, run.train.seed, &mut dataset.drops);
        if dataset.records.is_empty() {
            let (stage, drops) = (encoder.stage, &dataset.drops);
            let (name, wants) = (stage.name(), stage.wants());
            return Err(Error::data(format!(
                "{what}: nothing is left for stage {name}, which learns from {wants}: {drops}"
            )));
        }
    }
    let limits = Limits {
        max_tokens: run.data.max_tokens as usize,
        on_error: on_error(run.data.on_error),
        orders,
        seed: run.train.seed,
    };
    let corpus = Corpus::new(encoder, dataset.records, &limits)?;
    let mut drops = dataset.drops;
    drops.merge(corpus.drops());
    match drops.total() {
        0 => notes.push(format!("{what}: {} examples", corpus.len())),
        n => notes.push(format!("{what}: {} examples, {n} left out: {drops}", corpus.len())),
    }
    Ok(corpus)
}

/// How the run reads its files.
fn options(run: &Run) -> Result<Options> {
    let pairs: Vec<String> = run.data.columns.iter().map(|(ours, theirs)| format!("{ours}={theirs}")).collect();
    Ok(Options {
        purpose: match run.train.stage {
            StageKey::Pretrain => Purpose::Responses,
            StageKey::Sft | StageKey::Prove => Purpose::Claims,
            StageKey::Finetune | StageKey::Scalar => Purpose::Preferences,
        },
        on_error: on_error(run.data.on_error),
        columns: Columns::parse(&pairs)?,
        format: match run.data.format.as_str() {
            "auto" => None,
            name => Some(Format::parse(name)?),
        },
    })
}

/// The run's two labels as tokens after the rendered judge prompt.
fn labels(run: &Run, encoder: &Encoder) -> Result<[i32; 2]> {
    let prompt = encoder.chat.render(&encoder.template.messages("Which?", "This.", "That."), Ending::Open)?;
    let [a, b] = &run.train.labels;
    let labels = Labels::after(encoder.chat.tokenizer(), &prompt.text, &prompt.hidden, [a, b])?;
    Ok([labels.a, labels.b])
}

fn stage(stage: StageKey) -> Stage {
    match stage {
        StageKey::Pretrain => Stage::Pretrain,
        StageKey::Finetune => Stage::Finetune,
        StageKey::Sft => Stage::Sft,
        StageKey::Scalar => Stage::Scalar,
        StageKey::Prove => Stage::Prove,
    }
}

fn on_error(policy: OnErrorKey) -> OnError {
    match policy {
        OnErrorKey::Fail => OnError::Fail,
        OnErrorKey::Skip => OnError::Skip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::example::Example;
    use crate::text::source::{Place, Unit};
    use serde_json::Value;

    #[test]
    fn drawn_rows_are_a_permutation_of_the_seed() {
        let record = |number: u64| Record {
            id: Value::from(number),
            place: Place { file: "t".into(), number, unit: Unit::Line },
            example: Example::Unlabelled { prompt: Vec::new(), a: "a".into(), b: "b".into() },
        };
        let order = |seed| {
            let records = drawn((0..50).map(record).collect(), seed);
            records.iter().map(|r| r.place.number).collect::<Vec<u64>>()
        };
        let (one, two) = (order(1), order(2));
        assert_eq!(one, order(1));
        assert!(one != two && one != (0..50).collect::<Vec<_>>());
        let mut sorted = one.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
}
