//! The costs of accesses are counted exactly: wavefronts of shared memory, sectors of device memory.

mod device;

use device::{Arguments, Device, blocks};
use gramophone_emu::{Cost, Kind, Settings, costs, costs_table};

/// Instructions, lanes, wavefronts and their ideal, sectors and their ideal.
type Counts = [u64; 6];

fn counts(c: &Cost) -> Counts {
    [c.instructions, c.lanes, c.wavefronts, c.wavefronts_ideal, c.sectors, c.sectors_ideal]
}

/// Under every seed the same is counted: it does not depend on which lane comes first.
fn all_settings() -> impl Iterator<Item = Settings> {
    [0, 2, 5].into_iter().map(|seed| Settings { costs: true, ..Settings::checked(seed) })
}

/// The line of `costs.cu` with this mark.
fn line(mark: &str) -> String {
    let source = std::fs::read_to_string(format!("{}/tests/kernels/costs.cu", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mark = format!("// MARK {mark}");
    let found: Vec<usize> =
        source.lines().enumerate().filter(|(_, l)| l.trim_end().ends_with(&mark)).map(|(i, _)| i + 1).collect();
    assert_eq!(found.len(), 1, "{mark}");
    format!("kernels/emu/tests/kernels/costs.cu:{}", found[0])
}

/// Runs a kernel and holds its costs against those expected of marked lines.
fn check(kernel: &str, threads: u32, arguments: impl Fn(&Device) -> Arguments, want: &[(&str, Kind, u32, Counts)]) {
    for settings in all_settings() {
        let seed = settings.seed;
        let d = Device::new(settings);
        d.run(kernel, blocks(1, threads), arguments(&d)).unwrap();
        let found = costs(d.ordinal);
        assert!(found.iter().all(|c| c.kernel == kernel));
        for &(mark, kind, width, numbers) in want {
            let place = line(mark);
            let of_kind: Vec<&Cost> = found.iter().filter(|c| c.place == place && c.kind == kind).collect();
            let seen: Vec<(u32, Counts)> = of_kind.iter().map(|c| (c.width, counts(c))).collect();
            assert_eq!(seen, [(width, numbers)], "{kernel}, {mark}, seed {seed}");
        }
    }
}

#[test]
fn words_of_one_bank_take_turns() {
    for (stride, turns) in [(1, 1), (2, 2), (8, 8), (32, 32), (33, 1)] {
        let counts = [2, 64, 2 * turns, 2, 0, 0];
        let want = [
            ("strided store", Kind::SharedStore, 4, counts),
            ("strided load", Kind::SharedLoad, 4, counts),
            ("strided load", Kind::GlobalStore, 4, [2, 64, 0, 0, 8, 8]),
        ];
        check("costs_strided", 64, |d| args!(d.alloc(64 * 4), stride), &want);
    }
}

#[test]
fn lanes_share_a_word() {
    let want = [
        ("one word", Kind::SharedLoad, 4, [1, 32, 1, 1, 0, 0]),
        ("pairs", Kind::SharedLoad, 4, [1, 32, 1, 1, 0, 0]),
        ("two words", Kind::SharedLoad, 4, [1, 32, 2, 1, 0, 0]),
    ];
    check("costs_broadcast", 32, |d| args!(d.alloc(32 * 4)), &want);
}

#[test]
fn vectors_are_one_access_each() {
    let want = [
        ("whole", Kind::SharedLoad, 16, [1, 32, 4, 4, 0, 0]),
        ("every second", Kind::SharedLoad, 16, [1, 32, 8, 4, 0, 0]),
        ("half", Kind::SharedLoad, 8, [1, 32, 2, 2, 0, 0]),
        ("every second half", Kind::SharedLoad, 8, [1, 32, 4, 2, 0, 0]),
    ];
    check("costs_vectors", 32, |d| args!(d.alloc(32 * 4)), &want);
}

#[test]
fn matrices_and_asynchronous_copies() {
    let want = [
        ("copy along", Kind::CpAsync, 16, [8, 256, 32, 32, 128, 128]),
        // All chunks lie in the same four banks; half of the lanes read nothing, and the others half of each sector.
        ("copy down", Kind::CpAsync, 16, [1, 32, 32, 4, 16, 8]),
        ("straight", Kind::Ldmatrix, 16, [1, 32, 32, 4, 0, 0]),
        ("swizzled", Kind::Ldmatrix, 16, [1, 32, 4, 4, 0, 0]),
    ];
    check("costs_matrices", 32, |d| args!(d.alloc(32 * 4), d.put(&[7u32; 1024])), &want);
}

#[test]
fn device_memory_comes_in_sectors() {
    for (first, stride, sectors) in [(0, 1, 4), (8, 1, 4), (1, 1, 5), (0, 2, 8), (0, 8, 32), (0, 100, 32), (3, 0, 1)] {
        let ideal = if stride == 0 { 1 } else { 4 };
        let want = [
            ("global", Kind::GlobalLoad, 4, [1, 32, 0, 0, sectors, ideal]),
            ("global", Kind::GlobalStore, 4, [1, 32, 0, 0, 4, 4]),
        ];
        check("costs_global", 32, |d| args!(d.alloc(32 * 4), d.put(&[1f32; 4096]), first, stride), &want);
    }
    let want = [
        ("quarter of lanes", Kind::GlobalLoad, 16, [1, 8, 0, 0, 8, 4]),
        ("bytes", Kind::GlobalLoad, 1, [1, 32, 0, 0, 1, 1]),
    ];
    let arguments = |d: &Device| args!(d.alloc(32 * 4), d.put(&[1f32; 128]), d.put(&[1u8; 32]));
    check("costs_global_vectors", 32, arguments, &want);
}

#[test]
fn divergent_turns_stay_apart() {
    // Three turns of 32 lanes and two of 16.
    let want = [("divergent", Kind::GlobalLoad, 4, [5, 128, 0, 0, 16, 16])];
    check("costs_divergent", 32, |d| args!(d.alloc(32 * 4), d.put(&[1f32; 160]), 5i32), &want);
}

#[test]
fn the_table_names_the_worst_line_first() {
    let d = Device::new(Settings { costs: true, ..Settings::checked(0) });
    for stride in [1i32, 32] {
        d.run("costs_strided", blocks(1, 64), args!(d.alloc(64 * 4), stride)).unwrap();
    }
    d.run("costs_broadcast", blocks(1, 32), args!(d.alloc(32 * 4))).unwrap();
    let table = costs_table(d.ordinal);
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows[0], "Shared memory");
    // Two launches of two warps: 2 * (1 + 32) wavefronts where 4 would do.
    let worst = rows[2].split_whitespace().take(4).collect::<Vec<_>>();
    assert_eq!(worst, ["62", "66", "4", "16.50"], "{table}");
    assert!(rows[2].contains("costs_strided") && !rows[4].contains("costs_strided"), "{table}");
    assert!(table.contains("\nDevice memory\n"), "{table}");
}

/// What a process that runs one of the tests here writes to a file of this name.
fn written(name: &str, test: &str) -> Option<String> {
    let path = std::env::temp_dir().join(format!("gramophone-emu-{}-{name}", std::process::id()));
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env("GRAMOPHONE_EMU", format!("costs={}", path.display()))
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    let text = std::fs::read_to_string(&path).ok();
    let _ = std::fs::remove_file(&path);
    text
}

#[test]
fn a_process_writes_what_its_devices_counted() {
    let list = written("costs.tsv", "lanes_share_a_word").unwrap();
    // Three devices ran the kernel.
    let want = format!("costs_broadcast\t{}\tshared load\t4\t3\t96\t6\t3\t0\t0", line("two words"));
    assert!(list.starts_with("kernel\tplace\t") && list.lines().any(|l| l == want), "{list}");
    let table = written("costs.txt", "lanes_share_a_word").unwrap();
    assert!(table.starts_with("Shared memory\n") && table.contains(&line("two words")), "{table}");
    assert_eq!(written("nothing.tsv", "the_fast_flavour_counts_nothing"), None);
}

#[test]
#[should_panic(expected = "only the checked flavour")]
fn the_fast_flavour_counts_nothing() {
    gramophone_emu::open(Settings { costs: true, ..Settings::fast() });
}
