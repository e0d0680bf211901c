//! Where a PCI device lies: from its address to the way through the bridges before it.

use std::path::Path;

/// The port of the device at an address of `sysfs`, in the underlined form `[SSSS_]BB_DD.F`: the device on the root
/// bus first, then, behind each bridge, the bus counted from the bridge's first. `None` where there is no such device.
pub(super) fn port(sysfs: &Path, address: &str) -> Option<String> {
    let (place, function) = address.rsplit_once('.')?;
    let parts: Vec<&str> = place.split('_').collect();
    let (segment, bus, device) = match parts.as_slice() {
        [bus, device] => ("0000", *bus, *device),
        [segment, bus, device] => (*segment, *bus, *device),
        _ => return None,
    };
    let link = sysfs.join("bus/pci/devices").join(format!("{segment}:{bus}:{device}.{function}"));
    let path = std::fs::canonicalize(link).ok()?;
    let mut port = if segment == "0000" { String::new() } else { format!("{segment}_") };
    let mut first_bus = None;
    let on_bus = path.ancestors().take_while(|dir| bdf(dir).is_some()).collect::<Vec<_>>();
    for dir in on_bus.into_iter().rev() {
        let (bus, rest) = bdf(dir)?;
        let base = first_bus.unwrap_or(0);
        let bus = if first_bus.is_some() { bus.checked_sub(base)? } else { bus };
        if first_bus.is_some() {
            port.push('-');
        }
        port.push_str(&format!("{bus:02x}_{rest}"));
        let secondary = std::fs::read_to_string(dir.join("secondary_bus_number")).ok();
        first_bus = Some(secondary.and_then(|text| text.trim().parse::<u8>().ok()).unwrap_or(0));
    }
    first_bus.map(|_| port)
}

/// Bus and `DD.F` of a folder named `SSSS:BB:DD.F`.
fn bdf(dir: &Path) -> Option<(u8, &str)> {
    let mut parts = dir.file_name()?.to_str()?.split(':');
    let (Some(_), Some(bus), Some(rest), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some((u8::from_str_radix(bus, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_the_way_through_the_bridges() {
        let sysfs = tempfile::tempdir().unwrap();
        let devices = sysfs.path().join("bus/pci/devices");
        std::fs::create_dir_all(&devices).unwrap();
        let root = sysfs.path().join("devices/pci0000:00");
        let far = root.join("0000:00:1c.4/0000:03:00.0/0000:05:02.1");
        std::fs::create_dir_all(&far).unwrap();
        std::fs::create_dir_all(root.join("0000:00:14.0")).unwrap();
        std::fs::write(root.join("0000:00:1c.4/secondary_bus_number"), "3\n").unwrap();
        std::fs::write(root.join("0000:00:1c.4/0000:03:00.0/secondary_bus_number"), "4\n").unwrap();
        for (name, path) in [
            ("0000:00:14.0", root.join("0000:00:14.0")),
            ("0000:03:00.0", root.join("0000:00:1c.4/0000:03:00.0")),
            ("0000:05:02.1", far),
        ] {
            std::os::unix::fs::symlink(path, devices.join(name)).unwrap();
        }
        let port = |address: &str| port(sysfs.path(), address);
        assert_eq!(port("00_14.0").as_deref(), Some("00_14.0"));
        assert_eq!(port("03_00.0").as_deref(), Some("00_1c.4-00_00.0"));
        assert_eq!(port("0000_05_02.1").as_deref(), Some("00_1c.4-00_00.0-01_02.1"));
        assert_eq!(port("07_00.0"), None);
    }
}
