"""A trial that was trained again beside what its record says: the same bits, nearly the same, or
another result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, then and now. ``again`` is None where the trial did not come so far now."""

    rung: int
    texts: int
    recorded: Mapping[str, float]
    again: Mapping[str, float] | None

    @property
    def identical(self) -> bool:
        """Every recorded metric has the same bits; a newer version may measure more."""
        return self.again is not None and self.recorded.items() <= self.again.items()

    def off(self, metric: str) -> float:
        """Return how far a metric lies from the recorded one; infinite where it was not measured
        again.
        """
        return (
            abs(self.again[metric] - self.recorded[metric])
            if self.again and metric in self.again
            else float("inf")
        )


@dataclass(frozen=True)
class Weights:
    """sha256 then and now, of the weights or of the whole saved model (``of`` says which).

    ``recorded`` is empty where nothing is left to compare with.
    """

    recorded: str
    again: str
    of: str = "weights"

    @property
    def identical(self) -> bool:
        return not self.recorded or self.recorded == self.again


@dataclass(frozen=True)
class Reproduction:
    """The outcome of a reproduction.

    ``changed`` is what is no longer as recorded; ``loose`` says why equal surroundings may give
    other bits, empty where they may not; ``stopped`` why it did not come to the last recorded
    evaluation.
    """

    objective: str
    evaluations: tuple[Evaluated, ...]
    weights: Weights
    tolerance: float
    changed: tuple[str, ...] = ()
    loose: str = ""
    stopped: str = ""

    @property
    def measured_alike(self) -> bool:
        return all(one.identical for one in self.evaluations)

    @property
    def worst(self) -> Evaluated:
        """The evaluation whose objective lies furthest from the recorded one."""
        return max(self.evaluations, key=lambda one: one.off(self.objective))

    @property
    def reproduced(self) -> bool:
        """The same bits, or within the tolerance.

        Not where every measurement has the same bits and the model has others although nothing
        changed: then it is not the model that was measured.
        """
        if self.measured_alike:
            return self.weights.identical or bool(self.changed)
        return not self.stopped and self.worst.off(self.objective) <= self.tolerance

    def verdict(self) -> str:
        """Return one sentence: identical, equal within so much and why not to the bit, or what
        differs.
        """
        count, weights = len(self.evaluations), self.weights
        alike = f"{sum(one.identical for one in self.evaluations)} of {count} evaluations"
        because = f"because {self._why()}"
        if self.measured_alike and weights.identical:
            if weights.recorded:
                return f"identical: {alike}, {weights.of} sha256 {weights.again}"
            return f"identical: {alike}; of the model nothing is left to compare with (now sha256 {weights.again})"
        if self.measured_alike:
            files = (
                f"{weights.of} sha256 {weights.recorded} is recorded, {weights.again} came of it"
            )
            if self.changed:
                return f"identical: {alike}; the saved files differ ({files}), {because}"
            return (
                f"not reproduced: {alike} are identical, the saved model is not: {files}. It was changed since, or "
                "is the model of another trial"
            )
        if self.stopped:
            return f"not reproduced: {alike} are identical, then it {self.stopped}, {because}"
        off, name = self.worst.off(self.objective), self.objective.removeprefix("val/")
        if off <= self.tolerance:
            return f"equal within {off:.2g} {name} (tolerance {self.tolerance:g}), not bit by bit, {because}"
        return (
            f"not reproduced: {name} lies {off:.4f} from the record at evaluation {self.worst.rung} (tolerance "
            f"{self.tolerance:g}), {because}"
        )

    def _why(self) -> str:
        found = [*self.changed, *([self.loose] if self.loose else [])]
        return (
            "; ".join(found)
            or "of something that the record does not hold: everything recorded is as it was"
        )
