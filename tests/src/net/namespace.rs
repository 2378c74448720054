//! A network namespace: a machine's network without the machine.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where `ip` keeps the namespaces that have a name.
const FOLDER: &str = "/var/run/netns";

/// What every name here begins with; the id of the process that made it and a number follow.
const PREFIX: &str = "proxystore";

/// Makes names unique within this process.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A namespace with a name; dropping it deletes it, and with it every interface in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A namespace with nothing but a loopback interface. `label` tells people what it stands for.
    pub fn new(label: &str) -> Result<Arc<Self>> {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        let namespace = Arc::new(Self { name });
        namespace.ip("link set lo up")?;
        // Nobody else can have an address here, so that none needs a second's check before its use.
        namespace.set("net/ipv6/conf/default/accept_dad", "0")?;
        Ok(namespace)
    }

    /// Its name, for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run in here.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs lines of `ip`'s own language in here.
    pub fn ip(&self, script: &str) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), script).map(drop)
    }

    /// Adds to the packet filter in here.
    pub fn nft(&self, rules: &str) -> Result<()> {
        run(self.command("nft").args(["-f", "-"]), rules).map(drop)
    }

    /// Sets a variable below `/proc/sys`.
    pub fn set(&self, variable: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(variable);
        self.within(|| fs::write(&path, value).with_context(|| format!("setting {}", path.display())))
    }

    /// What a command in here prints.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        run(self.command(program).args(args), "")
    }

    /// Does something on a thread in here. Sockets that it opens stay in here, whoever uses them.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || self.enter().and_then(|()| act());
        thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| anyhow!("panic in {}", self.name))?
    }

    /// Moves the calling thread in here, for good.
    pub fn enter(&self) -> Result<()> {
        let file = File::open(Path::new(FOLDER).join(&self.name))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "delete", &self.name]), "") {
            eprintln!("{} stays: {error:#}", self.name);
        }
    }
}

/// Runs a command that must succeed, and returns what it printed.
pub fn run(command: &mut Command, input: &str) -> Result<String> {
    use std::io::Write as _;
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    // Dropped at once, so that the command sees the end of its input.
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{input}", complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Removes what runs that were killed left behind: their programs and namespaces.
fn sweep() {
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| is_left_over(name)) {
        let pids = run(Command::new("ip").args(["netns", "pids", &name]), "").unwrap_or_default();
        for pid in pids.lines().filter_map(|line| line.trim().parse().ok()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        drop(Namespace { name });
    }
}

fn is_left_over(name: &str) -> bool {
    let mut parts = name.split('-');
    let owner = (parts.next() == Some(PREFIX)).then(|| parts.next()).flatten();
    owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}
