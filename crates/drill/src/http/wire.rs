//! Parses HTTP/1.1 requests, headers and bodies.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

/// The longest request or header line, in bytes.
const LINE_LIMIT: u64 = 16 * 1024;
/// The longest body, in bytes: ten times the largest conversation that was measured.
const BODY_LIMIT: u64 = 512 * 1024 * 1024;
/// The maximum number of headers in a message.
const HEADER_LIMIT: usize = 200;

/// A whole request.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST` ...
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// The query as `name=value` pairs, not decoded: the clients here use no escapes.
    pub query: Vec<(String, String)>,
    /// Header names in lower case.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// Returns the value of a query parameter.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&str> {
        let pair = self.query.iter().find(|(key, _)| key == name)?;
        Some(&pair.1)
    }
}

pub(super) fn read_request(reader: &mut impl BufRead) -> io::Result<Request> {
    let line = read_line(reader)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::Error::other("not an HTTP request"));
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = read_headers(reader)?;
    let mut body = Vec::new();
    body_of(reader, &headers, false).read_to_end(&mut body)?;
    Ok(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        headers,
        body,
    })
}

pub(super) fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.take(LINE_LIMIT).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

pub(super) fn read_headers(reader: &mut impl BufRead) -> io::Result<HashMap<String, String>> {
    let mut headers = HashMap::new();
    for _ in 0..HEADER_LIMIT {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok(headers);
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    Err(io::Error::other("too many headers"))
}

/// Returns a reader of the body. Without a length, a request has no body, and a response has one up
/// to the end of the connection.
pub(super) fn body_of<'a, R: BufRead + 'a>(
    reader: R,
    headers: &HashMap<String, String>,
    to_the_end: bool,
) -> Box<dyn Read + 'a> {
    let chunked = headers
        .get("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    if chunked {
        return Box::new(Chunked { reader, left: 0 });
    }
    let length = headers.get("content-length").and_then(|n| n.parse().ok());
    let rest = if to_the_end { BODY_LIMIT } else { 0 };
    Box::new(reader.take(length.unwrap_or(rest).min(BODY_LIMIT)))
}

/// Decodes a chunked body.
struct Chunked<R> {
    reader: R,
    /// The number of bytes left in the current chunk.
    left: u64,
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let line = read_line(&mut self.reader)?;
            let size = line.split(';').next().unwrap_or_default();
            self.left = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            if self.left == 0 {
                read_line(&mut self.reader)?;
                return Ok(0);
            }
        }
        let count = (&mut self.reader).take(self.left).read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        if self.left == 0 {
            read_line(&mut self.reader)?;
        }
        Ok(count)
    }
}
