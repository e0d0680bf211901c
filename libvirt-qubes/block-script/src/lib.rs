//! Loop devices and the disks' hotplug program.
