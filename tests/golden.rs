//! The engine computes what transformers and torch computed (`tests/golden/`): one test for each claim, over all cases.

use crate::devices::devices;
use crate::fixture::{self, Case, Digests, Gradients, Language, Run, Scalar, language, scalar};
use crate::tolerance::{Check, Class, GRADIENT, RATE, TRAINED, VALUE, agree, norm};
use gramophone::base::dtype::Dtype;
use gramophone::device::{Arena, Device};
use gramophone::infer::generator::{self, Finish, Generation, Generator, Request};
use gramophone::infer::scorer::{self, Scorer};
use gramophone::model::Model;
use gramophone::model::acts::{Acts, Capacity, Keep};
use gramophone::model::forward::{Attend, Extent, forward};
use gramophone::model::head::Head;
use gramophone::reward::judge::{EncodedPair, Judge, Prompts};
use gramophone::text::encode::Item;
use gramophone::text::example::Side;
use gramophone::text::template::JudgeTemplate;
use gramophone::train::objective::{self, Over, Reduction};
use gramophone::train::optim;
use gramophone::train::schedule::{self, Schedule};
use gramophone::train::trainer::{Shape, Trainer};

/// Longer than any sequence of the golden files.
const CONTEXT: usize = 512;
pub const SCORER: scorer::Shape = scorer::Shape { context: CONTEXT, pass: 1024 };

#[test]
fn logits_and_log_probabilities() {
    on_devices("logits and log-probabilities", |check, dev| {
        for case in language() {
            let (name, model, sequences) = (case.name, case.model().on(dev).unwrap(), &case.expected.sequences);
            let rows = read(dev, &model, &sequences.iter().map(|s| s.ids.as_slice()).collect::<Vec<_>>());
            for entry in &case.expected.logits {
                let (i, of) = (entry.sequence, &rows[entry.sequence]);
                let ours: Vec<f32> = entry.positions.iter().flat_map(|p| of.logits[*p].clone()).collect();
                check.values(VALUE, format_args!("{name} logits.{i}"), &ours, case.array(&format!("logits.{i}")));
                if sequences[i].ids.len() > 1 {
                    let theirs = case.array(&format!("logprobs.{i}"));
                    check.values(VALUE, format_args!("{name} logprobs.{i}"), &of.logprobs, theirs);
                }
            }
        }
    });
}

/// What proofs are scored by: the sums over the ends of texts, from several places on.
#[test]
fn log_probabilities_of_continuations() {
    on_devices("sums of log-probabilities", |check, dev| {
        for case in language() {
            let (name, model, sequences) = (case.name, case.model().on(dev).unwrap(), &case.expected.sequences);
            let mut scorer = Scorer::new(dev, &model, SCORER).unwrap();
            let long = case.expected.logits.iter().map(|entry| entry.sequence).filter(|i| sequences[*i].ids.len() > 1);
            let asked: Vec<(usize, usize)> = long
                .flat_map(|i| {
                    [1, sequences[i].ids.len() / 2, sequences[i].ids.len() - 1].map(|start| (i, start.max(1)))
                })
                .collect();
            let items: Vec<(Vec<i32>, usize)> =
                asked.iter().map(|(i, start)| (sequences[*i].ids.clone(), *start)).collect();
            for ((i, start), ours) in asked.iter().zip(scorer.logprobs(&items).unwrap()) {
                let theirs = &case.array(&format!("logprobs.{i}"))[start - 1..];
                let sum: f64 = theirs.iter().map(|x| f64::from(*x)).sum();
                assert_eq!(ours.tokens, theirs.len());
                check.relative(VALUE, format_args!("{name} sequence {i} from {start}"), ours.sum, sum);
            }
        }
    });
}

#[test]
fn label_logits_and_the_mass_around_them() {
    on_devices("label logits and log-sum-exp", |check, dev| {
        for case in language() {
            let (model, labels) = (case.model().on(dev).unwrap(), case.labels());
            let mut scorer = Scorer::new(dev, &model, SCORER).unwrap();
            for entry in &case.expected.logits {
                let ids = &case.expected.sequences[entry.sequence].ids;
                let prompts: Vec<Vec<i32>> = entry.positions.iter().map(|p| ids[..=*p].to_vec()).collect();
                let rows = case.array(&format!("logits.{}", entry.sequence)).chunks(model.config.vocab);
                for (ours, theirs) in scorer.verdicts(&prompts, labels).unwrap().iter().zip(rows) {
                    let place = format!("{} sequence {}", case.name, entry.sequence);
                    check.values(VALUE, &place, &ours.logits, &labels.map(|l| theirs[l as usize]));
                    let sum: f64 = theirs.iter().map(|z| f64::from(*z).exp()).sum();
                    check.value(VALUE, &place, ours.lse, sum.ln());
                }
            }
        }
    });
}

#[test]
fn verdict_margins() {
    on_devices("verdict margins", |check, dev| {
        for case in language() {
            let (name, model, theirs) = (case.name, case.model().on(dev).unwrap(), &case.expected.verdicts);
            let mut judge = Judge::new(dev, &model, case.judge_prompts(), SCORER).unwrap();
            let encoded = |v: &fixture::Verdict| EncodedPair { ab: v.ab.ids.clone(), ba: v.ba.ids.clone() };
            let ours = judge.judge(&theirs.iter().map(encoded).collect::<Vec<_>>()).unwrap();
            assert_eq!(ours.len(), theirs.len());
            for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                check.value(VALUE, format_args!("{name} verdict {i} ab"), ours.margin_ab, theirs.ab.margin);
                check.value(VALUE, format_args!("{name} verdict {i} ba"), ours.margin_ba, theirs.ba.margin);
            }
        }
    });
}

/// Going on past the end of sequence: no id stops. Three or two at a time and one by one give the same bits, and the
/// log-probabilities met on the way are those of one pass over the whole text.
#[test]
fn greedy_ids() {
    on_devices("log-probabilities of greedy ids", |check, dev| {
        for case in language() {
            let (name, model) = (case.name, case.model().on(dev).unwrap());
            let write = |sequences: usize, requests: &[Request]| -> Vec<Generation> {
                let shape = generator::Shape { sequences, context: CONTEXT };
                Generator::new(dev, &model, shape, &[]).unwrap().generate(requests, |_, _| ()).unwrap()
            };
            let settings = generator::Settings { max_tokens: 20, ..Default::default() };
            let request = |g: &fixture::Greedy| Request { prompt: g.prompt.clone(), settings };
            let requests: Vec<Request> = case.expected.greedy.iter().map(request).collect();
            let together = write(3, &requests);
            assert_eq!(together, write(2, &requests), "{name}: three or two at a time");
            for (i, (ours, theirs)) in together.iter().zip(&case.expected.greedy).enumerate() {
                assert_eq!((&ours.tokens, ours.finish), (&theirs.new, Finish::Length), "{name} greedy {i}");
                assert_eq!(vec![ours.clone()], write(1, &requests[i..=i]), "{name} greedy {i}, alone");
                let whole = [&theirs.prompt[..], &theirs.new].concat();
                let logprobs = &read(dev, &model, &[&whole])[0].logprobs[theirs.prompt.len() - 1..];
                check.values(VALUE, format_args!("{name} greedy {i}"), &ours.logprobs, logprobs);
            }
        }
    });
}

#[test]
fn scalar_rewards() {
    on_devices("scalar rewards", |check, dev| {
        for case in scalar() {
            let mut model = case.model().on(dev).unwrap();
            assert_eq!(model.config.pad, Some(case.expected.pad_token_id), "{}", case.name);
            let conversations: Vec<Vec<i32>> = case.expected.rewards.iter().map(|r| r.ids.clone()).collect();
            let ours = Scorer::new(dev, &model, SCORER).unwrap().rewards(&conversations).unwrap();
            for theirs in &case.expected.rewards {
                assert_eq!(model.config.scored(&theirs.ids), theirs.scored_position + 1, "{}", theirs.conversation);
            }
            model.config.pad = None; // Without padding the last token is read.
            let at_last = Scorer::new(dev, &model, SCORER).unwrap().rewards(&conversations).unwrap();
            for ((ours, at_last), theirs) in ours.into_iter().zip(at_last).zip(&case.expected.rewards) {
                let place = format!("{} {}", case.name, theirs.conversation);
                check.value(VALUE, &place, ours, theirs.reward);
                check.value(VALUE, format_args!("{place}, last token"), at_last, theirs.reward_at_last);
            }
        }
    });
}

#[test]
fn language_model_loss_and_gradients() {
    on_devices("language-model gradients", |check, dev| {
        for case in language() {
            let lm = &case.expected.lm;
            gradients(dev, check, &case, "grad.lm", case.objective(), &case.continuations(&lm.batch), &lm.of);
        }
    });
}

#[test]
fn gram_fine_tuning_loss_and_gradients() {
    on_devices("GRAM fine-tuning gradients", |check, dev| {
        for case in language() {
            gradients(dev, check, &case, "grad.gram", case.objective(), &case.judgments(), &case.expected.gram.of);
        }
    });
}

/// Two targets on one row of the language-model head; and which verdicts it counts as right.
#[test]
fn verdicts_over_the_vocabulary() {
    on_devices("gradients of verdicts over the vocabulary", |check, dev| {
        for case in language() {
            let Some(theirs) = &case.expected.vocabulary else { continue };
            let items = case.judgments();
            let objective = objective::Settings { over: Over::Vocabulary, ..case.objective() };
            gradients(dev, check, &case, "grad.vocabulary", objective, &items, theirs);
            let trainer = Trainer::new(dev, case.model_to_train().on(dev).unwrap(), STILL, shape(objective)).unwrap();
            let (tally, leads) = trainer.evaluate(&items).unwrap();
            check.value(VALUE, format_args!("{} evaluated", case.name), tally.mean_nll(), theirs.loss);
            let margins = case.expected.gram.rows.iter().map(|row| {
                let margin = case.prompt(row.verdict, &row.order).margin;
                if row.label == "A" { margin } else { -margin }
            });
            let margins: Vec<f64> = margins.collect();
            assert_eq!(leads.len(), margins.len(), "{}", case.name);
            for (lead, margin) in leads.iter().zip(&margins) {
                check.value(VALUE, format_args!("{} lead", case.name), *lead, *margin);
            }
            let right = margins.iter().filter(|m| **m > 0.0).count();
            assert_eq!((tally.correct, tally.judged), (right, margins.len()), "{}", case.name);
        }
    });
}

#[test]
fn gram_compat_sums_micro_batches() {
    on_devices("sums of the means of micro-batches", |check, dev| {
        for case in language() {
            let Some(theirs) = &case.expected.gram_compat else { continue };
            let (items, name) = (case.judgments(), case.name);
            let tokens = |group: &Vec<usize>| group.iter().map(|i| items[*i].tokens()).sum::<usize>();
            let micro_tokens = theirs.micro_batches.iter().map(tokens).max().unwrap();
            let objective = objective::Settings { reduction: Reduction::GramCompat, ..case.objective() };
            let cut = objective::micro_batches(&items, &objective, micro_tokens).unwrap();
            let sizes = |groups: &[Vec<usize>]| groups.iter().map(Vec::len).collect::<Vec<_>>();
            assert_eq!(cut.iter().map(|b| b.terms).collect::<Vec<_>>(), sizes(&theirs.micro_batches), "{name}");
            let shape = Shape { micro_tokens, ..shape(objective) };
            let mut trainer = Trainer::new(dev, case.model_to_train().on(dev).unwrap(), STILL, shape).unwrap();
            let report = trainer.step(&items, 0.0).unwrap();
            check.value(VALUE, format_args!("{name} loss"), report.tally.loss, theirs.loss);
            check.relative(GRADIENT, format_args!("{name} norm"), report.norm, theirs.grad_norm);
            check.value(VALUE, format_args!("{name} mean loss"), report.tally.mean_nll(), case.expected.gram.of.loss);
        }
    });
}

#[test]
fn bradley_terry_loss_and_gradients() {
    on_devices("Bradley-Terry gradients", |check, dev| {
        for case in scalar() {
            let bt = &case.expected.bradley_terry;
            gradients(dev, check, &case, "grad.bradley_terry", case.objective(), &case.preferences(&bt.batch), &bt.of);
        }
    });
}

#[test]
fn adamw_on_the_language_model_loss() {
    on_devices("AdamW, language model", |check, dev| {
        for case in language() {
            adamw(dev, check, TRAINED, &case, &case.expected.adamw, case.objective(), |batch| {
                case.continuations(batch)
            });
        }
    });
}

#[test]
fn adamw_on_the_bradley_terry_loss() {
    on_devices("AdamW, Bradley-Terry", |check, dev| {
        for case in scalar() {
            adamw(dev, check, TRAINED, &case, &case.expected.adamw, case.objective(), |batch| case.preferences(batch));
        }
    });
}

/// What is saved and opened again, to run or to train, has the same bits under the same names; so does what is stored in
/// bf16.
#[test]
fn saved_models_open_with_the_same_bits() {
    let all = fixture::LANGUAGE.iter().chain(&fixture::SCALAR);
    for dir in all.map(|name| crate::architecture::root().join("tests/golden").join(name)) {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let model = Model::open(&dir, |_| dtype).unwrap();
            let saved = tempfile::tempdir().unwrap();
            model.save(saved.path()).unwrap();
            let mapped = Model::open(saved.path(), |stored| stored).unwrap();
            let (owned, drawn) = Model::open_to_train(saved.path(), |stored| stored, model.config.head, 0).unwrap();
            assert!(drawn.is_empty());
            for again in [&mapped, &owned] {
                assert_eq!((again.dtype, &again.config.heads), (dtype, &model.config.heads), "{}", dir.display());
                assert_eq!(again.layout.slots().len(), model.layout.slots().len());
                for (slot, of) in model.layout.slots().iter().zip(again.layout.slots()) {
                    assert_eq!(slot.name, of.name);
                    assert!(model.at(slot).bytes() == again.at(of).bytes(), "{}: {}", dir.display(), slot.name);
                }
            }
        }
    }
}

/// Makes the comparisons on every device that the run covers.
pub fn on_devices(claim: &str, compare: impl Fn(&mut Check, &Device)) {
    for (name, dev) in devices() {
        agree(&format!("{claim}, {name}"), |check| compare(check, &dev));
    }
}

/// What one pass over packed sequences says of one of them.
pub struct Read {
    /// One row for each token.
    pub logits: Vec<Vec<f32>>,
    /// Of each token but the first, given those before it.
    logprobs: Vec<f32>,
}

/// Runs sequences through the model together, without padding, and reads every row.
pub fn read(dev: &Device, model: &Model, sequences: &[&[i32]]) -> Vec<Read> {
    let ids = sequences.concat();
    let (tokens, count) = (ids.len(), sequences.len());
    let positions: Vec<i32> = sequences.iter().flat_map(|s| 0..s.len() as i32).collect();
    let ends = sequences.iter().scan(0, |end, s| {
        *end += s.len() as i32;
        Some(*end)
    });
    let starts: Vec<i32> = std::iter::once(0).chain(ends).collect();
    let rows: Vec<i32> = (0..tokens as i32).collect();
    // The last token of a sequence predicts what nobody asks for.
    let next: Vec<i32> = ids[1..].iter().copied().chain([0]).collect();
    let keep = Keep::Nothing;
    let capacity = Capacity { tokens, sequences: count, rows: tokens, positions: tokens, keep, ranks: model.ranks() };
    let acts = Acts::new(dev, &model.config, model.dtype, capacity).unwrap();
    let i = &acts.inputs;
    for (slot, data) in
        [(&i.ids, &ids), (&i.positions, &positions), (&i.starts, &starts), (&i.rows, &rows), (&i.targets, &next)]
    {
        dev.write(acts.at(slot), data);
    }
    let extent = Extent { tokens, sequences: count };
    forward(dev, model, &acts, extent, Attend::Packed);
    let head = Head::gather(dev, model, &acts, extent, tokens);
    let logits: Vec<f32> = dev.read(head.logits()).unwrap();
    head.vocab_loss();
    let nll: Vec<f32> = dev.read(acts.at(&acts.head.nll)).unwrap();
    let of = |range: std::ops::Range<usize>| Read {
        logits: range.clone().map(|r| logits[r * model.config.vocab..][..model.config.vocab].to_vec()).collect(),
        logprobs: nll[range.start..range.end - 1].iter().map(|x| -x).collect(),
    };
    starts.windows(2).map(|w| of(w[0] as usize..w[1] as usize)).collect()
}

impl Case<Language> {
    fn labels(&self) -> [i32; 2] {
        [self.expected.labels.a, self.expected.labels.b]
    }

    /// The judge's prompts with the fixture's template, whose places have other names.
    pub fn judge_prompts(&self) -> Prompts {
        let mut text = self.expected.judge_prompt.clone();
        for (theirs, ours) in [("{x}", "{prompt}"), ("{a}", "{response_a}"), ("{b}", "{response_b}")] {
            text = text.replace(theirs, ours);
        }
        Prompts::new(self.chat(&self.expected.date), JudgeTemplate::parse("golden", &text).unwrap()).unwrap()
    }

    pub fn objective(&self) -> objective::Settings {
        objective::Settings { labels: self.labels(), smoothing: self.expected.gram.epsilon, ..OBJECTIVE }
    }

    /// The items of GRAM's fine-tuning.
    pub fn judgments(&self) -> Vec<Item> {
        let item = |row: &fixture::GramRow| {
            let label = if row.label == "A" { Side::A } else { Side::B };
            Item::Verdict { ids: self.prompt(row.verdict, &row.order).ids.clone(), label }
        };
        self.expected.gram.rows.iter().map(item).collect()
    }

    /// The language-model items of a batch. A span of targets is predicted from what comes before it, and what comes
    /// after it changes nothing.
    pub fn continuations(&self, batch: &[usize]) -> Vec<Item> {
        let sequences = batch.iter().map(|i| &self.expected.sequences[*i]);
        let spans = sequences.flat_map(|s| s.spans.iter().map(|[start, end]| (&s.ids[..*end], *start)));
        spans.map(|(ids, start)| Item::Tokens { ids: ids.to_vec(), start }).collect()
    }
}

impl Case<Scalar> {
    pub fn objective(&self) -> objective::Settings {
        objective::Settings { pad: Some(self.expected.pad_token_id), ..OBJECTIVE }
    }

    /// The pairs of a batch.
    pub fn preferences(&self, batch: &[usize]) -> Vec<Item> {
        let ids = |i: usize| self.expected.rewards[i].ids.clone();
        let pairs = batch.iter().map(|p| self.expected.bradley_terry.pairs[*p]);
        pairs.map(|[c, r]| Item::Scalar { chosen: ids(c), rejected: ids(r), margin: 0.0 }).collect()
    }
}

const OBJECTIVE: objective::Settings = objective::Settings {
    labels: [0, 1],
    smoothing: 0.0,
    over: Over::Candidates,
    reduction: Reduction::Mean,
    pad: None,
};

/// An optimizer that changes nothing at rate 0.
const STILL: optim::Settings = optim::Settings::ADAMW;

fn shape(objective: objective::Settings) -> Shape {
    // Small enough for some steps to take more than one micro-batch.
    Shape { micro_tokens: 400, keep: Keep::Costly, objective }
}

/// One step at rate 0: its loss, its gradient norm and every gradient tensor.
pub fn gradients<E>(
    dev: &Device,
    check: &mut Check,
    case: &Case<E>,
    group: &str,
    objective: objective::Settings,
    items: &[Item],
    theirs: &Gradients,
) {
    let mut trainer = Trainer::new(dev, case.model_to_train().on(dev).unwrap(), STILL, shape(objective)).unwrap();
    let report = trainer.step(items, 0.0).unwrap();
    check.value(VALUE, format_args!("{} {group} loss", case.name), report.tally.loss, theirs.loss);
    check.relative(GRADIENT, format_args!("{} {group} norm", case.name), report.norm, theirs.grad_norm);
    tensors(check, GRADIENT, case, group, &trainer.model, trainer.gradients(), &theirs.gradients);
}

/// A run of AdamW: rates, losses and gradient norms of every step, and the parameters it ends with.
pub fn adamw<E>(
    dev: &Device,
    check: &mut Check,
    class: Class,
    case: &Case<E>,
    run: &Run,
    objective: objective::Settings,
    items: impl Fn(&[usize]) -> Vec<Item>,
) {
    let name = case.name;
    let Run { lr, betas: [beta1, beta2], eps, weight_decay, clip, total, warmup, .. } = *run;
    let schedule = Schedule::new(schedule::Shape::Cosine, lr, 0.0, warmup, total).unwrap();
    let settings = optim::Settings { beta1, beta2, eps, weight_decay, clip, ..optim::Settings::ADAMW };
    let mut trainer = Trainer::new(dev, case.model_to_train().on(dev).unwrap(), settings, shape(objective)).unwrap();
    assert_eq!(run.steps.len() as u64, total);
    for (k, theirs) in run.steps.iter().enumerate() {
        let lr = schedule.lr(k as u64);
        let report = trainer.step(&items(&theirs.batch), lr).unwrap();
        check.relative(RATE, format_args!("{name} rate of step {k}"), lr, theirs.lr);
        check.value(VALUE, format_args!("{name} loss of step {k}"), report.tally.loss, theirs.loss);
        check.relative(GRADIENT, format_args!("{name} norm of step {k}"), report.norm, theirs.grad_norm);
    }
    tensors(check, class, case, "final.adamw", &trainer.model, trainer.model.trained().1, &run.parameters);
}

/// The norm of every tensor of an arena and the elements that were kept of it.
fn tensors<E>(
    check: &mut Check,
    class: Class,
    case: &Case<E>,
    group: &str,
    model: &Model,
    arena: &Arena,
    theirs: &Digests,
) {
    let slots = model.trained().0.slots();
    let names: Vec<&String> = slots.iter().map(|s| &s.name).collect();
    assert!(theirs.len() == names.len() && names.iter().all(|n| theirs.contains_key(*n)), "{}: {names:?}", case.name);
    for slot in slots {
        let (place, theirs) = (format!("{} {group}.{}", case.name, slot.name), &theirs[&slot.name]);
        let bytes = arena.fetch(slot).unwrap();
        let all: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        check.relative(class, format_args!("{place}, its norm"), norm(all.iter().copied()), theirs.norm);
        let kept: Vec<f32> = all.iter().step_by(theirs.stride).copied().collect();
        check.tensor(class, &place, &kept, case.array(&format!("{group}.{}", slot.name)));
    }
}
