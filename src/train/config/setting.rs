//! One value of a run file: how a type is read from TOML, written back, and described to a person who got it wrong.

use crate::train::checkpoint::Resume;
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Value;

/// A type that a key of the run file may have.
pub(crate) trait Setting: Sized {
    /// Whether single entries may be set from the command line: `data.columns.prompt=question`.
    const TABLE: bool = false;
    /// What may stand there, to follow "must be".
    fn allowed() -> String;
    fn read(value: &Value) -> Option<Self>;
    /// `None` where nothing is set.
    fn write(&self) -> Option<Value>;
    /// The number that a [`Range`] is about.
    fn number(&self) -> Option<f64> {
        None
    }
}

/// What numbers a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Range {
    Any,
    /// `low < x`
    Above(f64),
    /// `low <= x`
    AtLeast(f64),
    /// `low <= x < high`
    Below(f64, f64),
    /// `low <= x <= high`
    Within(f64, f64),
}

impl Range {
    pub fn holds(self, x: f64) -> bool {
        match self {
            Range::Any => true,
            Range::Above(low) => x > low,
            Range::AtLeast(low) => x >= low,
            Range::Below(low, high) => (low..high).contains(&x),
            Range::Within(low, high) => (low..=high).contains(&x),
        }
    }

    /// To follow "a number": empty, or with a space in front.
    pub fn describe(self) -> String {
        match self {
            Range::Any => String::new(),
            Range::Above(low) => format!(" above {low}"),
            Range::AtLeast(low) => format!(" of at least {low}"),
            Range::Below(low, high) => format!(" from {low} to below {high}"),
            Range::Within(low, high) => format!(" from {low} to {high}"),
        }
    }
}

impl Setting for bool {
    fn allowed() -> String {
        "true or false".into()
    }
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
    fn write(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

impl Setting for u64 {
    fn allowed() -> String {
        "a whole number".into()
    }
    fn read(value: &Value) -> Option<Self> {
        value.as_integer()?.try_into().ok()
    }
    fn write(&self) -> Option<Value> {
        Some(Value::Integer(*self as i64))
    }
    fn number(&self) -> Option<f64> {
        Some(*self as f64)
    }
}

impl Setting for f64 {
    fn allowed() -> String {
        "a number".into()
    }
    fn read(value: &Value) -> Option<Self> {
        let x = value.as_float().or_else(|| value.as_integer().map(|i| i as f64))?;
        x.is_finite().then_some(x)
    }
    fn write(&self) -> Option<Value> {
        Some(Value::Float(*self))
    }
    fn number(&self) -> Option<f64> {
        Some(*self)
    }
}

impl Setting for String {
    fn allowed() -> String {
        "text in quotes".into()
    }
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_string)
    }
    fn write(&self) -> Option<Value> {
        Some(Value::String(self.clone()))
    }
}

impl Setting for PathBuf {
    fn allowed() -> String {
        "a path in quotes".into()
    }
    fn read(value: &Value) -> Option<Self> {
        value.as_str().filter(|s| !s.is_empty()).map(PathBuf::from)
    }
    fn write(&self) -> Option<Value> {
        // Paths come from TOML text, so they are text.
        Some(Value::String(self.to_string_lossy().into_owned()))
    }
}

impl<T: Setting> Setting for Option<T> {
    fn allowed() -> String {
        T::allowed()
    }
    fn read(value: &Value) -> Option<Self> {
        T::read(value).map(Some)
    }
    fn write(&self) -> Option<Value> {
        self.as_ref().and_then(T::write)
    }
    fn number(&self) -> Option<f64> {
        self.as_ref().and_then(T::number)
    }
}

/// One text stands for a list of one.
impl Setting for Vec<String> {
    fn allowed() -> String {
        "text in quotes or a list of such".into()
    }
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Array(items) => items.iter().map(String::read).collect(),
            one => Some(vec![String::read(one)?]),
        }
    }
    fn write(&self) -> Option<Value> {
        (!self.is_empty()).then(|| Value::Array(self.iter().filter_map(Setting::write).collect()))
    }
}

impl Setting for [String; 2] {
    fn allowed() -> String {
        "a list of two texts".into()
    }
    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(String::read).collect::<Option<Vec<_>>>()?.try_into().ok()
    }
    fn write(&self) -> Option<Value> {
        self.to_vec().write()
    }
}

impl Setting for BTreeMap<String, String> {
    const TABLE: bool = true;
    fn allowed() -> String {
        "a table of texts, such as { prompt = \"question\" }".into()
    }
    fn read(value: &Value) -> Option<Self> {
        value.as_table()?.iter().map(|(k, v)| Some((k.clone(), String::read(v)?))).collect()
    }
    fn write(&self) -> Option<Value> {
        let table = self.iter().map(|(k, v)| (k.clone(), Value::String(v.clone()))).collect();
        (!self.is_empty()).then_some(Value::Table(table))
    }
}

/// A part of a run: a number of steps (a whole number in the file), or a fraction of the run (a number below 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Span {
    Steps(u64),
    Fraction(f64),
}

impl Span {
    /// Its length in a run of `total` steps; fractions round up, as in Hugging Face's trainer.
    pub fn steps(self, total: u64) -> u64 {
        match self {
            Span::Steps(n) => n,
            Span::Fraction(f) => (total as f64 * f).ceil() as u64,
        }
    }
}

impl Setting for Span {
    fn allowed() -> String {
        "a whole number of steps, or a fraction of the run from 0.0 to below 1.0".into()
    }
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Float(f) => (0.0..1.0).contains(f).then_some(Span::Fraction(*f)),
            steps => u64::read(steps).map(Span::Steps),
        }
    }
    fn write(&self) -> Option<Value> {
        match self {
            Span::Steps(n) => n.write(),
            Span::Fraction(f) => f.write(),
        }
    }
}

impl Setting for Resume {
    fn allowed() -> String {
        "\"auto\", \"never\" or the path of a checkpoint".into()
    }
    fn read(value: &Value) -> Option<Self> {
        Some(match value.as_str().filter(|s| !s.is_empty())? {
            "auto" => Resume::Auto,
            "never" => Resume::Never,
            path => Resume::From(path.into()),
        })
    }
    fn write(&self) -> Option<Value> {
        match self {
            Resume::Auto => "auto".to_string().write(),
            Resume::Never => "never".to_string().write(),
            Resume::From(path) => path.write(),
        }
    }
}

/// An enum whose variants have one name each in the run file.
macro_rules! choices {
    ($($(#[$about:meta])* $Name:ident { $($(#[$doc:meta])* $Variant:ident = $text:literal,)+ })+) => {$(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Name { $($(#[$doc])* $Variant,)+ }

        impl $Name {
            pub const ALL: &[$Name] = &[$($Name::$Variant,)+];
            /// Its name in the run file.
            pub fn as_str(self) -> &'static str {
                match self { $($Name::$Variant => $text,)+ }
            }
        }

        impl Setting for $Name {
            fn allowed() -> String {
                let names: Vec<String> = $Name::ALL.iter().map(|c| format!("\"{}\"", c.as_str())).collect();
                format!("one of {}", names.join(", "))
            }
            fn read(value: &Value) -> Option<Self> {
                $Name::ALL.iter().copied().find(|c| Some(c.as_str()) == value.as_str())
            }
            fn write(&self) -> Option<Value> {
                Some(Value::String(self.as_str().into()))
            }
        }
    )+};
}
pub(crate) use choices;

/// A value as TOML on one line, whatever it holds. Floats are written the short way: `1e-5`.
pub(crate) fn literal(value: &Value) -> String {
    match value {
        Value::Float(x) => format!("{x:?}"),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Table(table) if !table.is_empty() => {
            let entry = |(key, value): (&String, &Value)| format!("{} = {}", name(key), literal(value));
            format!("{{ {} }}", table.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// JSON's escapes are TOML's, but TOML also wants one for DEL.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn name(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { key.into() } else { quoted(key) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            (-1e300f64..1e300).prop_map(Value::Float),
            any::<bool>().prop_map(Value::Boolean),
            "\\PC*|[\u{0}-\u{7f}]*".prop_map(Value::String),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::vec(("\\PC*", inner), 0..3).prop_map(|v| Value::Table(v.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn literals_are_one_line_and_read_back(value in values()) {
            let text = literal(&value);
            prop_assert!(!text.contains('\n'));
            let read: toml::Table = toml::from_str(&format!("x = {text}")).unwrap_or_else(|e| panic!("{e}\n{text}"));
            prop_assert_eq!(&read["x"], &value);
        }
    }

    #[test]
    fn spans_are_steps_or_a_fraction_rounded_up() {
        let read = |text: &str| Span::read(&toml::from_str::<toml::Table>(&format!("x = {text}")).unwrap()["x"]);
        assert_eq!(["0", "7", "0.0", "0.25"].map(|t| read(t).unwrap().steps(10)), [0, 7, 0, 3]);
        assert_eq!(["1.0", "-1", "-0.5", "nan", "\"3\""].map(read), [None; 5]);
    }
}
