"""Study `generalisation`: is what was learned, and what was kept, bound to the prompt of the training?"""

from collections.abc import Mapping
from typing import Any

from cpl_ray.config import Config
from cpl_ray.errors import ConfigError
from cpl_ray.studies.findings import Findings
from pipelines.studies.bench import Bench, Draw, Study

RULES = {"cpl": "cpl", "plain": "none"}


def _check(config: Config) -> None:
    from cpl_ray.wordings import read_paraphrases

    if config.prompt.template in config.study.templates:
        raise ConfigError(f"study.templates: {config.prompt.template!r} is prompt.template itself; name other ones")
    if config.study.paraphrases is not None:
        read_paraphrases(config.study.paraphrases)


def _conduct(bench: Bench) -> Findings:
    from cpl_ray.assessment import Verdict, read_assessment
    from cpl_ray.ledger import flip_of, read_ledger
    from cpl_ray.prompts import uses_chat
    from cpl_ray.scoring import score_items
    from cpl_ray.studies.generalisation import OWN, analyse
    from cpl_ray.wordings import Wording, other_wordings, read_paraphrases
    from pipelines.assessing import encoder_of

    config, study = bench.config, bench.config.study
    assessment = read_assessment(bench.run.assessment)
    encoder, max_length = encoder_of(config, assessment)
    parts = {row.item.id: part for part, row in assessment.rows()}
    scorer = str(assessment.manifest["scorer"])
    wordings = other_wordings(
        [row.item for _, row in assessment.rows()],
        scorer=scorer,
        prompt=config.prompt,
        chat=uses_chat(scorer, config.prompt, encoder.tokenizer),
        templates=study.templates,
        paraphrases=read_paraphrases(study.paraphrases) if study.paraphrases else {},
    )
    runs = {name: bench.trained(name, {"train.rule": rule}, evaluated=True) for name, rule in RULES.items()}

    def asked(wording: Wording, model: str) -> Mapping[str, Verdict]:
        bench.say(f"asking {model} {len(wording.items)} items by {wording.name}")
        changed = config.model_copy(update={"prompt": wording.prompt})
        return score_items(wording.items, config=changed, scorer=scorer, model_path=model, max_length=max_length)

    flips: list[dict[str, Any]] = [
        {"method": name, "prompt": OWN, "id": row["id"], "part": row["part"], "flip": row["flip"]}
        for name, run in runs.items()
        for row in read_ledger(run.flips).select(["id", "part", "flip"]).to_pylist()
    ]
    for wording in wordings:
        before = asked(wording, config.model)
        for name, run in runs.items():
            flips += [
                {"method": name, "prompt": wording.name, "id": key, "part": parts[key], "flip": flip}
                for key, verdict in asked(wording, str(run.model)).items()
                for flip in [flip_of(parts[key], before[key], verdict)]
            ]
    return analyse([row for row in flips if row["flip"] is not None])


def _draw() -> Draw:
    from cpl_ray.figures_generalisation import draw_generalisation

    return draw_generalisation


GENERALISATION = Study("generalisation", "is what was learned bound to the prompt?", _conduct, _draw, _check)
