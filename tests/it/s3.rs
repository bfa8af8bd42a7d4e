//! A fake S3 server for restic: objects in memory, on loopback. Signatures are not checked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex};

use drill::http::{Handler, Reply, Request, Server};

/// The time at which every object was written; restic does not compare it.
const TIME: &str = "2026-11-22T00:00:00.000Z";
const HTTP_TIME: &str = "Sun, 22 Nov 2026 00:00:00 GMT";

/// The fake server. Requests to create its one bucket succeed.
pub struct S3 {
    server: Server,
    store: Arc<Store>,
}

#[derive(Default)]
struct Store {
    /// The objects, by `/bucket/key`.
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl S3 {
    pub fn start() -> Self {
        let store = Arc::new(Store::default());
        let server = Server::start("s3", 0, Arc::clone(&store) as Arc<dyn Handler>).unwrap();
        Self { server, store }
    }

    /// The address of a repository in it, as restic writes it.
    pub fn url(&self) -> String {
        format!("s3:http://{}/fleet/copy", self.server.address())
    }

    /// The environment file that restic needs.
    pub fn environment() -> &'static str {
        "AWS_ACCESS_KEY_ID=lab\nAWS_SECRET_ACCESS_KEY=\"lab-secret\"\nAWS_DEFAULT_REGION=us-east-1\n"
    }

    /// The number of objects.
    pub fn count(&self) -> usize {
        self.store.objects.lock().unwrap().len()
    }
}

impl Handler for Store {
    fn answer(&self, request: &Request, reply: Reply<'_>) -> io::Result<()> {
        let mut objects = self.objects.lock().unwrap();
        let path = decode(&request.path);
        let is_bucket = path.trim_matches('/').split('/').count() < 2;
        match (request.method.as_str(), is_bucket) {
            ("PUT", true) | ("HEAD", true) => reply.send(200, &[], b""),
            ("GET", true)
                if request.query("list-type").is_some() || request.query("prefix").is_some() =>
            {
                let text = list(&objects, &path, request);
                reply.send(200, &XML, text.as_bytes())
            }
            ("GET", true) => reply.send(
                200,
                &XML,
                b"<?xml version=\"1.0\"?><LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">us-east-1</LocationConstraint>",
            ),
            ("PUT", false) => {
                objects.insert(path, body(request));
                reply.send(200, &[("ETag", "\"1\"")], b"")
            }
            ("DELETE", false) => {
                objects.remove(&path);
                reply.send(204, &[], b"")
            }
            _ => match objects.get(&path) {
                Some(bytes) => send_object(request, bytes, reply),
                None => reply.send(404, &XML, NO_SUCH_KEY),
            },
        }
    }
}

const XML: [(&str, &str); 1] = [("Content-Type", "application/xml")];
const NO_SUCH_KEY: &[u8] = b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code>\
    <Message>The specified key does not exist.</Message></Error>";

/// Sends a whole object, or the range that is asked for.
fn send_object(request: &Request, bytes: &[u8], reply: Reply<'_>) -> io::Result<()> {
    let headers = [
        ("ETag", "\"1\""),
        ("Last-Modified", HTTP_TIME),
        ("Accept-Ranges", "bytes"),
        ("Content-Type", "application/octet-stream"),
    ];
    let range = request
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = range else {
        return reply.send(200, &headers, bytes);
    };
    let last = bytes.len().saturating_sub(1);
    let (from, to) = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), to) => (from, to.unwrap_or(last).min(last)),
        // The last `count` bytes.
        (Err(_), count) => (bytes.len().saturating_sub(count.unwrap_or(0)), last),
    };
    let range = format!("bytes {from}-{to}/{}", bytes.len());
    let mut headers = headers.to_vec();
    headers.push(("Content-Range", &range));
    reply.send(206, &headers, bytes.get(from..=to).unwrap_or_default())
}

/// Lists the objects below a prefix; with a delimiter, directories are listed as prefixes.
fn list(objects: &BTreeMap<String, Vec<u8>>, bucket: &str, request: &Request) -> String {
    let bucket = format!("/{}/", bucket.trim_matches('/'));
    let prefix = decode(request.query("prefix").unwrap_or_default());
    let delimiter = decode(request.query("delimiter").unwrap_or_default());
    let mut text = String::from(
        "<?xml version=\"1.0\"?><ListBucketResult \
         xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><IsTruncated>false</IsTruncated>",
    );
    let mut folders = Vec::new();
    for (path, bytes) in objects.iter() {
        let Some(key) = path
            .strip_prefix(&bucket)
            .filter(|key| key.starts_with(&prefix))
        else {
            continue;
        };
        let rest = &key[prefix.len()..];
        if let Some(end) = rest.find(&delimiter).filter(|_| !delimiter.is_empty()) {
            let folder = format!("{prefix}{}", &rest[..=end]);
            if !folders.contains(&folder) {
                folders.push(folder);
            }
            continue;
        }
        write!(
            text,
            "<Contents><Key>{key}</Key><LastModified>{TIME}</LastModified><ETag>\"1\"</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
            bytes.len()
        )
        .unwrap();
    }
    for folder in folders {
        write!(
            text,
            "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
        )
        .unwrap();
    }
    text + "</ListBucketResult>"
}

/// The object in a request. Over plain HTTP it comes in chunks, each with a signature.
fn body(request: &Request) -> Vec<u8> {
    let is_signed = request
        .headers
        .get("x-amz-content-sha256")
        .is_some_and(|value| value.starts_with("STREAMING-"));
    if !is_signed {
        return request.body.clone();
    }
    let (mut rest, mut bytes) = (&request.body[..], Vec::new());
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let head = String::from_utf8_lossy(&rest[..end]);
        let size = head.split(';').next().unwrap_or_default();
        let Ok(size) = usize::from_str_radix(size, 16) else {
            break;
        };
        rest = &rest[end + 2..];
        if size == 0 || rest.len() < size {
            break;
        }
        bytes.extend_from_slice(&rest[..size]);
        rest = rest.get(size + 2..).unwrap_or_default();
    }
    bytes
}

fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, more)) = rest.split_first() {
        let code = more.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &more[2..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}
