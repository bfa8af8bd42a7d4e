//! Tests of `SECURITY.md`: modes, secrets, the control socket, names and metadata servers.
//!
//! Hostile repositories are in `checkpoints/hostile.rs`; what root does on the user's disk is in
//! `setup_disk.rs` and `setup_vm.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use drill::http::{Handler, Reply, Request, Server};

use crate::loopback::name_of;
use crate::s3::S3;
use crate::support::{Lab, SPOTKEEP, is_root, run, said, skip};
use testing::wait::{during, until};

/// Every path below a directory; symlinks are not followed.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn state_is_readable_by_its_user_alone_with_any_umask() {
    let lab = Lab::in_a_cloud();
    lab.declare("a", "tool", "");
    lab.declare("b", "idle", "");
    // Runs the keeper with a umask that removes no permission.
    let careless = |command: &mut Command| {
        let (program, arguments) = (
            command.get_program().to_owned(),
            command
                .get_args()
                .map(ToOwned::to_owned)
                .collect::<Vec<_>>(),
        );
        let mut shell = lab.program("sh");
        shell
            .args(["-c", "umask 0; exec \"$0\" \"$@\""])
            .arg(program)
            .args(arguments);
        *command = shell;
    };
    let keeper = lab.keeper_by(careless);
    lab.wait_open("a");
    lab.wait_done("b");
    lab.run(&["checkpoint", "now", "a"]).ok();
    lab.metadata().preempt();
    lab.until("everything is safe", || {
        lab.status()["last_save"]["clean"]
            .as_bool()
            .filter(|so| *so)
    });
    keeper.kill();
    lab.metadata().withdraw();
    lab.next_boot();
    let _keeper = lab.keeper_by(careless);
    lab.wait_done("a");

    let mut kinds = BTreeSet::new();
    let runtime = below(&lab.dir.join("run"));
    // Files that git writes have the umask's mode, below a directory that no other user can enter.
    let of_git = |path: &&PathBuf| {
        let inside = path.strip_prefix(lab.file("session-state/checkpoints"));
        let name = inside.ok().and_then(|inside| inside.iter().nth(1));
        name.is_some_and(|name| name == "git" || name == "survey")
    };
    let state = below(&lab.file("session-state"));
    assert!(state.iter().any(|path| of_git(&path)));
    for path in state.iter().filter(|path| !of_git(path)).chain(&runtime) {
        let kind = fs::symlink_metadata(path).unwrap().file_type();
        let expected = match kind.is_dir() {
            true => 0o700,
            false => 0o600,
        };
        // tmux sets the user's x on a socket with an attached client.
        let is = mode(path) & if kind.is_socket() { 0o677 } else { 0o7777 };
        assert_eq!(
            format!("{is:o}"),
            format!("{expected:o}"),
            "{}",
            path.display()
        );
        kinds.insert(match kind.is_socket() {
            true => "socket",
            false if kind.is_dir() => "directory",
            false => path.extension().map_or("file", |_| "named file"),
        });
    }
    assert!(
        kinds.contains("socket") && kinds.contains("directory"),
        "{kinds:?}"
    );
    for dir in ["session-state", ".claude", "home", "backups"] {
        assert_eq!(format!("{:o}", mode(&lab.file(dir))), "700", "{dir}");
    }
}

/// Scans the arguments of every process on this machine repeatedly for secrets.
struct ArgumentScanner {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<BTreeSet<String>>>,
}

impl ArgumentScanner {
    fn start(secrets: &[String]) -> Self {
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (secrets, halt, count) = (secrets.to_vec(), Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !halt.load(Ordering::SeqCst) {
                for entry in fs::read_dir("/proc").unwrap().flatten() {
                    let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                    let words = String::from_utf8_lossy(&words).replace('\0', " ");
                    if secrets.iter().any(|secret| words.contains(secret)) {
                        seen.insert(words);
                    }
                }
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::park_timeout(Duration::from_millis(2));
            }
            // Ends the wait of requests that are held.
            count.store(usize::MAX, Ordering::SeqCst);
            seen
        });
        Self {
            stop,
            rounds,
            thread: Some(thread),
        }
    }

    /// The number of complete scans so far.
    fn rounds(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.rounds)
    }

    fn end(mut self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// A server with a git remote that asks for a password, and a webhook. Each request is held until
/// the arguments of all processes have been scanned.
struct Remote {
    rounds: Arc<AtomicUsize>,
    basic: std::sync::Mutex<Vec<String>>,
    received: AtomicUsize,
}

impl Handler for Remote {
    fn answer(&self, request: &Request, reply: Reply<'_>) -> io::Result<()> {
        let round = self.rounds.load(Ordering::SeqCst);
        until("the arguments of all processes have been scanned", || {
            (self.rounds.load(Ordering::SeqCst) >= round.saturating_add(2)).then_some(())
        });
        if request.path.starts_with("/hook") {
            self.received.fetch_add(1, Ordering::SeqCst);
            return reply.send(200, &[], b"");
        }
        match request.headers.get("authorization") {
            None => reply.send(401, &[("WWW-Authenticate", "Basic realm=\"lab\"")], b""),
            Some(login) => {
                self.basic.lock().unwrap().push(login.to_owned());
                reply.send(404, &[], b"")
            }
        }
    }
}

#[test]
fn no_secret_is_in_a_log_a_journal_an_event_or_the_arguments_of_a_process() {
    let test = "no_secret_is_in_a_log_a_journal_an_event_or_the_arguments_of_a_process";
    for tool in ["restic", "curl"] {
        let path = std::env::var_os("PATH").unwrap();
        if !std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()) {
            return skip(test, &format!("{tool} is not installed"));
        }
    }
    let lab = Lab::new();
    let id = sys::uuid::new_uuid().replace('-', "");
    let secret = |of: &str| format!("sk-{of}-{}", &id[..20]);
    let (of_agent, of_webhook, of_push, of_login, of_copy) = (
        secret("agent"),
        secret("webhook"),
        secret("push"),
        secret("login"),
        secret("copy"),
    );
    // spotkeep generates the password of the backup repository here.
    lab.run(&["backup", "now"]);
    let of_backup = fs::read_to_string(lab.file("backups.key")).unwrap();
    let of_backup = of_backup.trim().to_owned();
    let secrets = [
        &of_agent,
        &of_webhook,
        &of_push,
        &of_login,
        &of_copy,
        &of_backup,
    ]
    .map(Clone::clone);
    let scanner = ArgumentScanner::start(&secrets);

    let (s3, remote) = (
        S3::start(),
        Arc::new(Remote {
            rounds: scanner.rounds(),
            basic: std::sync::Mutex::default(),
            received: AtomicUsize::new(0),
        }),
    );
    let server = Server::start("remote", 0, Arc::clone(&remote) as Arc<dyn Handler>).unwrap();
    let address = server.address();
    lab.configure(&format!(
        "[notify]\nwebhook = \"http://{address}/hook/{of_webhook}\"\n\
         [checkpoint]\npush = \"http://me:{of_push}@{address}/safe.git\"\n\
         [backup]\ncopy_to = \"{}\"\nenv_file = \"copy.env\"\n",
        s3.url()
    ));
    let private = |path: &str, text: String| {
        fs::write(lab.file(path), text).unwrap();
        fs::set_permissions(lab.file(path), fs::Permissions::from_mode(0o600)).unwrap();
    };
    private(
        "copy.env",
        S3::environment().replace("lab-secret", &of_copy),
    );
    private("agent.env", format!("TOKEN={of_agent}\n"));
    private(
        ".claude/.credentials.json",
        format!(
            r#"{{"claudeAiOauth":{{"accessToken":"{of_login}","refreshToken":"r","expiresAt":9999999999999}}}}"#
        ),
    );
    lab.declare("a", "tool", "env_file = \"agent.env\"");
    lab.declare("b", "idle", "env_file = \"agent.env\"");
    lab.declare("lost", "", "env_file = \"missing.env\"");

    let mut shown = String::new();
    let mut show = |words: &[&str]| {
        let said = lab.run(words);
        shown += &format!("$ {words:?}\n{}{}", said.out, said.err);
    };
    let keeper = lab.keeper();
    lab.wait_open("a");
    lab.wait_done("b");
    lab.wait_state("lost", "failed");
    let environment = fs::read(format!("/proc/{}/environ", lab.process("a").pid)).unwrap();
    assert!(
        String::from_utf8_lossy(&environment).contains(&of_agent),
        "the agent has its secret"
    );
    show(&["backup", "now"]);
    show(&["checkpoint", "now", "a"]);
    show(&["save", "--json"]);
    // A syntax error in `spotkeep.toml` just where a secret is.
    let good = lab.config_text();
    lab.write_config(&good.replace(&format!("{of_webhook}\""), &of_webhook));
    show(&["up"]);
    show(&["doctor"]);
    keeper.kill();
    let keeper = lab.keeper();
    lab.until("status shows that the file is invalid", || {
        lab.status()["trouble"]
            .to_string()
            .contains("spotkeep.toml")
            .then_some(())
    });
    show(&["status", "--json"]);
    lab.write_config(&good);
    lab.reload();
    show(&["save", "--final", "--json"]);
    keeper.kill();
    lab.next_boot();
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.until("the webhook received two events", || {
        (remote.received.load(Ordering::SeqCst) > 1).then_some(())
    });
    for words in [
        &["status", "--json"][..],
        &["ls", "--json"],
        &["events", "--json", "-n", "1000"],
        &["logs", "a"],
        &["doctor", "--json"],
        &["checkpoint", "ls", "a", "--json"],
        &["backup", "ls", "--json"],
        &["backup", "check"],
        &["restore", "--dry-run"],
        &["notice", "--json"],
    ] {
        show(words);
    }

    // Each secret was used.
    let basic = remote.basic.lock().unwrap().clone();
    assert!(!basic.is_empty(), "the push did not give its password");
    assert!(s3.count() > 3, "{shown}");
    let seen = scanner.end();
    assert!(seen.is_empty(), "in the arguments of a process: {seen:#?}");
    for secret in &secrets {
        assert!(!shown.contains(secret), "{secret} is shown:\n{shown}");
    }
    // Each secret is in its own file only. `spotkeep.toml` and its last valid copy hold what the
    // user wrote.
    let own = [
        ("spotkeep.toml", vec![&of_webhook, &of_push]),
        ("copy.env", vec![&of_copy]),
        ("agent.env", vec![&of_agent]),
        ("backups.key", vec![&of_backup]),
        (".claude/.credentials.json", vec![&of_login]),
        ("session-state/credentials.json", vec![&of_login]),
    ];
    let config_copy = state::layout::DataDir::open_of_anybody(&lab.data_dir())
        .unwrap()
        .config_copy();
    for path in below(&lab.dir) {
        if !path.is_file() || path.is_symlink() {
            continue;
        }
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        for secret in &secrets {
            let allowed = own
                .iter()
                .any(|(name, of)| path == lab.file(name) && of.contains(&secret))
                || (path == config_copy && [&of_webhook, &of_push].contains(&secret));
            assert!(
                allowed || !text.contains(secret),
                "{secret} is in {}",
                path.display()
            );
        }
    }
}

/// Set in the second run of the test below, as another user: the path of the socket.
const SOCKET: &str = "SPOTKEEP_TEST_KNOCKS_AT";
/// The exit code of a second run that got no answer.
const REFUSED: i32 = 42;

/// Asks the keeper for its status, and returns the answer.
fn request_status(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"{\"verb\":\"status\"}\n").ok();
    let mut answer = String::new();
    during("the keeper answers", || stream.read_to_string(&mut answer)).ok();
    answer
}

#[test]
fn the_control_socket_answers_only_its_owner_and_root() {
    if let Some(socket) = std::env::var_os(SOCKET) {
        let answer = request_status(Path::new(&socket));
        std::process::exit(if answer.is_empty() { REFUSED } else { 1 });
    }
    let test = name_of_test(|| ());
    if !is_root() {
        return skip(&test, "acting as another user needs root");
    }
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let sockets: Vec<PathBuf> = below(&lab.dir.join("run"))
        .into_iter()
        .filter(|path| fs::symlink_metadata(path).unwrap().file_type().is_socket())
        .collect();
    let socket = sockets
        .iter()
        .find(|path| !path.to_string_lossy().contains("tmux"))
        .unwrap_or_else(|| panic!("{sockets:?}"));
    assert!(
        request_status(socket).contains("\"boot_id\""),
        "its owner is answered"
    );

    // Another user gets no answer even where every mode allows it.
    let exe = lab.dir.join("other-user");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let open =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(&lab.dir, 0o755);
    open(&exe, 0o755);
    open(&lab.dir.join("run"), 0o755);
    let mut dir = socket.parent().unwrap();
    while dir != lab.dir {
        open(dir, 0o755);
        dir = dir.parent().unwrap();
    }
    open(socket, 0o666);
    let mut other_user = lab.program("setpriv");
    other_user
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&exe)
        .args([&test, "--exact", "--nocapture"])
        .env(SOCKET, socket);
    let output = run(&mut other_user).unwrap();
    assert_eq!(output.status.code(), Some(REFUSED), "{output:?}");
    assert!(
        request_status(socket).contains("\"boot_id\""),
        "its owner is still answered"
    );
}

/// The name of the test whose closure this is.
fn name_of_test<Closure: Fn()>(_: Closure) -> String {
    name_of::<Closure>()
}

#[test]
fn no_agent_name_escapes_its_directory() {
    let lab = Lab::new();
    let _keeper = lab.keeper();
    let before = below(&lab.dir);
    for name in [
        "..",
        "../x",
        "a/b",
        "/etc",
        ".git",
        "-x",
        "a\nb",
        "a b",
        "a;b",
        "$(id)",
        "\u{202e}x",
        "",
    ] {
        for words in [
            &["add", name, "--workspace", "workspaces/x"][..],
            &["rm", name],
            &["start", name],
            &["stop", name],
            &["send", name, "text"],
            &["logs", name],
            &["checkpoint", "now", name],
        ] {
            let said = lab.run(words);
            assert_ne!(said.code, 0, "{words:?}: {said:?}");
        }
        let quoted = serde_json::Value::from(name).to_string();
        let text = format!("[agents.{quoted}]\nworkspace = \"workspaces/x\"\n");
        assert!(state::config::Config::parse(&text).is_err(), "{text}");
    }
    let is_new = |path: &PathBuf| {
        let is_log =
            path.starts_with(lab.dir.join("run")) || path.starts_with(lab.file("session-state"));
        !before.contains(path) && !is_log
    };
    let made: Vec<_> = below(&lab.dir).into_iter().filter(is_new).collect();
    assert!(made.is_empty(), "{made:?}");
}

#[test]
fn files_are_never_written_through_a_symlink() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    let keeper = lab.keeper();
    lab.wait_open("a");
    keeper.kill();
    lab.next_boot();
    // An agent has replaced files that spotkeep rewrites by symlinks.
    let precious = lab.dir.join("precious");
    fs::write(&precious, "precious\n").unwrap();
    let notes = lab.file("session-state/notes");
    fs::create_dir_all(&notes).unwrap();
    symlink(&precious, notes.join("a.md")).unwrap();
    let record = lab.record_path("a");
    let own = fs::read(&record).unwrap();
    let target = lab.dir.join("record");
    fs::write(&target, &own).unwrap();
    fs::remove_file(&record).unwrap();
    symlink(&target, &record).unwrap();
    let login = lab.file("session-state/credentials.json");
    fs::remove_file(&login).ok();
    symlink(&precious, &login).unwrap();
    fs::write(
        lab.file(".claude/.credentials.json"),
        "{\"claudeAiOauth\":{\"accessToken\":\"t\"}}",
    )
    .unwrap();
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.run(&["save", "--final"]).ok();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious\n");
    assert_eq!(fs::read(&target).unwrap(), own);
    assert!(!record.is_symlink() && !notes.join("a.md").is_symlink());
}

#[test]
fn control_sequences_from_agents_and_files_do_not_reach_the_terminal() {
    let lab = Lab::new();
    let sequence = "\\u001b]0;title\\u0007\\u001b[2J";
    lab.declare("a", "", &format!("env_file = \"{sequence}.env\""));
    let _keeper = lab.keeper();
    let why = lab.wait_state("a", "failed")["why"].to_string();
    assert!(why.contains("u001b]0;title"), "{why}");
    for words in [
        &["status"][..],
        &["ls"],
        &["events"],
        &["doctor"],
        &["up"],
        &["logs", "a"],
    ] {
        let said = lab.run(words);
        let obeyed = |c: char| c.is_control() && c != '\n' && c != '\t';
        let shown = said.out.clone() + &said.err;
        assert!(!shown.contains(obeyed), "{words:?}: {said:?}");
    }
    assert!(lab.run(&["status"]).out.contains("]0;title"));
}

/// What a malicious metadata server does with a connection.
type Attack = fn(&mut TcpStream) -> io::Result<()>;

/// Sends the same bytes until the client closes the connection.
fn send_forever(stream: &mut TcpStream, bytes: &[u8], pause: Duration) -> io::Result<()> {
    loop {
        stream.write_all(bytes)?;
        std::thread::park_timeout(pause);
    }
}

const ATTACKS: [(&str, Attack); 9] = [
    ("an endless body", |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\n\r\n")?;
        send_forever(stream, &[b'T'; 65_536], Duration::ZERO)
    }),
    ("a body that claims to be endless", |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nTRUE")?;
        send_forever(stream, &[0; 65_536], Duration::ZERO)
    }),
    ("endless chunks", |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        send_forever(stream, b"ffffffff\r\nTRUE", Duration::ZERO)
    }),
    ("endless headers", |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        send_forever(
            stream,
            b"X-Padding: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
            Duration::ZERO,
        )
    }),
    ("one endless header", |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
        send_forever(stream, &[b'a'; 65_536], Duration::ZERO)
    }),
    ("a body that comes byte by byte", |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
        send_forever(stream, b"T", Duration::from_millis(200))
    }),
    ("a head that comes byte by byte", |stream| {
        send_forever(stream, b"H", Duration::from_millis(200))
    }),
    ("bytes that are not text", |stream| {
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\nETag: \x00\xff\xfe\r\n\
              Content-Length: 6\r\n\r\n\xff\xfe\x00TRU",
        )
    }),
    ("another protocol", |stream| {
        stream.write_all(b"\x16\x03\x01\x00\x00SSH-2.0-x\r\n\x00\x00\xff")
    }),
];

/// Starts a server that attacks every client in this way.
fn malicious_server(attack: Attack) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = [0; 1024];
                if stream.read(&mut request).is_ok_and(|amount| amount > 0) {
                    attack(&mut stream).ok();
                }
            });
        }
    });
    address
}

#[test]
fn a_malicious_metadata_server_costs_bounded_time_and_memory() {
    std::thread::scope(|scope| {
        for (what, attack) in ATTACKS {
            scope.spawn(move || {
                let lab = Lab::new();
                let address = malicious_server(attack);
                let config = lab.config_text().replace(
                    "provider = \"none\"",
                    &format!("provider = \"gcp\"\nmetadata = \"{address}\""),
                );
                lab.write_config(&config);
                let mut bounded = lab.program("sh");
                bounded
                    .args([
                        "-c",
                        "ulimit -v 500000; exec \"$0\" --data-dir \"$1\" notice --json",
                    ])
                    .arg(SPOTKEEP)
                    .arg(lab.data_dir());
                let begun = Instant::now();
                let said = said(&mut bounded);
                assert_eq!(said.code, 1, "{what}: {said:?}");
                assert!(said.err.starts_with("error: "), "{what}: {said:?}");
                assert!(said.err.len() < 2_000, "{what}: {} bytes", said.err.len());
                let printable = |c: char| c == '\n' || !c.is_control();
                assert!(said.err.chars().all(printable), "{what}: {said:?}");
                eprintln!("figure: {what}: {:?}", begun.elapsed());
            });
        }
    });
}

#[test]
fn a_keeper_with_a_malicious_metadata_server_goes_on_and_gets_no_notice() {
    std::thread::scope(|scope| {
        for (what, attack) in [ATTACKS[0], ATTACKS[5], ATTACKS[7]] {
            scope.spawn(move || {
                let lab = Lab::new();
                lab.declare("a", "idle", "");
                let address = malicious_server(attack);
                let config = lab.config_text().replace(
                    "provider = \"none\"",
                    &format!("provider = \"gcp\"\nmetadata = \"{address}\""),
                );
                lab.write_config(&config);
                let keeper = lab.keeper();
                lab.wait_done("a");
                let health = lab.wait_event("", "metadata-health", 1);
                assert_ne!(health.data["health"], "good", "{what}");
                assert!(lab.status()["notice"].is_null(), "{what}");
                let status =
                    fs::read_to_string(format!("/proc/{}/status", keeper.process.pid)).unwrap();
                let peak = status
                    .lines()
                    .find_map(|line| line.strip_prefix("VmHWM:"))
                    .unwrap();
                let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
                assert!(kilobytes < 200_000, "{what}: {kilobytes} kB");
                lab.run(&["save", "--final"]).ok();
            });
        }
    });
}
