//! The hands of a set-up: one step, done.

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
use crate::storage::links::{Link, State, aside};
use crate::systemd::install;
use sys::error::{Context as _, Hint as _, Result, anyhow, bail, ensure};
use sys::failpoint::{Point, point};
use sys::prefix::Prefix;
use sys::secure_dir::{Dir, Entry, Ownership};
use sys::{command, files};

/// systemd answers at once; udev may have a queue on a machine that has just booted.
const LIMIT: Duration = Duration::from_secs(30);
/// A mount may replay a journal, and be looked over first.
const MOUNT_LIMIT: Duration = Duration::from_secs(300);

/// Does one step; returns what is worth a line.
///
/// # Errors
/// It cannot be done. What was done before stays, and the next set-up goes on from there.
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

/// Looks once more, immediately before; then formats.
fn format(device: &Device, uuid: &str) -> Result<()> {
    let now = Device::open(&device.name)?;
    ensure!(
        now == *device,
        "{} has changed since it was looked at",
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
    // udev names a new file system a moment after it was made. A machine without udev has nothing to settle.
    run(
        Command::new("udevadm").args(["settle", "--timeout=20"]),
        LIMIT,
    )
    .ok();
    let started = Instant::now();
    run(Command::new("systemctl").args(["start", unit]), MOUNT_LIMIT)
        .with_context(|| {
            format!(
                "{unit} does not start, after {} s",
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

/// The directory that holds what root runs.
fn bin(data_dir: &Path) -> Result<Dir> {
    let dir = Dir::open(data_dir)?.child("bin")?;
    let ownership = dir.ownership()?;
    ensure!(
        ownership.uid == 0 && ownership.mode & 0o022 == 0,
        "others than root can write to {}",
        dir.path().display()
    );
    Ok(dir)
}

/// By rename: a keeper that runs keeps the file that it was started from.
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
    // One that others than root could have written has been set aside with its directory.
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

/// A file that root was told to take for a claude. The copy is for everybody to read, and a path of the user's may lead
/// to anything of root's; so it is a program that everybody may run, and nothing else.
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
        return Err(anyhow!("{} is no program for everybody", from.display())).hint(format!(
            "if it is one: sudo chmod a+rx {}",
            sys::user::in_quotes(&from.display().to_string())
        ));
    }
    Ok(io::Read::take(
        io::Read::chain(io::Cursor::new(magic), file),
        PROGRAM_LIMIT,
    ))
}

/// Copies a claude, asks it for its version as the user, and gives it its place.
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
    // Everything in here is root's own; plain paths do.
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

/// `/workspaces` lies in a directory of root's, and what is in it belongs to the user: who copies is
/// the user, who renames is root.
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
            "sudo chown -R USER {} where files of it are somebody else's",
            link.at.display()
        ))?;
        let aside = aside(&link.at);
        let aside = aside
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let from = name
            .to_str()
            .ok_or_else(|| anyhow!("a path that is no text"))?;
        parent.rename(from, &aside)?;
        said.push(format!(
            "as it was, it is kept as {}",
            parent.path().join(aside).display()
        ));
    }
    parent.link(name, &link.to)?;
    Ok(said)
}
