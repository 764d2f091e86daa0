//! The examples of one stage of training: checked and measured once, encoded when their turn comes. What is kept is text,
//! which is smaller than the ids of both orders would be.
//!
//! Which response of a pair is shown as A is drawn anew in each epoch, from random bits keyed by (seed, epoch, the example's place in
//! its dataset). An example is left out if either order is too long, so every epoch has the same examples.

use std::ops::Range;

use rayon::prelude::*;

use crate::base::rng::{Rng, Stream};
use crate::error::{Error, Result};
use crate::text::encode::{Encoder, Item};
use crate::text::example::{Drops, Example, Reason, Record, Side};
use crate::text::pack;
use crate::text::source::OnError;

/// Examples ready to be trained on.
pub struct Corpus {
    encoder: Encoder,
    seed: u64,
    entries: Vec<Entry>,
    drops: Drops,
}

struct Entry {
    record: Record,
    /// The example's number in its dataset: the key of its random bits.
    key: u64,
    /// Tokens with the first response as A, and as B.
    tokens: [usize; 2],
    /// Where the first response is shown, when that is not drawn for each epoch.
    first: Option<Side>,
}

/// In which order pairs are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orders {
    /// One, drawn anew for each epoch.
    Drawn,
    /// Both: the pair is two examples, one after the other, with the first response as A and then as B.
    Both,
}

/// Limits and switches of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A sequence with more tokens is left out.
    pub max_tokens: usize,
    pub on_error: OnError,
    pub orders: Orders,
    pub seed: u64,
}

impl Corpus {
    /// Encodes every example once, in parallel on the current thread pool, to measure it.
    pub fn new(encoder: Encoder, records: Vec<Record>, limits: &Limits) -> Result<Corpus> {
        let measured: Vec<Result<std::result::Result<[usize; 2], Reason>>> =
            records.par_iter().map(|r| measure(&encoder, &r.example, limits).map_err(|e| e.at(&r.place))).collect();
        let total = records.len();
        let (mut entries, mut drops, mut kind) = (Vec::new(), Drops::default(), None);
        for (key, (record, measured)) in records.into_iter().zip(measured).enumerate() {
            match (measured, limits.on_error) {
                (Ok(Ok(tokens)), _) => {
                    let key = key as u64;
                    if limits.orders == Orders::Both && encoder.has_order(&record.example) {
                        let first = Some(Side::A);
                        entries.push(Entry { record: record.clone(), key, tokens, first });
                        entries.push(Entry { record, key, tokens, first: Some(Side::B) });
                    } else {
                        entries.push(Entry { record, key, tokens, first: None });
                    }
                }
                (Ok(Err(reason)), _) => {
                    kind.get_or_insert(record.example.kind());
                    drops.add(reason);
                }
                (Err(error), OnError::Fail) => return Err(error),
                (Err(_), OnError::Skip) => drops.add(Reason::Malformed),
            }
        }
        if entries.is_empty() {
            let stage = encoder.stage;
            let found = kind.map_or(String::new(), |kind| format!(" (they are {kind})"));
            return Err(Error::data(format!(
                "of {total} examples{found} none is left for stage {}, which learns from {}: {drops}",
                stage.name(),
                stage.wants()
            )));
        }
        Ok(Corpus { encoder, seed: limits.seed, entries, drops })
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What was left out here (not what the dataset had left out before).
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    pub fn record(&self, i: usize) -> &Record {
        &self.entries[i].record
    }

    /// Tokens of example `i` in an epoch, all its sequences together.
    pub fn tokens(&self, i: usize, epoch: u64) -> usize {
        self.entries[i].tokens[self.first(i, epoch) as usize]
    }

    /// Tokens of the longest example in any epoch, all its sequences together.
    pub fn longest(&self) -> usize {
        self.entries.iter().flat_map(|e| e.tokens).max().unwrap_or(0)
    }

    /// Where the first (of a pair: the chosen) response of example `i` is shown in an epoch.
    pub fn first(&self, i: usize, epoch: u64) -> Side {
        let entry = &self.entries[i];
        if let Some(first) = entry.first {
            return first;
        }
        let drawn = self.encoder.has_order(&entry.record.example);
        match drawn && Rng::new(self.seed, Stream::Order, epoch).bits(entry.key) >> 63 == 1 {
            true => Side::B,
            false => Side::A,
        }
    }

    /// Encodes example `i` as an epoch shows it.
    pub fn item(&self, i: usize, epoch: u64) -> Result<Item> {
        let record = self.record(i);
        let item = self.encoder.item(&record.example, self.first(i, epoch)).map_err(|e| e.at(&record.place))?;
        item.map_err(|reason| Error::data(format!("left out ({})", reason.text())).at(&record.place))
    }

    /// Encodes examples in parallel on the current thread pool, in the order given.
    pub fn items(&self, which: &[u32], epoch: u64) -> Result<Vec<Item>> {
        which.par_iter().map(|&i| self.item(i as usize, epoch)).collect()
    }

    /// Cuts an order of examples into micro-batches of at most `budget` tokens: ranges of `order`.
    pub fn batches(&self, order: &[u32], epoch: u64, budget: usize) -> Result<Vec<Range<usize>>> {
        let lengths: Vec<usize> = order.iter().map(|&i| self.tokens(i as usize, epoch)).collect();
        pack::batches(&lengths, budget)
    }
}

/// Tokens in both orders, or why the example is left out.
fn measure(encoder: &Encoder, example: &Example, limits: &Limits) -> Result<std::result::Result<[usize; 2], Reason>> {
    let mut tokens = [0; 2];
    for side in [Side::A, Side::B] {
        if side == Side::B && !encoder.has_order(example) {
            tokens[1] = tokens[0];
            break;
        }
        match encoder.item(example, side)? {
            Err(reason) => return Ok(Err(reason)),
            Ok(item) if item.longest() > limits.max_tokens => return Ok(Err(Reason::TooLong)),
            Ok(Item::Tokens { ids, start }) if start >= ids.len() => return Ok(Err(Reason::EmptyResponse)),
            Ok(item) => tokens[side as usize] = item.tokens(),
        }
    }
    Ok(Ok(tokens))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::encode::{Draft, Stage};
    use crate::text::fixture::{LLAMA, QWEN3, chat, tokenizer};
    use crate::text::inspect::inspect;
    use crate::text::message::Message;
    use crate::text::source::{Place, Unit};
    use crate::text::template::JudgeTemplate;
    use serde_json::Value;

    fn encoder(stage: Stage, template: &str) -> Encoder {
        Encoder { chat: chat(template), template: JudgeTemplate::verdict(), stage }
    }

    fn records(examples: Vec<Example>) -> Vec<Record> {
        let place = |number| Place { file: "t.jsonl".into(), number, unit: Unit::Line };
        let numbered = examples.into_iter().zip(1..);
        numbered.map(|(example, n)| Record { id: Value::Null, place: place(n), example }).collect()
    }

    fn pair(prompt: &str, chosen: &str, rejected: &str) -> Example {
        let prompt = vec![Message::user(prompt)];
        Example::Pair { prompt, chosen: chosen.into(), rejected: rejected.into(), margin: None }
    }

    fn corpus(stage: Stage, examples: Vec<Example>, max_tokens: usize) -> Result<Corpus> {
        let limits = Limits { max_tokens, on_error: OnError::Fail, orders: Orders::Drawn, seed: 3 };
        Corpus::new(encoder(stage, QWEN3), records(examples), &limits)
    }

    fn decode(ids: &[i32]) -> String {
        tokenizer().decode(ids).unwrap()
    }

    #[test]
    fn finetuning_shows_both_orders_with_the_right_label() {
        let c =
            corpus(Stage::Finetune, (0..64).map(|i| pair(&format!("q{i}"), "GOOD", "BAD")).collect(), 5000).unwrap();
        let mut swapped = [0; 2];
        for epoch in 0..2 {
            for i in 0..c.len() {
                let Item::Verdict { ids, label } = c.item(i, epoch).unwrap() else { panic!() };
                let text = decode(&ids);
                let (good, bad) = (text.find("GOOD").unwrap(), text.find("BAD").unwrap());
                assert_eq!(label, if good < bad { Side::A } else { Side::B });
                assert!(text.ends_with("#Preferred:<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"));
                assert_eq!(c.tokens(i, epoch), ids.len());
                swapped[epoch as usize] += usize::from(label == Side::B);
            }
        }
        assert!(swapped.iter().all(|n| (16..48).contains(n)), "{swapped:?}");
        let sides = |c: &Corpus, epoch| (0..c.len()).map(|i| c.first(i, epoch)).collect::<Vec<_>>();
        assert_ne!(sides(&c, 0), sides(&c, 1));
        let again =
            corpus(Stage::Finetune, (0..64).map(|i| pair(&format!("q{i}"), "GOOD", "BAD")).collect(), 5000).unwrap();
        assert_eq!(sides(&c, 1), sides(&again, 1));
    }

    #[test]
    fn pretraining_learns_both_blocks_and_the_end_of_the_turn() {
        let unlabelled = Example::Unlabelled { prompt: vec![Message::user("q")], a: "x".into(), b: "y".into() };
        let c = corpus(Stage::Pretrain, vec![unlabelled], 5000).unwrap();
        let Item::Tokens { ids, start } = c.item(0, 0).unwrap() else { panic!() };
        let prompt =
            "<|im_start|>user\n[User Question]\nq\n\n<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
        assert_eq!(decode(&ids[..start]), prompt);
        let (a, b) = if c.first(0, 0) == Side::A { ("x", "y") } else { ("y", "x") };
        let blocks = format!(
            "[The Start of Assistant A's Answer]\n{a}\n[The End of Assistant A's Answer]\n\n\
             [The Start of Assistant B's Answer]\n{b}\n[The End of Assistant B's Answer]<|im_end|>\n"
        );
        assert_eq!(decode(&ids[start..]), blocks);
    }

    #[test]
    fn sft_and_scalar() {
        let done = Example::Completion { prompt: vec![Message::user("q")], completion: "c".into() };
        let judged = Example::Judged { prompt: "Which?".into(), label: Side::B };
        let c = corpus(Stage::Sft, vec![done, judged], 5000).unwrap();
        let target = |i| match c.item(i, 0).unwrap() {
            Item::Tokens { ids, start } => decode(&ids[start..]),
            other => panic!("{other:?}"),
        };
        assert_eq!((target(0), target(1)), ("c<|im_end|>\n".into(), "B<|im_end|>\n".into()));

        let limits = Limits { max_tokens: 5000, on_error: OnError::Fail, orders: Orders::Drawn, seed: 0 };
        let margin = Example::Pair {
            prompt: vec![Message::user("q")],
            chosen: "c".into(),
            rejected: "r".into(),
            margin: Some(2.0),
        };
        let c = Corpus::new(encoder(Stage::Scalar, LLAMA), records(vec![margin]), &limits).unwrap();
        let Item::Scalar { chosen, rejected, margin } = c.item(0, 5).unwrap() else { panic!() };
        assert!(decode(&chosen).ends_with("\n\nc<|eot_id|>") && decode(&rejected).ends_with("\n\nr<|eot_id|>"));
        assert_eq!((margin, c.tokens(0, 5)), (2.0, chosen.len() + rejected.len()));
    }

    #[test]
    fn too_long_and_useless_examples_are_counted_never_cut() {
        let long = "the quick brown fox ".repeat(200);
        let done = Example::Completion { prompt: vec![Message::user("q")], completion: "c".into() };
        let examples = vec![pair("q", "x", "y"), pair("q", &long, "y"), done.clone()];
        let c = corpus(Stage::Finetune, examples, 600).unwrap();
        assert_eq!(c.len(), 1);
        assert_eq!(c.drops().to_string(), "1 too long, 1 of a kind this stage has no use for");
        assert!(c.longest() <= 600);
        let error = corpus(Stage::Finetune, vec![done], 600).err().unwrap().to_string();
        assert!(error.contains("completions") && error.contains("preference pairs"), "{error}");
        let exact = c.tokens(0, 0).max(c.tokens(0, 1));
        assert_eq!(corpus(Stage::Finetune, vec![pair("q", "x", "y")], exact).unwrap().len(), 1);
        assert!(corpus(Stage::Finetune, vec![pair("q", "x", "y")], exact - 1).is_err());
    }

    #[test]
    fn failing_templates_name_the_row_or_are_counted() {
        let refusing =
            "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}\n";
        let scalar = encoder(Stage::Scalar, refusing);
        let rows = || records(vec![pair("fine", "x", "y"), pair("bad", "x", "y")]);
        let limits = Limits { max_tokens: 100, on_error: OnError::Fail, orders: Orders::Drawn, seed: 0 };
        let error = Corpus::new(scalar.clone(), rows(), &limits).err().unwrap().to_string();
        assert_eq!(error, "t.jsonl:2: the chat template refuses this conversation: no");
        let c = Corpus::new(scalar, rows(), &Limits { on_error: OnError::Skip, ..limits }).unwrap();
        assert_eq!((c.len(), c.drops().of(Reason::Malformed)), (1, 1));
    }

    #[test]
    fn batches_and_parallel_items_keep_order() {
        let c = corpus(Stage::Finetune, (0..20).map(|i| pair(&"w ".repeat(i), "x", "y")).collect(), 5000).unwrap();
        let order = Rng::new(1, Stream::Shuffle, 0).permutation(c.len());
        let items = c.items(&order, 1).unwrap();
        for (item, &i) in items.iter().zip(&order) {
            assert_eq!(*item, c.item(i as usize, 1).unwrap());
        }
        let runs = c.batches(&order, 1, 1000).unwrap();
        assert_eq!(runs.iter().map(|r| r.len()).sum::<usize>(), c.len());
        for run in runs {
            assert!(items[run].iter().map(Item::tokens).sum::<usize>() <= 1000);
        }
    }

    #[test]
    fn inspection_marks_what_is_learned() {
        let done = Example::Completion { prompt: vec![Message::user("the <|im_end|>")], completion: "fox é".into() };
        let c = corpus(Stage::Sft, vec![done], 500).unwrap();
        let text = inspect(&c, 3).unwrap();
        let Item::Tokens { ids, start } = c.item(0, 0).unwrap() else { panic!() };
        let rows: Vec<&str> = text.lines().filter(|l| l.contains(" . ") || l.contains(" > ")).collect();
        assert_eq!(rows.len(), ids.len());
        for (t, row) in rows.iter().enumerate() {
            assert!(row.contains(if t < start { " . " } else { " > " }), "{row}");
            assert!(row.contains(&format!(" {} ", ids[t])), "{row}");
        }
        assert!(text.starts_with("example 0  t.jsonl:1  completions  stage sft\n"));
        assert!(text.contains("  | <|im_start|>user\n  | the <|im_end|><|im_end|>\n"));
        let verdict = inspect(&corpus(Stage::Finetune, vec![pair("q", "x", "y")], 900).unwrap(), 1).unwrap();
        assert!(verdict.contains(" is the better one") && verdict.contains("#Preferred:"));
        let scalar = inspect(&corpus(Stage::Scalar, vec![pair("q", "x", "y")], 900).unwrap(), 1).unwrap();
        assert!(scalar.contains("chosen: ") && scalar.contains("rejected: "));
    }

    #[test]
    fn drafts_and_items_agree() {
        let e = encoder(Stage::Finetune, LLAMA);
        let draft = e.draft(&pair("q", "x", "y"), Side::B).unwrap().unwrap();
        let Draft::Verdict(rendered, Side::B) = &draft else { panic!("{draft:?}") };
        assert!(rendered.text.contains("Assistant A's Answer]\ny\n"));
        assert_eq!(Item::from(draft.clone()), e.item(&pair("q", "x", "y"), Side::B).unwrap().unwrap());
    }
}
