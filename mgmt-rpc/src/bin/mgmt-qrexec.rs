//! `mgmt-qrexec`: a qrexec service that hands a call from a VM to the daemon.
//!
//! For services that cannot be plain links to the daemon's socket. Installed as, or linked from,
//! `/etc/qubes-rpc/METHOD`; what is called, by whom and on what comes from the environment that qrexec sets,
//! or the service's name from the program's own name and its argument. Standard input is the payload, and
//! the daemon's answer goes to standard output as it is.
//!
//! qrexec gives no sign of a caller that died: its end of file looks like the end of the payload.
//!
//! `MGMT_SOCKET` names another socket of the daemon than the usual one.
//!
//! Exit codes: 0 an answer was handed over; 2 the environment does not name a call; 3 the daemon could not be
//! reached, closed without an answer, or the connection, the input or the output failed on the way.
#![forbid(unsafe_code)]

use std::env;
use std::io::Write;
use std::path::Path;
use std::process::exit;

use mgmt_rpc::client::{Call, Client, ClientError};
use mgmt_rpc::config::client_socket;
use mgmt_rpc::failure::chain;

/// The call that the environment stands for.
#[derive(Debug, PartialEq, Eq)]
struct Service {
    method: String,
    argument: String,
    source: String,
    destination: String,
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    // What qrexec starts is told by its environment; a caller's argument may look like a flag.
    if env::var_os("QREXEC_REMOTE_DOMAIN").is_none() {
        match arguments.get(1).map(String::as_str) {
            Some("--help" | "-h") => tell(HELP),
            Some("--version" | "-V") => tell(concat!("mgmt-qrexec ", env!("CARGO_PKG_VERSION"))),
            _ => {}
        }
    }
    let service = match Service::read(&arguments, |name| env::var(name).ok()) {
        Ok(service) => service,
        Err(what) => fail(&format!("not started by qrexec: {what}"), 2),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => fail(&chain(&error), 3),
    };
    match runtime.block_on(service.relay()) {
        // Not by returning: a read of standard input that nobody waits for any more would be waited for.
        Ok(true) => exit(0),
        Ok(false) => fail("the daemon closed without an answer: it refuses the call, or has ended", 3),
        Err(error) => fail(&chain(&error), 3),
    }
}

const HELP: &str = "\
Hands a call from a VM to mgmtd. qrexec starts it, as the service /etc/qubes-rpc/METHOD.

Usage: METHOD [ARGUMENT] < PAYLOAD

Environment:
  QREXEC_SERVICE_FULL_NAME         METHOD+ARGUMENT; else the program's name and its argument
  QREXEC_REMOTE_DOMAIN             the calling VM
  QREXEC_REQUESTED_TARGET_TYPE     name or keyword
  QREXEC_REQUESTED_TARGET          the VM that is called about
  QREXEC_REQUESTED_TARGET_KEYWORD  adminvm, which is dom0
  MGMT_SOCKET                      the daemon's socket; else /run/mgmtd/mgmtd.sock

The daemon's answer goes to standard output as it is.
Exit codes: 0 it was handed over; 2 the environment names no call; 3 there was none: the daemon refused the call without
a word or ended, or the input or the output failed";

/// For a person who asks.
fn tell(text: &str) -> ! {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => exit(0),
        Err(error) => fail(&chain(&error), 3),
    }
}

fn fail(message: &str, code: i32) -> ! {
    eprintln!("mgmt-qrexec: {message}");
    exit(code)
}

impl Service {
    /// Reads the arguments and the `QREXEC_*` variables.
    fn read(arguments: &[String], variable: impl Fn(&str) -> Option<String>) -> Result<Self, &'static str> {
        let (method, argument) = match variable("QREXEC_SERVICE_FULL_NAME").filter(|name| !name.is_empty()) {
            Some(name) => match name.split_once('+') {
                Some((method, argument)) => (method.to_owned(), argument.to_owned()),
                None => (name, String::new()),
            },
            None => {
                let program = arguments.first().map(Path::new).and_then(Path::file_name);
                let method = program.and_then(|name| name.to_str()).ok_or("the program has no name")?;
                (method.to_owned(), arguments.get(1).cloned().unwrap_or_default())
            }
        };
        let source = variable("QREXEC_REMOTE_DOMAIN").ok_or("QREXEC_REMOTE_DOMAIN is not set")?;
        let target = variable("QREXEC_REQUESTED_TARGET");
        let destination = match variable("QREXEC_REQUESTED_TARGET_TYPE").as_deref() {
            Some("name") | None => target.ok_or("QREXEC_REQUESTED_TARGET is not set")?,
            Some("keyword") => match variable("QREXEC_REQUESTED_TARGET_KEYWORD").as_deref() {
                Some("adminvm") => "dom0".to_owned(),
                Some(_) | None => return Err("QREXEC_REQUESTED_TARGET_KEYWORD is not adminvm"),
            },
            Some(_) => return Err("QREXEC_REQUESTED_TARGET_TYPE is neither name nor keyword"),
        };
        Ok(Self { method, argument, source, destination })
    }

    /// Whether there was an answer.
    async fn relay(&self) -> Result<bool, ClientError> {
        let mut answered = false;
        let client = Client::new(client_socket()).with_source(&self.source);
        let call = Call { method: &self.method, argument: &self.argument, destination: &self.destination };
        client
            .exchange(call, tokio::io::stdin(), |part| {
                answered = true;
                let mut output = std::io::stdout().lock();
                output.write_all(part)?;
                // Events are wanted when they happen.
                output.flush()
            })
            .await?;
        Ok(answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Service, &'static str> {
        let arguments: Vec<_> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let value = |name: &str| {
            variables.iter().find(|variable| variable.0 == name).map(|variable| variable.1.to_owned())
        };
        Service::read(&arguments, value)
    }

    fn service(method: &str, argument: &str, destination: &str) -> Result<Service, &'static str> {
        Ok(Service {
            method: method.into(),
            argument: argument.into(),
            source: "mgmt".into(),
            destination: destination.into(),
        })
    }

    const PROGRAM: &str = "/etc/qubes-rpc/mgmt.vm.Start";

    #[test]
    fn the_call_comes_from_the_environment_that_qrexec_sets() {
        let from = ("QREXEC_REMOTE_DOMAIN", "mgmt");
        let name = ("QREXEC_REQUESTED_TARGET_TYPE", "name");
        let work = ("QREXEC_REQUESTED_TARGET", "work");
        let keyword = ("QREXEC_REQUESTED_TARGET_TYPE", "keyword");
        let adminvm = ("QREXEC_REQUESTED_TARGET_KEYWORD", "adminvm");
        let full = ("QREXEC_SERVICE_FULL_NAME", "mgmt.vm.Kill+a+b");
        for (arguments, variables, expected) in [
            (&[PROGRAM][..], vec![from, name, work], service("mgmt.vm.Start", "", "work")),
            (&[PROGRAM, "arg"], vec![from, name, work], service("mgmt.vm.Start", "arg", "work")),
            (&[PROGRAM, "arg"], vec![from, name, work, full], service("mgmt.vm.Kill", "a+b", "work")),
            (&[PROGRAM], vec![from, keyword, adminvm], service("mgmt.vm.Start", "", "dom0")),
            (&[PROGRAM], vec![from, work], service("mgmt.vm.Start", "", "work")),
        ] {
            assert_eq!(read(arguments, &variables), expected, "{variables:?}");
        }
        for (variables, error) in [
            (vec![name, work], "QREXEC_REMOTE_DOMAIN is not set"),
            (vec![from, name], "QREXEC_REQUESTED_TARGET is not set"),
            (
                vec![from, keyword, ("QREXEC_REQUESTED_TARGET_KEYWORD", "default")],
                "QREXEC_REQUESTED_TARGET_KEYWORD is not adminvm",
            ),
        ] {
            assert_eq!(read(&[PROGRAM], &variables), Err(error));
        }
    }
}
