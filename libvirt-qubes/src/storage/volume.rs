//! What a volume is: its identity, and what its caller wants of it. Plain data; drivers keep none of it, only what
//! names on disk say.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::Access;
use crate::ids::{BadId, ByteSize, KernelVersion, VmName, VolumeName};

/// The folder that a VM's volumes lie in, on drivers that have folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeGroup {
    /// `appvms`: every VM that is no template.
    #[serde(rename = "appvms")]
    AppVms,
    /// `vm-templates`.
    VmTemplates,
}

impl VolumeGroup {
    /// All of them.
    pub const ALL: [VolumeGroup; 2] = [VolumeGroup::AppVms, VolumeGroup::VmTemplates];

    /// The folder's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AppVms => "appvms",
            Self::VmTemplates => "vm-templates",
        }
    }
}

impl fmt::Display for VolumeGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The identity of a volume within its pool, fixed when it is created. Volumes are locked in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeId {
    /// The owner's sort.
    pub group: VolumeGroup,
    /// The VM that it belongs to.
    pub owner: VmName,
    /// Its name within the VM.
    pub volume: VolumeName,
}

impl VolumeId {
    /// Of the three parts.
    pub fn new(group: VolumeGroup, owner: VmName, volume: VolumeName) -> Self {
        Self { group, owner, volume }
    }
}

impl fmt::Display for VolumeId {
    /// `appvms/work/private`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.group, self.owner, self.volume)
    }
}

impl FromStr for VolumeId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let mut parts = text.split('/');
        let (Some(group), Some(owner), Some(volume), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadId::new("volume id must be GROUP/VM/VOLUME"));
        };
        let group = VolumeGroup::ALL
            .into_iter()
            .find(|g| g.as_str() == group)
            .ok_or(BadId::new("volume id must begin with appvms/ or vm-templates/"))?;
        Ok(Self { group, owner: owner.parse()?, volume: volume.parse()? })
    }
}

/// What becomes of a volume when its VM starts and stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// Empty at each start, dropped at each stop.
    Volatile,
    /// A copy of what `source` holds at each start, dropped at each stop.
    Snapshot {
        /// A persistent volume of the same pool.
        source: VolumeId,
    },
    /// Persistent: what a run wrote is committed at its stop.
    Origin,
    /// A kernel's modules, read-only; only the driver `linux-kernel` has these.
    Kernel {
        /// Which kernel; none = a volume without a device.
        version: Option<KernelVersion>,
    },
}

impl VolumeKind {
    /// Whether something of it lies in the pool while its VM is halted.
    pub const fn is_persistent(&self) -> bool {
        matches!(self, Self::Origin)
    }

    /// The volume that each start copies, if any.
    pub fn source(&self) -> Option<&VolumeId> {
        match self {
            Self::Snapshot { source } => Some(source),
            Self::Volatile | Self::Origin | Self::Kernel { .. } => None,
        }
    }
}

/// How many former states of a persistent volume are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub enum RevisionsToKeep {
    /// `-1`: no snapshots at all. The running VM writes into the committed state, so that nobody can take it
    /// as source meanwhile.
    Disabled,
    /// The newest so many.
    Newest(u32),
}

impl RevisionsToKeep {
    /// The number of revisions that stay when a new state is committed.
    pub fn count(self) -> usize {
        match self {
            Self::Disabled => 0,
            Self::Newest(count) => usize::try_from(count).unwrap_or(usize::MAX),
        }
    }
}

impl TryFrom<i64> for RevisionsToKeep {
    type Error = BadId;
    fn try_from(number: i64) -> Result<Self, BadId> {
        match number {
            -1 => Ok(Self::Disabled),
            _ => u32::try_from(number)
                .map(Self::Newest)
                .map_err(|_| BadId::new("Invalid value for revisions_to_keep")),
        }
    }
}

impl From<RevisionsToKeep> for i64 {
    fn from(keep: RevisionsToKeep) -> i64 {
        match keep {
            RevisionsToKeep::Disabled => -1,
            RevisionsToKeep::Newest(count) => i64::from(count),
        }
    }
}

impl fmt::Display for RevisionsToKeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        i64::from(*self).fmt(f)
    }
}

/// Whether other volumes may have this one as their source while its VM runs. It decides what a start costs on a
/// driver that cannot share blocks: see the driver `file`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// Nobody takes it as source: the private volume of an ordinary VM.
    Private,
    /// Others may: a template's volumes, the private volume of a template for disposables.
    Source,
}

/// What the caller wants of a volume. Passed with each operation; it may change from one to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// What happens at start and stop.
    pub kind: VolumeKind,
    /// For a new or volatile volume; what exists has its own.
    pub size: ByteSize,
    /// For persistent volumes.
    pub revisions_to_keep: RevisionsToKeep,
    /// Whether the VM may write.
    pub access: Access,
    /// For persistent volumes.
    pub sharing: Sharing,
    /// For volatile volumes that may be written: encrypted with a key that nobody keeps. Not the driver's affair.
    pub ephemeral: bool,
}

/// The name of a former state of a volume, within the volume: `7` and `s2` on files, `1700000000-back` on LVM.
/// `[A-Za-z0-9:_.-]+`, at most 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RevisionId(String);

impl RevisionId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RevisionId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b":_.-".contains(&b);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(good) {
            return Err(BadId::new("revision name must be 1 to 64 characters of A-Z a-z 0-9 : _ . -"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RevisionId {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<RevisionId> for String {
    fn from(id: RevisionId) -> String {
        id.0
    }
}

/// A former state of a persistent volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its name.
    pub id: RevisionId,
    /// Its date, in seconds since 1970 (UTC). On files: when this state was committed. On LVM: of an automatic one, when the
    /// next state was committed, which is the time in its name, as in the deployed system; of an explicit one, when it was
    /// made.
    pub committed_at: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_volume_id_has_three_parts_of_known_form() {
        let id: VolumeId = "vm-templates/fedora/root".parse().unwrap();
        assert_eq!(
            (id.group, id.owner.as_str(), id.volume.as_str()),
            (VolumeGroup::VmTemplates, "fedora", "root")
        );
        for text in
            ["", "appvms/work", "appvms/work/private/x", "other/work/root", "appvms//root", "appvms/../root"]
        {
            assert!(text.parse::<VolumeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn fewer_than_no_snapshots_is_no_number_of_revisions() {
        assert_eq!(RevisionsToKeep::try_from(-1).unwrap(), RevisionsToKeep::Disabled);
        assert_eq!(RevisionsToKeep::try_from(0).unwrap(), RevisionsToKeep::Newest(0));
        assert!(RevisionsToKeep::try_from(-2).is_err());
        assert!(RevisionsToKeep::try_from(1 << 40).is_err());
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(text in "((appvms|vm-templates)/[a-z.]{1,5}/[a-z0-9-]{1,5})|\\PC{0,20}") {
            if let Ok(id) = text.parse::<VolumeId>() { prop_assert_eq!(id.to_string(), text.clone()); }
            if let Ok(id) = text.parse::<RevisionId>() { prop_assert_eq!(id.to_string(), text.clone()); }
        }

        #[test]
        fn revisions_to_keep_is_its_number(number in -1i64..=i64::from(u32::MAX)) {
            prop_assert_eq!(i64::from(RevisionsToKeep::try_from(number).unwrap()), number);
        }
    }
}
