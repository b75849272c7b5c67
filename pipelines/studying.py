"""The study stage: one assessment, the study's own runs, what they show."""

from typing import Any

from cpl_ray.config import Config
from cpl_ray.loading import load_config
from cpl_ray.resume import check_same_job
from cpl_ray.rundir import RunDir
from cpl_ray.studies.findings import PAGE, VERDICT, begin_findings, write_findings
from pipelines.console import Say
from pipelines.session import ray_session
from pipelines.stages import assess, prepared, tracked
from pipelines.studies.bench import Bench, Study

_UNSAID = {"run", "tracking", "search", "budget", "gate"}
"""Sections that no number depends on, some of which may hold a password."""


def conduct(study: Study, config: Config, run: RunDir, say: Say) -> dict[str, Any]:
    """Make the runs of a study, write what they show, and hand it to MLflow. On resume finished runs stay.

    Returns:
        The content of study.json, and `figures`, their paths.

    Raises:
        ResumeError: the study to be continued had other settings, or was another one.
    """
    if config.run.resume:
        check_same_job(load_config(run.config), config)
    begin_findings(run.root, study.name)
    config = prepared(config, run)
    with tracked(config, run) as tracker, ray_session(config, say, dashboard=False):
        tracker.log_tags({"cpl_ray.study": study.name})
        if not run.assessment.exists():
            assess(config, run, say, tracker)
        findings = study.conduct(Bench(config, run, say))
        figures = study.draw()(findings, run.figures)
        page = write_findings(findings, run.root, name=study.name, settings=config.model_dump(exclude=_UNSAID))
        known = {name: float(value) for name, value in findings.headline.items() if value is not None}
        tracker.log_metrics({f"study/{name}": value for name, value in known.items()}, step=0)
        written = [run.root / "data", run.figures, run.root / VERDICT, run.root / PAGE]
        for artifact in (run.config, run.manifest, run.environment, *written):
            tracker.log_artifacts(artifact)
    return {**page, "figures": [str(path) for path in figures]}
