//! A thin pool's metadata that gets nearly full, by a program in the place of `lvm`: what LVM says of a pool, and the daemon of
//! that. How real metadata is filled: `libvirt-qubes/tests/xen_host_lvm/full.rs`.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mgmt_tests::scene::until;
use mgmt_tests::{Daemon, Start};

/// It speaks as LVM's shell does, of a volume group with nothing but a thin pool; how full that is a file says.
const LVM: &str = r#"#!/bin/sh
dir=${0%/*}
good='{"log_type":"status","log_object_type":"cmd","log_ret_code":"1"}'
reply() { printf '{\n"report": [{"lv": [%s]}],\n"log": [%s]\n}\n' "$1" "$good" >&2; }
while read -r line; do
    case $line in
        *metadata_percent*)
            reply "{\"lv_name\":\"pool00\", \"lv_attr\":\"twi-aotz--\", \"lv_size\":\"1073741824\", \"data_percent\":\"12.50\",
                \"lv_metadata_size\":\"4194304\", \"metadata_percent\":\"$(cat "$dir/metadata")\", \"chunk_size\":\"65536\",
                \"zero\":\"zero\", \"vg_extent_size\":\"4194304\"}" ;;
        *) reply ;;
    esac
done
"#;

fn usage(daemon: &Daemon) -> String {
    daemon.call("mgmt.pool.UsageDetails", "dom0", "thin", b"").ok()
}

#[test]
fn metadata_that_gets_nearly_full_is_told_to_those_who_follow_the_drafts_events_once_for_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let lvm = dir.path().join("lvm");
    std::fs::write(&lvm, LVM).unwrap();
    std::fs::set_permissions(&lvm, std::fs::Permissions::from_mode(0o700)).unwrap();
    let fill = |percent: &str| {
        // Whole or not there: it is read at any time.
        let new = dir.path().join("new");
        std::fs::write(&new, percent).unwrap();
        std::fs::rename(new, dir.path().join("metadata")).unwrap();
    };
    fill("10.25");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let daemon = Start::new().env("PATH", path).config("[storage]\nrefresh_s = 1\n").start();
    let options = b"name=thin\nvolume_group=qubes_dom0\nthin_pool=pool00\n";
    assert_eq!(daemon.call("mgmt.pool.Add", "dom0", "lvm_thin", options).ok(), "");
    assert_eq!(
        usage(&daemon),
        "data_size=1073741824\ndata_usage=134217728\nmetadata_size=4194304\nmetadata_usage=429916\n"
    );

    let mut events = daemon.socket().connect();
    events.write_all(b"mgmt.Events+ dom0 name dom0\0").unwrap();
    events.shutdown(std::net::Shutdown::Write).unwrap();
    let mut next = |bytes: &[u8]| {
        let mut came = vec![0; bytes.len()];
        events.read_exact(&mut came).unwrap();
        assert_eq!(came.escape_ascii().to_string(), bytes.escape_ascii().to_string());
    };
    next(b"1\0\0connection-established\0\0");
    // It stays full for a while, gets room, and is full again.
    for (percent, used, told) in [
        ("91.99", "3858340", Some(&b"1\0\0pool-usage\0pool\0thin\0kind\0metadata\0percent\091\0\0"[..])),
        ("95.00", "3984588", None),
        ("50.00", "2097152", None),
        ("90.00", "3774873", Some(b"1\0\0pool-usage\0pool\0thin\0kind\0metadata\0percent\090\0\0")),
    ] {
        fill(percent);
        until(percent, || usage(&daemon).contains(&format!("\nmetadata_usage={used}\n")));
        told.into_iter().for_each(&mut next);
        if percent == "91.99" {
            let payload = b"name=work label=black pool=thin";
            let refused = daemon.call("mgmt.vm.CreateInPool.TemplateVM", "dom0", "", payload).exception();
            assert_eq!(refused.0, "StoragePoolException");
            let words = "lvextend --poolmetadatasize +SIZE qubes_dom0/pool00";
            assert!(refused.1.contains(words), "{}", refused.1);
        }
    }
    assert!(!Path::new("/dev/qubes_dom0").exists());
}
