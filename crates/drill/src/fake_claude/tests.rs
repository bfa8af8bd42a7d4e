use super::*;
use crate::fake_api::Model;
use crate::fake_api::log::RequestLog;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use sys::inotify::Watch;
use sys::process::{ProcessId, Signal, with_marker};
use testing::wait::{FOREVER, during, until_with};

const U: &str = "11111111-2222-4333-8444-555555555555";

/// Not a test, but the program that the tests below start as a separate process.
#[test]
fn fake_process() {
    if let Ok(args) = std::env::var("FAKE_CLAUDE_ARGS") {
        let args: Vec<String> = serde_json::from_str(&args).unwrap();
        let code = run(&Arguments::parse(&args));
        std::process::exit(code.map_or(1, i32::from));
    }
}

/// A new configuration and workspace with a fake API. Dropping it ends all processes.
struct Bench {
    dir: tempfile::TempDir,
    model: Model,
    marker: String,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        fs::create_dir_all(&work).unwrap();
        fs::create_dir_all(dir.path().join("cfg")).unwrap();
        let git = Command::new("git")
            .args(["init", "-q"])
            .current_dir(&work)
            .status();
        assert!(git.unwrap().success());
        fs::write(work.join("tracked.txt"), "x\n").unwrap();
        let marker = format!("SPOTKEEP_TEST={}", dir.path().display());
        let bench = Self {
            dir,
            model: Model::start().unwrap(),
            marker,
        };
        let work = bench.work().canonicalize().unwrap();
        bench.config(&serde_json::json!({
            "hasCompletedOnboarding": true,
            "customApiKeyResponses": {"approved": ["dummy"]},
            "projects": {work.to_str().unwrap(): {"hasTrustDialogAccepted": true}},
        }));
        bench
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn config(&self, config: &serde_json::Value) {
        fs::write(self.dir.path().join("cfg/.claude.json"), config.to_string()).unwrap();
    }

    fn start(&self, args: &[&str]) -> Child {
        let (key, value) = self.marker.split_once('=').unwrap();
        let (_, module) = module_path!().split_once("::").unwrap();
        Command::new(std::env::current_exe().unwrap())
            .arg("--exact")
            .arg(format!("{module}::fake_process"))
            .arg("--nocapture")
            .env("FAKE_CLAUDE_ARGS", serde_json::to_string(args).unwrap())
            .env("CLAUDE_CONFIG_DIR", self.dir.path().join("cfg"))
            .env("ANTHROPIC_BASE_URL", self.model.url())
            .env("ANTHROPIC_API_KEY", "dummy")
            .env(key, value)
            .current_dir(self.work())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn transcript(&self) -> String {
        let slug = self.work().canonicalize().unwrap();
        let slug = slug
            .to_str()
            .unwrap()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let path = self
            .dir
            .path()
            .join(format!("cfg/projects/{slug}/{U}.jsonl"));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Waits until `what` is true, and checks it whenever the configuration directory changes.
    fn until(&self, what: impl Fn() -> bool) {
        let watch = Watch::new().unwrap();
        let pause = || {
            for entry in ["cfg", "cfg/sessions", "work"] {
                watch.add(&self.dir.path().join(entry)).ok();
            }
            watch.wait(Duration::from_millis(50));
        };
        let account = || self.transcript();
        until_with("what the fake writes", account, pause, || {
            what().then_some(())
        });
    }

    /// Waits until `so` is true for the request log.
    fn until_model(&self, so: impl Fn(&RequestLog) -> bool) {
        during("the fake API's log", || self.model.wait(FOREVER, so));
    }

    fn session_file(&self, child: &Child) -> serde_json::Value {
        let path = self
            .dir
            .path()
            .join(format!("cfg/sessions/{}.json", child.id()));
        serde_json::from_slice(&fs::read(path).unwrap_or_default()).unwrap_or_default()
    }

    fn wait_open(&self) {
        self.until_model(|request_log| {
            let agent = request_log.agents.get("a");
            agent.is_some_and(|agent| agent.open.is_some())
        });
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for process in with_marker(&self.marker) {
            if let Some(pidfd) = process.open() {
                pidfd.signal(Signal::Kill);
            }
        }
    }
}

fn signal(child: &mut Child, signal: Signal) -> Option<i32> {
    let process = ProcessId::from_pid(i32::try_from(child.id()).unwrap()).unwrap();
    process.open().unwrap().signal(signal);
    child.wait().unwrap().code()
}

#[test]
fn a_turn_cut_by_sigterm_is_complete_on_disk_and_goes_on_with_the_note() {
    let bench = Bench::new();
    let mut first = bench.start(&[
        "--session-id",
        U,
        "-n",
        "a",
        "DRILL agent=a plan=tool [[a:p:1]]",
    ]);
    bench.wait_open();
    bench.until(|| bench.work().join("open.txt").exists());
    assert_eq!(bench.session_file(&first)["status"], "busy");
    assert_eq!(signal(&mut first, Signal::Term), Some(143));
    assert_eq!(bench.session_file(&first), serde_json::Value::Null);
    let written = bench.transcript();
    let request_log = bench.model.request_log();
    for record in &request_log.agents["a"].records {
        assert!(
            written.contains(&record.marker.to_string()),
            "{} lost",
            record.marker
        );
    }
    assert!(written.ends_with("}\n") && written.contains("last-prompt"));

    bench.model.next_boot();
    let mut second = bench.start(&["--resume", U, "-n", "a", "[spotkeep] you were cut"]);
    bench.until_model(|request_log| request_log.agents["a"].turns_ended == 1);
    let seen = bench.model.request_log().agents["a"].first.clone().unwrap();
    // Only the open call is dropped from the request.
    let missing: Vec<_> = request_log.agents["a"]
        .records
        .iter()
        .filter(|record| !seen.markers.contains(&record.marker))
        .collect();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(
        missing[0].marker.kind,
        crate::fake_api::marker::MarkerKind::Call
    );
    assert_eq!(bench.model.request_log().agents["a"].continued, 1);
    bench.until(|| bench.session_file(&second)["status"] == "idle");
    signal(&mut second, Signal::Kill);
}

#[test]
fn a_text_cut_by_sigkill_leaves_the_whole_records_before_it() {
    let bench = Bench::new();
    let mut first = bench.start(&["--session-id", U, "DRILL agent=a plan=stream [[a:p:1]]"]);
    bench.wait_open();
    bench.until(|| bench.transcript().contains("tool_result"));
    signal(&mut first, Signal::Kill);
    assert!(!bench.transcript().contains("and so on"));
    bench.model.next_boot();
    let mut second = bench.start(&["--resume", U, "[spotkeep] you were cut"]);
    bench.until_model(|request_log| request_log.agents["a"].continued == 1);
    signal(&mut second, Signal::Kill);
}

#[test]
fn a_session_is_begun_once_and_resumed_only_where_it_exists() {
    let bench = Bench::new();
    assert_eq!(
        bench.start(&["--resume", U]).wait().unwrap().code(),
        Some(1)
    );
    let mut first = bench.start(&["--session-id", U, "DRILL agent=a plan=idle"]);
    bench.until(|| bench.transcript().contains("turn_duration"));
    signal(&mut first, Signal::Term);
    assert_eq!(
        bench.start(&["--session-id", U]).wait().unwrap().code(),
        Some(1)
    );
}

#[test]
fn clear_changes_the_session_and_exit_ends_it() {
    use std::io::Write as _;
    let bench = Bench::new();
    let mut child = bench.start(&["--session-id", U, "-n", "a"]);
    bench.until(|| bench.session_file(&child)["sessionId"] == U);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"/clear\n").unwrap();
    bench.until(|| bench.session_file(&child)["sessionId"] != U);
    assert_eq!(bench.session_file(&child)["name"], "a");
    stdin.write_all(b"/exit\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn without_trust_a_dialog_blocks_the_start() {
    use std::io::Write as _;
    let bench = Bench::new();
    bench.config(&serde_json::json!({
        "hasCompletedOnboarding": true, "customApiKeyResponses": {"approved": ["dummy"]},
    }));
    let mut child = bench.start(&["--session-id", U]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"\n").unwrap();
    bench.until(|| bench.session_file(&child)["status"] == "idle");
    assert_eq!(signal(&mut child, Signal::Term), Some(143));
}

#[test]
fn claudes_arguments_are_parsed() {
    let args = [
        "--resume",
        "U",
        "-n",
        "x",
        "--model",
        "opus",
        "--verbose",
        "go on",
    ];
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    let expected = Arguments {
        resume: Some("U".into()),
        name: Some("x".into()),
        prompt: Some("go on".into()),
        ..Arguments::default()
    };
    assert_eq!(Arguments::parse(&args), expected);
}
