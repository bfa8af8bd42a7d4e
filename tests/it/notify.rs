//! Somebody is told.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::lab::{LIMIT, Lab, skip};

/// A webhook that takes down what it is sent; the first request fails.
fn webhook() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (told, tells) = channel();
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.trim().to_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let status = if index == 0 { "503 Busy" } else { "200 OK" };
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
            if index > 0 && told.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (url, tells)
}

#[test]
fn a_webhook_is_told_of_a_failure_and_of_the_save_also_if_it_was_busy_at_first() {
    let has_curl = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .any(|dir| dir.join("curl").is_file());
    if !has_curl {
        return skip("notify::a_webhook_is_told", "curl is not installed");
    }
    let lab = Lab::new();
    let (url, tells) = webhook();
    lab.configure(&format!("[notify]\nwebhook = \"{url}\""));
    lab.declare("a", "idle", "");
    lab.declare("b", "", "env_file = \"missing.env\"");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let failed = tells.recv_timeout(LIMIT).unwrap();
    assert_eq!(
        (&failed["event"], &failed["agent"]),
        (&"failed".into(), &"b".into())
    );
    assert_eq!(failed["version"], 1);
    lab.run(&["save", "--final"]).ok();
    assert_eq!(tells.recv_timeout(LIMIT).unwrap()["event"], "notice");
    let safe = tells.recv_timeout(LIMIT).unwrap();
    assert_eq!(safe["event"], "safe");
    assert!(safe["text"].as_str().unwrap().contains("safe after"));
}

#[test]
fn a_command_is_told_what_it_asked_for_and_one_that_fails_is_shown() {
    let lab = Lab::new();
    let out = lab.dir.join("told");
    lab.configure(&format!(
        "[notify]\ncommand = \"cat >> {0}; echo \\\" $SPOTKEEP_EVENT $SPOTKEEP_AGENT\\\" >> {0}; exit 7\"\non = [\"failed\"]",
        out.display()
    ));
    lab.declare("b", "", "env_file = \"missing.env\"");
    let _keeper = lab.keeper();
    lab.until("it was told", || {
        let told = fs::read_to_string(&out).ok()?;
        told.contains(" failed b\n").then_some(())
    });
    assert!(
        fs::read_to_string(&out)
            .unwrap()
            .starts_with("{\"version\":1,")
    );
    lab.until("its failure shows", || {
        let trouble = lab.status()["trouble"].to_string();
        trouble.contains("[notify]").then_some(())
    });
}
