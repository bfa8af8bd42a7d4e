#!/bin/sh
# The baseline of figure 16: a shutdown hook in shell that saves a fleet at the end of a spot VM.
# Written for this bench after what guides describe: ask the metadata server, ask tmux, stash what
# is dirty, write down what was found, and sync last.
#
# Usage: guide.sh DATA-DIR METADATA TMUX-SOCKET
set -eu
data_dir=$1 metadata=$2 socket=$3
save=$data_dir/guide/$(date +%s%N)
mkdir -p "$save"

ask() {
    curl -s -H 'Metadata-Flavor: Google' "http://$metadata/computeMetadata/v1/instance/$1" || true
}

ask preempted >"$save/preempted"
tmux -S "$socket" list-sessions >"$save/sessions" || true
tmux -S "$socket" list-windows -a >"$save/windows" || true
for workspace in "$data_dir"/workspaces/*/; do
    name=$(basename "$workspace")
    tmux -S "$socket" display-message -p -t "$name" '#{pane_current_path}' >>"$save/places" || true
    cd "$workspace"
    if ! git diff --quiet || ! git diff --cached --quiet; then
        git stash push -q -m "preempted" || true
    fi
done
for key in name zone machine-type; do
    ask "$key" >>"$save/instance-info.txt"
done
ln -sfn "$save" "$data_dir/guide/latest"
# Such a hook syncs all disks; here it syncs only this one, so that other writes do not count.
sync -f "$data_dir"
