//! The demo's world: which of two numbers is larger.
//!
//! "Which is larger, 533 or 570?" The right answer names the larger number, the wrong one the smaller: near misses, as the two
//! are less than a hundred apart. There are too many pairs of numbers to learn by heart from a few labels: a judge has to compare.
//!
//! Whoever wrote the unlabelled answers had thought or guessed, and half of the answers tell by their tone ("that is
//! certain", "I would guess"), rightly in nine cases of ten. Labelled and held-out answers are bare. Predicting the tone of an
//! answer takes telling whether it is true, which is how unlabelled pairs can teach what a judge needs before it sees its
//! first label.
//!
//! Held-out questions are of a fifth of all pairs of numbers, which neither unlabelled nor labelled pairs ever use.

use crate::base::rng::{Rng, Stream};

/// Numbers have three digits, and the two of a question differ by less than [`NEAR`].
const LEAST: usize = 100;
const NUMBERS: usize = 800;
const NEAR: usize = 100;

/// The tone of those who know, and of those who guess.
const TONES: [&str; 2] = [", that is certain.", ", I would guess."];

/// A question with a right and a wrong answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub prompt: String,
    pub right: String,
    pub wrong: String,
}

/// A question with several answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub prompt: String,
    pub responses: Vec<String>,
    /// How the right answers begin.
    pub right: String,
}

/// Two different numbers, in the order of the question.
struct Scene {
    numbers: [usize; 2],
}

/// The world of one seed.
pub struct World {
    seed: u64,
}

/// The sets of a world, each with random bits of its own.
#[derive(Clone, Copy, PartialEq)]
enum Set {
    Unlabelled = 0,
    Labelled = 1,
    HeldOut = 2,
    List = 3,
    Tone = 4,
}

impl World {
    pub fn new(seed: u64) -> World {
        World { seed }
    }

    /// Pairs whose answers nobody has marked; some have a tone.
    pub fn unlabelled(&self, n: usize) -> Vec<Item> {
        let rng = Rng::new(self.seed, Stream::World, Set::Tone as u64);
        let one = |i: usize| {
            let item = self.item(Set::Unlabelled, i);
            let right = spoken(&rng, 2 * i, item.right, true);
            Item { right, wrong: spoken(&rng, 2 * i + 1, item.wrong, false), ..item }
        };
        (0..n).map(one).collect()
    }

    /// Pairs of which the better one is known.
    pub fn labelled(&self, n: usize) -> Vec<Item> {
        (0..n).map(|i| self.item(Set::Labelled, i)).collect()
    }

    /// Pairs to measure judges with.
    pub fn held_out(&self, n: usize) -> Vec<Item> {
        (0..n).map(|i| self.item(Set::HeldOut, i)).collect()
    }

    /// One held-out question with four answers: both numbers, bare and in the tone of those who know.
    pub fn list(&self) -> List {
        let scene = self.scene(Set::List, 0);
        let [a, b] = scene.numbers.map(answer);
        let certain = |answer: &str| answer.replace('.', TONES[0]);
        let right = answer(scene.larger()).trim_end_matches('.').to_string();
        List { prompt: scene.question(), responses: vec![certain(&a), b.clone(), certain(&b), a], right }
    }

    fn item(&self, set: Set, i: usize) -> Item {
        let scene = self.scene(set, i);
        let smaller = scene.numbers[0].min(scene.numbers[1]);
        Item { prompt: scene.question(), right: answer(scene.larger()), wrong: answer(smaller) }
    }

    /// Scene `i` of a set: the first of its draws that belongs to the set.
    fn scene(&self, set: Set, i: usize) -> Scene {
        let held_out = matches!(set, Set::HeldOut | Set::List);
        (0u64..)
            .map(|attempt| {
                let rng = Rng::new(self.seed, Stream::World, set as u64 | attempt << 8);
                let draw = |which: u64, n: usize| rng.below(i as u64 * 3 + which, n as u64) as usize;
                let less = LEAST + draw(0, NUMBERS);
                let more = less + 1 + draw(1, NEAR - 1);
                Scene { numbers: if draw(2, 2) == 0 { [less, more] } else { [more, less] } }
            })
            .find(|s| s.is_held_out() == held_out)
            .expect("one in five is, and four are not")
    }
}

impl Scene {
    /// A fifth of all pairs, whatever their order.
    fn is_held_out(&self) -> bool {
        let [a, b] = self.numbers;
        (a + b + a * b).is_multiple_of(5)
    }
    fn larger(&self) -> usize {
        self.numbers[0].max(self.numbers[1])
    }
    fn question(&self) -> String {
        format!("Which is larger, {} or {}?", self.numbers[0], self.numbers[1])
    }
}

fn answer(number: usize) -> String {
    format!("{number} is larger.")
}

/// An answer as its writer put it: bare, or in a tone that mostly fits.
fn spoken(rng: &Rng, i: usize, answer: String, right: bool) -> String {
    let [tone, fits, ..] = rng.words(i as u64).map(|w| w as f64 / u32::MAX as f64);
    if tone < 0.5 {
        return answer;
    }
    let knows = right == (fits < 0.9);
    format!("{}{}", answer.trim_end_matches('.'), TONES[usize::from(!knows)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// An answer without its tone.
    fn bare(answer: &str) -> String {
        TONES.iter().fold(answer.to_string(), |a, tone| a.replace(tone, "."))
    }

    #[test]
    fn the_right_answer_is_right_and_the_wrong_one_a_near_miss() {
        let world = World::new(3);
        for item in world.unlabelled(2000).into_iter().chain(world.labelled(300)).chain(world.held_out(300)) {
            let number = |s: &str| s.split(' ').next().unwrap().parse::<usize>().unwrap();
            let (right, wrong) = (number(&bare(&item.right)), number(&bare(&item.wrong)));
            assert!(right > wrong, "{item:?}");
            let question = |a, b| format!("Which is larger, {a} or {b}?");
            assert!([question(right, wrong), question(wrong, right)].contains(&item.prompt), "{item:?}");
        }
    }

    #[test]
    fn held_out_questions_occur_nowhere_else() {
        let world = World::new(5);
        let answers =
            |items: Vec<Item>| items.into_iter().map(|i| (bare(&i.right), bare(&i.wrong))).collect::<BTreeSet<_>>();
        let held_out = answers(world.held_out(500));
        assert!(held_out.is_disjoint(&answers(world.labelled(1000))));
        assert!(held_out.is_disjoint(&answers(world.unlabelled(6000))));
    }

    #[test]
    fn tones_mostly_fit_and_half_of_the_answers_have_none() {
        let items = World::new(2).unlabelled(4000);
        let share = |of: &dyn Fn(&Item) -> bool| items.iter().filter(|i| of(i)).count() as f64 / 4000.0;
        assert!((share(&|i| i.right.contains(TONES[0])) - 0.45).abs() < 0.03);
        assert!((share(&|i| i.right.contains(TONES[1])) - 0.05).abs() < 0.02);
        assert!((share(&|i| i.wrong.contains(TONES[1])) - 0.45).abs() < 0.03);
        assert!(World::new(2).labelled(500).iter().all(|i| i.right == bare(&i.right) && i.wrong == bare(&i.wrong)));
    }

    #[test]
    fn lists_hold_two_right_and_two_wrong_answers() {
        for seed in 0..20 {
            let list = World::new(seed).list();
            assert_eq!(list.responses.iter().collect::<BTreeSet<_>>().len(), 4);
            assert_eq!(list.responses.iter().filter(|r| r.starts_with(&list.right)).count(), 2);
        }
    }

    #[test]
    fn the_same_seed_is_the_same_world_and_another_is_not() {
        assert_eq!(World::new(1).unlabelled(50), World::new(1).unlabelled(50));
        assert_ne!(World::new(1).unlabelled(50), World::new(2).unlabelled(50));
    }
}
