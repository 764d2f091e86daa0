use super::*;

const PAIRS: &str = r#"{"id": 1, "prompt": "q", "response_a": "x", "response_b": "y", "label": "B"}
{"id": 2, "prompt": "q", "response_a": "x", "response_b": "y", "label": "tie"}
{"id": 3, "prompt": "q", "response_a": "x", "response_b": "x", "label": "A"}
{"id": 4, "prompt": "q", "response_a": " ", "response_b": "y", "label": "A"}
{"id": 5, "prompt": "", "response_a": "x", "response_b": "y", "label": "A"}
{"id": 6, "prompt": "q", "response_a": "x", "response_b": "y"}
"#;

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn read(name: &str, purpose: Purpose) -> Dataset {
    Dataset::read(&[name], &Options { purpose, ..Options::default() }).unwrap()
}

fn ids(dataset: &Dataset) -> Vec<i64> {
    dataset.records.iter().map(|r| r.id.as_i64().unwrap()).collect()
}

#[test]
fn each_purpose_keeps_what_it_can_use() {
    let dir = tempfile::tempdir().unwrap();
    let name = file(&dir, "p.jsonl", PAIRS);
    let d = read(&name, Purpose::Preferences);
    assert_eq!(ids(&d), [1, 6]);
    assert_eq!(d.drops.to_string(), "1 ties, 1 identical responses, 1 empty prompts, 1 empty responses");
    assert!(matches!(&d.records[0].example, Example::Pair { chosen, .. } if chosen == "y"));
    assert_eq!(d.records[1].place.to_string(), format!("{name}:6"));
    assert_eq!(d.formats.iter().map(|f| f.1).collect::<Vec<_>>(), [Format::Responses]);
    let d = read(&name, Purpose::Responses);
    assert_eq!((ids(&d), d.drops.total()), (vec![1, 2, 6], 3));
    let d = read(&name, Purpose::Judging);
    assert_eq!((ids(&d), d.drops.total()), (vec![1, 2, 3, 4, 5, 6], 0));
    assert!(matches!(&d.records[0].example, Example::Unlabelled { a, b, .. } if a == "x" && b == "y"));
}

#[test]
fn rated_completions_become_pairs_in_order_of_their_prompts() {
    let dir = tempfile::tempdir().unwrap();
    let rows =
        [("p", "a", true), ("q", "b", false), ("p", "c", false), ("q", "d", true), ("p", "e", true), ("r", "f", true)];
    let text: String = rows
        .iter()
        .map(|(p, c, l)| format!("{{\"prompt\": \"{p}\", \"completion\": \"{c}\", \"label\": {l}}}\n"))
        .collect();
    let d = read(&file(&dir, "u.jsonl", &text), Purpose::Preferences);
    let pairs: Vec<String> = d
        .records
        .iter()
        .map(|r| match &r.example {
            Example::Pair { prompt, chosen, rejected, .. } => {
                format!("{}{chosen}{rejected}", prompt[0].text().unwrap())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pairs, ["pac", "qdb"]);
    assert_eq!(d.drops.to_string(), "2 without a counterpart");
}

#[test]
fn bad_rows_stop_or_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\"prompt\": \"q\", \"chosen\": \"c\", \"rejected\": \"r\"}\n{\"prompt\": \"q\"}\nnope\n";
    let name = file(&dir, "b.jsonl", text);
    let error = Dataset::read(&[&name], &Options::default()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{name}:2: ")) && error.contains("\"chosen\""), "{error}");
    let skip = Options { on_error: OnError::Skip, ..Options::default() };
    let d = Dataset::read(&[&name], &skip).unwrap();
    assert_eq!((d.records.len(), d.drops.of(Reason::Malformed)), (1, 2));
    assert!(d.first_malformed.unwrap().contains("b.jsonl:2"));
    // A bad first row does not decide the format of the others.
    let name = file(&dir, "c.jsonl", "{\"foo\": 1}\n{\"prompt\": \"q\", \"chosen\": \"c\", \"rejected\": \"r\"}\n");
    assert_eq!(Dataset::read(&[&name], &skip).unwrap().records.len(), 1);
    // What cannot be judged is an error, not a missing line of output.
    let image = "{\"prompt\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}], \"chosen\": [{\"role\": \"assistant\", \"content\": null}], \"rejected\": \"r\"}";
    let judging = Options { purpose: Purpose::Judging, ..Options::default() };
    let error = Dataset::read(&[file(&dir, "i.jsonl", image)], &judging).unwrap_err().to_string();
    assert!(error.contains("cannot be judged (not text)"), "{error}");
}

#[test]
fn files_keep_their_order_and_their_own_formats() {
    let dir = tempfile::tempdir().unwrap();
    file(&dir, "alpaca.json", r#"[{"instruction": "q", "input": "", "output": "c", "id": 2}]"#);
    file(&dir, "ranked.json", r#"[{"ask": "q", "good": "c", "bad": "r", "id": 1}]"#);
    let info = r#"{"sft": {"file_name": "alpaca.json"},
                   "rm": {"file_name": "ranked.json", "ranking": true,
                          "columns": {"prompt": "ask", "chosen": "good", "rejected": "bad"}}}"#;
    let info = file(&dir, "dataset_info.json", info);
    let plain = file(&dir, "plain.jsonl", "{\"prompt\": \"q\", \"completion\": \"c\", \"id\": 3}");
    let names = [format!("{info}:rm"), plain, format!("{info}:sft")];
    let d = Dataset::read(&names, &Options::default()).unwrap();
    assert_eq!(ids(&d), [1, 3, 2]);
    let formats: Vec<Format> = d.formats.iter().map(|f| f.1).collect();
    assert_eq!(formats, [Format::AlpacaPreference, Format::PromptCompletion, Format::Alpaca]);
    let error = Dataset::read(&[format!("{info}:rmm")], &Options::default()).unwrap_err();
    assert!(error.to_string().contains("nearest name is \"rm\""), "{error}");
}

#[test]
fn columns_and_formats_can_be_given() {
    let dir = tempfile::tempdir().unwrap();
    let name = file(&dir, "m.jsonl", "{\"ask\": \"q\", \"good\": \"c\", \"bad\": \"r\"}");
    let columns = Columns::parse(&["prompt=ask", "chosen=good", "rejected=bad"]).unwrap();
    let options = Options { columns, format: Some(Format::Preference), ..Options::default() };
    assert_eq!(Dataset::read(&[name], &options).unwrap().records.len(), 1);
    assert!(Dataset::read::<&str>(&[], &Options::default()).is_err());
}
