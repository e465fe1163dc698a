# SPDX-License-Identifier: MIT
# Completion of privbindctl(1) for bash. Rules are completed as privbind's own are.

if ! declare -F _privbind_value >/dev/null; then
    # shellcheck source=completions/privbind.bash
    . "${BASH_SOURCE[0]%/*}/privbind$([[ ${BASH_SOURCE[0]} == *.bash ]] && echo .bash)"
fi

declare -A _privbindctl_options=(
    [doctor]='--json' [ls]='--json' [allow]='--group --cgroup' [disallow]='--group --cgroup'
    [check]='--diff --cgroup' [load]='--dry-run -v --verbose --cgroup' [unload]='--cgroup' [test]=''
    [explain]='--user --pid --json'
    [watch]='--json --journal --port --user --refused --arguments --cgroup' [import-authbind]=''
    [grant]='--pid --unit --cgroup --self -a --allow -n --binds -r --reuse-port'
    [revoke]='--pid --unit --cgroup --self' [oci-install]='--write -a --allow'
)

_privbindctl()
{
    # Not COMP_WORDS: there, colons and equals signs are words of their own.
    local -a words
    local current='' command='' expected='' group='' count=0 word
    read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
    if [[ ${COMP_LINE:0:COMP_POINT} == *[![:space:]] ]]; then
        current=${words[-1]}
        unset 'words[-1]'
    fi
    COMPREPLY=()

    for word in "${words[@]:1}"; do
        if [[ -n $expected ]]; then
            expected=''
            continue
        fi
        case $word in
        --group | --user | --port | --cgroup | --pid | --unit | -a | --allow | -n | --binds | -r | --reuse-port) expected=$word ;;&
        --group | --group=*) group=1 ;;
        -*) ;;
        *) if [[ -z $command ]]; then command=$word; else ((++count)); fi ;;
        esac
    done

    if [[ -n $expected ]]; then
        _privbindctl_value "$expected" "$current"
    elif [[ $current == --*=* ]]; then
        _privbindctl_value "${current%%=*}" "${current#*=}"
        COMPREPLY=("${COMPREPLY[@]/#/"${current%%=*}="}")
    elif [[ $current == -* ]]; then
        word=${_privbindctl_options[${command:-none}]-${_privbindctl_options[*]}}
        mapfile -t COMPREPLY < <(compgen -W "$word -h --help --version" -- "$current" | sort -u)
    elif [[ -z $command ]]; then
        mapfile -t COMPREPLY < <(compgen -W "${!_privbindctl_options[*]}" -- "$current")
    elif [[ $command == check ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    elif [[ $command == oci-install ]]; then
        mapfile -t COMPREPLY < <(compgen -W 'podman docker containerd cri-o' -- "$current")
    elif [[ $command == explain ]]; then
        _privbind_value --allow "$current"
    elif [[ $command == allow || $command == disallow || $command == test ]]; then
        if [[ -z $group && $count -eq 0 ]]; then
            _privbind_value --user "$current"
        else
            _privbind_value --allow "$current"
        fi
    fi
    _privbind_trim "$current"
}

# _privbindctl_value OPTION BEGUN
_privbindctl_value()
{
    case $1 in
    --group) _privbind_value --group "$2" ;;
    --user) _privbind_value --user "$2" ;;
    -a | --allow) _privbind_value --allow "$2" ;;
    -r | --reuse-port | --port) _privbind_value --reuse-port "$2" ;;
    --cgroup)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$2")
        ;;
    esac
}

complete -F _privbindctl privbindctl
