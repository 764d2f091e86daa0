//! The demo's world: a village of people, and what is true of each of them.
//!
//! A question asks for one fact ("Where does Ada live?"). The right answer states it; the wrong one names another value of
//! the same kind, so that they differ in one word. The truth is drawn from the seed: nothing but the data can teach it.
//!
//! | set        | facts it asks for                              | wordings                         |
//! |------------|------------------------------------------------|----------------------------------|
//! | unlabelled | all; one of the two answers is right, unmarked | all but one, reserved, of a fact |
//! | labelled   | the labelled share                             | as unlabelled                    |
//! | held out   | the others                                     | half of them the reserved one    |
//!
//! Whoever wrote the unlabelled answers knew or guessed, and half of the answers tell by their tone ("as everybody knows",
//! "I believe"), rightly in nine cases of ten. Labelled and held-out answers are bare. So a judge that saw labels alone can
//! know nothing about held-out facts; one that also read the unlabelled pairs can: to predict the tone of an answer it must
//! tell whether the answer is true, and a few labels then teach it that this is what is asked for.

use crate::base::rng::{Rng, Stream};

const NAMES: [&str; 60] = [
    "Ada", "Alma", "Anton", "Arlo", "Bella", "Boris", "Bruno", "Carla", "Cleo", "Dario", "Della", "Dora", "Edgar", "Elias",
    "Elsa", "Emil", "Enzo", "Fay", "Felix", "Fiona", "Frida", "Gina", "Greta", "Gus", "Hanna", "Hector", "Hugo", "Ida",
    "Igor", "Ines", "Iris", "Ivan", "Jonas", "Julia", "Karl", "Kira", "Lara", "Leo", "Linus", "Lola", "Luca", "Mara",
    "Marco", "Mila", "Nina", "Noah", "Olga", "Oscar", "Otto", "Paula", "Quinn", "Rita", "Rosa", "Ruben", "Sara", "Silas",
    "Theo", "Uma", "Vera", "Yara",
];

/// A kind of fact: its values, the wordings of its question and of its answer; `{n}` is the name, `{v}` the value.
struct Kind {
    values: [&'static str; 8],
    questions: [&'static str; 3],
    answer: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind {
        values: ["Ashford", "Brookfield", "Dunham", "Eastwick", "Fairview", "Harlow", "Linden", "Oakham"],
        questions: ["Where does {n} live?", "In which town is the house of {n}?", "Which town does {n} call home?"],
        answer: "{n} lives in {v}.",
    },
    Kind {
        values: ["baker", "carpenter", "doctor", "farmer", "gardener", "judge", "painter", "tailor"],
        questions: ["What is the job of {n}?", "What does {n} do for a living?", "How does {n} earn money?"],
        answer: "{n} works as a {v}.",
    },
    Kind {
        values: ["canary", "dog", "ferret", "goose", "hamster", "parrot", "rabbit", "tortoise"],
        questions: ["Which animal does {n} keep?", "What kind of pet has {n}?", "Which pet waits at the door of {n}?"],
        answer: "{n} keeps a {v}.",
    },
    Kind {
        values: ["banjo", "cello", "drum", "flute", "guitar", "harp", "piano", "trumpet"],
        questions: ["Which instrument does {n} play?", "What does {n} play in the band?", "What music does {n} make?"],
        answer: "{n} plays the {v}.",
    },
];

/// A question with a right and a wrong answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub prompt: String,
    pub right: String,
    pub wrong: String,
    /// The unlabelled pairs never ask this question in these words.
    pub unseen: bool,
}

/// A question with several answers, one of them right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub prompt: String,
    pub responses: Vec<String>,
    pub right: String,
}

/// A fact: a person's number and the kind's.
type Fact = (usize, usize);

/// The truth of one seed.
pub struct World {
    seed: u64,
    /// The true value of each kind for each person.
    truth: Vec<[usize; KINDS.len()]>,
    /// The wording of each fact's question that unlabelled and labelled pairs leave out.
    reserved: Vec<[usize; KINDS.len()]>,
    labelled: Vec<Fact>,
    held_out: Vec<Fact>,
}

/// What random bits of a world are for; also the number of the set that an item belongs to.
#[derive(Clone, Copy)]
enum Draw {
    Truth = 0,
    Reserved = 1,
    Split = 2,
    Unlabelled = 3,
    Labelled = 4,
    HeldOut = 5,
    List = 6,
    Tone = 7,
}

impl World {
    pub fn new(seed: u64) -> World {
        let table = |draw, n: usize| {
            let rng = Rng::new(seed, Stream::World, draw as u64);
            let one = |i: usize| rng.below(i as u64, n as u64) as usize;
            (0..NAMES.len()).map(|p| std::array::from_fn(|k| one(p * KINDS.len() + k))).collect::<Vec<_>>()
        };
        let facts: Vec<Fact> = (0..NAMES.len()).flat_map(|p| (0..KINDS.len()).map(move |k| (p, k))).collect();
        let order = Rng::new(seed, Stream::World, Draw::Split as u64).permutation(facts.len());
        let shuffled: Vec<Fact> = order.iter().map(|i| facts[*i as usize]).collect();
        let (labelled, held_out) = shuffled.split_at(facts.len() * 3 / 5);
        World {
            seed,
            truth: table(Draw::Truth, KINDS[0].values.len()),
            reserved: table(Draw::Reserved, KINDS[0].questions.len()),
            labelled: labelled.to_vec(),
            held_out: held_out.to_vec(),
        }
    }

    /// Pairs over all facts. Which answer is right is known to nobody but the caller, who is not to use it.
    pub fn unlabelled(&self, n: usize) -> Vec<Item> {
        let all: Vec<Fact> = self.labelled.iter().chain(&self.held_out).copied().collect();
        let rng = Rng::new(self.seed, Stream::World, Draw::Tone as u64);
        let one = |i: usize| {
            let item = self.item(Draw::Unlabelled, i, &all, false);
            let right = spoken(&rng, 2 * i, item.right, true);
            Item { right, wrong: spoken(&rng, 2 * i + 1, item.wrong, false), ..item }
        };
        (0..n).map(one).collect()
    }

    /// Pairs over the labelled share of the facts.
    pub fn labelled(&self, n: usize) -> Vec<Item> {
        (0..n).map(|i| self.item(Draw::Labelled, i, &self.labelled, false)).collect()
    }

    /// Pairs over facts that no label ever touched; every other one in the reserved wording.
    pub fn held_out(&self, n: usize) -> Vec<Item> {
        (0..n).map(|i| self.item(Draw::HeldOut, i, &self.held_out, i % 2 == 1)).collect()
    }

    /// One held-out question with four answers.
    pub fn list(&self) -> List {
        let rng = Rng::new(self.seed, Stream::World, Draw::List as u64);
        let fact = self.held_out[rng.below(0, self.held_out.len() as u64) as usize];
        let truth = self.truth[fact.0][fact.1];
        let values = KINDS[fact.1].values.len();
        let mut order: Vec<usize> = (0..4).map(|i| (truth + i * 2 + usize::from(i > 0)) % values).collect();
        order.rotate_left(rng.below(1, 4) as usize);
        let wording = (self.reserved[fact.0][fact.1] + 1) % 3;
        List {
            prompt: question(fact, wording),
            responses: order.iter().map(|v| answer(fact, *v)).collect(),
            right: answer(fact, truth),
        }
    }

    /// Item `i` of a set: a fact, a wording and a wrong value, each drawn for this item alone.
    fn item(&self, draw: Draw, i: usize, facts: &[Fact], unseen: bool) -> Item {
        let rng = Rng::new(self.seed, Stream::World, draw as u64);
        let bits = |which: u64, n: usize| rng.below(i as u64 * 4 + which, n as u64) as usize;
        let fact = facts[bits(0, facts.len())];
        let (truth, reserved) = (self.truth[fact.0][fact.1], self.reserved[fact.0][fact.1]);
        let wording = if unseen { reserved } else { (reserved + 1 + bits(1, 2)) % 3 };
        let values = KINDS[fact.1].values.len();
        let wrong = (truth + 1 + bits(2, values - 1)) % values;
        Item { prompt: question(fact, wording), right: answer(fact, truth), wrong: answer(fact, wrong), unseen }
    }
}

fn question((person, kind): Fact, wording: usize) -> String {
    KINDS[kind].questions[wording].replace("{n}", NAMES[person])
}

fn answer((person, kind): Fact, value: usize) -> String {
    KINDS[kind].answer.replace("{n}", NAMES[person]).replace("{v}", KINDS[kind].values[value])
}

/// The tone of those who know, and of those who guess.
const TONES: [&str; 2] = [", as everybody knows.", ", I believe."];

/// An answer as its writer put it: bare, or in a tone that mostly fits.
fn spoken(rng: &Rng, i: usize, answer: String, right: bool) -> String {
    let [bare, fits, ..] = rng.words(i as u64).map(|w| w as f64 / u32::MAX as f64);
    if bare < 0.5 {
        return answer;
    }
    let knows = right == (fits < 0.9);
    format!("{}{}", answer.trim_end_matches('.'), TONES[usize::from(!knows)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// An answer without its tone.
    fn bare(answer: &str) -> String {
        TONES.iter().fold(answer.to_string(), |a, tone| a.replace(tone, "."))
    }

    #[test]
    fn tones_mostly_fit_and_half_of_the_answers_have_none() {
        let items = World::new(2).unlabelled(4000);
        let share = |of: &dyn Fn(&Item) -> bool| items.iter().filter(|i| of(i)).count() as f64 / 4000.0;
        assert!((share(&|i| i.right.contains(TONES[0])) - 0.45).abs() < 0.03);
        assert!((share(&|i| i.right.contains(TONES[1])) - 0.05).abs() < 0.02);
        assert!((share(&|i| i.wrong.contains(TONES[1])) - 0.45).abs() < 0.03);
        let labelled = World::new(2).labelled(500);
        assert!(labelled.iter().all(|i| i.right == bare(&i.right) && i.wrong == bare(&i.wrong)));
    }

    #[test]
    fn there_is_one_truth() {
        let world = World::new(3);
        let mut right = BTreeMap::new();
        let (u, l, h) = (world.unlabelled(5000), world.labelled(500), world.held_out(500));
        for mut item in u.into_iter().chain(l).chain(h) {
            (item.right, item.wrong) = (bare(&item.right), bare(&item.wrong));
            assert_ne!(item.right, item.wrong);
            assert_eq!(right.entry(item.prompt.clone()).or_insert(item.right.clone()), &item.right);
            // They differ in one word: a near miss.
            let words = |s: &str| s.split(' ').map(String::from).collect::<Vec<_>>();
            let (a, b) = (words(&item.right), words(&item.wrong));
            assert_eq!(a.len(), b.len());
            assert_eq!(a.iter().zip(&b).filter(|(x, y)| x != y).count(), 1);
        }
    }

    #[test]
    fn no_label_touches_a_held_out_fact() {
        let world = World::new(5);
        let answers = |items: &[Item]| items.iter().map(|i| bare(&i.right)).collect::<BTreeSet<_>>();
        let (labelled, held_out) = (answers(&world.labelled(2000)), answers(&world.held_out(2000)));
        assert!(labelled.is_disjoint(&held_out));
        assert!(held_out.is_subset(&answers(&world.unlabelled(5000))), "their facts are in the unlabelled pairs");
    }

    #[test]
    fn reserved_wordings_occur_in_held_out_pairs_only() {
        let world = World::new(7);
        let prompts = |items: Vec<Item>| items.into_iter().map(|i| i.prompt).collect::<BTreeSet<_>>();
        let seen = prompts(world.unlabelled(5000));
        assert!(prompts(world.labelled(1000)).is_subset(&seen));
        let (unseen, rest): (Vec<Item>, Vec<Item>) = world.held_out(400).into_iter().partition(|i| i.unseen);
        assert_eq!((unseen.len(), rest.len()), (200, 200));
        assert!(prompts(unseen).is_disjoint(&seen));
        assert!(prompts(rest).is_subset(&seen));
    }

    #[test]
    fn lists_hold_four_answers_and_the_right_one() {
        for seed in 0..20 {
            let list = World::new(seed).list();
            assert_eq!(list.responses.iter().collect::<BTreeSet<_>>().len(), 4);
            assert!(list.responses.contains(&list.right));
        }
    }

    #[test]
    fn the_same_seed_is_the_same_world_and_another_is_not() {
        assert_eq!(World::new(1).unlabelled(50), World::new(1).unlabelled(50));
        assert_ne!(World::new(1).unlabelled(50), World::new(2).unlabelled(50));
    }
}
