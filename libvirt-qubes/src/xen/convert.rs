//! What libxl tells, as plain data.

use uuid::Uuid;
use xen_sys::{libxl_dominfo, libxl_shutdown_reason as R};

use super::watched::Sight;
use crate::hypervisor::{DomainInfo, DomainState, ShutdownReason};
use crate::ids::DomId;

pub(super) fn shutdown_reason(raw: R) -> ShutdownReason {
    match raw {
        R::LIBXL_SHUTDOWN_REASON_POWEROFF => ShutdownReason::Poweroff,
        R::LIBXL_SHUTDOWN_REASON_REBOOT => ShutdownReason::Reboot,
        R::LIBXL_SHUTDOWN_REASON_SUSPEND => ShutdownReason::Suspend,
        R::LIBXL_SHUTDOWN_REASON_CRASH => ShutdownReason::Crash,
        R::LIBXL_SHUTDOWN_REASON_WATCHDOG => ShutdownReason::Watchdog,
        R::LIBXL_SHUTDOWN_REASON_SOFT_RESET => ShutdownReason::SoftReset,
        _ => ShutdownReason::Unknown,
    }
}

pub(super) fn uuid(info: &libxl_dominfo) -> Uuid {
    Uuid::from_bytes(info.uuid.uuid)
}

pub(super) fn state(info: &libxl_dominfo) -> DomainState {
    if info.dying {
        DomainState::Dying
    } else if info.shutdown {
        DomainState::Shutdown(shutdown_reason(info.shutdown_reason))
    } else if info.paused {
        DomainState::Paused
    } else {
        DomainState::Running
    }
}

pub(super) fn sight(info: &libxl_dominfo) -> Sight {
    match state(info) {
        DomainState::Dying => Sight::Gone,
        DomainState::Shutdown(reason) => Sight::Down(reason),
        DomainState::Paused => Sight::Up { paused: true },
        DomainState::Running => Sight::Up { paused: false },
    }
}

/// A domain without its name, and with Xen's own limit of its memory. `None` for what is no domain that can be
/// managed: dom0, and Xen's own reserved numbers.
pub(super) fn domain_info(info: &libxl_dominfo) -> Option<DomainInfo> {
    let domid = DomId::new(info.domid).filter(|domid| domid.get() != 0)?;
    Some(DomainInfo {
        uuid: uuid(info),
        domid,
        name: None,
        state: state(info),
        memory_kib: info.current_memkb,
        max_memory_kib: info.max_memkb,
        cpu_time_ns: info.cpu_time,
        vcpus: info.vcpu_online,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::owned::Owned;

    #[test]
    fn the_strongest_flag_of_a_domain_is_its_state() {
        let mut info = Owned::<libxl_dominfo>::new();
        assert_eq!(state(&info), DomainState::Running);
        info.paused = true;
        assert_eq!(state(&info), DomainState::Paused);
        info.shutdown = true;
        info.shutdown_reason = R::LIBXL_SHUTDOWN_REASON_CRASH;
        assert_eq!(state(&info), DomainState::Shutdown(ShutdownReason::Crash));
        info.dying = true;
        assert_eq!(state(&info), DomainState::Dying);
        assert_eq!(sight(&info), Sight::Gone);
    }

    #[test]
    fn a_reason_of_a_later_xen_is_unknown() {
        assert_eq!(shutdown_reason(R(99)), ShutdownReason::Unknown);
    }

    #[test]
    fn dom0_and_reserved_numbers_are_not_listed() {
        let mut info = Owned::<libxl_dominfo>::new();
        for (domid, listed) in [(0, false), (1, true), (0x7fef, true), (0x7ff0, false), (u32::MAX, false)] {
            info.domid = domid;
            assert_eq!(domain_info(&info).is_some(), listed, "{domid}");
        }
    }
}
