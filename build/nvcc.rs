//! Finding nvcc, compiling every kernel file for each architecture, and embedding the images.

use super::kernels::Source;
use std::collections::hash_map::DefaultHasher;
use std::env::split_paths;
use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

/// What portable kernels are compiled for: machine code for A100 (and 8.6, 8.9) and H100/H200, PTX for what comes after.
const PORTABLE: &[&str] =
    &["arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_90,code=compute_90"];
/// What `*_sm90.cu` are compiled for.
const HOPPER: &[&str] = &["arch=compute_90a,code=sm_90a"];
const FLAGS: &[&str] =
    &["-std=c++20", "-O3", "-fatbin", "-Xptxas", "-v", "-Werror", "all-warnings", "--compress-mode=size"];
const OLDEST: (u32, u32) = (13, 0);
const CURE: &str = "run scripts/fetch_nvcc (no root, no CUDA needed), or set CUDA_HOME";

/// Writes a file only where its content changes, so that nothing recompiles for nothing.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// The environment: what a variable is set to.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Writes `images.rs` and `ledger.tsv`.
pub fn images(root: &Path, out: &Path, sources: &[Source], env: Env) -> Result<(), String> {
    let found = find_usable(root, env)?;
    let mut text = String::from("// Written by build.rs.\n\npub static IMAGES: &[(&str, &[u8])] = &[\n");
    let mut ledger = String::from("kernel\tarchitecture\tregisters\tshared bytes\tspill bytes\n");
    match &found {
        Ok(nvcc) => {
            println!("cargo::rustc-cfg=cuda_images");
            let nvcc = Nvcc { path: nvcc, compiler: env("NVCC_CCBIN") };
            let logs = compile_all(&nvcc, root, out, sources, headers(root)?)?;
            for (source, log) in sources.iter().zip(logs) {
                let image = out.join(format!("{}.fatbin", source.stem));
                text += &format!("    ({:?}, &Aligned(*include_bytes!({image:?})).0),\n", source.stem);
                ledger += &ledger_lines(&log);
            }
        }
        Err(missing) => {
            for source in sources {
                text += &format!("    ({:?}, b\"stub: {missing}\\0\"),\n", source.stem);
            }
        }
    }
    text += "];\n";
    let why = found.err().unwrap_or_default();
    text +=
        &format!("\n/// Why this build has no images; empty where it has them.\npub const MISSING: &str = {why:?};\n");
    write(&out.join("images.rs"), &text)?;
    write(&out.join("ledger.tsv"), &ledger)
}

/// A compiler and the host compiler that it is to use, if one is named.
#[derive(Hash)]
struct Nvcc<'a> {
    path: &'a Path,
    compiler: Option<OsString>,
}

/// nvcc, or why there is none. An error is one that the person asked for.
fn find_usable(root: &Path, env: Env) -> Result<Result<PathBuf, String>, String> {
    for var in ["NVCC", "NVCC_CCBIN", "CUDA_HOME", "CUDA_PATH", "PATH", "GRAMOPHONE_CUDA"] {
        println!("cargo::rerun-if-env-changed={var}");
    }
    // A path that is not there would rerun this script each time, so `.cuda` is named only once it exists;
    // scripts/fetch_nvcc touches build.rs so that its first appearance is seen.
    let local = root.join(".cuda/nvidia/cu13/bin/nvcc");
    if local.exists() {
        println!("cargo::rerun-if-changed={}", local.display());
    }
    let policy = env("GRAMOPHONE_CUDA").unwrap_or_default().to_string_lossy().into_owned();
    let missing = match policy.as_str() {
        "skip" => return Ok(Err("this build was made with GRAMOPHONE_CUDA=skip".into())),
        "" | "require" => match find(root, env)? {
            Found::Usable(nvcc) => return Ok(Ok(nvcc)),
            Found::Old(nvcc, (a, b)) => {
                format!("{} is CUDA {a}.{b}, {}.{} or newer is needed", nvcc.display(), OLDEST.0, OLDEST.1)
            }
            Found::Nothing => "no nvcc was found when this was built".into(),
        },
        other => return Err(format!("GRAMOPHONE_CUDA={other}: expected require or skip")),
    };
    let message = format!("{missing}: {CURE}, and build again");
    if policy == "require" {
        return Err(format!("GRAMOPHONE_CUDA=require: {message}"));
    }
    println!("cargo::warning=building without CUDA images: {message}");
    Ok(Err(message))
}

enum Found {
    Usable(PathBuf),
    /// None but older ones: the first of them.
    Old(PathBuf, (u32, u32)),
    Nothing,
}

/// The first nvcc that is new enough. Who names one by NVCC gets that one or an error.
fn find(root: &Path, env: Env) -> Result<Found, String> {
    let candidates = match env("NVCC").map(PathBuf::from) {
        Some(path) if path.is_file() => vec![path],
        Some(path) => return Err(format!("NVCC={}: no such file", path.display())),
        None => {
            let mut folders: Vec<PathBuf> = Vec::new();
            for var in ["CUDA_HOME", "CUDA_PATH"] {
                folders.extend(env(var).map(|v| PathBuf::from(v).join("bin")));
            }
            folders.push(root.join(".cuda/nvidia/cu13/bin"));
            folders.extend(split_paths(&env("PATH").unwrap_or_default()));
            folders.push(PathBuf::from("/usr/local/cuda/bin"));
            folders.into_iter().map(|f| f.join("nvcc")).filter(|p| p.is_file()).collect()
        }
    };
    let mut old = None;
    for nvcc in candidates {
        match version(&nvcc)? {
            found if found >= OLDEST => return Ok(Found::Usable(nvcc)),
            found => old = old.or(Some((nvcc, found))),
        }
    }
    Ok(old.map_or(Found::Nothing, |(nvcc, version)| Found::Old(nvcc, version)))
}

fn version(nvcc: &Path) -> Result<(u32, u32), String> {
    let run = Command::new(nvcc).arg("--version").output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let release = text.split("release ").nth(1).and_then(|r| r.split(',').next());
    let parts = release.and_then(|r| r.split_once('.')).and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parts.ok_or_else(|| format!("{} --version: cannot read the release", nvcc.display()))
}

/// A hash of everything that the kernels include.
fn headers(root: &Path) -> Result<u64, String> {
    let folder = root.join("kernels/base");
    let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.extend(fs::read_dir(root.join("kernels")).into_iter().flatten().flatten().map(|e| e.path()));
    paths.retain(|p| p.extension().is_some_and(|x| x == "cuh"));
    paths.sort();
    let mut hasher = DefaultHasher::new();
    for path in paths {
        fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// Compiles what changed, as many at once as there are processors; gives ptxas's report of each file, in order.
fn compile_all(nvcc: &Nvcc, root: &Path, out: &Path, sources: &[Source], headers: u64) -> Result<Vec<String>, String> {
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism().map_or(1, |n| n.get()).min(sources.len().max(1));
    let mut logs: Vec<(usize, Result<String, String>)> = thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(source) = sources.get(i) else { return done };
                let log = compile(nvcc, root, out, source, headers);
                done.push((i, log.and_then(|log| overlapping(&log).map(|()| log))));
            }
        };
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().flat_map(|h| h.join().expect("a compile thread ended")).collect()
    });
    logs.sort_by_key(|(i, _)| *i);
    logs.into_iter().map(|(_, log)| log).collect()
}

fn compile(nvcc: &Nvcc, root: &Path, out: &Path, source: &Source, headers: u64) -> Result<String, String> {
    let image = out.join(format!("{}.fatbin", source.stem));
    let (log_path, key_path) = (image.with_extension("ptxas.txt"), image.with_extension("key"));
    let targets = if source.stem.ends_with("_sm90") { HOPPER } else { PORTABLE };
    let mut hasher = DefaultHasher::new();
    let text = fs::read(&source.path).map_err(|e| format!("{}: {e}", source.path.display()))?;
    (text, headers, nvcc, FLAGS, targets).hash(&mut hasher);
    let key = format!("{:x}", hasher.finish());
    if image.is_file() && fs::read_to_string(&key_path).is_ok_and(|old| old == key) {
        return fs::read_to_string(&log_path).map_err(|e| format!("{}: {e}", log_path.display()));
    }
    let mut command = Command::new(nvcc.path);
    command.args(FLAGS).arg("-I").arg(root.join("kernels/base"));
    for target in targets {
        command.arg(format!("-gencode={target}"));
    }
    if let Some(compiler) = &nvcc.compiler {
        command.arg("-ccbin").arg(compiler);
    }
    command.arg("-o").arg(&image).arg(&source.path);
    let run = command.output().map_err(|e| format!("{}: {e}", nvcc.path.display()))?;
    let log = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    if !run.status.success() {
        return Err(format!("nvcc failed on kernels/{}.cu\n{log}", source.stem));
    }
    write(&log_path, &log)?;
    write(&key_path, &key)?;
    Ok(log)
}

/// ptxas says by a mere info, which `-Werror` lets pass, that it serialises wgmma: each waits for the one before, and the kernel
/// loses most of its speed.
pub fn overlapping(log: &str) -> Result<(), String> {
    match log.lines().find(|line| line.contains("C7510")) {
        Some(line) => Err(format!("a kernel's wgmma do not overlap: {}", line.trim())),
        None => Ok(()),
    }
}

/// One line for each kernel and architecture of a ptxas report, sorted.
fn ledger_lines(log: &str) -> String {
    let number = |text: &str, unit: &str| -> u64 {
        let words: Vec<&str> = text.split_whitespace().collect();
        let unit: Vec<&str> = unit.split(' ').collect();
        let at =
            words.windows(unit.len()).position(|w| w.iter().zip(&unit).all(|(a, b)| a.trim_end_matches(',') == *b));
        at.and_then(|i| words.get(i.wrapping_sub(1))).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let (mut lines, mut entry, mut spills) = (Vec::new(), None, 0);
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let mut parts = rest.split('\'');
            entry = parts.next().zip(parts.nth(1));
        } else if line.contains("spill stores") {
            spills = number(line, "bytes spill stores") + number(line, "bytes spill loads");
        } else if line.contains("Used ")
            && line.contains("registers")
            && let Some((name, architecture)) = entry.take()
        {
            let (registers, shared) = (number(line, "registers"), number(line, "bytes smem"));
            lines.push(format!("{name}\t{architecture}\t{registers}\t{shared}\t{spills}\n"));
        }
    }
    lines.sort();
    lines.concat()
}
