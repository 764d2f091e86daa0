//! Builds the emulated GPU: the runtime and every `.cu` of the repository (and of this crate's tests), each in a fast and a
//! checked flavour, into one shared object with the driver's name. Files are compiled in parallel, and only those whose sources,
//! headers or flags have changed.
//!
//! Each `.cu` is included into a namespace of its own, one per flavour, so that the linker never merges an instrumented function
//! with a plain one. The checked flavour is compiled with the sanitizers' instrumentation but linked without their libraries:
//! `runtime/hooks.cpp` implements what the instrumentation calls.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// One object file to make.
struct Unit {
    source: PathBuf,
    object: PathBuf,
    flags: Vec<String>,
}

fn main() {
    let emulator = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let out = PathBuf::from(std::env::var("OUT_DIR").unwrap());
    let kernels = emulator.parent().unwrap().to_path_buf();
    println!("cargo:rerun-if-changed={}", kernels.display());
    println!("cargo:rerun-if-env-changed=CXX");

    let compiler = Compiler::find(kernels.parent().unwrap());
    let mut units = vec![runtime_unit(&emulator, &out, "kernels_begin")];
    let mut sources = cuda_files(&kernels, &emulator);
    sources.extend(cuda_files(&emulator.join("tests/kernels"), Path::new("")));
    for source in &sources {
        units.push(kernel_unit(source, &kernels, &out, "fast"));
        units.push(kernel_unit(source, &kernels, &out, "checked"));
    }
    units.push(runtime_unit(&emulator, &out, "kernels_end"));
    for name in files(&emulator.join("runtime"), "cpp").iter().filter_map(|p| p.file_stem()?.to_str().map(String::from))
    {
        if !name.starts_with("kernels_") {
            units.push(runtime_unit(&emulator, &out, &name));
        }
    }
    compiler.compile(&units);

    let library = out.join("libcuda.so");
    compiler.link(&units, &library);
    println!("cargo:rustc-env=GRAMOPHONE_EMU_LIBRARY={}", library.display());
}

/// Files of a directory with this extension, in order.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory).map(|entries| entries.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    found.retain(|p| p.extension().is_some_and(|e| e == extension));
    found.sort();
    found
}

/// All `.cu` files below a directory, except below `without`.
fn cuda_files(directory: &Path, without: &Path) -> Vec<PathBuf> {
    let mut found = files(directory, "cu");
    let mut below: Vec<PathBuf> =
        fs::read_dir(directory).map(|entries| entries.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    below.retain(|p| p.is_dir() && p != without);
    below.sort();
    for d in below {
        found.extend(cuda_files(&d, without));
    }
    found
}

/// Writes a file if its content is new, so that its time tells when it changed.
fn write_if_changed(path: &Path, content: &str) {
    if fs::read_to_string(path).is_ok_and(|old| old == content) {
        return;
    }
    fs::write(path, content).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}

fn common_flags(kernels: &Path) -> Vec<String> {
    let repository = kernels.parent().unwrap();
    let mut flags: Vec<String> =
        ["-std=c++20", "-g1", "-gdwarf-4", "-fPIC", "-fvisibility=hidden", "-Wno-psabi", "-fno-strict-aliasing"]
            .map(String::from)
            .into();
    if cfg!(target_arch = "x86_64") {
        flags.push("-march=x86-64-v3".into());
    }
    flags.push(format!("-I{}", kernels.join("emu/include").display()));
    flags.push(format!("-ffile-prefix-map={}=.", repository.display()));
    flags
}

fn runtime_unit(emulator: &Path, out: &Path, name: &str) -> Unit {
    let mut flags = common_flags(emulator.parent().unwrap());
    flags.extend(["-O3", "-Wall", "-Wextra"].map(String::from));
    Unit {
        source: emulator.join("runtime").join(format!("{name}.cpp")),
        object: out.join(format!("runtime_{name}.o")),
        flags,
    }
}

/// The identifier that a source file's namespace and objects are named after.
fn identifier(source: &Path, kernels: &Path) -> String {
    let relative = source.strip_prefix(kernels).unwrap().with_extension("");
    relative.to_str().unwrap().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

fn kernel_unit(source: &Path, kernels: &Path, out: &Path, flavour: &str) -> Unit {
    let name = format!("{flavour}_{}", identifier(source, kernels));
    let unit = out.join(format!("{name}.cpp"));
    let text = format!("#include \"emulated.h\"\nnamespace {name} {{\n#include \"{}\"\n}}\n", source.display());
    write_if_changed(&unit, &text);
    let mut flags = common_flags(kernels);
    flags.push(format!("-I{}", kernels.join("base").display()));
    // Uninitialised locals are NaN. Products and sums are rounded one by one unless the kernel says fmaf: the same bits in both
    // flavours and on the CPU. Loads that nvcc would not speculate are not speculated either.
    flags.extend(
        [
            "-ftrivial-auto-var-init=pattern",
            "-fstack-clash-protection",
            "-ffp-contract=off",
            "-fno-math-errno",
            "-fno-trapping-math",
            "-Wall",
            "-Wno-unknown-pragmas",
            "-Wno-unused-function",
            "-Wno-unused-variable",
            "-Wno-unused-but-set-variable",
            "-Wno-maybe-uninitialized",
            "-Wno-uninitialized",
            "-Wno-class-memaccess",
        ]
        .map(String::from),
    );
    if flavour == "fast" {
        flags.push("-O2".into());
    } else {
        flags.extend(
            [
                "-O1",
                "-DEMU_CHECKED",
                "-fsanitize=thread",
                "--param=tsan-instrument-func-entry-exit=0",
                "-fsanitize=alignment,bounds",
                "-fno-sanitize-recover=alignment,bounds",
                "-fsanitize-coverage=trace-pc",
            ]
            .map(String::from),
        );
    }
    Unit { source: unit, object: out.join(format!("{name}.o")), flags }
}

struct Compiler {
    command: String,
    repository: PathBuf,
}

impl Compiler {
    fn find(repository: &Path) -> Compiler {
        let command = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
        match Command::new(&command).arg("-dumpfullversion").output() {
            Ok(found) if found.status.success() => {}
            _ => panic!(
                "the emulated GPU needs g++ 12 or later, and `{command}` does not run: install it (Debian, Ubuntu: apt install g++), \
                 or name it in CXX"
            ),
        }
        Compiler { command, repository: repository.to_path_buf() }
    }

    /// Compiles what is not up to date, as many files at a time as there are processors.
    fn compile(&self, units: &[Unit]) {
        let queue = Mutex::new(units.iter().filter(|u| !self.up_to_date(u)).collect::<VecDeque<_>>());
        let failures = Mutex::new(Vec::new());
        let workers = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let Some(unit) = queue.lock().unwrap().pop_front() else { break };
                        if let Err(text) = self.compile_one(unit) {
                            failures.lock().unwrap().push(text);
                        }
                    }
                });
            }
        });
        let failures = failures.into_inner().unwrap();
        if !failures.is_empty() {
            panic!("the emulated GPU does not compile:\n{}", failures.join("\n"));
        }
    }

    fn arguments(&self, unit: &Unit) -> Vec<String> {
        let mut arguments = unit.flags.clone();
        let dependencies = unit.object.with_extension("d");
        arguments.extend(["-MD".into(), "-MF".into(), dependencies.display().to_string()]);
        arguments.extend(["-c".into(), unit.source.display().to_string()]);
        arguments.extend(["-o".into(), unit.object.display().to_string()]);
        arguments
    }

    /// The command that makes an object is kept beside it: another one makes it anew.
    fn command_line(&self, unit: &Unit) -> String {
        format!("{} {}", self.command, self.arguments(unit).join(" "))
    }

    fn up_to_date(&self, unit: &Unit) -> bool {
        let recorded = fs::read_to_string(unit.object.with_extension("command")).unwrap_or_default();
        let Ok(made) = fs::metadata(&unit.object).and_then(|m| m.modified()) else { return false };
        let Ok(dependencies) = fs::read_to_string(unit.object.with_extension("d")) else { return false };
        recorded == self.command_line(unit)
            && dependencies
                .split_whitespace()
                .skip(1)
                .filter(|word| *word != "\\")
                .all(|file| fs::metadata(file).and_then(|m| m.modified()).is_ok_and(|changed| changed < made))
    }

    fn compile_one(&self, unit: &Unit) -> Result<(), String> {
        let record = unit.object.with_extension("command");
        let _ = fs::remove_file(&record);
        let done = Command::new(&self.command)
            .args(self.arguments(unit))
            .current_dir(&self.repository) // what debug information calls "."
            .output()
            .map_err(|e| format!("cannot run {}: {e}", self.command))?;
        let text = String::from_utf8_lossy(&done.stderr);
        if !done.status.success() {
            return Err(text.into_owned());
        }
        for line in text.lines().filter(|l| l.contains("warning:")) {
            println!("cargo:warning={line}");
        }
        fs::write(&record, self.command_line(unit)).map_err(|e| format!("cannot write {}: {e}", record.display()))
    }

    fn link(&self, units: &[Unit], library: &Path) {
        let fresh = library.with_extension("so.new");
        let done = Command::new(&self.command)
            .args(["-shared", "-Wl,-soname,libcuda.so", "-Wl,-Bsymbolic", "-o"])
            .arg(&fresh)
            .args(units.iter().map(|u| &u.object))
            .args(["-lpthread", "-ldl"])
            .output()
            .unwrap_or_else(|e| panic!("cannot run {}: {e}", self.command));
        if !done.status.success() {
            panic!("the emulated GPU does not link:\n{}", String::from_utf8_lossy(&done.stderr));
        }
        // A running process may have the old one mapped: it keeps it.
        fs::rename(&fresh, library).unwrap_or_else(|e| panic!("cannot write {}: {e}", library.display()));
    }
}
