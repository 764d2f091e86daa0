//! A radix tree of token sequences whose keys and values are in memory: in which rows of a pool, who uses them, and which may go. Pure.
//!
//! A node is a run of tokens, one row each. Whoever needs a beginning holds the node where it ends, and with it the path from the root.
//! What nobody holds stays for those to come, until the rows are wanted: then the ends of the least recently found runs go first.
//! Keys and values of other weights are others: each adapter's beginnings grow from a root of their own, over one pool.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A beginning: the run where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node(usize);

impl Node {
    /// The empty beginning of an adapter.
    pub fn root(adapter: usize) -> Node {
        Node(adapter)
    }
}

#[derive(Debug)]
struct Run {
    ids: Vec<i32>,
    rows: Vec<u32>,
    parent: usize,
    /// By first token.
    children: BTreeMap<i32, usize>,
    /// Holders of it and of what goes on from it.
    holders: usize,
    /// When it was last found.
    found: u64,
}

/// The tree.
#[derive(Debug)]
pub struct Radix {
    /// The roots first; `None` is a place that is free.
    runs: Vec<Option<Run>>,
    roots: usize,
    vacant: Vec<usize>,
    clock: u64,
    /// Rows in all runs, and in those that somebody holds.
    rows: usize,
    held: usize,
}

impl Radix {
    /// An empty tree for so many adapters.
    pub fn new(roots: usize) -> Radix {
        let root = |parent| {
            let (ids, rows, children) = (Vec::new(), Vec::new(), BTreeMap::new());
            Some(Run { ids, rows, parent, children, holders: 1, found: 0 })
        };
        Radix { runs: (0..roots).map(root).collect(), roots, vacant: Vec::new(), clock: 0, rows: 0, held: 0 }
    }

    /// Rows in the tree.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Rows that [`Radix::evict`] could give.
    pub fn idle(&self) -> usize {
        self.rows - self.held
    }

    /// The longest beginning of `ids` that the tree has from a root on, and its length.
    pub fn find(&mut self, root: Node, ids: &[i32]) -> (Node, usize) {
        self.clock += 1;
        let (mut at, mut len) = (root.0, 0);
        while let Some(&child) = ids.get(len).and_then(|id| self.run(at).children.get(id)) {
            let now = self.clock;
            let run = self.run_mut(child);
            let same = run.ids.iter().zip(&ids[len..]).take_while(|(a, b)| a == b).count();
            run.found = now;
            at = if same < run.ids.len() { self.split(child, same) } else { child };
            len += same;
        }
        (Node(at), len)
    }

    /// Makes the beginning at `node` longer by these tokens, whose keys and values are in `rows`; `None`, and nothing changed, when the
    /// tree goes on with the first of them already.
    pub fn extend(&mut self, node: Node, ids: &[i32], rows: &[u32]) -> Option<Node> {
        assert!(!ids.is_empty() && ids.len() == rows.len(), "a row for each token");
        if self.run(node.0).children.contains_key(&ids[0]) {
            return None;
        }
        let (ids, rows, found) = (ids.to_vec(), rows.to_vec(), self.clock);
        self.rows += rows.len();
        let first = ids[0];
        let new = self.place(Run { ids, rows, parent: node.0, children: BTreeMap::new(), holders: 0, found });
        self.run_mut(node.0).children.insert(first, new);
        Some(Node(new))
    }

    /// The rows of a beginning, in order of position.
    pub fn path(&self, node: Node) -> Vec<u32> {
        let mut runs = Vec::new();
        let mut at = node.0;
        while at >= self.roots {
            let run = self.run(at);
            runs.push(&run.rows);
            at = run.parent;
        }
        runs.into_iter().rev().flatten().copied().collect()
    }

    /// Keeps a beginning from being evicted until it is released as often as it was held.
    pub fn hold(&mut self, node: Node) {
        let mut at = node.0;
        while at >= self.roots {
            let run = self.run_mut(at);
            run.holders += 1;
            let (rows, first, parent) = (run.rows.len(), run.holders == 1, run.parent);
            self.held += if first { rows } else { 0 };
            at = parent;
        }
    }

    pub fn release(&mut self, node: Node) {
        let mut at = node.0;
        while at >= self.roots {
            let run = self.run_mut(at);
            run.holders = run.holders.checked_sub(1).expect("held");
            let (rows, last, parent) = (run.rows.len(), run.holders == 0, run.parent);
            self.held -= if last { rows } else { 0 };
            at = parent;
        }
    }

    /// Takes up to `wanted` rows from beginnings that nobody holds: longest unused first, from their ends.
    pub fn evict(&mut self, wanted: usize) -> Vec<u32> {
        let leaf = |(at, run): (usize, &Option<Run>)| {
            run.as_ref().filter(|r| r.holders == 0 && r.children.is_empty()).map(|r| Reverse((r.found, at)))
        };
        let mut leaves: BinaryHeap<_> = self.runs.iter().enumerate().filter_map(leaf).collect();
        let mut gone = Vec::new();
        while gone.len() < wanted
            && let Some(Reverse((_, at))) = leaves.pop()
        {
            let run = self.run_mut(at);
            let rest = run.rows.len().saturating_sub(wanted - gone.len());
            run.ids.truncate(rest);
            gone.extend(run.rows.drain(rest..));
            if rest > 0 {
                continue;
            }
            let parent = run.parent;
            self.runs[at] = None;
            self.vacant.push(at);
            let above = self.run_mut(parent);
            above.children.retain(|_, child| *child != at);
            // A root is always held.
            if above.holders == 0 && above.children.is_empty() {
                leaves.push(Reverse((above.found, parent)));
            }
        }
        self.rows -= gone.len();
        gone
    }

    /// Cuts a run after `first` tokens. The run keeps its number and its end; what is returned ends at the cut.
    fn split(&mut self, at: usize, first: usize) -> usize {
        let run = self.run_mut(at);
        let (ids, rows) = (run.ids.split_off(first), run.rows.split_off(first));
        let (upper_ids, upper_rows) = (std::mem::replace(&mut run.ids, ids), std::mem::replace(&mut run.rows, rows));
        let (parent, holders, found) = (run.parent, run.holders, run.found);
        let (head, next) = (upper_ids[0], run.ids[0]);
        let children = BTreeMap::from([(next, at)]);
        let upper = self.place(Run { ids: upper_ids, rows: upper_rows, parent, children, holders, found });
        self.run_mut(at).parent = upper;
        self.run_mut(parent).children.insert(head, upper);
        upper
    }

    fn place(&mut self, run: Run) -> usize {
        match self.vacant.pop() {
            Some(at) => {
                self.runs[at] = Some(run);
                at
            }
            None => {
                self.runs.push(Some(run));
                self.runs.len() - 1
            }
        }
    }

    fn run(&self, at: usize) -> &Run {
        self.runs[at].as_ref().expect("a run of the tree")
    }
    fn run_mut(&mut self, at: usize) -> &mut Run {
        self.runs[at].as_mut().expect("a run of the tree")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn beginnings_are_found_split_and_evicted_from_the_end_of_the_oldest() {
        let mut tree = Radix::new(2);
        let one = tree.extend(Node::root(0), &[1, 2, 3], &[10, 11, 12]).unwrap();
        let (cut, len) = tree.find(Node::root(0), &[1, 2, 9]);
        assert_eq!((len, tree.path(cut), tree.path(one)), (2, vec![10, 11], vec![10, 11, 12]));
        assert_eq!(tree.extend(cut, &[3, 4], &[20, 21]), None, "3 is there");
        let two = tree.extend(cut, &[9], &[13]).unwrap();
        tree.hold(two);
        assert_eq!((tree.rows(), tree.idle()), (4, 1));
        assert_eq!(tree.evict(5), [12], "the rest is held");
        tree.release(two);
        assert_eq!((tree.evict(2), tree.find(Node::root(0), &[1, 2, 9]).1), (vec![13, 11], 1));
        assert_eq!(tree.evict(9), [10]);
        assert_eq!((tree.rows(), tree.find(Node::root(0), &[1]).1), (0, 0));
    }

    #[test]
    fn adapters_share_the_pool_and_no_beginnings() {
        let mut tree = Radix::new(2);
        tree.extend(Node::root(0), &[1, 2], &[10, 11]).unwrap();
        assert_eq!(tree.find(Node::root(1), &[1, 2]).1, 0);
        let other = tree.extend(Node::root(1), &[1], &[12]).unwrap();
        tree.hold(other);
        assert_eq!((tree.evict(9), tree.path(other)), (vec![10, 11], vec![12]));
        tree.release(other);
        assert_eq!((tree.evict(9), tree.rows()), (vec![12], 0));
    }

    #[test]
    fn what_was_found_last_stays_longest() {
        let mut tree = Radix::new(2);
        for id in 0..4 {
            tree.find(Node::root(0), &[id, id]);
            tree.extend(Node::root(0), &[id, id], &[10 * id as u32, 10 * id as u32 + 1]).unwrap();
        }
        tree.find(Node::root(0), &[0, 0]);
        assert_eq!(tree.evict(3), [10, 11, 21]);
        assert_eq!([0, 1, 2, 3].map(|id| tree.find(Node::root(0), &[id, id]).1), [2, 0, 1, 2]);
    }

    proptest! {
        /// Against a plain map from beginnings to rows.
        #[test]
        fn rows_are_conserved_and_mean_what_they_meant(
            texts in prop::collection::vec((prop::collection::vec(0..3, 1..10), any::<bool>(), 0usize..6), 1..60),
        ) {
            let mut tree = Radix::new(2);
            let mut free: Vec<u32> = (0..40).rev().collect();
            let mut meaning: BTreeMap<u32, Vec<i32>> = BTreeMap::new();
            let mut held: Vec<(Node, Vec<i32>)> = Vec::new();
            for (text, keep, wanted) in texts {
                let (node, len) = tree.find(Node::root(0), &text);
                let path = tree.path(node);
                prop_assert_eq!(path.len(), len);
                for (n, row) in path.iter().enumerate() {
                    prop_assert_eq!(&meaning[row], &text[..=n]);
                }
                let mut end = node;
                if len < text.len() && free.len() >= text.len() - len {
                    let rows = free.split_off(free.len() - (text.len() - len));
                    meaning.extend(rows.iter().enumerate().map(|(i, row)| (*row, text[..=len + i].to_vec())));
                    end = tree.extend(node, &text[len..], &rows).expect("not there yet");
                }
                let reached = tree.path(end).len();
                if keep {
                    tree.hold(end);
                    held.push((end, text[..reached].to_vec()));
                } else if let Some((node, _)) = held.pop() {
                    tree.release(node);
                }
                let (idle, gone) = (tree.idle(), tree.evict(wanted));
                prop_assert_eq!(gone.len(), wanted.min(idle));
                free.extend(gone);
                prop_assert_eq!(free.len() + tree.rows(), 40);
                let distinct: BTreeSet<&u32> = free.iter().collect();
                prop_assert_eq!(distinct.len(), free.len());
                for (node, text) in &held {
                    let path = tree.path(*node);
                    prop_assert_eq!(path.len(), text.len());
                    prop_assert!(path.iter().enumerate().all(|(n, row)| meaning[row] == text[..=n] && !free.contains(row)));
                }
            }
        }
    }
}
