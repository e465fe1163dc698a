#!/bin/sh
# SPDX-License-Identifier: MIT
# What the DaemonSet does on a node. $NODE is where the node's folders are mounted.
#   node.sh files   put privbind into /opt/privbind and the grants into /etc/privbind/grants.d
#   node.sh load    on the node itself: check and load the grants, write the hook's specification for containerd
#   node.sh remove  take the files away again; what runs keeps its grants until it ends
#   node.sh unload  on the node itself: take the standing grants out of the kernel
set -eu
umask 022
node=${NODE-/node}
image=${IMAGE-/opt/privbind}
grants=${GRANTS-/grants}

# Runs a command of privbind's in the node's own namespaces.
on_node() {
    nsenter --target 1 --mount --cgroup --net -- /opt/privbind/bin/privbindctl "$@"
}

case ${1-} in
files)
    # Whole, beside, and then in the place of the old one: a hook that starts meanwhile finds the one or the other.
    rm -rf "$node/opt/privbind/new" "$node/opt/privbind/old"
    cp -R "$image" "$node/opt/privbind/new"
    for part in bin lib; do
        if [ -e "$node/opt/privbind/$part" ]; then
            mkdir -p "$node/opt/privbind/old"
            mv "$node/opt/privbind/$part" "$node/opt/privbind/old/$part"
        fi
        mv "$node/opt/privbind/new/$part" "$node/opt/privbind/$part"
    done
    rm -rf "$node/opt/privbind/new" "$node/opt/privbind/old"
    mkdir -p "$node/etc/privbind/grants.d"
    cat "$grants/grants.toml" >"$node/etc/privbind/grants.d/.kubernetes"
    chmod 644 "$node/etc/privbind/grants.d/.kubernetes"
    mv "$node/etc/privbind/grants.d/.kubernetes" "$node/etc/privbind/grants.d/kubernetes.toml"
    ;;
load)
    on_node check
    on_node load
    # Where containerd is: its handler starts from this. What is in the way there stays, and is told of.
    on_node oci-install containerd --write || :
    ;;
unload)
    on_node unload
    ;;
remove)
    rm -f "$node/etc/privbind/grants.d/kubernetes.toml"
    rm -rf "$node/opt/privbind/bin" "$node/opt/privbind/lib" "$node/opt/privbind/new" "$node/opt/privbind/old"
    ;;
*)
    echo "node.sh: files, load, unload or remove?" >&2
    exit 2
    ;;
esac
