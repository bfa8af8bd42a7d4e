//! `spotkeep setup --undo`: removes links, units and the mount, never data.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::account::AccountDecision;
use super::user_helper::{Request, User};
use super::{Ask, Progress, SetupSummary, login_line, system_plan};
use crate::storage::filesystem;
use crate::storage::links::{Link, State};
use crate::systemd::install;
use crate::systemd::units::mount_unit;
use sys::command;
use sys::error::{Context as _, Result};
use sys::failpoint::{Point, point};

const LIMIT: Duration = Duration::from_secs(60);

/// Removes what a set-up installed, or with `dry` reports what would be removed.
///
/// # Errors
/// Something cannot be removed.
pub fn run(ask: &Ask, dry: bool, progress: &mut dyn FnMut(Progress)) -> Result<SetupSummary> {
    system_plan::ensure_is_root()?;
    let mut outcome = SetupSummary::default();
    let place = &ask.place;
    let data_dir = place.join(&ask.data_dir);
    let is_mounted = sys::files::is_mount_point(&data_dir).unwrap_or(false);
    let account = match system_plan::account(ask, is_mounted.then_some(data_dir.as_path())) {
        Ok(AccountDecision::There(account)) => Some(account),
        _ => None,
    };
    let mut each = |what: String, act: &mut dyn FnMut() -> Result<Vec<String>>| -> Result<()> {
        outcome.steps += 1;
        if dry {
            progress(Progress::Would(what));
            return Ok(());
        }
        progress(Progress::Doing(what));
        point(Point::UndoStep);
        for line in act()? {
            progress(Progress::Did(line));
        }
        Ok(())
    };
    if let Some(account) = &account {
        if let Some(paths) = system_plan::unit_paths(ask, account)
            && install::differences(place.prefix(), &paths)?.len()
                < crate::systemd::units::render(&paths)?.len()
        {
            each(
                "save and end the agents, and remove the units".into(),
                &mut || {
                    if place.has_systemd() {
                        install::stop()?;
                    }
                    install::disable(place.prefix())?;
                    install::remove(place.prefix(), &paths)?;
                    if place.has_systemd() {
                        install::reload()?;
                    }
                    // The save of the shutdown has run, so this counts as the end of a boot.
                    Ok(vec![
                        "agents resume at the next boot (or now: spotkeep restore)".into(),
                    ])
                },
            )?;
        }
        let user = User::new(account, place)?;
        let request = Request::Look {
            tree: is_mounted.then(|| data_dir.clone()),
            data_dir: data_dir.clone(),
            home: account.home.clone(),
            machine: None,
            claude: false,
        };
        for (link, state) in user.inspect(&request)?.links {
            if state == State::Right {
                each(format!("remove {}", link.at.display()), &mut || {
                    user.act(&Request::Unlink(link.clone()))
                })?;
            }
        }
    }
    for link in [
        Link {
            at: place.join("/workspaces"),
            to: data_dir.join("workspaces"),
        },
        Link {
            at: place.join("/usr/local/bin/spotkeep"),
            to: data_dir.join("bin/spotkeep"),
        },
    ] {
        if fs::read_link(&link.at).is_ok_and(|target| target == link.to) {
            each(format!("remove {}", link.at.display()), &mut || {
                Ok(link.undo()?.into_iter().collect())
            })?;
        }
    }
    if place.join(login_line::PATH).exists() {
        each("remove the line at the login".into(), &mut || {
            login_line::remove(place.prefix())?;
            Ok(Vec::new())
        })?;
    }
    let units = place.join("/etc/systemd/system");
    let unit = mount_unit(&data_dir);
    if units.join(&unit).exists() {
        each(
            format!(
                "unmount {} and remove {unit}; the data stay",
                data_dir.display()
            ),
            &mut || remove_mount(&units, &unit, place.has_systemd(), &data_dir, is_mounted),
        )?;
    }
    Ok(outcome)
}

fn remove_mount(
    units: &Path,
    unit: &str,
    has_systemd: bool,
    data_dir: &Path,
    is_mounted: bool,
) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let text = fs::read_to_string(units.join(unit)).unwrap_or_default();
    let device = text.lines().find_map(|line| line.strip_prefix("What="));
    if let Some(device) = device {
        let name = mount_unit(Path::new(device));
        let device = name.trim_end_matches(".mount");
        for (dir, file) in [("d", "spotkeep.conf"), ("wants", unit)] {
            let dir = units.join(format!("{device}.device.{dir}"));
            ignore_missing(fs::remove_file(dir.join(file)), &dir)?;
            // Files of another program may be in it.
            fs::remove_dir(&dir).ok();
        }
    }
    ignore_missing(
        fs::remove_file(units.join("multi-user.target.wants").join(unit)),
        units,
    )?;
    ignore_missing(fs::remove_file(units.join(unit)), units)?;
    if is_mounted && let Err(error) = filesystem::unmount(data_dir) {
        said.push(format!("{error:#}; it is unmounted at the next boot"));
    }
    if has_systemd {
        command::run(Command::new("systemctl").arg("daemon-reload"), LIMIT)?;
    }
    Ok(said)
}

fn ignore_missing(removed: std::io::Result<()>, at: &Path) -> Result<()> {
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove something in {}", at.display()))
        }
        _ => Ok(()),
    }
}
