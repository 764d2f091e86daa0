//! Checkpoints on disk: which directories there are, which of them are whole, which are kept.
//!
//! ```text
//! ROOT/checkpoint-000200/   whatever the trainer writes, then
//!                           state.json: format version, position in the run, and name and size of every other file
//! ```
//! A checkpoint is built under a temporary name and renamed when all of it is on disk, so a crash or a full disk at any
//! byte leaves the earlier ones as they were. A checkpoint is *whole* when its `state.json` parses and every file it
//! lists has the size it lists; resuming takes the newest whole one.

use crate::base::atomic;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Version of `state.json`. A reader refuses what is newer than itself.
const FORMAT: u32 = 1;
const STATE: &str = "state.json";
const PREFIX: &str = "checkpoint-";

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Optimizer steps taken; also the number in the directory's name.
    pub step: u64,
    /// Training examples consumed since the start of the run, dropped ones not counted: the data cursor.
    pub examples: u64,
    /// Training tokens consumed since the start of the run.
    pub tokens: u64,
    /// Seconds spent training, earlier sessions of the run included.
    pub elapsed: f64,
    /// [`crate::train::config::Run::config_hash`] of the run that wrote it.
    pub config_hash: String,
}

/// Which checkpoints outlive newer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest `keep` stay; at least 1.
    pub keep: usize,
    /// Those at multiples of `major` steps stay for ever; 0 for none.
    pub major: u64,
}

/// Where a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At the newest whole checkpoint of its own directory, or afresh where there is none.
    Auto,
    /// Afresh; its directory must hold no checkpoints.
    Never,
    /// At this checkpoint, or at the newest whole one in this directory.
    From(PathBuf),
}

/// A whole checkpoint.
#[derive(Clone, Debug)]
pub struct Found {
    pub dir: PathBuf,
    pub state: State,
    /// Why newer ones were passed over, one line each, newest first.
    pub damaged: Vec<Error>,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    format: u32,
    #[serde(flatten)]
    state: State,
    files: Vec<FileSize>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct FileSize {
    name: String,
    bytes: u64,
}

/// Writes the checkpoint of `state.step` below `root` and removes those that `retention` does not keep. `write` fills
/// the directory it is given; a checkpoint of the same step is replaced. Returns the checkpoint's directory.
///
/// # Errors
/// Those of `write` and of the file system. The checkpoints that were there are untouched then.
pub fn save(
    root: &Path,
    state: &State,
    retention: Retention,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    assert!(retention.keep >= 1, "a run that keeps no checkpoint cannot resume");
    let dir = root.join(format!("{PREFIX}{:06}", state.step));
    atomic::atomic_dir(&dir, |tmp| {
        write(tmp)?;
        let mut files = Vec::new();
        list(tmp, "", &mut files)?;
        let file = StateFile { format: FORMAT, state: state.clone(), files };
        let text = serde_json::to_string_pretty(&file).expect("numbers and strings");
        atomic::write_file(tmp.join(STATE), text.as_bytes())
    })?;
    let whole = numbered(root)?.into_iter().filter(|(step, dir)| *step <= state.step && read(dir).is_ok());
    for (rank, (step, dir)) in whole.enumerate() {
        let major = retention.major > 0 && step.is_multiple_of(retention.major);
        if rank >= retention.keep && !major {
            atomic::remove_dir(&dir)?;
        }
    }
    Ok(dir)
}

/// Where a run whose checkpoints live in `root` begins: `None` is step 0. Also clears `root` of what crashed writers
/// left.
///
/// # Errors
/// `root` holds checkpoints that the run would get mixed up with: any for [`Resume::Never`], later ones for
/// [`Resume::From`]. Or the place named by [`Resume::From`] holds no whole checkpoint; or `root` holds some, none whole.
pub fn find(root: &Path, resume: &Resume) -> Result<Option<Found>> {
    atomic::sweep(root)?;
    let newest = numbered(root)?.into_iter().next();
    match (resume, newest) {
        (Resume::Auto, None) | (Resume::Never, None) => Ok(None),
        (Resume::Auto, Some(_)) => latest(root).map(Some),
        (Resume::Never, Some((step, _))) => Err(Error::usage(format!(
            "{} holds checkpoints up to step {step} of an earlier run: set checkpoint.resume = \"auto\" to go on with \
             it, or choose another checkpoint.dir",
            root.display()
        ))),
        (Resume::From(place), newest) => {
            let found = match place.join(STATE).exists() {
                true => Found { dir: place.clone(), state: read(place)?, damaged: Vec::new() },
                false => latest(place)?,
            };
            match newest {
                Some((step, dir)) if step > found.state.step => Err(Error::usage(format!(
                    "cannot resume at step {} in {}: {} is later; move the later checkpoints away or choose another \
                     checkpoint.dir",
                    found.state.step,
                    root.display(),
                    dir.display()
                ))),
                _ => Ok(Some(found)),
            }
        }
    }
}

/// The newest whole checkpoint in `root`.
///
/// # Errors
/// There is none; the message says what is wrong with the newest.
pub fn latest(root: &Path) -> Result<Found> {
    let mut damaged = Vec::new();
    for (_, dir) in numbered(root)? {
        match read(&dir) {
            Ok(state) => return Ok(Found { dir, state, damaged }),
            Err(e) => damaged.push(e),
        }
    }
    Err(match damaged.into_iter().next() {
        Some(first) => Error::model(format!("no usable checkpoint in {}: {first}", root.display())),
        None => Error::model(format!("no checkpoint in {}: expected {PREFIX}NNNNNN or {STATE}", root.display())),
    })
}

/// The state of the checkpoint `dir`, after checking that it is whole.
///
/// # Errors
/// No `state.json`, one that does not parse or is newer than this program, or a file missing or of another size.
pub fn read(dir: &Path) -> Result<State> {
    let path = dir.join(STATE);
    let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let file: StateFile =
        serde_json::from_str(&text).map_err(|e| Error::model(format!("damaged checkpoint: {e}")).at(path.display()))?;
    if file.format > FORMAT {
        let (theirs, at) = (file.format, path.display());
        return Err(
            Error::model(format!("written by a newer program (format {theirs}; this one reads {FORMAT})")).at(at)
        );
    }
    for FileSize { name, bytes } in &file.files {
        let path = dir.join(name);
        let there = fs::metadata(&path).map_err(|e| Error::io("read", &path, e))?.len();
        if there != *bytes {
            return Err(Error::model(format!("damaged checkpoint: {there} bytes, not {bytes}")).at(path.display()));
        }
    }
    Ok(file.state)
}

/// The directories called `checkpoint-N` and their N, newest first.
fn numbered(root: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let failed = |e| Error::io("read directory", root, e);
    let entries = match fs::read_dir(root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let digits = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(PREFIX));
        if let Some(step) = digits.and_then(|d| d.parse().ok())
            && path.is_dir()
        {
            found.push((step, path));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Every file below `dir` with its size, by name, `/` between directories.
fn list(dir: &Path, prefix: &str, files: &mut Vec<FileSize>) -> Result<()> {
    let failed = |e| Error::io("read directory", dir, e);
    let mut entries = fs::read_dir(dir).and_then(|d| d.collect::<std::io::Result<Vec<_>>>()).map_err(failed)?;
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let meta = fs::metadata(entry.path()).map_err(failed)?;
        if meta.is_dir() {
            list(&entry.path(), &format!("{name}/"), files)?;
        } else {
            files.push(FileSize { name, bytes: meta.len() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::base::alone::{alone, limit_file_size};

    const TWO: Retention = Retention { keep: 2, major: 0 };

    fn state(step: u64) -> State {
        State { step, examples: 8 * step, tokens: 100 * step, elapsed: 0.1 + step as f64, config_hash: "c0ffee".into() }
    }

    fn write(dir: &Path) -> Result<()> {
        atomic::write_file(dir.join("model.safetensors"), &[1; 300])?;
        fs::create_dir(dir.join("optimizer")).unwrap();
        atomic::write_file(dir.join("optimizer/moments"), &[2; 500])
    }

    fn kept(root: &Path) -> Vec<u64> {
        numbered(root).unwrap().into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn what_was_saved_is_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("run");
        assert!(find(&root, &Resume::Auto).unwrap().is_none());
        for step in [1, 2, 999_999, 1_000_000] {
            let dir = save(&root, &state(step), TWO, write).unwrap();
            for resume in [Resume::Auto, Resume::From(dir.clone()), Resume::From(root.clone())] {
                let found = find(&root, &resume).unwrap().unwrap();
                assert_eq!((found.dir, found.state, found.damaged.len()), (dir.clone(), state(step), 0));
            }
        }
    }

    #[test]
    fn the_newest_and_the_major_ones_are_kept() {
        let root = tempfile::tempdir().unwrap();
        for step in (10..=120).step_by(10) {
            save(root.path(), &state(step), Retention { keep: 2, major: 50 }, write).unwrap();
        }
        assert_eq!(kept(root.path()), [120, 110, 100, 50]);
        // The same step again (the last step of a run is often a regular one too) replaces it.
        save(root.path(), &state(120), Retention { keep: 1, major: 0 }, write).unwrap();
        assert_eq!(kept(root.path()), [120]);
    }

    #[test]
    fn damage_at_any_byte_falls_back_to_the_previous_and_says_so() {
        let root = tempfile::tempdir().unwrap();
        save(root.path(), &state(1), TWO, write).unwrap();
        let dir = save(root.path(), &state(2), TWO, write).unwrap();
        for name in [STATE, "model.safetensors", "optimizer/moments"] {
            let path = dir.join(name);
            let whole = fs::read(&path).unwrap();
            for n in 0..whole.len() {
                fs::write(&path, &whole[..n]).unwrap();
                let found = find(root.path(), &Resume::Auto).unwrap().unwrap();
                assert_eq!((found.state.step, found.damaged.len()), (1, 1), "{name} cut at {n}");
                assert!(found.damaged[0].to_string().contains(name), "{}", found.damaged[0]);
            }
            fs::remove_file(&path).unwrap();
            assert_eq!(latest(root.path()).unwrap().state.step, 1);
            fs::write(&path, whole).unwrap();
            assert_eq!(latest(root.path()).unwrap().state.step, 2);
        }
        fs::remove_file(root.path().join("checkpoint-000001/state.json")).unwrap();
        fs::write(dir.join(STATE), "{}").unwrap();
        let error = find(root.path(), &Resume::Auto).unwrap_err();
        assert!(error.to_string().contains("no usable checkpoint") && error.kind() == Kind::Model, "{error}");
    }

    #[test]
    fn a_writer_that_fails_anywhere_leaves_the_previous() {
        let root = tempfile::tempdir().unwrap();
        save(root.path(), &state(1), TWO, write).unwrap();
        for budget in 0..50 {
            let failing = |dir: &Path| {
                fs::write(dir.join("model.safetensors"), vec![0; budget]).unwrap();
                Err(Error::data("spent"))
            };
            assert_eq!(save(root.path(), &state(2), TWO, failing).unwrap_err().to_string(), "spent");
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
            assert_eq!(find(root.path(), &Resume::Auto).unwrap().unwrap().state, state(1));
        }
    }

    #[test]
    fn a_disk_that_fills_at_any_byte_leaves_the_previous() {
        alone("train::checkpoint::tests::a_disk_that_fills_at_any_byte_leaves_the_previous", || {
            let root = tempfile::tempdir().unwrap();
            let write_little = |dir: &Path| atomic::write_file(dir.join("moments"), &[2; 100]);
            let dir = save(root.path(), &state(1), TWO, write_little).unwrap();
            let (next, largest) = (State { step: 2, ..state(1) }, fs::metadata(dir.join(STATE)).unwrap().len());
            assert!(largest > 100);
            for limit in 0..largest {
                limit_file_size(limit);
                assert_eq!(save(root.path(), &next, TWO, write_little).unwrap_err().kind(), Kind::Io, "{limit}");
                assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
                assert_eq!(find(root.path(), &Resume::Auto).unwrap().unwrap().state, state(1));
            }
            limit_file_size(largest);
            save(root.path(), &next, TWO, write_little).unwrap();
            assert_eq!(find(root.path(), &Resume::Auto).unwrap().unwrap().state, next);
        });
    }

    #[test]
    fn runs_are_not_mixed() {
        let root = tempfile::tempdir().unwrap();
        assert!(find(root.path(), &Resume::Never).unwrap().is_none());
        let early = save(root.path(), &state(1), TWO, write).unwrap();
        save(root.path(), &state(2), TWO, write).unwrap();
        let never = find(root.path(), &Resume::Never).unwrap_err();
        assert!(never.to_string().contains("up to step 2") && never.kind() == Kind::Usage, "{never}");
        let back = find(root.path(), &Resume::From(early.clone())).unwrap_err();
        assert!(back.to_string().contains("checkpoint-000002 is later"), "{back}");
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(find(elsewhere.path(), &Resume::From(early)).unwrap().unwrap().state, state(1));
        let nothing = find(root.path(), &Resume::From(elsewhere.path().into())).unwrap_err();
        assert!(nothing.to_string().contains("no checkpoint in"), "{nothing}");
    }

    #[test]
    fn a_newer_format_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = save(root.path(), &state(1), TWO, write).unwrap();
        let text = fs::read_to_string(dir.join(STATE)).unwrap();
        fs::write(dir.join(STATE), text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        assert!(read(&dir).unwrap_err().to_string().contains("newer program"));
    }
}
