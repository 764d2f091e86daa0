//! The safetensors file: eight bytes with the header's length, the header (JSON: name to type, shape and place), and
//! the tensors one after another without gaps.
//!
//! Read by memory map. Every claim of the header is checked before anything believes it, and what is wrong is said
//! together with the tensor's name; this is why the header is parsed here and not by the `safetensors` crate, whose
//! errors name no tensor and which lets the last of two equal names win.

use crate::base::dtype::{Dtype, Elem, Real};
use crate::by_dtype;
use crate::device::{Arena, Mapped, Slot};
use crate::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const _: () = assert!(cfg!(target_endian = "little"), "tensors are stored little-endian and used where they lie");

/// How a tensor of a file is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    F64,
    F32,
    Bf16,
    /// Read by converting; never computed in.
    F16,
    /// Codes of optimizer states; never weights.
    U8,
    /// A type the format has and the engine has no use for, by its name.
    Other(&'static str),
}

/// The format's types and the bits of one element.
const TYPES: [(&str, usize, Stored); 22] = [
    ("F64", 64, Stored::F64),
    ("F32", 32, Stored::F32),
    ("BF16", 16, Stored::Bf16),
    ("F16", 16, Stored::F16),
    ("BOOL", 8, Stored::Other("BOOL")),
    ("U8", 8, Stored::U8),
    ("I8", 8, Stored::Other("I8")),
    ("U16", 16, Stored::Other("U16")),
    ("I16", 16, Stored::Other("I16")),
    ("U32", 32, Stored::Other("U32")),
    ("I32", 32, Stored::Other("I32")),
    ("U64", 64, Stored::Other("U64")),
    ("I64", 64, Stored::Other("I64")),
    ("C64", 64, Stored::Other("C64")),
    ("F8_E5M2", 8, Stored::Other("F8_E5M2")),
    ("F8_E4M3", 8, Stored::Other("F8_E4M3")),
    ("F8_E8M0", 8, Stored::Other("F8_E8M0")),
    ("F8_E4M3FNUZ", 8, Stored::Other("F8_E4M3FNUZ")),
    ("F8_E5M2FNUZ", 8, Stored::Other("F8_E5M2FNUZ")),
    ("F6_E2M3", 6, Stored::Other("F6_E2M3")),
    ("F6_E3M2", 6, Stored::Other("F6_E3M2")),
    ("F4", 4, Stored::Other("F4")),
];

impl Stored {
    /// The engine's type with the same bits, if it has one.
    pub fn same(self) -> Option<Dtype> {
        match self {
            Stored::F64 => Some(Dtype::F64),
            Stored::F32 => Some(Dtype::F32),
            Stored::Bf16 => Some(Dtype::Bf16),
            Stored::U8 => Some(Dtype::U8),
            Stored::F16 | Stored::Other(_) => None,
        }
    }
}

/// One tensor of a file.
#[derive(Debug)]
pub(super) struct Tensor {
    pub name: String,
    pub stored: Stored,
    pub shape: Vec<usize>,
    /// Bytes of the file.
    pub bytes: Range<usize>,
}

/// A mapped file whose header has been checked.
#[derive(Debug)]
pub(super) struct File {
    pub path: PathBuf,
    pub map: Arc<Mapped>,
    /// In the order they lie in.
    pub tensors: Vec<Tensor>,
    /// What is text in `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

impl File {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// A file that is missing, truncated or not what its header says.
    pub fn open(path: &Path) -> Result<File> {
        let file = fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        let about = file.metadata().map_err(|e| Error::io("read", path, e))?;
        if !about.is_file() {
            return Err(Error::model(format!("{}: not a file", path.display())));
        }
        // Weights are not written to while they are in use: we never write over an existing file (`create`), and the
        // format's other writers replace whole files.
        let map = Mapped::new(&file).map_err(|e| Error::io("map", path, e))?;
        let (tensors, metadata) = header(&map).map_err(|what| Error::model(format!("{}: {what}", path.display())))?;
        Ok(File { path: path.to_path_buf(), map: Arc::new(map), tensors, metadata })
    }
}

/// Headers longer than this are refused, as the format's other readers do.
const LONGEST_HEADER: usize = 100_000_000;

/// The tensors of a header, and its metadata.
type Header = (Vec<Tensor>, BTreeMap<String, String>);

fn header(file: &[u8]) -> std::result::Result<Header, String> {
    if file.starts_with(b"version https://git-lfs") {
        return Err("this is a Git LFS pointer, not the weights; fetch them with `git lfs pull`".into());
    }
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(format!("{} bytes are no safetensors file; it is truncated", file.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > rest.len() as u64 {
        return Err(format!("the header should have {length} bytes, but {} follow; truncated or damaged", rest.len()));
    }
    let length = length as usize;
    if length > LONGEST_HEADER {
        return Err(format!("a header of {length} bytes is too long"));
    }
    let (text, data) = rest.split_at(length);
    let Entries(entries, metadata) = serde_json::from_slice(text).map_err(|e| format!("bad header: {e}"))?;
    let mut tensors =
        entries.into_iter().map(|(name, e)| tensor(name, e)).collect::<std::result::Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|t| (t.bytes.start, t.bytes.end));
    cover(&tensors, data.len())?;
    for tensor in &mut tensors {
        tensor.bytes = tensor.bytes.start + 8 + length..tensor.bytes.end + 8 + length;
    }
    Ok((tensors, metadata))
}

/// One entry, its size checked against its place; places still count from the end of the header.
fn tensor(name: String, entry: Entry) -> std::result::Result<Tensor, String> {
    let Some((_, bits, stored)) = TYPES.iter().find(|(type_name, ..)| *type_name == entry.dtype) else {
        return Err(format!("{name} has the unknown type {:?}", entry.dtype));
    };
    let [start, end] = entry.data_offsets;
    let size = entry.shape.iter().try_fold(*bits, |n, d| n.checked_mul(*d)).filter(|n| n.is_multiple_of(8));
    let Some(size) = size.map(|bits| bits / 8) else {
        return Err(format!("{name} has the impossible shape {:?}", entry.shape));
    };
    if end.checked_sub(start) != Some(size) {
        let Entry { shape, dtype, .. } = entry;
        return Err(format!("{name} needs {size} bytes for {dtype} {shape:?}, but its place is {start}..{end}"));
    }
    Ok(Tensor { name, stored: *stored, shape: entry.shape, bytes: start..end })
}

/// Places must cover the data exactly: no gaps, no overlaps, nothing before, after or outside.
fn cover(tensors: &[Tensor], data: usize) -> std::result::Result<(), String> {
    let mut reached = 0;
    for Tensor { name, bytes, .. } in tensors {
        if bytes.end > data {
            return Err(format!("{name} ends at byte {} of {data}; the file is truncated or damaged", bytes.end));
        }
        if bytes.start < reached {
            return Err(format!("{name} overlaps another tensor at bytes {bytes:?}"));
        }
        if bytes.start > reached {
            return Err(format!("there is a gap of {} bytes before {name}", bytes.start - reached));
        }
        reached = bytes.end;
    }
    if reached < data {
        return Err(format!("{} bytes after the last tensor belong to none", data - reached));
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The header's entries, and apart from them what is text in `__metadata__`; two of the same name are an error.
struct Entries(Vec<(String, Entry)>, BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                use serde::de::Error;
                let mut seen = BTreeSet::new();
                let (mut entries, mut metadata) = (Vec::new(), BTreeMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("{name} is there twice")));
                    }
                    if name == "__metadata__" {
                        if let Value::Object(given) = map.next_value()? {
                            let text = |(k, v): (String, Value)| Some((k, v.as_str()?.to_string()));
                            metadata = given.into_iter().filter_map(text).collect();
                        }
                        continue;
                    }
                    match map.next_value() {
                        Ok(entry) => entries.push((name, entry)),
                        Err(e) => return Err(A::Error::custom(format_args!("{name}: {e}"))),
                    }
                }
                Ok(Entries(entries, metadata))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// Makes a file that is not there yet: never writes over pages that somebody, we included, may have mapped.
pub(super) fn create(path: &Path, fill: impl FnOnce(&mut BufWriter<fs::File>) -> io::Result<()>) -> Result<()> {
    let write = || -> io::Result<()> {
        let file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        fill(&mut out)?;
        out.into_inner()?.sync_all()
    };
    write().map_err(|e| Error::io("write", path, e))
}

/// Writes tensors as `dtype` in the order given, a piece at a time; `metadata` joins what every file says of itself.
pub(super) fn write(
    out: &mut impl Write,
    slots: &[&Slot],
    arena: &Arena,
    dtype: Dtype,
    metadata: &[(&str, &str)],
) -> io::Result<()> {
    let name = match dtype {
        Dtype::Bf16 => "BF16",
        Dtype::F32 => "F32",
        Dtype::U8 => "U8",
        other => panic!("weights are never saved as {other}"),
    };
    let mut header = Map::new();
    let about = [("format", "pt")].iter().chain(metadata).map(|(k, v)| (k.to_string(), Value::from(*v)));
    header.insert("__metadata__".into(), about.collect::<Map<_, _>>().into());
    let mut end = 0;
    for slot in slots {
        let start = end;
        end += slot.len() * dtype.size();
        let entry = json!({ "dtype": name, "shape": slot.shape(), "data_offsets": [start, end] });
        header.insert(slot.name.clone(), entry);
    }
    let mut header = Value::from(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    slots.iter().try_for_each(|slot| {
        let bytes = arena.fetch(slot).map_err(io::Error::other)?;
        write_tensor(out, &bytes, arena.at(slot).dtype(), dtype)
    })
}

/// Elements converted at a time.
const PIECE: usize = 1 << 16;

fn write_tensor(out: &mut impl Write, bytes: &[u8], stored: Dtype, dtype: Dtype) -> io::Result<()> {
    if stored == dtype {
        return out.write_all(bytes);
    }
    by_dtype!(stored, From => by_dtype!(dtype, To => {
        // Bytes from a GPU lie in a plain vector, which need not be aligned for the element.
        let elements: Cow<[From]> = match bytemuck::try_cast_slice(bytes) {
            Ok(elements) => Cow::Borrowed(elements),
            Err(_) => Cow::Owned(bytemuck::allocation::pod_collect_to_vec(bytes)),
        };
        let mut piece = vec![<To as Elem>::put(Default::default()); PIECE.min(elements.len())];
        for from in elements.chunks(PIECE) {
            let to = &mut piece[..from.len()];
            cast::<To, From>(to, from);
            out.write_all(bytemuck::cast_slice(to))?;
        }
        Ok(())
    }))
}

/// Rounds every element once.
pub(super) fn cast<To: Elem, From: Elem>(to: &mut [To], from: &[From]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = To::put(To::Acc::of(from.get().f64()));
    }
}
