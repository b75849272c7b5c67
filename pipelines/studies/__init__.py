"""The studies by name; each has a file of its own."""

from pipelines.studies.bench import Study
from pipelines.studies.consumption import CONSUMPTION
from pipelines.studies.generalisation import GENERALISATION
from pipelines.studies.mastered_size import MASTERED_SIZE
from pipelines.studies.optimizers import OPTIMIZERS
from pipelines.studies.sequential import SEQUENTIAL
from pipelines.studies.similarity import SIMILARITY
from pipelines.studies.stability import STABILITY
from pipelines.studies.taylor import TAYLOR
from pipelines.studies.transfer import TRANSFER

_ALL = (SIMILARITY, TAYLOR, STABILITY, TRANSFER, OPTIMIZERS, MASTERED_SIZE, GENERALISATION, SEQUENTIAL, CONSUMPTION)
STUDIES: dict[str, Study] = {study.name: study for study in _ALL}
