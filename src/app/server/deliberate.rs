//! Decisions after rationales, our extension of both wires: the model reasons about the question, and the letters' logits are read behind
//! the mark where its answer stands. A reply that never comes to the mark is read as if it had come to it at its end, and counted.
//!
//! Every vote is a reply of its own; the probabilities are the mean over the votes of both orders of the options.

use super::chat::next;
use super::decisions::{Decision, Question, softmax};
use super::refusal::Refusal;
use super::{App, Call};
use crate::infer::generator::{self, Request};
use crate::infer::scorer::LabelLogits;
use crate::reward::rationale::{Settings, vote_seed};
use crate::reward::service::{Answered, Event, Failure, Service, Ticket};
use crate::text::chat::Ending;
use crate::text::message::Message;
use crate::text::tokenizer::Parse;

/// What stands before an answer that was reasoned about.
pub const MARK: &str = "<answer>";
/// Tokens for the mark behind a reply that never came to it.
const ROOM: usize = 16;

/// How a decision came about.
#[derive(Clone, Debug)]
pub struct After {
    /// Of the vote that is surest of what was decided.
    pub rationale: String,
    /// Replies for both orders.
    pub votes: usize,
    /// Of them, those that never came to an answer.
    pub unfinished: usize,
    /// Tokens of all replies.
    pub written: usize,
}

/// A reply to be written: of which question, with the options in which order.
struct Draft {
    question: usize,
    order: Vec<usize>,
    prompt: Vec<i32>,
    ticket: Ticket<Event>,
}

/// A reply.
struct Written {
    question: usize,
    order: Vec<usize>,
    rationale: String,
    unfinished: bool,
    tokens: usize,
}

fn prompt(input: &str, question: &Question, order: &[usize]) -> Vec<Message> {
    let list: Vec<String> =
        ('A'..='Z').zip(order).map(|(letter, i)| format!("{letter}. {}", question.options[*i])).collect();
    vec![Message::user(format!(
        "Read the input and answer the question about it by choosing one option.\n\
         First reason about it step by step. Then give the letter of that option as {MARK}letter</answer>.\n\n\
         [Input]\n{input}\n\n[Question]\n{}\n\n[Options]\n{}",
        question.instructions,
        list.join("\n")
    ))]
}

/// Answers questions about an input, in their order.
pub async fn decide(
    app: &App,
    call: &Call,
    input: &str,
    questions: &[Question],
    how: Settings,
) -> Result<Vec<Decision>, Refusal> {
    if how.adaptive.is_some() {
        return Err(Refusal::field("x_rationale.adaptive", "decisions take all their votes; leave it out"));
    }
    if let Some(q) = questions.iter().find(|q| q.options.len() > app.late_letters.len()) {
        let message =
            format!("{} options; after a rationale at most {} are read", q.options.len(), app.late_letters.len());
        return Err(Refusal::field(q.field.as_str(), message));
    }
    let drafts = begin(app, call, input, questions, how).await?;
    let mut reads: Vec<Vec<(Written, Answered<LabelLogits>)>> = questions.iter().map(|_| Vec::new()).collect();
    let mut waiting = Vec::new();
    for draft in drafts {
        waiting.push(finish(app, call, questions, draft).await?);
    }
    for (written, ticket) in waiting {
        let field = &questions[written.question].field;
        let read = app.answer(call, Ok(ticket)).await.map_err(|f| app.refuse(f).at(field))?;
        call.note(|notes| notes.written += written.tokens);
        reads[written.question].push((written, read));
    }
    Ok(questions.iter().zip(reads).map(|(question, reads)| decision(question.options.len(), &reads)).collect())
}

/// Starts every reply.
async fn begin(
    app: &App,
    call: &Call,
    input: &str,
    questions: &[Question],
    how: Settings,
) -> Result<Vec<Draft>, Refusal> {
    let (options, input, asked) = (app.options(call, 0), input.to_string(), questions.to_vec());
    let submit = move |_: &App, service: &Service| {
        let mut drafts = Vec::new();
        for (question, q) in asked.iter().enumerate() {
            let forward: Vec<usize> = (0..q.options.len()).collect();
            let backward: Vec<usize> = forward.iter().rev().copied().collect();
            for order in [forward, backward] {
                let rendered = service.texts().chat().render(&prompt(&input, q, &order), Ending::Open);
                let ids = rendered.map_err(|e| (question, Failure::Invalid(e)))?.ids;
                let most = service.sizes().context;
                let room = most.saturating_sub(ids.len() + ROOM);
                if room == 0 {
                    return Err((question, Failure::TooLong { tokens: ids.len() + ROOM + 1, most }));
                }
                for vote in 0..how.votes {
                    let settings = generator::Settings {
                        temperature: how.temperature,
                        top_p: how.top_p,
                        max_tokens: how.max_tokens.min(room),
                        seed: vote_seed(how.seed, &ids, vote),
                        ..generator::Settings::default()
                    };
                    let request = Request { prompt: ids.clone(), settings };
                    let ticket = service.write(request, 0, options).map_err(|f| (question, f))?;
                    drafts.push(Draft { question, order: order.clone(), prompt: ids.clone(), ticket });
                }
            }
        }
        Ok(drafts)
    };
    let drafts = app.ask(call, submit).await?;
    drafts.map_err(|(question, failure): (usize, Failure)| app.refuse(failure).at(questions[question].field.as_str()))
}

/// Takes a reply to its end, and asks for the letters behind it.
async fn finish(
    app: &App,
    call: &Call,
    questions: &[Question],
    draft: Draft,
) -> Result<(Written, Ticket<Answered<LabelLogits>>), Refusal> {
    let Draft { question, order, prompt, ticket } = draft;
    let field = &questions[question].field;
    let mut ids = Vec::new();
    while let Event::Token { id, .. } = next(call, &ticket).await.map_err(|f| app.refuse(f).at(field))? {
        ids.push(id);
    }
    let reply = app.tokenizer().decode_plain(&ids)?;
    let (rationale, unfinished) = match reply.split_once(MARK) {
        Some((before, _)) => (before.to_string(), false),
        None => (format!("{}\n", reply.trim_end()), true),
    };
    let mut read = prompt;
    let before = format!("{rationale}{MARK}");
    // Nothing in a reply's text is a control token.
    let all = 0..before.len();
    read.extend(app.tokenizer().ids(&before, Parse::Except(std::slice::from_ref(&all)))?);
    let (labels, options) = (app.late_letters[..order.len()].to_vec(), app.options(call, 0));
    let ticket = app.serving(call).labels(read, labels, options).map_err(|f| app.refuse(f).at(field))?;
    let rationale = rationale.replace("<think>", "").replace("</think>", "").trim().to_string();
    Ok((Written { question, order, rationale, unfinished, tokens: ids.len() }, ticket))
}

/// What the votes on a question come to.
fn decision(options: usize, reads: &[(Written, Answered<LabelLogits>)]) -> Decision {
    let forward = |order: &[usize]| order[0] == 0;
    let probabilities = |written: &Written, read: &LabelLogits| {
        let logits: Vec<f64> = read.logits.iter().map(|z| *z as f64).collect();
        let mut placed = vec![0.0; options];
        written.order.iter().zip(softmax(&logits)).for_each(|(i, p)| placed[*i] = p);
        placed
    };
    let votes: Vec<Vec<f64>> = reads.iter().map(|(w, read)| probabilities(w, &read.answer)).collect();
    let mean = |of: &dyn Fn(&Written) -> bool| {
        let mut sum = vec![0.0; options];
        let mut n = 0.0;
        for (vote, _) in votes.iter().zip(reads).filter(|(_, (written, _))| of(written)) {
            sum.iter_mut().zip(vote).for_each(|(sum, p)| *sum += p);
            n += 1.0;
        }
        sum.into_iter().map(|s| s / n).collect::<Vec<f64>>()
    };
    let (ab, ba) = (mean(&|w| forward(&w.order)), mean(&|w| !forward(&w.order)));
    let mass = |read: &LabelLogits| read.logits.iter().map(|z| ((z - read.lse) as f64).exp()).sum::<f64>();
    let mut decision = Decision {
        probabilities: ab.iter().zip(&ba).map(|(x, y)| 0.5 * (x + y)).collect(),
        label_mass: reads.iter().map(|(_, read)| mass(&read.answer)).sum::<f64>() / reads.len() as f64,
        position_gap: ab.iter().zip(&ba).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max),
        tokens: reads.iter().map(|(_, read)| read.tokens).sum(),
        after: None,
    };
    let top = decision.top();
    let surest = (0..reads.len()).fold(0, |best, i| if votes[i][top] > votes[best][top] { i } else { best });
    decision.after = Some(After {
        rationale: reads[surest].0.rationale.clone(),
        votes: reads.len(),
        unfinished: reads.iter().filter(|(written, _)| written.unfinished).count(),
        written: reads.iter().map(|(written, _)| written.tokens).sum(),
    });
    decision
}
