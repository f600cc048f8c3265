"""The models that the engine itself serves: base models and checkpoints, without jobs."""

from dataclasses import dataclass

from dreadnode_api.auth.tokens import run_key
from dreadnode_api.checkpoints.targets import (
    Target,
    check_trained_on,
    checkpoint_path,
    engine_target,
    unknown_base,
)
from dreadnode_api.serving.service import WEIGHTS_LISTED, ListedModel, ServedModels

KEY_SECONDS = 60
"""How long the key of one question to the engine is valid."""


@dataclass(frozen=True)
class EngineModels(ServedModels):
    """Serves what one holder of an engine's key may sample from.

    Attributes:
        subject: whose key it is; empty for the master key.
        master_key: the engine's.
    """

    subject: str
    master_key: str

    async def find(self, model: str) -> Target:
        """Return the weights that MODEL names: an id, a path, or both with a semicolon between.

        Raises:
            ApiError: they do not exist for this key, or cannot be served.
        """
        served = (await self.engine.capabilities()).models
        base, path = checkpoint_path(model)
        trained_on = model
        if path is not None:
            trained_on = await self.engine.base_model_of(path, key=self._key)
            check_trained_on(base, path, trained_on)
        if trained_on not in served:
            raise unknown_base(trained_on, served)
        return engine_target(self.subject, self.subject, served[trained_on], path)

    async def listed(self) -> list[ListedModel]:
        """Return the base models, and the newest checkpoints to sample from."""
        saved = await self.engine.sampler_checkpoints(WEIGHTS_LISTED, key=self._key)
        return [
            *await self.base_models(),
            *((path, int(made.timestamp()), "checkpoint") for path, made in saved),
        ]

    @property
    def _key(self) -> str | None:
        return run_key(self.master_key, self.subject, KEY_SECONDS) if self.subject else None
