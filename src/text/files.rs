//! The small files that make a tokenizer: read together, kept as bytes, written back unchanged. A checkpoint therefore
//! carries exactly the tokenizer it was trained with.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What is read from a directory when present. `generation_config.json` is read for its end-of-sequence ids.
const NAMES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
];
/// Where transformers keeps named chat templates beside the default one.
const TEMPLATE_DIR: &str = "additional_chat_templates";

/// Named files, in memory.
#[derive(Clone, Debug, Default)]
pub struct Files {
    files: BTreeMap<String, Vec<u8>>,
}

impl Files {
    /// Reads the tokenizer files of `dir`; `tokenizer.json` must be among them.
    pub fn read(dir: &Path) -> Result<Files> {
        let mut files = Files::default();
        for name in NAMES {
            files.read_one(dir, name)?;
        }
        if let Ok(entries) = fs::read_dir(dir.join(TEMPLATE_DIR)) {
            let mut names: Vec<String> = entries
                .filter_map(|e| e.ok()?.file_name().into_string().ok())
                .filter(|n| n.ends_with(".jinja"))
                .collect();
            names.sort();
            for name in names {
                files.read_one(dir, &format!("{TEMPLATE_DIR}/{name}"))?;
            }
        }
        if !files.files.contains_key("tokenizer.json") {
            let why = if files.files.contains_key("tokenizer.model") {
                "it has a tokenizer.model; load it in transformers once and call save_pretrained to get a tokenizer.json"
            } else if dir.is_dir() {
                "give the directory of a model or tokenizer in Hugging Face layout"
            } else {
                "there is no such directory"
            };
            return Err(Error::model(format!("{}: no tokenizer.json; {why}", dir.display())));
        }
        Ok(files)
    }

    fn read_one(&mut self, dir: &Path, name: &str) -> Result<()> {
        let path = dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => {
                self.files.insert(name.to_string(), bytes);
                Ok(())
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(()),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// Adds or replaces a file.
    pub fn insert(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.files.insert(name.to_string(), bytes.into());
    }

    /// Removes a file.
    pub fn remove(&mut self, name: &str) {
        self.files.remove(name);
    }

    /// A file that must be there.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.files.get(name).map(Vec::as_slice).ok_or_else(|| Error::model(format!("no {name}")))
    }

    /// A text file, if present.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.files.get(name) {
            None => Ok(None),
            Some(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|e| Error::model(format!("{name} is not UTF-8: {e}")))?;
                Ok(Some(text.strip_prefix('\u{feff}').unwrap_or(text)))
            }
        }
    }

    /// A JSON object; an absent file is an empty one.
    pub fn json(&self, name: &str) -> Result<Map<String, Value>> {
        match self.text(name)? {
            None => Ok(Map::new()),
            Some(text) => serde_json::from_str(text)
                .map_err(|e| Error::model(format!("{name} does not parse as a JSON object: {e}"))),
        }
    }

    /// Named chat templates of the directory `additional_chat_templates`, by name.
    pub fn named_templates(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for path in self.files.keys() {
            let name = path.strip_prefix(TEMPLATE_DIR).and_then(|n| n.strip_prefix('/')?.strip_suffix(".jinja"));
            if let Some(name) = name {
                found.push((name.to_string(), self.text(path)?.unwrap_or("").to_string()));
            }
        }
        Ok(found)
    }

    /// Writes every file but `generation_config.json`, which belongs to the model, into the existing directory `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        for (name, bytes) in self.files.iter().filter(|(name, _)| *name != "generation_config.json") {
            let path = dir.join(name);
            let parent = path.parent().unwrap_or(dir);
            if parent != dir {
                fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
            }
            write_whole(&path, bytes)?;
        }
        Ok(())
    }
}

/// Writes a file under a temporary name and moves it into place.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let written = fs::File::create(&partial).and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()));
    written.and_then(|()| fs::rename(&partial, path)).map_err(|e| {
        let _ = fs::remove_file(&partial);
        Error::io("write", path, e)
    })
}
