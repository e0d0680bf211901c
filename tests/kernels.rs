//! Kernels are folders that an administrator changes at any time: a start takes what is there then.

use mgmt_tests::{Start, scene};

#[test]
fn a_start_takes_what_the_kernels_folder_says_at_that_time() {
    let daemon = Start::new().config("[storage]\nrefresh_s = 1\n").start();
    scene::template(&daemon);
    let folder = daemon.state().join("vm-kernels/6.1");
    std::fs::create_dir(&folder).unwrap();
    let set = |value: &[u8]| daemon.call("mgmt.vm.property.Set", "base", "kernel", value);
    let (class, text) = set(b"6.1").exception();
    let expected = "Kernel '6.1' not properly installed: missing 'vmlinuz' file";
    assert_eq!((class.as_str(), text.as_str()), ("QubesPropertyValueError", expected));
    std::fs::write(folder.join("vmlinuz"), b"x").unwrap();
    set(b"6.1").ok();
    let options = || daemon.call("mgmt.vm.property.Get", "base", "kernelopts", b"").ok();
    assert_eq!(options(), "default=yes swiotlb=2048");
    std::fs::write(folder.join("default-kernelopts-nopci.txt"), b"quiet\n").unwrap();
    scene::start(&daemon, "base");
    assert_eq!(options(), "default=yes quiet");
    let world = daemon.state().join("sim");
    let domains =
        std::fs::read_dir(world).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()));
    assert!(domains.into_iter().any(|domain| domain.unwrap().contains("\"cmdline\":\"quiet\"")));
    // And without a start, as soon as figures are looked at again.
    std::fs::write(folder.join("default-kernelopts-nopci.txt"), b"verbose").unwrap();
    scene::until("the new options", || options() == "default=yes verbose");
}
