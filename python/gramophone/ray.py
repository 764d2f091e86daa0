"""Ray: several replicas of a judge behind one handle.

    judge = gramophone.ray.Replicas("model", replicas=4, device="cuda", num_gpus=1)
    judge.rank(groups)

Lists are cut, and each part goes to the replica with the least to do. Replicas give the same bits, so nobody can tell which one answered."""

from __future__ import annotations

import threading
from typing import Any, Optional

import ray

from .errors import DeadlineExceeded, InvalidInput
from .judge import Judge
from .results import Judgments, Ranking
from .scorer import Group, Pair, Scorer

PART = 64
"""Pairs or groups in one call of a replica."""
AT_A_TIME = 32
"""Calls that a replica answers together."""


@ray.remote
class Replica:
    """A judge in a process of its own."""

    def __init__(self, model: str, options: dict):
        self._judge = Judge(model, **options)

    def scalar(self) -> bool:
        return self._judge.scalar

    def judge(self, pairs: list[Pair], timeout: Optional[float], priority: int) -> Judgments:
        return self._judge._judge(pairs, timeout, priority)

    def rank(self, groups: list[Group], *how: Any) -> list[Ranking]:
        return self._judge._rank(groups, *how)


class Replicas(Scorer):
    """A handle to `replicas` judges that open `model` on the nodes where Ray puts them. It travels between tasks and actors. `num_cpus`, `num_gpus`
    and `resources` are what each replica needs; other options are those of `Judge`."""

    def __init__(
        self,
        model: str,
        replicas: int = 2,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: Optional[dict] = None,
        **options: Any,
    ):
        if replicas < 1:
            raise InvalidInput(f"replicas is {replicas}; there must be at least one")
        actor = Replica.options(
            num_cpus=num_cpus, num_gpus=num_gpus, resources=resources or {}, max_concurrency=AT_A_TIME
        )
        self._take([actor.remote(str(model), options) for _ in range(replicas)])
        # A model that cannot be opened is told of here, not at the first call.
        self._scalar = ray.get([replica.scalar.remote() for replica in self._replicas])[0]

    def _take(self, replicas: list) -> None:
        self._replicas = replicas
        self._busy = [0] * len(replicas)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {"replicas": self._replicas, "scalar": self._scalar}

    def __setstate__(self, state: dict) -> None:
        self._take(state["replicas"])
        self._scalar = state["scalar"]

    @property
    def scalar(self) -> bool:
        return self._scalar

    @property
    def replicas(self) -> list:
        """The actors themselves."""
        return list(self._replicas)

    def close(self) -> None:
        """Ends the replicas, for all handles."""
        for replica in self._replicas:
            ray.kill(replica)

    def _judge(self, pairs: list[Pair], timeout: Optional[float], priority: int) -> Judgments:
        return Judgments.join(self._all("judge", pairs, timeout, timeout, priority))

    def _rank(self, groups: list[Group], method: str, anchors: Any, confidence: Any, timeout: Any, priority: int) -> list[Ranking]:
        how = (method, anchors, confidence, timeout, priority)
        return [ranking for part in self._all("rank", groups, timeout, *how) for ranking in part]

    def _all(self, call: str, items: list, timeout: Optional[float], *how: Any) -> list:
        """What the replicas say of all items, part by part, in order."""
        part = min(PART, -(-len(items) // len(self._replicas)) or 1)
        sent: list[tuple[int, int, Any]] = []
        try:
            for start in range(0, len(items), part):
                piece = items[start : start + part]
                with self._lock:
                    chosen = min(range(len(self._busy)), key=lambda i: (self._busy[i], i))
                    self._busy[chosen] += len(piece)
                sent.append((chosen, len(piece), getattr(self._replicas[chosen], call).remote(piece, *how)))
            return ray.get([answer for _, _, answer in sent], timeout=timeout)
        except ray.exceptions.GetTimeoutError as e:
            raise DeadlineExceeded("the replicas have not answered in time") from e
        except ray.exceptions.RayTaskError as e:
            # The judge's own error, as if it had been raised here.
            raise e.cause if isinstance(e.cause, Exception) else e from None
        except BaseException:
            for _, _, answer in sent:
                ray.cancel(answer)
            raise
        finally:
            with self._lock:
                for chosen, n, _ in sent:
                    self._busy[chosen] -= n
