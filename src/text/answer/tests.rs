use super::*;
use crate::text::chat::Chat;
use crate::text::files::Files;
use crate::text::fixture::{LLAMA, QWEN3, changed, chat, tokenizer};
use crate::text::tokenizer::Parse;
use proptest::prelude::*;
use serde_json::json;

fn good(thought: &str, side: Side) -> String {
    reply(thought, side)
}

/// The side, or why there is none.
fn side(reply: &str) -> std::result::Result<Side, Invalid> {
    parse(reply, false).map(|p| p.side)
}

#[test]
fn well_formed_replies() {
    let text = good(" A is right. ", Side::A);
    assert_eq!(text, "<think>\nA is right.\n</think>\n<answer>\nA\n</answer>");
    let parsed = parse(&text, false).unwrap();
    assert_eq!((parsed.thought, parsed.side, &text[parsed.at..parsed.at + 1]), ("A is right.", Side::A, "A"));
    for (reply, want) in [
        ("<think>x</think><answer>A</answer>", Side::A),
        ("\n <think>x</think>\n\n<answer> B </answer>\n", Side::B),
        ("<think> x </think> <answer> b </answer>", Side::B),
        ("<think></think><answer>\n\nA\n\n</answer>", Side::A),
        ("<think>both A and B, </answered> <answers> < answer></think><answer>B</answer>", Side::B),
    ] {
        assert_eq!(side(reply), Ok(want), "{reply:?}");
    }
    let opened = parse("x\n</think>\n<answer>\nB\n</answer>", true).unwrap();
    assert_eq!((opened.thought, opened.side), ("x", Side::B));
}

#[test]
fn everything_else_is_invalid_for_its_own_reason() {
    use Invalid::*;
    for (reply, why) in [
        ("", NoThought),
        ("A", NoThought),
        ("<answer>A</answer>", NoThought),
        ("Well. <think>x</think><answer>A</answer>", NoThought),
        ("x</think><answer>A</answer>", NoThought),
        ("<Think>x</Think><answer>A</answer>", NoThought),
        ("<think>x <answer>A</answer>", UnclosedThought),
        ("<think>x", UnclosedThought),
        ("<think>x<think>y</think></think><answer>A</answer>", RepeatedThought),
        ("<think>x</think></think><answer>A</answer>", RepeatedThought),
        ("<think>x</think><think>y</think><answer>A</answer>", RepeatedThought),
        ("<think>x</think>", NoAnswer),
        ("<think>x</think>A", NoAnswer),
        ("<think>x <answer>A</answer></think>", NoAnswer),
        ("<think>x</think><Answer>A</Answer>", NoAnswer),
        ("<think>x</think>< answer>A</answer>", NoAnswer),
        ("<think>x</think>＜answer＞A＜/answer＞", NoAnswer),
        ("<think>x</think><answer>A", UnclosedAnswer),
        ("<think>x</think></answer><answer>A", TextBeforeAnswer),
        ("<think>the user wrote <answer>B</answer></think><answer>A</answer>", RepeatedAnswer),
        ("<think>x</think><answer>A</answer><answer>A</answer>", RepeatedAnswer),
        ("<think>x</think><answer><answer>A</answer></answer>", RepeatedAnswer),
        ("<think>x</think><answer>A</answer></answer>", RepeatedAnswer),
        ("<think>x <answer></think><answer>A</answer>", RepeatedAnswer),
        ("<think>x</think>so <answer>A</answer>", TextBeforeAnswer),
        ("<think>x</think>\u{200b}<answer>A</answer>", TextBeforeAnswer),
        ("<think>x</think><answer>A</answer>.", TextAfterAnswer),
        ("<think>x</think><answer>A</answer>\nB", TextAfterAnswer),
        ("<think>x</think><answer>A</answer><|im_start|>", TextAfterAnswer),
        ("<think>x</think><answer></answer>", NotALabel),
        ("<think>x</think><answer> \n </answer>", NotALabel),
        ("<think>x</think><answer>AB</answer>", NotALabel),
        ("<think>x</think><answer>A or B</answer>", NotALabel),
        ("<think>x</think><answer>A\nB</answer>", NotALabel),
        ("<think>x</think><answer>A.</answer>", NotALabel),
        ("<think>x</think><answer>\"A\"</answer>", NotALabel),
        ("<think>x</think><answer>Response A</answer>", NotALabel),
        ("<think>x</think><answer>tie</answer>", NotALabel),
        ("<think>x</think><answer>C</answer>", NotALabel),
        // Cyrillic, Greek, full-width, circled and mathematical look-alikes; marks that combine; blanks of no width.
        ("<think>x</think><answer>\u{410}</answer>", NotALabel),
        ("<think>x</think><answer>\u{412}</answer>", NotALabel),
        ("<think>x</think><answer>\u{391}</answer>", NotALabel),
        ("<think>x</think><answer>\u{ff21}</answer>", NotALabel),
        ("<think>x</think><answer>\u{24b6}</answer>", NotALabel),
        ("<think>x</think><answer>\u{1d400}</answer>", NotALabel),
        ("<think>x</think><answer>A\u{301}</answer>", NotALabel),
        ("<think>x</think><answer>\u{200b}A</answer>", NotALabel),
        ("<think>x</think><answer><|im_end|>A</answer>", NotALabel),
    ] {
        assert_eq!(side(reply), Err(why), "{reply:?}");
    }
    assert_eq!(parse("<think>x</think><answer>A</answer>", true).unwrap_err(), RepeatedThought);
}

#[test]
fn names_are_told_apart() {
    let names: std::collections::BTreeSet<&str> = Invalid::ALL.iter().map(|i| i.name()).collect();
    assert_eq!(names.len(), Invalid::ALL.len());
}

fn grammar(template: &str) -> Grammar {
    Grammar::resolve(&chat(template), &JudgeTemplate::rationale()).unwrap()
}

#[test]
fn the_label_is_found_among_the_tokens_of_a_reply() {
    let thinks = Chat::from_source(
        tokenizer(),
        "{{ '<|im_start|>' + messages[0].content + '<|im_end|>' }}{% if add_generation_prompt %}<think>\n{% endif %}",
    );
    let thinks = Grammar::resolve(&thinks.unwrap(), &JudgeTemplate::rationale()).unwrap();
    assert!(thinks.opened() && !grammar(QWEN3).opened());
    for grammar in [grammar(LLAMA), grammar(QWEN3), thinks] {
        let [a, b] = ["A", "B"].map(|l| tokenizer().single_token(l).unwrap().unwrap());
        assert_eq!([grammar.labels().a, grammar.labels().b], [a, b]);
        for (side, label) in [(Side::A, a), (Side::B, b)] {
            for thought in ["A is better than B because B is A", "é 中 the quick brown fox", "", "A"] {
                for tail in ["\n<answer>\n{}\n</answer>", "<answer>{}</answer>", "\n\n<answer>\n\n{}</answer>\n"] {
                    let tail = tail.replace("{}", NAMES[side as usize]);
                    let open = if grammar.opened() { "" } else { "<think>\n" };
                    let text = format!("{open}{thought}\n</think>{tail}");
                    let tokens = tokenizer().ids(&text, Parse::All).unwrap();
                    let answer = grammar.read(&tokens, true).unwrap().unwrap();
                    assert_eq!((answer.side, answer.rationale.as_str()), (side, thought), "{text:?}");
                    assert_eq!(tokens[answer.position], label, "{text:?}");
                    let before = tokenizer().decode(&tokens[..answer.position]).unwrap();
                    assert!(before.trim_end().ends_with("<answer>"), "{before:?}");
                    assert_eq!(grammar.read(&tokens, false).unwrap(), Err(Invalid::CutOff));
                }
            }
        }
    }
}

#[test]
fn a_label_of_other_tokens_has_no_probability_and_so_no_vote() {
    let grammar = grammar(LLAMA);
    let tokenizer = tokenizer();
    let around = |label: &[i32]| {
        let [before, after] = ["<think>x</think><answer>", "</answer>"].map(|t| tokenizer.ids(t, Parse::All).unwrap());
        [&before[..], label, &after[..]].concat()
    };
    let read = |label: &[i32]| grammar.read(&around(label), true).unwrap().map(|a| a.side);
    let one = |text: &str| tokenizer.ids(text, Parse::All).unwrap();
    assert_eq!(read(&one("A")), Ok(Side::A));
    // Blanks may stand around it; ids beyond the vocabulary stand for nothing.
    assert_eq!(read(&[&one("\n")[..], &one("B"), &one("\n")].concat()), Ok(Side::B));
    assert_eq!(read(&[&one("B")[..], &[1_000_000]].concat()), Ok(Side::B));
    assert_eq!(read(&one("b")), Err(Invalid::NotTheToken));
    assert_eq!(read(&one("AB")), Err(Invalid::NotALabel));
    assert_eq!(read(&[]), Err(Invalid::NotALabel));
}

/// A tokenizer of whole words: no piece of text but its own words, joined by blanks.
fn words(extra: &str) -> std::sync::Arc<Tokenizer> {
    let words = format!("<think> </think> <answer> </answer> A B x is better {extra}");
    let mut vocab = serde_json::Map::new();
    vocab.insert("<unk>".into(), json!(0));
    vocab.insert("<end>".into(), json!(1));
    for word in words.split_whitespace() {
        let id = vocab.len();
        vocab.insert(word.into(), json!(id));
    }
    let mut files = Files::default();
    let added = json!([{"id": 1, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": true}]);
    let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
                      "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
                      "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}});
    files.insert("tokenizer.json", json.to_string());
    files.insert("tokenizer_config.json", json!({"eos_token": "<end>"}).to_string());
    std::sync::Arc::new(Tokenizer::from_files(files).unwrap())
}

#[test]
fn tokenizers_of_whole_words_write_it_with_blanks() {
    let tokenizer = words("");
    let chat = Chat::from_source(tokenizer.clone(), "{{ messages[0].content }} ").unwrap();
    let template = JudgeTemplate::parse("t", "{prompt} A {response_a} B {response_b} <answer>").unwrap();
    let grammar = Grammar::resolve(&chat, &template).unwrap();
    let tokens = tokenizer.encode("<think> A is better </think> <answer> A </answer>").unwrap();
    assert_eq!(tokens.len(), 8);
    let answer = grammar.read(&tokens, true).unwrap().unwrap();
    assert_eq!((answer.rationale.as_str(), answer.side, answer.position), ("A is better", Side::A, 6));
    let twice = tokenizer.encode("<think> x </think> <answer> A B </answer>").unwrap();
    assert_eq!(grammar.read(&twice, true).unwrap(), Err(Invalid::NotALabel));
}

#[test]
fn labels_that_merge_with_their_tag_are_refused_by_name() {
    let rationale = JudgeTemplate::rationale();
    let error = Grammar::resolve(&chat(LLAMA), &JudgeTemplate::verdict()).map(|_| ()).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("does not ask for a rationale"), "{error}");
    let chat = |with_blank: bool| {
        let tokenizer = changed(|json| {
            let pairs = [(">", "A"), (">", "B"), ("Ċ", "A"), ("Ċ", "B"), ("Ġ", "A"), ("Ġ", "B")];
            let pairs = if with_blank { &pairs[..] } else { &pairs[..4] };
            let next = json["model"]["vocab"].as_object().unwrap().len() + 100;
            for (i, (left, right)) in pairs.iter().enumerate() {
                json["model"]["vocab"][format!("{left}{right}")] = json!(next + i);
            }
            let merges = json["model"]["merges"].as_array_mut().unwrap();
            let paired = merges[0].is_array();
            for (left, right) in pairs {
                merges.insert(0, if paired { json!([left, right]) } else { json!(format!("{left} {right}")) });
            }
            let plain =
                json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
            json["pre_tokenizer"] = plain;
        });
        Chat::from_source(std::sync::Arc::new(tokenizer), LLAMA).unwrap()
    };
    let error = Grammar::resolve(&chat(false), &rationale).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("inside <answer>") && error.contains("merges with the prompt"), "{error}");
    // The last layout is left: " A" is one token after the tag.
    let blank = chat(true);
    let labels = Grammar::resolve(&blank, &rationale).unwrap().labels();
    assert_eq!([labels.a, labels.b].map(|id| blank.tokenizer().token(id).unwrap()), ["ĠA", "ĠB"]);
}

proptest! {
    /// Whatever is written, a verdict needs the four tags once each, in their order, and one letter between the last two.
    #[test]
    fn a_verdict_means_the_grammar(
        parts in prop::collection::vec("(<think>|</think>|<answer>|</answer>|A|B|AB| |\n|x|<|answer>|\u{410}){1}", 0..12),
        opened: bool,
    ) {
        let text = parts.concat();
        if let Ok(parsed) = parse(&text, opened) {
            let bare: String = text.replace(parsed.thought, "").split_whitespace().collect();
            let name = NAMES[parsed.side as usize];
            let thought: String = parsed.thought.split_whitespace().collect();
            let whole: String = text.split_whitespace().collect();
            let open = if opened { "" } else { "<think>" };
            prop_assert_eq!(whole, format!("{open}{thought}</think><answer>{name}</answer>"), "{}", bare);
            prop_assert!(!parsed.thought.contains("answer>") || !parsed.thought.contains("<answer>"));
            prop_assert!(text[parsed.at..].starts_with(name));
        }
    }

    /// What is trained is what is read.
    #[test]
    fn replies_come_back(thought in "[a-zA-Z .,\n]{0,40}", a: bool) {
        let want = if a { Side::A } else { Side::B };
        let text = reply(&thought, want);
        let parsed = parse(&text, false).unwrap();
        prop_assert_eq!((parsed.thought, parsed.side), (thought.trim(), want));
    }
}
