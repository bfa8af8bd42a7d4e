//! spotkeep's own tmux server, with its own socket and one session per agent.
//!
//! The user's own tmux is never touched. The socket is outside the data directory, the
//! configuration is spotkeep's (`-f`), and the server outlives the keeper: it is the screen and the
//! parent process of the agents. The data directory stores nothing about it.

pub mod output;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use state::AgentName;
use sys::command;
use sys::command::Output;
use sys::error::{Context as _, Error, Hint as _, Result, anyhow, bail, ensure};
use sys::exit::Exit;
use sys::files;
use sys::process::{self, ProcessId};

/// The timeout of a tmux command: it takes about 6 ms, and much longer on a machine under load.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a server may take that systemd starts or restarts.
const UNIT_LIMIT: Duration = Duration::from_secs(5);

const INSTALL: &str = "install tmux (3.2 or newer), for example: sudo apt-get install tmux";

/// The first and the longest pause between two checks whether tmux has noticed the end of a pane's
/// process: it does within some 10 ms, and a machine under load should not get more load.
const REAP_PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(320));

/// How often in a row tmux may fail to answer, each time for [`LIMIT`].
const SILENT_MAX: u32 = 6;

/// The server's configuration. Agents do not start in a tiny terminal, and a detached session has
/// this size. `remain-on-exit` keeps the exit status and the last screen.
const CONFIGURATION: &str = "\
set -g default-size 200x50
set -g remain-on-exit on
set -g history-limit 20000
set -g exit-empty off
set -g destroy-unattached off
set -g update-environment ''
set -g default-terminal 'tmux-256color'
set -g focus-events on
set -s escape-time 10
set -g mouse on
set -g status-left '[#S] '
set -g status-right 'spotkeep '
set -g set-titles on
set -g set-titles-string '#S'
";

/// spotkeep's tmux server.
#[derive(Debug, Clone)]
pub struct Tmux {
    socket: PathBuf,
    configuration: PathBuf,
    /// Whether a separate systemd unit runs the server: it is waited for, and never started from
    /// here.
    by_unit: bool,
}

impl Tmux {
    /// Returns the server whose socket is in `runtime`. It need not run.
    #[must_use]
    pub fn new(runtime: &Path) -> Self {
        Self {
            socket: runtime.join("tmux.sock"),
            configuration: runtime.join("tmux.conf"),
            by_unit: false,
        }
    }

    /// Returns the same server, run by a separate systemd unit. A server that the keeper starts
    /// would be in the keeper's cgroup, and end with it.
    #[must_use]
    pub fn kept_by_its_unit(self) -> Self {
        Self {
            by_unit: true,
            ..self
        }
    }

    /// Starts the server if it does not run, or waits for one that a unit runs.
    ///
    /// # Errors
    /// tmux is not installed, or cannot listen on its socket; the unit's server does not come.
    pub fn ensure_server(&self) -> Result<()> {
        if !self.by_unit {
            self.configure()?;
            self.tmux(&["start-server"])?;
            return Ok(());
        }
        let until = Instant::now() + UNIT_LIMIT;
        while self.server_pid().is_none() {
            if Instant::now() >= until {
                return Err(anyhow!("the tmux server of the agents does not run"))
                    .hint("sudo systemctl start spotkeep-tmux.service");
            }
            // systemd does not report when another unit's socket exists.
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Replaces this process by the server, in the foreground. Returns only on an error.
    #[must_use]
    pub fn become_server(&self) -> Error {
        use std::os::unix::process::CommandExt as _;
        if let Err(error) = self.configure() {
            return error;
        }
        let mut command = self.command();
        command.arg("-D");
        // These describe this unit; programs that agents start would take them for their own.
        for variable in [
            "INVOCATION_ID",
            "JOURNAL_STREAM",
            "SYSTEMD_EXEC_PID",
            "RUNTIME_DIRECTORY",
        ] {
            command.env_remove(variable);
        }
        let error = anyhow!(command.exec()).context("cannot run tmux");
        error.hint(INSTALL)
    }

    fn configure(&self) -> Result<()> {
        // The file is written only if it differs, so that each of many starts need not wait for the
        // disk.
        let held = files::read_optional(&self.configuration)?;
        if held.as_deref() == Some(CONFIGURATION.as_bytes()) {
            return Ok(());
        }
        files::write_atomic(&self.configuration, CONFIGURATION.as_bytes())
    }

    /// Returns the server's pid; `None` where none runs.
    #[must_use]
    pub fn server_pid(&self) -> Option<i32> {
        let output = self.tmux(&["display-message", "-p", "#{pid}"]).ok()?;
        output.stdout.trim().parse().ok()
    }

    /// Runs a command in the agent's session and returns its process. The session is created if
    /// needed; a dead pane is used again, so that attached users stay attached.
    ///
    /// # Errors
    /// tmux refused, the agent's pane is alive, or the command ended at once: then with what it
    /// left on the screen.
    pub fn launch(&self, name: &AgentName, cwd: &Path, command: &[String]) -> Result<ProcessId> {
        let cwd = cwd.to_str().context("the workspace's path is not UTF-8")?;
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let target = pane(name);
        let mut arguments = match self.pane_is_dead(name)? {
            Some(false) => bail!("its tmux session is there and something runs in it"),
            Some(true) => vec!["respawn-pane", "-t", &target, "-c", cwd, "--"],
            None => vec![
                "new-session",
                "-d",
                "-s",
                name.as_str(),
                "-x",
                "200",
                "-y",
                "50",
                "-c",
                cwd,
                "--",
            ],
        };
        arguments.extend(&command);
        self.tmux(&arguments)?;
        let pid: i32 = self
            .display(name, "#{pane_pid}")?
            .parse()
            .context("tmux did not return the pid of the pane")?;
        match ProcessId::from_pid(pid) {
            Some(process) => Ok(process),
            None => {
                let ended = ProcessId { pid, start_time: 0 };
                let exit = self.exit_of(name, ended, || false);
                let output = self.last_output(name).unwrap_or_default();
                bail!("it ended at once: {exit} ({output})");
            }
        }
    }

    /// Returns how the process of an agent's pane ended, once tmux has noticed it: until then the
    /// exit status is unknown. `give_up` ends the wait.
    #[must_use]
    pub fn exit_of(
        &self,
        name: &AgentName,
        process: ProcessId,
        give_up: impl Fn() -> bool,
    ) -> Exit {
        let (mut pause, mut silent) = (REAP_PAUSES.0, 0);
        while !give_up() {
            match self.raw(&["display-message", "-p", "-t", &pane(name), output::EXIT]) {
                Ok(said) if said.status.success() => {
                    silent = 0;
                    if let Some(exit) = output::exit(said.stdout.trim_end(), process.pid) {
                        return exit;
                    }
                }
                Ok(_) => return Exit::Unseen, // The pane is gone, or the server.
                // A server that does not answer may still know the status.
                Err(_) if silent < SILENT_MAX => silent += 1,
                Err(_) => return Exit::Unseen,
            }
            self.remind_of_children();
            // tmux has no command that waits for a pane's end and outlives the pane.
            std::thread::sleep(pause);
            pause = (pause * 2).min(REAP_PAUSES.1);
        }
        Exit::Unseen
    }

    /// Sends SIGCHLD to the server, so that it reads the status of ended processes. Where tmux is
    /// built with utempter, as Debian does, it loses about one SIGCHLD in seven (measured on 3.3a;
    /// tmux issue 311), and the pane's process stays a zombie.
    fn remind_of_children(&self) {
        let server = self
            .server_pid()
            .and_then(|pid| ProcessId::from_pid(pid)?.open());
        if let Some(server) = server {
            server.signal(process::Signal::Child);
        }
    }

    /// Returns what an agent's pane shows.
    ///
    /// # Errors
    /// The agent has no pane.
    pub fn screen(&self, name: &AgentName) -> Result<String> {
        Ok(self
            .tmux(&["capture-pane", "-p", "-t", &pane(name)])?
            .stdout)
    }

    /// Returns what an agent's pane shows, with colours as escape sequences.
    ///
    /// # Errors
    /// The agent has no pane.
    pub fn coloured_screen(&self, name: &AgentName) -> Result<String> {
        Ok(self
            .tmux(&["capture-pane", "-e", "-p", "-t", &pane(name)])?
            .stdout)
    }

    /// Returns the pane with `lines` of its history, as `logs --raw` shows it. tmux's message about
    /// a dead pane pushes the first line of the screen into the history.
    ///
    /// # Errors
    /// The agent has no pane.
    pub fn history(&self, name: &AgentName, lines: u32) -> Result<String> {
        let start = format!("-{lines}");
        Ok(self
            .tmux(&["capture-pane", "-p", "-J", "-S", &start, "-t", &pane(name)])?
            .stdout)
    }

    /// Returns the last lines that an ended process left on the screen, joined to one.
    #[must_use]
    pub fn last_output(&self, name: &AgentName) -> Option<String> {
        output::last_output(&self.history(name, 50).ok()?)
    }

    /// Pastes a text into an agent's pane, without pressing Enter.
    ///
    /// # Errors
    /// The agent has no pane.
    pub fn paste(&self, name: &AgentName, text: &str) -> Result<()> {
        let buffer = format!("spotkeep-{name}");
        // A named buffer per agent keeps two pastes apart, and leaves other buffers alone. The text
        // goes through standard input, since an argument may have 128 KiB at most.
        let load = ["load-buffer", "-b", &buffer, "-"];
        let loaded = command::run_with_input(self.command().args(load), text.as_bytes(), LIMIT)
            .context("tmux did not answer")?;
        ensure!(
            loaded.status.success(),
            "tmux load-buffer: {}",
            loaded.stderr
        );
        self.tmux(&["paste-buffer", "-d", "-p", "-b", &buffer, "-t", &pane(name)])?;
        Ok(())
    }

    /// Presses Enter in an agent's pane.
    ///
    /// # Errors
    /// The agent has no pane.
    pub fn press_enter(&self, name: &AgentName) -> Result<()> {
        self.press(name, "Enter")
    }

    /// Presses Escape in an agent's pane.
    ///
    /// # Errors
    /// The agent has no pane.
    pub fn press_escape(&self, name: &AgentName) -> Result<()> {
        self.press(name, "Escape")
    }

    /// Presses a key in an agent's pane. It leaves tmux's copy mode first, which a user who scrolls
    /// is in and which would take the key.
    fn press(&self, name: &AgentName, key: &str) -> Result<()> {
        let pane = pane(name);
        let leave = ["copy-mode", "-q", "-t", &pane, ";"];
        self.tmux(&[&leave[..], &["send-keys", "-t", &pane, key]].concat())?;
        Ok(())
    }

    /// Removes an agent's session, with its last screen.
    pub fn close(&self, name: &AgentName) {
        // An error is ignored: the session may be gone already.
        self.tmux(&["kill-session", "-t", &format!("={name}")]).ok();
    }

    /// Ends the server, if it runs.
    pub fn end_server(&self) {
        self.tmux(&["kill-server"]).ok();
    }

    /// Returns the command that attaches a user to an agent's session, or to a chooser.
    #[must_use]
    pub fn attach_command(&self, name: Option<&AgentName>) -> Command {
        let mut command = self.command();
        // With these variables tmux refuses to run inside another tmux.
        command.env_remove("TMUX").env_remove("TMUX_PANE");
        match name {
            Some(name) => command.args(["attach-session", "-t", &format!("={name}")]),
            None => command.args(["attach-session", ";", "choose-tree", "-Zs"]),
        };
        command
    }

    /// Returns whether the process of an agent's pane has ended; `None`: there is no session of
    /// this name.
    ///
    /// # Errors
    /// tmux cannot be run.
    pub fn pane_is_dead(&self, name: &AgentName) -> Result<Option<bool>> {
        let listing = self.raw(&["list-panes", "-a", "-F", output::PANES])?;
        if !listing.status.success() {
            return Ok(None); // "no server running", or no sessions.
        }
        Ok(output::pane_is_dead(&listing.stdout, name))
    }

    fn display(&self, name: &AgentName, format: &str) -> Result<String> {
        Ok(self
            .tmux(&["display-message", "-p", "-t", &pane(name), format])?
            .stdout
            .trim_end()
            .to_owned())
    }

    fn tmux(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.raw(arguments)?;
        if !output.status.success() {
            bail!(
                "tmux {}: {}",
                arguments.first().unwrap_or(&""),
                output.stderr
            );
        }
        Ok(output)
    }

    fn raw(&self, arguments: &[&str]) -> Result<Output> {
        command::run(self.command().args(arguments), LIMIT)
            .context("tmux did not answer")
            .hint(INSTALL)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(&self.socket)
            .arg("-f")
            .arg(&self.configuration);
        if self.by_unit {
            command.arg("-N"); // No command starts a server.
        }
        command
    }

    /// Returns the path of the server's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// Returns tmux's target for the one pane of an agent's session; `=` makes tmux match the whole
/// name.
fn pane(name: &AgentName) -> String {
    format!("={name}:")
}

/// Checks that tmux is installed.
///
/// # Errors
/// tmux cannot be run.
pub fn ensure_installed() -> Result<()> {
    match command::run(Command::new("tmux").arg("-V"), LIMIT) {
        Ok(_) => Ok(()),
        Err(_) => Err(anyhow!("tmux is not installed")).hint("sudo apt-get install tmux"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Server(Tmux, tempfile::TempDir);

    impl Drop for Server {
        fn drop(&mut self) {
            self.0.end_server();
        }
    }

    fn server() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let tmux = Tmux::new(dir.path());
        tmux.ensure_server().unwrap();
        Server(tmux, dir)
    }

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn launch_returns_the_commands_pid_and_its_end_is_known_by_code_and_by_signal() {
        let Server(tmux, dir) = &server();
        let name = AgentName::new("a").unwrap();
        let run = |script: &str| {
            let process = tmux.launch(&name, dir.path(), &sh(script)).unwrap();
            let pidfd = process.open().unwrap();
            (process, pidfd)
        };
        let (process, pidfd) = run("read line; exit 3");
        tmux.paste(&name, "go").unwrap();
        tmux.press_enter(&name).unwrap();
        assert!(pidfd.wait(None));
        let exit_of = |process| tmux.exit_of(&name, process, || false);
        assert_eq!(exit_of(process), Exit::Code(3));
        let (process, pidfd) = run("echo here; exec tail -f /dev/null");
        while !tmux.screen(&name).unwrap().contains("here") {
            std::thread::yield_now();
        }
        assert_eq!(
            process.pid,
            tmux.display(&name, "#{pane_pid}")
                .unwrap()
                .parse::<i32>()
                .unwrap()
        );
        pidfd.signal(process::Signal::Kill);
        assert!(pidfd.wait(None));
        assert_eq!(exit_of(process), Exit::Signal(9));
        // tmux's message about the dead pane scrolls the screen by a line.
        assert!(tmux.history(&name, 10).unwrap().contains("here"));
    }

    #[test]
    fn a_session_whose_name_is_a_prefix_of_another_is_not_taken_for_it() {
        let Server(tmux, dir) = &server();
        let long = AgentName::new("agent-10").unwrap();
        tmux.launch(&long, dir.path(), &sh("exec tail -f /dev/null"))
            .unwrap();
        let short = AgentName::new("agent-1").unwrap();
        assert!(tmux.screen(&short).is_err());
        assert_eq!(tmux.pane_is_dead(&short).unwrap(), None);
        assert!(tmux.launch(&long, dir.path(), &sh("true")).is_err());
    }
}
