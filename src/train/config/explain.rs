//! A run file put into words: every value with its origin, the hash of what matters, what differs, the reference.

use super::key::{Effect, Key, Origin};
use super::setting::literal;
use super::{KEYS, Run, Stage};
use sha2::{Digest, Sha256};
use toml::Value;

/// One key of a run, in words.
pub struct Row {
    pub key: &'static Key,
    /// As TOML on one line; `None` where nothing is set.
    pub value: Option<String>,
    /// Where it came from.
    pub from: String,
    /// Whether somebody set it.
    pub given: bool,
}

impl Row {
    /// A key's value and where it came from.
    pub(crate) fn new(key: &'static Key, value: Option<Value>, origin: &Origin) -> Row {
        let from = match (&value, origin) {
            (None, Origin::Default) => "not set".into(),
            (_, origin) => origin.to_string(),
        };
        Row { key, from, given: *origin != Origin::Default, value: value.as_ref().map(literal) }
    }
}

impl Run {
    /// Every value and where it came from, as a run file that means the same: what `--print-config` prints.
    pub fn explain(&self) -> String {
        format!("# Config hash {}.\n{}", self.config_hash(), write(self.rows(), ""))
    }

    /// Every key with its value and where that came from.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        KEYS.iter().zip(self.values()).map(|(key, value)| {
            let origin = self.origin(key.full);
            let row = Row::new(key, value, origin);
            match row.value {
                Some(_) if *origin == Origin::Default && key.depends_on_stage() => {
                    Row { from: format!("default for {}", self.train.stage.as_str()), ..row }
                }
                _ => row,
            }
        })
    }

    /// Sixteen hexadecimal digits that are the same for runs that learn the same from the same files: paths of logs,
    /// checkpoint intervals and the like have no part in it. A checkpoint resumes bit-exactly under the same hash.
    pub fn config_hash(&self) -> String {
        digest(self.learned().map(|(key, value)| (key.full.to_string(), value)))
    }

    /// What makes the hash of `other` another one: `train.lr: 1e-5, now 2e-5`. `other` is the later run.
    pub fn differences(&self, other: &Run) -> Vec<String> {
        let show = |value: &Option<Value>| value.as_ref().map_or("not set".to_string(), literal);
        let pairs = self.learned().zip(other.learned());
        pairs
            .filter(|((_, was), (_, is))| was != is)
            .map(|((key, was), (_, is))| format!("{}: {}, now {}", key.full, show(&was), show(&is)))
            .collect()
    }

    /// What the hash is of.
    pub(crate) fn learned(&self) -> impl Iterator<Item = (&'static Key, Option<Value>)> {
        KEYS.iter().zip(self.values()).filter(|(key, _)| key.effect == Effect::Learned)
    }
}

impl Key {
    fn depends_on_stage(&self) -> bool {
        Stage::ALL.iter().any(|stage| (self.default)(*stage) != (self.default)(Stage::ALL[0]))
    }

    /// One value where all stages agree, else one for each; as Markdown.
    fn describe_default(&self) -> String {
        let show = |stage| (self.default)(stage).map_or("none".into(), |value| format!("`{}`", literal(&value)));
        if !self.depends_on_stage() {
            return show(Stage::ALL[0]);
        }
        Stage::ALL.iter().map(|s| format!("{} {}", s.as_str(), show(*s))).collect::<Vec<_>>().join(", ")
    }
}

/// Rows as the text of a run file whose sections are called `prefix` and their name.
pub(crate) fn write(rows: impl Iterator<Item = Row>, prefix: &str) -> String {
    let rows: Vec<Row> = rows.collect();
    let code = |row: &Row| match &row.value {
        Some(value) => format!("{} = {value}", row.key.name),
        None => format!("# {}", row.key.name),
    };
    // Long values do not push everybody's comments to the right.
    let lengths = rows.iter().map(|row| code(row).chars().count());
    let width = lengths.filter(|n| *n <= 44).max().unwrap_or(0);
    let (mut text, mut section) = (String::new(), "");
    for row in &rows {
        if row.key.section != section {
            section = row.key.section;
            text += &format!("\n[{prefix}{section}]\n");
        }
        text += &format!("{:width$}  # {}\n", code(row), row.from);
    }
    text
}

/// Sixteen hexadecimal digits for keys and their values.
pub(crate) fn digest(values: impl Iterator<Item = (String, Option<Value>)>) -> String {
    let mut hash = Sha256::new();
    for (key, value) in values {
        hash.update(format!("{key} = {}\n", value.as_ref().map_or(String::new(), literal)));
    }
    hash.finalize()[..8].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The reference of all keys as Markdown: one table per section.
pub fn reference() -> String {
    reference_of(KEYS)
}

/// The same of any table of keys.
pub(crate) fn reference_of(keys: &[Key]) -> String {
    let mut text = String::new();
    let mut section = "";
    for key in keys {
        if key.section != section {
            section = key.section;
            text += &format!("\n### `[{section}]`\n\n| key | default | must be | meaning |\n|---|---|---|---|\n");
        }
        text += &format!("| `{}` | {} | {} | {} |\n", key.name, key.describe_default(), (key.allowed)(), key.doc);
    }
    text.trim_start().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::tests::{MINIMAL, minimal};

    #[test]
    fn the_explanation_is_a_run_file_that_means_the_same() {
        let awkward = [
            &[][..],
            &["train.steps=100", "train.stage=pretrain", "train.warmup=20"],
            &["train.label_smoothing_torch=0.3", "data.columns.prompt=the \"question\"", "checkpoint.resume=a/b"],
            &["train.schedule=wsd", "data.train=[\"a b\", \"c'd\"]", "model.path=\"tab\\there\"", "train.lr=1"],
        ];
        for arguments in awkward {
            let run = minimal(arguments).unwrap();
            let text = run.explain();
            let again = Run::parse(&text, "explained.toml", &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!((again.values(), again.config_hash()), (run.values(), run.config_hash()), "{text}");
        }
    }

    #[test]
    fn the_explanation_says_where_values_come_from() {
        let text = Run::parse(MINIMAL, "run.toml", &["train.label_smoothing_torch=0.2".into(), "train.lr=3e-4".into()])
            .unwrap()
            .explain();
        let origin = |code: &str| {
            let line = text.lines().find(|l| l.starts_with(code)).unwrap_or_else(|| panic!("no {code} in\n{text}"));
            line[code.len()..].trim().to_string()
        };
        assert_eq!(origin("path = \"m\""), "# run.toml:2");
        assert_eq!(origin("lr = 0.0003"), "# command line");
        assert_eq!(origin("epsilon = 0.1"), "# train.label_smoothing_torch, command line");
        assert_eq!(origin("batch = 128"), "# default for finetune");
        assert_eq!(origin("eps = 1e-8"), "# default");
        assert_eq!(origin("# label_smoothing_torch"), "# not set");
        assert!(text.lines().all(|l| !l.ends_with(' ')), "{text}");
    }

    #[test]
    fn the_hash_is_of_what_is_learned() {
        let run = minimal(&[]).unwrap();
        let same = ["log.every=1", "checkpoint.dir=x", "eval.every=3", "data.eval=e", "train.recompute=layer"];
        let other = ["train.lr=1e-5", "train.seed=1", "data.train=e", "model.path=n", "train.micro_tokens=9000"];
        for argument in same {
            let twin = minimal(&[argument]).unwrap();
            assert_eq!(twin.config_hash(), run.config_hash(), "{argument}");
            assert!(run.differences(&twin).is_empty());
        }
        for argument in other {
            assert_ne!(minimal(&[argument]).unwrap().config_hash(), run.config_hash(), "{argument}");
        }
        assert_eq!(run.config_hash().len(), 16);
        let later = minimal(&["train.steps=9", "train.lr=1e-5"]).unwrap();
        let differences = ["train.steps: not set, now 9", "train.epochs: 2.0, now not set", "train.lr: 2e-5, now 1e-5"];
        assert_eq!(run.differences(&later), differences);
    }

    #[test]
    fn the_reference_has_every_key_once() {
        let text = reference();
        for key in KEYS {
            let rows = text.split("### ").find(|t| t.starts_with(&format!("`[{}]`", key.section))).unwrap();
            assert_eq!(rows.matches(&format!("| `{}` |", key.name)).count(), 1, "{}", key.full);
            assert!(key.doc.ends_with('.') && !key.doc.contains("  "), "{}: {}", key.full, key.doc);
        }
        let row = "| `lr` | pretrain `1e-5`, finetune `2e-5`, sft `1e-5`, scalar `1e-5`, prove `1e-5` | a number of at least 0 | Peak";
        assert!(text.contains(row), "{text}");
    }
}
