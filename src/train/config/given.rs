//! What a person gave: the values of a run file and of the command line, each with its place, before they have types.

use super::setting::{Range, Setting, literal};
use super::{Key, Origin};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use toml::Value;
use toml::de::DeTable;

/// Values by full key (`train.lr`) of one table of keys. A later one replaces an earlier one.
#[derive(Clone)]
pub(crate) struct Given {
    keys: &'static [Key],
    /// What stands before these keys in the file: empty, or the name of an outer section and a point.
    prefix: &'static str,
    entries: BTreeMap<&'static str, Entry>,
}

#[derive(Clone)]
struct Entry {
    value: Value,
    /// The text behind `=` on the command line, where quotes may be missing.
    raw: Option<String>,
    origin: Origin,
}

/// The sections of a TOML file called `name`: their values, and the same with places in the text.
pub(crate) struct Sections<'t> {
    text: &'t str,
    name: &'t str,
    pub values: toml::Table,
    pub places: DeTable<'t>,
}

impl<'t> Sections<'t> {
    /// # Errors
    /// The text is not TOML.
    pub fn parse(text: &'t str, name: &'t str) -> Result<Sections<'t>> {
        let refused = |e: toml::de::Error| {
            let place = e.span().map_or(name.to_string(), |span| format!("{name}:{}", line(text, span.start)));
            Error::usage(e.message().trim().replace('\n', ", ")).at(place)
        };
        let values: toml::Table = toml::from_str(text).map_err(refused)?;
        let places = DeTable::parse(text).map_err(refused)?.into_inner();
        Ok(Sections { text, name, values, places })
    }

    /// The place of a byte of the text.
    pub fn place(&self, at: usize) -> Origin {
        Origin::File { name: self.name.into(), line: line(self.text, at) }
    }
}

fn line(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

impl Given {
    /// Nothing yet, of these keys.
    pub fn of(keys: &'static [Key], prefix: &'static str) -> Given {
        Given { keys, prefix, entries: BTreeMap::new() }
    }

    /// Whether the table has a section of this name.
    pub fn has_section(&self, name: &str) -> bool {
        self.keys.iter().any(|k| k.section == name)
    }

    /// Whether somebody gave this key.
    pub fn has(&self, full: &str) -> bool {
        self.entries.get(full).is_some_and(|entry| entry.origin != Origin::Default)
    }

    /// Sets a known key.
    ///
    /// # Panics
    /// There is no such key.
    pub fn set(&mut self, full: &str, value: Value, origin: Origin) {
        let known = self.find(full).unwrap_or_else(|| panic!("`{full}` is not a key of this file"));
        self.entries.insert(known.full, Entry { value, raw: None, origin });
    }

    /// Takes one value in.
    ///
    /// # Errors
    /// There is no such key; the nearest is named.
    pub fn take(&mut self, full: &str, value: Value, origin: Origin) -> Result<()> {
        match self.find(full) {
            Some(known) => {
                self.entries.insert(known.full, Entry { value, raw: None, origin });
                Ok(())
            }
            None => Err(self.unknown(full).at(origin)),
        }
    }

    /// Takes over what `other` has; what is here already stays, unless it is a default.
    pub fn inherit(&mut self, other: &Given, wanted: impl Fn(&str) -> bool) {
        for (key, entry) in other.entries.iter().filter(|(key, _)| wanted(key)) {
            if !self.has(key) {
                self.entries.insert(key, entry.clone());
            }
        }
    }

    /// The keys that were given, with their places.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &Origin)> {
        self.entries.iter().filter(|(_, entry)| entry.origin != Origin::Default).map(|(key, e)| (*key, &e.origin))
    }

    /// Takes in the text of a run file called `name`.
    pub fn file(&mut self, text: &str, name: &str) -> Result<()> {
        let sections = Sections::parse(text, name)?;
        for (section, inner) in &sections.places {
            let name = section.get_ref().as_ref();
            let (Some(table), Some(inner)) = (sections.values[name].as_table(), inner.get_ref().as_table()) else {
                return Err(self.no_table(name).at(sections.place(section.span().start)));
            };
            for (key, _) in inner {
                let value = table[key.get_ref().as_ref()].clone();
                self.take(&format!("{name}.{}", key.get_ref()), value, sections.place(key.span().start))?;
            }
            if inner.is_empty() && !self.has_section(name) {
                return Err(self.unknown(name).at(sections.place(section.span().start)));
            }
        }
        Ok(())
    }

    /// A value stands where a section is expected.
    pub fn no_table(&self, name: &str) -> Error {
        match self.has_section(name) {
            true => Error::usage(format!("`{0}{name}` is a section: write [{0}{name}]", self.prefix)),
            false => self.unknown(name),
        }
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
        if let Some(known) = self.find(key) {
            self.entries.insert(known.full, Entry { value, raw: Some(raw.into()), origin });
            return Ok(());
        }
        // One entry of a table: `data.columns.prompt=question`.
        let table =
            key.rsplit_once('.').and_then(|(table, entry)| Some((self.find(table).filter(|k| k.table)?, entry)));
        let Some((known, entry)) = table else { return Err(self.unknown(key).at(origin)) };
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
                let message = format!("{}{key} = {}: must be {allowed}{range}", self.prefix, literal(value));
                Err(Error::usage(message).at(origin))
            }
        }
    }

    fn find(&self, full: &str) -> Option<&'static Key> {
        self.keys.iter().find(|k| k.full == full)
    }

    /// An error that names the nearest key.
    pub fn unknown(&self, key: &str) -> Error {
        let nearest = nearest(self.keys, key).full;
        Error::usage(format!("unknown key `{0}{key}`: did you mean `{0}{nearest}`?", self.prefix))
    }
}

/// The key that was probably meant: the fewest edits away; or, where all are far, one whose description has the words
/// of the name, so that `learning_rate` finds `train.lr`.
fn nearest(keys: &'static [Key], key: &str) -> &'static Key {
    let name = key.rsplit('.').next().unwrap_or(key);
    // Right name, wrong or no section: nearly as good as the right key.
    let distance = |k: &Key| edits(key, k.full).min(edits(name, k.name) + 1);
    let close = keys.iter().min_by_key(|k| distance(k)).expect("there are keys");
    let words: Vec<&str> = name.split('_').collect();
    let described =
        |k: &&Key| words.iter().all(|w| k.doc.to_lowercase().split(|c: char| !c.is_alphanumeric()).any(|d| d == *w));
    // The fewer other words, the more it is about these.
    let described = keys.iter().filter(described).min_by_key(|k| k.doc.split_whitespace().count());
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
            assert_eq!(nearest(crate::train::config::KEYS, given).full, key, "for {given}");
        }
    }
}
