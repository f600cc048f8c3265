"""Combinations of rewards, and the construction of a reward from its name and parameters.

| recipe | reward |
| --- | --- |
| `weighted_sum_v1` | the sum of each term's reward times its weight |
| `gate_v1` | that of `reward` if that of `gate` is above `threshold`, else `otherwise` |
| `length_shaped_v1` | that of `reward` minus a penalty for long completions |
| `math_v1` | whether the final answer equals the expected one mathematically: see `math_answers` |
| `python_v1` | the result of the user's own function: see `python_reward` |
"""

import difflib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.rewards.math_answers import MathAnswer
from dreadnode_runtime.rewards.python_reward import PythonReward
from dreadnode_runtime.rewards.recipes import (
    Completion,
    Contains,
    ExactMatch,
    Finite,
    Gsm8k,
    Recipe,
    RowReward,
    Score,
    TrajectoryImitation,
)

MAX_DEPTH = 8
"""Maximum nesting depth of recipes."""
UNSUPPORTED = {
    "task_verifier_v1": "use `exact_match_v1`, or a `python_v1` function that checks the flag",
    "task_env_verifier_v1": "use a `python_v1` reward",
    "task_env_agent_v1": "use an `environment` with tools, and a `python_v1` reward",
}
"""Recipes of the hosted service that need its tasks, and their replacements here."""


def _recipe(value: Any) -> Any:
    return value if isinstance(value, Recipe) else build(value)


SubRecipe = Annotated[SerializeAsAny[Recipe], BeforeValidator(_recipe)]


class Term(BaseModel):
    """A reward and its weight."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Finite
    reward: SubRecipe


class WeightedSum(Recipe):
    """The weighted sum of rewards."""

    name = "weighted_sum_v1"
    terms: Annotated[tuple[Term, ...], Field(min_length=1, max_length=32)]

    @property
    def parts(self) -> Sequence[Recipe]:
        """The terms' rewards."""
        return [term.reward for term in self.terms]

    @property
    def depends_on_completion(self) -> bool:
        """Whether a term with a weight other than 0 does."""
        return any(term.reward.depends_on_completion and term.weight for term in self.terms)

    async def score(self, completion: Completion) -> Score:
        """Return the sum; it has the failures of its terms."""
        scores = [await term.reward.score(completion) for term in self.terms]
        value = sum(t.weight * s.value for t, s in zip(self.terms, scores, strict=True))
        error = next((s.error for s in scores if s.error is not None), None)
        return Score(value, any(s.extraction_failed for s in scores), error)

    def score_unfinished(self, completion: Completion) -> Score:
        """Return the sum of the terms' rewards of an unfinished completion."""
        scores = [term.reward.score_unfinished(completion) for term in self.terms]
        value = sum(t.weight * s.value for t, s in zip(self.terms, scores, strict=True))
        return Score(value, extraction_failed=True)


class Gate(Recipe):
    """A reward that counts only if another one, the gate, is above a threshold."""

    name = "gate_v1"
    gate: SubRecipe
    reward: SubRecipe
    threshold: Finite = 0.0
    otherwise: Finite = 0.0

    @property
    def parts(self) -> Sequence[Recipe]:
        """The gate and the reward."""
        return [self.gate, self.reward]

    @property
    def depends_on_completion(self) -> bool:
        """Whether one of the two does."""
        return self.gate.depends_on_completion or self.reward.depends_on_completion

    async def score(self, completion: Completion) -> Score:
        """Return the reward, or `otherwise`; a closed gate skips the reward's computation."""
        gate = await self.gate.score(completion)
        if gate.value <= self.threshold:
            return Score(self.otherwise, gate.extraction_failed, gate.error)
        reward = await self.reward.score(completion)
        return Score(
            reward.value,
            gate.extraction_failed or reward.extraction_failed,
            gate.error or reward.error,
        )

    def score_unfinished(self, completion: Completion) -> Score:
        """Return `otherwise`: an unfinished completion passes no gate."""
        return Score(self.otherwise, extraction_failed=True)


class LengthShaped(Recipe):
    """A reward minus a penalty for long completions.

    The penalty is 0 up to `free_tokens`, grows linearly from there, and is `penalty` from
    `max_tokens` on: the soft overlong punishment of DAPO (Yu et al. 2025, equation 13).
    """

    name = "length_shaped_v1"
    reward: SubRecipe
    free_tokens: Annotated[int, Field(ge=0)]
    max_tokens: Annotated[int, Field(ge=1)]
    penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.free_tokens >= self.max_tokens:
            raise ValueError("`free_tokens` must be below `max_tokens`")
        return self

    @property
    def parts(self) -> Sequence[Recipe]:
        """The reward that is shaped."""
        return [self.reward]

    async def score(self, completion: Completion) -> Score:
        """Return the reward minus the penalty."""
        return self._shaped(await self.reward.score(completion), completion)

    def score_unfinished(self, completion: Completion) -> Score:
        """Return the unfinished completion's reward minus the penalty."""
        return self._shaped(self.reward.score_unfinished(completion), completion)

    def _shaped(self, score: Score, completion: Completion) -> Score:
        excess = (completion.tokens - self.free_tokens) / (self.max_tokens - self.free_tokens)
        value = score.value - self.penalty * min(max(excess, 0.0), 1.0)
        return Score(value, score.extraction_failed, score.error)


RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe
    for recipe in (
        RowReward,
        Contains,
        ExactMatch,
        TrajectoryImitation,
        Gsm8k,
        MathAnswer,
        WeightedSum,
        Gate,
        LengthShaped,
        PythonReward,
    )
}


def build(recipe: Any) -> Recipe:
    """Return the reward that RECIPE, `{"name": …, "params": {…}}`, describes.

    Raises:
        ValueError: The recipe is unknown, or a parameter is invalid.
    """
    if not isinstance(recipe, dict) or not isinstance(recipe.get("name"), str):
        raise ValueError("a reward is an object with `name` and `params`")  # noqa: TRY004
    if unknown := sorted(set(recipe) - {"name", "params"}):
        raise ValueError(f"unknown key `{unknown[0]}`; a reward has `name` and `params`")
    if _depth(recipe) > MAX_DEPTH:
        raise ValueError(f"rewards are nested more than {MAX_DEPTH} deep")
    name = recipe["name"]
    if name in UNSUPPORTED:
        raise ValueError(f"`{name}` needs the hosted service's tasks; {UNSUPPORTED[name]}")
    kind = RECIPES.get(name)
    if kind is None:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        known = f"did you mean `{close[0]}`?" if close else f"the recipes are {', '.join(RECIPES)}"
        raise ValueError(f"unknown reward recipe `{name}`; {known}")
    try:
        return kind.model_validate(recipe.get("params") or {})
    except ValidationError as error:
        raise ValueError(_explain(name, error)) from error


def load_reward(recipe: Any) -> Recipe:
    """Return the reward of a job.

    Raises:
        JobFailed: The job cannot use it; the message says why.
    """
    try:
        built = build(recipe)
    except ValueError as error:
        raise JobFailed(f"The reward cannot be used: {error}", code="reward") from error
    if not built.depends_on_completion:
        raise JobFailed(
            f"The reward `{recipe['name']}` gives all completions of a prompt the same reward, so "
            "there is nothing to learn; use one that depends on the completion, such as "
            "`exact_match_v1`, or combine it with one by `weighted_sum_v1` or `gate_v1`",
            code="reward",
        )
    return built


def iterate_recipes(recipe: Recipe) -> Iterator[Recipe]:
    """Yield RECIPE and all of its parts."""
    yield recipe
    for part in recipe.parts:
        yield from iterate_recipes(part)


def _depth(value: Any) -> int:
    """Return the nesting depth of recipes in VALUE, including VALUE."""
    if isinstance(value, dict):
        deepest = max((_depth(item) for item in value.values()), default=0)
        return deepest + (1 if "name" in value else 0)
    if isinstance(value, list):
        return max((_depth(item) for item in value), default=0)
    return 0


def _explain(name: str, error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part != "params")
    if first["type"] == "value_error":
        return f"`{name}`: {first['ctx']['error']}" if not key else str(first["ctx"]["error"])
    if first["type"] == "missing":
        return f"`{name}` needs `{key}` in its `params`"
    if first["type"] == "extra_forbidden":
        return f"unknown parameter `{key}` of `{name}`"
    return f"the parameter `{key}` of `{name}` is invalid: {first['msg']}"
