//! Files whose bytes are used where they lie.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::ops::Deref;

/// The bytes of a file as pages of memory, read from the disk when they are first touched.
#[derive(Debug)]
pub struct Mapped(Mmap);

impl Mapped {
    /// Maps a whole file. Nobody may write to it or truncate it as long as the map lives: its reader's contract with those
    /// who write such files (they make new files, and rename).
    ///
    /// # Errors
    /// What the system refuses.
    pub fn new(file: &File) -> io::Result<Mapped> {
        // SAFETY: the pages stay valid as long as the map does; that nobody writes to them is the contract above.
        unsafe { Mmap::map(file) }.map(Mapped)
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
