//! Texts that a policy's chat template has rendered, taken apart again: trainers send prompts and responses as the policy saw them, with
//! its control tokens in them, and the judge has a template of its own.

use super::message::Message;

/// How a family marks turns: what opens one before its role, what ends the role, what ends the turn.
struct Marks {
    open: &'static str,
    role: &'static str,
    close: &'static str,
}

const FAMILIES: [Marks; 3] = [
    // ChatML: Qwen and many others.
    Marks { open: "<|im_start|>", role: "\n", close: "<|im_end|>" },
    // Llama 3.
    Marks { open: "<|start_header_id|>", role: "<|end_header_id|>\n\n", close: "<|eot_id|>" },
    // Gemma.
    Marks { open: "<start_of_turn>", role: "\n", close: "<end_of_turn>" },
];

/// Tokens that may stand at the end of a response or at the beginning of a prompt.
const EDGES: [&str; 10] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|begin_of_text|>",
    "<|eom_id|>",
    "<bos>",
    "<eos>",
    "</s>",
];

/// The turns of a rendered conversation; a text without marks is one user turn. A last assistant turn that nobody closed
/// and that is empty (the generation prompt) is left out, and so is an empty block of thoughts in it.
pub fn turns(text: &str) -> Vec<Message> {
    let Some(marks) = FAMILIES.iter().find(|m| text.contains(m.open)) else {
        return vec![Message::user(text)];
    };
    let mut turns = Vec::new();
    for turn in text.split(marks.open).skip(1) {
        let Some((role, rest)) = turn.split_once(marks.role) else { continue };
        let (content, closed) = match rest.find(marks.close) {
            Some(end) => (&rest[..end], true),
            None => (rest, false),
        };
        let role = if role == "model" { "assistant" } else { role };
        let open = !closed && role == "assistant";
        let said = content.trim_start_matches("<think>").trim().trim_start_matches("</think>").trim();
        if !(open && said.is_empty()) {
            turns.push(Message::new(role, content));
        }
    }
    if turns.is_empty() { vec![Message::user(text)] } else { turns }
}

/// A response without the control tokens at its end.
pub fn response(text: &str) -> &str {
    let mut text = text;
    loop {
        let before = text;
        for edge in EDGES {
            text = text.strip_suffix(edge).unwrap_or(text);
        }
        // A line end counts only between control tokens: elsewhere it is the policy's own.
        if text.len() < before.len() {
            let trimmed = text.trim_end_matches('\n');
            text = if EDGES.iter().any(|e| trimmed.ends_with(e)) { trimmed } else { text };
        } else {
            let trimmed = text.trim_end_matches('\n');
            if trimmed.len() == text.len() || !EDGES.iter().any(|e| trimmed.ends_with(e)) {
                return text;
            }
            text = trimmed;
        }
    }
}

/// The prompt and the response in a whole text whose rendered prompt is known, at least about.
pub fn split(query: &str, prompt: &str) -> (Vec<Message>, String) {
    if let Some(rest) = query.strip_prefix(prompt) {
        return (turns(prompt), response(rest).to_string());
    }
    // The trainer cut the prompt from the left, so the whole text does not begin with it: the last turn is the response.
    let mut all = turns(query);
    match all.pop() {
        Some(last) if !all.is_empty() => (all, last.text().map(|t| response(&t).to_string()).unwrap_or_default()),
        _ => (turns(prompt), response(query).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHATML: &str =
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n";
    const LLAMA: &str = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n1 + 1?<|eot_id|>\
                         <|start_header_id|>assistant<|end_header_id|>\n\n";

    #[test]
    fn rendered_prompts_are_taken_apart() {
        assert_eq!(turns(CHATML), [Message::system("Be brief."), Message::user("1 + 1?")]);
        assert_eq!(turns(&format!("{CHATML}<think>\n\n</think>\n\n")).len(), 2);
        assert_eq!(turns(LLAMA), [Message::user("1 + 1?")]);
        assert_eq!(turns("<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"), [Message::user("hi")]);
        assert_eq!(turns("plain"), [Message::user("plain")]);
    }

    #[test]
    fn responses_lose_the_tokens_at_their_end_alone() {
        for text in ["2<|im_end|>", "2<|im_end|>\n<|endoftext|>", "2<|eot_id|><|eot_id|>", "2"] {
            assert_eq!(response(text), "2", "{text:?}");
        }
        assert_eq!(response("a <|im_end|> b\n"), "a <|im_end|> b\n");
        assert_eq!(response("2\n"), "2\n");
    }

    #[test]
    fn the_response_is_found_also_where_the_prompt_was_cut() {
        let (prompt, answer) = split(&format!("{CHATML}2<|im_end|>\n"), CHATML);
        assert_eq!((prompt.len(), answer.as_str()), (2, "2"));
        let cut = &format!("{CHATML}2<|im_end|>")[20..];
        let (prompt, answer) = split(cut, CHATML);
        assert_eq!((prompt, answer.as_str()), (vec![Message::user("1 + 1?")], "2"));
        let (prompt, answer) = split("something else", CHATML);
        assert_eq!((prompt.len(), answer.as_str()), (2, "something else"));
    }

    proptest! {
        #[test]
        fn any_text_is_read(query in "(<\\|im_start\\|>|<\\|im_end\\|>|user\n|assistant|é|\n|<think>){0,12}", prompt in ".{0,9}") {
            let (turns, _) = split(&query, &prompt);
            prop_assert!(!turns.is_empty());
        }
    }
}
