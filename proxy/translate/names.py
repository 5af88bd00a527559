"""Tool names and call ids that the models behind Narrative take, made from whatever clients use."""

import re
from collections.abc import Container, Iterable, Mapping

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST = 64


def unique_safe(wanted: str, taken: Container[str]) -> str:
    """A name of 1 to 64 letters, digits, `_` and `-` that is not taken, and is `wanted` itself where that will do."""
    stem = _UNSAFE.sub("_", wanted)[:_LONGEST] or "_"
    name, count = stem, 1
    while name in taken:
        count += 1
        suffix = f"_{count}"
        name = stem[: _LONGEST - len(suffix)] + suffix
    return name


def upstream_names(names: Iterable[str]) -> Mapping[str, str]:
    """Each client's name → its safe and unique name upstream. Names that are safe already keep themselves."""
    distinct = list(dict.fromkeys(names))
    safe = {name for name in distinct if unique_safe(name, ()) == name}
    chosen = {name: name for name in distinct if name in safe}
    taken = set(chosen)
    for name in distinct:
        if name not in safe:
            chosen[name] = unique_safe(name, taken)
            taken.add(chosen[name])
    return chosen
