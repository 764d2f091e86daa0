//! One answer in the making.

use super::{App, ChatBody, Refusal};
use crate::app::cli::number;
use crate::app::server::detokenize::Detokenizer;
use crate::infer::generator::Finish;
use crate::reward::service::Event;
use serde_json::{Value, json};
use std::sync::Arc;

/// Collects the events of an answer.
pub struct Choice<'a> {
    app: &'a App,
    text: Detokenizer<'a>,
    content: String,
    /// Wanted, and then an entry for each token.
    logprobs: Option<Vec<Value>>,
    separate: bool,
    tokens: usize,
    finish: Option<&'static str>,
    version: Option<Arc<str>>,
    /// What came since the last chunk.
    fresh: (String, Vec<Value>),
}

impl<'a> Choice<'a> {
    pub fn new(app: &'a App, body: &ChatBody, stops: &[String]) -> Choice<'a> {
        Choice {
            app,
            text: Detokenizer::new(app.tokenizer(), stops),
            content: String::new(),
            logprobs: body.logprobs.unwrap_or(false).then(Vec::new),
            separate: body.separate_reasoning,
            tokens: 0,
            finish: None,
            version: None,
            fresh: Default::default(),
        }
    }

    pub fn done(&self) -> bool {
        self.finish.is_some()
    }
    pub fn tokens(&self) -> usize {
        self.tokens
    }
    pub fn version(&self) -> Option<Arc<str>> {
        self.version.clone()
    }

    /// # Errors
    /// The tokenizer cannot decode.
    pub fn take(&mut self, event: Event) -> Result<(), Refusal> {
        let text = match event {
            Event::Token { id, logprob, top } => {
                self.tokens += 1;
                if self.logprobs.is_some() {
                    let entry = self.entry(id, logprob, &top)?;
                    self.fresh.1.push(entry.clone());
                    self.logprobs.get_or_insert_default().push(entry);
                }
                let text = self.text.push(id)?;
                if self.text.stopped() {
                    self.finish = Some(Finish::Stop.name());
                }
                text
            }
            Event::End { finish, version, .. } => {
                let text = self.text.finish()?;
                self.finish = Some(if self.text.stopped() { Finish::Stop } else { finish }.name());
                self.version = Some(version);
                text
            }
        };
        self.fresh.0.push_str(&text);
        self.content.push_str(&text);
        Ok(())
    }

    fn entry(&self, id: i32, logprob: f32, top: &[(i32, f32)]) -> Result<Value, Refusal> {
        let token = |id: i32, logprob: f32| {
            let text = self.app.tokenizer().decode(&[id])?;
            // A part of a character has bytes that its text does not tell.
            let bytes = (!text.contains('\u{fffd}')).then(|| text.as_bytes().to_vec());
            Ok::<_, Refusal>(json!({"token": text, "logprob": number(logprob), "bytes": bytes}))
        };
        let mut entry = token(id, logprob)?;
        let top = top.iter().map(|(id, logprob)| token(*id, *logprob)).collect::<Result<Vec<_>, _>>()?;
        entry["top_logprobs"] = top.into();
        Ok(entry)
    }

    /// The whole answer.
    pub fn whole(self, index: usize) -> Value {
        let mut message = json!({"role": "assistant", "content": self.content});
        if self.separate
            && let Some((reasoning, content)) = reasoning(&self.content)
        {
            message["reasoning_content"] = reasoning.into();
            message["content"] = content.into();
        }
        json!({
            "index": index,
            "message": message,
            "logprobs": self.logprobs.map(|content| json!({"content": content, "refusal": null})),
            "finish_reason": self.finish,
        })
    }

    /// What came since the last time, if anything.
    pub fn chunk(&mut self, index: usize) -> Option<Value> {
        let (text, entries) = std::mem::take(&mut self.fresh);
        if text.is_empty() && entries.is_empty() && !self.done() {
            return None;
        }
        let delta = if text.is_empty() { json!({}) } else { json!({"content": text}) };
        let logprobs = self.logprobs.as_ref().map(|_| json!({"content": entries, "refusal": null}));
        Some(json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": self.finish}))
    }
}

/// What stands in `<think>` and what follows.
fn reasoning(content: &str) -> Option<(&str, &str)> {
    let (reasoning, rest) = content.split_once("</think>")?;
    let reasoning = reasoning.trim_start();
    Some((reasoning.strip_prefix("<think>").unwrap_or(reasoning).trim(), rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::reasoning;

    #[test]
    fn thoughts_are_told_from_answers() {
        assert_eq!(reasoning("<think>\nhm\n</think>\n\nA"), Some(("hm", "A")));
        assert_eq!(reasoning("hm</think>A"), Some(("hm", "A")));
        assert_eq!(reasoning("A"), None);
    }
}
