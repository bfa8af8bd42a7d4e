//! An HTTP/1.1 server on loopback that passes requests to a handler, and ends when dropped.

use std::collections::HashMap;
use std::io::{self, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::wire::{Request, read_request};
use sys::error::{Context as _, Result, ensure};

/// Answers the requests of a [`Server`], from many threads.
pub trait Handler: Send + Sync + 'static {
    /// Called when a request has arrived, before it is read; `false` resets the connection.
    fn admit(&self) -> bool {
        true
    }
    /// Answers one request. It may hold the request open, and must return soon after
    /// [`Self::stop`].
    ///
    /// # Errors
    /// The connection is closed.
    fn answer(&self, request: &Request, reply: Reply<'_>) -> io::Result<()>;
    /// Called when the server ends; the handler must answer the requests that it holds.
    fn stop(&self) {}
}

/// A server on `127.0.0.1`; it ends when dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    handler: Arc<dyn Handler>,
    stopping: AtomicBool,
    next: AtomicU64,
    live: Mutex<HashMap<u64, TcpStream>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.address)
    }
}

impl Server {
    /// Starts a server on a port of loopback; 0 is any free port.
    ///
    /// # Errors
    /// The port or a thread is not available.
    pub fn start(name: &str, port: u16, handler: Arc<dyn Handler>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("cannot listen on loopback for the fake {name} server"))?;
        let address = listener.local_addr()?;
        ensure!(address.ip().is_loopback(), "{address} is not loopback");
        let shared = Arc::new(Shared {
            handler,
            stopping: AtomicBool::new(false),
            next: AtomicU64::new(0),
            live: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("{name}-accept"))
            .spawn(move || accepting.accept(&listener))
            .context("cannot start a server thread")?;
        Ok(Self { address, shared })
    }

    /// Returns the address, `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.handler.stop();
        for stream in self.shared.live().values() {
            stream.shutdown(std::net::Shutdown::Both).ok();
        }
        // Wakes the accepting thread, which then ends.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<u64, TcpStream>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let shared = Arc::clone(self);
            // Without a thread, the connection is dropped, and the client sees a reset.
            std::thread::Builder::new()
                .stack_size(256 * 1024)
                .spawn(move || shared.connection(&stream))
                .ok();
        }
    }

    fn connection(&self, stream: &TcpStream) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if let Ok(clone) = stream.try_clone() {
            self.live().insert(id, clone);
        }
        // Checked after the insertion: a stop either finds this connection in the map, or is seen
        // here.
        if !self.stopping.load(Ordering::SeqCst) {
            // The client may close the connection at any time.
            self.serve(stream).ok();
        }
        self.live().remove(&id);
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        while !self.stopping.load(Ordering::SeqCst) {
            if reader.buffer().is_empty() && stream.peek(&mut [0])? == 0 {
                return Ok(());
            }
            if !self.handler.admit() {
                // Closing with unread bytes makes the kernel send a reset.
                return Ok(());
            }
            let request = read_request(&mut reader)?;
            let reply = Reply {
                stream,
                head_only: request.method == "HEAD",
            };
            self.handler.answer(&request, reply)?;
        }
        Ok(())
    }
}

/// The destination of one answer.
#[derive(Debug)]
pub struct Reply<'a> {
    stream: &'a TcpStream,
    head_only: bool,
}

impl<'a> Reply<'a> {
    /// Sends a whole answer.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn send(self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        let mut bytes = head(status, headers);
        bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
        if !self.head_only {
            bytes.extend_from_slice(body);
        }
        let mut stream = self.stream;
        stream.write_all(&bytes)
    }

    /// Begins an answer in pieces.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn stream(self, status: u16, headers: &[(&str, &str)]) -> io::Result<Pieces<'a>> {
        let mut bytes = head(status, headers);
        bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        let mut stream = self.stream;
        stream.write_all(&bytes)?;
        Ok(Pieces { stream })
    }
}

/// An answer that is sent in pieces.
#[derive(Debug)]
pub struct Pieces<'a> {
    stream: &'a TcpStream,
}

impl Pieces<'_> {
    /// Sends one piece at once.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn write(&mut self, text: &str) -> io::Result<()> {
        let piece = format!("{:x}\r\n{text}\r\n", text.len());
        self.stream.write_all(piece.as_bytes())
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn finish(mut self) -> io::Result<()> {
        self.write("")
    }
}

fn head(status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
