# SPDX-License-Identifier: MIT
# Completion of privbindctl(1) for bash.

_privbindctl()
{
    local current=${COMP_WORDS[COMP_CWORD]} word words='doctor ls'
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $word == doctor || $word == ls ]] && words=''
    done
    [[ $current == -* ]] && words='--json -h --help --version'
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

complete -F _privbindctl privbindctl
