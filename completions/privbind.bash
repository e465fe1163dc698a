# SPDX-License-Identifier: MIT
# Completion of privbind(1) for bash; what follows the command's name is left to bash-completion where that is loaded.

_privbind_options='-u --user -g --group -G --no-groups -a --allow -n --binds -r --reuse-port -l --library --via
    --no-new-privs --set-home -v --verbose -q --quiet --dry-run --json -h --help --version'

_privbind()
{
    # Not COMP_WORDS: there, colons and equals signs are words of their own.
    local -a words
    local current='' expected='' start='' place=1 letters word
    read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
    if [[ ${COMP_LINE:0:COMP_POINT} == *[![:space:]] ]]; then
        current=${words[-1]}
        unset 'words[-1]'
    fi
    COMPREPLY=()

    for ((; place < ${#words[@]}; ++place)); do
        word=${words[place]}
        if [[ -n $expected ]]; then
            expected=''
            continue
        fi
        case $word in
        --)
            start=$((place + 1))
            break
            ;;
        --user | --group | --allow | --binds | --reuse-port | --library | --via) expected=$word ;;
        --*) ;;
        -?*)
            for ((letters = 1; letters < ${#word}; ++letters)); do
                if [[ ${word:letters:1} == [ugnral] ]]; then
                    ((letters == ${#word} - 1)) && expected=-${word:letters}
                    break
                fi
            done
            ;;
        *)
            start=$place
            break
            ;;
        esac
    done

    if [[ -n $start ]]; then
        _privbind_command "$start" "$current" "${words[@]}"
    elif [[ -n $expected ]]; then
        _privbind_value "$expected" "$current"
    elif [[ $current == --*=* ]]; then
        _privbind_value "${current%%=*}" "${current#*=}" "${current%%=*}="
    elif [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$_privbind_options" -- "$current")
    else
        mapfile -t COMPREPLY < <(compgen -c -- "$current")
    fi
    _privbind_trim "$current"
}

# _privbind_value OPTION BEGUN [BEFORE]
_privbind_value()
{
    local last=${2##*,} before=$3
    case $1 in
    -u | --user) mapfile -t COMPREPLY < <(compgen -u -- "$2") ;;
    -g | --group) mapfile -t COMPREPLY < <(compgen -g -- "$2") ;;
    --via) mapfile -t COMPREPLY < <(compgen -W 'auto bpf seccomp preload ambient' -- "$2") ;;
    -a | --allow)
        compopt -o nosort 2>/dev/null
        before+=${2%"$last"}
        if [[ $last == *:* ]]; then
            before+=${last%:*}:
            mapfile -t COMPREPLY < <(compgen -W "any $(_privbind_services "${last%%:*}")" -- "${last##*:}")
        else
            mapfile -t COMPREPLY < <(compgen -W "tcp: udp: any $(_privbind_services '')" -- "$last")
            [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace 2>/dev/null
        fi
        ;;
    -r | --reuse-port)
        before+=${2%"$last"}
        mapfile -t COMPREPLY < <(compgen -W "any $(_privbind_services '')" -- "$last")
        ;;
    -l | --library)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$2")
        ;;
    esac
    COMPREPLY=("${COMPREPLY[@]/#/$before}")
}

# The services below 1024 of a protocol, of both where that is not named; those that are mostly meant come first.
_privbind_services()
{
    local name port protocol first=''
    local -a rest=()
    while read -r name port _; do
        protocol=${port#*/}
        [[ $name != '#'* && ${port%/*} -lt 1024 && ${1:-$protocol} == "$protocol" ]] || continue
        case $name in
        http | https | domain | ssh | smtp | submission | imaps | ntp) first+=" $name" ;;
        *) rest+=("$name") ;;
        esac
    done 2>/dev/null </etc/services
    for name in http https domain ssh smtp submission imaps ntp; do
        [[ " $first " == *" $name "* ]] && echo "$name"
    done
    printf '%s\n' "${rest[@]}"
}

# _privbind_command START BEGUN WORD...: the command starts at this word
_privbind_command()
{
    local start=$1 current=$2 joined='' offset before
    shift 2
    before=$(printf %s "${@:1:start}")
    if ((start == $#)); then
        mapfile -t COMPREPLY < <(compgen -c -- "$current")
    elif declare -F _command_offset >/dev/null; then
        for ((offset = 0; offset < COMP_CWORD; ++offset)); do
            [[ $joined == "$before" ]] && break
            joined+=${COMP_WORDS[offset]}
        done
        _command_offset "$offset"
    else
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
}

# readline replaces only what comes after the last colon or equals sign.
_privbind_trim()
{
    local kept=$1
    [[ $COMP_WORDBREAKS == *:* ]] && kept=${kept##*:}
    [[ $COMP_WORDBREAKS == *=* ]] && kept=${kept##*=}
    [[ -n $kept || $1 == *[:=] ]] && COMPREPLY=("${COMPREPLY[@]#"${1%"$kept"}"}")
}

complete -F _privbind privbind
