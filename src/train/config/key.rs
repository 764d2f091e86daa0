//! A key of a run file, where its value came from, and the macro that makes both out of one table. Training runs and
//! self-training have a table each.

use super::Stage;
use std::fmt;
use toml::Value;

/// Whether a key has a say in what is learned; those that do are in the [`Run::config_hash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Learned,
    Inert,
}
/// One key of the run file.
pub struct Key {
    pub section: &'static str,
    pub name: &'static str,
    /// `section.name`
    pub full: &'static str,
    /// One line.
    pub doc: &'static str,
    /// Whether its entries may be set one by one.
    pub(crate) table: bool,
    pub(crate) effect: Effect,
    pub(crate) allowed: fn() -> String,
    /// Its default in a stage, as TOML; `None` where there is none.
    pub(crate) default: fn(Stage) -> Option<Value>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        name: String,
        line: usize,
    },
    CommandLine,
    /// From another key: which, and where that one came from.
    Key(&'static str, Box<Origin>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { name, line } => write!(f, "{name}:{line}"),
            Origin::CommandLine => f.write_str("command line"),
            Origin::Key(key, origin) => write!(f, "{key}, {origin}"),
        }
    }
}

/// Expands a table into one struct per section, the struct of the whole file and the list of its keys.
macro_rules! run_file {
    ($(#[doc = $whole:literal])+ $Run:ident; $(
        $(#[doc = $about:literal])+
        $section:ident: $Section:ident, $effect:ident {$(
            $(#[doc = $doc:literal])+
            $key:ident: $T:ty $(= $default:expr)? $(=> [$($each:expr),+])? $(, $range:expr)? $(; $exception:ident)? ;
        )+}
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $Section { $($(#[doc = $doc])+ pub $key: $T,)+ }
        )+

        $(#[doc = $whole])+
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Run {
            $($(#[doc = $about])+ pub $section: $Section,)+
            origins: BTreeMap<&'static str, Origin>,
        }

        /// Every key, in the order of the reference.
        pub static KEYS: &[Key] = &[$($(Key {
            section: stringify!($section),
            name: stringify!($key),
            full: concat!(stringify!($section), ".", stringify!($key)),
            doc: concat!($($doc),+).trim_ascii(),
            table: <$T as Setting>::TABLE,
            effect: run_file!(@last $effect $($exception)?),
            allowed: || <$T as Setting>::allowed() + &run_file!(@range $($range)?).describe(),
            default: |stage| <$T as Setting>::write(&run_file!(@default stage, $T $(= $default)? $(=> [$($each),+])?)),
        },)+)+];

        impl $Run {
            /// The values as given; defaults that depend on the stage are those of `stage`.
            fn read(given: &Given, stage: Stage) -> Result<$Run> {
                let mut origins = BTreeMap::new();
                Ok($Run {
                    $($section: $Section {$($key: {
                        let full = concat!(stringify!($section), ".", stringify!($key));
                        let default = run_file!(@default stage, $T $(= $default)? $(=> [$($each),+])?);
                        let (value, origin) = given.read::<$T>(full, run_file!(@range $($range)?), default)?;
                        origins.insert(full, origin);
                        value
                    },)+},)+
                    origins,
                })
            }

            /// Where the value of a key (`section.name`) came from.
            pub fn origin(&self, key: &str) -> &Origin {
                self.origins.get(key).unwrap_or_else(|| panic!("`{key}` is not a key of this file"))
            }

            /// The values in the order of [`KEYS`].
            fn values(&self) -> Vec<Option<Value>> {
                vec![$($(self.$section.$key.write(),)+)+]
            }
        }
    };
    (@default $stage:expr, $T:ty = $default:expr) => {{ let _ = $stage; let value: $T = $default; value }};
    (@default $stage:expr, $T:ty => [$pretrain:expr, $finetune:expr, $sft:expr, $scalar:expr, $prove:expr]) => {{
        let value: $T = match $stage {
            Stage::Pretrain => $pretrain,
            Stage::Finetune => $finetune,
            Stage::Sft => $sft,
            Stage::Scalar => $scalar,
            Stage::Prove => $prove,
        };
        value
    }};
    (@range) => { Any };
    (@range $range:expr) => { $range };
    (@last $effect:ident) => { $effect };
    (@last $effect:ident $exception:ident) => { $exception };
}
pub(crate) use run_file;
