//! The control socket: for its owner only, one line in, one line out.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::protocol::{Reply, Request};
use sys::error::{Context as _, Result};
use sys::socket::owner_at;
use sys::thread;

/// A request is a short line; the longest holds a text to be typed.
const REQUEST_MAX: u64 = 1 << 20;

/// A client that says nothing for so long is gone.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long an ending keeper waits until its last answers are written.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// Where an answer goes; dropped unanswered, the client is told that the keeper ended.
pub type ReplyTo = Sender<Reply>;

/// The socket, for as long as the keeper lives.
#[derive(Debug)]
pub struct Listening {
    path: PathBuf,
    /// Clients that have not been answered yet.
    clients: Arc<(Mutex<usize>, Condvar)>,
}

impl Listening {
    /// Takes nobody new, and waits a moment until those who have an answer coming have it.
    pub fn close(self) {
        fs::remove_file(&self.path).ok();
        let (count, changed) = &*self.clients;
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = changed.wait_timeout_while(count, CLOSE_LIMIT, |count| *count > 0);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Listens on `path`, and hands every request to `deliver`, with the user who asks, each in a thread of its own.
///
/// The lock on the data directory is held by whoever calls, so a socket that is there already is stale.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(
    path: &Path,
    deliver: impl Fn(Request, u32, ReplyTo) + Clone + Send + 'static,
) -> Result<Listening> {
    fs::remove_file(path).ok();
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let clients: Arc<(Mutex<usize>, Condvar)> = Arc::default();
    let counted = Arc::clone(&clients);
    thread::spawn("socket", move || {
        for stream in listener.incoming().flatten() {
            let (deliver, client) = (deliver.clone(), Client::enter(&counted));
            // A thread that cannot be had drops the connection, and the client says so.
            thread::spawn_with_stack("client", 256 << 10, move || {
                if let Err(error) = serve(&stream, deliver) {
                    tracing::debug!("client: {error:#}");
                }
                drop(client);
            })
            .ok();
        }
    })
    .context("cannot start the socket thread")?;
    Ok(Listening {
        path: path.to_path_buf(),
        clients,
    })
}

/// Counts one client from its connection to its answer.
struct Client(Arc<(Mutex<usize>, Condvar)>);

impl Client {
    fn enter(clients: &Arc<(Mutex<usize>, Condvar)>) -> Self {
        *clients.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(Arc::clone(clients))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.1.notify_all();
    }
}

fn serve(stream: &UnixStream, deliver: impl Fn(Request, u32, ReplyTo)) -> Result<()> {
    let Some(user) = owner_at(stream) else {
        return Ok(());
    };
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(stream)
        .take(REQUEST_MAX)
        .read_line(&mut line)?;
    let reply = match serde_json::from_str(&line).context("the keeper does not know this request") {
        Ok(request) => {
            let (reply_to, reply) = mpsc::channel();
            deliver(request, user, reply_to);
            reply.recv().context("the keeper is ending")?
        }
        Err(error) => Reply::from(Err(error)),
    };
    let mut answer = serde_json::to_string(&reply)?;
    answer.push('\n');
    (&*stream).write_all(answer.as_bytes())?;
    Ok(())
}
