"""The optimizer Muon, for the matrices of transformer blocks."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dataops.errors import ConfigError
from training.model_config import FrozenModel
from training.optimizers import OptimizerBuilder

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from training.config import TrainConfig
    from training.optimizers import Groups


class MuonConfig(FrozenModel):
    """Settings of `optimizer = "muon"`."""

    muon_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Momentum of `optimizer = "muon"`: Muon for the matrices of transformer blocks, AdamW for all else. Its updates are
    scaled to the size of AdamW's, so lr and weight_decay mean the same."""


class _Muon(OptimizerBuilder):
    config = MuonConfig

    def check(self, config: "TrainConfig") -> None:
        if config.sharding != "none":
            raise ValueError('optimizer = "muon" needs whole matrices; set sharding = "none"')

    def build(self, groups: "Groups", config: "TrainConfig") -> "Optimizer":
        from plugins.recipes.muon_optimizer import MuonWithAdamW, is_hidden_matrix

        matrices = groups(is_hidden_matrix)
        if not matrices:
            raise ConfigError('optimizer = "muon": the model trains no matrix of a transformer block; set "adamw"')
        others = groups(lambda n, p: not is_hidden_matrix(n, p))
        return MuonWithAdamW(matrices, others, config, self.settings(config).muon_momentum)


MUON = _Muon()
