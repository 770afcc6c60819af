"""Shell completion: a script for bash, printed by `./run.sh help completion`."""

from __future__ import annotations

from src.config import keys
from src.help.known import choices
from src.verbs import VERBS
from src.words import GROUPS


def completion() -> str:
    """A script for bash: verbs, keys, and the values of those that have a list of them; runs by their folders."""
    every = [key for key in keys() if not any(other.startswith(f"{key}.") for other in keys())]
    values = {key: choices(key) for key in [*every, *GROUPS] if choices(key)}
    for verb in VERBS.values():
        for key in list(values):
            if verb.section and key.startswith(f"{verb.section}."):
                values.setdefault(key.partition(".")[2], values[key])
    own = sorted({word for verb in VERBS.values() for word in (verb.words or ())} | {"model"})
    cases = "\n".join(f"        {key}) words={' '.join(found)!r} ;;" for key, found in values.items())
    return f"""\
# eval "$(./run.sh help completion)"   in bash, or in ~/.bashrc from the checkout's folder
_kfold() {{
    local line word key words IFS=$' \\t\\n'
    line=${{COMP_LINE:0:COMP_POINT}}
    word=${{line##* }}
    if [[ $word != *=* ]]; then
        words='{" ".join([*every, *GROUPS, *own])}'
        COMPREPLY=($(compgen -S = -W "$words" -- "$word"))
        compopt -o nospace
        if [[ ${{line% *}} != *' '* || ${{line% *}} == *' help' ]]; then
            words='{" ".join([*VERBS, "help"])}'
            COMPREPLY+=($(compgen -W "$words" -- "$word"))
            [[ ${{line% *}} == *' help' ]] && COMPREPLY=("${{COMPREPLY[@]%=}}")
        fi
        return
    fi
    key=${{word%%=*}} word=${{word#*=}} words=
    case $key in
{cases}
        run|teacher|prune.run|runs|diff)
            compopt -o nospace
            local before=${{word%"${{word##*[\\[,]}}"}}
            words=$(for folder in runs/*/; do folder=${{folder%/}}; echo "$before${{folder##*/}}"; done) ;;
        *.root|root|data|*.weights|*.solution|solution|submission|*.file|paths.*)
            COMPREPLY=($(compgen -f -- "$word")); compopt -o filenames; return ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -F _kfold ./run.sh run.sh"""
