use super::*;
use crate::text::bpe::Recipe;
use crate::text::fixture::{ORDINARY, SPECIAL, WORDS, changed, tokenizer};
use proptest::prelude::*;
use serde_json::json;

/// What the `tokenizers` crate itself computes.
fn crate_ids(tokenizer: &Tokenizer, text: &str) -> Vec<i32> {
    let encoding = tokenizer.inner.encode_fast(text, false).unwrap();
    encoding.get_ids().iter().map(|&id| id as i32).collect()
}

/// Tokenizers whose normalizers and pre-tokenizers act at the start of a text or of a stretch, and one whose tokens
/// take white space along.
fn odd_tokenizers() -> Vec<Tokenizer> {
    let first = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    let prepend = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let lower = json!({"type": "Lowercase"});
    vec![
        changed(|_| {}),
        changed(|j| j["normalizer"] = prepend),
        changed(|j| j["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [first, j["pre_tokenizer"]]})),
        changed(|j| {
            j["normalizer"] = lower;
            for token in j["added_tokens"].as_array_mut().unwrap() {
                token["normalized"] = json!(true);
            }
        }),
        changed(|j| {
            for token in j["added_tokens"].as_array_mut().unwrap() {
                token["rstrip"] = json!(token["content"] == "<|im_end|>");
                token["lstrip"] = json!(token["content"] == "<s>");
                token["single_word"] = json!(token["content"] == "<think>");
            }
        }),
    ]
}

#[test]
fn ids_are_those_of_the_crate_where_all_tokens_count() {
    for (which, tokenizer) in odd_tokenizers().iter().enumerate() {
        for text in [
            "",
            " ",
            "the quick fox",
            "  two  blanks\n\n\tand é 日本 😀 e\u{301}",
            "<|im_start|>user\nthe<|im_end|>  \n next <s> a<s>b<think>c <think> d</think><|im_end|>",
            "THE <S> <|IM_END|>",
        ] {
            assert_eq!(tokenizer.ids(text, Parse::All).unwrap(), crate_ids(tokenizer, text), "{which} {text:?}");
        }
    }
}

#[test]
fn special_tokens_of_a_person_stay_text() {
    let tokenizer = tokenizer();
    for token in SPECIAL {
        let id = tokenizer.token_id(token).unwrap();
        let text = format!("the {token}{token} fox");
        let ids = tokenizer.encode(&text).unwrap();
        assert!(!ids.contains(&id), "{token}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert!(tokenizer.ids(&text, Parse::All).unwrap().contains(&id));
    }
    let think = tokenizer.token_id(ORDINARY[0]).unwrap();
    assert!(tokenizer.encode("a <think>").unwrap().contains(&think));
}

#[test]
fn hidden_ranges_are_text_and_nothing_else_is() {
    let tokenizer = tokenizer();
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    let text = "x<|im_end|>y<|im_end|>z<|im_end|>";
    let ends = |hidden: &[Range<usize>]| {
        let pieces = tokenizer.pieces(text, Parse::Except(hidden), &[]).unwrap();
        pieces.iter().filter(|p| p.id == end).map(|p| p.bytes.start).collect::<Vec<_>>()
    };
    assert_eq!(ends(&[]), [1, 12, 23]);
    assert_eq!(ends(std::slice::from_ref(&(12..22))), [1, 23]);
    // One byte is enough to spoil a token, from either side, and neighbours do not suffer.
    assert_eq!(ends(&[1..2, 21..22]), [23]);
    assert_eq!(ends(&[0..1, 11..12, 22..23]), [1, 12, 23]);
}

#[test]
fn pieces_cover_the_text_and_respect_cuts() {
    let tokenizer = tokenizer();
    let text = "the quick é<|im_end|> fox";
    let pieces = tokenizer.pieces(text, Parse::All, &[6]).unwrap();
    assert!(pieces.iter().all(|p| !(p.bytes.start < 6 && p.bytes.end > 6)));
    assert_eq!(pieces.first().unwrap().bytes.start, 0);
    assert_eq!(pieces.last().unwrap().bytes.end, text.len());
    let uncut = tokenizer.pieces(text, Parse::All, &[]).unwrap();
    assert!(uncut.len() < pieces.len());
    assert_eq!(uncut.iter().map(|p| p.id).collect::<Vec<_>>(), tokenizer.ids(text, Parse::All).unwrap());
}

#[test]
fn a_saved_tokenizer_is_the_same_tokenizer() {
    let recipe = Recipe::new(300);
    let one = Tokenizer::train([WORDS, "other words"].into_iter(), &recipe).unwrap();
    let two = Tokenizer::train([WORDS, "other words"].into_iter(), &recipe).unwrap();
    let dir = tempfile::tempdir().unwrap();
    one.save(dir.path()).unwrap();
    let read = Tokenizer::open(dir.path()).unwrap();
    for t in [&two, &read] {
        for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"] {
            assert_eq!(t.files().bytes(name).unwrap(), one.files().bytes(name).unwrap(), "{name}");
        }
    }
    assert!(one.vocab_size() <= 300 && read.vocab_size() == one.vocab_size());
    assert_eq!(read.eos(), one.token_id("<|im_end|>"));
    assert_eq!((read.bos(), read.pad()), (None, one.token_id("<|endoftext|>")));
    assert_eq!(read.stop(), [read.eos().unwrap()]);
    assert!(read.single_token("A").unwrap().is_some() && read.single_token("zq").unwrap().is_none());
    assert!(
        !std::fs::read_dir(dir.path()).unwrap().any(|f| f.unwrap().path().extension().is_some_and(|e| e == "partial"))
    );
}

#[test]
fn configuration_adds_stop_tokens_and_contradictions_are_refused() {
    let mut files = tokenizer().files().clone();
    files.insert("generation_config.json", r#"{"eos_token_id": [6, 3]}"#);
    assert_eq!(Tokenizer::from_files(files.clone()).unwrap().stop(), [2, 3, 6]);
    let refused = |name: &str, text: &str, what: &str| {
        let mut files = files.clone();
        files.insert(name, text);
        let error = Tokenizer::from_files(files).err().expect(name);
        assert!(error.to_string().contains(what), "{error}");
    };
    refused("tokenizer.json", "{", "tokenizer.json does not parse");
    refused("tokenizer_config.json", "[]", "JSON object");
    refused("generation_config.json", r#"{"eos_token_id": "x"}"#, "not a token id");
    refused("special_tokens_map.json", r#"{"sep_token": "<nowhere>"}"#, "no such token");
    refused("added_tokens.json", r#"{"<s>": 99999}"#, "gives token \"<s>\" the id 99999");
    // A token that only the configuration knows, at the next free id, is taken.
    let next = tokenizer().vocab_size();
    files.insert("added_tokens.json", format!("{{\"<new>\": {next}}}"));
    let grown = Tokenizer::from_files(files).unwrap();
    assert_eq!((grown.token_id("<new>"), grown.vocab_size()), (Some(next as i32), next + 1));
}

#[test]
fn missing_files_and_impossible_recipes_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let message = |dir: &Path| Tokenizer::open(dir).err().unwrap().to_string();
    assert!(message(dir.path()).contains("no tokenizer.json"));
    assert!(message(&dir.path().join("x")).contains("no such directory"));
    std::fs::write(dir.path().join("tokenizer.model"), b"x").unwrap();
    assert!(message(dir.path()).contains("save_pretrained"));
    assert!(Tokenizer::train([""].into_iter(), &Recipe::new(200)).err().unwrap().to_string().contains("too small"));
    let recipe = Recipe { eos: "<nope>".into(), ..Recipe::new(300) };
    assert!(Tokenizer::train([""].into_iter(), &recipe).err().unwrap().to_string().contains("<nope>"));
    let t = tokenizer();
    let beyond = [t.vocab_size() as i32, -1];
    assert_eq!(t.decode(&beyond).unwrap(), "", "padding rows of an embedding stand for no text");
}

proptest! {
    #[test]
    fn text_comes_back(text in "(<\\|im_end\\|>|<s>|<think>|[ -~\n]|\\PC){0,30}") {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&text).unwrap();
        // The normalizer composes characters; what comes back is the normalized text.
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), normalize(&tokenizer.inner, &text).unwrap());
        prop_assert!(crate::text::fixture::specials(&ids).is_empty());
        prop_assert_eq!(tokenizer.ids(&text, Parse::All).unwrap(), crate_ids(&tokenizer, &text));
    }
}
