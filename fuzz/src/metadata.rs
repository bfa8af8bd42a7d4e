//! Fuzzes answers of the Compute Engine metadata server, or of another server at its address.
//!
//! An input that begins with `HTTP/` is sent to the client unchanged, over loopback. Any other is a
//! list of answers, one in each line: `STATUS MILLISECONDS ETAG BODY`, or a failure in place of the
//! status.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use spotkeep::metadata::gcp::{Answer, Metadata, Poller, Request, WatchEvent};
use sys::http::{Client, Failure, MAX_BODY, Reply};
use sys::time::{parse_age, parse_duration};

/// Gives the answers of the input to the poller, and checks its events and requests.
pub fn check(bytes: &[u8]) {
    if bytes.starts_with(b"HTTP/") {
        return an_answer_is_bounded(bytes);
    }
    let text = String::from_utf8_lossy(bytes);
    let mut poller = Poller::default();
    let mut known = false;
    for line in text.split('\n') {
        a_request_is_well_formed(&poller.next());
        let (answer, took) = answer(line);
        let says_so = answer
            .as_ref()
            .is_ok_and(|reply| reply.status == 200 && reply.text().eq_ignore_ascii_case("TRUE"));
        let answer = Answer::from_reply(answer);
        let value = match &answer {
            Answer::Value { preempted, .. } => Some(*preempted),
            _ => None,
        };
        assert_eq!(value == Some(true), says_so, "{line:?}");
        let step = poller.on(answer, took);
        // A preemption is reported once, after TRUE only, whatever other answers come between.
        let reported = step
            .seen
            .iter()
            .filter(|seen| **seen == WatchEvent::Preempted);
        assert_eq!(reported.count(), usize::from(value == Some(true) && !known));
        known = value.unwrap_or(known);
        assert!(step.pause <= Duration::from_secs(30), "{step:?}");
        assert!(step.pause + took >= Duration::from_millis(100), "{step:?}");
    }
    for text in text.lines() {
        parse_duration(text).ok();
        parse_age(text).ok();
        an_address_is_a_host_and_a_port(text);
    }
}

/// Parses a line of the list.
fn answer(line: &str) -> (Result<Reply, Failure>, Duration) {
    let mut fields = line.splitn(4, ' ');
    let mut field = || fields.next().unwrap_or_default();
    let (status, took, etag, body) = (field(), field(), field(), field());
    let took = Duration::from_millis(took.parse::<u32>().unwrap_or_default().into());
    let answer = match (status, status.parse()) {
        (_, Ok(status)) => Ok(Reply {
            status,
            headers: match etag {
                "" => Vec::new(),
                etag => vec![("etag".to_owned(), etag.to_owned())],
            },
            body: body.as_bytes().to_vec(),
        }),
        ("connect", _) => Err(Failure::Connect(body.to_owned())),
        ("timeout", _) => Err(Failure::Timeout),
        ("large", _) => Err(Failure::TooLarge),
        ("reset", _) => Err(Failure::Reset(body.to_owned())),
        _ => Err(Failure::Protocol(body.to_owned())),
    };
    (answer, took)
}

/// A request waits at most a minute, and an ETag cannot add parameters to it.
fn a_request_is_well_formed(request: &Request) {
    let asked = request.path_and_query();
    assert!(asked.bytes().all(|byte| byte.is_ascii_graphic()), "{asked}");
    let limit = request.limit();
    assert!(limit <= Duration::from_secs(70), "{request:?}");
    if let Request::Wait { seconds, .. } = request {
        assert!((1..=60).contains(seconds), "{request:?}");
        assert_eq!(asked.matches(['?', '&', '#']).count(), 3, "{asked}");
        assert!(asked.ends_with(&format!("&timeout_sec={seconds}")));
        assert!(limit > Duration::from_secs(*seconds));
    }
}

/// A server address is a host and a port only; with the variable that all tests set, on loopback.
fn an_address_is_a_host_and_a_port(address: &str) {
    let Ok(server) = Metadata::new(address) else {
        return;
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte);
    assert!(server.address().bytes().all(plain), "{address}");
}

/// The client returns an answer of bounded size or an error, for any bytes.
fn an_answer_is_bounded(raw: &[u8]) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let raw = raw.to_vec();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 1024];
        if stream.read(&mut asked).unwrap_or_default() > 0 {
            // The client may close the connection before the end.
            stream.write_all(&raw).ok();
        }
    });
    // The fuzzer's own limit finds a client that hangs; a short one here would fail on a busy
    // machine.
    let answer = Client::new().get(&url, &[], Duration::from_secs(60));
    server.join().unwrap();
    if let Ok(reply) = &answer {
        assert!(reply.body.len() as u64 <= MAX_BODY);
        let head: usize = reply.headers.iter().map(|(_, value)| value.len()).sum();
        assert!(head <= 16 * 1024);
    }
    let mut poller = Poller::default();
    poller.on(Answer::from_reply(answer), Duration::ZERO);
    a_request_is_well_formed(&poller.next());
}
