//! The contract of every hypervisor, kept by libxl.

use std::sync::Arc;
use std::time::{Duration, Instant};

use libvirt_qubes::config::{Access, DiskSpec, DomainSpec, VirtMode};
use libvirt_qubes::contract::hypervisor::{CONTRACTS, Fixture, Guest, Outcome};
use libvirt_qubes::hypervisor::{BoxFuture, Hypervisor};
use libvirt_qubes::ids::VmName;
use tempfile::TempDir;
use uuid::Uuid;

use crate::dom0::{Dom0, PATIENCE, linux, loops, tiny, xl_list};

struct Xen {
    dir: TempDir,
}

impl Fixture for Xen {
    fn connect(&self) -> BoxFuture<'_, Arc<dyn Hypervisor>> {
        Box::pin(async { Arc::new(Dom0::connect()) as Arc<dyn Hypervisor> })
    }

    fn spec(&self, name: VmName, guest: Guest) -> BoxFuture<'_, Option<DomainSpec>> {
        let words = match guest {
            Guest::Listens => "",
            Guest::Deaf => "tiny.deaf",
            Guest::PowersOff => "tiny.after=poweroff tiny.delay_ms=100",
            Guest::Reboots => "tiny.after=reboot tiny.delay_ms=100",
            Guest::Crashes => "tiny.after=crash tiny.delay_ms=100",
            Guest::TakesDisks => {
                let spec = linux(self.dir.path(), name.as_str(), VirtMode::Pv);
                return Box::pin(async { Some(spec) });
            }
        };
        let spec = tiny(name.as_str(), VirtMode::Pvh, words);
        Box::pin(async { Some(spec) })
    }

    fn ready<'a>(&'a self, spec: &'a DomainSpec) -> BoxFuture<'a, ()> {
        Box::pin(async {
            let until = Instant::now() + PATIENCE;
            while !is_up(spec.name.as_str()) {
                assert!(Instant::now() < until, "{} does not come up", spec.name);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    }

    fn disk(&self) -> BoxFuture<'_, DiskSpec> {
        let path = self.dir.path().join(format!("{}.img", Uuid::new_v4()));
        Box::pin(async {
            std::fs::write(&path, vec![0; 65536]).unwrap();
            DiskSpec { vdev: "xvdi".parse().unwrap(), path, access: Access::ReadWrite }
        })
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn quiet(&self) -> Duration {
        // Longer than the list of every second takes to see what has no event.
        Duration::from_millis(1500)
    }
}

/// The guests say so in xenstore too, where a number tells one life from the next.
fn is_up(name: &str) -> bool {
    let output = |program: &str, argument: &str| {
        let output = std::process::Command::new(program).arg(argument).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    let domid = std::process::Command::new("xl").args(["domid", name]).output().unwrap();
    let domid = String::from_utf8(domid.stdout).unwrap().trim().to_owned();
    output("xenstore-read", &format!("/local/domain/{domid}/data/ready")).as_deref() == Some("1")
}

async fn keeps(name: &str) {
    let contract = CONTRACTS.iter().find(|contract| contract.name == name).unwrap();
    let xen = Xen { dir: tempfile::tempdir().unwrap() };
    assert_eq!(contract.run(&xen).await, Outcome::Kept);
    assert!(xl_list().is_empty(), "{:?}", xl_list());
    assert_eq!(loops(), Vec::<String>::new());
}

macro_rules! contracts {
    ($($name:ident)*) => {
        const TRIED: &[&str] = &[$(stringify!($name)),*];
        $(
            #[tokio::test(flavor = "multi_thread")]
            #[ignore = "needs dom0 on Xen; run by cargo xtask test"]
            async fn $name() {
                keeps(stringify!($name)).await;
            }
        )*
    };
}

contracts! {
    a_host_tells_its_name_and_figures
    dom0_is_not_listed
    usage_is_dom0s_and_that_of_every_domain_in_the_order_of_numbers
    a_created_domain_is_paused_and_as_asked_for
    a_domain_is_listed_while_it_is_being_built
    a_name_or_uuid_of_a_live_domain_is_refused
    a_configuration_that_cannot_be_built_is_refused
    a_domain_without_a_kernel_starts_only_where_the_host_says_so
    too_much_memory_is_refused
    a_failed_create_names_the_file_and_leaves_nothing
    a_create_cancelled_before_it_begins_makes_nothing
    a_create_cancelled_at_any_moment_leaves_nothing
    a_create_whose_caller_goes_away_runs_to_its_end
    domains_are_created_side_by_side
    pause_and_unpause_are_idempotent
    one_unpause_is_enough_whoever_paused
    a_shutdown_request_is_handed_over_and_obeyed
    a_deaf_guest_holds_nothing
    a_domain_that_cannot_hear_is_not_asked
    a_domain_is_destroyed_in_every_state
    what_does_not_exist_is_not_found
    destroys_at_the_same_time_agree
    a_name_and_uuid_are_free_after_a_destroy
    a_guests_own_end_is_told_once_and_the_domain_stays
    pauses_are_told_whoever_caused_them
    a_domain_made_by_another_process_is_watched
    watching_twice_tells_once
    disks_of_a_new_domain_are_listed_in_order
    a_disk_is_attached_and_detached
    a_failed_attach_leaves_nothing
    an_attach_that_is_cancelled_leaves_nothing
    a_disk_is_free_again_after_its_domain
    a_running_guest_gets_a_disk_and_gives_it_back
}

#[test]
fn every_contract_has_its_test() {
    let names: Vec<&str> = CONTRACTS.iter().map(|contract| contract.name).collect();
    assert_eq!(TRIED, names);
}
