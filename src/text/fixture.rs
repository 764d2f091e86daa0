//! Small tokenizers and chat templates for the tests of this floor. The templates are written for these tests; they use what the
//! published ones of their families use.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use crate::text::bpe::Recipe;
use crate::text::chat::Chat;
use crate::text::tokenizer::Tokenizer;

pub const WORDS: &str =
    "the quick brown fox jumps over the lazy dog and the user asks which answer of the assistants is better\n";
pub const SPECIAL: [&str; 8] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<s>",
];
/// Added tokens that are not special.
pub const ORDINARY: [&str; 4] = ["<think>", "</think>", "<tool_response>", "</tool_response>"];

/// Trims contents, prints a date and a system block, as LLaMA 3.2 does.
pub const LLAMA: &str = r#"{{- bos_token }}
{%- set date = date_string if date_string is defined else strftime_now("%d %b %Y") %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday: " + date + "\n\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"#;

/// Splits reasoning off, looks backwards for the last question, and opens with an empty thought, as Qwen3 does.
pub const QWEN3: &str = r#"{%- set ns = namespace(last=messages|length - 1, looking=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.looking and message.role == "user" and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.looking = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in message.content %}
            {%- set reasoning = message.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"#;

/// A byte-level tokenizer with the special and ordinary tokens above.
pub fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    TOKENIZER.get_or_init(|| Arc::new(changed(|_| {}))).clone()
}

/// The same tokenizer after a change to its `tokenizer.json`.
pub fn changed(change: impl FnOnce(&mut Value)) -> Tokenizer {
    let mut recipe = Recipe::new(400);
    recipe.special = SPECIAL.map(String::from).to_vec();
    let trained = Tokenizer::train(std::iter::repeat_n(WORDS, 4), &recipe).unwrap();
    let mut files = trained.files().clone();
    let mut json: Value = serde_json::from_slice(files.bytes("tokenizer.json").unwrap()).unwrap();
    let size = trained.vocab_size();
    for (i, token) in ORDINARY.iter().enumerate() {
        json["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": size + i, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false,
        }));
    }
    change(&mut json);
    let mut config = files.json("tokenizer_config.json").unwrap();
    config.insert("bos_token".into(), json!("<|begin_of_text|>"));
    files.insert("tokenizer_config.json", Value::Object(config).to_string());
    files.insert("tokenizer.json", json.to_string());
    Tokenizer::from_files(files).unwrap()
}

pub fn chat(template: &str) -> Chat {
    Chat::from_source(tokenizer(), template).unwrap()
}

/// Ids of the tokens that are special, among `ids`.
pub fn specials(ids: &[i32]) -> Vec<i32> {
    let tokenizer = tokenizer();
    let special: Vec<i32> = SPECIAL.iter().map(|s| tokenizer.token_id(s).unwrap()).collect();
    ids.iter().copied().filter(|id| special.contains(id)).collect()
}
