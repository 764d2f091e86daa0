//! PEFT's `adapter_config.json`: which modules of a model have low-rank pairs, how large and how strong.
//!
//! | key | what it means here |
//! |---|---|
//! | `peft_type` | `LORA`; others are refused |
//! | `r`, `lora_alpha`, `use_rslora` | rank and scale: alpha / r, with rsLoRA alpha / sqrt(r); absent: 8, 8, false |
//! | `target_modules` | names (a module's whole name or the end of it), a regular expression, or `all-linear` |
//! | `rank_pattern`, `alpha_pattern` | other ranks and alphas for modules whose names end as the pattern says |
//! | `modules_to_save` | `score` (and `classifier`, which these models do not have): a reward row of the adapter's own |
//! | `task_type` | `CAUSAL_LM` or `SEQ_CLS`: the head it was made for |
//! | `lora_dropout` | means nothing when running; training on refuses it above 0 |
//!
//! A key that PEFT's LoRA has or will have and that is not in this table is refused when it says anything: what it says would
//! change the numbers. Keys that only say how an adapter was made are kept.

use crate::error::{Error, Result};
use crate::model::config::keys::Keys;
use crate::model::config::{Config, HeadKind};
use crate::model::lora::{Pair, Projection, Shape};
use fancy_regex::Regex;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Its file inside an adapter directory.
pub const CONFIG: &str = "adapter_config.json";
/// Far larger than any rank that saves anything.
pub const MOST_RANK: usize = 1 << 16;

/// What an adapter's config says.
#[derive(Clone, Debug, PartialEq)]
pub struct Peft {
    pub rank: usize,
    pub alpha: f64,
    pub rslora: bool,
    pub targets: Targets,
    pub rank_pattern: Vec<(String, usize)>,
    pub alpha_pattern: Vec<(String, f64)>,
    /// It has a reward row of its own.
    pub score: bool,
    pub dropout: f64,
    /// The head it was made for, where it says.
    pub head: Option<HeadKind>,
    /// The directory or name of the model it was made for.
    pub base: Option<String>,
    /// The original keys, so that saving loses nothing.
    pub source: Map<String, Value>,
}

/// Which projections have a pair.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    AllLinear,
    /// Whole names of modules, or ends of them.
    Names(Vec<String>),
    /// A regular expression for the whole name.
    Pattern(String),
}

/// Keys that say how an adapter was made and change nothing of what it computes.
const HISTORY: [&str; 9] = [
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "init_lora_weights",
    "megatron_core",
    "qalora_group_size",
    "eva_config",
    "runtime_config",
];
/// Keys that are read.
const READ: [&str; 13] = [
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "target_modules",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "task_type",
    "lora_dropout",
    "bias",
    "base_model_name_or_path",
    "layers_pattern",
];
/// Ways of starting that change the base's own weights.
const CHANGES_BASE: [&str; 4] = ["pissa", "olora", "loftq", "corda"];

impl Peft {
    /// Reads the config of an adapter directory.
    ///
    /// # Errors
    /// A missing or malformed file, and everything [`Peft::parse`] refuses.
    pub fn open(dir: &Path) -> Result<Peft> {
        let path = dir.join(CONFIG);
        if !path.is_file() {
            let advice = match (dir.is_dir(), dir.join("config.json").is_file()) {
                (false, _) => "no such directory",
                (_, true) => "this is a model, not an adapter",
                _ => "not an adapter directory",
            };
            return Err(Error::model(format!("{}: {advice}: {CONFIG} is missing", dir.display())));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        Peft::parse(&text, &path.display().to_string())
    }

    /// Reads the text of an `adapter_config.json`; `place` names it in messages.
    ///
    /// # Errors
    /// Names the key and its value: what is malformed, and what is not implemented.
    pub fn parse(json: &str, place: &str) -> Result<Peft> {
        let source: Map<String, Value> = match serde_json::from_str(json) {
            Ok(Value::Object(map)) => map,
            Ok(_) => return Err(Error::model(format!("{place}: not a JSON object"))),
            Err(e) => return Err(Error::model(format!("{place}: not valid JSON: {e}"))),
        };
        let keys = &Keys::new(&source, place);
        refuse(keys)?;
        let positive = |key| keys.number(key, "above 0", |x| x > 0.0);
        let peft = Peft {
            rank: keys.size("r", MOST_RANK)?.unwrap_or(8),
            alpha: positive("lora_alpha")?.unwrap_or(8.0),
            rslora: keys.flag("use_rslora")?.unwrap_or(false),
            targets: targets(keys)?,
            rank_pattern: pattern(keys, "rank_pattern", |keys, key| keys.size(key, MOST_RANK))?,
            alpha_pattern: pattern(keys, "alpha_pattern", |keys, key| keys.number(key, "above 0", |x| x > 0.0))?,
            score: saves_score(keys)?,
            dropout: keys.number("lora_dropout", "from 0 to 1", |x| (0.0..=1.0).contains(&x))?.unwrap_or(0.0),
            head: head(keys)?,
            base: keys.text("base_model_name_or_path")?.filter(|name| !name.is_empty()).map(String::from),
            source: Map::new(),
        };
        Ok(Peft { source, ..peft })
    }

    /// The pairs that this config gives a model; `place` names the config in messages.
    ///
    /// # Errors
    /// Targets that name no projection, or a module that can have no pair here; patterns that are no regular expressions.
    pub fn resolve(&self, c: &Config, place: &str) -> Result<Shape> {
        let is_target = self.targets.matcher().map_err(|e| e.at(place))?;
        for head in ["lm_head", "score", "model.embed_tokens"] {
            if self.targets != Targets::AllLinear && is_target(head) && !(head == "score" && self.score) {
                return Err(Error::model(format!(
                    "{place}: target_modules takes in {head}; low-rank pairs beside embeddings and heads are not implemented"
                )));
            }
        }
        let ranks = Patterns::new(&self.rank_pattern).map_err(|e| e.at(format!("{place}: rank_pattern")))?;
        let alphas = Patterns::new(&self.alpha_pattern).map_err(|e| e.at(format!("{place}: alpha_pattern")))?;
        let layers: Vec<_> = (0..c.layers)
            .map(|i| {
                Projection::ALL.map(|projection| {
                    let module = format!("model.layers.{i}.{}", projection.name());
                    let rank = ranks.of(&module).unwrap_or(self.rank);
                    let alpha = alphas.of(&module).unwrap_or(self.alpha);
                    let strength = if self.rslora { (rank as f64).sqrt() } else { rank as f64 };
                    is_target(&module).then_some(Pair { rank, scale: alpha / strength })
                })
            })
            .collect();
        if layers.iter().flatten().all(Option::is_none) {
            let names: Vec<&str> = Projection::ALL.map(Projection::short).to_vec();
            return Err(Error::model(format!(
                "{place}: target_modules names no projection of the model; they are {}",
                names.join(", ")
            )));
        }
        Ok(Shape { layers, score: self.score })
    }

    /// The config that PEFT reads.
    pub fn to_json(&self, head: HeadKind) -> Map<String, Value> {
        let mut map = self.source.clone();
        let defaults = [
            ("auto_mapping", Value::Null),
            ("fan_in_fan_out", false.into()),
            ("init_lora_weights", true.into()),
            ("layers_pattern", Value::Null),
            ("layers_to_transform", Value::Null),
            ("revision", Value::Null),
            ("use_dora", false.into()),
        ];
        for (key, value) in defaults {
            map.entry(key).or_insert(value);
        }
        let mut set = |key: &str, value: Value| map.insert(key.to_string(), value);
        let whole = |x: f64| if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) };
        set("peft_type", "LORA".into());
        set("task_type", task(head).into());
        set("base_model_name_or_path", self.base.clone().map_or(Value::Null, Value::from));
        set("r", self.rank.into());
        set("lora_alpha", whole(self.alpha));
        set("lora_dropout", json!(self.dropout));
        set("use_rslora", self.rslora.into());
        set("bias", "none".into());
        set("inference_mode", true.into());
        set(
            "target_modules",
            match &self.targets {
                Targets::AllLinear => json!(Projection::ALL.map(Projection::short)),
                Targets::Names(names) => json!(names),
                Targets::Pattern(pattern) => json!(pattern),
            },
        );
        set("modules_to_save", if self.score { json!(["score"]) } else { Value::Null });
        set("rank_pattern", self.rank_pattern.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>().into());
        let alphas = self.alpha_pattern.iter().map(|(k, v)| (k.clone(), whole(*v)));
        set("alpha_pattern", alphas.collect::<Map<_, _>>().into());
        map.sort_keys();
        map
    }
}

fn task(head: HeadKind) -> &'static str {
    match head {
        HeadKind::LanguageModel => "CAUSAL_LM",
        HeadKind::Scalar => "SEQ_CLS",
    }
}

fn head(keys: &Keys) -> Result<Option<HeadKind>> {
    match keys.text("task_type")? {
        None => Ok(None),
        Some("CAUSAL_LM") => Ok(Some(HeadKind::LanguageModel)),
        Some("SEQ_CLS") => Ok(Some(HeadKind::Scalar)),
        Some(_) => Err(keys.wrong("task_type", "it must be CAUSAL_LM or SEQ_CLS")),
    }
}

/// What would change the numbers and is not implemented.
fn refuse(keys: &Keys) -> Result<()> {
    if keys.text("peft_type")? != Some("LORA") {
        return Err(keys.wrong("peft_type", "only LORA adapters are implemented"));
    }
    if !matches!(keys.text("bias")?, None | Some("none")) {
        return Err(keys.wrong("bias", "adapters that train biases are not implemented; it must be none"));
    }
    if keys
        .get("init_lora_weights")
        .and_then(Value::as_str)
        .is_some_and(|s| CHANGES_BASE.iter().any(|c| s.starts_with(c)))
    {
        let advice = "this way of starting changes the base's own weights; convert the adapter to plain LoRA first";
        return Err(keys.wrong("init_lora_weights", advice));
    }
    let says = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) => true,
    };
    // Without layers_to_transform, layers_pattern says nothing.
    let known = |key: &str| READ.contains(&key) || HISTORY.contains(&key);
    match keys.entries().find(|(key, value)| !known(key) && says(value)) {
        Some((key, _)) => Err(keys.wrong(key, "this variant of LoRA is not implemented")),
        None => Ok(()),
    }
}

fn targets(keys: &Keys) -> Result<Targets> {
    let wrong = || keys.wrong("target_modules", "it must be a list of names, a regular expression or \"all-linear\"");
    match keys.get("target_modules") {
        Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => Ok(Targets::AllLinear),
        Some(Value::String(text)) => Ok(Targets::Pattern(text.clone())),
        Some(list @ Value::Array(_)) => Ok(Targets::Names(names(list).ok_or_else(wrong)?)),
        _ => Err(wrong()),
    }
}

fn names(list: &Value) -> Option<Vec<String>> {
    list.as_array()?.iter().map(|name| name.as_str().map(String::from)).collect()
}

fn saves_score(keys: &Keys) -> Result<bool> {
    let Some(list) = keys.get("modules_to_save") else { return Ok(false) };
    let names = names(list).ok_or_else(|| keys.wrong("modules_to_save", "it must be a list of names"))?;
    match names.iter().find(|name| !["score", "classifier"].contains(&name.as_str())) {
        Some(_) => Err(keys.wrong("modules_to_save", "only the reward row, score, can be an adapter's own")),
        None => Ok(names.iter().any(|name| name == "score")),
    }
}

fn pattern<T>(keys: &Keys, key: &str, read: impl Fn(&Keys, &str) -> Result<Option<T>>) -> Result<Vec<(String, T)>> {
    let Some(value) = keys.get(key) else { return Ok(Vec::new()) };
    let wrong = || keys.wrong(key, "it must be an object of names and positive numbers");
    let Value::Object(map) = value else { return Err(wrong()) };
    let inner = Keys::new(map, key);
    map.keys().map(|name| Ok((name.clone(), read(&inner, name).ok().flatten().ok_or_else(wrong)?))).collect()
}

/// Python's regular expressions, lookaround included.
fn regex(pattern: &str) -> Result<Regex> {
    Regex::new(&format!(r"\A(?:{pattern})\z"))
        .map_err(|e| Error::model(format!("{pattern:?} is not a regular expression: {e}")))
}

/// Whether a module is meant, by its whole name.
type Matcher<'a> = Box<dyn Fn(&str) -> bool + 'a>;

impl Targets {
    /// Whether a module, by its whole name, is one of them.
    fn matcher(&self) -> Result<Matcher<'_>> {
        Ok(match self {
            Targets::AllLinear => Box::new(|_| true),
            Targets::Names(names) => Box::new(move |module| {
                let ends = |name: &String| {
                    module.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                };
                names.iter().any(ends)
            }),
            Targets::Pattern(pattern) => {
                let regex = regex(pattern)?;
                Box::new(move |module| regex.is_match(module).unwrap_or(false))
            }
        })
    }
}

/// Values by a pattern for the end of a module's name; the first that fits counts.
struct Patterns<T>(Vec<(Regex, T)>);

impl<T: Copy> Patterns<T> {
    fn new(of: &[(String, T)]) -> Result<Patterns<T>> {
        let one = |(pattern, value): &(String, T)| Ok((regex(&format!(r"(?:.*\.)?(?:{pattern})"))?, *value));
        of.iter().map(one).collect::<Result<Vec<_>>>().map(Patterns)
    }
    fn of(&self, module: &str) -> Option<T> {
        self.0.iter().find(|(regex, _)| regex.is_match(module).unwrap_or(false)).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Family;

    fn parse(more: &str) -> Result<Peft> {
        Peft::parse(
            &format!("{{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 16, {more}}}"),
            "adapter_config.json",
        )
    }

    /// Which projections of which layer have a pair, by the ends of their names.
    fn pairs(more: &str) -> Vec<String> {
        let shape = parse(more).unwrap().resolve(&Config::tiny(Family::Qwen3), "a").unwrap();
        let name = |(i, p): (usize, &[Option<Pair>; 7])| {
            let of = Projection::ALL.into_iter().zip(p);
            of.filter_map(|(q, pair)| pair.map(|p| format!("{i}.{} {}x{}", q.short(), p.rank, p.scale)))
                .collect::<Vec<_>>()
        };
        shape.layers.iter().enumerate().flat_map(name).collect()
    }

    #[test]
    fn targets_are_names_ends_of_names_patterns_or_all() {
        let q = ["0.q_proj 4x4", "1.q_proj 4x4"];
        assert_eq!(pairs("\"target_modules\": [\"q_proj\"]"), q);
        assert_eq!(pairs("\"target_modules\": [\"self_attn.q_proj\", \"proj\", \"k\"]"), q);
        assert_eq!(pairs("\"target_modules\": [\"model.layers.1.self_attn.q_proj\"]"), q[1..]);
        assert_eq!(pairs("\"target_modules\": \".*\\\\.(?!1)[0-9]+\\\\..*(q|k)_proj\""), [q[0], "0.k_proj 4x4"]);
        assert_eq!(pairs("\"target_modules\": \"all-linear\"").len(), 14);
    }

    #[test]
    fn ranks_and_alphas_may_differ_and_rslora_divides_by_the_root() {
        let more = "\"target_modules\": [\"q_proj\", \"up_proj\"], \"rank_pattern\": {\"layers.1.mlp.up_proj\": 16, \"up_proj\": 2}";
        assert_eq!(pairs(more), ["0.q_proj 4x4", "0.up_proj 2x8", "1.q_proj 4x4", "1.up_proj 16x1"]);
        let more =
            "\"target_modules\": [\"q_proj\"], \"use_rslora\": true, \"alpha_pattern\": {\"0.self_attn.q_proj\": 6}";
        assert_eq!(pairs(more), ["0.q_proj 4x3", "1.q_proj 4x8"]);
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        let targets = "\"target_modules\": [\"q_proj\"]";
        let cases = [
            ("\"use_dora\": true", "use_dora is true"),
            ("\"bias\": \"all\"", "bias is \"all\""),
            ("\"layers_to_transform\": [0]", "layers_to_transform is [0]"),
            ("\"fan_in_fan_out\": true", "fan_in_fan_out"),
            ("\"modules_to_save\": [\"lm_head\"]", "modules_to_save"),
            ("\"init_lora_weights\": \"pissa_niter_4\"", "init_lora_weights"),
            ("\"exclude_modules\": [\"k_proj\"]", "exclude_modules"),
            ("\"some_new_variant\": 1", "some_new_variant"),
            ("\"r\": 0", "r is 0"),
            ("\"task_type\": \"SEQ_2_SEQ_LM\"", "SEQ_2_SEQ_LM"),
            ("\"rank_pattern\": {\"q_proj\": -1}", "rank_pattern"),
        ];
        for (more, word) in cases {
            let error = parse(&format!("{targets}, {more}")).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("adapter_config.json"), "{error}");
        }
        assert!(Peft::parse("{\"peft_type\": \"IA3\"}", "a").unwrap_err().to_string().contains("IA3"));
        let resolve =
            |more: &str| parse(more).unwrap().resolve(&Config::tiny(Family::Llama), "a").unwrap_err().to_string();
        assert!(resolve("\"target_modules\": [\"q_proj\", \"lm_head\"]").contains("takes in lm_head"));
        assert!(resolve("\"target_modules\": [\"qkv_proj\"]").contains("names no projection"));
        assert!(resolve("\"target_modules\": \"(\"").contains("not a regular expression"));
    }

    #[test]
    fn what_is_written_reads_the_same_and_keeps_foreign_keys() {
        let more = "\"target_modules\": [\"q_proj\"], \"alpha_pattern\": {\"k\": 2.5}, \"peft_version\": \"0.9\", \"modules_to_save\": [\"score\"]";
        let peft = parse(more).unwrap();
        let map = peft.to_json(HeadKind::Scalar);
        let again = Peft::parse(&Value::from(map.clone()).to_string(), "b").unwrap();
        assert_eq!(map["peft_version"], "0.9");
        assert_eq!((map["lora_alpha"].to_string(), again.head), ("16".into(), Some(HeadKind::Scalar)));
        assert_eq!(Peft { source: Map::new(), head: None, ..again }, Peft { source: Map::new(), head: None, ..peft });
    }
}
