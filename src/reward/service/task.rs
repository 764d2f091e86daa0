//! What a piece of work asks, and what it makes of the answers. Pure: answers in, questions or the work's own answer out.

use super::counters::{Counters, add};
use super::ticket::{Answered, Mail};
use super::work::{Group, Judged, PairWork, Ranked, Texts};
use super::{Event, Failure};
use crate::error::{self, Error};
use crate::infer::engine::{self, Asked};
use crate::infer::generator::{Generation, Request};
use crate::infer::scorer::{LabelLogits, Verdict};
use crate::infer::service::{Answer, Work};
use crate::infer::writer::{Draft, Token};
use crate::reward::judge::{EncodedPair, Judgment, Prompts, conversation};
use crate::reward::rank::{Outcome, Tournament};
use crate::reward::rationale::{self, Ballot, Reasoned};
use crate::text::answer::Grammar;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How an answer came about.
pub(super) struct Meta {
    pub version: Arc<str>,
    pub tokens: usize,
    pub queued: Duration,
}

impl Meta {
    fn of<T>(self, answer: T) -> Answered<T> {
        Answered { answer, version: self.version, tokens: self.tokens, queued: self.queued }
    }
}

/// What a task comes to.
pub(super) enum Next {
    Ask(Vec<Work>),
    /// Sends the answer on its way.
    Done(Box<dyn FnOnce() + Send>),
}

impl Next {
    fn done<T: Send + 'static>(mail: &Mail<T>, answer: T) -> Result<Next, Failure> {
        let mail = mail.clone();
        Ok(Next::Done(Box::new(move || mail.finish(answer))))
    }
}

/// Work in progress for one of the models, and where its answer goes.
pub(super) struct Task {
    pub adapter: usize,
    pub kind: Kind,
}

pub(super) enum Kind {
    Pair { asks: [Read; 2], mail: Mail<Answered<Judged>> },
    Group(Box<GroupTask>),
    Labels { ids: Vec<i32>, labels: Vec<i32>, mail: Mail<Answered<LabelLogits>> },
    Reward { ids: Vec<i32>, mail: Mail<Answered<f32>> },
    Rationale(Box<RationaleTask>),
    Text { request: Request, top: usize, mail: Mail<Event> },
}

/// Something to read, for any of the models.
type Read = engine::Task;

impl Kind {
    pub fn pair(work: PairWork, texts: &Texts, mail: Mail<Answered<Judged>>) -> Kind {
        let read = |ids: Vec<i32>| match texts {
            Texts::Pairwise(prompts) => labels(ids, prompts),
            Texts::Scalar(_) => Read::Reward { ids },
        };
        let asks = match work {
            PairWork::Orders(pair) => [pair.ab, pair.ba].map(read),
            PairWork::Conversations(both) => both.map(|ids| Read::Reward { ids }),
        };
        Kind::Pair { asks, mail }
    }
}

fn labels(ids: Vec<i32>, prompts: &Prompts) -> Read {
    Read::Labels { ids, labels: vec![prompts.labels.a, prompts.labels.b] }
}

impl Task {
    /// The first things to ask, again if the weights changed meanwhile.
    pub fn start(&mut self, meta: Meta, counters: &Counters) -> Result<Next, Failure> {
        let reads = match &mut self.kind {
            Kind::Pair { asks, .. } => asks.to_vec(),
            Kind::Labels { ids, labels, .. } => vec![Read::Labels { ids: ids.clone(), labels: labels.clone() }],
            Kind::Reward { ids, .. } => vec![Read::Reward { ids: ids.clone() }],
            Kind::Group(group) => match group.start(meta, counters)? {
                Step::Ask(reads) => reads,
                Step::Done(next) => return Ok(next),
            },
            Kind::Rationale(task) => return task.start(self.adapter, meta, counters),
            Kind::Text { request, top, .. } => {
                let (adapter, request) = (self.adapter, request.clone());
                return Ok(Next::Ask(vec![Draft { adapter, request, watch: None, top: *top }.into()]));
            }
        };
        Ok(self.ask(reads))
    }

    /// Takes the answers to what was asked last.
    pub fn learn(&mut self, answers: Vec<Answer>, meta: Meta, counters: &Counters) -> Result<Next, Failure> {
        use engine::Answer as A;
        let reads = match (&mut self.kind, &answers[..]) {
            (Kind::Pair { mail, .. }, [a, b]) => {
                let judged = judged(a, b)?;
                counters.judged(&judged);
                return Next::done(mail, meta.of(judged));
            }
            (Kind::Labels { mail, .. }, [Answer::Read(A::Labels(logits))]) => {
                if logits.logits.iter().any(|z| !z.is_finite()) || !logits.lse.is_finite() {
                    return Err(damaged());
                }
                return Next::done(mail, meta.of(logits.clone()));
            }
            (Kind::Reward { mail, .. }, [answer]) => {
                let reward = reward(answer)?;
                counters.rewarded(reward);
                return Next::done(mail, meta.of(reward));
            }
            (Kind::Group(group), answers) => match group.learn(answers, meta, counters)? {
                Step::Ask(reads) => reads,
                Step::Done(next) => return Ok(next),
            },
            (Kind::Rationale(task), answers) => return task.learn(self.adapter, answers, meta, counters),
            (Kind::Text { mail, .. }, [Answer::Written(made)]) => {
                add(&counters.generations, 1);
                return Next::done(
                    mail,
                    Event::End { finish: made.finish, version: meta.version, queued: meta.queued },
                );
            }
            _ => unreachable!("a task gets the answers it asked for"),
        };
        Ok(self.ask(reads))
    }

    fn ask(&self, reads: Vec<Read>) -> Next {
        let adapter = self.adapter;
        Next::Ask(reads.into_iter().map(|task| Asked { adapter, task }.into()).collect())
    }

    /// A token of the text that was asked for.
    pub fn token(&self, token: Token) {
        if let Kind::Text { mail, .. } = &self.kind {
            let Token { id, logprob, top } = token;
            mail.send(Event::Token { id, logprob, top });
        }
    }

    pub fn fail(&self, failure: Failure) {
        match &self.kind {
            Kind::Pair { mail, .. } => mail.fail(failure),
            Kind::Group(group) => group.mail.fail(failure),
            Kind::Labels { mail, .. } => mail.fail(failure),
            Kind::Reward { mail, .. } => mail.fail(failure),
            Kind::Rationale(task) => task.mail.fail(failure),
            Kind::Text { mail, .. } => mail.fail(failure),
        }
    }
}

/// Votes on a pair by replies that reason.
pub(super) struct RationaleTask {
    pub pair: EncodedPair,
    pub settings: rationale::Settings,
    pub grammar: Grammar,
    pub ballot: Option<Ballot>,
    pub mail: Mail<Answered<Reasoned>>,
}

impl RationaleTask {
    /// From the beginning, whatever was written before.
    fn start(&mut self, adapter: usize, meta: Meta, counters: &Counters) -> Result<Next, Failure> {
        self.ballot = Some(Ballot::new(self.pair.clone(), self.settings));
        self.advance(adapter, meta, counters)
    }

    fn learn(&mut self, adapter: usize, answers: &[Answer], meta: Meta, counters: &Counters) -> Result<Next, Failure> {
        let made = |answer: &Answer| match answer {
            Answer::Written(made) => made.clone(),
            Answer::Read(_) => unreachable!("drafts are written"),
        };
        let made: Vec<Generation> = answers.iter().map(made).collect();
        let ballot = self.ballot.as_mut().expect("replies were asked for it");
        ballot.answer(&self.grammar, &made).map_err(Failure::Broken)?;
        self.advance(adapter, meta, counters)
    }

    fn advance(&mut self, adapter: usize, meta: Meta, counters: &Counters) -> Result<Next, Failure> {
        let requests = self.ballot.as_mut().map_or(Vec::new(), Ballot::ask);
        if let Some(ballot) = self.ballot.take_if(|_| requests.is_empty()) {
            let reasoned = ballot.finish();
            counters.reasoned(&reasoned);
            let tokens = reasoned.prompt_tokens;
            return Next::done(&self.mail, Meta { tokens, ..meta }.of(reasoned));
        }
        let watch = Some([self.grammar.labels().a, self.grammar.labels().b]);
        let draft = |request| Draft { adapter, request, watch, top: 0 }.into();
        Ok(Next::Ask(requests.into_iter().map(draft).collect()))
    }
}

pub(super) struct GroupTask {
    pub group: Group,
    pub texts: Texts,
    /// None yet, or none to come: a scalar model compares nothing.
    pub tournament: Option<Tournament>,
    pub wins: BTreeMap<(usize, usize), f64>,
    pub asked: Vec<(usize, usize)>,
    pub mail: Mail<Answered<Ranked>>,
}

/// What a group reads next, or its end.
enum Step {
    Ask(Vec<Read>),
    Done(Next),
}

impl GroupTask {
    fn learn(&mut self, answers: &[Answer], meta: Meta, counters: &Counters) -> Result<Step, Failure> {
        if let Texts::Scalar(_) = self.texts {
            let rewards = answers.iter().map(reward).collect::<Result<Vec<f32>, Failure>>()?;
            rewards.iter().for_each(|r| counters.rewarded(*r));
            return Next::done(&self.mail, meta.of(Ranked::Rewards(rewards))).map(Step::Done);
        }
        let mut outcomes = Vec::with_capacity(self.asked.len());
        for (pair, answers) in std::mem::take(&mut self.asked).into_iter().zip(answers.chunks(2)) {
            let judgment = judgment(&answers[0], &answers[1])?;
            counters.judged(&Judged::Judgment(judgment));
            self.wins.insert(pair, judgment.p_a);
            outcomes.push(Outcome::from(&judgment));
        }
        self.tournament.as_mut().expect("pairs were asked for it").answer(&outcomes);
        self.advance(meta, counters)
    }

    /// From the beginning, whatever was read before.
    fn start(&mut self, meta: Meta, counters: &Counters) -> Result<Step, Failure> {
        let Group { prompt, responses, rules } = &self.group;
        match &self.texts {
            Texts::Scalar(chat) => {
                let of = |r: &String| conversation(chat, prompt, r).map_err(Failure::Invalid);
                let reads = responses.iter().map(|r| of(r).map(|ids| Read::Reward { ids }));
                Ok(Step::Ask(reads.collect::<Result<_, _>>()?))
            }
            Texts::Pairwise(_) => {
                self.tournament = Some(Tournament::new(responses.len(), *rules).map_err(Failure::Invalid)?);
                self.wins.clear();
                self.advance(meta, counters)
            }
        }
    }

    /// Asks the tournament what it wants compared next.
    fn advance(&mut self, meta: Meta, counters: &Counters) -> Result<Step, Failure> {
        let (Some(tournament), Texts::Pairwise(prompts)) = (&mut self.tournament, &self.texts) else {
            unreachable!("only judges play tournaments");
        };
        self.asked = tournament.ask().to_vec();
        if self.asked.is_empty() {
            counters.ranked();
            let (ranking, wins) = (tournament.ranking(), std::mem::take(&mut self.wins));
            return Next::done(&self.mail, meta.of(Ranked::Compared { ranking, wins })).map(Step::Done);
        }
        let mut reads = Vec::new();
        for (i, j) in &self.asked {
            let (a, b) = (&self.group.responses[*i], &self.group.responses[*j]);
            for (x, y) in [(a, b), (b, a)] {
                let ids = prompts.encode(&self.group.prompt, x, y).map_err(Failure::Invalid)?;
                reads.push(labels(ids, prompts));
            }
        }
        Ok(Step::Ask(reads))
    }
}

fn judged(a: &Answer, b: &Answer) -> Result<Judged, Failure> {
    Ok(match a {
        Answer::Read(engine::Answer::Labels(_)) => Judged::Judgment(judgment(a, b)?),
        _ => Judged::Rewards { a: reward(a)?, b: reward(b)? },
    })
}

/// Of both orders.
fn judgment(ab: &Answer, ba: &Answer) -> Result<Judgment, Failure> {
    let verdict = |answer: &Answer| match answer {
        Answer::Read(engine::Answer::Labels(l)) => Verdict { logits: [l.logits[0], l.logits[1]], lse: l.lse },
        _ => unreachable!("language models give label logits"),
    };
    let (ab, ba) = (verdict(ab), verdict(ba));
    if !ab.margin().is_finite() || !ba.margin().is_finite() {
        return Err(damaged());
    }
    Ok(Judgment::of(ab, ba))
}

fn reward(answer: &Answer) -> Result<f32, Failure> {
    match answer {
        Answer::Read(engine::Answer::Reward(reward)) if reward.is_finite() => Ok(*reward),
        Answer::Read(engine::Answer::Reward(_)) => Err(damaged()),
        _ => unreachable!("scalar models give rewards"),
    }
}

fn damaged() -> Failure {
    Failure::Broken(Error::new(error::Kind::Model, "the model's logits are not finite; its weights are damaged"))
}
