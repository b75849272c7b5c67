"""The studies by name; each has a file of its own."""

from pipelines.studies.bench import Study
from pipelines.studies.similarity import SIMILARITY

STUDIES: dict[str, Study] = {study.name: study for study in (SIMILARITY,)}
