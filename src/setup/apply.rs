//! Execution of one step of a set-up.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::account::{self, Account};
use super::steps::Step;
use super::system_plan::{OWNER, unit_paths};
use super::user_helper::{PROGRAM_LIMIT, Request, User};
use super::{Ask, first_boot_script, layout, login_line, packages};
use crate::storage::blank_check::{self, Content};
use crate::storage::device::Device;
use crate::storage::filesystem::{self, FilesystemKind};
use crate::storage::links::{Link, State, quarantine_path};
use crate::systemd::install;
use sys::error::{Context as _, Hint as _, Result, anyhow, bail, ensure};
use sys::failpoint::{Point, point};
use sys::prefix::Prefix;
use sys::secure_dir::{Dir, Entry, Ownership};
use sys::{command, files};

/// systemd answers at once; udev may have a queue on a machine that has just booted.
const LIMIT: Duration = Duration::from_secs(30);
/// A mount may replay a journal, and run fsck first.
const MOUNT_LIMIT: Duration = Duration::from_secs(300);

/// Does one step; returns lines for the user.
///
/// # Errors
/// The step fails. What was done before stays, and the next set-up continues from there.
pub fn apply(step: &Step, ask: &Ask, account: Option<&Account>) -> Result<Vec<String>> {
    let place = &ask.place;
    let data_dir = place.join(&ask.data_dir);
    let owner = || account.context("no account yet");
    let as_user = |request: Request| User::new(owner()?, place)?.act(&request);
    match step {
        Step::Install(names) => packages::install(names)?,
        Step::Format { device, uuid } => format(device, uuid)?,
        Step::MountPoint(at) => {
            fs::create_dir_all(at).with_context(|| format!("cannot create {}", at.display()))?;
        }
        Step::MountUnit { files, links } => mount_unit(place, files, links)?,
        Step::Mount {
            device,
            kind,
            at,
            unit,
        } => mount(device, *kind, at, unit.as_deref())?,
        Step::Grow {
            device,
            kind,
            at,
            is_mounted,
            ..
        } => filesystem::grow(*kind, device, is_mounted.then_some(at))?,
        Step::Account(requested) => {
            account::make(place, requested)?;
        }
        Step::Layout(..) => {
            let owner = owner()?;
            layout::apply(&Dir::open(&data_dir)?, owner.uid, owner.gid)?;
        }
        Step::Inhabit => {
            let user = owner()?.name.clone();
            let unattended = ask.unattended;
            return as_user(Request::Inhabit {
                data_dir,
                user,
                unattended,
            });
        }
        Step::Remember(owner) => {
            let mut text = serde_json::to_vec_pretty(owner)?;
            text.push(b'\n');
            bin(&data_dir)?.replace(OWNER, 0o644, |file| Ok(io::Write::write_all(file, &text)?))?;
        }
        Step::Program { replaces } => program(&data_dir, *replaces)?,
        Step::Command(at) => command(at, &data_dir)?,
        Step::Claude { from, by_root, .. } => {
            return claude(&data_dir, from, *by_root, &User::new(owner()?, place)?);
        }
        Step::Link(link, _) => return as_user(Request::Link(link.clone())),
        Step::Workspaces(link, state) => return workspaces(link, state, as_user),
        Step::Retain => return as_user(Request::Retain { data_dir }),
        Step::Units(_) => {
            let paths = unit_paths(ask, owner()?).context("there is no systemd")?;
            install::install(place.prefix(), &paths)?;
            if place.has_systemd() {
                install::reload()?;
            }
            install::enable(place.prefix())?;
        }
        Step::LoginLine => {
            let uid = owner()?.uid;
            login_line::install(
                place.prefix(),
                &data_dir.join("bin/spotkeep"),
                &data_dir,
                uid,
            )?;
        }
        Step::Script(_) => {
            let machine = first_boot_script::stamp(place)?;
            return as_user(Request::NewMachine { data_dir, machine });
        }
        Step::Start { restart: false } => install::start()?,
        Step::Start { restart: true } => install::restart_keeper()?,
    }
    Ok(Vec::new())
}

/// Checks again that the device is blank, immediately before formatting it.
fn format(device: &Device, uuid: &str) -> Result<()> {
    let now = Device::open(&device.name)?;
    ensure!(
        now == *device,
        "{} has changed since it was checked",
        device.name.display()
    );
    match blank_check::scan(&now)? {
        Content::Blank => filesystem::make(&now, uuid),
        _ => bail!("{} is not blank any more", device.name.display()),
    }
}

fn mount_unit(
    place: &Prefix,
    files: &[(PathBuf, String)],
    links: &[(PathBuf, PathBuf)],
) -> Result<()> {
    for (path, text) in files {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        files::write_atomic(path, text.as_bytes())?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    }
    for (link, target) in links {
        if let Some(dir) = link.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        if fs::symlink_metadata(link).is_ok_and(|meta| meta.is_symlink()) {
            fs::remove_file(link)?;
        }
        std::os::unix::fs::symlink(target, link)
            .with_context(|| format!("cannot make the link {}", link.display()))?;
    }
    if place.has_systemd() {
        install::reload()?;
    }
    Ok(())
}

fn mount(device: &Path, kind: FilesystemKind, at: &Path, unit: Option<&str>) -> Result<()> {
    let Some(unit) = unit else {
        filesystem::mount(device, kind, kind.options(), at)?;
        return mounted(at);
    };
    // udev creates the names of a new file system with a delay. Without udev there is nothing to
    // wait for.
    run(
        Command::new("udevadm").args(["settle", "--timeout=20"]),
        LIMIT,
    )
    .ok();
    let started = Instant::now();
    run(Command::new("systemctl").args(["start", unit]), MOUNT_LIMIT)
        .with_context(|| {
            format!(
                "{unit} did not start, after {} s",
                started.elapsed().as_secs()
            )
        })
        .hint(format!("systemctl status {unit}"))?;
    mounted(at)
}

fn mounted(at: &Path) -> Result<()> {
    ensure!(
        files::is_mount_point(at)?,
        "nothing is mounted at {}",
        at.display()
    );
    Ok(())
}

fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let output = command::run(command, limit)?;
    if !output.status.success() {
        bail!("{}", output.stderr.replace('\n', "; "));
    }
    Ok(())
}

/// The directory `bin`, whose programs root runs.
fn bin(data_dir: &Path) -> Result<Dir> {
    let dir = Dir::open(data_dir)?.child("bin")?;
    let ownership = dir.ownership()?;
    ensure!(
        ownership.uid == 0 && ownership.mode & 0o022 == 0,
        "users other than root can write to {}",
        dir.path().display()
    );
    Ok(dir)
}

/// Replaces the program by rename: a running keeper keeps the file from which it was started.
fn program(data_dir: &Path, replaces: bool) -> Result<()> {
    let bin = bin(data_dir)?;
    let copy = |from: &Path, to: &str| {
        let mut source =
            File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
        bin.replace(to, 0o755, |file| {
            io::copy(&mut source, file)?;
            Ok(())
        })
    };
    // A program that others than root could have written was quarantined with its directory.
    if replaces && bin.entry("spotkeep")? != Entry::Absent {
        copy(&bin.path().join("spotkeep"), "spotkeep.prev")?;
        point(Point::SetupPrevious);
    }
    copy(&std::env::current_exe()?, "spotkeep")
}

fn command(at: &Path, data_dir: &Path) -> Result<()> {
    if fs::symlink_metadata(at).is_ok_and(|meta| meta.is_symlink()) && !at.exists() {
        fs::remove_file(at)?;
    }
    std::os::unix::fs::symlink(data_dir.join("bin/spotkeep"), at)
        .with_context(|| format!("cannot make the link {}", at.display()))
}

/// Opens the file that root named as a claude. Every user can read the copy, and a path in the
/// user's directories may lead to any file of root's; so only a program that every user may run is
/// accepted.
fn program_of_root(from: &Path) -> Result<impl io::Read> {
    let opening = || format!("cannot open {}", from.display());
    let place = fs::canonicalize(from).with_context(opening)?;
    let mut file = files::open_no_follow(&place).with_context(opening)?;
    let meta = file.metadata()?;
    let mut magic = [0; 4];
    let is_program = meta.is_file()
        && meta.len() < PROGRAM_LIMIT
        && meta.mode() & 0o005 == 0o005
        && io::Read::read_exact(&mut file, &mut magic).is_ok()
        && (magic == *b"\x7fELF" || magic.starts_with(b"#!"));
    if !is_program {
        return Err(anyhow!(
            "{} is not a program that every user can run",
            from.display()
        ))
        .hint(format!(
            "if it is one: sudo chmod a+rx {}",
            sys::user::in_quotes(&from.display().to_string())
        ));
    }
    Ok(io::Read::take(
        io::Read::chain(io::Cursor::new(magic), file),
        PROGRAM_LIMIT,
    ))
}

/// Copies a claude, runs its `--version` as the user, and puts it into the directory of that
/// version.
fn claude(data_dir: &Path, from: &Path, by_root: bool, user: &User) -> Result<Vec<String>> {
    const DRAFT: &str = ".new";
    let bin = bin(data_dir)?;
    let dir = match bin.entry("claude")? {
        Entry::Absent => {
            let dir = bin.make("claude")?;
            dir.chown(Ownership {
                uid: 0,
                gid: 0,
                mode: 0o755,
            })?;
            dir
        }
        _ => bin.child("claude")?,
    };
    // Only root can change anything in here, so plain paths are safe.
    let draft = dir.path().join(DRAFT);
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    let new = dir.make(DRAFT)?;
    new.chown(Ownership {
        uid: 0,
        gid: 0,
        mode: 0o755,
    })?;
    new.replace("claude", 0o755, |file| {
        if by_root {
            io::copy(&mut program_of_root(from)?, file)?;
            Ok(())
        } else {
            user.fetch(from, file)
        }
    })?;
    let placed = user
        .version(&new.path().join("claude"))
        .and_then(|version| {
            if dir.path().join(&version).join("claude").is_file() {
                return Ok(format!("claude {version} is on the disk already"));
            }
            dir.rename(DRAFT, &version)?;
            Ok(format!("claude {version} is on the disk"))
        });
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    let said = placed?;
    dir.sync()?;
    Ok(vec![said])
}

/// Makes the link `/workspaces`. It is in a directory of root's, and its content belongs to the
/// user: the user's process copies, root renames.
fn workspaces(
    link: &Link,
    state: &State,
    as_user: impl Fn(Request) -> Result<Vec<String>>,
) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let parent = Dir::open(link.at.parent().unwrap_or(Path::new("/")))?;
    let name = link.at.file_name().unwrap_or_default();
    if let State::Content { .. } = state {
        link.refuse_in_use()?;
        said = as_user(Request::CopyIn(link.clone())).hint(format!(
            "sudo chown -R USER {}    # if files in it belong to another user",
            link.at.display()
        ))?;
        let old = quarantine_path(&link.at);
        let old = old
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let from = name
            .to_str()
            .ok_or_else(|| anyhow!("{} is not valid UTF-8", link.at.display()))?;
        parent.rename(from, &old)?;
        said.push(format!(
            "the original is kept as {}",
            parent.path().join(old).display()
        ));
    }
    parent.link(name, &link.to)?;
    Ok(said)
}
