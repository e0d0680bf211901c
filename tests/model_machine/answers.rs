//! What was answered and announced, against what the model says.

use crate::oracle::{ANY, Answer, CHOSEN, REST, UNORDERED};
use crate::run::Checked;
use crate::support;

/// Refused because of what is being made or removed.
pub fn is_reserved(got: &support::Answer) -> bool {
    [&b"2\0QubesVMAlreadyExistsError\0"[..], b"2\0QubesPoolInUseError\0"]
        .iter()
        .any(|class| got.0.starts_with(class))
}

pub fn is_refused(expected: &Answer, got: &support::Answer) -> bool {
    expected.is_err() && compare(expected, got).is_ok()
}

/// The value that the daemon chose, where the answer leaves it the choice.
pub fn compare(expected: &Answer, got: &support::Answer) -> Checked<Option<String>> {
    let shown = || format!("expected {expected:?}, got {got:?}");
    match expected {
        Ok(content) => {
            let Some(body) = got.0.strip_prefix(b"0\0") else { return Err(shown()) };
            let body = String::from_utf8_lossy(body).into_owned();
            if content == CHOSEN {
                return Ok(Some(body));
            }
            if are_alike(content, &body) { Ok(None) } else { Err(shown()) }
        }
        Err(refused) => {
            if !got.0.starts_with(b"2\0") {
                return Err(shown());
            }
            let (class, text) = got.exception();
            let same = match refused.text.strip_suffix(REST) {
                Some(beginning) => text.starts_with(beginning),
                None => text == refused.text,
            };
            if class == refused.class && same { Ok(None) } else { Err(shown()) }
        }
    }
}

fn are_alike(expected: &str, got: &str) -> bool {
    let lines = |text: &str| text.split('\n').map(str::to_owned).collect::<Vec<_>>();
    let (mut expected, mut got) = match expected.strip_prefix(UNORDERED) {
        Some(expected) => {
            let (mut expected, mut got) = (lines(expected), lines(got));
            expected.sort();
            got.sort();
            (expected, got)
        }
        None => (lines(expected), lines(got)),
    };
    let alike = |(expected, got): (String, String)| match expected.strip_suffix(ANY) {
        Some(beginning) => got.starts_with(beginning),
        None => expected == got,
    };
    expected.len() == got.len() && expected.drain(..).zip(got.drain(..)).all(alike)
}

/// One event for several VMs comes in no fixed order of VMs.
pub fn in_groups(mut events: Vec<String>) -> Vec<String> {
    let kind = |event: &String| event.split(' ').nth(1).unwrap_or_default().to_owned();
    for group in events.chunk_by_mut(|one, next| kind(one) == kind(next)) {
        group.sort();
    }
    events
}

/// All orders of all subsets, the whole ones first.
pub fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    let mut longest = all.clone();
    for _ in 0..count {
        longest = longest
            .iter()
            .flat_map(|order: &Vec<usize>| {
                (0..count).filter(|n| !order.contains(n)).map(|n| [order.as_slice(), &[n]].concat())
            })
            .collect();
        all.extend(longest.iter().cloned());
    }
    all.reverse();
    all
}

/// What is copied is told of as often as its length wants.
pub fn without_progress(events: Vec<String>) -> Checked<Vec<String>> {
    let (progress, others): (Vec<_>, Vec<_>) =
        events.into_iter().partition(|event| event.contains(" volume-progress "));
    for event in progress {
        let figure = |key: &str| event.split(key).nth(1)?.split(' ').next()?.parse::<u64>().ok();
        if figure(" done=").zip(figure(" total=")).is_none_or(|(done, total)| done > total) {
            return Err(event);
        }
    }
    Ok(others)
}
