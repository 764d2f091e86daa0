//! Round trips, what other programs write, and files built byte by byte to be wrong.

use super::*;
use crate::base::dtype::{Dtype, bf16};
use crate::error::{Error, Kind};
use crate::model::config::preset::Shape;
use crate::model::config::{Config, Family};
use std::fs;
use tempfile::TempDir;

const Q: &str = "model.layers.0.self_attn.q_proj.weight";

/// A few tensors of a model: a table, a layer's matrix and bias, a norm, and a head if there is one.
fn layout(dtype: Dtype, head: Option<&str>) -> Layout {
    let mut l = Layout::new();
    l.table("model.embed_tokens.weight", dtype, 6, 4, Init::Normal(0.5));
    l.matrix(Q, dtype, 8, 4, Init::Normal(0.5));
    l.vector("model.layers.0.self_attn.q_proj.bias", dtype, 8, Init::Normal(0.5));
    l.vector("model.norm.weight", dtype, 4, Init::Ones);
    if let Some(name) = head {
        l.table(name, dtype, if name == "score.weight" { 1 } else { 6 }, 4, Init::Normal(0.5));
    }
    l
}

fn config() -> Config {
    Config::tiny(Family::Qwen2)
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A file as the format describes it, from any header.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// A well-formed file of these tensors: name, type, shape, bytes.
fn file(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let place = [data.len(), data.len() + bytes.len()];
        header.insert(name.to_string(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": place}));
        data.extend(bytes);
    }
    raw(&serde_json::Value::from(header).to_string(), &data)
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The two-tensor layout that most broken files are held against.
fn pair(dtype: Dtype) -> Layout {
    let mut l = Layout::new();
    l.matrix(Q, dtype, 2, 2, Init::Normal(1.0));
    l.vector("model.norm.weight", dtype, 2, Init::Ones);
    l
}

fn pair_file(names: [&str; 2]) -> Vec<u8> {
    file(&[(names[0], "F32", &[2, 2], f32s(&[1.0, 2.0, 3.0, 4.0])), (names[1], "F32", &[2], f32s(&[5.0, 6.0]))])
}

fn in_dir(bytes: &[u8]) -> TempDir {
    let dir = dir();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    dir
}

/// One line, from both ways of opening, that holds all the words.
fn refused(dir: &Path, layout: &Layout, words: &[&str]) {
    let errors: [Error; 2] =
        [open(dir, layout).err(), open_owned(dir, layout, Missing::Refuse).err()].map(|e| e.expect("an error"));
    for error in errors {
        let message = error.to_string();
        assert!(!message.contains('\n') && matches!(error.kind(), Kind::Model | Kind::Io), "{message}");
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message:?}");
        }
    }
}

fn values(arena: &Arena, layout: &Layout) -> Vec<Vec<f64>> {
    let one =
        |slot: &Slot| by_dtype!(slot.dtype, T => arena.at(slot).slice::<T>().iter().map(|x| x.get().f64()).collect());
    layout.slots().iter().map(one).collect()
}

#[test]
fn round_trips_whole_and_in_shards() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for head in [None, Some("lm_head.weight"), Some("score.weight")] {
            let l = layout(dtype, head);
            let arena = init(&l, 3).unwrap();
            for most in [1, 100, 150, usize::MAX] {
                let dir = dir();
                save_sharded(dir.path(), &config(), &l, &arena, dtype, most).unwrap();
                assert_eq!(values(&open(dir.path(), &l).unwrap(), &l), values(&arena, &l));
                let (owned, missing) = open_owned(dir.path(), &l, Missing::Refuse).unwrap();
                assert_eq!((values(&owned, &l), missing.len()), (values(&arena, &l), 0));
                assert_eq!(Config::open(dir.path()).unwrap().dtype, dtype);
            }
        }
    }
}

#[test]
fn shards_are_filled_in_order() {
    // Bytes in f32: 96, 128, 32, 16.
    for (dtype, most, files) in [
        (Dtype::F32, 1, 4),
        (Dtype::F32, 127, 3),
        (Dtype::F32, 159, 3),
        (Dtype::F32, 224, 2),
        (Dtype::F32, 271, 2),
        (Dtype::F32, 272, 1),
        (Dtype::Bf16, 87, 3),
        (Dtype::Bf16, 88, 2),
        (Dtype::Bf16, 136, 1),
    ] {
        let (l, dir) = (layout(Dtype::F32, None), dir());
        save_sharded(dir.path(), &config(), &l, &init(&l, 3).unwrap(), dtype, most).unwrap();
        let names = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|n| n.ends_with(".safetensors")).collect();
        names.sort();
        let want = |i: usize| match files {
            1 => "model.safetensors".to_string(),
            _ => format!("model-{:05}-of-{files:05}.safetensors", i + 1),
        };
        assert_eq!(names, (0..files).map(want).collect::<Vec<_>>(), "{dtype} {most}");
    }
}

#[test]
fn what_is_stored_as_asked_for_is_mapped_and_read_only() {
    let (l, dir) = (layout(Dtype::Bf16, None), dir());
    save(dir.path(), &config(), &l, &init(&l, 3).unwrap(), Dtype::Bf16).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(checkpoint.map(&l).unwrap().is_some());
    assert!(checkpoint.map(&l.with_dtype(Dtype::F32)).unwrap().is_none());
    let (owned, _) = checkpoint.read(&l, Missing::Refuse).unwrap();
    owned.at(&l.slots()[0]).slice_mut::<bf16>()[0] = bf16::from_f32(9.0);
}

#[test]
fn saving_rounds_once_and_loading_widens() {
    let l = layout(Dtype::F32, None);
    let (arena, dir) = (init(&l, 3).unwrap(), dir());
    save(dir.path(), &config(), &l, &arena, Dtype::Bf16).unwrap();
    let rounded: Vec<Vec<f64>> =
        values(&arena, &l).iter().map(|t| t.iter().map(|x| bf16::from_f32(*x as f32).to_f64()).collect()).collect();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F64] {
        let twin = l.with_dtype(dtype);
        assert_eq!(values(&open(dir.path(), &twin).unwrap(), &twin), rounded);
    }
}

/// The reference implementation of the format reads the same tensors from what we write.
#[test]
fn the_format_s_own_reader_agrees() {
    let l = layout(Dtype::F32, Some("lm_head.weight"));
    let (arena, dir) = (init(&l, 3).unwrap(), dir());
    save(dir.path(), &config(), &l, &arena, Dtype::F32).unwrap();
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.len(), l.slots().len());
    for slot in l.slots() {
        let tensor = theirs.tensor(&slot.name).unwrap();
        assert_eq!((tensor.shape(), tensor.data()), (&slot.shape()[..], arena.at(slot).bytes()));
    }
    let (_, about) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(about.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn float16_and_float64_files_are_converted() {
    let f16: Vec<u8> =
        [1.5f32, -2.0, 2f32.powi(-24), 65504.0].iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
    let f64s: Vec<u8> = [0.1f64, -7.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let dir = in_dir(&file(&[(Q, "F16", &[2, 2], f16), ("model.norm.weight", "F64", &[2], f64s)]));
    let l = pair(Dtype::F32);
    let want = vec![vec![1.5, -2.0, 2f64.powi(-24), 65504.0], vec![0.1f32 as f64, -7.0]];
    assert_eq!(values(&open(dir.path(), &l).unwrap(), &l), want);
    let l = pair(Dtype::Bf16);
    let want: Vec<Vec<f64>> =
        want.iter().map(|t| t.iter().map(|x| bf16::from_f32(*x as f32).to_f64()).collect()).collect();
    assert_eq!(values(&open(dir.path(), &l).unwrap(), &l), want);
}

#[test]
fn tensors_that_are_not_aligned_are_copied() {
    let l = pair(Dtype::F32);
    for pad in 0..8 {
        let good = pair_file([Q, "model.norm.weight"]);
        let length = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
        let header = format!("{}{}", std::str::from_utf8(&good[8..8 + length]).unwrap(), " ".repeat(pad));
        let dir = in_dir(&raw(&header, &good[8 + length..]));
        let aligned = (8 + header.len()).is_multiple_of(4);
        assert_eq!(Checkpoint::open(dir.path()).unwrap().map(&l).unwrap().is_some(), aligned);
        assert_eq!(values(&open(dir.path(), &l).unwrap(), &l), [vec![1.0, 2.0, 3.0, 4.0], vec![5.0, 6.0]]);
    }
}

#[test]
fn leftovers_of_other_programs_are_ignored() {
    let more = |name: &str| {
        file(&[
            (Q, "F32", &[2, 2], f32s(&[1.0, 2.0, 3.0, 4.0])),
            ("model.norm.weight", "F32", &[2], f32s(&[5.0, 6.0])),
            (name, "F32", &[1, 2], f32s(&[7.0, 8.0])),
        ])
    };
    let l = pair(Dtype::F32);
    for name in ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"] {
        open(in_dir(&more(name)).path(), &l).unwrap();
    }
    for name in
        ["score.weight", "lm_head.bias", "model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.o_proj.bias"]
    {
        refused(in_dir(&more(name)).path(), &l, &[name, "config.json", "no such tensor"]);
    }
}

#[test]
fn a_bare_backbone_gets_its_prefix() {
    let l = pair(Dtype::F32);
    let dir = in_dir(&pair_file(["layers.0.self_attn.q_proj.weight", "norm.weight"]));
    assert_eq!(values(&open(dir.path(), &l).unwrap(), &l)[1], [5.0, 6.0]);
    let names = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(names.names().collect::<Vec<_>>(), [Q, "model.norm.weight"]);
    assert!(names.contains(Q) && !names.contains("norm.weight"));
    refused(in_dir(&pair_file([Q, "norm.weight"])).path(), &l, &["model.norm.weight missing"]);
}

#[test]
fn a_missing_head_is_drawn_when_asked_for() {
    let dir = dir();
    let old = layout(Dtype::F32, Some("lm_head.weight"));
    save(dir.path(), &config(), &old, &init(&old, 3).unwrap(), Dtype::F32).unwrap();
    let new = layout(Dtype::F32, Some("score.weight"));
    refused(dir.path(), &new, &["score.weight missing", "scalar"]);
    let head = Missing::Draw { names: &["score.weight"], seed: 8 };
    let (arena, missing) = open_owned(dir.path(), &new, head).unwrap();
    assert_eq!(missing, ["score.weight"]);
    let (drawn, kept) = (values(&init(&new, 8).unwrap(), &new), values(&open(dir.path(), &old).unwrap(), &old));
    assert_eq!(values(&arena, &new)[4], drawn[4]);
    assert_eq!(values(&arena, &new)[..4], kept[..4]);
    let other = Missing::Draw { names: &["model.norm.weight"], seed: 8 };
    assert!(open_owned(dir.path(), &new, other).err().unwrap().to_string().contains("score.weight missing"));
}

#[test]
fn what_does_not_fit_the_config_is_named() {
    let l = pair(Dtype::F32);
    let one = |shape: &[usize], dtype: &str, bytes: usize| {
        in_dir(&file(&[(Q, dtype, shape, vec![0; bytes]), ("model.norm.weight", "F32", &[2], f32s(&[5.0, 6.0]))]))
    };
    refused(one(&[4, 1], "F32", 16).path(), &l, &[Q, "has shape [4, 1]", "[2, 2]", "model.safetensors"]);
    refused(one(&[4], "F32", 16).path(), &l, &["has shape [4]"]);
    refused(one(&[], "F32", 4).path(), &l, &["has shape []"]);
    refused(one(&[2, 2], "I64", 32).path(), &l, &[Q, "stored as I64"]);
    refused(one(&[2, 2], "F8_E4M3", 4).path(), &l, &[Q, "stored as F8_E4M3"]);
    let empty = in_dir(&raw("{}", &[]));
    refused(empty.path(), &l, &[Q, "and 1 more missing"]);
    refused(empty.path(), &layout(Dtype::F32, Some("lm_head.weight")), &["model.embed_tokens.weight and 4 more"]);
}

#[test]
fn directories_without_weights_say_what_they_hold() {
    let (l, dir) = (pair(Dtype::F32), dir());
    refused(&dir.path().join("nowhere"), &l, &["nowhere", "model.safetensors is missing"]);
    refused(dir.path(), &l, &["model.safetensors is missing"]);
    fs::write(dir.path().join("adapter_model.safetensors"), "").unwrap();
    refused(dir.path(), &l, &["only an adapter"]);
    fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    refused(dir.path(), &l, &["convert"]);
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    refused(dir.path(), &l, &["not a file"]);
}

#[test]
fn damaged_files_are_refused() {
    let l = pair(Dtype::F32);
    let norm = |dtype: &str, shape: &str, place: &str| {
        format!(r#"{{"model.norm.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{place}}}}}"#)
    };
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
        )
    };
    let twice = r#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
    let length = |n: u64| [&n.to_le_bytes()[..], b"{}"].concat();
    for (bytes, words) in [
        (vec![], &["0 bytes", "truncated"][..]),
        (vec![1; 7], &["7 bytes"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), &["git lfs pull"]),
        (length(3), &["3 bytes, but 2 follow"]),
        (length(u64::MAX), &["18446744073709551615 bytes", "damaged"]),
        (length(0), &["bad header"]),
        (raw("", &[]), &["bad header"]),
        (raw("[]", &[]), &["bad header", "object of tensors"]),
        (raw("{", &[]), &["bad header"]),
        (raw("{\"a\":\u{7f}", &[]), &["bad header"]),
        ([&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat(), &["bad header"]),
        (raw(r#"{"a":{"dtype":"F32"}}"#, &[]), &["bad header: a: missing field `shape`"]),
        (raw(&norm("F32", "[-2]", "[0,8]"), &[0; 8]), &["model.norm.weight", "-2"]),
        (raw(&norm("F32", "[2]", "[0]"), &[0; 8]), &["model.norm.weight"]),
        (raw(&norm("F31", "[2]", "[0,8]"), &[0; 8]), &["model.norm.weight has the unknown type \"F31\""]),
        (raw(twice, &[]), &["a is there twice"]),
        (raw(&norm("F32", "[4294967296,4294967296]", "[0,8]"), &[0; 8]), &["impossible shape"]),
        (raw(&norm("F4", "[1]", "[0,1]"), &[0; 1]), &["impossible shape"]),
        (raw(&norm("F32", "[3]", "[0,8]"), &[0; 8]), &["needs 12 bytes for F32 [3], but its place is 0..8"]),
        (raw(&norm("F32", "[2]", "[8,0]"), &[0; 8]), &["place is 8..0"]),
        (raw(&norm("F32", "[2]", "[0,8]"), &[0; 7]), &["ends at byte 8 of 7", "truncated"]),
        (raw(&norm("F32", "[2]", "[0,8]"), &[0; 9]), &["1 bytes after the last tensor"]),
        (raw(&norm("F32", "[2]", "[4,12]"), &[0; 12]), &["gap of 4 bytes before model.norm.weight"]),
        (raw(&two("[0,8]", "[4,12]"), &[0; 12]), &["b overlaps"]),
        (raw(&two("[0,8]", "[0,8]"), &[0; 8]), &["overlaps"]),
        (raw(&two("[12,20]", "[0,8]"), &[0; 20]), &["gap of 4 bytes before a"]),
    ] {
        refused(in_dir(&bytes).path(), &l, &[words, &["model.safetensors"]].concat());
    }
}

/// Every truncation is an error, and no byte of the header can make anything panic or read outside the file.
#[test]
fn no_damage_panics() {
    let (l, good) = (pair(Dtype::F32), pair_file([Q, "model.norm.weight"]));
    let dir = dir();
    let try_all = |bytes: &[u8]| {
        let path = dir.path().join("model.safetensors");
        fs::remove_file(&path).ok();
        fs::write(&path, bytes).unwrap();
        (open(dir.path(), &l).is_ok(), open_owned(dir.path(), &l, Missing::Refuse).is_ok())
    };
    assert_eq!(try_all(&good), (true, true));
    for end in 0..good.len() {
        assert_eq!(try_all(&good[..end]), (false, false), "cut at {end}");
    }
    for i in 0..good.len() - 24 {
        for byte in [0, b' ', b'0', b'9', b'"', b'}', b',', good[i] ^ 1, 0xff] {
            let mut bad = good.clone();
            bad[i] = byte;
            let (mapped, owned) = try_all(&bad);
            assert_eq!(mapped, owned, "byte {i} as {byte}");
        }
    }
}

#[test]
fn an_index_must_agree_with_its_shards() {
    let l = pair(Dtype::F32);
    let one = |name: &str, shape: &[usize], n: usize| file(&[(name, "F32", shape, vec![0; 4 * n])]);
    let with = |index: &str| {
        let dir = dir();
        fs::write(dir.path().join("a.safetensors"), one(Q, &[2, 2], 4)).unwrap();
        fs::write(dir.path().join("b.safetensors"), one("model.norm.weight", &[2], 2)).unwrap();
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        dir
    };
    let map = |q: &str, norm: &str| format!(r#"{{"weight_map":{{"{Q}":{q},"model.norm.weight":{norm}}}}}"#);
    let (a, b) = (r#""a.safetensors""#, r#""b.safetensors""#);
    open(with(&map(a, b)).path(), &l).unwrap();
    for (index, words) in [
        (map(b, a), &["is in a.safetensors", "index does not say so"][..]),
        (map(a, r#""c.safetensors""#), &["c.safetensors", "No such file"]),
        (map(a, r#""../b.safetensors""#), &["model.norm.weight is in", "no file name"]),
        (map(a, r#"".."#), &["JSON"]),
        (map(a, r#""..""#), &["no file name"]),
        (map(a, "3"), &["is in 3", "no file name"]),
        (format!(r#"{{"weight_map":{{"{Q}":{a}}}}}"#), &["model.norm.weight missing"]),
        (
            format!(r#"{{"weight_map":{{"x":{a},"{Q}":{a},"model.norm.weight":{b}}}}}"#),
            &["x should be in a.safetensors"],
        ),
        (format!(r#"{{"weight_map":{{"model.norm.weight":{a}}}}}"#), &[Q, "index does not say so"]),
        (r#"{"weight_map":{}}"#.into(), &["weight_map is empty"]),
        (r#"{"weight_map":[]}"#.into(), &["weight_map"]),
        ("{}".into(), &["weight_map is missing"]),
        ("{".into(), &["not valid JSON"]),
    ] {
        refused(with(&index).path(), &l, &[words, &["model.safetensors.index.json"]].concat());
    }
    let twice = with(&map(a, b));
    fs::write(twice.path().join("b.safetensors"), pair_file([Q, "model.norm.weight"])).unwrap();
    refused(twice.path(), &l, &[Q, "b.safetensors", "index does not say so"]);
    let cut = with(&map(a, b));
    fs::write(cut.path().join("b.safetensors"), &one("model.norm.weight", &[2], 2)[..60]).unwrap();
    refused(cut.path(), &l, &["b.safetensors", "truncated"]);
}

#[test]
fn random_weights_depend_on_the_key_alone() {
    let mut l = Layout::new();
    let big = l.matrix("big", Dtype::F32, 300, 400, Init::Normal(0.02));
    let zeros = l.vector("zeros", Dtype::F32, 5, Init::Zeros);
    let ones = l.vector("ones", Dtype::F32, 5, Init::Ones);
    let arena = init(&l, 7).unwrap();
    let x = arena.at(&big).slice::<f32>();
    let mean = x.iter().map(|v| *v as f64).sum::<f64>() / x.len() as f64;
    let deviation = (x.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
    assert!(mean.abs() < 2e-4 && (deviation - 0.02).abs() < 2e-4, "mean {mean} deviation {deviation}");
    // Neighbours come from the same words; no two of a group may go together.
    for lag in 1..4 {
        let together: f64 = x.iter().zip(&x[lag..]).map(|(a, b)| *a as f64 * *b as f64).sum();
        assert!(together.abs() / (x.len() as f64 * deviation * deviation) < 0.015, "lag {lag}");
    }
    let beyond = x.iter().filter(|v| v.abs() > 0.04).count() as f64 / x.len() as f64;
    assert!((beyond - 0.0455).abs() < 0.003, "{beyond} of a normal lie beyond two deviations");
    assert_eq!(arena.at(&zeros).slice::<f32>(), [0.0; 5]);
    assert_eq!(arena.at(&ones).slice::<f32>(), [1.0; 5]);

    let same = Arena::new(&Device::cpu(1), "one thread", &l).unwrap();
    l.slots().iter().for_each(|slot| draw(&Pool::new(1), &same, slot, 7));
    assert_eq!(values(&same, &l), values(&arena, &l));
    assert_ne!(values(&init(&l, 8).unwrap(), &l), values(&arena, &l));
    let half = l.with_dtype(Dtype::Bf16);
    let rounded: Vec<f64> = x.iter().map(|v| bf16::from_f32(*v).to_f64()).collect();
    assert_eq!(values(&init(&half, 7).unwrap(), &half)[0], rounded);
    let double = l.with_dtype(Dtype::F64);
    assert_eq!(values(&init(&double, 7).unwrap(), &double), values(&arena, &l));
}

#[test]
fn saving_replaces_nothing_and_reports_a_full_disk() {
    let l = layout(Dtype::F32, None);
    let (arena, dir) = (init(&l, 3).unwrap(), dir());
    save(dir.path(), &config(), &l, &arena, Dtype::F32).unwrap();
    let error = save(dir.path(), &config(), &l, &arena, Dtype::F32).err().unwrap();
    assert!(error.kind() == Kind::Io && error.to_string().contains("config.json"), "{error}");
    let error = save(&dir.path().join("nowhere"), &config(), &l, &arena, Dtype::F32).err().unwrap();
    assert!(error.to_string().contains("nowhere"), "{error}");

    /// Takes some bytes, then has no room.
    struct Disk(usize);
    impl std::io::Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let slots: Vec<&Slot> = l.slots().iter().collect();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let mut whole = Vec::new();
        safetensors::write(&mut whole, &slots, &arena, dtype, &[]).unwrap();
        for room in [0, 5, 8, 100, whole.len() - 1] {
            let error = safetensors::write(&mut Disk(room), &slots, &arena, dtype, &[]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        }
        safetensors::write(&mut Disk(whole.len()), &slots, &arena, dtype, &[]).unwrap();
    }
}

#[test]
fn sidecars_are_copied() {
    let (from, to) = (dir(), dir());
    let put = |name: &str| fs::write(from.path().join(name), name).unwrap();
    fs::create_dir(from.path().join("additional_chat_templates")).unwrap();
    let wanted = [
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "additional_chat_templates/judge.jinja",
    ];
    wanted.iter().chain(&["config.json", "model.safetensors", "README.md"]).for_each(|name| put(name));
    assert_eq!(copy_sidecars(from.path(), to.path()).unwrap(), wanted);
    for name in wanted {
        assert_eq!(fs::read_to_string(to.path().join(name)).unwrap(), name);
    }
    assert!(!to.path().join("config.json").exists() && !to.path().join("README.md").exists());
    assert!(copy_sidecars(from.path(), to.path()).err().unwrap().to_string().contains("tokenizer.json"));
    assert!(copy_sidecars(&from.path().join("nowhere"), to.path()).unwrap().is_empty());
    assert!(copy_sidecars(from.path(), from.path()).is_err(), "a directory is not copied onto itself");
    assert_eq!(fs::read_to_string(from.path().join("tokenizer.json")).unwrap(), "tokenizer.json");
}

#[test]
fn the_config_written_is_the_config_read() {
    let (l, dir) = (layout(Dtype::Bf16, None), dir());
    let shape = Shape { vocab: Some(64), tied: Some(true), ..Shape::default() };
    let c = Config::preset("llama-3.1-8b", &shape).unwrap();
    save(dir.path(), &c, &l, &init(&l, 1).unwrap(), Dtype::Bf16).unwrap();
    let again = Config::open(dir.path()).unwrap();
    assert_eq!(Config { source: c.source.clone(), ..again }, c);
}
