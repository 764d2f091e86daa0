//! The C library. `types` is what crosses the border, `border` how: no panic, no null pointer and no foreign encoding gets past it.

mod border;
mod types;

use border::{Refusal, Status, guarded, list, list_mut, path, seconds, text, text_or};
use engine::device::Device;
use engine::error::Error;
use engine::reward::batch::{self, Ended};
use engine::reward::open::{AdapterPlace, Opening, Serving};
use engine::reward::rank::{Method, Rules};
use engine::reward::service::{self as queue, Failure, Judged, Ranked, Service};
use engine::text::jinja::Date;
use engine::text::template::JudgeTemplate;
use std::convert::Infallible;
use std::ffi::{CStr, c_char};
use std::time::Instant;
use types::{Judgment, Options, Pair};

/// A model, its queue, and the thread that computes.
pub struct Judge {
    service: Service,
}

impl Judge {
    /// Answers of all `work`, in its order. `what` is the list's name, and empty where there is only one piece.
    fn all<W, T>(
        &self,
        what: &str,
        timeout: f64,
        work: impl Iterator<Item = Result<W, Refusal>>,
        submit: impl Fn(&Service, &W, queue::Options) -> Result<queue::Ticket<queue::Answered<T>>, Failure>,
    ) -> Result<Vec<T>, Refusal> {
        let deadline = seconds(timeout)?.map(|left| Instant::now() + left);
        let options = queue::Options { deadline, priority: 0 };
        // What is wrong with the arguments themselves is said before anything is computed.
        let work = work.collect::<Result<Vec<W>, Refusal>>()?;
        let submit = |piece: &W| submit(&self.service, piece, options);
        match batch::all(work.into_iter().map(Ok), deadline, submit, || Ok::<(), Infallible>(())) {
            Ok(answers) => Ok(answers.into_iter().map(|answered| answered.answer).collect()),
            Err(Ended::At(_, failure)) if what.is_empty() => Err(failure.into()),
            Err(Ended::At(place, failure)) => Err(Refusal::from(failure).at(format_args!("{what}[{place}]"))),
            Err(Ended::Stopped(never)) => match never {},
        }
    }
}

/// Opens a Hugging Face model directory. `options` may be null. On success `*judge` is to be closed with gramophone_close.
///
/// # Safety
/// Pointers are null or point to what their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gramophone_open(
    model: *const c_char,
    options: *const Options,
    judge: *mut *mut Judge,
) -> Status {
    guarded(|| {
        let judge = unsafe { judge.as_mut() }.ok_or_else(|| Refusal::null("judge"))?;
        *judge = std::ptr::null_mut();
        let model = path("model", model)?.ok_or_else(|| Refusal::null("model"))?;
        let default = Options::default();
        let options = unsafe { options.as_ref() }.unwrap_or(&default);
        let device = Device::open(text_or("options.device", options.device, "cpu")?, options.threads as usize)?;
        let adapters = path("options.adapter", options.adapter)?.map(|dir| AdapterPlace { name: None, dir });
        let date = text_or("options.template_date", options.template_date, "")?;
        let opening = Opening {
            model,
            adapters: adapters.into_iter().collect(),
            context: Some(options.context).filter(|n| *n > 0),
            date: Some(date).filter(|d| !d.is_empty()).map(Date::parse).transpose()?,
            dtype: types::dtype(text_or("options.dtype", options.dtype, "auto")?)?,
        };
        let template = path("options.template_file", options.template_file)?;
        let template = template.map(|file| JudgeTemplate::open(&file)).transpose()?;
        let default = Serving::default();
        let queue = Some(options.queue_tokens).filter(|n| *n > 0).unwrap_or(default.queue);
        let service = opening.open(&device)?.service(device, Serving { template, queue, ..default })?;
        *judge = Box::into_raw(Box::new(Judge { service }));
        Ok(())
    })
}

/// Closes a judge, or does nothing with null. No other call may be using it.
///
/// # Safety
/// The judge was opened by gramophone_open and not closed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gramophone_close(judge: *mut Judge) {
    if !judge.is_null() {
        // Whatever fails here fails for nobody.
        guarded(|| {
            drop(unsafe { Box::from_raw(judge) });
            Ok(())
        });
    }
}

/// Judges `n` pairs, each in both orders, and writes `n` judgments. `timeout_seconds` 0 waits as long as it takes.
///
/// # Safety
/// Pointers are null or point to what their types say, `pairs` and `judgments` to `n` of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gramophone_judge(
    judge: *const Judge,
    pairs: *const Pair,
    n: usize,
    timeout_seconds: f64,
    judgments: *mut Judgment,
) -> Status {
    guarded(|| {
        let judge = unsafe { judge.as_ref() }.ok_or_else(|| Refusal::null("judge"))?;
        let (pairs, out) = (list("pairs", pairs, n)?, list_mut("judgments", judgments, n)?);
        let texts = judge.service.texts();
        let work = pairs.iter().enumerate().map(|(i, pair)| {
            let pair = pair.read(i)?;
            texts.pair(&pair).map_err(|e| Refusal::from(e).at(format_args!("pairs[{i}]")))
        });
        let judged: Vec<Judged> =
            judge.all("pairs", timeout_seconds, work, |service, pair, options| service.judge(pair.clone(), options))?;
        out.iter_mut().zip(&judged).for_each(|(out, judged)| *out = Judgment::from(judged));
        Ok(())
    })
}

/// Orders `n` responses to one prompt: `prompt` is a text, or null where `messages` is a JSON list of messages. `method` is
/// "round_robin" (also if null), "linear", "knockout", "swiss", "anchor" or "adaptive". Writes `n` indices, best first, to `order`, and
/// to `scores` for each response its mean probability of beating those it was compared with (a scalar model: its rewards).
/// `comparisons`, unless null, gets the number of pairs that were compared.
///
/// # Safety
/// Pointers are null or point to what their types say, `responses`, `order` and `scores` to `n` of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gramophone_rank(
    judge: *const Judge,
    prompt: *const c_char,
    messages: *const c_char,
    responses: *const *const c_char,
    n: usize,
    method: *const c_char,
    timeout_seconds: f64,
    order: *mut usize,
    scores: *mut f64,
    comparisons: *mut usize,
) -> Status {
    guarded(|| {
        let judge = unsafe { judge.as_ref() }.ok_or_else(|| Refusal::null("judge"))?;
        let (order, scores) = (list_mut("order", order, n)?, list_mut("scores", scores, n)?);
        let method = text_or("method", method, "round_robin")?;
        let method: Method = method.parse().map_err(|e| Refusal::usage(format!("method: {e}")))?;
        let rules = Rules::new(method, None).map_err(|e| Refusal::usage(e.to_string()))?;
        let prompt = types::prompt("", prompt, messages)?;
        let responses = list("responses", responses, n)?.iter().enumerate();
        let responses = responses.map(|(i, r)| Ok(text(&format!("responses[{i}]"), *r)?.to_string()));
        let group = queue::Group { prompt, responses: responses.collect::<Result<_, Refusal>>()?, rules };
        let work = std::iter::once(Ok(group));
        let ranked: Vec<Ranked> =
            judge.all("", timeout_seconds, work, |service, group, options| service.rank(group.clone(), options))?;
        order.copy_from_slice(&ranked[0].order());
        scores.copy_from_slice(&ranked[0].scores());
        if let Some(comparisons) = unsafe { comparisons.as_mut() } {
            *comparisons = match &ranked[0] {
                Ranked::Compared { ranking, .. } => ranking.comparisons,
                Ranked::Rewards(_) => 0,
            };
        }
        Ok(())
    })
}

/// Reads the logits of labels at the ends of `n` prompts of token ids. Prompt `i` is `ids[offsets[i] .. offsets[i + 1]]`, so there are `n + 1`
/// offsets. Writes `n * label_count` logits, and, unless null, `n` log-sum-exps over the whole vocabulary to `lse`.
///
/// # Safety
/// Pointers are null or point to what their types say, as many as said above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gramophone_label_logits(
    judge: *const Judge,
    ids: *const i32,
    offsets: *const usize,
    n: usize,
    labels: *const i32,
    label_count: usize,
    timeout_seconds: f64,
    logits: *mut f32,
    lse: *mut f32,
) -> Status {
    guarded(|| {
        let judge = unsafe { judge.as_ref() }.ok_or_else(|| Refusal::null("judge"))?;
        let (prompts, labels) = (types::prompts(ids, offsets, n)?, list("labels", labels, label_count)?);
        let room = n.checked_mul(label_count).ok_or_else(|| Refusal::usage("n: there are too many"))?;
        let logits = list_mut("logits", logits, room)?;
        let read = judge.all("prompts", timeout_seconds, prompts, |service, ids, options| {
            service.labels(ids.to_vec(), labels.to_vec(), options)
        })?;
        logits.chunks_mut(label_count.max(1)).zip(&read).for_each(|(out, read)| out.copy_from_slice(&read.logits));
        if !lse.is_null() {
            list_mut("lse", lse, n)?.iter_mut().zip(&read).for_each(|(out, read)| *out = read.lse);
        }
        Ok(())
    })
}

/// The rewards that a scalar model gives `n` conversations of token ids, laid out as for gramophone_label_logits.
///
/// # Safety
/// Pointers are null or point to what their types say, as many as said above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gramophone_rewards(
    judge: *const Judge,
    ids: *const i32,
    offsets: *const usize,
    n: usize,
    timeout_seconds: f64,
    rewards: *mut f32,
) -> Status {
    guarded(|| {
        let judge = unsafe { judge.as_ref() }.ok_or_else(|| Refusal::null("judge"))?;
        let (prompts, rewards) = (types::prompts(ids, offsets, n)?, list_mut("rewards", rewards, n)?);
        let read = judge
            .all("prompts", timeout_seconds, prompts, |service, ids, options| service.reward(ids.to_vec(), options))?;
        rewards.copy_from_slice(&read);
        Ok(())
    })
}

/// The token ids that mean "A is better" and "B is better" to this judge.
///
/// # Safety
/// Pointers are null or point to what their types say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gramophone_labels(judge: *const Judge, a: *mut i32, b: *mut i32) -> Status {
    guarded(|| {
        let judge = unsafe { judge.as_ref() }.ok_or_else(|| Refusal::null("judge"))?;
        let queue::Texts::Pairwise(prompts) = judge.service.texts() else {
            return Err(Error::model("this model has a scalar head: it gives rewards and has no labels").into());
        };
        *unsafe { a.as_mut() }.ok_or_else(|| Refusal::null("a"))? = prompts.labels.a;
        *unsafe { b.as_mut() }.ok_or_else(|| Refusal::null("b"))? = prompts.labels.b;
        Ok(())
    })
}

/// What was wrong with the last call of this thread that failed; empty if none did. It stays until the thread's next call that fails.
#[unsafe(no_mangle)]
pub extern "C" fn gramophone_last_error() -> *const c_char {
    border::last_error()
}

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version holds no zero"),
};

/// The version of this library.
#[unsafe(no_mangle)]
pub extern "C" fn gramophone_version() -> *const c_char {
    VERSION.as_ptr()
}

#[cfg(test)]
mod tests;
