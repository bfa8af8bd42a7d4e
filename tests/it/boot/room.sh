# $0 is the room's directory, $1 the image, $2 its cgroups, the rest what is to be run in it.
dir=$0 image=$1 groups=$2
shift 2
ip link set lo up
ip address add 169.254.169.254/32 dev lo
for group in $groups; do echo 0 >"$group/cgroup.procs" || true; done
# What containers leave in /run is in memory of our own.
mount -t tmpfs tmpfs /run
mkdir "$dir/tree"
mount -o loop,ro "$image" "$dir/tree"
exec "$@"
