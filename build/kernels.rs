//! `KERNEL(...)` lines to typed Rust launchers. The line in the `.cu` is the only place where a kernel's interface stands.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// One `.cu` file.
pub struct Source {
    /// Its name without the ending; the image is named after it.
    pub stem: String,
    pub path: PathBuf,
    pub kernels: Vec<Kernel>,
}

/// One `KERNEL(name, (threads[, blocks per SM]), type arg, ...)`.
pub struct Kernel {
    pub name: String,
    pub threads: u32,
    pub args: Vec<Arg>,
}

#[derive(Clone, PartialEq)]
pub struct Arg {
    pub name: String,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// A tensor, by the storage type its pointer has.
    Tensor {
        dtype: &'static str,
        nullable: bool,
    },
    /// A plain value of this Rust type.
    Value(&'static str),
    TensorMap,
}

/// All kernel files, by name.
pub fn sources(folder: &Path) -> Result<Vec<Source>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.retain(|p| p.extension().is_some_and(|x| x == "cu"));
    paths.sort();
    let mut sources = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let kernels = parse(&text).map_err(|e| format!("kernels/{stem}.cu: {e}"))?;
        sources.push(Source { stem, path, kernels });
    }
    let mut names: Vec<&str> = sources.iter().flat_map(|s| &s.kernels).map(|k| k.name.as_str()).collect();
    names.sort();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(pair) => Err(format!("kernels: two kernels are called {}", pair[0])),
        None => Ok(sources),
    }
}

/// The kernels of one file.
pub fn parse(text: &str) -> Result<Vec<Kernel>, String> {
    let text = without_comments(text);
    let mut kernels = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("KERNEL(") {
        let line = rest[..at].rfind('\n').map_or(0, |i| i + 1);
        let begins_a_line = rest[line..at].trim().is_empty();
        let body = &rest[at + "KERNEL(".len()..];
        if begins_a_line {
            let end = closing(body).ok_or("KERNEL( without its closing parenthesis")?;
            kernels.push(kernel(&body[..end])?);
        }
        rest = body;
    }
    Ok(kernels)
}

fn without_comments(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

/// Where the parenthesis that is open before `text` closes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(i);
        }
    }
    None
}

fn kernel(text: &str) -> Result<Kernel, String> {
    let (name, rest) = text.split_once(',').ok_or_else(|| format!("KERNEL({text}): no launch bounds"))?;
    let name = name.trim().to_string();
    let open =
        rest.trim_start().strip_prefix('(').ok_or_else(|| format!("{name}: launch bounds as (threads) are missing"))?;
    let end = closing(open).ok_or_else(|| format!("{name}: launch bounds do not close"))?;
    let threads = open[..end].split(',').next().unwrap_or("").trim();
    let threads = threads.parse().map_err(|_| format!("{name}: `{threads}` threads: write a number"))?;
    let args = open[end + 1..].trim().trim_start_matches(',').split(',').map(str::trim).filter(|a| !a.is_empty());
    let args = args.map(|a| arg(a).map_err(|e| format!("{name}: {e}"))).collect::<Result<_, _>>()?;
    Ok(Kernel { name, threads, args })
}

fn arg(text: &str) -> Result<Arg, String> {
    let (nullable, plain) = match text.strip_prefix("NULLABLE ") {
        Some(plain) => (true, plain.trim()),
        None => (false, text),
    };
    let cut =
        plain.rfind(|c: char| !c.is_alphanumeric() && c != '_').ok_or_else(|| format!("`{text}` has no type"))? + 1;
    let name = plain[cut..].to_string();
    let kind = plain[..cut].trim().trim_start_matches("const ").replace("__restrict__", "").replace(' ', "");
    let kind = match kind.as_str() {
        "double*" => Kind::Tensor { dtype: "F64", nullable },
        "float*" => Kind::Tensor { dtype: "F32", nullable },
        "bf16*" | "uint16_t*" => Kind::Tensor { dtype: "Bf16", nullable },
        "int*" | "uint32_t*" => Kind::Tensor { dtype: "I32", nullable },
        "uint8_t*" | "uint64_t*" => Kind::Tensor { dtype: "U8", nullable },
        "int" => Kind::Value("i32"),
        "uint32_t" => Kind::Value("u32"),
        "uint64_t" => Kind::Value("u64"),
        "float" => Kind::Value("f32"),
        "TMAP" => Kind::TensorMap,
        other => return Err(format!("`{text}`: `{other}` is not a type that crosses the boundary")),
    };
    if nullable && !matches!(kind, Kind::Tensor { .. }) {
        return Err(format!("`{text}`: only pointers may be NULLABLE"));
    }
    Ok(Arg { name, kind })
}

/// The text of `launch.rs`.
pub fn launchers(sources: &[Source]) -> Result<String, String> {
    let mut out = String::from("// Written by build.rs from the KERNEL lines of kernels/*.cu.\n\n");
    out += "/// Every kernel, in the order of its number.\npub static KERNELS: &[Kernel] = &[\n";
    for (image, source) in sources.iter().enumerate() {
        for k in &source.kernels {
            let (name, threads) = (&k.name, k.threads);
            writeln!(out, "    Kernel {{ name: \"{name}\", image: {image}, threads: {threads} }},")
                .map_err(|e| e.to_string())?;
        }
    }
    out += "];\n\n";
    let all: Vec<&Kernel> = sources.iter().flat_map(|s| &s.kernels).collect();
    for (number, kernel) in all.iter().enumerate() {
        launcher(&mut out, number, kernel);
    }
    for kernel in &all {
        family(&mut out, &all, kernel)?;
    }
    Ok(out)
}

fn parameters(args: &[Arg]) -> String {
    args.iter().map(|a| format!(", {}: {}", a.name.to_lowercase(), rust_type(a.kind))).collect()
}

fn rust_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Tensor { nullable: false, .. } => "View",
        Kind::Tensor { nullable: true, .. } => "Option<View>",
        Kind::Value(rust) => rust,
        Kind::TensorMap => "&TensorMap",
    }
}

fn launcher(out: &mut String, number: usize, kernel: &Kernel) {
    let name = &kernel.name;
    let upper = name.to_uppercase();
    *out += &format!("/// Threads of a block of `{name}`.\npub const {upper}_THREADS: u32 = {};\n", kernel.threads);
    *out += &format!("pub fn {name}(gpu: &Gpu, grid: Grid{}) {{\n", parameters(&kernel.args));
    let mut pointers = String::new();
    for Arg { name: arg, kind } in &kernel.args {
        let arg = arg.to_lowercase();
        match kind {
            Kind::Tensor { dtype, nullable: false } => {
                *out += &format!("    let {arg} = gpu.address(\"{name}\", \"{arg}\", Dtype::{dtype}, Some({arg}));\n");
            }
            Kind::Tensor { dtype, nullable: true } => {
                *out += &format!("    let {arg} = gpu.address(\"{name}\", \"{arg}\", Dtype::{dtype}, {arg});\n");
            }
            Kind::Value(_) | Kind::TensorMap => {}
        }
        let by_reference = if *kind == Kind::TensorMap { "" } else { "&" };
        pointers += &format!("pointer({by_reference}{arg}), ");
    }
    *out += &format!("    start(gpu, {number}, grid, &mut [{}]);\n}}\n\n", pointers.trim_end_matches(", "));
}

/// `<name>_f32` and `<name>_bf16` with the same arguments, but for the type of some tensors, share `<name>(gpu, dtype, ..)`.
fn family(out: &mut String, all: &[&Kernel], bf16: &Kernel) -> Result<(), String> {
    let Some(stem) = bf16.name.strip_suffix("_bf16") else { return Ok(()) };
    let Some(f32) = all.iter().find(|k| k.name.strip_suffix("_f32") == Some(stem)) else { return Ok(()) };
    let shape = |k: &Kernel| k.args.iter().map(|a| (a.name.clone(), rust_type(a.kind))).collect::<Vec<_>>();
    if shape(f32) != shape(bf16) {
        return Err(format!("{stem}_f32 and {stem}_bf16 have different arguments"));
    }
    let args: String = f32.args.iter().map(|a| format!(", {}", a.name.to_lowercase())).collect();
    *out += &format!(
        "/// `{stem}_f32` or `{stem}_bf16`.\npub fn {stem}(gpu: &Gpu, dtype: Dtype, grid: Grid{}) {{\n",
        parameters(&f32.args)
    );
    *out += &format!(
        "    match dtype {{\n        Dtype::F32 => {stem}_f32(gpu, grid{args}),\n        Dtype::Bf16 => {stem}_bf16(gpu, grid{args}),\n"
    );
    *out += &format!("        other => panic!(\"{stem}: no kernel for {{other}}\"),\n    }}\n}}\n\n");
    Ok(())
}
