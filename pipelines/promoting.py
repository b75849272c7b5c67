"""What `cpl promote` asks before it judges: the candidate in several ways, the present champion on the same items."""

import time
from typing import TYPE_CHECKING

from cpl_ray.config import Config
from cpl_ray.digest import items_digest, model_digest
from cpl_ray.errors import DataError
from cpl_ray.evidence import Comparison, Evidence
from cpl_ray.loading import load_config
from cpl_ray.model_source import local_source
from cpl_ray.rundir import RunDir
from pipelines.console import Say
from pipelines.session import ray_session

if TYPE_CHECKING:
    from cpl_ray.assessment import Assessment
    from cpl_ray.promotion import Challenge


def measured(config: Config, run: RunDir, say: Say, challenge: "Challenge") -> Evidence:
    """Measure the noise floor of the run's model, and compare it with the champion if there is another.

    Questions are asked as the run asked them: by its saved configuration, whatever `config` says by now. Of `config`
    only the cluster counts.

    Raises:
        UserError: a model cannot be loaded or asked.
        DataError: assessment, ledger and model do not belong together.
    """
    from cpl_ray.assessment import read_assessment
    from cpl_ray.ledger import read_ledger
    from cpl_ray.promotion import rival_folder
    from cpl_ray.rescoring import Asked, measure

    started = time.monotonic()
    assessment = read_assessment(run.assessment)
    records = read_ledger(run.flips).select(["id", "after_correct"]).to_pylist()
    asked = Asked.of(assessment, {record["id"]: record["after_correct"] is True for record in records})
    if missing := [item.id for item in asked.mastered + asked.injection if item.id not in asked.recorded]:
        raise DataError(
            f"{run.flips} is not of the assessment of this run: {len(missing)} items are not in it, e.g. "
            f"{missing[0]!r}; run `cpl evaluate` again"
        )
    asking = load_config(run.config).model_copy(update={"cluster": config.cluster})
    rival = challenge.rival
    with rival_folder(challenge, run.root) as champion, ray_session(config, say):
        who = "the model" if rival is None else f"the model and champion version {rival.version}"
        say(f"asking {who} {len(asked.mastered)} items of M test again")
        noise, table = measure(
            asked,
            config=asking,
            scorer=str(assessment.manifest["scorer"]),
            candidate=run.model,
            champion=champion,
        )
    comparison = None
    if rival is not None and table is not None:
        comparison = Comparison(
            str(rival.version),
            table,
            champion_is_base=_trained_from(asking, rival.tags.get("model_digest")),
            same_test_set=_same_test_set(assessment, challenge),
        )
    say(f"asked again in {time.monotonic() - started:.1f} s")
    return Evidence(comparison, noise)


def _trained_from(config: Config, digest: str | None) -> bool:
    """Tell whether the run's base model is the model of this digest; False where that cannot be told."""
    folder = local_source(config.model)
    return folder is not None and digest is not None and model_digest(folder) == digest


def _same_test_set(assessment: "Assessment", challenge: "Challenge") -> bool | None:
    from cpl_ray.registry import TEST_SET

    theirs = None if challenge.rival is None else challenge.rival.tags.get(TEST_SET)
    return None if theirs is None else theirs == items_digest([row.item for row in assessment.parts["mastered_test"]])
