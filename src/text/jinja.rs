//! Chat templates are Jinja, written for Python. This is the environment that makes minijinja print the same bytes as
//! transformers does: Python's methods on strings, lists and mappings, Python's `json.dumps` as `tojson`,
//! `raise_exception`, `{% generation %}` blocks, `trim_blocks` and `lstrip_blocks`, and a calendar that stands still.

use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value, syntax::SyntaxConfig};
use serde_json::Value as Json;

use crate::error::{Error, Result};

/// The name under which the one template of an environment is registered.
pub const NAME: &str = "chat template";

/// The day that templates print. Prompts must not change with the calendar: rewards would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: u32,
    month: u32,
    day: u32,
}

impl Default for Date {
    /// 26 July 2024, which the templates of LLaMA 3.1 print by themselves.
    fn default() -> Self {
        Date { year: 2024, month: 7, day: 26 }
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Date {
    /// Reads `2024-07-26`.
    pub fn parse(text: &str) -> Result<Date> {
        let wrong = || Error::usage(format!("the template date {text:?} is not a day; write it as 2024-07-26"));
        let parts: Vec<u32> = text.split('-').map(|p| p.parse().map_err(|_| wrong())).collect::<Result<_>>()?;
        let [year, month, day] = parts[..] else { return Err(wrong()) };
        if !(1..=9999).contains(&year) || !(1..=12).contains(&month) || day < 1 || day > month_length(year, month) {
            return Err(wrong());
        }
        Ok(Date { year, month, day })
    }

    /// Days since the start of the year, from 1.
    fn of_year(&self) -> u32 {
        (1..self.month).map(|m| month_length(self.year, m)).sum::<u32>() + self.day
    }

    /// 0 is Sunday.
    fn of_week(&self) -> usize {
        let before = self.year - 1;
        ((self.year + before / 4 - before / 100 + before / 400 + self.of_year() - 1) % 7) as usize
    }

    /// C's `strftime` at midnight of the day, for the directives that name dates and times.
    fn format(&self, format: &str) -> std::result::Result<String, minijinja::Error> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next().unwrap_or('%');
            let padded = directive != '-';
            if !padded {
                directive = chars.next().unwrap_or('%');
            }
            let number = |value: u32, width: usize| match padded {
                true => format!("{value:0width$}"),
                false => value.to_string(),
            };
            let month = MONTHS[self.month as usize - 1];
            match directive {
                'd' => out.push_str(&number(self.day, 2)),
                'e' => out.push_str(&format!("{:>2}", self.day)),
                'm' => out.push_str(&number(self.month, 2)),
                'y' => out.push_str(&number(self.year % 100, 2)),
                'Y' => out.push_str(&self.year.to_string()),
                'j' => out.push_str(&number(self.of_year(), 3)),
                'b' | 'h' => out.push_str(&month[..3]),
                'B' => out.push_str(month),
                'a' => out.push_str(&DAYS[self.of_week()][..3]),
                'A' => out.push_str(DAYS[self.of_week()]),
                'w' => out.push_str(&self.of_week().to_string()),
                'H' | 'M' | 'S' => out.push_str(&number(0, 2)),
                'I' => out.push_str(&number(12, 2)),
                'p' => out.push_str("AM"),
                'F' => out.push_str(&self.format("%Y-%m-%d")?),
                'D' => out.push_str(&self.format("%m/%d/%y")?),
                'T' => out.push_str("00:00:00"),
                '%' => out.push('%'),
                other => {
                    let what = format!("strftime_now does not know the directive %{other}");
                    return Err(minijinja::Error::new(ErrorKind::InvalidOperation, what));
                }
            }
        }
        Ok(out)
    }
}

fn month_length(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// An environment that holds `source` under [`NAME`].
pub fn environment(source: &str, date: Date) -> Result<Environment<'static>> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let syntax = syntax.map_err(|e| Error::model(format!("the chat template's syntax: {e}")))?;
    let mut env = Environment::new();
    env.set_syntax(syntax);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    env.add_function("strftime_now", move |format: String| date.format(&format));
    env.add_filter("tojson", to_json);
    env.add_template_owned(NAME, without_generation_blocks(source)).map_err(|e| explain(&e))?;
    Ok(env)
}

/// Marks the message of a template's own `raise_exception` inside minijinja's error.
const RAISED: &str = "\u{1}raised\u{1}";

/// A template error as one line.
pub fn explain(error: &minijinja::Error) -> Error {
    let detail = error.detail().unwrap_or("");
    if let Some(message) = detail.strip_prefix(RAISED) {
        return Error::data(format!("the chat template refuses this conversation: {message}"));
    }
    let line = error.line().map_or(String::new(), |l| format!(" at its line {l}"));
    let detail = if detail.is_empty() { error.kind().to_string() } else { format!("{}: {detail}", error.kind()) };
    Error::data(format!("the chat template fails{line}: {}", detail.replace('\n', " ")))
}

/// `{% generation %}` marks what an assistant wrote; it prints its body and nothing else, as `{% if true %}` does.
fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%").into_iter().chain(rest.find("{#")).min() {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let close = if tag.starts_with("{#") { "#}" } else { "%}" };
        let end = tag.find(close).map_or(tag.len(), |e| e + 2);
        let (tag, after) = tag.split_at(end);
        let word = tag[2..].trim_start_matches(['-', '+']).trim_start();
        let name: String = word.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        match name.as_str() {
            "generation" if tag.starts_with("{%") => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" if tag.starts_with("{%") => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn to_json(
    value: Value,
    ascii: Option<bool>,
    indent: Option<Value>,
    options: Kwargs,
) -> std::result::Result<Value, minijinja::Error> {
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.or(ascii).unwrap_or(false);
    let indent = options.get::<Option<Value>>("indent")?.or(indent).filter(|v| !v.is_none());
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let indent = match indent {
        None => None,
        Some(v) => match (v.as_str(), v.as_usize()) {
            (Some(text), _) => Some(text.to_string()),
            (None, Some(n)) => Some(" ".repeat(n.min(64))),
            _ => {
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "tojson: indent is a number or a text"));
            }
        },
    };
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "tojson: separators are two texts")),
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let json = serde_json::to_value(&value)
        .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, format!("tojson: {e}")))?;
    let style = Style { ascii, indent, item, key, sort_keys };
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

/// How Python's `json.dumps` was asked to print.
struct Style {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl Style {
    fn write(&self, json: &Json, depth: usize, out: &mut String) {
        match json {
            Json::Null => out.push_str("null"),
            Json::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Json::Number(n) => match n.as_f64().filter(|_| n.is_f64()) {
                Some(float) => out.push_str(&float_repr(float)),
                None => out.push_str(&n.to_string()),
            },
            Json::String(s) => self.string(s, out),
            Json::Array(values) if values.is_empty() => out.push_str("[]"),
            Json::Object(map) if map.is_empty() => out.push_str("{}"),
            Json::Array(values) => {
                out.push('[');
                for (i, value) in values.iter().enumerate() {
                    self.before(i, depth, out);
                    self.write(value, depth + 1, out);
                }
                self.close(depth, out);
                out.push(']');
            }
            Json::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|(key, _)| *key);
                }
                out.push('{');
                for (i, (key, value)) in entries.into_iter().enumerate() {
                    self.before(i, depth, out);
                    self.string(key, out);
                    out.push_str(&self.key);
                    self.write(value, depth + 1, out);
                }
                self.close(depth, out);
                out.push('}');
            }
        }
    }

    fn before(&self, i: usize, depth: usize, out: &mut String) {
        if i > 0 {
            out.push_str(&self.item);
        }
        if self.indent.is_some() {
            self.line(depth + 1, out);
        }
    }

    fn close(&self, depth: usize, out: &mut String) {
        if self.indent.is_some() {
            self.line(depth, out);
        }
    }

    fn line(&self, depth: usize, out: &mut String) {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(self.indent.as_deref().unwrap_or(""));
        }
    }

    fn string(&self, s: &str, out: &mut String) {
        out.push('"');
        for c in s.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
                c if self.ascii && !(' '..='~').contains(&c) => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Python's `repr` of a float: the shortest digits that read back the same, in scientific form outside 1e-4..1e16.
fn float_repr(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_string();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> String {
        let env = environment(source, Date::default()).unwrap();
        env.get_template(NAME).unwrap().render(minijinja::context! {}).unwrap()
    }

    #[test]
    fn dates_are_formatted_as_strftime_does() {
        let day = Date::parse("2024-02-09").unwrap();
        let text = day.format("%d %b %Y|%-d %B %y|%A %a|%j|%Y-%m-%d|%e|%H:%M|100%%").unwrap();
        assert_eq!(text, "09 Feb 2024|9 February 24|Friday Fri|040|2024-02-09| 9|00:00|100%");
        assert_eq!(Date::parse("2000-01-01").unwrap().format("%A %w").unwrap(), "Saturday 6");
        assert_eq!(Date::parse("1900-03-01").unwrap().format("%A %j").unwrap(), "Thursday 060");
        assert!(day.format("%Q").is_err());
        for wrong in ["", "2024", "2023-02-29", "2024-13-01", "2024-04-31", "26 Jul 2024", "2024-7-x", "0-1-1"] {
            assert!(Date::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}"), "26 Jul 2024");
    }

    #[test]
    fn json_is_printed_as_python_prints_it() {
        let source = r#"{{ {"a": [1, 2.5, 1e-7, 1e22, true, none, "é<\"\n\u0001"], "b": {}, "c": []} | tojson }}"#;
        assert_eq!(render(source), r#"{"a": [1, 2.5, 1e-07, 1e+22, true, null, "é<\"\n\u0001"], "b": {}, "c": []}"#);
        assert_eq!(render("{{ ['é😀'] | tojson(ensure_ascii=true) }}"), r#"["\u00e9\ud83d\ude00"]"#);
        assert_eq!(render("{{ {'b': [1], 'a': 2} | tojson(indent=2) }}"), "{\n  \"b\": [\n    1\n  ],\n  \"a\": 2\n}");
        assert_eq!(
            render("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}"),
            r#"{"a":2,"b":1}"#
        );
    }

    #[test]
    fn generation_blocks_print_their_body() {
        assert_eq!(render("a\n{%- generation -%}\n b {% endgeneration %}c{# {% generation %} #}"), "ab c");
        assert_eq!(render("{{ 'x' }}{% set generation_ = 1 %}{{ generation_ }}"), "x1");
    }

    #[test]
    fn python_methods_and_refusals() {
        assert_eq!(render("{{ 'a</think>b'.split('</think>')[-1].lstrip('b') ~ ' x '.strip() }}"), "x");
        let env = environment("{{ raise_exception('roles must alternate') }}", Date::default()).unwrap();
        let error = explain(&env.get_template(NAME).unwrap().render(()).unwrap_err());
        assert_eq!(error.to_string(), "the chat template refuses this conversation: roles must alternate");
        let error = environment("\n{% if %}", Date::default()).unwrap_err();
        assert!(error.to_string().contains("at its line 2"), "{error}");
    }
}
