//! LLaMA-Factory's `dataset_info.json`: datasets by name, so that its users keep their files. A dataset is named as
//! `path/to/dataset_info.json:name`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::text::message::kind;

/// How the columns of a file, and the fields and roles of its messages, are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The name a format uses, and the file's own.
    names: BTreeMap<String, String>,
    /// Fields of messages and values of roles, where they differ from the usual ones.
    tags: BTreeMap<String, String>,
}

/// The tags of LLaMA-Factory: what is called so, and what messages call it here.
const TAGS: [(&str, &str); 7] = [
    ("role_tag", "from"),
    ("content_tag", "value"),
    ("user_tag", "human"),
    ("assistant_tag", "gpt"),
    ("observation_tag", "observation"),
    ("function_tag", "function_call"),
    ("system_tag", "system"),
];

impl Columns {
    /// Reads `prompt=question`: the format's column `prompt` is the file's `question`.
    pub fn parse(pairs: &[impl AsRef<str>]) -> Result<Columns> {
        let mut columns = Columns::default();
        for pair in pairs.iter().map(AsRef::as_ref) {
            match pair.split_once('=') {
                Some((name, column)) if !name.is_empty() && !column.is_empty() => columns.map(name, column),
                _ => return Err(Error::usage(format!("{pair:?} does not map a column; write it as prompt=COLUMN"))),
            }
        }
        Ok(columns)
    }

    /// Says that the format's column `name` is the file's `column`.
    pub fn map(&mut self, name: &str, column: &str) {
        self.names.insert(name.to_string(), column.to_string());
    }

    /// The row under the names that formats use.
    pub fn apply(&self, mut row: Map<String, Value>) -> Result<Map<String, Value>> {
        let mut taken = Vec::new();
        for (name, column) in &self.names {
            match row.get(column) {
                Some(value) => taken.push((name, column, value.clone())),
                None => return Err(Error::data(format!("the row has no field {column:?} (mapped to {name:?})"))),
            }
        }
        for (_, column, _) in &taken {
            row.shift_remove(column.as_str());
        }
        row.extend(taken.into_iter().map(|(name, _, value)| (name.clone(), value)));
        if !self.tags.is_empty() {
            for name in ["conversations", "chosen", "rejected"] {
                if let Some(value) = row.get_mut(name) {
                    self.retag(value);
                }
            }
        }
        Ok(row)
    }

    fn tag<'a>(&'a self, tag: &'a str, usual: &'a str) -> &'a str {
        self.tags.get(tag).map_or(usual, String::as_str)
    }

    /// Gives a message, or every message of a list, the usual field and role names.
    fn retag(&self, value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(|v| self.retag(v)),
            Value::Object(map) => {
                for (tag, usual) in &TAGS[..2] {
                    if let Some(value) = map.shift_remove(self.tag(tag, usual)) {
                        map.insert(usual.to_string(), value);
                    }
                }
                let role = map.get("from").and_then(Value::as_str).unwrap_or("").to_string();
                if let Some((_, usual)) = TAGS[2..].iter().find(|(tag, usual)| self.tag(tag, usual) == role) {
                    map.insert("from".into(), Value::from(*usual));
                }
            }
            _ => {}
        }
    }
}

/// A registered dataset: its file (or a glob for the files of its directory) and its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub file: String,
    pub columns: Columns,
}

/// Splits `.../dataset_info.json:name`, if that is what a data file is called.
pub fn split(name: &str) -> Option<(&str, &str)> {
    let (path, dataset) = name.rsplit_once(':')?;
    (path.ends_with("dataset_info.json") && !dataset.is_empty()).then_some((path, dataset))
}

/// Looks a dataset up.
pub fn lookup(path: &Path, dataset: &str) -> Result<Entry> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let registry: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| Error::usage(format!("{}: not a JSON object: {e}", path.display())))?;
    let entry = registry.get(dataset).ok_or_else(|| {
        let near = nearest(dataset, registry.keys());
        let hint = near.map_or(String::new(), |n| format!("; the nearest name is {n:?}"));
        Error::usage(format!("{}: there is no dataset {dataset:?}{hint}", path.display()))
    })?;
    resolve(entry, path.parent().unwrap_or(Path::new("."))).map_err(|e| e.at(format!("{}:{dataset}", path.display())))
}

fn resolve(entry: &Value, dir: &Path) -> Result<Entry> {
    let Some(name) = entry.get("file_name").and_then(Value::as_str) else {
        let hub = ["hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"];
        let found = hub.iter().find_map(|key| Some((key, entry.get(*key)?.as_str()?)));
        return Err(Error::usage(match found {
            Some((key, url)) => format!(
                "its {key} is {url:?}, and nothing is downloaded here; fetch its files and give the entry a file_name"
            ),
            None => "the entry has no file_name".to_string(),
        }));
    };
    let path = dir.join(name);
    let file = if path.is_dir() { path.join("*.json*") } else { path };
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let usual: &[(&str, &str)] = match text("formatting").unwrap_or("alpaca") {
        "alpaca" => &[
            ("prompt", "instruction"),
            ("query", "input"),
            ("response", "output"),
            ("history", "history"),
            ("system", "system"),
            ("chosen", "chosen"),
            ("rejected", "rejected"),
        ],
        "sharegpt" | "openai" => {
            &[("messages", "conversations"), ("system", "system"), ("chosen", "chosen"), ("rejected", "rejected")]
        }
        other => return Err(Error::usage(format!("its formatting {other:?} is neither alpaca nor sharegpt"))),
    };
    let mut columns = Columns::default();
    for (key, value) in object(entry, "columns")? {
        let Some(column) = value.as_str() else { continue };
        match usual.iter().find(|(name, _)| name == key) {
            Some((_, name)) if *name != column => columns.map(name, column),
            Some(_) => {}
            // Columns for tools and media are read by no stage here; rows that need them are dropped as not text.
            None if ["tools", "images", "videos", "audios"].contains(&key.as_str()) => {}
            None => return Err(Error::usage(format!("its column {key:?} is not supported"))),
        }
    }
    for (tag, value) in object(entry, "tags")? {
        match (TAGS.iter().any(|(known, _)| known == tag), value.as_str()) {
            (true, Some(name)) => columns.tags.insert(tag.clone(), name.to_string()),
            _ => return Err(Error::usage(format!("its tag {tag:?} is not supported"))),
        };
    }
    Ok(Entry { file: file.display().to_string(), columns })
}

fn object<'a>(entry: &'a Value, key: &str) -> Result<Vec<(&'a String, &'a Value)>> {
    match entry.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(map)) => Ok(map.iter().collect()),
        Some(other) => Err(Error::usage(format!("its {key:?} is an object, not {}", kind(other)))),
    }
}

/// The known name with the fewest single-letter edits.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    known.min_by_key(|k| distance(name, k))
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let best = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = best;
        }
    }
    row[b.len()]
}
