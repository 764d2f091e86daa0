//! Reads the floor table out of `docs/architecture.md` and the imports out of the code: a file imports only from
//! strictly lower floors, and from its own module. Also: the paths that documents name exist.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub fn root() -> PathBuf {
    std::env::var_os("GRAMOPHONE_ROOT").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Module name to floor, from the fenced block after the heading "Floors".
fn floors() -> BTreeMap<String, usize> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md");
    let block = text.split("## Floors").nth(1).and_then(|t| t.split("```").nth(1)).expect("a fenced floor table");
    let mut floors = BTreeMap::new();
    for line in block.lines().map(str::trim).filter(|l| l.starts_with(|c: char| c.is_ascii_digit())) {
        let (number, rest) = line.split_once(char::is_whitespace).expect("a number and names");
        let names = rest.trim().split("  ").next().unwrap_or("");
        for name in names.split(['|', ',']).map(str::trim).filter(|n| !n.is_empty()) {
            floors.insert(name.to_string(), number.parse().expect("a floor number"));
        }
    }
    assert!(floors.len() >= 8, "the floor table has shrunk: {floors:?}");
    floors
}

pub fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            rust_files(&entry, out);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            out.push(entry);
        }
    }
}

/// The modules named after `crate::` in code (comments aside), `use crate::{a, b}` included.
fn imports(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|l| l.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                    c if depth == 0 && !c.is_whitespace() => name.push(c),
                    _ => {}
                }
            }
            found.push(name);
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found.into_iter().map(|n| n.split("::").next().unwrap_or("").to_string()).filter(|n| !n.is_empty()).collect()
}

#[test]
fn files_import_only_from_lower_floors() {
    let floors = floors();
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut faults = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if module == "lib" || module == "main" {
            continue; // The roots see everything.
        }
        let Some(own) = floors.get(module) else {
            faults.push(format!("{}: module `{module}` is on no floor of docs/architecture.md", relative.display()));
            continue;
        };
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            if let Some(floor) = floors.get(&import)
                && import != module
                && import != "error" // The ground that every floor stands on.
                && floor >= own
            {
                faults.push(format!(
                    "{}: floor {own} imports `{import}` of floor {floor}; pass a value in instead",
                    relative.display()
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn documents_name_paths_that_exist() {
    let mut missing = Vec::new();
    let mut documents: Vec<PathBuf> = vec![root().join("README.md")];
    documents.extend(fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path()));
    for document in documents.iter().filter(|d| d.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(document).unwrap();
        for word in text.split('`').skip(1).step_by(2) {
            let tracked = ["src/", "docs/", "tests/", "scripts/", "benches/", "examples/", "kernels/", ".ci/"];
            let path = word.split([':', '#', ' ', '*', '<', '{']).next().unwrap_or("");
            if tracked.iter().any(|t| word.starts_with(t)) && !root().join(path).exists() {
                missing.push(format!("{}: `{word}`", document.file_name().unwrap().to_string_lossy()));
            }
        }
    }
    assert!(missing.is_empty(), "documents name paths that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn only_ops_launch_kernels() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    let outside =
        |file: &PathBuf| !["ops", "device"].iter().any(|floor| file.starts_with(root().join("src").join(floor)));
    for file in files.iter().filter(|f| outside(f)) {
        let text = fs::read_to_string(file).unwrap();
        assert!(!text.contains("cuda::launch"), "{}: only src/ops may call a launcher", file.display());
    }
}

/// What the emulated GPU cannot see must not be written (kernels/base/kernel.cuh).
#[test]
fn kernels_keep_to_their_language() {
    let files = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).unwrap().map(|e| e.unwrap().path());
        entries.filter(|p| p.extension().is_some_and(|e| e == "cu" || e == "cuh")).collect::<Vec<_>>()
    };
    let all = [files("kernels"), files("kernels/base")].concat();
    assert!(all.len() > 10, "the kernels have moved");
    for path in all {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let forbidden =
                [("__shared__", "kernel.cuh"), ("asm", "ptx.cuh wgmma.cuh"), ("__activemask", ""), ("clock64", "")];
            for (word, allowed_in) in forbidden {
                let found = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word);
                assert!(
                    !found || allowed_in.split(' ').any(|allowed| name == allowed),
                    "kernels: {name}:{}: `{word}` is not for kernels",
                    number + 1
                );
            }
            // Global memory is read and written by the kernel's own loads, which the checker sees.
            assert!(!code.contains("memcpy(") || name == "types.cuh", "kernels: {name}:{}: memcpy", number + 1);
        }
    }
}
