//! Chat templates: messages to the text a model was trained on, and to ids that no message can forge.
//!
//! The text is byte for byte what transformers renders. The ids differ in one case only: where a *message* spells a control
//! token. Control tokens are those marked special and those other added tokens that the template writes itself
//! (`<think>`, `<tool_call>`); in a message they are text, in the template they are tokens. What an assistant said may
//! hold the ordinary ones (`<think>` is what such a model writes), never the special ones. Everything between two tokens
//! that count is encoded whole.
//!
//! How the two are told apart is described in `provenance`. Where a template reads an ordinary control token in a
//! message and acts on it (Qwen3 looks for `<tool_response>`), only special tokens are held back; where it acts on a special
//! one, the conversation is refused.

use std::ops::Range;
use std::sync::Arc;

use minijinja::Environment;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::text::jinja::{self, Date};
use crate::text::message::Message;
use crate::text::provenance::{Mask, is_suspicious, stretches};
use crate::text::tokenizer::{Parse, Piece, Tokenizer};

/// A chat template and the tokenizer it writes for. Cheap to share between threads.
#[derive(Clone)]
pub struct Chat {
    tokenizer: Arc<Tokenizer>,
    env: Arc<Environment<'static>>,
    source: Arc<str>,
    date: Date,
    settings: Map<String, Value>,
    /// Every control token: the special ones and the ordinary ones that the template writes.
    control: Arc<[String]>,
}

/// Where a rendering stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// After the last message: the whole conversation.
    Closed,
    /// After the header of the assistant's next turn, for the model to go on (`add_generation_prompt`).
    Open,
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    pub text: String,
    pub ids: Vec<i32>,
    /// Byte ranges of `text` that came out of messages and spell (a part of) a control token; text, not tokens.
    pub hidden: Vec<Range<usize>>,
}

/// A prompt and the turn that answers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Completed {
    pub text: String,
    pub ids: Vec<i32>,
    pub hidden: Vec<Range<usize>>,
    /// `ids[..start]` are the prompt as [`Ending::Open`] renders it; `ids[start..]` is what the model is to write, the end of
    /// its turn included.
    pub start: usize,
    /// Where a token would have spanned the end of the prompt and was cut: a byte position of `text`.
    pub cut: Option<usize>,
}

impl Chat {
    /// The chat template that comes with a tokenizer. `enable_thinking` is false, as judges are used; see [`Chat::with`].
    pub fn of(tokenizer: Arc<Tokenizer>) -> Result<Chat> {
        let source = default_template(&tokenizer)?;
        Self::from_source(tokenizer, &source)
    }

    /// A template given as text.
    pub fn from_source(tokenizer: Arc<Tokenizer>, source: &str) -> Result<Chat> {
        let date = Date::default();
        let env = jinja::environment(source, date).map_err(|e| Error::model(e.to_string()))?;
        let written = tokenizer.ordinary().iter().filter(|t| source.contains(t.as_str()) && !t.trim().is_empty());
        let control: Vec<String> = tokenizer.special().iter().chain(written).cloned().collect();
        let mut settings = Map::new();
        settings.insert("enable_thinking".into(), Value::Bool(false));
        Ok(Chat { tokenizer, env: Arc::new(env), source: source.into(), date, settings, control: control.into() })
    }

    /// The same template with a variable set: `enable_thinking`, `tools`, `date_string`, ... Null unsets it.
    pub fn with(mut self, name: &str, value: Value) -> Chat {
        match value {
            Value::Null => self.settings.remove(name),
            value => self.settings.insert(name.into(), value),
        };
        self
    }

    /// The same template printing another day.
    pub fn with_date(mut self, date: Date) -> Result<Chat> {
        self.env = Arc::new(jinja::environment(&self.source, date)?);
        self.date = date;
        Ok(self)
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    pub fn date(&self) -> Date {
        self.date
    }

    /// The template's source text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders and encodes a conversation.
    pub fn render(&self, messages: &[Message], ending: Ending) -> Result<Rendered> {
        let (text, hidden) = self.write(messages, ending)?;
        let ids = self.tokenizer.ids(&text, Parse::Except(&hidden))?;
        Ok(Rendered { text, ids, hidden })
    }

    /// Renders `prompt` for generation, followed by an assistant turn that says `completion`.
    ///
    /// The turn is what the template makes of an assistant message, if that continues the prompt's rendering. Some templates rewrite
    /// the turn so that it does not (they drop or move reasoning); then it is `completion` to the letter, followed by what
    /// the template puts after an assistant's turn.
    pub fn complete(&self, prompt: &[Message], completion: &str) -> Result<Completed> {
        let open = self.render(prompt, Ending::Open)?;
        let mut messages = prompt.to_vec();
        messages.push(Message::assistant(completion));
        let (mut text, mut hidden) = self.write(&messages, Ending::Closed)?;
        if !text.starts_with(&open.text) {
            let ending = self.after_turn(prompt)?;
            let at = open.text.len();
            text = format!("{}{completion}{ending}", open.text);
            hidden = open.hidden.clone();
            let spelled = stretches(completion, self.tokenizer.special());
            hidden.extend(spelled.into_iter().map(|r| r.start + at..r.end + at));
        }
        let ids = self.tokenizer.ids(&text, Parse::Except(&hidden))?;
        if ids.starts_with(&open.ids) {
            return Ok(Completed { text, ids, hidden, start: open.ids.len(), cut: None });
        }
        // A token would span the end of the prompt. A model that generates has the prompt's ids, so they stand.
        let cut = open.text.len();
        let pieces = self.tokenizer.pieces(&text, Parse::Except(&hidden), &[cut])?;
        let ids: Vec<i32> = pieces.iter().map(|p| p.id).collect();
        if !ids.starts_with(&open.ids) {
            return Err(Error::data(
                "the tokenizer encodes this prompt differently once an answer follows; \
                 it cannot be trained on consistently",
            ));
        }
        Ok(Completed { text, ids, hidden, start: open.ids.len(), cut: Some(cut) })
    }

    /// The tokens of a rendering with the bytes they stand for, for people to look at.
    pub fn pieces(&self, text: &str, hidden: &[Range<usize>], cuts: &[usize]) -> Result<Vec<Piece>> {
        self.tokenizer.pieces(text, Parse::Except(hidden), cuts)
    }

    /// What the template puts after the text of an assistant's turn.
    fn after_turn(&self, prompt: &[Message]) -> Result<String> {
        let probe = "gramophone";
        let mut messages = prompt.to_vec();
        messages.push(Message::assistant(probe));
        let text = self.print(&self.context(&messages, Ending::Closed))?;
        match text.rfind(probe) {
            Some(at) => Ok(text[at + probe.len()..].to_string()),
            None => {
                Err(Error::model("the chat template does not print what an assistant says; it cannot be trained with"))
            }
        }
    }

    /// The rendering, and the stretches of it that are text although they spell control tokens.
    fn write(&self, messages: &[Message], ending: Ending) -> Result<(String, Vec<Range<usize>>)> {
        let context = self.context(messages, ending);
        let text = self.print(&context)?;
        let special = self.tokenizer.special();
        let mut suspicious = false;
        for (tokens, forgiving) in [(&self.control[..], true), (special, false)] {
            let guarded = Guarded { tokens, assistant: if forgiving { special } else { tokens } };
            if !guarded.any(&context) {
                continue;
            }
            suspicious = true;
            let mask = Mask::new(self.control.iter(), &text)
                .ok_or_else(|| Error::data("this conversation uses up all private-use characters"))?;
            // A template may fail on a masked message where it did not on the plain one; that, too, is acting on it.
            if let Ok(masked) = self.print(&guarded.masked(&context, &mask))
                && let Some(hidden) = mask.compare(&masked, &text)
            {
                return Ok((text, hidden));
            }
        }
        // The last set tried holds the special tokens alone; only they must never be taken from a message.
        if suspicious && (Guarded { tokens: special, assistant: special }).any(&context) {
            return Err(Error::data(
                "a message spells a special token, and the chat template acts on it, so the two cannot be kept apart; \
                 remove the token from the message",
            ));
        }
        Ok((text, Vec::new()))
    }

    /// Everything the template sees: what callers gave, and the tokenizer's own tokens.
    fn context(&self, messages: &[Message], ending: Ending) -> Context {
        let messages: Vec<Value> = messages.iter().map(Message::to_json).collect();
        let mut given = json!({"tools": null, "documents": null});
        if let Value::Object(map) = &mut given {
            map.extend(self.settings.clone());
        }
        Context { messages, given, open: ending == Ending::Open }
    }

    fn print(&self, context: &Context) -> Result<String> {
        let mut all = Map::new();
        for (name, token) in self.tokenizer.named() {
            all.insert(name.clone(), Value::String(token.clone()));
        }
        all.insert("messages".into(), Value::Array(context.messages.clone()));
        all.insert("add_generation_prompt".into(), Value::Bool(context.open));
        if let Value::Object(given) = &context.given {
            all.extend(given.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        let template = self.env.get_template(jinja::NAME).map_err(|e| jinja::explain(&e))?;
        let context = minijinja::Value::from(minijinja::value::Serde(&Value::Object(all)));
        template.render(context).map_err(|e| jinja::explain(&e))
    }
}

/// What callers hand to a template.
struct Context {
    messages: Vec<Value>,
    given: Value,
    open: bool,
}

/// Which tokens are looked for in messages, by role.
struct Guarded<'a> {
    tokens: &'a [String],
    assistant: &'a [String],
}

impl Guarded<'_> {
    fn tokens_for(&self, message: &Value) -> &[String] {
        if message["role"] == "assistant" { self.assistant } else { self.tokens }
    }

    fn any(&self, context: &Context) -> bool {
        is_suspicious(&context.given, self.tokens)
            || context.messages.iter().any(|m| is_suspicious(m, self.tokens_for(m)))
    }

    fn masked(&self, context: &Context, mask: &Mask) -> Context {
        Context {
            messages: context.messages.iter().map(|m| mask.apply(m, self.tokens_for(m))).collect(),
            given: mask.apply(&context.given, self.tokens),
            open: context.open,
        }
    }
}

/// The template transformers would take: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`, which is a
/// text or a list of named ones; of those the one called `default`.
fn default_template(tokenizer: &Tokenizer) -> Result<String> {
    if let Some(text) = tokenizer.files().text("chat_template.jinja")? {
        return Ok(text.to_string());
    }
    let config = tokenizer.files().json("tokenizer_config.json")?;
    let mut named = tokenizer.files().named_templates()?;
    match config.get("chat_template") {
        Some(Value::String(text)) => return Ok(text.clone()),
        Some(Value::Array(list)) => {
            let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(String::from);
            named.extend(list.iter().filter_map(|entry| Some((text(entry, "name")?, text(entry, "template")?))));
        }
        Some(Value::Object(map)) => {
            named.extend(map.iter().filter_map(|(name, v)| Some((name.clone(), v.as_str()?.to_string()))));
        }
        _ => {}
    }
    if let Some((_, text)) = named.iter().find(|(name, _)| name == "default") {
        return Ok(text.clone());
    }
    let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
    Err(Error::model(match names[..] {
        [] => "the tokenizer has no chat template; take the instruct version of the model, or put a template into \
               chat_template.jinja beside its tokenizer.json"
            .to_string(),
        _ => format!(
            "the tokenizer has the chat templates {} but none called default; copy the one you mean to \
             chat_template.jinja beside its tokenizer.json",
            names.join(", ")
        ),
    }))
}

#[cfg(test)]
mod tests;
