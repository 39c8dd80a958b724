"""`[curate.sample]`: keep a random part of the rows. It makes datasets of different size comparable."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from dataops.config import StageConfig
from dataops.schema import DropReason
from dataops.snapshot import Draft, Record
from tasks.curate.step import Step, StepOutput

if TYPE_CHECKING:  # they need this step
    from tasks.curate.config import CurateConfig
    from tasks.curate.inspect_images import RawShard
    from tasks.engine.stage import Work


class SampleConfig(StageConfig):
    """`[curate.sample]`: keep a random part of the rows that nothing else has dropped."""

    share: float = Field(gt=0, lt=1)
    """Share of them that is kept, by a hash of the pair: of equal pairs, other datasets keep the same."""


SAMPLE = Step(
    "sample",
    SampleConfig,
    "plugins.experiments.sample:draw_rows",
    reasons={"sampled": DropReason("The row is not in the random part that is kept.", "`curate.sample.share`")},
    order=900,
    weight=1,
)


def draw_rows(work: "Work[CurateConfig]", shards: "Sequence[RawShard]") -> StepOutput:
    """Draw the rows of each raw shard."""
    from tasks.curate.stage import group_shards, run_shards
    from tasks.engine.map_parts import map_parts

    map_parts(run_shards, group_shards(draw_shard, shards), work.draft, work.context)
    return StepOutput()


def draw_shard(draft: Draft, shard: "RawShard") -> Record:
    """Write which rows of a raw shard are kept.

    The low half of a uid decides: where equal rows were dropped before, those with the least uid were kept.
    """
    import pyarrow as pa

    from dataops.kernels.hashes import uid_halves
    from tasks.curate.stage import put_result, read_kept

    uids = read_kept(draft, shard, SAMPLE.table)["uid"].combine_chunks().cast(pa.string())
    limit = getattr(shard.config, SAMPLE.table).share * 2**64
    reasons = [None if low < limit else "sampled" for low in uid_halves(uids)[:, 1].tolist()]
    put_result(draft, shard, SAMPLE.table, pa.table({"drop_reason": pa.array(reasons, pa.string())}))
    return Record(task=shard.number)
