"""Rewards made of others, and the way from a recipe's name and parameters to the reward.

| recipe | reward |
| --- | --- |
| `weighted_sum_v1` | the sum of each term's reward times its weight |
| `gate_v1` | that of `reward` where that of `gate` is above `threshold`, else `otherwise` |
| `length_shaped_v1` | that of `reward`, less a penalty that grows with the answer's length |
| `python_v1` | a person's own function: see `python_reward` |
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
from dreadnode_runtime.rewards.recipes import (
    Answer,
    Contains,
    ExactMatch,
    Finite,
    Gsm8k,
    Recipe,
    RowReward,
    Score,
    TrajectoryImitation,
)
from dreadnode_runtime.user_code.python_reward import PythonReward

DEEPEST = 8
"""How deep recipes may be nested."""
NOT_HERE = {
    "task_verifier_v1": "use `exact_match_v1`, or a `python_v1` function that checks the flag",
    "task_env_verifier_v1": "use a `python_v1` reward on the answer",
    "task_env_agent_v1": "use an `environment` with tools, and a `python_v1` reward",
}
"""Recipes of the hosted service that need its tasks, and what to use here."""


def _recipe(value: Any) -> Any:
    return value if isinstance(value, Recipe) else build(value)


Part = Annotated[SerializeAsAny[Recipe], BeforeValidator(_recipe)]


class Term(BaseModel):
    """A reward and how much it counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Finite
    reward: Part


class WeightedSum(Recipe):
    """Add rewards up, each times its weight."""

    name = "weighted_sum_v1"
    terms: Annotated[tuple[Term, ...], Field(min_length=1, max_length=32)]

    @property
    def parts(self) -> Sequence[Recipe]:
        """The terms' rewards."""
        return [term.reward for term in self.terms]

    @property
    def reads_answer(self) -> bool:
        """Whether any term that counts does."""
        return any(term.reward.reads_answer and term.weight for term in self.terms)

    async def score(self, answer: Answer) -> Score:
        """Return the sum; it is unread or wrong if any term is."""
        scores = [await term.reward.score(answer) for term in self.terms]
        value = sum(t.weight * s.value for t, s in zip(self.terms, scores, strict=True))
        error = next((s.error for s in scores if s.error is not None), None)
        return Score(value, any(s.unread for s in scores), error)


class Gate(Recipe):
    """Pay a reward only where another one is above a threshold."""

    name = "gate_v1"
    gate: Part
    reward: Part
    threshold: Finite = 0.0
    otherwise: Finite = 0.0

    @property
    def parts(self) -> Sequence[Recipe]:
        """The gate and the reward behind it."""
        return [self.gate, self.reward]

    @property
    def reads_answer(self) -> bool:
        """Whether one of them does."""
        return self.gate.reads_answer or self.reward.reads_answer

    async def score(self, answer: Answer) -> Score:
        """Return the reward behind the gate; behind a closed one nothing is computed."""
        gate = await self.gate.score(answer)
        if gate.value <= self.threshold:
            return Score(self.otherwise, gate.unread, gate.error)
        behind = await self.reward.score(answer)
        return Score(behind.value, gate.unread or behind.unread, gate.error or behind.error)


class LengthShaped(Recipe):
    """Take off what an answer is too long.

    The penalty is 0 up to `free_tokens`, grows in proportion from there, and is `penalty` from
    `max_tokens` on: the soft overlong punishment of DAPO (Yu et al. 2025, equation 13).
    """

    name = "length_shaped_v1"
    reward: Part
    free_tokens: Annotated[int, Field(ge=0)]
    max_tokens: Annotated[int, Field(ge=1)]
    penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.free_tokens >= self.max_tokens:
            raise ValueError("`free_tokens` must be below `max_tokens`")
        return self

    @property
    def parts(self) -> Sequence[Recipe]:
        """The reward that is shaped."""
        return [self.reward]

    async def score(self, answer: Answer) -> Score:
        """Return the reward less the penalty."""
        score = await self.reward.score(answer)
        beyond = (answer.tokens - self.free_tokens) / (self.max_tokens - self.free_tokens)
        value = score.value - self.penalty * min(max(beyond, 0.0), 1.0)
        return Score(value, score.unread, score.error)


RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe
    for recipe in (
        RowReward,
        Contains,
        ExactMatch,
        TrajectoryImitation,
        Gsm8k,
        WeightedSum,
        Gate,
        LengthShaped,
        PythonReward,
    )
}


def build(recipe: Any) -> Recipe:
    """Return the reward that RECIPE, `{"name": …, "params": {…}}`, describes.

    Raises:
        ValueError: There is no such recipe, or a parameter is wrong.
    """
    if not isinstance(recipe, dict) or not isinstance(recipe.get("name"), str):
        raise ValueError("a reward is an object with `name` and `params`")  # noqa: TRY004
    if unknown := sorted(set(recipe) - {"name", "params"}):
        raise ValueError(f"a reward has `name` and `params`, and no `{unknown[0]}`")
    if _depth(recipe) > DEEPEST:
        raise ValueError(f"rewards may be nested {DEEPEST} deep")
    name = recipe["name"]
    if name in NOT_HERE:
        raise ValueError(f"`{name}` needs the hosted service's tasks; {NOT_HERE[name]}")
    kind = RECIPES.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        known = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(RECIPES)}"
        raise ValueError(f"there is no reward recipe `{name}`; {known}")
    try:
        return kind.model_validate(recipe.get("params") or {})
    except ValidationError as error:
        raise ValueError(_plainly(name, error)) from error


def reward(recipe: Any) -> Recipe:
    """Return the reward of a job.

    Raises:
        JobFailed: It cannot be what the job asks for; the sentence says why.
    """
    try:
        built = build(recipe)
    except ValueError as error:
        raise JobFailed(f"The reward cannot be used: {error}", code="reward") from error
    if not built.reads_answer:
        raise JobFailed(
            f"The reward `{recipe['name']}` pays every answer to a prompt the same, so there is "
            "nothing to learn from it; name one that reads the answer, such as `exact_match_v1` "
            "or `contains_v1`, or combine them with `weighted_sum_v1` or `gate_v1`",
            code="reward",
        )
    return built


def all_parts(recipe: Recipe) -> Iterator[Recipe]:
    """Yield RECIPE and everything that it is made of."""
    yield recipe
    for part in recipe.parts:
        yield from all_parts(part)


def _depth(value: Any) -> int:
    """Return how many recipes are nested in VALUE, itself included."""
    if isinstance(value, dict):
        deepest = max((_depth(item) for item in value.values()), default=0)
        return deepest + (1 if "name" in value else 0)
    if isinstance(value, list):
        return max((_depth(item) for item in value), default=0)
    return 0


def _plainly(name: str, error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part != "params")
    if first["type"] == "value_error":
        return f"`{name}`: {first['ctx']['error']}" if not key else str(first["ctx"]["error"])
    if first["type"] == "missing":
        return f"`{name}` needs `{key}` in its `params`"
    if first["type"] == "extra_forbidden":
        return f"`{name}` has no parameter `{key}`"
    return f"the parameter `{key}` of `{name}` is wrong: {first['msg']}"
