//! One run: a daemon and the model, step by step.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::answers::{compare, in_groups, is_refused, is_reserved, orders, without_progress};
use crate::call::Call;
use crate::disk;
use crate::generate::Step;
use crate::oracle::{CHOSEN, Class, Ground, Oracle, Outcome};
use crate::resolve::resolve;
use crate::support::{self, Daemon, Events, Fate, Faults, On, Start};

/// A VM that no step touches: a refused reset of its template is announced, and changes nothing. That marks the end
/// of a call's events.
const MARKER: &str = "marker";

pub type Checked<T> = Result<T, String>;

/// So long what a kill interrupted may take to be put right.
const PATIENCE: Duration = Duration::from_secs(20);

struct Run {
    daemon: Daemon,
    events: Events,
    oracle: Oracle,
    faults: Option<Faults>,
    served: &'static [String],
    /// Whether numbers may still be reserved by what a kill interrupted.
    interrupted: bool,
}

/// Carries out the steps, in memory or on a file system that shares blocks; the error says where and how the daemon
/// and the model differ.
pub fn run(
    steps: &[Step],
    served: &'static [String],
    faults: Option<&Faults>,
    sharing: Option<&Path>,
) -> Checked<()> {
    let mut start = match sharing {
        Some(place) => Start::new().inside(place),
        None => Start::new().in_memory(),
    };
    // Without `dmsetup` any machine is one that cannot encrypt.
    start = start.env("PATH", "/nonexistent");
    if let Some(faults) = faults {
        faults.disarm();
        start = start.faults(faults);
    }
    let daemon = start.start();
    install_kernel(&daemon);
    let dir = daemon.dir().to_str().unwrap().to_owned();
    let mut oracle = Oracle::first_start(Ground { dir, shares_blocks: sharing.is_some() });
    let (first, then) = prelude();
    for call in first {
        compare(&oracle.call(&call).answer, &daemon.socket().raw(&call.request()))?;
    }
    let events = daemon.socket().events("dom0");
    let mut run = Run { daemon, events, oracle, faults: faults.cloned(), served, interrupted: false };
    run.learn()?;
    for call in then {
        let call = resolve(&call, &mut run.oracle, &run.daemon)?;
        run.call(&call).map_err(|error| format!("before the first step: {error}"))?;
    }
    for (number, step) in steps.iter().enumerate() {
        if std::env::var_os("MGMT_MODEL_TRACE").is_some() {
            eprintln!("{number} {step:?}");
        }
        run = run.step(step).map_err(|error| format!("step {number}, {step:?}: {error}"))?;
    }
    run.compare_everything()
        .and_then(|()| disk::compare(&run.oracle))
        .map_err(|error| format!("at the end: {error}"))
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
    let volume = |verb: &str, vm: &str, volume: &str, payload: &str| {
        Call::new(&format!("vm.volume.{verb}"), vm, volume, payload)
    };
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
        Call::new("pool.Add", "dom0", "file", "name=extra\ndir_path=@dir/extra\n"),
        Call::new("vm.CreateInPool.AppVM", "dom0", "base", "name=apart label=red pool=extra"),
        volume("ImportWithSize", "base", "root", "8\ntemplate"),
        volume("ImportWithSize", "work", "private", "4\nmine"),
        volume("Set.revisions_to_keep", "work", "private", "2"),
        volume("Set.revisions_to_keep", "base", "root", "1"),
        volume("ImportWithSize", "work", "private", "7\nmine\n\n2"),
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
                let call = resolve(call, &mut self.oracle, &self.daemon)?;
                self.call(&call)?;
                return Ok(self);
            }
            Step::Restart => {
                self.daemon = self.daemon.terminate_and_restart();
            }
            Step::Kill => self.daemon = self.daemon.kill_and_restart(),
            Step::KillDuring(calls, on, nth, fate) => {
                let mut resolved: Vec<Call> = Vec::new();
                for call in calls {
                    // Which of two numbers a kill used up, nobody could say afterwards.
                    if !(makes_snapshot(call) && resolved.iter().any(makes_snapshot)) {
                        resolved.push(resolve(call, &mut self.oracle, &self.daemon)?);
                    }
                }
                let calls = resolved;
                return self.kill_during(&calls, *on, *nth, *fate);
            }
        }
        self.events = self.daemon.socket().events("dom0");
        self.oracle.restarted();
        until_at_rest(|| {
            self.compare_everything()?;
            disk::compare(&self.oracle)
        })?;
        Ok(self)
    }

    /// One call: answer and events.
    fn call(&mut self, call: &Call) -> Checked<()> {
        let mut outcome = self.oracle.call(call);
        let mut got = self.daemon.socket().raw(&call.request());
        // What a kill left half done reserves its name, and a place in its pool, until the start has put it right.
        for _ in 0..1000 {
            if !self.interrupted || !is_reserved(&got) || is_refused(&outcome.answer, &got) {
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
        let seen = without_progress(self.events_so_far())?;
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
        let seen = without_progress(subscription.rest())?;
        self.events = self.daemon.socket().events("dom0");
        self.interrupted = true;
        let (candidates, mut differences) = self.candidates(calls, &answers);
        let before = self.oracle.clone();
        let found = until_at_rest(|| {
            let mut seen = Vec::new();
            for candidate in &candidates {
                self.oracle = candidate.oracle.clone();
                match self.adopt() {
                    Ok(()) => return Ok(candidate),
                    Err(difference) => seen.push(format!("{:?}: {difference}", candidate.order)),
                }
            }
            Err(seen.join("\n  "))
        });
        let found = match found {
            Ok(found) => Some(found),
            Err(difference) => {
                differences.push(difference);
                self.oracle = before;
                None
            }
        };
        let Some(Candidate { order, outcomes, .. }) = found else {
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
            let is_done = |event: &String| {
                !["-pre-", "import-begin", "success=False"].iter().any(|word| event.contains(word))
            };
            let done = seen.iter().any(is_done);
            if !expected.starts_with(&seen) && in_groups(expected.clone()) != in_groups(seen.clone()) {
                return Err(format!("events of the killed call: expected {expected:?}, seen {seen:?}"));
            }
            if done && order.is_empty() && !call.method.starts_with("vm.Create") {
                return Err(format!("announced, and not there: {seen:?}"));
            }
        }
        self.oracle.restarted();
        for (n, call) in calls.iter().enumerate() {
            if answers[n].is_none() && !order.contains(&n) {
                self.look_at_number(call)?;
            }
        }
        Ok(self)
    }

    /// The orders in which what was sent may have been done, whole or not at all, and why others are none.
    fn candidates(
        &self,
        calls: &[Call],
        answers: &[Option<support::Answer>],
    ) -> (Vec<Candidate>, Vec<String>) {
        let (mut candidates, mut differences) = (Vec::new(), Vec::new());
        for order in orders(calls.len()) {
            // What was refused because another of them had reserved something need have no place in the order.
            let may_be_left_out = |answer: &Option<support::Answer>| answer.as_ref().is_none_or(is_reserved);
            if !answers.iter().enumerate().all(|(n, answer)| may_be_left_out(answer) || order.contains(&n)) {
                continue;
            }
            let mut oracle = self.oracle.clone();
            let outcomes: Vec<Outcome> = order.iter().map(|n| oracle.call(&calls[*n])).collect();
            let contradiction = order.iter().zip(&outcomes).find_map(|(n, outcome)| {
                answers[*n].as_ref().and_then(|got| compare(&outcome.answer, got).err())
            });
            match contradiction {
                Some(contradiction) => differences.push(format!("{order:?}: {contradiction}")),
                None => candidates.push(Candidate { order, oracle, outcomes }),
            }
        }
        (candidates, differences)
    }

    /// A kill may have used the number of a snapshot up that is not there.
    fn look_at_number(&mut self, call: &Call) -> Checked<()> {
        if !makes_snapshot(call) {
            return Ok(());
        }
        let (vm, volume) = match call.method.as_str() {
            "vm.volume.Snapshot" => (call.vm.clone(), call.argument.clone()),
            _ => {
                let mut parts = call.payload.split('/').skip(1).map(str::to_owned);
                let (Some(vm), Some(volume)) = (parts.next(), parts.next()) else { return Ok(()) };
                (vm, volume)
            }
        };
        if self.oracle.volume(&vm, &volume).and_then(crate::oracle::Volume::origin).is_none() {
            return Ok(());
        }
        let name = self.daemon.call("mgmt.vm.volume.Snapshot", &vm, &volume, b"").ok();
        self.daemon.call("mgmt.vm.volume.RemoveSnapshot", &vm, &volume, name.as_bytes()).ok();
        let number = name.strip_prefix('s').and_then(|number| number.parse().ok());
        self.oracle.numbered(&vm, &volume, number.ok_or(format!("snapshot {name:?}"))?)
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
        disk::compare(&self.oracle)?;
        self.learn()?;
        self.compare_everything()
    }
}

/// One of the states that a kill may have left.
struct Candidate {
    /// Which of the calls were done, in this order.
    order: Vec<usize>,
    oracle: Oracle,
    outcomes: Vec<Outcome>,
}

fn makes_snapshot(call: &Call) -> bool {
    call.method.ends_with("volume.Snapshot")
}

/// Asks until it is so: a start puts volumes to rest after it is ready.
fn until_at_rest<T>(mut is: impl FnMut() -> Checked<T>) -> Checked<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match is() {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            ended => return ended,
        }
    }
}

/// A stand-in for a subscription until the next daemon is there.
fn nobody() -> Checked<Events> {
    let (one, _other) = std::os::unix::net::UnixStream::pair().map_err(|error| error.to_string())?;
    Ok(Events::of(one))
}
