//! The pairwise judge (GRAM's G3): one forward over both orders of a pair, read at the last prompt position.
//!
//! With `d1 = Z_A - Z_B` where response a is shown as A, and `d2` the same where it is shown as B,
//!
//! ```text
//! p_a = (sigmoid(d1) + 1 - sigmoid(d2)) / 2          the mean over both orders
//! a wins  <=>  d1 > d2                               which never saturates, unlike p_a
//! ```

use super::bradley_terry::sigmoid;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::infer::scorer::{Scorer, Shape, Verdict};
use crate::model::Model;
use crate::text::chat::{Chat, Ending};
use crate::text::labels::Labels;
use crate::text::message::{Message, transcript};
use crate::text::template::JudgeTemplate;

/// Which response is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    A,
    B,
    /// Both orders cancel exactly.
    Tie,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::A => "A",
            Side::B => "B",
            Side::Tie => "tie",
        }
    }
}

/// What a judge says of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgment {
    /// Probability that response a is better, the mean over both orders.
    pub p_a: f64,
    /// Logit A minus logit B with a shown as A, and with a shown as B: f32 straight from the logits.
    pub margin_ab: f32,
    pub margin_ba: f32,
    /// Probability that the two labels have together in the whole vocabulary, the mean over both orders.
    pub label_mass: f64,
    pub verdict: Side,
    /// Both orders agree on the better response.
    pub consistent: bool,
}

impl Judgment {
    /// Combines the verdict with a shown as A and the one with a shown as B.
    pub fn of(ab: Verdict, ba: Verdict) -> Judgment {
        let (d1, d2) = (ab.margin(), ba.margin());
        let verdict = match d1.partial_cmp(&d2) {
            Some(std::cmp::Ordering::Greater) => Side::A,
            Some(std::cmp::Ordering::Less) => Side::B,
            _ => Side::Tie,
        };
        Judgment {
            p_a: 0.5 * (sigmoid(d1 as f64) + sigmoid(-d2 as f64)),
            margin_ab: d1,
            margin_ba: d2,
            label_mass: 0.5 * (ab.label_mass() as f64 + ba.label_mass() as f64),
            verdict,
            consistent: (d1 > 0.0 && d2 < 0.0) || (d1 < 0.0 && d2 > 0.0),
        }
    }
}

/// Two responses to a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub prompt: Vec<Message>,
    pub a: String,
    pub b: String,
}

/// A pair as token ids, in both orders.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedPair {
    pub ab: Vec<i32>,
    pub ba: Vec<i32>,
}

impl EncodedPair {
    /// Tokens of the longer order.
    pub fn longest(&self) -> usize {
        self.ab.len().max(self.ba.len())
    }
}

/// Turns pairs into judge prompts. Pure: no model.
#[derive(Clone)]
pub struct Prompts {
    pub chat: Chat,
    pub template: JudgeTemplate,
    pub labels: Labels,
}

impl Prompts {
    /// # Errors
    /// A tokenizer that does not write each label as one token after the rendered prompt.
    pub fn new(chat: Chat, template: JudgeTemplate) -> Result<Prompts> {
        let labels = Labels::resolve(&chat, &template)?;
        Ok(Prompts { chat, template, labels })
    }

    /// The judge prompt with `a` shown first.
    ///
    /// # Errors
    /// A prompt whose messages are not text; a template that refuses them.
    pub fn encode(&self, prompt: &[Message], a: &str, b: &str) -> Result<Vec<i32>> {
        let question = transcript(prompt)
            .ok_or_else(|| Error::data("the prompt holds content that is not text; a judge reads text only"))?;
        Ok(self.chat.render(&self.template.messages(&question, a, b), Ending::Open)?.ids)
    }

    /// Both orders of a pair.
    ///
    /// # Errors
    /// As [`Prompts::encode`].
    pub fn pair(&self, pair: &Pair) -> Result<EncodedPair> {
        Ok(EncodedPair {
            ab: self.encode(&pair.prompt, &pair.a, &pair.b)?,
            ba: self.encode(&pair.prompt, &pair.b, &pair.a)?,
        })
    }
}

/// The token ids of a whole conversation: the prompt, answered by `response`, as scalar reward models read it.
///
/// # Errors
/// As [`Chat::render`].
pub fn conversation(chat: &Chat, prompt: &[Message], response: &str) -> Result<Vec<i32>> {
    let mut messages = prompt.to_vec();
    messages.push(Message::assistant(response));
    Ok(chat.render(&messages, Ending::Closed)?.ids)
}

/// A model that compares responses.
pub struct Judge<'m> {
    scorer: Scorer<'m>,
    pub prompts: Prompts,
}

impl<'m> Judge<'m> {
    /// # Errors
    /// When the memory is not there.
    pub fn new(dev: &'m Device, model: &'m Model, prompts: Prompts, shape: Shape) -> Result<Judge<'m>> {
        Judge::over(dev, &[model], prompts, shape)
    }

    /// A judge that may [`Judge::switch`] between models that are adapters of one base; the first one judges until then.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn over(dev: &'m Device, models: &[&'m Model], prompts: Prompts, shape: Shape) -> Result<Judge<'m>> {
        Ok(Judge { scorer: Scorer::over(dev, models, shape)?, prompts })
    }

    /// From now on another of the models that it was made for.
    pub fn switch(&mut self, model: &'m Model) {
        self.scorer.switch(model);
    }

    /// Judges pairs; answers come in their order.
    ///
    /// # Errors
    /// As [`Scorer::verdicts`]; a model whose logits are not finite.
    pub fn judge(&mut self, pairs: &[EncodedPair]) -> Result<Vec<Judgment>> {
        let prompts: Vec<Vec<i32>> = pairs.iter().flat_map(|p| [p.ab.clone(), p.ba.clone()]).collect();
        let labels = [self.prompts.labels.a, self.prompts.labels.b];
        let verdicts = self.scorer.verdicts(&prompts, labels)?;
        if verdicts.iter().any(|v| !v.margin().is_finite()) {
            return Err(Error::new(Kind::Model, "the model's logits are not finite; its weights are damaged"));
        }
        Ok(verdicts.chunks(2).map(|v| Judgment::of(v[0], v[1])).collect())
    }

    /// Longest judge prompt that fits.
    pub fn context(&self) -> usize {
        self.scorer.context()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(margin: f32) -> Verdict {
        Verdict { logits: [margin, 0.0], lse: margin.max(0.0) + 1.0 }
    }

    #[test]
    fn both_orders_are_averaged_and_the_softmax_is_over_the_two_labels_of_each_order() {
        // Logits (2, 0) and (1, 0.5): 0.880797 and 0.377541, mean 0.629169.
        let j = Judgment::of(Verdict { logits: [2.0, 0.0], lse: 2.5 }, Verdict { logits: [1.0, 0.5], lse: 2.5 });
        assert!((j.p_a - 0.629_169).abs() < 1e-6, "{}", j.p_a);
        assert_eq!((j.verdict, j.consistent), (Side::A, false));
        assert_eq!((j.margin_ab, j.margin_ba), (2.0, 0.5));
    }

    #[test]
    fn margins_decide_where_probabilities_saturate() {
        let j = Judgment::of(verdict(90.0), verdict(80.0));
        assert_eq!(j.p_a, 0.5, "both orders say A with certainty");
        assert_eq!(j.verdict, Side::A);
        assert_eq!(Judgment::of(verdict(3.0), verdict(3.0)).verdict, Side::Tie);
    }

    #[test]
    fn swapping_the_responses_mirrors_the_judgment() {
        let (ab, ba) = (verdict(1.5), verdict(-0.25));
        let (j, k) = (Judgment::of(ab, ba), Judgment::of(ba, ab));
        assert!((j.p_a + k.p_a - 1.0).abs() < 1e-12);
        assert_eq!((j.verdict, k.verdict), (Side::A, Side::B));
        assert!(j.consistent && k.consistent);
    }
}
