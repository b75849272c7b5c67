"""Memory of one rank by role, for ZeRO 0 to 3 and offload: what DeepSpeed keeps, pads, and needs in passing.

Read off DeepSpeed 0.19.8 (docs/plan.md has the table); tests/distributed/test_plan.py counts the tensors of the real
engine against it. Everything is in bytes of one rank.
"""

from dataclasses import asdict, dataclass

from cpl_ray.census import Census

FLOAT32 = 4
ALLREDUCE = 500_000_000
"""Elements that DeepSpeed flattens for one all-reduce without ZeRO."""
SUB_GROUP = 1_000_000_000
"""Elements of a rank that ZeRO 3 updates at once."""
GPU_BUCKET = 500_000_000
"""Elements of DeepSpeed's own reduction bucket."""
CHUNK = 1 << 18
"""Elements that the optimizer updates at once (optimizer.py)."""
CHUNK_BYTES = 18
"""Bytes per element of such a chunk: copies, update, mask; counted on the rule with AdamW."""
CPU_BUCKET = 1 << 22
"""Elements of the reduction bucket where no GPU is used (engine.py)."""


@dataclass(frozen=True)
class Setup:
    """What decides memory beside the model and the batch."""

    stage: int
    """ZeRO stage that really runs."""
    world_size: int
    offload: bool
    element: int
    """Bytes of a parameter in the compute type: 4 or 2."""
    moments: int
    """Bytes of the optimizer's moments for the tensors of `flat_sizes`."""
    mastered: int
    """Bytes of what the method keeps for them."""
    guard: int = 0
    """Bytes per element of a copy of the masters."""
    transient: int = 0
    """Bytes per element of a flat tensor that a step needs in passing, beside its chunks."""
    accumulates: bool = False
    """Whether a step has several backward passes."""
    bucket: int = GPU_BUCKET
    """Elements of the reduction bucket."""
    threshold: int = 100_000
    """Parameters below so many elements stay whole under ZeRO 3."""
    prefetch: int = 50_000_000
    """Elements that ZeRO 3 gathers ahead."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one rank at its peak; `host` is in CPU memory, all else beside the model."""

    parameters: int
    masters: int
    gradients: int
    moments: int
    mastered: int
    """What the method keeps: the mastered gradient's sign and the like."""
    guard: int
    buckets: int
    """For communication, and what ZeRO 3 has gathered."""
    working: int
    """Activations and logits, or the temporaries of the optimizer's step where they are more."""
    host: int

    @property
    def total(self) -> int:
        """Bytes beside the model."""
        return sum(asdict(self).values()) - self.host

    @property
    def everything(self) -> int:
        """Bytes here and in CPU memory: where the two are one."""
        return self.total + self.host

    def to_dict(self) -> dict[str, int]:
        """Return all roles and the total."""
        return asdict(self) | {"total": self.total}


def flat_sizes(census: Census, stage: int, world_size: int) -> list[int]:
    """Return the elements of each tensor that a rank's optimizer is given."""
    if stage == 0:
        return [weight.numel for weight in census.weights if weight.trainable]
    return [census.shards(world_size) if stage == 3 else census.group(world_size) // world_size]


def footprint(census: Census, setup: Setup, beside_gradients: int, freed_gradients: int) -> Footprint:
    """Work out the memory of the rank that needs most.

    Args:
        census: the model's parameters.
        setup: how it is trained.
        beside_gradients: peak of a training pass beyond parameters and gradients, where gradients stay.
        freed_gradients: the same, where each is taken away as soon as it is made.
    """
    stage, element = setup.stage, setup.element
    part = sum(flat_sizes(census, stage, setup.world_size))
    frozen = census.total - census.trainable
    if stage == 3:
        parameters = element * census.shards(setup.world_size, trained=False)
    else:
        parameters = element * ((census.group(setup.world_size) if stage else census.trainable) + frozen)
    gradients, early, buckets, step = _passing(census, setup, part)
    masters = 0 if stage == 0 else FLOAT32 * part
    moments, mastered, guard = setup.moments, setup.mastered, setup.guard * part
    host = 0
    if setup.offload:
        host = masters + moments + mastered + guard + FLOAT32 * part  # the last: gradients
        host += FLOAT32 * part if stage == 3 else element * (part + census.largest)
        masters = moments = mastered = guard = 0
    whole = stage < 2 and not (stage == 1 and setup.offload)
    working = beside_gradients if whole else freed_gradients
    working = max(early + working - gradients, step - buckets - gradients, 0)
    return Footprint(parameters, masters, gradients, moments, mastered, guard, buckets, working, host)


def _passing(census: Census, setup: Setup, part: int) -> tuple[int, int, int, int]:
    """Return bytes of gradients, of those that are there beside activations, of buckets, and of all in the step."""
    stage, element, trained = setup.stage, setup.element, census.trainable
    held = min(census.largest if stage == 0 else part, SUB_GROUP if stage == 3 else part)  # in one tensor
    norm = 8 * census.largest  # gradients are turned to float64, one at a time, for their norm
    inside = max(setup.transient * held, CHUNK_BYTES * min(held, CHUNK))
    if stage == 0:
        gradients = FLOAT32 * trained
        reduced = FLOAT32 * min(trained, ALLREDUCE) if setup.world_size > 1 else 0
        return gradients, gradients, 0, gradients + max(norm, inside, reduced)
    if stage == 3:
        small = element * census.small(setup.threshold)
        gathered = small + element * (census.largest + min(setup.prefetch, census.total))
        bucket = FLOAT32 * setup.bucket
        if setup.offload:
            return 0, 0, bucket + gathered, bucket + small
        gradients = FLOAT32 * part
        step = gradients + bucket + small + max(FLOAT32 * held + inside, part)
        return gradients, gradients, bucket + gathered, step
    if setup.offload:
        bucket = element * (setup.bucket + census.largest)
        gradients = element * (trained if stage == 1 else 0)
        return gradients, gradients, bucket, 0
    if element < FLOAT32:
        if stage == 1:  # DeepSpeed's own bfloat16 wrapper: float32 gradients of all parameters beside the low ones
            gradients = FLOAT32 * census.group(setup.world_size) + element * trained
            return gradients, gradients, 0, gradients + inside
        gradients, bucket = FLOAT32 * part, element * setup.bucket
        reduced = FLOAT32 * min(setup.bucket, trained)  # a bucket's float32 copy for the network
        # a bucket that takes all gradients is reduced after the last of them, when no activation is left
        buckets = bucket + (reduced if setup.bucket < trained else 0)
        return gradients, gradients, buckets, gradients + max(norm, inside, bucket + reduced)
    owned = FLOAT32 * census.owned(setup.world_size)
    bucket = FLOAT32 * setup.bucket
    step = owned + max(FLOAT32 * part + inside, norm)
    if stage == 1:  # reduced in the step, where each goes into the bucket and those of this part on into their own
        gradients = FLOAT32 * trained
        reducing = owned + bucket + FLOAT32 * max(0, trained - setup.bucket)
        return gradients, gradients, bucket, max(step + bucket, reducing)
    before = owned if setup.accumulates else 0
    # a bucket that takes all gradients is reduced after the last of them, when no activation is left
    early = before + (owned if setup.bucket < trained else 0)
    return owned + before, early, bucket, before + step
