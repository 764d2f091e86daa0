//! The row formats that preference data comes in, how one is recognised, and what its rows mean.
//!
//! A format is recognised by the columns of a file's first row (GRAM's own two, which share LLaMA-Factory's columns, by
//! their markers), in the fixed order of [`Format::ALL`], so the same file always reads the same way.

use std::fmt;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::text::example::{Example, Reason, Side, Why};
use crate::text::message::Message;
use crate::text::rows::{is_ranked_output, prompt_column, response_columns, side, texts};

/// How the rows of a file are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// `conv_A`, `conv_B`, `conv_A_rating`, `conv_B_rating`.
    UnifiedFeedback,
    /// `context`, `response1`, `response2`, `overall_preference` in -3..3, negative where the first is better; and
    /// `individual_preference`: what each annotator wrote.
    HelpSteer3,
    /// `prompt`, `response_a`, `response_b` (or `_1`, `_2`; `_A`, `_B`) and perhaps `label`: A, B, A>B, B>A, tie;
    /// with a label, perhaps `rationale`.
    Responses,
    /// `prompt`, `responses`: a list of texts.
    Group,
    /// `conversations`, `chosen`, `rejected`: messages `{"from", "value"}` (LLaMA-Factory).
    ShareGptPreference,
    /// `instruction`, `input`, `chosen`, `rejected` (LLaMA-Factory).
    AlpacaPreference,
    /// `prompt`, `chosen`, `rejected` with lists of texts on both sides: every chosen one beats every rejected one.
    Lists,
    /// `chosen`, `rejected` as message lists with `score_chosen`, `score_rejected`.
    UltraFeedback,
    /// `chosen`, `rejected`, `prompt` or none (their common beginning), `margin` or none (TRL, OpenRLHF, Skywork).
    Preference,
    /// `prompt`, `completion`, `label`: a truth value (TRL).
    Unpaired,
    /// `prompt`, `completion`.
    PromptCompletion,
    /// `instruction`, `output`: GRAM's pre-training rows, told by their markers.
    GramPretraining,
    /// `instruction`, `output`: GRAM's fine-tuning rows, a judge prompt and A or B.
    GramVerdict,
    /// `instruction`, `input`, `output` (LLaMA-Factory).
    Alpaca,
    /// `conversations` of `{"from", "value"}` that end with the assistant.
    ShareGpt,
    /// `messages` of `{"role", "content"}` that end with the assistant.
    Messages,
}

/// What one row comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Keep(Example),
    Drop(Reason),
    /// Two responses of which one is better, in the row's own order.
    Compared {
        prompt: Vec<Message>,
        a: String,
        b: String,
        better: Side,
    },
    /// As `Compared`, and why.
    Reasoned {
        prompt: Vec<Message>,
        a: String,
        b: String,
        better: Side,
        why: Why,
    },
    /// Two responses of which neither is better.
    Tied {
        prompt: Vec<Message>,
        a: String,
        b: String,
    },
    /// A completion judged by itself; it becomes half of a pair.
    Rated {
        prompt: Vec<Message>,
        completion: String,
        good: bool,
    },
}

type Object = Map<String, Value>;

impl Format {
    /// All formats, in the order in which they are tried.
    pub const ALL: [Format; 16] = [
        Format::UnifiedFeedback,
        Format::HelpSteer3,
        Format::Responses,
        Format::Group,
        Format::ShareGptPreference,
        Format::AlpacaPreference,
        Format::Lists,
        Format::UltraFeedback,
        Format::Preference,
        Format::Unpaired,
        Format::PromptCompletion,
        Format::GramPretraining,
        Format::GramVerdict,
        Format::Alpaca,
        Format::ShareGpt,
        Format::Messages,
    ];

    /// The name by which a format can be asked for.
    pub fn name(self) -> &'static str {
        match self {
            Format::UnifiedFeedback => "unified-feedback",
            Format::HelpSteer3 => "helpsteer3",
            Format::Responses => "responses",
            Format::Group => "group",
            Format::ShareGptPreference => "sharegpt-preference",
            Format::AlpacaPreference => "alpaca-preference",
            Format::Lists => "lists",
            Format::UltraFeedback => "ultrafeedback",
            Format::Preference => "preference",
            Format::Unpaired => "unpaired",
            Format::PromptCompletion => "prompt-completion",
            Format::GramPretraining => "gram-pretraining",
            Format::GramVerdict => "gram-verdict",
            Format::Alpaca => "alpaca",
            Format::ShareGpt => "sharegpt",
            Format::Messages => "messages",
        }
    }

    /// The format of that name.
    pub fn parse(name: &str) -> Result<Format> {
        Self::ALL.into_iter().find(|f| f.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|f| f.name()).collect();
            Error::usage(format!("there is no dataset format {name:?}; the formats are {}", names.join(", ")))
        })
    }

    /// The format of a file that begins with this row.
    pub fn detect(row: &Object) -> Result<Format> {
        Self::ALL.into_iter().find(|f| f.fits(row)).ok_or_else(|| {
            let columns: Vec<&str> = row.keys().map(String::as_str).collect();
            Error::data(format!(
                "the columns [{}] fit no known dataset format; name the format, or say which columns are which, \
                 for example prompt=COLUMN chosen=COLUMN rejected=COLUMN",
                columns.join(", ")
            ))
        })
    }

    fn fits(self, row: &Object) -> bool {
        let has = |names: &[&str]| names.iter().all(|n| row.contains_key(*n));
        let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or("");
        match self {
            Format::UnifiedFeedback => has(&["conv_A", "conv_B"]),
            Format::HelpSteer3 => has(&["context", "response1", "response2"]),
            Format::Responses => response_columns(row).is_some() && prompt_column(row).is_some(),
            Format::Group => has(&["prompt", "responses"]),
            Format::ShareGptPreference => has(&["conversations", "chosen", "rejected"]),
            Format::AlpacaPreference => has(&["instruction", "chosen", "rejected"]) || is_ranked_output(row),
            Format::Lists => {
                has(&["prompt"]) && texts(row.get("chosen")).is_some() && texts(row.get("rejected")).is_some()
            }
            Format::UltraFeedback => has(&["chosen", "rejected", "score_chosen", "score_rejected"]),
            Format::Preference => has(&["chosen", "rejected"]),
            Format::Unpaired => has(&["prompt", "completion", "label"]),
            Format::PromptCompletion => has(&["prompt", "completion"]),
            Format::GramPretraining => {
                text("instruction").starts_with("[User Question]\n")
                    && text("output").starts_with("[The Start of Assistant A's Answer]\n")
            }
            Format::GramVerdict => {
                text("instruction").contains("[The Start of Assistant A's ") && side(text("output")).is_some()
            }
            Format::Alpaca => has(&["instruction", "output"]),
            Format::ShareGpt => has(&["conversations"]),
            Format::Messages => has(&["messages"]),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(row: Value) -> (Format, Vec<Outcome>) {
        let row = row.as_object().unwrap().clone();
        let format = Format::detect(&row).unwrap();
        (format, format.read(&row).unwrap())
    }

    fn u(text: &str) -> Value {
        json!({"role": "user", "content": text})
    }
    fn a(text: &str) -> Value {
        json!({"role": "assistant", "content": text})
    }
    fn pair(prompt: Vec<Message>, chosen: &str, rejected: &str) -> Vec<Outcome> {
        vec![Outcome::Keep(Example::Pair { prompt, chosen: chosen.into(), rejected: rejected.into(), margin: None })]
    }
    fn completion(prompt: Vec<Message>, completion: &str) -> Vec<Outcome> {
        vec![Outcome::Keep(Example::Completion { prompt, completion: completion.into() })]
    }
    fn user() -> Vec<Message> {
        vec![Message::user("q")]
    }

    #[test]
    fn preference_rows_of_every_layout_are_the_same_pair() {
        let turn = |from: &str, value: &str| json!({"from": from, "value": value});
        for (format, row) in [
            (Format::Preference, json!({"prompt": "q", "chosen": "c", "rejected": "r"})),
            (Format::Preference, json!({"prompt": [u("q")], "chosen": [a("c")], "rejected": [a("r")], "margin": null})),
            (Format::Preference, json!({"prompt": "q", "chosen": [u("q"), a("c")], "rejected": [u("q"), a("r")]})),
            (Format::Preference, json!({"chosen": [u("q"), a("c")], "rejected": [u("q"), a("r")], "source": "s"})),
            (Format::Preference, json!({"chosen": "qc", "rejected": "qr"})),
            (
                Format::UltraFeedback,
                json!({"prompt": "q", "prompt_id": "1", "chosen": [u("q"), a("c")], "rejected": [u("q"), a("r")],
                       "score_chosen": 8.0, "score_rejected": 3.5}),
            ),
            (Format::AlpacaPreference, json!({"instruction": "q", "input": "", "chosen": "c", "rejected": "r"})),
            (Format::AlpacaPreference, json!({"instruction": "q", "input": "", "output": ["c", "r"]})),
            (
                Format::ShareGptPreference,
                json!({"conversations": [turn("human", "q")], "chosen": turn("gpt", "c"), "rejected": turn("gpt", "r")}),
            ),
            (Format::Lists, json!({"prompt": "q", "chosen": ["c"], "rejected": ["r"]})),
        ] {
            assert_eq!(read(row.clone()), (format, pair(user(), "c", "r")), "{row}");
        }
    }

    #[test]
    fn details_of_preference_rows() {
        let (_, out) = read(json!({"prompt": "q", "chosen": "c", "rejected": "r", "margin": 1.5}));
        assert!(matches!(&out[..], [Outcome::Keep(Example::Pair { margin: Some(m), .. })] if *m == 1.5));
        let (_, out) = read(json!({"chosen": "Say it now", "rejected": "Say it then"}));
        assert_eq!(out, pair(vec![Message::user("Say it")], " now", " then"));
        let (_, out) = read(json!({"chosen": [u("q"), a("x"), u("y"), a("z")], "rejected": [u("q"), a("r")]}));
        assert_eq!(out, [Outcome::Drop(Reason::SeveralTurns)]);
        let (_, out) = read(json!({"prompt": "q", "chosen": ["c", "d"], "rejected": ["r", "s", "t"]}));
        assert_eq!(out.len(), 6);
        let (_, out) = read(json!({"chosen": [u("q"), a("c")], "rejected": [u("q"), a("r")],
                                   "score_chosen": 5, "score_rejected": 5.0}));
        assert!(matches!(&out[..], [Outcome::Tied { .. }]));
        let history = json!({"instruction": "q", "input": "i", "system": "s", "history": [["x", "y"]], "output": "c"});
        let turns = vec![Message::system("s"), Message::user("x"), Message::assistant("y"), Message::user("q\ni")];
        assert_eq!(read(history), (Format::Alpaca, completion(turns, "c")));
    }

    #[test]
    fn rows_with_a_label_say_which_side_is_better() {
        let compared = |better| vec![Outcome::Compared { prompt: user(), a: "x".into(), b: "y".into(), better }];
        let two = |label: Value| json!({"id": 7, "prompt": "q", "response_a": "x", "response_b": "y", "label": label});
        assert_eq!(read(two(json!("A"))), (Format::Responses, compared(Side::A)));
        assert_eq!(read(two(json!("B>A"))).1, compared(Side::B));
        assert!(matches!(read(two(json!("tie (bothbad)"))).1[..], [Outcome::Tied { .. }]));
        assert!(matches!(read(two(Value::Null)).1[..], [Outcome::Keep(Example::Unlabelled { .. })]));
        let judgebench = json!({"pair_id": "p", "question": "q", "response_A": "x", "response_B": "y", "label": "A>B"});
        assert_eq!(read(judgebench).1, compared(Side::A));
        let arena = json!({"prompt": "q", "response_1": "x", "response_2": "y", "winner": "model_b"});
        assert_eq!(read(arena).1, compared(Side::B));
        // HelpSteer3: negative means that the first is better.
        let steer = |p: Value| json!({"domain": "d", "context": [u("q")], "response1": "x", "response2": "y", "overall_preference": p});
        assert_eq!(read(steer(json!(-1))), (Format::HelpSteer3, compared(Side::A)));
        assert_eq!(read(steer(json!(3))).1, compared(Side::B));
        assert!(matches!(read(steer(json!(0))).1[..], [Outcome::Tied { .. }]));
        let unified = |x: f64, y: f64| json!({"conv_A": [u("q"), a("x")], "conv_B": [u("q"), a("y")], "conv_A_rating": x, "conv_B_rating": y});
        assert_eq!(read(unified(2.0, 1.0)), (Format::UnifiedFeedback, compared(Side::A)));
        assert_eq!(read(unified(0.0, 1.0)).1, compared(Side::B));
        assert!(matches!(read(unified(1.0, 1.0)).1[..], [Outcome::Tied { .. }]));
    }

    #[test]
    fn completions_judged_prompts_and_groups() {
        let done = completion(user(), "c");
        assert_eq!(read(json!({"prompt": "q", "completion": "c"})), (Format::PromptCompletion, done.clone()));
        assert_eq!(read(json!({"instruction": "q", "input": "", "output": "c"})), (Format::Alpaca, done.clone()));
        assert_eq!(read(json!({"messages": [u("q"), a("c")]})), (Format::Messages, done.clone()));
        let turns = json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": "c"}]);
        assert_eq!(read(json!({"conversations": turns})), (Format::ShareGpt, done));
        let rated = Outcome::Rated { prompt: user(), completion: "c".into(), good: true };
        assert_eq!(read(json!({"prompt": "q", "completion": "c", "label": true})), (Format::Unpaired, vec![rated]));

        let output = "[The Start of Assistant A's Answer]\nx[The End of Assistant A's Answer]";
        let (format, out) = read(json!({"instruction": "[User Question]\nq\n\n", "input": "", "output": output}));
        assert_eq!(
            (format, out),
            (Format::GramPretraining, completion(vec![Message::user("[User Question]\nq\n\n")], output))
        );
        let judge = crate::text::template::JudgeTemplate::verdict().fill("q", "x", "y");
        let (format, out) = read(json!({"instruction": judge, "input": "", "output": "B"}));
        assert_eq!(format, Format::GramVerdict);
        assert_eq!(out, [Outcome::Keep(Example::Judged { prompt: judge, label: Side::B })]);
        let (format, out) = read(json!({"id": "g", "prompt": "q", "responses": ["x", "y", "z"]}));
        assert_eq!(format, Format::Group);
        assert!(matches!(&out[..], [Outcome::Keep(Example::Group { responses, .. })] if responses.len() == 3));
    }

    #[test]
    fn rows_of_another_format_are_errors_and_unknown_columns_are_listed() {
        for (format, row) in [
            (Format::Preference, json!({"prompt": "q", "chosen": "c"})),
            (Format::Preference, json!({"prompt": "q", "chosen": 3, "rejected": "r"})),
            (Format::Preference, json!({"prompt": "q", "chosen": "c", "rejected": "r", "margin": "big"})),
            (Format::Responses, json!({"prompt": "q", "response_a": "x", "response_b": "y", "label": 1})),
            (Format::Responses, json!({"prompt": "q", "response_a": "x", "response_b": null})),
            (Format::Responses, json!({"prompt": "q"})),
            (Format::GramVerdict, json!({"instruction": "q", "output": "C"})),
            (Format::Unpaired, json!({"prompt": "q", "completion": "c", "label": "yes"})),
            (Format::Messages, json!({"messages": [u("q")]})),
            (Format::Group, json!({"prompt": "q", "responses": []})),
            (Format::Alpaca, json!({"instruction": "q", "input": 3, "output": "c"})),
            (Format::Lists, json!({"prompt": "q", "chosen": [], "rejected": ["r"]})),
        ] {
            assert!(format.read(row.as_object().unwrap()).is_err(), "{format} {row}");
        }
        let error = Format::detect(json!({"foo": 1, "bar": 2}).as_object().unwrap()).unwrap_err().to_string();
        assert!(error.contains("[foo, bar]") && error.contains("prompt=COLUMN"), "{error}");
        for format in Format::ALL {
            assert_eq!(Format::parse(format.name()).unwrap(), format);
        }
        assert!(Format::parse("csv").unwrap_err().to_string().contains("preference"));
    }
}
