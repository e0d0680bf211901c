//! Data of any size comes in with flat memory and holes kept, whichever way: the daemon's socket, and the service file that
//! the deployed client runs.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use mgmt_tests::scene::{create, left_over, pool, template};
use mgmt_tests::{Answer, Daemon};

const MIB: usize = 1 << 20;
/// Whoever kept it in memory would need eight times what is allowed.
const SIZE: usize = 128 * MIB;
const ALLOWED_KIB: u64 = 16 << 10;
/// Where there is data, in MiB; a MiB each.
const DATA: [usize; 4] = [0, 60, 61, 127];

fn kib(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// What a process has at most from now on is measured anew; what it has now.
fn measure(pid: u32) -> u64 {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    kib(pid, "VmRSS")
}

/// What comes before and behind so much data.
type Ends = (&'static [u8], &'static [u8]);

fn send(mut to: impl Write, (head, tail): Ends) {
    to.write_all(head).unwrap();
    let (zeros, data) = (vec![0; MIB], vec![0xa5; MIB]);
    for at in 0..SIZE / MIB {
        to.write_all(if DATA.contains(&at) { &data } else { &zeros }).unwrap();
    }
    to.write_all(tail).unwrap();
}

fn by_socket(daemon: &Daemon, method: &str, argument: &str, vm: &str, ends: Ends) -> Answer {
    let mut stream = daemon.socket().connect();
    stream.write_all(format!("{method}+{argument} dom0 name {vm}\0").as_bytes()).unwrap();
    send(&stream, ends);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    Answer(answer)
}

/// `/etc/qubes-rpc/METHOD ARGUMENT` with the data as its input. It keeps none of it either.
fn by_service_file(daemon: &Daemon, method: &str, argument: &str, vm: &str, ends: Ends) -> Answer {
    let file = daemon.dir().join(method);
    std::os::unix::fs::symlink(mgmt_tests::binary("mgmt-qrexec"), &file).unwrap();
    let mut service = Command::new(file)
        .arg(argument)
        .env("MGMT_SOCKET", daemon.socket().path())
        .env("QREXEC_REMOTE_DOMAIN", "dom0")
        .env("QREXEC_REQUESTED_TARGET", vm)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = service.stdin.take().unwrap();
    send(&input, ends);
    let peak = kib(service.id(), "VmHWM");
    assert!(peak < ALLOWED_KIB, "{method}: the service had {peak} KiB");
    drop(input);
    Answer(service.wait_with_output().unwrap().stdout)
}

/// All of the data is there, and nothing but the data takes blocks.
fn assert_came_sparse(image: &Path, size: usize) {
    let file = std::fs::File::open(image).unwrap();
    let found = file.metadata().unwrap();
    assert_eq!(found.len(), size as u64);
    let data = DATA.len() * MIB;
    assert!(found.blocks() * 512 <= (data + MIB) as u64, "{}: {} blocks", image.display(), found.blocks());
    let mut piece = vec![0; MIB];
    for at in 0..SIZE / MIB {
        let expected = if DATA.contains(&at) { 0xa5 } else { 0 };
        // What is a hole needs no look.
        let begins = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data((at * MIB) as u64));
        let is_hole = begins.map_or(true, |begins| begins >= ((at + 1) * MIB) as u64);
        if is_hole {
            assert_eq!(expected, 0, "MiB {at}");
            continue;
        }
        file.read_exact_at(&mut piece, (at * MIB) as u64).unwrap();
        assert!(piece.iter().all(|byte| *byte == expected), "MiB {at}");
    }
}

const LINE: &[u8] = b"134217728\n";

fn comes_with_flat_memory(way: fn(&Daemon, &str, &str, &str, Ends) -> Answer, import: &str) {
    let daemon = Daemon::start();
    template(&daemon);
    create(&daemon, "work");
    for (method, argument, vm, ends, image, size) in [
        (import, "private", "work", (LINE, &b""[..]), "appvms/work/private.img", SIZE),
        // Filled up to a whole sector.
        (CREATE, "big", "dom0", (b"", b"end"), "vm-templates/big/root.img", SIZE + 512),
    ] {
        let before = measure(daemon.pid());
        assert_eq!(way(&daemon, method, argument, vm, ends).ok(), "");
        let peak = kib(daemon.pid(), "VmHWM");
        assert!(peak - before < ALLOWED_KIB, "{method}: from {before} KiB to {peak} KiB");
        assert_came_sparse(&pool(&daemon).join(image), size);
    }
    assert_eq!(left_over(&daemon), Vec::<String>::new());
}

const CREATE: &str = "mgmt.vm.CreateTemplate";

#[test]
fn what_comes_through_the_daemons_socket_takes_no_memory_and_keeps_its_holes() {
    comes_with_flat_memory(by_socket, "mgmt.vm.volume.ImportWithSize");
}

#[test]
fn what_comes_through_the_service_file_takes_no_memory_and_keeps_its_holes() {
    comes_with_flat_memory(by_service_file, "admin.vm.volume.ImportWithSize");
}
