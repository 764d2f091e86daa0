//! The build script: what becomes of `KERNEL` lines, which nvcc is taken, and what is compiled again. The compiler of these tests is
//! a shell script that notes how it was called.

#[path = "../build/kernels.rs"]
mod kernels;
#[path = "../build/nvcc.rs"]
mod nvcc;

use crate::architecture::root;
use kernels::{Kind, Source, launchers, parse, sources};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn refusal(text: &str) -> String {
    parse(text).err().unwrap_or_else(|| panic!("{text} was taken"))
}

#[test]
fn kernel_lines_are_read() {
    let text = "
        // KERNEL(commented_out, (32), float* y)
        #define KERNEL(name, bounds, ...) nothing
        KERNEL(first, (128), float* y, const bf16* __restrict__ x, int n) { call(KERNEL(inner)); }
        KERNEL(second, (256, 2), TMAP map, NULLABLE const float* bias, uint64_t seed,
               uint8_t* codes) {}
        KERNEL(bare, (32)) {}
    ";
    let found = parse(text).unwrap();
    let names: Vec<(&str, u32, usize)> = found.iter().map(|k| (k.name.as_str(), k.threads, k.args.len())).collect();
    assert_eq!(names, [("first", 128, 3), ("second", 256, 4), ("bare", 32, 0)]);
    let args: Vec<(&str, Kind)> = found[1].args.iter().map(|a| (a.name.as_str(), a.kind)).collect();
    let tensor = |dtype, nullable| Kind::Tensor { dtype, nullable };
    let want = [
        ("map", Kind::TensorMap),
        ("bias", tensor("F32", true)),
        ("seed", Kind::Value("u64")),
        ("codes", tensor("U8", false)),
    ];
    assert!(args == want);
    assert!(found[0].args[1].kind == tensor("Bf16", false));
}

#[test]
fn what_is_wrong_with_a_kernel_line_is_said() {
    for (text, words) in [
        ("KERNEL(lonely)", "no launch bounds"),
        ("KERNEL(k, 128, int n)", "k: launch bounds as (threads) are missing"),
        ("KERNEL(k, (THREADS), int n)", "k: `THREADS` threads: write a number"),
        ("KERNEL(k, (32), half* x)", "`half*` is not a type"),
        ("KERNEL(k, (32), n)", "`n` has no type"),
        ("KERNEL(k, (32), NULLABLE int n)", "only pointers may be NULLABLE"),
        ("KERNEL(k, (32), int n", "closing parenthesis"),
    ] {
        let said = refusal(text);
        assert!(said.contains(words), "{text}: {said}");
    }
}

fn source(stem: &str, text: &str) -> Source {
    Source { stem: stem.into(), path: PathBuf::from(stem), kernels: parse(text).unwrap() }
}

#[test]
fn launchers_take_what_the_line_says() {
    let a = source("a", "KERNEL(sum_f32, (64), float* y, const float* x, int n) {}");
    let b = source("b", "KERNEL(sum_bf16, (64), bf16* y, NULLABLE const float* W, float eps, TMAP m) {}");
    let text = launchers(&[a, b]).expect_err("a family with different arguments");
    assert_eq!(text, "sum_f32 and sum_bf16 have different arguments");
    let a = source("a", "KERNEL(sum_f32, (64), float* y, int n) {}\nKERNEL(other, (32), int* y) {}");
    let b = source("b", "KERNEL(sum_bf16, (64), bf16* y, int n) {}\nKERNEL(map, (96), TMAP M, NULLABLE int* list) {}");
    let text = launchers(&[a, b]).unwrap();
    for line in [
        "Kernel { name: \"sum_bf16\", image: 1, threads: 64 },",
        "pub const MAP_THREADS: u32 = 96;",
        "pub fn sum_f32(gpu: &Gpu, grid: Grid, y: View, n: i32) {",
        "let y = gpu.address(\"sum_bf16\", \"y\", Dtype::Bf16, Some(y));",
        "pub fn map(gpu: &Gpu, grid: Grid, m: &TensorMap, list: Option<View>) {",
        "start(gpu, 3, grid, &mut [pointer(m), pointer(&list)]);",
        "pub fn sum(gpu: &Gpu, dtype: Dtype, grid: Grid, y: View, n: i32) {",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    assert!(!text.contains("pub fn other(gpu: &Gpu, dtype"), "a kernel of one type has no family");
}

#[test]
fn a_name_stands_in_one_file_only() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.cu"), "KERNEL(twice, (32), int* y) {}\n").unwrap();
    assert_eq!(sources(dir.path()).unwrap().len(), 1);
    fs::write(dir.path().join("b.cu"), "KERNEL(twice, (32), int* y) {}\n").unwrap();
    assert_eq!(sources(dir.path()).err().unwrap(), "kernels: two kernels are called twice");
    fs::write(dir.path().join("b.cu"), "KERNEL(broken)\n").unwrap();
    assert!(sources(dir.path()).err().unwrap().starts_with("kernels/b.cu: KERNEL(broken): no launch bounds"));
    assert!(sources(&root().join("kernels")).unwrap().len() > 20);
}

/// A tree with two kernel files, and compilers in several places.
struct Tree {
    dir: tempfile::TempDir,
    vars: Vec<(&'static str, OsString)>,
}

impl Tree {
    fn new() -> Tree {
        let tree = Tree { dir: tempfile::tempdir().unwrap(), vars: Vec::new() };
        for folder in ["kernels/base", "out"] {
            fs::create_dir_all(tree.path(folder)).unwrap();
        }
        tree.put("kernels/a.cu", "KERNEL(a, (32), float* y) {}");
        tree.put("kernels/b_sm90.cu", "KERNEL(b, (32), float* y) {}");
        tree.put("kernels/base/all.cuh", "// shared");
        tree
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }
    fn set(&mut self, var: &'static str, value: impl AsRef<Path>) {
        self.vars.retain(|(name, _)| *name != var);
        self.vars.push((var, value.as_ref().into()));
    }

    /// An nvcc of this version in a folder. Written by a shell, so that no other thread's child has it open for writing.
    fn nvcc(&self, folder: &str, version: &str) -> PathBuf {
        fs::create_dir_all(self.path(folder)).unwrap();
        let (nvcc, calls) = (self.path(&format!("{folder}/nvcc")), self.path("calls"));
        let report = "ptxas info    : Compiling entry function 'KERNEL' for 'sm_80'\n\
                      ptxas info    : Function properties for KERNEL\n    \
                      0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n\
                      ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 400 bytes cmem[0]\n";
        let script = format!(
            "#!/bin/sh\n\
             if [ \"$1\" = --version ]; then echo 'Cuda compilation tools, release {version}, V{version}.1'; exit 0; fi\n\
             echo \"$@\" >>{}\n\
             while [ $# -gt 0 ]; do [ \"$1\" = -o ] && out=$2; src=$1; shift; done\n\
             grep -q SYNTAX \"$src\" && {{ echo \"$src: error: no\" >&2; exit 2; }}\n\
             echo image >\"$out\"\n\
             name=$(basename \"$src\" .cu)\n\
             cat >&2 <<END\n{}END\n",
            calls.display(),
            report.replace("KERNEL", "$name")
        );
        let written = Command::new("sh")
            .args(["-c", "printf %s \"$1\" >\"$2\" && chmod +x \"$2\"", "sh", &script])
            .arg(&nvcc)
            .status();
        assert!(written.unwrap().success());
        nvcc
    }

    fn build(&self) -> Result<(), String> {
        let env = |name: &str| self.vars.iter().find(|(var, _)| *var == name).map(|(_, value)| value.clone());
        nvcc::images(self.dir.path(), &self.path("out"), &sources(&self.path("kernels")).unwrap(), &env)
    }
    fn images(&self) -> String {
        fs::read_to_string(self.path("out/images.rs")).unwrap()
    }
    /// How nvcc was called since the last time.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        let mut calls: Vec<String> = text.lines().map(str::to_string).collect();
        calls.sort_by_key(|call| call.contains("b_sm90.cu"));
        calls
    }
}

#[test]
fn only_what_has_changed_is_compiled_again() {
    let mut tree = Tree::new();
    tree.set("NVCC", tree.nvcc("bin", "13.0"));
    tree.build().unwrap();
    let calls = tree.calls();
    assert_eq!(calls.len(), 2);
    assert!(
        calls[0].contains("code=sm_80") && calls[0].contains("code=sm_90a") && calls[0].contains("code=compute_90")
    );
    assert!(
        calls[1].contains("code=sm_90a") && !calls[1].contains("sm_80"),
        "Hopper's twins are for Hopper: {}",
        calls[1]
    );
    assert!(tree.images().contains("include_bytes!") && tree.images().contains("MISSING: &str = \"\""));
    let ledger = fs::read_to_string(tree.path("out/ledger.tsv")).unwrap();
    assert_eq!(ledger.lines().nth(1), Some("a\tsm_80\t40\t2048\t12"));
    let when = |name: &str| fs::metadata(tree.path(name)).unwrap().modified().unwrap();
    let before = when("out/images.rs");
    tree.build().unwrap();
    assert_eq!((tree.calls().len(), when("out/images.rs")), (0, before), "nothing has changed");
    tree.put("kernels/a.cu", "KERNEL(a, (64), float* y) {}");
    tree.build().unwrap();
    assert_eq!(tree.calls().len(), 1);
    tree.put("kernels/base/all.cuh", "// changed");
    tree.build().unwrap();
    assert_eq!(tree.calls().len(), 2, "headers are everybody's");
    tree.set("NVCC_CCBIN", "/usr/bin/g++-13");
    tree.build().unwrap();
    assert!(tree.calls().iter().all(|call| call.contains("-ccbin /usr/bin/g++-13")));
    tree.put("kernels/a.cu", "KERNEL(a, (64), float* y) {} SYNTAX");
    let said = tree.build().unwrap_err();
    assert!(said.starts_with("nvcc failed on kernels/a.cu") && said.contains("a.cu: error: no"), "{said}");
    tree.calls();
    assert!(tree.build().is_err());
    assert_eq!(tree.calls().len(), 1, "what failed is tried again");
}

#[test]
fn the_first_nvcc_that_is_new_enough_is_taken() {
    let mut tree = Tree::new();
    let from = |tree: &Tree| {
        fs::remove_dir_all(tree.path("out")).unwrap();
        fs::create_dir(tree.path("out")).unwrap();
        tree.build().map(|()| tree.images())
    };
    tree.nvcc("old", "12.8");
    tree.set("PATH", format!("{}:{}", tree.path("none").display(), tree.path("old").display()));
    let says_it_is_old =
        |images: &str| images.contains("stub: ") && images.contains("old/nvcc is CUDA 12.8, 13.0 or newer");
    // A machine that has a toolkit where all have it takes that one.
    let elsewhere = Path::new("/usr/local/cuda/bin/nvcc").is_file();
    assert!(elsewhere || says_it_is_old(&from(&tree).unwrap()));
    tree.set("GRAMOPHONE_CUDA", "require");
    assert!(elsewhere || from(&tree).unwrap_err().starts_with("GRAMOPHONE_CUDA=require: "));
    // An old one on the path hides no newer one.
    tree.nvcc("new", "13.1");
    tree.set("PATH", format!("{}:{}", tree.path("old").display(), tree.path("new").display()));
    assert!(from(&tree).unwrap().contains("include_bytes!"));
    for (var, folder) in [("CUDA_PATH", "path"), ("CUDA_HOME", "home")] {
        tree.nvcc(&format!("{folder}/bin"), "13.0");
        tree.set(var, tree.path(folder));
    }
    // Which one it was is told by what fails: the first choice is removed after it was chosen.
    let broken = |tree: &Tree, folder: &str| {
        let nvcc = tree.path(folder).join("nvcc");
        let script = format!("printf '#!/bin/sh\\necho nothing\\n' >{0}", nvcc.display());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        let said = from(tree).unwrap_err();
        assert!(said.contains(&format!("{folder}/nvcc --version: cannot read the release")), "{said}");
        fs::remove_file(nvcc).unwrap();
    };
    tree.nvcc(".cuda/nvidia/cu13/bin", "13.0");
    for folder in ["home/bin", "path/bin", ".cuda/nvidia/cu13/bin", "old", "new"] {
        broken(&tree, folder);
    }
    tree.set("NVCC", tree.path("nowhere"));
    assert!(from(&tree).unwrap_err().contains("nowhere: no such file"));
    tree.set("GRAMOPHONE_CUDA", "skip");
    assert!(from(&tree).unwrap().contains("stub: this build was made with GRAMOPHONE_CUDA=skip"));
    tree.set("GRAMOPHONE_CUDA", "perhaps");
    assert!(from(&tree).unwrap_err().contains("GRAMOPHONE_CUDA=perhaps: expected require or skip"));
}

#[test]
fn wgmma_that_do_not_overlap_stop_the_build() {
    let injected = "ptxas info    : (C7519) warpgroup.arrive is injected in around line 9 by compiler to allow use of registers in GMMA";
    assert_eq!(nvcc::overlapping(injected), Ok(()));
    let serialised = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized";
    assert!(nvcc::overlapping(&format!("{injected}\n{serialised}\n")).unwrap_err().contains("C7510"));
}
