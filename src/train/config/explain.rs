//! A run file put into words: every value with its origin, the hash of what matters, what differs, the reference.

use super::key::{Effect, Key, Origin};
use super::setting::literal;
use super::{KEYS, Run, Stage};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use toml::Value;

impl Run {
    /// Every value and where it came from, as a run file that means the same: what `--print-config` prints.
    pub fn explain(&self) -> String {
        let lines: Vec<(String, String)> =
            KEYS.iter().zip(self.values()).map(|(key, value)| self.explain_key(key, value)).collect();
        let width = lines.iter().map(|(code, _)| code.chars().count()).filter(|n| *n <= 44).max().unwrap_or(0);
        let mut text = format!("# Config hash {}.\n", self.config_hash());
        let mut section = "";
        for (key, (code, comment)) in KEYS.iter().zip(lines) {
            if key.section != section {
                section = key.section;
                write!(text, "\n[{section}]\n").expect("strings grow");
            }
            writeln!(text, "{code:width$}  # {comment}").expect("strings grow");
        }
        text
    }

    fn explain_key(&self, key: &Key, value: Option<Value>) -> (String, String) {
        let name = key.name;
        match value {
            None => (format!("# {name}"), "not set".into()),
            Some(value) => {
                let stage = self.train.stage;
                let staged = Stage::ALL.iter().any(|s| (key.default)(*s) != (key.default)(stage));
                let origin = match self.origin(key.full) {
                    Origin::Default if staged => format!("default for {}", stage.as_str()),
                    origin => origin.to_string(),
                };
                (format!("{name} = {}", literal(&value)), origin)
            }
        }
    }

    /// Sixteen hexadecimal digits that are the same for runs that learn the same from the same files: paths of logs,
    /// checkpoint intervals and the like have no part in it. A checkpoint resumes bit-exactly under the same hash.
    pub fn config_hash(&self) -> String {
        let mut hash = Sha256::new();
        for (key, value) in self.learned() {
            hash.update(format!("{} = {}\n", key.full, value.as_ref().map_or(String::new(), literal)));
        }
        hash.finalize()[..8].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
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

    fn learned(&self) -> impl Iterator<Item = (&'static Key, Option<Value>)> {
        KEYS.iter().zip(self.values()).filter(|(key, _)| key.effect == Effect::Learned)
    }
}

/// The reference of all keys: one Markdown table per section.
pub fn reference() -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            write!(
                text,
                "{}### `[{section}]`\n\n| key | default | must be | meaning |\n|---|---|---|---|\n",
                if text.is_empty() { "" } else { "\n" }
            )
            .expect("strings grow");
        }
        let (name, allowed, doc) = (key.name, (key.allowed)(), key.doc);
        writeln!(text, "| `{name}` | {} | {allowed} | {doc} |", describe_default(key)).expect("strings grow");
    }
    text
}

/// One value where all stages agree, else one for each.
fn describe_default(key: &Key) -> String {
    let show = |stage: &Stage| (key.default)(*stage).map_or("none".into(), |value| format!("`{}`", literal(&value)));
    let all: Vec<String> = Stage::ALL.iter().map(show).collect();
    match all.iter().all(|d| *d == all[0]) {
        true => all[0].clone(),
        false => Stage::ALL.iter().zip(all).map(|(s, d)| format!("{} {d}", s.as_str())).collect::<Vec<_>>().join(", "),
    }
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
        let row =
            "| `lr` | pretrain `1e-5`, finetune `2e-5`, sft `1e-5`, scalar `1e-5` | a number of at least 0 | Peak";
        assert!(text.contains(row), "{text}");
    }
}
