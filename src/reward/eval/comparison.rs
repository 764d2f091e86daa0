//! What was said of two responses, whoever said it.

#[cfg(doc)]
use super::item::Item;
use crate::reward::bradley_terry::sigmoid;
use crate::reward::judge::{Judgment, Side};
use crate::reward::rationale::Reasoned;
use crate::reward::vote::{Order, Tally};
use serde::{Deserialize, Serialize};

/// A verdict on two responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    First,
    Second,
    Tie,
    /// No verdict could be read.
    Invalid,
}

impl Choice {
    pub fn flipped(self) -> Choice {
        match self {
            Choice::First => Choice::Second,
            Choice::Second => Choice::First,
            other => other,
        }
    }

    /// As output rows name it, where the first response is A.
    pub fn name(self) -> &'static str {
        match self {
            Choice::First => "A",
            Choice::Second => "B",
            Choice::Tie => "tie",
            Choice::Invalid => "invalid",
        }
    }

    /// The choice of a number that is above `middle` for the first response.
    pub fn of(x: f64, middle: f64) -> Choice {
        match x.partial_cmp(&middle) {
            Some(std::cmp::Ordering::Greater) => Choice::First,
            Some(std::cmp::Ordering::Less) => Choice::Second,
            Some(std::cmp::Ordering::Equal) => Choice::Tie,
            None => Choice::Invalid,
        }
    }

    /// The choice of the judge's side, where the first response is a; `None` is no verdict.
    fn of_side(side: Option<Side>) -> Choice {
        match side {
            Some(Side::A) => Choice::First,
            Some(Side::B) => Choice::Second,
            Some(Side::Tie) => Choice::Tie,
            None => Choice::Invalid,
        }
    }

    /// 1 for the first response, 0 for the second, a half for a tie.
    pub fn share(self) -> Option<f64> {
        match self {
            Choice::First => Some(1.0),
            Choice::Second => Some(0.0),
            Choice::Tie => Some(0.5),
            Choice::Invalid => None,
        }
    }
}

/// What was said with the responses shown in one order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opinion {
    pub choice: Choice,
    /// Probability that the first response is better, where the judge gives one.
    pub p: Option<f64>,
    /// Logit of the label that stands for the first response minus that of the other, where there are logits. It decides
    /// where probabilities saturate.
    pub margin: Option<f32>,
}

impl Opinion {
    pub fn of_margin(margin: f32) -> Opinion {
        let p = sigmoid(f64::from(margin));
        Opinion { choice: Choice::of(f64::from(margin), 0.0), p: Some(p), margin: Some(margin) }
    }
    pub fn of_p(p: f64) -> Opinion {
        Opinion { choice: Choice::of(p, 0.5), p: Some(p), margin: None }
    }
    pub fn of_choice(choice: Choice) -> Opinion {
        Opinion { choice, p: None, margin: None }
    }
    /// What the votes of one order come to by themselves.
    fn of_votes(reasoned: &Reasoned, order: Order) -> Opinion {
        let votes = reasoned.votes.alone(order);
        let margin = votes.margin(order).map(|m| if order == Order::Ab { m } else { -m });
        Opinion { choice: Choice::of_side(votes.verdict(reasoned.rule)), p: votes.p_a(), margin }
    }

    fn flipped(self) -> Opinion {
        Opinion { choice: self.choice.flipped(), p: self.p.map(|p| 1.0 - p), margin: self.margin.map(|m| -m) }
    }

    fn share(self) -> Option<f64> {
        if self.choice == Choice::Invalid { None } else { self.p.or(self.choice.share()) }
    }
}

/// What was said of two responses, in all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Indices of the two in [`Item::responses`].
    pub pair: (usize, usize),
    /// With the first response shown as A, and with it shown as B. Judges that see no order have neither.
    pub orders: [Option<Opinion>; 2],
    /// Probability that the first is better, the mean over the orders that were asked.
    pub p: Option<f64>,
    pub verdict: Choice,
    /// Read and written.
    pub tokens: u64,
    /// Of them, those that the judge wrote.
    pub written: u64,
    /// Wall-clock time, its share of the batch.
    pub ms: f64,
    /// The thought that speaks for the verdict, and what its letters mean.
    pub rationale: Option<String>,
    pub rationale_order: Option<Order>,
    /// Of a judge that reasons: its replies in both orders, a for the first response.
    pub replies: Option<[Tally; 2]>,
}

impl Comparison {
    /// The mean over the orders asked. A verdict needs all of them: one that is invalid makes it invalid.
    pub fn of_orders(pair: (usize, usize), orders: [Option<Opinion>; 2]) -> Comparison {
        let asked = || orders.iter().flatten();
        let shares: Option<Vec<f64>> = asked().map(|o| o.share()).collect();
        let p = shares.filter(|s| !s.is_empty()).map(|s| s.iter().sum::<f64>() / s.len() as f64);
        let margins: Option<Vec<f64>> = asked().map(|o| o.margin.map(f64::from)).collect();
        let verdict = match (p, margins) {
            (None, _) => Choice::Invalid,
            (_, Some(margins)) => Choice::of(margins.iter().sum(), 0.0),
            (Some(p), None) => Choice::of(p, 0.5),
        };
        // Decisions without probabilities are none.
        let p = p.filter(|_| asked().all(|o| o.p.is_some()));
        Comparison { orders, ..Comparison::of_verdict(pair, verdict, p) }
    }

    /// One verdict, of which no orders are known.
    pub fn of_verdict(pair: (usize, usize), verdict: Choice, p: Option<f64>) -> Comparison {
        let (tokens, written, ms, rationale, rationale_order, replies) = (0, 0, 0.0, None, None, None);
        let orders = [None, None];
        Comparison { pair, orders, p, verdict, tokens, written, ms, rationale, rationale_order, replies }
    }

    pub fn of_judgment(pair: (usize, usize), j: &Judgment) -> Comparison {
        // Judgments give both margins as logit A minus logit B.
        let orders = [Opinion::of_margin(j.margin_ab), Opinion::of_margin(-j.margin_ba)];
        let verdict = Choice::of_side(Some(j.verdict));
        Comparison { verdict, p: Some(j.p_a), ..Comparison::of_orders(pair, orders.map(Some)) }
    }

    /// Replies of a judge that reasons. The verdict is the judge's own: replies that are invalid abstain, so that one order can
    /// decide where the other has no valid reply.
    pub fn of_reasoned(pair: (usize, usize), r: &Reasoned) -> Comparison {
        let orders = Order::BOTH.map(|order| Some(Opinion::of_votes(r, order)));
        let typical = r.typical();
        Comparison {
            orders,
            tokens: (r.prompt_tokens + r.generated_tokens) as u64,
            written: r.generated_tokens as u64,
            rationale: typical.map(|vote| vote.rationale.clone()),
            rationale_order: typical.map(|vote| vote.order),
            replies: Some(Order::BOTH.map(|order| r.votes.tally(order))),
            ..Comparison::of_verdict(pair, Choice::of_side(r.verdict()), r.votes.p_a())
        }
    }

    /// Two scalar rewards; the probability is Bradley and Terry's.
    pub fn of_rewards(pair: (usize, usize), rewards: &[f64]) -> Comparison {
        let difference = rewards[pair.0] - rewards[pair.1];
        let p = sigmoid(difference);
        // Equal infinities differ by no number.
        let verdict = if rewards[pair.0] == rewards[pair.1] { Choice::Tie } else { Choice::of(difference, 0.0) };
        Comparison::of_verdict(pair, verdict, Some(p).filter(|p| p.is_finite()))
    }

    /// The same of the responses in the other order.
    pub fn flipped(&self) -> Comparison {
        let [ab, ba] = self.orders;
        Comparison {
            pair: (self.pair.1, self.pair.0),
            orders: [ba.map(Opinion::flipped), ab.map(Opinion::flipped)],
            p: self.p.map(|p| 1.0 - p),
            verdict: self.verdict.flipped(),
            rationale_order: self.rationale_order.map(Order::other),
            replies: self.replies.map(|[ab, ba]| [ba.mirrored(), ab.mirrored()]),
            ..self.clone()
        }
    }

    /// Whether both orders say the same; `None` where one of them was not asked.
    pub fn consistent(&self) -> Option<bool> {
        let [Some(ab), Some(ba)] = self.orders else { return None };
        Some(ab.choice == ba.choice && ab.choice != Choice::Invalid)
    }

    /// The share of a win that the first response gets: its probability, or what the verdict says.
    pub fn share(&self) -> Option<f64> {
        if self.verdict == Choice::Invalid { None } else { self.p.or(self.verdict.share()) }
    }
}

/// Everything that was said of one item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// By response, where the model gives rewards.
    pub rewards: Option<Vec<f64>>,
    pub comparisons: Vec<Comparison>,
    /// Only whether it was right: 1, 0 or a part.
    pub result: Option<f64>,
    pub tokens: u64,
    pub ms: f64,
}

impl Answer {
    /// What was said of two responses, in the order asked for.
    pub fn find(&self, (first, second): (usize, usize)) -> Option<Comparison> {
        if let Some(rewards) = &self.rewards {
            return Some(Comparison::of_rewards((first, second), rewards));
        }
        self.comparisons.iter().find_map(|c| match c.pair {
            pair if pair == (first, second) => Some(c.clone()),
            pair if pair == (second, first) => Some(c.flipped()),
            _ => None,
        })
    }

    /// One number for each of `n` responses: its reward, or the mean probability with which it beats those that it was
    /// compared with. Invalid comparisons abstain; without any, it is a half.
    pub fn ratings(&self, n: usize) -> Vec<f64> {
        if let Some(rewards) = &self.rewards {
            return rewards.clone();
        }
        let (mut sum, mut met) = (vec![0.0; n], vec![0usize; n]);
        for c in &self.comparisons {
            if let Some(share) = c.share() {
                let (i, j) = c.pair;
                sum[i] += share;
                sum[j] += 1.0 - share;
                met[i] += 1;
                met[j] += 1;
            }
        }
        sum.iter().zip(met).map(|(s, m)| if m == 0 { 0.5 } else { s / m as f64 }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::scorer::Verdict;
    use crate::reward::vote::{Rule, Vote, Votes};
    use crate::text::answer::Invalid;
    use crate::text::example::Side as Label;

    #[test]
    fn a_judgment_is_read_in_both_orders() {
        let verdict = |margin: f32| Verdict { logits: [margin, 0.0], lse: margin.max(0.0) + 1.0 };
        let c = Comparison::of_judgment((0, 1), &Judgment::of(verdict(2.0), verdict(0.5)));
        let [ab, ba] = c.orders.map(Option::unwrap);
        assert_eq!((ab.choice, ba.choice, c.verdict), (Choice::First, Choice::Second, Choice::First));
        assert!((ab.p.unwrap() - 0.880_797).abs() < 1e-6 && (ba.p.unwrap() - 0.377_541).abs() < 1e-6);
        assert!((c.p.unwrap() - 0.629_169).abs() < 1e-6);
    }

    #[test]
    fn replies_abstain_where_they_are_invalid_and_are_counted() {
        let vote = |order, label, margin| Vote {
            order,
            label,
            margin,
            logprob: -0.5,
            label_mass: 0.9,
            rationale: format!("{margin}"),
        };
        let votes = |valid: Vec<Vote>, invalid: &[Order]| {
            let invalid = invalid.iter().map(|order| (*order, Invalid::CutOff)).collect();
            let (rule, prompt_tokens, generated_tokens) = (Rule::Soft, 30, 12);
            Reasoned { votes: Votes { valid, invalid }, rule, prompt_tokens, generated_tokens }
        };
        // The first response twice as A, by margins 2 and -1; nothing valid the other way round.
        let r = votes(vec![vote(Order::Ab, Label::A, 2.0), vote(Order::Ab, Label::B, -1.0)], &[Order::Ba, Order::Ba]);
        let c = Comparison::of_reasoned((4, 1), &r);
        let p = 0.5 * (0.880_797 + 0.268_941);
        assert!((c.p.unwrap() - p).abs() < 1e-6 && (c.orders[0].unwrap().p.unwrap() - p).abs() < 1e-6);
        assert_eq!((c.verdict, c.orders[0].unwrap().margin, c.consistent()), (Choice::First, Some(0.5), Some(false)));
        assert_eq!(c.orders[1], Some(Opinion::of_choice(Choice::Invalid)));
        assert_eq!(c.replies, Some([Tally { a: 1, b: 1, invalid: 0 }, Tally { a: 0, b: 0, invalid: 2 }]));
        assert_eq!(
            (c.tokens, c.written, c.rationale.as_deref(), c.rationale_order),
            (42, 12, Some("2"), Some(Order::Ab))
        );
        let flipped = c.flipped();
        assert_eq!(flipped.replies, Some([Tally { a: 0, b: 0, invalid: 2 }, Tally { a: 1, b: 1, invalid: 0 }]));
        assert_eq!((flipped.rationale_order, flipped.flipped()), (Some(Order::Ba), c));
        // Shown second and preferred: a margin below zero there is one above zero for the first response.
        let c = Comparison::of_reasoned((0, 1), &votes(vec![vote(Order::Ba, Label::B, -3.0)], &[Order::Ab]));
        assert_eq!(
            (c.orders[1].unwrap().margin, c.orders[1].unwrap().choice, c.verdict),
            (Some(3.0), Choice::First, Choice::First)
        );
        let c = Comparison::of_reasoned((0, 1), &votes(Vec::new(), &Order::BOTH));
        assert_eq!((c.verdict, c.p, c.consistent(), c.rationale), (Choice::Invalid, None, Some(false), None));
    }

    #[test]
    fn margins_decide_where_probabilities_saturate() {
        let orders = [Some(Opinion::of_margin(90.0)), Some(Opinion::of_margin(-80.0))];
        let c = Comparison::of_orders((0, 1), orders);
        assert_eq!((c.p, c.verdict), (Some(0.5), Choice::First));
    }

    #[test]
    fn flipping_twice_changes_nothing_and_once_mirrors_everything() {
        let orders = [Some(Opinion::of_margin(1.5)), Some(Opinion::of_choice(Choice::Second))];
        let c = Comparison::of_orders((2, 5), orders);
        let f = c.flipped();
        assert_eq!(f.flipped(), c);
        assert_eq!((f.pair, f.verdict), ((5, 2), c.verdict.flipped()));
        assert_eq!(f.orders[0].unwrap().choice, Choice::First);
        assert_eq!(f.orders[1].unwrap().margin, Some(-1.5));
    }

    #[test]
    fn an_invalid_order_makes_the_verdict_invalid() {
        let of = |a, b| Comparison::of_orders((0, 1), [a, b].map(|c| Some(Opinion::of_choice(c)))).verdict;
        assert_eq!(of(Choice::First, Choice::Invalid), Choice::Invalid);
        assert_eq!(of(Choice::First, Choice::Tie), Choice::First);
        assert_eq!(of(Choice::First, Choice::Second), Choice::Tie);
        assert_eq!(Comparison::of_orders((0, 1), [None, None]).verdict, Choice::Invalid);
        let single = Comparison::of_orders((0, 1), [Some(Opinion::of_p(0.7)), None]);
        assert_eq!((single.verdict, single.p), (Choice::First, Some(0.7)));
    }

    #[test]
    fn ratings_are_mean_shares_and_rewards_are_themselves() {
        let comparisons = vec![
            Comparison::of_verdict((0, 1), Choice::First, Some(0.75)),
            Comparison::of_verdict((2, 0), Choice::Tie, None),
            Comparison::of_verdict((1, 2), Choice::Invalid, None),
        ];
        let answer = Answer { comparisons, ..Answer::default() };
        assert_eq!(answer.ratings(4), [0.625, 0.25, 0.5, 0.5]);
        assert_eq!(answer.find((1, 0)).unwrap().p, Some(0.25));
        assert!(answer.find((0, 3)).is_none());
        let answer = Answer { rewards: Some(vec![1.0, -2.0, 1.0]), ..Answer::default() };
        assert_eq!(answer.ratings(3), [1.0, -2.0, 1.0]);
        assert_eq!(answer.find((1, 0)).unwrap().verdict, Choice::Second);
        assert_eq!(answer.find((0, 2)).unwrap().verdict, Choice::Tie);
    }
}
