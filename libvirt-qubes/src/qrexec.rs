//! Calling services inside guests, as dom0.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use uuid::Uuid;

use crate::error::{At, Error, Kind, Op, Result};
use crate::hypervisor::BoxFuture;
use crate::ids::VmName;
use crate::said;

/// A service to be called in a running domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCall {
    /// The domain's identity.
    pub uuid: Uuid,
    /// Its name.
    pub name: VmName,
    /// The guest's user that the service runs as.
    pub user: &'static str,
    /// The service: `qubes.ResizeDisk`.
    pub service: &'static str,
    /// What it reads from its standard input.
    pub input: Vec<u8>,
}

/// Whoever can call services in guests.
pub trait Qrexec: fmt::Debug + Send + Sync {
    /// Calls a service and gives what it printed. Dropping the future ends the call.
    ///
    /// # Errors
    /// The guest does not answer, has no such service, or the service failed, in its own words.
    fn call(&self, call: ServiceCall) -> BoxFuture<'_, Result<Vec<u8>>>;
}

/// Calls through the program `qrexec-client`.
#[derive(Debug, Clone)]
pub struct QrexecClient {
    program: PathBuf,
    patience: Duration,
}

/// As much of what a service prints is kept.
const MOST_OUTPUT: u64 = 64 << 10;

impl Default for QrexecClient {
    /// Where qrexec installs it; a service may take a minute.
    fn default() -> Self {
        Self::new("/usr/bin/qrexec-client", Duration::from_secs(60))
    }
}

impl QrexecClient {
    /// Another program, or another patience with services.
    pub fn new(program: impl Into<PathBuf>, patience: Duration) -> Self {
        Self { program: program.into(), patience }
    }

    async fn run(&self, call: &ServiceCall) -> Result<Vec<u8>> {
        let target = format!("{} in {}", call.service, call.name);
        let mut child = Command::new(&self.program)
            .arg("-d")
            .arg(call.name.as_str())
            .arg(format!("{}:QUBESRPC {} dom0", call.user, call.service))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .at(Op::CallService, self.program.display())?;
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut input) = input {
                // A service may end without having read all.
                drop(input.write_all(&call.input).await);
            }
        };
        let all = async {
            let ((), output, errors) = tokio::join!(feed, read(output), read(errors));
            (child.wait().await, output, errors)
        };
        let (ended, output, errors) = tokio::time::timeout(self.patience, all).await.map_err(|_| {
            let waited = format!("no end after {} s", self.patience.as_secs());
            Error::new(Kind::TimedOut, Op::CallService, &target).because(waited)
        })?;
        let ended = ended.at(Op::CallService, &target)?;
        if ended.success() {
            return Ok(output);
        }
        let why = match said::in_one_line(&errors, |_| false).as_str() {
            "" => ended.to_string(),
            words => format!("{ended}: {words}"),
        };
        Err(Error::new(Kind::Backend, Op::CallService, target).because(why))
    }
}

/// What a pipe brings, as far as it is kept; the rest is read and dropped.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(pipe) = pipe {
        let mut first = pipe.take(MOST_OUTPUT);
        // What came before an error is all there is.
        drop(first.read_to_end(&mut kept).await);
        drop(tokio::io::copy(&mut first.into_inner(), &mut tokio::io::sink()).await);
    }
    kept
}

impl Qrexec for QrexecClient {
    fn call(&self, call: ServiceCall) -> BoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move { self.run(&call).await })
    }
}

/// For a host without qrexec: every call fails.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoQrexec;

impl Qrexec for NoQrexec {
    fn call(&self, call: ServiceCall) -> BoxFuture<'_, Result<Vec<u8>>> {
        let error =
            Error::new(Kind::Unsupported, Op::CallService, format!("{} in {}", call.service, call.name));
        Box::pin(std::future::ready(Err(error.because("this host has no qrexec"))))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A client that is a script, with this body.
    fn client(body: &str) -> (tempfile::TempDir, QrexecClient) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("client");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let client = QrexecClient::new(path, Duration::from_secs(30));
        (dir, client)
    }

    fn resize() -> ServiceCall {
        ServiceCall {
            uuid: Uuid::from_u128(1),
            name: "work".parse().unwrap(),
            user: "root",
            service: "qubes.ResizeDisk",
            input: b"private".to_vec(),
        }
    }

    #[tokio::test]
    async fn a_service_is_named_with_its_user_and_caller_and_reads_the_input() {
        let (_dir, client) = client(r#"printf '%s|' "$@"; cat"#);
        let printed = client.call(resize()).await.unwrap();
        assert_eq!(
            String::from_utf8(printed).unwrap(),
            "-d|work|root:QUBESRPC qubes.ResizeDisk dom0|private"
        );
    }

    #[tokio::test]
    async fn what_a_service_says_of_its_failure_is_told() {
        let (_dir, client) = client("echo no such disk >&2; exit 3");
        let error = client.call(resize()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Backend);
        assert!(error.report().ends_with("exit status: 3: no such disk"), "{}", error.report());
        let missing = QrexecClient::new("/nowhere/client", Duration::from_secs(1));
        assert_eq!(missing.call(resize()).await.unwrap_err().kind(), Kind::NotFound);
    }

    #[tokio::test]
    async fn a_service_that_does_not_end_is_given_up() {
        let (_dir, client) = client("exec sleep 600");
        let client = QrexecClient { patience: Duration::from_millis(100), ..client };
        assert_eq!(client.call(resize()).await.unwrap_err().kind(), Kind::TimedOut);
    }
}
