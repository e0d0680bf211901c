//! Where the programs under test are.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

/// Which package makes a binary.
fn package(name: &str) -> &'static str {
    if name == "mgmt-block" { "mgmt-block" } else { "mgmt-rpc" }
}

/// The path of a binary of this workspace, built if `MGMT_BIN_DIR` does not have it.
pub fn binary(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("MGMT_BIN_DIR") {
        let path = PathBuf::from(dir).join(name);
        assert!(path.is_file(), "MGMT_BIN_DIR has no {name}");
        return path;
    }
    static BUILT: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap();
    let built = built.get_or_insert_with(HashMap::new);
    if let Some(path) = built.get(name) {
        return path.clone();
    }
    let mut build = escargot::CargoBuild::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .package(package(name))
        .bin(name)
        .current_release_if_wanted();
    if cfg!(not(feature = "xen")) && package(name) == "mgmt-rpc" {
        build = build.no_default_features();
    }
    let path = build.run().unwrap_or_else(|error| panic!("building {name}: {error}")).path().to_owned();
    built.insert(name.to_owned(), path.clone());
    path
}

/// Tests of a release build run release binaries.
trait Profile {
    fn current_release_if_wanted(self) -> Self;
}

impl Profile for escargot::CargoBuild {
    fn current_release_if_wanted(self) -> Self {
        if cfg!(debug_assertions) { self } else { self.release() }
    }
}
