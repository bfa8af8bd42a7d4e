//! Plain HTTP/1.1 on loopback: the server of the fakes, and the client of the fake Claude.
//!
//! The server has a thread for each connection, limits the size of requests, and binds 127.0.0.1
//! only. The client refuses any other host.

mod client;
mod server;
mod wire;

pub use client::{Response, send};
pub use server::{Handler, Pieces, Reply, Server};
pub use wire::Request;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read as _};
    use std::net::TcpStream;
    use std::sync::Arc;

    struct Echo;

    impl Handler for Echo {
        fn admit(&self) -> bool {
            true
        }
        fn answer(&self, request: &Request, reply: Reply<'_>) -> io::Result<()> {
            if request.path == "/pieces" {
                let mut pieces = reply.stream(200, &[])?;
                pieces.write("one\n")?;
                pieces.write("two\n")?;
                return pieces.finish();
            }
            reply.send(200, &[("X-Path", &request.path)], &request.body)
        }
    }

    struct Never;

    impl Handler for Never {
        fn admit(&self) -> bool {
            false
        }
        fn answer(&self, _: &Request, _: Reply<'_>) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_is_sent_whole_or_in_pieces() {
        let server = Server::start("echo", 0, Arc::new(Echo)).unwrap();
        let url = format!("http://{}", server.address());
        let mut whole = send("POST", &format!("{url}/a?b=c"), &[], b"hello").unwrap();
        assert_eq!(whole.headers["x-path"], "/a");
        assert_eq!(whole.text().unwrap(), "hello");
        let mut pieces = send("GET", &format!("{url}/pieces"), &[], b"").unwrap();
        assert_eq!(pieces.line().unwrap().as_deref(), Some("one"));
        assert_eq!(pieces.text().unwrap(), "two\n");
    }

    #[test]
    fn a_request_that_is_not_admitted_is_reset() {
        let server = Server::start("never", 0, Arc::new(Never)).unwrap();
        let error = send("GET", &format!("http://{}", server.address()), &[], b"")
            .err()
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn a_dropped_server_ends_the_connections_it_had() {
        let server = Server::start("echo", 0, Arc::new(Echo)).unwrap();
        let mut idle = TcpStream::connect(server.address()).unwrap();
        send("GET", &format!("http://{}", server.address()), &[], b"").unwrap();
        drop(server);
        // The connection ends or is reset at once.
        assert!(matches!(idle.read(&mut [0]), Ok(0) | Err(_)));
    }

    #[test]
    fn the_client_refuses_hosts_that_are_not_loopback() {
        let error = send("GET", "http://192.0.2.1:80/", &[], b"").err().unwrap();
        assert!(error.to_string().contains("not loopback"), "{error}");
    }
}
