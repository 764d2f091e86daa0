//! What ptxas made of every kernel must not get worse than what `kernels/ledger.tsv` says: registers, shared memory, spills.
//! Where the build had no nvcc there is nothing to compare, and the test says so. `GRAMOPHONE_WRITE=1` writes the file anew.

use crate::architecture::root;
use gramophone::device::cuda::LEDGER;
use std::collections::BTreeMap;
use std::fs;

const FILE: &str = "kernels/ledger.tsv";

/// `(kernel, architecture)` to registers, shared bytes, spill bytes.
type Ledger = BTreeMap<(String, String), [u64; 3]>;

fn parse(text: &str) -> Ledger {
    let line = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        let [name, architecture, numbers @ ..] = words.as_slice() else { panic!("{FILE}: `{line}`") };
        let numbers: Vec<u64> =
            numbers.iter().map(|n| n.parse().unwrap_or_else(|_| panic!("{FILE}: `{line}`"))).collect();
        ((name.to_string(), architecture.to_string()), numbers.try_into().expect("three numbers"))
    };
    text.lines().skip(1).map(line).collect()
}

#[test]
fn kernels_use_no_more_than_the_ledger_says() {
    let built = parse(LEDGER);
    if built.is_empty() {
        println!("this build had no nvcc, so there is nothing to hold against {FILE}; scripts/fetch_nvcc brings one");
        return;
    }
    let path = root().join(FILE);
    if std::env::var_os("GRAMOPHONE_WRITE").is_some() {
        fs::write(&path, LEDGER).unwrap();
    }
    let committed = parse(&fs::read_to_string(&path).unwrap_or_default());
    let worse = worse(&built, &committed);
    assert!(worse.is_empty(), "{}\nIf this is meant: GRAMOPHONE_WRITE=1 cargo test --release ledger", worse.join("\n"));
}

/// What is worse in `built` than in `committed`, a line each. Spills are, whatever was committed.
fn worse(built: &Ledger, committed: &Ledger) -> Vec<String> {
    let mut worse = Vec::new();
    for ((kernel, architecture), now) in built {
        let place = format!("{kernel} for {architecture}");
        if now[2] > 0 {
            worse.push(format!("{place} spills {} bytes", now[2]));
        }
        let Some(then) = committed.get(&(kernel.clone(), architecture.clone())) else {
            worse.push(format!("{place} is not in the ledger"));
            continue;
        };
        for (what, (now, then)) in ["registers", "shared bytes"].iter().zip(now.iter().zip(then)) {
            if now > then {
                worse.push(format!("{place}: {now} {what}, {then} in the ledger"));
            }
        }
    }
    worse.extend(committed.keys().filter(|k| !built.contains_key(*k)).map(|(k, a)| format!("{k} for {a} is gone")));
    worse
}

#[test]
fn what_is_worse_than_the_ledger_is_named() {
    let lines = |text: &str| parse(&format!("head\n{text}"));
    let committed = lines("a\tsm_80\t40\t1024\t0\nb\tsm_80\t40\t0\t0\n");
    assert!(worse(&committed, &committed).is_empty());
    let better = lines("a\tsm_80\t39\t512\t0\nb\tsm_80\t40\t0\t0\n");
    assert!(worse(&better, &committed).is_empty());
    for (built, said) in [
        ("a\tsm_80\t41\t1024\t0\nb\tsm_80\t40\t0\t0\n", "a for sm_80: 41 registers, 40 in the ledger"),
        ("a\tsm_80\t40\t1025\t0\nb\tsm_80\t40\t0\t0\n", "a for sm_80: 1025 shared bytes, 1024 in the ledger"),
        ("a\tsm_80\t40\t1024\t8\nb\tsm_80\t40\t0\t0\n", "a for sm_80 spills 8 bytes"),
        ("a\tsm_80\t40\t1024\t0\n", "b for sm_80 is gone"),
        ("a\tsm_80\t40\t1024\t0\nb\tsm_80\t40\t0\t0\nb\tsm_90a\t1\t0\t0\n", "b for sm_90a is not in the ledger"),
    ] {
        assert_eq!(worse(&lines(built), &committed), [said]);
    }
}
