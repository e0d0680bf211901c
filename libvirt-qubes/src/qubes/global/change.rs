//! Set and Reset, for every global property alike.

use super::super::diff::{Diff, Refused};
use super::super::event::{EventKind, ModelEvent, PropertyChange};
use super::super::property::{Effects, parse, shown};
use super::super::refusal::Refusal;
use super::super::snapshot::Snapshot;
use super::super::value::Value;
use super::super::write::Write;
use super::row::{GlobalKind, GlobalRules};
use super::{Global, default, value, value_shown};

/// Sets a global property to a client's bytes. Setting it to the value that it has is a change too: it is stored,
/// and all events are sent.
///
/// # Errors
/// Unknown property; a value that breaks a rule; a pool of kernels for volumes of VMs, or the other way round, which a state that
/// was taken in may name all the same. What is vetoed after it was announced says so in `pre_events`.
pub fn set(snapshot: &Snapshot, name: &str, bytes: &[u8]) -> Result<Diff<()>, Refused> {
    let global = Global::find(name)?;
    let value = parse::parse(&snapshot.model, global.name(), global.kind().wire(), bytes)?;
    let value = match (global.kind(), value) {
        (GlobalKind::Pool, Value::Str(pool)) => match snapshot.model.pool(&pool) {
            Some(pool) if pool.holds_kernels() && global != Global::DefaultPoolKernel => {
                return Err(Refusal::PoolOfKernels { pool: pool.name.clone() }.into());
            }
            Some(pool) if !pool.holds_kernels() && global == Global::DefaultPoolKernel => {
                return Err(Refusal::PoolOfVolumes { pool: pool.name.clone() }.into());
            }
            Some(pool) => Value::Pool(pool.name.clone()),
            None => return Err(Refusal::NoSuchPool { pool: pool.to_string() }.into()),
        },
        (_, value) => value,
    };
    set_value(snapshot, global, value)
}

/// Sets a global property to a value of its kind.
///
/// # Errors
/// As [`set`], but for those about the bytes.
pub fn set_value(snapshot: &Snapshot, global: Global, new: Value) -> Result<Diff<()>, Refused> {
    let rules = settable(global)?;
    let new = (rules.canonical)(new)?;
    (rules.fits)(snapshot, &new)?;
    let old = value(snapshot, global);
    let change = PropertyChange {
        name: global.name(),
        new: Some(shown(&snapshot.model, Some(&new))),
        old: value_shown(snapshot, global),
    };
    let mut pre_events = vec![ModelEvent::system(EventKind::PropertyPreSet(change.clone()))];
    let (told, allowed) = (rules.announce)(snapshot, old.as_ref(), Some(&new));
    pre_events.extend(told);
    if let Err(refusal) = allowed {
        return Err(Refused { pre_events, refusal });
    }
    let Effects { writes, mut events } = (rules.effects)(snapshot, old.as_ref(), Some(&new));
    events.push(ModelEvent::system(EventKind::PropertySet(change)));
    let mut diff = Diff::new(()).write(Write::SetGlobal(global, Some(new)));
    diff.pre_events = pre_events;
    diff.writes.extend(writes);
    diff.events = events;
    Ok(diff)
}

/// Gives a global property its default back.
///
/// # Errors
/// Unknown property, or one that is computed. What is vetoed after it was announced says so in `pre_events`.
pub fn reset(snapshot: &Snapshot, name: &str) -> Result<Diff<()>, Refused> {
    let global = Global::find(name)?;
    let rules = settable(global)?;
    let (old, new) = (value(snapshot, global), default(snapshot, global));
    let change = PropertyChange { name: global.name(), new: None, old: value_shown(snapshot, global) };
    let of = |kind| ModelEvent::system(kind);
    let mut pre_events = vec![of(EventKind::PropertyPreReset(change.clone()))];
    // Those who follow are told when what they show changes.
    if old != new {
        let (told, allowed) = (rules.announce)(snapshot, old.as_ref(), new.as_ref());
        pre_events.extend(told);
        if let Err(refusal) = allowed {
            return Err(Refused { pre_events, refusal });
        }
    }
    pre_events.push(of(EventKind::PropertyPreDel(change.clone())));
    let Effects { writes, mut events } =
        if old == new { Effects::default() } else { (rules.effects)(snapshot, old.as_ref(), new.as_ref()) };
    events.push(of(EventKind::PropertyReset(change.clone())));
    events.push(of(EventKind::PropertyDel(change)));
    let mut diff = Diff::new(()).write(Write::SetGlobal(global, None));
    diff.pre_events = pre_events;
    diff.writes.extend(writes);
    diff.events = events;
    Ok(diff)
}

/// The rules of a property, or why it cannot be set.
fn settable(global: Global) -> Result<&'static GlobalRules, Refusal> {
    global.rules().ok_or(Refusal::PropertyReadOnly { property: global.name(), class: None })
}
