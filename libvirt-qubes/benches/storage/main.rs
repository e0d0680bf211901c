//! What storage costs against the bare operation with the same durability, both measured in turns.
//!
//! `storage file|file-reflink FOLDER` measures in an empty folder of a file system, `storage lvm_thin DISK` on a disk
//! whose content is nobody's. Calls go through [`Storage`](libvirt_qubes::storage::Storage), as the daemon's do. Each line
//! of the answer is a [`pace::Row`]; `cargo xtask bench storage` makes a table of them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a measurement ends at the first surprise")]

mod bare;
mod files;
mod lvm;
mod pace;
mod pool;

use std::path::Path;

fn main() {
    // Cargo adds `--bench` when it runs this itself.
    let words: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["file", folder] => files::measure(files::Driver::File, Path::new(folder)),
        ["file-reflink", folder] => files::measure(files::Driver::Reflink, Path::new(folder)),
        ["lvm_thin", disk] => lvm::measure(Path::new(disk)),
        _ => println!("not measured: run `cargo xtask bench storage`"),
    }
}
