//! `mgmt volume …`

use std::path::{Path, PathBuf};

use clap::Subcommand;
use mgmt_rpc::client::Call;
use tokio::io::AsyncReadExt;

use crate::output::{Exit, Shell, print};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// List a VM's volumes
    List {
        /// The VM
        vm: String,
    },
    /// What is known of a volume
    Info {
        /// The VM
        vm: String,
        /// The volume: root, private, volatile or kernel
        volume: String,
    },
    /// List the former states of a volume, oldest first
    Snapshots {
        /// The VM
        vm: String,
        /// The volume
        volume: String,
    },
    /// Keep the present state of a volume, and print the snapshot's name
    Snapshot {
        /// The VM
        vm: String,
        /// The volume
        volume: String,
    },
    /// Go back to a former state of a halted VM's volume
    Revert {
        /// The VM
        vm: String,
        /// The volume
        volume: String,
        /// The snapshot or revision; where it is not given, the state before the present one
        snapshot: Option<String>,
    },
    /// Remove a former state of a volume
    RemoveSnapshot {
        /// The VM
        vm: String,
        /// The volume
        volume: String,
        /// The snapshot or revision
        snapshot: String,
    },
    /// Make a volume larger
    Resize {
        /// The VM
        vm: String,
        /// The volume
        volume: String,
        /// The new size: bytes, or a number with KiB, MiB, GiB or TiB
        #[arg(value_parser = size)]
        size: u64,
    },
    /// Replace a volume's data, and its size, by a file's
    Import {
        /// The VM
        vm: String,
        /// The volume
        volume: String,
        /// The file; standard input where it is not given
        file: Option<PathBuf>,
        /// How much comes; the file's size where it is not given
        #[arg(long, value_parser = size, required_unless_present_any = ["file", "no_resize"])]
        size: Option<u64>,
        /// The volume keeps its size, and just as much comes
        #[arg(long, conflicts_with = "size")]
        no_resize: bool,
    },
    /// Fill a volume with zeros
    Clear {
        /// The VM
        vm: String,
        /// The volume
        volume: String,
    },
    /// Replace a volume's data by a copy of another's
    Clone {
        /// The VM of the volume to copy
        #[arg(value_name = "SOURCE")]
        from: String,
        /// The volume to copy
        volume: String,
        /// The VM of the volume to replace
        vm: String,
        /// The volume to replace; of the same name where it is not given
        to: Option<String>,
    },
    /// Change a setting of a volume
    Set {
        /// The VM
        vm: String,
        /// The volume
        volume: String,
        /// The setting: revisions_to_keep, rw or ephemeral
        #[arg(value_parser = ["revisions_to_keep", "rw", "ephemeral"])]
        setting: String,
        /// Its value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
}

/// Bytes, maybe in units.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        other => return Err(format!("'{other}' is no unit: KiB, MiB, GiB, TiB")),
    };
    let number: u64 = number.parse().map_err(|_| "it is no number".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "it is too large".to_owned())
}

pub(crate) async fn run(shell: &Shell, verb: Verb) -> Result<(), Exit> {
    match verb {
        Verb::List { vm } => shell.lines(&shell.ask(Call::new("mgmt.vm.volume.List", &vm), b"").await?),
        // The deployed call tells more.
        Verb::Info { vm, volume } => {
            shell.pairs(&shell.ask(Call::new("admin.vm.volume.Info", &vm).with(&volume), b"").await?)
        }
        Verb::Snapshots { vm, volume } => shell.lines(&snapshots(shell, &vm, &volume).await?),
        Verb::Snapshot { vm, volume } => {
            let id = shell.ask(Call::new("mgmt.vm.volume.Snapshot", &vm).with(&volume), b"").await?;
            print(&format!("{id}\n"))
        }
        Verb::Revert { vm, volume, snapshot } => {
            let snapshot = match snapshot {
                Some(snapshot) => snapshot,
                None => newest(&snapshots(shell, &vm, &volume).await?)?,
            };
            shell.tell(Call::new("mgmt.vm.volume.Revert", &vm).with(&volume), snapshot.as_bytes()).await
        }
        Verb::RemoveSnapshot { vm, volume, snapshot } => {
            let call = Call::new("mgmt.vm.volume.RemoveSnapshot", &vm).with(&volume);
            shell.tell(call, snapshot.as_bytes()).await
        }
        Verb::Resize { vm, volume, size } => {
            let call = Call::new("mgmt.vm.volume.Resize", &vm).with(&volume);
            shell.tell(call, size.to_string().as_bytes()).await
        }
        Verb::Import { vm, volume, file, no_resize: true, .. } => {
            let call = Call::new("mgmt.vm.volume.Import", &vm).with(&volume);
            shell.send_file(call, file.as_deref()).await.map(drop)
        }
        Verb::Import { vm, volume, file, size, .. } => {
            import(shell, &vm, &volume, file.as_deref(), size).await
        }
        Verb::Clear { vm, volume } => {
            shell.tell(Call::new("mgmt.vm.volume.Clear", &vm).with(&volume), b"").await
        }
        Verb::Clone { from, volume, vm, to } => {
            let token = shell.ask(Call::new("mgmt.vm.volume.CloneFrom", &from).with(&volume), b"").await?;
            let to = to.unwrap_or(volume);
            shell.tell(Call::new("mgmt.vm.volume.CloneTo", &vm).with(&to), token.as_bytes()).await
        }
        Verb::Set { vm, volume, setting, value } => {
            let method = format!("mgmt.vm.volume.Set.{setting}");
            shell.tell(Call::new(&method, &vm).with(&volume), value.as_bytes()).await
        }
    }
}

async fn snapshots(shell: &Shell, vm: &str, volume: &str) -> Result<String, Exit> {
    shell.ask(Call::new("mgmt.vm.volume.ListSnapshots", vm).with(volume), b"").await
}

/// The state before the present one: the newest revision. Where none is kept, the newest snapshot; one may be of the
/// present state.
fn newest(snapshots: &str) -> Result<String, Exit> {
    let newest_first = || snapshots.lines().rev();
    let newest = newest_first().find(|id| !is_explicit(id)).or_else(|| newest_first().next());
    let none = || Exit::Usage("the volume has no snapshot to go back to".to_owned());
    newest.map(str::to_owned).ok_or_else(none)
}

/// Whether that is the name of a state that somebody wanted kept: `s1`.
fn is_explicit(id: &str) -> bool {
    id.strip_prefix('s').is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
}

async fn import(
    shell: &Shell,
    vm: &str,
    volume: &str,
    file: Option<&Path>,
    size: Option<u64>,
) -> Result<(), Exit> {
    let call = Call::new("mgmt.vm.volume.ImportWithSize", vm).with(volume);
    let Some(path) = file else {
        let head = format!("{}\n", size.unwrap_or_default());
        let sent = shell.send(call, std::io::Cursor::new(head.into_bytes()).chain(tokio::io::stdin()));
        return sent.await.map(drop);
    };
    let unreadable = |error: std::io::Error| Exit::Usage(format!("{}: {error}", path.display()));
    let mut file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let size = match size {
        Some(size) => size,
        // Of a block device the metadata does not tell.
        None => {
            let end = tokio::io::AsyncSeekExt::seek(&mut file, std::io::SeekFrom::End(0)).await;
            let end = end.map_err(unreadable)?;
            tokio::io::AsyncSeekExt::rewind(&mut file).await.map_err(unreadable)?;
            end
        }
    };
    let head = std::io::Cursor::new(format!("{size}\n").into_bytes());
    shell.send(call, head.chain(file)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::{newest, size};

    #[test]
    fn without_a_name_the_state_before_the_present_one_is_meant() {
        for (listed, meant) in [
            ("1\n2\n", "2"),
            ("1\n2\ns1\n", "2"),
            ("s1\ns2\n", "s2"),
            ("1700000000-back\ns3\n", "1700000000-back"),
        ] {
            assert!(newest(listed).is_ok_and(|id| id == meant), "{listed}");
        }
        assert!(newest("").is_err());
    }

    #[test]
    fn a_size_may_have_a_unit() {
        for (text, bytes) in [("512", 512), ("3KiB", 3072), ("2G", 2 << 30), ("1TiB", 1 << 40), ("0B", 0)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "1.5G", "-1", "1GB", "99999999999999999999", "99999999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
