//! An HTTP/1.1 client for loopback, with one connection for each request.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use super::wire::{body_of, read_headers, read_line};

/// A response whose head is read; the body is read line by line.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case.
    pub headers: HashMap<String, String>,
    body: BufReader<Box<dyn Read>>,
}

impl Response {
    /// Reads the next line of the body, without its line break; `None` at the end.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        if self.body.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(line.trim_end().to_owned()))
    }

    /// Reads the rest of the body.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn text(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.body.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Sends a request to `http://127.0.0.1:PORT/...` on a new connection.
///
/// # Errors
/// The host is not loopback, or the connection fails.
pub fn send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| io::Error::other(format!("{url} is not a plain http address")))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address = host
        .replace("localhost", "127.0.0.1")
        .parse::<SocketAddr>()
        .map_err(|_| io::Error::other(format!("{host} is not an address with a port")))?;
    if address.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
        return Err(io::Error::other(format!("{host} is not loopback")));
    }
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let path = if path.is_empty() { "/" } else { path };
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    bytes.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(bytes.as_bytes())?;
    stream.write_all(body)?;
    let mut reader = BufReader::new(stream);
    let status = read_line(&mut reader)?
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::other("not an HTTP response"))?;
    let headers = read_headers(&mut reader)?;
    Ok(Response {
        status,
        body: BufReader::new(body_of(reader, &headers, true)),
        headers,
    })
}
