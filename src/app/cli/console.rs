//! Words for people on standard output and standard error. `println!` panics where the disk behind a stream is full or
//! its reader went away; these do not.

use crate::error::{Error, Result};
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

/// Writes what was asked for to standard output, now.
///
/// # Errors
/// The system refuses. A reader that went away (`| head`) is none: the program ends quietly.
pub fn print(text: impl Display) -> Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(stdout)
}

/// Tells how a long run goes, in a line on standard output. The run matters more than the line: if nobody reads it, it
/// is lost.
pub fn tell(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line on standard error, from the program itself. There is nowhere to complain if it does not arrive.
pub fn remark(line: impl Display) {
    let _ = writeln!(io::stderr(), "gramophone: {line}");
}

/// What a failed write to standard output means.
pub fn stdout(e: io::Error) -> Error {
    if e.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Error::io("write to", Path::new("standard output"), e)
}

/// Columns as wide as their widest cell; the first is text, the others end at the same place.
pub fn aligned(head: &[String], rows: Vec<Vec<String>>) -> String {
    let lines: Vec<&[String]> = std::iter::once(head).chain(rows.iter().map(Vec::as_slice)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &&[String]| {
        let cell = |(i, (cell, width)): (usize, (&String, &usize))| match i {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        };
        let cells: Vec<String> = cells.iter().zip(&widths).enumerate().map(cell).collect();
        format!("  {}\n", cells.join("   "))
    };
    lines.iter().map(line).collect()
}
