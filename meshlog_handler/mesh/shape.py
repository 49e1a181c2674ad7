"""The shape of a mesh: dimensions, coordinates of ranks, and slices. Pure functions and immutable data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Final

from ..errors import SettingError, quoted
from ..protocol.ranks import format_ranks
from ..settings import whole

MAX_PROCS: Final = 4096

Choice = int | slice | Iterable[int]
"""Positions along a dimension: one, a slice such as ``slice(0, 2)``, or several."""

_FORM: Final = 'Valid: the size of each dimension by its name, such as {"gpus": 4} or {"hosts": 2, "gpus": 4}.'


def check_per_host(per_host: object) -> dict[str, int]:
    """Return `per_host` as a dictionary of sizes by dimension; raise `SettingError` if it is invalid."""
    if not isinstance(per_host, Mapping) or not per_host:
        raise SettingError(f"per_host={quoted(per_host)} is not a non-empty mapping of sizes. {_FORM}")
    for name, size in per_host.items():
        if not isinstance(name, str) or not name.isidentifier() or name == "ranks":
            raise SettingError(
                f"per_host={quoted(per_host)}: {quoted(name)} is not a dimension name. Expected an identifier other than "
                f"'ranks'. {_FORM}"
            )
        if (whole(size) or 0) < 1:
            raise SettingError(
                f"per_host={quoted(per_host)}: invalid size of {quoted(name)}. Expected an integer of at least 1, got "
                f"{quoted(size)}. {_FORM}"
            )
    sizes = {name: whole(size) or 0 for name, size in per_host.items()}
    count = math.prod(sizes.values())
    if count > MAX_PROCS:
        raise SettingError(
            f"per_host={quoted(per_host)} asks for {quoted(count)} procs. At most {MAX_PROCS} are allowed on one host."
        )
    return sizes


class Shape:
    """The ranks of a mesh or of a slice, with their coordinates. Immutable.

    `extent` has the sizes by dimension; a slice by ranks has one dimension, ``ranks``. `coords` has the position of each rank
    by dimension, in rank order; a slice keeps the positions in the whole mesh.
    """

    def __init__(self, extent: Mapping[str, int], coords: Mapping[int, Mapping[str, int]]) -> None:
        self.extent = dict(extent)
        self.coords = {rank: dict(position) for rank, position in coords.items()}

    @classmethod
    def of(cls, sizes: Mapping[str, int]) -> Shape:
        """Return the shape of a whole mesh with these sizes; the last dimension varies fastest."""
        positions = itertools.product(*(range(size) for size in sizes.values()))
        return cls(sizes, {rank: dict(zip(sizes, position, strict=True)) for rank, position in enumerate(positions)})

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks, in order."""
        return tuple(self.coords)

    def slice(self, ranks: Iterable[int] | int | None, chosen: Mapping[str, Choice]) -> Shape:
        """Return the part with these ranks (None: all) and these positions by dimension.

        The result drops a dimension for which a single number is chosen. Raises `SettingError`, with the valid values, if a
        rank, dimension or position does not exist.
        """
        kept, extent = self.coords, self.extent
        for name, choice in chosen.items():
            wanted = self._positions(name, choice)
            kept = {rank: position for rank, position in kept.items() if position[name] in wanted}
            if name in extent:
                extent = {each: len(wanted) if each == name else size for each, size in extent.items()}
                if whole(choice) is not None:
                    del extent[name]
        if ranks is not None:
            asked = _integers(ranks, "ranks")
            unknown = asked - set(self.coords)
            if unknown or not asked:
                raise SettingError(
                    f"slice(ranks={quoted(ranks)}): no such rank. Valid: any of {format_ranks(self.coords)}, such as "
                    f"slice(ranks=[{self.ranks[0]}])."
                )
            kept = {rank: position for rank, position in kept.items() if rank in asked}
        if not kept:
            raise SettingError(
                f"slice({_format_arguments(ranks, chosen)}) of {format_ranks(self.coords)} is empty: "
                f"no rank matches all arguments."
            )
        if ranks is not None or math.prod(extent.values()) != len(kept):
            extent = {"ranks": len(kept)}
        return Shape(extent, kept)

    def _positions(self, name: str, choice: Choice) -> frozenset[int]:
        first = next(iter(self.coords.values()))
        if name not in first:
            raise SettingError(f"slice({name}=...): there is no dimension {name!r}. Valid: {', '.join((*first, 'ranks'))}.")
        there = sorted({position[name] for position in self.coords.values()})
        if isinstance(choice, slice):
            found = frozenset(range(*choice.indices(there[-1] + 1))) & frozenset(there)
        else:
            found = _integers(choice, name)
        if not found or not found <= set(there):
            raise SettingError(
                f"slice({name}={quoted(choice)}): no such position. Valid: {', '.join(map(str, there))}, or several."
            )
        return found


def _integers(given: object, name: str) -> frozenset[int]:
    several = isinstance(given, Iterable) and not isinstance(given, (str, bytes))
    values = tuple(given) if several else (given,)  # type: ignore[arg-type]  # it is checked here
    numbers = [number for value in values if (number := whole(value)) is not None]
    if len(numbers) == len(values):
        return frozenset(numbers)
    raise SettingError(
        f"slice({name}={quoted(given)}): expected integers. Valid: one integer, a slice, or a list such as [1, 3]."
    )


def _format_arguments(ranks: object, chosen: Mapping[str, Choice]) -> str:
    parts = [f"{name}={choice!r}" for name, choice in chosen.items()]
    return ", ".join(parts if ranks is None else [*parts, f"ranks={ranks!r}"])
