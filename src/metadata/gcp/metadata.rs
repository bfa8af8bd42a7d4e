//! HTTP client of the Compute Engine metadata server.
//!
//! Paths, header and parameters are those of Google's pages on querying VM metadata; the address is
//! the one that Google's own guest agent uses, a number, since names may no longer resolve while a
//! machine shuts down.

use std::env;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::request::{Answer, Request};
use sys::cloud_provider::{Choice, NOTICE_KEY, Provider};
use sys::deadline::Deadline;
use sys::error::{Context as _, Hint as _, Result, bail, ensure};
use sys::http::{Client, Failure, Reply};
use sys::loopback_only;
use sys::socket::LOOPBACK_VARIABLE;
use sys::time::parse_duration;

/// The address of the metadata server of a Compute Engine VM.
const DEFAULT_ADDRESS: &str = "169.254.169.254";

/// The environment variable with the address, as in Google's own libraries.
const ADDRESS_VARIABLE: &str = "GCE_METADATA_HOST";

/// Time limit for one key, retries included. The user or the keeper waits for it.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// Pause between two tries at a server that is under maintenance (503) or resets the connection.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// The longest notice of Compute Engine.
const LONGEST_NOTICE: Duration = Duration::from_secs(120);

/// A metadata server.
#[derive(Debug, Clone)]
pub struct Metadata {
    address: String,
    client: Client,
}

impl Metadata {
    /// Finds the server of this machine: the `configured` one, else `GCE_METADATA_HOST`, else, on
    /// Compute Engine only, the well-known address. `None` if there is none, or if the user
    /// declared that there is no cloud.
    ///
    /// # Errors
    /// As [`Metadata::new`].
    pub fn find(declared: Choice, configured: Option<&str>) -> Result<Option<Self>> {
        if declared == Choice::None {
            return Ok(None);
        }
        let provider = declared.resolve(Path::new("/"));
        let variable = env::var(ADDRESS_VARIABLE).ok();
        choose(provider, configured, variable.as_deref())
            .map(Self::new)
            .transpose()
    }

    /// The server at `address`: `HOST` or `HOST:PORT`.
    ///
    /// # Errors
    /// The address is invalid; or `SPOTKEEP_LOOPBACK_ONLY=1` is set, as it always is in spotkeep's
    /// own tests, and the address is not this machine's.
    pub fn new(address: &str) -> Result<Self> {
        check(address, loopback_only!())?;
        Ok(Self {
            address: address.to_owned(),
            client: Client::new(),
        })
    }

    /// The same server, with another client.
    pub(super) fn with_client(&self, client: Client) -> Self {
        let address = self.address.clone();
        Self { address, client }
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends `request`, which asks whether the preemption has begun, and waits for the answer.
    #[must_use]
    pub fn ask(&self, request: &Request) -> Answer {
        Answer::from_reply(self.get(&request.path_and_query(), request.limit()))
    }

    /// Whether the preemption of this machine has begun; `None` if the server does not know.
    /// Takes at most 5 s.
    ///
    /// # Errors
    /// No answer, or one that is neither TRUE nor FALSE.
    pub fn preempted(&self) -> Result<Option<bool>> {
        self.flag("instance/preempted")
    }

    /// Whether this machine may be preempted at all; `None` if the server does not know. Takes at
    /// most 5 s.
    ///
    /// # Errors
    /// No answer, or one that is neither TRUE nor FALSE.
    pub fn preemptible(&self) -> Result<Option<bool>> {
        self.flag("instance/scheduling/preemptible")
    }

    /// The length of the notice with which this VM was created, if its metadata has it;
    /// `spotkeep gcp` writes it. Compute Engine itself has no key for it. A longer one than its
    /// maximum of 120 s is cut to that. Takes at most 5 s.
    ///
    /// # Errors
    /// No answer, or one that is not a duration.
    pub fn notice_length(&self) -> Result<Option<Duration>> {
        let text = self.value(NOTICE_KEY)?;
        let length = text.map(|text| parse_duration(&text)).transpose()?;
        Ok(length.map(|length| length.min(LONGEST_NOTICE)))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(text) = self.value(key)? else {
            return Ok(None);
        };
        let flag = parse_flag(&text).with_context(|| {
            format!(
                "the metadata server at {} answered neither TRUE nor FALSE for {key}",
                self.address
            )
        })?;
        Ok(Some(flag))
    }

    /// Reads one key; `None` if the server does not have it.
    fn value(&self, key: &str) -> Result<Option<String>> {
        let deadline = Deadline::after(READ_LIMIT);
        loop {
            let answer = self.get(key, deadline.remaining().max(RETRY_EVERY));
            let passing = match &answer {
                Ok(reply) => reply.status == 503,
                Err(failure) => matches!(failure, Failure::Reset(_)),
            };
            if passing && deadline.remaining() > RETRY_EVERY {
                // No notice is missed meanwhile: the watch is separate, and the limit holds.
                thread::sleep(RETRY_EVERY);
                continue;
            }
            let asked = || {
                format!(
                    "cannot read {key} from the metadata server {}",
                    self.address
                )
            };
            let reply = answer.with_context(asked).hint(
                "on a machine that is not a Compute Engine VM, set provider = \"none\" under \
                 [cloud] in spotkeep.toml",
            )?;
            return match reply.status {
                200 => Ok(Some(reply.text())),
                404 => Ok(None),
                status => bail!("{}: it answered {status}", asked()),
            };
        }
    }

    fn get(&self, path: &str, limit: Duration) -> Result<Reply, Failure> {
        let url = format!("http://{}/computeMetadata/v1/{path}", self.address);
        self.client
            .get(&url, &[("Metadata-Flavor", "Google")], limit)
    }
}

/// Parses `TRUE` or `FALSE`, in any case and with space around it.
pub(super) fn parse_flag(text: &str) -> Option<bool> {
    let is = |word: &str| text.trim().eq_ignore_ascii_case(word);
    is("TRUE").then_some(true).or(is("FALSE").then_some(false))
}

fn choose<'a>(
    provider: Provider,
    configured: Option<&'a str>,
    variable: Option<&'a str>,
) -> Option<&'a str> {
    let default = (provider == Provider::Gcp).then_some(DEFAULT_ADDRESS);
    configured
        .or(variable.filter(|value| !value.is_empty()))
        .or(default)
}

fn check(address: &str, loopback_only: bool) -> Result<()> {
    let (host, loopback) = parse(address)
        .with_context(|| format!("\"{address}\" is not the address of a metadata server"))
        .hint("write it as HOST or HOST:PORT, for example 127.0.0.1:8070")?;
    ensure!(
        loopback || !loopback_only,
        "{host} is not on this machine, and {LOOPBACK_VARIABLE}=1 forbids to ask any other"
    );
    Ok(())
}

/// Parses an address; returns its host, and whether that is certainly this machine. Accepts only a
/// host and a port: no user, no path, nothing that a URL parser could read as another host.
fn parse(address: &str) -> Option<(String, bool)> {
    if let Ok(socket) = address.parse::<SocketAddr>() {
        return Some((socket.ip().to_string(), socket.ip().is_loopback()));
    }
    if let Ok(ip) = address.parse::<IpAddr>() {
        // The end of a bare IPv6 address would be read as the port.
        return ip.is_ipv4().then(|| (ip.to_string(), ip.is_loopback()));
    }
    let host = match address.split_once(':') {
        Some((host, port)) => port.parse::<u16>().ok().map(|_| host)?,
        None => address,
    };
    let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let is_name = !host.is_empty() && host.bytes().all(name);
    is_name.then(|| (host.to_owned(), host.eq_ignore_ascii_case("localhost")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use testing::http::{Act, FakeServer, unused_address};

    #[test]
    fn the_well_known_address_is_used_only_on_compute_engine() {
        let table = [
            (Provider::None, None, None, None),
            (Provider::Gcp, None, None, Some(DEFAULT_ADDRESS)),
            (Provider::Gcp, None, Some(""), Some(DEFAULT_ADDRESS)),
            (Provider::None, None, Some("mds:1"), Some("mds:1")),
            (
                Provider::Gcp,
                Some("localhost:2"),
                Some("mds:1"),
                Some("localhost:2"),
            ),
        ];
        for (provider, configured, variable, expected) in table {
            assert_eq!(choose(provider, configured, variable), expected);
        }
    }

    #[test]
    fn in_tests_only_this_machine_is_asked() {
        for address in ["127.0.0.1:80", "127.9.9.9", "[::1]:8070", "localhost:1"] {
            check(address, true).unwrap();
        }
        for address in [
            DEFAULT_ADDRESS,
            "169.254.169.254:80",
            "metadata.google.internal",
            "0.0.0.0:80",
            "0x7f.1",
            "localhost.example:80",
        ] {
            check(address, false).unwrap();
            assert!(check(address, true).is_err(), "{address}");
        }
        assert!(Metadata::new(DEFAULT_ADDRESS).is_err());
        assert!(Metadata::find(Choice::Gcp, Some(DEFAULT_ADDRESS)).is_err());
    }

    #[test]
    fn only_a_host_and_a_port_are_an_address() {
        for address in [
            "",
            ":80",
            "http://127.0.0.1",
            "127.0.0.1/x",
            "127.0.0.1@169.254.169.254",
            "127.0.0.1:80#",
            "a b",
            "::1",
            "host:70000",
            "host:",
        ] {
            assert!(check(address, false).is_err(), "{address}");
        }
    }

    #[test]
    fn the_keys_of_a_machine_are_read() {
        let server = FakeServer::start(|asked| match asked.path.as_str() {
            "/computeMetadata/v1/instance/scheduling/preemptible" => {
                assert!(
                    asked
                        .head
                        .to_lowercase()
                        .contains("metadata-flavor: google")
                );
                Act::answer(200, "1", "TRUE")
            }
            "/computeMetadata/v1/instance/preempted" => Act::answer(200, "1", "false\n"),
            path => panic!("{path}"),
        });
        let metadata = Metadata::new(&server.address()).unwrap();
        assert_eq!(metadata.preemptible().unwrap(), Some(true));
        assert_eq!(metadata.preempted().unwrap(), Some(false));
    }

    #[test]
    fn a_server_that_recovers_is_asked_again_and_one_that_refuses_is_not() {
        let server = FakeServer::start(|asked| match asked.number {
            0 => Act::answer(503, "1", ""),
            1 => Act::Reset,
            2 => Act::answer(200, "1", "TRUE"),
            3 => Act::answer(404, "1", "no such key"),
            4 => Act::answer(403, "1", ""),
            _ => Act::answer(200, "1", "<html>"),
        });
        let metadata = Metadata::new(&server.address()).unwrap();
        assert_eq!(metadata.preemptible().unwrap(), Some(true));
        assert_eq!(metadata.preemptible().unwrap(), None);
        let refused = metadata.preemptible().unwrap_err();
        assert!(format!("{refused:#}").contains("403"), "{refused:#}");
        let garbage = metadata.preemptible().unwrap_err();
        assert!(format!("{garbage:#}").contains("neither"), "{garbage:#}");

        let absent = Metadata::new(&unused_address()).unwrap();
        let error = absent.preempted().unwrap_err();
        assert!(sys::error::hint_of(&error).is_some());
    }
}
