//! A list of work as one call that blocks: what other languages get of a [`Service`](super::service::Service).
//!
//! Work goes in as far as the queue has room, so a list may be longer than the queue, and the lists of several threads share it. Answers
//! come in the list's order. A call that waits looks up now and then and asks whether to go on; whatever ends it takes its
//! unfinished work along.

use super::service::{Failure, Ticket};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How often a call that waits looks up.
const LOOK_UP: Duration = Duration::from_millis(50);
/// When a queue that others have filled is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// Why there are no answers.
#[derive(Debug)]
pub enum Ended<E> {
    /// The work at this place failed.
    At(usize, Failure),
    /// `go_on` said no.
    Stopped(E),
}

/// The answers of all `work`. `submit` hands a piece in, and again if the queue was full; an error of `go_on` ends the call.
///
/// # Errors
/// One of the pieces failed, the first that was noticed; or what `go_on` says.
pub fn all<W, T, E>(
    work: impl IntoIterator<Item = Result<W, Failure>>,
    deadline: Option<Instant>,
    submit: impl Fn(&W) -> Result<Ticket<T>, Failure>,
    mut go_on: impl FnMut() -> Result<(), E>,
) -> Result<Vec<T>, Ended<E>> {
    let (mut answers, mut tickets) = (Vec::new(), VecDeque::new());
    for (place, piece) in work.into_iter().enumerate() {
        let piece = piece.map_err(|failure| Ended::At(place, failure))?;
        let ticket = loop {
            match submit(&piece) {
                Ok(ticket) => break ticket,
                Err(Failure::Full { .. }) => match tickets.pop_front() {
                    Some(first) => answers.push(wait(first, answers.len(), deadline, &mut go_on)?),
                    // Others have filled the queue.
                    None => pause(TRY_AGAIN, place, deadline, &mut go_on)?,
                },
                Err(failure) => return Err(Ended::At(place, failure)),
            }
        };
        tickets.push_back(ticket);
    }
    for ticket in tickets {
        answers.push(wait(ticket, answers.len(), deadline, &mut go_on)?);
    }
    Ok(answers)
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Unpark>) {
        self.0.unpark();
    }
}

fn wait<T, E>(
    ticket: Ticket<T>,
    place: usize,
    deadline: Option<Instant>,
    go_on: &mut impl FnMut() -> Result<(), E>,
) -> Result<T, Ended<E>> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match ticket.poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(answer)) => return answer.map_err(|failure| Ended::At(place, failure)),
            Poll::Ready(None) => return Err(Ended::At(place, Failure::Stopped)),
            Poll::Pending => pause(LOOK_UP, place, deadline, go_on)?,
        }
    }
}

/// Sleeps, at most for `most` and until the deadline, and looks up.
fn pause<E>(
    most: Duration,
    place: usize,
    deadline: Option<Instant>,
    go_on: &mut impl FnMut() -> Result<(), E>,
) -> Result<(), Ended<E>> {
    match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
        Some(Duration::ZERO) => return Err(Ended::At(place, Failure::Late)),
        left => std::thread::park_timeout(left.unwrap_or(most).min(most)),
    }
    go_on().map_err(Ended::Stopped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::reward::judge::Pair;
    use crate::reward::open::{Opening, Serving};
    use crate::reward::service::{Answered, Judged, Options, PairWork, Service};
    use crate::text::message::Message;
    use std::convert::Infallible;
    use std::path::PathBuf;

    fn service(queue: usize) -> Service {
        let root = std::env::var_os("GRAMOPHONE_ROOT")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let (dev, model) = (Device::cpu(1), root.join("tests/golden/qwen3"));
        let opened = Opening { model, ..Opening::default() }.open(&dev).unwrap();
        opened.service(dev, Serving { queue, ..Serving::default() }).unwrap()
    }

    fn works(service: &Service, n: usize) -> Vec<Result<PairWork, Failure>> {
        let pair = |i: usize| Pair { prompt: vec![Message::user(format!("{i}"))], a: "a".repeat(i), b: "no".into() };
        (0..n).map(|i| service.texts().pair(&pair(i)).map_err(Failure::Invalid)).collect()
    }

    fn judge<E>(
        service: &Service,
        works: Vec<Result<PairWork, Failure>>,
        deadline: Option<Instant>,
        go_on: impl FnMut() -> Result<(), E>,
    ) -> Result<Vec<Answered<Judged>>, Ended<E>> {
        let options = Options { deadline, priority: 0 };
        all(works, deadline, |work| service.judge(work.clone(), options), go_on)
    }

    #[test]
    fn a_list_may_be_longer_than_the_queue_and_several_threads_share_it() {
        let (roomy, tight) = (service(1 << 20), service(2500));
        let go_on = || Ok::<(), Infallible>(());
        let answers = |service: &Service| -> Vec<Judged> {
            judge(service, works(service, 12), None, go_on).unwrap().iter().map(|a| a.answer).collect()
        };
        let tokens: usize = judge(&roomy, works(&roomy, 12), None, go_on).unwrap().iter().map(|a| a.tokens).sum();
        assert!(tokens > 10_000, "{tokens} tokens would fit");
        let expected = answers(&roomy);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert_eq!(answers(&tight), expected));
            }
        });
        assert_eq!(tight.load().in_flight, 0);
    }

    #[test]
    fn what_ends_a_list_takes_its_work_along() {
        let service = service(2500);
        service.pause(true);
        // Waiting for an answer, for room, and for room that only others can make.
        for n in [1, 12] {
            let mut looks = 0;
            let go_on = || {
                looks += 1;
                if looks == 3 { Err("enough") } else { Ok(()) }
            };
            assert!(matches!(judge(&service, works(&service, n), None, go_on), Err(Ended::Stopped("enough"))));
            assert_eq!(service.load().in_flight, 0);
        }
        let held: Vec<_> =
            works(&service, 12).into_iter().map_while(|w| service.judge(w.unwrap(), Options::default()).ok()).collect();
        let deadline = Some(Instant::now() + Duration::from_millis(120));
        let late = judge(&service, works(&service, 12), deadline, || Ok::<(), ()>(()));
        assert!(matches!(late, Err(Ended::At(_, Failure::Late))), "{late:?}");
        assert_eq!(service.load().in_flight, held.len());
        service.pause(false);
        assert!(held.into_iter().all(|ticket| ticket.wait().is_ok()));
    }

    #[test]
    fn the_place_of_what_failed_is_told() {
        let service = service(1 << 20);
        let mut works = works(&service, 3);
        works[1] = Ok(PairWork::Conversations([vec![1], vec![2]]));
        let failed = judge(&service, works, None, || Ok::<(), ()>(()));
        assert!(matches!(failed, Err(Ended::At(1, Failure::Invalid(_)))), "{failed:?}");
        assert_eq!(service.load().in_flight, 0);
    }
}
