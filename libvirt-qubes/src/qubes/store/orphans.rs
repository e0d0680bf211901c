//! Rows that belong to something which has no row. Foreign keys do not let them come about; somebody who edits a
//! store without them does.

use std::collections::HashSet;

use super::super::model::{Reference, SetAside};
use super::load::{aside, canonical_uuid};
use super::rows::{OfVm, Rows};

/// Every one of them, with what it keeps from others.
pub(super) fn find(rows: &Rows) -> Vec<SetAside> {
    let vms: HashSet<&str> = rows.vms.iter().map(|row| row.uuid.as_str()).collect();
    let pools: HashSet<&str> = rows.pools.iter().map(|(name, ..)| name.as_str()).collect();
    let operations: HashSet<i64> = rows.pending.iter().map(|row| row.id).collect();
    let assignments: HashSet<i64> = rows.assignments.values().flatten().map(|row| row.id).collect();
    let mut found = Vec::new();
    let mut add = |table, owner: &str, fill: &dyn Fn(&mut SetAside)| {
        let mut row = aside(table, owner, format!("belongs to {owner}, which does not exist"));
        fill(&mut row);
        found.push(row);
    };
    let nothing = |_: &mut SetAside| {};
    of_nobody(&rows.properties, &vms).for_each(|(vm, _)| add("vm_property", vm, &nothing));
    of_nobody(&rows.tags, &vms).for_each(|(vm, _)| add("tag", vm, &nothing));
    of_nobody(&rows.features, &vms).for_each(|(vm, _)| add("feature", vm, &nothing));
    of_nobody(&rows.firewalls, &vms).for_each(|(vm, _)| add("firewall", vm, &nothing));
    of_nobody(&rows.rules, &vms).for_each(|(vm, _)| add("firewall_rule", vm, &nothing));
    of_nobody(&rows.notes, &vms).for_each(|(vm, _)| add("notes", vm, &nothing));
    for (vm, volumes) in of_nobody(&rows.volumes, &vms) {
        add("volume", vm, &|row| {
            let places =
                volumes.iter().filter_map(|v| Some((v.pool.parse().ok()?, v.vid.as_deref()?.into())));
            row.volumes = places.collect();
            row.pools = volumes.iter().filter_map(|v| v.pool.parse().ok()).collect();
        });
    }
    for (vm, started) in of_nobody(&rows.started, &vms) {
        add("started_volume", vm, &|row| {
            row.pools = started.iter().filter_map(|v| v.pool.parse().ok()).collect()
        });
    }
    for (vm, references) in of_nobody(&rows.references, &vms) {
        add("vm_reference", vm, &|row| {
            let targets = references.iter().filter_map(|(name, target)| {
                Some((canonical_uuid(target.as_deref()?).ok()?, Reference::Property(name.clone())))
            });
            row.references = targets.collect();
        });
    }
    for (vm, devices) in of_nobody(&rows.assignments, &vms) {
        add("assignment", vm, &|row| {
            let backends = devices.iter().filter_map(|device| {
                let backend = canonical_uuid(device.backend.as_deref()?).ok()?;
                Some((backend, Reference::Device(device.port.clone())))
            });
            row.references = backends.collect();
        });
    }
    for id in rows.assignment_options.keys().filter(|id| !assignments.contains(id)) {
        add("assignment_option", &format!("assignment {id}"), &nothing);
    }
    for (pool, key, _) in rows.pool_options.iter().filter(|(pool, ..)| !pools.contains(pool.as_str())) {
        add("pool_option", &format!("{key} of pool {pool}"), &nothing);
    }
    for (id, volume) in rows.pending_volumes.iter().filter(|(id, _)| !operations.contains(id)) {
        add("pending_volume", &format!("operation {id}"), &|row| {
            row.pools = volume.pool.parse().into_iter().collect();
            row.volumes =
                volume.pool.parse().ok().map(|pool| (pool, volume.vid.as_str().into())).into_iter().collect();
        });
    }
    found.sort_by(|a, b| (a.table, &a.name).cmp(&(b.table, &b.name)));
    found
}

fn of_nobody<'a, T>(
    rows: &'a OfVm<T>,
    vms: &HashSet<&str>,
) -> impl Iterator<Item = (&'a String, &'a Vec<T>)> {
    rows.iter().filter(|(vm, _)| !vms.contains(vm.as_str()))
}
