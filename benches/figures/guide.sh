#!/bin/sh
# The baseline of figure 16: how a guide of the time saves a fleet at the end of a spot VM, by hooks
# and shell. Written by us, after what such a hook does: ask the metadata server, ask tmux, stash
# what is dirty, write down what was found, and sync last.
#
# Usage: guide.sh ROOT METADATA TMUX-SOCKET
set -eu
root=$1 metadata=$2 socket=$3
save=$root/guide/$(date +%s%N)
mkdir -p "$save"

ask() {
    curl -s -H 'Metadata-Flavor: Google' "http://$metadata/computeMetadata/v1/instance/$1" || true
}

ask preempted >"$save/preempted"
tmux -S "$socket" list-sessions >"$save/sessions" || true
tmux -S "$socket" list-windows -a >"$save/windows" || true
for workspace in "$root"/workspaces/*/; do
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
ln -sfn "$save" "$root/guide/latest"
# All disks, in such a hook; this one only, so that nothing else on the machine counts against it.
sync -f "$root"
