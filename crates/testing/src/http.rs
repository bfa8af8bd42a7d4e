//! A fake HTTP server on loopback for unit tests; a closure chooses each answer or fault.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::wait::during;

/// A request: its number, from 0, its path and its head.
#[derive(Debug)]
pub struct Asked {
    pub number: usize,
    pub path: String,
    pub head: String,
}

/// The answer to a request, or a fault.
#[derive(Debug)]
pub enum Act {
    /// Send these bytes and close.
    Raw(Vec<u8>),
    /// Send these bytes, then nothing, until the client gives up.
    Stall(Vec<u8>),
    /// Answer nothing until the client gives up.
    Silence,
    /// Reset the connection.
    Reset,
}

impl Act {
    pub fn raw(text: String) -> Self {
        Self::Raw(text.into_bytes())
    }

    pub fn answer(status: u16, etag: &str, body: &str) -> Self {
        Self::raw(format!(
            "HTTP/1.1 {status} Status\r\nETag: {etag}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        ))
    }
}

#[derive(Debug, Default)]
struct Log {
    paths: Mutex<Vec<String>>,
    grew: Condvar,
}

/// The server; it ends with the test process.
#[derive(Debug)]
pub struct FakeServer {
    address: SocketAddr,
    log: Arc<Log>,
}

impl FakeServer {
    /// Serves each connection in its own thread, so that `act` may block.
    pub fn start(act: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", act)
    }

    pub fn start_at(address: &str, act: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Log::default());
        let (act, shared) = (Arc::new(act), Arc::clone(&log));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (act, log) = (Arc::clone(&act), Arc::clone(&shared));
                thread::spawn(move || serve(stream.unwrap(), &*act, &log));
            }
        });
        Self { address, log }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The paths of the requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.log.paths.lock().unwrap().clone()
    }

    /// Waits until there have been this many requests.
    pub fn wait_for(&self, requests: usize) {
        let paths = self.log.paths.lock().unwrap();
        let came = during(&format!("request {requests}"), || {
            let grew = &self.log.grew;
            grew.wait_while(paths, |paths| paths.len() < requests)
        });
        drop(came.unwrap());
    }
}

fn serve(mut stream: TcpStream, act: &dyn Fn(&Asked) -> Act, log: &Log) {
    // The last byte is left unread, because closing a connection with unread bytes resets it.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let number = {
        let mut paths = log.paths.lock().unwrap();
        paths.push(path.clone());
        log.grew.notify_all();
        paths.len() - 1
    };
    // A client that has closed the connection is not an error of the server.
    match act(&Asked { number, path, head }) {
        Act::Raw(bytes) => {
            drop(stream.read(&mut [0]));
            drop(stream.write_all(&bytes));
        }
        Act::Stall(bytes) => {
            drop(stream.write_all(&bytes));
            drop(stream.read_to_end(&mut Vec::new()));
        }
        Act::Silence => drop(stream.read_to_end(&mut Vec::new())),
        Act::Reset => {}
    }
}

/// A loopback address without a listener: other tests take their ports from 127.0.0.1.
pub fn unused_address() -> String {
    let listener = TcpListener::bind("127.77.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
