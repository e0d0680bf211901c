//! The names of a volume's LVs, which are all the state that there is.
//!
//! | LV | meaning |
//! |---|---|
//! | `vm-VM-VOLUME` | clean: the committed state; of a volatile volume, what it has |
//! | ..`-snap` | what the running VM writes; without a clean LV and revisions, written in place |
//! | ..`-import` | a state that is being made: an import, a copy, a kept state on its way back |
//! | ..`-EPOCH-back` | revision `EPOCH-back`, made by a commit |
//! | ..`-sN-keep` | revision `sN`, made on request |
//! | ..`-N-gone` | removed, but still read by somebody, or about to be removed |
//!
//! All but the last two are the names of the Qubes driver `lvm_thin`, which passes over those two.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::ids::{BadId, VmName, VolumeName};
use crate::storage::{RevisionId, VolumeGroup, VolumeId};

/// The longest name of a device in `/dev/mapper`, where each dash is doubled.
const MAPPED: usize = 127;
/// The longest suffix that a volume's name may get.
const SUFFIX: usize = "--4294967295999--back".len();
/// LVM keeps names with these parts for itself.
const RESERVED: [&str; 15] = [
    "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_mimage", "_mlog", "_rimage", "_rmeta", "_tdata",
    "_tmeta", "_vdata", "_vorigin", "_pmspare", "_wcorig",
];

/// The name of a volume group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VgName(String);

impl VgName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VgName {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        if is_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadId::new("a volume group's name has 1 to 127 characters of A-Z a-z 0-9 + _ . -"))
        }
    }
}

/// A logical volume, as LVM's commands want it: `VG/LV`, never a volume group alone, which to `lvremove` would mean
/// everything in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LvName {
    vg: VgName,
    lv: String,
}

impl LvName {
    /// Of a volume group and the name within it.
    ///
    /// # Errors
    /// For a name that LVM does not take.
    pub fn new(vg: VgName, lv: &str) -> Result<Self, BadId> {
        let reserved = RESERVED.iter().any(|part| lv.contains(part))
            || lv.starts_with("snapshot")
            || lv.starts_with("pvmove");
        if !is_name(lv) || reserved {
            return Err(BadId::new("no name of a logical volume"));
        }
        if doubled(vg.as_str()) + 1 + doubled(lv) > MAPPED {
            return Err(BadId::new("a name too long for a logical volume"));
        }
        Ok(Self { vg, lv: lv.to_owned() })
    }

    /// Its volume group.
    pub fn vg(&self) -> &VgName {
        &self.vg
    }

    /// Its name there.
    pub fn lv(&self) -> &str {
        &self.lv
    }

    /// `/dev/VG/LV`.
    pub fn device(&self) -> PathBuf {
        PathBuf::from(format!("/dev/{self}"))
    }

    /// From the name of a device in `/dev/mapper`: dashes are doubled there, and a single one parts the two names.
    pub fn from_mapped(name: &str) -> Option<Self> {
        let marked = name.replace("--", "\0");
        let (vg, lv) = marked.split_once('-')?;
        let plain = |text: &str| text.replace('\0', "-");
        Self::new(plain(vg).parse().ok()?, &plain(lv)).ok()
    }
}

impl fmt::Display for LvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vg, self.lv)
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 127
        && !text.starts_with('-')
        && !matches!(text, "." | "..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+_.-".contains(&b))
}

fn doubled(text: &str) -> usize {
    text.len() + text.bytes().filter(|b| *b == b'-').count()
}

/// What an LV is to its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
    Clean,
    Snap,
    Import,
    Back(u64),
    Kept(u64),
    Gone(u64),
}

impl Role {
    fn suffix(self) -> String {
        match self {
            Self::Clean => String::new(),
            Self::Snap => "-snap".to_owned(),
            Self::Import => "-import".to_owned(),
            Self::Back(epoch) => format!("-{epoch}-back"),
            Self::Kept(number) => format!("-s{number}-keep"),
            Self::Gone(number) => format!("-{number}-gone"),
        }
    }

    fn from_suffix(suffix: &str) -> Option<Self> {
        match suffix {
            "" => return Some(Self::Clean),
            "-snap" => return Some(Self::Snap),
            "-import" => return Some(Self::Import),
            _ => {}
        }
        let (number, what) = suffix.strip_prefix('-')?.split_once('-')?;
        match what {
            "back" => parse_number(number).map(Self::Back),
            "keep" => number.strip_prefix('s').and_then(parse_number).map(Self::Kept),
            "gone" => parse_number(number).map(Self::Gone),
            _ => None,
        }
    }

    /// Of a revision as callers name it.
    pub(super) fn of_revision(id: &RevisionId) -> Option<Self> {
        match id.as_str().strip_suffix("-back") {
            Some(epoch) => parse_number(epoch).map(Self::Back),
            None => id.as_str().strip_prefix('s').and_then(parse_number).map(Self::Kept),
        }
    }

    /// As callers name it; `None` for what is no revision.
    pub(super) fn revision(self) -> Option<RevisionId> {
        match self {
            Self::Back(epoch) => format!("{epoch}-back").parse().ok(),
            Self::Kept(number) => format!("s{number}").parse().ok(),
            Self::Clean | Self::Snap | Self::Import | Self::Gone(_) => None,
        }
    }
}

fn parse_number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The names of one volume's LVs.
#[derive(Debug, Clone)]
pub(super) struct Names {
    vg: VgName,
    base: String,
}

impl Names {
    /// # Errors
    /// For a volume that LVM has no name for.
    pub(super) fn of(vg: &VgName, id: &VolumeId) -> Result<Self, BadId> {
        let base = format!("vm-{}-{}", id.owner, id.volume);
        LvName::new(vg.clone(), &base)?;
        if doubled(vg.as_str()) + 1 + doubled(&base) + SUFFIX > MAPPED {
            return Err(BadId::new("VM and volume have a name too long for a logical volume"));
        }
        Ok(Self { vg: vg.clone(), base })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn lv(&self, role: Role) -> LvName {
        // The whole was checked with room for the longest suffix, and no suffix has a reserved part.
        LvName { vg: self.vg.clone(), lv: format!("{}{}", self.base, role.suffix()) }
    }

    /// What `lv` is to this volume; `None` if it is none of its LVs.
    pub(super) fn role(&self, lv: &str) -> Option<Role> {
        Role::from_suffix(lv.strip_prefix(&self.base)?)
    }

    /// Whether LVs of this volume could be taken for those of another.
    pub(super) fn is_ambiguous(&self) -> bool {
        split(&self.base) != Some((self.base.as_str(), Role::Clean))
    }
}

/// Name of the volume and role of an LV that has a name of ours.
fn split(lv: &str) -> Option<(&str, Role)> {
    if !lv.starts_with("vm-") {
        return None;
    }
    // The longest suffix wins: `vm-work-root-snap` is of root, not of a volume `root-snap`.
    lv.char_indices()
        .filter(|(_, c)| *c == '-')
        .find_map(|(at, _)| {
            let (base, suffix) = lv.split_at_checked(at)?;
            Some((base, Role::from_suffix(suffix)?))
        })
        .or(Some((lv, Role::Clean)))
}

/// Whose LV this is. Names do not tell a template from another VM, nor where a VM's name with dashes ends: the last
/// dash that leaves two names parts them here, and the group is `appvms`. Whatever the guess, it has this LV's name.
pub(super) fn volume_of(lv: &str) -> Option<(VolumeId, Role)> {
    let (base, role) = split(lv)?;
    let names = base.strip_prefix("vm-")?;
    names.rmatch_indices('-').find_map(|(at, _)| {
        let (owner, volume) = (names.get(..at)?, names.get(at + 1..)?);
        let (owner, volume): (VmName, VolumeName) = (owner.parse().ok()?, volume.parse().ok()?);
        Some((VolumeId::new(VolumeGroup::AppVms, owner, volume), role))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vg() -> VgName {
        "qubes_dom0".parse().unwrap()
    }

    fn names(id: &str) -> Names {
        Names::of(&vg(), &id.parse().unwrap()).unwrap()
    }

    #[test]
    fn names_are_the_deployed_ones() {
        let root = names("appvms/my-vm/root");
        for (role, name) in [
            (Role::Clean, "qubes_dom0/vm-my-vm-root"),
            (Role::Snap, "qubes_dom0/vm-my-vm-root-snap"),
            (Role::Import, "qubes_dom0/vm-my-vm-root-import"),
            (Role::Back(1_700_000_000), "qubes_dom0/vm-my-vm-root-1700000000-back"),
            (Role::Kept(3), "qubes_dom0/vm-my-vm-root-s3-keep"),
            (Role::Gone(1), "qubes_dom0/vm-my-vm-root-1-gone"),
        ] {
            let lv = root.lv(role);
            assert_eq!(lv.to_string(), name);
            assert_eq!(lv.device().to_str().unwrap(), format!("/dev/{name}"));
            assert_eq!(root.role(lv.lv()), Some(role));
            assert_eq!(volume_of(lv.lv()), Some(("appvms/my-vm/root".parse().unwrap(), role)));
        }
    }

    #[test]
    fn a_guess_whose_volume_it_is_has_the_lvs_name() {
        // The second has a VM's name that is as long as can be, and a volume's with a dash.
        let long = format!("vm-{}-my-data", "v".repeat(31));
        for (lv, owner) in [("vm-a-b-root", "a-b"), (long.as_str(), &long[3..34])] {
            let (id, role) = volume_of(lv).unwrap();
            assert_eq!((id.owner.as_str(), role), (owner, Role::Clean));
            assert_eq!(Names::of(&vg(), &id).unwrap().base(), lv);
        }
        for lv in ["vm-", "vm-root", "vm--root", "pool00", "vm-a-"] {
            assert_eq!(volume_of(lv), None, "{lv}");
        }
    }

    #[test]
    fn what_is_not_exactly_a_name_of_the_volume_is_left_alone() {
        for name in [
            "vm-work-root-",
            "vm-work-root-snap2",
            "vm-work-root-1-2-back",
            "vm-work-root-01-back",
            "vm-work-root-x-back",
            "vm-work-root-s-keep",
            "vm-work-root-3-keep",
            "vm-work-roots",
            "vm-work",
            "root",
        ] {
            assert_eq!(names("appvms/work/root").role(name), None, "{name}");
        }
    }

    #[test]
    fn a_volume_whose_lvs_look_like_those_of_another_is_ambiguous() {
        for id in [
            "appvms/work/root-snap",
            "appvms/work-root/snap",
            "appvms/work-root/import",
            "appvms/work-root-5/back",
            "appvms/work-root-s5/keep",
            "appvms/work-root-5/gone",
        ] {
            assert!(names(id).is_ambiguous(), "{id}");
        }
        for id in
            ["appvms/work/root", "appvms/a-b/root", "appvms/a/b-root", "appvms/snap/root", "appvms/a/keep"]
        {
            assert!(!names(id).is_ambiguous(), "{id}");
        }
    }

    #[test]
    fn a_bare_volume_group_is_no_logical_volume() {
        for bad in ["", "-x", ".", "..", "a/b", "a b", "a\n", "vg/", "a;b", "x_tmeta", "snapshot1", "pvmove0"]
        {
            assert!(LvName::new(vg(), bad).is_err(), "{bad:?}");
        }
        for bad in ["", "-vg", "a/b", "..", "a b"] {
            assert!(bad.parse::<VgName>().is_err(), "{bad:?}");
        }
        let long = "v".repeat(60);
        assert!(
            Names::of(&vg(), &format!("appvms/w234567890123456789012345678901/{long}").parse().unwrap())
                .is_err()
        );
    }

    #[test]
    fn names_of_mapped_devices_are_understood() {
        let lv = LvName::from_mapped("qubes_dom0-vm--my--vm--root").unwrap();
        assert_eq!(lv.to_string(), "qubes_dom0/vm-my-vm-root");
        assert_eq!(LvName::from_mapped("a--b-c").unwrap().to_string(), "a-b/c");
        assert_eq!(LvName::from_mapped("plain"), None);
    }

    proptest! {
        #[test]
        fn no_lv_belongs_to_two_volumes(a in "[a-z][a-z-]{0,6}/[a-z0-9][a-z0-9-]{0,8}",
                                        b in "[a-z][a-z-]{0,6}/[a-z0-9][a-z0-9-]{0,8}", number in 0u64..12) {
            let parsed = |text: &str| format!("appvms/{text}").parse().map(|id| Names::of(&vg(), &id).unwrap());
            let (Ok(a), Ok(b)) = (parsed(&a), parsed(&b)) else { return Ok(()) };
            // Two volumes with one name for their clean LV are told apart by who is there first.
            prop_assume!(a.base() != b.base() && !a.is_ambiguous() && !b.is_ambiguous());
            for role in [Role::Clean, Role::Snap, Role::Import, Role::Back(number), Role::Kept(number),
                         Role::Gone(number)] {
                prop_assert_eq!(b.role(a.lv(role).lv()), None);
            }
        }
    }
}
