use super::*;

/// The smallest file that is complete.
const MINIMAL: &str = "[data]\nrationales = \"r\"\nlabelled = \"l\"\nunlabelled = \"u\"\n\
                       [prover.model]\npath = \"p\"\n[reward.model]\npath = \"m\"\n";

fn minimal(overrides: &[&str]) -> Result<SelfTrain> {
    let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
    SelfTrain::parse(MINIMAL, "run.toml", &overrides)
}

#[test]
fn defaults_are_those_of_the_papers() {
    let file = minimal(&[]).unwrap();
    let t = &file.table;
    assert_eq!((t.rounds.count, t.rounds.start, t.rounds.keep), (3, Start::Backbone, Keep::All));
    assert_eq!((t.prover.proofs, t.prover.teacher, t.reward.tau, t.pipeline.fine_tune), (4, Teacher::Fixed, 0.8, true));
    assert_eq!((file.prover.train.stage, file.reward.train.stage), (Stage::Prove, Stage::Sft));
    let epochs = [&file.prover, &file.reward, &file.rounds, &file.last].map(|run| run.train.epochs);
    assert_eq!(epochs, [Some(3.0), Some(1.0), Some(1.0), Some(3.0)]);
    let dirs = [&file.prover, &file.last].map(|run| run.checkpoint.dir.clone());
    assert_eq!(dirs, [Path::new("self-train/prover"), Path::new("self-train/final")]);
}

#[test]
fn rounds_and_the_last_run_have_what_the_judge_was_given() {
    let file = minimal(&[
        "reward.train.lr=3e-4",
        "reward.train.steps=7",
        "rounds.train.epochs=2",
        "final.train.lr=1e-6",
        "reward.model.dtype=bf16",
        "rounds.count=1",
    ])
    .unwrap();
    let of = |run: &Run| (run.train.lr, run.train.steps, run.train.epochs);
    assert_eq!(of(&file.reward), (3e-4, Some(7), None));
    assert_eq!(of(&file.rounds), (3e-4, None, Some(2.0)));
    assert_eq!(of(&file.last), (1e-6, Some(7), None));
    assert_eq!((file.rounds.model.path.as_deref(), file.table.rounds.count), (Some(Path::new("m")), 1));
    assert_eq!(file.rounds.model.dtype, file.reward.model.dtype);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let cases: [(&str, &[&str], &str); 14] = [
        (
            "",
            &["reward.train.learning_rate=1"],
            "command line: unknown key `reward.train.learning_rate`: did you mean `reward.train.lr`?",
        ),
        (
            "[reward.train]\nstepz = 1",
            &[],
            "run.toml:10: unknown key `reward.train.stepz`: did you mean `reward.train.steps`?",
        ),
        ("[reward]\nvots = 4", &[], "run.toml:10: unknown key `reward.vots`: did you mean `reward.votes`?"),
        ("[rewrd]\nvotes = 4", &[], "unknown key `rewrd.votes`: did you mean `reward.votes`?"),
        ("[round.train]\nlr = 1", &[], "unknown key `round.train`"),
        ("[final]\ntrain = 1", &[], "`final.train` is a section"),
        ("", &["prover.train.lr=fast"], "command line: prover.train.lr = \"fast\": must be a number of at least 0"),
        ("", &["prover.data.train=x"], "command line: prover.data.train: the pipeline sets it"),
        ("", &["final.model.path=x"], "final.model.path: the judge's model is set in [reward.model]"),
        ("", &["reward.temperature=0"], "all 3 votes of an order the same"),
        ("", &["data.labelled=[]"], "data.labelled names no file"),
        ("", &["data.unlabelled=-"], "standard input"),
        ("", &["rules.quotes=("], "no regular expression"),
        ("", &["prover.train.steps=2", "prover.train.epochs=1"], "both set the length"),
    ];
    for (text, overrides, expected) in cases {
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        let error = SelfTrain::parse(&format!("{MINIMAL}{text}"), "run.toml", &overrides).unwrap_err();
        assert!(error.to_string().contains(expected) && error.exit_code() == 2, "{error}\nhas no\n{expected}");
    }
}

#[test]
fn the_explanation_is_a_file_that_means_the_same() {
    for overrides in
        [&[][..], &["reward.train.steps=5", "forms.judge=j.txt", "rules.demand_a=a \"b\"", "final.train.epochs=2"]]
    {
        let file = minimal(overrides).unwrap();
        let text = file.explain();
        let again = SelfTrain::parse(&text, "explained.toml", &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!((again.hash(), again.table.values()), (file.hash(), file.table.values()), "{text}");
    }
    assert_ne!(minimal(&["rounds.train.lr=1"]).unwrap().hash(), minimal(&[]).unwrap().hash());
    assert_eq!(minimal(&["pipeline.dir=x", "pipeline.unit=3"]).unwrap().hash(), minimal(&[]).unwrap().hash());
}
