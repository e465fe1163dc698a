# SPDX-License-Identifier: MIT
# Completion of privbindctl(1) for fish. Rules and ports are completed as privbind's own are.

functions -q __privbind_rules
or source (status dirname)/privbind.fish

set -l commands doctor ls allow disallow check load unload test explain watch import-authbind grant revoke oci-install

# The command, if it is there already.
function __privbindctl_command -V commands
    for word in (commandline -opc)[2..]
        if contains -- $word $commands
            echo $word
            return
        end
    end
    return 1
end

# Whether the command is one of these.
function __privbindctl_is
    contains -- (__privbindctl_command; or echo none) $argv
end

# Whether the next word is a user: the first behind the command, where no group is given.
function __privbindctl_wants_user
    set -l words (commandline -opc)
    test (count $words) -eq 2; and __privbindctl_is allow disallow test
end

complete -c privbindctl -f
complete -c privbindctl -n 'not __privbindctl_command' -a doctor -d 'what this host offers'
complete -c privbindctl -n 'not __privbindctl_command' -a ls -d 'every live grant'
complete -c privbindctl -n 'not __privbindctl_command' -a allow -d 'give a standing grant'
complete -c privbindctl -n 'not __privbindctl_command' -a disallow -d 'take it back'
complete -c privbindctl -n 'not __privbindctl_command' -a check -d 'who may bind what'
complete -c privbindctl -n 'not __privbindctl_command' -a load -d 'put the grants into the kernel'
complete -c privbindctl -n 'not __privbindctl_command' -a unload -d 'take them out'
complete -c privbindctl -n 'not __privbindctl_command' -a test -d 'may this user bind this'
complete -c privbindctl -n 'not __privbindctl_command' -a explain -d 'why a bind is refused'
complete -c privbindctl -n 'not __privbindctl_command' -a watch -d 'binds as they happen'
complete -c privbindctl -n 'not __privbindctl_command' -a import-authbind -d 'print those of authbind'
complete -c privbindctl -n 'not __privbindctl_command' -a grant -d 'put a grant on a cgroup'
complete -c privbindctl -n 'not __privbindctl_command' -a revoke -d 'take it off'
complete -c privbindctl -n 'not __privbindctl_command' -a oci-install -d 'files for a container runtime'

complete -c privbindctl -n __privbindctl_wants_user -a '(__fish_complete_users)'
complete -c privbindctl -n '__privbindctl_is allow disallow test; and not __privbindctl_wants_user' -k -a '(__privbind_rules)'
complete -c privbindctl -n '__privbindctl_is explain' -k -a '(__privbind_rules)'
complete -c privbindctl -n '__privbindctl_is check' -F
complete -c privbindctl -n '__privbindctl_is oci-install' -a 'podman docker containerd cri-o'

complete -c privbindctl -n '__privbindctl_is allow disallow' -l group -x -a '(__fish_complete_groups)' -d 'a group and its members'
complete -c privbindctl -n '__privbindctl_is check' -l diff -d 'what a load would change'
complete -c privbindctl -n '__privbindctl_is load' -l dry-run -d 'nothing is loaded'
complete -c privbindctl -n '__privbindctl_is load' -s v -l verbose -d 'say who may bind what; -vv: list the programs, too'
complete -c privbindctl -n '__privbindctl_is allow disallow check load unload grant revoke watch' -l cgroup -x -a '(__fish_complete_directories)' -d 'a cgroup'
complete -c privbindctl -n '__privbindctl_is grant revoke explain' -l pid -x -a '(__fish_complete_pids)' -d 'a process'
complete -c privbindctl -n '__privbindctl_is grant revoke' -l unit -x -d 'a unit of systemd'
complete -c privbindctl -n '__privbindctl_is grant revoke' -l self -d 'the cgroup that privbindctl itself is in'
complete -c privbindctl -n '__privbindctl_is explain watch' -l user -x -a '(__fish_complete_users)' -d 'the user who is meant'
complete -c privbindctl -n '__privbindctl_is grant oci-install' -s a -l allow -x -k -a '(__privbind_rules)' -d 'what may be bound'
complete -c privbindctl -n '__privbindctl_is grant' -s n -l binds -x -d 'at most NUM successful reserved binds'
complete -c privbindctl -n '__privbindctl_is grant' -s r -l reuse-port -x -k -a '(__privbind_ports)' -d 'set SO_REUSEPORT on these ports'
complete -c privbindctl -n '__privbindctl_is oci-install' -l write -d 'write them, where there is nothing else'
complete -c privbindctl -n '__privbindctl_is doctor ls explain watch' -l json -d 'print JSON, for programs'
complete -c privbindctl -n '__privbindctl_is watch' -l journal -d "write to systemd's journal"
complete -c privbindctl -n '__privbindctl_is watch' -l port -x -k -a '(__privbind_ports)' -d 'only binds of these ports'
complete -c privbindctl -n '__privbindctl_is watch' -l refused -d 'only binds that were refused'
complete -c privbindctl -n '__privbindctl_is watch' -l arguments -d 'the command lines, too'
complete -c privbindctl -s h -l help -d 'print this and end'
complete -c privbindctl -l version -d 'print the version and end'
