//! Launches recorded once and replayed as one.

use super::Gpu;
use super::driver::check;
use crate::error::Result;
use cudarc::driver::sys::{self, CUgraphExec, CUstreamCaptureMode};
use std::ptr;

/// What errors call it.
const NAME: &str = "a recorded step";

/// A recorded sequence of launches. What differs between replays (tokens, lengths) must lie in device memory.
pub struct Graph {
    gpu: Gpu,
    executable: CUgraphExec,
}

// SAFETY: as the GPU's stream; launches are ordered by it.
unsafe impl Send for Graph {}

impl Gpu {
    /// Records the launches of `f` without running them.
    ///
    /// # Errors
    /// What the driver refuses; `f` must not read, wait or allocate.
    pub fn capture(&self, f: impl FnOnce()) -> Result<Graph> {
        self.error()?;
        self.enter();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        // What is recorded is not under way.
        let launched = self.state().launched.clone();
        // SAFETY: the stream is ours; the graph is destroyed once its executable form exists.
        unsafe {
            check("cuStreamBeginCapture", sys::cuStreamBeginCapture_v2(self.stream(), mode))?;
            f();
            self.state().launched = launched;
            check("cuStreamEndCapture", sys::cuStreamEndCapture(self.stream(), &mut graph))?;
            let made = check("cuGraphInstantiate", sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0));
            let _ = sys::cuGraphDestroy(graph);
            made?;
        }
        self.error()?;
        Ok(Graph { gpu: self.clone(), executable })
    }
}

impl Graph {
    /// Runs the recorded launches.
    pub fn launch(&self) {
        self.gpu.enter();
        self.gpu.remember(NAME);
        // SAFETY: the executable graph lives as long as `self`.
        let code = unsafe { sys::cuGraphLaunch(self.executable, self.gpu.stream()) };
        self.gpu.latch(NAME, code);
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.gpu.enter();
        // SAFETY: made by `capture`, destroyed once.
        let code = unsafe { sys::cuGraphExecDestroy(self.executable) };
        self.gpu.latch("cuGraphExecDestroy", code);
    }
}
