//! `gramophone.h` is what cbindgen writes of the code.

use std::path::Path;

#[test]
fn the_header_is_that_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let sources = ["border", "types", "lib"].map(|name| root.join(format!("src/{name}.rs")));
    let builder = sources.iter().fold(cbindgen::Builder::new().with_config(config), |b, path| b.with_src(path));
    let mut written = Vec::new();
    builder.generate().unwrap().write(&mut written);
    let path = root.join("gramophone.h");
    if std::env::var_os("GRAMOPHONE_WRITE_HEADER").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let committed = std::fs::read(&path).unwrap_or_default();
    assert!(
        committed == written,
        "capi/gramophone.h is not that of the code; write it with GRAMOPHONE_WRITE_HEADER=1 cargo test -p gramophone-capi"
    );
}
