//! Text is what transformers makes of it (`tests/golden/`): rendered templates to the byte, ids one by one.

use crate::fixture::{Rendering, conversations, language, scalar};
use gramophone::text::chat::{Chat, Ending};
use gramophone::text::message::Message;
use serde_json::Value;

#[test]
fn renderings_and_their_ids() {
    let (conversations, mut compared) = (conversations(), 0);
    for case in language() {
        for theirs in &case.expected.rendered {
            let place = format!("{} {} {:?}", case.name, theirs.conversation, theirs.options);
            let (chat, ending) = options(case.chat(&case.expected.date), theirs);
            let messages = &conversations[&theirs.conversation];
            let ours = match (&theirs.error, chat.render(messages, ending)) {
                (None, Ok(ours)) => ours,
                (Some(theirs), Err(ours)) if ours.to_string().contains(theirs) => continue,
                (_, ours) => panic!("{place}: {ours:?}"),
            };
            assert_eq!(Some(&ours.text), theirs.text.as_ref(), "{place}");
            match &theirs.ids {
                Some(ids) => assert_eq!((&ours.ids, &ours.hidden[..]), (ids, &[][..]), "{place}"),
                None => spelled_tokens_stay_text(&place, &chat, messages, ending),
            }
            compared += 1;
        }
    }
    assert!(compared >= 55, "the full cases hold {compared} renderings");
}

#[test]
fn judge_prompts_and_label_tokens() {
    for case in language() {
        let prompts = case.judge_prompts();
        assert_eq!((prompts.labels.a, prompts.labels.b), (case.expected.labels.a, case.expected.labels.b));
        for (i, pair) in case.expected.verdicts.iter().enumerate() {
            for (a, b, theirs) in [(&pair.a, &pair.b, &pair.ab), (&pair.b, &pair.a, &pair.ba)] {
                let place = format!("{} verdict {i}: {a} / {b}", case.name);
                let messages = prompts.template.messages(&pair.prompt, a, b);
                assert_eq!(prompts.chat.render(&messages, Ending::Open).unwrap().text, theirs.text, "{place}");
                let ids = prompts.encode(&[Message::user(pair.prompt.as_str())], a, b).unwrap();
                assert_eq!(ids, theirs.ids, "{place}");
            }
        }
    }
}

#[test]
fn conversations_of_scalar_models() {
    let conversations = conversations();
    for case in scalar() {
        // What transformers renders when nothing is said about thinking.
        let chat = case.chat(&case.expected.date).with("enable_thinking", Value::Null);
        for theirs in &case.expected.rewards {
            let ours = chat.render(&conversations[&theirs.conversation], Ending::Closed).unwrap();
            assert_eq!((&ours.text, &ours.ids), (&theirs.text, &theirs.ids), "{} {}", case.name, theirs.conversation);
        }
    }
}

/// The variables of a rendering, as a chat and its ending have them.
fn options(chat: Chat, rendering: &Rendering) -> (Chat, Ending) {
    let mut options = rendering.options.clone();
    let ending = match options.remove("add_generation_prompt") {
        Some(Value::Bool(true)) => Ending::Open,
        Some(Value::Bool(false)) => Ending::Closed,
        other => panic!("add_generation_prompt: {other:?}"),
    };
    let silent = chat.with("enable_thinking", Value::Null);
    (options.into_iter().fold(silent, |chat, (name, value)| chat.with(&name, value)), ending)
}

/// Where messages spell added tokens: the tokens of the rendering are those of the same conversation without these
/// words, and decoding gives the text back, so the words are there as text.
fn spelled_tokens_stay_text(place: &str, chat: &Chat, messages: &[Message], ending: Ending) {
    let tokenizer = chat.tokenizer();
    let added: Vec<&String> = tokenizer.special().iter().chain(tokenizer.ordinary()).collect();
    let wiped = |m: &Message| {
        let text = m.text().unwrap().into_owned();
        Message::new(m.role.as_str(), added.iter().fold(text, |text, token| text.replace(*token, "word")))
    };
    let wiped: Vec<Message> = messages.iter().map(wiped).collect();
    assert_ne!(messages, wiped, "{place}: this conversation spells no token");
    let tokens = |messages: &[Message]| -> Vec<i32> {
        let ids = chat.render(messages, ending).unwrap().ids;
        ids.into_iter().filter(|id| added.iter().any(|token| tokenizer.token_id(token) == Some(*id))).collect()
    };
    assert_eq!(tokens(messages), tokens(&wiped), "{place}");
    let ours = chat.render(messages, ending).unwrap();
    assert_eq!(tokenizer.decode(&ours.ids).unwrap(), ours.text, "{place}");
}
