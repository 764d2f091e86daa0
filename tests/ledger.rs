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
    let mut worse = Vec::new();
    for ((kernel, architecture), now) in &built {
        let place = format!("{kernel} for {architecture}");
        match committed.get(&(kernel.clone(), architecture.clone())) {
            None => worse.push(format!("{place} is not in the ledger")),
            Some(then) => {
                for (what, (now, then)) in ["registers", "shared bytes", "spill bytes"].iter().zip(now.iter().zip(then))
                {
                    if now > then {
                        worse.push(format!("{place}: {now} {what}, {then} in the ledger"));
                    }
                }
            }
        }
        assert!(now[2] == 0, "{place} spills {} bytes", now[2]);
    }
    worse.extend(committed.keys().filter(|k| !built.contains_key(*k)).map(|(k, a)| format!("{k} for {a} is gone")));
    assert!(worse.is_empty(), "{}\nIf this is meant: GRAMOPHONE_WRITE=1 cargo test --release ledger", worse.join("\n"));
}
