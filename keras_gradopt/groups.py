"""Parameter groups: variables, by path, that move at another rate, decay otherwise, or rest."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_gradopt.arguments import is_number


@dataclasses.dataclass(frozen=True)
class Group:
    """How the variables of a group are treated.

    Attributes:
        learning_rate: Factor of their steps, at least 0.
        weight_decay: Factor of their weight decay, at least 0.
        frozen: Whether they and their state stay as they are.
    """

    learning_rate: float = 1.0
    weight_decay: float = 1.0
    frozen: bool = False


PLAIN = Group()
NAMES = tuple(field.name for field in dataclasses.fields(Group))


def checked(groups: Any) -> dict[str, Group]:
    """Groups by pattern, from what a constructor received.

    Args:
        groups: None, or a mapping from a regular expression to a mapping of `Group`'s names.

    Raises:
        ValueError: A pattern or a value is none; the message names it.
    """
    if groups is None:
        return {}
    if not isinstance(groups, Mapping):
        raise ValueError(
            "groups must map regular expressions to settings, such as "
            f"{{'embedding': {{'learning_rate': 0.1}}}}, received {groups!r}."
        )
    return {
        checked_pattern("groups", pattern): _group(pattern, given)
        for pattern, given in groups.items()
    }


def checked_pattern(argument: str, pattern: Any) -> str:
    """A regular expression for paths, as it was received.

    Args:
        argument: The argument that holds it, for the message.
        pattern: What was received.

    Raises:
        ValueError: It is none.
    """
    try:
        return re.compile(pattern).pattern
    except (re.error, TypeError) as error:
        raise ValueError(
            f"{argument}: {pattern!r} is not a regular expression ({error}). It is searched in the "
            "path of each variable, such as 'dense/kernel'."
        ) from error


def _group(pattern: str, given: Any) -> Group:
    unknown = sorted(set(given) - set(NAMES)) if isinstance(given, Mapping) else [repr(given)]
    if unknown:
        raise ValueError(
            f"groups[{pattern!r}] may hold {', '.join(NAMES)}, received {', '.join(unknown)}."
        )
    group = Group(**given)
    for name in ("learning_rate", "weight_decay"):
        value = getattr(group, name)
        if not is_number(value) or not math.isfinite(value) or value < 0:
            raise ValueError(
                f"groups[{pattern!r}]: {name} must be a factor of at least 0, received {value!r}."
            )
    if not isinstance(group.frozen, bool):
        raise ValueError(
            f"groups[{pattern!r}]: frozen must be True or False, received {group.frozen!r}."
        )
    return group


def of_path(groups: Mapping[str, Group], path: str) -> Group:
    """The group of a variable: the first whose pattern is found in its path."""
    for pattern, group in groups.items():
        if re.search(pattern, path):
            return group
    return PLAIN


def path_of(variable: Any) -> str:
    """The path of a variable, such as "dense/kernel"; its name where it has none."""
    return str(getattr(variable, "path", variable.name))


def check_used(argument: str, patterns: Iterable[str], variables: Sequence[Any]) -> None:
    """Refuse a pattern that is found in no variable's path.

    Args:
        argument: The argument that holds them, for the message.
        patterns: Regular expressions.
        variables: The variables.

    Raises:
        ValueError: There is one; the message lists the paths.
    """
    paths = [path_of(v) for v in variables]
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            shown = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
            raise ValueError(
                f"{argument}: {pattern!r} is found in no variable's path. The paths are {shown}."
            )


def to_config(groups: Mapping[str, Group]) -> dict[str, dict[str, Any]] | None:
    """What `checked` takes back: of each group what is not as usual."""
    if not groups:
        return None
    return {
        pattern: {
            name: getattr(group, name)
            for name in NAMES
            if getattr(group, name) != getattr(PLAIN, name)
        }
        for pattern, group in groups.items()
    }
