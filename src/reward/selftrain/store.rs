//! What a self-training leaves on disk: units of work, each written whole or not at all, and a manifest of those that are
//! done. Killed at any point and started again, the pipeline finds its units done up to the one it was in, and makes that one
//! again. A unit is a function of the configuration and of the units before it, so the bytes are the same.
//!
//! A file takes its name before the manifest knows it. Killed in between, the unit is made again, over the same bytes.

use crate::base::atomic::{sweep, write_file};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Version of the manifest. A reader refuses what is newer than itself.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const CONFIG: &str = "run.toml";

/// Finished units, in order.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    config_hash: String,
    units: Vec<Unit>,
}

/// A finished unit.
#[derive(Debug, Serialize, Deserialize)]
struct Unit {
    name: String,
    /// Files below the directory of the self-training, or model directories elsewhere, with their hashes.
    files: Vec<Hashed>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Hashed {
    path: PathBuf,
    sha256: String,
}

/// The directory of a self-training.
pub struct Store<'a> {
    dir: PathBuf,
    manifest: Manifest,
    stop: &'a dyn Fn() -> bool,
}

impl<'a> Store<'a> {
    /// Opens or makes the directory. `explained` is the file as it was understood; `stop` is asked before each unit that
    /// is not done.
    ///
    /// # Errors
    /// The directory holds another self-training, or something else under our names.
    pub fn open(dir: &Path, config_hash: String, explained: &str, stop: &'a dyn Fn() -> bool) -> Result<Store<'a>> {
        fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        sweep(dir)?;
        let path = dir.join(MANIFEST);
        let manifest = match fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                write_file(dir.join(CONFIG), explained.as_bytes())?;
                Manifest { format: FORMAT, config_hash, units: Vec::new() }
            }
            Err(e) => return Err(Error::io("read", &path, e)),
            Ok(text) => known(&text, &config_hash, dir).map_err(|e| e.at(path.display()))?,
        };
        let store = Store { dir: dir.into(), manifest, stop };
        store.save()?;
        Ok(store)
    }

    /// The directory's path with a name below it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A unit that is one file: `make` gives its bytes. Returns the path.
    ///
    /// # Errors
    /// Those of `make`; [`Kind::Interrupted`] if it is time to stop; a finished file that was changed since.
    pub fn file(&mut self, name: &str, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<PathBuf> {
        let path = self.path(name);
        if self.is_done(name)? {
            return Ok(path);
        }
        self.may_go_on()?;
        let bytes = make()?;
        let folder = path.parent().expect("below the directory");
        fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        sweep(folder)?;
        write_file(&path, &bytes)?;
        self.done(name, vec![Hashed { path: name.into(), sha256: hash(&path)? }])?;
        Ok(path)
    }

    /// A unit that is a model: `make` gives its directory.
    ///
    /// # Errors
    /// As [`Store::file`].
    pub fn model(&mut self, name: &str, make: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
        if self.is_done(name)? {
            let unit = self.manifest.units.iter().find(|unit| unit.name == name).expect("it is done");
            let first = self.dir.join(&unit.files[0].path);
            return Ok(first.parent().expect("weights lie in a directory").into());
        }
        self.may_go_on()?;
        let dir = make()?;
        let mut files = Vec::new();
        let entries = fs::read_dir(&dir).and_then(|d| d.collect::<std::io::Result<Vec<_>>>());
        for entry in entries.map_err(|e| Error::io("read directory", &dir, e))? {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                let sha256 = hash(&path)?;
                files.push(Hashed { path: path.strip_prefix(&self.dir).unwrap_or(&path).into(), sha256 });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        self.done(name, files)?;
        Ok(dir)
    }

    /// Whether a unit is done and its files are as they were. One whose files are gone is not.
    ///
    /// # Errors
    /// A file that was changed.
    fn is_done(&self, name: &str) -> Result<bool> {
        let Some(unit) = self.manifest.units.iter().find(|unit| unit.name == name) else { return Ok(false) };
        for file in &unit.files {
            let path = self.dir.join(&file.path);
            if !path.exists() {
                return Ok(false);
            }
            if hash(&path)? != file.sha256 {
                return Err(Error::data(format!(
                    "{} was changed after it was finished; delete it to have it made again",
                    path.display()
                )));
            }
        }
        Ok(true)
    }

    fn may_go_on(&self) -> Result<()> {
        match (self.stop)() {
            true => Err(Error::new(Kind::Interrupted, "stopped; the same command goes on from here")),
            false => Ok(()),
        }
    }

    fn done(&mut self, name: &str, files: Vec<Hashed>) -> Result<()> {
        self.manifest.units.retain(|unit| unit.name != name);
        self.manifest.units.push(Unit { name: name.into(), files });
        self.save()
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.manifest).expect("texts and numbers");
        write_file(self.path(MANIFEST), text.as_bytes())
    }
}

/// The manifest of a directory that exists already.
fn known(text: &str, config_hash: &str, dir: &Path) -> Result<Manifest> {
    let manifest: Manifest = serde_json::from_str(text).map_err(|e| Error::data(format!("damaged: {e}")))?;
    if manifest.format > FORMAT {
        let theirs = manifest.format;
        return Err(Error::data(format!("written by a newer program (format {theirs}; this one reads {FORMAT})")));
    }
    if manifest.config_hash != config_hash {
        return Err(Error::usage(format!(
            "this directory holds a self-training with other settings (see {}); go on with those, or set pipeline.dir to another directory",
            dir.join(CONFIG).display()
        )));
    }
    Ok(manifest)
}

/// SHA-256 of a file in lower-case hexadecimal.
fn hash(path: &Path) -> Result<String> {
    let failed = |e| Error::io("read", path, e);
    let (mut file, mut hash, mut block) = (File::open(path).map_err(failed)?, Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut block).map_err(failed)? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hash.update(&block[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const GO: &dyn Fn() -> bool = &|| false;

    #[test]
    fn a_unit_is_made_once_and_again_if_its_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), "c".into(), "", GO).unwrap();
        let made = Cell::new(0);
        let make = |store: &mut Store| {
            store.file("a/x.jsonl", || {
                made.set(made.get() + 1);
                Ok(b"row\n".to_vec())
            })
        };
        let path = make(&mut open()).unwrap();
        make(&mut open()).unwrap();
        assert_eq!(made.get(), 1);
        fs::remove_file(&path).unwrap();
        make(&mut open()).unwrap();
        assert_eq!((made.get(), fs::read(&path).unwrap().as_slice()), (2, &b"row\n"[..]));
        fs::write(&path, "other").unwrap();
        let error = make(&mut open()).unwrap_err().to_string();
        assert!(error.contains("x.jsonl was changed"), "{error}");
    }

    #[test]
    fn models_are_known_by_their_weights() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("prover/checkpoint-000002");
        fs::create_dir_all(&model).unwrap();
        fs::write(model.join("model.safetensors"), "w").unwrap();
        let mut store = Store::open(dir.path(), "c".into(), "", GO).unwrap();
        assert_eq!(store.model("prover", || Ok(model.clone())).unwrap(), model);
        assert_eq!(store.model("prover", || panic!("it is done")).unwrap(), model);
        fs::write(model.join("model.safetensors"), "v").unwrap();
        assert!(store.model("prover", || panic!("it is changed")).is_err());
    }

    #[test]
    fn stops_come_before_a_unit_and_failures_leave_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), "c".into(), "", &|| true).unwrap();
        let error = store.file("x", || panic!("not now")).unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted);
        let mut store = Store::open(dir.path(), "c".into(), "", GO).unwrap();
        assert!(store.file("x", || Err(Error::data("no"))).is_err());
        assert!(!dir.path().join("x").exists() && store.manifest.units.is_empty());
    }

    #[test]
    fn directories_of_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path(), "c".into(), "[data]", GO).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(CONFIG)).unwrap(), "[data]");
        let refused = |hash: &str| Store::open(dir.path(), hash.into(), "", GO).err().unwrap();
        let error = refused("d");
        assert!(error.to_string().contains("other settings") && error.kind() == Kind::Usage, "{error}");
        fs::write(dir.path().join(MANIFEST), "{\"format\": 2, \"config_hash\": \"c\", \"units\": []}").unwrap();
        assert!(refused("c").to_string().contains("newer program"));
        fs::write(dir.path().join(MANIFEST), "{").unwrap();
        assert!(refused("c").to_string().contains("damaged"));
    }
}
