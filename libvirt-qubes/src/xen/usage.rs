//! What domains use: Xen's figures, with what xenstore tells of each.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;
use xen_sys::{libxl_domain_type, libxl_dominfo};

use super::convert;
use super::xenstore::Store;
use crate::hypervisor::{DeviceModelUsage, DomainUsage};
use crate::ids::DomId;

/// What is known of domains besides Xen's figures.
pub(super) trait Tells {
    /// The number of the domain that runs a domain's device model.
    fn device_model(&mut self, domid: u32) -> Option<u32>;
    /// A figure below `memory/`, by the toolstack or by the guest.
    fn memory(&mut self, domid: u32, key: &str) -> Option<u64>;
}

/// xenstore; nothing where it does not answer.
pub(super) struct Told(Option<Store>);

impl Told {
    /// Blocks for about a second at most.
    pub(super) fn open() -> Self {
        Self(Store::open().ok())
    }

    fn number(&mut self, node: &str) -> Option<u64> {
        match self.0.as_mut()?.number(node) {
            Ok(number) => number,
            Err(_does_not_answer) => {
                // It is not asked again, a second each time.
                self.0 = None;
                None
            }
        }
    }
}

impl Tells for Told {
    fn device_model(&mut self, domid: u32) -> Option<u32> {
        let number = self.number(&format!("/local/domain/{domid}/image/device-model-domid"))?;
        // dom0 is where it runs when it has no domain of its own.
        u32::try_from(number).ok().filter(|domid| *domid != 0)
    }

    fn memory(&mut self, domid: u32, key: &str) -> Option<u64> {
        self.number(&format!("/local/domain/{domid}/memory/{key}"))
    }
}

/// The usage of all domains of a list.
pub(super) fn of(list: &[&libxl_dominfo], tells: &mut impl Tells) -> Vec<DomainUsage> {
    let by_number: HashMap<u32, &libxl_dominfo> = list.iter().map(|info| (info.domid, *info)).collect();
    let mut models = HashMap::new();
    for info in list.iter().filter(|info| info.domain_type == libxl_domain_type::LIBXL_DOMAIN_TYPE_HVM) {
        if let Some(model) = tells.device_model(info.domid).filter(|model| *model != info.domid)
            && let Some(model) = by_number.get(&model)
        {
            models.insert(info.domid, *model);
        }
    }
    let serving: HashSet<u32> = models.values().map(|model| model.domid).collect();
    let mut usage: Vec<DomainUsage> = list
        .iter()
        .filter(|info| !serving.contains(&info.domid))
        .filter_map(|info| {
            let domid = DomId::new(info.domid)?;
            let told_memory_kib = tells.memory(info.domid, "meminfo");
            Some(DomainUsage {
                uuid: if info.domid == 0 { Uuid::nil() } else { convert::uuid(info) },
                domid,
                memory_kib: info.current_memkb,
                max_memory_kib: info.max_memkb,
                cpu_time_ns: info.cpu_time,
                vcpus: info.vcpu_online,
                told_memory_kib,
                told_swap_kib: told_memory_kib.and_then(|_| tells.memory(info.domid, "swapinfo")),
                device_model: models.get(&info.domid).map(|model| DeviceModelUsage {
                    max_memory_kib: model.max_memkb,
                    cpu_time_ns: model.cpu_time,
                    vcpus: model.vcpu_online,
                }),
            })
        })
        .collect();
    usage.sort_unstable_by_key(|usage| usage.domid);
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::owned::Owned;

    /// Domain 5 has its device model in 6; 7 names one that does not exist, and 8 itself.
    struct Some5;

    impl Tells for Some5 {
        fn device_model(&mut self, domid: u32) -> Option<u32> {
            [(5, 6), (7, 99), (8, 8)].into_iter().find(|pair| pair.0 == domid).map(|pair| pair.1)
        }

        fn memory(&mut self, domid: u32, key: &str) -> Option<u64> {
            match (domid, key) {
                (5, "meminfo") => Some(111),
                (5 | 8, "swapinfo") => Some(22),
                _ => None,
            }
        }
    }

    const PV: libxl_domain_type = libxl_domain_type::LIBXL_DOMAIN_TYPE_PV;
    const HVM: libxl_domain_type = libxl_domain_type::LIBXL_DOMAIN_TYPE_HVM;

    fn domain(domid: u32, kind: libxl_domain_type) -> Owned<libxl_dominfo> {
        let mut info = Owned::<libxl_dominfo>::new();
        info.domid = domid;
        info.domain_type = kind;
        info.uuid.uuid = [9; 16];
        info.current_memkb = u64::from(domid) * 10;
        info.max_memkb = u64::from(domid) * 100;
        info.cpu_time = u64::from(domid) * 1000;
        info.vcpu_online = domid;
        info
    }

    #[test]
    fn a_device_models_domain_is_part_of_the_one_that_it_serves() {
        let kinds = [(8, HVM), (5, HVM), (6, PV), (7, HVM), (0, PV), (0x7ff2, PV)];
        let owned = kinds.map(|(domid, kind)| domain(domid, kind));
        let list: Vec<&libxl_dominfo> = owned.iter().map(|info| &**info).collect();
        let usage = of(&list, &mut Some5);
        let numbers: Vec<u32> = usage.iter().map(|usage| usage.domid.get()).collect();
        assert_eq!(numbers, [0, 5, 7, 8]);
        assert_eq!((usage[0].uuid, usage[1].uuid), (Uuid::nil(), Uuid::from_bytes([9; 16])));
        let model = DeviceModelUsage { max_memory_kib: 600, cpu_time_ns: 6000, vcpus: 6 };
        assert_eq!(usage[1].device_model, Some(model));
        assert_eq!((usage[1].told_memory_kib, usage[1].told_swap_kib), (Some(111), Some(22)));
        assert_eq!((usage[2].device_model, usage[3].device_model), (None, None));
        // Swap without the rest says nothing.
        assert_eq!((usage[3].told_memory_kib, usage[3].told_swap_kib), (None, None));
    }
}
