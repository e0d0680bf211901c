//! The daemon under test, in a folder of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::{Faults, Socket, binary};

/// How a daemon is started.
#[derive(Debug, Clone)]
pub struct Start {
    hypervisor: String,
    environment: Vec<(String, String)>,
    config: String,
    script: Option<String>,
    state: Option<PathBuf>,
    parent: PathBuf,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            hypervisor: "sim".into(),
            environment: Vec::new(),
            config: String::new(),
            script: None,
            state: None,
            parent: std::env::temp_dir(),
        }
    }
}

impl Start {
    /// On the simulator, with nothing configured.
    pub fn new() -> Self {
        Self::default()
    }

    /// On another hypervisor.
    #[must_use]
    pub fn hypervisor(mut self, name: &str) -> Self {
        self.hypervisor = name.into();
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.into(), value.to_string()));
        self
    }

    /// With these lines of configuration.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self
    }

    /// With a script for the simulator.
    #[must_use]
    pub fn script(mut self, toml: &str) -> Self {
        self.script = Some(toml.into());
        self
    }

    /// With its state elsewhere than beside its socket.
    #[must_use]
    pub fn state(mut self, dir: PathBuf) -> Self {
        self.state = Some(dir);
        self
    }

    /// With faults that can be armed while it runs.
    #[must_use]
    pub fn faults(mut self, faults: &Faults) -> Self {
        self.environment.extend(faults.environment());
        self
    }

    /// With its folder in another one than that of temporary files.
    #[must_use]
    pub fn inside(mut self, parent: &Path) -> Self {
        self.parent = parent.to_owned();
        self
    }

    /// With its folder in memory, where there is such a file system: what need not survive a power cut is faster there.
    #[must_use]
    pub fn in_memory(self) -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { self.inside(memory) } else { self }
    }

    /// Starts it in a new folder.
    pub fn start(self) -> Daemon {
        let dir = tempfile::Builder::new().prefix("mgmt-test-").tempdir_in(&self.parent).unwrap();
        Daemon::start_in(Arc::new(dir), self)
    }
}

/// A running daemon; it is killed when this goes.
#[derive(Debug)]
pub struct Daemon {
    dir: Arc<tempfile::TempDir>,
    how: Start,
    child: Child,
    log: Arc<Mutex<String>>,
    socket: Socket,
}

impl Daemon {
    /// On the simulator in a new folder.
    pub fn start() -> Self {
        Start::new().start()
    }

    fn start_in(dir: Arc<tempfile::TempDir>, how: Start) -> Self {
        let path = dir.path().join("mgmtd.sock");
        let config = dir.path().join("mgmtd.toml");
        std::fs::write(&config, &how.config).unwrap();
        let mut command = Command::new(binary("mgmtd"));
        if let Some(script) = &how.script {
            let path = dir.path().join("script.toml");
            std::fs::write(&path, script).unwrap();
            command.env("MGMTD_SIM_SCRIPT", path);
        }
        let mut child = command
            .args(["--hypervisor", &how.hypervisor])
            .arg("--config")
            .arg(&config)
            .arg("--state")
            .arg(how.state.clone().unwrap_or_else(|| dir.path().join("state")))
            .arg("--socket")
            .arg(&path)
            .args(["--log", "debug"])
            .envs(how.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let keep = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.starts_with("mgmtd: ready on ") {
                    // The test may have given up.
                    let _ = ready.send(());
                }
                let mut log = keep.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        if is_ready.recv_timeout(Duration::from_secs(60)).is_err() {
            // It may have ended by itself.
            drop(child.kill());
            panic!("mgmtd did not get ready:\n{}", log.lock().unwrap());
        }
        Self { dir, how, child, log, socket: Socket::new(path) }
    }

    /// Its socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// A call from dom0, as [`Socket::call`].
    pub fn call(&self, method: &str, destination: &str, argument: &str, payload: &[u8]) -> crate::Answer {
        self.socket.call(method, destination, argument, payload)
    }

    /// The folder that holds its state, socket and configuration.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of its state.
    pub fn state(&self) -> PathBuf {
        self.how.state.clone().unwrap_or_else(|| self.dir.path().join("state"))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// How many files it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Waits until it ends by itself, or by a fault.
    pub fn wait_for_its_end(&mut self) {
        let patience = Instant::now() + Duration::from_secs(60);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < patience, "mgmtd did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks it to stop, waits for a good end, and starts it again on the same state.
    #[must_use]
    pub fn terminate_and_restart(self) -> Self {
        let (dir, how) = (Arc::clone(&self.dir), self.how.clone());
        assert_eq!(self.terminate(), Some(0));
        Self::start_in(dir, how)
    }

    /// Kills it (SIGKILL) and starts it again on the same state.
    #[must_use]
    pub fn kill_and_restart(self) -> Self {
        self.kill_and(|| {})
    }

    /// Kills it and starts it again in another way.
    #[must_use]
    pub fn kill_and_restart_as(self, how: Start) -> Self {
        self.kill_and_as(how, || {})
    }

    /// Kills it, does something while no daemon runs, and starts it again.
    #[must_use]
    pub fn kill_and(self, meanwhile: impl FnOnce()) -> Self {
        let how = self.how.clone();
        self.kill_and_as(how, meanwhile)
    }

    /// The same, and starts it in another way.
    #[must_use]
    pub fn kill_and_as(mut self, how: Start, meanwhile: impl FnOnce()) -> Self {
        // It may have ended by itself.
        drop(self.child.kill());
        self.child.wait().unwrap();
        let dir = Arc::clone(&self.dir);
        drop(self);
        meanwhile();
        Self::start_in(dir, how)
    }

    /// Kills it, lets somebody at its state, and starts it again.
    #[must_use]
    pub fn kill_and_restart_edited(mut self, edit: impl FnOnce(&Path)) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        edit(&self.state());
        let (dir, how) = (Arc::clone(&self.dir), self.how.clone());
        drop(self);
        Self::start_in(dir, how)
    }

    /// Asks it to stop (SIGTERM) and waits for the end; gives the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while Instant::now() < patience {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("mgmtd did not stop:\n{}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("---- log of mgmtd ----\n{}", self.log());
        }
    }
}
