//! Rows out of Parquet files, nested lists and structs included, as JSON values. The only file that knows the feature
//! `parquet`.

use std::path::Path;

use super::source::Step;
use crate::error::{Error, Result};

/// The rows of a Parquet file, numbered from 1.
#[cfg(feature = "parquet")]
pub(super) fn rows(path: &Path) -> Result<Box<dyn Iterator<Item = Step>>> {
    use parquet::file::reader::SerializedFileReader;
    use parquet::record::reader::RowIter;

    let file = std::fs::File::open(path).map_err(|e| Error::io("read", path, e))?;
    let damaged = |e: String| format!("this Parquet file is damaged or cut off: {e}");
    let reader = guarded(|| SerializedFileReader::new(file)).map_err(|e| Error::data(damaged(e)))?;
    let mut rows = guarded(|| Ok(RowIter::from_file_into(Box::new(reader)))).map_err(|e| Error::data(damaged(e)))?;
    let (mut number, mut broken) = (0, false);
    Ok(Box::new(std::iter::from_fn(move || {
        if broken {
            return None;
        }
        number += 1;
        match guarded(|| rows.next().transpose()) {
            Ok(row) => row.map(|row| Step::Value(number, columns::object(row.get_column_iter()))),
            Err(e) => {
                broken = true;
                Some(Step::Broken(number, damaged(e)))
            }
        }
    })))
}

#[cfg(not(feature = "parquet"))]
pub(super) fn rows(_: &Path) -> Result<Box<dyn Iterator<Item = Step>>> {
    Err(Error::usage(
        "this build does not read Parquet; build it with the feature `parquet`, or convert the file to JSONL",
    ))
}

/// The reader asserts what damaged files break; such a panic is a damaged file, not a bug of ours.
#[cfg(feature = "parquet")]
fn guarded<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> std::result::Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|e| e.to_string().replace('\n', " ")),
        Err(_) => Err("its pages contradict each other".into()),
    }
}

#[cfg(feature = "parquet")]
mod columns {
    use parquet::record::Field;
    use serde_json::{Map, Value};

    pub fn object<'a>(fields: impl Iterator<Item = (&'a String, &'a Field)>) -> Value {
        Value::Object(fields.map(|(name, field)| (name.clone(), value(field))).collect::<Map<_, _>>())
    }

    fn value(field: &Field) -> Value {
        match field {
            Field::Null => Value::Null,
            Field::Bool(v) => Value::from(*v),
            Field::Byte(v) => Value::from(*v),
            Field::Short(v) => Value::from(*v),
            Field::Int(v) | Field::Date(v) | Field::TimeMillis(v) => Value::from(*v),
            Field::Long(v) | Field::TimeMicros(v) | Field::TimestampMillis(v) | Field::TimestampMicros(v) => {
                Value::from(*v)
            }
            Field::UByte(v) => Value::from(*v),
            Field::UShort(v) => Value::from(*v),
            Field::UInt(v) => Value::from(*v),
            Field::ULong(v) => Value::from(*v),
            Field::Float16(v) => Value::from(v.to_f64()),
            Field::Float(v) => Value::from(f64::from(*v)),
            Field::Double(v) => Value::from(*v),
            Field::Str(v) => Value::from(v.as_str()),
            // Text written without its annotation; any other bytes (images, say) are nothing a text column holds.
            Field::Bytes(v) => std::str::from_utf8(v.data()).map_or(Value::Null, Value::from),
            Field::Decimal(_) => Value::from(field.to_string()),
            Field::Group(row) => object(row.get_column_iter()),
            Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
            Field::MapInternal(map) => {
                let key = |field: &Field| match value(field) {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                Value::Object(map.entries().iter().map(|(k, v)| (key(k), value(v))).collect())
            }
        }
    }
}
