//! Groups of responses to one prompt, compared by a judge: many groups at once, so that passes of the model are full.

use super::judge::{EncodedPair, Judge, Judgment, Prompts};
use super::rank::{Method, Outcome, Ranking, Rules, Tournament, play};
use crate::error::Result;
use crate::text::message::Message;

/// Tokens of prompts in memory at once, about. Changes no result.
const CHUNK: usize = 1 << 18;

/// Several responses to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub prompt: Vec<Message>,
    pub responses: Vec<String>,
}

impl Group {
    /// The judge prompts of a pair of responses, both orders.
    fn encode(&self, prompts: &Prompts, (i, j): (usize, usize)) -> Result<EncodedPair> {
        let (a, b) = (&self.responses[i], &self.responses[j]);
        Ok(EncodedPair { ab: prompts.encode(&self.prompt, a, b)?, ba: prompts.encode(&self.prompt, b, a)? })
    }
}

impl From<&Judgment> for Outcome {
    fn from(j: &Judgment) -> Outcome {
        Outcome { p: j.p_a, margin: j.margin_ab as f64 - j.margin_ba as f64 }
    }
}

impl Judge<'_> {
    /// Orders responses to one prompt by comparing them in pairs, both orders each.
    ///
    /// # Errors
    /// As [`Judge::rank_groups`] and [`Rules::new`].
    pub fn rank(&mut self, prompt: &[Message], responses: &[String], method: Method) -> Result<Ranking> {
        let group = Group { prompt: prompt.to_vec(), responses: responses.to_vec() };
        Ok(self.rank_groups(&[&group], Rules::new(method, None)?)?.remove(0))
    }

    /// Ranks each group for itself; all share the passes of the model.
    ///
    /// # Errors
    /// As [`Judge::judge`] and [`Tournament::new`].
    pub fn rank_groups(&mut self, groups: &[&Group], rules: Rules) -> Result<Vec<Ranking>> {
        let new = |group: &&Group| Tournament::new(group.responses.len(), rules);
        let mut tournaments = groups.iter().map(new).collect::<Result<Vec<_>>>()?;
        play(&mut tournaments, |open| self.compare(groups, open))?;
        Ok(tournaments.iter().map(Tournament::ranking).collect())
    }

    /// Compares pairs of responses; each pair comes with the index of its group.
    ///
    /// # Errors
    /// As [`Judge::judge`].
    pub fn compare(&mut self, groups: &[&Group], pairs: &[(usize, (usize, usize))]) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(pairs.len());
        let (mut chunk, mut tokens) = (Vec::new(), 0);
        for (place, (group, pair)) in pairs.iter().enumerate() {
            let encoded = groups[*group].encode(&self.prompts, *pair)?;
            tokens += encoded.ab.len() + encoded.ba.len();
            chunk.push(encoded);
            if tokens >= CHUNK || place + 1 == pairs.len() {
                outcomes.extend(self.judge(&chunk)?.iter().map(Outcome::from));
                chunk.clear();
                tokens = 0;
            }
        }
        Ok(outcomes)
    }
}
