//! Process identity, signals, environment and sessions, from `/proc` and pidfds.
//!
//! A process is identified by its pid and its start time, since a pid alone may be reused.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::command;
use crate::error::{Context as _, Result};

/// A process of this boot: its pid and its start time in clock ticks after boot (field 22 of
/// `/proc/PID/stat`), which together are unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: i32,
    /// Clock ticks after boot.
    pub start_time: u64,
}

impl ProcessId {
    /// Returns the process that now has this pid; `None` if there is none, or only a zombie.
    #[must_use]
    pub fn from_pid(pid: i32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_time) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, start_time })
    }

    /// Returns this process itself.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        let pid = i32::try_from(std::process::id()).context("pid out of range")?;
        Self::from_pid(pid).context("cannot read /proc/self/stat")
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::from_pid(self.pid) == Some(self)
    }

    /// Returns a handle that stays with this process; `None` if it has ended.
    #[must_use]
    pub fn open(self) -> Option<Pidfd> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Opened first, compared after: the pid may have been reused in between.
        self.is_alive().then_some(Pidfd { fd })
    }
}

/// Reads state letter and start time from `/proc/PID/stat`, whose second field may hold anything:
/// the first 15 bytes of a name, which may end within a character.
#[must_use]
pub fn parse_stat(stat: &[u8]) -> Option<(char, u64)> {
    let stat = String::from_utf8_lossy(stat);
    let mut fields = fields_of_stat(&stat)?;
    let state = fields.next()?.chars().next()?;
    // The state is field 3, the start time field 22.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Returns the fields after the name in `/proc/PID/stat`, from field 3 of proc(5).
fn fields_of_stat(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.get(stat.rfind(')')? + 2..)?.split(' '))
}

/// A handle on one process.
#[derive(Debug)]
pub struct Pidfd {
    fd: OwnedFd,
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Pidfd {
    /// Returns the handle of a child that was not waited for yet: it may have ended, but is a
    /// zombie until then, so its pid is still its own.
    pub(super) fn of_child(child: &Child) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(child.id()).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(Self { fd })
    }

    /// Waits until the process has ended, at most until `deadline` (`None`: for ever).
    /// Returns whether it has ended.
    #[must_use]
    pub fn wait(&self, deadline: Option<Instant>) -> bool {
        loop {
            let timeout = deadline.map(|deadline| {
                Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or(
                    Timespec {
                        tv_sec: 60,
                        tv_nsec: 0,
                    },
                )
            });
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return false,
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => return true,
            }
        }
    }

    /// Sends a signal; that the process has ended is not an error.
    pub fn signal(&self, signal: Signal) {
        // The only possible error is ESRCH: it has ended already.
        pidfd_send_signal(&self.fd, signal.into()).ok();
    }
}

/// The signals that are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: asks it to end.
    Term,
    /// SIGKILL: ends it.
    Kill,
    /// SIGINT, which ctrl-C sends: asks it to clean up and end.
    Interrupt,
    /// SIGCHLD: makes it wait for its children.
    Child,
    /// SIGSTOP: suspends it.
    Stop,
}

impl From<Signal> for rustix::process::Signal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Term => Self::TERM,
            Signal::Kill => Self::KILL,
            Signal::Interrupt => Self::INT,
            Signal::Child => Self::CHILD,
            Signal::Stop => Self::STOP,
        }
    }
}

/// Returns every process whose environment holds `marker` (`NAME=value`), except the calling one.
///
/// Processes of other users cannot be read and are left out.
#[must_use]
pub fn with_marker(marker: &str) -> Vec<ProcessId> {
    with_any_marker(&[marker.to_owned()], Instant::now() + EXECUTES_WITHIN)
}

/// Like [`with_marker`], for any of several markers, in one scan of `/proc`. Programs that are just
/// starting are waited for until `until`, all of them together.
#[must_use]
pub fn with_any_marker(markers: &[String], until: Instant) -> Vec<ProcessId> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let me = std::process::id();
    let is_marked = |pid: &i32| {
        environment_of(*pid, until).is_some_and(|environ| {
            let mut pairs = environ.split(|byte| *byte == 0);
            pairs.any(|pair| markers.iter().any(|marker| marker.as_bytes() == pair))
        })
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(me))
        .filter(is_marked)
        .filter_map(ProcessId::from_pid)
        .collect()
}

/// The kernel starts no program with more than 6 MiB of arguments and environment, but a process
/// can set the address of its environment later, and make it large.
const LARGEST_ENVIRONMENT: u64 = 8 << 20;

/// How long a process that is starting its program on a busy machine is waited for before it is
/// read as it is.
pub(crate) const EXECUTES_WITHIN: Duration = Duration::from_secs(1);

/// Returns the whole environment with which a process was started. While the process executes
/// another program, what is read is empty, or ends early; so it counts once it is as long as the
/// kernel says.
pub(crate) fn environment_of(pid: i32, until: Instant) -> Option<Vec<u8>> {
    let mut empty_at = None;
    loop {
        let file = File::open(format!("/proc/{pid}/environ")).ok()?;
        let mut environ = Vec::new();
        file.take(LARGEST_ENVIRONMENT)
            .read_to_end(&mut environ)
            .ok()?;
        let place = place_of_environment(pid);
        let is_whole = place.is_some_and(|(start, end)| {
            let is_empty = start == end && start != 0;
            // For a moment, every new program's environment looks empty: it counts if it stays
            // empty.
            let is_settled = !is_empty || empty_at == Some(start);
            empty_at = Some(start);
            is_settled && end.checked_sub(start) == Some(environ.len())
        });
        if is_whole || Instant::now() > until {
            return Some(environ);
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Returns its start and end address, from the fields 23, 50 and 51 of `stat` (proc(5)); `None`
/// where the process has memory but no environment in it yet. Kernel threads have no memory.
fn place_of_environment(pid: i32) -> Option<(usize, usize)> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let fields: Vec<_> = fields_of_stat(&stat)?.collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<usize>().ok();
    match (number(23)?, number(50)?, number(51)?) {
        (0, ..) => Some((0, 0)),
        (_, 0, _) => None,
        (_, start, end) => Some((start, end)),
    }
}

/// Returns the processes that have something at or below `path` open, or as their working
/// directory, with the name of each; not the calling one. Processes of other users cannot be read
/// and are left out.
#[must_use]
pub fn users_of(path: &Path) -> Vec<(ProcessId, String)> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let me = std::process::id();
    let uses = |pid: i32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        let descriptors = descriptors.into_iter().flatten();
        let open = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok();
        open.chain(cwd).any(|target| target.starts_with(&path))
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(me) && uses(*pid))
        .filter_map(|pid| {
            let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
            let name = String::from_utf8_lossy(&name).trim().to_owned();
            Some((ProcessId::from_pid(pid)?, name))
        })
        .collect()
}

/// Returns the id of this boot: the kernel's boot id and the start time of PID 1, so that a
/// restarted container counts as a new boot. `SPOTKEEP_BOOT_ID` sets it, for drills.
///
/// # Errors
/// `/proc` is not mounted.
pub fn current_boot_id() -> Result<String> {
    if let Ok(boot_id) = std::env::var("SPOTKEEP_BOOT_ID") {
        return Ok(boot_id);
    }
    let boot =
        fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    let init = ProcessId::from_pid(1).context("cannot read the start time of PID 1")?;
    Ok(format!("{}-{}", boot.trim(), init.start_time))
}

/// Returns the duration of this boot by the kernel's clock: since the machine booted, or since the
/// container's first process was started. `None` where it is unknown, or the boot id was set by the
/// environment.
#[must_use]
pub fn since_boot() -> Option<Duration> {
    if std::env::var_os("SPOTKEEP_BOOT_ID").is_some() {
        return None;
    }
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let now = Duration::try_from_secs_f64(seconds).ok()?;
    let ticks = ProcessId::from_pid(1)?.start_time;
    now.checked_sub(Duration::from_millis(
        ticks.saturating_mul(1000) / TICKS_PER_SECOND,
    ))
}

/// The unit of start times in `/proc`: `USER_HZ`, which is 100 on every architecture that Linux has
/// in use.
const TICKS_PER_SECOND: u64 = 100;

/// Returns the memory available without swapping, in bytes (`MemAvailable`).
#[must_use]
pub fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// Returns the kernel's id of the calling thread.
#[must_use]
pub fn this_thread() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Whether a thread of this process waits in the kernel and cannot be interrupted (state `D`), as
/// for a disk. False for one that has ended.
#[must_use]
pub fn thread_is_in_kernel(thread: i32) -> bool {
    fs::read(format!("/proc/self/task/{thread}/stat"))
        .ok()
        .and_then(|stat| parse_stat(&stat))
        .is_some_and(|(state, _)| state == 'D')
}

/// Returns the session of a process; `None` if no process has this pid, or if it was entered from
/// outside of this process namespace, as by `docker exec`: then its session has no number here.
/// getsid(2) returns 0 for it, which rustix takes for impossible.
#[must_use]
pub fn session_of(pid: i32) -> Option<i32> {
    parse_session(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_session(stat: &[u8]) -> Option<i32> {
    let stat = String::from_utf8_lossy(stat);
    let session: i32 = fields_of_stat(&stat)?.nth(3)?.parse().ok()?;
    (session != 0).then_some(session)
}

/// Gives the calling thread the lowest priority.
pub fn set_nice() {
    // Without the permission, it keeps its priority.
    rustix::process::setpriority_process(None, 19).ok();
}

/// Leaves the terminal's session, so that closing the terminal does not end this process.
pub fn leave_terminal() {
    // A process that leads its group already has its own session, and then nothing is to do.
    rustix::process::setsid().ok();
}

/// Resets this process's OOM score adjustment to the default, where its parent, for example
/// spotkeep's tmux server, has a lower one.
pub fn reset_oom_score() {
    let path = "/proc/self/oom_score_adj";
    let score = fs::read_to_string(path).ok();
    if score.is_some_and(|score| score.trim().parse().is_ok_and(|score: i32| score < 0)) {
        // Raising it needs no permission.
        fs::write(path, "0").ok();
    }
}

/// Opens this program for a child that may not reach it by its path: a child that runs as another
/// user executes `/proc/self/fd/N`, which is the path that is returned.
///
/// # Errors
/// The program cannot be opened.
pub fn inheritable_self() -> Result<(File, PathBuf)> {
    let path = std::env::current_exe().context("cannot find the program itself")?;
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())
        .context("cannot pass the program to a child")?;
    let at = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok((file, at))
}

/// Keeps a child from inheriting any descriptor except its input, output and errors: otherwise
/// those that the shell had open when it started this process would be passed on.
pub fn close_descriptors_on_exec() {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten();
    let numbers: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        set_close_on_exec(number);
    }
}

#[expect(
    unsafe_code,
    reason = "the descriptor is borrowed for one call that changes its flag and nothing else; one \
              that was closed meanwhile is an error of that call"
)]
fn set_close_on_exec(number: i32) {
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).ok();
}

/// Lowers the priority of this thread and of the processes that it starts. Not to the very lowest:
/// on a machine where several processes compete for every core, it would get no time for hours.
pub fn lower_priority() {
    // An error costs only speed.
    rustix::process::nice(15).ok();
    // Where processes are scheduled by session, niceness counts within one session only, and this
    // is the session's own (sched(7)). For a session with other processes in it, this would slow
    // them all.
    let me = i32::try_from(std::process::id());
    if me.is_ok_and(|me| session_of(me) == Some(me)) {
        fs::write("/proc/self/autogroup", "15").ok();
    }
    // The I/O class can be set without unsafe code only by another program.
    let mut ionice = Command::new("ionice");
    ionice.args(["-c", "3", "-t", "-p", &std::process::id().to_string()]);
    command::run(&mut ionice, Duration::from_secs(5)).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use testing::wait::{during, until};

    #[test]
    fn the_start_time_is_read_past_a_name_with_spaces_and_brackets() {
        let stat = b"7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(parse_stat(stat), Some(('S', 4242)));
    }

    #[test]
    fn a_process_is_found_by_its_marker_while_it_executes_another_program() {
        let marker = format!("SPOTKEEP_TEST={}", crate::uuid::new_uuid());
        let (key, value) = marker.split_once('=').unwrap();
        let script = "[ $1 -eq 0 ] && exec cat; exec sh -c \"$0\" \"$0\" $(($1 - 1))";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script, script, "300"])
            .env(key, value)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let mut looks = 0;
        while fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() != "cat\n" {
            looks += 1;
            assert_eq!(with_marker(&marker).len(), 1, "look {looks}");
        }
        assert!(looks > 1);
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_name_that_is_cut_within_a_character_hides_no_process() {
        // The kernel keeps 15 bytes of a name, here seven letters of two bytes and half of one.
        let name = c"\u{43f}\u{440}\u{438}\u{43b}\u{43e}\u{436}\u{435}\xd0";
        let thread = std::thread::spawn(move || {
            rustix::thread::set_name(name).unwrap();
            ProcessId::from_pid(this_thread())
        });
        assert!(thread.join().unwrap().is_some());
    }

    #[test]
    fn a_process_entered_from_outside_of_its_namespace_has_no_session() {
        let stat = |session: &str| format!("8 (a ) b) S 1 0 {session} 0 -1 4194560 107");
        assert_eq!(parse_session(stat("7").as_bytes()), Some(7));
        assert_eq!(parse_session(stat("0").as_bytes()), None);
    }

    #[test]
    fn a_process_id_names_one_process_only() {
        let me = ProcessId::current().unwrap();
        assert!(me.is_alive());
        assert!(
            !ProcessId {
                start_time: me.start_time + 1,
                ..me
            }
            .is_alive()
        );
    }

    #[test]
    fn a_process_is_found_by_its_marker_and_its_end_is_seen() {
        let marker = format!("SPOTKEEP_TEST_MARKER={}", uuid::Uuid::new_v4());
        let (key, value) = marker.split_once('=').unwrap();
        let mut child = Command::new("tail")
            .args(["-f", "/dev/null"])
            .env(key, value)
            .spawn()
            .unwrap();
        // Between fork and exec the environment is still the parent's.
        let found = until("one process has the marker", || {
            match with_marker(&marker)[..] {
                [process] => Some(process),
                _ => None,
            }
        });
        let pidfd = found.open().unwrap();
        assert!(!pidfd.wait(Some(Instant::now())));
        pidfd.signal(Signal::Kill);
        during("it ends", || pidfd.wait(None));
        child.wait().unwrap();
        assert!(!found.is_alive());
    }
}
