//! One run: a daemon and the model, step by step.

use std::collections::BTreeMap;

use crate::call::{A_DISPOSABLE, Call};
use crate::generate::Step;
use crate::oracle::{Answer, CHOSEN, Class, Oracle, Outcome};
use crate::support::{self, Daemon, Events, Fate, Faults, On, Start};

/// A VM that no step touches: a refused reset of its template is announced, and changes nothing. That marks the end
/// of a call's events.
const MARKER: &str = "marker";

type Checked<T> = Result<T, String>;

struct Run {
    daemon: Daemon,
    events: Events,
    oracle: Oracle,
    faults: Option<Faults>,
    served: &'static [String],
    /// Whether numbers may still be reserved by what a kill interrupted.
    interrupted: bool,
}

/// Carries out the steps; the error says where and how the daemon and the model differ.
pub fn run(steps: &[Step], served: &'static [String], faults: Option<&Faults>) -> Checked<()> {
    let mut start = Start::new().in_memory();
    if let Some(faults) = faults {
        faults.disarm();
        start = start.faults(faults);
    }
    let daemon = start.start();
    install_kernel(&daemon);
    let mut oracle = Oracle::first_start();
    let (first, then) = prelude();
    for call in first {
        compare(&oracle.call(&call).answer, &daemon.socket().raw(&call.request()))?;
    }
    let events = daemon.socket().events("dom0");
    let mut run = Run { daemon, events, oracle, faults: faults.cloned(), served, interrupted: false };
    run.learn()?;
    for call in then {
        run.call(&call).map_err(|error| format!("before the first step: {error}"))?;
    }
    for (number, step) in steps.iter().enumerate() {
        if std::env::var_os("MGMT_MODEL_TRACE").is_some() {
            eprintln!("{number} {step:?}");
        }
        run = run.step(step).map_err(|error| format!("step {number}, {step:?}: {error}"))?;
    }
    run.compare_everything().map_err(|error| format!("at the end: {error}"))
}

fn install_kernel(daemon: &Daemon) {
    let folder = daemon.state().join("vm-kernels/6.1");
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["vmlinuz", "initramfs"] {
        std::fs::write(folder.join(file), file).unwrap();
    }
}

/// What every run begins with.
fn prelude() -> (Vec<Call>, Vec<Call>) {
    let create = |class: &str, template: &str, name: &str| {
        Call::new(&format!("vm.Create.{class}"), "dom0", template, &format!("name={name} label=red"))
    };
    let set = |vm: &str, property: &str, value: &str| Call::new("vm.property.Set", vm, property, value);
    let first = vec![create("TemplateVM", "", "base"), create("AppVM", "base", MARKER)];
    let then = vec![
        create("TemplateVM", "", "base2"),
        create("AppVM", "base", "net"),
        set("net", "provides_network", "True"),
        create("AppVM", "base2", "fw"),
        set("fw", "provides_network", "True"),
        create("AppVM", "base", "work"),
        create("AppVM", "base", "dvm"),
        set("dvm", "template_for_dispvms", "True"),
    ];
    (first, then)
}

impl Run {
    fn serves(&self, method: &str) -> bool {
        self.served.iter().any(|served| served == method)
    }

    fn step(mut self, step: &Step) -> Checked<Self> {
        match step {
            Step::Call(call) => {
                let call = self.resolve(call);
                self.call(&call)?;
                return Ok(self);
            }
            Step::Restart => {
                self.daemon = self.daemon.terminate_and_restart();
            }
            Step::Kill => self.daemon = self.daemon.kill_and_restart(),
            Step::KillDuring(calls, on, nth, fate) => {
                let calls: Vec<Call> = calls.iter().map(|call| self.resolve(call)).collect();
                return self.kill_during(&calls, *on, *nth, *fate);
            }
        }
        self.events = self.daemon.socket().events("dom0");
        self.compare_everything()?;
        Ok(self)
    }

    fn resolve(&self, call: &Call) -> Call {
        let mut call = call.clone();
        if call.vm == A_DISPOSABLE {
            self.oracle.a_disposable().unwrap_or("ghost").clone_into(&mut call.vm);
        }
        call
    }

    /// One call: answer and events.
    fn call(&mut self, call: &Call) -> Checked<()> {
        let mut outcome = self.oracle.call(call);
        let mut got = self.daemon.socket().raw(&call.request());
        // What a kill left half done reserves its name until the start has put it right.
        for _ in 0..1000 {
            if !self.interrupted
                || !got.0.starts_with(b"2\0QubesVMAlreadyExistsError\0")
                || is_refused(&outcome.answer, &got)
            {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            got = self.daemon.socket().raw(&call.request());
        }
        if let Some(chosen) = compare(&outcome.answer, &got)? {
            self.oracle.chosen(&chosen);
            outcome.events.iter_mut().for_each(|event| *event = event.replace(CHOSEN, &chosen));
        }
        if outcome.answer.is_ok() {
            self.learn()?;
        }
        let seen = self.events_so_far();
        let (expected, seen) = (in_groups(outcome.events), in_groups(seen));
        if expected == seen {
            return Ok(());
        }
        Err(format!(
            "events expected:\n    {}\n  seen:\n    {}",
            expected.join("\n    "),
            seen.join("\n    ")
        ))
    }

    /// All events of the calls that were answered.
    fn events_so_far(&mut self) -> Vec<String> {
        self.daemon.call("mgmt.vm.property.Reset", MARKER, "template", b"").exception();
        let mut events = self.events.until(&format!("{MARKER} property-pre-reset:template"));
        events.pop();
        events
    }

    /// What the daemon chose: identities, and, where a kill may have left some reserved, numbers.
    fn learn(&mut self) -> Checked<()> {
        let new: Vec<String> = self
            .oracle
            .vms
            .iter()
            .filter(|(_, vm)| vm.uuid.is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        for name in new {
            let uuid = self.property(&name, "uuid");
            let qid =
                self.property(&name, "qid").parse().map_err(|error| format!("qid of {name}: {error}"))?;
            let taken = self.oracle.vms.iter().any(|(other, vm)| *other != name && vm.qid == qid);
            let dispid = match self.oracle.vms[&name].class {
                Class::Disp => Some(self.property(&name, "dispid").parse().map_err(|_| "no dispid")?),
                _ => None,
            };
            let vm = self.oracle.vms.get_mut(&name).unwrap();
            if let Some(dispid) = dispid {
                vm.set_dispid(dispid);
            }
            if qid != vm.qid && (taken || !self.interrupted) {
                return Err(format!("{name} has qid {qid}, not {}", vm.qid));
            }
            (vm.uuid, vm.qid) = (uuid, qid);
        }
        Ok(())
    }

    fn property(&self, vm: &str, property: &str) -> String {
        let answer = self.daemon.call("mgmt.vm.property.Get", vm, property, b"").ok();
        answer.rsplit(' ').next().unwrap().to_owned()
    }

    /// Everything that can be read, against the model.
    fn compare_everything(&mut self) -> Checked<()> {
        for call in self.oracle.everything(|method| self.serves(method)) {
            let expected = self.oracle.clone().call(&call).answer;
            let got = self.daemon.socket().raw(&call.request());
            compare(&expected, &got).map_err(|error| format!("everything: {call:?}: {error}"))?;
        }
        Ok(())
    }

    /// Sends the calls at once to a daemon that dies over them.
    fn kill_during(mut self, calls: &[Call], on: On, nth: u32, fate: Fate) -> Checked<Self> {
        if let Some(faults) = &self.faults {
            faults.arm(on, nth, fate);
        }
        let socket = self.daemon.socket().clone();
        let answers: Vec<Option<support::Answer>> = std::thread::scope(|scope| {
            let sent: Vec<_> = calls
                .iter()
                .map(|call| {
                    let (socket, request) = (socket.clone(), call.request());
                    scope.spawn(move || socket.try_raw(&request))
                })
                .collect();
            sent.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        if let Some(faults) = &self.faults {
            faults.disarm();
        }
        // Calls that write less than the fault waits for are all answered: then it is an ordinary kill.
        let nobody = nobody()?;
        let subscription = std::mem::replace(&mut self.events, nobody);
        self.daemon = self.daemon.kill_and_restart();
        let seen = subscription.rest();
        self.events = self.daemon.socket().events("dom0");
        self.interrupted = true;
        let mut differences = Vec::new();
        let mut found = None;
        for order in orders(calls.len()) {
            // What was refused because another of them had reserved the name need have no place in the order.
            let may_be_left_out = |answer: &Option<support::Answer>| match answer {
                Some(answer) => answer.0.starts_with(b"2\0QubesVMAlreadyExistsError\0"),
                None => true,
            };
            if !answers.iter().enumerate().all(|(n, answer)| may_be_left_out(answer) || order.contains(&n)) {
                continue;
            }
            let mut oracle = self.oracle.clone();
            let outcomes: Vec<Outcome> = order.iter().map(|n| oracle.call(&calls[*n])).collect();
            let contradiction = order.iter().zip(&outcomes).find_map(|(n, outcome)| {
                answers[*n].as_ref().and_then(|got| compare(&outcome.answer, got).err())
            });
            if let Some(contradiction) = contradiction {
                differences.push(format!("{order:?}: {contradiction}"));
                continue;
            }
            let before = std::mem::replace(&mut self.oracle, oracle);
            match self.adopt() {
                Ok(()) => {
                    found = Some((order, outcomes));
                    break;
                }
                Err(difference) => differences.push(format!("{order:?}: {difference}")),
            }
            self.oracle = before;
        }
        let Some((order, outcomes)) = found else {
            return Err(format!(
                "answered: {answers:?}; the state is that of no order of these calls:\n  {}",
                differences.join("\n  ")
            ));
        };
        // What was announced is there.
        if let ([call], false) = (calls, seen.is_empty()) {
            let expected = match outcomes.first() {
                Some(outcome) => outcome.events.clone(),
                None => self.oracle.clone().call(call).events,
            };
            let done = seen.iter().any(|event| !event.contains("-pre-"));
            if !expected.starts_with(&seen) && in_groups(expected.clone()) != in_groups(seen.clone()) {
                return Err(format!("events of the killed call: expected {expected:?}, seen {seen:?}"));
            }
            if done && order.is_empty() && !call.method.starts_with("vm.Create") {
                return Err(format!("announced, and not there: {seen:?}"));
            }
        }
        Ok(self)
    }

    /// Takes over the identities that the daemon chose, and compares everything.
    fn adopt(&mut self) -> Checked<()> {
        let listed: BTreeMap<String, String> = self
            .daemon
            .call("admin.vm.List", "dom0", "", b"")
            .ok()
            .lines()
            .filter_map(|line| {
                Some((line.split(' ').next()?.to_owned(), line.rsplit_once("uuid=")?.1.to_owned()))
            })
            .collect();
        let names: Vec<&String> = self.oracle.vms.keys().collect();
        if !listed.keys().eq(names) {
            return Err(format!("VMs: {:?}", listed.keys()));
        }
        self.learn()?;
        self.compare_everything()
    }
}

/// A stand-in for a subscription until the next daemon is there.
fn nobody() -> Checked<Events> {
    let (one, _other) = std::os::unix::net::UnixStream::pair().map_err(|error| error.to_string())?;
    Ok(Events::of(one))
}

fn is_refused(expected: &Answer, got: &support::Answer) -> bool {
    expected.is_err() && compare(expected, got).is_ok()
}

/// The value that the daemon chose, where the answer leaves it the choice.
fn compare(expected: &Answer, got: &support::Answer) -> Checked<Option<String>> {
    let shown = || format!("expected {expected:?}, got {got:?}");
    match expected {
        Ok(content) => {
            let Some(body) = got.0.strip_prefix(b"0\0") else { return Err(shown()) };
            let body = String::from_utf8_lossy(body).into_owned();
            if content == CHOSEN {
                return Ok(Some(body));
            }
            if *content == body { Ok(None) } else { Err(shown()) }
        }
        Err(refused) => {
            if !got.0.starts_with(b"2\0") {
                return Err(shown());
            }
            let (class, text) = got.exception();
            let same = match refused.text.strip_suffix('\u{2026}') {
                Some(beginning) => text.starts_with(beginning),
                None => text == refused.text,
            };
            if class == refused.class && same { Ok(None) } else { Err(shown()) }
        }
    }
}

/// One event for several VMs comes in no fixed order of VMs.
fn in_groups(mut events: Vec<String>) -> Vec<String> {
    let kind = |event: &String| event.split(' ').nth(1).unwrap_or_default().to_owned();
    for group in events.chunk_by_mut(|one, next| kind(one) == kind(next)) {
        group.sort();
    }
    events
}

/// All orders of all subsets, the whole ones first.
fn orders(count: usize) -> Vec<Vec<usize>> {
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
