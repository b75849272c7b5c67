"""The rounds that the studies `sequential` and `consumption` look at: each an ordinary run from the model before."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpl_ray.rundir import RunDir
from pipelines.studies.bench import Bench

if TYPE_CHECKING:  # pyarrow: the command line must answer at once
    from cpl_ray.assessment import Assessment, Row, Verdict

ROUNDS = "rounds"


@dataclass(frozen=True)
class Plan:
    """What is injected, in which order, and what it is measured against."""

    whole: "Assessment"
    """Of the base model, with only `train.mastered_size` rows of M train."""
    parts: "list[list[Row]]"
    base: "dict[str, Verdict]"
    """The base model's answers, by item id."""

    @classmethod
    def of(cls, bench: Bench) -> "Plan":
        """Cut the injection set of the study's assessment.

        Raises:
            DataError: it has fewer questions than rounds, or was never scored.
        """
        from cpl_ray.assessment import read_assessment
        from cpl_ray.studies.rounds import base_answers, cut
        from cpl_ray.subset import with_mastered_size

        config = bench.config
        whole = read_assessment(bench.run.assessment)
        whole = with_mastered_size(whole, config.train.mastered_size, config.split.seed)
        base = base_answers(whole)
        parts = cut(whole.parts["injection_train"], config.study.rounds, config.split.seed)
        return cls(whole, parts, base)


@dataclass(frozen=True)
class Round:
    """A round that was trained and scored."""

    number: int
    """From 1."""
    run: RunDir
    answers: "dict[str, Verdict]"
    """Of its model, by item id, on M and all parts."""


def rounds(bench: Bench, plan: Plan, method: str, changes: Mapping[str, Any]) -> Iterator[Round]:
    """Train one part after the other, each from the model of the round before; rounds that are done are kept.

    A round's optimizer begins anew, and its seed is `train.seed` in every round.

    Args:
        bench: where the study works.
        plan: what is injected.
        method: name of the rounds, which lie in `runs/METHOD-NUMBER`.
        changes: keys that differ from the study's configuration, by dotted name.
    """
    from cpl_ray.assessment import write_assessment
    from cpl_ray.ledger import read_ledger
    from cpl_ray.studies.rounds import answers_of, of_round

    source = {"model": bench.config.model, "model_revision": bench.config.model_revision}
    answers = plan.base
    for index in range(len(plan.parts)):
        label = f"{method}-{index + 1}"
        folder = bench.run.root / ROUNDS / label
        parts = of_round(plan.whole, plan.parts, index, answers, keep_learned=bench.config.study.keep_learned)
        # letters were counted for the base model only
        write_assessment(folder / "assessment", parts, {**plan.whole.manifest, **source, "letter_report": None})
        settings = {**changes, **source, "data.assessment": str(folder), "train.mastered_size": None}
        run = bench.trained(label, settings, evaluated=True)
        answers = answers_of(read_ledger(run.flips))
        yield Round(index + 1, run, answers)
        source = {"model": str(run.model), "model_revision": None}
