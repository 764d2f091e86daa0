//! Answers of an evaluation under way, on disk: killed and started again, it goes on from them.
//!
//! `OUT.unfinished` holds the settings on its first line and then an answer a line, in the order of the questions. That order is
//! a function of the suite, its rows and the answers before, so the lines are what the first questions of a new start would
//! be answered with. The file goes when the result is there.

use super::super::console::remark;
use crate::error::{Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Answers that were given before, and a place for those to come. Without `--out` it has neither.
pub struct Unfinished(Option<Kept>);

struct Kept {
    path: PathBuf,
    file: File,
    /// The first line, as long as it is not written: it comes with the first answers.
    head: Option<String>,
    /// Lines of answers to the next questions.
    known: VecDeque<String>,
}

impl Unfinished {
    /// Opens what belongs to the result at `out`. `settings` are what the answers depend on.
    ///
    /// # Errors
    /// Answers under other settings; another program at work on them; the file system refuses.
    pub fn open(out: Option<&Path>, settings: &Map<String, Value>) -> Result<Unfinished> {
        let Some(out) = out else { return Ok(Unfinished(None)) };
        let mut name = out.as_os_str().to_os_string();
        name.push(".unfinished");
        let path = PathBuf::from(name);
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        }
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = options.map_err(|e| Error::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::usage(format!("{}: another program is at work on this evaluation", path.display())));
            }
            // A file system without locks.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
        }
        let mut kept = Kept { path, file, head: None, known: VecDeque::new() };
        kept.read(settings)?;
        if !kept.known.is_empty() {
            remark(format_args!("going on after {} answers in {}", kept.known.len(), kept.path.display()));
        }
        Ok(Unfinished(Some(kept)))
    }

    /// Answers questions in order: those that were answered before from the file, the others by `make`, `step` at a time, each
    /// step kept as soon as it is there.
    ///
    /// # Errors
    /// Those of `make`; a file that is damaged or cannot be written.
    pub fn answer<Q, A: Serialize + DeserializeOwned>(
        &mut self,
        asked: &[Q],
        step: usize,
        mut make: impl FnMut(&[Q]) -> Result<Vec<A>>,
    ) -> Result<Vec<A>> {
        let mut found = match &mut self.0 {
            Some(kept) => kept.take(asked.len())?,
            None => Vec::new(),
        };
        for part in asked[found.len()..].chunks(step) {
            let made = make(part)?;
            if let Some(kept) = &mut self.0 {
                kept.keep(&made)?;
            }
            found.extend(made);
        }
        Ok(found)
    }

    /// The result is there.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn done(self) -> Result<()> {
        let Some(kept) = self.0 else { return Ok(()) };
        std::fs::remove_file(&kept.path).map_err(|e| Error::io("remove", &kept.path, e))
    }
}

impl Drop for Kept {
    /// What failed before its first answer leaves nothing.
    fn drop(&mut self) {
        if self.head.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Kept {
    /// Reads the lines that are whole and cuts off what is not.
    fn read(&mut self, settings: &Map<String, Value>) -> Result<()> {
        let failed = |e| Error::io("read", &self.path, e);
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).map_err(failed)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let text = String::from_utf8(bytes[..whole].to_vec()).map_err(|e| self.damaged(&e.to_string()))?;
        self.file.set_len(whole as u64).and_then(|()| self.file.seek(SeekFrom::End(0))).map_err(failed)?;
        let mut lines = text.lines().map(String::from);
        let Some(first) = lines.next() else {
            self.head = Some(Value::from(settings.clone()).to_string() + "\n");
            return Ok(());
        };
        let theirs: Map<String, Value> = serde_json::from_str(&first).map_err(|e| self.damaged(&e.to_string()))?;
        let differs = |name: &&String| theirs.get(*name) != settings.get(*name);
        if let Some(name) = settings.keys().chain(theirs.keys()).find(differs) {
            return Err(Error::usage(format!(
                "{} holds an evaluation that was begun with another {name}; delete it, or name another --out",
                self.path.display()
            )));
        }
        self.known = lines.collect();
        Ok(())
    }

    fn damaged(&self, what: &str) -> Error {
        Error::data(format!("{}: damaged ({what}); delete it to begin anew", self.path.display()))
    }

    fn take<A: DeserializeOwned>(&mut self, most: usize) -> Result<Vec<A>> {
        let lines: Vec<String> = self.known.drain(..most.min(self.known.len())).collect();
        let parsed = lines.iter().map(|line| serde_json::from_str(line)).collect::<std::result::Result<Vec<A>, _>>();
        parsed.map_err(|e| self.damaged(&e.to_string()))
    }

    fn keep<A: Serialize>(&mut self, answers: &[A]) -> Result<()> {
        let mut bytes = self.head.take().unwrap_or_default().into_bytes();
        for answer in answers {
            serde_json::to_writer(&mut bytes, answer).map_err(|e| Error::new(Kind::Data, e.to_string()))?;
            bytes.push(b'\n');
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
        written.map_err(|e| Error::io("write", &self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(seed: u64) -> Map<String, Value> {
        Map::from_iter([("suite".into(), json!("pairs")), ("seed".into(), json!(seed))])
    }

    /// Answers a question with its number and a third; asks at most `most` times.
    fn run(out: &Path, questions: &[u64], most: usize) -> (Result<Vec<(u64, f64)>>, usize) {
        let mut kept = Unfinished::open(Some(out), &settings(1)).unwrap();
        let mut made = 0;
        let answers = kept.answer(questions, 2, |part| {
            if made + part.len() > most {
                return Err(Error::data("no more"));
            }
            made += part.len();
            Ok(part.iter().map(|q| (*q, *q as f64 / 3.0)).collect())
        });
        (answers, made)
    }

    #[test]
    fn answers_are_given_once_and_come_back_in_every_bit() {
        let dir = tempfile::tempdir().unwrap();
        let (out, questions) = (dir.path().join("deep/o"), (0..11).collect::<Vec<u64>>());
        assert!(run(&out, &questions, 6).0.is_err());
        let path = dir.path().join("deep/o.unfinished");
        // Killed while it wrote a line.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"[6,2.").unwrap();
        let (answers, made) = run(&out, &questions, 100);
        assert_eq!(made, 5);
        let whole: Vec<(u64, f64)> = questions.iter().map(|q| (*q, *q as f64 / 3.0)).collect();
        assert_eq!(answers.unwrap(), whole);
        let (answers, made) = run(&out, &questions, 0);
        assert_eq!((answers.unwrap(), made), (whole, 0));
        Unfinished::open(Some(&out), &settings(1)).unwrap().done().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn other_settings_other_programs_and_damage_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("o");
        let open = |seed| Unfinished::open(Some(&out), &settings(seed));
        let first = open(1).unwrap();
        let error = open(1).err().unwrap().to_string();
        assert!(error.contains("another program"), "{error}");
        drop(first);
        let path = dir.path().join("o.unfinished");
        assert!(!path.exists(), "nothing was answered");
        run(&out, &[1, 2], 2).0.unwrap();
        let error = open(2).err().unwrap();
        assert!(error.exit_code() == 2 && error.to_string().contains("another seed"), "{error}");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("[2,", "[two,")).unwrap();
        let error = run(&out, &[1, 2], 2).0.unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains("delete it"), "{error}");
        std::fs::write(&path, "no settings\n").unwrap();
        assert!(open(1).err().unwrap().to_string().contains("damaged"));
        assert!(Unfinished::open(None, &settings(1)).unwrap().0.is_none());
    }
}
