//! `spotkeep tmux-server`: the main process of `spotkeep-tmux.service`.

use std::process::ExitCode;

use crate::keeper::runtime_dir;
use crate::systemd::cgroup::Delegated;
use crate::tmux::Tmux;
use state::layout::DataDir;
use sys::error::Result;
use sys::process;

/// Becomes the tmux server, on the socket that the keeper uses.
pub(super) fn run(data_dir: &DataDir) -> Result<ExitCode> {
    let boot_id = process::current_boot_id()?;
    let runtime = runtime_dir::directory(data_dir, &data_dir.identity()?.data_dir_id, &boot_id)?;
    // Without cgroups, agents run without memory limits.
    Delegated::arrange();
    Err(Tmux::new(&runtime).become_server())
}
