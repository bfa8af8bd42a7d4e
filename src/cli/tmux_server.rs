//! `spotkeep tmux-server`: what `spotkeep-tmux.service` runs.

use std::process::ExitCode;

use crate::keeper::runtime_dir;
use crate::systemd::cgroup::Delegated;
use crate::tmux::Tmux;
use state::layout::DataDir;
use sys::error::Result;
use sys::process;

/// Becomes the tmux server, at the very place where the keeper looks for it.
pub(super) fn run(data_dir: &DataDir) -> Result<ExitCode> {
    let boot_id = process::current_boot_id()?;
    let runtime = runtime_dir::directory(data_dir, &data_dir.identity()?.data_dir_id, &boot_id)?;
    // Without cgroups agents run all the same; then they have no limits of memory.
    Delegated::arrange();
    Err(Tmux::new(&runtime).become_server())
}
