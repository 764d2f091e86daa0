//! What a scheduler is given, and what it gives.

use std::ops::Range;
use std::sync::Arc;

/// Something to compute about a sequence. Equal work has equal answers.
pub trait Work: Ord {
    fn ids(&self) -> &[i32];
    /// How many leading tokens need not be computed when their keys and values are there; less than all.
    fn skippable(&self) -> usize;
    /// Whose weights it is for, from 0.
    fn adapter(&self) -> usize {
        0
    }
}

/// Microseconds on the caller's clock.
pub type Micros = u64;

/// Sizes of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest sequence.
    pub longest: usize,
    /// A step's tokens, pieces of sequences, and keys that the pieces attend to (at least `longest`).
    pub tokens: usize,
    pub pieces: usize,
    pub keys: usize,
    /// Rows for keys and values: at least `longest + tokens`.
    pub rows: usize,
    pub adapters: usize,
    /// Waiting that lifts work by one priority.
    pub patience: Micros,
}

/// How somebody wants work done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub client: u64,
    /// Larger is sooner.
    pub priority: u32,
    /// After this moment the answer is of no use.
    pub deadline: Option<Micros>,
}

impl Terms {
    /// The level of work that came at a moment.
    pub(in crate::infer) fn level(&self, arrived: Micros, now: Micros, patience: Micros) -> u64 {
        u64::from(self.priority) + now.saturating_sub(arrived) / patience.max(1)
    }
}

/// Why work was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Empty,
    /// Longer than [`Limits::longest`].
    Long,
}

/// One who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Waiter(pub(super) u64);

/// Some work and all who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(pub(super) u64);

/// Consecutive tokens of some work, to be computed in one pass.
pub struct Piece<W> {
    pub work: Arc<W>,
    pub tokens: Range<usize>,
    /// Rows of the keys from position 0, the piece's own included.
    pub rows: Vec<u32>,
    pub job: JobId,
}

/// What a pass computes.
pub struct Step<W> {
    pub pieces: Vec<Piece<W>>,
    /// Whose deadline passed before their work was done; they are answered by this.
    pub expired: Vec<Waiter>,
    /// Whose work starts with this pass.
    pub begun: Vec<Waiter>,
    pub adapter: usize,
}

/// What there is to do, and has been done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiters that were taken, and how they ended.
    pub submitted: u64,
    pub answered: u64,
    pub expired: u64,
    pub cancelled: u64,
    /// Waiters that joined equal work.
    pub joined: u64,
    /// Tokens of the work of waiters that joined equal work.
    pub joined_tokens: u64,
    /// Tokens of all work that was started, those of them that were computed, and those whose keys and values were there.
    pub tokens: u64,
    pub computed: u64,
    pub cached: u64,
}
