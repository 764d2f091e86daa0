//! Every figure here is made up.

use super::table;
use super::*;
use crate::app::bench::results::FORMAT;
use crate::app::bench::{Bound, Ceilings, Environment, Measured, Results, Seconds, Way};
use crate::base::dtype::Dtype;
use crate::device::Device;
use crate::ops::cost::Cost;

const CEILINGS: Ceilings = Ceilings { copy: 4e12, read: 4e12, matrix: 800e12 };

fn seconds(median: f64) -> Seconds {
    Seconds { median, low: median, high: median, samples: 1 }
}

fn results(program: &str, cases: Vec<Measured>) -> Results {
    let environment = Environment { device: "Made up".into(), program: program.into(), ..Environment::default() };
    Results {
        format: FORMAT,
        benchmark: "kernels".into(),
        environment,
        ceilings: CEILINGS,
        cases,
        left_out: Vec::new(),
    }
}

/// A case that needs a second at its ceiling, done in `median` seconds.
fn case(name: &str, median: f64) -> Measured {
    let cost = Cost { bytes: CEILINGS.read, flops: CEILINGS.matrix };
    Measured::new(name.into(), cost, Bound::Either, seconds(median), &CEILINGS)
}

/// Names that goals and floors ask for, ours.
fn asked(sizes: &Sizes) -> Vec<String> {
    let ours = table::goals(sizes, &Passes::large()).into_iter().flat_map(|g| match g.answer {
        Answer::Cases { ours, .. } => ours,
        Answer::Nothing(_) => Vec::new(),
    });
    ours.chain(table::floors(sizes).into_iter().map(|f| f.name)).collect()
}

fn lines<'a>(page: &'a str, start: &str) -> Vec<&'a str> {
    page.lines().filter(|l| l.starts_with(start)).collect()
}

#[test]
fn every_case_of_a_goal_is_one_that_is_measured() {
    let sizes = Sizes::large();
    let cases = crate::app::bench::kernels::cases::cases(&Device::cpu(1), &sizes, Dtype::Bf16);
    let names: Vec<String> = cases.iter().map(|c| c.name()).collect();
    let whole = ["decode", "judge", "rank", "train"].map(|work| format!("{work} "));
    let (mut kernels, mut passes) = (0, 0);
    for name in asked(&sizes) {
        if whole.iter().any(|work| name.starts_with(work)) {
            passes += 1;
        } else {
            // Products that are asked for exist on Hopper only.
            assert!(names.contains(&name.replace("_portable", "")), "{name} is not measured");
            kernels += 1;
        }
    }
    assert!(kernels > 30 && passes > 6, "{kernels} and {passes}");
}

#[test]
fn goals_are_numbered_and_complete() {
    let ids: Vec<&str> = table::goals(&Sizes::large(), &Passes::large()).iter().map(|g| g.id).collect();
    let mut apart = ids.clone();
    apart.dedup();
    let all = "G1 G1b G2 G3 G4 G5 G6 G7 G8 G9 G10 G11 G12 G13 G14 G15";
    assert_eq!(apart.join(" "), all, "in order, lines of one goal together");
}

/// Everything at 90% of its ceiling, and peers at half our speed, but for some.
fn sitting() -> Sitting {
    let sizes = Sizes::large();
    let mut names = asked(&sizes);
    names.sort();
    names.dedup();
    let mut ours: Vec<Measured> = names.iter().map(|name| case(name, 1.0 / 0.9)).collect();
    let mut peers: Vec<Measured> = Vec::new();
    for case in &mut ours {
        let way = |name: &str, times: f64| Way { name: name.into(), seconds: seconds(times * case.seconds.median) };
        if case.name.starts_with("attention_fwd") {
            let ways = vec![way("cudnn", 1.05), way("flash", 2.0), way("flex", 1.6)];
            peers.push(Measured { way: Some("cudnn".into()), seconds: ways[0].seconds.clone(), ways, ..case.clone() });
        } else if case.name.starts_with("gemm_nt ") {
            let ways = vec![way("eager", 1.03)];
            peers.push(Measured { way: Some("eager".into()), seconds: ways[0].seconds.clone(), ways, ..case.clone() });
        } else if case.name.starts_with("rank ") {
            (case.tokens, case.effective) = (Some(100.0), Some(300.0));
        }
    }
    // A tenth of the pairs: 30 tokens.
    let flat = |median| Measured {
        tokens: Some(30.0),
        ..case("pairs llama-3.1-8b bfloat16, 16 answers of 400 to 500 tokens", median)
    };
    ours.push(flat(0.3));
    peers.push(Measured { way: Some("sorted".into()), ..flat(0.4) });
    let mut peers = results("torch 0.0", peers);
    let forward = peers.cases.iter().find(|c| c.name.contains("8192*2")).unwrap().name.clone();
    let backward = forward.replace("_fwd", "_bwd");
    peers.cases.push(case(&backward, 9.0));
    peers.leave_out(format!("{backward} (cudnn)"), "No kernel".into());
    Sitting::of(vec![results("gramophone 0", ours), peers]).unwrap()
}

#[test]
fn bars_are_met_or_missed_one_by_one() {
    let page = goals(&sitting(), &Sizes::large(), &Passes::large());
    let g2 = lines(&page, "| G2 ");
    assert!(g2[0].contains("1.05x cuDNN (1.08x), 2.00x SDPA flash (1.80x), 1.60x flex (1.50x)"), "{}", g2[0]);
    assert!(g2[0].contains("| 90.0% (76.0%) | short |"), "{}", g2[0]);
    assert!(g2[1].contains("1.05x cuDNN (1.03x) | 90.0% | met |"), "{}", g2[1]);
    let g1 = lines(&page, "| G1 ");
    assert!(g1[0].contains("1.03x eager (1.02x) | 90.0% (97.0%) | short |"), "{}", g1[0]);
    // A peer that did not run leaves the goal open; why is said.
    let g3 = lines(&page, "| G3 ");
    assert!(g3[0].contains("cuDNN (1.00x): left out: No kernel | 90.0% (60.0%) | open |"), "{}", g3[0]);
    assert!(lines(&page, "| G10 ")[0].contains("not measured: the engine has no FP8"));
}

#[test]
fn sharing_counts_the_tokens_that_it_saves() {
    let page = goals(&sitting(), &Sizes::large(), &Passes::large());
    // 300 tokens in 1.11 s against 30 in 0.3 and 0.4.
    let g9 = lines(&page, "| G9 ");
    assert!(
        g9[0].contains("2.70x own, unshared (2.50x), 3.60x best peer (3.00x) | 90.0% (85.0%) | met |"),
        "{}",
        g9[0]
    );
    assert!(g9[2].contains("own, unshared (5.30x): not in the files") && g9[2].contains("| open |"), "{}", g9[2]);
}

#[test]
fn shares_are_of_the_best_ceiling_of_the_sitting() {
    let mut peers = results("torch 0.0", vec![]);
    peers.ceilings.matrix *= 2.0;
    let name = table::floors(&Sizes::large()).into_iter().find(|f| f.what == "portable products").unwrap().name;
    let at = |median| {
        let ours = Measured { bound: Bound::Matrix, ..case(&name, median) };
        let sitting = Sitting::of(vec![peers.clone(), results("gramophone 0", vec![ours])]).unwrap();
        goals(&sitting, &Sizes::large(), &Passes::large())
    };
    let row = |page: &str| page.lines().find(|l| l.contains(&name)).unwrap().to_string();
    assert!(row(&at(1.0)).ends_with("| 50.0% | 50.0% | met |"), "{}", row(&at(1.0)));
    assert!(row(&at(1.1)).ends_with("| 45.5% | 50.0% | short |"), "{}", row(&at(1.1)));
}

#[test]
fn what_belongs_to_no_sitting_is_refused() {
    assert!(Sitting::of(vec![results("torch 0.0", vec![])]).is_err_and(|e| e.to_string().contains("bench kernels")));
    let mut other = results("torch 0.0", vec![]);
    other.environment.device = "Another".into();
    let both = Sitting::of(vec![results("gramophone 0", vec![]), other]);
    assert!(both.is_err_and(|e| e.to_string().contains("Made up; Another")));
}
