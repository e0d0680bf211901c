//! Storage pools.

use std::borrow::Cow;

use libvirt_qubes::qubes::{self, Host, NewPool};
use libvirt_qubes::storage::DriverKind;

use super::{OrFail, host};
use crate::args::{Flag, PoolOptions, PoolRevisions};
use crate::cx::{Cx, Dialect};
use crate::failure::Failure;
use crate::reply::{Content, Reply};
use crate::row;
use crate::table::Row;
use crate::untrusted::{Parse, Text};
use crate::wire::{Class, Exception};

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("pool.List"), Dom0, Global Read, (Empty, Empty) => list),
    row!(Both("pool.ListDrivers"), Dom0, Global Read, (Empty, Empty) => list_drivers),
    row!(Both("pool.Info"), Dom0, Global Read, (Required<Text>, Empty) => info),
    row!(Both("pool.UsageDetails"), Dom0, Global Read, (Required<Text>, Empty) => usage_details),
    row!(Both("pool.Add"), Dom0, Global Write, (Required<Text>, Required<Text>) => add),
    row!(Both("pool.Remove"), Dom0, Global Write, (Required<Text>, Empty) => remove),
    row!(
        Both("pool.Set.revisions_to_keep"), Dom0, Global Write,
        (Required<Text>, Required<PoolRevisions>) => set_revisions
    ),
    row!(
        Both("pool.Set.ephemeral_volatile"), Dom0, Global Write,
        (Required<Text>, Required<Flag>) => set_ephemeral
    ),
];

/// Options of our own, which the deployed clients do not know.
const OWN_OPTIONS: &[&str] = &["cow"];

/// Whether a client of this dialect is told of an option.
fn is_known_to(dialect: Dialect, option: &str) -> bool {
    dialect == Dialect::Mgmt || !OWN_OPTIONS.contains(&option)
}

async fn list(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    Ok(Reply::lines(seen.model.pools().map(|pool| &pool.name)))
}

/// The driver, a space, its options.
async fn list_drivers(cx: &Cx<Host>) -> Result<Reply, Failure> {
    Ok(Reply::lines(qubes::pool_drivers().map(|driver| {
        let known = driver.options.into_iter().filter(|option| is_known_to(cx.dialect, option));
        format!("{} {}", driver.kind, known.collect::<Vec<_>>().join(" "))
    })))
}

/// The stored configuration sorted by key, then space in bytes where it is known, then the pool whose space it is.
async fn info(cx: &Cx<Host>, Text(pool): Text) -> Result<Reply, Failure> {
    let seen = cx.host.pool(&pool).or_fail(cx)?;
    let pool = &seen.pool;
    let mut pairs: Vec<(Cow<'static, str>, String)> =
        vec![("driver".into(), pool.driver.to_string()), ("name".into(), pool.name.to_string())];
    for (key, value) in pool.shown_options() {
        if is_known_to(cx.dialect, &key) {
            pairs.push((key.into(), value));
        }
    }
    pairs.sort();
    if let Some(usage) = seen.usage {
        pairs.push(("size".into(), usage.size.to_string()));
        pairs.push(("usage".into(), usage.usage.to_string()));
    }
    pairs.extend(seen.included_in.map(|other| ("included_in".into(), other.to_string())));
    Ok(Content::Pairs(pairs).into())
}

/// Nothing where it is not known, or where there is no data.
async fn usage_details(cx: &Cx<Host>, Text(pool): Text) -> Result<Reply, Failure> {
    let mut pairs: Vec<(Cow<'static, str>, String)> = Vec::new();
    if let Some(usage) = cx.host.pool(&pool).or_fail(cx)?.usage {
        pairs.push(("data_size".into(), usage.size.to_string()));
        pairs.push(("data_usage".into(), usage.usage.to_string()));
        if let Some((size, usage)) = usage.metadata {
            pairs.push(("metadata_size".into(), size.to_string()));
            pairs.push(("metadata_usage".into(), usage.to_string()));
        }
    }
    Ok(Content::Pairs(pairs).into())
}

/// A driver that there is not is refused like a pool that there is not.
async fn add(cx: &Cx<Host>, Text(driver): Text, Text(options): Text) -> Result<Reply, Failure> {
    let absent = || Exception::plain(Class::PermissionDenied, "Argument not in 'available drivers'");
    let driver: DriverKind = driver.parse().map_err(|_| Failure::Absent(absent()))?;
    let PoolOptions { name, options } = PoolOptions::parse(options.as_bytes())?;
    let new = NewPool::new(name, driver, options).or_fail(cx)?;
    host(cx).add_pool(new).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn remove(cx: &Cx<Host>, Text(pool): Text) -> Result<Reply, Failure> {
    host(cx).remove_pool(&pool).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn set_revisions(
    cx: &Cx<Host>,
    Text(pool): Text,
    PoolRevisions(keep): PoolRevisions,
) -> Result<Reply, Failure> {
    cx.host.set_pool_revisions(&pool, keep).await.or_fail(cx)?;
    Ok(Reply::empty())
}

async fn set_ephemeral(cx: &Cx<Host>, Text(pool): Text, Flag(ephemeral): Flag) -> Result<Reply, Failure> {
    cx.host.set_pool_ephemeral(&pool, ephemeral).await.or_fail(cx)?;
    Ok(Reply::empty())
}
