"""`./run.sh help WORD`: what a key or a verb means, its default and choices, and an example; and shell completion.

The meanings are the comments of src/config/schema.py, so that they cannot part from the keys.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import tokenize
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from src.config import RUNTIME_KEYS, Config, defaults, keys, kind_of, unknown_key
from src.config import schema as schema_of_keys
from src.config.limits import LIMITS
from src.errors import UserError, nearest
from src.search.tricks import WORDS
from src.verbs import VERBS, Verb
from src.words import ALIASES, GROUPS, group_choices, usage

# Where neither a default nor a choice shows what a value looks like, or where another one says more.
EXAMPLES = {
    "augment.rotate": "augment.rotate=15",
    "augment.shear": "augment.shear=8",
    "augment.crop_area": "augment.crop_area=[0.35,1.0]",
    "augment.crop_ratio": "augment.crop_ratio=[0.9,1.1]",
    "average.ema": "average.ema=0.9995",
    "average.swa_start": "average.swa_start=0.8",
    "balance": "balance=0.5",
    "combined": "./run.sh ensemble runs=[a,b] run=ab",
    "competition.few": "competition.few=20",
    "distill.confidence": "distill.confidence=0.8",
    "epochs": "epochs=30",
    "eval.crop": "eval.crop=1.0",
    "least_steps": "least_steps=500",
    "optimizer.layer_decay": "optimizer.layer_decay=0.75",
    "optimizer.momentum": "optimizer.momentum=0.95",
    "schedule.decay": "schedule.decay=0.9",
    "schedule.drops": "schedule.drops=[0.5,0.75]",
    "schedule.final": "schedule.final=0.01",
    "size": "size=224",
    "augment.albumentations": "'augment.albumentations=[{GaussianBlur: {p: 0.2}}]'",
    "batch_size": "batch_size=auto",
    "competition.array": "competition.array=image",
    "competition.classes": "competition.classes=[cat,dog,none]",
    "competition.group_column": "competition.group_column=patient",
    "competition.group_csv": "competition.group_csv=patients.csv",
    "competition.id_column": "competition.id_column=image_id",
    "competition.long": "competition.long=label",
    "competition.metric": "competition.metric=qwk",
    "competition.metric_weights": "'competition.metric_weights={grapheme_root: 2}'",
    "competition.metrics": "competition.metrics=[accuracy,auc]",
    "competition.name": "competition.name=birds",
    "competition.new": "competition.new=new_whale",
    "competition.pixel_shape": "competition.pixel_shape=[28,28]",
    "competition.pixels": "'competition.pixels=[pixel*]'",
    "competition.positive": "competition.positive=melanoma",
    "competition.range": "competition.range=[0,4095]",
    "competition.root": "competition.root=data/birds",
    "competition.rows": "competition.rows=\"'{id}_{target}'\"",
    "competition.sample_csv": "competition.sample_csv=sampleSubmission.csv",
    "competition.sample_id_column": "competition.sample_id_column=Id",
    "competition.solution": "competition.solution=solution.csv",
    "competition.target_column": "competition.target_column=label",
    "competition.target_columns": "competition.target_columns=[healthy,rust,scab]",
    "competition.test_csv": "competition.test_csv=null",
    "competition.test_id_column": "competition.test_id_column=image_id",
    "competition.test_images": "'competition.test_images=test.zip/{id}.jpg'",
    "competition.train_csv": "competition.train_csv=labels.csv",
    "competition.train_images": "'competition.train_images=images/{label}/{id}.png'",
    "distill.views": "distill.views=d4",
    "fold": "fold=all",
    "folds.file": "folds.file=folds/mine.csv",
    "model.freeze": "'model.freeze=2 epochs'",
    "model.name": "model=resnet50",
    "model.options": "model.options.stem_type=deep",
    "model.output_stride": "model.output_stride=16",
    "model.activation": "model.activation=silu",
    "model.weights": "model.weights=weights/resnet50.safetensors",
    "optimizer.clip": "optimizer.clip=1",
    "optimizer.name": "optimizer.name=adamw",
    "average.swa_lr": "average.swa_lr=0.1",
    "average.swa_every": "'average.swa_every=2 epochs'",
    "eval.batch_size": "eval.batch_size=128",
    "loss.flip_labels": "loss.flip_labels=0.1",
    "paths.cache": "paths.cache=/tmp/cache",
    "paths.folds": "paths.folds=folds",
    "paths.input": "paths.input=/kaggle/input",
    "paths.runs": "paths.runs=results/runs",
    "paths.submissions": "paths.submissions=results",
    "processes": "processes=2",
    "prune.run": "./run.sh prune run=digits-resnet10t ratio=0.5",
    "run": "run=wider-crops",
    "runs": "./run.sh ensemble runs=[a,b,c]",
    "schedule.every": "'schedule.every=1 epochs'",
    "schedule.momentum": "schedule.kind=one_cycle schedule.momentum=[0.95,0.85]",
    "schedule.warmup": "'schedule.warmup=2 epochs'",
    "session.limit": "session.limit=9h",
    "session.reserve": "session.reserve=20m",
    "session.tpu_limit": "session.tpu_limit=8h",
    "sizes": "./run.sh sizes run=NAME sizes=[96,112,128]",
    "stack.features": "./run.sh stack runs=[a,b] features=[backbone]",
    "stages": "'stages=[{length: 30%, size: 0.75},{length: 70%}]'",
    "teacher": "./run.sh distill teacher=ensemble fold=all",
    "time_budget": "time_budget=8.5h",
    "tta": "tta=d4",
    "wandb.entity": "wandb.entity=my-team",
    "wandb.project": "wandb.project=birds",
    "workers": "workers=4",
    "model.drop_path_rate": "model.drop_path_rate=0.1",
    "model.drop_rate": "model.drop_rate=0.2",
}  # fmt: skip
# A command that shows each verb at work; `train` is the verb without a name.
COMMANDS = {
    "train": "./run.sh fold=all competition.root=data/birds competition.metric=auc",
    "init": "./run.sh init data=data/birds metric=auc",
    "predict": "./run.sh predict run=birds-resnet50 tta=d4",
    "distill": "./run.sh distill teacher=birds-climb fold=all",
    "prune": "./run.sh prune run=birds-resnet50 ratio=0.5 epochs=5",
    "features": "./run.sh features model=resnet50 size=128 run=backbone",
    "ensemble": "./run.sh ensemble runs=[a,b,c] method=climb run=abc",
    "stack": "./run.sh stack runs=[a,b] features=[backbone] learner=logistic run=stacked",
    "frozen": "./run.sh frozen model=resnet50 size=96",
    "prepare": "./run.sh prepare competition.root=data/birds",
    "lr_find": "./run.sh lr_find competition.root=data/birds",
    "sizes": "./run.sh sizes run=birds-resnet50 sizes=[96,112,128]",
    "soup": "./run.sh soup runs=[a,b,c] method=greedy run=abc-soup",
    "ablate": "./run.sh ablate tricks=[mixup,gem,loss.gamma=1] seeds=2",
    "ladder": "./run.sh ladder tricks=[mixup,gem] rungs=[0.25,0.5,1]",
    "score": "./run.sh score submission=submissions/a.csv solution=solution.csv",
    "smoke": "./run.sh smoke competition.root=data/birds",
    "runs": "./run.sh runs filter=[model=resnet*,size>=128] sort=test",
    "report": "./run.sh report run=birds-resnet50",
    "bench": "./run.sh bench loader root=data/birds",
    "test": "./run.sh test -k loader",
}


def answer(words: list[str]) -> str:
    """What `./run.sh help WORDS` prints. Raises UserError for a word that is neither a key nor a verb."""
    if not words:
        return (
            f'{usage()}\n\n./run.sh help KEY or VERB explains one; eval "$(./run.sh help completion)" completes in bash'
        )
    return "\n\n".join(_about(word.partition("=")[0].lstrip("+~")) for word in words)


def _about(word: str) -> str:
    if word == "completion":
        return completion()
    if word in GROUPS:
        return _of_group(word)
    if word in VERBS:  # `runs` is a key as well
        verb = of_verb(VERBS[word])
        return f"{verb}\n\n{of_key(word)}" if word in keys() else verb
    full = ALIASES.get(word, word)
    if full in keys():
        section = dataclasses.is_dataclass(kind_of(full))
        both = f"\n\n{_of_section(word)}" if full != word else ""
        return (_of_section(full) if section else of_key(full)) + both
    owned = [key for key in keys() if key.rsplit(".", 1)[-1] == word]
    if owned:  # lr, mixup: people leave the section out
        return "\n\n".join(of_key(key) for key in owned)
    every = [*VERBS, *keys(), *GROUPS, *ALIASES, "completion"]
    if close := nearest(word, every):
        raise UserError(f"help: {word!r} is neither a key nor a verb{close}")
    raise UserError(f"help: {unknown_key(word, keys())}")


def of_verb(verb: Verb) -> str:
    """Meaning, own words, what it starts from and an example."""
    lines = [f"./run.sh {verb.name}: {verb.help}"]
    words = WORDS.get(verb.name) if verb.compares else verb.words
    if words:
        lines.append(
            f"  takes     {', '.join(f'{name}=' for name in words)}" + ("" if verb.base is None else " and keys")
        )
    elif words is None:
        lines.append("  takes     its own words, as they are typed")
    else:
        lines.append("  takes     any key")
    if verb.section:
        own = [key.rpartition(".")[2] for key in keys() if key.startswith(f"{verb.section}.")]
        lines.append(f"  its keys  {', '.join(f'{name}=' for name in own)} (in full {verb.section}.{own[0]}= …)")
    if verb.preferred:
        lines.append(f"  unless said otherwise  {' '.join(verb.preferred)}")
    return "\n".join([*lines, f"  example   {COMMANDS[verb.name]}"])


def of_key(key: str) -> str:
    """Meaning, default, choices or kind of value, limits, and an example."""
    meaning, hint = meanings().get(key, ""), kind_of(key)
    lines = [f"{key}: {meaning}" if meaning else key]
    lines.append(f"  default   {shown(_default(key))}")
    found = choices(key)
    lines.append(f"  choices   {', '.join(found)}" if found else f"  value     {describe(hint)}")
    if key in LIMITS:
        lines.append(f"  limits    {LIMITS[key][1]}")
    if any(key == each or key.startswith(f"{each}.") for each in RUNTIME_KEYS):
        lines.append("  may differ between two starts of one run")
    return "\n".join([*lines, f"  example   {example(key)}"])


def example(key: str) -> str:
    """`./run.sh …` with a value that is not the default."""
    text = EXAMPLES.get(key) or f"{key}={_other_value(key)}"
    if text.startswith("./run.sh"):
        return text
    section = key.partition(".")[0]
    verb = next((verb for verb in VERBS.values() if verb.section == section), None)
    if verb is not None and section not in ("competition",):
        return f"{COMMANDS[verb.name].partition(' run=')[0] if verb.name == 'frozen' else _start(verb)} {text}"
    return f"./run.sh fold=0 {text}" if not text.startswith("fold=") else f"./run.sh {text}"


def _start(verb: Verb) -> str:
    """The command of a verb as far as it has to go: the runs that it is about."""
    words = COMMANDS[verb.name].split()
    return " ".join(
        word for word in words if "=" not in word or word.split("=")[0] in ("run", "runs", "teacher", "fold")
    )


def _other_value(key: str) -> str:
    found, default = choices(key), _default(key)
    if found:
        return next(value for value in found if value != shown(default))
    if isinstance(default, int):
        return str(default * 2 or 1)
    if isinstance(default, float):
        return f"{default / 2:g}" if default else "0.1"
    if isinstance(default, list) and default and all(isinstance(value, (int, float)) for value in default):
        return f"[{','.join(f'{value * 0.9:g}' for value in default)}]"
    return shown(default)


def choices(key: str) -> list[str]:
    """The values that a key can have, if they can be listed: for true and false too, and for groups."""
    if key in GROUPS:
        return group_choices(key)
    hint = kind_of(key)
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    found: list[str] = []
    for option in options:
        if typing.get_origin(option) is Literal:
            found += map(str, typing.get_args(option))
        elif option is bool:
            found += ["true", "false"]
        elif option is type(None):
            found.append("null")
        else:
            return []
    return found


def describe(hint: Any) -> str:
    """A type in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe(option) for option in args)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is tuple:
        return f"a list of {describe(args[0])}" if ... in args else f"a list of {len(args)}: {describe(args[0])}"
    if origin in (list, dict):
        return "a list" if origin is list else "names and values, {NAME: VALUE}"
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Any: "anything",
    }
    return words.get(hint) or f"sections with {', '.join(field.name for field in dataclasses.fields(hint))}"


def shown(value: Any) -> str:
    """As it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, dict)):
        return json.dumps(value).replace('"', "") if value else "[]" if isinstance(value, list) else "{}"
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else "empty"


def _default(key: str) -> Any:
    found: Any = defaults()
    for part in key.split("."):
        found = found[part]
    return found


def _of_section(name: str) -> str:
    own = [key for key in keys() if key.startswith(f"{name}.")]
    about = inspect.getdoc(kind_of(name)) or ""
    head = f"{name}: a section of keys" + (f". {about}" if about and "(" not in about.split(". ")[0][:40] else "")
    width = max(map(len, own))
    return "\n".join([head, *(f"  {key:<{width}}  {meanings().get(key, '')}".rstrip() for key in own)])


def _of_group(group: str) -> str:
    also = f"\n\n{_of_section(group)}" if group in keys() else ""
    found = group_choices(group)
    lines = [
        f"{group}: a file of configs/{group}",
        f"  choices   {', '.join(found)}",
        f"  example   ./run.sh fold=0 {group}={found[0]}",
    ]
    return "\n".join(lines) + also


@cache
def meanings() -> Mapping[str, str]:
    """By dotted key: the comment behind it in the schema, or the lines above it."""
    of_class = {name: _comments(cls) for name, cls in vars(schema_of_keys).items() if dataclasses.is_dataclass(cls)}
    found: dict[str, str] = {}

    def collect(cls: Any, prefix: str) -> None:
        for name, hint in typing.get_type_hints(cls).items():
            found[prefix + name] = of_class[cls.__name__].get(name, "")
            if dataclasses.is_dataclass(hint):
                collect(hint, f"{prefix}{name}.")

    collect(Config, "")
    return found


def _comments(cls: Any) -> dict[str, str]:
    """By field of a dataclass."""
    source = inspect.getsource(cls)
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ").strip()
    lines, found = source.splitlines(), dict[str, str]()
    names = {field.name for field in dataclasses.fields(cls)}
    above: list[str] = []
    last, depth = "", 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        name = text.partition(":")[0]
        if text.startswith("#"):
            above.append(comments.get(number, ""))
            continue
        if depth == 0 and name in names:
            last = name
            found[name] = " ".join([*above, comments[number]] if number in comments else above)
            above = []
        elif last and number in comments:  # within brackets
            found[last] = f"{found[last]} {comments[number]}".strip()
        bare = line.split("  #")[0]
        depth += sum(bare.count(sign) for sign in "([{") - sum(bare.count(sign) for sign in ")]}")
    return found


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
