//! Sequences of launches that repeat: recorded once on a GPU and replayed as one, so that the host is out of the way of small
//! kernels. On the CPU they simply run.

use super::Device;
use super::cuda::Graph;
use crate::error::Result;
use std::collections::BTreeMap;

/// Recorded sequences, by a key of the caller's (the number of rows, say). What differs from one run to the next under the
/// same key must lie in device memory; the tensors themselves must stay where they are.
#[derive(Default)]
pub struct Replays {
    /// `None` after the first run, which loads the kernels; the second one is recorded.
    graphs: BTreeMap<usize, Option<Graph>>,
}

impl Device {
    /// Runs the launches of `f`: on a GPU by replaying what it launched before under this key, unless each launch is to be waited for
    /// (`GRAMOPHONE_SYNC=1`). `f` must not read, wait or allocate.
    ///
    /// # Errors
    /// What the driver refuses to record.
    pub fn replay(&self, replays: &mut Replays, key: usize, f: impl Fn() + Send + Sync) -> Result<()> {
        let Device::Cuda(gpu) = self else {
            self.install(f);
            return Ok(());
        };
        match replays.graphs.get(&key) {
            _ if gpu.is_synchronous() => f(),
            None => {
                f();
                replays.graphs.insert(key, None);
            }
            Some(None) => {
                let graph = gpu.capture(f)?;
                graph.launch();
                replays.graphs.insert(key, Some(graph));
            }
            Some(Some(graph)) => graph.launch(),
        }
        Ok(())
    }

    /// To how many rows a batch of `n` is padded, at most `most`, so that few sequences need recording: the next power of two
    /// on a GPU, `n` itself on the CPU.
    pub fn bucket(&self, n: usize, most: usize) -> usize {
        match self {
            Device::Cpu(_) => n,
            Device::Cuda(_) => n.next_power_of_two().min(most),
        }
    }
}
