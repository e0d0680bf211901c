//! Tokens of volumes that somebody is about to copy: bound to the volume and to who asked, good for one copy within an
//! hour. They are gone when the daemon ends.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::ids::{VmName, VolumeName};

/// So long a token is good.
const LIFE: Duration = Duration::from_secs(3600);

/// So many one caller has at most; the next one costs it its oldest.
const MOST: usize = 1024;

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) vm: Uuid,
    /// The VM's name when it was asked for.
    pub(super) name: VmName,
    pub(super) volume: VolumeName,
    /// The volume's name in its pool.
    pub(super) vid: String,
}

/// All tokens that are good.
#[derive(Debug, Default)]
pub(in super::super) struct Tokens(Mutex<HashMap<String, Issued>>);

#[derive(Debug)]
struct Issued {
    source: Source,
    caller: VmName,
    at: Instant,
}

impl Tokens {
    fn issued(&self) -> MutexGuard<'_, HashMap<String, Issued>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new token: 32 characters, 122 bits of them random.
    pub(super) fn issue(&self, source: Source, caller: VmName, now: Instant) -> String {
        let token = Uuid::new_v4().simple().to_string();
        let mut issued = self.issued();
        issued.retain(|_, issued| is_good(issued, now));
        let callers = issued.iter().filter(|(_, issued)| issued.caller == caller);
        let (count, oldest) =
            callers.fold((0_usize, None::<(Instant, &String)>), |(count, oldest), (token, issued)| {
                let this = (issued.at, token);
                (count.saturating_add(1), Some(oldest.map_or(this, |oldest| oldest.min(this))))
            });
        if count >= MOST
            && let Some(oldest) = oldest.map(|(_, token)| token.clone())
        {
            issued.remove(&oldest);
        }
        issued.insert(token.clone(), Issued { source, caller, at: now });
        token
    }

    /// What a token stands for, once; `None` if there is none, or it is somebody else's.
    pub(super) fn take(&self, token: &str, caller: &VmName, now: Instant) -> Option<Source> {
        let mut issued = self.issued();
        issued.get(token).filter(|issued| issued.caller == *caller)?;
        issued.remove(token).filter(|issued| is_good(issued, now)).map(|issued| issued.source)
    }
}

fn is_good(issued: &Issued, now: Instant) -> bool {
    now.saturating_duration_since(issued.at) < LIFE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u128) -> Source {
        Source {
            vm: Uuid::from_u128(n),
            name: "work".parse().unwrap(),
            volume: "private".parse().unwrap(),
            vid: "appvms/work/private".to_owned(),
        }
    }

    #[test]
    fn a_token_is_good_once_for_its_caller_within_an_hour() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let (dom0, other) = (VmName::dom0(), "other".parse().unwrap());
        let token = tokens.issue(source(1), dom0.clone(), now);
        assert!(token.len() == 32 && token.bytes().all(|b| b.is_ascii_alphanumeric()), "{token}");
        assert_eq!(tokens.take(&token, &other, now), None);
        assert_eq!(tokens.take(&token, &dom0, now + LIFE - Duration::from_secs(1)), Some(source(1)));
        assert_eq!(tokens.take(&token, &dom0, now), None);
        let late = tokens.issue(source(2), dom0.clone(), now);
        assert_eq!(tokens.take(&late, &dom0, now + LIFE), None);
        assert_eq!(tokens.take("", &dom0, now), None);
    }

    #[test]
    fn one_caller_has_so_many_and_takes_none_from_others() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let (dom0, other) = (VmName::dom0(), "other".parse().unwrap());
        let others = tokens.issue(source(0), other, now);
        let mine: Vec<_> = (0..MOST + 1)
            .map(|n| tokens.issue(source(1), dom0.clone(), now + Duration::from_millis(n as u64)))
            .collect();
        assert_eq!(tokens.issued().len(), MOST + 1);
        assert_eq!(tokens.take(&mine[0], &dom0, now), None);
        assert!(tokens.take(&mine[1], &dom0, now).is_some());
        assert!(tokens.take(&others, &"other".parse().unwrap(), now).is_some());
    }
}
