//! Who may connect, by the peer's credentials: uid 0, the daemon's own user, and members of group `qubes`.
//! Whoever is let in may claim any source.
//!
//! Membership is what `/etc/group` and `/etc/passwd` say at the time, besides the group that the peer runs
//! with. They are files, read off the async threads.

use std::io;
use std::path::{Path, PathBuf};

/// The group whose members may connect.
const GROUP: &str = "qubes";

/// Credentials of a peer, as the kernel gives them for the time of its connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process, for the log alone: the number may have been reused.
    pub pid: Option<i32>,
}

/// The rule for connections.
#[derive(Debug, Clone)]
pub struct Admission {
    own_uid: u32,
    group_file: PathBuf,
    passwd_file: PathBuf,
}

impl Admission {
    /// The rule for a daemon that runs as the present user, on this machine's files.
    pub fn of_this_process() -> Self {
        Self::new(rustix::process::geteuid().as_raw(), "/etc/group", "/etc/passwd")
    }

    /// The rule with other files.
    pub fn new(own_uid: u32, group_file: impl Into<PathBuf>, passwd_file: impl Into<PathBuf>) -> Self {
        Self { own_uid, group_file: group_file.into(), passwd_file: passwd_file.into() }
    }

    /// Whether the peer may connect.
    ///
    /// # Errors
    /// A file cannot be read, which matters to peers of other users alone.
    pub async fn admits(&self, peer: Peer) -> io::Result<bool> {
        if peer.uid == 0 || peer.uid == self.own_uid {
            return Ok(true);
        }
        let (group_file, passwd_file) = (self.group_file.clone(), self.passwd_file.clone());
        tokio::task::spawn_blocking(move || {
            let groups = read(&group_file)?;
            Ok(is_member(peer, &groups, &read(&passwd_file)?))
        })
        .await
        .map_err(io::Error::other)?
    }
}

/// The number of group `qubes`, if there is one.
pub(super) fn qubes_gid() -> io::Result<Option<u32>> {
    Ok(find_group(&read(Path::new("/etc/group"))?).map(|(gid, _)| gid))
}

/// The file's text; one that is not there is empty.
fn read(path: &Path) -> io::Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

fn is_member(peer: Peer, groups: &str, passwd: &str) -> bool {
    let Some((gid, members)) = find_group(groups) else { return false };
    if peer.gid == gid {
        return true;
    }
    // A user may have several names, and each its groups.
    let users = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, uid, primary) = (fields.next()?, fields.nth(1)?, fields.next()?);
        (uid.parse() == Ok(peer.uid)).then_some((name, primary))
    });
    let members: Vec<&str> = members.split(',').collect();
    users.into_iter().any(|(name, primary)| primary.parse() == Ok(gid) || members.contains(&name))
}

/// Number and members of the group.
fn find_group(groups: &str) -> Option<(u32, &str)> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, gid, members) = (fields.next()?, fields.nth(1)?, fields.next()?);
        (name == GROUP).then(|| gid.parse().ok().map(|gid| (gid, members)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &str = "root:x:0:\nqubesx:x:97:eve\nqubes:x:98:ann,bob\n";
    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbo:x:1001:1001::/:/bin/sh\n\
                          cat:x:1002:98::/:/bin/sh\neve:x:1003:1003::/:/bin/sh\nbob:x:1004:1004::/:/bin/sh\n";

    #[test]
    fn members_of_the_group_are_told_from_others() {
        for (uid, gid, member) in [
            (1000, 1000, true),  // ann is listed
            (1001, 1001, false), // bo is not bob
            (1002, 5, true),     // cat's own group
            (1003, 1003, false), // eve is in a group with a longer name
            (1004, 1004, true),  // bob is listed last
            (4242, 98, true),    // runs with the group
            (4242, 4242, false), // unknown
        ] {
            let peer = Peer { uid, gid, pid: None };
            assert_eq!(is_member(peer, GROUPS, PASSWD), member, "{peer:?}");
            assert!(!is_member(peer, "root:x:0:\n", PASSWD));
            assert!(!is_member(peer, "qubes:x:many:ann\nqubes\n", ""));
        }
    }

    #[tokio::test]
    async fn root_and_the_daemons_user_need_no_group() {
        let rule = Admission::new(500, "/nonexistent/group", "/nonexistent/passwd");
        for (uid, admitted) in [(0, true), (500, true), (501, false)] {
            assert_eq!(rule.admits(Peer { uid, gid: 98, pid: None }).await.unwrap(), admitted);
        }
    }
}
