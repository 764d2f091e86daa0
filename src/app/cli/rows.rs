//! Rows in, answers out: what judging, ranking and generating share.
//!
//! Rows are read as they are needed and answered in batches; answers keep the rows' order. A file of answers appears
//! whole or not at all.

use super::console::{remark, stdout};
use super::progress::Progress;
use super::runtime::{Files, OnErrorArg, Opened};
use crate::app::signals::remove_when_ended;
use crate::base::atomic::AtomicFile;
use crate::error::{Error, Kind, Result};
use crate::model::Model;
use crate::text::message::Message;
use crate::text::source::{OnError, Row, Source};
use serde_json::{Map, Value};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Rows answered together, at most.
const BATCH_ROWS: usize = 512;
/// Tokens answered together, about.
const BATCH_TOKENS: usize = 1 << 17;

/// A row that was understood.
pub struct Request<T> {
    /// The row's `id`, or its number.
    pub id: Value,
    pub item: T,
}

/// Reads all rows, answers them in batches and writes one JSON object for each.
///
/// # Errors
/// The first row that `parse` refuses, with its place, unless rows are to be skipped; whatever `answer` returns.
pub fn answer<T>(
    files: &Files,
    what: &str,
    parse: impl FnMut(&Row) -> Result<(T, usize)>,
    mut answer: impl FnMut(&[Request<T>]) -> Result<Vec<Map<String, Value>>>,
) -> Result<()> {
    select(files, what, parse, |batch| Ok(answer(batch)?.into_iter().map(Some).collect()))
}

/// As [`answer`], for verbs that have no answer to some rows.
///
/// # Errors
/// As [`answer`].
pub fn select<T>(
    files: &Files,
    what: &str,
    mut parse: impl FnMut(&Row) -> Result<(T, usize)>,
    mut answer: impl FnMut(&[Request<T>]) -> Result<Vec<Option<Map<String, Value>>>>,
) -> Result<()> {
    let skip = files.on_error == OnErrorArg::Skip;
    let mut rows = Source::open(&[&files.input])?.rows(if skip { OnError::Skip } else { OnError::Fail });
    let mut output = Output::create(&files.output, &files.input)?;
    let mut bar = Progress::new(what);
    let (mut batch, mut tokens, mut seen, mut refused) = (Vec::new(), 0, 0u64, Refused::default());
    loop {
        let row = rows.next().transpose()?;
        let full = batch.len() == BATCH_ROWS || tokens >= BATCH_TOKENS;
        if !batch.is_empty() && (full || row.is_none()) {
            for (request, object) in batch.iter().zip(answer(&batch)?) {
                let Some(mut object) = object else { continue };
                object.shift_insert(0, "id".into(), request.id.clone());
                output.line(&object)?;
            }
            bar.add(batch.len() as u64);
            batch.clear();
            tokens = 0;
        }
        let Some(row) = row else { break };
        seen += 1;
        match parse(&row) {
            Ok((item, count)) => {
                let id = row.value.get("id").cloned().unwrap_or(Value::from(seen + rows.skipped()));
                tokens += count;
                batch.push(Request { id, item });
            }
            Err(e) if skip && matches!(e.kind(), Kind::Data) => refused.note(e.at(&row.place)),
            Err(e) => return Err(e.at(&row.place)),
        }
    }
    if seen + rows.skipped() == 0 {
        return Err(Error::data(format!("{}: there are no rows in it", files.input)));
    }
    output.finish()?;
    bar.finish();
    if let Some(first) = rows.first_skipped() {
        refused.note(Error::data(first));
        refused.count += rows.skipped() - 1;
    }
    refused.report(seen + rows.skipped());
    Ok(())
}

/// As [`answer`], by the adapter that each row names: `answer` gets rows of one model of `opened` at a time.
///
/// # Errors
/// As [`answer`]; a row that names an adapter that there is not.
pub fn answer_by_adapter<'m, T>(
    files: &Files,
    what: &str,
    opened: &'m Opened,
    mut parse: impl FnMut(&Row) -> Result<(T, usize)>,
    mut answer_one: impl FnMut(&'m Model, &[&T]) -> Result<Vec<Map<String, Value>>>,
) -> Result<()> {
    let models = opened.models();
    let parse = |row: &Row| {
        let model = opened.choose(row)?;
        let (item, count) = parse(row)?;
        Ok(((model, item), count))
    };
    answer(files, what, parse, |batch| {
        let mut answers: Vec<Option<Map<String, Value>>> = vec![None; batch.len()];
        for (i, model) in models.iter().enumerate() {
            let places: Vec<usize> = (0..batch.len()).filter(|r| batch[*r].item.0 == i).collect();
            if places.is_empty() {
                continue;
            }
            let items: Vec<&T> = places.iter().map(|r| &batch[*r].item.1).collect();
            for (place, made) in places.into_iter().zip(answer_one(model, &items)?) {
                answers[place] = Some(made);
            }
        }
        Ok(answers.into_iter().map(|made| made.expect("every row has a model")).collect())
    })
}

/// Rows that were left out.
#[derive(Default)]
struct Refused {
    count: u64,
    first: Option<String>,
}

impl Refused {
    fn note(&mut self, e: Error) {
        self.count += 1;
        self.first.get_or_insert_with(|| e.to_string());
    }
    fn report(&self, rows: u64) {
        if let Some(first) = &self.first {
            remark(format_args!("left out {} of {rows} rows; for one, {first}", self.count));
        }
    }
}

/// Where answers go.
pub enum Output {
    Stdout(BufWriter<std::io::Stdout>),
    File(AtomicFile),
}

impl Output {
    /// Opens `path`, or standard output for `-`.
    ///
    /// # Errors
    /// The path is the input's; or the file system refuses.
    pub fn create(path: &Path, input: &str) -> Result<Output> {
        if path == Path::new("-") {
            return Ok(Output::Stdout(BufWriter::new(std::io::stdout())));
        }
        if same_file(Path::new(input), path) {
            return Err(Error::usage(format!("--output {}: it is the input; name another file", path.display())));
        }
        let file = AtomicFile::create(path)?;
        if let Some(temporary) = file.temporary() {
            remove_when_ended(temporary)?;
        }
        Ok(Output::File(file))
    }

    /// One object on a line of its own.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn line(&mut self, object: &Map<String, Value>) -> Result<()> {
        let mut line = serde_json::to_vec(object).expect("JSON values print");
        line.push(b'\n');
        match self {
            Output::Stdout(out) => out.write_all(&line).map_err(stdout),
            Output::File(file) => file.append(&line),
        }
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn finish(self) -> Result<()> {
        match self {
            Output::Stdout(mut out) => out.flush().map_err(stdout),
            Output::File(file) => file.commit(),
        }
    }
}

/// Whether both paths lead to one regular file.
fn same_file(a: &Path, b: &Path) -> bool {
    let file = |path: &Path| path.canonicalize().ok().filter(|p| p.is_file());
    file(a).is_some_and(|a| file(b) == Some(a))
}

/// A text field.
///
/// # Errors
/// It is missing or not a text.
pub fn text<'r>(row: &'r Row, name: &str) -> Result<&'r str> {
    row.text(name)
}

/// A prompt field: a text, or a list of messages.
///
/// # Errors
/// It is missing, empty, or neither.
pub fn prompt(row: &Row, names: &[&str]) -> Result<Vec<Message>> {
    row.conversation(names)
}

/// An f32 as the shortest decimal that reads back as the same f32.
pub fn number(x: f32) -> Value {
    x.to_string().parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or(Value::Null, Value::Number)
}
