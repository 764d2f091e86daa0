"""What a judge says. Numbers are exact: the same bits as `gramophone judge` writes, in this process or over the wire."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union, overload

try:
    import numpy
except ImportError:  # Arrays of the standard library then.
    numpy = None

SIDES = {1: "A", -1: "B", 0: "tie"}


def column(kind: str, values: Union[bytes, list]) -> Any:
    """Numbers as a numpy array, or as an `array` where there is no numpy: "d" float64, "f" float32, "b" int8."""
    made = array(kind)
    if isinstance(values, bytes):
        made.frombytes(values)
    else:
        made.extend(values)
    return made if numpy is None else numpy.frombuffer(made, dtype=made.typecode)


@dataclass(frozen=True)
class Judgment:
    """What a judge says of a pair. A scalar model gives rewards and neither margins nor label mass."""

    p_a: float
    """Probability that response a is better, the mean over both orders."""
    verdict: str
    """"A", "B" or "tie"."""
    margin_ab: Optional[float] = None
    """Logit A minus logit B with response a shown first."""
    margin_ba: Optional[float] = None
    """Logit A minus logit B with response a shown second."""
    label_mass: Optional[float] = None
    """Probability that both labels have together in the whole vocabulary."""
    consistent: Optional[bool] = None
    """Both orders agree."""
    reward_a: Optional[float] = None
    reward_b: Optional[float] = None

    @property
    def margin(self) -> Optional[float]:
        """Above zero if a is better, also where the probability saturates."""
        if self.margin_ab is None or self.margin_ba is None:
            return None
        return 0.5 * (self.margin_ab - self.margin_ba)


class Judgments(Sequence):
    """Judgments as columns of numbers, and as a sequence of `Judgment`."""

    KINDS = {"p_a": "d", "verdict": "b", "margin_ab": "f", "margin_ba": "f", "label_mass": "d", "consistent": "b",
             "reward_a": "f", "reward_b": "f"}

    def __init__(self, columns: dict[str, Union[bytes, list]]):
        self._columns = {name: column(self.KINDS[name], values) for name, values in columns.items()}

    @classmethod
    def join(cls, parts: Sequence[Judgments]) -> Judgments:
        """Parts one after the other."""
        if len(parts) == 1:
            return parts[0]
        names = parts[0]._columns if parts else ("p_a", "verdict")
        return cls({name: b"".join(part._columns[name].tobytes() for part in parts) for name in names})

    def column(self, name: str) -> Any:
        """A column by its name, or None if this model has none such."""
        return self._columns.get(name)

    p_a = property(lambda self: self.column("p_a"), doc="float64: probability that response a is better")
    verdict = property(lambda self: self.column("verdict"), doc="int8: 1 for A, -1 for B, 0 for a tie")
    margin_ab = property(lambda self: self.column("margin_ab"), doc="float32: with response a shown first")
    margin_ba = property(lambda self: self.column("margin_ba"), doc="float32: with response a shown second")
    label_mass = property(lambda self: self.column("label_mass"), doc="float64: probability of both labels")
    consistent = property(lambda self: self.column("consistent"), doc="int8: 1 where both orders agree")
    reward_a = property(lambda self: self.column("reward_a"), doc="float32, of a scalar model")
    reward_b = property(lambda self: self.column("reward_b"), doc="float32, of a scalar model")

    def __len__(self) -> int:
        return len(self._columns["p_a"])

    @overload
    def __getitem__(self, index: int) -> Judgment: ...
    @overload
    def __getitem__(self, index: slice) -> list[Judgment]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row: dict[str, Any] = {name: float(values[index]) for name, values in self._columns.items()}
        row["verdict"] = SIDES[int(row["verdict"])]
        if "consistent" in row:
            row["consistent"] = bool(row["consistent"])
        return Judgment(**row)

    def __repr__(self) -> str:
        return f"Judgments({list(self)!r})"


@dataclass(frozen=True)
class Ranking:
    """An order of responses to one prompt."""

    order: list[int]
    """Indices of the responses, best first."""
    scores: Any
    """float64, in input order: mean probability of beating those it was compared with, or a scalar model's rewards."""
    comparisons: int
    """Pairs that were compared."""
    wins: Optional[list[list[Optional[float]]]] = None
    """wins[i][j] is P(i beats j) where they were compared; None if nothing was."""

    @property
    def best(self) -> int:
        return self.order[0]

    @property
    def places(self) -> list[int]:
        """In input order, each response's place: 0 is the best."""
        places = [0] * len(self.order)
        for place, response in enumerate(self.order):
            places[response] = place
        return places
