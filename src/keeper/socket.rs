//! Server of the control socket: only its owner may connect; one request and one reply per
//! connection.

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

/// The longest request; the longest ones contain a text to type.
const REQUEST_MAX: u64 = 1 << 20;

/// The timeout for reading a request and for writing a reply.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a keeper that ends waits until its last replies are written.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// The sender for a reply; if it is dropped unused, the client gets an error: the keeper is ending.
pub type ReplyTo = Sender<Reply>;

/// The open control socket.
#[derive(Debug)]
pub struct Listening {
    path: PathBuf,
    /// Clients that have not been answered yet.
    clients: Arc<(Mutex<usize>, Condvar)>,
}

impl Listening {
    /// Accepts no more clients, and waits a moment until the pending replies are written.
    pub fn close(self) {
        fs::remove_file(&self.path).ok();
        let (count, changed) = &*self.clients;
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = changed.wait_timeout_while(count, CLOSE_LIMIT, |count| *count > 0);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Listens on `path` and passes every request to `deliver`, with the uid of the user who asks. Each
/// request has its own thread.
///
/// The caller holds the lock on the data directory, so a socket that already exists is stale.
///
/// # Errors
/// The socket cannot be created.
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
            // If no thread can be started, the connection is closed, and the client reports that.
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
