//! What kernels' memory accesses would cost a real GPU, as the emulated one counts it.

/// What one kind of access, of one width, at one line of one kernel costs, over all launches of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The kernel that ran it.
    pub kernel: String,
    /// `file:line`; for accesses in `kernels/base`, the line that asked for them.
    pub place: String,
    /// The instruction.
    pub kind: Kind,
    /// Bytes of one lane.
    pub width: u32,
    /// Instructions that warps executed.
    pub instructions: u64,
    /// Lanes that took part in them, all together.
    pub lanes: u64,
    /// Wavefronts of shared memory that they need.
    pub wavefronts: u64,
    /// Wavefronts that they would need if no two lanes' words met in a bank.
    pub wavefronts_ideal: u64,
    /// Sectors of 32 bytes of device memory that they touch.
    pub sectors: u64,
    /// The fewest sectors that could hold the bytes that they touch.
    pub sectors_ideal: u64,
}

/// Instructions that access memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    SharedLoad,
    SharedStore,
    Ldmatrix,
    Stmatrix,
    /// Reads device memory and writes shared memory.
    CpAsync,
    GlobalLoad,
    GlobalStore,
}

impl Kind {
    const NAMES: [(&str, Kind); 7] = [
        ("shared load", Kind::SharedLoad),
        ("shared store", Kind::SharedStore),
        ("ldmatrix", Kind::Ldmatrix),
        ("stmatrix", Kind::Stmatrix),
        ("cp.async", Kind::CpAsync),
        ("global load", Kind::GlobalLoad),
        ("global store", Kind::GlobalStore),
    ];
}

impl Cost {
    /// Reads a line of the library's list.
    pub(crate) fn parse(line: &str) -> Cost {
        let fields: Vec<&str> = line.split('\t').collect();
        let number = |i: usize| -> u64 { fields[i].parse().unwrap_or_else(|_| panic!("costs: {line:?}")) };
        assert_eq!(fields.len(), 10, "costs: {line:?}");
        Cost {
            kernel: fields[0].into(),
            place: fields[1].into(),
            kind: Kind::NAMES.iter().find(|(name, _)| *name == fields[2]).expect("a kind that the library names").1,
            width: number(3) as u32,
            instructions: number(4),
            lanes: number(5),
            wavefronts: number(6),
            wavefronts_ideal: number(7),
            sectors: number(8),
            sectors_ideal: number(9),
        }
    }
}
