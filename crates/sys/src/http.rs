//! Blocking HTTP GET client for servers on this machine: the metadata server and its fakes.
//!
//! The only module that uses `ureq`. No request goes through a proxy, whatever `http_proxy` says: a
//! metadata server that is reached through a proxy answers for the proxy's machine. No redirect is
//! followed, for the same reason. Every request has one time limit, from the name lookup to the
//! last byte.

use std::fmt;
use std::io;
use std::time::Duration;

use ureq::Agent;

/// Largest response body that is read, in bytes. The metadata keys that spotkeep reads are under
/// 100 bytes; the limit is for any other server at that address.
pub const MAX_BODY: u64 = 64 * 1024;

/// Time limit of a connection. A server on this machine, or one hop away, needs under 1 ms.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// A server's response, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status, redirects included.
    pub status: u16,
    /// The headers in order of arrival, names in lower case. Values that are not visible ASCII are
    /// left out.
    pub headers: Vec<(String, String)>,
    /// The body, at most [`MAX_BODY`] bytes.
    pub body: Vec<u8>,
}

impl Reply {
    /// Returns the first header of this name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns the `ETag` as it was sent: it is opaque and compared byte by byte.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        self.header("etag")
    }

    /// Returns the body as trimmed text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// Reason why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, no route, no such host.
    Connect(String),
    /// The time limit passed first.
    Timeout,
    /// The connection ended before the response did.
    Reset(String),
    /// The response is larger than [`MAX_BODY`].
    TooLarge,
    /// The response is not HTTP, or the request is not valid.
    Protocol(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "no connection: {why}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Reset(why) => write!(f, "the connection broke: {why}"),
            Self::TooLarge => write!(f, "the answer is larger than {MAX_BODY} bytes"),
            Self::Protocol(why) => write!(f, "not an HTTP answer: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Sends requests, each over its own connection. Clones share a shutdown: see [`Client::shutdown`].
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// Creates a client without a proxy, without redirects, without persistent connections.
    #[must_use]
    pub fn new() -> Self {
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_LIMIT))
            // A persistent connection that the server has closed meanwhile looks like a reset. One
            // connection a minute costs less than distinguishing the two.
            .max_idle_connections(0)
            .max_response_header_size(16 * 1024)
            .input_buffer_size(8 * 1024)
            .output_buffer_size(4 * 1024)
            .build();
        Self {
            agent: config.new_agent(),
        }
    }

    /// Requests `url` and waits for the whole response, at most for `limit`. Any status is a
    /// response.
    ///
    /// # Errors
    /// There is no response; the [`Failure`] says why.
    pub fn get(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        limit: Duration,
    ) -> Result<Reply, Failure> {
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.config().timeout_global(Some(limit)).build();
        let (head, mut body) = request.call()?.into_parts();
        let headers = head
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect();
        Ok(Reply {
            status: head.status.as_u16(),
            headers,
            body: body.with_config().limit(MAX_BODY).read_to_vec()?,
        })
    }

    /// Ends the requests of this client and of its clones immediately, in every thread. All later
    /// requests fail.
    pub fn shutdown(self) {
        self.agent.shutdown();
    }
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        use ureq::{Error, Timeout};
        match error {
            Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                Self::Connect("it took too long".into())
            }
            Error::Timeout(_) => Self::Timeout,
            Error::HostNotFound | Error::ConnectionFailed => Self::Connect(error.to_string()),
            Error::BodyExceedsLimit(_) => Self::TooLarge,
            Error::Io(error) => match error.kind() {
                io::ErrorKind::TimedOut => Self::Timeout,
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => Self::Reset(error.to_string()),
                // Refused, no route, and lookups, whose errors have no separate kind.
                _ => Self::Connect(error.to_string()),
            },
            _ => Self::Protocol(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testing::http::{Act, FakeServer, unused_address};
    use testing::wait::FOREVER;

    fn get(server: &FakeServer) -> Result<Reply, Failure> {
        Client::new().get(&format!("http://{}/x", server.address()), &[], FOREVER)
    }

    #[test]
    fn an_answer_keeps_its_status_its_headers_and_its_body() {
        let server = FakeServer::start(|asked| {
            assert!(asked.head.contains("metadata-flavor: Google"));
            Act::answer(503, "a1b2", " TRUE\n")
        });
        let url = format!("http://{}/x?y=1", server.address());
        let reply = Client::new()
            .get(&url, &[("metadata-flavor", "Google")], FOREVER)
            .unwrap();
        assert_eq!(reply.status, 503);
        assert_eq!(reply.etag(), Some("a1b2"));
        assert_eq!(reply.text(), "TRUE");
        assert_eq!(server.asked(), ["/x?y=1"]);
    }

    #[test]
    fn a_redirect_is_an_answer_and_is_not_followed() {
        let server =
            FakeServer::start(|_| Act::raw("HTTP/1.1 302 Found\r\nLocation: /y\r\n\r\n".into()));
        assert_eq!(get(&server).unwrap().status, 302);
        assert_eq!(server.asked(), ["/x"]);
    }

    #[test]
    fn each_failure_to_answer_has_a_variant() {
        let reset = get(&FakeServer::start(|_| Act::Reset));
        assert!(matches!(reset, Err(Failure::Reset(_))), "{reset:?}");

        let cut = get(&FakeServer::start(|_| {
            Act::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nTR".into())
        }));
        assert!(matches!(cut, Err(Failure::Reset(_))), "{cut:?}");

        let garbage = get(&FakeServer::start(|_| Act::raw("SSH-2.0-x\r\n\r\n".into())));
        assert!(matches!(garbage, Err(Failure::Protocol(_))), "{garbage:?}");

        let huge = "x".repeat(usize::try_from(MAX_BODY).unwrap() + 1);
        let huge = get(&FakeServer::start(move |_| Act::answer(200, "1", &huge)));
        assert_eq!(huge, Err(Failure::TooLarge));

        let url = format!("http://{}/", unused_address());
        let refused = Client::new().get(&url, &[], FOREVER);
        assert!(matches!(refused, Err(Failure::Connect(_))), "{refused:?}");

        let url = format!("http://{}/", FakeServer::start(|_| Act::Reset).address());
        let nonsense = Client::new().get(&url, &[("a b", "c")], FOREVER);
        assert!(
            matches!(nonsense, Err(Failure::Protocol(_))),
            "{nonsense:?}"
        );
    }

    #[test]
    fn a_silent_server_delays_until_the_limit_and_no_longer() {
        let server = FakeServer::start(|_| Act::Silence);
        let url = format!("http://{}/", server.address());
        let answer = Client::new().get(&url, &[], Duration::from_millis(50));
        assert_eq!(answer, Err(Failure::Timeout));
    }

    #[test]
    fn a_server_that_stops_in_the_body_delays_until_the_limit_and_no_longer() {
        let server = FakeServer::start(|_| {
            Act::Stall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nTR".to_vec())
        });
        let url = format!("http://{}/", server.address());
        let answer = Client::new().get(&url, &[], Duration::from_millis(50));
        assert_eq!(answer, Err(Failure::Timeout));
    }

    #[test]
    fn a_shutdown_ends_a_request_that_waits() {
        let server = FakeServer::start(|_| Act::Silence);
        let client = Client::new();
        let (url, same) = (format!("http://{}/", server.address()), client.clone());
        let waiting = std::thread::spawn(move || same.get(&url, &[], FOREVER));
        server.wait_for(1);
        client.shutdown();
        let answer = waiting.join().unwrap();
        assert!(answer.is_err_and(|failure| failure != Failure::Timeout));
    }
}
