//! Asking the keeper.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::protocol::{Reply, Request};
use super::runtime_dir::{self, Holder};
use super::status::Status;
use state::layout::Root;
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::thread;

/// The keeper answers within milliseconds; this is for a machine that is on its knees.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the keeper of a root; `None` if none runs, or if it ends rather than answer.
///
/// # Errors
/// It runs and does not answer in time, or says that it cannot.
pub fn ask(root: &Root, request: &Request, patience: Duration) -> Result<Option<Value>> {
    let Some(holder) = Holder::of(root) else {
        return Ok(None);
    };
    ask_at(
        &runtime_dir::socket(&holder.runtime),
        holder.pid,
        request,
        patience,
    )
}

/// How everything stands at a root whose disk is away, as the keeper that still runs for it says over
/// its socket, which is elsewhere. `None` where no keeper says that this is its root.
///
/// # Errors
/// None says so, and some keeper did not answer: it may be the one.
pub fn status_without_root(dir: &Path) -> Result<Option<Status>> {
    let (tell, told) = mpsc::channel();
    // All at once: those of other roots are asked too, and need not be well.
    for socket in runtime_dir::sockets() {
        let tell = tell.clone();
        let ask = move || {
            let answer = ask_at(&socket, 0, &Request::Status, PATIENCE);
            tell.send((socket, answer)).ok();
        };
        thread::spawn("ask", ask).context("cannot start a thread that asks a keeper")?;
    }
    drop(tell);
    let mut silent = None;
    for (socket, answer) in told {
        match answer {
            Ok(data) => {
                let status: Option<Status> =
                    data.and_then(|data| serde_json::from_value(data).ok());
                if let Some(status) = status.filter(|status| status.root == dir) {
                    return Ok(Some(status));
                }
            }
            Err(_) => silent = Some(socket),
        }
    }
    match silent {
        None => Ok(None),
        Some(socket) => Err(anyhow!(
            "the keeper at {} does not answer, and may be the one of this root",
            socket.display()
        ))
        .hint("try again in a minute; the keepers that run: pgrep -a spotkeep"),
    }
}

/// The directories in which it shows that something has changed: records, the journal, saves, and what
/// Claude says of itself. To be watched; what shows in none of them has to be asked for.
#[must_use]
pub fn places_of_change(root: &Root) -> [PathBuf; 4] {
    [
        root.session_state(),
        root.records(),
        root.saves(),
        claude::session_file::sessions_dir(&root.claude()),
    ]
}

fn ask_at(socket: &Path, pid: u32, request: &Request, patience: Duration) -> Result<Option<Value>> {
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
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream
        .write_all(line.as_bytes())
        .context("cannot reach the keeper")?;
    let mut answer = String::new();
    let read = BufReader::new(stream).read_line(&mut answer);
    // It ended instead of answering, which is for us as if it had ended before.
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
        serde_json::from_str(&answer).context("the keeper speaks another version")?;
    reply.into_result().map(Some)
}
