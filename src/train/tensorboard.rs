//! TensorBoard event files: scalars only, written by hand.
//!
//! ```text
//! file    = record*                         TFRecord
//! record  = u64 length, u32 crc(length), bytes, u32 crc(bytes)       little endian
//! crc(x)  = rotate_right(crc32c(x), 15) + 0xa282ead8                 "masked"
//! bytes   = Event { 1: double wall_time, 2: int64 step, and one of
//!                   3: string file_version, 5: Summary { 1: Value { 1: string tag, 2: float simple_value } * },
//!                   7: SessionLog { 1: status START = 1 } }          protocol buffers
//! ```
//! A resumed run opens a new file beside the old ones and begins it with a `SessionLog START` at its first step:
//! readers then drop what earlier files said about that step and later ones, so curves have no doubles.

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const PREFIX: &str = "events.out.tfevents.";

/// An event file that is open for writing. What was written is in the file when a call returns.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Opens a new event file in `dir`, which is created. It speaks of `first_step` and later steps.
    pub fn create(dir: &Path, first_step: u64) -> Result<EventFile> {
        fs::create_dir_all(dir).map_err(|e| Error::io("create directory", dir, e))?;
        let (file, path) = open_after_the_others(dir).map_err(|e| Error::io("create an event file in", dir, e))?;
        let mut events = EventFile { file, path };
        events.put(0, |event| event.bytes(3, b"brain.Event:2"))?;
        events.put(first_step, |event| event.message(7, |session| session.varint(1, 1)))?;
        Ok(events)
    }

    /// Writes scalars of one step; those that are not finite too, which TensorBoard shows as marks.
    pub fn scalars<'a>(&mut self, step: u64, scalars: impl IntoIterator<Item = (&'a str, f64)>) -> Result<()> {
        self.put(step, |event| {
            event.message(5, |summary| {
                for (tag, value) in scalars {
                    summary.message(1, |entry| {
                        entry.bytes(1, tag.as_bytes());
                        entry.float(2, value as f32);
                    });
                }
            })
        })
    }

    fn put(&mut self, step: u64, what: impl FnOnce(&mut Proto)) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
        let mut event = Proto::default();
        event.double(1, now);
        event.varint(2, step);
        what(&mut event);
        self.file.write_all(&record(&event.0)).map_err(|e| Error::io("write", &self.path, e))
    }
}

/// Readers take the files of a directory in the order of their names, which begin with the time in seconds.
fn open_after_the_others(dir: &Path) -> io::Result<(File, PathBuf)> {
    let seconds = |name: &str| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok();
    let mut now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    for entry in fs::read_dir(dir)? {
        if let Some(other) = entry?.file_name().to_str().and_then(seconds) {
            now = now.max(other + 1);
        }
    }
    let path = dir.join(format!("{PREFIX}{now:010}.gramophone"));
    Ok((OpenOptions::new().write(true).create_new(true).open(&path)?, path))
}

fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), bytes, &masked_crc(bytes)].concat()
}

fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32C (Castagnoli), reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| CRC_TABLE[(crc as u8 ^ byte) as usize] ^ (crc >> 8))
}

static CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let (mut crc, mut bit) = (i as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// A protocol buffers message as it grows. Each method appends one field.
#[derive(Default)]
struct Proto(Vec<u8>);

impl Proto {
    fn raw_varint(&mut self, mut x: u64) {
        while x >= 0x80 {
            self.0.push(x as u8 | 0x80);
            x >>= 7;
        }
        self.0.push(x as u8);
    }
    fn key(&mut self, field: u64, wire_type: u64) {
        self.raw_varint(field << 3 | wire_type);
    }
    fn varint(&mut self, field: u64, x: u64) {
        self.key(field, 0);
        self.raw_varint(x);
    }
    fn double(&mut self, field: u64, x: f64) {
        self.key(field, 1);
        self.0.extend(x.to_le_bytes());
    }
    fn float(&mut self, field: u64, x: f32) {
        self.key(field, 5);
        self.0.extend(x.to_le_bytes());
    }
    fn bytes(&mut self, field: u64, x: &[u8]) {
        self.key(field, 2);
        self.raw_varint(x.len() as u64);
        self.0.extend(x);
    }
    fn message(&mut self, field: u64, fill: impl FnOnce(&mut Proto)) {
        let mut inner = Proto::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_known_answers() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// The payloads of the records of a file, their sums checked.
    fn payloads(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(bytes[8..12], masked_crc(&bytes[..8]));
            assert_eq!(bytes[12 + n..16 + n], masked_crc(&bytes[12..12 + n]));
            found.push(bytes[12..12 + n].to_vec());
            bytes = &bytes[16 + n..];
        }
        found
    }

    #[test]
    fn events_are_the_documented_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(dir.path(), 300).unwrap();
        events.scalars(301, [("loss", 0.5), ("lr", f64::NAN)]).unwrap();
        // Behind the wall time, which is one key byte and eight bytes.
        let found: Vec<Vec<u8>> = payloads(&fs::read(&events.path).unwrap()).iter().map(|p| p[9..].to_vec()).collect();
        assert_eq!(found[0], b"\x10\x00\x1a\x0dbrain.Event:2");
        assert_eq!(found[1], b"\x10\xac\x02\x3a\x02\x08\x01");
        assert_eq!(
            found[2],
            b"\x10\xad\x02\x2a\x18\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f\x0a\x09\x0a\x02lr\x15\x00\x00\xc0\x7f"
        );
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn later_files_sort_behind_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(format!("{PREFIX}9000000000.host.1.0")), "").unwrap();
        let paths: Vec<PathBuf> = (0..3).map(|_| EventFile::create(dir.path(), 0).unwrap().path).collect();
        assert!(paths.is_sorted() && paths[0].ends_with(format!("{PREFIX}9000000001.gramophone")), "{paths:?}");
    }
}
