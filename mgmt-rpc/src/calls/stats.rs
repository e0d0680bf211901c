//! The stream of statistics.

use libvirt_qubes::qubes::{Host, Stats, VmStats};

use super::{OrFail, host};
use crate::BoxFuture;
use crate::cx::{Cx, Sight};
use crate::failure::{Failure, limit_reached};
use crate::reply::{EventStream, Reply};
use crate::row;
use crate::table::Row;
use crate::wire::Event;

pub(super) const ROWS: &[Row<Host>] =
    &[row!(Both("vm.Stats"), Any, Global Read, (Empty, Empty) => stats, cancel: OnHangUp)];

/// Every `stats_interval` seconds one event for each running VM that the source sees, dom0 included; for another
/// destination than dom0, for that VM.
async fn stats(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let most = cx.limits.subscribers.get();
    if u32::try_from(cx.host.stats_readers()).unwrap_or(u32::MAX) >= most {
        return Err(limit_reached("subscribers", most).into());
    }
    let only = (!cx.destination.is_dom0()).then_some(&cx.destination);
    let stats = host(cx).stats(only).or_fail(cx)?;
    Ok(Reply::Events(Box::new(Stream { stats, sight: cx.sight() })))
}

struct Stream {
    stats: Stats,
    sight: Sight,
}

impl EventStream for Stream {
    fn next(&mut self) -> BoxFuture<'_, Option<Event>> {
        Box::pin(async {
            loop {
                let stats = self.stats.next().await;
                if self.sight.sees(&stats.vm) {
                    return Some(event(&stats));
                }
            }
        })
    }
}

/// KiB, milliseconds and percent; the device model's percentage has a decimal place.
fn event(stats: &VmStats) -> Event {
    let mut event = Event::new(stats.vm.as_str(), "vm-stats")
        .with("memory_kb", stats.memory_kib.to_string())
        .with("memory_assigned_total", stats.memory_total_kib.to_string())
        .with("memory_assigned_usable", stats.memory_kib.to_string())
        .with("memory_with_swap_used", stats.memory_used_kib.to_string())
        .with("cpu_time", stats.cpu_time_ms.to_string())
        .with("cpu_usage", stats.cpu_usage.to_string())
        .with("online_vcpus", stats.vcpus.to_string());
    if let Some(swap) = stats.swap_used_kib {
        event = event.with("swap_used", swap.to_string());
    }
    match stats.device_model {
        None => event,
        Some(model) => event
            .with("cpu_time_internal", model.cpu_time_ms.to_string())
            .with("cpu_usage_internal", format!("{}.0", model.cpu_usage))
            .with("online_vcpus_internal", model.vcpus.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use libvirt_qubes::qubes::DeviceModelStats;

    use super::*;

    #[test]
    fn statistics_have_the_keys_of_the_document_in_their_order() {
        let plain = VmStats {
            vm: "work".parse().unwrap(),
            memory_kib: 303_916,
            memory_total_kib: 303_932,
            memory_used_kib: 303_916,
            swap_used_kib: None,
            cpu_time_ms: 30_292,
            cpu_usage: 10,
            vcpus: 8,
            device_model: None,
        };
        let bytes = "1\0work\0vm-stats\0memory_kb\x00303916\0memory_assigned_total\x00303932\0memory_assigned_usable\
                     \x00303916\0memory_with_swap_used\x00303916\0cpu_time\x0030292\0cpu_usage\x0010\0online_vcpus\
                     \x008\0";
        assert_eq!(event(&plain).encode(), format!("{bytes}\0").as_bytes());
        let full = VmStats {
            swap_used_kib: Some(17),
            device_model: Some(DeviceModelStats { cpu_time_ms: 5, cpu_usage: 3, vcpus: 1 }),
            ..plain
        };
        let more = "swap_used\x0017\0cpu_time_internal\x005\0cpu_usage_internal\x003.0\0online_vcpus_internal\x001\0";
        assert_eq!(event(&full).encode(), format!("{bytes}{more}\0").as_bytes());
    }
}
