//! Rows out of files: JSONL, JSON arrays, Parquet; plain, gzip or Zstandard; single files, globs, standard input. Rows are
//! read one at a time, and each knows the file and line it came from.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};
use crate::text::jsonl::JsonRows;
use crate::text::message::kind;
use crate::text::parquet;

/// What to do with a row that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnError {
    /// Stop and say where it is.
    #[default]
    Fail,
    /// Leave it out and count it.
    Skip,
}

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub number: u64,
    pub unit: Unit,
}

/// What is counted in a file, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Line,
    Row,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Line => write!(f, "{}:{}", self.file, self.number),
            Unit::Row => write!(f, "{}: row {}", self.file, self.number),
        }
    }
}

/// One row: an object, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub place: Place,
    pub value: Map<String, Value>,
}

/// The files to read, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    inputs: Vec<Input>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Input {
    Stdin,
    File(PathBuf),
}

impl Source {
    /// Names files: paths, glob patterns (their matches are sorted), or `-` for standard input. Files must exist.
    pub fn open<S: AsRef<str>>(names: &[S]) -> Result<Source> {
        let mut inputs = Vec::new();
        for name in names.iter().map(AsRef::as_ref) {
            inputs.extend(expand(name)?);
        }
        if inputs.is_empty() {
            return Err(Error::usage("no data file is named"));
        }
        if inputs.iter().filter(|i| **i == Input::Stdin).count() > 1 {
            return Err(Error::usage("standard input (-) is named twice; it can be read once"));
        }
        Ok(Source { inputs })
    }

    /// The names of the inputs, as errors print them.
    pub fn names(&self) -> Vec<String> {
        self.inputs.iter().map(Input::name).collect()
    }

    /// Reads the rows of all files.
    pub fn rows(self, on_error: OnError) -> Rows {
        Rows { inputs: self.inputs.into(), current: None, on_error, skipped: 0, first_skipped: None }
    }
}

impl Input {
    fn name(&self) -> String {
        match self {
            Input::Stdin => "standard input".into(),
            Input::File(path) => path.display().to_string(),
        }
    }
}

fn expand(name: &str) -> Result<Vec<Input>> {
    if name == "-" {
        return Ok(vec![Input::Stdin]);
    }
    if let Some((scheme, _)) = name.split_once("://") {
        return Err(Error::usage(format!(
            "{name}: {scheme}:// is not read; download the files first (for hf://, `hf download --repo-type dataset`) \
             and name them here"
        )));
    }
    let path = Path::new(name);
    if path.is_dir() {
        return Err(Error::usage(format!(
            "{name} is a directory; name its files, for example {}",
            path.join(habitual_pattern(path)).display()
        )));
    }
    if path.exists() {
        return Ok(vec![Input::File(path.to_path_buf())]);
    }
    if !name.contains(['*', '?', '[']) {
        return Err(Error::new(Kind::Io, format!("{name}: there is no such file")));
    }
    let matches = glob::glob(name).map_err(|e| Error::usage(format!("{name}: not a glob pattern: {e}")))?;
    let mut files: Vec<PathBuf> = matches.filter_map(|m| m.ok()).filter(|p| p.is_file()).collect();
    files.sort();
    match files.is_empty() {
        true => Err(Error::new(Kind::Io, format!("{name}: no file matches"))),
        false => Ok(files.into_iter().map(Input::File).collect()),
    }
}

/// A pattern for the data files that a directory holds most of.
fn habitual_pattern(dir: &Path) -> &'static str {
    let names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    let count = |ending: &str| names.iter().filter(|n| n.ends_with(ending)).count();
    let endings = [("*.parquet", ".parquet"), ("*.jsonl", ".jsonl"), ("*.jsonl.gz", ".jsonl.gz"), ("*.json", ".json")];
    let best = endings.iter().rev().max_by_key(|(_, ending)| count(ending));
    best.filter(|(_, ending)| count(ending) > 0).map_or("*.jsonl", |(pattern, _)| pattern)
}

/// The rows of a [`Source`], one after the other.
pub struct Rows {
    inputs: VecDeque<Input>,
    current: Option<Reader>,
    on_error: OnError,
    skipped: u64,
    first_skipped: Option<String>,
}

struct Reader {
    file: Arc<str>,
    unit: Unit,
    values: Box<dyn Iterator<Item = Step>>,
}

/// What a file format gives for its next row.
pub(super) enum Step {
    /// A row, and its number.
    Value(u64, Value),
    /// A row that does not parse; the next one may.
    Bad(u64, String),
    /// The file cannot be read further.
    Broken(u64, String),
}

impl Rows {
    /// Rows left out so far because they do not parse.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// What was wrong with the first of those, and where.
    pub fn first_skipped(&self) -> Option<&str> {
        self.first_skipped.as_deref()
    }

    fn stop(&mut self, error: Error) -> Option<Result<Row>> {
        self.inputs.clear();
        self.current = None;
        Some(Err(error))
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        loop {
            let Some(reader) = &mut self.current else {
                match open(&self.inputs.pop_front()?) {
                    Ok(reader) => self.current = Some(reader),
                    Err(error) => return self.stop(error),
                }
                continue;
            };
            let place = |number| Place { file: reader.file.clone(), number, unit: reader.unit };
            let (place, problem) = match reader.values.next() {
                None => {
                    self.current = None;
                    continue;
                }
                Some(Step::Value(number, Value::Object(value))) => {
                    return Some(Ok(Row { place: place(number), value }));
                }
                Some(Step::Value(number, other)) => {
                    (place(number), format!("a row is a JSON object with named fields, not {}", kind(&other)))
                }
                Some(Step::Bad(number, problem)) => (place(number), problem),
                Some(Step::Broken(number, problem)) => {
                    let place = place(number);
                    return self.stop(Error::data(problem).at(place));
                }
            };
            match self.on_error {
                OnError::Fail => return self.stop(Error::data(problem).at(place)),
                OnError::Skip => {
                    self.skipped += 1;
                    self.first_skipped.get_or_insert_with(|| format!("{place}: {problem}"));
                }
            }
        }
    }
}

fn open(input: &Input) -> Result<Reader> {
    let file: Arc<str> = input.name().into();
    let raw: Box<dyn Read> = match input {
        Input::Stdin => Box::new(io::stdin()),
        Input::File(path) => Box::new(File::open(path).map_err(|e| Error::io("read", path, e))?),
    };
    let failed = |e: io::Error| Error::new(Kind::Io, format!("cannot read {file}: {e}"));
    let (magic, raw) = peek(raw).map_err(failed)?;
    if magic.starts_with(b"PAR1") {
        let Input::File(path) = input else {
            return Err(Error::usage("Parquet cannot be read from standard input; name the file"));
        };
        let values = parquet::rows(path).map_err(|e| e.at(&file))?;
        return Ok(Reader { file, unit: Unit::Row, values });
    }
    let text: Box<dyn BufRead> = if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(raw)))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(BufReader::new(zstd::stream::read::Decoder::new(raw).map_err(failed)?))
    } else {
        Box::new(BufReader::new(raw))
    };
    let rows = JsonRows::new(text).map_err(|e| Error::data(e).at(&file))?;
    Ok(Reader { file, unit: Unit::Line, values: Box::new(rows) })
}

/// The first four bytes (fewer at the end of the input), and a reader that still gives them.
fn peek(mut raw: Box<dyn Read>) -> io::Result<(Vec<u8>, Box<dyn Read>)> {
    let mut magic = Vec::new();
    raw.by_ref().take(4).read_to_end(&mut magic)?;
    Ok((magic.clone(), Box::new(Cursor::new(magic).chain(raw))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tempfile::TempDir;

    const LINES: &str = "\u{feff}{\"a\": 1}\r\n\n  {\"a\": \"zwei\"}\n{\"a\": [3]}";

    fn write(dir: &TempDir, name: &str, bytes: &[u8]) -> String {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn read(names: &[String], on_error: OnError) -> (Vec<String>, Vec<String>, u64) {
        let mut rows = Source::open(names).unwrap().rows(on_error);
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for row in rows.by_ref() {
            match row {
                Ok(row) => {
                    let file = row.place.file.rsplit('/').next().unwrap().to_string();
                    good.push(format!("{file}:{} {}", row.place.number, Value::Object(row.value)));
                }
                Err(error) => bad.push(error.to_string()),
            }
        }
        (good, bad, rows.skipped())
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_wrapping_gives_the_same_rows() {
        let dir = TempDir::new().unwrap();
        let array = "[\n{\"a\": 1},\n\n{\"a\": \"zwei\"}\n,{\"a\": [3]}]\n";
        let two_members = [gzip(&LINES[..16]), gzip(&LINES[16..])].concat();
        for (name, bytes) in [
            ("a.jsonl", LINES.as_bytes().to_vec()),
            ("b.jsonl.gz", two_members),
            ("c.jsonl.zst", zstd::encode_all(LINES.as_bytes(), 1).unwrap()),
            ("d.json", array.as_bytes().to_vec()),
            ("e.json.gz", gzip(array)),
        ] {
            let path = write(&dir, name, &bytes);
            let (good, bad, _) = read(&[path], OnError::Fail);
            let lines = if name.contains(".jsonl") { [1, 3, 4] } else { [2, 4, 5] };
            let want = [r#"{"a":1}"#, r#"{"a":"zwei"}"#, r#"{"a":[3]}"#];
            let want: Vec<String> = lines.iter().zip(want).map(|(l, w)| format!("{name}:{l} {w}")).collect();
            assert_eq!((good, bad), (want, vec![]), "{name}");
        }
    }

    #[test]
    fn globs_are_sorted_and_bad_names_explained() {
        let dir = TempDir::new().unwrap();
        for name in ["b.jsonl", "a.jsonl", "c.txt"] {
            write(&dir, name, format!("{{\"n\": \"{name}\"}}").as_bytes());
        }
        let (good, ..) = read(&[format!("{}/*.jsonl", dir.path().display())], OnError::Fail);
        assert_eq!(good, ["a.jsonl:1 {\"n\":\"a.jsonl\"}", "b.jsonl:1 {\"n\":\"b.jsonl\"}"]);
        let message = |name: String| Source::open(&[name]).unwrap_err().to_string();
        assert!(message(dir.path().display().to_string()).ends_with("/*.jsonl"));
        assert!(message("hf://datasets/x/y".into()).contains("hf:// is not read; download"));
        assert!(message(format!("{}/*.parquet", dir.path().display())).contains("no file matches"));
        assert!(message("/nowhere/x.jsonl".into()).contains("no such file"));
        assert!(Source::open(&["-", "-"]).unwrap_err().to_string().contains("twice"));
        assert!(Source::open::<&str>(&[]).is_err());
    }

    #[test]
    fn bad_rows_are_named_or_counted() {
        let dir = TempDir::new().unwrap();
        let path = write(&dir, "x.jsonl", b"{\"a\": 1}\n{\"a\": \n[1]\n\xff{}\n{\"a\": 2}\n");
        let (good, bad, _) = read(std::slice::from_ref(&path), OnError::Fail);
        assert_eq!(good.len(), 1);
        assert!(bad.len() == 1 && bad[0].contains("x.jsonl:2:"), "{bad:?}");
        let (good, bad, skipped) = read(&[path], OnError::Skip);
        assert_eq!((good.len(), bad.len(), skipped), (2, 0, 3));
        let path = write(&dir, "y.json", b"[{\"a\": 1}, {\"a\": },\n 7, {\"a\": 2}]");
        let (good, _, skipped) = read(&[path], OnError::Skip);
        assert_eq!((good.len(), skipped), (2, 2));
    }

    #[test]
    fn broken_files_stop_even_when_skipping() {
        let dir = TempDir::new().unwrap();
        let packed = gzip(&LINES.repeat(50));
        for (name, bytes, what) in [
            ("cut.json", &b"[{\"a\": 1}, {\"a\""[..], "cut off"),
            ("tail.json", b"[{\"a\": 1}] x", "after the closing"),
            ("cut.jsonl.gz", &packed[..packed.len() / 2], "damaged or cut off"),
            ("cut.jsonl.zst", &zstd::encode_all(LINES.as_bytes(), 1).unwrap()[..20], "damaged or cut off"),
            ("empty.jsonl", b"  \n", "is empty"),
            ("cut.parquet", b"PAR1xxxxxxxxxxxxxxxxPAR1", "Parquet"),
        ] {
            let path = write(&dir, name, bytes);
            let (_, bad, _) = read(&[path], OnError::Skip);
            assert!(bad.len() == 1 && bad[0].contains(what) && bad[0].contains(name), "{name}: {bad:?}");
        }
    }
}
