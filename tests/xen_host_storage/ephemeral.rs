//! Ephemeral volumes under a VM: what its guest writes there can be read through the key alone, and that goes with the VM.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use mgmt_tests::Daemon;

use crate::{Ground, Host, MIB, files, guests, host_has, mapped, output, says, until};

const DEVICE: &str = "vm-volatile-work-crypt@volatile";
const MARK: &str = "MGMT-SCRATCH-OF-WORK";

fn start_of(device: &Path) -> Vec<u8> {
    let mut data = vec![0; 4 * MIB];
    std::fs::File::open(device).unwrap().read_exact_at(&mut data, 0).unwrap();
    data
}

/// By Horspool's way: it is much to look through, in an emulated machine.
fn holds(data: &[u8], what: &[u8]) -> bool {
    let last = what.len() - 1;
    let mut skip = [what.len(); 256];
    for (at, byte) in what[..last].iter().enumerate() {
        skip[usize::from(*byte)] = last - at;
    }
    let mut at = 0;
    while let Some(window) = data.get(at..=at + last) {
        if window == what {
            return true;
        }
        at += skip[usize::from(window[last])];
    }
    false
}

fn is_there() -> bool {
    mapped().contains(DEVICE)
}

/// The key as the kernel shows it, and what lies beneath.
fn table() -> (String, PathBuf) {
    let table = output("dmsetup", &["table", "--showkeys", DEVICE]);
    let words: Vec<_> = table.split_whitespace().collect();
    let ["0", _, "crypt", "aes-xts-plain64", key, "0", number, "0"] = words[..] else { panic!("{table}") };
    assert_eq!(key.len(), 128, "{table}");
    let beneath = std::fs::read_link(format!("/sys/dev/block/{number}")).unwrap();
    (key.to_owned(), Path::new("/dev").join(beneath.file_name().unwrap()))
}

/// The pages of a daemon's memory that it can write and has touched. The others would take minutes to read, here.
fn memory(daemon: &Daemon) -> Vec<u8> {
    const PAGE: usize = 4096;
    let open = |name: &str| std::fs::File::open(format!("/proc/{}/{name}", daemon.pid())).unwrap();
    let (memory, pages) = (open("mem"), open("pagemap"));
    let mut data = Vec::new();
    for line in std::io::read_to_string(open("maps")).unwrap().lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| usize::from_str_radix(text, 16).unwrap() / PAGE);
        // Eight bytes a page; the highest bit says that it is there.
        let mut entries = vec![0; (to - from) * 8];
        let at = |page: usize, unit: usize| u64::try_from(page * unit).unwrap();
        pages.read_exact_at(&mut entries, at(from, 8)).unwrap();
        let is_there = entries.chunks_exact(8).map(|entry| entry[7] & 0x80 != 0);
        for page in is_there.enumerate().filter_map(|(page, is_there)| is_there.then_some(from + page)) {
            let end = data.len();
            data.resize(end + PAGE, 0);
            if memory.read_exact_at(&mut data[end..], at(page, PAGE)).is_err() {
                data.truncate(end);
            }
        }
    }
    data
}

/// Nothing of the daemon's holds the key: not its memory, not its log, not its state.
fn has_forgotten(daemon: &Daemon, key: &str) {
    let digits = |at: usize| u8::from_str_radix(&key[at..at + 2], 16).unwrap();
    // Half of it is a key of AES already.
    let raw: Vec<u8> = (0..64).step_by(2).map(digits).collect();
    let half = &key.as_bytes()[..64];
    let mut seen = vec![memory(daemon), daemon.log().into_bytes()];
    assert!(holds(&seen[0], daemon.state().to_str().unwrap().as_bytes()), "the memory was not read");
    for name in files(&daemon.state()).iter().filter(|name| !name.starts_with("vm-kernels")) {
        seen.push(std::fs::read(daemon.state().join(name)).unwrap());
    }
    for data in seen {
        assert!(!holds(&data, &raw) && !holds(&data, half), "the daemon has kept the key");
    }
}

#[test]
#[ignore = "needs dom0 on Xen; run by cargo xtask test"]
fn what_a_guest_writes_to_an_ephemeral_volume_is_noise_on_the_disk_and_its_key_goes_with_it() {
    let ground = Ground::thin();
    let mut host = Host::new();
    let before = (host_has(), mapped());
    host.ok("mgmt.pool.Add", "dom0", "lvm_thin", &format!("name=tested\n{}", ground.options()));
    host.ok("mgmt.property.Set", "dom0", "default_pool", "tested");
    let image = std::fs::read(guests().join("root.img")).unwrap();
    assert_eq!(host.0.call("mgmt.vm.CreateTemplate", "dom0", "base", &image).ok(), "");
    host.ok("mgmt.vm.Create.AppVM", "dom0", "base", "name=work label=red");
    host.linux("work", "pv");
    let options = format!("quiet mitigations=off random.trust_cpu=on mgmt.name=work mgmt.scratch={MARK}");
    host.set("work", "kernelopts", &options);
    host.ok("mgmt.vm.volume.Set.ephemeral", "work", "volatile", "True");
    let refused = host.0.call("mgmt.vm.volume.Set.ephemeral", "work", "private", b"True");
    assert_eq!(refused.exception().0, "QubesValueError");

    host.start("work");
    says("work", "GUEST-SCRATCH xvdc");
    let device = Path::new("/dev/mapper").join(DEVICE);
    let info = host.ok("admin.vm.volume.Info", "work", "volatile", "");
    assert!(
        info.contains(&format!("path={}\n", device.display())) && info.contains("ephemeral=True\n"),
        "{info}"
    );
    assert_eq!(device.metadata().unwrap().permissions().mode() & 0o007, 0, "anybody may open it");
    let (key, beneath) = table();
    assert!(holds(&start_of(&device), MARK.as_bytes()), "the guest wrote elsewhere");
    let raw = start_of(&beneath);
    assert!(!holds(&raw, MARK.as_bytes()), "{} can be read", beneath.display());
    assert!(
        raw[MIB..][..64 << 10].iter().any(|byte| *byte != 0),
        "nothing was written to {}",
        beneath.display()
    );
    has_forgotten(&host.0, &key);

    // It runs on without a daemon; the next one ends it.
    host = Host(host.0.kill_and_restart());
    assert_eq!(table().0, key);
    host.ok("mgmt.vm.Kill", "work", "", "");
    host.is_gone("work");
    assert!(!is_there());

    // A domain that ends while no daemon runs, and another key each time.
    for (property, value) in [("kernel", "tiny-pv"), ("memory", "16"), ("maxmem", "16")] {
        host.set("work", property, value);
    }
    host.start("work");
    assert_ne!(table().0, key);
    host = Host(host.0.kill_and(|| drop(output("xl", &["destroy", "work"]))));
    until("start-up removes the device", || !is_there());

    // A start that fails when the device is there.
    let broken = host.0.state().join("vm-kernels/broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("vmlinuz"), "no kernel").unwrap();
    host.set("work", "kernel", "broken");
    let failed = host.0.call("mgmt.vm.Start", "work", "", b"").exception();
    assert!(failed.1.contains("create domain"), "{failed:?}");
    assert!(host.0.log().contains(&format!("dmsetup create --uuid=CRYPT-TEMP-{DEVICE}")), "it failed before");
    assert!(!is_there());

    for vm in ["work", "base"] {
        host.ok("mgmt.vm.Remove", vm, "", "");
    }
    assert_eq!(ground.left(), Vec::<String>::new());
    host.ok("mgmt.property.Set", "dom0", "default_pool", "varlibqubes");
    host.ok("mgmt.pool.Remove", "dom0", "tested", "");
    // A loop device that was just freed may be listed for a moment.
    until("nothing is left", || (host_has(), mapped()) == before);
}
