//! Sending of one notification: to a webhook with `curl`, or to a command with `sh`.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use super::message::Message;
use state::config::Format;
use sys::command::run_with_input;
use sys::error::{Context as _, Hint as _, Result, anyhow, ensure};
use sys::loopback_only;

/// The timeout of one try.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends a body to a URL.
pub(super) fn webhook(url: &str, body: &str) -> Result<()> {
    ensure!(
        !loopback_only!() || is_loopback(url),
        "only loopback addresses are allowed here, and the webhook has another one"
    );
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let config = format!(
        "url = {}\nheader = \"Content-Type: application/json\"\ndata-raw = {}\n",
        quoted(url),
        quoted(body)
    );
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "8"])
        .args(["--proto", "=http,https", "--output", "/dev/null"])
        .args(["--config", "-"]);
    let output = run_with_input(&mut curl, config.as_bytes(), LIMIT)
        .context("cannot send the webhook")
        .hint("apt-get install curl")?;
    // curl's error message contains at most the host, not the URL.
    ensure!(
        output.status.success(),
        "cannot send the webhook: {}",
        output.stderr.lines().next().unwrap_or("curl failed")
    );
    Ok(())
}

fn is_loopback(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split(['/', '?']).next().unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    address.is_ok_and(|address| address.is_loopback())
}

/// Runs a command of the user's.
pub(super) fn command(command: &str, message: &Message) -> Result<()> {
    // The former name of SPOTKEEP_DATA_DIR, which users' commands still read.
    let alias = "SPOTKEEP_ROOT";
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .env("SPOTKEEP_EVENT", message.kind.as_str())
        .env("SPOTKEEP_AGENT", message.agent.as_deref().unwrap_or(""))
        .env("SPOTKEEP_TEXT", &message.text)
        .env("SPOTKEEP_DATA_DIR", &message.data_dir)
        .env(alias, &message.data_dir);
    let body = message.body(Format::Generic);
    let output = run_with_input(&mut shell, body.as_bytes(), LIMIT)
        .context("the command under [notify] failed")?;
    match output.status.success() {
        true => Ok(()),
        false => Err(anyhow!(
            "the command under [notify] failed: {} {}",
            output.status,
            output.stderr.lines().next_back().unwrap_or_default()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_sends_nothing_beyond_loopback() {
        assert!(is_loopback("http://127.0.0.1:80/x") && is_loopback("http://[::1]:9/"));
        for url in ["https://hooks.example/x", "http://127.0.0.1.example/"] {
            assert!(!is_loopback(url), "{url}");
            let error = webhook(url, "{}").unwrap_err().to_string();
            assert!(error.contains("loopback"), "{error}");
        }
    }
}
