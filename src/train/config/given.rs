//! What a person gave: the values of a run file and of the command line, each with its place, before they have types.

use super::setting::{Range, Setting, literal};
use super::{KEYS, Key, Origin};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use toml::Value;
use toml::de::DeTable;

/// Values by full key (`train.lr`). A later one replaces an earlier one.
#[derive(Default)]
pub(super) struct Given {
    entries: BTreeMap<&'static str, Entry>,
}

struct Entry {
    value: Value,
    /// The text behind `=` on the command line, where quotes may be missing.
    raw: Option<String>,
    origin: Origin,
}

impl Given {
    /// Takes in the text of a run file called `name`.
    pub fn file(&mut self, text: &str, name: &str) -> Result<()> {
        let line = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1;
        let refused = |e: toml::de::Error| {
            let place = e.span().map_or(name.to_string(), |span| format!("{name}:{}", line(span.start)));
            Error::usage(e.message().trim().replace('\n', ", ")).at(place)
        };
        let values: toml::Table = toml::from_str(text).map_err(refused)?;
        let places = DeTable::parse(text).map_err(refused)?;
        for (section, inner) in places.get_ref() {
            let name_of = section.get_ref().as_ref();
            let place = |at: usize| Origin::File { name: name.into(), line: line(at) };
            let (Some(table), Some(inner)) = (values[name_of].as_table(), inner.get_ref().as_table()) else {
                let origin = place(section.span().start);
                return Err(match KEYS.iter().any(|k| k.section == name_of) {
                    true => Error::usage(format!("`{name_of}` is a section: write [{name_of}]")).at(origin),
                    false => unknown(name_of).at(origin),
                });
            };
            for (key, _) in inner {
                let origin = place(key.span().start);
                let full = format!("{name_of}.{}", key.get_ref());
                let known = find(&full).ok_or_else(|| unknown(&full).at(&origin))?;
                let value = table[key.get_ref().as_ref()].clone();
                self.entries.insert(known.full, Entry { value, raw: None, origin });
            }
            if inner.is_empty() && !KEYS.iter().any(|k| k.section == name_of) {
                return Err(unknown(name_of).at(place(section.span().start)));
            }
        }
        Ok(())
    }

    /// Takes in `key=value` of the command line. The value is TOML; text needs no quotes.
    pub fn argument(&mut self, argument: &str) -> Result<()> {
        let origin = Origin::CommandLine;
        let Some((key, raw)) = argument.split_once('=').map(|(k, v)| (k.trim(), v.trim())) else {
            return Err(Error::usage(format!("`{argument}`: expected key=value, such as train.lr=1e-5")));
        };
        let value = toml::from_str::<toml::Table>(&format!("value = {raw}"))
            .ok()
            .filter(|table| table.len() == 1)
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| Value::String(raw.into()));
        if let Some(known) = find(key) {
            self.entries.insert(known.full, Entry { value, raw: Some(raw.into()), origin });
            return Ok(());
        }
        // One entry of a table: `data.columns.prompt=question`.
        let table = key.rsplit_once('.').and_then(|(table, entry)| Some((find(table).filter(|k| k.table)?, entry)));
        let Some((known, entry)) = table else { return Err(unknown(key).at(origin)) };
        let mut whole = match self.entries.remove(known.full) {
            Some(Entry { value: Value::Table(table), .. }) => table,
            _ => toml::Table::new(),
        };
        whole.insert(entry.into(), Value::String(value.as_str().unwrap_or(raw).into()));
        self.entries.insert(known.full, Entry { value: Value::Table(whole), raw: None, origin });
        Ok(())
    }

    /// The value of `key`, or `default`; and where it is from.
    ///
    /// # Errors
    /// It is not of type `T` or not in `range`.
    pub fn read<T: Setting>(&self, key: &str, range: Range, default: T) -> Result<(T, Origin)> {
        let Some(Entry { value, raw, origin }) = self.entries.get(key) else {
            return Ok((default, Origin::Default));
        };
        let bare = || raw.as_ref().and_then(|raw| T::read(&Value::String(raw.clone())));
        match T::read(value).or_else(bare) {
            Some(read) if read.number().is_none_or(|x| range.holds(x)) => Ok((read, origin.clone())),
            _ => {
                let (allowed, range) = (T::allowed(), range.describe());
                let message = format!("{key} = {}: must be {allowed}{range}", literal(value));
                Err(Error::usage(message).at(origin))
            }
        }
    }
}

fn find(full: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.full == full)
}

fn unknown(key: &str) -> Error {
    Error::usage(format!("unknown key `{key}`: did you mean `{}`?", nearest(key).full))
}

/// The key that was probably meant: the fewest edits away; or, where all are far, one whose description has the words
/// of the name, so that `learning_rate` finds `train.lr`.
fn nearest(key: &str) -> &'static Key {
    let name = key.rsplit('.').next().unwrap_or(key);
    // Right name, wrong or no section: nearly as good as the right key.
    let distance = |k: &Key| edits(key, k.full).min(edits(name, k.name) + 1);
    let close = KEYS.iter().min_by_key(|k| distance(k)).expect("there are keys");
    let words: Vec<&str> = name.split('_').collect();
    let described =
        |k: &&Key| words.iter().all(|w| k.doc.to_lowercase().split(|c: char| !c.is_alphanumeric()).any(|d| d == *w));
    // The fewer other words, the more it is about these.
    let described = KEYS.iter().filter(described).min_by_key(|k| k.doc.split_whitespace().count());
    match described {
        Some(described) if distance(close) > name.len().div_ceil(3) => described,
        _ => close,
    }
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut d = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            d[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let substitute = d[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let swap = match i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        true => d[i - 2][j - 2] + 1,
                        false => usize::MAX,
                    };
                    (d[i - 1][j] + 1).min(d[i][j - 1] + 1).min(substitute).min(swap)
                }
            };
        }
    }
    d[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::Run;

    fn refused(text: &str, arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|s| s.to_string()).collect();
        let error = Run::parse(text, "run.toml", &arguments).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(!error.to_string().contains('\n'), "{error:?}");
        error.to_string()
    }

    #[test]
    fn mistakes_are_told_with_their_place_and_what_is_allowed() {
        let cases = [
            ("[train]\nlr = \"fast\"", "run.toml:2: train.lr = \"fast\": must be a number of at least 0"),
            ("\n\n[train]\n\nlr = -1e-5", "run.toml:5: train.lr = -1e-5: must be a number of at least 0"),
            ("train.lr = inf", "run.toml:1: train.lr = inf: must be a number of at least 0"),
            ("[train]\nbatch = 0", "run.toml:2: train.batch = 0: must be a whole number from 1 to 1048576"),
            ("[train]\nbatch = 1.5", "run.toml:2: train.batch = 1.5: must be a whole number from 1 to 1048576"),
            ("[train]\nbeta1 = 1", "run.toml:2: train.beta1 = 1: must be a number from 0 to below 1"),
            (
                "[train]\nstage = \"tune\"",
                "run.toml:2: train.stage = \"tune\": must be one of \"pretrain\", \"finetune\", \"sft\", \"scalar\", \"prove\"",
            ),
            ("[train]\nlabels = [\"A\"]", "run.toml:2: train.labels = [\"A\"]: must be a list of two texts"),
            ("[data]\ntrain = [1]", "run.toml:2: data.train = [1]: must be text in quotes or a list of such"),
            ("[log]\ncsv = 1", "run.toml:2: log.csv = 1: must be true or false"),
            ("[train]\nepoch = 1", "run.toml:2: unknown key `train.epoch`: did you mean `train.epochs`?"),
            ("[trian]\nlr = 1", "run.toml:2: unknown key `trian.lr`: did you mean `train.lr`?"),
            ("[trian]", "run.toml:1: unknown key `trian`"),
            ("lr = 1", "run.toml:1: unknown key `lr`: did you mean `train.lr`?"),
            ("train = 1", "run.toml:1: `train` is a section: write [train]"),
            ("[train]\nlr = ", "run.toml:2: "),
            ("[train]\nlr = 1\nlr = 2", "run.toml:3: duplicate key"),
        ];
        for (text, expected) in cases {
            let error = refused(text, &[]);
            assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
        }
    }

    #[test]
    fn mistakes_on_the_command_line_are_told_too() {
        let cases = [
            ("train.lr", "`train.lr`: expected key=value"),
            ("train.lr=fast", "command line: train.lr = \"fast\": must be a number"),
            ("train.warmup=1.0", "command line: train.warmup = 1.0: must be a whole number of steps, or a fraction"),
            ("train.steps=", "command line: train.steps = \"\": must be a whole number"),
            ("learning_rate=1", "command line: unknown key `learning_rate`: did you mean `train.lr`?"),
            ("train.lr.x=1", "command line: unknown key `train.lr.x`"),
            ("train.lr=1\nbatch=3", "command line: train.lr = \"1\\nbatch=3\": must be"),
        ];
        for (argument, expected) in cases {
            let error = refused("", &[argument]);
            assert!(error.starts_with(expected), "{error}\nis not\n{expected}");
        }
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, n) in
            [("", "", 0), ("", "abc", 3), ("lr", "rl", 1), ("epochs", "epoch", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((edits(a, b), edits(b, a)), (n, n), "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        let meant = [
            ("train.epoch", "train.epochs"),
            ("lr", "train.lr"),
            ("train.learning_rate", "train.lr"),
            ("trian.lr", "train.lr"),
            ("model.dataset_info", "data.dataset_info"),
            ("train.max_tokens", "data.max_tokens"),
            ("train.smoothing", "train.epsilon"),
            ("chekpoint.kepe", "checkpoint.keep"),
        ];
        for (given, key) in meant {
            assert_eq!(nearest(given).full, key, "for {given}");
        }
    }
}
