# SPDX-License-Identifier: MIT
# Completion of privbind(1) and privbindctl(1) for fish.

# Services below 1024; those that are mostly meant come first.
function __privbind_services
    set -l known (string match -rg '^([a-z][\w-]*)\s+(?:[1-9]\d{0,2}|10[01]\d|102[0-3])/' </etc/services 2>/dev/null)
    set -l common http https domain ssh smtp submission imaps ntp
    for name in $common
        contains -- $name $known; and echo $name
    end
    for name in $known
        contains -- $name $common; or echo $name
    end
end

# Rules behind what is there of a list of them: tcp:80,ht… is completed to tcp:80,http.
function __privbind_rules
    set -l word (commandline -ct | string replace -r '^(--\w[\w-]*=|-a)' '')
    set -l before (string match -r '^.*,' -- $word)
    set -l last (string replace -r '^.*,' '' -- $word)
    if set -l protocol (string match -r '^(?:tcp|udp):' -- $last)
        printf "$before$protocol%s\n" any (__privbind_services)
    else
        printf "$before%s\n" tcp: udp: any (__privbind_services)
    end
end

# Ports, without protocols.
function __privbind_ports
    set -l word (commandline -ct | string replace -r '^(--\w[\w-]*=|-r)' '')
    printf (string match -r '^.*,' -- $word)'%s\n' any (__privbind_services)
end

# Where the command that is to be started begins, among the words up to the one that is being written.
function __privbind_start
    set -l words (commandline -opc) (commandline -ct)
    set -l skip 0
    for at in (seq 2 (count $words))
        set -l word $words[$at]
        if test $skip -eq 1
            set skip 0
        else if test "$word" = --
            test $at -lt (count $words); and math $at + 1; and return
        else if string match -qr '^(-[Gvqh]*[ugnrla]|--user|--group|--allow|--binds|--reuse-port|--library|--via)$' -- $word
            set skip 1
        else if not string match -q -- '-*' $word
            echo $at
            return
        end
    end
    return 1
end

# Whether options may still come: the command has not begun, or only its name is being written.
function __privbind_options
    set -l at (__privbind_start)
    or return 0
    test $at -gt (count (commandline -opc))
end

# The command, and its own words as they are completed for that command.
function __privbind_command
    set -l at (__privbind_start)
    or return
    set -l words (commandline -opc) (commandline -ct)
    complete -C (string join ' ' -- (string escape -n -- $words[$at..]))
end

complete -c privbind -f
complete -c privbind -n __privbind_options -s u -l user -x -a '(__fish_complete_users)' -d 'who the command runs as'
complete -c privbind -n __privbind_options -s g -l group -x -a '(__fish_complete_groups)' -d 'group'
complete -c privbind -n __privbind_options -s G -l no-groups -d 'no supplementary groups'
complete -c privbind -n __privbind_options -s a -l allow -x -k -a '(__privbind_rules)' -d 'what may be bound'
complete -c privbind -n __privbind_options -s n -l binds -x -d 'at most NUM successful reserved binds'
complete -c privbind -n __privbind_options -s r -l reuse-port -x -k -a '(__privbind_ports)' -d 'set SO_REUSEPORT on these ports'
complete -c privbind -n __privbind_options -s l -l library -r -F -d 'the shim to preload'
complete -c privbind -n __privbind_options -l via -x -k -a 'auto bpf seccomp preload ambient' -d 'mechanism'
complete -c privbind -n __privbind_options -l no-new-privs -d 'setuid programs and sudo give the command nothing'
complete -c privbind -n __privbind_options -l set-home -d 'HOME, USER, LOGNAME, SHELL of the user'
complete -c privbind -n __privbind_options -s v -l verbose -d 'tell what is done, and why'
complete -c privbind -n __privbind_options -s q -l quiet -d 'no warnings'
complete -c privbind -n __privbind_options -l dry-run -d 'tell what would be done, and do nothing'
complete -c privbind -n __privbind_options -l json -d 'with --dry-run: as JSON'
complete -c privbind -n __privbind_options -s h -l help -d 'print this and end'
complete -c privbind -n __privbind_options -l version -d 'print the version and end'
complete -c privbind -x -a '(__privbind_command)'
