//! Which rows of a benchmark occur in training text, by shared runs of 13 words.
//!
//! Words are runs of letters and digits, in lower case; Chinese, Japanese and Korean characters are words by themselves. Every
//! text of a row counts, field by field. The benchmark is held in memory and the training text streams past it.

use crate::text::source::Row;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A benchmark, and what was seen of it.
pub struct Bench {
    n: usize,
    rows: Vec<BenchRow>,
    /// By hash, the number of a run of words.
    grams: HashMap<u64, u32>,
    /// By number, the rows that hold it.
    holders: Vec<Vec<u32>>,
    seen: Vec<bool>,
    trained: u64,
}

struct BenchRow {
    place: String,
    id: Option<Value>,
    /// By field, its distinct runs.
    fields: Vec<(String, Vec<u32>)>,
    /// The training row that shares the most runs with it.
    source: Option<Source>,
}

#[derive(Clone)]
struct Source {
    place: String,
    shared: usize,
    words: String,
}

/// What was found for one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlap {
    pub place: String,
    pub id: Option<Value>,
    /// Distinct runs of words, and how many of them occur in training text.
    pub runs: usize,
    pub shared: usize,
    /// The same by field, of those that share any.
    pub fields: Vec<(String, usize, usize)>,
    /// Of the training row that shares the most: where it stands, how many runs, and the first of them.
    pub source: Option<(String, usize, String)>,
}

impl Overlap {
    pub fn share(&self) -> f64 {
        if self.runs == 0 { 0.0 } else { self.shared as f64 / self.runs as f64 }
    }

    pub fn to_json(&self) -> Value {
        let fields: Map<String, Value> = self
            .fields
            .iter()
            .map(|(name, shared, runs)| (name.clone(), json!({"shared": shared, "runs": runs})))
            .collect();
        let source = self.source.as_ref();
        json!({
            "place": self.place,
            "id": self.id,
            "runs": self.runs,
            "shared": self.shared,
            "share": self.share(),
            "fields": fields,
            "source": source.map(|(place, shared, words)| json!({"place": place, "shared": shared, "words": words})),
        })
    }
}

impl Bench {
    /// An empty benchmark, compared by runs of `n` words.
    pub fn new(n: usize) -> Bench {
        Bench { n, rows: Vec::new(), grams: HashMap::new(), holders: Vec::new(), seen: Vec::new(), trained: 0 }
    }

    pub fn add(&mut self, row: &Row) {
        let holder = self.rows.len() as u32;
        let mut fields = Vec::new();
        for (name, value) in &row.value {
            let mut runs = BTreeSet::new();
            for text in texts(value) {
                for hash in hashes(&words(text), self.n) {
                    let next = self.grams.len() as u32;
                    let gram = *self.grams.entry(hash).or_insert(next);
                    if gram == next {
                        self.holders.push(Vec::new());
                        self.seen.push(false);
                    }
                    let holders = &mut self.holders[gram as usize];
                    if holders.last() != Some(&holder) {
                        holders.push(holder);
                    }
                    runs.insert(gram);
                }
            }
            if !runs.is_empty() {
                fields.push((name.clone(), runs.into_iter().collect()));
            }
        }
        let id = ["pair_id", "pair_uid", "bon_uid", "question_id", "id"].iter().find_map(|name| row.value.get(*name));
        self.rows.push(BenchRow { place: row.place.to_string(), id: id.cloned(), fields, source: None });
    }

    /// Notes what a training row shares with the benchmark.
    pub fn train(&mut self, row: &Row) {
        self.trained += 1;
        let mut found: BTreeMap<u32, String> = BTreeMap::new();
        for text in row.value.values().flat_map(texts) {
            let words = words(text);
            for (at, hash) in hashes(&words, self.n).enumerate() {
                if let Some(gram) = self.grams.get(&hash) {
                    found.entry(*gram).or_insert_with(|| words[at..at + self.n].join(" "));
                }
            }
        }
        let mut shared: BTreeMap<u32, (usize, &str)> = BTreeMap::new();
        for (gram, words) in &found {
            self.seen[*gram as usize] = true;
            for holder in &self.holders[*gram as usize] {
                shared.entry(*holder).or_insert((0, words)).0 += 1;
            }
        }
        for (holder, (count, words)) in shared {
            let best = &mut self.rows[holder as usize].source;
            if best.as_ref().is_none_or(|b| b.shared < count) {
                *best = Some(Source { place: row.place.to_string(), shared: count, words: words.to_string() });
            }
        }
    }

    /// Training rows that were looked at.
    pub fn trained(&self) -> u64 {
        self.trained
    }

    /// What was found, row by row.
    pub fn overlaps(&self) -> Vec<Overlap> {
        self.rows.iter().map(|row| self.overlap(row)).collect()
    }

    fn overlap(&self, row: &BenchRow) -> Overlap {
        let shared = |runs: &[u32]| runs.iter().filter(|g| self.seen[**g as usize]).count();
        let all: BTreeSet<u32> = row.fields.iter().flat_map(|(_, runs)| runs).copied().collect();
        let all: Vec<u32> = all.into_iter().collect();
        let fields = row.fields.iter().map(|(name, runs)| (name.clone(), shared(runs), runs.len()));
        Overlap {
            place: row.place.clone(),
            id: row.id.clone(),
            runs: all.len(),
            shared: shared(&all),
            fields: fields.filter(|f| f.1 > 0).collect(),
            source: row.source.clone().map(|s| (s.place, s.shared, s.words)),
        }
    }
}

/// All texts inside a value.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Object(map) => map.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for c in text.chars() {
        let single = matches!(c as u32, 0x3040..=0x30ff | 0x3400..=0x9fff | 0xac00..=0xd7af | 0xf900..=0xfaff | 0x20000..=0x3ffff);
        if single {
            words.push(c.to_string());
        } else if c.is_alphanumeric() {
            if !open {
                words.push(String::new());
            }
            words.last_mut().expect("one is open").extend(c.to_lowercase());
        }
        open = c.is_alphanumeric() && !single;
    }
    words
}

/// A hash of each run of `n` words.
fn hashes(words: &[String], n: usize) -> impl Iterator<Item = u64> {
    let hash = |word: &String| {
        let mut hasher = DefaultHasher::new();
        word.hash(&mut hasher);
        hasher.finish()
    };
    let hashes: Vec<u64> = words.iter().map(hash).collect();
    let runs = (hashes.len() + 1).saturating_sub(n);
    let mix = |h: u64, word: &u64| (h.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..runs).map(move |at| hashes[at..at + n].iter().fold(0, mix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::source::{Place, Unit};

    fn row(number: u64, value: Value) -> Row {
        let value = value.as_object().unwrap().clone();
        Row { place: Place { file: "f".into(), number, unit: Unit::Line }, value }
    }

    fn count(from: usize, to: usize) -> String {
        (from..to).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_are_letters_and_digits_in_lower_case() {
        assert_eq!(words("It's 3.5\u{a0}TIMES--ÄRGER"), ["it", "s", "3", "5", "times", "ärger"]);
        assert_eq!(words("ab漢字cd"), ["ab", "漢", "字", "cd"]);
    }

    #[test]
    fn runs_of_words_are_found_whatever_stands_around_them() {
        let mut bench = Bench::new(13);
        bench.add(&row(1, json!({"id": 7, "prompt": count(0, 20), "answers": [count(100, 113), "short"]})));
        bench.add(&row(2, json!({"prompt": count(50, 70)})));
        bench.add(&row(3, json!({"prompt": count(0, 12)})));
        // Twelve words in common are not enough; fourteen share two runs; case and punctuation do not matter.
        bench.train(&row(1, json!({"text": count(50, 62)})));
        bench.train(&row(2, json!({"messages": [{"content": format!("so: {}!", count(3, 17).to_uppercase())}]})));
        bench.train(&row(3, json!({"text": count(0, 16)})));
        let found = bench.overlaps();
        assert_eq!((found[0].runs, found[0].shared), (9, 5));
        assert_eq!(found[0].fields, [("prompt".to_string(), 5, 8)]);
        let (place, shared, words) = found[0].source.clone().unwrap();
        assert_eq!((place.as_str(), shared), ("f:3", 4));
        assert!(words.starts_with("w0 w1 ") && words.ends_with(" w12"));
        assert_eq!((found[1].shared, found[1].runs, found[1].source.is_none()), (0, 8, true));
        assert_eq!((found[2].runs, found[2].share()), (0, 0.0));
        assert_eq!(bench.trained(), 3);
    }
}
