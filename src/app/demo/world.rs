//! The demo's world: who has what.
//!
//! A question names three people and what each of them has, and asks for one: "Ada has a drum, Leo has a fig and Mara has a
//! kite. What has Leo?" The right answer reads it off; the wrong one names what somebody else has, so that they differ in
//! one word. Nothing can be learnt by heart: every question is new, and a judge has to look things up.
//!
//! Whoever wrote the unlabelled answers had read the question or not, and half of the answers tell by their tone ("that is
//! certain", "I would guess"), rightly in nine cases of ten. Labelled and held-out answers are bare. Predicting the tone of an
//! answer takes telling whether it is true, which is how unlabelled pairs can teach what a judge needs before it sees its
//! first label.
//!
//! Held-out questions are of a fifth of all combinations that neither unlabelled nor labelled pairs ever use.

use crate::base::rng::{Rng, Stream};

const NAMES: [&str; 24] = [
    "Ada", "Boris", "Clara", "Dora", "Emil", "Felix", "Gina", "Hugo", "Ida", "Jonas", "Kira", "Leo", "Mara", "Nina", "Otto",
    "Paula", "Quinn", "Rita", "Silas", "Theo", "Uma", "Vera", "Willa", "Yara",
];

const THINGS: [&str; 24] = [
    "bell", "book", "boat", "cake", "coat", "coin", "cup", "desk", "drum", "fig", "flute", "goat", "hat", "key", "kite",
    "lamp", "map", "pear", "rope", "rose", "saw", "shoe", "tent", "vase",
];

/// The tone of those who know, and of those who guess.
const TONES: [&str; 2] = [", that is certain.", ", I would guess."];

/// A question with a right and a wrong answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub prompt: String,
    pub right: String,
    pub wrong: String,
}

/// A question with several answers, one of them right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub prompt: String,
    pub responses: Vec<String>,
    pub right: String,
}

/// Who has what, and who is asked for.
struct Scene {
    people: [usize; 3],
    things: [usize; 3],
    asked: usize,
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

    /// One held-out question with three answers.
    pub fn list(&self) -> List {
        let scene = self.scene(Set::List, 0);
        List {
            prompt: scene.question(),
            responses: (0..3).map(|i| scene.answer(i)).collect(),
            right: scene.answer(scene.asked),
        }
    }

    fn item(&self, set: Set, i: usize) -> Item {
        let scene = self.scene(set, i);
        let other = 1 + Rng::new(self.seed, Stream::World, set as u64 | 16).below(i as u64, 2) as usize;
        Item {
            prompt: scene.question(),
            right: scene.answer(scene.asked),
            wrong: scene.answer((scene.asked + other) % 3),
        }
    }

    /// Scene `i` of a set: the first of its draws that belongs to the set.
    fn scene(&self, set: Set, i: usize) -> Scene {
        let held_out = matches!(set, Set::HeldOut | Set::List);
        (0u64..)
            .map(|attempt| {
                let rng = Rng::new(self.seed, Stream::World, set as u64 | attempt << 8);
                let at = i as u64 * 8;
                Scene {
                    people: three(&rng, at, NAMES.len()),
                    things: three(&rng, at + 3, THINGS.len()),
                    asked: rng.below(at + 6, 3) as usize,
                }
            })
            .find(|scene| scene.is_held_out() == held_out)
            .expect("one in five is, and four are not")
    }
}

/// Three different numbers below `n`.
fn three(rng: &Rng, at: u64, n: usize) -> [usize; 3] {
    let draw = |which: u64, n: usize| rng.below(at + which, n as u64) as usize;
    let mut left: Vec<usize> = (0..n).collect();
    [0, 1, 2].map(|k| left.swap_remove(draw(k, n - k as usize)))
}

impl Scene {
    /// A fifth of all combinations of who is asked for and what they have.
    fn is_held_out(&self) -> bool {
        (self.people[self.asked] * 7 + self.things[self.asked] * 3).is_multiple_of(5)
    }
    fn question(&self) -> String {
        let has = |i: usize| format!("{} has a {}", NAMES[self.people[i]], THINGS[self.things[i]]);
        format!("{}, {} and {}. What has {}?", has(0), has(1), has(2), NAMES[self.people[self.asked]])
    }
    /// The answer that names the thing of person `i`.
    fn answer(&self, i: usize) -> String {
        format!("{} has a {}.", NAMES[self.people[self.asked]], THINGS[self.things[i]])
    }
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
    fn the_right_answer_is_said_in_the_question_and_the_wrong_one_is_a_near_miss() {
        let world = World::new(3);
        for item in world.unlabelled(2000).into_iter().chain(world.labelled(300)).chain(world.held_out(300)) {
            let (right, wrong) = (bare(&item.right), bare(&item.wrong));
            let (said, _) = item.prompt.split_once(". What has ").unwrap();
            assert!(said.contains(right.trim_end_matches('.')), "{item:?}");
            assert!(!said.contains(wrong.trim_end_matches('.')), "{item:?}");
            let words = |s: &str| s.split(' ').map(String::from).collect::<Vec<_>>();
            assert_eq!(words(&right).iter().zip(words(&wrong)).filter(|(a, b)| *a != b).count(), 1);
            let named = right.split(' ').next().unwrap();
            assert!(item.prompt.ends_with(&format!("What has {named}?")));
        }
    }

    #[test]
    fn held_out_combinations_occur_nowhere_else() {
        let world = World::new(5);
        let answers = |items: Vec<Item>| items.into_iter().map(|i| bare(&i.right)).collect::<BTreeSet<_>>();
        let held_out = answers(world.held_out(500));
        assert!(held_out.is_disjoint(&answers(world.labelled(1000))));
        assert!(held_out.is_disjoint(&answers(world.unlabelled(5000))));
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
    fn lists_hold_three_answers_and_the_right_one() {
        for seed in 0..20 {
            let list = World::new(seed).list();
            assert_eq!(list.responses.iter().collect::<BTreeSet<_>>().len(), 3);
            assert!(list.responses.contains(&list.right));
        }
    }

    #[test]
    fn the_same_seed_is_the_same_world_and_another_is_not() {
        assert_eq!(World::new(1).unlabelled(50), World::new(1).unlabelled(50));
        assert_ne!(World::new(1).unlabelled(50), World::new(2).unlabelled(50));
    }
}
