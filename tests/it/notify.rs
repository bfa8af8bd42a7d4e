//! `[notify]`: events that are sent to a webhook or to a command.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use crate::support::{Lab, skip};
use testing::wait::during;

/// The JSON body of a request to a webhook.
fn body_of(stream: &TcpStream) -> Value {
    let mut reader = BufReader::new(stream);
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
    serde_json::from_slice(&body).unwrap()
}

/// Starts a webhook that records what it is sent. With `answers`, only the first request fails;
/// without, no request is ever answered.
fn webhook(answers: bool) -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (sender, received) = channel();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for (index, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let body = body_of(&stream);
            if !answers {
                kept.push(stream);
            } else {
                let status = if index == 0 { "503 Busy" } else { "200 OK" };
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
                .unwrap();
            }
            if (index > 0 || !answers) && sender.send(body).is_err() {
                return;
            }
        }
    });
    (url, received)
}

/// The next event that the webhook receives.
fn next(received: &Receiver<Value>) -> Value {
    during("the webhook receives an event", || received.recv()).unwrap()
}

fn has_curl() -> bool {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).any(|dir| dir.join("curl").is_file())
}

#[test]
fn a_webhook_that_hangs_does_not_delay_a_save() {
    if !has_curl() {
        return skip("notify::a_webhook_that_hangs", "curl is not installed");
    }
    let lab = Lab::new();
    let (url, received) = webhook(false);
    lab.configure(&format!("[notify]\nwebhook = \"{url}\""));
    lab.declare("a", "tool", "");
    lab.declare("b", "", "env_file = \"missing.env\"");
    let _keeper = lab.keeper();
    lab.wait_open("a");
    assert_eq!(next(&received)["event"], "failed");
    let saved = lab.run(&["save", "--final", "--json"]).ok().json();
    assert_eq!(saved["clean"], true, "{saved}");
    // Each message without an answer takes half a minute: the save is over, and not even its notice
    // has been sent.
    let sent: Vec<Value> = received.try_iter().collect();
    assert!(
        sent.iter().all(|body| body["event"] == "failed"),
        "{sent:?}"
    );
    lab.assert_nothing_lost("a");
}

#[test]
fn a_webhook_gets_a_failure_and_the_save_also_if_it_was_busy_at_first() {
    if !has_curl() {
        return skip("notify::a_webhook_gets_a_failure", "curl is not installed");
    }
    let lab = Lab::new();
    let (url, received) = webhook(true);
    lab.configure(&format!("[notify]\nwebhook = \"{url}\""));
    lab.declare("a", "idle", "");
    lab.declare("b", "", "env_file = \"missing.env\"");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let failed = next(&received);
    assert_eq!(
        (&failed["event"], &failed["agent"]),
        (&"failed".into(), &"b".into())
    );
    assert_eq!(failed["version"], 1);
    lab.run(&["save", "--final"]).ok();
    assert_eq!(next(&received)["event"], "notice");
    let safe = next(&received);
    assert_eq!(safe["event"], "safe");
    assert!(safe["text"].as_str().unwrap().contains("after the notice"));
}

#[test]
fn a_notify_command_gets_the_events_it_asked_for_and_its_failure_is_shown() {
    let lab = Lab::new();
    let out = lab.dir.join("notified");
    lab.configure(&format!(
        "[notify]\ncommand = \"cat >> {0}; echo \\\" $SPOTKEEP_EVENT $SPOTKEEP_AGENT\\\" >> {0}; \
         exit 7\"\non = [\"failed\"]",
        out.display()
    ));
    lab.declare("b", "", "env_file = \"missing.env\"");
    let _keeper = lab.keeper();
    lab.until("the command ran", || {
        let events = fs::read_to_string(&out).ok()?;
        events.contains(" failed b\n").then_some(())
    });
    assert!(
        fs::read_to_string(&out)
            .unwrap()
            .starts_with("{\"version\":1,")
    );
    lab.until("its failure is shown", || {
        let trouble = lab.status()["trouble"].to_string();
        trouble.contains("[notify]").then_some(())
    });
}
