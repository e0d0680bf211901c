//! A disk that is full, or broken, at each write of what replaces a volume's data: the caller is told, and the old data is
//! what it was.

use std::path::{Path, PathBuf};

use mgmt_tests::scene::{create, examine, left_over, pool, start, template};
use mgmt_tests::{Answer, Daemon, Fate, Faults, On, Start};

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
/// More writes than any of these has.
const MOST: u32 = 100;

/// With two VMs, one of which has its private volume on another file system.
fn scene(faults: &Faults) -> Option<(Daemon, tempfile::TempDir)> {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        println!("skipped: no second file system");
        return None;
    }
    let other = tempfile::tempdir_in(memory).unwrap();
    let daemon = Start::new().faults(faults).start();
    template(&daemon);
    create(&daemon, "work");
    let options = format!("name=other\ndir_path={}\n", other.path().join("pool").display());
    assert_eq!(daemon.call("mgmt.pool.Add", "dom0", "file", options.as_bytes()).ok(), "");
    let payload = b"name=far label=red pool:private=other";
    assert_eq!(daemon.call("mgmt.vm.CreateInPool.AppVM", "dom0", "base", payload).ok(), "");
    assert_eq!(import(&daemon, "work", b'a').ok(), "");
    assert_eq!(import(&daemon, "far", b'b').ok(), "");
    Some((daemon, other))
}

/// Three stretches of data with holes between them.
fn data(byte: u8) -> Vec<u8> {
    let mut data = vec![0; 6 << 17];
    data.chunks_mut(1 << 17).step_by(2).for_each(|chunk| chunk.fill(byte));
    data
}

fn import(daemon: &Daemon, vm: &str, byte: u8) -> Answer {
    let data = data(byte);
    let payload = [format!("{}\n", data.len()).as_bytes(), &data].concat();
    daemon.call("mgmt.vm.volume.ImportWithSize", vm, "private", &payload)
}

fn private(daemon: &Daemon, vm: &str) -> PathBuf {
    pool(daemon).join(format!("appvms/{vm}/private.img"))
}

/// Fails each write in turn, until `act` comes to its end.
fn fail_at_each_write(daemon: &Daemon, faults: &Faults, act: impl Fn() -> Answer, after: u8) {
    for errno in [ENOSPC, EIO] {
        assert_eq!(import(daemon, "work", b'a').ok(), "");
        let mut failed = 0;
        for at in 1..=MOST {
            faults.arm(On::Data, at, Fate::Errno(errno));
            let answer = act();
            faults.disarm();
            let content = std::fs::read(private(daemon, "work")).unwrap();
            assert_eq!(left_over(daemon), Vec::<String>::new(), "write {at}, errno {errno}");
            if answer.0.starts_with(b"0\0") {
                assert!(content == data(after), "write {at}: acknowledged and not there");
                break;
            }
            let (class, text) = answer.exception();
            assert_eq!(class, "StoragePoolException", "write {at}: {text}");
            assert!(content == data(b'a'), "write {at}, errno {errno}: the old data is not what it was");
            failed = at;
        }
        // At least the data, the length and the sync.
        assert!((3..MOST).contains(&failed), "{failed} writes");
    }
}

fn fail(act: impl Fn(&Daemon) -> Answer, after: u8) {
    let faults = match Faults::new() {
        Ok(faults) => faults,
        Err(why) => return eprintln!("skipped: faults at writes: {why}"),
    };
    let Some((daemon, _other)) = scene(&faults) else { return };
    fail_at_each_write(&daemon, &faults, || act(&daemon), after);
    start(&daemon, "work");
    let state = daemon.state();
    drop(daemon.kill_and(|| examine(&state)));
}

#[test]
fn an_import_that_cannot_be_written_leaves_the_old_data() {
    fail(|daemon| import(daemon, "work", b'c'), b'c');
}

#[test]
fn a_copy_that_cannot_be_written_leaves_the_old_data() {
    let copy = |daemon: &Daemon| {
        let token = daemon.call("mgmt.vm.volume.CloneFrom", "far", "private", b"").ok();
        daemon.call("mgmt.vm.volume.CloneTo", "work", "private", token.as_bytes())
    };
    fail(copy, b'b');
}
