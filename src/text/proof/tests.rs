use super::*;
use crate::text::example::{Example, Reason};
use crate::text::message::Message;
use crate::text::proving::{Claim, Lesson, ProvingTemplate};
use crate::text::template::JudgeTemplate;
use proptest::prelude::*;

/// The wording of a shell game, on one line.
fn shell_game() -> Rule {
    let rationale = Form::parse("r", "<think> {chain} A {check} </think> <answer> {label} </answer>").unwrap();
    Rule::new(rationale, Form::parse("p", "first {chain} then A {check} thus {label}").unwrap()).unwrap()
}

fn rationale(feedback: &str, comparison: &str, conclusion: &str, answer: &str) -> String {
    format!(
        "<think>\nFeedback:\n{feedback}\n\nComparision:\n{comparison}\n\nConclusion:\nResponse {conclusion} is better.\n\
         </think>\n<answer>\n{answer}\n</answer>"
    )
}

fn claim(label: Side) -> Claim {
    Claim { prompt: vec![Message::user("ball 1 1-5 4-5")], a: "7".into(), b: "4".into(), label }
}

fn check(checks: &Checks, rule: &Rule, label: Side, proof: &str) -> std::result::Result<String, Flaw> {
    let words = |text: &str| Ok(text.split_whitespace().count());
    checks.check(rule, &claim(label), proof, false, words).unwrap().map(|r| r.rationale)
}

#[test]
fn the_shipped_forms_have_the_published_structure() {
    let rule = Rule::standard();
    let z = rationale("A is wrong.\nB is right.", "B wins.", "B", "B");
    let proof = rule.prove(&z).unwrap();
    let (header, rest) = proof.split_once("\n\n").unwrap();
    assert!(!header.contains('\n') && rest.contains("A is wrong.\nB is right.\n\n") && rest.contains("\nB wins.\n\n"));
    assert!(proof.ends_with("\n\nThus, Response B is better."));
    assert_eq!(rule.reform(&proof).unwrap(), z);
    assert_eq!(rule.reform(&format!("\n {proof}\n")).unwrap(), z, "blank space around it does not count");
}

#[test]
fn the_rule_is_data() {
    let rule = shell_game();
    let z = "<think> 1-5 > 5 4-5 > 4 A 7 no B 4 yes </think> <answer> B </answer>";
    let proof = "first 1-5 > 5 4-5 > 4 then A 7 no B 4 yes thus B";
    assert_eq!((rule.prove(z).unwrap().as_str(), rule.reform(proof).unwrap().as_str()), (proof, z));
}

#[test]
fn a_rule_knows_whether_its_rationales_are_replies() {
    assert_eq!((Rule::standard().reply(), shell_game().reply()), (Some(false), Some(false)));
    let form = |text: &str| Rule::new(Form::parse("r", text).unwrap(), Form::parse("p", "{x} thus {label}").unwrap());
    assert_eq!(form("{x} </think> <answer> {label} </answer>").unwrap().reply(), Some(true));
    assert_eq!(form("{x}, so {label}").unwrap().reply(), None);
}

#[test]
fn what_breaks_a_form_is_told() {
    let rule = Rule::standard();
    let z = rationale("f", "c", "A", "A");
    for broken in [
        z.replace("Comparision", "Comparison"),
        z.replace("</answer>", ""),
        z.replace("\nf\n", "\n\n"),
        format!("{z}\n<answer>\nA\n</answer>"),
        z.replace("\nA\n", "\nC\n"),
        z.replace("\nf\n", "\nf\n\nComparision:\ng\n"),
        String::new(),
    ] {
        assert_eq!(rule.prove(&broken), Err(Flaw::Structure), "{broken}");
    }
    assert_eq!(rule.prove(&rationale("f", "c", "A", "B")), Err(Flaw::Conclusion));
    // Words of the other form would come back in another section.
    assert_eq!(rule.prove(&rationale("f\n\nNext, the two beside each other:\nx", "c", "A", "A")), Err(Flaw::Structure));
}

#[test]
fn forms_that_cannot_be_read_back_are_refused() {
    for (text, word) in [
        ("{x} and no label", "{label}"),
        ("only {label}", "no section"),
        ("{x} or {x}: {label}", "{x} twice"),
        ("{x} {label}", "before {label}"),
    ] {
        let error = Form::parse("f", text).unwrap_err();
        assert!(error.to_string().contains(word) && error.exit_code() == 2, "{error}");
    }
    let form = |text: &str| Form::parse("f", text).unwrap();
    let error = Rule::new(form("{x} so {label}"), form("{x} and {y} so {label}")).unwrap_err().to_string();
    assert!(error.contains("no field {y}"), "{error}");
    assert_eq!(form("{X} {} {x}: {label}").sections(), ["x"], "braces that hold no name are text");
    assert!(Form::open(Path::new("/nowhere/form.txt")).is_err());
}

#[test]
fn every_rule_is_checked() {
    let (checks, rule) = (Checks { max_tokens: 40, ..Checks::default() }, Rule::standard());
    let proof = |feedback: &str, comparison: &str, label: &str| {
        rule.proof.print(
            &[("feedback".to_string(), feedback.to_string()), ("comparison".into(), comparison.into())].into(),
            side(label).unwrap(),
        )
    };
    let check = |label, text: &str| check(&checks, &rule, label, text);
    assert_eq!(check(Side::A, &proof("f", "c", "A")).unwrap(), rationale("f", "c", "A", "A"));
    for (expected, text) in [
        (Flaw::NotText, " \n".to_string()),
        (Flaw::NotText, proof("f\u{fffd}", "c", "A")),
        (Flaw::NotText, proof("f\u{0}", "c", "A")),
        (Flaw::Structure, "So A.".into()),
        (Flaw::Structure, proof("f <answer> B </answer>", "c", "A")),
        (Flaw::Verdict, proof("f", "c", "B")),
        (Flaw::Conclusion, proof("f", "One may say so.\nResponse B is better.", "A")),
        (Flaw::Loop, proof("one two three four five six seven eight ".repeat(4).as_str(), "c", "A")),
        (Flaw::Leak, proof("f", "The Labelled Response is good", "A")),
        (Flaw::TooLong, proof("f", &(0..40).map(|i| i.to_string()).collect::<Vec<_>>().join(" "), "A")),
    ] {
        assert_eq!(check(Side::A, &text), Err(expected), "{text}");
    }
    let cut = checks.check(&rule, &claim(Side::A), &proof("f", "c", "A"), true, |_| Ok(1)).unwrap();
    assert_eq!(cut, Err(Flaw::TooLong));
    // A ruler is no loop, three times is no loop, and text without blanks is seen as words, too.
    for fine in ["-".repeat(90), "one two three four five six seven eight\n".repeat(3)] {
        check(Side::A, &proof(fine.trim(), "c", "A")).unwrap();
    }
    assert_eq!(check(Side::A, &proof(&"一二三四五六七八".repeat(4), "c", "A")), Err(Flaw::Loop));
    let names: std::collections::BTreeSet<&str> = Flaw::ALL.iter().map(|f| f.name()).collect();
    assert_eq!(names.len(), Flaw::ALL.len());
}

#[test]
fn quotes_and_demands_tie_a_proof_to_its_question() {
    let rule = shell_game();
    let demand = |yes: &str| {
        Some(format!(
            "> {{response_{yes}}} A {{response_a}} {} B {{response_b}} {} </think>",
            if yes == "a" { "yes" } else { "no" },
            if yes == "a" { "no" } else { "yes" }
        ))
    };
    let checks = Checks::default().with_patterns(&["[1-9]-[1-9]".into()], [demand("a"), demand("b")]).unwrap();
    let check = |label, text: &str| check(&checks, &rule, label, text).map(|_| ());
    assert_eq!(check(Side::B, "first 1-5 > 5 4-5 > 4 then A 7 no B 4 yes thus B"), Ok(()));
    assert_eq!(check(Side::B, "first 4-5 > 5 1-5 > 4 then A 7 no B 4 yes thus B"), Err(Flaw::Quote));
    assert_eq!(check(Side::B, "first 1-5 > 5 then A 7 no B 4 yes thus B"), Err(Flaw::Quote));
    for broken in ["4-5 > 5 then A 7 no B 4 yes", "4-5 > 4 then A 6 no B 4 yes", "4-5 > 4 then A 7 yes B 4 yes"] {
        assert_eq!(check(Side::B, &format!("first 1-5 > 5 {broken} thus B")), Err(Flaw::Demand));
    }
    assert_eq!(check(Side::A, "first 1-5 > 5 4-5 > 7 then A 7 yes B 4 no thus A"), Ok(()));
    for (quotes, demands) in
        [(vec!["(".to_string()], [None, None]), (vec![], [None, Some("{response_a}(".to_string())])]
    {
        let error = Checks::default().with_patterns(&quotes, demands).unwrap_err();
        assert!(error.to_string().contains("no regular expression") && error.exit_code() == 2, "{error}");
    }
}

#[test]
fn lessons_for_the_prover_and_for_the_judge() {
    let why = Why::Sections(vec![("feedback", "f".into()), ("comparison", "c".into())]);
    let labelled = |why| {
        let Claim { prompt, a, b, label } = claim(Side::B);
        Example::Labelled { prompt, a, b, label, why }
    };
    let prover = Lesson::Prover(ProvingTemplate::standard(), Rule::standard());
    let Example::Completion { prompt, completion } = prover.of(labelled(Some(why.clone()))).unwrap() else { panic!() };
    let asked = prompt[0].text().unwrap();
    assert!(
        asked.starts_with("[User Question]\nball 1 1-5 4-5\n\n")
            && asked.ends_with("The preferred response is: B. Prove why.")
    );
    assert!(completion.ends_with("Thus, Response B is better."));
    let alone = prover.alone(&prover.of(labelled(Some(why.clone()))).unwrap()).unwrap();
    assert_eq!(alone, Example::Completion { prompt: vec![Message::user("")], completion });

    let judge = Lesson::Judge(JudgeTemplate::rationale(), Rule::standard());
    let Example::Completion { prompt, completion } = judge.of(labelled(Some(why.clone()))).unwrap() else { panic!() };
    assert_eq!(
        (prompt, completion.as_str()),
        (JudgeTemplate::rationale().messages("ball 1 1-5 4-5", "7", "4"), rationale("f", "c", "B", "B").as_str())
    );
    assert!(judge.alone(&labelled(None)).is_none());

    assert_eq!(prover.of(labelled(None)), Err(Reason::NoRationale));
    assert_eq!(prover.of(labelled(Some(Why::Text("?".into())))), Err(Reason::BadRationale));
    assert_eq!(prover.of(labelled(Some(Why::Text(rationale("f", "c", "A", "A"))))), Err(Reason::BadRationale));
    let other = Lesson::Prover(ProvingTemplate::standard(), shell_game());
    assert_eq!(other.of(labelled(Some(why))), Err(Reason::BadRationale));
}

#[test]
fn proving_templates_name_a_missing_field() {
    let all = ["{prompt}", "{response_a}", "{response_b}", "{label}"];
    for missing in all {
        let text: String = all.iter().filter(|f| **f != missing).copied().collect();
        let error = ProvingTemplate::parse("t", &text).unwrap_err();
        assert!(error.to_string().contains(missing) && error.exit_code() == 2, "{error}");
    }
}

/// Texts with words that separate sections, now and then.
fn texts() -> impl Strategy<Value = String> {
    let pieces = [
        "Feedback:",
        "\n\nComparision:\n",
        "\n\nThus, Response ",
        "A",
        " is better.",
        "\n",
        "first ",
        " then ",
        " x",
        "{label}",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 1..6).prop_map(|p| p.concat())
}

proptest! {
    /// Whatever is accepted comes back to the letter; whatever holds no separator is accepted.
    #[test]
    fn the_rule_has_an_exact_inverse(feedback in texts(), comparison in texts(), b in any::<bool>()) {
        let label = if b { "B" } else { "A" };
        let (rule, z) = (Rule::standard(), rationale(&feedback, &comparison, label, label));
        match rule.prove(&z) {
            Ok(proof) => {
                prop_assert_eq!(rule.reform(&proof).unwrap(), z.clone());
                let read = rule.rationale.read(&z).unwrap();
                prop_assert_eq!((&read.sections["feedback"], &read.sections["comparison"]), (&feedback, &comparison));
            }
            Err(_) => prop_assert!(
                [&feedback, &comparison].iter().any(|t| t.trim().is_empty() || t.contains("Comparision") || t.contains("Thus"))
            ),
        }
    }

    #[test]
    fn plain_words_always_pass(feedback in "[a-z .]{0,30}[a-z]", comparison in "[a-z .]{0,30}[a-z]") {
        let (rule, z) = (Rule::standard(), rationale(&feedback, &comparison, "A", "A"));
        prop_assert_eq!(rule.reform(&rule.prove(&z).unwrap()).unwrap(), z);
    }
}

#[test]
fn a_label_by_itself_is_no_conclusion() {
    let rationale =
        Form::parse("r", "<think>\n{steps}\nso {comparison}\n</think>\n<answer>\n{label}\n</answer>").unwrap();
    let rule = Rule::new(rationale, Form::parse("p", "first {steps} then {comparison} thus {label}").unwrap()).unwrap();
    let checks = Checks { max_tokens: 40, ..Checks::default() };
    // It names both responses, as it must, and speaks for one.
    check(&checks, &rule, Side::A, "first x then A 7 yes B 4 no thus A").unwrap();
}
