//! Client of the keeper's control socket: one function per request.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::protocol::{Reply, Request};
use super::runtime_dir::{self, Holder};
use super::status::Status;
use state::layout::DataDir;
use state::{AgentName, Desired, Fleet, Manifest};
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::thread;

/// The timeout of a request. The keeper answers within milliseconds, later on an overloaded
/// machine.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of a save, which has its own deadline.
const SAVE_LIMIT: Duration = Duration::from_secs(180);

/// The timeout of typing: the keeper types one text after another, each up to half a minute.
const TYPING_LIMIT: Duration = Duration::from_secs(120);

/// The keeper's answer; `None`: no keeper runs, or it ended before it answered. An error: it did
/// not answer in time, has another version, or refused the request.
pub type Answer<T> = Result<Option<T>>;

/// Returns the fleet's status.
pub(crate) fn status(data_dir: &DataDir, timeout: Duration) -> Answer<Status> {
    read(ask(data_dir, &Request::Status, timeout)?)
}

/// Returns the keeper's metrics, for Prometheus.
pub(crate) fn metrics(data_dir: &DataDir) -> Answer<String> {
    read(ask(data_dir, &Request::Metrics, TIMEOUT)?)
}

/// Starts or stops agents.
pub(crate) fn want(data_dir: &DataDir, names: &[AgentName], desired: Desired) -> Answer<()> {
    let names = names.to_vec();
    order(data_dir, &Request::Want { names, desired })
}

/// Restarts agents; `when_idle`: each at its next idle moment; `canary`: one of them first.
pub(crate) fn restart(
    data_dir: &DataDir,
    names: &[AgentName],
    when_idle: bool,
    canary: bool,
) -> Answer<()> {
    let request = Request::Restart {
        names: names.to_vec(),
        when_idle,
        canary,
    };
    order(data_dir, &request)
}

/// Sets whether the fleet is up or down.
pub(crate) fn set_fleet(data_dir: &DataDir, desired: Fleet) -> Answer<()> {
    order(data_dir, &Request::Fleet { desired })
}

/// Makes the keeper read `spotkeep.toml` again. `ends`: the running agents that may end because of
/// it.
///
/// # Errors
/// A keeper runs and does not answer in time; the file is not valid, or would end other agents.
pub fn reload(data_dir: &DataDir, ends: Vec<AgentName>) -> Answer<()> {
    order(data_dir, &Request::Reload { ends })
}

/// Types a text into an agent; `when_idle`: only while it is idle.
pub(crate) fn send(
    data_dir: &DataDir,
    name: &AgentName,
    text: &str,
    when_idle: bool,
) -> Answer<()> {
    let request = Request::Send {
        name: name.clone(),
        text: text.to_owned(),
        when_idle,
    };
    Ok(ask(data_dir, &request, TYPING_LIMIT)?.map(drop))
}

/// Saves the fleet; `unit`: the request comes from the systemd unit that runs at shutdown.
pub(crate) fn save(data_dir: &DataDir, is_final: bool, unit: bool) -> Answer<Manifest> {
    read(ask(
        data_dir,
        &Request::Save { is_final, unit },
        SAVE_LIMIT,
    )?)
}

/// Reports that this boot goes on after its notice.
pub(crate) fn survived(data_dir: &DataDir) -> Answer<()> {
    order(data_dir, &Request::Survived)
}

/// Reports that the command line has rolled a workspace back.
pub(crate) fn rolled_back(
    data_dir: &DataDir,
    name: &AgentName,
    to: String,
    undo: Option<String>,
) -> Answer<()> {
    let name = name.clone();
    order(data_dir, &Request::RolledBack { name, to, undo })
}

fn order(data_dir: &DataDir, request: &Request) -> Answer<()> {
    Ok(ask(data_dir, request, TIMEOUT)?.map(drop))
}

fn read<T: DeserializeOwned>(data: Option<Value>) -> Answer<T> {
    data.map(serde_json::from_value)
        .transpose()
        .context("the keeper has another version of spotkeep")
}

fn ask(data_dir: &DataDir, request: &Request, timeout: Duration) -> Answer<Value> {
    let Some(holder) = Holder::read(data_dir) else {
        return Ok(None);
    };
    let socket = runtime_dir::socket(&holder.runtime);
    ask_at(&socket, holder.pid, request, timeout)
}

/// Returns the status of a data directory whose disk is missing, from the keeper that still runs
/// for it: its socket is not on that disk. `None`: no keeper reports this data directory as its
/// own.
///
/// # Errors
/// No keeper reports it, and some keeper did not answer, which may be the one.
pub fn status_without_data_dir(dir: &Path) -> Result<Option<Status>> {
    let (results, answers) = mpsc::channel();
    // All at once: keepers of other data directories are asked too, and one of them may hang.
    for socket in runtime_dir::sockets() {
        let results = results.clone();
        let ask = move || {
            let answer = ask_at(&socket, 0, &Request::Status, TIMEOUT);
            results.send((socket, answer)).ok();
        };
        thread::spawn("ask", ask).context("cannot start a thread that asks a keeper")?;
    }
    drop(results);
    let mut silent = None;
    for (socket, answer) in answers {
        match answer {
            Ok(data) => {
                let status: Option<Status> =
                    data.and_then(|data| serde_json::from_value(data).ok());
                if let Some(status) = status.filter(|status| status.data_dir == dir) {
                    return Ok(Some(status));
                }
            }
            Err(_) => silent = Some(socket),
        }
    }
    match silent {
        None => Ok(None),
        Some(socket) => Err(anyhow!(
            "the keeper at {} does not answer, and may be the one of this data directory",
            socket.display()
        ))
        .hint("try again in a minute; the keepers that run: pgrep -a spotkeep"),
    }
}

/// Returns the directories to watch for changes of the status: session state, records, saves, and
/// Claude Code's session files. Changes that show in none of them need a request.
#[must_use]
pub fn watched_dirs(data_dir: &DataDir) -> [PathBuf; 4] {
    [
        data_dir.session_state(),
        data_dir.records(),
        data_dir.saves(),
        claude::session_file::sessions_dir(&data_dir.claude()),
    ]
}

fn ask_at(socket: &Path, pid: u32, request: &Request, timeout: Duration) -> Result<Option<Value>> {
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error).context("cannot reach the keeper"),
    };
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream
        .write_all(line.as_bytes())
        .context("cannot reach the keeper")?;
    let mut answer = String::new();
    let read = BufReader::new(stream).read_line(&mut answer);
    // A keeper that ended instead of answering counts as one that does not run.
    let is_gone = match &read {
        Ok(bytes) => *bytes == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    };
    if is_gone {
        return Ok(None);
    }
    read.with_context(|| format!("the keeper (pid {pid}) does not answer"))
        .hint(format!(
            "kill {pid}; agents go on without it, then: spotkeep up"
        ))?;
    let reply: Reply =
        serde_json::from_str(&answer).context("the keeper has another version of spotkeep")?;
    reply.into_result().map(Some)
}
