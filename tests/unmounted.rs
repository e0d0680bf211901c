//! A pool whose file system is not there for a while.

use mgmt_tests::{Daemon, scene};

#[test]
fn a_vm_that_is_removed_while_its_pool_is_away_leaves_nothing_once_the_pool_is_back() {
    let daemon = Daemon::start();
    scene::template(&daemon);
    scene::create(&daemon, "work");
    let (pool, away) = (scene::pool(&daemon), daemon.dir().join("away"));
    let private = pool.join("appvms/work/private.img");
    assert!(private.exists());
    std::fs::rename(&pool, &away).unwrap();
    assert_eq!(daemon.call("mgmt.vm.Remove", "work", "", b"").ok(), "");
    assert!(daemon.log().contains("stays until the next start-up"), "{}", daemon.log());
    let again = || daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", b"name=work label=red").exception().0;
    assert_eq!(again(), "QubesVMAlreadyExistsError");
    std::fs::rename(&away, &pool).unwrap();
    let daemon = daemon.kill_and_restart();
    scene::until("the image to go", || !private.exists());
    scene::until("the name", || {
        daemon.call("mgmt.vm.Create.AppVM", "dom0", "base", b"name=work label=red").0.starts_with(b"0")
    });
}
