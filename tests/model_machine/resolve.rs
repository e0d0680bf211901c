//! Words of a call that stand for what is there when it is sent.

use crate::answers::compare;
use crate::call::{A_DISPOSABLE, Call};
use crate::oracle::{CHOSEN, Oracle, Volume};
use crate::run::Checked;
use crate::support::Daemon;

/// The data of an import fills a volume of at most this size.
const SMALL: u64 = 4096;

/// Puts the words in. Where data is copied this asks the daemon for a token.
pub fn resolve(call: &Call, oracle: &mut Oracle, daemon: &Daemon) -> Checked<Call> {
    let disposable = oracle.a_disposable().unwrap_or("ghost").to_owned();
    let name = |name: &str| if name == A_DISPOSABLE { disposable.clone() } else { name.to_owned() };
    let mut call = call.clone();
    call.vm = name(&call.vm);
    if call.method == "pool.Add" {
        call.payload = call.payload.replace("@dir", daemon.dir().to_str().unwrap());
    }
    if let Some(of) = call.payload.strip_prefix("@copy ") {
        let (vm, volume) = of.split_once(' ').unwrap();
        call.payload = token(&name(vm), volume, oracle, daemon)?;
    }
    if call.method.starts_with("vm.volume.") {
        let volume = oracle.volume(&call.vm, &call.argument);
        call.payload = worded(&call.payload, &call.vm, volume, oracle);
    }
    if call.method.starts_with("pool.volume.")
        && let Some((vm, rest)) = call.payload.strip_prefix('@').and_then(|of| of.split_once('/'))
    {
        let (volume, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let vm = name(vm);
        let found = oracle.volume(&vm, volume);
        let vid = found.map_or_else(|| format!("appvms/{vm}/{volume}"), |volume| oracle.vid(&vm, volume));
        if call.argument == "@pool" {
            call.argument = found.map_or("varlibqubes", |volume| oracle.pool_of(&vm, volume)).to_owned();
        }
        let rest = worded(rest, &vm, found, oracle);
        call.payload = format!("{vid} {rest}").trim_end().to_owned();
    }
    Ok(call)
}

/// The former state, the size or the data that a payload asks for.
fn worded(payload: &str, vm: &str, volume: Option<&Volume>, oracle: &Oracle) -> String {
    let origin = volume.and_then(Volume::origin);
    let size = volume.map_or(0, |volume| oracle.size(vm, volume));
    match payload {
        "@oldest" => origin.and_then(|o| o.revisions.keys().next()).map_or("1".into(), u64::to_string),
        "@newest" => origin.and_then(|o| o.revisions.keys().last()).map_or("2".into(), u64::to_string),
        "@kept" => {
            origin.and_then(|o| o.kept.keys().last()).map_or("s1".into(), |number| format!("s{number}"))
        }
        "@size" => size.to_string(),
        _ => match payload.strip_prefix("@fill ") {
            Some(byte) if size <= SMALL => byte.repeat(usize::try_from(size).unwrap()),
            Some(byte) => byte.to_owned(),
            None => payload.to_owned(),
        },
    }
}

/// A token for a copy of a volume; where there can be none, something that is none.
fn token(vm: &str, volume: &str, oracle: &mut Oracle, daemon: &Daemon) -> Checked<String> {
    let ask = Call::new("vm.volume.CloneFrom", vm, volume, "");
    let expected = oracle.clone().call(&ask).answer;
    let got = daemon.socket().raw(&ask.request());
    let chosen = compare(&expected, &got).map_err(|error| format!("{ask:?}: {error}"))?;
    let Some(token) = chosen.filter(|token| token != CHOSEN) else { return Ok("none".into()) };
    if token.len() != 32 || !token.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(format!("{ask:?}: {token:?}"));
    }
    oracle.offered(&token, vm, volume);
    Ok(token)
}
