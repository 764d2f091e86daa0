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

#[cfg(all(test, feature = "parquet"))]
mod tests {
    use super::*;
    use parquet::basic::{Compression, GzipLevel, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use serde_json::{Value, json};
    use std::sync::Arc;

    const SCHEMA: &str = "message row {
        optional binary prompt (UTF8);
        optional group chosen (LIST) { repeated group list { optional group element {
            optional binary role (UTF8); optional binary content (UTF8); } } }
        optional double score;
    }";

    /// Three rows: two turns; an empty list and no score; no list and no prompt.
    fn write(path: &Path, compression: Compression) {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let file = std::fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let texts = |t: &[&str]| t.iter().map(|t| ByteArray::from(*t)).collect::<Vec<_>>();
        for (values, definition, repetition) in [
            (texts(&["q", "p"]), vec![1, 1, 0], None),
            (texts(&["user", "assistant"]), vec![4, 4, 1, 0], Some(vec![0, 1, 0, 0])),
            (texts(&["é", "c"]), vec![4, 4, 1, 0], Some(vec![0, 1, 0, 0])),
        ] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&definition), repetition.as_deref()).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&[1.5, 2.0], Some(&[1, 0, 1]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    fn read(path: &Path) -> (Vec<Value>, Option<String>) {
        let (mut values, mut broken) = (Vec::new(), None);
        match rows(path) {
            Err(e) => broken = Some(e.to_string()),
            Ok(rows) => {
                for step in rows {
                    match step {
                        Step::Value(number, value) => {
                            values.push(value);
                            assert_eq!(number, values.len() as u64);
                        }
                        Step::Bad(_, e) | Step::Broken(_, e) => broken = Some(e),
                    }
                }
            }
        }
        (values, broken)
    }

    #[test]
    fn nested_rows_in_every_compression() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.parquet");
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(ZstdLevel::default()),
            Compression::GZIP(GzipLevel::default()),
        ] {
            write(&path, compression);
            let turns = json!([{"role": "user", "content": "é"}, {"role": "assistant", "content": "c"}]);
            let want = vec![
                json!({"prompt": "q", "chosen": turns, "score": 1.5}),
                json!({"prompt": "p", "chosen": [], "score": null}),
                json!({"prompt": null, "chosen": null, "score": 2.0}),
            ];
            assert_eq!(read(&path), (want, None), "{compression:?}");
        }
    }

    #[test]
    fn damaged_files_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.parquet");
        write(&path, Compression::UNCOMPRESSED);
        let bytes = std::fs::read(&path).unwrap();
        for keep in [4, 40, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..keep]).unwrap();
            let (_, broken) = read(&path);
            assert!(broken.as_deref().is_some_and(|e| e.contains("damaged or cut off")), "{keep} {broken:?}");
        }
    }
}
