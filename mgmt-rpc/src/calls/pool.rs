//! Storage pools.

use std::borrow::Cow;

use libvirt_qubes::qubes::Host;

use super::OrFail;
use crate::cx::{Cx, Dialect};
use crate::failure::Failure;
use crate::reply::{Content, Reply};
use crate::row;
use crate::table::Row;
use crate::untrusted::Text;

pub(super) const ROWS: &[Row<Host>] = &[
    row!(Both("pool.List"), Dom0, Global Read, (Empty, Empty) => list),
    row!(Both("pool.Info"), Dom0, Global Read, (Required<Text>, Empty) => info),
];

/// Options of our own, which the deployed clients do not know.
const OWN_OPTIONS: &[&str] = &["cow"];

async fn list(cx: &Cx<Host>) -> Result<Reply, Failure> {
    let seen = cx.host.snapshot();
    Ok(Reply::lines(seen.model.pools().map(|pool| &pool.name)))
}

/// The stored configuration sorted by key, then space in bytes where it is known.
async fn info(cx: &Cx<Host>, Text(pool): Text) -> Result<Reply, Failure> {
    let (pool, usage) = cx.host.pool(&pool).or_fail(cx)?;
    let mut pairs: Vec<(Cow<'static, str>, String)> =
        vec![("driver".into(), pool.driver.to_string()), ("name".into(), pool.name.to_string())];
    for (key, value) in pool.shown_options() {
        if cx.dialect == Dialect::Mgmt || !OWN_OPTIONS.contains(&&*key) {
            pairs.push((key.to_string().into(), value.to_string()));
        }
    }
    pairs.sort();
    if let Some(usage) = usage {
        pairs.push(("size".into(), usage.size.to_string()));
        pairs.push(("usage".into(), usage.usage.to_string()));
    }
    Ok(Content::Pairs(pairs).into())
}
