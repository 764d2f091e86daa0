//! Moments in the stream's work, and times on the GPU's own clock.

use super::Gpu;
use super::driver::check;
use crate::error::Result;
use cudarc::driver::sys::{self, CUevent};
use std::ptr;

/// A moment in the stream's work.
pub(super) struct Event(pub CUevent);

// SAFETY: as the GPU's stream.
unsafe impl Send for Event {}

impl Event {
    /// With the time at which it happens or, for less, without.
    pub fn new(timed: bool) -> Result<Event> {
        let mut event: CUevent = ptr::null_mut();
        // SAFETY: writes one handle. Flag 2 leaves the time out.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, if timed { 0 } else { 2 }) })?;
        Ok(Event(event))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once.
        let _ = unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}

impl Gpu {
    /// Seconds between the first and the last of what `f` launches, by the GPU's clock. What was launched before keeps the GPU
    /// busy while the host prepares, so that a short launch is not measured by the host's pace.
    ///
    /// # Errors
    /// As [`Gpu::sync`].
    pub fn timed(&self, f: impl FnOnce()) -> Result<f64> {
        self.error()?;
        self.enter();
        let (start, end) = (Event::new(true)?, Event::new(true)?);
        let mut milliseconds = 0f32;
        // SAFETY: both events live until the wait below, on the GPU's own stream.
        unsafe { check("cuEventRecord", sys::cuEventRecord(start.0, self.stream()))? };
        f();
        self.enter();
        // SAFETY: as above.
        unsafe { check("cuEventRecord", sys::cuEventRecord(end.0, self.stream()))? };
        self.sync()?;
        // SAFETY: both events have happened.
        check("cuEventElapsedTime", unsafe { sys::cuEventElapsedTime_v2(&mut milliseconds, start.0, end.0) })?;
        Ok(milliseconds as f64 / 1e3)
    }
}
