//! Grades that do not fit into one suite, and tallies.

use super::super::fixture;
use super::*;
use proptest::prelude::*;

fn verdict(choice: Choice) -> Answer {
    Answer { comparisons: vec![Comparison::of_verdict((0, 1), choice, None)], ..Answer::default() }
}

#[test]
fn what_is_missing_is_named_and_a_recorded_result_is_taken() {
    let grading = Grading { suite: Suite::JudgeBench, seed: 1 };
    let item = fixture::pair("livecodebench", true);
    let message = grading.grade(0, &item, &Answer::default()).unwrap_err().to_string();
    assert!(message.contains("row 1 of judgebench") && message.contains("responses 0 and 1"), "{message}");
    let half = Answer { result: Some(0.5), ..Answer::default() };
    let grade = grading.grade(0, &item, &half).unwrap();
    assert_eq!((grade.official, grade.papers, grade.one_order.is_nan()), (0.5, 0.0, true));
}

#[test]
fn a_verdict_without_orders_is_graded_by_itself() {
    let item = fixture::pair("donotanswer", false);
    let grade = |suite, choice| Grading { suite, seed: 1 }.grade(0, &item, &verdict(choice)).unwrap();
    assert_eq!(grade(Suite::RewardBench, Choice::Second).official, 1.0);
    assert_eq!(grade(Suite::RewardBench, Choice::Tie).official, 0.5);
    assert_eq!(grade(Suite::JudgeBench, Choice::Tie).official, 0.0);
    assert_eq!(grade(Suite::Pairs, Choice::Second).one_order, 1.0);
}

proptest! {
    /// A weight is as many repetitions of a row, for every suite of pairs.
    #[test]
    fn weights_repeat_rows(right in prop::collection::vec((any::<bool>(), 0u32..4), 1..30)) {
        let suite = Suite::JudgeBench;
        let grading = Grading { suite, seed: 1 };
        let answer = |right: bool| verdict(if right { Choice::First } else { Choice::Second });
        let subset = |i: usize| if i.is_multiple_of(2) { "livecodebench" } else { "mmlu-pro-law" };
        let items: Vec<Item> = (0..right.len()).map(|i| fixture::pair(subset(i), true)).collect();
        let grades: Vec<Grade> =
            right.iter().enumerate().map(|(i, (r, _))| grading.grade(i, &items[i], &answer(*r)).unwrap()).collect();
        let weights: Vec<u32> = right.iter().map(|(_, w)| *w).collect();
        let (mut many, mut of) = (Vec::new(), Vec::new());
        for (i, w) in weights.iter().enumerate() {
            for _ in 0..*w {
                many.push(grades[i].clone());
                of.push(items[i].clone());
            }
        }
        let (short, long) = (Subsets::of(&items), Subsets::of(&of));
        let value = |t: &Tallies, name: &str| {
            suite.scores(t).into_iter().find(|s| s.rule == Rule::Official && s.name == name).map(|s| s.value)
        };
        let (weighted, repeated) = (Tallies::new(&short, &grades, &weights), Tallies::new(&long, &many, &vec![1; many.len()]));
        for name in ["Coding", "Knowledge", "Overall"] {
            prop_assert_eq!(value(&weighted, name), value(&repeated, name));
        }
    }
}
