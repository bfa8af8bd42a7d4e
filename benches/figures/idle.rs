//! Figure 5: CPU time, memory and disk writes of the keeper with an idle fleet.

use std::fs;
use std::time::{Duration, Instant};

use sys::error::{Context as _, Result};

use super::fleet::Fleet;
use super::options::Options;
use super::table::Figure;

/// The limit of CPU time, in percent of a core.
const MUST_CPU: f64 = 0.5;
/// The limit of memory, in KiB.
const MUST_RSS: u64 = 20 << 10;
/// Linux reports CPU time to user space in hundredths of a second (USER_HZ).
const TICKS: f64 = 100.0;
/// How long work after a start lasts, like Claude's housekeeping.
pub const QUIET: Duration = Duration::from_secs(10);

/// The kernel's counters of a process, at one time.
#[derive(Debug)]
pub struct Counters {
    at: Instant,
    ticks: u64,
    write_bytes: u64,
    write_calls: u64,
}

/// CPU time, memory and writes of a process over a period.
#[derive(Debug)]
pub struct Usage {
    /// CPU time, in percent of a core.
    pub percent: f64,
    rss_kib: u64,
    anonymous_kib: u64,
    written: u64,
    calls: u64,
    seconds: f64,
}

impl Usage {
    /// Measures a process for the duration `time`.
    pub fn over(pid: u32, time: Duration) -> Result<Self> {
        let before = Counters::read(pid)?;
        std::thread::sleep(time);
        Self::between(pid, &before, &Counters::read(pid)?)
    }

    fn between(pid: u32, before: &Counters, after: &Counters) -> Result<Self> {
        let seconds = (after.at - before.at).as_secs_f64();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(Self {
            percent: after.percent_since(before),
            rss_kib: field(&status, "VmRSS:")?,
            anonymous_kib: field(&status, "RssAnon:")?,
            written: after.write_bytes - before.write_bytes,
            calls: after.write_calls - before.write_calls,
            seconds,
        })
    }

    /// The memory, in MB.
    pub fn rss_mb(&self) -> Result<f64> {
        mb(self.rss_kib)
    }
}

/// Measures the keeper of an idle fleet, and the tmux server.
pub fn measure(fleet: &Fleet, options: &Options) -> Result<Figure> {
    let (pid, tmux) = (fleet.keeper()?, fleet.tmux_server()?);
    std::thread::sleep(QUIET);
    let before = (Counters::read(pid)?, Counters::read(tmux)?);
    std::thread::sleep(Duration::from_secs(if options.quick { 20 } else { 60 }));
    let keeper = Usage::between(pid, &before.0, &Counters::read(pid)?)?;
    let tmux = Usage::between(tmux, &before.1, &Counters::read(tmux)?)?;
    let Usage {
        percent, written, ..
    } = keeper;
    let (rss_mb, anonymous_mb) = (keeper.rss_mb()?, mb(keeper.anonymous_kib)?);
    Ok(Figure {
        number: 5,
        name: format!("keeper with {} idle agents", fleet.names.len()),
        must: format!("{MUST_CPU} % of a core, 20 MB, no disk write"),
        measured: format!(
            "{percent:.2} %, {rss_mb:.1} MB ({anonymous_mb:.1} anonymous), {written} bytes written"
        ),
        reached: Some(percent < MUST_CPU && keeper.rss_kib < MUST_RSS && written == 0),
        how: format!(
            "over {:.0} s of rest: utime + stime, VmRSS and RssAnon, write_bytes of /proc/PID/io; \
             {} write calls of any kind. The tmux server alone meanwhile: {:.2} %, {:.1} MB",
            keeper.seconds,
            keeper.calls,
            tmux.percent,
            tmux.rss_mb()?
        ),
    })
}

impl Counters {
    /// CPU time since an earlier reading, in percent of a core.
    pub fn percent_since(&self, before: &Self) -> f64 {
        let ticks = u32::try_from(self.ticks - before.ticks).unwrap_or(u32::MAX);
        f64::from(ticks) / TICKS / (self.at - before.at).as_secs_f64() * 100.0
    }

    /// Reads the counters of a process.
    pub fn read(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let rest = stat.rsplit_once(')').context("no stat")?.1;
        // utime and stime are the fields 12 and 13 after the name.
        let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
        let mut next = || Ok::<_, sys::error::Error>(fields.next().context("a short stat")??);
        let ticks = next()? + next()?;
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        Ok(Self {
            at: Instant::now(),
            ticks,
            write_bytes: field(&io, "write_bytes:")?,
            write_calls: field(&io, "syscw:")?,
        })
    }
}

/// Returns the number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line
        .and_then(|rest| rest.split_whitespace().next())
        .context("a field is missing")?;
    Ok(number.parse()?)
}

fn mb(kib: u64) -> Result<f64> {
    Ok(f64::from(u32::try_from(kib)?) / 1024.0)
}
